//! Delta operators: synchronous, one instance a shard, our own delta rules.
//!
//! An operator is fed with any number of `push` calls and then exactly one `flush` a tick; stateful operators
//! accumulate in `push` and emit consolidated changes in `flush`. A tick covers the epochs `(from, to]`, be it one
//! epoch of one row or a backfill of a hundred million rows.

pub mod aggregate;
pub mod asof;
pub mod distinct;
pub mod emit;
pub(crate) mod eval;
pub mod join;
pub mod map;
pub mod matching;
pub mod over;
mod partitioned;
pub mod recompute;
pub mod recursive;
pub mod row_map;
pub mod session;
pub mod set_op;
pub mod temporal_filter;
pub mod top_n;

use arrow::array::RecordBatch;
use millstream_sql::plan::time::Bounds;

use crate::error::Result;
use crate::hash::shard_of;
use crate::state::arrangement::ArrangementSnapshot;
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;

/// Which part of the hash space an operator instance owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// 0-based.
    pub index: u32,
    /// How many there are.
    pub count: u32,
}

impl Shard {
    /// The only shard of an unsharded job.
    pub const ONE: Self = Self { index: 0, count: 1 };
    /// True if rows with this key hash live here.
    pub fn owns(self, hash: u64) -> bool {
        shard_of(hash, self.count) == self.index
    }
}

/// What an operator may know of the tick it runs in. Nothing else: no clock, no environment.
pub struct TickCx<'a> {
    /// Exclusive start.
    pub from: Epoch,
    /// Inclusive end: what is emitted now belongs to this epoch.
    pub to: Epoch,
    /// The epoch's clock.
    pub clock: Timestamp,
    /// Rows that could not be evaluated go here instead of the output.
    pub errors: &'a mut ErrorSet,
    /// Emit outputs in pieces of about this many rows.
    pub chunk_rows: usize,
    /// How far event time is when this tick is over.
    pub time: &'a OpTime,
}

/// What is promised of the changes after a tick, to one operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpTime {
    /// By input: rows in which a column is smaller than its bound will not matter again.
    pub forget: Vec<Bounds>,
    /// Of an EMIT and of a pattern that gives decided matches: rows of the input in which a column is smaller than its bound
    /// are final.
    pub closed: Bounds,
}

/// Nothing is promised.
pub static NO_TIME: OpTime = OpTime { forget: Vec::new(), closed: Vec::new() };

impl OpTime {
    /// The columns of an input by which rows can be forgotten, with their bounds in microseconds.
    pub fn forgettable(&self, port: usize) -> impl Iterator<Item = (usize, i64)> + '_ {
        let bounds = self.forget.get(port).into_iter().flatten().enumerate();
        bounds.filter_map(|(c, b)| b.map(|b| (c, b.micros())))
    }
}

/// Where an operator sends its output.
pub trait Emit {
    /// Sends a batch downstream.
    fn emit(&mut self, batch: ZBatch) -> Result<()>;
}

impl Emit for Vec<ZBatch> {
    fn emit(&mut self, batch: ZBatch) -> Result<()> {
        self.push(batch);
        Ok(())
    }
}

/// A retractable set of errors of a view: errors are data, correcting the row heals the view.
#[derive(Debug, Default, Clone)]
pub struct ErrorSet {
    /// (SQLSTATE, message, row as text cut to 1 KiB) -> multiplicity. Entries with 0 are removed.
    pub entries: std::collections::BTreeMap<(String, String, String), i64>,
}

impl ErrorSet {
    /// Adds `weight` times an error.
    pub fn add(&mut self, code: &str, message: &str, row: &str, weight: i64) {
        let key = (code.to_owned(), message.to_owned(), row.to_owned());
        let n = self.entries.entry(key.clone()).or_insert(0);
        *n += weight;
        if *n == 0 {
            self.entries.remove(&key);
        }
    }
    /// Adds all of another set.
    pub fn merge(&mut self, other: ErrorSet) {
        for ((c, m, r), w) in other.entries {
            self.add(&c, &m, &r, w);
        }
    }
    /// True without errors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What an operator keeps, for `ms.operators`, memory accounting and EXPLAIN.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct StateStats {
    /// Rows, groups or keys.
    pub rows: usize,
    /// Bytes in memory, about.
    pub bytes: usize,
}

