//! EMIT against a model that remembers every change.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millstream_sql::plan::time::Bound;

use super::*;
use crate::ops::aggregate::harness::{Random, text};
use crate::ops::{ErrorSet, OpTime};
use crate::time::Epoch;
use crate::zset::Weights;

fn schema() -> SchemaRef {
    let ts = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![Field::new("ts", ts, true), Field::new("x", DataType::Int64, true)]))
}

type Row = (Option<i64>, i64);

fn batch(rows: &[(Row, i64)]) -> ZBatch {
    let ts: TimestampMicrosecondArray = rows.iter().map(|r| r.0.0).collect();
    let x: Int64Array = rows.iter().map(|r| Some(r.0.1)).collect();
    let weights: Vec<i64> = rows.iter().map(|r| r.1).collect();
    let rows = RecordBatch::try_new(schema(), vec![Arc::new(ts), Arc::new(x)]).expect("batch");
    ZBatch::new(rows, Weights::Dense(weights.into()))
}

/// The sum of what an operator has emitted.
#[derive(Default)]
struct Sum {
    rows: BTreeMap<String, i64>,
    retractions: usize,
}

fn tick(op: &mut EmitOp, sum: &mut Sum, changes: &[(Row, i64)], closed: Option<i64>, clock: i64) {
    let time = OpTime { forget: Vec::new(), closed: vec![closed.map(Bound::At), None] };
    let mut errors = ErrorSet::default();
    let mut cx = TickCx {
        from: Epoch(0),
        to: Epoch(1),
        clock: Timestamp(clock),
        errors: &mut errors,
        chunk_rows: 3,
        time: &time,
    };
    let mut out: Vec<ZBatch> = Vec::new();
    let half = changes.len() / 2;
    op.push(0, batch(&changes[..half]), &mut cx, &mut out).expect("pushes");
    op.push(0, batch(&changes[half..]), &mut cx, &mut out).expect("pushes");
    op.flush(&mut cx, &mut out).expect("flushes");
    for b in out {
        for i in 0..b.len() {
            sum.retractions += usize::from(b.weight(i) < 0);
            *sum.rows.entry(text(&b.rows, i)).or_default() += b.weight(i);
        }
    }
    sum.rows.retain(|_, w| *w != 0);
}

fn restart(op: EmitOp, every: Option<i64>) -> EmitOp {
    let mut op = op;
    let mut again = EmitOp::new(schema(), Some(0), every, Shard::ONE).expect("operator");
    for delta in op.freeze().expect("freezes") {
        assert!(delta.replaces);
        for b in delta.batches {
            again.restore(&delta.slot, &b).expect("restores");
        }
    }
    again
}

fn key(row: Row) -> String {
    text(&batch(&[(row, 1)]).rows, 0)
}

#[test]
fn only_final_rows_go_out_and_each_once() {
    for seed in 0..6 {
        let mut r = Random(seed);
        let mut op = EmitOp::new(schema(), Some(0), None, Shard::ONE).expect("operator");
        let (mut sum, mut model) = (Sum::default(), BTreeMap::<Row, i64>::new());
        let mut bound = 0;
        for step in 0..120 {
            let mut changes = Vec::new();
            for _ in 0..r.below(30) {
                // Nothing before the bound changes, as the bound promises.
                let row = (r.pick(&[Some(0), Some(0), Some(0), None]).map(|_| bound + r.below(400_000) as i64), 1);
                let row = (row.0.map(|t: i64| t - t % 1_000), r.below(3) as i64);
                let row = if row.0.is_some_and(|t| t < bound) { (Some(bound), row.1) } else { row };
                let held = model.get(&row).copied().unwrap_or(0);
                let weight = if held > 0 && r.below(3) == 0 { -1 } else { 1 };
                *model.entry(row).or_default() += weight;
                changes.push((row, weight));
            }
            bound += r.below(150_000) as i64;
            tick(&mut op, &mut sum, &changes, Some(bound), 0);
            let want: BTreeMap<String, i64> = model
                .iter()
                .filter(|((t, _), w)| **w != 0 && t.is_some_and(|t| t < bound))
                .map(|(row, w)| (key(*row), *w))
                .collect();
            assert_eq!(sum.rows, want, "seed {seed}, step {step}");
            assert_eq!(sum.retractions, 0, "what is final is never taken back");
            if r.below(5) == 0 {
                op = restart(op, None);
            }
        }
        // All that is left waits, and no more.
        let waiting: i64 = model.iter().filter(|((t, _), _)| t.is_none_or(|t| t >= bound)).map(|(_, w)| *w).sum();
        let op = restart(op, None);
        let held: Vec<&ZBatch> = op.pieces.values().flat_map(|p| &p.batches).collect();
        let held: i64 = held.iter().map(|b| (0..b.len()).map(|i| b.weight(i)).sum::<i64>()).sum();
        assert_eq!(held, waiting, "seed {seed}");
        assert_eq!(op.next_wakeup(), None);
    }
}

#[test]
fn without_a_bound_nothing_is_final() {
    let mut op = EmitOp::new(schema(), Some(0), None, Shard::ONE).expect("operator");
    let mut sum = Sum::default();
    tick(&mut op, &mut sum, &[((Some(1), 1), 1), ((None, 2), 1)], None, 0);
    assert!(sum.rows.is_empty());
    assert_eq!(op.stats().rows, 2);
}

#[test]
fn early_results_wait_for_the_next_multiple_of_the_interval() {
    let mut op = EmitOp::new(schema(), Some(0), Some(10), Shard::ONE).expect("operator");
    let mut sum = Sum::default();
    tick(&mut op, &mut sum, &[((Some(500), 1), 1)], None, 3);
    assert_eq!(op.next_wakeup(), Some(Timestamp(10)));
    tick(&mut op, &mut sum, &[((Some(500), 1), -1), ((Some(500), 2), 1)], None, 9);
    assert!(sum.rows.is_empty());
    tick(&mut op, &mut sum, &[], None, 10);
    assert_eq!(sum.rows, BTreeMap::from([(key((Some(500), 2)), 1)]));
    assert_eq!((sum.retractions, op.next_wakeup()), (0, None));
    tick(&mut op, &mut sum, &[((Some(500), 2), -1), ((Some(500), 3), 1), ((Some(900), 1), 1)], Some(501), 12);
    assert_eq!(sum.rows, BTreeMap::from([(key((Some(500), 3)), 1)]), "final rows do not wait");
    assert_eq!(op.next_wakeup(), Some(Timestamp(20)));
    let mut op = restart(op, Some(10));
    tick(&mut op, &mut sum, &[], Some(501), 25);
    assert_eq!(sum.rows.len(), 2);
}
