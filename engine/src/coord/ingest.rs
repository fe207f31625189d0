//! Source readers: decode off the tick path, buffer, wait when the engine is behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;
use millstream_connectors::{
    BadRecord, ErrorKind, Position, Positions, Source, SourceChunk, SourceConfig, SourceEvent, SourceReader, SplitId,
};
use millstream_sql::plan::{PlanExpr, RelationId};

use super::event_time::{OnTime, Sorted, StoredTime};
use super::stream_options::OnError;
use super::{BUFFER_ROWS_MAX, EngineInner, Ingested, SourceRt, State};
use crate::catalog::{Body, Paused, Relation};
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::map::MapOp;
use crate::ops::{DeltaOp as _, ErrorSet, TickCx};
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;

const POLL_ROWS: usize = 8 * 1024;
const POLL_WAIT: Duration = Duration::from_millis(500);
const HIGH_WATERMARK_INTERVAL: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// A column that sources add for streams with computed columns: where each row is from.
const POSITION: &str = "__ms_position";

/// From a source's columns to the stream's: order and computed columns.
pub(crate) struct IngestMap {
    /// What to do with records that cannot be read.
    pub(crate) on_error: OnError,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    input: SchemaRef,
    output: SchemaRef,
}

/// Makes the [`IngestMap`] of a stream over a source with these columns.
pub(crate) fn ingest_exprs(state: &SessionState, relation: &Relation, source: &SchemaRef) -> Result<IngestMap> {
    let Body::Connector { generated, options, .. } = &relation.body else {
        return Err(Error::internal("not a connector stream"));
    };
    let by_name: HashMap<&str, &str> = generated.iter().map(|g| (g.name.as_str(), g.expr.as_str())).collect();
    let schema = DFSchema::try_from(source.as_ref().clone()).e()?;
    let exprs = relation
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| match by_name.get(f.name().as_str()) {
            // Rows are given their time of arrival later.
            _ if relation.meta.proctime == Some(i) => Ok(lit(ScalarValue::try_from(f.data_type()).e()?)),
            Some(text) => {
                let expr = millstream_sql::session::plan_expression(state, text, &schema)?;
                let expr = datafusion::logical_expr::ExprSchemable::cast_to(expr, f.data_type(), &schema).e()?;
                state.create_physical_expr(expr, &schema).e()
            }
            None => {
                let i = source.index_of(f.name()).map_err(|_| {
                    Error::new(
                        crate::error::SqlState::UNDEFINED_COLUMN,
                        format!("the source of \"{}\" has no column \"{}\"", relation.name, f.name()),
                    )
                })?;
                PlanExpr::column(i).compile(source).e()
            }
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(IngestMap {
        on_error: super::stream_options::on_error(options)?,
        exprs,
        input: source.clone(),
        output: relation.schema.clone(),
    })
}

impl IngestMap {
    /// Maps decoded rows; rows whose computed columns fail become bad records of the chunk.
    pub(crate) fn apply(&self, chunk: &mut SourceChunk) -> Result<ZBatch> {
        let rows = std::mem::replace(&mut chunk.rows, RecordBatch::new_empty(self.input.clone()));
        let mut errors = ErrorSet::default();
        let out = self.map(rows.clone(), &mut errors)?;
        if !errors.entries.is_empty() {
            // Which rows they were: one by one, so that each has its own place.
            let positions = rows.column_by_name(POSITION).and_then(|c| c.as_primitive_opt::<Int64Type>().cloned());
            for i in 0..rows.num_rows() {
                let mut errors = ErrorSet::default();
                self.map(rows.slice(i, 1), &mut errors)?;
                // Without its place a row is somewhere before the end of the chunk.
                let position = positions.as_ref().map_or(chunk.end.0.saturating_sub(1), |p| p.value(i) as u64);
                chunk.bad.extend(errors.entries.into_keys().map(|(_, reason, row)| BadRecord {
                    split: chunk.split.clone(),
                    position: Position(position),
                    origin: "computed column".into(),
                    column: None,
                    reason,
                    payload: match &positions {
                        // The place is the last column.
                        Some(_) => row.rsplit_once(", ").map_or(row.clone(), |(row, _)| format!("{row})")).into_bytes(),
                        None => row.into_bytes(),
                    },
                }));
            }
        }
        Ok(out)
    }

    fn map(&self, rows: RecordBatch, errors: &mut ErrorSet) -> Result<ZBatch> {
        let mut cx = TickCx {
            from: Epoch(0),
            to: Epoch(0),
            clock: Timestamp(0),
            errors,
            chunk_rows: usize::MAX,
            time: &crate::ops::NO_TIME,
        };
        let mut out: Vec<ZBatch> = Vec::new();
        let mut op = MapOp::new(self.input.clone(), Vec::new(), Some(self.exprs.clone()), self.output.clone());
        op.push(0, ZBatch::inserts(rows), &mut cx, &mut out)?;
        ZBatch::concat(&self.output, &out).e()
    }

    /// [`Self::apply`] for readers that report nothing: with `on_error = 'fail'` a record that cannot be read ends them.
    pub(crate) fn apply_quietly(&self, chunk: &mut SourceChunk) -> Result<ZBatch> {
        let batch = self.apply(chunk)?;
        match (self.on_error, chunk.bad.first()) {
            (OnError::Fail, Some(b)) => Err(unreadable(b)),
            _ => Ok(batch),
        }
    }
}

/// The error that stops a stream with `on_error = 'fail'`.
fn unreadable(b: &BadRecord) -> Error {
    let place = format!("{} (partition {}, offset {})", b.origin, b.split, b.position.0);
    Error::new(crate::error::SqlState::DATA_EXCEPTION, format!("a record of {place} cannot be read: {}", b.reason))
        .hint("ALTER STREAM .. SET (on_error = 'skip') goes on without it, 'dead_letter' puts it into ms.errors.")
}

/// The connector's configuration of a stream.
fn config_of(relation: &Relation, base_dir: Option<std::path::PathBuf>) -> Result<SourceConfig> {
    let Body::Connector { options, physical, metadata, generated, .. } = &relation.body else {
        return Err(Error::internal("not a connector stream"));
    };
    let mut metadata = metadata
        .iter()
        .map(|(name, key)| {
            let field = relation.schema.field_with_name(name).e()?;
            Ok((name.clone(), key.clone(), field.data_type().clone()))
        })
        .collect::<Result<Vec<_>>>()?;
    let has_offsets = options.get("connector").is_some_and(|c| c == "kafka" || c == "file");
    if !generated.is_empty() && has_offsets {
        metadata.push((POSITION.to_owned(), "offset".to_owned(), DataType::Int64));
    }
    Ok(SourceConfig {
        name: relation.name.clone(),
        options: options.clone(),
        schema: Some(physical.clone()),
        metadata,
        primary_key: relation.primary_key.iter().map(|i| relation.schema.field(*i).name().clone()).collect(),
        base_dir,
    })
}

/// Opens a stream's source, or gives the one that is open.
pub(crate) async fn open_relation_source(inner: &Arc<EngineInner>, relation: &Relation) -> Result<Arc<dyn Source>> {
    let open = inner.lock().relations.get(&relation.id).and_then(|r| r.source.as_ref()?.source.clone());
    if let Some(s) = open {
        return Ok(s);
    }
    let config = config_of(relation, inner.options.base_dir.clone())?;
    let source = super::stream_options::open_source(config, &inner.options.environment).await?;
    if let Some(s) = inner.lock().relations.get_mut(&relation.id).and_then(|r| r.source.as_mut()) {
        s.source = Some(source.clone());
    }
    Ok(source)
}

/// Opens the source of a stream whose options are about to change, to see that they are right.
pub(crate) async fn open_checked(inner: &Arc<EngineInner>, relation: &Relation) -> Result<()> {
    let config = config_of(relation, inner.options.base_dir.clone())?;
    let source = super::stream_options::open_source(config, &inner.options.environment).await?;
    ingest_exprs(&inner.session_template, relation, &source.schema()).map(drop)
}

impl EngineInner {
    /// Counts a new reader of a stream; the first starts the source's tasks.
    pub(super) fn attach_source(self: &Arc<Self>, st: &mut State, id: RelationId) {
        let Some(relation) = st.catalog.relations.get(&id).cloned() else { return };
        let stopping = st.stopping;
        let Some(r) = st.relations.get_mut(&id) else { return };
        let Some(s) = r.source.as_mut() else { return };
        s.readers += 1;
        if s.readers > 1 || stopping {
            return;
        }
        let paused = relation.meta.paused != Paused::No;
        if let Body::Connector { start, .. } = &relation.body
            && s.positions.is_empty()
        {
            s.positions = start.clone();
        }
        s.stop();
        if let Some(t) = &mut r.time {
            t.forget_unsealed();
        }
        if paused {
            s.status = "paused".into();
        } else {
            self.start_source(s, relation);
        }
    }

    fn start_source(self: &Arc<Self>, s: &mut SourceRt, relation: Arc<Relation>) {
        s.status = "starting".into();
        let inner = self.clone();
        let task = self.tasks.spawn(async move { inner.run_source(relation).await });
        s.tasks.push(task.abort_handle());
    }

    /// Stops the readers of a stream; unless it is paused, new ones go on where the last epoch ended, with the options the
    /// catalog has now.
    pub(crate) fn restart_source(self: &Arc<Self>, st: &mut State, id: RelationId) {
        let Some(relation) = st.catalog.relations.get(&id).cloned() else { return };
        let stopping = st.stopping;
        let Some(r) = st.relations.get_mut(&id) else { return };
        let Some(s) = r.source.as_mut() else { return };
        s.stop();
        if let Some(t) = &mut r.time {
            t.forget_unsealed();
        }
        s.source = None;
        s.status = "stopped".into();
        if relation.meta.paused != Paused::No {
            s.status = "paused".into();
        } else if s.readers > 0 && !stopping {
            self.start_source(s, relation);
        }
        self.advance(st);
    }

    /// Counts a reader less; the last stops the tasks, and the stream starts anew for the next one.
    pub(super) fn detach_source(&self, st: &mut State, id: RelationId) {
        let now = self.options.clock.now();
        let Some(r) = st.relations.get_mut(&id) else { return };
        let Some(s) = r.source.as_mut() else { return };
        s.readers = s.readers.saturating_sub(1);
        if s.readers == 0 {
            s.stop();
            s.positions = Positions::new();
            if let Some(t) = &mut r.time {
                // Nobody is left who was promised anything.
                t.restore(StoredTime::default(), now);
                r.watermarks.clear();
            }
            s.status = "stopped".into();
        }
    }

    /// Opens the source (for as long as it takes) and runs its readers until they are stopped.
    async fn run_source(self: Arc<Self>, relation: Arc<Relation>) {
        let mut backoff = BACKOFF_MIN;
        let id = relation.id;
        loop {
            match self.clone().start_readers(&relation).await {
                Ok(()) => return,
                Err(e) => {
                    self.set_source_status(id, &format!("degraded: {}", e.message));
                    tracing::warn!(stream = %relation.name, "source cannot start: {}", e.message);
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn start_readers(self: Arc<Self>, relation: &Arc<Relation>) -> Result<()> {
        let id = relation.id;
        let source = open_relation_source(&self, relation).await?;
        let map = Arc::new(ingest_exprs(&self.session_template, relation, &source.schema())?);
        let (from, run) = {
            let st = self.lock();
            let Some(s) = &st.relation(id)?.source else { return Ok(()) };
            (s.positions.clone(), s.run)
        };
        // Time waits for every partition there is, also for one that has nothing to deliver yet.
        let timed = self.lock().relation(id)?.time.is_some();
        let known = if timed { source.high_watermarks().await.e()? } else { Positions::new() };
        let readers = source.open(&from, None, self.workers).await.e()?;
        let now = self.options.clock.now();
        let mut st = self.lock();
        let count = readers.len();
        let Some(r) = st.relations.get_mut(&id) else { return Ok(()) };
        let Some(s) = r.source.as_mut() else { return Ok(()) };
        if s.run == run {
            s.high_watermarks = known;
            if let Some(t) = &mut r.time {
                s.high_watermarks.keys().for_each(|split| t.expect(split, now));
            }
        }
        if s.readers == 0 || s.run != run {
            return Ok(());
        }
        s.status = "running".into();
        s.tasks.push(self.tasks.spawn(self.clone().follow_high_watermarks(id, source)).abort_handle());
        for reader in readers {
            let task = self.tasks.spawn(self.clone().run_reader(id, reader, map.clone(), (run, count)));
            s.tasks.push(task.abort_handle());
        }
        Ok(())
    }

    /// Asks now and then where the origin ends, for the lag in `ms.sources`.
    async fn follow_high_watermarks(self: Arc<Self>, id: RelationId, source: Arc<dyn Source>) {
        loop {
            match source.high_watermarks().await {
                Ok(ends) => {
                    let now = self.options.clock.now();
                    let mut st = self.lock();
                    let Some(r) = st.relations.get_mut(&id) else { return };
                    let Some(s) = &mut r.source else { return };
                    if let Some(t) = &mut r.time {
                        ends.keys().for_each(|split| t.expect(split, now));
                    }
                    s.high_watermarks = ends;
                }
                // The readers report the same trouble, with more to say about it.
                Err(e) => tracing::debug!(stream = id.0, "no high watermarks: {}", e.message),
            }
            tokio::time::sleep(HIGH_WATERMARK_INTERVAL).await;
        }
    }

    async fn run_reader(
        self: Arc<Self>,
        id: RelationId,
        mut reader: Box<dyn SourceReader>,
        map: Arc<IngestMap>,
        (run, readers): (u64, usize),
    ) {
        let mut backoff = BACKOFF_MIN;
        let mut changes = self.changed.subscribe();
        loop {
            // Back-pressure: wait until a seal took the buffer.
            loop {
                {
                    let st = self.lock();
                    match st.relations.get(&id) {
                        None => return,
                        Some(r) if r.buffered_rows() < BUFFER_ROWS_MAX => break,
                        Some(_) => {}
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
            match reader.poll(POLL_ROWS, POLL_WAIT).await {
                Ok(SourceEvent::Chunk(mut chunk)) => {
                    if backoff > BACKOFF_MIN {
                        backoff = BACKOFF_MIN;
                        self.set_source_status(id, "running");
                    }
                    let batch = match map.apply(&mut chunk) {
                        Ok(b) => b,
                        Err(e) => {
                            self.set_source_status(id, &format!("failed: {}", e.message));
                            return;
                        }
                    };
                    if map.on_error == OnError::Fail
                        && let Some(bad) = chunk.bad.first()
                    {
                        let e = unreadable(bad);
                        tracing::error!(stream = id.0, "source stopped: {}", e.message);
                        self.set_source_status(id, &format!("failed: {}", e.message));
                        return;
                    }
                    let mut st = self.lock();
                    if st.stopping {
                        return;
                    }
                    let Some(r) = st.relations.get_mut(&id) else { return };
                    let Some(s) = r.source.as_mut() else { return };
                    // A reader that was stopped while it decoded must not deliver: another one reads from there.
                    if s.run != run {
                        return;
                    }
                    let sorted = match &mut r.time {
                        None => Ok(Sorted { on_time: batch, late: None, mark: None }),
                        Some(t) => t.deliver(&chunk.split, batch, self.options.clock.now()),
                    };
                    let Sorted { on_time: batch, late, mark } = match sorted {
                        Ok(sorted) => sorted,
                        Err(e) => {
                            s.status = format!("failed: {}", e.message);
                            tracing::error!(stream = id.0, "source stopped: {}", e.message);
                            return;
                        }
                    };
                    if map.on_error == OnError::Skip {
                        s.bad += chunk.bad.len() as u64;
                        chunk.bad.clear();
                    }
                    s.buffer_rows += batch.len();
                    s.buffer.push_back(Ingested { chunk, batch, late, mark });
                    self.advance(&mut st);
                }
                Ok(SourceEvent::Idle) => {}
                Ok(SourceEvent::End) => {
                    let mut st = self.lock();
                    if let Some(r) = st.relations.get_mut(&id)
                        && let Some(s) = &mut r.source
                        && s.run == run
                    {
                        s.ended_readers += 1;
                        if s.ended_readers == readers {
                            s.ended = true;
                            s.status = "finished".into();
                            if let Some(t) = &mut r.time {
                                t.end_all();
                            }
                        }
                    }
                    self.advance(&mut st);
                    return;
                }
                Err(e) if e.kind == ErrorKind::Retryable => {
                    self.set_source_status(id, &format!("degraded: {}", e.message));
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(e) => {
                    tracing::error!(stream = id.0, "source stopped: {}", e.message);
                    self.set_source_status(id, &format!("failed: {}", e.message));
                    return;
                }
            }
        }
    }

    fn set_source_status(&self, id: RelationId, status: &str) {
        let mut st = self.lock();
        if let Some(s) = st.relations.get_mut(&id).and_then(|r| r.source.as_mut()) {
            s.status = status.into();
        }
        // Whoever waits for the stream wants to know that it failed.
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl SourceRt {
    /// Stops all readers; what they decoded and nobody sealed is read again.
    fn stop(&mut self) {
        self.tasks.drain(..).for_each(|t| t.abort());
        self.run += 1;
        self.buffer.clear();
        self.buffer_rows = 0;
        self.ended = false;
        self.ended_readers = 0;
    }
}

/// Reads a stream from one place to another with readers of its own and hands every batch to `sink`, with the time before
/// which no row is that is still to be read.
pub(super) async fn read_range(
    inner: &Arc<EngineInner>,
    relation: &Relation,
    (from, marks): (&Positions, BTreeMap<SplitId, i64>),
    to: &Positions,
    mut sink: impl FnMut(ZBatch, Option<i64>) -> Result<()>,
) -> Result<()> {
    let source = open_relation_source(inner, relation).await?;
    let map = ingest_exprs(&inner.session_template, relation, &source.schema())?;
    let mut on_time = inner.lock().relation(relation.id)?.time.as_ref().map(|t| OnTime::new(t.rule(), marks));
    let unread = |(split, end): &(&SplitId, &Position)| end.0 > 0 && from.get(*split).is_none_or(|p| p < *end);
    let mut left: BTreeSet<&SplitId> = to.iter().filter(unread).map(|(split, _)| split).collect();
    let mut readers = source.open(from, Some(to), 1).await.e()?;
    for reader in &mut readers {
        loop {
            match reader.poll(POLL_ROWS, POLL_WAIT).await {
                Ok(SourceEvent::Chunk(mut chunk)) => {
                    let batch = map.apply_quietly(&mut chunk)?;
                    if to.get(&chunk.split).is_some_and(|end| chunk.end >= *end) {
                        left.remove(&chunk.split);
                    }
                    match &mut on_time {
                        Some(t) => {
                            let batch = t.keep(&chunk.split, batch)?;
                            sink(batch, left.iter().map(|split| t.mark(split)).min().unwrap_or(Some(i64::MAX)))?;
                        }
                        None => sink(batch, None)?,
                    }
                }
                Ok(SourceEvent::Idle) => {}
                Ok(SourceEvent::End) => break,
                Err(e) if e.kind == ErrorKind::Retryable => tokio::time::sleep(BACKOFF_MIN).await,
                Err(e) => return Err(e).e(),
            }
        }
    }
    Ok(())
}

/// True if every split of `target` has been read to its end.
pub(super) fn reached(positions: &Positions, target: &Positions) -> bool {
    let none: BTreeMap<_, _> = BTreeMap::new();
    let positions = if positions.is_empty() { &none } else { positions };
    target.iter().all(|(split, end)| end.0 == 0 || positions.get(split).is_some_and(|p| p >= end))
}
