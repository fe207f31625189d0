//! `FETCH FIRST n ROWS ONLY | WITH TIES`.
//!
//! ONLY is LIMIT. WITH TIES keeps the rows whose `rank()` in the order of the query is at most n: it becomes a condition
//! after the window functions, of this select, or of one around it where the order is that of output columns alone.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, BinaryOperator, Expr, Ident, LimitClause, OrderByExpr, OrderByKind, Query, SelectItem, SetExpr, TableFactor,
    Value, VisitMut, VisitorMut,
};

use super::rewrite::template;
use crate::error::{Result, SqlError, SqlState};

/// See the module.
pub(super) fn rewrite(query: &mut Query) -> Result<()> {
    struct Fetches;
    impl VisitorMut for Fetches {
        type Break = SqlError;
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
            match fetch(query) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e),
            }
        }
    }
    match query.visit(&mut Fetches) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn fetch(query: &mut Query) -> Result<()> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.percent {
        return Err(SqlError::unsupported("FETCH .. PERCENT is not supported")
            .hint("Use percent_rank() OVER (ORDER BY ..) in a condition."));
    }
    let offset = match query.limit_clause.take() {
        None => None,
        Some(LimitClause::LimitOffset { limit: None, offset, limit_by }) if limit_by.is_empty() => offset,
        Some(_) => return Err(SqlError::new(SqlState::SYNTAX_ERROR, "multiple LIMIT clauses not allowed")),
    };
    let quantity = fetch.quantity.unwrap_or_else(|| number(1));
    if !fetch.with_ties {
        query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(quantity), offset, limit_by: Vec::new() });
        return Ok(());
    }
    if !matches!(query.order_by.as_ref().map(|o| &o.kind), Some(OrderByKind::Expressions(o)) if !o.is_empty()) {
        let message = "WITH TIES cannot be specified without ORDER BY clause";
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, message));
    }
    let Some(condition) = bound(quantity, offset.map(|o| o.value))? else {
        return Ok(());
    };
    if !can_hold_windows(&query.body) {
        wrap(query)?;
    }
    let order = match query.order_by.as_ref().map(|o| &o.kind) {
        Some(OrderByKind::Expressions(order)) => order.clone(),
        _ => Vec::new(),
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(SqlError::internal("a select around a query is none"));
    };
    let keys = order.into_iter().map(|key| resolved(key, &select.projection)).collect::<Result<Vec<_>>>()?;
    let condition = with_order(condition, &keys)?;
    select.qualify = Some(match select.qualify.take() {
        None => condition,
        Some(own) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(own))),
            op: BinaryOperator::And,
            right: Box::new(condition),
        },
    });
    Ok(())
}

fn number(n: u64) -> Expr {
    Expr::value(Value::Number(n.to_string(), false))
}

