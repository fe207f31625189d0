//! Temporal filters against a model that evaluates the condition for all rows at every moment.

use std::collections::BTreeMap;

use arrow::array::{TimestampMicrosecondArray, TimestampNanosecondArray};
use millstream_sql::plan::PlanExpr;

use super::*;
use crate::ops::aggregate::harness::{Random, Rig, text};
use crate::zset::Weights;

fn schema() -> SchemaRef {
    let ts = |n| Field::new(n, DataType::Timestamp(TimeUnit::Microsecond, None), true);
    SchemaRef::new(Schema::new(vec![ts("a"), ts("b"), Field::new("x", DataType::Int64, true)]))
}

type Row = (Option<i64>, Option<i64>, i64);

fn batch(rows: &[(Row, i64)]) -> ZBatch {
    let a: TimestampMicrosecondArray = rows.iter().map(|r| r.0.0).collect();
    let b: TimestampMicrosecondArray = rows.iter().map(|r| r.0.1).collect();
    let x: Int64Array = rows.iter().map(|r| Some(r.0.2)).collect();
    let weights: Vec<i64> = rows.iter().map(|r| r.1).collect();
    let rows = RecordBatch::try_new(schema(), vec![Arc::new(a), Arc::new(b), Arc::new(x)]).expect("batch");
    ZBatch::new(rows, Weights::Dense(weights.into()))
}

fn limit(column: usize, parts: (i64, i64, i64), next: bool, leaves: bool) -> Limit {
    let value = PlanExpr::column(column).compile(&schema()).expect("compiles");
    Limit { value, shift: parts.0, step: parts.1, offset: parts.2, next, leaves }
}

type Condition = fn(i64, &Row) -> bool;

