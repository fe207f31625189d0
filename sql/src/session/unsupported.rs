//! Queries that would be planned and give wrong answers: they are refused instead, in views and in SELECT alike.

use std::ops::ControlFlow;

use sqlparser::ast::{Query, SetExpr, SetOperator, SetQuantifier, TableFactor, Visit, Visitor};

use crate::error::{Result, SqlError};

/// Locks, samples and table versions would be ignored.
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
    let by_name =
        matches!(set_quantifier, SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName);
    if by_name && !matches!(op, SetOperator::Union) {
        return ControlFlow::Break(
            SqlError::unsupported(format!("{op} BY NAME is not supported"))
                .hint("Write the columns of both sides in the same order."),
        );
    }
    check_set(left)?;
    check_set(right)
}
