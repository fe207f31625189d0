//! Files and folders.
use crate::{Result, Source, SourceConfig};
use std::sync::Arc;
/// Opens a file source.
pub async fn open(_config: SourceConfig) -> Result<Arc<dyn Source>> {
    Err(crate::ConnectorError::bug("not built yet"))
}
