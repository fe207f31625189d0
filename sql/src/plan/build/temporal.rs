//! Operators that follow the clock, from the conditions that [`super::clock`] has marked.
//!
//! A condition that is one of several joined by AND becomes a limit of a [`IncOp::TemporalFilter`] above the others. One
//! under an OR with conditions of the row alone is split: rows that meet those, and, of the others, rows that pass the filter.

use datafusion::common::DFSchema;
use datafusion::logical_expr::logical_plan::{Filter, Join};
use datafusion::logical_expr::utils::{conjunction, disjunction, split_binary_owned, split_conjunction_owned};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, Operator};

use super::{Builder, IncOp, NodeId, Planned, SqlError, clock, positional};
use crate::plan::TimeLimit;

/// Parts of a condition that know the clock, and those that do not.
pub(super) fn parted(predicate: &Expr) -> (Vec<Expr>, Vec<Expr>) {
    split_conjunction_owned(predicate.clone()).into_iter().partition(clock::has_mark)
}

impl Builder<'_> {
    /// A filter with conditions on the clock; `None` if it has none.
    pub(super) fn temporal_filter(&mut self, filter: &Filter) -> Planned<Option<NodeId>> {
        let (timed, rest) = parted(&filter.predicate);
        if timed.is_empty() {
            return Ok(None);
        }
        let input = match conjunction(rest) {
            None => self.plan(&filter.input)?,
            Some(rest) => self.plan(&LogicalPlan::Filter(Filter::try_new(rest, filter.input.clone())?))?,
        };
        self.timed(input, timed, filter.input.schema()).map(Some)
    }

    /// A join with conditions on the clock; `None` if it has none.
    pub(super) fn temporal_condition(&mut self, join: &Join) -> Planned<Option<NodeId>> {
        let Some(filter) = join.filter.as_ref().filter(|f| clock::has_mark(f)) else { return Ok(None) };
        if join.join_type != JoinType::Inner {
            let error = SqlError::unsupported("now() cannot be used in the join condition of an outer join of a view");
            return Err(error
                .hint("Filter the side it is about first: LEFT JOIN (SELECT .. WHERE ts > now() - ..) AS b ON ..")
                .into());
        }
        let (timed, rest) = parted(filter);
        let input = self.plan(&LogicalPlan::Join(Join { filter: conjunction(rest), ..join.clone() }))?;
        self.timed(input, timed, &join.schema).map(Some)
    }

    /// The rows of `input` that meet conditions on the clock, over columns of `schema`.
    pub(super) fn timed(&mut self, input: NodeId, conditions: Vec<Expr>, schema: &DFSchema) -> Planned {
        let mut limits = Vec::new();
        let mut others = Vec::new();
        for e in conditions {
            match clock::of(&e) {
                None => others.push(e),
                Some((value, m)) => limits.push(TimeLimit {
                    value: positional(value, schema)?,
                    shift: m.shift,
                    step: m.step,
                    offset: m.offset,
                    next: m.next,
                    leaves: m.leaves,
                }),
            }
        }
        let mut id = input;
        if !limits.is_empty() {
            let columns = self.schema(input);
            for l in &limits {
                l.value.compile(&columns)?;
            }
            id = self.add(IncOp::TemporalFilter { limits }, vec![input], columns);
        }
        for e in others {
            id = self.either(id, e, schema)?;
        }
        Ok(id)
    }

    /// `plain OR (timed AND ..)`: rows that meet `plain`, and those of the others that meet the rest.
    fn either(&mut self, input: NodeId, e: Expr, schema: &DFSchema) -> Planned {
        let (mut timed, plain): (Vec<_>, Vec<_>) =
            split_binary_owned(e, Operator::Or).into_iter().partition(clock::has_mark);
        let (Some(branch), Some(plain), true) = (timed.pop(), disjunction(plain), timed.is_empty()) else {
            let error = SqlError::unsupported("now() can be used in one of the conditions joined by OR of a view only");
            return Err(error.hint("Write the query as UNION ALL of two that have no row in common.").into());
        };
        let met = self.filter(input, vec![positional(&plain, schema)?])?;
        let mut left = vec![positional(&Expr::IsNotTrue(Box::new(plain)), schema)?];
        let (timed, rest) = parted(&branch);
        for e in &rest {
            left.push(positional(e, schema)?);
        }
        let others = self.filter(input, left)?;
        let others = self.timed(others, timed, schema)?;
        let columns = self.schema(input);
        Ok(self.add(IncOp::Union, vec![met, others], columns))
    }
}
