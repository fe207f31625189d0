//! Jamie Brandon's internal-consistency case on the real server: money moves between accounts, so the total over all
//! accounts is 0 in every SELECT and in every SUBSCRIBE message, while rows are inserted, changed and deleted and the
//! server is killed with SIGKILL and started again.
//!
//! `MILLSTREAM_OBSERVATIONS` (default 3 000) and `MILLSTREAM_KILLS` (default 3) set the length.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use millstream_tests::server::{Server, ServerOptions, explain, gone};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio_postgres::Client;

const ACCOUNTS: i64 = 10;
const WRITERS: u64 = 2;
/// Rows a writer keeps; older ones are deleted, so that retractions never stop and reads stay small.
const KEPT_RANGES: usize = 300;

const SETUP: &[&str] = &[
    "CREATE TABLE transactions (id BIGINT PRIMARY KEY, from_account BIGINT, to_account BIGINT, amount BIGINT, \
     ts TIMESTAMP)",
    "CREATE TABLE accounts (account BIGINT PRIMARY KEY)",
    "INSERT INTO accounts VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)",
    "CREATE MATERIALIZED VIEW credits AS SELECT to_account AS account, sum(amount) AS credits, count(*) AS n \
     FROM transactions GROUP BY to_account",
    "CREATE MATERIALIZED VIEW debits AS SELECT from_account AS account, sum(amount) AS debits, count(*) AS n \
     FROM transactions GROUP BY from_account",
    "CREATE MATERIALIZED VIEW balance AS SELECT coalesce(c.account, d.account) AS account, \
     coalesce(c.credits, 0) - coalesce(d.debits, 0) AS balance, coalesce(c.credits, 0) + coalesce(d.debits, 0) AS volume \
     FROM credits c FULL JOIN debits d ON c.account = d.account",
    "CREATE MATERIALIZED VIEW balance_left AS SELECT a.account, \
     coalesce(c.credits, 0) - coalesce(d.debits, 0) AS balance, coalesce(c.credits, 0) + coalesce(d.debits, 0) AS volume \
     FROM accounts a LEFT JOIN credits c ON a.account = c.account LEFT JOIN debits d ON a.account = d.account",
    "CREATE MATERIALIZED VIEW total AS SELECT sum(balance) AS total, sum(volume) AS volume FROM balance",
    "CREATE MATERIALIZED VIEW total_left AS SELECT sum(balance) AS total, sum(volume) AS volume FROM balance_left",
    // The outer join of the article: a transaction always has itself.
    "CREATE MATERIALIZED VIEW pairs AS SELECT t.id, o.id AS other_id \
     FROM transactions t LEFT JOIN transactions o ON t.id = o.id AND t.ts = o.ts",
];

/// Queries of one row: a value that is always 0, and one that moves while rows are written.
const CHECKS: &[(&str, &str)] = &[
    (
        "total",
        "SELECT CAST(coalesce(total, 0) AS BIGINT) AS zero, CAST(coalesce(volume, 0) AS BIGINT) AS seen FROM total",
    ),
    (
        "total over left joins",
        "SELECT CAST(coalesce(total, 0) AS BIGINT) AS zero, CAST(coalesce(volume, 0) AS BIGINT) AS seen \
         FROM total_left",
    ),
    (
        "sum of balances",
        "SELECT CAST(coalesce(sum(balance), 0) AS BIGINT) AS zero, CAST(coalesce(sum(volume), 0) AS BIGINT) AS seen \
         FROM balance",
    ),
    (
        "credits against debits",
        "SELECT CAST(coalesce(c.s, 0) - coalesce(d.s, 0) AS BIGINT) AS zero, CAST(coalesce(c.s, 0) AS BIGINT) AS seen \
         FROM (SELECT sum(credits) AS s FROM credits) c CROSS JOIN (SELECT sum(debits) AS s FROM debits) d",
    ),
    (
        "two views in a full join",
        "SELECT CAST(coalesce(sum(coalesce(c.credits, 0) - coalesce(d.debits, 0)), 0) AS BIGINT) AS zero, \
         CAST(coalesce(sum(c.n), 0) AS BIGINT) AS seen \
         FROM credits c FULL JOIN debits d ON c.account = d.account",
    ),
    (
        "balances against their parts",
        "SELECT CAST(coalesce(sum(abs(b.balance - (coalesce(c.credits, 0) - coalesce(d.debits, 0)))), 0) AS BIGINT) \
         AS zero, CAST(coalesce(sum(b.volume), 0) AS BIGINT) AS seen \
         FROM balance b LEFT JOIN credits c ON b.account = c.account LEFT JOIN debits d ON b.account = d.account",
    ),
    (
        "table against view",
        "SELECT CAST(t.n - coalesce(c.n, 0) AS BIGINT) AS zero, CAST(t.n AS BIGINT) AS seen \
         FROM (SELECT count(*) AS n FROM transactions) t CROSS JOIN (SELECT sum(n) AS n FROM credits) c",
    ),
    (
        "outer join with itself",
        "SELECT CAST(count(*) - count(other_id) AS BIGINT) AS zero, CAST(count(*) AS BIGINT) AS seen FROM pairs",
    ),
];

