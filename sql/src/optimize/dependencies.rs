//! What determines what is forgotten at UNNEST.
//!
//! DataFusion knows of a GROUP BY that its keys are unique, and takes them for unique still after an UNNEST, which repeats
//! them for every element. Rules that trust it would drop a DISTINCT, group by too few columns or leave out a join. Those
//! rules see plans in which the dependencies end at an UNNEST.

use std::sync::Arc;

use datafusion::common::FunctionalDependencies;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::Unnest;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// The rules that look at dependencies.
const TRUSTING: &[&str] = &["replace_distinct_aggregate", "optimize_projections", "eliminate_join"];

/// The rules, where those that look at dependencies see none that are wrong.
pub(super) fn guarded(rules: Vec<Rule>) -> Vec<Rule> {
    let guard =
        |rule: Rule| -> Rule { if TRUSTING.contains(&rule.name()) { Arc::new(Guarded { rule }) } else { rule } };
    rules.into_iter().map(guard).collect()
}

#[derive(Debug)]
struct Guarded {
    rule: Rule,
}

impl OptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.rule.name()
    }

    // The whole plan at once.
    fn apply_order(&self) -> Option<ApplyOrder> {
        None
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let has_unnest = plan.exists(|node| Ok(matches!(node, LogicalPlan::Unnest(_))))?;
        let cut = if has_unnest { cut(plan)? } else { Transformed::no(plan) };
        cut.transform_data(|plan| match self.rule.apply_order() {
            None => self.rule.rewrite(plan, config),
            Some(ApplyOrder::TopDown) => plan.transform_down_with_subqueries(|node| self.rule.rewrite(node, config)),
            Some(ApplyOrder::BottomUp) => plan.transform_up_with_subqueries(|node| self.rule.rewrite(node, config)),
        })
    }
}

/// The plan without dependencies that come through an UNNEST.
fn cut(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up_with_subqueries(|node| {
        match node {
            LogicalPlan::Unnest(u) if !u.schema.functional_dependencies().is_empty() => {
                let none = FunctionalDependencies::empty();
                let schema = Arc::new(u.schema.as_ref().clone().with_functional_dependencies(none)?);
                Ok(Transformed::yes(LogicalPlan::Unnest(Unnest { schema, ..u })))
            }
            LogicalPlan::Unnest(_) => Ok(Transformed::no(node)),
            // What is above has them from its input.
            node if !node.schema().functional_dependencies().is_empty() && !node.inputs().is_empty() => {
                Ok(Transformed::yes(node.recompute_schema()?))
            }
            node => Ok(Transformed::no(node)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use crate::session::testing::{context, run};

    #[test]
    fn keys_of_groups_are_no_keys_of_their_elements() {
        let k: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2, 2]));
        let v: ArrayRef = Arc::new(Int64Array::from(vec![7, 7, 7, 8]));
        let context = context(2, &[("t", vec![("k", k), ("v", v)])]);
        let lists = "(SELECT k, unnest(vs) AS v FROM (SELECT k, array_agg(v) AS vs FROM t GROUP BY k) g) e";
        let rows = |sql: String| {
            run(&context, &sql).unwrap_or_else(|e| panic!("{sql}: {e}")).iter().map(|b| b.num_rows()).sum::<usize>()
        };
        assert_eq!(rows(format!("SELECT DISTINCT k, v FROM {lists}")), 3);
        assert_eq!(rows(format!("SELECT DISTINCT k FROM {lists}")), 2);
        assert_eq!(rows(format!("SELECT k, v, count(*) FROM {lists} GROUP BY k, v")), 3);
        assert_eq!(rows(format!("SELECT k, count(*) FROM {lists} GROUP BY k")), 2);
        assert_eq!(rows(format!("SELECT a.k FROM t a JOIN {lists} ON a.k = e.k")), 8);
    }
}
