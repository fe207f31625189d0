//! Five Nexmark views over a topic of a real broker, while the server is killed with SIGKILL again and again: at the
//! end every view equals the same SELECT over the whole topic, and what DuckDB computes from the same events; every
//! poison record is in `ms.errors` exactly once.
//!
//! `MILLSTREAM_EVENTS` (default 100 000) and `MILLSTREAM_KILLS` (default 3) set the length.

use std::io::Write as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use millstream_connectors::nexmark::{DEFAULT_GAP_US, DEFAULT_START_US, Nexmark};
use millstream_tests::kafka::Kafka;
use millstream_tests::nexmark::{GROUP, count, envelope_columns, envelope_views, query, write_envelopes};
use millstream_tests::python::DuckDb;
use millstream_tests::server::{Server, ServerOptions, explain};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio_postgres::Client;

const PARTITIONS: i32 = 4;
const VIEWS: [&str; 5] = ["q1", "q3", "q4", "q5", "q7"];
/// Groups of events produced at a time.
const CHUNK: u64 = 20;
/// A poison record after so many groups.
const POISON_EVERY: u64 = 199;
/// Records no row can be made of.
const POISON: [&str; 3] =
    ["{\"event_type\":2,\"bid\":{", "{\"event_type\":\"bid\"}", "{\"event_type\":2,\"bid\":{\"auction\":\"none\"}}"];

/// A poison record: partition, offset, payload.
type Poison = (i32, i64, &'static str);

/// Produces all events, as far as `allowed` lets it, and writes them to a file. Gives the poison records.
fn produce(
    kafka: &Kafka,
    topic: &str,
    events: u64,
    file: &Path,
    allowed: &AtomicU64,
    produced: &AtomicU64,
) -> Vec<Poison> {
    let producer: ThreadedProducer<DefaultProducerContext> =
        kafka.client().set("linger.ms", "5").set("enable.idempotence", "true").create().expect("a producer");
    let mut file = std::io::BufWriter::new(std::fs::File::create(file).expect("a file"));
    // Ten times the usual gap: the windows are small, and there are many.
    let generator = Nexmark::with_time(11, DEFAULT_START_US, 10 * DEFAULT_GAP_US);
    let mut offsets = [0i64; PARTITIONS as usize];
    let mut poison = Vec::new();
    let mut send = |partition: i32, payload: &[u8]| {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(payload);
        while let Err((e, back)) = producer.send(record) {
            assert!(matches!(e, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "produce to {topic}: {e}");
            std::thread::sleep(Duration::from_millis(5));
            record = back;
        }
        let offset = offsets[partition as usize];
        offsets[partition as usize] += 1;
        offset
    };
    let mut lines = Vec::new();
    for from in (0..events).step_by((CHUNK * GROUP) as usize) {
        while allowed.load(Ordering::Relaxed) <= from {
            std::thread::sleep(Duration::from_millis(2));
        }
        let to = (from + CHUNK * GROUP).min(events);
        lines.clear();
        write_envelopes(&generator, from..to, &mut lines);
        file.write_all(&lines).expect("written");
        for (number, line) in (from..to).zip(lines.split(|b| *b == b'\n')) {
            let group = number / GROUP;
            let partition = (group % PARTITIONS as u64) as i32;
            if number % GROUP == 7 && group % POISON_EVERY == 5 {
                let payload = POISON[poison.len() % POISON.len()];
                poison.push((partition, send(partition, payload.as_bytes()), payload));
            }
            send(partition, line);
        }
        produced.store(to, Ordering::Relaxed);
    }
    producer.flush(Duration::from_secs(60)).expect("all delivered");
    file.flush().expect("written");
    poison
}

async fn number(client: &Client, sql: &str) -> i64 {
    match client.query_one(sql, &[]).await {
        Ok(row) => row.get(0),
        Err(e) => panic!("{sql}: {}", explain(&e)),
    }
}

/// The output of COPY TO STDOUT.
async fn copy(client: &Client, sql: &str) -> Vec<u8> {
    let stream = client.copy_out(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
    let mut stream = pin!(stream);
    let mut out = Vec::new();
    while let Some(bytes) = stream.next().await {
        out.extend_from_slice(&bytes.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e))));
    }
    out
}

