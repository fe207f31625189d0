//! Walks over tokens, and makes syntax errors the way Postgres words them.

use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token};

use super::dialect::MillstreamDialect;
use super::lexer::{Source, Tok};
use crate::error::{Result, SqlError, SqlState};
use crate::statement::ObjectName;

/// Words that cannot name a thing unless quoted.
pub(crate) const RESERVED: &[&str] = &[
    "all",
    "and",
    "any",
    "as",
    "asc",
    "case",
    "cast",
    "check",
    "constraint",
    "create",
    "default",
    "desc",
    "distinct",
    "else",
    "end",
    "except",
    "false",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "intersect",
    "into",
    "limit",
    "not",
    "null",
    "on",
    "or",
    "order",
    "primary",
    "references",
    "select",
    "table",
    "then",
    "true",
    "union",
    "unique",
    "using",
    "when",
    "where",
    "window",
    "with",
];

/// Keywords a typo may have meant.
const SUGGEST: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "VALUES",
    "INSERT",
    "INTO",
    "UPDATE",
    "DELETE",
    "CREATE",
    "STREAM",
    "SOURCE",
    "TABLE",
    "VIEW",
    "MATERIALIZED",
    "REPLACE",
    "EXISTS",
    "WATERMARK",
    "PRIMARY",
    "INCLUDE",
    "WITH",
    "FORMAT",
    "ENCODE",
    "DROP",
    "ALTER",
    "RENAME",
    "PAUSE",
    "RESUME",
    "COMMENT",
    "INDEX",
    "INDEXES",
    "CASCADE",
    "RESTRICT",
    "SUBSCRIBE",
    "SNAPSHOT",
    "PROGRESS",
    "EXPLAIN",
    "DESCRIBE",
    "SHOW",
    "STREAMS",
    "SOURCES",
    "TABLES",
    "VIEWS",
    "COLUMNS",
    "JOBS",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "CHECKPOINT",
    "FLUSH",
    "UNION",
    "JOIN",
    "DISTINCT",
    "INTERVAL",
    "BETWEEN",
    "RETURNING",
    "COPY",
    "STDOUT",
    "STDIN",
    "CHANGES",
    "TRANSACTION",
    "DISCARD",
    "DEALLOCATE",
    "RESET",
    "CLOSE",
    "DEFAULT",
];

/// How deep sqlparser may recurse: several calls for each of our levels of nesting, so that our limit answers first.
const PARSER_DEPTH: usize = 512;

