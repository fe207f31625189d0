//! ASOF joins: each left row with the right row of its key whose time is nearest.
//!
//! * A row is kept as bytes whose order is that of its time, then of the row itself; one ordered map a side and key. Where
//!   the earliest right row is asked for, time runs backwards: the partner of a left row is always the last right row
//!   at or before its place. Of right rows of one time the first in the order of their columns counts, so right rows of
//!   one time are kept in descending order.
//! * Each left row knows its partner. A right row that comes or goes concerns the left rows from its time to that of the
//!   next right row; they all have one partner afterwards.
//! * A right row is there if its weight is more than zero; left rows count with their weight, whatever it is.
//! * NULL in a key or a time matches nothing: such left rows go straight to the output, if at all.
//! * What no later change can reach is forgotten, see [`forget`].

mod forget;
mod side;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute;
use arrow::datatypes::SchemaRef;
use millstream_sql::plan::AsOfCompare;

use self::forget::{Due, Dues};
use self::side::Side;
use super::eval::{OutputSchema, conform, emit_chunked};
use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::state::keyed::KeyedState;
use crate::zset::{Weights, ZBatch};

type Key = Arc<[u8]>;

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// See the module.
pub struct AsOfOp {
    compare: AsOfCompare,
    outer: bool,
    output: OutputSchema,
    shard: Shard,
    sides: [Side; 2],
    /// Key -> slot in `groups`.
    slots: KeyedState,
    groups: Vec<Group>,
    /// Slots that were looked at in this tick.
    touched: Vec<u32>,
    /// Left rows of this tick that cannot have a partner.
    alone: Vec<ZBatch>,
    /// Where something will be forgotten next; `None` before anything was promised.
    dues: Option<Dues>,
}

/// Rows of one key.
#[derive(Default)]
struct Group {
    left: BTreeMap<Key, Left>,
    right: BTreeMap<Key, Right>,
    /// Rows that changed in this tick.
    changed: [Vec<Key>; 2],
    touched: bool,
    /// As [`Dues`] has it.
    due: Due,
}

struct Left {
    /// Bytes of the time in the key.
    time: u32,
    weight: i64,
    /// Weight and partner that are out.
    out: i64,
    partner: Option<Key>,
    changed: bool,
    /// A freeze has put it into the store.
    stored: bool,
}

struct Right {
    time: u32,
    weight: i64,
    /// Weight before this tick.
    before: i64,
    changed: bool,
    stored: bool,
}

/// A row of output.
struct Change {
    left: Key,
    right: Option<Key>,
    weight: i64,
}

impl AsOfOp {
    /// `on`: (left column, right column) of each equality; `time` likewise, of one type. Output: left columns, then right
    /// ones. Rows of both inputs must be in the shard of their key's hash, key columns in the order of `on`; without keys
    /// there can be one shard only.
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the plan node")]
    pub fn new(
        left: SchemaRef,
        right: SchemaRef,
        on: Vec<(usize, usize)>,
        time: (usize, usize),
        compare: AsOfCompare,
        outer: bool,
        output: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let (left_key, right_key): (Vec<usize>, Vec<usize>) = on.into_iter().unzip();
        if output.fields().len() != left.fields().len() + right.fields().len() {
            return Err(Error::internal("output of an ASOF join must be the columns of both sides"));
        }
        let latest = compare.latest();
        let sides =
            [Side::new(left, left_key, time.0, latest, false)?, Side::new(right, right_key, time.1, latest, true)?];
        let [l, r] = &sides;
        let same = |l_at: usize, r_at: usize| l.plain.field(l_at).data_type() == r.plain.field(r_at).data_type();
        if !same(l.time, r.time) || !l.key.iter().zip(&r.key).all(|(a, b)| same(*a, *b)) {
            return Err(Error::internal("keys or times of an ASOF join are not of one type"));
        }
        let types = l.key.iter().map(|k| l.plain.field(*k).data_type().clone()).collect();
        Ok(Self {
            compare,
            outer,
            output: OutputSchema::new(output),
            shard,
            sides,
            slots: KeyedState::new(types, 0)?,
            groups: Vec::new(),
            touched: Vec::new(),
            alone: Vec::new(),
            dues: None,
        })
    }

    fn slots_for(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let slots = self.slots.slots_for(keys, rows)?;
        self.groups.resize_with(self.slots.slot_end(), Group::default);
        Ok(slots)
    }

