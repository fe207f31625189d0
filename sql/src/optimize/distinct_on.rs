//! `SELECT DISTINCT ON (..)` is the first row of each group: `row_number() = 1`.
//!
//! DataFusion would take the first value of every column by itself, and among rows that tie any of them.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::logical_plan::{Distinct, DistinctOn};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, WindowFrame, cast, lit};
use datafusion::optimizer::AnalyzerRule;

/// Name of the row number's column.
const NUMBER: &str = "__number";

/// See the module.
#[derive(Debug)]
pub struct FirstOfEach;

impl AnalyzerRule for FirstOfEach {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let done = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Distinct(Distinct::On(on)) => first_of_each(on).map(Transformed::yes),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(done.data)
    }
    fn name(&self) -> &str {
        "first_of_each"
    }
}

fn first_of_each(on: DistinctOn) -> Result<LogicalPlan> {
    let number = match row_number() {
        Expr::WindowFunction(f) => f.fun,
        other => return Err(datafusion::error::DataFusionError::Internal(format!("{other} is no window function"))),
    };
    // ORDER BY begins with what the groups are: those terms are alike within a group, and order the result.
    let (of_groups, order_by): (Vec<_>, Vec<_>) =
        on.sort_expr.unwrap_or_default().into_iter().partition(|s| on.on_expr.contains(&s.expr));
    let ordered = !order_by.is_empty();
    let params = WindowFunctionParams {
        args: Vec::new(),
        partition_by: on.on_expr,
        order_by,
        window_frame: WindowFrame::new(ordered.then_some(false)),
        filter: None,
        null_treatment: None,
        distinct: false,
    };
    let number = Expr::from(WindowFunction { fun: number, params }).alias(NUMBER);
    // The columns keep their names and their qualifiers, those of the number aside.
    let columns = on.select_expr.into_iter().zip(on.schema.iter()).map(|(e, (qualifier, field))| {
        let same = matches!(&e, Expr::Column(c) if c.relation.as_ref() == qualifier && c.name == *field.name());
        if same { e } else { e.alias_qualified(qualifier.cloned(), field.name()) }
    });
    let columns: Vec<Expr> = columns.collect();
    let first = LogicalPlanBuilder::from(Arc::unwrap_or_clone(on.input))
        .window(vec![number])?
        .filter(cast(Expr::Column(Column::new_unqualified(NUMBER)), DataType::Int64).eq(lit(1i64)))?;
    let first = if of_groups.is_empty() { first } else { first.sort(of_groups)? };
    first.project(columns)?.build()
}
