//! What a join's condition says of ranges: from comparisons of columns of both sides it follows in which range of a column
//! of one side the partners of a row of the other side are.
//!
//! `b.ts BETWEEN a.ts AND a.ts + INTERVAL '10 minutes'` gives both: partners of a row of `a` have `b.ts` in
//! `[a.ts, a.ts + 10 min]`, those of a row of `b` have `a.ts` in `[b.ts - 10 min, b.ts]`. The whole condition stays: ranges
//! are closed where it is open. Pairs out of the range are not evaluated, so the rest of the condition must be one that
//! cannot fail.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::functions::arithmetic::as_operator;
use crate::functions::cast::as_cast;
use crate::plan::{PlanExpr, RangeEnd, SideRange};

const NANOS_PER_DAY: i128 = 86_400_000_000_000;

/// The ranges of both sides, if the condition has any that are worth it. With `keyed`, rows have a key beside it: then half
/// a range is not.
pub(super) fn of(condition: &PlanExpr, left: &Schema, right: &Schema, keyed: bool) -> Option<[SideRange; 2]> {
    let sides = Sides { left, right };
    let mut found = Vec::new();
    for e in split_conjunction(&condition.expr) {
        let before = found.len();
        match e {
            Expr::BinaryExpr(b) => found.extend(sides.compared(&b.left, b.op, &b.right)),
            Expr::Between(b) if !b.negated => {
                found.extend(sides.compared(&b.expr, Operator::GtEq, &b.low));
                found.extend(sides.compared(&b.expr, Operator::LtEq, &b.high));
                if found.len() < before + 2 && !cannot_fail(e) {
                    return None;
                }
                continue;
            }
            _ => {}
        }
        if found.len() == before && !cannot_fail(e) {
            return None;
        }
    }
    let of_right = found.iter().map(|c| match c.lower {
        true => (c.right, true, RangeEnd { column: c.left, offset: c.least }),
        false => (c.right, false, RangeEnd { column: c.left, offset: c.most }),
    });
    let of_left = found.iter().map(|c| match c.lower {
        true => (c.left, false, RangeEnd { column: c.right, offset: c.least.saturating_neg() }),
        false => (c.left, true, RangeEnd { column: c.right, offset: c.most.saturating_neg() }),
    });
    let (of_left, of_right) = (best(of_left)?, best(of_right)?);
    let closed = |r: &SideRange| r.from.is_some() && r.to.is_some();
    (!keyed || closed(&of_left) || closed(&of_right)).then_some([of_left, of_right])
}

/// The right value is at least (or at most) the left one and an offset between `least` and `most`.
struct Compared {
    left: usize,
    right: usize,
    lower: bool,
    least: i64,
    most: i64,
}

/// The range of the column that has both ends, or else of the first.
fn best(ends: impl Iterator<Item = (usize, bool, RangeEnd)>) -> Option<SideRange> {
    let mut ranges: Vec<SideRange> = Vec::new();
    for (column, lower, end) in ends {
        let at = ranges.iter().position(|r| r.column == column).unwrap_or_else(|| {
            ranges.push(SideRange { column, from: None, to: None });
            ranges.len() - 1
        });
        let place = if lower { &mut ranges[at].from } else { &mut ranges[at].to };
        place.get_or_insert(end);
    }
    let closed = ranges.iter().position(|r| r.from.is_some() && r.to.is_some());
    (!ranges.is_empty()).then(|| ranges.swap_remove(closed.unwrap_or(0)))
}

struct Sides<'a> {
    left: &'a Schema,
    right: &'a Schema,
}

/// A column and what is added to it.
struct Term {
    /// Position among the columns of both sides.
    column: usize,
    /// In billionths of a second for times.
    offset: i128,
}

