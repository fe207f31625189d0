//! Functions of regular expressions, and patterns of SIMILAR TO as such.
//!
//! The syntax of expressions is that of the `regex` crate, as for the operators `~` and the functions of DataFusion: no
//! back references, no look around.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, ListBuilder, StringViewBuilder};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::Result;
use regex::{Regex, RegexBuilder};

use super::super::define::{Call, Def, Kind, fail, kinds, user};
use super::{Text, texts};
use crate::error::{SqlError, SqlState};
use crate::types::list_of;

/// The regular expression of a pattern of SIMILAR TO.
pub(crate) const SIMILAR: &str = "similar_to_escape";
/// The part of a text that matches: `substring(text FROM pattern)`.
pub(crate) const SUBSTRING: &str = "substring_regexp";

pub(super) const DEFS: &[Def] = &[
    Def {
        name: SIMILAR,
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Text, Kind::Text], 1),
        gives: |_| DataType::Utf8View,
        strict: true,
        run: |c| {
            c.texts(|row| {
                let escape = match c.args.len() {
                    1 => Some('\\'),
                    _ => single(c.text(1).value(row))?,
                };
                similar(c.text(0).value(row), escape).map(Some)
            })
        },
    },
    Def {
        name: SUBSTRING,
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Text, Kind::Text], 0),
        gives: |_| DataType::Utf8View,
        strict: true,
        run: |c| {
            let mut compiled = Compiled::default();
            c.texts(|row| {
                let found = compiled.get(c.text(1).value(row), "")?.captures(c.text(0).value(row));
                Ok(found.and_then(|f| f.get(usize::from(f.len() > 1)).map(|m| m.as_str().to_owned())))
            })
        },
    },
    Def {
        name: "regexp_substr",
        aliases: &[],
        takes: |t| {
            use Kind::{Long, Text};
            kinds(t, &[Text, Text, Long, Long, Text, Long], 4)
        },
        gives: |_| DataType::Utf8View,
        strict: true,
        run: regexp_substr,
    },
    Def {
        name: "regexp_split_to_array",
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Text, Kind::Text, Kind::Text], 1),
        gives: |_| texts(),
        strict: true,
        run: |c| lists(c, |regex, text| split(regex, text).into_iter().map(|s| Some(s.to_owned())).collect()),
    },
    Def {
        name: "regexp_match",
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Text, Kind::Text, Kind::Text], 1),
        gives: |_| texts(),
        strict: true,
        run: regexp_match,
    },
    Def {
        name: "regexp_all_matches",
        aliases: &[],
        takes: |t| kinds(t, &[Kind::Text, Kind::Text, Kind::Text], 1),
        gives: |_| list_of(texts()),
        strict: true,
        run: all_matches,
    },
];

fn single(escape: &str) -> Text<Option<char>> {
    let mut chars = escape.chars();
    let first = chars.next();
    match chars.next() {
        None => Ok(first),
        Some(_) => Err(SqlError::new(SqlState::INVALID_ESCAPE_SEQUENCE, "invalid escape string")
            .hint("Escape string must be empty or one character.")),
    }
}

/// `%` is any text, `_` any character; `|`, `*`, `+`, `?`, braces, parentheses and brackets are those of regular
/// expressions; all of the text has to match.
fn similar(pattern: &str, escape: Option<char>) -> Text<String> {
    let mut out = String::from("^(?s:");
    let mut chars = pattern.chars().peekable();
    let mut bracket = false;
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some(c) => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
                None => return fail(SqlState::INVALID_ESCAPE_SEQUENCE, "invalid escape sequence"),
            }
        } else if bracket {
            bracket = c != ']';
            // Only the brackets of Postgres have a meaning inside of brackets.
            match c {
                '[' if chars.peek() != Some(&':') => out.push_str("\\["),
                '[' => {
                    out.push(c);
                    for c in chars.by_ref() {
                        out.push(c);
                        if c == ']' {
                            break;
                        }
                    }
                }
                '\\' | '&' | '~' => out.extend(['\\', c]),
                c => out.push(c),
            }
        } else {
            match c {
                '%' => out.push_str(".*"),
                '_' => out.push('.'),
                '(' => out.push_str("(?:"),
                '[' => {
                    bracket = true;
                    out.push(c);
                    if chars.next_if_eq(&'^').is_some() {
                        out.push('^');
                    }
                    if chars.next_if_eq(&']').is_some() {
                        out.push_str("\\]");
                    }
                }
                '\\' | '.' | '^' | '$' => out.extend(['\\', c]),
                c => out.push(c),
            }
        }
    }
    out.push_str(")$");
    Ok(out)
}

