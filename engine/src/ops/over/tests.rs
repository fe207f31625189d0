use millstream_sql::plan::{IncOp, IncPlan};
use millstream_sql::session::session_state_for_views;

use super::*;
use crate::ops::aggregate::harness::{Random, Rig};
use crate::ops::partitioned::harness::{Row, TestRow as _, batch, direct, plan};

/// The window operator of a plan whose source is read as it is.
fn rig(plan: &IncPlan, shards: u32) -> Rig {
    let (node, op) = plan
        .nodes
        .iter()
        .find_map(|n| match &n.op {
            IncOp::Over { partition, order, plan } => {
                Some((n.clone(), (partition.clone(), order.clone(), plan.clone())))
            }
            _ => None,
        })
        .expect("a window operator");
    let route = op.0.clone();
    Rig::new(shards, route, move |shard| {
        let state = session_state_for_views();
        let (partition, order, plan) = op.clone();
        Box::new(OverOp::new(&state, &plan, Row::schema(), partition, order, node.schema.clone(), shard).unwrap())
    })
}

fn a_row(r: &mut Random) -> Row {
    (
        r.pick(&[None, Some(1), Some(1), Some(2)]),
        r.pick(&[None, Some(1), Some(2), Some(2), Some(3), Some(5), Some(9)]),
        r.pick(&[None, Some(0.5), Some(2.0), Some(-1.0), Some(0.1)]),
        r.pick(&[None, Some("a"), Some("b")]),
    )
}

/// Random inserts and deletes of several rows a tick; after each the output is what the query gives.
fn check(sql: &str, seed: u64, shards: u32) {
    let plan = plan::<Row>(sql);
    let mut r = Random(seed);
    let mut rig = rig(&plan, shards);
    rig.chunk_rows = 5;
    let mut content: Vec<Row> = Vec::new();
    for tick in 0..14 {
        let mut changes = Vec::new();
        for _ in 0..1 + r.below(if tick == 0 { 20 } else { 4 }) {
            if !content.is_empty() && r.below(2) == 0 {
                let at = r.below(content.len() as u64) as usize;
                changes.push((content.swap_remove(at), -1));
            } else {
                let (row, times) = (a_row(&mut r), 1 + r.below(2) as i64);
                content.extend(std::iter::repeat_n(row, times as usize));
                changes.push((row, times));
            }
        }
        let (a, b) = changes.split_at(changes.len() / 2);
        rig.tick(&[batch(a), batch(b)]);
        let want = direct(sql, &content).unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert_eq!(rig.output, want, "{sql}\nseed {seed}, tick {tick}");
        if r.below(3) == 0 {
            rig.checkpoint();
            let shards = r.pick(&[shards, 1, 2]);
            rig.restart(shards);
        }
    }
}

/// Functions over frames; `w` stands for PARTITION BY and ORDER BY.
const CALLS: &[&str] = &[
    "row_number() OVER (w)",
    "rank() OVER (w)",
    "dense_rank() OVER (w)",
    "percent_rank() OVER (w)",
    "cume_dist() OVER (w)",
    "ntile(3) OVER (w)",
    "lag(x) OVER (w)",
    "lag(x, 2, 7.5) OVER (w)",
    "lag(x) IGNORE NULLS OVER (w)",
    "lead(s) OVER (w)",
    "lead(x, 3) OVER (w)",
    "first_value(x) OVER (w)",
    "last_value(x) OVER (w)",
    "last_value(s) OVER (w ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
    "nth_value(x, 2) OVER (w)",
    "sum(x) OVER (w)",
    "sum(x) OVER (w ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "sum(x) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
    "sum(x) OVER (w ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)",
    "avg(x) OVER (w ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING)",
    "count(x) OVER (w GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
    "count(*) OVER (w GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "min(x) OVER (w RANGE BETWEEN CURRENT ROW AND CURRENT ROW)",
    "max(x) OVER (w ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)",
    "sum(p) OVER (w ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING)",
    "avg(x) OVER (w GROUPS UNBOUNDED PRECEDING)",
    "min(s) OVER (w)",
    "stddev_pop(x) OVER (w ROWS UNBOUNDED PRECEDING)",
    "sum(x) OVER (w GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)",
    "max(x) OVER (w GROUPS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)",
];

#[test]
fn one_function_equals_recomputation_after_every_change() {
    let windows = [
        "PARTITION BY p ORDER BY o",
        "PARTITION BY p ORDER BY o DESC NULLS LAST, s",
        "ORDER BY o",
        "PARTITION BY p ORDER BY o, s, p",
    ];
    for (i, call) in CALLS.iter().enumerate() {
        for (j, window) in windows.iter().enumerate() {
            let call = call.replace("OVER (w", &format!("OVER ({window}"));
            let sql = format!("SELECT p, o, x, s, {call} AS w FROM t");
            check(&sql, (i * 10 + j) as u64, if window.starts_with("PARTITION") { 1 + (i as u32 % 2) } else { 1 });
        }
    }
}

#[test]
fn frames_of_values_equal_recomputation() {
    for (i, frame) in [
        "RANGE BETWEEN 1 PRECEDING AND CURRENT ROW",
        "RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING",
        "RANGE BETWEEN 1 FOLLOWING AND 3 FOLLOWING",
        "RANGE BETWEEN UNBOUNDED PRECEDING AND 2 FOLLOWING",
    ]
    .iter()
    .enumerate()
    {
        for (j, order) in ["o", "o DESC"].iter().enumerate() {
            let sql = format!("SELECT p, o, x, s, sum(x) OVER (PARTITION BY p ORDER BY {order} {frame}) AS w FROM t");
            check(&sql, (100 + 10 * i + j) as u64, 1);
        }
    }
}

