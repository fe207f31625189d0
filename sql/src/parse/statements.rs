//! One statement, by its first word.

use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use super::{alter, copy, create, explain, query, show, unsupported};
use crate::error::{Result, SqlError};
use crate::statement::Statement;

/// Parses the statement at the cursor to its end.
pub(crate) fn statement(c: &mut Cursor<'_>) -> Result<Statement> {
    let Some(first) = c.peek() else { return Ok(Statement::Empty) };
    if first.token.token == Token::LParen {
        return query::query_statement(c);
    }
    let word = match &first.token.token {
        Token::Word(w) if w.quote_style.is_none() => w.value.to_ascii_lowercase(),
        _ => return Err(c.unexpected("a statement")),
    };
    match word.as_str() {
        "select" | "with" | "values" => query::query_statement(c),
        "table" => table(c),
        "insert" | "update" | "delete" => query::dml(c),
        "create" => create::create(c),
        "drop" => create::drop(c),
        "alter" => alter::alter(c),
        "comment" => alter::comment(c),
        "pause" | "suspend" | "resume" => alter::pause_or_resume(c, &word),
        "subscribe" => Ok(Statement::Subscribe(copy::subscribe(c)?)),
        "copy" => copy::copy(c),
        "show" => show::show(c),
        "describe" | "desc" => {
            c.pos += 1;
            show::describe(c)
        }
        "explain" => explain::explain(c),
        "set" => set(c),
        "reset" => reset(c),
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" => transaction(c, &word),
        "checkpoint" => alone(c, Statement::Checkpoint),
        "flush" => alone(c, Statement::Flush),
        "discard" | "deallocate" | "close" => discard(c, &word),
        _ => Err(unsupported::statement(c).unwrap_or_else(|| c.unexpected("a statement"))),
    }
}

fn alone(c: &mut Cursor<'_>, s: Statement) -> Result<Statement> {
    c.pos += 1;
    c.expect_end()?;
    Ok(s)
}

/// `TABLE t`, short for `SELECT * FROM t`.
fn table(c: &mut Cursor<'_>) -> Result<Statement> {
    c.pos += 1;
    let from = c.pos;
    c.object_name()?;
    let name = c.src.slice(from, c.pos);
    c.expect_end()?;
    Ok(Statement::Query(super::parse_query(&format!("SELECT * FROM {name}"))?))
}

fn set(c: &mut Cursor<'_>) -> Result<Statement> {
    let at = c.position();
    c.expect(&["set"])?;
    if c.looking_at(&["transaction"]) || c.looking_at(&["session", "characteristics"]) {
        // Every read sees one epoch; the level asked for is at most that.
        c.pos = c.end;
        return Ok(Statement::Set { name: "transaction_isolation".into(), value: Some("serializable".into()) });
    }
    if c.looking_at(&["constraints"]) || c.looking_at(&["role"]) || c.looking_at(&["session", "authorization"]) {
        let what = c.src.token_text(c.pos).to_ascii_uppercase();
        return Err(SqlError::unsupported(format!("SET {what} is not supported")).at(at));
    }
    c.eat_any(&["session", "local"]);
    if c.eat(&["time", "zone"]) {
        let value = value(c)?;
        c.expect_end()?;
        let value = value.filter(|v| v != "local");
        return Ok(Statement::Set { name: "timezone".into(), value });
    }
    if c.eat(&["names"]) {
        let value = value(c)?;
        c.expect_end()?;
        return Ok(Statement::Set { name: "client_encoding".into(), value });
    }
    let name = show::setting_name(c)?;
    if !c.eat_token(&Token::Eq) && !c.eat(&["to"]) {
        return Err(c.unexpected("\"=\" or TO"));
    }
    let value = value(c)?;
    c.expect_end()?;
    Ok(Statement::Set { name, value })
}

