//! Tokens with their places in the text, without whitespace and comments.

use sqlparser::dialect::Dialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::error::{Result, SqlError, SqlState};
use crate::span::{Place, Walker};

/// A token that means something.
#[derive(Debug, Clone)]
pub(crate) struct Tok {
    /// The token, with line and column.
    pub token: TokenWithSpan,
    /// Its first character.
    pub start: Place,
    /// The place after its last character.
    pub end: Place,
}

impl Tok {
    /// The keyword of an unquoted word.
    pub fn keyword(&self) -> Keyword {
        match &self.token.token {
            Token::Word(w) if w.quote_style.is_none() => w.keyword,
            _ => Keyword::NoKeyword,
        }
    }

    /// Whether this is the unquoted word, in any case.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.token.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
    }
}

/// Text and its tokens.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// What was tokenised.
    pub text: &'a str,
    /// Without whitespace and comments.
    pub tokens: Vec<Tok>,
    /// Characters of `text`.
    pub chars: usize,
}

impl<'a> Source<'a> {
    /// Splits text into tokens. The error's position counts from the start of `text`.
    pub fn new(dialect: &dyn Dialect, text: &'a str) -> Result<Self> {
        let chars = text.chars().count();
        let raw = Tokenizer::new(dialect, text).tokenize_with_location().map_err(|e| {
            let position = crate::span::char_position(text, e.location).unwrap_or(chars + 1);
            lexical_error(&e.message, position)
        })?;
        let mut walker = Walker::new(text);
        let mut tokens = Vec::with_capacity(raw.len());
        for token in raw {
            let start = walker.advance(token.span.start);
            let end = walker.advance(token.span.end);
            if !matches!(token.token, Token::Whitespace(_)) {
                tokens.push(Tok { token, start, end });
            }
        }
        Ok(Self { text, tokens, chars })
    }

    /// The text from the first character of token `from` to the last one of token `to - 1`.
    pub fn slice(&self, from: usize, to: usize) -> &'a str {
        match (self.tokens.get(from), to.checked_sub(1).and_then(|i| self.tokens.get(i))) {
            (Some(a), Some(b)) if a.start.bytes <= b.end.bytes => {
                self.text.get(a.start.bytes..b.end.bytes).unwrap_or_default()
            }
            _ => "",
        }
    }

    /// The text of one token.
    pub fn token_text(&self, i: usize) -> &'a str {
        self.slice(i, i + 1)
    }
}

fn lexical_error(message: &str, position: usize) -> SqlError {
    let m = message.to_ascii_lowercase();
    let text = if m.contains("unterminated dollar") {
        "unterminated dollar-quoted string"
    } else if m.contains("unterminated") {
        "unterminated quoted string"
    } else if m.contains("comment") {
        "unterminated /* comment"
    } else if m.contains("delimiter") {
        "unterminated quoted identifier"
    } else {
        ""
    };
    let message = if text.is_empty() { format!("syntax error: {}", message.trim()) } else { text.to_string() };
    SqlError::new(SqlState::SYNTAX_ERROR, message).at(position)
}
