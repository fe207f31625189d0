//! MATCH_RECOGNIZE.
//!
//! Every partition keeps its rows in order, the rows of the result that their matches gave, and *boundaries*: places where
//! matching can begin again, because no attempt before them has looked at a row from there on (see
//! [`millstream_sql::matching`]). A change is felt from the last boundary before its first row: from there on the partition
//! is matched again, all touched partitions in one run of the matcher (`run`), and what differs from the last result is
//! emitted.
//!
//! In an order by event time the watermark settles rows, and attempts that depend on settled rows alone: what is before the
//! first other attempt is forgotten (`time`). Under EMIT ON WINDOW CLOSE only settled rows are looked at, and only settled
//! matches are given.
//!
//! Positions of rows and numbers of matches count those that are forgotten.
//!
//! Rows that tie are in the order of all their columns, as in ad-hoc SELECT. A partition that cannot be matched (a
//! division by zero in a condition) has no output but what was settled before, and one entry in the error set, until a
//! change heals it. If the row that it fails of is settled, none can: the partition is over.

mod run;
mod store;
mod time;

use std::collections::{HashMap, HashSet};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use millstream_sql::matching::{Boundary, MatchSpec, Matcher, Resume};

use self::run::Work;
use self::time::{Alarm, OrderTime};
use super::eval::evaluation_error;
use super::partitioned::rows::{Entry, Key, Rows};
use super::partitioned::{Failures, Layout, unencoded};
use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
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
    /// Rows before the first one of `rows`, which are forgotten.
    base: u64,
    /// Everything before is settled.
    resume: Resume,
    /// Under EMIT ON WINDOW CLOSE: where the last run ended, and when it can go on though no row comes.
    stop: Resume,
    /// Changes of this tick: row, bytes of its order, weight.
    pending: Vec<(Key, u32, i64)>,
    /// What the rows gave, by where matches begin, as far as it is not settled.
    given: Vec<Given>,
    boundaries: Vec<Boundary>,
    /// What was given from here on has changed since the last freeze.
    changed: Option<u64>,
    /// After the start of the last match of which stored state has rows of the result.
    stored: u64,
    /// Stored state has its `resume`.
    noted: bool,
}

/// A row of output and its weight.
type Change = (Box<[u8]>, i64);

/// See the module.
pub struct MatchOp {
    layout: Layout,
    output_schema: SchemaRef,
    matcher: Matcher,
    /// Rows before a boundary that are looked at, and that look at rows after it.
    back: u64,
    /// Only settled matches are given: EMIT ON WINDOW CLOSE.
    decided: bool,
    /// Something of a partition counts when its rows are forgotten.
    remembers: bool,
    /// The time that orders rows first.
    time: Option<OrderTime>,
    /// Output columns.
    outputs: RowConverter,
    slots: HashMap<Box<[u8]>, u32>,
    partitions: Vec<Partition>,
    free: Vec<u32>,
    touched: Vec<u32>,
    failing: Failures,
    entries: usize,
    given: usize,
    bytes: usize,
    /// When partitions have matches to give, and rows to forget.
    closing: Alarm,
    forgetting: Alarm,
    /// The next tick looks at all partitions.
    waking: bool,
    /// No row comes any more.
    ended: bool,
    /// The oldest time of a partition by one.
    oldest: i64,
    /// Rows whose weight changed since the last freeze.
    dirty: HashSet<Key>,
    /// Partitions whose output changed since the last freeze.
    redone: HashSet<u32>,
    /// Those whose `resume` did, and those that are gone.
    moved: HashSet<u32>,
    gone: Vec<Box<[u8]>>,
    frozen_rows: usize,
    frozen_given: usize,
    frozen_resumes: usize,
    dump_all: bool,
}

impl MatchOp {
    /// The operator over input of these columns. `decided`: see [`millstream_sql::plan::IncOp::MatchRecognize`].
    pub fn new(
        spec: MatchSpec,
        decided: bool,
        input: SchemaRef,
        output_schema: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let (partition, order) = (spec.shape.partition.clone(), spec.shape.order.clone());
        let layout = Layout::new(&input, partition, order, shard, "MATCH_RECOGNIZE")?;
        let plain_output = unencoded(&output_schema);
        let results: Vec<SortField> =
            plain_output.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
        if !RowConverter::supports_fields(&results) {
            return Err(Error::unsupported("a measure of a type that has no order"));
        }
        Ok(Self {
            back: spec.looks_back().saturating_add(spec.looks_ahead()),
            decided,
            remembers: spec.remembers(),
            time: spec.time(&input).map(|column| OrderTime::new(&layout, column)).transpose()?,
            matcher: Matcher::new(spec, &layout.plain, plain_output).map_err(evaluation_error)?,
            layout,
            output_schema,
            outputs: RowConverter::new(results).e()?,
            slots: HashMap::new(),
            partitions: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
            failing: Failures::default(),
            entries: 0,
            given: 0,
            bytes: 0,
            closing: Alarm::default(),
            forgetting: Alarm::default(),
            waking: true,
            ended: false,
            oldest: i64::MAX,
            dirty: HashSet::new(),
            redone: HashSet::new(),
            moved: HashSet::new(),
            gone: Vec::new(),
            frozen_rows: 0,
            frozen_given: 0,
            frozen_resumes: 0,
            dump_all: false,
        })
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
        // Its time is not known before all are looked at.
        self.oldest = i64::MIN;
        self.slots.insert(key, slot);
        slot
    }

