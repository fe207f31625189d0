//! Functions over all rows up to the current one: sums, counts, averages, extremes, `dense_rank`.
//!
//! Their accumulators are fed row by row (or group of peers by group), each row once. The state before some rows of a
//! partition is kept ([`Snapshot`]), few and close together near its end, so that a change there reads the rows from the
//! last snapshot before it and not the whole prefix. Snapshots hold as long as no row before them changes; they are not
//! stored: after a restart the first change of a partition reads its prefix once.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray};
use arrow::compute;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::logical_plan::{Projection, Window};
use datafusion::logical_expr::{Accumulator, Expr, LogicalPlan, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use millstream_sql::functions::Stat;

use crate::error::{Error, Result, ResultExt as _};

/// Rows between the snapshots nearest to the end.
const STEP: u64 = 64;
/// How many times its distance from others a snapshot may be away from the end.
const REACH: u64 = 4;

/// Aggregates whose partial state loses nothing and can be taken at any time.
const MERGEABLE: &[&str] = &["count", "sum", "avg", "min", "max", "any_value", "bool_and", "bool_or", "count_if"];

/// The state of all functions before a row.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// Copies of rows that are in it.
    pub(super) position: u64,
    states: Vec<Vec<ScalarValue>>,
    /// Groups of peers that are in it, and the order of the last.
    groups: i64,
    last: Box<[u8]>,
}

/// One function.
struct Call {
    /// Its column among the results.
    at: usize,
    what: What,
    output: DataType,
}

enum What {
    Aggregate {
        function: Box<AggregateFunctionExpr>,
        /// Columns and literals.
        args: Vec<Arc<dyn PhysicalExpr>>,
        filter: Option<usize>,
        /// Row by row; otherwise peers together.
        rows: bool,
    },
    DenseRank,
}

/// See the module.
pub(super) struct Running {
    calls: Vec<Call>,
}

/// Rows of a partition in a batch of several: the first is at `position` of its partition. Results are wanted from
/// `from` on.
pub(super) struct Piece<'a> {
    pub(super) range: Range<usize>,
    pub(super) position: u64,
    pub(super) from: u64,
    pub(super) before: Option<&'a Snapshot>,
}

impl Running {
    /// The functions of a stored plan that this module does, and the plan without them: NULL in their place. `None` for
    /// the plan if nothing is left of it.
    pub(super) fn split(
        plan: &LogicalPlan,
        input: &SchemaRef,
        results: &[DataType],
    ) -> Result<(Self, Option<LogicalPlan>)> {
        let mut calls: Vec<Call> = Vec::new();
        let mut left = false;
        let reduced = plan.clone().transform_up(|node| match node {
            LogicalPlan::Window(w) => {
                let mut kept = Vec::new();
                for e in w.window_expr.iter().cloned() {
                    match call(&e, input, results)? {
                        Some(call) => calls.push(call),
                        None => kept.push(e),
                    }
                }
                left |= !kept.is_empty();
                Ok(Transformed::yes(match kept.is_empty() {
                    true => Arc::unwrap_or_clone(w.input),
                    false => LogicalPlan::Window(Window::try_new(kept, w.input)?),
                }))
            }
            LogicalPlan::Projection(p) if !calls.is_empty() => {
                let expr = p.expr.into_iter().map(|e| match result_number(&e) {
                    Some(n) if calls.iter().any(|c| c.at == n) => {
                        let none = ScalarValue::try_from(&results[n])?;
                        Ok(Expr::Literal(none, None).alias(format!("w{n}")))
                    }
                    _ => Ok(e),
                });
                let expr = expr.collect::<DfResult<Vec<_>>>()?;
                Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(expr, p.input)?)))
            }
            other => Ok(Transformed::no(other)),
        });
        let reduced = reduced.e()?.data;
        Ok((Self { calls }, left.then_some(reduced)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// True if this module does the function with this result.
    pub(super) fn does(&self, result: usize) -> bool {
        self.calls.iter().any(|c| c.at == result)
    }

    /// Results of the rows of pieces that are one behind the other in `columns`; NULL for rows before `from`. `orders` are
    /// the bytes of the order of each row. Snapshots on the way go to `taken`, with the number of the piece.
    pub(super) fn run(
        &self,
        columns: &[ArrayRef],
        orders: &[&[u8]],
        pieces: &[Piece<'_>],
        taken: &mut Vec<(usize, Snapshot)>,
    ) -> Result<Vec<(usize, ArrayRef)>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let mut out: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(orders.len()); self.calls.len()];
        for (number, piece) in pieces.iter().enumerate() {
            let mut run = Run::new(self, columns, orders, piece)?;
            run.all(|snapshot| taken.push((number, snapshot)))?;
            for (all, own) in out.iter_mut().zip(run.results) {
                all.extend(own);
            }
        }
        let column = |(call, values): (&Call, Vec<ScalarValue>)| -> Result<(usize, ArrayRef)> {
            let array = match values.is_empty() {
                true => arrow::array::new_empty_array(&call.output),
                false => ScalarValue::iter_to_array(values).e()?,
            };
            let array = match *array.data_type() == call.output {
                true => array,
                false => compute::cast(&array, &call.output).e()?,
            };
            Ok((call.at, array))
        };
        self.calls.iter().zip(out).map(column).collect()
    }
}

