//! Measures Nexmark q0 to q8 and the way from an event to a subscriber, through the embedded API, and prints
//! Markdown tables.
//!
//! - Throughput: the time CREATE MATERIALIZED VIEW takes over bounded input, which is read entirely before it returns.
//!   Events are the rows of the streams a query reads; CPU seconds are those of this process.
//! - Latency: batches are pushed into a native stream at a fixed rate; an event's time is when it was due, so a stall
//!   counts for every event it delays. The subscriber takes the time as soon as a row comes out of the view.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray as _, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures::StreamExt as _;
use millstream::api::{Engine, EngineOptions};
use millstream_connectors::nexmark::Nexmark;
use millstream_tests::nexmark::{KINDS, QUERIES, Query, column_list, count};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: nexmark_bench [--events N] [--workers 1,2] [--queries q0,q3] [--sources generator,ndjson] \
                     [--repeat N] [--no-throughput] [--no-latency] [--rate N] [--seconds N] [--data URL]";

struct Options {
    events: u64,
    workers: Vec<usize>,
    queries: Vec<String>,
    sources: Vec<String>,
    repeat: usize,
    throughput: bool,
    latency: bool,
    rate: u64,
    seconds: u64,
    data: Option<String>,
}

fn options() -> Result<Options, Failure> {
    let mut o = Options {
        events: 2_000_000,
        workers: vec![1, 2],
        queries: QUERIES.iter().map(|q| q.name.to_owned()).collect(),
        sources: vec!["generator".into(), "ndjson".into()],
        repeat: 1,
        throughput: true,
        latency: true,
        rate: 10_000,
        seconds: 20,
        data: None,
    };
    let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--events" => o.events = value()?.parse()?,
            "--workers" => o.workers = list(value()?).iter().map(|w| w.parse()).collect::<Result<_, _>>()?,
            "--queries" => o.queries = list(value()?),
            "--sources" => o.sources = list(value()?),
            "--repeat" => o.repeat = value()?.parse()?,
            "--rate" => o.rate = value()?.parse()?,
            "--seconds" => o.seconds = value()?.parse()?,
            "--data" => o.data = Some(value()?),
            "--no-throughput" => o.throughput = false,
            "--no-latency" => o.latency = false,
            _ => return Err(format!("unknown flag {flag}\n{USAGE}").into()),
        }
    }
    if let Some(unknown) = o.queries.iter().find(|n| !QUERIES.iter().any(|q| q.name == **n)) {
        return Err(format!("unknown query {unknown}").into());
    }
    if let Some(unknown) = o.sources.iter().find(|s| !["generator", "ndjson"].contains(&s.as_str())) {
        return Err(format!("unknown source {unknown}\n{USAGE}").into());
    }
    Ok(o)
}

/// CPU time of this process, user and system.
fn cpu() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields after the name, which is in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| -> Result<u64, Failure> { Ok(fields.get(i).ok_or("short /proc/self/stat")?.parse()?) };
    // Linux counts in 1/100 s for user space whatever the kernel's own clock is.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

fn failed(e: millstream::error::Error) -> Failure {
    match &e.hint {
        Some(hint) => format!("{} {}\nHINT: {hint}", e.code.0, e.message).into(),
        None => format!("{} {}", e.code.0, e.message).into(),
    }
}

#[derive(Debug, Clone)]
struct Measured {
    wall: Duration,
    cpu: Duration,
    rows: i64,
}

async fn throughput(
    query: &Query<'_>,
    source: &str,
    workers: usize,
    events: u64,
    files: &Path,
) -> Result<Measured, Failure> {
    let options = EngineOptions { workers, checkpoint_interval: Duration::ZERO, ..EngineOptions::default() };
    let engine = Engine::open(options).await.map_err(failed)?;
    for index in query.reads {
        let (kind, name) = KINDS[*index];
        let sql = match source {
            "generator" => format!(
                "CREATE STREAM {name} WITH (connector = 'nexmark', type = '{name}', events = {events}, splits = {workers})"
            ),
            _ => format!(
                "CREATE STREAM {name} ({}) WITH (connector = 'file', format = 'json', path = '{}/{name}-*.json')",
                column_list(kind),
                files.display()
            ),
        };
        engine.execute(&sql).await.map_err(failed)?;
    }
    let (cpu_before, before) = (cpu()?, Instant::now());
    engine.execute(&format!("CREATE MATERIALIZED VIEW result AS {}", query.sql)).await.map_err(failed)?;
    // Part of the time: what was read counts when a reader sees it.
    let rows = engine.query("SELECT count(*) FROM result").await.map_err(failed)?;
    let (wall, cpu) = (before.elapsed(), cpu()?.saturating_sub(cpu_before));
    let rows = rows.first().map_or(0, |b| b.column(0).as_primitive::<Int64Type>().value(0));
    engine.shutdown().await.map_err(failed)?;
    Ok(Measured { wall, cpu, rows })
}

