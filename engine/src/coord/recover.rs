//! Opening a data folder: take over, restore, replay, go on.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{StreamExt as _, TryStreamExt as _};
use millstream_sql::plan::{ChangelogKind, RelationId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::checkpoint::Writer;
use super::event_time::EventTime;
use super::tick::{group_inputs, version_of};
use super::{
    EngineInner, Group, GroupRunner, PendingWrite, RelationRt, SourceRt, State, backfill, checkpoint, pause, seal,
    shared, write,
};
use crate::api::{Engine, EngineOptions};
use crate::catalog::{Body, Catalog, ERRORS_ID, Meta, Paused, Relation, SYSTEM_SCHEMA, codec};
use crate::ckpt::{CheckpointStore, Manifest, StateRef, Wal};
use crate::error::{Error, Result, ResultExt as _};
use crate::job::JobRunner;
use crate::job::output::OutputStore;
use crate::job::shared::Hosted;
use crate::state::ordered::OrderedIndex;
use crate::time::Timestamp;
use crate::zset::ZBatch;

/// Writes that may wait for the WAL.
const WAL_QUEUE: usize = 1024;
/// Runs fetched at once.
const DOWNLOADS: usize = 4;

pub(crate) async fn open(options: EngineOptions) -> Result<Engine> {
    let objects = millstream_connectors::store::open_store(&options.data, &[]).e()?;
    open_over(options, objects).await
}

/// [`open`] over a store that is open already.
pub(crate) async fn open_over(
    mut options: EngineOptions,
    objects: Arc<dyn object_store::ObjectStore>,
) -> Result<Engine> {
    let workers = match options.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    options.epoch_rows_max = options.epoch_rows_max.max(1);
    let template = millstream_sql::session::session_state(workers);
    let (store, manifest) = CheckpointStore::open(objects.clone()).await?;
    let manifest = manifest.unwrap_or_default();
    let (wal, log) = Wal::open(objects, store.writer_epoch(), manifest.wal_seq).await?;
    let wal = Arc::new(wal);
    let catalog = codec::decode(&template, &manifest.catalog)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.max(2))
        .thread_name("millstream-io")
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("cannot start the I/O runtime: {e}")))?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(workers)
        .thread_name(|i| format!("millstream-{i}"))
        .stack_size(16 << 20)
        .build()
        .map_err(|e| Error::internal(format!("cannot start the compute pool: {e}")))?;
    let (wal_queue, wal_requests) = mpsc::channel(WAL_QUEUE);
    let state = restore_state(&template, options.clock.now(), &store, &manifest, catalog).await?;
    let inner = Arc::new(EngineInner {
        workers,
        state: Mutex::new(state),
        changed: watch::Sender::new(0),
        pool,
        tasks: runtime.handle().clone(),
        runtime: Mutex::new(Some(runtime)),
        writer: tokio::sync::Mutex::new(Writer::from_manifest(&manifest)),
        store,
        wal: wal.clone(),
        wal_queue,
        ddl: tokio::sync::Mutex::new(()),
        structure: tokio::sync::Mutex::new(()),
        session_template: template,
        failed: watch::Sender::new(None),
        table_locks: Mutex::new(HashMap::new()),
        options,
    });
    let (unbuilt, resumed) = restore_jobs(&inner, &manifest).await?;
    replay(&inner, log);
    inner.tasks.spawn(write::run_wal(inner.clone(), wal, wal_requests));
    inner.tasks.spawn(checkpoint::run_checkpoints(inner.clone()));
    inner.tasks.spawn(seal::run_timers(Arc::downgrade(&inner)));
    for id in unbuilt {
        backfill::build_in_background(&inner, id);
    }
    pause::resume_in_background(&inner, resumed);
    let mut st = inner.lock();
    inner.advance(&mut st);
    drop(st);
    Ok(Engine { inner })
}

