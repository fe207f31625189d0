//! Subqueries become joins, by elimination of the dependent join (Neumann and Kemper, "Unnesting Arbitrary Queries").
//!
//! The pass runs after type coercion and before every optimizer rule, for SELECT and for views alike, and leaves no
//! subquery expression, no LATERAL and no outer reference behind. What it makes of them is plain relational algebra:
//! semi and anti joins where a predicate of WHERE is a subquery, otherwise joins with an aggregate or a distinct set
//! of the subquery's rows, keyed by the values of the outer columns that the subquery reads (its *parameters*).
//!
//! - [`outer`]: which outer columns a subquery reads, and the set of their values (the *domain*).
//! - [`push`]: the subquery evaluated for every value of the domain, operator by operator.
//! - [`value`]: subqueries as values, with three-valued logic.
//! - [`filter`]: subqueries as predicates of WHERE.
//! - [`join`]: LATERAL, and subqueries in ON.
//! - [`set_op`]: EXCEPT ALL and INTERSECT ALL.

mod filter;
mod join;
mod outer;
mod push;
pub(crate) mod set_op;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality, ScalarValue, TableReference};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::logical_plan::{
    Aggregate, Distinct, DistinctOn, EmptyRelation, Filter, Join, JoinConstraint, Projection, Sort, Union, Values,
    Window,
};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, JoinType, LogicalPlan, lit};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;

use crate::error::{SqlError, SqlState};

/// See the module.
#[derive(Debug)]
pub(crate) struct Decorrelate;

impl AnalyzerRule for Decorrelate {
    fn name(&self) -> &str {
        "decorrelate"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        if !has_work(&plan)? {
            return Ok(plan);
        }
        let plan = Pass { names: 0 }.rewrite(plan)?;
        check_done(&plan)?;
        // The expressions made here have to be typed as those of the query are.
        TypeCoercion::new().analyze(plan, config)
    }
}

fn has_work(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| {
        if matches!(node, LogicalPlan::Subquery(_)) || set_op::is_marked(node) {
            return Ok(true);
        }
        node_has_subquery(node)
    })
}

