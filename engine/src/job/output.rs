//! The stored rows of a view (or table): a log if it only grows, an arrangement by whole row otherwise.
//!
//! Either way a snapshot is immutable and costs a few reference counts, so a reader of an old epoch never holds up the
//! owner.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_sql::plan::ChangelogKind;

use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::ops::{ErrorSet, SlotDelta, StateStats};
use crate::state::arrangement::{Arrangement, ArrangementSnapshot};
use crate::zset::ZBatch;

/// Chunks of a log are merged up to this size.
const LOG_CHUNK_ROWS: usize = 64 * 1024;
const SLOT: &str = "rows";

/// Rows of one shard of a relation.
pub enum OutputStore {
    /// Append-only rows, in pieces of growing size.
    Log(Log),
    /// Rows that may be retracted.
    Indexed(Box<Arrangement>),
}

/// An append-only list of batches.
pub struct Log {
    schema: SchemaRef,
    chunks: Vec<ZBatch>,
    unfrozen: Vec<RecordBatch>,
    rows: usize,
}

/// The rows of one shard at one epoch.
#[derive(Clone)]
pub enum OutputSnapshot {
    /// Of a log.
    Log(SchemaRef, Vec<ZBatch>),
    /// Of an arrangement.
    Indexed(ArrangementSnapshot),
}

impl OutputStore {
    /// Empty. Rows of an indexed store are found by all columns.
    pub fn new(schema: SchemaRef, kind: ChangelogKind) -> Self {
        match kind {
            ChangelogKind::Append => Self::Log(Log { schema, chunks: Vec::new(), unfrozen: Vec::new(), rows: 0 }),
            ChangelogKind::Retract => {
                let key = (0..schema.fields().len()).collect();
                Self::Indexed(Box::new(Arrangement::new(schema, key)))
            }
        }
    }
    /// Empty, indexed by these columns.
    pub fn keyed(schema: SchemaRef, key: Vec<usize>) -> Self {
        Self::Indexed(Box::new(Arrangement::for_snapshots(schema, key)))
    }
    /// True for a log.
    pub fn append_only(&self) -> bool {
        matches!(self, Self::Log(_))
    }
    /// Adds changes.
    pub fn append(&mut self, batch: &ZBatch) -> Result<()> {
        match self {
            Self::Log(log) => log.append(batch),
            Self::Indexed(a) => a.append(batch),
        }
    }
    /// The rows now.
    pub fn snapshot(&self) -> OutputSnapshot {
        match self {
            Self::Log(log) => OutputSnapshot::Log(log.schema.clone(), log.chunks.clone()),
            Self::Indexed(a) => OutputSnapshot::Indexed(a.snapshot()),
        }
    }
    /// What was added since the last freeze.
    pub fn freeze(&mut self) -> Result<SlotDelta> {
        match self {
            Self::Log(log) => {
                Ok(SlotDelta { slot: SLOT.into(), replaces: false, batches: std::mem::take(&mut log.unfrozen) })
            }
            Self::Indexed(a) => a.freeze(SLOT),
        }
    }
    /// Rows of an earlier freeze; the caller routed them here.
    pub fn restore(&mut self, batch: &ZBatch) -> Result<()> {
        match self {
            Self::Log(log) => {
                log.append(batch)?;
                log.unfrozen.clear();
                Ok(())
            }
            Self::Indexed(a) => a.restore(&batch.to_weighted().e()?, &|_| true),
        }
    }
    /// Background work.
    pub fn maintain(&mut self, fuel: usize) -> Result<bool> {
        match self {
            Self::Log(_) => Ok(false),
            Self::Indexed(a) => a.maintain(fuel),
        }
    }
    /// Size.
    pub fn stats(&self) -> StateStats {
        match self {
            Self::Log(log) => StateStats { rows: log.rows, bytes: log.chunks.iter().map(ZBatch::bytes).sum() },
            Self::Indexed(a) => a.stats(),
        }
    }
}