    fn flush_group(&mut self, slot: u32, changes: &mut Vec<Change>) {
        let group = &mut self.groups[slot as usize];
        group.touched = false;
        let inclusive = self.compare.inclusive();
        let [changed_left, changed_right] = std::mem::take(&mut group.changed);
        // Times of right rows that came or went. What is gone need not be looked at any more.
        let mut times: Vec<Key> = Vec::new();
        for key in changed_right {
            let Some(held) = group.right.get_mut(&key) else { continue };
            held.changed = false;
            let (before, time) = (std::mem::replace(&mut held.before, held.weight), held.time as usize);
            if (before > 0) != (held.weight > 0) {
                times.push(key[..time].into());
            }
            if held.weight == 0 {
                let stored = held.stored;
                group.right.remove(&key);
                self.sides[RIGHT].removed(key, stored);
            }
        }
        times.sort_unstable();
        let mut gone: Vec<Key> = Vec::new();
        // Up to here, exclusively, left rows have been looked at; `None`: nowhere.
        let mut done: Option<Bound<Key>> = None;
        for time in times {
            match &done {
                Some(Bound::Unbounded) => break,
                Some(Bound::Excluded(end)) if time < *end => continue,
                _ => {}
            }
            let after = successor(&time);
            let next = after.as_deref().and_then(|after| {
                let mut later = group.right.range::<[u8], _>((Bound::Included(after), Bound::Unbounded));
                later.find(|(_, held)| held.weight > 0).map(|(key, held)| Key::from(&key[..held.time as usize]))
            });
            let partner = partner(&group.right, &time, true);
            let from = if inclusive { Some(time.to_vec()) } else { after };
            let to = match (&next, inclusive) {
                (None, _) => None,
                (Some(next), true) => Some(next.to_vec()),
                (Some(next), false) => successor(next),
            };
            done = Some(next.map_or(Bound::Unbounded, Bound::Excluded));
            let Some(from) = from else { continue };
            let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            for (key, held) in group.left.range_mut::<[u8], _>((Bound::Included(from.as_slice()), to)) {
                held.settle(key, partner.clone(), self.outer, changes);
                if held.weight == 0 {
                    gone.push(key.clone());
                }
            }
        }
        for key in changed_left {
            let Some(held) = group.left.get_mut(&key).filter(|held| held.changed) else { continue };
            let partner = match held.weight {
                0 => None,
                _ => partner(&group.right, &key[..held.time as usize], inclusive),
            };
            held.settle(&key, partner, self.outer, changes);
            if held.weight == 0 {
                gone.push(key);
            }
        }
        for key in gone {
            if let Some(held) = group.left.remove(&key) {
                self.sides[LEFT].removed(key, held.stored);
            }
        }
    }

    fn emit(&self, changes: &[Change], out: &mut dyn Emit) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let [left, right] = &self.sides;
        let mut columns = left.decode(changes.iter().map(|c| &c.left))?;
        let partners = right.decode(changes.iter().filter_map(|c| c.right.as_ref()))?;
        let mut found = 0;
        let at: UInt32Array = changes
            .iter()
            .map(|c| {
                c.right.as_ref().map(|_| {
                    found += 1;
                    found - 1
                })
            })
            .collect();
        for c in partners {
            columns.push(match c.is_empty() {
                true => new_null_array(c.data_type(), at.len()),
                false => compute::take(c.as_ref(), &at, None).e()?,
            });
        }
        let rows = self.output.batch(columns, changes.len())?;
        let weights = if changes.iter().all(|c| c.weight == 1) {
            Weights::AllOne
        } else {
            Weights::Dense(changes.iter().map(|c| c.weight).collect::<Vec<_>>().into())
        };
        out.emit(ZBatch::new(rows, weights))
    }

    fn emit_alone(&mut self, chunk_rows: usize, out: &mut dyn Emit) -> Result<()> {
        let alone = std::mem::take(&mut self.alone);
        if alone.is_empty() {
            return Ok(());
        }
        let alone = ZBatch::concat(self.sides[LEFT].columns.exact(), &alone).e()?.consolidate().e()?;
        let mut columns = alone.rows.columns().to_vec();
        let other = self.sides[RIGHT].plain.fields().iter();
        columns.extend(other.map(|f| new_null_array(f.data_type(), alone.len())));
        emit_chunked(alone.with_rows(self.output.batch(columns, alone.len())?), chunk_rows, out)
    }

    /// Frees the slots without rows.
    fn remove_empty(&mut self, slots: &[u32]) -> Result<()> {
        let empty = |s: &u32| {
            let group = &self.groups[*s as usize];
            group.left.is_empty() && group.right.is_empty()
        };
        let empty: Vec<u32> = slots.iter().copied().filter(empty).collect();
        self.slots.remove(&empty)
    }
}

impl Left {
    /// Gives the row its partner, and says what that changes.
    fn settle(&mut self, key: &Key, partner: Option<Key>, outer: bool, changes: &mut Vec<Change>) {
        self.changed = false;
        let mut push = |right: Option<Key>, weight: i64| {
            if weight != 0 && (outer || right.is_some()) {
                changes.push(Change { left: key.clone(), right, weight });
            }
        };
        let out = std::mem::replace(&mut self.out, self.weight);
        if self.partner == partner {
            push(partner, self.weight - out);
        } else {
            push(std::mem::replace(&mut self.partner, partner.clone()), -out);
            push(partner, self.weight);
        }
    }
}

