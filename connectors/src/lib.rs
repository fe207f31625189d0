//! Sources and formats: bytes in; Arrow batches, positions and poison records out.
//!
//! *Architecture invariant*: this crate knows nothing of SQL or the engine. It never commits a position anywhere:
//! positions belong to the engine's checkpoints.

pub mod error;
pub mod file;
pub mod format;
pub mod instant;
pub mod kafka;
pub mod nexmark;
pub mod options;
pub mod source;
pub mod store;

pub use error::{ConnectorError, ErrorKind, Result};
pub use source::{
    BadRecord, Position, Positions, Source, SourceChunk, SourceConfig, SourceEvent, SourceReader, SplitId,
};

use std::sync::Arc;

/// Option keys every connector accepts.
pub const COMMON_OPTIONS: &[&str] = &["connector", "format", "envelope", "on_error", "idle_timeout", "start"];

/// The names of the connectors that `connector = '..'` accepts.
pub const CONNECTORS: &[&str] = &["kafka", "file", "nexmark"];

/// Makes the source of a stream. Checks every option (unknown key: error with the nearest key), and reaches out
/// far enough to find a wrong address or path now rather than at first use. If `config.schema` is `None` the
/// schema is inferred from the data.
pub async fn open_source(config: SourceConfig) -> Result<Arc<dyn Source>> {
    match config.options.get("connector").map(String::as_str) {
        Some("kafka") => kafka::open(config).await,
        Some("file") => file::open(config).await,
        Some("nexmark") => nexmark::open(config),
        Some(other) => Err(ConnectorError::config(format!("unknown connector \"{other}\""))
            .hint(format!("Connectors are: {}.", CONNECTORS.join(", ")))),
        None => Err(ConnectorError::config("option \"connector\" is missing")),
    }
}
