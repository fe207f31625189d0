//! Intervals times numbers, and times made of their parts.

use arrow::datatypes::{
    DataType, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimeUnit,
};
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;

use crate::error::{SqlError, SqlState};
use crate::functions::define::{Call, Def, Kind, fail, interval_type, kinds, udfs};

/// `interval * number`
pub(crate) const TIMES: &str = "interval_times";
/// `interval / number`
pub(crate) const OVER: &str = "interval_over";

/// The parts of `make_interval`, in the order of its arguments.
pub(crate) const PARTS: [&str; 7] = ["years", "months", "weeks", "days", "hours", "mins", "secs"];

const DEFS: &[Def] = &[
    Def {
        name: TIMES,
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Interval, Kind::Double], 0),
        gives: |_| interval_type(),
        strict: true,
        run: |c| scaled(c, |v, factor| Ok(v * factor)),
    },
    Def {
        name: OVER,
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Interval, Kind::Double], 0),
        gives: |_| interval_type(),
        strict: true,
        run: |c| {
            scaled(c, |v, by| match by == 0.0 {
                true => fail(SqlState::DIVISION_BY_ZERO, "division by zero"),
                false => Ok(v / by),
            })
        },
    },
    Def {
        name: "make_interval",
        aliases: &[],
        takes: |t| {
            use Kind::{Double, Long};
            kinds(t, &[Long, Long, Long, Long, Long, Long, Double], 6)
        },
        gives: |_| interval_type(),
        strict: true,
        run: make_interval,
    },
    Def {
        name: "make_time",
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Long, Kind::Long, Kind::Double], 0),
        gives: |_| DataType::Time64(TimeUnit::Microsecond),
        strict: true,
        run: |c| {
            let (hours, minutes) = (c.primitive::<Int64Type>(0), c.primitive::<Int64Type>(1));
            let seconds = c.primitive::<Float64Type>(2);
            c.primitives::<Time64MicrosecondType>(|row| {
                let (h, m, s) = (hours.value(row), minutes.value(row), seconds.value(row));
                let us = (s * 1e6).round_ties_even();
                let whole_day = h == 24 && m == 0 && us == 0.0;
                match (whole_day || (0..24).contains(&h)) && (0..60).contains(&m) && (0.0..=6e7).contains(&us) {
                    true => Ok(Some((h * 60 + m) * 60_000_000 + us as i64)),
                    false => {
                        fail(SqlState::DATETIME_OVERFLOW, format!("time field value out of range: {h}:{m:02}:{s:02}"))
                    }
                }
            })
        },
    },
    Def {
        name: "isfinite",
        aliases: &[],
        takes: |t| match t {
            [one @ (DataType::Date32 | DataType::Timestamp(..) | DataType::Interval(_))] => Some(vec![one.clone()]),
            [DataType::Duration(_)] => Some(vec![interval_type()]),
            _ => None,
        },
        gives: |_| DataType::Boolean,
        strict: true,
        // There are no infinite ones.
        run: |c| c.booleans(|_| Ok(Some(true))),
    },
];

pub(super) fn functions() -> Vec<ScalarUDF> {
    udfs(DEFS)
}

/// One of them, to be called by its name.
pub(crate) fn function(name: &str) -> Option<ScalarUDF> {
    DEFS.iter().find(|d| d.name == name).map(|d| d.udf())
}

const DAYS_OF_MONTH: f64 = 30.0;
const SECONDS_OF_DAY: f64 = 86_400.0;

fn out_of_range() -> SqlError {
    SqlError::new(SqlState::DATETIME_OVERFLOW, "interval out of range")
}