struct Watch {
    port: u16,
    observations: AtomicU64,
    /// Observations that differ from the one before of the same reader: rows were written meanwhile.
    moving: AtomicU64,
    /// Server starts each kind of reader has seen something of: a bit per start.
    starts: Vec<AtomicU64>,
    start: AtomicU64,
    stop: AtomicBool,
    problems: std::sync::Mutex<Vec<String>>,
}

impl Watch {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn problem(&self, text: String) {
        let mut problems = self.problems.lock().expect("no reader panics with it");
        if problems.len() < 20 {
            problems.push(text);
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    fn observed(&self, reader: usize, moved: bool) {
        self.observations.fetch_add(1, Ordering::Relaxed);
        self.moving.fetch_add(u64::from(moved), Ordering::Relaxed);
        self.starts[reader].fetch_or(1 << self.start.load(Ordering::Relaxed).min(63), Ordering::Relaxed);
    }

    /// A connection as soon as the server is there; `None` when the test is over.
    async fn connect(&self) -> Option<Client> {
        while !self.stopped() {
            match Server::try_connect(self.port).await {
                Ok(client) => return Some(client),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        None
    }

    /// Notes an error that is not the server's death.
    fn failed(&self, what: &str, e: &tokio_postgres::Error) {
        if !gone(e) {
            self.problem(format!("{what}: {}", explain(e)));
        }
    }
}

/// Runs a few checks in turn with prepared statements.
async fn read(watch: Arc<Watch>, first: usize, step: usize) {
    let mut last = vec![i64::MIN; CHECKS.len()];
    while let Some(client) = watch.connect().await {
        if let Err(e) = read_until_error(&watch, &client, first, step, &mut last).await {
            watch.failed("SELECT", &e);
        }
    }
}

async fn read_until_error(
    watch: &Watch,
    client: &Client,
    first: usize,
    step: usize,
    last: &mut [i64],
) -> Result<(), tokio_postgres::Error> {
    let mut prepared = Vec::new();
    for (index, (_, sql)) in CHECKS.iter().enumerate().skip(first).step_by(step) {
        prepared.push((index, client.prepare(sql).await?));
    }
    while !watch.stopped() {
        for (index, statement) in &prepared {
            let rows = client.query(statement, &[]).await?;
            let (name, sql) = CHECKS[*index];
            let [row] = rows.as_slice() else {
                watch.problem(format!("{name}: {} rows from {sql}", rows.len()));
                continue;
            };
            let (zero, seen): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            if zero != 0 {
                watch.problem(format!("{name}: {zero} instead of 0 (seen {seen}) from {sql}"));
            }
            watch.observed(*index, last[*index] != seen);
            last[*index] = seen;
        }
    }
    Ok(())
}

/// What a subscription keeps of the rows so far.
#[derive(Default)]
struct Sums {
    /// Sum of the value that must be 0.
    zero: i64,
    rows: i64,
}

const SUBSCRIPTIONS: &[&str] = &["balance", "balance_left", "total", "pairs"];

/// Follows a view; every epoch is an observation.
async fn follow(watch: Arc<Watch>, index: usize) {
    let view = SUBSCRIPTIONS[index];
    while let Some(client) = watch.connect().await {
        if let Err(e) = follow_until_error(&watch, &client, view, CHECKS.len() + index).await {
            watch.failed(&format!("SUBSCRIBE {view}"), &e);
        }
    }
}

async fn follow_until_error(
    watch: &Watch,
    client: &Client,
    view: &str,
    reader: usize,
) -> Result<(), tokio_postgres::Error> {
    let stream = client.copy_out(&format!("COPY (SUBSCRIBE {view}) TO STDOUT")).await?;
    let mut stream = pin!(stream);
    let mut sums = Sums::default();
    let (mut epoch, mut pending) = (None, Vec::new());
    while !watch.stopped() {
        // The end of the test must not wait for a view that is silent.
        let next = match tokio::time::timeout(Duration::from_millis(200), stream.next()).await {
            Err(_) => continue,
            Ok(None) => return Ok(()),
            Ok(Some(bytes)) => bytes?,
        };
        pending.extend_from_slice(&next);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8(line).expect("UTF-8");
            let fields: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
            let at: u64 = fields[0].parse().unwrap_or_else(|e| panic!("{view}: epoch in {line:?}: {e}"));
            let diff: i64 = fields[1].parse().unwrap_or_else(|e| panic!("{view}: diff in {line:?}: {e}"));
            // A row of the next epoch: the one before is complete.
            if epoch.is_some_and(|e| e != at) {
                check_epoch(watch, view, reader, &sums, epoch);
            }
            if epoch.is_some_and(|e| e > at) {
                watch.problem(format!("{view}: epoch {at} after {epoch:?}"));
            }
            epoch = Some(at);
            sums.rows += diff;
            let number = |text: &str| -> i64 {
                if text == "\\N" { 0 } else { text.parse().unwrap_or_else(|e| panic!("{view}: {line:?}: {e}")) }
            };
            match view {
                "total" => sums.zero += diff * number(fields[2]),
                "pairs" => sums.zero += diff * i64::from(fields[3] == "\\N"),
                _ => sums.zero += diff * number(fields[3]),
            }
        }
    }
    Ok(())
}

fn check_epoch(watch: &Watch, view: &str, reader: usize, sums: &Sums, epoch: Option<u64>) {
    if sums.zero != 0 {
        watch.problem(format!("{view}: {} instead of 0 in SUBSCRIBE at epoch {epoch:?}", sums.zero));
    }
    if view == "total" && sums.rows != 1 {
        watch.problem(format!("{view}: {} rows in SUBSCRIBE at epoch {epoch:?}", sums.rows));
    }
    watch.observed(reader, true);
}

/// Ids `from..to` that are there.
type Ids = std::ops::Range<i64>;

/// Inserts, changes and deletes until stopped. Gives the ids that must be there.
async fn write(watch: Arc<Watch>, writer: u64) -> Vec<Ids> {
    let mut random = SmallRng::seed_from_u64(writer);
    let mut next = writer as i64 * 1_000_000_000_000;
    let mut live: VecDeque<Ids> = VecDeque::new();
    // A statement whose answer never came: `true` for an insert.
    let mut open: Option<(bool, Ids)> = None;
    while let Some(client) = watch.connect().await {
        if let Some((_, ids)) = &open {
            let sql = format!("SELECT count(*) FROM transactions WHERE id >= {} AND id < {}", ids.start, ids.end);
            let count: i64 = match client.query_one(&sql, &[]).await {
                Ok(row) => row.get(0),
                Err(e) => {
                    watch.failed(&sql, &e);
                    continue;
                }
            };
            let (_, ids) = open.take().expect("it is there");
            if count == ids.end - ids.start {
                live.push_back(ids);
            } else if count != 0 {
                watch.problem(format!("{count} of ids {ids:?} are there: half a statement"));
            }
        }
        while !watch.stopped() {
            let (sql, change) = if live.len() > KEPT_RANGES {
                let ids = live.pop_front().expect("not empty");
                (format!("DELETE FROM transactions WHERE id >= {} AND id < {}", ids.start, ids.end), Some((false, ids)))
            } else if !live.is_empty() && random.random_bool(0.05) {
                let ids = &live[random.random_range(0..live.len())];
                (format!("UPDATE transactions SET amount = amount + 1 WHERE id = {}", ids.start), None)
            } else {
                let ids = next..next + random.random_range(1..=8);
                next = ids.end;
                (insert(&mut random, ids.clone()), Some((true, ids)))
            };
            if let Err(e) = client.batch_execute(&sql).await {
                watch.failed(&sql, &e);
                open = change;
                break;
            }
            if let Some((true, ids)) = change {
                live.push_back(ids);
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(1..15))).await;
        }
    }
    assert!(open.is_none() || watch.stopped(), "the loop ends when stopped");
    live.into_iter().collect()
}

fn insert(random: &mut SmallRng, ids: Ids) -> String {
    let rows: Vec<String> = ids
        .map(|id| {
            let (from, to) = (random.random_range(0..ACCOUNTS), random.random_range(0..ACCOUNTS));
            let amount = random.random_range(1..1000);
            let s = id % 86_400;
            let (hour, minute, second) = (s / 3600, s / 60 % 60, s % 60);
            format!("({id}, {from}, {to}, {amount}, TIMESTAMP '2026-01-01 {hour:02}:{minute:02}:{second:02}')")
        })
        .collect();
    format!("INSERT INTO transactions VALUES {}", rows.join(", "))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_total_is_zero_in_every_read_and_message_while_rows_change_and_the_server_is_killed() {
    let budget = setting("MILLSTREAM_OBSERVATIONS", 3_000);
    let kills = setting("MILLSTREAM_KILLS", 3);
    assert!(kills < 63, "starts are bits of a word");
    let mut server = Server::start(ServerOptions::default()).await;
    for sql in SETUP {
        server.execute(sql).await;
    }
    let watch = Arc::new(Watch {
        port: server.pg_port(),
        observations: AtomicU64::new(0),
        moving: AtomicU64::new(0),
        starts: (0..CHECKS.len() + SUBSCRIPTIONS.len()).map(|_| AtomicU64::new(0)).collect(),
        start: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        problems: std::sync::Mutex::new(Vec::new()),
    });
    const READERS: usize = 3;
    let mut readers: Vec<_> = (0..READERS).map(|i| tokio::spawn(read(watch.clone(), i, READERS))).collect();
    readers.extend((0..SUBSCRIPTIONS.len()).map(|i| tokio::spawn(follow(watch.clone(), i))));
    let writers: Vec<_> = (0..WRITERS).map(|i| tokio::spawn(write(watch.clone(), i))).collect();

    let started = Instant::now();
    let deadline = started + Duration::from_secs(240 + budget / 20);
    let mut random = SmallRng::seed_from_u64(budget);
    for part in 1..=kills + 1 {
        let target = budget * part / (kills + 1);
        // Every reader sees something of every start, or it proves nothing about it.
        let bit = 1 << watch.start.load(Ordering::Relaxed);
        let seen = || watch.starts.iter().all(|s| s.load(Ordering::Relaxed) & bit != 0);
        while (watch.observations.load(Ordering::Relaxed) < target || !seen()) && !watch.stopped() {
            if Instant::now() > deadline {
                let unseen: Vec<usize> =
                    (0..watch.starts.len()).filter(|i| watch.starts[*i].load(Ordering::Relaxed) & bit == 0).collect();
                watch.problem(format!(
                    "only {} observations in {:?}; readers without any since the last start: {unseen:?}",
                    watch.observations.load(Ordering::Relaxed),
                    started.elapsed()
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if watch.stopped() || part > kills {
            break;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..50))).await;
        server.kill_9();
        watch.start.fetch_add(1, Ordering::Relaxed);
        server.restart().await;
    }
    watch.stop.store(true, Ordering::Relaxed);
    let mut there: Vec<i64> = Vec::new();
    for writer in writers {
        there.extend(writer.await.expect("the writer").into_iter().flatten());
    }
    for reader in readers {
        reader.await.expect("the reader");
    }
    {
        let problems = watch.problems.lock().expect("no reader panics with it");
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
    let observations = watch.observations.load(Ordering::Relaxed);
    let moving = watch.moving.load(Ordering::Relaxed);
    assert!(observations >= budget);
    assert!(moving >= budget / 30, "only {moving} of {observations} observations saw rows change");
    assert_eq!(server.kills() as u64, kills);

    // What was acknowledged is there, once; what was deleted is not.
    let client = server.connect().await;
    let rows = client.query("SELECT id FROM transactions ORDER BY id", &[]).await.unwrap();
    let ids: Vec<i64> = rows.iter().map(|r| r.get(0)).collect();
    there.sort_unstable();
    assert_eq!(ids, there, "acknowledged rows");
    println!(
        "{observations} observations in {:.1} s ({moving} of them while rows changed), {kills} kills, 0 violations, {} rows",
        started.elapsed().as_secs_f64(),
        ids.len()
    );
}
