//! Kafka topics.
//!
//! - A split is a partition (`"3"`), a position the next offset. Positions are the engine's: partitions are assigned,
//!   never subscribed; nothing is committed to the cluster.
//! - `start` is resolved to concrete offsets once, at CREATE ([`Source::start_positions`]), where a wrong address or
//!   topic is a `Config` error. Opening the source of a stream that exists asks the cluster nothing, so a restart
//!   works while brokers are down; what then fails is `Retryable`.
//! - Reading is `read_committed` unless `properties.isolation.level` says otherwise: ends are ends of what is
//!   committed, and positions pass over aborted records and transaction markers.
//! - A position that the log does not have (retention, a deleted topic) is `Lost`, with topic, partition and range.
//!   There is no reset.
//! - Every reader has one thread that fetches and decodes, so `parallelism` readers use as many cores. What it has
//!   decoded ahead is bounded by rows and bytes.
//!
//! Not noticed: a topic that is deleted and created anew under its name while the stream is not being read, if it has
//! grown past the position since. The client library has no call for topic ids.

mod chunk;
mod client;
mod reader;
mod settings;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::{ConnectorError, Position, Positions, Result, Source, SourceConfig, SourceReader, SplitId};
use chunk::{Chunker, MetadataColumns};
use client::{Admin, Asker, Context, When};
use reader::Reader;
use settings::{Settings, Start};
use worker::{Part, Worker};

/// Records looked at to infer columns.
const SAMPLE_RECORDS: usize = 1000;
const SAMPLE_BYTES: usize = 4 << 20;

/// Opens a kafka source. Asks the cluster only if columns have to be inferred.
pub async fn open(config: SourceConfig) -> Result<Arc<dyn Source>> {
    let settings = Arc::new(Settings::new(&config)?);
    let metadata = MetadataColumns::new(&config.metadata)?;
    let admin = Admin::new(Arc::clone(&settings))?;
    let payload = match &config.schema {
        Some(schema) => Arc::clone(schema),
        None => infer(&admin).await?,
    };
    // Fails now on a column the format cannot give.
    settings.format.decoder(Arc::clone(&payload))?;
    let schema = metadata.append_to(&payload);
    Ok(Arc::new(KafkaSource { settings, admin, payload, metadata, schema }))
}

/// A stream over a topic.
struct KafkaSource {
    settings: Arc<Settings>,
    admin: Admin,
    payload: SchemaRef,
    metadata: MetadataColumns,
    schema: SchemaRef,
}

fn positions(offsets: BTreeMap<i32, u64>) -> Positions {
    offsets.into_iter().map(|(partition, offset)| (split_id(partition), Position(offset))).collect()
}

fn split_id(partition: i32) -> SplitId {
    partition.to_string().into()
}

#[async_trait]
impl Source for KafkaSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn start_positions(&self) -> Result<Positions> {
        let start = self.settings.start.clone();
        self.admin.ask(move |asker| Ok(positions(resolve(&asker, &start)?))).await
    }

    async fn end_positions(&self) -> Result<Positions> {
        self.admin
            .ask(|asker| {
                let partitions = asker.partitions(When::Running)?;
                Ok(positions(asker.bounds(&partitions, Offset::End, When::Running)?))
            })
            .await
    }

    fn bounded(&self) -> bool {
        false
    }

    async fn open(
        &self,
        from: &Positions,
        to: Option<&Positions>,
        parallelism: usize,
    ) -> Result<Vec<Box<dyn SourceReader>>> {
        let mut parts: BTreeMap<i32, Part> = BTreeMap::new();
        for split in to.unwrap_or(from).keys() {
            let partition = split.parse().ok().filter(|p: &i32| *p >= 0).ok_or_else(|| {
                ConnectorError::bug(format!("\"{split}\" is not a partition of topic \"{}\"", self.settings.topic))
            })?;
            let next = from.get(split).map_or(0, |p| p.0);
            let to = to.and_then(|to| to.get(split)).map(|p| p.0);
            parts.insert(partition, Part { partition, split: Arc::clone(split), next, to });
        }
        // Partitions that are not known yet are shared out by the same rule when they appear.
        let readers = parallelism.clamp(1, parts.len().max(1));
        let mut groups: Vec<Vec<Part>> = (0..readers).map(|_| Vec::new()).collect();
        for (partition, part) in parts {
            groups[partition as usize % readers].push(part);
        }
        let mut out: Vec<Box<dyn SourceReader>> = Vec::with_capacity(readers);
        for (index, parts) in groups.into_iter().enumerate() {
            let decoder = self.settings.format.decoder(Arc::clone(&self.payload))?;
            let chunker = Chunker::new(decoder, self.metadata.clone(), self.settings.topic.clone());
            let settings = Arc::clone(&self.settings);
            let bounded = to.is_some();
            let name = format!("kafka-{index}-{}", self.settings.name);
            let reader = Reader::start(name, move |outlet| {
                Worker::new(settings, chunker, parts, bounded, (index, readers), outlet)
            })?;
            out.push(Box::new(reader));
        }
        Ok(out)
    }
}

