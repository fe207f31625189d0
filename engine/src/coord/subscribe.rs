//! Subscriptions: a snapshot at a boundary, then every later change, one delta an epoch boundary.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use millstream_sql::plan::RelationId;
use tokio::sync::mpsc;

use super::EngineInner;
use crate::api::{Delta, Subscription};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::time::Epoch;
use crate::zset::ZBatch;

/// Deltas that may wait for a client before the subscription stops reading its hub.
const QUEUE_DELTAS: usize = 64;

pub(crate) async fn subscribe(inner: &Arc<EngineInner>, relation: &str, snapshot: bool) -> Result<Subscription> {
    let (schema_name, name) = match relation.split_once('.') {
        Some((s, n)) => (Some(s.to_owned()), n.to_owned()),
        None => (None, relation.to_owned()),
    };
    let name = millstream_sql::statement::ObjectName { schema: schema_name, name };
    let (id, connector) = {
        let st = inner.lock();
        let r = st.catalog.get(&name)?;
        (r.id, matches!(r.body, crate::catalog::Body::Connector { .. } | crate::catalog::Body::View { .. }))
    };
    if connector {
        return Err(Error::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!("\"{name}\" is not stored, only materialized views and tables are"),
        )
        .hint(format!("SUBSCRIBE (SELECT * FROM {name}) runs it as a view.")));
    }
    subscribe_id(inner, id, snapshot, None).await
}

/// Unregisters the cursor when the consumer goes away.
struct CursorGuard {
    inner: Arc<EngineInner>,
    cursor: u64,
    /// An anonymous view that lives as long as its subscription.
    anonymous: Option<RelationId>,
}

impl Drop for CursorGuard {
    fn drop(&mut self) {
        let mut st = self.inner.lock();
        st.cursors.remove(&self.cursor);
        st.prune_hubs();
        drop(st);
        if let Some(id) = self.anonymous {
            let inner = self.inner.clone();
            self.inner.tasks.spawn(async move {
                if let Err(e) = super::backfill::drop_anonymous(&inner, id).await {
                    tracing::warn!("cannot drop the view of a subscription: {}", e.message);
                }
            });
        }
    }
}

pub(crate) async fn subscribe_id(
    inner: &Arc<EngineInner>,
    id: RelationId,
    snapshot: bool,
    anonymous: Option<RelationId>,
) -> Result<Subscription> {
    // While a view is built (after a restart, say) there is no boundary that a snapshot could be taken at. What was
    // written and acknowledged is in the snapshot.
    let floor = inner.lock().write_floor([id]);
    inner
        .wait(|st| match st.relation(id) {
            Ok(r) if r.quarantined.is_some() || r.paused => Some(Ok(())),
            Ok(r) if r.backfilling || r.frontier < floor => None,
            Ok(_) => Some(Ok(())),
            Err(e) => Some(Err(e)),
        })
        .await?;
    let (cursor, start, version, schema) = {
        let mut st = inner.lock();
        let r = st.relation(id)?;
        let (frontier, schema) = (r.frontier, r.schema.clone());
        let version = if snapshot { r.version_at(frontier).map(|(_, v)| v) } else { None };
        (st.add_cursor(BTreeSet::from([id]), frontier, true), frontier, version, schema)
    };
    let guard = CursorGuard { inner: inner.clone(), cursor, anonymous };
    let (tx, rx) = mpsc::channel::<Result<Delta>>(QUEUE_DELTAS);
    let task_schema = schema.clone();
    inner.tasks.spawn(async move {
        if let Err(e) = pump(&guard, id, start, version, snapshot, &task_schema, &tx).await {
            // The receiver may be gone already; then nobody is interested.
            let _ = tx.send(Err(e)).await;
        }
    });
    let stream = futures::stream::unfold(rx, |mut rx| async move { rx.recv().await.map(|d| (d, rx)) });
    Ok(Subscription { schema, progress: false, inner: stream.boxed() })
}

async fn pump(
    guard: &CursorGuard,
    id: RelationId,
    start: Epoch,
    version: Option<Arc<super::Version>>,
    snapshot: bool,
    schema: &arrow::datatypes::SchemaRef,
    tx: &mpsc::Sender<Result<Delta>>,
) -> Result<()> {
    if snapshot {
        let mut rows = Vec::new();
        for shard in version.iter().flat_map(|v| v.shards.iter()) {
            rows.extend(shard.scan()?);
        }
        let batch = ZBatch::concat(schema, &rows).e()?;
        if tx.send(Ok(Delta { epoch: start, batch, snapshot: true })).await.is_err() {
            return Ok(());
        }
    }
    drop(version);
    let mut at = start;
    loop {
        let inner = &guard.inner;
        let step = inner.wait(|st| {
            let Some(r) = st.relations.get(&id) else {
                if st.replaced.contains(&id) {
                    return Some(Err(Error::new(
                        SqlState::OBJECT_NOT_IN_STATE,
                        "the materialized view was replaced by another one of its name",
                    )
                    .hint("Subscribe again: the columns may be others.")));
                }
                return Some(Ok(None));
            };
            if let Some(reason) = &r.quarantined {
                return Some(Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, format!("view is quarantined: {reason}"))));
            }
            if st.cursors.get(&guard.cursor).is_none_or(|c| c.lost) {
                return Some(Err(Error::new(
                    SqlState::QUERY_CANCELED,
                    format!("subscription fell too far behind and was cut off at epoch {at}"),
                )
                .hint("Subscribe again: a new subscription starts with a snapshot.")));
            }
            let r = st.relations.get(&id)?;
            if r.frontier <= at {
                return None;
            }
            let entries: Vec<_> = r.deltas_between(at, r.frontier).cloned().collect();
            Some(Ok(Some((entries, r.frontier))))
        });
        let step = tokio::select! {
            s = step => s?,
            () = tx.closed() => return Ok(()),
        };
        let Some((entries, frontier)) = step else { return Ok(()) };
        for e in &entries {
            let batch = ZBatch::concat(schema, &e.batches).e()?.consolidate().e()?;
            if batch.is_empty() {
                continue;
            }
            if tx.send(Ok(Delta { epoch: e.epoch, batch, snapshot: false })).await.is_err() {
                return Ok(());
            }
        }
        if entries.last().is_none_or(|e| e.epoch < frontier) {
            let idle = Delta { epoch: frontier, batch: ZBatch::empty(schema.clone()), snapshot: false };
            // Progress is a courtesy: when the client is slow, the next delta says as much.
            if tx.capacity() > QUEUE_DELTAS / 2 && tx.send(Ok(idle)).await.is_err() {
                return Ok(());
            }
        }
        at = frontier;
        let mut st = guard.inner.lock();
        if let Some(c) = st.cursors.get_mut(&guard.cursor) {
            c.epoch = at;
        }
        st.prune_hubs();
    }
}
