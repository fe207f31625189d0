//! The thread of a reader: fetches messages of its partitions, decodes them, and keeps their positions.
//!
//! - Partitions are assigned at explicit offsets; there is no group, no commit and no reset: an offset that the log
//!   does not have is an error.
//! - The position of a partition moves past what is not visible (aborted transactions, their markers, compacted
//!   records) with the client's own position, which counts only what was taken from its queue.
//! - A bounded partition is done when its position reaches the bound; or when the client has met the end of the
//!   partition and the log's end is at or past the bound, for a tail that holds no record at all.
//! - New partitions are found by looking at the topic's metadata from time to time; the same look finds a topic that
//!   was deleted and a cluster that does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::chunk::Chunker;
use super::client::{Asker, Context, When};
use super::reader::{Note, Outlet};
use super::settings::Settings;
use crate::{ConnectorError, ErrorKind, Result, SplitId};

/// Longest wait for a message, so that a reader that is gone is noticed.
const POLL: Duration = Duration::from_millis(100);
/// Bytes of payload in one round.
const ROUND_BYTES: usize = 4 << 20;
/// Pause before a client that failed is made anew.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Least time between reports of trouble that may pass.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);
/// Looks at the metadata that must agree before a topic counts as deleted: a broker that is starting may not know
/// its topics yet.
const MISSING_LOOKS: u32 = 3;

/// A partition being read.
pub(super) struct Part {
    pub partition: i32,
    pub split: SplitId,
    /// The next offset.
    pub next: u64,
    pub to: Option<u64>,
}

impl Part {
    fn done(&self) -> bool {
        self.to.is_some_and(|to| self.next >= to)
    }
}

/// Why a round ended the use of a client.
enum Exit {
    /// The reader is gone, or all is done or lost.
    Stop,
    /// Go on with a new client from the positions.
    Restart,
}

/// One round's messages of a part.
type Batch<'c> = Vec<BorrowedMessage<'c>>;

/// Reads the partitions with `partition % readers == index`.
pub(super) struct Worker {
    settings: Arc<Settings>,
    chunker: Chunker,
    parts: Vec<Part>,
    bounded: bool,
    readers: i32,
    index: i32,
    outlet: Outlet,
    /// Index into `parts` by partition.
    places: Vec<Option<usize>>,
    next_look: Instant,
    missing: u32,
    last_complaint: Option<Instant>,
}

impl Worker {
    pub fn new(
        settings: Arc<Settings>,
        chunker: Chunker,
        parts: Vec<Part>,
        bounded: bool,
        (index, readers): (usize, usize),
        outlet: Outlet,
    ) -> Self {
        let next_look = Instant::now();
        let (index, readers) = (index as i32, readers as i32);
        let mut worker = Self {
            settings,
            chunker,
            parts,
            bounded,
            readers,
            index,
            outlet,
            places: Vec::new(),
            next_look,
            missing: 0,
            last_complaint: None,
        };
        worker.place();
        worker
    }

