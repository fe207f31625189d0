//! An indexed, multi-version Z-set: hash head over an append log, and sorted runs behind it.
//!
//! Interface (fixed; the coordinator, reads and joins are written against it):

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;

use crate::error::Result;
use crate::ops::{SlotDelta, StateStats};
use crate::zset::ZBatch;

/// Rows indexed by the columns `key`.
pub struct Arrangement {
    _schema: SchemaRef,
}

/// Pairs found by a probe.
#[derive(Debug, Default)]
pub struct Matches {
    /// Row of the probing batch.
    pub probe: Vec<u32>,
    /// Row in the arrangement, opaque: for `gather`.
    pub row: Vec<u64>,
    /// Weight in the arrangement.
    pub weight: Vec<i64>,
}

/// The content at one moment; immutable, cheap to clone and to keep.
#[derive(Clone)]
pub struct ArrangementSnapshot {
    _schema: SchemaRef,
}

impl Arrangement {
    /// Empty, indexed by these columns of `schema`. No key columns: everything has one key (cross joins, or tables
    /// whose rows are only scanned: then pass all columns, so that consolidation finds equal rows).
    pub fn new(schema: SchemaRef, key: Vec<usize>) -> Self {
        let _ = key;
        Self { _schema: schema }
    }
    /// Adds changes.
    pub fn append(&mut self, batch: &ZBatch) -> Result<()> {
        let _ = batch;
        Err(crate::Error::internal("not built yet"))
    }
    /// All rows whose key equals a probe key (SQL equality of the key columns; NULL = NULL here, callers drop NULL
    /// keys first where SQL says so). Weights may be of either sign and one row may come in several parts, unless
    /// `consolidated`.
    pub fn probe(&self, keys: &[ArrayRef]) -> Result<Matches> {
        let _ = keys;
        Err(crate::Error::internal("not built yet"))
    }
    /// Columns of the matched rows.
    pub fn gather(&self, rows: &[u64], columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let _ = (rows, columns);
        Err(crate::Error::internal("not built yet"))
    }
    /// The content now.
    pub fn snapshot(&self) -> ArrangementSnapshot {
        ArrangementSnapshot { _schema: self._schema.clone() }
    }
    /// See [`crate::ops::DeltaOp::freeze`]: rows appended since the last freeze with `__weight`, or everything
    /// compacted if that is due.
    pub fn freeze(&mut self, slot: &'static str) -> Result<SlotDelta> {
        let _ = slot;
        Err(crate::Error::internal("not built yet"))
    }
    /// Applies a frozen batch (with `__weight`), keeping rows for which `keep(key hash)`.
    pub fn restore(&mut self, batch: &RecordBatch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        let _ = (batch, keep);
        Err(crate::Error::internal("not built yet"))
    }
    /// Merges runs, at most about `fuel` rows. True if more is waiting.
    pub fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let _ = fuel;
        Ok(false)
    }
    /// Size.
    pub fn stats(&self) -> StateStats {
        StateStats::default()
    }
}

impl ArrangementSnapshot {
    /// Everything, consolidated: equal rows are one row, weights are non-zero; negative weights are an error
    /// (`22000`, "row with negative multiplicity").
    pub fn scan(&self) -> Result<Vec<ZBatch>> {
        Err(crate::Error::internal("not built yet"))
    }
    /// Rows with this key (see [`Arrangement::probe`]), consolidated.
    pub fn lookup(&self, keys: &[ArrayRef]) -> Result<ZBatch> {
        let _ = keys;
        Err(crate::Error::internal("not built yet"))
    }
    /// Columns.
    pub fn schema(&self) -> &SchemaRef {
        &self._schema
    }
    /// Upper bound of the number of rows, for planning.
    pub fn rows_max(&self) -> usize {
        0
    }
}

/// Shared snapshots travel to readers on other threads.
pub type SharedSnapshot = Arc<ArrangementSnapshot>;