/// Relations with their rows; no jobs yet.
async fn restore_state(
    session: &datafusion::execution::SessionState,
    now: Timestamp,
    store: &CheckpointStore,
    manifest: &Manifest,
    mut catalog: Catalog,
) -> Result<State> {
    catalog.relations.entry(ERRORS_ID).or_insert_with(|| Arc::new(errors_relation()));
    let wanted = shared::wanted(&catalog, &BTreeSet::new());
    let mut relations = HashMap::new();
    for relation in catalog.relations.values() {
        let mut rt = new_relation(relation, manifest.epoch);
        if let Some(stored) = manifest.states.get(&format!("table/{}", relation.id.0))
            && let Some(rows) = &mut rt.store
        {
            for (_, _, batch) in fetch(store, stored).await? {
                rows.restore(&ZBatch::from_weighted(&batch).e()?)?;
            }
            for index in &relation.meta.indexes {
                let mut built = OrderedIndex::new(relation.schema.clone(), index.columns.clone())?;
                rows.snapshot().scan()?.iter().try_for_each(|b| built.append(b))?;
                rt.indexes.push((index.id, built));
            }
        }
        if let Some(rows) = &rt.store {
            for columns in shared::columns_of(&wanted, relation.id) {
                if rt.stored_version().is_none_or(|v| v.index(columns).is_none()) {
                    let rows = rows.snapshot().scan()?;
                    rt.hosted.add(columns, Hosted::build(relation.schema.clone(), columns, &rows)?);
                }
            }
            if let Some(version) = rt.stored_version() {
                rt.publish(manifest.epoch, version, &[]);
            }
        }
        if let Some(s) = &mut rt.source
            && let Some(p) = manifest.sources.get(&relation.id.0)
        {
            s.positions = p.clone();
        }
        if let Some(s) = &mut rt.source
            && let Some(p) = manifest.reported.get(&relation.id.0)
        {
            s.reported = p.clone();
        }
        let stored = manifest.event_time.get(&relation.id.0).cloned().unwrap_or_default();
        rt.time = EventTime::of(session, relation, stored, now)?;
        relations.insert(relation.id, rt);
    }
    let marks: Vec<(Option<RelationId>, RelationId, i64)> = relations
        .iter()
        .filter_map(|(id, r)| r.time.as_ref().and_then(|t| Some((t.late, *id, t.watermark?))))
        .collect();
    for (late, stream, mark) in marks {
        for id in late.into_iter().chain([stream]) {
            if let Some(r) = relations.get_mut(&id) {
                r.watermarks.push_back((manifest.epoch, mark));
            }
        }
    }
    Ok(State {
        catalog: Arc::new(catalog),
        sealed: manifest.epoch,
        clock: manifest.clock,
        clocks: VecDeque::from([(manifest.epoch, manifest.clock)]),
        // Writes that come back have the times they had.
        arrivals: VecDeque::new(),
        stamped: None,
        wal_seq: manifest.wal_seq,
        relations,
        groups: BTreeMap::new(),
        next_group: 1,
        writes: Vec::new(),
        cuts: BTreeMap::new(),
        holds: BTreeMap::new(),
        cursors: BTreeMap::new(),
        next_cursor: 0,
        paused: BTreeMap::new(),
        paused_jobs: BTreeMap::new(),
        resuming: BTreeSet::new(),
        frozen_aside: Vec::new(),
        shared_wanted: wanted.into_keys().collect(),
        replaced: BTreeSet::new(),
        collecting: None,
        stopping: false,
        last_seal: None,
        seal_timer: false,
        checkpoints: 0,
        last_checkpoint: manifest.epoch,
    })
}

/// The run-time half of a relation, empty.
pub(crate) fn new_relation(relation: &Relation, frontier: crate::time::Epoch) -> RelationRt {
    let mut rt = RelationRt::new(relation.schema.clone(), frontier);
    rt.arrival = relation.meta.proctime;
    match &relation.body {
        Body::Table { append_only: true, .. } => {
            rt.store = Some(OutputStore::new(relation.schema.clone(), ChangelogKind::Append));
        }
        Body::Table { .. } if relation.primary_key.is_empty() => {
            rt.store = Some(OutputStore::new(relation.schema.clone(), ChangelogKind::Retract));
        }
        Body::Table { .. } => {
            rt.store = Some(OutputStore::keyed(relation.schema.clone(), relation.primary_key.clone()));
        }
        Body::Connector { .. } => rt.source = Some(SourceRt::default()),
        Body::MaterializedView { .. } => rt.derived = true,
        Body::View { .. } => {}
    }
    if let Some(version) = rt.stored_version() {
        rt.published.insert(frontier, Arc::new(version));
    }
    rt
}

