//! GROUP BY and global aggregates.
//!
//! True here: a group exists while the sum of the weights of its rows is positive, whatever its sums are; its state
//! is kept until everything in it is zero, so multiplicities may be negative in passing. Results are made only in
//! `flush`, from exact sums, and a result that has no place in its type is an error row until its group changes.
//! Keys go out as their canonical value (+0.0 for -0.0), so that every shard and every cut into ticks gives one text.

mod acc;
mod finish;
mod store;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream_sql::plan::{AggCall, AggFunc};

use self::acc::{Acc, Kind, kind_of};
use self::finish::{Failures, finish};
pub(in crate::ops) use self::store::{restore_words, to_batches};
use self::values::ValueTable;
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::ops::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::state::keyed::KeyedState;
use crate::state::keyed::code::{canonical, plain_type};
use crate::zset::{Weights, ZBatch};

/// Rows of an error text are cut to this.
const ERROR_ROW_BYTES_MAX: usize = 1024;

/// Where an accumulator takes its weights from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The rows', zero where the filter is not true.
    Rows(Option<usize>),
    /// A value appears or vanishes in a table.
    Distinct(usize),
}

/// Results of a list of groups at one moment.
struct Results {
    /// The group has an output row, or a failure.
    present: Vec<bool>,
    columns: Vec<ArrayRef>,
    failures: Failures,
}

/// See the module.
pub struct AggregateOp {
    keys: Vec<usize>,
    calls: Vec<AggCall>,
    /// Argument types of the calls.
    arg_types: Vec<DataType>,
    /// Accumulator of each call.
    acc_of: Vec<usize>,
    output_schema: SchemaRef,
    append_only: bool,
    shard: Shard,
    stride: usize,
    state: KeyedState,
    sources: Vec<Source>,
    tables: Vec<ValueTable>,
    accs: Vec<Acc>,
    /// Groups touched in this tick that were there before it, and their results then, in pieces.
    old_slots: Vec<u32>,
    old: Vec<Results>,
    /// The row of a global aggregate is out.
    emitted: bool,
}

fn type_of(schema: &SchemaRef, column: usize) -> Result<&DataType> {
    let n = schema.fields().len();
    schema
        .fields()
        .get(column)
        .map(|f| f.data_type())
        .ok_or_else(|| Error::internal(format!("aggregate over column {column} of {n}")))
}

impl AggregateOp {
    /// Groups rows of `input_schema` by the columns `keys`; the output is the keys, then one column a call.
    /// With `append_only_input` minima and maxima keep one value a group, and a retraction is a defect.
    pub fn new(
        input_schema: SchemaRef,
        keys: Vec<usize>,
        aggs: Vec<AggCall>,
        output_schema: SchemaRef,
        append_only_input: bool,
        shard: Shard,
    ) -> Result<Self> {
        if output_schema.fields().len() != keys.len() + aggs.len() {
            return Err(Error::internal("output of an aggregate must be its keys and its aggregates"));
        }
        let key_types: Vec<DataType> =
            keys.iter().map(|k| Ok(plain_type(type_of(&input_schema, *k)?))).collect::<Result<_>>()?;
        let mut op = Self {
            keys,
            arg_types: Vec::with_capacity(aggs.len()),
            acc_of: Vec::with_capacity(aggs.len()),
            calls: aggs,
            output_schema,
            append_only: append_only_input,
            shard,
            stride: 1,
            state: KeyedState::new(Vec::new(), 0)?,
            sources: Vec::new(),
            tables: Vec::new(),
            accs: Vec::new(),
            old_slots: Vec::new(),
            old: Vec::new(),
            emitted: false,
        };
        for i in 0..op.calls.len() {
            op.add_call(i, &input_schema, &key_types)?;
        }
        op.state = KeyedState::new(key_types, op.stride)?;
        Ok(op)
    }

    /// True if there is a native accumulator for this call over an argument of this type.
    pub fn supports(call: &AggCall, arg_type: &DataType) -> bool {
        kind_of(call, arg_type, false, 0).is_some()
    }

