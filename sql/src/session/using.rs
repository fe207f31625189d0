//! The column of a RIGHT or FULL JOIN with USING: the one of the right side, or the first of both that is not NULL.
//!
//! DataFusion takes the one of the left side. So joins of a FROM that has such a one get their conditions written out, and
//! the columns that were merged the expressions they stand for. Whoever reads such a column from a subquery finds two of
//! the name there, which is an error and no wrong answer.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, BinaryOperator, ExcludeSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor, TableWithJoins, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};

use super::syntax::call;
use crate::error::{Result, SqlError};

/// Rewrites every SELECT with such a join.
pub(super) fn rewrite(query: &mut Query) -> Result<()> {
    struct Joins;
    impl VisitorMut for Joins {
        type Break = SqlError;
        fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
            let Query { body, order_by, .. } = query;
            let SetExpr::Select(select) = body.as_mut() else { return ControlFlow::Continue(()) };
            match merged(select) {
                Ok(columns) if columns.is_empty() => ControlFlow::Continue(()),
                Ok(columns) => {
                    replace_in_select(select, &columns);
                    if let Some(order) = order_by {
                        replace(order, &columns, &outputs(select));
                    }
                    ControlFlow::Continue(())
                }
                Err(e) => ControlFlow::Break(e),
            }
        }
    }
    match query.visit(&mut Joins) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// A column that joins have merged.
struct Merged {
    name: Ident,
    value: Expr,
    /// The relations that have it.
    of: Vec<Ident>,
}

fn refused(why: &str) -> SqlError {
    SqlError::unsupported(format!("{why} is not supported")).hint("Write the condition with ON.")
}

/// How the joins of a SELECT merge columns, if one of them is a RIGHT or FULL JOIN with USING; those are written with ON
/// then.
fn merged(select: &mut Select) -> Result<Vec<Merged>> {
    let mut all = Vec::new();
    for from in &mut select.from {
        let outer = |o: &JoinOperator| match o {
            JoinOperator::Right(c) | JoinOperator::RightOuter(c) | JoinOperator::FullOuter(c) => Some(c.clone()),
            _ => None,
        };
        for join in &from.joins {
            if let Some(JoinConstraint::Natural) = outer(&join.join_operator) {
                return Err(refused("NATURAL RIGHT or FULL JOIN"));
            }
        }
        let using = |c: JoinConstraint| matches!(c, JoinConstraint::Using(_));
        if from.joins.iter().any(|j| outer(&j.join_operator).is_some_and(using)) {
            all.extend(written_out(from)?);
        }
    }
    Ok(all)
}

