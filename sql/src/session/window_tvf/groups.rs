//! Windows as functions: `GROUP BY HOP(ts, slide, size)`, with `HOP_START(ts, slide, size)` and `HOP_END(..)` in the
//! select list; the same for `CUMULATE`, `SESSION` and `TUMBLE`.
//!
//! A row is in one tumbling window, so `TUMBLE` is a function of its time. The others need the relation: a query that reads
//! one relation and groups by such a function reads the window table function of that relation instead. A session is
//! made of the rows that WHERE leaves, apart by the other keys of GROUP BY.

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, ObjectName,
    Select, SelectItem, TableFactor,
};

use super::columns::{before, each_expr};
use super::{Call, Kind, place, plain_alias};
use crate::error::{Result, SqlError, SqlState};

const START: &str = "__window_start";
const END: &str = "__window_end";

/// What a function says of a window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Itself,
    Start,
    End,
    Time,
}

/// `HOP_START(..)` and its like.
fn part_of(name: &ObjectName) -> Option<(Kind, Part)> {
    let name = name.to_string().to_lowercase();
    Kind::ALL.into_iter().find_map(|kind| {
        let part = match name.strip_prefix(kind.name())? {
            "" => Part::Itself,
            "_start" => Part::Start,
            "_end" => Part::End,
            "_rowtime" => Part::Time,
            _ => return None,
        };
        Some((kind, part))
    })
}

fn arguments(f: &Function) -> Option<&[FunctionArg]> {
    match &f.args {
        FunctionArguments::List(list) if f.over.is_none() && f.filter.is_none() => Some(&list.args),
        _ => None,
    }
}

fn function_of(e: &Expr) -> Option<(&Function, Kind, Part)> {
    let Expr::Function(f) = e else { return None };
    arguments(f)?;
    part_of(&f.name).map(|(kind, part)| (f, kind, part)).filter(|(_, kind, _)| *kind != Kind::Tumble)
}

fn text_of(f: &Function) -> String {
    arguments(f).unwrap_or_default().iter().map(|a| a.to_string().to_lowercase()).collect::<Vec<_>>().join(", ")
}

/// Functions of one row by the names of those that compute them: a tumbling window, its end and its last moment, and
/// `date_trunc` by the clock of a zone.
pub(super) fn plain(e: &mut Expr) {
    let Expr::Function(f) = &*e else { return };
    let Some(args) = arguments(f) else { return };
    let values: Option<Vec<&Expr>> = args
        .iter()
        .map(|a| match a {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
            _ => None,
        })
        .collect();
    let Some(values) = values else { return };
    if let (Some((Kind::Tumble, part)), [_, size, ..]) = (part_of(&f.name), values.as_slice()) {
        let mut start = f.clone();
        start.name = ObjectName::from(vec![Ident::new("tumble_start")]);
        let start = Expr::Function(start);
        let end = |start| {
            let right = Box::new((*size).clone());
            Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(start), op: BinaryOperator::Plus, right }))
        };
        *e = match part {
            Part::Itself | Part::Start => start,
            Part::End => end(start),
            Part::Time => before(end(start)),
        };
        return;
    }
    if let ("date_trunc", [_, time, zone]) = (f.name.to_string().to_lowercase().as_str(), values.as_slice()) {
        let at = |e: Expr| Expr::AtTimeZone { timestamp: Box::new(e), time_zone: Box::new((*zone).clone()) };
        let local = at((*time).clone());
        let mut truncated = f.clone();
        if let FunctionArguments::List(list) = &mut truncated.args {
            list.args.truncate(1);
            list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(local)));
        }
        *e = at(Expr::Function(truncated));
    }
}

