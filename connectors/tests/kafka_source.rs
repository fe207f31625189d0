//! The Kafka source against a real broker.

#[path = "../../tests/src/kafka.rs"]
#[allow(dead_code)]
mod kafka;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use kafka::{Kafka, Produced, finish};
use millstream_connectors::{
    BadRecord, ConnectorError, ErrorKind, Position, Positions, Source, SourceConfig, SourceEvent, SourceReader,
    SplitId, open_source,
};
use rdkafka::message::{Header, OwnedHeaders};

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(40);
const WAIT: Duration = Duration::from_millis(50);

fn config(address: &str, topic: &str, options: &[(&str, &str)]) -> SourceConfig {
    let always =
        [("connector", "kafka"), ("topic", topic), ("bootstrap_servers", address), ("discovery_interval", "300ms")];
    SourceConfig {
        name: "s".into(),
        options: always.iter().chain(options).map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        schema: Some(Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]))),
        metadata: Vec::new(),
        primary_key: Vec::new(),
        base_dir: None,
    }
}

async fn source(kafka: &Kafka, topic: &str, options: &[(&str, &str)]) -> Arc<dyn Source> {
    open_source(config(kafka.address(), topic, options)).await.expect("the source opens")
}

/// What readers gave: values and position by split, and bad records.
#[derive(Default, Debug)]
struct Got {
    values: BTreeMap<SplitId, Vec<i64>>,
    at: Positions,
    bad: Vec<BadRecord>,
}

impl Got {
    fn count(&self) -> usize {
        self.values.values().map(Vec::len).sum()
    }

    fn all(&self) -> Vec<i64> {
        let mut all: Vec<i64> = self.values.values().flatten().copied().collect();
        all.sort_unstable();
        all
    }

    /// Polls once; `None` at the end.
    async fn poll(&mut self, reader: &mut Box<dyn SourceReader>) -> Result<Option<()>, ConnectorError> {
        match reader.poll(1000, WAIT).await? {
            SourceEvent::Chunk(chunk) => {
                let last = self.at.insert(Arc::clone(&chunk.split), chunk.end);
                assert!(last.is_none_or(|last| last < chunk.end), "the position of {} did not move", chunk.split);
                let values = chunk.rows.column(0).as_primitive::<Int64Type>().values();
                self.values.entry(chunk.split).or_default().extend(values);
                self.bad.extend(chunk.bad);
            }
            SourceEvent::Idle => {}
            SourceEvent::End => return Ok(None),
        }
        Ok(Some(()))
    }

    /// Polls all readers until `done`.
    async fn until(&mut self, readers: &mut [Box<dyn SourceReader>], done: impl Fn(&Got) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < LIMIT, "still waiting with {self:?}");
            for reader in readers.iter_mut() {
                self.poll(reader).await.expect("poll");
            }
        }
    }
}

/// Reads everything between the positions.
async fn read(source: &Arc<dyn Source>, from: &Positions, to: &Positions, parallelism: usize) -> Got {
    let mut got = Got::default();
    let start = Instant::now();
    for mut reader in source.open(from, Some(to), parallelism).await.expect("open") {
        while got.poll(&mut reader).await.expect("poll").is_some() {
            assert!(start.elapsed() < LIMIT, "still waiting with {got:?}");
        }
    }
    got
}

fn positions(of: &[(&str, u64)]) -> Positions {
    of.iter().map(|(split, at)| (SplitId::from(*split), Position(*at))).collect()
}

fn payloads(values: std::ops::Range<i64>) -> Vec<String> {
    values.map(|v| format!("{{\"v\": {v}}}")).collect()
}

/// Value `v` to partition `v % partitions`.
fn spread(payloads: &[String], partitions: i32) -> Vec<Produced<'_>> {
    payloads.iter().enumerate().map(|(i, p)| Produced::to(i as i32 % partitions, p.as_bytes())).collect()
}

