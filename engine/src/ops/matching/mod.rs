//! MATCH_RECOGNIZE.
//!
//! Every partition keeps its rows in order, the rows of the result that their matches gave, and *boundaries*: places where
//! matching can begin again, because no attempt before them has looked at a row from there on (see
//! [`millstream_sql::matching`]). A change is felt from the last boundary before its first row: from there on the partition
//! is matched again, all touched partitions in one run of the matcher, and what differs from the last result is emitted.
//!
//! Rows that tie are in the order of all their columns, as in ad-hoc SELECT. A partition that cannot be matched (a
//! division by zero in a condition) has no output and one entry in the error set, until a change heals it.

mod store;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use millstream_sql::matching::{Boundary, MatchSpec, Matcher, Piece, partition_columns};
use millstream_sql::plan::SortColumn;

use super::eval::{RowText, evaluation_error, is_of_data};
use super::over::rows::{Entry, Key, Rows, Starts};
use super::{DeltaOp, Emit, ErrorSet, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::state::keyed::code::plain_type;
use crate::state::rows::DecodeRows as _;
use crate::zset::{Weights, ZBatch};

/// Rows given to one run of the matcher, about; what is to be matched of a partition is never cut.
const ROWS_PER_RUN: u64 = 64 * 1024;

/// A row of the result: where in the partition its match begins, and its columns.
type Given = (u64, Box<[u8]>);

#[derive(Default)]
struct Partition {
    /// The partition columns as bytes; empty in a slot that is free.
    key: Box<[u8]>,
    rows: Rows,
    /// Changes of this tick: row, bytes of its order, weight.
    pending: Vec<(Key, u32, i64)>,
    /// What the rows gave, by where matches begin.
    given: Vec<Given>,
    boundaries: Vec<Boundary>,
    /// What was given from here on has changed since the last freeze.
    changed: Option<u64>,
}

/// The part of a partition that is matched again.
#[derive(Debug, Clone, Copy)]
struct Work {
    slot: u32,
    begin: Boundary,
    needs_from: u64,
    to: u64,
}

/// A row of output and its weight.
type Change = (Box<[u8]>, i64);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    code: String,
    message: String,
    row: String,
}

/// See the module.
pub struct MatchOp {
    /// Columns of the input, without encodings such as dictionaries.
    plain: SchemaRef,
    output_schema: SchemaRef,
    partition: Vec<usize>,
    order: Vec<SortColumn>,
    matcher: Matcher,
    /// Rows before a boundary that are looked at, and that look at rows after it.
    back: u64,
    shard: Shard,
    /// Order, then row.
    rows: RowConverter,
    /// Order alone.
    orders: Option<RowConverter>,
    /// Partition columns.
    keys: Option<RowConverter>,
    /// Output columns.
    outputs: RowConverter,
    slots: HashMap<Box<[u8]>, u32>,
    partitions: Vec<Partition>,
    free: Vec<u32>,
    touched: Vec<u32>,
    failing: BTreeMap<u32, Failure>,
    failing_changed: bool,
    entries: usize,
    given: usize,
    bytes: usize,
    /// Rows whose weight changed since the last freeze.
    dirty: HashSet<Key>,
    /// Partitions whose output changed since the last freeze.
    redone: HashSet<u32>,
    frozen_rows: usize,
    frozen_given: usize,
    dump_all: bool,
}

