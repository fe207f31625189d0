//! Window table functions: `FROM TUMBLE(rel, ts, size [, offset [, timezone]])`,
//! `HOP(rel, ts, slide, size [, offset])`, `CUMULATE(rel, ts, step, size [, offset])` and
//! `SESSION(rel, ts, gap [, key, ..])`.
//!
//! They are rewritten in the syntax tree into a derived table that calls the scalar and window functions of
//! [`crate::functions`]. Rows whose time is NULL are in no window. The user's own expressions are moved, not printed
//! and parsed again, so errors in them keep their place.
//!
//! - [`columns`]: `window_time`, which is no column of theirs.
//! - [`groups`]: windows as functions in GROUP BY, which is how they were written before.

mod columns;
mod groups;

use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{Expr as PlanExpr, ExprSchemable, LogicalPlan};
use sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Select, TableAlias, TableFactor,
    VisitMut, VisitorMut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::errors::{char_offset, find_word};
use super::from_datafusion;
use crate::error::{Result, SqlError, SqlState};
use crate::functions::window::session;

/// Rewrites every window table function in the query.
pub(super) fn rewrite(query: &mut ast::Query, text: &str) -> Result<()> {
    match query.visit(&mut Rewriter { text }) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Rewrites functions of one row that stand for others, see [`groups::plain`]. Columns have their names before.
pub(super) fn plain_functions<T: VisitMut>(query: &mut T) {
    struct Plain;
    impl VisitorMut for Plain {
        type Break = ();
        fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
            groups::plain(e);
            ControlFlow::Continue(())
        }
    }
    // The visitor never breaks.
    let _ = query.visit(&mut Plain);
}

/// Refuses the gaps of sessions that are none, also where there is no row to find out with.
pub(super) fn check_gaps(plan: &LogicalPlan) -> Result<()> {
    let mut found = Ok(());
    let visited = plan.apply_with_subqueries(|node| {
        let LogicalPlan::Window(w) = node else { return Ok(TreeNodeRecursion::Continue) };
        for e in &w.window_expr {
            if let PlanExpr::WindowFunction(f) = e.clone().unalias()
                && matches!(f.fun.name(), session::START | session::END)
                && let [time, PlanExpr::Literal(gap, _)] = f.params.args.as_slice()
            {
                found = session::gap_ticks(gap, &time.get_type(w.input.schema())?).map(|_| ());
            }
        }
        Ok(if found.is_err() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    visited.map_err(from_datafusion)?;
    found
}

struct Rewriter<'a> {
    text: &'a str,
}

fn flow(result: Result<()>) -> ControlFlow<SqlError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => ControlFlow::Break(e),
    }
}

impl VisitorMut for Rewriter<'_> {
    type Break = SqlError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        columns::rewrite(select);
        flow(groups::rewrite(select, self.text))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        flow(self.table_factor(factor))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Tumble, Self::Hop, Self::Cumulate, Self::Session];

    fn of(name: &ObjectName) -> Option<Self> {
        let name = name.to_string();
        Self::ALL.into_iter().find(|k| name.eq_ignore_ascii_case(k.name()))
    }
    fn name(self) -> &'static str {
        match self {
            Self::Tumble => "tumble",
            Self::Hop => "hop",
            Self::Cumulate => "cumulate",
            Self::Session => "session",
        }
    }
    fn form(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE(relation, time_column, size [, offset [, timezone]])",
            Self::Hop => "HOP(relation, time_column, slide, size [, offset])",
            Self::Cumulate => "CUMULATE(relation, time_column, step, size [, offset])",
            Self::Session => "SESSION(relation, time_column, gap [, key, ..])",
        }
    }
    /// Names of the arguments after relation and time: those there must be, and those there may be.
    fn parameters(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Tumble => (&["size"], &["offset", "timezone"]),
            Self::Hop => (&["slide", "size"], &["offset"]),
            Self::Cumulate => (&["step", "size"], &["offset"]),
            Self::Session => (&["gap"], &[]),
        }
    }
}

/// A window table function with its arguments.
struct Call {
    kind: Kind,
    time: Expr,
    /// By name.
    given: Vec<(&'static str, Expr)>,
    /// What sessions are apart by.
    keys: Vec<Expr>,
    /// Rows that are in no window.
    filter: Option<Expr>,
    /// Names of the output columns.
    start: &'static str,
    end: &'static str,
}

impl Call {
    fn wrong(kind: Kind, why: &str) -> SqlError {
        SqlError::new(SqlState::SYNTAX_ERROR, format!("{why} in {}", kind.name().to_uppercase()))
            .hint(format!("Write {}.", kind.form()))
    }

