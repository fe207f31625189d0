//! SHOW and DESCRIBE.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use millstream_sql::statement::{ObjectName, Show};

use millstream_sql::parse::mask_in_definition;

use crate::api::Session;
use crate::catalog::{SYSTEM_SCHEMA, TEMP_SCHEMA};
use crate::error::{Error, Result, ResultExt as _, SqlState};

/// A result of text columns.
pub(crate) fn text_table(header: &[&str], rows: Vec<Vec<Option<String>>>) -> Result<RecordBatch> {
    let schema = Schema::new(header.iter().map(|h| Field::new(*h, DataType::Utf8View, true)).collect::<Vec<_>>());
    let columns = (0..header.len())
        .map(|i| Arc::new(rows.iter().map(|r| r.get(i).cloned().flatten()).collect::<StringViewArray>()) as ArrayRef)
        .collect();
    RecordBatch::try_new(Arc::new(schema), columns).e()
}

/// Settings every client may ask for, with what a fresh session has.
const DEFAULTS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("background_ddl", "off"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("consistency", "strict"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "serializable"),
    ("extra_float_digits", "1"),
    ("freshness", "0"),
    ("full_recompute", "allow"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("max_identifier_length", "63"),
    ("on_error", "fail"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0"),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "serializable"),
    ("transaction_read_only", "off"),
    ("unbounded_state", "allow"),
];

/// Settings that have a few values only, the default first.
const CHOICES: &[(&str, &[&str])] = &[
    ("background_ddl", &["off", "on", "false", "true"]),
    ("consistency", &["strict", "session", "latest"]),
    ("full_recompute", &["allow", "warn", "error"]),
    ("on_error", &["fail", "skip"]),
    ("unbounded_state", &["allow", "warn", "error"]),
];

/// Refuses a value that a setting cannot have.
pub(crate) fn check_setting(name: &str, value: &str) -> Result<()> {
    if name == "freshness" && value != "0" {
        millstream_sql::plan::emit::interval_micros(value)?;
    }
    let Some((_, values)) = CHOICES.iter().find(|(n, _)| *n == name) else { return Ok(()) };
    if values.iter().any(|v| v.eq_ignore_ascii_case(value)) {
        return Ok(());
    }
    Err(Error::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"{name}\": \"{value}\""))
        .hint(format!("Available values: {}.", values.join(", "))))
}

/// Runs a SHOW.
pub(crate) fn show(session: &Session, show: &Show) -> Result<RecordBatch> {
    let catalog = session.engine.inner.lock().catalog.clone();
    match show {
        Show::Objects { kinds, like } => {
            let rows = catalog
                .relations
                .values()
                .filter(|r| r.schema_name != SYSTEM_SCHEMA && r.schema_name != TEMP_SCHEMA)
                .filter(|r| kinds.is_empty() || kinds.contains(&r.kind()))
                .filter(|r| like.as_ref().is_none_or(|p| matches_like(&r.name, p)))
                .map(|r| vec![Some(r.name.clone()), Some(r.kind().noun().to_owned())])
                .collect();
            text_table(&["name", "kind"], rows)
        }
        Show::Jobs => crate::coord::system_table(&session.engine.inner, "jobs")?
            .ok_or_else(|| Error::internal("ms.jobs is missing")),
        Show::Indexes(of) => super::index::show(&catalog, of.as_ref()),
        Show::Create(name) => {
            let r = catalog.get(name)?;
            text_table(
                &["name", "create_sql"],
                vec![vec![Some(r.name.clone()), Some(mask_in_definition(&r.definition))]],
            )
        }
        Show::Columns(name) => describe(session, name),
        Show::Setting(name) => {
            let key = name.to_ascii_lowercase();
            let value = session
                .settings
                .get(&key)
                .cloned()
                .or_else(|| DEFAULTS.iter().find(|(n, _)| *n == key).map(|(_, v)| (*v).to_owned()))
                .ok_or_else(|| {
                    Error::new(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
                })?;
            text_table(&[key.as_str()], vec![vec![Some(value)]])
        }
        Show::AllSettings => {
            let mut all: std::collections::BTreeMap<String, String> =
                DEFAULTS.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            all.extend(session.settings.clone());
            text_table(&["name", "setting"], all.into_iter().map(|(n, v)| vec![Some(n), Some(v)]).collect())
        }
    }
}

/// Runs a DESCRIBE.
pub(crate) fn describe(session: &Session, name: &ObjectName) -> Result<RecordBatch> {
    let catalog = session.engine.inner.lock().catalog.clone();
    let r = catalog.get(name)?;
    let rows = r
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| {
            vec![
                Some(f.name().clone()),
                Some(millstream_sql::types::display_name(f.data_type())),
                Some(if f.is_nullable() { "yes" } else { "no" }.to_owned()),
                Some(if r.primary_key.contains(&i) { "yes" } else { "no" }.to_owned()),
            ]
        })
        .collect();
    text_table(&["column", "type", "nullable", "key"], rows)
}

/// SQL LIKE with `%` and `_`.
fn matches_like(text: &str, pattern: &str) -> bool {
    fn go(t: &[char], p: &[char]) -> bool {
        match p.split_first() {
            None => t.is_empty(),
            Some(('%', rest)) => (0..=t.len()).any(|i| go(&t[i..], rest)),
            Some(('_', rest)) => !t.is_empty() && go(&t[1..], rest),
            Some((c, rest)) => t.first() == Some(c) && go(&t[1..], rest),
        }
    }
    go(&text.chars().collect::<Vec<_>>(), &pattern.chars().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::matches_like;

    #[test]
    fn like_knows_both_wildcards() {
        assert!(matches_like("bids", "b%") && matches_like("bids", "_ids") && !matches_like("bids", "b_"));
    }
}
