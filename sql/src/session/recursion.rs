//! What a WITH RECURSIVE may look like: the rules of PostgreSQL, before DataFusion plans it.
//!
//! DataFusion takes a recursive query of any form and gives some of them another meaning: it leaves out ORDER BY, LIMIT
//! and a WITH of its own, and casts what the recursive term gives to the types of the base term, be it rounded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr as LogicalExpr, ExprSchemable, LogicalPlan};
use sqlparser::ast::{
    Cte, Expr, Ident, Join, JoinConstraint, JoinOperator, LimitClause, ObjectName, Query, Select, SelectItem, SetExpr,
    SetOperator, SetQuantifier, TableFactor, TableWithJoins, Visit, VisitMut, Visitor, VisitorMut, With,
};
use sqlparser::tokenizer::Location;

use crate::error::{Result, SqlError, SqlState};
use crate::span::char_position;
use crate::types::display_name;

const INVALID_RECURSION: SqlState = SqlState("42P19");

/// Items of recursive terms that are casts in the text, by the name of the query.
pub(super) type Casts = BTreeMap<String, Vec<bool>>;

/// Checks every WITH RECURSIVE of a query, and writes it as DataFusion understands it. `text` is the statement's.
pub(super) fn check(query: &mut Query, state: &SessionState, text: &str) -> Result<Casts> {
    struct Withs<'a> {
        state: &'a SessionState,
        text: &'a str,
        casts: Casts,
    }
    impl VisitorMut for Withs<'_> {
        type Break = SqlError;
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
            let Some(with) = query.with.as_mut().filter(|w| w.recursive) else { return ControlFlow::Continue(()) };
            match check_with(with, self.state, self.text, &mut self.casts) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e),
            }
        }
    }
    let mut withs = Withs { state, text, casts: Casts::new() };
    match VisitMut::visit(query, &mut withs) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(withs.casts),
    }
}

fn name_of(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn at(e: SqlError, text: &str, location: Location) -> SqlError {
    match char_position(text, location) {
        Some(position) => e.at(position),
        None => e,
    }
}

fn check_with(with: &mut With, state: &SessionState, text: &str, casts: &mut Casts) -> Result<()> {
    let names: Vec<String> = with.cte_tables.iter().map(|c| name_of(&c.alias.name)).collect();
    let reads: Vec<BTreeSet<usize>> =
        with.cte_tables.iter().map(|c| (0..names.len()).filter(|i| reads(&*c.query, &names[*i])).collect()).collect();
    let order = in_order(&reads).ok_or_else(|| {
        let e = SqlError::unsupported("mutual recursion between WITH items is not implemented");
        at(e, text, with.cte_tables.first().map_or(Location::empty(), |c| c.alias.name.span.start))
    })?;
    for (i, cte) in with.cte_tables.iter_mut().enumerate() {
        if reads[i].contains(&i) {
            check_recursive(cte, &names[i], state, text)?;
            casts.insert(names[i].clone(), cast_items(&cte.query));
        } else {
            keep_whole(&mut cte.query);
        }
    }
    // One that reads a later one is planned after it.
    if order.iter().enumerate().any(|(place, i)| place != *i) {
        let mut ctes: Vec<Option<Cte>> = std::mem::take(&mut with.cte_tables).into_iter().map(Some).collect();
        with.cte_tables = order.into_iter().filter_map(|i| ctes[i].take()).collect();
    }
    Ok(())
}

/// The items so that each comes after those it reads, itself apart; `None` if there is no such order.
fn in_order(reads: &[BTreeSet<usize>]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::with_capacity(reads.len());
    while order.len() < reads.len() {
        let ready = |i: &usize| !order.contains(i) && reads[*i].iter().all(|r| r == i || order.contains(r));
        order.push((0..reads.len()).find(ready)?);
    }
    Some(order)
}

/// DataFusion plans a UNION in a WITH RECURSIVE by its two sides alone: what else the query has is kept around it.
fn keep_whole(query: &mut Box<Query>) {
    let more =
        query.with.is_some() || query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some();
    if !more || !matches!(*query.body, SetExpr::SetOperation { op: SetOperator::Union, .. }) {
        return;
    }
    let whole = query.clone();
    **query = Query {
        with: None,
        body: Box::new(SetExpr::Query(whole)),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    };
}

fn check_recursive(cte: &mut Cte, name: &str, state: &SessionState, text: &str) -> Result<()> {
    let here = cte.alias.name.span.start;
    // Parentheses around all of it.
    while let SetExpr::Query(inner) = cte.query.body.as_ref() {
        let plain = cte.query.with.is_none()
            && cte.query.order_by.is_none()
            && cte.query.limit_clause.is_none()
            && cte.query.fetch.is_none();
        if !plain {
            break;
        }
        cte.query = inner.clone();
    }
    let query = cte.query.as_ref();
    let SetExpr::SetOperation { op: SetOperator::Union, set_quantifier, left, right } = query.body.as_ref() else {
        let message =
            format!("recursive query \"{name}\" does not have the form non-recursive-term UNION [ALL] recursive-term");
        return Err(at(SqlError::new(INVALID_RECURSION, message), text, here));
    };
    let clause = match &query.limit_clause {
        _ if query.order_by.is_some() => Some("ORDER BY"),
        Some(LimitClause::LimitOffset { limit: None, .. }) => Some("OFFSET"),
        Some(_) => Some("LIMIT"),
        None if query.fetch.is_some() => Some("LIMIT"),
        None => None,
    };
    if let Some(clause) = clause {
        let e = SqlError::unsupported(format!("{clause} in a recursive query is not implemented"));
        return Err(at(e.hint("Write it in the query that reads the WITH query."), text, here));
    }
    if query.with.is_some() {
        let e = SqlError::unsupported(format!("WITH inside of the recursive query \"{name}\" is not supported"));
        return Err(at(e.hint("Write its queries before it, in the same WITH."), text, here));
    }
    let known = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None);
    if !known {
        return Err(at(SqlError::unsupported(format!("UNION {set_quantifier} in a recursive query")), text, here));
    }
    if let Some(found) = first_read(left.as_ref(), name) {
        let message = format!("recursive reference to query \"{name}\" must not appear within its non-recursive term");
        return Err(at(SqlError::new(INVALID_RECURSION, message), text, found));
    }
    let mut walk = Walk { name, state, found: 0 };
    walk.set(right, Place::Plain)
        .map_err(|(message, location)| at(SqlError::new(INVALID_RECURSION, message), text, location))
}

