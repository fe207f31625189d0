//! ASOF joins, which sqlparser reads in one of their forms only. Their tokens become those of a join that is marked:
//!
//! | written | read as |
//! |---|---|
//! | `a ASOF JOIN b ON ..` | `a GLOBAL JOIN b ON ..` |
//! | `a ASOF LEFT JOIN b`, `a LEFT ASOF JOIN b` | `a GLOBAL LEFT JOIN b` |
//! | `b MATCH_CONDITION (x) ON y` | `b ON __asof (x) AND y` |
//!
//! GLOBAL is a word of another system in front of JOIN; here it is a name like any other, and gets quotes where it
//! stands there.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::Cursor;
use crate::asof::MARKER;
use crate::error::{Result, SqlError};

/// Words before JOIN.
const KINDS: &[&str] = &["inner", "left", "right", "full", "cross", "outer", "asof"];

/// The tokens of a statement, without ASOF.
pub(super) fn rewrite(c: &Cursor<'_>, tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let has = |w: &str| tokens.iter().any(|t| is(t, w));
    if !has("asof") && !has("global") {
        return Ok(tokens);
    }
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 1);
    // Depths of brackets at which a condition of an ASOF join is to come.
    let mut waiting: Vec<usize> = Vec::new();
    // Where the brackets of a MATCH_CONDITION are closed.
    let mut matched: Option<usize> = None;
    let mut depth = 0usize;
    let mut i = 0;
    while i < tokens.len() {
        let t = &tokens[i];
        let follows_relation = out.last().is_some_and(ends_relation);
        if follows_relation && let Some(join) = Found::at(&tokens, i) {
            if join.side.is_some_and(|s| !s.eq_ignore_ascii_case("left") && !s.eq_ignore_ascii_case("inner")) {
                let side = join.side.unwrap_or_default().to_ascii_uppercase();
                let error = SqlError::unsupported(format!("{side} ASOF JOIN is not supported"));
                return Err(at(c, t, error.hint("Swap the sides, or use ASOF LEFT JOIN.")));
            }
            out.push(word(t, "GLOBAL"));
            out.extend(join.side.map(|s| word(t, &s.to_ascii_uppercase())));
            out.push(tokens[i + join.length - 1].clone());
            waiting.push(depth);
            i += join.length;
            continue;
        }
        if is(t, "global") && follows_relation && tokens.get(i + 1).is_some_and(starts_join) {
            out.push(quoted(t));
            i += 1;
            continue;
        }
        match &t.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => {
                depth = depth.saturating_sub(1);
                while waiting.last().is_some_and(|d| *d > depth) {
                    waiting.pop();
                }
                if matched == Some(depth) {
                    matched = None;
                    out.push(t.clone());
                    if tokens.get(i + 1).is_some_and(|n| is(n, "on")) {
                        out.push(word(&tokens[i + 1], "AND"));
                        i += 1;
                    } else if let Some(n) = tokens.get(i + 1).filter(|n| is(n, "using")) {
                        let error = SqlError::unsupported("ASOF JOIN with USING is not supported");
                        return Err(at(c, n, error.hint("Write ON a.k = b.k.")));
                    }
                    i += 1;
                    continue;
                }
            }
            _ if waiting.last() == Some(&depth) && (is(t, "on") || is(t, "using")) => {
                waiting.pop();
            }
            _ if waiting.last() == Some(&depth)
                && is(t, "match_condition")
                && tokens.get(i + 1).is_some_and(|n| n.token == Token::LParen) =>
            {
                waiting.pop();
                matched = Some(depth);
                out.push(word(t, "ON"));
                out.push(word(t, MARKER));
                i += 1;
                continue;
            }
            _ => {}
        }
        out.push(t.clone());
        i += 1;
    }
    Ok(out)
}

/// `ASOF [side] [OUTER] JOIN` or `side [OUTER] ASOF JOIN`.
struct Found<'a> {
    side: Option<&'a str>,
    length: usize,
}

impl<'a> Found<'a> {
    fn at(tokens: &'a [TokenWithSpan], from: usize) -> Option<Self> {
        let mut i = from;
        let mut eat = |w: &str| {
            let there = tokens.get(i).is_some_and(|t| is(t, w));
            i += usize::from(there);
            there
        };
        let side = |eat: &mut dyn FnMut(&str) -> bool| {
            let side = ["left", "right", "full", "inner"].into_iter().find(|s| eat(s));
            if side.is_some() {
                eat("outer");
            }
            side
        };
        let first = side(&mut eat);
        if !eat("asof") {
            return None;
        }
        let side = if first.is_some() { first } else { side(&mut eat) };
        if !eat("join") {
            return None;
        }
        Some(Self { side, length: i - from })
    }
}

/// What may stand before a join: the end of a relation or of a condition.
fn ends_relation(t: &TokenWithSpan) -> bool {
    const BEFORE_NAMES: &[&str] =
        &["from", "join", "as", "lateral", "only", "select", "where", "and", "or", "not", "on"];
    match &t.token {
        Token::Word(w) if w.quote_style.is_none() => !BEFORE_NAMES.iter().any(|k| w.value.eq_ignore_ascii_case(k)),
        Token::Word(_) | Token::RParen | Token::RBracket | Token::Number(..) | Token::SingleQuotedString(_) => true,
        _ => false,
    }
}

fn starts_join(t: &TokenWithSpan) -> bool {
    is(t, "join") || KINDS.iter().any(|k| is(t, k))
}

fn is(t: &TokenWithSpan, word: &str) -> bool {
    matches!(&t.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

fn word(at: &TokenWithSpan, text: &str) -> TokenWithSpan {
    TokenWithSpan { token: Token::make_keyword(text), span: at.span }
}

fn quoted(t: &TokenWithSpan) -> TokenWithSpan {
    let value = match &t.token {
        Token::Word(w) => w.value.to_ascii_lowercase(),
        other => other.to_string(),
    };
    TokenWithSpan { token: Token::make_word(&value, Some('"')), span: t.span }
}

fn at(c: &Cursor<'_>, t: &TokenWithSpan, error: SqlError) -> SqlError {
    match c.src.tokens.iter().position(|x| x.token.span == t.span) {
        Some(pos) => error.at(Cursor { pos, ..c.clone() }.position()),
        None => error,
    }
}