    /// The arguments after the relation, in order and by name.
    fn new(kind: Kind, args: Vec<FunctionArg>) -> Result<Self> {
        let wrong = |why: &str| Self::wrong(kind, why);
        let (must, may) = kind.parameters();
        let names: Vec<&'static str> = ["timecol"].iter().chain(must).chain(may).copied().collect();
        let mut given: Vec<(&'static str, Expr)> = Vec::new();
        let mut keys = Vec::new();
        let mut position = 0;
        for arg in args {
            let (name, value) = match arg {
                FunctionArg::Unnamed(value) => {
                    position += 1;
                    (None, value)
                }
                FunctionArg::Named { name, arg, .. } => (Some(name), arg),
                FunctionArg::ExprNamed { name: Expr::Identifier(name), arg, .. } => (Some(name), arg),
                FunctionArg::ExprNamed { .. } => return Err(wrong("an argument name is expected")),
            };
            let FunctionArgExpr::Expr(value) = value else { return Err(wrong("an expression is expected")) };
            let slot = match &name {
                None => names.get(position - 1).copied(),
                Some(name) => names.iter().copied().find(|p| name.value.eq_ignore_ascii_case(p)),
            };
            let is_key = name.as_ref().is_none_or(|n| n.value.eq_ignore_ascii_case("key"));
            match slot {
                Some(slot) if given.iter().any(|(n, _)| *n == slot) => {
                    return Err(wrong("an argument is given twice"));
                }
                Some(slot) => given.push((slot, value)),
                None if kind == Kind::Session && is_key => keys.push(value),
                None => return Err(wrong("wrong arguments")),
            }
        }
        // SESSION(t, DESCRIPTOR(ts), DESCRIPTOR(key), gap), as Calcite has it.
        if let Some((_, gap)) = given.iter_mut().find(|(n, _)| *n == "gap")
            && matches!(gap, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
            && let Some(last) = keys.pop_if(|last| matches!(last, Expr::Interval(_)))
        {
            keys.insert(0, std::mem::replace(gap, last));
        }
        if must.iter().any(|m| given.iter().all(|(n, _)| n != m)) {
            return Err(wrong("wrong number of arguments"));
        }
        let time = given.iter().position(|(n, _)| *n == "timecol").map(|i| given.remove(i).1);
        let time = column_of(time.ok_or_else(|| wrong("wrong number of arguments"))?);
        let keys = keys.into_iter().map(column_of).collect();
        Ok(Self { kind, time, given, keys, filter: None, start: "window_start", end: "window_end" })
    }

    /// The query that gives each row its windows; words that begin with `__` stand for what was given.
    fn skeleton(&self) -> String {
        let has = |name: &str| self.given.iter().any(|(n, _)| *n == name);
        let offset = if has("offset") { ", __offset" } else { "" };
        let (start, end) = (self.start, self.end);
        let filter = if self.filter.is_some() { " AND __filter" } else { "" };
        let rows = format!("FROM __rel WHERE __time IS NOT NULL{filter}");
        match self.kind {
            Kind::Tumble if has("timezone") => format!(
                "SELECT *, tumble_zone_start(__time, __size, __timezone{offset}) AS {start}, \
                 tumble_zone_end(__time, __size, __timezone{offset}) AS {end} {rows}"
            ),
            Kind::Tumble => format!(
                "SELECT *, tumble_start(__time, __size{offset}) AS {start}, \
                 tumble_start(__time, __size{offset}) + __size AS {end} {rows}"
            ),
            Kind::Hop => format!(
                "SELECT *, {start} + __size AS {end} FROM \
                 (SELECT *, unnest(hop_starts(__time, __slide, __size{offset})) AS {start} {rows}) AS __hop"
            ),
            Kind::Cumulate => format!(
                "SELECT *, tumble_start(__time, __size{offset}) AS {start}, \
                 unnest(cumulate_ends(__time, __step, __size{offset})) AS {end} {rows}"
            ),
            Kind::Session => {
                let keys: Vec<String> = (0..self.keys.len()).map(|i| format!("__key{i}")).collect();
                let over = if keys.is_empty() { String::new() } else { format!("PARTITION BY {}", keys.join(", ")) };
                format!(
                    "SELECT *, {}(__time, __gap) OVER ({over}) AS {start}, {}(__time, __gap) OVER ({over}) AS {end} {rows}",
                    session::START,
                    session::END
                )
            }
        }
    }

    fn derived(self, relation: TableFactor, alias: TableAlias) -> Result<TableFactor> {
        let skeleton = self.skeleton();
        let mut query = Parser::new(&PostgreSqlDialect {})
            .try_with_sql(&skeleton)
            .and_then(|mut p| p.parse_query())
            .map_err(|e| SqlError::internal(format!("window function: {e}")))?;
        let mut words: Vec<(String, Expr)> =
            self.given.into_iter().map(|(name, value)| (format!("__{name}"), value)).collect();
        words.push(("__time".to_owned(), self.time));
        words.extend(self.filter.map(|f| ("__filter".to_owned(), Expr::Nested(Box::new(f)))));
        words.extend(self.keys.into_iter().enumerate().map(|(i, k)| (format!("__key{i}"), k)));
        let mut fill = Fill { words, relation: Some(relation) };
        if let ControlFlow::Break(()) = query.visit(&mut fill) {
            return Err(SqlError::internal("window function has more than one relation"));
        }
        Ok(TableFactor::Derived { lateral: false, subquery: query, alias: Some(alias), sample: None })
    }
}

fn plain_alias(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: Vec::new(), at: None }
}

/// The call a table factor is, if it is one of ours: its arguments and alias.
fn call_of(factor: &mut TableFactor) -> Option<(Kind, &ObjectName, &Vec<FunctionArg>, &mut Option<TableAlias>)> {
    match factor {
        TableFactor::Table { name, args: Some(args), alias, .. } => Some((Kind::of(name)?, &*name, &args.args, alias)),
        TableFactor::Function { name, args, alias, .. } => Some((Kind::of(name)?, &*name, &*args, alias)),
        // TABLE(TUMBLE(..))
        TableFactor::TableFunction { expr: Expr::Function(f), alias } => match &f.args {
            FunctionArguments::List(list) => Some((Kind::of(&f.name)?, &f.name, &list.args, alias)),
            _ => None,
        },
        _ => None,
    }
}

impl Rewriter<'_> {
    fn table_factor(&self, factor: &mut TableFactor) -> Result<()> {
        let Some((kind, name, args, alias)) = call_of(factor) else { return Ok(()) };
        let (at, args, alias) = (place(self.text, name), args.clone(), alias.take());
        let located = |mut e: SqlError| {
            e.position = e.position.or(at);
            e
        };
        *factor = derived(kind, args, alias).map_err(located)?;
        Ok(())
    }
}

fn place(text: &str, name: &ObjectName) -> Option<usize> {
    use sqlparser::ast::Spanned;
    let start = name.span().start;
    char_offset(text, start.line, start.column).or_else(|| find_word(text, &name.to_string()))
}

fn derived(kind: Kind, mut args: Vec<FunctionArg>, alias: Option<TableAlias>) -> Result<TableFactor> {
    let wrong = |why: &str| Call::wrong(kind, why);
    let is_data = |a: &FunctionArg| match a {
        FunctionArg::Named { name, .. } | FunctionArg::ExprNamed { name: Expr::Identifier(name), .. } => {
            name.value.eq_ignore_ascii_case("data")
        }
        _ => false,
    };
    // The relation is the argument that is called so, or the first one.
    let at = args.iter().position(is_data).unwrap_or(0);
    if at >= args.len() {
        return Err(wrong("wrong number of arguments"));
    }
    let relation = match args.remove(at) {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(e), .. }
        | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(e), .. } => e,
        _ => return Err(wrong("an expression is expected")),
    };
    let call = Call::new(kind, args)?;
    let (relation, name) = relation_of(relation).ok_or_else(|| wrong("a relation is expected"))?;
    // Columns stay reachable by the relation's name.
    let alias = alias.unwrap_or_else(|| plain_alias(name.unwrap_or_else(|| Ident::new(kind.name()))));
    call.derived(relation, alias)
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
fn relation_of(e: Expr) -> Option<(TableFactor, Option<Ident>)> {
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
        (factor, last)
    };
    match e {
        Expr::Identifier(name) => Some(table(vec![name])),
        Expr::CompoundIdentifier(parts) => Some(table(parts)),
        Expr::Subquery(query) => {
            Some((TableFactor::Derived { lateral: false, subquery: query, alias: None, sample: None }, None))
        }
        Expr::Nested(inner) => relation_of(*inner),
        _ => None,
    }
}

/// Puts the user's expressions into the skeleton.
struct Fill {
    words: Vec<(String, Expr)>,
    relation: Option<TableFactor>,
}

impl VisitorMut for Fill {
    type Break = ();

    fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = &*e
            && let Some((_, new)) = self.words.iter().find(|(word, _)| *word == name.value)
        {
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
