//! Intervals from text, as Postgres reads them: `1 day 02:30`, `-1.5 months`, `2 weeks ago`, `1-2`, `P1Y2M3DT4H5M6S`.

use super::invalid;
use crate::error::{SqlError, SqlState};

type Read<T> = std::result::Result<T, SqlError>;

const SECOND: f64 = 1_000_000.0;
const DAY: f64 = 86_400.0 * SECOND;

/// Months, days and microseconds while they are added up.
#[derive(Default)]
struct Sum {
    months: i64,
    days: i64,
    micros: i64,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Micros(i64),
    Days(i64),
    Months(i64),
}

fn unit(name: &str) -> Option<Unit> {
    Some(match name.to_ascii_lowercase().as_str() {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" | "microsec" | "microsecon" => Unit::Micros(1),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" | "millisec" | "millisecon" => Unit::Micros(1000),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Micros(1_000_000),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Micros(60_000_000),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Micros(3_600_000_000),
        "d" | "day" | "days" => Unit::Days(1),
        "w" | "week" | "weeks" => Unit::Days(7),
        "mon" | "mons" | "month" | "months" => Unit::Months(1),
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12),
        "dec" | "decs" | "decade" | "decades" => Unit::Months(120),
        "c" | "cent" | "century" | "centuries" => Unit::Months(1200),
        "mil" | "mils" | "millennium" | "millennia" => Unit::Months(12_000),
        _ => return None,
    })
}

fn too_large(text: &str) -> SqlError {
    SqlError::new(SqlState::INTERVAL_FIELD_OVERFLOW, format!("interval field value out of range: \"{text}\""))
}

/// Months, days and microseconds. `first` and `last` are the fields of `INTERVAL '..' first TO last`: what a bare number
/// counts, and what is cut off.
pub(crate) fn read_interval(text: &str, first: Option<&str>, last: Option<&str>) -> Read<(i32, i32, i64)> {
    let bare = text.trim();
    let mut sum = match bare.strip_prefix(['P', 'p']) {
        Some(rest) => iso(rest, text)?,
        None => words(bare, text, first, last)?,
    };
    match last.or(first) {
        Some("year") => sum = Sum { months: sum.months / 12 * 12, days: 0, micros: 0 },
        Some("month") => sum = Sum { days: 0, micros: 0, ..sum },
        Some("day") => sum.micros = 0,
        Some("hour") => sum.micros -= sum.micros % 3_600_000_000,
        Some("minute") => sum.micros -= sum.micros % 60_000_000,
        _ => {}
    }
    let narrow = |v: i64| i32::try_from(v).map_err(|_| too_large(text));
    Ok((narrow(sum.months)?, narrow(sum.days)?, sum.micros))
}

impl Sum {
    fn add(&mut self, number: &Number<'_>, unit: Unit, text: &str) -> Read<()> {
        let over = || too_large(text);
        let whole = |factor: i64| number.whole.checked_mul(factor).ok_or_else(over);
        let plus = |a: &mut i64, b: i64| -> Read<()> {
            *a = a.checked_add(b).ok_or_else(over)?;
            Ok(())
        };
        let fraction = number.fraction;
        match unit {
            Unit::Micros(n) => {
                plus(&mut self.micros, whole(n)?)?;
                plus(&mut self.micros, (fraction * n as f64).round_ties_even() as i64)
            }
            Unit::Days(n) => {
                plus(&mut self.days, whole(n)?)?;
                self.part_of_days(fraction * n as f64, text)
            }
            Unit::Months(1) => {
                plus(&mut self.months, whole(1)?)?;
                self.part_of_days(fraction * 30.0, text)
            }
            Unit::Months(n) => {
                plus(&mut self.months, whole(n)?)?;
                plus(&mut self.months, (fraction * n as f64).round_ties_even() as i64)
            }
        }
    }

    fn part_of_days(&mut self, days: f64, text: &str) -> Read<()> {
        let whole = days.trunc();
        self.days = self.days.checked_add(whole as i64).ok_or_else(|| too_large(text))?;
        let micros = ((days - whole) * DAY).round_ties_even() as i64;
        self.micros = self.micros.checked_add(micros).ok_or_else(|| too_large(text))?;
        Ok(())
    }

