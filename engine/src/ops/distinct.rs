//! SELECT DISTINCT: a row is out while the sum of its weights is positive.
//!
//! Rows are compared as SQL compares them (-0.0 = 0.0, all NaNs alike, NULL like NULL) and go out as their canonical
//! value, so what goes out depends neither on which of the equal rows came first nor on how input was cut.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};

use super::aggregate::{restore_words, to_batches};
use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::state::keyed::KeyedState;
use crate::state::keyed::code::{canonical, plain_type};
use crate::zset::{Weights, ZBatch};

const SLOT: &str = "rows";

/// See the module. Rows are spread over shards by all their columns.
pub struct DistinctOp {
    schema: SchemaRef,
    shard: Shard,
    /// Row -> sum of weights.
    state: KeyedState,
    /// For each row touched in this tick, in order: it was out before.
    was_out: Vec<bool>,
}

impl DistinctOp {
    /// Distinct rows of this schema.
    pub fn new(schema: SchemaRef, shard: Shard) -> Result<Self> {
        let types = schema.fields().iter().map(|f| plain_type(f.data_type())).collect();
        Ok(Self { schema, shard, state: KeyedState::new(types, 1)?, was_out: Vec::new() })
    }
}

/// Sends rows of the state with their changes of weight, at most `chunk_rows` at a time.
pub(super) fn emit_rows(
    state: &KeyedState,
    schema: &SchemaRef,
    changed: &[(u32, i64)],
    chunk_rows: usize,
    out: &mut dyn Emit,
) -> Result<()> {
    for piece in changed.chunks(chunk_rows.max(1)) {
        let slots: Vec<u32> = piece.iter().map(|(s, _)| *s).collect();
        let mut columns = state.key_columns(&slots)?;
        for (c, f) in columns.iter_mut().zip(schema.fields()) {
            if c.data_type() != f.data_type() {
                *c = arrow::compute::cast(c, f.data_type()).e()?;
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(piece.len()));
        let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &options).e()?;
        let weights = if piece.iter().all(|(_, w)| *w == 1) {
            Weights::AllOne
        } else {
            Weights::Dense(piece.iter().map(|(_, w)| *w).collect::<Vec<_>>().into())
        };
        out.emit(ZBatch::new(rows, weights))?;
    }
    Ok(())
}

/// Forgets rows that no later change can reach.
pub(super) fn forget(state: &mut KeyedState, cx: &TickCx<'_>) -> Result<()> {
    let times = |column: usize| matches!(state.types()[column], DataType::Timestamp(..) | DataType::Date32);
    let Some((column, bound)) = cx.time.forgettable(0).find(|(c, _)| times(*c)) else { return Ok(()) };
    let gone = state.expired(column, bound)?;
    state.remove(&gone)
}

