use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, RecordBatch};

use super::recover::open_over;
use crate::api::{Engine, EngineOptions};
use crate::ckpt::testing::{Faulty, memory};

fn options() -> EngineOptions {
    EngineOptions { workers: 2, checkpoint_interval: Duration::ZERO, ..EngineOptions::default() }
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut out = Vec::new();
    for b in batches {
        for i in 0..b.num_rows() {
            let cell = |c: &arrow::array::ArrayRef| match c.is_null(i) {
                true => "NULL".to_owned(),
                false => arrow::util::display::array_value_to_string(c, i).unwrap(),
            };
            out.push(b.columns().iter().map(cell).collect::<Vec<_>>().join("|"));
        }
    }
    out.sort();
    out
}

async fn rows(engine: &Engine, sql: &str) -> Vec<String> {
    lines(&engine.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")))
}

/// The next tick of this view panics.
fn break_view(engine: &Engine, name: &str) {
    let mut st = engine.inner.lock();
    let id = st.catalog.find(None, name).expect("the view").id;
    for group in st.groups.values_mut() {
        for (job, j) in group.runner.iter_mut().flat_map(|r| r.jobs.iter_mut()) {
            j.panics |= *job == id;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_the_view_and_its_readers_until_they_are_resumed() {
    let engine = Engine::open(options()).await.unwrap();
    engine
        .execute(
            "CREATE TABLE t (a BIGINT); CREATE TABLE u (a BIGINT); INSERT INTO t VALUES (1); INSERT INTO u VALUES (1);
             CREATE MATERIALIZED VIEW bad AS SELECT t.a FROM t JOIN u ON t.a = u.a;
             CREATE MATERIALIZED VIEW reads AS SELECT count(*) AS n FROM bad;
             CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n FROM t;
             CREATE INDEX i ON bad (a);",
        )
        .await
        .unwrap();
    break_view(&engine, "bad");
    engine.execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(rows(&engine, "SELECT * FROM good").await, ["2"]);
    for view in ["bad", "reads"] {
        let e = engine.query(&format!("SELECT * FROM {view}")).await.unwrap_err();
        assert_eq!(e.code.0, "55000", "{e}");
    }
    let jobs = rows(&engine, "SELECT name, status, error FROM ms.jobs").await;
    assert!(jobs[0].starts_with("bad|quarantined|panic in an operator: a defect in an operator"), "{jobs:?}");
    assert_eq!(jobs[1], "good|running|NULL");
    assert!(jobs[2].starts_with("reads|quarantined|"), "{jobs:?}");
    // Checkpoints go on without them.
    engine.execute("CHECKPOINT; INSERT INTO u VALUES (2)").await.unwrap();
    let e = engine.execute("ALTER MATERIALIZED VIEW reads RESUME").await.unwrap_err();
    assert_eq!(e.code.0, "55000");
    engine.execute("ALTER MATERIALIZED VIEW bad RESUME").await.unwrap();
    assert_eq!(rows(&engine, "SELECT * FROM bad").await, ["1", "2"]);
    assert_eq!(rows(&engine, "SELECT * FROM reads").await, ["2"]);
    engine.execute("INSERT INTO u VALUES (2); CHECKPOINT").await.unwrap();
    assert_eq!(rows(&engine, "SELECT a FROM bad WHERE a = 2").await, ["2", "2"]);
    assert_eq!(rows(&engine, "SELECT * FROM reads").await, ["3"]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_and_checkpoints_wait_for_a_store_that_is_away_and_go_on_when_it_is_back() {
    let store = memory();
    let faulty = Faulty::new(store.clone());
    let engine = open_over(options(), faulty.clone()).await.unwrap();
    engine.execute("CREATE TABLE t (a BIGINT); CREATE MATERIALIZED VIEW v AS SELECT sum(a) AS s FROM t").await.unwrap();
    engine.execute("INSERT INTO t VALUES (1)").await.unwrap();
    faulty.refuse_everything(true);
    let (writer, saver) = (engine.clone(), engine.clone());
    let write = tokio::spawn(async move { writer.execute("INSERT INTO t VALUES (10)").await });
    let save = tokio::spawn(async move { saver.checkpoint().await });
    // What is not durable is not visible, and reads go on.
    assert_eq!(rows(&engine, "SELECT * FROM v").await, ["1"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!write.is_finished() && !save.is_finished());
    faulty.refuse_everything(false);
    write.await.unwrap().unwrap();
    save.await.unwrap().unwrap();
    assert_eq!(rows(&engine, "SELECT * FROM v").await, ["11"]);
    drop(engine);
    let again = open_over(options(), store).await.unwrap();
    assert_eq!(rows(&again, "SELECT * FROM v").await, ["11"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_failed_is_in_the_next_one() {
    let store = memory();
    let faulty = Faulty::new(store.clone());
    let engine = open_over(options(), faulty.clone()).await.unwrap();
    engine.execute("CREATE TABLE t (a BIGINT); CREATE MATERIALIZED VIEW v AS SELECT sum(a) AS s FROM t").await.unwrap();
    engine.execute("INSERT INTO t VALUES (1)").await.unwrap();
    faulty.refuse_everything(true);
    let e = engine.checkpoint().await.unwrap_err();
    assert_eq!(e.code.0, "58030", "{e}");
    assert_eq!(rows(&engine, "SELECT * FROM v").await, ["1"]);
    faulty.refuse_everything(false);
    engine.execute("INSERT INTO t VALUES (2)").await.unwrap();
    engine.checkpoint().await.unwrap();
    engine.execute("INSERT INTO t VALUES (4)").await.unwrap();
    drop(engine);
    let again: Engine = open_over(options(), Arc::clone(&store)).await.unwrap();
    assert_eq!(rows(&again, "SELECT * FROM v").await, ["7"]);
}
