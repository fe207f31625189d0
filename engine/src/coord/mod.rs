//! The coordinator: epochs, frontiers, cuts and holds.
//!
//! All its state is one value behind one lock, held for microseconds: `State`. Every change of it ends with
//! [`EngineInner::advance`], which seals an epoch if that is due and starts every tick that can start. Ticks run on the
//! compute pool without the lock.
//!
//! * An *epoch* is sealed when input is pending and some group is idle, so an idle system makes none and a busy one
//!   makes larger ones.
//! * A *group* is one view, or several connected by views on views; its jobs tick together over `(frontier, to]`.
//! * A *cut* is an epoch at which every group must end a tick. Readers of several relations, checkpoints and DDL ask for
//!   one; that is how one epoch exists in all views although each ticks at its own pace.
//! * A *hold* keeps the versions of an epoch readable.

pub(crate) mod arrival;
mod backfill;
mod checkpoint;
pub(crate) mod event_time;
mod history;
mod index;
mod ingest;
mod introspect;
mod pause;
mod recover;
mod seal;
mod shared;
mod stall;
mod stream_options;
mod subscribe;
#[cfg(test)]
mod tests;
mod tick;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use millstream_connectors::{Positions, Source, SourceChunk};
use millstream_sql::plan::RelationId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

use crate::api::{Engine, EngineOptions};
use crate::catalog::Catalog;
use crate::ckpt::CheckpointStore;
use crate::error::{Error, Result, SqlState};
use crate::job::JobRunner;
use crate::job::output::{OutputSnapshot, OutputStore};
use crate::job::shared::{Hosted, IndexSpec};
use crate::ops::{ErrorSet, StateStats};
use crate::state::arrangement::ArrangementSnapshot;
use crate::state::ordered::{OrderedIndex, OrderedSnapshot};
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;
use event_time::EventTime;

pub(crate) use backfill::{
    CutGuard, create_view, drop_anonymous, drop_relations, wait_for_frontier, wait_for_positions,
};
pub(crate) use checkpoint::{checkpoint, persist_catalog};
pub(crate) use index::{install_index, remove_index};
pub(crate) use ingest::{IngestMap, ingest_exprs, open_checked, open_relation_source};
pub(crate) use introspect::{SYSTEM_TABLES, catalog_version, metrics, relations, system_table};
pub(crate) use pause::{pause_views, resume_views};
pub(crate) use recover::{new_relation, open};
pub(crate) use shared::shared_by;
pub(crate) use stall::{explain_stall, waits_for};
pub use stream_options::Environment;
pub(crate) use stream_options::{altered, check_common, open_source, process_environment};
pub(crate) use subscribe::{subscribe, subscribe_id};
pub(crate) use write::{insert, write};

/// Deltas kept for a lagging reader before ingestion of the relation waits.
const HUB_BYTES_MAX: usize = 256 << 20;
/// A group's tick takes at most about this many rows.
const TICK_ROWS_MAX: usize = 1 << 20;
/// Decoded rows that may wait for a seal, per stream.
const BUFFER_ROWS_MAX: usize = 256 * 1024;

/// Everything an engine owns.
pub struct EngineInner {
    pub(crate) options: EngineOptions,
    pub(crate) workers: usize,
    pub(crate) state: Mutex<State>,
    /// Counts changes of `state`; waiters re-check their condition.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) pool: rayon::ThreadPool,
    pub(crate) tasks: tokio::runtime::Handle,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
    pub(crate) store: CheckpointStore,
    wal: Arc<crate::ckpt::Wal>,
    pub(crate) wal_queue: mpsc::Sender<write::WalRequest>,
    /// One DDL at a time.
    pub(crate) ddl: tokio::sync::Mutex<()>,
    /// The set of groups does not change while a checkpoint collects their state.
    structure: tokio::sync::Mutex<()>,
    /// Checkpoint uploads and the manifest chain.
    writer: tokio::sync::Mutex<checkpoint::Writer>,
    /// Functions, rules and options of every session; no tables.
    pub(crate) session_template: SessionState,
    failed: watch::Sender<Option<Error>>,
    /// One change at a time of a table where the change depends on its rows.
    pub(crate) table_locks: Mutex<HashMap<RelationId, Arc<tokio::sync::Mutex<()>>>>,
}