/// The last right row that is there before a time, or also at it.
fn partner(right: &BTreeMap<Key, Right>, time: &[u8], inclusive: bool) -> Option<Key> {
    let end = if inclusive { successor(time) } else { Some(time.to_vec()) };
    let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut earlier = right.range::<[u8], _>((Bound::Unbounded, end));
    earlier.rfind(|(_, held)| held.weight > 0).map(|(key, _)| key.clone())
}

/// The first bytes after all that begin with these; `None` if there are none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut out = prefix[..=last].to_vec();
    out[last] += 1;
    Some(out)
}

impl DeltaOp for AsOfOp {
    fn push(&mut self, port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if port > RIGHT {
            return Err(Error::internal(format!("an ASOF join has no input {port}")));
        }
        if self.sides[port].key.is_empty() && self.shard.index != 0 {
            return Err(Error::internal("rows of an ASOF join without keys belong on shard 0"));
        }
        let mut batch = batch;
        if let Some(valid) = self.sides[port].valid(&batch.rows) {
            let valid = BooleanArray::new(valid.into_inner(), None);
            if port == LEFT && self.outer {
                let alone = batch.filter(&compute::not(&valid).e()?).e()?;
                let rows = conform(&alone.rows, self.sides[LEFT].columns.exact())?;
                self.alone.push(alone.with_rows(rows));
            }
            batch = batch.filter(&valid).e()?;
        }
        let plain = self.sides[port].plain_columns(batch.rows.columns())?;
        let (rows, times) = self.sides[port].encode(&plain)?;
        let keys = self.sides[port].keys(&plain)?;
        let slots = self.slots_for(&keys, batch.len())?;
        for (i, slot) in slots.into_iter().enumerate() {
            let group = &mut self.groups[slot as usize];
            if !group.touched {
                group.touched = true;
                self.touched.push(slot);
            }
            let weight = batch.weight(i);
            if weight != 0 {
                group.add(&mut self.sides[port], port, rows.row(i).data(), times.row(i).data().len(), weight);
            }
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        self.emit_alone(cx.chunk_rows, out)?;
        let touched = std::mem::take(&mut self.touched);
        let mut changes = Vec::new();
        for slot in &touched {
            self.flush_group(*slot, &mut changes);
            if changes.len() >= cx.chunk_rows {
                self.emit_chunks(&std::mem::take(&mut changes), cx.chunk_rows, out)?;
            }
        }
        self.emit_chunks(&changes, cx.chunk_rows, out)?;
        self.note_dues(&touched);
        self.remove_empty(&touched)?;
        self.forget(cx)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        self.freeze_state()
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        self.restore_state(slot, batch)
    }

    fn restored(&mut self) -> Result<()> {
        self.restore_partners()
    }

    fn stats(&self) -> StateStats {
        let rows = self.sides.iter().map(|s| s.live).sum::<usize>();
        let bytes: usize = self.sides.iter().map(|s| s.bytes).sum();
        // A map entry: the shared bytes with two counts, a pointer, and what is held, in nodes about two thirds full.
        StateStats { rows, bytes: bytes + rows * 96 + self.slots.bytes() + self.groups.len() * 128 }
    }
}

impl AsOfOp {
    fn emit_chunks(&self, changes: &[Change], chunk_rows: usize, out: &mut dyn Emit) -> Result<()> {
        changes.chunks(chunk_rows.max(1)).try_for_each(|piece| self.emit(piece, out))
    }
}

impl Group {
    /// Adds `weight` times a row to a side.
    fn add(&mut self, side: &mut Side, port: usize, bytes: &[u8], time: usize, weight: i64) {
        let time = time as u32;
        let stored = match port {
            LEFT => self.left.get_key_value(bytes).map(|(key, held)| (key.clone(), held.changed)),
            _ => self.right.get_key_value(bytes).map(|(key, held)| (key.clone(), held.changed)),
        };
        let (key, changed) = stored.unwrap_or_else(|| {
            side.live += 1;
            side.bytes += bytes.len();
            (Key::from(bytes), false)
        });
        // A row that is gone may still have to go in the store.
        let stored = !changed && !side.dirty.insert(key.clone());
        if port == LEFT {
            let fresh = Left { time, weight: 0, out: 0, partner: None, changed: false, stored };
            let held = self.left.entry(key.clone()).or_insert(fresh);
            held.weight += weight;
            held.changed = true;
        } else {
            let fresh = Right { time, weight: 0, before: 0, changed: false, stored };
            let held = self.right.entry(key.clone()).or_insert(fresh);
            held.weight += weight;
            held.changed = true;
        }
        if !changed {
            self.changed[port].push(key);
        }
    }
}
