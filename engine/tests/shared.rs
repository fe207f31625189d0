//! Indexes that the joins of several views share: one a relation and key, whoever comes and goes, and the same rows as ever.

mod common;

use std::time::Duration;

use millstream::api::{Engine, EngineOptions, Session};

use self::common::lines;

fn options(data: &str, workers: usize) -> EngineOptions {
    EngineOptions { data: data.into(), workers, checkpoint_interval: Duration::ZERO, ..Default::default() }
}

async fn rows(s: &mut Session, sql: &str) -> Vec<String> {
    lines(&s.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {} {e} {:?} {:?}", e.code.0, e.detail, e.hint)))
}

async fn run(s: &mut Session, sql: &str) {
    rows(s, sql).await;
}

/// Every view, with its query.
const VIEWS: [(&str, &str); 6] = [
    ("by_city", "SELECT o.id, c.name FROM orders o JOIN customers c ON o.city = c.city"),
    ("by_id", "SELECT o.id, c.name, c.city FROM orders o LEFT JOIN customers c ON o.customer = c.id"),
    ("by_both", "SELECT o.id, c.name FROM orders o FULL JOIN customers c ON o.city = c.city AND o.customer = c.id"),
    ("none_there", "SELECT c.name FROM customers c WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)"),
    ("of_view", "SELECT c.name, t.n FROM customers c JOIN totals t ON t.customer = c.id"),
    (
        "itself",
        "SELECT a.name, b.name AS other FROM customers a JOIN customers b ON a.city = b.city AND a.id < b.id + 1",
    ),
];

async fn compare(s: &mut Session, names: &[&str], what: &str) {
    for (name, query) in VIEWS.iter().filter(|(n, _)| names.contains(n)) {
        let view = rows(s, &format!("SELECT * FROM {name}")).await;
        assert_eq!(view, rows(s, query).await, "{what}: {name}");
    }
}

async fn change(s: &mut Session, round: usize) {
    let sql = match round % 5 {
        0 => {
            "DELETE FROM customers WHERE id > 6; INSERT INTO customers VALUES (7, 'gil', 'rome'), (8, 'hal', NULL); INSERT INTO orders VALUES (70, 7, 'rome')"
        }
        1 => "UPDATE customers SET city = 'oslo' WHERE id = 1; DELETE FROM customers WHERE id = 2",
        2 => "DELETE FROM orders WHERE customer = 3; UPDATE orders SET city = NULL WHERE id = 10",
        3 => {
            "DELETE FROM customers WHERE id = 2; INSERT INTO customers VALUES (2, 'bob', 'oslo'); UPDATE customers SET name = 'anna' WHERE id = 1"
        }
        _ => {
            "DELETE FROM customers WHERE id > 6; DELETE FROM orders WHERE id = 70; \
              UPDATE orders SET city = 'rome' WHERE city IS NULL; UPDATE customers SET city = 'rome' WHERE id = 1"
        }
    };
    run(s, sql).await;
}

const TABLES: &str = "CREATE TABLE customers (id BIGINT PRIMARY KEY, name TEXT, city TEXT);
     CREATE TABLE orders (id BIGINT, customer BIGINT, city TEXT);
     INSERT INTO customers VALUES (1, 'ann', 'rome'), (2, 'bob', 'oslo'), (3, 'cem', 'rome'), (4, 'dia', NULL);
     INSERT INTO orders VALUES (10, 1, 'rome'), (11, 1, 'oslo'), (12, 3, 'rome'), (13, 9, 'bonn'), (14, NULL, NULL);
     CREATE MATERIALIZED VIEW totals AS SELECT customer, count(*) AS n FROM orders GROUP BY customer";

const INDEXES: &str = "SELECT relation, columns, views, rows FROM ms.shared_indexes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_share_the_indexes_of_what_they_join_and_nothing_changes_but_that() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().to_str().expect("utf8");
    let names: Vec<&str> = VIEWS.iter().map(|(n, _)| *n).collect();
    let mut engine = Engine::open(options(data, 2)).await.expect("opens");
    let mut s = engine.session();
    run(&mut s, TABLES).await;
    assert!(rows(&mut s, INDEXES).await.is_empty());
    for (i, (name, query)) in VIEWS.iter().enumerate() {
        run(&mut s, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
        change(&mut s, i).await;
        compare(&mut s, &names[..=i], "while views come").await;
    }
    change(&mut s, 4).await;
    // By its primary key a table needs no index, and one of the others serves all that join by those columns.
    let found = rows(&mut s, "SELECT relation, columns, views FROM ms.shared_indexes").await;
    let expected = [
        "customers|city|2",
        "customers|id, city|1",
        "customers|id|3",
        "orders|city|1",
        "orders|customer, city|1",
        "orders|customer|1",
        "totals|customer|1",
    ];
    assert_eq!(found, expected);
    let explained = rows(&mut s, "EXPLAIN (STATE) MATERIALIZED VIEW by_city").await.join("\n");
    assert!(explained.contains("Shared index of customers (city), of 2 views"), "{explained}");
    for round in 0..12 {
        change(&mut s, round).await;
        let paused = round % 4 == 3;
        let moving = if paused { &["by_id", "by_both", "none_there", "itself"][..] } else { &names };
        compare(&mut s, moving, &format!("round {round}")).await;
        match round % 4 {
            1 => run(&mut s, "CHECKPOINT").await,
            2 => run(&mut s, "ALTER MATERIALIZED VIEW by_city PAUSE; ALTER MATERIALIZED VIEW totals PAUSE").await,
            3 => {
                // Resumed after a crash, or without one.
                if round == 7 {
                    drop(s);
                    drop(engine);
                    engine = Engine::open(options(data, 3)).await.expect("opens");
                    s = engine.session();
                }
                change(&mut s, round + 1).await;
                run(&mut s, "ALTER MATERIALIZED VIEW by_city RESUME; ALTER MATERIALIZED VIEW totals RESUME").await;
                compare(&mut s, &names, &format!("resumed in round {round}")).await;
                assert_eq!(rows(&mut s, "SELECT relation, columns, views FROM ms.shared_indexes").await, expected);
            }
            _ => {
                drop(s);
                if round == 4 {
                    engine.shutdown().await.expect("stops");
                }
                drop(engine);
                engine = Engine::open(options(data, 1 + round % 3)).await.expect("opens");
                s = engine.session();
                compare(&mut s, &names, &format!("restarted after round {round}")).await;
            }
        }
        if round % 4 == 2 {
            continue;
        }
        compare(&mut s, &names, &format!("after round {round}")).await;
    }
    // What nobody shares any more goes.
    run(&mut s, "DROP MATERIALIZED VIEW by_city; DROP MATERIALIZED VIEW by_both; DROP MATERIALIZED VIEW of_view").await;
    change(&mut s, 0).await;
    let left = rows(&mut s, "SELECT relation, columns, views FROM ms.shared_indexes").await;
    assert_eq!(left, ["customers|city|1", "customers|id|2", "orders|customer|1"]);
    compare(&mut s, &["by_id", "none_there", "itself"], "after others were dropped").await;
    engine.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_a_table_are_kept_once_for_all_views_that_join_it() {
    let engine = Engine::open(EngineOptions { workers: 1, ..Default::default() }).await.expect("opens");
    let mut s = engine.session();
    run(&mut s, "CREATE TABLE d (k BIGINT, name TEXT); CREATE TABLE p (k BIGINT PRIMARY KEY, name TEXT)").await;
    run(&mut s, "CREATE TABLE f (k BIGINT, x BIGINT)").await;
    run(&mut s, "INSERT INTO d SELECT v, 'name ' || v FROM generate_series(1, 20000) AS g(v)").await;
    run(&mut s, "INSERT INTO p SELECT v, 'name ' || v FROM generate_series(1, 20000) AS g(v)").await;
    for i in 0..5 {
        run(&mut s, &format!("CREATE MATERIALIZED VIEW d{i} AS SELECT f.x, d.name FROM f JOIN d ON f.k = d.k + 0"))
            .await;
        run(&mut s, &format!("CREATE MATERIALIZED VIEW s{i} AS SELECT f.x, d.name FROM f JOIN d ON f.k = d.k")).await;
        run(&mut s, &format!("CREATE MATERIALIZED VIEW p{i} AS SELECT f.x, p.name FROM f JOIN p ON f.k = p.k")).await;
    }
    run(&mut s, "INSERT INTO f SELECT v % 100, v FROM generate_series(1, 1000) AS g(v)").await;
    assert_eq!(rows(&mut s, "SELECT count(*) FROM s4 UNION ALL SELECT count(*) FROM p3").await, ["990", "990"]);
    // A view whose key is computed keeps the rows itself.
    let kept = rows(&mut s, "SELECT name, state_rows - view_rows FROM ms.jobs WHERE name IN ('d1', 's1', 'p1')").await;
    let kept: Vec<(&str, usize)> =
        kept.iter().filter_map(|l| l.split_once('|')).map(|(n, r)| (n, r.parse().expect("a number"))).collect();
    assert!(matches!(kept[..], [("d1", 20_000..), ("p1", 0..2000), ("s1", 0..2000)]), "{kept:?}");
    assert_eq!(rows(&mut s, INDEXES).await, ["d|k|5|20000", "f|k|15|1000", "p|k|5|20000"]);
    engine.shutdown().await.expect("stops");
}
