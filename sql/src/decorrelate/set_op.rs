//! EXCEPT ALL and INTERSECT ALL.
//!
//! DataFusion plans them as joins, which do not count. So the text's set operation goes to the planner as a UNION ALL
//! of two relations with names that say what it was ([`marker`]); after type coercion it becomes a [`SetOp`]. A view
//! has an operator for that; for a SELECT [`ExpandSetOps`] turns it into counting and repeating.

use std::cmp::Ordering;
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DFSchemaRef, TableReference};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::functions_nested::expr_fn::array_repeat;
use datafusion::logical_expr::logical_plan::{Aggregate, Extension};
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNode, UserDefinedLogicalNodeCore, lit, when,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::{column_at, filtered, grouped_value, named, project};
pub(crate) use crate::plan::SetOpKind;

const MARKER: &str = "__set_op";

/// The name of a side of a set operation in the union that stands for it.
pub(crate) fn marker(kind: SetOpKind, side: &str) -> String {
    format!("{MARKER}_{}_{side}", kind.name())
}

/// A set operation that counts duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SetOp {
    pub(crate) kind: SetOpKind,
    pub(crate) left: Arc<LogicalPlan>,
    pub(crate) right: Arc<LogicalPlan>,
    pub(crate) schema: DFSchemaRef,
}

impl SetOp {
    /// The operation over relations with columns of the same types.
    pub(crate) fn new(kind: SetOpKind, left: LogicalPlan, right: LogicalPlan) -> Result<Self> {
        let schema = left.schema();
        let fields = schema.iter().map(|(q, f)| (q.cloned(), Arc::new(f.as_ref().clone().with_nullable(true))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?);
        Ok(Self { kind, left: Arc::new(left), right: Arc::new(right), schema })
    }

    pub(crate) fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The set operation that a node is.
    pub(crate) fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    /// The same by counting: one row a distinct row with its numbers on both sides, then repeated.
    fn expanded(&self) -> Result<LogicalPlan> {
        let width = self.schema.fields().len();
        let side = |plan: &LogicalPlan, l: i64, r: i64| -> Result<LogicalPlan> {
            let mut exprs = Vec::with_capacity(width + 2);
            for i in 0..width {
                let e = grouped_value(column_at(plan.schema(), i), plan.schema().field(i).data_type())?;
                exprs.push(e.alias(format!("c{i}")));
            }
            exprs.push(lit(l).alias("l"));
            exprs.push(lit(r).alias("r"));
            project(plan.clone(), exprs)
        };
        let both = LogicalPlanBuilder::from(side(&self.left, 1, 0)?).union(side(&self.right, 0, 1)?)?.build()?;
        let keys: Vec<Expr> = (0..width).map(|i| column_at(both.schema(), i)).collect();
        let sums = vec![sum(column_at(both.schema(), width)), sum(column_at(both.schema(), width + 1))];
        let counted = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(both), keys, sums)?);
        let (l, r) = (column_at(counted.schema(), width), column_at(counted.schema(), width + 1));
        let times = match self.kind {
            SetOpKind::ExceptAll => l - r,
            SetOpKind::IntersectAll => when(l.clone().lt(r.clone()), l).otherwise(r)?,
        };
        let mut exprs: Vec<Expr> = (0..width).map(|i| column_at(counted.schema(), i).alias(format!("c{i}"))).collect();
        exprs.push(times.alias("n"));
        let counted = project(counted, exprs)?;
        let n = column_at(counted.schema(), width);
        let counted = filtered(counted, vec![n.clone().gt(lit(0i64))])?;
        let mut exprs: Vec<Expr> = (0..width).map(|i| column_at(counted.schema(), i)).collect();
        exprs.push(array_repeat(lit(true), n).alias("n"));
        let repeated = LogicalPlanBuilder::from(project(counted, exprs)?).unnest_column("n")?.build()?;
        let columns = self.schema.iter().enumerate();
        let columns = columns.map(|(i, (q, f))| named(column_at(repeated.schema(), i), q, f.name())).collect();
        project(repeated, columns)
    }
}

impl PartialOrd for SetOp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.kind, &self.left, &self.right).partial_cmp(&(other.kind, &other.left, &other.right))
    }
}

impl UserDefinedLogicalNodeCore for SetOp {
    fn name(&self) -> &str {
        "SetOp"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }
    fn fmt_for_explain(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "SetOp: {}", self.kind.sql())
    }
    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.pop()) {
            (Some(right), Some(left)) => Ok(Self { left: Arc::new(left), right: Arc::new(right), ..self.clone() }),
            _ => Err(super::unsupported("a set operation of one relation")),
        }
    }
}

/// The operation whose side this relation is marked as.
fn mark_of(plan: &LogicalPlan) -> Option<(SetOpKind, &'static str)> {
    match plan {
        LogicalPlan::Projection(p) => mark_of(&p.input),
        LogicalPlan::SubqueryAlias(a) => {
            let TableReference::Bare { table } = &a.alias else { return None };
            let rest = table.strip_prefix(MARKER)?.strip_prefix('_')?;
            for kind in [SetOpKind::ExceptAll, SetOpKind::IntersectAll] {
                match rest.strip_prefix(kind.name()) {
                    Some("_l") => return Some((kind, "l")),
                    Some("_r") => return Some((kind, "r")),
                    _ => {}
                }
            }
            None
        }
        _ => None,
    }
}

fn kind_of(plan: &LogicalPlan) -> Option<SetOpKind> {
    let LogicalPlan::Union(u) = plan else { return None };
    let [left, right] = u.inputs.as_slice() else { return None };
    match (mark_of(left)?, mark_of(right)?) {
        ((a, "l"), (b, "r")) if a == b => Some(a),
        _ => None,
    }
}

/// True for the union that stands for a set operation.
pub(super) fn is_marked(plan: &LogicalPlan) -> bool {
    kind_of(plan).is_some()
}

/// The set operation that a marked union stands for, under the union's names; any other plan as it is.
pub(super) fn unmark(plan: LogicalPlan) -> Result<LogicalPlan> {
    let Some(kind) = kind_of(&plan) else { return Ok(plan) };
    let LogicalPlan::Union(u) = plan else { return Ok(plan) };
    let schema = u.schema;
    let mut sides = u.inputs.into_iter().map(|side| {
        let exprs = schema.iter().enumerate().map(|(i, (q, f))| named(column_at(side.schema(), i), q, f.name()));
        let exprs = exprs.collect();
        project(Arc::unwrap_or_clone(side), exprs)
    });
    match (sides.next(), sides.next()) {
        (Some(left), Some(right)) => Ok(SetOp::new(kind, left?, right?)?.into_plan()),
        _ => Err(super::unsupported("a set operation of one relation")),
    }
}

/// For SELECT: set operations by counting.
#[derive(Debug)]
pub(crate) struct ExpandSetOps;

impl OptimizerRule for ExpandSetOps {
    fn name(&self) -> &str {
        "expand_set_ops"
    }
    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }
    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        expand_node(plan)
    }
}

fn expand_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let expanded = match &plan {
        LogicalPlan::Extension(Extension { node }) => match SetOp::of(node.as_ref()) {
            Some(op) => op.expanded()?,
            None => return Ok(Transformed::no(plan)),
        },
        _ => return Ok(Transformed::no(plan)),
    };
    Ok(Transformed::yes(expanded))
}

/// The plan with every set operation expanded.
pub(crate) fn expand(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(expand_node)?.data)
}
