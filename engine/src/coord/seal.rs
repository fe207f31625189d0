//! Sealing epochs: swap the buffers, number the step, hand it to the hubs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_connectors::{BadRecord, Position, SplitId};
use millstream_sql::plan::RelationId;

use super::event_time::{CLIENTS, bounds_of};
use super::{EngineInner, HUB_BYTES_MAX, RelationRt, State, arrival};
use crate::catalog::ERRORS_ID;
use crate::error::{Result, ResultExt as _};
use crate::job::Promises;
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;

/// How often it is looked whether time alone gives somebody something to do.
const TIMER_INTERVAL: Duration = Duration::from_millis(50);

/// Wakes the engine when a partition has become idle, or the clock has come to where a view wants a tick.
pub(super) async fn run_timers(engine: Weak<EngineInner>) {
    loop {
        tokio::time::sleep(TIMER_INTERVAL).await;
        let Some(inner) = engine.upgrade() else { return };
        if inner.failure().is_some() {
            return;
        }
        inner.look_at_clock();
    }
}

impl EngineInner {
    /// Does what time alone makes due.
    pub(crate) fn look_at_clock(self: &Arc<Self>) {
        let mut st = self.lock();
        let now = self.options.clock.now();
        let waits = st.groups.values().any(|g| g.wakeup.is_some());
        let mut timed = false;
        for r in st.relations.values_mut() {
            timed |= r.arrival.is_some();
            let (Some(t), source) = (&mut r.time, &r.source) else { continue };
            timed = true;
            let Some(s) = source else { continue };
            let behind = |split: &SplitId| {
                let end = s.high_watermarks.get(split);
                end.is_some_and(|end| end.0 > 0 && s.positions.get(split).is_none_or(|p| p < end))
            };
            t.find_idle(now, behind);
        }
        if (waits || timed) && !st.stopping {
            while self.seal_if_due(&mut st) {
                self.schedule(&mut st);
            }
        }
    }

    /// Seals an epoch if the clock has gone on since the last one: for a view that follows it and is about to be made.
    pub(super) fn seal_clock(self: &Arc<Self>) {
        let mut st = self.lock();
        if !st.stopping && self.failure().is_none() && st.clock < self.options.clock.now() {
            self.seal(&mut st);
            self.advance(&mut st);
        }
    }