impl Default for SourceRt {
    fn default() -> Self {
        Self {
            source: None,
            positions: Default::default(),
            reported: Default::default(),
            run: 0,
            buffer: Default::default(),
            buffer_rows: 0,
            readers: 0,
            tasks: Vec::new(),
            ended: false,
            ended_readers: 0,
            status: "stopped".into(),
            rows: 0,
            bytes: 0,
            bad: 0,
            high_watermarks: Default::default(),
        }
    }
}

fn errors_relation() -> Relation {
    Relation {
        id: ERRORS_ID,
        schema_name: SYSTEM_SCHEMA.into(),
        name: "errors".into(),
        schema: seal::errors_schema(),
        primary_key: Vec::new(),
        definition: "CREATE STREAM ms.errors".into(),
        inputs: Vec::new(),
        body: Body::Table { append_only: true, defaults: BTreeMap::new() },
        meta: Meta::default(),
    }
}

/// All batches of a stored state, in the order they must be applied: (node, slot, batch).
async fn fetch(store: &CheckpointStore, state: &StateRef) -> Result<Vec<(u32, String, RecordBatch)>> {
    let runs: Vec<_> =
        state.slots.iter().flat_map(|s| s.runs.iter().map(move |r| (s.node, s.slot.clone(), r.clone()))).collect();
    let fetched: Vec<Vec<(u32, String, RecordBatch)>> = futures::stream::iter(runs)
        .map(|(node, slot, run)| async move {
            let batches = store.get_run(&run).await?;
            Ok::<_, Error>(batches.into_iter().map(|b| (node, slot.clone(), b)).collect())
        })
        .buffered(DOWNLOADS)
        .try_collect()
        .await?;
    Ok(fetched.into_iter().flatten().collect())
}

/// Rebuilds every view that has state; returns those that must be built from history, and those that were resumed but
/// had not caught up.
async fn restore_jobs(inner: &Arc<EngineInner>, manifest: &Manifest) -> Result<(Vec<RelationId>, Vec<RelationId>)> {
    let catalog = inner.lock().catalog.clone();
    let wanted = shared::wanted(&catalog, &BTreeSet::new());
    let mut unbuilt: Vec<RelationId> = Vec::new();
    let mut resumed: Vec<RelationId> = Vec::new();
    let mut runners: BTreeMap<RelationId, JobRunner> = BTreeMap::new();
    for relation in catalog.relations.values() {
        let Body::MaterializedView { plan, .. } = &relation.body else { continue };
        let upstream_unbuilt = relation.inputs.iter().any(|i| unbuilt.contains(i));
        let stored = manifest.states.get(&format!("job/{}", relation.id.0)).filter(|_| !upstream_unbuilt);
        let Some(stored) = stored else {
            let mut st = inner.lock();
            Arc::make_mut(&mut st.catalog).update(relation.id, |r| r.meta.paused = Paused::No);
            drop(st);
            unbuilt.push(relation.id);
            continue;
        };
        // Keyed state is stored per shard, last write wins: it is restored into as many shards as wrote it.
        let mut job = JobRunner::new(plan.clone(), stored.shards as usize, &inner.session_template)?;
        job.share(shared::inputs_of(&catalog, plan))?;
        for (node, slot, batch) in fetch(&inner.store, stored).await? {
            job.restore(node, &slot, &batch)?;
        }
        let paused = manifest.paused.get(&relation.id.0);
        let mut seen: BTreeMap<RelationId, ZBatchList> = BTreeMap::new();
        if let Some(stored) = paused.and_then(|_| manifest.states.get(&checkpoint::pause_owner(relation.id))) {
            for (node, _, batch) in fetch(&inner.store, stored).await? {
                seen.entry(RelationId(u64::from(node))).or_default().push(ZBatch::from_weighted(&batch).e()?);
            }
        }
        let indexes = match paused {
            None => {
                let mut found = inner.lock().shared_at(job.shared(), manifest.epoch, false);
                for spec in job.shared() {
                    let of_view = runners.get(&spec.relation).map(|j: &JobRunner| j.hosted().snapshots());
                    let of_view = of_view.into_iter().flatten().find(|(c, _)| *c == spec.columns);
                    found.extend(of_view.map(|(_, rows)| (spec.clone(), rows)));
                }
                found
            }
            Some(_) => shared::as_seen(&catalog, job.shared(), &seen)?,
        };
        if let Some(missing) = job.shared().find(|spec| !indexes.contains_key(*spec)) {
            return Err(Error::internal(format!("no index of relation {} to restore a join", missing.relation.0)));
        }
        job.rebase(&indexes)?;
        job.restored()?;
        for index in &relation.meta.indexes {
            job.add_index(index.id, &index.columns)?;
        }
        for columns in shared::columns_of(&wanted, relation.id) {
            let index = Hosted::build(relation.schema.clone(), columns, &job.rows()?)?;
            job.hosted_mut().add(columns, index);
        }
        let Some(paused) = paused else {
            if relation.meta.paused != Paused::No {
                // The checkpoint that would have made the pause true never happened.
                let mut st = inner.lock();
                Arc::make_mut(&mut st.catalog).update(relation.id, |r| r.meta.paused = Paused::No);
            }
            runners.insert(relation.id, job);
            continue;
        };
        pause::restore(inner, relation.id, job, paused, seen);
        if relation.meta.paused == Paused::No {
            resumed.push(relation.id);
        }
    }
    let mut st = inner.lock();
    let components = components(&catalog, &runners.keys().copied().collect());
    for members in components {
        let jobs: Vec<(RelationId, JobRunner)> =
            members.iter().filter_map(|id| runners.remove(id).map(|j| (*id, j))).collect();
        for (id, job) in &jobs {
            let version = version_of(job);
            let stats = job.stats();
            if let Some(r) = st.relations.get_mut(id) {
                r.publish(manifest.epoch, version, &[]);
                r.frontier = manifest.epoch;
                r.counters.state_rows = stats.rows;
                r.counters.state_bytes = stats.bytes;
            }
        }
        let runner = GroupRunner { jobs };
        inner.add_group(&mut st, runner, manifest.epoch);
    }
    for id in &unbuilt {
        if let Some(r) = st.relations.get_mut(id) {
            r.backfilling = true;
        }
    }
    Ok((unbuilt, resumed))
}