/// Two files a kind, so that two workers have something to share.
fn write_files(events: u64, dir: &Path) -> Result<u64, Failure> {
    let generator = Nexmark::new(0);
    let mut bytes = 0;
    for (kind, name) in KINDS {
        for part in 0..2 {
            let mut out = BufWriter::new(File::create(dir.join(format!("{name}-{part}.json")))?);
            let (mut from, to) = (events * part / 2, events * (part + 1) / 2);
            while from < to {
                let next = (from + 50_000).min(to);
                let mut lines = Vec::new();
                generator.write_json(kind, from..next, &mut lines);
                out.write_all(&lines)?;
                bytes += lines.len() as u64;
                from = next;
            }
            out.flush()?;
        }
    }
    Ok(bytes)
}

/// `1.2 M`, `340 k`.
fn short(n: f64) -> String {
    match n {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.0} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

async fn throughput_tables(o: &Options) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    // The first run of a process pays for what later ones find ready.
    throughput(&QUERIES[0], "generator", 1, 10_000, dir.path()).await?;
    for source in &o.sources {
        if source == "ndjson" {
            let bytes = write_files(o.events, dir.path())?;
            println!("\nNDJSON files: {} MB.", bytes / 1_000_000);
        }
        println!("\n### {source}, {} events of all kinds\n", short(o.events as f64));
        let mut head = "| query | events read | rows".to_owned();
        let mut line = "| --- | ---: | ---:".to_owned();
        for workers in &o.workers {
            head += &format!(" | events/s, {workers} workers | events/CPU-s, {workers} workers");
            line += " | ---: | ---:";
        }
        println!("{head} |\n{line} |");
        for query in QUERIES.iter().filter(|q| o.queries.iter().any(|n| n == q.name)) {
            let events: u64 = query.reads.iter().map(|k| count(*k, o.events)).sum();
            let mut cells = Vec::new();
            let mut rows = None;
            for workers in &o.workers {
                // The best of several: the machine has other work too.
                let mut best: Option<Measured> = None;
                for _ in 0..o.repeat {
                    let one = throughput(query, source, *workers, o.events, dir.path()).await?;
                    if rows.is_some_and(|r| r != one.rows) {
                        return Err(format!("{}: {} rows, before {rows:?}", query.name, one.rows).into());
                    }
                    if ["q0", "q1"].contains(&query.name) && one.rows as u64 != events {
                        return Err(format!("{}: {} rows of {events}", query.name, one.rows).into());
                    }
                    rows = Some(one.rows);
                    if best.as_ref().is_none_or(|b| one.wall < b.wall) {
                        best = Some(one);
                    }
                }
                let best = best.ok_or("--repeat must be at least 1")?;
                cells.push(short(events as f64 / best.wall.as_secs_f64()));
                cells.push(short(events as f64 / best.cpu.as_secs_f64().max(0.01)));
            }
            println!(
                "| {}: {} | {} | {} | {} |",
                query.name,
                query.about,
                short(events as f64),
                short(rows.unwrap_or(0) as f64),
                cells.join(" | ")
            );
        }
    }
    Ok(())
}

/// What is measured at the subscriber, with the view over `events (id, auction, price, due_us)`.
const LATENCY_VIEWS: [(&str, &str); 2] = [
    ("filter and projection", "SELECT id, auction, price * 0.908 AS price, due_us FROM events WHERE price >= 0"),
    (
        "GROUP BY over 1 000 keys",
        "SELECT auction, count(*) AS bids, max(price) AS highest, max(due_us) AS due_us FROM events GROUP BY auction",
    ),
];

/// Batches a second.
const BATCHES: u64 = 100;