#[tokio::test]
async fn every_start_resolves_to_concrete_offsets() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("start", 2).await;
    let payloads = payloads(0..20);
    let mut records = spread(&payloads, 2);
    records.iter_mut().enumerate().for_each(|(i, r)| r.timestamp = Some(1_767_225_600_000 + 1000 * (i as i64 / 2)));
    kafka.produce(&topic, &records).await;
    for (start, expected) in [
        ("earliest", [0, 0]),
        ("latest", [10, 10]),
        ("2026-01-01T00:00:04Z", [4, 4]),
        ("1767225603500", [4, 4]),
        ("2030-01-01", [10, 10]),
        ("offsets:0=3,1=10", [3, 10]),
        ("offsets:1=7", [0, 7]),
    ] {
        let source = source(kafka, &topic, &[("start", start)]).await;
        let from = source.start_positions().await.expect("start");
        assert_eq!(from, positions(&[("0", expected[0]), ("1", expected[1])]), "{start}");
        let to = source.end_positions().await.expect("end");
        assert_eq!(to, positions(&[("0", 10), ("1", 10)]));
        let got = read(&source, &from, &to, 1).await;
        assert_eq!(got.count() as u64, 20 - expected[0] - expected[1], "{start}");
    }
    for wrong in ["offsets:0=11", "offsets:2=0"] {
        let error = source(kafka, &topic, &[("start", wrong)]).await.start_positions().await.expect_err(wrong);
        assert_eq!(error.kind, ErrorKind::Config);
        assert!(error.message.contains(&topic), "{error}");
    }
}

#[tokio::test]
async fn a_reader_resumes_from_positions_without_gap_or_overlap() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("resume", 4).await;
    let payloads = payloads(0..20_000);
    kafka.produce(&topic, &spread(&payloads, 4)).await;
    let source = source(kafka, &topic, &[]).await;
    let mut at = source.start_positions().await.expect("start");
    let mut seen = Vec::new();
    // Each round follows the topic for a while and is then dropped, as at a crash.
    for round in 1..=4 {
        let mut readers = source.open(&at, None, 2).await.expect("open");
        assert_eq!(readers.len(), 2);
        let mut got = Got::default();
        got.until(&mut readers, |g| g.count() >= 4000 || seen.len() + g.count() == 20_000).await;
        seen.extend(got.all());
        at.extend(got.at);
        let sum: u64 = at.values().map(|p| p.0).sum();
        assert_eq!(sum, seen.len() as u64, "round {round}");
    }
    let to = source.end_positions().await.expect("end");
    seen.extend(read(&source, &at, &to, 3).await.all());
    seen.sort_unstable();
    assert_eq!(seen, (0..20_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn new_partitions_are_picked_up_from_their_beginning() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("grow", 2).await;
    let first = payloads(0..10);
    kafka.produce(&topic, &spread(&first, 2)).await;
    let source = source(kafka, &topic, &[("start", "latest")]).await;
    let from = source.start_positions().await.expect("start");
    let mut readers = source.open(&from, None, 2).await.expect("open");
    kafka.grow(&topic, 5).await;
    let second = payloads(100..200);
    kafka.produce(&topic, &spread(&second, 5)).await;
    let mut got = Got::default();
    got.until(&mut readers, |g| g.count() == 100).await;
    assert_eq!(got.all(), (100..200).collect::<Vec<_>>());
    assert_eq!(got.at, positions(&[("0", 25), ("1", 25), ("2", 20), ("3", 20), ("4", 20)]));
}

#[tokio::test]
async fn poison_records_are_reported_with_their_place_and_stop_nothing() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("poison", 1).await;
    let bodies = ["{\"v\": 1}", "not json", "{\"v\": \"x\"}", "{\"v\": 2}", "", "{\"v\": 3}"];
    let mut records: Vec<Produced> = bodies.iter().map(|b| Produced::to(0, b.as_bytes())).collect();
    records.insert(3, Produced { key: Some(b"k"), ..Produced::default() });
    kafka.produce(&topic, &records).await;
    let source = source(kafka, &topic, &[]).await;
    let got = read(&source, &positions(&[]), &source.end_positions().await.expect("end"), 1).await;
    assert_eq!(got.all(), [1, 2, 3]);
    assert_eq!(got.at, positions(&[("0", 7)]));
    let places: Vec<u64> = got.bad.iter().map(|b| b.position.0).collect();
    assert_eq!(places, [1, 2, 3, 5]);
    assert!(got.bad.iter().all(|b| b.origin == topic && &*b.split == "0" && !b.reason.is_empty()));
    assert_eq!(got.bad[0].payload, b"not json");
    assert_eq!(got.bad[1].column.as_deref(), Some("v"));
    assert!(got.bad[2].reason.contains("tombstone"));
}