/// One sealed set of changes of a relation.
#[derive(Clone)]
pub(crate) struct DeltaEntry {
    pub epoch: Epoch,
    pub batches: Vec<ZBatch>,
    bytes: usize,
}

/// A readable version of a relation.
#[derive(Clone)]
pub(crate) struct Version {
    pub shards: Vec<OutputSnapshot>,
    pub errors: Arc<ErrorSet>,
    /// The same rows in order of some columns, by the number of the index.
    pub indexes: Vec<(RelationId, OrderedSnapshot)>,
    /// The same rows by some columns, for joins.
    pub shared: Vec<(Vec<usize>, ArrangementSnapshot)>,
}

/// A relation at run time: its hub, its versions, its rows if they live here, its source if it has one.
pub(crate) struct RelationRt {
    pub schema: SchemaRef,
    /// Deltas some reader has not passed yet, oldest first.
    deltas: VecDeque<DeltaEntry>,
    delta_bytes: usize,
    /// The last epoch this relation is known for.
    pub frontier: Epoch,
    /// Versions by epoch: the newest, and those a hold needs.
    pub published: BTreeMap<Epoch, Arc<Version>>,
    /// Rows of a table or native stream.
    store: Option<OutputStore>,
    /// Indexes of a table or native stream; those of a view are with its job.
    indexes: Vec<(RelationId, OrderedIndex)>,
    /// Indexes for the joins of views, likewise.
    hosted: Hosted,
    pub source: Option<SourceRt>,
    /// Event time of a stream with a watermark.
    pub time: Option<EventTime>,
    /// The watermark (of a late relation its stream's) from these epochs on, as far back as somebody may still need it.
    watermarks: VecDeque<(Epoch, i64)>,
    /// The column with the time of arrival, if it has one.
    arrival: Option<usize>,
    /// The last epoch with a client write of this table or native stream.
    pub last_write: Epoch,
    /// A view that stands still: it is read at its own frontier.
    pub paused: bool,
    /// Why this view is quarantined.
    pub quarantined: Option<String>,
    /// A view: its frontier follows its own ticks. Base relations follow the sealed epoch.
    derived: bool,
    /// True while a new view reads history.
    pub backfilling: bool,
    /// How often a job of this view joined the running system.
    joined: u64,
    pub counters: Counters,
}

/// Totals since the process started.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counters {
    pub rows_in: u64,
    pub rows_out: u64,
    pub ticks: u64,
    pub busy_us: u64,
    pub state_rows: usize,
    pub state_bytes: usize,
    /// Of these the view's own rows.
    pub view: StateStats,
    /// Rows held back until time comes further, and the oldest event time among them.
    pub held_back: Option<(usize, Option<i64>)>,
}

/// A connector stream at run time.
pub(crate) struct SourceRt {
    pub source: Option<Arc<dyn Source>>,
    /// Positions at the last sealed epoch.
    pub positions: Positions,
    /// Up to where records that cannot be read are in `ms.errors`; outlives the readers.
    pub reported: Positions,
    /// Counts starts of the readers: those of an earlier start deliver no more.
    run: u64,
    buffer: VecDeque<Ingested>,
    buffer_rows: usize,
    /// Views that read it; readers run while there are any.
    readers: usize,
    tasks: Vec<tokio::task::AbortHandle>,
    /// A bounded source has delivered everything.
    pub ended: bool,
    ended_readers: usize,
    /// `running`, or what is wrong.
    pub status: String,
    pub rows: u64,
    pub bytes: u64,
    pub bad: u64,
    pub high_watermarks: Positions,
}

