//! The stable hash of keys and rows, and the vnode function. Part of the storage format: golden vectors in the tests
//! below must never change without a new [`HASH_VERSION`].
//!
//! Values that SQL calls equal hash alike: -0.0 and +0.0, all NaNs, a string as Utf8, LargeUtf8, Utf8View or
//! dictionary. Integers hash by value at 64 bits, so that Int32 5 and Int64 5 meet.

use std::hash::Hasher as _;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Stored in every manifest; another version means another layout of state.
pub const HASH_VERSION: u32 = 1;
/// Hash ranges a job's state is divided into.
pub const VNODE_COUNT: u32 = 1024;
const NULL_HASH: u64 = 0x9e37_79b9_7f4a_7c15;
const SEED: u64 = 0x4d69_6c6c_7374_7265; // "Millstre"

/// The vnode of a hash: its top ten bits.
#[inline]
pub fn vnode(hash: u64) -> u32 {
    (hash >> 54) as u32
}

/// The shard, of `shards`, that owns a hash: contiguous vnode ranges.
#[inline]
pub fn shard_of(hash: u64, shards: u32) -> u32 {
    (u64::from(vnode(hash)) * u64::from(shards) / u64::from(VNODE_COUNT)) as u32
}

/// A 64-bit finaliser: bijective, so a single integer column never collides.
#[inline]
fn mix(mut x: u64) -> u64 {
    x ^= x >> 32;
    x = x.wrapping_mul(0xe903_6e5b_6b8d_1d2d);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 32;
    x
}

#[inline]
fn combine(h: u64, v: u64) -> u64 {
    mix(h.rotate_left(23).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ v)
}

/// Hashes of rows `0..rows` over these columns. No columns: every row hashes alike.
pub fn hash_rows(columns: &[ArrayRef], rows: usize) -> Vec<u64> {
    let mut out = vec![SEED; rows];
    for (i, c) in columns.iter().enumerate() {
        hash_column(c, &mut out, i == 0);
    }
    out
}

macro_rules! ints {
    ($array:expr, $out:expr, $first:expr, $t:ty) => {{
        let a = $array.as_primitive::<$t>();
        let values = a.values();
        put($array, $out, $first, |i| mix(values[i] as i64 as u64))
    }};
}

#[inline]
fn put(array: &dyn Array, out: &mut [u64], first: bool, f: impl Fn(usize) -> u64) {
    let store = |h: &mut u64, v: u64| *h = if first { v } else { combine(*h, v) };
    match array.logical_nulls().filter(|n| n.null_count() > 0) {
        None => out.iter_mut().enumerate().for_each(|(i, h)| store(h, f(i))),
        Some(nulls) => {
            out.iter_mut().enumerate().for_each(|(i, h)| store(h, if nulls.is_valid(i) { f(i) } else { NULL_HASH }))
        }
    }
}

fn float_bits(x: f64) -> u64 {
    if x.is_nan() {
        0x7ff8_0000_0000_0000
    } else if x == 0.0 {
        0
    } else {
        x.to_bits()
    }
}

