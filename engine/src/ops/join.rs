//! stub
use crate::error::Result;
use crate::ops::*;
use crate::zset::ZBatch;
#[allow(dead_code)]
pub struct JoinOp;
impl JoinOp {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        _: millstream_sql::plan::JoinKind,
        _: arrow::datatypes::SchemaRef,
        _: arrow::datatypes::SchemaRef,
        _: Vec<(usize, usize)>,
        _: Option<std::sync::Arc<dyn datafusion::physical_expr::PhysicalExpr>>,
        _: bool,
        _: arrow::datatypes::SchemaRef,
        _: Shard,
    ) -> Result<Self> {
        Ok(Self)
    }
}
impl DeltaOp for JoinOp {
    fn push(&mut self, _: usize, _: ZBatch, _: &mut TickCx<'_>, _: &mut dyn Emit) -> Result<()> {
        Ok(())
    }
    fn flush(&mut self, _: &mut TickCx<'_>, _: &mut dyn Emit) -> Result<()> {
        Ok(())
    }
}
