//! Reading what streams had before a view was made.
//!
//! Streams are read side by side, the one that is furthest back in event time first. History is one tick; but where a
//! watermark bounds it, the tick is cut: what no row to come can reach is forgotten on the way, as it was by the views that
//! saw it happen. How input is cut shows nowhere, so the view is the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use millstream_connectors::{Positions, SplitId};
use millstream_sql::plan::RelationId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::backfill::{CHUNK_ROWS, on_pool};
use super::event_time::bounds_of;
use super::ingest::read_range;
use super::{EngineInner, TICK_ROWS_MAX, arrival};
use crate::catalog::Relation;
use crate::error::{Error, Result};
use crate::job::{JobRunner, Promises, TickRange};
use crate::zset::ZBatch;

/// A tick of history has so many times the rows of an epoch at most.
const TICK_EPOCHS: usize = 16;

/// Rows of a stream that a view must read itself.
pub(super) struct History {
    pub stream: Arc<Relation>,
    pub from: Positions,
    pub to: Positions,
    /// Watermarks of the partitions at `from`.
    pub marks: BTreeMap<SplitId, i64>,
}

/// A history that is being read.
struct Reading {
    stream: Arc<Relation>,
    rows: mpsc::Receiver<(ZBatch, Option<i64>)>,
    reader: JoinHandle<Result<()>>,
    /// No row to come is older.
    mark: Option<i64>,
    ended: bool,
}

/// Pushes histories into a job. `cut`: what the view reads, if ticks may end on the way.
pub(super) async fn push_histories(
    inner: &Arc<EngineInner>,
    mut job: JobRunner,
    histories: Vec<History>,
    at: TickRange,
    cut: Option<&BTreeSet<RelationId>>,
) -> Result<JobRunner> {
    // What arrives is paired with what is there: nothing of the history is there before the rest of it.
    let cut = cut.filter(|_| !job.by_epoch() && histories.iter().any(|h| h.stream.meta.watermark.is_some()));
    let tick_rows = TICK_ROWS_MAX.min(inner.options.epoch_rows_max.saturating_mul(TICK_EPOCHS));
    let chunk_rows = CHUNK_ROWS.min(tick_rows);
    let mut readings: Vec<Reading> = histories.into_iter().map(|h| read(inner, h)).collect();
    let (mut rows, mut since) = (0, 0);
    let mut pending: HashMap<RelationId, Vec<ZBatch>> = HashMap::new();
    while let Some(r) = readings.iter_mut().filter(|r| !r.ended).min_by_key(|r| r.mark) {
        match r.rows.recv().await {
            Some((batch, mark)) => {
                r.mark = r.mark.max(mark);
                rows += batch.len();
                let batch = match r.stream.meta.proctime {
                    Some(column) => arrival::stamp(batch, column, at.clock)?,
                    None => batch,
                };
                pending.entry(r.stream.id).or_default().push(batch);
            }
            None => {
                (r.mark, r.ended) = (Some(i64::MAX), true);
                (&mut r.reader).await.map_err(|e| Error::internal(format!("history reader died: {e}")))??;
            }
        }
        if rows == 0 || rows < chunk_rows && readings.iter().any(|r| !r.ended) {
            continue;
        }
        since += std::mem::take(&mut rows);
        let pieces = std::mem::take(&mut pending);
        job = on_pool(inner, job, move |j| j.push(&pieces, at)).await?.0;
        if let Some(inputs) = cut
            && since >= tick_rows
        {
            since = 0;
            job.set_time(&promises(inner, &readings, inputs, at));
            job = on_pool(inner, job, move |j| j.finish(&HashMap::new(), at)).await?.0;
        }
    }
    Ok(job)
}

/// What is promised of the rest of the histories and of all that comes after them.
fn promises(inner: &EngineInner, readings: &[Reading], inputs: &BTreeSet<RelationId>, at: TickRange) -> Promises {
    let st = inner.lock();
    let mut promises = st.promises(inputs, at.to);
    for r in readings {
        let late = r.stream.meta.watermark.as_ref().and_then(|w| st.catalog.relations.get(&w.late?));
        for relation in late.into_iter().chain([&r.stream]).filter(|relation| inputs.contains(&relation.id)) {
            let Some(rt) = st.relations.get(&relation.id) else { continue };
            let mark = rt.watermark_at(at.to).zip(r.mark).map(|(at_end, read)| at_end.min(read));
            let mut bounds = bounds_of(relation, mark);
            arrival::add_bound(relation, st.arrived_at(at.to), &mut bounds);
            promises.bounds.insert(relation.id, bounds);
        }
    }
    promises
}

/// Starts to read a history; the reader runs ahead of the operators by a few chunks at most.
fn read(inner: &Arc<EngineInner>, history: History) -> Reading {
    let (tx, rows) = mpsc::channel::<(ZBatch, Option<i64>)>(4);
    let stream = history.stream.clone();
    let inner = inner.clone();
    let reader = inner.tasks.clone().spawn(async move {
        let History { stream, from, to, marks } = history;
        let (feed, mut batches) = mpsc::unbounded_channel();
        let read = read_range(&inner, &stream, (&from, marks), &to, move |b, mark| {
            // The receiver is the loop below; it ends only after this sender is dropped.
            let _ = feed.send((b, mark));
            Ok(())
        });
        tokio::pin!(read);
        let mut done = None;
        loop {
            tokio::select! {
                r = &mut read, if done.is_none() => done = Some(r),
                b = batches.recv() => match b {
                    Some(b) => if tx.send(b).await.is_err() { return Ok(()) },
                    None => return done.unwrap_or(Ok(())),
                },
            }
        }
    });
    Reading { stream, rows, reader, mark: None, ended: false }
}
