//! The keys of a [`super::KeyedState`], by slot, in the most compact form their types allow.

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};

use super::code::Code64;
use crate::error::{Result, ResultExt as _};
use crate::state::rows::DecodeRows as _;

/// Keys by slot. All key values are canonical (see [`super::code::canonical`]), so equal keys have equal bytes.
pub(super) enum Keys {
    /// No key columns: one key.
    Unit,
    /// One column of at most 64 bits. The NULL key is known by its slot.
    Inline { data_type: DataType, code: Code64, values: Vec<i64> },
    /// Row-encoded keys of one length, side by side.
    Fixed { converter: RowConverter, width: usize, bytes: Vec<u8> },
    /// Row-encoded keys of any length.
    Var { converter: RowConverter, rows: Vec<Box<[u8]>>, heap: usize },
}

/// Keys of a batch, in the form of the [`Keys`] they are looked up in.
pub(super) enum BatchKeys {
    Unit,
    Codes(Vec<i64>, Option<NullBuffer>),
    Rows(Rows),
}

impl Keys {
    pub(super) fn new(types: &[DataType]) -> Result<Self> {
        if types.is_empty() {
            return Ok(Self::Unit);
        }
        if let [t] = types
            && let Some(code) = Code64::of(t)
        {
            return Ok(Self::Inline { data_type: t.clone(), code, values: Vec::new() });
        }
        let converter = RowConverter::new(types.iter().map(|t| SortField::new(t.clone())).collect()).e()?;
        if types.iter().all(|t| t.is_primitive() || *t == DataType::Boolean) {
            let sample: Vec<ArrayRef> = types.iter().map(|t| new_null_array(t, 1)).collect();
            let width = converter.convert_columns(&sample).e()?.row(0).data().len();
            return Ok(Self::Fixed { converter, width, bytes: Vec::new() });
        }
        Ok(Self::Var { converter, rows: Vec::new(), heap: 0 })
    }

    pub(super) fn encode(&self, columns: &[ArrayRef]) -> Result<BatchKeys> {
        Ok(match self {
            Self::Unit => BatchKeys::Unit,
            Self::Inline { code, .. } => BatchKeys::Codes(
                code.encode(columns[0].as_ref()),
                columns[0].logical_nulls().filter(|n| n.null_count() > 0),
            ),
            Self::Fixed { converter, .. } | Self::Var { converter, .. } => {
                BatchKeys::Rows(converter.convert_columns(columns).e()?)
            }
        })
    }

    /// True if the key of `slot` is that of `row`. NULL keys of `Inline` are the caller's.
    #[inline]
    pub(super) fn eq(&self, slot: u32, batch: &BatchKeys, row: usize) -> bool {
        match (self, batch) {
            (Self::Inline { values, .. }, BatchKeys::Codes(codes, _)) => values[slot as usize] == codes[row],
            (Self::Fixed { width, bytes, .. }, BatchKeys::Rows(rows)) => {
                let at = slot as usize * width;
                bytes[at..at + width] == *rows.row(row).data()
            }
            (Self::Var { rows: keys, .. }, BatchKeys::Rows(rows)) => *keys[slot as usize] == *rows.row(row).data(),
            _ => true,
        }
    }

    /// Puts the key of `row` into `slot`, which is new or was emptied.
    pub(super) fn set(&mut self, slot: u32, batch: &BatchKeys, row: usize) {
        let slot = slot as usize;
        match (self, batch) {
            (Self::Inline { values, .. }, BatchKeys::Codes(codes, nulls)) => {
                let code = if nulls.as_ref().is_some_and(|n| n.is_null(row)) { 0 } else { codes[row] };
                if slot == values.len() { values.push(code) } else { values[slot] = code }
            }
            (Self::Fixed { width, bytes, .. }, BatchKeys::Rows(rows)) => {
                let key = rows.row(row);
                let at = slot * *width;
                if at == bytes.len() {
                    bytes.extend_from_slice(key.data());
                } else {
                    bytes[at..at + *width].copy_from_slice(key.data());
                }
            }
            (Self::Var { rows: keys, heap, .. }, BatchKeys::Rows(rows)) => {
                let key: Box<[u8]> = rows.row(row).data().into();
                *heap += key.len();
                if slot == keys.len() { keys.push(key) } else { keys[slot] = key }
            }
            _ => {}
        }
    }

    /// Frees what the key of an emptied slot holds.
    pub(super) fn clear(&mut self, slot: u32) {
        if let Self::Var { rows, heap, .. } = self {
            *heap -= rows[slot as usize].len();
            rows[slot as usize] = Box::default();
        }
    }

    /// Key columns of these slots.
    pub(super) fn columns(&self, slots: &[u32], null_slot: Option<u32>) -> Result<Vec<ArrayRef>> {
        match self {
            Self::Unit => Ok(Vec::new()),
            Self::Inline { data_type, code, values } => {
                let codes: Vec<i64> = slots.iter().map(|s| values[*s as usize]).collect();
                let nulls = null_slot
                    .filter(|n| slots.contains(n))
                    .map(|n| NullBuffer::from(slots.iter().map(|s| *s != n).collect::<Vec<bool>>()));
                Ok(vec![code.decode(data_type, &codes, nulls)?])
            }
            Self::Fixed { converter, width, bytes } => {
                let parser = converter.parser();
                let rows = slots.iter().map(|s| {
                    let at = *s as usize * width;
                    parser.parse(&bytes[at..at + width])
                });
                converter.decode_rows(rows)
            }
            Self::Var { converter, rows, .. } => {
                let parser = converter.parser();
                converter.decode_rows(slots.iter().map(|s| parser.parse(&rows[*s as usize])))
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Unit => 0,
            Self::Inline { values, .. } => 8 * values.capacity(),
            Self::Fixed { bytes, .. } => bytes.capacity(),
            Self::Var { rows, heap, .. } => 16 * rows.capacity() + heap,
        }
    }
}
