//! Mathematical functions that DataFusion lacks, or that it gives NaN and infinity for where Postgres complains.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int32Array, PrimitiveArray};
use arrow::datatypes::{
    DataType, Decimal256Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type, i256,
};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ScalarUDF;

use super::arithmetic::division_by_zero;
use super::define::{Call, Def, Kind, fail, kinds, udfs, user};
use crate::error::{SqlError, SqlState};

type Checked = Result<f64, SqlError>;

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    udfs(&[
        of_double("sqrt", &[], |c| c.double(sqrt)),
        of_double("exp", &[], |c| c.double(exp)),
        of_double("ln", &[], |c| c.double(ln)),
        of_double("log10", &[], |c| c.double(|x| logarithm(x, f64::log10))),
        of_double("log2", &[], |c| c.double(|x| logarithm(x, f64::log2))),
        of_double("asin", &[], |c| c.double(|x| inside(x, -1.0, 1.0, f64::asin))),
        of_double("acos", &[], |c| c.double(|x| inside(x, -1.0, 1.0, f64::acos))),
        of_double("acosh", &[], |c| c.double(|x| inside(x, 1.0, f64::INFINITY, f64::acosh))),
        of_double("atanh", &[], |c| c.double(|x| inside(x, -1.0, 1.0, f64::atanh))),
        of_double(ROUND_TO_EVEN, &[], |c| c.double(|x| Ok(x.round_ties_even()))),
        Def {
            name: "log",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Double, Kind::Double], 1),
            gives: |_| DataType::Float64,
            strict: true,
            run: log,
        },
        Def {
            name: "power",
            aliases: &["pow"],
            takes: |t| kinds(t, &[Kind::Double, Kind::Double], 0),
            gives: |_| DataType::Float64,
            strict: true,
            run: |c| {
                let (x, y) = (c.primitive::<Float64Type>(0), c.primitive::<Float64Type>(1));
                c.primitives::<Float64Type>(|row| power(x.value(row), y.value(row)).map(Some))
            },
        },
        Def {
            name: "div",
            aliases: &[],
            takes: |t| exact(t, 2),
            gives: |_| DataType::Decimal256(76, 0),
            strict: true,
            run: div,
        },
        Def {
            name: "width_bucket",
            aliases: &[],
            takes: width_bucket_takes,
            gives: |_| DataType::Int32,
            strict: true,
            run: width_bucket,
        },
        Def {
            name: "bit_not",
            aliases: &[],
            takes: |t| match t {
                [one] if one.is_integer() => Some(vec![one.clone()]),
                [DataType::Null] => Some(vec![DataType::Int64]),
                _ => None,
            },
            gives: |t| t.first().cloned().unwrap_or(DataType::Int64),
            strict: true,
            run: bit_not,
        },
        Def {
            name: "num_nulls",
            aliases: &[],
            takes: any_types,
            gives: |_| DataType::Int32,
            strict: false,
            run: |c| Ok(Arc::new(count(c, true))),
        },
        Def {
            name: "num_nonnulls",
            aliases: &[],
            takes: any_types,
            gives: |_| DataType::Int32,
            strict: false,
            run: |c| Ok(Arc::new(count(c, false))),
        },
    ])
}

/// `round` of a double: halves go to the even integer. Of decimals they go away from zero, and DataFusion does that.
pub(crate) const ROUND_TO_EVEN: &str = "round_to_even";

/// See [`ROUND_TO_EVEN`].
pub(crate) fn round_to_even() -> ScalarUDF {
    of_double(ROUND_TO_EVEN, &[], |c| c.double(|x| Ok(x.round_ties_even()))).udf()
}

fn of_double(name: &'static str, aliases: &'static [&'static str], run: fn(&Call<'_>) -> Result<ArrayRef>) -> Def {
    let takes = |t: &[DataType]| kinds(t, &[Kind::Double], 0);
    Def { name, aliases, takes, gives: |_| DataType::Float64, strict: true, run }
}

impl Call<'_> {
    fn double(&self, f: impl Fn(f64) -> Checked) -> Result<ArrayRef> {
        let values = self.primitive::<Float64Type>(0);
        let out: PrimitiveArray<Float64Type> = values.try_unary(|x| f(x).map_err(user))?;
        Ok(Arc::new(out))
    }
}

