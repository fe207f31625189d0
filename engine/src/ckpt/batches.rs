//! Arrow batches as bytes: the body of runs and of WAL records. An Arrow IPC stream, compressed if it is worth it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};

use super::envelope::damaged;
use crate::error::{Result, ResultExt as _};

/// Streams below this many bytes of content are stored as they are: the zstd frames would cost more than they save.
const COMPRESS_FROM_BYTES: usize = 4 * 1024;

/// Encodes batches of one schema, appending to `out`.
pub(super) fn encode(schema: &SchemaRef, batches: &[RecordBatch], out: &mut Vec<u8>) -> Result<()> {
    let batches: Vec<RecordBatch> = batches.iter().map(compact).collect::<Result<_>>()?;
    let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
    let compression = (bytes >= COMPRESS_FROM_BYTES).then_some(CompressionType::ZSTD);
    let options = IpcWriteOptions::default().try_with_compression(compression).e()?;
    let mut writer = StreamWriter::try_new_with_options(out, schema, options).e()?;
    for b in &batches {
        writer.write(b).e()?;
    }
    writer.finish().e()
}

/// Decodes what [`encode`] wrote. The caller has verified the checksum.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let undecodable = |e: arrow::error::ArrowError| damaged(name, format!("undecodable content: {e}"));
    let reader = StreamReader::try_new(bytes, None).map_err(undecodable)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(undecodable)?;
    Ok((schema, batches))
}

/// View arrays that are a small part of the buffers they point into would drag whole buffers along.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    if !batch.columns().iter().any(|c| matches!(c.data_type(), DataType::Utf8View | DataType::BinaryView)) {
        return Ok(batch.clone());
    }
    let columns = batch
        .columns()
        .iter()
        .map(|c| -> ArrayRef {
            match c.data_type() {
                DataType::Utf8View => {
                    let a = c.as_string_view();
                    let held: usize = a.data_buffers().iter().map(|b| b.len()).sum();
                    if held > 2 * a.total_buffer_bytes_used() { Arc::new(a.gc()) } else { Arc::clone(c) }
                }
                DataType::BinaryView => {
                    let a = c.as_binary_view();
                    let held: usize = a.data_buffers().iter().map(|b| b.len()).sum();
                    if held > 2 * a.total_buffer_bytes_used() { Arc::new(a.gc()) } else { Arc::clone(c) }
                }
                _ => Arc::clone(c),
            }
        })
        .collect();
    RecordBatch::try_new(batch.schema(), columns).e()
}
