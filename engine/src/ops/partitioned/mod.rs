//! What operators have in common that keep the rows of partitions in order: rows as bytes, and partitions that fail.

#[cfg(test)]
pub(in crate::ops) mod harness;
pub(in crate::ops) mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use millstream_sql::plan::SortColumn;

use self::rows::Key;
use super::eval::RowText;
use super::{ErrorSet, Shard};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::hash::hash_rows;
use crate::state::keyed::code::{canonical, plain_type};
use crate::state::rows::DecodeRows as _;

/// The key of the only partition of an operator without partition columns: not empty, as that of a free slot is.
const WHOLE: [u8; 1] = [0];

/// Columns of a schema without encodings such as dictionaries.
pub(in crate::ops) fn unencoded(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| Field::new(f.name(), plain_type(f.data_type()), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The error of stored state that is not what was written.
pub(in crate::ops) fn damaged() -> Error {
    Error::new(SqlState::DATA_CORRUPTED, "stored state does not have the columns of this operator")
}

/// Refuses a stored batch with other columns than these.
pub(in crate::ops) fn check(schema: &Schema, batch: &RecordBatch) -> Result<()> {
    let fits = batch.num_columns() == schema.fields().len()
        && schema.fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type());
    if fits { Ok(()) } else { Err(damaged()) }
}

/// Rows of an input as bytes whose order is that of ORDER BY, then of all columns; and their partitions.
pub(in crate::ops) struct Layout {
    /// Columns of the input, without encodings such as dictionaries.
    pub(in crate::ops) plain: SchemaRef,
    /// PARTITION BY.
    pub(in crate::ops) partition: Vec<usize>,
    /// ORDER BY.
    pub(in crate::ops) order: Vec<SortColumn>,
    /// The shard whose partitions these are.
    pub(in crate::ops) shard: Shard,
    /// Order, then row.
    rows: RowConverter,
    /// Order alone.
    orders: Option<RowConverter>,
    /// Partition columns.
    keys: Option<RowConverter>,
}

impl Layout {
    /// `what` is done with the rows, for errors.
    pub(in crate::ops) fn new(
        input: &Schema,
        partition: Vec<usize>,
        order: Vec<SortColumn>,
        shard: Shard,
        what: &str,
    ) -> Result<Self> {
        let width = input.fields().len();
        let outside = partition.iter().copied().chain(order.iter().map(|o| o.column)).find(|c| *c >= width);
        if let Some(c) = outside {
            return Err(Error::internal(format!("{what} over column {c} of {width}")));
        }
        let plain = unencoded(input);
        let ordered: Vec<SortField> = order.iter().map(|o| sort_field(&plain, o)).collect();
        let whole = ordered.iter().cloned().chain(plain.fields().iter().map(|f| SortField::new(f.data_type().clone())));
        let whole: Vec<SortField> = whole.collect();
        if !RowConverter::supports_fields(&whole) {
            return Err(Error::unsupported(format!("{what} over rows of a type that has no order")));
        }
        let converter = |fields: Vec<SortField>| -> Result<Option<RowConverter>> {
            if fields.is_empty() { Ok(None) } else { RowConverter::new(fields).map(Some).e() }
        };
        let of_keys = partition.iter().map(|p| SortField::new(plain.field(*p).data_type().clone())).collect();
        Ok(Self {
            rows: RowConverter::new(whole).e()?,
            orders: converter(ordered)?,
            keys: converter(of_keys)?,
            plain,
            partition,
            order,
            shard,
        })
    }

    /// The converter of the order alone, if there is one.
    pub(in crate::ops) fn orders(&self) -> Option<&RowConverter> {
        self.orders.as_ref()
    }

    /// Columns of the input without encodings.
    pub(in crate::ops) fn plain_columns(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let cast = |(c, f): (&ArrayRef, &Arc<Field>)| match c.data_type() == f.data_type() {
            true => Ok(c.clone()),
            false => arrow::compute::cast(c, f.data_type()).e(),
        };
        columns.iter().zip(self.plain.fields()).map(cast).collect()
    }

    /// Rows as keys, with the bytes of their order.
    pub(in crate::ops) fn encode(&self, plain: &[ArrayRef], rows: usize) -> Result<Vec<(Key, u32)>> {
        let ordered: Vec<ArrayRef> = self.order.iter().map(|o| plain[o.column].clone()).collect();
        let orders = self.orders.as_ref().map(|c| c.convert_columns(&ordered)).transpose().e()?;
        let whole = self.rows.convert_columns(&[ordered, plain.to_vec()].concat()).e()?;
        let order = |i: usize| orders.as_ref().map_or(0, |o| o.row(i).data().len() as u32);
        Ok((0..rows).map(|i| (Key::from(whole.row(i).data()), order(i))).collect())
    }

    /// The (plain) rows of these keys.
    pub(in crate::ops) fn decode<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Result<Vec<ArrayRef>> {
        let parser = self.rows.parser();
        let keys: Vec<&Key> = keys.collect();
        let mut columns = self.rows.decode_rows(keys.iter().map(|k| parser.parse(k)))?;
        Ok(columns.split_off(self.order.len()))
    }

    /// The partition of each row.
    pub(in crate::ops) fn partition_bytes(&self, plain: &[ArrayRef], rows: usize) -> Result<Vec<Box<[u8]>>> {
        let columns: Vec<ArrayRef> = self.partition.iter().map(|p| plain[*p].clone()).collect();
        self.key_bytes(&columns, rows)
    }

    /// Partition columns as bytes.
    pub(in crate::ops) fn key_bytes(&self, keys: &[ArrayRef], rows: usize) -> Result<Vec<Box<[u8]>>> {
        let Some(converter) = &self.keys else { return Ok(vec![Box::from(WHOLE.as_slice()); rows]) };
        let columns = keys.iter().map(canonical).collect::<Result<Vec<ArrayRef>>>()?;
        let keys = converter.convert_columns(&columns).e()?;
        Ok((0..rows).map(|i| Box::from(keys.row(i).data())).collect())
    }

    /// The partition columns of these partitions.
    pub(in crate::ops) fn decode_keys<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Result<Vec<ArrayRef>> {
        let Some(converter) = &self.keys else { return Ok(Vec::new()) };
        let parser = converter.parser();
        converter.decode_rows(keys.map(|k| parser.parse(k)))
    }

    /// Fields of partition columns in stored state.
    pub(in crate::ops) fn key_fields(&self) -> Vec<Field> {
        let types = self.partition.iter().map(|p| self.plain.field(*p).data_type().clone());
        types.enumerate().map(|(i, t)| Field::new(format!("k{i}"), t, true)).collect()
    }

    /// The stored records of this shard, by their partition columns; and whether there are others.
    pub(in crate::ops) fn own(&self, batch: &RecordBatch, keys: &[ArrayRef]) -> Result<(RecordBatch, bool)> {
        let rows = batch.num_rows();
        let own: BooleanArray = if keys.is_empty() {
            vec![self.shard.index == 0; rows].into()
        } else {
            hash_rows(keys, rows).into_iter().map(|h| Some(self.shard.owns(h))).collect()
        };
        let others = own.true_count() < rows;
        Ok((arrow::compute::filter_record_batch(batch, &own).e()?, others))
    }

    /// The values of the partition columns of a row, as errors show them.
    fn partition_text(&self, row: Option<&Key>) -> Result<String> {
        let columns = self.decode(row.into_iter())?;
        let keys: Vec<ArrayRef> = self.partition.iter().map(|p| columns[*p].clone()).collect();
        if row.is_some() && !keys.is_empty() { Ok(RowText::of_columns(&keys)?.row(0)) } else { Ok(String::new()) }
    }
}

/// The order of a column of plain rows.
pub(in crate::ops) fn sort_field(plain: &Schema, by: &SortColumn) -> SortField {
    let options = SortOptions { descending: by.descending, nulls_first: by.nulls_first };
    SortField::new_with_options(plain.field(by.column).data_type().clone(), options)
}

/// Why a partition cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ops) struct Failure {
    code: String,
    message: String,
    row: String,
}

