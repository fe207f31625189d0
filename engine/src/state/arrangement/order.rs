//! Codes of the column by which rows of one key are ordered.
//!
//! A code keeps the order of values but not all differences: `a <= b` means `code(a) <= code(b)`, and no more. So a range
//! of codes holds all rows of a range of values, and maybe others. NULL has the least code.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, UInt64Type};

use crate::error::{Error, Result, ResultExt as _};
use crate::state::keyed::code::{Code64, plain_type};

/// Ranges of codes, one for each probing row; ends included. Where `from > to` nothing is found.
#[derive(Debug, Clone, Default)]
pub struct CodeRanges {
    /// First codes.
    pub from: Vec<i64>,
    /// Last codes.
    pub to: Vec<i64>,
}

impl CodeRanges {
    /// Everything, for so many rows.
    pub fn all(rows: usize) -> Self {
        Self { from: vec![i64::MIN; rows], to: vec![i64::MAX; rows] }
    }
}

/// True for types that have codes.
pub fn has_codes(t: &DataType) -> bool {
    let t = plain_type(t);
    let texts = matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    texts || matches!(t, DataType::Decimal128(..) | DataType::Decimal256(..)) || Code64::of(&t).is_some()
}

/// The codes of values.
pub fn codes(array: &ArrayRef) -> Result<Vec<i64>> {
    let plain = plain_type(array.data_type());
    let array = if plain == *array.data_type() { array.clone() } else { arrow::compute::cast(array, &plain).e()? };
    let mut codes = codes_of(&array)?;
    // What a slot of NULL holds is chance: equal rows have equal codes.
    if let Some(nulls) = array.nulls().filter(|n| n.null_count() > 0) {
        codes.iter_mut().enumerate().filter(|(i, _)| nulls.is_null(*i)).for_each(|(_, code)| *code = i64::MIN);
    }
    Ok(codes)
}

fn codes_of(array: &ArrayRef) -> Result<Vec<i64>> {
    Ok(match array.data_type() {
        // Numbers of all widths have one scale, so that an INT can be compared with a BIGINT.
        DataType::UInt64 => {
            let whole = |v: &u64| i64::try_from(*v).unwrap_or(i64::MAX);
            array.as_primitive::<UInt64Type>().values().iter().map(whole).collect()
        }
        DataType::Decimal128(..) => {
            let clamped = |v: &i128| (*v).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
            array.as_primitive::<Decimal128Type>().values().iter().map(clamped).collect()
        }
        DataType::Decimal256(..) => {
            let clamped = |v: &arrow::datatypes::i256| match v.to_i128() {
                Some(v) => v.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
                None if v.is_negative() => i64::MIN,
                None => i64::MAX,
            };
            array.as_primitive::<Decimal256Type>().values().iter().map(clamped).collect()
        }
        DataType::Utf8 => (0..array.len()).map(|i| text(array.as_string::<i32>().value(i))).collect(),
        DataType::LargeUtf8 => (0..array.len()).map(|i| text(array.as_string::<i64>().value(i))).collect(),
        DataType::Utf8View => (0..array.len()).map(|i| text(array.as_string_view().value(i))).collect(),
        t => match Code64::of(t) {
            Some(code) => code.encode(array),
            None => return Err(Error::internal(format!("an index in order of {t}"))),
        },
    })
}

/// The first eight bytes.
fn text(s: &str) -> i64 {
    let mut first = [0u8; 8];
    let n = s.len().min(8);
    first[..n].copy_from_slice(&s.as_bytes()[..n]);
    (u64::from_be_bytes(first) ^ (1 << 63)) as i64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int32Array, StringArray, StringViewArray, UInt64Array};

    use super::*;

    #[test]
    fn codes_keep_the_order_of_values() {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![i32::MIN, -1, 0, 7, i32::MAX])),
            Arc::new(UInt64Array::from(vec![0, 1, 1 << 63, u64::MAX])),
            Arc::new(Float64Array::from(vec![f64::NEG_INFINITY, -1.5, -0.0, 0.0, 1e300, f64::INFINITY, f64::NAN])),
            Arc::new(Decimal128Array::from(vec![i128::MIN, -5, 0, 5, i128::MAX])),
            Arc::new(StringArray::from(vec!["", "\0", "a", "a b", "ab", "abcdefgh", "abcdefghi", "äß"])),
            Arc::new(StringViewArray::from(vec!["", "B", "a", "a text longer than twelve bytes"])),
        ];
        for array in arrays {
            assert!(has_codes(array.data_type()));
            assert!(codes(&array).expect("codes").is_sorted(), "{array:?}");
        }
        assert!(!has_codes(&DataType::Boolean));
    }
}