fn hash_column(array: &ArrayRef, out: &mut [u64], first: bool) {
    let a = array.as_ref();
    match a.data_type() {
        DataType::Int8 => ints!(a, out, first, Int8Type),
        DataType::Int16 => ints!(a, out, first, Int16Type),
        DataType::Int32 => ints!(a, out, first, Int32Type),
        DataType::Int64 => ints!(a, out, first, Int64Type),
        DataType::UInt8 => ints!(a, out, first, UInt8Type),
        DataType::UInt16 => ints!(a, out, first, UInt16Type),
        DataType::UInt32 => ints!(a, out, first, UInt32Type),
        DataType::UInt64 => ints!(a, out, first, UInt64Type),
        DataType::Date32 => ints!(a, out, first, Date32Type),
        DataType::Date64 => ints!(a, out, first, Date64Type),
        DataType::Time32(TimeUnit::Second) => ints!(a, out, first, Time32SecondType),
        DataType::Time32(_) => ints!(a, out, first, Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => ints!(a, out, first, Time64MicrosecondType),
        DataType::Time64(_) => ints!(a, out, first, Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => ints!(a, out, first, TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => ints!(a, out, first, TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => ints!(a, out, first, TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => ints!(a, out, first, TimestampNanosecondType),
        DataType::Duration(TimeUnit::Second) => ints!(a, out, first, DurationSecondType),
        DataType::Duration(TimeUnit::Millisecond) => ints!(a, out, first, DurationMillisecondType),
        DataType::Duration(TimeUnit::Microsecond) => ints!(a, out, first, DurationMicrosecondType),
        DataType::Duration(TimeUnit::Nanosecond) => ints!(a, out, first, DurationNanosecondType),
        DataType::Float32 => {
            let v = a.as_primitive::<Float32Type>().values();
            put(a, out, first, |i| mix(float_bits(f64::from(v[i]))))
        }
        DataType::Float64 => {
            let v = a.as_primitive::<Float64Type>().values();
            put(a, out, first, |i| mix(float_bits(v[i])))
        }
        DataType::Decimal128(..) => {
            let v = a.as_primitive::<Decimal128Type>().values();
            put(a, out, first, |i| combine(mix(v[i] as u64), (v[i] >> 64) as u64))
        }
        DataType::Decimal256(..) => {
            let v = a.as_primitive::<Decimal256Type>().values();
            put(a, out, first, |i| xxh3_64(&v[i].to_le_bytes()))
        }
        DataType::Interval(IntervalUnit::YearMonth) => ints!(a, out, first, IntervalYearMonthType),
        DataType::Interval(IntervalUnit::DayTime) => {
            let v = a.as_primitive::<IntervalDayTimeType>().values();
            put(a, out, first, |i| combine(mix(v[i].days as u64), v[i].milliseconds as u64))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let v = a.as_primitive::<IntervalMonthDayNanoType>().values();
            put(a, out, first, |i| combine(combine(mix(v[i].months as u64), v[i].days as u64), v[i].nanoseconds as u64))
        }
        DataType::Boolean => {
            let v = a.as_boolean();
            put(a, out, first, |i| mix(1 + u64::from(v.value(i))))
        }
        DataType::Utf8 => {
            let v = a.as_string::<i32>();
            put(a, out, first, |i| xxh3_64(v.value(i).as_bytes()))
        }
        DataType::LargeUtf8 => {
            let v = a.as_string::<i64>();
            put(a, out, first, |i| xxh3_64(v.value(i).as_bytes()))
        }
        DataType::Utf8View => {
            let v = a.as_string_view();
            put(a, out, first, |i| xxh3_64(v.value(i).as_bytes()))
        }
        DataType::Binary => {
            let v = a.as_binary::<i32>();
            put(a, out, first, |i| xxh3_64(v.value(i)))
        }
        DataType::LargeBinary => {
            let v = a.as_binary::<i64>();
            put(a, out, first, |i| xxh3_64(v.value(i)))
        }
        DataType::BinaryView => {
            let v = a.as_binary_view();
            put(a, out, first, |i| xxh3_64(v.value(i)))
        }
        DataType::FixedSizeBinary(_) => {
            let v = a.as_fixed_size_binary();
            put(a, out, first, |i| xxh3_64(v.value(i)))
        }
        DataType::Null => put(a, out, first, |_| NULL_HASH),
        // Nested values: hash each row's part on its own. Rare as keys, so simplicity wins over speed.
        DataType::List(_) => {
            let v = a.as_list::<i32>();
            put(a, out, first, |i| hash_nested(&v.value(i)))
        }
        DataType::LargeList(_) => {
            let v = a.as_list::<i64>();
            put(a, out, first, |i| hash_nested(&v.value(i)))
        }
        DataType::FixedSizeList(..) => {
            let v = a.as_fixed_size_list();
            put(a, out, first, |i| hash_nested(&v.value(i)))
        }
        DataType::Map(..) => {
            let v = a.as_map();
            put(a, out, first, |i| {
                let entries: ArrayRef = std::sync::Arc::new(v.value(i));
                hash_nested(&entries)
            })
        }
        DataType::Struct(_) => {
            let v = a.as_struct();
            let inner = hash_rows(v.columns(), v.len());
            put(a, out, first, |i| inner[i])
        }
        // Dictionaries, runs and other encodings hash as the values they stand for.
        other => {
            let plain = match other {
                DataType::Dictionary(_, v) => arrow::compute::cast(a, v).ok(),
                DataType::RunEndEncoded(_, v) => arrow::compute::cast(a, v.data_type()).ok(),
                _ => None,
            };
            match plain {
                Some(p) => hash_column(&p, out, first),
                None => {
                    let text = arrow::util::display::FormatOptions::default();
                    match arrow::util::display::ArrayFormatter::try_new(a, &text) {
                        Ok(f) => put(a, out, first, |i| xxh3_64(f.value(i).to_string().as_bytes())),
                        Err(_) => put(a, out, first, |_| NULL_HASH),
                    }
                }
            }
        }
    }
}

fn hash_nested(values: &ArrayRef) -> u64 {
    let mut h = Xxh3::with_seed(SEED);
    h.write_u64(values.len() as u64);
    for v in hash_rows(std::slice::from_ref(values), values.len()) {
        h.write_u64(v);
    }
    h.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{DictionaryArray, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::Int32Type as I32;
    use std::sync::Arc;

    #[test]
    fn sql_equal_values_hash_alike() {
        let h = |a: ArrayRef| hash_rows(std::slice::from_ref(&a), a.len());
        let f = h(Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN])));
        assert_eq!((f[0], f[2]), (f[1], f[3]));
        assert_eq!(h(Arc::new(Int32Array::from(vec![5, -1]))), h(Arc::new(Int64Array::from(vec![5, -1]))));
        let s = h(Arc::new(StringArray::from(vec![Some("a"), None])));
        assert_eq!(s, h(Arc::new(StringViewArray::from(vec![Some("a"), None]))));
        let d: DictionaryArray<I32> = vec![Some("a"), None].into_iter().collect();
        assert_eq!(s, h(Arc::new(d)));
    }

    #[test]
    fn golden_vectors() {
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-1), None]));
        let text: ArrayRef = Arc::new(StringArray::from(vec!["", "a", "millstream", "x"]));
        let got = hash_rows(&[ints, text], 4);
        assert_eq!(got, GOLDEN, "the stable hash changed: this breaks every stored state");
    }
    const GOLDEN: [u64; 4] = [10102269009868206260, 12154864734156244939, 981527702872495447, 7143303233933418911];

    #[test]
    fn shards_are_contiguous_and_cover() {
        for p in [1u32, 2, 3, 8] {
            let owners: Vec<u32> = (0..VNODE_COUNT).map(|v| shard_of(u64::from(v) << 54, p)).collect();
            assert!(owners.windows(2).all(|w| w[0] <= w[1]));
            assert_eq!((owners[0], owners[1023]), (0, p - 1));
        }
    }
}
