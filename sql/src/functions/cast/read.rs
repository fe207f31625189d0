//! Text to values, as the input functions of Postgres read it.
//!
//! Dates are read in ISO form, with slashes (year first), or as eight digits; names of months, eras and infinite dates
//! are not.

use arrow::datatypes::i256;

use super::invalid;
use super::numbers::{field_overflow, fits, rescale};
use crate::error::{SqlError, SqlState};

type Read<T> = std::result::Result<T, SqlError>;

const DAY_US: i64 = 86_400_000_000;

/// An integer: digits with an optional sign, blanks around.
pub(super) fn integer<T: std::str::FromStr>(text: &str, type_name: &'static str) -> Read<T> {
    let bare = text.trim();
    let digits = bare.strip_prefix(['+', '-']).unwrap_or(bare);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(text, type_name));
    }
    // Well-formed digits fail only by their size.
    bare.parse().map_err(|_| beyond(text, type_name, "value \"", "\" is out of range for type "))
}

fn beyond(text: &str, type_name: &str, before: &str, between: &str) -> SqlError {
    SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, format!("{before}{text}{between}{type_name}"))
}

pub(super) fn float8(text: &str) -> Read<f64> {
    let value: f64 = float_syntax(text, "double precision")?.parse().map_err(|_| invalid(text, "double precision"))?;
    in_range(text, value, value.is_infinite(), value == 0.0, "double precision")
}

pub(super) fn float4(text: &str) -> Read<f32> {
    let value: f32 = float_syntax(text, "real")?.parse().map_err(|_| invalid(text, "real"))?;
    in_range(text, value, value.is_infinite(), value == 0.0, "real")
}

fn float_syntax<'a>(text: &'a str, type_name: &str) -> Read<&'a str> {
    let bare = text.trim();
    if bare.is_empty() { Err(invalid(text, type_name)) } else { Ok(bare) }
}

/// A number that only became infinite or zero by being read is an error.
fn in_range<T>(text: &str, value: T, infinite: bool, zero: bool, type_name: &str) -> Read<T> {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let said_infinite = text.bytes().any(|b| b.eq_ignore_ascii_case(&b'i'));
    let said_zero = !mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b));
    if (infinite && !said_infinite) || (zero && !said_zero) {
        return Err(beyond(text, type_name, "\"", "\" is out of range for type "));
    }
    Ok(value)
}

/// Any unique prefix of true, false, yes, no, on, off, and 1 and 0.
pub(super) fn boolean(text: &str) -> Read<bool> {
    let lower = text.trim().to_ascii_lowercase();
    let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    match lower.as_str() {
        "1" => Ok(true),
        "0" => Ok(false),
        _ if begins("true", 1) || begins("yes", 1) || begins("on", 2) => Ok(true),
        _ if begins("false", 1) || begins("no", 1) || begins("off", 2) => Ok(false),
        _ => Err(invalid(text, "boolean")),
    }
}

/// The unscaled integer of a decimal, rounded half away from zero.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Read<i256> {
    let bad = || invalid(text, "numeric");
    let bare = text.trim();
    let (negative, digits) = match bare.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, bare.strip_prefix('+').unwrap_or(bare)),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().map_err(|_| bad())?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if (whole.is_empty() && fraction.is_empty()) || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let own_scale = i32::try_from(fraction.len()).map_err(|_| bad())?.checked_sub(exponent).ok_or_else(bad)?;
    let all = format!("{whole}{fraction}");
    let all = all.trim_start_matches('0');
    // Digits far behind the scale decide nothing but a rounding that those before them have decided.
    let spare = all.len().saturating_sub(76);
    let kept = &all[..all.len() - spare];
    let value = if kept.is_empty() { Some(i256::ZERO) } else { i256::from_string(kept) }.ok_or_else(field_overflow)?;
    let value = if negative { value.wrapping_neg() } else { value };
    let spare = i32::try_from(spare).map_err(|_| bad())?;
    rescale(value, own_scale.checked_sub(spare).ok_or_else(bad)?, i32::from(scale))
        .filter(|v| fits(*v, precision))
        .ok_or_else(field_overflow)
}

/// Days since 1970. A time behind the date is read and left out.
pub(super) fn date(text: &str) -> Read<i32> {
    let (days, rest) = day(text, "date")?;
    if !rest.is_empty() {
        clock(text, rest, "date")?;
    }
    i32::try_from(days).map_err(|_| no_such(text))
}

/// Microseconds since midnight.
pub(super) fn time(text: &str) -> Read<i64> {
    Ok(clock(text, text.trim(), "time")?.0)
}

/// Microseconds since 1970. An offset from UTC counts only with `zoned`.
pub(super) fn timestamp(text: &str, zoned: bool, type_name: &str) -> Read<i64> {
    let (days, rest) = day(text, type_name)?;
    let (us, offset) = if rest.is_empty() { (0, 0) } else { clock(text, rest, type_name)? };
    let local = days.checked_mul(DAY_US).and_then(|d| d.checked_add(us)).ok_or_else(|| no_such(text))?;
    Ok(if zoned { local - offset } else { local })
}

