//! The loops: one per operator and type, over whole columns.
//!
//! Integers are computed wrapping, with a flag that says if any slot overflowed; only then the valid slots are looked at
//! one by one. Decimals whose result type has room for every result are computed without checks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use datafusion::error::{DataFusionError, Result};

use super::{Arithmetic, Side, division_by_zero, out_of_range, range_error};

/// Computes `left op right` as `to`, one value if both are constant.
pub(super) fn compute(op: Arithmetic, l: &Side, r: &Side, to: &DataType, rows: usize) -> Result<ArrayRef> {
    let rows = if l.constant && r.constant { 1 } else { rows };
    let null = |s: &Side| s.constant && s.array.is_null(0);
    if null(l) || null(r) {
        return Ok(new_null_array(to, rows));
    }
    if !l.constant && !r.constant && l.array.len() != r.array.len() {
        return Err(DataFusionError::Internal("operands have different numbers of rows".into()));
    }
    match (l.array.data_type(), r.array.data_type()) {
        (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) => match to {
            DataType::Decimal128(p, s) => {
                let shape = Shape { op, left: (*p1, *s1), right: (*p2, *s2), output: (*p, *s) };
                let out = decimal128(&shape, &Pair::new(l, r))?;
                Ok(Arc::new(out.with_precision_and_scale(*p, *s)?))
            }
            _ => Err(mismatch(l, r)),
        },
        (DataType::Decimal256(p1, s1), DataType::Decimal256(p2, s2)) => match to {
            DataType::Decimal256(p, s) => {
                let shape = Shape { op, left: (*p1, *s1), right: (*p2, *s2), output: (*p, *s) };
                let out = decimal256(&shape, &Pair::new(l, r))?;
                Ok(Arc::new(out.with_precision_and_scale(*p, *s)?))
            }
            _ => Err(mismatch(l, r)),
        },
        (a, b) if a != b => Err(mismatch(l, r)),
        (DataType::Int8, _) => integers::<Int8Type>(op, l, r),
        (DataType::Int16, _) => integers::<Int16Type>(op, l, r),
        (DataType::Int32, _) => integers::<Int32Type>(op, l, r),
        (DataType::Int64, _) => integers::<Int64Type>(op, l, r),
        (DataType::UInt8, _) => integers::<UInt8Type>(op, l, r),
        (DataType::UInt16, _) => integers::<UInt16Type>(op, l, r),
        (DataType::UInt32, _) => integers::<UInt32Type>(op, l, r),
        (DataType::UInt64, _) => integers::<UInt64Type>(op, l, r),
        (DataType::Float32, _) => floats::<Float32Type>(op, l, r),
        (DataType::Float64, _) => floats::<Float64Type>(op, l, r),
        _ => Err(mismatch(l, r)),
    }
}

fn mismatch(l: &Side, r: &Side) -> DataFusionError {
    let (l, r) = (l.array.data_type(), r.array.data_type());
    DataFusionError::Internal(format!("no arithmetic of {l} and {r}"))
}

/// Two columns of one type, each maybe one value for all rows (which is then not NULL).
struct Pair<'a, T: ArrowPrimitiveType> {
    left: &'a PrimitiveArray<T>,
    right: &'a PrimitiveArray<T>,
    constant: (bool, bool),
}

impl<'a, T: ArrowPrimitiveType> Pair<'a, T> {
    fn new(l: &'a Side, r: &'a Side) -> Self {
        Self {
            left: l.array.as_primitive::<T>(),
            right: r.array.as_primitive::<T>(),
            constant: (l.constant, r.constant),
        }
    }

    fn nulls(&self) -> Option<NullBuffer> {
        match self.constant {
            (false, false) => NullBuffer::union(self.left.nulls(), self.right.nulls()),
            (false, true) => self.left.nulls().cloned(),
            (true, false) => self.right.nulls().cloned(),
            (true, true) => None,
        }
    }

    /// `f` of every slot, also of those that are NULL.
    fn all(&self, mut f: impl FnMut(T::Native, T::Native) -> T::Native) -> PrimitiveArray<T> {
        let (l, r) = (self.left.values(), self.right.values());
        let values: Vec<T::Native> = match self.constant {
            (false, false) => l.iter().zip(r.iter()).map(|(a, b)| f(*a, *b)).collect(),
            (true, false) => {
                let a = l[0];
                r.iter().map(|b| f(a, *b)).collect()
            }
            (false, true) => {
                let b = r[0];
                l.iter().map(|a| f(*a, b)).collect()
            }
            (true, true) => vec![f(l[0], r[0])],
        };
        PrimitiveArray::new(values.into(), self.nulls())
    }

