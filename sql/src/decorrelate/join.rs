//! Joins: LATERAL, subqueries in ON, and joins inside of a correlated subquery.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, NullEquality};
use datafusion::error::Result;
use datafusion::functions::expr_fn::coalesce;
use datafusion::logical_expr::logical_plan::{Join, JoinConstraint, Unnest};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, Operator, binary_expr};

use super::outer::{Domain, Outer, parameter};
use super::push::{Pushed, or_default};
use super::{On, Pass, column_at, columns_of, filtered, has_subquery, is_subquery, named, project, unsupported};

impl Pass {
    /// A join of the query's own.
    pub(super) fn rewrite_join(&mut self, j: Join) -> Result<LogicalPlan> {
        let lateral = is_lateral(&j.right);
        let left = self.rewrite(Arc::unwrap_or_clone(j.left))?;
        let right = self.rewrite(Arc::unwrap_or_clone(j.right))?;
        let mut plain = Vec::new();
        let mut with_subquery = Vec::new();
        for c in j.filter.into_iter().flat_map(split_conjunction_owned) {
            if has_subquery(std::slice::from_ref(&c))? { with_subquery.push(c) } else { plain.push(c) }
        }
        let on = if j.join_type == JoinType::Inner { Vec::new() } else { std::mem::take(&mut with_subquery) };
        let sides = Sides { schema: &j.schema, kind: j.join_type, keys: j.on, nulls: j.null_equality };
        let (left, right, values) = self.extend_sides(left, right, on)?;
        plain.extend(values);
        let outer = if lateral { Outer::of(&right, left.schema())? } else { Outer::none() };
        let joined = match outer.is_empty() {
            true => sides.join(left, right, plain)?,
            false => self.lateral(left, right, outer, sides, plain)?,
        };
        match conjunction(with_subquery) {
            None => Ok(joined),
            Some(predicate) => self.rewrite_filter(predicate, joined),
        }
    }

    fn lateral(
        &mut self,
        left: LogicalPlan,
        right: LogicalPlan,
        outer: Outer,
        sides: Sides<'_>,
        mut condition: Vec<Expr>,
    ) -> Result<LogicalPlan> {
        if !matches!(sides.kind, JoinType::Inner | JoinType::Left) {
            return Err(unsupported("LATERAL is possible in inner and left joins only"));
        }
        if sides.kind == JoinType::Inner && of_one_row(&right) {
            // No set of values is needed, the rows themselves will do. A clash of names speaks against it.
            let values = outer.values();
            if let Ok(rows) = along(right.clone(), &left, &outer, &values) {
                for (l, r) in &sides.keys {
                    condition.push(binary_expr(l.clone(), sides.sign(), r.clone()));
                }
                let kept = columns_of(sides.schema);
                return project(filtered(rows, condition)?, kept);
            }
        }
        let domain = Domain::new(self, outer, &left)?;
        let values = domain.outer.values();
        for (l, r) in &sides.keys {
            condition.push(binary_expr(l.clone(), sides.sign(), r.clone()));
        }
        let trivial = condition.iter().all(|c| *c == datafusion::logical_expr::lit(true));
        let pushed = self.push(right, &domain)?;
        if let Some(missing) = pushed.missing.clone()
            && (trivial || sides.kind == JoinType::Inner)
        {
            // Every left row has exactly one row.
            let own = sides.schema.fields().len() - missing.len();
            let (plan, there) = self.marked(pushed.plan)?;
            let joined = On::new(JoinType::Left).same(&values, &pushed.columns, pushed.strict).join(left, plan)?;
            let mut exprs = Vec::with_capacity(sides.schema.fields().len());
            for (i, (q, f)) in sides.schema.iter().enumerate() {
                let column = Expr::Column(datafusion::common::Column::from((q, f)));
                exprs.push(match missing.get(i.wrapping_sub(own)) {
                    Some(default) if i >= own => {
                        named(or_default(column, &there, domain.outer.bind(default.clone(), &values)?)?, q, f.name())
                    }
                    _ => column,
                });
            }
            let plan = project(joined, exprs)?;
            return filtered(plan, if trivial { Vec::new() } else { condition });
        }
        let pushed = match pushed.missing {
            Some(_) => self.settle(pushed, &domain)?,
            None => pushed,
        };
        let mut on = On::new(sides.kind).same(&values, &pushed.columns, pushed.strict);
        on.filter = conjunction(condition);
        let kept = columns_of(sides.schema);
        project(on.join(left, pushed.plan)?, kept)
    }

