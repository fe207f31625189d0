//! Frozen form: slots `left` and `right`, each with the columns of its side and then `__weight`. 0 says that the row is
//! gone; the last of equal rows is in force. Partners are found again after a restore.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};

use super::{AsOfOp, Group, Key, LEFT, Left, RIGHT, Right, partner};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::hash::hash_rows;
use crate::ops::SlotDelta;
use crate::state::keyed::MISSING;
use crate::zset::{WEIGHT_COLUMN, weighted_schema};

const SLOTS: [&str; 2] = ["left", "right"];
/// Below this many frozen rows a full dump is never worth it.
const FULL_DUMP_ROWS_MIN: usize = 64 * 1024;

impl AsOfOp {
    pub(super) fn freeze_state(&mut self) -> Result<Vec<SlotDelta>> {
        [LEFT, RIGHT].into_iter().map(|side| self.freeze_side(side)).collect()
    }

    fn freeze_side(&mut self, port: usize) -> Result<SlotDelta> {
        let side = &mut self.sides[port];
        let dirty: Vec<Key> = std::mem::take(&mut side.dirty).into_iter().collect();
        side.frozen += dirty.len();
        let replaces = side.dump_all || (side.frozen > FULL_DUMP_ROWS_MIN && side.frozen > 2 * side.live);
        let mut batches = Vec::new();
        if replaces {
            side.dump_all = false;
            side.frozen = 0;
            let all: Vec<(Key, i64)> = self.groups.iter_mut().flat_map(|g| g.store_all(port)).collect();
            for piece in all.chunks(FULL_DUMP_ROWS_MIN) {
                let (keys, weights): (Vec<Key>, Vec<i64>) = piece.iter().cloned().unzip();
                let rows = self.sides[port].decode(keys.iter())?;
                batches.push(self.to_batch(port, rows, weights)?);
            }
        } else {
            for keys in dirty.chunks(FULL_DUMP_ROWS_MIN) {
                let rows = self.sides[port].decode(keys.iter())?;
                let slots = self.slots.find(&self.sides[port].keys(&rows)?, keys.len())?;
                let groups = &mut self.groups;
                let mut weight = |(key, slot): (&Key, u32)| match slot {
                    MISSING => 0,
                    slot => groups[slot as usize].store(port, key),
                };
                let weights = keys.iter().zip(slots).map(&mut weight).collect();
                batches.push(self.to_batch(port, rows, weights)?);
            }
        }
        Ok(SlotDelta { slot: SLOTS[port].into(), replaces, batches })
    }

    fn to_batch(&self, port: usize, mut rows: Vec<ArrayRef>, weights: Vec<i64>) -> Result<RecordBatch> {
        rows.push(Arc::new(Int64Array::from(weights)));
        RecordBatch::try_new(weighted_schema(&self.sides[port].plain), rows).e()
    }

    pub(super) fn restore_state(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        let Some(port) = SLOTS.iter().position(|s| *s == slot) else {
            return Err(Error::internal(format!("an ASOF join has no state slot \"{slot}\"")));
        };
        let side = &self.sides[port];
        let width = side.plain.fields().len();
        let fits = batch.num_columns() == width + 1
            && batch.column(width).data_type() == &DataType::Int64
            && side.plain.fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type())
            && batch.schema().field(width).name() == WEIGHT_COLUMN;
        if !fits {
            return Err(Error::new(
                SqlState::DATA_CORRUPTED,
                "stored state does not have the columns of this operator",
            ));
        }
        let keys: Vec<ArrayRef> = side.key.iter().map(|k| batch.column(*k).clone()).collect();
        let own: BooleanArray = if keys.is_empty() {
            vec![self.shard.index == 0; batch.num_rows()].into()
        } else {
            hash_rows(&keys, batch.num_rows()).into_iter().map(|h| Some(self.shard.owns(h))).collect()
        };
        self.sides[port].dump_all |= own.true_count() < batch.num_rows();
        let batch = arrow::compute::filter_record_batch(batch, &own).e()?;
        self.sides[port].frozen += batch.num_rows();
        let weights = batch.column(width).as_primitive::<Int64Type>();
        let plain = &batch.columns()[..width];
        let (rows, times) = self.sides[port].encode(plain)?;
        let keys = self.sides[port].keys(plain)?;
        let slots = self.slots_for(&keys, batch.num_rows())?;
        for (i, slot) in slots.into_iter().enumerate() {
            let group = &mut self.groups[slot as usize];
            let (bytes, time, weight) = (rows.row(i).data(), times.row(i).data().len() as u32, weights.value(i));
            let was = match port {
                LEFT => group.left.remove(bytes).is_some(),
                _ => group.right.remove(bytes).is_some(),
            };
            let side = &mut self.sides[port];
            if was {
                side.live -= 1;
                side.bytes -= bytes.len();
            }
            if weight == 0 {
                continue;
            }
            side.live += 1;
            side.bytes += bytes.len();
            if port == LEFT {
                let held = Left { time, weight, out: weight, partner: None, changed: false, stored: true };
                group.left.insert(bytes.into(), held);
            } else {
                let held = Right { time, weight, before: weight, changed: false, stored: true };
                group.right.insert(bytes.into(), held);
            }
        }
        Ok(())
    }

    /// Gives the left rows the partners they had.
    pub(super) fn restore_partners(&mut self) -> Result<()> {
        let inclusive = self.compare.inclusive();
        let slots = self.slots.live_slots();
        for slot in &slots {
            let group = &mut self.groups[*slot as usize];
            for (key, held) in &mut group.left {
                held.partner = partner(&group.right, &key[..held.time as usize], inclusive);
            }
        }
        self.remove_empty(&slots)
    }
}

impl Group {
    /// The weight of a row, which goes into the store.
    fn store(&mut self, port: usize, key: &Key) -> i64 {
        let (stored, weight) = match port {
            LEFT => self.left.get_mut(key).map(|held| (&mut held.stored, held.weight)),
            _ => self.right.get_mut(key).map(|held| (&mut held.stored, held.weight)),
        }
        .unzip();
        if let Some(stored) = stored {
            *stored = true;
        }
        weight.unwrap_or(0)
    }

    /// All rows of a side with their weights, which go into the store.
    fn store_all(&mut self, port: usize) -> Vec<(Key, i64)> {
        let keys: Vec<Key> = match port {
            LEFT => self.left.keys().cloned().collect(),
            _ => self.right.keys().cloned().collect(),
        };
        keys.into_iter().map(|key| (key.clone(), self.store(port, &key))).collect()
    }
}
