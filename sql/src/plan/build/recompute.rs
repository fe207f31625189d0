//! Operators without a native form: DataFusion runs them over natively maintained inputs.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::logical_plan::Subquery;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::{Builder, Fail, IncOp, NodeId, Planned, SqlError, arrow_schema, clock};
use crate::matching::MatchNode;
use crate::plan::expr::positional_schema;
use crate::plan::{RecomputeKeys, StoredPlan};

/// The table that stands for input `i` in a stored plan, with the qualified column names of `schema`. The table's
/// columns are those of the node (`types`), which may be more than `schema` has; they are named `c0, c1, ..`, because
/// names of a query's columns need not be unique and those of a table must be.
pub(super) fn leaf(i: usize, schema: &DFSchema, types: &Schema) -> Planned<LogicalPlan> {
    let table = format!("t{i}");
    let source = provider_as_source(Arc::new(EmptyTable::new(positional_schema(types))));
    let scan = LogicalPlanBuilder::scan(table.as_str(), source, None)?;
    let names = schema.iter().enumerate().map(|(c, (qualifier, field))| {
        let column = Expr::Column(Column::new(Some(table.as_str()), format!("c{c}")));
        column.alias_qualified(qualifier.cloned(), field.name())
    });
    Ok(scan.project(names.collect::<Vec<_>>())?.build()?)
}

