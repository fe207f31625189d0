//! SQL type names to Arrow types, and back to the names Postgres shows.
//!
//! There is one text type, `Utf8View`, one timestamp precision, microseconds, and one time zone, UTC.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use sqlparser::tokenizer::Token;

use crate::error::{Result, SqlError, SqlState};
use crate::parse::cursor::{Cursor, edit_distance};

/// Precision and scale of NUMERIC without any.
pub const NUMERIC_DEFAULT: (u8, i8) = (38, 10);
/// Digits a NUMERIC can have.
pub const NUMERIC_PRECISION_MAX: u64 = 76;
/// Depth of ARRAY, STRUCT and MAP inside of each other.
const TYPE_DEPTH_MAX: usize = 16;

/// TIMESTAMP.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// TIMESTAMPTZ.
pub fn timestamptz() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

/// An array of this element type.
pub fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

/// A type given as text, for example in an API call.
pub fn parse_type(text: &str) -> Result<DataType> {
    let dialect = crate::parse::dialect::MillstreamDialect::new(0);
    let src = crate::parse::lexer::Source::new(&dialect, text)?;
    let mut cursor = Cursor::new(&src);
    let t = data_type(&mut cursor)?;
    cursor.expect_end()?;
    Ok(t)
}

/// Parses a type at the cursor.
pub(crate) fn data_type(c: &mut Cursor<'_>) -> Result<DataType> {
    nested(c, 0)
}

fn nested(c: &mut Cursor<'_>, depth: usize) -> Result<DataType> {
    if depth > TYPE_DEPTH_MAX {
        let message = format!("type is nested deeper than {TYPE_DEPTH_MAX} levels");
        return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, message).at(c.position()));
    }
    let mut t = base(c, depth)?;
    let mut dims = depth;
    loop {
        if c.eat_token(&Token::LBracket) {
            if matches!(c.peek().map(|t| &t.token.token), Some(Token::Number(..))) {
                c.pos += 1;
            }
            c.expect_token(&Token::RBracket)?;
        } else if !c.eat(&["array"]) {
            return Ok(t);
        }
        dims += 1;
        if dims > TYPE_DEPTH_MAX {
            let message = format!("type is nested deeper than {TYPE_DEPTH_MAX} levels");
            return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, message).at(c.position()));
        }
        t = list_of(t);
    }
}

