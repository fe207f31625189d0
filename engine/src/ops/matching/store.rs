//! Frozen form.
//!
//! | slot | columns |
//! |---|---|
//! | `rows` | the row; `__weight` |
//! | `out` | partition columns; `__at`; `__is_row`; the row of the result |
//! | `err` | partition columns; `code`, `message`, `row` |
//!
//! Weight 0 says that a row is gone; the last record of equal rows is in force. A record of `out` that is no row takes away
//! all rows of the result whose match begins at `__at` or later, and those after it are added. Boundaries are not stored:
//! the first change of a partition after a restart is felt from its first row on.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};

use super::{Entry, Failure, Key, MatchOp};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::hash::hash_rows;
use crate::ops::SlotDelta;
use crate::state::keyed::code::plain_type;
use crate::state::rows::DecodeRows as _;
use crate::zset::WEIGHT_COLUMN;

const ROWS: &str = "rows";
const OUT: &str = "out";
const ERRORS: &str = "err";
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

fn damaged() -> Error {
    Error::new(SqlState::DATA_CORRUPTED, "stored state does not have the columns of this operator")
}

fn check(schema: &Schema, batch: &RecordBatch) -> Result<()> {
    let fits = batch.num_columns() == schema.fields().len()
        && schema.fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type());
    if fits { Ok(()) } else { Err(damaged()) }
}

