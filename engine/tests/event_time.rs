//! Event time end to end: late rows, windows that close, corrections, and that how rows arrive shows nowhere.

mod common;
#[path = "common/waiting.rs"]
mod waiting;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream::api::{Engine, EngineOptions};
use millstream::time::{ManualClock, Timestamp};

use self::waiting::{becomes, rows, run};

fn options(data: &str) -> EngineOptions {
    EngineOptions { data: data.into(), workers: 2, checkpoint_interval: Duration::ZERO, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_emitted_once_when_the_watermark_passes_its_end() {
    let dir = tempfile::tempdir().expect("folder");
    let data = dir.path().join("data").display().to_string();
    {
        let engine = Engine::open(options(&data)).await.expect("opens");
        run(&engine, "CREATE STREAM s (ts TIMESTAMP, k TEXT, WATERMARK FOR ts AS ts - INTERVAL '5 seconds')").await;
        run(
            &engine,
            "CREATE MATERIALIZED VIEW w AS SELECT window_start, k, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') \
             GROUP BY window_start, k EMIT ON WINDOW CLOSE",
        )
        .await;
        run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:01', 'a'), ('2026-01-01 00:00:12', 'a')").await;
        assert!(rows(&engine, "SELECT * FROM w").await.is_empty(), "the watermark is at 7 seconds");
        run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:08', 'a'), ('2026-01-01 00:00:14.9', 'b')").await;
        assert!(rows(&engine, "SELECT * FROM w").await.is_empty(), "the watermark is at 9.9 seconds");
        engine.shutdown().await.expect("stops");
    }
    let engine = Engine::open(options(&data)).await.expect("opens again");
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:15', 'b')").await;
    assert_eq!(rows(&engine, "SELECT * FROM w").await, ["2026-01-01T00:00:00|a|2"]);
    // Late: its window is closed, so it is none of the stream's rows for anybody.
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:09', 'a'), ('2026-01-01 00:00:30', 'c')").await;
    let want = ["2026-01-01T00:00:00|a|2", "2026-01-01T00:00:10|a|1", "2026-01-01T00:00:10|b|2"];
    assert_eq!(rows(&engine, "SELECT * FROM w").await, want);
    assert_eq!(rows(&engine, "SELECT count(*) FROM s").await, ["6"]);
    let late = rows(&engine, "SELECT ts, k, ms_watermark, ms_partition FROM s_late").await;
    assert_eq!(late, ["2026-01-01T00:00:09|a|2026-01-01T00:00:10|clients"]);
    // The groups of closed windows are gone; what waits is one window of one key, in two operators.
    let state = rows(&engine, "SELECT state_rows <= 2 + 3 FROM ms.jobs WHERE name = 'w'").await;
    assert_eq!(state, ["true"]);
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_emitted_when_no_row_can_make_it_longer() {
    let dir = tempfile::tempdir().expect("folder");
    let data = dir.path().join("data").display().to_string();
    {
        let engine = Engine::open(options(&data)).await.expect("opens");
        run(&engine, "CREATE STREAM s (ts TIMESTAMP, k TEXT, WATERMARK FOR ts AS ts - INTERVAL '3 seconds')").await;
        run(
            &engine,
            "CREATE MATERIALIZED VIEW w AS SELECT k, window_start, window_end, count(*) AS n \
             FROM SESSION(s, ts, INTERVAL '5 seconds', k) GROUP BY k, window_start, window_end EMIT ON WINDOW CLOSE",
        )
        .await;
        run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:02', 'a'), ('2026-01-01 00:00:09', 'b')").await;
        // Before the other row of its key, and within the gap.
        run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:06', 'a'), ('2026-01-01 00:00:13.9', 'b')").await;
        assert!(rows(&engine, "SELECT * FROM w").await.is_empty(), "the watermark is at 10.9 seconds");
        engine.shutdown().await.expect("stops");
    }
    let engine = Engine::open(options(&data)).await.expect("opens again");
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:14', 'c')").await;
    let first = "a|2026-01-01T00:00:02|2026-01-01T00:00:11|2";
    assert_eq!(rows(&engine, "SELECT * FROM w").await, [first]);
    // At the very end of the session that is over: another one.
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:11', 'a'), ('2026-01-01 00:00:22', 'd')").await;
    let want = [
        first,
        "a|2026-01-01T00:00:11|2026-01-01T00:00:16|1",
        "b|2026-01-01T00:00:09|2026-01-01T00:00:18.900|2",
        "c|2026-01-01T00:00:14|2026-01-01T00:00:19|1",
    ];
    assert_eq!(rows(&engine, "SELECT * FROM w").await, want);
    // One row waits, in three operators.
    let state = rows(&engine, "SELECT state_rows <= 3 + 4 FROM ms.jobs WHERE name = 'w'").await;
    assert_eq!(state, ["true"]);
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_within_the_allowance_make_sessions_longer_that_were_out() {
    let engine = Engine::open(options("memory://")).await.expect("opens");
    run(&engine, "CREATE STREAM s (ts TIMESTAMP, k TEXT, WATERMARK FOR ts)").await;
    run(
        &engine,
        "CREATE MATERIALIZED VIEW w AS SELECT k, window_start, window_end, count(*) AS n \
         FROM SESSION(s, ts, INTERVAL '10 seconds', k) GROUP BY k, window_start, window_end \
         EMIT ON WINDOW CLOSE ALLOW LATENESS INTERVAL '1 minute'",
    )
    .await;
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:01', 'a'), ('2026-01-01 00:00:40', 'a')").await;
    assert_eq!(rows(&engine, "SELECT * FROM w").await, ["a|2026-01-01T00:00:01|2026-01-01T00:00:11|1"]);
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:20', 'a')").await;
    let want = ["a|2026-01-01T00:00:01|2026-01-01T00:00:11|1", "a|2026-01-01T00:00:20|2026-01-01T00:00:30|1"];
    assert_eq!(rows(&engine, "SELECT * FROM w").await, want);
    // The row between them makes one of two.
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:10.5', 'a')").await;
    assert_eq!(rows(&engine, "SELECT * FROM w").await, ["a|2026-01-01T00:00:01|2026-01-01T00:00:30|3"]);
    // Later than the allowance: it changes nothing.
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:02:00', 'b'), ('2026-01-01 00:00:05', 'a')").await;
    let want = ["a|2026-01-01T00:00:01|2026-01-01T00:00:30|3", "a|2026-01-01T00:00:40|2026-01-01T00:00:50|1"];
    assert_eq!(rows(&engine, "SELECT * FROM w").await, want);
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_of_a_time_zone_close_when_they_are_over() {
    let engine = Engine::open(options("memory://")).await.expect("opens");
    run(&engine, "CREATE STREAM s (ts TIMESTAMPTZ, WATERMARK FOR ts)").await;
    let queries = [
        "SELECT window_end AS d, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '1 day', timezone => 'Europe/Berlin') GROUP BY 1",
        "SELECT date_trunc('day', ts, 'Europe/Berlin') AS d, count(*) AS n FROM s GROUP BY 1",
        "SELECT CAST(ts AT TIME ZONE 'Europe/Berlin' AS DATE) AS d, count(*) AS n FROM s GROUP BY 1",
    ];
    for (i, query) in queries.iter().enumerate() {
        run(&engine, &format!("CREATE MATERIALIZED VIEW w{i} AS {query} EMIT ON WINDOW CLOSE")).await;
    }
    // The day of 25 hours; its clock shows the third hour twice.
    run(
        &engine,
        "INSERT INTO s VALUES ('2026-10-24 22:00:00Z'), ('2026-10-25 00:30:00Z'), ('2026-10-25 01:30:00Z'), \
         ('2026-10-25 22:59:59Z')",
    )
    .await;
    for i in 0..3 {
        assert!(rows(&engine, &format!("SELECT * FROM w{i}")).await.is_empty(), "w{i}");
    }
    run(&engine, "INSERT INTO s VALUES ('2026-10-25 23:00:00Z')").await;
    for (i, d) in ["2026-10-25T23:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25"].iter().enumerate() {
        assert_eq!(rows(&engine, &format!("SELECT * FROM w{i}")).await, [format!("{d}|4")], "w{i}");
    }
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_within_the_allowance_correct_what_was_out() {
    let engine = Engine::open(options("memory://")).await.expect("opens");
    run(&engine, "CREATE STREAM s (ts TIMESTAMPTZ, x BIGINT, WATERMARK FOR ts)").await;
    run(
        &engine,
        "CREATE MATERIALIZED VIEW w AS SELECT window_end, sum(x) AS x FROM TUMBLE(s, ts, INTERVAL '10 seconds') \
         GROUP BY window_end EMIT ON WINDOW CLOSE ALLOW LATENESS INTERVAL '1 minute' LATE ROWS TO too_late",
    )
    .await;
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:01Z', 1), ('2026-01-01 00:00:12Z', 2)").await;
    assert_eq!(rows(&engine, "SELECT * FROM w").await, ["2026-01-01T00:00:10Z|1"]);
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:05Z', 40)").await;
    assert_eq!(rows(&engine, "SELECT * FROM w").await, ["2026-01-01T00:00:10Z|41"]);
    assert!(rows(&engine, "SELECT * FROM too_late").await.is_empty());
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:01:30Z', 3)").await;
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:05Z', 500), ('2026-01-01 00:00:35Z', 7)").await;
    let want = ["2026-01-01T00:00:10Z|41", "2026-01-01T00:00:20Z|2", "2026-01-01T00:00:40Z|7"];
    assert_eq!(rows(&engine, "SELECT * FROM w").await, want);
    assert_eq!(rows(&engine, "SELECT ts, x FROM too_late").await, ["2026-01-01T00:00:05Z|500"]);
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_results_go_out_with_the_clock_and_final_ones_at_once() {
    let hands = Arc::new(ManualClock::default());
    let engine = Engine::open(EngineOptions { clock: hands.clone(), ..options("memory://") }).await.expect("opens");
    run(&engine, "CREATE STREAM s (ts TIMESTAMP, WATERMARK FOR ts)").await;
    run(
        &engine,
        "CREATE MATERIALIZED VIEW w AS SELECT window_start, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '1 minute') \
         GROUP BY window_start EMIT EVERY INTERVAL '10 seconds'",
    )
    .await;
    hands.set(Timestamp(3_000_000));
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:01'), ('2026-01-01 00:00:02')").await;
    assert!(rows(&engine, "SELECT * FROM w").await.is_empty());
    hands.set(Timestamp(10_000_000));
    becomes(&engine, "SELECT * FROM w", &["2026-01-01T00:00:00|2"]).await;
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:00:03')").await;
    assert_eq!(rows(&engine, "SELECT * FROM w").await, ["2026-01-01T00:00:00|2"]);
    hands.set(Timestamp(11_000_000));
    run(&engine, "INSERT INTO s VALUES ('2026-01-01 00:01:03')").await;
    assert_eq!(rows(&engine, "SELECT * FROM w").await, ["2026-01-01T00:00:00|3"], "closed");
    hands.set(Timestamp(20_000_000));
    becomes(&engine, "SELECT * FROM w", &["2026-01-01T00:00:00|3", "2026-01-01T00:01:00|1"]).await;
    // The same by a setting of the session.
    let mut session = engine.session();
    session
        .query("SET freshness = '10 seconds'; CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM s")
        .await
        .expect("view");
    assert!(session.query("SET freshness = 'soon'").await.is_err());
    becomes(&engine, "SELECT * FROM n", &[""; 0]).await;
    hands.set(Timestamp(30_000_000));
    becomes(&engine, "SELECT * FROM n", &["4"]).await;
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_partition_holds_time_back_no_longer_than_its_timeout() {
    let dir = tempfile::tempdir().expect("folder");
    let hands = Arc::new(ManualClock::default());
    let engine = Engine::open(EngineOptions { clock: hands.clone(), ..options("memory://") }).await.expect("opens");
    for p in 0..8 {
        let mut text = format!("{{\"ts\":\"2026-01-01 00:00:0{p}\",\"p\":{p}}}\n");
        if p != 3 {
            writeln!(text, "{{\"ts\":\"2026-01-01 00:01:00\",\"p\":{p}}}").expect("writes");
        }
        std::fs::write(dir.path().join(format!("{p}.ndjson")), text).expect("writes");
    }
    run(
        &engine,
        &format!(
            "CREATE STREAM s (ts TIMESTAMP, p BIGINT, WATERMARK FOR ts) \
             WITH (connector = 'file', path = '{}/*.ndjson', format = 'json', idle_timeout = '30s')",
            dir.path().display()
        ),
    )
    .await;
    run(
        &engine,
        "CREATE MATERIALIZED VIEW w AS SELECT window_start, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') \
         GROUP BY window_start EMIT ON WINDOW CLOSE",
    )
    .await;
    becomes(&engine, "SELECT count(*) FROM ms.sources WHERE relation = 's' AND NOT idle", &["8"]).await;
    let holds = "SELECT partition LIKE '%3.ndjson', watermark FROM ms.sources WHERE holds_watermark";
    becomes(&engine, holds, &["true|2026-01-01T00:00:03Z"]).await;
    assert!(rows(&engine, "SELECT * FROM w").await.is_empty());
    hands.set(Timestamp(29_000_000));
    let stall = rows(&engine, "EXPLAIN STALL w").await.join("\n");
    for part in [
        "holds back results until the watermark",
        "3.ndjson at 2026-01-01 00:00:03+00, silent for 29.0 s",
        "idle after 30.0 s",
    ] {
        assert!(stall.contains(part), "{stall}");
    }
    hands.set(Timestamp(30_000_000));
    becomes(&engine, "SELECT * FROM w", &["2026-01-01T00:00:00|8"]).await;
    engine.shutdown().await.expect("stops");
}

/// A reproducible stream of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Over two streams, each with its own watermark: `s`, and `v` with versions.
const VIEWS: [(&str, &str); 20] = [
    (
        "tumble",
        "SELECT window_start, k, count(*) AS n, sum(x) AS s, max(x) AS m FROM TUMBLE(s, ts, INTERVAL '10 seconds') \
         GROUP BY window_start, k",
    ),
    (
        "hop",
        "SELECT window_end, k, count(DISTINCT x) AS n, min(x) AS m \
         FROM HOP(s, ts, INTERVAL '5 seconds', INTERVAL '15 seconds') GROUP BY window_end, k",
    ),
    (
        "busiest",
        "SELECT window_start, k, n FROM (SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY n DESC, k) AS r \
         FROM (SELECT window_start, k, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY window_start, k)) \
         WHERE r <= 2",
    ),
    (
        "window_join",
        "SELECT a.window_start, a.k, a.n, b.m FROM \
         (SELECT window_start, k, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY window_start, k) a JOIN \
         (SELECT window_start, max(x) AS m FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY window_start) b \
         ON a.window_start = b.window_start AND a.k < b.m",
    ),
    (
        "interval_join",
        "SELECT a.ts, a.x, b.x AS y FROM s a JOIN s b ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '2 seconds' \
         AND a.x < b.x",
    ),
    (
        "outer_window_join",
        "SELECT a.window_start, a.k, b.n FROM \
         (SELECT DISTINCT window_start, k FROM TUMBLE(s, ts, INTERVAL '10 seconds')) a LEFT JOIN \
         (SELECT window_start, k, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') WHERE x > 50 \
         GROUP BY window_start, k) b ON a.window_start = b.window_start AND a.k = b.k",
    ),
    (
        "semi_window_join",
        "SELECT window_start, k, x FROM TUMBLE(s, ts, INTERVAL '10 seconds') a WHERE EXISTS (SELECT 1 FROM \
         TUMBLE(v, ts, INTERVAL '10 seconds') b WHERE a.window_start = b.window_start AND a.k = b.k AND b.x > 70)",
    ),
    (
        "anti_window_join",
        "SELECT window_start, k, x FROM TUMBLE(s, ts, INTERVAL '10 seconds') a WHERE NOT EXISTS (SELECT 1 FROM \
         TUMBLE(v, ts, INTERVAL '10 seconds') b WHERE a.window_start = b.window_start AND a.k = b.k AND b.x > 30)",
    ),
    (
        "left_interval_join",
        "SELECT a.ts, a.k, a.x, b.x AS y FROM s a LEFT JOIN v b ON a.k = b.k \
         AND b.ts BETWEEN a.ts - INTERVAL '2 seconds' AND a.ts + INTERVAL '1 second'",
    ),
    ("asof_join", "SELECT a.ts, a.k, a.x, b.x AS y FROM s a ASOF LEFT JOIN s b ON a.k = b.k AND a.ts > b.ts"),
    ("earliest_asof_join", "SELECT b.ts, a.k, a.x, b.x AS y FROM s a ASOF JOIN v b ON a.k = b.k AND a.ts <= b.ts"),
    (
        "temporal_join",
        "SELECT a.ts, a.k, a.x, d.x AS y, d.ts AS since FROM s a LEFT JOIN v FOR SYSTEM_TIME AS OF a.ts AS d ON a.k = d.k",
    ),
    ("rows_themselves", "SELECT ts, k, x FROM s WHERE x % 3 = 0"),
    (
        "cumulate",
        "SELECT window_end, k, count(*) AS n, sum(x) AS s \
         FROM CUMULATE(s, ts, INTERVAL '5 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end, k",
    ),
    (
        "session",
        "SELECT window_end, window_start, k, count(*) AS n, sum(x) AS s FROM SESSION(s, ts, INTERVAL '1500 milliseconds', k) \
         GROUP BY window_start, window_end, k",
    ),
    ("session_rows", "SELECT window_end, ts, k, x FROM SESSION(s, ts, INTERVAL '700 milliseconds', k) WHERE x > 20"),
    (
        "session_of_all",
        "SELECT session_end(ts, INTERVAL '400 milliseconds') AS e, count(*) AS n FROM s \
         GROUP BY SESSION(ts, INTERVAL '400 milliseconds')",
    ),
    (
        "last_moment",
        "SELECT window_time, k, min(x) AS m FROM HOP(s, ts, INTERVAL '5 seconds', INTERVAL '15 seconds') \
         GROUP BY window_time, k",
    ),
    (
        "decided_pattern",
        "SELECT last, first, k, n FROM s MATCH_RECOGNIZE (PARTITION BY k ORDER BY ts, x MEASURES FIRST(A.ts) AS first, \
         LAST(B.ts) AS last, count(*) AS n PATTERN (A B+) WITHIN INTERVAL '10 seconds' DEFINE B AS x > PREV(x))",
    ),
    (
        "windows_of_matches",
        "SELECT window_end, k, count(*) AS n FROM TUMBLE((SELECT * FROM s MATCH_RECOGNIZE (PARTITION BY k ORDER BY ts \
         MEASURES MATCH_ROWTIME() AS at AFTER MATCH SKIP TO NEXT ROW PATTERN (A B* C) WITHIN INTERVAL '2 seconds' \
         DEFINE B AS x < A.x, C AS x > A.x)), at, INTERVAL '10 seconds') GROUP BY window_end, k",
    ),
];

/// Views that show every change at once, whose rows are never final.
const LIVE: [(&str, &str); 3] = [
    (
        "earliest_of_all",
        "SELECT a.ts, a.k, a.x, b.x AS y FROM s a ASOF LEFT JOIN v b ON a.k = b.k AND a.ts < b.ts WHERE a.k IS NOT NULL",
    ),
    (
        "asof_windows",
        "SELECT a.ts, a.x, w.n FROM s a ASOF JOIN (SELECT window_end, count(*) AS n \
         FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY window_end) w ON a.ts >= w.window_end",
    ),
    (
        "pattern",
        "SELECT * FROM s MATCH_RECOGNIZE (PARTITION BY k ORDER BY ts, x MEASURES FIRST(A.ts) AS first, LAST(B.ts) AS last, \
         count(*) AS n PATTERN (A B+) DEFINE B AS x > PREV(x)) AS m",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pattern_keeps_is_said() {
    let engine = Engine::open(options("memory://")).await.expect("opens");
    run(&engine, "CREATE STREAM s (ts TIMESTAMP, k BIGINT, x BIGINT, WATERMARK FOR ts)").await;
    let of = |pattern: &str| {
        format!(
            "SELECT * FROM s MATCH_RECOGNIZE (PARTITION BY k ORDER BY ts MEASURES LAST(x) AS x PATTERN {pattern} \
             DEFINE B AS B.x > 1)"
        )
    };
    for (pattern, says) in [
        ("(A B+) WITHIN INTERVAL '1 minute'", "bounded by the watermark: what no match WITHIN the interval reaches"),
        ("(A B{2,3})", "bounded by the number of distinct (k), each with the last 4 rows behind the watermark"),
        ("(A B+)", "fix: add WITHIN INTERVAL"),
        ("(A B $) WITHIN INTERVAL '1 minute'", "fix: leave $ out of PATTERN"),
    ] {
        let sql = format!("EXPLAIN (STATE) CREATE MATERIALIZED VIEW v AS {}", of(pattern));
        let text = rows(&engine, &sql).await.join("\n");
        assert!(text.contains(says), "{pattern}:\n{text}");
    }
    // Rows in another order than that of time are never decided.
    let other = of("(A B)").replace("ORDER BY ts", "ORDER BY x");
    let refused = engine.execute(&format!("CREATE MATERIALIZED VIEW v AS {other} EMIT ON WINDOW CLOSE")).await;
    assert!(refused.is_err_and(|e| e.hint.is_some_and(|h| h.contains("order a pattern by it"))));
    engine.shutdown().await.expect("stops");
}

/// Writes the events over so many files, each in an order that is never more than three seconds off.
fn write_partitions(dir: &Path, events: &[(i64, u64, u64)], partitions: usize, r: &mut Random) {
    let mut parts: Vec<Vec<(i64, i64, u64, u64)>> = vec![Vec::new(); partitions];
    for (ts, k, x) in events {
        let delayed = ts + r.below(3_000) as i64;
        parts[r.below(partitions as u64) as usize].push((delayed, *ts, *k, *x));
    }
    for (p, mut rows) in parts.into_iter().enumerate() {
        rows.sort_by_key(|row| row.0);
        let mut text = String::new();
        for (_, ts, k, x) in rows {
            writeln!(text, "{{\"ts\":{ts},\"k\":{k},\"x\":{x}}}").expect("writes");
        }
        // Time goes on until everything above is final.
        writeln!(text, "{{\"ts\":{},\"k\":null,\"x\":null}}", 10_000_000_000_000i64).expect("writes");
        std::fs::write(dir.join(format!("{p}.ndjson")), text).expect("writes");
    }
}

/// However rows are spread, delayed and cut into epochs, final results are those of the query over all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_rows_arrive_shows_nowhere() {
    for seed in 0..4u64 {
        let mut r = Random(seed * 7919 + 1);
        let base = 1_767_225_600_000i64;
        let mut events: Vec<(i64, u64, u64)> =
            (0..400).map(|_| (base + r.below(120_000) as i64, r.below(4), r.below(100))).collect();
        // Duplicates are rows of their own.
        events.extend_from_within(..40);
        events.sort_unstable();
        let mut versions: Vec<(i64, u64, u64)> =
            (0..100).map(|_| (base + r.below(120_000) as i64, r.below(4), r.below(100))).collect();
        versions.extend_from_within(..10);
        let mut answers: Vec<Vec<String>> = Vec::new();
        for (run_number, partitions) in [1usize, 3, 8].into_iter().enumerate() {
            let (dir, other) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
            write_partitions(dir.path(), &events, partitions, &mut r);
            write_partitions(other.path(), &versions, [1, 2, 8, 5][r.below(4) as usize], &mut r);
            let options = EngineOptions {
                workers: 1 + run_number,
                epoch_rows_max: [7, 64, 100_000][r.below(3) as usize],
                ..options("memory://")
            };
            let engine = Engine::open(options).await.expect("opens");
            for (name, dir) in [("s", &dir), ("v", &other)] {
                let stream = format!(
                    "CREATE STREAM {name} (ts TIMESTAMP(3), k BIGINT, x BIGINT, \
                     WATERMARK FOR ts AS ts - INTERVAL '3 seconds') \
                     WITH (connector = 'file', path = '{}/*.ndjson', format = 'json')",
                    dir.path().display()
                );
                run(&engine, &stream).await;
            }
            for (name, query) in LIVE {
                run(&engine, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
            }
            for (name, query) in VIEWS {
                run(&engine, &format!("CREATE MATERIALIZED VIEW {name} AS {query} EMIT ON WINDOW CLOSE")).await;
                run(&engine, &format!("CREATE MATERIALIZED VIEW {name}_now AS {query}")).await;
            }
            let mut all = Vec::new();
            for (name, query) in VIEWS {
                let want = rows(&engine, query).await;
                assert!(!want.is_empty(), "{name} has nothing to compare");
                let want: Vec<&str> = want.iter().map(String::as_str).collect();
                becomes(&engine, &format!("SELECT * FROM {name}_now"), &want).await;
                // What the last rows are in never closes.
                let closed: Vec<&str> = want.into_iter().filter(|l| l.starts_with("2026")).collect();
                becomes(&engine, &format!("SELECT * FROM {name}"), &closed).await;
                all.extend(closed.into_iter().map(str::to_owned));
            }
            for (name, query) in LIVE {
                let want = rows(&engine, query).await;
                assert!(!want.is_empty(), "{name} has nothing to compare");
                let want: Vec<&str> = want.iter().map(String::as_str).collect();
                becomes(&engine, &format!("SELECT * FROM {name}"), &want).await;
                // Every partition has a last row of its own.
                all.extend(want.into_iter().filter(|l| !l.contains("2286-")).map(str::to_owned));
            }
            let late = rows(&engine, "SELECT (SELECT count(*) FROM s_late) + (SELECT count(*) FROM v_late)").await;
            assert_eq!(late, ["0"], "seed {seed}: no row is later than the delay");
            answers.push(all);
            engine.shutdown().await.expect("stops");
        }
        assert!(answers.windows(2).all(|w| w[0] == w[1]), "seed {seed}: partitions show");
    }
}
