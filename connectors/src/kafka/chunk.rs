//! Messages of one partition to a chunk: payloads through the format's decoder, metadata columns beside them.

use std::sync::Arc;

use arrow::array::builder::{BinaryBuilder, BinaryViewBuilder, LargeBinaryBuilder, StringBuilder, StringViewBuilder};
use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, TimestampMillisecondArray, make_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rdkafka::Message;
use rdkafka::message::Headers;

use crate::format::{Decoder, Record, bad_record};
use crate::{ConnectorError, Position, Result, SourceChunk, SplitId};

/// A metadata column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metadata {
    Key,
    Partition,
    Offset,
    Timestamp,
    Headers,
}

/// Metadata columns of a stream, checked.
#[derive(Debug, Clone, Default)]
pub(super) struct MetadataColumns(Vec<(Metadata, Arc<Field>)>);

impl MetadataColumns {
    pub fn new(wanted: &[(String, String, DataType)]) -> Result<Self> {
        let mut columns = Vec::new();
        for (name, key, data_type) in wanted {
            use DataType::{Binary, BinaryView, Int32, Int64, LargeBinary, Timestamp, Utf8, Utf8View};
            let (metadata, fits) = match key.as_str() {
                "key" => (Metadata::Key, matches!(data_type, Binary | LargeBinary | BinaryView | Utf8 | Utf8View)),
                "partition" => (Metadata::Partition, matches!(data_type, Int32 | Int64)),
                "offset" => (Metadata::Offset, matches!(data_type, Int64)),
                "timestamp" => (Metadata::Timestamp, matches!(data_type, Timestamp(..) | Int64)),
                "headers" => (Metadata::Headers, matches!(data_type, Utf8 | Utf8View)),
                _ => {
                    return Err(ConnectorError::config(format!("connector \"kafka\" has no metadata \"{key}\""))
                        .hint("It has: key, partition, offset, timestamp, headers."));
                }
            };
            if !fits {
                return Err(ConnectorError::config(format!(
                    "metadata column \"{name}\" ({key}) cannot have type {data_type}"
                )));
            }
            let nullable = matches!(metadata, Metadata::Key | Metadata::Timestamp | Metadata::Headers);
            columns.push((metadata, Arc::new(Field::new(name, data_type.clone(), nullable))));
        }
        Ok(Self(columns))
    }

