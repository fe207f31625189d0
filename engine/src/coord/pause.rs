//! Views that stand still.
//!
//! PAUSE takes a view out of its group at an epoch f. It keeps its state, and remembers what it has seen of its inputs:
//! the version of every stored relation and the positions of every stream at f. So nothing waits for it, no delta is kept
//! for it, and RESUME can catch up exactly: a table's rows now less its rows at f, a stream from its position at f.
//!
//! The state of a paused view and the rows it has seen go with the next checkpoint, which PAUSE takes at once; a manifest
//! that names a view in `paused` holds it as of f.
//!
//! RESUME of a quarantined view builds it anew from history: its state is the state that a defect left behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use millstream_connectors::Positions;
use millstream_sql::plan::RelationId;

use super::backfill::{
    CHUNK_ROWS, Joining, Parked, build, catalog_relation, claim, join_group, on_pool, park, wait_for_frontier,
    wait_until_built,
};
use super::checkpoint::{owner_of, pause_owner};
use super::event_time::StoredTime;
use super::history::push_histories;
use super::ingest::reached;
use super::recover::ZBatchList;
use super::tick::version_of;
use super::{EngineInner, Version};
use crate::catalog::{Body, Catalog};
use crate::ckpt::PausedRef;
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::job::output::OutputSnapshot;
use crate::job::{FrozenSlot, JobRunner, TickRange};
use crate::ops::{ErrorSet, SlotDelta};
use crate::zset::ZBatch;

/// A view that stands still.
pub(crate) struct PausedView {
    job: JobRunner,
    /// Rows of the stored relations it reads, as it has seen them.
    inputs: BTreeMap<RelationId, Arc<Version>>,
}

fn not_in_state(message: impl Into<String>) -> Error {
    Error::new(SqlState::OBJECT_NOT_IN_STATE, message)
}

/// Takes views, and all that read them, out of the running system. Durable when it returns. The caller holds the DDL lock
/// and has marked them in the catalog it passes.
pub(crate) async fn pause_views(
    inner: &Arc<EngineInner>,
    views: &BTreeSet<RelationId>,
    catalog: Catalog,
) -> Result<()> {
    stop(inner, views, catalog).await?;
    super::checkpoint(inner).await.map_err(|e| {
        let message = format!("paused, but a restart would not know: {}", e.message);
        Error { message, ..e }.hint("The next checkpoint that succeeds makes it durable.")
    })
}

async fn stop(inner: &Arc<EngineInner>, views: &BTreeSet<RelationId>, catalog: Catalog) -> Result<()> {
    let _structure = inner.structure.lock().await;
    let (at, positions, times, parked) = {
        let mut st = inner.lock();
        for v in views {
            let r = st.relation(*v)?;
            if r.backfilling || r.quarantined.is_some() {
                let why = if r.backfilling { "is still being built" } else { "is quarantined" };
                let name = st.catalog.relations.get(v).map_or_else(String::new, |r| r.display_name());
                return Err(not_in_state(format!("materialized view \"{name}\" {why}")));
            }
        }
        let at = st.sealed;
        st.add_hold(at);
        let positions: BTreeMap<u64, Positions> =
            st.relations.iter().filter_map(|(id, r)| r.source.as_ref().map(|s| (id.0, s.positions.clone()))).collect();
        let times: BTreeMap<u64, StoredTime> =
            st.relations.iter().filter_map(|(id, r)| r.time.as_ref().map(|t| (id.0, t.stored()))).collect();
        let groups = park(&mut st, views, at);
        (at, positions, times, Parked { inner: inner.clone(), groups })
    };
    let waited = parked.wait(at).await;
    let taken = {
        let mut guard = inner.lock();
        let st = &mut *guard;
        let mut taken = Vec::new();
        if waited.is_ok() {
            for (id, job) in parked.take_jobs(st, views) {
                let (mut inputs, mut sources, mut event_time) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
                for input in job.plan().relations() {
                    let version = st.relations.get(&input).and_then(|r| r.version_at(at));
                    match (positions.get(&input.0), version) {
                        (Some(p), _) => {
                            sources.insert(input.0, p.clone());
                            if let Some(t) = times.get(&input.0) {
                                event_time.insert(input.0, t.clone());
                            }
                        }
                        (None, Some((_, version))) => drop(inputs.insert(input, version)),
                        (None, None) => {}
                    }
                }
                st.paused.insert(id, PausedRef { epoch: at, sources, event_time });
                if let Some(r) = st.relations.get_mut(&id) {
                    r.paused = true;
                }
                taken.push((id, job, inputs));
            }
            st.catalog = Arc::new(catalog);
            st.prune_hubs();
        }
        st.remove_hold(at);
        taken
    };
    drop(parked);
    waited?;
    for (id, job, inputs) in taken {
        let shards = job.shard_count();
        let frozen = on_pool(inner, job, JobRunner::freeze).await;
        let seen = seen_rows(&inputs);
        let mut st = inner.lock();
        match (frozen, seen) {
            (Ok((job, slots)), Ok(rows)) => {
                st.frozen_aside.push((owner_of(id, true), shards, slots));
                st.frozen_aside.push((pause_owner(id), 1, rows));
                st.paused_jobs.insert(id, PausedView { job, inputs });
            }
            (Err(e), _) | (_, Err(e)) => {
                st.paused.remove(&id);
                if let Some(r) = st.relations.get_mut(&id) {
                    r.paused = false;
                    r.quarantined = Some(e.message);
                }
            }
        }
        inner.advance(&mut st);
    }
    Ok(())
}

