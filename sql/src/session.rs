//! The one DataFusion session set-up: same functions, rules and options for views and for ad-hoc SELECT, so that
//! both always agree.

use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use sqlparser::ast;

use crate::error::{Result, SqlError};

/// A fresh session state with our functions, analyzer and optimizer rules and options. Tables are added by the caller
/// (catalog `millstream`, default schema `public`).
///
/// `target_partitions` matters only for ad-hoc SELECT.
pub fn session_state(target_partitions: usize) -> SessionState {
    let _ = target_partitions;
    unimplemented!("planner helper")
}

/// Plans a query (not yet optimised): rewrites window table functions, resolves names, checks limits.
/// `text` is the statement's text, for positions in errors.
pub async fn plan_query(state: &SessionState, query: &ast::Query, text: &str) -> Result<LogicalPlan> {
    let _ = (state, query, text);
    Err(SqlError::internal("not built yet"))
}

/// The same failure with SQLSTATE, and a position and "did you mean" where DataFusion's diagnostics give them.
pub fn from_datafusion(error: DataFusionError) -> SqlError {
    SqlError::internal(error.to_string())
}