#[tokio::test]
async fn columns_are_inferred_from_the_records_if_not_declared() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("infer", 2).await;
    let mut undeclared = config(kafka.address(), &topic, &[]);
    undeclared.schema = None;
    let error = open_source(undeclared.clone()).await.err().expect("nothing to infer from");
    assert!(error.kind == ErrorKind::Config && error.message.contains(&topic), "{error}");
    kafka.produce(&topic, &[Produced::to(0, b"{\"v\": 1}"), Produced::to(1, b"{\"v\": 2, \"w\": \"x\"}")]).await;
    let source = open_source(undeclared).await.expect("inferred");
    let mut names: Vec<String> = source.schema().fields().iter().map(|f| f.name().clone()).collect();
    names.sort();
    assert_eq!(names, ["v", "w"]);
}

#[tokio::test]
async fn metadata_columns_say_where_a_record_is_from() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("metadata", 2).await;
    let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some("x") });
    let record = Produced {
        partition: 1,
        key: Some(b"k"),
        payload: Some(b"{\"v\": 1}"),
        timestamp: Some(1_767_225_600_123),
        headers: Some(headers),
    };
    kafka.produce(&topic, &[record]).await;
    let mut config = config(kafka.address(), &topic, &[]);
    let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("+00:00".into()));
    config.metadata = [
        ("key", DataType::Binary),
        ("partition", DataType::Int32),
        ("offset", DataType::Int64),
        ("timestamp", time),
        ("headers", DataType::Utf8View),
    ]
    .into_iter()
    .map(|(key, t)| (key.to_string(), key.to_string(), t))
    .collect();
    let source = open_source(config).await.expect("the source opens");
    let to = source.end_positions().await.expect("end");
    let mut readers = source.open(&positions(&[]), Some(&to), 1).await.expect("open");
    let start = Instant::now();
    let chunk = loop {
        assert!(start.elapsed() < LIMIT);
        match readers[0].poll(10, WAIT).await.expect("poll") {
            SourceEvent::Chunk(c) if c.rows.num_rows() > 0 => break c,
            SourceEvent::End => panic!("no row"),
            _ => {}
        }
    };
    assert_eq!(chunk.rows.schema(), source.schema());
    let text = arrow::util::pretty::pretty_format_batches(&[chunk.rows]).expect("text").to_string();
    let row = r#"| 1 | 6b  | 1         | 0      | 2026-01-01T00:00:00.123Z | [{"key":"h","value":"x"}] |"#;
    assert!(text.contains(row), "{text}");
}

#[tokio::test]
async fn bounded_reads_end_behind_aborted_and_control_records_and_before_open_transactions() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("transactions", 2).await;
    let (a, b, c) = (payloads(0..10), payloads(10..20), payloads(20..30));
    kafka.transaction(&topic, &spread(&a, 2), true).await;
    kafka.transaction(&topic, &spread(&b, 2), false).await;
    let source = source(kafka, &topic, &[]).await;
    // 5 committed + marker + 5 aborted + marker.
    let to = source.end_positions().await.expect("end");
    assert_eq!(to, positions(&[("0", 12), ("1", 12)]));
    let from = source.start_positions().await.expect("start");
    let got = read(&source, &from, &to, 2).await;
    assert_eq!((got.all(), &got.at), ((0..10).collect(), &to));
    // From inside the invisible tail.
    let got = read(&source, &positions(&[("0", 7), ("1", 11)]), &to, 1).await;
    assert_eq!((got.count(), &got.at), (0, &to));
    // A bound inside it.
    let inside = positions(&[("0", 8)]);
    let got = read(&source, &from, &inside, 1).await;
    assert_eq!((got.count(), &got.at), (5, &inside));

    // Follow: the position passes the tail, and waits for the open transaction.
    let mut readers = source.open(&from, None, 1).await.expect("open");
    let mut got = Got::default();
    got.until(&mut readers, |g| g.at == to).await;
    let open = kafka.begin(&topic, &spread(&c, 2)).await;
    assert_eq!(source.end_positions().await.expect("end"), to);
    for _ in 0..5 {
        got.poll(&mut readers[0]).await.expect("poll");
    }
    assert_eq!((got.count(), &got.at), (10, &to));
    finish(open, true).await;
    got.until(&mut readers, |g| g.at == positions(&[("0", 18), ("1", 18)])).await;
    assert_eq!(got.count(), 20);
}