/// Where a reference stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    Subquery,
    OuterJoin,
    Intersect,
    Except,
}

/// Walks a recursive term.
struct Walk<'a> {
    name: &'a str,
    state: &'a SessionState,
    found: usize,
}

type Walked = std::result::Result<(), (String, Location)>;

impl Walk<'_> {
    fn hit(&mut self, place: Place, location: Location) -> Walked {
        self.found += 1;
        let within = match place {
            Place::Plain if self.found == 1 => return Ok(()),
            Place::Plain => {
                let message = format!("recursive reference to query \"{}\" must not appear more than once", self.name);
                return Err((message, location));
            }
            Place::Subquery => "a subquery",
            Place::OuterJoin => "an outer join",
            Place::Intersect => "INTERSECT",
            Place::Except => "EXCEPT",
        };
        Err((format!("recursive reference to query \"{}\" must not appear within {within}", self.name), location))
    }

    /// Expressions: a reference in them is in a subquery.
    fn exprs(&mut self, of: &impl Visit) -> Walked {
        match first_read(of, self.name) {
            Some(location) => self.hit(Place::Subquery, location),
            None => Ok(()),
        }
    }

    fn query(&mut self, query: &Query, place: Place) -> Walked {
        for cte in query.with.iter().flat_map(|w| &w.cte_tables) {
            self.query(&cte.query, place)?;
            if name_of(&cte.alias.name) == self.name {
                return Ok(()); // From here on the name means that one.
            }
        }
        self.set(&query.body, place)?;
        match &query.order_by {
            Some(order) => self.exprs(order),
            None => Ok(()),
        }
    }

    fn set(&mut self, set: &SetExpr, place: Place) -> Walked {
        match set {
            SetExpr::Select(select) => self.select(select, place),
            SetExpr::Query(query) => self.query(query, place),
            SetExpr::SetOperation { op, set_quantifier, left, right } => {
                let all = *set_quantifier == SetQuantifier::All;
                let (l, r) = match op {
                    SetOperator::Union => (place, place),
                    SetOperator::Intersect if all => (Place::Intersect, Place::Intersect),
                    SetOperator::Intersect => (place, place),
                    SetOperator::Except | SetOperator::Minus if all => (Place::Except, Place::Except),
                    SetOperator::Except | SetOperator::Minus => (place, Place::Except),
                };
                self.set(left, l)?;
                self.set(right, r)
            }
            other => self.exprs(other),
        }
    }

    fn select(&mut self, select: &Select, place: Place) -> Walked {
        for tables in &select.from {
            self.tables(tables, place)?;
        }
        let mut rest = select.clone();
        rest.from.clear();
        self.exprs(&rest)?;
        let mine = select.from.iter().any(|t| directly_reads(t, self.name));
        if mine && let Some(location) = first_aggregate(&rest, self.state) {
            let message = "aggregate functions are not allowed in a recursive query's recursive term";
            return Err((message.to_owned(), location));
        }
        Ok(())
    }

    fn tables(&mut self, tables: &TableWithJoins, place: Place) -> Walked {
        use JoinOperator as J;
        // A right or full join makes all before it nullable, a left or full join what comes after it.
        let before = |joins: &[Join]| {
            let nulls = |j: &Join| matches!(j.join_operator, J::Right(_) | J::RightOuter(_) | J::FullOuter(_));
            if joins.iter().any(nulls) { Place::OuterJoin } else { place }
        };
        self.factor(&tables.relation, before(&tables.joins))?;
        for (i, join) in tables.joins.iter().enumerate() {
            let place = match &join.join_operator {
                J::Left(_) | J::LeftOuter(_) | J::FullOuter(_) | J::OuterApply | J::AsOf { .. } => Place::OuterJoin,
                J::Semi(_) | J::LeftSemi(_) | J::Anti(_) | J::LeftAnti(_) => Place::Subquery,
                _ => before(&tables.joins[i + 1..]),
            };
            self.factor(&join.relation, place)?;
            if let Some(JoinConstraint::On(condition)) = constraint(&join.join_operator) {
                self.exprs(condition)?;
            }
        }
        Ok(())
    }

    fn factor(&mut self, factor: &TableFactor, place: Place) -> Walked {
        match factor {
            TableFactor::Table { name, args: None, .. } => match is_named(name, self.name) {
                Some(location) => self.hit(place, location),
                None => Ok(()),
            },
            TableFactor::Derived { subquery, .. } => self.query(subquery, place),
            TableFactor::NestedJoin { table_with_joins, .. } => self.tables(table_with_joins, place),
            other => self.exprs(other),
        }
    }
}

