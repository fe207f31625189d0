//! IncPlan to bytes and back.

use datafusion::execution::SessionState;

use super::IncPlan;
use crate::error::{Result, SqlError};

/// Encodes a plan for the catalog.
pub fn to_json(plan: &IncPlan) -> Result<serde_json::Value> {
    let _ = plan;
    Err(SqlError::internal("not built yet"))
}

/// Decodes what [`to_json`] wrote. Functions are found by name in `state`. An unknown version is an error.
pub fn from_json(state: &SessionState, json: &serde_json::Value) -> Result<IncPlan> {
    let _ = (state, json);
    Err(SqlError::internal("not built yet"))
}
