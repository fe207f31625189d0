//! Files and folders: each file is a split.
//!
//! Text files are read as lines and followed while they grow; the position is the byte after the last line taken.
//! A last line without newline is delivered once the reader is bounded, or once the file stood still between two
//! looks. The position in a Parquet file is the number of rows taken. A file that cannot be read at all (a broken
//! Parquet file, a compressed file) is one poison record, and its position becomes [`TERMINAL`].
//! Files of one look at the folder are read in order of path; a file never changes its reader.

mod parquet;
mod place;
mod reader;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringViewArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use crate::format::infer::infer_schema;
use crate::format::{FORMAT_OPTIONS, Format, FormatSpec};
use crate::options::Options;
use crate::{ConnectorError, Position, Positions, Result, Source, SourceConfig, SourceReader};
use place::{FileInfo, Place};
use reader::FileReader;

/// Position of a file that was given up as a whole.
pub const TERMINAL: Position = Position(i64::MAX as u64);

const SAMPLE_BYTES: u64 = 1 << 20;
const SAMPLE_FILES: usize = 4;

const OPTIONS: &[&str] = &["path", "poll_interval", "compression", "follow"];

/// What the readers of a source share.
struct Shared {
    name: String,
    place: Place,
    spec: FormatSpec,
    /// Columns that come from the files.
    columns: SchemaRef,
    /// With metadata columns.
    schema: SchemaRef,
    metadata: Vec<(Metadata, DataType)>,
    poll_interval: Duration,
    follow: bool,
    from_latest: bool,
}

#[derive(Clone, Copy)]
enum Metadata {
    File,
    Offset,
}

/// Opens a file source.
pub async fn open(config: SourceConfig) -> Result<Arc<dyn Source>> {
    let options = Options::new("file", &config.options);
    let known: Vec<&str> = OPTIONS.iter().chain(FORMAT_OPTIONS).copied().collect();
    options.check(&known, &[])?;
    let path = options.require("path")?;
    if !options.get("compression").is_none_or(|c| c.eq_ignore_ascii_case("none")) {
        return Err(ConnectorError::config("compressed files are not supported")
            .hint("Unpack the files, or use Parquet, which compresses by itself."));
    }
    let from_latest = options.choice("start", &["earliest", "latest"], "earliest")? == "latest";
    let poll_interval = options.duration("poll_interval", Duration::from_secs(1))?;
    if poll_interval.is_zero() {
        return Err(ConnectorError::config("option \"poll_interval\" must be more than zero"));
    }
    let place = Place::open(path, config.base_dir.as_deref()).await?;
    let files = place.list().await?;
    if let Some(packed) = files.iter().find(|f| f.compressed()) {
        return Err(ConnectorError::config(format!("file \"{}\" is compressed, which is not supported", packed.split))
            .hint("Unpack the files, or use Parquet, which compresses by itself."));
    }
    let by_extension = std::iter::once(path)
        .chain(files.iter().map(|f| &*f.split))
        .find_map(|p| Format::from_name(p.rsplit_once('.')?.1).filter(|f| *f != Format::Raw));
    let spec = FormatSpec::from_options(&options, by_extension)?;
    let columns = match config.schema {
        Some(schema) => schema,
        None => infer(&place, &spec, &files).await?,
    };
    if spec.format == Format::Parquet {
        parquet::check_schema(&columns)?;
    } else {
        spec.decoder(columns.clone())?;
    }
    let mut fields: Vec<Arc<Field>> = columns.fields().iter().cloned().collect();
    let mut metadata = Vec::new();
    for (name, key, data_type) in &config.metadata {
        let kind = match (key.as_str(), data_type) {
            ("file", DataType::Utf8View | DataType::Utf8) => Metadata::File,
            ("offset", DataType::Int64) => Metadata::Offset,
            ("file" | "offset", other) => {
                return Err(ConnectorError::config(format!("metadata column \"{name}\" cannot have type {other}")));
            }
            _ => {
                return Err(ConnectorError::config(format!("connector \"file\" has no metadata \"{key}\""))
                    .hint("It has: file, offset."));
            }
        };
        fields.push(Arc::new(Field::new(name, data_type.clone(), true)));
        metadata.push((kind, data_type.clone()));
    }
    let shared = Shared {
        name: config.name.clone(),
        place,
        spec,
        columns,
        schema: Arc::new(Schema::new(fields)),
        metadata,
        poll_interval,
        follow: options.boolean("follow", true)?,
        from_latest,
    };
    if shared.spec.header
        && let Some(first) = files.iter().find(|f| f.size > 0)
    {
        let sample = sample(&shared.place, first).await?;
        if let Some(line) = sample.split(|b| *b == b'\n').next() {
            shared.check_header(line).map_err(|e| {
                ConnectorError::config(format!("file \"{}\": {e}", first.split))
                    .hint("Declare the columns in the order of the file.")
            })?;
        }
    }
    Ok(Arc::new(FileSource { shared: Arc::new(shared) }))
}

