//! WITH RECURSIVE: the recursive term becomes a plan of its own, a *step*, that passes the number of a round through.
//!
//! The rows of round n are what the recursive term makes of the rows of round n - 1 alone. Here the rows of all rounds
//! go through one step, with the number of their round as a further column, `__round`: operators that see a row at a time
//! pass it on, those that see several group by it. What the step gives for round n - 1 is round n. So the incremental
//! operators of the step do for every round what they do for one, and their state has the rounds as its first dimension,
//! as the nested circuits of DBSP have (Budiu et al., "DBSP: Automatic Incremental View Maintenance", 2023, section 5)
//! and the product times of differential dataflow (McSherry et al., CIDR 2013).
//!
//! Subtrees of the recursive term that do not read the recursion are planned as any other and are inputs of the node. A
//! term that cannot be written this way (LIMIT, an aggregate without GROUP BY, ..) leaves the whole recursion to
//! DataFusion.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::default_table_source::{provider_as_source, source_as_provider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema, JoinType, TableReference};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::Alias;
use datafusion::logical_expr::logical_plan::{
    Aggregate, Distinct, Filter, Join, Projection, RecursiveQuery, SubqueryAlias, TableScan, Unnest, Window,
};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};

use super::{
    Builder, ChangelogKind, IncOp, IncPlan, NodeId, Planned, RelationId, Relations, arrow_schema, nullable, recompute,
};
use crate::plan::expr::positional_schema;
use crate::plan::{JoinKind, Tier};

/// The column with the number of a row's round. It is always the last one.
const ROUND: &str = "__round";

impl Builder<'_> {
    pub(super) fn recursive(&mut self, query: &RecursiveQuery) -> Planned {
        let schema = arrow_schema(&query.schema);
        if schema.fields().is_empty() {
            return recompute("recursive query without columns");
        }
        if references(&query.recursive_term, &query.name)? != 1 {
            return recompute("recursive query that is read more than once in its own term");
        }
        let base = self.plan(&query.static_term)?;
        let base = self.cast_columns(base, &schema)?;
        let base = self.single(base);
        let rows = with_round(&schema);
        let (carried, inputs) = {
            let mut carry = Carry { builder: self, name: &query.name, rows: &rows, inputs: vec![base] };
            (carry.plan(&query.recursive_term)?, carry.inputs)
        };

        // The rows of a round only grow if all that makes them does.
        let mut kinds: Vec<ChangelogKind> = inputs.iter().map(|i| self.node(*i).kind).collect();
        let appends = kinds.iter().all(|k| *k == ChangelogKind::Append);
        // A new way to a row may move it to an earlier round.
        kinds[0] = if appends && !query.is_distinct { ChangelogKind::Append } else { ChangelogKind::Retract };
        let mut step = self.step(&carried, &rows, &inputs, &kinds)?;
        if kinds[0] == ChangelogKind::Append && step.node(step.output).kind != ChangelogKind::Append {
            kinds[0] = ChangelogKind::Retract;
            step = self.step(&carried, &rows, &inputs, &kinds)?;
        }
        let grows = match query.is_distinct {
            true => appends && step.nodes.iter().all(|n| monotone(&n.op)),
            false => kinds[0] == ChangelogKind::Append,
        };
        let kind = if grows { ChangelogKind::Append } else { ChangelogKind::Retract };
        let op = IncOp::Recursive { step: Box::new(step), distinct: query.is_distinct, rounds_max: self.rounds_max };
        Ok(self.add_with_kind(op, inputs, schema, Some(kind)))
    }

    /// The plan of a round. `kinds`: of the rows of a round, then of the node's further inputs.
    fn step(
        &self,
        carried: &LogicalPlan,
        rows: &SchemaRef,
        inputs: &[NodeId],
        kinds: &[ChangelogKind],
    ) -> Planned<IncPlan> {
        let ports = Ports(kinds.to_vec());
        let mut builder = Builder::new(&ports, self.rounds_max);
        builder.one_shard = true;
        let root = builder.plan(carried)?;
        let root = builder.cast_columns(root, rows)?;
        let mut plan = builder.finish(root, rows, Vec::new());
        // Ports have the names of what they stand for.
        for node in &mut plan.nodes {
            if let IncOp::Source { relation, projection } = &node.op {
                let named = match inputs.get(relation.0 as usize) {
                    Some(id) if relation.0 > 0 => self.schema(*id),
                    _ => SchemaRef::clone(rows),
                };
                node.schema = nullable(&named.project(projection).map_err(DataFusionError::from)?);
            }
        }
        // It would be computed anew for all rounds at every round.
        match plan.nodes.iter().find(|n| n.op.tier() != Tier::Native) {
            Some(n) => match &n.op {
                IncOp::Recompute { reason, .. } => recompute(format!("recursive query with {reason}")),
                _ => recompute("recursive query"),
            },
            None => Ok(plan),
        }
    }
}