impl MatchOp {
    fn row_schema(&self) -> SchemaRef {
        let weight = Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int64, false));
        Arc::new(Schema::new(self.plain.fields().iter().cloned().chain([weight]).collect::<Vec<_>>()))
    }

    fn key_fields(&self) -> Vec<Field> {
        let types = self.partition.iter().map(|p| self.plain.field(*p).data_type().clone());
        types.enumerate().map(|(i, t)| Field::new(format!("k{i}"), t, true)).collect()
    }

    fn out_schema(&self) -> SchemaRef {
        let mut fields = self.key_fields();
        fields.push(Field::new(AT_COLUMN, DataType::Int64, false));
        fields.push(Field::new(IS_ROW_COLUMN, DataType::Boolean, false));
        let outputs = self.output_schema.fields().iter().enumerate();
        fields.extend(outputs.map(|(i, f)| Field::new(format!("o{i}"), plain_type(f.data_type()), true)));
        Arc::new(Schema::new(fields))
    }

    pub(super) fn freeze_state(&mut self) -> Result<Vec<SlotDelta>> {
        let dump_all = std::mem::take(&mut self.dump_all);
        let mut out = vec![self.freeze_rows(dump_all)?, self.freeze_given(dump_all)?];
        if std::mem::take(&mut self.failing_changed) || dump_all {
            out.push(SlotDelta { slot: ERRORS.into(), replaces: true, batches: vec![self.failures()?] });
        }
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
            let plain = self.decode(dirty.iter())?;
            let partitions = self.partition_bytes(&plain, dirty.len())?;
            for (key, partition) in dirty.into_iter().zip(&partitions) {
                let rows = self.slots.get(partition).map(|s| &self.partitions[*s as usize].rows);
                let entry = rows.and_then(|r| r.find(&key).ok().and_then(|place| r.at(place)));
                let weight = entry.map_or(0, |e| e.weight);
                records.push((key, weight));
            }
        }
        let batch = |records: &[(Key, i64)]| -> Result<RecordBatch> {
            let mut columns = self.decode(records.iter().map(|r| &r.0))?;
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
        }
        self.frozen_given += records.keys.len();
        let replaces = dump_all || (self.frozen_given > FULL_DUMP_MIN && self.frozen_given > 2 * self.given);
        if replaces {
            records = Given::default();
            for slot in 0..self.partitions.len() as u32 {
                if !self.partitions[slot as usize].given.is_empty() {
                    of(self, slot, 0, &mut records);
                }
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
        let mut columns: Vec<ArrayRef> = Vec::new();
        if let Some(converter) = &self.keys {
            let parser = converter.parser();
            columns = converter.decode_rows(records.keys[from..to].iter().map(|k| parser.parse(k)))?;
        }
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

    fn failures(&self) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = Vec::new();
        if let Some(converter) = &self.keys {
            let parser = converter.parser();
            let keys = self.failing.keys().map(|s| parser.parse(&self.partitions[*s as usize].key));
            columns = converter.decode_rows(keys)?;
        }
        let mut fields = self.key_fields();
        let text = |f: fn(&Failure) -> &str| -> ArrayRef {
            Arc::new(self.failing.values().map(|v| Some(f(v))).collect::<StringArray>())
        };
        columns.extend([text(|f| &f.code), text(|f| &f.message), text(|f| &f.row)]);
        fields.extend(["code", "message", "row"].map(|n| Field::new(n, DataType::Utf8, false)));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).e()
    }

    pub(super) fn restore_state(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        match slot {
            ROWS => self.restore_rows(batch),
            OUT => self.restore_given(batch),
            ERRORS => self.restore_failures(batch),
            other => Err(Error::internal(format!("MATCH_RECOGNIZE has no state slot \"{other}\""))),
        }
    }

    /// The records of this shard, by their partition columns.
    fn own(&mut self, batch: &RecordBatch, keys: &[ArrayRef]) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let own: BooleanArray = if keys.is_empty() {
            vec![self.shard.index == 0; rows].into()
        } else {
            hash_rows(keys, rows).into_iter().map(|h| Some(self.shard.owns(h))).collect()
        };
        self.dump_all |= own.true_count() < rows;
        arrow::compute::filter_record_batch(batch, &own).e()
    }

    fn restore_rows(&mut self, batch: &RecordBatch) -> Result<()> {
        check(&self.row_schema(), batch)?;
        let keys: Vec<ArrayRef> = self.partition.iter().map(|p| batch.column(*p).clone()).collect();
        let batch = self.own(batch, &keys)?;
        let n = batch.num_rows();
        let width = self.plain.fields().len();
        let plain = &batch.columns()[..width];
        let weights = batch.column(width).as_primitive::<Int64Type>();
        let rows = self.encode(plain, n)?;
        let partitions = self.partition_bytes(plain, n)?;
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
        let width = self.partition.len();
        let batch = self.own(batch, &batch.columns()[..width])?;
        let n = batch.num_rows();
        let keys = self.key_bytes(&batch.columns()[..width], n)?;
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

    /// Partition columns as bytes.
    fn key_bytes(&self, keys: &[ArrayRef], rows: usize) -> Result<Vec<Box<[u8]>>> {
        let Some(converter) = &self.keys else { return Ok(vec![Box::from([0u8].as_slice()); rows]) };
        let bytes = converter.convert_columns(&millstream_sql::matching::partition_columns(keys)).e()?;
        Ok((0..rows).map(|i| Box::from(bytes.row(i).data())).collect())
    }

    fn restore_failures(&mut self, batch: &RecordBatch) -> Result<()> {
        let width = self.partition.len();
        if batch.num_columns() != width + 3 {
            return Err(damaged());
        }
        let batch = self.own(batch, &batch.columns()[..width])?;
        let texts: Option<Vec<&StringArray>> =
            batch.columns().iter().skip(width).map(|c| c.as_string_opt::<i32>()).collect();
        let Some([code, message, row]) = texts.as_deref() else { return Err(damaged()) };
        for (i, key) in self.key_bytes(&batch.columns()[..width], batch.num_rows())?.into_iter().enumerate() {
            let slot = self.slot_of(key);
            let failure = Failure {
                code: code.value(i).to_owned(),
                message: message.value(i).to_owned(),
                row: row.value(i).to_owned(),
            };
            self.failing.insert(slot, failure);
        }
        Ok(())
    }
}
