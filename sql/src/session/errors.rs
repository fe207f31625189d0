//! DataFusion's failures as [`SqlError`]s: SQLSTATE, place in the text, "did you mean".

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;

use super::data_errors::{from_arrow, from_execution};
use super::names::visible_text;
use crate::error::{SqlError, SqlState};

/// The same failure with SQLSTATE; no position.
pub fn from_datafusion(error: DataFusionError) -> SqlError {
    from_datafusion_in(error, "", &[])
}

/// The same failure with SQLSTATE, and a position in `text` and "did you mean" where DataFusion's diagnostics give
/// them. `relations` are the names a missing relation is compared with.
pub fn from_datafusion_in(error: DataFusionError, text: &str, relations: &[String]) -> SqlError {
    let span = error.diagnostic().and_then(|d| d.span);
    let diagnosed = span.and_then(|s| char_offset(text, s.start.line, s.start.column));
    let mut out = convert(&error, text, relations);
    if out.position.is_none() || diagnosed.is_some() {
        out.position = diagnosed.or(out.position);
    }
    out.message = visible_text(&out.message);
    out
}

pub(super) fn convert(error: &DataFusionError, text: &str, relations: &[String]) -> SqlError {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => convert(inner, text, relations),
        DataFusionError::Shared(inner) => convert(inner, text, relations),
        DataFusionError::Collection(all) => match all.first() {
            Some(first) => convert(first, text, relations),
            None => SqlError::internal("no error in a collection of errors"),
        },
        DataFusionError::External(inner) => match inner.downcast_ref::<SqlError>() {
            Some(ours) => ours.clone(),
            None => match inner.downcast_ref::<DataFusionError>() {
                Some(theirs) => convert(theirs, text, relations),
                None => SqlError::internal(inner.to_string()),
            },
        },
        DataFusionError::SchemaError(e, _) => schema_error(e, text),
        DataFusionError::Plan(m) => plan_error(m, text, relations),
        DataFusionError::NotImplemented(m) => SqlError::unsupported(clean(m)),
        DataFusionError::SQL(e, _) => SqlError::new(SqlState::SYNTAX_ERROR, clean(&e.to_string())),
        DataFusionError::ArrowError(e, _) => from_arrow(e),
        DataFusionError::Execution(m) => from_execution(&clean(m)),
        DataFusionError::ResourcesExhausted(m) => SqlError::new(SqlState("53200"), clean(m)),
        DataFusionError::IoError(e) => SqlError::new(SqlState::IO_ERROR, e.to_string()),
        DataFusionError::ObjectStore(e) => SqlError::new(SqlState::IO_ERROR, e.to_string()),
        other => SqlError::internal(clean(&other.strip_backtrace())),
    }
}

fn schema_error(e: &SchemaError, text: &str) -> SqlError {
    match e {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let shown = display(field);
            // A qualifier that nothing in scope has.
            if let Some(relation) = &field.relation
                && !valid_fields.is_empty()
                && !valid_fields.iter().any(|c| c.relation.as_ref().is_some_and(|r| r.table() == relation.table()))
            {
                let message = format!("missing FROM-clause entry for table \"{}\"", relation.table());
                return place(SqlError::new(SqlState::UNDEFINED_TABLE, message), text, relation.table());
            }
            let mut out = SqlError::new(SqlState::UNDEFINED_COLUMN, format!("column \"{shown}\" does not exist"));
            let names: Vec<String> = valid_fields.iter().map(|c| c.name.clone()).collect();
            if let Some(near) = nearest(&field.name, names.iter().map(String::as_str)) {
                let best = valid_fields.iter().find(|c| c.name == near).map_or(near.to_owned(), display);
                out = out.hint(format!("Perhaps you meant the column \"{best}\"."));
            }
            place(out, text, &field.name)
        }
        SchemaError::AmbiguousReference { field } => place(
            SqlError::new(SqlState::AMBIGUOUS_COLUMN, format!("column reference \"{}\" is ambiguous", field.name))
                .hint("Qualify the column with the name or alias of its relation."),
            text,
            &field.name,
        ),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => place(
            SqlError::new(SqlState::DUPLICATE_COLUMN, format!("column name \"{name}\" appears more than once"))
                .hint("Give one of the columns another name with AS."),
            text,
            name,
        ),
    }
}