impl MatchOp {
    /// The operator over input of these columns.
    pub fn new(spec: MatchSpec, input: SchemaRef, output_schema: SchemaRef, shard: Shard) -> Result<Self> {
        let width = input.fields().len();
        let (partition, order) = (spec.shape.partition.clone(), spec.shape.order.clone());
        let outside = partition.iter().copied().chain(order.iter().map(|o| o.column)).find(|c| *c >= width);
        if let Some(c) = outside {
            return Err(Error::internal(format!("MATCH_RECOGNIZE over column {c} of {width}")));
        }
        let unencoded = |s: &Schema| -> SchemaRef {
            let fields = s.fields().iter().map(|f| Field::new(f.name(), plain_type(f.data_type()), true));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        let plain = unencoded(&input);
        let plain_output = unencoded(&output_schema);
        let ordered: Vec<SortField> = order
            .iter()
            .map(|o| {
                let options = SortOptions { descending: o.descending, nulls_first: o.nulls_first };
                SortField::new_with_options(plain.field(o.column).data_type().clone(), options)
            })
            .collect();
        let fields = |s: &Schema| s.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect::<Vec<_>>();
        let whole: Vec<SortField> = ordered.iter().cloned().chain(fields(&plain)).collect();
        if !RowConverter::supports_fields(&whole) {
            return Err(Error::unsupported("MATCH_RECOGNIZE over rows of a type that has no order"));
        }
        let results = fields(&plain_output);
        if !RowConverter::supports_fields(&results) {
            return Err(Error::unsupported("a measure of a type that has no order"));
        }
        let converter = |fields: Vec<SortField>| -> Result<Option<RowConverter>> {
            if fields.is_empty() { Ok(None) } else { RowConverter::new(fields).map(Some).e() }
        };
        let of_keys = partition.iter().map(|p| SortField::new(plain.field(*p).data_type().clone())).collect();
        let back = spec.looks_back().saturating_add(spec.looks_ahead());
        Ok(Self {
            matcher: Matcher::new(spec, &plain, plain_output).map_err(evaluation_error)?,
            back,
            plain,
            output_schema,
            partition,
            shard,
            rows: RowConverter::new(whole).e()?,
            orders: converter(ordered)?,
            keys: converter(of_keys)?,
            outputs: RowConverter::new(results).e()?,
            order,
            slots: HashMap::new(),
            partitions: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
            failing: BTreeMap::new(),
            failing_changed: false,
            entries: 0,
            given: 0,
            bytes: 0,
            dirty: HashSet::new(),
            redone: HashSet::new(),
            frozen_rows: 0,
            frozen_given: 0,
            dump_all: false,
        })
    }

    fn plain_columns(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let cast = |(c, f): (&ArrayRef, &Arc<Field>)| match c.data_type() == f.data_type() {
            true => Ok(c.clone()),
            false => arrow::compute::cast(c, f.data_type()).e(),
        };
        columns.iter().zip(self.plain.fields()).map(cast).collect()
    }

    /// Rows as keys, with the bytes of their order.
    fn encode(&self, plain: &[ArrayRef], rows: usize) -> Result<Vec<(Key, u32)>> {
        let ordered: Vec<ArrayRef> = self.order.iter().map(|o| plain[o.column].clone()).collect();
        let orders = self.orders.as_ref().map(|c| c.convert_columns(&ordered)).transpose().e()?;
        let whole = self.rows.convert_columns(&[ordered, plain.to_vec()].concat()).e()?;
        let order = |i: usize| orders.as_ref().map_or(0, |o| o.row(i).data().len() as u32);
        Ok((0..rows).map(|i| (Key::from(whole.row(i).data()), order(i))).collect())
    }

    /// The (plain) rows of these keys.
    fn decode<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Result<Vec<ArrayRef>> {
        let parser = self.rows.parser();
        let keys: Vec<&Key> = keys.collect();
        let mut columns = self.rows.decode_rows(keys.iter().map(|k| parser.parse(k)))?;
        Ok(columns.split_off(self.order.len()))
    }

    fn partition_bytes(&self, plain: &[ArrayRef], rows: usize) -> Result<Vec<Box<[u8]>>> {
        let Some(converter) = &self.keys else { return Ok(vec![Box::from([0u8].as_slice()); rows]) };
        let columns: Vec<ArrayRef> = self.partition.iter().map(|p| plain[*p].clone()).collect();
        let keys = converter.convert_columns(&partition_columns(&columns)).e()?;
        Ok((0..rows).map(|i| Box::from(keys.row(i).data())).collect())
    }

    fn slot_of(&mut self, key: Box<[u8]>) -> u32 {
        if let Some(slot) = self.slots.get(&key) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.partitions.push(Partition::default());
            self.partitions.len() as u32 - 1
        });
        self.partitions[slot as usize].key = key.clone();
        self.slots.insert(key, slot);
        slot
    }

    /// Applies the changes of a partition; returns the first row of which there are now more copies, or fewer.
    fn settle(&mut self, slot: u32) -> Option<Key> {
        let mut pending = std::mem::take(&mut self.partitions[slot as usize].pending);
        pending.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut first = None;
        let mut pending = pending.into_iter().peekable();
        while let Some((key, order, mut weight)) = pending.next() {
            while let Some(more) = pending.next_if(|m| m.0 == key) {
                weight += more.2;
            }
            if weight == 0 {
                continue;
            }
            let rows = &mut self.partitions[slot as usize].rows;
            let (before, after) = match rows.find(&key) {
                Err(place) => {
                    self.bytes += key.len();
                    self.entries += 1;
                    rows.insert(place, Entry { key: key.clone(), order, weight, results: Vec::new() });
                    (0, weight)
                }
                Ok(place) => {
                    let (before, after) = rows.add_weight(place, weight);
                    if after == 0 {
                        rows.remove(place);
                        self.bytes -= key.len();
                        self.entries -= 1;
                    }
                    (before, after)
                }
            };
            self.dirty.insert(key.clone());
            if before.max(0) != after.max(0) && first.is_none() {
                first = Some(key);
            }
        }
        first
    }

    /// What must be matched again in a partition whose first changed row is this one.
    fn work(&mut self, slot: u32, changed: Option<Key>, whole: bool) -> Option<Work> {
        let p = &mut self.partitions[slot as usize];
        let starts = p.rows.starts();
        let from = match (whole, changed) {
            (true, _) => 0,
            (false, None) => return None,
            (false, Some(key)) => starts.position(&p.rows, p.rows.find(&key).unwrap_or_else(|place| place)),
        };
        let kept = p.boundaries.partition_point(|b| b.row <= from);
        p.boundaries.truncate(if whole { 0 } else { kept });
        let begin = p.boundaries.last().copied().unwrap_or(Boundary { row: 0, matches: 0 });
        let to = considered(&starts);
        Some(Work { slot, begin, needs_from: begin.row.saturating_sub(self.back).min(to), to })
    }

    /// Matches parts of partitions; if that fails, finds the partitions that are to blame.
    fn run(&mut self, works: &[Work], errors: &mut ErrorSet, out: &mut Vec<Change>) -> Result<()> {
        match self.compute(works) {
            Ok(given) => {
                for (w, (given, boundaries)) in works.iter().zip(given) {
                    self.apply(w, given, boundaries, out);
                }
                Ok(())
            }
            Err(e) if !is_of_data(&e) => Err(e),
            Err(e) => match works {
                [] => Err(e),
                [w] => self.fail(w.slot, e, errors, out),
                _ => {
                    let (a, b) = works.split_at(works.len() / 2);
                    self.run(a, errors, out)?;
                    self.run(b, errors, out)
                }
            },
        }
    }

    /// What each part gives.
    fn compute(&self, works: &[Work]) -> Result<Vec<(Vec<Given>, Vec<Boundary>)>> {
        let mut keys: Vec<Key> = Vec::new();
        let mut pieces = Vec::with_capacity(works.len());
        for w in works {
            let from = keys.len();
            let rows = &self.partitions[w.slot as usize].rows;
            rows.each(&rows.starts(), w.needs_from, w.to, |e, first, end| {
                let copies = end.min(w.to) - first.max(w.needs_from);
                keys.extend((0..copies).map(|_| e.key.clone()));
            });
            pieces.push(Piece {
                from,
                to: keys.len(),
                first: from + (w.begin.row - w.needs_from) as usize,
                before: w.needs_from,
                matches: w.begin.matches,
            });
        }
        let rows = RecordBatch::try_new(self.plain.clone(), self.decode(keys.iter())?).e()?;
        let found = self.matcher.run(&rows, &pieces).map_err(evaluation_error)?;
        let bytes = self.outputs.convert_columns(found.rows.columns()).e()?;
        let mut out: Vec<(Vec<Given>, Vec<Boundary>)> = found.boundaries.into_iter().map(|b| (Vec::new(), b)).collect();
        for (i, (piece, start)) in found.pieces.iter().zip(&found.starts).enumerate() {
            out[*piece as usize].0.push((*start, Box::from(bytes.row(i).data())));
        }
        Ok(out)
    }

    /// Stores what a part gave; what differs from the last goes out.
    fn apply(&mut self, w: &Work, new: Vec<Given>, boundaries: Vec<Boundary>, out: &mut Vec<Change>) {
        let p = &mut self.partitions[w.slot as usize];
        boundaries.into_iter().for_each(|b| b.add_to(&mut p.boundaries));
        let begin = p.given.partition_point(|g| g.0 < w.begin.row);
        let same = p.given[begin..].iter().zip(&new).take_while(|(a, b)| a == b).count();
        let old = p.given.split_off(begin + same);
        if old.is_empty() && new.len() == same {
            return;
        }
        let starts = old.iter().chain(new.iter().skip(same)).map(|g| g.0);
        let first = starts.min().unwrap_or(w.begin.row).min(p.changed.unwrap_or(u64::MAX));
        p.changed = Some(first);
        self.redone.insert(w.slot);
        self.given -= old.len();
        self.bytes -= old.iter().map(|g| g.1.len()).sum::<usize>();
        out.extend(old.into_iter().map(|g| (g.1, -1)));
        for g in new.into_iter().skip(same) {
            self.given += 1;
            self.bytes += g.1.len();
            out.push((g.1.clone(), 1));
            p.given.push(g);
        }
    }

    /// Takes all output of a partition back.
    fn fail(&mut self, slot: u32, error: Error, errors: &mut ErrorSet, out: &mut Vec<Change>) -> Result<()> {
        let p = &mut self.partitions[slot as usize];
        p.boundaries.clear();
        let old = std::mem::take(&mut p.given);
        if !old.is_empty() {
            p.changed = Some(0);
            self.redone.insert(slot);
        }
        self.given -= old.len();
        self.bytes -= old.iter().map(|g| g.1.len()).sum::<usize>();
        out.extend(old.into_iter().map(|g| (g.1, -1)));
        let first = self.partitions[slot as usize].rows.iter().next().map(|e| e.key.clone());
        let columns = self.decode(first.iter())?;
        let keys: Vec<ArrayRef> = self.partition.iter().map(|p| columns[*p].clone()).collect();
        let row = if first.is_some() && !keys.is_empty() { RowText::of_columns(&keys)?.row(0) } else { String::new() };
        errors.add(error.code.0, &error.message, &row, 1);
        self.failing.insert(slot, Failure { code: error.code.0.to_owned(), message: error.message, row });
        self.failing_changed = true;
        Ok(())
    }

    fn decode_output<'b>(&self, bytes: impl Iterator<Item = &'b [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.outputs.parser();
        self.outputs.decode_rows(bytes.map(|b| parser.parse(b)))
    }

    fn emit(&mut self, changes: Vec<Change>, out: &mut dyn Emit) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut columns = self.decode_output(changes.iter().map(|c| c.0.as_ref()))?;
        for (c, f) in columns.iter_mut().zip(self.output_schema.fields()) {
            if c.data_type() != f.data_type() {
                *c = arrow::compute::cast(c, f.data_type()).e()?;
            }
        }
        let rows = RecordBatch::try_new(self.output_schema.clone(), columns).e()?;
        let weights: Vec<i64> = changes.iter().map(|c| c.1).collect();
        let batch = ZBatch::new(rows, Weights::Dense(weights.into())).consolidate().e()?;
        if batch.is_empty() { Ok(()) } else { out.emit(batch) }
    }

    /// Frees the slots of partitions without rows. Those whose output changed wait for the next freeze.
    fn remove_empty(&mut self, slots: &[u32]) {
        for slot in slots {
            let p = &mut self.partitions[*slot as usize];
            if p.rows.is_empty() && p.pending.is_empty() && p.changed.is_none() && !p.key.is_empty() {
                self.slots.remove(&p.key);
                *p = Partition::default();
                self.free.push(*slot);
            }
        }
    }
}

