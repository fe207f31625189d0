//! LogicalPlan to IncPlan.
//!
//! [`build`] optimises with the rules for views and walks the result. An operator with a native form becomes one; any
//! other becomes a recompute of just that operator over natively planned inputs. Every node's columns are, position by
//! position, those of the logical operator it stands for.

mod aggregate;
mod clock;
mod determinism;
mod graph;
mod join;
mod order;
mod ranges;
mod recompute;
mod recursive;
mod session;
mod temporal;
mod values;
mod window;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod tpch_tests;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::logical_plan::{Distinct, TableScan};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan};

pub use determinism::placed;

use super::{ChangelogKind, Distribution, IncNode, IncOp, IncPlan, NodeId, PlanExpr, RelationId};
use crate::arrival::{self, ArrivalJoin};
use crate::asof::AsOf;
use crate::decorrelate::set_op::SetOp;
use crate::error::{Result, SqlError, SqlState};
use crate::matching::MatchNode;
use crate::optimize;
use crate::optimize::rounds_max;
use crate::session::{from_datafusion, visible_schema};

/// Facts about relations that the builder needs.
pub trait Relations: Send + Sync {
    /// Id and changelog kind of a table in the plan.
    fn resolve(&self, name: &TableReference) -> Option<(RelationId, ChangelogKind)>;
}

/// Optimises a view's plan with our rule list and turns it into an [`IncPlan`]. Constructs without a native operator
/// become recompute nodes, per subtree; what cannot be maintained at all (volatile functions, now() but in conditions) is an
/// error that names it.
pub fn build(state: &SessionState, logical: LogicalPlan, relations: &dyn Relations) -> Result<IncPlan> {
    determinism::check(&logical)?;
    let analyzed = optimize::analyze(state, logical).map_err(from_datafusion)?;
    let wanted = visible_schema(analyzed.schema().as_arrow());
    let analyzed = arrival::find(analyzed).map_err(from_datafusion)?;
    let analyzed = clock::mark(analyzed).map_err(from_datafusion)?;
    determinism::check_clock(&analyzed)?;
    let optimized = optimize::optimize(state, analyzed).map_err(from_datafusion)?;
    let read_order = order::of_output(&optimized);
    let mut builder = Builder::new(relations, rounds_max(state.config()));
    if wanted.fields().is_empty() {
        return Err(SqlError::unsupported("a view without columns"));
    }
    let root = builder.plan(&optimized).map_err(Fail::into_error)?;
    let root = builder.cast_columns(root, &wanted).map_err(Fail::into_error)?;
    Ok(builder.finish(root, &wanted, read_order))
}

/// Why an operator has no native node.
enum Fail {
    /// It can be recomputed.
    Recompute(String),
    /// It cannot be maintained at all.
    Error(SqlError),
}

impl Fail {
    fn into_error(self) -> SqlError {
        match self {
            Self::Recompute(reason) => SqlError::unsupported(reason),
            Self::Error(e) => e,
        }
    }
}

impl From<SqlError> for Fail {
    fn from(e: SqlError) -> Self {
        Self::Error(e)
    }
}

impl From<DataFusionError> for Fail {
    fn from(e: DataFusionError) -> Self {
        Self::Error(from_datafusion(e))
    }
}

type Planned<T = NodeId> = std::result::Result<T, Fail>;

fn recompute<T>(reason: impl Into<String>) -> Planned<T> {
    Err(Fail::Recompute(reason.into()))
}

/// The graph being built.
struct Builder<'a> {
    relations: &'a dyn Relations,
    nodes: Vec<IncNode>,
    /// Per node, the distributions its output is known to have.
    places: Vec<Vec<Distribution>>,
    interned: HashMap<String, NodeId>,
    /// The graph is a step of a recursion: all of it runs on one shard.
    one_shard: bool,
    /// More rounds of a recursion than this are an error.
    rounds_max: u32,
}

impl<'a> Builder<'a> {
    fn new(relations: &'a dyn Relations, rounds_max: u32) -> Self {
        Self {
            relations,
            nodes: Vec::new(),
            places: Vec::new(),
            interned: HashMap::new(),
            one_shard: false,
            rounds_max,
        }
    }
}

