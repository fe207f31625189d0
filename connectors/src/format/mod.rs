//! Formats: payload bytes to Arrow batches and poison records.
//!
//! A [`Decoder`] takes many records at once and appends straight to Arrow builders: no intermediate tree, no batch per
//! record. A record that does not fit never takes its neighbours with it: its half-written row is dropped by a filter
//! at the end of the batch, so a bad record costs one record's work. A panic inside a decoder becomes a poison record.

mod column;
mod csv;
mod guard;
pub mod infer;
mod json;
mod raw;
#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::options::Options;
use crate::{BadRecord, ConnectorError, Position, Result, SplitId};

/// Longest reason and longest payload prefix of a [`BadRecord`].
pub const REPORT_LIMIT: usize = 1024;

/// One payload to decode.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The bytes: one JSON object, one CSV line (without its newline), one text.
    pub payload: &'a [u8],
    /// Its own position in the split.
    pub position: Position,
}

/// What a decoder makes of some records: every record is either a row or bad.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Good rows, in the order of their records; the decoder's schema.
    pub rows: RecordBatch,
    /// For each row, the index of its record (ascending): metadata columns are gathered with it.
    pub from: Vec<u32>,
    /// Records that could not be decoded, in order.
    pub bad: Vec<BadRecord>,
}

/// Decodes records of one format into one schema.
pub trait Decoder: Send {
    /// Columns of the rows.
    fn schema(&self) -> SchemaRef;

    /// Decodes records of one split. `origin` is the topic or file, for reports. Bad records are in the result; an
    /// error is a defect of ours.
    fn decode(&mut self, split: &SplitId, origin: &str, records: &[Record<'_>]) -> Result<Decoded>;
}

/// Format of payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per record; in files, one per line.
    Json,
    /// One line of separated values per record.
    Csv,
    /// The whole payload in one text or binary column.
    Raw,
    /// Parquet, for files only; it has no [`Decoder`].
    Parquet,
}

impl Format {
    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Raw => "raw",
            Format::Parquet => "parquet",
        }
    }

    /// By the name that users write.
    pub fn from_name(name: &str) -> Option<Format> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "json" | "ndjson" | "jsonl" => Format::Json,
            "csv" => Format::Csv,
            "raw" | "text" => Format::Raw,
            "parquet" => Format::Parquet,
            _ => return None,
        })
    }
}

/// How numbers in a timestamp column are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampFormat {
    /// Numbers by magnitude (s, ms, us or ns since 1970), text as ISO 8601.
    Auto,
    /// ISO 8601 text only.
    Iso,
    /// Numbers are seconds.
    Seconds,
    /// Numbers are milliseconds.
    Millis,
    /// Numbers are microseconds.
    Micros,
    /// Numbers are nanoseconds.
    Nanos,
}

/// A format with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatSpec {
    /// Format.
    pub format: Format,
    /// Numbers in timestamp columns.
    pub timestamps: TimestampFormat,
    /// CSV: the first line of a file names the columns.
    pub header: bool,
    /// CSV: separator.
    pub delimiter: u8,
    /// CSV: unquoted text that means NULL.
    pub null: String,
}

/// Option keys that [`FormatSpec::from_options`] reads (`format` is common to all connectors).
pub const FORMAT_OPTIONS: &[&str] = &["timestamp_format", "header", "delimiter", "null"];

impl FormatSpec {
    /// A format with default options.
    pub fn new(format: Format) -> Self {
        Self { format, timestamps: TimestampFormat::Auto, header: false, delimiter: b',', null: String::new() }
    }

    /// Reads the format options; `default` applies if `format` is absent.
    pub fn from_options(options: &Options<'_>, default: Option<Format>) -> Result<Self> {
        let format = match options.get("format") {
            Some(text) => Format::from_name(text)
                .ok_or_else(|| options.invalid("format", text, "Formats are: json, csv, raw, parquet."))?,
            None => default.ok_or_else(|| {
                ConnectorError::config("option \"format\" is missing").hint("Formats are: json, csv, raw, parquet.")
            })?,
        };
        let mut spec = Self::new(format);
        spec.timestamps = match options.choice("timestamp_format", &["auto", "iso", "s", "ms", "us", "ns"], "auto")? {
            "iso" => TimestampFormat::Iso,
            "s" => TimestampFormat::Seconds,
            "ms" => TimestampFormat::Millis,
            "us" => TimestampFormat::Micros,
            "ns" => TimestampFormat::Nanos,
            _ => TimestampFormat::Auto,
        };
        for key in ["header", "delimiter", "null"] {
            if options.get(key).is_some() && format != Format::Csv {
                return Err(ConnectorError::config(format!(
                    "option \"{key}\" is for format csv, not {}",
                    format.name()
                )));
            }
        }
        spec.header = options.boolean("header", false)?;
        if let Some(text) = options.get("delimiter") {
            spec.delimiter = match text {
                "\\t" | "tab" => b'\t',
                t if t.len() == 1 && !matches!(t.as_bytes()[0], b'"' | b'\n' | b'\r') => t.as_bytes()[0],
                _ => return Err(options.invalid("delimiter", text, "Give one ASCII character, or \\t.")),
            };
        }
        if let Some(text) = options.get("null") {
            spec.null = text.to_owned();
        }
        Ok(spec)
    }

    /// Makes the decoder for a schema. Fails if the format cannot give a column's type.
    pub fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Ok(match self.format {
            Format::Json => guard::guarded(json::JsonDecoder::new(schema, self.timestamps)?),
            Format::Csv => guard::guarded(csv::CsvDecoder::new(schema, self)?),
            Format::Raw => guard::guarded(raw::RawDecoder::new(schema)?),
            Format::Parquet => {
                return Err(ConnectorError::config("format parquet is for files only")
                    .hint("Use connector = 'file', or format json, csv or raw."));
            }
        })
    }
}

/// The names in a CSV header line.
pub(crate) fn header_names(spec: &FormatSpec, line: &[u8]) -> std::result::Result<Vec<String>, String> {
    let line = std::str::from_utf8(line).map_err(|e| format!("not UTF-8: {e}"))?;
    let mut fields = Vec::new();
    let count = csv::split_line(line, spec.delimiter, &mut fields)?;
    fields.truncate(count);
    Ok(fields.into_iter().map(|(name, _)| name).collect())
}

/// A poison record with reason and payload cut to [`REPORT_LIMIT`].
pub fn bad_record(
    split: &SplitId,
    origin: &str,
    record: &Record<'_>,
    column: Option<String>,
    reason: impl Into<String>,
) -> BadRecord {
    BadRecord {
        split: split.clone(),
        position: record.position,
        origin: origin.to_owned(),
        column,
        reason: cut(reason.into()),
        payload: record.payload[..record.payload.len().min(REPORT_LIMIT)].to_vec(),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > REPORT_LIMIT {
        text.truncate(text.floor_char_boundary(REPORT_LIMIT));
    }
    text
}
