//! JSON objects straight into Arrow builders, in one pass over the bytes.
//!
//! Rules: unknown fields are skipped (but must be well-formed); a missing field is NULL; a field that comes twice, a
//! value of another type and a missing NOT NULL value make the record bad. A text column that meets an object or an
//! array takes its JSON text. Strings are not taken for numbers, except in decimal columns.

use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

use super::column::{Column, Fault, Kind, ListColumn, MapColumn, Push, Scalar, StructColumn};
use super::guard::Restart;
use super::{Decoded, Decoder, Record, TimestampFormat, bad_record};
use crate::{ConnectorError, Result, SplitId};

const DEPTH_LIMIT: usize = 128;

/// Rows under construction; what JSON and CSV share.
pub(super) struct Rows {
    pub schema: SchemaRef,
    pub root: StructColumn,
    timestamps: TimestampFormat,
}

impl Rows {
    pub fn new(schema: SchemaRef, timestamps: TimestampFormat) -> Result<Self> {
        let root = StructColumn::new(schema.fields(), timestamps, "")?;
        Ok(Self { schema, root, timestamps })
    }

    pub fn restart(&mut self) -> Result<()> {
        self.root = StructColumn::new(self.schema.fields(), self.timestamps, "")?;
        Ok(())
    }

    /// Runs `row` for each record. `row` may leave columns of its row unset only after an error.
    pub fn decode(
        &mut self,
        split: &SplitId,
        origin: &str,
        records: &[Record<'_>],
        mut row: impl FnMut(&mut StructColumn, &[u8]) -> Push,
    ) -> Result<Decoded> {
        let mut from = Vec::with_capacity(records.len());
        let mut bad = Vec::new();
        let mut started = self.root.object();
        for (i, record) in records.iter().enumerate() {
            match row(&mut self.root, record.payload) {
                Ok(()) => from.push(i as u32),
                Err(fault) => {
                    // A record that failed before its object began still takes a slot, so that slots are records.
                    let object = if self.root.object() == started { self.root.begin() } else { self.root.object() };
                    // Its row is dropped: what is missing in it does not matter.
                    let _ = self.root.complete(object);
                    bad.push(bad_record(split, origin, record, fault.path(), fault.reason));
                }
            }
            started = self.root.object();
        }
        let defect = |e| ConnectorError::bug(format!("decoded rows do not fit their schema: {e}"));
        let arrays = self.root.finish().map_err(defect)?;
        let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
        let mut rows = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(defect)?;
        if !bad.is_empty() {
            let mut keep = vec![false; records.len()];
            from.iter().for_each(|i| keep[*i as usize] = true);
            rows = filter_record_batch(&rows, &BooleanArray::from(keep)).map_err(defect)?;
        }
        Ok(Decoded { rows, from, bad })
    }
}

/// Format `json`.
pub(super) struct JsonDecoder {
    rows: Rows,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    value: String,
    keys: Vec<String>,
}

impl JsonDecoder {
    pub fn new(schema: SchemaRef, timestamps: TimestampFormat) -> Result<Self> {
        Ok(Self { rows: Rows::new(schema, timestamps)?, scratch: Scratch::default() })
    }
}

impl Restart for JsonDecoder {
    fn restart(&mut self) -> Result<()> {
        self.scratch = Scratch::default();
        self.rows.restart()
    }
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> SchemaRef {
        self.rows.schema.clone()
    }

