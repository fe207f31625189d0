//! ALTER, COMMENT and indexes; and the texts of definitions that follow a changed name.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use sqlparser::ast::{self, Visit as _, Visitor};
use sqlparser::tokenizer::{Location, Token};

use super::create::{if_not_exists, kind};
use super::cursor::{Cursor, RESERVED};
use super::{options, unsupported};
use crate::error::{Result, SqlError, SqlState};
use crate::span::Walker;
use crate::statement::{AlterAction, CommentTarget, CreateIndex, ObjectKind, Options, Statement};

const KINDS: &str = "STREAM, SOURCE, TABLE, VIEW or MATERIALIZED VIEW";

fn if_exists(c: &mut Cursor<'_>) -> Result<bool> {
    if c.eat(&["if"]) {
        c.expect(&["exists"])?;
        return Ok(true);
    }
    Ok(false)
}

/// ALTER, with the cursor on that word.
pub(crate) fn alter(c: &mut Cursor<'_>) -> Result<Statement> {
    let at = c.position();
    if c.looking_at(&["alter", "system"]) {
        return Err(unsupported::statement(c).unwrap_or_else(|| c.unexpected("a statement")));
    }
    c.expect(&["alter"])?;
    let Some(kind) = kind(c) else {
        return Err(unsupported::alter(c).map_or_else(|| c.unexpected(KINDS), |e| e.at(at)));
    };
    let if_exists = if_exists(c)?;
    let name = c.object_name()?;
    let action = action(c, kind, at)?;
    c.expect_end()?;
    Ok(Statement::Alter { kind, if_exists, name, action })
}

fn action(c: &mut Cursor<'_>, kind: ObjectKind, at: usize) -> Result<AlterAction> {
    if c.eat(&["rename"]) {
        if !c.looking_at(&["to"]) {
            return Err(SqlError::unsupported("RENAME of a column is not supported")
                .hint("Create a view that gives the column another name.")
                .at(at));
        }
        c.expect(&["to"])?;
        return Ok(AlterAction::RenameTo(c.ident("a name")?));
    }
    if c.eat(&["swap"]) {
        c.expect(&["with"])?;
        return Ok(AlterAction::SwapWith(c.object_name()?));
    }
    if c.eat_any(&["pause", "suspend"]).is_some() {
        return Ok(AlterAction::Pause);
    }
    if c.eat(&["resume"]) {
        return Ok(AlterAction::Resume);
    }
    if c.eat(&["owner"]) {
        c.expect(&["to"])?;
        return Ok(AlterAction::OwnerTo(c.ident("a role")?));
    }
    if c.looking_at(&["set", "schema"]) {
        return Err(SqlError::unsupported("SET SCHEMA is not supported")
            .hint("All objects are in the schema public.")
            .at(at));
    }
    if c.eat(&["set"]) {
        let mut list = Options::new();
        options::list(c, &mut list)?;
        return Ok(AlterAction::Set(list));
    }
    if c.eat(&["reset"]) {
        c.expect_token(&Token::LParen)?;
        let mut keys = vec![options::key(c)?];
        while c.eat_token(&Token::Comma) {
            keys.push(options::key(c)?);
        }
        c.expect_token(&Token::RParen)?;
        return Ok(AlterAction::Reset(keys));
    }
    const REFUSED: &[(&str, &str)] = &[
        ("add", "Create a new table, INSERT .. SELECT from the old one and SWAP them."),
        ("drop", "Create a view without the column."),
        ("alter", "Create a new table, INSERT .. SELECT from the old one and SWAP them."),
        ("as", "Use CREATE OR REPLACE MATERIALIZED VIEW .. AS."),
    ];
    if let Some((word, hint)) = REFUSED.iter().find(|(w, _)| c.looking_at(&[w])) {
        let what = format!("ALTER {} .. {} is not supported", kind.noun().to_uppercase(), word.to_uppercase());
        return Err(SqlError::unsupported(what).hint(*hint).at(at));
    }
    Err(c.unexpected("RENAME TO, SWAP WITH, PAUSE, RESUME, SET, RESET or OWNER TO"))
}

/// `PAUSE | SUSPEND | RESUME <kind> name`, other systems' spelling of ALTER.
pub(crate) fn pause_or_resume(c: &mut Cursor<'_>, word: &str) -> Result<Statement> {
    c.pos += 1;
    let Some(kind) = kind(c) else { return Err(c.unexpected(KINDS)) };
    let if_exists = if_exists(c)?;
    let name = c.object_name()?;
    c.expect_end()?;
    let action = if word == "resume" { AlterAction::Resume } else { AlterAction::Pause };
    Ok(Statement::Alter { kind, if_exists, name, action })
}

