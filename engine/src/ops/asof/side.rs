//! One input of an ASOF join: its rows as bytes, and how many there are.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::{self, SortOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};

use super::Key;
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::eval::OutputSchema;
use crate::state::keyed::code::{canonical, plain_type};
use crate::state::rows::DecodeRows as _;

/// One input.
pub(super) struct Side {
    pub(super) columns: OutputSchema,
    /// Its columns without encodings such as dictionaries.
    pub(super) plain: SchemaRef,
    pub(super) key: Vec<usize>,
    pub(super) time: usize,
    /// The time, then the row.
    pub(super) rows: RowConverter,
    pub(super) times: RowConverter,
    pub(super) live: usize,
    pub(super) bytes: usize,
    /// Rows that differ from what the last freeze left in the store.
    pub(super) dirty: HashSet<Key>,
    pub(super) frozen: usize,
    pub(super) dump_all: bool,
}

impl Side {
    pub(super) fn new(schema: SchemaRef, key: Vec<usize>, time: usize, latest: bool, backwards: bool) -> Result<Self> {
        let columns = schema.fields().len();
        if let Some(c) = key.iter().chain([&time]).find(|c| **c >= columns) {
            return Err(Error::internal(format!("ASOF join over column {c} of {columns}")));
        }
        let plain: Vec<Field> =
            schema.fields().iter().map(|f| Field::new(f.name(), plain_type(f.data_type()), true)).collect();
        let by_time = || {
            let options = SortOptions { descending: !latest, nulls_first: true };
            SortField::new_with_options(plain[time].data_type().clone(), options)
        };
        let mut fields = vec![by_time()];
        let options = SortOptions { descending: backwards, nulls_first: !backwards };
        fields.extend(plain.iter().map(|f| SortField::new_with_options(f.data_type().clone(), options)));
        Ok(Self {
            columns: OutputSchema::new(schema).permissive(),
            rows: RowConverter::new(fields).e()?,
            times: RowConverter::new(vec![by_time()]).e()?,
            plain: Arc::new(Schema::new(plain)),
            key,
            time,
            live: 0,
            bytes: 0,
            dirty: HashSet::new(),
            frozen: 0,
            dump_all: false,
        })
    }

    pub(super) fn plain_columns(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let cast = |(c, f): (&ArrayRef, &Arc<Field>)| {
            if c.data_type() == f.data_type() { Ok(c.clone()) } else { compute::cast(c, f.data_type()).e() }
        };
        columns.iter().zip(self.plain.fields()).map(cast).collect()
    }

    pub(super) fn keys(&self, plain: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        self.key.iter().map(|k| canonical(&plain[*k])).collect()
    }

    /// (bytes of the rows, bytes of their times).
    pub(super) fn encode(&self, plain: &[ArrayRef]) -> Result<(Rows, Rows)> {
        let time = canonical(&plain[self.time])?;
        let times = self.times.convert_columns(std::slice::from_ref(&time)).e()?;
        let columns: Vec<ArrayRef> = std::iter::once(time).chain(plain.iter().cloned()).collect();
        Ok((self.rows.convert_columns(&columns).e()?, times))
    }

    /// The (plain) rows of these keys.
    pub(super) fn decode<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Result<Vec<ArrayRef>> {
        let parser = self.rows.parser();
        let mut columns = self.rows.decode_rows(keys.map(|k| parser.parse(k)))?;
        Ok(columns.split_off(1))
    }

    /// Rows without NULL in key and time, where there are others.
    pub(super) fn valid(&self, rows: &RecordBatch) -> Option<NullBuffer> {
        let nulls = self
            .key
            .iter()
            .chain([&self.time])
            .fold(None, |nulls, c| NullBuffer::union(nulls.as_ref(), rows.column(*c).logical_nulls().as_ref()));
        nulls.filter(|n| n.null_count() > 0)
    }

    /// A row is gone. In the store it has to go only if it is there.
    pub(super) fn removed(&mut self, key: Key, stored: bool) {
        self.live -= 1;
        self.bytes -= key.len();
        match stored {
            true => self.dirty.insert(key),
            false => self.dirty.remove(&key),
        };
    }
}