    fn decode(&mut self, split: &SplitId, origin: &str, records: &[Record<'_>]) -> Result<Decoded> {
        let scratch = &mut self.scratch;
        self.rows.decode(split, origin, records, |root, payload| {
            let text = std::str::from_utf8(payload).map_err(|e| Fault::new(format!("not UTF-8: {e}")))?;
            let mut p = Parser { text, bytes: text.as_bytes(), at: 0, depth: 0, scratch: &mut *scratch };
            if p.peek() != Some(b'{') {
                return Err(match p.peek() {
                    None => Fault::new("the record is empty"),
                    Some(_) => Fault::new("the record is not a JSON object"),
                });
            }
            p.object(root)?;
            match p.peek() {
                None => Ok(()),
                Some(_) => Err(p.syntax("more after the end of the object")),
            }
        })
    }
}

struct Parser<'a, 's> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    scratch: &'s mut Scratch,
}

/// A string token: its place between the quotes.
#[derive(Clone, Copy)]
struct Token {
    start: usize,
    end: usize,
    escaped: bool,
}

impl<'a> Parser<'a, '_> {
    /// The next byte that is not white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        while let Some(&b) = self.bytes.get(self.at) {
            if !matches!(b, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(b);
            }
            self.at += 1;
        }
        None
    }

    #[cold]
    fn syntax(&self, what: &str) -> Box<Fault> {
        Fault::new(format!("not valid JSON at byte {}: {what}", self.at))
    }

    #[inline]
    fn expect(&mut self, b: u8) -> Push {
        if self.peek() == Some(b) {
            self.at += 1;
            return Ok(());
        }
        Err(match self.peek() {
            None => self.syntax("the text ends too early"),
            Some(_) => self.syntax(&format!("expected '{}'", b as char)),
        })
    }

    fn deeper(&mut self) -> Push {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT { Err(self.syntax("nested too deep")) } else { Ok(()) }
    }

    /// Scans a string; `at` is on its opening quote.
    #[inline]
    fn string(&mut self) -> Push<Token> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(b) if *b < 0x20 => return Err(self.syntax("control character in a string")),
                Some(_) => self.at += 1,
                None => {
                    self.at = self.bytes.len();
                    return Err(self.syntax("the string does not end"));
                }
            }
        }
        let end = self.at;
        self.at += 1;
        Ok(Token { start, end, escaped })
    }

    /// Writes the string without its escapes.
    fn unescape(&self, t: Token, out: &mut String) -> Push {
        out.clear();
        let mut rest = &self.text[t.start..t.end];
        while let Some(i) = rest.find('\\') {
            out.push_str(&rest[..i]);
            let code = rest.as_bytes().get(i + 1).copied();
            rest = rest.get(i + 2..).ok_or_else(|| self.syntax("bad escape"))?;
            out.push(match code {
                Some(b'n') => '\n',
                Some(b't') => '\t',
                Some(b'r') => '\r',
                Some(b'b') => '\u{8}',
                Some(b'f') => '\u{c}',
                Some(c @ (b'"' | b'\\' | b'/')) => c as char,
                Some(b'u') => {
                    let unit = |s: &str| {
                        let digits = s.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
                        u32::from_str_radix(digits, 16).ok()
                    };
                    let mut c = unit(rest).ok_or_else(|| self.syntax("bad \\u escape"))?;
                    rest = &rest[4..];
                    if (0xD800..0xDC00).contains(&c) {
                        let low = rest.strip_prefix("\\u").and_then(unit).filter(|l| (0xDC00..0xE000).contains(l));
                        let low = low.ok_or_else(|| self.syntax("unpaired surrogate in a \\u escape"))?;
                        rest = &rest[6..];
                        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
                    }
                    char::from_u32(c).ok_or_else(|| self.syntax("unpaired surrogate in a \\u escape"))?
                }
                _ => return Err(self.syntax("bad escape")),
            });
        }
        out.push_str(rest);
        Ok(())
    }

    /// Scans a number by the JSON grammar.
    #[inline]
    fn number(&mut self) -> Push<&'a str> {
        let start = self.at;
        let digits = |p: &mut Self| {
            let from = p.at;
            while p.bytes.get(p.at).is_some_and(u8::is_ascii_digit) {
                p.at += 1;
            }
            p.at - from
        };
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let zero = self.bytes.get(self.at) == Some(&b'0');
        let whole = digits(self);
        if whole == 0 || (zero && whole > 1) {
            return Err(self.syntax("bad number or unknown word"));
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if digits(self) == 0 {
                return Err(self.syntax("bad number"));
            }
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if digits(self) == 0 {
                return Err(self.syntax("bad number"));
            }
        }
        Ok(&self.text[start..self.at])
    }

    fn word(&mut self, word: &str) -> Push {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.syntax("unknown word"))
    }

    /// Skips a value, checking that it is well-formed.
    fn skip(&mut self) -> Push {
        match self.peek() {
            Some(b'"') => {
                let t = self.string()?;
                if t.escaped {
                    let mut out = std::mem::take(&mut self.scratch.value);
                    let done = self.unescape(t, &mut out);
                    self.scratch.value = out;
                    done?;
                }
                Ok(())
            }
            Some(b'{') => {
                self.deeper()?;
                self.at += 1;
                let mut first = true;
                while self.more(b'}', &mut first)? {
                    if self.peek() != Some(b'"') {
                        return Err(self.syntax("expected a field name"));
                    }
                    self.skip()?;
                    self.expect(b':')?;
                    self.skip()?;
                }
                self.depth -= 1;
                Ok(())
            }
            Some(b'[') => {
                self.deeper()?;
                self.at += 1;
                let mut first = true;
                while self.more(b']', &mut first)? {
                    self.skip()?;
                }
                self.depth -= 1;
                Ok(())
            }
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(_) => self.number().map(|_| ()),
            None => Err(self.syntax("the text ends too early")),
        }
    }

    /// Steps to the next item of an object or array; false after its end.
    #[inline]
    fn more(&mut self, end: u8, first: &mut bool) -> Push<bool> {
        let next = self.peek();
        if next == Some(end) {
            self.at += 1;
            return Ok(false);
        }
        if !std::mem::replace(first, false) {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// Runs `f` with the next string, which is a field name.
    fn key(&mut self) -> Push<Key> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax("expected a field name"));
        }
        let t = self.string()?;
        let key = if t.escaped {
            let mut out = self.scratch.keys.pop().unwrap_or_default();
            self.unescape(t, &mut out)?;
            Key::Owned(out)
        } else {
            Key::Token(t)
        };
        self.expect(b':')?;
        Ok(key)
    }

    /// Parses an object into a struct's columns; each gets exactly one slot, also after an error.
    fn object(&mut self, s: &mut StructColumn) -> Push {
        let object = s.begin();
        let parsed = self.fields(s, object);
        let complete = s.complete(object);
        parsed.and(complete)
    }

    fn fields(&mut self, s: &mut StructColumn, object: u64) -> Push {
        self.deeper()?;
        self.at += 1;
        let mut first = true;
        let mut nth = 0;
        while self.more(b'}', &mut first)? {
            let key = self.key()?;
            let name = match &key {
                Key::Token(t) => &self.text[t.start..t.end],
                Key::Owned(s) => s.as_str(),
            };
            match s.find(nth, name) {
                None => self.skip()?,
                Some(i) => {
                    if !s.mark(i, object) {
                        return Err(Fault::new("the field comes twice").within(name));
                    }
                    self.value(&mut s.columns[i]).map_err(|f| f.within(name))?;
                }
            }
            if let Key::Owned(s) = key {
                self.scratch.keys.push(s);
            }
            nth += 1;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Parses a value into a column: exactly one slot, also after an error.
    fn value(&mut self, column: &mut Column) -> Push {
        let scalar = match self.peek() {
            Some(b'"') => match self.string() {
                Err(f) => return give_up(column, f),
                Ok(t) if !t.escaped => Scalar::Text(&self.text[t.start..t.end]),
                Ok(t) => {
                    let mut out = std::mem::take(&mut self.scratch.value);
                    let pushed = match self.unescape(t, &mut out) {
                        Ok(()) => column.push(Scalar::Text(&out)),
                        Err(f) => give_up(column, f),
                    };
                    self.scratch.value = out;
                    return pushed;
                }
            },
            Some(open @ (b'{' | b'[')) => return self.nested(open, column),
            Some(b't') => match self.word("true") {
                Ok(()) => Scalar::Bool(true),
                Err(f) => return give_up(column, f),
            },
            Some(b'f') => match self.word("false") {
                Ok(()) => Scalar::Bool(false),
                Err(f) => return give_up(column, f),
            },
            Some(b'n') => match self.word("null") {
                Ok(()) => Scalar::Null,
                Err(f) => return give_up(column, f),
            },
            Some(_) => match self.number() {
                Ok(s) => Scalar::Number(s),
                Err(f) => return give_up(column, f),
            },
            None => return give_up(column, self.syntax("the text ends too early")),
        };
        column.push(scalar)
    }

    fn nested(&mut self, open: u8, column: &mut Column) -> Push {
        match (&mut column.kind, open) {
            (Kind::Struct(s, validity), b'{') => {
                let done = self.object(s);
                // Also after an error: children may not be NULL where their type forbids it, a valid parent may.
                validity.append(true);
                done
            }
            (Kind::List(l), b'[') => {
                let done = self.items(l);
                l.close(true);
                done
            }
            (Kind::Map(m), b'{') => {
                let done = self.entries(m);
                m.close(true);
                done
            }
            (Kind::TextView(_) | Kind::Text(_) | Kind::LargeText(_), _) => {
                let start = self.at;
                match self.skip() {
                    Ok(()) => column.push(Scalar::Text(&self.text[start..self.at])),
                    Err(f) => give_up(column, f),
                }
            }
            _ => {
                let fault = column.nested_fault(if open == b'{' { "an object" } else { "an array" });
                give_up(column, fault)
            }
        }
    }

    fn items(&mut self, l: &mut ListColumn) -> Push {
        self.deeper()?;
        self.at += 1;
        let mut first = true;
        while self.more(b']', &mut first)? {
            let done = self.value(&mut l.item);
            l.added();
            done?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn entries(&mut self, m: &mut MapColumn) -> Push {
        self.deeper()?;
        self.at += 1;
        let mut first = true;
        while self.more(b'}', &mut first)? {
            let key = self.key()?;
            let name = match &key {
                Key::Token(t) => &self.text[t.start..t.end],
                Key::Owned(s) => s.as_str(),
            };
            m.key.push(Scalar::Text(name))?;
            let done = self.value(&mut m.value);
            m.added();
            done?;
        }
        self.depth -= 1;
        Ok(())
    }
}

enum Key {
    Token(Token),
    Owned(String),
}

#[cold]
fn give_up(column: &mut Column, fault: Box<Fault>) -> Push {
    column.push_absent();
    Err(fault)
}
