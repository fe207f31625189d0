//! WITH RECURSIVE: rounds of a recursive term, until a round gives nothing new.
//!
//! The collection that is maintained is not the result but its rounds: round 0 is the base term, round n + 1 what the
//! recursive term makes of round n alone (UNION ALL), or what of that no earlier round has ([`reached`], UNION). With
//! the number of the round as a column of every row, all rounds go through one set of operators ([`step`]), and a change
//! is a change of some rounds:
//!
//! 1. What changed in the other inputs of the recursive term meets the rows of all rounds as they were.
//! 2. Rounds are taken in ascending order. What was given to a round more or less is settled; its changes go through
//!    the step, and what comes out is given to the next round.
//! 3. When no round has changes, the sum over all rounds is the change of the result.
//!
//! This is the nested iteration of DBSP (Budiu et al. 2023, section 5) and of differential dataflow (McSherry et al.
//! 2013). It is exact for deletions, on cycles as well: nothing of a round depends on a later one, so a row that is
//! derived from itself has no support left in any round once its first derivation is gone. Neither over-deletion with
//! re-derivation (DRed) nor counting over all rounds together is needed; counting alone would be wrong on cycles.
//!
//! Work is in proportion to the changes of all rounds, plus the calls of the operators for each round that changes. A
//! change near the root of a deep tree, and an edge that makes a large part of a graph nearer, cost that part of it. State
//! is that of the operators over the rows of all rounds, once; for UNION also the rows themselves.
//!
//! A recursion that does not end is stopped by the limit of rounds or of rows in a round, which are errors.

mod reached;
mod step;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use millstream_sql::optimize::{ROUND_ROWS_MAX, too_many_rounds, too_many_rows};

use super::eval::{OutputSchema, conform, emit_chunked};
use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::zset::{Weights, ZBatch};
use reached::Reached;
pub use step::Step;

/// The port of a step that takes the rows of a round.
const ROWS_PORT: u64 = 0;
/// Between this many rounds of one tick the operators may tidy up.
const MAINTAIN_ROUNDS: u32 = 256;
const MAINTAIN_FUEL: usize = 64 * 1024;

/// See the module. All its rows are on the first shard.
pub struct RecursiveOp {
    step: Step,
    /// UNION; `None` for UNION ALL.
    reached: Option<Reached>,
    rounds_max: u32,
    schema: SchemaRef,
    /// Columns of a row and its round.
    rows: OutputSchema,
    shard: Shard,
    /// What is given to each round in this tick.
    given: BTreeMap<u32, Vec<ZBatch>>,
    /// Something came in in this tick.
    pending: bool,
}

impl RecursiveOp {
    /// Rows of `schema`, which are the base term's (port 0); the other ports are those of the step.
    pub fn new(step: Step, distinct: bool, rounds_max: u32, schema: SchemaRef, shard: Shard) -> Result<Self> {
        let round = Arc::new(Field::new("__round", DataType::Int64, true));
        let fields: Vec<_> = schema.fields().iter().cloned().chain([round]).collect();
        let reached = if distinct { Some(Reached::new(SchemaRef::clone(&schema), shard)?) } else { None };
        let rows = OutputSchema::new(Arc::new(Schema::new(fields))).permissive();
        Ok(Self { step, reached, rounds_max, schema, rows, shard, given: BTreeMap::new(), pending: false })
    }

    /// Gives what came out of the step to the rounds after those it was made of.
    fn give(&mut self, made: Vec<ZBatch>) -> Result<()> {
        let width = self.schema.fields().len();
        let own: Vec<usize> = (0..width).collect();
        for batch in made.into_iter().filter(|b| !b.is_empty()) {
            let of = batch.rows.column(width).as_primitive_opt::<Int64Type>().filter(|c| c.null_count() == 0);
            let of = of.ok_or_else(|| Error::internal("a recursive term lost the round of a row"))?;
            let rows = batch.project(&own).e()?;
            let mut by_round: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
            let first = of.value(0);
            if of.values().iter().all(|round| *round == first) {
                self.given.entry(next(first)?).or_default().push(rows);
                continue;
            }
            of.values().iter().enumerate().for_each(|(i, round)| by_round.entry(*round).or_default().push(i as u32));
            for (round, at) in by_round {
                self.given.entry(next(round)?).or_default().push(rows.take(&UInt32Array::from(at)).e()?);
            }
        }
        Ok(())
    }

    /// The next round with something to do.
    fn next_round(&self) -> Option<u32> {
        let due = self.reached.as_ref().and_then(Reached::next_due);
        self.given.keys().next().copied().into_iter().chain(due).min()
    }

