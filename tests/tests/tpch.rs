//! TPC-H: all 22 queries as materialized views over orders and line items that come, change and go in small transactions.
//!
//! After every transaction every view has the rows of its query; at the end PostgreSQL, which ran the same statements, has
//! them too. `MILLSTREAM_TPCH_CHANGES=n` makes n transactions instead of the fixed number, `MILLSTREAM_SEED=s` takes
//! another seed.

use std::collections::BTreeMap;

use millstream_sqllogictest::values::sorted;
use millstream_tests::local::Local;
use millstream_tests::postgres::{Postgres, lines};
use millstream_tests::tpch::data::TABLES;
use millstream_tests::tpch::{Data, QUERIES};

/// Orders at the start.
const ORDERS: usize = 120;
/// Transactions.
const CHANGES: u64 = 40;
/// Views made before the rows; the others are made over them.
const BEFORE: usize = 11;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_22_queries_are_views_equal_to_their_queries_after_every_transaction() {
    let (seed, changes) = (number("MILLSTREAM_SEED", 22), number("MILLSTREAM_TPCH_CHANGES", CHANGES));
    let local = Local::start(3).await;
    let client = local.connect().await;
    let run = async |sql: &str| {
        if let Err(e) = lines(&client, sql).await {
            panic!("{sql}\n{} {}", e.code, e.message);
        }
    };
    for sql in TABLES {
        run(sql).await;
    }
    let create = |q: &millstream_tests::tpch::Query| format!("CREATE MATERIALIZED VIEW {} AS {}", q.name, q.sql);
    for query in &QUERIES[..BEFORE] {
        run(&create(query)).await;
    }
    let mut data = Data::new(seed);
    let mut statements = data.first(ORDERS);
    for sql in &statements {
        run(sql).await;
    }
    for query in &QUERIES[BEFORE..] {
        run(&create(query)).await;
    }
    let mut recomputed = Vec::new();
    for query in QUERIES {
        let plan = lines(&client, &format!("EXPLAIN MATERIALIZED VIEW {}", query.name)).await.expect("a plan");
        recomputed.extend(plan.iter().filter(|l| l.contains("full recompute")).map(|l| format!("{}: {l}", query.name)));
    }
    assert!(recomputed.is_empty(), "recomputed as a whole:\n{}", recomputed.join("\n"));

    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for change in 0..=changes {
        let mut said = Vec::new();
        if change > 0 {
            said = data.change();
            for sql in &said {
                run(sql).await;
            }
        }
        for query in QUERIES {
            let view = lines(&client, &format!("SELECT * FROM {}", query.name)).await;
            let view = view.unwrap_or_else(|e| panic!("{} after {said:?}: {} {}", query.name, e.code, e.message));
            let batch = lines(&client, query.sql).await;
            let batch = batch.unwrap_or_else(|e| panic!("the query of {}: {} {}", query.name, e.code, e.message));
            let (view, batch) = (sorted(&view), sorted(&batch));
            assert_eq!(view, batch, "seed {seed}: {} ({}) after {said:?}", query.name, query.about);
            *found.entry(query.name).or_default() += batch.iter().filter(|l| *l != "NULL").count();
        }
        statements.extend(said);
    }
    let empty: Vec<_> = found.iter().filter(|(_, rows)| **rows == 0).map(|(name, _)| name).collect();
    assert!(empty.is_empty(), "never a row in {empty:?}: the data is too small to show anything");

    if let Some(postgres) = Postgres::start() {
        let there = postgres.connect().await;
        for sql in TABLES.iter().copied().chain(statements.iter().map(String::as_str)) {
            there.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
        for query in QUERIES {
            let view = lines(&client, &format!("SELECT * FROM {}", query.name)).await.expect("a view");
            let want = lines(&there, query.sql).await.unwrap_or_else(|e| panic!("{}: {}", query.name, e.message));
            assert_eq!(sorted(&view), sorted(&want), "{} ({}) against PostgreSQL", query.name, query.about);
        }
    }
    local.stop().await;
}
