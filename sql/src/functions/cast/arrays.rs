//! Arrays from text and to it: `{1,NULL,"a b"}`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StringBuilder};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result;

use super::{cast, fail, from_text};
use crate::error::{SqlError, SqlState};

/// What stands between the commas of an array.
enum Item {
    Null,
    Text(String),
    Array(Vec<Item>),
}

fn malformed(text: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, format!("malformed array literal: \"{text}\""))
}

/// Arrays of one type from their texts.
pub(super) fn read(texts: &StringArray, element: &FieldRef) -> Result<ArrayRef> {
    let one = |t: Option<&str>| t.map(|t| parsed(t).map_err(fail)).transpose();
    let rows = texts.iter().map(one).collect::<Result<Vec<_>>>()?;
    built(rows, element)
}

fn built(rows: Vec<Option<Vec<Item>>>, element: &FieldRef) -> Result<ArrayRef> {
    let mixed = || {
        fail(
            SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, "malformed array literal")
                .detail("The dimensions of the array are not those of its type."),
        )
    };
    let nulls: NullBuffer = rows.iter().map(Option::is_some).collect();
    let lengths = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len));
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    let items = rows.into_iter().flatten().flatten();
    let values: ArrayRef = match element.data_type() {
        DataType::List(inner) => {
            let deeper = items.map(|item| match item {
                Item::Array(items) => Ok(Some(items)),
                Item::Null => Ok(None),
                Item::Text(_) => Err(mixed()),
            });
            built(deeper.collect::<Result<Vec<_>>>()?, inner)?
        }
        other => {
            let texts = items.map(|item| match item {
                Item::Text(s) => Ok(Some(s)),
                Item::Null => Ok(None),
                Item::Array(_) => Err(mixed()),
            });
            let texts: StringArray = texts.collect::<Result<Vec<_>>>()?.into_iter().collect();
            from_text(&texts, other)?
        }
    };
    Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, Some(nulls))?))
}

/// The items of an array in braces.
fn parsed(text: &str) -> std::result::Result<Vec<Item>, SqlError> {
    let mut chars = text.trim().chars().peekable();
    if chars.next() != Some('{') {
        return Err(malformed(text).detail("Array value must start with \"{\"."));
    }
    let items = inside(&mut chars, text, 0)?;
    match chars.next() {
        None => Ok(items),
        Some(_) => Err(malformed(text).detail("Junk after closing right brace.")),
    }
}

/// What follows an opening brace, up to the closing one.
fn inside(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    text: &str,
    depth: usize,
) -> std::result::Result<Vec<Item>, SqlError> {
    /// As many dimensions as Postgres has.
    const DEPTH_MAX: usize = 6;
    let bad = || malformed(text);
    if depth >= DEPTH_MAX {
        return Err(SqlError::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("number of array dimensions exceeds the maximum allowed ({DEPTH_MAX})"),
        ));
    }
    let mut out = Vec::new();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if out.is_empty() && chars.next_if_eq(&'}').is_some() {
            return Ok(out);
        }
        let item = if chars.next_if_eq(&'{').is_some() {
            Item::Array(inside(chars, text, depth + 1)?)
        } else if chars.next_if_eq(&'"').is_some() {
            let mut s = String::new();
            loop {
                match chars.next().ok_or_else(bad)? {
                    '"' => break Item::Text(s),
                    '\\' => s.push(chars.next().ok_or_else(bad)?),
                    c => s.push(c),
                }
            }
        } else {
            let mut s = String::new();
            let mut escaped = false;
            while let Some(c) = chars.next_if(|c| !matches!(c, ',' | '}')) {
                match c {
                    '{' | '"' => return Err(bad()),
                    '\\' => {
                        escaped = true;
                        s.push(chars.next().ok_or_else(bad)?);
                    }
                    c => s.push(c),
                }
            }
            s.truncate(s.trim_end().len());
            match s.as_str() {
                "" => return Err(bad()),
                word if !escaped && word.eq_ignore_ascii_case("null") => Item::Null,
                _ => Item::Text(s),
            }
        };
        out.push(item);
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.next() {
            Some(',') => {}
            Some('}') => return Ok(out),
            _ => return Err(bad()),
        }
    }
}

/// The texts of arrays.
pub(super) fn write(lists: &ListArray) -> Result<ArrayRef> {
    let nested = matches!(lists.values().data_type(), DataType::List(_));
    let elements: ArrayRef = match lists.values().data_type() {
        DataType::Boolean => {
            let short = |v: Option<bool>| v.map(|v| if v { "t" } else { "f" });
            Arc::new(lists.values().as_boolean().iter().map(short).collect::<StringArray>())
        }
        _ => cast(lists.values(), &DataType::Utf8)?,
    };
    let elements = elements.as_string::<i32>();
    let mut out = StringBuilder::new();
    let mut text = String::new();
    for row in 0..lists.len() {
        if lists.is_null(row) {
            out.append_null();
            continue;
        }
        text.clear();
        text.push('{');
        let offsets = lists.value_offsets();
        for (i, e) in (offsets[row] as usize..offsets[row + 1] as usize).enumerate() {
            if i > 0 {
                text.push(',');
            }
            match elements.is_valid(e) {
                false => text.push_str("NULL"),
                true if nested => text.push_str(elements.value(e)),
                true => quoted(elements.value(e), &mut text),
            }
        }
        text.push('}');
        out.append_value(&text);
    }
    Ok(Arc::new(out.finish()))
}

fn quoted(element: &str, out: &mut String) {
    let special = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_ascii_whitespace() || c == '\u{b}';
    if !element.is_empty() && !element.eq_ignore_ascii_case("null") && !element.contains(special) {
        return out.push_str(element);
    }
    out.push('"');
    for c in element.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use crate::session::testing::check_values;

    #[test]
    fn arrays_are_read_and_written() {
        check_values(&[
            ("'{1, 2,NULL}'::int[]::text", "{1,2,NULL}"),
            ("'{}'::int[]::text", "{}"),
            (
                "'{a,\"b c\",\"\",null,\"null\",\"q\\\"\\\\\"}'::text[]::text",
                "{a,\"b c\",\"\",NULL,\"null\",\"q\\\"\\\\\"}",
            ),
            ("ARRAY[[1,2],[3,4]]::text", "{{1,2},{3,4}}"),
            ("ARRAY[true,NULL]::text", "{t,NULL}"),
            ("'{2026-01-01}'::date[]::text", "{2026-01-01}"),
            ("ARRAY[1.50,2]::text", "{1.50,2.00}"),
            ("('{7,8}'::int[])[2]", "8"),
            ("ARRAY['1','2']::int[]::text", "{1,2}"),
            ("'{1,x}'::int[]", "ERROR 22P02"),
            ("'1,2'::int[]", "ERROR 22P02"),
            ("'{1,2'::int[]", "ERROR 22P02"),
            ("'{1,}'::int[]", "ERROR 22P02"),
            ("'{{1}}'::int[]", "ERROR 22P02"),
        ]);
    }
}
