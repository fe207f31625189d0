use std::collections::BTreeMap;

use millstream_sql::plan::IncPlan;
use millstream_sql::plan::time::{Bound, Bounds};

use super::*;
use crate::ops::aggregate::harness::{Random, Rig};
use crate::ops::matching::tests::{plan_is_partitioned, rig_of};
use crate::ops::partitioned::harness::{TimedRow, batch, direct, plan};

const SECOND: i64 = 1_000;
/// Rows come up to so much out of order.
const DISORDER: i64 = 6;
const WITHIN: i64 = 5;

/// Time has come so far, in seconds; `None`: to the end.
fn bounds(second: Option<i64>) -> Bounds {
    vec![None, Some(second.map_or(Bound::Never, |s| Bound::At(s * SECOND * 1_000))), None, None]
}

fn at(keep: Option<i64>, close: Option<i64>) -> OpTime {
    OpTime { forget: vec![bounds(keep)], closed: bounds(close) }
}

fn forms() -> Vec<String> {
    const M: &str = "MEASURES MATCH_NUMBER() AS n, CLASSIFIER() AS v, FIRST(ts) AS f, LAST(B.x) AS l, COUNT(*) AS c, \
                     PREV(FIRST(x), 2) AS before";
    const UP: &str = "DEFINE A AS s = 'a', B AS x > PREV(x)";
    const W: &str = "WITHIN INTERVAL '5 seconds'";
    vec![
        format!("{M} PATTERN (A B+) {W} DEFINE B AS x > PREV(x)"),
        format!("{M} AFTER MATCH SKIP TO NEXT ROW PATTERN (A B* C) {W} DEFINE A AS s = 'a', C AS s = 'c'"),
        format!("MEASURES LAST(B.x) AS l, COUNT(*) AS c PATTERN (A B*) {W} DEFINE A AS s = 'a', B AS s = 'b'"),
        format!("{M} PATTERN (A B C?) DEFINE A AS s = 'a', B AS s = 'b'"),
        format!("{M} ALL ROWS PER MATCH WITH UNMATCHED ROWS AFTER MATCH SKIP TO NEXT ROW PATTERN (A B B?) {W} {UP}"),
        format!("{M} ALL ROWS PER MATCH WITH UNMATCHED ROWS PATTERN (A B+) {UP}"),
        format!("{M}, NEXT(LAST(x)) AS after PATTERN (A B? C) {W} DEFINE A AS s = 'a', B AS NEXT(s) = 'b'"),
        format!("{M} AFTER MATCH SKIP TO LAST B PATTERN (A B+?) {W} DEFINE B AS x > A.x"),
        format!("{M} PATTERN (A B+ C) DEFINE B AS x < PREV(x), C AS x > PREV(x)"),
        format!("{M} PATTERN (^ A* B) {W} DEFINE A AS s = 'a'"),
        format!("{M} PATTERN (A B{{1,2}} $) {W} DEFINE A AS s = 'a'"),
        format!("{M} PATTERN (A B* C) {W} DEFINE B AS COUNT(B.*) < 3, C AS SUM(x) > 7"),
    ]
}

/// Rows in the order in which they come, with the second before which none comes any more.
fn stream(r: &mut Random, n: i64) -> Vec<(TimedRow, i64)> {
    let mut second = 0;
    let mut rows: Vec<TimedRow> = Vec::new();
    for _ in 0..n {
        second += r.below(3) as i64;
        let ts =
            (r.below(25) > 0).then(|| (second - r.below(DISORDER as u64) as i64) * SECOND + r.below(2) as i64 * 500);
        rows.push((
            Some(r.below(3) as i64),
            ts,
            Some(r.below(10) as i64),
            r.pick(&[Some("a"), Some("b"), Some("c"), None]),
        ));
    }
    let mut least = i64::MAX;
    let mut out: Vec<(TimedRow, i64)> = Vec::new();
    for row in rows.into_iter().rev() {
        out.push((row, least));
        least = least.min(row.1.map_or(i64::MAX, |ts| ts.div_euclid(SECOND)));
    }
    out.reverse();
    out
}

/// What an operator gives that is told everything at once.
fn at_once(plan: &IncPlan, decided: bool, content: &[TimedRow], time: &OpTime) -> (BTreeMap<String, i64>, usize) {
    let mut rig = rig_of::<TimedRow>(plan, decided, 1);
    rig.time = time.clone();
    rig.tick(&[batch(&content.iter().map(|r| (*r, 1)).collect::<Vec<_>>())]);
    (rig.output, rig.errors.entries.len())
}

fn maybe_restart(r: &mut Random, rig: &mut Rig, plan: &IncPlan) {
    if r.below(4) == 0 {
        rig.checkpoint();
        let shards = if plan_is_partitioned(plan) { r.pick(&[1, 3, 8]) } else { 1 };
        rig.restart(shards);
    }
}

