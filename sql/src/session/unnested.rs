//! Columns beside an `unnest` in the select list of a derived table or CTE: they are repeated, so they are keys of nothing.
//! See [`crate::functions::opaque`].

use std::ops::ControlFlow;

use sqlparser::ast::{self, Expr, Ident, Query, SelectItem, SetExpr, TableFactor, VisitMut, VisitorMut};

use super::rewrite::template;
use super::syntax::call;
use crate::error::{Result, SqlError};
use crate::functions::opaque::OPAQUE;

/// Hides those columns.
pub(super) fn rewrite(query: &mut Query) -> Result<()> {
    struct Lists;
    fn flow(done: Result<()>) -> ControlFlow<SqlError> {
        match done {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }
    impl VisitorMut for Lists {
        type Break = SqlError;
        fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
            match factor {
                TableFactor::Derived { subquery, .. } => flow(hide(subquery)),
                _ => ControlFlow::Continue(()),
            }
        }
        fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
            let mut ctes = query.with.iter_mut().flat_map(|w| &mut w.cte_tables);
            flow(ctes.try_for_each(|cte| hide(&mut cte.query)))
        }
    }
    match query.visit(&mut Lists) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Puts such a query into one that names its columns, those beside the `unnest` behind a call.
fn hide(query: &mut Query) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Ok(()) };
    if !select.projection.iter().any(unnests) {
        return Ok(());
    }
    // The names of a wildcard are not known here.
    let Some(outputs) = select.projection.iter().map(output).collect::<Option<Vec<_>>>() else { return Ok(()) };
    let inner = std::mem::replace(query, template("SELECT 1 FROM (SELECT 1) AS \"__unnested\"")?);
    let SetExpr::Select(outer) = query.body.as_mut() else { return Ok(()) };
    let item = |(name, repeated): (Ident, bool)| {
        let column = Expr::Identifier(name.clone());
        SelectItem::ExprWithAlias { expr: if repeated { call(OPAQUE, vec![column]) } else { column }, alias: name }
    };
    outer.projection = outputs.into_iter().map(item).collect();
    if let Some(TableFactor::Derived { subquery, .. }) = outer.from.first_mut().map(|f| &mut f.relation) {
        **subquery = inner;
    }
    Ok(())
}

/// The name of a column, and whether it is repeated for every element.
fn output(item: &SelectItem) -> Option<(Ident, bool)> {
    let name = match item {
        SelectItem::ExprWithAlias { alias, .. } => alias.clone(),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => name.clone(),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last()?.clone(),
        _ => return None,
    };
    Some((name, !unnests(item)))
}

fn unnests(item: &SelectItem) -> bool {
    let (SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. }) = item else { return false };
    ast::visit_expressions(e, |e: &Expr| match e {
        Expr::Function(f) if f.name.0.last().and_then(|n| n.as_ident()).is_some_and(|n| n.value == "unnest") => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}
