//! Expressions of DEFINE and MEASURES.
//!
//! Whatever names a row of the match (`A.price`, `LAST(A.price, 1)`, `PREV(price)`, `sum(A.price)`, `CLASSIFIER()`)
//! becomes a [`Slot`], and a column `c0, c1, ..` in its place. Arguments that are more than a column are computed
//! beside the relation's columns, once a row.

use std::ops::ControlFlow;

use datafusion::common::Column;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Spanned, Value, VisitMut, VisitorMut,
};

use super::clauses::Clauses;
use super::planner::{located, user};
use super::{Place, Slot, Variables};
use crate::error::{SqlError, SqlState};
use crate::parse::matches::{FINAL, RUNNING};
use crate::plan::SortColumn;

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clause {
    Define,
    Measures,
}

/// A reference to columns of other variables than those before it.
const INVALID_REFERENCE: SqlState = SqlState("42P10");

/// See the module.
pub(super) struct Binder<'a> {
    pub(super) context: &'a mut dyn RelationPlannerContext,
    clauses: &'a Clauses,
    input: &'a LogicalPlan,
    /// Columns after those of the relation.
    pub(super) computed: Vec<Expr>,
    /// Aggregates over columns `c0, c1, ..`.
    pub(super) calls: Vec<Expr>,
    pub(super) slots: Vec<Slot>,
    /// ORDER BY, for MATCH_ROWTIME().
    pub(super) order: Vec<SortColumn>,
}

/// An identifier: lower case unless quoted.
pub(super) fn folded(i: &Ident) -> String {
    if i.quote_style.is_some() { i.value.clone() } else { i.value.to_ascii_lowercase() }
}

impl<'a> Binder<'a> {
    pub(super) fn new(
        context: &'a mut dyn RelationPlannerContext,
        clauses: &'a Clauses,
        input: &'a LogicalPlan,
    ) -> Self {
        Self { context, clauses, input, computed: Vec::new(), calls: Vec::new(), slots: Vec::new(), order: Vec::new() }
    }

    fn width(&self) -> usize {
        self.input.schema().fields().len()
    }

    pub(super) fn partition_column(&mut self, e: ast::Expr) -> Result<usize> {
        let span = e.span();
        let column = self.row_value(e, span)?;
        if column >= self.width() {
            return Err(located(
                SqlError::unsupported("PARTITION BY of MATCH_RECOGNIZE takes columns only")
                    .hint("Compute the expression in a subquery in FROM."),
                span,
            ));
        }
        Ok(column)
    }

    pub(super) fn order_column(&mut self, o: ast::OrderByExpr) -> Result<SortColumn> {
        let span = o.expr.span();
        if matches!(o.expr, ast::Expr::Value(_)) {
            let e = SqlError::new(SqlState::SYNTAX_ERROR, "ORDER BY of MATCH_RECOGNIZE takes columns of its input");
            return Err(located(e, span));
        }
        let column = self.row_value(o.expr, span)?;
        let descending = o.options.asc == Some(false);
        Ok(SortColumn { column, descending, nulls_first: o.options.nulls_first.unwrap_or(descending) })
    }

    /// The input column that has an expression over one row; a new one if there is none.
    fn row_value(&mut self, e: ast::Expr, span: sqlparser::tokenizer::Span) -> Result<usize> {
        let planned = self.context.sql_to_expr(e, self.input.schema())?;
        self.column_of(planned, span)
    }

    fn column_of(&mut self, e: Expr, span: sqlparser::tokenizer::Span) -> Result<usize> {
        let e = e.unalias();
        if e.contains_outer() {
            return Err(located(
                SqlError::unsupported("MATCH_RECOGNIZE cannot read columns of an outer query")
                    .hint("Join the outer query with the result of MATCH_RECOGNIZE."),
                span,
            ));
        }
        if let Expr::Column(c) = &e {
            return self.input.schema().index_of_column(c);
        }
        let found = self.computed.iter().position(|c| *c == e);
        let i = found.unwrap_or_else(|| {
            self.computed.push(e);
            self.computed.len() - 1
        });
        Ok(self.width() + i)
    }

