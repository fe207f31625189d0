//! Building and dropping views in a running system.
//!
//! A new view takes a cut b, reads the history up to b (tables and views from their versions at b, streams that others
//! already follow with readers of its own, see [`super::history`]), then catches up over the deltas its cursor kept since
//! b, and is published atomically. The views it reads are parked only for the last, short step.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use millstream_connectors::Positions;
use millstream_sql::plan::RelationId;
use tokio::sync::oneshot;

use super::history::{History, push_histories};
use super::ingest::reached;
use super::tick::{guarded, version_of};
use super::{EngineInner, GroupId, GroupRunner, State};
use crate::catalog::{Body, Catalog, Relation};
use crate::ckpt::PausedRef;
use crate::error::{Error, Result, SqlState};
use crate::job::{JobRunner, TickRange};
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;

/// History is pushed in pieces of about this many rows.
pub(super) const CHUNK_ROWS: usize = 64 * 1024;
/// Catch-up rounds before the inputs are parked whatever the lag.
const ROUNDS_MAX: usize = 20;
/// A catch-up round with fewer rows than this is short enough to do while the inputs are parked.
const SHORT_ROUND_ROWS: usize = 20_000;

/// What a build has claimed; released on success and failure alike.
pub(super) struct Claim {
    inner: Arc<EngineInner>,
    cursor: u64,
    pub base: Epoch,
    streams: Vec<RelationId>,
    kept: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut st = self.inner.lock();
        st.cursors.remove(&self.cursor);
        st.remove_cut(self.base);
        st.remove_hold(self.base);
        if !self.kept {
            for s in &self.streams {
                self.inner.detach_source(&mut st, *s);
            }
        }
        st.prune_hubs();
        self.inner.advance(&mut st);
    }
}

/// Builds a view that is already in the catalog and in `State::relations`; returns when it is live and, for bounded
/// inputs, has seen them all. On failure the view is *not* removed from the catalog.
pub(crate) async fn create_view(inner: &Arc<EngineInner>, id: RelationId, wait_for_inputs: bool) -> Result<()> {
    build(inner, id).await?;
    if wait_for_inputs {
        wait_for_bounded_inputs(inner, id).await?;
    }
    Ok(())
}

/// Rebuilds a view after a restart that found no state of it.
pub(super) fn build_in_background(inner: &Arc<EngineInner>, id: RelationId) {
    let task = inner.clone();
    inner.tasks.spawn(async move {
        if let Err(e) = build(&task, id).await {
            tracing::error!(view = id.0, "view could not be built: {}", e.message);
            let mut st = task.lock();
            if let Some(r) = st.relations.get_mut(&id) {
                r.backfilling = false;
                r.quarantined = Some(e.message);
            }
            task.advance(&mut st);
        }
    });
}

/// Builds a view from history.
pub(super) async fn build(inner: &Arc<EngineInner>, id: RelationId) -> Result<()> {
    let relation = catalog_relation(inner, id)?;
    let Body::MaterializedView { plan, .. } = &relation.body else {
        return Err(Error::internal("only materialized views are built"));
    };
    let inputs: BTreeSet<RelationId> = plan.relations().into_iter().collect();
    wait_until_built(inner, &inputs).await?;
    let mut job = JobRunner::new(plan.clone(), inner.workers, &inner.session_template)?;
    super::shared::share(inner, &mut job).await?;
    if plan.follows_clock() || inner.lock().reads_arrivals(&inputs) {
        inner.seal_clock();
    }
    let (claim, mut claimed) = claim(inner, &inputs, None)?;
    let base = claim.base;
    wait_for_frontier(inner, &inputs, base).await?;

    // Tables and views, as of `base`.
    let at = TickRange { from: Epoch(0), to: base, clock: claimed.clock };
    for input in &inputs {
        let version = inner.lock().relation(*input)?.version_at(base);
        let Some((_, version)) = version else { continue };
        for shard in &version.shards {
            for batch in shard.scan()? {
                for start in (0..batch.len()).step_by(CHUNK_ROWS) {
                    let piece = batch.slice(start, CHUNK_ROWS.min(batch.len() - start));
                    let pieces = HashMap::from([(*input, vec![piece])]);
                    job = on_pool(inner, job, move |j| j.push(&pieces, at)).await?.0;
                }
            }
        }
    }
    // Streams that others follow already, from their start to where they were at `base`.
    job = push_histories(inner, job, std::mem::take(&mut claimed.ranges), at, Some(&inputs)).await?;
    job.set_time(&inner.lock().promises(&inputs, base));
    let nothing: HashMap<RelationId, Vec<ZBatch>> = HashMap::new();
    let shared = inner.lock().shared_at(job.shared(), base, true);
    job = on_pool(inner, job, move |j| j.rebase(&shared).and_then(|()| j.finish(&nothing, at))).await?.0;
    let indexes = relation.meta.indexes.clone();
    job = on_pool(inner, job, move |j| indexes.iter().try_for_each(|i| j.add_index(i.id, &i.columns))).await?.0;
    join_group(inner, id, Joining { job, frontier: base, changes: None }, &inputs, claim).await
}