    /// What changes in a round: rows, without it.
    fn settle(&mut self, round: u32) -> Result<ZBatch> {
        let given = self.given.remove(&round).unwrap_or_default();
        let given = given.iter().map(|b| Ok(b.with_rows(conform(&b.rows, &self.schema)?)));
        let given = given.collect::<Result<Vec<_>>>()?;
        match &mut self.reached {
            Some(reached) => {
                let changed = reached.settle(round, &given)?;
                let rows = RecordBatch::try_new(SchemaRef::clone(&self.schema), reached.columns(&changed)?).e()?;
                let weights: Vec<i64> = changed.iter().map(|(_, weight)| *weight).collect();
                let ones = weights.iter().all(|w| *w == 1);
                Ok(ZBatch::new(rows, if ones { Weights::AllOne } else { Weights::Dense(weights.into()) }))
            }
            None if given.is_empty() => Ok(ZBatch::empty(SchemaRef::clone(&self.schema))),
            // Equal rows are one: their number grows where there are cycles, and that way nothing else does.
            None => ZBatch::concat(&self.schema, &given).e()?.merge_equal().e(),
        }
    }

    /// Refuses a recursion that does not end.
    fn check(&self, round: u32, changes: &ZBatch) -> Result<()> {
        if round >= self.rounds_max {
            return Err(too_many_rounds(self.rounds_max));
        }
        let rows = (0..changes.len()).fold(0u64, |sum, i| sum.saturating_add(changes.weight(i).unsigned_abs()));
        if rows > ROUND_ROWS_MAX { Err(too_many_rows()) } else { Ok(()) }
    }

    /// The rows with their round as the last column.
    fn with_round(&self, round: u32, changes: &ZBatch) -> Result<ZBatch> {
        let rounds: ArrayRef = Arc::new(Int64Array::from_value(i64::from(round), changes.len()));
        let columns = changes.rows.columns().iter().cloned().chain([rounds]).collect();
        Ok(changes.with_rows(self.rows.batch(columns, changes.len())?))
    }

    fn run(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let made = self.step.run(ROWS_PORT, &[], true, cx)?;
        self.give(made)?;
        // Of UNION ALL: the changes of all rounds.
        let mut all: Vec<ZBatch> = Vec::new();
        let mut run = 0u32;
        while let Some(round) = self.next_round() {
            let changes = self.settle(round)?;
            if changes.is_empty() {
                continue;
            }
            self.check(round, &changes)?;
            let rows = self.with_round(round, &changes)?;
            let made = self.step.run(ROWS_PORT, &[rows], true, cx)?;
            self.give(made)?;
            if self.reached.is_none() {
                all.push(changes);
            }
            run += 1;
            if run.is_multiple_of(MAINTAIN_ROUNDS) {
                self.step.maintain(MAINTAIN_FUEL)?;
            }
        }
        match &mut self.reached {
            Some(reached) => reached.finish(cx, out),
            None if all.is_empty() => Ok(()),
            None => emit_chunked(ZBatch::concat(&self.schema, &all).e()?.consolidate().e()?, cx.chunk_rows, out),
        }
    }
}

/// The round after one.
fn next(round: i64) -> Result<u32> {
    u32::try_from(round + 1).map_err(|_| Error::internal("a recursive term made a round up"))
}

impl DeltaOp for RecursiveOp {
    fn push(&mut self, port: usize, batch: ZBatch, cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.pending = true;
        if port == 0 {
            self.given.entry(0).or_default().push(batch);
            return Ok(());
        }
        let made = self.step.run(port as u64, &[batch], false, cx)?;
        self.give(made)
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        self.run(cx, out)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        let mut slots = Vec::new();
        if self.shard.index == 0 {
            self.step.freeze(&mut slots)?;
            if let Some(reached) = &mut self.reached {
                slots.push(reached.freeze()?);
            }
        }
        Ok(slots)
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        match &mut self.reached {
            _ if self.shard.index != 0 => Ok(()),
            Some(reached) if slot == reached::SLOT => reached.restore(batch),
            _ => self.step.restore(slot, batch),
        }
    }

    fn restored(&mut self) -> Result<()> {
        self.step.restored()
    }

    fn maintain(&mut self, fuel: usize) -> Result<bool> {
        self.step.maintain(fuel)
    }

    fn stats(&self) -> StateStats {
        let mut all = self.step.stats();
        if let Some(reached) = &self.reached {
            all += reached.stats();
        }
        all
    }
}
