//! What a view may not call: functions whose value is not a function of the rows.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};

use crate::error::{Result, SqlError};
use crate::session::from_datafusion;

/// An error that names the function and the clause if the plan calls a function that is not immutable.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let mut found: Option<(String, &'static str)> = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            e.apply(|e| {
                if let Some(name) = changing(e) {
                    found.get_or_insert((name, clause(node)));
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(from_datafusion)?;
    let Some((name, clause)) = found else { return Ok(()) };
    let error = SqlError::unsupported(format!("function {name}() cannot be used in {clause} of a view"));
    Err(match name.as_str() {
        "random" | "uuid" => error.detail("Its value changes from call to call, so the view could not be maintained."),
        _ => error
            .detail("Its value changes while no row changes, so the view could not be maintained.")
            .hint("Use it in the query that reads the view."),
    })
}

fn changing(e: &Expr) -> Option<String> {
    match e {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => Some(f.name().to_owned()),
        Expr::AggregateFunction(f) if f.func.signature().volatility == Volatility::Volatile => {
            Some(f.func.name().to_owned())
        }
        _ => None,
    }
}

fn clause(node: &LogicalPlan) -> &'static str {
    match node {
        LogicalPlan::Filter(f) if matches!(f.input.as_ref(), LogicalPlan::Aggregate(_)) => "the HAVING clause",
        LogicalPlan::Filter(_) | LogicalPlan::TableScan(_) => "the WHERE clause",
        LogicalPlan::Aggregate(_) => "GROUP BY or an aggregate",
        LogicalPlan::Join(_) => "the join condition",
        LogicalPlan::Sort(_) => "the ORDER BY clause",
        LogicalPlan::Window(_) => "a window function",
        LogicalPlan::Values(_) => "the VALUES list",
        LogicalPlan::Limit(_) => "the LIMIT clause",
        _ => "the select list",
    }
}