/// A view on its way into a group.
pub(super) struct Joining {
    pub job: JobRunner,
    /// Where it stands.
    pub frontier: Epoch,
    /// What its ticks changed, if somebody may follow it already.
    pub changes: Option<Vec<ZBatch>>,
}

/// Catches up with what happened while the view was made, then joins the group of the views it reads.
pub(super) async fn join_group(
    inner: &Arc<EngineInner>,
    id: RelationId,
    mut view: Joining,
    inputs: &BTreeSet<RelationId>,
    claim: Claim,
) -> Result<()> {
    for _ in 0..ROUNDS_MAX {
        let (to, rows) = round_target(inner, inputs, view.frontier)?;
        if rows < SHORT_ROUND_ROWS {
            break;
        }
        let cut = CutGuard::new(inner, to);
        wait_for_frontier(inner, inputs, to).await?;
        view = catch_up(inner, view, inputs, claim.cursor, to).await?;
        drop(cut);
    }
    attach(inner, id, view, inputs, claim).await
}

/// What the new view must read itself.
pub(super) struct Claimed {
    pub ranges: Vec<History>,
    pub clock: Timestamp,
}

/// Takes a cut of the inputs. Streams are read from their start, or from where the view stopped.
pub(super) fn claim(
    inner: &Arc<EngineInner>,
    inputs: &BTreeSet<RelationId>,
    stopped_at: Option<&PausedRef>,
) -> Result<(Claim, Claimed)> {
    let mut guard = inner.lock();
    let st = &mut *guard;
    let base = st.sealed;
    let mut ranges = Vec::new();
    let mut streams = Vec::new();
    for input in inputs {
        let Some(relation) = st.catalog.relations.get(input).cloned() else {
            return Err(Error::new(SqlState::UNDEFINED_TABLE, "an input of the view was dropped"));
        };
        if let Body::Connector { start, .. } = &relation.body {
            streams.push(*input);
            let now = inner.options.clock.now();
            let Some(r) = st.relations.get_mut(input) else { continue };
            let Some(s) = r.source.as_mut() else { continue };
            let from = stopped_at.and_then(|p| p.sources.get(&input.0));
            let time = stopped_at.and_then(|p| p.event_time.get(&input.0)).cloned().unwrap_or_default();
            if s.readers > 0 {
                ranges.push(History {
                    stream: relation.clone(),
                    from: from.unwrap_or(start).clone(),
                    to: s.positions.clone(),
                    marks: time.partitions,
                });
            } else {
                // Positions without a reader are left from views that are gone: this view begins at the beginning.
                s.positions = from.cloned().unwrap_or_default();
                if let Some(t) = &mut r.time {
                    t.restore(time, now);
                }
            }
        }
    }
    st.add_cut(base);
    st.add_hold(base);
    let cursor = st.add_cursor(inputs.clone(), base, false);
    for s in &streams {
        inner.attach_source(st, *s);
    }
    let clock = st.clock;
    drop(guard);
    Ok((Claim { inner: inner.clone(), cursor, base, streams, kept: false }, Claimed { ranges, clock }))
}

/// Runs a step of a job on the compute pool.
pub(super) async fn on_pool<T: Send + 'static>(
    inner: &Arc<EngineInner>,
    mut job: JobRunner,
    step: impl FnOnce(&mut JobRunner) -> Result<T> + Send + 'static,
) -> Result<(JobRunner, T)> {
    let (done, result) = oneshot::channel();
    inner.pool.spawn(move || {
        let r = guarded(&mut job, step);
        // If the build was given up, the job is dropped with the message.
        let _ = done.send((job, r));
    });
    match result.await {
        Ok((job, Ok(t))) => Ok((job, t)),
        Ok((_, Err(e))) => Err(e),
        Err(_) => Err(Error::new(SqlState::ADMIN_SHUTDOWN, "the engine is stopping")),
    }
}

