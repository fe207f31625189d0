//! Views that follow the clock, end to end: conditions with `now()`, and joins with what is there when a row arrives.

mod common;
#[path = "common/waiting.rs"]
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use millstream::api::{Engine, EngineOptions};
use millstream::time::{ManualClock, Timestamp};

use self::waiting::{becomes, rows, run};

/// 2026-01-01 00:00:00 UTC, and a second.
const BASE: i64 = 1_767_225_600_000_000;
const SECOND: i64 = 1_000_000;

/// A clock that shows the base.
fn hands() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(after(0)))
}

/// So many seconds after the base.
fn after(seconds: i64) -> Timestamp {
    Timestamp(BASE + seconds * SECOND)
}

fn options(data: &str, hands: &Arc<ManualClock>) -> EngineOptions {
    EngineOptions {
        data: data.into(),
        workers: 3,
        checkpoint_interval: Duration::ZERO,
        clock: hands.clone(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_and_go_with_the_clock_alone() {
    let hands = hands();
    let dir = tempfile::tempdir().expect("folder");
    let data = dir.path().join("data").display().to_string();
    {
        let engine = Engine::open(options(&data, &hands)).await.expect("opens");
        run(&engine, "CREATE TABLE e (id INT, ts TIMESTAMP, until TIMESTAMPTZ)").await;
        run(
            &engine,
            "CREATE MATERIALIZED VIEW recent AS SELECT id FROM e WHERE ts > now() - INTERVAL '10 seconds' AND ts <= now()",
        )
        .await;
        run(&engine, "CREATE MATERIALIZED VIEW valid AS SELECT count(*) AS n FROM e WHERE now() < until").await;
        run(
            &engine,
            "INSERT INTO e VALUES (1, '2026-01-01 00:00:00', '2026-01-01 00:00:20Z'), \
             (2, '2026-01-01 00:00:05', '2026-01-01 00:00:05Z'), (3, NULL, NULL), (4, '2025-12-31 23:59:50', NULL)",
        )
        .await;
        assert_eq!(rows(&engine, "SELECT * FROM recent").await, ["1"]);
        assert_eq!(rows(&engine, "SELECT * FROM valid").await, ["2"]);
        hands.set(after(5));
        becomes(&engine, "SELECT * FROM recent", &["1", "2"]).await;
        becomes(&engine, "SELECT * FROM valid", &["1"]).await;
        // A row is taken back before its time is over.
        run(&engine, "DELETE FROM e WHERE id = 1").await;
        assert_eq!(rows(&engine, "SELECT * FROM recent").await, ["2"]);
        engine.shutdown().await.expect("stops");
    }
    hands.set(after(14));
    let engine = Engine::open(options(&data, &hands)).await.expect("opens again");
    becomes(&engine, "SELECT * FROM recent", &["2"]).await;
    hands.set(after(15));
    becomes(&engine, "SELECT * FROM recent", &[""; 0]).await;
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

const VIEWS: [(&str, &str); 12] = [
    (
        "sliding",
        "SELECT k, count(*) AS n, sum(x) AS s, max(x) AS m FROM e WHERE ts > now() - INTERVAL '20 seconds' GROUP BY k",
    ),
    ("total", "SELECT count(*) AS n, min(ts) AS t FROM e WHERE ts BETWEEN now() - INTERVAL '15 seconds' AND now()"),
    (
        "pairs",
        "SELECT a.k, a.x, b.x AS y FROM e a JOIN e b ON a.k = b.k AND a.x < b.x \
         WHERE a.ts > localtimestamp - INTERVAL '10 seconds' AND b.ts <= CURRENT_TIMESTAMP",
    ),
    (
        "outer_pairs",
        "SELECT a.k, a.x, b.x AS y FROM e a LEFT JOIN e b ON a.k = b.k AND a.x < b.x \
         AND b.ts > now() - INTERVAL '10 seconds'",
    ),
    ("plain_or_late", "SELECT k, x FROM e WHERE x < 20 OR (ts < now() - INTERVAL '10 seconds' AND k = 1)"),
    ("neither", "SELECT k, x, ts FROM e WHERE NOT (ts > now() OR x > 50)"),
    ("silent", "SELECT k, max(ts) AS t FROM e GROUP BY k HAVING max(ts) < mz_now() - INTERVAL '5 seconds'"),
    ("minute", "SELECT k, x FROM e WHERE ts >= date_trunc('minute', now()) AND ts < now()"),
    ("day", "SELECT d, count(*) AS n FROM e WHERE d = current_date OR d IS NULL GROUP BY d"),
    ("young", "SELECT k, x FROM e WHERE now() - ts < INTERVAL '7 seconds'"),
    (
        "distinct_keys",
        "SELECT DISTINCT k FROM e WHERE CASE WHEN x > 50 THEN ts + INTERVAL '10 seconds' ELSE ts END > now()",
    ),
    (
        "top",
        "SELECT k, x, ts FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY x DESC, ts, d) AS r FROM e \
         WHERE ts > now() - INTERVAL '20 seconds') WHERE r <= 2",
    ),
];

/// However rows and the clock go, a view is its query as of the clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_its_query_at_every_moment() {
    for seed in 0..3u64 {
        let mut r = Random(seed * 31 + 5);
        let hands = hands();
        let dir = tempfile::tempdir().expect("folder");
        let data = dir.path().join("data").display().to_string();
        let mut engine = Engine::open(options(&data, &hands)).await.expect("opens");
        run(&engine, "CREATE TABLE e (id INT PRIMARY KEY, k INT, x INT, ts TIMESTAMP, d DATE)").await;
        let mut created = 0;
        // Near midnight, so that the date changes on the way.
        let mut now = 86_400 - 60;
        hands.set(after(now));
        for step in 0..14 {
            if step == 2 || step == 6 {
                // Views over history, and views that were there from the start.
                let half = VIEWS.len() / 2;
                for (name, query) in &VIEWS[created..created + half] {
                    run(&engine, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
                }
                created += half;
            }
            let mut values = Vec::new();
            for i in 0..6 {
                let ts = match r.below(10) {
                    0 => "NULL".to_owned(),
                    _ => format!(
                        "TIMESTAMP '2026-01-01 00:00:00' + INTERVAL '{} seconds'",
                        now - 40 + r.below(70) as i64
                    ),
                };
                let d = ["NULL", "'2026-01-01'", "'2026-01-02'", "'2025-12-31'"][r.below(4) as usize];
                let id = step * 6 + i;
                values.push(format!("({id}, {}, {}, {ts}, {d})", r.below(3), r.below(100)));
            }
            run(&engine, &format!("INSERT INTO e VALUES {}", values.join(", "))).await;
            run(&engine, &format!("DELETE FROM e WHERE id % 7 = {}", r.below(12))).await;
            if r.below(3) == 0 {
                run(&engine, &format!("UPDATE e SET ts = ts + INTERVAL '3 seconds' WHERE x > {}", r.below(100))).await;
            }
            if step == 9 {
                engine.shutdown().await.expect("stops");
                now += 4;
                hands.set(after(now));
                engine = Engine::open(options(&data, &hands)).await.expect("opens again");
            }
            now += [0, 1, 3, 8, 30][r.below(5) as usize];
            hands.set(after(now));
            for (name, query) in &VIEWS[..created] {
                let want = rows(&engine, query).await;
                becomes(&engine, &format!("SELECT * FROM {name}"), &want).await;
            }
        }
        engine.shutdown().await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_what_bounds_the_state() {
    let engine = Engine::open(options("memory://", &hands())).await.expect("opens");
    run(&engine, "CREATE STREAM s (k INT, ts TIMESTAMP)").await;
    let plan = rows(
        &engine,
        "EXPLAIN (STATE) CREATE MATERIALIZED VIEW v AS SELECT k, ts FROM s WHERE ts > now() - INTERVAL '1 hour'",
    )
    .await;
    let text = plan.join("\n");
    assert!(text.contains("TemporalFilter before ts + 3600s"), "{text}");
    assert!(text.contains("bounded by now()"), "{text}");
    assert!(!text.contains("UNBOUNDED"), "{text}");
    let refused = [
        ("SELECT k, now() AS at FROM s", "the select list"),
        ("SELECT count(*) FROM s GROUP BY ts > now()", "GROUP BY"),
        ("SELECT k FROM s WHERE ts > now() - INTERVAL '1 month'", "this condition with now()"),
        ("SELECT a.k FROM s a LEFT JOIN s b ON a.k = b.k AND a.ts > now()", "outer join"),
    ];
    for (sql, what) in refused {
        let text = format!("CREATE MATERIALIZED VIEW v AS {sql}");
        let e = engine.execute(&text).await.expect_err("is refused");
        assert!(e.code.0 == "0A000" && e.message.contains(what), "{sql}: {} {}", e.code.0, e.message);
        let at = text.find("now()").map(|at| at + 1);
        assert_eq!((e.position, e.hint.is_some()), (at, true), "{sql}");
    }
    engine.shutdown().await.expect("stops");
}

/// Flink, "Joins in Continuous Queries", processing time temporal join: orders and the rates of currencies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_keeps_the_rate_it_met() {
    let hands = hands();
    let dir = tempfile::tempdir().expect("folder");
    let data = dir.path().join("data").display().to_string();
    {
        let engine = Engine::open(options(&data, &hands)).await.expect("opens");
        run(&engine, "CREATE STREAM orders (amount INT, currency TEXT)").await;
        run(&engine, "CREATE TABLE rates (currency TEXT PRIMARY KEY, rate INT)").await;
        run(
            &engine,
            "CREATE MATERIALIZED VIEW converted AS SELECT o.amount, o.currency, r.rate, o.amount * r.rate AS yen \
             FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() AS r ON r.currency = o.currency",
        )
        .await;
        run(
            &engine,
            "CREATE MATERIALIZED VIEW all_orders AS SELECT o.amount, r.rate FROM orders o \
             LEFT JOIN rates FOR SYSTEM_TIME AS OF proctime() r ON o.currency = r.currency AND r.rate > 1",
        )
        .await;
        // What the documentation says: at 10:15 US Dollar 102, Euro 114, Yen 1; at 10:30 Euro 116 ..
        run(&engine, "INSERT INTO rates VALUES ('US Dollar', 102), ('Euro', 114), ('Yen', 1)").await;
        run(&engine, "INSERT INTO orders VALUES (1, 'Euro'), (5, 'Pound')").await;
        run(&engine, "UPDATE rates SET rate = 116 WHERE currency = 'Euro'").await;
        run(&engine, "INSERT INTO orders VALUES (2, 'Euro'), (10, 'US Dollar'), (7, 'Yen'), (8, NULL)").await;
        run(&engine, "DELETE FROM rates WHERE currency = 'Euro'").await;
        run(&engine, "INSERT INTO orders VALUES (4, 'Euro')").await;
        let want = ["10|US Dollar|102|1020", "1|Euro|114|114", "2|Euro|116|232", "7|Yen|1|7"];
        assert_eq!(rows(&engine, "SELECT * FROM converted").await, want);
        engine.shutdown().await.expect("stops");
    }
    let engine = Engine::open(options(&data, &hands)).await.expect("opens again");
    run(&engine, "INSERT INTO rates VALUES ('Euro', 119)").await;
    run(&engine, "INSERT INTO orders VALUES (3, 'Euro'), (3, 'Euro')").await;
    let want =
        ["10|US Dollar|102|1020", "1|Euro|114|114", "2|Euro|116|232", "3|Euro|119|357", "3|Euro|119|357", "7|Yen|1|7"];
    assert_eq!(rows(&engine, "SELECT * FROM converted").await, want);
    let want = ["10|102", "1|114", "2|116", "3|119", "3|119", "4|NULL", "5|NULL", "7|NULL", "8|NULL"];
    assert_eq!(rows(&engine, "SELECT * FROM all_orders").await, want);
    // In a SELECT every row arrives now.
    let batch = "SELECT o.amount, r.rate FROM orders o JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() r \
                 ON o.currency = r.currency";
    assert_eq!(rows(&engine, batch).await, ["10|102", "1|119", "2|119", "3|119", "3|119", "4|119", "7|1"]);
    let plan = rows(&engine, "EXPLAIN (STATE) converted").await.join("\n");
    assert!(plan.contains("the rows of the right side"), "orders are not kept: {plan}");
    assert!(plan.contains("bounded by table rates"), "{plan}");
    for (sql, what) in [
        ("SELECT * FROM rates a JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() b ON a.rate = b.rate", "must be a stream"),
        (
            "SELECT * FROM orders a RIGHT JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() b ON a.currency = b.currency",
            "LEFT",
        ),
        ("SELECT * FROM orders a JOIN rates FOR SYSTEM_TIME AS OF PROCTIME() b ON a.amount < b.rate", "equality"),
        ("SELECT * FROM rates FOR SYSTEM_TIME AS OF PROCTIME()", "another time"),
    ] {
        let e = engine.execute(&format!("CREATE MATERIALIZED VIEW v AS {sql}")).await.expect_err("is refused");
        assert!(e.code.0 == "0A000" && e.message.contains(what) && e.hint.is_some(), "{sql}: {} {e}", e.code.0);
    }
    engine.shutdown().await.expect("stops");
}

/// Rows that are sealed while the view is busy are not joined with what comes after them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_epoch_meets_what_was_there_in_it() {
    let engine = Engine::open(options("memory://", &hands())).await.expect("opens");
    run(&engine, "CREATE STREAM s (i INT, k INT)").await;
    run(&engine, "CREATE TABLE d (k INT PRIMARY KEY, v INT)").await;
    run(&engine, "INSERT INTO d VALUES (0, 0), (1, 0), (2, 0)").await;
    run(
        &engine,
        "CREATE MATERIALIZED VIEW m AS SELECT i, s.k, v FROM s JOIN d FOR SYSTEM_TIME AS OF PROCTIME() ON s.k = d.k",
    )
    .await;
    let mut want = Vec::new();
    for i in 0..60 {
        run(&engine, &format!("INSERT INTO s VALUES ({i}, {})", i % 3)).await;
        want.push(format!("{i}|{}|{}", i % 3, i / 3));
        run(&engine, &format!("UPDATE d SET v = v + 1 WHERE k = {}", i % 3)).await;
    }
    want.sort();
    becomes(&engine, "SELECT * FROM m", &want).await;
    engine.shutdown().await.expect("stops");
}

/// Flink, "Joins", event-time temporal join: orders and the rates of their times. What it has at the end is said by
/// `sqllogictest/slt/join/flink_temporal_join.slt`; here is what it keeps, and what is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_has_the_rate_of_its_time() {
    let dir = tempfile::tempdir().expect("folder");
    let data = dir.path().join("data").display().to_string();
    let engine = Engine::open(options(&data, &hands())).await.expect("opens");
    run(&engine, "CREATE STREAM orders (id INT, currency TEXT, ts TIMESTAMP, WATERMARK FOR ts)").await;
    run(
        &engine,
        "CREATE STREAM rates (currency TEXT, rate INT, since TIMESTAMP(3), WATERMARK FOR since AS since - INTERVAL '1 second')",
    )
    .await;
    let join = "orders o LEFT JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency";
    run(&engine, &format!("CREATE MATERIALIZED VIEW v AS SELECT o.id, r.rate FROM {join}")).await;
    run(&engine, &format!("CREATE MATERIALIZED VIEW final AS SELECT o.id, r.rate FROM {join} EMIT ON WINDOW CLOSE"))
        .await;
    run(
        &engine,
        &format!(
            "CREATE MATERIALIZED VIEW per_minute AS SELECT window_start, count(rate) AS n FROM TUMBLE((SELECT o.ts, r.rate \
             FROM {join}), ts, INTERVAL '1 minute') GROUP BY window_start EMIT ON WINDOW CLOSE"
        ),
    )
    .await;
    for minute in 0..10 {
        let values: Vec<String> = (0..50)
            .map(|i| format!("('{}', {}, '2026-01-01 00:{minute:02}:{i:02}')", i % 2, minute * 100 + i))
            .collect();
        run(&engine, &format!("INSERT INTO rates VALUES {}", values.join(", "))).await;
        let values: Vec<String> = (0..50)
            .map(|i| format!("({}, '{}', '2026-01-01 00:{minute:02}:{i:02}')", minute * 100 + i, i % 3))
            .collect();
        run(&engine, &format!("INSERT INTO orders VALUES {}", values.join(", "))).await;
    }
    let plan = rows(&engine, "EXPLAIN (STATE) v").await.join("\n");
    assert!(plan.contains("AsOfJoin Left on (currency = currency"), "{plan}");
    assert!(plan.contains("bounded by the number of distinct (currency), and by the watermark"), "{plan}");
    let query = rows(&engine, &format!("SELECT o.id, r.rate FROM {join}")).await;
    assert_eq!(query.len(), 500);
    assert_eq!(rows(&engine, "SELECT * FROM v").await, query);
    // Up to 00:09:48, which is as far as the rates are known.
    let known: Vec<String> =
        rows(&engine, &format!("SELECT o.id, r.rate FROM {join} WHERE o.ts < '2026-01-01 00:09:48'")).await;
    assert_eq!(rows(&engine, "SELECT * FROM final").await, known);
    let minutes = rows(&engine, "SELECT count(*), max(n) FROM per_minute").await;
    assert_eq!(minutes, ["9|34"], "a third of the orders has a currency without rates");
    let kept = "SELECT name, state_rows FROM ms.jobs WHERE name = 'v' AND state_rows > 500 + 20";
    assert!(rows(&engine, kept).await.is_empty(), "{:?}", rows(&engine, "SELECT name, state_rows FROM ms.jobs").await);
    engine.shutdown().await.expect("stops");
    // Nor is it stored.
    let engine = Engine::open(options(&data, &hands())).await.expect("opens again");
    assert!(rows(&engine, kept).await.is_empty(), "{:?}", rows(&engine, "SELECT name, state_rows FROM ms.jobs").await);
    run(
        &engine,
        "INSERT INTO orders VALUES (1000, '1', '2026-01-01 00:30:00'), (1001, '2', '2026-01-01 00:30:00'), \
         (1002, '1', '2026-01-01 00:32:00')",
    )
    .await;
    run(&engine, "INSERT INTO rates VALUES ('1', 2000, '2026-01-01 00:29:59'), ('1', 3000, '2026-01-01 00:31:00')")
        .await;
    assert_eq!(rows(&engine, "SELECT * FROM final WHERE id >= 1000").await, ["1000|2000", "1001|NULL"]);
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_versions_is_refused_with_a_way_out() {
    let engine = Engine::open(options("memory://", &hands())).await.expect("opens");
    for sql in [
        "CREATE STREAM a (k INT, ts TIMESTAMP, tz TIMESTAMPTZ, t TEXT, WATERMARK FOR ts)",
        "CREATE STREAM d (k INT, since TIMESTAMP, WATERMARK FOR since)",
        "CREATE TABLE p (k INT, since TIMESTAMP)",
        "CREATE VIEW latest AS SELECT k, since FROM \
         (SELECT *, row_number() OVER (PARTITION BY k ORDER BY since DESC) AS n FROM d) WHERE n = 1",
        "CREATE MATERIALIZED VIEW windows AS SELECT window_start, window_end, k FROM TUMBLE(d, since, INTERVAL '1 minute')",
    ] {
        run(&engine, sql).await;
    }
    let cases = [
        ("a JOIN p FOR SYSTEM_TIME AS OF a.ts ON a.k = p.k", "0A000", "bounded by a watermark", "p FOR"),
        ("a JOIN latest FOR SYSTEM_TIME AS OF a.ts ON a.k = latest.k", "0A000", "does not just pick", "latest FOR"),
        ("a JOIN windows FOR SYSTEM_TIME AS OF a.ts w ON a.k = w.k", "0A000", "several", "windows FOR"),
        ("a JOIN d FOR SYSTEM_TIME AS OF d.since ON a.k = d.k", "42P10", "no column of the left side", "SYSTEM_TIME"),
        (
            "a JOIN d FOR SYSTEM_TIME AS OF '2026-01-01' ON a.k = d.k",
            "42P10",
            "no column of the left side",
            "SYSTEM_TIME",
        ),
        ("a JOIN d FOR SYSTEM_TIME AS OF now() ON a.k = d.k", "42P10", "no column of the left side", "SYSTEM_TIME"),
        ("a JOIN d FOR SYSTEM_TIME AS OF a.tz ON a.k = d.k", "42804", "timestamp with time zone", "SYSTEM_TIME"),
        ("a JOIN d FOR SYSTEM_TIME AS OF a.t ON a.k = d.k", "42804", "text", "SYSTEM_TIME"),
        ("a JOIN d FOR SYSTEM_TIME AS OF a.k ON a.k = d.k", "42804", "integer", "SYSTEM_TIME"),
        ("a RIGHT JOIN d FOR SYSTEM_TIME AS OF a.ts ON a.k = d.k", "0A000", "LEFT joins only", "SYSTEM_TIME"),
        ("a FULL JOIN d FOR SYSTEM_TIME AS OF a.ts ON a.k = d.k", "0A000", "LEFT joins only", "SYSTEM_TIME"),
        ("a JOIN d FOR SYSTEM_TIME AS OF a.ts USING (k)", "0A000", "needs an ON", "SYSTEM_TIME"),
        ("a JOIN d FOR SYSTEM_TIME AS OF a.ts ON true", "0A000", "equalities", "SYSTEM_TIME"),
        ("a JOIN d FOR SYSTEM_TIME AS OF a.ts ON a.k = d.k AND d.k > 1", "0A000", "equalities", "SYSTEM_TIME"),
        ("d FOR SYSTEM_TIME AS OF now()", "0A000", "another time", "SYSTEM_TIME"),
    ];
    for (from, code, what, at) in cases {
        for text in [format!("SELECT 1 FROM {from}"), format!("CREATE MATERIALIZED VIEW v AS SELECT 1 FROM {from}")] {
            let e = engine.execute(&text).await.expect_err(&text);
            assert!(e.code.0 == code && e.message.contains(what), "{text}: {} {e}", e.code.0);
            assert!(e.hint.is_some(), "{text}: {e:?}");
            assert_eq!(e.position, text.find(at).map(|at| at + 1), "{text}: {e}");
        }
    }
    let with = "WITH d AS (SELECT * FROM d) SELECT 1 FROM a JOIN d FOR SYSTEM_TIME AS OF a.ts ON a.k = d.k";
    let e = engine.execute(with).await.expect_err("is refused");
    assert!(e.code.0 == "0A000" && e.hint.is_some_and(|h| h.contains("CREATE VIEW")), "{}", e.message);
    let missing = "SELECT 1 FROM a JOIN nothing FOR SYSTEM_TIME AS OF a.ts ON a.k = nothing.k";
    assert_eq!(engine.execute(missing).await.expect_err("is not there").code.0, "42P01");
    engine.shutdown().await.expect("stops");
}