    /// The columns of chunks: payload columns, then these.
    pub fn append_to(&self, payload: &SchemaRef) -> SchemaRef {
        let fields = payload.fields().iter().cloned().chain(self.0.iter().map(|(_, field)| Arc::clone(field)));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// Makes chunks.
pub(super) struct Chunker {
    decoder: Box<dyn Decoder>,
    metadata: MetadataColumns,
    schema: SchemaRef,
    topic: String,
    /// Column of the key if it is text: bytes that are not UTF-8 make a record bad.
    text_key: Option<String>,
}

impl Chunker {
    pub fn new(decoder: Box<dyn Decoder>, metadata: MetadataColumns, topic: String) -> Self {
        let schema = metadata.append_to(&decoder.schema());
        let text_key = metadata
            .0
            .iter()
            .find(|(m, f)| *m == Metadata::Key && matches!(f.data_type(), DataType::Utf8 | DataType::Utf8View))
            .map(|(_, f)| f.name().clone());
        Self { decoder, metadata, schema, topic, text_key }
    }

    /// Decodes messages of one partition, in order. `end` is the position after them and any gap.
    pub fn chunk<M: Message>(&mut self, split: &SplitId, messages: &[M], end: u64) -> Result<SourceChunk> {
        let mut records = Vec::with_capacity(messages.len());
        // Index of each record's message, only where the two differ.
        let mut of: Vec<u32> = Vec::new();
        let mut bad = Vec::new();
        let mut bytes = 0;
        for (i, message) in messages.iter().enumerate() {
            let position = Position(message.offset().unsigned_abs());
            bytes += message.payload().map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len);
            let Some(payload) = message.payload() else {
                let record = Record { payload: &[], position };
                bad.push(bad_record(split, &self.topic, &record, None, "null payload (tombstone)"));
                continue;
            };
            let record = Record { payload, position };
            if self.text_key.is_some()
                && let Some(Err(e)) = message.key().map(std::str::from_utf8)
            {
                let reason = format!("the key is not UTF-8: {e}");
                bad.push(bad_record(split, &self.topic, &record, self.text_key.clone(), reason));
                continue;
            }
            records.push(record);
            of.push(i as u32);
        }
        let decoded = self.decoder.decode(split, &self.topic, &records)?;
        if bad.is_empty() {
            bad = decoded.bad;
        } else {
            bad.extend(decoded.bad);
            bad.sort_by_key(|b| b.position);
        }
        let rows = if self.metadata.0.is_empty() {
            decoded.rows
        } else {
            let picked = || decoded.from.iter().map(|r| &messages[of[*r as usize] as usize]);
            let mut columns = decoded.rows.columns().to_vec();
            for (metadata, field) in &self.metadata.0 {
                columns.push(column(*metadata, field.data_type(), picked())?);
            }
            let options = RecordBatchOptions::new().with_row_count(Some(decoded.rows.num_rows()));
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
                .map_err(|e| ConnectorError::bug(format!("metadata columns of topic \"{}\": {e}", self.topic)))?
        };
        Ok(SourceChunk { split: Arc::clone(split), end: Position(end), rows, bad, bytes })
    }
}

fn column<'m, M: Message + 'm>(
    metadata: Metadata,
    data_type: &DataType,
    messages: impl ExactSizeIterator<Item = &'m M>,
) -> Result<ArrayRef> {
    let array: ArrayRef = match metadata {
        Metadata::Key => return Ok(keys(data_type, messages)),
        Metadata::Partition => Arc::new(Int32Array::from_iter_values(messages.map(|m| m.partition()))),
        Metadata::Offset => Arc::new(Int64Array::from_iter_values(messages.map(|m| m.offset()))),
        Metadata::Timestamp => {
            Arc::new(messages.map(|m| m.timestamp().to_millis()).collect::<TimestampMillisecondArray>())
        }
        Metadata::Headers => {
            let mut builder = StringViewBuilder::with_capacity(messages.len());
            for message in messages {
                builder.append_option(message.headers().map(headers_json));
            }
            Arc::new(builder.finish())
        }
    };
    if array.data_type() == data_type {
        return Ok(array);
    }
    let fail = |e| ConnectorError::bug(format!("metadata column: {e}"));
    if let DataType::Timestamp(unit, Some(_)) = data_type {
        // A zone only names how the instant is shown: it is set on the values, not computed with.
        let plain = cast(&array, &DataType::Timestamp(*unit, None)).map_err(fail)?;
        let data = plain.into_data().into_builder().data_type(data_type.clone()).build().map_err(fail)?;
        return Ok(make_array(data));
    }
    cast(&array, data_type).map_err(fail)
}

fn keys<'m, M: Message + 'm>(data_type: &DataType, messages: impl Iterator<Item = &'m M>) -> ArrayRef {
    macro_rules! build {
        ($builder:expr, $value:expr) => {{
            let mut builder = $builder;
            for message in messages {
                builder.append_option(message.key().map($value));
            }
            Arc::new(builder.finish())
        }};
    }
    // Keys that are not UTF-8 were sorted out before.
    let text = |key: &'m [u8]| std::str::from_utf8(key).unwrap_or_default();
    let bytes = |key: &'m [u8]| key;
    match data_type {
        DataType::Utf8 => build!(StringBuilder::new(), text),
        DataType::Utf8View => build!(StringViewBuilder::new(), text),
        DataType::BinaryView => build!(BinaryViewBuilder::new(), bytes),
        DataType::LargeBinary => build!(LargeBinaryBuilder::new(), bytes),
        _ => build!(BinaryBuilder::new(), bytes),
    }
}

/// Headers as a JSON array of `{"key": .., "value": ..}`: keys may repeat and have an order. Bytes that are not UTF-8
/// are written like a Postgres bytea, `\x` and hex digits.
fn headers_json<H: Headers>(headers: &H) -> String {
    let list: Vec<serde_json::Value> = headers
        .iter()
        .map(|header| {
            let value = header.value.map(|v: &[u8]| match std::str::from_utf8(v) {
                Ok(text) => text.to_owned(),
                Err(_) => {
                    let mut hex = String::from("\\x");
                    for byte in v {
                        for digit in [byte >> 4, byte & 15] {
                            hex.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
                        }
                    }
                    hex
                }
            });
            serde_json::json!({ "key": header.key, "value": value })
        })
        .collect();
    serde_json::Value::from(list).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Format, FormatSpec};
    use arrow::array::AsArray;
    use arrow::datatypes::{Int64Type, TimeUnit, TimestampMicrosecondType};
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    fn message(offset: i64, key: Option<&[u8]>, payload: Option<&[u8]>) -> OwnedMessage {
        let headers = (offset == 2).then(|| {
            OwnedHeaders::new()
                .insert(Header { key: "a", value: Some("x\"y") })
                .insert(Header { key: "a", value: Some(&[0xffu8, 0x01][..]) })
        });
        OwnedMessage::new(
            payload.map(<[u8]>::to_vec),
            key.map(<[u8]>::to_vec),
            "t".into(),
            Timestamp::CreateTime(1000 + offset),
            3,
            offset,
            headers,
        )
    }

