//! Numbers and times while a query is planned: our arithmetic in the place of DataFusion's operators, and types as in Postgres.
//!
//! - An arithmetic operator of two numbers becomes a function of [`crate::functions::arithmetic`], when the text is
//!   planned (so that every type above it is right) or, if a parameter's type was not known then, when it is analysed.
//! - An integer constant beside a smaller integer is an `INT` if it fits, as in Postgres: `smallint_column + 1` is `INT`.
//! - Where a float meets a decimal both become floats. DataFusion would compare them as decimals, and a float may not
//!   fit one.
//! - `extract` and `AT TIME ZONE` are functions of ours, see [`crate::functions`].
//! - A constant with an exponent is a float (SQL calls it approximate), any other with a point is a decimal.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::logical_plan::{Union, Values};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, TypePlanner};
use datafusion::logical_expr::{
    Between, BinaryExpr, Case, Cast, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator,
};
use datafusion::optimizer::AnalyzerRule;
use sqlparser::ast;

use super::from_datafusion;
use crate::error::Result;
use crate::functions::arithmetic::{Arithmetic, negate, operands};
use crate::functions::cast::as_cast;
use crate::functions::datetime::extract;
use crate::types::{timestamp, timestamptz};

/// Functions whose arguments must be of one type.
const ONE_TYPE: &[&str] = &["coalesce", "nullif", "nvl", "nvl2", "greatest", "least"];

/// Functions that are computed in floats.
const OF_FLOATS: &[&str] =
    &["sqrt", "cbrt", "exp", "ln", "log", "log2", "log10", "power", "pow", "trunc", "sin", "cos", "tan", "atan2"];

/// A single expression (DEFAULT, computed column) with the rules that hold in queries.
pub fn plan_expression(state: &SessionState, text: &str, schema: &DFSchema) -> Result<Expr> {
    let dialect = state.config().options().sql_parser.dialect;
    let mut parsed = state.sql_to_expr_with_alias(text, &dialect).map_err(from_datafusion)?;
    plain_syntax(&mut parsed.expr);
    state.create_logical_expr_from_sql_expr(parsed, schema).map_err(from_datafusion)
}

/// Constants with an exponent become floats, `AT TIME ZONE` and its like the functions they stand for, and casts to
/// `VARCHAR(n)` cut.
pub(super) fn plain_syntax<T: ast::VisitMut>(query: &mut T) {
    struct Plain;
    impl ast::VisitorMut for Plain {
        type Break = ();
        fn post_visit_expr(&mut self, e: &mut ast::Expr) -> ControlFlow<()> {
            if let ast::Expr::AtTimeZone { timestamp, time_zone } = e {
                *e = call("timezone", vec![time_zone.as_ref().clone(), timestamp.as_ref().clone()]);
                return ControlFlow::Continue(());
            }
            if let ast::Expr::Cast { kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, data_type, .. } = e
                && let Some(length) = length_of(data_type)
            {
                let length = ast::Expr::Value(ast::Value::Number(length.to_string(), false).into());
                *e = call("left", vec![e.clone(), length]);
                return ControlFlow::Continue(());
            }
            if let ast::Expr::Value(v) = e
                && let ast::Value::Number(text, _) = &v.value
                && text.contains(['e', 'E'])
                && !text.starts_with("0x")
                && !text.starts_with("0X")
            {
                let value = ast::Value::SingleQuotedString(text.replace('_', "")).with_span(v.span);
                *e = ast::Expr::Cast {
                    kind: ast::CastKind::DoubleColon,
                    expr: Box::new(ast::Expr::Value(value)),
                    data_type: ast::DataType::DoublePrecision,
                    array: false,
                    format: None,
                };
            }
            ControlFlow::Continue(())
        }
    }
    super::window_tvf::plain_functions(query);
    // The visitor never breaks.
    let _ = ast::VisitMut::visit(query, &mut Plain);
}

fn call(name: &str, args: Vec<ast::Expr>) -> ast::Expr {
    let arg = |e: ast::Expr| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e));
    let args = ast::FunctionArgumentList {
        duplicate_treatment: None,
        args: args.into_iter().map(arg).collect(),
        clauses: Vec::new(),
    };
    ast::Expr::Function(ast::Function {
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

/// Times have microseconds in queries as in tables.
#[derive(Debug)]
pub(super) struct TypesOfTime;

impl TypePlanner for TypesOfTime {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> DfResult<Option<FieldRef>> {
        use ast::TimezoneInfo as Z;
        let t = match sql_type {
            ast::DataType::Timestamp(_, Z::Tz | Z::WithTimeZone) => timestamptz(),
            ast::DataType::Timestamp(..) | ast::DataType::Datetime(_) => timestamp(),
            ast::DataType::Time(_, Z::None | Z::WithoutTimeZone) => DataType::Time64(TimeUnit::Microsecond),
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", t, true))))
    }
}

/// Plans operators of numbers.
#[derive(Debug)]
pub(super) struct NumberOperators;

impl ExprPlanner for NumberOperators {
    fn plan_binary_op(&self, e: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let Some(op) = operator(&e.op) else { return Ok(PlannerResult::Original(e)) };
        Ok(match binary(op, &e.left, &e.right, schema, true) {
            Some(ours) => PlannerResult::Planned(ours),
            None => PlannerResult::Original(e),
        })
    }

    fn plan_extract(&self, args: Vec<Expr>) -> DfResult<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(extract()), args))))
    }
}