/// The number in the name `w<n>` of a result.
fn result_number(e: &Expr) -> Option<usize> {
    let name = match e {
        Expr::Column(c) => c.name.as_str(),
        Expr::Alias(a) => a.name.as_str(),
        _ => return None,
    };
    name.strip_prefix('w').and_then(|n| n.parse().ok())
}

fn call(e: &Expr, input: &SchemaRef, results: &[DataType]) -> DfResult<Option<Call>> {
    let Some(at) = result_number(e).filter(|n| *n < results.len()) else { return Ok(None) };
    let Expr::WindowFunction(f) = e.clone().unalias() else { return Ok(None) };
    let Some(what) = what(&f, input)? else { return Ok(None) };
    Ok(Some(Call { at, what, output: results[at].clone() }))
}

fn what(f: &WindowFunction, input: &SchemaRef) -> DfResult<Option<What>> {
    let p = &f.params;
    let function = match &f.fun {
        WindowFunctionDefinition::WindowUDF(w) => {
            return Ok((w.name() == "dense_rank").then_some(What::DenseRank));
        }
        WindowFunctionDefinition::AggregateUDF(f) => f,
    };
    let frame = &p.window_frame;
    let from_start = matches!(&frame.start_bound, WindowFrameBound::Preceding(n) if n.is_null());
    let mergeable = MERGEABLE.contains(&function.name()) || Stat::named(function.name()).is_some();
    if !from_start || frame.end_bound != WindowFrameBound::CurrentRow || !mergeable || p.distinct {
        return Ok(None);
    }
    let column = |e: &Expr| match e {
        Expr::Column(c) => c.name.strip_prefix('c').and_then(|n| n.parse::<usize>().ok()),
        _ => None,
    };
    let inside = |i: &usize| *i < input.fields().len();
    let mut args: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(p.args.len());
    for e in &p.args {
        args.push(match (column(e).filter(inside), e) {
            (Some(i), _) => Arc::new(Column::new(&format!("c{i}"), i)),
            (None, Expr::Literal(value, _)) => Arc::new(Literal::new(value.clone())),
            _ => return Ok(None),
        });
    }
    let filter = match p.filter.as_deref() {
        None => None,
        Some(e) => match column(e).filter(inside) {
            Some(i) => Some(i),
            None => return Ok(None),
        },
    };
    let named = input.fields().iter().enumerate().map(|(i, f)| f.as_ref().clone().with_name(format!("c{i}")));
    let schema = Arc::new(arrow::datatypes::Schema::new(named.collect::<Vec<_>>()));
    let function =
        AggregateExprBuilder::new(Arc::clone(function), args.clone()).schema(schema).alias("running").build()?;
    let rows = frame.units == WindowFrameUnits::Rows;
    Ok(Some(What::Aggregate { function: Box::new(function), args, filter, rows }))
}

