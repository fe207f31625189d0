//! Merging of runs between ticks, in slices of bounded work.
//!
//! Runs are kept in tiers of sizes a factor of four apart; four runs of a tier become one of the next. A merge takes
//! slices of the hash space (and of the order within one hash) from all its inputs, so equal rows always meet in one slice,
//! where their weights are summed and rows that cancel vanish. Rows that may be forgotten are left out, and a run that has
//! mostly such rows is written again for that alone: each row pays for a few. The inputs stay in place until the merge is complete.

use std::sync::Arc;

use super::block::{Block, Floor, Spec, compact_batch};
use super::run::{BLOCK_ROWS, Run, pick_zbatch};
use arrow::array::Array as _;
use millstream_sql::plan::time::micros_array;

use crate::error::{Result, ResultExt as _};
use crate::zset::ZBatch;

/// So many runs of one tier are merged.
const FAN_IN: usize = 4;
/// Positions in a run are `u32`.
const MAX_ROWS: usize = 1 << 31;

/// A merge in progress.
#[derive(Debug)]
pub(super) struct Merge {
    inputs: Vec<Arc<Run>>,
    /// Rows of each input already merged.
    done: Vec<usize>,
    output: Vec<Arc<Block>>,
    /// Rows of a slice at most, but for large groups of one hash.
    slice_rows: usize,
}

/// The tier of a run of `rows` when a full head has `cap`.
fn tier(rows: usize, cap: usize) -> u32 {
    let mut tier = 0;
    let mut limit = cap.max(1).saturating_mul(2);
    while rows > limit {
        limit = limit.saturating_mul(FAN_IN);
        tier += 1;
    }
    tier
}

