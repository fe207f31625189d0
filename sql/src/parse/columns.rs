//! The column list of CREATE STREAM and CREATE TABLE.

use sqlparser::ast;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, duplicate_column};
use crate::error::{Result, SqlError, SqlState};
use crate::statement::{ColumnDef, WatermarkDef};
use crate::types;

/// Metadata of a record, with its SQL type.
const METADATA: &[(&str, Meta)] = &[
    ("key", Meta::Bytes),
    ("partition", Meta::Int),
    ("offset", Meta::BigInt),
    ("timestamp", Meta::Time),
    ("headers", Meta::Headers),
    ("file", Meta::Text),
];

#[derive(Clone, Copy)]
enum Meta {
    Bytes,
    Int,
    BigInt,
    Time,
    Headers,
    Text,
}

impl Meta {
    fn data_type(self) -> arrow::datatypes::DataType {
        use arrow::datatypes::DataType as D;
        match self {
            Self::Bytes => D::Binary,
            Self::Int => D::Int32,
            Self::BigInt => D::Int64,
            Self::Time => types::timestamptz(),
            Self::Headers | Self::Text => D::Utf8View,
        }
    }
}

/// What a column list says.
#[derive(Default)]
pub(crate) struct Columns {
    pub columns: Vec<ColumnDef>,
    pub primary_key: Vec<String>,
    pub watermark: Option<WatermarkDef>,
}

/// `( col type .., PRIMARY KEY (..), WATERMARK FOR c [AS e] | * )`.
pub(crate) fn column_list(c: &mut Cursor<'_>, what: &str) -> Result<Columns> {
    let mut out = Columns::default();
    c.expect_token(&Token::LParen)?;
    let mut key_at = None;
    let mut watermark_at = 0;
    loop {
        let at = c.position();
        if c.eat_token(&Token::Mul) {
            if !out.columns.is_empty() {
                return Err(SqlError::unsupported("* together with columns is not supported")
                    .hint("Name all columns, or write (*) alone to infer them.")
                    .at(at));
            }
            if !c.is_token(&Token::RParen) && !c.is_token(&Token::Comma) {
                return Err(c.unexpected("\")\""));
            }
        } else if is_table_constraint(c) {
            if c.eat(&["constraint"]) {
                c.ident("a constraint name")?;
            }
            if c.eat(&["primary", "key"]) {
                one_key(&out, at)?;
                key_at = Some(c.position());
                out.primary_key = c.ident_list()?;
                not_enforced(c)?;
            } else {
                return Err(no_constraint(c));
            }
        } else if c.looking_at(&["watermark", "for"]) {
            c.pos += 2;
            if out.watermark.is_some() {
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, "only one watermark per stream is allowed").at(at));
            }
            watermark_at = c.position();
            let ident_token = c.pos;
            let column = c.ident("a column name")?;
            let expr = if c.eat(&["as"]) {
                expression(c, |_, t| t.token.token == Token::Comma)?
            } else {
                Cursor { pos: ident_token, ..c.clone() }.sqlparser(ident_token + 1, |p| p.parse_expr())?
            };
            out.watermark = Some(WatermarkDef { column, expr });
        } else {
            column(c, &mut out, &mut key_at, what)?;
        }
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    if !out.columns.is_empty() {
        for k in &out.primary_key {
            let Some(column) = out.columns.iter_mut().find(|x| x.name == *k) else {
                let message = format!("column \"{k}\" named in key does not exist");
                return Err(SqlError::new(SqlState::UNDEFINED_COLUMN, message).at(key_at.unwrap_or(1)));
            };
            column.nullable = false;
        }
        if let Some(w) = &out.watermark
            && !out.columns.iter().any(|x| x.name == w.column)
        {
            let message = format!("column \"{}\" of the watermark does not exist", w.column);
            return Err(SqlError::new(SqlState::UNDEFINED_COLUMN, message).at(watermark_at));
        }
    }
    Ok(out)
}

fn is_table_constraint(c: &Cursor<'_>) -> bool {
    c.looking_at(&["primary", "key"])
        || c.looking_at(&["constraint"])
        || c.looking_at(&["foreign", "key"])
        || [&["unique"], &["check"], &["exclude"]]
            .iter()
            .any(|w| c.looking_at(*w) && c.nth(1).is_some_and(|t| t.token.token == Token::LParen))
}

fn one_key(out: &Columns, at: usize) -> Result<()> {
    if out.primary_key.is_empty() {
        return Ok(());
    }
    // 42P16 in Postgres.
    Err(SqlError::new(SqlState::INVALID_TABLE_DEFINITION, "multiple primary keys are not allowed").at(at))
}

fn not_enforced(c: &mut Cursor<'_>) -> Result<()> {
    if c.eat(&["not", "enforced"]) || c.eat(&["enforced"]) {
        return Ok(());
    }
    Ok(())
}

fn no_constraint(c: &Cursor<'_>) -> SqlError {
    let word = c.src.token_text(c.pos).to_ascii_uppercase();
    SqlError::unsupported(format!("{word} constraints are not supported"))
        .hint("Supported are NOT NULL and PRIMARY KEY. Filter in a view for the rest.")
        .at(c.position())
}