/// Words, strings and numbers separated by commas, as one text; `None` for DEFAULT.
fn value(c: &mut Cursor<'_>) -> Result<Option<String>> {
    if c.eat(&["default"]) {
        return Ok(None);
    }
    if c.looking_at(&["interval"]) {
        return super::query::interval(c).map(Some);
    }
    let mut out = String::new();
    loop {
        let sign = if c.eat_token(&Token::Minus) { "-" } else { "" };
        c.eat_token(&Token::Plus);
        out.push_str(sign);
        match c.peek().map(|t| &t.token.token) {
            Some(Token::Number(n, _)) => {
                out.push_str(n);
                c.pos += 1;
                // `10s` arrives as a number and a word.
                if let Some(Token::Word(w)) = c.peek().map(|t| &t.token.token) {
                    out.push_str(&w.value);
                    c.pos += 1;
                }
            }
            Some(Token::Word(w)) if sign.is_empty() => {
                out.push_str(&if w.quote_style.is_some() { w.value.clone() } else { w.value.to_ascii_lowercase() });
                c.pos += 1;
                while c.eat_token(&Token::Period) {
                    out.push('.');
                    out.push_str(&c.ident("a value")?);
                }
            }
            _ if sign.is_empty() => out.push_str(&c.string("a value")?),
            _ => return Err(c.unexpected("a number")),
        }
        if !c.eat_token(&Token::Comma) {
            return Ok(Some(out));
        }
        out.push_str(", ");
    }
}

fn reset(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["reset"])?;
    let name = if c.eat(&["all"]) {
        None
    } else if c.eat(&["time", "zone"]) {
        Some("timezone".to_string())
    } else {
        Some(show::setting_name(c)?)
    };
    c.expect_end()?;
    Ok(Statement::Reset(name))
}

fn transaction(c: &mut Cursor<'_>, word: &str) -> Result<Statement> {
    let at = c.position();
    c.pos += 1;
    if word == "start" {
        c.expect(&["transaction"])?;
    } else {
        c.eat_any(&["work", "transaction"]);
    }
    let s = match word {
        "begin" | "start" => Statement::Begin,
        "commit" | "end" => Statement::Commit,
        _ => Statement::Rollback,
    };
    if matches!(s, Statement::Begin) {
        modes(c)?;
    } else {
        if c.looking_at(&["prepared"]) || c.looking_at(&["to"]) {
            let what = if c.looking_at(&["to"]) { "savepoints are" } else { "two-phase commit is" };
            return Err(SqlError::unsupported(format!("{what} not supported")).at(at));
        }
        if c.eat(&["and"]) {
            let no = c.eat(&["no"]);
            c.expect(&["chain"])?;
            if !no {
                return Err(SqlError::unsupported("AND CHAIN is not supported").hint("Send BEGIN.").at(at));
            }
        }
    }
    c.expect_end()?;
    Ok(s)
}

/// `ISOLATION LEVEL ..`, `READ ONLY`, `READ WRITE`, `[NOT] DEFERRABLE`: all are met by what every transaction gives.
fn modes(c: &mut Cursor<'_>) -> Result<()> {
    while !c.at_end() {
        let known = if c.eat(&["isolation", "level"]) {
            c.eat(&["serializable"])
                || c.eat(&["repeatable", "read"])
                || c.eat(&["read", "committed"])
                || c.eat(&["read", "uncommitted"])
        } else {
            c.eat(&["read", "only"])
                || c.eat(&["read", "write"])
                || c.eat(&["not", "deferrable"])
                || c.eat(&["deferrable"])
        };
        if !known {
            return Err(c.unexpected("a transaction mode"));
        }
        c.eat_token(&Token::Comma);
    }
    Ok(())
}

fn discard(c: &mut Cursor<'_>, word: &str) -> Result<Statement> {
    c.pos += 1;
    match word {
        "discard" => {
            if c.eat_any(&["all", "plans", "sequences", "temporary", "temp"]).is_none() {
                return Err(c.unexpected("ALL, PLANS, SEQUENCES or TEMPORARY"));
            }
        }
        _ => {
            if word == "deallocate" {
                c.eat(&["prepare"]);
            }
            if !c.eat(&["all"]) {
                c.ident("a name or ALL")?;
            }
        }
    }
    c.expect_end()?;
    Ok(Statement::Discard)
}