impl Sides<'_> {
    fn data_type(&self, column: usize) -> Option<&DataType> {
        let fields = self.left.fields().iter().chain(self.right.fields());
        fields.map(|f| f.data_type()).nth(column)
    }

    fn compared(&self, a: &Expr, op: Operator, b: &Expr) -> Option<Compared> {
        let (a, b) = (self.term(a)?, self.term(b)?);
        let width = self.left.fields().len();
        let (l, r, op) = match (a.column < width, b.column < width) {
            (true, false) => (a, b, op),
            (false, true) => (b, a, op.swap()?),
            _ => return None,
        };
        let lower = match op {
            Operator::Lt | Operator::LtEq => true,
            Operator::Gt | Operator::GtEq => false,
            _ => return None,
        };
        let (of_left, of_right) = (self.data_type(l.column)?, self.data_type(r.column)?);
        if !alike(of_left, of_right) {
            return None;
        }
        let unit = unit(of_left);
        let offset = l.offset - r.offset;
        let whole = |v: i128| i64::try_from(v).ok();
        let (least, most) = (whole(offset.div_euclid(unit))?, whole(-(-offset).div_euclid(unit))?);
        Some(Compared { left: l.column, right: r.column - width, lower, least, most })
    }

    fn term(&self, e: &Expr) -> Option<Term> {
        let e = as_operator(e.clone().unalias()).or_else(as_cast).unwrap_or_else(|e| e);
        if let Some(column) = (PlanExpr { expr: e.clone() }).as_column() {
            return Some(Term { column, offset: 0 });
        }
        match e {
            Expr::Cast(c) => {
                let term = self.term(&c.expr)?;
                // An INT in the place of a BIGINT: all of its values are there.
                let from = self.data_type(term.column)?;
                let to = c.field.data_type();
                (from == to || integer_bits(from)? <= integer_bits(to)?).then_some(term)
            }
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
                let (mut term, constant) = match (self.term(&left), &op) {
                    (Some(term), _) => (term, right),
                    (None, Operator::Plus) => (self.term(&right)?, left),
                    (None, _) => return None,
                };
                let offset = offset(&constant, self.data_type(term.column)?)?;
                term.offset += if op == Operator::Plus { offset } else { -offset };
                Some(term)
            }
            _ => None,
        }
    }
}

/// Signed width that holds all values of an integer type, of those up to 64 bits.
fn integer_bits(t: &DataType) -> Option<u8> {
    Some(match t {
        DataType::Int8 => 8,
        DataType::UInt8 | DataType::Int16 => 16,
        DataType::UInt16 | DataType::Int32 => 32,
        DataType::UInt32 | DataType::Int64 => 64,
        _ => return None,
    })
}

/// Values of both types have one order.
fn alike(a: &DataType, b: &DataType) -> bool {
    use DataType as T;
    match (a, b) {
        (T::Timestamp(a, _), T::Timestamp(b, _)) => a == b,
        (T::Decimal128(_, a), T::Decimal128(_, b)) | (T::Decimal256(_, a), T::Decimal256(_, b)) => a == b,
        (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8 | T::Utf8View) => true,
        (T::Date32 | T::Date64 | T::Time32(_) | T::Time64(_) | T::Duration(_) | T::Float32 | T::Float64, _) => a == b,
        _ => integer_bits(a).is_some() && integer_bits(b).is_some(),
    }
}

/// How many units of an offset are one of the column.
fn unit(t: &DataType) -> i128 {
    match t {
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    }
}

/// A constant that is added to a column of this type; `None` where adding it cannot be undone by subtracting it.
fn offset(e: &Expr, to: &DataType) -> Option<i128> {
    let e = as_cast(e.clone()).unwrap_or_else(|e| e);
    match (&e, to) {
        (Expr::Cast(c), _) => offset(&c.expr, to),
        (Expr::Literal(value, _), DataType::Timestamp(_, zone)) => {
            let ScalarValue::IntervalMonthDayNano(Some(i)) = value.cast_to(&interval()).ok()? else { return None };
            let days_are_hours = zone.as_deref().is_none_or(|z| matches!(z, "UTC" | "+00:00" | "Z"));
            let fixed = i.months == 0 && (i.days == 0 || days_are_hours);
            fixed.then(|| i128::from(i.days) * NANOS_PER_DAY + i128::from(i.nanoseconds))
        }
        (Expr::Literal(value, _), t) if integer_bits(t).is_some() && value.data_type().is_integer() => {
            match value.cast_to(&DataType::Int64).ok()? {
                ScalarValue::Int64(Some(n)) => Some(n.into()),
                _ => None,
            }
        }
        _ => None,
    }
}

fn interval() -> DataType {
    DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano)
}

/// True for conditions that have a value whatever the columns are.
fn cannot_fail(e: &Expr) -> bool {
    let all = |es: &[&Expr]| es.iter().all(|e| cannot_fail(e));
    match e {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::Alias(a) => cannot_fail(&a.expr),
        Expr::Not(e)
        | Expr::IsNull(e)
        | Expr::IsNotNull(e)
        | Expr::IsTrue(e)
        | Expr::IsFalse(e)
        | Expr::IsUnknown(e)
        | Expr::IsNotTrue(e)
        | Expr::IsNotFalse(e)
        | Expr::IsNotUnknown(e) => cannot_fail(e),
        Expr::Between(b) => all(&[&b.expr, &b.low, &b.high]),
        Expr::InList(l) => cannot_fail(&l.expr) && l.list.iter().all(cannot_fail),
        Expr::BinaryExpr(b) => {
            use Operator as O;
            let plain = matches!(
                b.op,
                O::Eq
                    | O::NotEq
                    | O::Lt
                    | O::LtEq
                    | O::Gt
                    | O::GtEq
                    | O::And
                    | O::Or
                    | O::IsDistinctFrom
                    | O::IsNotDistinctFrom
            );
            plain && all(&[&b.left, &b.right])
        }
        _ => false,
    }
}
