//! Queries that would be planned and give wrong answers: they are refused instead, in views and in SELECT alike.

use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan};
use sqlparser::ast::{Query, SetExpr, SetOperator, SetQuantifier, TableFactor, Visit, Visitor};

use super::from_datafusion;
use crate::error::{Result, SqlError};

/// EXCEPT ALL and INTERSECT ALL lose the number of duplicates; locks, samples and table versions would be ignored.
pub(super) fn check_syntax(query: &Query) -> Result<()> {
    struct Sets;
    impl Visitor for Sets {
        type Break = SqlError;
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<SqlError> {
            if let Some(lock) = query.locks.first() {
                return ControlFlow::Break(
                    SqlError::unsupported(format!("{lock} is not supported"))
                        .hint("Reads see one epoch and take no locks."),
                );
            }
            check_set(&query.body)
        }
        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<SqlError> {
            let refused = match factor {
                TableFactor::Table { version: Some(_), .. } => "reading a table as of another time",
                TableFactor::Table { sample: Some(_), .. } => "TABLESAMPLE",
                TableFactor::MatchRecognize { .. } => "MATCH_RECOGNIZE",
                _ => return ControlFlow::Continue(()),
            };
            ControlFlow::Break(SqlError::unsupported(format!("{refused} is not supported")))
        }
    }
    match query.visit(&mut Sets) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn check_set(body: &SetExpr) -> ControlFlow<SqlError> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return ControlFlow::Continue(()) };
    let all = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
    if all && !matches!(op, SetOperator::Union) {
        return ControlFlow::Break(
            SqlError::unsupported(format!("{op} ALL is not supported"))
                .hint(format!("Use {op}, or number the duplicates with row_number() and use {op} on that.")),
        );
    }
    check_set(left)?;
    check_set(right)
}

/// NOT IN (subquery) that is only a part of a condition takes NULL for false.
pub(super) fn check_plan(plan: &LogicalPlan) -> Result<()> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            let whole = matches!(node, LogicalPlan::Filter(_));
            for part in if whole { split_conjunction(e) } else { vec![e] } {
                let alone = match part {
                    Expr::InSubquery(_) => true,
                    Expr::Not(inner) => matches!(inner.as_ref(), Expr::InSubquery(_)),
                    _ => false,
                };
                if !(whole && alone) {
                    found |= negated_in(part)?;
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })
    .map_err(from_datafusion)?;
    match found {
        false => Ok(()),
        true => Err(SqlError::unsupported("NOT IN (subquery) inside a larger condition is not supported")
            .hint("Use NOT EXISTS (SELECT .. WHERE ..).")),
    }
}

fn negated_in(e: &Expr) -> datafusion::error::Result<bool> {
    e.exists(|x| {
        Ok(match x {
            Expr::InSubquery(s) => s.negated,
            Expr::Not(inner) => inner.exists(|y| Ok(matches!(y, Expr::InSubquery(_))))?,
            _ => false,
        })
    })
}