/// COMMENT, with the cursor on that word.
pub(crate) fn comment(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect(&["comment", "on"])?;
    let at = c.position();
    let target = if c.eat(&["column"]) {
        let mut path = vec![c.ident("a relation")?];
        while c.eat_token(&Token::Period) {
            path.push(c.ident("a column")?);
        }
        let column = path.pop().unwrap_or_default();
        let name = path.pop();
        let Some(name) = name.filter(|_| path.len() < 2) else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "column name must be qualified")
                .hint("Write COMMENT ON COLUMN relation.column IS '..'.")
                .at(at));
        };
        CommentTarget::Column(crate::statement::ObjectName { schema: path.pop(), name }, column)
    } else if let Some(kind) = kind(c) {
        CommentTarget::Relation(kind, c.object_name()?)
    } else {
        let word = c.src.token_text(c.pos).to_ascii_uppercase();
        return Err(SqlError::unsupported(format!("COMMENT ON {word} is not supported"))
            .hint(format!("Describe a {KINDS}, or a COLUMN."))
            .at(at));
    };
    c.expect(&["is"])?;
    let text = if c.eat(&["null"]) { None } else { Some(c.string("a string or NULL")?) };
    c.expect_end()?;
    // The empty description is none, as in Postgres.
    Ok(Statement::Comment { target, text: text.filter(|t| !t.is_empty()) })
}

/// CREATE INDEX, with the cursor after these words.
pub(crate) fn create_index(c: &mut Cursor<'_>) -> Result<Statement> {
    c.eat(&["concurrently"]);
    let if_not_exists = if_not_exists(c)?;
    let name = if c.looking_at(&["on"]) { None } else { Some(c.ident("the name of the index, or ON")?) };
    c.expect(&["on"])?;
    c.eat(&["only"]);
    let on = c.object_name()?;
    if c.eat(&["using"]) {
        let at = c.position();
        let method = c.ident("an index method")?;
        if method != "btree" {
            return Err(SqlError::unsupported(format!("index method {method} is not supported"))
                .hint("There is one kind of index, in order of its columns: leave USING out.")
                .at(at));
        }
    }
    c.expect_token(&Token::LParen)?;
    let mut columns: Vec<String> = Vec::new();
    loop {
        let at = c.position();
        let column = c.ident("a column")?;
        if c.is_token(&Token::LParen) {
            return Err(SqlError::unsupported("an index on an expression is not supported")
                .hint("Create a materialized view that computes it, and an index on that.")
                .at(at));
        }
        if columns.contains(&column) {
            return Err(SqlError::new(SqlState::DUPLICATE_COLUMN, format!("column \"{column}\" is named twice")).at(at));
        }
        columns.push(column);
        // The order of an index can be read both ways.
        c.eat_any(&["asc", "desc"]);
        if c.eat(&["nulls"]) && c.eat_any(&["first", "last"]).is_none() {
            return Err(c.unexpected("FIRST or LAST"));
        }
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    if let Some(word) = ["include", "where", "with", "tablespace"].iter().find(|w| c.looking_at(&[w])) {
        let what = format!("{} of an index is not supported", word.to_uppercase());
        return Err(SqlError::unsupported(what).hint("Leave it out.").at(c.position()));
    }
    c.expect_end()?;
    Ok(Statement::CreateIndex(CreateIndex { name, if_not_exists, on, columns }))
}

/// DROP INDEX, with the cursor after these words.
pub(crate) fn drop_index(c: &mut Cursor<'_>) -> Result<Statement> {
    c.eat(&["concurrently"]);
    let if_exists = if_exists(c)?;
    let mut names = vec![c.object_name()?.name];
    while c.eat_token(&Token::Comma) {
        names.push(c.object_name()?.name);
    }
    c.eat_any(&["cascade", "restrict"]);
    c.expect_end()?;
    Ok(Statement::DropIndex { if_exists, names })
}

/// A name as SQL reads it back.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn folded(i: &ast::Ident) -> String {
    if i.quote_style.is_some() { i.value.clone() } else { i.value.to_ascii_lowercase() }
}

/// References to renamed relations in a query, with what replaces them.
struct References<'a> {
    renames: &'a BTreeMap<String, String>,
    edits: Vec<(Location, Location, String)>,
    shadowed: Option<String>,
}

impl References<'_> {
    fn renamed(&self, name: &ast::ObjectName) -> Option<(ast::Ident, String)> {
        let parts: Vec<&ast::Ident> = name.0.iter().filter_map(|p| p.as_ident()).collect();
        let (last, schema) = parts.split_last()?;
        if parts.len() != name.0.len() || schema.last().is_some_and(|s| folded(s) != "public") {
            return None;
        }
        self.renames.get(&folded(last)).map(|new| ((*last).clone(), new.clone()))
    }
    fn replace(&mut self, old: &ast::Ident, new: String) {
        self.edits.push((old.span.start, old.span.end, new));
    }
}

