//! CREATE and DROP.

use sqlparser::tokenizer::Token;

use super::columns::{self, Columns};
use super::cursor::Cursor;
use super::{alter, options, query, unsupported};
use crate::error::{Result, SqlError};
use crate::statement::{CreateStream, CreateTable, CreateView, ObjectKind, Statement};

/// CREATE, with the cursor on that word.
pub(crate) fn create(c: &mut Cursor<'_>) -> Result<Statement> {
    let at = c.position();
    c.expect(&["create"])?;
    let or_replace = c.eat(&["or", "replace"]);
    if c.eat_any(&["temporary", "temp"]).is_some() {
        return Err(SqlError::unsupported("temporary objects are not supported")
            .hint("Create it without TEMPORARY and drop it when done, or use WITH in the query.")
            .at(at));
    }
    if c.eat_any(&["stream", "source"]).is_some() {
        return stream(c, or_replace);
    }
    if c.eat(&["table"]) {
        if or_replace {
            return Err(SqlError::unsupported("CREATE OR REPLACE TABLE is not supported")
                .hint("DROP TABLE first, or use CREATE TABLE IF NOT EXISTS.")
                .at(at));
        }
        return table(c);
    }
    if c.eat(&["materialized"]) {
        c.expect(&["view"])?;
        return view(c, or_replace, true);
    }
    if c.eat(&["view"]) {
        return view(c, or_replace, false);
    }
    if !or_replace && c.eat(&["index"]) {
        return alter::create_index(c);
    }
    if let Some(e) = unsupported::create(c) {
        return Err(e.at(at));
    }
    Err(c.unexpected("STREAM, SOURCE, TABLE, VIEW, MATERIALIZED VIEW or INDEX"))
}

pub(crate) fn if_not_exists(c: &mut Cursor<'_>) -> Result<bool> {
    if c.eat(&["if"]) {
        c.expect(&["not", "exists"])?;
        return Ok(true);
    }
    Ok(false)
}

fn stream(c: &mut Cursor<'_>, or_replace: bool) -> Result<Statement> {
    let if_not_exists = if_not_exists(c)?;
    let name = c.object_name()?;
    let list = if c.is_token(&Token::LParen) { columns::column_list(c, "stream")? } else { Columns::default() };
    Ok(Statement::CreateStream(rest_of_stream(c, name, if_not_exists, or_replace, list)?))
}

fn rest_of_stream(
    c: &mut Cursor<'_>,
    name: crate::statement::ObjectName,
    if_not_exists: bool,
    or_replace: bool,
    mut list: Columns,
) -> Result<CreateStream> {
    columns::include(c, &mut list)?;
    let mut options = options::with_options(c)?;
    if c.looking_at(&["as"]) {
        return Err(SqlError::unsupported("CREATE STREAM .. AS SELECT is not supported")
            .hint("Use CREATE MATERIALIZED VIEW, or CREATE VIEW if nothing is to be kept.")
            .at(c.position()));
    }
    columns::include(c, &mut list)?;
    options::format_encode(c, &mut options)?;
    if !c.at_end() {
        return Err(c.unexpected("INCLUDE, WITH, FORMAT or the end of the statement"));
    }
    let Columns { columns, primary_key, watermark } = list;
    Ok(CreateStream { name, if_not_exists, or_replace, columns, primary_key, watermark, options })
}

fn table(c: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = if_not_exists(c)?;
    let name = c.object_name()?;
    if c.looking_at(&["as"]) {
        return Err(SqlError::unsupported("CREATE TABLE .. AS SELECT is not supported")
            .hint("Use CREATE MATERIALIZED VIEW, or CREATE TABLE and INSERT .. SELECT.")
            .at(c.position()));
    }
    if !c.is_token(&Token::LParen) {
        return Err(c.unexpected("\"(\" and the columns of the table"));
    }
    let list_at = c.position();
    let list = columns::column_list(c, "table")?;
    for words in
        [&["append", "only"][..], &["on", "conflict"], &["partitioned", "by"], &["partition", "by"], &["inherits"]]
    {
        if c.looking_at(words) {
            let what = words.join(" ").to_ascii_uppercase();
            return Err(SqlError::unsupported(format!("{what} of a table is not supported")).at(c.position()));
        }
    }
    let stream = rest_of_stream(c, name, if_not_exists, false, list)?;
    if stream.options.contains_key("connector") {
        return Ok(Statement::CreateStream(stream));
    }
    if stream.columns.is_empty() {
        return Err(SqlError::unsupported("a table without columns is not supported")
            .hint("Columns are inferred for streams with a connector only.")
            .at(list_at));
    }
    if stream.watermark.is_some() {
        return Err(SqlError::unsupported("a watermark on a table is not supported")
            .hint("Use CREATE STREAM for rows in event-time order.")
            .at(list_at));
    }
    if let Some(m) = stream.columns.iter().find(|x| x.metadata.is_some()) {
        let message = format!("column \"{}\" of a table without a connector cannot have metadata", m.name);
        return Err(SqlError::unsupported(message).at(list_at));
    }
    let CreateStream { name, if_not_exists, columns, primary_key, options, .. } = stream;
    Ok(Statement::CreateTable(CreateTable { name, if_not_exists, columns, primary_key, options }))
}