/// A decoded chunk with the stream's own columns.
struct Ingested {
    chunk: SourceChunk,
    batch: ZBatch,
    /// Rows that came too late.
    late: Option<ZBatch>,
    /// The partition's watermark after them.
    mark: Option<i64>,
}

/// Identity of a group.
pub(crate) type GroupId = u64;

/// Views that tick together.
pub(crate) struct Group {
    /// In topological order.
    pub jobs: Vec<RelationId>,
    /// Base relations any of them reads.
    inputs: BTreeSet<RelationId>,
    pub frontier: Epoch,
    running: bool,
    /// Do not tick beyond this epoch.
    parked_at: Option<Epoch>,
    /// When some operator wants a tick though nothing came.
    wakeup: Option<Timestamp>,
    /// Taken out while running.
    runner: Option<GroupRunner>,
}

/// The mutable half of a group, owned by whoever runs it.
pub(crate) struct GroupRunner {
    pub jobs: Vec<(RelationId, JobRunner)>,
}

/// A client write that is durable and waits for its epoch.
pub(crate) struct PendingWrite {
    relation: RelationId,
    batch: ZBatch,
    wal_seq: u64,
}

/// A reader's place in some hubs.
pub(crate) struct Cursor {
    pub relations: BTreeSet<RelationId>,
    pub epoch: Epoch,
    /// The hub grew beyond its budget and this reader was cut off.
    pub lost: bool,
    /// Subscribers may be cut off; a view being built may not.
    may_lose: bool,
}

/// The coordinator's state.
pub(crate) struct State {
    pub catalog: Arc<Catalog>,
    pub sealed: Epoch,
    pub clock: Timestamp,
    /// Clocks of the epochs that some group has not passed, oldest first.
    clocks: VecDeque<(Epoch, Timestamp)>,
    /// Like `clocks`: no row of a later epoch arrived before this.
    arrivals: VecDeque<(Epoch, Timestamp)>,
    /// The time of arrival of writes that are being made durable.
    stamped: Option<Timestamp>,
    pub wal_seq: u64,
    pub relations: HashMap<RelationId, RelationRt>,
    pub groups: BTreeMap<GroupId, Group>,
    next_group: GroupId,
    writes: Vec<PendingWrite>,
    pub cuts: BTreeMap<Epoch, usize>,
    pub holds: BTreeMap<Epoch, usize>,
    pub cursors: BTreeMap<u64, Cursor>,
    next_cursor: u64,
    /// Views that stand still, and where: from PAUSE until they have caught up after RESUME.
    pub paused: BTreeMap<RelationId, crate::ckpt::PausedRef>,
    /// Their jobs; not there while one catches up.
    paused_jobs: BTreeMap<RelationId, pause::PausedView>,
    /// Paused views that are catching up: readers wait for them.
    pub resuming: BTreeSet<RelationId>,
    /// By owner: shards and parts that were frozen outside of a checkpoint and go with the next one.
    frozen_aside: Vec<(String, u32, Vec<crate::job::FrozenSlot>)>,
    /// Indexes that views share.
    shared_wanted: BTreeSet<IndexSpec>,
    /// Views that gave way to a replacement, for those who followed them.
    pub replaced: BTreeSet<RelationId>,
    /// The epoch at which groups freeze, and what they have frozen.
    collecting: Option<checkpoint::Collecting>,
    /// No new epochs from sources.
    stopping: bool,
    last_seal: Option<std::time::Instant>,
    seal_timer: bool,
    pub checkpoints: u64,
    pub last_checkpoint: Epoch,
}

