//! Immutable runs: rows sorted by the hash of their key, and then by their order if they have one, with a radix directory
//! that finds a hash in a few steps whatever the size of the run.

use std::sync::Arc;

use super::block::{Block, Floor, Spec, compact_batch};
use crate::error::{Result, ResultExt as _};
use crate::zset::{Weights, ZBatch};

/// Rows of a block of a run.
pub(super) const BLOCK_ROWS: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Run {
    /// Not empty, none of them empty; hashes ascend within and across blocks.
    pub blocks: Vec<Arc<Block>>,
    /// Position of the first row of each block.
    pub starts: Vec<u32>,
    /// All hashes, contiguous, for probing.
    pub hashes: Vec<u64>,
    /// Codes of the order of all rows; none if they have no order. They ascend where hashes are equal.
    pub ords: Vec<i64>,
    /// For each radix the first position with at least this radix; one more entry than there are radixes.
    directory: Vec<u32>,
    shift: u32,
    pub bytes: usize,
}

impl Run {
    /// `None` without rows.
    pub fn new(spec: &Spec, blocks: Vec<Arc<Block>>) -> Result<Option<Self>> {
        let rows: usize = blocks.iter().map(|b| b.len()).sum();
        if rows == 0 {
            return Ok(None);
        }
        let mut ords = Vec::new();
        if spec.ord.is_some() {
            ords.reserve_exact(rows);
            for b in &blocks {
                ords.extend(spec.ords(&b.rows)?);
            }
        }
        let mut starts = Vec::with_capacity(blocks.len());
        let mut hashes = Vec::with_capacity(rows);
        for b in &blocks {
            starts.push(hashes.len() as u32);
            hashes.extend_from_slice(&b.hashes);
        }
        debug_assert!(hashes.is_sorted());
        let (min, max) = (hashes[0], hashes[rows - 1]);
        // About one directory entry for four rows: the smallest shift that leaves no more radixes than that.
        let entries = (rows / 4 + 1) as u64;
        let mut shift = 0;
        while shift < 63 && (max - min) >> shift >= entries {
            shift += 1;
        }
        let radixes = ((max - min) >> shift) as usize + 1;
        let mut directory = Vec::with_capacity(radixes + 1);
        for (i, h) in hashes.iter().enumerate() {
            let radix = ((h - min) >> shift) as usize;
            while directory.len() <= radix {
                directory.push(i as u32);
            }
        }
        directory.push(rows as u32);
        let bytes = blocks.iter().map(|b| b.bytes).sum::<usize>() + 8 * (rows + ords.len()) + 4 * directory.len();
        Ok(Some(Self { blocks, starts, hashes, ords, directory, shift, bytes }))
    }
    /// What rows are sorted by.
    pub fn place(&self, position: usize) -> (u64, i64) {
        (self.hashes[position], self.ords.get(position).copied().unwrap_or_default())
    }
    /// The first position from `from` on whose place is after `last`.
    pub fn after(&self, from: usize, last: (u64, i64)) -> usize {
        let (mut low, mut high) = (from, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.place(middle) <= last { low = middle + 1 } else { high = middle }
        }
        low
    }
    /// Of `len` rows from `start`, all of one hash, those with codes `from..=to`: first position and number.
    pub fn within(&self, (start, len): (u32, u32), from: i64, to: i64) -> (u32, u32) {
        let ords = &self.ords[start as usize..(start + len) as usize];
        let first = ords.partition_point(|o| *o < from);
        let end = first + ords[first..].partition_point(|o| *o <= to);
        (start + first as u32, (end - first) as u32)
    }
    pub fn len(&self) -> usize {
        self.hashes.len()
    }
    /// The latest time in a column.
    pub fn latest(&self, column: usize) -> i64 {
        self.blocks.iter().map(|b| b.latest(column)).max().unwrap_or(i64::MIN)
    }
    /// About half of the rows, a quarter at least, have a time before `bound` in a column.
    pub fn mostly_before(&self, floor: Floor) -> bool {
        mostly_before(&self.blocks, floor)
    }
    /// First position and number of rows with this hash.
    #[inline]
    pub fn find(&self, hash: u64) -> Option<(u32, u32)> {
        let min = self.hashes[0];
        if hash < min {
            return None;
        }
        let radix = (hash - min) >> self.shift;
        if radix >= self.directory.len() as u64 - 1 {
            return None;
        }
        let (from, to) = (self.directory[radix as usize] as usize, self.directory[radix as usize + 1] as usize);
        // A handful of rows, except where many rows share a hash.
        let candidates = &self.hashes[from..to];
        let (first, end) = if candidates.len() <= 16 {
            let first = candidates.iter().position(|h| *h >= hash).unwrap_or(candidates.len());
            (first, first + candidates[first..].iter().take_while(|h| **h == hash).count())
        } else {
            (candidates.partition_point(|h| *h < hash), candidates.partition_point(|h| *h <= hash))
        };
        (end > first).then_some(((from + first) as u32, (end - first) as u32))
    }
    /// Block and row of a position.
    #[inline]
    pub fn locate(&self, position: u32) -> (usize, u32) {
        let block = self.starts.partition_point(|s| *s <= position) - 1;
        (block, position - self.starts[block])
    }
}