async fn latency(o: &Options, workers: usize, sql: &str, data: &str) -> Result<Vec<i64>, Failure> {
    let options = EngineOptions { workers, data: data.to_owned(), ..EngineOptions::default() };
    let engine = Engine::open(options).await.map_err(failed)?;
    engine
        .execute("CREATE STREAM events (id BIGINT, auction BIGINT, price BIGINT, due_us BIGINT)")
        .await
        .map_err(failed)?;
    engine.execute(&format!("CREATE MATERIALIZED VIEW result AS {sql}")).await.map_err(failed)?;
    let mut subscription = engine.subscribe("result", false).await.map_err(failed)?;
    let origin = Instant::now() + Duration::from_millis(200);
    let batches = BATCHES * (o.seconds + 2);
    let per_batch = o.rate / BATCHES;
    let producer = tokio::spawn({
        let engine = engine.clone();
        async move {
            let mut waiting = tokio::task::JoinSet::new();
            for batch in 0..batches {
                let due = Duration::from_micros((batch + 1) * 1_000_000 / BATCHES);
                tokio::time::sleep_until((origin + due).into()).await;
                // The events of a batch were due one by one since the batch before.
                let ids: Vec<i64> = (batch * per_batch..(batch + 1) * per_batch).map(|id| id as i64).collect();
                let rows = events(&ids, per_batch * BATCHES)?;
                let engine = engine.clone();
                // Not awaited here: a slow answer must not slow the next events down.
                waiting.spawn(async move { engine.insert("events", rows).await.map(drop) });
            }
            while let Some(done) = waiting.join_next().await {
                done?.map_err(failed)?;
            }
            Ok::<(), Failure>(())
        }
    });
    let mut latencies = Vec::new();
    // The first two seconds warm up.
    let (from, until) = (2_000_000, ((o.seconds + 2) * 1_000_000) as i64);
    let end = tokio::time::sleep_until((origin + Duration::from_secs(o.seconds + 12)).into());
    tokio::pin!(end);
    let mut newest = 0;
    while newest < until - 1_000_000 / BATCHES as i64 {
        let delta = tokio::select! {
            delta = subscription.next() => delta.ok_or("the subscription ended")?.map_err(failed)?,
            () = &mut end => return Err(format!("events up to {newest} us of {until} came out").into()),
        };
        let now = origin.elapsed().as_micros() as i64;
        let column = delta.batch.rows.column_by_name("due_us").ok_or("no due_us")?;
        let due = column.as_primitive::<Int64Type>();
        for row in 0..due.len() {
            let added = delta.batch.weight(row) > 0;
            if added {
                newest = newest.max(due.value(row));
            }
            if added && due.value(row) >= from {
                latencies.push(now - due.value(row));
            }
        }
    }
    producer.await??;
    engine.shutdown().await.map_err(failed)?;
    latencies.sort_unstable();
    Ok(latencies)
}

fn events(ids: &[i64], rate: u64) -> Result<RecordBatch, Failure> {
    let column = |f: &dyn Fn(i64) -> i64| -> ArrayRef { Arc::new(ids.iter().map(|id| f(*id)).collect::<Int64Array>()) };
    let fields = ["id", "auction", "price", "due_us"].map(|n| Field::new(n, DataType::Int64, true));
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields.to_vec())),
        vec![
            column(&|id| id),
            // Fibonacci hashing: keys in no order.
            column(&|id| (id.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) as u64 % 1000) as i64),
            column(&|id| id % 10_007),
            column(&|id| (id as u64 * 1_000_000 / rate) as i64),
        ],
    )?)
}

async fn latency_table(o: &Options) -> Result<(), Failure> {
    println!("\n### Event to SUBSCRIBE at {} events/s, {} s\n", o.rate, o.seconds);
    println!(
        "| view | data | workers | rows | p50 ms | p99 ms | max ms |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    for workers in &o.workers {
        for (name, sql) in LATENCY_VIEWS {
            let dir = tempfile::tempdir()?;
            let folder = dir.path().display().to_string();
            for (label, data) in match &o.data {
                Some(url) => vec![(url.as_str(), url.as_str())],
                None => vec![("memory", "memory://"), ("folder, fsync", folder.as_str())],
            } {
                let all = latency(o, *workers, sql, data).await?;
                let at = |q: f64| {
                    let index = ((all.len() as f64 * q) as usize).min(all.len().saturating_sub(1));
                    all.get(index).map_or(f64::NAN, |us| *us as f64 / 1000.0)
                };
                println!(
                    "| {name} | {label} | {workers} | {} | {:.1} | {:.1} | {:.1} |",
                    short(all.len() as f64),
                    at(0.5),
                    at(0.99),
                    at(1.0)
                );
            }
        }
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let o = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if o.throughput {
            throughput_tables(&o).await?;
        }
        if o.latency {
            latency_table(&o).await?;
        }
        Ok(())
    })
}
