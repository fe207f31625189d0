//! Exact first and second moments of a multiset of pairs, and the statistics that are functions of them.
//!
//! The sums of x, y, x², y² and xy are [`ExactFloatSum`]s, products in two parts (`x * y = hi + lo`): they depend on
//! neither order nor grouping, and a retraction undoes an addition. Statistics are computed from them in about 106 bits,
//! so that subtracting large sums loses nothing that a double would show.

use super::exact_sum::ExactFloatSum;
use crate::error::{Result, SqlError, SqlState};

/// A statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stat {
    /// `var_pop(x)`.
    VarPop,
    /// `var_samp(x)`.
    VarSamp,
    /// `stddev_pop(x)`.
    StddevPop,
    /// `stddev_samp(x)`.
    StddevSamp,
    /// `covar_pop(y, x)`.
    CovarPop,
    /// `covar_samp(y, x)`.
    CovarSamp,
    /// `corr(y, x)`.
    Corr,
    /// `regr_slope(y, x)`.
    RegrSlope,
    /// `regr_intercept(y, x)`.
    RegrIntercept,
    /// `regr_count(y, x)`.
    RegrCount,
    /// `regr_r2(y, x)`.
    RegrR2,
    /// `regr_avgx(y, x)`.
    RegrAvgX,
    /// `regr_avgy(y, x)`.
    RegrAvgY,
    /// `regr_sxx(y, x)`.
    RegrSxx,
    /// `regr_syy(y, x)`.
    RegrSyy,
    /// `regr_sxy(y, x)`.
    RegrSxy,
}

impl Stat {
    /// All of them, with the names under which DataFusion knows them.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::VarPop, "var_pop"),
        (Self::VarSamp, "var"),
        (Self::StddevPop, "stddev_pop"),
        (Self::StddevSamp, "stddev"),
        (Self::CovarPop, "covar_pop"),
        (Self::CovarSamp, "covar_samp"),
        (Self::Corr, "corr"),
        (Self::RegrSlope, "regr_slope"),
        (Self::RegrIntercept, "regr_intercept"),
        (Self::RegrCount, "regr_count"),
        (Self::RegrR2, "regr_r2"),
        (Self::RegrAvgX, "regr_avgx"),
        (Self::RegrAvgY, "regr_avgy"),
        (Self::RegrSxx, "regr_sxx"),
        (Self::RegrSyy, "regr_syy"),
        (Self::RegrSxy, "regr_sxy"),
    ];

    /// The statistic with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(s, _)| *s)
    }

    /// True for those of two arguments, y and x.
    pub fn is_of_pairs(self) -> bool {
        !matches!(self, Self::VarPop | Self::VarSamp | Self::StddevPop | Self::StddevSamp)
    }
}

/// See the module. Of single values only x is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moments {
    count: i64,
    x: ExactFloatSum,
    xx: ExactFloatSum,
    pair: Option<Box<Pair>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Pair {
    y: ExactFloatSum,
    yy: ExactFloatSum,
    xy: ExactFloatSum,
}

fn add_product(sum: &mut ExactFloatSum, a: f64, b: f64, weight: i64) {
    let high = a * b;
    sum.add(high, weight);
    if high.is_finite() {
        sum.add(a.mul_add(b, -high), weight);
    }
}

impl Moments {
    /// Adds x `weight` times.
    pub fn add(&mut self, x: f64, weight: i64) {
        self.count += weight;
        self.x.add(x, weight);
        add_product(&mut self.xx, x, x, weight);
    }

    /// Adds the pair `weight` times.
    pub fn add_pair(&mut self, y: f64, x: f64, weight: i64) {
        self.add(x, weight);
        let pair = self.pair.get_or_insert_default();
        pair.y.add(y, weight);
        add_product(&mut pair.yy, y, y, weight);
        add_product(&mut pair.xy, x, y, weight);
    }