    fn negated(self, text: &str) -> Read<Self> {
        let over = || too_large(text);
        Ok(Self {
            months: self.months.checked_neg().ok_or_else(over)?,
            days: self.days.checked_neg().ok_or_else(over)?,
            micros: self.micros.checked_neg().ok_or_else(over)?,
        })
    }
}

/// A number at the beginning of a text.
struct Number<'a> {
    negative: bool,
    whole: i64,
    /// With the sign of the number.
    fraction: f64,
    has_point: bool,
    rest: &'a str,
}

fn number<'a>(s: &'a str, text: &str) -> Read<Option<Number<'a>>> {
    let (negative, unsigned) = match s.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, s.strip_prefix('+').unwrap_or(s)),
    };
    let digits = |s: &str| s.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(s.len());
    let (whole, mut rest) = unsigned.split_at(digits(unsigned));
    let (mut fraction, mut has_point) = ("", false);
    if let Some(after) = rest.strip_prefix('.') {
        has_point = true;
        (fraction, rest) = after.split_at(digits(after));
    }
    if whole.is_empty() && fraction.is_empty() {
        return Ok(None);
    }
    let sign = if negative { -1 } else { 1 };
    let value: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_large(text))? };
    let part: f64 = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().unwrap_or(0.0) };
    Ok(Some(Number { negative, whole: sign * value, fraction: sign as f64 * part, has_point, rest }))
}

fn words(bare: &str, text: &str, first: Option<&str>, last: Option<&str>) -> Read<Sum> {
    let bad = || invalid(text, "interval");
    let mut rest = bare.strip_prefix('@').unwrap_or(bare).trim_start();
    let mut sum = Sum::default();
    let mut any = false;
    let mut ago = false;
    while !rest.is_empty() {
        if ago {
            return Err(bad());
        }
        if any && rest.eq_ignore_ascii_case("ago") {
            ago = true;
            rest = "";
            continue;
        }
        let n = number(rest, text)?.ok_or_else(bad)?;
        any = true;
        rest = n.rest;
        if rest.starts_with(':') && !n.has_point {
            rest = clock(&n, text, first, last, &mut sum)?.trim_start();
            continue;
        }
        // Years and months.
        if let Some(after) = rest.strip_prefix('-')
            && let Some(months) = number(after, text)?.filter(|m| !m.negative && !m.has_point)
            && !n.has_point
        {
            if months.whole >= 12 {
                return Err(too_large(text));
            }
            let sign = if n.negative { -1 } else { 1 };
            sum.months += n.whole.checked_mul(12).ok_or_else(|| too_large(text))? + sign * months.whole;
            rest = months.rest.trim_start();
            continue;
        }
        let after = rest.trim_start();
        let end = after.bytes().position(|b| !b.is_ascii_alphabetic()).unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        let counted = match name {
            // A number before a time of day counts days.
            "" if looks_like_clock(after) => Unit::Days(1),
            "" if after.is_empty() => last.or(first).map_or(Some(Unit::Micros(1_000_000)), unit).ok_or_else(bad)?,
            name => unit(name).ok_or_else(bad)?,
        };
        sum.add(&n, counted, text)?;
        rest = tail.trim_start();
    }
    match (any, ago) {
        (false, _) => Err(bad()),
        (true, false) => Ok(sum),
        (true, true) => sum.negated(text),
    }
}

fn looks_like_clock(s: &str) -> bool {
    let s = s.strip_prefix(['+', '-']).unwrap_or(s);
    let end = s.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(s.len());
    end > 0 && s[end..].starts_with(':')
}

