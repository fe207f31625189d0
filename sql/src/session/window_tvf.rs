//! Window table functions: `FROM TUMBLE(rel, ts, size [, offset])`, `FROM HOP(rel, ts, slide, size [, offset])`.
//!
//! They are rewritten in the syntax tree into a derived table that calls the scalar functions of
//! [`crate::functions`]. Rows whose time is NULL are in no window. The user's own expressions are moved, not printed
//! and parsed again, so errors in them keep their place.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, TableAlias, TableFactor, VisitMut,
    VisitorMut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::errors::{char_offset, find_word};
use crate::error::{Result, SqlError, SqlState};

/// Rewrites every window table function in the query.
pub(super) fn rewrite(query: &mut ast::Query, text: &str) -> Result<()> {
    match query.visit(&mut Rewriter { text }) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewriter<'a> {
    text: &'a str,
}

impl VisitorMut for Rewriter<'_> {
    type Break = SqlError;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match self.table_factor(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tumble,
    Hop,
}

impl Kind {
    fn of(name: &ObjectName) -> Option<Self> {
        match name.to_string().to_lowercase().as_str() {
            "tumble" => Some(Self::Tumble),
            "hop" => Some(Self::Hop),
            _ => None,
        }
    }
    fn name(self) -> &'static str {
        match self {
            Self::Tumble => "tumble",
            Self::Hop => "hop",
        }
    }
    fn form(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE(relation, time_column, size [, offset])",
            Self::Hop => "HOP(relation, time_column, slide, size [, offset])",
        }
    }
    /// Names of the arguments, the last one optional.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Tumble => &["data", "timecol", "size", "offset"],
            Self::Hop => &["data", "timecol", "slide", "size", "offset"],
        }
    }
    fn skeleton(self, offset: bool) -> String {
        let offset = if offset { ", __offset" } else { "" };
        match self {
            Self::Tumble => format!(
                "SELECT *, tumble_start(__time, __size{offset}) AS window_start, \
                 tumble_start(__time, __size{offset}) + __size AS window_end FROM __rel WHERE __time IS NOT NULL"
            ),
            Self::Hop => format!(
                "SELECT *, window_start + __size AS window_end FROM \
                 (SELECT *, unnest(hop_starts(__time, __slide, __size{offset})) AS window_start \
                 FROM __rel WHERE __time IS NOT NULL) AS __hop"
            ),
        }
    }
}

