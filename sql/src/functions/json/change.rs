//! Casts to JSON and functions that give changed `jsonb`: `||`, `-`, `#-`, `jsonb_set`, `jsonb_insert`, strip, pretty.

use std::borrow::Cow;

use datafusion::logical_expr::ScalarUDF;

use super::udf::{Arg, Def, Key, Row, RowResult, Run};
use super::value::{Json, parse, parse_canonical};
use crate::error::{SqlError, SqlState};

/// What a cast to `jsonb` calls.
pub(super) fn jsonb() -> ScalarUDF {
    let run = Run::Json("jsonb", to_jsonb);
    Def { names: &["jsonb"], args: &[Arg::Text], optional: 0, variadic: false, run }.udf()
}

pub(super) fn functions() -> Vec<ScalarUDF> {
    const fn def(names: &'static [&'static str], args: &'static [Arg], run: Run) -> Def {
        Def { names, args, optional: 0, variadic: false, run }
    }
    [
        def(&["json"], &[Arg::Text], Run::Json("json", to_json)),
        def(&["jsonb_concat"], &[Arg::Text, Arg::Text], Run::Json("jsonb", concat)),
        def(&["jsonb_delete"], &[Arg::Text, Arg::Keys], Run::Json("jsonb", delete)),
        def(&["jsonb_delete_path"], &[Arg::Text, Arg::TextList], Run::Json("jsonb", delete_path)),
        Def {
            optional: 1,
            ..def(&["jsonb_set"], &[Arg::Text, Arg::TextList, Arg::Text, Arg::Bool], Run::Json("jsonb", set))
        },
        Def {
            optional: 1,
            ..def(&["jsonb_insert"], &[Arg::Text, Arg::TextList, Arg::Text, Arg::Bool], Run::Json("jsonb", insert))
        },
        def(&["json_strip_nulls"], &[Arg::Text], Run::Json("json", strip_nulls_json)),
        def(&["jsonb_strip_nulls"], &[Arg::Text], Run::Json("jsonb", strip_nulls)),
        def(&["jsonb_pretty"], &[Arg::Text], Run::Text(pretty)),
    ]
    .into_iter()
    .map(Def::udf)
    .chain([jsonb()])
    .collect()
}

/// `json` is its text, once it is known to be JSON.
fn to_json(row: &Row<'_>) -> RowResult<String> {
    let text = row.text(0);
    let mut reader = super::value::Reader::new(text);
    reader.skip()?;
    reader.end()?;
    Ok(Some(text.to_owned()))
}

fn to_jsonb(row: &Row<'_>) -> RowResult<String> {
    written(parse_canonical(row.text(0))?)
}

fn written(json: Json<'_>) -> RowResult<String> {
    Ok(Some(json.to_jsonb()))
}

/// Objects are merged, everything else becomes one array.
fn concat(row: &Row<'_>) -> RowResult<String> {
    let (a, b) = (parse(row.text(0))?, parse(row.text(1))?);
    let mut out = match (a, b) {
        (Json::Object(mut a), Json::Object(b)) => {
            a.extend(b);
            Json::Object(a)
        }
        (a, b) => {
            let items = |j| match j {
                Json::Array(items) => items,
                other => vec![other],
            };
            let mut all = items(a);
            all.extend(items(b));
            Json::Array(all)
        }
    };
    out.canonical();
    written(out)
}

fn scalar_error(what: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("cannot {what}"))
}

/// The place of an index in an array, counted from the end if negative.
fn place(index: i64, len: usize) -> Option<usize> {
    let at = if index < 0 { index + len as i64 } else { index };
    usize::try_from(at).ok().filter(|at| *at < len)
}

fn delete(row: &Row<'_>) -> RowResult<String> {
    let mut json = parse_canonical(row.text(0))?;
    let names: Vec<String> = match row.key(1) {
        Key::Index(index) => {
            match &mut json {
                Json::Array(items) => {
                    if let Some(at) = place(index, items.len()) {
                        items.remove(at);
                    }
                }
                Json::Object(_) => return Err(scalar_error("delete from object using integer index")),
                _ => return Err(scalar_error("delete from scalar")),
            }
            return written(json);
        }
        Key::Name(name) => vec![name.to_owned()],
        Key::List(names) => names.into_iter().flatten().collect(),
    };
    match &mut json {
        Json::Object(members) => members.retain(|(k, _)| !names.iter().any(|n| k == n)),
        Json::Array(items) => items.retain(|i| !matches!(i, Json::String(s) if names.iter().any(|n| s == n))),
        _ => return Err(scalar_error("delete from scalar")),
    }
    written(json)
}

fn index_of(step: &str, at: usize) -> Result<i64, SqlError> {
    step.parse().map_err(|_| {
        SqlError::new(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("path element at position {at} is not an integer: \"{step}\""),
        )
    })
}

