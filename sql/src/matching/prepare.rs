//! Conditions over the rows of a batch.
//!
//! A condition is cut at its ANDs. A part that reads the current row and rows at fixed distances from it is *fixed*: it is
//! evaluated for all rows of the batch at once. The others (of other variables, FIRST, aggregates) are evaluated for single
//! rows, where the fixed parts hold.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{self, kernels};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNanoType, Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::expr::NullTreatment;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Accumulator, Expr};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};

use super::output::Output;
use super::program::Program;
use super::search::{Conditions, Found, Path, Search};
use super::{MatchSpec, Piece, Place, Slot, Variables, internal};
use crate::error::SqlError;
use crate::plan::PlanExpr;
use crate::plan::expr::positional_schema;

/// A pattern made ready to run.
pub struct Matcher {
    pub(super) spec: MatchSpec,
    program: Program,
    /// Instructions after which failures can be remembered.
    memorable: Vec<bool>,
    /// By variable.
    conditions: Vec<Condition>,
    /// Variables whose rows moving conditions ask for.
    sets: Vec<Variables>,
    pub(super) calls: Vec<Call>,
    pub(super) measures: Vec<Part>,
    pub(super) output: SchemaRef,
    /// The names of variables.
    pub(super) names: ArrayRef,
}

#[derive(Default)]
struct Condition {
    fixed: Vec<Part>,
    moving: Vec<Part>,
}

/// An expression over some of the slots.
pub(super) struct Part {
    expr: Arc<dyn PhysicalExpr>,
    /// What its columns are.
    pub(super) slots: Vec<usize>,
    schema: SchemaRef,
}

/// A call of an aggregate function.
pub(super) struct Call {
    function: AggregateFunctionExpr,
    args: Vec<Arc<dyn PhysicalExpr>>,
}

impl Call {
    fn new(e: &PlanExpr, input: &Schema) -> Result<Self> {
        let Expr::AggregateFunction(f) = &e.expr else { return Err(internal("an aggregate that is none")) };
        let compile = |e: &Expr| PlanExpr { expr: e.clone() }.compile(input);
        let args = f.params.args.iter().map(compile).collect::<Result<Vec<_>>>()?;
        let function = AggregateExprBuilder::new(Arc::clone(&f.func), args.clone())
            .schema(positional_schema(input))
            .alias("a")
            .with_distinct(f.params.distinct)
            .with_ignore_nulls(f.params.null_treatment == Some(NullTreatment::IgnoreNulls))
            .build()?;
        Ok(Self { function, args })
    }

    pub(super) fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        self.function.create_accumulator()
    }
}

impl Part {
    fn new(e: &Expr, types: &[DataType]) -> Result<Self> {
        let mut slots = Vec::new();
        let renamed = e.clone().transform_up(|e| {
            let slot = PlanExpr { expr: e };
            match (&slot.expr, slot.as_column()) {
                (Expr::Column(_), Some(i)) => {
                    let at = slots.iter().position(|s| *s == i).unwrap_or_else(|| {
                        slots.push(i);
                        slots.len() - 1
                    });
                    Ok(Transformed::yes(Expr::Column(Column::new_unqualified(format!("c{at}")))))
                }
                _ => Ok(Transformed::no(slot.expr)),
            }
        })?;
        let field = |(i, s): (usize, &usize)| {
            let data_type = types.get(*s).ok_or_else(|| internal("a slot without a type"))?;
            Ok(Field::new(format!("c{i}"), data_type.clone(), true))
        };
        let schema = Schema::new(slots.iter().enumerate().map(field).collect::<Result<Vec<_>>>()?);
        let expr = PlanExpr { expr: renamed.data }.compile(&schema)?;
        Ok(Self { expr, slots, schema: Arc::new(schema) })
    }

    /// Its value for each of `rows` rows of its slots.
    pub(super) fn evaluate(&self, slots: Vec<ArrayRef>, rows: usize) -> Result<ArrayRef> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), slots, &options)?;
        self.expr.evaluate(&batch)?.into_array(rows)
    }
}

/// Where the place is the current row.
fn current(place: &Place, variable: u32) -> bool {
    !place.first && place.offset == 0 && (place.of.is_empty() || place.of.contains(&variable))
}

