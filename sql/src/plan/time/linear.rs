//! What an expression says about the order of its columns in time.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::plan::PlanExpr;

/// `column >= other + micros`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) column: usize,
    pub(super) other: usize,
    pub(super) micros: i64,
}

fn is_time(t: &DataType) -> bool {
    matches!(t, DataType::Timestamp(..) | DataType::Date32)
}

/// True where a cast to this type keeps the instant, to the microsecond.
fn keeps_instant(to: &DataType) -> bool {
    let utc = |tz: &Option<std::sync::Arc<str>>| tz.as_deref().is_none_or(|tz| matches!(tz, "UTC" | "+00:00" | "Z"));
    matches!(to, DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, tz) if utc(tz))
}

fn column_of(e: &Expr) -> Option<usize> {
    PlanExpr { expr: e.clone() }.as_column()
}

/// `(c, k)` if the expression is time column `c` moved by `k` microseconds.
pub(super) fn linear(e: &Expr, schema: &Schema) -> Option<(usize, i64)> {
    match e {
        Expr::Alias(a) => linear(&a.expr, schema),
        Expr::Column(_) => {
            let c = column_of(e)?;
            is_time(schema.fields().get(c)?.data_type()).then_some((c, 0))
        }
        Expr::Cast(c) if keeps_instant(c.field.data_type()) => linear(&c.expr, schema),
        Expr::TryCast(c) if keeps_instant(c.field.data_type()) => linear(&c.expr, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            if let Some(k) = interval_micros(right) {
                let (c, before) = linear(left, schema)?;
                let k = if *op == Operator::Minus { k.checked_neg()? } else { k };
                return moved(c, before, k, schema);
            }
            if *op == Operator::Plus
                && let Some(k) = interval_micros(left)
            {
                let (c, before) = linear(right, schema)?;
                return moved(c, before, k, schema);
            }
            None
        }
        _ => None,
    }
}

/// A column moves by whole units of its own only: less is rounded.
fn moved(c: usize, before: i64, k: i64, schema: &Schema) -> Option<(usize, i64)> {
    let unit = match schema.fields().get(c)?.data_type() {
        DataType::Date32 => 86_400_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000,
        _ => 1,
    };
    (k % unit == 0).then_some((c, before.checked_add(k)?))
}

/// An interval of constant length, in microseconds.
pub(in crate::plan) fn interval_micros(e: &Expr) -> Option<i64> {
    let value = match e {
        Expr::Literal(v, _) => v.clone(),
        Expr::Alias(a) => return interval_micros(&a.expr),
        Expr::Cast(c) => match c.expr.as_ref() {
            Expr::Literal(v, _) => v.cast_to(c.field.data_type()).ok()?,
            _ => return None,
        },
        Expr::Negative(inner) => return interval_micros(inner)?.checked_neg(),
        _ => return None,
    };
    match value {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months == 0 => {
            i64::from(i.days).checked_mul(86_400_000_000)?.checked_add(i.nanoseconds.div_euclid(1_000))
        }
        ScalarValue::IntervalDayTime(Some(i)) => {
            i64::from(i.days).checked_mul(86_400_000_000)?.checked_add(i64::from(i.milliseconds) * 1_000)
        }
        ScalarValue::DurationSecond(Some(s)) => s.checked_mul(1_000_000),
        ScalarValue::DurationMillisecond(Some(s)) => s.checked_mul(1_000),
        ScalarValue::DurationMicrosecond(Some(s)) => Some(s),
        ScalarValue::DurationNanosecond(Some(s)) => Some(s.div_euclid(1_000)),
        _ => None,
    }
}

/// The column an expression does not fall with, if it depends on nothing else. Of what a clock shows the least from a moment
/// on is meant, see [`super::zone`].
pub(super) fn monotone(e: &Expr, schema: &Schema) -> Option<usize> {
    if let Some((c, _)) = linear(e, schema) {
        return Some(c);
    }
    let constant = |e: &Expr| matches!(e, Expr::Literal(..)) || interval_micros(e).is_some();
    match e {
        Expr::Alias(a) => monotone(&a.expr, schema),
        // Rounding to a coarser unit does not turn the order around.
        Expr::Cast(c) if is_time(c.field.data_type()) && no_zone(c.field.data_type()) => monotone(&c.expr, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) if constant(right) => {
            monotone(left, schema)
        }
        Expr::ScalarFunction(f) => {
            let at = match f.name() {
                "tumble_start" | "hop_starts" | "cumulate_ends" | "tumble_zone_start" | "tumble_zone_end" => 0,
                "date_trunc" | "date_bin" | super::zone::TIMEZONE => 1,
                _ => return None,
            };
            let time = f.args.get(at)?;
            let others = f.args.iter().enumerate().filter(|(i, _)| *i != at).all(|(_, a)| constant(a));
            if others { monotone(time, schema) } else { None }
        }
        _ => None,
    }
}

fn no_zone(t: &DataType) -> bool {
    match t {
        DataType::Timestamp(_, tz) => tz.as_deref().is_none_or(|tz| matches!(tz, "UTC" | "+00:00" | "Z")),
        _ => true,
    }
}

/// What a condition that is true says: each conjunct `a >= b + k` between two time columns.
pub(super) fn floors(e: &Expr, schema: &Schema) -> Vec<Floor> {
    let mut out = Vec::new();
    collect(e, schema, &mut out);
    out
}

fn collect(e: &Expr, schema: &Schema, out: &mut Vec<Floor>) {
    match e {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            collect(left, schema, out);
            collect(right, schema, out);
        }
        Expr::Between(b) if !b.negated => {
            at_least(&b.expr, &b.low, schema, out);
            at_least(&b.high, &b.expr, schema, out);
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::GtEq | Operator::Gt => at_least(left, right, schema, out),
            Operator::LtEq | Operator::Lt => at_least(right, left, schema, out),
            Operator::Eq => {
                at_least(left, right, schema, out);
                at_least(right, left, schema, out);
            }
            _ => {}
        },
        _ => {}
    }
}

fn at_least(larger: &Expr, smaller: &Expr, schema: &Schema, out: &mut Vec<Floor>) {
    if let (Some((column, moved)), Some((other, by))) = (linear(larger, schema), linear(smaller, schema))
        && column != other
        && let Some(micros) = by.checked_sub(moved)
    {
        out.push(Floor { column, other, micros });
    }
}
