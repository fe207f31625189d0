//! Statements (being built).
use crate::api::{CopyIn, Outcome, Prepared, Session};
use crate::error::{Error, Result};
use arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use millstream_sql::statement::Parsed;
pub(crate) async fn prepare(_s: &Session, _p: &Parsed) -> Result<Prepared> {
    Err(Error::internal("not built yet"))
}
pub(crate) async fn run(_s: &mut Session, _p: &Parsed, _v: &[ScalarValue]) -> Result<Outcome> {
    Err(Error::internal("not built yet"))
}
pub(crate) async fn copy_in(_s: &mut Session, _t: &CopyIn, _r: Vec<RecordBatch>) -> Result<u64> {
    Err(Error::internal("not built yet"))
}
