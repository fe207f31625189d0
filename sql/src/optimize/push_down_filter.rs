//! Filters stay above what gives a row for no rows.
//!
//! DataFusion's `push_down_filter` moves a condition below an aggregate if all of its columns are group columns. That holds
//! for a condition without columns as well (a scalar subquery, a constant of an inner query), and is wrong for an aggregate
//! without groups: `count(*)` of no rows is a row, so the condition has to be asked after it. The same holds for grouping
//! sets, one of which may be empty, and for `DISTINCT ON`, whose choice of rows a condition below would change.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// The rules, with `push_down_filter` made safe.
pub(super) fn guarded(rules: Vec<Rule>) -> Vec<Rule> {
    let guard = |rule: Rule| -> Rule {
        if rule.name() == "push_down_filter" { Arc::new(GuardedPushDownFilter { rule }) } else { rule }
    };
    rules.into_iter().map(guard).collect()
}

#[derive(Debug)]
struct GuardedPushDownFilter {
    rule: Rule,
}

impl OptimizerRule for GuardedPushDownFilter {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        if stays(&plan) { Ok(Transformed::no(plan)) } else { self.rule.rewrite(plan, config) }
    }
}

/// Whether a plan is a filter, or several, directly above something that gives rows of its own.
fn stays(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    let mut input = filter.input.as_ref();
    while let LogicalPlan::Filter(inner) = input {
        input = inner.input.as_ref();
    }
    match input {
        LogicalPlan::Aggregate(a) => {
            a.group_expr.is_empty() || a.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_)))
        }
        LogicalPlan::Distinct(Distinct::On(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use datafusion::prelude::SessionContext;

    use crate::session::session_state;

    async fn rows(sql: &str) -> usize {
        let context = SessionContext::new_with_state(session_state(1));
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        batches.iter().map(|b| b.num_rows()).sum()
    }

    #[tokio::test]
    async fn a_condition_without_columns_is_asked_after_the_row_of_no_rows() {
        let nothing = "(SELECT 1 AS x WHERE false) t";
        assert_eq!(
            rows(&format!("SELECT count(*) AS n FROM {nothing} HAVING (SELECT max(x) FROM {nothing}) > 1")).await,
            0
        );
        let constant = format!("SELECT * FROM (SELECT char_length('abc') AS c, count(*) AS n FROM {nothing}) q");
        assert_eq!(rows(&format!("{constant} WHERE c > 5")).await, 0);
        assert_eq!(rows(&format!("{constant} WHERE c < 5")).await, 1);
    }
}
