//! DataFusion's rule that orders cross joins by their equalities, kept off joins whose keys may be NULL.
//!
//! The rule puts the keys of neighbouring inner joins into one, under the meaning of NULL that the topmost has: an `=`
//! next to an `IS NOT DISTINCT FROM` would take on its meaning, or the other way round. Here the latter are conditions
//! while the rule runs; `extract_equijoin_predicate` makes them keys again.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::Join;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{LogicalPlan, Operator, binary_expr};
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EliminateCrossJoinByEquality {
    rule: EliminateCrossJoin,
}

impl OptimizerRule for EliminateCrossJoinByEquality {
    fn name(&self) -> &str {
        "eliminate_cross_join"
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let plan = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(j)
                if j.join_type == JoinType::Inner
                    && j.null_equality == NullEquality::NullEqualsNull
                    && !j.null_aware =>
            {
                let same = j.on.into_iter().map(|(l, r)| binary_expr(l, Operator::IsNotDistinctFrom, r));
                let filter = conjunction(same.chain(j.filter));
                let null_equality = NullEquality::NullEqualsNothing;
                let (left, right) = (Arc::clone(&j.left), Arc::clone(&j.right));
                let (kind, constraint) = (j.join_type, j.join_constraint);
                let join = Join::try_new(left, right, Vec::new(), filter, kind, constraint, null_equality, false)?;
                Ok(Transformed::yes(LogicalPlan::Join(join)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let changed = plan.transformed;
        let mut done = self.rule.rewrite(plan.data, config)?;
        done.transformed |= changed;
        Ok(done)
    }
}
