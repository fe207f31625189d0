//! Windows of whole days by the clock of a time zone: `tumble_zone_start(ts, size, zone [, offset])` and
//! `tumble_zone_end`.
//!
//! A day begins with the first moment at which the zone's clock shows its midnight or, where that hour is left out, the
//! first moment after. So days have 23, 24 or 25 hours, every moment is in exactly one, and both functions never fall while
//! time goes on. Windows of several days are counted from 1970-01-01, moved by the offset.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{
    IntervalUnit, SqlError, SqlState, interval_ticks, interval_type, out_of_range, user_error, wrong_arguments,
};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Both.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let one = |end| ScalarUDF::from(ZoneWindow { end, signature: Signature::user_defined(Volatility::Immutable) });
    vec![one(false), one(true)]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ZoneWindow {
    end: bool,
    signature: Signature,
}

/// A zone's days, so many to a window.
struct Days {
    zone: Tz,
    size: i64,
    offset: i64,
}

impl ZoneWindow {
    fn days(constants: &[&ScalarValue]) -> Result<Days> {
        let [size, zone, rest @ ..] = constants else {
            return Err(wrong_arguments("tumble_zone_start(ts, size, zone [, offset])"));
        };
        let ScalarValue::IntervalMonthDayNano(Some(i)) =
            size.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano))?
        else {
            return Err(user_error(SqlState::INVALID_PARAMETER_VALUE, "the size of a time window must not be NULL"));
        };
        // Months are refused with the words that other windows have for them.
        let ticks = interval_ticks(size, "size", SECOND)?;
        if i.nanoseconds != 0 {
            let e = SqlError::unsupported("a window in a time zone has whole days")
                .hint("Write INTERVAL '1 day'. Windows of hours and minutes need no time zone.");
            return Err(DataFusionError::External(Box::new(e)));
        }
        super::positive(ticks, "size")?;
        let name = match zone.cast_to(&DataType::Utf8)? {
            ScalarValue::Utf8(Some(name)) => name,
            _ => return Err(user_error(SqlState::INVALID_PARAMETER_VALUE, "a time zone must not be NULL")),
        };
        let spelled = if name.eq_ignore_ascii_case("utc") { "UTC" } else { name.as_str() };
        let zone: Tz = spelled.parse().map_err(|_| {
            user_error(SqlState::INVALID_PARAMETER_VALUE, format!("time zone \"{name}\" not recognized"))
        })?;
        let offset = rest.first().map_or(Ok(0), |o| interval_ticks(o, "offset", SECOND))?;
        Ok(Days { zone, size: ticks, offset })
    }
}

impl Days {
    /// East of Greenwich, in microseconds.
    fn east(&self, instant: NaiveDateTime) -> i64 {
        i64::from(self.zone.offset_from_utc_datetime(&instant).fix().local_minus_utc()) * SECOND
    }

    /// Where the n-th window begins.
    fn boundary(&self, n: i64) -> Result<i64> {
        let shown = n.checked_mul(self.size).and_then(|l| l.checked_add(self.offset)).ok_or_else(out_of_range)?;
        let local = moment(shown)?;
        let seconds = |o: <Tz as TimeZone>::Offset| i64::from(o.fix().local_minus_utc()) * SECOND;
        Ok(match self.zone.offset_from_local_datetime(&local) {
            LocalResult::Single(o) => shown - seconds(o),
            // Shown twice: the first time counts.
            LocalResult::Ambiguous(a, b) => shown - seconds(a).max(seconds(b)),
            LocalResult::None => {
                // Left out: the moment the clock is put forward, which is after one that shows less and not after one that
                // shows more.
                let before = self.east(moment(shown - 2 * DAY)?);
                let (mut low, mut high) = (shown - before - DAY, shown - before + SECOND);
                while high - low > SECOND {
                    let middle = low + (high - low) / (2 * SECOND) * SECOND;
                    if middle + self.east(moment(middle)?) >= shown { high = middle } else { low = middle }
                }
                high
            }
        })
    }

    /// The window a moment is in.
    fn window(&self, us: i64) -> Result<(i64, i64)> {
        let local = us.checked_add(self.east(moment(us)?)).ok_or_else(out_of_range)?;
        let mut n = local.checked_sub(self.offset).ok_or_else(out_of_range)?.div_euclid(self.size);
        // A clock put back over midnight shows a day again that is over.
        let mut start = self.boundary(n)?;
        while start > us {
            n -= 1;
            start = self.boundary(n)?;
        }
        loop {
            let end = self.boundary(n + 1)?;
            if us < end {
                return Ok((start, end));
            }
            (n, start) = (n + 1, end);
        }
    }
}

fn moment(us: i64) -> Result<NaiveDateTime> {
    DateTime::from_timestamp_micros(us).map(|t| t.naive_utc()).ok_or_else(out_of_range)
}

