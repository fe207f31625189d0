//! Frozen form.
//!
//! | slot | columns |
//! |---|---|
//! | `rows` | the row; `__weight` |
//! | `out` | partition columns; `__at`; `__is_row`; the row of the result |
//! | `from` | partition columns; rows that are forgotten; rows and matches that are settled, rows of these matches |
//! | `err` | partition columns; `code`, `message`, `row` |
//!
//! Weight 0 says that a row is gone; the last record of equal rows is in force. A record of `out` that is no row takes away
//! all rows of the result whose match begins at `__at` or later, and those after it are added. Of matches that are settled
//! there may be rows of the result still; they count no more. The last record of `from` of a partition is in force; without
//! one, nothing of it is forgotten. Boundaries are not stored: the first change of a partition after a restart is felt from
//! its first row on.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use millstream_sql::matching::Resume;

use super::{Entry, Key, MatchOp};
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::SlotDelta;
use crate::ops::partitioned::{check, damaged};
use crate::state::keyed::code::plain_type;
use crate::zset::WEIGHT_COLUMN;

const ROWS: &str = "rows";
const OUT: &str = "out";
const FROM: &str = "from";
const ERRORS: &str = "err";
/// Columns of `from` behind those of the partition.
const FROM_COLUMNS: [&str; 4] = ["__base", "__row", "__matches", "__covered"];
const AT_COLUMN: &str = "__at";
const IS_ROW_COLUMN: &str = "__is_row";
/// Below this many frozen records a full dump is never worth it.
const FULL_DUMP_MIN: usize = 64 * 1024;

/// Records of `out` to be written.
#[derive(Default)]
struct Given {
    keys: Vec<Box<[u8]>>,
    at: Vec<i64>,
    rows: Vec<Option<Box<[u8]>>>,
}

