//! The log of client writes (DML) that no upstream can replay: written before they are acknowledged.

use std::sync::Arc;

use object_store::ObjectStore;

use crate::error::Result;
use crate::zset::ZBatch;

/// One durable change of a table or native stream.
#[derive(Debug, Clone)]
pub struct WalRecord {
    /// The relation.
    pub relation: u64,
    /// Its change.
    pub batch: ZBatch,
}

/// Numbered, create-only objects `wal/<20-digit seq>`; group commit.
pub struct Wal {
    _store: Arc<dyn ObjectStore>,
}

impl Wal {
    /// Reads all records after `applied`, fences any earlier writer by claiming the next number, and opens for writing.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        writer_epoch: u64,
        applied: u64,
    ) -> Result<(Self, Vec<(u64, Vec<WalRecord>)>)> {
        let _ = (store, writer_epoch, applied);
        Err(crate::Error::internal("not built yet"))
    }
    /// Makes records durable as one object, returns its sequence number. Calls must not overlap (the caller groups).
    pub async fn append(&self, records: &[WalRecord]) -> Result<u64> {
        let _ = records;
        Err(crate::Error::internal("not built yet"))
    }
    /// Deletes objects up to and including `seq`.
    pub async fn truncate(&self, seq: u64) -> Result<()> {
        let _ = seq;
        Ok(())
    }
}
