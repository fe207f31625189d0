//! Taking checkpoints: one cut through everything, frozen where it lies, uploaded beside the running engine.
//!
//! 1. Under the lock: the last sealed epoch E becomes a cut; positions, WAL number and catalog are noted; tables freeze.
//! 2. Every group freezes when it stands at E, on its own thread, and goes on.
//! 3. Runs are uploaded; then the manifest is created. Only then is anything of it true.
//!
//! Frozen parts that could not be uploaded stay in the [`Writer`] and go with the next checkpoint.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{StreamExt as _, TryStreamExt as _};
use millstream_connectors::Positions;
use millstream_sql::plan::RelationId;

use super::event_time::StoredTime;
use super::tick::guarded;
use super::{EngineInner, GroupId, State};
use crate::catalog::{Catalog, codec};
use crate::ckpt::{Manifest, PausedRef, RunRef, SlotRef, StateRef};
use crate::error::{Error, Result, SqlState};
use crate::job::{FrozenSlot, OUTPUT_NODE};
use crate::time::{Epoch, Timestamp};

/// Uploads under way at once.
const UPLOADS: usize = 4;
/// Manifests kept for fallback.
const MANIFESTS_KEPT: usize = 3;

/// A checkpoint that is being collected from the groups.
pub(super) struct Collecting {
    epoch: Epoch,
    waiting: BTreeSet<GroupId>,
    /// By owner: its shards, and what they froze.
    frozen: BTreeMap<String, (u32, Vec<FrozenSlot>)>,
}

/// Slot of an owner: (shard, node, slot).
type SlotKey = (u32, u32, String);

/// What the manifest chain knows, plus what is frozen and not yet stored.
#[derive(Default)]
pub(super) struct Writer {
    /// By owner, then slot: runs stored so far.
    pub stored: BTreeMap<String, BTreeMap<SlotKey, Vec<RunRef>>>,
    /// How many shards wrote an owner's runs.
    pub shards: BTreeMap<String, u32>,
    /// Frozen, in order, with true where it replaces all before.
    pending: Vec<(String, SlotKey, bool, Vec<RecordBatch>)>,
    /// WAL numbers of the newest manifests, oldest first: a fallback to any of them needs the log from there.
    wal_seqs: VecDeque<u64>,
}

/// Everything of a checkpoint except state.
struct Header {
    epoch: Epoch,
    clock: Timestamp,
    wal_seq: u64,
    catalog: Arc<Catalog>,
    sources: BTreeMap<u64, Positions>,
    reported: BTreeMap<u64, Positions>,
    event_time: BTreeMap<u64, StoredTime>,
    paused: BTreeMap<u64, PausedRef>,
    live: BTreeSet<String>,
}

/// Where the rows are that a paused view has seen of its inputs.
pub(super) fn pause_owner(id: RelationId) -> String {
    format!("pause/{}", id.0)
}

pub(super) fn owner_of(id: RelationId, job: bool) -> String {
    format!("{}/{}", if job { "job" } else { "table" }, id.0)
}

impl EngineInner {
    /// Freezes a group that stands at the epoch being collected. True if it did (the group is running now).
    pub(super) fn start_freeze(self: &Arc<Self>, st: &mut State, id: GroupId) -> bool {
        let Some(c) = &st.collecting else { return false };
        let Some(group) = st.groups.get_mut(&id) else { return false };
        if group.running || group.frontier != c.epoch || !c.waiting.contains(&id) {
            return false;
        }
        let Some(mut runner) = group.runner.take() else { return false };
        group.running = true;
        let inner = self.clone();
        self.pool.spawn(move || {
            let frozen: Vec<(RelationId, u32, Result<Vec<FrozenSlot>>)> = runner
                .jobs
                .iter_mut()
                .map(|(job, j)| (*job, j.shard_count(), guarded(j, crate::job::JobRunner::freeze)))
                .collect();
            let mut st = inner.lock();
            for (job, shards, slots) in frozen {
                match slots {
                    Ok(slots) => {
                        if let Some(c) = &mut st.collecting {
                            // A view that was paused and resumed since the last checkpoint has parts here already.
                            c.frozen.entry(owner_of(job, true)).or_insert((shards, Vec::new())).1.extend(slots);
                        }
                    }
                    Err(e) => {
                        tracing::error!(view = job.0, "view cannot be checkpointed: {}", e.message);
                        if let Some(r) = st.relations.get_mut(&job) {
                            r.quarantined = Some(e.message);
                        }
                    }
                }
            }
            inner.put_back(&mut st, id, runner);
            if let Some(c) = &mut st.collecting {
                c.waiting.remove(&id);
            }
            inner.advance(&mut st);
        });
        true
    }
}