    fn add_call(&mut self, i: usize, input: &SchemaRef, key_types: &[DataType]) -> Result<()> {
        let call = self.calls[i].clone();
        let arg_type = match call.arg {
            Some(a) => type_of(input, a)?.clone(),
            None if call.func == AggFunc::CountStar => DataType::Null,
            None => return Err(Error::internal(format!("{:?} without an argument", call.func))),
        };
        let arg = call.arg.filter(|_| call.func != AggFunc::CountStar);
        if let Some(f) = call.filter
            && *type_of(input, f)? != DataType::Boolean
        {
            return Err(Error::internal("the filter of an aggregate must be boolean"));
        }
        // A repeated value changes nothing in these, DISTINCT or not; collections see to it themselves.
        let extreme = matches!(call.func, AggFunc::Min | AggFunc::Max);
        let idempotent = extreme
            || matches!(call.func, AggFunc::BoolAnd | AggFunc::BoolOr | AggFunc::BitAnd | AggFunc::BitOr)
            || matches!(call.func, AggFunc::Collect(_));
        let distinct = call.distinct && !idempotent && arg.is_some();
        let (mut source, mut table) = (Source::Rows(call.filter), 0);
        if let Some(arg) = arg
            && (distinct || (extreme && !self.append_only))
        {
            // Only floats have equal values of different bits; a DISTINCT must not tell them apart, a minimum must.
            let canonical = distinct || !plain_type(&arg_type).is_floating();
            table = self.table(arg, call.filter, canonical, key_types, &arg_type)?;
            if distinct {
                source = Source::Distinct(table);
            } else {
                self.tables[table].make_ordered()?;
            }
        }
        let Some(kind) = kind_of(&call, &arg_type, self.append_only, table) else {
            return Err(Error::unsupported(format!(
                "{:?} of type {arg_type} with a result of type {}",
                call.func, call.output
            )));
        };
        let source = self.sources.iter().position(|s| *s == source).unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        if let Some(outside) = call.columns().find(|c| *c >= input.fields().len()) {
            return Err(Error::internal(format!("an aggregate over column {outside} of {}", input.fields().len())));
        }
        let same = |a: &Acc| {
            let alike = a.kind == kind && a.arg == arg && a.source == source && a.call.more == call.more;
            alike && (kind != Kind::Collect || a.call == call)
        };
        let acc = match self.accs.iter().position(same) {
            Some(a) => a,
            None => {
                self.accs.push(Acc::new(kind, arg, &call, source, distinct, input, &mut self.stride)?);
                self.accs.len() - 1
            }
        };
        self.acc_of.push(acc);
        self.arg_types.push(arg_type);
        Ok(())
    }

