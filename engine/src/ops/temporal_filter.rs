//! Conditions with `now()`: a row comes when the clock reaches its first moment and goes when it reaches its last, without
//! input (temporal filters of Materialize and RisingWave).
//!
//! * A row's moments follow from its own columns, so a retraction finds those of the row it takes back.
//! * Rows are kept while the clock can still change something about them: until they come, and until they go. A row that
//!   does not go is let through and forgotten; one that is gone when it arrives, or comes and goes between two ticks, is
//!   never seen.
//! * The clock is that of the tick's last epoch: it is all that the cut into ticks shows of itself.
//! * A checkpoint has the rows that came since the last one with their moments, and the clock of the last tick, from which it
//!   follows which of them are out.

mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use datafusion::physical_expr::PhysicalExpr;
use millstream_sql::plan::time::micros_array;

use super::eval::{OutputSchema, emit_chunked, evaluation_error, isolate};
use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::hash::hash_rows;
use crate::time::Timestamp;
use crate::zset::ZBatch;
use queue::TimeQueue;

const ROWS: &str = "rows";
const CLOCK: &str = "clock";
/// Stored rows below this number are not worth a rewrite of the chain of checkpoints.
const REWRITE_ROWS_MIN: usize = 64 * 1024;
/// Moments of a row that has none.
const NEVER: (i64, i64) = (i64::MAX, i64::MIN);

/// A compiled [`millstream_sql::plan::TimeLimit`].
pub struct Limit {
    /// Gives a date or timestamp for each row.
    pub value: Arc<dyn PhysicalExpr>,
    /// See there.
    pub shift: i64,
    /// See there.
    pub step: i64,
    /// See there.
    pub offset: i64,
    /// See there.
    pub next: bool,
    /// See there.
    pub leaves: bool,
}

/// See the module.
pub struct TemporalFilterOp {
    columns: OutputSchema,
    /// The columns, then the two moments.
    wide: SchemaRef,
    limits: Vec<Limit>,
    /// Rows that have not come, by when they will.
    waiting: TimeQueue,
    /// Rows that are out, by when they go.
    present: TimeQueue,
    /// The clock up to which rows have come and gone.
    clock: i64,
    /// The clock in the last checkpoint.
    saved_clock: Option<i64>,
    /// Rows that are in no checkpoint.
    unsaved: Vec<ZBatch>,
    unsaved_rows: usize,
    saved_rows: usize,
    /// The next checkpoint has everything.
    rewrite: bool,
    shard: Shard,
}

impl TemporalFilterOp {
    /// A filter of rows with these columns.
    pub fn new(columns: SchemaRef, limits: Vec<Limit>, shard: Shard) -> Result<Self> {
        if limits.is_empty() || limits.iter().any(|l| l.step < 1) {
            return Err(Error::internal("a temporal filter without limits, or with one that rounds to nothing"));
        }
        let width = columns.fields().len();
        let columns = OutputSchema::new(columns).permissive();
        let mut fields = columns.exact().fields().iter().cloned().collect::<Vec<_>>();
        fields.extend(["__from", "__to"].map(|n| Arc::new(Field::new(n, DataType::Int64, false))));
        let wide = SchemaRef::new(Schema::new(fields));
        Ok(Self {
            columns,
            waiting: TimeQueue::new(wide.clone(), width),
            present: TimeQueue::new(wide.clone(), width + 1),
            wide,
            limits,
            clock: i64::MIN,
            saved_clock: None,
            unsaved: Vec::new(),
            unsaved_rows: 0,
            saved_rows: 0,
            rewrite: false,
            shard,
        })
    }

    fn width(&self) -> usize {
        self.columns.exact().fields().len()
    }

    /// For each row from when it is there, and until when.
    fn moments(&self, batch: &ZBatch) -> Result<(Vec<i64>, Vec<i64>)> {
        let n = batch.len();
        let mut from = vec![i64::MIN; n];
        let mut to = vec![i64::MAX; n];
        for limit in &self.limits {
            let values = limit.value.evaluate(&batch.rows).and_then(|v| v.into_array(n)).map_err(evaluation_error)?;
            let times = micros_array(&values)
                .ok_or_else(|| Error::internal(format!("a time limit of type {}", values.data_type())))?;
            let fraction = fractions(&values);
            for i in 0..n {
                if times.is_null(i) {
                    (from[i], to[i]) = NEVER;
                    continue;
                }
                let at = limit.moment(times.value(i), fraction.as_ref().is_some_and(|f| f(i)));
                match limit.leaves {
                    true => to[i] = to[i].min(at),
                    false => from[i] = from[i].max(at),
                }
            }
        }
        Ok((from, to))
    }