impl EngineInner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Seals and schedules whatever is due, then tells the waiters. Call after every change, still under the lock.
    pub(crate) fn advance(self: &Arc<Self>, st: &mut State) {
        while self.seal_if_due(st) {
            self.schedule(st);
        }
        self.schedule(st);
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Waits until `condition` holds, checking after every change.
    pub(crate) async fn wait<T>(
        self: &Arc<Self>,
        mut condition: impl FnMut(&mut State) -> Option<Result<T>>,
    ) -> Result<T> {
        let mut changes = self.changed.subscribe();
        let mut failure = self.failed.subscribe();
        loop {
            if let Some(done) = condition(&mut self.lock()) {
                return done;
            }
            tokio::select! {
                r = changes.changed() => {
                    if r.is_err() {
                        return Err(Error::new(SqlState::ADMIN_SHUTDOWN, "the engine is stopping"));
                    }
                }
                r = failure.wait_for(Option::is_some) => {
                    let stopped = || Error::new(SqlState::ADMIN_SHUTDOWN, "the engine is stopping");
                    return Err(r.ok().and_then(|f| f.clone()).unwrap_or_else(stopped));
                }
            }
        }
    }

    /// The engine cannot go on: everyone who waits gets the error.
    pub(crate) fn fail(&self, error: Error) {
        if error.code == SqlState::ADMIN_SHUTDOWN {
            tracing::info!("engine stopped");
        } else {
            tracing::error!(code = error.code.0, "engine stopped: {}", error.message);
        }
        self.failed.send_if_modified(|f| {
            let first = f.is_none();
            if first {
                *f = Some(error);
            }
            first
        });
    }

    /// The failure, if there is one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failed.borrow().clone()
    }
}

impl State {
    pub(crate) fn relation(&self, id: RelationId) -> Result<&RelationRt> {
        self.relations.get(&id).ok_or_else(|| Error::new(SqlState::UNDEFINED_TABLE, "relation was dropped"))
    }
    /// The epoch of the last acknowledged write that a reader of these relations must see.
    pub(crate) fn write_floor(&self, relations: impl IntoIterator<Item = RelationId>) -> Epoch {
        let mut floor = Epoch(0);
        let (mut seen, mut next) = (BTreeSet::new(), relations.into_iter().collect::<Vec<_>>());
        while let Some(id) = next.pop() {
            if !seen.insert(id) {
                continue;
            }
            floor = floor.max(self.relations.get(&id).map_or(Epoch(0), |r| r.last_write));
            next.extend(self.catalog.relations.get(&id).into_iter().flat_map(|r| r.inputs.iter().copied()));
        }
        floor
    }
    pub(crate) fn add_cut(&mut self, e: Epoch) {
        *self.cuts.entry(e).or_insert(0) += 1;
    }
    pub(crate) fn remove_cut(&mut self, e: Epoch) {
        release(&mut self.cuts, e);
    }
    pub(crate) fn add_hold(&mut self, e: Epoch) {
        *self.holds.entry(e).or_insert(0) += 1;
    }
    pub(crate) fn remove_hold(&mut self, e: Epoch) {
        release(&mut self.holds, e);
        let holds: Vec<Epoch> = self.holds.keys().copied().collect();
        for r in self.relations.values_mut() {
            r.prune_versions(&holds);
        }
    }
    pub(crate) fn add_cursor(&mut self, relations: BTreeSet<RelationId>, epoch: Epoch, may_lose: bool) -> u64 {
        self.next_cursor += 1;
        self.cursors.insert(self.next_cursor, Cursor { relations, epoch, lost: false, may_lose });
        self.next_cursor
    }
}

fn release(counts: &mut BTreeMap<Epoch, usize>, e: Epoch) {
    if let Some(n) = counts.get_mut(&e) {
        *n -= 1;
        if *n == 0 {
            counts.remove(&e);
        }
    }
}

