//! An indexed Z-set whose content can be read, as of any moment, from any thread: a hash head over the newest rows,
//! and runs sorted by hash behind it.
//!
//! * Rows are kept bitwise, as columns, ordered by the stable hash of their key; keys are compared as SQL compares
//!   them (-0.0 = 0.0, NaN = NaN), and NULL = NULL here.
//! * Rows of one key may be ordered by a further column; a probe then looks at a range of that column only. The range is a
//!   superset ([`order`]): whoever asks looks at the values.
//! * No row has weight zero. A row may be stored in several parts, of either sign, until a merge brings them together.
//! * Blocks of rows are immutable. A [`ArrangementSnapshot`] is a list of them: taking it costs a few reference
//!   counts, and no lock is ever taken.
//! * Merging happens in [`Arrangement::maintain`], between ticks, in slices. Only if the owner never calls it do
//!   appends merge by themselves, in proportion to what they add.
//! * Row ids ([`Matches::row`]) and [`ProbePlan`]s are valid until the arrangement is next changed.

mod block;
#[cfg(test)]
mod forgetting;
mod head;
mod merge;
pub mod order;
mod probe;
mod run;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;

pub(crate) use block::canonical;
pub use probe::{ProbePlan, extra_row};
pub use snapshot::ArrangementSnapshot;

use block::{Block, Floor, Spec, compact_batch, normalised, take_batch};
use head::{Head, Part};
use merge::Merge;
use probe::View;
use run::{Run, sorted_run};

use crate::error::{Result, ResultExt as _};
use crate::ops::{SlotDelta, StateStats};
use crate::zset::ZBatch;

/// Rows of a full head.
const HEAD_ROWS: usize = 64 * 1024;
/// Rows of a full head where rows of a key are in order: all those of the key that are in the head are looked at, whatever
/// the range.
const ORDERED_HEAD_ROWS: usize = 4 * 1024;
/// Rows of a full head that is looked through rather than looked up in.
const SCANNED_HEAD_ROWS: usize = 4 * 1024;
/// With more runs than this, appends merge too: probes would slow down without bound.
const LOOSE_RUNS: usize = 64;
/// Stored rows are rewritten when more than half of them are dead, and there are enough to matter.
const REWRITE_ROWS: usize = 64 * 1024;

/// Rows indexed by the columns `key`.
pub struct Arrangement {
    spec: Arc<Spec>,
    head: Head,
    runs: Vec<Arc<Run>>,
    merge: Option<Merge>,
    cap: usize,
    rewrite_rows: usize,
    append_only: bool,
    /// Rows of the head that were frozen.
    head_frozen: usize,
    /// Rows that left the head since the last freeze.
    unfrozen: Vec<Part>,
    unfrozen_rows: usize,
    /// Rows in stored runs.
    stored_rows: usize,
    /// The rows since the last freeze were given up: more than there is in all.
    rewrite: bool,
    /// Rows whose time in this column is before this are never asked for again.
    floor: Option<Floor>,
}

/// Pairs found by a probe.
#[derive(Debug, Default)]
pub struct Matches {
    /// Row of the probing batch.
    pub probe: Vec<u32>,
    /// Row in the arrangement, opaque: for `gather`.
    pub row: Vec<u64>,
    /// Weight in the arrangement.
    pub weight: Vec<i64>,
}