impl Matcher {
    /// The matcher over input of these columns; the result has the columns of `output`.
    pub fn new(spec: MatchSpec, input: &Schema, output: SchemaRef) -> Result<Self> {
        let program = Program::new(&spec.shape.pattern).map_err(|e: SqlError| super::planner::user(e))?;
        let mut conditions: Vec<Condition> = spec.shape.variables.iter().map(|_| Condition::default()).collect();
        let mut sets: Vec<Variables> = Vec::new();
        for (variable, condition) in spec.shape.defined.iter().zip(&spec.conditions) {
            let place = conditions.get_mut(*variable as usize).ok_or_else(|| internal("a condition of no variable"))?;
            for e in split_conjunction(&condition.expr) {
                let part = Part::new(e, &spec.types)?;
                let slots = part
                    .slots
                    .iter()
                    .map(|s| spec.shape.slots.get(*s).ok_or_else(|| internal("a slot that is not there")));
                let slots = slots.collect::<Result<Vec<_>>>()?;
                let fixed = slots.iter().all(|s| match s {
                    Slot::Value { place, .. } | Slot::Classifier { place, shift: 0 } => current(place, *variable),
                    Slot::Classifier { .. } | Slot::Number | Slot::Aggregate { .. } => false,
                });
                for slot in slots.iter().filter(|_| !fixed) {
                    let of = match slot {
                        Slot::Value { place, .. } | Slot::Classifier { place, .. } if place.of.is_empty() => continue,
                        Slot::Value { place: Place { of, .. }, .. }
                        | Slot::Classifier { place: Place { of, .. }, .. }
                        | Slot::Aggregate { of, .. } => of,
                        Slot::Number => continue,
                    };
                    if !sets.contains(of) {
                        sets.push(of.clone());
                    }
                }
                if fixed { place.fixed.push(part) } else { place.moving.push(part) }
            }
        }
        let memorable = program.memorable(|v| conditions.get(v as usize).is_none_or(|c| c.moving.is_empty()));
        let calls = spec.calls.iter().map(|c| Call::new(c, input)).collect::<Result<_>>()?;
        let measures = spec.measures.iter().map(|m| Part::new(&m.expr, &spec.types)).collect::<Result<_>>()?;
        let names: ArrayRef = Arc::new(StringArray::from(spec.shape.variables.clone()));
        Ok(Self { spec, program, memorable, conditions, sets, calls, measures, output, names })
    }

    /// What it matches.
    pub fn spec(&self) -> &MatchSpec {
        &self.spec
    }

    /// Matches the pieces of a batch, each by itself. Rows of a piece are in order.
    pub fn run(&self, rows: &RecordBatch, pieces: &[Piece]) -> Result<Output> {
        let prepared = Prepared::new(self, rows, pieces)?;
        let mut found = Found::default();
        let mut boundaries = Vec::with_capacity(pieces.len());
        let mut resumes = Vec::with_capacity(pieces.len());
        let ahead = usize::try_from(self.spec.looks_ahead()).unwrap_or(usize::MAX / 4).min(usize::MAX / 4);
        for (number, piece) in pieces.iter().enumerate() {
            let mut search =
                Search::new(&self.program, &self.memorable, &self.spec.shape, *piece, ahead, self.sets.clone());
            let mut conditions = PieceConditions::new(&prepared, number)?;
            let (places, resume) = search.run(&self.spec.shape, number, &mut conditions, &mut found)?;
            boundaries.push(places);
            resumes.push(resume);
        }
        prepared.output(&found, boundaries, resumes)
    }
}

/// A batch with what could be computed of it at once.
pub(super) struct Prepared<'m> {
    pub(super) matcher: &'m Matcher,
    pub(super) rows: &'m RecordBatch,
    pub(super) pieces: &'m [Piece],
    /// For each piece the first row that conditions are evaluated for, and how many such rows are in pieces before it.
    begins: Vec<usize>,
    offsets: Vec<usize>,
    /// By variable: where its fixed parts hold.
    fixed: Vec<Option<BooleanBuffer>>,
    /// Arguments of calls.
    pub(super) args: Vec<Vec<ArrayRef>>,
    /// WITHIN: the time of each row, and the last time of a match that begins there.
    times: Option<(Int64Array, Int64Array)>,
}

impl<'m> Prepared<'m> {
    fn new(matcher: &'m Matcher, rows: &'m RecordBatch, pieces: &'m [Piece]) -> Result<Self> {
        super::position(rows.num_rows())?;
        let (mut begins, mut offsets) = (Vec::with_capacity(pieces.len()), Vec::with_capacity(pieces.len()));
        let mut total = 0;
        // Also for rows that look at those that may have changed: a condition that fails of them fails in any case.
        let ahead = usize::try_from(matcher.spec.looks_ahead()).unwrap_or(usize::MAX);
        for p in pieces {
            let begin = p.first.saturating_sub(ahead).max(p.from);
            begins.push(begin);
            offsets.push(total);
            total += p.to - begin;
        }
        // Compiled expressions find columns by position.
        let args = |c: &Call| -> Result<Vec<ArrayRef>> {
            c.args.iter().map(|a| a.evaluate(rows)?.into_array(rows.num_rows())).collect()
        };
        let args = matcher.calls.iter().map(args).collect::<Result<_>>()?;
        let mut prepared = Self { matcher, rows, pieces, begins, offsets, fixed: Vec::new(), args, times: None };
        prepared.times = prepared.times()?;
        prepared.fixed = (0..matcher.conditions.len()).map(|v| prepared.holds(v, total)).collect::<Result<_>>()?;
        Ok(prepared)
    }

