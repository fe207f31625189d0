//! Rows of the result: columns of the input taken by row numbers, measures evaluated for all of them at once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;

use super::clauses::RowsPerMatch;
use super::prepare::{Prepared, shifted};
use super::search::{Boundary, Found, OutRow, Resume, in_set};
use super::{OutputColumn, Place, Slot, Variables, internal};

/// What the pieces of a batch gave.
#[derive(Debug)]
pub struct Output {
    /// Rows of the result, in the order of pieces and in them of the rows that their matches begin at.
    pub rows: RecordBatch,
    /// The piece of each row of the result.
    pub pieces: Vec<u32>,
    /// The row of the partition at which the match of each row of the result begins (or that is the row, if unmatched).
    pub starts: Vec<u64>,
    /// For each piece, where matching can begin again.
    pub boundaries: Vec<Vec<Boundary>>,
    /// For each piece, what is decided of it.
    pub resumes: Vec<Resume>,
}

/// Steps of each match that are mapped to one of a set of variables.
struct Steps {
    of: Variables,
    /// Where those of each match begin in `at`, and the end.
    begins: Vec<u32>,
    at: Vec<u32>,
}

impl Steps {
    fn new(of: &Variables, found: &Found) -> Self {
        let mut begins = Vec::with_capacity(found.matches.len() + 1);
        let mut at = Vec::new();
        for m in &found.matches {
            begins.push(at.len() as u32);
            let steps = found.steps[m.from as usize..m.to as usize].iter().zip(0u32..);
            at.extend(steps.filter(|(s, _)| in_set(of, s.variable)).map(|(_, i)| i));
        }
        begins.push(at.len() as u32);
        Self { of: of.clone(), begins, at }
    }

    /// Those of a match among its first `upto` steps.
    fn of_match(&self, number: u32, upto: u32) -> &[u32] {
        let (from, to) = (self.begins[number as usize] as usize, self.begins[number as usize + 1] as usize);
        let all = &self.at[from..to];
        &all[..all.partition_point(|i| *i < upto)]
    }
}