fn constraint(join: &JoinOperator) -> Option<&JoinConstraint> {
    use JoinOperator as J;
    match join {
        J::Join(c) | J::Inner(c) | J::CrossJoin(c) | J::StraightJoin(c) => Some(c),
        J::Left(c) | J::LeftOuter(c) | J::Right(c) | J::RightOuter(c) | J::FullOuter(c) => Some(c),
        J::Semi(c) | J::LeftSemi(c) | J::RightSemi(c) | J::Anti(c) | J::LeftAnti(c) | J::RightAnti(c) => Some(c),
        J::AsOf { constraint, .. } => Some(constraint),
        J::CrossApply | J::OuterApply | J::ArrayJoin | J::LeftArrayJoin | J::InnerArrayJoin => None,
    }
}

fn directly_reads(tables: &TableWithJoins, name: &str) -> bool {
    let factor = |f: &TableFactor| match f {
        TableFactor::Table { name: table, args: None, .. } => is_named(table, name).is_some(),
        TableFactor::NestedJoin { table_with_joins, .. } => directly_reads(table_with_joins, name),
        _ => false,
    };
    factor(&tables.relation) || tables.joins.iter().any(|j| factor(&j.relation))
}

/// The place of a relation's name if it is this one.
fn is_named(relation: &ObjectName, name: &str) -> Option<Location> {
    match relation.0.as_slice() {
        [part] => part.as_ident().filter(|i| name_of(i) == name).map(|i| i.span.start),
        _ => None,
    }
}

fn reads(of: &impl Visit, name: &str) -> bool {
    first_read(of, name).is_some()
}

