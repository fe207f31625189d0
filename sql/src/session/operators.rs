//! Operators of times, arrays and bytes while a query is planned: types as in Postgres, and functions of ours.
//!
//! - A date with an interval is a timestamp; an interval times a number is an interval.
//! - `@>`, `<@`, `a[i]` and `a[i:j]` of arrays, and `||` of bytes, are functions of ours.
//! - A literal beside an array, an interval or bytes is one; text beside a time that is added to is an interval.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, IntervalUnit};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, GetFieldAccess, Operator, ScalarUDF};
use sqlparser::ast::BinaryOperator as Op;

use crate::functions::datetime::make;
use crate::functions::{arrays, bytes, cast};
use crate::types::{timestamp, timestamptz};

/// See the module.
#[derive(Debug)]
pub(super) struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let (Ok(left), Ok(right)) = (raw.left.get_type(schema), raw.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(raw));
        };
        if let Some(name) = function_of(&raw.op, &left, &right)
            && let Some(f) = find(name)
        {
            let reversed = name == make::TIMES && is_number(&left);
            let args = if reversed { vec![raw.right, raw.left] } else { vec![raw.left, raw.right] };
            return Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(f), args))));
        }
        if is_comparison(&raw.op) {
            let (l, r) = (as_date(&raw.left), as_date(&raw.right));
            return Ok(PlannerResult::Original(match (l, r, &left, &right) {
                (Some(l), None, _, DataType::Date32) => RawBinaryExpr { left: l, ..raw },
                (None, Some(r), DataType::Date32, _) => RawBinaryExpr { right: r, ..raw },
                _ => RawBinaryExpr { left: literal_as(raw.left, &right)?, right: literal_as(raw.right, &left)?, ..raw },
            }));
        }
        Ok(match (operator(&raw.op), &left, &right) {
            (Some(op), DataType::Date32, DataType::Interval(_)) => {
                PlannerResult::Planned(binary(to_timestamp(raw.left), op, raw.right))
            }
            (Some(op @ Operator::Plus), DataType::Interval(_), DataType::Date32) => {
                PlannerResult::Planned(binary(to_timestamp(raw.right), op, raw.left))
            }
            (Some(op), DataType::Timestamp(_, zone), t) if is_text(t) && is_literal(&raw.right) => {
                let to = match op {
                    Operator::Plus => DataType::Interval(IntervalUnit::MonthDayNano),
                    _ if zone.is_some() => timestamptz(),
                    _ => timestamp(),
                };
                PlannerResult::Planned(binary(raw.left, op, typed(raw.right, &to)?))
            }
            _ => PlannerResult::Original(raw),
        })
    }

    fn plan_field_access(
        &self,
        raw: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        if !matches!(
            raw.expr.get_type(schema),
            Ok(DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
        ) {
            return Ok(PlannerResult::Original(raw));
        }
        let (name, args) = match raw.field_access {
            GetFieldAccess::ListIndex { key } => (arrays::SUBSCRIPT, vec![raw.expr, *key]),
            GetFieldAccess::ListRange { start, stop, .. } => (arrays::SLICE, vec![raw.expr, *start, *stop]),
            access => return Ok(PlannerResult::Original(RawFieldAccessExpr { field_access: access, ..raw })),
        };
        Ok(match find(name) {
            Some(f) => PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(f), args))),
            None => return Err(datafusion::error::DataFusionError::Internal(format!("no function {name}"))),
        })
    }
}

fn find(name: &str) -> Option<ScalarUDF> {
    make::function(name).or_else(|| arrays::function(name)).or_else(|| bytes::function(name))
}

fn is_list(t: &DataType) -> bool {
    matches!(t, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..))
}

fn is_span(t: &DataType) -> bool {
    matches!(t, DataType::Interval(_) | DataType::Duration(_))
}

fn is_number(t: &DataType) -> bool {
    t.is_numeric()
}

fn is_bytes(t: &DataType) -> bool {
    matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The function that an operator of these types is.
fn function_of(op: &Op, left: &DataType, right: &DataType) -> Option<&'static str> {
    Some(match op {
        Op::AtArrow if is_list(left) || is_list(right) => arrays::CONTAINS,
        Op::ArrowAt if is_list(left) || is_list(right) => arrays::CONTAINED,
        Op::StringConcat if is_bytes(left) && is_bytes(right) => bytes::CONCATENATE,
        Op::Multiply if (is_span(left) && is_number(right)) || (is_number(left) && is_span(right)) => make::TIMES,
        Op::Divide if is_span(left) && is_number(right) => make::OVER,
        _ => return None,
    })
}

fn operator(op: &Op) -> Option<Operator> {
    match op {
        Op::Plus => Some(Operator::Plus),
        Op::Minus => Some(Operator::Minus),
        _ => None,
    }
}

fn is_comparison(op: &Op) -> bool {
    matches!(op, Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq)
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn to_timestamp(date: Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(date), timestamp()))
}

/// A date with months and days is midnight: beside a date it is compared as one, which an index of dates knows.
fn as_date(e: &Expr) -> Option<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) = e else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Cast(c), Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(i)), _))
            if i.nanoseconds == 0 && *c.field.data_type() == timestamp() && is_date(&c.expr) =>
        {
            Some(binary(c.expr.as_ref().clone(), *op, right.as_ref().clone()))
        }
        _ => None,
    }
}

/// A constant that says it is a date.
fn is_date(e: &Expr) -> bool {
    match e {
        Expr::Literal(ScalarValue::Date32(_), _) => true,
        Expr::Cast(c) => *c.field.data_type() == DataType::Date32,
        _ => false,
    }
}

fn is_literal(e: &Expr) -> bool {
    matches!(e, Expr::Literal(ScalarValue::Utf8(Some(_)) | ScalarValue::Utf8View(Some(_)), _))
}

/// A literal of text beside a value of a type that it does not become by itself.
fn literal_as(e: Expr, other: &DataType) -> Result<Expr> {
    let there = is_list(other) || is_bytes(other) || matches!(other, DataType::Interval(_));
    if there && is_literal(&e) { typed(e, other) } else { Ok(e) }
}

/// A literal of text as a value of a type; an error if it is none.
pub(super) fn typed(e: Expr, to: &DataType) -> Result<Expr> {
    let Expr::Literal(value, metadata) = &e else { return Ok(e) };
    let text = match value {
        ScalarValue::Utf8(Some(s)) | ScalarValue::Utf8View(Some(s)) | ScalarValue::LargeUtf8(Some(s)) => s,
        _ => return Ok(e),
    };
    let one: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
    let value = ScalarValue::try_from_array(&cast::cast(&one, to)?, 0)?;
    Ok(Expr::Literal(value, metadata.clone()))
}