fn node_has_subquery(node: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(|e| {
        found |= e.exists(|x| Ok(is_subquery(x)))?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn has_subquery(exprs: &[Expr]) -> Result<bool> {
    for e in exprs {
        if e.exists(|x| Ok(is_subquery(x)))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_subquery(e: &Expr) -> bool {
    matches!(e, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_))
}

/// Nothing may be left: what is, names a column that is not to be had where the subquery stands.
fn check_done(plan: &LogicalPlan) -> Result<()> {
    let mut left: Option<SqlError> = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            e.apply(|x| {
                let error = match x {
                    Expr::OuterReferenceColumn(_, c) => SqlError::new(
                        SqlState::GROUPING_ERROR,
                        format!("subquery uses column \"{}\" of an outer query where it cannot be had", c.flat_name()),
                    )
                    .hint("In a query with GROUP BY a subquery can read grouping columns only."),
                    x if is_subquery(x) => {
                        SqlError::unsupported(format!("a subquery in {} is not supported", node.display()))
                    }
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                left.get_or_insert(error);
                Ok(TreeNodeRecursion::Stop)
            })
        })
    })?;
    match left {
        Some(e) => Err(user(e)),
        None => Ok(()),
    }
}

fn user(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

fn unsupported(what: impl Into<String>) -> DataFusionError {
    user(SqlError::unsupported(what).hint("Rewrite the subquery as a join."))
}

/// One run over a plan: the source of fresh names.
struct Pass {
    names: usize,
}

impl Pass {
    /// A qualifier that no other part of the plan has.
    fn fresh(&mut self) -> TableReference {
        self.names += 1;
        TableReference::bare(format!("__q{}", self.names))
    }

    /// The same relation, column by column and name by name, without subqueries that belong to it.
    fn rewrite(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let plan = match plan {
            // A set-returning function or LATERAL that is alone in its FROM belongs to the query around it.
            LogicalPlan::Subquery(s) => return self.rewrite(Arc::unwrap_or_clone(s.subquery)),
            LogicalPlan::Join(j) => return self.rewrite_join(j),
            LogicalPlan::Values(_) if node_has_subquery(&plan)? => match plan {
                LogicalPlan::Values(v) => values_as_union(v)?,
                other => other,
            },
            other => other,
        };
        let plan = plan.map_children(|child| self.rewrite(child).map(Transformed::yes))?.data;
        let plan = set_op::unmark(plan)?;
        if !node_has_subquery(&plan)? {
            return Ok(plan);
        }
        match plan {
            LogicalPlan::Filter(f) => self.rewrite_filter(f.predicate, Arc::unwrap_or_clone(f.input)),
            LogicalPlan::Projection(p) => {
                let (input, exprs) = self.extend(Arc::unwrap_or_clone(p.input), p.expr)?;
                let exprs = exprs.into_iter().zip(p.schema.iter()).map(|(e, (q, f))| named(e, q, f.name()));
                project(input, exprs.collect())
            }
            LogicalPlan::Aggregate(a) => {
                let groups = a.group_expr.len();
                let all = a.group_expr.into_iter().chain(a.aggr_expr).collect();
                let (input, mut all) = self.extend(Arc::unwrap_or_clone(a.input), all)?;
                let aggregates = all.split_off(groups);
                let new = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input), all, aggregates)?);
                rename(new, 0, &a.schema)
            }
            LogicalPlan::Window(w) => {
                let (input, exprs) = self.extend(Arc::unwrap_or_clone(w.input.clone()), w.window_expr)?;
                let width = w.input.schema().fields().len();
                let added = input.schema().fields().len() - width;
                let new = LogicalPlan::Window(Window::try_new(exprs, Arc::new(input))?);
                let exprs = w.schema.iter().enumerate().map(|(i, (q, f))| {
                    let at = if i < width { i } else { i + added };
                    named(column_at(new.schema(), at), q, f.name())
                });
                let exprs = exprs.collect();
                project(new, exprs)
            }
            LogicalPlan::Sort(s) => {
                let kept = columns_of(s.input.schema());
                let (keys, order): (Vec<Expr>, Vec<_>) =
                    s.expr.into_iter().map(|k| (k.expr, (k.asc, k.nulls_first))).unzip();
                let (input, keys) = self.extend(Arc::unwrap_or_clone(s.input), keys)?;
                let expr =
                    keys.into_iter().zip(order).map(|(e, (asc, nulls_first))| e.sort(asc, nulls_first)).collect();
                let sorted = LogicalPlan::Sort(Sort { expr, input: Arc::new(input), fetch: s.fetch });
                project(sorted, kept)
            }
            LogicalPlan::Distinct(Distinct::On(d)) => {
                let (on, select) = (d.on_expr.len(), d.select_expr.len());
                let mut all: Vec<Expr> = d.on_expr.into_iter().chain(d.select_expr).collect();
                let sort = d.sort_expr.unwrap_or_default();
                all.extend(sort.iter().map(|s| s.expr.clone()));
                let (input, mut all) = self.extend(Arc::unwrap_or_clone(d.input), all)?;
                let keys = all.split_off(on + select);
                let selected = all.split_off(on).into_iter().zip(d.schema.iter());
                let selected = selected.map(|(e, (q, f))| named(e, q, f.name())).collect();
                let sort: Vec<_> = keys.into_iter().zip(sort).map(|(e, s)| e.sort(s.asc, s.nulls_first)).collect();
                let sort = if sort.is_empty() { None } else { Some(sort) };
                Ok(LogicalPlan::Distinct(Distinct::On(DistinctOn::try_new(all, selected, sort, Arc::new(input))?)))
            }
            other => Err(unsupported(format!("a subquery in {} is not supported", other.display()))),
        }
    }
}

/// VALUES whose cells are not constants, as the union of its rows.
fn values_as_union(v: Values) -> Result<LogicalPlan> {
    let schema = v.schema;
    let mut rows = Vec::with_capacity(v.values.len());
    for row in v.values {
        let mut cells = Vec::with_capacity(row.len());
        for (cell, (q, f)) in row.into_iter().zip(schema.iter()) {
            cells.push(named(cell.cast_to(f.data_type(), &DFSchema::empty())?, q, f.name()));
        }
        rows.push(Arc::new(project(one_row(), cells)?));
    }
    match rows.len() {
        1 => Ok(Arc::unwrap_or_clone(rows.remove(0))),
        _ => rename(LogicalPlan::Union(Union::try_new_with_loose_types(rows)?), 0, &schema),
    }
}

