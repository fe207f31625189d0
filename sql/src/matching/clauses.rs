//! The clauses of MATCH_RECOGNIZE that sqlparser does not read, from the text.
//!
//! sqlparser has a grammar of its own for the pattern, without reluctant quantifiers, WITHIN, SUBSET or exclusions of
//! more than a variable. So [`take`] reads these clauses itself, and leaves to sqlparser a clause in which the pattern is a
//! single quoted name: that of what was read, as JSON.

use serde::{Deserialize, Serialize};

use crate::error::{Result, SqlError, SqlState};
use crate::parse::cursor::{Cursor, syntax_error};
use crate::parse::interval;
use sqlparser::tokenizer::Token;

/// A row pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Pattern {
    /// No rows: `()`.
    Empty,
    /// A row that the variable's condition holds for.
    Variable(u32),
    /// `^`.
    Start,
    /// `$`.
    End,
    /// One after the other.
    Concat(Vec<Pattern>),
    /// `|`, the first preferred.
    Either(Vec<Pattern>),
    /// A quantifier.
    Repeat {
        /// What is repeated.
        inner: Box<Pattern>,
        /// At least.
        min: u32,
        /// At most.
        max: Option<u32>,
        /// As often as possible; otherwise (`?` after the quantifier) as seldom.
        greedy: bool,
    },
    /// `PERMUTE(..)`.
    Permute(Vec<Pattern>),
    /// `{- .. -}`.
    Exclude(Box<Pattern>),
}

/// Rows of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowsPerMatch {
    /// ONE ROW PER MATCH.
    One,
    /// ALL ROWS PER MATCH SHOW EMPTY MATCHES.
    ShowEmpty,
    /// ALL ROWS PER MATCH OMIT EMPTY MATCHES.
    OmitEmpty,
    /// ALL ROWS PER MATCH WITH UNMATCHED ROWS.
    WithUnmatched,
}

/// Where the next match may begin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Skip {
    /// After the last row of the match.
    PastLastRow,
    /// After its first row.
    ToNextRow,
    /// At the first row mapped to one of these.
    ToFirst(Vec<u32>),
    /// At the last row mapped to one of these.
    ToLast(Vec<u32>),
}

/// What the text says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clauses {
    /// Names of the pattern's variables: lower case unless quoted.
    pub variables: Vec<String>,
    /// The same as they are first written.
    pub shown: Vec<String>,
    /// SUBSET.
    pub subsets: Vec<(String, Vec<u32>)>,
    /// PATTERN.
    pub pattern: Pattern,
    /// ONE ROW or ALL ROWS.
    pub rows: RowsPerMatch,
    /// AFTER MATCH.
    pub skip: Skip,
    /// WITHIN, and where it stands.
    pub within: Option<(String, usize)>,
}

impl Clauses {
    /// The variables a name stands for.
    pub fn named(&self, name: &str) -> Option<Vec<u32>> {
        let variable = self.variables.iter().position(|v| v == name).map(|i| vec![i as u32]);
        variable.or_else(|| self.subsets.iter().find(|s| s.0 == name).map(|s| s.1.clone()))
    }
}

/// Words that a clause starts with.
const STARTS: &[&[&str]] = &[
    &["one", "row", "per", "match"],
    &["all", "rows", "per", "match"],
    &["after", "match", "skip"],
    &["pattern"],
    &["within"],
    &["subset"],
    &["define"],
];