impl MatchOp {
    fn row_schema(&self) -> SchemaRef {
        let weight = Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int64, false));
        Arc::new(Schema::new(self.layout.plain.fields().iter().cloned().chain([weight]).collect::<Vec<_>>()))
    }

    fn out_schema(&self) -> SchemaRef {
        let mut fields = self.layout.key_fields();
        fields.push(Field::new(AT_COLUMN, DataType::Int64, false));
        fields.push(Field::new(IS_ROW_COLUMN, DataType::Boolean, false));
        let outputs = self.output_schema.fields().iter().enumerate();
        fields.extend(outputs.map(|(i, f)| Field::new(format!("o{i}"), plain_type(f.data_type()), true)));
        Arc::new(Schema::new(fields))
    }

    pub(super) fn freeze_state(&mut self) -> Result<Vec<SlotDelta>> {
        let dump_all = std::mem::take(&mut self.dump_all);
        // Partitions that only waited for their output to be written are gone after it.
        let mut out = vec![self.freeze_rows(dump_all)?, self.freeze_given(dump_all)?, self.freeze_resumes(dump_all)?];
        let partitions = &self.partitions;
        let failures = self.failing.freeze(&self.layout, dump_all, |s| &partitions[s as usize].key)?;
        out.extend(failures.map(|b| SlotDelta { slot: ERRORS.into(), replaces: true, batches: vec![b] }));
        Ok(out)
    }

    fn freeze_rows(&mut self, dump_all: bool) -> Result<SlotDelta> {
        let dirty: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
        self.frozen_rows += dirty.len();
        let replaces = dump_all || (self.frozen_rows > FULL_DUMP_MIN && self.frozen_rows > 2 * self.entries);
        let mut records: Vec<(Key, i64)> = Vec::new();
        if replaces {
            self.frozen_rows = self.entries;
            let all = self.partitions.iter().flat_map(|p| p.rows.iter());
            records.extend(all.map(|e| (e.key.clone(), e.weight)));
        } else {
            let plain = self.layout.decode(dirty.iter())?;
            let partitions = self.layout.partition_bytes(&plain, dirty.len())?;
            for (key, partition) in dirty.into_iter().zip(&partitions) {
                let rows = self.slots.get(partition).map(|s| &self.partitions[*s as usize].rows);
                let entry = rows.and_then(|r| r.find(&key).ok().and_then(|place| r.at(place)));
                let weight = entry.map_or(0, |e| e.weight);
                records.push((key, weight));
            }
        }
        let batch = |records: &[(Key, i64)]| -> Result<RecordBatch> {
            let mut columns = self.layout.decode(records.iter().map(|r| &r.0))?;
            columns.push(Arc::new(records.iter().map(|r| r.1).collect::<Int64Array>()));
            RecordBatch::try_new(self.row_schema(), columns).e()
        };
        let batches = records.chunks(FULL_DUMP_MIN).map(batch).collect::<Result<_>>()?;
        Ok(SlotDelta { slot: ROWS.into(), replaces, batches })
    }

    fn freeze_given(&mut self, dump_all: bool) -> Result<SlotDelta> {
        let mut redone: Vec<u32> = std::mem::take(&mut self.redone).into_iter().collect();
        redone.sort_unstable();
        let of = |op: &Self, slot: u32, from: u64, records: &mut Given| {
            let p = &op.partitions[slot as usize];
            records.keys.push(p.key.clone());
            records.at.push(i64::try_from(from).unwrap_or(i64::MAX));
            records.rows.push(None);
            for (at, row) in &p.given[p.given.partition_point(|g| g.0 < from)..] {
                records.keys.push(p.key.clone());
                records.at.push(i64::try_from(*at).unwrap_or(i64::MAX));
                records.rows.push(Some(row.clone()));
            }
        };
        let mut records = Given::default();
        let changed: Vec<(u32, u64)> =
            redone.iter().filter_map(|s| self.partitions[*s as usize].changed.take().map(|from| (*s, from))).collect();
        for (slot, from) in &changed {
            of(self, *slot, *from, &mut records);
            let p = &mut self.partitions[*slot as usize];
            p.stored = p.given.last().map_or(p.stored.min(*from), |g| g.0 + 1);
        }
        self.frozen_given += records.keys.len();
        let replaces = dump_all || (self.frozen_given > FULL_DUMP_MIN && self.frozen_given > 2 * self.given);
        if replaces {
            records = Given::default();
            for slot in 0..self.partitions.len() as u32 {
                if !self.partitions[slot as usize].given.is_empty() {
                    of(self, slot, 0, &mut records);
                }
                let p = &mut self.partitions[slot as usize];
                p.stored = p.given.last().map_or(0, |g| g.0 + 1);
            }
            self.frozen_given = records.keys.len();
        }
        // Partitions without rows have only waited for this.
        self.remove_empty(&redone);
        let mut batches = Vec::new();
        for from in (0..records.keys.len()).step_by(FULL_DUMP_MIN) {
            let to = (from + FULL_DUMP_MIN).min(records.keys.len());
            batches.push(self.given_batch(&records, from, to)?);
        }
        Ok(SlotDelta { slot: OUT.into(), replaces, batches })
    }

    fn given_batch(&self, records: &Given, from: usize, to: usize) -> Result<RecordBatch> {
        let mut columns = self.layout.decode_keys(records.keys[from..to].iter().map(AsRef::as_ref))?;
        columns.push(Arc::new(Int64Array::from(records.at[from..to].to_vec())));
        let rows = &records.rows[from..to];
        columns.push(Arc::new(rows.iter().map(|r| Some(r.is_some())).collect::<BooleanArray>()));
        let mut found = 0;
        let picks: UInt32Array = rows
            .iter()
            .map(|r| {
                r.as_ref().map(|_| {
                    found += 1;
                    found - 1
                })
            })
            .collect();
        for c in self.decode_output(rows.iter().flatten().map(|r| r.as_ref()))? {
            columns.push(match c.is_empty() {
                true => arrow::array::new_null_array(c.data_type(), picks.len()),
                false => arrow::compute::take(&c, &picks, None).e()?,
            });
        }
        RecordBatch::try_new(self.out_schema(), columns).e()
    }

    fn resume_schema(&self) -> SchemaRef {
        let numbers = FROM_COLUMNS.map(|n| Field::new(n, DataType::Int64, false));
        Arc::new(Schema::new(self.layout.key_fields().into_iter().chain(numbers).collect::<Vec<_>>()))
    }

    fn freeze_resumes(&mut self, dump_all: bool) -> Result<SlotDelta> {
        let mut moved: Vec<u32> = std::mem::take(&mut self.moved).into_iter().collect();
        // Those that are gone come first: one of the same key may be there again.
        let gone = std::mem::take(&mut self.gone);
        self.frozen_resumes += moved.len() + gone.len();
        let replaces =
            dump_all || (self.frozen_resumes > FULL_DUMP_MIN && self.frozen_resumes > 2 * self.partitions.len());
        let mut records: Vec<(Box<[u8]>, [u64; 4])> = Vec::new();
        if replaces {
            moved = self.live().into_iter().filter(|s| self.partitions[*s as usize].resume.row > 0).collect();
            self.frozen_resumes = moved.len();
        } else {
            moved.sort_unstable();
            records.extend(gone.into_iter().map(|key| (key, [0; 4])));
        }
        for slot in moved {
            let p = &mut self.partitions[slot as usize];
            p.noted = true;
            records.push((p.key.clone(), [p.base, p.resume.row, p.resume.matches, p.resume.covered]));
        }
        let batch = |records: &[(Box<[u8]>, [u64; 4])]| -> Result<RecordBatch> {
            let mut columns = self.layout.decode_keys(records.iter().map(|r| r.0.as_ref()))?;
            let column = |i: usize| -> ArrayRef {
                let numbers = records.iter().map(|r| i64::try_from(r.1[i]).unwrap_or(i64::MAX));
                Arc::new(numbers.collect::<Int64Array>())
            };
            columns.extend((0..FROM_COLUMNS.len()).map(column));
            RecordBatch::try_new(self.resume_schema(), columns).e()
        };
        let batches = records.chunks(FULL_DUMP_MIN).map(batch).collect::<Result<_>>()?;
        Ok(SlotDelta { slot: FROM.into(), replaces, batches })
    }

    pub(super) fn restore_state(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        match slot {
            ROWS => self.restore_rows(batch),
            OUT => self.restore_given(batch),
            FROM => self.restore_resumes(batch),
            ERRORS => self.restore_failures(batch),
            other => Err(Error::internal(format!("MATCH_RECOGNIZE has no state slot \"{other}\""))),
        }
    }

    /// The records of this shard, by their partition columns.
    fn own(&mut self, batch: &RecordBatch, keys: &[ArrayRef]) -> Result<RecordBatch> {
        let (own, others) = self.layout.own(batch, keys)?;
        self.dump_all |= others;
        Ok(own)
    }

    fn restore_rows(&mut self, batch: &RecordBatch) -> Result<()> {
        check(&self.row_schema(), batch)?;
        let keys: Vec<ArrayRef> = self.layout.partition.iter().map(|p| batch.column(*p).clone()).collect();
        let batch = self.own(batch, &keys)?;
        let n = batch.num_rows();
        let width = self.layout.plain.fields().len();
        let plain = &batch.columns()[..width];
        let weights = batch.column(width).as_primitive::<Int64Type>();
        let rows = self.layout.encode(plain, n)?;
        let partitions = self.layout.partition_bytes(plain, n)?;
        self.frozen_rows += n;
        for (i, ((key, order), partition)) in rows.into_iter().zip(partitions).enumerate() {
            let slot = self.slot_of(partition);
            let rows = &mut self.partitions[slot as usize].rows;
            let place = match rows.find(&key) {
                Ok(place) => {
                    rows.remove(place);
                    self.bytes -= key.len();
                    self.entries -= 1;
                    // Its place may have moved into another chunk.
                    rows.find(&key).unwrap_or_else(|p| p)
                }
                Err(place) => place,
            };
            let weight = weights.value(i);
            if weight != 0 {
                self.bytes += key.len();
                self.entries += 1;
                rows.insert(place, Entry { key, order, weight, results: Vec::new() });
            }
        }
        Ok(())
    }

    fn restore_given(&mut self, batch: &RecordBatch) -> Result<()> {
        check(&self.out_schema(), batch)?;
        let width = self.layout.partition.len();
        let batch = self.own(batch, &batch.columns()[..width])?;
        let n = batch.num_rows();
        let keys = self.layout.key_bytes(&batch.columns()[..width], n)?;
        let at = batch.column(width).as_primitive::<Int64Type>();
        let is_row = batch.column(width + 1).as_boolean();
        let rows = self.outputs.convert_columns(&batch.columns()[width + 2..]).e()?;
        self.frozen_given += n;
        for (i, key) in keys.into_iter().enumerate() {
            let slot = self.slot_of(key);
            let p = &mut self.partitions[slot as usize];
            let at = u64::try_from(at.value(i)).map_err(|_| damaged())?;
            if is_row.value(i) {
                let row: Box<[u8]> = Box::from(rows.row(i).data());
                self.given += 1;
                self.bytes += row.len();
                p.given.push((at, row));
            } else {
                let gone = p.given.split_off(p.given.partition_point(|g| g.0 < at));
                self.given -= gone.len();
                self.bytes -= gone.iter().map(|g| g.1.len()).sum::<usize>();
            }
        }
        Ok(())
    }

    fn restore_resumes(&mut self, batch: &RecordBatch) -> Result<()> {
        check(&self.resume_schema(), batch)?;
        let width = self.layout.partition.len();
        let batch = self.own(batch, &batch.columns()[..width])?;
        let n = batch.num_rows();
        let keys = self.layout.key_bytes(&batch.columns()[..width], n)?;
        self.frozen_resumes += n;
        for (i, key) in keys.into_iter().enumerate() {
            let number = |column: usize| -> Result<u64> {
                let column = batch.column(width + column).as_primitive::<Int64Type>();
                u64::try_from(column.value(i)).map_err(|_| damaged())
            };
            let resume = Resume { row: number(1)?, matches: number(2)?, covered: number(3)?, expires: None };
            let base = number(0)?;
            if base > resume.row {
                return Err(damaged());
            }
            let slot = self.slot_of(key);
            let p = &mut self.partitions[slot as usize];
            (p.base, p.resume, p.stop, p.noted) = (base, resume, resume, resume.row > 0);
        }
        Ok(())
    }

    fn restore_failures(&mut self, batch: &RecordBatch) -> Result<()> {
        for (key, failure) in self.failing.read(&self.layout, batch)? {
            let slot = self.slot_of(key);
            self.failing.restore(slot, failure);
        }
        Ok(())
    }

    /// Everything is read: matches that are settled go, and the next tick sees how far time is.
    pub(super) fn restored_state(&mut self) {
        let all = self.live();
        for slot in &all {
            let p = &mut self.partitions[*slot as usize];
            p.stored = p.given.last().map_or(0, |g| g.0 + 1);
            let settled = p.given.partition_point(|g| g.0 < p.resume.row);
            self.given -= settled;
            self.bytes -= p.given.drain(..settled).map(|g| g.1.len()).sum::<usize>();
        }
        self.waking = true;
        self.remove_empty(&all);
    }
}