    /// Only the columns of the input.
    fn narrow(&self, batch: &ZBatch) -> Result<ZBatch> {
        let columns = batch.rows.columns()[..self.width()].to_vec();
        Ok(batch.with_rows(self.columns.batch(columns, batch.len())?))
    }

    fn widen(&self, batch: &ZBatch, from: &[i64], to: &[i64]) -> Result<ZBatch> {
        let mut columns = batch.rows.columns().to_vec();
        columns.extend([from, to].map(|m| Arc::new(Int64Array::from(m.to_vec())) as ArrayRef));
        Ok(batch.with_rows(RecordBatch::try_new(self.wide.clone(), columns).e()?))
    }

    /// Sorts rows with their moments into what waits and what is out, as the clock is.
    fn keep(&mut self, rows: ZBatch) -> Result<()> {
        let from = moments_of(&rows, self.width());
        let pick =
            |f: &dyn Fn(usize) -> bool| -> UInt32Array { (0..rows.len() as u32).filter(|i| f(*i as usize)).collect() };
        let waiting = pick(&|i| from[i] > self.clock);
        let present = pick(&|i| from[i] <= self.clock);
        self.waiting.push(rows.take(&waiting).e()?)?;
        self.present.push(rows.take(&present).e()?)
    }

    fn save(&mut self, rows: &ZBatch) {
        if self.rewrite {
            return;
        }
        self.unsaved_rows += rows.len();
        self.unsaved.push(rows.clone());
        if self.unsaved_rows > REWRITE_ROWS_MIN && self.unsaved_rows > 2 * self.len() {
            self.rewrite = true;
            self.unsaved.clear();
        }
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.present.len()
    }

    fn emit(&self, rows: Vec<ZBatch>, go: bool, chunk_rows: usize, out: &mut dyn Emit) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let all = ZBatch::concat(&self.wide, &rows).e()?.consolidate().e()?;
        let all = self.narrow(&all)?;
        emit_chunked(if go { all.negate() } else { all }, chunk_rows, out)
    }
}

impl Limit {
    /// The moment of a time; `fraction`: it is a bit later than that.
    fn moment(&self, time: i64, fraction: bool) -> i64 {
        let at = time.saturating_add(self.shift);
        let down = at.div_euclid(self.step).saturating_mul(self.step);
        let up = self.next || fraction || down < at;
        down.saturating_add(if up { self.step } else { 0 }).saturating_add(self.offset)
    }
}

/// Whether times are between two microseconds, for those that can be.
fn fractions(values: &ArrayRef) -> Option<impl Fn(usize) -> bool> {
    let nanos = matches!(values.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _));
    let values = nanos.then(|| values.as_primitive::<TimestampNanosecondType>().clone())?;
    Some(move |i: usize| values.value(i).rem_euclid(1_000) != 0)
}

fn moments_of(rows: &ZBatch, column: usize) -> Vec<i64> {
    rows.rows.column(column).as_primitive::<Int64Type>().values().to_vec()
}