    /// `f` of the slots that are not NULL.
    fn valid(&self, mut f: impl FnMut(T::Native, T::Native) -> Result<T::Native>) -> Result<PrimitiveArray<T>> {
        let (l, r) = (self.left.values(), self.right.values());
        let (lc, rc) = self.constant;
        let n = if lc { r.len() } else { l.len() };
        let mut at = |i: usize| f(l[if lc { 0 } else { i }], r[if rc { 0 } else { i }]);
        let nulls = self.nulls();
        let values = match &nulls {
            None => (0..n).map(at).collect::<Result<Vec<_>>>()?,
            Some(nulls) => {
                let mut values = vec![T::Native::default(); n];
                for i in nulls.valid_indices() {
                    values[i] = at(i)?;
                }
                values
            }
        };
        Ok(PrimitiveArray::new(values.into(), nulls))
    }
}

/// Integers: results with a flag for overflow, cheap enough to be computed for every slot.
trait Integer: ArrowPrimitiveType {
    fn add(a: Self::Native, b: Self::Native) -> (Self::Native, bool);
    fn subtract(a: Self::Native, b: Self::Native) -> (Self::Native, bool);
    fn multiply(a: Self::Native, b: Self::Native) -> (Self::Native, bool);
    /// `None` if the quotient does not fit; the divisor is not zero.
    fn divide(a: Self::Native, b: Self::Native) -> Option<Self::Native>;
    fn modulo(a: Self::Native, b: Self::Native) -> Self::Native;
}

macro_rules! integer {
    ($arrow:ty, $native:ty, signed, $multiply:expr) => {
        impl Integer for $arrow {
            // Written out, because it becomes vector instructions, which `overflowing_add` does not.
            #[inline(always)]
            fn add(a: $native, b: $native) -> ($native, bool) {
                let v = a.wrapping_add(b);
                (v, ((a ^ v) & (b ^ v)) < 0)
            }
            #[inline(always)]
            fn subtract(a: $native, b: $native) -> ($native, bool) {
                let v = a.wrapping_sub(b);
                (v, ((a ^ b) & (a ^ v)) < 0)
            }
            integer!(rest, $native, $multiply);
        }
    };
    ($arrow:ty, $native:ty, unsigned) => {
        impl Integer for $arrow {
            #[inline(always)]
            fn add(a: $native, b: $native) -> ($native, bool) {
                a.overflowing_add(b)
            }
            #[inline(always)]
            fn subtract(a: $native, b: $native) -> ($native, bool) {
                a.overflowing_sub(b)
            }
            integer!(rest, $native, <$native>::overflowing_mul);
        }
    };
    (rest, $native:ty, $multiply:expr) => {
        #[inline(always)]
        fn multiply(a: $native, b: $native) -> ($native, bool) {
            $multiply(a, b)
        }
        #[inline(always)]
        fn divide(a: $native, b: $native) -> Option<$native> {
            a.checked_div(b)
        }
        #[inline(always)]
        fn modulo(a: $native, b: $native) -> $native {
            a.wrapping_rem(b)
        }
    };
}

/// The product in twice the bits, which becomes vector instructions.
macro_rules! widened {
    ($native:ty, $wide:ty) => {
        |a: $native, b: $native| {
            let wide = <$wide>::from(a) * <$wide>::from(b);
            let v = wide as $native;
            (v, <$wide>::from(v) != wide)
        }
    };
}

integer!(Int8Type, i8, signed, widened!(i8, i16));
integer!(Int16Type, i16, signed, widened!(i16, i32));
integer!(Int32Type, i32, signed, widened!(i32, i64));
integer!(Int64Type, i64, signed, i64::overflowing_mul);
integer!(UInt8Type, u8, unsigned);
integer!(UInt16Type, u16, unsigned);
integer!(UInt32Type, u32, unsigned);
integer!(UInt64Type, u64, unsigned);

fn integers<T: Integer>(op: Arithmetic, l: &Side, r: &Side) -> Result<ArrayRef> {
    let pair = Pair::<T>::new(l, r);
    let zero = T::Native::default();
    let out = match op {
        Arithmetic::Add => checked(&pair, T::add),
        Arithmetic::Subtract => checked(&pair, T::subtract),
        Arithmetic::Multiply => checked(&pair, T::multiply),
        Arithmetic::Divide => pair.valid(|a, b| match b == zero {
            true => Err(division_by_zero()),
            false => T::divide(a, b).ok_or_else(|| out_of_range(&T::DATA_TYPE)),
        }),
        Arithmetic::Modulo => pair.valid(|a, b| match b == zero {
            true => Err(division_by_zero()),
            false => Ok(T::modulo(a, b)),
        }),
    };
    Ok(Arc::new(out?))
}