/// Rows of one relation.
pub(super) type ZBatchList = Vec<ZBatch>;

/// Views connected by views on views, each set in topological order (ids grow from upstream to downstream).
pub(super) fn components(catalog: &Catalog, views: &BTreeSet<RelationId>) -> Vec<Vec<RelationId>> {
    let mut sets: Vec<BTreeSet<RelationId>> = Vec::new();
    for id in views {
        let mut own = BTreeSet::from([*id]);
        if let Some(r) = catalog.relations.get(id) {
            let touches: Vec<RelationId> = r.inputs.iter().copied().filter(|i| views.contains(i)).collect();
            let (joined, apart): (Vec<_>, Vec<_>) =
                sets.into_iter().partition(|s: &BTreeSet<RelationId>| touches.iter().any(|t| s.contains(t)));
            own.extend(joined.into_iter().flatten());
            sets = apart;
        }
        sets.push(own);
    }
    sets.into_iter().map(|s| s.into_iter().collect()).collect()
}

impl EngineInner {
    /// Adds a group that stands at `frontier`, and starts the sources it reads.
    pub(super) fn add_group(self: &Arc<Self>, st: &mut State, runner: GroupRunner, frontier: crate::time::Epoch) {
        let id = st.next_group;
        st.next_group += 1;
        let inputs = group_inputs(&runner);
        let jobs: Vec<RelationId> = runner.jobs.iter().map(|(id, _)| *id).collect();
        let reads: Vec<RelationId> = runner.jobs.iter().flat_map(|(_, j)| j.plan().relations()).collect();
        let wakeup = runner.next_wakeup();
        let group = Group { jobs, inputs, frontier, running: false, parked_at: None, wakeup, runner: Some(runner) };
        st.groups.insert(id, group);
        for relation in reads {
            self.attach_source(st, relation);
        }
    }

    pub(super) fn wal(&self) -> &Wal {
        &self.wal
    }
}

/// Writes that were acknowledged after the checkpoint come back, each WAL object as one epoch, in order.
fn replay(inner: &Arc<EngineInner>, log: Vec<(u64, Vec<crate::ckpt::WalRecord>)>) {
    let mut st = inner.lock();
    // Those of later objects arrived before the epochs of the first are sealed again.
    st.stamped = Some(Timestamp(i64::MIN));
    for (seq, records) in log {
        for r in records {
            let relation = RelationId(r.relation);
            if st.relations.contains_key(&relation) {
                st.writes.push(PendingWrite { relation, batch: r.batch, wal_seq: seq });
            }
        }
        st.wal_seq = st.wal_seq.max(seq);
        inner.advance(&mut st);
    }
    st.stamped = None;
}