impl Prepared<'_> {
    pub(super) fn output(&self, found: &Found, boundaries: Vec<Vec<Boundary>>, resumes: Vec<Resume>) -> Result<Output> {
        let shape = &self.matcher.spec.shape;
        let mut sets: Vec<Steps> = Vec::new();
        for slot in self.matcher.measures.iter().flat_map(|m| &m.slots) {
            let of = match &shape.slots[*slot] {
                Slot::Value { place, .. } | Slot::Classifier { place, .. } => &place.of,
                Slot::Aggregate { of, .. } => of,
                Slot::Number => continue,
            };
            if !sets.iter().any(|s| s.of == *of) {
                sets.push(Steps::new(of, found));
            }
        }
        let n = found.rows.len();
        let mut slots: Vec<Option<ArrayRef>> = vec![None; shape.slots.len()];
        let mut measures = Vec::with_capacity(self.matcher.measures.len());
        let unmatched = found.rows.iter().any(|r| r.matched.is_none());
        let unmatched: Option<BooleanArray> =
            unmatched.then(|| found.rows.iter().map(|r| Some(r.matched.is_none())).collect());
        for measure in &self.matcher.measures {
            let mut columns = Vec::with_capacity(measure.slots.len());
            for slot in &measure.slots {
                let column = match &slots[*slot] {
                    Some(column) => Arc::clone(column),
                    None => {
                        let column = self.typed(*slot, self.slot(*slot, found, &sets)?)?;
                        slots[*slot] = Some(Arc::clone(&column));
                        column
                    }
                };
                columns.push(column);
            }
            let mut values = measure.evaluate(columns, n)?;
            if let Some(unmatched) = &unmatched {
                values = compute::nullif(&values, unmatched)?;
            }
            measures.push(values);
        }
        let at: UInt32Array = found.rows.iter().map(|r| r.row).collect();
        let mut columns = Vec::with_capacity(shape.output.len());
        for (column, field) in shape.output.iter().zip(self.matcher.output.fields()) {
            let values = match column {
                OutputColumn::Column(c) => compute::take(self.rows.column(*c), &at, None)?,
                OutputColumn::Measure(m) => {
                    Arc::clone(measures.get(*m).ok_or_else(|| internal("a measure that is not there"))?)
                }
            };
            columns.push(match values.data_type() == field.data_type() {
                true => values,
                false => {
                    let options = compute::CastOptions { safe: false, ..Default::default() };
                    compute::cast_with_options(&values, field.data_type(), &options)?
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.matcher.output), columns, &options)?;
        let start = |r: &OutRow| {
            let piece = &self.pieces[r.piece as usize];
            piece.before + (r.attempt as usize - piece.from) as u64
        };
        Ok(Output {
            rows,
            pieces: found.rows.iter().map(|r| r.piece).collect(),
            starts: found.rows.iter().map(start).collect(),
            boundaries,
            resumes,
        })
    }

    /// The step of a row's match that a place is.
    fn step(&self, place: &Place, row: &OutRow, found: &Found, sets: &[Steps]) -> Option<u32> {
        let number = row.matched?;
        let steps = sets.iter().find(|s| s.of == place.of)?;
        let all = steps.of_match(number, self.upto(place.whole, row, found));
        let offset = usize::try_from(place.offset).ok()?;
        let at = if place.first { offset } else { all.len().checked_sub(offset + 1)? };
        all.get(at).copied()
    }

    /// How many rows of the match count.
    fn upto(&self, whole: bool, row: &OutRow, found: &Found) -> u32 {
        let one = self.matcher.spec.shape.rows == RowsPerMatch::One;
        match row.matched.map(|m| &found.matches[m as usize]) {
            Some(m) if whole || one => m.to - m.from,
            _ => row.upto,
        }
    }

    fn slot(&self, slot: usize, found: &Found, sets: &[Steps]) -> Result<ArrayRef> {
        match &self.matcher.spec.shape.slots[slot] {
            Slot::Value { column, place, shift } => {
                let row = |r: &OutRow| {
                    let m = &found.matches[r.matched? as usize];
                    let step = self.step(place, r, found, sets)?;
                    shifted((m.first + step) as usize, *shift, &self.pieces[r.piece as usize])
                };
                let at: UInt32Array = found.rows.iter().map(row).collect();
                Ok(compute::take(self.rows.column(*column), &at, None)?)
            }
            Slot::Classifier { place, shift } => {
                let variable = |r: &OutRow| {
                    let m = &found.matches[r.matched? as usize];
                    let step = i64::from(self.step(place, r, found, sets)?).checked_add(*shift)?;
                    let upto = i64::from(self.upto(place.whole, r, found));
                    (0..upto).contains(&step).then(|| found.steps[m.from as usize + step as usize].variable)
                };
                let at: UInt32Array = found.rows.iter().map(variable).collect();
                Ok(compute::take(&self.matcher.names, &at, None)?)
            }
            Slot::Number => {
                let number = |r: &OutRow| r.matched.map(|m| found.matches[m as usize].number);
                Ok(Arc::new(found.rows.iter().map(number).collect::<Int64Array>()))
            }
            Slot::Aggregate { call, of, whole } => self.aggregate(slot, *call, of, *whole, found, sets),
        }
    }

    fn aggregate(
        &self,
        slot: usize,
        call: usize,
        of: &Variables,
        whole: bool,
        found: &Found,
        sets: &[Steps],
    ) -> Result<ArrayRef> {
        let steps = sets.iter().find(|s| s.of == *of).ok_or_else(|| internal("an aggregate of no rows"))?;
        let data_type = &self.matcher.spec.types[slot];
        let mut values: Vec<ScalarValue> = Vec::with_capacity(found.rows.len());
        // The match, its accumulator, the steps that it has seen and their value.
        type Running = (u32, Box<dyn Accumulator>, usize, Option<ScalarValue>);
        let mut last: Option<Running> = None;
        for row in &found.rows {
            let Some(number) = row.matched else {
                values.push(ScalarValue::try_from(data_type)?);
                continue;
            };
            let (accumulator, fed, value) = match &mut last {
                Some((n, accumulator, fed, value)) if *n == number => (accumulator, fed, value),
                _ => {
                    let new = (number, self.matcher.calls[call].accumulator()?, 0usize, None);
                    let (_, accumulator, fed, value) = last.insert(new);
                    (accumulator, fed, value)
                }
            };
            let all = steps.of_match(number, self.upto(whole, row, found));
            if *fed < all.len() {
                let first = found.matches[number as usize].first;
                let at: UInt32Array = all[*fed..].iter().map(|s| first + s).collect();
                let args = self.args[call].iter().map(|a| Ok(compute::take(a, &at, None)?));
                accumulator.update_batch(&args.collect::<Result<Vec<_>>>()?)?;
                *fed = all.len();
                *value = None;
            }
            let value = match value {
                Some(known) => known.clone(),
                None => value.insert(accumulator.evaluate()?).clone(),
            };
            values.push(value);
        }
        match values.is_empty() {
            true => Ok(arrow::array::new_empty_array(data_type)),
            false => ScalarValue::iter_to_array(values),
        }
    }
}
