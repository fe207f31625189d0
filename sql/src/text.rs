//! Values in the text format of Postgres: what `float8out`, `timestamp_out`, `interval_out` and so on print with
//! `DateStyle ISO`, `IntervalStyle postgres`, `bytea_output hex`, and shortest round-trip floats.

use std::fmt::Write;

/// Microseconds a day.
pub const DAY_US: i64 = 86_400_000_000;

fn put<W: Write>(out: &mut W, args: std::fmt::Arguments<'_>) {
    // Writing into a growing buffer cannot fail.
    let _ = out.write_fmt(args);
}

fn put_str<W: Write>(out: &mut W, s: &str) {
    let _ = out.write_str(s);
}

fn zeros<W: Write>(out: &mut W, n: usize) {
    (0..n).for_each(|_| put_str(out, "0"));
}

/// A double, shortest digits that read back the same.
pub fn float8<W: Write>(v: f64, out: &mut W) {
    float(v.is_nan(), v.is_infinite(), v.is_sign_negative(), format_args!("{v:e}"), 15, out);
}

/// A float, shortest digits that read back the same.
pub fn float4<W: Write>(v: f32, out: &mut W) {
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
fn float<W: Write>(nan: bool, inf: bool, neg: bool, sci: std::fmt::Arguments<'_>, digits_max: i32, out: &mut W) {
    if nan {
        return put_str(out, "NaN");
    }
    if inf {
        return put_str(out, if neg { "-Infinity" } else { "Infinity" });
    }
    let mut s = Scratch { bytes: [0; 40], len: 0 };
    let _ = s.write_fmt(sci);
    let text = std::str::from_utf8(&s.bytes[..s.len]).unwrap_or_default();
    let text = text.strip_prefix('-').unwrap_or(text);
    if neg {
        put_str(out, "-");
    }
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mut digits = [0u8; 40];
    let mut n = 0;
    for c in mantissa.bytes().filter(u8::is_ascii_digit) {
        digits[n] = c;
        n += 1;
    }
    let digits = std::str::from_utf8(&digits[..n]).unwrap_or_default();
    if exponent < -4 || exponent >= digits_max {
        put_str(out, mantissa);
        put(out, format_args!("e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()));
    } else if exponent < 0 {
        put_str(out, "0.");
        zeros(out, (-exponent - 1) as usize);
        put_str(out, digits);
    } else {
        let int = exponent as usize + 1;
        if n <= int {
            put_str(out, digits);
            zeros(out, int - n);
        } else {
            put_str(out, &digits[..int]);
            put_str(out, ".");
            put_str(out, &digits[int..]);
        }
    }
}

/// A decimal: `digits` is the unscaled integer as text, possibly with a sign.
pub fn decimal<W: Write>(digits: &str, scale: i8, out: &mut W) {
    let (neg, digits) = match digits.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, digits),
    };
    if neg {
        put_str(out, "-");
    }
    if scale <= 0 {
        put_str(out, digits);
        if digits != "0" {
            zeros(out, usize::from(scale.unsigned_abs()));
        }
        return;
    }
    let scale = scale as usize;
    if digits.len() > scale {
        let (int, frac) = digits.split_at(digits.len() - scale);
        put_str(out, int);
        put_str(out, ".");
        put_str(out, frac);
    } else {
        put_str(out, "0.");
        zeros(out, scale - digits.len());
        put_str(out, digits);
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
fn ymd<W: Write>(days: i64, out: &mut W) -> bool {
    let (y, m, d) = civil(days);
    // There is no year zero: 0 is 1 BC.
    let (shown, bc) = if y <= 0 { (1 - y, true) } else { (y, false) };
    put(out, format_args!("{shown:04}-{m:02}-{d:02}"));
    bc
}

/// A date, days since 1970.
pub fn date<W: Write>(days: i32, out: &mut W) {
    if ymd(i64::from(days), out) {
        put_str(out, " BC");
    }
}

/// A time of day in microseconds.
pub fn time<W: Write>(us: i64, out: &mut W) {
    let (s, frac) = (us / 1_000_000, us % 1_000_000);
    put(out, format_args!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60));
    fraction(frac, out);
}

fn fraction<W: Write>(us: i64, out: &mut W) {
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
pub fn timestamp<W: Write>(us: i64, utc: bool, out: &mut W) {
    let bc = ymd(us.div_euclid(DAY_US), out);
    put_str(out, " ");
    time(us.rem_euclid(DAY_US), out);
    if utc {
        put_str(out, "+00");
    }
    if bc {
        put_str(out, " BC");
    }
}

/// An interval of months, days and microseconds.
pub fn interval<W: Write>(months: i32, days: i32, us: i64, out: &mut W) {
    let mut any = false;
    let mut negative_before = false;
    let mut part = |n: i32, unit: &str, out: &mut W| {
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
            put_str(out, " ");
        }
        if us < 0 {
            put_str(out, "-");
        } else if negative_before {
            put_str(out, "+");
        }
        let abs = us.unsigned_abs();
        let (s, frac) = (abs / 1_000_000, abs % 1_000_000);
        put(out, format_args!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60));
        fraction(frac as i64, out);
    }
}

/// A difference of timestamps in microseconds: whole days and the rest.
pub fn duration<W: Write>(us: i64, out: &mut W) {
    interval(0, (us / DAY_US) as i32, us % DAY_US, out);
}

/// Bytes as `\x0a1b`.
pub fn bytea<W: Write>(v: &[u8], out: &mut W) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    put_str(out, "\\x");
    for b in v {
        let pair = [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]];
        put_str(out, std::str::from_utf8(&pair).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(f: impl FnOnce(&mut String), expected: &str) {
        let mut out = String::new();
        f(&mut out);
        assert_eq!(out, expected);
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
        check(|o| duration(4 * DAY_US + 36_000_000_000, o), "4 days 10:00:00");
    }

    #[test]
    fn bytes_are_hex() {
        check(|o| bytea(&[0, 0xab, 255], o), "\\x00abff");
    }
}
