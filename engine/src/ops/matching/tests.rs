use millstream_sql::plan::{IncOp, IncPlan};

use super::*;
use crate::ops::aggregate::harness::{Random, Rig};
use crate::ops::partitioned::harness::{Row, TestRow, batch, direct, plan};

/// The operator of a plan that reads rows `R`.
pub(super) fn rig_of<R: TestRow>(plan: &IncPlan, decided: bool, shards: u32) -> Rig {
    let found = plan.nodes.iter().find_map(|n| match &n.op {
        IncOp::MatchRecognize { spec, .. } => Some((n.schema.clone(), spec.as_ref().clone())),
        _ => None,
    });
    let (output, spec) = found.expect("a MATCH_RECOGNIZE");
    Rig::new(shards, spec.shape.partition.clone(), move |shard| {
        Box::new(MatchOp::new(spec.clone(), decided, R::schema(), output.clone(), shard).unwrap())
    })
}

fn rig(plan: &IncPlan, shards: u32) -> Rig {
    rig_of::<Row>(plan, false, shards)
}

fn a_row(r: &mut Random) -> Row {
    (
        r.pick(&[None, Some(1), Some(1), Some(2)]),
        r.pick(&[None, Some(1), Some(2), Some(2), Some(3), Some(5), Some(9), Some(12), Some(20)]),
        r.pick(&[None, Some(0.5), Some(2.0), Some(-1.0), Some(0.1)]),
        r.pick(&[None, Some("a"), Some("b"), Some("c")]),
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
        for _ in 0..1 + r.below(if tick == 0 { 40 } else { 4 }) {
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
        match direct(sql, &content) {
            Ok(want) => {
                assert!(rig.errors.is_empty(), "{sql}\nseed {seed}, tick {tick}: {:?}", rig.errors);
                assert_eq!(rig.output, want, "{sql}\nseed {seed}, tick {tick}");
            }
            Err(e) => assert!(!rig.errors.is_empty(), "{sql}\nseed {seed}, tick {tick}: {e}"),
        }
        if r.below(3) == 0 {
            rig.checkpoint();
            let shards = if plan_is_partitioned(&plan) { r.pick(&[shards, 1, 2]) } else { 1 };
            rig.restart(shards);
        }
    }
}

pub(super) fn plan_is_partitioned(plan: &IncPlan) -> bool {
    plan.nodes.iter().any(|n| matches!(&n.op, IncOp::MatchRecognize { spec, .. } if !spec.shape.partition.is_empty()))
}

#[test]
fn matches_equal_recomputation_after_every_change() {
    const MEASURES: &str = "MEASURES MATCH_NUMBER() AS n, CLASSIFIER() AS v, FIRST(o) AS f, LAST(B.o) AS l, \
         PREV(FIRST(x), 2) AS before, NEXT(LAST(o)) AS after, COUNT(*) AS c, SUM(B.x) AS sb, MAX(s) AS m";
    const ALL: &str = "MEASURES MATCH_NUMBER() AS n, CLASSIFIER() AS v, FIRST(B.o) AS f, FINAL LAST(o) AS l, \
         RUNNING COUNT(B.*) AS c, FINAL COUNT(*) AS fc, PREV(CLASSIFIER()) AS pv, PREV(A.o) AS pa";
    let forms = [
        format!("{MEASURES} PATTERN (A B+ C?) DEFINE B AS o > PREV(o), C AS C.o = LAST(B.o)"),
        format!("{MEASURES} AFTER MATCH SKIP TO NEXT ROW PATTERN (A B* C) DEFINE A AS s = 'a', C AS x > 0.3"),
        format!("{MEASURES} AFTER MATCH SKIP TO LAST B PATTERN (A B+?) DEFINE B AS o > A.o + 2"),
        format!("{MEASURES} PATTERN ((A | B)+ C) DEFINE A AS s = 'a', B AS COUNT(B.*) < 3, C AS NEXT(s) = 'b'"),
        format!("{MEASURES} PATTERN (PERMUTE(A, B, C)) DEFINE A AS s = 'a', B AS s = 'b', C AS s = 'c' OR s IS NULL"),
        format!("{MEASURES} PATTERN (^ A* B) DEFINE A AS x < 1, B AS true"),
        format!("{MEASURES} PATTERN (A B{{2,3}} $) DEFINE B AS o >= PREV(o)"),
        format!("{ALL} ALL ROWS PER MATCH PATTERN (A B* C?) DEFINE B AS o <= PREV(o, 2), C AS SUM(x) > 1"),
        format!("{ALL} ALL ROWS PER MATCH WITH UNMATCHED ROWS PATTERN (A B B?) DEFINE A AS s = 'a', B AS s <> 'a'"),
        format!("{ALL} ALL ROWS PER MATCH OMIT EMPTY MATCHES PATTERN (A* {{- B -}}?) DEFINE A AS x > 0, B AS x <= 0"),
        format!("{ALL} ALL ROWS PER MATCH AFTER MATCH SKIP TO NEXT ROW PATTERN (A B*?) DEFINE A AS MATCH_NUMBER() < 4"),
        "MEASURES LAST(U.o) AS u, SUM(U.x) AS su PATTERN (A B C) SUBSET U = (A, C) DEFINE C AS C.o > FIRST(U.o)".into(),
    ];
    let partitions = ["PARTITION BY p ORDER BY o", "PARTITION BY p, s ORDER BY o DESC NULLS LAST, x", "ORDER BY o, s"];
    for (i, form) in forms.iter().enumerate() {
        for (j, partition) in partitions.iter().enumerate() {
            // s is no partition column where its order matters.
            let sql = format!("SELECT * FROM t MATCH_RECOGNIZE ({partition} {form})");
            let shards = if partition.starts_with("PARTITION") { 1 + (i as u32 % 2) } else { 1 };
            check(&sql, (i * 10 + j) as u64, shards);
        }
    }
}

#[test]
fn only_the_rows_after_the_last_boundary_are_matched_again() {
    let sql = "SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY p ORDER BY o MEASURES A.o AS a, B.o AS b, MATCH_NUMBER() AS n \
               PATTERN (A B) DEFINE A AS s = 'a', B AS s = 'b')";
    let plan = plan::<Row>(sql);
    let mut rig = rig(&plan, 1);
    let row = |o: i64, s: &'static str| (Some(1), Some(o), None, Some(s));
    let all: Vec<(Row, i64)> = (0..1000).map(|o| (row(2 * o, if o % 2 == 0 { "a" } else { "b" }), 1)).collect();
    rig.tick(&[batch(&all)]);
    assert_eq!(rig.emitted, 500);
    // A new row at the end that completes nothing, then one that completes a match.
    rig.tick(&[batch(&[(row(3000, "a"), 1)])]);
    assert_eq!(rig.emitted, 500);
    rig.tick(&[batch(&[(row(3001, "b"), 1)])]);
    assert_eq!(rig.emitted, 501);
    // A row between a and b undoes a match: the later ones have other numbers, the earlier ones are left alone.
    rig.tick(&[batch(&[(row(1997, "x"), 1)])]);
    assert_eq!(rig.emitted, 501 + 1 + 2);
    rig.tick(&[batch(&[(row(1997, "x"), 1), (row(1997, "x"), -1)])]);
    assert_eq!(rig.emitted, 504);
    let content: Vec<Row> = all.iter().map(|a| a.0).chain([row(3000, "a"), row(3001, "b"), row(1997, "x")]).collect();
    assert_eq!(rig.output, direct(sql, &content).unwrap());
}

#[test]
fn a_partition_that_cannot_be_matched_fails_alone_and_heals() {
    let sql = "SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY p ORDER BY o MEASURES A.o AS a \
               PATTERN (A) DEFINE A AS 10 / o > 1)";
    let plan = plan::<Row>(sql);
    let mut rig = rig(&plan, 1);
    let good: Row = (Some(1), Some(3), Some(1.0), None);
    let bad: Row = (Some(2), Some(0), Some(1.0), None);
    let more: Row = (Some(2), Some(4), Some(2.0), None);
    rig.tick(&[batch(&[(good, 1), (more, 1)])]);
    assert_eq!(rig.output, direct(sql, &[good, more]).unwrap());
    rig.tick(&[batch(&[(bad, 1)])]);
    assert_eq!(rig.output, direct(sql, &[good]).unwrap());
    let codes: Vec<_> = rig.errors.entries.iter().map(|((c, _, row), n)| (c.as_str(), row.as_str(), *n)).collect();
    assert_eq!(codes, [("22012", "(2)", 1)]);
    rig.checkpoint();
    rig.restart(1);
    // Still there: one entry, not two.
    rig.tick(&[batch(&[(more, 1)])]);
    assert_eq!(rig.errors.entries.values().sum::<i64>(), 1);
    rig.tick(&[batch(&[(bad, -1)])]);
    assert!(rig.errors.is_empty());
    assert_eq!(rig.output, direct(sql, &[good, more, more]).unwrap());
}

#[test]
fn a_checkpoint_holds_what_changed() {
    let sql = "SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY p ORDER BY o MEASURES A.o AS a, COUNT(*) AS n PATTERN (A B*) DEFINE B AS o < PREV(o) + 2)";
    let plan = plan::<Row>(sql);
    let mut rig = rig(&plan, 2);
    let row = |p: i64, o: i64| (Some(p), Some(o), None, None);
    let all: Vec<(Row, i64)> = (0..200).map(|i| (row(i % 7, i), 1)).collect();
    rig.tick(&[batch(&all)]);
    rig.checkpoint();
    // A partition goes, another changes, and both are so after a restart.
    let gone: Vec<(Row, i64)> = all.iter().filter(|r| r.0.0 == Some(3)).map(|r| (r.0, -1)).collect();
    rig.tick(&[batch(&gone), batch(&[(row(4, 1000), 1)])]);
    rig.checkpoint();
    rig.restart(1);
    rig.tick(&[batch(&[(row(3, 5), 1), (row(4, 1000), -1)])]);
    let content: Vec<Row> = all.iter().map(|r| r.0).filter(|r| r.0 != Some(3)).chain([row(3, 5)]).collect();
    assert_eq!(rig.output, direct(sql, &content).unwrap());
    assert_eq!(rig.state_rows(), content.len());
}
