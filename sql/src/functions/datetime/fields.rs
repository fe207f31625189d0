//! The fields of dates, times and intervals.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int32Array, Int64Array};
use arrow::datatypes::{
    DataType, Date32Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use chrono::{Datelike as _, NaiveDate};
use datafusion::error::{DataFusionError, Result};

use super::{DAY_US, fail, split_day};
use crate::error::SqlState;
use crate::text::civil;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Millennium,
    Century,
    Decade,
    Year,
    IsoYear,
    Quarter,
    Month,
    Week,
    Day,
    Dow,
    IsoDow,
    Doy,
    Hour,
    Minute,
    Second,
    Milliseconds,
    Microseconds,
    Epoch,
    Timezone,
}

const NAMES: &[(&str, Unit)] = &[
    ("millennium", Unit::Millennium),
    ("century", Unit::Century),
    ("decade", Unit::Decade),
    ("year", Unit::Year),
    ("isoyear", Unit::IsoYear),
    ("quarter", Unit::Quarter),
    ("month", Unit::Month),
    ("week", Unit::Week),
    ("day", Unit::Day),
    ("dow", Unit::Dow),
    ("isodow", Unit::IsoDow),
    ("doy", Unit::Doy),
    ("hour", Unit::Hour),
    ("minute", Unit::Minute),
    ("second", Unit::Second),
    ("millisecond", Unit::Milliseconds),
    ("microsecond", Unit::Microseconds),
    ("epoch", Unit::Epoch),
    ("timezone", Unit::Timezone),
    ("timezone_hour", Unit::Timezone),
    ("timezone_minute", Unit::Timezone),
];

impl Unit {
    /// The unit of a name; plurals are the same.
    pub(super) fn parse(name: &str, of: &DataType) -> Result<Self> {
        let lower = name.trim().to_lowercase();
        let plain = match lower.as_str() {
            "centuries" => "century",
            "millennia" => "millennium",
            other => other.strip_suffix('s').filter(|p| NAMES.iter().any(|(n, _)| n == p)).unwrap_or(other),
        };
        let found = NAMES.iter().find(|(n, _)| *n == plain).map(|(_, u)| *u);
        found.filter(|u| u.is_of(of)).ok_or_else(|| {
            let what = match of {
                DataType::Date32 => "date",
                DataType::Time64(_) => "time without time zone",
                DataType::Interval(_) => "interval",
                DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
                _ => "timestamp without time zone",
            };
            fail(SqlState::INVALID_PARAMETER_VALUE, format!("unit \"{lower}\" not recognized for type {what}"))
        })
    }

    fn is_of(self, t: &DataType) -> bool {
        use Unit::*;
        let clock = matches!(self, Hour | Minute | Second | Milliseconds | Microseconds);
        match t {
            DataType::Date32 => !clock && self != Timezone,
            DataType::Time64(_) => clock || self == Epoch,
            DataType::Interval(_) => !matches!(self, IsoYear | Week | Dow | IsoDow | Doy | Timezone),
            DataType::Timestamp(_, zone) => self != Timezone || zone.is_some(),
            _ => false,
        }
    }

    /// The type `extract` gives for it.
    pub(super) fn extracted_type(self, of: &DataType) -> DataType {
        match self {
            Self::Second => DataType::Decimal128(8, 6),
            Self::Milliseconds => DataType::Decimal128(8, 3),
            Self::Epoch if *of == DataType::Date32 => DataType::Int64,
            Self::Epoch => DataType::Decimal128(20, 6),
            _ => DataType::Int32,
        }
    }