impl ScalarUDFImpl for ZoneWindow {
    fn name(&self) -> &str {
        if self.end { "tumble_zone_end" } else { "tumble_zone_start" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, size, zone, rest @ ..] = types else {
            return Err(wrong_arguments(&format!("{}(ts, size, zone [, offset])", self.name())));
        };
        let time = match time {
            DataType::Timestamp(_, Some(_)) => time.clone(),
            DataType::Null => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            other => {
                let e = SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!("a window in a time zone needs a timestamp with time zone, not {other}"),
                )
                .hint("A timestamp without time zone says what a clock showed: leave the time zone out, or write ts AT TIME ZONE 'UTC'.");
                return Err(DataFusionError::External(Box::new(e)));
            }
        };
        if !matches!(zone, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null) {
            return Err(user_error(SqlState::DATATYPE_MISMATCH, format!("a time zone is a text, not {zone}")));
        }
        let mut out = vec![time, interval_type(size)?, DataType::Utf8];
        match rest {
            [] => {}
            [offset] => out.push(interval_type(offset)?),
            _ => return Err(wrong_arguments(&format!("{}(ts, size, zone [, offset])", self.name()))),
        }
        Ok(out)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let types = self.coerce_types(&types)?;
        let constants = args.scalar_arguments.get(1..).and_then(|c| c.iter().copied().collect::<Option<Vec<_>>>());
        if let Some(constants) = constants {
            Self::days(&constants)?;
        }
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times: ArrayRef = args.args[0].to_array(args.number_rows)?;
        let mut constants = Vec::with_capacity(args.args.len());
        for arg in &args.args[1..] {
            match arg {
                ColumnarValue::Scalar(s) => constants.push(s),
                ColumnarValue::Array(_) => {
                    let message = "the size and the time zone of a window must be constants";
                    return Err(user_error(SqlState::FEATURE_NOT_SUPPORTED, message));
                }
            }
        }
        let days = Self::days(&constants)?;
        let data_type = times.data_type().clone();
        let zone = match &data_type {
            DataType::Timestamp(_, zone) => zone.clone(),
            other => return Err(DataFusionError::Internal(format!("a timestamp expected, not {other}"))),
        };
        let micros = cast(&times, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
        // Times that follow each other are in the same window mostly.
        let mut last = (i64::MAX, i64::MIN);
        let mut one = |us: Option<i64>| -> Result<Option<i64>> {
            let Some(us) = us else { return Ok(None) };
            if us < last.0 || us >= last.1 {
                last = days.window(us)?;
            }
            Ok(Some(if self.end { last.1 } else { last.0 }))
        };
        let micros = micros.as_primitive::<TimestampMicrosecondType>();
        let out = micros.iter().map(&mut one).collect::<Result<PrimitiveArray<TimestampMicrosecondType>>>()?;
        Ok(ColumnarValue::Array(cast(&(Arc::new(out.with_timezone_opt(zone)) as ArrayRef), &data_type)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(zone: &str, size: i64) -> Days {
        Days { zone: zone.parse().expect("a zone"), size: size * DAY, offset: 0 }
    }

    fn us(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).expect("a time").timestamp_micros()
    }

    fn window(zone: &str, at: &str) -> (String, String) {
        let (a, b) = days(zone, 1).window(us(at)).expect("a window");
        let text = |us: i64| DateTime::from_timestamp_micros(us).expect("a time").format("%d %H:%M").to_string();
        (text(a), text(b))
    }

    #[test]
    fn days_have_as_many_hours_as_the_clock_says() {
        let is = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(window("Europe/Berlin", "2026-03-29T12:00:00Z"), is("28 23:00", "29 22:00"));
        assert_eq!(window("Europe/Berlin", "2026-10-25T12:00:00Z"), is("24 22:00", "25 23:00"));
        assert_eq!(window("Europe/Berlin", "2026-10-25T23:00:00Z"), is("25 23:00", "26 23:00"));
        assert_eq!(window("UTC", "2026-10-25T23:00:00Z"), is("25 00:00", "26 00:00"));
        // Midnight is left out: the day begins at one o'clock.
        assert_eq!(window("Africa/Cairo", "2024-04-25T21:59:59Z"), is("24 22:00", "25 22:00"));
        assert_eq!(window("Africa/Cairo", "2024-04-25T22:00:00Z"), is("25 22:00", "26 21:00"));
        // Midnight is shown twice.
        assert_eq!(window("America/Havana", "2024-11-03T04:30:00Z"), is("03 04:00", "04 05:00"));
        // A day that is left out.
        assert_eq!(window("Pacific/Apia", "2011-12-30T10:00:00Z"), is("30 10:00", "31 10:00"));
    }

    #[test]
    fn every_moment_is_in_one_window_and_starts_never_fall() {
        for zone in ["Europe/Berlin", "Africa/Cairo", "America/Havana", "America/Goose_Bay", "Pacific/Apia"] {
            for size in [1, 3] {
                let days = days(zone, size);
                let mut last: Option<(i64, i64)> = None;
                let from = us("2010-06-01T00:00:00Z");
                for i in 0..9000 {
                    let t = from + i * 97 * 60 * SECOND;
                    let (start, end) = days.window(t).expect("a window");
                    assert!(start <= t && t < end, "{zone} {t}");
                    if let Some(before) = last {
                        assert!(before == (start, end) || before.1 == start, "{zone} {t}");
                    }
                    last = Some((start, end));
                }
            }
        }
    }
}
