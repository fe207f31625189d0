//! Times and intervals to text.

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{Datelike as _, NaiveDate};

use super::pattern::{DAYS, Key, MONTHS, Node, Pattern, ROMAN};
use crate::error::{SqlError, SqlState};
use crate::text::{DAY_US, civil};

/// Days from the beginning of Julian days to 1970.
pub(super) const JULIAN_1970: i64 = 2_440_588;

/// The parts of a time that patterns show.
struct Parts {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    /// The date; an interval has none.
    date: Option<NaiveDate>,
    days: i64,
    zoned: bool,
}

/// A moment by a pattern.
pub(super) fn moment(us: i64, zoned: bool, pattern: &Pattern) -> Result<String, SqlError> {
    let (days, tod) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    let (year, month, day) = civil(days);
    let date = i32::try_from(days).ok().and_then(NaiveDate::from_epoch_days);
    let beyond = || SqlError::new(SqlState::DATETIME_OVERFLOW, "timestamp out of range");
    shown(
        &Parts {
            year,
            month: i64::from(month),
            day: i64::from(day),
            hour: tod / 3_600_000_000,
            minute: tod / 60_000_000 % 60,
            second: tod / 1_000_000 % 60,
            micros: tod % 1_000_000,
            date: Some(date.ok_or_else(beyond)?),
            days,
            zoned,
        },
        pattern,
    )
}

/// An interval by a pattern: its hours may be more than a day's, its parts negative.
pub(super) fn interval(v: IntervalMonthDayNano, pattern: &Pattern) -> Result<String, SqlError> {
    let us = v.nanoseconds / 1000;
    let (year, month, day) = (i64::from(v.months / 12), i64::from(v.months % 12), i64::from(v.days));
    shown(
        &Parts {
            year,
            month,
            day,
            hour: us / 3_600_000_000,
            minute: us / 60_000_000 % 60,
            second: us / 1_000_000 % 60,
            micros: us % 1_000_000,
            date: None,
            days: 0,
            zoned: false,
        },
        pattern,
    )
}

fn not_of_intervals() -> SqlError {
    SqlError::new(SqlState::INVALID_DATETIME_FORMAT, "invalid format specification for an interval value")
        .hint("Intervals are not tied to specific calendar dates.")
}

fn shown(parts: &Parts, pattern: &Pattern) -> Result<String, SqlError> {
    let mut out = String::new();
    for node in &pattern.nodes {
        match node {
            Node::Char { c, .. } => out.push(*c),
            Node::Field { key, fill, ordinal } => {
                let from = out.len();
                field(parts, *key, *fill, &mut out)?;
                if let Some(case) = ordinal {
                    let suffix = suffix(&out[from..]);
                    out.push_str(&case.of(suffix));
                }
            }
        }
    }
    Ok(out)
}

/// `st`, `nd`, `rd` or `th`.
pub(super) fn suffix(number: &str) -> &'static str {
    let digits = number.trim().as_bytes();
    if digits.len() > 1 && digits[digits.len() - 2] == b'1' {
        return "th";
    }
    match digits.last() {
        Some(b'1') => "st",
        Some(b'2') => "nd",
        Some(b'3') => "rd",
        _ => "th",
    }
}

