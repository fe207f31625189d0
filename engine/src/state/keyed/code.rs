//! Fixed-width values as 64-bit codes, and canonical values of keys.
//!
//! A code orders as Arrow orders the values (floats by their total order: -NaN < -inf < -0.0 < +0.0 < inf < NaN) and
//! is bijective, so it serves as a key, as a value of a minimum, and turns back into the value.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, IntervalUnit};

use crate::error::{Result, ResultExt as _};

/// How values of a type become codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code64 {
    /// Signed integers of this many bytes, and what is stored as such.
    Signed(u8),
    /// Unsigned integers of this many bytes.
    Unsigned(u8),
    /// Float32.
    Float32,
    /// Float64.
    Float64,
}

const SIGN: u64 = 1 << 63;

impl Code64 {
    /// The code of a type, if it has one.
    pub fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Int8 => Self::Signed(1),
            DataType::Int16 => Self::Signed(2),
            DataType::Int32
            | DataType::Date32
            | DataType::Time32(_)
            | DataType::Decimal32(..)
            | DataType::Interval(IntervalUnit::YearMonth) => Self::Signed(4),
            DataType::Int64
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Duration(_)
            | DataType::Decimal64(..) => Self::Signed(8),
            DataType::UInt8 => Self::Unsigned(1),
            DataType::UInt16 => Self::Unsigned(2),
            DataType::UInt32 => Self::Unsigned(4),
            DataType::UInt64 => Self::Unsigned(8),
            DataType::Float32 => Self::Float32,
            DataType::Float64 => Self::Float64,
            _ => return None,
        })
    }

    /// Codes of all values; those of NULLs mean nothing.
    pub fn encode(self, array: &dyn Array) -> Vec<i64> {
        let data = array.to_data();
        let n = data.len();
        match self {
            Self::Signed(1) => data.buffer::<i8>(0)[..n].iter().map(|v| i64::from(*v)).collect(),
            Self::Signed(2) => data.buffer::<i16>(0)[..n].iter().map(|v| i64::from(*v)).collect(),
            Self::Signed(4) => data.buffer::<i32>(0)[..n].iter().map(|v| i64::from(*v)).collect(),
            Self::Signed(_) => data.buffer::<i64>(0)[..n].to_vec(),
            Self::Unsigned(1) => data.buffer::<u8>(0)[..n].iter().map(|v| i64::from(*v)).collect(),
            Self::Unsigned(2) => data.buffer::<u16>(0)[..n].iter().map(|v| i64::from(*v)).collect(),
            Self::Unsigned(4) => data.buffer::<u32>(0)[..n].iter().map(|v| i64::from(*v)).collect(),
            Self::Unsigned(_) => data.buffer::<u64>(0)[..n].iter().map(|v| (*v ^ SIGN) as i64).collect(),
            Self::Float32 => data.buffer::<i32>(0)[..n].iter().map(|v| i64::from(total_order_32(*v))).collect(),
            Self::Float64 => data.buffer::<i64>(0)[..n].iter().map(|v| total_order_64(*v)).collect(),
        }
    }

    /// Values of codes.
    pub fn decode(self, data_type: &DataType, codes: &[i64], nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let buffer = match self {
            Self::Signed(1) => Buffer::from_vec(codes.iter().map(|v| *v as i8).collect::<Vec<_>>()),
            Self::Signed(2) => Buffer::from_vec(codes.iter().map(|v| *v as i16).collect::<Vec<_>>()),
            Self::Signed(4) => Buffer::from_vec(codes.iter().map(|v| *v as i32).collect::<Vec<_>>()),
            Self::Signed(_) => Buffer::from_vec(codes.to_vec()),
            Self::Unsigned(1) => Buffer::from_vec(codes.iter().map(|v| *v as u8).collect::<Vec<_>>()),
            Self::Unsigned(2) => Buffer::from_vec(codes.iter().map(|v| *v as u16).collect::<Vec<_>>()),
            Self::Unsigned(4) => Buffer::from_vec(codes.iter().map(|v| *v as u32).collect::<Vec<_>>()),
            Self::Unsigned(_) => Buffer::from_vec(codes.iter().map(|v| *v as u64 ^ SIGN).collect::<Vec<_>>()),
            Self::Float32 => Buffer::from_vec(codes.iter().map(|v| total_order_32(*v as i32)).collect::<Vec<_>>()),
            Self::Float64 => Buffer::from_vec(codes.iter().map(|v| total_order_64(*v)).collect::<Vec<_>>()),
        };
        let data =
            ArrayData::builder(data_type.clone()).len(codes.len()).add_buffer(buffer).nulls(nulls).build().e()?;
        Ok(make_array(data))
    }
}

