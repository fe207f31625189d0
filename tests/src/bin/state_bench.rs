//! Measures the state of windowed Nexmark queries while events go by: with a watermark it must not grow with their number.
//!
//! Prints a Markdown table: rows and bytes of state, about, at the first look after each number of events.

use std::error::Error;
use std::time::{Duration, Instant};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use millstream::api::{Engine, EngineOptions};
use millstream_tests::nexmark::{KINDS, QUERIES};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: state_bench [--at 2000000,10000000] [--queries q5,q7] [--delay '4 seconds'] [--workers N]";

/// Windowed queries beyond those of the throughput benchmark: (name, streams it reads, query).
const MORE: [(&str, &[usize], &str); 1] = [(
    "q11",
    &[2],
    "SELECT bidder, count(*) AS bids, window_start, window_end \
     FROM SESSION(bid, date_time, INTERVAL '10 seconds', bidder) GROUP BY bidder, window_start, window_end",
)];

fn failed(e: millstream::error::Error) -> Failure {
    format!("{} {} {}", e.code.0, e.message, e.hint.unwrap_or_default()).into()
}

fn number(found: &[RecordBatch], column: usize) -> i64 {
    found.first().filter(|b| b.num_rows() > 0).map_or(0, |b| b.column(column).as_primitive::<Int64Type>().value(0))
}

/// (rows, bytes) of state when each number of events has been read.
async fn measure(
    sql: &str,
    reads: &[usize],
    at: &[u64],
    delay: &str,
    workers: usize,
) -> Result<Vec<(i64, i64)>, Failure> {
    let options = EngineOptions { workers, checkpoint_interval: Duration::ZERO, ..EngineOptions::default() };
    let engine = Engine::open(options).await.map_err(failed)?;
    let last = at.iter().max().copied().unwrap_or(0);
    // A source that has ended closes every window: it must still be running at the last look.
    let events = last + last / 4;
    for index in reads {
        let (_, name) = KINDS[*index];
        let stream = format!(
            "CREATE STREAM {name} (WATERMARK FOR date_time AS date_time - INTERVAL '{delay}') \
             WITH (connector = 'nexmark', type = '{name}', events = {events}, on_late = 'drop')"
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
    let windowed = QUERIES.iter().filter(|q| ["q5", "q7", "q8"].contains(&q.name)).map(|q| (q.name, q.reads, q.sql));
    println!("| query | events read | rows of state | MiB |\n|---|---|---|---|");
    for (name, reads, sql) in windowed.chain(MORE) {
        if wanted.as_ref().is_some_and(|w| !w.iter().any(|w| w == name)) {
            continue;
        }
        let measured = measure(sql, reads, &at, &delay, workers).await?;
        for (events, (rows, bytes)) in at.iter().zip(measured) {
            println!("| {name} | {events} | {rows} | {:.1} |", bytes as f64 / f64::from(1 << 20));
        }
    }
    Ok(())
}