/// One piece on its way.
struct Run<'a> {
    calls: &'a [Call],
    columns: &'a [ArrayRef],
    orders: &'a [&'a [u8]],
    piece: &'a Piece<'a>,
    accumulators: Vec<Option<Box<dyn Accumulator>>>,
    groups: i64,
    last: Option<Box<[u8]>>,
    results: Vec<Vec<ScalarValue>>,
}

impl<'a> Run<'a> {
    fn new(
        running: &'a Running,
        columns: &'a [ArrayRef],
        orders: &'a [&'a [u8]],
        piece: &'a Piece<'a>,
    ) -> Result<Self> {
        let mut accumulators = Vec::with_capacity(running.calls.len());
        for (i, call) in running.calls.iter().enumerate() {
            let What::Aggregate { function, .. } = &call.what else {
                accumulators.push(None);
                continue;
            };
            let mut new = function.create_accumulator().e()?;
            if let Some(state) = piece.before.and_then(|s| s.states.get(i)) {
                let arrays = state.iter().map(|v| v.to_array()).collect::<DfResult<Vec<_>>>().e()?;
                new.merge_batch(&arrays).e()?;
            }
            accumulators.push(Some(new));
        }
        let results = running.calls.iter().map(|_| Vec::with_capacity(piece.range.len())).collect();
        let groups = piece.before.map_or(0, |s| s.groups);
        let last = piece.before.map(|s| s.last.clone());
        Ok(Self { calls: &running.calls, columns, orders, piece, accumulators, groups, last, results })
    }

    /// The row of the batch at a position of the partition.
    fn row(&self, position: u64) -> usize {
        self.piece.range.start + (position - self.piece.position) as usize
    }

    fn all(&mut self, mut take: impl FnMut(Snapshot)) -> Result<()> {
        let piece = self.piece;
        let start = piece.before.map_or(0, |s| s.position);
        let end = piece.position + piece.range.len() as u64;
        if start < piece.position || start > piece.from || piece.from > end {
            return Err(Error::internal("a running function begins behind its rows"));
        }
        for (call, results) in self.calls.iter().zip(&mut self.results) {
            let none = ScalarValue::try_from(&call.output).e()?;
            results.resize((piece.from - piece.position) as usize, none);
        }
        let marks = wanted(end);
        let mut at = start;
        while at < end {
            let wanted = at >= piece.from;
            // Results may begin within a group, if no function needs its peers.
            let group_end = self.group_end(at, if wanted { end } else { piece.from });
            // Snapshots within a group of peers as well: a group may be the whole partition.
            let mut cut = at;
            while cut < group_end {
                let next = marks.range(cut + 1..).next().map_or(group_end, |m| group_end.min(*m));
                self.add(cut, next, wanted)?;
                cut = next;
                if marks.contains(&cut) {
                    take(self.snapshot(cut)?);
                }
            }
            if wanted {
                self.peers(at, group_end)?;
            }
            at = group_end;
        }
        Ok(())
    }

    /// The end of the peers of a position, `end` at most.
    fn group_end(&mut self, at: u64, end: u64) -> u64 {
        let first = self.row(at);
        let order = self.orders[first];
        if self.last.as_deref() != Some(order) {
            self.groups += 1;
            self.last = Some(order.into());
        }
        let same = self.orders[first..self.row(end)].iter().take_while(|o| **o == order).count() as u64;
        at + same
    }

    /// Feeds rows `from..to`; row by row where results are wanted.
    fn add(&mut self, from: u64, to: u64, wanted: bool) -> Result<()> {
        let (first, n) = (self.row(from), (to - from) as usize);
        for ((call, accumulator), results) in self.calls.iter().zip(&mut self.accumulators).zip(&mut self.results) {
            let (What::Aggregate { args, filter, rows, .. }, Some(accumulator)) = (&call.what, accumulator) else {
                continue;
            };
            match *rows && wanted {
                true => {
                    for i in first..first + n {
                        feed(accumulator.as_mut(), args, *filter, self.columns, i, 1)?;
                        results.push(accumulator.evaluate().e()?);
                    }
                }
                false => feed(accumulator.as_mut(), args, *filter, self.columns, first, n)?,
            }
        }
        Ok(())
    }

    /// Results of the peers at `from..to`, which have all been fed.
    fn peers(&mut self, from: u64, to: u64) -> Result<()> {
        let n = (to - from) as usize;
        for ((call, accumulator), results) in self.calls.iter().zip(&mut self.accumulators).zip(&mut self.results) {
            let value = match (&call.what, accumulator) {
                (What::Aggregate { rows: false, .. }, Some(accumulator)) => accumulator.evaluate().e()?,
                (What::DenseRank, _) => ScalarValue::Int64(Some(self.groups)),
                _ => continue,
            };
            results.extend(std::iter::repeat_n(value, n));
        }
        Ok(())
    }

    fn snapshot(&mut self, position: u64) -> Result<Snapshot> {
        let mut states = Vec::with_capacity(self.accumulators.len());
        for a in &mut self.accumulators {
            states.push(match a {
                Some(a) => a.state().e()?,
                None => Vec::new(),
            });
        }
        Ok(Snapshot { position, states, groups: self.groups, last: self.last.clone().unwrap_or_default() })
    }
}

