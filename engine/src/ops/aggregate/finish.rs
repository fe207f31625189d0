//! Results out of accumulators: types, scales and ranges as batch DataFusion has them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array, UInt64Array,
};
use arrow::datatypes::{DataType, TimeUnit, i256};
use millstream_sql::functions::Stat;
use millstream_sql::functions::arithmetic::divide_rounded;
use millstream_sql::plan::{AggCall, AggFunc};

use super::acc::{Acc, Kind};
use crate::error::{Result, ResultExt as _};
use crate::state::keyed::KeyedState;
use crate::state::keyed::code::{Code64, plain_type};

/// Failures of a piece of output: row and message. A message depends on the function and its type alone, so that the
/// same failure can be taken back later.
pub(super) type Failures = std::collections::BTreeMap<usize, String>;

/// One output column over these groups. `groups` without values get NULL (counts: 0).
pub(super) fn finish(
    call: &AggCall,
    acc: &Acc,
    arg_type: &DataType,
    state: &KeyedState,
    slots: &[u32],
    failures: &mut Failures,
) -> Result<ArrayRef> {
    let counted = |s: &u32| acc.count(state.words(*s));
    let column: ArrayRef = match call.func {
        AggFunc::CountStar | AggFunc::Count => Arc::new(Int64Array::from_iter_values(slots.iter().map(counted))),
        AggFunc::BoolAnd | AggFunc::BoolOr => Arc::new(
            slots
                .iter()
                .map(|s| {
                    let (t, f) = acc.truths(state.words(*s));
                    (t > 0 || f > 0).then(|| if call.func == AggFunc::BoolAnd { f <= 0 } else { t > 0 })
                })
                .collect::<BooleanArray>(),
        ),
        AggFunc::Sum | AggFunc::Avg if acc.kind == Kind::SumFloat => Arc::new(
            slots
                .iter()
                .map(|s| {
                    let n = counted(s);
                    (n > 0).then(|| match call.func {
                        AggFunc::Avg => acc.float_sum(*s) / n as f64,
                        _ => acc.float_sum(*s),
                    })
                })
                .collect::<Float64Array>(),
        ),
        AggFunc::Sum | AggFunc::Avg => {
            let average = (call.func == AggFunc::Avg).then(|| Average::new(arg_type, &call.output));
            let totals = slots.iter().map(|s| {
                let n = counted(s);
                (n > 0).then(|| {
                    let sum = acc.sum(state.words(*s))?;
                    match &average {
                        None => Some(sum),
                        Some(a) => a.of(sum, n),
                    }
                })
            });
            let name = if average.is_some() { "avg" } else { "sum" };
            numbers(&call.output, totals, name, failures)?
        }
        AggFunc::Min | AggFunc::Max => acc.extremes(state, slots)?,
        AggFunc::BitAnd | AggFunc::BitOr | AggFunc::BitXor => {
            let of = |s: &u32| {
                let words = state.words(*s);
                (acc.count(words) > 0).then(|| match call.func {
                    AggFunc::BitAnd => acc.bits(words, |n, all| n == all),
                    AggFunc::BitOr => acc.bits(words, |n, _| n > 0),
                    _ => acc.bits(words, |n, _| n % 2 != 0),
                })
            };
            let bits = slots.iter().map(of);
            match call.output {
                DataType::UInt64 => Arc::new(bits.map(|b| b.map(|b| b as u64)).collect::<UInt64Array>()),
                _ => Arc::new(bits.collect::<Int64Array>()),
            }
        }
        AggFunc::Stat(Stat::RegrCount) => {
            let count = |s: &u32| acc.moments(*s).map_or(0, |m| m.count());
            Arc::new(Int64Array::from_iter_values(slots.iter().map(count)))
        }
        AggFunc::Stat(stat) => {
            let value = |s: &u32| acc.moments(*s).and_then(|m| m.value(stat));
            Arc::new(slots.iter().map(value).collect::<Float64Array>())
        }
        AggFunc::Collect(_) => acc.collected(slots)?,
    };
    if *column.data_type() == call.output { Ok(column) } else { arrow::compute::cast(&column, &call.output).e() }
}

