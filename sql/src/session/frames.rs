//! Window frames with EXCLUDE.
//!
//! The parser leaves EXCLUDE as a mark among the partition keys ([`EXCLUDE_MARK`]). A call over such a frame becomes a
//! call of the function's excluding form (`functions::excluding`), with what is excluded, its FILTER and the order's keys
//! as further arguments. Functions that count rows or look at neighbours do not see frames.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, NamedWindowDefinition, NamedWindowExpr, ObjectName, Query, SetExpr, Value, VisitMut, VisitorMut, WindowSpec,
    WindowType,
};

use crate::error::{Result, SqlError, SqlState};
use crate::functions::excluding::EXCLUDING;
use crate::parse::clauses::EXCLUDE_MARK;

/// Functions that do not see their frame.
const WITHOUT_FRAME: &[&str] =
    &["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"];

/// See the module.
pub(super) fn rewrite(query: &mut Query) -> Result<()> {
    match query.visit(&mut Frames) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Frames;

fn flow(result: Result<()>) -> ControlFlow<SqlError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => ControlFlow::Break(e),
    }
}

impl VisitorMut for Frames {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        flow(named_windows(query))
    }

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<SqlError> {
        match e {
            Expr::Function(f) => flow(call(f)),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// What the mark says, which is the first partition key.
fn marked(spec: &WindowSpec) -> Option<&str> {
    match spec.partition_by.first() {
        Some(Expr::Value(v)) => match &v.value {
            Value::SingleQuotedString(text) => text.strip_prefix(EXCLUDE_MARK),
            _ => None,
        },
        _ => None,
    }
}

/// Windows of a WINDOW clause that exclude something are written where they are used.
fn named_windows(query: &mut Query) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let excludes = |w: &NamedWindowDefinition| matches!(&w.1, NamedWindowExpr::WindowSpec(s) if marked(s).is_some());
    if !select.named_window.iter().any(excludes) {
        return Ok(());
    }
    let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut select.named_window).into_iter().partition(excludes);
    select.named_window = kept;
    let found = |name: &Ident| gone.iter().find(|w| w.0 == *name);
    let mut failed = None;
    let _ = ast::visit_expressions_mut(query, |e: &mut Expr| {
        let Expr::Function(Function { over: Some(over), .. }) = e else { return ControlFlow::<()>::Continue(()) };
        match over {
            WindowType::NamedWindow(name) => {
                if let Some(NamedWindowDefinition(_, NamedWindowExpr::WindowSpec(spec))) = found(name) {
                    *over = WindowType::WindowSpec(spec.clone());
                }
            }
            WindowType::WindowSpec(WindowSpec { window_name: Some(name), .. }) if found(name).is_some() => {
                let message = format!("cannot copy window \"{}\" because it has a frame clause", name.value);
                failed.get_or_insert(SqlError::new(SqlState("42P20"), message));
            }
            WindowType::WindowSpec(_) => {}
        }
        ControlFlow::Continue(())
    });
    failed.map_or(Ok(()), Err)
}

fn call(f: &mut Function) -> Result<()> {
    let Some(WindowType::WindowSpec(spec)) = &mut f.over else { return Ok(()) };
    let Some(excluded) = marked(spec).map(str::to_owned) else { return Ok(()) };
    spec.partition_by.remove(0);
    let name = f.name.to_string().to_lowercase();
    if WITHOUT_FRAME.contains(&name.as_str()) {
        return Ok(());
    }
    let FunctionArguments::List(list) = &mut f.args else { return Ok(()) };
    let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    if distinct || f.null_treatment.is_some() || !f.within_group.is_empty() || !list.clauses.is_empty() {
        return Err(SqlError::unsupported(format!(
            "{name} with DISTINCT, ORDER BY or IGNORE NULLS over a frame with EXCLUDE is not supported"
        )));
    }
    let text = |s: &str| Expr::value(Value::SingleQuotedString(s.to_owned()));
    let unnamed = |e: Expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(e));
    for arg in &mut list.args {
        if let FunctionArg::Unnamed(FunctionArgExpr::Wildcard) = arg {
            *arg = unnamed(Expr::value(Value::Number("1".into(), false)));
        }
    }
    let filter = f.filter.take().map_or_else(|| Expr::value(Value::Boolean(true)), |e| *e);
    // Peers have equal keys.
    let keys: Vec<FunctionArg> = spec.order_by.iter().map(|o| unnamed(o.expr.clone())).collect();
    let peers = if keys.is_empty() { Expr::value(Value::Boolean(true)) } else { structure(keys) };
    list.args.extend([unnamed(text(&excluded)), unnamed(filter), unnamed(peers)]);
    let own = f.name.0.pop().and_then(|p| p.as_ident().map(|i| i.value.to_lowercase())).unwrap_or(name);
    f.name = ObjectName::from(vec![Ident::with_quote('"', format!("{own}{EXCLUDING}"))]);
    Ok(())
}

fn structure(args: Vec<FunctionArg>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new("struct")]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
