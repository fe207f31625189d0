//! The optimizer rule lists: one for SELECT, one for views.
//!
//! Both are DataFusion's list with some rules made safe ([`cross_join`], [`dependencies`], [`push_down_filter`]). A SELECT gets its set operations expanded. The
//! list for views is without the rules that change which rows a query gives when the order is not total
//! (`push_down_limit`), that hide operators we run natively (`replace_distinct_aggregate`, unions), or that only move
//! cheap expressions about. `now()` is not folded there: the optimizer is told no query start time.

mod aggregate_order;
mod cross_join;
mod dependencies;
mod distinct_on;
pub(crate) mod float_keys;
mod push_down_filter;
mod rounds;
mod row_order;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::common::alias::AliasGenerator;
use datafusion::common::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};

pub use aggregate_order::TotalOrder;
pub use distinct_on::FirstOfEach;
pub use float_keys::FloatKeys;
pub use rounds::{ROUND_ROWS_MAX, ROUNDS_MAX, RoundsMax, rounds_max, too_many_rounds, too_many_rows};
pub use row_order::physical_rules;

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
    safe_rules().filter(|rule| !DROPPED.contains(&rule.name())).collect()
}

/// The rules for SELECT, in order.
pub fn batch_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    // What they become is optimised like the rest.
    let first: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(crate::decorrelate::set_op::ExpandSetOps);
    std::iter::once(first).chain(safe_rules()).collect()
}

fn safe_rules() -> impl Iterator<Item = Arc<dyn OptimizerRule + Send + Sync>> {
    let rules = dependencies::guarded(push_down_filter::guarded(Optimizer::new().rules)).into_iter().map(|rule| {
        match rule.name() {
            "eliminate_cross_join" => Arc::new(cross_join::EliminateCrossJoinByEquality::default()),
            _ => rule,
        }
    });
    // Conditions that the one above took out of joins become join keys again.
    rules.chain([Arc::new(ExtractEquijoinPredicate::new()) as Arc<dyn OptimizerRule + Send + Sync>])
}

/// Type-checked plan of a view.
pub fn analyze(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    state.analyzer().execute_and_check(plan, &state.config_options().clone(), |_, _| {})
}

/// Optimises an analysed plan with the rules for views.
pub fn optimize(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    Optimizer::with_rules(view_rules()).optimize(plan, &ViewConfig { state }, |_, _| {})
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