/// Partitions that cannot be computed, each with its entry in the error set.
#[derive(Default)]
pub(in crate::ops) struct Failures {
    of: BTreeMap<u32, Failure>,
    /// Since the last freeze.
    changed: bool,
}

impl Failures {
    pub(in crate::ops) fn contains(&self, slot: u32) -> bool {
        self.of.contains_key(&slot)
    }

    /// Enters a partition, one row of which is given.
    pub(in crate::ops) fn add(
        &mut self,
        layout: &Layout,
        slot: u32,
        row: Option<&Key>,
        error: Error,
        errors: &mut ErrorSet,
    ) -> Result<()> {
        let row = layout.partition_text(row)?;
        errors.add(error.code.0, &error.message, &row, 1);
        self.of.insert(slot, Failure { code: error.code.0.to_owned(), message: error.message, row });
        self.changed = true;
        Ok(())
    }

    /// Takes a partition out, which is then tried again; false if it has not failed.
    pub(in crate::ops) fn heal(&mut self, slot: u32, errors: &mut ErrorSet) -> bool {
        let Some(f) = self.of.remove(&slot) else { return false };
        errors.add(&f.code, &f.message, &f.row, -1);
        self.changed = true;
        true
    }

    /// Forgets a partition; its error stays.
    pub(in crate::ops) fn forget(&mut self, slot: u32) {
        self.changed |= self.of.remove(&slot).is_some();
    }

