//! MATCH_RECOGNIZE in the tokens of a query, made readable for sqlparser.
//!
//! - The clauses from ONE ROW PER MATCH to SUBSET are read here ([`clauses`]) and become one quoted name in the pattern.
//! - `RUNNING f(..)` and `FINAL f(..)` become `__running(f(..))` and `__final(f(..))`.
//! - sqlparser allows MATCH_RECOGNIZE after a named table only. A derived table in front of it travels as the first
//!   expression of PARTITION BY; [`restore`] puts it back.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, TableFactor, VisitMut, VisitorMut};
use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::cursor::Cursor;
use super::query::Foreign;
use crate::error::{Result, SqlError};
use crate::matching::clauses;

const DERIVED: &str = "__derived";
/// Around what is to be of the rows up to the current one.
pub(crate) const RUNNING: &str = "__running";
/// Around what is to be of the whole match.
pub(crate) const FINAL: &str = "__final";

/// Tokens `c.pos..to` with the changes that `foreign` says, every MATCH_RECOGNIZE as sqlparser reads it.
pub(super) fn tokens(c: &Cursor<'_>, to: usize, foreign: &Foreign) -> Result<Vec<TokenWithSpan>> {
    let mut writer =
        Writer { c: Cursor { end: to, ..c.clone() }, foreign, out: Vec::with_capacity(to - c.pos.min(to)) };
    writer.write(c.pos, to, false)?;
    Ok(writer.out)
}

struct Writer<'a> {
    c: Cursor<'a>,
    foreign: &'a Foreign,
    out: Vec<TokenWithSpan>,
}

impl Writer<'_> {
    fn is(&self, i: usize, token: &Token) -> bool {
        i < self.c.end && self.c.src.tokens.get(i).is_some_and(|t| t.token.token == *token)
    }

    fn is_word(&self, i: usize, word: &str) -> bool {
        i < self.c.end && self.c.src.tokens.get(i).is_some_and(|t| t.is_word(word))
    }

    fn any_word(&self, i: usize) -> bool {
        i < self.c.end && self.c.src.tokens.get(i).is_some_and(|t| matches!(t.token.token, Token::Word(_)))
    }

    fn is_match(&self, i: usize) -> bool {
        self.is_word(i, "match_recognize") && self.is(i + 1, &Token::LParen)
    }

    fn put(&mut self, token: Token, span: Span) {
        self.out.push(TokenWithSpan::new(token, span));
    }

    /// Tokens `from..to`; `inside` of a MATCH_RECOGNIZE, RUNNING and FINAL mean something.
    fn write(&mut self, from: usize, to: usize, inside: bool) -> Result<()> {
        let mut i = from;
        // The derived table that the next MATCH_RECOGNIZE reads.
        let mut input = None;
        while i < to {
            let Some(token) = self.c.src.tokens.get(i).map(|t| t.token.clone()) else { return Ok(()) };
            let span = token.span;
            for (_, tokens) in self.foreign.extra.iter().filter(|(before, _)| *before == i) {
                self.out.extend(tokens.iter().cloned());
            }
            if self.foreign.skip.get(i - self.c.pos).copied().unwrap_or(false) {
                i += 1;
            } else if self.is_match(i) {
                self.out.push(token);
                i = self.clauses(i + 1, input.take())?;
            } else if self.is(i, &Token::LParen) && self.is_input(i) {
                let close = self.c.closing(i);
                input = Some((i, close));
                self.put(Token::make_word(DERIVED, Some('"')), span);
                i = close + 1;
            } else if let Some(name) = self.semantics(i).filter(|_| inside) {
                let close = self.c.closing(i + 2).min(to.saturating_sub(1));
                self.put(Token::make_word(name, None), span);
                self.put(Token::LParen, span);
                self.write(i + 1, close + 1, true)?;
                self.put(Token::RParen, span);
                i = close + 1;
            } else {
                self.out.push(token);
                i += 1;
            }
        }
        Ok(())
    }

    /// Whether the bracket here is around a derived table that a MATCH_RECOGNIZE reads.
    fn is_input(&self, open: usize) -> bool {
        let before = open.checked_sub(1);
        let table = before.is_some_and(|b| {
            self.is_word(b, "from")
                || self.is_word(b, "join")
                || self.is(b, &Token::Comma)
                || self.is(b, &Token::LParen)
        });
        let after = self.c.closing(open) + 1;
        let named = if self.is_word(after, "as") { after + 2 } else { after + 1 };
        table && (self.is_match(after) || self.any_word(named - 1) && self.is_match(named))
    }

    fn semantics(&self, i: usize) -> Option<&'static str> {
        let name = match (self.is_word(i, "running"), self.is_word(i, "final")) {
            (true, _) => RUNNING,
            (_, true) => FINAL,
            _ => return None,
        };
        (self.any_word(i + 1) && !self.is_word(i + 1, "as") && self.is(i + 2, &Token::LParen)).then_some(name)
    }

    /// The clauses in the bracket at `open`; the place after it.
    fn clauses(&mut self, open: usize, input: Option<(usize, usize)>) -> Result<usize> {
        let close = self.c.closing(open);
        if close >= self.c.end {
            let end = Cursor { pos: self.c.end, ..self.c.clone() };
            return Err(end.unexpected("\")\" at the end of MATCH_RECOGNIZE"));
        }
        let mut inner = Cursor { pos: open + 1, end: close, ..self.c.clone() };
        let begins = inner.find(|i, _| clauses::starts(&self.c, i));
        inner.pos = begins;
        let read = clauses::take(&mut inner)?;
        let span = self.c.src.tokens[begins].token.span;
        let bracket = self.c.src.tokens[open].token.span;
        self.put(Token::LParen, bracket);
        let mut from = open + 1;
        if let Some((a, b)) = input {
            self.put(Token::make_word("PARTITION", None), bracket);
            self.put(Token::make_word("BY", None), bracket);
            self.put(Token::LParen, bracket);
            self.write(a + 1, b, false)?;
            self.put(Token::RParen, bracket);
            if self.is_word(from, "partition") && self.is_word(from + 1, "by") {
                from += 2;
                self.put(Token::Comma, bracket);
            }
        }
        self.write(from, begins, true)?;
        let json = serde_json::to_string(&read).map_err(|e| SqlError::internal(format!("pattern: {e}")))?;
        for token in
            [Token::make_word("PATTERN", None), Token::LParen, Token::make_word(&json, Some('"')), Token::RParen]
        {
            self.put(token, span);
        }
        self.write(inner.pos, close + 1, true)?;
        Ok(close + 1)
    }
}

/// Puts derived tables back in front of their MATCH_RECOGNIZE.
pub(super) fn restore<T: VisitMut>(parsed: &mut T) {
    struct Restorer;
    impl VisitorMut for Restorer {
        type Break = ();
        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            let TableFactor::MatchRecognize { table, partition_by, .. } = factor else {
                return ControlFlow::Continue(());
            };
            if let TableFactor::Table { name, alias, .. } = table.as_mut()
                && name.0.len() == 1
                && name.0[0].as_ident().is_some_and(|i| i.value == DERIVED && i.quote_style.is_some())
                && matches!(partition_by.first(), Some(Expr::Subquery(_)))
                && let Expr::Subquery(subquery) = partition_by.remove(0)
            {
                let alias = alias.take();
                **table = TableFactor::Derived { lateral: false, subquery, alias, sample: None };
            }
            ControlFlow::Continue(())
        }
    }
    // The visitor never breaks.
    let _ = parsed.visit(&mut Restorer);
}
