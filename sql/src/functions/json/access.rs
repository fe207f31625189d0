//! Looking into JSON: `->`, `->>`, `#>`, `#>>`, containment, existence, kinds, and the lists that set-returning
//! functions unnest.
//!
//! Paths are walked over the text; only what is asked for is copied.

use datafusion::logical_expr::ScalarUDF;

use super::udf::{Arg, Def, Key, Row, RowResult, Run};
use super::value::{Json, Kind, Reader, parse};
use crate::error::{SqlError, SqlState};

pub(super) fn functions() -> Vec<ScalarUDF> {
    const fn def(names: &'static [&'static str], args: &'static [Arg], run: Run) -> Def {
        Def { names, args, optional: 0, variadic: false, run }
    }
    [
        def(&["json_get"], &[Arg::Text, Arg::Key], Run::Json("json", get)),
        def(&["json_get_text"], &[Arg::Text, Arg::Key], Run::Text(get_text)),
        def(&["json_get_path"], &[Arg::Text, Arg::TextList], Run::Json("json", get_path)),
        def(&["json_get_path_text"], &[Arg::Text, Arg::TextList], Run::Text(get_path_text)),
        Def {
            variadic: true,
            ..def(
                &["json_extract_path", "jsonb_extract_path"],
                &[Arg::Text, Arg::Text],
                Run::Json("json", extract_path),
            )
        },
        Def {
            variadic: true,
            ..def(
                &["json_extract_path_text", "jsonb_extract_path_text"],
                &[Arg::Text, Arg::Text],
                Run::Text(extract_path_text),
            )
        },
        def(&["json_typeof", "jsonb_typeof"], &[Arg::Text], Run::Text(type_of)),
        def(&["json_array_length", "jsonb_array_length"], &[Arg::Text], Run::Int(array_length)),
        def(&["jsonb_contains"], &[Arg::Text, Arg::Text], Run::Bool(contains)),
        def(&["jsonb_contained"], &[Arg::Text, Arg::Text], Run::Bool(contained)),
        def(&["jsonb_exists"], &[Arg::Text, Arg::Text], Run::Bool(exists)),
        def(&["jsonb_exists_any"], &[Arg::Text, Arg::TextList], Run::Bool(exists_any)),
        def(&["jsonb_exists_all"], &[Arg::Text, Arg::TextList], Run::Bool(exists_all)),
        // What the set-returning functions of these names unnest.
        def(&["json_elements"], &[Arg::Text], Run::List(elements)),
        def(&["json_elements_text"], &[Arg::Text], Run::List(elements_text)),
        def(&["json_keys"], &[Arg::Text], Run::List(keys)),
        def(&["json_values"], &[Arg::Text], Run::List(values)),
        def(&["json_values_text"], &[Arg::Text], Run::List(values_text)),
    ]
    .into_iter()
    .map(Def::udf)
    .collect()
}

/// The text of the value below `key`; of equal keys the last one.
fn below<'a>(text: &'a str, key: &Key<'_>) -> RowResult<&'a str> {
    let mut reader = Reader::new(text);
    let mut found = None;
    match (key, reader.kind()?) {
        (Key::Name(name), Kind::Object) => reader.members(|r, k| {
            let value = r.skip()?;
            if k == *name {
                found = Some(value);
            }
            Ok(())
        })?,
        (Key::Index(index), Kind::Array) => {
            let wanted = if *index < 0 { count(text)? as i64 + index } else { *index };
            let mut at = 0;
            reader.elements(|r| {
                let value = r.skip()?;
                if at == wanted {
                    found = Some(value);
                }
                at += 1;
                Ok(())
            })?;
        }
        _ => {
            reader.skip()?;
        }
    }
    reader.end()?;
    Ok(found)
}

fn count(text: &str) -> Result<usize, SqlError> {
    let mut n = 0;
    Reader::new(text).elements(|r| {
        n += 1;
        r.skip().map(drop)
    })?;
    Ok(n)
}

/// A step of a path: a key of an object, or the index of an array in digits.
fn step<'a>(text: &'a str, step: &str) -> RowResult<&'a str> {
    match Reader::new(text).kind()? {
        Kind::Array => match step.parse::<i64>() {
            Ok(index) => below(text, &Key::Index(index)),
            Err(_) => Ok(None),
        },
        _ => below(text, &Key::Name(step)),
    }
}

