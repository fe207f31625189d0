//! Casts between numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::CastOptions;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use arrow::util::display::FormatOptions;
use datafusion::error::{DataFusionError, Result};

use super::fail;
use crate::error::{SqlError, SqlState};
use crate::functions::arithmetic::{divide_rounded, out_of_range};

/// A value that does not fit is an error, not NULL.
pub(super) const STRICT: CastOptions<'static> = CastOptions { safe: false, format_options: FormatOptions::new() };

pub(super) fn field_overflow() -> SqlError {
    SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "numeric field overflow")
}

/// True if the unscaled value has no more digits than this.
pub(super) fn fits(value: i256, precision: u8) -> bool {
    let limit = i256::from_i128(10).checked_pow(u32::from(precision)).unwrap_or(i256::MAX);
    value < limit && value > limit.wrapping_neg()
}

/// The unscaled value at another scale, rounded half away from zero; `None` if it does not fit.
pub(super) fn rescale(value: i256, from: i32, to: i32) -> Option<i256> {
    if value == i256::ZERO {
        return Some(value);
    }
    let by = to.checked_sub(from)?;
    match i256::from_i128(10).checked_pow(by.unsigned_abs()) {
        Some(power) if by >= 0 => value.checked_mul(power),
        Some(power) => divide_rounded(value, power),
        // Nothing is left of a value that is divided by so much.
        None => (by < 0).then_some(i256::ZERO),
    }
}

/// Runs `$body` with `$t` as the Arrow type of an integer type.
macro_rules! with_integer {
    ($data_type:expr, $t:ident => $body:expr) => {
        match $data_type {
            DataType::Int8 => {
                type $t = Int8Type;
                $body
            }
            DataType::Int16 => {
                type $t = Int16Type;
                $body
            }
            DataType::Int32 => {
                type $t = Int32Type;
                $body
            }
            DataType::Int64 => {
                type $t = Int64Type;
                $body
            }
            DataType::UInt8 => {
                type $t = UInt8Type;
                $body
            }
            DataType::UInt16 => {
                type $t = UInt16Type;
                $body
            }
            DataType::UInt32 => {
                type $t = UInt32Type;
                $body
            }
            DataType::UInt64 => {
                type $t = UInt64Type;
                $body
            }
            other => Err(DataFusionError::Internal(format!("{other} is no integer type"))),
        }
    };
}

/// Every value by `f`; `None` is out of the range of `to`.
fn checked<I: ArrowPrimitiveType, O: ArrowPrimitiveType>(
    values: &ArrayRef,
    to: &DataType,
    f: impl Fn(I::Native) -> Option<O::Native>,
) -> Result<PrimitiveArray<O>> {
    let one = |v: Option<I::Native>| v.map(|v| f(v).ok_or_else(|| out_of_range(to))).transpose();
    values.as_primitive::<I>().iter().map(one).collect()
}

/// The nearest integer, halves to the even one.
pub(super) fn float_to_integer(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    // Every integer that is in the range of a type of at most 64 bits fits 128 bits; NaN and the rest fit nothing.
    fn nearest(v: f64) -> Option<i128> {
        let v = v.round_ties_even();
        (v.abs() < 1e20).then_some(v as i128)
    }
    with_integer!(to, T => Ok(match values.data_type() {
        DataType::Float32 => Arc::new(checked::<Float32Type, T>(values, to, |v| {
            nearest(f64::from(v))?.try_into().ok()
        })?),
        _ => Arc::new(checked::<Float64Type, T>(values, to, |v| nearest(v)?.try_into().ok())?),
    }))
}

/// The nearest integer, halves away from zero.
pub(super) fn decimal_to_integer(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    with_integer!(to, T => Ok(match values.data_type() {
        DataType::Decimal128(_, s) => {
            let scale = i32::from(*s);
            // The common case stays in 128 bits.
            let power = u32::try_from(scale).ok().and_then(|s| 10i128.checked_pow(s));
            Arc::new(checked::<Decimal128Type, T>(values, to, |v| {
                let whole = match power {
                    Some(p) => {
                        let (q, rest) = (v / p, v % p);
                        let up = i128::from(rest.unsigned_abs() >= p.unsigned_abs() - rest.unsigned_abs());
                        if v < 0 { q - up } else { q + up }
                    }
                    None => rescale(i256::from_i128(v), scale, 0)?.to_i128()?,
                };
                whole.try_into().ok()
            })?)
        }
        DataType::Decimal256(_, s) => {
            let scale = i32::from(*s);
            Arc::new(checked::<Decimal256Type, T>(values, to, |v| rescale(v, scale, 0)?.to_i128()?.try_into().ok())?)
        }
        other => return Err(DataFusionError::Internal(format!("{other} is no decimal type"))),
    }))
}

/// The float that the digits say.
pub(super) fn decimal_to_float(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let doubles: PrimitiveArray<Float64Type> = match values.data_type() {
        DataType::Decimal128(_, s) => {
            let scale = *s;
            // Both are exact as floats, so that their quotient is rounded once.
            let power = (0..=22).contains(&scale).then(|| 10f64.powi(i32::from(scale)));
            values.as_primitive::<Decimal128Type>().unary(|v| match power {
                Some(p) if v.unsigned_abs() < 1 << 53 => v as f64 / p,
                _ => read_back(&v.to_string(), scale),
            })
        }
        DataType::Decimal256(_, s) => {
            let scale = *s;
            values.as_primitive::<Decimal256Type>().unary(|v: i256| read_back(&v.to_string(), scale))
        }
        other => return Err(DataFusionError::Internal(format!("{other} is no decimal type"))),
    };
    match to {
        DataType::Float32 => Ok(Arc::new(doubles.unary::<_, Float32Type>(|v| v as f32))),
        _ => Ok(Arc::new(doubles)),
    }
}

fn read_back(digits: &str, scale: i8) -> f64 {
    format!("{digits}e{}", -i32::from(scale)).parse().unwrap_or(f64::NAN)
}

/// The decimal of the digits that a float holds for certain: 15 of a double, 6 of a real.
pub(super) fn float_to_decimal(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let (precision, scale) = match to {
        DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => (*p, *s),
        other => return Err(DataFusionError::Internal(format!("{other} is no decimal type"))),
    };
    let read = |shown: String| super::read::decimal(&shown, precision, scale).map_err(fail);
    let of = |i: usize| -> Result<i256> {
        match values.data_type() {
            DataType::Float32 => read(format!("{:.5e}", values.as_primitive::<Float32Type>().value(i))),
            _ => read(format!("{:.14e}", values.as_primitive::<Float64Type>().value(i))),
        }
    };
    let one = |i: usize| if values.is_null(i) { Ok(None) } else { of(i).map(Some) };
    let all = (0..values.len()).map(one).collect::<Result<Vec<_>>>()?;
    Ok(match to {
        DataType::Decimal128(..) => {
            let short = |v: Option<i256>| v.map(|v| v.to_i128().ok_or_else(|| fail(field_overflow()))).transpose();
            let v = all.into_iter().map(short).collect::<Result<PrimitiveArray<Decimal128Type>>>()?;
            Arc::new(v.with_precision_and_scale(precision, scale)?)
        }
        _ => {
            let v: PrimitiveArray<Decimal256Type> = all.into_iter().collect();
            Arc::new(v.with_precision_and_scale(precision, scale)?)
        }
    })
}