/// A position between tokens of a statement.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    /// The statement.
    pub src: &'a Source<'a>,
    /// Next token.
    pub pos: usize,
    /// Tokens from here on are not ours.
    pub end: usize,
    /// Characters of a `>>` here that have closed type parameters already.
    pub closed: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(src: &'a Source<'a>) -> Self {
        Self { src, pos: 0, end: src.tokens.len(), closed: 0 }
    }

    pub fn peek(&self) -> Option<&'a Tok> {
        self.nth(0)
    }

    /// The token `n` places ahead.
    pub fn nth(&self, n: usize) -> Option<&'a Tok> {
        let i = self.pos + n;
        if i < self.end { self.src.tokens.get(i) } else { None }
    }

    pub fn at_end(&self) -> bool {
        self.pos >= self.end
    }

    /// Whether these unquoted words come next.
    pub fn looking_at(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, w)| self.nth(i).is_some_and(|t| t.is_word(w)))
    }

    /// Takes these unquoted words if they come next.
    pub fn eat(&mut self, words: &[&str]) -> bool {
        let yes = self.looking_at(words);
        if yes {
            self.pos += words.len();
        }
        yes
    }

    /// Takes one of these unquoted words.
    pub fn eat_any(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let w = words.iter().find(|w| self.looking_at(&[w]))?;
        self.pos += 1;
        Some(w)
    }

    pub fn expect(&mut self, words: &[&str]) -> Result<()> {
        for w in words {
            if !self.eat(&[w]) {
                return Err(self.unexpected(w));
            }
        }
        Ok(())
    }

    pub fn is_token(&self, t: &Token) -> bool {
        self.peek().is_some_and(|x| x.token.token == *t)
    }

    pub fn eat_token(&mut self, t: &Token) -> bool {
        let yes = self.is_token(t);
        if yes {
            self.pos += 1;
        }
        yes
    }

    pub fn expect_token(&mut self, t: &Token) -> Result<()> {
        if self.eat_token(t) { Ok(()) } else { Err(self.unexpected(&format!("\"{t}\""))) }
    }

    /// Nothing may follow.
    pub fn expect_end(&self) -> Result<()> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected("end of statement")) }
    }

    /// An identifier: lower case unless quoted.
    pub fn ident(&mut self, what: &str) -> Result<String> {
        match self.peek().map(|t| &t.token.token) {
            Some(Token::Word(w)) if w.quote_style.is_some() => {
                if w.value.is_empty() {
                    return Err(
                        SqlError::new(SqlState::SYNTAX_ERROR, "zero-length delimited identifier").at(self.position())
                    );
                }
                self.pos += 1;
                Ok(w.value.replace("\"\"", "\""))
            }
            Some(Token::Word(w)) => {
                let lower = w.value.to_ascii_lowercase();
                if RESERVED.contains(&lower.as_str()) {
                    let hint =
                        format!("\"{lower}\" is a reserved word. To use it as a name, write it in double quotes.");
                    return Err(self.unexpected(what).hint(hint));
                }
                self.pos += 1;
                Ok(lower)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    /// `[schema.]name`; the database `millstream` may be written in front.
    pub fn object_name(&mut self) -> Result<ObjectName> {
        let start = self.position();
        let mut parts = vec![self.ident("a name")?];
        while self.eat_token(&Token::Period) {
            parts.push(self.ident("a name")?);
        }
        let name = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        match parts.pop() {
            None => {}
            Some(db) if db == "millstream" && parts.is_empty() => {}
            Some(_) => {
                return Err(SqlError::unsupported("references to another database are not supported")
                    .hint("There is one database, \"millstream\": write schema.name.")
                    .at(start));
            }
        }
        Ok(ObjectName { schema, name })
    }

    /// `(a, b, ..)`.
    pub fn ident_list(&mut self) -> Result<Vec<String>> {
        self.expect_token(&Token::LParen)?;
        let mut out = Vec::new();
        loop {
            let at = self.position();
            let name = self.ident("a column name")?;
            if out.contains(&name) {
                return Err(duplicate_column(&name, at));
            }
            out.push(name);
            if !self.eat_token(&Token::Comma) {
                break;
            }
        }
        self.expect_token(&Token::RParen)?;
        Ok(out)
    }

    /// A string constant of any spelling.
    pub fn eat_string(&mut self) -> Option<String> {
        let s = match &self.peek()?.token.token {
            Token::SingleQuotedString(s)
            | Token::EscapedStringLiteral(s)
            | Token::UnicodeStringLiteral(s)
            | Token::NationalStringLiteral(s) => s.clone(),
            Token::DollarQuotedString(d) => d.value.clone(),
            _ => return None,
        };
        self.pos += 1;
        Some(s)
    }

    pub fn string(&mut self, what: &str) -> Result<String> {
        self.eat_string().ok_or_else(|| self.unexpected(what))
    }

    /// Whether a file name or PROGRAM stands here.
    pub fn at_file(&self) -> bool {
        self.looking_at(&["program"]) || self.clone().eat_string().is_some()
    }

    /// A whole number without sign.
    pub fn unsigned(&mut self, what: &str) -> Result<u64> {
        if let Some(Token::Number(n, _)) = self.peek().map(|t| &t.token.token)
            && let Ok(v) = n.replace('_', "").parse()
        {
            self.pos += 1;
            return Ok(v);
        }
        Err(self.unexpected(what))
    }

    /// 1-based character position of the next token in the statement.
    pub fn position(&self) -> usize {
        self.peek().map_or_else(|| self.end_position(), |t| t.start.chars + 1)
    }

    fn end_position(&self) -> usize {
        self.src.tokens.get(self.end).map_or(self.src.chars + 1, |t| t.start.chars + 1)
    }

    /// The syntax error for what stands here instead of `expected`.
    pub fn unexpected(&self, expected: &str) -> SqlError {
        syntax_error(self.src, self.pos.min(self.src.tokens.len()), expected)
    }

    /// Runs sqlparser over tokens `self.pos..to`, which must take them all.
    pub fn sqlparser<T>(&mut self, to: usize, f: impl FnOnce(&mut Parser) -> Result<T, ParserError>) -> Result<T> {
        let from = self.pos;
        let src = self.src;
        let tokens = src.tokens[from..to].iter().map(|t| t.token.clone()).collect();
        let out = run_sqlparser(src, from, to, tokens, f)?;
        self.pos = to;
        Ok(out)
    }

    /// The index of the bracket that closes the one at `open`, or the end.
    pub fn closing(&self, open: usize) -> usize {
        let mut depth = 0usize;
        for i in open..self.end {
            match self.src.tokens[i].token.token {
                Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
                Token::RParen | Token::RBracket | Token::RBrace => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return i;
                    }
                }
                _ => {}
            }
        }
        self.end
    }

    /// The first token from here, outside of brackets, for which `stop` holds; also stops at a closing bracket that
    /// was not opened here.
    pub fn find(&self, mut stop: impl FnMut(usize, &Tok) -> bool) -> usize {
        let mut depth = 0usize;
        for i in self.pos..self.end {
            let t = &self.src.tokens[i];
            if depth == 0 && stop(i, t) {
                return i;
            }
            match t.token.token {
                Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
                Token::RParen | Token::RBracket | Token::RBrace => {
                    if depth == 0 {
                        return i;
                    }
                    depth -= 1;
                }
                _ => {}
            }
        }
        self.end
    }
}

