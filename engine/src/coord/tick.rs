//! Scheduling groups, and what a tick does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use millstream_sql::plan::RelationId;

use super::{EngineInner, GroupId, GroupRunner, State, TICK_ROWS_MAX, Version};
use crate::error::{Error, Result};
use crate::job::shared::{IndexSpec, SharedIndexes};
use crate::job::{JobRunner, Promises, TickOutput, TickRange};
use crate::ops::{ErrorSet, StateStats};
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;

/// Rows of merging done after a tick, so that background work never stands before the next one for long.
const MAINTAIN_FUEL: usize = 256 * 1024;

/// What one job did in a tick.
struct JobTick {
    job: RelationId,
    result: std::result::Result<TickOutput, Error>,
    version: Option<Version>,
    stats: StateStats,
    view: StateStats,
    held_back: Option<(usize, Option<i64>)>,
    busy_us: u64,
}

impl EngineInner {
    /// Starts every freeze and every tick that can start now.
    pub(super) fn schedule(self: &Arc<Self>, st: &mut State) {
        if self.failure().is_some() {
            return;
        }
        let idle: Vec<GroupId> = st.groups.iter().filter(|(_, g)| !g.running).map(|(id, _)| *id).collect();
        for id in idle {
            if !self.start_freeze(st, id) {
                self.start_tick(st, id);
            }
        }
    }

    fn start_tick(self: &Arc<Self>, st: &mut State, id: GroupId) {
        let Some((from, to)) = st.next_range(id) else { return };
        let Some(group) = st.groups.get(&id) else { return };
        let mut inputs: HashMap<RelationId, Vec<ZBatch>> = HashMap::new();
        for relation in &group.inputs {
            if let Some(r) = st.relations.get(relation) {
                let batches: Vec<ZBatch> = r.deltas_between(from, to).flat_map(|d| d.batches.iter().cloned()).collect();
                if !batches.is_empty() {
                    inputs.insert(*relation, batches);
                }
            }
        }
        let clock = st.clock_at(to);
        let at = TickRange { from, to, clock };
        let promises = st.promises(&group.inputs, to);
        let time_moved = st.time_moved(&group.inputs, from, to);
        let specs = st.groups.get(&id).and_then(|g| g.runner.as_ref());
        let specs = specs.iter().flat_map(|r| &r.jobs).flat_map(|(_, j)| j.shared());
        let shared = st.shared_at(specs, to, false);
        let Some(group) = st.groups.get_mut(&id) else { return };
        let woken = group.wakeup.is_some_and(|w| w <= clock);
        // A view over quiet inputs moves on without a tick. (Its first tick ran when it was built.)
        if inputs.is_empty() && !time_moved && !woken {
            group.frontier = to;
            let jobs = group.jobs.clone();
            for job in jobs {
                if let Some(r) = st.relations.get_mut(&job) {
                    r.frontier = to;
                }
            }
            self.schedule_again(st, id);
            return;
        }
        let Some(mut runner) = group.runner.take() else { return };
        group.running = true;
        let inner = self.clone();
        self.pool.spawn(move || {
            let ticks = tick_group(&mut runner, inputs, promises, shared, at);
            {
                let mut st = inner.lock();
                inner.finish_tick(&mut st, id, runner, ticks, at);
                inner.advance(&mut st);
            }
            inner.maintain(id);
        });
    }

    fn schedule_again(self: &Arc<Self>, st: &mut State, id: GroupId) {
        if !self.start_freeze(st, id) && st.next_range(id).is_some() {
            self.start_tick(st, id);
        }
    }

