//! Uncorrelated scalar subqueries that give exactly one row become cross joins.
//!
//! Only a subquery that can be proved to give one row is rewritten (an aggregate without GROUP BY, or columns of
//! one): for any other the join would drop or duplicate rows where SQL asks for NULL or an error. Those stay
//! subqueries and are recomputed.

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::Filter;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// See the module.
#[derive(Debug)]
pub(super) struct SingleRowSubqueryToJoin;

impl OptimizerRule for SingleRowSubqueryToJoin {
    fn name(&self) -> &str {
        "single_row_subquery_to_join"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        match &plan {
            LogicalPlan::Filter(f) => {
                let Some((mut exprs, input)) = extract(vec![f.predicate.clone()], &f.input, config)? else {
                    return Ok(Transformed::no(plan));
                };
                let columns: Vec<Expr> = f.input.schema().columns().into_iter().map(Expr::Column).collect();
                let Some(predicate) = exprs.pop() else { return Ok(Transformed::no(plan)) };
                let filter = LogicalPlan::Filter(Filter::try_new(predicate, input.into())?);
                Ok(Transformed::yes(LogicalPlanBuilder::from(filter).project(columns)?.build()?))
            }
            LogicalPlan::Projection(p) => {
                let Some((exprs, input)) = extract(p.expr.clone(), &p.input, config)? else {
                    return Ok(Transformed::no(plan));
                };
                Ok(Transformed::yes(LogicalPlanBuilder::from(input).project(exprs)?.build()?))
            }
            _ => Ok(Transformed::no(plan)),
        }
    }
}

/// The expressions with columns in place of single-row subqueries, and the input joined with those; `None` without any.
fn extract(
    exprs: Vec<Expr>,
    input: &LogicalPlan,
    config: &dyn OptimizerConfig,
) -> Result<Option<(Vec<Expr>, LogicalPlan)>, DataFusionError> {
    let mut joined = LogicalPlanBuilder::from(input.clone());
    let mut found = false;
    let mut rewritten = Vec::with_capacity(exprs.len());
    let names = NamePreserver::new_for_projection();
    for expr in exprs {
        let name = names.save(&expr);
        let new = expr.transform_up(|e| match &e {
            Expr::ScalarSubquery(s) if s.outer_ref_columns.is_empty() && gives_one_row(&s.subquery) => {
                let alias = config.alias_generator().next("__scalar");
                let column = Column::new(Some(alias.clone()), s.subquery.schema().field(0).name());
                let right = LogicalPlanBuilder::from(s.subquery.as_ref().clone()).alias(alias)?.build()?;
                joined = joined.clone().cross_join(right)?;
                found = true;
                Ok(Transformed::yes(Expr::Column(column)))
            }
            _ => Ok(Transformed::no(e)),
        })?;
        rewritten.push(name.restore(new.data));
    }
    Ok(if found { Some((rewritten, joined.build()?)) } else { None })
}

/// True if the plan gives exactly one row whatever the data.
fn gives_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty(),
        LogicalPlan::Projection(p) => {
            // A set-returning function in the select list may give more or none.
            !p.expr.iter().any(|e| e.exists(|x| Ok(matches!(x, Expr::Unnest(_)))).unwrap_or(true))
                && gives_one_row(&p.input)
        }
        LogicalPlan::SubqueryAlias(a) => gives_one_row(&a.input),
        LogicalPlan::Sort(s) => s.fetch.is_none_or(|n| n > 0) && gives_one_row(&s.input),
        LogicalPlan::EmptyRelation(e) => e.produce_one_row,
        _ => false,
    }
}