    fn table(
        &mut self,
        arg: usize,
        filter: Option<usize>,
        canonical: bool,
        key_types: &[DataType],
        arg_type: &DataType,
    ) -> Result<usize> {
        let same = |t: &ValueTable| t.arg == arg && t.filter == filter && t.canonical == canonical;
        if let Some(t) = self.tables.iter().position(same) {
            return Ok(t);
        }
        if self.tables.len() == store::VALUE_SLOTS.len() {
            return Err(Error::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "one GROUP BY has DISTINCT or min/max aggregates over more than {} arguments and filters",
                    store::VALUE_SLOTS.len()
                ),
            ));
        }
        self.tables.push(ValueTable::new(arg, filter, canonical, key_types, arg_type, self.stride)?);
        self.stride += 1;
        Ok(self.tables.len() - 1)
    }

    fn global(&self) -> bool {
        self.keys.is_empty()
    }

    fn reserve(&mut self) {
        let end = self.state.slot_end();
        for a in &mut self.accs {
            a.reserve(end);
        }
        for t in &mut self.tables {
            t.reserve(end);
        }
    }

    /// Results of these groups now.
    fn results(&self, slots: &[u32]) -> Result<Results> {
        let present = slots.iter().map(|s| self.global() || self.state.words(*s)[0] > 0).collect();
        let mut failures = Failures::new();
        let mut columns = Vec::with_capacity(self.calls.len());
        for (i, call) in self.calls.iter().enumerate() {
            let acc = &self.accs[self.acc_of[i]];
            columns.push(match acc.kind {
                Kind::Ordered { table, max } => {
                    let c = self.tables[table].extremes(slots, max)?;
                    if *c.data_type() == call.output { c } else { arrow::compute::cast(&c, &call.output).e()? }
                }
                _ => finish(call, acc, &self.arg_types[i], &self.state, slots, &mut failures)?,
            });
        }
        Ok(Results { present, columns, failures })
    }

    /// Marks groups as changed, and keeps the results they had before the tick.
    fn touch(&mut self, slots: &[u32]) -> Result<()> {
        let mut first = self.state.touch(slots);
        first.retain(|s| if self.global() { self.emitted } else { self.state.words(*s)[0] > 0 });
        if !first.is_empty() {
            self.old.push(self.results(&first)?);
            self.old_slots.extend(first);
        }
        Ok(())
    }

    fn update(&mut self, batch: &ZBatch, keys: &[ArrayRef], slots: &[u32]) -> Result<()> {
        let rows: Vec<i64> = match &batch.weights {
            Weights::AllOne => vec![1; batch.len()],
            Weights::Dense(w) => w.to_vec(),
        };
        for (s, w) in slots.iter().zip(&rows) {
            self.state.words_mut(*s)[0] += w;
        }
        let mut filtered: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        let filters = self.calls.iter().filter_map(|c| c.filter);
        for f in filters {
            filtered.entry(f).or_insert_with(|| {
                let mask = batch.rows.column(f).as_boolean();
                rows.iter().enumerate().map(|(i, w)| if mask.is_valid(i) && mask.value(i) { *w } else { 0 }).collect()
            });
        }
        let rows_of = |filter: Option<usize>| filter.and_then(|f| filtered.get(&f)).unwrap_or(&rows);
        let mut flips = Vec::with_capacity(self.tables.len());
        for t in &mut self.tables {
            let values = t.values(batch.rows.column(t.arg))?;
            flips.push(t.apply(keys, &values, rows_of(t.filter), slots, &mut self.state)?);
        }
        for acc in &mut self.accs {
            let weights = match self.sources[acc.source] {
                Source::Rows(filter) => rows_of(filter),
                Source::Distinct(table) => &flips[table],
            };
            acc.update(&mut self.state, self.stride, slots, weights, batch.rows.columns())?;
        }
        Ok(())
    }

    fn emit_changes(
        &self,
        touched: &[u32],
        old: &Results,
        old_slots: &[u32],
        old_at: &mut usize,
        cx: &mut TickCx<'_>,
        out: &mut dyn Emit,
    ) -> Result<()> {
        let new = self.results(touched)?;
        let same = old
            .columns
            .iter()
            .zip(&new.columns)
            .map(|(a, b)| make_comparator(a, b, SortOptions::default()).e())
            .collect::<Result<Vec<_>>>()?;
        // (0, row of old) or (1, row of new), with the slot.
        let (mut picks, mut slots, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (i, slot) in touched.iter().enumerate() {
            let before = (old_slots.get(*old_at) == Some(slot)).then_some(*old_at);
            *old_at += usize::from(before.is_some());
            let before = before.filter(|o| old.present[*o]);
            let after = new.present[i].then_some(i);
            let old_failure = before.and_then(|o| old.failures.get(&o));
            let new_failure = after.and_then(|n| new.failures.get(&n));
            if let (Some(o), Some(n)) = (before, after)
                && old_failure == new_failure
                && (old_failure.is_some() || same.iter().all(|c| c(o, n).is_eq()))
            {
                continue;
            }
            for (row, failure, side, weight) in [(before, old_failure, 0, -1), (after, new_failure, 1, 1)] {
                match (row, failure) {
                    (None, _) => {}
                    (Some(_), Some(message)) => {
                        cx.errors.add(SqlState::NUMERIC_OUT_OF_RANGE.0, message, &self.group_text(*slot)?, weight);
                    }
                    (Some(r), None) => {
                        picks.push((side, r));
                        slots.push(*slot);
                        weights.push(weight);
                    }
                }
            }
        }
        if picks.is_empty() {
            return Ok(());
        }
        let mut columns = self.state.key_columns(&slots)?;
        for (o, n) in old.columns.iter().zip(&new.columns) {
            columns.push(arrow::compute::interleave(&[o.as_ref(), n.as_ref()], &picks).e()?);
        }
        for (c, f) in columns.iter_mut().zip(self.output_schema.fields()) {
            if c.data_type() != f.data_type() {
                *c = arrow::compute::cast(c, f.data_type()).e()?;
            }
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(picks.len()));
        let rows = RecordBatch::try_new_with_options(self.output_schema.clone(), columns, &options).e()?;
        let weights = if weights.iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(weights.into()) };
        out.emit(ZBatch::new(rows, weights))
    }

    /// The key of a group as text.
    fn group_text(&self, slot: u32) -> Result<String> {
        let options = FormatOptions::default().with_null("NULL");
        let mut text = String::new();
        for (c, f) in self.state.key_columns(&[slot])?.iter().zip(self.output_schema.fields()) {
            if !text.is_empty() {
                text.push_str(", ");
            }
            let value = ArrayFormatter::try_new(c.as_ref(), &options).e()?;
            text.push_str(&format!("{}={}", f.name(), value.value(0)));
        }
        if text.len() > ERROR_ROW_BYTES_MAX {
            text.truncate(text.floor_char_boundary(ERROR_ROW_BYTES_MAX));
        }
        Ok(text)
    }

    /// Forgets groups that no later change can reach; their results stay where they were sent.
    fn forget(&mut self, cx: &TickCx<'_>) -> Result<()> {
        let mut time = None;
        for (column, bound) in cx.time.forgettable(0) {
            if let Some(k) = self.keys.iter().position(|c| *c == column) {
                time = Some((k, bound));
                break;
            }
        }
        let Some((key, bound)) = time else { return Ok(()) };
        let gone = self.state.expired(key, bound)?;
        for t in &mut self.tables {
            let values = t.state.expired(key, bound)?;
            t.state.remove(&values)?;
            t.clear(&gone);
        }
        for acc in &mut self.accs {
            gone.iter().for_each(|s| acc.clear_side(*s));
        }
        self.state.remove(&gone)
    }

    /// Forgets groups in which everything is zero. The group of a global aggregate stays.
    fn remove_dead(&mut self, touched: &[u32]) -> Result<()> {
        for t in &mut self.tables {
            t.flush()?;
        }
        if self.global() {
            return Ok(());
        }
        let dead: Vec<u32> = touched
            .iter()
            .copied()
            .filter(|s| {
                self.state.words(*s)[0] == 0
                    && self.state.words(*s).iter().all(|w| *w == 0)
                    && self.accs.iter().all(|a| a.side_is_zero(*s))
            })
            .collect();
        self.state.remove(&dead)
    }
}