    /// Seals one epoch if input is pending and somebody could use it now.
    pub(super) fn seal_if_due(self: &Arc<Self>, st: &mut State) -> bool {
        if !st.writes.is_empty() {
            self.seal(st);
            return true;
        }
        if st.stopping || self.failure().is_some() {
            return false;
        }
        let idle = |id: &RelationId| {
            st.groups.values().any(|g| !g.running && g.frontier == st.sealed && g.inputs.contains(id))
        };
        let rows = st.relations.iter().any(|(id, r)| {
            r.source.as_ref().is_some_and(|s| !s.buffer.is_empty()) && r.delta_bytes < HUB_BYTES_MAX && idle(id)
        });
        if !rows && !self.time_is_due(st, &idle) {
            return false;
        }
        let interval = self.options.epoch_interval;
        if !interval.is_zero()
            && let Some(elapsed) = st.last_seal.map(|t| t.elapsed())
            && elapsed < interval
        {
            if !std::mem::replace(&mut st.seal_timer, true) {
                let inner = self.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(interval - elapsed).await;
                    let mut st = inner.lock();
                    st.seal_timer = false;
                    inner.advance(&mut st);
                });
            }
            return false;
        }
        self.seal(st);
        true
    }

    /// A watermark or the clock has come to where some idle group has something to do, without rows.
    fn time_is_due(&self, st: &State, idle: &dyn Fn(&RelationId) -> bool) -> bool {
        let now = self.options.clock.now();
        let woken = |g: &super::Group| !g.running && g.frontier == st.sealed && g.wakeup.is_some_and(|w| w <= now);
        st.groups.values().any(woken)
            || st.arrivals_due(now)
            || st.relations.iter().any(|(id, r)| {
                r.time
                    .as_ref()
                    .is_some_and(|t| t.due() > t.watermark && (idle(id) || t.late.is_some_and(|late| idle(&late))))
            })
    }

    fn seal(self: &Arc<Self>, st: &mut State) {
        let epoch = st.sealed.next();
        // The clock of epochs never goes back, whatever the wall clock does.
        st.clock = st.clock.max(self.options.clock.now());
        st.clocks.push_back((epoch, st.clock));
        st.note_arrivals(epoch);
        st.last_seal = Some(std::time::Instant::now());
        let mut changes: BTreeMap<RelationId, Vec<ZBatch>> = BTreeMap::new();
        let mut bad: Vec<(RelationId, BadRecord)> = Vec::new();
        let mut room = self.options.epoch_rows_max;
        let mut unstamped: Vec<(RelationId, usize)> = Vec::new();
        for (id, r) in &mut st.relations {
            let over_budget = r.delta_bytes >= HUB_BYTES_MAX;
            let time = &mut r.time;
            let Some(s) = &mut r.source else { continue };
            if st.stopping || over_budget {
                continue;
            }
            if let Some(column) = r.arrival {
                unstamped.extend(time.iter().filter_map(|t| t.late).chain([*id]).map(|id| (id, column)));
            }
            while room > 0
                && let Some(i) = s.buffer.pop_front()
            {
                room = room.saturating_sub(i.batch.len().max(1));
                s.buffer_rows -= i.batch.len();
                s.rows += i.batch.len() as u64;
                s.bytes += i.chunk.bytes as u64;
                // A stream that is read again from its start meets the same records: they are reported already.
                let reported = s.reported.entry(i.chunk.split.clone()).or_insert(Position(0));
                if let Some(t) = time {
                    t.seal(&i.chunk.split, i.mark);
                    if let (Some(late), Some(rows)) = (t.late, i.late.filter(|_| i.chunk.end > *reported)) {
                        changes.entry(late).or_default().push(rows);
                    }
                }
                let new = i.chunk.bad.into_iter().filter(|b| b.position >= *reported);
                let before = bad.len();
                bad.extend(new.map(|b| (*id, b)));
                s.bad += (bad.len() - before) as u64;
                *reported = (*reported).max(i.chunk.end);
                s.positions.insert(i.chunk.split, i.chunk.end);
                if !i.batch.is_empty() {
                    changes.entry(*id).or_default().push(i.batch);
                }
            }
        }
        for (id, column) in unstamped {
            for batch in changes.get_mut(&id).into_iter().flatten() {
                match arrival::stamp(batch.clone(), column, st.clock) {
                    Ok(stamped) => *batch = stamped,
                    Err(e) => {
                        self.fail(e);
                        return;
                    }
                }
            }
        }
        for w in st.writes.drain(..) {
            st.wal_seq = st.wal_seq.max(w.wal_seq);
            let Some(r) = st.relations.get_mut(&w.relation) else { continue };
            r.last_write = epoch;
            let mut batch = w.batch;
            if let Some(t) = &mut r.time {
                let clients = SplitId::from(CLIENTS);
                match t.deliver(&clients, batch, st.clock) {
                    Ok(sorted) => {
                        t.seal(&clients, sorted.mark);
                        if let (Some(late), Some(rows)) = (t.late, sorted.late) {
                            changes.entry(late).or_default().push(rows);
                        }
                        batch = sorted.on_time;
                    }
                    Err(e) => {
                        self.fail(e);
                        return;
                    }
                }
            }
            if !batch.is_empty() {
                changes.entry(w.relation).or_default().push(batch);
            }
        }
        if !bad.is_empty() {
            let names: BTreeMap<RelationId, String> =
                st.catalog.relations.values().map(|r| (r.id, r.display_name())).collect();
            match error_rows(&bad, &names, st.clock) {
                Ok(rows) => changes.entry(ERRORS_ID).or_default().push(ZBatch::inserts(rows)),
                Err(e) => self.fail(e),
            }
        }
        let watched: Vec<RelationId> = changes.keys().copied().filter(|id| st.has_readers(*id)).collect();
        let holds: Vec<Epoch> = st.holds.keys().copied().collect();
        for (id, batches) in changes {
            let Some(r) = st.relations.get_mut(&id) else { continue };
            r.counters.rows_out += batches.iter().map(|b| b.len() as u64).sum::<u64>();
            if let Some(store) = &mut r.store {
                let indexes = &mut r.indexes;
                let append = |b: &ZBatch| {
                    store.append(b)?;
                    indexes.iter_mut().try_for_each(|(_, i)| i.append(b))
                };
                let appended = batches.iter().try_for_each(append).and_then(|()| r.hosted.append(&batches));
                if let Err(e) = appended {
                    self.fail(e);
                    return;
                }
                if let Some(version) = r.stored_version() {
                    r.publish(epoch, version, &holds);
                }
            }
            if watched.contains(&id) {
                r.push_delta(epoch, batches);
            }
        }
        let mut moved: Vec<(RelationId, i64)> = Vec::new();
        for (id, r) in &mut st.relations {
            let Some(t) = &mut r.time else { continue };
            let due = t.due();
            if due > t.watermark
                && let Some(mark) = due
            {
                t.watermark = due;
                moved.extend(t.late.into_iter().chain([*id]).map(|r| (r, mark)));
            }
        }
        for (id, mark) in moved {
            if let Some(r) = st.relations.get_mut(&id) {
                r.watermarks.push_back((epoch, mark));
            }
        }
        st.sealed = epoch;
        for r in st.relations.values_mut().filter(|r| !r.derived) {
            r.frontier = epoch;
        }
        st.prune_hubs();
    }
}

impl State {
    fn has_readers(&self, id: RelationId) -> bool {
        self.groups.values().any(|g| g.inputs.contains(&id)) || self.cursors.values().any(|c| c.relations.contains(&id))
    }

    /// The clock of an epoch.
    pub(super) fn clock_at(&self, epoch: Epoch) -> Timestamp {
        let after = self.clocks.partition_point(|(e, _)| *e <= epoch);
        after.checked_sub(1).map_or(self.clock, |i| self.clocks[i].1)
    }

