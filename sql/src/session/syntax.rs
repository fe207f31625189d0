//! Expressions in words that the planner has: rewriting of the syntax tree, before types are known.
//!
//! - A constant with an exponent is a double; casts to `VARCHAR(n)` cut; an interval is read as Postgres reads it.
//! - `AT TIME ZONE`, `SIMILAR TO`, `substring(text FROM pattern)`, `^@`, `&&`, `~` and other operators are calls.
//! - Rows are compared column by column, with three-valued logic.
//! - `x op ANY (array)` and ALL are calls where DataFusion's form of them loses a NULL.
//! - `json_agg` is an array of what `array_agg` collects.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, AccessExpr, BinaryOperator as Op, Expr, Subscript, UnaryOperator, Value, VisitMut, VisitorMut,
};

use crate::error::{Result, SqlError};
use crate::functions::datetime::make;
use crate::functions::{arrays, cast, text};

/// Rewrites every expression.
pub(super) fn expressions<T: VisitMut>(tree: &mut T) -> Result<()> {
    super::window_tvf::plain_functions(tree);
    struct Rewriter;
    impl VisitorMut for Rewriter {
        type Break = SqlError;
        fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<SqlError> {
            match expression(e) {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(new)) => {
                    *e = new;
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            }
        }
    }
    match tree.visit(&mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(e) => Err(e),
    }
}

/// What takes the place of an expression whose parts are rewritten already.
fn expression(e: &mut Expr) -> Result<Option<Expr>> {
    Ok(Some(match e {
        Expr::AtTimeZone { timestamp, time_zone } => call("timezone", vec![take(time_zone), take(timestamp)]),
        Expr::Cast { kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, data_type, .. } => {
            let Some(length) = length_of(data_type) else { return Ok(None) };
            call("left", vec![e.clone(), number(length)])
        }
        Expr::Value(v) => match &v.value {
            Value::Number(text, _)
                if text.contains(['e', 'E']) && !text.starts_with("0x") && !text.starts_with("0X") =>
            {
                let value = Value::SingleQuotedString(text.replace('_', "")).with_span(v.span);
                cast_to(Expr::Value(value), ast::DataType::DoublePrecision)
            }
            _ => return Ok(None),
        },
        Expr::Interval(i) => return interval(i),
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let mut args = vec![take(pattern)];
            args.extend(escape_char.take().map(Expr::Value));
            let op = if *negated { Op::PGRegexNotMatch } else { Op::PGRegexMatch };
            nested(binary(take(expr), op, call(text::SIMILAR, args)))
        }
        Expr::Like { any: true, .. } | Expr::ILike { any: true, .. } => return like_any(e),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } if matches!(**expr, Expr::Interval(_)) => {
            // Every part of it.
            let nothing = interval_of(Value::SingleQuotedString("0 seconds".into()).into());
            nested(binary(nothing, Op::Minus, take(expr)))
        }
        Expr::UnaryOp { op, expr } => {
            let name = match op {
                UnaryOperator::BitwiseNot => "bit_not",
                UnaryOperator::PGAbs => "abs",
                UnaryOperator::PGSquareRoot => "sqrt",
                UnaryOperator::PGCubeRoot => "cbrt",
                _ => return Ok(None),
            };
            call(name, vec![take(expr)])
        }
        Expr::BinaryOp { left, op, right } => match op {
            Op::PGStartsWith => call("starts_with", vec![take(left), take(right)]),
            Op::PGExp => call("power", vec![take(left), take(right)]),
            Op::PGOverlap => call(arrays::OVERLAP, vec![take(left), take(right)]),
            _ => match (row(left), row(right)) {
                (Some(l), Some(r)) => compare_rows(l, op.clone(), r)?,
                _ => return Ok(None),
            },
        },
        Expr::IsDistinctFrom(l, r) | Expr::IsNotDistinctFrom(l, r) => {
            let (Some(left), Some(right)) = (row(l), row(r)) else { return Ok(None) };
            let distinct = matches!(e, Expr::IsDistinctFrom(..));
            let one = |(l, r): (Expr, Expr)| match distinct {
                true => Expr::IsDistinctFrom(Box::new(l), Box::new(r)),
                false => Expr::IsNotDistinctFrom(Box::new(l), Box::new(r)),
            };
            let parts = same_length(left, right)?.into_iter().map(one);
            all(parts, if distinct { Op::Or } else { Op::And })
        }
        Expr::IsNull(x) => match row(x) {
            Some(columns) => all(columns.into_iter().map(|c| Expr::IsNull(Box::new(c))), Op::And),
            None => return Ok(None),
        },
        Expr::IsNotNull(x) => match row(x) {
            Some(columns) => all(columns.into_iter().map(|c| Expr::IsNotNull(Box::new(c))), Op::And),
            None => return Ok(None),
        },
        Expr::InList { expr, list, negated } => {
            let Some(left) = row(expr) else { return Ok(None) };
            let mut parts = Vec::with_capacity(list.len());
            for item in list.iter() {
                let right = row(item).ok_or_else(uneven)?;
                parts.push(compare_rows(left.clone(), Op::Eq, right)?);
            }
            let found = all(parts.into_iter(), Op::Or);
            match *negated {
                true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(found) },
                false => found,
            }
        }
        Expr::Array(array) if array.elem.iter().any(reads_columns) => {
            // The planner looks at the elements of an array without the queries around it.
            call("make_array", std::mem::take(&mut array.elem))
        }
        Expr::CompoundFieldAccess { access_chain, .. } => {
            slices(access_chain)?;
            return Ok(None);
        }
        Expr::AnyOp { left, compare_op, right, .. } => {
            return Ok(quantified(arrays::ANY, left, compare_op, right, Op::Eq));
        }
        Expr::AllOp { left, compare_op, right } => {
            return Ok(quantified(arrays::ALL, left, compare_op, right, Op::NotEq));
        }
        Expr::Substring { expr, substring_from: Some(from), substring_for: None, .. } if is_literal(from) => {
            call(text::SUBSTRING, vec![take(expr), take(from)])
        }
        Expr::Function(f) => return Ok(function(f)),
        _ => return Ok(None),
    }))
}