/// The clauses from `c.pos` up to DEFINE, where it stops.
pub(crate) fn take(c: &mut Cursor<'_>) -> Result<Clauses> {
    let rows = rows_per_match(c)?;
    let skip_at = c.position();
    let skip = skip(c)?;
    c.expect(&["pattern"])?;
    let (variables, pattern) = pattern(c)?;
    let mut within = None;
    if c.looking_at(&["within"]) {
        let at = c.position();
        c.pos += 1;
        within = Some((interval(c)?, at));
    }
    let subsets = if c.eat(&["subset"]) { subsets(c, &variables)? } else { Vec::new() };
    if within.is_none() && c.looking_at(&["within"]) {
        let at = c.position();
        c.pos += 1;
        within = Some((interval(c)?, at));
    }
    if !c.looking_at(&["define"]) {
        return Err(c.unexpected("DEFINE"));
    }
    if rows == RowsPerMatch::WithUnmatched && excludes(&pattern) {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "WITH UNMATCHED ROWS cannot be combined with {- .. -}")
            .hint("Use SHOW EMPTY MATCHES, or take the exclusion out of the pattern.")
            .at(skip_at));
    }
    let mut clauses = Clauses {
        variables: variables.iter().map(|v| v.0.clone()).collect(),
        shown: variables.into_iter().map(|v| v.1).collect(),
        subsets,
        pattern,
        rows,
        skip: Skip::PastLastRow,
        within,
    };
    clauses.skip = match skip {
        Target::PastLastRow => Skip::PastLastRow,
        Target::ToNextRow => Skip::ToNextRow,
        Target::To { first, name, at } => {
            let Some(of) = clauses.named(&name) else {
                return Err(SqlError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("AFTER MATCH SKIP names \"{name}\", which is not a variable of the pattern"),
                )
                .at(at));
            };
            if first { Skip::ToFirst(of) } else { Skip::ToLast(of) }
        }
    };
    Ok(clauses)
}

/// True if a clause of ours starts here.
pub(crate) fn starts(c: &Cursor<'_>, at: usize) -> bool {
    let c = Cursor { pos: at, ..c.clone() };
    STARTS.iter().any(|words| c.looking_at(words))
        && (!c.looking_at(&["pattern"]) || c.nth(1).is_some_and(|t| t.token.token == Token::LParen))
}

enum Target {
    PastLastRow,
    ToNextRow,
    To { first: bool, name: String, at: usize },
}

fn rows_per_match(c: &mut Cursor<'_>) -> Result<RowsPerMatch> {
    if c.eat(&["one", "row", "per", "match"]) {
        return Ok(RowsPerMatch::One);
    }
    if !c.eat(&["all", "rows", "per", "match"]) {
        return Ok(RowsPerMatch::One);
    }
    if c.eat(&["omit"]) {
        c.expect(&["empty", "matches"])?;
        return Ok(RowsPerMatch::OmitEmpty);
    }
    if c.eat(&["with"]) {
        c.expect(&["unmatched", "rows"])?;
        return Ok(RowsPerMatch::WithUnmatched);
    }
    if c.eat(&["show"]) {
        c.expect(&["empty", "matches"])?;
    }
    Ok(RowsPerMatch::ShowEmpty)
}

fn skip(c: &mut Cursor<'_>) -> Result<Target> {
    if !c.eat(&["after", "match", "skip"]) {
        return Ok(Target::PastLastRow);
    }
    if c.eat(&["past"]) {
        c.expect(&["last", "row"])?;
        return Ok(Target::PastLastRow);
    }
    if !c.eat(&["to"]) {
        return Err(c.unexpected("PAST LAST ROW or TO after AFTER MATCH SKIP"));
    }
    if c.eat(&["next", "row"]) {
        return Ok(Target::ToNextRow);
    }
    // FIRST and LAST are names too: a word follows them where they are not.
    let before_name = |c: &Cursor<'_>| {
        c.nth(1).is_some_and(|t| matches!(t.token.token, Token::Word(_)))
            && !c.nth(1).is_some_and(|t| t.is_word("pattern"))
    };
    let first = c.looking_at(&["first"]) && before_name(c);
    if first || c.looking_at(&["last"]) && before_name(c) {
        c.pos += 1;
    }
    let at = c.position();
    Ok(Target::To { first, name: c.ident("a variable of the pattern")?, at })
}

