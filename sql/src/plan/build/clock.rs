//! Conditions with the clock: `ts > now() - INTERVAL '1 hour'`.
//!
//! [`mark`] turns every comparison of a row's time with the statement's time into a call of a function that stands for
//! "from this time of the row on" or "before this time of the row" ([`TimeLimit`]). The optimizer then moves such a condition
//! about like any other, below joins too, and sees no `now()` it could fold or share. [`super::temporal`] finds the calls
//! again and makes operators of them.
//!
//! `now()` may be moved by intervals of fixed length, cast to a date and rounded with `date_trunc`; the row's side of the
//! comparison is free.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::logical_plan::{Filter, Join};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit,
};

use crate::error::SqlError;
use crate::functions::arithmetic::as_operator;
use crate::functions::cast::as_cast;
use crate::plan::time::interval_micros;

const DAY: i64 = 86_400_000_000;
/// 1970-01-01 was a Thursday; weeks begin on Mondays.
const MONDAY: i64 = 4 * DAY;

/// Functions whose value is the statement's time.
const CLOCKS: [&str; 3] = ["now", "localtimestamp", "current_date"];

pub(super) const FORMS: &str = "Compare a column with it in WHERE or ON: ts > now() - INTERVAL '1 hour'. Or use it in the query that reads the view.";

/// True for a call of `now()` and its like.
pub(super) fn is_clock(e: &Expr) -> bool {
    matches!(e, Expr::ScalarFunction(f) if CLOCKS.contains(&f.name()))
}

fn any(e: &Expr, of: impl Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    let visited = e.apply(|e| {
        found |= of(e);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found || visited.is_err()
}

fn reads_clock(e: &Expr) -> bool {
    any(e, is_clock)
}

/// True if a condition with the clock, found by [`mark`], is somewhere in the expression.
pub(super) fn has_mark(e: &Expr) -> bool {
    any(e, |e| of(e).is_some())
}

/// A row's time and what is to be made of it; see [`super::TimeLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark {
    pub(super) shift: i64,
    pub(super) step: i64,
    pub(super) offset: i64,
    pub(super) next: bool,
    pub(super) leaves: bool,
}

/// What stands for a condition with the clock while the plan is optimised.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ClockMark {
    mark: Mark,
    signature: Signature,
}

impl ScalarUDFImpl for ClockMark {
    fn name(&self) -> &str {
        "__now"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(refused("now() has no value in a view"))
    }
}

/// The row's time and the rest of a marked condition.
pub(super) fn of(e: &Expr) -> Option<(&Expr, Mark)> {
    let Expr::ScalarFunction(f) = e else { return None };
    let function: &dyn std::any::Any = f.func.inner().as_ref();
    let mark = function.downcast_ref::<ClockMark>()?.mark;
    f.args.first().map(|value| (value, mark))
}

fn refused(what: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::unsupported(what).hint(FORMS)))
}

/// The plan with its conditions on the clock marked.
///
/// # Errors
/// A condition on the clock that says of no time of the row when it becomes true or false.
pub(super) fn mark(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let marked = plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::Filter(f) if reads_clock(&f.predicate) => {
            let predicate = condition(&f.predicate, false, f.input.schema())?;
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, f.input)?)))
        }
        LogicalPlan::Join(j) if j.filter.as_ref().is_some_and(reads_clock) => {
            let both = j.left.schema().join(j.right.schema())?;
            let filter = j.filter.as_ref().map(|f| condition(f, false, &both)).transpose()?;
            Ok(Transformed::yes(LogicalPlan::Join(Join { filter, ..j })))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(marked.data)
}