fn operator(op: &ast::BinaryOperator) -> Option<Operator> {
    use ast::BinaryOperator as B;
    Some(match op {
        B::Plus => Operator::Plus,
        B::Minus => Operator::Minus,
        B::Multiply => Operator::Multiply,
        B::Divide => Operator::Divide,
        B::Modulo => Operator::Modulo,
        B::Eq => Operator::Eq,
        B::NotEq => Operator::NotEq,
        B::Lt => Operator::Lt,
        B::LtEq => Operator::LtEq,
        B::Gt => Operator::Gt,
        B::GtEq => Operator::GtEq,
        _ => return None,
    })
}

/// What stands for an operator of numbers; `None` if it can stay. With `from_text`, constants have no type of their own
/// yet.
fn binary(op: Operator, left: &Expr, right: &Expr, schema: &DFSchema, from_text: bool) -> Option<Expr> {
    let (lt, rt) = (type_of(left, schema)?, type_of(right, schema)?);
    let Some(arithmetic) = Arithmetic::of(op) else {
        let comparison =
            op.supports_propagation() || matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom);
        let mixed = mixes([&lt, &rt]);
        return (comparison && mixed).then(|| {
            let (l, r) = (as_float(left.clone(), &lt), as_float(right.clone(), &rt));
            Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)))
        });
    };
    if matches!((&lt, &rt), (DataType::Interval(_), t) | (t, DataType::Interval(_)) if t.is_decimal()) {
        let (l, r) = (as_float(left.clone(), &lt), as_float(right.clone(), &rt));
        return Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r))));
    }
    let number = |t: &DataType| t.is_numeric() || t.is_null();
    if !number(&lt) || !number(&rt) || (lt.is_null() && rt.is_null()) {
        return None;
    }
    let (l, r) = match from_text {
        true => (constant_beside(left, &rt), constant_beside(right, &lt)),
        false => (left.clone(), right.clone()),
    };
    arithmetic.types(&type_of(&l, schema)?, &type_of(&r, schema)?)?;
    Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(arithmetic.function()), vec![l, r])))
}

/// The type, without making up a name for every operand of a long chain of operators on the way.
fn type_of(e: &Expr, schema: &DFSchema) -> Option<DataType> {
    match operands(e) {
        Some((op, l, r)) => op.types(&type_of(l, schema)?, &type_of(r, schema)?).map(|t| t.2),
        None => e.get_type(schema).ok(),
    }
}

/// A constant integer of the text in the smallest type it has beside an operand of another type.
fn constant_beside(e: &Expr, other: &DataType) -> Expr {
    let Expr::Literal(ScalarValue::Int64(Some(v)), metadata) = e else { return e.clone() };
    let narrow = if other.is_decimal() {
        let digits = v.unsigned_abs().checked_ilog10().unwrap_or(0) as u8 + 1;
        ScalarValue::Decimal128(Some(i128::from(*v)), digits, 0)
    } else if other.is_signed_integer()
        && let Ok(v) = i32::try_from(*v)
    {
        ScalarValue::Int32(Some(v))
    } else {
        return e.clone();
    };
    Expr::Literal(narrow, metadata.clone())
}

/// True if there are floats and decimals among the types.
fn mixes<'a>(types: impl IntoIterator<Item = &'a DataType>) -> bool {
    let (mut floats, mut decimals) = (false, false);
    for t in types {
        floats |= t.is_floating();
        decimals |= t.is_decimal();
    }
    floats && decimals
}

/// A decimal as a float; constants exactly as their text would be read.
fn as_float(e: Expr, t: &DataType) -> Expr {
    if !t.is_decimal() {
        return e;
    }
    match decimal_constant(&e) {
        Some((value, metadata)) => Expr::Literal(ScalarValue::Float64(Some(value)), metadata),
        None => Expr::Cast(Cast::new(Box::new(e), DataType::Float64)),
    }
}

