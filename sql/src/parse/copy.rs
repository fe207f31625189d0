//! SUBSCRIBE and COPY.

use sqlparser::ast;
use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::query;
use crate::error::{Result, SqlError};
use crate::statement::{ObjectName, Statement, Subscribe, SubscribeTarget};

/// `SUBSCRIBE [TO] v | (select) [WITH (..)] [UP TO n]`, up to the cursor's end.
pub(crate) fn subscribe(c: &mut Cursor<'_>) -> Result<Subscribe> {
    c.expect(&["subscribe"])?;
    c.eat(&["to"]);
    let target = if c.is_token(&Token::LParen) {
        let close = c.closing(c.pos);
        c.pos += 1;
        let q = query::query(c, close)?;
        c.expect_token(&Token::RParen)?;
        SubscribeTarget::Query(q)
    } else if c.looking_at(&["select"]) || c.looking_at(&["with"]) || c.looking_at(&["values"]) {
        return Err(c.unexpected("a name or a query in parentheses").hint("Write SUBSCRIBE (SELECT ..)."));
    } else {
        SubscribeTarget::Relation(c.object_name()?)
    };
    let mut out = Subscribe { target, snapshot: true, progress: false, up_to: None };
    loop {
        if c.eat(&["with"]) {
            c.expect_token(&Token::LParen)?;
            loop {
                let snapshot = match c.eat_any(&["snapshot", "progress"]) {
                    Some(w) => w == "snapshot",
                    None => return Err(c.unexpected("SNAPSHOT or PROGRESS")),
                };
                let value = if c.eat_token(&Token::Eq) || !(c.is_token(&Token::Comma) || c.is_token(&Token::RParen)) {
                    boolean(c)?
                } else {
                    true
                };
                if snapshot {
                    out.snapshot = value;
                } else {
                    out.progress = value;
                }
                if !c.eat_token(&Token::Comma) {
                    break;
                }
            }
            c.expect_token(&Token::RParen)?;
        } else if c.eat(&["up", "to"]) {
            out.up_to = Some(c.unsigned("an epoch: a whole number")?);
        } else if c.looking_at(&["envelope"]) || c.looking_at(&["as", "of"]) || c.looking_at(&["within"]) {
            let word = c.src.token_text(c.pos).to_ascii_uppercase();
            return Err(SqlError::unsupported(format!("{word} of SUBSCRIBE is not supported"))
                .hint("Rows come as ms_epoch, ms_diff and the columns of the relation.")
                .at(c.position()));
        } else {
            break;
        }
    }
    c.expect_end()?;
    Ok(out)
}

/// `true`, `'on'`, `0` and so on.
pub(crate) fn boolean(c: &mut Cursor<'_>) -> Result<bool> {
    let text = match c.peek().map(|t| &t.token.token) {
        Some(Token::Word(w)) => w.value.to_ascii_lowercase(),
        Some(Token::Number(n, _)) => n.clone(),
        Some(Token::SingleQuotedString(s)) => s.to_ascii_lowercase(),
        _ => return Err(c.unexpected("true or false")),
    };
    let value = match text.as_str() {
        "true" | "on" | "1" | "yes" => true,
        "false" | "off" | "0" | "no" => false,
        _ => return Err(c.unexpected("true or false")),
    };
    c.pos += 1;
    Ok(value)
}

