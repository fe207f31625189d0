//! Row-wise DataFusion plans (UNNEST): every row becomes n rows, independently of all others.
//!
//! The stored plan knows nothing of weights. The operator rebuilds it so that a last column `__weight` travels from
//! the leaf through every node to the output; the rows a row becomes have its weight.

use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::logical_plan::{Filter, Projection, SubqueryAlias, TableScanBuilder, Unnest};
use datafusion::logical_expr::{Expr, LogicalPlan};
use millstream_sql::plan::StoredPlan;

use super::eval::{OutputSchema, emit_chunked, evaluation_error, isolate};
use super::recompute::{CachedPlan, concat};
use super::{DeltaOp, Emit, TickCx};
use crate::error::{Error, Result};
use crate::zset::{WEIGHT_COLUMN, Weights, ZBatch, weighted_schema};

/// See the module.
pub struct RowMapOp {
    plan: CachedPlan,
    input: OutputSchema,
    output: OutputSchema,
}

impl RowMapOp {
    /// `plan` reads a table `t0` with the columns of `input` and gives the columns of `output`.
    pub fn new(state: &SessionState, plan: &StoredPlan, input: SchemaRef, output: SchemaRef) -> Result<Self> {
        let carried = carry_weight(&plan.logical).map_err(evaluation_error)?;
        let cached = CachedPlan::new(state, &carried, 1)?;
        let schema = cached.schema();
        let last = schema.fields().last().map(|f| (f.name().as_str(), f.data_type()));
        if schema.fields().len() != output.fields().len() + 1 || last != Some((WEIGHT_COLUMN, &DataType::Int64)) {
            return Err(Error::internal("the stored plan's columns are not the operator's"));
        }
        Ok(Self { plan: cached, input: OutputSchema::new(input).permissive(), output: OutputSchema::new(output) })
    }
}

impl DeltaOp for RowMapOp {
    fn push(&mut self, _port: usize, batch: ZBatch, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let rows = self.input.batch(batch.rows.columns().to_vec(), batch.len())?;
        let (plan, output) = (&mut self.plan, &self.output);
        let (_, mapped) = isolate(batch.with_rows(rows), cx.errors, &mut |z| {
            use crate::error::ResultExt as _;
            if z.is_empty() {
                // A constant that fails would fail without rows too.
                return Ok(ZBatch::empty(Arc::clone(output.exact())));
            }
            let result = plan.run(&[z.to_weighted().e()?])?;
            let all = concat(&plan.schema(), &result)?;
            let (weight, columns) =
                all.columns().split_last().ok_or_else(|| Error::internal("a row-wise plan lost the weight"))?;
            let weights = weight.as_primitive::<Int64Type>().values().clone();
            let rows = output.batch(columns.to_vec(), all.num_rows())?;
            let weights = if weights.iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(weights) };
            Ok(ZBatch::new(rows, weights))
        })?;
        emit_chunked(mapped, cx.chunk_rows, out)
    }

    fn flush(&mut self, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        Ok(())
    }
}

/// The same plan with `__weight` as the last column of every node.
fn carry_weight(plan: &LogicalPlan) -> DfResult<LogicalPlan> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let schema = nullable_but_weight(&weighted_schema(&scan.source.schema()));
            let weight = schema.fields().len() - 1;
            let projection = scan.projection.as_ref().map(|p| p.iter().copied().chain([weight]).collect());
            // The table is a placeholder here as well; the leaf takes its place.
            let source = provider_as_source(Arc::new(EmptyTable::new(schema)));
            let built = TableScanBuilder::new(scan.table_name.clone(), source)
                .with_projection(projection)
                .with_filters(scan.filters.clone())
                .build()?;
            Ok(LogicalPlan::TableScan(built))
        }
        LogicalPlan::Projection(p) => {
            let input = Arc::new(carry_weight(&p.input)?);
            let mut exprs = p.expr.clone();
            exprs.push(weight_of(&input)?);
            Ok(LogicalPlan::Projection(Projection::try_new(exprs, input)?))
        }
        LogicalPlan::Filter(f) => {
            let input = Arc::new(carry_weight(&f.input)?);
            Ok(LogicalPlan::Filter(Filter::try_new(f.predicate.clone(), input)?))
        }
        LogicalPlan::SubqueryAlias(a) => {
            let input = Arc::new(carry_weight(&a.input)?);
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, a.alias.clone())?))
        }
        LogicalPlan::Unnest(u) => {
            let input = Arc::new(carry_weight(&u.input)?);
            Ok(LogicalPlan::Unnest(Unnest::try_new(input, u.exec_columns.clone(), u.options.clone())?))
        }
        other => Err(DataFusionError::NotImplemented(format!("a row-wise plan with {}", other.display()))),
    }
}