    /// The number for a moment: as it is, or in millionths for seconds and epoch, thousandths for milliseconds.
    fn of_moment(self, us: i64) -> Option<i64> {
        let (days, tod) = split_day(us);
        let (year, month, day) = civil(days);
        // There is no year zero.
        let shown = if year <= 0 { year - 1 } else { year };
        let date = || NaiveDate::from_epoch_days(i32::try_from(days).ok()?);
        let up = |n: i64| if shown > 0 { (shown + n - 1) / n } else { -((n - 1 - shown) / n) };
        Some(match self {
            Self::Millennium => up(1000),
            Self::Century => up(100),
            Self::Decade => year.div_euclid(10),
            Self::Year => shown,
            Self::IsoYear => i64::from(date()?.iso_week().year()),
            Self::Quarter => i64::from((month - 1) / 3 + 1),
            Self::Month => i64::from(month),
            Self::Week => i64::from(date()?.iso_week().week()),
            Self::Day => i64::from(day),
            // 1970-01-01 was a Thursday.
            Self::Dow => (days + 4).rem_euclid(7),
            Self::IsoDow => (days + 3).rem_euclid(7) + 1,
            Self::Doy => i64::from(date()?.ordinal()),
            Self::Epoch => us,
            Self::Timezone => 0,
            _ => return self.of_clock(tod),
        })
    }

    fn of_clock(self, us: i64) -> Option<i64> {
        Some(match self {
            Self::Hour => us / 3_600_000_000,
            Self::Minute => us / 60_000_000 % 60,
            Self::Second | Self::Milliseconds | Self::Microseconds => us % 60_000_000,
            Self::Epoch => us,
            _ => return None,
        })
    }

    fn of_interval(self, months: i32, days: i32, us: i64) -> Option<i64> {
        let (months, days) = (i64::from(months), i64::from(days));
        let years = months / 12;
        Some(match self {
            Self::Millennium => years / 1000,
            Self::Century => years / 100,
            Self::Decade => years / 10,
            Self::Year => years,
            Self::Quarter => months % 12 / 3 + 1,
            Self::Month => months % 12,
            Self::Day => days,
            // A year has 365.25 days, a month 30.
            Self::Epoch => years
                .checked_mul(31_557_600_000_000)?
                .checked_add((months % 12 * 30 + days).checked_mul(DAY_US)?)?
                .checked_add(us)?,
            _ => return self.of_clock(us),
        })
    }
}

/// The field of every value, as [`Unit::extracted_type`] says.
pub(super) fn extract(unit: Unit, values: &ArrayRef) -> Result<ArrayRef> {
    let beyond = || fail(SqlState::DATETIME_OVERFLOW, "date/time field value out of range".to_owned());
    let numbers: Vec<Option<Option<i64>>> = match values.data_type() {
        DataType::Timestamp(..) => {
            values.as_primitive::<TimestampMicrosecondType>().iter().map(|v| v.map(|us| unit.of_moment(us))).collect()
        }
        DataType::Date32 => values
            .as_primitive::<Date32Type>()
            .iter()
            .map(|v| v.map(|d| unit.of_moment(i64::from(d).checked_mul(DAY_US)?)))
            .collect(),
        DataType::Time64(_) => {
            values.as_primitive::<Time64MicrosecondType>().iter().map(|v| v.map(|us| unit.of_clock(us))).collect()
        }
        DataType::Interval(_) => values
            .as_primitive::<IntervalMonthDayNanoType>()
            .iter()
            .map(|v| v.map(|i| unit.of_interval(i.months, i.days, i.nanoseconds / 1000)))
            .collect(),
        other => return Err(DataFusionError::Internal(format!("no fields of {other}"))),
    };
    let numbers =
        numbers.into_iter().map(|v| v.map(|n| n.ok_or_else(beyond)).transpose()).collect::<Result<Vec<_>>>()?;
    let wide = |v: &Option<i64>| v.map(i128::from);
    Ok(match unit.extracted_type(values.data_type()) {
        DataType::Decimal128(p, s) => {
            Arc::new(numbers.iter().map(wide).collect::<Decimal128Array>().with_precision_and_scale(p, s)?)
        }
        DataType::Int64 => Arc::new(numbers.into_iter().map(|v| v.map(|us| us / 1_000_000)).collect::<Int64Array>()),
        _ => {
            let narrow = |v: Option<i64>| v.map(|n| i32::try_from(n).map_err(|_| beyond())).transpose();
            Arc::new(numbers.into_iter().map(narrow).collect::<Result<Int32Array>>()?)
        }
    })
}