    /// Adds everything another one holds.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.x.merge(&other.x);
        self.xx.merge(&other.xx);
        if let Some(theirs) = &other.pair {
            let mine = self.pair.get_or_insert_default();
            mine.y.merge(&theirs.y);
            mine.yy.merge(&theirs.yy);
            mine.xy.merge(&theirs.xy);
        }
    }

    /// Number of values.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// True if nothing is in it.
    pub fn is_zero(&self) -> bool {
        let pair = self.pair.as_ref().is_none_or(|p| p.y.is_zero() && p.yy.is_zero() && p.xy.is_zero());
        self.count == 0 && self.x.is_zero() && self.xx.is_zero() && pair
    }

    /// The statistic; `None` where SQL has NULL.
    pub fn value(&self, stat: Stat) -> Option<f64> {
        let n = self.count;
        if n <= 0 {
            return (stat == Stat::RegrCount).then_some(0.0);
        }
        let count = n as f64;
        let none = Pair::default();
        let pair = self.pair.as_deref().unwrap_or(&none);
        let sxx = || centred(n, &self.xx, &self.x, &self.x).max_nan(0.0);
        let syy = || centred(n, &pair.yy, &pair.y, &pair.y).max_nan(0.0);
        let sxy = || centred(n, &pair.xy, &self.x, &pair.y);
        let sample = |sum: f64| (n > 1).then(|| sum / (count - 1.0));
        match stat {
            Stat::VarPop => Some(sxx() / count),
            Stat::VarSamp => sample(sxx()),
            Stat::StddevPop => Some((sxx() / count).sqrt()),
            Stat::StddevSamp => sample(sxx()).map(f64::sqrt),
            Stat::CovarPop => Some(sxy() / count),
            Stat::CovarSamp => sample(sxy()),
            Stat::Corr => {
                let (sxx, syy) = (sxx(), syy());
                (sxx != 0.0 && syy != 0.0).then(|| {
                    let r = sxy() / (sxx * syy).sqrt();
                    if r.is_nan() { r } else { r.clamp(-1.0, 1.0) }
                })
            }
            Stat::RegrSlope => Some(sxx()).filter(|s| *s != 0.0).map(|sxx| sxy() / sxx),
            Stat::RegrIntercept => {
                let (sx, sy) = (self.x.value(), pair.y.value());
                Some(sxx()).filter(|s| *s != 0.0).map(|sxx| (sy - sx * (sxy() / sxx)) / count)
            }
            Stat::RegrCount => Some(count),
            Stat::RegrR2 => match (sxx(), syy()) {
                (0.0, _) => None,
                (_, 0.0) => Some(1.0),
                (sxx, syy) => {
                    let sxy = sxy();
                    Some(sxy * sxy / (sxx * syy))
                }
            },
            Stat::RegrAvgX => Some(self.x.value() / count),
            Stat::RegrAvgY => Some(pair.y.value() / count),
            Stat::RegrSxx => Some(sxx()),
            Stat::RegrSyy => Some(syy()),
            Stat::RegrSxy => Some(sxy()),
        }
    }

    /// Bytes allocated apart from the value itself.
    pub fn heap_size(&self) -> usize {
        let pair =
            self.pair.as_ref().map_or(0, |p| size_of::<Pair>() + p.y.heap_size() + p.yy.heap_size() + p.xy.heap_size());
        self.x.heap_size() + self.xx.heap_size() + pair
    }

    /// A canonical encoding: equal moments give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.count.to_le_bytes().to_vec();
        let mut sums = vec![&self.x, &self.xx];
        if let Some(p) = self.pair.as_ref().filter(|_| !self.is_zero()) {
            sums.extend([&p.y, &p.yy, &p.xy]);
        }
        for sum in sums {
            let bytes = sum.to_bytes();
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend(bytes);
        }
        out
    }

    /// Decodes what [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = || SqlError::new(SqlState::DATA_CORRUPTED, "stored moments are damaged");
        let (count, mut rest) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
        let mut sums = Vec::with_capacity(5);
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
            let (sum, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
            sums.push(ExactFloatSum::from_bytes(sum)?);
            rest = tail;
        }
        let mut sums = sums.into_iter();
        let (Some(x), Some(xx)) = (sums.next(), sums.next()) else { return Err(damaged()) };
        let pair = match (sums.next(), sums.next(), sums.next(), sums.next()) {
            (None, ..) => None,
            (Some(y), Some(yy), Some(xy), None) => Some(Box::new(Pair { y, yy, xy })),
            _ => return Err(damaged()),
        };
        Ok(Self { count: i64::from_le_bytes(*count), x, xx, pair })
    }
}

trait MaxNan {
    fn max_nan(self, other: f64) -> f64;
}

impl MaxNan for f64 {
    /// The larger number; NaN stays.
    fn max_nan(self, other: f64) -> f64 {
        if self.is_nan() { self } else { self.max(other) }
    }
}

/// A number as the sum of two doubles.
type Double = (f64, f64);

fn sum_of(a: f64, b: f64) -> Double {
    let s = a + b;
    let v = s - a;
    (s, (a - (s - v)) + (b - v))
}

fn product((a, al): Double, (b, bl): Double) -> Double {
    let p = a * b;
    let e = a.mul_add(b, -p) + (a * bl + al * b);
    sum_of(p, e)
}