    /// Both sides with the values of the subqueries in `conjuncts` as further columns, and the conjuncts over them. A
    /// subquery in the condition of an outer join can read one side only.
    fn extend_sides(
        &mut self,
        left: LogicalPlan,
        right: LogicalPlan,
        conjuncts: Vec<Expr>,
    ) -> Result<(LogicalPlan, LogicalPlan, Vec<Expr>)> {
        let bases = [left.clone(), right.clone()];
        let mut sides = [left, right];
        let mut out = Vec::with_capacity(conjuncts.len());
        for c in conjuncts {
            let new = c.transform_up(|e| {
                if !is_subquery(&e) {
                    return Ok(Transformed::no(e));
                }
                let of_right = reads(&e, bases[1].schema())?;
                if of_right && reads(&e, bases[0].schema())? {
                    return Err(unsupported("a subquery in the ON of an outer join that reads columns of both sides"));
                }
                let i = usize::from(of_right);
                let (plan, value) = self.extend_one(std::mem::take(&mut sides[i]), &bases[i], e)?;
                sides[i] = plan;
                Ok(Transformed::yes(value))
            })?;
            out.push(new.data);
        }
        let [left, right] = sides;
        Ok((left, right, out))
    }

    /// A join in a correlated subquery: each side that depends on the parameters gets them, and the sides then agree
    /// on them.
    pub(super) fn push_join(&mut self, j: Join, domain: &Domain) -> Result<Pushed> {
        use JoinType as T;
        let outer = &domain.outer;
        let Join { left, right, on, filter, join_type, schema, null_equality, .. } = j;
        let (left, right) = (Arc::unwrap_or_clone(left), Arc::unwrap_or_clone(right));
        let conjuncts: Vec<Expr> = filter.into_iter().flat_map(split_conjunction_owned).collect();
        let mut dependent = false;
        for e in on.iter().flat_map(|(l, r)| [l, r]).chain(&conjuncts) {
            dependent |= outer.in_expr(e)?;
        }
        let sides = Sides { schema: &schema, kind: join_type, keys: on, nulls: null_equality };
        if join_type == T::Inner && dependent {
            // The condition is a filter then.
            let mut all: Vec<Expr> =
                sides.keys.iter().map(|(l, r)| binary_expr(l.clone(), sides.sign(), r.clone())).collect();
            all.extend(conjuncts);
            let bare = On::new(T::Inner).join(left, right)?;
            return match conjunction(all) {
                Some(predicate) => self.push(filtered(bare, vec![predicate])?, domain),
                None => self.push(bare, domain),
            };
        }
        let (l, r) = (outer.in_plan(&left)?, outer.in_plan(&right)?);
        let keeps_left = matches!(join_type, T::Left | T::LeftSemi | T::LeftAnti | T::Full);
        let keeps_right = matches!(join_type, T::Right | T::RightSemi | T::RightAnti | T::Full);
        if matches!(join_type, T::LeftMark | T::RightMark) {
            return Err(unsupported("a join of this kind in a correlated subquery"));
        }
        let (push_left, push_right) = match join_type {
            T::Inner => (l, r),
            // Rows of the side that is kept are there for every value.
            _ => (l || keeps_left, r || keeps_right),
        };
        let mut pushed_left = None;
        let mut pushed_right = None;
        let left = match push_left {
            true => {
                let p = self.settled(left, domain)?;
                pushed_left = Some((p.columns, p.strict));
                p.plan
            }
            false => left,
        };
        let right = match push_right {
            true => {
                let p = self.settled(right, domain)?;
                pushed_right = Some((p.columns, p.strict));
                p.plan
            }
            false => right,
        };
        let pick = if keeps_right && !keeps_left { &pushed_right } else { &pushed_left };
        let Some((columns, _)) = pick.clone().or_else(|| pushed_right.clone()) else {
            return Err(unsupported("a join of this kind in a correlated subquery"));
        };
        let mut join = On::new(join_type);
        let strict = match (&pushed_left, &pushed_right) {
            (Some((a, s)), Some((b, t))) => {
                join = join.same(a, b, *s || *t);
                match join_type {
                    T::Inner => *s || *t,
                    T::Full => *s && *t,
                    _ if keeps_right => *t,
                    _ => *s,
                }
            }
            (Some((_, s)), None) | (None, Some((_, s))) => *s,
            (None, None) => false,
        };
        let mut condition = outer.bind_all(conjuncts, &columns)?;
        for (l, r) in sides.keys.iter() {
            let (l, r) = (outer.bind(l.clone(), &columns)?, outer.bind(r.clone(), &columns)?);
            match sides.nulls {
                NullEquality::NullEqualsNothing if join_type != T::Full => join.equal.push((l, r)),
                _ => condition.push(binary_expr(l, sides.sign(), r)),
            }
        }
        join.filter = conjunction(condition);
        let joined = join.join(left, right)?;
        let kept = columns_of(&schema);
        let width = kept.len();
        if join_type == T::Full {
            let (Some((a, _)), Some((b, _))) = (pushed_left, pushed_right) else {
                return Err(unsupported("a full join in a correlated subquery"));
            };
            let q = self.fresh();
            let either = a.into_iter().zip(b).enumerate();
            let either =
                either.map(|(i, (a, b))| coalesce(vec![a, b]).alias_qualified(Some(q.clone()), parameter(&q, i)));
            let plan = project(joined, kept.into_iter().chain(either).collect())?;
            let columns = (width..width + outer.len()).map(|i| column_at(plan.schema(), i)).collect();
            return Ok(Pushed { plan, columns, strict, missing: None });
        }
        let plan = project(joined, kept.into_iter().chain(columns.iter().cloned()).collect())?;
        Ok(Pushed { plan, columns, strict, missing: None })
    }
}