#[test]
fn several_functions_and_no_order_equal_recomputation() {
    for (i, calls) in [
        "row_number() OVER (PARTITION BY p ORDER BY o) AS a, lag(x) OVER (PARTITION BY p ORDER BY o) AS b",
        "rank() OVER (PARTITION BY p ORDER BY o) AS a, sum(x) OVER (PARTITION BY p ORDER BY o ROWS 1 PRECEDING) AS b",
        "count(*) OVER (PARTITION BY p) AS a, row_number() OVER (PARTITION BY p) AS b",
        "row_number() OVER () AS a, max(x) OVER () AS b",
    ]
    .iter()
    .enumerate()
    {
        for seed in 0..3 {
            check(&format!("SELECT p, o, x, s, {calls} FROM t"), (1000 + 10 * i + seed) as u64, 1);
        }
    }
}

/// Partitions so long that states are kept on the way: rows at the end, in the middle, taken out again; restarts.
#[test]
fn running_functions_go_on_from_kept_states() {
    let sql = "SELECT p, o, x, s, sum(x) OVER (PARTITION BY p ORDER BY o) AS a, \
               avg(x) OVER (PARTITION BY p ORDER BY o ROWS UNBOUNDED PRECEDING) AS b, \
               dense_rank() OVER (PARTITION BY p ORDER BY o) AS c, min(x) OVER (PARTITION BY p ORDER BY o) AS d, \
               lag(x) OVER (PARTITION BY p ORDER BY o) AS e, count(s) OVER (PARTITION BY p ORDER BY o) AS f FROM t";
    let plan = plan::<Row>(sql);
    let mut rig = rig(&plan, 1);
    let mut r = Random(11);
    let mut content: Vec<Row> = Vec::new();
    let mut last = 0;
    for tick in 0..40 {
        let mut changes = Vec::new();
        for _ in 0..if tick == 0 { 900 } else { 1 + r.below(90) } {
            // Peers are few at the end and many in the middle.
            last += i64::from(r.below(3) > 0);
            let row = (
                Some(r.below(2) as i64),
                Some(last),
                r.pick(&[None, Some(0.1), Some(2.5)]),
                r.pick(&[Some("a"), None]),
            );
            changes.push((row, 1 + i64::from(r.below(9) == 0)));
        }
        if tick % 3 == 2 {
            for _ in 0..3 {
                let at = match r.below(2) {
                    0 => r.below(content.len() as u64) as usize,
                    _ => content.len() - 1 - r.below(80) as usize,
                };
                changes.push((content.swap_remove(at), -1));
            }
        }
        for (row, times) in changes.iter().filter(|c| c.1 > 0) {
            content.extend(std::iter::repeat_n(*row, *times as usize));
        }
        rig.tick(&[batch(&changes)]);
        assert_eq!(rig.output, direct(sql, &content).unwrap(), "tick {tick}");
        if tick % 11 == 10 {
            rig.checkpoint();
            rig.restart(1);
        }
    }
}

#[test]
fn only_what_a_change_is_felt_by_is_emitted() {
    let plan = plan::<Row>("SELECT p, o, x, s, lag(x) OVER (PARTITION BY p ORDER BY o) AS w FROM t");
    let mut rig = rig(&plan, 1);
    let row = |o: i64| (Some(1), Some(o), Some(o as f64), None);
    let all: Vec<(Row, i64)> = (0..1000).map(|o| (row(2 * o), 1)).collect();
    rig.tick(&[batch(&all)]);
    assert_eq!(rig.emitted, 1000);
    rig.tick(&[batch(&[(row(501), 1)])]);
    // The new row, and the one after it twice.
    assert_eq!(rig.emitted, 1003);
    rig.tick(&[batch(&[(row(501), -1)])]);
    assert_eq!(rig.emitted, 1006);
    rig.tick(&[batch(&[(row(501), 1), (row(501), -1)])]);
    assert_eq!(rig.emitted, 1006);
}

#[test]
fn a_partition_that_cannot_be_computed_fails_alone_and_heals() {
    let sql = "SELECT p, o, x, s, sum(o) OVER (PARTITION BY p ORDER BY s) AS w FROM t";
    let plan = plan::<Row>(sql);
    let mut rig = rig(&plan, 1);
    let good: Row = (Some(1), Some(3), Some(1.0), None);
    let big: Row = (Some(2), Some(i64::MAX), Some(1.0), None);
    let more: Row = (Some(2), Some(1), Some(2.0), None);
    rig.tick(&[batch(&[(good, 1), (big, 1)])]);
    assert_eq!(rig.output, direct(sql, &[good, big]).unwrap());
    rig.tick(&[batch(&[(more, 1)])]);
    assert_eq!(rig.output, direct(sql, &[good]).unwrap());
    let codes: Vec<_> = rig.errors.entries.iter().map(|((c, _, row), n)| (c.as_str(), row.as_str(), *n)).collect();
    assert_eq!(codes, [("22003", "(2)", 1)]);
    rig.checkpoint();
    rig.restart(1);
    // Still out of range: one entry, not two.
    rig.tick(&[batch(&[(more, 1)])]);
    assert_eq!(rig.errors.entries.values().sum::<i64>(), 1);
    rig.tick(&[batch(&[(big, -1)])]);
    assert!(rig.errors.is_empty());
    assert_eq!(rig.output, direct(sql, &[good, more, more]).unwrap());
}