impl Builder<'_> {
    /// Plans an operator: natively if possible, otherwise as a recompute over its inputs.
    fn plan(&mut self, plan: &LogicalPlan) -> Planned {
        match self.native(plan) {
            Err(Fail::Recompute(reason)) => self.recompute(plan, reason),
            done => done,
        }
    }

    fn native(&mut self, plan: &LogicalPlan) -> Planned {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(a) => self.plan(&a.input),
            LogicalPlan::Projection(p) => {
                let exprs = positional_all(&p.expr, p.input.schema())?;
                let input = self.plan(&p.input)?;
                self.map(input, Vec::new(), Some(exprs), arrow_schema(&p.schema))
            }
            LogicalPlan::Filter(f) => {
                if let Some(timed) = self.temporal_filter(f)? {
                    return Ok(timed);
                }
                if let Some(top) = self.filtered_row_number(f)? {
                    return Ok(top);
                }
                let predicates = conjuncts(&f.predicate, f.input.schema())?;
                let input = self.plan(&f.input)?;
                self.filter(input, predicates)
            }
            LogicalPlan::Union(u) => {
                let mut schema = arrow_schema(&u.schema);
                let bare = schema.fields().is_empty();
                let mut inputs = Vec::new();
                for child in &u.inputs {
                    let id = self.plan(child)?;
                    let id = if bare {
                        // Nothing is read but the number of rows: every branch gives the same stand-in column.
                        self.map(id, Vec::new(), Some(Vec::new()), Arc::clone(&schema))?
                    } else {
                        self.cast_columns(id, &schema)?
                    };
                    match &self.node(id).op {
                        IncOp::Union => inputs.extend(self.node(id).inputs.clone()),
                        _ => inputs.push(id),
                    }
                }
                if let (true, Some(first)) = (bare, inputs.first()) {
                    schema = self.schema(*first);
                }
                Ok(self.add(IncOp::Union, inputs, schema))
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let input = self.plan(input)?;
                Ok(self.distinct(input))
            }
            LogicalPlan::Distinct(Distinct::On(on)) => self.distinct_on(on),
            LogicalPlan::Join(j) => match self.temporal_condition(j)? {
                Some(timed) => Ok(timed),
                None => self.join(j),
            },
            LogicalPlan::Aggregate(a) => self.aggregate(a),
            LogicalPlan::Sort(s) => match s.fetch {
                None => self.plan(&s.input), // order is a property of reads
                Some(n) => self.sorted_limit(plan, 0, Some(n as u64)),
            },
            LogicalPlan::Limit(l) => self.limit(l),
            LogicalPlan::Window(w) => self.window(w),
            LogicalPlan::Unnest(_) => self.unnest(plan),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => self.values(plan),
            LogicalPlan::RecursiveQuery(r) => self.recursive(r),
            LogicalPlan::Subquery(s) => self.plan(&s.subquery),
            LogicalPlan::Extension(e) => {
                let node = e.node.as_ref();
                if let Some(op) = SetOp::of(node) {
                    self.set_op(op)
                } else if let Some(join) = AsOf::of(node) {
                    self.as_of(join)
                } else if let Some(arrival) = ArrivalJoin::of(node) {
                    self.arrival_join(&arrival.join)
                } else if let Some(pattern) = MatchNode::of(node) {
                    self.match_recognize(pattern)
                } else {
                    Err(SqlError::unsupported(format!("{} cannot be used in a view", node.name())).into())
                }
            }
            other => Err(SqlError::unsupported(format!("{} cannot be used in a view", operator_name(other))).into()),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Planned {
        let Some((relation, kind)) = self.relations.resolve(&scan.table_name) else {
            let name = scan.table_name.table();
            return Err(SqlError::unsupported(format!("relation \"{name}\" cannot be used in a view"))
                .hint("Only streams, tables, views and materialized views can be read by a materialized view.")
                .into());
        };
        let full = scan.source.schema();
        let projection = scan.projection.clone().unwrap_or_else(|| (0..full.fields().len()).collect());
        // Filters that were pushed into the scan may read columns that it does not give.
        let table = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &full)?;
        let mut read = projection.clone();
        if read.is_empty() {
            read.push(0); // batches always have a column, see `map`
        }
        let mut predicates = Vec::new();
        let mut timed = Vec::new();
        for filter in &scan.filters {
            for column in filter.column_refs() {
                let i = table.index_of_column(column)?;
                if !read.contains(&i) {
                    read.push(i);
                }
            }
        }
        let fields: Vec<_> =
            read.iter().map(|i| table.qualified_field(*i)).map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        let seen = DFSchema::new_with_metadata(fields, HashMap::new())?;
        for filter in &scan.filters {
            let (with_clock, plain) = temporal::parted(filter);
            timed.extend(with_clock);
            for e in &plain {
                predicates.push(positional(e, &seen)?);
            }
        }
        let extra = read.len() > projection.len().max(1);
        let schema = arrow_schema(&seen);
        let source = self.add_with_kind(IncOp::Source { relation, projection: read }, Vec::new(), schema, Some(kind));
        let source = match timed.is_empty() {
            true => source,
            false => {
                let rows = self.filter(source, std::mem::take(&mut predicates))?;
                self.timed(rows, timed, &seen)?
            }
        };
        let exprs = extra.then(|| (0..projection.len()).map(PlanExpr::column).collect());
        self.map(source, predicates, exprs, arrow_schema(&scan.projected_schema))
    }

    fn distinct(&mut self, input: NodeId) -> NodeId {
        let schema = self.schema(input);
        let input = self.hashed(input, (0..schema.fields().len()).collect());
        self.add(IncOp::Distinct, vec![input], schema)
    }

    fn set_op(&mut self, op: &SetOp) -> Planned {
        let schema = arrow_schema(&op.schema);
        let mut inputs = Vec::with_capacity(2);
        for side in [&op.left, &op.right] {
            let id = self.plan(side)?;
            let id = self.cast_columns(id, &schema)?;
            inputs.push(self.hashed(id, (0..schema.fields().len()).collect()));
        }
        Ok(self.add(IncOp::SetOp { kind: op.kind }, inputs, schema))
    }

    fn match_recognize(&mut self, node: &MatchNode) -> Planned {
        let spec = Box::new(node.spec()?);
        // The relation under its own names, not under those by which the pattern knows its columns.
        let input = match node.input().as_ref() {
            LogicalPlan::Projection(p) => {
                let name = |e: &Expr, f: &Field| match e.clone().unalias() {
                    Expr::Column(c) => c.name,
                    _ => f.name().clone(),
                };
                let fields = p.expr.iter().zip(p.schema.fields());
                let fields = fields.map(|(e, f)| Field::new(name(e, f), f.data_type().clone(), true));
                let schema = SchemaRef::new(Schema::new(fields.collect::<Vec<_>>()));
                let exprs = positional_all(&p.expr, p.input.schema())?;
                let below = self.plan(&p.input)?;
                self.map(below, Vec::new(), Some(exprs), schema)?
            }
            other => self.plan(other)?,
        };
        let partition = spec.shape.partition.clone();
        let input = if partition.is_empty() { self.single(input) } else { self.hashed(input, partition) };
        Ok(self.add(IncOp::MatchRecognize { spec, decided: false }, vec![input], arrow_schema(node.result())))
    }

    fn unnest(&mut self, plan: &LogicalPlan) -> Planned {
        let LogicalPlan::Unnest(u) = plan else { return recompute("unnest") };
        let child = self.plan(&u.input)?;
        let leaf = recompute::leaf(0, u.input.schema(), &self.schema(child))?;
        let stored = plan.with_new_exprs(plan.expressions(), vec![leaf])?;
        let schema = arrow_schema(&u.schema);
        Ok(self.add(IncOp::RowMap { plan: super::StoredPlan { logical: stored } }, vec![child], schema))
    }

    /// The same rows with the column types of `wanted`.
    fn cast_columns(&mut self, id: NodeId, wanted: &Schema) -> Planned {
        let have = self.schema(id);
        if wanted.fields().is_empty() {
            return Ok(id); // the column it has is only there to be there
        }
        if have.fields().len() != wanted.fields().len() {
            return Err(SqlError::internal("an operator has another number of columns than its plan").into());
        }
        let same = |(a, b): (&Arc<Field>, &Arc<Field>)| a.data_type() == b.data_type();
        if have.fields().iter().zip(wanted.fields()).all(same) {
            return Ok(id);
        }
        let exprs = have.fields().iter().zip(wanted.fields()).enumerate().map(|(i, (a, b))| {
            let column = PlanExpr::column(i);
            if a.data_type() == b.data_type() { column } else { cast(column, b.data_type()) }
        });
        let exprs = exprs.collect();
        self.map(id, Vec::new(), Some(exprs), nullable(wanted))
    }
}

