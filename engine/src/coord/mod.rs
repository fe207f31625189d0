//! The coordinator (being built).
use crate::api::{Engine, EngineOptions, Metric, RelationInfo, Subscription};
use crate::error::{Error, Result};
use crate::time::Epoch;
use arrow::array::RecordBatch;
use std::sync::Arc;
/// Everything an engine owns.
pub struct EngineInner {}
pub(crate) async fn open(_o: EngineOptions) -> Result<Engine> {
    Ok(Engine { inner: Arc::new(EngineInner {}) })
}
pub(crate) async fn insert(_i: &Arc<EngineInner>, _r: &str, _b: RecordBatch) -> Result<Epoch> {
    Err(Error::internal("not built yet"))
}
pub(crate) async fn subscribe(_i: &Arc<EngineInner>, _r: &str, _s: bool) -> Result<Subscription> {
    Err(Error::internal("not built yet"))
}
pub(crate) async fn checkpoint(_i: &Arc<EngineInner>) -> Result<()> {
    Err(Error::internal("not built yet"))
}
pub(crate) async fn shutdown(_i: &Arc<EngineInner>) -> Result<()> {
    Ok(())
}
pub(crate) async fn failed(_i: &Arc<EngineInner>) -> Error {
    std::future::pending().await
}
pub(crate) fn metrics(_i: &Arc<EngineInner>) -> Vec<Metric> {
    Vec::new()
}
pub(crate) fn relations(_i: &Arc<EngineInner>) -> Vec<RelationInfo> {
    Vec::new()
}
pub(crate) fn catalog_version(_i: &Arc<EngineInner>) -> u64 {
    0
}
