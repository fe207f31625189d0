//! Casts to JSON and set-returning functions, rewritten in the syntax tree into calls DataFusion can plan.
//!
//! - `x::jsonb`, `CAST(x AS json)` and `json '..'` call the functions of these names, which check and mark the value.
//! - `jsonb_array_elements(x)` and its like, `generate_series` and `string_to_table` give rows in a select list: they
//!   become `unnest` of a function that gives the list.
//! - The same in FROM, also WITH ORDINALITY, become a derived table; LATERAL if an argument has columns.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, ObjectName, SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, TypedString, Visit, VisitMut,
    Visitor, VisitorMut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

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
    SetReturning { name: "string_to_table", columns: &[("string_to_table", "string_to_array")] },
    SetReturning { name: "generate_series", columns: &[("generate_series", "generate_series")] },
];

/// `unnest` itself; only WITH ORDINALITY makes it need a rewrite.
const UNNEST: SetReturning = SetReturning { name: "unnest", columns: &[("unnest", "")] };

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

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
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

fn table_factor(factor: &mut TableFactor) -> Result<()> {
    let (function, args, alias, ordinality) = match factor {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality, .. } => {
            (set_returning(name), plain(&args.args), alias, *with_ordinality)
        }
        TableFactor::Function { name, args, alias, with_ordinality, .. } => {
            (set_returning(name), plain(args), alias, *with_ordinality)
        }
        TableFactor::UNNEST { array_exprs, alias, with_ordinality: true, .. } => {
            (Some(&UNNEST), Some(array_exprs.clone()), alias, true)
        }
        _ => return Ok(()),
    };
    let (Some(function), Some(args)) = (function, args) else { return Ok(()) };
    // DataFusion has its own table function for this one.
    if function.name == "generate_series" && !ordinality {
        return Ok(());
    }
    let alias = alias.take();
    *factor = derived(function, args, alias, ordinality)?;
    Ok(())
}

/// `(SELECT unnest(list) AS column, .. [, unnest(1 .. length) AS ordinality])`.
fn derived(
    function: &SetReturning,
    args: Vec<Expr>,
    alias: Option<TableAlias>,
    ordinality: bool,
) -> Result<TableFactor> {
    let lateral = args.iter().any(has_columns);
    let mut columns: Vec<(String, Expr)> = Vec::new();
    if function.name == UNNEST.name {
        if args.len() != 1 {
            return Err(SqlError::unsupported("unnest of several arrays WITH ORDINALITY is not supported")
                .hint("Unnest one array, and read the others by the ordinality."));
        }
        columns.push(("unnest".into(), args[0].clone()));
    } else {
        for (column, list) in function.columns {
            columns.push(((*column).into(), call(Ident::new(*list), args.clone())));
        }
    }
    if ordinality {
        let length = call(Ident::new("cardinality"), vec![columns[0].1.clone()]);
        let length = Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(length),
            data_type: DataType::BigInt(None),
            array: false,
            format: None,
        };
        let one = Expr::Value(ast::Value::Number("1".into(), false).into());
        columns.push(("ordinality".into(), call(Ident::new("generate_series"), vec![one, length])));
    }
    let mut query = Parser::new(&PostgreSqlDialect {})
        .try_with_sql("SELECT 1")
        .and_then(|mut p| p.parse_query())
        .map_err(|e| SqlError::internal(format!("set-returning function: {e}")))?;
    let names: Vec<Ident> = columns.iter().map(|(n, _)| Ident::new(n.as_str())).collect();
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection = columns
            .into_iter()
            .map(|(name, list)| {
                let mut expr = call(Ident::new("unnest"), vec![list]);
                if let Expr::Function(f) = &mut expr {
                    f.name = made_unnest();
                }
                SelectItem::ExprWithAlias { expr, alias: Ident::new(name) }
            })
            .collect();
    }
    let mut alias = alias.unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(function.name),
        columns: Vec::new(),
        at: None,
    });
    // Names the user gave, then our own: `AS t(v)` of two columns names the first.
    let given = alias.columns.len();
    // A function of one column whose column has the function's own name takes the alias as its name.
    let own = names.iter().enumerate().skip(given).map(|(i, n)| {
        let takes_alias = i == 0 && (n.value == function.name);
        TableAliasColumnDef { name: if takes_alias { alias.name.clone() } else { n.clone() }, data_type: None }
    });
    let own: Vec<TableAliasColumnDef> = own.collect();
    alias.columns.extend(own);
    Ok(TableFactor::Derived { lateral, subquery: query, alias: Some(alias), sample: None })
}

/// True if the expression names a column.
fn has_columns(e: &Expr) -> bool {
    struct Columns;
    impl Visitor for Columns {
        type Break = ();
        fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
            match e {
                Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    e.visit(&mut Columns).is_break()
}
