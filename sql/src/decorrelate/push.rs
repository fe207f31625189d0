//! A subquery evaluated for every value of its parameters: the dependent join, pushed down until nothing depends.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::logical_plan::{
    Aggregate, Distinct, DistinctOn, Extension, Limit, Projection, SubqueryAlias, Union, Unnest, Window,
};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, ExprFunctionExt as _, ExprSchemable as _, JoinType, LogicalPlan, lit, when};

use super::outer::{Domain, parameter};
use super::set_op::SetOp;
use super::{
    On, Pass, column_at, columns_of, cross, filtered, grouped_value, named, project, unsupported, values_as_union,
};

/// A subquery's rows for each value of its parameters.
pub(super) struct Pushed {
    /// The subquery's columns as they were, then one column a parameter. It may have rows for values that are not in
    /// the domain.
    pub(super) plan: LogicalPlan,
    /// The parameters' columns.
    pub(super) columns: Vec<Expr>,
    /// No parameter is NULL in `plan`.
    pub(super) strict: bool,
    /// For values that `plan` has no row for the subquery gives no row (`None`) or one row of these expressions, which
    /// read nothing but parameters.
    pub(super) missing: Option<Vec<Expr>>,
}

impl Pass {
    /// See the module.
    pub(super) fn push(&mut self, plan: LogicalPlan, domain: &Domain) -> Result<Pushed> {
        let outer = &domain.outer;
        if !outer.in_plan(&plan)? {
            let (values, columns) = domain.relation(self)?;
            let plan = if plan.schema().fields().is_empty()
                && matches!(&plan, LogicalPlan::EmptyRelation(e) if e.produce_one_row)
            {
                values
            } else {
                cross(plan, values)?
            };
            return Ok(Pushed { plan, columns, strict: false, missing: None });
        }
        match plan {
            LogicalPlan::Projection(p) => self.push_projection(p, domain),
            LogicalPlan::Filter(f) => self.push_filter(f.predicate, Arc::unwrap_or_clone(f.input), domain),
            LogicalPlan::SubqueryAlias(a) => self.push_alias(a, domain),
            LogicalPlan::Subquery(s) => self.push(Arc::unwrap_or_clone(s.subquery), domain),
            LogicalPlan::Join(j) => self.push_join(j, domain),
            LogicalPlan::Aggregate(a) => self.push_aggregate(a, domain),
            LogicalPlan::Window(w) => self.push_window(w, domain),
            // The order of a subquery's rows means nothing, unless a LIMIT cuts them: see there.
            LogicalPlan::Sort(s) if s.fetch.is_none() => self.push(Arc::unwrap_or_clone(s.input), domain),
            LogicalPlan::Limit(l) => self.push_limit(l, domain),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let p = self.settled(Arc::unwrap_or_clone(input), domain)?;
                Ok(Pushed { plan: LogicalPlan::Distinct(Distinct::All(Arc::new(p.plan))), ..p })
            }
            LogicalPlan::Distinct(Distinct::On(d)) => self.push_distinct_on(d, domain),
            LogicalPlan::Union(u) => {
                let mut strict = true;
                let mut branches = Vec::with_capacity(u.inputs.len());
                for input in u.inputs {
                    let (branch, s) = self.push_branch(Arc::unwrap_or_clone(input), domain)?;
                    strict &= s;
                    branches.push(Arc::new(branch));
                }
                let union = LogicalPlan::Union(Union::try_new_with_loose_types(branches)?);
                self.unbranched(union, &u.schema, outer.len(), strict)
            }
            LogicalPlan::Extension(Extension { node }) if node.as_any().is::<SetOp>() => {
                let Some(op) = node.as_any().downcast_ref::<SetOp>() else {
                    return Err(unsupported("this operator in a correlated subquery"));
                };
                let (left, s) = self.push_branch(op.left.as_ref().clone(), domain)?;
                let (right, t) = self.push_branch(op.right.as_ref().clone(), domain)?;
                let plan = SetOp::new(op.kind, left, right)?.into_plan();
                self.unbranched(plan, &op.schema, outer.len(), s && t)
            }
            LogicalPlan::Unnest(u) => {
                let p = self.settled(Arc::unwrap_or_clone(u.input), domain)?;
                let unnest = Unnest::try_new(Arc::new(p.plan), u.exec_columns, u.options)?;
                Ok(Pushed { plan: LogicalPlan::Unnest(unnest), ..p })
            }
            LogicalPlan::Values(v) => self.push(values_as_union(v)?, domain),
            LogicalPlan::RecursiveQuery(_) => {
                Err(unsupported("a recursive query that reads columns of an outer query"))
            }
            other => Err(unsupported(format!("{} cannot read columns of an outer query", other.display()))),
        }
    }

    /// Like [`push`](Self::push), with a row for every value that has one.
    pub(super) fn settled(&mut self, plan: LogicalPlan, domain: &Domain) -> Result<Pushed> {
        let pushed = self.push(plan, domain)?;
        self.settle(pushed, domain)
    }

    /// The pushed subquery with a row for every value that has one.
    pub(super) fn settle(&mut self, pushed: Pushed, domain: &Domain) -> Result<Pushed> {
        let Some(missing) = &pushed.missing else { return Ok(pushed) };
        let (values, columns) = domain.relation(self)?;
        let width = missing.len();
        let own: Vec<Expr> = (0..width).map(|i| column_at(pushed.plan.schema(), i)).collect();
        let (plan, there) = self.marked(pushed.plan)?;
        let joined = On::new(JoinType::Left).same(&columns, &pushed.columns, pushed.strict).join(values, plan)?;
        let mut exprs = Vec::with_capacity(width + columns.len());
        for (column, default) in own.into_iter().zip(missing) {
            let default = domain.outer.bind(default.clone(), &columns)?;
            let Expr::Column(c) = &column else { continue };
            let value = or_default(column.clone(), &there, default)?;
            exprs.push(named(value, c.relation.as_ref(), &c.name));
        }
        exprs.extend(columns.iter().cloned());
        Ok(Pushed { plan: project(joined, exprs)?, columns, strict: false, missing: None })
    }

    /// `plan` with a further column, which is never NULL.
    pub(super) fn marked(&mut self, plan: LogicalPlan) -> Result<(LogicalPlan, Expr)> {
        let mut exprs = columns_of(plan.schema());
        exprs.push(lit(true).alias_qualified(Some(self.fresh()), "there"));
        let plan = project(plan, exprs)?;
        let there = column_at(plan.schema(), plan.schema().fields().len() - 1);
        Ok((plan, there))
    }

    fn push_projection(&mut self, p: Projection, domain: &Domain) -> Result<Pushed> {
        let schema = p.input.schema().clone();
        let inner = self.push(Arc::unwrap_or_clone(p.input), domain)?;
        let missing = match &inner.missing {
            None => None,
            Some(defaults) => {
                let put = |e: &Expr| -> Result<Expr> {
                    let new = e.clone().unalias().transform_down(|x| match &x {
                        Expr::Column(c) => {
                            let i = schema.index_of_column(c)?;
                            Ok(Transformed::new(defaults[i].clone(), true, TreeNodeRecursion::Jump))
                        }
                        _ => Ok(Transformed::no(x)),
                    })?;
                    Ok(new.data)
                };
                Some(p.expr.iter().map(put).collect::<Result<Vec<_>>>()?)
            }
        };
        let mut exprs = Vec::with_capacity(p.expr.len() + inner.columns.len());
        for (e, (q, f)) in p.expr.into_iter().zip(p.schema.iter()) {
            exprs.push(named(domain.outer.bind(e, &inner.columns)?, q, f.name()));
        }
        exprs.extend(inner.columns.iter().cloned());
        Ok(Pushed { plan: project(inner.plan, exprs)?, missing, ..inner })
    }

    fn push_alias(&mut self, a: SubqueryAlias, domain: &Domain) -> Result<Pushed> {
        let inner = self.push(Arc::unwrap_or_clone(a.input), domain)?;
        let mut exprs: Vec<Expr> = (a.schema.iter().enumerate())
            .map(|(i, (q, f))| named(column_at(inner.plan.schema(), i), q, f.name()))
            .collect();
        exprs.extend(inner.columns.iter().cloned());
        Ok(Pushed { plan: project(inner.plan, exprs)?, ..inner })
    }

    fn push_filter(&mut self, predicate: Expr, mut input: LogicalPlan, domain: &Domain) -> Result<Pushed> {
        let outer = &domain.outer;
        let mut conjuncts = split_conjunction_owned(predicate);
        while let LogicalPlan::Filter(f) = input {
            conjuncts.extend(split_conjunction_owned(f.predicate));
            input = Arc::unwrap_or_clone(f.input);
        }
        if outer.in_plan(&input)? {
            let p = self.settled(input, domain)?;
            let conjuncts = outer.bind_all(conjuncts, &p.columns)?;
            return Ok(Pushed { plan: filtered(p.plan, conjuncts)?, ..p });
        }
        let mut dependent = Vec::new();
        let mut plain = Vec::new();
        for c in conjuncts {
            if outer.in_expr(&c)? { dependent.push(c) } else { plain.push(c) }
        }
        let Some((inner, rest)) = outer.equated(&dependent)? else {
            let (values, columns) = domain.relation(self)?;
            let mut on = On::new(JoinType::Inner);
            on.filter = datafusion::logical_expr::utils::conjunction(outer.bind_all(dependent, &columns)?);
            let plan = on.join(filtered(input, plain)?, values)?;
            return Ok(Pushed { plan, columns, strict: false, missing: None });
        };
        // Every parameter equals something of the subquery's own: its values are taken instead of the domain's.
        plain.extend(inner.iter().map(|e| e.clone().is_not_null()));
        plain.extend(outer.bind_all(rest, &inner)?);
        let own = columns_of(input.schema());
        let width = own.len();
        let q = self.fresh();
        let mut exprs = own;
        for (i, e) in inner.into_iter().enumerate() {
            let data_type = e.get_type(input.schema())?;
            exprs.push(grouped_value(e.unalias(), &data_type)?.alias_qualified(Some(q.clone()), parameter(&q, i)));
        }
        let plan = project(filtered(input, plain)?, exprs)?;
        let columns = (width..width + outer.len()).map(|i| column_at(plan.schema(), i)).collect();
        Ok(Pushed { plan, columns, strict: true, missing: None })
    }

    fn push_aggregate(&mut self, a: Aggregate, domain: &Domain) -> Result<Pushed> {
        if a.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
            return Err(unsupported("GROUPING SETS, ROLLUP and CUBE in a correlated subquery are not supported"));
        }
        let missing = match a.group_expr.is_empty() {
            false => None,
            true => Some(
                a.aggr_expr
                    .iter()
                    .zip(a.schema.fields())
                    .map(|(e, f)| of_no_rows(e, f.data_type()))
                    .collect::<Result<Vec<_>>>()?,
            ),
        };
        let p = self.settled(Arc::unwrap_or_clone(a.input), domain)?;
        let groups = domain.outer.bind_all(a.group_expr, &p.columns)?;
        let aggregates = domain.outer.bind_all(a.aggr_expr, &p.columns)?;
        let n = p.columns.len();
        let all = p.columns.iter().cloned().chain(groups).collect();
        let new = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(p.plan), all, aggregates)?);
        let mut exprs: Vec<Expr> = (a.schema.iter().enumerate())
            .map(|(i, (q, f))| named(column_at(new.schema(), n + i), q, f.name()))
            .collect();
        exprs.extend(p.columns.iter().cloned());
        Ok(Pushed { plan: project(new, exprs)?, columns: p.columns, strict: p.strict, missing })
    }

    fn push_window(&mut self, w: Window, domain: &Domain) -> Result<Pushed> {
        let width = w.input.schema().fields().len();
        let p = self.settled(Arc::unwrap_or_clone(w.input), domain)?;
        let partitioned = |e: Expr| -> Result<Expr> {
            let e = domain.outer.bind(e, &p.columns)?.transform_down(|x| match x {
                Expr::WindowFunction(mut f) => {
                    let WindowFunction { params, .. } = f.as_mut();
                    params.partition_by =
                        p.columns.iter().cloned().chain(std::mem::take(&mut params.partition_by)).collect();
                    Ok(Transformed::new(Expr::WindowFunction(f), true, TreeNodeRecursion::Jump))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(e.data)
        };
        let window = w.window_expr.into_iter().map(partitioned).collect::<Result<Vec<_>>>()?;
        let n = p.columns.len();
        let new = LogicalPlan::Window(Window::try_new(window, Arc::new(p.plan))?);
        let at = |i: usize| if i < width { i } else { i + n };
        let mut exprs: Vec<Expr> = (w.schema.iter().enumerate())
            .map(|(i, (q, f))| named(column_at(new.schema(), at(i)), q, f.name()))
            .collect();
        exprs.extend(p.columns.iter().cloned());
        Ok(Pushed { plan: project(new, exprs)?, columns: p.columns, strict: p.strict, missing: None })
    }

    /// The first rows of each value: by their number.
    fn push_limit(&mut self, l: Limit, domain: &Domain) -> Result<Pushed> {
        let cut =
            |input: Arc<LogicalPlan>| LogicalPlan::Limit(Limit { skip: l.skip.clone(), fetch: l.fetch.clone(), input });
        let input = Arc::unwrap_or_clone(l.input);
        let (sort, input) = match input {
            // Neither changes which rows there are, and the order is below.
            LogicalPlan::Projection(p) => {
                let inner = Arc::new(cut(p.input));
                return self
                    .push(LogicalPlan::Projection(Projection::try_new_with_schema(p.expr, inner, p.schema)?), domain);
            }
            LogicalPlan::SubqueryAlias(a) => {
                let inner = Arc::new(cut(a.input));
                return self.push(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(inner, a.alias)?), domain);
            }
            LogicalPlan::Sort(s) if s.fetch.is_none() => (s.expr, Arc::unwrap_or_clone(s.input)),
            other => (Vec::new(), other),
        };
        let skip = count(l.skip.as_deref(), "OFFSET")?.unwrap_or(0);
        let fetch = count(l.fetch.as_deref(), "LIMIT")?;
        let own = columns_of(input.schema());
        let p = self.settled(input, domain)?;
        let mut order = Vec::with_capacity(sort.len());
        for s in sort {
            order.push(domain.outer.bind(s.expr, &p.columns)?.sort(s.asc, s.nulls_first));
        }
        let number = row_number().partition_by(p.columns.clone());
        let number = if order.is_empty() { number.build()? } else { number.order_by(order).build()? };
        let numbered = LogicalPlan::Window(Window::try_new(vec![number], Arc::new(p.plan))?);
        let last = numbered.schema().fields().len() - 1;
        let number = column_at(numbered.schema(), last);
        let data_type = numbered.schema().field(last).data_type().clone();
        let bound = |n: u64| ScalarValue::UInt64(Some(n)).cast_to(&data_type).map(lit);
        let mut bounds = Vec::new();
        if let Some(n) = fetch {
            bounds.push(number.clone().lt_eq(bound(skip.saturating_add(n))?));
        }
        if skip > 0 {
            bounds.push(number.gt(bound(skip)?));
        }
        let plan = project(filtered(numbered, bounds)?, own.into_iter().chain(p.columns.iter().cloned()).collect())?;
        Ok(Pushed { plan, columns: p.columns, strict: p.strict, missing: None })
    }

    fn push_distinct_on(&mut self, d: DistinctOn, domain: &Domain) -> Result<Pushed> {
        let outer = &domain.outer;
        let p = self.settled(Arc::unwrap_or_clone(d.input), domain)?;
        let on = p.columns.iter().cloned().chain(outer.bind_all(d.on_expr, &p.columns)?).collect();
        let mut select = Vec::new();
        for (e, (q, f)) in d.select_expr.into_iter().zip(d.schema.iter()) {
            select.push(named(outer.bind(e, &p.columns)?, q, f.name()));
        }
        select.extend(p.columns.iter().cloned());
        let sort = match d.sort_expr {
            None => None,
            Some(sort) => {
                let mut keys: Vec<_> = p.columns.iter().map(|c| c.clone().sort(true, false)).collect();
                for s in sort {
                    keys.push(outer.bind(s.expr, &p.columns)?.sort(s.asc, s.nulls_first));
                }
                Some(keys)
            }
        };
        let plan = LogicalPlan::Distinct(Distinct::On(DistinctOn::try_new(on, select, sort, Arc::new(p.plan))?));
        Ok(Pushed { plan, columns: p.columns, strict: p.strict, missing: None })
    }

    /// One side of a set operation: columns by position, parameters last.
    fn push_branch(&mut self, plan: LogicalPlan, domain: &Domain) -> Result<(LogicalPlan, bool)> {
        let width = plan.schema().fields().len();
        let p = self.settled(plan, domain)?;
        let own = (0..width).map(|i| column_at(p.plan.schema(), i).alias(format!("c{i}")));
        let parameters = p.columns.iter().enumerate().map(|(i, c)| c.clone().alias(format!("p{i}")));
        let exprs = own.chain(parameters).collect();
        Ok((project(p.plan, exprs)?, p.strict))
    }

    /// A set operation over such sides, under the names of `schema`.
    fn unbranched(
        &mut self,
        plan: LogicalPlan,
        schema: &datafusion::common::DFSchema,
        parameters: usize,
        strict: bool,
    ) -> Result<Pushed> {
        let width = schema.fields().len();
        let own = schema.iter().enumerate().map(|(i, (q, f))| named(column_at(plan.schema(), i), q, f.name()));
        let q = self.fresh();
        let values = (0..parameters)
            .map(|i| column_at(plan.schema(), width + i).alias_qualified(Some(q.clone()), parameter(&q, i)));
        let exprs = own.chain(values).collect();
        let plan = project(plan, exprs)?;
        let columns = (width..width + parameters).map(|i| column_at(plan.schema(), i)).collect();
        Ok(Pushed { plan, columns, strict, missing: None })
    }
}

/// `value` where there was a row, otherwise `default`.
pub(super) fn or_default(value: Expr, there: &Expr, default: Expr) -> Result<Expr> {
    match &default {
        Expr::Literal(v, _) if v.is_null() => Ok(value),
        _ => when(there.clone().is_null(), default).otherwise(value),
    }
}

/// An aggregate of no rows.
fn of_no_rows(e: &Expr, data_type: &arrow::datatypes::DataType) -> Result<Expr> {
    let value = match e.clone().unalias() {
        Expr::AggregateFunction(f) => f.func.default_value(data_type)?.cast_to(data_type)?,
        _ => ScalarValue::try_from(data_type)?,
    };
    Ok(lit(value))
}

/// The literal number of a LIMIT or OFFSET.
pub(super) fn count(e: Option<&Expr>, clause: &str) -> Result<Option<u64>> {
    let Some(e) = e else { return Ok(None) };
    let mut e = e;
    while let Expr::Cast(c) = e {
        e = &c.expr;
    }
    let Expr::Literal(value, _) = e else {
        return Err(unsupported(format!("{clause} of a correlated subquery must be a constant")));
    };
    match value.cast_to(&arrow::datatypes::DataType::Int64)? {
        ScalarValue::Int64(Some(n)) if n >= 0 => Ok(Some(n.unsigned_abs())),
        ScalarValue::Int64(None) => Ok(None),
        _ => Err(super::user(crate::error::SqlError::new(
            crate::error::SqlState("2201W"),
            format!("{clause} must not be negative"),
        ))),
    }
}