fn round_target(inner: &Arc<EngineInner>, inputs: &BTreeSet<RelationId>, from: Epoch) -> Result<(Epoch, usize)> {
    let st = inner.lock();
    let to = st.sealed;
    let mut rows = 0;
    for i in inputs {
        rows += st.relation(*i)?.deltas_between(from, to).flat_map(|d| &d.batches).map(ZBatch::len).sum::<usize>();
    }
    Ok((to, rows))
}

async fn catch_up(
    inner: &Arc<EngineInner>,
    view: Joining,
    inputs: &BTreeSet<RelationId>,
    cursor: u64,
    to: Epoch,
) -> Result<Joining> {
    let Joining { job, frontier: from, mut changes } = view;
    let (deltas, clock, promises, shared) = {
        let st = inner.lock();
        let mut deltas: HashMap<RelationId, Vec<ZBatch>> = HashMap::new();
        for i in inputs {
            let batches: Vec<ZBatch> =
                st.relation(*i)?.deltas_between(from, to).flat_map(|d| d.batches.iter().cloned()).collect();
            deltas.insert(*i, batches);
        }
        (deltas, st.clock_at(to), st.promises(inputs, to), st.shared_at(job.shared(), to, false))
    };
    let at = TickRange { from, to, clock };
    let mut job = job;
    job.set_time(&promises);
    let (job, output) = on_pool(inner, job, move |j| j.rebase(&shared).and_then(|()| j.finish(&deltas, at))).await?;
    if let Some(all) = &mut changes {
        all.extend(output.changes);
    }
    let mut st = inner.lock();
    if let Some(c) = st.cursors.get_mut(&cursor) {
        c.epoch = to;
    }
    st.prune_hubs();
    Ok(Joining { job, frontier: to, changes })
}

/// The last step: with the views it reads parked at one epoch, bring the new view there and join their group.
async fn attach(
    inner: &Arc<EngineInner>,
    id: RelationId,
    mut view: Joining,
    inputs: &BTreeSet<RelationId>,
    mut claim: Claim,
) -> Result<()> {
    let _structure = inner.structure.lock().await;
    let (to, parked) = {
        let mut st = inner.lock();
        let to = st.sealed;
        let parked = park(&mut st, inputs, to);
        (to, parked)
    };
    let parked = Parked { inner: inner.clone(), groups: parked };
    parked.wait(to).await?;
    if to > view.frontier {
        view = catch_up(inner, view, inputs, claim.cursor, to).await?;
    }
    let Joining { job, changes, .. } = view;
    let mut guard = inner.lock();
    let st = &mut *guard;
    if !st.relations.contains_key(&id) {
        return Err(Error::new(SqlState::UNDEFINED_TABLE, "the view was dropped while it was built"));
    }
    let version = version_of(&job);
    let stats = job.stats();
    let holds: Vec<Epoch> = st.holds.keys().copied().collect();
    let followed = st.cursors.values().any(|c| c.relations.contains(&id));
    if let Some(r) = st.relations.get_mut(&id) {
        r.publish(to, version, &holds);
        r.frontier = to;
        r.backfilling = false;
        r.joined += 1;
        r.paused = false;
        if let Some(changes) = changes.filter(|c| followed && !c.is_empty()) {
            r.push_delta(to, changes);
        }
        r.counters.state_rows = stats.rows;
        r.counters.state_bytes = stats.bytes;
        r.counters.view = job.view_stats();
        r.counters.held_back = job.held_back();
    }
    st.paused.remove(&id);
    let mut jobs: Vec<(RelationId, JobRunner)> = Vec::new();
    for g in &parked.groups {
        if let Some(group) = st.groups.remove(g) {
            jobs.extend(group.runner.into_iter().flat_map(|r| r.jobs));
        }
    }
    jobs.push((id, job));
    jobs.sort_by_key(|(id, _)| *id);
    let group_id = st.next_group;
    st.next_group += 1;
    let runner = GroupRunner { jobs };
    let group = super::Group {
        jobs: runner.jobs.iter().map(|(id, _)| *id).collect(),
        inputs: super::tick::group_inputs(&runner),
        frontier: to,
        running: false,
        parked_at: None,
        wakeup: runner.next_wakeup(),
        runner: Some(runner),
    };
    st.groups.insert(group_id, group);
    // The sources attached by the claim belong to the view from now on.
    claim.kept = true;
    drop(guard);
    drop(claim);
    Ok(())
}

