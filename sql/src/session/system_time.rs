//! `a JOIN d FOR SYSTEM_TIME AS OF t ON ..`: the version of `d` that belongs to a row of `a`.
//!
//! `PROCTIME()`, the version when the row arrives, is a marked join, see [`crate::arrival`].

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, JoinConstraint, JoinOperator, Query, Select, TableFactor, TableVersion, TableWithJoins, VisitMut,
    VisitorMut,
};

use super::errors::find_word;
use crate::arrival;
use crate::error::{Result, SqlError};

/// Rewrites every such join of the query.
pub(super) fn rewrite(query: &mut Query, text: &str) -> Result<()> {
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
        let TableFactor::Table { version, .. } = &mut join.relation else { return Ok(()) };
        let Some(TableVersion::ForSystemTimeAsOf(time)) = version else { return Ok(()) };
        if !is_proctime(time) {
            return Err(SqlError::unsupported(format!("FOR SYSTEM_TIME AS OF {time} is not supported"))
                .hint("Use PROCTIME(), or an ASOF JOIN for the version of a time of the row."));
        }
        *version = None;
        let (JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on)) =
            &mut join.join_operator
        else {
            return Err(SqlError::unsupported("FOR SYSTEM_TIME AS OF is supported for inner and LEFT joins only")
                .hint("The relation with versions is the right side."));
        };
        let JoinConstraint::On(condition) = on else {
            return Err(SqlError::unsupported("a join with FOR SYSTEM_TIME AS OF needs an ON")
                .hint("Write .. JOIN d FOR SYSTEM_TIME AS OF PROCTIME() ON a.k = d.k."));
        };
        let marker = Expr::Function(ast::Function {
            name: ast::ObjectName::from(vec![ast::Ident::new(arrival::MARKER)]),
            uses_odbc_syntax: false,
            parameters: ast::FunctionArguments::None,
            args: ast::FunctionArguments::List(ast::FunctionArgumentList {
                duplicate_treatment: None,
                args: Vec::new(),
                clauses: Vec::new(),
            }),
            filter: None,
            null_treatment: None,
            over: None,
            within_group: Vec::new(),
        });
        let written = Box::new(Expr::Nested(Box::new(condition.clone())));
        *condition = Expr::BinaryOp { left: Box::new(marker), op: ast::BinaryOperator::And, right: written };
        Ok(())
    }

    fn placed(&self, e: SqlError) -> SqlError {
        match (e.position, find_word(self.text, "system_time")) {
            (None, Some(at)) => e.at(at),
            _ => e,
        }
    }
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
