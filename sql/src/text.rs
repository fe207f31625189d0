//! Values in the text format of Postgres: what `float8out`, `timestamp_out`, `interval_out` and so on print with
//! `DateStyle ISO`, `IntervalStyle postgres`, `bytea_output hex`, and shortest round-trip floats.

use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};

/// Microseconds a day.
pub const DAY_US: i64 = 86_400_000_000;

fn put(out: &mut BytesMut, args: std::fmt::Arguments<'_>) {
    // Writing into a growing buffer cannot fail.
    let _ = out.write_fmt(args);
}

/// A double, shortest digits that read back the same.
pub fn float8(v: f64, out: &mut BytesMut) {
    float(v.is_nan(), v.is_infinite(), v.is_sign_negative(), format_args!("{v:e}"), 15, out);
}

/// A float, shortest digits that read back the same.
pub fn float4(v: f32, out: &mut BytesMut) {
    float(v.is_nan(), v.is_infinite(), v.is_sign_negative(), format_args!("{v:e}"), 6, out);
}

/// A small buffer on the stack: `-1.7976931348623157e308` has 23 characters.
struct Scratch {
    bytes: [u8; 40],
    len: usize,
}

impl std::fmt::Write for Scratch {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        let Some(place) = self.bytes.get_mut(self.len..end) else { return Err(std::fmt::Error) };
        place.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// `digits_max`: decimal exponents from here on are written in scientific notation (`FLT_DIG`, `DBL_DIG`).
fn float(nan: bool, inf: bool, neg: bool, sci: std::fmt::Arguments<'_>, digits_max: i32, out: &mut BytesMut) {
    if nan {
        return out.put_slice(b"NaN");
    }
    if inf {
        return out.put_slice(if neg { b"-Infinity" } else { b"Infinity" });
    }
    let mut s = Scratch { bytes: [0; 40], len: 0 };
    let _ = s.write_fmt(sci);
    let text = &s.bytes[..s.len];
    let text = text.strip_prefix(b"-").unwrap_or(text);
    if neg {
        out.put_u8(b'-');
    }
    let e = text.iter().position(|c| *c == b'e').unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(e);
    let exponent: i32 =
        exponent.get(1..).and_then(|x| std::str::from_utf8(x).ok()).and_then(|x| x.parse().ok()).unwrap_or(0);
    let mut digits = [0u8; 40];
    let mut n = 0;
    for c in mantissa.iter().filter(|c| c.is_ascii_digit()) {
        digits[n] = *c;
        n += 1;
    }
    let digits = &digits[..n];
    if exponent < -4 || exponent >= digits_max {
        out.put_slice(mantissa);
        put(out, format_args!("e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()));
    } else if exponent < 0 {
        out.put_slice(b"0.");
        out.put_bytes(b'0', (-exponent - 1) as usize);
        out.put_slice(digits);
    } else {
        let int = exponent as usize + 1;
        if n <= int {
            out.put_slice(digits);
            out.put_bytes(b'0', int - n);
        } else {
            out.put_slice(&digits[..int]);
            out.put_u8(b'.');
            out.put_slice(&digits[int..]);
        }
    }
}

/// A decimal: `digits` is the unscaled integer as text, possibly with a sign.
pub fn decimal(digits: &str, scale: i8, out: &mut BytesMut) {
    let (neg, digits) = match digits.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, digits),
    };
    if neg {
        out.put_u8(b'-');
    }
    if scale <= 0 {
        out.put_slice(digits.as_bytes());
        if digits != "0" {
            out.put_bytes(b'0', usize::from(scale.unsigned_abs()));
        }
        return;
    }
    let scale = scale as usize;
    if digits.len() > scale {
        let (int, frac) = digits.split_at(digits.len() - scale);
        out.put_slice(int.as_bytes());
        out.put_u8(b'.');
        out.put_slice(frac.as_bytes());
    } else {
        out.put_slice(b"0.");
        out.put_bytes(b'0', scale - digits.len());
        out.put_slice(digits.as_bytes());
    }
}

/// Year, month and day of a number of days since 1970 (proleptic Gregorian calendar; H. Hinnant's algorithm).
pub fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// Days since 1970; gives back whether the year is before Christ, so that the suffix goes to the end.
fn ymd(days: i64, out: &mut BytesMut) -> bool {
    let (y, m, d) = civil(days);
    // There is no year zero: 0 is 1 BC.
    let (shown, bc) = if y <= 0 { (1 - y, true) } else { (y, false) };
    put(out, format_args!("{shown:04}-{m:02}-{d:02}"));
    bc
}

/// A date, days since 1970.
pub fn date(days: i32, out: &mut BytesMut) {
    if ymd(i64::from(days), out) {
        out.put_slice(b" BC");
    }
}

/// A time of day in microseconds.
pub fn time(us: i64, out: &mut BytesMut) {
    let (s, frac) = (us / 1_000_000, us % 1_000_000);
    put(out, format_args!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60));
    fraction(frac, out);
}

