//! `PROCTIME()` of streams with a connector: one time for whoever follows, the time of reading for who reads again.

mod common;
#[path = "common/waiting.rs"]
mod waiting;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use millstream::api::{Engine, EngineOptions};
use millstream::time::{ManualClock, Timestamp};

use self::waiting::{becomes, rows, run};

/// 2020-01-01.
const START: i64 = 1_577_836_800_000_000;
const SECOND: i64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_connector_arrive_when_their_epoch_is_sealed() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("bids.csv");
    let append = |text: &str| {
        let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("file");
        file.write_all(text.as_bytes()).expect("written");
    };
    append("1,10\n2,20\n");
    let hands = Arc::new(ManualClock::default());
    hands.set(Timestamp(START));
    let options =
        EngineOptions { workers: 2, checkpoint_interval: Duration::ZERO, clock: hands.clone(), ..Default::default() };
    let engine = Engine::open(options).await.expect("opens");
    run(
        &engine,
        &format!(
            "CREATE STREAM bids (bidder BIGINT, price BIGINT, p TIMESTAMP AS PROCTIME()) \
             WITH (connector = 'file', path = '{}', format = 'csv', follow = 'true')",
            path.display()
        ),
    )
    .await;
    let by_time = "SELECT p, count(*) AS n FROM bids GROUP BY p";
    let windows = "SELECT bidder, window_start, count(*) AS n FROM TUMBLE(bids, p, INTERVAL '10 seconds') \
                   GROUP BY bidder, window_start EMIT ON WINDOW CLOSE";
    run(&engine, &format!("CREATE MATERIALIZED VIEW first AS {by_time}")).await;
    run(&engine, &format!("CREATE MATERIALIZED VIEW closed AS {windows}")).await;
    becomes(&engine, "SELECT * FROM first", &["2020-01-01T00:00:00|2"]).await;
    // Who comes later reads the same rows again, and for it they arrive now.
    hands.set(Timestamp(START + 3 * SECOND));
    run(&engine, &format!("CREATE MATERIALIZED VIEW second AS {by_time}")).await;
    becomes(&engine, "SELECT * FROM second", &["2020-01-01T00:00:03|2"]).await;
    // From then on both see one time.
    append("3,30\n");
    becomes(&engine, "SELECT count(*) FROM first", &["2"]).await;
    becomes(&engine, "SELECT * FROM first ORDER BY 1", &["2020-01-01T00:00:00|2", "2020-01-01T00:00:03|1"]).await;
    becomes(&engine, "SELECT * FROM second", &["2020-01-01T00:00:03|3"]).await;
    assert!(rows(&engine, "SELECT * FROM closed").await.is_empty(), "the window is open");
    hands.set(Timestamp(START + 12 * SECOND));
    engine.clock_changed().await.expect("looks");
    let closed = "SELECT bidder, window_start, n FROM closed ORDER BY 1";
    becomes(&engine, closed, &["1|2020-01-01T00:00:00|1", "2|2020-01-01T00:00:00|1", "3|2020-01-01T00:00:00|1"]).await;
    let state = "SELECT state_rows - view_rows FROM ms.jobs WHERE name = 'closed'";
    becomes(&engine, state, &["0"]).await;
    // A query reads them all now.
    assert_eq!(rows(&engine, "SELECT DISTINCT p FROM bids").await, ["2020-01-01T00:00:12"]);
    engine.shutdown().await.expect("stops");
}