/// The first relation of this name, wherever it stands, unless a WITH on the way to it has another one.
fn first_read(of: &impl Visit, name: &str) -> Option<Location> {
    struct Names<'a> {
        name: &'a str,
        /// Queries around that have a WITH query of the name.
        hidden: usize,
    }
    fn hides(query: &Query, name: &str) -> bool {
        query.with.as_ref().is_some_and(|w| w.cte_tables.iter().any(|c| name_of(&c.alias.name) == name))
    }
    impl Visitor for Names<'_> {
        type Break = Location;
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Location> {
            self.hidden += usize::from(hides(query, self.name));
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Location> {
            self.hidden -= usize::from(hides(query, self.name));
            ControlFlow::Continue(())
        }
        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Location> {
            match is_named(relation, self.name) {
                Some(location) if self.hidden == 0 => ControlFlow::Break(location),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match Visit::visit(of, &mut Names { name, hidden: 0 }) {
        ControlFlow::Break(location) => Some(location),
        ControlFlow::Continue(()) => None,
    }
}

/// The first aggregate function of a SELECT itself, not of its subqueries.
fn first_aggregate(select: &Select, state: &SessionState) -> Option<Location> {
    struct Aggregates<'a> {
        state: &'a SessionState,
        depth: usize,
    }
    impl Visitor for Aggregates<'_> {
        type Break = Location;
        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Location> {
            self.depth += 1;
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Location> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Location> {
            if let Expr::Function(f) = expr
                && self.depth == 0
                && f.over.is_none()
                && let [part] = f.name.0.as_slice()
                && let Some(ident) = part.as_ident()
                && self.state.aggregate_functions().contains_key(&ident.value.to_lowercase())
            {
                return ControlFlow::Break(ident.span.start);
            }
            ControlFlow::Continue(())
        }
    }
    match Visit::visit(select, &mut Aggregates { state, depth: 0 }) {
        ControlFlow::Break(location) => Some(location),
        ControlFlow::Continue(()) => None,
    }
}

/// Which items of the recursive term are casts; none are known where it is not a plain SELECT list.
fn cast_items(query: &Query) -> Vec<bool> {
    let SetExpr::SetOperation { right, .. } = query.body.as_ref() else { return Vec::new() };
    let SetExpr::Select(select) = right.as_ref() else { return Vec::new() };
    let cast = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => Some(is_cast(e)),
        _ => None,
    };
    select.projection.iter().map(cast).collect::<Option<Vec<_>>>().unwrap_or_default()
}

fn is_cast(e: &Expr) -> bool {
    match e {
        Expr::Nested(inner) => is_cast(inner),
        Expr::Cast { .. } | Expr::TypedString { .. } => true,
        _ => false,
    }
}

/// Refuses a recursive term whose values would be rounded to the types of the base term.
pub(super) fn check_types(plan: &LogicalPlan, casts: &Casts) -> Result<()> {
    let mut failed = None;
    let visited = plan.apply_with_subqueries(|node| {
        let LogicalPlan::RecursiveQuery(query) = node else { return Ok(TreeNodeRecursion::Continue) };
        let LogicalPlan::Projection(p) = query.recursive_term.as_ref() else {
            return Ok(TreeNodeRecursion::Continue);
        };
        let Some(written) = casts.get(&query.name).filter(|w| w.len() == p.expr.len()) else {
            return Ok(TreeNodeRecursion::Continue);
        };
        for (i, e) in p.expr.iter().enumerate() {
            let LogicalExpr::Cast(cast) = e.clone().unalias() else { continue };
            // Types that are not settled yet will be those of the base term.
            let (Ok(from), Ok(to)) = (cast.expr.get_type(p.input.schema()), e.get_type(p.input.schema())) else {
                continue;
            };
            if !written[i] && loses(&from, &to) {
                let message = format!(
                    "recursive query \"{}\" column {} has type {} in non-recursive term but type {} overall",
                    query.name,
                    i + 1,
                    display_name(&to),
                    display_name(&from)
                );
                failed.get_or_insert_with(|| {
                    SqlError::new(SqlState::DATATYPE_MISMATCH, message)
                        .hint("Cast the column of the non-recursive term to the wider type, or that of both terms.")
                });
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.map_err(super::from_datafusion)?;
    failed.map_or(Ok(()), Err)
}

/// A cast that rounds.
fn loses(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Decimal128, Decimal256, Timestamp};
    let scale = |t: &DataType| match t {
        Decimal128(_, s) | Decimal256(_, s) => Some(*s),
        t if t.is_integer() => Some(0),
        _ => None,
    };
    match (from, to) {
        (Timestamp(..), Date32) => true,
        (from, to) if from.is_floating() => scale(to).is_some(),
        (from, to) => matches!((scale(from), scale(to)), (Some(f), Some(t)) if f > t),
    }
}

#[cfg(test)]
mod tests;