    /// Runs until the reader is gone, the bounds are reached, or data is lost.
    pub fn run(mut self) {
        loop {
            if self.all_done() {
                self.outlet.send(Note::End);
                return;
            }
            match self.use_client() {
                Ok(Exit::Stop) => return,
                Ok(Exit::Restart) => {}
                Err(e) => {
                    let last = e.kind != ErrorKind::Retryable;
                    if !self.outlet.send(Note::Error(e)) || last {
                        return;
                    }
                }
            }
            let until = Instant::now() + RESTART_PAUSE;
            while Instant::now() < until {
                if self.outlet.closed() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn all_done(&self) -> bool {
        self.bounded && self.parts.iter().all(Part::done)
    }

    fn place(&mut self) {
        let length = self.parts.iter().map(|p| p.partition as usize + 1).max().unwrap_or(0);
        self.places = vec![None; length];
        for (i, part) in self.parts.iter().enumerate() {
            self.places[part.partition as usize] = Some(i);
        }
    }

    fn part(&mut self, partition: i32) -> Option<(usize, &mut Part)> {
        let i = self.places.get(usize::try_from(partition).ok()?).copied().flatten()?;
        Some((i, &mut self.parts[i]))
    }

    /// Assigns the partitions to a new client and reads until something is in the way.
    fn use_client(&mut self) -> Result<Exit> {
        let consumer: BaseConsumer<Context> =
            self.settings.client(true).create_with_context(Context::new(&self.settings.name)).map_err(|e| {
                ConnectorError::config(format!("Kafka client for topic \"{}\": {e}", self.settings.topic))
            })?;
        self.assign(&consumer)?;
        loop {
            if self.outlet.closed() {
                return Ok(Exit::Stop);
            }
            self.look(&consumer)?;
            if let Some(exit) = self.round(&consumer)? {
                return Ok(exit);
            }
        }
    }

    /// Assigns all parts that are not done at their positions.
    fn assign(&self, consumer: &BaseConsumer<Context>) -> Result<()> {
        let mut list = TopicPartitionList::with_capacity(self.parts.len());
        for part in self.parts.iter().filter(|p| !p.done()) {
            list.add_partition_offset(&self.settings.topic, part.partition, Offset::Offset(part.next as i64))
                .map_err(|e| self.bug("assign", &e))?;
        }
        consumer.assign(&list).map_err(|e| self.bug("assign", &e))
    }

    fn bug(&self, what: &str, error: &KafkaError) -> ConnectorError {
        ConnectorError::bug(format!("{what} on topic \"{}\": {error}", self.settings.topic))
    }

    fn asker<'a>(&'a self, consumer: &'a BaseConsumer<Context>) -> Asker<'a> {
        Asker { settings: &self.settings, consumer, serve: false }
    }

    /// Looks at the topic if it is time: takes new partitions, notices that it is gone.
    fn look(&mut self, consumer: &BaseConsumer<Context>) -> Result<()> {
        if Instant::now() < self.next_look {
            return Ok(());
        }
        let found = self.asker(consumer).partitions(When::Running);
        self.next_look = Instant::now() + self.settings.discovery;
        let found = match found {
            Ok(found) => found,
            Err(e) if e.kind == ErrorKind::Lost => return self.missed(e),
            Err(e) => {
                // The client goes on trying by itself; the user must hear of it.
                self.complain(e);
                return Ok(());
            }
        };
        if let Some(gone) = self.parts.iter().find(|p| !found.contains(&p.partition)) {
            let (partition, topic) = (gone.partition, &self.settings.topic);
            let error = ConnectorError::lost(format!("partition {partition} of topic \"{topic}\" is gone"))
                .hint("The topic was deleted and created anew with fewer partitions. Drop the stream and create it.");
            return self.missed(error);
        }
        self.missing = 0;
        if self.bounded {
            return Ok(());
        }
        let mut fresh = false;
        for partition in found {
            if partition % self.readers == self.index && self.part(partition).is_none() {
                tracing::info!(target: "kafka", stream = %self.settings.name, topic = %self.settings.topic, partition,
                    "new partition");
                self.parts.push(Part { partition, split: partition.to_string().into(), next: 0, to: None });
                fresh = true;
            }
        }
        if fresh {
            self.place();
            self.assign(consumer)?;
        }
        Ok(())
    }

    fn missed(&mut self, error: ConnectorError) -> Result<()> {
        self.missing += 1;
        if self.missing >= MISSING_LOOKS {
            return Err(error);
        }
        self.next_look = Instant::now() + self.settings.discovery.min(Duration::from_secs(1));
        Ok(())
    }

    /// Takes what is there, up to a bound, and sends it.
    fn round(&mut self, consumer: &BaseConsumer<Context>) -> Result<Option<Exit>> {
        let rows_max = self.outlet.rows();
        let before: Vec<u64> = self.parts.iter().map(|p| p.next).collect();
        let mut batches: Vec<Batch<'_>> = Vec::new();
        batches.resize_with(self.parts.len(), Vec::new);
        let (mut rows, mut bytes) = (0, 0);
        let mut ends: Vec<i32> = Vec::new();
        let mut failed = None;
        let mut wait = POLL.min(self.next_look.saturating_duration_since(Instant::now()));
        let mut over = false;
        while rows < rows_max && bytes < ROUND_BYTES {
            match consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let offset = message.offset().unsigned_abs();
                    if let Some((i, part)) = self.part(message.partition())
                        && offset >= part.next
                    {
                        if part.to.is_some_and(|to| offset >= to) {
                            // The records up to the bound are not visible, or are here already.
                            part.next = part.to.unwrap_or(offset);
                            over = true;
                        } else {
                            part.next = offset + 1;
                            rows += 1;
                            bytes += message.payload_len() + message.key_len();
                            batches[i].push(message);
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => ends.push(partition),
                Some(Err(e)) => {
                    failed = Some(e);
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        if rows == 0 || !ends.is_empty() {
            self.pass_gaps(consumer, &ends)?;
        }
        let mut chunks = Vec::new();
        for (i, messages) in batches.iter().enumerate() {
            let part = &self.parts[i];
            if messages.is_empty() && part.next == before[i] {
                continue;
            }
            chunks.push(self.chunker.chunk(&part.split, messages, part.next)?);
        }
        drop(batches);
        if !chunks.is_empty() && !self.outlet.send(Note::Chunks(chunks)) {
            return Ok(Some(Exit::Stop));
        }
        if self.all_done() {
            self.outlet.send(Note::End);
            return Ok(Some(Exit::Stop));
        }
        if over {
            // Do not fetch on past a bound.
            self.assign(consumer)?;
        }
        match failed {
            Some(e) => self.failed(consumer, &e),
            None => Ok(None),
        }
    }

    /// Moves positions past what is not visible.
    fn pass_gaps(&mut self, consumer: &BaseConsumer<Context>, ends: &[i32]) -> Result<()> {
        let positions = consumer.position().map_err(|e| self.bug("position", &e))?;
        for element in positions.elements() {
            if let Offset::Offset(at) = element.offset()
                && let Ok(at) = u64::try_from(at)
                && let Some((_, part)) = self.part(element.partition())
            {
                part.next = part.next.max(part.to.map_or(at, |to| at.min(to)));
            }
        }
        if !self.bounded {
            return Ok(());
        }
        let short: Vec<i32> =
            self.parts.iter().filter(|p| !p.done() && ends.contains(&p.partition)).map(|p| p.partition).collect();
        if short.is_empty() {
            return Ok(());
        }
        let ends = self.asker(consumer).bounds(&short, Offset::End, When::Running)?;
        for (partition, end) in ends {
            if let Some((_, part)) = self.part(partition)
                && let Some(to) = part.to
                && end >= to
            {
                part.next = to;
            }
        }
        Ok(())
    }

    fn failed(&mut self, consumer: &BaseConsumer<Context>, error: &KafkaError) -> Result<Option<Exit>> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                self.check_range(consumer)?;
                Ok(Some(Exit::Restart))
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                // The metadata decide.
                self.next_look = Instant::now();
                Ok(None)
            }
            // The group is only a name: its coordinator is not needed.
            Some(Code::GroupAuthorizationFailed | Code::CoordinatorNotAvailable | Code::NotCoordinator) => Ok(None),
            code => {
                let context = consumer.context().last_error();
                let Settings { topic, brokers, .. } = &*self.settings;
                let reason = match (code, context) {
                    (Some(Code::AllBrokersDown | Code::BrokerTransportFailure), Some(reason)) => reason,
                    _ => error.to_string(),
                };
                let note = ConnectorError::retryable(format!("reading topic \"{topic}\" from \"{brokers}\": {reason}"));
                if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
                    return Err(note);
                }
                self.complain(note);
                Ok(None)
            }
        }
    }

    /// Tells of trouble that may pass. A client that cannot connect reports every attempt, so most reports are dropped.
    fn complain(&mut self, error: ConnectorError) {
        if self.last_complaint.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            self.last_complaint = Some(Instant::now());
            self.outlet.try_send(Note::Error(error));
        }
    }

    /// Finds the partition whose position its log does not have.
    fn check_range(&self, consumer: &BaseConsumer<Context>) -> Result<()> {
        let mine: Vec<i32> = self.parts.iter().filter(|p| !p.done()).map(|p| p.partition).collect();
        let low = self.asker(consumer).bounds(&mine, Offset::Beginning, When::Running)?;
        let high = self.asker(consumer).bounds(&mine, Offset::End, When::Running)?;
        let topic = &self.settings.topic;
        for part in self.parts.iter().filter(|p| !p.done()) {
            let (partition, next) = (part.partition, part.next);
            let low = low.get(&partition).copied().unwrap_or(0);
            let high = high.get(&partition).copied().unwrap_or(u64::MAX);
            if next < low {
                return Err(ConnectorError::lost(format!(
                    "{} records at {topic}/{partition} [{next}, {low}) are gone: the log starts at {low}",
                    low - next
                ))
                .hint("Retention or a deletion removed them before they were read."));
            }
            if next > high {
                return Err(ConnectorError::lost(format!(
                    "{topic}/{partition} ends at {high}, before the position {next}: its records are gone"
                ))
                .hint("The topic was deleted and created anew, or an unclean leader election cut it."));
            }
        }
        Ok(())
    }
}