fn plan_error(message: &str, text: &str, relations: &[String]) -> SqlError {
    let message = clean(message);
    let lower = message.to_lowercase();
    if let Some(name) = between(&message, "table '", "' not found") {
        let name = name.strip_prefix("millstream.").unwrap_or(name);
        let name = name.strip_prefix("public.").unwrap_or(name);
        let mut out = SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
        if let Some(near) = nearest(name, relations.iter().map(String::as_str)) {
            out = out.hint(format!("Perhaps you meant the relation \"{near}\"."));
        }
        return place(out, text, name.rsplit('.').next().unwrap_or(name));
    }
    if let Some(name) = between(&message, "Invalid function '", "'") {
        if name.eq_ignore_ascii_case("proctime") {
            // What it gives is a fact of a row's arrival, and no function of a query that may be asked again.
            let out = SqlError::unsupported("PROCTIME() in a query is not supported")
                .hint("Declare the time of arrival as a column of the stream: CREATE STREAM s (.., p AS PROCTIME()).");
            return place(out, text, name);
        }
        let mut out = SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name} does not exist"));
        if let Some(near) =
            between(&message, "Did you mean '", "'").filter(|n| nearest(name, [*n].into_iter()).is_some())
        {
            out = out.hint(format!("Perhaps you meant {near}."));
        }
        return place(out, text, name);
    }
    if let Some(name) = between(&message, "Table function '", "' not found") {
        let out = SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("table function {name} does not exist"));
        return place(out, text, name);
    }
    if let Some(name) = between(&message, "column \"", "\" must appear in the GROUP BY clause") {
        let message =
            format!("column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function");
        return place(SqlError::new(SqlState::GROUPING_ERROR, message), text, name.rsplit('.').next().unwrap_or(name));
    }
    if let Some(call) = between(&message, "argument types '", "'") {
        let name = call.split('(').next().unwrap_or(call);
        let out = match between(&message, "External error: ", ". No function matches") {
            Some(why) => SqlError::new(SqlState::DATATYPE_MISMATCH, why),
            None => SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("function {call} does not exist")).hint(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            ),
        };
        return place(out, text, name.split('_').next().filter(|_| name == "tumble_start").unwrap_or(name));
    }
    if lower.contains("require unique expression names") {
        let twice = between(&message, "the expression \"", "\" at position").unwrap_or("?");
        let name = twice.rsplit(" AS ").next().unwrap_or(twice);
        return SqlError::new(SqlState::DUPLICATE_COLUMN, format!("column \"{name}\" specified more than once"))
            .hint("Give the columns different names with AS.");
    }
    let code = if lower.contains("cannot find column with position") || lower.contains("order by column out of bounds")
    {
        SqlState::INVALID_COLUMN_REFERENCE
    } else if lower.contains("cannot coerce arithmetic expression")
        || lower.contains("cannot infer common argument type for comparison")
    {
        SqlState::UNDEFINED_FUNCTION
    } else if lower.contains("non-boolean predicate") {
        SqlState::DATATYPE_MISMATCH
    } else if lower.contains("group by")
        || lower.contains("calls cannot be nested")
        || lower.contains("aggregate functions are not allowed")
        || lower.contains("must appear in")
        || lower.contains("nested aggregate")
    {
        SqlState::GROUPING_ERROR
    } else if lower.contains("no function matches")
        || lower.contains("does not support")
        || lower.contains("candidate functions")
    {
        SqlState::UNDEFINED_FUNCTION
    } else if lower.contains("coerc") || lower.contains("type") || lower.contains("cannot cast") {
        SqlState::DATATYPE_MISMATCH
    } else if lower.contains("unsupported") || lower.contains("not supported") {
        SqlState::FEATURE_NOT_SUPPORTED
    } else {
        SqlState::SYNTAX_ERROR
    };
    let mut lines = message.splitn(2, '\n');
    let first = lines.next().unwrap_or_default().trim_end_matches(['.', ' ']).to_owned();
    let mut out = SqlError::new(code, lower_first(&first));
    if let Some(rest) = lines.next().map(str::trim).filter(|r| !r.is_empty()) {
        out = out.detail(rest);
    }
    match between(&message, "function '", "'").or_else(|| between(&message, "Function '", "'")) {
        Some(name) => {
            let name = name.to_owned();
            place(out, text, &name)
        }
        None => out,
    }
}

/// The position of `name` as a word of `text`, if the error has none yet.
fn place(mut error: SqlError, text: &str, name: &str) -> SqlError {
    if error.position.is_none() {
        error.position = find_word(text, name);
    }
    error
}

fn display(c: &Column) -> String {
    match &c.relation {
        Some(r) => format!("{}.{}", r.table(), c.name),
        None => c.name.clone(),
    }
}

/// 1-based character offset of a 1-based line and column.
pub(super) fn char_offset(text: &str, line: u64, column: u64) -> Option<usize> {
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    if line == 0 || column == 0 {
        return None;
    }
    let mut before = 0;
    for (i, l) in text.split('\n').enumerate() {
        if i + 1 == line {
            let position = before + column;
            return (column <= l.chars().count() + 1).then_some(position);
        }
        before += l.chars().count() + 1;
    }
    None
}

/// 1-based character offset of the first place where `word` stands alone, ignoring case.
pub(super) fn find_word(text: &str, word: &str) -> Option<usize> {
    let word: Vec<char> = word.chars().flat_map(char::to_lowercase).collect();
    if word.is_empty() {
        return None;
    }
    let chars: Vec<char> = text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect();
    let part = |c: char| c.is_alphanumeric() || c == '_';
    (0..chars.len().saturating_sub(word.len() - 1)).find_map(|i| {
        let end = i + word.len();
        let alone = (i == 0 || !part(chars[i - 1])) && (end == chars.len() || !part(chars[end]));
        (alone && chars[i..end] == word[..]).then_some(i + 1)
    })
}

/// The candidate with the least edits, if that is few enough to be a slip of the fingers.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|c| (crate::parse::cursor::edit_distance(&name.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(d, c)| *d <= 1 + name.chars().count().min(c.chars().count()) / 4)
        .min_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)))
        .map(|(_, c)| c)
}

/// Without the backtrace and the prefixes that DataFusion puts before its messages.
fn clean(message: &str) -> String {
    let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
    let mut m = message.trim();
    for prefix in
        ["Error during planning: ", "This feature is not implemented: ", "Execution error: ", "sql parser error: "]
    {
        m = m.strip_prefix(prefix).unwrap_or(m);
    }
    m.trim_end_matches('.').to_owned()
}

pub(super) fn between<'a>(s: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = s.find(before)? + before.len();
    let end = s[start..].find(after)? + start;
    Some(&s[start..end])
}

pub(super) fn lower_first(s: &str) -> String {
    let mut chars = s.chars();
    match (chars.next(), s.chars().nth(1)) {
        // Words in capitals (SUM, GROUP BY) stay as they are.
        (Some(c), Some(second)) if !second.is_uppercase() => c.to_lowercase().chain(chars).collect(),
        _ => s.to_owned(),
    }
}
