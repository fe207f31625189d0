//! `a JOIN d FOR SYSTEM_TIME AS OF t ON ..`: the version of `d` that belongs to a row of `a`.
//!
//! - `PROCTIME()`, the version when the row arrives, is a marked join, see [`crate::arrival`].
//! - `a.ts`, the version of that time, is an ASOF join with the latest row of `d` that is not later, see [`crate::asof`].
//!   What the time of a row of `d` is say its watermark and [`versions`].

mod versions;

use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use sqlparser::ast::{
    self, Expr, Ident, JoinConstraint, JoinOperator, Query, Select, Spanned as _, TableFactor, TableVersion,
    TableWithJoins, VisitMut, VisitorMut,
};

use self::versions::Versions;
pub use self::versions::{VersionTime, VersionTimes};
use super::errors::{convert, find_word};
use crate::error::{Result, SqlError};
use crate::span::char_position;
use crate::{arrival, asof};

/// Rewrites every such join of the query.
pub(super) async fn rewrite(query: &mut Query, state: &SessionState, text: &str) -> Result<()> {
    let versions = Versions::of(query, state).await?;
    match query.visit(&mut Rewriter { text, versions: &versions }) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Refuses the joins with versions that cannot be made, in a plan whose types are not coerced yet.
pub(super) fn check(plan: &LogicalPlan, text: &str) -> Result<()> {
    let mut found = Ok(());
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = node {
            found = asof::check_versions(join);
        }
        Ok(if found.is_err() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    visited.and(found).map_err(|e| placed(convert(&e, text, &[]), text))
}

/// With the place of the clause, if it has none.
fn placed(e: SqlError, text: &str) -> SqlError {
    match (e.position, find_word(text, "system_time")) {
        (None, Some(at)) => e.at(at),
        _ => e,
    }
}

struct Rewriter<'a> {
    text: &'a str,
    versions: &'a Versions,
}

impl VisitorMut for Rewriter<'_> {
    type Break = SqlError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        self.all(select.from.iter_mut())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => self.all(std::iter::once(table_with_joins.as_mut())),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Rewriter<'_> {
    fn all<'t>(&self, from: impl Iterator<Item = &'t mut TableWithJoins>) -> ControlFlow<SqlError> {
        for tables in from {
            if let TableFactor::Table { version: Some(TableVersion::ForSystemTimeAsOf(_)), .. } = &tables.relation {
                return ControlFlow::Break(
                    self.placed(
                        SqlError::unsupported("reading a table as of another time is not supported")
                            .hint("FOR SYSTEM_TIME AS OF belongs to the right side of a join."),
                    ),
                );
            }
            for join in &mut tables.joins {
                if let Err(e) = self.join(join) {
                    return ControlFlow::Break(self.placed(e));
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn join(&self, join: &mut ast::Join) -> Result<()> {
        let TableFactor::Table { name, alias, version, .. } = &mut join.relation else { return Ok(()) };
        let Some(TableVersion::ForSystemTimeAsOf(time)) = version else { return Ok(()) };
        let time = time.clone();
        *version = None;
        let by_arrival = is_proctime(&time);
        let written = if by_arrival { "PROCTIME()" } else { "a.ts" };
        let (JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on)) =
            &mut join.join_operator
        else {
            return Err(SqlError::unsupported("FOR SYSTEM_TIME AS OF is supported for inner and LEFT joins only")
                .hint("The relation with versions is the right side."));
        };
        let JoinConstraint::On(condition) = on else {
            return Err(SqlError::unsupported("a join with FOR SYSTEM_TIME AS OF needs an ON")
                .hint(format!("Write .. JOIN d FOR SYSTEM_TIME AS OF {written} ON a.k = d.k.")));
        };
        let marker = match by_arrival {
            true => call(arrival::MARKER, Vec::new()),
            false => {
                let at = |e: SqlError| match char_position(self.text, name.span().start) {
                    Some(at) => e.at(at),
                    None => e,
                };
                // Of what is not there planning says more.
                let Some(column) = self.versions.column(name).map_err(at)? else { return Ok(()) };
                call(asof::VERSION_MARKER, vec![time, column_of(name, alias.as_ref(), column)])
            }
        };
        let written = Box::new(Expr::Nested(Box::new(condition.clone())));
        *condition = Expr::BinaryOp { left: Box::new(marker), op: ast::BinaryOperator::And, right: written };
        Ok(())
    }

    fn placed(&self, e: SqlError) -> SqlError {
        placed(e, self.text)
    }
}

/// A column of a relation of FROM, by the name that it has there.
fn column_of(name: &ast::ObjectName, alias: Option<&ast::TableAlias>, column: &versions::Column) -> Expr {
    let own = || Ident::with_quote('"', column.name.clone());
    let parts = match alias {
        Some(a) => vec![a.name.clone(), a.columns.get(column.position).map_or_else(own, |c| c.name.clone())],
        None => name.0.iter().filter_map(|p| p.as_ident().cloned()).chain([own()]).collect(),
    };
    Expr::CompoundIdentifier(parts)
}

fn call(function: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|e| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e))).collect();
    Expr::Function(ast::Function {
        name: ast::ObjectName::from(vec![Ident::new(function)]),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// True if `PROCTIME()` is somewhere in an expression.
pub fn has_proctime(e: &Expr) -> bool {
    ast::visit_expressions(e, |e| if is_proctime(e) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        .is_break()
}

/// True of `PROCTIME()`.
pub fn is_proctime(e: &Expr) -> bool {
    let Expr::Function(f) = e else { return false };
    let none = match &f.args {
        ast::FunctionArguments::None => true,
        ast::FunctionArguments::List(l) => l.args.is_empty(),
        ast::FunctionArguments::Subquery(_) => false,
    };
    none && f.name.to_string().eq_ignore_ascii_case("proctime")
}