/// Takes a checkpoint; returns when it is durable.
pub(crate) async fn checkpoint(inner: &Arc<EngineInner>) -> Result<()> {
    let mut writer = inner.writer.lock().await;
    let header = {
        let _structure = inner.structure.lock().await;
        let header = begin(inner)?;
        let done = inner
            .wait(|st| {
                // A group that was quarantined meanwhile is gone and will never freeze.
                let groups: BTreeSet<GroupId> = st.groups.keys().copied().collect();
                let c = st.collecting.as_mut()?;
                c.waiting.retain(|g| groups.contains(g));
                c.waiting.is_empty().then_some(Ok(()))
            })
            .await;
        let mut st = inner.lock();
        st.remove_cut(header.epoch);
        let collected = st.collecting.take();
        inner.advance(&mut st);
        drop(st);
        if let Some(c) = collected {
            for (owner, (shards, slots)) in c.frozen {
                writer.shards.insert(owner.clone(), shards);
                for f in slots {
                    let key = (f.shard, f.node, f.delta.slot.into_owned());
                    writer.pending.push((owner.clone(), key, f.delta.replaces, f.delta.batches));
                }
            }
        }
        done?;
        header
    };
    upload(inner, &mut writer).await?;
    let live = header.live.clone();
    writer.stored.retain(|owner, _| live.contains(owner));
    let manifest = Manifest {
        epoch: header.epoch,
        clock: header.clock,
        wal_seq: header.wal_seq,
        catalog: codec::encode(&header.catalog)?,
        sources: header.sources,
        reported: header.reported,
        event_time: header.event_time,
        states: writer.states(header.epoch, &header.paused),
        paused: header.paused,
        ..Manifest::default()
    };
    // DDL may have changed the catalog since E; the manifest must not bring the old one back.
    let manifest = {
        let current = inner.lock().catalog.clone();
        if current.version == header.catalog.version {
            manifest
        } else {
            Manifest { catalog: codec::encode(&current)?, ..manifest }
        }
    };
    extend(inner, &mut writer, manifest).await?;
    {
        let mut st = inner.lock();
        st.checkpoints += 1;
        st.last_checkpoint = header.epoch;
    }
    if let Some(oldest) = writer.wal_seqs.front().filter(|_| writer.wal_seqs.len() == MANIFESTS_KEPT)
        && let Err(e) = inner.wal().truncate(*oldest).await
    {
        tracing::warn!("old WAL objects could not be deleted: {}", e.message);
    }
    if let Err(e) = inner.store.collect_garbage(MANIFESTS_KEPT).await {
        tracing::warn!("old checkpoint objects could not be deleted: {}", e.message);
    }
    Ok(())
}

/// Marks the cut and freezes what lives under the lock.
fn begin(inner: &Arc<EngineInner>) -> Result<Header> {
    let mut st = inner.lock();
    let st = &mut *st;
    if let Some(e) = inner.failure() {
        return Err(e);
    }
    let epoch = st.sealed;
    st.add_cut(epoch);
    let mut frozen: BTreeMap<String, (u32, Vec<FrozenSlot>)> = BTreeMap::new();
    let (mut sources, mut reported, mut event_time) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (id, r) in &mut st.relations {
        if let Some(store) = &mut r.store {
            let delta = store.freeze()?;
            frozen.insert(owner_of(*id, false), (1, vec![FrozenSlot { shard: 0, node: OUTPUT_NODE, delta }]));
        }
        if let Some(t) = &r.time {
            event_time.insert(id.0, t.stored());
        }
        if let Some(s) = &r.source {
            if s.readers > 0 {
                sources.insert(id.0, s.positions.clone());
            }
            reported.insert(id.0, s.reported.clone());
        }
    }
    // What views froze when they were paused: standing still they change nothing more.
    for (owner, shards, slots) in st.frozen_aside.drain(..) {
        frozen.entry(owner).or_insert((shards, Vec::new())).1.extend(slots);
    }
    let mut live: BTreeSet<String> = frozen.keys().cloned().collect();
    live.extend(st.groups.values().flat_map(|g| g.jobs.iter().map(|j| owner_of(*j, true))));
    live.extend(st.paused.keys().flat_map(|id| [owner_of(*id, true), pause_owner(*id)]));
    let paused = st.paused.iter().map(|(id, p)| (id.0, p.clone())).collect();
    st.collecting = Some(Collecting { epoch, waiting: st.groups.keys().copied().collect(), frozen });
    let header = Header {
        epoch,
        clock: st.clock,
        wal_seq: st.wal_seq,
        catalog: st.catalog.clone(),
        sources,
        reported,
        event_time,
        paused,
        live,
    };
    inner.advance(st);
    Ok(header)
}