impl Rewriter<'_> {
    fn table_factor(&self, factor: &mut TableFactor) -> Result<()> {
        let (kind, args, alias, at) = match factor {
            TableFactor::Table { name, args: Some(args), alias, .. } => match Kind::of(name) {
                Some(kind) => (kind, args.args.clone(), alias.take(), self.place(name)),
                None => return Ok(()),
            },
            TableFactor::Function { name, args, alias, .. } => match Kind::of(name) {
                Some(kind) => (kind, args.clone(), alias.take(), self.place(name)),
                None => return Ok(()),
            },
            // TABLE(TUMBLE(..))
            TableFactor::TableFunction { expr: Expr::Function(f), alias } => match (Kind::of(&f.name), &f.args) {
                (Some(kind), FunctionArguments::List(list)) => {
                    (kind, list.args.clone(), alias.take(), self.place(&f.name))
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let located = |mut e: SqlError| {
            e.position = e.position.or(at);
            e
        };
        *factor = derived(kind, args, alias).map_err(located)?;
        Ok(())
    }

    fn place(&self, name: &ObjectName) -> Option<usize> {
        use sqlparser::ast::Spanned;
        let start = name.span().start;
        char_offset(self.text, start.line, start.column).or_else(|| find_word(self.text, &name.to_string()))
    }
}

fn derived(kind: Kind, args: Vec<FunctionArg>, alias: Option<TableAlias>) -> Result<TableFactor> {
    let wrong = |why: &str| {
        SqlError::new(SqlState::SYNTAX_ERROR, format!("{why} in {}", kind.name().to_uppercase()))
            .hint(format!("Write {}.", kind.form()))
    };
    let parameters = kind.parameters();
    let mut given: Vec<Option<Expr>> = vec![None; parameters.len()];
    for (i, arg) in args.into_iter().enumerate() {
        let (slot, value) = match arg {
            FunctionArg::Unnamed(value) => (Some(i), value),
            FunctionArg::Named { name, arg, .. } => {
                (parameters.iter().position(|p| name.value.eq_ignore_ascii_case(p)), arg)
            }
            FunctionArg::ExprNamed { name: Expr::Identifier(name), arg, .. } => {
                (parameters.iter().position(|p| name.value.eq_ignore_ascii_case(p)), arg)
            }
            FunctionArg::ExprNamed { .. } => return Err(wrong("an argument name is expected")),
        };
        let FunctionArgExpr::Expr(value) = value else { return Err(wrong("an expression is expected")) };
        match slot.and_then(|s| given.get_mut(s)) {
            Some(place @ None) => *place = Some(value),
            Some(Some(_)) => return Err(wrong("an argument is given twice")),
            None => return Err(wrong("wrong arguments")),
        }
    }
    let offset = given.pop().flatten();
    let mut given = given.into_iter();
    let mut next = || given.next().flatten().ok_or_else(|| wrong("wrong number of arguments"));
    let relation = next()?;
    let time = column_of(next()?);
    let (slide, size) = match kind {
        Kind::Tumble => (None, next()?),
        Kind::Hop => (Some(next()?), next()?),
    };

    let (mut relation, name) = relation_of(relation).ok_or_else(|| wrong("a relation is expected"))?;
    let dialect = PostgreSqlDialect {};
    let skeleton = kind.skeleton(offset.is_some());
    let mut query = Parser::new(&dialect)
        .try_with_sql(&skeleton)
        .and_then(|mut p| p.parse_query())
        .map_err(|e| SqlError::internal(format!("window function: {e}")))?;
    let mut fill = Fill { time, slide, size, offset, relation: &mut relation };
    if let ControlFlow::Break(()) = query.visit(&mut fill) {
        return Err(SqlError::internal("window function has more than one relation"));
    }
    // Columns stay reachable by the relation's name.
    let alias = alias.unwrap_or_else(|| TableAlias {
        explicit: true,
        name: name.unwrap_or_else(|| Ident::new(kind.name())),
        columns: Vec::new(),
        at: None,
    });
    Ok(TableFactor::Derived { lateral: false, subquery: query, alias: Some(alias), sample: None })
}

/// `ts` of `DESCRIPTOR(ts)`; anything else is itself.
fn column_of(e: Expr) -> Expr {
    if let Expr::Function(f) = &e
        && f.name.to_string().eq_ignore_ascii_case("descriptor")
        && let FunctionArguments::List(list) = &f.args
        && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(column))] = list.args.as_slice()
    {
        return column.clone();
    }
    e
}

/// The relation an argument names, and its own name.
fn relation_of(e: Expr) -> Option<(Option<TableFactor>, Option<Ident>)> {
    let table = |parts: Vec<Ident>| {
        let last = parts.last().cloned();
        let factor = TableFactor::Table {
            name: ObjectName::from(parts),
            alias: None,
            args: None,
            with_hints: Vec::new(),
            version: None,
            with_ordinality: false,
            partitions: Vec::new(),
            json_path: None,
            sample: None,
            index_hints: Vec::new(),
        };
        (Some(factor), last)
    };
    match e {
        Expr::Identifier(name) => Some(table(vec![name])),
        Expr::CompoundIdentifier(parts) => Some(table(parts)),
        Expr::Subquery(query) => {
            Some((Some(TableFactor::Derived { lateral: false, subquery: query, alias: None, sample: None }), None))
        }
        Expr::Nested(inner) => relation_of(*inner),
        _ => None,
    }
}

/// Puts the user's expressions into the skeleton.
struct Fill<'a> {
    time: Expr,
    slide: Option<Expr>,
    size: Expr,
    offset: Option<Expr>,
    relation: &'a mut Option<TableFactor>,
}

impl VisitorMut for Fill<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        let Expr::Identifier(name) = &*e else { return ControlFlow::Continue(()) };
        let new = match name.value.as_str() {
            "__time" => Some(&self.time),
            "__slide" => self.slide.as_ref(),
            "__size" => Some(&self.size),
            "__offset" => self.offset.as_ref(),
            _ => None,
        };
        if let Some(new) = new {
            *e = new.clone();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, .. } = &*factor
            && name.to_string() == "__rel"
        {
            match self.relation.take() {
                Some(relation) => *factor = relation,
                None => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }
}
