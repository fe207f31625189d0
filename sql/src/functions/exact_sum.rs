//! The exact sum of floats.
//!
//! The sum of a multiset of `f64` is kept as an integer multiple of the smallest subnormal, so it depends neither on
//! the order of additions nor on how they were split and merged, and a retraction undoes an addition completely: the
//! sum after `+x -x` is the sum before, bit for bit. Rounding happens once, in [`ExactFloatSum::value`].
//!
//! The integer is sparse: a few `i128` buckets, each `2^32` times the one below it. Values of similar magnitude meet
//! in one bucket, which is kept inline; adding is then a shift and an addition.

use crate::error::{Result, SqlError, SqlState};

/// Exponent of the smallest subnormal: bucket 0 counts in units of `2^MIN_EXP`.
const MIN_EXP: i32 = -1074;
/// Bits between buckets.
const STEP: u32 = 32;
/// Base-`2^32` digits that hold any sum: 67 for one value times a weight, the rest for carries.
const DIGITS: usize = 96;
/// Buckets stay below this, so that adding two of them cannot overflow.
const BUCKET_LIMIT: u128 = 1 << 125;
/// Marks an unused inline bucket.
const NO_BUCKET: u8 = u8::MAX;

/// An order-independent, mergeable, retractable, correctly rounded sum of `f64`.
///
/// `-0.0` counts as `0.0`; infinities and NaNs are counted apart, so that they can be retracted too.
#[derive(Debug, Clone)]
pub struct ExactFloatSum {
    inline: i128,
    inline_at: u8,
    more: Vec<(u8, i128)>,
    specials: Option<Box<Specials>>,
}

/// Multiplicities of the values that are no numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Specials {
    pos_inf: i64,
    neg_inf: i64,
    nan: i64,
}

impl Default for ExactFloatSum {
    fn default() -> Self {
        Self::new()
    }
}

/// Two sums are equal if they stand for the same number, whatever led there.
impl PartialEq for ExactFloatSum {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for ExactFloatSum {}

impl ExactFloatSum {
    /// The empty sum.
    pub const fn new() -> Self {
        Self { inline: 0, inline_at: NO_BUCKET, more: Vec::new(), specials: None }
    }

    /// Adds `x` `weight` times; a negative weight retracts.
    #[inline]
    pub fn add(&mut self, x: f64, weight: i64) {
        let bits = x.to_bits();
        let biased = ((bits >> 52) & 0x7ff) as u32;
        if biased == 0x7ff {
            return self.add_special(x, weight);
        }
        let fraction = bits & ((1 << 52) - 1);
        // Both subnormals and the first normal binade count in units of 2^-1074.
        let (mantissa, shift) = if biased == 0 { (fraction, 0) } else { (fraction | (1 << 52), biased - 1) };
        if mantissa == 0 {
            return;
        }
        let signed = if bits >> 63 == 1 { -(mantissa as i128) } else { mantissa as i128 };
        let product = signed * i128::from(weight); // below 2^116
        if product.unsigned_abs() < 1 << 93 {
            self.add_bucket((shift / STEP) as u8, product << (shift % STEP));
        } else {
            let (high, low) = (product >> 64, product & ((1 << 64) - 1));
            self.add_bucket((shift / STEP) as u8, low << (shift % STEP));
            self.add_bucket(((shift + 64) / STEP) as u8, high << (shift % STEP));
        }
    }

    /// Adds everything another sum holds.
    pub fn merge(&mut self, other: &Self) {
        if other.inline_at != NO_BUCKET {
            self.add_bucket(other.inline_at, other.inline);
        }
        for &(at, v) in &other.more {
            self.add_bucket(at, v);
        }
        if let Some(s) = &other.specials {
            self.update_specials(|mine| {
                mine.pos_inf += s.pos_inf;
                mine.neg_inf += s.neg_inf;
                mine.nan += s.nan;
            });
        }
    }

    /// The exact sum, rounded once to the nearest `f64`, ties to even. Infinite if it is too large for one.
    pub fn value(&self) -> f64 {
        if let Some(s) = &self.specials {
            if s.nan != 0 || (s.pos_inf != 0 && s.neg_inf != 0) {
                return f64::NAN;
            }
            if s.pos_inf != 0 {
                return f64::INFINITY;
            }
            if s.neg_inf != 0 {
                return f64::NEG_INFINITY;
            }
        }
        if let Some((at, v)) = self.as_one_bucket() {
            if v == 0 {
                return 0.0;
            }
            // `as` rounds to nearest even; the scaling is exact because the result is neither subnormal nor infinite.
            if (2..=61).contains(&at) {
                return v as f64 * power_of_two(i32::from(at) * STEP as i32 + MIN_EXP);
            }
        }
        let (negative, digits) = self.digits();
        let magnitude = round(&digits);
        if negative { -magnitude } else { magnitude }
    }