/// Expressions that were met in this call.
#[derive(Default)]
struct Compiled {
    all: HashMap<(String, String), Regex>,
}

impl Compiled {
    /// How many are kept.
    const MAX: usize = 256;

    fn get(&mut self, pattern: &str, flags: &str) -> Text<&Regex> {
        let key = (pattern.to_owned(), flags.to_owned());
        if self.all.len() >= Self::MAX && !self.all.contains_key(&key) {
            self.all.clear();
        }
        match self.all.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => Ok(place.insert(compile(pattern, flags)?)),
        }
    }
}

fn compile(pattern: &str, flags: &str) -> Text<Regex> {
    let mut builder = RegexBuilder::new(pattern);
    // A dot is any character in Postgres, line ends too.
    builder.dot_matches_new_line(true);
    for flag in flags.chars() {
        match flag {
            'g' => {}
            'i' => {
                builder.case_insensitive(true);
            }
            'c' => {
                builder.case_insensitive(false);
            }
            's' => {
                builder.multi_line(false).dot_matches_new_line(true);
            }
            'm' | 'n' => {
                builder.multi_line(true).dot_matches_new_line(false);
            }
            'p' => {
                builder.dot_matches_new_line(false);
            }
            'w' => {
                builder.multi_line(true);
            }
            'x' => {
                builder.ignore_whitespace(true);
            }
            other => {
                let message = format!("invalid regular expression option: \"{other}\"");
                return fail(SqlState::INVALID_PARAMETER_VALUE, message);
            }
        }
    }
    builder.build().map_err(|e| {
        let why = e.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        SqlError::new(SqlState::INVALID_REGULAR_EXPRESSION, format!("invalid regular expression: {why}"))
    })
}

fn flags<'a>(c: &'a Call<'_>, i: usize, row: usize) -> &'a str {
    if i < c.args.len() { c.text(i).value(row) } else { "" }
}

fn no_global<T>(name: &str) -> Text<T> {
    Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("{name}() does not support the \"global\" option")))
}

/// The pieces between matches. A match of nothing cuts between two characters, not at the ends.
fn split<'t>(regex: &Regex, text: &'t str) -> Vec<&'t str> {
    let mut out = Vec::new();
    let mut from = 0;
    for m in regex.find_iter(text) {
        if m.is_empty() && (m.start() == from || m.start() == text.len()) {
            continue;
        }
        out.push(&text[from..m.start()]);
        from = m.end();
    }
    out.push(&text[from..]);
    out
}

/// A list of every row, for two texts and flags.
fn lists(c: &Call<'_>, f: impl Fn(&Regex, &str) -> Vec<Option<String>>) -> Result<ArrayRef> {
    let mut compiled = Compiled::default();
    let mut out = ListBuilder::new(StringViewBuilder::new());
    for row in 0..c.rows {
        if c.null(row) {
            out.append(false);
            continue;
        }
        let flags = flags(c, 2, row);
        if flags.contains('g') {
            no_global("regexp_split_to_array").map_err(user)?;
        }
        let regex = compiled.get(c.text(1).value(row), flags).map_err(user)?;
        for item in f(regex, c.text(0).value(row)) {
            out.values().append_option(item);
        }
        out.append(true);
    }
    Ok(Arc::new(out.finish()))
}

/// What the groups of a match hold; the whole match where there are none.
fn groups(found: &regex::Captures<'_>) -> Vec<Option<String>> {
    let first = usize::from(found.len() > 1);
    (first..found.len()).map(|i| found.get(i).map(|m| m.as_str().to_owned())).collect()
}

