//! Queries and DML through sqlparser, after our own clauses have been taken out of their tokens.

use std::ops::Range;

use sqlparser::ast::{self, SetExpr};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::clauses::rewritten;
use super::cursor::{Cursor, run_sqlparser};
use super::{asof, asof_condition, matches};
use crate::error::{Result, SqlError};
use crate::statement::{Emit, EmitClause, Statement, Subscribe, SubscribeTarget};

/// Names of window table functions.
const WINDOWS: &[&str] = &["tumble", "hop", "cumulate", "session"];

/// A query in tokens `c.pos..to`.
pub(crate) fn query(c: &mut Cursor<'_>, to: usize) -> Result<Box<ast::Query>> {
    let at = c.position();
    table_names(c, to)?;
    let tokens = prepared(c, to)?;
    let mut q = run_sqlparser(c.src, c.pos, to, tokens, |p| p.parse_query())?;
    matches::restore(&mut q);
    asof_condition::mark(&mut q, c.src.text)?;
    c.pos = to;
    if matches!(*q.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)) {
        return Err(SqlError::unsupported("data-modifying statements after WITH are not supported")
            .hint("Put the WITH inside: INSERT INTO t WITH .. SELECT ..")
            .at(at));
    }
    Ok(q)
}

/// sqlparser takes any word after FROM for a table: `FROM WHERE a` must not read the table WHERE.
fn table_names(c: &Cursor<'_>, to: usize) -> Result<()> {
    const CLAUSES: &[&str] = &[
        "where",
        "group",
        "having",
        "order",
        "limit",
        "union",
        "intersect",
        "except",
        "on",
        "using",
        "join",
        "from",
        "select",
        "as",
        "and",
        "or",
        "when",
        "then",
        "end",
    ];
    for i in c.pos + 1..to {
        let before = &c.src.tokens[i - 1];
        if (before.is_word("from") || before.is_word("join")) && CLAUSES.iter().any(|w| c.src.tokens[i].is_word(w)) {
            return Err(Cursor { pos: i, ..c.clone() }.unexpected("a table"));
        }
    }
    Ok(())
}

/// The tokens as sqlparser can read them; see [`super::clauses`] for the rest.
fn prepared(c: &Cursor<'_>, to: usize) -> Result<Vec<TokenWithSpan>> {
    let tokens = matches::tokens(c, to, &window_functions(c, to))?;
    Ok(rewritten(asof::rewrite(c, tokens)?))
}

/// What the forms of other systems have that sqlparser does not read.
#[derive(Default)]
pub(super) struct Foreign {
    /// For each token whether it is left out.
    pub(super) skip: Vec<bool>,
    /// Tokens to be put in before a token.
    pub(super) extra: Vec<(usize, Vec<TokenWithSpan>)>,
}

/// Flink's `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), ..))` becomes `TUMBLE(t, ts, ..)`, which sqlparser can read; so does
/// `SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), gap)`, as `SESSION(t, ts, gap, key => k)`.
fn window_functions(c: &Cursor<'_>, to: usize) -> Foreign {
    let all = &c.src.tokens;
    let is_window = |i: usize| {
        all.get(i).is_some_and(|t| WINDOWS.iter().any(|w| t.is_word(w)))
            && all.get(i + 1).is_some_and(|t| t.token.token == Token::LParen)
    };
    let is_left = |i: usize| all.get(i).is_some_and(|t| t.token.token == Token::LParen);
    let mut skip = vec![false; to.saturating_sub(c.pos)];
    let mut drop = |i: usize| {
        if let Some(s) = i.checked_sub(c.pos).and_then(|k| skip.get_mut(k)) {
            *s = true;
        }
    };
    // Further arguments, by the bracket they go before.
    let mut keys: Vec<(usize, Vec<TokenWithSpan>)> = Vec::new();
    for i in c.pos..to {
        if all[i].is_word("table") && is_left(i + 1) && is_window(i + 2) {
            drop(i);
            drop(i + 1);
            drop(c.closing(i + 1));
        }
        if is_window(i) {
            let close = c.closing(i + 1).min(to);
            for k in i + 2..close {
                let starts_argument = k == i + 2 || matches!(all[k - 1].token.token, Token::Comma | Token::RArrow);
                if starts_argument && all[k].is_word("table") && !is_left(k + 1) {
                    drop(k);
                    if let Some((range, named)) = partition_by(c, k + 1, close) {
                        range.for_each(&mut drop);
                        keys.push((close, named));
                    }
                }
                if starts_argument && all[k].is_word("descriptor") && is_left(k + 1) {
                    drop(k);
                    drop(k + 1);
                    drop(c.closing(k + 1));
                }
            }
        }
    }
    Foreign { skip, extra: keys }
}

