//! The optimizer rule list for views.
//!
//! It is DataFusion's list without the rules that change which rows a query gives when the order is not total
//! (`push_down_limit`), that hide operators we run natively (`replace_distinct_aggregate`, unions), or that only move
//! cheap expressions about. `now()` is not folded: the optimizer is told no query start time.

mod push_down_filter;
mod scalar_subquery;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::common::alias::AliasGenerator;
use datafusion::common::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};

pub use push_down_filter::guarded;

/// Rules of DataFusion that do not apply to views.
const DROPPED: &[&str] = &[
    "push_down_limit",
    "replace_distinct_aggregate",
    "optimize_unions",
    "unions_to_filter",
    "filter_null_join_keys",
    "extract_leaf_expressions",
    "push_down_leaf_projections",
];

/// The rules for views, in order.
pub fn view_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = Vec::new();
    for rule in Optimizer::new().rules {
        if rule.name() == "scalar_subquery_to_join" {
            rules.push(Arc::new(scalar_subquery::SingleRowSubqueryToJoin));
        }
        if !DROPPED.contains(&rule.name()) {
            rules.push(rule);
        }
    }
    rules
}

/// Type-checked plan of a view.
pub fn analyze(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    state.analyzer().execute_and_check(plan, &state.config_options().clone(), |_, _| {})
}

/// Optimises an analysed plan with the rules for views.
pub fn optimize(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    Optimizer::with_rules(guarded(view_rules())).optimize(plan, &ViewConfig { state }, |_, _| {})
}

/// The session's configuration, without a clock.
struct ViewConfig<'a> {
    state: &'a SessionState,
}

impl OptimizerConfig for ViewConfig<'_> {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        None
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        OptimizerConfig::alias_generator(self.state)
    }

    fn options(&self) -> Arc<ConfigOptions> {
        OptimizerConfig::options(self.state)
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        Some(self.state)
    }
}
