//! Subqueries as values: the input joined with what the subquery gives, and an expression over that.
//!
//! `x IN S` is true if a row of S equals x, otherwise false if S is empty, otherwise NULL if x or a row of S is NULL,
//! otherwise false. Two joins tell: one with the distinct rows of S, one with the fact whether S has a NULL (of which
//! there is none for an empty S). Other comparisons need the least and the greatest row of S instead of all of them.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{bool_or, count, first_value, max, min};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::logical_plan::{Aggregate, Distinct};
use datafusion::logical_expr::{Expr, ExprSchemable, JoinType, LogicalPlan, Operator, binary_expr, lit, not, when};

use super::outer::{Domain, Outer, parameter};
use super::push::{Pushed, or_default};
use super::{On, Pass, column_at, columns_of, cross, filtered, grouped_value, is_subquery, project};
use crate::functions::single_row;

impl Pass {
    /// `input` with further columns, and the expressions over them in place of those with subqueries.
    pub(super) fn extend(&mut self, input: LogicalPlan, exprs: Vec<Expr>) -> Result<(LogicalPlan, Vec<Expr>)> {
        let base = input.clone();
        let mut plan = input;
        let mut known: Vec<(Expr, Expr)> = Vec::new();
        let mut out = Vec::with_capacity(exprs.len());
        for e in exprs {
            let new = e.transform_up(|x| {
                if !is_subquery(&x) {
                    return Ok(Transformed::no(x));
                }
                if let Some((_, value)) = known.iter().find(|(k, _)| *k == x) {
                    return Ok(Transformed::yes(value.clone()));
                }
                let (next, value) = self.extend_one(std::mem::take(&mut plan), &base, x.clone())?;
                plan = next;
                known.push((x, value.clone()));
                Ok(Transformed::yes(value))
            })?;
            out.push(new.data);
        }
        Ok((plan, out))
    }

