//! Text to times, by a pattern.
//!
//! Blanks before a field are skipped; a character of the pattern that is no letter and no digit takes one of its kind from
//! the text if there is one; any other takes any character.

use chrono::{NaiveDate, Weekday};

use super::pattern::{DAYS, Key, MONTHS, Node, Pattern, ROMAN};
use super::write::JULIAN_1970;
use crate::error::{SqlError, SqlState};
use crate::text::DAY_US;

type Read<T> = Result<T, SqlError>;

/// What the fields of a text said.
#[derive(Default)]
struct Found {
    year: Option<i64>,
    /// The year was written with two digits or fewer.
    short_year: bool,
    before_christ: bool,
    century: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    week_of_year: Option<i64>,
    week_of_month: Option<i64>,
    weekday: Option<i64>,
    iso_year: Option<i64>,
    iso_week: Option<i64>,
    iso_weekday: Option<i64>,
    iso_day: Option<i64>,
    julian: Option<i64>,
    hour: i64,
    twelve: bool,
    afternoon: Option<bool>,
    minute: i64,
    second: i64,
    micros: i64,
    second_of_day: Option<i64>,
    zone_sign: i64,
    zone_hours: i64,
    zone_minutes: i64,
}

/// Microseconds since 1970.
pub(super) fn moment(text: &str, pattern: &Pattern) -> Read<i64> {
    let found = scan(text, pattern)?;
    let days = found.days(text)?;
    let us = found.time(text)?;
    let offset = found.zone_sign * (found.zone_hours * 3600 + found.zone_minutes * 60) * 1_000_000;
    days.checked_mul(DAY_US).and_then(|d| d.checked_add(us - offset)).ok_or_else(|| beyond(text))
}

/// Days since 1970.
pub(super) fn date(text: &str, pattern: &Pattern) -> Read<i32> {
    let found = scan(text, pattern)?;
    i32::try_from(found.days(text)?).map_err(|_| beyond(text))
}

fn beyond(text: &str) -> SqlError {
    SqlError::new(SqlState::DATETIME_OVERFLOW, format!("date/time field value out of range: \"{text}\""))
}

fn invalid(value: &str, field: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_DATETIME_FORMAT, format!("invalid value \"{value}\" for \"{field}\""))
}

fn is_separator(c: char) -> bool {
    c.is_ascii() && !c.is_ascii_control() && !c.is_ascii_alphanumeric()
}

fn scan(text: &str, pattern: &Pattern) -> Read<Found> {
    let mut found = Found { zone_sign: 1, ..Found::default() };
    let mut rest = text;
    let trim = |rest: &mut &str| {
        if !pattern.exact {
            *rest = rest.trim_start();
        }
    };
    trim(&mut rest);
    for (i, node) in pattern.nodes.iter().enumerate() {
        match node {
            Node::Char { c, quoted } => {
                let mut chars = rest.chars();
                let next = chars.next();
                if !quoted && (c.is_whitespace() || is_separator(*c)) && !pattern.exact {
                    // A separator in place of another; a sign may belong to the field that follows.
                    if next.is_some_and(|n| n.is_whitespace() || is_separator(n)) {
                        rest = chars.as_str();
                    }
                    rest = rest.trim_start();
                } else if next.is_some() {
                    rest = chars.as_str();
                }
            }
            Node::Field { key, fill, ordinal } => {
                trim(&mut rest);
                if rest.is_empty() {
                    break;
                }
                // Digits of the next field are not ours.
                let open = *fill
                    || match pattern.nodes.get(i + 1) {
                        None => true,
                        Some(Node::Char { c, .. }) => !c.is_ascii_digit(),
                        Some(Node::Field { key, .. }) => !key.is_number(),
                    };
                rest = found.take(*key, open, rest)?;
                if ordinal.is_some() {
                    rest = rest.get(2..).unwrap_or("");
                }
            }
        }
    }
    Ok(found)
}

