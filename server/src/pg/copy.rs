//! COPY in Postgres' text format and in CSV: writing rows, and reading them into Arrow columns.
//!
//! The reader takes bytes in pieces of any size (a client cuts CopyData where it likes), splits them into rows and
//! fields, gathers a column of text per field and converts whole columns at once.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, BinaryBuilder, BooleanBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef};
use bytes::{BufMut as _, BytesMut};
use millstream::error::{Error, IntoError as _, Result, SqlState};

use super::encode::Rows;
use super::types;

/// Rows per batch.
const BATCH_ROWS: usize = 8192;

fn bad_format(message: impl Into<String>) -> Error {
    Error::new(SqlState("22P04"), message)
}

// ---------------------------------------------------------------------------------------------------------- writing

/// Appends row `i` as a line (with the newline).
pub fn write_row(rows: &Rows, i: usize, csv: bool, scratch: &mut BytesMut, out: &mut BytesMut) {
    for (n, c) in rows.columns().iter().enumerate() {
        if n > 0 {
            out.put_u8(if csv { b',' } else { b'\t' });
        }
        if c.is_null(i) {
            if !csv {
                out.put_slice(b"\\N");
            }
            continue;
        }
        scratch.clear();
        c.text(i, scratch);
        if csv { csv_field(scratch, out) } else { text_field(scratch, out) }
    }
    out.put_u8(b'\n');
}

/// Appends the line of column names.
pub fn write_header(schema: &SchemaRef, csv: bool, out: &mut BytesMut) {
    for (n, f) in schema.fields().iter().enumerate() {
        if n > 0 {
            out.put_u8(if csv { b',' } else { b'\t' });
        }
        let name = f.name().as_bytes();
        if csv { csv_field(name, out) } else { text_field(name, out) }
    }
    out.put_u8(b'\n');
}

fn text_field(v: &[u8], out: &mut BytesMut) {
    for c in v {
        let escape = match c {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0x0b => b'v',
            c => {
                out.put_u8(*c);
                continue;
            }
        };
        out.put_u8(b'\\');
        out.put_u8(escape);
    }
}

fn csv_field(v: &[u8], out: &mut BytesMut) {
    // An empty string is quoted because an empty field is NULL; `\.` alone would end the data.
    let quote = v.is_empty() || v == b"\\." || v.iter().any(|c| matches!(c, b',' | b'"' | b'\n' | b'\r'));
    if !quote {
        return out.put_slice(v);
    }
    out.put_u8(b'"');
    for c in v {
        if *c == b'"' {
            out.put_u8(b'"');
        }
        out.put_u8(*c);
    }
    out.put_u8(b'"');
}

// ---------------------------------------------------------------------------------------------------------- reading

/// Reads rows of a COPY FROM STDIN.
pub struct Reader {
    schema: SchemaRef,
    csv: bool,
    table: String,
    /// The header line is still to come.
    header: bool,
    /// Bytes of the row that is not complete yet.
    pending: Vec<u8>,
    /// Up to here `pending` was looked at; inside of quotes or not.
    scanned: usize,
    quoted: bool,
    ended: bool,
    line: usize,
    builders: Vec<StringBuilder>,
    rows: usize,
    /// Line of each buffered row, for messages.
    lines: Vec<usize>,
    batches: Vec<RecordBatch>,
    bytes: usize,
    bytes_max: usize,
}

impl Reader {
    /// A reader of rows of `schema`. More than `bytes_max` bytes in one COPY are refused.
    pub fn new(table: &str, schema: SchemaRef, csv: bool, header: bool, bytes_max: usize) -> Result<Self> {
        for f in schema.fields() {
            if types::of(f.data_type()).oid == types::oid::JSON || f.data_type().is_nested() {
                return Err(Error::unsupported(format!(
                    "COPY FROM STDIN into column \"{}\" of a nested type is not supported",
                    f.name()
                ))
                .hint("Use INSERT, or a file source."));
            }
        }
        let builders = schema.fields().iter().map(|_| StringBuilder::new()).collect();
        Ok(Self {
            schema,
            csv,
            table: table.to_owned(),
            header,
            pending: Vec::new(),
            scanned: 0,
            quoted: false,
            ended: false,
            line: 0,
            builders,
            rows: 0,
            lines: Vec::new(),
            batches: Vec::new(),
            bytes: 0,
            bytes_max,
        })
    }