    /// Where the fixed parts of a variable's condition hold.
    fn holds(&self, variable: usize, total: usize) -> Result<Option<BooleanBuffer>> {
        let mut all: Option<BooleanBuffer> = None;
        for part in &self.matcher.conditions[variable].fixed {
            let slots = part.slots.iter().map(|s| self.of_current(*s, variable, total)).collect::<Result<_>>()?;
            let value = part.evaluate(slots, total)?;
            let value = if value.data_type() == &DataType::Boolean {
                value
            } else {
                compute::cast(&value, &DataType::Boolean)?
            };
            let value = value.as_boolean();
            let held = match value.nulls() {
                None => value.values().clone(),
                Some(nulls) => value.values() & nulls.inner(),
            };
            all = Some(match all {
                None => held,
                Some(other) => &other & &held,
            });
        }
        Ok(all)
    }

    /// The values of a slot for every row as the current one.
    fn of_current(&self, slot: usize, variable: usize, total: usize) -> Result<ArrayRef> {
        match &self.matcher.spec.shape.slots[slot] {
            Slot::Value { column, shift, .. } => {
                let mut at: Vec<Option<u32>> = Vec::with_capacity(total);
                for (p, begin) in self.pieces.iter().zip(&self.begins) {
                    at.extend((*begin..p.to).map(|row| shifted(row, *shift, p)));
                }
                let values = compute::take(self.rows.column(*column), &UInt32Array::from(at), None)?;
                self.typed(slot, values)
            }
            Slot::Classifier { .. } => {
                let at = UInt32Array::from(vec![variable as u32; total]);
                Ok(compute::take(&self.matcher.names, &at, None)?)
            }
            Slot::Number | Slot::Aggregate { .. } => Err(internal("a slot that is not fixed")),
        }
    }

    /// Values of a slot in its type.
    pub(super) fn typed(&self, slot: usize, values: ArrayRef) -> Result<ArrayRef> {
        let wanted = &self.matcher.spec.types[slot];
        if values.data_type() == wanted {
            return Ok(values);
        }
        let options = compute::CastOptions { safe: false, ..Default::default() };
        Ok(compute::cast_with_options(&values, wanted, &options)?)
    }

    fn times(&self) -> Result<Option<(Int64Array, Int64Array)>> {
        let shape = &self.matcher.spec.shape;
        let (Some(within), Some(order)) = (shape.within, shape.order.first()) else { return Ok(None) };
        let column = super::time::as_timestamps(self.rows.column(order.column))?;
        let length = IntervalMonthDayNanoType::make_value(within.months, within.days, within.nanoseconds);
        let length = arrow::array::IntervalMonthDayNanoArray::new_scalar(length);
        let ends = kernels::numeric::add(&column, &length)?;
        Ok(Some((super::ticks(&column)?, super::ticks(&ends)?)))
    }
}

/// A row of the piece.
pub(super) fn shifted(row: usize, shift: i64, piece: &Piece) -> Option<u32> {
    let at = i64::try_from(row).ok()?.checked_add(shift)?;
    let at = usize::try_from(at).ok()?;
    (piece.from..piece.to).contains(&at).then_some(at as u32)
}

/// An aggregate over the rows of an attempt.
struct Running {
    accumulator: Box<dyn Accumulator>,
    /// Rows it has seen, and the number of the last one.
    fed: usize,
    last: u64,
}

/// Conditions over one piece.
struct PieceConditions<'p, 'm> {
    prepared: &'p Prepared<'m>,
    piece: Piece,
    begin: usize,
    offset: usize,
    number: u64,
    /// By slot.
    sets: Vec<Option<usize>>,
    running: Vec<Option<Running>>,
}

impl<'p, 'm> PieceConditions<'p, 'm> {
    fn new(prepared: &'p Prepared<'m>, number: usize) -> Result<Self> {
        let matcher = prepared.matcher;
        let set = |of: &Variables| matcher.sets.iter().position(|s| s == of);
        let sets = matcher.spec.shape.slots.iter().map(|s| match s {
            Slot::Value { place, .. } | Slot::Classifier { place, .. } if !place.of.is_empty() => set(&place.of),
            Slot::Aggregate { of, .. } => set(of),
            _ => None,
        });
        let piece = *prepared.pieces.get(number).ok_or_else(|| internal("a piece that is not there"))?;
        Ok(Self {
            prepared,
            piece,
            begin: prepared.begins[number],
            offset: prepared.offsets[number],
            number: 0,
            sets: sets.collect(),
            running: matcher.spec.shape.slots.iter().map(|_| None).collect(),
        })
    }