    fn finish_tick(
        self: &Arc<Self>,
        st: &mut State,
        id: GroupId,
        runner: GroupRunner,
        ticks: Vec<JobTick>,
        at: TickRange,
    ) {
        let holds: Vec<Epoch> = st.holds.keys().copied().collect();
        let subscribed: BTreeSet<RelationId> = st.cursors.values().flat_map(|c| c.relations.iter().copied()).collect();
        for tick in ticks {
            let Some(r) = st.relations.get_mut(&tick.job) else { continue };
            match tick.result {
                Ok(output) => {
                    r.counters.ticks += 1;
                    r.counters.busy_us += tick.busy_us;
                    r.counters.rows_in += output.rows_in as u64;
                    r.counters.rows_out += output.changes.iter().map(|b| b.len() as u64).sum::<u64>();
                    r.counters.state_rows = tick.stats.rows;
                    r.counters.state_bytes = tick.stats.bytes;
                    r.counters.view = tick.view;
                    r.counters.held_back = tick.held_back;
                    r.frontier = at.to;
                    if let Some(v) = tick.version {
                        r.publish(at.to, v, &holds);
                    }
                    if subscribed.contains(&tick.job) && !output.changes.is_empty() {
                        r.push_delta(at.to, output.changes);
                    }
                }
                Err(e) => {
                    tracing::error!(view = tick.job.0, code = e.code.0, "view quarantined: {}", e.message);
                    r.quarantined = Some(e.message);
                }
            }
        }
        if let Some(group) = st.groups.get_mut(&id) {
            group.frontier = at.to;
        }
        self.put_back(st, id, runner);
        st.prune_hubs();
    }

    /// Merges runs between ticks, if nobody wants the group now.
    fn maintain(self: &Arc<Self>, id: GroupId) {
        let mut runner = {
            let mut st = self.lock();
            let Some(group) = st.groups.get_mut(&id) else { return };
            // Who parked a group counts on finding its jobs in it.
            if group.running || group.parked_at.is_some() {
                return;
            }
            let Some(runner) = group.runner.take() else { return };
            group.running = true;
            runner
        };
        let mut failure = None;
        for (job, j) in &mut runner.jobs {
            let merged = std::panic::catch_unwind(AssertUnwindSafe(|| j.maintain(MAINTAIN_FUEL)));
            if let Err(e) = merged.unwrap_or_else(|p| Err(panic_error(&p))) {
                failure = Some((*job, e));
            }
        }
        let mut st = self.lock();
        if let Some((job, e)) = failure
            && let Some(r) = st.relations.get_mut(&job)
        {
            r.quarantined = Some(e.message);
        }
        self.put_back(&mut st, id, runner);
        self.advance(&mut st);
    }

    /// A group that ran stands still again; jobs that failed, and those that read them, have left it.
    pub(super) fn put_back(&self, st: &mut State, id: GroupId, mut runner: GroupRunner) {
        for (job, j) in &runner.jobs {
            let failed = |r: &RelationId| st.relations.get(r).is_some_and(|r| r.quarantined.is_some());
            if !failed(job)
                && j.plan().relations().iter().any(failed)
                && let Some(r) = st.relations.get_mut(job)
            {
                r.quarantined = Some("a view it reads is quarantined".into());
            }
        }
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut runner.jobs)
            .into_iter()
            .partition(|(job, _)| st.relations.get(job).is_some_and(|r| r.quarantined.is_none()));
        runner.jobs = kept;
        for (job, j) in &mut runner.jobs {
            let wanted = &st.shared_wanted;
            j.hosted_mut().retain(|c| wanted.contains(&IndexSpec { relation: *job, columns: c.to_vec() }));
        }
        for (_, job) in gone {
            for relation in job.plan().relations() {
                self.detach_source(st, relation);
            }
        }
        if runner.jobs.is_empty() {
            st.groups.remove(&id);
        } else if let Some(group) = st.groups.get_mut(&id) {
            group.running = false;
            group.jobs = runner.jobs.iter().map(|(job, _)| *job).collect();
            group.inputs = group_inputs(&runner);
            group.wakeup = runner.next_wakeup();
            group.runner = Some(runner);
        }
    }
}

impl GroupRunner {
    /// When an operator of the group wants a tick though nothing came.
    pub(super) fn next_wakeup(&self) -> Option<Timestamp> {
        self.jobs.iter().filter_map(|(_, j)| j.next_wakeup()).min()
    }
}