fn regexp_match(c: &Call<'_>) -> Result<ArrayRef> {
    let mut compiled = Compiled::default();
    let mut out = ListBuilder::new(StringViewBuilder::new());
    for row in 0..c.rows {
        let found = match c.null(row) {
            true => None,
            false => {
                let flags = flags(c, 2, row);
                if flags.contains('g') {
                    no_global("regexp_match").map_err(user)?;
                }
                compiled.get(c.text(1).value(row), flags).map_err(user)?.captures(c.text(0).value(row))
            }
        };
        if let Some(found) = &found {
            for item in groups(found) {
                out.values().append_option(item);
            }
        }
        out.append(found.is_some());
    }
    Ok(Arc::new(out.finish()))
}

fn all_matches(c: &Call<'_>) -> Result<ArrayRef> {
    let mut compiled = Compiled::default();
    let mut out = ListBuilder::new(ListBuilder::new(StringViewBuilder::new()));
    for row in 0..c.rows {
        if c.null(row) {
            out.append(false);
            continue;
        }
        let flags = flags(c, 2, row);
        let most = if flags.contains('g') { usize::MAX } else { 1 };
        let regex = compiled.get(c.text(1).value(row), flags).map_err(user)?;
        for found in regex.captures_iter(c.text(0).value(row)).take(most) {
            for item in groups(&found) {
                out.values().values().append_option(item);
            }
            out.values().append(true);
        }
        out.append(true);
    }
    Ok(Arc::new(out.finish()))
}

fn regexp_substr(c: &Call<'_>) -> Result<ArrayRef> {
    let mut compiled = Compiled::default();
    let number = |i: usize, row: usize, default: i64| match c.args.get(i) {
        Some(column) => column.as_primitive::<Int64Type>().value(row),
        None => default,
    };
    let at_least = |value: i64, least: i64, name: &str| match usize::try_from(value) {
        Ok(v) if value >= least => Ok(v),
        _ => fail(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"{name}\": {value}")),
    };
    c.texts(|row| {
        let start = at_least(number(2, row, 1), 1, "start")?;
        let nth = at_least(number(3, row, 1), 1, "n")?;
        let group = at_least(number(5, row, 0), 0, "subexpr")?;
        let flags = flags(c, 4, row);
        if flags.contains('g') {
            return no_global("regexp_substr");
        }
        let regex = compiled.get(c.text(1).value(row), flags)?;
        let text = c.text(0).value(row);
        let from = match start {
            1 => Some(0),
            n => text.char_indices().map(|(i, _)| i).chain([text.len()]).nth(n - 1),
        };
        let Some(from) = from else { return Ok(None) };
        // The beginning of the text is where the search starts only if it starts there.
        let mut at = from;
        let mut found = None;
        for _ in 0..nth {
            found = regex.captures_at(text, at);
            let Some(whole) = found.as_ref().and_then(|f| f.get(0)) else { return Ok(None) };
            at = whole.end();
            if whole.is_empty() {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
            }
            if at > text.len() {
                at = text.len();
            }
        }
        Ok(found.and_then(|f| f.get(group).map(|m| m.as_str().to_owned())))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn patterns_of_similar_to() {
        let matches =
            |pattern: &str, text: &str| Regex::new(&similar(pattern, Some('\\')).unwrap()).unwrap().is_match(text);
        for (pattern, text, expected) in [
            ("a%", "abc", true),
            ("a%", "bac", false),
            ("a_c", "abc", true),
            ("a.c", "abc", false),
            ("(a|b)+", "abba", true),
            ("%\\%%", "50% off", true),
            ("%\\%%", "50 off", false),
            ("[^a-c]%", "dog", true),
            ("[]x]", "]", true),
            ("a|bc", "abc", false),
            ("a%c", "a\nc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(similar("a\\", Some('\\')).is_err());
    }

    #[test]
    fn pieces_between_matches() {
        let pieces = |pattern: &str, text: &str| {
            split(&Regex::new(pattern).unwrap(), text).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(pieces(",", "a,b,,c"), ["a", "b", "", "c"]);
        assert_eq!(pieces("", "abc"), ["a", "b", "c"]);
        assert_eq!(pieces("\\s*", "a b"), ["a", "b"]);
        assert_eq!(pieces("x", ""), [""]);
    }
}