    /// Takes more bytes.
    pub fn feed(&mut self, data: &[u8]) -> Result<()> {
        self.bytes += data.len();
        if self.bytes > self.bytes_max {
            return Err(Error::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a COPY of more than {} bytes is too large", self.bytes_max),
            )
            .hint("All rows of a COPY become visible at once; split it."));
        }
        self.pending.extend_from_slice(data);
        let mut start = 0;
        let mut i = self.scanned;
        while i < self.pending.len() {
            match self.pending[i] {
                // Quotes inside a field are doubled, so that counting them is enough.
                b'"' if self.csv => self.quoted = !self.quoted,
                // In text format a newline may be part of a value when a backslash stands before it.
                b'\\' if !self.csv => {
                    if i + 1 == self.pending.len() {
                        break;
                    }
                    i += 1;
                }
                b'\n' if !self.quoted => {
                    let row = std::mem::take(&mut self.pending);
                    let r = self.row(&row[start..i]);
                    self.pending = row;
                    r?;
                    start = i + 1;
                }
                _ => {}
            }
            i += 1;
        }
        self.pending.drain(..start);
        self.scanned = i - start;
        Ok(())
    }

    /// All rows, when the client is done.
    pub fn finish(mut self) -> Result<Vec<RecordBatch>> {
        if self.quoted {
            return Err(self.context(bad_format("unterminated CSV quoted field"), None));
        }
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.row(&rest)?;
        }
        self.convert()?;
        Ok(self.batches)
    }

    fn context(&self, e: Error, column: Option<&str>) -> Error {
        let column = column.map(|c| format!(", column {c}")).unwrap_or_default();
        e.detail(format!("COPY {}, line {}{column}.", self.table, self.line))
    }

    fn row(&mut self, row: &[u8]) -> Result<()> {
        self.line += 1;
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        if self.ended {
            return Ok(());
        }
        if row == b"\\." {
            self.ended = true;
            return Ok(());
        }
        if std::mem::take(&mut self.header) {
            return Ok(());
        }
        let text = std::str::from_utf8(row).map_err(|_| {
            self.context(Error::new(SqlState("22021"), "invalid byte sequence for encoding \"UTF8\""), None)
        })?;
        let r = if self.csv { self.csv_row(text) } else { self.text_row(text) };
        r.map_err(|e| self.context(e, None))?;
        self.lines.push(self.line);
        self.rows += 1;
        if self.rows == BATCH_ROWS {
            self.convert()?;
        }
        Ok(())
    }

    fn put(&mut self, column: usize, value: Option<&str>) -> Result<()> {
        match self.builders.get_mut(column) {
            Some(b) => {
                b.append_option(value);
                Ok(())
            }
            None => Err(bad_format("extra data after last expected column")),
        }
    }

    fn end_of_row(&self, columns: usize) -> Result<()> {
        match self.schema.fields().get(columns) {
            Some(f) => Err(bad_format(format!("missing data for column \"{}\"", f.name()))),
            None => Ok(()),
        }
    }

    fn text_row(&mut self, row: &str) -> Result<()> {
        let mut n = 0;
        if self.builders.is_empty() && row.is_empty() {
            return Ok(());
        }
        for field in row.split('\t') {
            match field {
                "\\N" => self.put(n, None)?,
                f if f.contains('\\') => {
                    let v = unescape(f)?;
                    self.put(n, Some(&v))?;
                }
                f => self.put(n, Some(f))?,
            }
            n += 1;
        }
        self.end_of_row(n)
    }

    fn csv_row(&mut self, row: &str) -> Result<()> {
        let mut n = 0;
        let mut chars = row.chars().peekable();
        let mut value = String::new();
        loop {
            value.clear();
            let mut was_quoted = false;
            let mut inside = false;
            while let Some(c) = chars.next_if(|c| inside || *c != ',') {
                match c {
                    '"' if inside && chars.next_if_eq(&'"').is_some() => value.push('"'),
                    '"' => {
                        inside = !inside;
                        was_quoted = true;
                    }
                    c => value.push(c),
                }
            }
            // An empty field without quotes is NULL.
            let v = (was_quoted || !value.is_empty()).then_some(value.as_str());
            self.put(n, v)?;
            n += 1;
            if chars.next().is_none() {
                break;
            }
        }
        self.end_of_row(n)
    }

    /// Converts the gathered text columns into a batch.
    fn convert(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let texts: Vec<StringArray> = self.builders.iter_mut().map(StringBuilder::finish).collect();
        let lines = std::mem::take(&mut self.lines);
        let mut columns = Vec::with_capacity(texts.len());
        for (text, f) in texts.into_iter().zip(self.schema.fields().clone().iter()) {
            let text: ArrayRef = Arc::new(text);
            let column = convert_column(&text, f.data_type())?;
            if let Some(i) = (0..text.len()).find(|i| text.is_valid(*i) && column.is_null(*i)) {
                self.line = lines[i];
                let value = text.as_any().downcast_ref::<StringArray>().map_or("", |a| a.value(i));
                let t = types::of(f.data_type());
                let e = Error::new(
                    SqlState::INVALID_TEXT_REPRESENTATION,
                    format!(
                        "invalid input syntax for type {}: \"{}\"",
                        types::format_type(t.oid, t.modifier),
                        value.chars().take(200).collect::<String>()
                    ),
                );
                return Err(self.context(e, Some(f.name())));
            }
            if !f.is_nullable()
                && let Some(i) = (0..column.len()).find(|i| column.is_null(*i))
            {
                self.line = lines[i];
                let e = Error::new(
                    SqlState::NOT_NULL_VIOLATION,
                    format!(
                        "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                        f.name(),
                        self.table
                    ),
                );
                return Err(self.context(e, Some(f.name())));
            }
            columns.push(column);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|e| e.into_error())?;
        self.batches.push(batch);
        self.rows = 0;
        Ok(())
    }
}