    /// `plan`, which is `base` with further columns, with those that the value of this subquery needs; the value.
    pub(super) fn extend_one(&mut self, plan: LogicalPlan, base: &LogicalPlan, e: Expr) -> Result<(LogicalPlan, Expr)> {
        match e {
            Expr::ScalarSubquery(s) => {
                let subquery = self.rewrite(Arc::unwrap_or_clone(s.subquery))?;
                self.scalar(plan, base, subquery)
            }
            Expr::Exists(Exists { subquery, negated }) => {
                let subquery = self.rewrite(Arc::unwrap_or_clone(subquery.subquery))?;
                let (plan, value) = self.exists(plan, base, subquery)?;
                Ok((plan, if negated { not(value) } else { value }))
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                let subquery = self.rewrite(Arc::unwrap_or_clone(subquery.subquery))?;
                let (plan, value) = self.is_in(plan, base, *expr, subquery)?;
                Ok((plan, if negated { not(value) } else { value }))
            }
            Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }) => {
                let subquery = self.rewrite(Arc::unwrap_or_clone(subquery.subquery))?;
                match (op, quantifier) {
                    (Operator::Eq, SetQuantifier::Any) => self.is_in(plan, base, *expr, subquery),
                    (Operator::NotEq, SetQuantifier::All) => {
                        let (plan, value) = self.is_in(plan, base, *expr, subquery)?;
                        Ok((plan, not(value)))
                    }
                    _ => self.compared(plan, base, *expr, op, quantifier, subquery),
                }
            }
            other => Ok((plan, other)),
        }
    }

    fn scalar(&mut self, plan: LogicalPlan, base: &LogicalPlan, subquery: LogicalPlan) -> Result<(LogicalPlan, Expr)> {
        let outer = Outer::of(&subquery, base.schema())?;
        let q = self.fresh();
        if outer.is_empty() {
            let value = column_at(subquery.schema(), 0).alias_qualified(Some(q), "value");
            if gives_one_row(&subquery) {
                let right = project(subquery, vec![value])?;
                let value = column_at(right.schema(), 0);
                return Ok((cross(plan, right)?, value));
            }
            if gives_at_most_one_row(&subquery) {
                let right = project(subquery, vec![value])?;
                let value = column_at(right.schema(), 0);
                return Ok((On::new(JoinType::Left).join(plan, right)?, value));
            }
            let anchor = columns_of(base.schema()).into_iter().next();
            let (right, value) = self.single(subquery, Vec::new(), anchor)?;
            return Ok((cross(plan, right)?, value));
        }
        let single = gives_at_most_one_row(&subquery);
        let domain = Domain::new(self, outer, base)?;
        let pushed = self.push(subquery, &domain)?;
        let values = domain.outer.values();
        if !single && pushed.missing.is_none() {
            let (columns, strict) = (pushed.columns.clone(), pushed.strict);
            let (right, value) = self.single(pushed.plan, columns, values.first().cloned())?;
            let keys: Vec<Expr> = (0..domain.outer.len()).map(|i| column_at(right.schema(), i)).collect();
            return Ok((On::new(JoinType::Left).same(&values, &keys, strict).join(plan, right)?, value));
        }
        let mut exprs = vec![column_at(pushed.plan.schema(), 0).alias_qualified(Some(q), "value")];
        exprs.extend(pushed.columns.iter().cloned());
        let right = project(pushed.plan, exprs)?;
        let value = column_at(right.schema(), 0);
        let (right, value) = match pushed.missing.as_deref() {
            None => (right, value),
            Some(missing) => {
                let default = domain.outer.bind(missing[0].clone(), &values)?;
                let (right, there) = self.marked(right)?;
                (right, or_default(value, &there, default)?)
            }
        };
        Ok((On::new(JoinType::Left).same(&values, &pushed.columns, pushed.strict).join(plan, right)?, value))
    }

    /// The first column of `plan` for each value of `keys`, and an expression that fails where there was another row.
    /// The keys come first. `anchor` is a column of the outer relation.
    fn single(&mut self, plan: LogicalPlan, keys: Vec<Expr>, anchor: Option<Expr>) -> Result<(LogicalPlan, Expr)> {
        let value = column_at(plan.schema(), 0);
        let field = plan.schema().field(0).clone();
        let ordered =
            !field.data_type().is_nested() && !matches!(field.data_type(), DataType::Interval(_) | DataType::Null);
        let any = if ordered { max(value) } else { first_value(value, Vec::new()) };
        let aggregates = vec![count(lit(1i64)), any];
        let (plan, mut columns) = self.grouped(plan, keys, aggregates)?;
        let (Some(value), Some(rows)) = (columns.pop(), columns.pop()) else {
            return Err(super::unsupported("a scalar subquery without a column"));
        };
        Ok((plan, single_row().call([value, rows].into_iter().chain(anchor).collect())))
    }

    /// The aggregates of `plan` for each value of `keys`, the keys first, all under fresh names; the aggregates' columns.
    fn grouped(
        &mut self,
        plan: LogicalPlan,
        keys: Vec<Expr>,
        aggregates: Vec<Expr>,
    ) -> Result<(LogicalPlan, Vec<Expr>)> {
        let (n, m) = (keys.len(), aggregates.len());
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(plan), keys, aggregates)?);
        let q = self.fresh();
        let name = |i: usize| if i < n { parameter(&q, i) } else { format!("a{}", i - n) };
        let exprs = (0..n + m).map(|i| column_at(plan.schema(), i).alias_qualified(Some(q.clone()), name(i)));
        let exprs = exprs.collect();
        let plan = project(plan, exprs)?;
        let columns = (n..n + m).map(|i| column_at(plan.schema(), i)).collect();
        Ok((plan, columns))
    }

    fn exists(&mut self, plan: LogicalPlan, base: &LogicalPlan, subquery: LogicalPlan) -> Result<(LogicalPlan, Expr)> {
        let subquery = super::filter::only_rows(subquery);
        if gives_one_row(&subquery) {
            return Ok((plan, lit(true)));
        }
        let outer = Outer::of(&subquery, base.schema())?;
        if outer.is_empty() {
            let rows = project(subquery, vec![lit(true).alias_qualified(Some(self.fresh()), "row")])?;
            let row = column_at(rows.schema(), 0);
            let (right, columns) = self.grouped(rows, Vec::new(), vec![bool_or(row)])?;
            return Ok((cross(plan, right)?, columns[0].clone().is_true()));
        }
        let domain = Domain::new(self, outer, base)?;
        let pushed = self.push(subquery, &domain)?;
        if pushed.missing.is_some() {
            return Ok((plan, lit(true)));
        }
        let strict = pushed.strict;
        let right = self.keys_of(pushed)?;
        let keys = columns_of(right.schema());
        let right = LogicalPlan::Distinct(Distinct::All(Arc::new(right)));
        let (right, there) = self.marked(right)?;
        let on = On::new(JoinType::Left).same(&domain.outer.values(), &keys, strict);
        Ok((on.join(plan, right)?, there.is_not_null()))
    }

    /// The parameters of a pushed subquery that has rows, under fresh names.
    pub(super) fn keys_of(&mut self, pushed: Pushed) -> Result<LogicalPlan> {
        let q = self.fresh();
        let keys = pushed.columns.into_iter().enumerate();
        let keys = keys.map(|(i, c)| c.alias_qualified(Some(q.clone()), parameter(&q, i))).collect();
        project(pushed.plan, keys)
    }

    fn is_in(
        &mut self,
        plan: LogicalPlan,
        base: &LogicalPlan,
        x: Expr,
        subquery: LogicalPlan,
    ) -> Result<(LogicalPlan, Expr)> {
        let nullable = subquery.schema().field(0).is_nullable() || x.nullable(plan.schema())?;
        let rows = self.rows_of(base, subquery)?;
        // The rows that can be equal to something.
        let (matching, keys) = self.distinct_rows(&rows)?;
        let (matching, there) = self.marked(matching)?;
        let mut on = On::new(JoinType::Left);
        on.equal.push((x.clone(), keys[0].clone()));
        let plan = on.same(&rows.values, &keys[1..], rows.strict).join(plan, matching)?;
        if !nullable {
            return Ok((plan, there.is_not_null()));
        }
        let (plan, has_null) = self.with_null_among(plan, &rows)?;
        let unknown = lit(ScalarValue::Boolean(None));
        let value = when(there.is_not_null(), lit(true))
            .when(has_null.clone().is_null(), lit(false))
            .when(has_null.is_true().or(x.is_null()), unknown)
            .otherwise(lit(false))?;
        Ok((plan, value))
    }

    fn compared(
        &mut self,
        plan: LogicalPlan,
        base: &LogicalPlan,
        x: Expr,
        op: Operator,
        quantifier: SetQuantifier,
        subquery: LogicalPlan,
    ) -> Result<(LogicalPlan, Expr)> {
        use Operator::{Gt, GtEq, Lt, LtEq};
        let rows = self.rows_of(base, subquery)?;
        let y = rows.y();
        let aggregates = vec![min(y.clone()), max(y.clone()), bool_or(y.is_null())];
        let (plan, columns) = self.with_aggregates(plan, &rows, aggregates)?;
        let (least, greatest, has_null) = (columns[0].clone(), columns[1].clone(), columns[2].clone());
        let unknown = lit(ScalarValue::Boolean(None));
        let any = quantifier == SetQuantifier::Any;
        // What settles the matter: a row for which ANY is true, or a row for which ALL is false.
        let settled = match (op, any) {
            (Gt | GtEq, true) | (Lt | LtEq, false) => binary_expr(x.clone(), op, least),
            (Lt | LtEq, true) | (Gt | GtEq, false) => binary_expr(x.clone(), op, greatest),
            // `= ALL` and `<> ANY`: some row is another one.
            _ => x.clone().not_eq(least).or(x.clone().not_eq(greatest)),
        };
        let ordered = matches!(op, Gt | GtEq | Lt | LtEq);
        let settled = if any || !ordered { settled } else { not(settled) };
        let value = when(has_null.clone().is_null(), lit(!any))
            .when(settled, lit(any))
            .when(has_null.is_true().or(x.is_null()), unknown)
            .otherwise(lit(!any))?;
        Ok((plan, value))
    }

    /// The rows of a subquery of one column.
    pub(super) fn rows_of(&mut self, base: &LogicalPlan, subquery: LogicalPlan) -> Result<Rows> {
        let outer = Outer::of(&subquery, base.schema())?;
        if outer.is_empty() {
            return Ok(Rows { plan: subquery, keys: Vec::new(), values: Vec::new(), strict: true });
        }
        let domain = Domain::new(self, outer, base)?;
        let p = self.settled(subquery, &domain)?;
        Ok(Rows { plan: p.plan, keys: p.columns, values: domain.outer.values(), strict: p.strict })
    }

    /// The rows that are not NULL, each once, with the parameters after it; all under fresh names.
    pub(super) fn distinct_rows(&mut self, rows: &Rows) -> Result<(LogicalPlan, Vec<Expr>)> {
        let right = self.not_null_rows(rows)?;
        let right = LogicalPlan::Distinct(Distinct::All(Arc::new(right)));
        let columns = columns_of(right.schema());
        Ok((right, columns))
    }

    pub(super) fn not_null_rows(&mut self, rows: &Rows) -> Result<LogicalPlan> {
        let q = self.fresh();
        let y = grouped_value(rows.y(), rows.plan.schema().field(0).data_type())?;
        let mut exprs = vec![y.alias_qualified(Some(q.clone()), "y")];
        for (i, k) in rows.keys.iter().enumerate() {
            exprs.push(k.clone().alias_qualified(Some(q.clone()), parameter(&q, i)));
        }
        let plain = filtered(rows.plan.clone(), vec![rows.y().is_not_null()])?;
        project(plain, exprs)
    }

    /// `plan` with the fact whether there is a NULL among the rows; NULL if there are no rows.
    pub(super) fn with_null_among(&mut self, plan: LogicalPlan, rows: &Rows) -> Result<(LogicalPlan, Expr)> {
        let (plan, columns) = self.with_aggregates(plan, rows, vec![bool_or(rows.y().is_null())])?;
        Ok((plan, columns[0].clone()))
    }

    /// `plan` with aggregates of the rows; NULL if there are no rows.
    fn with_aggregates(&mut self, plan: LogicalPlan, rows: &Rows, aggs: Vec<Expr>) -> Result<(LogicalPlan, Vec<Expr>)> {
        let (right, columns) = self.grouped(rows.plan.clone(), rows.keys.clone(), aggs)?;
        if rows.keys.is_empty() {
            return Ok((cross(plan, right)?, columns));
        }
        let keys: Vec<Expr> = (0..rows.keys.len()).map(|i| column_at(right.schema(), i)).collect();
        let plan = On::new(JoinType::Left).same(&rows.values, &keys, rows.strict).join(plan, right)?;
        Ok((plan, columns))
    }
}