    /// Partitions that there are.
    fn live(&self) -> Vec<u32> {
        (0..self.partitions.len() as u32).filter(|s| !self.partitions[*s as usize].key.is_empty()).collect()
    }

    /// True of a partition that failed of a settled row: nothing heals it.
    fn is_over(&self, slot: u32) -> bool {
        self.failing.contains(slot) && self.partitions[slot as usize].rows.is_empty()
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

    /// Frees the slots of partitions without rows of which nothing counts any more. Those whose stored output must go
    /// first wait for the next freeze.
    fn remove_empty(&mut self, slots: &[u32]) {
        for slot in slots {
            let p = &mut self.partitions[*slot as usize];
            let counts = self.failing.contains(*slot) || (self.remembers && p.resume.row > 0);
            if !p.rows.is_empty() || !p.pending.is_empty() || p.key.is_empty() || counts {
                continue;
            }
            if p.stored > 0 {
                p.changed = Some(0);
                self.redone.insert(*slot);
            }
            if p.changed.is_none() {
                self.remove(*slot);
            }
        }
    }

    fn remove(&mut self, slot: u32) {
        let p = std::mem::take(&mut self.partitions[slot as usize]);
        for e in p.rows.iter() {
            self.bytes -= e.key.len();
            self.entries -= 1;
            self.dirty.insert(e.key.clone());
        }
        self.given -= p.given.len();
        self.bytes -= p.given.iter().map(|g| g.1.len()).sum::<usize>();
        self.slots.remove(&p.key);
        self.moved.remove(&slot);
        self.redone.remove(&slot);
        if p.noted {
            self.gone.push(p.key);
        }
        self.closing.set(slot, None);
        self.forgetting.set(slot, None);
        self.failing.forget(slot);
        self.free.push(slot);
    }
}

impl DeltaOp for MatchOp {
    fn push(&mut self, _port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.layout.partition.is_empty() && self.layout.shard.index != 0 {
            return Err(Error::internal("rows of a pattern without partitions belong on shard 0"));
        }
        let plain = self.layout.plain_columns(batch.rows.columns())?;
        let rows = self.layout.encode(&plain, batch.len())?;
        let partitions = self.layout.partition_bytes(&plain, batch.len())?;
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
        let now = self.now(cx.time)?;
        let woken = self.woken(&now);
        let mut touched: Vec<u32> = std::mem::take(&mut self.touched);
        touched.extend(&woken);
        touched.sort_unstable();
        touched.dedup();
        touched.retain(|slot| {
            let over = self.is_over(*slot);
            if over {
                self.partitions[*slot as usize].pending.clear();
            }
            !over
        });
        let mut changes: Vec<Change> = Vec::new();
        let mut works: Vec<Work> = Vec::new();
        let mut needed = 0;
        for (i, slot) in touched.iter().enumerate() {
            // Without a time nothing is tried again.
            let healed = (!self.decided || now.close.is_some()) && self.failing.heal(*slot, cx.errors);
            let changed = self.settle(*slot);
            let work = self.work(*slot, changed, healed, woken.binary_search(slot).is_ok(), &now);
            needed += work.as_ref().map_or(0, Work::rows);
            works.extend(work);
            if needed >= ROWS_PER_RUN || i + 1 == touched.len() {
                self.run(&std::mem::take(&mut works), &now, cx.errors, &mut changes)?;
                needed = 0;
            }
            if changes.len() >= cx.chunk_rows && works.is_empty() {
                self.emit(std::mem::take(&mut changes), out)?;
            }
        }
        self.emit(changes, out)?;
        self.forget(&touched, &now)?;
        self.remove_empty(&touched);
        self.forget_partitions(cx.time)
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

    fn held_back(&self) -> Option<(usize, Option<i64>)> {
        let waiting = if self.decided { self.closing.len() } else { 0 };
        (waiting > 0).then_some((waiting, None))
    }

    fn stats(&self) -> StateStats {
        // An entry: the shared bytes with two counts and its fields. A row of output: its bytes and where it begins.
        let bytes = self.bytes + self.entries * 96 + self.given * 24 + self.partitions.len() * 288;
        StateStats { rows: self.entries, bytes }
    }
}

#[cfg(test)]
mod tests;