/// A column of text as another type; NULL where the text does not fit.
fn convert_column(text: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let strings =
        text.as_any().downcast_ref::<StringArray>().ok_or_else(|| Error::internal("COPY column is not text"))?;
    match to {
        DataType::Boolean => {
            let mut b = BooleanBuilder::with_capacity(strings.len());
            strings.iter().for_each(|v| b.append_option(v.and_then(parse_bool)));
            Ok(Arc::new(b.finish()))
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let mut b = BinaryBuilder::new();
            strings.iter().for_each(|v| b.append_option(v.and_then(parse_bytea)));
            cast_text(&(Arc::new(b.finish()) as ArrayRef), to)
        }
        _ => cast_text(text, to),
    }
}

fn cast_text(text: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    cast_with_options(text, to, &options).map_err(|e| e.into_error())
}

/// The spellings Postgres takes for a boolean.
pub fn parse_bool(s: &str) -> Option<bool> {
    match s.trim().to_ascii_lowercase().as_str() {
        "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes" | "on" | "1" => Some(true),
        "f" | "fa" | "fal" | "fals" | "false" | "n" | "no" | "of" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// `\x0aff`, or Postgres' escape format: bytes as they are, `\\` and `\ooo`.
pub fn parse_bytea(s: &str) -> Option<Vec<u8>> {
    if let Some(hex) = s.strip_prefix("\\x") {
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()?;
        return digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|p| p[0] << 4 | p[1]).collect());
    }
    let mut out = Vec::with_capacity(s.len());
    let mut b = s.as_bytes();
    while let Some((c, rest)) = b.split_first() {
        b = rest;
        if *c != b'\\' {
            out.push(*c);
        } else if let Some(rest) = b.strip_prefix(b"\\") {
            out.push(b'\\');
            b = rest;
        } else {
            let octal = b.get(..3)?;
            if !octal.iter().all(|d| (b'0'..=b'7').contains(d)) || octal[0] > b'3' {
                return None;
            }
            out.push(octal.iter().fold(0, |n, d| n << 3 | (d - b'0')));
            b = &b[3..];
        }
    }
    Some(out)
}