async fn upload(inner: &Arc<EngineInner>, writer: &mut Writer) -> Result<()> {
    let pending = writer.pending.clone();
    let bodies: Vec<Vec<RecordBatch>> = pending.iter().map(|(_, _, _, batches)| batches.clone()).collect();
    let runs: Vec<Option<RunRef>> = futures::stream::iter(bodies)
        .map(|batches| async move {
            if batches.iter().all(|b| b.num_rows() == 0) {
                return Ok(None);
            }
            inner.store.put_run(&batches).await.map(Some)
        })
        .buffered(UPLOADS)
        .try_collect()
        .await
        .inspect_err(|e: &Error| fail_if_fenced(inner, e))?;
    for ((owner, key, replaces, _), run) in pending.into_iter().zip(runs) {
        let slot = writer.stored.entry(owner).or_default().entry(key).or_default();
        if replaces {
            slot.clear();
        }
        slot.extend(run);
    }
    writer.pending.clear();
    Ok(())
}

impl Writer {
    fn states(&self, cut: Epoch, paused: &BTreeMap<u64, PausedRef>) -> BTreeMap<String, StateRef> {
        self.stored
            .iter()
            .map(|(owner, slots)| {
                let view =
                    owner.split_once('/').filter(|(kind, _)| *kind != "table").and_then(|(_, id)| id.parse().ok());
                let cut = view.and_then(|id: u64| paused.get(&id)).map_or(cut, |p| p.epoch);
                let slots = slots
                    .iter()
                    .map(|((shard, node, slot), runs)| SlotRef {
                        shard: *shard,
                        node: *node,
                        slot: slot.clone(),
                        runs: runs.clone(),
                    })
                    .collect();
                (owner.clone(), StateRef { cut, shards: self.shards.get(owner).copied().unwrap_or(1), slots })
            })
            .collect()
    }

    /// Takes over what a manifest says is stored.
    pub(super) fn from_manifest(manifest: &Manifest) -> Self {
        let mut writer = Self::default();
        for (owner, state) in &manifest.states {
            writer.shards.insert(owner.clone(), state.shards);
            let slots = writer.stored.entry(owner.clone()).or_default();
            for s in &state.slots {
                slots.insert((s.shard, s.node, s.slot.clone()), s.runs.clone());
            }
        }
        writer
    }
}

/// Makes a catalog durable without new state: the newest cut stays what it is. The catalog becomes the engine's with the
/// manifest that contains it.
pub(crate) async fn persist_catalog(inner: &Arc<EngineInner>, catalog: Catalog) -> Result<()> {
    let mut writer = inner.writer.lock().await;
    let mut manifest = inner.store.current();
    manifest.catalog = codec::encode(&catalog)?;
    let known: BTreeSet<u64> = catalog.relations.keys().map(|id| id.0).collect();
    let owner_known =
        |owner: &str| owner.split_once('/').is_some_and(|(_, id)| id.parse().is_ok_and(|id| known.contains(&id)));
    manifest.states.retain(|owner, _| owner_known(owner));
    manifest.sources.retain(|id, _| known.contains(id));
    manifest.reported.retain(|id, _| known.contains(id));
    manifest.event_time.retain(|id, _| known.contains(id));
    manifest.paused.retain(|id, _| known.contains(id));
    writer.stored.retain(|owner, _| owner_known(owner));
    writer.pending.retain(|(owner, ..)| owner_known(owner));
    extend(inner, &mut writer, manifest).await?;
    let mut st = inner.lock();
    st.catalog = Arc::new(catalog);
    Ok(())
}

async fn extend(inner: &Arc<EngineInner>, writer: &mut Writer, manifest: Manifest) -> Result<()> {
    let wal_seq = manifest.wal_seq;
    inner.store.extend(manifest).await.map(drop).inspect_err(|e| fail_if_fenced(inner, e))?;
    writer.wal_seqs.push_back(wal_seq);
    while writer.wal_seqs.len() > MANIFESTS_KEPT {
        writer.wal_seqs.pop_front();
    }
    Ok(())
}

fn fail_if_fenced(inner: &Arc<EngineInner>, e: &Error) {
    if e.code == SqlState::FENCED {
        inner.fail(e.clone());
    }
}

/// The periodic checkpoint.
pub(super) async fn run_checkpoints(inner: Arc<EngineInner>) {
    let interval = inner.options.checkpoint_interval;
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        let idle = {
            let st = inner.lock();
            if st.stopping {
                return;
            }
            st.sealed == st.last_checkpoint
        };
        if idle {
            continue;
        }
        if let Err(e) = checkpoint(&inner).await {
            if inner.failure().is_some() {
                return;
            }
            tracing::error!("checkpoint failed, the next one will contain it: {}", e.message);
        }
    }
}
