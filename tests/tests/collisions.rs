//! Different keys with equal hashes: every operator that finds rows by a hash has to compare the keys as well.
//!
//! The stable hash of one BIGINT is a bijection and that of a pair can be solved for its second half, so the test makes
//! as many pairs with one hash as it wants, and the one number that hashes like NULL. Views over such keys must equal
//! their queries after every change; batch has hashes of its own. `MILLSTREAM_SEED=s` takes another seed.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use millstream::hash::hash_rows;
use millstream_sqllogictest::values::sorted;
use millstream_tests::local::Local;
use millstream_tests::postgres::lines;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

const PAIRS: usize = 6;
const STEPS: usize = 40;

const QUERIES: &[&str] = &[
    "SELECT DISTINCT a, b FROM p",
    "SELECT a, b, count(*) AS n, sum(v) AS s, min(v) AS m FROM p GROUP BY a, b",
    "SELECT a, count(DISTINCT b) AS n FROM p GROUP BY a",
    "SELECT count(DISTINCT a) AS n, count(DISTINCT b) AS m FROM p",
    "SELECT p.id, q.id AS other FROM p JOIN q ON p.a = q.a AND p.b = q.b",
    "SELECT p.id, q.id AS other FROM p LEFT JOIN q ON p.a = q.a AND p.b = q.b",
    "SELECT p.id, q.id AS other FROM p LEFT JOIN q ON p.a = q.a AND p.b = q.b AND p.v < q.v",
    "SELECT p.id, q.id AS other FROM p FULL JOIN q ON p.a = q.a AND p.b = q.b",
    "SELECT p.id, q.id AS other FROM p FULL JOIN q ON p.a = q.a",
    "SELECT p.id, q.id AS other FROM p JOIN q ON p.a IS NOT DISTINCT FROM q.a AND p.b IS NOT DISTINCT FROM q.b",
    "SELECT p.id FROM p WHERE EXISTS (SELECT 1 FROM q WHERE q.a = p.a AND q.b = p.b)",
    "SELECT p.id FROM p WHERE NOT EXISTS (SELECT 1 FROM q WHERE q.a = p.a AND q.b = p.b AND q.v <> p.v)",
    "SELECT p.id FROM p WHERE p.a IN (SELECT q.a FROM q)",
    "SELECT p.id FROM p WHERE p.a NOT IN (SELECT q.a FROM q WHERE q.a IS NOT NULL)",
    "SELECT a, b FROM p UNION SELECT a, b FROM q",
    "SELECT a, b FROM p EXCEPT SELECT a, b FROM q",
    "SELECT a, b FROM p INTERSECT SELECT a, b FROM q",
    "SELECT a, b, id FROM (SELECT a, b, id, row_number() OVER (PARTITION BY a, b ORDER BY v, id) AS n FROM p) x WHERE n = 1",
    "SELECT id, sum(v) OVER (PARTITION BY a, b ORDER BY id) AS s FROM p",
    "SELECT a, b, median(v) AS m FROM p GROUP BY a, b",
    "SELECT id, (SELECT max(q.v) FROM q WHERE q.a = p.a AND q.b = p.b) AS m FROM p",
    "SELECT n, count(*) AS c FROM (SELECT a, b, count(*) AS n FROM p GROUP BY a, b) x GROUP BY n",
];

/// The number that times `a` is one.
fn inverse(a: u64) -> u64 {
    // Newton: every step doubles the correct bits.
    (0..6).fold(a, |x, _| x.wrapping_mul(2_u64.wrapping_sub(a.wrapping_mul(x))))
}

