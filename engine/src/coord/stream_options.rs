//! Options of streams that mean the same for every connector, and values taken from the environment.
//!
//! The catalog keeps options as they were written; `${NAME}` is looked up each time a source is opened, and what it stands
//! for leaves this process neither in a message nor in a definition.

use std::collections::BTreeMap;

use millstream_connectors::SourceConfig;
use millstream_connectors::options::parse_duration;

use crate::catalog::{Body, Relation};
use crate::error::{Error, Result, ResultExt as _, SqlState};

/// What happens to a record that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnError {
    /// It goes to `ms.errors`.
    #[default]
    DeadLetter,
    /// It is counted.
    Skip,
    /// The stream stops before it.
    Fail,
}

/// Looks up a variable.
pub type Environment = std::sync::Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The variables of this process.
pub(crate) fn process_environment() -> Environment {
    std::sync::Arc::new(|name| std::env::var(name).ok())
}

fn invalid(message: String, hint: &str) -> Error {
    Error::new(SqlState::INVALID_PARAMETER_VALUE, message).hint(hint)
}

/// The option `on_error`.
pub(crate) fn on_error(options: &BTreeMap<String, String>) -> Result<OnError> {
    match options.get("on_error").map(|v| v.to_ascii_lowercase()).as_deref() {
        None | Some("dead_letter") => Ok(OnError::DeadLetter),
        Some("skip") => Ok(OnError::Skip),
        Some("fail") => Ok(OnError::Fail),
        Some(other) => Err(invalid(
            format!("invalid value \"{other}\" for option \"on_error\""),
            "Values are: dead_letter (into ms.errors), skip, fail.",
        )),
    }
}

/// Checks the options that no connector looks at. True if one of them has no effect yet.
pub(crate) fn check_common(options: &BTreeMap<String, String>) -> Result<bool> {
    on_error(options)?;
    let Some(timeout) = options.get("idle_timeout") else { return Ok(false) };
    if parse_duration(timeout).is_none() {
        return Err(invalid(
            format!("invalid value \"{timeout}\" for option \"idle_timeout\""),
            "Give a number with a unit, like '500ms', '10s' or '5 minutes'.",
        ));
    }
    Ok(true)
}

/// Replaced references: (`${NAME}`, value).
type Replaced = Vec<(String, String)>;

/// Replaces `${NAME}` in the values of options.
fn substitute(
    options: &BTreeMap<String, String>,
    environment: &Environment,
) -> Result<(BTreeMap<String, String>, Replaced)> {
    let mut replaced = Replaced::new();
    let mut out = BTreeMap::new();
    for (key, value) in options {
        let (mut text, mut rest) = (String::new(), value.as_str());
        while let Some(from) = rest.find("${") {
            let Some(len) = rest[from..].find('}') else { break };
            let name = &rest[from + 2..from + len];
            let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !valid {
                return Err(invalid(
                    format!("option \"{key}\" refers to a variable with the invalid name \"{name}\""),
                    "Names have letters, digits and underscores.",
                ));
            }
            let Some(found) = environment(name) else {
                return Err(invalid(
                    format!("option \"{key}\" refers to environment variable \"{name}\", which is not set"),
                    "Set it where the server is started, then start the server again.",
                ));
            };
            text.push_str(&rest[..from]);
            text.push_str(&found);
            replaced.push((format!("${{{name}}}"), found));
            rest = &rest[from + len + 1..];
        }
        text.push_str(rest);
        out.insert(key.clone(), text);
    }
    // Longer values first: one may contain another.
    replaced.sort_by_key(|(_, v)| std::cmp::Reverse(v.len()));
    Ok((out, replaced))
}

/// An error without the values of variables.
fn hide(mut e: Error, replaced: &Replaced) -> Error {
    for (name, value) in replaced.iter().filter(|(_, v)| !v.is_empty()) {
        e.message = e.message.replace(value, name);
        e.detail = e.detail.map(|d| d.replace(value, name));
        e.hint = e.hint.map(|h| h.replace(value, name));
    }
    e
}

/// Opens a source whose options may refer to the environment.
pub(crate) async fn open_source(
    config: SourceConfig,
    environment: &Environment,
) -> Result<std::sync::Arc<dyn millstream_connectors::Source>> {
    let (options, replaced) = substitute(&config.options, environment)?;
    millstream_connectors::open_source(SourceConfig { options, ..config }).await.e().map_err(|e| hide(e, &replaced))
}

/// Options that decide which records there are, or how they are read: changing them would change the past.
const FIXED: &[&str] = &[
    "connector",
    "topic",
    "path",
    "format",
    "envelope",
    "start",
    "type",
    "events",
    "seed",
    "header",
    "delimiter",
    "follow",
    "compression",
    "partitions",
];

/// The options of a stream after `ALTER .. SET` and `RESET`.
pub(crate) fn altered(
    relation: &Relation,
    set: &[(String, String)],
    reset: &[String],
) -> Result<BTreeMap<String, String>> {
    let Body::Connector { options, .. } = &relation.body else {
        return Err(Error::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!("{} \"{}\" has no options", relation.kind().noun(), relation.name),
        )
        .hint("Streams over a connector have options."));
    };
    let mut next = options.clone();
    for key in set.iter().map(|(k, _)| k).chain(reset) {
        if FIXED.contains(&key.as_str()) {
            return Err(invalid(
                format!("option \"{key}\" of a stream cannot be changed"),
                "Views have read the stream as it is: create another one.",
            ));
        }
    }
    for key in reset {
        if next.remove(key).is_none() {
            return Err(invalid(format!("option \"{key}\" is not set"), "SHOW CREATE STREAM lists those that are."));
        }
    }
    next.extend(set.iter().cloned());
    check_common(&next)?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(items: &[(&str, &str)]) -> BTreeMap<String, String> {
        items.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn variables_are_replaced_and_never_shown() {
        let environment: Environment = std::sync::Arc::new(|n: &str| {
            (n == "PW").then(|| "hunter2".to_owned()).or((n == "H").then(|| "h".to_owned()))
        });
        let (out, replaced) = substitute(&options(&[("a", "x-${PW}-${H}"), ("b", "${open")]), &environment).unwrap();
        assert_eq!((out["a"].as_str(), out["b"].as_str()), ("x-hunter2-h", "${open"));
        let e = hide(Error::internal("no host x-hunter2"), &replaced);
        assert_eq!(e.message, "no ${H}ost x-${PW}");
        let e = substitute(&options(&[("a", "${NONE}")]), &environment).unwrap_err();
        assert_eq!(e.code, SqlState::INVALID_PARAMETER_VALUE);
        assert!(e.message.contains("\"NONE\""), "{e}");
        assert!(substitute(&options(&[("a", "${a b}")]), &environment).is_err());
    }

    #[test]
    fn on_error_has_three_values() {
        assert_eq!(on_error(&options(&[])).unwrap(), OnError::DeadLetter);
        assert_eq!(on_error(&options(&[("on_error", "SKIP")])).unwrap(), OnError::Skip);
        assert_eq!(on_error(&options(&[("on_error", "fial")])).unwrap_err().code, SqlState::INVALID_PARAMETER_VALUE);
        assert!(check_common(&options(&[("idle_timeout", "10s")])).unwrap());
        assert!(check_common(&options(&[("idle_timeout", "soon")])).is_err());
    }
}
