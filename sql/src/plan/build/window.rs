//! Window functions: `row_number() <= n` and its like for ranks are a top-N; others have an operator that keeps each partition in order.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::logical_plan::{Filter, Window};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator};

use super::{
    Builder, IncOp, NodeId, Planned, arrow_schema, conjuncts, literal_count, positional, positional_all, recompute,
};
use crate::plan::expr::positional_schema;
use crate::plan::{RecomputeKeys, StoredPlan};

impl Builder<'_> {
    /// A filter that keeps the first rows of each partition, if that is what it is.
    pub(super) fn filtered_row_number(&mut self, filter: &Filter) -> Planned<Option<NodeId>> {
        if let Some(inner) = below_projection(filter)? {
            let LogicalPlan::Projection(p) = filter.input.as_ref() else { return Ok(None) };
            let Some(top) = self.filtered_row_number(&inner)? else { return Ok(None) };
            let exprs = positional_all(&p.expr, p.input.schema())?;
            return Ok(Some(self.map(top, Vec::new(), Some(exprs), arrow_schema(&p.schema))?));
        }
        let LogicalPlan::Window(window) = filter.input.as_ref() else { return Ok(None) };
        let [expr] = window.window_expr.as_slice() else { return Ok(None) };
        let Expr::WindowFunction(f) = expr.clone().unalias() else { return Ok(None) };
        let WindowFunctionDefinition::WindowUDF(function) = &f.fun else { return Ok(None) };
        let counts = function.name();
        if !matches!(counts, "row_number" | "rank" | "dense_rank") || f.params.filter.is_some() {
            return Ok(None);
        }
        let rank = window.input.schema().fields().len(); // the row number's column
        let bounds = split_conjunction(&filter.predicate).into_iter().filter_map(|e| upper_bound(e, window, rank));
        let Some(limit) = bounds.min() else { return Ok(None) };
        let partition = positional_all(&f.params.partition_by, window.input.schema())?;
        let predicates = conjuncts(&filter.predicate, filter.input.schema())?;

        let input = self.plan(&window.input)?;
        let (input, partition) = self.with_columns(input, &partition)?;
        let (input, order) = self.sort_columns(input, &f.params.order_by, &window.input)?;
        let input = if partition.is_empty() { self.single(input) } else { self.hashed(input, partition.clone()) };
        let own = self.schema(input);
        let output = arrow_schema(&window.schema);
        let mut fields: Vec<_> = own.fields().iter().cloned().collect();
        fields.push(output.fields()[rank].clone());
        let last = fields.len() - 1;
        let schema = arrow::datatypes::SchemaRef::new(arrow::datatypes::Schema::new(fields));
        let op = match counts {
            "row_number" => IncOp::TopN { partition, order, offset: 0, limit, rank: true },
            name => IncOp::TopRank { partition, order, limit, dense: name == "dense_rank" },
        };
        let top = self.add(op, vec![input], schema);
        let top = self.keep_columns(top, (0..rank).chain([last]).collect(), output)?;
        // Bounds that the limit says already are dropped.
        let rest = split_conjunction(&filter.predicate)
            .into_iter()
            .zip(predicates)
            .filter(|(e, _)| !(is_upper_bound_only(e) && upper_bound(e, window, rank) == Some(limit)))
            .map(|(_, p)| p)
            .collect();
        Ok(Some(self.filter(top, rest)?))
    }

    /// The functions of one PARTITION BY and ORDER BY over a native input.
    pub(super) fn window(&mut self, window: &Window) -> Planned {
        if let Some(session) = self.session_window(window)? {
            return Ok(session);
        }
        let calls = window.window_expr.iter().map(|e| match e.clone().unalias() {
            Expr::WindowFunction(f) => Ok(*f),
            _ => recompute("a window function of this form"),
        });
        let mut calls = calls.collect::<Planned<Vec<_>>>()?;
        let Some(first) = calls.first().map(|c| c.params.clone()) else {
            return recompute("a window without functions");
        };
        let alike =
            |c: &WindowFunction| c.params.partition_by == first.partition_by && c.params.order_by == first.order_by;
        if !calls.iter().all(alike) {
            return recompute("window functions that share an order but not a partition:");
        }
        let schema = window.input.schema();
        let width = schema.fields().len();
        let input = self.plan(&window.input)?;
        let (input, partition) = self.with_columns(input, &positional_all(&first.partition_by, schema)?)?;
        let (mut input, order) = self.sort_columns(input, &first.order_by, &window.input)?;
        // Arguments are columns: one that cannot be computed costs its row. Literals stay, functions may insist on them.
        for call in &mut calls {
            let p = &mut call.params;
            for e in p.args.iter_mut().chain(p.filter.iter_mut().map(|f| f.as_mut())) {
                if !matches!(e, Expr::Literal(..)) {
                    let (with, at) = self.with_columns(input, &[positional(e, schema)?])?;
                    input = with;
                    *e = leaf_column(at.first().copied().unwrap_or_default());
                }
            }
            p.partition_by = vec![Expr::Column(Column::new(Some(LEAF), PART))];
            for (sort, by) in p.order_by.iter_mut().zip(&order) {
                sort.expr = leaf_column(by.column);
            }
        }
        let input = if partition.is_empty() { self.single(input) } else { self.hashed(input, partition.clone()) };
        let own = self.schema(input);
        let plan = over_plan(&own, calls)?;
        let output = arrow_schema(&window.schema);
        let mut fields: Vec<_> = own.fields().iter().cloned().collect();
        fields.extend(output.fields().iter().skip(width).cloned());
        let op = IncOp::Over { partition, order, plan: StoredPlan { logical: plan } };
        let over = self.add(op, vec![input], SchemaRef::new(Schema::new(fields)));
        let functions = own.fields().len()..self.width(over);
        self.keep_columns(over, (0..width).chain(functions).collect(), output)
    }

    /// Keyed by the partition columns that all functions share.
    pub(super) fn recompute_window(
        &mut self,
        window: &Window,
        plan: &LogicalPlan,
        reason: &str,
    ) -> Planned<Option<NodeId>> {
        let mut shared: Option<Vec<usize>> = None;
        let mut names = Vec::new();
        for e in &window.window_expr {
            let Expr::WindowFunction(f) = e.clone().unalias() else { return Ok(None) };
            let name = f.fun.name().to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
            let mut own = Vec::new();
            for p in &f.params.partition_by {
                own.extend(positional(p, window.input.schema())?.as_column());
            }
            shared = Some(match shared {
                None => own,
                Some(s) => s.into_iter().filter(|c| own.contains(c)).collect(),
            });
        }
        let key = shared.unwrap_or_default();
        let input = self.plan(&window.input)?;
        let stored = self.over_leaf(plan, &window.input, input)?;
        let keys = (!key.is_empty()).then(|| RecomputeKeys { inputs: vec![key.clone()], output: key });
        let reason = format!("{reason} {}", names.join(", "));
        Ok(Some(self.add_recompute(plan, stored, vec![input], keys, reason)))
    }
}