impl Arrangement {
    /// Empty, indexed by these columns of `schema`. No key columns: everything has one key (cross joins, or tables
    /// whose rows are only scanned: then pass all columns, so that consolidation finds equal rows).
    pub fn new(schema: SchemaRef, key: Vec<usize>) -> Self {
        Self::with_head_rows(schema, key, HEAD_ROWS)
    }
    /// [`Self::new`], rows of one key in order of a column, whose type [has codes](order::has_codes).
    pub fn ordered(schema: SchemaRef, key: Vec<usize>, ord: usize) -> Self {
        Self::with(Spec::new(schema, key, Some(ord), u64::MAX), ORDERED_HEAD_ROWS)
    }
    /// [`Self::new`] for readers of snapshots, who have no index of the head and look through all of it.
    pub fn for_snapshots(schema: SchemaRef, key: Vec<usize>) -> Self {
        Self::with_head_rows(schema, key, SCANNED_HEAD_ROWS)
    }
    /// [`Self::new`] with a head that becomes a run at `cap` rows.
    pub fn with_head_rows(schema: SchemaRef, key: Vec<usize>, cap: usize) -> Self {
        Self::with_hash_mask(schema, key, cap, u64::MAX)
    }
    /// [`Self::with_head_rows`] that sees only some bits of hashes, so that different keys collide.
    pub(crate) fn with_hash_mask(schema: SchemaRef, key: Vec<usize>, cap: usize, mask: u64) -> Self {
        Self::with(Spec::new(schema, key, None, mask), cap)
    }
    fn with(spec: Spec, cap: usize) -> Self {
        Self {
            spec: Arc::new(spec),
            head: Head::default(),
            runs: Vec::new(),
            merge: None,
            cap: cap.clamp(1, 1 << (probe::PART_BITS - 1)),
            rewrite_rows: REWRITE_ROWS,
            append_only: true,
            head_frozen: 0,
            unfrozen: Vec::new(),
            unfrozen_rows: 0,
            stored_rows: 0,
            rewrite: false,
            floor: None,
        }
    }
    /// Rewrites stored runs from so many rows on.
    #[cfg(test)]
    pub(crate) fn set_rewrite_rows(&mut self, rows: usize) {
        self.rewrite_rows = rows;
    }
    /// Columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.spec.schema
    }
    /// True if no row was ever retracted.
    pub fn append_only(&self) -> bool {
        self.append_only
    }
    /// Number of rows stored, parts of one row counted apart.
    pub fn len(&self) -> usize {
        self.head.len() + self.runs.iter().map(|r| r.len()).sum::<usize>()
    }
    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.head.len() == 0 && self.runs.is_empty()
    }
    /// Adds changes.
    pub fn append(&mut self, batch: &ZBatch) -> Result<()> {
        self.append_all(std::slice::from_ref(batch))
    }
    /// Adds the changes of several batches; many rows become one run without passing through the head.
    pub fn append_all(&mut self, batches: &[ZBatch]) -> Result<()> {
        let batches =
            batches.iter().filter(|b| !b.is_empty()).map(|b| normalised(&self.spec, b)).collect::<Result<Vec<_>>>()?;
        self.append_normalised(batches, false)
    }
    fn append_normalised(&mut self, batches: Vec<ZBatch>, frozen: bool) -> Result<()> {
        let rows: usize = batches.iter().map(ZBatch::len).sum();
        if rows == 0 {
            return Ok(());
        }
        self.append_only &= batches.iter().all(ZBatch::append_only);
        if rows >= self.cap {
            let hashes: Vec<Vec<u64>> = batches.iter().map(|b| self.spec.hash_batch(&b.rows)).collect();
            if let Some(run) = sorted_run(&self.spec, &batches, &hashes)? {
                if !frozen {
                    let parts = run.blocks.iter().map(|block| Part { block: block.clone(), from: 0 }).collect();
                    self.left_head(parts);
                }
                self.runs.push(Arc::new(run));
            }
        } else {
            // Rows already frozen come first in the head: only `restore` adds them, before anything else.
            for batch in batches.into_iter().filter(|b| !b.is_empty()) {
                let own = compact_batch(&self.spec, &batch.rows)?;
                let hashes = self.spec.hash_batch(&own);
                self.head.push(&self.spec, Block::new(own, batch.weights, hashes, 0))?;
            }
            if frozen {
                self.head_frozen = self.head.len();
            }
            if self.head.len() >= self.cap {
                self.flush_head()?;
            }
        }
        if !frozen {
            self.give_up_unfrozen();
        }
        if self.runs.len() > LOOSE_RUNS {
            // The more there are the harder, so that their number settles whatever a row's share of merging is.
            self.maintain(self.runs.len() / 8 * rows.max(self.cap))?;
        }
        Ok(())
    }
    fn left_head(&mut self, parts: Vec<Part>) {
        if !self.rewrite {
            self.unfrozen_rows += parts.iter().map(Part::len).sum::<usize>();
            self.unfrozen.extend(parts);
        }
    }
    /// Where nobody freezes, the list of changes must not outgrow the content.
    fn give_up_unfrozen(&mut self) {
        if self.unfrozen_rows > self.rewrite_rows && self.unfrozen_rows > 2 * self.len() {
            self.unfrozen = Vec::new();
            self.unfrozen_rows = 0;
            self.rewrite = true;
        }
    }
    fn flush_head(&mut self) -> Result<()> {
        if let Some(floor) = self.floor {
            self.head_frozen = self.head.leave_out(&self.spec, floor, self.head_frozen)?;
            if self.head.len() <= self.cap / 2 {
                return Ok(());
            }
        }
        let unfrozen = self.head.since(self.head_frozen);
        self.left_head(unfrozen);
        self.head_frozen = 0;
        let blocks = self.head.take();
        let batches: Vec<ZBatch> = blocks.iter().map(|b| b.zbatch()).collect();
        let hashes: Vec<Vec<u64>> = blocks.iter().map(|b| b.hashes.clone()).collect();
        self.runs.extend(sorted_run(&self.spec, &batches, &hashes)?.map(Arc::new));
        Ok(())
    }
    fn view(&self) -> View<'_> {
        View { spec: &self.spec, runs: &self.runs, head: &self.head.blocks, index: Some(&self.head) }
    }
    /// All rows whose key equals a probe key (SQL equality of the key columns; NULL = NULL here, callers drop NULL
    /// keys first where SQL says so). Weights may be of either sign and one row may come in several parts. Without
    /// key columns there is one probe row, which matches everything. Probe rows ascend.
    pub fn probe(&self, keys: &[ArrayRef]) -> Result<Matches> {
        let mut plan = self.plan(keys, keys.first().map_or(1, |k| k.len()))?;
        Ok(self.matches(&mut plan, u32::MAX, usize::MAX)?.unwrap_or_default())
    }
    /// Starts a probe of `rows` keys that can be expanded bit by bit.
    pub fn plan(&self, keys: &[ArrayRef], rows: usize) -> Result<ProbePlan> {
        ProbePlan::new(&self.view(), keys, rows, None)
    }
    /// [`Self::plan`] for rows whose codes are within a range for each key. The arrangement is an ordered one.
    pub fn plan_within(&self, keys: &[ArrayRef], rows: usize, within: order::CodeRanges) -> Result<ProbePlan> {
        ProbePlan::new(&self.view(), keys, rows, Some(within))
    }
    /// The next matches of a plan, for probe rows before `end`, looking at no more than `limit` candidates; `None`
    /// when there are no more.
    pub fn matches(&self, plan: &mut ProbePlan, end: u32, limit: usize) -> Result<Option<Matches>> {
        plan.next(&self.view(), end, limit)
    }
    /// Upper bound of the number of matches of each of the `rows` keys of a plan.
    pub fn candidates(&self, plan: &ProbePlan, rows: usize) -> Vec<usize> {
        plan.counts(&self.view(), rows)
    }
    /// Columns of the matched rows.
    pub fn gather(&self, rows: &[u64], columns: &[usize]) -> Result<Vec<ArrayRef>> {
        self.view().gather(rows, columns, None)
    }
    /// Columns of matched rows mixed with rows of `extra` (same schema), whose ids come from [`extra_row`].
    pub fn gather_with(&self, rows: &[u64], columns: &[usize], extra: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.view().gather(rows, columns, Some(extra))
    }
    /// The content now.
    pub fn snapshot(&self) -> ArrangementSnapshot {
        ArrangementSnapshot { spec: self.spec.clone(), runs: self.runs.clone(), head: self.head.blocks.clone() }
    }
    /// See [`crate::ops::DeltaOp::freeze`]: rows appended since the last freeze with `__weight`, or everything
    /// compacted if that is due.
    pub fn freeze(&mut self, slot: &'static str) -> Result<SlotDelta> {
        let mut parts = std::mem::take(&mut self.unfrozen);
        parts.extend(self.head.since(self.head_frozen));
        let fresh: usize = parts.iter().map(Part::len).sum();
        self.unfrozen_rows = 0;
        self.head_frozen = self.head.len();
        let stored = self.stored_rows + fresh;
        let rewrite = self.rewrite || fresh > 0 && stored > self.rewrite_rows && stored > 2 * self.len();
        let batches = if rewrite { self.snapshot().content()? } else { parts.iter().map(Part::zbatch).collect() };
        self.rewrite = false;
        let rows = batches.iter().map(ZBatch::len).sum::<usize>();
        self.stored_rows = if rewrite { rows } else { self.stored_rows + rows };
        let batches = batches.iter().map(|b| b.to_weighted().e()).collect::<Result<_>>()?;
        Ok(SlotDelta { slot: slot.into(), replaces: rewrite, batches })
    }
    /// Applies a frozen batch (with `__weight`), keeping rows for which `keep(key hash)`.
    pub fn restore(&mut self, batch: &RecordBatch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        let batch = normalised(&self.spec, &ZBatch::from_weighted(batch).e()?)?;
        let keys: Vec<ArrayRef> = self.spec.key.iter().map(|i| batch.rows.column(*i).clone()).collect();
        let hashes = crate::hash::hash_rows(&keys, batch.len());
        let kept: Vec<u32> = (0..batch.len() as u32).filter(|i| keep(hashes[*i as usize])).collect();
        let batch =
            if kept.len() == batch.len() { batch } else { take_batch(&self.spec, &batch, &UInt32Array::from(kept))? };
        self.stored_rows += batch.len();
        self.append_normalised(vec![batch], true)
    }
    /// Rows whose time in a column is before `bound` (microseconds) will never be asked for again. Of the head they go when
    /// they are most of it, of a run when they are most of it and with every merge: so most of what is kept is needed, and
    /// each row that goes has paid for its share of the work.
    pub fn forget(&mut self, column: usize, bound: i64) -> Result<()> {
        if self.floor.is_some_and(|(c, b)| c == column && b >= bound) {
            return Ok(());
        }
        let floor = (column, bound);
        self.floor = Some(floor);
        let merge = &self.merge;
        // A merge under way leaves them out itself.
        self.runs.retain(|r| r.latest(column) >= bound || merge.as_ref().is_some_and(|m| m.is_input(r)));
        // What was never stored and is not needed need not be stored.
        self.unfrozen.retain(|p| p.block.latest(column) >= bound);
        self.unfrozen_rows = self.unfrozen.iter().map(Part::len).sum();
        if self.head.mostly_before(floor) {
            self.head_frozen = self.head.leave_out(&self.spec, floor, self.head_frozen)?;
        }
        Ok(())
    }
    /// Merges runs, at most about `fuel` rows. True if more is waiting.
    pub fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let mut spent = 0;
        loop {
            let merge = match &mut self.merge {
                Some(merge) => merge,
                None => match Merge::due(&self.runs, self.cap).or_else(|| Merge::of_old(&self.runs, self.floor?)) {
                    Some(merge) => self.merge.insert(merge),
                    None => return Ok(false),
                },
            };
            if spent >= fuel {
                return Ok(true);
            }
            let read = merge.step(&self.spec, fuel - spent, self.floor)?;
            spent += read;
            if read == 0
                && let Some(merge) = self.merge.take()
            {
                self.runs.retain(|r| !merge.is_input(r));
                self.runs.extend(merge.finish(&self.spec)?.map(Arc::new));
            }
        }
    }
    /// Size.
    pub fn stats(&self) -> StateStats {
        let blocks = self.head.blocks.iter().map(|b| b.bytes).sum::<usize>();
        let runs = self.runs.iter().map(|r| r.bytes).sum::<usize>();
        StateStats { rows: self.len(), bytes: blocks + runs + self.head.index_bytes() }
    }
}

/// Shared snapshots travel to readers on other threads.
pub type SharedSnapshot = Arc<ArrangementSnapshot>;