impl Builder<'_> {
    /// Recomputes just this operator; its inputs are planned natively.
    pub(super) fn recompute(&mut self, plan: &LogicalPlan, reason: String) -> Planned {
        let mut clocked = false;
        let deep = matches!(plan, LogicalPlan::RecursiveQuery(_));
        let mut look = |node: &LogicalPlan| {
            node.apply_expressions(|e| {
                clocked |= clock::has_mark(e);
                Ok(TreeNodeRecursion::Continue)
            })
        };
        if deep {
            plan.apply_with_subqueries(&mut look)?
        } else {
            look(plan)?
        };
        if clocked {
            let error = SqlError::unsupported(format!("now() cannot be used in a {reason} of a view"));
            return Err(error.hint(clock::FORMS).into());
        }
        match plan {
            LogicalPlan::RecursiveQuery(_) => return self.recompute_deep(plan, reason),
            LogicalPlan::Aggregate(a) => {
                if let Some(done) = self.recompute_aggregate(a, plan, &reason)? {
                    return Ok(done);
                }
            }
            LogicalPlan::Window(w) => {
                if let Some(done) = self.recompute_window(w, plan, &reason)? {
                    return Ok(done);
                }
            }
            _ => {}
        }
        let mut inputs = Vec::new();
        let mut leaves = Vec::new();
        for child in plan.inputs() {
            let id = self.plan(child)?;
            leaves.push(leaf(leaves.len(), child.schema(), &self.schema(id))?);
            inputs.push(id);
        }
        let stored = plan.with_new_exprs(plan.expressions(), leaves)?;
        let stored = self.subquery_leaves(stored, &mut inputs)?;
        Ok(self.add_recompute(plan, stored, inputs, None, reason))
    }

    /// Plans the subqueries in the operator's expressions and puts leaves in their place.
    fn subquery_leaves(&mut self, plan: LogicalPlan, inputs: &mut Vec<NodeId>) -> Planned<LogicalPlan> {
        let mut failed = None;
        let mut one = |s: &Subquery| -> Planned<Subquery> {
            if !s.outer_ref_columns.is_empty() {
                return Err(SqlError::unsupported("this form of correlated subquery is not supported")
                    .hint("Rewrite the subquery as a join with GROUP BY.")
                    .into());
            }
            let id = self.plan(&s.subquery)?;
            let leaf = leaf(inputs.len(), s.subquery.schema(), &self.schema(id))?;
            inputs.push(id);
            Ok(s.with_plan(Arc::new(leaf)))
        };
        let mut replace = |e: Expr| -> datafusion::error::Result<Transformed<Expr>> {
            e.transform_up(|mut e| {
                let subquery = match &mut e {
                    Expr::ScalarSubquery(s) => s,
                    Expr::InSubquery(s) => &mut s.subquery,
                    Expr::Exists(s) => &mut s.subquery,
                    Expr::SetComparison(s) => &mut s.subquery,
                    _ => return Ok(Transformed::no(e)),
                };
                match one(subquery) {
                    Ok(new) => *subquery = new,
                    Err(f) => {
                        failed.get_or_insert(f);
                    }
                }
                Ok(Transformed::yes(e))
            })
        };
        let new = plan.map_expressions(&mut replace)?.data;
        match failed {
            Some(f) => Err(f),
            None => Ok(new),
        }
    }

    /// Recomputes the whole subtree: its leaves are the relations it reads.
    fn recompute_deep(&mut self, plan: &LogicalPlan, reason: String) -> Planned {
        crate::asof::refuse(plan)?;
        if plan.exists(|n| Ok(matches!(n, LogicalPlan::Extension(e) if MatchNode::of(e.node.as_ref()).is_some())))? {
            return Err(SqlError::unsupported(
                "MATCH_RECOGNIZE inside of a recursive query of a view is not supported",
            )
            .hint("Make a materialized view of it and read that.")
            .into());
        }
        let mut inputs = Vec::new();
        let mut failed = None;
        let expanded = crate::decorrelate::set_op::expand(plan.clone())?;
        let stored = expanded.transform_down_with_subqueries(|node| {
            let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
            if self.relations.resolve(&scan.table_name).is_none() {
                // The working table of a recursion: it is stored by name and columns, so the choice of columns goes
                // into a projection.
                let Some(chosen) = &scan.projection else { return Ok(Transformed::no(node)) };
                let full = LogicalPlanBuilder::scan(scan.table_name.clone(), Arc::clone(&scan.source), None)?;
                let columns: Vec<Expr> =
                    chosen.iter().map(|i| Expr::Column(Column::from(full.schema().qualified_field(*i)))).collect();
                return Ok(Transformed::new(full.project(columns)?.build()?, true, TreeNodeRecursion::Jump));
            }
            let planned = self.scan(scan);
            match planned.and_then(|id| Ok((id, leaf(inputs.len(), &scan.projected_schema, &self.schema(id))?))) {
                Ok((id, leaf)) => {
                    inputs.push(id);
                    Ok(Transformed::new(leaf, true, TreeNodeRecursion::Jump))
                }
                Err(f) => {
                    failed.get_or_insert(f);
                    Ok(Transformed::new(node, false, TreeNodeRecursion::Stop))
                }
            }
        })?;
        match failed {
            Some(Fail::Recompute(reason)) => Err(SqlError::unsupported(reason).into()),
            Some(f) => Err(f),
            None => Ok(self.add_recompute(plan, stored.data, inputs, None, reason)),
        }
    }

    /// Adds the node; `keys` say how groups are found in the inputs and the output.
    pub(super) fn add_recompute(
        &mut self,
        plan: &LogicalPlan,
        stored: LogicalPlan,
        inputs: Vec<NodeId>,
        keys: Option<RecomputeKeys>,
        reason: String,
    ) -> NodeId {
        let inputs = inputs
            .into_iter()
            .enumerate()
            .map(|(i, id)| match &keys {
                Some(k) if !k.output.is_empty() => self.hashed(id, k.inputs[i].clone()),
                _ => self.single(id),
            })
            .collect();
        let schema = arrow_schema(plan.schema());
        self.add(IncOp::Recompute { plan: StoredPlan { logical: stored }, keys, reason }, inputs, schema)
    }

    /// The operator over one leaf, which may have more columns than the operator reads.
    pub(super) fn over_leaf(&self, plan: &LogicalPlan, input: &LogicalPlan, id: NodeId) -> Planned<LogicalPlan> {
        let leaf = leaf(0, input.schema(), &self.schema(id))?;
        Ok(plan.with_new_exprs(plan.expressions(), vec![leaf])?)
    }
}
