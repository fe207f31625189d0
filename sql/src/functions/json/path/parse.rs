//! The text of a SQL/JSON path to a tree.
//!
//! Known are `lax` and `strict`, `$`, `@`, `$variable`, keys, `.*`, `.**`, subscripts of numbers and `last`, filters,
//! arithmetic, comparisons, `&&`, `||`, `!`, `exists`, `starts with`, `like_regex`, `is unknown` and the methods of
//! [`Method`]. Subscripts that are computed and methods of dates are refused.

use crate::error::{SqlError, SqlState};

/// Paths nested deeper than this are refused: reading and evaluation recurse.
const DEPTH_MAX: usize = 64;

/// A path with its mode.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::functions::json) struct Path {
    pub(super) strict: bool,
    pub(super) expr: Expr,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// `$`
    Root,
    /// `@`
    Current,
    /// `$name`
    Variable(String),
    Null,
    Bool(bool),
    Number(String),
    String(String),
    /// Something and what is done with it, step by step.
    Steps(Box<Expr>, Vec<Step>),
    /// `-x`, or `+x`.
    Sign {
        negative: bool,
        of: Box<Expr>,
    },
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    /// A condition where a value is expected.
    Condition(Box<Condition>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Key(String),
    AnyKey,
    AnyElement,
    /// `[a, b to c]`
    Elements(Vec<(Subscript, Option<Subscript>)>),
    /// `.**`, from this level to that; `None` is the last.
    Deep {
        from: Option<u32>,
        to: Option<u32>,
    },
    Filter(Box<Condition>),
    Method(Method),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subscript {
    At(i64),
    /// So many before the last.
    Last(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Type,
    Size,
    Double,
    Number,
    Integer,
    Ceiling,
    Floor,
    Abs,
    Boolean,
    String,
    KeyValue,
}

const METHODS: [(&str, Method); 12] = [
    ("type", Method::Type),
    ("size", Method::Size),
    ("double", Method::Double),
    ("number", Method::Number),
    ("integer", Method::Integer),
    ("bigint", Method::Integer),
    ("ceiling", Method::Ceiling),
    ("floor", Method::Floor),
    ("abs", Method::Abs),
    ("boolean", Method::Boolean),
    ("string", Method::String),
    ("keyvalue", Method::KeyValue),
];

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    IsUnknown(Box<Condition>),
    Exists(Expr),
    Compare(Comparison, Expr, Expr),
    StartsWith(Expr, Expr),
    LikeRegex(Expr, Pattern),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A compiled regular expression; equal if its text is.
#[derive(Debug, Clone)]
pub(super) struct Pattern(pub(super) regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

type Result<T> = std::result::Result<T, SqlError>;

impl Path {
    /// Reads a path.
    pub(in crate::functions::json) fn parse(text: &str) -> Result<Self> {
        let mut p = Parser { text, at: 0, depth: 0 };
        let strict = match () {
            () if p.word("strict") => true,
            () => {
                p.word("lax");
                false
            }
        };
        let expr = p.either()?;
        p.space();
        if p.at < text.len() {
            return p.bad("the path ends here");
        }
        Ok(Self { strict, expr: expr.value() })
    }
}

/// What an expression turned out to be.
enum Either {
    Value(Expr),
    Condition(Condition),
}

impl Either {
    fn value(self) -> Expr {
        match self {
            Self::Value(e) => e,
            Self::Condition(c) => Expr::Condition(Box::new(c)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn bad<T>(&self, expected: &str) -> Result<T> {
        let near: String = self.text[self.at..].chars().take(20).collect();
        let message = match near.is_empty() {
            true => "syntax error at end of jsonpath input".to_owned(),
            false => format!("syntax error at or near \"{near}\" of jsonpath input"),
        };
        Err(SqlError::new(SqlState::SYNTAX_ERROR, message).detail(format!("Expected that {expected}.")))
    }

    fn unsupported<T>(&self, what: &str) -> Result<T> {
        Err(SqlError::unsupported(format!("{what} in a jsonpath is not supported")))
    }

    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn eat(&mut self, symbol: &str) -> bool {
        self.space();
        let found = self.text[self.at..].starts_with(symbol);
        self.at += if found { symbol.len() } else { 0 };
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<()> {
        if self.eat(symbol) { Ok(()) } else { self.bad(&format!("\"{symbol}\" follows")) }
    }

    fn name_length(&self) -> usize {
        let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        self.text[self.at..].chars().take_while(|c| part(*c)).map(char::len_utf8).sum()
    }

    /// Eats a word that stands alone.
    fn word(&mut self, word: &str) -> bool {
        self.space();
        let n = self.name_length();
        let found = &self.text[self.at..self.at + n] == word;
        self.at += if found { n } else { 0 };
        found
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let message = format!("a jsonpath is nested deeper than {DEPTH_MAX} levels");
            return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, message));
        }
        let done = f(self);
        self.depth -= 1;
        done
    }

    /// A value or a condition, with `||` loosest.
    fn either(&mut self) -> Result<Either> {
        self.deeper(|p| {
            let mut left = p.conjunction()?;
            while p.eat("||") {
                let (a, b) = (p.condition_of(left)?, p.conjunction()?);
                left = Either::Condition(Condition::Or(Box::new(a), Box::new(p.condition_of(b)?)));
            }
            Ok(left)
        })
    }

    fn conjunction(&mut self) -> Result<Either> {
        let mut left = self.comparison()?;
        while self.eat("&&") {
            let (a, b) = (self.condition_of(left)?, self.comparison()?);
            left = Either::Condition(Condition::And(Box::new(a), Box::new(self.condition_of(b)?)));
        }
        Ok(left)
    }

    fn condition_of(&self, e: Either) -> Result<Condition> {
        match e {
            Either::Condition(c) => Ok(c),
            Either::Value(Expr::Condition(c)) => Ok(*c),
            Either::Value(_) => self.bad("a condition stands before"),
        }
    }

    fn comparison(&mut self) -> Result<Either> {
        const SIGNS: [(&str, Comparison); 8] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<>", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ];
        self.space();
        if !self.text[self.at..].starts_with("!=") && self.eat("!") {
            let inner = self.negated()?;
            return Ok(Either::Condition(Condition::Not(Box::new(inner))));
        }
        if self.word("exists") {
            let inner = self.parenthesised(Parser::sum)?;
            return Ok(Either::Condition(Condition::Exists(inner)));
        }
        let left = self.sum()?;
        for (sign, comparison) in SIGNS {
            if self.eat(sign) {
                let right = self.sum()?;
                return Ok(Either::Condition(Condition::Compare(comparison, left, right)));
            }
        }
        if self.word("starts") {
            if !self.word("with") {
                return self.bad("\"with\" follows");
            }
            let right = self.primary()?;
            return Ok(Either::Condition(Condition::StartsWith(left, right)));
        }
        if self.word("like_regex") {
            return Ok(Either::Condition(Condition::LikeRegex(left, self.pattern()?)));
        }
        if let Expr::Condition(c) = left {
            if self.word("is") {
                if !self.word("unknown") {
                    return self.bad("\"unknown\" follows");
                }
                return Ok(Either::Condition(Condition::IsUnknown(c)));
            }
            return Ok(Either::Condition(*c));
        }
        Ok(Either::Value(left))
    }

    /// What `!` is said of: a condition in parentheses, or `exists`.
    fn negated(&mut self) -> Result<Condition> {
        if self.word("exists") {
            return Ok(Condition::Exists(self.parenthesised(Parser::sum)?));
        }
        self.parenthesised(|p| {
            let inner = p.either()?;
            p.condition_of(inner)
        })
    }

    fn parenthesised<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.expect("(")?;
        let inner = self.deeper(f)?;
        self.expect(")")?;
        Ok(inner)
    }

    fn pattern(&mut self) -> Result<Pattern> {
        self.space();
        let text = self.string()?;
        let mut builder = String::new();
        let mut literal = false;
        if self.word("flag") {
            self.space();
            for flag in self.string()?.chars() {
                match flag {
                    'i' | 's' | 'm' | 'x' => builder.push(flag),
                    'q' => literal = true,
                    _ => return self.bad("flags are of i, s, m, x and q"),
                }
            }
        }
        let text = if literal { regex::escape(&text) } else { text };
        let text = if builder.is_empty() { text } else { format!("(?{builder}){text}") };
        let compiled = regex::Regex::new(&text);
        compiled.map(Pattern).map_err(|_| {
            SqlError::new(SqlState::INVALID_REGULAR_EXPRESSION, format!("invalid regular expression: {text}"))
        })
    }

    fn sum(&mut self) -> Result<Expr> {
        let mut left = self.product()?;
        loop {
            let operator = match () {
                () if self.eat("+") => Arithmetic::Add,
                () if self.eat("-") => Arithmetic::Subtract,
                () => return Ok(left),
            };
            left = Expr::Arithmetic(operator, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Expr> {
        let mut left = self.signed()?;
        loop {
            let operator = match () {
                () if self.eat("*") => Arithmetic::Multiply,
                () if self.eat("/") => Arithmetic::Divide,
                () if self.eat("%") => Arithmetic::Modulo,
                () => return Ok(left),
            };
            left = Expr::Arithmetic(operator, Box::new(left), Box::new(self.signed()?));
        }
    }

    fn signed(&mut self) -> Result<Expr> {
        let negative = self.eat("-");
        if negative || self.eat("+") {
            let of = self.deeper(Self::signed)?;
            return Ok(Expr::Sign { negative, of: Box::new(of) });
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Expr> {
        self.space();
        let base = match self.text[self.at..].chars().next() {
            Some('$') => {
                self.at += 1;
                if self.text[self.at..].starts_with('"') {
                    Expr::Variable(self.string()?)
                } else {
                    let n = self.name_length();
                    let name = self.text[self.at..self.at + n].to_owned();
                    self.at += n;
                    if name.is_empty() { Expr::Root } else { Expr::Variable(name) }
                }
            }
            Some('@') => {
                self.at += 1;
                Expr::Current
            }
            Some('"') => Expr::String(self.string()?),
            Some('(') => self.parenthesised(Parser::either)?.value(),
            Some(c) if c.is_ascii_digit() || c == '.' => Expr::Number(self.number()?),
            _ => match () {
                () if self.word("true") => Expr::Bool(true),
                () if self.word("false") => Expr::Bool(false),
                () if self.word("null") => Expr::Null,
                () if self.word("last") => return self.unsupported("a subscript that is computed"),
                () => return self.bad("a value follows"),
            },
        };
        let steps = self.steps()?;
        Ok(if steps.is_empty() { base } else { Expr::Steps(Box::new(base), steps) })
    }

    fn steps(&mut self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        loop {
            if self.eat(".") {
                steps.push(self.member()?);
            } else if self.eat("[") {
                steps.push(self.subscripts()?);
            } else if self.eat("?") {
                let condition = self.parenthesised(|p| {
                    let inner = p.either()?;
                    p.condition_of(inner)
                })?;
                steps.push(Step::Filter(Box::new(condition)));
            } else {
                return Ok(steps);
            }
        }
    }

    fn member(&mut self) -> Result<Step> {
        if self.eat("**") {
            return self.deep();
        }
        if self.eat("*") {
            return Ok(Step::AnyKey);
        }
        self.space();
        if self.text[self.at..].starts_with('"') {
            return Ok(Step::Key(self.string()?));
        }
        let n = self.name_length();
        let name = self.text[self.at..self.at + n].to_owned();
        if n == 0 || name.starts_with(|c: char| c.is_ascii_digit()) {
            return self.bad("a key follows");
        }
        self.at += n;
        if !self.eat("(") {
            return Ok(Step::Key(name));
        }
        match METHODS.iter().find(|(m, _)| *m == name) {
            Some((_, method)) if self.eat(")") => Ok(Step::Method(*method)),
            _ => self.unsupported(&format!("the method {name}()")),
        }
    }

    fn deep(&mut self) -> Result<Step> {
        if !self.eat("{") {
            return Ok(Step::Deep { from: Some(0), to: None });
        }
        let from = self.level()?;
        let to = if self.word("to") { self.level()? } else { from };
        self.expect("}")?;
        Ok(Step::Deep { from, to })
    }

    fn level(&mut self) -> Result<Option<u32>> {
        if self.word("last") {
            return Ok(None);
        }
        match self.number()?.parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => self.bad("a level is a whole number"),
        }
    }

    fn subscripts(&mut self) -> Result<Step> {
        if self.eat("*") {
            self.expect("]")?;
            return Ok(Step::AnyElement);
        }
        let mut all = Vec::new();
        loop {
            let from = self.subscript()?;
            let to = if self.word("to") { Some(self.subscript()?) } else { None };
            all.push((from, to));
            if self.eat("]") {
                return Ok(Step::Elements(all));
            }
            self.expect(",")?;
        }
    }

    fn subscript(&mut self) -> Result<Subscript> {
        if self.word("last") {
            let back = match () {
                () if self.eat("-") => self.index()?,
                () if self.eat("+") => -self.index()?,
                () => 0,
            };
            return Ok(Subscript::Last(back));
        }
        let negative = self.eat("-");
        self.space();
        if !self.text[self.at..].starts_with(|c: char| c.is_ascii_digit()) {
            return self.unsupported("a subscript that is computed");
        }
        let n = self.index()?;
        Ok(Subscript::At(if negative { -n } else { n }))
    }

    fn index(&mut self) -> Result<i64> {
        let text = self.number()?;
        // As Postgres does: the fraction is cut off.
        match text.split('.').next().unwrap_or_default().parse() {
            Ok(n) if n <= i64::from(i32::MAX) => Ok(n),
            _ => Err(SqlError::new(SqlState("22033"), "jsonpath array subscript is out of integer range")),
        }
    }

    fn number(&mut self) -> Result<String> {
        self.space();
        let bytes = self.text.as_bytes();
        let from = self.at;
        let digits = |at: &mut usize| {
            let start = *at;
            while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
                *at += 1;
            }
            *at > start
        };
        let whole = digits(&mut self.at);
        let mut fraction = false;
        if bytes.get(self.at) == Some(&b'.') && (!whole || bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit)) {
            self.at += 1;
            fraction = digits(&mut self.at);
        }
        if !whole && !fraction {
            return self.bad("a number follows");
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(bytes.get(self.at), Some(b'+' | b'-')));
            if !digits(&mut self.at) {
                return self.bad("an exponent follows");
            }
        }
        let text = &self.text[from..self.at];
        Ok(if whole { text.to_owned() } else { format!("0{text}") })
    }

    /// A string in double quotes, with the escapes of JSON.
    fn string(&mut self) -> Result<String> {
        let mut reader = super::super::value::Reader::new(&self.text[self.at..]);
        if !self.text[self.at..].starts_with('"') {
            return self.bad("a string in double quotes follows");
        }
        let raw = reader.skip()?;
        let value = super::super::value::parse(raw)?;
        self.at += raw.len();
        match value {
            super::super::value::Json::String(s) => Ok(s.into_owned()),
            _ => self.bad("a string follows"),
        }
    }
}