/// The relations of a step: `t0` and so on, the inputs by number.
struct Ports(Vec<ChangelogKind>);

impl Relations for Ports {
    fn resolve(&self, name: &TableReference) -> Option<(RelationId, ChangelogKind)> {
        let port: usize = name.table().strip_prefix('t')?.parse().ok()?;
        Some((RelationId(port as u64), *self.0.get(port)?))
    }
}

/// More rows in never mean fewer rows out.
fn monotone(op: &IncOp) -> bool {
    match op {
        IncOp::Source { .. } | IncOp::Map { .. } | IncOp::RowMap { .. } | IncOp::Union | IncOp::Distinct => true,
        IncOp::Join { kind, .. } => *kind == JoinKind::Inner,
        _ => false,
    }
}

fn with_round(schema: &Schema) -> SchemaRef {
    let round = Arc::new(Field::new(ROUND, DataType::Int64, true));
    nullable(&Schema::new(schema.fields().iter().cloned().chain([round]).collect::<Vec<_>>()))
}

/// How often a plan reads the recursion of this name.
fn references(plan: &LogicalPlan, name: &str) -> Planned<usize> {
    let mut found = 0;
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) => found += usize::from(is_reference(scan, name)),
            // Inside, the name means another one.
            LogicalPlan::RecursiveQuery(inner) if inner.name == name => return Ok(TreeNodeRecursion::Jump),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn is_reference(scan: &TableScan, name: &str) -> bool {
    let work_table = source_as_provider(&scan.source).is_ok_and(|p| p.downcast_ref::<CteWorkTable>().is_some());
    work_table && scan.table_name.table() == name
}

/// Rewrites a recursive term so that every operator passes the number of the round on.
struct Carry<'c, 'b> {
    builder: &'c mut Builder<'b>,
    name: &'c str,
    /// Columns of a row of the recursion and its round.
    rows: &'c SchemaRef,
    /// Inputs of the node so far; the first is the base term.
    inputs: Vec<NodeId>,
}