impl State {
    /// The next tick `(from, to]` of a group: up to the next cut, the place it is parked at, or as many sealed epochs
    /// as fit a tick.
    fn next_range(&self, id: GroupId) -> Option<(Epoch, Epoch)> {
        let group = self.groups.get(&id)?;
        if group.running {
            return None;
        }
        let from = group.frontier;
        let mut to = self.sealed.min(group.parked_at.unwrap_or(Epoch(u64::MAX)));
        if let Some((cut, _)) = self.cuts.range(from.next()..).next() {
            to = to.min(*cut);
        }
        if to <= from {
            return None;
        }
        let mut by_epoch: BTreeMap<Epoch, usize> = BTreeMap::new();
        for relation in &group.inputs {
            if let Some(r) = self.relations.get(relation) {
                for d in r.deltas_between(from, to) {
                    *by_epoch.entry(d.epoch).or_insert(0) += d.batches.iter().map(ZBatch::len).sum::<usize>();
                }
            }
        }
        let alone = group.runner.as_ref().is_some_and(|r| r.jobs.iter().any(|(_, j)| j.by_epoch()));
        let rows_max = if alone { 1 } else { TICK_ROWS_MAX };
        let mut rows = 0;
        for (epoch, n) in by_epoch {
            rows += n;
            if rows >= rows_max {
                to = to.min(epoch);
                break;
            }
        }
        Some((from, to))
    }
}

/// Base relations read by the jobs of a group: everything they read that no job of the group makes.
pub(super) fn group_inputs(runner: &GroupRunner) -> BTreeSet<RelationId> {
    let made: BTreeSet<RelationId> = runner.jobs.iter().map(|(job, _)| *job).collect();
    runner.jobs.iter().flat_map(|(_, j)| j.plan().relations()).filter(|r| !made.contains(r)).collect()
}

/// Runs every job of a group over one range, upstream first. A job that fails takes its dependents with it, nobody else.
fn tick_group(
    runner: &mut GroupRunner,
    mut inputs: HashMap<RelationId, Vec<ZBatch>>,
    mut promises: Promises,
    mut indexes: SharedIndexes,
    at: TickRange,
) -> Vec<JobTick> {
    let mut ticks: Vec<JobTick> = Vec::with_capacity(runner.jobs.len());
    let mut failed: BTreeSet<RelationId> = BTreeSet::new();
    let shared = runner.jobs.len() > 1;
    for (job, j) in &mut runner.jobs {
        let reads = j.plan().relations();
        if let Some(upstream) = reads.iter().find(|r| failed.contains(r)) {
            failed.insert(*job);
            let e = Error::internal(format!("the view it reads (relation {}) is quarantined", upstream.0));
            let stats = StateStats::default();
            ticks.push(JobTick {
                job: *job,
                result: Err(e),
                version: None,
                stats,
                view: stats,
                held_back: None,
                busy_us: 0,
            });
            continue;
        }
        let started = Instant::now();
        let own: HashMap<RelationId, Vec<ZBatch>> =
            reads.iter().filter_map(|r| inputs.get(r).map(|b| (*r, b.clone()))).collect();
        j.set_time(&promises);
        let result = guarded(j, |j| j.rebase(&indexes).and_then(|()| j.finish(&own, at)));
        for (columns, rows) in j.hosted().snapshots() {
            indexes.insert(IndexSpec { relation: *job, columns }, rows);
        }
        if shared {
            j.promise(*job, &mut promises);
        }
        let version = match &result {
            Ok(output) => {
                if shared && !output.changes.is_empty() {
                    inputs.insert(*job, output.changes.clone());
                }
                Some(version_of(j))
            }
            Err(_) => {
                failed.insert(*job);
                None
            }
        };
        let busy_us = started.elapsed().as_micros() as u64;
        let (stats, view, held_back) = (j.stats(), j.view_stats(), j.held_back());
        ticks.push(JobTick { job: *job, result, version, stats, view, held_back, busy_us });
    }
    ticks
}

/// The readable version of a job after a tick.
pub(super) fn version_of(job: &JobRunner) -> Version {
    let errors = if job.errors().is_empty() { Arc::new(ErrorSet::default()) } else { Arc::new(job.errors().clone()) };
    Version { shards: job.snapshot(), errors, indexes: job.index_snapshots(), shared: job.hosted().snapshots() }
}

/// Runs a step of a job; a panic is an error of this job alone.
pub(super) fn guarded<T>(job: &mut JobRunner, step: impl FnOnce(&mut JobRunner) -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(|| step(job))).unwrap_or_else(|p| Err(panic_error(&p)))
}

fn panic_error(payload: &Box<dyn std::any::Any + Send>) -> Error {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Error::internal(format!("panic in an operator: {text}"))
}