fn sqrt(x: f64) -> Checked {
    match x < 0.0 {
        true => fail(SqlState::INVALID_ARGUMENT_FOR_POWER, "cannot take square root of a negative number"),
        false => Ok(x.sqrt()),
    }
}

/// A result that became infinite or zero is out of range, unless the argument was infinite already.
fn ranged(result: f64, finite: bool, may_be_zero: bool) -> Checked {
    if result.is_infinite() && finite {
        return fail(SqlState::NUMERIC_OUT_OF_RANGE, "value out of range: overflow");
    }
    if result == 0.0 && finite && !may_be_zero {
        return fail(SqlState::NUMERIC_OUT_OF_RANGE, "value out of range: underflow");
    }
    Ok(result)
}

fn exp(x: f64) -> Checked {
    ranged(x.exp(), x.is_finite(), false)
}

fn ln(x: f64) -> Checked {
    logarithm(x, f64::ln)
}

fn logarithm(x: f64, f: fn(f64) -> f64) -> Checked {
    let problem = match x {
        0.0 => "cannot take logarithm of zero",
        x if x < 0.0 => "cannot take logarithm of a negative number",
        _ => return Ok(f(x)),
    };
    fail(SqlState::INVALID_ARGUMENT_FOR_LOGARITHM, problem)
}

fn inside(x: f64, low: f64, high: f64, f: fn(f64) -> f64) -> Checked {
    match x < low || x > high {
        true => fail(SqlState::NUMERIC_OUT_OF_RANGE, "input is out of range"),
        false => Ok(f(x)),
    }
}

fn log(c: &Call<'_>) -> Result<ArrayRef> {
    if c.args.len() == 1 {
        return c.double(|x| logarithm(x, f64::log10));
    }
    let (base, x) = (c.primitive::<Float64Type>(0), c.primitive::<Float64Type>(1));
    c.primitives::<Float64Type>(|row| {
        let (below, above) = (ln(base.value(row))?, ln(x.value(row))?);
        if below == 0.0 {
            return fail(SqlState::DIVISION_BY_ZERO, "division by zero");
        }
        Ok(Some(match base.value(row) {
            2.0 => x.value(row).log2(),
            10.0 => x.value(row).log10(),
            _ => above / below,
        }))
    })
}

fn power(x: f64, y: f64) -> Checked {
    if x == 0.0 && y < 0.0 {
        return fail(SqlState::INVALID_ARGUMENT_FOR_POWER, "zero raised to a negative power is undefined");
    }
    if x < 0.0 && y.is_finite() && y.floor() != y {
        let message = "a negative number raised to a non-integer power yields a complex result";
        return fail(SqlState::INVALID_ARGUMENT_FOR_POWER, message);
    }
    ranged(x.powf(y), x.is_finite() && y.is_finite(), x == 0.0)
}

/// So many exact numbers as decimals of one scale.
fn exact(given: &[DataType], n: usize) -> Option<Vec<DataType>> {
    let mut scale = 0;
    for t in given {
        match t {
            DataType::Decimal32(_, s)
            | DataType::Decimal64(_, s)
            | DataType::Decimal128(_, s)
            | DataType::Decimal256(_, s) => scale = scale.max(*s),
            t if t.is_integer() || t.is_null() => {}
            _ => return None,
        }
    }
    (given.len() == n).then(|| vec![DataType::Decimal256(76, scale); n])
}

/// The quotient of exact numbers without its fraction.
fn div(c: &Call<'_>) -> Result<ArrayRef> {
    let (a, b) = (c.primitive::<Decimal256Type>(0), c.primitive::<Decimal256Type>(1));
    let out: PrimitiveArray<Decimal256Type> = arrow::compute::try_binary(a, b, |a, b| match b == i256::ZERO {
        true => Err(arrow::error::ArrowError::DivideByZero),
        false => Ok(a.wrapping_div(b)),
    })
    .map_err(|e| match e {
        arrow::error::ArrowError::DivideByZero => division_by_zero(),
        other => other.into(),
    })?;
    Ok(Arc::new(out.with_precision_and_scale(76, 0)?))
}

/// Exact for exact numbers, in doubles if there is one among them.
fn width_bucket_takes(given: &[DataType]) -> Option<Vec<DataType>> {
    let (numbers, count) = given.split_at_checked(3)?;
    let [count] = count else { return None };
    let mut all = match exact(numbers, 3) {
        Some(decimals) => decimals,
        None => kinds(numbers, &[Kind::Double; 3], 0)?,
    };
    all.push(Kind::Long.from(count)?);
    Some(all)
}

