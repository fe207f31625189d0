//! Private per-key state of one operator: a hash table from key to slot, keys in compact form, and a fixed number of
//! 64-bit words a slot, side by side, so that one lookup and one cache line serve an update.
//!
//! What an operator keeps beside the words (exact float sums, ordered sets) it keeps in vectors of its own, by slot.
//!
//! Durable form: rows of changed keys since the last freeze, last writer wins; removed keys are tombstones and come
//! first, because a key may be removed and come back between two freezes.

pub mod code;
mod expiry;
mod keys;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use hashbrown::HashTable;

use self::expiry::Expiry;
use self::keys::{BatchKeys, Keys};
use crate::error::{Result, ResultExt as _};
use crate::hash::hash_rows;

/// Name of the column that marks tombstones in frozen batches.
pub const DELETED_COLUMN: &str = "__deleted";
/// Below this many frozen rows a full dump is never worth it.
const FULL_DUMP_ROWS_MIN: usize = 64 * 1024;
/// Marks a key that was looked up and is not there.
pub const MISSING: u32 = u32::MAX;
/// Pieces of tombstones that are merged into one.
const TOMBSTONE_PIECES_MAX: usize = 256;

const LIVE: u8 = 1;
/// In the list of the tick.
const TOUCHED: u8 = 2;
/// Changed since the last freeze.
const DIRTY: u8 = 4;
/// Some stored run has this key, so its removal needs a tombstone.
const STORED: u8 = 8;

/// See the module.
pub struct KeyedState {
    types: Vec<DataType>,
    keys: Keys,
    table: HashTable<(u32, u32)>,
    null_slot: Option<u32>,
    hashes: Vec<u64>,
    flags: Vec<u8>,
    words: Vec<i64>,
    stride: usize,
    free: Vec<u32>,
    live: usize,
    touched: Vec<u32>,
    dirty: Vec<u32>,
    tombstones: Vec<Vec<ArrayRef>>,
    /// Rows frozen since the last full dump.
    frozen: usize,
    dump_all: bool,
    /// Keys by time, once somebody asked for it.
    expiry: Option<Expiry>,
}

/// What a freeze has to write.
pub struct Frozen {
    /// The slots below are all there are.
    pub replaces: bool,
    /// Keys that are gone, in pieces.
    pub deleted: Vec<Vec<ArrayRef>>,
    /// Slots that changed.
    pub slots: Vec<u32>,
}

/// What a restore did.
pub struct Restored {
    /// Slots that were emptied; those below may use them again.
    pub removed: Vec<u32>,
    /// Rows of the batch that are in force.
    pub rows: Vec<u32>,
    /// Their slots.
    pub slots: Vec<u32>,
}

#[inline]
fn place(hash: u64) -> u64 {
    // The top bits are the vnode, nearly constant within a shard, and hashbrown's tags are the top bits.
    hash.rotate_left(32)
}

impl KeyedState {
    /// Empty, for keys of these (plain) types and `stride` words a slot.
    pub fn new(types: Vec<DataType>, stride: usize) -> Result<Self> {
        Ok(Self {
            keys: Keys::new(&types)?,
            types,
            table: HashTable::new(),
            null_slot: None,
            hashes: Vec::new(),
            flags: Vec::new(),
            words: Vec::new(),
            stride,
            free: Vec::new(),
            live: 0,
            touched: Vec::new(),
            dirty: Vec::new(),
            tombstones: Vec::new(),
            frozen: 0,
            dump_all: false,
            expiry: None,
        })
    }

