//! JSON text: a scanner that skips what nobody asks for, a tree for what is changed, and the two ways Postgres
//! writes JSON.
//!
//! Numbers keep their digits. `json` is text as it came; `jsonb` is written with sorted keys (shorter ones first), the
//! last of equal keys, one space after `:` and `,`, and numbers without exponent.

use std::borrow::Cow;

use crate::error::{SqlError, SqlState};

/// Values nested deeper than this are refused: reading and writing recurse.
const DEPTH_MAX: usize = 256;
/// Digits a number may be blown up to when its exponent is written out; what NUMERIC of Postgres allows.
const EXPONENT_MAX: i64 = 16_383;

type Result<T> = std::result::Result<T, SqlError>;

/// A value with everything below it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// As it was written.
    Number(Cow<'a, str>),
    /// Without quotes and escapes.
    String(Cow<'a, str>),
    /// `[..]`
    Array(Vec<Json<'a>>),
    /// Members in the order they were written.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// What kind a value is, known from its first character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// The name `json_typeof` gives.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "boolean",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

/// The error of text that is not JSON.
fn invalid(text: &str, why: &str) -> SqlError {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push_str("..");
    }
    SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, "invalid input syntax for type json")
        .detail(format!("{why} in {shown}"))
}

/// Reads JSON text from the left.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn bad<T>(&self, why: &str) -> Result<T> {
        Err(invalid(self.text, why))
    }

    fn space(&mut self) {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The next character that is not white space.
    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// What comes next.
    pub(super) fn kind(&mut self) -> Result<Kind> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(_) => self.bad("a value is expected"),
            None => self.bad("the input ended unexpectedly"),
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.bad("text after the value"),
        }
    }

    fn word(&mut self, word: &str) -> Result<()> {
        if !self.text[self.at..].starts_with(word) {
            return self.bad("a token is invalid");
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<()> {
        let from = self.at;
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == from { self.bad("a number is invalid") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<&'a str> {
        let from = self.at;
        let byte = |s: &Self| s.text.as_bytes().get(s.at).copied();
        self.at += usize::from(byte(self) == Some(b'-'));
        if byte(self) == Some(b'0') {
            self.at += 1;
            if byte(self).is_some_and(|b| b.is_ascii_digit()) {
                return self.bad("a number is invalid");
            }
        } else {
            self.digits()?;
        }
        if byte(self) == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(byte(self), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(byte(self), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(&self.text[from..self.at])
    }

    /// A string with its escapes undone.
    fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let from = self.at;
        let bytes = self.text.as_bytes();
        let mut owned: Option<String> = None;
        let mut plain = from;
        loop {
            match bytes.get(self.at) {
                None => return self.bad("a string is not closed"),
                Some(b'"') => {
                    let rest = &self.text[plain..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(rest),
                        Some(mut s) => {
                            s.push_str(rest);
                            Cow::Owned(s)
                        }
                    });
                }
                Some(b'\\') => {
                    let s = owned.get_or_insert_default();
                    s.push_str(&self.text[plain..self.at]);
                    self.at += 1;
                    let c = self.escape()?;
                    owned.get_or_insert_default().push(c);
                    plain = self.at;
                }
                Some(b) if *b < 0x20 => return self.bad("a control character has to be escaped"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let Some(b) = self.text.as_bytes().get(self.at).copied() else { return self.bad("a string is not closed") };
        self.at += 1;
        Ok(match b {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex()?;
                let code = match high {
                    0xd800..=0xdbff => {
                        if !self.text[self.at..].starts_with("\\u") {
                            return self.bad("a Unicode surrogate is alone");
                        }
                        self.at += 2;
                        let low = self.hex()?;
                        if !(0xdc00..=0xdfff).contains(&low) {
                            return self.bad("a Unicode surrogate is alone");
                        }
                        0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                    }
                    0 => return self.bad("\\u0000 cannot be converted to text"),
                    code => code,
                };
                match char::from_u32(code) {
                    Some(c) => c,
                    None => return self.bad("a Unicode surrogate is alone"),
                }
            }
            _ => return self.bad("an escape is invalid"),
        })
    }

    fn hex(&mut self) -> Result<u32> {
        let Some(four) = self.text.get(self.at..self.at + 4) else { return self.bad("\\u needs four digits") };
        if !four.bytes().all(|b| b.is_ascii_hexdigit()) {
            return self.bad("\\u needs four digits");
        }
        self.at += 4;
        u32::from_str_radix(four, 16).or_else(|_| self.bad("\\u needs four digits"))
    }

    /// Passes one value and gives its text, without white space around it.
    pub(super) fn skip(&mut self) -> Result<&'a str> {
        self.space();
        let from = self.at;
        self.skip_within(0)?;
        Ok(&self.text[from..self.at])
    }

    fn skip_within(&mut self, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        match self.kind()? {
            Kind::Null => self.word("null"),
            Kind::Bool if self.peek() == Some(b't') => self.word("true"),
            Kind::Bool => self.word("false"),
            Kind::Number => self.number().map(drop),
            Kind::String => self.string().map(drop),
            Kind::Array => self.elements(|r| r.skip_within(depth + 1)),
            Kind::Object => self.members(|r, _| r.skip_within(depth + 1)),
        }
    }

    /// Calls `each` at every element of the array that comes next; it has to pass the element.
    pub(super) fn elements(&mut self, mut each: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if !self.eat(b'[') {
            return self.bad("an array is expected");
        }
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            each(self)?;
            if self.eat(b']') {
                return Ok(());
            }
            if !self.eat(b',') {
                return self.bad("\",\" or \"]\" is expected");
            }
        }
    }

    /// Calls `each` at every member of the object that comes next; it has to pass the value.
    pub(super) fn members(&mut self, mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Result<()>) -> Result<()> {
        if !self.eat(b'{') {
            return self.bad("an object is expected");
        }
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.bad("a key is expected");
            }
            let key = self.string()?;
            if !self.eat(b':') {
                return self.bad("\":\" is expected");
            }
            each(self, key)?;
            if self.eat(b'}') {
                return Ok(());
            }
            if !self.eat(b',') {
                return self.bad("\",\" or \"}\" is expected");
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>> {
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        Ok(match self.kind()? {
            Kind::Number => Json::Number(Cow::Borrowed(self.number()?)),
            Kind::String => Json::String(self.string()?),
            Kind::Array => {
                let mut out = Vec::new();
                self.elements(|r| {
                    out.push(r.value(depth + 1)?);
                    Ok(())
                })?;
                Json::Array(out)
            }
            Kind::Object => {
                let mut out = Vec::new();
                self.members(|r, key| {
                    let value = r.value(depth + 1)?;
                    out.push((key, value));
                    Ok(())
                })?;
                Json::Object(out)
            }
            kind => {
                let bool = self.peek() == Some(b't');
                self.skip_within(depth)?;
                if kind == Kind::Null { Json::Null } else { Json::Bool(bool) }
            }
        })
    }
}

fn too_deep() -> SqlError {
    SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("JSON is nested deeper than {DEPTH_MAX} levels"))
}

/// Reads a whole text.
pub(super) fn parse(text: &str) -> Result<Json<'_>> {
    let mut reader = Reader::new(text);
    let value = reader.value(0)?;
    reader.end()?;
    Ok(value)
}

/// Reads a whole text as `jsonb`: in canonical form, so that equal values have equal text.
pub(super) fn parse_canonical(text: &str) -> Result<Json<'_>> {
    let mut value = parse(text)?;
    value.canonical();
    Ok(value)
}