fn literal(e: &Expr) -> Option<u64> {
    match e {
        Expr::Value(v) => match &v.value {
            Value::Number(text, _) => text.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// The condition with empty windows; `None` if everything is kept.
fn bound(n: Expr, offset: Option<Expr>) -> Result<Option<Expr>> {
    let offset = offset.filter(|o| literal(o) != Some(0));
    if matches!(&n, Expr::Value(v) if v.value == Value::Null) {
        return match offset {
            None => Ok(None),
            Some(_) => Err(SqlError::unsupported("OFFSET with FETCH NULL ROWS WITH TIES is not supported")),
        };
    }
    let last = match (literal(&n), &offset) {
        // Ties of what the offset passes over are no ties of an empty result.
        (Some(0), _) | (_, None) => n,
        (Some(count), Some(o)) if literal(o).is_some() => {
            number(literal(o).and_then(|o| o.checked_add(count)).unwrap_or(u64::MAX >> 1))
        }
        _ => return Err(SqlError::unsupported("OFFSET with FETCH .. WITH TIES takes constants only")),
    };
    let mut condition = comparison("rank() OVER () <= 0")?;
    set_right(&mut condition, last);
    if let Some(offset) = offset {
        let mut after = comparison("row_number() OVER () > 0")?;
        set_right(&mut after, offset);
        condition = Expr::BinaryOp { left: Box::new(condition), op: BinaryOperator::And, right: Box::new(after) };
    }
    Ok(Some(condition))
}

fn comparison(text: &str) -> Result<Expr> {
    let query = template(&format!("SELECT {text}"))?;
    match *query.body {
        SetExpr::Select(mut select) => match select.projection.pop() {
            Some(SelectItem::UnnamedExpr(e)) => Ok(e),
            _ => Err(SqlError::internal("a comparison is expected")),
        },
        _ => Err(SqlError::internal("a select is expected")),
    }
}

fn set_right(e: &mut Expr, new: Expr) {
    if let Expr::BinaryOp { right, .. } = e {
        **right = new;
    }
}

/// Puts an order into the windows of a condition of ours.
fn with_order(mut condition: Expr, order: &[OrderByExpr]) -> Result<Expr> {
    let done = ast::visit_expressions_mut(&mut condition, |e: &mut Expr| {
        if let Expr::Function(f) = e
            && let Some(ast::WindowType::WindowSpec(spec)) = &mut f.over
            && spec.order_by.is_empty()
        {
            spec.order_by = order.to_vec();
        }
        ControlFlow::<()>::Continue(())
    });
    match done {
        ControlFlow::Continue(()) => Ok(condition),
        ControlFlow::Break(()) => Err(SqlError::internal("an order cannot be set")),
    }
}

/// True for a select whose rows are ranked by itself: nothing is done to them after its window functions.
fn can_hold_windows(body: &SetExpr) -> bool {
    let SetExpr::Select(select) = body else { return false };
    let windows = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => has_window(e),
        _ => false,
    });
    select.distinct.is_none() && !windows
}

fn has_window(e: &Expr) -> bool {
    let mut found = false;
    let _ = ast::visit_expressions(e, |e: &Expr| {
        found |= matches!(e, Expr::Function(f) if f.over.is_some());
        ControlFlow::<()>::Continue(())
    });
    found
}

/// The body becomes a derived table with all of its columns selected.
fn wrap(query: &mut Query) -> Result<()> {
    let outer = template("SELECT * FROM (SELECT 1) AS \"with_ties\"")?;
    let inner = std::mem::replace(&mut query.body, outer.body);
    let names = columns(&inner);
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(SqlError::internal("a select is expected"));
    };
    if let Some(names) = names {
        select.projection = names.into_iter().map(|n| SelectItem::UnnamedExpr(Expr::Identifier(n))).collect();
    }
    match select.from.first_mut().map(|f| &mut f.relation) {
        Some(TableFactor::Derived { subquery, .. }) => subquery.body = inner,
        _ => return Err(SqlError::internal("a derived table is expected")),
    }
    // Relations of the body cannot be seen any more.
    if let Some(OrderByKind::Expressions(order)) = query.order_by.as_mut().map(|o| &mut o.kind) {
        for key in order {
            if let Expr::CompoundIdentifier(parts) = &key.expr
                && let Some(column) = parts.last().cloned()
            {
                key.expr = Expr::Identifier(column);
            }
        }
    }
    Ok(())
}

/// Names of output columns, if all are known.
fn columns(body: &SetExpr) -> Option<Vec<Ident>> {
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().cloned(),
        _ => None,
    };
    match body {
        SetExpr::Select(select) => select.projection.iter().map(name).collect(),
        SetExpr::SetOperation { left, .. } => columns(left),
        SetExpr::Query(query) => columns(&query.body),
        _ => None,
    }
}

/// The expression a key of ORDER BY stands for: an output column by its place or its name, or itself.
fn resolved(mut key: OrderByExpr, items: &[SelectItem]) -> Result<OrderByExpr> {
    let wildcard = |i: &SelectItem| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let named = match &key.expr {
        Expr::Value(_) => match literal(&key.expr).and_then(|n| usize::try_from(n).ok()) {
            Some(n) if n > 0 && !items.iter().take(n).any(wildcard) => match items.get(n - 1) {
                Some(item) => Some(item),
                None => {
                    let message = format!("ORDER BY position {n} is not in select list");
                    return Err(SqlError::new(SqlState("42P10"), message));
                }
            },
            _ => {
                return Err(SqlError::unsupported("WITH TIES after ORDER BY a position behind a * is not supported")
                    .hint("Name the column in ORDER BY."));
            }
        },
        Expr::Identifier(name) => items.iter().find(|i| match i {
            SelectItem::ExprWithAlias { alias, .. } => same(alias, name),
            _ => false,
        }),
        _ => None,
    };
    if let Some(SelectItem::ExprWithAlias { expr, .. } | SelectItem::UnnamedExpr(expr)) = named {
        key.expr = expr.clone();
    }
    Ok(key)
}

fn same(a: &Ident, b: &Ident) -> bool {
    let folded = |i: &Ident| if i.quote_style.is_some() { i.value.clone() } else { i.value.to_lowercase() };
    folded(a) == folded(b)
}