fn view(c: &mut Cursor<'_>, or_replace: bool, materialized: bool) -> Result<Statement> {
    let if_not_exists = if_not_exists(c)?;
    let name = c.object_name()?;
    let columns = if c.is_token(&Token::LParen) { c.ident_list()? } else { Vec::new() };
    let options = options::with_options(c)?;
    c.expect(&["as"])?;
    let from = c.pos;
    let emit_at = query::find_emit(c);
    // A closing bracket that nothing opened: sqlparser reports it as what it is.
    let has_emit = c.src.tokens.get(emit_at).is_some_and(|t| t.is_word("emit"));
    let to = if has_emit { emit_at } else { c.end };
    let mut without_data = None;
    let mut end = to;
    for (words, ok) in [(&["with", "no", "data"][..], false), (&["with", "data"][..], true)] {
        let tail = Cursor { pos: to.saturating_sub(words.len()), ..c.clone() };
        if to > from + words.len() && tail.looking_at(words) {
            end = tail.pos;
            without_data = (!ok).then(|| tail.position());
            break;
        }
    }
    if let Some(at) = without_data {
        return Err(SqlError::unsupported("WITH NO DATA is not supported").hint("Views are always filled.").at(at));
    }
    let query = query::query(c, end)?;
    let query_text = c.src.slice(from, end).to_string();
    c.pos = to;
    let emit_position = c.position();
    let emit = if has_emit { Some(query::emit(c)?) } else { None };
    if emit.is_some() && !materialized {
        return Err(SqlError::unsupported("EMIT on a view that is not materialized is not supported")
            .hint("Use CREATE MATERIALIZED VIEW.")
            .at(emit_position));
    }
    c.pos = c.end;
    Ok(Statement::CreateView(CreateView {
        name,
        materialized,
        or_replace,
        if_not_exists,
        columns,
        options,
        query,
        query_text,
        emit,
    }))
}

/// The kind of object named at the cursor, singular.
pub(crate) fn kind(c: &mut Cursor<'_>) -> Option<ObjectKind> {
    if c.eat(&["materialized", "view"]) {
        return Some(ObjectKind::MaterializedView);
    }
    Some(match c.eat_any(&["stream", "source", "table", "view"])? {
        "table" => ObjectKind::Table,
        "view" => ObjectKind::View,
        _ => ObjectKind::Stream,
    })
}

/// DROP, with the cursor on that word.
pub(crate) fn drop(c: &mut Cursor<'_>) -> Result<Statement> {
    let at = c.position();
    c.expect(&["drop"])?;
    if c.eat(&["index"]) {
        return alter::drop_index(c);
    }
    let Some(kind) = kind(c) else {
        if let Some(e) = unsupported::drop(c) {
            return Err(e.at(at));
        }
        return Err(c.unexpected("STREAM, SOURCE, TABLE, VIEW or MATERIALIZED VIEW"));
    };
    let if_exists = if c.eat(&["if"]) {
        c.expect(&["exists"])?;
        true
    } else {
        false
    };
    let mut names = vec![c.object_name()?];
    while c.eat_token(&Token::Comma) {
        names.push(c.object_name()?);
    }
    let cascade = c.eat(&["cascade"]);
    if !cascade {
        c.eat(&["restrict"]);
    }
    c.expect_end()?;
    Ok(Statement::Drop { kind, if_exists, names, cascade })
}
