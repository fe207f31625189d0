//! Snapshots: the content at one moment, for readers on any thread.
//!
//! A snapshot shares runs and head blocks with its arrangement, all immutable; the owner goes on without waiting for
//! anybody, and a run that was merged away lives as long as a snapshot that needs it.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::SchemaRef;

use super::Matches;
use super::block::{Block, Spec};
use super::merge::consolidate;
use super::probe::{ProbePlan, View};
use super::run::{Run, pick_zbatch};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::zset::{Weights, ZBatch};

/// Rows that need consolidation are consolidated in groups of about so many.
const GROUP_ROWS: usize = 256 * 1024;

/// The content at one moment; immutable, cheap to clone and to keep.
#[derive(Clone)]
pub struct ArrangementSnapshot {
    pub(super) spec: Arc<Spec>,
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) head: Vec<Arc<Block>>,
}

impl ArrangementSnapshot {
    /// Everything, consolidated: no weight is zero, no row is retracted; equal rows are one row, except that rows
    /// which were only ever inserted may come in several pieces. A row with negative multiplicity is an error
    /// (`22000`): the input retracted what was not there.
    pub fn scan(&self) -> Result<Vec<ZBatch>> {
        self.scan_iter().collect()
    }
    /// [`Self::scan`] piece by piece. Stops after an error.
    pub fn scan_iter(&self) -> impl Iterator<Item = Result<ZBatch>> + Send + use<> {
        let mut scan = Scan::new(self.clone());
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed {
                return None;
            }
            let next = scan.next().and_then(|b| match b {
                Some(b) => non_negative(b).map(Some),
                None => Ok(None),
            });
            failed = next.is_err();
            next.transpose()
        })
    }
    /// The content with negative weights where there are any (not yet settled inputs).
    pub(super) fn content(&self) -> Result<Vec<ZBatch>> {
        let mut scan = Scan::new(self.clone());
        let mut out = Vec::new();
        while let Some(b) = scan.next()? {
            out.push(b);
        }
        Ok(out)
    }
    /// Rows with these keys (see [`super::Arrangement::probe`]), consolidated. Equal keys give their rows once each.
    pub fn lookup(&self, keys: &[ArrayRef]) -> Result<ZBatch> {
        let view = self.view();
        let rows = keys.first().map_or(1, |k| k.len());
        let mut plan = ProbePlan::new(&view, keys, rows, None)?;
        let Some(matches) = plan.next(&view, u32::MAX, usize::MAX)? else {
            return Ok(ZBatch::inserts(self.spec.batch(empty_columns(&self.spec.schema), 0)?));
        };
        let columns: Vec<usize> = (0..self.spec.schema.fields().len()).collect();
        let gathered = view.gather(&matches.row, &columns, None)?;
        let rows = self.spec.batch(gathered, matches.row.len())?;
        let found = ZBatch::new(rows, Weights::Dense(matches.weight.into()));
        non_negative(consolidate(&self.spec, found)?)
    }
    fn view(&self) -> View<'_> {
        View { spec: &self.spec, runs: &self.runs, head: &self.head, index: None }
    }
    /// The columns it is indexed by.
    pub fn key(&self) -> &[usize] {
        &self.spec.key
    }
    /// True if no row in it is a retraction.
    pub fn append_only(&self) -> bool {
        !self.blocks().any(|b| b.negative)
    }
    /// Number of rows stored, parts of one row counted apart.
    pub fn len(&self) -> usize {
        self.blocks().map(|b| b.len()).sum()
    }
    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        self.blocks().map(|b| b.bytes).sum()
    }
    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.head.is_empty()
    }
    /// Starts a probe of `rows` keys, see [`super::Arrangement::plan`]. The plan is of this snapshot and its clones.
    pub fn plan(&self, keys: &[ArrayRef], rows: usize) -> Result<ProbePlan> {
        ProbePlan::new(&self.view(), keys, rows, None)
    }
    /// See [`super::Arrangement::matches`].
    pub fn matches(&self, plan: &mut ProbePlan, limit: usize) -> Result<Option<Matches>> {
        plan.next(&self.view(), u32::MAX, limit)
    }
    /// See [`super::Arrangement::candidates`].
    pub fn candidates(&self, plan: &ProbePlan, rows: usize) -> Vec<usize> {
        plan.counts(&self.view(), rows)
    }
    /// See [`super::Arrangement::gather`].
    pub fn gather(&self, rows: &[u64], columns: &[usize]) -> Result<Vec<ArrayRef>> {
        self.view().gather(rows, columns, None)
    }
    /// True if both are of one moment; may be false though they hold the same.
    pub fn same(&self, other: &Self) -> bool {
        let runs =
            self.runs.len() == other.runs.len() && self.runs.iter().zip(&other.runs).all(|(a, b)| Arc::ptr_eq(a, b));
        runs && self.head.len() == other.head.len() && self.head.iter().zip(&other.head).all(|(a, b)| Arc::ptr_eq(a, b))
    }
    /// Columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.spec.schema
    }
    /// Upper bound of the number of rows, for planning.
    pub fn rows_max(&self) -> usize {
        self.blocks().fold(0, |n, b| n.saturating_add(b.positive))
    }
    fn blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.runs.iter().flat_map(|r| &r.blocks).chain(&self.head)
    }
}