/// Gives an accumulator rows `first..first + n` for which its filter is true.
fn feed(
    accumulator: &mut dyn Accumulator,
    args: &[Arc<dyn PhysicalExpr>],
    filter: Option<usize>,
    columns: &[ArrayRef],
    first: usize,
    n: usize,
) -> Result<()> {
    let mask = filter.map(|f| columns[f].slice(first, n));
    let mut values = Vec::with_capacity(args.len());
    for arg in args {
        let column = match (arg.downcast_ref::<Column>(), arg.downcast_ref::<Literal>()) {
            (Some(c), _) => columns[c.index()].slice(first, n),
            (None, Some(l)) => l.value().to_array_of_size(n).e()?,
            _ => return Err(Error::internal("an argument of a running function is no column")),
        };
        values.push(match &mask {
            Some(mask) => compute::filter(&column, mask.as_boolean()).e()?,
            None => column,
        });
    }
    accumulator.update_batch(&values).e()
}

/// A snapshot at a position that is a multiple of a large power of two stays for long, others only near the end: of each
/// power there are [`REACH`] at most.
fn stays(position: u64, total: u64) -> bool {
    let unit = STEP.checked_shl((position / STEP).trailing_zeros()).unwrap_or(u64::MAX);
    total.saturating_sub(position) <= unit.saturating_mul(REACH)
}

/// Where snapshots of a partition with so many rows belong.
fn wanted(total: u64) -> BTreeSet<u64> {
    let mut out = BTreeSet::new();
    let mut unit = STEP;
    while unit <= total {
        let last = total / unit * unit;
        let all = (0..=REACH).map_while(|n| last.checked_sub(n * unit));
        out.extend(all.filter(|p| *p > 0 && stays(*p, total)));
        unit *= 2;
    }
    out
}

/// Adds new snapshots, and lets go of those that are too many now.
pub(super) fn keep(snapshots: &mut Vec<Snapshot>, new: impl Iterator<Item = Snapshot>, total: u64) {
    snapshots.extend(new);
    snapshots.sort_by_key(|s| s.position);
    snapshots.dedup_by_key(|s| s.position);
    snapshots.retain(|s| stays(s.position, total));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(total: u64) -> Vec<u64> {
        wanted(total).into_iter().collect()
    }

    #[test]
    fn snapshots_are_few_and_close_together_at_the_end() {
        assert!(positions(10).is_empty());
        assert_eq!(positions(64), [64]);
        assert_eq!(positions(1000), [256, 512, 640, 768, 832, 896, 960]);
        assert!(positions(1 << 30).len() < 100);
    }

    #[test]
    fn snapshots_that_stay_are_those_that_are_wanted() {
        let at = |position| Snapshot { position, states: Vec::new(), groups: 0, last: Box::default() };
        let mut kept = Vec::new();
        for total in (STEP..200 * STEP).step_by(10) {
            keep(&mut kept, std::iter::once(at(total / STEP * STEP)), total);
            let now: Vec<u64> = kept.iter().map(|s: &Snapshot| s.position).collect();
            assert_eq!(now, positions(total), "{total}");
        }
    }
}