fn field(p: &Parts, key: Key, fill: bool, out: &mut String) -> Result<(), SqlError> {
    let number = |out: &mut String, value: i64, width: usize| {
        let width = if fill { 0 } else { width + usize::from(value < 0) };
        out.push_str(&format!("{value:0width$}"));
    };
    let word = |out: &mut String, text: &str, width: usize| {
        out.push_str(text);
        if !fill {
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(text.len())));
        }
    };
    let date = || p.date.ok_or_else(not_of_intervals);
    // There is no year zero.
    let year = if p.date.is_some() && p.year <= 0 { 1 - p.year } else { p.year };
    let weekday = || date().map(|d| d.weekday().num_days_from_sunday() as usize);
    match key {
        Key::Hour12 => number(out, if p.hour % 12 == 0 { 12 } else { p.hour % 12 }, 2),
        Key::Hour24 => number(out, p.hour, 2),
        Key::Minute => number(out, p.minute, 2),
        Key::Second => number(out, p.second, 2),
        // Fractions keep their zeros.
        Key::Milliseconds => out.push_str(&format!("{:03}", p.micros / 1000)),
        Key::Microseconds => out.push_str(&format!("{:06}", p.micros)),
        Key::Fraction(n) => {
            let digits = usize::from(n);
            out.push_str(&format!("{:0digits$}", p.micros / 10i64.pow(6 - u32::from(n))));
        }
        Key::SecondOfDay => number(out, p.hour * 3600 + p.minute * 60 + p.second, 0),
        Key::HalfDay(case, dots) => {
            date()?;
            out.push_str(&case.of(match (p.hour % 24 >= 12, dots) {
                (true, true) => "P.M.",
                (true, false) => "PM",
                (false, true) => "A.M.",
                (false, false) => "AM",
            }));
        }
        Key::Era(case, dots) => {
            date()?;
            out.push_str(&case.of(match (p.year <= 0, dots) {
                (true, true) => "B.C.",
                (true, false) => "BC",
                (false, true) => "A.D.",
                (false, false) => "AD",
            }));
        }
        Key::YearComma => out.push_str(&format!("{},{:03}", year / 1000, year % 1000)),
        Key::Year(4) => number(out, year, 4),
        Key::Year(n) => number(out, year % 10i64.pow(u32::from(n)), usize::from(n)),
        Key::IsoYear(n) => {
            let of_week = i64::from(date()?.iso_week().year());
            let of_week = if of_week <= 0 { 1 - of_week } else { of_week };
            match n {
                4 => number(out, of_week, 4),
                n => number(out, of_week % 10i64.pow(u32::from(n)), usize::from(n)),
            }
        }
        Key::MonthName(_) | Key::MonthShort(_) | Key::Roman(_) => {
            date()?;
            let at = (p.month - 1) as usize;
            match key {
                Key::MonthName(case) => word(out, &case.of(MONTHS[at]), 9),
                Key::MonthShort(case) => out.push_str(&case.of(&MONTHS[at][..3])),
                Key::Roman(case) => word(out, &case.of(ROMAN[at]), 4),
                _ => {}
            }
        }
        Key::Month => number(out, p.month, 2),
        Key::DayName(case) => word(out, &case.of(DAYS[weekday()?]), 9),
        Key::DayShort(case) => out.push_str(&case.of(&DAYS[weekday()?][..3])),
        Key::DayOfYear => match p.date {
            Some(d) => number(out, i64::from(d.ordinal()), 3),
            None => number(out, p.year * 365 + p.month * 30 + p.day, 3),
        },
        Key::IsoDayOfYear => {
            let d = date()?;
            let day = i64::from(d.iso_week().week0()) * 7 + i64::from(d.weekday().number_from_monday());
            number(out, day, 3);
        }
        Key::Day => number(out, p.day, 2),
        Key::DayOfWeek => number(out, weekday()? as i64 + 1, 1),
        Key::IsoDayOfWeek => number(out, i64::from(date()?.weekday().number_from_monday()), 1),
        Key::WeekOfMonth => number(out, (p.day - 1) / 7 + 1, 1),
        Key::WeekOfYear => number(out, i64::from(date()?.ordinal0()) / 7 + 1, 2),
        Key::IsoWeek => number(out, i64::from(date()?.iso_week().week()), 2),
        Key::Century => {
            let century = match p.date {
                // An interval has whole centuries, a date is in one.
                None => year / 100,
                Some(_) => (year - 1) / 100 + 1,
            };
            let signed = if p.date.is_some() && p.year <= 0 { -century } else { century };
            number(out, signed, 2);
        }
        Key::Julian => match p.date {
            Some(_) => number(out, p.days + JULIAN_1970, 0),
            None => return Err(not_of_intervals()),
        },
        Key::Quarter => {
            if p.month != 0 {
                number(out, (p.month - 1) / 3 + 1, 0);
            }
        }
        Key::Zone(case) => {
            date()?;
            if p.zoned {
                out.push_str(&case.of("UTC"));
            }
        }
        Key::ZoneHours => {
            date()?;
            out.push_str("+00");
        }
        Key::ZoneMinutes => {
            date()?;
            out.push_str("00");
        }
        Key::ZoneOffset => {
            date()?;
            out.push_str("+00");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::pattern::Case;
    use super::*;

    #[test]
    fn suffixes_of_numbers() {
        for (number, expected) in [("1", "st"), ("2", "nd"), ("3", "rd"), ("4", "th"), ("11", "th"), ("21", "st")] {
            assert_eq!(suffix(number), expected);
        }
        assert_eq!(Case::Upper.of("th"), "TH");
    }
}
