//! Nexmark q0 to q22 as views over events that arrive in steps, and over bids that are then withdrawn and corrected: after
//! every step each view has the rows of its query, and none is recomputed, as a whole or by key. q12, which asks when bids
//! arrive, reads a stream of its own, from which nothing is withdrawn.

use std::collections::BTreeMap;

use millstream_sqllogictest::values::sorted;
use millstream_tests::local::Local;
use millstream_tests::nexmark::{ARRIVAL_QUERY, KINDS, LATER_QUERIES, QUERIES, Query, column_list};
use millstream_tests::postgres::lines;

const EVENTS: u64 = 2000;
const STEPS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_queries_are_views_equal_to_their_queries_after_every_step() {
    let local = Local::start(3).await;
    let client = local.connect().await;
    let run = async |sql: &str| {
        if let Err(e) = lines(&client, sql).await {
            panic!("{sql}\n{} {}", e.code, e.message);
        }
    };
    for (kind, name) in KINDS {
        run(&format!(
            "CREATE STREAM source_{name} (*) WITH (connector = 'nexmark', type = '{name}', events = '{EVENTS}', \
             event_gap_us = '50000', seed = '5')"
        ))
        .await;
        run(&format!("CREATE TABLE {name} ({})", column_list(kind))).await;
    }
    run("CREATE TABLE side (key BIGINT PRIMARY KEY, value TEXT)").await;
    run(&format!("CREATE STREAM arriving ({}, p_time AS PROCTIME())", column_list(KINDS[2].0))).await;
    let arriving = Query { sql: &ARRIVAL_QUERY.sql.replace("TUMBLE(bid,", "TUMBLE(arriving,"), ..ARRIVAL_QUERY };
    let queries: Vec<_> = QUERIES.iter().chain(LATER_QUERIES).chain([&arriving]).collect();
    for query in &queries {
        run(&format!("CREATE MATERIALIZED VIEW {} AS {}", query.name, query.sql)).await;
    }
    let mut problems = Vec::new();
    for query in &queries {
        let plan = lines(&client, &format!("EXPLAIN MATERIALIZED VIEW {}", query.name)).await.expect("a plan");
        if plan.iter().any(|l| l.contains(" recompute: ")) {
            problems.push(format!("{}: recomputed\n{}", query.name, plan.join("\n")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    let bounds = lines(
        &client,
        "SELECT CAST(extract(epoch FROM min(date_time)) AS BIGINT), \
         CAST(extract(epoch FROM max(date_time)) AS BIGINT) + 1 FROM source_bid",
    )
    .await
    .expect("the times of bids");
    let bounds: Vec<u64> = bounds[0].split(' ').map(|n| n.parse().expect("a number")).collect();
    let (start, length) = (bounds[0], bounds[1] - bounds[0]);
    let mut steps: Vec<Vec<String>> = Vec::new();
    for step in 0..STEPS {
        // An event every 50 ms; the first step also brings what is older than all bids.
        let from = if step == 0 { 0 } else { (start + length * step / STEPS) * 1000 };
        let to = if step + 1 == STEPS { u64::MAX / 2 } else { (start + length * (step + 1) / STEPS) * 1000 };
        let insert = |(_, name): &(_, &str)| {
            format!(
                "INSERT INTO {name} SELECT * FROM source_{name} \
                 WHERE CAST(extract(epoch FROM date_time) AS BIGINT) * 1000 >= {from} \
                 AND CAST(extract(epoch FROM date_time) AS BIGINT) * 1000 < {to}"
            )
        };
        let arrive = insert(&(KINDS[2].0, "bid")).replace("INTO bid", "INTO arriving");
        steps.push(KINDS.iter().map(insert).chain([arrive]).collect());
    }
    steps[1].push("INSERT INTO side SELECT DISTINCT auction % 20, 'side' FROM bid WHERE auction % 20 < 9".into());
    steps.push(vec![
        "DELETE FROM bid WHERE auction % 7 = 3".into(),
        "UPDATE side SET value = 'other' WHERE key < 3".into(),
    ]);
    steps.push(vec![
        "UPDATE bid SET price = price * 3 WHERE bidder % 5 = 1".into(),
        "DELETE FROM auction WHERE id % 4 = 1".into(),
        "DELETE FROM person WHERE state = 'OR'".into(),
    ]);
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        for sql in step {
            run(sql).await;
        }
        for query in &queries {
            let view = lines(&client, &format!("SELECT * FROM {}", query.name)).await;
            let view = view.unwrap_or_else(|e| panic!("{}: {} {}", query.name, e.code, e.message));
            let batch = lines(&client, query.sql).await;
            let batch = batch.unwrap_or_else(|e| panic!("the query of {}: {} {}", query.name, e.code, e.message));
            *found.entry(query.name).or_default() += batch.len();
            let (view, batch) = (sorted(&view), sorted(&batch));
            if view != batch {
                let at_row = view.iter().zip(&batch).find(|(v, b)| v != b);
                panic!(
                    "{} ({}) after step {at}: {} rows, {} in the query; {at_row:?}",
                    query.name,
                    query.about,
                    view.len(),
                    batch.len()
                );
            }
        }
    }
    let empty: Vec<_> = found.iter().filter(|(_, rows)| **rows == 0).map(|(name, _)| name).collect();
    assert!(empty.is_empty(), "never a row in {empty:?}");
    local.stop().await;
}
