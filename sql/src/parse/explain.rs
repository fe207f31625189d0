//! EXPLAIN.

use sqlparser::tokenizer::Token;

use super::create::kind;
use super::cursor::Cursor;
use super::statements;
use crate::error::{Result, SqlError};
use crate::statement::{ExplainMode, Statement};

/// Options of Postgres that only change what numbers are shown.
const IGNORED: &[&str] = &["verbose", "costs", "buffers", "timing", "summary", "settings", "wal", "memory"];

/// EXPLAIN, with the cursor on that word.
pub(crate) fn explain(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["explain"])?;
    let mut mode = ExplainMode::Incremental;
    // `EXPLAIN (SELECT ..)` is a query in parentheses.
    let is_query = c
        .nth(1)
        .is_some_and(|t| t.token.token == Token::LParen || ["select", "with", "values"].iter().any(|w| t.is_word(w)));
    if c.is_token(&Token::LParen) && !is_query {
        c.pos += 1;
        loop {
            option(c, &mut mode)?;
            if !c.eat_token(&Token::Comma) {
                break;
            }
        }
        c.expect_token(&Token::RParen)?;
    }
    loop {
        if c.eat(&["analyze"]) {
            mode = ExplainMode::Analyze;
        } else if c.looking_at(&["stall"]) && c.nth(1).is_some() {
            // A view may have this name.
            c.pos += 1;
            mode = ExplainMode::Stall;
        } else if !c.eat(&["verbose"]) {
            break;
        }
    }
    let at = c.position();
    // A bare name, with or without its kind, is a view.
    let mut named = c.clone();
    kind(&mut named);
    let starts_statement = ["select", "with", "values", "insert", "update", "delete", "create", "table"]
        .iter()
        .any(|w| c.looking_at(&[w]));
    if !starts_statement
        && let Ok(name) = named.object_name()
        && named.at_end()
    {
        c.pos = c.end;
        return Ok(Statement::Explain { mode, statement: Box::new(Statement::Empty), target: Some(name) });
    }
    let statement = match () {
        () if starts_statement || c.is_token(&Token::LParen) => statements::statement(c)?,
        () => return Err(c.unexpected("a query, CREATE MATERIALIZED VIEW or the name of a view")),
    };
    match statement {
        Statement::Query(_) | Statement::CreateView(_) => {}
        _ => {
            return Err(SqlError::unsupported("EXPLAIN of this statement is not supported")
                .hint("Explain a query or a CREATE MATERIALIZED VIEW.")
                .at(at));
        }
    }
    Ok(Statement::Explain { mode, statement: Box::new(statement), target: None })
}

fn option(c: &mut Cursor<'_>, mode: &mut ExplainMode) -> Result<()> {
    let modes = [
        ("incremental", ExplainMode::Incremental),
        ("logical", ExplainMode::Logical),
        ("physical", ExplainMode::Physical),
        ("state", ExplainMode::State),
        ("analyze", ExplainMode::Analyze),
    ];
    if let Some((_, m)) = modes.iter().find(|(w, _)| c.looking_at(&[w])) {
        c.pos += 1;
        if flag(c)? {
            *mode = *m;
        }
    } else if IGNORED.iter().any(|w| c.looking_at(&[w])) {
        c.pos += 1;
        flag(c)?;
    } else if c.eat(&["format"]) {
        let at = c.position();
        c.eat_token(&Token::Eq);
        let f = c.ident("a format")?;
        if f != "text" {
            return Err(SqlError::unsupported(format!("EXPLAIN format {f} is not supported")).hint("Use text.").at(at));
        }
    } else {
        return Err(c.unexpected("LOGICAL, PHYSICAL, STATE, ANALYZE or VERBOSE"));
    }
    Ok(())
}

fn flag(c: &mut Cursor<'_>) -> Result<bool> {
    if c.is_token(&Token::Comma) || c.is_token(&Token::RParen) { Ok(true) } else { super::copy::boolean(c) }
}
