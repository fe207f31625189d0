//! Parquet files: rows by number, columns by name.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, TryFutureExt};
use futures::stream::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::TERMINAL;
use super::place::{FileInfo, Place};
use crate::{ConnectorError, Position, Result};

/// Batches of one file.
pub(super) type Stream = ParquetRecordBatchStream<StoredFile>;

/// Reads ranges of a file whose size is known.
pub(super) struct StoredFile {
    store: Arc<dyn ObjectStore>,
    file: FileInfo,
}

fn external(e: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(e))
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.store.get_range(&self.file.location, range).map_err(external).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.file.location, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let size = self.file.size;
        let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
        async move { reader.load_and_finish(self, size).await.map(Arc::new) }.boxed()
    }
}

/// Why a file cannot be read.
pub(super) enum Trouble {
    /// The file itself: it is a poison record.
    Broken(String),
    /// The outside.
    Outside(ConnectorError),
}

/// Tells a broken file from a store that does not answer.
fn trouble(place: &Place, file: &str, e: ParquetError) -> Trouble {
    match e {
        ParquetError::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(store) => Trouble::Outside(place.error(file, *store)),
            Err(other) => Trouble::Broken(format!("cannot read the Parquet file: {other}")),
        },
        e => Trouble::Broken(format!("cannot read the Parquet file: {e}")),
    }
}

async fn builder(
    place: &Place,
    file: &FileInfo,
) -> std::result::Result<ParquetRecordBatchStreamBuilder<StoredFile>, Trouble> {
    if file.size < 12 {
        return Err(Trouble::Broken("the Parquet file is too short".into()));
    }
    let reader = StoredFile { store: place.store.clone(), file: file.clone() };
    match AssertUnwindSafe(ParquetRecordBatchStreamBuilder::new(reader)).catch_unwind().await {
        Ok(built) => built.map_err(|e| trouble(place, &file.split, e)),
        Err(_) => Err(Trouble::Broken("the Parquet reader failed on the footer".into())),
    }
}

/// Opens a file at a row.
pub(super) async fn stream(
    place: &Place,
    file: &FileInfo,
    columns: &Schema,
    from: u64,
    to: Option<u64>,
    batch_rows: usize,
) -> std::result::Result<Stream, Trouble> {
    let mut builder = builder(place, file).await?;
    let have = builder.schema().clone();
    for field in columns.fields() {
        match have.field_with_name(field.name()) {
            Err(_) if !field.is_nullable() => {
                return Err(Trouble::Broken(format!("column \"{}\" is missing and NOT NULL", field.name())));
            }
            Ok(f) if !can_cast_types(f.data_type(), field.data_type()) => {
                return Err(Trouble::Broken(format!(
                    "column \"{}\" is {}, not {}",
                    field.name(),
                    f.data_type(),
                    field.data_type()
                )));
            }
            _ => {}
        }
    }
    let roots = have.fields().iter().enumerate().filter(|(_, f)| columns.index_of(f.name()).is_ok()).map(|(i, _)| i);
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    builder = builder.with_projection(mask).with_batch_size(batch_rows);
    if from > 0 {
        builder = builder.with_offset(usize::try_from(from).unwrap_or(usize::MAX));
    }
    if let Some(to) = to {
        builder = builder.with_limit(usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX));
    }
    builder.build().map_err(|e| trouble(place, &file.split, e))
}

/// The next batch. After trouble the stream is of no use.
pub(super) async fn next(
    place: &Place,
    file: &str,
    stream: &mut Stream,
) -> Option<std::result::Result<RecordBatch, Trouble>> {
    match AssertUnwindSafe(stream.next()).catch_unwind().await {
        Ok(batch) => batch.map(|b| b.map_err(|e| trouble(place, file, e))),
        Err(_) => Some(Err(Trouble::Broken("the Parquet reader failed on the data".into()))),
    }
}

/// Gives a batch the columns and types of the stream.
pub(super) fn conform(batch: &RecordBatch, columns: &SchemaRef) -> std::result::Result<RecordBatch, String> {
    let strict = CastOptions { safe: false, ..Default::default() };
    let arrays = columns
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(array) if array.data_type() == field.data_type() => Ok(array.clone()),
            Some(array) => cast_with_options(array, field.data_type(), &strict)
                .map_err(|e| format!("column \"{}\": {e}", field.name())),
        })
        .collect::<std::result::Result<Vec<ArrayRef>, String>>()?;
    RecordBatch::try_new(columns.clone(), arrays).map_err(|e| e.to_string())
}

/// Rows of a file by its footer; a broken file ends at [`TERMINAL`].
pub(super) async fn row_count(place: &Place, file: &FileInfo) -> Result<Position> {
    match builder(place, file).await {
        Ok(b) => Ok(Position(u64::try_from(b.metadata().file_metadata().num_rows()).unwrap_or(0))),
        Err(Trouble::Broken(_)) => Ok(TERMINAL),
        Err(Trouble::Outside(e)) => Err(e),
    }
}

/// The columns of a file, in the types that the engine uses.
pub(super) async fn infer(place: &Place, file: &FileInfo) -> Result<SchemaRef> {
    match builder(place, file).await {
        Ok(b) => Ok(Arc::new(Schema::new(b.schema().fields().iter().map(engine_field).collect::<Vec<_>>()))),
        Err(Trouble::Broken(reason)) => Err(ConnectorError::config(format!("file \"{}\": {reason}", file.split))),
        Err(Trouble::Outside(e)) => Err(e),
    }
}

fn engine_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), engine_type(field.data_type()), field.is_nullable()))
}

fn engine_type(t: &DataType) -> DataType {
    match t {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::BinaryView,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into())),
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::UInt8 | DataType::Int8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Dictionary(_, value) => engine_type(value),
        DataType::List(item) | DataType::LargeList(item) => DataType::List(engine_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(engine_field).collect()),
        other => other.clone(),
    }
}

/// Fails on a type that no Parquet column can be cast to.
pub(super) fn check_schema(columns: &Schema) -> Result<()> {
    match columns.fields().iter().find(|f| matches!(f.data_type(), DataType::Union(..))) {
        Some(f) => Err(ConnectorError::config(format!(
            "column \"{}\": type {} cannot be read from parquet",
            f.name(),
            f.data_type()
        ))),
        None => Ok(()),
    }
}
