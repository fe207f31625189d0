//! How far window functions see, and so how far a change is felt.

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFrameBound, WindowFrameUnits};

use super::rows::{Rows, Starts};
use crate::error::{Error, Result, ResultExt as _};

/// A distance in one direction: the farther of its parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// To the end of the partition.
    all: bool,
    /// Rows.
    rows: u64,
    /// The rest of the peers, and so many groups of peers.
    groups: Option<u64>,
}

impl Span {
    const NONE: Self = Self { all: false, rows: 0, groups: None };
    const ALL: Self = Self { all: true, rows: 0, groups: None };
    const PEERS: Self = Self::groups(0);

    const fn rows(n: u64) -> Self {
        Self { all: false, rows: n, groups: None }
    }
    const fn groups(n: u64) -> Self {
        Self { all: false, rows: 0, groups: Some(n) }
    }
    fn farther(self, other: Self) -> Self {
        Self { all: self.all || other.all, rows: self.rows.max(other.rows), groups: self.groups.max(other.groups) }
    }
    /// So far before a position.
    pub(super) fn back(self, rows: &Rows, starts: &Starts, from: u64) -> u64 {
        if self.all || from == 0 {
            return 0;
        }
        let by_rows = from.saturating_sub(self.rows);
        self.groups.map_or(by_rows, |g| by_rows.min(starts.groups_back(rows, from, g)))
    }
    /// So far after a position, which is exclusive.
    pub(super) fn on(self, rows: &Rows, starts: &Starts, end: u64) -> u64 {
        if self.all || end >= starts.total {
            return starts.total;
        }
        let by_rows = end.saturating_add(self.rows).min(starts.total);
        self.groups.map_or(by_rows, |g| by_rows.max(starts.groups_on(rows, end, g)))
    }
}

/// What the functions of one operator have in common.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// A change is felt by rows so far before it,
    pub(super) felt_before: Span,
    /// and so far after it.
    pub(super) felt_after: Span,
    /// A result is made from rows so far before,
    pub(super) needs_before: Span,
    /// and so far after.
    pub(super) needs_after: Span,
    /// Functions that count rows from the start of the partition: what is missing is added.
    pub(super) positions: Vec<usize>,
}

impl Reach {
    /// Of the functions of a stored plan.
    pub(super) fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut calls = Vec::new();
        plan.apply(|node| {
            if let LogicalPlan::Window(w) = node {
                calls.extend(w.window_expr.iter().cloned());
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .e()?;
        let mut reach = Self::default();
        for (i, call) in calls.into_iter().enumerate() {
            let Expr::WindowFunction(f) = call.unalias() else {
                return Err(Error::internal("the plan of a window operator has something else in it"));
            };
            reach.add(i, &f);
        }
        Ok(reach)
    }

    fn add(&mut self, i: usize, f: &WindowFunction) {
        // (felt before, felt after, needs before, needs after)
        let (fb, fa, nb, na) = match &f.fun {
            WindowFunctionDefinition::WindowUDF(w) => match w.name() {
                "row_number" => {
                    self.positions.push(i);
                    (Span::NONE, Span::ALL, Span::NONE, Span::NONE)
                }
                "rank" => {
                    self.positions.push(i);
                    (Span::PEERS, Span::ALL, Span::PEERS, Span::NONE)
                }
                "dense_rank" => (Span::PEERS, Span::ALL, Span::ALL, Span::NONE),
                "lag" => shifted(f, true),
                "lead" => shifted(f, false),
                "first_value" | "last_value" | "nth_value" => framed(f),
                _ => (Span::ALL, Span::ALL, Span::ALL, Span::ALL),
            },
            WindowFunctionDefinition::AggregateUDF(_) => framed(f),
        };
        self.felt_before = self.felt_before.farther(fb);
        self.felt_after = self.felt_after.farther(fa);
        self.needs_before = self.needs_before.farther(nb);
        self.needs_after = self.needs_after.farther(na);
    }
}

type Spans = (Span, Span, Span, Span);

fn shifted(f: &WindowFunction, back: bool) -> Spans {
    let offset = match f.params.args.get(1) {
        None => Some(1),
        Some(Expr::Literal(v, _)) if v.is_null() => Some(1),
        Some(Expr::Literal(v, _)) => match v.cast_to(&arrow::datatypes::DataType::Int64) {
            Ok(ScalarValue::Int64(n)) => n,
            _ => None,
        },
        Some(_) => None,
    };
    let Some(offset) = offset else { return (Span::ALL, Span::ALL, Span::ALL, Span::ALL) };
    // Skipping NULLs, any number of rows may lie between.
    let span = match f.params.null_treatment {
        Some(NullTreatment::IgnoreNulls) => Span::ALL,
        _ => Span::rows(offset.unsigned_abs()),
    };
    match back == (offset >= 0) {
        true => (Span::NONE, span, span, Span::NONE),
        false => (span, Span::NONE, Span::NONE, span),
    }
}

fn framed(f: &WindowFunction) -> Spans {
    let frame = &f.params.window_frame;
    // How far the frame goes before the current row by its start, and after it by its end.
    let before = match &frame.start_bound {
        WindowFrameBound::Preceding(n) => bound(frame.units, n),
        WindowFrameBound::CurrentRow => current(frame.units),
        WindowFrameBound::Following(_) => current(frame.units),
    };
    let after = match &frame.end_bound {
        WindowFrameBound::Following(n) => bound(frame.units, n),
        WindowFrameBound::CurrentRow => current(frame.units),
        WindowFrameBound::Preceding(_) => current(frame.units),
    };
    (after, before, before, after)
}

fn current(units: WindowFrameUnits) -> Span {
    match units {
        WindowFrameUnits::Rows => Span::NONE,
        WindowFrameUnits::Range | WindowFrameUnits::Groups => Span::PEERS,
    }
}

fn bound(units: WindowFrameUnits, n: &ScalarValue) -> Span {
    let count = match n.cast_to(&arrow::datatypes::DataType::UInt64) {
        Ok(ScalarValue::UInt64(n)) if !matches!(units, WindowFrameUnits::Range) => n,
        // A distance in values may be any number of rows.
        _ => None,
    };
    match (units, count) {
        (_, None) => Span::ALL,
        (WindowFrameUnits::Rows, Some(n)) => Span::rows(n),
        (_, Some(n)) => Span::groups(n),
    }
}