fn walk(text: &str, path: impl Iterator<Item = Option<String>>) -> RowResult<&str> {
    let mut at = text;
    for part in path {
        let Some(part) = part else { return Ok(None) };
        match step(at, &part)? {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// JSON as text: strings without quotes, `null` as NULL.
fn as_text(json: &str) -> RowResult<String> {
    match Reader::new(json).kind()? {
        Kind::Null => Ok(None),
        Kind::String => match parse(json)? {
            Json::String(s) => Ok(Some(s.into_owned())),
            _ => Ok(None),
        },
        _ => Ok(Some(json.trim().to_owned())),
    }
}

fn get(row: &Row<'_>) -> RowResult<String> {
    Ok(below(row.text(0), &row.key(1))?.map(str::to_owned))
}

fn get_text(row: &Row<'_>) -> RowResult<String> {
    below(row.text(0), &row.key(1))?.map_or(Ok(None), as_text)
}

fn get_path(row: &Row<'_>) -> RowResult<String> {
    Ok(walk(row.text(0), row.path(1)?.into_iter())?.map(str::to_owned))
}

fn get_path_text(row: &Row<'_>) -> RowResult<String> {
    walk(row.text(0), row.path(1)?.into_iter())?.map_or(Ok(None), as_text)
}

fn arguments(row: &Row<'_>) -> impl Iterator<Item = Option<String>> {
    (1..row.len()).map(|i| Some(row.text(i).to_owned()))
}

fn extract_path(row: &Row<'_>) -> RowResult<String> {
    Ok(walk(row.text(0), arguments(row))?.map(str::to_owned))
}

fn extract_path_text(row: &Row<'_>) -> RowResult<String> {
    walk(row.text(0), arguments(row))?.map_or(Ok(None), as_text)
}

fn type_of(row: &Row<'_>) -> RowResult<String> {
    Ok(Some(Reader::new(row.text(0)).kind()?.name().to_owned()))
}

/// The error of a function that wants another kind of JSON.
fn wrong_kind(message: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

fn array_length(row: &Row<'_>) -> RowResult<i64> {
    let text = row.text(0);
    match Reader::new(text).kind()? {
        Kind::Array => Ok(Some(count(text)? as i64)),
        Kind::Object => Err(wrong_kind("cannot get array length of a non-array")),
        _ => Err(wrong_kind("cannot get array length of a scalar")),
    }
}

/// `@>`: every part of `b` is in `a`. An array contains a scalar, at the top only.
fn holds(a: &Json<'_>, b: &Json<'_>, top: bool) -> bool {
    match (a, b) {
        (Json::Object(_), Json::Object(members)) => {
            members.iter().all(|(k, v)| a.get(k).is_some_and(|mine| holds(mine, v, false)))
        }
        (Json::Array(mine), Json::Array(wanted)) => {
            wanted.iter().all(|w| mine.iter().any(|m| m.kind() == w.kind() && holds(m, w, false)))
        }
        (Json::Array(mine), scalar) if top && !matches!(scalar, Json::Object(_)) => {
            mine.iter().any(|m| m.kind() == scalar.kind() && holds(m, scalar, false))
        }
        (Json::Number(x), Json::Number(y)) => same_number(x, y),
        (a, b) => a == b,
    }
}

/// Numbers in canonical form are equal if they differ in zeros at the end of a fraction only.
fn same_number(x: &str, y: &str) -> bool {
    let short = |n: &'_ str| -> String {
        match n.contains('.') && !n.contains(['e', 'E']) {
            true => n.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => n.to_owned(),
        }
    };
    short(x) == short(y)
}

fn contains_in(a: &str, b: &str) -> RowResult<bool> {
    let (a, b) = (super::value::parse_canonical(a)?, super::value::parse_canonical(b)?);
    Ok(Some(holds(&a, &b, true)))
}

fn contains(row: &Row<'_>) -> RowResult<bool> {
    contains_in(row.text(0), row.text(1))
}

fn contained(row: &Row<'_>) -> RowResult<bool> {
    contains_in(row.text(1), row.text(0))
}

/// A key of an object, a string in an array, or the string itself.
fn has(json: &Json<'_>, key: &str) -> bool {
    match json {
        Json::Object(_) => json.get(key).is_some(),
        Json::Array(items) => items.iter().any(|i| matches!(i, Json::String(s) if s == key)),
        Json::String(s) => s == key,
        _ => false,
    }
}

fn exists(row: &Row<'_>) -> RowResult<bool> {
    Ok(Some(has(&parse(row.text(0))?, row.text(1))))
}

fn exists_any(row: &Row<'_>) -> RowResult<bool> {
    let json = parse(row.text(0))?;
    Ok(Some(row.path(1)?.iter().flatten().any(|k| has(&json, k))))
}

fn exists_all(row: &Row<'_>) -> RowResult<bool> {
    let json = parse(row.text(0))?;
    Ok(Some(row.path(1)?.iter().flatten().all(|k| has(&json, k))))
}

fn each_element(text: &str, f: impl Fn(&str) -> RowResult<String>) -> RowResult<Vec<Option<String>>> {
    let mut reader = Reader::new(text);
    match reader.kind()? {
        Kind::Array => {}
        Kind::Object => return Err(wrong_kind("cannot extract elements from an object")),
        _ => return Err(wrong_kind("cannot extract elements from a scalar")),
    }
    let mut out = Vec::new();
    reader.elements(|r| {
        out.push(f(r.skip()?)?);
        Ok(())
    })?;
    reader.end()?;
    Ok(Some(out))
}

fn elements(row: &Row<'_>) -> RowResult<Vec<Option<String>>> {
    each_element(row.text(0), |v| Ok(Some(v.to_owned())))
}

fn elements_text(row: &Row<'_>) -> RowResult<Vec<Option<String>>> {
    each_element(row.text(0), as_text)
}

/// Members in the order of `jsonb`, so that keys and values go together whatever the input's order.
fn each_member(
    text: &str,
    verb: &str,
    f: impl Fn(String, &Json<'_>) -> RowResult<String>,
) -> RowResult<Vec<Option<String>>> {
    match super::value::parse_canonical(text)? {
        Json::Object(members) => {
            members.iter().map(|(k, v)| f(k.clone().into_owned(), v)).collect::<Result<Vec<_>, _>>().map(Some)
        }
        Json::Array(_) => Err(wrong_kind(&format!("cannot call {verb} on an array"))),
        _ => Err(wrong_kind(&format!("cannot call {verb} on a scalar"))),
    }
}

fn keys(row: &Row<'_>) -> RowResult<Vec<Option<String>>> {
    each_member(row.text(0), "jsonb_object_keys", |k, _| Ok(Some(k)))
}

fn values(row: &Row<'_>) -> RowResult<Vec<Option<String>>> {
    each_member(row.text(0), "jsonb_each", |_, v| Ok(Some(v.to_jsonb())))
}

fn values_text(row: &Row<'_>) -> RowResult<Vec<Option<String>>> {
    each_member(row.text(0), "jsonb_each_text", |_, v| as_text(&v.to_jsonb()))
}