impl RelationRt {
    pub(crate) fn new(schema: SchemaRef, frontier: Epoch) -> Self {
        Self {
            schema,
            deltas: VecDeque::new(),
            delta_bytes: 0,
            frontier,
            published: BTreeMap::new(),
            store: None,
            indexes: Vec::new(),
            hosted: Hosted::default(),
            source: None,
            time: None,
            watermarks: VecDeque::new(),
            arrival: None,
            last_write: Epoch(0),
            paused: false,
            quarantined: None,
            derived: false,
            backfilling: false,
            joined: 0,
            counters: Counters::default(),
        }
    }
    /// The version a reader at `epoch` sees.
    pub(crate) fn version_at(&self, epoch: Epoch) -> Option<(Epoch, Arc<Version>)> {
        self.published.range(..=epoch).next_back().map(|(e, v)| (*e, v.clone()))
    }
    /// The rows of a table or native stream as they are now.
    fn stored_version(&self) -> Option<Version> {
        let store = self.store.as_ref()?;
        let indexes = self.indexes.iter().map(|(id, i)| (*id, i.snapshot())).collect();
        let (errors, shared) = (Arc::new(ErrorSet::default()), self.hosted.snapshots());
        Some(Version { shards: vec![store.snapshot()], errors, indexes, shared })
    }
    fn publish(&mut self, epoch: Epoch, version: Version, holds: &[Epoch]) {
        self.published.insert(epoch, Arc::new(version));
        self.prune_versions(holds);
    }
    fn prune_versions(&mut self, holds: &[Epoch]) {
        let Some(newest) = self.published.keys().next_back().copied() else { return };
        if self.published.len() == 1 {
            return;
        }
        let mut keep: BTreeSet<Epoch> = BTreeSet::from([newest]);
        keep.extend(holds.iter().filter_map(|h| self.published.range(..=*h).next_back().map(|(e, _)| *e)));
        self.published.retain(|e, _| keep.contains(e));
    }
    /// The watermark at the end of an epoch.
    pub(crate) fn watermark_at(&self, epoch: Epoch) -> Option<i64> {
        let after = self.watermarks.partition_point(|(e, _)| *e <= epoch);
        after.checked_sub(1).map(|i| self.watermarks[i].1)
    }
    fn push_delta(&mut self, epoch: Epoch, batches: Vec<ZBatch>) {
        let bytes = batches.iter().map(ZBatch::bytes).sum();
        self.delta_bytes += bytes;
        self.deltas.push_back(DeltaEntry { epoch, batches, bytes });
    }
    /// Deltas in `(from, to]`.
    pub(crate) fn deltas_between(&self, from: Epoch, to: Epoch) -> impl Iterator<Item = &DeltaEntry> {
        let start = self.deltas.partition_point(|d| d.epoch <= from);
        self.deltas.iter().skip(start).take_while(move |d| d.epoch <= to)
    }
    fn drop_deltas_until(&mut self, epoch: Epoch) {
        while self.deltas.front().is_some_and(|d| d.epoch <= epoch) {
            if let Some(d) = self.deltas.pop_front() {
                self.delta_bytes -= d.bytes;
            }
        }
    }
}

pub(crate) async fn failed(inner: &Arc<EngineInner>) -> Error {
    let mut failure = inner.failed.subscribe();
    match failure.wait_for(Option::is_some).await {
        Ok(f) => f.clone().unwrap_or_else(|| Error::internal("failure without reason")),
        Err(_) => Error::new(SqlState::ADMIN_SHUTDOWN, "the engine is stopping"),
    }
}

pub(crate) async fn shutdown(inner: &Arc<EngineInner>) -> Result<()> {
    {
        let mut st = inner.lock();
        if st.stopping {
            return Ok(());
        }
        st.stopping = true;
        for r in st.relations.values_mut() {
            if let Some(s) = &mut r.source {
                s.tasks.drain(..).for_each(|t| t.abort());
            }
        }
    }
    let result = if inner.failure().is_none() { checkpoint(inner).await } else { Ok(()) };
    inner.fail(Error::new(SqlState::ADMIN_SHUTDOWN, "the engine is stopping"));
    if let Some(runtime) = inner.runtime.lock().take() {
        runtime.shutdown_background();
    }
    result
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data", &self.inner.options.data).finish_non_exhaustive()
    }
}

impl Drop for EngineInner {
    fn drop(&mut self) {
        // A runtime must not be dropped where blocking is not allowed, and an engine may be dropped anywhere.
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}