    /// True if the sum is exactly zero and holds no infinity and no NaN.
    pub fn is_zero(&self) -> bool {
        if self.specials.is_some() {
            return false;
        }
        let zero_inline = self.inline == 0;
        if self.more.iter().all(|(_, v)| *v == 0) {
            return zero_inline;
        }
        self.digits().1.iter().all(|d| *d == 0)
    }

    /// The sum in a canonical encoding: equal sums give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (negative, digits) = self.digits();
        let first = digits.iter().position(|d| *d != 0).unwrap_or(0);
        let end = digits.iter().rposition(|d| *d != 0).map_or(first, |i| i + 1);
        let mut out = Vec::with_capacity(3 + 4 * (end - first) + if self.specials.is_some() { 24 } else { 0 });
        out.push(u8::from(negative) | u8::from(self.specials.is_some()) << 1);
        if let Some(s) = &self.specials {
            for n in [s.pos_inf, s.neg_inf, s.nan] {
                out.extend_from_slice(&n.to_le_bytes());
            }
        }
        out.push(first as u8);
        out.push((end - first) as u8);
        for d in &digits[first..end] {
            out.extend_from_slice(&d.to_le_bytes());
        }
        out
    }

    /// Decodes what [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = || SqlError::new(SqlState::DATA_CORRUPTED, "stored float sum is damaged");
        let (&flags, mut rest) = bytes.split_first().ok_or_else(damaged)?;
        if flags > 3 {
            return Err(damaged());
        }
        let mut sum = Self::new();
        if flags & 2 != 0 {
            let mut next = || -> Result<i64> {
                let (n, tail) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
                rest = tail;
                Ok(i64::from_le_bytes(*n))
            };
            let s = Specials { pos_inf: next()?, neg_inf: next()?, nan: next()? };
            sum.specials = Some(Box::new(s));
        }
        let (&[first, count], tail) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
        if usize::from(first) + usize::from(count) > DIGITS || tail.len() != 4 * usize::from(count) {
            return Err(damaged());
        }
        // Two digits share a bucket: fewer buckets, and room for carries remains.
        for (i, pair) in tail.chunks(8).enumerate() {
            let mut le = [0; 8];
            le[..pair.len()].copy_from_slice(pair);
            let v = i128::from(u64::from_le_bytes(le));
            sum.add_bucket(first + 2 * i as u8, if flags & 1 != 0 { -v } else { v });
        }
        Ok(sum)
    }

    /// Bytes allocated apart from the value itself.
    pub fn heap_size(&self) -> usize {
        self.more.capacity() * size_of::<(u8, i128)>() + self.specials.as_ref().map_or(0, |_| size_of::<Specials>())
    }

    #[inline]
    fn add_bucket(&mut self, at: u8, v: i128) {
        if self.inline_at == at {
            let sum = self.inline + v;
            if sum.unsigned_abs() < BUCKET_LIMIT {
                self.inline = sum;
                return;
            }
        } else if self.inline_at == NO_BUCKET {
            self.inline_at = at;
            self.inline = v;
            return;
        }
        self.add_bucket_slow(at, v);
    }

    #[cold]
    fn spill(&mut self, at: u8, high: i128) {
        self.add_bucket(at + 3, high);
    }

    fn add_bucket_slow(&mut self, at: u8, v: i128) {
        let slot = if self.inline_at == at {
            &mut self.inline
        } else {
            let i = match self.more.iter().position(|(a, _)| *a == at) {
                Some(i) => i,
                None => {
                    self.more.push((at, 0));
                    self.more.len() - 1
                }
            };
            &mut self.more[i].1
        };
        let sum = *slot + v;
        if sum.unsigned_abs() < BUCKET_LIMIT {
            *slot = sum;
        } else {
            *slot = sum & ((1 << 96) - 1);
            self.spill(at, sum >> 96);
        }
    }

    #[cold]
    fn add_special(&mut self, x: f64, weight: i64) {
        self.update_specials(|s| {
            if x.is_nan() {
                s.nan += weight;
            } else if x > 0.0 {
                s.pos_inf += weight;
            } else {
                s.neg_inf += weight;
            }
        });
    }

    fn update_specials(&mut self, f: impl FnOnce(&mut Specials)) {
        let mut s = self.specials.take().map_or_else(Specials::default, |b| *b);
        f(&mut s);
        if s != Specials::default() {
            self.specials = Some(Box::new(s));
        }
    }

    /// All buckets folded into the lowest one, if that fits.
    fn as_one_bucket(&self) -> Option<(u8, i128)> {
        if self.inline_at == NO_BUCKET {
            return Some((2, 0));
        }
        let lowest = self.more.iter().filter(|b| b.1 != 0).map(|b| b.0).min().unwrap_or(self.inline_at);
        let lowest = if self.inline != 0 { lowest.min(self.inline_at) } else { lowest };
        let mut sum = 0i128;
        for (at, v) in self.more.iter().copied().chain([(self.inline_at, self.inline)]) {
            if v == 0 {
                continue;
            }
            let shift = u32::from(at - lowest) * STEP;
            // Bits of the magnitude after the shift, one for the sign, one for the addition.
            if 128 - v.unsigned_abs().leading_zeros() + shift > 125 {
                return None;
            }
            sum += v << shift;
            if sum.unsigned_abs() >= BUCKET_LIMIT {
                return None;
            }
        }
        Some((lowest, sum))
    }

    /// Sign and base-`2^32` digits of the magnitude, in units of the smallest subnormal.
    fn digits(&self) -> (bool, [u32; DIGITS]) {
        let mut wide = [0i128; DIGITS];
        for (at, v) in self.more.iter().copied().chain([(self.inline_at, self.inline)]) {
            if v != 0 {
                wide[usize::from(at)] += v;
            }
        }
        let carry = |wide: &mut [i128; DIGITS]| -> i128 {
            let mut carry = 0i128;
            for d in wide.iter_mut() {
                let v = *d + carry;
                *d = v & ((1 << STEP) - 1);
                carry = v >> STEP;
            }
            carry
        };
        let negative = carry(&mut wide) < 0;
        if negative {
            // The digits are the two's complement of the magnitude.
            wide.iter_mut().for_each(|d| *d = ((1 << STEP) - 1) - *d);
            wide[0] += 1;
            carry(&mut wide);
        }
        (negative, wide.map(|d| d as u32))
    }
}