/// A condition that must be true, or, `negated`, false. Negations go down to the comparisons, so that everything above them
/// is AND and OR, where unknown counts as false.
fn condition(e: &Expr, negated: bool, schema: &DFSchema) -> DfResult<Expr> {
    if !reads_clock(e) {
        return Ok(if negated { Expr::Not(Box::new(e.clone())) } else { e.clone() });
    }
    match e {
        Expr::Alias(a) => condition(&a.expr, negated, schema),
        Expr::Not(x) => condition(x, !negated, schema),
        Expr::IsTrue(x) if !negated => condition(x, negated, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let (l, r) = (condition(left, negated, schema)?, condition(right, negated, schema)?);
            Ok(if (*op == Operator::And) != negated { l.and(r) } else { l.or(r) })
        }
        Expr::Between(b) => {
            let negated = negated != b.negated;
            let (low, high) = match negated {
                false => (Operator::GtEq, Operator::LtEq),
                true => (Operator::Lt, Operator::Gt),
            };
            let low = comparison(&b.expr, low, &b.low, schema)?;
            let high = comparison(&b.expr, high, &b.high, schema)?;
            Ok(if negated { low.or(high) } else { low.and(high) })
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let op = if negated { op.negate() } else { Some(*op) };
            match op {
                Some(op @ (Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq | Operator::Eq)) => {
                    comparison(left, op, right, schema)
                }
                _ => Err(form(e)),
            }
        }
        _ => Err(form(e)),
    }
}

fn form(e: &Expr) -> DataFusionError {
    let shown =
        e.clone().transform_up(|e| Ok(as_operator(e).or_else(as_cast).map_or_else(Transformed::no, Transformed::yes)));
    let shown = shown.map_or_else(|_| e.to_string(), |t| t.data.to_string());
    let error = SqlError::unsupported(format!("this condition with now() cannot be used in a view: {shown}"));
    DataFusionError::External(Box::new(error.hint(
        "It must be a comparison (<, <=, >, >=, =, BETWEEN) of a time of the row with now(), plus or minus an interval without \
         months: ts > now() - INTERVAL '1 hour'.",
    )))
}

/// The clock, moved and rounded: `floor(now() + before, step) + after`.
#[derive(Debug, Clone, Copy)]
struct Reading {
    before: i64,
    step: i64,
    after: i64,
}

impl Reading {
    const NOW: Self = Self { before: 0, step: 1, after: 0 };

    fn plus(self, micros: i64) -> Option<Self> {
        Some(match self.step {
            1 => Self { before: self.before.checked_add(micros)?, ..self },
            _ => Self { after: self.after.checked_add(micros)?, ..self },
        })
    }

    /// Rounded down to multiples of a unit.
    fn floor(self, step: i64) -> Option<Self> {
        match self.step {
            1 => Some(Self { step, ..self }),
            // Multiples of a larger unit that divides nothing off.
            own if own % step == 0 && self.after % step == 0 => Some(self),
            _ => None,
        }
    }
}

fn plain(e: &Expr) -> Expr {
    as_operator(e.clone().unalias()).or_else(as_cast).unwrap_or_else(|e| e)
}

fn text(e: &Expr) -> Option<String> {
    match plain(e) {
        Expr::Literal(ScalarValue::Utf8(t) | ScalarValue::Utf8View(t) | ScalarValue::LargeUtf8(t), _) => t,
        Expr::Cast(c) => text(&c.expr),
        _ => None,
    }
}

fn is_utc(zone: &str) -> bool {
    ["utc", "+00:00", "z"].iter().any(|u| zone.eq_ignore_ascii_case(u))
}

/// What an expression makes of the clock, if it is nothing but a moved and rounded one.
fn reading(e: &Expr, schema: &DFSchema) -> Option<Reading> {
    match plain(e) {
        Expr::Cast(c) => to_type(reading(&c.expr, schema)?, c.field.data_type()),
        Expr::TryCast(c) => to_type(reading(&c.expr, schema)?, c.field.data_type()),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            let (clock, by) = match (interval_micros(&right), interval_micros(&left)) {
                (Some(k), _) => (left, if op == Operator::Minus { k.checked_neg()? } else { k }),
                (None, Some(k)) if op == Operator::Plus => (right, k),
                _ => return None,
            };
            // A date moves by whole days.
            let date = clock.get_type(schema).ok()? == DataType::Date32;
            if date && by % DAY != 0 { None } else { reading(&clock, schema)?.plus(by) }
        }
        Expr::ScalarFunction(f) => match (f.name(), f.args.as_slice()) {
            ("now" | "localtimestamp", []) => Some(Reading::NOW),
            ("current_date", []) => Reading::NOW.floor(DAY),
            ("timezone", [zone, time]) if text(zone).is_some_and(|z| is_utc(&z)) => reading(time, schema),
            ("date_trunc", [unit, time]) => {
                let clock = reading(time, schema)?;
                match text(unit)?.to_lowercase().as_str() {
                    "microsecond" => Some(clock),
                    "millisecond" => clock.floor(1_000),
                    "second" => clock.floor(1_000_000),
                    "minute" => clock.floor(60_000_000),
                    "hour" => clock.floor(3_600_000_000),
                    "day" => clock.floor(DAY),
                    "week" if clock.step == 1 => clock.plus(-MONDAY)?.floor(7 * DAY)?.plus(MONDAY),
                    _ => None,
                }
            }
            _ => None,
        },
        _ => None,
    }
}