fn written_out(from: &mut TableWithJoins) -> Result<Vec<Merged>> {
    let mut columns: Vec<Merged> = Vec::new();
    let mut names = vec![name_of(&from.relation).ok_or_else(|| refused("a join of relations without names"))?];
    for join in &mut from.joins {
        let right = name_of(&join.relation).ok_or_else(|| refused("a join of relations without names"))?;
        let (full, is_right) = match &join.join_operator {
            JoinOperator::FullOuter(_) => (true, false),
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => (false, true),
            _ => (false, false),
        };
        let constraint = match &mut join.join_operator {
            JoinOperator::Join(c)
            | JoinOperator::Inner(c)
            | JoinOperator::Left(c)
            | JoinOperator::LeftOuter(c)
            | JoinOperator::Right(c)
            | JoinOperator::RightOuter(c)
            | JoinOperator::FullOuter(c)
            | JoinOperator::CrossJoin(c) => c,
            _ => return Err(refused("such a join beside a RIGHT or FULL JOIN with USING")),
        };
        match constraint {
            JoinConstraint::Natural => return Err(refused("NATURAL JOIN beside a RIGHT or FULL JOIN with USING")),
            JoinConstraint::Using(list) => {
                let mut condition: Option<Expr> = None;
                for column in list.iter() {
                    let [ast::ObjectNamePart::Identifier(name)] = column.0.as_slice() else {
                        return Err(refused("USING with a qualified name"));
                    };
                    let there = qualified(&right, name);
                    let known = columns.iter().position(|m| same(&m.name, name));
                    let here = match (known, names.as_slice()) {
                        (Some(at), _) => columns[at].value.clone(),
                        (None, [only]) => qualified(only, name),
                        (None, _) => return Err(refused("USING with a column of one of several relations")),
                    };
                    let equal = binary(here.clone(), BinaryOperator::Eq, there.clone());
                    condition = Some(match condition {
                        None => equal,
                        Some(c) => binary(c, BinaryOperator::And, equal),
                    });
                    let value = match () {
                        () if full => call("coalesce", vec![here, there]),
                        () if is_right => there,
                        () => here,
                    };
                    match known {
                        Some(at) => {
                            columns[at].value = value;
                            columns[at].of.push(right.clone());
                        }
                        None => {
                            columns.push(Merged {
                                name: name.clone(),
                                value,
                                of: vec![names[0].clone(), right.clone()],
                            });
                        }
                    }
                }
                if let Some(condition) = condition {
                    *constraint = JoinConstraint::On(condition);
                }
            }
            JoinConstraint::On(_) | JoinConstraint::None => {}
        }
        names.push(right);
    }
    Ok(columns)
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

/// What columns of a relation are qualified with.
fn name_of(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(a), .. }
        | TableFactor::Derived { alias: Some(a), .. }
        | TableFactor::Function { alias: Some(a), .. }
        | TableFactor::UNNEST { alias: Some(a), .. } => Some(a.name.clone()),
        TableFactor::Table { name, alias: None, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

fn qualified(relation: &Ident, column: &Ident) -> Expr {
    Expr::CompoundIdentifier(vec![relation.clone(), column.clone()])
}

fn folded(i: &Ident) -> String {
    if i.quote_style.is_some() { i.value.clone() } else { i.value.to_lowercase() }
}

fn same(a: &Ident, b: &Ident) -> bool {
    folded(a) == folded(b)
}

/// Names of output columns.
fn outputs(select: &Select) -> Vec<Ident> {
    let name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        SelectItem::UnnamedExpr(Expr::Identifier(i)) => Some(i.clone()),
        _ => None,
    };
    select.projection.iter().filter_map(name).collect()
}

fn replace_in_select(select: &mut Select, columns: &[Merged]) {
    let items = std::mem::take(&mut select.projection);
    let mut relations = Vec::new();
    for from in &select.from {
        relations.extend(name_of(&from.relation));
        relations.extend(from.joins.iter().filter_map(|j| name_of(&j.relation)));
    }
    for mut item in items {
        match &mut item {
            // The merged columns first, then what else each relation has.
            SelectItem::Wildcard(options) if *options == WildcardAdditionalOptions::default() => {
                for m in columns {
                    select.projection.push(SelectItem::ExprWithAlias { expr: m.value.clone(), alias: m.name.clone() });
                }
                for relation in &relations {
                    let merged = columns.iter().filter(|m| m.of.iter().any(|r| same(r, relation)));
                    let merged: Vec<ObjectName> = merged.map(|m| ObjectName::from(vec![m.name.clone()])).collect();
                    let opt_exclude = (!merged.is_empty()).then_some(ExcludeSelectItem::Multiple(merged));
                    let kind = SelectItemQualifiedWildcardKind::ObjectName(ObjectName::from(vec![relation.clone()]));
                    let options = WildcardAdditionalOptions { opt_exclude, ..WildcardAdditionalOptions::default() };
                    select.projection.push(SelectItem::QualifiedWildcard(kind, options));
                }
                continue;
            }
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => {
                if let Some(m) = columns.iter().find(|m| same(&m.name, name)) {
                    item = SelectItem::ExprWithAlias { expr: m.value.clone(), alias: name.clone() };
                }
            }
            other => replace(other, columns, &[]),
        }
        select.projection.push(item);
    }
    replace(&mut select.distinct, columns, &[]);
    replace(&mut select.selection, columns, &[]);
    replace(&mut select.group_by, columns, &[]);
    replace(&mut select.having, columns, &[]);
    replace(&mut select.named_window, columns, &[]);
    replace(&mut select.qualify, columns, &[]);
}

/// Puts what merged columns stand for in the place of their names, except for `kept` names and inside of subqueries.
fn replace<T: VisitMut>(tree: &mut T, columns: &[Merged], kept: &[Ident]) {
    struct Names<'a> {
        columns: &'a [Merged],
        kept: &'a [Ident],
        depth: usize,
    }
    impl VisitorMut for Names<'_> {
        type Break = ();
        fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
            self.depth += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }
        fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
            if let (0, Expr::Identifier(name)) = (self.depth, &*e)
                && !self.kept.iter().any(|k| same(k, name))
                && let Some(m) = self.columns.iter().find(|m| same(&m.name, name))
            {
                *e = m.value.clone();
            }
            ControlFlow::Continue(())
        }
    }
    // The visitor never breaks.
    let _ = tree.visit(&mut Names { columns, kept, depth: 0 });
}