fn sorted(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    lines.sort_unstable();
    lines
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_over_a_topic_are_right_after_the_server_was_killed_at_random_moments() {
    let Some(kafka) = Kafka::shared() else { return };
    let events = setting("MILLSTREAM_EVENTS", 100_000);
    let kills = setting("MILLSTREAM_KILLS", 3);
    let started = Instant::now();
    let topic = kafka.topic("events", PARTITIONS).await;
    let mut server = Server::start(ServerOptions::default()).await;
    let file = server.dir().join("events.ndjson");

    // The producer is let on from kill to kill, so that the views have work at each of them.
    let (allowed, produced) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let producer = tokio::task::spawn_blocking({
        let (topic, file, allowed, produced) = (topic.clone(), file.clone(), allowed.clone(), produced.clone());
        move || produce(kafka, &topic, events, &file, &allowed, &produced)
    });

    server
        .execute(&format!(
            "CREATE STREAM events ({}) WITH (connector = 'kafka', topic = '{topic}', bootstrap_servers = '{}', \
             format = 'json', start = 'earliest')",
            envelope_columns(),
            kafka.address()
        ))
        .await;
    for sql in envelope_views("events") {
        server.execute(&sql).await;
    }
    for view in VIEWS {
        server.execute(&format!("CREATE MATERIALIZED VIEW {view} AS {}", query(view).sql)).await;
    }

    let bids = |events: u64| count(2, events) as i64;
    let mut random = SmallRng::seed_from_u64(events ^ kills);
    let mut resumed = Vec::new();
    for kill in 0..kills {
        let (from, to) = (events * kill / (kills + 1), events * (kill + 1) / (kills + 1));
        allowed.store(to, Ordering::Relaxed);
        let moment = bids(random.random_range(from..to));
        let client = server.connect().await;
        let deadline = Instant::now() + Duration::from_secs(60 + events / 5_000);
        // What every second start must resume from at least: nothing before a checkpoint is computed again.
        let mut kept = 0;
        loop {
            let seen = number(&client, "SELECT count(*) FROM q1").await;
            if seen >= moment {
                break;
            }
            if kept == 0 && kill % 2 == 1 {
                server.execute("CHECKPOINT").await;
                kept = seen;
            }
            assert!(Instant::now() < deadline, "q1 has {seen} rows and does not reach {moment}");
            tokio::time::sleep(Duration::from_millis(random.random_range(1..20))).await;
        }
        server.kill_9();
        server.restart().await;
        let client = server.connect().await;
        let first = number(&client, "SELECT count(*) FROM q1").await;
        assert!(first >= kept, "q1 starts with {first} rows, a checkpoint had {kept}");
        resumed.push(first);
    }
    assert_eq!(server.kills() as u64, kills);
    allowed.store(events, Ordering::Relaxed);
    let poison = producer.await.expect("the producer");
    assert!(!poison.is_empty(), "no poison among {events} events");
    assert_eq!(produced.load(Ordering::Relaxed), events);

    let client = server.connect().await;
    let deadline = Instant::now() + Duration::from_secs(120 + events / 5_000);
    loop {
        let seen = number(&client, "SELECT count(*) FROM q1").await;
        let errors = number(&client, "SELECT count(*) FROM ms.errors").await;
        if seen == bids(events) && errors == poison.len() as i64 {
            break;
        }
        assert!(
            seen <= bids(events) && errors <= poison.len() as i64 && Instant::now() < deadline,
            "q1 has {seen} rows of {}, ms.errors {errors} of {}",
            bids(events),
            poison.len()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Now every view has seen the whole topic.
    server.execute("FLUSH").await;
    let ran = started.elapsed();

    let sql = "SELECT relation, partition, \"offset\", payload, reason FROM ms.errors ORDER BY partition, \"offset\"";
    let rows = client.query(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
    let mut expected = poison.clone();
    expected.sort_unstable();
    let found: Vec<(i32, i64, String)> = rows
        .iter()
        .map(|r| (r.get::<_, String>(1).parse().expect("a partition"), r.get(2), r.get::<_, String>(3)))
        .collect();
    let expected: Vec<(i32, i64, String)> = expected.into_iter().map(|(p, o, text)| (p, o, text.to_owned())).collect();
    assert_eq!(found, expected, "ms.errors");
    assert!(rows.iter().all(|r| r.get::<_, &str>(0) == "events" && !r.get::<_, &str>(4).is_empty()));

    let mut summary = Vec::new();
    let mut arguments = vec![file.display().to_string()];
    for view in VIEWS {
        let view_rows = copy(&client, &format!("COPY (SELECT * FROM {view}) TO STDOUT")).await;
        let batch_rows = copy(&client, &format!("COPY ({}) TO STDOUT", query(view).sql)).await;
        let (live, batch) = (sorted(&view_rows), sorted(&batch_rows));
        assert!(!batch.is_empty(), "{view} is empty");
        if live != batch {
            let differs = live.iter().zip(&batch).find(|(a, b)| a != b);
            let differs = differs.map(|(a, b)| (String::from_utf8_lossy(a), String::from_utf8_lossy(b)));
            panic!("{view}: {} rows, the SELECT has {}; first difference {differs:?}", live.len(), batch.len());
        }
        summary.push(format!("{view} {} rows", live.len()));
        let csv = copy(&client, &format!("COPY (SELECT * FROM {view}) TO STDOUT WITH (FORMAT csv, HEADER)")).await;
        let path = server.dir().join(format!("{view}.csv"));
        std::fs::write(&path, csv).expect("written");
        arguments.push(format!("{view}={}", path.display()));
    }
    // A read of the topic keeps no poison records.
    assert_eq!(number(&client, "SELECT count(*) FROM ms.errors").await, poison.len() as i64);
    println!(
        "{events} events, {kills} kills, caught up after {:.1} s; bids after each restart {resumed:?} of {}; {} poison \
         records; equal to SELECT: {}",
        ran.as_secs_f64(),
        bids(events),
        poison.len(),
        summary.join(", ")
    );
    if let Some(duckdb) = DuckDb::find() {
        let output = duckdb.run("duckdb_check.py", &arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
