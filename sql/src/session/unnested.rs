//! Columns beside an `unnest` in the select list of a derived table or CTE: they are repeated, so they are keys of nothing.
//! See [`crate::functions::opaque`].

use std::ops::ControlFlow;

use sqlparser::ast::{self, Expr, Query, Select, SelectItem, SetExpr, TableFactor, VisitMut, VisitorMut};

use super::syntax::call;
use crate::functions::opaque::OPAQUE;

/// Hides the columns of such select lists.
pub(super) fn rewrite(query: &mut Query) {
    struct Lists;
    impl VisitorMut for Lists {
        type Break = ();
        fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Derived { subquery, .. } = factor {
                hide(subquery);
            }
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            for cte in query.with.iter_mut().flat_map(|w| &mut w.cte_tables) {
                hide(&mut cte.query);
            }
            ControlFlow::Continue(())
        }
    }
    // The visitor never breaks.
    let _ = query.visit(&mut Lists);
}

fn hide(query: &mut Query) {
    // An ORDER BY would not find the columns any more.
    if query.order_by.is_none() {
        hide_in(&mut query.body);
    }
}

fn hide_in(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => hide_columns(select),
        SetExpr::Query(query) => hide(query),
        SetExpr::SetOperation { left, right, .. } => {
            hide_in(left);
            hide_in(right);
        }
        _ => {}
    }
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

fn hide_columns(select: &mut Select) {
    if !select.projection.iter().any(unnests) {
        return;
    }
    for item in &mut select.projection {
        let (e, name) = match item {
            SelectItem::UnnamedExpr(e @ Expr::Identifier(_)) | SelectItem::UnnamedExpr(e @ Expr::CompoundIdentifier(_)) => {
                let name = match &*e {
                    Expr::Identifier(name) => Some(name.clone()),
                    Expr::CompoundIdentifier(parts) => parts.last().cloned(),
                    _ => None,
                };
                (e.clone(), name)
            }
            SelectItem::ExprWithAlias { expr: e @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)), alias } => {
                (e.clone(), Some(alias.clone()))
            }
            _ => continue,
        };
        if let Some(alias) = name {
            *item = SelectItem::ExprWithAlias { expr: call(OPAQUE, vec![e]), alias };
        }
    }
}
