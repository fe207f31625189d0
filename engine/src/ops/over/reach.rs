//! How far window functions see, and so how far a change is felt.

use arrow::array::Array as _;
use arrow::datatypes::DataType;
use arrow::row::RowConverter;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFrameBound, WindowFrameUnits};

use millstream_sql::functions::excluding::EXCLUDING;

use super::running::Running;
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::partitioned::rows::{Rows, Starts};
use crate::state::rows::DecodeRows as _;

/// A distance in one direction: the farther of its parts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Span {
    /// To the end of the partition.
    all: bool,
    /// Rows.
    rows: u64,
    /// The rest of the peers, and so many groups of peers.
    groups: Option<u64>,
    /// So far in the values of the order.
    value: Option<ScalarValue>,
}

/// A partition in which distances are measured.
pub(super) struct Measure<'a> {
    pub(super) rows: &'a Rows,
    pub(super) starts: &'a Starts,
    /// Decodes the bytes of an order.
    pub(super) orders: Option<&'a RowConverter>,
    pub(super) descending: bool,
}

impl Span {
    const NONE: Self = Self { all: false, rows: 0, groups: None, value: None };
    const ALL: Self = Self { all: true, rows: 0, groups: None, value: None };
    const PEERS: Self = Self::groups(0);

    const fn rows(n: u64) -> Self {
        Self { all: false, rows: n, groups: None, value: None }
    }
    const fn groups(n: u64) -> Self {
        Self { all: false, rows: 0, groups: Some(n), value: None }
    }
    fn farther(self, other: Self) -> Self {
        let (value, differ) = match (self.value, other.value) {
            (Some(a), Some(b)) => (Some(a.clone()), a != b),
            (a, b) => (a.or(b), false),
        };
        Self {
            all: self.all || other.all || differ,
            rows: self.rows.max(other.rows),
            groups: self.groups.max(other.groups),
            value,
        }
    }
    /// So far before a position.
    pub(super) fn back(&self, m: &Measure<'_>, from: u64) -> Result<u64> {
        if self.all || from == 0 {
            return Ok(0);
        }
        let mut start = from.saturating_sub(self.rows);
        if let Some(g) = self.groups {
            start = start.min(m.starts.groups_back(m.rows, from, g));
        }
        if let Some(distance) = &self.value {
            start = start.min(match m.moved(from, distance, false)? {
                Moved::Unknown => 0,
                Moved::Peers => m.starts.groups_back(m.rows, from, 0),
                Moved::To(order, slack) => match m.starts.first_from(m.rows, &order) {
                    0 => 0,
                    first => m.starts.groups_back(m.rows, first.min(from), slack),
                },
            });
        }
        Ok(start)
    }
    /// So far after a position, which is exclusive.
    pub(super) fn on(&self, m: &Measure<'_>, end: u64) -> Result<u64> {
        let total = m.starts.total;
        if self.all || end >= total {
            return Ok(total);
        }
        let mut stop = end.saturating_add(self.rows).min(total);
        if let Some(g) = self.groups {
            stop = stop.max(m.starts.groups_on(m.rows, end, g));
        }
        if let Some(distance) = &self.value {
            stop = stop.max(match m.moved(end.saturating_sub(1), distance, true)? {
                Moved::Unknown => total,
                Moved::Peers => m.starts.groups_on(m.rows, end, 0),
                Moved::To(order, slack) => match m.starts.end_of(m.rows, &order).max(end) {
                    past if past >= total => total,
                    past => m.starts.groups_on(m.rows, past, slack),
                },
            });
        }
        Ok(stop)
    }
}

/// Where a distance leads from a row.
enum Moved {
    /// To this order, and maybe so many groups of peers farther.
    To(Vec<u8>, u64),
    /// From NULL, to NULLs only.
    Peers,
    /// Out of the type.
    Unknown,
}