/// Runs sqlparser over given tokens that stand for tokens `from..to` of the source.
pub(crate) fn run_sqlparser<T>(
    src: &Source<'_>,
    from: usize,
    to: usize,
    tokens: Vec<sqlparser::tokenizer::TokenWithSpan>,
    f: impl FnOnce(&mut Parser) -> Result<T, ParserError>,
) -> Result<T> {
    let dialect = MillstreamDialect::new(tokens.len());
    let mut parser = Parser::new(&dialect).with_recursion_limit(PARSER_DEPTH).with_tokens_with_locations(tokens);
    let parsed = f(&mut parser);
    let next = parser.peek_token_ref().clone();
    match parsed {
        Ok(v) if next.token == Token::EOF => Ok(v),
        Ok(_) => Err(syntax_error(src, token_at(src, from, to, next.span.start), "end of statement")),
        Err(ParserError::RecursionLimitExceeded) => {
            let position = src.tokens.get(from).map_or(src.chars + 1, |t| t.start.chars + 1);
            Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex: it is nested too deeply")
                .detail("The parser gave up on the nesting of this statement.")
                .hint("Move inner queries into views or WITH.")
                .at(position))
        }
        Err(ParserError::ParserError(m) | ParserError::TokenizerError(m)) => {
            Err(from_sqlparser(src, from, to, &m, next.span.start))
        }
    }
}

/// The index of the token that starts at a location, `to` if there is none.
fn token_at(src: &Source<'_>, from: usize, to: usize, location: Location) -> usize {
    if location.line == 0 {
        return to;
    }
    let range = &src.tokens[from..to];
    from + range
        .partition_point(|t| (t.token.span.start.line, t.token.span.start.column) < (location.line, location.column))
}