impl std::ops::AddAssign for StateStats {
    fn add_assign(&mut self, o: Self) {
        self.rows += o.rows;
        self.bytes += o.bytes;
    }
}

/// What changed in one slot of an operator's state since the last freeze; becomes a run of the next checkpoint.
#[derive(Debug, Clone)]
pub struct SlotDelta {
    /// Name of the slot, e.g. `left`; one operator may have several.
    pub slot: std::borrow::Cow<'static, str>,
    /// True: this is the whole content and replaces every earlier run. False: it comes after them.
    pub replaces: bool,
    /// The content; the operator alone knows its columns. All batches of a slot have one schema. May be empty.
    pub batches: Vec<RecordBatch>,
}

/// An incremental operator.
///
/// # Contract
/// 1. After `flush`, the sum of all output so far is the operator's SQL meaning applied to the sum of all input so
///    far; nothing depends on how input was cut into batches, ticks or the order of batches within a tick.
/// 2. Output of a stateful operator is consolidated per tick: nothing is emitted where nothing changed.
/// 3. Rows with NULL in an equality key of a join (unless null_equals_null) never enter an index.
/// 4. Keys are compared as SQL compares them (-0.0 = 0.0, NaN = NaN); rows are kept bitwise.
/// 5. `freeze` then `restore` into a fresh instance gives the same state; `restore` keeps only rows of its shard, so
///    the number of shards may change between.
/// 6. An evaluation error of a row goes to `cx.errors` with the row's weight; the other rows go on. `Err` is
///    returned only for defects and limits: it quarantines the job.
pub trait DeltaOp: Send {
    /// Takes a batch of input port `port`.
    fn push(&mut self, port: usize, batch: ZBatch, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()>;
    /// All input of the tick is in.
    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()>;
    /// Takes out what changed since the last freeze, at a tick boundary. Cheap: `O(changed)`.
    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        Ok(Vec::new())
    }
    /// Applies one stored batch of a slot, in the order they were frozen; called only before the first push.
    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        let _ = batch;
        Err(crate::Error::internal(format!("operator has no state slot \"{slot}\"")))
    }
    /// After the last `restore` call and before the first `push`.
    fn restored(&mut self) -> Result<()> {
        Ok(())
    }
    /// From now on input `port` is these columns of a relation whose rows are in an index that others use too; called
    /// before anything else. Rows of the input are in no checkpoint of the operator: [`Self::rebase`] gives them.
    fn share(&mut self, port: usize, columns: &[usize]) -> Result<()> {
        let _ = columns;
        Err(crate::Error::internal(format!("operator has no index of input {port} that can be shared")))
    }
    /// The rows of a shared input as they are when the tick is over, called before its `flush`; and, between `restore` and
    /// `restored`, as they were at the checkpoint. Need not be called in every tick.
    fn rebase(&mut self, port: usize, rows: &ArrangementSnapshot) -> Result<()> {
        let _ = rows;
        Err(crate::Error::internal(format!("operator does not share an index of input {port}")))
    }
    /// Work that may be done between ticks (merging runs), at most about `fuel` rows. True if more is waiting.
    fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let _ = fuel;
        Ok(false)
    }
    /// Rows it holds back until event time or the clock comes further, with the oldest event time among them.
    fn held_back(&self) -> Option<(usize, Option<i64>)> {
        None
    }
    /// When it wants a tick though nothing came, by the engine's clock.
    fn next_wakeup(&self) -> Option<Timestamp> {
        None
    }
    /// What it keeps.
    fn stats(&self) -> StateStats {
        StateStats::default()
    }
}