/// Average of scaled integers, rounded at the scale of the result.
struct Average {
    factor: Option<i256>,
    divisor: i256,
}

impl Average {
    fn new(arg: &DataType, output: &DataType) -> Self {
        let up = i32::from(scale_of(output)) - i32::from(scale_of(&plain_type(arg)));
        let power = |n: i32| i256::from_i128(10).checked_pow(n.unsigned_abs());
        if up >= 0 {
            Self { factor: power(up), divisor: i256::ONE }
        } else {
            Self { factor: Some(i256::ONE), divisor: power(up).unwrap_or(i256::ONE) }
        }
    }
    fn of(&self, sum: i256, n: i64) -> Option<i256> {
        let scaled = sum.checked_mul(self.factor?)?;
        divide_rounded(scaled, i256::from_i128(i128::from(n)).checked_mul(self.divisor)?)
    }
}

fn scale_of(t: &DataType) -> i8 {
    match t {
        DataType::Decimal32(_, s)
        | DataType::Decimal64(_, s)
        | DataType::Decimal128(_, s)
        | DataType::Decimal256(_, s) => *s,
        _ => 0,
    }
}

/// Numbers of type `output`: outer `None` is NULL, inner `None` a number beyond 256 bits.
fn numbers(
    output: &DataType,
    totals: impl Iterator<Item = Option<Option<i256>>>,
    name: &str,
    failures: &mut Failures,
) -> Result<ArrayRef> {
    let (low, high) = range(output)?;
    let mut values: Vec<Option<i256>> = Vec::with_capacity(totals.size_hint().0);
    for (i, total) in totals.enumerate() {
        values.push(match total {
            None => None,
            Some(Some(v)) if v >= low && v <= high => Some(v),
            Some(_) => {
                failures.entry(i).or_insert_with(|| format!("{name} is out of range for type {}", type_name(output)));
                None
            }
        });
    }
    Ok(match output {
        DataType::Decimal128(p, s) => Arc::new(
            values
                .into_iter()
                .map(|v| v.map(i256::as_i128))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(*p, *s)
                .e()?,
        ),
        DataType::Decimal256(p, s) => {
            Arc::new(values.into_iter().collect::<Decimal256Array>().with_precision_and_scale(*p, *s).e()?)
        }
        DataType::UInt64 => {
            Arc::new(values.into_iter().map(|v| v.map(|v| v.as_i128() as u64)).collect::<arrow::array::UInt64Array>())
        }
        t => {
            let code = Code64::of(t).ok_or_else(|| crate::Error::internal(format!("sum of type {t}")))?;
            let codes: Vec<Option<i64>> = values.into_iter().map(|v| v.map(|v| v.as_i128() as i64)).collect();
            super::values::decode_codes(code, t, &codes)?
        }
    })
}

fn range(output: &DataType) -> Result<(i256, i256)> {
    let int = |low: i128, high: i128| (i256::from_i128(low), i256::from_i128(high));
    Ok(match output {
        DataType::Decimal32(p, _)
        | DataType::Decimal64(p, _)
        | DataType::Decimal128(p, _)
        | DataType::Decimal256(p, _) => {
            let end = i256::from_i128(10).wrapping_pow(u32::from(*p));
            (i256::ONE.wrapping_sub(end), end.wrapping_sub(i256::ONE))
        }
        t => match Code64::of(t) {
            Some(Code64::Signed(w)) => int(-(1i128 << (8 * w - 1)), (1i128 << (8 * w - 1)) - 1),
            Some(Code64::Unsigned(w)) => int(0, (1i128 << (8 * u32::from(w))) - 1),
            _ => return Err(crate::Error::internal(format!("sum of type {t}"))),
        },
    })
}

fn type_name(t: &DataType) -> String {
    match t {
        DataType::Int64 => "bigint".into(),
        DataType::UInt64 => "bigint unsigned".into(),
        DataType::Int32 => "integer".into(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => {
            format!("numeric({p},{s})")
        }
        DataType::Duration(TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond | TimeUnit::Nanosecond) => {
            "interval".into()
        }
        other => other.to_string(),
    }
}
