//! Nexmark.
use crate::{Result, Source, SourceConfig};
use std::sync::Arc;
/// Opens a nexmark source.
pub fn open(_config: SourceConfig) -> Result<Arc<dyn Source>> {
    Err(crate::ConnectorError::bug("not built yet"))
}