/// sqlparser's message, which ends in " at Line: l, Column: c" if it knows the place.
fn from_sqlparser(src: &Source<'_>, from: usize, to: usize, message: &str, next: Location) -> SqlError {
    let (text, location) = match message.rfind(" at Line: ") {
        Some(i) => {
            let mut numbers = message[i + " at Line: ".len()..].split(", Column: ").map(|n| n.trim().parse::<u64>());
            match (numbers.next(), numbers.next()) {
                (Some(Ok(l)), Some(Ok(c))) => (&message[..i], Some(Location::new(l, c))),
                _ => (message, None),
            }
        }
        None => (message, None),
    };
    let expects =
        text.strip_prefix("Expected").map(|t| t.trim_start_matches([':', ' '])).and_then(|t| t.split_once(", found: "));
    let location = match (location, expects) {
        (Some(l), _) => l,
        // "found: EOF" carries no location.
        (None, Some((_, "EOF"))) => Location::empty(),
        (None, _) => next,
    };
    let at = token_at(src, from, to, location);
    match expects {
        // An unquoted FROM where an expression should be: sqlparser points at the word after it.
        Some((expected, _)) if text.starts_with("Expected an expression") => {
            syntax_error(src, at.saturating_sub(1).max(from), expected)
        }
        Some((expected, _)) => syntax_error(src, at, expected),
        None => {
            let position = src.tokens.get(at).map_or(src.chars + 1, |t| t.start.chars + 1);
            SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error: {}", lower_first(text.trim_end_matches('.'))))
                .at(position)
        }
    }
}

fn lower_first(s: &str) -> String {
    let mut c = s.chars();
    c.next().map(|f| f.to_lowercase().chain(c).collect()).unwrap_or_default()
}

/// `syntax error at or near ..` at a token, or at the end of the input.
pub(crate) fn syntax_error(src: &Source<'_>, at: usize, expected: &str) -> SqlError {
    let error = match src.tokens.get(at) {
        Some(t) => {
            let mut text: String = src.token_text(at).chars().take(60).collect();
            if text.is_empty() {
                text = t.token.to_string();
            }
            SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{text}\"")).at(t.start.chars + 1)
        }
        None => SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input").at(src.chars + 1),
    };
    let error = if expected.is_empty() { error } else { error.detail(format!("Expected {expected}.")) };
    // A misspelt keyword is often swallowed as an alias, and the error comes a word or two later.
    match (0..3).filter_map(|back| at.checked_sub(back)).find_map(|i| suggestion(src, i, i == at)) {
        Some((typo, keyword)) => error.hint(format!("Did you mean {keyword} instead of \"{typo}\"?")),
        None => error,
    }
}

/// The keyword that an unquoted word nearly is.
fn suggestion<'a>(src: &Source<'a>, i: usize, here: bool) -> Option<(&'a str, &'static str)> {
    let Token::Word(w) = &src.tokens.get(i)?.token.token else { return None };
    if w.quote_style.is_some() || w.value.len() < 4 || w.value.len() > 14 {
        return None;
    }
    let upper = w.value.to_ascii_uppercase();
    if SUGGEST.contains(&upper.as_str()) || w.keyword != sqlparser::keywords::Keyword::NoKeyword && !here {
        return None;
    }
    let allowed = if upper.len() >= 7 { 2 } else { 1 };
    SUGGEST
        .iter()
        .map(|k| (edit_distance(&upper, k), *k))
        .filter(|(d, _)| (1..=allowed).contains(d))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| (src.token_text(i), k))
}

/// Insertions, deletions, replacements and swaps of neighbours between two short words.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut d = vec![0usize; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            d[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let cost = usize::from(a[i - 1] != b[j - 1]);
                let mut best =
                    (d[(i - 1) * width + j] + 1).min(d[i * width + j - 1] + 1).min(d[(i - 1) * width + j - 1] + cost);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(d[(i - 2) * width + j - 2] + 1);
                }
                best
            };
        }
    }
    d[a.len() * width + b.len()]
}

/// A column named twice.
pub(crate) fn duplicate_column(name: &str, at: usize) -> SqlError {
    SqlError::new(SqlState::DUPLICATE_COLUMN, format!("column \"{name}\" specified more than once")).at(at)
}