/// Groups that hold still; released on drop.
pub(super) struct Parked {
    pub inner: Arc<EngineInner>,
    pub groups: Vec<GroupId>,
}

pub(super) fn park(st: &mut State, views: &BTreeSet<RelationId>, at: Epoch) -> Vec<GroupId> {
    let mut parked = Vec::new();
    for (id, g) in &mut st.groups {
        if g.jobs.iter().any(|j| views.contains(j)) {
            g.parked_at = Some(at.max(g.frontier));
            parked.push(*id);
        }
    }
    parked
}

impl Parked {
    pub(super) async fn wait(&self, at: Epoch) -> Result<()> {
        {
            let mut st = self.inner.lock();
            self.inner.advance(&mut st);
        }
        self.inner
            .wait(|st| {
                let still =
                    |g: &GroupId| st.groups.get(g).is_none_or(|g| !g.running && g.runner.is_some() && g.frontier >= at);
                self.groups.iter().all(still).then_some(Ok(()))
            })
            .await
    }
}

impl Parked {
    /// Takes jobs out of the groups, which stand still; sources nobody reads any more stop.
    pub(super) fn take_jobs(&self, st: &mut State, views: &BTreeSet<RelationId>) -> Vec<(RelationId, JobRunner)> {
        let mut taken = Vec::new();
        for g in &self.groups {
            let Some(group) = st.groups.get_mut(g) else { continue };
            let Some(runner) = &mut group.runner else { continue };
            let (gone, kept): (Vec<_>, Vec<_>) =
                std::mem::take(&mut runner.jobs).into_iter().partition(|(id, _)| views.contains(id));
            runner.jobs = kept;
            group.jobs = runner.jobs.iter().map(|(id, _)| *id).collect();
            group.inputs = super::tick::group_inputs(runner);
            if group.jobs.is_empty() {
                st.groups.remove(g);
            }
            for (_, job) in &gone {
                for relation in job.plan().relations() {
                    self.inner.detach_source(st, relation);
                }
            }
            taken.extend(gone);
        }
        taken
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let mut st = self.inner.lock();
        for g in &self.groups {
            if let Some(g) = st.groups.get_mut(g) {
                g.parked_at = None;
            }
        }
        self.inner.advance(&mut st);
    }
}

/// A cut that ends with its guard.
pub(crate) struct CutGuard {
    inner: Arc<EngineInner>,
    pub(crate) epoch: Epoch,
}

impl CutGuard {
    pub(crate) fn new(inner: &Arc<EngineInner>, epoch: Epoch) -> Self {
        let mut st = inner.lock();
        st.add_cut(epoch);
        Self { inner: inner.clone(), epoch }
    }
}

impl Drop for CutGuard {
    fn drop(&mut self) {
        let mut st = self.inner.lock();
        st.remove_cut(self.epoch);
        self.inner.advance(&mut st);
    }
}

pub(super) fn catalog_relation(inner: &Arc<EngineInner>, id: RelationId) -> Result<Arc<Relation>> {
    let st = inner.lock();
    st.catalog
        .relations
        .get(&id)
        .cloned()
        .ok_or_else(|| Error::new(SqlState::UNDEFINED_TABLE, "the relation was dropped"))
}

pub(super) async fn wait_until_built(inner: &Arc<EngineInner>, inputs: &BTreeSet<RelationId>) -> Result<()> {
    inner
        .wait(|st| {
            for i in inputs {
                match st.relation(*i) {
                    Err(e) => return Some(Err(e)),
                    Ok(r) if r.quarantined.is_some() => {
                        return Some(Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, "a view it reads is quarantined")));
                    }
                    Ok(r) if r.paused => {
                        return Some(Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, "a view it reads is paused")
                            .hint("ALTER MATERIALIZED VIEW .. RESUME lets it go on.")));
                    }
                    Ok(r) if r.backfilling => return None,
                    Ok(_) => {}
                }
            }
            Some(Ok(()))
        })
        .await
}

