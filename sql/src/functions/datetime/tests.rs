#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Date32Type, IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow::util::display::array_value_to_string;

use super::fields::{Unit, extract};
use super::*;
use crate::text;

fn us(text: &str) -> i64 {
    chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc().timestamp_micros()
}

fn field(name: &str, of: &ArrayRef) -> String {
    let unit = Unit::parse(name, of.data_type()).unwrap();
    let got = extract(unit, of).unwrap();
    assert_eq!(*got.data_type(), unit.extracted_type(of.data_type()));
    array_value_to_string(&got, 0).unwrap()
}

#[test]
fn fields_are_those_of_postgres() {
    let moment: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![us("2024-03-05 10:11:12.5")]));
    for (name, expected) in [
        ("year", "2024"),
        ("second", "12.500000"),
        ("dow", "2"),
        ("isodow", "2"),
        ("doy", "65"),
        ("week", "10"),
        ("quarter", "1"),
        ("epoch", "1709633472.500000"),
        ("milliseconds", "12500.000"),
        ("microseconds", "12500000"),
        ("century", "21"),
        ("decade", "202"),
        ("millennium", "3"),
    ] {
        assert_eq!(field(name, &moment), expected, "{name}");
    }
    let day: ArrayRef = Arc::new(PrimitiveArray::<Date32Type>::from(vec![19_787]));
    assert_eq!(field("epoch", &day), "1709596800");
    assert_eq!(field("isoyear", &day), "2024");
    let parts = IntervalMonthDayNano::new(14, 3, 7_200_000_000_000);
    let interval: ArrayRef = Arc::new(PrimitiveArray::<IntervalMonthDayNanoType>::from(vec![parts]));
    assert_eq!((field("year", &interval), field("hour", &interval)), ("1".to_owned(), "2".to_owned()));
    assert_eq!(field("epoch", &interval), "37008000.000000");
    assert!(Unit::parse("fortnight", moment.data_type()).is_err());
    assert!(Unit::parse("hour", &DataType::Date32).is_err());
}

fn shown(v: IntervalMonthDayNano) -> String {
    let mut out = String::new();
    text::interval(v.months, v.days, v.nanoseconds / 1000, &mut out);
    out
}

#[test]
fn ages_are_read_off_the_calendar() {
    let age = |a: &str, b: &str| shown(intervals::age(us(a), us(b)));
    assert_eq!(age("2024-03-05 00:00:00", "2023-01-31 00:00:00"), "1 year 1 mon 5 days");
    assert_eq!(age("2024-03-05 00:00:00", "2024-01-31 00:00:00"), "1 mon 5 days");
    assert_eq!(age("2024-01-31 00:00:00", "2024-03-05 00:00:00"), "-1 mons -5 days");
    assert_eq!(age("2024-03-01 01:00:00", "2024-02-29 02:00:00"), "23:00:00");
}

#[test]
fn intervals_are_brought_to_one_sign() {
    let v = IntervalMonthDayNano::new;
    let hour = 3_600_000_000_000;
    assert_eq!(shown(intervals::justify_days(v(0, 35, 0))), "1 mon 5 days");
    assert_eq!(shown(intervals::justify_hours(v(0, 0, 27 * hour))), "1 day 03:00:00");
    assert_eq!(shown(intervals::justify_interval(v(1, 0, -hour))), "29 days 23:00:00");
}

#[test]
fn zones_move_clocks_by_their_offset() {
    let times = TimestampMicrosecondArray::from(vec![us("2024-03-05 10:00:00"), us("2024-07-05 10:00:00")]);
    let zone = StringArray::from(vec!["+02:00", "-05:00"]);
    let zoned: ArrayRef = Arc::new(times.clone().with_timezone("UTC"));
    let local = in_zone(&zone, &zoned).unwrap();
    assert_eq!(array_value_to_string(&local, 0).unwrap(), "2024-03-05T12:00:00");
    assert_eq!(array_value_to_string(&local, 1).unwrap(), "2024-07-05T05:00:00");
    let plain: ArrayRef = Arc::new(times);
    let moment = in_zone(&zone, &plain).unwrap();
    assert_eq!(array_value_to_string(&moment, 0).unwrap(), "2024-03-05T08:00:00Z");
    assert!(in_zone(&StringArray::from(vec!["Nowhere", "Nowhere"]), &moment).is_err());
}
