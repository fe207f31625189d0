//! EXCEPT ALL and INTERSECT ALL: a row is out as often as a function of its numbers left and right says.
//!
//! Rows are compared and go out as in DISTINCT, see there. A number that is negative in passing counts as 0.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_sql::plan::SetOpKind;

use super::aggregate::{restore_words, to_batches};
use super::distinct::emit_rows;
use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result};
use crate::state::keyed::KeyedState;
use crate::state::keyed::code::{canonical, plain_type};
use crate::zset::ZBatch;

const SLOT: &str = "rows";

/// See the module. Rows are spread over shards by all their columns.
pub struct SetOp {
    kind: SetOpKind,
    schema: SchemaRef,
    shard: Shard,
    /// Row -> its numbers left and right.
    state: KeyedState,
    /// For each row touched in this tick, in order: how often it was out before.
    was_out: Vec<i64>,
}

impl SetOp {
    /// The operation on rows of this schema.
    pub fn new(kind: SetOpKind, schema: SchemaRef, shard: Shard) -> Result<Self> {
        let types = schema.fields().iter().map(|f| plain_type(f.data_type())).collect();
        Ok(Self { kind, schema, shard, state: KeyedState::new(types, 2)?, was_out: Vec::new() })
    }

    fn times(&self, slot: u32) -> i64 {
        let numbers = self.state.words(slot);
        self.kind.times(numbers[0], numbers[1])
    }
}

impl DeltaOp for SetOp {
    fn push(&mut self, port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        let columns: Vec<ArrayRef> = batch.rows.columns().iter().map(canonical).collect::<Result<_>>()?;
        let slots = self.state.slots_for(&columns, batch.len())?;
        for s in self.state.touch(&slots) {
            self.was_out.push(self.times(s));
        }
        let side = port.min(1);
        for (i, s) in slots.iter().enumerate() {
            self.state.words_mut(*s)[side] += batch.weight(i);
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let touched = self.state.take_touched();
        let was_out = std::mem::take(&mut self.was_out);
        let changed: Vec<(u32, i64)> =
            touched.iter().zip(was_out).map(|(s, was)| (*s, self.times(*s) - was)).filter(|(_, w)| *w != 0).collect();
        emit_rows(&self.state, &self.schema, &changed, cx.chunk_rows, out)?;
        let dead: Vec<u32> = touched.into_iter().filter(|s| self.state.words(*s) == [0, 0]).collect();
        self.state.remove(&dead)?;
        super::distinct::forget(&mut self.state, cx)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        let frozen = self.state.freeze();
        let batches = to_batches(&self.state, 2, &frozen, &|_| Vec::new())?;
        Ok(vec![SlotDelta { slot: SLOT.into(), replaces: frozen.replaces, batches }])
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        if slot != SLOT {
            return Err(Error::internal(format!("{} has no state slot \"{slot}\"", self.kind.sql())));
        }
        let owner_keys = self.state.types().len();
        restore_words(&mut self.state, 2, 0, batch, owner_keys, self.shard).map(drop)
    }

    fn stats(&self) -> StateStats {
        StateStats { rows: self.state.len(), bytes: self.state.bytes() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::Float64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::ops::aggregate::harness::{Random, Rig, float};
    use crate::zset::Weights;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]))
    }

    fn batch(rows: &[(Option<f64>, i64)]) -> ZBatch {
        let x: Float64Array = rows.iter().map(|r| r.0).collect();
        let rows_batch = RecordBatch::try_new(schema(), vec![Arc::new(x)]).expect("batch");
        ZBatch::new(rows_batch, Weights::Dense(rows.iter().map(|r| r.1).collect::<Vec<_>>().into()))
    }

    fn key(x: Option<f64>) -> String {
        x.map_or("NULL".into(), |x| float(x + 0.0))
    }

    #[test]
    fn rows_come_out_as_often_as_the_numbers_of_both_sides_say() {
        for (seed, shards, kind) in [
            (1, 1, SetOpKind::ExceptAll),
            (2, 3, SetOpKind::ExceptAll),
            (3, 1, SetOpKind::IntersectAll),
            (4, 3, SetOpKind::IntersectAll),
        ] {
            let mut r = Random(seed);
            let mut rig =
                Rig::new(shards, vec![0], move |shard| Box::new(SetOp::new(kind, schema(), shard).expect("operator")));
            rig.chunk_rows = 3;
            let mut model: BTreeMap<String, [i64; 2]> = BTreeMap::new();
            for tick in 0..80 {
                let mut changes = [Vec::new(), Vec::new()];
                for _ in 0..r.below(12) {
                    let x = r.pick(&[None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(2.5)]);
                    let w = r.pick(&[1, 1, 2, -1, -2]);
                    let side = r.below(2) as usize;
                    model.entry(key(x)).or_default()[side] += w;
                    changes[side].push((x, w));
                }
                let [left, right] = changes;
                rig.tick_ports(&[(1, batch(&right)), (0, batch(&left))]);
                let want: BTreeMap<String, i64> = (model.iter())
                    .map(|(k, [l, r])| (k.clone(), kind.times(*l, *r)))
                    .filter(|(_, n)| *n != 0)
                    .collect();
                assert_eq!(rig.output, want, "seed {seed}, tick {tick}");
                assert_eq!(rig.state_rows(), model.values().filter(|n| **n != [0, 0]).count());
                if r.below(4) == 0 {
                    rig.checkpoint();
                    let shards = r.pick(&[shards, 1, 3]);
                    rig.restart(shards);
                }
            }
        }
    }
}
