//! SELECT DISTINCT: a row is out while the sum of its weights is positive.
//!
//! Rows are compared as SQL compares them (-0.0 = 0.0, all NaNs alike, NULL like NULL) and go out as their canonical
//! value, so what goes out depends neither on which of the equal rows came first nor on how input was cut.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

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
        for piece in changed.chunks(cx.chunk_rows.max(1)) {
            let slots: Vec<u32> = piece.iter().map(|(s, _)| *s).collect();
            let mut columns = self.state.key_columns(&slots)?;
            for (c, f) in columns.iter_mut().zip(self.schema.fields()) {
                if c.data_type() != f.data_type() {
                    *c = arrow::compute::cast(c, f.data_type()).e()?;
                }
            }
            let options = RecordBatchOptions::new().with_row_count(Some(piece.len()));
            let rows = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).e()?;
            let weights = if piece.iter().all(|(_, w)| *w == 1) {
                Weights::AllOne
            } else {
                Weights::Dense(piece.iter().map(|(_, w)| *w).collect::<Vec<_>>().into())
            };
            out.emit(ZBatch::new(rows, weights))?;
        }
        // The one row without columns keeps its slot: a removal could not be stored.
        let keep = self.schema.fields().is_empty();
        let dead: Vec<u32> = touched.into_iter().filter(|s| !keep && self.state.words(*s)[0] == 0).collect();
        self.state.remove(&dead)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        let frozen = self.state.freeze();
        let batches = to_batches(&self.state, 1, &frozen, &|_| Vec::new())?;
        Ok(vec![SlotDelta { slot: SLOT, replaces: frozen.replaces, batches }])
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