/// Waits until every relation is known for `epoch`.
pub(crate) async fn wait_for_frontier(
    inner: &Arc<EngineInner>,
    relations: &BTreeSet<RelationId>,
    epoch: Epoch,
) -> Result<()> {
    {
        let mut st = inner.lock();
        let reached = relations.iter().all(|r| st.relations.get(r).is_some_and(|r| r.frontier >= epoch));
        if !reached {
            inner.advance(&mut st);
        }
    }
    inner
        .wait(|st| {
            for id in relations {
                match st.relation(*id) {
                    Err(e) => return Some(Err(e)),
                    Ok(r) => {
                        if let Some(reason) = &r.quarantined {
                            return Some(Err(Error::new(
                                SqlState::OBJECT_NOT_IN_STATE,
                                format!("a view is quarantined: {reason}"),
                            )));
                        }
                        if r.paused && r.frontier < epoch {
                            return Some(Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, "a view is paused")));
                        }
                        if r.frontier < epoch || r.backfilling {
                            return None;
                        }
                    }
                }
            }
            Some(Ok(()))
        })
        .await
}

/// Waits until a view has seen everything its file and bounded inputs hold now.
async fn wait_for_bounded_inputs(inner: &Arc<EngineInner>, id: RelationId) -> Result<()> {
    let mut streams = BTreeSet::new();
    base_streams(&inner.lock().catalog, id, &mut streams);
    for s in streams {
        let relation = catalog_relation(inner, s)?;
        let Body::Connector { options, .. } = &relation.body else { continue };
        let source = super::open_relation_source(inner, &relation).await?;
        let file = options.get("connector").is_some_and(|c| c == "file");
        if file || source.bounded() {
            let target = crate::error::ResultExt::e(source.end_positions().await)?;
            wait_for_positions(inner, s, &target).await?;
        }
    }
    let sealed = inner.lock().sealed;
    wait_for_frontier(inner, &BTreeSet::from([id]), sealed).await
}

/// Waits until a stream has been read (and sealed) up to a place; fails if its source cannot go on.
pub(crate) async fn wait_for_positions(inner: &Arc<EngineInner>, stream: RelationId, target: &Positions) -> Result<()> {
    inner
        .wait(|st| {
            let Ok(r) = st.relation(stream) else { return Some(Ok(())) };
            let s = r.source.as_ref()?;
            if s.status == "paused" {
                return Some(Ok(()));
            }
            if s.readers == 0 || (s.ended && s.buffer.is_empty()) || reached(&s.positions, target) {
                return Some(Ok(()));
            }
            s.status
                .strip_prefix("failed: ")
                .map(|reason| Err(Error::new(SqlState::IO_ERROR, format!("source failed: {reason}"))))
        })
        .await
}

/// Connector streams a relation depends on, through views.
pub(crate) fn base_streams(catalog: &Catalog, id: RelationId, out: &mut BTreeSet<RelationId>) {
    if let Some(r) = catalog.relations.get(&id) {
        if matches!(r.body, Body::Connector { .. }) {
            out.insert(id);
        }
        r.inputs.iter().for_each(|i| base_streams(catalog, *i, out));
    }
}

/// Takes relations out of the running system; the catalog without them is durable already. Dependents come first.
pub(crate) async fn drop_relations(inner: &Arc<EngineInner>, ids: &[RelationId]) -> Result<()> {
    let _structure = inner.structure.lock().await;
    let views: BTreeSet<RelationId> = ids.iter().copied().collect();
    let parked = {
        let mut st = inner.lock();
        let groups = park(&mut st, &views, Epoch(0));
        Parked { inner: inner.clone(), groups }
    };
    parked.wait(Epoch(0)).await?;
    let mut guard = inner.lock();
    let st = &mut *guard;
    parked.take_jobs(st, &views);
    for id in ids {
        st.paused.remove(id);
        st.paused_jobs.remove(id);
        st.relations.remove(id);
    }
    st.release_shared(&views);
    st.prune_hubs();
    drop(guard);
    Ok(())
}

/// Drops the view of a `SUBSCRIBE (SELECT ..)`, which no manifest ever named.
pub(crate) async fn drop_anonymous(inner: &Arc<EngineInner>, id: RelationId) -> Result<()> {
    let _ddl = inner.ddl.lock().await;
    drop_relations(inner, &[id]).await?;
    let mut st = inner.lock();
    let mut catalog = Catalog::clone(&st.catalog);
    catalog.remove(id);
    st.catalog = Arc::new(catalog);
    Ok(())
}
