//! EMIT: changes are held back until their rows are final, or until the next multiple of an interval of the clock.
//!
//! A row is final when the bound of its time column has passed it: no later change can touch it. So what EMIT ON WINDOW
//! CLOSE gives never changes again, and how the input was cut into ticks shows nowhere. With ALLOW LATENESS a final row may
//! be corrected once more; corrections go on at once.

use std::collections::BTreeMap;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use millstream_sql::plan::time::micros_array;

use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::hash::hash_rows;
use crate::time::Timestamp;
use crate::zset::ZBatch;

const SLOT: &str = "pending";
/// Rows are kept in pieces of so much time, so that a closing looks at few that stay.
const PIECE_MICROS: i64 = 100_000;
/// Fewer rows than this are not worth consolidating.
const CONSOLIDATE_ROWS_MIN: usize = 4096;

/// Changes of rows with about one time.
#[derive(Default)]
struct Piece {
    batches: Vec<ZBatch>,
    rows: usize,
    /// Rows after the last consolidation.
    least: usize,
}

/// See the module.
pub struct EmitOp {
    schema: SchemaRef,
    column: Option<usize>,
    every: Option<i64>,
    /// By time, rounded down; rows without a time are in the last piece, which never closes.
    pieces: BTreeMap<i64, Piece>,
    /// Clock at which everything goes out.
    due: Option<i64>,
    /// Up to where rows are final, in microseconds.
    closed: i64,
    shard: Shard,
}

impl EmitOp {
    /// `column`: the time by which rows become final. `every`: everything goes out at multiples of so many microseconds.
    pub fn new(schema: SchemaRef, column: Option<usize>, every: Option<i64>, shard: Shard) -> Result<Self> {
        if column.is_some_and(|c| c >= schema.fields().len()) || every.is_some_and(|e| e <= 0) {
            return Err(Error::internal("EMIT by a column or an interval that is none"));
        }
        Ok(Self { schema, column, every, pieces: BTreeMap::new(), due: None, closed: i64::MIN, shard })
    }

    fn keep(&mut self, batch: ZBatch) -> Result<()> {
        let times = self.column.and_then(|c| micros_array(batch.rows.column(c)));
        let piece_of = |i: usize| match &times {
            Some(t) if t.is_valid(i) => t.value(i).div_euclid(PIECE_MICROS).saturating_mul(PIECE_MICROS),
            _ => i64::MAX,
        };
        let Some(first) = (!batch.is_empty()).then(|| piece_of(0)) else { return Ok(()) };
        if (1..batch.len()).all(|i| piece_of(i) == first) {
            return self.pieces.entry(first).or_default().push(&self.schema, batch);
        }
        let mut rows: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for i in 0..batch.len() {
            rows.entry(piece_of(i)).or_default().push(i as u32);
        }
        for (at, rows) in rows {
            let part = batch.take(&UInt32Array::from(rows)).e()?;
            self.pieces.entry(at).or_default().push(&self.schema, part)?;
        }
        Ok(())
    }

    /// Takes out the rows that are final.
    fn take_final(&mut self, out: &mut Vec<ZBatch>) -> Result<()> {
        let Some(column) = self.column else { return Ok(()) };
        let closed = self.closed;
        while let Some(entry) = self.pieces.first_entry() {
            let at = *entry.key();
            if at == i64::MAX || at >= closed {
                break;
            }
            let rows = entry.remove().whole(&self.schema)?;
            if at.saturating_add(PIECE_MICROS) <= closed {
                out.push(rows);
                continue;
            }
            let times = micros_array(rows.rows.column(column)).ok_or_else(|| Error::internal("EMIT by no time"))?;
            let (gone, kept): (Vec<u32>, Vec<u32>) =
                (0..rows.len() as u32).partition(|i| times.value(*i as usize) < closed);
            if !gone.is_empty() {
                out.push(rows.take(&UInt32Array::from(gone)).e()?);
            }
            if !kept.is_empty() {
                let kept = rows.take(&UInt32Array::from(kept)).e()?;
                self.pieces.entry(at).or_default().push(&self.schema, kept)?;
            }
            break;
        }
        Ok(())
    }
}

impl Piece {
    fn push(&mut self, schema: &SchemaRef, batch: ZBatch) -> Result<()> {
        self.rows += batch.len();
        self.batches.push(batch);
        if self.rows > CONSOLIDATE_ROWS_MIN.max(2 * self.least) {
            let whole = std::mem::take(self).whole(schema)?;
            (self.rows, self.least) = (whole.len(), whole.len());
            self.batches.push(whole);
        }
        Ok(())
    }

    fn whole(self, schema: &SchemaRef) -> Result<ZBatch> {
        ZBatch::concat(schema, &self.batches).e()?.consolidate().e()
    }
}

impl DeltaOp for EmitOp {
    fn push(&mut self, _port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        self.keep(batch)
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        if let Some(bound) = self.column.and_then(|c| cx.time.closed.get(c).copied().flatten()) {
            self.closed = self.closed.max(bound.micros());
        }
        let mut ready = Vec::new();
        self.take_final(&mut ready)?;
        if let Some(every) = self.every {
            if self.due.is_some_and(|due| due <= cx.clock.0) {
                self.due = None;
                for (_, piece) in std::mem::take(&mut self.pieces) {
                    ready.push(piece.whole(&self.schema)?);
                }
            }
            if self.pieces.is_empty() {
                self.due = None;
            } else if self.due.is_none() {
                self.due = Some(cx.clock.0.div_euclid(every).saturating_add(1).saturating_mul(every));
            }
        }
        for rows in ready {
            for from in (0..rows.len()).step_by(cx.chunk_rows.max(1)) {
                out.emit(rows.slice(from, cx.chunk_rows.min(rows.len() - from)))?;
            }
        }
        Ok(())
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        let mut batches = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces.values() {
            let whole = ZBatch::concat(&self.schema, &piece.batches).e()?.consolidate().e()?;
            if !whole.is_empty() {
                batches.push(whole.to_weighted().e()?);
            }
        }
        Ok(vec![SlotDelta { slot: SLOT, replaces: true, batches }])
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        if slot != SLOT {
            return Err(Error::internal(format!("EMIT has no state slot \"{slot}\"")));
        }
        if self.every.is_some() {
            // The clock it waited for may be over: the next tick sees.
            self.due = Some(i64::MIN);
        }
        // Every shard is given all rows. Which of them keeps one does not matter: its retraction, if it comes to another, goes
        // out with it.
        let rows = ZBatch::from_weighted(batch).e()?;
        let hashes = hash_rows(rows.rows.columns(), rows.len());
        let own: Vec<u32> = (0..rows.len() as u32).filter(|i| self.shard.owns(hashes[*i as usize])).collect();
        self.keep(rows.take(&UInt32Array::from(own)).e()?)
    }

    fn held_back(&self) -> Option<(usize, Option<i64>)> {
        let rows = self.pieces.values().map(|p| p.rows).sum();
        let oldest = self.pieces.first_key_value().map(|(at, _)| *at).filter(|at| *at != i64::MAX);
        (rows > 0).then_some((rows, oldest))
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        self.due.map(Timestamp)
    }

    fn stats(&self) -> StateStats {
        let batches = self.pieces.values().flat_map(|p| &p.batches);
        StateStats { rows: self.pieces.values().map(|p| p.rows).sum(), bytes: batches.map(ZBatch::bytes).sum() }
    }
}

#[cfg(test)]
mod tests;