/// What a paused view has seen of its inputs, one node a relation.
fn seen_rows(inputs: &BTreeMap<RelationId, Arc<Version>>) -> Result<Vec<FrozenSlot>> {
    let mut slots = Vec::new();
    for (id, version) in inputs {
        let node = u32::try_from(id.0)
            .map_err(|_| Error::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "more relations than can be numbered"))?;
        let mut batches = Vec::new();
        for shard in &version.shards {
            for rows in shard.scan()? {
                batches.push(rows.to_weighted().e()?);
            }
        }
        slots.push(FrozenSlot { shard: 0, node, delta: SlotDelta { slot: "seen".into(), replaces: true, batches } });
    }
    Ok(slots)
}

/// Brings back a paused view after a restart.
pub(super) fn restore(
    inner: &Arc<EngineInner>,
    id: RelationId,
    job: JobRunner,
    at: &PausedRef,
    mut rows: BTreeMap<RelationId, ZBatchList>,
) {
    let mut st = inner.lock();
    let mut inputs = BTreeMap::new();
    for input in job.plan().relations() {
        let Some(r) = st.relations.get(&input).filter(|r| r.source.is_none()) else { continue };
        // Only ever scanned: a list of batches is enough.
        let seen = OutputSnapshot::Log(r.schema.clone(), rows.remove(&input).unwrap_or_default());
        inputs.insert(input, Arc::new(Version { shards: vec![seen], ..Version::default() }));
    }
    let (version, stats) = (version_of(&job), job.stats());
    if let Some(r) = st.relations.get_mut(&id) {
        r.publish(at.epoch, version, &[]);
        r.frontier = at.epoch;
        r.paused = true;
        r.counters.state_rows = stats.rows;
        r.counters.state_bytes = stats.bytes;
    }
    st.paused.insert(id, at.clone());
    st.paused_jobs.insert(id, PausedView { job, inputs });
}

/// Views that a crash caught between RESUME and catching up.
pub(super) fn resume_in_background(inner: &Arc<EngineInner>, views: Vec<RelationId>) {
    if views.is_empty() {
        return;
    }
    // RESUME was acknowledged: nobody may see them where they stood.
    inner.lock().resuming.extend(&views);
    let task = inner.clone();
    inner.tasks.spawn(async move {
        if let Err(e) = resume_views(&task, &views).await {
            tracing::error!("a view could not be resumed: {}", e.message);
        }
    });
}

/// Lets views go on, those that others read first; quarantined ones are built anew. A view that fails is quarantined.
pub(crate) async fn resume_views(inner: &Arc<EngineInner>, views: &[RelationId]) -> Result<()> {
    inner.lock().resuming.extend(views);
    let _resuming = Resuming { inner: inner.clone(), views: views.to_vec() };
    for id in views {
        let paused = inner.lock().relation(*id)?.paused;
        let result = if paused { catch_up(inner, *id).await } else { rebuild(inner, *id).await };
        if let Err(e) = result {
            let mut st = inner.lock();
            // A view that still has its job can be resumed again.
            if !st.paused_jobs.contains_key(id) {
                st.paused.remove(id);
                if let Some(r) = st.relations.get_mut(id) {
                    r.paused = false;
                    r.backfilling = false;
                    r.quarantined = Some(e.message.clone());
                }
            }
            inner.advance(&mut st);
            return Err(e);
        }
    }
    Ok(())
}

/// Views that readers wait for, until they have caught up or could not.
struct Resuming {
    inner: Arc<EngineInner>,
    views: Vec<RelationId>,
}

