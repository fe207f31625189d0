//! Functions of `BYTEA`: `encode`, `decode`, `convert_to`, `convert_from`, single bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::ScalarUDF;

use super::define::{Call, Def, Kind, fail, kinds, udfs};
use crate::error::{SqlError, SqlState};
use crate::text;

type Bytes = Result<Vec<u8>, SqlError>;

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    udfs(&definitions())
}

/// One of them, to be called by its name.
pub(crate) fn function(name: &str) -> Option<ScalarUDF> {
    definitions().into_iter().find(|d| d.name == name).map(Def::udf)
}

fn definitions() -> Vec<Def> {
    vec![
        Def {
            name: "encode",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Bytes, Kind::Text], 0),
            gives: |_| DataType::Utf8View,
            strict: true,
            run: |c| c.texts(|row| Form::of(c.text(1).value(row)).map(|f| Some(f.write(c.binary(0).value(row))))),
        },
        Def {
            name: "decode",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Text, Kind::Text], 0),
            gives: |_| DataType::Binary,
            strict: true,
            run: |c| c.bytes(|row| Form::of(c.text(1).value(row))?.read(c.text(0).value(row)).map(Some)),
        },
        Def {
            name: "convert_to",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Text, Kind::Text], 0),
            gives: |_| DataType::Binary,
            strict: true,
            run: |c| c.bytes(|row| Encoding::of(c.text(1).value(row))?.to(c.text(0).value(row)).map(Some)),
        },
        Def {
            name: "convert_from",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Bytes, Kind::Text], 0),
            gives: |_| DataType::Utf8View,
            strict: true,
            run: |c| c.texts(|row| Encoding::of(c.text(1).value(row))?.from(c.binary(0).value(row)).map(Some)),
        },
        Def {
            name: "get_byte",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Bytes, Kind::Long], 0),
            gives: |_| DataType::Int32,
            strict: true,
            run: |c| {
                c.primitives::<Int32Type>(|row| {
                    let bytes = c.binary(0).value(row);
                    let at = index(c.primitive::<Int64Type>(1).value(row), bytes.len())?;
                    Ok(Some(i32::from(bytes[at])))
                })
            },
        },
        Def {
            name: "set_byte",
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Bytes, Kind::Long, Kind::Long], 0),
            gives: |_| DataType::Binary,
            strict: true,
            run: |c| {
                c.bytes(|row| {
                    let mut bytes = c.binary(0).value(row).to_vec();
                    let at = index(c.primitive::<Int64Type>(1).value(row), bytes.len())?;
                    bytes[at] = c.primitive::<Int64Type>(2).value(row) as u8;
                    Ok(Some(bytes))
                })
            },
        },
        Def {
            name: CONCATENATE,
            aliases: &[],
            takes: |t| kinds(t, &[Kind::Bytes, Kind::Bytes], 0),
            gives: |_| DataType::Binary,
            strict: true,
            run: |c| c.bytes(|row| Ok(Some([c.binary(0).value(row), c.binary(1).value(row)].concat()))),
        },
    ]
}

/// What `||` of bytes calls.
pub(crate) const CONCATENATE: &str = "bytea_concat";

impl Call<'_> {
    fn binary(&self, i: usize) -> &BinaryArray {
        self.args[i].as_binary::<i32>()
    }
}

fn index(at: i64, length: usize) -> Result<usize, SqlError> {
    match usize::try_from(at) {
        Ok(i) if i < length => Ok(i),
        _ => {
            let message = format!("index {at} out of valid range, 0..{}", length as i64 - 1);
            fail(SqlState::ARRAY_SUBSCRIPT_ERROR, message)
        }
    }
}

/// A way to write bytes as text.
enum Form {
    Hex,
    Base64,
    Escape,
}

impl Form {
    fn of(name: &str) -> Result<Self, SqlError> {
        match name.to_ascii_lowercase().as_str() {
            "hex" => Ok(Self::Hex),
            "base64" => Ok(Self::Base64),
            "escape" => Ok(Self::Escape),
            _ => fail(SqlState::INVALID_PARAMETER_VALUE, format!("unrecognized encoding: \"{name}\"")),
        }
    }

    fn write(&self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => {
                let mut out = String::with_capacity(2 + 2 * bytes.len());
                text::bytea(bytes, &mut out);
                out.split_off(2)
            }
            Self::Base64 => base64(bytes),
            Self::Escape => {
                let mut out = String::with_capacity(bytes.len());
                for b in bytes {
                    match b {
                        b'\\' => out.push_str("\\\\"),
                        0 | 0x80.. => out.push_str(&format!("\\{b:03o}")),
                        b => out.push(char::from(*b)),
                    }
                }
                out
            }
        }
    }

    fn read(&self, text: &str) -> Bytes {
        match self {
            Self::Hex => from_hex(text),
            Self::Base64 => from_base64(text),
            Self::Escape => from_escaped(text),
        }
    }
}

