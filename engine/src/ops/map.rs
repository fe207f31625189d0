//! Filter and projection, fused: stateless, weights pass through.
//!
//! Predicates are a conjunction; each is evaluated only over the rows that passed the ones before it, so a guard such
//! as `x <> 0` protects `1 / x`. NULL counts as false. Columns that are only passed on are not copied.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_empty_array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use super::eval::{OutputSchema, evaluation_error, isolate};
use super::{DeltaOp, Emit, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::zset::ZBatch;

/// See the module.
pub struct MapOp {
    predicates: Vec<Arc<dyn PhysicalExpr>>,
    /// `None`: all input columns.
    exprs: Option<Vec<Arc<dyn PhysicalExpr>>>,
    output: OutputSchema,
}

impl MapOp {
    /// `predicates` and `exprs` are compiled for the columns of `input`; `exprs` gives one column of `output` each,
    /// `None` passes the input columns on.
    pub fn new(
        input: SchemaRef,
        predicates: Vec<Arc<dyn PhysicalExpr>>,
        exprs: Option<Vec<Arc<dyn PhysicalExpr>>>,
        output: SchemaRef,
    ) -> Self {
        debug_assert_eq!(exprs.as_ref().map_or(input.fields().len(), Vec::len), output.fields().len());
        Self { predicates, exprs, output: OutputSchema::new(output) }
    }
}

impl DeltaOp for MapOp {
    fn push(&mut self, _port: usize, batch: ZBatch, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let mut batch = batch;
        for p in &self.predicates {
            if batch.is_empty() {
                return Ok(());
            }
            let (evaluated, mask) = isolate(batch, cx.errors, &mut |z| mask(p.as_ref(), &z.rows))?;
            batch = if mask.true_count() == evaluated.len() { evaluated } else { evaluated.filter(&mask).e()? };
        }
        if batch.is_empty() {
            return Ok(());
        }
        let (exprs, output) = (&self.exprs, &self.output);
        let (batch, rows) = isolate(batch, cx.errors, &mut |z| {
            let rows = &z.rows;
            let columns = match exprs {
                None => rows.columns().to_vec(),
                Some(exprs) => exprs.iter().map(|e| column(e.as_ref(), rows)).collect::<Result<_>>()?,
            };
            output.batch(columns, rows.num_rows())
        })?;
        if batch.is_empty() { Ok(()) } else { out.emit(batch.with_rows(rows)) }
    }

    fn flush(&mut self, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        Ok(())
    }
}

fn column(e: &dyn PhysicalExpr, rows: &RecordBatch) -> Result<ArrayRef> {
    if rows.num_rows() == 0 {
        // A constant that fails would fail without rows too.
        return e.data_type(rows.schema_ref()).map(|t| new_empty_array(&t)).map_err(evaluation_error);
    }
    e.evaluate(rows).and_then(|v| v.into_array(rows.num_rows())).map_err(evaluation_error)
}

/// Where the predicate is true.
fn mask(p: &dyn PhysicalExpr, rows: &RecordBatch) -> Result<BooleanArray> {
    let values = column(p, rows)?;
    match values.data_type() {
        DataType::Boolean => Ok(values.as_boolean().clone()),
        DataType::Null => Ok(BooleanArray::new_null(values.len())),
        t => Err(Error::internal(format!("predicate {p} gave values of type {t}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::eval::testing::{TestCx, column_values, schema};
    use super::*;
    use crate::zset::Weights;
    use arrow::array::{Int64Array, StringArray};
    use datafusion::logical_expr::{Expr, Operator, binary_expr, cast, col, lit};
    use millstream_sql::plan::PlanExpr;

    fn compile(expr: Expr, input: &SchemaRef) -> Arc<dyn PhysicalExpr> {
        PlanExpr { expr }.compile(input).unwrap()
    }

    fn input() -> SchemaRef {
        schema(&[("a", DataType::Int64), ("b", DataType::Int64), ("s", DataType::Utf8)])
    }

    #[test]
    fn a_constant_that_fails_costs_every_row_and_not_the_view() {
        let divide = || binary_expr(lit(1i64), Operator::Divide, lit(0i64));
        let mut cx = TestCx::default();
        let filter = binary_expr(divide(), Operator::Eq, lit(1i64));
        let mut op = MapOp::new(input(), vec![compile(filter, &input())], None, input());
        assert!(cx.push(&mut op, 0, batch(&[(1, None, "x", 1), (2, None, "y", 1)])).is_empty());
        let output = schema(&[("q", DataType::Int64)]);
        let mut op = MapOp::new(input(), Vec::new(), Some(vec![compile(divide(), &input())]), output);
        assert!(cx.push(&mut op, 0, batch(&[(3, None, "z", 1)])).is_empty());
        assert_eq!(cx.errors.entries.len(), 3);
        assert!(cx.errors.entries.keys().all(|(code, ..)| code == "22012"));
    }

    fn batch(rows: &[(i64, Option<i64>, &str, i64)]) -> ZBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            Arc::new(StringArray::from(rows.iter().map(|r| r.2).collect::<Vec<_>>())),
        ];
        let weights: Vec<i64> = rows.iter().map(|r| r.3).collect();
        ZBatch::new(RecordBatch::try_new(input(), columns).unwrap(), Weights::Dense(weights.into()))
    }

    fn divide() -> MapOp {
        let i = input();
        let exprs = vec![compile(col("c2"), &i), compile(binary_expr(col("c0"), Operator::Divide, col("c1")), &i)];
        let output = schema(&[("s", DataType::Utf8View), ("q", DataType::Int64)]);
        MapOp::new(i, vec![], Some(exprs), output)
    }

    #[test]
    fn rows_that_cannot_be_evaluated_are_errors_and_the_others_go_on() {
        let mut cx = TestCx::default();
        let mut op = divide();
        let out = cx.push(&mut op, 0, batch(&[(6, Some(3), "x", 1), (1, Some(0), "y", 2), (8, Some(2), "z", -1)]));
        assert_eq!(column_values(&out), ["x|2 * 1", "z|4 * -1"]);
        let entry = ("22012".to_owned(), "division by zero".to_owned(), "(1, 0, y)".to_owned());
        assert_eq!(cx.errors.entries.get(&entry), Some(&2));
        // Correcting the row heals the view.
        let out = cx.push(&mut op, 0, batch(&[(1, Some(0), "y", -2), (1, Some(1), "y", 2)]));
        assert_eq!(column_values(&out), ["y|1 * 2"]);
        assert!(cx.errors.is_empty());
    }

    #[test]
    fn an_earlier_predicate_protects_a_later_one() {
        let i = input();
        let guard = compile(col("c1").not_eq(lit(0i64)), &i);
        let ratio = compile(binary_expr(col("c0"), Operator::Divide, col("c1")).gt(lit(1i64)), &i);
        let mut op = MapOp::new(Arc::clone(&i), vec![guard, ratio], None, i);
        let mut cx = TestCx::default();
        let rows = [(1, Some(0), "zero", 1), (4, Some(2), "yes", 3), (1, Some(2), "no", 1), (1, None, "null", 1)];
        let out = cx.push(&mut op, 0, batch(&rows));
        assert_eq!(column_values(&out), ["4|2|yes * 3"]);
        assert!(cx.errors.is_empty());
    }

    #[test]
    fn columns_are_passed_on_without_copies() {
        let i = input();
        let exprs = vec![compile(col("c0"), &i)];
        let mut op = MapOp::new(i, vec![], Some(exprs), schema(&[("a", DataType::Int64)]));
        let z = batch(&[(1, None, "", 1)]);
        let out = TestCx::default().push(&mut op, 0, z.clone());
        assert!(Arc::ptr_eq(out[0].rows.column(0), z.rows.column(0)));
    }

    #[test]
    fn an_error_in_a_cast_names_the_row() {
        let i = input();
        let exprs = vec![compile(cast(col("c2"), DataType::Int64), &i)];
        let mut op = MapOp::new(i, vec![], Some(exprs), schema(&[("n", DataType::Int64)]));
        let mut cx = TestCx::default();
        let out = cx.push(&mut op, 0, batch(&[(1, None, "12", 1), (2, None, "twelve", 1)]));
        assert_eq!(column_values(&out), ["12 * 1"]);
        let ((code, _, row), _) = cx.errors.entries.first_key_value().unwrap();
        assert_eq!((code.as_str(), row.as_str()), ("22P02", "(2, NULL, twelve)"));
    }

    #[test]
    fn a_constant_and_no_column_at_all_keep_the_number_of_rows() {
        let i = input();
        let one = vec![compile(lit(7i64), &i)];
        let mut cx = TestCx::default();
        let mut op = MapOp::new(Arc::clone(&i), vec![], Some(one), schema(&[("n", DataType::Int64)]));
        assert_eq!(
            column_values(&cx.push(&mut op, 0, batch(&[(1, None, "", 1), (2, None, "", -1)]))),
            ["7 * 1", "7 * -1"]
        );
        let mut op = MapOp::new(i, vec![], Some(vec![]), schema(&[]));
        assert_eq!(cx.push(&mut op, 0, batch(&[(1, None, "", 1), (2, None, "", 1)]))[0].len(), 2);
    }
}
