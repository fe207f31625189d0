//! `to_char`, `to_timestamp`, `to_date` and `to_number`: values by patterns such as `YYYY-MM-DD` and `999,990.99`.
//!
//! - [`pattern`]: patterns of times, cut into fields.
//! - [`write`]: times to text; [`read`]: text to times.
//! - [`numbers`]: patterns of numbers, both ways.
//!
//! Names of months and days are English. A time zone is UTC.

mod numbers;
mod pattern;
mod read;
mod write;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Date32Type, Float64Type, IntervalMonthDayNanoType, TimestampMicrosecondType};
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;

use super::cast::cast;
use super::define::{Call, Def, Kind, fail, interval_type, kinds, udfs};
use crate::error::SqlState;
use crate::types::{NUMERIC_DEFAULT, timestamp, timestamptz};
use pattern::Pattern;

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    udfs(&[
        Def {
            name: "to_char",
            aliases: &[],
            takes: to_char_takes,
            gives: |_| DataType::Utf8View,
            strict: true,
            run: to_char,
        },
        Def {
            name: "date_format",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Timestamp, Kind::Text], 0),
            gives: |_| DataType::Utf8View,
            strict: true,
            run: date_format,
        },
        Def {
            name: "to_timestamp",
            aliases: &[],
            takes: |t| match t {
                [n] if n.is_numeric() => Some(vec![DataType::Float64]),
                [one] => Some(vec![Kind::Timestamp.from(one)?]),
                _ => kinds(t, &[Kind::Text, Kind::Text], 0),
            },
            gives: |t| match t {
                // Text alone is read as a timestamp; Postgres has no such form.
                [DataType::Timestamp(..)] => timestamp(),
                _ => timestamptz(),
            },
            strict: true,
            run: to_timestamp,
        },
        Def {
            name: "to_date",
            aliases: &[],
            takes: |t| match t {
                [one] => Some(vec![Kind::Date.from(one)?]),
                _ => kinds(t, &[Kind::Text, Kind::Text], 0),
            },
            gives: |_| DataType::Date32,
            strict: true,
            run: to_date,
        },
        Def {
            name: "to_number",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Text, Kind::Text], 0),
            gives: |_| DataType::Decimal128(NUMERIC_DEFAULT.0, NUMERIC_DEFAULT.1),
            strict: true,
            run: |c| {
                let read = c.texts(|row| numbers::read(c.text(0).value(row), c.text(1).value(row)).map(Some))?;
                cast(&read, c.to)
            },
        },
    ])
}

fn to_char_takes(given: &[DataType]) -> Option<Vec<DataType>> {
    use DataType::*;
    let [value, format] = given else { return None };
    let value = match value {
        Date32 | Date64 | Timestamp(_, None) | Null => timestamp(),
        Timestamp(..) => timestamptz(),
        Interval(_) | Duration(_) | Time32(_) | Time64(_) => interval_type(),
        t if t.is_integer() => Int64,
        t if t.is_floating() => Float64,
        t if t.is_decimal() => t.clone(),
        _ => return None,
    };
    Some(vec![value, Kind::Text.from(format)?])
}

/// The pattern of a row, cut once for all rows that have it.
#[derive(Default)]
struct Patterns {
    last: Option<(String, Pattern)>,
}

impl Patterns {
    fn get(&mut self, text: &str) -> &Pattern {
        if self.last.as_ref().is_none_or(|(known, _)| known != text) {
            self.last = None;
        }
        &self.last.get_or_insert_with(|| (text.to_owned(), Pattern::parse(text))).1
    }
}

fn to_char(c: &Call<'_>) -> Result<ArrayRef> {
    let mut patterns = Patterns::default();
    let format = |row: usize| c.text(1).value(row);
    match c.args[0].data_type() {
        DataType::Timestamp(_, zone) => {
            let (values, zoned) = (c.primitive::<TimestampMicrosecondType>(0), zone.is_some());
            c.texts(|row| {
                let pattern = patterns.get(format(row));
                write::moment(values.value(row), zoned, pattern).map(Some)
            })
        }
        DataType::Interval(_) => {
            let values = c.primitive::<IntervalMonthDayNanoType>(0);
            c.texts(|row| write::interval(values.value(row), patterns.get(format(row))).map(Some))
        }
        DataType::Float64 => {
            let values = c.primitive::<Float64Type>(0);
            c.texts(|row| numbers::write_double(values.value(row), format(row)).map(Some))
        }
        _ => {
            let digits = cast(&c.args[0], &DataType::Utf8)?;
            let digits = digits.as_string::<i32>();
            c.texts(|row| numbers::write(digits.value(row), format(row)).map(Some))
        }
    }
}

/// Patterns of `strftime`.
fn date_format(c: &Call<'_>) -> Result<ArrayRef> {
    use chrono::format::{Item, StrftimeItems};
    let values = c.primitive::<TimestampMicrosecondType>(0);
    c.texts(|row| {
        let items: Vec<Item<'_>> = StrftimeItems::new(c.text(1).value(row)).collect();
        let moment = chrono::DateTime::from_timestamp_micros(values.value(row));
        match moment {
            _ if items.contains(&Item::Error) => {
                fail(SqlState::INVALID_PARAMETER_VALUE, format!("invalid format \"{}\"", c.text(1).value(row)))
            }
            None => fail(SqlState::DATETIME_OVERFLOW, "timestamp out of range"),
            Some(moment) => Ok(Some(moment.format_with_items(items.iter()).to_string())),
        }
    })
}

fn to_timestamp(c: &Call<'_>) -> Result<ArrayRef> {
    match c.args {
        [one] if *one.data_type() == DataType::Float64 => {
            let seconds = c.primitive::<Float64Type>(0);
            c.primitives::<TimestampMicrosecondType>(|row| {
                let us = (seconds.value(row) * 1e6).round_ties_even();
                match us.is_nan() || us.abs() >= 9.2e18 {
                    true => {
                        fail(SqlState::DATETIME_OVERFLOW, format!("timestamp out of range: \"{}\"", seconds.value(row)))
                    }
                    false => Ok(Some(us as i64)),
                }
            })
        }
        [one] => cast(one, c.to),
        _ => {
            let mut patterns = Patterns::default();
            c.primitives::<TimestampMicrosecondType>(|row| {
                read::moment(c.text(0).value(row), patterns.get(c.text(1).value(row))).map(Some)
            })
        }
    }
}

fn to_date(c: &Call<'_>) -> Result<ArrayRef> {
    if let [one] = c.args {
        return Ok(Arc::clone(one));
    }
    let mut patterns = Patterns::default();
    c.primitives::<Date32Type>(|row| read::date(c.text(0).value(row), patterns.get(c.text(1).value(row))).map(Some))
}