/// A whole number at the beginning: all digits if `open`, or as many as the field has.
fn number<'a>(rest: &'a str, width: usize, open: bool, field: &str) -> Read<(i64, usize, &'a str)> {
    let sign = usize::from(rest.starts_with(['-', '+']));
    let most = if open { usize::MAX } else { width - sign.min(width) };
    let digits = rest[sign..].bytes().take_while(u8::is_ascii_digit).count().min(most);
    let (taken, after) = rest.split_at(sign + digits);
    let shown: String = rest.chars().take(width.max(1)).collect();
    if digits == 0 {
        return Err(invalid(&shown, field).detail("Value must be an integer."));
    }
    let value = taken.parse::<i32>().map_err(|_| {
        SqlError::new(SqlState::DATETIME_OVERFLOW, format!("value for \"{field}\" in source string is out of range"))
    })?;
    Ok((i64::from(value), digits, after))
}

/// The position of the word that the text begins with, in any case.
fn word<'a>(rest: &'a str, words: &[&str], field: &str) -> Read<(usize, &'a str)> {
    let begins = |w: &&str| rest.get(..w.len()).is_some_and(|t| t.eq_ignore_ascii_case(w));
    // The longest: VIII begins with V.
    let found = words.iter().enumerate().filter(|(_, w)| begins(w)).max_by_key(|(_, w)| w.len());
    let shown = || rest.split_whitespace().next().unwrap_or_default();
    let (at, w) = found.ok_or_else(|| {
        invalid(shown(), field).detail("The given value did not match any of the allowed values for this field.")
    })?;
    Ok((at, &rest[w.len()..]))
}

/// A year of up to three digits is the one nearest to 2020.
fn full_year(year: i64) -> i64 {
    match year {
        0..70 => year + 2000,
        70..100 => year + 1900,
        100..520 => year + 2000,
        520..1000 => year + 1000,
        _ => year,
    }
}

