//! Numbers of JSON as Postgres' numeric has them: compared and computed by their digits.

use std::cmp::Ordering;

use arrow::datatypes::i256;

use crate::error::{SqlError, SqlState};

/// Digits after the point of what a calculation gives.
const SCALE_MAX: usize = 70;

/// An integer and how many of its digits stand after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    value: i256,
    scale: u32,
}

type Result<T> = std::result::Result<T, SqlError>;

fn out_of_range() -> SqlError {
    SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, "a number of a jsonpath has too many digits")
}

fn power(n: u32) -> Result<i256> {
    i256::from_i128(10).checked_pow(n).ok_or_else(out_of_range)
}

impl Number {
    /// Of JSON text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let plain = super::super::value::plain_number(text.into());
        let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
        if plain.contains(['e', 'E']) || fraction.len() > SCALE_MAX {
            return Err(out_of_range());
        }
        let value = i256::from_string(&format!("{whole}{fraction}")).ok_or_else(out_of_range)?;
        Ok(Self { value, scale: fraction.len() as u32 })
    }

    /// Of an integer.
    pub(super) fn whole(n: i64) -> Self {
        Self { value: i256::from_i128(i128::from(n)), scale: 0 }
    }

    fn at(self, scale: u32) -> Result<i256> {
        self.value.checked_mul(power(scale - self.scale)?).ok_or_else(out_of_range)
    }

    fn both(self, other: Self) -> Result<(i256, i256, u32)> {
        let scale = self.scale.max(other.scale);
        Ok((self.at(scale)?, other.at(scale)?, scale))
    }

    pub(super) fn add(self, other: Self) -> Result<Self> {
        let (a, b, scale) = self.both(other)?;
        Ok(Self { value: a.checked_add(b).ok_or_else(out_of_range)?, scale })
    }

    pub(super) fn negated(self) -> Self {
        Self { value: self.value.wrapping_neg(), ..self }
    }

    pub(super) fn multiply(self, other: Self) -> Result<Self> {
        let value = self.value.checked_mul(other.value).ok_or_else(out_of_range)?;
        let scale = self.scale + other.scale;
        if scale as usize > SCALE_MAX { Err(out_of_range()) } else { Ok(Self { value, scale }) }
    }

    /// With as many digits as Postgres gives.
    pub(super) fn divide(self, other: Self) -> Result<Self> {
        if other.value == i256::ZERO {
            return Err(SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero"));
        }
        let (a, b) = (self.first_digits(), other.first_digits());
        let weight = a.0 - b.0 - i32::from(a.1 <= b.1);
        let digits = (16 - weight * 4).clamp(0, SCALE_MAX as i32) as u32;
        let scale = digits.max(self.scale).max(other.scale);
        // value / 10^own / (other / 10^theirs) at the scale of the result
        let up = power(scale + other.scale - self.scale)?;
        let scaled = self.value.checked_mul(up).ok_or_else(out_of_range)?;
        let value = crate::functions::arithmetic::divide_rounded(scaled, other.value).ok_or_else(out_of_range)?;
        Ok(Self { value, scale })
    }

    pub(super) fn modulo(self, other: Self) -> Result<Self> {
        let (a, b, scale) = self.both(other)?;
        let value = a.checked_rem(b).ok_or_else(|| SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero"))?;
        Ok(Self { value, scale })
    }

    /// The weight of the first digit of base 10000, and that digit.
    fn first_digits(self) -> (i32, u32) {
        let digits = self.value.wrapping_abs().to_string();
        if digits == "0" {
            return (0, 0);
        }
        let whole = digits.len() as i32 - self.scale as i32;
        // Places before the point; the first group has what is over.
        let weight = (whole + 3).div_euclid(4) - 1;
        let length = (whole - weight * 4).clamp(1, 4) as usize;
        let group = format!("{digits:0<4}");
        (weight, group[..length].parse().unwrap_or(0))
    }

    fn whole_part(self, up: bool) -> Result<Self> {
        let unit = power(self.scale)?;
        let cut = self.value.checked_div(unit).ok_or_else(out_of_range)?;
        let rest = self.value.checked_rem(unit).ok_or_else(out_of_range)?;
        let step = match (rest.cmp(&i256::ZERO), up) {
            (Ordering::Less, false) => i256::MINUS_ONE,
            (Ordering::Greater, true) => i256::ONE,
            _ => i256::ZERO,
        };
        Ok(Self { value: cut.wrapping_add(step), scale: 0 })
    }

    pub(super) fn floor(self) -> Result<Self> {
        self.whole_part(false)
    }

    pub(super) fn ceiling(self) -> Result<Self> {
        self.whole_part(true)
    }

    pub(super) fn abs(self) -> Self {
        Self { value: self.value.wrapping_abs(), ..self }
    }

    /// Rounded to an integer, halves away from zero.
    pub(super) fn rounded(self) -> Result<Self> {
        let value = crate::functions::arithmetic::divide_rounded(self.value, power(self.scale)?);
        Ok(Self { value: value.ok_or_else(out_of_range)?, scale: 0 })
    }

    /// As JSON.
    pub(super) fn text(self) -> String {
        let mut out = String::new();
        crate::text::decimal(&self.value.to_string(), self.scale as i8, &mut out);
        out
    }
}

/// The order of two numbers in JSON text, whatever their length.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (super::super::value::plain_number(a.into()), super::super::value::plain_number(b.into()));
    if a.contains(['e', 'E']) || b.contains(['e', 'E']) {
        // Beyond what numeric has digits for.
        let float = |s: &str| s.parse::<f64>().unwrap_or(f64::NAN);
        return float(&a).total_cmp(&float(&b));
    }
    fn parts(s: &str) -> (bool, &str, &str) {
        let (negative, s) = s.strip_prefix('-').map_or((false, s), |rest| (true, rest));
        let (whole, fraction) = s.split_once('.').unwrap_or((s, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        (negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction)
    }
    let (x, y) = (parts(&a), parts(&b));
    let size = x.1.len().cmp(&y.1.len()).then_with(|| x.1.cmp(y.1)).then_with(|| x.2.cmp(y.2));
    match (x.0, y.0) {
        (false, false) => size,
        (true, true) => size.reverse(),
        (negative, _) => {
            if negative {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn quotients_have_the_digits_of_postgres() {
        for (a, b, quotient) in [
            ("1", "3", "0.33333333333333333333"),
            ("10", "3", "3.3333333333333333"),
            ("4", "2", "2.0000000000000000"),
            ("1", "7000", "0.00014285714285714286"),
            ("2.5", "0.5", "5.0000000000000000"),
            ("-7", "2", "-3.5000000000000000"),
        ] {
            assert_eq!(n(a).divide(n(b)).unwrap().text(), quotient, "{a} / {b}");
        }
        assert_eq!(n("1").divide(n("0")).unwrap_err().code, SqlState::DIVISION_BY_ZERO);
    }

    #[test]
    fn sums_and_parts_are_exact() {
        assert_eq!(n("1.10").add(n("0.005")).unwrap().text(), "1.105");
        assert_eq!(n("1e2").multiply(n("-0.5")).unwrap().text(), "-50.0");
        assert_eq!(n("-7").modulo(n("3")).unwrap().text(), "-1");
        assert_eq!(
            (n("-1.5").floor().unwrap().text(), n("-1.5").ceiling().unwrap().text()),
            ("-2".into(), "-1".into())
        );
        assert_eq!((n("1.2").ceiling().unwrap().text(), n("2.5").rounded().unwrap().text()), ("2".into(), "3".into()));
    }

    #[test]
    fn order_is_by_value() {
        for (a, b, order) in [
            ("1.0", "1", Ordering::Equal),
            ("-0", "0.00", Ordering::Equal),
            ("2", "10", Ordering::Less),
            ("-2", "-10", Ordering::Greater),
            ("1e3", "999.9", Ordering::Greater),
            ("-1", "0.5", Ordering::Less),
            ("12345678901234567890123456789.1", "12345678901234567890123456789.01", Ordering::Greater),
        ] {
            assert_eq!(compare(a, b), order, "{a} {b}");
        }
    }
}