fn checked<T: Integer>(
    pair: &Pair<'_, T>,
    f: impl Fn(T::Native, T::Native) -> (T::Native, bool),
) -> Result<PrimitiveArray<T>> {
    let mut overflow = false;
    let out = pair.all(|a, b| {
        let (v, o) = f(a, b);
        overflow |= o;
        v
    });
    if overflow {
        // Slots that are NULL may hold anything.
        pair.valid(|a, b| match f(a, b) {
            (_, true) => Err(out_of_range(&T::DATA_TYPE)),
            (v, false) => Ok(v),
        })?;
    }
    Ok(out)
}

trait Float: ArrowPrimitiveType {
    fn apply(op: Arithmetic, a: Self::Native, b: Self::Native) -> Self::Native;
    fn wide(v: Self::Native) -> f64;
}

macro_rules! float {
    ($arrow:ty, $native:ty) => {
        impl Float for $arrow {
            #[inline(always)]
            fn apply(op: Arithmetic, a: $native, b: $native) -> $native {
                match op {
                    Arithmetic::Add => a + b,
                    Arithmetic::Subtract => a - b,
                    Arithmetic::Multiply => a * b,
                    Arithmetic::Divide => a / b,
                    Arithmetic::Modulo => a % b,
                }
            }
            #[inline(always)]
            fn wide(v: $native) -> f64 {
                f64::from(v)
            }
        }
    };
}

float!(Float32Type, f32);
float!(Float64Type, f64);

fn floats<T: Float>(op: Arithmetic, l: &Side, r: &Side) -> Result<ArrayRef> {
    let pair = Pair::<T>::new(l, r);
    let scaling = matches!(op, Arithmetic::Multiply | Arithmetic::Divide);
    let mut suspect = false;
    let out = pair.all(|a, b| {
        let v = T::apply(op, a, b);
        let wide = T::wide(v);
        suspect |= !wide.is_finite() || (scaling && wide == 0.0);
        v
    });
    if suspect {
        pair.valid(|a, b| {
            let v = T::apply(op, a, b);
            match float_error(op, T::wide(a), T::wide(b), T::wide(v)) {
                Some(e) => Err(e),
                None => Ok(v),
            }
        })?;
    }
    Ok(Arc::new(out))
}

/// What Postgres says of a result that left the range of floats.
fn float_error(op: Arithmetic, a: f64, b: f64, v: f64) -> Option<DataFusionError> {
    let divides = matches!(op, Arithmetic::Divide | Arithmetic::Modulo);
    if divides && b == 0.0 && !a.is_nan() {
        return Some(division_by_zero());
    }
    if v.is_infinite() && a.is_finite() && b.is_finite() {
        return Some(range_error("value out of range: overflow"));
    }
    let vanished = match op {
        Arithmetic::Multiply => v == 0.0 && a != 0.0 && b != 0.0,
        Arithmetic::Divide => v == 0.0 && a != 0.0 && b.is_finite(),
        _ => false,
    };
    vanished.then(|| range_error("value out of range: underflow"))
}

/// Precisions and scales.
struct Shape {
    op: Arithmetic,
    left: (u8, i8),
    right: (u8, i8),
    output: (u8, i8),
}

impl Shape {
    /// Powers of ten that bring the operands to the scale they are computed at. For a quotient that is the scale of
    /// the dividend which makes the quotient's right.
    fn powers(&self) -> (u32, u32) {
        let up = |from: i8, to: i8| u32::from((i16::from(to) - i16::from(from)).max(0).unsigned_abs());
        let ((_, s1), (_, s2), (_, s)) = (self.left, self.right, self.output);
        match self.op {
            Arithmetic::Multiply => (0, 0),
            Arithmetic::Divide => (up(s1, s) + u32::from(s2.unsigned_abs()), 0),
            _ => (up(s1, s), up(s2, s)),
        }
    }

    /// True if no value of the operands' types gives an intermediate result or a result beyond 38 digits.
    fn fits(&self) -> bool {
        let (k1, k2) = self.powers();
        let (p1, p2) = (u32::from(self.left.0) + k1, u32::from(self.right.0) + k2);
        match self.op {
            Arithmetic::Add | Arithmetic::Subtract => p1.max(p2) < u32::from(self.output.0).min(38),
            Arithmetic::Multiply => p1 + p2 <= u32::from(self.output.0).min(38),
            Arithmetic::Divide | Arithmetic::Modulo => false,
        }
    }
}