/// Lets a query that groups by a window read from the window table function.
pub(super) fn rewrite(select: &mut Select, text: &str) -> Result<()> {
    let stray = |f: &Function, kind: Kind| {
        let upper = kind.name().to_uppercase();
        let mut e =
            SqlError::unsupported(format!("{} without GROUP BY {upper}(..)", f.name.to_string().to_lowercase()))
                .hint(format!("Read FROM {}, which gives window_start and window_end.", kind.form()));
        e.position = place(text, &f.name);
        e
    };
    let grouped = match &select.group_by {
        GroupByExpr::Expressions(exprs, _) => exprs.iter().find_map(|e| match function_of(e) {
            Some((f, kind, Part::Itself)) => Some((f.clone(), kind)),
            _ => None,
        }),
        GroupByExpr::All(_) => None,
    };
    let Some((window, kind)) = grouped else {
        let mut found = None;
        let _ = each_expr(select, &|_| None, &mut |e| match function_of(e) {
            Some((f, kind, _)) => {
                found = Some(stray(f, kind));
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        });
        return found.map_or(Ok(()), Err);
    };
    let located = |mut e: SqlError| {
        e.position = e.position.or_else(|| place(text, &window.name));
        e
    };
    group_by(select, &window, kind).map_err(located)?;
    // What is left of such functions has other arguments.
    let mut found = None;
    let _ = each_expr(select, &|_| None, &mut |e| match function_of(e) {
        Some((f, _, _)) => {
            let message = format!("{} has other arguments than the {} of GROUP BY", f.name, kind.name().to_uppercase());
            let mut e =
                SqlError::new(SqlState::GROUPING_ERROR, message).hint("Repeat the arguments as they are there.");
            e.position = place(text, &f.name);
            found = Some(e);
            ControlFlow::Break(())
        }
        None => ControlFlow::Continue(()),
    });
    found.map_or(Ok(()), Err)
}

fn group_by(select: &mut Select, window: &Function, kind: Kind) -> Result<()> {
    let upper = kind.name().to_uppercase();
    let refused = |what: &str| {
        SqlError::unsupported(format!("GROUP BY {upper}(..) {what} is not supported"))
            .hint(format!("Read FROM {} and group by window_start and window_end.", kind.form()))
    };
    let others: Vec<Expr> = match &select.group_by {
        GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => {
            exprs.iter().filter(|e| function_of(e).is_none()).cloned().collect()
        }
        _ => return Err(refused("with ROLLUP, CUBE or TOTALS")),
    };
    if others.iter().any(|e| matches!(e, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_))) {
        return Err(refused("with grouping sets"));
    }
    let [from] = select.from.as_mut_slice() else { return Err(refused("over more than one relation")) };
    if !from.joins.is_empty() {
        return Err(refused("over a join"));
    }
    let alias = match &from.relation {
        TableFactor::Table { name, args: None, alias, .. } => {
            alias.as_ref().map(|a| a.name.clone()).or_else(|| name.0.last().and_then(|p| p.as_ident().cloned()))
        }
        TableFactor::Derived { lateral: false, alias, .. } => {
            Some(alias.as_ref().map_or_else(|| Ident::new(kind.name()), |a| a.name.clone()))
        }
        _ => None,
    };
    let Some(alias) = alias else { return Err(refused("over anything but a relation or a subquery")) };
    let mut call = Call::new(kind, arguments(window).unwrap_or_default().to_vec())?;
    (call.start, call.end) = (START, END);
    if kind == Kind::Session {
        for key in &others {
            let is_output = |name: &Ident| {
                select.projection.iter().any(|item| match item {
                    SelectItem::ExprWithAlias { expr, alias } => alias == name && expr != key,
                    _ => false,
                })
            };
            if matches!(key, Expr::Value(_)) || matches!(key, Expr::Identifier(name) if is_output(name)) {
                return Err(refused("and an item of the select list").hint("Write the expression itself in GROUP BY."));
            }
        }
        call.keys.extend(others);
        call.filter = select.selection.take();
    }
    from.relation = call.derived(from.relation.clone(), plain_alias(alias))?;

    if let GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        // Both ends are given with either; as two keys both can be named.
        let end = Expr::Identifier(Ident::new(END));
        exprs.push(end);
    }
    let wanted = text_of(window);
    let named = |e: &Expr| match function_of(e) {
        Some((f, of, _)) if of == kind && text_of(f) == wanted => Some(Ident::new(f.name.to_string().to_lowercase())),
        _ => None,
    };
    let flow = each_expr(select, &named, &mut |e| {
        let new = match function_of(e) {
            Some((f, of, part)) if of == kind && text_of(f) == wanted => match part {
                Part::Itself | Part::Start => Expr::Identifier(Ident::new(START)),
                Part::End => Expr::Identifier(Ident::new(END)),
                Part::Time => before(Expr::Identifier(Ident::new(END))),
            },
            _ => return ControlFlow::Continue(()),
        };
        *e = new;
        ControlFlow::Continue(())
    });
    debug_assert!(flow.is_continue(), "nothing breaks off");
    Ok(())
}
