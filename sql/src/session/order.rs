//! ORDER BY a column of a relation that has the name of another output: `SELECT a AS b FROM t ORDER BY t.b`.
//!
//! DataFusion sorts above the select list, and finds two columns of the name there. So such a query is put into one that
//! takes the outputs only, with names nobody else has for everything inside.

use std::collections::HashSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, Ident, OrderByKind, Query, Select, SelectItem, SetExpr, TableFactor, TableWithJoins, VisitMut,
    VisitorMut,
};

use super::rewrite::template;
use crate::error::{Result, SqlError};

/// Rewrites every query with such an ORDER BY.
pub(super) fn rewrite(query: &mut Query) -> Result<()> {
    struct Orders;
    impl VisitorMut for Orders {
        type Break = SqlError;
        fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
            match wrapped(query) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e),
            }
        }
    }
    match query.visit(&mut Orders) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn folded(i: &Ident) -> String {
    if i.quote_style.is_some() { i.value.clone() } else { i.value.to_lowercase() }
}

/// The outputs: a name each, and what it stands for. `None` if one cannot be named without a schema.
fn outputs(select: &Select) -> Option<Vec<(Ident, Expr)>> {
    let one = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { expr, alias } => Some((alias.clone(), expr.clone())),
        SelectItem::UnnamedExpr(e @ Expr::Identifier(name)) => Some((name.clone(), e.clone())),
        SelectItem::UnnamedExpr(e @ Expr::CompoundIdentifier(parts)) => Some((parts.last()?.clone(), e.clone())),
        _ => None,
    };
    select.projection.iter().map(one).collect()
}

/// Whether an expression reads a qualified column that is not the output of its name.
fn clashes(e: &Expr, outputs: &[(Ident, Expr)]) -> bool {
    let found = ast::visit_expressions(e, |x: &Expr| {
        let Expr::CompoundIdentifier(parts) = x else { return ControlFlow::Continue(()) };
        let Some(name) = parts.last().map(folded) else { return ControlFlow::Continue(()) };
        let same = |o: &Expr| match o {
            Expr::CompoundIdentifier(others) => {
                others.len() == parts.len() && others.iter().zip(parts).all(|(a, b)| folded(a) == folded(b))
            }
            _ => false,
        };
        match outputs.iter().any(|(n, o)| folded(n) == name && !same(o)) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    found.is_break()
}

fn wrapped(query: &mut Query) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(()) };
    let Some(OrderByKind::Expressions(keys)) = query.order_by.as_ref().map(|o| &o.kind) else { return Ok(()) };
    if select.distinct.is_some() {
        return Ok(());
    }
    let Some(outputs) = outputs(select) else { return Ok(()) };
    if !keys.iter().any(|k| clashes(&k.expr, &outputs)) {
        return Ok(());
    }
    let mut seen = HashSet::new();
    if !outputs.iter().all(|(name, _)| seen.insert(folded(name))) {
        // Names are told apart before; what is left is an error of its own.
        return Ok(());
    }
    let mut inner = select.clone();
    let column = |i: usize| Ident::with_quote('"', format!("__o{i}"));
    inner.projection = outputs
        .iter()
        .enumerate()
        .map(|(i, (_, e))| SelectItem::ExprWithAlias { expr: e.clone(), alias: column(i) })
        .collect();
    let mut order = query.order_by.take();
    if let Some(OrderByKind::Expressions(keys)) = order.as_mut().map(|o| &mut o.kind) {
        for (at, key) in keys.iter_mut().enumerate() {
            // A name or number alone is an output.
            let output = match &key.expr {
                Expr::Identifier(name) => outputs.iter().position(|(n, _)| folded(n) == folded(name)),
                Expr::Value(v) => match &v.value {
                    ast::Value::Number(n, _) => n.parse::<usize>().ok().and_then(|n| n.checked_sub(1)),
                    _ => None,
                },
                _ => None,
            };
            key.expr = match output.filter(|i| *i < outputs.len()) {
                Some(i) => Expr::Identifier(column(i)),
                None => {
                    let alias = Ident::with_quote('"', format!("__s{at}"));
                    let expr = key.expr.clone();
                    inner.projection.push(SelectItem::ExprWithAlias { expr, alias: alias.clone() });
                    Expr::Identifier(alias)
                }
            };
        }
    }
    let mut outer = template("SELECT 1 FROM (SELECT 1) AS \"__ordered\"")?;
    if let SetExpr::Select(select) = outer.body.as_mut() {
        let item = |(i, (name, _)): (usize, &(Ident, Expr))| SelectItem::ExprWithAlias {
            expr: Expr::Identifier(column(i)),
            alias: name.clone(),
        };
        select.projection = outputs.iter().enumerate().map(item).collect();
        if let Some(TableWithJoins { relation: TableFactor::Derived { subquery, .. }, .. }) = select.from.first_mut() {
            *subquery.body = SetExpr::Select(inner);
        }
    }
    query.body = outer.body;
    query.order_by = order;
    Ok(())
}