/// `HH:MM[:SS[.f]]`, or `MM:SS` for MINUTE TO SECOND; gives back what comes after.
fn clock<'a>(n: &Number<'a>, text: &str, first: Option<&str>, last: Option<&str>, sum: &mut Sum) -> Read<&'a str> {
    let bad = || invalid(text, "interval");
    let over = || too_large(text);
    let part = |s: &'a str| -> Read<Number<'a>> {
        let n = number(s, text)?.filter(|n| !n.negative).ok_or_else(bad)?;
        if n.whole >= 60 { Err(over()) } else { Ok(n) }
    };
    let second = part(&n.rest[1..])?;
    let (hours, minutes, seconds, rest) = match second.rest.strip_prefix(':') {
        Some(after) if !second.has_point => {
            let third = part(after)?;
            (n.whole.abs(), second.whole, third.whole as f64 + third.fraction, third.rest)
        }
        _ if second.has_point || (first, last) == (Some("minute"), Some("second")) => {
            (0, n.whole.abs(), second.whole as f64 + second.fraction, second.rest)
        }
        _ => (n.whole.abs(), second.whole, 0.0, second.rest),
    };
    let micros = hours
        .checked_mul(3_600_000_000)
        .and_then(|h| h.checked_add(minutes.checked_mul(60_000_000)?))
        .and_then(|m| m.checked_add((seconds * SECOND).round_ties_even() as i64))
        .ok_or_else(over)?;
    sum.micros = sum.micros.checked_add(if n.negative { -micros } else { micros }).ok_or_else(over)?;
    Ok(rest)
}

/// After the `P`: numbers with `Y`, `M`, `W`, `D`, and behind a `T` with `H`, `M`, `S`.
fn iso(mut rest: &str, text: &str) -> Read<Sum> {
    let bad = || invalid(text, "interval");
    let mut sum = Sum::default();
    let (mut time, mut any) = (false, false);
    while !rest.is_empty() {
        if let (false, Some(after)) = (time, rest.strip_prefix(['T', 't'])) {
            (time, rest) = (true, after);
            continue;
        }
        let n = number(rest, text)?.ok_or_else(bad)?;
        let letter = n.rest.chars().next().ok_or_else(bad)?;
        let counted = match (time, letter.to_ascii_uppercase()) {
            (false, 'Y') => Unit::Months(12),
            (false, 'M') => Unit::Months(1),
            (false, 'W') => Unit::Days(7),
            (false, 'D') => Unit::Days(1),
            (true, 'H') => Unit::Micros(3_600_000_000),
            (true, 'M') => Unit::Micros(60_000_000),
            (true, 'S') => Unit::Micros(1_000_000),
            _ => return Err(bad()),
        };
        sum.add(&n, counted, text)?;
        any = true;
        rest = &n.rest[letter.len_utf8()..];
    }
    if any { Ok(sum) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn intervals_in_all_their_forms() {
        const H: i64 = 3_600_000_000;
        for (text, expected) in [
            ("1 day", (0, 1, 0)),
            ("03:04:05", (0, 0, 11_045_000_000)),
            ("1 month 2 days 03:04:05.5", (1, 2, 11_045_500_000)),
            ("1 day -02:00", (0, 1, -2 * H)),
            ("3 4:05", (0, 3, 14_700_000_000)),
            ("1.5 months", (1, 15, 0)),
            ("1.5 years", (18, 0, 0)),
            ("1.5 weeks", (0, 10, 12 * H)),
            ("2 hours ago", (0, 0, -2 * H)),
            ("@ 1 min", (0, 0, 60_000_000)),
            ("1-2", (14, 0, 0)),
            ("-1-2", (-14, 0, 0)),
            ("P1Y2M3DT4H5M6.5S", (14, 3, 14_706_500_000)),
            ("PT-1H", (0, 0, -H)),
            ("1d12h", (0, 1, 12 * H)),
            ("-0.25 s", (0, 0, -250_000)),
            ("7", (0, 0, 7_000_000)),
        ] {
            assert_eq!(read_interval(text, None, None).unwrap(), expected, "{text}");
        }
        assert_eq!(read_interval("5", Some("day"), None).unwrap(), (0, 5, 0));
        assert_eq!(read_interval("1:30", Some("minute"), Some("second")).unwrap(), (0, 0, 90_000_000));
        assert_eq!(read_interval("1-2", Some("year"), None).unwrap(), (12, 0, 0));
        for bad in ["", "day", "1 dog", "1 day x", "1:2:3:4", "P", "ago", "1 ago 2"] {
            let error = read_interval(bad, None, None).unwrap_err();
            assert_eq!(error.code, SqlState::INVALID_DATETIME_FORMAT, "{bad}");
        }
        for large in ["99999999999 days", "9999999999999999999 s", "1:99"] {
            let error = read_interval(large, None, None).unwrap_err();
            assert_eq!(error.code, SqlState::INTERVAL_FIELD_OVERFLOW, "{large}");
        }
    }
}
