//! `window_time`: the last moment of a window, a microsecond before its end.
//!
//! It is no column of a window table function, so `*` does not have it; where a query that reads from one names it, it is
//! computed from `window_end`.

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, Interval, Query, Select, SelectItem, TableAlias, TableFactor, Value,
    VisitMut, VisitorMut,
};

use super::call_of;

const NAME: &str = "window_time";

/// `end - INTERVAL '1 microsecond'`.
pub(super) fn before(end: Expr) -> Expr {
    let interval = Expr::Interval(Interval {
        value: Box::new(Expr::value(Value::SingleQuotedString("1 microsecond".into()))),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    });
    let left = Box::new(end);
    Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Minus, right: Box::new(interval) }))
}

/// Visits the expressions of a SELECT itself: not those of FROM, and not those of subqueries. Items of the select list
/// that are nothing but an expression that changes get the name that `name` has for it.
pub(super) fn each_expr(
    select: &mut Select,
    name: &dyn Fn(&Expr) -> Option<Ident>,
    change: &mut dyn FnMut(&mut Expr) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(e) = item
            && let Some(alias) = name(e)
        {
            *item = SelectItem::ExprWithAlias { expr: e.clone(), alias };
        }
    }
    let mut own = Own { depth: 0, change };
    for item in &mut select.projection {
        item.visit(&mut own)?;
    }
    let conditions = select.selection.iter_mut().chain(&mut select.having).chain(&mut select.qualify);
    for e in conditions {
        e.visit(&mut own)?;
    }
    if let GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        for e in exprs {
            e.visit(&mut own)?;
        }
    }
    ControlFlow::Continue(())
}

struct Own<'a> {
    depth: usize,
    change: &'a mut dyn FnMut(&mut Expr) -> ControlFlow<()>,
}

impl VisitorMut for Own<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0 { (self.change)(e) } else { ControlFlow::Continue(()) }
    }
}

/// Names by which the window table functions of a FROM can be reached.
fn windows(select: &mut Select) -> Vec<Option<Ident>> {
    let mut out = Vec::new();
    let mut one = |factor: &mut TableFactor| {
        if let Some((_, _, _, alias)) = call_of(factor) {
            out.push(alias.as_ref().map(|a: &TableAlias| a.name.clone()));
        }
    };
    for from in &mut select.from {
        one(&mut from.relation);
        from.joins.iter_mut().for_each(|j| one(&mut j.relation));
    }
    out
}

/// Puts the last moment of the window in the place of `window_time`.
pub(super) fn rewrite(select: &mut Select) {
    let windows = windows(select);
    if windows.is_empty() {
        return;
    }
    let is_time = |name: &Ident| name.value.eq_ignore_ascii_case(NAME);
    // A window without an alias goes by the name of its relation: any name may be that.
    let reaches = |table: &Ident| windows.iter().any(|w| w.as_ref().is_none_or(|w| w.value == table.value));
    let end_of = |e: &Expr| match e {
        Expr::Identifier(name) if is_time(name) => Some(Expr::Identifier(Ident::new("window_end"))),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, name] if is_time(name) && reaches(table) => {
                Some(Expr::CompoundIdentifier(vec![table.clone(), Ident::new("window_end")]))
            }
            _ => None,
        },
        _ => None,
    };
    let flow = each_expr(select, &|e| end_of(e).map(|_| Ident::new(NAME)), &mut |e| {
        if let Some(end) = end_of(e) {
            *e = before(end);
        }
        ControlFlow::Continue(())
    });
    debug_assert!(flow.is_continue(), "nothing breaks off");
}
