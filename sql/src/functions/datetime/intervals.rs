//! Intervals as Postgres counts them: months, days and time apart, brought to one sign where a function says so.

use arrow::datatypes::IntervalMonthDayNano;

use super::{DAY_US, split_day};
use crate::text::civil;

const DAY_NS: i64 = DAY_US * 1000;

/// `a - b` in years, months, days and time, as a calendar is read.
pub(super) fn age(a: i64, b: i64) -> IntervalMonthDayNano {
    if a < b {
        let v = forward(b, a);
        return IntervalMonthDayNano::new(-v.months, -v.days, -v.nanoseconds);
    }
    forward(a, b)
}

/// The age where `later` is not before `earlier`.
fn forward(later: i64, earlier: i64) -> IntervalMonthDayNano {
    let ((days1, tod1), (days2, tod2)) = (split_day(later), split_day(earlier));
    let ((y1, m1, d1), (y2, m2, d2)) = (civil(days1), civil(days2));
    let mut time = tod1 - tod2;
    let mut days = i64::from(d1) - i64::from(d2);
    let mut months = (y1 - y2) * 12 + i64::from(m1) - i64::from(m2);
    if time < 0 {
        time += DAY_US;
        days -= 1;
    }
    while days < 0 {
        // The month the age begins in.
        days += length(y2, m2);
        months -= 1;
    }
    IntervalMonthDayNano::new(months as i32, days as i32, time * 1000)
}

fn length(year: i64, month: u32) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// 30 days are a month.
pub(super) fn justify_days(v: IntervalMonthDayNano) -> IntervalMonthDayNano {
    let (mut months, mut days) = (v.months.saturating_add(v.days / 30), v.days % 30);
    if months > 0 && days < 0 {
        (months, days) = (months - 1, days + 30);
    } else if months < 0 && days > 0 {
        (months, days) = (months + 1, days - 30);
    }
    IntervalMonthDayNano::new(months, days, v.nanoseconds)
}

/// 24 hours are a day.
pub(super) fn justify_hours(v: IntervalMonthDayNano) -> IntervalMonthDayNano {
    let (mut days, mut time) = (v.days.saturating_add((v.nanoseconds / DAY_NS) as i32), v.nanoseconds % DAY_NS);
    if days > 0 && time < 0 {
        (days, time) = (days - 1, time + DAY_NS);
    } else if days < 0 && time > 0 {
        (days, time) = (days + 1, time - DAY_NS);
    }
    IntervalMonthDayNano::new(v.months, days, time)
}

/// Both, and all parts of one sign.
pub(super) fn justify_interval(v: IntervalMonthDayNano) -> IntervalMonthDayNano {
    let (days, mut time) = (v.days.saturating_add((v.nanoseconds / DAY_NS) as i32), v.nanoseconds % DAY_NS);
    let (mut months, mut days) = (v.months.saturating_add(days / 30), days % 30);
    if months > 0 && (days < 0 || (days == 0 && time < 0)) {
        (months, days) = (months - 1, days + 30);
    } else if months < 0 && (days > 0 || (days == 0 && time > 0)) {
        (months, days) = (months + 1, days - 30);
    }
    if days > 0 && time < 0 {
        (days, time) = (days - 1, time + DAY_NS);
    } else if days < 0 && time > 0 {
        (days, time) = (days + 1, time - DAY_NS);
    }
    IntervalMonthDayNano::new(months, days, time)
}