fn mix(mut x: u64) -> u64 {
    x ^= x >> 32;
    x = x.wrapping_mul(0xe903_6e5b_6b8d_1d2d);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

fn unmix(mut x: u64) -> u64 {
    x ^= x >> 32;
    x = x.wrapping_mul(inverse(0xbf58_476d_1ce4_e5b9));
    x ^= (x >> 29) ^ (x >> 58);
    x = x.wrapping_mul(inverse(0xe903_6e5b_6b8d_1d2d));
    x ^ (x >> 32)
}

fn left(a: i64) -> u64 {
    mix(a as u64).rotate_left(23).wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Pairs with one hash, the first of small numbers.
fn colliding() -> Vec<(i64, i64)> {
    let target = left(1) ^ mix(1);
    (1..=PAIRS as i64).map(|a| (a, unmix(left(a) ^ target) as i64)).collect()
}

/// The number that hashes like NULL.
fn like_null() -> i64 {
    unmix(0x9e37_79b9_7f4a_7c15) as i64
}

fn column(values: Vec<Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

#[test]
fn the_keys_of_this_test_do_collide() {
    let pairs = colliding();
    let (a, b) = (pairs.iter().map(|p| Some(p.0)).collect(), pairs.iter().map(|p| Some(p.1)).collect());
    let hashes = hash_rows(&[column(a), column(b)], PAIRS);
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:x?}");
    let hashes = hash_rows(&[column(vec![None, Some(like_null()), Some(0)])], 3);
    assert!(hashes[0] == hashes[1] && hashes[0] != hashes[2], "{hashes:x?}");
}

fn key(rng: &mut SmallRng, pairs: &[(i64, i64)]) -> (String, String) {
    let null = |v: i64| if v == like_null() { vec!["NULL".to_owned(), v.to_string()] } else { vec![v.to_string()] };
    let (a, b) = match rng.random_range(0..10) {
        0 | 1 => (like_null(), 5),
        2 => (5, like_null()),
        _ => pairs.choose(rng).copied().unwrap_or((1, 1)),
    };
    let pick = |rng: &mut SmallRng, from: Vec<String>| from.choose(rng).cloned().unwrap_or_default();
    (pick(rng, null(a)), pick(rng, null(b)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_over_keys_whose_hashes_collide_equal_their_queries_after_every_change() {
    let seed = std::env::var("MILLSTREAM_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or(7);
    let (mut rng, pairs) = (SmallRng::seed_from_u64(seed), colliding());
    let local = Local::start(3).await;
    let client = local.connect().await;
    let run = async |sql: &str| {
        if let Err(e) = lines(&client, sql).await {
            panic!("seed {seed}: {sql}\n{} {}", e.code, e.message);
        }
    };
    for table in ["p", "q"] {
        run(&format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT, v INT)")).await;
    }
    for (i, sql) in QUERIES.iter().enumerate() {
        run(&format!("CREATE MATERIALIZED VIEW v{i} AS {sql}")).await;
    }
    let mut found = vec![0; QUERIES.len()];
    for step in 0..STEPS {
        let table = if rng.random_bool(0.5) { "p" } else { "q" };
        let (a, b) = key(&mut rng, &pairs);
        let v = rng.random_range(0..4);
        let same = format!("a IS NOT DISTINCT FROM {a} AND b IS NOT DISTINCT FROM {b}");
        let sql = match rng.random_range(0..10) {
            0..6 => {
                let rows = (0..rng.random_range(1..4)).map(|i| {
                    let (a, b) = key(&mut rng, &pairs);
                    format!("({}, {a}, {b}, {v})", step * 10 + i)
                });
                format!("INSERT INTO {table} VALUES {}", rows.collect::<Vec<_>>().join(", "))
            }
            6 | 7 => format!("DELETE FROM {table} WHERE {same}"),
            8 => format!("UPDATE {table} SET v = v + 1 WHERE {same}"),
            _ => {
                let (c, d) = key(&mut rng, &pairs);
                format!("UPDATE {table} SET a = {c}, b = {d} WHERE {same}")
            }
        };
        run(&sql).await;
        for (i, query) in QUERIES.iter().enumerate() {
            let view = lines(&client, &format!("SELECT * FROM v{i}")).await;
            let view = view.unwrap_or_else(|e| panic!("{query}: {} {}", e.code, e.message));
            let batch = lines(&client, query).await.unwrap_or_else(|e| panic!("{query}: {} {}", e.code, e.message));
            found[i] += batch.len();
            assert_eq!(sorted(&view), sorted(&batch), "seed {seed}, step {step}, after {sql}: {query}");
        }
    }
    let empty: Vec<_> = QUERIES.iter().zip(&found).filter(|(_, n)| **n == 0).map(|(q, _)| q).collect();
    assert!(empty.is_empty(), "never a row in {empty:?}");
    local.stop().await;
}