fn column(c: &mut Cursor<'_>, out: &mut Columns, key_at: &mut Option<usize>, what: &str) -> Result<()> {
    let at = c.position();
    let name = c.ident("a column name")?;
    if out.columns.iter().any(|x| x.name == name) {
        return Err(duplicate_column(&name, at));
    }
    // `p AS PROCTIME()`, as Flink has it: the clock has its type.
    let of_clock = c.looking_at(&["as", "proctime"]);
    if c.looking_at(&["as"]) && !of_clock {
        return Err(c.unexpected("a type").hint("A computed column needs its type: col type AS expression."));
    }
    let data_type = if of_clock { types::timestamptz() } else { types::data_type(c)? };
    let mut def = ColumnDef { name, data_type, nullable: true, default: None, generated: None, metadata: None };
    loop {
        let at = c.position();
        if c.eat(&["not", "null"]) {
            def.nullable = false;
        } else if c.eat(&["null"]) {
        } else if c.eat(&["primary", "key"]) {
            one_key(out, at)?;
            *key_at = Some(at);
            out.primary_key = vec![def.name.clone()];
            def.nullable = false;
            not_enforced(c)?;
        } else if c.eat(&["default"]) {
            once(def.default.is_none() && def.generated.is_none(), "DEFAULT", at)?;
            def.default = Some(expression(c, ends_default)?);
        } else if c.eat(&["as"]) || c.eat(&["generated", "always", "as"]) {
            once(def.default.is_none() && def.generated.is_none() && def.metadata.is_none(), "AS", at)?;
            if c.looking_at(&["identity"]) {
                return Err(SqlError::unsupported("identity columns are not supported").at(c.position()));
            }
            def.generated = Some(expression(c, |i, t| t.token.token == Token::Comma || ends_generated(i, t))?);
            let _ = c.eat(&["stored"]) || c.eat(&["virtual"]);
        } else if c.eat(&["metadata"]) {
            once(def.metadata.is_none() && def.generated.is_none(), "METADATA", at)?;
            let key_at = c.position();
            let key = if c.eat(&["from"]) { c.string("a quoted metadata key")? } else { def.name.clone() };
            c.eat(&["virtual"]);
            def.metadata = Some(metadata_key(&key, key_at)?);
        } else if c.eat(&["constraint"]) {
            c.ident("a constraint name")?;
        } else if let Some(w) =
            ["unique", "check", "references", "collate", "generated"].iter().find(|w| c.looking_at(&[w]))
        {
            return Err(SqlError::unsupported(format!("{} in a column is not supported", w.to_ascii_uppercase()))
                .hint("Supported are NOT NULL, PRIMARY KEY, DEFAULT, AS and METADATA.")
                .at(at));
        } else {
            break;
        }
    }
    if !c.is_token(&Token::Comma) && !c.is_token(&Token::RParen) {
        return Err(c.unexpected(&format!("\",\" or \")\" in the columns of the {what}")));
    }
    out.columns.push(def);
    Ok(())
}

fn once(first: bool, word: &str, at: usize) -> Result<()> {
    if first {
        return Ok(());
    }
    Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("{word} conflicts with another clause of the column")).at(at))
}

fn metadata_key(key: &str, at: usize) -> Result<String> {
    let lower = key.to_ascii_lowercase();
    if METADATA.iter().any(|(k, _)| *k == lower) {
        return Ok(lower);
    }
    Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("unknown metadata \"{key}\""))
        .hint("Metadata are key, partition, offset, timestamp, headers and file.")
        .at(at))
}

/// What may follow a DEFAULT expression.
fn ends_default(_: usize, t: &super::lexer::Tok) -> bool {
    t.token.token == Token::Comma
        || matches!(t.keyword(), Keyword::PRIMARY | Keyword::UNIQUE | Keyword::CHECK | Keyword::REFERENCES)
        || matches!(t.keyword(), Keyword::NOT | Keyword::CONSTRAINT)
        || t.is_word("metadata")
}

fn ends_generated(_: usize, t: &super::lexer::Tok) -> bool {
    matches!(t.keyword(), Keyword::PRIMARY | Keyword::STORED | Keyword::VIRTUAL)
}

/// An expression up to a stop or the closing bracket.
fn expression(c: &mut Cursor<'_>, stop: impl FnMut(usize, &super::lexer::Tok) -> bool) -> Result<ast::Expr> {
    let mut to = c.find(stop);
    // `.. NOT NULL` ends the expression of AS too, but `.. IS NOT NULL` belongs to it.
    if to >= c.pos + 3
        && c.src.tokens[to - 1].is_word("null")
        && c.src.tokens[to - 2].is_word("not")
        && !c.src.tokens[to - 3].is_word("is")
    {
        to -= 2;
    }
    c.sqlparser(to, |p| p.parse_expr())
}

/// `INCLUDE key [AS name] [, INCLUDE? ..]`.
pub(crate) fn include(c: &mut Cursor<'_>, out: &mut Columns) -> Result<()> {
    while c.eat(&["include"]) {
        loop {
            let at = c.position();
            let key = match c.eat_any(&["header", "headers"]) {
                Some(_) => "headers".to_string(),
                None => metadata_key(&c.ident("KEY, OFFSET, PARTITION, TIMESTAMP or HEADERS")?, at)?,
            };
            let name_at = if c.eat(&["as"]) { Some(c.position()) } else { None };
            let name = match name_at {
                Some(_) => c.ident("a column name")?,
                None => format!("_{key}"),
            };
            if out.columns.iter().any(|x| x.name == name) {
                return Err(duplicate_column(&name, name_at.unwrap_or(at)));
            }
            let data_type = METADATA
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, m)| m.data_type())
                .ok_or_else(|| SqlError::internal("metadata without a type"))?;
            let metadata = Some(key);
            out.columns.push(ColumnDef { name, data_type, nullable: true, default: None, generated: None, metadata });
            if !c.eat_token(&Token::Comma) {
                break;
            }
            c.eat(&["include"]);
        }
    }
    Ok(())
}