fn base(c: &mut Cursor<'_>, depth: usize) -> Result<DataType> {
    let at = c.position();
    let Some(Token::Word(w)) = c.peek().map(|t| &t.token.token) else { return Err(c.unexpected("a type")) };
    let name = w.value.to_ascii_lowercase();
    c.pos += 1;
    if name == "pg_catalog" && c.eat_token(&Token::Period) {
        return base(c, depth);
    }
    let t = match name.as_str() {
        "smallint" | "int2" | "int16" => DataType::Int16,
        "tinyint" | "int1" => DataType::Int8,
        "int" | "integer" | "int4" | "int32" => unsigned(c, DataType::Int32, DataType::UInt32),
        "bigint" | "int8" | "int64" => unsigned(c, DataType::Int64, DataType::UInt64),
        // No UINT8: in the line of INT8 it would have eight bytes, elsewhere it has eight bits.
        "utinyint" => DataType::UInt8,
        "usmallint" | "uint16" => DataType::UInt16,
        "uint32" | "uinteger" => DataType::UInt32,
        "uint64" | "ubigint" => DataType::UInt64,
        "serial" | "bigserial" | "smallserial" | "serial4" | "serial8" => {
            return Err(SqlError::unsupported(format!("type {name} is not supported"))
                .hint("Use BIGINT and give the value yourself.")
                .at(at));
        }
        "real" | "float4" | "float32" => DataType::Float32,
        "double" => {
            c.eat(&["precision"]);
            DataType::Float64
        }
        "float8" | "float64" => DataType::Float64,
        "float" => match modifiers(c, 1)?.first() {
            None => DataType::Float64,
            Some(p) if (1..=24).contains(p) => DataType::Float32,
            Some(p) if (25..=53).contains(p) => DataType::Float64,
            Some(_) => return Err(bad("precision for type float must be between 1 and 53", at)),
        },
        "numeric" | "decimal" | "dec" => decimal(&modifiers(c, 2)?, at)?,
        "text" | "string" | "json" | "jsonb" | "uuid" | "name" | "citext" => DataType::Utf8View,
        "varchar" | "char" | "bpchar" | "nvarchar" | "nchar" => {
            c.eat(&["varying"]);
            length(c, at)?;
            DataType::Utf8View
        }
        "character" => {
            c.eat(&["varying"]);
            length(c, at)?;
            DataType::Utf8View
        }
        "bytea" | "bytes" | "blob" => DataType::Binary,
        "binary" | "varbinary" => {
            length(c, at)?;
            DataType::Binary
        }
        "bool" | "boolean" => DataType::Boolean,
        "date" => DataType::Date32,
        "time" => {
            precision(c, at)?;
            if c.eat(&["with", "time", "zone"]) {
                return Err(no_timetz(at));
            }
            c.eat(&["without", "time", "zone"]);
            DataType::Time64(TimeUnit::Microsecond)
        }
        "timetz" => return Err(no_timetz(at)),
        "timestamp" | "datetime" => {
            precision(c, at)?;
            if c.eat(&["with", "time", "zone"]) || c.eat(&["with", "local", "time", "zone"]) {
                timestamptz()
            } else {
                c.eat(&["without", "time", "zone"]);
                timestamp()
            }
        }
        "timestamptz" | "timestamp_ltz" => {
            precision(c, at)?;
            timestamptz()
        }
        "timestamp_ntz" => {
            precision(c, at)?;
            timestamp()
        }
        "interval" => {
            let unit = ["year", "month", "day", "hour", "minute", "second"];
            if c.eat_any(&unit).is_some() && c.eat(&["to"]) && c.eat_any(&unit).is_none() {
                return Err(c.unexpected("an interval field"));
            }
            precision(c, at)?;
            DataType::Interval(IntervalUnit::MonthDayNano)
        }
        "array" => {
            let close = open(c)?;
            let element = nested(c, depth + 1)?;
            close.take(c)?;
            list_of(element)
        }
        "map" => {
            let close = open(c)?;
            let key = nested(c, depth + 1)?;
            c.expect_token(&Token::Comma)?;
            let value = nested(c, depth + 1)?;
            close.take(c)?;
            let entries = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
            DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
        }
        "struct" | "row" => {
            let close = open(c)?;
            let mut fields: Vec<Field> = Vec::new();
            loop {
                let field_at = c.position();
                let field = c.ident("a field name")?;
                if fields.iter().any(|f| *f.name() == field) {
                    return Err(crate::parse::cursor::duplicate_column(&field, field_at));
                }
                c.eat_token(&Token::Colon);
                let t = nested(c, depth + 1)?;
                let nullable = !c.eat(&["not", "null"]);
                fields.push(Field::new(field, t, nullable));
                if !c.eat_token(&Token::Comma) {
                    break;
                }
            }
            close.take(c)?;
            DataType::Struct(fields.into())
        }
        _ => {
            c.pos -= 1;
            return Err(unknown(&name, at));
        }
    };
    Ok(t)
}

fn unsigned(c: &mut Cursor<'_>, signed: DataType, unsigned: DataType) -> DataType {
    if c.eat(&["unsigned"]) { unsigned } else { signed }
}

/// `<` or `(` and what closes it.
struct Close(Token);

fn open(c: &mut Cursor<'_>) -> Result<Close> {
    if c.eat_token(&Token::LParen) {
        return Ok(Close(Token::RParen));
    }
    if c.eat_token(&Token::Lt) {
        return Ok(Close(Token::Gt));
    }
    Err(c.unexpected("\"<\""))
}

impl Close {
    fn take(self, c: &mut Cursor<'_>) -> Result<()> {
        // `>>` closes two levels: one of its characters is ours, the others wait for the outer levels.
        let text = c.src.token_text(c.pos);
        if self.0 == Token::Gt && !c.at_end() && !text.is_empty() && text.chars().all(|x| x == '>') {
            c.closed += 1;
            if c.closed == text.len() {
                c.closed = 0;
                c.pos += 1;
            }
            return Ok(());
        }
        c.expect_token(&self.0)
    }
}