fn decimal_constant(e: &Expr) -> Option<(f64, Option<FieldMetadata>)> {
    let Expr::Literal(value, metadata) = e else { return None };
    if !value.data_type().is_decimal() || value.is_null() {
        return None;
    }
    let array = value.to_array().ok()?;
    let text = arrow::util::display::array_value_to_string(&array, 0).ok()?;
    Some((text.parse().ok()?, metadata.clone()))
}

/// Expressions that are left for analysis; see the module.
#[derive(Debug)]
pub(super) struct NumberRewrite;

impl FunctionRewrite for NumberRewrite {
    fn name(&self) -> &str {
        "numbers"
    }

    fn rewrite(&self, e: Expr, schema: &DFSchema, _: &ConfigOptions) -> DfResult<Transformed<Expr>> {
        let new = match &e {
            Expr::BinaryExpr(b) => binary(b.op, &b.left, &b.right, schema, false),
            Expr::Negative(x) => match x.get_type(schema) {
                Ok(t) if t.is_numeric() => {
                    Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(negate()), vec![x.as_ref().clone()])))
                }
                _ => None,
            },
            Expr::Literal(value, metadata) => plain_constant(value).map(|v| Expr::Literal(v, metadata.clone())),
            Expr::Between(b) => uniform([&*b.expr, &*b.low, &*b.high], schema).and_then(|all| {
                let [expr, low, high] = all.try_into().ok()?;
                Some(Expr::Between(Between::new(Box::new(expr), b.negated, Box::new(low), Box::new(high))))
            }),
            Expr::InList(l) => uniform(std::iter::once(&*l.expr).chain(&l.list), schema).map(|mut all| {
                let list = all.split_off(1);
                let expr = all.pop().map_or_else(|| l.expr.clone(), Box::new);
                Expr::InList(InList::new(expr, list, l.negated))
            }),
            Expr::Case(case) => rewrite_case(case, schema),
            Expr::ScalarFunction(f) if ONE_TYPE.contains(&f.name()) => {
                uniform(&f.args, schema).map(|args| with_args(f, args))
            }
            Expr::ScalarFunction(f) if OF_FLOATS.contains(&f.name()) => {
                floats(&f.args, schema).map(|args| with_args(f, args))
            }
            Expr::AggregateFunction(a) => {
                // Fractions of percentiles.
                let fixed: Vec<Expr> = a.params.args.iter().enumerate().map(|(i, e)| constant_fraction(i, e)).collect();
                (fixed != a.params.args).then(|| {
                    let mut new: AggregateFunction = a.clone();
                    new.params.args = fixed;
                    Expr::AggregateFunction(new)
                })
            }
            _ => None,
        };
        Ok(match new {
            Some(new) => Transformed::yes(new),
            None => Transformed::no(e),
        })
    }
}

fn with_args(f: &ScalarFunction, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&f.func), args))
}

fn constant_fraction(i: usize, e: &Expr) -> Expr {
    match decimal_constant(e) {
        Some((v, metadata)) if i > 0 => Expr::Literal(ScalarValue::Float64(Some(v)), metadata),
        _ => e.clone(),
    }
}

/// Constants of types that only constants have: integers beyond `BIGINT`, and decimals with a negative scale.
fn plain_constant(value: &ScalarValue) -> Option<ScalarValue> {
    match value {
        ScalarValue::UInt64(Some(v)) if *v > i64::MAX as u64 => {
            Some(ScalarValue::Decimal128(Some(i128::from(*v)), 20, 0))
        }
        ScalarValue::Decimal128(Some(v), p, s) if *s < 0 => {
            let zeros = s.unsigned_abs();
            let v = v.checked_mul(10i128.checked_pow(u32::from(zeros))?)?;
            let p = p.checked_add(zeros).filter(|p| *p <= 38)?;
            Some(ScalarValue::Decimal128(Some(v), p, 0))
        }
        _ => None,
    }
}

fn types_of<'a>(all: impl Iterator<Item = &'a Expr>, schema: &DFSchema) -> Option<Vec<DataType>> {
    all.map(|e| e.get_type(schema).ok()).collect()
}

/// All of them without decimals, if there are floats as well.
fn uniform<'a>(all: impl IntoIterator<Item = &'a Expr, IntoIter: Clone>, schema: &DFSchema) -> Option<Vec<Expr>> {
    let all = all.into_iter();
    let types = types_of(all.clone(), schema)?;
    mixes(&types).then(|| all.zip(&types).map(|(e, t)| as_float(e.clone(), t)).collect())
}

/// All of them without decimals, if there are any.
fn floats(all: &[Expr], schema: &DFSchema) -> Option<Vec<Expr>> {
    let types = types_of(all.iter(), schema)?;
    types
        .iter()
        .any(DataType::is_decimal)
        .then(|| all.iter().zip(&types).map(|(e, t)| as_float(e.clone(), t)).collect())
}