impl Drop for Resuming {
    fn drop(&mut self) {
        let mut st = self.inner.lock();
        st.resuming.retain(|id| !self.views.contains(id));
        self.inner.advance(&mut st);
    }
}

async fn rebuild(inner: &Arc<EngineInner>, id: RelationId) -> Result<()> {
    {
        let mut st = inner.lock();
        if let Some(r) = st.relations.get_mut(&id) {
            r.quarantined = None;
            r.backfilling = true;
        }
    }
    build(inner, id).await
}

async fn catch_up(inner: &Arc<EngineInner>, id: RelationId) -> Result<()> {
    let relation = catalog_relation(inner, id)?;
    let Body::MaterializedView { plan, .. } = &relation.body else {
        return Err(Error::internal("only materialized views are resumed"));
    };
    let inputs: BTreeSet<RelationId> = plan.relations().into_iter().collect();
    wait_until_built(inner, &inputs).await?;
    let at = inner.lock().paused.get(&id).cloned().ok_or_else(|| not_in_state("the view is not paused"))?;
    for stream in &inputs {
        // After a crash the stream may still be on its way to where this view stopped.
        let Some(seen) = at.sources.get(&stream.0) else { continue };
        inner
            .wait(|st| match st.relation(*stream) {
                Err(e) => Some(Err(e)),
                Ok(r) => match &r.source {
                    Some(s) if s.status.starts_with("failed") => {
                        Some(Err(Error::new(SqlState::IO_ERROR, format!("a stream it reads {}", s.status))))
                    }
                    Some(s) if s.readers > 0 && !s.ended && s.status != "paused" && !reached(&s.positions, seen) => {
                        None
                    }
                    _ => Some(Ok(())),
                },
            })
            .await?;
    }
    let PausedView { mut job, inputs: seen } =
        inner.lock().paused_jobs.remove(&id).ok_or_else(|| not_in_state("the view is being resumed already"))?;
    if job.plan().follows_clock() || inner.lock().reads_arrivals(&inputs) {
        inner.seal_clock();
    }
    let (claim, mut claimed) = claim(inner, &inputs, Some(&at))?;
    let base = claim.base;
    wait_for_frontier(inner, &inputs, base).await?;
    let range = TickRange { from: at.epoch, to: base, clock: claimed.clock };
    for (input, then) in &seen {
        let now = inner.lock().relation(*input)?.version_at(base);
        let Some((_, now)) = now else { continue };
        for piece in difference(&now, then)? {
            for start in (0..piece.len()).step_by(CHUNK_ROWS) {
                let part = piece.slice(start, CHUNK_ROWS.min(piece.len() - start));
                let pieces = HashMap::from([(*input, vec![part])]);
                job = on_pool(inner, job, move |j| j.push(&pieces, range)).await?.0;
            }
        }
    }
    for history in std::mem::take(&mut claimed.ranges) {
        if reached(&history.from, &history.to) {
            continue;
        }
        job = push_histories(inner, job, vec![history], range, None).await?;
    }
    let nothing: HashMap<RelationId, Vec<ZBatch>> = HashMap::new();
    job.set_time(&inner.lock().promises(&inputs, base));
    let shared = inner.lock().shared_at(job.shared(), base, true);
    let step = move |j: &mut JobRunner| j.rebase(&shared).and_then(|()| j.finish(&nothing, range));
    let (job, output) = on_pool(inner, job, step).await?;
    join_group(inner, id, Joining { job, frontier: base, changes: Some(output.changes) }, &inputs, claim).await
}

/// What happened to a relation between two versions of it.
fn difference(now: &Version, then: &Version) -> Result<Vec<ZBatch>> {
    let same = now.shards.len() == then.shards.len() && now.shards.iter().zip(&then.shards).all(|(a, b)| a.same(b));
    if same {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    let mut schema = None;
    for shard in &now.shards {
        schema = Some(shard.schema().clone());
        all.extend(shard.scan()?);
    }
    for shard in &then.shards {
        all.extend(shard.scan()?.iter().map(ZBatch::negate));
    }
    let Some(schema) = schema else { return Ok(Vec::new()) };
    let changed = ZBatch::concat(&schema, &all).e()?.consolidate().e()?;
    Ok(if changed.is_empty() { Vec::new() } else { vec![changed] })
}

impl Default for Version {
    fn default() -> Self {
        Self { shards: Vec::new(), errors: Arc::new(ErrorSet::default()), indexes: Vec::new(), shared: Vec::new() }
    }
}