fn to_type(clock: Reading, to: &DataType) -> Option<Reading> {
    use arrow::datatypes::TimeUnit::{Microsecond, Nanosecond};
    match to {
        DataType::Timestamp(Microsecond | Nanosecond, zone) if zone.as_deref().is_none_or(is_utc) => Some(clock),
        DataType::Date32 => clock.floor(DAY),
        _ => None,
    }
}

fn comparison(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> DfResult<Expr> {
    let whole = || Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone())));
    let (clock, op, row) = match (reads_clock(left), reads_clock(right)) {
        (true, false) => (left, op, right),
        (false, true) => (right, op.swap().ok_or_else(|| form(&whole()))?, left),
        // The row's side of a BETWEEN whose other end has the clock.
        (false, false) => return Ok(whole()),
        (true, true) => return Err(form(&whole())),
    };
    if let Some(reading) = reading(clock, schema) {
        return limits(reading, op, row, schema).ok_or_else(|| form(&whole()));
    }
    // now() - ts < INTERVAL '1 hour' is now() < ts + INTERVAL '1 hour'.
    age(clock, op, row, schema).ok_or_else(|| form(&whole()))
}

fn age(difference: &Expr, op: Operator, interval: &Expr, schema: &DFSchema) -> Option<Expr> {
    let k = interval_micros(&plain(interval))?;
    let mut difference = plain(difference);
    while let Expr::Cast(c) = &difference {
        difference = plain(&c.expr);
    }
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) = &difference else { return None };
    match (reads_clock(left), reads_clock(right)) {
        (true, false) => limits(reading(left, schema)?.plus(k.checked_neg()?)?, op, right, schema),
        (false, true) => limits(reading(right, schema)?.plus(k)?, op.swap()?, left, schema),
        _ => None,
    }
}

/// `reading op row` as limits of the row.
fn limits(clock: Reading, op: Operator, row: &Expr, schema: &DFSchema) -> Option<Expr> {
    let value = instant(row, schema)?;
    let base = Mark {
        shift: clock.after.checked_neg()?,
        step: clock.step,
        offset: clock.before.checked_neg()?,
        next: false,
        leaves: false,
    };
    // floor(n) >= y from the first multiple on that is not before y; floor(n) > y from the one after y on.
    let marks: &[(bool, bool)] = match op {
        Operator::GtEq => &[(false, false)],
        Operator::Gt => &[(false, true)],
        Operator::Lt => &[(true, false)],
        Operator::LtEq => &[(true, true)],
        Operator::Eq => &[(false, false), (true, true)],
        _ => return None,
    };
    let call = |(leaves, next): &(bool, bool)| {
        let mark = Mark { leaves: *leaves, next: *next, ..base };
        let function = ClockMark { mark, signature: Signature::any(2, Volatility::Stable) };
        // The numbers are an argument too, for names of columns are made of arguments.
        let args = vec![value.clone(), lit(format!("{mark:?}"))];
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), args))
    };
    marks.iter().map(call).reduce(Expr::and)
}

/// The row's time without casts that leave the instant as it is.
fn instant(row: &Expr, schema: &DFSchema) -> Option<Expr> {
    use arrow::datatypes::TimeUnit::{Microsecond, Nanosecond};
    let is_time = |t: &DataType| match t {
        DataType::Timestamp(_, zone) => zone.as_deref().is_none_or(is_utc),
        t => *t == DataType::Date32,
    };
    if let Expr::Cast(c) = plain(row)
        && matches!(c.field.data_type(), DataType::Timestamp(Microsecond | Nanosecond, _))
        && is_time(c.field.data_type())
        && is_time(&c.expr.get_type(schema).ok()?)
    {
        return instant(&c.expr, schema);
    }
    is_time(&row.get_type(schema).ok()?).then(|| row.clone())
}