/// Rows out of order, several a tick, some of them taken back before the watermark passes them; it passes them at times of
/// its own. `allowance`: for so many seconds behind it rows may come and go, though matches were given.
fn check(sql: &str, seed: u64, decided: bool, allowance: i64) {
    let plan = plan::<TimedRow>(sql);
    let mut r = Random(seed);
    let stream = stream(&mut r, 70);
    let mut rig = rig_of::<TimedRow>(&plan, decided, if plan_is_partitioned(&plan) { r.pick(&[1, 3, 8]) } else { 1 });
    rig.chunk_rows = 5;
    let mut content: Vec<TimedRow> = Vec::new();
    let (mut next, mut mark) = (0, i64::MIN / SECOND / 1_000 / 2);
    let mut before = BTreeMap::new();
    while next < stream.len() {
        let to = (next + 1 + r.below(9) as usize).min(stream.len());
        let mut changes: Vec<(TimedRow, i64)> = stream[next..to].iter().map(|s| (s.0, 1)).collect();
        content.extend(stream[next..to].iter().map(|s| s.0));
        // What the last watermark has not passed may go, now or never.
        let open: Vec<usize> =
            (0..content.len()).filter(|i| content[*i].1.is_none_or(|t| t >= mark * SECOND)).collect();
        if r.below(3) == 0 && !open.is_empty() {
            changes.push((content.swap_remove(r.pick(&open)), -1));
        }
        // Sometimes the watermark stays, though it could go on.
        if r.below(3) > 0 {
            mark = mark.max(stream[to - 1].1.min(mark.max(-100) + r.below(40) as i64));
        }
        next = to;
        rig.time = at(Some(mark), Some(mark + allowance));
        let (a, b) = changes.split_at(changes.len() / 2);
        rig.tick(&[batch(a), batch(b)]);
        let context = format!("{sql}\nseed {seed}, row {next}, watermark {mark}");
        assert!(rig.errors.is_empty(), "{context}: {:?}", rig.errors);
        if decided {
            assert_eq!(rig.output, at_once(&plan, true, &content, &rig.time).0, "{context}");
            let kept = before.iter().all(|(row, n)| rig.output.get(row).is_some_and(|now| now >= n));
            assert!(kept || allowance > 0, "{context}: what was out is taken back");
            before = rig.output.clone();
        } else {
            assert_eq!(rig.output, direct(sql, &content).unwrap(), "{context}");
        }
        maybe_restart(&mut r, &mut rig, &plan);
    }
    rig.time = at(None, None);
    rig.tick(&[batch::<TimedRow>(&[])]);
    assert_eq!(rig.output, direct(sql, &content).unwrap(), "{sql}\nseed {seed}, at the end");
}

fn queries() -> impl Iterator<Item = (u64, String)> {
    let partitions = ["PARTITION BY p ORDER BY ts", "PARTITION BY p, s ORDER BY ts, x DESC", "ORDER BY ts"];
    forms().into_iter().enumerate().flat_map(move |(i, form)| {
        partitions.into_iter().enumerate().map(move |(j, partition)| {
            ((10 * i + j) as u64, format!("SELECT * FROM t MATCH_RECOGNIZE ({partition} {form})"))
        })
    })
}

#[test]
fn forgetting_changes_no_later_match() {
    for (seed, sql) in queries() {
        check(&sql, seed, false, 0);
        check(&sql, 1_000 + seed, false, 0);
    }
}

#[test]
fn decided_matches_are_the_same_however_rows_come() {
    for (seed, sql) in queries() {
        check(&sql, 2_000 + seed, true, 0);
        check(&sql, 3_000 + seed, true, 0);
    }
}

#[test]
fn matches_that_are_out_are_corrected_within_the_allowance() {
    for (seed, sql) in queries() {
        check(&sql, 4_000 + seed, true, 8);
    }
}

#[test]
fn within_bounds_what_is_kept() {
    for decided in [false, true] {
        for form in [0, 1, 2, 4, 7, 11] {
            let sql = format!("SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY p ORDER BY ts {})", forms()[form]);
            let plan = plan::<TimedRow>(&sql);
            let mut rig = rig_of::<TimedRow>(&plan, decided, 2);
            let mut r = Random(form as u64);
            let mut content: Vec<TimedRow> = Vec::new();
            let mut most = 0;
            for part in stream(&mut r, 3_000).chunks(7) {
                let rows: Vec<(TimedRow, i64)> = part.iter().map(|s| (s.0, 1)).filter(|c| c.0.1.is_some()).collect();
                content.extend(rows.iter().map(|c| c.0));
                let mark = part[part.len() - 1].1.min(10_000);
                rig.time = at(Some(mark), Some(mark));
                rig.tick(&[batch(&rows)]);
                // Rows that a match can still have, those that were out of order when it was last looked, and what PREV looks
                // at in each of three partitions.
                let least = (mark - WITHIN - DISORDER) * SECOND;
                let reach = content.iter().rev().take(300).filter(|c| c.1 >= Some(least)).count();
                most = most.max(rig.state_rows());
                assert!(rig.state_rows() <= reach + 3 * 3, "{sql}: {} rows are kept, not {reach}", rig.state_rows());
            }
            assert!(most > 5, "{sql}: {most}");
            rig.time = at(Some(1_000_000), Some(1_000_000));
            rig.tick(&[batch::<TimedRow>(&[])]);
            assert!(rig.state_rows() <= 3 * 3, "{sql}: of what is over {} rows are kept", rig.state_rows());
            rig.checkpoint();
            rig.restart(3);
            assert!(rig.state_rows() <= 3 * 3, "{sql}: {} rows came back", rig.state_rows());
        }
    }
}

