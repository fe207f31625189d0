//! `format(text, ..)`: `%s`, `%I`, `%L` with positions, widths and `-`.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringViewBuilder};
use arrow::datatypes::DataType;

use super::super::define::{Call, Def, fail, user};
use super::{Text, quote};
use crate::error::{SqlError, SqlState};

pub(super) const DEF: Def = Def {
    name: "format",
    aliases: &[],
    takes: |t| {
        // What %s shows of a boolean is not its text.
        let one = |t: &DataType| if *t == DataType::Boolean { t.clone() } else { DataType::Utf8View };
        (!t.is_empty()).then(|| std::iter::once(DataType::Utf8View).chain(t[1..].iter().map(one)).collect())
    },
    gives: |_| DataType::Utf8View,
    // Only a NULL format makes the result NULL.
    strict: false,
    run: |c| {
        let mut out = StringViewBuilder::with_capacity(c.rows);
        for row in 0..c.rows {
            let all = Values { call: c, row };
            out.append_option(all.of(0).map(|pattern| formatted(pattern, &all)).transpose().map_err(user)?);
        }
        Ok(Arc::new(out.finish()))
    },
};

/// The arguments of one row; number 0 is the pattern.
struct Values<'a> {
    call: &'a Call<'a>,
    row: usize,
}

impl<'a> Values<'a> {
    fn of(&self, i: usize) -> Option<&'a str> {
        if self.call.args[i].is_null(self.row) {
            return None;
        }
        Some(match self.call.args[i].as_boolean_opt() {
            Some(column) => {
                if column.value(self.row) {
                    "t"
                } else {
                    "f"
                }
            }
            None => self.call.text(i).value(self.row),
        })
    }

    fn get(&self, i: usize) -> Text<Option<&'a str>> {
        match i {
            0 => fail(
                SqlState::INVALID_PARAMETER_VALUE,
                "format specifies argument 0, but arguments are numbered from 1",
            ),
            i if i >= self.call.args.len() => fail(SqlState::INVALID_PARAMETER_VALUE, "too few arguments for format()"),
            i => Ok(self.of(i)),
        }
    }
}

fn unterminated<T>() -> Text<T> {
    Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "unterminated format() type specifier")
        .hint("For a single \"%\" use \"%%\"."))
}

fn formatted(pattern: &str, values: &Values<'_>) -> Text<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut next = 1;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (mut spec, mut position) = (after, None);
        if let (Some(n), tail) = number(spec)
            && let Some(tail) = tail.strip_prefix('$')
        {
            (position, spec) = (Some(n), tail);
        }
        let mut left = false;
        while let Some(tail) = spec.strip_prefix('-') {
            (left, spec) = (true, tail);
        }
        let mut width = 0i64;
        if let Some(tail) = spec.strip_prefix('*') {
            let (at, tail) = match number(tail) {
                (Some(n), tail) if tail.starts_with('$') => (Some(n), &tail[1..]),
                _ => (None, tail),
            };
            let at = at.unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            width = match values.get(at)? {
                None => 0,
                Some(text) => text.trim().parse().map_err(|_| {
                    SqlError::new(
                        SqlState::INVALID_TEXT_REPRESENTATION,
                        format!("invalid width \"{text}\" of format()"),
                    )
                })?,
            };
            spec = tail;
        } else if let (Some(n), tail) = number(spec) {
            (width, spec) = (n as i64, tail);
        }
        let mut chars = spec.chars();
        let Some(kind) = chars.next() else { return unterminated() };
        let at = position.unwrap_or(next);
        let text = match kind {
            's' => values.get(at)?.unwrap_or_default().to_owned(),
            'I' => match values.get(at)? {
                Some(name) => quote::identifier(name),
                None => {
                    return fail(
                        SqlState::NULL_VALUE_NOT_ALLOWED,
                        "null values cannot be formatted as an SQL identifier",
                    );
                }
            },
            'L' => values.get(at)?.map_or_else(|| "NULL".to_owned(), quote::literal),
            other => {
                let message = format!("unrecognized format() type specifier \"{other}\"");
                return Err(
                    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message).hint("For a single \"%\" use \"%%\".")
                );
            }
        };
        next = at + 1;
        left |= width < 0;
        pad(&text, width.unsigned_abs(), left, &mut out)?;
        rest = chars.as_str();
    }
    out.push_str(rest);
    Ok(out)
}

/// Digits at the beginning as a number.
fn number(s: &str) -> (Option<usize>, &str) {
    let end = s.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(s.len());
    // More digits than a number has are as good as the largest.
    let n = (end > 0).then(|| s[..end].parse().unwrap_or(usize::MAX));
    (n, &s[end..])
}

fn pad(text: &str, width: u64, left: bool, out: &mut String) -> Text<()> {
    /// As much as a text may have.
    const WIDTH_MAX: u64 = 1 << 30;
    if width > WIDTH_MAX {
        return fail(SqlState::NUMERIC_OUT_OF_RANGE, "number is out of range");
    }
    let missing = (width as usize).saturating_sub(text.chars().count());
    let blanks = std::iter::repeat_n(' ', missing);
    if left {
        out.push_str(text);
        out.extend(blanks);
    } else {
        out.extend(blanks);
        out.push_str(text);
    }
    Ok(())
}
