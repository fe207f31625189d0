//! MATCH_RECOGNIZE: row pattern matching in FROM (SQL:2016, and Flink's WITHIN).
//!
//! - [`clauses`]: what sqlparser does not read (the pattern, options) from the text.
//! - `bind`: expressions into *slots* (values of rows of a match) and plain expressions over slots.
//! - `planner`, `node`, `exec`: the surface node in DataFusion's plans, and how a SELECT runs it.
//! - `program`, `search`: the pattern as instructions, and the matcher.
//! - `prepare`, `output`: conditions and measures, column by column.
//! - `time`: what a watermark says of rows and matches.
//!
//! A SELECT and a view run the same [`Matcher`] over the same [`MatchSpec`]: rows of a partition in order, ties broken by
//! the whole row.

mod bind;
pub mod clauses;
mod exec;
mod node;
mod output;
mod planner;
mod prepare;
mod program;
mod search;
mod sort;
#[cfg(test)]
mod tests;
mod time;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use serde::{Deserialize, Serialize};

use crate::plan::{PlanExpr, SortColumn};

pub use clauses::{Pattern, RowsPerMatch, Skip};
pub use exec::MatchPlanner;
pub use node::MatchNode;
pub use output::Output;
pub use planner::MatchRelations;
pub use prepare::Matcher;
pub use search::{Boundary, Resume};
pub use time::{Open, ticks};

/// Rows of one partition, or the end of one, among the rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First row of the piece in the batch.
    pub from: usize,
    /// Row after the last one.
    pub to: usize,
    /// The first row at which a match may begin; rows before it are only looked back at.
    pub first: usize,
    /// Rows of the partition before the piece.
    pub before: u64,
    /// Matches of the partition that begin before `first`.
    pub matches: u64,
    /// Rows before this one are part of a match that begins before `first`.
    pub covered: usize,
    /// From this row on rows may still come, go or change.
    pub open: usize,
    /// If they do, their time is this or later, in the unit of [`ticks`].
    pub since: Option<i64>,
    /// Matching ends before the first attempt that depends on such rows.
    pub decided: bool,
}

impl Piece {
    /// A whole partition, to which no more rows come.
    pub fn whole(from: usize, to: usize) -> Self {
        let (before, matches, covered) = (0, 0, from);
        Self { from, to, first: from, before, matches, covered, open: usize::MAX, since: None, decided: false }
    }
}

/// Which rows of a match a reference means; no variables means all rows.
pub type Variables = Vec<u32>;

/// A row of a match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Counted are rows mapped to one of these; empty: all.
    pub of: Variables,
    /// From the first one on, instead of from the last one back.
    pub first: bool,
    /// So many further.
    pub offset: u64,
    /// FINAL: of the whole match, instead of the rows up to the current one.
    pub whole: bool,
}

/// Where the value of a slot comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Slot {
    /// A column of the row that is `shift` rows after a place (PREV is negative).
    Value {
        /// Column of the input.
        column: usize,
        /// The place.
        place: Place,
        /// Rows of the partition after it.
        shift: i64,
    },
    /// The variable a row is mapped to.
    Classifier {
        /// The place.
        place: Place,
        /// Rows of the partition after it.
        shift: i64,
    },
    /// MATCH_NUMBER().
    Number,
    /// An aggregate function over rows of the match.
    Aggregate {
        /// Position in [`MatchSpec::calls`].
        call: usize,
        /// Rows mapped to one of these; empty: all.
        of: Variables,
        /// FINAL.
        whole: bool,
    },
}

/// A column of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OutputColumn {
    /// A column of the input.
    Column(usize),
    /// A measure.
    Measure(usize),
}

/// The longest time a match may take: months, days and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Within {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// The rest.
    pub nanoseconds: i64,
}

/// A pattern and everything about it that is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Columns of the relation: they are the row. The input may have computed ones after them.
    pub width: usize,
    /// PARTITION BY.
    pub partition: Vec<usize>,
    /// ORDER BY.
    pub order: Vec<SortColumn>,
    /// Names of the variables, as the text writes them.
    pub variables: Vec<String>,
    /// PATTERN.
    pub pattern: Pattern,
    /// ONE ROW or ALL ROWS.
    pub rows: RowsPerMatch,
    /// AFTER MATCH.
    pub skip: Skip,
    /// WITHIN.
    pub within: Option<Within>,
    /// What conditions and measures read, by position.
    pub slots: Vec<Slot>,
    /// The variables that have conditions, in their order.
    pub defined: Vec<u32>,
    /// Columns of the result.
    pub output: Vec<OutputColumn>,
}

/// MATCH_RECOGNIZE over an input by position.
#[derive(Debug, Clone)]
pub struct MatchSpec {
    /// Everything that is not an expression.
    pub shape: Shape,
    /// Types of the slots.
    pub types: Vec<DataType>,
    /// Calls of aggregate functions over input columns.
    pub calls: Vec<PlanExpr>,
    /// Conditions of [`Shape::defined`] over slots.
    pub conditions: Vec<PlanExpr>,
    /// Measures over slots.
    pub measures: Vec<PlanExpr>,
}

impl MatchSpec {
    /// Slots as columns.
    pub fn slot_schema(&self) -> SchemaRef {
        slot_schema(&self.types)
    }

    /// How many rows before the current one conditions and measures look at.
    pub fn looks_back(&self) -> u64 {
        self.shape.shifts().map(|s| s.min(0).unsigned_abs()).max().unwrap_or(0)
    }

    /// How many rows after the current one they look at.
    pub fn looks_ahead(&self) -> u64 {
        self.shape.shifts().map(|s| s.max(0).unsigned_abs()).max().unwrap_or(0)
    }
}

impl Shape {
    fn shifts(&self) -> impl Iterator<Item = i64> + '_ {
        self.slots.iter().map(|s| match s {
            Slot::Value { shift, .. } | Slot::Classifier { shift, .. } => *shift,
            Slot::Number | Slot::Aggregate { .. } => 0,
        })
    }
}

fn slot_schema(types: &[DataType]) -> SchemaRef {
    let field = |(i, t): (usize, &DataType)| Field::new(format!("c{i}"), t.clone(), true);
    Arc::new(Schema::new(types.iter().enumerate().map(field).collect::<Vec<_>>()))
}

fn internal(what: impl Into<String>) -> DataFusionError {
    DataFusionError::Internal(what.into())
}

fn position(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| internal("more rows in a partition than can be matched at once"))
}
