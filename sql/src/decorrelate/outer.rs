//! What a subquery reads of the query around it.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::strip_outer_reference;
use datafusion::logical_expr::logical_plan::Distinct;
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlan};

use super::{Pass, columns_of, grouped_value, project, unsupported};

/// The parameters of one subquery.
pub(super) struct Outer {
    /// As the subquery writes them: an outer reference, or a cast of one.
    patterns: Vec<Expr>,
    /// The columns in them.
    columns: Vec<Column>,
}

impl Outer {
    /// No parameters.
    pub(super) fn none() -> Self {
        Self { patterns: Vec::new(), columns: Vec::new() }
    }

    /// The parameters that `plan` reads of a relation with this schema.
    pub(super) fn of(plan: &LogicalPlan, schema: &DFSchema) -> Result<Self> {
        let mut found = Self::none();
        plan.apply(|node| {
            node.apply_expressions(|e| {
                e.apply(|x| {
                    let Some(column) = reference(x).filter(|c| schema.index_of_column(c).is_ok()) else {
                        return Ok(TreeNodeRecursion::Continue);
                    };
                    if !found.patterns.contains(x) {
                        found.patterns.push(x.clone());
                    }
                    if !found.columns.contains(column) {
                        found.columns.push(column.clone());
                    }
                    Ok(TreeNodeRecursion::Jump)
                })
            })
        })?;
        Ok(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.patterns.len()
    }

    /// The parameters, as expressions over the outer relation.
    pub(super) fn values(&self) -> Vec<Expr> {
        self.patterns.iter().map(|p| strip_outer_reference(p.clone())).collect()
    }

    /// True if the expression reads a parameter.
    pub(super) fn in_expr(&self, e: &Expr) -> Result<bool> {
        e.exists(|x| Ok(matches!(x, Expr::OuterReferenceColumn(_, c) if self.columns.contains(c))))
    }

    /// True if the plan reads a parameter.
    pub(super) fn in_plan(&self, plan: &LogicalPlan) -> Result<bool> {
        plan.exists(|node| {
            let mut found = false;
            node.apply_expressions(|e| {
                found |= self.in_expr(e)?;
                Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })?;
            Ok(found)
        })
    }

    /// `e` with `columns` in place of the parameters.
    pub(super) fn bind(&self, e: Expr, columns: &[Expr]) -> Result<Expr> {
        let bound = e.transform_down(|x| match self.patterns.iter().position(|p| *p == x) {
            Some(i) => Ok(Transformed::new(columns[i].clone(), true, TreeNodeRecursion::Jump)),
            None => Ok(Transformed::no(x)),
        })?;
        Ok(bound.data)
    }

    pub(super) fn bind_all(&self, exprs: Vec<Expr>, columns: &[Expr]) -> Result<Vec<Expr>> {
        exprs.into_iter().map(|e| self.bind(e, columns)).collect()
    }

    /// For each parameter an expression over the inner relation that `conjuncts` says it equals; what is left of
    /// them. `None` unless every parameter has one.
    pub(super) fn equated(&self, conjuncts: &[Expr]) -> Result<Option<(Vec<Expr>, Vec<Expr>)>> {
        use datafusion::logical_expr::{BinaryExpr, Operator};
        let mut rest = conjuncts.to_vec();
        let mut inner = Vec::with_capacity(self.patterns.len());
        for p in &self.patterns {
            let side = |e: &Expr| -> Option<Expr> {
                let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = e else { return None };
                let other = if **left == *p {
                    right
                } else if **right == *p {
                    left
                } else {
                    return None;
                };
                let plain = !other.contains_outer() && !other.is_volatile();
                plain.then(|| other.as_ref().clone())
            };
            let Some((at, e)) = rest.iter().enumerate().find_map(|(i, e)| Some((i, side(e)?))) else { return Ok(None) };
            rest.remove(at);
            inner.push(e);
        }
        Ok(Some((inner, rest)))
    }
}

/// The outer column of a parameter.
fn reference(e: &Expr) -> Option<&Column> {
    match e {
        Expr::OuterReferenceColumn(_, c) => Some(c),
        Expr::Cast(c) => reference(&c.expr),
        _ => None,
    }
}

/// The parameters of a subquery and every value they take.
pub(super) struct Domain {
    pub(super) outer: Outer,
    source: LogicalPlan,
}

impl Domain {
    /// The values that `outer` takes in `relation`.
    pub(super) fn new(pass: &mut Pass, outer: Outer, relation: &LogicalPlan) -> Result<Self> {
        let q = pass.fresh();
        let mut values = Vec::with_capacity(outer.len());
        for (i, e) in outer.values().into_iter().enumerate() {
            let data_type = e.get_type(relation.schema())?;
            values.push(grouped_value(e, &data_type)?.alias_qualified(Some(q.clone()), parameter(&q, i)));
        }
        let values = project(relation.clone(), values)?;
        Ok(Self { outer, source: LogicalPlan::Distinct(Distinct::All(Arc::new(values))) })
    }

    /// The domain as a relation, and its columns.
    pub(super) fn relation(&self, pass: &mut Pass) -> Result<(LogicalPlan, Vec<Expr>)> {
        // The outer relation is computed once more, and must give the same again.
        if self.source.exists(|node| Ok(node.expressions().iter().any(Expr::is_volatile)))? {
            return Err(unsupported("a correlated subquery of this form over rows made by a volatile function"));
        }
        let q = pass.fresh();
        let values = columns_of(self.source.schema()).into_iter().enumerate();
        let values = values.map(|(i, c)| c.alias_qualified(Some(q.clone()), parameter(&q, i))).collect();
        let plan = project(self.source.clone(), values)?;
        let columns = columns_of(plan.schema());
        Ok((plan, columns))
    }
}

/// The name of the `i`th parameter under a qualifier: like that one used nowhere else, because the optimizer now and
/// then drops qualifiers.
pub(super) fn parameter(qualifier: &TableReference, i: usize) -> String {
    format!("p{}_{i}", qualifier.table().trim_start_matches("__q"))
}