    /// Types of the key columns.
    pub fn types(&self) -> &[DataType] {
        &self.types
    }
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.live
    }
    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
    /// Slots are smaller than this.
    pub fn slot_end(&self) -> usize {
        self.flags.len()
    }
    /// All slots in use.
    pub fn live_slots(&self) -> Vec<u32> {
        (0..self.flags.len() as u32).filter(|s| self.flags[*s as usize] & LIVE != 0).collect()
    }
    /// Bytes of keys and words, about.
    pub fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.table.capacity() * 9
            + 8 * (self.words.capacity() + self.hashes.capacity())
            + self.flags.capacity()
    }

    /// The words of a slot.
    #[inline]
    pub fn words(&self, slot: u32) -> &[i64] {
        let at = slot as usize * self.stride;
        &self.words[at..at + self.stride]
    }
    /// The words of a slot, to change.
    #[inline]
    pub fn words_mut(&mut self, slot: u32) -> &mut [i64] {
        let at = slot as usize * self.stride;
        &mut self.words[at..at + self.stride]
    }
    /// All words: those of `slot` start at `slot * stride`.
    #[inline]
    pub fn all_words_mut(&mut self) -> &mut [i64] {
        &mut self.words
    }

    /// Slots of `rows` canonical keys; keys that are missing are put in, with zero words.
    pub fn slots_for(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        self.resolve(columns, rows, true)
    }
    /// Slots of `rows` canonical keys, [`MISSING`] where there is none.
    pub fn find(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        self.resolve(columns, rows, false)
    }

    fn resolve(&mut self, columns: &[ArrayRef], rows: usize, insert: bool) -> Result<Vec<u32>> {
        let batch = self.keys.encode(columns)?;
        let hashes = hash_rows(columns, rows);
        let mut out: Vec<u32> = Vec::with_capacity(rows);
        for i in 0..rows {
            if let BatchKeys::Codes(_, Some(nulls)) = &batch
                && nulls.is_null(i)
            {
                let slot = match self.null_slot {
                    Some(s) => s,
                    None if insert => {
                        let s = self.allocate(hashes[i], &batch, i)?;
                        self.null_slot = Some(s);
                        s
                    }
                    None => MISSING,
                };
                out.push(slot);
                continue;
            }
            let (hash, tag) = (hashes[i], hashes[i] as u32);
            // Neighbours are often alike: sorted inputs, bursts of one key.
            if let Some(last) = out.last()
                && *last != MISSING
                && hashes[i - 1] == hash
                && Some(*last) != self.null_slot
                && self.keys.eq(*last, &batch, i)
            {
                out.push(*last);
                continue;
            }
            let null_slot = self.null_slot;
            let keys = &self.keys;
            let found = self
                .table
                .find(place(hash), |(t, s)| *t == tag && Some(*s) != null_slot && keys.eq(*s, &batch, i))
                .map(|(_, s)| *s);
            out.push(match found {
                Some(s) => s,
                None if insert => {
                    let s = self.allocate(hash, &batch, i)?;
                    let hashes = &self.hashes;
                    self.table.insert_unique(place(hash), (tag, s), |(_, s)| place(hashes[*s as usize]));
                    s
                }
                None => MISSING,
            });
        }
        Ok(out)
    }

    fn allocate(&mut self, hash: u64, batch: &BatchKeys, row: usize) -> Result<u32> {
        let slot = match self.free.pop() {
            Some(s) => {
                self.hashes[s as usize] = hash;
                self.flags[s as usize] = LIVE;
                s
            }
            None => {
                let s = self.flags.len() as u32;
                if s == MISSING {
                    return Err(crate::Error::new(
                        crate::error::SqlState::PROGRAM_LIMIT_EXCEEDED,
                        "more than 4294967295 keys in the state of one shard",
                    ));
                }
                self.hashes.push(hash);
                self.flags.push(LIVE);
                self.words.resize(self.words.len() + self.stride, 0);
                s
            }
        };
        self.keys.set(slot, batch, row);
        self.live += 1;
        if let Some(e) = &mut self.expiry {
            e.appeared(slot);
        }
        Ok(slot)
    }

    /// Marks slots as changed; returns those that were not yet in this tick, each once, in order.
    pub fn touch(&mut self, slots: &[u32]) -> Vec<u32> {
        let before = self.touched.len();
        for s in slots {
            let f = &mut self.flags[*s as usize];
            if *f & TOUCHED == 0 {
                if *f & DIRTY == 0 {
                    self.dirty.push(*s);
                }
                *f |= TOUCHED | DIRTY;
                self.touched.push(*s);
            }
        }
        self.touched[before..].to_vec()
    }
    /// Ends the tick: the slots that were touched in it, in the order of first touch.
    pub fn take_touched(&mut self) -> Vec<u32> {
        let t = std::mem::take(&mut self.touched);
        for s in &t {
            self.flags[*s as usize] &= !TOUCHED;
        }
        t
    }

    /// Key columns of these slots.
    pub fn key_columns(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        self.keys.columns(slots, self.null_slot)
    }

    /// Removes keys; their slots will be used again. Not between `touch` and `take_touched`.
    pub fn remove(&mut self, slots: &[u32]) -> Result<()> {
        let stored: Vec<u32> = slots.iter().copied().filter(|s| self.flags[*s as usize] & STORED != 0).collect();
        if !stored.is_empty() {
            let keys = self.key_columns(&stored)?;
            self.tombstones.push(keys);
            if self.tombstones.len() > TOMBSTONE_PIECES_MAX && !self.types.is_empty() {
                let pieces = std::mem::take(&mut self.tombstones);
                let whole = (0..self.types.len())
                    .map(|c| {
                        let parts: Vec<&dyn arrow::array::Array> = pieces.iter().map(|p| p[c].as_ref()).collect();
                        arrow::compute::concat(&parts).e()
                    })
                    .collect::<Result<Vec<_>>>()?;
                self.tombstones.push(whole);
            }
        }
        for s in slots {
            self.forget(*s);
        }
        Ok(())
    }

    fn forget(&mut self, slot: u32) {
        let i = slot as usize;
        if self.flags[i] & LIVE == 0 {
            return;
        }
        if self.null_slot == Some(slot) {
            self.null_slot = None;
        } else if let Ok(e) = self.table.find_entry(place(self.hashes[i]), |(_, s)| *s == slot) {
            e.remove();
        }
        self.keys.clear(slot);
        self.words[i * self.stride..(i + 1) * self.stride].fill(0);
        self.flags[i] = 0;
        self.free.push(slot);
        self.live -= 1;
    }

    /// What changed since the last freeze, or everything if that is shorter than what was written since it was last.
    pub fn freeze(&mut self) -> Frozen {
        let dirty = std::mem::take(&mut self.dirty);
        let deleted = std::mem::take(&mut self.tombstones);
        let mut slots = Vec::with_capacity(dirty.len());
        for s in dirty {
            // A slot that was removed and used again is in the list twice.
            let f = &mut self.flags[s as usize];
            if *f & DIRTY != 0 {
                *f = (*f & !DIRTY) | STORED;
                slots.push(s);
            }
        }
        let gone: usize = deleted.iter().map(|d| d.first().map_or(1, |c| c.len())).sum();
        self.frozen += slots.len() + gone;
        let replaces = self.dump_all || (self.frozen > FULL_DUMP_ROWS_MIN && self.frozen > 2 * self.live);
        if !replaces {
            return Frozen { replaces, deleted, slots };
        }
        self.dump_all = false;
        self.frozen = 0;
        let slots = self.live_slots();
        for s in &slots {
            self.flags[*s as usize] |= STORED;
        }
        Frozen { replaces, deleted: Vec::new(), slots }
    }

    /// The next freeze writes everything (after a restore that left rows of other shards out).
    pub fn dump_all(&mut self) {
        self.dump_all = true;
    }

    /// Applies stored keys: removes those that are `deleted`, then puts the others in.
    pub fn restore(&mut self, keys: &[ArrayRef], deleted: &BooleanArray) -> Result<Restored> {
        let rows = deleted.len();
        self.frozen += rows;
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for i in 0..rows {
            if deleted.value(i) { gone.push(i as u32) } else { kept.push(i as u32) }
        }
        let take = |rows: &[u32]| -> Result<Vec<ArrayRef>> {
            let rows = arrow::array::UInt32Array::from(rows.to_vec());
            keys.iter().map(|k| arrow::compute::take(k, &rows, None).e()).collect()
        };
        let mut removed = Vec::new();
        if !gone.is_empty() {
            for s in self.find(&take(&gone)?, gone.len())? {
                if s != MISSING {
                    self.forget(s);
                    removed.push(s);
                }
            }
        }
        let slots =
            if gone.is_empty() { self.slots_for(keys, rows)? } else { self.slots_for(&take(&kept)?, kept.len())? };
        for s in &slots {
            self.flags[*s as usize] |= STORED;
        }
        Ok(Restored { removed, rows: kept, slots })
    }
}

#[cfg(test)]
mod tests;
