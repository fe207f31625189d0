//! LogicalPlan to IncPlan.

use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

use super::{ChangelogKind, IncPlan, RelationId};
use crate::error::{Result, SqlError};

/// Facts about relations that the builder needs.
pub trait Relations: Send + Sync {
    /// Id and changelog kind of a table in the plan.
    fn resolve(&self, name: &TableReference) -> Option<(RelationId, ChangelogKind)>;
}

/// Optimises a view's plan with our rule list and turns it into an [`IncPlan`]. Constructs without a native operator
/// become recompute nodes, per subtree; what cannot be maintained at all (volatile functions, now()) is an error that
/// names it.
pub fn build(state: &SessionState, logical: LogicalPlan, relations: &dyn Relations) -> Result<IncPlan> {
    let _ = (state, logical, relations);
    Err(SqlError::internal("not built yet"))
}
