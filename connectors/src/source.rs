//! What a source is: replayable splits with positions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;

use crate::Result;

/// A replayable part of a source: a Kafka partition (`"3"`), a file (its path), a generator partition.
pub type SplitId = Arc<str>;

/// The place *after* the last record taken from a split; 0 is the beginning. For Kafka the next offset, for files
/// the next byte (text) or row (Parquet), for generators the next event number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Position(pub u64);

/// Positions by split. A split that is absent is at its beginning (for Kafka: partitions that appear later).
pub type Positions = BTreeMap<SplitId, Position>;

/// Options and columns of a stream, as the engine hands them over.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// The stream's name, for messages, client ids and logs.
    pub name: String,
    /// `WITH` options: keys lower case, aliases already mapped (`topic`, `bootstrap_servers`, `start`, `format`,
    /// `path`, ...). Keys starting `properties.` go to the Kafka client.
    pub options: BTreeMap<String, String>,
    /// Declared physical columns; `None`: infer. Metadata columns are not in it.
    pub schema: Option<SchemaRef>,
    /// Extra columns to append to every batch, in order: (name, metadata key, type). Keys: `key`, `partition`,
    /// `offset`, `timestamp`, `headers`, `file`.
    pub metadata: Vec<(String, String, DataType)>,
    /// Columns of the primary key, if any (for messages only).
    pub primary_key: Vec<String>,
    /// Text file names and paths are resolved against this folder when relative.
    pub base_dir: Option<std::path::PathBuf>,
}

/// A record that could not be decoded. It goes to `ms.errors`; the source goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Split it is from.
    pub split: SplitId,
    /// Its own position (not the one after it).
    pub position: Position,
    /// Topic or file or generator name.
    pub origin: String,
    /// Column, if one is to blame.
    pub column: Option<String>,
    /// At most 1 KiB.
    pub reason: String,
    /// First 1 KiB of the bytes.
    pub payload: Vec<u8>,
}

/// Some records of one split, decoded.
#[derive(Debug, Clone)]
pub struct SourceChunk {
    /// Their split.
    pub split: SplitId,
    /// Position after the last record that is in `rows` or `bad`, or was skipped.
    pub end: Position,
    /// Decoded rows; the source's schema. May be empty (all bad, or a gap in offsets).
    pub rows: RecordBatch,
    /// Records that could not be decoded, in order.
    pub bad: Vec<BadRecord>,
    /// Wire size, for back-pressure.
    pub bytes: usize,
}

/// What [`SourceReader::poll`] returns.
#[derive(Debug)]
pub enum SourceEvent {
    /// Data.
    Chunk(SourceChunk),
    /// Nothing came within the wait.
    Idle,
    /// A bounded reader has delivered everything up to its end, or a bounded source is exhausted.
    End,
}

/// A stream's origin.
///
/// # Contract
/// 1. Reading a split from a position gives the same records in the same order every time, until the origin
///    deletes them; a reader that meets a deletion fails with `Lost`, never skips.
/// 2. Chunk boundaries carry no meaning and may differ between reads.
/// 3. Nothing is committed to the origin as truth.
#[async_trait]
pub trait Source: Send + Sync {
    /// Columns of every chunk: declared or inferred columns, then metadata columns.
    fn schema(&self) -> SchemaRef;

    /// Where a reader starts by the stream's options (`start = earliest | latest | timestamp | offsets`), resolved
    /// to positions now. Called once, at CREATE; the result is stored.
    async fn start_positions(&self) -> Result<Positions>;

    /// Where the data ends now: the bound of a one-shot SELECT. For an unbounded generator: where it is due now.
    async fn end_positions(&self) -> Result<Positions>;

    /// True if the source ends by itself (bounded generator).
    fn bounded(&self) -> bool;

    /// Opens `parallelism` or fewer readers that together read every split from `from` up to `to` (exclusive; `None`:
    /// follow for ever, with splits that appear later). A split absent in `from` starts at its beginning; with `to`
    /// given, splits absent in `to` are not read.
    async fn open(
        &self,
        from: &Positions,
        to: Option<&Positions>,
        parallelism: usize,
    ) -> Result<Vec<Box<dyn SourceReader>>>;

    /// Latest known (committed-to-log) end per split, for lag; cheap, may be a little old.
    async fn high_watermarks(&self) -> Result<Positions> {
        self.end_positions().await
    }
}

/// Reads some splits of a source.
///
/// # Contract
/// 1. Chunks of one split come in order of position, without gap or overlap.
/// 2. `poll` is cancel-safe: dropping its future loses no record.
/// 3. Errors of kind `Retryable` leave the reader usable: the caller polls again after a pause.
#[async_trait]
pub trait SourceReader: Send {
    /// The next chunk: at most about `rows_max` rows, waiting at most `wait` for the first record.
    async fn poll(&mut self, rows_max: usize, wait: Duration) -> Result<SourceEvent>;
}
