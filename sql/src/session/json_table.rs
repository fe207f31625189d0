//! `JSON_TABLE(document, path COLUMNS (..))` in FROM.
//!
//! It becomes an UNNEST of its columns: of what `json_table_rows` gives for a document, each column is a list. The
//! optimizer computes the rows once, for they are the same expression in all columns.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, DataType, Expr, Ident, JsonTableColumn, JsonTableColumnErrorHandling, JsonTableNamedColumn, TableAlias,
    TableAliasColumnDef, TableFactor, Value, ValueWithSpan, VisitMut, VisitorMut,
};

use super::rows::called;
use crate::error::{Result, SqlError, SqlState};
use crate::functions::json::table::{COLUMN_FUNCTION, ColumnDefinition, Definition, FUNCTION, Otherwise};
use crate::parse::clauses::ERROR_MARK;

/// Rewrites every JSON_TABLE of the query.
pub(super) fn rewrite(query: &mut ast::Query) -> Result<()> {
    struct Tables;
    impl VisitorMut for Tables {
        type Break = SqlError;
        fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
            match table(factor) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e),
            }
        }
    }
    match query.visit(&mut Tables) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn table(factor: &mut TableFactor) -> Result<()> {
    let TableFactor::JsonTable { json_expr, json_path, columns, alias } = factor else { return Ok(()) };
    let path = text(json_path, "the path of a JSON_TABLE")?;
    let (path, strict) = match path.strip_prefix(ERROR_MARK) {
        Some(path) => (path.to_owned(), true),
        None => (path, false),
    };
    let mut names = Vec::new();
    let definition = definition(path, strict, columns, &mut names)?;
    for (i, name) in names.iter().enumerate() {
        if names[..i].iter().any(|n| n.value == name.value) {
            let message = format!("column name \"{}\" is not unique in a JSON_TABLE", name.value);
            return Err(SqlError::new(SqlState::DUPLICATE_COLUMN, message));
        }
    }
    let spec = serde_json::to_string(&definition)
        .map_err(|e| SqlError::internal(format!("the definition of a JSON_TABLE: {e}")))?;
    let document = std::mem::replace(json_expr, Expr::value(Value::Null));
    let rows = called(FUNCTION, vec![document, Expr::value(Value::SingleQuotedString(spec))]);
    let column =
        |i: usize| called(COLUMN_FUNCTION, vec![rows.clone(), Expr::value(Value::Number(i.to_string(), false))]);
    let array_exprs = (0..names.len()).map(column).collect();
    let mut alias = alias.take().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new("json_table"),
        columns: Vec::new(),
        at: None,
    });
    // What the user did not name has the names of the definition.
    let own = names.into_iter().skip(alias.columns.len());
    let own: Vec<_> = own.map(|name| TableAliasColumnDef { name, data_type: None }).collect();
    alias.columns.extend(own);
    *factor = TableFactor::UNNEST {
        alias: Some(alias),
        array_exprs,
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    };
    Ok(())
}

fn text(value: &ValueWithSpan, what: &str) -> Result<String> {
    match &value.value {
        Value::SingleQuotedString(s) | Value::EscapedStringLiteral(s) => Ok(s.clone()),
        _ => Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("{what} must be a string constant"))),
    }
}

fn definition(path: String, strict: bool, columns: &[JsonTableColumn], names: &mut Vec<Ident>) -> Result<Definition> {
    let mut out = Vec::with_capacity(columns.len());
    for column in columns {
        out.push(match column {
            JsonTableColumn::ForOrdinality(name) => {
                names.push(name.clone());
                ColumnDefinition::Ordinality
            }
            JsonTableColumn::Named(column) => {
                names.push(column.name.clone());
                named(column, strict)?
            }
            JsonTableColumn::Nested(nested) => {
                let path = text(&nested.path, "a NESTED path")?;
                ColumnDefinition::Nested(definition(path, strict, &nested.columns, names)?)
            }
        });
    }
    Ok(Definition { path, strict, columns: out })
}

fn named(column: &JsonTableNamedColumn, strict: bool) -> Result<ColumnDefinition> {
    let path = text(&column.path, &format!("the path of column \"{}\"", column.name.value))?;
    let data_type = column.r#type.to_string();
    if column.exists {
        if column.on_empty.is_some() || matches!(column.on_error, Some(JsonTableColumnErrorHandling::Default(_))) {
            let message = format!("EXISTS column \"{}\" takes ERROR ON ERROR only", column.name.value);
            return Err(SqlError::unsupported(message));
        }
        let error = strict || matches!(column.on_error, Some(JsonTableColumnErrorHandling::Error));
        return Ok(ColumnDefinition::Exists { data_type, path, error });
    }
    let json = matches!(column.r#type, DataType::JSON | DataType::JSONB);
    let otherwise = |o: &Option<JsonTableColumnErrorHandling>| -> Result<Option<Otherwise>> {
        Ok(match o {
            None => None,
            Some(JsonTableColumnErrorHandling::Null) => Some(Otherwise::Null),
            Some(JsonTableColumnErrorHandling::Error) => Some(Otherwise::Error),
            Some(JsonTableColumnErrorHandling::Default(value)) => Some(match &value.value {
                Value::Null => Otherwise::Null,
                Value::Number(n, _) => Otherwise::Default(n.clone()),
                Value::Boolean(b) => Otherwise::Default(b.to_string()),
                Value::SingleQuotedString(s) | Value::EscapedStringLiteral(s) => Otherwise::Default(s.clone()),
                _ => return Err(SqlError::unsupported("DEFAULT of a JSON_TABLE takes a constant")),
            }),
        })
    };
    let empty = otherwise(&column.on_empty)?.unwrap_or(Otherwise::Null);
    // ERROR ON ERROR of the table holds for columns that say nothing themselves.
    let silent = if strict { Otherwise::Error } else { Otherwise::Null };
    let error = otherwise(&column.on_error)?.unwrap_or(silent);
    Ok(ColumnDefinition::Value { data_type, json, path, empty, error })
}
