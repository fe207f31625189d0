//! Statements that we know and do not have: what they are called and what to do instead.

use super::cursor::Cursor;
use crate::error::SqlError;

/// Words at the start of a statement, and the hint.
const STATEMENTS: &[(&[&str], &str)] = &[
    (&["alter", "system"], "Settings of the server are in its settings file; SET changes those of the session."),
    (&["declare"], "Use SUBSCRIBE, or COPY (SUBSCRIBE ..) TO STDOUT."),
    (&["fetch"], "Use SUBSCRIBE, or LIMIT and OFFSET."),
    (&["move"], "Use LIMIT and OFFSET."),
    (&["grant"], "There are no privileges on objects."),
    (&["revoke"], "There are no privileges on objects."),
    (&["merge"], "Use INSERT, UPDATE and DELETE."),
    (&["truncate"], "Use DELETE FROM."),
    (&["listen"], "Use SUBSCRIBE."),
    (&["unlisten"], "Use SUBSCRIBE."),
    (&["notify"], "Use INSERT into a table that others SUBSCRIBE to."),
    (&["prepare"], "Use the prepared statements of the client library."),
    (&["execute"], "Use the prepared statements of the client library."),
    (&["savepoint"], "Use BEGIN and COMMIT without savepoints."),
    (&["release"], "Use BEGIN and COMMIT without savepoints."),
    (&["vacuum"], "Nothing needs it."),
    (&["analyze"], "Nothing needs it."),
    (&["reindex"], "Nothing needs it."),
    (&["cluster"], "Nothing needs it."),
    (&["refresh"], "Materialized views are always fresh."),
    (&["lock"], "Reads see one epoch and need no locks."),
    (&["call"], "There are no procedures."),
    (&["do"], "There are no procedures."),
    (&["cancel"], "Drop the view of the job."),
    (&["kill"], "Use the cancel request of the client."),
    (&["wait"], "FLUSH waits until every view has reached the present."),
    (&["validate"], "CREATE STREAM checks the connection."),
    (&["use"], "There is one database; write schema.name."),
    (&["security"], "There are no security labels."),
    (&["import"], "Create a stream with a connector."),
    (&["reassign"], "There are no owners."),
    (&["load"], "There are no extensions."),
];

/// Kinds after CREATE and DROP, and the hint.
const KINDS: &[(&[&str], &str)] = &[
    (&["sink"], "Read a view with SUBSCRIBE or COPY (SUBSCRIBE ..) TO STDOUT."),
    (&["unique", "index"], "Use PRIMARY KEY in CREATE TABLE."),
    (&["connection"], "Give the connection in WITH (..) of CREATE STREAM."),
    (&["secret"], "Write '${NAME}' in an option to take a value from the server's environment."),
    (&["function"], "Write the expression in the query, or keep it in a view."),
    (&["aggregate"], "Use the built-in aggregates."),
    (&["procedure"], "There are no procedures."),
    (&["subscription"], "Use SUBSCRIBE."),
    (&["publication"], "Use SUBSCRIBE."),
    (&["role"], "There are no roles."),
    (&["user"], "There are no roles."),
    (&["group"], "There are no roles."),
    (&["database"], "There is one database."),
    (&["schema"], "All objects are in the schema public."),
    (&["sequence"], "Give the values yourself."),
    (&["type"], "Use STRUCT<..> in the column."),
    (&["domain"], "Use the type itself."),
    (&["trigger"], "Use a materialized view, or SUBSCRIBE."),
    (&["extension"], "There are no extensions."),
    (&["policy"], "There are no policies."),
    (&["rule"], "Use a view."),
    (&["cluster"], "There are no clusters of that kind."),
    (&["recursive", "view"], "Write WITH RECURSIVE in the query."),
    (&["foreign", "table"], "Use CREATE STREAM with a connector."),
    (&["external", "table"], "Use CREATE STREAM with a connector."),
    (&["unlogged", "table"], "Use CREATE TABLE."),
    (&["macro"], "Use a view."),
    (&["cast"], "Use the built-in casts."),
    (&["operator"], "Use the built-in operators."),
    (&["collation"], "Text is compared by its bytes."),
];

fn name(words: &[&str]) -> String {
    words.join(" ").to_ascii_uppercase()
}

fn of(verb: &str, words: &[&str], hint: &str) -> SqlError {
    let what = if verb.is_empty() { name(words) } else { format!("{verb} {}", name(words)) };
    SqlError::unsupported(format!("{what} is not supported")).hint(hint)
}

/// The error for a known first word.
pub(crate) fn statement(c: &Cursor<'_>) -> Option<SqlError> {
    STATEMENTS.iter().find(|(w, _)| c.looking_at(w)).map(|(w, hint)| of("", w, hint).at(c.position()))
}

/// The error for a known kind after ALTER.
pub(crate) fn alter(c: &Cursor<'_>) -> Option<SqlError> {
    KINDS.iter().find(|(w, _)| c.looking_at(w)).map(|(w, _)| of("ALTER", w, "Drop the object and create it again."))
}

/// The error for a known kind after CREATE.
pub(crate) fn create(c: &Cursor<'_>) -> Option<SqlError> {
    KINDS.iter().find(|(w, _)| c.looking_at(w)).map(|(w, hint)| of("CREATE", w, hint))
}

/// The error for a known kind after DROP.
pub(crate) fn drop(c: &Cursor<'_>) -> Option<SqlError> {
    KINDS.iter().find(|(w, _)| c.looking_at(w)).map(|(w, _)| {
        let hint = format!("There is no {} to drop.", w.join(" "));
        of("DROP", w, &hint)
    })
}