impl Merge {
    /// The runs that are due, if any: the smallest tier that has enough of them.
    pub fn due(runs: &[Arc<Run>], cap: usize) -> Option<Self> {
        let tiers: Vec<u32> = runs.iter().map(|r| tier(r.len(), cap)).collect();
        let mut distinct = tiers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        for t in distinct {
            let mut rows = 0;
            let inputs: Vec<Arc<Run>> = runs
                .iter()
                .zip(&tiers)
                .filter(|(run, tier)| {
                    let fits = **tier == t && rows + run.len() <= MAX_ROWS;
                    rows += if fits { run.len() } else { 0 };
                    fits
                })
                .map(|(run, _)| run.clone())
                .take(2 * FAN_IN)
                .collect();
            if inputs.len() >= FAN_IN {
                return Some(Self::of(inputs, BLOCK_ROWS.min(cap.max(1) * FAN_IN)));
            }
        }
        None
    }
    /// A run of which most rows are behind the floor, to be written again without them.
    pub fn of_old(runs: &[Arc<Run>], floor: Floor) -> Option<Self> {
        let run = runs.iter().find(|r| r.mostly_before(floor))?;
        Some(Self::of(vec![run.clone()], BLOCK_ROWS))
    }
    /// A merge of these runs in slices of about so many rows.
    pub fn of(inputs: Vec<Arc<Run>>, slice_rows: usize) -> Self {
        Self { done: vec![0; inputs.len()], inputs, output: Vec::new(), slice_rows: slice_rows.max(1) }
    }
    pub fn is_input(&self, run: &Arc<Run>) -> bool {
        self.inputs.iter().any(|r| Arc::ptr_eq(r, run))
    }
    /// Merges one slice of about `fuel` rows at most; the number of rows it read. 0: all is done.
    /// Rows whose time in the column `floor.0` is before `floor.1` are left out.
    pub fn step(&mut self, spec: &Spec, fuel: usize, floor: Option<Floor>) -> Result<usize> {
        let quota = (self.slice_rows.min(fuel) / self.inputs.len().max(1)).max(1);
        // The slice ends at the smallest hash any input reaches within its quota; groups of one hash stay whole.
        let mut cut = (u64::MAX, i64::MAX);
        for (run, done) in self.inputs.iter().zip(&self.done) {
            if done + quota <= run.len() {
                cut = cut.min(run.place(done + quota - 1));
            }
        }
        let mut rows: Vec<(u64, u32, u32)> = Vec::new();
        let mut parts: Vec<ZBatch> = Vec::new();
        let mut ords: Vec<&[i64]> = Vec::new();
        for (run, done) in self.inputs.iter().zip(&mut self.done) {
            let end = run.after(*done, cut);
            let mut at = *done;
            while at < end {
                let (b, from) = run.locate(at as u32);
                let block = &run.blocks[b];
                let n = (block.len() - from as usize).min(end - at);
                let part = parts.len() as u32;
                rows.extend((from..from + n as u32).map(|i| (block.hashes[i as usize], part, i)));
                parts.push(block.zbatch());
                let start = run.starts[b] as usize;
                ords.push(run.ords.get(start..start + block.len()).unwrap_or_default());
                at += n;
            }
            *done = end;
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let read = rows.len();
        if let Some((column, bound)) = floor {
            let times: Vec<_> = parts.iter().map(|p| micros_array(p.rows.column(column))).collect();
            rows.retain(|(_, part, i)| {
                let time = times[*part as usize].as_ref().filter(|t| t.is_valid(*i as usize));
                time.is_none_or(|t| t.value(*i as usize) >= bound)
            });
            if rows.is_empty() {
                return Ok(read);
            }
        }
        // Stable: it finds the sorted pieces and merges them.
        match spec.ord {
            Some(_) => rows.sort_by_key(|(hash, b, i)| (*hash, ords[*b as usize][*i as usize], *b, *i)),
            None => rows.sort(),
        }
        for block in consolidated_blocks(spec, &parts, &rows)? {
            self.output.push(Arc::new(block));
            self.fold_small(spec)?;
        }
        Ok(read)
    }
    /// Joins trailing blocks while they are small, in powers of two, so that few remain and each row moves rarely.
    fn fold_small(&mut self, spec: &Spec) -> Result<()> {
        while let [.., a, b] = &self.output[..] {
            if a.len() + b.len() > BLOCK_ROWS || a.len() > 2 * b.len() {
                break;
            }
            let joined = Block::concat(spec, &[a.clone(), b.clone()], 0)?;
            self.output.truncate(self.output.len() - 2);
            self.output.push(Arc::new(joined));
        }
        Ok(())
    }
    /// The merged run; `None` if everything cancelled.
    pub fn finish(self, spec: &Spec) -> Result<Option<Run>> {
        Run::new(spec, self.output)
    }
}

/// These rows, sorted, as blocks; equal rows summed if a weight is negative.
fn consolidated_blocks(spec: &Spec, parts: &[ZBatch], rows: &[(u64, u32, u32)]) -> Result<Vec<Block>> {
    let picked = pick_zbatch(spec, parts, rows)?;
    let (batch, hashes) = if picked.append_only() {
        let hashes: Vec<u64> = rows.iter().map(|(h, _, _)| *h).collect();
        (picked, hashes)
    } else {
        // Keeps the order of first appearance, hence of hashes and codes.
        let batch = consolidate(spec, picked)?;
        let hashes = spec.hash_batch(&batch.rows);
        (batch, hashes)
    };
    let mut blocks = Vec::with_capacity(1 + batch.len() / BLOCK_ROWS);
    let mut at = 0;
    while at < batch.len() {
        let n = BLOCK_ROWS.min(batch.len() - at);
        let piece = batch.slice(at, n);
        blocks.push(Block::new(compact_batch(spec, &piece.rows)?, piece.weights, hashes[at..at + n].to_vec(), 0));
        at += n;
    }
    Ok(blocks)
}

/// [`ZBatch::consolidate`], also without columns.
pub(super) fn consolidate(spec: &Spec, batch: ZBatch) -> Result<ZBatch> {
    if spec.schema.fields().is_empty() {
        let sum: i64 = (0..batch.len()).map(|i| batch.weight(i)).sum();
        let n = usize::from(sum != 0);
        let weights = crate::zset::Weights::Dense(vec![sum; n].into());
        return Ok(ZBatch::new(spec.batch(vec![], n)?, weights));
    }
    batch.consolidate().e()
}
