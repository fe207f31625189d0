//! The surface node: MATCH_RECOGNIZE in a logical plan, until it becomes an operator of a view or of a SELECT.
//!
//! Its first input is the relation, with columns `c0, c1, ..` and the computed arguments of navigation and aggregates
//! after them. Its second is no relation: a projection over a table of slots, whose expressions are the conditions and
//! then the measures. As a plan among others it is analysed and simplified like every other part of the query.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::logical_plan::Extension;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};

use super::{MatchSpec, OutputColumn, Shape, internal};
use crate::plan::PlanExpr;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MatchNode {
    pub(super) input: Arc<LogicalPlan>,
    pub(super) outer: Arc<LogicalPlan>,
    /// Aggregate calls over the input.
    pub(super) calls: Vec<Expr>,
    /// Types of the slots.
    pub(super) types: Vec<DataType>,
    pub(super) shape: Shape,
    pub(super) schema: DFSchemaRef,
}

impl MatchNode {
    /// As a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }

    /// The MATCH_RECOGNIZE that a node is.
    pub fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    /// The relation it reads.
    pub fn input(&self) -> &Arc<LogicalPlan> {
        &self.input
    }

    /// Columns of the result.
    pub fn result(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// The same by position, when the plan has been analysed.
    pub fn spec(&self) -> Result<MatchSpec> {
        let mut conditions = outer_expressions(&self.outer)?;
        if conditions.len() < self.shape.defined.len() {
            return Err(internal("conditions of a pattern are missing"));
        }
        let measures = conditions.split_off(self.shape.defined.len());
        let calls = self.calls.iter().map(|e| positional(e, self.input.schema())).collect::<Result<_>>()?;
        Ok(MatchSpec { shape: self.shape.clone(), types: self.types.clone(), calls, conditions, measures })
    }

    /// The columns of the result: those of the input have the names `names`.
    pub(super) fn output_schema(
        shape: &Shape,
        input: &DFSchema,
        names: &[String],
        measures: &[(String, DataType)],
    ) -> Result<DFSchemaRef> {
        let mut fields = Vec::with_capacity(shape.output.len());
        for column in &shape.output {
            let (name, data_type) = match column {
                OutputColumn::Column(c) => (names.get(*c), input.fields().get(*c).map(|f| f.data_type())),
                OutputColumn::Measure(m) => (measures.get(*m).map(|m| &m.0), measures.get(*m).map(|m| &m.1)),
            };
            let (Some(name), Some(data_type)) = (name, data_type) else {
                return Err(internal("a column of MATCH_RECOGNIZE that is not there"));
            };
            fields.push((None, Arc::new(Field::new(name, data_type.clone(), true))));
        }
        Ok(Arc::new(DFSchema::new_with_metadata(fields, Default::default())?))
    }
}

/// An expression over the positions of the input's columns.
fn positional(e: &Expr, schema: &DFSchema) -> Result<PlanExpr> {
    let bare = e.clone().unalias();
    let expr = bare.transform_up(|e| match &e {
        Expr::Column(c) => {
            let i = schema.index_of_column(c)?;
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(format!("c{i}")))))
        }
        _ => Ok(Transformed::no(e)),
    })?;
    Ok(PlanExpr { expr: expr.data })
}

/// The expressions of the second input over slots, which may have become several projections.
fn outer_expressions(plan: &LogicalPlan) -> Result<Vec<PlanExpr>> {
    match plan {
        LogicalPlan::TableScan(scan) => Ok(scan
            .projected_schema
            .fields()
            .iter()
            .map(|f| PlanExpr { expr: Expr::Column(Column::new_unqualified(f.name())) })
            .collect()),
        LogicalPlan::SubqueryAlias(a) => outer_expressions(&a.input),
        LogicalPlan::Projection(p) => {
            let below = outer_expressions(&p.input)?;
            let one = |e: &Expr| -> Result<PlanExpr> {
                let put = e.clone().unalias_nested().data.transform_down(|e| match &e {
                    Expr::Column(c) => {
                        let i = p.input.schema().index_of_column(c)?;
                        let found = below.get(i).ok_or_else(|| internal("a slot that is not there"))?;
                        let jump = datafusion::common::tree_node::TreeNodeRecursion::Jump;
                        Ok(Transformed::new(found.expr.clone(), true, jump))
                    }
                    _ => Ok(Transformed::no(e)),
                })?;
                Ok(PlanExpr { expr: put.data })
            };
            p.expr.iter().map(one).collect()
        }
        other => Err(internal(format!("conditions of a pattern became {}", other.display()))),
    }
}

impl PartialOrd for MatchNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let key = |n: &Self| (Arc::clone(&n.input), Arc::clone(&n.outer), n.calls.clone());
        match key(self).partial_cmp(&key(other)) {
            Some(Ordering::Equal) => self.shape.partial_cmp(&other.shape),
            unequal => unequal,
        }
    }
}

impl UserDefinedLogicalNodeCore for MatchNode {
    fn name(&self) -> &str {
        "MatchRecognize"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input, &self.outer]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        self.calls.clone()
    }
    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "MatchRecognize: {}", self.shape.pattern.text(&self.shape.variables))
    }
    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.pop()) {
            (Some(outer), Some(input)) if exprs.len() == self.calls.len() => {
                // A condition without columns, such as false, is pushed into every input; this one is no relation.
                let outer = match outer {
                    LogicalPlan::Filter(f) => f.input,
                    LogicalPlan::EmptyRelation(_) => Arc::clone(&self.outer),
                    outer => Arc::new(outer),
                };
                Ok(Self { input: Arc::new(input), outer, calls: exprs, ..self.clone() })
            }
            _ => Err(internal("MATCH_RECOGNIZE with other inputs")),
        }
    }
}