fn subsets(c: &mut Cursor<'_>, variables: &[(String, String)]) -> Result<Vec<(String, Vec<u32>)>> {
    let mut out: Vec<(String, Vec<u32>)> = Vec::new();
    loop {
        let at = c.position();
        let name = c.ident("the name of a subset")?;
        if variables.iter().any(|v| v.0 == name) || out.iter().any(|s| s.0 == name) {
            return Err(
                SqlError::new(SqlState::DUPLICATE_TABLE, format!("variable \"{name}\" is there already")).at(at)
            );
        }
        c.expect_token(&Token::Eq)?;
        c.expect_token(&Token::LParen)?;
        let mut of = Vec::new();
        loop {
            let at = c.position();
            let member = c.ident("a variable of the pattern")?;
            let Some(i) = variables.iter().position(|v| v.0 == member) else {
                let message = format!("SUBSET names \"{member}\", which is not a variable of the pattern");
                return Err(SqlError::new(SqlState::UNDEFINED_OBJECT, message).at(at));
            };
            if !of.contains(&(i as u32)) {
                of.push(i as u32);
            }
            if !c.eat_token(&Token::Comma) {
                break;
            }
        }
        c.expect_token(&Token::RParen)?;
        out.push((name, of));
        if !c.eat_token(&Token::Comma) {
            return Ok(out);
        }
    }
}

fn excludes(p: &Pattern) -> bool {
    match p {
        Pattern::Exclude(_) => true,
        Pattern::Concat(all) | Pattern::Either(all) | Pattern::Permute(all) => all.iter().any(excludes),
        Pattern::Repeat { inner, .. } => excludes(inner),
        Pattern::Empty | Pattern::Variable(_) | Pattern::Start | Pattern::End => false,
    }
}

/// The bracketed pattern at `c.pos`, and its variables with how they are written.
fn pattern(c: &mut Cursor<'_>) -> Result<(Vec<(String, String)>, Pattern)> {
    if !c.is_token(&Token::LParen) {
        return Err(c.unexpected("the pattern in parentheses"));
    }
    let open = c.pos;
    let close = c.closing(open);
    let (Some(from), Some(to)) = (c.src.tokens.get(open), c.src.tokens.get(close).filter(|_| close < c.end)) else {
        return Err(syntax_error(c.src, close.min(c.src.tokens.len()), "\")\" at the end of the pattern"));
    };
    // The operators of patterns are other tokens elsewhere (`?|`, `-}`): the pattern is read by its characters.
    let text = c.src.text.get(from.end.bytes..to.start.bytes).unwrap_or_default();
    let mut reader = Reader { chars: text.chars().collect(), at: 0, start: from.end.chars, variables: Vec::new() };
    let pattern = reader.either(0)?;
    if reader.at < reader.chars.len() {
        return Err(reader.unexpected("a variable, a quantifier or \"|\""));
    }
    c.pos = close + 1;
    if reader.variables.is_empty() {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "the pattern has no variables").at(from.end.chars + 1));
    }
    Ok((reader.variables, pattern))
}

/// How deep a pattern may be nested.
const NESTING_MAX: usize = 64;
/// How often a bounded quantifier may repeat.
const REPEAT_MAX: u32 = 10_000;

struct Reader {
    chars: Vec<char>,
    at: usize,
    /// Characters of the statement before the pattern.
    start: usize,
    variables: Vec<(String, String)>,
}

impl Reader {
    fn unexpected(&self, expected: &str) -> SqlError {
        let message = match self.chars.get(self.at) {
            Some(c) => format!("syntax error in the pattern at or near \"{c}\""),
            None => "syntax error at the end of the pattern".to_owned(),
        };
        SqlError::new(SqlState::SYNTAX_ERROR, message)
            .detail(format!("Expected {expected}."))
            .at(self.start + self.at + 1)
    }

    fn blanks(&mut self) {
        loop {
            let rest = &self.chars[self.at..];
            match rest {
                [c, ..] if c.is_whitespace() => self.at += 1,
                ['/', '*', rest @ ..] => {
                    let end = rest.windows(2).position(|w| w == ['*', '/']);
                    self.at = end.map_or(self.chars.len(), |e| self.at + 2 + e + 2);
                }
                ['-', '-', rest @ ..] if rest.first() != Some(&'}') => {
                    let end = rest.iter().position(|c| *c == '\n');
                    self.at = end.map_or(self.chars.len(), |e| self.at + 2 + e);
                }
                _ => return,
            }
        }
    }