/// Backslash sequences of the text format.
fn unescape(s: &str) -> Result<String> {
    let mut out: Vec<u8> = Vec::with_capacity(s.len());
    let mut b = s.as_bytes();
    while let Some((c, rest)) = b.split_first() {
        b = rest;
        if *c != b'\\' {
            out.push(*c);
            continue;
        }
        let Some((c, rest)) = b.split_first() else {
            out.push(b'\\');
            break;
        };
        b = rest;
        match c {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(0x0b),
            b'x' if b.first().is_some_and(u8::is_ascii_hexdigit) => {
                let n = b.iter().take(2).take_while(|c| c.is_ascii_hexdigit()).count();
                let digits = std::str::from_utf8(&b[..n]).unwrap_or("0");
                out.push(u8::from_str_radix(digits, 16).unwrap_or(0));
                b = &b[n..];
            }
            b'0'..=b'7' => {
                let n = b.iter().take(2).take_while(|c| (b'0'..=b'7').contains(c)).count();
                let v = b[..n].iter().fold(u32::from(c - b'0'), |v, d| v << 3 | u32::from(d - b'0'));
                out.push((v & 0xff) as u8);
                b = &b[n..];
            }
            c => out.push(*c),
        }
    }
    String::from_utf8(out).map_err(|_| Error::new(SqlState("22021"), "invalid byte sequence for encoding \"UTF8\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray as _, Int32Array};
    use arrow::datatypes::{Field, Schema};

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, false), Field::new("b", DataType::Utf8, true)]))
    }

    fn read(csv: bool, header: bool, data: &str) -> Result<Vec<(i32, Option<String>)>> {
        // Cut at every place: the pieces must not matter.
        let mut first = None;
        for cut in 0..=data.len() {
            let mut r = Reader::new("t", schema(), csv, header, 1 << 20)?;
            r.feed(&data.as_bytes()[..cut])?;
            r.feed(&data.as_bytes()[cut..])?;
            let rows: Vec<_> = r
                .finish()?
                .iter()
                .flat_map(|b| {
                    let a = b.column(0).as_primitive::<arrow::datatypes::Int32Type>();
                    let s = b.column(1).as_string::<i32>();
                    (0..b.num_rows())
                        .map(|i| (a.value(i), s.is_valid(i).then(|| s.value(i).to_owned())))
                        .collect::<Vec<_>>()
                })
                .collect();
            match &first {
                None => first = Some(rows),
                Some(f) => assert_eq!(*f, rows, "cut at {cut}"),
            }
        }
        Ok(first.unwrap_or_default())
    }

    #[test]
    fn text_format_has_escapes_and_nulls() {
        let rows = read(false, false, "1\tx\n2\t\\N\n3\ta\\tb\\\\c\\nd\n4\t\n\\.\n9\tignored\n").expect("rows");
        let expect = [(1, Some("x")), (2, None), (3, Some("a\tb\\c\nd")), (4, Some(""))];
        assert_eq!(rows, expect.map(|(a, b)| (a, b.map(str::to_owned))));
    }

    #[test]
    fn csv_has_quotes_newlines_and_nulls() {
        let rows = read(true, true, "a,b\r\n1,x\r\n2,\n3,\"\"\n4,\"q\"\"uote, and\nline\"\n5,last").expect("rows");
        let expect = [(1, Some("x")), (2, None), (3, Some("")), (4, Some("q\"uote, and\nline")), (5, Some("last"))];
        assert_eq!(rows, expect.map(|(a, b)| (a, b.map(str::to_owned))));
    }

    #[test]
    fn errors_name_line_and_column() {
        let e = |data, csv| read(csv, false, data).expect_err("error");
        let bad = e("1\tx\nzwei\ty\n", false);
        assert_eq!(bad.code.0, "22P02");
        assert_eq!(bad.detail.as_deref(), Some("COPY t, line 2, column a."));
        assert_eq!(e("1\n", false).message, "missing data for column \"b\"");
        assert_eq!(e("1\t2\t3\n", false).message, "extra data after last expected column");
        assert_eq!(e("\\N\tx\n", false).code.0, "23502");
        assert_eq!(e("1,\"x", true).message, "unterminated CSV quoted field");
    }

    #[test]
    fn what_was_written_reads_back() {
        let values = ["", "plain", "tab\t", "line\nfeed\r", "back\\slash", "quote\"", "comma,", "\\N", "\\.", "ü"];
        let batch = RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(Int32Array::from_iter_values(0..values.len() as i32)),
                Arc::new(StringArray::from(values.to_vec())),
            ],
        )
        .expect("batch");
        let rows = Rows::new(&batch).expect("rows");
        for csv in [false, true] {
            let (mut out, mut scratch) = (BytesMut::new(), BytesMut::new());
            write_header(batch.schema_ref(), csv, &mut out);
            for i in 0..rows.len {
                write_row(&rows, i, csv, &mut scratch, &mut out);
            }
            let text = String::from_utf8(out.to_vec()).expect("utf-8");
            let back = read(csv, true, &text).expect("reads");
            let back: Vec<_> = back.iter().map(|(_, s)| s.as_deref()).collect();
            assert_eq!(back, values.map(Some), "csv {csv}: {text}");
        }
    }

    #[test]
    fn bytea_in_both_formats() {
        assert_eq!(parse_bytea("\\x00fF"), Some(vec![0, 255]));
        assert_eq!(parse_bytea("a\\\\b\\001"), Some(vec![b'a', b'\\', b'b', 1]));
        assert_eq!(parse_bytea("\\x0"), None);
        assert_eq!(parse_bytea("\\9"), None);
    }
}