impl DeltaOp for TemporalFilterOp {
    fn push(&mut self, _port: usize, batch: ZBatch, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let rows = self.columns.batch(batch.rows.columns().to_vec(), batch.len())?;
        let (batch, (from, to)) = isolate(batch.with_rows(rows), cx.errors, &mut |b| self.moments(b))?;
        let now = self.clock.max(cx.clock.0);
        let alive = |i: usize| from[i] < to[i] && to[i] > now;
        let pick =
            |f: &dyn Fn(usize) -> bool| -> Vec<u32> { (0..batch.len() as u32).filter(|i| f(*i as usize)).collect() };
        let come = pick(&|i| alive(i) && from[i] <= now);
        let kept = pick(&|i| alive(i) && (from[i] > now || to[i] < i64::MAX));
        let take = |rows: Vec<u32>| match rows.len() == batch.len() {
            true => Ok(batch.clone()),
            false => batch.take(&UInt32Array::from(rows)).e(),
        };
        if !kept.is_empty() {
            let all = self.widen(&batch, &from, &to)?;
            let rows = if kept.len() == all.len() { all } else { all.take(&UInt32Array::from(kept)).e()? };
            self.save(&rows);
            // As the clock will be when the tick is over: what comes now is emitted here.
            let before = std::mem::replace(&mut self.clock, now);
            let done = self.keep(rows);
            self.clock = before;
            done?;
        }
        emit_chunked(take(come)?.consolidate().e()?, cx.chunk_rows, out)
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let now = self.clock.max(cx.clock.0);
        let gone = self.present.take_until(now)?;
        self.emit(gone, true, cx.chunk_rows, out)?;
        let mut come = Vec::new();
        for rows in self.waiting.take_until(now)? {
            let to = moments_of(&rows, self.width() + 1);
            let alive: UInt32Array = (0..rows.len() as u32).filter(|i| to[*i as usize] > now).collect();
            let rows = if alive.len() == rows.len() { rows } else { rows.take(&alive).e()? };
            let stay: UInt32Array =
                (0..rows.len() as u32).filter(|i| moments_of_row(&rows, self.width() + 1, *i) < i64::MAX).collect();
            self.present.push(if stay.len() == rows.len() { rows.clone() } else { rows.take(&stay).e()? })?;
            come.push(rows);
        }
        self.emit(come, false, cx.chunk_rows, out)?;
        self.clock = now;
        Ok(())
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        let mut slots = Vec::new();
        let stored = self.saved_rows + self.unsaved_rows;
        let rewrite = self.rewrite || stored > REWRITE_ROWS_MIN && stored > 2 * self.len();
        let rows = if rewrite {
            self.unsaved.clear();
            self.waiting.content().chain(self.present.content()).collect()
        } else {
            std::mem::take(&mut self.unsaved)
        };
        if rewrite || !rows.is_empty() {
            let batches: Vec<RecordBatch> = rows.iter().map(|b| b.to_weighted().e()).collect::<Result<_>>()?;
            let count: usize = rows.iter().map(ZBatch::len).sum();
            self.saved_rows = if rewrite { count } else { self.saved_rows + count };
            slots.push(SlotDelta { slot: ROWS.into(), replaces: rewrite, batches });
        }
        (self.unsaved_rows, self.rewrite) = (0, false);
        if self.saved_clock != Some(self.clock) {
            let clock: ArrayRef = Arc::new(Int64Array::from(vec![self.clock]));
            let batch = RecordBatch::try_from_iter([("clock", clock)]).e()?;
            slots.push(SlotDelta { slot: CLOCK.into(), replaces: true, batches: vec![batch] });
            self.saved_clock = Some(self.clock);
        }
        Ok(slots)
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        match slot {
            CLOCK => {
                let clock = batch.columns().first().and_then(|c| c.as_primitive_opt::<Int64Type>());
                let clock = clock.filter(|c| c.len() == 1 && c.null_count() == 0);
                let clock = clock.ok_or_else(|| Error::internal("the stored clock of a temporal filter is none"))?;
                self.clock = self.clock.max(clock.value(0));
                Ok(())
            }
            ROWS => {
                // Every shard is given all rows. Which keeps one does not matter, as long as all changes of it are there.
                let rows = ZBatch::from_weighted(batch).e()?;
                let width = self.width();
                if rows.rows.num_columns() != width + 2 {
                    return Err(Error::internal("stored rows of a temporal filter with other columns"));
                }
                let hashes = hash_rows(&rows.rows.columns()[..width], rows.len());
                let own: Vec<u32> = (0..rows.len() as u32).filter(|i| self.shard.owns(hashes[*i as usize])).collect();
                self.saved_rows += own.len();
                let own = rows.take(&UInt32Array::from(own)).e()?;
                let conformed = RecordBatch::try_new(self.wide.clone(), own.rows.columns().to_vec()).e()?;
                // Sorted when the clock is known.
                self.unsaved.push(own.with_rows(conformed));
                Ok(())
            }
            other => Err(Error::internal(format!("a temporal filter has no state slot \"{other}\""))),
        }
    }

    fn restored(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.unsaved);
        // Rows have changed shards: what is stored of each must be replaced in all of them at once.
        self.rewrite = true;
        if rows.is_empty() {
            return Ok(());
        }
        let all = ZBatch::concat(&self.wide, &rows).e()?.consolidate().e()?;
        let to = moments_of(&all, self.width() + 1);
        let from = moments_of(&all, self.width());
        let held = |i: usize| to[i] > self.clock && (from[i] > self.clock || to[i] < i64::MAX);
        let held: UInt32Array = (0..all.len() as u32).filter(|i| held(*i as usize)).collect();
        self.keep(all.take(&held).e()?)
    }

    fn next_wakeup(&self) -> Option<Timestamp> {
        let next = self.waiting.next().into_iter().chain(self.present.next()).min();
        next.filter(|t| *t < i64::MAX).map(Timestamp)
    }

    fn stats(&self) -> StateStats {
        StateStats { rows: self.len(), bytes: self.waiting.bytes() + self.present.bytes() }
    }
}

fn moments_of_row(rows: &ZBatch, column: usize, row: u32) -> i64 {
    rows.rows.column(column).as_primitive::<Int64Type>().value(row as usize)
}