    fn peek(&mut self) -> Option<char> {
        self.blanks();
        self.chars.get(self.at).copied()
    }

    fn eat(&mut self, c: char) -> bool {
        let yes = self.peek() == Some(c);
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, c: char, what: &str) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(self.unexpected(what)) }
    }

    fn either(&mut self, depth: usize) -> Result<Pattern> {
        if depth > NESTING_MAX {
            let message = "the pattern is nested too deeply";
            return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, message).at(self.start + self.at + 1));
        }
        let mut all = vec![self.concat(depth)?];
        while self.eat('|') {
            all.push(self.concat(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Pattern::Either(all) })
    }

    fn concat(&mut self, depth: usize) -> Result<Pattern> {
        let mut all = Vec::new();
        while let Some(c) = self.peek() {
            let ends = matches!(c, '|' | ')' | ',') || c == '-' && self.chars.get(self.at + 1) == Some(&'}');
            if ends {
                break;
            }
            let factor = self.factor(depth)?;
            all.push(self.quantified(factor)?);
        }
        match all.len() {
            0 => Err(self.unexpected("a variable")),
            1 => Ok(all.remove(0)),
            _ => Ok(Pattern::Concat(all)),
        }
    }

    fn factor(&mut self, depth: usize) -> Result<Pattern> {
        match self.peek() {
            Some('^') => {
                self.at += 1;
                Ok(Pattern::Start)
            }
            Some('$') => {
                self.at += 1;
                Ok(Pattern::End)
            }
            Some('(') => {
                self.at += 1;
                if self.eat(')') {
                    return Ok(Pattern::Empty);
                }
                let inner = self.either(depth + 1)?;
                self.expect(')', "\")\"")?;
                Ok(inner)
            }
            Some('{') if self.chars.get(self.at + 1) == Some(&'-') => {
                self.at += 2;
                let inner = self.either(depth + 1)?;
                self.expect('-', "\"-}\"")?;
                if self.chars.get(self.at) != Some(&'}') {
                    return Err(self.unexpected("\"-}\""));
                }
                self.at += 1;
                Ok(Pattern::Exclude(Box::new(inner)))
            }
            _ => {
                let (name, shown) = self.name()?;
                if name == "permute" && !shown.starts_with('"') && self.eat('(') {
                    return self.permute(depth);
                }
                let shown = shown.trim_matches('"').replace("\"\"", "\"");
                let found = self.variables.iter().position(|v| v.0 == name);
                let i = found.unwrap_or_else(|| {
                    self.variables.push((name, shown));
                    self.variables.len() - 1
                });
                Ok(Pattern::Variable(i as u32))
            }
        }
    }

    fn permute(&mut self, depth: usize) -> Result<Pattern> {
        let at = self.start + self.at;
        let mut all = vec![self.either(depth + 1)?];
        while self.eat(',') {
            all.push(self.either(depth + 1)?);
        }
        self.expect(')', "\",\" or \")\"")?;
        const PERMUTE_MAX: usize = 6;
        if all.len() > PERMUTE_MAX {
            return Err(SqlError::new(
                SqlState::STATEMENT_TOO_COMPLEX,
                format!("PERMUTE of {} patterns is too large", all.len()),
            )
            .hint(format!("PERMUTE can have up to {PERMUTE_MAX} patterns."))
            .at(at));
        }
        Ok(Pattern::Permute(all))
    }

    fn name(&mut self) -> Result<(String, String)> {
        let from = self.at;
        if self.peek() == Some('"') {
            let mut value = String::new();
            self.at += 1;
            loop {
                match (self.chars.get(self.at), self.chars.get(self.at + 1)) {
                    (Some('"'), Some('"')) => {
                        value.push('"');
                        self.at += 2;
                    }
                    (Some('"'), _) => {
                        self.at += 1;
                        return Ok((value, self.chars[from..self.at].iter().collect()));
                    }
                    (Some(c), _) => {
                        value.push(*c);
                        self.at += 1;
                    }
                    (None, _) => return Err(self.unexpected("the end of the quoted name")),
                }
            }
        }
        let from = self.at;
        if !self.chars.get(from).is_some_and(|c| c.is_alphabetic() || *c == '_') {
            return Err(self.unexpected("a variable"));
        }
        while self.chars.get(self.at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
            self.at += 1;
        }
        let shown: String = self.chars[from..self.at].iter().collect();
        Ok((shown.to_ascii_lowercase(), shown))
    }

    fn quantified(&mut self, inner: Pattern) -> Result<Pattern> {
        let at = self.start + self.at + 1;
        let (min, max) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') if self.chars.get(self.at + 1) != Some(&'-') => {
                self.at += 1;
                let min = self.number()?;
                let bounds = if self.eat(',') { (min.unwrap_or(0), self.number()?) } else { (min.unwrap_or(0), min) };
                if self.peek() != Some('}') || min.is_none() && bounds.1.is_none() {
                    return Err(self.unexpected("a quantifier such as {2}, {2,}, {,5} or {2,5}"));
                }
                bounds
            }
            _ => return Ok(inner),
        };
        self.at += 1;
        if let Some(max) = max.filter(|m| *m < min || *m == 0) {
            let message = format!("the quantifier {{{min},{max}}} has no repetitions");
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, message).at(at));
        }
        if matches!(inner, Pattern::Start | Pattern::End) {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "an anchor cannot be repeated").at(at));
        }
        let greedy = !self.eat('?');
        if matches!(self.peek(), Some('*' | '+' | '?')) {
            return Err(self.unexpected("one quantifier only"));
        }
        Ok(Pattern::Repeat { inner: Box::new(inner), min, max, greedy })
    }

    fn number(&mut self) -> Result<Option<u32>> {
        self.blanks();
        let from = self.at;
        while self.chars.get(self.at).is_some_and(char::is_ascii_digit) {
            self.at += 1;
        }
        if from == self.at {
            return Ok(None);
        }
        let digits: String = self.chars[from..self.at].iter().collect();
        match digits.parse::<u32>() {
            Ok(n) if n <= REPEAT_MAX => Ok(Some(n)),
            _ => Err(SqlError::new(
                SqlState::STATEMENT_TOO_COMPLEX,
                format!("the quantifier {digits} is larger than {REPEAT_MAX}"),
            )
            .at(self.start + from + 1)),
        }
    }
}

