//! Changing a system that runs: pausing, renaming, replacing, indexes, options of streams; before and after restarts.

mod common;

use std::time::Duration;

use futures::StreamExt;
use millstream::api::{Engine, EngineOptions, Session};

use self::common::lines;

fn options(data: &str) -> EngineOptions {
    EngineOptions { data: data.into(), workers: 2, checkpoint_interval: Duration::ZERO, ..Default::default() }
}

async fn rows(s: &mut Session, sql: &str) -> Vec<String> {
    lines(&s.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {} {e} {:?} {:?}", e.code.0, e.detail, e.hint)))
}

async fn run(s: &mut Session, sql: &str) {
    rows(s, sql).await;
}

/// SQLSTATE and text of the error.
async fn fails(s: &mut Session, sql: &str) -> (String, String) {
    match s.query(sql).await {
        Ok(b) => panic!("{sql}: gave {:?}", lines(&b)),
        Err(e) => (
            e.code.0.to_owned(),
            format!("{} {} {}", e.message, e.detail.unwrap_or_default(), e.hint.unwrap_or_default()),
        ),
    }
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().to_str().expect("utf8").to_owned();
    (folder, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_view_stands_still_and_catches_up_after_a_restart() {
    let (_folder, data) = folder();
    let files = tempfile::tempdir().expect("folder");
    let file = files.path().join("s.ndjson");
    std::fs::write(&file, "{\"k\": 1}\n{\"k\": 2}\n").expect("written");
    let engine = Engine::open(options(&data)).await.expect("opens");
    let mut s = engine.session();
    run(&mut s, "CREATE TABLE t (id BIGINT PRIMARY KEY, k BIGINT); INSERT INTO t VALUES (1, 1), (2, 2)").await;
    run(&mut s, "CREATE STREAM logged (k BIGINT); INSERT INTO logged VALUES (1), (2)").await;
    let stream = format!(
        "CREATE STREAM f (k BIGINT) WITH (connector = 'file', path = '{}', poll_interval = '20ms')",
        file.display()
    );
    run(&mut s, &stream).await;
    run(
        &mut s,
        "CREATE MATERIALIZED VIEW j AS SELECT t.id, count(*) AS n FROM t JOIN logged l ON t.k = l.k GROUP BY t.id;
         CREATE MATERIALIZED VIEW jj AS SELECT sum(n) AS n FROM j;
         CREATE MATERIALIZED VIEW m AS SELECT f.k, t.id FROM f JOIN t ON f.k = t.k;
         CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM t;
         CREATE MATERIALIZED VIEW follows AS SELECT count(*) AS n FROM f;",
    )
    .await;
    run(&mut s, "ALTER MATERIALIZED VIEW j PAUSE; ALTER MATERIALIZED VIEW m PAUSE").await;
    let status = rows(&mut s, "SELECT name, status FROM ms.jobs").await;
    assert_eq!(status, ["follows|running", "jj|paused", "j|paused", "m|paused", "other|running"]);
    // Others go on, and a checkpoint does not wait for it.
    run(&mut s, "INSERT INTO t VALUES (3, 3); UPDATE t SET k = 2 WHERE id = 1; INSERT INTO logged VALUES (2), (3)")
        .await;
    assert_eq!(rows(&mut s, "SELECT * FROM other").await, ["3"]);
    assert_eq!(rows(&mut s, "SELECT * FROM j").await, ["1|1", "2|1"]);
    assert_eq!(rows(&mut s, "SELECT * FROM jj").await, ["2"]);
    // Together with relations that go on, each paused view is as it was.
    assert_eq!(rows(&mut s, "SELECT j.n, o.n FROM j, other o").await, ["1|3", "1|3"]);
    run(&mut s, "CHECKPOINT").await;
    run(&mut s, "INSERT INTO t VALUES (4, 2)").await;
    let text = std::fs::read_to_string(&file).expect("read") + "{\"k\": 3}\n";
    std::fs::write(&file, text).expect("written");
    run(&mut s, "FLUSH").await;
    let (code, text) = fails(&mut s, "CREATE MATERIALIZED VIEW over AS SELECT * FROM j").await;
    assert_eq!(code, "55000", "{text}");
    let (code, text) = fails(&mut s, "ALTER MATERIALIZED VIEW jj RESUME").await;
    assert!(code == "55000" && text.contains("ALTER MATERIALIZED VIEW j RESUME"), "{text}");
    drop(s);
    drop(engine);
    // A crash: it stays paused, at the same place.
    let engine = Engine::open(options(&data)).await.expect("opens again");
    let mut s = engine.session();
    assert_eq!(rows(&mut s, "SELECT * FROM j").await, ["1|1", "2|1"]);
    assert_eq!(rows(&mut s, "SELECT * FROM m").await, ["1|1", "2|2"]);
    assert_eq!(rows(&mut s, "SELECT status FROM ms.jobs WHERE name = 'jj'").await, ["paused"]);
    let mut changes = engine.subscribe("j", true).await.expect("subscribes");
    assert_eq!(changes.next().await.expect("first").expect("ok").batch.len(), 2);
    run(&mut s, "ALTER MATERIALIZED VIEW j RESUME").await;
    assert_eq!(rows(&mut s, "SELECT * FROM j").await, ["1|2", "2|2", "3|1", "4|2"]);
    assert_eq!(rows(&mut s, "SELECT * FROM jj").await, ["7"]);
    // Who followed it hears what changed, as one step.
    let delta = loop {
        let d = changes.next().await.expect("more").expect("ok");
        if !d.batch.is_empty() {
            break d.batch;
        }
    };
    assert_eq!(delta.len(), 6, "two rows change, two are new");
    run(&mut s, "ALTER MATERIALIZED VIEW m RESUME; FLUSH").await;
    assert_eq!(rows(&mut s, "SELECT * FROM m").await, ["2|1", "2|2", "2|4", "3|3"]);
    assert_eq!(rows(&mut s, "SELECT DISTINCT status FROM ms.jobs").await, ["running"]);
    run(&mut s, "DELETE FROM t WHERE id = 2; CHECKPOINT").await;
    drop(s);
    drop(engine);
    let engine = Engine::open(options(&data)).await.expect("opens a third time");
    let mut s = engine.session();
    run(&mut s, "INSERT INTO t VALUES (5, 3); FLUSH").await;
    assert_eq!(rows(&mut s, "SELECT * FROM j").await, ["1|2", "3|1", "4|2", "5|1"]);
    assert_eq!(rows(&mut s, "SELECT * FROM m").await, ["2|1", "2|4", "3|3", "3|5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_paused_and_resumed_between_two_checkpoints_keeps_its_state() {
    let (_folder, data) = folder();
    let engine = Engine::open(options(&data)).await.expect("opens");
    let mut s = engine.session();
    run(&mut s, "CREATE TABLE t (a BIGINT); CREATE MATERIALIZED VIEW v AS SELECT sum(a) AS s, count(*) AS n FROM t")
        .await;
    for round in 0..3 {
        run(&mut s, "INSERT INTO t VALUES (1); ALTER MATERIALIZED VIEW v PAUSE; INSERT INTO t VALUES (10)").await;
        run(&mut s, "ALTER MATERIALIZED VIEW v RESUME; INSERT INTO t VALUES (100); CHECKPOINT").await;
        assert_eq!(rows(&mut s, "SELECT * FROM v").await, [format!("{}|{}", (round + 1) * 111, (round + 1) * 3)]);
    }
    drop(s);
    drop(engine);
    let engine = Engine::open(options(&data)).await.expect("opens again");
    let mut s = engine.session();
    run(&mut s, "DELETE FROM t WHERE a = 1").await;
    assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["330|6"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_cannot_be_read_are_reported_once_for_a_stream() {
    let (_folder, data) = folder();
    let files = tempfile::tempdir().expect("folder");
    let file = files.path().join("s.ndjson");
    std::fs::write(&file, "{\"k\": 1}\nrubbish\n{\"k\": 0}\n{\"k\": 4}\n").expect("written");
    let engine = Engine::open(options(&data)).await.expect("opens");
    let mut s = engine.session();
    let create = format!(
        "CREATE STREAM f (k BIGINT, inverse BIGINT AS (12 / k)) \
         WITH (connector = 'file', path = '{}', poll_interval = '20ms')",
        file.display()
    );
    run(&mut s, &create).await;
    for _ in 0..2 {
        run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM f; FLUSH").await;
        assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["2"]);
        let errors = rows(&mut s, "SELECT \"offset\", origin = 'computed column' FROM ms.errors").await;
        assert_eq!(errors, ["17|true", "9|false"], "each with its own place");
        run(&mut s, "DROP MATERIALIZED VIEW v").await;
    }
    run(&mut s, "CHECKPOINT").await;
    drop(s);
    drop(engine);
    let text = std::fs::read_to_string(&file).expect("read") + "more rubbish\n";
    std::fs::write(&file, text).expect("written");
    let engine = Engine::open(options(&data)).await.expect("opens again");
    let mut s = engine.session();
    run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM f; FLUSH").await;
    assert_eq!(rows(&mut s, "SELECT count(*) FROM ms.errors").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_error_of_a_stream_skips_or_fails_and_can_be_changed() {
    let files = tempfile::tempdir().expect("folder");
    let file = files.path().join("s.ndjson");
    std::fs::write(&file, "{\"k\": 1}\nrubbish\n{\"k\": 2}\n").expect("written");
    let engine = Engine::open(options("memory://")).await.expect("opens");
    let mut s = engine.session();
    let create = |name: &str, on_error: &str| {
        format!(
            "CREATE STREAM {name} (k BIGINT) WITH (connector = 'file', path = '{}', poll_interval = '20ms', \
             on_error = '{on_error}')",
            file.display()
        )
    };
    assert_eq!(fails(&mut s, &create("x", "ignore")).await.0, "22023");
    run(&mut s, &create("skips", "skip")).await;
    run(&mut s, "CREATE MATERIALIZED VIEW vs AS SELECT count(*) AS n FROM skips").await;
    assert_eq!(rows(&mut s, "SELECT * FROM vs").await, ["2"]);
    assert_eq!(rows(&mut s, "SELECT DISTINCT errors FROM ms.sources WHERE relation = 'skips'").await, ["1"]);
    run(&mut s, &create("stops", "fail")).await;
    let (_, text) = fails(&mut s, "CREATE MATERIALIZED VIEW vf AS SELECT count(*) AS n FROM stops").await;
    assert!(text.contains("cannot be read"), "{text}");
    let (_, text) = fails(&mut s, "SELECT * FROM stops").await;
    assert!(text.contains("cannot be read") && text.contains("ALTER STREAM"), "{text}");
    run(&mut s, "ALTER STREAM stops SET (on_error = 'dead_letter')").await;
    run(&mut s, "CREATE MATERIALIZED VIEW vf AS SELECT count(*) AS n FROM stops").await;
    assert_eq!(rows(&mut s, "SELECT * FROM vf").await, ["2"]);
    assert_eq!(rows(&mut s, "SELECT relation FROM ms.errors").await, ["stops"]);
    assert_eq!(fails(&mut s, "ALTER STREAM stops SET (path = '/elsewhere')").await.0, "22023");
    assert_eq!(fails(&mut s, "ALTER STREAM stops SET (on_eror = 'skip')").await.0, "22023");
    assert!(rows(&mut s, "SHOW CREATE STREAM stops").await[0].contains("on_error = 'dead_letter'"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_stream_is_not_read_and_misses_nothing() {
    let files = tempfile::tempdir().expect("folder");
    let file = files.path().join("s.ndjson");
    std::fs::write(&file, "{\"k\": 1}\n").expect("written");
    let engine = Engine::open(options("memory://")).await.expect("opens");
    let mut s = engine.session();
    let create = format!(
        "CREATE STREAM f (k BIGINT) WITH (connector = 'file', path = '{}', poll_interval = '20ms')",
        file.display()
    );
    run(&mut s, &create).await;
    run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT sum(k) AS s FROM f; ALTER STREAM f PAUSE").await;
    std::fs::write(&file, "{\"k\": 1}\n{\"k\": 2}\n").expect("written");
    run(&mut s, "FLUSH").await;
    assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["1"]);
    assert_eq!(rows(&mut s, "SELECT status FROM ms.sources").await, ["paused"]);
    run(&mut s, "ALTER STREAM f RESUME; FLUSH").await;
    assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_from_the_environment_reach_the_source_and_nobody_else() {
    let files = tempfile::tempdir().expect("folder");
    std::fs::write(files.path().join("s.ndjson"), "{\"k\": 1}\n").expect("written");
    let place = files.path().to_str().expect("utf8").to_owned();
    let known = place.clone();
    let environment: millstream::coord::Environment =
        std::sync::Arc::new(move |n: &str| (n == "PLACE").then(|| known.clone()));
    let engine = Engine::open(EngineOptions { environment, ..options("memory://") }).await.expect("opens");
    let mut s = engine.session();
    run(&mut s, "CREATE STREAM f (k BIGINT) WITH (connector = 'file', path = '${PLACE}/s.ndjson')").await;
    assert_eq!(rows(&mut s, "SELECT * FROM f").await, ["1"]);
    let shown = rows(&mut s, "SHOW CREATE STREAM f").await;
    assert!(shown[0].contains("${PLACE}") && !shown[0].contains(&place), "{shown:?}");
    let (code, text) = fails(&mut s, "CREATE STREAM g (k BIGINT) WITH (connector = 'file', path = '${NO}/s')").await;
    assert!(code == "22023" && text.contains("\"NO\""), "{text}");
    let (_, text) =
        fails(&mut s, "CREATE STREAM g (k BIGINT) WITH (connector = 'file', path = '${PLACE}/none/x')").await;
    assert!(!text.contains(&place), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_session_reads_what_was_acknowledged() {
    let engine = Engine::open(options("memory://")).await.expect("opens");
    let mut s = engine.session();
    run(
        &mut s,
        "CREATE TABLE t (a BIGINT);
         CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t;
         CREATE MATERIALIZED VIEW vv AS SELECT n + 0 AS n FROM v;",
    )
    .await;
    for i in 1..=200 {
        run(&mut s, "INSERT INTO t VALUES (1)").await;
        let view = if i % 2 == 0 { "v" } else { "vv" };
        let mut other = engine.session();
        assert_eq!(rows(&mut other, &format!("SELECT * FROM {view}")).await, [i.to_string()]);
        if i % 20 == 0 {
            let first =
                engine.subscribe("vv", true).await.expect("subscribes").next().await.expect("first").expect("ok");
            assert_eq!(lines(&[first.batch.rows]), [i.to_string()]);
        }
    }
    assert_eq!(fails(&mut s, "SET consistency = 'eventual'").await.0, "22023");
    run(&mut s, "SET consistency = 'latest'; SELECT * FROM v").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_a_view_carries_its_dependents_along() {
    let (_folder, data) = folder();
    let engine = Engine::open(options(&data)).await.expect("opens");
    let mut s = engine.session();
    run(
        &mut s,
        "CREATE STREAM e (k TEXT, x BIGINT); INSERT INTO e VALUES ('a', 1), ('b', 2), ('a', 3);
         CREATE MATERIALIZED VIEW base AS SELECT k, x FROM e;
         CREATE VIEW text AS SELECT k, x * 10 AS y FROM base;
         CREATE MATERIALIZED VIEW sums AS SELECT k, sum(x) AS s FROM base GROUP BY k;
         CREATE MATERIALIZED VIEW total (t) AS SELECT sum(s) FROM sums;
         CREATE MATERIALIZED VIEW through AS SELECT sum(y) AS s FROM text;
         CREATE INDEX by_k ON base (k);
         COMMENT ON MATERIALIZED VIEW base IS 'what there is'",
    )
    .await;
    let mut follows = engine.subscribe("sums", true).await.expect("subscribes");
    follows.next().await.expect("first").expect("ok");
    // Another order of columns, one more, and other rows.
    run(
        &mut s,
        "CREATE OR REPLACE MATERIALIZED VIEW base AS SELECT x + 1 AS x, upper(k) AS k, 1 AS one FROM e WHERE x < 3",
    )
    .await;
    assert_eq!(rows(&mut s, "SELECT * FROM sums").await, ["A|2", "B|3"]);
    assert_eq!(rows(&mut s, "SELECT * FROM total").await, ["5"]);
    assert_eq!(rows(&mut s, "SELECT t FROM total").await, ["5"]);
    assert_eq!(rows(&mut s, "SELECT * FROM through").await, ["50"]);
    assert_eq!(rows(&mut s, "SELECT * FROM text").await, ["A|20", "B|30"]);
    let ended = loop {
        match follows.next().await.expect("an end with a reason") {
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert!(ended.message.contains("replaced"), "{ended}");
    run(&mut s, "INSERT INTO e VALUES ('c', 0)").await;
    assert_eq!(rows(&mut s, "SELECT * FROM sums").await, ["A|2", "B|3", "C|1"]);
    assert!(rows(&mut s, "EXPLAIN SELECT * FROM base WHERE k = 'A'").await.iter().any(|l| l.contains("by_k")));
    // What is used must stay.
    let (code, text) = fails(&mut s, "CREATE OR REPLACE MATERIALIZED VIEW base AS SELECT x FROM e").await;
    assert!(code == "2BP01" && text.contains("depends on it") && text.contains("\"k\""), "{text}");
    let (code, text) = fails(&mut s, "CREATE OR REPLACE MATERIALIZED VIEW base AS SELECT k, 'x' AS x FROM e").await;
    assert!(code == "2BP01" && text.contains("\"x\""), "{text}");
    let (code, _) = fails(&mut s, "CREATE OR REPLACE MATERIALIZED VIEW base AS SELECT k, s AS x FROM sums").await;
    assert_eq!(code, "42P16");
    // A plain view under a materialized one.
    run(&mut s, "CREATE OR REPLACE VIEW text AS SELECT k, x * 1000 AS y FROM base").await;
    assert_eq!(rows(&mut s, "SELECT * FROM through").await, ["6000"]);
    assert_eq!(rows(&mut s, "SELECT count(*) FROM ms.jobs").await, ["4"]);
    // `SELECT *` goes by the names it had, although the types would fit another order.
    run(
        &mut s,
        "CREATE MATERIALIZED VIEW pair AS SELECT x AS a, x * 100 AS b FROM e WHERE x = 3;
         CREATE MATERIALIZED VIEW star AS SELECT * FROM pair;
         CREATE VIEW stars AS SELECT * FROM pair;
         CREATE OR REPLACE MATERIALIZED VIEW pair AS SELECT x * 1000 AS b, x AS a, 1 AS c FROM e WHERE x = 3",
    )
    .await;
    assert_eq!(rows(&mut s, "SELECT * FROM star").await, ["3|3000"]);
    assert_eq!(rows(&mut s, "SELECT * FROM stars").await, ["3|3000"]);
    assert_eq!(rows(&mut s, "SELECT a, b FROM star").await, ["3|3000"]);
    drop(s);
    drop(engine);
    let engine = Engine::open(options(&data)).await.expect("opens again");
    let mut s = engine.session();
    run(&mut s, "INSERT INTO e VALUES ('d', 2); FLUSH").await;
    assert_eq!(rows(&mut s, "SELECT * FROM sums").await, ["A|2", "B|3", "C|1", "D|3"]);
    assert_eq!(rows(&mut s, "SELECT * FROM through").await, ["9000"]);
    assert_eq!(rows(&mut s, "SELECT comment FROM ms.relations WHERE name = 'base'").await, ["what there is"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renaming_and_swapping_keep_views_working() {
    let (_folder, data) = folder();
    let engine = Engine::open(options(&data)).await.expect("opens");
    let mut s = engine.session();
    run(
        &mut s,
        "CREATE TABLE t (a BIGINT); INSERT INTO t VALUES (1), (2);
         CREATE TABLE u (a BIGINT); INSERT INTO u VALUES (10);
         CREATE VIEW v AS SELECT t.a FROM t WHERE t.a > 1;
         CREATE MATERIALIZED VIEW m AS SELECT sum(a) AS s FROM t;
         ALTER TABLE t RENAME TO \"T 1\";",
    )
    .await;
    assert_eq!(fails(&mut s, "SELECT * FROM t").await.0, "42P01");
    assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["2"]);
    run(&mut s, "INSERT INTO \"T 1\" VALUES (3)").await;
    assert_eq!(rows(&mut s, "SELECT * FROM m").await, ["6"]);
    assert!(rows(&mut s, "SHOW CREATE TABLE \"T 1\"").await[0].contains("CREATE TABLE \"T 1\" (a"));
    assert!(rows(&mut s, "SHOW CREATE MATERIALIZED VIEW m").await[0].contains("FROM \"T 1\""));
    assert_eq!(fails(&mut s, "ALTER TABLE u RENAME TO v").await.0, "42P07");
    // Views go on over what they were made from, under its new name.
    run(&mut s, "ALTER TABLE u SWAP WITH \"T 1\"").await;
    assert_eq!(rows(&mut s, "SELECT * FROM \"T 1\"").await, ["10"]);
    assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["2", "3"]);
    run(&mut s, "INSERT INTO u VALUES (4)").await;
    assert_eq!(rows(&mut s, "SELECT * FROM m").await, ["10"]);
    run(&mut s, "ALTER MATERIALIZED VIEW m RENAME TO n; ALTER TABLE u OWNER TO somebody").await;
    assert_eq!(fails(&mut s, "ALTER VIEW n RENAME TO o").await.0, "42809");
    run(&mut s, "ALTER TABLE IF EXISTS nothing RENAME TO something").await;
    drop(s);
    drop(engine);
    let engine = Engine::open(options(&data)).await.expect("opens again");
    let mut s = engine.session();
    assert_eq!(rows(&mut s, "SELECT * FROM n").await, ["10"]);
    assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_view_asks_those_that_were_made_from_it() {
    let engine = Engine::open(options("memory://")).await.expect("opens");
    let mut s = engine.session();
    run(
        &mut s,
        "CREATE TABLE t (a BIGINT); CREATE TABLE unread (b BIGINT);
         CREATE VIEW v AS SELECT a FROM t;
         CREATE VIEW w AS SELECT a + 1 AS a FROM v;
         CREATE MATERIALIZED VIEW m AS SELECT sum(a) AS s FROM w;",
    )
    .await;
    let (code, text) = fails(&mut s, "DROP VIEW v").await;
    assert!(code == "2BP01" && text.contains("view w") && text.contains("materialized view m"), "{text}");
    assert_eq!(fails(&mut s, "DROP VIEW w RESTRICT").await.0, "2BP01");
    run(&mut s, "DROP VIEW w CASCADE").await;
    assert_eq!(fails(&mut s, "SELECT * FROM m").await.0, "42P01");
    assert_eq!(rows(&mut s, "SELECT count(*) FROM v").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_and_keys_narrow_reads_and_give_the_same_rows() {
    let (_folder, data) = folder();
    let engine = Engine::open(options(&data)).await.expect("opens");
    let mut s = engine.session();
    run(
        &mut s,
        "CREATE TABLE t (id BIGINT PRIMARY KEY, k TEXT, x INT, d NUMERIC(10,2));
         INSERT INTO t SELECT i, 'k' || (i % 7), CASE WHEN i % 11 = 0 THEN NULL ELSE i % 50 END, i * 0.5
           FROM generate_series(1, 500) AS g(i);
         CREATE MATERIALIZED VIEW v AS SELECT k, x, count(*) AS n, sum(d) AS s FROM t GROUP BY k, x;
         CREATE INDEX tk ON t (k, x); CREATE INDEX ON v (x); CREATE INDEX vk ON v (k, x)",
    )
    .await;
    let queries = [
        ("SELECT * FROM t WHERE id = 17", Some("t_pkey")),
        ("SELECT * FROM t WHERE id IN (3, 4, 999, NULL) AND x > 2", Some("t_pkey")),
        ("SELECT * FROM t WHERE k = 'k3'", Some("tk")),
        ("SELECT * FROM t WHERE k = 'k3' AND x > 10 AND x <= 20", Some("tk")),
        ("SELECT * FROM t WHERE k IN ('k1', 'k2') AND x BETWEEN 5 AND 9", Some("tk")),
        ("SELECT * FROM t WHERE k >= 'k5'", Some("tk")),
        ("SELECT * FROM t WHERE x = 5", None),
        ("SELECT * FROM t WHERE k = 'k3' AND x IS NULL", Some("tk")),
        ("SELECT count(*), sum(n) FROM v WHERE x < 7", Some("v_x_idx")),
        ("SELECT * FROM v WHERE x = 7 AND k = 'k1'", Some("vk")),
        ("SELECT * FROM v WHERE 7 >= x AND k = 'k1' AND n > 0", Some("vk")),
        ("SELECT a.id FROM t a JOIN v b ON a.k = b.k AND a.x = b.x WHERE b.k = 'k2' AND b.x = 9", Some("vk")),
        ("SELECT * FROM t WHERE k = 'k3' OR x = 1", None),
    ];
    let mut expected = Vec::new();
    for (q, index) in queries {
        let plan = rows(&mut s, &format!("EXPLAIN {q}")).await;
        let lines: Vec<&String> = plan.iter().filter(|l| l.starts_with("SELECT reads by index")).collect();
        match index {
            Some(i) => assert!(lines.iter().any(|l| l.contains(i)), "{q}: {plan:?}"),
            None => assert!(lines.is_empty(), "{q}: {plan:?}"),
        }
        expected.push(rows(&mut s, q).await);
    }
    run(&mut s, "UPDATE t SET x = x + 1 WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0; CHECKPOINT").await;
    drop(s);
    drop(engine);
    let engine = Engine::open(options(&data)).await.expect("opens again");
    let mut s = engine.session();
    run(&mut s, "UPDATE t SET x = x - 1 WHERE id % 3 = 0").await;
    run(
        &mut s,
        "INSERT INTO t SELECT i, 'k' || (i % 7), CASE WHEN i % 11 = 0 THEN NULL ELSE i % 50 END, i * 0.5
         FROM generate_series(5, 500, 5) AS g(i)",
    )
    .await;
    for ((q, _), expected) in queries.iter().zip(&expected) {
        assert_eq!(&rows(&mut s, q).await, expected, "{q}");
    }
    let shown = rows(&mut s, "SHOW INDEXES FROM t").await;
    assert_eq!(shown, ["t_pkey|t|id|yes", "tk|t|k, x|no"]);
    assert_eq!(fails(&mut s, "CREATE INDEX tk ON v (n)").await.0, "42P07");
    assert_eq!(fails(&mut s, "CREATE INDEX ON t (nothing)").await.0, "42703");
    run(&mut s, "DROP INDEX tk; DROP INDEX IF EXISTS tk").await;
    assert_eq!(fails(&mut s, "DROP INDEX tk").await.0, "42704");
    for ((q, _), expected) in queries.iter().zip(&expected) {
        assert_eq!(&rows(&mut s, q).await, expected, "{q}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_refuse_views_that_grow_or_are_computed_as_a_whole() {
    let engine = Engine::open(options("memory://")).await.expect("opens");
    let mut s = engine.session();
    run(&mut s, "CREATE TABLE t (a BIGINT, b BIGINT); CREATE STREAM e (a BIGINT, b BIGINT)").await;
    run(&mut s, "SET unbounded_state = 'error'; SET full_recompute = 'error'").await;
    run(&mut s, "CREATE MATERIALIZED VIEW ok1 AS SELECT a, sum(b) AS s FROM e GROUP BY a").await;
    run(&mut s, "CREATE MATERIALIZED VIEW ok2 AS SELECT t.a FROM t JOIN t u ON t.a = u.b").await;
    let join = "SELECT e.a, t.b FROM e JOIN t ON e.a = t.a";
    let (code, text) = fails(&mut s, &format!("CREATE MATERIALIZED VIEW no AS {join}")).await;
    assert!(code == "0A000" && text.contains("UNBOUNDED") && text.contains("stream e"), "{text}");
    let shown = rows(&mut s, &format!("EXPLAIN (STATE) {join}")).await.join("\n");
    assert!(shown.contains("keeps the rows of both sides") && shown.contains("fix:"), "{shown}");
    let shown = rows(&mut s, "EXPLAIN (STATE) ok1").await.join("\n");
    assert!(shown.contains("bounded by the number of distinct (a)"), "{shown}");
    let shown = rows(&mut s, "EXPLAIN (STATE) ok2").await.join("\n");
    assert!(shown.contains("bounded by table t"), "{shown}");
    assert_eq!(fails(&mut s, "SET unbounded_state = 'no'").await.0, "22023");
    run(&mut s, "SET unbounded_state = 'allow'").await;
    run(&mut s, &format!("CREATE MATERIALIZED VIEW yes AS {join}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_create_leaves_nothing_behind() {
    let (_folder, data) = folder();
    let engine = Engine::open(options(&data)).await.expect("opens");
    let mut s = engine.session();
    run(&mut s, "CREATE STREAM bid WITH (connector = 'nexmark', type = 'bid', events = 3000000, seed = 1)").await;
    let create =
        "CREATE MATERIALIZED VIEW v AS SELECT auction, count(*) AS n, sum(price) AS p FROM bid GROUP BY auction";
    {
        let mut builder = engine.session();
        let cancelled = tokio::time::timeout(Duration::from_millis(150), builder.query(create)).await;
        assert!(cancelled.is_err(), "the build was faster than its cancel");
    }
    for _ in 0..600 {
        if rows(&mut s, "SHOW MATERIALIZED VIEWS").await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(rows(&mut s, "SELECT name FROM ms.jobs").await.is_empty());
    run(&mut s, "CREATE TABLE t (a BIGINT); CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await;
    assert_eq!(rows(&mut s, "SELECT * FROM v").await, ["0"]);
    drop(s);
    drop(engine);
    let engine = Engine::open(options(&data)).await.expect("opens again");
    let mut s = engine.session();
    assert_eq!(rows(&mut s, "SELECT name FROM ms.jobs").await, ["v"]);
    assert_eq!(rows(&mut s, "SELECT status FROM ms.sources").await, ["stopped"]);
}