fn minus((a, al): Double, (b, bl): Double) -> Double {
    let (s, e) = sum_of(a, -b);
    sum_of(s, e + (al - bl))
}

fn parts(sum: &ExactFloatSum) -> Double {
    let high = sum.value();
    if !high.is_finite() {
        return (high, 0.0);
    }
    let mut rest = sum.clone();
    rest.add(high, -1);
    (high, rest.value())
}

/// `sum of products - sum * sum / n`.
fn centred(n: i64, products: &ExactFloatSum, a: &ExactFloatSum, b: &ExactFloatSum) -> f64 {
    let (products, a, b) = (parts(products), parts(a), parts(b));
    let count = n as f64;
    if !(products.0.is_finite() && a.0.is_finite() && b.0.is_finite()) {
        return products.0 - a.0 * b.0 / count;
    }
    let squares = product(a, b);
    let scaled = product((count, 0.0), products);
    if !(squares.0.is_finite() && scaled.0.is_finite()) {
        // Too large for the exact form.
        return products.0 - a.0 / count * b.0;
    }
    let (high, low) = minus(scaled, squares);
    (high + low) / count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(f64, f64)]) -> Moments {
        let mut m = Moments::default();
        values.iter().for_each(|(y, x)| m.add_pair(*y, *x, 1));
        m
    }

    #[test]
    fn statistics_are_those_of_the_textbook() {
        let m = of(&[(1.0, 2.0), (2.0, 4.0), (4.0, 5.0), (3.0, 9.0)]);
        assert_eq!(m.value(Stat::RegrSxx), Some(26.0));
        assert_eq!(m.value(Stat::RegrSyy), Some(5.0));
        assert_eq!(m.value(Stat::RegrSxy), Some(7.0));
        assert_eq!(m.value(Stat::VarPop), Some(6.5));
        assert_eq!(m.value(Stat::VarSamp), Some(26.0 / 3.0));
        assert_eq!(m.value(Stat::CovarSamp), Some(7.0 / 3.0));
        assert_eq!(m.value(Stat::RegrSlope), Some(7.0 / 26.0));
        assert_eq!(m.value(Stat::RegrIntercept), Some((10.0 - 20.0 * (7.0 / 26.0)) / 4.0));
        assert_eq!(m.value(Stat::RegrR2), Some(49.0 / 130.0));
        assert_eq!(m.value(Stat::Corr), Some(7.0 / 130f64.sqrt()));
        assert_eq!((m.value(Stat::RegrAvgX), m.value(Stat::RegrCount)), (Some(5.0), Some(4.0)));
    }

    #[test]
    fn too_few_values_and_constants_are_null_as_in_postgres() {
        let one = of(&[(3.0, 7.0)]);
        assert_eq!((one.value(Stat::VarPop), one.value(Stat::VarSamp)), (Some(0.0), None));
        assert_eq!((one.value(Stat::Corr), one.value(Stat::RegrSlope), one.value(Stat::RegrR2)), (None, None, None));
        assert_eq!(of(&[(3.0, 7.0), (3.0, 9.0)]).value(Stat::RegrR2), Some(1.0));
        let none = Moments::default();
        assert!(Stat::ALL.iter().all(|(s, _)| none.value(*s).is_none() || *s == Stat::RegrCount));
    }

    #[test]
    fn a_large_mean_does_not_drown_a_small_variance() {
        let mut m = Moments::default();
        for d in [4.0, 7.0, 13.0, 16.0] {
            m.add(1e12 + d, 1);
        }
        assert_eq!(m.value(Stat::VarSamp), Some(30.0));
    }

    #[test]
    fn what_leaves_leaves_no_trace() {
        let odd = [1e300, -1e300, 0.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, -0.0, 3.7];
        let start = of(&[(0.5, 0.25), (3.0, 0.1)]);
        let mut m = start.clone();
        odd.iter().enumerate().for_each(|(i, x)| m.add_pair(*x, odd[(i + 1) % odd.len()], 3));
        assert!(m.value(Stat::VarPop).is_some_and(f64::is_nan));
        for (i, x) in odd.iter().enumerate().rev() {
            m.add_pair(*x, odd[(i + 1) % odd.len()], -3);
        }
        assert_eq!(m.to_bytes(), start.to_bytes());
        assert_eq!(Moments::from_bytes(&m.to_bytes()).unwrap(), start);
        let mut empty = of(&[(1.0, 2.0)]);
        empty.add_pair(1.0, 2.0, -1);
        assert!(empty.is_zero());
        assert!(Moments::from_bytes(&[1, 2, 3]).is_err());
    }
}