impl Carry<'_, '_> {
    /// The same columns of a plan that reads the recursion, then the round.
    fn plan(&mut self, plan: &LogicalPlan) -> Planned<LogicalPlan> {
        match plan {
            LogicalPlan::TableScan(scan) => self.reference(scan),
            LogicalPlan::Subquery(s) => self.plan(&s.subquery),
            LogicalPlan::SubqueryAlias(a) => {
                let input = self.plan(&a.input)?;
                Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), a.alias.clone())?))
            }
            LogicalPlan::Projection(p) => {
                let input = self.plan(&p.input)?;
                let mut exprs = p.expr.clone();
                exprs.push(last(input.schema())?);
                Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
            }
            LogicalPlan::Filter(f) => {
                let input = self.plan(&f.input)?;
                Ok(LogicalPlan::Filter(Filter::try_new(f.predicate.clone(), Arc::new(input))?))
            }
            // Order without a limit means nothing to the rows of a round.
            LogicalPlan::Sort(s) if s.fetch.is_none() => self.plan(&s.input),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                Ok(LogicalPlan::Distinct(Distinct::All(Arc::new(self.plan(input)?))))
            }
            LogicalPlan::Unnest(u) => {
                let input = Arc::new(self.plan(&u.input)?);
                Ok(LogicalPlan::Unnest(Unnest::try_new(input, u.exec_columns.clone(), u.options.clone())?))
            }
            LogicalPlan::Join(j) => self.join(j),
            LogicalPlan::Aggregate(a) => self.aggregate(a),
            LogicalPlan::Window(w) => self.window(w),
            LogicalPlan::Union(_) => recompute("recursive query with UNION in its recursive term"),
            LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => {
                recompute("recursive query with LIMIT in its recursive term")
            }
            other => recompute(format!("recursive query with {}", super::operator_name(other))),
        }
    }

    /// The rows of the last round.
    fn reference(&self, scan: &TableScan) -> Planned<LogicalPlan> {
        if !is_reference(scan, self.name) || !scan.filters.is_empty() || scan.fetch.is_some() {
            return recompute("recursive query");
        }
        let all = self.rows.fields().len() - 1;
        let source = provider_as_source(Arc::new(EmptyTable::new(positional_schema(self.rows))));
        let table = LogicalPlanBuilder::scan("t0", source, None)?;
        let column = |c: usize| Expr::Column(Column::new(Some("t0"), format!("c{c}")));
        let read: Vec<usize> = scan.projection.clone().unwrap_or_else(|| (0..all).collect());
        let mut exprs = Vec::with_capacity(read.len() + 1);
        for (c, (qualifier, field)) in read.iter().zip(scan.projected_schema.iter()) {
            let same = self.rows.field(*c).data_type() == field.data_type();
            let value = if same { column(*c) } else { cast(column(*c), field.data_type().clone()) };
            exprs.push(value.alias_qualified(qualifier.cloned(), field.name()));
        }
        exprs.push(column(all).alias(ROUND));
        Ok(table.project(exprs)?.build()?)
    }

    /// A subtree that does not read the recursion: an input of the node.
    fn input(&mut self, plan: &LogicalPlan) -> Planned<LogicalPlan> {
        let id = self.builder.plan(plan)?;
        let id = self.builder.single(id);
        let port = match self.inputs.iter().skip(1).position(|i| *i == id) {
            Some(at) => at + 1,
            None => {
                self.inputs.push(id);
                self.inputs.len() - 1
            }
        };
        super::recompute::leaf(port, plan.schema(), &self.builder.schema(id))
    }

    fn join(&mut self, j: &Join) -> Planned<LogicalPlan> {
        use JoinType as T;
        let reads_left = references(&j.left, self.name)? > 0;
        // Rows of the recursion must come out each in its round: those of the side that is kept.
        let fits = match j.join_type {
            T::Inner => true,
            T::Left | T::LeftSemi | T::LeftAnti => reads_left,
            T::Right | T::RightSemi | T::RightAnti => !reads_left,
            T::Full | T::LeftMark | T::RightMark => false,
        };
        if j.null_aware {
            return recompute("recursive query with NOT IN over NULLs");
        }
        match j.join_type {
            T::LeftSemi if !reads_left => return self.semi(&j.left, &j.right, j),
            T::RightSemi if reads_left => return self.semi(&j.right, &j.left, j),
            _ if !fits => return recompute("recursive query with such a join"),
            _ => {}
        }
        let (left, right) = match reads_left {
            true => (self.plan(&j.left)?, self.input(&j.right)?),
            false => (self.input(&j.left)?, self.plan(&j.right)?),
        };
        let joined = LogicalPlan::Join(Join::try_new(
            Arc::new(left),
            Arc::new(right),
            j.on.clone(),
            j.filter.clone(),
            j.join_type,
            j.join_constraint,
            j.null_equality,
            false,
        )?);
        let round = match (reads_left, j.join_type) {
            (true, _) => j.left.schema().fields().len(),
            (false, T::RightSemi | T::RightAnti) => j.right.schema().fields().len(),
            (false, _) => j.left.schema().fields().len() + j.right.schema().fields().len(),
        };
        round_last(joined, round, &j.schema)
    }

    /// Rows of `kept` with a partner among those of the recursion: in each round those that meet one of its keys.
    /// DataFusion makes this of an inner join of which only the other side is read, below a DISTINCT.
    fn semi(&mut self, kept: &LogicalPlan, filter: &LogicalPlan, j: &Join) -> Planned<LogicalPlan> {
        if j.filter.is_some() || j.on.is_empty() {
            return recompute("recursive query with such a join");
        }
        let rows = self.plan(filter)?;
        let mut keys = Vec::with_capacity(j.on.len() + 1);
        let mut on = Vec::with_capacity(j.on.len());
        for (i, (left, right)) in j.on.iter().enumerate() {
            let (of_kept, of_rows) = if j.join_type == JoinType::LeftSemi { (left, right) } else { (right, left) };
            let name = format!("__key{i}");
            keys.push(of_rows.clone().unalias().alias(&name));
            on.push((Expr::Column(Column::new_unqualified(name)), of_kept.clone()));
        }
        keys.push(last(rows.schema())?);
        let keys = LogicalPlan::Projection(Projection::try_new(keys, Arc::new(rows))?);
        let keys = LogicalPlan::Distinct(Distinct::All(Arc::new(keys)));
        let kept = self.input(kept)?;
        let joined = LogicalPlan::Join(Join::try_new(
            Arc::new(keys),
            Arc::new(kept),
            on,
            None,
            JoinType::Inner,
            j.join_constraint,
            j.null_equality,
            false,
        )?);
        let round = j.on.len();
        let column = |i: usize| Expr::Column(Column::from(joined.schema().qualified_field(i)));
        let mut exprs: Vec<Expr> = (round + 1..joined.schema().fields().len()).map(column).collect();
        exprs.push(column(round));
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(joined))?))
    }

    fn aggregate(&mut self, a: &Aggregate) -> Planned<LogicalPlan> {
        if a.group_expr.is_empty() || a.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
            // It has a row for a round without rows.
            return recompute("recursive query with an aggregate without GROUP BY in its recursive term");
        }
        let input = self.plan(&a.input)?;
        let mut groups = a.group_expr.clone();
        let round = groups.len();
        groups.push(last(input.schema())?);
        let new = Aggregate::try_new(Arc::new(input), groups, a.aggr_expr.clone())?;
        round_last(LogicalPlan::Aggregate(new), round, &a.schema)
    }

    fn window(&mut self, w: &Window) -> Planned<LogicalPlan> {
        let input = self.plan(&w.input)?;
        let by = last(input.schema())?;
        let round = input.schema().fields().len() - 1;
        let exprs = w.window_expr.iter().map(|e| partitioned(e.clone(), &by)).collect::<Planned<Vec<_>>>()?;
        round_last(LogicalPlan::Window(Window::try_new(exprs, Arc::new(input))?), round, &w.schema)
    }
}

