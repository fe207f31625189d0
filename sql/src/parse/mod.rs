//! Text to statements: our own statements by hand, queries, DML and expressions by sqlparser.
//!
//! A script is cut at the semicolons its tokens show. Each statement is then tokenised on its own, so that spans in
//! its syntax tree count from the statement's own text, and is checked against [`Limits`] before anything recurses.
//! Positions in errors of this module count from the start of the string given to [`parse`].

mod alter;
mod asof;
mod asof_condition;
pub(crate) mod clauses;
mod columns;
mod copy;
mod create;
pub(crate) mod cursor;
pub(crate) mod dialect;
mod explain;
pub(crate) mod lexer;
pub(crate) mod matches;
mod options;
mod query;
mod show;
mod statements;
mod unsupported;

#[cfg(test)]
mod tests;

use sqlparser::ast;
use sqlparser::tokenizer::Token;

use crate::error::Result;
use crate::limits::{self, Limits};
use crate::statement::{Parsed, Statement};
pub use alter::{mask_in_definition, rename_definition, rename_in_query};

pub(crate) use query::interval;

use cursor::Cursor;
use dialect::MillstreamDialect;
use lexer::Source;

/// Parses a script of statements separated by semicolons, under the default limits. Empty statements are dropped; a
/// wholly empty script is one [`Statement::Empty`].
pub fn parse(sql: &str) -> Result<Vec<Parsed>> {
    parse_with(sql, &Limits::default())
}

/// Parses a script under given limits.
pub fn parse_with(sql: &str, limits: &Limits) -> Result<Vec<Parsed>> {
    if sql.len() > limits.script_bytes_max {
        return Err(limits::exceeded("script_bytes_max", "the text is too long", limits.script_bytes_max, 1));
    }
    let script = Source::new(&MillstreamDialect::new(0), sql)?;
    let mut out = Vec::new();
    for tokens in script.tokens.split(|t| t.token.token == Token::SemiColon) {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { continue };
        let offset = first.start.chars;
        let text = sql.get(first.start.bytes..last.end.bytes).unwrap_or_default();
        let statement = statement(text, limits).map_err(|mut e| {
            e.position = e.position.map(|p| p + offset);
            e
        })?;
        out.push(Parsed { text: text.to_string(), offset, statement });
    }
    if out.is_empty() {
        out.push(Parsed { text: String::new(), offset: 0, statement: Statement::Empty });
    }
    Ok(out)
}

/// Parses one expression, such as the argument of a setting or a stored watermark.
pub fn parse_expr(text: &str) -> Result<ast::Expr> {
    let src = checked(text, &Limits::default())?;
    let mut c = Cursor::new(&src);
    c.sqlparser(src.tokens.len(), |p| p.parse_expr())
}

/// Parses one query, such as the stored text of a view.
pub fn parse_query(text: &str) -> Result<Box<ast::Query>> {
    let src = checked(text, &Limits::default())?;
    let mut c = Cursor::new(&src);
    query::query(&mut c, src.tokens.len())
}

fn statement(text: &str, limits: &Limits) -> Result<Statement> {
    let src = checked(text, limits)?;
    let mut c = Cursor::new(&src);
    statements::statement(&mut c)
}

fn checked<'a>(text: &'a str, limits: &Limits) -> Result<Source<'a>> {
    if text.len() > limits.statement_bytes_max {
        return Err(limits::exceeded("statement_bytes_max", "it is too long", limits.statement_bytes_max, 1));
    }
    let src = Source::new(&MillstreamDialect::new(0), text)?;
    limits::check(&src.tokens, limits)?;
    Ok(src)
}
