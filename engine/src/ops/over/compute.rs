//! Runs the functions over pieces of partitions.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{self, kernels};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::execution::SessionState;
use millstream_sql::plan::StoredPlan;

use super::is_count;
use super::running::{Piece, Running, Snapshot};
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::recompute::{CachedPlan, concat};
use crate::state::rows::DecodeRows as _;

/// See the module.
pub(super) struct Computer {
    /// DataFusion's part, if it has one.
    plan: Option<CachedPlan>,
    running: Running,
    input: Vec<DataType>,
    results: Vec<DataType>,
    converter: RowConverter,
}

impl Computer {
    pub(super) fn new(
        state: &SessionState,
        plan: &StoredPlan,
        input: &SchemaRef,
        results: Vec<DataType>,
    ) -> Result<Self> {
        let (running, reduced) = Running::split(&plan.logical, input, &results)?;
        let cached = reduced.map(|plan| CachedPlan::new(state, &plan, 1)).transpose()?;
        if cached.as_ref().is_some_and(|c| c.schema().fields().len() != results.len() + 1) {
            return Err(Error::internal("the plan of a window operator has other columns than its node"));
        }
        let fields: Vec<SortField> = results.iter().cloned().map(SortField::new).collect();
        if !RowConverter::supports_fields(&fields) {
            return Err(Error::unsupported("a window function with a result that has no order"));
        }
        let input = input.fields().iter().map(|f| f.data_type().clone()).collect();
        Ok(Self { plan: cached, running, input, results, converter: RowConverter::new(fields).e()? })
    }

    /// The functions that keep the state before a row.
    pub(super) fn running(&self) -> &Running {
        &self.running
    }

    /// The results of every row, as bytes, of rows in pieces one behind the other. `orders` are the bytes of their orders;
    /// what is missing before a piece is added to the results at `positions`. Snapshots go to `taken`, each with the
    /// number of its piece.
    pub(super) fn run(
        &mut self,
        mut columns: Vec<ArrayRef>,
        orders: &[&[u8]],
        pieces: &[Piece<'_>],
        positions: &[usize],
        taken: &mut Vec<(usize, Snapshot)>,
    ) -> Result<Vec<Box<[u8]>>> {
        let n = orders.len();
        for (c, t) in columns.iter_mut().zip(&self.input) {
            if c.data_type() != t {
                *c = compute::cast(c, t).e()?;
            }
        }
        let mut out: Vec<Option<ArrayRef>> = vec![None; self.results.len()];
        for (at, column) in self.running.run(&columns, orders, pieces, taken)? {
            out[at] = Some(column);
        }
        self.plan_results(columns, n, pieces, positions, &mut out)?;
        let out = out.into_iter().map(|c| c.ok_or_else(|| Error::internal("a window function without a result")));
        let bytes = self.converter.convert_columns(&out.collect::<Result<Vec<_>>>()?).e()?;
        Ok((0..n).map(|i| Box::from(bytes.row(i).data())).collect())
    }

    /// What DataFusion computes.
    fn plan_results(
        &mut self,
        mut columns: Vec<ArrayRef>,
        n: usize,
        pieces: &[Piece<'_>],
        positions: &[usize],
        out: &mut [Option<ArrayRef>],
    ) -> Result<()> {
        let Some(plan) = &mut self.plan else { return Ok(()) };
        let (mut parts, mut bases) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (i, p) in pieces.iter().enumerate() {
            parts.resize(parts.len() + p.range.len(), i as i64);
            bases.resize(bases.len() + p.range.len(), i64::try_from(p.position).unwrap_or(i64::MAX));
        }
        columns.push(Arc::new(Int64Array::from(parts)));
        columns.push(Arc::new(Int64Array::from_iter_values(0..n as i64)));
        let names = (0..columns.len()).map(|i| format!("c{i}"));
        let rows = RecordBatch::try_from_iter_with_nullable(names.zip(columns).map(|(n, c)| (n, c, true))).e()?;
        let result = plan.run(&[rows])?;
        let result = concat(&plan.schema(), &result)?;
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
        let base: ArrayRef = Arc::new(Int64Array::from(bases));
        for (i, (t, out)) in self.results.iter().zip(out).enumerate() {
            if out.is_some() {
                continue;
            }
            let mut column = compute::take(result.column(i + 1), &back, None).e()?;
            if positions.contains(&i) && is_count(column.data_type()) {
                let base = compute::cast(&base, column.data_type()).e()?;
                column = kernels::numeric::add(&column, &base).e()?;
            }
            if column.data_type() != t {
                column = compute::cast(&column, t).e()?;
            }
            *out = Some(column);
        }
        Ok(())
    }

    /// Result columns of bytes.
    pub(super) fn decode<'b>(&self, bytes: impl Iterator<Item = &'b [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.converter.parser();
        self.converter.decode_rows(bytes.map(|b| parser.parse(b)))
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
