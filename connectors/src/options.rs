//! Reading `WITH` options: typed values, and the nearest key for one that is unknown.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::{ConnectorError, Result};

/// The candidate nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (distance(word, c), c))
        .filter(|(d, c)| *d <= (c.len().max(word.len()) / 3).max(1))
        .min()
        .map(|(_, c)| c)
}

/// Edit distance, a swap of neighbours counting one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Fails on the first key that is not in `known`; `prefixes` name families of keys that are checked elsewhere.
pub fn check_keys(
    connector: &str,
    options: &BTreeMap<String, String>,
    known: &[&str],
    prefixes: &[&str],
) -> Result<()> {
    for key in options.keys() {
        if known.contains(&key.as_str()) || prefixes.iter().any(|p| key.starts_with(p)) {
            continue;
        }
        let error = ConnectorError::config(format!("unknown option \"{key}\" for connector \"{connector}\""));
        return Err(match nearest(key, known.iter().copied()) {
            Some(near) => error.hint(format!("Did you mean \"{near}\"?")),
            None => error.hint(format!("Options are: {}.", known.join(", "))),
        });
    }
    Ok(())
}

/// The value of a key, parsed; `wanted` says in the error what it should be.
pub fn parse<T: FromStr>(options: &BTreeMap<String, String>, key: &str, wanted: &str) -> Result<Option<T>> {
    let Some(text) = options.get(key) else { return Ok(None) };
    text.trim()
        .parse()
        .map(Some)
        .map_err(|_| ConnectorError::config(format!("option \"{key}\" must be {wanted}, not \"{text}\"")))
}

/// A duration: `500ms`, `5s`, `5 seconds`, `2 min`, `1h`, or a bare number of seconds.
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().ok()?;
    let unit = match text[split..].trim().to_ascii_lowercase().as_str() {
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        "" | "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    };
    std::time::Duration::try_from_secs_f64(number * unit).ok()
}

/// A point in time as microseconds since 1970 UTC: RFC 3339, `YYYY-MM-DD[T ]HH:MM:SS[.ffffff]` (UTC), or a date.
pub fn parse_time_us(text: &str) -> Option<i64> {
    use chrono::{DateTime, NaiveDate, NaiveDateTime};
    let text = text.trim();
    if let Ok(t) = DateTime::parse_from_rfc3339(text) {
        return Some(t.timestamp_micros());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(t) = NaiveDateTime::parse_from_str(text, format) {
            return Some(t.and_utc().timestamp_micros());
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_nearest_key_is_offered_and_a_far_one_is_not() {
        assert_eq!(nearest("tpoic", ["topic", "start"]), Some("topic"));
        assert_eq!(nearest("bootstrap_server", ["bootstrap_servers", "topic"]), Some("bootstrap_servers"));
        assert_eq!(nearest("colour", ["topic", "start"]), None);
    }

    #[test]
    fn durations_and_times_are_read() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2 minutes"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("5"), Some(Duration::from_secs(5)));
        assert_eq!(parse_duration("5 parsecs"), None);
        assert_eq!(parse_time_us("1970-01-02"), Some(86_400_000_000));
        assert_eq!(parse_time_us("1970-01-01T01:00:00.5+01:00"), Some(500_000));
        assert_eq!(parse_time_us("1970-01-01 00:00:01"), Some(1_000_000));
        assert_eq!(parse_time_us("yesterday"), None);
    }
}
