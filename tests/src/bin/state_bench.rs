//! Measures the state of windowed Nexmark queries while events go by: with a watermark it must not grow with their number.
//!
//! Prints a Markdown table: rows and bytes of state, about, at the first look after each number of events.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use millstream::api::{Engine, EngineOptions};
use millstream::time::{ManualClock, Timestamp};
use millstream_tests::nexmark::{ARRIVAL_QUERY, KINDS, Query, query};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: state_bench [--at 2000000,10000000] [--queries q5,q7] [--delay '4 seconds'] [--workers N]";

/// Nexmark's queries with windows of time: (name, microseconds between two events). Those by day have days of 500 000 events.
const WINDOWED: [(&str, u64); 8] = [
    ("q5", 100),
    ("q7", 100),
    ("q8", 100),
    ("q11", 100),
    ("q12", 100),
    ("q15", 172_800),
    ("q16", 172_800),
    ("q17", 172_800),
];

fn failed(e: millstream::error::Error) -> Failure {
    format!("{} {} {}", e.code.0, e.message, e.hint.unwrap_or_default()).into()
}

fn number(found: &[RecordBatch], column: usize) -> i64 {
    found.first().filter(|b| b.num_rows() > 0).map_or(0, |b| b.column(column).as_primitive::<Int64Type>().value(0))
}

/// (rows, bytes) of state when each number of events has been read.
async fn measure(
    query: &Query<'_>,
    gap: u64,
    at: &[u64],
    delay: &str,
    workers: usize,
) -> Result<Vec<(i64, i64)>, Failure> {
    let Query { name, sql, reads, .. } = query;
    let hands = Arc::new(ManualClock::default());
    let mut options = EngineOptions { workers, checkpoint_interval: Duration::ZERO, ..EngineOptions::default() };
    // Windows of the clock: it goes on with the events, whatever the machine is.
    let arriving = *name == ARRIVAL_QUERY.name;
    if arriving {
        options.clock = hands.clone();
    }
    let engine = Engine::open(options).await.map_err(failed)?;
    let last = at.iter().max().copied().unwrap_or(0);
    // A source that has ended closes every window: it must still be running at the last look.
    let events = last + last / 4;
    for index in *reads {
        let (_, name) = KINDS[*index];
        let (columns, more) = match arriving {
            true => ("p_time AS PROCTIME()".to_owned(), ""),
            false => (format!("WATERMARK FOR date_time AS date_time - INTERVAL '{delay}'"), ", on_late = 'drop'"),
        };
        let stream = format!(
            "CREATE STREAM {name} ({columns}) \
             WITH (connector = 'nexmark', type = '{name}', events = {events}, event_gap_us = {gap}{more})"
        );
        engine.execute(&stream).await.map_err(failed)?;
    }
    let create = format!("SET background_ddl = on; CREATE MATERIALIZED VIEW result AS {sql} EMIT ON WINDOW CLOSE");
    engine.execute(&create).await.map_err(failed)?;
    let share: f64 = reads.iter().map(|i| [1.0, 3.0, 46.0][*i] / 50.0).sum();
    let (mut out, started) = (Vec::new(), Instant::now());
    for events in at {
        let rows = (*events as f64 * share) as i64;
        loop {
            let read = engine
                .query("SELECT CAST(sum(r) AS BIGINT) FROM (SELECT relation, max(rows) AS r FROM ms.sources GROUP BY relation)")
                .await
                .map_err(failed)?;
            if arriving {
                hands.set(Timestamp((number(&read, 0) as f64 / share) as i64 * gap as i64));
            }
            if number(&read, 0) >= rows {
                break;
            }
            if started.elapsed() > Duration::from_secs(3600) {
                return Err("no progress within an hour".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The view's own rows are its answer, not its state.
        let jobs = "SELECT state_rows - view_rows, state_bytes - view_bytes FROM ms.jobs WHERE name = 'result'";
        let found = engine.query(jobs).await.map_err(failed)?;
        out.push((number(&found, 0), number(&found, 1)));
    }
    engine.shutdown().await.map_err(failed)?;
    Ok(out)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (mut at, mut delay, mut workers) = (vec![2_000_000u64, 10_000_000], "4 seconds".to_owned(), 2);
    let mut wanted: Option<Vec<String>> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
        match flag.as_str() {
            "--at" => at = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--queries" => wanted = Some(value.split(',').map(str::to_owned).collect()),
            "--delay" => delay = value,
            "--workers" => workers = value.parse()?,
            _ => return Err(format!("unknown flag {flag}\n{USAGE}").into()),
        }
    }
    at.sort_unstable();
    println!("| query | events read | rows of state | MiB |\n|---|---|---|---|");
    for (name, gap) in WINDOWED {
        if wanted.as_ref().is_some_and(|w| !w.iter().any(|w| w == name)) {
            continue;
        }
        let measured = measure(query(name), gap, &at, &delay, workers).await?;
        for (events, (rows, bytes)) in at.iter().zip(measured) {
            println!("| {name} | {events} | {rows} | {:.1} |", bytes as f64 / f64::from(1 << 20));
        }
    }
    Ok(())
}
