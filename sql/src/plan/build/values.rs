//! Constant relations.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::create_physical_expr;

use super::graph::ROW;
use super::{Builder, IncOp, Planned, SqlError, arrow_schema, positional};

impl Builder<'_> {
    pub(super) fn values(&mut self, plan: &LogicalPlan) -> Planned {
        let schema = arrow_schema(plan.schema());
        let rows = match plan {
            LogicalPlan::EmptyRelation(e) if e.produce_one_row => 1,
            LogicalPlan::Values(v) => v.values.len(),
            _ => 0,
        };
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (i, field) in schema.fields().iter().enumerate() {
            let cell = |row: usize| -> Planned<ScalarValue> {
                match plan {
                    LogicalPlan::Values(v) => Ok(constant(&v.values[row][i])?.cast_to(field.data_type())?),
                    _ => Ok(ScalarValue::try_from(field.data_type())?),
                }
            };
            let cells = (0..rows).map(cell).collect::<Planned<Vec<_>>>()?;
            let array: ArrayRef = match cells.is_empty() {
                true => arrow::array::new_empty_array(field.data_type()),
                false => ScalarValue::iter_to_array(cells)?,
            };
            columns.push(array);
        }
        let mut schema = schema;
        if columns.is_empty() {
            schema = Arc::new(Schema::new(vec![Field::new(ROW, DataType::Boolean, true)]));
            columns.push(Arc::new(BooleanArray::from(vec![true; rows])));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)
            .map_err(|e| SqlError::internal(format!("constant rows: {e}")))?;
        Ok(self.add(IncOp::Values { rows }, Vec::new(), schema))
    }
}

/// The value of an expression without columns.
fn constant(e: &Expr) -> Planned<ScalarValue> {
    let e = positional(e, &DFSchema::empty())?.expr;
    if let Expr::Literal(value, _) = e {
        return Ok(value);
    }
    let compiled =
        create_physical_expr(&e, &DFSchema::empty(), &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let one = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(arrow::datatypes::Schema::empty().into(), Vec::new(), &one)
        .map_err(|e| SqlError::internal(format!("constant row: {e}")))?;
    let array = compiled.evaluate(&row)?.into_array(1)?;
    Ok(ScalarValue::try_from_array(&array, 0)?)
}