fn width_bucket(c: &Call<'_>) -> Result<ArrayRef> {
    const CODE: SqlState = SqlState::INVALID_ARGUMENT_FOR_WIDTH_BUCKET;
    let counts = c.primitive::<Int64Type>(3);
    let count = |row: usize| -> Result<i64, SqlError> {
        let n = counts.value(row);
        match n < 1 || n >= i64::from(i32::MAX) {
            true => fail(CODE, "count must be greater than zero"),
            false => Ok(n),
        }
    };
    let equal = || fail(CODE, "lower bound cannot equal upper bound");
    if *c.args[0].data_type() == DataType::Float64 {
        let [x, low, high] = [0, 1, 2].map(|i| c.primitive::<Float64Type>(i));
        return c.primitives::<Int32Type>(|row| {
            let (x, low, high, n) = (x.value(row), low.value(row), high.value(row), count(row)?);
            if x.is_nan() || low.is_nan() || high.is_nan() {
                return fail(CODE, "operand, lower bound, and upper bound cannot be NaN");
            }
            if low.is_infinite() || high.is_infinite() {
                return fail(CODE, "lower and upper bounds must be finite");
            }
            if low == high {
                return equal();
            }
            let (below, above) = if low < high { (x < low, x >= high) } else { (x > low, x <= high) };
            Ok(Some(match () {
                () if below => 0,
                () if above => n as i32 + 1,
                // The difference of two doubles may be infinite, that of their halves is not.
                () => ((n as f64 * ((x / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0))) as i64).min(n - 1) as i32 + 1,
            }))
        });
    }
    let [x, low, high] = [0, 1, 2].map(|i| c.primitive::<Decimal256Type>(i));
    c.primitives::<Int32Type>(|row| {
        let (x, low, high, n) = (x.value(row), low.value(row), high.value(row), count(row)?);
        if low == high {
            return equal();
        }
        let (below, above) = if low < high { (x < low, x >= high) } else { (x > low, x <= high) };
        let inner = || -> Option<i32> {
            let share = x.checked_sub(low)?.checked_mul(i256::from_i128(i128::from(n)))?;
            let bucket = share.checked_div(high.checked_sub(low)?)?.to_i128()?;
            i32::try_from(bucket).ok()?.checked_add(1)
        };
        match () {
            () if below => Ok(Some(0)),
            () if above => Ok(Some(n as i32 + 1)),
            () => match inner() {
                Some(bucket) => Ok(Some(bucket)),
                None => fail(SqlState::NUMERIC_OUT_OF_RANGE, "numeric field overflow"),
            },
        }
    })
}

fn bit_not(c: &Call<'_>) -> Result<ArrayRef> {
    fn flipped<T: ArrowPrimitiveType<Native: std::ops::Not<Output = T::Native>>>(values: &ArrayRef) -> ArrayRef {
        Arc::new(values.as_primitive::<T>().unary::<_, T>(|v| !v))
    }
    let values = &c.args[0];
    Ok(match values.data_type() {
        DataType::Int8 => flipped::<Int8Type>(values),
        DataType::Int16 => flipped::<Int16Type>(values),
        DataType::Int32 => flipped::<Int32Type>(values),
        DataType::Int64 => flipped::<Int64Type>(values),
        DataType::UInt8 => flipped::<UInt8Type>(values),
        DataType::UInt16 => flipped::<UInt16Type>(values),
        DataType::UInt32 => flipped::<UInt32Type>(values),
        DataType::UInt64 => flipped::<UInt64Type>(values),
        other => return Err(DataFusionError::Internal(format!("{other} is no integer type"))),
    })
}

/// Arguments of any types; a NULL alone is one of some type.
fn any_types(given: &[DataType]) -> Option<Vec<DataType>> {
    let one = |t: &DataType| if t.is_null() { DataType::Boolean } else { t.clone() };
    (!given.is_empty()).then(|| given.iter().map(one).collect())
}

/// How many arguments of each row are NULL, or are not.
fn count(c: &Call<'_>, nulls: bool) -> Int32Array {
    let one = |row: usize| c.args.iter().filter(|a| a.is_null(row) == nulls).count() as i32;
    (0..c.rows).map(|row| Some(one(row))).collect()
}