/// COPY, with the cursor on that word.
pub(crate) fn copy(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["copy"])?;
    if c.is_token(&Token::LParen) {
        let close = c.closing(c.pos);
        c.pos += 1;
        if c.looking_at(&["subscribe"]) {
            let mut inner = Cursor { end: close, ..c.clone() };
            let s = subscribe(&mut inner)?;
            c.pos = close;
            c.expect_token(&Token::RParen)?;
            to_stdout(c)?;
            let at = c.position();
            let f = format(c)?;
            if f.csv || f.header {
                return Err(SqlError::unsupported("COPY (SUBSCRIBE ..) writes text only")
                    .hint("Leave the format out.")
                    .at(at));
            }
            return Ok(Statement::CopySubscribe(s));
        }
        let query = query::query(c, close)?;
        c.expect_token(&Token::RParen)?;
        to_stdout(c)?;
        let f = format(c)?;
        return Ok(Statement::CopyOut { query, csv: f.csv, header: f.header });
    }
    let name_from = c.pos;
    let table = c.object_name()?;
    let name_text = c.src.slice(name_from, c.pos);
    let columns_from = c.pos;
    let columns = if c.is_token(&Token::LParen) { c.ident_list()? } else { Vec::new() };
    let columns_text = c.src.slice(columns_from, c.pos);
    if c.eat(&["from"]) {
        if !c.eat(&["stdin"]) {
            return Err(no_file(c, "STDIN"));
        }
        let f = format(c)?;
        return Ok(Statement::CopyIn { table, columns, csv: f.csv, header: f.header });
    }
    to_stdout(c)?;
    let f = format(c)?;
    let query = select_from(name_text, columns_text, &table)?;
    Ok(Statement::CopyOut { query, csv: f.csv, header: f.header })
}

/// The query that `COPY t [(cols)] TO` means.
fn select_from(name: &str, columns: &str, table: &ObjectName) -> Result<Box<ast::Query>> {
    let list = columns.trim().strip_prefix('(').and_then(|s| s.strip_suffix(')')).unwrap_or("*");
    super::parse_query(&format!("SELECT {list} FROM {name}"))
        .map_err(|e| SqlError::internal(format!("COPY of \"{table}\" has no query: {e}")))
}

fn no_file(c: &Cursor<'_>, want: &str) -> SqlError {
    if c.at_file() {
        return SqlError::unsupported("COPY with a file or program of the server is not supported")
            .hint(format!("Use {want}; psql's \\copy command works with files of the client."))
            .at(c.position());
    }
    c.unexpected(want)
}

fn to_stdout(c: &mut Cursor<'_>) -> Result<()> {
    if !c.eat(&["to"]) {
        return Err(c.unexpected("TO STDOUT"));
    }
    if c.eat(&["stdout"]) { Ok(()) } else { Err(no_file(c, "STDOUT")) }
}

#[derive(Default)]
struct Format {
    csv: bool,
    header: bool,
}

/// `[WITH] ( FORMAT csv, HEADER [true] )`, or the old `[WITH] CSV [HEADER]`.
fn format(c: &mut Cursor<'_>) -> Result<Format> {
    let mut out = Format::default();
    c.eat(&["with"]);
    if c.eat_token(&Token::LParen) {
        loop {
            if c.eat(&["format"]) {
                let at = c.position();
                let name = match c.eat_string() {
                    Some(s) => s.to_ascii_lowercase(),
                    None => c.ident("a format")?,
                };
                out.csv = match name.as_str() {
                    "csv" => true,
                    "text" => false,
                    "binary" => return Err(SqlError::unsupported("COPY in binary format is not supported").at(at)),
                    _ => {
                        return Err(SqlError::new(
                            crate::SqlState::INVALID_PARAMETER_VALUE,
                            format!("COPY format \"{name}\" not recognized"),
                        )
                        .at(at));
                    }
                };
            } else if c.eat(&["header"]) {
                out.header = if c.is_token(&Token::Comma) || c.is_token(&Token::RParen) { true } else { boolean(c)? };
            } else {
                return Err(no_copy_option(c));
            }
            if !c.eat_token(&Token::Comma) {
                break;
            }
        }
        c.expect_token(&Token::RParen)?;
    } else {
        while !c.at_end() {
            if c.eat(&["csv"]) {
                out.csv = true;
            } else if c.eat(&["header"]) {
                out.header = true;
            } else if !c.eat(&["text"]) {
                return Err(no_copy_option(c));
            }
        }
    }
    c.expect_end()?;
    Ok(out)
}

fn no_copy_option(c: &Cursor<'_>) -> SqlError {
    let known = ["delimiter", "null", "quote", "escape", "encoding", "force_quote", "freeze", "default", "on_error"];
    if let Some(w) = known.iter().find(|w| c.looking_at(&[w])) {
        return SqlError::unsupported(format!("COPY option {} is not supported", w.to_ascii_uppercase()))
            .hint("Supported are FORMAT text or csv, and HEADER.")
            .at(c.position());
    }
    c.unexpected("FORMAT or HEADER")
}