impl Found {
    /// Takes a field from the beginning of the text; gives back what comes after it.
    fn take<'a>(&mut self, key: Key, open: bool, rest: &'a str) -> Read<&'a str> {
        let set = |place: &mut Option<i64>, value: i64, field: &str| -> Read<()> {
            match place.replace(value) {
                Some(other) if other != value => Err(SqlError::new(
                    SqlState::INVALID_DATETIME_FORMAT,
                    format!("conflicting values for \"{field}\" field in formatting string"),
                )
                .detail("This value contradicts a previous setting for the same field type.")),
                _ => Ok(()),
            }
        };
        let mut tail = rest;
        let mut plain = |width: usize, field: &str| -> Read<i64> {
            let (value, _, after) = number(rest, width, open, field)?;
            tail = after;
            Ok(value)
        };
        match key {
            Key::Hour12 => {
                self.hour = plain(2, "HH12")?;
                self.twelve = true;
            }
            Key::Hour24 => self.hour = plain(2, "HH24")?,
            Key::Minute => self.minute = plain(2, "MI")?,
            Key::Second => self.second = plain(2, "SS")?,
            Key::SecondOfDay => self.second_of_day = Some(plain(5, "SSSS")?),
            Key::Milliseconds | Key::Microseconds | Key::Fraction(_) => {
                let width = match key {
                    Key::Milliseconds => 3,
                    Key::Fraction(n) => usize::from(n),
                    _ => 6,
                };
                let (value, digits, after) = number(rest, width, open, "US")?;
                tail = after;
                if digits > 6 {
                    return Err(beyond(rest));
                }
                self.micros = value * 10i64.pow(6 - digits as u32);
            }
            Key::HalfDay(_, dots) => {
                let words: &[&str] = if dots { &["a.m.", "p.m."] } else { &["am", "pm"] };
                let (at, after) = word(rest, words, "AM")?;
                (self.afternoon, self.twelve, tail) = (Some(at == 1), true, after);
            }
            Key::Era(_, dots) => {
                let words: &[&str] = if dots { &["a.d.", "b.c."] } else { &["ad", "bc"] };
                let (at, after) = word(rest, words, "BC")?;
                (self.before_christ, tail) = (at == 1, after);
            }
            Key::YearComma => {
                let (thousands, _, after) = number(rest, 2, true, "Y,YYY")?;
                let after = after.strip_prefix(',').ok_or_else(|| invalid(rest, "Y,YYY"))?;
                let (others, _, after) = number(after, 3, false, "Y,YYY")?;
                tail = after;
                set(&mut self.year, thousands * 1000 + others, "Y,YYY")?;
            }
            Key::Year(width) => {
                let (value, digits, after) = number(rest, usize::from(width), open, "YYYY")?;
                tail = after;
                let value = if width < 4 && digits < 4 { full_year(value) } else { value };
                self.short_year |= width < 3;
                set(&mut self.year, value, "YYYY")?;
            }
            Key::IsoYear(width) => {
                let (value, digits, after) = number(rest, usize::from(width), open, "IYYY")?;
                tail = after;
                let value = if width < 4 && digits < 4 { full_year(value) } else { value };
                set(&mut self.iso_year, value, "IYYY")?;
            }
            Key::MonthName(_) => {
                let (at, after) = word(rest, &MONTHS, "MONTH")?;
                tail = after;
                set(&mut self.month, at as i64 + 1, "MONTH")?;
            }
            Key::MonthShort(_) => {
                let (at, after) = word(rest, &MONTHS.map(|m| &m[..3]), "MON")?;
                tail = after;
                set(&mut self.month, at as i64 + 1, "MON")?;
            }
            Key::Roman(_) => {
                let (at, after) = word(rest, &ROMAN, "RM")?;
                tail = after;
                set(&mut self.month, at as i64 + 1, "RM")?;
            }
            Key::Month => set(&mut self.month, plain(2, "MM")?, "MM")?,
            Key::DayName(_) => {
                let (at, after) = word(rest, &DAYS, "DAY")?;
                tail = after;
                self.weekday = Some(at as i64 + 1);
            }
            Key::DayShort(_) => {
                let (at, after) = word(rest, &DAYS.map(|d| &d[..3]), "DY")?;
                tail = after;
                self.weekday = Some(at as i64 + 1);
            }
            Key::Day => set(&mut self.day, plain(2, "DD")?, "DD")?,
            Key::DayOfYear => set(&mut self.day_of_year, plain(3, "DDD")?, "DDD")?,
            Key::IsoDayOfYear => set(&mut self.iso_day, plain(3, "IDDD")?, "IDDD")?,
            Key::DayOfWeek => set(&mut self.weekday, plain(1, "D")?, "D")?,
            Key::IsoDayOfWeek => set(&mut self.iso_weekday, plain(1, "ID")?, "ID")?,
            Key::WeekOfMonth => set(&mut self.week_of_month, plain(1, "W")?, "W")?,
            Key::WeekOfYear => set(&mut self.week_of_year, plain(2, "WW")?, "WW")?,
            Key::IsoWeek => set(&mut self.iso_week, plain(2, "IW")?, "IW")?,
            Key::Century => set(&mut self.century, plain(2, "CC")?, "CC")?,
            Key::Julian => set(&mut self.julian, plain(7, "J")?, "J")?,
            // Says nothing about a day.
            Key::Quarter => {
                plain(1, "Q")?;
            }
            Key::Zone(_) => {
                let (_, after) = word(rest, &["UTC", "GMT", "Z"], "TZ")?;
                tail = after;
            }
            Key::ZoneHours | Key::ZoneOffset => {
                let unsigned = match rest.strip_prefix('-') {
                    Some(after) => {
                        self.zone_sign = -1;
                        after
                    }
                    None => rest.strip_prefix('+').unwrap_or(rest),
                };
                let (hours, _, after) = number(unsigned, 2, false, "TZH")?;
                (self.zone_hours, tail) = (hours, after);
                if key == Key::ZoneOffset
                    && let Some(after) = after.strip_prefix(':')
                {
                    let (minutes, _, after) = number(after, 2, false, "TZM")?;
                    (self.zone_minutes, tail) = (minutes, after);
                }
            }
            Key::ZoneMinutes => self.zone_minutes = plain(2, "TZM")?,
        }
        Ok(tail)
    }

    fn time(&self, text: &str) -> Read<i64> {
        let mut hour = self.hour;
        if self.twelve {
            let midnight = hour == 0 && self.afternoon.is_none();
            if !midnight && !(1..=12).contains(&hour) {
                let message = format!("hour \"{hour}\" is invalid for the 12-hour clock");
                return Err(SqlError::new(SqlState::INVALID_DATETIME_FORMAT, message)
                    .hint("Use the 24-hour clock, or give an hour between 1 and 12."));
            }
            match self.afternoon {
                Some(true) if hour < 12 => hour += 12,
                Some(false) if hour == 12 => hour = 0,
                _ => {}
            }
        }
        let (mut minute, mut second) = (self.minute, self.second);
        if let Some(all) = self.second_of_day {
            (hour, minute, second) = (all / 3600, all / 60 % 60, all % 60);
        }
        let fits = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
        let zone = (0..=15).contains(&self.zone_hours) && (0..60).contains(&self.zone_minutes);
        match fits && zone && self.micros >= 0 {
            true => Ok(((hour * 60 + minute) * 60 + second) * 1_000_000 + self.micros),
            false => Err(beyond(text)),
        }
    }

    fn days(&self, text: &str) -> Read<i64> {
        let bad = || beyond(text);
        if let Some(julian) = self.julian {
            return Ok(julian - JULIAN_1970);
        }
        if let (Some(year), Some(week)) = (self.iso_year, self.iso_week) {
            let year = i32::try_from(year).map_err(|_| bad())?;
            let week = u32::try_from(week).map_err(|_| bad())?;
            let monday = NaiveDate::from_isoywd_opt(year, week, Weekday::Mon).ok_or_else(bad)?;
            // Sunday is the last day of the week here, the first one in `D`.
            let day = self.iso_weekday.or(self.weekday.map(|d| if d == 1 { 7 } else { d - 1 })).unwrap_or(1);
            return match (1..=7).contains(&day) {
                true => Ok(i64::from(monday.to_epoch_days()) + day - 1),
                false => Err(bad()),
            };
        }
        if let (Some(year), Some(day)) = (self.iso_year, self.iso_day) {
            let year = i32::try_from(year).map_err(|_| bad())?;
            let first = NaiveDate::from_isoywd_opt(year, 1, Weekday::Mon).ok_or_else(bad)?;
            return Ok(i64::from(first.to_epoch_days()) + day - 1);
        }
        let mut year = match (self.year.or(self.iso_year), self.century) {
            // The first years of a century are those after a multiple of hundred.
            (Some(y), Some(c)) if self.short_year => match y % 100 {
                0 => c * 100,
                rest => (c - 1) * 100 + rest,
            },
            (Some(y), _) => y,
            (None, Some(c)) => (c - 1) * 100 + 1,
            (None, None) => 0,
        };
        if self.before_christ && year > 0 {
            year = 1 - year;
        }
        let year = i32::try_from(year).map_err(|_| bad())?;
        if let Some(week) = self.week_of_year
            && self.day_of_year.is_none()
        {
            let first = NaiveDate::from_ymd_opt(year, 1, 1).ok_or_else(bad)?;
            return Ok(i64::from(first.to_epoch_days()) + (week - 1) * 7);
        }
        if let (Some(day), None) = (self.day_of_year, self.day) {
            let first = NaiveDate::from_ymd_opt(year, 1, 1).ok_or_else(bad)?;
            let last = if first.leap_year() { 366 } else { 365 };
            return match (1..=last).contains(&day) {
                true => Ok(i64::from(first.to_epoch_days()) + day - 1),
                false => Err(bad()),
            };
        }
        let day = self.day.or(self.week_of_month.map(|w| (w - 1) * 7 + 1)).unwrap_or(1);
        let part = |v: i64| u32::try_from(v).map_err(|_| bad());
        let date = NaiveDate::from_ymd_opt(year, part(self.month.unwrap_or(1))?, part(day)?).ok_or_else(bad)?;
        Ok(i64::from(date.to_epoch_days()))
    }
}
