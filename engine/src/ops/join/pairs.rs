//! Pairs of rows by reference, and the residual condition over them: columns are gathered only when needed, and only
//! of pairs that are needed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use super::super::ErrorSet;
use super::super::eval::{RowText, bisect, evaluation_error};
use super::content::Content;
use crate::error::{Error, Result, ResultExt as _};

/// One row of each pair.
pub(super) enum Rows<'a> {
    /// Rows of a batch.
    Batch(&'a RecordBatch, UInt32Array),
    /// Stored rows of a side.
    Stored(&'a Content, Vec<u64>),
}

impl<'a> Rows<'a> {
    pub fn gather(&self, columns: &[usize]) -> Result<Vec<ArrayRef>> {
        match self {
            Self::Batch(rows, at) => {
                columns.iter().map(|c| compute::take(rows.column(*c).as_ref(), at, None).e()).collect()
            }
            Self::Stored(content, rows) => content.gather(rows, columns),
        }
    }
    fn pick(&self, pairs: &[usize]) -> Rows<'a> {
        match self {
            Self::Batch(rows, at) => Rows::Batch(rows, pairs.iter().map(|i| at.value(*i)).collect::<Vec<_>>().into()),
            Self::Stored(content, rows) => Rows::Stored(content, pairs.iter().map(|i| rows[*i]).collect()),
        }
    }
}

/// Pairs with the weight they come or go with.
pub(super) struct Pairs<'a> {
    pub left: Rows<'a>,
    pub right: Rows<'a>,
    pub weights: Vec<i64>,
    /// Columns of the left side.
    pub left_width: usize,
    /// Columns of both sides.
    pub width: usize,
}

impl<'a> Pairs<'a> {
    pub fn len(&self) -> usize {
        self.weights.len()
    }
    /// The pairs at these positions.
    pub fn pick(&self, pairs: &[usize]) -> Pairs<'a> {
        Pairs {
            left: self.left.pick(pairs),
            right: self.right.pick(pairs),
            weights: pairs.iter().map(|i| self.weights[*i]).collect(),
            ..*self
        }
    }
    /// Left columns, then right ones, ascending.
    fn gather(&self, columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let split = columns.partition_point(|c| *c < self.left_width);
        let right: Vec<usize> = columns[split..].iter().map(|c| c - self.left_width).collect();
        let mut out = self.left.gather(&columns[..split])?;
        out.extend(self.right.gather(&right)?);
        Ok(out)
    }
    /// All columns.
    pub fn columns(&self) -> Result<Vec<ArrayRef>> {
        self.gather(&(0..self.width).collect::<Vec<_>>())
    }
}

/// The condition besides the keys.
pub(super) struct Residual {
    expr: Arc<dyn PhysicalExpr>,
    /// Columns it needs, ascending, of those of both sides.
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl Residual {
    pub fn new(expr: Arc<dyn PhysicalExpr>, left: &SchemaRef, right: &SchemaRef) -> Result<Self> {
        let all: Vec<Arc<Field>> = left.fields().iter().chain(right.fields()).cloned().collect();
        let mut columns: Vec<usize> = collect_columns(&expr).iter().map(Column::index).collect();
        columns.sort_unstable();
        columns.dedup();
        if columns.last().is_some_and(|c| *c >= all.len()) {
            return Err(Error::internal(format!("join condition {expr} over {} columns", all.len())));
        }
        let expr = expr
            .transform_down(|e| {
                let at = e.downcast_ref::<Column>().and_then(|c| {
                    let at = columns.binary_search(&c.index()).ok()?;
                    Some(Column::new(c.name(), at))
                });
                Ok(match at {
                    Some(column) => Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>),
                    None => Transformed::no(e),
                })
            })
            .e()?
            .data;
        let fields: Vec<Field> = columns.iter().map(|c| all[*c].as_ref().clone().with_nullable(true)).collect();
        Ok(Self { expr, columns, schema: Arc::new(Schema::new(fields)) })
    }

    /// Which pairs pass. Those that cannot be evaluated do not; they go to `errors` with their weight.
    pub fn mask(&self, pairs: &Pairs<'_>, errors: Option<&mut ErrorSet>) -> Result<BooleanBuffer> {
        let n = pairs.len();
        if n == 0 {
            return Ok(BooleanBuffer::new_unset(0));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        let rows =
            RecordBatch::try_new_with_options(self.schema.clone(), pairs.gather(&self.columns)?, &options).e()?;
        let error = match self.evaluate(&rows) {
            Ok(mask) => return Ok(mask),
            Err(e) => e,
        };
        let mut bad = Vec::new();
        bisect(n, error, &mut bad, &mut |offset, length| self.evaluate(&rows.slice(offset, length)).map(drop))?;
        if let Some(errors) = errors {
            let at: Vec<usize> = bad.iter().map(|(i, _)| *i).collect();
            let columns = pairs.pick(&at).columns()?;
            let text = RowText::of_columns(&columns)?;
            for (i, (pair, e)) in bad.iter().enumerate().filter(|(_, (pair, _))| pairs.weights[*pair] != 0) {
                errors.add(e.code.0, &e.message, &text.row(i), pairs.weights[*pair]);
            }
        }
        let mut next = bad.iter().map(|(i, _)| *i as u32).peekable();
        let good: Vec<u32> = (0..n as u32).filter(|i| next.next_if_eq(i).is_none()).collect();
        let taken = compute::take_record_batch(&rows, &UInt32Array::from(good.clone())).e()?;
        let mut mask = vec![false; n];
        for i in self.evaluate(&taken)?.set_indices() {
            mask[good[i] as usize] = true;
        }
        Ok(BooleanBuffer::from(mask))
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanBuffer> {
        if rows.num_rows() == 0 {
            // A constant that fails would fail without rows too.
            return Ok(BooleanBuffer::new_unset(0));
        }
        let values = self.expr.evaluate(rows).and_then(|v| v.into_array(rows.num_rows())).map_err(evaluation_error)?;
        match values.data_type() {
            DataType::Boolean => {
                let values = values.as_boolean();
                Ok(match values.nulls() {
                    Some(nulls) => values.values() & nulls.inner(),
                    None => values.values().clone(),
                })
            }
            DataType::Null => Ok(BooleanBuffer::new_unset(values.len())),
            t => Err(Error::internal(format!("join condition {} gave values of type {t}", self.expr))),
        }
    }
}
