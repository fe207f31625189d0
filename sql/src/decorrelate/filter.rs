//! Subqueries as predicates: EXISTS and IN become semi joins, NOT EXISTS and NOT IN anti joins.
//!
//! Conditions between the subquery's rows and the outer row go into the join, so neither equality nor inequality
//! needs the set of the outer values. `x NOT IN S` keeps a row without an equal one only if S is empty or neither x
//! nor a row of S is NULL.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::logical_plan::{Distinct, Limit};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable, JoinType, LogicalPlan, Operator, lit, not};

use super::outer::{Domain, Outer};
use super::value::gives_one_row;
use super::{On, Pass, columns_of, filtered, has_subquery, project};

/// A predicate that is a subquery as a whole.
struct Test {
    /// `x` of `x IN`.
    x: Option<Expr>,
    subquery: LogicalPlan,
    negated: bool,
}

impl Test {
    /// What the predicate is, or the predicate itself.
    fn of(e: Expr) -> Result<std::result::Result<Self, Expr>> {
        let inner = |x: &Expr| has_subquery(std::slice::from_ref(x));
        Ok(match e {
            Expr::Exists(Exists { subquery, negated }) => {
                Ok(Self { x: None, subquery: Arc::unwrap_or_clone(subquery.subquery), negated })
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated }) if !inner(&expr)? => {
                Ok(Self { x: Some(*expr), subquery: Arc::unwrap_or_clone(subquery.subquery), negated })
            }
            Expr::SetComparison(SetComparison { expr, subquery, op: Operator::Eq, quantifier: SetQuantifier::Any })
                if !inner(&expr)? =>
            {
                Ok(Self { x: Some(*expr), subquery: Arc::unwrap_or_clone(subquery.subquery), negated: false })
            }
            Expr::SetComparison(SetComparison {
                expr,
                subquery,
                op: Operator::NotEq,
                quantifier: SetQuantifier::All,
            }) if !inner(&expr)? => {
                Ok(Self { x: Some(*expr), subquery: Arc::unwrap_or_clone(subquery.subquery), negated: true })
            }
            Expr::Not(e) => match Self::of(*e)? {
                Ok(test) => Ok(Self { negated: !test.negated, ..test }),
                Err(e) => Err(not(e)),
            },
            other => Err(other),
        })
    }
}

impl Pass {
    /// The rows of `input` for which the predicate is true.
    pub(super) fn rewrite_filter(&mut self, predicate: Expr, input: LogicalPlan) -> Result<LogicalPlan> {
        let kept = columns_of(input.schema());
        let mut plain = Vec::new();
        let mut tests = Vec::new();
        let mut others = Vec::new();
        for c in split_conjunction_owned(predicate) {
            if !has_subquery(std::slice::from_ref(&c))? {
                plain.push(c);
                continue;
            }
            match Test::of(c)? {
                Ok(test) => tests.push(test),
                Err(e) => others.push(e),
            }
        }
        let base = filtered(input, plain)?;
        let mut plan = base.clone();
        for mut test in tests {
            test.subquery = self.rewrite(std::mem::take(&mut test.subquery))?;
            plan = match test.x.take() {
                None => self.exists_filter(plan, &base, test)?,
                Some(x) => self.in_filter(plan, &base, x, test)?,
            };
        }
        if others.is_empty() {
            return Ok(plan);
        }
        let (plan, others) = self.extend(plan, others)?;
        project(filtered(plan, others)?, kept)
    }

    fn exists_filter(&mut self, plan: LogicalPlan, base: &LogicalPlan, test: Test) -> Result<LogicalPlan> {
        let kind = if test.negated { JoinType::LeftAnti } else { JoinType::LeftSemi };
        let subquery = only_rows(test.subquery);
        let outer = Outer::of(&subquery, base.schema())?;
        if gives_one_row(&subquery) {
            return filtered(plan, vec![lit(!test.negated)]);
        }
        if let Some((right, condition)) = self.flat(&subquery, &outer, None)? {
            let mut on = On::new(kind);
            on.filter = conjunction(condition);
            return on.join(plan, right);
        }
        let domain = Domain::new(self, outer, base)?;
        let pushed = self.push(subquery, &domain)?;
        if pushed.missing.is_some() {
            return filtered(plan, vec![lit(!test.negated)]);
        }
        let strict = pushed.strict;
        let right = self.keys_of(pushed)?;
        let keys = columns_of(right.schema());
        On::new(kind).same(&domain.outer.values(), &keys, strict).join(plan, right)
    }

    fn in_filter(&mut self, plan: LogicalPlan, base: &LogicalPlan, x: Expr, test: Test) -> Result<LogicalPlan> {
        let kind = if test.negated { JoinType::LeftAnti } else { JoinType::LeftSemi };
        let kept = columns_of(plan.schema());
        let subquery = test.subquery;
        let nullable = subquery.schema().field(0).is_nullable() || x.nullable(plan.schema())?;
        let outer = Outer::of(&subquery, base.schema())?;
        let plan = match self.flat(&subquery, &outer, Some(&x))? {
            Some((right, condition)) => {
                let mut on = On::new(kind);
                on.filter = conjunction(condition);
                on.join(plan, right)?
            }
            None => {
                let rows = self.rows_of(base, subquery.clone())?;
                let right = self.not_null_rows(&rows)?;
                let keys = columns_of(right.schema());
                let mut on = On::new(kind);
                on.equal.push((x.clone(), keys[0].clone()));
                on.same(&rows.values, &keys[1..], rows.strict).join(plan, right)?
            }
        };
        if !(test.negated && nullable) {
            return Ok(plan);
        }
        let rows = self.rows_of(base, subquery)?;
        let (plan, has_null) = self.with_null_among(plan, &rows)?;
        let sure = has_null.clone().is_false().and(x.is_not_null());
        project(filtered(plan, vec![has_null.is_null().or(sure)])?, kept)
    }