/// `PARTITION BY a, b` or `PARTITION BY (a, b)` after a table's name at `from`: where it is, and `, key => a, key => b`. Without
/// brackets the list ends where the next argument begins.
fn partition_by(c: &Cursor<'_>, from: usize, close: usize) -> Option<(Range<usize>, Vec<TokenWithSpan>)> {
    let all = &c.src.tokens;
    let token = |i: usize| &all[i].token.token;
    // The table's name has no comma in it.
    let at = (from..close).take_while(|i| *token(*i) != Token::Comma).find(|i| all[*i].is_word("partition"))?;
    if !all.get(at + 1).is_some_and(|t| t.is_word("by")) || at + 2 >= close {
        return None;
    }
    let ends = |i: usize| all.get(i).is_some_and(|t| matches!(t.token.token, Token::Comma | Token::RParen));
    let bracket = *token(at + 2) == Token::LParen && ends(c.closing(at + 2) + 1);
    let (first, end, after) = match bracket {
        true => (at + 3, c.closing(at + 2), c.closing(at + 2) + 1),
        false => {
            let starts_argument = |i: usize| {
                all[i].is_word("descriptor")
                    || (i + 1 < close && *token(i + 1) == Token::RArrow)
                    || all[i].is_word("interval")
            };
            let mut i = at + 2;
            while i < close && !(*token(i) == Token::Comma && i + 1 < close && starts_argument(i + 1)) {
                i = if *token(i) == Token::LParen { c.closing(i) + 1 } else { i + 1 };
            }
            (at + 2, i.min(close), i.min(close))
        }
    };
    let mut named = Vec::new();
    let span = all[at].token.span;
    let mut i = first;
    let mut begins = true;
    while i < end {
        if begins {
            let argument = [Token::Comma, Token::make_word("key", None), Token::RArrow];
            named.extend(argument.into_iter().map(|t| TokenWithSpan::new(t, span)));
            begins = false;
        }
        if *token(i) == Token::Comma {
            begins = true;
            i += 1;
            continue;
        }
        let next = if *token(i) == Token::LParen { c.closing(i) + 1 } else { i + 1 };
        named.extend((i..next.min(end)).map(|k| all[k].token.clone()));
        i = next;
    }
    Some((at..after, named))
}

/// Where a trailing EMIT clause begins: an unquoted EMIT outside of brackets before a word that continues it.
/// Elsewhere EMIT is a name like any other.
pub(crate) fn find_emit(c: &Cursor<'_>) -> usize {
    const AFTER: &[&str] = &["changes", "immediate", "immediately", "on", "final", "after", "every", "periodic"];
    c.find(|i, t| {
        t.is_word("emit")
            && i > c.pos
            && !matches!(c.src.tokens[i - 1].token.token, Token::Period | Token::Comma)
            && !c.src.tokens[i - 1].is_word("as")
            && c.src.tokens.get(i + 1).is_some_and(|n| AFTER.iter().any(|a| n.is_word(a)))
            && !joins_on(c, i)
    })
}

/// `a JOIN b emit ON b.x = ..`: there EMIT is an alias, unless WINDOW or UPDATE follows.
fn joins_on(c: &Cursor<'_>, at: usize) -> bool {
    let is = |i: usize, w: &str| c.src.tokens.get(i).is_some_and(|t| t.is_word(w));
    is(at + 1, "on") && !is(at + 2, "window") && !is(at + 2, "update")
}