    /// The step of the path that a place is.
    fn step(&self, slot: usize, place: &Place, path: &Path) -> Option<usize> {
        let offset = usize::try_from(place.offset).ok()?;
        let pick = |len: usize| match place.first {
            true => (offset < len).then_some(offset),
            false => len.checked_sub(offset + 1),
        };
        if place.of.is_empty() {
            return pick(path.steps.len());
        }
        let rows = &path.list(self.sets[slot]?).rows;
        Some(rows[pick(rows.len())?] as usize - path.start)
    }

    fn value(&mut self, slot: usize, path: &Path) -> Result<ArrayRef> {
        let matcher = self.prepared.matcher;
        let null = || Ok(arrow::array::new_null_array(&matcher.spec.types[slot], 1));
        match &matcher.spec.shape.slots[slot] {
            Slot::Value { column, place, shift } => {
                let row = self.step(slot, place, path).and_then(|s| shifted(path.start + s, *shift, &self.piece));
                match row {
                    Some(row) => self.prepared.typed(slot, self.prepared.rows.column(*column).slice(row as usize, 1)),
                    None => null(),
                }
            }
            Slot::Classifier { place, shift } => {
                let step = self.step(slot, place, path).and_then(|s| (s as i64).checked_add(*shift));
                let step = step.and_then(|s| usize::try_from(s).ok()).and_then(|s| path.steps.get(s));
                match step {
                    Some(step) => Ok(matcher.names.slice(step.variable as usize, 1)),
                    None => null(),
                }
            }
            Slot::Number => Ok(Arc::new(Int64Array::from(vec![i64::try_from(self.number).unwrap_or(i64::MAX)]))),
            Slot::Aggregate { call, .. } => {
                let list = path.list(self.sets[slot].ok_or_else(|| internal("an aggregate of no rows"))?);
                let (rows, numbers) = (&list.rows, &list.numbers);
                let running = match self.running[slot].take() {
                    Some(r) if r.fed <= rows.len() && (r.fed == 0 || numbers[r.fed - 1] == r.last) => r,
                    // Rows it has seen were taken back.
                    _ => Running { accumulator: matcher.calls[*call].accumulator()?, fed: 0, last: 0 },
                };
                let running = self.running[slot].insert(running);
                if running.fed < rows.len() {
                    let new = UInt32Array::from(rows[running.fed..].to_vec());
                    let args = self.prepared.args[*call].iter().map(|a| Ok(compute::take(a, &new, None)?));
                    running.accumulator.update_batch(&args.collect::<Result<Vec<_>>>()?)?;
                    running.fed = rows.len();
                    running.last = numbers.last().copied().unwrap_or(0);
                }
                let value = running.accumulator.evaluate()?.to_array()?;
                self.prepared.typed(slot, value)
            }
        }
    }
}

impl Conditions for PieceConditions<'_, '_> {
    fn begin(&mut self, number: u64) {
        self.number = number;
    }

    fn fixed(&self, variable: u32, row: usize) -> bool {
        let at = self.offset + (row - self.begin);
        self.prepared.fixed[variable as usize].as_ref().is_none_or(|held| held.value(at))
    }

    fn is_moving(&self, variable: u32) -> bool {
        !self.prepared.matcher.conditions[variable as usize].moving.is_empty()
    }

    fn moving(&mut self, variable: u32, path: &Path) -> Result<bool> {
        let matcher = self.prepared.matcher;
        for part in &matcher.conditions[variable as usize].moving {
            let slots = part.slots.iter().map(|s| self.value(*s, path)).collect::<Result<_>>()?;
            let value = part.evaluate(slots, 1)?;
            let held = value.data_type() == &DataType::Boolean && value.is_valid(0) && value.as_boolean().value(0);
            if !held {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn in_time(&self, start: usize, row: usize) -> bool {
        let Some((times, ends)) = &self.prepared.times else { return true };
        start == row || times.is_valid(row) && ends.is_valid(start) && times.value(row) <= ends.value(start)
    }

    fn last_time(&self, start: usize) -> Option<i64> {
        let (_, ends) = self.prepared.times.as_ref()?;
        // Without a time the row is all of its match.
        Some(if ends.is_valid(start) { ends.value(start) } else { i64::MIN })
    }
}
