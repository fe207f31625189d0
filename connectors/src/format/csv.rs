//! CSV lines. A record is one line: a quoted field may hold separators and doubled quotes, but no line break.

use arrow::datatypes::SchemaRef;

use super::column::{Fault, Kind, Push, Scalar};
use super::guard::Restart;
use super::json::Rows;
use super::{Decoded, Decoder, FormatSpec, Record};
use crate::{ConnectorError, Result, SplitId};

/// Splits a line into fields: text and whether it was quoted.
pub(super) fn split_line(
    line: &str,
    delimiter: u8,
    out: &mut Vec<(String, bool)>,
) -> std::result::Result<usize, String> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let bytes = line.as_bytes();
    let mut at = 0;
    let mut count = 0;
    loop {
        if out.len() == count {
            out.push((String::new(), false));
        }
        let (text, quoted) = &mut out[count];
        text.clear();
        *quoted = bytes.get(at) == Some(&b'"');
        if *quoted {
            at += 1;
            loop {
                let Some(end) = bytes[at..].iter().position(|b| *b == b'"') else {
                    return Err(format!("field {} has no closing quote", count + 1));
                };
                text.push_str(&line[at..at + end]);
                at += end + 1;
                if bytes.get(at) != Some(&b'"') {
                    break;
                }
                text.push('"');
                at += 1;
            }
            if at < bytes.len() && bytes[at] != delimiter {
                return Err(format!("field {} goes on after its closing quote", count + 1));
            }
        } else {
            let end = bytes[at..].iter().position(|b| *b == delimiter).map_or(bytes.len(), |e| at + e);
            text.push_str(&line[at..end]);
            at = end;
        }
        count += 1;
        if at >= bytes.len() {
            return Ok(count);
        }
        at += 1;
    }
}

/// Format `csv`: columns by place.
pub(super) struct CsvDecoder {
    rows: Rows,
    delimiter: u8,
    null: String,
    fields: Vec<(String, bool)>,
}

impl CsvDecoder {
    pub fn new(schema: SchemaRef, spec: &FormatSpec) -> Result<Self> {
        let rows = Rows::new(schema, spec.timestamps)?;
        for (column, field) in rows.root.columns.iter().zip(rows.root.fields.iter()) {
            if matches!(column.kind, Kind::Struct(..) | Kind::List(_) | Kind::Map(_)) {
                return Err(ConnectorError::config(format!(
                    "column \"{}\": type {} cannot be read from csv",
                    field.name(),
                    field.data_type()
                )));
            }
        }
        Ok(Self { rows, delimiter: spec.delimiter, null: spec.null.clone(), fields: Vec::new() })
    }
}

impl Restart for CsvDecoder {
    fn restart(&mut self) -> Result<()> {
        self.rows.restart()
    }
}

impl Decoder for CsvDecoder {
    fn schema(&self) -> SchemaRef {
        self.rows.schema.clone()
    }

    fn decode(&mut self, split: &SplitId, origin: &str, records: &[Record<'_>]) -> Result<Decoded> {
        let (delimiter, null, fields) = (self.delimiter, self.null.as_str(), &mut self.fields);
        self.rows.decode(split, origin, records, |root, payload| {
            let line = std::str::from_utf8(payload).map_err(|e| Fault::new(format!("not UTF-8: {e}")))?;
            let count = split_line(line, delimiter, fields).map_err(Fault::new)?;
            if count != root.columns.len() {
                return Err(Fault::new(format!("{count} fields, but the stream has {} columns", root.columns.len())));
            }
            let object = root.begin();
            let mut fault: Push = Ok(());
            for (i, (text, quoted)) in fields[..count].iter().enumerate() {
                root.mark(i, object);
                let value = if !quoted && text == null { Scalar::Null } else { Scalar::Untyped(text) };
                let pushed = root.columns[i].push(value);
                if let (Err(f), true) = (pushed, fault.is_ok()) {
                    fault = Err(f.within(root.fields[i].name()));
                }
            }
            fault
        })
    }
}
