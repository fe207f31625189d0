//! Client writes: durable in the WAL before they are visible or acknowledged.

use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_sql::plan::RelationId;
use tokio::sync::{mpsc, oneshot};

use super::{EngineInner, PendingWrite};
use crate::catalog::Body;
use crate::ckpt::{Wal, WalRecord};
use crate::error::{Error, Result, SqlState};
use crate::time::Epoch;
use crate::zset::ZBatch;

/// Writes that share one WAL object at most.
const GROUP_MAX: usize = 1024;

/// Changes of some relations that become true together.
pub(crate) struct WalRequest {
    changes: Vec<(RelationId, ZBatch)>,
    done: oneshot::Sender<Result<Epoch>>,
}

/// Makes changes durable and visible in one epoch, which is returned. Already checked by the caller.
pub(crate) async fn write(inner: &Arc<EngineInner>, changes: Vec<(RelationId, ZBatch)>) -> Result<Epoch> {
    let (done, result) = oneshot::channel();
    let stopping = || Error::new(SqlState::ADMIN_SHUTDOWN, "the engine is stopping");
    inner.wal_queue.send(WalRequest { changes, done }).await.map_err(|_| stopping())?;
    match result.await {
        Ok(r) => r,
        Err(_) => Err(inner.failure().unwrap_or_else(stopping)),
    }
}

/// The one task that writes the WAL: whatever waits goes into one object.
pub(super) async fn run_wal(inner: Arc<EngineInner>, wal: Arc<Wal>, mut queue: mpsc::Receiver<WalRequest>) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, GROUP_MAX).await > 0 {
        let now = inner.options.clock.now();
        let stamped = inner.lock().stamp_writes(now, group.iter_mut().flat_map(|r| r.changes.iter_mut()));
        let records: Vec<WalRecord> = group
            .iter()
            .flat_map(|r| r.changes.iter())
            .map(|(relation, batch)| WalRecord { relation: relation.0, batch: batch.clone() })
            .collect();
        let appended = match stamped {
            Ok(()) => wal.append(&records).await,
            Err(e) => Err(e),
        };
        match appended {
            Ok(seq) => {
                let epoch = {
                    let mut st = inner.lock();
                    for r in &mut group {
                        for (relation, batch) in std::mem::take(&mut r.changes) {
                            st.writes.push(PendingWrite { relation, batch, wal_seq: seq });
                        }
                    }
                    st.stamped = None;
                    inner.advance(&mut st);
                    st.sealed
                };
                for r in group.drain(..) {
                    // A client that went away does not undo its write.
                    let _ = r.done.send(Ok(epoch));
                }
            }
            Err(e) => {
                // Whether the object exists is unknown, so nobody may write after it: the process stops, and the next
                // one reads what is there.
                inner.fail(e.clone());
                for r in group.drain(..) {
                    let _ = r.done.send(Err(e.clone()));
                }
                return;
            }
        }
    }
}

/// The embedded API's append.
pub(crate) async fn insert(inner: &Arc<EngineInner>, relation: &str, rows: RecordBatch) -> Result<Epoch> {
    let name = millstream_sql::statement::ObjectName { schema: None, name: relation.into() };
    let relation = inner.lock().catalog.get(&name)?.clone();
    let Body::Table { .. } = &relation.body else {
        return Err(Error::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!("cannot insert into {} \"{relation}\"", relation.kind().noun(), relation = relation.name),
        ));
    };
    crate::read::dml::insert_rows(inner, &relation, rows, crate::read::dml::OnConflict::Error).await.map(|(e, _)| e)
}