impl Log {
    fn append(&mut self, batch: &ZBatch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if !batch.append_only() {
            return Err(Error::internal("retraction in an append-only relation"));
        }
        self.rows += batch.len();
        self.unfrozen.push(batch.to_weighted().e()?);
        self.chunks.push(batch.clone());
        // Binary counter: a snapshot clones O(log n + n / LOG_CHUNK_ROWS) chunks, a row is copied O(log) times.
        while let [.., a, b] = self.chunks.as_slice() {
            if a.len() > 2 * b.len() || a.len() + b.len() > LOG_CHUNK_ROWS {
                break;
            }
            let merged = ZBatch::concat(&self.schema, &[a.clone(), b.clone()]).e()?;
            self.chunks.truncate(self.chunks.len() - 2);
            self.chunks.push(merged);
        }
        Ok(())
    }
}

impl OutputSnapshot {
    /// Columns.
    pub fn schema(&self) -> &SchemaRef {
        match self {
            Self::Log(schema, _) => schema,
            Self::Indexed(a) => a.schema(),
        }
    }
    /// All rows with positive weights.
    pub fn scan(&self) -> Result<Vec<ZBatch>> {
        match self {
            Self::Log(_, chunks) => Ok(chunks.clone()),
            Self::Indexed(a) => a.scan(),
        }
    }
    /// True if nothing changed from one to the other; may be false though nothing did.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            // What only grows is the same while it is as long.
            (Self::Log(..), Self::Log(..)) => self.rows_max() == other.rows_max(),
            (Self::Indexed(a), Self::Indexed(b)) => a.same(b),
            _ => false,
        }
    }
    /// Rows by the key of the arrangement; of a log, none can be found this way.
    pub fn lookup(&self, keys: &[ArrayRef]) -> Result<ZBatch> {
        match self {
            Self::Log(..) => Err(Error::internal("a log has no index")),
            Self::Indexed(a) => a.lookup(keys),
        }
    }
    /// Upper bound of the number of rows.
    pub fn rows_max(&self) -> usize {
        match self {
            Self::Log(_, chunks) => chunks.iter().map(ZBatch::len).sum(),
            Self::Indexed(a) => a.rows_max(),
        }
    }
}

/// The error set as a state slot that replaces the one before.
pub fn errors_to_slot(errors: &ErrorSet) -> Result<SlotDelta> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("code", DataType::Utf8, false),
        Field::new("message", DataType::Utf8, false),
        Field::new("row", DataType::Utf8, false),
        Field::new("weight", DataType::Int64, false),
    ]));
    let column = |f: &dyn Fn(&(String, String, String)) -> &String| -> ArrayRef {
        Arc::new(errors.entries.keys().map(|k| Some(f(k))).collect::<StringArray>())
    };
    let weights: ArrayRef = Arc::new(errors.entries.values().copied().collect::<Int64Array>());
    let batch =
        RecordBatch::try_new(schema, vec![column(&|k| &k.0), column(&|k| &k.1), column(&|k| &k.2), weights]).e()?;
    Ok(SlotDelta { slot: "errors".into(), replaces: true, batches: vec![batch] })
}

/// Inverse of [`errors_to_slot`].
pub fn errors_from_batch(batch: &RecordBatch) -> Result<ErrorSet> {
    let text = |i: usize| batch.column(i).as_any().downcast_ref::<StringArray>();
    let weights = batch.column(3).as_any().downcast_ref::<Int64Array>();
    let (Some(code), Some(message), Some(row), Some(weights)) = (text(0), text(1), text(2), weights) else {
        return Err(Error::new(SqlState::DATA_CORRUPTED, "stored error set has other columns than expected"));
    };
    let mut set = ErrorSet::default();
    for i in 0..weights.len() {
        set.add(code.value(i), message.value(i), row.value(i), weights.value(i));
    }
    Ok(set)
}
