//! Points in time as options write them.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

/// A point in time as microseconds since 1970 UTC: RFC 3339, `YYYY-MM-DD[T ]HH:MM:SS[.ffffff]` (UTC), or a date.
pub fn parse_time_us(text: &str) -> Option<i64> {
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

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        assert_eq!(parse_time_us("1970-01-02"), Some(86_400_000_000));
        assert_eq!(parse_time_us("1970-01-01T01:00:00.5+01:00"), Some(500_000));
        assert_eq!(parse_time_us("1970-01-01 00:00:01"), Some(1_000_000));
        assert_eq!(parse_time_us("yesterday"), None);
    }
}