    /// Partition columns, `code`, `message`, `row`, if they changed since the last time or must be written.
    pub(in crate::ops) fn freeze<'k>(
        &mut self,
        layout: &Layout,
        always: bool,
        key: impl Fn(u32) -> &'k [u8],
    ) -> Result<Option<RecordBatch>> {
        if !std::mem::take(&mut self.changed) && !always {
            return Ok(None);
        }
        let mut columns = layout.decode_keys(self.of.keys().map(|s| key(*s)))?;
        let mut fields = layout.key_fields();
        let text = |f: fn(&Failure) -> &str| -> ArrayRef {
            Arc::new(self.of.values().map(|v| Some(f(v))).collect::<StringArray>())
        };
        columns.extend([text(|f| &f.code), text(|f| &f.message), text(|f| &f.row)]);
        fields.extend(["code", "message", "row"].map(|n| Field::new(n, DataType::Utf8, false)));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).e().map(Some)
    }

    /// Stored failures of this shard, by the key of their partition.
    pub(in crate::ops) fn read(&mut self, layout: &Layout, batch: &RecordBatch) -> Result<Vec<(Box<[u8]>, Failure)>> {
        let width = layout.partition.len();
        if batch.num_columns() != width + 3 {
            return Err(damaged());
        }
        let (batch, others) = layout.own(batch, &batch.columns()[..width])?;
        self.changed |= others;
        let texts: Option<Vec<&StringArray>> =
            batch.columns().iter().skip(width).map(|c| c.as_string_opt::<i32>()).collect();
        let Some([code, message, row]) = texts.as_deref() else { return Err(damaged()) };
        let failure = |i: usize| Failure {
            code: code.value(i).to_owned(),
            message: message.value(i).to_owned(),
            row: row.value(i).to_owned(),
        };
        let keys = layout.key_bytes(&batch.columns()[..width], batch.num_rows())?;
        Ok(keys.into_iter().enumerate().map(|(i, key)| (key, failure(i))).collect())
    }

    /// Takes a stored failure in.
    pub(in crate::ops) fn restore(&mut self, slot: u32, failure: Failure) {
        self.of.insert(slot, failure);
    }
}
