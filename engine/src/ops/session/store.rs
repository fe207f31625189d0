//! Frozen form: slot `rows` has the row and `__weight`. Weight 0 says that the row is gone; the last record of equal rows is
//! in force. Sessions follow from the rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};

use super::{Key, SessionOp, sessions};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::hash::hash_rows;
use crate::ops::SlotDelta;
use crate::zset::weighted_schema;

const ROWS: &str = "rows";
/// Below this many frozen rows a full dump is never worth it.
const FULL_DUMP_ROWS_MIN: usize = 64 * 1024;

fn damaged() -> Error {
    Error::new(SqlState::DATA_CORRUPTED, "stored state does not have the columns of this operator")
}

impl SessionOp {
    fn record_schema(&self) -> SchemaRef {
        weighted_schema(&self.plain)
    }

    fn to_batch(&self, keys: &[Key], weights: Vec<i64>) -> Result<RecordBatch> {
        let mut columns = self.decode(keys.iter())?;
        columns.push(Arc::new(Int64Array::from(weights)));
        RecordBatch::try_new(self.record_schema(), columns).e()
    }

    pub(super) fn freeze_state(&mut self) -> Result<Vec<SlotDelta>> {
        let dirty: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
        self.frozen += dirty.len();
        let replaces = self.dump_all || (self.frozen > FULL_DUMP_ROWS_MIN && self.frozen > 2 * self.entries);
        let mut batches = Vec::new();
        if replaces {
            self.dump_all = false;
            self.frozen = 0;
            let mut all = self.partitions.iter().flat_map(|p| p.rows.iter()).peekable();
            while all.peek().is_some() {
                let some = all.by_ref().take(FULL_DUMP_ROWS_MIN);
                let (keys, weights): (Vec<Key>, Vec<i64>) = some.map(|((_, key), w)| (key.clone(), *w)).unzip();
                batches.push(self.to_batch(&keys, weights)?);
            }
        } else {
            for keys in dirty.chunks(FULL_DUMP_ROWS_MIN) {
                let plain = self.decode(keys.iter())?;
                let times = self.times(&plain)?;
                let partitions = self.partition_bytes(&plain, keys.len())?;
                let weight = |(i, key): (usize, &Key)| {
                    let slot = self.slots.get(&partitions[i])?;
                    self.partitions[*slot as usize].rows.get(&(times.value(i), key.clone())).copied()
                };
                let weights = keys.iter().enumerate().map(|k| weight(k).unwrap_or(0)).collect();
                batches.push(self.to_batch(keys, weights)?);
            }
        }
        Ok(vec![SlotDelta { slot: ROWS.into(), replaces, batches }])
    }

    pub(super) fn restore_state(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        if slot != ROWS {
            return Err(Error::internal(format!("a session operator has no state slot \"{slot}\"")));
        }
        let schema = self.record_schema();
        let fits = batch.num_columns() == schema.fields().len()
            && schema.fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type());
        if !fits {
            return Err(damaged());
        }
        let keys: Vec<ArrayRef> = self.partition.iter().map(|p| batch.column(*p).clone()).collect();
        let own: BooleanArray = match keys.is_empty() {
            true => vec![self.shard.index == 0; batch.num_rows()].into(),
            false => hash_rows(&keys, batch.num_rows()).into_iter().map(|h| Some(self.shard.owns(h))).collect(),
        };
        self.dump_all |= own.true_count() < batch.num_rows();
        let batch = arrow::compute::filter_record_batch(batch, &own).e()?;
        let plain = &batch.columns()[..self.plain.fields().len()];
        let times = self.times(plain)?;
        let rows = self.rows.convert_columns(plain).e()?;
        let partitions = self.partition_bytes(plain, batch.num_rows())?;
        let weights = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
        for (i, partition) in partitions.into_iter().enumerate() {
            self.frozen += 1;
            let slot = self.slot_of(partition) as usize;
            let (key, weight) = (Key::from(rows.row(i).data()), weights.value(i));
            let length = key.len();
            let place = (times.value(i), key);
            let before = match weight {
                0 => self.partitions[slot].rows.remove(&place),
                w => self.partitions[slot].rows.insert(place, w),
            };
            match (before.is_some(), weight != 0) {
                (false, true) => {
                    self.entries += 1;
                    self.bytes += length;
                }
                (true, false) => {
                    self.entries -= 1;
                    self.bytes -= length;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sessions of the rows that are there.
    pub(super) fn restored_state(&mut self) {
        let all: Vec<u32> = (0..self.partitions.len() as u32).collect();
        for slot in &all {
            let p = &mut self.partitions[*slot as usize];
            let times = p.rows.iter().filter(|(_, w)| **w > 0).map(|((t, _), _)| *t);
            p.sessions = sessions(times, self.gap).into_iter().collect();
            self.note_closing(*slot);
        }
        self.remove_empty(&all);
    }
}