impl Measure<'_> {
    fn moved(&self, position: u64, distance: &ScalarValue, on: bool) -> Result<Moved> {
        let (Some(converter), Some(entry)) = (self.orders, self.starts.entry(self.rows, position)) else {
            return Ok(Moved::Unknown);
        };
        let column = converter.decode_rows([converter.parser().parse(entry.order())])?.swap_remove(0);
        let value = ScalarValue::try_from_array(&column, 0).e()?;
        if value.is_null() {
            return Ok(Moved::Peers);
        }
        let odd = match &value {
            ScalarValue::Float64(Some(x)) => !x.is_finite(),
            ScalarValue::Float32(Some(x)) => !x.is_finite(),
            _ => false,
        };
        let moved = if on != self.descending { value.add_checked(distance) } else { value.sub_checked(distance) };
        match moved {
            Ok(moved) if !odd && moved.data_type() == value.data_type() => {
                let bytes = converter.convert_columns(&[moved.to_array().e()?]).e()?;
                // `a - n <= b` and `a <= b + n` may differ by a rounding.
                let slack = if column.data_type().is_floating() { 2 } else { 0 };
                Ok(Moved::To(bytes.row(0).data().to_vec(), slack))
            }
            _ => Ok(Moved::Unknown),
        }
    }
}

/// What the functions of one operator have in common.
#[derive(Debug, Default, PartialEq)]
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
    /// Of the functions of a stored plan; those that are `running` need nothing but what they keep.
    pub(super) fn of(plan: &LogicalPlan, running: &Running) -> Result<Self> {
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
            reach.add(i, &f, running.does(i));
        }
        Ok(reach)
    }

    fn add(&mut self, i: usize, f: &WindowFunction, running: bool) {
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
                // What is left out of a frame is in it.
                name if name.ends_with(EXCLUDING) => framed(f),
                _ => (Span::ALL, Span::ALL, Span::ALL, Span::ALL),
            },
            WindowFunctionDefinition::AggregateUDF(_) => framed(f),
        };
        let (nb, na) = if running { (Span::NONE, Span::NONE) } else { (nb, na) };
        let widen = |span: &mut Span, by: Span| *span = std::mem::take(span).farther(by);
        widen(&mut self.felt_before, fb);
        widen(&mut self.felt_after, fa);
        widen(&mut self.needs_before, nb);
        widen(&mut self.needs_after, na);
    }
}

type Spans = (Span, Span, Span, Span);

fn shifted(f: &WindowFunction, back: bool) -> Spans {
    let offset = match f.params.args.get(1) {
        None => Some(1),
        Some(Expr::Literal(v, _)) if v.is_null() => Some(1),
        Some(Expr::Literal(v, _)) => match v.cast_to(&DataType::Int64) {
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
        true => (Span::NONE, span.clone(), span, Span::NONE),
        false => (span.clone(), Span::NONE, Span::NONE, span),
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
    (after.clone(), before.clone(), before, after)
}

fn current(units: WindowFrameUnits) -> Span {
    match units {
        WindowFrameUnits::Rows => Span::NONE,
        WindowFrameUnits::Range | WindowFrameUnits::Groups => Span::PEERS,
    }
}

fn bound(units: WindowFrameUnits, n: &ScalarValue) -> Span {
    if n.is_null() {
        return Span::ALL;
    }
    if units == WindowFrameUnits::Range {
        // Months differ in length: adding one does not undo subtracting one.
        return match n {
            ScalarValue::IntervalMonthDayNano(Some(i)) if i.months != 0 => Span::ALL,
            ScalarValue::IntervalYearMonth(_) => Span::ALL,
            _ => Span { value: Some(n.clone()), ..Span::PEERS },
        };
    }
    match (units, n.cast_to(&DataType::UInt64)) {
        (WindowFrameUnits::Rows, Ok(ScalarValue::UInt64(Some(n)))) => Span::rows(n),
        (_, Ok(ScalarValue::UInt64(Some(n)))) => Span::groups(n),
        _ => Span::ALL,
    }
}