impl Shared {
    /// Checks that a CSV header names the columns of the stream, in order.
    fn check_header(&self, line: &[u8]) -> std::result::Result<(), String> {
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        let names = crate::format::header_names(&self.spec, line)?;
        let columns = self.columns.fields();
        let same = names.len() == columns.len()
            && names.iter().zip(columns).all(|(n, f)| n.trim().eq_ignore_ascii_case(f.name()));
        if same {
            return Ok(());
        }
        let wanted: Vec<&str> = columns.iter().map(|f| f.name().as_str()).collect();
        Err(format!("the header names columns {}, the stream has {}", names.join(", "), wanted.join(", ")))
    }

    /// Appends the metadata columns to decoded rows. `offsets` gives the position of each row.
    fn with_metadata(&self, rows: &RecordBatch, file: &str, offsets: impl Fn() -> Vec<i64>) -> Result<RecordBatch> {
        if self.metadata.is_empty() {
            return Ok(rows.clone());
        }
        let defect = |e| ConnectorError::bug(format!("metadata columns of \"{}\": {e}", self.name));
        let mut columns = rows.columns().to_vec();
        for (kind, data_type) in &self.metadata {
            let array: ArrayRef = match kind {
                Metadata::File => {
                    let one = StringViewArray::from(vec![file]);
                    arrow::compute::take(&one, &UInt32Array::from(vec![0; rows.num_rows()]), None).map_err(defect)?
                }
                Metadata::Offset => Arc::new(Int64Array::from(offsets())),
            };
            columns.push(match array.data_type() == data_type {
                true => array,
                false => arrow::compute::cast(&array, data_type).map_err(defect)?,
            });
        }
        RecordBatch::try_new(self.schema.clone(), columns).map_err(defect)
    }
}

async fn sample(place: &Place, file: &FileInfo) -> Result<bytes::Bytes> {
    let range = 0..file.size.min(SAMPLE_BYTES);
    place.store.get_range(&file.location, range).await.map_err(|e| place.error(&file.split, e))
}

async fn infer(place: &Place, spec: &FormatSpec, files: &[FileInfo]) -> Result<SchemaRef> {
    let empty =
        || ConnectorError::config("cannot infer columns: there is no file with data yet").hint("Declare the columns.");
    if spec.format == Format::Parquet {
        return parquet::infer(place, files.first().ok_or_else(empty)?).await;
    }
    // A header stands in every file, so more than one file would bring it in as data.
    let count = if spec.format == Format::Csv { 1 } else { SAMPLE_FILES };
    let mut samples = Vec::new();
    for file in files.iter().filter(|f| f.size > 0).take(count) {
        let bytes = sample(place, file).await?;
        // A cut last line is no record.
        let end = match bytes.iter().rposition(|b| *b == b'\n') {
            Some(last) if (bytes.len() as u64) < file.size => last,
            _ => bytes.len(),
        };
        samples.push(bytes.slice(..end));
    }
    if samples.is_empty() {
        return Err(empty());
    }
    let lines = samples.iter().flat_map(|s| {
        let s = s.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(s);
        s.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty())
    });
    infer_schema(spec, lines)
}

struct FileSource {
    shared: Arc<Shared>,
}

impl FileSource {
    async fn ends(&self, files: Vec<FileInfo>) -> Result<Positions> {
        let shared = &self.shared;
        futures::stream::iter(files)
            .map(|file| async move {
                let end = if file.compressed() {
                    TERMINAL
                } else if shared.spec.format == Format::Parquet {
                    parquet::row_count(&shared.place, &file).await?
                } else {
                    Position(file.size)
                };
                Ok((file.split, end))
            })
            .buffered(8)
            .try_collect()
            .await
    }
}

#[async_trait]
impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        self.shared.schema.clone()
    }

    async fn start_positions(&self) -> Result<Positions> {
        if self.shared.from_latest { self.end_positions().await } else { Ok(Positions::new()) }
    }

    async fn end_positions(&self) -> Result<Positions> {
        let files = self.shared.place.list().await?;
        self.ends(files).await
    }

    fn bounded(&self) -> bool {
        !self.shared.follow
    }

    async fn open(
        &self,
        from: &Positions,
        to: Option<&Positions>,
        parallelism: usize,
    ) -> Result<Vec<Box<dyn SourceReader>>> {
        let listed = self.shared.place.list().await?;
        let known: BTreeMap<&str, &FileInfo> = listed.iter().map(|f| (&*f.split, f)).collect();
        let vanished = |split: &str| {
            ConnectorError::lost(format!("file \"{split}\" of stream \"{}\" is gone", self.shared.name))
                .hint("Restore the file; a stream's files must stay as long as the stream.")
        };
        for split in from.keys().filter(|_| to.is_none()).chain(to.into_iter().flat_map(|t| t.keys())) {
            if !known.contains_key(&**split) {
                return Err(vanished(split));
            }
        }
        // A bounded source ends where its files end now.
        let ends = match to {
            Some(to) => Some(to.clone()),
            None if !self.shared.follow => Some(self.ends(listed.clone()).await?),
            None => None,
        };
        let wanted = ends.as_ref().map_or(usize::MAX, |e| e.len().max(1));
        let count = parallelism.max(1).min(wanted);
        let mut readers: Vec<Box<dyn SourceReader>> = Vec::with_capacity(count);
        for index in 0..count {
            let reader = FileReader::open(self.shared.clone(), (index, count), from, ends.as_ref(), &listed)?;
            readers.push(Box::new(reader));
        }
        Ok(readers)
    }
}

#[cfg(test)]
mod tests;