fn empty_columns(schema: &SchemaRef) -> Vec<ArrayRef> {
    schema.fields().iter().map(|f| arrow::array::new_empty_array(f.data_type())).collect()
}

fn non_negative(batch: ZBatch) -> Result<ZBatch> {
    if batch.append_only() {
        return Ok(batch);
    }
    Err(Error::new(SqlState::DATA_EXCEPTION, "row with negative multiplicity"))
}

/// Only rows that share a key hash with a retraction need consolidation; all others pass as they are, whole blocks at
/// a time where the block holds none.
struct Scan {
    snapshot: ArrangementSnapshot,
    /// Key hashes of retractions, ascending, distinct.
    retracted: Vec<u64>,
    blocks: std::vec::IntoIter<Arc<Block>>,
    /// Rows set aside: (hash, batch, row).
    touched: Vec<(u64, u32, u32)>,
    parts: Vec<ZBatch>,
    sorted: bool,
    at: usize,
}

impl Scan {
    fn new(snapshot: ArrangementSnapshot) -> Self {
        let mut retracted: Vec<u64> = Vec::new();
        for b in snapshot.blocks().filter(|b| b.negative) {
            retracted.extend((0..b.len()).filter(|i| b.weights.get(*i) < 0).map(|i| b.hashes[i]));
        }
        retracted.sort_unstable();
        retracted.dedup();
        let blocks = snapshot.blocks().cloned().collect::<Vec<_>>().into_iter();
        Self { snapshot, retracted, blocks, touched: Vec::new(), parts: Vec::new(), sorted: false, at: 0 }
    }
    fn next(&mut self) -> Result<Option<ZBatch>> {
        for block in self.blocks.by_ref() {
            if self.retracted.is_empty() {
                return Ok(Some(block.zbatch()));
            }
            let mut touched = Vec::new();
            if block.hashes.is_sorted() {
                // Both ascend: walk them together, or look each retraction up where there are few.
                if self.retracted.len() * 16 < block.len() {
                    for h in &self.retracted {
                        let from = block.hashes.partition_point(|x| x < h);
                        touched.extend((from..block.len()).take_while(|i| block.hashes[*i] == *h));
                    }
                } else {
                    let mut r = self.retracted.iter().peekable();
                    for (i, h) in block.hashes.iter().enumerate() {
                        while r.next_if(|x| *x < h).is_some() {}
                        if r.peek() == Some(&h) {
                            touched.push(i);
                        }
                    }
                }
            } else {
                touched.extend((0..block.len()).filter(|i| self.retracted.binary_search(&block.hashes[*i]).is_ok()));
            }
            if touched.is_empty() {
                return Ok(Some(block.zbatch()));
            }
            let part = self.parts.len() as u32;
            self.touched.extend(touched.iter().map(|i| (block.hashes[*i], part, *i as u32)));
            self.parts.push(block.zbatch());
            if touched.len() < block.len() {
                let mut keep = vec![true; block.len()];
                touched.iter().for_each(|i| keep[*i] = false);
                return Ok(Some(block.zbatch().filter(&BooleanArray::from(keep)).e()?));
            }
        }
        if !self.sorted {
            self.touched.sort_unstable();
            self.sorted = true;
        }
        while self.at < self.touched.len() {
            let mut end = (self.at + GROUP_ROWS).min(self.touched.len());
            let last = self.touched[end - 1].0;
            end += self.touched[end..].partition_point(|(h, _, _)| *h <= last);
            let group = &self.touched[self.at..end];
            self.at = end;
            let spec = &self.snapshot.spec;
            let batch = consolidate(spec, pick_zbatch(spec, &self.parts, group)?)?;
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}
