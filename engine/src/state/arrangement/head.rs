//! The newest rows: blocks in order of arrival, and a private hash index with chains over them.
//!
//! A row's number in the head never changes until the head becomes a run or old rows are left out; joining small blocks
//! into larger ones keeps it. The blocks are immutable, so a snapshot of the head is a clone of their list; the index is the owner's alone.

use std::sync::Arc;

use arrow::array::UInt32Array;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::block::{Block, Floor, LARGE_LEVEL, Spec, compact_batch, take_batch};
use super::run::mostly_before;
use crate::error::{Result, ResultExt as _};
use crate::zset::ZBatch;

/// So many blocks of one level are joined into one of the next.
const FAN_IN: usize = 8;
/// End of a chain.
pub(super) const NIL: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Head {
    pub blocks: Vec<Arc<Block>>,
    /// Number of the first row of each block.
    pub starts: Vec<u32>,
    /// By hash: the newest row.
    index: HashTable<u32>,
    /// The next older row with the same hash.
    next: Vec<u32>,
    hashes: Vec<u64>,
    /// Codes of the order of rows; none if they have no order.
    pub ords: Vec<i64>,
}

/// hashbrown takes its 7-bit tags from the top, which are the vnode and nearly constant within a shard.
#[inline]
fn spread(hash: u64) -> u64 {
    hash.rotate_left(24)
}

impl Head {
    pub fn len(&self) -> usize {
        self.hashes.len()
    }
    /// Adds rows; coalesces small blocks so that their number stays logarithmic.
    pub fn push(&mut self, spec: &Spec, block: Block) -> Result<()> {
        let first = self.len() as u32;
        self.index.reserve(block.len(), |row| spread(self.hashes[*row as usize]));
        self.next.reserve(block.len());
        self.hashes.extend_from_slice(&block.hashes);
        self.ords.extend(spec.ords(&block.rows)?);
        let hashes = &self.hashes;
        for (i, hash) in block.hashes.iter().enumerate() {
            let row = first + i as u32;
            let older = match self.index.entry(
                spread(*hash),
                |other| hashes[*other as usize] == *hash,
                |other| spread(hashes[*other as usize]),
            ) {
                Entry::Occupied(mut e) => std::mem::replace(e.get_mut(), row),
                Entry::Vacant(e) => {
                    e.insert(row);
                    NIL
                }
            };
            self.next.push(older);
        }
        self.starts.push(first);
        self.blocks.push(Arc::new(block));
        self.coalesce(spec)
    }
    fn coalesce(&mut self, spec: &Spec) -> Result<()> {
        loop {
            let n = self.blocks.len();
            if n < FAN_IN {
                return Ok(());
            }
            let last = &self.blocks[n - FAN_IN..];
            let level = last[0].level;
            if level == LARGE_LEVEL || last.iter().any(|b| b.level != level) {
                return Ok(());
            }
            let joined = Block::concat(spec, last, level + 1)?;
            self.blocks.truncate(n - FAN_IN);
            self.starts.truncate(n - FAN_IN + 1);
            self.blocks.push(Arc::new(joined));
        }
    }
    /// The newest row with this hash, or [`NIL`].
    pub fn find(&self, hash: u64) -> u32 {
        self.index.find(spread(hash), |row| self.hashes[*row as usize] == hash).copied().unwrap_or(NIL)
    }
    /// The next older row with the hash of `row`, or [`NIL`].
    pub fn older(&self, row: u32) -> u32 {
        self.next[row as usize]
    }
    /// Rows from `row` on, as slices of blocks.
    pub fn since(&self, row: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        for (block, start) in self.blocks.iter().zip(&self.starts) {
            let (start, end) = (*start as usize, *start as usize + block.len());
            if end > row {
                parts.push(Part { block: block.clone(), from: row.max(start) - start });
            }
        }
        parts
    }
    /// Most rows have a time before `bound` in a column.
    pub fn mostly_before(&self, floor: Floor) -> bool {
        mostly_before(&self.blocks, floor)
    }
    /// Leaves out the rows whose time in a column is before `bound`; the others become one block, in their order. Returns how
    /// many of the first `first` rows are left.
    pub fn leave_out(&mut self, spec: &Spec, floor: Floor, first: usize) -> Result<usize> {
        let (mut parts, mut hashes, mut left) = (Vec::with_capacity(self.blocks.len()), Vec::new(), 0);
        for (block, start) in self.blocks.iter().zip(&self.starts) {
            let keep = block.not_before(floor);
            left += keep.partition_point(|i| ((start + i) as usize) < first);
            hashes.extend(keep.iter().map(|i| block.hashes[*i as usize]));
            parts.push(take_batch(spec, &block.zbatch(), &UInt32Array::from(keep))?);
        }
        let mut fresh = Self::default();
        if !hashes.is_empty() {
            let all = ZBatch::concat(&spec.permissive, &parts).e()?;
            // Of the level that so many single rows would have come to.
            let level = (0..LARGE_LEVEL).find(|l| FAN_IN.saturating_pow(u32::from(*l)) >= hashes.len());
            let own = compact_batch(spec, &all.rows)?;
            fresh.push(spec, Block::new(own, all.weights, hashes, level.unwrap_or(LARGE_LEVEL)))?;
        }
        *self = fresh;
        Ok(left)
    }
    /// Takes all rows out.
    pub fn take(&mut self) -> Vec<Arc<Block>> {
        std::mem::take(self).blocks
    }
    /// Bytes in memory of the index; the blocks count for themselves.
    pub fn index_bytes(&self) -> usize {
        self.index.allocation_size() + 4 * self.next.capacity() + 8 * (self.hashes.capacity() + self.ords.capacity())
    }
}

/// The rows of a block from one on.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub block: Arc<Block>,
    pub from: usize,
}

impl Part {
    pub fn len(&self) -> usize {
        self.block.len() - self.from
    }
    pub fn zbatch(&self) -> ZBatch {
        self.block.zbatch().slice(self.from, self.len())
    }
}
