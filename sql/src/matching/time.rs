//! What a watermark says of a pattern: when attempts at a match are decided, and how late their rows may be.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::compute;
use arrow::datatypes::{DataType, Int64Type, Schema, TimeUnit};
use datafusion::error::Result;

use super::clauses::{Pattern, RowsPerMatch};
use super::program::may_be_empty;
use super::{MatchSpec, OutputColumn, Place, Slot};

/// The unit of WITHIN for a column that is no timestamp.
const DEFAULT: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// Times as timestamps.
pub(super) fn as_timestamps(times: &ArrayRef) -> Result<ArrayRef> {
    match times.data_type() {
        DataType::Timestamp(..) => Ok(Arc::clone(times)),
        _ => Ok(compute::cast(times, &DEFAULT)?),
    }
}

/// Times as numbers: in the unit of the column if it is a timestamp, else in microseconds.
pub fn ticks(times: &ArrayRef) -> Result<Int64Array> {
    let times = compute::cast(&as_timestamps(times)?, &DataType::Int64)?;
    Ok(times.as_primitive::<Int64Type>().clone())
}

/// How much of a partition a pattern may have to wait for, once rows are in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Rows of the last so much time; it is WITHIN that says so.
    Time,
    /// So many rows.
    Rows(u64),
    /// All: a quantifier has no end.
    All,
}

impl MatchSpec {
    /// The first ORDER BY column, if rows behind a watermark of it stay where they are: later rows come after them.
    pub fn time(&self, input: &Schema) -> Option<usize> {
        let first = self.shape.order.first()?;
        let field = input.fields().get(first.column)?;
        let is_time = matches!(field.data_type(), DataType::Timestamp(..) | DataType::Date32);
        // A row without a time may come whenever.
        let last = !first.descending && (!first.nulls_first || !field.is_nullable());
        (is_time && last).then_some(first.column)
    }

    /// What a partition must keep of rows that are in order.
    pub fn open(&self) -> Open {
        if ends(&self.shape.pattern) {
            // Whether a row is the last one is never certain.
            return Open::All;
        }
        if self.shape.within.is_some() {
            return Open::Time;
        }
        let more = self.looks_back().saturating_add(self.looks_ahead());
        rows_most(&self.shape.pattern).map_or(Open::All, |rows| Open::Rows(rows.saturating_add(more)))
    }

    /// True if matches depend on rows or matches before them, so that something of each partition is kept for ever.
    pub fn remembers(&self) -> bool {
        let numbers = self.shape.slots.contains(&Slot::Number);
        numbers || self.looks_back() > 0 || self.looks_ahead() > 0 || begins(&self.shape.pattern)
    }

    /// How long before the watermark a match that is not decided may have begun, at most, in microseconds.
    pub fn delay(&self, time: &DataType) -> Option<i64> {
        let within = self.shape.within.filter(|_| self.open() == Open::Time && self.looks_ahead() == 0)?;
        const DAY: i64 = 86_400_000_000;
        // The watermark is rounded down to the unit of the column.
        let unit = match time {
            DataType::Timestamp(TimeUnit::Second, _) => 1_000_000,
            DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000,
            DataType::Timestamp(..) => 1,
            _ => DAY,
        };
        // A time zone may have a longer day.
        let zone = match time {
            DataType::Timestamp(_, Some(zone)) if zone.as_ref() != "UTC" => DAY,
            _ => 0,
        };
        let days = i64::from(within.months).checked_mul(31)?.checked_add(i64::from(within.days))?;
        let micros = days.checked_mul(DAY)?.checked_add(within.nanoseconds.checked_add(999)? / 1_000)?;
        micros.checked_add(unit - 1)?.checked_add(zone)
    }

    /// Output columns that have the time of a row of the match.
    pub fn times_of_matches(&self, time: usize) -> Vec<usize> {
        let shape = &self.shape;
        let all = shape.rows != RowsPerMatch::One;
        let without_rows = match shape.rows {
            RowsPerMatch::WithUnmatched => true,
            RowsPerMatch::OmitEmpty => false,
            RowsPerMatch::One | RowsPerMatch::ShowEmpty => may_be_empty(&shape.pattern),
        };
        let of_a_row = |place: &Place| {
            // Of some variables, rows before theirs have none yet.
            let any = place.of.is_empty() || (certain(&shape.pattern, &place.of) && (place.whole || !all));
            any && place.offset == 0 && !without_rows
        };
        let is_time = |column: &OutputColumn| match column {
            OutputColumn::Column(c) => *c == time,
            OutputColumn::Measure(m) => {
                let slot = self.measures.get(*m).and_then(|e| e.as_column()).and_then(|s| shape.slots.get(s));
                matches!(slot, Some(Slot::Value { column, place, shift: 0 }) if *column == time && of_a_row(place))
            }
        };
        (0..shape.output.len()).filter(|o| is_time(&shape.output[*o])).collect()
    }
}

/// The patterns that a pattern is made of.
fn parts(p: &Pattern) -> &[Pattern] {
    match p {
        Pattern::Concat(all) | Pattern::Either(all) | Pattern::Permute(all) => all,
        Pattern::Exclude(inner) | Pattern::Repeat { inner, .. } => std::slice::from_ref(inner),
        Pattern::Empty | Pattern::Variable(_) | Pattern::Start | Pattern::End => &[],
    }
}

fn begins(p: &Pattern) -> bool {
    *p == Pattern::Start || parts(p).iter().any(begins)
}

fn ends(p: &Pattern) -> bool {
    *p == Pattern::End || parts(p).iter().any(ends)
}

/// Whether every match has a row of one of these variables.
fn certain(p: &Pattern, of: &[u32]) -> bool {
    match p {
        Pattern::Variable(v) => of.contains(v),
        Pattern::Concat(all) | Pattern::Permute(all) => all.iter().any(|p| certain(p, of)),
        Pattern::Either(all) => all.iter().all(|p| certain(p, of)),
        Pattern::Exclude(inner) => certain(inner, of),
        Pattern::Repeat { inner, min, .. } => *min > 0 && certain(inner, of),
        Pattern::Empty | Pattern::Start | Pattern::End => false,
    }
}

/// Rows of the longest match, if there is a longest.
fn rows_most(p: &Pattern) -> Option<u64> {
    let sum = |all: &[Pattern]| all.iter().try_fold(0u64, |n, p| Some(n.saturating_add(rows_most(p)?)));
    match p {
        Pattern::Empty | Pattern::Start | Pattern::End => Some(0),
        Pattern::Variable(_) => Some(1),
        Pattern::Concat(all) | Pattern::Permute(all) => sum(all),
        Pattern::Either(all) => all.iter().map(rows_most).try_fold(0, |n, rows| Some(n.max(rows?))),
        Pattern::Exclude(inner) => rows_most(inner),
        Pattern::Repeat { inner, max, .. } => match (rows_most(inner)?, max) {
            (0, _) => Some(0),
            (rows, max) => Some(rows.saturating_mul(u64::from((*max)?))),
        },
    }
}
