//! The right side of an ASOF join in an order in which the partner of a left row is found by one search.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::{DataFusionError, Result};

use super::AsOfCompare;

/// Keys and times of rows.
pub(super) struct Places {
    /// Columns of the key, then the time.
    pub columns: Vec<ArrayRef>,
    pub rows: usize,
}

/// Right rows, to be searched.
pub(super) struct Nearest {
    compare: AsOfCompare,
    keys: Option<RowConverter>,
    places: RowConverter,
    /// Of the right rows: keys, and keys with times, in the rows' own order.
    right_keys: Option<Rows>,
    right_places: Rows,
    /// One right row for each key and time, ascending by place.
    order: Vec<u32>,
}

impl Nearest {
    /// `at`: keys and times of `right`.
    pub fn new(compare: AsOfCompare, right: &RecordBatch, at: &Places) -> Result<Self> {
        let columns = canonical_all(&at.columns);
        let time = columns.len().saturating_sub(1);
        let field = |(i, c): (usize, &ArrayRef)| {
            let descending = i == time && !compare.latest();
            SortField::new_with_options(c.data_type().clone(), SortOptions { descending, nulls_first: true })
        };
        let fields: Vec<SortField> = columns.iter().enumerate().map(field).collect();
        let keys = if time == 0 { None } else { Some(converter(fields[..time].to_vec())?) };
        let places = converter(fields)?;
        let right_keys = keys.as_ref().map(|k| k.convert_columns(&columns[..time]).map_err(failed)).transpose()?;
        let right_places = places.convert_columns(&columns).map_err(failed)?;
        // Of one place the row that is first in order comes last.
        let ties: Vec<SortField> = right
            .columns()
            .iter()
            .map(|c| {
                SortField::new_with_options(c.data_type().clone(), SortOptions { descending: true, nulls_first: false })
            })
            .collect();
        let ties = converter(ties)?.convert_columns(right.columns()).map_err(failed)?;
        let valid = valid(&columns);
        let mut order: Vec<u32> =
            (0..at.rows as u32).filter(|i| valid.as_ref().is_none_or(|v| v.is_valid(*i as usize))).collect();
        order.sort_unstable_by(|a, b| {
            let (a, b) = (*a as usize, *b as usize);
            right_places.row(a).cmp(&right_places.row(b)).then_with(|| ties.row(a).cmp(&ties.row(b)))
        });
        let mut kept: Vec<u32> = Vec::with_capacity(order.len());
        for row in order {
            match kept.last_mut() {
                Some(last) if right_places.row(*last as usize) == right_places.row(row as usize) => *last = row,
                _ => kept.push(row),
            }
        }
        kept.shrink_to_fit();
        Ok(Self { compare, keys, places, right_keys, right_places, order: kept })
    }

    /// The partner of each left row.
    pub fn find(&self, at: &Places) -> Result<Vec<Option<u32>>> {
        let columns = canonical_all(&at.columns);
        let time = columns.len().saturating_sub(1);
        let keys = match &self.keys {
            Some(k) => Some(k.convert_columns(&columns[..time]).map_err(failed)?),
            None => None,
        };
        let places = self.places.convert_columns(&columns).map_err(failed)?;
        let valid = valid(&columns);
        let inclusive = self.compare.inclusive();
        let one = |i: usize| {
            if valid.as_ref().is_some_and(|v| v.is_null(i)) {
                return None;
            }
            let place = places.row(i);
            let before = self.order.partition_point(|r| {
                let right = self.right_places.row(*r as usize);
                if inclusive { right <= place } else { right < place }
            });
            let found = *self.order.get(before.checked_sub(1)?)?;
            let same = match (&keys, &self.right_keys) {
                (Some(l), Some(r)) => l.row(i) == r.row(found as usize),
                _ => true,
            };
            same.then_some(found)
        };
        Ok((0..at.rows).map(one).collect())
    }

    /// Bytes held beside the rows themselves.
    pub fn bytes(&self) -> usize {
        self.right_places.size() + self.right_keys.as_ref().map_or(0, Rows::size) + 4 * self.order.len()
    }
}

fn converter(fields: Vec<SortField>) -> Result<RowConverter> {
    RowConverter::new(fields).map_err(failed)
}

fn failed(e: arrow::error::ArrowError) -> DataFusionError {
    DataFusionError::ArrowError(Box::new(e), None)
}

/// Rows without NULL in any of the columns; `None` where that is all of them.
fn valid(columns: &[ArrayRef]) -> Option<NullBuffer> {
    columns.iter().fold(None, |nulls, c| NullBuffer::union(nulls.as_ref(), c.logical_nulls().as_ref()))
}

/// One representative for all values that SQL calls equal: +0.0 for zeros, one NaN for all.
fn canonical_all(columns: &[ArrayRef]) -> Vec<ArrayRef> {
    fn unary<T: ArrowPrimitiveType>(a: &ArrayRef, f: impl Fn(T::Native) -> T::Native) -> ArrayRef {
        Arc::new(a.as_primitive::<T>().unary::<_, T>(f))
    }
    type F16 = <Float16Type as ArrowPrimitiveType>::Native;
    let one = |c: &ArrayRef| match c.data_type() {
        DataType::Float64 => unary::<Float64Type>(c, |x| if x.is_nan() { f64::NAN } else { x + 0.0 }),
        DataType::Float32 => unary::<Float32Type>(c, |x| if x.is_nan() { f32::NAN } else { x + 0.0 }),
        DataType::Float16 => unary::<Float16Type>(c, |x| if x.is_nan() { F16::NAN } else { x + F16::from_f32(0.0) }),
        _ => Arc::clone(c),
    };
    columns.iter().map(one).collect()
}
