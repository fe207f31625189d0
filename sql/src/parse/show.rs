//! SHOW and DESCRIBE.

use sqlparser::tokenizer::Token;

use super::create::kind;
use super::cursor::Cursor;
use crate::error::{Result, SqlError};
use crate::statement::{ObjectKind, Show, Statement};

/// SHOW, with the cursor on that word.
pub(crate) fn show(c: &mut Cursor<'_>) -> Result<Statement> {
    let at = c.position();
    c.expect(&["show"])?;
    let kinds = if c.eat_any(&["streams", "sources"]).is_some() {
        Some(vec![ObjectKind::Stream])
    } else if c.eat(&["tables"]) {
        Some(vec![ObjectKind::Table])
    } else if c.eat(&["views"]) {
        Some(vec![ObjectKind::View])
    } else if c.eat(&["materialized"]) {
        c.expect(&["views"])?;
        Some(vec![ObjectKind::MaterializedView])
    } else if c.eat(&["objects"]) || c.eat(&["all", "objects"]) {
        Some(Vec::new())
    } else {
        None
    };
    if let Some(kinds) = kinds {
        if c.eat_any(&["from", "in"]).is_some() {
            let at = c.position();
            let schema = c.ident("a schema")?;
            if schema != "public" {
                return Err(SqlError::unsupported("SHOW of another schema is not supported")
                    .hint("Select from information_schema.tables instead.")
                    .at(at));
            }
        }
        let like = if c.eat(&["like"]) { Some(c.string("a quoted pattern")?) } else { None };
        c.expect_end()?;
        return Ok(Statement::Show(Show::Objects { kinds, like }));
    }
    let show = if c.eat(&["jobs"]) {
        Show::Jobs
    } else if c.eat_any(&["indexes", "indices"]).is_some() {
        let of = if c.eat_any(&["from", "in", "on"]).is_some() { Some(c.object_name()?) } else { None };
        Show::Indexes(of)
    } else if c.eat(&["all"]) {
        Show::AllSettings
    } else if c.eat(&["create"]) {
        if kind(c).is_none() && c.nth(1).is_some_and(|t| !matches!(t.token.token, Token::Period)) {
            return Err(c.unexpected("STREAM, SOURCE, TABLE, VIEW or MATERIALIZED VIEW"));
        }
        Show::Create(c.object_name()?)
    } else if c.eat(&["columns"]) {
        if c.eat_any(&["from", "in"]).is_none() {
            return Err(c.unexpected("FROM"));
        }
        Show::Columns(c.object_name()?)
    } else if c.eat(&["transaction", "isolation", "level"]) {
        Show::Setting("transaction_isolation".into())
    } else if c.eat(&["time", "zone"]) {
        Show::Setting("timezone".into())
    } else if c.eat(&["session", "authorization"]) {
        Show::Setting("session_authorization".into())
    } else {
        for w in ["sinks", "connections", "secrets", "functions", "subscriptions", "databases", "schemas"] {
            if c.looking_at(&[w]) && c.nth(1).is_none() {
                return Err(SqlError::unsupported(format!("SHOW {} is not supported", w.to_ascii_uppercase())).at(at));
            }
        }
        Show::Setting(setting_name(c)?)
    };
    c.expect_end()?;
    Ok(Statement::Show(show))
}

/// `name` or `prefix.name`.
pub(crate) fn setting_name(c: &mut Cursor<'_>) -> Result<String> {
    let mut name = c.ident("the name of a setting")?;
    while c.eat_token(&Token::Period) {
        name.push('.');
        name.push_str(&c.ident("the name of a setting")?);
    }
    Ok(name)
}

/// DESCRIBE or DESC, with the cursor after that word.
pub(crate) fn describe(c: &mut Cursor<'_>) -> Result<Statement> {
    // `DESCRIBE stream s` names the kind; `DESCRIBE stream` is about a relation with that name.
    if c.nth(1).is_some_and(|t| !matches!(t.token.token, Token::Period)) {
        c.eat(&["extended"]);
        kind(c);
    }
    let name = c.object_name()?;
    c.expect_end()?;
    Ok(Statement::Describe(name))
}