/// True if every row of the plan comes from a relation of one row without columns: a function in FROM, or a SELECT
/// without FROM.
fn of_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => of_one_row(&p.input),
        LogicalPlan::Filter(f) => of_one_row(&f.input),
        LogicalPlan::SubqueryAlias(a) => of_one_row(&a.input),
        LogicalPlan::Unnest(u) => of_one_row(&u.input),
        LogicalPlan::EmptyRelation(e) => e.produce_one_row && e.schema.fields().is_empty(),
        _ => false,
    }
}

/// Such a plan with the rows of `left` in place of the one row: the columns of `left`, then the plan's own.
fn along(plan: LogicalPlan, left: &LogicalPlan, outer: &Outer, values: &[Expr]) -> Result<LogicalPlan> {
    let of_left = columns_of(left.schema());
    let width = of_left.len();
    match plan {
        LogicalPlan::EmptyRelation(_) => Ok(left.clone()),
        LogicalPlan::Projection(p) => {
            let input = along(Arc::unwrap_or_clone(p.input), left, outer, values)?;
            let mut exprs = of_left;
            for (e, (q, f)) in p.expr.into_iter().zip(p.schema.iter()) {
                exprs.push(named(outer.bind(e, values)?, q, f.name()));
            }
            project(input, exprs)
        }
        LogicalPlan::Filter(f) => {
            let input = along(Arc::unwrap_or_clone(f.input), left, outer, values)?;
            filtered(input, vec![outer.bind(f.predicate, values)?])
        }
        LogicalPlan::SubqueryAlias(a) => {
            let input = along(Arc::unwrap_or_clone(a.input), left, outer, values)?;
            let own = a.schema.iter().enumerate();
            let own = own.map(|(i, (q, f))| named(column_at(input.schema(), width + i), q, f.name()));
            let exprs = of_left.into_iter().chain(own).collect();
            project(input, exprs)
        }
        LogicalPlan::Unnest(u) => {
            let input = along(Arc::unwrap_or_clone(u.input), left, outer, values)?;
            Ok(LogicalPlan::Unnest(Unnest::try_new(Arc::new(input), u.exec_columns, u.options)?))
        }
        other => Err(unsupported(format!("{} cannot read columns of an outer query", other.display()))),
    }
}

/// What a join was before it was taken apart.
struct Sides<'a> {
    schema: &'a DFSchema,
    kind: JoinType,
    keys: Vec<(Expr, Expr)>,
    nulls: NullEquality,
}

impl Sides<'_> {
    fn sign(&self) -> Operator {
        match self.nulls {
            NullEquality::NullEqualsNothing => Operator::Eq,
            NullEquality::NullEqualsNull => Operator::IsNotDistinctFrom,
        }
    }

    /// The join as it was, over sides that may have further columns.
    fn join(self, left: LogicalPlan, right: LogicalPlan, condition: Vec<Expr>) -> Result<LogicalPlan> {
        let (left, right) = (Arc::new(left), Arc::new(right));
        let filter = conjunction(condition);
        let join = Join::try_new(left, right, self.keys, filter, self.kind, JoinConstraint::On, self.nulls, false)?;
        if join.schema.fields().len() == self.schema.fields().len() {
            return Ok(LogicalPlan::Join(join));
        }
        project(LogicalPlan::Join(join), columns_of(self.schema))
    }
}

fn is_lateral(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Subquery(_) => true,
        LogicalPlan::SubqueryAlias(a) => is_lateral(&a.input),
        _ => false,
    }
}

/// True if the subquery expression reads a column of a relation with this schema.
fn reads(e: &Expr, schema: &DFSchema) -> Result<bool> {
    let (subquery, compared) = match e {
        Expr::ScalarSubquery(s) => (s, None),
        Expr::Exists(x) => (&x.subquery, None),
        Expr::InSubquery(x) => (&x.subquery, Some(&x.expr)),
        Expr::SetComparison(x) => (&x.subquery, Some(&x.expr)),
        _ => return Ok(false),
    };
    if compared.is_some_and(|x| x.column_refs().iter().any(|c| schema.has_column(c))) {
        return Ok(true);
    }
    let mut found = false;
    subquery.subquery.apply_with_subqueries(|node| {
        node.apply_expressions(|x| {
            x.apply(|x| {
                found |= matches!(x, Expr::OuterReferenceColumn(_, c) if schema.has_column(c));
                Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    Ok(found)
}