impl<'a> Json<'a> {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Number(_) => Kind::Number,
            Self::String(_) => Kind::String,
            Self::Array(_) => Kind::Array,
            Self::Object(_) => Kind::Object,
        }
    }

    /// Brings members in order, drops all but the last of equal keys, writes numbers without exponent.
    pub(super) fn canonical(&mut self) {
        match self {
            Self::Number(n) => *n = plain_number(std::mem::take(n)),
            Self::Array(items) => items.iter_mut().for_each(Self::canonical),
            Self::Object(members) => {
                // The sort is stable: of equal keys the last one stays the last.
                members.sort_by(|a, b| key_order(&a.0, &b.0));
                let mut kept: Vec<(Cow<'a, str>, Json<'a>)> = Vec::with_capacity(members.len());
                for (key, mut value) in std::mem::take(members) {
                    value.canonical();
                    match kept.last_mut() {
                        Some(last) if last.0 == key => last.1 = value,
                        _ => kept.push((key, value)),
                    }
                }
                *members = kept;
            }
            Self::Null | Self::Bool(_) | Self::String(_) => {}
        }
    }

    /// The member of an object; of equal keys the last one.
    pub(super) fn get(&self, key: &str) -> Option<&Json<'a>> {
        match self {
            Self::Object(members) => members.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Writes the value; `spaced` as jsonb does.
    pub(super) fn write(&self, out: &mut String, spaced: bool) {
        let comma = if spaced { ", " } else { "," };
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Self::Number(n) => out.push_str(n),
            Self::String(s) => quote(s, out),
            Self::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push_str(comma);
                    }
                    item.write(out, spaced);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push_str(comma);
                    }
                    quote(key, out);
                    out.push_str(if spaced { ": " } else { ":" });
                    value.write(out, spaced);
                }
                out.push('}');
            }
        }
    }

    /// As `jsonb` is written.
    pub(super) fn to_jsonb(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, true);
        out
    }

    /// Over several lines, as `jsonb_pretty` does.
    pub(super) fn pretty(&self, out: &mut String, indent: usize) {
        let line = |out: &mut String, n: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", n));
        };
        match self {
            Self::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    line(out, indent + 1);
                    item.pretty(out, indent + 1);
                }
                line(out, indent);
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    line(out, indent + 1);
                    quote(key, out);
                    out.push_str(": ");
                    value.pretty(out, indent + 1);
                }
                line(out, indent);
                out.push('}');
            }
            other => other.write(out, true),
        }
    }
}