/// `2^e` for exponents of normal numbers.
fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// The nearest `f64` to a magnitude in units of the smallest subnormal, ties to even.
fn round(digits: &[u32; DIGITS]) -> f64 {
    let Some(top) = digits.iter().rposition(|d| *d != 0) else { return 0.0 };
    let bits = top as u32 * STEP + (STEP - digits[top].leading_zeros());
    let bit = |i: u32| (digits[(i / STEP) as usize] >> (i % STEP)) & 1;
    if bits <= 53 {
        // Subnormal or just above: exact, and the encoding is the number itself.
        return f64::from_bits(u64::from(digits[1]) << 32 | u64::from(digits[0]));
    }
    let drop = bits - 53;
    let mut mantissa = 0u64;
    for i in (drop..bits).rev() {
        mantissa = mantissa << 1 | u64::from(bit(i));
    }
    let half = bit(drop - 1) == 1;
    let below = (0..drop - 1).any(|i| bit(i) == 1);
    if half && (below || mantissa & 1 == 1) {
        mantissa += 1; // a carry to 2^53 runs on into the exponent below, as it should
    }
    // Biased exponent drop+1 with the hidden bit inside `mantissa`: adding does the rest.
    let encoded = (u64::from(drop) << 52) + mantissa;
    if encoded >= 0x7ff << 52 { f64::INFINITY } else { f64::from_bits(encoded) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> ExactFloatSum {
        let mut s = ExactFloatSum::new();
        values.iter().for_each(|x| s.add(*x, 1));
        s
    }

    /// The sum by a dense big integer: slow, obvious.
    fn reference(values: &[(f64, i64)]) -> f64 {
        let mut positive = [0u64; 2 * DIGITS];
        let mut negative = [0u64; 2 * DIGITS];
        for (x, w) in values {
            let biased = (x.to_bits() >> 52 & 0x7ff) as usize;
            let fraction = x.to_bits() & ((1 << 52) - 1);
            let (m, e) = if biased == 0 { (fraction, 0) } else { (fraction | 1 << 52, biased - 1) };
            let p = u128::from(m) * u128::from(w.unsigned_abs());
            let into = if x.is_sign_negative() != (*w < 0) { &mut negative } else { &mut positive };
            for i in 0..128 {
                if p >> i & 1 == 1 {
                    // Bit by bit, 16 bits a limb.
                    let (mut limb, mut add) = ((e + i) / 16, 1u64 << ((e + i) % 16));
                    while add != 0 {
                        into[limb] += add;
                        add = into[limb] >> 16;
                        into[limb] &= 0xffff;
                        limb += 1;
                    }
                }
            }
        }
        let less = positive.iter().rev().lt(negative.iter().rev());
        let (big, small) = if less { (negative, positive) } else { (positive, negative) };
        let (mut digits, mut borrow) = ([0u32; DIGITS], 0i64);
        for i in 0..2 * DIGITS {
            let d = big[i] as i64 - small[i] as i64 - borrow;
            borrow = i64::from(d < 0);
            digits[i / 2] |= ((d + (borrow << 16)) as u32) << (16 * (i % 2));
        }
        if less { -round(&digits) } else { round(&digits) }
    }

    #[test]
    fn sums_that_naive_addition_gets_wrong_are_right() {
        assert_eq!(sum(&[1e308, 1e308, -1e308, -1e308, 1.0]).value(), 1.0);
        assert_eq!(sum(&[1e100, 1.0, -1e100]).value(), 1.0);
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        assert_eq!(sum(&[f64::MIN_POSITIVE / 4.0, f64::MAX, -f64::MAX]).value(), f64::MIN_POSITIVE / 4.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        assert_eq!(sum(&[-0.0]).value().to_bits(), 0);
    }

    #[test]
    fn infinities_and_nan_enter_and_leave() {
        let mut s = sum(&[1.5, f64::INFINITY]);
        assert_eq!(s.value(), f64::INFINITY);
        s.add(f64::NEG_INFINITY, 1);
        assert!(s.value().is_nan());
        s.add(f64::INFINITY, -1);
        assert_eq!(s.value(), f64::NEG_INFINITY);
        s.add(f64::NAN, 2);
        assert!(s.value().is_nan());
        s.add(f64::NAN, -2);
        s.add(f64::NEG_INFINITY, -1);
        assert_eq!(s.value(), 1.5);
        assert_eq!(s, sum(&[1.5]));
    }

    #[test]
    fn ties_round_to_even_as_the_hardware_does() {
        let ulp = 2f64.powi(-52);
        for x in [1.0, 1.0 + ulp, 3.0e10, 7.0e-300] {
            for y in [ulp / 2.0, x * ulp / 2.0, -x * ulp / 4.0, x * 0.3] {
                assert_eq!(sum(&[x, y]).value(), x + y, "{x} + {y}");
            }
        }
    }

    #[test]
    fn huge_weights_do_not_overflow() {
        let mut s = ExactFloatSum::new();
        for _ in 0..1000 {
            s.add(f64::MAX, i64::MAX);
        }
        assert_eq!(s.value(), f64::INFINITY);
        for _ in 0..1000 {
            s.add(-f64::MAX, i64::MAX);
        }
        assert!(s.is_zero());
        let mut t = s.clone();
        for _ in 0..200 {
            t.merge(&t.clone());
            t.add(3.0, 1);
            if t.value() > 1e60 {
                break;
            }
        }
        assert!(t.value() > 1e59);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let good = sum(&[1.0, 1e200]).to_bytes();
        assert!(ExactFloatSum::from_bytes(&good[..good.len() - 1]).is_err());
        assert!(ExactFloatSum::from_bytes(&[]).is_err());
        assert!(ExactFloatSum::from_bytes(&[9, 0, 0]).is_err());
        assert!(ExactFloatSum::from_bytes(&[0, 250, 10]).is_err());
    }

    fn finite() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |x| x.is_finite()),
            -1000.0..1000.0f64,
            (-40i32..40).prop_map(|e| 2f64.powi(e)),
            Just(f64::from_bits(1)),
            Just(f64::MAX),
        ]
    }

    proptest! {
        #[test]
        fn matches_a_big_integer(values in prop::collection::vec((finite(), prop_oneof![Just(1i64), -3..4i64, any::<i64>()]), 0..40)) {
            let mut s = ExactFloatSum::new();
            values.iter().for_each(|(x, w)| s.add(*x, *w));
            prop_assert_eq!(s.value(), reference(&values));
        }

        #[test]
        fn order_and_grouping_do_not_matter(values in prop::collection::vec(finite(), 0..40), cut in 0usize..40, seed in any::<u64>()) {
            let all = sum(&values);
            let mut shuffled = values.clone();
            let n = shuffled.len().max(1) as u64;
            for i in 0..shuffled.len() {
                shuffled.swap(i, (seed.wrapping_mul(i as u64 + 7) % n) as usize);
            }
            let (a, b) = shuffled.split_at(cut.min(shuffled.len()));
            let mut merged = sum(a);
            merged.merge(&sum(b));
            prop_assert_eq!(&merged, &all);
            prop_assert_eq!(merged.value().to_bits(), all.value().to_bits());
            let restored = ExactFloatSum::from_bytes(&all.to_bytes()).unwrap();
            prop_assert_eq!(&restored, &all);
            prop_assert_eq!(restored.value().to_bits(), all.value().to_bits());
        }

        #[test]
        fn a_retraction_leaves_nothing_behind(values in prop::collection::vec(finite(), 1..40)) {
            let mut s = sum(&values);
            values[1..].iter().rev().for_each(|x| s.add(*x, -1));
            prop_assert_eq!(s.value(), values[0] + 0.0);
            s.add(values[0], -1);
            prop_assert!(s.is_zero());
            prop_assert_eq!(s, ExactFloatSum::new());
        }
    }
}