#[test]
fn a_row_that_fails_behind_the_watermark_ends_its_partition() {
    let sql = "SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY p ORDER BY ts MEASURES FIRST(x) AS f, LAST(x) AS l \
               PATTERN (A B) DEFINE A AS 10 / x > 1, B AS x > A.x)";
    let plan = plan::<TimedRow>(sql);
    let row = |p: i64, second: i64, x: i64| (Some(p), Some(second * SECOND), Some(x), None);
    let good = [row(1, 1, 1), row(1, 2, 2), row(2, 1, 3), row(2, 9, 4)];
    let bad = row(1, 5, 0);
    let all = [&good[..], &[bad, row(1, 6, 3), row(1, 7, 4)]].concat();
    let count = |output: &BTreeMap<String, i64>, p: &str| output.keys().filter(|l| l.starts_with(p)).count();
    for decided in [false, true] {
        // In one tick, and in ticks between which time goes on.
        let (want, errors) = at_once(&plan, decided, &all, &at(Some(20), Some(20)));
        assert_eq!((count(&want, "1"), count(&want, "2"), errors), (1, 1, 1), "{want:?}");
        let mut rig = rig_of::<TimedRow>(&plan, decided, 1);
        for (i, r) in all.iter().enumerate() {
            rig.time = at(Some([0, 0, 0, 0, 5, 6, 7][i]), Some([0, 0, 0, 0, 5, 6, 7][i]));
            rig.tick(&[batch(&[(*r, 1)])]);
        }
        rig.checkpoint();
        rig.restart(2);
        rig.time = at(Some(20), Some(20));
        rig.tick(&[batch::<TimedRow>(&[])]);
        assert_eq!(rig.output, want);
        rig.tick(&[batch(&[(row(1, 21, 5), 1), (row(2, 21, 2), 1), (row(2, 22, 7), 1)])]);
        rig.time = at(Some(30), Some(30));
        rig.tick(&[batch::<TimedRow>(&[])]);
        assert_eq!((count(&rig.output, "1"), count(&rig.output, "2"), rig.errors.entries.len()), (1, 2, 1));
        assert_eq!(rig.state_rows(), 0);
    }
}

#[test]
fn a_row_that_fails_before_the_watermark_passes_it_heals() {
    let sql = "SELECT * FROM t MATCH_RECOGNIZE (ORDER BY ts MEASURES FIRST(x) AS f PATTERN (A) DEFINE A AS 10 / x > 1)";
    let plan = plan::<TimedRow>(sql);
    let mut rig = rig_of::<TimedRow>(&plan, false, 1);
    let row = |second: i64, x: i64| (None, Some(second * SECOND), Some(x), None);
    rig.time = at(Some(2), Some(2));
    rig.tick(&[batch(&[(row(1, 1), 1), (row(3, 3), 1), (row(4, 0), 1)])]);
    // What is settled stays.
    assert_eq!((rig.output.len(), rig.errors.entries.len()), (1, 1));
    rig.checkpoint();
    rig.restart(1);
    rig.tick(&[batch(&[(row(4, 0), -1)])]);
    assert_eq!((rig.output.len(), rig.errors.entries.len()), (2, 0));
}

#[test]
fn partitions_by_a_time_go_with_it() {
    let sql = "SELECT * FROM t MATCH_RECOGNIZE (PARTITION BY ts ORDER BY x MEASURES MATCH_NUMBER() AS n, FIRST(x) AS f \
               PATTERN (A B+) DEFINE B AS x > PREV(x))";
    let plan = plan::<TimedRow>(sql);
    let mut rig = rig_of::<TimedRow>(&plan, false, 1);
    let row = |second: i64, x: i64| (None, Some(second * SECOND), Some(x), None);
    let all: Vec<(TimedRow, i64)> = (0..100).map(|i| (row(i / 10, i % 10), 1)).collect();
    rig.tick(&[batch(&all)]);
    rig.checkpoint();
    let want = rig.output.clone();
    rig.time = at(Some(8), None);
    rig.tick(&[batch::<TimedRow>(&[])]);
    assert_eq!((rig.state_rows(), &rig.output), (20, &want));
    rig.checkpoint();
    rig.restart(2);
    rig.tick(&[batch(&[(row(8, 20), 1)])]);
    assert_eq!((rig.state_rows(), rig.output.len()), (21, 10));
}