    fn chunker(metadata: &[(&str, DataType)]) -> Chunker {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]));
        let wanted: Vec<_> = metadata.iter().map(|(k, t)| (format!("m_{k}"), k.to_string(), t.clone())).collect();
        let decoder = FormatSpec::new(Format::Json).decoder(schema).unwrap();
        Chunker::new(decoder, MetadataColumns::new(&wanted).unwrap(), "t".into())
    }

    #[test]
    fn metadata_follows_its_rows_past_poison_records_and_tombstones() {
        let mut c = chunker(&[
            ("key", DataType::Utf8View),
            ("partition", DataType::Int32),
            ("offset", DataType::Int64),
            ("timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            ("headers", DataType::Utf8View),
        ]);
        let messages = [
            message(1, Some(b"k1"), None),
            message(2, Some(b"k2"), Some(b"{\"v\": 20}")),
            message(3, None, Some(b"nonsense")),
            message(5, Some(&[0xff]), Some(b"{\"v\": 50}")),
            message(7, None, Some(b"{\"v\": 70}")),
        ];
        let chunk = c.chunk(&"3".into(), &messages, 9).unwrap();
        assert_eq!(chunk.end, Position(9));
        assert_eq!(chunk.rows.column(0).as_primitive::<Int64Type>().values(), &[20, 70]);
        let keys = chunk.rows.column(1).as_string_view();
        assert_eq!(keys.iter().collect::<Vec<_>>(), [Some("k2"), None]);
        assert_eq!(chunk.rows.column(3).as_primitive::<Int64Type>().values(), &[2, 7]);
        assert_eq!(chunk.rows.column(4).as_primitive::<TimestampMicrosecondType>().values(), &[1_002_000, 1_007_000]);
        let headers = chunk.rows.column(5).as_string_view();
        assert_eq!(headers.value(0), r#"[{"key":"a","value":"x\"y"},{"key":"a","value":"\\xff01"}]"#);
        let bad: Vec<(u64, &str)> = chunk.bad.iter().map(|b| (b.position.0, b.reason.as_str())).collect();
        assert_eq!(bad.iter().map(|b| b.0).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(bad[0].1, "null payload (tombstone)");
        assert!(bad[2].1.contains("not UTF-8"));
        assert!(chunk.bad.iter().all(|b| b.origin == "t" && &*b.split == "3"));
    }

    #[test]
    fn a_gap_makes_an_empty_chunk_that_moves_the_position() {
        let mut c = chunker(&[("offset", DataType::Int64)]);
        let chunk = c.chunk::<OwnedMessage>(&"0".into(), &[], 42).unwrap();
        assert_eq!((chunk.end, chunk.rows.num_rows(), chunk.rows.num_columns()), (Position(42), 0, 2));
    }

    #[test]
    fn metadata_that_kafka_does_not_have_is_refused() {
        let new = |key: &str, t| MetadataColumns::new(&[("m".into(), key.into(), t)]).unwrap_err().message;
        assert!(new("file", DataType::Utf8View).contains("no metadata \"file\""));
        assert!(new("offset", DataType::Utf8View).contains("cannot have type"));
    }
}
