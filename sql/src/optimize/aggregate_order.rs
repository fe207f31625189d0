//! Aggregates whose result depends on the order of their rows get a total one.
//!
//! `array_agg(x)` becomes `array_agg(x ORDER BY x)`, `string_agg(x, ',' ORDER BY y)` gets `x` after `y`: what SQL leaves
//! open is decided by the values alone, in ad-hoc SELECT as in views.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::error::{SqlError, SqlState};
use crate::functions::Collect;

/// See the module.
#[derive(Debug)]
pub struct TotalOrder;

impl AnalyzerRule for TotalOrder {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let done = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Aggregate(a) if a.aggr_expr.iter().any(|e| open(e).is_some()) => {
                let aggr_expr = a.aggr_expr.iter().map(ordered).collect::<Result<Vec<_>>>()?;
                let new = Aggregate::try_new_with_schema(a.input, a.group_expr, aggr_expr, a.schema)?;
                Ok(Transformed::yes(LogicalPlan::Aggregate(new)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(done.data)
    }
    fn name(&self) -> &str {
        "total_order_of_aggregates"
    }
}

/// The call, if its order can be completed.
fn open(e: &Expr) -> Option<&AggregateFunction> {
    match e {
        Expr::Alias(a) => open(&a.expr),
        Expr::AggregateFunction(f) if Collect::named(f.func.name()).is_some() => Some(f),
        _ => None,
    }
}

fn ordered(e: &Expr) -> Result<Expr> {
    let Some(f) = open(e) else { return Ok(e.clone()) };
    // An argument may have been cast to the type that the function takes.
    let is_argument = |by: &Expr| {
        let same = |arg: &Expr| arg == by || matches!(arg, Expr::Cast(c) if c.expr.as_ref() == by);
        f.params.args.iter().any(same)
    };
    if f.params.distinct && !f.params.order_by.iter().all(|by| is_argument(&by.expr)) {
        let message = "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list";
        return Err(DataFusionError::External(Box::new(SqlError::new(SqlState("42P10"), message))));
    }
    let mut new = f.clone();
    for arg in &f.params.args {
        let there = new.params.order_by.iter().any(|by| by.expr == *arg);
        if !there && !matches!(arg, Expr::Literal(..)) {
            new.params.order_by.push(Sort::new(arg.clone(), true, false));
        }
    }
    if new.params.order_by.is_empty() {
        new.params.order_by.extend(f.params.args.first().map(|a| Sort::new(a.clone(), true, false)));
    }
    // The column keeps its name.
    let (relation, name) = e.qualified_name();
    Ok(Expr::AggregateFunction(new).alias_qualified(relation, name))
}
