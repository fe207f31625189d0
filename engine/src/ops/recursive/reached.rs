//! The rows of a recursion with UNION: each is in the first round that gives it, and in no other.
//!
//! For every row there is kept how often each round gives it. A row is *placed* in the smallest round whose number is
//! positive. Rounds are settled in ascending order: when round n is, the numbers of all rounds up to n are final for this
//! tick, so a row may only still move from n to a later one, and it is looked at again there. What keeps itself alive by
//! a cycle is given by later rounds only; without an earlier one they lose their rows one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::super::aggregate::{restore_words, to_batches};
use super::super::distinct::emit_rows;
use super::super::{Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::state::keyed::KeyedState;
use crate::state::keyed::code::{canonical, plain_type};
use crate::zset::ZBatch;

pub(super) const SLOT: &str = "rows";
/// Bytes of a round and its number.
const ENTRY_BYTES: usize = 12;

/// See the module.
pub(super) struct Reached {
    schema: SchemaRef,
    shard: Shard,
    /// Row -> the round it is placed in and 1, or 0.
    state: KeyedState,
    /// By slot, the rounds that give the row and how often, ascending, none with 0.
    rounds: Vec<Vec<(u32, i64)>>,
    /// For each row touched in this tick, in order: it was out before.
    was_out: Vec<bool>,
    due: BTreeMap<u32, Due>,
}

/// What remains to be done in a round of this tick.
#[derive(Default)]
struct Due {
    /// Rows that may be placed here now.
    check: Vec<u32>,
    /// Rows that were placed here and are in an earlier round now.
    remove: Vec<u32>,
}

impl Reached {
    pub fn new(schema: SchemaRef, shard: Shard) -> Result<Self> {
        let types = schema.fields().iter().map(|f| plain_type(f.data_type())).collect();
        let state = KeyedState::new(types, 1)?;
        Ok(Self { schema, shard, state, rounds: Vec::new(), was_out: Vec::new(), due: BTreeMap::new() })
    }

    /// The next round in which something remains to be done.
    pub fn next_due(&self) -> Option<u32> {
        self.due.keys().next().copied()
    }

    /// Settles a round, which is given these rows more or less: what changes in it, each row once.
    pub fn settle(&mut self, round: u32, given: &[ZBatch]) -> Result<Vec<(u32, i64)>> {
        let due = self.due.remove(&round).unwrap_or_default();
        let mut slots = due.check;
        for batch in given {
            let columns: Vec<ArrayRef> = batch.rows.columns().iter().map(canonical).collect::<Result<_>>()?;
            let found = self.state.slots_for(&columns, batch.len())?;
            self.rounds.resize(self.state.slot_end(), Vec::new());
            for s in self.state.touch(&found) {
                self.was_out.push(self.state.words(s)[0] > 0);
            }
            for (i, s) in found.iter().enumerate() {
                add(&mut self.rounds[*s as usize], round, batch.weight(i));
            }
            slots.extend(found);
        }
        slots.sort_unstable();
        slots.dedup();
        let mut changed: Vec<(u32, i64)> = due.remove.into_iter().map(|s| (s, -1)).collect();
        for s in slots {
            let first = self.rounds[s as usize].iter().find(|(_, n)| *n > 0).map(|(round, _)| *round);
            let placed = u32::try_from(self.state.words(s)[0] - 1).ok();
            match (first, placed) {
                (Some(first), placed) if first == round => {
                    if placed == Some(round) {
                        continue;
                    }
                    if let Some(later) = placed {
                        self.due.entry(later).or_default().remove.push(s);
                    }
                    self.state.words_mut(s)[0] = i64::from(round) + 1;
                    changed.push((s, 1));
                }
                (first, placed) => {
                    if placed == Some(round) {
                        self.state.words_mut(s)[0] = 0;
                        changed.push((s, -1));
                    }
                    // If there is no number left, the row is gone; in an earlier round, it was placed there.
                    if let Some(later) = first.filter(|first| *first > round)
                        && (placed.is_none() || placed == Some(round))
                    {
                        self.due.entry(later).or_default().check.push(s);
                    }
                }
            }
        }
        Ok(changed)
    }

    /// Columns of these rows.
    pub fn columns(&self, changed: &[(u32, i64)]) -> Result<Vec<ArrayRef>> {
        let slots: Vec<u32> = changed.iter().map(|(s, _)| *s).collect();
        let mut columns = self.state.key_columns(&slots)?;
        for (column, field) in columns.iter_mut().zip(self.schema.fields()) {
            if column.data_type() != field.data_type() {
                *column = arrow::compute::cast(column, field.data_type()).e()?;
            }
        }
        Ok(columns)
    }

    /// Ends the tick: emits rows that came or went.
    pub fn finish(&mut self, cx: &TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let touched = self.state.take_touched();
        let was_out = std::mem::take(&mut self.was_out);
        let changed: Vec<(u32, i64)> = touched
            .iter()
            .zip(was_out)
            .map(|(s, was)| (*s, i64::from(self.state.words(*s)[0] > 0) - i64::from(was)))
            .filter(|(_, w)| *w != 0)
            .collect();
        emit_rows(&self.state, &self.schema, &changed, cx.chunk_rows, out)?;
        let dead: Vec<u32> = touched.into_iter().filter(|s| self.rounds[*s as usize].is_empty()).collect();
        self.state.remove(&dead)
    }

    pub fn freeze(&mut self) -> Result<SlotDelta> {
        let frozen = self.state.freeze();
        let side = |slots: &[u32]| -> Vec<ArrayRef> {
            let bytes = |s: &u32| self.rounds[*s as usize].iter().flat_map(to_bytes).collect::<Vec<u8>>();
            vec![Arc::new(BinaryArray::from_iter_values(slots.iter().map(bytes)))]
        };
        let batches = to_batches(&self.state, 1, &frozen, &side)?;
        Ok(SlotDelta { slot: SLOT.into(), replaces: frozen.replaces, batches })
    }

    pub fn restore(&mut self, batch: &RecordBatch) -> Result<()> {
        // No key of its own: all rows are on the first shard.
        let Some((restored, batch)) = restore_words(&mut self.state, 1, 1, batch, 0, self.shard)? else {
            return Ok(());
        };
        self.rounds.resize(self.state.slot_end(), Vec::new());
        restored.removed.iter().for_each(|s| self.rounds[*s as usize].clear());
        let side = batch.column(self.state.types().len() + 1).as_binary_opt::<i32>().ok_or_else(damaged)?;
        for (row, slot) in restored.rows.iter().zip(&restored.slots) {
            self.rounds[*slot as usize] = from_bytes(side.value(*row as usize))?;
        }
        Ok(())
    }

    pub fn stats(&self) -> StateStats {
        let entries: usize = self.rounds.iter().map(|r| r.capacity() * 16).sum();
        StateStats { rows: self.state.len(), bytes: self.state.bytes() + self.rounds.capacity() * 24 + entries }
    }
}

/// Adds to the number of a round.
fn add(rounds: &mut Vec<(u32, i64)>, round: u32, weight: i64) {
    match rounds.binary_search_by_key(&round, |(r, _)| *r) {
        Ok(i) => {
            rounds[i].1 += weight;
            if rounds[i].1 == 0 {
                rounds.remove(i);
            }
        }
        Err(i) if weight != 0 => rounds.insert(i, (round, weight)),
        Err(_) => {}
    }
}

fn damaged() -> Error {
    Error::new(SqlState::DATA_CORRUPTED, "stored rows of a recursive query do not have its columns")
}

fn to_bytes((round, number): &(u32, i64)) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..4].copy_from_slice(&round.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn from_bytes(bytes: &[u8]) -> Result<Vec<(u32, i64)>> {
    let entries = bytes.chunks_exact(ENTRY_BYTES);
    if !entries.remainder().is_empty() {
        return Err(damaged());
    }
    let one = |entry: &[u8]| -> Option<(u32, i64)> {
        let (round, number) = entry.split_first_chunk::<4>()?;
        Some((u32::from_le_bytes(*round), i64::from_le_bytes(number.try_into().ok()?)))
    };
    entries.map(|e| one(e).ok_or_else(damaged)).collect()
}