    /// The expression over slots.
    pub(super) fn outer(&mut self, mut e: ast::Expr, clause: Clause) -> Result<ast::Expr> {
        let mut visitor = Outer { binder: self, clause };
        match e.visit(&mut visitor) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(e),
        }
    }

    fn slot(&mut self, slot: Slot) -> ast::Expr {
        let found = self.slots.iter().position(|s| *s == slot);
        let i = found.unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        });
        ast::Expr::Identifier(Ident::new(format!("c{i}")))
    }

    /// What stands for an expression if that names rows of the match.
    fn replacement(&mut self, e: &ast::Expr, clause: Clause) -> Result<Option<ast::Expr>> {
        Ok(Some(match e {
            ast::Expr::Identifier(_) => self.navigated(e, None, false)?,
            ast::Expr::CompoundIdentifier(_) => self.navigated(e, None, false)?,
            ast::Expr::Function(f) => return self.function(e, f, clause, false),
            ast::Expr::Subquery(_)
            | ast::Expr::Exists { .. }
            | ast::Expr::InSubquery { .. }
            | ast::Expr::AnyOp { .. }
            | ast::Expr::AllOp { .. } => {
                let any_list = match e {
                    ast::Expr::AnyOp { right, .. } | ast::Expr::AllOp { right, .. } => {
                        !matches!(right.as_ref(), ast::Expr::Subquery(_))
                    }
                    _ => false,
                };
                if any_list {
                    return Ok(None);
                }
                return Err(located(
                    SqlError::unsupported("a subquery inside of MATCH_RECOGNIZE is not supported")
                        .hint("Join its result to the relation before MATCH_RECOGNIZE."),
                    e.span(),
                ));
            }
            _ => return Ok(None),
        }))
    }

    fn function(&mut self, e: &ast::Expr, f: &ast::Function, clause: Clause, whole: bool) -> Result<Option<ast::Expr>> {
        let Some(name) = plain_name(&f.name) else { return Ok(None) };
        let span = e.span();
        let syntax = |message: String| located(SqlError::new(SqlState::SYNTAX_ERROR, message), span);
        match name.as_str() {
            RUNNING | FINAL => {
                let whole = name == FINAL;
                if whole && clause == Clause::Define {
                    let e = SqlError::new(SqlState::SYNTAX_ERROR, "FINAL cannot be used in DEFINE")
                        .hint("A condition sees the rows that are mapped so far.");
                    return Err(located(e, span));
                }
                let args = expressions(f);
                let Some([inner]) = args.as_deref() else {
                    return Err(syntax("RUNNING and FINAL stand before one function".into()));
                };
                let replaced = match inner {
                    ast::Expr::Function(g) => self.function(inner, g, clause, whole)?,
                    _ => None,
                };
                let refused = || syntax("RUNNING and FINAL stand before FIRST, LAST or an aggregate".into());
                replaced.ok_or_else(refused).map(Some)
            }
            "prev" | "next" | "first" | "last" | "classifier" => self.navigated(e, Some(f), whole).map(Some),
            "match_number" => {
                if !expressions(f).is_some_and(|a| a.is_empty()) {
                    return Err(syntax("MATCH_NUMBER() takes no arguments".into()));
                }
                Ok(Some(self.slot(Slot::Number)))
            }
            "match_rowtime" => self.match_rowtime(f, span).map(Some),
            "match_proctime" => Err(located(
                SqlError::unsupported("MATCH_PROCTIME() is not supported")
                    .hint("Use MATCH_ROWTIME(), the time of the last row of the match."),
                span,
            )),
            _ if f.over.is_some() => {
                let e = SqlError::unsupported("a window function inside of MATCH_RECOGNIZE is not supported")
                    .hint("Compute it in a subquery in FROM.");
                Err(located(e, span))
            }
            _ if self.context.context_provider().get_aggregate_meta(&name).is_some() => {
                self.aggregate(f, whole, span).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The time of the last row of the match.
    fn match_rowtime(&mut self, f: &ast::Function, span: sqlparser::tokenizer::Span) -> Result<ast::Expr> {
        let column = match expressions(f).as_deref() {
            Some([]) => match self.order.first() {
                Some(o) => o.column,
                None => {
                    let e = SqlError::new(SqlState::SYNTAX_ERROR, "MATCH_ROWTIME() needs an ORDER BY");
                    return Err(located(e, span));
                }
            },
            Some([e]) => self.row_value(e.clone(), span)?,
            _ => {
                let e = SqlError::new(SqlState::SYNTAX_ERROR, "MATCH_ROWTIME() takes up to one argument");
                return Err(located(e, span));
            }
        };
        let place = Place { of: Vec::new(), first: false, offset: 0, whole: true };
        Ok(self.slot(Slot::Value { column, place, shift: 0 }))
    }

    /// A reference to one row: `PREV(FIRST(A.x, 1), 2)` and its parts.
    fn navigated(&mut self, e: &ast::Expr, f: Option<&ast::Function>, whole: bool) -> Result<ast::Expr> {
        let span = e.span();
        let wrong = |message: &str| located(SqlError::new(SqlState::SYNTAX_ERROR, message.to_owned()), span);
        let (mut whole, mut shift) = (whole, 0i64);
        let (mut first, mut offset) = (false, 0u64);
        let mut inner = e.clone();
        if let Some((name, value, n)) = call(f, &inner, span)?
            && matches!(name.as_str(), "prev" | "next")
        {
            if whole {
                return Err(wrong("FINAL cannot stand before PREV or NEXT"));
            }
            let n = n.unwrap_or(1);
            let n = i64::try_from(n).map_err(|_| wrong("the offset of PREV or NEXT is too large"))?;
            shift = if name == "prev" { -n } else { n };
            inner = value;
            // RUNNING and FINAL may stand before the function inside.
            if let ast::Expr::Function(g) = &inner
                && let Some(word) = plain_name(&g.name).filter(|w| [RUNNING, FINAL].contains(&w.as_str()))
                && let Some([only]) = expressions(g).as_deref()
            {
                whole = word == FINAL;
                inner = only.clone();
            }
        }
        if let ast::Expr::Function(g) = &inner
            && let Some((name, value, n)) = call(Some(g), &inner, span)?
        {
            if matches!(name.as_str(), "prev" | "next") {
                return Err(wrong("PREV and NEXT cannot be inside of one another"));
            }
            first = name == "first";
            offset = n.unwrap_or(0);
            inner = value;
        }
        if let ast::Expr::Function(g) = &inner
            && plain_name(&g.name).as_deref() == Some("classifier")
        {
            let of = match expressions(g).as_deref() {
                Some([]) => Vec::new(),
                Some([ast::Expr::Identifier(v)]) => self.variables(v)?,
                _ => return Err(wrong("CLASSIFIER takes up to one variable")),
            };
            return Ok(self.slot(Slot::Classifier { place: Place { of, first, offset, whole }, shift }));
        }
        let (inner, of) = self.over_row(inner)?;
        let column = self.row_value(inner, span)?;
        Ok(self.slot(Slot::Value { column, place: Place { of, first, offset, whole }, shift }))
    }

    fn variables(&self, name: &Ident) -> Result<Variables> {
        let word = folded(name);
        self.clauses.named(&word).ok_or_else(|| {
            let message = format!("\"{word}\" is not a variable of the pattern");
            located(SqlError::new(SqlState::UNDEFINED_OBJECT, message), name.span)
        })
    }

    /// The expression without the names of variables before its columns, and the rows these name.
    fn over_row(&mut self, mut e: ast::Expr) -> Result<(ast::Expr, Variables)> {
        let mut reader = OverRow { binder: self, of: None };
        if let ControlFlow::Break(error) = e.visit(&mut reader) {
            return Err(error);
        }
        let of = reader.of.unwrap_or_default();
        Ok((e, of))
    }

    fn aggregate(&mut self, f: &ast::Function, whole: bool, span: sqlparser::tokenizer::Span) -> Result<ast::Expr> {
        let refused = |what: &str| {
            let e = SqlError::unsupported(format!("{what} in an aggregate inside of MATCH_RECOGNIZE is not supported"))
                .hint("Its rows are seen in the order of the match.");
            Err(located(e, span))
        };
        let mut call = f.clone();
        if call.filter.is_some() {
            return refused("FILTER");
        }
        if !call.within_group.is_empty() {
            return refused("WITHIN GROUP");
        }
        let mut of: Option<Variables> = None;
        if let FunctionArguments::List(list) = &mut call.args {
            if !list.clauses.is_empty() {
                return refused("ORDER BY");
            }
            for arg in &mut list.args {
                let (FunctionArg::Unnamed(value)
                | FunctionArg::Named { arg: value, .. }
                | FunctionArg::ExprNamed { arg: value, .. }) = arg;
                // COUNT(A.*)
                if let FunctionArgExpr::QualifiedWildcard(name) = &*value
                    && let [part] = name.0.as_slice()
                    && let Some(variable) = part.as_ident()
                {
                    let rows = self.variables(variable)?;
                    self.agree(&mut of, rows, span)?;
                    *value = FunctionArgExpr::Wildcard;
                    continue;
                }
                if let FunctionArgExpr::Expr(e) = value {
                    let mut reader = OverRow { binder: self, of: of.take() };
                    if let ControlFlow::Break(error) = e.visit(&mut reader) {
                        return Err(error);
                    }
                    of = reader.of;
                }
            }
        }
        let planned = self.context.sql_to_expr(ast::Expr::Function(call), self.input.schema())?;
        let Expr::AggregateFunction(mut planned) = planned.unalias_nested().data else {
            return refused("a function of this form");
        };
        for arg in &mut planned.params.args {
            if !matches!(arg, Expr::Literal(..)) {
                let column = self.column_of(arg.clone(), span)?;
                *arg = Expr::Column(Column::new_unqualified(format!("c{column}")));
            }
        }
        let planned = Expr::AggregateFunction(planned);
        let found = self.calls.iter().position(|c| *c == planned);
        let call = found.unwrap_or_else(|| {
            self.calls.push(planned);
            self.calls.len() - 1
        });
        Ok(self.slot(Slot::Aggregate { call, of: of.unwrap_or_default(), whole }))
    }

    fn agree(&self, of: &mut Option<Variables>, more: Variables, span: sqlparser::tokenizer::Span) -> Result<()> {
        match of {
            Some(have) if *have != more => {
                let e = SqlError::new(INVALID_REFERENCE, "the columns of one call are of different pattern variables")
                    .detail("A call is evaluated in single rows, and a row is mapped to one variable.")
                    .hint("Use a call for each variable, or a SUBSET of them.");
                Err(located(e, span))
            }
            _ => {
                *of = Some(more);
                Ok(())
            }
        }
    }
}

/// `PREV`, `NEXT`, `FIRST` or `LAST`: its name, what it is of, and its offset.
fn call(
    f: Option<&ast::Function>,
    e: &ast::Expr,
    span: sqlparser::tokenizer::Span,
) -> Result<Option<(String, ast::Expr, Option<u64>)>> {
    let (Some(f), ast::Expr::Function(_)) = (f, e) else { return Ok(None) };
    let Some(name) = plain_name(&f.name).filter(|n| matches!(n.as_str(), "prev" | "next" | "first" | "last")) else {
        return Ok(None);
    };
    let wrong = |message: String| located(SqlError::new(SqlState::SYNTAX_ERROR, message), span);
    let upper = name.to_ascii_uppercase();
    if f.filter.is_some() || f.over.is_some() || f.null_treatment.is_some() {
        return Err(wrong(format!("{upper} of MATCH_RECOGNIZE takes a value and an offset only")));
    }
    match expressions(f).as_deref() {
        Some([value]) => Ok(Some((name, value.clone(), None))),
        Some([value, n]) => match number(n) {
            Some(n) => Ok(Some((name, value.clone(), Some(n)))),
            None => Err(wrong(format!("the offset of {upper} must be a whole number that is not negative"))),
        },
        _ => Err(wrong(format!("{upper} takes a value and an offset"))),
    }
}

fn number(e: &ast::Expr) -> Option<u64> {
    let ast::Expr::Value(v) = e else { return None };
    let Value::Number(text, _) = &v.value else { return None };
    text.replace('_', "").parse().ok()
}

/// A function's name if it is a single unquoted word, in lower case.
fn plain_name(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [part] => part.as_ident().filter(|i| i.quote_style.is_none()).map(|i| i.value.to_ascii_lowercase()),
        _ => None,
    }
}

/// The arguments, if they are all plain expressions.
fn expressions(f: &ast::Function) -> Option<Vec<ast::Expr>> {
    match &f.args {
        FunctionArguments::None => Some(Vec::new()),
        FunctionArguments::Subquery(_) => None,
        FunctionArguments::List(list) => {
            let one = |a: &FunctionArg| match a {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
                _ => None,
            };
            list.args.iter().map(one).collect()
        }
    }
}

/// Puts slots in the place of what names rows.
struct Outer<'b, 'a> {
    binder: &'b mut Binder<'a>,
    clause: Clause,
}

impl VisitorMut for Outer<'_, '_> {
    type Break = DataFusionError;

    fn pre_visit_expr(&mut self, e: &mut ast::Expr) -> ControlFlow<DataFusionError> {
        match self.binder.replacement(e, self.clause) {
            Ok(Some(new)) => *e = new,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

/// Takes variables off the columns of an expression over one row.
struct OverRow<'b, 'a> {
    binder: &'b mut Binder<'a>,
    of: Option<Variables>,
}

impl OverRow<'_, '_> {
    fn column(&mut self, e: &mut ast::Expr) -> Result<()> {
        let span = e.span();
        match e {
            ast::Expr::Identifier(_) => self.binder.agree(&mut self.of, Vec::new(), span),
            ast::Expr::CompoundIdentifier(parts) => {
                let named = parts.first().and_then(|p| self.binder.clauses.named(&folded(p)));
                let Some(of) = named else { return self.binder.agree(&mut self.of, Vec::new(), span) };
                self.binder.agree(&mut self.of, of, span)?;
                let mut rest = parts.split_off(1);
                *e = match rest.len() {
                    1 => ast::Expr::Identifier(rest.remove(0)),
                    _ => ast::Expr::CompoundIdentifier(rest),
                };
                Ok(())
            }
            ast::Expr::Function(f) => {
                let Some(name) = plain_name(&f.name) else { return Ok(()) };
                let special = matches!(
                    name.as_str(),
                    "prev" | "next" | "first" | "last" | "classifier" | "match_number" | RUNNING | FINAL
                );
                if special {
                    let shown = name.trim_start_matches('_').to_ascii_uppercase();
                    let e = SqlError::unsupported(format!("{shown} inside of another call is not supported"))
                        .hint("FIRST and LAST can be inside of PREV and NEXT, and functions of values around them.");
                    return Err(located(e, span));
                }
                if self.binder.context.context_provider().get_aggregate_meta(&name).is_some() {
                    let e = SqlError::new(SqlState::GROUPING_ERROR, "an aggregate cannot be inside of this call");
                    return Err(located(e, span));
                }
                Ok(())
            }
            ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => {
                Err(user(SqlError::unsupported("a subquery inside of MATCH_RECOGNIZE is not supported")))
            }
            _ => Ok(()),
        }
    }
}

impl VisitorMut for OverRow<'_, '_> {
    type Break = DataFusionError;

    // After its children: what takes the place of `A.x` must not be looked at again.
    fn post_visit_expr(&mut self, e: &mut ast::Expr) -> ControlFlow<DataFusionError> {
        match self.column(e) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}