fn rewrite_case(case: &Case, schema: &DFSchema) -> Option<Expr> {
    let results: Vec<&Expr> =
        case.when_then_expr.iter().map(|(_, then)| &**then).chain(case.else_expr.as_deref()).collect();
    let compared: Vec<&Expr> = match &case.expr {
        Some(e) => std::iter::once(&**e).chain(case.when_then_expr.iter().map(|(when, _)| &**when)).collect(),
        None => Vec::new(),
    };
    let (results, compared) = (uniform(results, schema), uniform(compared, schema));
    if results.is_none() && compared.is_none() {
        return None;
    }
    let mut new = case.clone();
    if let Some(results) = results {
        let mut results = results.into_iter();
        for ((_, then), result) in new.when_then_expr.iter_mut().zip(results.by_ref()) {
            **then = result;
        }
        if let (Some(e), Some(result)) = (&mut new.else_expr, results.next()) {
            **e = result;
        }
    }
    if let Some(compared) = compared {
        let mut compared = compared.into_iter();
        if let (Some(e), Some(operand)) = (&mut new.expr, compared.next()) {
            **e = operand;
        }
        for ((when, _), value) in new.when_then_expr.iter_mut().zip(compared) {
            **when = value;
        }
    }
    Some(Expr::Case(new))
}

/// Columns of UNION and VALUES in which floats meet decimals are floats.
#[derive(Debug)]
pub(super) struct MixedColumns;

impl AnalyzerRule for MixedColumns {
    fn name(&self) -> &str {
        "mixed_columns"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let done = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Union(u) => union(u),
            LogicalPlan::Values(v) => values(v),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(done.data)
    }
}

fn union(u: Union) -> DfResult<Transformed<LogicalPlan>> {
    let columns = u.schema.fields().len();
    let of = |input: &LogicalPlan, i: usize| input.schema().field(i).data_type().clone();
    let same_width = u.inputs.iter().all(|i| i.schema().fields().len() == columns);
    let mixed: Vec<bool> = (0..columns)
        .map(|i| same_width && mixes(&u.inputs.iter().map(|input| of(input, i)).collect::<Vec<_>>()))
        .collect();
    if !mixed.contains(&true) {
        return Ok(Transformed::no(LogicalPlan::Union(u)));
    }
    let mut inputs = Vec::with_capacity(u.inputs.len());
    for input in &u.inputs {
        let exprs = input.schema().iter().enumerate().map(|(i, (qualifier, field))| {
            let column = Expr::from((qualifier, field));
            match mixed[i] && field.data_type().is_decimal() {
                true => as_float(column, field.data_type()).alias_qualified(qualifier.cloned(), field.name()),
                false => column,
            }
        });
        let exprs: Vec<Expr> = exprs.collect();
        inputs.push(Arc::new(LogicalPlanBuilder::from(input.as_ref().clone()).project(exprs)?.build()?));
    }
    Ok(Transformed::yes(LogicalPlan::Union(Union { inputs, schema: u.schema })))
}

fn values(v: Values) -> DfResult<Transformed<LogicalPlan>> {
    let empty = DFSchema::empty();
    // DataFusion has cast every value to the common type it chose.
    let bare = |e: &Expr| match as_cast(e.clone().unalias()) {
        Ok(Expr::Cast(c)) | Err(Expr::Cast(c)) if c.field.data_type().is_decimal() => c.expr.as_ref().clone(),
        _ => e.clone().unalias(),
    };
    let mut mixed = Vec::new();
    for (i, field) in v.schema.fields().iter().enumerate() {
        let floating = |row: &Vec<Expr>| bare(&row[i]).get_type(&empty).is_ok_and(|t| t.is_floating());
        if field.data_type().is_decimal() && v.values.iter().any(floating) {
            mixed.push(i);
        }
    }
    if mixed.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Values(v)));
    }
    let mut rows = v.values;
    for row in &mut rows {
        for i in &mixed {
            let value = bare(&row[*i]);
            let t = value.get_type(&empty)?;
            row[*i] = if t == DataType::Float64 { value } else { as_float_constant(value, &t) };
        }
    }
    let fields = v.schema.fields().iter().enumerate().map(|(i, f)| match mixed.contains(&i) {
        true => Arc::new(f.as_ref().clone().with_data_type(DataType::Float64)),
        false => Arc::clone(f),
    });
    let schema = DFSchema::from_unqualified_fields(fields.collect(), Default::default())?;
    Ok(Transformed::yes(LogicalPlan::Values(Values { schema: Arc::new(schema), values: rows })))
}

fn as_float_constant(value: Expr, t: &DataType) -> Expr {
    match t.is_decimal() {
        true => as_float(value, t),
        false => Expr::Cast(Cast::new(Box::new(value), DataType::Float64)),
    }
}
