//! Aggregates whose result depends on the order of their rows get a total one.
//!
//! `array_agg(x)` becomes `array_agg(x ORDER BY x)`, `string_agg(x, ',' ORDER BY y)` gets `x` after `y`: what SQL leaves
//! open is decided by the values alone, in ad-hoc SELECT as in views. `json_agg(x)` and its like become collections of
//! texts, ordered by `x`; in windows too. Shares of percentiles become constants.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, Sort, WindowFunctionDefinition};
use datafusion::logical_expr::logical_plan::{Aggregate, Window};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::create_physical_expr;

use crate::error::{SqlError, SqlState};
use crate::functions::Collect;
use crate::functions::json::aggregate::collected;

/// See the module.
#[derive(Debug)]
pub struct TotalOrder;

impl AnalyzerRule for TotalOrder {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let done = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Aggregate(a) => {
                let input = a.input.schema();
                let new = a.aggr_expr.iter().map(|e| aggregate(e, input)).collect::<Result<Vec<_>>>()?;
                let aggr_expr = match replaced(&a.aggr_expr, new) {
                    Some(new) => new,
                    None => return Ok(Transformed::no(LogicalPlan::Aggregate(a))),
                };
                let new = Aggregate::try_new_with_schema(a.input, a.group_expr, aggr_expr, a.schema)?;
                Ok(Transformed::yes(LogicalPlan::Aggregate(new)))
            }
            LogicalPlan::Window(w) => {
                let input = w.input.schema();
                let new = w.window_expr.iter().map(|e| window(e, input)).collect::<Result<Vec<_>>>()?;
                let window_expr = match replaced(&w.window_expr, new) {
                    Some(new) => new,
                    None => return Ok(Transformed::no(LogicalPlan::Window(w))),
                };
                let new = Window::try_new_with_schema(window_expr, w.input, w.schema)?;
                Ok(Transformed::yes(LogicalPlan::Window(new)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(done.data)
    }
    fn name(&self) -> &str {
        "total_order_of_aggregates"
    }
}

/// The new expressions in the place of the old ones, under the names of those. `None` if there is none.
fn replaced(old: &[Expr], new: Vec<Option<Expr>>) -> Option<Vec<Expr>> {
    if new.iter().all(Option::is_none) {
        return None;
    }
    let one = |(old, new): (&Expr, Option<Expr>)| match new {
        Some(new) => {
            let (relation, name) = old.qualified_name();
            new.alias_qualified(relation, name)
        }
        None => old.clone(),
    };
    Some(old.iter().zip(new).map(one).collect())
}

fn aggregate(e: &Expr, input: &DFSchema) -> Result<Option<Expr>> {
    let f = match e {
        Expr::Alias(a) => return aggregate(&a.expr, input),
        Expr::AggregateFunction(f) => f,
        _ => return Ok(None),
    };
    let p = &f.params;
    let json = collected(f.func.name(), &p.args, p.filter.as_deref(), input)?;
    let kind = Collect::named(f.func.name());
    if json.is_none() && kind.is_none_or(Collect::is_json) {
        return Ok(None);
    }
    let mut new = ordered(f)?;
    if let Some((func, args, nulls)) = json {
        (new.func, new.params.args) = (func, args);
        new.params.null_treatment = nulls;
    }
    if kind.is_some_and(Collect::takes_share)
        && let Some(share) = new.params.args.get_mut(1)
        && let Some(value) = constant(share)?
    {
        *share = Expr::Literal(value, None);
    }
    Ok(Some(Expr::AggregateFunction(new)))
}

fn window(e: &Expr, input: &DFSchema) -> Result<Option<Expr>> {
    let f = match e {
        Expr::Alias(a) => return window(&a.expr, input),
        Expr::WindowFunction(f) => f,
        _ => return Ok(None),
    };
    let WindowFunctionDefinition::AggregateUDF(function) = &f.fun else { return Ok(None) };
    let p = &f.params;
    let Some((function, args, nulls)) = collected(function.name(), &p.args, p.filter.as_deref(), input)? else {
        return Ok(None);
    };
    let mut new = f.clone();
    new.fun = WindowFunctionDefinition::AggregateUDF(function);
    new.params.args = args;
    new.params.null_treatment = nulls.or(Some(NullTreatment::RespectNulls));
    Ok(Some(Expr::WindowFunction(new)))
}

fn ordered(f: &AggregateFunction) -> Result<AggregateFunction> {
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
        let fixed = constant_within(arg);
        if !there && !fixed {
            new.params.order_by.push(Sort::new(arg.clone(), true, false));
        }
    }
    if new.params.order_by.is_empty() {
        new.params.order_by.extend(f.params.args.first().map(|a| Sort::new(a.clone(), true, false)));
    }
    Ok(new)
}

/// True if the expression reads nothing.
fn constant_within(e: &Expr) -> bool {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut free = !e.is_volatile();
    let walked = e.apply(|e| {
        let reads = matches!(
            e,
            Expr::Column(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::Placeholder(_)
        );
        free &= !reads;
        Ok(if reads { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.is_ok() && free
}

/// The value of an expression that reads nothing and is not a literal yet.
fn constant(e: &Expr) -> Result<Option<ScalarValue>> {
    if matches!(e, Expr::Literal(..)) || !constant_within(e) {
        return Ok(None);
    }
    let none = DFSchema::empty();
    let value = create_physical_expr(e, &none, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let one_row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)?;
    let array = value.evaluate(&one_row)?.to_array(1)?;
    ScalarValue::try_from_array(&array, 0).map(Some)
}