/// `\x..`, or text with escapes: what an input of type `BYTEA` may be.
pub(super) fn read_bytea(text: &str) -> Bytes {
    match text.strip_prefix("\\x") {
        Some(digits) => from_hex(digits),
        None => from_escaped(text),
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, SqlError> {
    fail(SqlState::INVALID_PARAMETER_VALUE, message)
}

fn from_hex(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for c in text.chars() {
        let Some(digit) = c.to_digit(16) else {
            match (c, high) {
                (' ' | '\n' | '\t' | '\r', None) => continue,
                _ => return invalid(format!("invalid hexadecimal digit: \"{c}\"")),
            }
        };
        match high.take() {
            None => high = Some(digit),
            Some(h) => out.push((h * 16 + digit) as u8),
        }
    }
    match high {
        None => Ok(out),
        Some(_) => invalid("invalid hexadecimal data: odd number of digits"),
    }
}

fn from_escaped(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = after;
            continue;
        }
        rest = match after {
            [b'\\', after @ ..] => {
                out.push(b'\\');
                after
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                after
            }
            _ => return fail(SqlState::INVALID_TEXT_REPRESENTATION, "invalid input syntax for type bytea"),
        };
    }
    Ok(out)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Characters of a line of base64.
const LINE: usize = 76;

fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    let mut column = 0;
    for group in bytes.chunks(3) {
        if column == LINE {
            out.push('\n');
            column = 0;
        }
        let bits = group.iter().enumerate().fold(0u32, |bits, (i, b)| bits | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            out.push(match i <= group.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize]),
                false => '=',
            });
        }
        column += 4;
    }
    out
}

fn from_base64(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut digits, mut padding) = (0u32, 0usize, 0usize);
    for c in text.chars() {
        if matches!(c, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let value = match c {
            '=' if digits >= 2 => {
                padding += 1;
                0
            }
            '=' => return invalid("unexpected \"=\" while decoding base64 sequence"),
            c => match DIGITS.iter().position(|d| char::from(*d) == c) {
                Some(v) if padding == 0 => v as u32,
                _ => return invalid(format!("invalid symbol \"{c}\" found while decoding base64 sequence")),
            },
        };
        bits = bits << 6 | value;
        digits += 1;
        if digits == 4 {
            let three = [(bits >> 16) as u8, (bits >> 8) as u8, bits as u8];
            out.extend_from_slice(&three[..3 - padding.min(2)]);
            (bits, digits) = (0, 0);
        }
    }
    match digits {
        0 => Ok(out),
        _ => invalid("invalid base64 end sequence"),
    }
}

/// A character encoding that text can be converted to.
enum Encoding {
    Utf8,
    Latin1,
}

impl Encoding {
    fn of(name: &str) -> Result<Self, SqlError> {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        match plain.as_str() {
            "utf8" | "unicode" | "sqlascii" => Ok(Self::Utf8),
            "latin1" | "iso88591" => Ok(Self::Latin1),
            _ => {
                Err(SqlError::unsupported(format!("encoding \"{name}\" is not supported")).hint("Use UTF8 or LATIN1."))
            }
        }
    }

    fn to(&self, text: &str) -> Bytes {
        match self {
            Self::Utf8 => Ok(text.as_bytes().to_vec()),
            Self::Latin1 => text
                .chars()
                .map(|c| {
                    u8::try_from(c).map_err(|_| {
                        let message = format!("character \"{c}\" has no equivalent in encoding \"LATIN1\"");
                        SqlError::new(SqlState::UNTRANSLATABLE_CHARACTER, message)
                    })
                })
                .collect(),
        }
    }

    fn from(&self, bytes: &[u8]) -> Result<String, SqlError> {
        let bad =
            || SqlError::new(SqlState::CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\"");
        match self {
            Self::Utf8 if bytes.contains(&0) => Err(bad()),
            Self::Utf8 => String::from_utf8(bytes.to_vec()).map_err(|_| bad()),
            Self::Latin1 => Ok(bytes.iter().map(|b| char::from(*b)).collect()),
        }
    }
}

/// `BYTEA` from its text.
pub(super) fn from_text(texts: &arrow::array::StringArray) -> Result<ArrayRef> {
    let one = |t: Option<&str>| t.map(read_bytea).transpose().map_err(super::define::user);
    let all = texts.iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(all.iter().map(|b| b.as_deref()).collect::<BinaryArray>()))
}

#[cfg(test)]
mod tests {
    use crate::session::testing::check_values;

    #[test]
    fn bytes_are_written_and_read_in_three_forms() {
        check_values(&[
            ("encode('\\x00ff41'::bytea, 'hex')", "00ff41"),
            ("encode('\\x00ff41', 'base64')", "AP9B"),
            ("encode('a', 'base64')", "YQ=="),
            ("encode('\\x00ff415c', 'escape')", "\\000\\377A\\\\"),
            ("decode('YWI=', 'base64')::text", "\\x6162"),
            ("decode('DE ad', 'hex')::text", "\\xdead"),
            ("decode('a\\000', 'escape')::text", "\\x6100"),
            ("length(encode(repeat('x', 100)::bytea, 'base64'))", "137"),
            ("decode('abc', 'hex')", "ERROR 22023"),
            ("decode('abc', 'base64')", "ERROR 22023"),
            ("'\\x0'::bytea", "ERROR 22023"),
            ("'a\\9'::bytea", "ERROR 22P02"),
            ("encode('a'::bytea, 'rot13')", "ERROR 22023"),
        ]);
    }

    #[test]
    fn text_is_converted_to_bytes_and_back() {
        check_values(&[
            ("convert_to('ü', 'UTF8')::text", "\\xc3bc"),
            ("convert_to('ü', 'latin1')::text", "\\xfc"),
            ("convert_from('\\xc3bc', 'utf-8')", "ü"),
            ("convert_from('\\xff', 'UTF8')", "ERROR 22021"),
            ("length('\\x0102'::bytea)", "2"),
            ("get_byte('\\x0102', 1)", "2"),
            ("get_byte('\\x0102', 2)", "ERROR 2202E"),
            ("set_byte('\\x0102', 1, 255)::text", "\\x01ff"),
            ("('\\x01'::bytea || '\\x02'::bytea)::text", "\\x0102"),
        ]);
    }
}
