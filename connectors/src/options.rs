//! Option checking: unknown keys are errors that name the nearest key; durations, booleans and numbers have one spelling
//! for all connectors.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::{COMMON_OPTIONS, ConnectorError, Result};

/// The `WITH` options of one stream, with typed access. Every error names the key and the value.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    connector: &'a str,
    map: &'a BTreeMap<String, String>,
}

impl<'a> Options<'a> {
    /// Options of a connector (its name is for messages).
    pub fn new(connector: &'a str, map: &'a BTreeMap<String, String>) -> Self {
        Self { connector, map }
    }

    /// Fails on a key that is neither in `known`, nor common to all connectors, nor starts with one of `prefixes`.
    pub fn check(&self, known: &[&str], prefixes: &[&str]) -> Result<()> {
        for key in self.map.keys() {
            let ok = known.contains(&key.as_str())
                || COMMON_OPTIONS.contains(&key.as_str())
                || prefixes.iter().any(|p| key.starts_with(p));
            if !ok {
                let all = known.iter().chain(COMMON_OPTIONS).copied();
                let hint = match nearest(key, all.clone()) {
                    Some(near) => format!("Did you mean \"{near}\"?"),
                    None => {
                        let mut names: Vec<&str> = all.collect();
                        names.sort_unstable();
                        format!("Options are: {}.", names.join(", "))
                    }
                };
                return Err(ConnectorError::config(format!(
                    "unknown option \"{key}\" for connector \"{}\"",
                    self.connector
                ))
                .hint(hint));
            }
        }
        Ok(())
    }

    /// The text of an option.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.map.get(key).map(String::as_str)
    }

    /// The text of an option that must be given.
    pub fn require(&self, key: &str) -> Result<&'a str> {
        self.get(key)
            .ok_or_else(|| ConnectorError::config(format!("connector \"{}\" needs option \"{key}\"", self.connector)))
    }

    /// A boolean: true/false, on/off, yes/no, 1/0.
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool> {
        let Some(text) = self.get(key) else { return Ok(default) };
        parse_bool(text).ok_or_else(|| self.invalid(key, text, "Give true or false."))
    }

    /// A duration like `500ms`, `1s`, `2 minutes`, `1 hour 30 min`.
    pub fn duration(&self, key: &str, default: Duration) -> Result<Duration> {
        Ok(self.duration_opt(key)?.unwrap_or(default))
    }

    /// A duration, if given.
    pub fn duration_opt(&self, key: &str) -> Result<Option<Duration>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        parse_duration(text)
            .map(Some)
            .ok_or_else(|| self.invalid(key, text, "Give a number with a unit, like '500ms', '10s' or '5 minutes'."))
    }

    /// A number (or anything with `FromStr`).
    pub fn number<T: FromStr>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.number_opt(key)?.unwrap_or(default))
    }

    /// A number, if given.
    pub fn number_opt<T: FromStr>(&self, key: &str) -> Result<Option<T>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        text.trim().replace('_', "").parse().map(Some).map_err(|_| self.invalid(key, text, "Give a number."))
    }

    /// One of some words, compared without case; the word as it stands in `allowed`.
    pub fn choice(&self, key: &str, allowed: &[&'static str], default: &'static str) -> Result<&'static str> {
        let Some(text) = self.get(key) else { return Ok(default) };
        if let Some(word) = allowed.iter().find(|a| a.eq_ignore_ascii_case(text.trim())) {
            return Ok(word);
        }
        let mut hint = format!("Values are: {}.", allowed.join(", "));
        if let Some(near) = nearest(text, allowed.iter().copied()) {
            hint = format!("Did you mean '{near}'? {hint}");
        }
        Err(self.invalid(key, text, hint))
    }

    /// The error for a bad value.
    pub fn invalid(&self, key: &str, text: &str, hint: impl Display) -> ConnectorError {
        ConnectorError::config(format!("invalid value \"{text}\" for option \"{key}\"")).hint(hint.to_string())
    }
}

/// The candidate nearest to a word, if it is near enough to be a typing error.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_ascii_lowercase();
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (edit_distance(&word, c), c))
        .filter(|(d, c)| *d <= limit || (word.len() >= 3 && c.starts_with(word.as_str())))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A boolean in any of the usual spellings.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "on" | "yes" | "y" | "1" => Some(true),
        "false" | "f" | "off" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// A duration: one or more numbers, each with a unit; `0` alone needs none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let seconds = match rest[..letters].to_lowercase().as_str() {
            "ns" | "nanosecond" | "nanoseconds" => 1e-9,
            "us" | "µs" | "microsecond" | "microseconds" => 1e-6,
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1e-3,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(items: &[(&str, &str)]) -> BTreeMap<String, String> {
        items.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let m = map(&[("connector", "file"), ("pth", "/x")]);
        let e = Options::new("file", &m).check(&["path", "header"], &[]).unwrap_err();
        assert_eq!(e.message, "unknown option \"pth\" for connector \"file\"");
        assert_eq!(e.hint.as_deref(), Some("Did you mean \"path\"?"));
        let m = map(&[("zzzzzz", "1"), ("properties.x", "1")]);
        let e = Options::new("file", &m).check(&["path"], &["properties."]).unwrap_err();
        assert!(e.hint.unwrap().contains("path"));
    }

    #[test]
    fn durations_take_units_and_sums() {
        for (text, ms) in [
            ("500ms", 500),
            ("1s", 1000),
            ("2 minutes", 120_000),
            ("1 hour 30 min", 5_400_000),
            ("0", 0),
            ("1.5s", 1500),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1 fortnight", "1..2s", "99999999999999999999999999w"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_typed_and_errors_name_key_and_value() {
        let m = map(&[("a", "yes"), ("n", "1_000"), ("f", "jsn"), ("d", "soon")]);
        let o = Options::new("file", &m);
        assert!(o.boolean("a", false).unwrap());
        assert_eq!(o.number("n", 5u32).unwrap(), 1000);
        assert_eq!(o.number("absent", 5u32).unwrap(), 5);
        let e = o.choice("f", &["json", "csv"], "json").unwrap_err();
        assert!(e.hint.unwrap().starts_with("Did you mean 'json'?"));
        assert_eq!(o.duration("d", Duration::ZERO).unwrap_err().message, "invalid value \"soon\" for option \"d\"");
        assert!(o.require("path").unwrap_err().message.contains("needs option \"path\""));
    }
}
