//! Frozen form.
//!
//! | slot | columns |
//! |---|---|
//! | `rows` | the row; its results; `__at`; `__weight` |
//! | `err` | partition columns; `code`, `message`, `row` |
//!
//! A row has one record for each of its copies, in order: `__at` counts them from 0. Without results `__at` is -1, and
//! there is one record for the row. Weight 0 says that the row is gone. The last records of equal rows are in force.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::{Entry, Key, OverOp};
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::SlotDelta;
use crate::ops::partitioned::{check, damaged};
use crate::zset::WEIGHT_COLUMN;

const ROWS: &str = "rows";
const ERRORS: &str = "err";
const COPY_COLUMN: &str = "__at";
/// Below this many frozen rows a full dump is never worth it.
const FULL_DUMP_ROWS_MIN: usize = 64 * 1024;

/// Records to be written.
#[derive(Default)]
struct Records {
    keys: Vec<Key>,
    results: Vec<Option<Box<[u8]>>>,
    at: Vec<i64>,
    weights: Vec<i64>,
}

impl Records {
    fn push(&mut self, key: &Key, entry: Option<&Entry>) {
        let weight = entry.map_or(0, |e| e.weight);
        let results = entry.map_or(&[][..], |e| &e.results);
        if results.is_empty() || results.iter().any(|r| r.is_empty()) {
            self.one(key, None, -1, weight);
            return;
        }
        for (i, r) in results.iter().enumerate() {
            self.one(key, Some(r.clone()), i as i64, weight);
        }
    }
    fn one(&mut self, key: &Key, result: Option<Box<[u8]>>, at: i64, weight: i64) {
        self.keys.push(key.clone());
        self.results.push(result);
        self.at.push(at);
        self.weights.push(weight);
    }
}

impl OverOp {
    fn record_schema(&self) -> Schema {
        let mut fields: Vec<Field> = self.layout.plain.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(
            self.computer.types().iter().enumerate().map(|(i, t)| Field::new(format!("w{i}"), t.clone(), true)),
        );
        fields.extend([COPY_COLUMN, WEIGHT_COLUMN].map(|n| Field::new(n, DataType::Int64, false)));
        Schema::new(fields)
    }

    fn to_batch(&self, records: Records) -> Result<RecordBatch> {
        let mut columns = self.layout.decode(records.keys.iter())?;
        let mut found = 0;
        let picks: UInt32Array = records
            .results
            .iter()
            .map(|r| {
                r.as_ref().map(|_| {
                    found += 1;
                    found - 1
                })
            })
            .collect();
        for c in self.computer.decode(records.results.iter().flatten().map(|r| r.as_ref()))? {
            columns.push(match c.is_empty() {
                true => arrow::array::new_null_array(c.data_type(), picks.len()),
                false => arrow::compute::take(&c, &picks, None).e()?,
            });
        }
        columns.push(Arc::new(Int64Array::from(records.at)));
        columns.push(Arc::new(Int64Array::from(records.weights)));
        RecordBatch::try_new(Arc::new(self.record_schema()), columns).e()
    }

    pub(super) fn freeze_state(&mut self) -> Result<Vec<SlotDelta>> {
        let dirty: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
        self.frozen += dirty.len();
        let replaces = self.dump_all || (self.frozen > FULL_DUMP_ROWS_MIN && self.frozen > 2 * self.entries);
        let mut batches = Vec::new();
        let mut records = Records::default();
        if replaces {
            self.dump_all = false;
            self.frozen = 0;
            for e in self.partitions.iter().flat_map(|p| p.rows.iter()) {
                records.push(&e.key, Some(e));
                if records.keys.len() >= FULL_DUMP_ROWS_MIN {
                    batches.push(self.to_batch(std::mem::take(&mut records))?);
                }
            }
        } else {
            for keys in dirty.chunks(FULL_DUMP_ROWS_MIN) {
                let plain = self.layout.decode(keys.iter())?;
                let partitions = self.layout.partition_bytes(&plain, keys.len())?;
                for (key, partition) in keys.iter().zip(&partitions) {
                    let rows = self.slots.get(partition).map(|s| &self.partitions[*s as usize].rows);
                    let entry = rows.and_then(|r| r.find(key).ok().and_then(|place| r.at(place)));
                    records.push(key, entry);
                }
                batches.push(self.to_batch(std::mem::take(&mut records))?);
            }
        }
        if !records.keys.is_empty() {
            batches.push(self.to_batch(records)?);
        }
        let mut out = vec![SlotDelta { slot: ROWS.into(), replaces, batches }];
        let partitions = &self.partitions;
        let failures = self.failing.freeze(&self.layout, false, |s| &partitions[s as usize].key)?;
        out.extend(failures.map(|b| SlotDelta { slot: ERRORS.into(), replaces: true, batches: vec![b] }));
        Ok(out)
    }

    pub(super) fn restore_state(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        match slot {
            ROWS => self.restore_rows(batch),
            ERRORS => self.restore_failures(batch),
            other => Err(Error::internal(format!("a window operator has no state slot \"{other}\""))),
        }
    }

    fn restore_rows(&mut self, batch: &RecordBatch) -> Result<()> {
        check(&self.record_schema(), batch)?;
        let keys: Vec<ArrayRef> = self.layout.partition.iter().map(|p| batch.column(*p).clone()).collect();
        let (batch, others) = self.layout.own(batch, &keys)?;
        self.dump_all |= others;
        let n = batch.num_rows();
        let width = self.layout.plain.fields().len();
        let plain = &batch.columns()[..width];
        let results = self.computer.encode(&batch.columns()[width..batch.num_columns() - 2])?;
        let at = batch.column(batch.num_columns() - 2).as_primitive::<Int64Type>();
        let weights = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
        let rows = self.layout.encode(plain, n)?;
        let partitions = self.layout.partition_bytes(plain, n)?;
        for (i, ((key, order), partition)) in rows.into_iter().zip(partitions).enumerate() {
            let slot = self.slot_of(partition);
            let rows = &mut self.partitions[slot as usize].rows;
            let (at, weight) = (at.value(i), weights.value(i));
            if at > 0 {
                let place = rows.find(&key).map_err(|_| damaged())?;
                let result = rows.results_mut(place).and_then(|r| r.get_mut(at as usize)).ok_or_else(damaged)?;
                *result = results[i].clone();
                continue;
            }
            self.frozen += 1;
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
            if weight == 0 {
                continue;
            }
            let mut of_copies = vec![Box::default(); usize::try_from(weight).unwrap_or(0)];
            if at == 0
                && let Some(first) = of_copies.first_mut()
            {
                *first = results[i].clone();
            }
            self.bytes += key.len();
            self.entries += 1;
            rows.insert(place, Entry { key, order, weight, results: of_copies });
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
}