/// How many rows of a partition are matched: all of them.
///
/// A watermark has its place here. Rows after it would not be matched yet; what was given is decided up to the last boundary,
/// rather than up to the end; and the rows before that boundary, but for `back` of them, can go, with the number of rows
/// and matches that it says.
fn considered(starts: &Starts) -> u64 {
    starts.total
}

impl DeltaOp for MatchOp {
    fn push(&mut self, _port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.partition.is_empty() && self.shard.index != 0 {
            return Err(Error::internal("rows of a pattern without partitions belong on shard 0"));
        }
        let plain = self.plain_columns(batch.rows.columns())?;
        let rows = self.encode(&plain, batch.len())?;
        let partitions = self.partition_bytes(&plain, batch.len())?;
        for (i, ((key, order), partition)) in rows.into_iter().zip(partitions).enumerate() {
            let weight = batch.weight(i);
            if weight == 0 {
                continue;
            }
            let slot = self.slot_of(partition);
            let pending = &mut self.partitions[slot as usize].pending;
            if pending.is_empty() {
                self.touched.push(slot);
            }
            pending.push((key, order, weight));
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        let mut changes: Vec<Change> = Vec::new();
        let mut works: Vec<Work> = Vec::new();
        let mut needed = 0;
        for (i, slot) in touched.iter().enumerate() {
            let healed = self.failing.remove(slot);
            if let Some(f) = &healed {
                cx.errors.add(&f.code, &f.message, &f.row, -1);
                self.failing_changed = true;
            }
            let changed = self.settle(*slot);
            let work = self.work(*slot, changed, healed.is_some());
            needed += work.map_or(0, |w| w.to - w.needs_from.min(w.to));
            works.extend(work);
            if needed >= ROWS_PER_RUN || i + 1 == touched.len() {
                self.run(&std::mem::take(&mut works), cx.errors, &mut changes)?;
                needed = 0;
            }
            if changes.len() >= cx.chunk_rows && works.is_empty() {
                self.emit(std::mem::take(&mut changes), out)?;
            }
        }
        self.emit(changes, out)?;
        self.remove_empty(&touched);
        Ok(())
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        self.freeze_state()
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        self.restore_state(slot, batch)
    }

    fn restored(&mut self) -> Result<()> {
        let all: Vec<u32> = (0..self.partitions.len() as u32).collect();
        self.remove_empty(&all);
        Ok(())
    }

    fn stats(&self) -> StateStats {
        // An entry: the shared bytes with two counts and its fields. A row of output: its bytes and where it begins.
        let bytes = self.bytes + self.entries * 96 + self.given * 24 + self.partitions.len() * 160;
        StateStats { rows: self.entries, bytes }
    }
}

#[cfg(test)]
mod tests;
