//! Sets of group keys, compared as SQL compares them: -0.0 = 0.0, NaN = NaN, NULL = NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float16Array, Float32Array};
use arrow::compute;
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result, ResultExt as _};
use crate::state::rows::DecodeRows as _;

/// Encodes keys of given types as comparable bytes.
pub(super) struct KeyCodec {
    types: Vec<DataType>,
    converter: RowConverter,
}

impl KeyCodec {
    pub(super) fn new(types: Vec<DataType>) -> Result<Self> {
        let fields: Vec<SortField> = types.iter().cloned().map(SortField::new).collect();
        if !RowConverter::supports_fields(&fields) {
            return Err(Error::unsupported(format!("rows of these types cannot be ordered: {types:?}")));
        }
        Ok(Self { types, converter: RowConverter::new(fields).e()? })
    }

    pub(super) fn types(&self) -> &[DataType] {
        &self.types
    }

    /// Keys that SQL calls equal have equal bytes; the bytes are those of one of the equal values.
    pub(super) fn encode(&self, columns: &[ArrayRef]) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.cast(columns)?.into_iter().map(canonical_floats).collect();
        self.converter.convert_columns(&columns).e()
    }

    /// Only rows that are the same bit for bit have equal bytes.
    pub(super) fn encode_bitwise(&self, columns: &[ArrayRef]) -> Result<Rows> {
        self.converter.convert_columns(&self.cast(columns)?).e()
    }

    fn cast(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        columns
            .iter()
            .zip(&self.types)
            .map(|(c, t)| if c.data_type() == t { Ok(Arc::clone(c)) } else { compute::cast(c, t).e() })
            .collect()
    }

    pub(super) fn decode<'a>(&self, rows: impl IntoIterator<Item = arrow::row::Row<'a>>) -> Result<Vec<ArrayRef>> {
        self.converter.decode_rows(rows)
    }
}

/// -0.0 becomes 0.0 and every NaN the same NaN.
fn canonical_floats(column: ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            let fix = |x: f64| if x.is_nan() { f64::NAN } else { x + 0.0 };
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(fix)) as ArrayRef
        }
        DataType::Float32 => {
            let fix = |x: f32| if x.is_nan() { f32::NAN } else { x + 0.0 };
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(fix)) as ArrayRef
        }
        DataType::Float16 => {
            let a: &Float16Array = column.as_primitive::<Float16Type>();
            let wide: Float32Array = a.unary(|x| if x.is_nan() { f32::NAN } else { x.to_f32() + 0.0 });
            let narrow: Float16Array =
                wide.unary(<Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native::from_f32);
            Arc::new(narrow)
        }
        _ => column,
    }
}

/// Distinct keys, in order of first appearance.
pub(super) struct KeySet {
    rows: Rows,
    index: HashTable<u32>,
}

impl KeySet {
    pub(super) fn new(codec: &KeyCodec) -> Self {
        Self { rows: codec.converter.empty_rows(0, 0), index: HashTable::new() }
    }

    pub(super) fn insert(&mut self, codec: &KeyCodec, columns: &[ArrayRef]) -> Result<()> {
        let new = codec.encode(columns)?;
        for row in &new {
            let hash = xxh3_64(row.as_ref());
            let rows = &self.rows;
            let entry = self.index.entry(
                hash,
                |i| rows.row(*i as usize).as_ref() == row.as_ref(),
                |i| xxh3_64(rows.row(*i as usize).as_ref()),
            );
            if let hashbrown::hash_table::Entry::Vacant(free) = entry {
                let position = u32::try_from(rows.num_rows())
                    .map_err(|_| Error::internal("more than 4 billion groups in one tick"))?;
                free.insert(position);
                self.rows.push(row);
            }
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub(super) fn row(&self, i: usize) -> arrow::row::Row<'_> {
        self.rows.row(i)
    }

    pub(super) fn owned(&self, i: usize) -> OwnedRow {
        self.rows.row(i).owned()
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.index.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, StringArray};

    #[test]
    fn keys_that_sql_calls_equal_are_one_key() {
        let codec = KeyCodec::new(vec![DataType::Float64, DataType::Utf8]).unwrap();
        let mut set = KeySet::new(&codec);
        let x: ArrayRef = Arc::new(Float64Array::from(vec![
            Some(0.0),
            Some(-0.0),
            Some(f64::NAN),
            Some(-f64::NAN),
            None,
            None,
            Some(1.0),
        ]));
        let s: ArrayRef = Arc::new(StringArray::from(vec!["a"; 7]));
        set.insert(&codec, &[Arc::clone(&x), Arc::clone(&s)]).unwrap();
        assert_eq!(set.len(), 4);
        let s: ArrayRef = Arc::new(arrow::array::StringViewArray::from(vec!["a"; 7]));
        set.insert(&codec, &[x, s]).unwrap();
        assert_eq!(set.len(), 4, "another representation is the same key");
        set.clear();
        assert_eq!(set.len(), 0);
    }
}