async fn fails(readers: &mut [Box<dyn SourceReader>]) -> ConnectorError {
    let start = Instant::now();
    let mut got = Got::default();
    loop {
        assert!(start.elapsed() < LIMIT, "no error, {got:?}");
        match got.poll(&mut readers[0]).await {
            Ok(_) => {}
            Err(e) if e.kind == ErrorKind::Retryable => {}
            Err(e) => return e,
        }
    }
}

#[tokio::test]
async fn records_that_are_gone_are_an_error_that_names_the_range() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("gone", 2).await;
    let payloads = payloads(0..20);
    kafka.produce(&topic, &spread(&payloads, 2)).await;
    kafka.trim(&topic, 1, 6).await;
    let source = source(kafka, &topic, &[]).await;
    let start = source.start_positions().await.expect("start");
    assert_eq!(start, positions(&[("0", 0), ("1", 6)]));
    assert_eq!(read(&source, &start, &source.end_positions().await.expect("end"), 1).await.count(), 14);
    let mut readers = source.open(&positions(&[("0", 0), ("1", 2)]), None, 1).await.expect("open");
    let error = fails(&mut readers).await;
    assert_eq!(error.kind, ErrorKind::Lost);
    assert_eq!(error.message, format!("4 records at {topic}/1 [2, 6) are gone: the log starts at 6"));
    // It stays so.
    assert_eq!(fails(&mut readers).await.message, error.message);
    // A position past the end: the topic is not the one it was.
    let mut readers = source.open(&positions(&[("0", 500), ("1", 6)]), None, 1).await.expect("open");
    let error = fails(&mut readers).await;
    assert!(error.kind == ErrorKind::Lost && error.message.contains("ends at 10"), "{error}");
    // A bounded read of what is gone does not end as if all were well.
    let to = source.end_positions().await.expect("end");
    let mut readers = source.open(&positions(&[]), Some(&to), 1).await.expect("open");
    assert_eq!(fails(&mut readers).await.kind, ErrorKind::Lost);
}

#[tokio::test]
async fn a_deleted_topic_is_lost() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("deleted", 1).await;
    kafka.produce(&topic, &[Produced::to(0, b"{\"v\": 1}")]).await;
    let source = source(kafka, &topic, &[]).await;
    let from = source.start_positions().await.expect("start");
    let mut readers = source.open(&from, None, 1).await.expect("open");
    let mut got = Got::default();
    got.until(&mut readers, |g| g.count() == 1).await;
    kafka.delete(&topic).await;
    let error = fails(&mut readers).await;
    assert_eq!(error.kind, ErrorKind::Lost, "{error}");
    assert!(error.message.contains(&topic), "{error}");
    assert_eq!(source.end_positions().await.expect_err("no topic").kind, ErrorKind::Lost);
}

