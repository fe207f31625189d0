//! Queries in words that the planner has: rewriting of the syntax tree.
//!
//! - `EXCEPT ALL` and `INTERSECT ALL` as marked unions, see [`set_op`].
//! - `(a, b) IN (subquery)` as EXISTS: the planner knows one column only.
//! - A function in FROM has the name of its alias as its column; one with arguments that are columns is an UNNEST.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, Select, SetExpr, SetOperator,
    SetQuantifier, TableAlias, TableAliasColumnDef, TableFactor, UnaryOperator, Value, VisitMut, VisitorMut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::decorrelate::set_op;
use crate::error::{Result, SqlError};
use crate::plan::SetOpKind;

/// See the module.
pub(super) fn rewrite(query: &mut Query) -> Result<()> {
    match query.visit(&mut Rewriter) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewriter;

fn flow(result: Result<()>) -> ControlFlow<SqlError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => ControlFlow::Break(e),
    }
}

impl VisitorMut for Rewriter {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        flow(set_operations(&mut query.body))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        match &mut select.selection {
            Some(condition) => flow(row_conditions(condition)),
            None => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<SqlError> {
        flow(row_value(e))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        table_function(factor);
        ControlFlow::Continue(())
    }
}

/// Parses a query of ours.
pub(super) fn template(sql: &str) -> Result<Query> {
    let bad = || SqlError::internal("a rewritten query does not parse");
    match Parser::parse_sql(&PostgreSqlDialect {}, sql).map_err(|_| bad())?.pop() {
        Some(ast::Statement::Query(q)) => Ok(*q),
        _ => Err(bad()),
    }
}

fn set_operations(body: &mut SetExpr) -> Result<()> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return Ok(()) };
    set_operations(left)?;
    set_operations(right)?;
    let kind = match (&op, &set_quantifier) {
        (SetOperator::Except | SetOperator::Minus, SetQuantifier::All) => SetOpKind::ExceptAll,
        (SetOperator::Intersect, SetQuantifier::All) => SetOpKind::IntersectAll,
        _ => return Ok(()),
    };
    for (side, name) in [(left, "l"), (right, "r")] {
        let mut named = template(&format!("SELECT * FROM (SELECT 1) AS \"{}\"", set_op::marker(kind, name)))?;
        let inner = std::mem::replace(
            side.as_mut(),
            SetExpr::Values(ast::Values { explicit_row: false, value_keyword: false, rows: Vec::new() }),
        );
        let inner = match inner {
            SetExpr::Query(q) => q,
            other => {
                let mut q = template("SELECT 1")?;
                *q.body = other;
                Box::new(q)
            }
        };
        if let SetExpr::Select(select) = named.body.as_mut()
            && let Some(from) = select.from.first_mut()
            && let TableFactor::Derived { subquery, .. } = &mut from.relation
        {
            *subquery = inner;
        }
        **side = *named.body;
    }
    *op = SetOperator::Union;
    *set_quantifier = SetQuantifier::All;
    Ok(())
}

/// `(a, b) IN (subquery)` and its like.
struct RowTest {
    row: Vec<Expr>,
    subquery: Box<Query>,
    negated: bool,
}

impl RowTest {
    fn of(e: &Expr) -> Option<Self> {
        let row = |e: &Expr| match e {
            Expr::Tuple(row) if row.len() > 1 => Some(row.clone()),
            _ => None,
        };
        let subquery = |e: &Expr| match e {
            Expr::Subquery(q) => Some(q.clone()),
            _ => None,
        };
        Some(match e {
            Expr::InSubquery { expr, subquery, negated } => {
                Self { row: row(expr)?, subquery: subquery.clone(), negated: *negated }
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                Self { row: row(left)?, subquery: subquery(right)?, negated: false }
            }
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                Self { row: row(left)?, subquery: subquery(right)?, negated: true }
            }
            _ => return None,
        })
    }

    /// EXISTS a row of the subquery that equals ours; with `maybe` one of which that is not known to be wrong.
    fn exists(&self, maybe: bool, negated: bool) -> Result<Expr> {
        let names: Vec<String> = (0..self.row.len()).map(|i| format!("__r{i}")).collect();
        let mut query = template(&format!("SELECT 1 FROM (SELECT 1) AS __row({})", names.join(", ")))?;
        let mut condition: Option<Expr> = None;
        for (x, name) in self.row.iter().zip(&names) {
            let column = Expr::CompoundIdentifier(vec![Ident::new("__row"), Ident::new(name)]);
            let same = Expr::BinaryOp { left: Box::new(x.clone()), op: BinaryOperator::Eq, right: Box::new(column) };
            let same = if maybe { Expr::IsNotFalse(Box::new(same)) } else { same };
            condition = Some(match condition {
                None => same,
                Some(c) => Expr::BinaryOp { left: Box::new(c), op: BinaryOperator::And, right: Box::new(same) },
            });
        }
        if let SetExpr::Select(select) = query.body.as_mut() {
            select.selection = condition;
            if let Some(from) = select.from.first_mut()
                && let TableFactor::Derived { subquery, .. } = &mut from.relation
            {
                *subquery = self.subquery.clone();
            }
        }
        Ok(Expr::Exists { subquery: Box::new(query), negated })
    }
}

/// Rows in conditions of WHERE: only whether the condition is true counts.
fn row_conditions(e: &mut Expr) -> Result<()> {
    match e {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            row_conditions(left)?;
            row_conditions(right)?;
        }
        Expr::Nested(inner) => row_conditions(inner)?,
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            if let Some(mut test) = RowTest::of(expr) {
                test.negated = !test.negated;
                *e = test.exists(test.negated, test.negated)?;
            }
        }
        _ => {
            if let Some(test) = RowTest::of(e) {
                *e = test.exists(test.negated, test.negated)?;
            }
        }
    }
    Ok(())
}