fn weight_of(plan: &LogicalPlan) -> DfResult<Expr> {
    let schema = plan.schema();
    let Some(last) = schema.fields().len().checked_sub(1) else {
        return Err(DataFusionError::Internal("a row-wise plan lost the weight".into()));
    };
    Ok(Expr::Column(Column::from(schema.qualified_field(last))))
}

fn nullable_but_weight(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> =
        schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(f.name() != WEIGHT_COLUMN)).collect();
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::super::eval::testing::{TestCx, column_values, schema};
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch};
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    fn input() -> SchemaRef {
        let item = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
        schema(&[("a", DataType::Int64), ("l", item)])
    }

    fn batch(rows: &[(i64, Option<&[i64]>, i64)]) -> ZBatch {
        let lists = rows.iter().map(|r| r.1.map(|l| l.iter().map(|v| Some(*v)).collect::<Vec<_>>()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
        ];
        let weights: Vec<i64> = rows.iter().map(|r| r.2).collect();
        ZBatch::new(RecordBatch::try_new(input(), columns).unwrap(), Weights::Dense(weights.into()))
    }

    fn op(sql: &str) -> RowMapOp {
        let state = SessionStateBuilder::new_with_default_features().build();
        let context = SessionContext::new_with_state(state.clone());
        context.register_table("t0", Arc::new(EmptyTable::new(input()))).unwrap();
        let plan = futures::executor::block_on(context.state().create_logical_plan(sql)).unwrap();
        let plan = StoredPlan { logical: context.state().optimize(&plan).unwrap() };
        let output = Arc::clone(plan.logical.schema().inner());
        RowMapOp::new(&state, &plan, input(), output).unwrap()
    }

    #[test]
    fn the_rows_of_a_row_have_its_weight() {
        let mut op = op("SELECT a, unnest(l) AS v FROM t0");
        let mut cx = TestCx::default();
        let rows: [(i64, Option<&[i64]>, i64); 4] =
            [(1, Some(&[10, 20]), 2), (2, Some(&[]), 5), (3, None, 7), (4, Some(&[30, 30]), -1)];
        let expected = ["1|10 * 2", "1|20 * 2", "4|30 * -1", "4|30 * -1"];
        for _ in 0..2 {
            assert_eq!(column_values(&cx.push(&mut op, 0, batch(&rows))), expected);
        }
        assert!(cx.push(&mut op, 0, batch(&[(2, Some(&[]), 1)])).is_empty());
        assert!(cx.flush(&mut op).is_empty());
    }

    #[test]
    fn filters_and_expressions_around_the_unnest_are_kept() {
        let mut op = op("SELECT v * 2 AS w, a FROM (SELECT a, unnest(l) AS v FROM t0 WHERE a > 1) AS s WHERE v <> 20");
        let out = TestCx::default().push(&mut op, 0, batch(&[(1, Some(&[1]), 1), (2, Some(&[20, 21]), -3)]));
        assert_eq!(column_values(&out), ["42|2 * -3"]);
    }

    #[test]
    fn a_row_that_fails_is_isolated_and_heals() {
        let mut op = op("SELECT a, 6 / v AS q FROM (SELECT a, unnest(l) AS v FROM t0)");
        let mut cx = TestCx::default();
        let rows: [(i64, Option<&[i64]>, i64); 3] = [(1, Some(&[2]), 1), (2, Some(&[1, 0]), 4), (3, Some(&[3]), -1)];
        assert_eq!(column_values(&cx.push(&mut op, 0, batch(&rows))), ["1|3 * 1", "3|2 * -1"]);
        let entry = ("22012".to_owned(), "division by zero".to_owned(), "(2, [1, 0])".to_owned());
        assert_eq!(cx.errors.entries.get(&entry), Some(&4));
        cx.push(&mut op, 0, batch(&[(2, Some(&[1, 0]), -4)]));
        assert!(cx.errors.is_empty());
    }

    #[test]
    fn a_plan_that_is_not_row_wise_is_refused() {
        let state = SessionStateBuilder::new_with_default_features().build();
        let context = SessionContext::new_with_state(state.clone());
        context.register_table("t0", Arc::new(EmptyTable::new(input()))).unwrap();
        let plan =
            futures::executor::block_on(context.state().create_logical_plan("SELECT sum(a) AS s FROM t0")).unwrap();
        let output = Arc::clone(plan.schema().inner());
        assert!(RowMapOp::new(&state, &StoredPlan { logical: plan }, input(), output).is_err());
    }
}