impl DeltaOp for AggregateOp {
    fn push(&mut self, _port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.append_only && !batch.append_only() {
            return Err(Error::internal("retraction in the append-only input of an aggregate"));
        }
        if self.global() && self.shard.index != 0 {
            return Err(Error::internal("rows of a global aggregate belong on shard 0"));
        }
        let keys: Vec<ArrayRef> = self.keys.iter().map(|k| canonical(batch.rows.column(*k))).collect::<Result<_>>()?;
        let slots = self.state.slots_for(&keys, batch.len())?;
        self.reserve();
        self.touch(&slots)?;
        self.update(&batch, &keys, &slots)
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        if self.global() && self.shard.index == 0 && !self.emitted {
            let slots = self.state.slots_for(&[], 1)?;
            self.reserve();
            self.touch(&slots)?;
        }
        let touched = self.state.take_touched();
        if touched.is_empty() {
            return self.forget(cx);
        }
        let old_slots = std::mem::take(&mut self.old_slots);
        let old = match std::mem::take(&mut self.old) {
            pieces if pieces.is_empty() => self.results(&[])?,
            pieces => concat(pieces)?,
        };
        let mut old_at = 0;
        for piece in touched.chunks(cx.chunk_rows.div_ceil(2).max(1)) {
            self.emit_changes(piece, &old, &old_slots, &mut old_at, cx, out)?;
        }
        self.emitted |= self.global();
        self.remove_dead(&touched)?;
        self.forget(cx)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        self.freeze_state()
    }
    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        self.restore_state(slot, batch)
    }
    fn restored(&mut self) -> Result<()> {
        self.reserve();
        for t in &mut self.tables {
            t.rebuild(&mut self.state)?;
        }
        Ok(())
    }
    fn stats(&self) -> StateStats {
        let bytes = self.state.bytes()
            + self.accs.iter().map(Acc::side_bytes).sum::<usize>()
            + self.tables.iter().map(ValueTable::bytes).sum::<usize>();
        let rows = self.state.len() + self.tables.iter().map(|t| t.state.len()).sum::<usize>();
        StateStats { rows, bytes }
    }
}

fn concat(mut pieces: Vec<Results>) -> Result<Results> {
    if pieces.len() == 1
        && let Some(p) = pieces.pop()
    {
        return Ok(p);
    }
    let width = pieces.first().map_or(0, |p| p.columns.len());
    let columns = (0..width)
        .map(|c| {
            let parts: Vec<&dyn Array> = pieces.iter().map(|p| p.columns[c].as_ref()).collect();
            arrow::compute::concat(&parts).e()
        })
        .collect::<Result<Vec<_>>>()?;
    let (mut present, mut failures) = (Vec::new(), Failures::new());
    for p in pieces {
        failures.extend(p.failures.into_iter().map(|(i, m)| (i + present.len(), m)));
        present.extend(p.present);
    }
    Ok(Results { present, columns, failures })
}

/// An aggregate's output columns: keys, then results. For plans and tests.
pub fn output_schema(input: &SchemaRef, keys: &[usize], aggs: &[AggCall]) -> SchemaRef {
    let mut fields: Vec<arrow::datatypes::FieldRef> = keys.iter().map(|k| input.fields()[*k].clone()).collect();
    for (i, a) in aggs.iter().enumerate() {
        let never_null = matches!(a.func, AggFunc::CountStar | AggFunc::Count);
        fields.push(Arc::new(arrow::datatypes::Field::new(format!("a{i}"), a.output.clone(), !never_null)));
    }
    Arc::new(arrow::datatypes::Schema::new(fields))
}

#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
mod tests;
