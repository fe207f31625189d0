//! Sessions: the two functions that say where a row's session begins and ends become one operator.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::logical_plan::Window;

use super::{Builder, IncOp, NodeId, Planned, SqlError, arrow_schema, positional, positional_all, recompute};
use crate::functions::window::session::{END, START, gap_ticks};

impl Builder<'_> {
    /// The operator of a window that has functions of sessions, if it has them.
    pub(super) fn session_window(&mut self, window: &Window) -> Planned<Option<NodeId>> {
        let mut calls: Vec<(bool, WindowFunction)> = Vec::new();
        let mut others = false;
        for e in &window.window_expr {
            match e.clone().unalias() {
                Expr::WindowFunction(f) if matches!(f.fun.name(), START | END) => {
                    calls.push((f.fun.name() == END, *f));
                }
                _ => others = true,
            }
        }
        let Some(first) = calls.first().map(|(_, f)| f.params.clone()) else { return Ok(None) };
        let alike = |f: &WindowFunction| {
            let p = &f.params;
            p.args == first.args && p.partition_by == first.partition_by && p.filter.is_none() && !p.distinct
        };
        if others || !calls.iter().all(|(_, f)| alike(f)) {
            return recompute("sessions beside other window functions:");
        }
        let schema = window.input.schema();
        let width = schema.fields().len();
        let [time, Expr::Literal(gap, _)] = first.args.as_slice() else {
            return Err(SqlError::unsupported("the gap of a session must be a constant").into());
        };
        let input = self.plan(&window.input)?;
        let (input, partition) = self.with_columns(input, &positional_all(&first.partition_by, schema)?)?;
        let (input, at) = self.with_columns(input, &[positional(time, schema)?])?;
        let time = at.first().copied().ok_or_else(|| SqlError::internal("a session without a time"))?;
        let input = if partition.is_empty() { self.single(input) } else { self.hashed(input, partition.clone()) };
        let own = self.schema(input);
        let data_type = own.field(time).data_type().clone();
        let gap = gap_ticks(gap, &data_type)?;
        let ends = ["window_start", "window_end"].map(|n| Arc::new(Field::new(n, data_type.clone(), true)));
        let fields: Vec<_> = own.fields().iter().cloned().chain(ends).collect();
        let op = IncOp::Session { partition, time, gap };
        let node = self.add(op, vec![input], SchemaRef::new(Schema::new(fields)));
        let ends = calls.iter().map(|(end, _)| own.fields().len() + usize::from(*end));
        let columns = (0..width).chain(ends).collect();
        Ok(Some(self.keep_columns(node, columns, arrow_schema(&window.schema))?))
    }
}