/// The leaf of the plan of an [`IncOp::Over`], and the columns it has beside the input's: which piece of a partition a
/// row belongs to, and its place among all rows of the run.
const LEAF: &str = "t0";
const PART: &str = "__part";
const ROW: &str = "__row";

fn leaf_column(i: usize) -> Expr {
    Expr::Column(Column::new(Some(LEAF), format!("c{i}")))
}

/// The functions over the leaf: see [`IncOp::Over`].
fn over_plan(input: &Schema, calls: Vec<WindowFunction>) -> Planned<LogicalPlan> {
    let mut fields: Vec<_> = positional_schema(input).fields().iter().cloned().collect();
    fields.extend([PART, ROW].map(|n| Arc::new(Field::new(n, DataType::Int64, false))));
    let source = provider_as_source(Arc::new(EmptyTable::new(Arc::new(Schema::new(fields)))));
    let calls: Vec<Expr> = calls.into_iter().enumerate().map(|(i, c)| Expr::from(c).alias(format!("w{i}"))).collect();
    let mut columns = vec![Expr::Column(Column::new(Some(LEAF), ROW))];
    columns.extend((0..calls.len()).map(|i| Expr::Column(Column::new_unqualified(format!("w{i}")))));
    Ok(LogicalPlanBuilder::scan(LEAF, source, None)?.window(calls)?.project(columns)?.build()?)
}

/// The filter of a projection of a window's columns as a filter below that projection.
fn below_projection(filter: &Filter) -> Planned<Option<Filter>> {
    let LogicalPlan::Projection(p) = filter.input.as_ref() else { return Ok(None) };
    let plain = p.expr.iter().all(|e| matches!(e.clone().unalias(), Expr::Column(_)));
    if !plain || !matches!(p.input.as_ref(), LogicalPlan::Window(_)) {
        return Ok(None);
    }
    let predicate = filter.predicate.clone().transform_up(|e| match &e {
        Expr::Column(c) => Ok(Transformed::yes(p.expr[p.schema.index_of_column(c)?].clone().unalias())),
        _ => Ok(Transformed::no(e)),
    })?;
    Ok(Some(Filter::try_new(predicate.data, Arc::clone(&p.input))?))
}

/// `n` of `rank <= n` and its like.
fn upper_bound(e: &Expr, window: &Window, rank: usize) -> Option<u64> {
    let Expr::BinaryExpr(b) = e else { return None };
    let is_rank = |e: &Expr| {
        let bare = if let Expr::Cast(c) = e { c.expr.as_ref() } else { e };
        matches!(bare, Expr::Column(c) if window.schema.index_of_column(c).ok() == Some(rank))
    };
    let (op, literal) = if is_rank(&b.left) {
        (b.op, &b.right)
    } else if is_rank(&b.right) {
        (b.op.swap()?, &b.left)
    } else {
        return None;
    };
    let n = literal_count(literal, "rank").ok()??;
    match op {
        Operator::LtEq | Operator::Eq => Some(n),
        Operator::Lt => Some(n.saturating_sub(1)),
        _ => None,
    }
}

/// False for `rank = n`, which also is a lower bound unless n is 1.
fn is_upper_bound_only(e: &Expr) -> bool {
    use datafusion::common::ScalarValue;
    let one = |e: &Expr| matches!(e, Expr::Literal(v, _) if v.cast_to(&arrow::datatypes::DataType::Int64).ok() == Some(ScalarValue::Int64(Some(1))));
    match e {
        Expr::BinaryExpr(b) => b.op != Operator::Eq || one(&b.left) || one(&b.right),
        _ => false,
    }
}