/// Every part by a number; what is left of a month becomes days, of a day time.
fn scaled(c: &Call<'_>, f: fn(f64, f64) -> Result<f64, SqlError>) -> Result<arrow::array::ArrayRef> {
    let (spans, factors) = (c.primitive::<IntervalMonthDayNanoType>(0), c.primitive::<Float64Type>(1));
    let narrow = |v: f64| -> Result<i32, SqlError> {
        let whole = v.trunc();
        match whole >= f64::from(i32::MIN) && whole <= f64::from(i32::MAX) {
            true => Ok(whole as i32),
            false => Err(out_of_range()),
        }
    };
    // What rounding of floats leaves behind the microseconds is noise.
    let settled = |v: f64| (v * 1e6).round_ties_even() / 1e6;
    c.primitives::<IntervalMonthDayNanoType>(|row| {
        let (span, factor) = (spans.value(row), factors.value(row));
        let (months, days) = (f(f64::from(span.months), factor)?, f(f64::from(span.days), factor)?);
        let micros = f((span.nanoseconds / 1000) as f64, factor)?;
        let (whole_months, mut whole_days) = (narrow(months)?, narrow(days)?);
        let days_of_months = settled((months - f64::from(whole_months)) * DAYS_OF_MONTH);
        let part_of_day = days - f64::from(whole_days) + days_of_months - days_of_months.trunc();
        let mut seconds = settled(part_of_day * SECONDS_OF_DAY);
        if seconds.abs() >= SECONDS_OF_DAY {
            let more = narrow(seconds / SECONDS_OF_DAY)?;
            whole_days = whole_days.checked_add(more).ok_or_else(out_of_range)?;
            seconds -= f64::from(more) * SECONDS_OF_DAY;
        }
        whole_days = whole_days.checked_add(narrow(days_of_months)?).ok_or_else(out_of_range)?;
        let micros = (micros + seconds * 1e6).round_ties_even();
        if micros.is_nan() || micros.abs() >= 9.2e15 {
            return Err(out_of_range());
        }
        Ok(Some(IntervalMonthDayNano::new(whole_months, whole_days, micros as i64 * 1000)))
    })
}

fn make_interval(c: &Call<'_>) -> Result<arrow::array::ArrayRef> {
    let whole = |i: usize, row: usize| match c.args.get(i) {
        Some(_) => c.primitive::<Int64Type>(i).value(row),
        None => 0,
    };
    c.primitives::<IntervalMonthDayNanoType>(|row| {
        let sum = || -> Option<IntervalMonthDayNano> {
            let months = whole(0, row).checked_mul(12)?.checked_add(whole(1, row))?;
            let days = whole(2, row).checked_mul(7)?.checked_add(whole(3, row))?;
            let minutes = whole(4, row).checked_mul(60)?.checked_add(whole(5, row))?;
            let seconds = match c.args.get(6) {
                Some(_) => (c.primitive::<Float64Type>(6).value(row) * 1e6).round_ties_even(),
                None => 0.0,
            };
            let seconds = (seconds.abs() < 9.2e15).then_some(seconds as i64)?;
            let nanos = minutes.checked_mul(60_000_000)?.checked_add(seconds)?.checked_mul(1000)?;
            Some(IntervalMonthDayNano::new(i32::try_from(months).ok()?, i32::try_from(days).ok()?, nanos))
        };
        sum().map(Some).ok_or_else(out_of_range)
    })
}

#[cfg(test)]
mod tests {
    use crate::session::testing::check_values;

    #[test]
    fn intervals_are_multiplied_part_by_part() {
        check_values(&[
            ("(INTERVAL '1 day' * 1.5)::text", "1 day 12:00:00"),
            ("(2 * INTERVAL '1 month 3 days')::text", "2 mons 6 days"),
            ("(INTERVAL '1 month' / 2)::text", "15 days"),
            ("(INTERVAL '1 hour' / 3)::text", "00:20:00"),
            ("(INTERVAL '1 day' / 0)::text", "ERROR 22012"),
            ("(INTERVAL '100000000 years' * 1000)::text", "ERROR 22008"),
            ("(-INTERVAL '1 day 02:00')::text", "-1 days -02:00:00"),
            ("make_interval(days => 10, hours => 2)::text", "10 days 02:00:00"),
            ("make_interval(1, 2, 0, 3, 0, 0, 1.5)::text", "1 year 2 mons 3 days 00:00:01.5"),
            ("make_time(8, 15, 23.5)::text", "08:15:23.5"),
            ("make_time(25, 0, 0)", "ERROR 22008"),
            ("isfinite(DATE '2026-01-01')", "true"),
            ("(DATE '2024-01-31' + INTERVAL '1 month')::text", "2024-02-29 00:00:00"),
        ]);
    }
}