impl Visitor for References<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, q: &ast::Query) -> ControlFlow<()> {
        for cte in q.with.iter().flat_map(|w| &w.cte_tables) {
            let name = folded(&cte.alias.name);
            if self.renames.contains_key(&name) {
                self.shadowed = Some(name);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, t: &ast::TableFactor) -> ControlFlow<()> {
        let ast::TableFactor::Table { name, alias, args, .. } = t else { return ControlFlow::Continue(()) };
        match args {
            None => {
                if let Some((old, new)) = self.renamed(name) {
                    // Columns qualified with the old name go on to mean this table.
                    let alias = if alias.is_none() { format!(" AS {}", quoted(&folded(&old))) } else { String::new() };
                    self.replace(&old, format!("{}{alias}", quoted(&new)));
                }
            }
            Some(args) => {
                // `TUMBLE(t, ..)`: the relation is the first argument.
                if let Some(ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(ast::Expr::Identifier(i)))) =
                    args.args.first()
                    && let Some(new) = self.renames.get(&folded(i)).cloned()
                {
                    self.replace(&i.clone(), quoted(&new));
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// A stored query with the relations it names under their new names. Qualified columns keep their meaning: a table
/// without an alias gets its old name as one. Fails where a name is also that of a WITH query.
pub fn rename_in_query(text: &str, renames: &BTreeMap<String, String>) -> Result<String> {
    let query = super::parse_query(text)?;
    let mut found = References { renames, edits: Vec::new(), shadowed: None };
    // A break only says that a WITH query shadows a name, which is looked at next.
    let _ = query.visit(&mut found);
    if let Some(name) = found.shadowed {
        return Err(SqlError::unsupported(format!("a WITH query has the name \"{name}\" too")));
    }
    Ok(splice(text, found.edits))
}

/// Replaces places of a text.
fn splice(text: &str, mut edits: Vec<(Location, Location, String)>) -> String {
    edits.sort_by_key(|(from, ..)| *from);
    edits.dedup_by_key(|(from, ..)| *from);
    let mut walker = Walker::new(text);
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (from, to, new) in edits {
        let (from, to) = (walker.advance(from).bytes, walker.advance(to).bytes);
        out.push_str(text.get(at..from).unwrap_or_default());
        out.push_str(&new);
        at = to;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// A CREATE statement with another name for what it creates.
pub fn rename_definition(text: &str, name: &str) -> Result<String> {
    let src = super::checked(text, &crate::limits::Limits::default())?;
    let mut c = Cursor::new(&src);
    c.expect(&["create"])?;
    c.eat(&["or", "replace"]);
    if kind(&mut c).is_none() {
        return Err(c.unexpected(KINDS));
    }
    if_not_exists(&mut c)?;
    let from = c.peek().map_or(0, |t| t.start.bytes);
    c.object_name()?;
    let to = src.tokens.get(c.pos - 1).map_or(from, |t| t.end.bytes);
    let part = |r: std::ops::Range<usize>| text.get(r).unwrap_or_default();
    Ok(format!("{}{}{}", part(0..from), quoted(name), part(to..text.len())))
}

/// Words in the key of an option that say that its value is nobody's business.
const SECRETS: &[&str] =
    &["password", "secret", "token", "credential", "private", "access_key", "ssl.key", "sasl.jaas"];

/// True for options whose values are never shown.
fn secret(key: &str) -> bool {
    SECRETS.iter().any(|s| key.contains(s))
}

/// A CREATE statement to be shown: values of options with passwords and the like are replaced, except where they are
/// references to the environment.
pub fn mask_in_definition(text: &str) -> String {
    let Ok(src) = super::checked(text, &crate::limits::Limits::default()) else { return text.to_owned() };
    let mut edits = Vec::new();
    for (i, t) in src.tokens.iter().enumerate() {
        let Token::Eq = t.token.token else { continue };
        // The key is what stands before without a gap: words, dots, minus signs, or a string.
        let mut from = i;
        while from > 0
            && matches!(
                src.tokens[from - 1].token.token,
                Token::Word(_) | Token::Period | Token::Minus | Token::SingleQuotedString(_) | Token::Number(..)
            )
        {
            from -= 1;
            if matches!(src.tokens[from].token.token, Token::SingleQuotedString(_)) {
                break;
            }
        }
        let key: String = (from..i).map(|k| src.token_text(k)).collect::<String>().to_ascii_lowercase();
        let Some(value) = src.tokens.get(i + 1) else { continue };
        let Token::SingleQuotedString(v) = &value.token.token else { continue };
        if secret(&key) && !(v.starts_with("${") && v.ends_with('}')) {
            edits.push((value.token.span.start, value.token.span.end, "'******'".to_owned()));
        }
    }
    if edits.is_empty() { text.to_owned() } else { splice(text, edits) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    fn one(sql: &str) -> Statement {
        parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}")).remove(0).statement
    }

    #[test]
    fn alter_knows_its_actions() {
        let action = |sql: &str| match one(sql) {
            Statement::Alter { action, .. } => action,
            other => panic!("{sql}: {other:?}"),
        };
        assert_eq!(action("ALTER TABLE t RENAME TO \"U\""), AlterAction::RenameTo("U".into()));
        assert_eq!(action("ALTER MATERIALIZED VIEW IF EXISTS v PAUSE"), AlterAction::Pause);
        assert_eq!(action("SUSPEND MATERIALIZED VIEW v"), AlterAction::Pause);
        assert_eq!(action("RESUME STREAM s"), AlterAction::Resume);
        assert_eq!(action("ALTER STREAM s RESET (on_error, properties.x)").clone(), {
            AlterAction::Reset(vec!["on_error".into(), "properties.x".into()])
        });
        let AlterAction::Set(options) = action("ALTER SOURCE s SET (on_error = skip)") else { panic!("not SET") };
        assert_eq!(options.get("on_error").map(String::as_str), Some("skip"));
        assert!(matches!(action("ALTER VIEW a SWAP WITH public.b"), AlterAction::SwapWith(n) if n.name == "b"));
        assert_eq!(parse("ALTER TABLE t ADD COLUMN c INT").unwrap_err().code, SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(parse("ALTER TABLE t FLY").unwrap_err().code, SqlState::SYNTAX_ERROR);
    }

    #[test]
    fn comments_and_indexes_parse() {
        let Statement::Comment { target, text } = one("COMMENT ON COLUMN public.t.c IS 'it''s c'") else { panic!() };
        assert!(matches!(target, CommentTarget::Column(n, c) if n.to_string() == "public.t" && c == "c"));
        assert_eq!(text.as_deref(), Some("it's c"));
        assert!(matches!(one("COMMENT ON TABLE t IS NULL"), Statement::Comment { text: None, .. }));
        assert_eq!(parse("COMMENT ON COLUMN c IS 'x'").unwrap_err().code, SqlState::SYNTAX_ERROR);
        let Statement::CreateIndex(i) = one("CREATE INDEX IF NOT EXISTS i ON v USING btree (a DESC NULLS LAST, b)")
        else {
            panic!()
        };
        assert_eq!((i.name.as_deref(), i.columns.len(), i.if_not_exists), (Some("i"), 2, true));
        assert!(parse("CREATE INDEX i ON v (lower(a))").unwrap_err().message.contains("expression"));
        assert!(matches!(one("DROP INDEX IF EXISTS i, j"), Statement::DropIndex { names, .. } if names.len() == 2));
    }

    #[test]
    fn a_renamed_relation_keeps_its_qualifier_in_stored_queries() {
        let renames = BTreeMap::from([("t".to_owned(), "New T".to_owned()), ("u".to_owned(), "t".to_owned())]);
        let new =
            rename_in_query("SELECT T.a, x.b\n  FROM public.t, u AS x, w WHERE EXISTS (SELECT 1 FROM T)", &renames);
        assert_eq!(
            new.unwrap(),
            "SELECT T.a, x.b\n  FROM public.\"New T\" AS t, t AS x, w WHERE EXISTS (SELECT 1 FROM \"New T\" AS t)"
        );
        let new = rename_in_query("SELECT count(*) FROM TUMBLE(u, at, INTERVAL '1 s')", &renames);
        assert_eq!(new.unwrap(), "SELECT count(*) FROM TUMBLE(t, at, INTERVAL '1 s')");
        assert!(rename_in_query("WITH t AS (SELECT 1) SELECT * FROM t", &renames).is_err());
    }

    #[test]
    fn a_definition_follows_its_name() {
        let new = rename_definition("CREATE OR REPLACE MATERIALIZED VIEW public.v (a) AS SELECT v FROM t", "w");
        assert_eq!(new.unwrap(), "CREATE OR REPLACE MATERIALIZED VIEW w (a) AS SELECT v FROM t");
        let new = rename_definition("CREATE STREAM IF NOT EXISTS s WITH (connector = 'file')", "order");
        assert_eq!(new.unwrap(), "CREATE STREAM IF NOT EXISTS \"order\" WITH (connector = 'file')");
    }

    #[test]
    fn passwords_are_not_shown() {
        let text = "CREATE STREAM s (a INT) WITH (topic = 't', properties.sasl.password = 'hunter2', \
                    'properties.ssl.key.password' = '${PW}')";
        let shown = mask_in_definition(text);
        assert!(!shown.contains("hunter2") && shown.contains("'******'") && shown.contains("${PW}"), "{shown}");
        assert!(shown.contains("topic = 't'"));
    }
}
