//! Window functions: `OVER (PARTITION BY .. ORDER BY ..)`.
//!
//! Every partition keeps its rows in order, and for each the last result. A change of a row is felt by the rows whose
//! frames it is in, or which count it (`reach`): only those are computed again, from as many rows around them as their
//! functions look at, all touched partitions in one run of DataFusion's window operators. Functions over everything up to
//! the current row go on from a kept state ([`running`]). What differs from the last result is emitted.
//!
//! Rows that tie are in the order of all their columns, as in ad-hoc SELECT; equal rows are copies that each have a
//! result of their own. A partition that cannot be computed (a sum out of range) has no output and one entry in the
//! error set, until a change heals it.

mod compute;
mod reach;
mod running;
mod store;

use std::collections::{HashMap, HashSet};

use arrow::array::{Array as _, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::SessionState;
use millstream_sql::plan::time::micros_array;
use millstream_sql::plan::{SortColumn, StoredPlan};

use self::compute::Computer;
use self::reach::{Measure, Reach};
use self::running::{Piece, Snapshot};
use super::eval::is_of_data;
use super::partitioned::rows::{Entry, Key, Rows};
use super::partitioned::{Failures, Layout};
use super::{DeltaOp, Emit, ErrorSet, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::zset::{Weights, ZBatch};

/// Rows given to one run of the functions, about; a partition's piece is never cut.
const ROWS_PER_RUN: u64 = 64 * 1024;

#[derive(Default)]
struct Partition {
    /// The partition columns as bytes; empty in a slot that is free.
    key: Box<[u8]>,
    rows: Rows,
    /// Changes of this tick: row, bytes of its order, weight.
    pending: Vec<(Key, u32, i64)>,
    /// States of the running functions, by position.
    snapshots: Vec<Snapshot>,
}

/// Rows of one partition to be computed: results of copies `from..to` out of rows `needs_from..needs_to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Work {
    slot: u32,
    from: u64,
    to: u64,
    needs_from: u64,
    needs_to: u64,
}

/// Results of rows as bytes, and snapshots with the number of their piece.
type Computed = (Vec<Box<[u8]>>, Vec<(usize, Snapshot)>);

/// A row of output: the row, its result, its weight.
type Change = (Key, Box<[u8]>, i64);

/// See the module.
pub struct OverOp {
    layout: Layout,
    output_schema: SchemaRef,
    reach: Reach,
    computer: Computer,
    slots: HashMap<Box<[u8]>, u32>,
    partitions: Vec<Partition>,
    free: Vec<u32>,
    touched: Vec<u32>,
    failing: Failures,
    entries: usize,
    bytes: usize,
    /// Rows whose weight or results changed since the last freeze.
    dirty: HashSet<Key>,
    frozen: usize,
    dump_all: bool,
    /// The oldest time of a partition.
    oldest: i64,
}

impl OverOp {
    /// `plan` has the functions, as [`millstream_sql::plan::IncOp::Over`] says; the output is the input's columns, then one
    /// for each function.
    pub fn new(
        state: &SessionState,
        plan: &StoredPlan,
        input: SchemaRef,
        partition: Vec<usize>,
        order: Vec<SortColumn>,
        output_schema: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let width = input.fields().len();
        let layout = Layout::new(&input, partition, order, shard, "a window function")?;
        let results = output_schema.fields().iter().skip(width).map(|f| f.data_type().clone()).collect();
        let computer = Computer::new(state, plan, &input, results)?;
        Ok(Self {
            reach: Reach::of(&plan.logical, computer.running())?,
            computer,
            layout,
            output_schema,
            slots: HashMap::new(),
            partitions: Vec::new(),
            free: Vec::new(),
            touched: Vec::new(),
            failing: Failures::default(),
            entries: 0,
            bytes: 0,
            dirty: HashSet::new(),
            frozen: 0,
            dump_all: false,
            oldest: i64::MAX,
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

    /// Applies the changes of a partition; returns the rows of which there are more copies now (true), or fewer.
    fn settle(&mut self, slot: u32, out: &mut Vec<Change>) -> Vec<(Key, bool)> {
        let mut pending = std::mem::take(&mut self.partitions[slot as usize].pending);
        pending.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut changed = Vec::new();
        let mut pending = pending.into_iter().peekable();
        while let Some((key, order, mut weight)) = pending.next() {
            while let Some(more) = pending.next_if(|m| m.0 == key) {
                weight += more.2;
            }
            if weight == 0 {
                continue;
            }
            let p = &mut self.partitions[slot as usize];
            let (before, after) = match p.rows.find(&key) {
                Err(place) => {
                    let results = vec![Box::default(); usize::try_from(weight).unwrap_or(0)];
                    self.bytes += key.len();
                    self.entries += 1;
                    p.rows.insert(place, Entry { key: key.clone(), order, weight, results });
                    (0, weight.max(0))
                }
                Ok(place) => {
                    let (before, after) = p.rows.add_weight(place, weight);
                    let kept = usize::try_from(after).unwrap_or(0);
                    if let Some(results) = p.rows.results_mut(place) {
                        if kept < results.len() {
                            let dropped = results.drain(kept..).filter(|r| !r.is_empty());
                            out.extend(dropped.map(|r| (key.clone(), r, -1)));
                        }
                        results.resize_with(kept, Box::default);
                    }
                    if after == 0 {
                        p.rows.remove(place);
                        self.bytes -= key.len();
                        self.entries -= 1;
                    }
                    (before.max(0), after.max(0))
                }
            };
            self.dirty.insert(key.clone());
            if before != after {
                changed.push((key, after > before));
            }
        }
        changed
    }

    /// What must be computed again in a partition after `changed`. Snapshots behind a change are dropped.
    fn work(&mut self, slot: u32, changed: &[(Key, bool)], whole: bool, out: &mut Vec<Work>) -> Result<()> {
        let Partition { rows, snapshots, .. } = &mut self.partitions[slot as usize];
        let starts = rows.starts();
        let total = starts.total;
        if total == 0 || whole {
            snapshots.clear();
        }
        if total == 0 {
            return Ok(());
        }
        let mut unchanged = u64::MAX;
        let all = Work { slot, from: 0, to: total, needs_from: 0, needs_to: total };
        if whole {
            out.push(all);
            return Ok(());
        }
        let descending = self.layout.order.first().is_some_and(|o| o.descending);
        let measure = Measure { rows, starts: &starts, orders: self.layout.orders(), descending };
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        for (key, more) in changed {
            let (position, copies) = match rows.find(key) {
                Ok(place) => (starts.position(rows, place), rows.at(place).map_or(0, Entry::copies)),
                Err(place) => (starts.position(rows, place), 0),
            };
            unchanged = unchanged.min(position);
            // Where rows went away, their neighbours felt them.
            let (from, to) = match more {
                true => (position, position + copies),
                false => (position.saturating_sub(1), (position + copies + 1).min(total)),
            };
            let from = self.reach.felt_before.back(&measure, from)?;
            let to = self.reach.felt_after.on(&measure, to)?;
            match pieces.last_mut() {
                Some(last) if from <= last.1 => {
                    last.0 = last.0.min(from);
                    last.1 = last.1.max(to);
                }
                _ => pieces.push((from, to)),
            }
        }
        snapshots.retain(|s| s.position <= unchanged);
        let first = out.len();
        let mut needed = 0;
        for (from, to) in pieces {
            let mut needs_from = self.reach.needs_before.back(&measure, from)?;
            if !self.computer.running().is_empty() {
                needs_from = needs_from.min(last_before(snapshots, from).map_or(0, |s| s.position));
            }
            let needs_to = self.reach.needs_after.on(&measure, to)?;
            needed += needs_to - needs_from;
            out.push(Work { slot, from, to, needs_from, needs_to });
        }
        if needed > total.saturating_mul(2) {
            out.truncate(first);
            out.push(all);
        }
        Ok(())
    }

    /// Computes pieces; if that fails, finds the partitions that are to blame.
    fn run(&mut self, works: &[Work], errors: &mut ErrorSet, out: &mut Vec<Change>) -> Result<()> {
        // A partition that failed has no output at all.
        let works: Vec<Work> = works.iter().filter(|w| !self.failing.contains(w.slot)).copied().collect();
        let (Some(first), Some(last)) = (works.first(), works.last()) else { return Ok(()) };
        match self.compute(&works) {
            Ok((results, taken)) => {
                self.apply(&works, &results, taken, out);
                Ok(())
            }
            Err(e) if !is_of_data(&e) => Err(e),
            Err(e) if first.slot == last.slot => self.fail(first.slot, e, errors, out),
            Err(_) => {
                // Pieces of a partition stay together; there are at least two partitions.
                let mut slots: Vec<u32> = works.iter().map(|w| w.slot).collect();
                slots.dedup();
                let middle = slots[slots.len() / 2];
                let (a, b) = works.split_at(works.iter().take_while(|w| w.slot != middle).count());
                self.run(a, errors, out)?;
                self.run(b, errors, out)
            }
        }
    }

    /// Results of the rows of these pieces, as bytes: those of `needs_from..needs_to` of each. Also the snapshots on the
    /// way, with the number of the piece.
    fn compute(&mut self, works: &[Work]) -> Result<Computed> {
        let mut keys: Vec<Key> = Vec::new();
        let mut lengths: Vec<usize> = Vec::new();
        let mut pieces = Vec::with_capacity(works.len());
        for w in works {
            let p = &self.partitions[w.slot as usize];
            let start = keys.len();
            p.rows.each(&p.rows.starts(), w.needs_from, w.needs_to, |e, first, end| {
                let copies = end.min(w.needs_to) - first.max(w.needs_from);
                keys.extend((0..copies).map(|_| e.key.clone()));
                lengths.resize(keys.len(), e.order as usize);
            });
            let before = last_before(&p.snapshots, w.from);
            pieces.push(Piece { range: start..keys.len(), position: w.needs_from, from: w.from, before });
        }
        let columns = self.layout.decode(keys.iter())?;
        let orders: Vec<&[u8]> = keys.iter().zip(&lengths).map(|(k, n)| &k[..*n]).collect();
        let mut taken = Vec::new();
        let results = self.computer.run(columns, &orders, &pieces, &self.reach.positions, &mut taken)?;
        Ok((results, taken))
    }

    /// Stores the results of pieces; what differs from the last goes out.
    fn apply(&mut self, works: &[Work], results: &[Box<[u8]>], taken: Vec<(usize, Snapshot)>, out: &mut Vec<Change>) {
        let mut base = 0;
        let mut taken = taken.into_iter().peekable();
        for (piece, w) in works.iter().enumerate() {
            let Partition { rows, snapshots, .. } = &mut self.partitions[w.slot as usize];
            let starts = rows.starts();
            let new = std::iter::from_fn(|| taken.next_if(|(p, _)| *p == piece)).map(|(_, s)| s);
            running::keep(snapshots, new, starts.total);
            let dirty = &mut self.dirty;
            rows.each_results_mut(&starts, w.from, w.to, |key, copies, first| {
                for (old, position) in copies.iter_mut().zip(first..) {
                    if !(w.from..w.to).contains(&position) {
                        continue;
                    }
                    let new = &results[base + (position - w.needs_from) as usize];
                    if old == new {
                        continue;
                    }
                    if !old.is_empty() {
                        out.push((key.clone(), std::mem::take(old), -1));
                    }
                    out.push((key.clone(), new.clone(), 1));
                    *old = new.clone();
                    dirty.insert(key.clone());
                }
            });
            base += (w.needs_to - w.needs_from) as usize;
        }
    }

    /// Takes all output of a partition back.
    fn fail(&mut self, slot: u32, error: Error, errors: &mut ErrorSet, out: &mut Vec<Change>) -> Result<()> {
        let dirty = &mut self.dirty;
        let Partition { rows, snapshots, .. } = &mut self.partitions[slot as usize];
        snapshots.clear();
        rows.each_result_mut(|key, r| {
            if !r.is_empty() {
                out.push((key.clone(), std::mem::take(r), -1));
                dirty.insert(key.clone());
            }
        });
        let first = rows.iter().next().map(|e| e.key.clone());
        self.failing.add(&self.layout, slot, first.as_ref(), error, errors)
    }

    fn emit(&mut self, changes: Vec<Change>, out: &mut dyn Emit) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut columns = self.layout.decode(changes.iter().map(|c| &c.0))?;
        columns.extend(self.computer.decode(changes.iter().map(|c| c.1.as_ref()))?);
        for (c, f) in columns.iter_mut().zip(self.output_schema.fields()) {
            if c.data_type() != f.data_type() {
                *c = arrow::compute::cast(c, f.data_type()).e()?;
            }
        }
        let rows = RecordBatch::try_new(self.output_schema.clone(), columns).e()?;
        let weights: Vec<i64> = changes.iter().map(|c| c.2).collect();
        let batch = ZBatch::new(rows, Weights::Dense(weights.into())).consolidate().e()?;
        if batch.is_empty() { Ok(()) } else { out.emit(batch) }
    }

    /// Forgets partitions that no later change can reach.
    fn forget(&mut self, cx: &TickCx<'_>) -> Result<()> {
        let of_key = |(c, bound)| self.layout.partition.iter().position(|p| *p == c).map(|k| (k, bound));
        let Some((key, bound)) = cx.time.forgettable(0).find_map(of_key) else { return Ok(()) };
        // All are looked at when the oldest of them may go.
        if bound <= self.oldest {
            return Ok(());
        }
        let live: Vec<u32> =
            (0..self.partitions.len() as u32).filter(|s| !self.partitions[*s as usize].key.is_empty()).collect();
        let columns = self.layout.decode_keys(live.iter().map(|s| self.partitions[*s as usize].key.as_ref()))?;
        let Some(times) = columns.get(key).and_then(micros_array) else { return Ok(()) };
        self.oldest = i64::MAX;
        for (slot, time) in live.into_iter().zip(times.iter()) {
            match time {
                Some(t) if t < bound => {
                    let p = std::mem::take(&mut self.partitions[slot as usize]);
                    for e in p.rows.iter() {
                        self.bytes -= e.key.len();
                        self.entries -= 1;
                        self.dirty.insert(e.key.clone());
                    }
                    self.slots.remove(&p.key);
                    self.failing.forget(slot);
                    self.free.push(slot);
                }
                Some(t) => self.oldest = self.oldest.min(t),
                None => {}
            }
        }
        Ok(())
    }

    /// Frees the slots of partitions without rows.
    fn remove_empty(&mut self, slots: &[u32]) {
        for slot in slots {
            let p = &mut self.partitions[*slot as usize];
            if p.rows.is_empty() && p.pending.is_empty() && !p.key.is_empty() {
                self.slots.remove(&p.key);
                *p = Partition::default();
                self.free.push(*slot);
            }
        }
    }
}

impl DeltaOp for OverOp {
    fn push(&mut self, _port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.layout.partition.is_empty() && self.layout.shard.index != 0 {
            return Err(Error::internal("rows of a window without partitions belong on shard 0"));
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
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        let mut changes: Vec<Change> = Vec::new();
        let mut works: Vec<Work> = Vec::new();
        let mut needed = 0;
        for (i, slot) in touched.iter().enumerate() {
            let healed = self.failing.heal(*slot, cx.errors);
            let changed = self.settle(*slot, &mut changes);
            let first = works.len();
            self.work(*slot, &changed, healed, &mut works)?;
            needed += works[first..].iter().map(|w| w.needs_to - w.needs_from).sum::<u64>();
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
        self.forget(cx)
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
        // An entry: the shared bytes with two counts, its fields, and a result.
        let snapshots: usize = self.partitions.iter().map(|p| p.snapshots.len()).sum();
        let bytes = self.bytes + self.entries * 120 + self.partitions.len() * 128 + snapshots * 256;
        StateStats { rows: self.entries, bytes }
    }
}

/// The last snapshot that a result from a position on can be made from.
fn last_before(snapshots: &[Snapshot], from: u64) -> Option<&Snapshot> {
    snapshots.iter().rev().find(|s| s.position <= from)
}

/// The type of a column of results that counts rows.
fn is_count(t: &DataType) -> bool {
    t.is_integer()
}

#[cfg(test)]
mod tests;