/// A row anywhere else: true, false or NULL.
fn row_value(e: &mut Expr) -> Result<()> {
    let Some(test) = RowTest::of(e) else { return Ok(()) };
    let mut query = template("SELECT CASE WHEN true THEN true WHEN true THEN CAST(NULL AS BOOLEAN) ELSE false END")?;
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let Some(ast::SelectItem::UnnamedExpr(mut value)) = select.projection.pop() else { return Ok(()) };
    if let Expr::Case { conditions, else_result, .. } = &mut value {
        let boolean = |b: bool| Expr::value(Value::Boolean(b));
        if let [is, maybe] = conditions.as_mut_slice() {
            is.condition = test.exists(false, false)?;
            is.result = boolean(!test.negated);
            maybe.condition = test.exists(true, false)?;
        }
        *else_result = Some(Box::new(boolean(test.negated)));
    }
    *e = Expr::Nested(Box::new(value));
    Ok(())
}

/// Functions in FROM whose rows are the elements of a list.
const SERIES: [&str; 2] = ["generate_series", "range"];

fn table_function(factor: &mut TableFactor) {
    let call = match factor {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            Some((name.clone(), args.args.clone(), alias.clone(), *with_ordinality))
        }
        TableFactor::Function { name, args, alias, with_ordinality, .. } => {
            Some((name.clone(), args.clone(), alias.clone(), *with_ordinality))
        }
        _ => None,
    };
    if let Some((name, args, alias, with_ordinality)) = call {
        let word = name.to_string().to_lowercase();
        let lists = if word == "unnest" {
            args.iter().map(argument).collect()
        } else if SERIES.contains(&word.as_str())
            && (with_ordinality || short(&args) || args.iter().any(reads_columns) || steps_in_time(&args))
        {
            Some(vec![function(name, args)])
        } else {
            None
        };
        if let Some(array_exprs) = lists {
            *factor = TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_offset_alias: None,
                with_ordinality,
            };
        }
    }
    // A series of constants is a table function of DataFusion, with a name of its own for its column.
    if let TableFactor::Table { name, args: Some(_), alias, .. } | TableFactor::Function { name, alias, .. } = factor
        && let word = name.to_string().to_lowercase()
        && SERIES.contains(&word.as_str())
    {
        let alias = alias.get_or_insert_with(|| TableAlias {
            explicit: true,
            name: Ident::new(word),
            columns: Vec::new(),
            at: None,
        });
        if alias.columns.is_empty() {
            alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
        }
    }
    let TableFactor::UNNEST { alias, array_exprs, with_ordinality, .. } = factor else { return };
    // The column of a function of one column is called like the function's alias.
    if let (Some(TableAlias { name, columns, .. }), [_]) = (alias.as_mut(), array_exprs.as_slice()) {
        let column = |name: Ident| TableAliasColumnDef { name, data_type: None };
        if columns.is_empty() {
            columns.push(column(name.clone()));
        }
        if *with_ordinality && columns.len() == 1 {
            columns.push(column(Ident::new("ordinality")));
        }
    }
    // The numbers of a list's elements are the elements of another list.
    if *with_ordinality && let ([list], Some(_)) = (array_exprs.as_slice(), alias) {
        let length = function(ObjectName::from(vec![Ident::new("array_length")]), vec![unnamed(list.clone())]);
        let none = function(
            ObjectName::from(vec![Ident::new("coalesce")]),
            vec![unnamed(length), unnamed(Expr::value(Value::Number("0".into(), false)))],
        );
        let one = Expr::value(Value::Number("1".into(), false));
        let big = Expr::Cast {
            kind: ast::CastKind::Cast,
            expr: Box::new(none),
            data_type: ast::DataType::BigInt(None),
            array: false,
            format: None,
        };
        let numbers = function(ObjectName::from(vec![Ident::new("generate_series")]), vec![unnamed(one), unnamed(big)]);
        array_exprs.push(numbers);
        *with_ordinality = false;
    }
}

/// A series of constants that may as well be a list: views know lists, and not DataFusion's table functions.
fn short(args: &[FunctionArg]) -> bool {
    const ELEMENTS_MAX: u64 = 65_536;
    fn whole(e: &Expr) -> Option<i64> {
        match e {
            Expr::Value(v) => match &v.value {
                Value::Number(text, _) => text.parse().ok(),
                _ => None,
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => whole(expr).and_then(i64::checked_neg),
            _ => None,
        }
    }
    let bounds: Option<Vec<i64>> = args.iter().map(|a| argument(a).as_ref().and_then(whole)).collect();
    matches!(bounds.as_deref(), Some([from, to, ..]) if from.abs_diff(*to) < ELEMENTS_MAX)
}

/// A series of times, which DataFusion's table function has in another unit only.
fn steps_in_time(args: &[FunctionArg]) -> bool {
    args.iter().any(|a| matches!(argument(a), Some(Expr::Interval(_))))
}

fn argument(arg: &FunctionArg) -> Option<Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
        _ => None,
    }
}

fn unnamed(e: Expr) -> FunctionArg {
    FunctionArg::Unnamed(FunctionArgExpr::Expr(e))
}

fn function(name: ObjectName, args: Vec<FunctionArg>) -> Expr {
    let args = ast::FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    Expr::Function(ast::Function {
        name,
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn reads_columns(arg: &FunctionArg) -> bool {
    let mut found = false;
    let _ = ast::visit_expressions(arg, |e: &Expr| {
        found |= matches!(e, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        ControlFlow::<()>::Continue(())
    });
    found
}