impl Pattern {
    /// As SQL writes it.
    pub fn text(&self, names: &[String]) -> String {
        let list = |all: &[Self], between: &str| -> String {
            all.iter().map(|p| p.grouped(names)).collect::<Vec<_>>().join(between)
        };
        match self {
            Self::Empty => "()".to_owned(),
            Self::Variable(v) => names.get(*v as usize).cloned().unwrap_or_default(),
            Self::Start => "^".to_owned(),
            Self::End => "$".to_owned(),
            Self::Concat(all) => list(all, " "),
            Self::Either(all) => list(all, " | "),
            Self::Permute(all) => {
                format!("PERMUTE({})", all.iter().map(|p| p.text(names)).collect::<Vec<_>>().join(", "))
            }
            Self::Exclude(inner) => format!("{{- {} -}}", inner.text(names)),
            Self::Repeat { inner, min, max, greedy } => {
                let quantifier = match (min, max) {
                    (0, None) => "*".to_owned(),
                    (1, None) => "+".to_owned(),
                    (0, Some(1)) => "?".to_owned(),
                    (n, None) => format!("{{{n},}}"),
                    (n, Some(m)) if n == m => format!("{{{n}}}"),
                    (n, Some(m)) => format!("{{{n},{m}}}"),
                };
                let reluctant = if *greedy { "" } else { "?" };
                format!("{}{quantifier}{reluctant}", inner.grouped(names))
            }
        }
    }

    fn grouped(&self, names: &[String]) -> String {
        match self {
            Self::Concat(_) | Self::Either(_) => format!("({})", self.text(names)),
            other => other.text(names),
        }
    }
}
