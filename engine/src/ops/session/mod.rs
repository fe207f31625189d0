//! Sessions: each row with the first time of its session, and its last time plus the gap.
//!
//! Every partition keeps its rows in order of time, and its sessions. A change of a row reaches as far as its session does,
//! or the sessions it joins or parts: where the ends of a session stay as they were only the row itself goes out,
//! otherwise all rows of the sessions that changed. What a session is says
//! [`millstream_sql::functions::window::session`].
//!
//! A session that ends at the watermark or before can change no more, and is forgotten.

mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use millstream_sql::functions::window::session::sessions;

use super::eval::RowText;
use super::{DeltaOp, Emit, ErrorSet, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::state::keyed::code::plain_type;
use crate::state::rows::DecodeRows as _;
use crate::zset::{Weights, ZBatch};

/// A row as bytes.
type Key = Arc<[u8]>;

#[derive(Default)]
struct Partition {
    /// The partition columns as bytes.
    key: Box<[u8]>,
    /// By time, then row: how often it is there.
    rows: BTreeMap<(i64, Key), i64>,
    /// First time to last time; they do not overlap, and are as far apart as the gap at least.
    sessions: BTreeMap<i64, i64>,
    /// The last time of the first session, as [`SessionOp::closing`] has it.
    first_last: Option<i64>,
    /// Changes of this tick: time, row, weight.
    pending: Vec<(i64, Key, i64)>,
    used: bool,
}

/// A row of output: the row, its session's first and last time, its weight.
type Change = (Key, i64, i64, i64);

/// A row whose weight changed in this tick.
struct Changed {
    time: i64,
    key: Key,
    before: i64,
    after: i64,
}

/// See the module.
pub struct SessionOp {
    /// Columns of the input, without encodings such as dictionaries.
    plain: SchemaRef,
    output_schema: SchemaRef,
    partition: Vec<usize>,
    time: usize,
    gap: i64,
    shard: Shard,
    rows: RowConverter,
    /// Partition columns.
    keys: Option<RowConverter>,
    slots: HashMap<Box<[u8]>, u32>,
    partitions: Vec<Partition>,
    free: Vec<u32>,
    touched: Vec<u32>,
    /// The last time of each partition's first session.
    closing: BTreeSet<(i64, u32)>,
    entries: usize,
    bytes: usize,
    /// Rows whose weight changed since the last freeze.
    dirty: HashSet<Key>,
    frozen: usize,
    dump_all: bool,
}

impl SessionOp {
    /// As [`millstream_sql::plan::IncOp::Session`] says.
    pub fn new(
        input: SchemaRef,
        partition: Vec<usize>,
        time: usize,
        gap: i64,
        output_schema: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let width = input.fields().len();
        if partition.iter().chain([&time]).any(|c| *c >= width) || output_schema.fields().len() != width + 2 {
            return Err(Error::internal("a session over columns that are not there"));
        }
        if gap <= 0 || !matches!(input.field(time).data_type(), DataType::Timestamp(..)) {
            return Err(Error::internal("a session without a gap or without a time"));
        }
        let fields = input.fields().iter().map(|f| Field::new(f.name(), plain_type(f.data_type()), true));
        let plain: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let sort = |c: &Arc<Field>| SortField::new(c.data_type().clone());
        let whole: Vec<SortField> = plain.fields().iter().map(sort).collect();
        if !RowConverter::supports_fields(&whole) {
            return Err(Error::unsupported("a session of rows of a type that has no order"));
        }
        let of_keys: Vec<SortField> = partition.iter().map(|p| sort(&plain.fields()[*p])).collect();
        Ok(Self {
            rows: RowConverter::new(whole).e()?,
            keys: if of_keys.is_empty() { None } else { Some(RowConverter::new(of_keys).e()?) },
            plain,
            output_schema,
            partition,
            time,
            gap,
            shard,
            slots: HashMap::new(),
            partitions: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
            closing: BTreeSet::new(),
            entries: 0,
            bytes: 0,
            dirty: HashSet::new(),
            frozen: 0,
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

    fn times(&self, plain: &[ArrayRef]) -> Result<Int64Array> {
        Ok(arrow::compute::cast(&plain[self.time], &DataType::Int64).e()?.as_primitive::<Int64Type>().clone())
    }

    fn decode<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Result<Vec<ArrayRef>> {
        let parser = self.rows.parser();
        self.rows.decode_rows(keys.map(|k| parser.parse(k)))
    }

    fn partition_bytes(&self, plain: &[ArrayRef], rows: usize) -> Result<Vec<Box<[u8]>>> {
        let Some(converter) = &self.keys else { return Ok(vec![Box::default(); rows]) };
        let columns: Vec<ArrayRef> = self.partition.iter().map(|p| plain[*p].clone()).collect();
        let keys = converter.convert_columns(&columns).e()?;
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
        let p = &mut self.partitions[slot as usize];
        (p.key, p.used) = (key.clone(), true);
        self.slots.insert(key, slot);
        slot
    }

    /// Takes the rows that have a time and whose session has an end; the others go to the output or the errors.
    fn with_times(&self, batch: ZBatch, errors: &mut ErrorSet, out: &mut dyn Emit) -> Result<(ZBatch, Int64Array)> {
        let plain = |b: &ZBatch| -> Result<Int64Array> { self.times(&self.plain_columns(b.rows.columns())?) };
        let times = plain(&batch)?;
        let beyond = |i: &u32| times.value(*i as usize).checked_add(self.gap).is_none();
        if times.null_count() == 0 && !(0..batch.len() as u32).any(|i| beyond(&i)) {
            return Ok((batch, times));
        }
        let (timed, timeless): (Vec<u32>, Vec<u32>) =
            (0..batch.len() as u32).partition(|i| times.is_valid(*i as usize));
        let (bad, good): (Vec<u32>, Vec<u32>) = timed.into_iter().partition(beyond);
        if !timeless.is_empty() {
            let rows = batch.take(&UInt32Array::from(timeless)).e()?;
            let mut columns = rows.rows.columns().to_vec();
            for f in &self.output_schema.fields()[columns.len()..] {
                columns.push(arrow::array::new_null_array(f.data_type(), rows.len()));
            }
            let made = rows.with_rows(RecordBatch::try_new(self.output_schema.clone(), columns).e()?);
            let made = made.consolidate().e()?;
            if !made.is_empty() {
                out.emit(made)?;
            }
        }
        let text = RowText::new(&batch.rows)?;
        for i in bad {
            let i = i as usize;
            errors.add(SqlState::DATETIME_OVERFLOW.0, "timestamp out of range", &text.row(i), batch.weight(i));
        }
        let good = batch.take(&UInt32Array::from(good)).e()?;
        let times = plain(&good)?;
        Ok((good, times))
    }

    /// Applies the changes of a partition.
    fn settle(&mut self, slot: u32, out: &mut Vec<Change>) {
        let p = &mut self.partitions[slot as usize];
        let mut pending = std::mem::take(&mut p.pending);
        pending.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut changed: Vec<Changed> = Vec::new();
        let mut pending = pending.into_iter().peekable();
        while let Some((time, key, mut weight)) = pending.next() {
            while let Some(more) = pending.next_if(|m| m.0 == time && m.1 == key) {
                weight += more.2;
            }
            if weight == 0 {
                continue;
            }
            let entry = p.rows.entry((time, key.clone())).or_insert_with(|| {
                self.entries += 1;
                self.bytes += key.len();
                0
            });
            let before = *entry;
            *entry += weight;
            self.dirty.insert(key.clone());
            changed.push(Changed { time, key, before: before.max(0), after: (before + weight).max(0) });
        }
        let mut rest = changed.as_slice();
        while let Some(first) = rest.first() {
            let (low, high, reached) = reach(&p.sessions, rest, first.time, self.gap);
            let (region, later) = rest.split_at(reached);
            rest = later;
            p.update(low, high, region, self.gap, out);
        }
        for c in &changed {
            let place = (c.time, c.key.clone());
            if p.rows.get(&place) == Some(&0) {
                p.rows.remove(&place);
                self.entries -= 1;
                self.bytes -= c.key.len();
            }
        }
        self.note_closing(slot);
    }

    /// Says when the first session of a partition is over.
    fn note_closing(&mut self, slot: u32) {
        let p = &mut self.partitions[slot as usize];
        let now = p.sessions.first_key_value().map(|(_, last)| *last);
        if now != p.first_last {
            if let Some(before) = p.first_last {
                self.closing.remove(&(before, slot));
            }
            if let Some(now) = now {
                self.closing.insert((now, slot));
            }
            p.first_last = now;
        }
    }

    /// Forgets the sessions that are over.
    fn forget(&mut self, cx: &TickCx<'_>) {
        let Some((_, bound)) = cx.time.forgettable(0).find(|(c, _)| *c == self.time) else { return };
        let bound = match self.plain.field(self.time).data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => bound.div_euclid(1_000_000),
            DataType::Timestamp(TimeUnit::Millisecond, _) => bound.div_euclid(1_000),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => bound.saturating_mul(1_000),
            _ => bound,
        };
        let gap = self.gap;
        let over = |last: i64| last.saturating_add(gap) <= bound;
        let mut emptied = Vec::new();
        while let Some((last, slot)) = self.closing.first().copied()
            && over(last)
        {
            let p = &mut self.partitions[slot as usize];
            let mut end = last;
            while let Some(first) = p.sessions.first_entry()
                && over(*first.get())
            {
                end = first.remove();
            }
            let kept = p.rows.split_off(&(end.saturating_add(1), Key::default()));
            for ((_, key), _) in std::mem::replace(&mut p.rows, kept) {
                self.entries -= 1;
                self.bytes -= key.len();
                self.dirty.insert(key);
            }
            self.note_closing(slot);
            emptied.push(slot);
        }
        self.remove_empty(&emptied);
    }

    /// Frees the slots of partitions without rows.
    fn remove_empty(&mut self, slots: &[u32]) {
        for slot in slots {
            let p = &mut self.partitions[*slot as usize];
            if p.used && p.rows.is_empty() && p.pending.is_empty() {
                self.slots.remove(&p.key);
                *p = Partition::default();
                self.free.push(*slot);
            }
        }
    }

    fn emit(&self, changes: &[Change], out: &mut dyn Emit) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut columns = self.decode(changes.iter().map(|c| &c.0))?;
        let starts: Int64Array = changes.iter().map(|c| c.1).collect();
        // Rows whose session has no end were set apart.
        let ends: Int64Array = changes.iter().map(|c| c.2.saturating_add(self.gap)).collect();
        columns.extend([Arc::new(starts) as ArrayRef, Arc::new(ends)]);
        for (c, f) in columns.iter_mut().zip(self.output_schema.fields()) {
            if c.data_type() != f.data_type() {
                *c = arrow::compute::cast(c, f.data_type()).e()?;
            }
        }
        let rows = RecordBatch::try_new(self.output_schema.clone(), columns).e()?;
        let weights: Vec<i64> = changes.iter().map(|c| c.3).collect();
        out.emit(ZBatch::new(rows, Weights::Dense(weights.into())))
    }
}

/// How far the change at the first of `changed` reaches together with the old sessions and the changes next to it: from,
/// to, and how many of the changes.
fn reach(sessions: &BTreeMap<i64, i64>, changed: &[Changed], at: i64, gap: i64) -> (i64, i64, usize) {
    let (mut low, mut high, mut n) = (at, at, 0);
    if let Some((first, last)) = sessions.range(..=at).next_back()
        && at.saturating_sub(*last) < gap
    {
        low = *first;
        high = high.max(*last);
    }
    let mut next = sessions.range((std::ops::Bound::Excluded(low), std::ops::Bound::Unbounded)).peekable();
    loop {
        let before = (high, n);
        while let Some(c) = changed.get(n)
            && c.time.saturating_sub(high) < gap
        {
            high = high.max(c.time);
            n += 1;
        }
        while let Some((_, last)) = next.next_if(|(first, _)| first.saturating_sub(high) < gap) {
            high = high.max(*last);
        }
        if before == (high, n) {
            return (low, high, n);
        }
    }
}

/// The session of a list that a time is in.
fn session_of(sessions: &[(i64, i64)], time: i64) -> (i64, i64) {
    let at = sessions.partition_point(|(first, _)| *first <= time);
    at.checked_sub(1).map_or((time, time), |i| sessions[i])
}

impl Partition {
    /// Makes the sessions of a region anew, which no row beside it touches.
    fn update(&mut self, low: i64, high: i64, changed: &[Changed], gap: i64, out: &mut Vec<Change>) {
        let before: Vec<(i64, i64)> = self.sessions.range(low..=high).map(|(a, b)| (*a, *b)).collect();
        let region = (low, Key::default())..;
        let rows = || self.rows.range(region.clone()).take_while(|((t, _), _)| *t <= high);
        let after = if changed.iter().any(|c| c.after == 0) {
            sessions(rows().filter(|(_, w)| **w > 0).map(|((t, _), _)| *t), gap)
        } else {
            vec![(low, high)]
        };
        let mut change = |key: &Key, (first, last): (i64, i64), weight: i64| {
            if weight != 0 {
                out.push((key.clone(), first, last, weight));
            }
        };
        let mut one = |time: i64, key: &Key, had: i64, has: i64| {
            let (old, new) = (session_of(&before, time), session_of(&after, time));
            if old == new {
                change(key, new, has - had);
            } else {
                change(key, old, -had);
                change(key, new, has);
            }
        };
        if before == after {
            changed.iter().for_each(|c| one(c.time, &c.key, c.before, c.after));
            return;
        }
        let mut next = changed.iter().peekable();
        for ((time, key), weight) in rows() {
            match next.next_if(|c| c.time == *time && c.key == *key) {
                Some(c) => one(*time, key, c.before, c.after),
                None => {
                    let weight = (*weight).max(0);
                    if session_of(&before, *time) != session_of(&after, *time) {
                        one(*time, key, weight, weight);
                    }
                }
            }
        }
        for (first, _) in &before {
            self.sessions.remove(first);
        }
        self.sessions.extend(after);
    }
}

impl DeltaOp for SessionOp {
    fn push(&mut self, _port: usize, batch: ZBatch, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.partition.is_empty() && self.shard.index != 0 {
            return Err(Error::internal("rows of sessions without keys belong on shard 0"));
        }
        let (batch, times) = self.with_times(batch, cx.errors, out)?;
        if batch.is_empty() {
            return Ok(());
        }
        let plain = self.plain_columns(batch.rows.columns())?;
        let rows = self.rows.convert_columns(&plain).e()?;
        let partitions = self.partition_bytes(&plain, batch.len())?;
        for (i, partition) in partitions.into_iter().enumerate() {
            let weight = batch.weight(i);
            if weight == 0 {
                continue;
            }
            let slot = self.slot_of(partition);
            let pending = &mut self.partitions[slot as usize].pending;
            if pending.is_empty() {
                self.touched.push(slot);
            }
            pending.push((times.value(i), Key::from(rows.row(i).data()), weight));
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        let mut changes: Vec<Change> = Vec::new();
        for slot in &touched {
            self.settle(*slot, &mut changes);
            if changes.len() >= cx.chunk_rows {
                self.emit(&std::mem::take(&mut changes), out)?;
            }
        }
        self.emit(&changes, out)?;
        self.remove_empty(&touched);
        self.forget(cx);
        Ok(())
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        self.freeze_state()
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        self.restore_state(slot, batch)
    }

    fn restored(&mut self) -> Result<()> {
        self.restored_state();
        Ok(())
    }

    fn stats(&self) -> StateStats {
        // An entry: the shared bytes with two counts, the time, the weight.
        StateStats { rows: self.entries, bytes: self.bytes + self.entries * 64 + self.partitions.len() * 160 }
    }
}

#[cfg(test)]
mod tests;