fn take(e: &mut Expr) -> Expr {
    std::mem::replace(e, Expr::Value(Value::Null.into()))
}

fn nested(e: Expr) -> Expr {
    Expr::Nested(Box::new(e))
}

fn binary(left: Expr, op: Op, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn number(n: u64) -> Expr {
    Expr::Value(Value::Number(n.to_string(), false).into())
}

fn cast_to(e: Expr, data_type: ast::DataType) -> Expr {
    Expr::Cast { kind: ast::CastKind::DoubleColon, expr: Box::new(e), data_type, array: false, format: None }
}

/// A call of a function with plain arguments.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let arg = |e: Expr| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e));
    let args = ast::FunctionArgumentList {
        duplicate_treatment: None,
        args: args.into_iter().map(arg).collect(),
        clauses: Vec::new(),
    };
    Expr::Function(ast::Function {
        name: ast::ObjectName::from(vec![ast::Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn is_literal(e: &Expr) -> bool {
    matches!(e, Expr::Value(v) if matches!(v.value, Value::SingleQuotedString(_) | Value::EscapedStringLiteral(_)))
}

fn reads_columns(e: &Expr) -> bool {
    let found = ast::visit_expressions(e, |e: &Expr| match e {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// How much text a cast to a character type leaves.
fn length_of(t: &ast::DataType) -> Option<u64> {
    use ast::DataType as T;
    match t {
        T::Varchar(Some(n)) | T::CharVarying(Some(n)) | T::CharacterVarying(Some(n)) => match n {
            ast::CharacterLength::IntegerLength { length, .. } => Some(*length),
            ast::CharacterLength::Max => None,
        },
        T::Char(Some(ast::CharacterLength::IntegerLength { length, .. }))
        | T::Character(Some(ast::CharacterLength::IntegerLength { length, .. })) => Some(*length),
        T::Char(None) | T::Character(None) => Some(1),
        _ => None,
    }
}

/// `INTERVAL '..' [fields]` in words that the planner reads.
fn interval(i: &ast::Interval) -> Result<Option<Expr>> {
    let Expr::Value(v) = i.value.as_ref() else { return Ok(None) };
    let (Value::SingleQuotedString(text) | Value::Number(text, _)) = &v.value else { return Ok(None) };
    let field = |f: &Option<ast::DateTimeField>| f.as_ref().map(|f| f.to_string().to_lowercase());
    let (first, last) = (field(&i.leading_field), field(&i.last_field));
    let (months, days, micros) = cast::read_interval(text, first.as_deref(), last.as_deref())?;
    let (whole, fraction) = (micros / 1_000_000, (micros % 1_000_000).unsigned_abs());
    let sign = if micros < 0 { "-" } else { "" };
    let plain = format!("{months} months {days} days {sign}{}.{fraction:06} seconds", whole.unsigned_abs());
    Ok(Some(interval_of(Value::SingleQuotedString(plain).with_span(v.span))))
}

fn interval_of(text: ast::ValueWithSpan) -> Expr {
    Expr::Interval(ast::Interval {
        value: Box::new(Expr::Value(text)),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    })
}

/// The columns of a row constructor.
fn row(e: &Expr) -> Option<Vec<Expr>> {
    match e {
        Expr::Tuple(columns) => Some(columns.clone()),
        Expr::Nested(inner) => row(inner),
        Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("row") => plain_arguments(f),
        _ => None,
    }
}

fn plain_arguments(f: &ast::Function) -> Option<Vec<Expr>> {
    let ast::FunctionArguments::List(list) = &f.args else { return None };
    let one = |a: &ast::FunctionArg| match a {
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Some(e.clone()),
        _ => None,
    };
    list.args.iter().map(one).collect()
}

fn uneven() -> SqlError {
    SqlError::new(crate::error::SqlState::SYNTAX_ERROR, "unequal number of entries in row expressions")
}

fn same_length(left: Vec<Expr>, right: Vec<Expr>) -> Result<Vec<(Expr, Expr)>> {
    if left.len() != right.len() || left.is_empty() {
        return Err(uneven());
    }
    Ok(left.into_iter().zip(right).collect())
}

fn all(parts: impl Iterator<Item = Expr>, op: Op) -> Expr {
    let joined = parts.reduce(|a, b| binary(a, op.clone(), b));
    nested(joined.unwrap_or_else(|| Expr::Value(Value::Boolean(op == Op::And).into())))
}

/// Rows by their columns: equal if all are, otherwise by the first that differs.
fn compare_rows(left: Vec<Expr>, op: Op, right: Vec<Expr>) -> Result<Expr> {
    let pairs = same_length(left, right)?;
    let strict = match op {
        Op::Eq => return Ok(all(pairs.into_iter().map(|(l, r)| binary(l, Op::Eq, r)), Op::And)),
        Op::NotEq => return Ok(all(pairs.into_iter().map(|(l, r)| binary(l, Op::NotEq, r)), Op::Or)),
        Op::Lt | Op::LtEq => Op::Lt,
        Op::Gt | Op::GtEq => Op::Gt,
        other => return Err(SqlError::unsupported(format!("operator {other} of rows is not supported"))),
    };
    let mut pairs = pairs.into_iter().rev();
    let last = pairs.next().ok_or_else(uneven)?;
    let mut out = binary(last.0, op, last.1);
    for (l, r) in pairs {
        let same = binary(binary(l.clone(), Op::Eq, r.clone()), Op::And, nested(out));
        out = binary(binary(l, strict.clone(), r), Op::Or, nested(same));
    }
    Ok(nested(out))
}

/// Slices have both bounds. After one there is nothing: Postgres would take every subscript for a slice then.
fn slices(chain: &mut [AccessExpr]) -> Result<()> {
    let slice = |a: &AccessExpr| matches!(a, AccessExpr::Subscript(Subscript::Slice { .. }));
    if chain.len() > 1 && chain.iter().any(slice) {
        return Err(SqlError::unsupported("slices of multidimensional arrays are not supported"));
    }
    for access in chain {
        if let AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) = access {
            if stride.is_some() {
                return Err(SqlError::unsupported("slices with a step are not supported"));
            }
            lower_bound.get_or_insert_with(|| number(1));
            upper_bound.get_or_insert_with(|| number(i32::MAX as u64));
        }
    }
    Ok(())
}

/// `x op ANY (array)`; the operator `plain` of DataFusion's own is kept, which indexes know.
fn quantified(name: &str, left: &mut Expr, op: &Op, right: &mut Expr, plain: Op) -> Option<Expr> {
    let mut list: &Expr = right;
    while let Expr::Nested(inner) = list {
        list = inner;
    }
    // Constants in brackets are a list for DataFusion, and it knows ALL of other arrays.
    let theirs = *op == plain && (matches!(list, Expr::Array(_)) || (plain == Op::NotEq && !is_literal(list)));
    if matches!(list, Expr::Subquery(_)) || theirs {
        return None;
    }
    let symbol = match op {
        Op::Eq => "=",
        Op::NotEq => "<>",
        Op::Lt => "<",
        Op::LtEq => "<=",
        Op::Gt => ">",
        Op::GtEq => ">=",
        _ => return None,
    };
    let symbol = Expr::Value(Value::SingleQuotedString(symbol.to_owned()).into());
    Some(call(name, vec![symbol, take(left), take(right)]))
}

/// `x LIKE ANY (ARRAY[..])`: like one of them.
fn like_any(e: &Expr) -> Result<Option<Expr>> {
    let (Expr::Like { pattern, .. } | Expr::ILike { pattern, .. }) = e else { return Ok(None) };
    let mut list: &Expr = pattern;
    while let Expr::Nested(inner) = list {
        list = inner;
    }
    let patterns = match list {
        Expr::Array(a) => a.elem.clone(),
        Expr::Tuple(patterns) => patterns.clone(),
        _ => {
            return Err(SqlError::unsupported("LIKE ANY is supported for ARRAY[..] only"));
        }
    };
    let one = |p: Expr| {
        let mut like = e.clone();
        if let Expr::Like { any, pattern, .. } | Expr::ILike { any, pattern, .. } = &mut like {
            *any = false;
            **pattern = p;
        }
        like
    };
    Ok(Some(all(patterns.into_iter().map(one), Op::Or)))
}

/// Functions whose first argument is `BYTEA`: a literal there is one.
const OF_BYTES: &[&str] = &["encode", "convert_from", "get_byte", "set_byte", "sha224", "sha256", "sha384", "sha512"];

fn function(f: &mut ast::Function) -> Option<Expr> {
    let name = f.name.to_string().to_lowercase();
    let ast::FunctionArguments::List(list) = &mut f.args else { return None };
    if name == "make_interval" {
        named_parts(&mut list.args);
        return None;
    }
    let mut args = list.args.iter_mut().filter_map(|a| match a {
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => Some(e),
        _ => None,
    });
    let first = args.next()?;
    if OF_BYTES.contains(&name.as_str()) && is_literal(first) {
        let bytes = cast_to(take(first), ast::DataType::Bytea);
        *first = bytes;
        return None;
    }
    let second = args.next()?;
    ((name == "substring") && is_literal(second) && args.next().is_none())
        .then(|| call(text::SUBSTRING, vec![take(first), take(second)]))
}

/// `make_interval(days => 10)` with all arguments in their places.
fn named_parts(args: &mut Vec<ast::FunctionArg>) {
    let mut parts: Vec<Option<Expr>> = vec![None; make::PARTS.len()];
    for (i, arg) in args.iter().enumerate() {
        let (at, e) = match arg {
            ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => (Some(i), e),
            ast::FunctionArg::Named { name, arg: ast::FunctionArgExpr::Expr(e), .. }
            | ast::FunctionArg::ExprNamed {
                name: Expr::Identifier(name), arg: ast::FunctionArgExpr::Expr(e), ..
            } => (make::PARTS.iter().position(|p| name.value.eq_ignore_ascii_case(p)), e),
            _ => return,
        };
        // What is no part of an interval gets its error where the function is planned.
        let Some(place) = at.and_then(|at| parts.get_mut(at)) else { return };
        *place = Some(e.clone());
    }
    let plain = |e: Option<Expr>| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e.unwrap_or_else(|| number(0))));
    *args = parts.into_iter().map(plain).collect();
}
