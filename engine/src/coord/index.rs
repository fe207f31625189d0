//! Putting an index on a relation that runs, and taking it away.
//!
//! An index of a table lives beside its rows and changes with every epoch; that of a view lives in its job and changes
//! with every tick. Either way a version of the relation contains the versions of its indexes, so that a query never
//! sees rows and index of different epochs. Nothing of an index is stored: it is built again from the rows at start.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_sql::plan::RelationId;

use super::backfill::{Parked, on_pool, park, wait_until_built};
use super::tick::version_of;
use super::{EngineInner, Version};
use crate::error::{Error, Result, SqlState};
use crate::job::JobRunner;
use crate::state::ordered::OrderedIndex;
use crate::time::Epoch;
use crate::zset::ZBatch;

/// Builds an index of a relation from its rows and keeps it from then on.
pub(crate) async fn install_index(
    inner: &Arc<EngineInner>,
    relation: RelationId,
    index: RelationId,
    columns: &[usize],
) -> Result<()> {
    wait_until_built(inner, &BTreeSet::from([relation])).await?;
    if inner.lock().relation(relation)?.derived {
        let columns = columns.to_vec();
        return change_job(inner, relation, None, move |j, _| j.add_index(index, &columns)).await;
    }
    // A table: built from a version while writes go on, then caught up with under the lock.
    let (cursor, from, version, schema) = {
        let mut st = inner.lock();
        let r = st.relation(relation)?;
        let (from, schema) = (r.frontier, r.schema.clone());
        let version = r.version_at(from).map(|(_, v)| v);
        (st.add_cursor(BTreeSet::from([relation]), from, false), from, version, schema)
    };
    let cursor = Cursor { inner: inner.clone(), cursor };
    let columns = columns.to_vec();
    let built = tokio::task::spawn_blocking(move || {
        let mut built = OrderedIndex::new(schema, columns)?;
        for shard in version.iter().flat_map(|v| &v.shards) {
            for batch in shard.scan()? {
                built.append(&batch)?;
            }
        }
        Ok::<_, Error>(built)
    });
    let mut built = built.await.map_err(|e| Error::internal(format!("building an index died: {e}")))??;
    let mut st = inner.lock();
    let holds: Vec<Epoch> = st.holds.keys().copied().collect();
    if let Some(r) = st.relations.get_mut(&relation) {
        for delta in r.deltas_between(from, r.frontier) {
            delta.batches.iter().try_for_each(|b| built.append(b))?;
        }
        r.indexes.retain(|(i, _)| *i != index);
        r.indexes.push((index, built));
        // The same rows, now with the index.
        if let Some(version) = r.stored_version() {
            let at = r.published.keys().next_back().copied().unwrap_or(from);
            r.publish(at, version, &holds);
        }
    }
    drop(st);
    drop(cursor);
    Ok(())
}

/// Forgets an index.
pub(crate) async fn remove_index(inner: &Arc<EngineInner>, relation: RelationId, index: RelationId) -> Result<()> {
    {
        let mut st = inner.lock();
        let holds: Vec<Epoch> = st.holds.keys().copied().collect();
        let Some(r) = st.relations.get_mut(&relation) else { return Ok(()) };
        if !r.derived {
            r.indexes.retain(|(i, _)| *i != index);
            if let (Some(version), Some(at)) = (r.stored_version(), r.published.keys().next_back().copied()) {
                r.publish(at, version, &holds);
            }
            return Ok(());
        }
    }
    change_job(inner, relation, None, move |j, _| {
        j.remove_index(index);
        Ok(())
    })
    .await
}

/// From where on a cursor keeps the changes of a view, and which of its jobs made them.
pub(super) struct Since {
    pub epoch: Epoch,
    pub joined: u64,
}

/// Changes a job that stands still, and publishes its version again. `change` is also given the changes of the view since
/// then, if it asks for them. A paused view changes where it is.
pub(super) async fn change_job(
    inner: &Arc<EngineInner>,
    relation: RelationId,
    since: Option<Since>,
    change: impl FnOnce(&mut JobRunner, Vec<ZBatch>) -> Result<()> + Send + 'static,
) -> Result<()> {
    let _structure = inner.structure.lock().await;
    let (at, parked) = {
        let mut st = inner.lock();
        let at = st.sealed;
        let groups = park(&mut st, &BTreeSet::from([relation]), at);
        (at, Parked { inner: inner.clone(), groups })
    };
    parked.wait(at).await?;
    let group = parked.groups.first().copied();
    let (taken, changes) = {
        let mut st = inner.lock();
        let r = st.relation(relation)?;
        let mut changes: Vec<ZBatch> = Vec::new();
        if let Some(since) = since {
            if r.joined != since.joined {
                let message = "a view was built again while its index was built";
                return Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, message).hint("Try again."));
            }
            let deltas = r.deltas_between(since.epoch, Epoch(u64::MAX));
            changes.extend(deltas.flat_map(|d| d.batches.iter().cloned()));
        }
        let runner = group.and_then(|g| st.groups.get_mut(&g)).and_then(|g| g.runner.as_mut());
        let at = runner.as_ref().and_then(|r| r.jobs.iter().position(|(id, _)| *id == relation));
        let taken = match (runner, at) {
            (Some(runner), Some(at)) => Some((at, runner.jobs.remove(at).1)),
            _ => None,
        };
        (taken, changes)
    };
    // Not in a group: quarantined. It is built with its indexes when it is resumed.
    let Some((position, job)) = taken else { return Ok(()) };
    // The job comes back whatever happens to the index.
    let (job, result) = match on_pool(inner, job, move |j| Ok(change(j, changes))).await {
        Ok(done) => done,
        Err(e) => {
            let mut st = inner.lock();
            if let Some(r) = st.relations.get_mut(&relation) {
                r.quarantined = Some(e.message.clone());
            }
            return Err(e);
        }
    };
    let mut st = inner.lock();
    let version: Version = version_of(&job);
    if let Some(runner) = group.and_then(|g| st.groups.get_mut(&g)).and_then(|g| g.runner.as_mut()) {
        runner.jobs.insert(position.min(runner.jobs.len()), (relation, job));
    }
    let holds: Vec<Epoch> = st.holds.keys().copied().collect();
    if let Some(r) = st.relations.get_mut(&relation) {
        let newest = r.published.keys().next_back().copied().unwrap_or(at);
        r.publish(newest, version, &holds);
    }
    inner.advance(&mut st);
    drop(st);
    drop(parked);
    result
}

/// Keeps the deltas of a relation while its index is built.
pub(super) struct Cursor {
    pub inner: Arc<EngineInner>,
    pub cursor: u64,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let mut st = self.inner.lock();
        st.cursors.remove(&self.cursor);
        st.prune_hubs();
    }
}
