//! Runs the functions over pieces of partitions.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{self, kernels};
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::row::{RowConverter, SortField};
use datafusion::execution::SessionState;
use millstream_sql::plan::StoredPlan;

use super::is_count;
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::recompute::{CachedPlan, concat};

/// See the module.
pub(super) struct Computer {
    plan: CachedPlan,
    input: Vec<DataType>,
    results: Vec<DataType>,
    converter: RowConverter,
}

impl Computer {
    pub(super) fn new(state: &SessionState, plan: &StoredPlan, input: &Schema, results: Vec<DataType>) -> Result<Self> {
        let cached = CachedPlan::new(state, &plan.logical, 1)?;
        if cached.schema().fields().len() != results.len() + 1 {
            return Err(Error::internal("the plan of a window operator has other columns than its node"));
        }
        let fields: Vec<SortField> = results.iter().cloned().map(SortField::new).collect();
        if !RowConverter::supports_fields(&fields) {
            return Err(Error::unsupported("a window function with a result that has no order"));
        }
        let input = input.fields().iter().map(|f| f.data_type().clone()).collect();
        Ok(Self { plan: cached, input, results, converter: RowConverter::new(fields).e()? })
    }

    /// The results of every row, as bytes. Rows of a piece have one number in `parts`, and are `bases` many rows into
    /// their partition at its start, which is added to the results at `positions`.
    pub(super) fn run(
        &mut self,
        mut columns: Vec<ArrayRef>,
        parts: Vec<i64>,
        positions: &[usize],
        bases: &[i64],
    ) -> Result<Vec<Box<[u8]>>> {
        let n = parts.len();
        for (c, t) in columns.iter_mut().zip(&self.input) {
            if c.data_type() != t {
                *c = compute::cast(c, t).e()?;
            }
        }
        columns.push(Arc::new(Int64Array::from(parts)));
        columns.push(Arc::new(Int64Array::from_iter_values(0..n as i64)));
        let names = (0..columns.len()).map(|i| format!("c{i}"));
        let rows = RecordBatch::try_from_iter_with_nullable(names.zip(columns).map(|(n, c)| (n, c, true))).e()?;
        let result = self.plan.run(&[rows])?;
        let result = concat(&self.plan.schema(), &result)?;
        if result.num_rows() != n {
            return Err(Error::internal("window functions must give one result a row"));
        }
        // Back into the order of the input.
        let places = result.column(0).as_primitive::<Int64Type>().values();
        let mut back = vec![0u32; n];
        for (i, place) in places.iter().enumerate() {
            back[*place as usize] = i as u32;
        }
        let back = UInt32Array::from(back);
        let mut out = Vec::with_capacity(self.results.len());
        for (i, t) in self.results.iter().enumerate() {
            let mut column = compute::take(result.column(i + 1), &back, None).e()?;
            if positions.contains(&i) && is_count(column.data_type()) {
                let base: ArrayRef = Arc::new(Int64Array::from(bases.to_vec()));
                let base = compute::cast(&base, column.data_type()).e()?;
                column = kernels::numeric::add(&column, &base).e()?;
            }
            if column.data_type() != t {
                column = compute::cast(&column, t).e()?;
            }
            out.push(column);
        }
        let bytes = self.converter.convert_columns(&out).e()?;
        Ok((0..n).map(|i| Box::from(bytes.row(i).data())).collect())
    }

    /// Result columns of bytes.
    pub(super) fn decode<'b>(&self, bytes: impl Iterator<Item = &'b [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.converter.parser();
        self.converter.convert_rows(bytes.map(|b| parser.parse(b))).e()
    }

    /// Results as bytes.
    pub(super) fn encode(&self, columns: &[ArrayRef]) -> Result<Vec<Box<[u8]>>> {
        let rows = self.converter.convert_columns(columns).e()?;
        let n = columns.first().map_or(0, |c| c.len());
        Ok((0..n).map(|i| Box::from(rows.row(i).data())).collect())
    }

    /// Types of the results.
    pub(super) fn types(&self) -> &[DataType] {
        &self.results
    }
}
