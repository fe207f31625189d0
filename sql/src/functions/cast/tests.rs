#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Decimal128Array, Float32Array, Float64Array, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::array_value_to_string;

use super::cast;
use crate::session::from_datafusion;

/// Values of `from` cast to `to`, or the error.
fn shown(from: ArrayRef, to: &DataType) -> String {
    match cast(&from, to) {
        Ok(a) => {
            assert_eq!(a.data_type(), to);
            let one = |i| if a.is_null(i) { "NULL".to_owned() } else { array_value_to_string(&a, i).unwrap() };
            (0..a.len()).map(one).collect::<Vec<_>>().join("|")
        }
        Err(e) => {
            let e = from_datafusion(e);
            format!("{} {}", e.code.0, e.message)
        }
    }
}

fn text(values: &[&str], to: &DataType) -> String {
    shown(Arc::new(StringArray::from(values.to_vec())), to)
}

#[test]
fn text_is_read_as_postgres_reads_it() {
    use DataType::*;
    assert_eq!(text(&[" 42 ", "-7", "+1"], &Int32), "42|-7|1");
    assert_eq!(text(&["abc"], &Int32), "22P02 invalid input syntax for type integer: \"abc\"");
    assert_eq!(text(&["1.5"], &Int64), "22P02 invalid input syntax for type bigint: \"1.5\"");
    assert_eq!(text(&["99999"], &Int16), "22003 value \"99999\" is out of range for type smallint");
    assert_eq!(text(&["1e3", ".5", "5.", "NaN", "-Infinity"], &Float64), "1000.0|0.5|5.0|NaN|-inf");
    assert_eq!(text(&["1e400"], &Float64), "22003 \"1e400\" is out of range for type double precision");
    assert_eq!(text(&["1e-400"], &Float64), "22003 \"1e-400\" is out of range for type double precision");
    assert_eq!(text(&["x"], &Float64), "22P02 invalid input syntax for type double precision: \"x\"");
    assert_eq!(
        text(&["t", "YES", "on", "1", "f", "of", "0", "n"], &Boolean),
        "true|true|true|true|false|false|false|false"
    );
    assert_eq!(text(&["o"], &Boolean), "22P02 invalid input syntax for type boolean: \"o\"");
    assert_eq!(text(&["1.005", "-1.005", "1e2", "0.0000001"], &Decimal128(10, 2)), "1.01|-1.01|100.00|0.00");
    assert_eq!(text(&["123456789"], &Decimal128(10, 2)), "22003 numeric field overflow");
    assert_eq!(text(&["1,5"], &Decimal128(10, 2)), "22P02 invalid input syntax for type numeric: \"1,5\"");
}

#[test]
fn dates_and_times_are_read_in_iso_forms() {
    let (date, time) = (DataType::Date32, DataType::Time64(TimeUnit::Microsecond));
    assert_eq!(
        text(&["2024-02-29", "2024-1-5", "20240105", "2024/01/05", "2024-01-05 10:00"], &date),
        "2024-02-29|2024-01-05|2024-01-05|2024-01-05|2024-01-05"
    );
    assert_eq!(text(&["2024-02-30"], &date), "22008 date/time field value out of range: \"2024-02-30\"");
    assert_eq!(text(&["soon"], &date), "22007 invalid input syntax for type date: \"soon\"");
    assert_eq!(text(&["04:05", "04:05:06.7891236", "1:30 pm"], &time), "04:05:00|04:05:06.789124|13:30:00");
    let plain = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(
        text(&["2024-01-01", "2024-01-01T10:00:00Z", "2024-01-01 10:00:00.5+02", "3024-01-01 00:00"], &plain),
        "2024-01-01T00:00:00|2024-01-01T10:00:00|2024-01-01T10:00:00.500|3024-01-01T00:00:00",
    );
    assert_eq!(text(&["2024-01-01 25:00"], &plain), "22008 date/time field value out of range: \"2024-01-01 25:00\"");
    assert_eq!(text(&["2024-01-01 x"], &plain), "22007 invalid input syntax for type timestamp: \"2024-01-01 x\"");
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(
        text(&["2024-01-01 10:00+02", "2024-01-01 10:00:00-0130"], &zoned),
        "2024-01-01T08:00:00Z|2024-01-01T11:30:00Z"
    );
}

#[test]
fn floats_round_to_even_and_decimals_away_from_zero() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![2.5, 3.5, -2.5, 0.4]));
    assert_eq!(shown(floats, &DataType::Int32), "2|4|-2|0");
    let out = |v: f64, to: &DataType| shown(Arc::new(Float64Array::from(vec![v])), to);
    assert_eq!(out(3e9, &DataType::Int32), "22003 integer out of range");
    assert_eq!(out(f64::NAN, &DataType::Int64), "22003 bigint out of range");
    assert_eq!(out(9223372036854775808.0, &DataType::Int64), "22003 bigint out of range");
    assert_eq!(out(-9223372036854775808.0, &DataType::Int64), "-9223372036854775808");
    let decimals: ArrayRef =
        Arc::new(Decimal128Array::from(vec![25, 35, -25, 24]).with_precision_and_scale(5, 1).unwrap());
    assert_eq!(shown(Arc::clone(&decimals), &DataType::Int64), "3|4|-3|2");
    assert_eq!(shown(decimals, &DataType::Float64), "2.5|3.5|-2.5|2.4");
}

#[test]
fn decimals_and_floats_become_each_other_by_their_digits() {
    let long: ArrayRef =
        Arc::new(Decimal128Array::from(vec![30000000000000004]).with_precision_and_scale(20, 17).unwrap());
    assert_eq!(shown(long, &DataType::Float64), "0.30000000000000004");
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.005, 0.1 + 0.2, -1.005]));
    assert_eq!(shown(Arc::clone(&floats), &DataType::Decimal128(10, 2)), "1.01|0.30|-1.01");
    assert_eq!(
        shown(floats, &DataType::Decimal256(50, 20)),
        "1.00500000000000000000|0.30000000000000000000|-1.00500000000000000000"
    );
    let real: ArrayRef = Arc::new(Float32Array::from(vec![0.1]));
    assert_eq!(shown(real, &DataType::Decimal128(10, 8)), "0.10000000");
    let huge: ArrayRef = Arc::new(Float64Array::from(vec![1e30]));
    assert_eq!(shown(huge, &DataType::Decimal128(10, 2)), "22003 numeric field overflow");
}

#[test]
fn texts_of_values_are_those_of_the_wire() {
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(1e20), None]));
    assert_eq!(shown(floats, &DataType::Utf8), "1|1e+20|NULL");
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_709_164_800_120_000]));
    assert_eq!(shown(times, &DataType::Utf8View), "2024-02-29 00:00:00.12");
}