/// Operators with what they mean: whether a row is there at a moment.
type Case = (&'static str, fn() -> Vec<Limit>, Condition);

fn cases() -> Vec<Case> {
    vec![
        ("a <= now", || vec![limit(0, (0, 1, 0), false, false)], |now, r| r.0.is_some_and(|a| a <= now)),
        ("a > now - 20", || vec![limit(0, (0, 1, 20), false, true)], |now, r| r.0.is_some_and(|a| a > now - 20)),
        (
            "now between a and b",
            || vec![limit(0, (0, 1, 0), false, false), limit(1, (0, 1, 0), true, true)],
            |now, r| r.0.zip(r.1).is_some_and(|(a, b)| a <= now && now <= b),
        ),
        (
            "now - 10 < a and b < now",
            || vec![limit(0, (0, 1, 10), false, true), limit(1, (0, 1, 0), true, false)],
            |now, r| r.0.zip(r.1).is_some_and(|(a, b)| now - 10 < a && b < now),
        ),
        (
            "a = floor(now + 3, 8) + 16",
            || vec![limit(0, (-16, 8, -3), false, false), limit(0, (-16, 8, -3), true, true)],
            |now, r| r.0.is_some_and(|a| a == (now + 3).div_euclid(8) * 8 + 16),
        ),
    ]
}

#[test]
fn rows_come_and_go_as_the_condition_says_at_every_moment() {
    for seed in 0..20u64 {
        for (name, limits, condition) in cases() {
            let mut r = Random(seed * 101 + 3);
            let mut shards = r.pick(&[1, 2, 3]);
            let make = move |shard| {
                Box::new(TemporalFilterOp::new(schema(), limits(), shard).expect("operator")) as Box<dyn DeltaOp>
            };
            let mut rig = Rig::new(shards, vec![2], make);
            rig.chunk_rows = 3;
            let mut rows: BTreeMap<Row, i64> = BTreeMap::new();
            let mut clock = -30;
            for step in 0..80 {
                clock += r.pick(&[0, 1, 1, 2, 5, 30]);
                let mut changes: Vec<(Row, i64)> = Vec::new();
                for _ in 0..r.below(6) {
                    let near = |r: &mut Random| (r.below(12) > 0).then(|| clock - 40 + r.below(90) as i64);
                    let row = (near(&mut r), near(&mut r), r.below(3) as i64);
                    changes.push((row, 1 + r.below(2) as i64));
                }
                let old: Vec<Row> = rows.keys().copied().collect();
                for _ in 0..r.below(4) {
                    if !old.is_empty() {
                        let row = r.pick(&old);
                        let left = rows[&row] + changes.iter().filter(|c| c.0 == row).map(|c| c.1).sum::<i64>();
                        if left > 0 {
                            changes.push((row, -1));
                        }
                    }
                }
                for (row, w) in &changes {
                    *rows.entry(*row).or_default() += w;
                }
                rows.retain(|_, w| *w != 0);
                rig.clock = clock;
                let half = changes.len() / 2;
                rig.tick(&[batch(&changes[..half]), batch(&changes[half..])]);
                if r.below(3) == 0 {
                    rig.checkpoint();
                    if r.below(2) == 0 {
                        // Another number, with which the rows of every shard go to all of them, as in a job.
                        shards = shards % 3 + 1;
                        rig.restart(shards);
                    }
                }
                let there = rows.iter().filter(|(row, _)| condition(clock, row));
                let want: BTreeMap<String, i64> =
                    there.map(|(row, w)| (text(&batch(&[(*row, 1)]).rows, 0), *w)).collect();
                assert_eq!(rig.output, want, "{name}, seed {seed}, step {step}, clock {clock}");
            }
            rig.clock = clock + 1_000;
            rig.tick(&[]);
            assert_eq!(rig.state_rows(), 0, "{name}, seed {seed}: everything has come and gone");
        }
    }
}

fn alone(limits: Vec<Limit>) -> TemporalFilterOp {
    TemporalFilterOp::new(schema(), limits, Shard::ONE).expect("operator")
}

#[test]
fn it_wants_a_tick_when_the_next_row_comes_or_goes() {
    let mut op = alone(vec![limit(0, (0, 1, 0), false, false), limit(1, (0, 1, 0), false, true)]);
    let mut errors = crate::ops::ErrorSet::default();
    let mut tick = |op: &mut TemporalFilterOp, clock: i64, rows: &[(Row, i64)]| {
        let mut out: Vec<ZBatch> = Vec::new();
        let mut cx = TickCx {
            from: crate::time::Epoch(0),
            to: crate::time::Epoch(1),
            clock: Timestamp(clock),
            errors: &mut errors,
            chunk_rows: 100,
            time: &crate::ops::NO_TIME,
        };
        op.push(0, batch(rows), &mut cx, &mut out).expect("pushes");
        op.flush(&mut cx, &mut out).expect("flushes");
        out.iter().map(ZBatch::len).sum::<usize>()
    };
    assert_eq!(op.next_wakeup(), None);
    assert_eq!(tick(&mut op, 5, &[((Some(10), Some(30), 1), 1), ((Some(20), Some(25), 2), 1)]), 0);
    assert_eq!(op.next_wakeup(), Some(Timestamp(10)));
    assert_eq!(tick(&mut op, 10, &[]), 1);
    assert_eq!(op.next_wakeup(), Some(Timestamp(20)));
    assert_eq!(tick(&mut op, 26, &[]), 0, "the second row has come and gone unseen");
    assert_eq!(op.next_wakeup(), Some(Timestamp(30)));
    // The clock does not go back.
    assert_eq!(tick(&mut op, 3, &[]), 0);
    assert_eq!(tick(&mut op, 30, &[]), 1);
    assert_eq!((op.next_wakeup(), op.stats().rows), (None, 0));
}

#[test]
fn a_row_that_stays_is_not_kept() {
    let mut op = alone(vec![limit(0, (0, 1, 0), false, false)]);
    let mut out: Vec<ZBatch> = Vec::new();
    let mut cx = crate::ops::eval::testing::TestCx::default();
    out.extend(cx.push(&mut op, 0, batch(&[((Some(0), None, 1), 1), ((Some(7), None, 1), 1), ((None, None, 1), 1)])));
    out.extend(cx.flush(&mut op));
    assert_eq!(out.iter().map(ZBatch::len).sum::<usize>(), 1);
    assert_eq!(op.stats().rows, 1, "the row whose time is to come");
}

#[test]
fn nanoseconds_round_to_the_side_of_the_condition() {
    let ns = SchemaRef::new(Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Nanosecond, None), true)]));
    for (nanos, next, want) in
        [(5_000, false, 5), (5_001, false, 6), (5_000, true, 6), (5_999, true, 6), (-1, false, 0)]
    {
        let value = PlanExpr::column(0).compile(&ns).expect("compiles");
        let limits = vec![Limit { value, shift: 0, step: 1, offset: 0, next, leaves: false }];
        let op = TemporalFilterOp::new(ns.clone(), limits, Shard::ONE).expect("operator");
        let rows = RecordBatch::try_new(ns.clone(), vec![Arc::new(TimestampNanosecondArray::from(vec![nanos]))]);
        let (from, to) = op.moments(&ZBatch::inserts(rows.expect("batch"))).expect("moments");
        assert_eq!((from, to), (vec![want], vec![i64::MAX]), "{nanos} ns");
    }
}

#[test]
fn times_at_the_ends_of_the_world_do_not_wrap() {
    let l = limit(0, (-1_000_000, 86_400_000_000, -5), true, true);
    assert!(l.moment(i64::MAX, true) > i64::MAX - 200_000_000_000);
    assert!(l.moment(i64::MIN, false) < i64::MIN + 200_000_000_000);
}