fn numeric_overflow() -> DataFusionError {
    range_error("numeric field overflow")
}

fn decimal128(shape: &Shape, pair: &Pair<'_, Decimal128Type>) -> Result<PrimitiveArray<Decimal128Type>> {
    let (k1, k2) = shape.powers();
    // Powers beyond 38 are left to 256 bits.
    let power = |k: u32| 10i128.checked_pow(k);
    if shape.fits()
        && let (Some(m1), Some(m2)) = (power(k1), power(k2))
    {
        // Slots that are NULL may hold anything: wrap.
        return Ok(match shape.op {
            Arithmetic::Add => pair.all(|a, b| a.wrapping_mul(m1).wrapping_add(b.wrapping_mul(m2))),
            Arithmetic::Subtract => pair.all(|a, b| a.wrapping_mul(m1).wrapping_sub(b.wrapping_mul(m2))),
            _ => pair.all(i128::wrapping_mul),
        });
    }
    let limit = 10i128.checked_pow(u32::from(shape.output.0)).unwrap_or(i128::MAX);
    let (m1, m2) = (power(k1), power(k2));
    pair.valid(|a, b| {
        let short = || {
            let (a, b) = (a.checked_mul(m1?)?, b.checked_mul(m2?)?);
            match shape.op {
                Arithmetic::Add => a.checked_add(b),
                Arithmetic::Subtract => a.checked_sub(b),
                Arithmetic::Multiply => a.checked_mul(b),
                Arithmetic::Divide => {
                    let (q, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
                    let up = rest.unsigned_abs() >= b.unsigned_abs() - rest.unsigned_abs();
                    Some(if !up {
                        q
                    } else if (a < 0) == (b < 0) {
                        q + 1
                    } else {
                        q - 1
                    })
                }
                Arithmetic::Modulo => a.checked_rem(b),
            }
        };
        if b == 0 && matches!(shape.op, Arithmetic::Divide | Arithmetic::Modulo) {
            return Err(division_by_zero());
        }
        let value = match short() {
            Some(v) => Some(v),
            None => long(shape.op, i256::from_i128(a), i256::from_i128(b), (k1, k2)).and_then(i256::to_i128),
        };
        value.filter(|v| v.unsigned_abs() < limit.unsigned_abs()).ok_or_else(numeric_overflow)
    })
}

fn decimal256(shape: &Shape, pair: &Pair<'_, Decimal256Type>) -> Result<PrimitiveArray<Decimal256Type>> {
    let powers = shape.powers();
    let limit = i256::from_i128(10).checked_pow(u32::from(shape.output.0)).unwrap_or(i256::MAX);
    pair.valid(|a, b| {
        if b == i256::ZERO && matches!(shape.op, Arithmetic::Divide | Arithmetic::Modulo) {
            return Err(division_by_zero());
        }
        let value = long(shape.op, a, b, powers);
        value.filter(|v| *v < limit && *v > limit.wrapping_neg()).ok_or_else(numeric_overflow)
    })
}

/// In 256 bits, `None` if that is not enough. The divisor is not zero.
fn long(op: Arithmetic, a: i256, b: i256, (k1, k2): (u32, u32)) -> Option<i256> {
    let raised = |v: i256, k: u32| match k {
        0 => Some(v),
        k => v.checked_mul(i256::from_i128(10).checked_pow(k)?),
    };
    let (a, b) = (raised(a, k1)?, raised(b, k2)?);
    match op {
        Arithmetic::Add => a.checked_add(b),
        Arithmetic::Subtract => a.checked_sub(b),
        Arithmetic::Multiply => a.checked_mul(b),
        Arithmetic::Divide => divide_rounded(a, b),
        Arithmetic::Modulo => a.checked_rem(b),
    }
}

/// The quotient rounded to the nearest integer, halves away from zero; `None` for a division by zero or one that
/// does not fit.
pub fn divide_rounded(a: i256, b: i256) -> Option<i256> {
    let (q, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    let (size, rest) = (b.wrapping_abs(), rest.wrapping_abs());
    if rest < size.wrapping_sub(rest) {
        return Some(q);
    }
    let one = i256::ONE;
    if a.is_negative() == b.is_negative() { q.checked_add(one) } else { q.checked_sub(one) }
}