impl DeltaOp for DistinctOp {
    fn push(&mut self, _port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        let columns: Vec<ArrayRef> = batch.rows.columns().iter().map(canonical).collect::<Result<_>>()?;
        let slots = self.state.slots_for(&columns, batch.len())?;
        for s in self.state.touch(&slots) {
            self.was_out.push(self.state.words(s)[0] > 0);
        }
        for (i, s) in slots.iter().enumerate() {
            self.state.words_mut(*s)[0] += batch.weight(i);
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let touched = self.state.take_touched();
        let was_out = std::mem::take(&mut self.was_out);
        let changed: Vec<(u32, i64)> = touched
            .iter()
            .zip(was_out)
            .map(|(s, was)| (*s, i64::from(self.state.words(*s)[0] > 0) - i64::from(was)))
            .filter(|(_, w)| *w != 0)
            .collect();
        emit_rows(&self.state, &self.schema, &changed, cx.chunk_rows, out)?;
        // The one row without columns keeps its slot: a removal could not be stored.
        let keep = self.schema.fields().is_empty();
        let dead: Vec<u32> = touched.into_iter().filter(|s| !keep && self.state.words(*s)[0] == 0).collect();
        self.state.remove(&dead)?;
        forget(&mut self.state, cx)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        let frozen = self.state.freeze();
        let batches = to_batches(&self.state, 1, &frozen, &|_| Vec::new())?;
        Ok(vec![SlotDelta { slot: SLOT.into(), replaces: frozen.replaces, batches }])
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        if slot != SLOT {
            return Err(Error::internal(format!("DISTINCT has no state slot \"{slot}\"")));
        }
        let owner_keys = self.state.types().len();
        restore_words(&mut self.state, 1, 0, batch, owner_keys, self.shard).map(drop)
    }

    fn stats(&self) -> StateStats {
        StateStats { rows: self.state.len(), bytes: self.state.bytes() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;
    use crate::ops::aggregate::harness::{Random, Rig, float};

    type Row = (Option<f64>, Option<&'static str>);

    fn schema() -> SchemaRef {
        let f = |n: &str, t| Field::new(n, t, true);
        Arc::new(Schema::new(vec![f("x", DataType::Float64), f("s", DataType::Utf8)]))
    }

    fn batch(rows: &[(Row, i64)]) -> ZBatch {
        let x: Float64Array = rows.iter().map(|r| r.0.0).collect();
        let s: StringArray = rows.iter().map(|r| r.0.1).collect();
        let weights: Vec<i64> = rows.iter().map(|r| r.1).collect();
        let rows = RecordBatch::try_new(schema(), vec![Arc::new(x), Arc::new(s)]).expect("batch");
        ZBatch::new(rows, Weights::Dense(weights.into()))
    }

    fn key((x, s): Row) -> String {
        format!("{}|{}", x.map_or("NULL".into(), |x| float(x + 0.0)), s.unwrap_or("NULL"))
    }

    fn rig(shards: u32) -> Rig {
        Rig::new(shards, vec![0, 1], |shard| Box::new(DistinctOp::new(schema(), shard).expect("operator")))
    }

    #[test]
    fn distinct_rows_equal_the_model_under_retraction() {
        for (seed, shards) in [(1, 1), (2, 1), (3, 3), (4, 3)] {
            let mut r = Random(seed);
            let mut rig = rig(shards);
            rig.chunk_rows = 3;
            let mut model: BTreeMap<String, i64> = BTreeMap::new();
            for tick in 0..80 {
                let mut changes = Vec::new();
                for _ in 0..r.below(12) {
                    let x = r.pick(&[None, Some(0.0), Some(-0.0), Some(f64::NAN), Some(-f64::NAN), Some(2.5)]);
                    let row = (x, r.pick(&[None, Some(""), Some("a"), Some("b")]));
                    // Multiplicities may be negative in passing, even at the end of a tick.
                    let w = r.pick(&[1, 1, -1, -1, 2, -2]);
                    *model.entry(key(row)).or_default() += w;
                    changes.push((row, w));
                }
                let (a, b) = changes.split_at(changes.len() / 2);
                rig.tick(&[batch(a), batch(b)]);
                let want: BTreeMap<String, i64> =
                    model.iter().filter(|(_, w)| **w > 0).map(|(k, _)| (k.clone(), 1)).collect();
                assert_eq!(rig.output, want, "seed {seed}, tick {tick}");
                assert_eq!(rig.state_rows(), model.values().filter(|w| **w != 0).count());
                if r.below(4) == 0 {
                    rig.checkpoint();
                    let shards = r.pick(&[shards, 1, 3]);
                    rig.restart(shards);
                }
            }
        }
    }

    #[test]
    fn zeros_of_either_sign_are_one_row_that_is_retracted_as_it_came() {
        let mut rig = rig(1);
        rig.tick(&[batch(&[((Some(-0.0), Some("a")), 1)])]);
        rig.tick(&[batch(&[((Some(0.0), Some("a")), 1)])]);
        assert_eq!((rig.output.len(), rig.emitted), (1, 1));
        rig.tick(&[batch(&[((Some(-0.0), Some("a")), -1)])]);
        assert_eq!((rig.output.len(), rig.emitted), (1, 1));
        rig.tick(&[batch(&[((Some(0.0), Some("a")), -1)])]);
        assert_eq!((rig.output.len(), rig.emitted), (0, 2));
    }
}