fn no_such(text: &str) -> SqlError {
    SqlError::new(SqlState::DATETIME_OVERFLOW, format!("date/time field value out of range: \"{text}\""))
}

/// The date at the beginning, as days since 1970, and what comes after it.
fn day<'a>(text: &'a str, type_name: &str) -> Read<(i64, &'a str)> {
    let bad = || invalid(text, type_name);
    let bare = text.trim();
    if bare.eq_ignore_ascii_case("epoch") {
        return Ok((0, ""));
    }
    let (year, rest) = number(bare).ok_or_else(bad)?;
    let (y, m, d, rest) = match rest.chars().next() {
        Some(separator @ ('-' | '/')) if year.len() >= 3 => {
            let (month, rest) = number(&rest[1..]).ok_or_else(bad)?;
            let rest = rest.strip_prefix(separator).ok_or_else(bad)?;
            let (day, rest) = number(rest).ok_or_else(bad)?;
            (year, month, day, rest)
        }
        Some(' ' | 'T' | 't') | None if year.len() == 8 => (&year[..4], &year[4..6], &year[6..], rest),
        _ => return Err(bad()),
    };
    if y.len() > 6 || m.len() > 2 || d.len() > 2 {
        return Err(bad());
    }
    let parsed = |s: &str| s.parse::<u32>().map_err(|_| bad());
    let year = i32::try_from(parsed(y)?).map_err(|_| bad())?;
    let date = chrono::NaiveDate::from_ymd_opt(year, parsed(m)?, parsed(d)?)
        .filter(|_| year > 0)
        .ok_or_else(|| no_such(text))?;
    let rest = match rest.strip_prefix(['T', 't']) {
        Some(rest) => rest,
        None if rest.is_empty() || rest.starts_with(' ') => rest.trim_start(),
        None => return Err(bad()),
    };
    Ok((i64::from(date.to_epoch_days()), rest))
}

/// Digits at the beginning, and what comes after them.
fn number(s: &str) -> Option<(&str, &str)> {
    let end = s.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(s.len());
    (end > 0).then(|| s.split_at(end))
}

/// A time of day in microseconds, and its offset from UTC.
fn clock(text: &str, s: &str, type_name: &str) -> Read<(i64, i64)> {
    let bad = || invalid(text, type_name);
    let value = |s: &str| -> Read<i64> { if s.len() > 2 { Err(bad()) } else { s.parse().map_err(|_| bad()) } };
    let (hours, rest) = number(s).ok_or_else(bad)?;
    let (minutes, mut rest) = number(rest.strip_prefix(':').ok_or_else(bad)?).ok_or_else(bad)?;
    let mut seconds = 0;
    let mut fraction = 0;
    if let Some(after) = rest.strip_prefix(':') {
        let (s, after) = number(after).ok_or_else(bad)?;
        seconds = value(s)?;
        rest = after;
        if let Some(after) = rest.strip_prefix('.') {
            let (digits, after) = number(after).unwrap_or(("", after));
            fraction = micros(digits);
            rest = after;
        }
    }
    let (mut hours, minutes) = (value(hours)?, value(minutes)?);
    rest = rest.trim();
    let half = rest.get(..2).map(str::to_ascii_lowercase);
    if let Some(half @ ("am" | "pm")) = half.as_deref() {
        if !(1..=12).contains(&hours) {
            return Err(no_such(text));
        }
        hours = hours % 12 + if half == "pm" { 12 } else { 0 };
        rest = rest[2..].trim();
    }
    let whole_day = hours == 24 && minutes == 0 && seconds == 0 && fraction == 0;
    if (hours > 23 && !whole_day) || minutes > 59 || seconds > 60 {
        return Err(no_such(text));
    }
    let us = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction;
    Ok((us, offset(rest).ok_or_else(bad)?))
}

/// The first six digits behind the point, rounded.
fn micros(digits: &str) -> i64 {
    let digit = |i: usize| digits.as_bytes().get(i).map_or(0, |b| i64::from(b - b'0'));
    let six = (0..6).fold(0, |n, i| n * 10 + digit(i));
    six + i64::from(digit(6) >= 5)
}

/// `Z`, `UTC`, `+01`, `+01:30`, `-0130`, as microseconds east of UTC.
fn offset(s: &str) -> Option<i64> {
    if s.is_empty() || s.eq_ignore_ascii_case("z") || s.eq_ignore_ascii_case("utc") || s.eq_ignore_ascii_case("gmt") {
        return Some(0);
    }
    let sign = match s.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (first, rest) = number(&s[1..])?;
    let (hours, minutes) = match (first.len(), rest.strip_prefix(':')) {
        (1 | 2, Some(m)) if m.len() == 2 => (first, m),
        (1 | 2, None) if rest.is_empty() => (first, "0"),
        (4, None) if rest.is_empty() => first.split_at(2),
        _ => return None,
    };
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 15 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000_000)
}