    /// What is promised, at the end of an epoch, of the streams among these relations.
    pub(super) fn promises(&self, relations: &BTreeSet<RelationId>, epoch: Epoch) -> Promises {
        let mut promises = Promises::default();
        for id in relations {
            let (Some(relation), Some(r)) = (self.catalog.relations.get(id), self.relations.get(id)) else { continue };
            let mark = r.watermark_at(epoch);
            let arrived = r.arrival.and_then(|_| self.arrived_at(epoch));
            if mark.is_some() || arrived.is_some() {
                let mut bounds = bounds_of(relation, mark);
                arrival::add_bound(relation, arrived, &mut bounds);
                if relation.meta.late_of.is_some() {
                    promises.late.insert(*id);
                }
                promises.bounds.insert(*id, bounds);
            }
        }
        promises
    }

    /// True if time came further for one of these relations between two epochs.
    pub(super) fn time_moved(&self, relations: &BTreeSet<RelationId>, from: Epoch, to: Epoch) -> bool {
        let moved = |r: &RelationRt| r.watermark_at(to) > r.watermark_at(from);
        relations.iter().filter_map(|id| self.relations.get(id)).any(moved) || self.arrivals_moved(relations, from, to)
    }

    /// Forgets times that everybody has passed.
    fn prune_times(&mut self) {
        let behind = self.groups.values().map(|g| g.frontier).chain(self.cursors.values().map(|c| c.epoch)).min();
        let until = behind.unwrap_or(self.sealed).min(self.sealed);
        while self.clocks.get(1).is_some_and(|(e, _)| *e <= until) {
            self.clocks.pop_front();
        }
        while self.arrivals.get(1).is_some_and(|(e, _)| *e <= until) {
            self.arrivals.pop_front();
        }
        for r in self.relations.values_mut() {
            while r.watermarks.get(1).is_some_and(|(e, _)| *e <= until) {
                r.watermarks.pop_front();
            }
        }
    }

    /// Forgets deltas every reader has passed; cuts off subscribers whose hub is over budget.
    pub(super) fn prune_hubs(&mut self) {
        self.prune_times();
        for (id, r) in &mut self.relations {
            if r.deltas.is_empty() {
                continue;
            }
            let groups = self.groups.values().filter(|g| g.inputs.contains(id)).map(|g| g.frontier);
            let slowest_group = groups.min();
            let cursors = self.cursors.values().filter(|c| !c.lost && c.relations.contains(id)).map(|c| c.epoch);
            let until = cursors.chain(slowest_group).min().unwrap_or(Epoch(u64::MAX));
            r.drop_deltas_until(until);
            if r.delta_bytes > HUB_BYTES_MAX {
                let needed_by_group = slowest_group.is_some_and(|f| r.deltas.front().is_some_and(|d| d.epoch > f));
                if !needed_by_group {
                    for c in self.cursors.values_mut().filter(|c| c.may_lose && c.relations.contains(id)) {
                        c.lost = true;
                    }
                }
                let cursors = self.cursors.values().filter(|c| !c.lost && c.relations.contains(id)).map(|c| c.epoch);
                r.drop_deltas_until(cursors.chain(slowest_group).min().unwrap_or(Epoch(u64::MAX)));
            }
        }
    }
}

impl RelationRt {
    pub(super) fn buffered_rows(&self) -> usize {
        self.source.as_ref().map_or(0, |s| s.buffer_rows)
    }
}

/// Columns of `ms.errors`.
pub(crate) fn errors_schema() -> SchemaRef {
    let text = |n: &str, nullable| Field::new(n, DataType::Utf8View, nullable);
    Arc::new(Schema::new(vec![
        text("relation", false),
        text("origin", false),
        text("partition", false),
        Field::new("offset", DataType::Int64, false),
        text("column_name", true),
        text("reason", false),
        text("payload", true),
        Field::new("received_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
    ]))
}

fn error_rows(
    bad: &[(RelationId, BadRecord)],
    names: &BTreeMap<RelationId, String>,
    clock: Timestamp,
) -> Result<RecordBatch> {
    let text = |f: &dyn Fn(&(RelationId, BadRecord)) -> Option<String>| -> ArrayRef {
        Arc::new(bad.iter().map(f).collect::<StringViewArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|(id, _)| Some(names.get(id).cloned().unwrap_or_else(|| format!("#{}", id.0)))),
        text(&|(_, b)| Some(b.origin.clone())),
        text(&|(_, b)| Some(b.split.to_string())),
        Arc::new(bad.iter().map(|(_, b)| Some(b.position.0 as i64)).collect::<Int64Array>()),
        text(&|(_, b)| b.column.clone()),
        text(&|(_, b)| Some(b.reason.clone())),
        text(&|(_, b)| Some(String::from_utf8_lossy(&b.payload).into_owned())),
        Arc::new(
            std::iter::repeat_n(Some(clock.0), bad.len()).collect::<TimestampMicrosecondArray>().with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_new(errors_schema(), columns).e()
}