/// The relation of one row without columns.
fn one_row() -> LogicalPlan {
    LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, schema: Arc::new(DFSchema::empty()) })
}

fn column_at(schema: &DFSchema, i: usize) -> Expr {
    Expr::Column(Column::from(schema.qualified_field(i)))
}

fn columns_of(schema: &DFSchema) -> Vec<Expr> {
    (0..schema.fields().len()).map(|i| column_at(schema, i)).collect()
}

/// The expression under this name.
fn named(e: Expr, qualifier: Option<&TableReference>, name: &str) -> Expr {
    match &e {
        Expr::Column(c) if c.relation.as_ref() == qualifier && c.name == name => e,
        _ => e.unalias().alias_qualified(qualifier.cloned(), name),
    }
}

fn project(plan: LogicalPlan, exprs: Vec<Expr>) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?))
}

/// The columns of `plan` from `from` on, named as those of `schema`.
fn rename(plan: LogicalPlan, from: usize, schema: &DFSchema) -> Result<LogicalPlan> {
    let exprs = schema.iter().enumerate().map(|(i, (q, f))| named(column_at(plan.schema(), from + i), q, f.name()));
    let exprs = exprs.collect();
    project(plan, exprs)
}

/// A value to group by: -0.0 and 0.0 are equal to a join, and must not be two groups then.
fn grouped_value(e: Expr, data_type: &DataType) -> Result<Expr> {
    Ok(match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            e.unalias() + lit(ScalarValue::new_zero(data_type)?)
        }
        _ => e,
    })
}

/// `plan` where all of `predicates` are true.
fn filtered(plan: LogicalPlan, predicates: Vec<Expr>) -> Result<LogicalPlan> {
    match conjunction(predicates) {
        None => Ok(plan),
        Some(p) => Ok(LogicalPlan::Filter(Filter::try_new(p, Arc::new(plan))?)),
    }
}

/// How two relations are joined.
struct On {
    kind: JoinType,
    /// Equal, where a NULL is equal to nothing.
    equal: Vec<(Expr, Expr)>,
    /// Not distinct: parameters of both sides.
    same: Vec<(Expr, Expr)>,
    /// A side of every pair of `same` is never NULL.
    strict: bool,
    filter: Option<Expr>,
}

impl On {
    fn new(kind: JoinType) -> Self {
        Self { kind, equal: Vec::new(), same: Vec::new(), strict: true, filter: None }
    }

    fn same(mut self, left: &[Expr], right: &[Expr], strict: bool) -> Self {
        self.same.extend(left.iter().cloned().zip(right.iter().cloned()));
        self.strict &= strict;
        self
    }

    fn join(self, left: LogicalPlan, right: LogicalPlan) -> Result<LogicalPlan> {
        let Self { kind, mut equal, same, strict, mut filter } = self;
        let null_equality = if strict || same.is_empty() {
            equal.extend(same);
            NullEquality::NullEqualsNothing
        } else {
            // A join has one meaning of NULL for all its keys: those that must not be NULL say so apart.
            let not_null = equal.iter().map(|(l, _)| l.clone().is_not_null());
            filter = conjunction(not_null.chain(filter));
            equal.extend(same);
            NullEquality::NullEqualsNull
        };
        if equal.is_empty() && filter.is_none() && kind != JoinType::Inner {
            filter = Some(lit(true));
        }
        let (left, right) = (Arc::new(left), Arc::new(right));
        let join = Join::try_new(left, right, equal, filter, kind, JoinConstraint::On, null_equality, false)?;
        Ok(LogicalPlan::Join(join))
    }
}

fn cross(left: LogicalPlan, right: LogicalPlan) -> Result<LogicalPlan> {
    On::new(JoinType::Inner).join(left, right)
}