/// Order of keys in `jsonb`: shorter ones first, then by bytes.
pub(super) fn key_order(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// A string with quotes and the escapes JSON asks for.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number without its exponent, as NUMERIC writes it. One beyond every NUMERIC stays as it is.
pub(super) fn plain_number(text: Cow<'_, str>) -> Cow<'_, str> {
    let negative_zero = text.starts_with('-') && !text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    let Some(e) = text.find(['e', 'E']) else {
        return if negative_zero { Cow::Owned(text[1..].to_owned()) } else { text };
    };
    let Some(exponent) = text[e + 1..].parse::<i64>().ok().filter(|x| x.abs() <= EXPONENT_MAX) else { return text };
    let (mantissa, sign) = match text[..e].strip_prefix('-') {
        Some(rest) => (rest, if negative_zero { "" } else { "-" }),
        None => (&text[..e], ""),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i64 + exponent;
    let plain = if point <= 0 {
        format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize))
    } else if point as usize >= digits.len() {
        let zeros = "0".repeat(point as usize - digits.len());
        format!("{digits}{zeros}")
    } else {
        format!("{}.{}", &digits[..point as usize], &digits[point as usize..])
    };
    // Zeros that the shift put in front of the first digit.
    let short = plain.trim_start_matches('0');
    let short = if short.is_empty() || short.starts_with('.') { format!("0{short}") } else { short.to_owned() };
    Cow::Owned(format!("{sign}{short}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jsonb(text: &str) -> String {
        parse_canonical(text).unwrap().to_jsonb()
    }

    #[test]
    fn jsonb_sorts_keys_keeps_the_last_of_equal_ones_and_spaces_like_postgres() {
        assert_eq!(
            jsonb(r#"{"bb":1,"a":[1,2,{}],"b":null,"a":{"x":true}}"#),
            r#"{"a": {"x": true}, "b": null, "bb": 1}"#
        );
        assert_eq!(jsonb(" [ ] "), "[]");
        assert_eq!(jsonb(r#""a\u00e9\ud83d\ude00\n""#), "\"aé😀\\n\"");
    }

    #[test]
    fn numbers_keep_their_digits_and_lose_their_exponent() {
        for (text, plain) in [
            ("1.10", "1.10"),
            ("1e2", "100"),
            ("1.5e1", "15"),
            ("1.25e1", "12.5"),
            ("-1E-3", "-0.001"),
            ("0e5", "0"),
            ("-0", "0"),
            ("-0.00", "0.00"),
            ("12345678901234567890.123", "12345678901234567890.123"),
        ] {
            assert_eq!(jsonb(text), plain, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,",
            "[1,]",
            "{\"a\"}",
            "{a:1}",
            "01",
            "1.",
            "-",
            "nul",
            "truex",
            "\"a",
            "\"\\x\"",
            "\"\\ud800\"",
            "1 2",
            "{\"a\":1,}",
            "'a'",
            "\"\u{1}\"",
        ] {
            let e = parse(text).unwrap_err();
            assert_eq!(e.code, SqlState::INVALID_TEXT_REPRESENTATION, "{text}: {e:?}");
        }
        let deep = "[".repeat(5000);
        assert_eq!(parse(&deep).unwrap_err().code, SqlState::PROGRAM_LIMIT_EXCEEDED);
    }

    #[test]
    fn skipping_a_value_gives_its_text() {
        let mut r = Reader::new(r#"  {"a" : [1, "]"]} , 2"#);
        assert_eq!(r.skip().unwrap(), r#"{"a" : [1, "]"]}"#);
    }
}