/// The EMIT clause up to the end. `EMIT CHANGES` in a plain SELECT is told apart by the caller.
pub(crate) fn emit(c: &mut Cursor<'_>) -> Result<EmitClause> {
    let position = c.position();
    c.expect(&["emit"])?;
    let when = if c.eat(&["changes"]) || c.eat(&["immediate"]) || c.eat(&["immediately"]) || c.eat(&["on", "update"]) {
        Emit::OnUpdate
    } else if c.eat(&["on", "window", "close"]) || c.eat(&["final"]) || c.eat(&["after", "window", "close"]) {
        Emit::OnWindowClose
    } else if c.eat(&["every"]) || c.eat(&["periodic"]) {
        Emit::Every(interval(c)?)
    } else {
        return Err(c.unexpected("CHANGES, ON UPDATE, ON WINDOW CLOSE or EVERY after EMIT"));
    };
    let (mut lateness, mut late_rows) = (None, None);
    loop {
        let at = c.position();
        let lateness_again = c.looking_at(&["allow", "lateness"]) || c.looking_at(&["grace", "period"]);
        if lateness_again && lateness.is_none() {
            c.pos += 2;
            lateness = Some(interval(c)?);
        } else if c.looking_at(&["late", "rows", "to"]) && late_rows.is_none() {
            c.pos += 3;
            late_rows = Some(c.object_name()?);
        } else if lateness_again || c.looking_at(&["late", "rows"]) {
            let message = "ALLOW LATENESS and LATE ROWS TO can be given once each";
            return Err(SqlError::new(crate::error::SqlState::SYNTAX_ERROR, message)
                .hint("EMIT .. [ALLOW LATENESS INTERVAL '1 minute'] [LATE ROWS TO name]")
                .at(at));
        } else {
            break;
        }
    }
    c.expect_end()?;
    Ok(EmitClause { when, lateness, late_rows, position })
}

/// `INTERVAL '10 seconds'`, `INTERVAL '10' SECOND`, `'10 seconds'` or `10s`, as text `10 seconds`.
pub(crate) fn interval(c: &mut Cursor<'_>) -> Result<String> {
    const UNITS: &[&str] = &["millisecond", "second", "minute", "hour", "day", "week", "month", "year"];
    c.eat(&["interval"]);
    let number = if let Some(s) = c.eat_string() {
        s
    } else if let Some(Token::Number(n, _)) = c.peek().map(|t| &t.token.token) {
        c.pos += 1;
        n.clone()
    } else {
        return Err(c.unexpected("an interval such as INTERVAL '10 seconds'"));
    };
    if let Some(Token::Word(w)) = c.peek().map(|t| &t.token.token) {
        let word = w.value.to_ascii_lowercase();
        let singular = word.strip_suffix('s').filter(|s| !s.is_empty()).unwrap_or(&word);
        let short = match word.as_str() {
            "s" | "sec" => "second",
            "ms" => "millisecond",
            "m" | "min" => "minute",
            "h" => "hour",
            "d" => "day",
            other if UNITS.contains(&other) => other,
            _ => singular,
        };
        if UNITS.contains(&short) {
            c.pos += 1;
            return Ok(format!("{} {short}s", number.trim()));
        }
    }
    Ok(number)
}

/// SELECT, VALUES, WITH, TABLE or a parenthesis at the start of a statement.
pub(crate) fn query_statement(c: &mut Cursor<'_>) -> Result<Statement> {
    let start = c.pos;
    let emit_at = find_emit(c);
    if emit_at < c.end && c.src.tokens[emit_at].is_word("emit") {
        let mut tail = Cursor { pos: emit_at, ..c.clone() };
        let at = tail.position();
        let e = emit(&mut tail)?;
        if e.when != Emit::OnUpdate || e.lateness.is_some() || e.late_rows.is_some() {
            return Err(SqlError::unsupported("only EMIT CHANGES can follow a SELECT")
                .hint("Create a materialized view with this EMIT clause and subscribe to it.")
                .at(at));
        }
        c.pos = start;
        let query = query(c, emit_at)?;
        c.pos = c.end;
        let target = SubscribeTarget::Query(query);
        return Ok(Statement::Subscribe(Subscribe { target, snapshot: true, progress: false, up_to: None }));
    }
    let end = c.end;
    Ok(Statement::Query(query(c, end)?))
}

/// INSERT, UPDATE or DELETE.
pub(crate) fn dml(c: &mut Cursor<'_>) -> Result<Statement> {
    let (from, to) = (c.pos, c.end);
    let tokens = prepared(c, to)?;
    let mut s = run_sqlparser(c.src, from, to, tokens, |p| p.parse_statement())?;
    matches::restore(&mut s);
    asof_condition::mark(&mut s, c.src.text)?;
    c.pos = to;
    Ok(Statement::Dml(Box::new(s)))
}