#[tokio::test]
async fn a_wrong_address_or_topic_is_an_error_at_create_within_seconds() {
    let start = Instant::now();
    let source = open_source(config("127.0.0.1:1", "t", &[("connect_timeout", "1s")])).await.expect("opens");
    let error = source.start_positions().await.expect_err("nobody listens");
    assert_eq!(error.kind, ErrorKind::Config);
    assert!(error.message.contains("127.0.0.1:1") && error.message.contains("\"t\""), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(source.end_positions().await.expect_err("nobody listens").kind, ErrorKind::Retryable);
    drop(source);

    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("create", 1).await;
    let wrong = topic.replace("create", "crate");
    let error = self::source(kafka, &wrong, &[]).await.start_positions().await.expect_err("no such topic");
    assert_eq!(error.kind, ErrorKind::Config);
    assert!(error.message.contains(&format!("topic \"{wrong}\" does not exist")), "{error}");
    assert_eq!(error.hint, Some(format!("Did you mean \"{topic}\"?")));
}

#[tokio::test]
async fn a_broker_that_restarts_is_read_on_without_loss() {
    let Some(kafka) = Kafka::own() else { return };
    let topic = kafka.topic("restart", 2).await;
    let (first, second) = (payloads(0..100), payloads(100..200));
    kafka.produce(&topic, &spread(&first, 2)).await;
    let source = source(&kafka, &topic, &[("connect_timeout", "1s")]).await;
    let from = source.start_positions().await.expect("start");
    let mut readers = source.open(&from, None, 1).await.expect("open");
    let mut got = Got::default();
    got.until(&mut readers, |g| g.count() == 100).await;
    kafka.stop();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < LIMIT, "no word of the broker that is down");
        match got.poll(&mut readers[0]).await {
            Ok(_) => {}
            Err(e) => {
                assert_eq!(e.kind, ErrorKind::Retryable, "{e}");
                break;
            }
        }
    }
    // Opening and reading while it is down works too.
    let mut later = self::source(&kafka, &topic, &[]).await.open(&got.at, None, 1).await.expect("open");
    kafka.start();
    kafka.produce(&topic, &spread(&second, 2)).await;
    let start = Instant::now();
    let mut late = Got::default();
    while got.count() < 200 || late.count() < 100 {
        assert!(start.elapsed() < LIMIT, "not healed: {got:?} {late:?}");
        for result in [got.poll(&mut readers[0]).await, late.poll(&mut later[0]).await] {
            assert!(result.is_ok() || result.is_err_and(|e| e.kind == ErrorKind::Retryable));
        }
    }
    assert_eq!(got.all(), (0..200).collect::<Vec<_>>());
    assert_eq!(late.all(), (100..200).collect::<Vec<_>>());
}

/// `cargo test -p millstream-connectors --test kafka_source -- --ignored --nocapture rate`
#[tokio::test]
#[ignore = "measures, takes a while"]
async fn rate_of_bounded_reads() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("rate", 2).await;
    let mut lines = Vec::new();
    millstream_connectors::nexmark::write_json(millstream_connectors::nexmark::Kind::Bid, 0..1_000_000, &mut lines);
    let lines: Vec<&[u8]> = lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    let records: Vec<Produced> = lines.iter().enumerate().map(|(i, l)| Produced::to(i as i32 % 2, l)).collect();
    kafka.produce(&topic, &records).await;
    for (format, columns) in [
        ("raw", Schema::new(vec![Field::new("line", DataType::Utf8View, true)])),
        (
            "json",
            Schema::new(
                millstream_connectors::nexmark::schema(millstream_connectors::nexmark::Kind::Bid).fields().clone(),
            ),
        ),
    ] {
        for parallelism in [1, 2] {
            let mut config = config(kafka.address(), &topic, &[("format", format)]);
            config.schema = Some(Arc::new(columns.clone()));
            let source = open_source(config).await.expect("opens");
            let to = source.end_positions().await.expect("end");
            let start = Instant::now();
            let readers = source.open(&positions(&[]), Some(&to), parallelism).await.expect("open");
            let tasks: Vec<_> = readers
                .into_iter()
                .map(|mut reader| {
                    tokio::spawn(async move {
                        let mut rows = 0;
                        while let SourceEvent::Chunk(c) = reader.poll(8192, LIMIT).await.expect("poll") {
                            rows += c.rows.num_rows();
                        }
                        rows
                    })
                })
                .collect();
            let mut rows = 0;
            for task in tasks {
                rows += task.await.expect("no panic");
            }
            assert_eq!(rows, lines.len());
            println!("{format} x{parallelism}: {:.0} records/s", rows as f64 / start.elapsed().as_secs_f64());
        }
    }
}