/// A window function within each round.
fn partitioned(e: Expr, round: &Expr) -> Planned<Expr> {
    match e {
        Expr::Alias(a) => {
            let expr = Box::new(partitioned(*a.expr.clone(), round)?);
            Ok(Expr::Alias(Alias { expr, ..a }))
        }
        Expr::WindowFunction(mut f) => {
            f.params.partition_by.push(round.clone());
            Ok(Expr::WindowFunction(f))
        }
        _ => recompute("recursive query with a window function in its recursive term"),
    }
}

fn last(schema: &DFSchema) -> Planned<Expr> {
    match schema.fields().len().checked_sub(1) {
        Some(i) => Ok(Expr::Column(Column::from(schema.qualified_field(i)))),
        None => recompute("recursive query"),
    }
}

/// The columns of `plan` named as those of `schema`, then column `round`, which is one more than those.
fn round_last(plan: LogicalPlan, round: usize, schema: &DFSchema) -> Planned<LogicalPlan> {
    let column = |i: usize| Expr::Column(Column::from(plan.schema().qualified_field(i)));
    if plan.schema().fields().len() != schema.fields().len() + 1 {
        return recompute("recursive query");
    }
    let own = (0..plan.schema().fields().len()).filter(|i| *i != round);
    let mut exprs: Vec<Expr> = own
        .zip(schema.iter())
        .map(|(i, (qualifier, field))| match column(i) {
            Expr::Column(c) if c.relation.as_ref() == qualifier && c.name == *field.name() => Expr::Column(c),
            other => other.alias_qualified(qualifier.cloned(), field.name()),
        })
        .collect();
    exprs.push(column(round));
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}