/// Half of the rows are in blocks of which more than half of the rows have a time before `bound` in a column.
pub(super) fn mostly_before(blocks: &[Arc<Block>], floor: Floor) -> bool {
    let rows: usize = blocks.iter().map(|b| b.len()).sum();
    let old: usize = blocks.iter().filter(|b| b.mostly_before(floor)).map(|b| b.len()).sum();
    2 * old > rows
}

/// A run of the rows of these batches, with their hashes given; none has weight zero.
pub(super) fn sorted_run(spec: &Spec, batches: &[ZBatch], hashes: &[Vec<u64>]) -> Result<Option<Run>> {
    let mut order: Vec<(u64, u32, u32)> = Vec::with_capacity(hashes.iter().map(Vec::len).sum());
    for (b, hashes) in hashes.iter().enumerate() {
        order.extend(hashes.iter().enumerate().map(|(i, h)| (*h, b as u32, i as u32)));
    }
    if spec.ord.is_some() {
        let ords = batches.iter().map(|b| spec.ords(&b.rows)).collect::<Result<Vec<_>>>()?;
        let place = |(hash, b, i): &(u64, u32, u32)| (*hash, ords[*b as usize][*i as usize], *b, *i);
        order.sort_unstable_by_key(place);
    } else {
        order.sort_unstable();
    }
    let mut blocks = Vec::with_capacity(order.len() / BLOCK_ROWS + 1);
    for piece in order.chunks(BLOCK_ROWS) {
        blocks.push(Arc::new(pick(spec, batches, piece)?));
    }
    Run::new(spec, blocks)
}

/// The block of these (hash, batch, row).
pub(super) fn pick(spec: &Spec, batches: &[ZBatch], rows: &[(u64, u32, u32)]) -> Result<Block> {
    let picked = pick_zbatch(spec, batches, rows)?;
    let hashes = rows.iter().map(|(h, _, _)| *h).collect();
    Ok(Block::new(compact_batch(spec, &picked.rows)?, picked.weights, hashes, 0))
}

/// These (hash, batch, row) as one batch.
pub(super) fn pick_zbatch(spec: &Spec, batches: &[ZBatch], rows: &[(u64, u32, u32)]) -> Result<ZBatch> {
    let at: Vec<(usize, usize)> = rows.iter().map(|(_, b, i)| (*b as usize, *i as usize)).collect();
    let mut columns = Vec::with_capacity(spec.schema.fields().len());
    for c in 0..spec.schema.fields().len() {
        let arrays: Vec<&dyn arrow::array::Array> = batches.iter().map(|b| b.rows.column(c).as_ref()).collect();
        columns.push(arrow::compute::interleave(&arrays, &at).e()?);
    }
    let weights = if batches.iter().all(|b| matches!(b.weights, Weights::AllOne)) {
        Weights::AllOne
    } else {
        let w: Vec<i64> = at.iter().map(|(b, i)| batches[*b].weight(*i)).collect();
        if w.iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(w.into()) }
    };
    Ok(ZBatch::new(spec.batch(columns, rows.len())?, weights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;

    fn run(hashes: &[u64]) -> Run {
        let spec = Spec::new(Arc::new(Schema::empty()), vec![], None, u64::MAX);
        let block = |h: &[u64]| {
            let rows: RecordBatch = spec.batch(vec![], h.len()).expect("batch");
            Arc::new(Block::new(rows, Weights::AllOne, h.to_vec(), 0))
        };
        Run::new(&spec, hashes.chunks(7).map(block).collect()).expect("a run").expect("rows")
    }

    #[test]
    fn the_directory_finds_every_hash_and_no_other() {
        let spread: Vec<u64> = (0..500u64).map(|i| i * (u64::MAX / 500)).collect();
        let close: Vec<u64> = (0..500u64).map(|i| 1000 + i / 40).collect();
        let mut skewed: Vec<u64> = (0..300u64).chain(std::iter::repeat_n(u64::MAX - 1, 200)).collect();
        skewed.push(u64::MAX);
        for hashes in [spread, close, skewed, vec![0], vec![u64::MAX; 3], vec![0, u64::MAX]] {
            let run = run(&hashes);
            let near = hashes.iter().flat_map(|h| [h.wrapping_sub(1), *h, h.wrapping_add(1)]);
            for h in near.chain([0, 1 << 63, u64::MAX]) {
                let first = hashes.iter().position(|x| *x == h);
                let expected = first.map(|f| (f as u32, hashes.iter().filter(|x| **x == h).count() as u32));
                assert_eq!(run.find(h), expected, "hash {h}");
            }
            for (i, h) in hashes.iter().enumerate() {
                let (block, row) = run.locate(i as u32);
                assert_eq!(run.blocks[block].hashes[row as usize], *h);
            }
        }
    }
}