    /// A subquery whose parameters are only in its WHERE: its rows without those conditions, with just the columns
    /// that the conditions need, and the conditions over them and the outer relation.
    fn flat(
        &mut self,
        subquery: &LogicalPlan,
        outer: &Outer,
        x: Option<&Expr>,
    ) -> Result<Option<(LogicalPlan, Vec<Expr>)>> {
        let mut y = x.map(|_| super::column_at(subquery.schema(), 0));
        let mut plan = subquery;
        loop {
            plan = match plan {
                LogicalPlan::Projection(p) => {
                    if let Some(e) = y.take() {
                        y = Some(through(e, &p.expr, &p.schema)?);
                    }
                    &p.input
                }
                LogicalPlan::Distinct(Distinct::All(input)) => input,
                LogicalPlan::Sort(s) if s.fetch.is_none() => &s.input,
                _ => break,
            };
        }
        if y.as_ref().is_some_and(Expr::is_volatile) {
            return Ok(None);
        }
        let mut conjuncts = Vec::new();
        while let LogicalPlan::Filter(f) = plan {
            conjuncts.extend(split_conjunction_owned(f.predicate.clone()));
            plan = &f.input;
        }
        if outer.in_plan(plan)? {
            return Ok(None);
        }
        let (mut plain, mut dependent) = (Vec::new(), Vec::new());
        for c in conjuncts {
            if outer.in_expr(&c)? { dependent.push(c) } else { plain.push(c) }
        }
        let q = self.fresh();
        let mut needed: Vec<Column> = Vec::new();
        let mut put = |e: Expr| -> Result<Expr> {
            let new = e.transform_up(|e| match e {
                Expr::Column(c) => {
                    let at = match needed.iter().position(|n| *n == c) {
                        Some(i) => i,
                        None => {
                            needed.push(c);
                            needed.len() - 1
                        }
                    };
                    Ok(Transformed::yes(Expr::Column(Column::new(Some(q.clone()), format!("c{at}")))))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(new.data)
        };
        let values = outer.values();
        let mut condition = Vec::with_capacity(dependent.len() + 1);
        for c in dependent {
            condition.push(outer.bind(put(c)?, &values)?);
        }
        if let (Some(x), Some(y)) = (x, y) {
            condition.push(x.clone().eq(outer.bind(put(y)?, &values)?));
        }
        let mut columns: Vec<Expr> = (needed.into_iter().enumerate())
            .map(|(i, c)| Expr::Column(c).alias_qualified(Some(q.clone()), format!("c{i}")))
            .collect();
        if columns.is_empty() {
            columns.push(lit(true).alias_qualified(Some(q.clone()), "row"));
        }
        Ok(Some((project(filtered(plan.clone(), plain)?, columns)?, condition)))
    }
}

/// The subquery without what does not change whether it has rows.
pub(super) fn only_rows(plan: LogicalPlan) -> LogicalPlan {
    match plan {
        LogicalPlan::Projection(p) => only_rows(Arc::unwrap_or_clone(p.input)),
        LogicalPlan::SubqueryAlias(a) => only_rows(Arc::unwrap_or_clone(a.input)),
        LogicalPlan::Distinct(Distinct::All(input)) => only_rows(Arc::unwrap_or_clone(input)),
        LogicalPlan::Sort(s) if s.fetch.is_none() => only_rows(Arc::unwrap_or_clone(s.input)),
        LogicalPlan::Aggregate(a)
            if !a.group_expr.is_empty() && !a.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) =>
        {
            only_rows(Arc::unwrap_or_clone(a.input))
        }
        LogicalPlan::Limit(l) if keeps_a_row(&l) => only_rows(Arc::unwrap_or_clone(l.input)),
        other => other,
    }
}

fn keeps_a_row(l: &Limit) -> bool {
    let number = |e: &Expr| match e {
        Expr::Literal(v, _) => v.cast_to(&arrow::datatypes::DataType::Int64).ok(),
        _ => None,
    };
    let skips = l.skip.as_deref().is_some_and(|e| number(e) != Some(ScalarValue::Int64(Some(0))));
    let cuts = l.fetch.as_deref().is_some_and(|e| !matches!(number(e), Some(ScalarValue::Int64(Some(1..)))));
    !skips && !cuts
}

/// `e` over the input of a projection instead of its output.
fn through(e: Expr, exprs: &[Expr], schema: &DFSchema) -> Result<Expr> {
    let new = e.transform_down(|x| match &x {
        Expr::Column(c) => {
            let below = exprs[schema.index_of_column(c)?].clone().unalias();
            Ok(Transformed::new(below, true, TreeNodeRecursion::Jump))
        }
        _ => Ok(Transformed::no(x)),
    })?;
    Ok(new.data)
}