fn cast(e: PlanExpr, to: &DataType) -> PlanExpr {
    PlanExpr { expr: datafusion::logical_expr::cast(e.expr, to.clone()) }
}

/// The operator in SQL's words.
fn operator_name(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ', '(']).next().unwrap_or("this statement").to_owned()
}

/// The columns of a plan, all nullable: nothing may depend on nullability, which DataFusion only estimates.
fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    nullable(schema.as_arrow())
}

fn nullable(schema: &Schema) -> SchemaRef {
    let field = |f: &Arc<Field>| Field::new(f.name(), f.data_type().clone(), true);
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// An expression over the positions of `schema`'s columns.
fn positional(expr: &Expr, schema: &DFSchema) -> Planned<PlanExpr> {
    let mut obstacle = None;
    let mut clocked = false;
    expr.apply(|e| {
        match e {
            Expr::ScalarSubquery(s) => obstacle = Some(("scalar subquery", s.outer_ref_columns.is_empty())),
            Expr::InSubquery(s) => obstacle = Some(("IN subquery", s.subquery.outer_ref_columns.is_empty())),
            Expr::Exists(s) => obstacle = Some(("EXISTS subquery", s.subquery.outer_ref_columns.is_empty())),
            Expr::SetComparison(s) => obstacle = Some(("ANY/ALL subquery", s.subquery.outer_ref_columns.is_empty())),
            Expr::OuterReferenceColumn(_, _) => obstacle = Some(("outer reference", false)),
            _ if clock::of(e).is_some() => clocked = true,
            _ => {}
        }
        Ok(if obstacle.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if clocked {
        let error =
            SqlError::unsupported("this condition with now() cannot be maintained: it is part of another expression");
        return Err(error.hint(clock::FORMS).into());
    }
    match obstacle {
        Some((what, true)) => return recompute(what),
        Some((what, false)) => {
            return Err(SqlError::unsupported(format!("this form of correlated {what} is not supported"))
                .hint("Rewrite the subquery as a join with GROUP BY.")
                .into());
        }
        None => {}
    }
    let bare = expr.clone().unalias();
    let expr = bare.transform_up(|e| match &e {
        Expr::Column(c) => {
            let i = schema.index_of_column(c)?;
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(format!("c{i}")))))
        }
        // Names inside an expression mean nothing any more.
        Expr::Alias(a) => Ok(Transformed::yes(a.expr.as_ref().clone())),
        _ => Ok(Transformed::no(e)),
    })?;
    Ok(PlanExpr { expr: expr.data })
}

fn positional_all(exprs: &[Expr], schema: &DFSchema) -> Planned<Vec<PlanExpr>> {
    exprs.iter().map(|e| positional(e, schema)).collect()
}

fn conjuncts(predicate: &Expr, schema: &DFSchema) -> Planned<Vec<PlanExpr>> {
    split_conjunction(predicate).into_iter().map(|e| positional(e, schema)).collect()
}

/// The literal number of a LIMIT or OFFSET.
fn literal_count(e: &Expr, clause: &str) -> Planned<Option<u64>> {
    use datafusion::common::ScalarValue;
    let Expr::Literal(value, _) = e else {
        return Err(SqlError::unsupported(format!("{clause} in a view must be a constant")).into());
    };
    if value.is_null() {
        return Ok(None);
    }
    match value.cast_to(&DataType::Int64)? {
        ScalarValue::Int64(Some(n)) if n >= 0 => Ok(Some(n as u64)),
        _ => Err(SqlError::new(SqlState("2201W"), format!("{clause} must not be negative")).into()),
    }
}