/// Its own inverse: the sign bit stays, and decides whether the others flip.
fn total_order_64(bits: i64) -> i64 {
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn total_order_32(bits: i32) -> i32 {
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// The type that keys of this type are kept as: encodings such as dictionaries fall away.
pub fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, v) => plain_type(v),
        DataType::RunEndEncoded(_, v) => plain_type(v.data_type()),
        other => other.clone(),
    }
}

/// The same values in their plain type, with one representative for all values SQL calls equal: +0.0 for zeros, one
/// NaN for all.
pub fn canonical(array: &ArrayRef) -> Result<ArrayRef> {
    let plain = plain_type(array.data_type());
    let array = if plain == *array.data_type() { array.clone() } else { arrow::compute::cast(array, &plain).e()? };
    canonical_plain(array)
}

fn canonical_plain(array: ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Float64 => {
            let a = array.as_primitive::<Float64Type>();
            let odd = |x: &f64| x.to_bits() == SIGN || (x.is_nan() && x.to_bits() != f64::NAN.to_bits());
            if !a.values().iter().any(odd) {
                return Ok(array);
            }
            std::sync::Arc::new(a.unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }))
        }
        DataType::Float32 => {
            let a = array.as_primitive::<Float32Type>();
            let odd = |x: &f32| x.to_bits() == 1 << 31 || (x.is_nan() && x.to_bits() != f32::NAN.to_bits());
            if !a.values().iter().any(odd) {
                return Ok(array);
            }
            std::sync::Arc::new(a.unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }))
        }
        DataType::Float16 => {
            type F16 = <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native;
            let a = array.as_primitive::<Float16Type>();
            std::sync::Arc::new(a.unary::<_, Float16Type>(|x| match x {
                x if x.is_nan() => F16::NAN,
                x if x.to_bits() == 1 << 15 => F16::from_bits(0),
                x => x,
            }))
        }
        t if t.is_nested() && has_float(t) => {
            let data = array.to_data();
            let children = data
                .child_data()
                .iter()
                .map(|c| Ok(canonical_plain(make_array(c.clone()))?.to_data()))
                .collect::<Result<Vec<_>>>()?;
            make_array(data.into_builder().child_data(children).build().e()?)
        }
        _ => array,
    })
}

fn has_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
        | DataType::Map(f, _) => has_float(f.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_float(f.data_type())),
        other => other.is_floating(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int8Array, UInt64Array};
    use std::sync::Arc;

    #[test]
    fn codes_order_as_arrow_and_come_back() {
        let floats: ArrayRef =
            Arc::new(Float64Array::from(vec![-f64::NAN, f64::NEG_INFINITY, -1.5, -0.0, 0.0, 2.0, f64::NAN]));
        let uints: ArrayRef = Arc::new(UInt64Array::from(vec![0, 1, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX]));
        let ints: ArrayRef = Arc::new(Int8Array::from(vec![-128, -1, 0, 127]));
        for a in [floats, uints, ints] {
            let a = a.slice(1, a.len() - 1);
            let code = Code64::of(a.data_type()).expect("fixed width");
            let codes = code.encode(&a);
            assert!(codes.windows(2).all(|w| w[0] < w[1]), "{codes:?}");
            let back = code.decode(a.data_type(), &codes, None).expect("decodes");
            assert_eq!(code.encode(&back), codes);
        }
    }

    #[test]
    fn equal_keys_have_one_canonical_value() {
        let a: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(0.0), Some(-f64::NAN), None]));
        let c = canonical(&a).expect("canonical");
        let bits: Vec<u64> = c.as_primitive::<Float64Type>().values().iter().map(|v| v.to_bits()).collect();
        assert_eq!(&bits[..3], &[0, 0, f64::NAN.to_bits()]);
        assert!(c.is_null(3));
    }
}