/// The offsets that `start` stands for now.
fn resolve(asker: &Asker<'_>, start: &Start) -> Result<BTreeMap<i32, u64>> {
    let when = When::Create;
    let partitions = asker.partitions(when)?;
    let bounds = |at| asker.bounds(&partitions, at, when);
    match start {
        Start::Earliest => bounds(Offset::Beginning),
        Start::Latest => bounds(Offset::End),
        Start::Time(ms) => {
            let at: Vec<(i32, Offset)> = partitions.iter().map(|p| (*p, Offset::Offset(*ms))).collect();
            let found = asker.offsets(&at, when)?;
            let end = bounds(Offset::End)?;
            // A record that is not committed yet may be found past the end.
            Ok(end
                .into_iter()
                .map(|(p, end)| (p, found.get(&p).copied().flatten().map_or(end, |o| o.min(end))))
                .collect())
        }
        Start::Offsets(given) => {
            let topic = &asker.settings.topic;
            let (mut out, end) = (bounds(Offset::Beginning)?, bounds(Offset::End)?);
            for (partition, offset) in given {
                let (Some(low), Some(high)) = (out.get(partition).copied(), end.get(partition).copied()) else {
                    return Err(ConnectorError::config(format!(
                        "option \"start\" names partition {partition}, but topic \"{topic}\" has {} partitions",
                        partitions.len()
                    )));
                };
                if !(low..=high).contains(offset) {
                    return Err(ConnectorError::config(format!(
                        "option \"start\": offset {offset} is not in {topic}/{partition}, which has [{low}, {high})"
                    )));
                }
                out.insert(*partition, *offset);
            }
            Ok(out)
        }
    }
}

/// Columns from the first records of the topic.
async fn infer(admin: &Admin) -> Result<SchemaRef> {
    let (format, sample) = admin
        .ask(|asker| {
            let partitions = asker.partitions(When::Create)?;
            let low = asker.bounds(&partitions, Offset::Beginning, When::Create)?;
            let settings = asker.settings;
            Ok((settings.format.clone(), sample(settings, &low)?))
        })
        .await?;
    crate::format::infer::infer_schema(&format, sample.iter().map(Vec::as_slice))
}

fn sample(settings: &Settings, from: &BTreeMap<i32, u64>) -> Result<Vec<Vec<u8>>> {
    let fail = |e: KafkaError| ConnectorError::config(format!("sample of topic \"{}\": {e}", settings.topic));
    let consumer: BaseConsumer<Context> =
        settings.client(true).create_with_context(Context::new(&settings.name)).map_err(fail)?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in from {
        list.add_partition_offset(&settings.topic, *partition, Offset::Offset(*offset as i64)).map_err(fail)?;
    }
    consumer.assign(&list).map_err(fail)?;
    let deadline = Instant::now() + settings.timeout;
    let (mut out, mut bytes, mut ended) = (Vec::new(), 0, 0);
    while out.len() < SAMPLE_RECORDS && bytes < SAMPLE_BYTES && ended < from.len() && Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                if let Some(payload) = message.payload() {
                    bytes += payload.len();
                    out.push(payload.to_vec());
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(e)) => return Err(fail(e)),
        }
    }
    if out.is_empty() {
        return Err(ConnectorError::config(format!(
            "topic \"{}\" has no records to infer columns from",
            settings.topic
        ))
        .hint("Declare the columns."));
    }
    Ok(out)
}
