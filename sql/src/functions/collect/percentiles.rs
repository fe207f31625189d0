//! Percentiles and medians of groups.
//!
//! A share of the values is a number between 0 and 1, or a list of such numbers, which gives a list of results. Shares
//! are the same in all rows of a group.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal256Array, Float64Array, ListArray, UInt32Array, new_null_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Decimal256Type, Field, Float64Type, i256};

use super::{Collect, Collector, at, wrong};
use crate::error::{Result, SqlError, SqlState};
use crate::functions::arithmetic::divide_rounded;

/// Rows of a group in order, each with how often it is there.
type Rows<'g, 'b> = &'g [(&'b [u8], u64)];

/// A group and a share of its values, `None` for NULL.
type Asked<'g, 'b> = (Rows<'g, 'b>, Option<f64>);

/// The shares in an array of one value: a number, or a list of numbers. `None` for NULL.
pub fn shares(p: &ArrayRef) -> Result<Option<Vec<Option<f64>>>> {
    if p.is_empty() || p.is_null(0) || *p.data_type() == DataType::Null {
        return Ok(None);
    }
    let numbers = match p.as_list_opt::<i32>() {
        Some(list) => list.value(0),
        None => p.slice(0, 1),
    };
    let numbers = cast(&numbers, &DataType::Float64).map_err(wrong)?;
    let share = |p: Option<f64>| match p {
        Some(p) if !(0.0..=1.0).contains(&p) => {
            let message = format!("percentile value {p} is not between 0 and 1");
            Err(SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, message))
        }
        inside => Ok(inside),
    };
    numbers.as_primitive::<Float64Type>().iter().map(share).collect::<Result<Vec<_>>>().map(Some)
}

impl Collector {
    pub(super) fn percentiles(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<ArrayRef> {
        let parameters = self.parameters(groups)?;
        let mut asked: Vec<Asked<'_, '_>> = Vec::with_capacity(groups.len());
        let (mut lengths, mut present) = (Vec::with_capacity(groups.len()), Vec::with_capacity(groups.len()));
        for (group, p) in groups.iter().zip(&parameters) {
            let shares = shares(p)?;
            present.push(shares.is_some());
            let shares = match self.lists {
                true => shares.unwrap_or_default(),
                false => vec![shares.and_then(|s| s.first().copied().flatten())],
            };
            lengths.push(shares.len());
            asked.extend(shares.into_iter().map(|p| (group.as_slice(), p)));
        }
        let values = match self.kind {
            Collect::PercentileDisc => self.discrete(&asked)?,
            _ => self.interpolated(&asked)?,
        };
        if !self.lists {
            return Ok(values);
        }
        let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let nulls = NullBuffer::from(present);
        let list = ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), values, Some(nulls));
        Ok(Arc::new(list.map_err(wrong)?))
    }

    /// The first value with that share of values up to it.
    fn discrete(&self, asked: &[Asked<'_, '_>]) -> Result<ArrayRef> {
        let mut chosen: Vec<&[u8]> = Vec::with_capacity(asked.len());
        let mut picks: Vec<Option<u32>> = Vec::with_capacity(asked.len());
        for (rows, p) in asked {
            let place = p.map(|p| ((p * total(rows) as f64).ceil() as u64).max(1) - 1);
            picks.push(place.and_then(|place| at(rows, place)).map(|row| {
                chosen.push(row);
                chosen.len() as u32 - 1
            }));
        }
        if chosen.is_empty() {
            return Ok(new_null_array(&self.first, asked.len()));
        }
        let values = self.decode(chosen.into_iter())?.swap_remove(0);
        take(&values, &UInt32Array::from(picks), None).map_err(wrong)
    }

    fn interpolated(&self, asked: &[Asked<'_, '_>]) -> Result<ArrayRef> {
        let mut ends: Vec<&[u8]> = Vec::new();
        let mut parts: Vec<Option<f64>> = Vec::with_capacity(asked.len());
        for (rows, p) in asked {
            let total = total(rows);
            let place = p.filter(|_| total > 0).map(|p| p * (total - 1) as f64);
            let found = place.and_then(|i| Some((at(rows, i.floor() as u64)?, at(rows, i.ceil() as u64)?, i.fract())));
            parts.push(found.map(|(low, high, part)| {
                ends.extend([low, high]);
                part
            }));
        }
        let values = self.decode(ends.into_iter())?.swap_remove(0);
        let values = cast(&values, &DataType::Float64).map_err(wrong)?;
        let (pairs, _) = values.as_primitive::<Float64Type>().values().as_chunks::<2>();
        let mut pairs = pairs.iter();
        let one = |part: &Option<f64>| {
            let part = (*part)?;
            let [low, high] = pairs.next()?;
            Some(if part == 0.0 || low == high { *low } else { low + part * (high - low) })
        };
        Ok(Arc::new(parts.iter().map(one).collect::<Float64Array>()))
    }

    /// Of decimals an exact mean, rounded at their scale; of anything else as `percentile_cont(0.5)`.
    pub(super) fn medians(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<ArrayRef> {
        let (DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale)) = self.first else {
            let asked: Vec<Asked<'_, '_>> = groups.iter().map(|g| (g.as_slice(), Some(0.5))).collect();
            return self.interpolated(&asked);
        };
        let mut middle: Vec<&[u8]> = Vec::with_capacity(2 * groups.len());
        for rows in groups {
            if let Some(last) = total(rows).checked_sub(1) {
                middle.extend(at(rows, last / 2));
                middle.extend(at(rows, last.div_ceil(2)));
            }
        }
        let values = self.decode(middle.into_iter())?.swap_remove(0);
        let values = cast(&values, &DataType::Decimal256(76, scale)).map_err(wrong)?;
        let (pairs, _) = values.as_primitive::<Decimal256Type>().values().as_chunks::<2>();
        let mut pairs = pairs.iter();
        let mean = |rows: &Vec<(&[u8], u64)>| {
            if rows.is_empty() {
                return None;
            }
            let [low, high] = pairs.next()?;
            divide_rounded(low.checked_add(*high)?, i256::from_i128(2))
        };
        let means = groups.iter().map(mean).collect::<Decimal256Array>();
        let means: ArrayRef = Arc::new(means.with_precision_and_scale(76, scale).map_err(wrong)?);
        match self.first {
            DataType::Decimal128(..) => cast(&means, &DataType::Decimal128(precision, scale)).map_err(wrong),
            _ => cast(&means, &DataType::Decimal256(precision, scale)).map_err(wrong),
        }
    }
}

fn total(rows: Rows<'_, '_>) -> u64 {
    rows.iter().map(|r| r.1).sum()
}