/// What is done where a path ends.
enum Change<'a> {
    Delete,
    /// Replaces what is there; `create` puts it also where nothing is.
    Set {
        value: Json<'a>,
        create: bool,
    },
    /// Puts a new value before or after.
    Insert {
        value: Json<'a>,
        after: bool,
    },
}

fn change<'a>(json: &mut Json<'a>, path: &[String], depth: usize, with: Change<'a>) -> Result<(), SqlError> {
    let Some((step, rest)) = path.split_first() else { return Ok(()) };
    let depth = depth + 1;
    match json {
        Json::Object(members) => {
            let found = members.iter().position(|(k, _)| k == step);
            match (found, with) {
                (Some(i), with) if !rest.is_empty() => return change(&mut members[i].1, rest, depth, with),
                (Some(i), Change::Delete) => drop(members.remove(i)),
                (Some(i), Change::Set { value, .. }) => members[i].1 = value,
                (Some(_), Change::Insert { .. }) => {
                    return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "cannot replace existing key")
                        .hint("Use jsonb_set to replace the value of a key."));
                }
                (None, Change::Set { value, create: true } | Change::Insert { value, .. }) if rest.is_empty() => {
                    members.push((Cow::Owned(step.clone()), value));
                }
                (None, _) => {}
            }
        }
        Json::Array(items) => {
            let index = index_of(step, depth)?;
            let found = place(index, items.len());
            match (found, with) {
                (Some(i), with) if !rest.is_empty() => return change(&mut items[i], rest, depth, with),
                (Some(i), Change::Delete) => drop(items.remove(i)),
                (Some(i), Change::Set { value, .. }) => items[i] = value,
                (Some(i), Change::Insert { value, after }) => items.insert(i + usize::from(after), value),
                (None, Change::Set { value, create: true } | Change::Insert { value, .. }) if rest.is_empty() => {
                    let at = if index < 0 { 0 } else { items.len() };
                    items.insert(at, value);
                }
                (None, _) => {}
            }
        }
        _ => {}
    }
    Ok(())
}

/// The path, or `None` if a part of it is NULL.
fn whole_path(row: &Row<'_>) -> RowResult<Vec<String>> {
    Ok(row.path(1)?.into_iter().collect())
}

fn changed(row: &Row<'_>, verb: &str, with: impl FnOnce() -> Result<Change<'static>, SqlError>) -> RowResult<String> {
    let Some(path) = whole_path(row)? else { return Ok(None) };
    let text = row.text(0).to_owned();
    let mut json = owned(parse_canonical(&text)?);
    if !matches!(json, Json::Object(_) | Json::Array(_)) {
        return Err(scalar_error(verb));
    }
    change(&mut json, &path, 0, with()?)?;
    json.canonical();
    written(json)
}

/// The same value, on its own.
fn owned(json: Json<'_>) -> Json<'static> {
    match json {
        Json::Null => Json::Null,
        Json::Bool(b) => Json::Bool(b),
        Json::Number(n) => Json::Number(Cow::Owned(n.into_owned())),
        Json::String(s) => Json::String(Cow::Owned(s.into_owned())),
        Json::Array(items) => Json::Array(items.into_iter().map(owned).collect()),
        Json::Object(members) => {
            Json::Object(members.into_iter().map(|(k, v)| (Cow::Owned(k.into_owned()), owned(v))).collect())
        }
    }
}

fn delete_path(row: &Row<'_>) -> RowResult<String> {
    changed(row, "delete path in scalar", || Ok(Change::Delete))
}

fn set(row: &Row<'_>) -> RowResult<String> {
    changed(row, "set path in scalar", || {
        Ok(Change::Set { value: owned(parse(row.text(2))?), create: row.flag(3, true) })
    })
}

fn insert(row: &Row<'_>) -> RowResult<String> {
    changed(row, "set path in scalar", || {
        Ok(Change::Insert { value: owned(parse(row.text(2))?), after: row.flag(3, false) })
    })
}

/// Members that are null go, at any depth; elements of arrays stay.
fn without_nulls(json: &mut Json<'_>) {
    match json {
        Json::Object(members) => {
            members.retain(|(_, v)| *v != Json::Null);
            members.iter_mut().for_each(|(_, v)| without_nulls(v));
        }
        Json::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn strip_nulls_json(row: &Row<'_>) -> RowResult<String> {
    let mut json = parse(row.text(0))?;
    without_nulls(&mut json);
    let mut out = String::new();
    json.write(&mut out, false);
    Ok(Some(out))
}

fn strip_nulls(row: &Row<'_>) -> RowResult<String> {
    let mut json = parse_canonical(row.text(0))?;
    without_nulls(&mut json);
    written(json)
}

fn pretty(row: &Row<'_>) -> RowResult<String> {
    let mut out = String::new();
    parse_canonical(row.text(0))?.pretty(&mut out, 0);
    Ok(Some(out))
}