/// The rows of a subquery of one column, for each value of its parameters.
pub(super) struct Rows {
    pub(super) plan: LogicalPlan,
    /// The parameters' columns in it.
    pub(super) keys: Vec<Expr>,
    /// The parameters over the outer relation.
    pub(super) values: Vec<Expr>,
    pub(super) strict: bool,
}

impl Rows {
    pub(super) fn y(&self) -> Expr {
        column_at(self.plan.schema(), 0)
    }
}

/// True if the plan gives exactly one row whatever the data.
pub(super) fn gives_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty(),
        LogicalPlan::Projection(p) => gives_one_row(&p.input),
        LogicalPlan::SubqueryAlias(a) => gives_one_row(&a.input),
        LogicalPlan::Sort(s) => s.fetch.is_none_or(|n| n > 0) && gives_one_row(&s.input),
        LogicalPlan::EmptyRelation(e) => e.produce_one_row,
        LogicalPlan::Values(v) => v.values.len() == 1,
        _ => false,
    }
}

/// True if the plan gives at most one row, for any values of its parameters.
fn gives_at_most_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Limit(l) => {
            matches!(super::push::count(l.fetch.as_deref(), "LIMIT"), Ok(Some(0 | 1)))
                || gives_at_most_one_row(&l.input)
        }
        LogicalPlan::Projection(p) => gives_at_most_one_row(&p.input),
        LogicalPlan::SubqueryAlias(a) => gives_at_most_one_row(&a.input),
        LogicalPlan::Sort(s) => gives_at_most_one_row(&s.input),
        LogicalPlan::Filter(f) => gives_at_most_one_row(&f.input),
        LogicalPlan::Distinct(Distinct::All(input)) => gives_at_most_one_row(input),
        other => gives_one_row(other),
    }
}
