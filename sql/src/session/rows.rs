//! Casts to JSON and set-returning functions, rewritten in the syntax tree into calls DataFusion can plan.
//!
//! - `x::jsonb`, `CAST(x AS json)` and `json '..'` call the functions of these names, which check and mark the value.
//! - `jsonb_array_elements(x)` and its like, `generate_series` and `string_to_table` give rows in a select list: they
//!   become `unnest` of a function that gives the list.
//! - The same in FROM become an UNNEST of such functions.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, ObjectName, TableAlias, TableAliasColumnDef, TableFactor, TypedString, VisitMut, VisitorMut,
};

use crate::error::{Result, SqlError};

/// A set-returning function and the lists its columns come from.
struct SetReturning {
    name: &'static str,
    columns: &'static [(&'static str, &'static str)],
}

const SET_RETURNING: &[SetReturning] = &[
    SetReturning { name: "json_array_elements", columns: &[("value", "json_elements")] },
    SetReturning { name: "jsonb_array_elements", columns: &[("value", "json_elements")] },
    SetReturning { name: "json_array_elements_text", columns: &[("value", "json_elements_text")] },
    SetReturning { name: "jsonb_array_elements_text", columns: &[("value", "json_elements_text")] },
    SetReturning { name: "json_object_keys", columns: &[("json_object_keys", "json_keys")] },
    SetReturning { name: "jsonb_object_keys", columns: &[("jsonb_object_keys", "json_keys")] },
    SetReturning { name: "json_each", columns: &[("key", "json_keys"), ("value", "json_values")] },
    SetReturning { name: "jsonb_each", columns: &[("key", "json_keys"), ("value", "json_values")] },
    SetReturning { name: "json_each_text", columns: &[("key", "json_keys"), ("value", "json_values_text")] },
    SetReturning { name: "jsonb_each_text", columns: &[("key", "json_keys"), ("value", "json_values_text")] },
    SetReturning { name: "regexp_matches", columns: &[("regexp_matches", "regexp_all_matches")] },
    SetReturning { name: "regexp_split_to_table", columns: &[("regexp_split_to_table", "regexp_split_to_array")] },
    SetReturning { name: "jsonb_path_query", columns: &[("jsonb_path_query", "json_path_items")] },
    SetReturning { name: "string_to_table", columns: &[("string_to_table", "string_to_array")] },
    SetReturning { name: "generate_series", columns: &[("generate_series", "generate_series")] },
];

fn set_returning(name: &ObjectName) -> Option<&'static SetReturning> {
    let name = name.to_string().to_lowercase();
    SET_RETURNING.iter().find(|s| s.name == name)
}

/// Rewrites the whole query.
pub(super) fn rewrite(query: &mut ast::Query) -> Result<()> {
    match query.visit(&mut Rewriter) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = SqlError;

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<SqlError> {
        match expr(e) {
            Ok(Some(new)) => *e = new,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match table_factor(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }
}

fn expr(e: &mut Expr) -> Result<Option<Expr>> {
    Ok(match e {
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            json_type(data_type).map(|f| call(Ident::new(f), vec![std::mem::replace(expr, nothing())]))
        }
        Expr::TypedString(TypedString { data_type, value, .. }) => {
            json_type(data_type).map(|f| call(Ident::new(f), vec![Expr::Value(value.clone())]))
        }
        Expr::Function(f) => {
            // unnest(generate_series(..)) is one unnest, not two.
            if f.name.to_string().eq_ignore_ascii_case("unnest")
                && let Some([Expr::Function(inner)]) = arguments(f).as_deref()
                && inner.name == made_unnest()
            {
                return Ok(Some(Expr::Function(inner.clone())));
            }
            match set_returning(&f.name) {
                None => None,
                Some(SetReturning { name, columns: [_, _, ..] }) => {
                    return Err(SqlError::unsupported(format!("{name} in a select list is not supported"))
                        .hint(format!("Write FROM .. CROSS JOIN LATERAL {name}(..) AS t(key, value).")));
                }
                Some(s) => {
                    let mut list = f.clone();
                    list.name = ObjectName::from(vec![Ident::new(s.columns[0].1)]);
                    let mut out = call(Ident::new("unnest"), vec![Expr::Function(list)]);
                    if let Expr::Function(f) = &mut out {
                        f.name = made_unnest();
                    }
                    Some(out)
                }
            }
        }
        _ => None,
    })
}

/// The name of an `unnest` this module wrote: quoted, which means the same.
fn made_unnest() -> ObjectName {
    ObjectName::from(vec![Ident::with_quote('"', "unnest")])
}

fn json_type(t: &DataType) -> Option<&'static str> {
    match t {
        DataType::JSON => Some("json"),
        DataType::JSONB => Some("jsonb"),
        _ => None,
    }
}

fn nothing() -> Box<Expr> {
    Box::new(Expr::Value(ast::Value::Null.into()))
}

fn call(name: Ident, args: Vec<impl Into<Box<Expr>>>) -> Expr {
    let args = args.into_iter().map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(*a.into()))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![name]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// A call of a function of ours.
pub(super) fn called(name: &str, args: Vec<Expr>) -> Expr {
    call(Ident::new(name), args)
}

/// Plain arguments of a call.
fn arguments(f: &Function) -> Option<Vec<Expr>> {
    match &f.args {
        FunctionArguments::List(list) => plain(&list.args),
        _ => None,
    }
}

fn plain(args: &[FunctionArg]) -> Option<Vec<Expr>> {
    args.iter()
        .map(|a| match a {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
            _ => None,
        })
        .collect()
}

/// A function in FROM becomes an UNNEST of its lists, which [`super::rewrite`] plans.
fn table_factor(factor: &mut TableFactor) -> Result<()> {
    let (name, args, alias, with_ordinality) = match factor {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            (name, plain(&args.args), alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, with_ordinality, .. } => {
            (name, plain(args), alias, *with_ordinality)
        }
        _ => return Ok(()),
    };
    let (Some(function), Some(args)) = (set_returning(name), args) else { return Ok(()) };
    // This one is known there.
    if function.name == "generate_series" {
        return Ok(());
    }
    if with_ordinality && function.columns.len() > 1 {
        return Err(SqlError::unsupported(format!("{} WITH ORDINALITY is not supported", function.name))
            .hint("Number the rows with row_number() OVER (ORDER BY key)."));
    }
    let mut alias = alias.take().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(function.name),
        columns: Vec::new(),
        at: None,
    });
    // What the user did not name has the function's own names; the alias of a function without any is its column.
    let own = function.columns.iter().skip(alias.columns.len()).map(|(column, _)| match *column == function.name {
        true => alias.name.clone(),
        false => Ident::new(*column),
    });
    let own: Vec<_> = own.map(|name| TableAliasColumnDef { name, data_type: None }).collect();
    alias.columns.extend(own);
    let array_exprs = function.columns.iter().map(|(_, list)| call(Ident::new(*list), args.clone())).collect();
    *factor = TableFactor::UNNEST {
        alias: Some(alias),
        array_exprs,
        with_offset: false,
        with_offset_alias: None,
        with_ordinality,
    };
    Ok(())
}