fn fraction(us: i64, out: &mut BytesMut) {
    if us == 0 {
        return;
    }
    let (mut n, mut width) = (us, 6);
    while n % 10 == 0 {
        n /= 10;
        width -= 1;
    }
    put(out, format_args!(".{n:0width$}"));
}

/// A timestamp in microseconds since 1970; with `utc` the offset `+00` behind it.
pub fn timestamp(us: i64, utc: bool, out: &mut BytesMut) {
    let bc = ymd(us.div_euclid(DAY_US), out);
    out.put_u8(b' ');
    time(us.rem_euclid(DAY_US), out);
    if utc {
        out.put_slice(b"+00");
    }
    if bc {
        out.put_slice(b" BC");
    }
}

/// An interval of months, days and microseconds.
pub fn interval(months: i32, days: i32, us: i64, out: &mut BytesMut) {
    let mut any = false;
    let mut negative_before = false;
    let mut part = |n: i32, unit: &str, out: &mut BytesMut| {
        if n == 0 {
            return;
        }
        let space = if any { " " } else { "" };
        // After a negative part a positive one needs its sign, as Postgres writes it.
        let plus = if negative_before && n > 0 { "+" } else { "" };
        put(out, format_args!("{space}{plus}{n} {unit}{}", if n == 1 { "" } else { "s" }));
        any = true;
        negative_before = n < 0;
    };
    part(months / 12, "year", out);
    part(months % 12, "mon", out);
    part(days, "day", out);
    if us != 0 || !any {
        if any {
            out.put_u8(b' ');
        }
        if us < 0 {
            out.put_u8(b'-');
        } else if negative_before {
            out.put_u8(b'+');
        }
        let abs = us.unsigned_abs();
        let (s, frac) = (abs / 1_000_000, abs % 1_000_000);
        put(out, format_args!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60));
        fraction(frac as i64, out);
    }
}

/// Bytes as `\x0a1b`.
pub fn bytea(v: &[u8], out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 + 2 * v.len());
    out.put_slice(b"\\x");
    for b in v {
        out.put_u8(HEX[usize::from(b >> 4)]);
        out.put_u8(HEX[usize::from(b & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(f: impl FnOnce(&mut BytesMut), expected: &str) {
        let mut out = BytesMut::new();
        f(&mut out);
        assert_eq!(std::str::from_utf8(&out).expect("utf-8"), expected);
    }

    #[test]
    fn floats_print_as_postgres_does() {
        for (v, s) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (123456789.0, "123456789"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5, "-2.5"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            check(|o| float8(v, o), s);
        }
        check(|o| float4(1e6, o), "1e+06");
        check(|o| float4(0.1, o), "0.1");
    }

    #[test]
    fn decimals_keep_their_scale() {
        check(|o| decimal("12345", 2, o), "123.45");
        check(|o| decimal("-5", 2, o), "-0.05");
        check(|o| decimal("0", 2, o), "0.00");
        check(|o| decimal("7", -2, o), "700");
        check(|o| decimal("0", -2, o), "0");
    }

    #[test]
    fn timestamps_before_and_after_1970() {
        check(|o| timestamp(0, false, o), "1970-01-01 00:00:00");
        check(|o| timestamp(-1, true, o), "1969-12-31 23:59:59.999999+00");
        check(|o| timestamp(1_709_164_800_120_000, false, o), "2024-02-29 00:00:00.12");
        check(|o| date(-719_529, o), "0002-12-31 BC");
        check(|o| date(-719_528, o), "0001-01-01 BC");
    }

    #[test]
    fn intervals_as_postgres_style() {
        check(|o| interval(0, 0, 0, o), "00:00:00");
        check(|o| interval(14, 3, 14_706_789_000, o), "1 year 2 mons 3 days 04:05:06.789");
        check(|o| interval(-1, 2, -1_000_000, o), "-1 mons +2 days -00:00:01");
        check(|o| interval(0, 1, 0, o), "1 day");
    }

    #[test]
    fn bytes_are_hex() {
        check(|o| bytea(&[0, 0xab, 255], o), "\\x00abff");
    }
}