/// `(a [, b])`.
fn modifiers(c: &mut Cursor<'_>, max: usize) -> Result<Vec<i64>> {
    let mut out = Vec::new();
    if !c.eat_token(&Token::LParen) {
        return Ok(out);
    }
    loop {
        let negative = c.eat_token(&Token::Minus);
        let v = i64::try_from(c.unsigned("a number")?).unwrap_or(i64::MAX);
        out.push(if negative { -v } else { v });
        if out.len() == max || !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    Ok(out)
}

fn decimal(m: &[i64], at: usize) -> Result<DataType> {
    let (precision, scale) = match m {
        [] => return Ok(DataType::Decimal128(NUMERIC_DEFAULT.0, NUMERIC_DEFAULT.1)),
        [p] => (*p, 0),
        [p, s, ..] => (*p, *s),
    };
    if precision < 1 || precision > NUMERIC_PRECISION_MAX as i64 {
        return Err(bad(&format!("NUMERIC precision {precision} must be between 1 and {NUMERIC_PRECISION_MAX}"), at));
    }
    if scale < 0 || scale > precision {
        return Err(bad(&format!("NUMERIC scale {scale} must be between 0 and the precision {precision}"), at));
    }
    let (p, s) = (precision as u8, scale as i8);
    Ok(if precision <= 38 { DataType::Decimal128(p, s) } else { DataType::Decimal256(p, s) })
}

/// The length of a character type is checked and then not kept: text is not cut.
fn length(c: &mut Cursor<'_>, at: usize) -> Result<()> {
    match modifiers(c, 1)?.first() {
        Some(n) if *n < 1 => Err(bad("length of a character type must be at least 1", at)),
        _ => Ok(()),
    }
}

fn precision(c: &mut Cursor<'_>, at: usize) -> Result<()> {
    match modifiers(c, 1)?.first() {
        Some(p) if !(0..=9).contains(p) => Err(bad("precision of a time must be between 0 and 9", at)),
        _ => Ok(()),
    }
}

fn bad(message: &str, at: usize) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message).at(at)
}

fn no_timetz(at: usize) -> SqlError {
    SqlError::unsupported("type time with time zone is not supported").hint("Use TIMESTAMPTZ or TIME.").at(at)
}

fn unknown(name: &str, at: usize) -> SqlError {
    const NAMES: &[&str] = &[
        "smallint",
        "integer",
        "bigint",
        "real",
        "double",
        "numeric",
        "decimal",
        "text",
        "varchar",
        "string",
        "bytea",
        "boolean",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "interval",
        "array",
        "struct",
        "jsonb",
        "json",
        "uuid",
        "float",
        "map",
    ];
    let e = SqlError::new(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist")).at(at);
    match NAMES.iter().map(|n| (edit_distance(name, n), n)).filter(|(d, _)| *d <= 2).min() {
        Some((_, n)) => e.hint(format!("Did you mean {}?", n.to_ascii_uppercase())),
        None => e,
    }
}

/// The name Postgres shows for a type; unsigned and nested types, which it does not have, as we write them.
pub fn display_name(t: &DataType) -> String {
    match t {
        DataType::Null => "unknown".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 => "smallint".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "bigint".into(),
        DataType::UInt8 => "utinyint".into(),
        DataType::UInt16 => "usmallint".into(),
        DataType::UInt32 => "uinteger".into(),
        DataType::UInt64 => "ubigint".into(),
        DataType::Float16 | DataType::Float32 => "real".into(),
        DataType::Float64 => "double precision".into(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("numeric({p},{s})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "bytea".into()
        }
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone".into(),
        DataType::Timestamp(_, None) => "timestamp without time zone".into(),
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone".into(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".into(),
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::FixedSizeList(f, _)
        | DataType::ListView(f)
        | DataType::LargeListView(f) => format!("{}[]", display_name(f.data_type())),
        DataType::Struct(fields) => {
            let inner: Vec<_> =
                fields.iter().map(|f| format!("{} {}", f.name(), display_name(f.data_type()))).collect();
            format!("struct<{}>", inner.join(", "))
        }
        DataType::Map(f, _) => match f.data_type() {
            DataType::Struct(kv) if kv.len() == 2 => {
                format!("map<{}, {}>", display_name(kv[0].data_type()), display_name(kv[1].data_type()))
            }
            other => format!("map<{}>", display_name(other)),
        },
        DataType::Dictionary(_, value) => display_name(value),
        DataType::RunEndEncoded(_, value) => display_name(value.data_type()),
        DataType::Union(..) => "union".into(),
    }
}
