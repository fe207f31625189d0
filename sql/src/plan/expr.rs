//! Expressions of a plan: DataFusion logical expressions over positional columns `c0, c1, ..`.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

/// A serialisable expression over the columns of a node's input row.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanExpr {
    /// Columns are unqualified and named by position, see [`positional_schema`].
    pub expr: Expr,
}

/// The same columns, named `c0, c1, ..`: the name space of [`PlanExpr`].
pub fn positional_schema(input: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        input
            .fields()
            .iter()
            .enumerate()
            .map(|(i, f)| Arc::new(Field::clone(f).with_name(format!("c{i}"))))
            .collect::<Vec<_>>(),
    ))
}

impl PlanExpr {
    /// The column at a position.
    pub fn column(i: usize) -> Self {
        Self { expr: Expr::Column(datafusion::common::Column::new_unqualified(format!("c{i}"))) }
    }
    /// `Some(i)` if the expression is just column `i`.
    pub fn as_column(&self) -> Option<usize> {
        match &self.expr {
            Expr::Column(c) => c.name.strip_prefix('c').and_then(|s| s.parse().ok()),
            Expr::Alias(a) => Self { expr: (*a.expr).clone() }.as_column(),
            _ => None,
        }
    }
    /// Compiles the expression once for an input of these columns.
    pub fn compile(&self, input: &Schema) -> datafusion::common::Result<Arc<dyn PhysicalExpr>> {
        let schema = DFSchema::try_from(positional_schema(input).as_ref().clone())?;
        create_physical_expr(&self.expr, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
    }
}
