//! `JSON_TABLE`: the rows of a document as a list of structs, which the query unnests.
//!
//! `json_table_rows(document, definition)`: the definition is a constant, the columns as JSON ([`Definition`]).
//! `json_table_column(rows, n)` is one column of them as a list of its own. Rows of
//! NESTED paths stand beside their parent; a parent without any stays alone, several nested paths of one parent come one
//! after the other, as in Postgres. Values become texts on the way through the document, and then their types, a whole
//! column at a time; only where that fails, value by value.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde::{Deserialize, Serialize};

use super::path::{Item, Path};
use super::udf::user_error;
use super::value::{Json, parse_canonical};
use crate::error::{SqlError, SqlState};
use crate::functions::cast::cast;
use crate::types;

/// The name of the function.
pub(crate) const FUNCTION: &str = "json_table_rows";

/// The name of the function that gives a column.
pub(crate) const COLUMN_FUNCTION: &str = "json_table_column";

/// What happens where there is no value, or none that fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Otherwise {
    Null,
    Error,
    /// A text that is read as a value of the column's type.
    Default(String),
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ColumnDefinition {
    Ordinality,
    /// A scalar, or with `json` any value as JSON.
    Value {
        data_type: String,
        json: bool,
        path: String,
        empty: Otherwise,
        error: Otherwise,
    },
    Exists {
        data_type: String,
        path: String,
        error: bool,
    },
    /// Columns of the rows of a path below.
    Nested(Definition),
}

/// A table, or what is nested in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub path: String,
    /// ERROR ON ERROR.
    pub strict: bool,
    pub columns: Vec<ColumnDefinition>,
}

impl Definition {
    /// Number of columns, those of nested definitions included.
    pub(crate) fn width(&self) -> usize {
        let of = |c: &ColumnDefinition| match c {
            ColumnDefinition::Nested(d) => d.width(),
            _ => 1,
        };
        self.columns.iter().map(of).sum()
    }

    /// The name of a column of the struct.
    fn field(i: usize) -> String {
        format!("c{i}")
    }
}

type Checked<T> = std::result::Result<T, SqlError>;

/// A definition that is understood.
#[derive(Debug)]
struct Table {
    path: Path,
    strict: bool,
    columns: Vec<Column>,
    width: usize,
}

#[derive(Debug)]
enum Column {
    Ordinality,
    Value { json: bool, path: Path, empty: Otherwise, error: Otherwise },
    Exists { path: Path, error: bool },
    Nested(Table),
}

/// The type of a column, and what stands for a value that does not fit.
struct Target {
    data_type: DataType,
    error: Otherwise,
}

impl Table {
    fn new(d: &Definition, targets: &mut Vec<Target>) -> Checked<Self> {
        let mut columns = Vec::with_capacity(d.columns.len());
        for c in &d.columns {
            columns.push(match c {
                ColumnDefinition::Ordinality => {
                    targets.push(Target { data_type: DataType::Int32, error: Otherwise::Error });
                    Column::Ordinality
                }
                ColumnDefinition::Value { data_type, json, path, empty, error } => {
                    let data_type = types::parse_type(data_type)?;
                    for text in [empty, error] {
                        if let Otherwise::Default(text) = text {
                            one(Some(text), &data_type)?;
                        }
                    }
                    targets.push(Target { data_type, error: error.clone() });
                    Column::Value { json: *json, path: Path::parse(path)?, empty: empty.clone(), error: error.clone() }
                }
                ColumnDefinition::Exists { data_type, path, error } => {
                    let data_type = types::parse_type(data_type)?;
                    if !(data_type == DataType::Boolean || data_type == DataType::Int32 || is_text(&data_type)) {
                        let shown = types::display_name(&data_type);
                        return Err(SqlError::unsupported(format!(
                            "an EXISTS column of type {shown} is not supported"
                        ))
                        .hint("Use BOOLEAN, INT or TEXT."));
                    }
                    targets.push(Target { data_type, error: Otherwise::Error });
                    Column::Exists { path: Path::parse(path)?, error: *error }
                }
                ColumnDefinition::Nested(d) => Column::Nested(Self::new(d, targets)?),
            });
        }
        Ok(Self { path: Path::parse(&d.path)?, strict: d.strict, columns, width: d.width() })
    }

    /// Appends the rows of an item: texts for every column, from `at` on of `width`.
    fn rows(&self, item: &Json<'_>, targets: &[Target], out: &mut Vec<Vec<Option<String>>>) -> Checked<()> {
        let found = match self.path.find(item, None) {
            Ok(found) => found,
            Err(e) if self.strict => return Err(e),
            Err(_) => Vec::new(),
        };
        for (number, row) in found.iter().enumerate() {
            let mut own: Vec<Option<String>> = vec![None; self.width];
            let mut below: Vec<(usize, Vec<Vec<Option<String>>>)> = Vec::new();
            let mut at = 0;
            for column in &self.columns {
                match column {
                    Column::Ordinality => own[at] = Some((number + 1).to_string()),
                    Column::Value { json, path, empty, error } => own[at] = value(row, path, *json, empty, error)?,
                    Column::Exists { path, error } => {
                        own[at] = exists(row, path, *error)?.map(|found| match targets[at].data_type {
                            DataType::Int32 => i32::from(found).to_string(),
                            _ => found.to_string(),
                        });
                    }
                    Column::Nested(table) => {
                        let mut rows = Vec::new();
                        table.rows(row, &targets[at..], &mut rows)?;
                        below.push((at, rows));
                        at += table.width;
                        continue;
                    }
                }
                at += 1;
            }
            if below.iter().all(|(_, rows)| rows.is_empty()) {
                out.push(own);
                continue;
            }
            for (at, rows) in below {
                out.extend(rows.into_iter().map(|inner| {
                    let mut row = own.clone();
                    row.splice(at..at + inner.len(), inner);
                    row
                }));
            }
        }
        Ok(())
    }
}

fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn instead(otherwise: &Otherwise, e: impl FnOnce() -> SqlError) -> Checked<Option<String>> {
    match otherwise {
        Otherwise::Null => Ok(None),
        Otherwise::Default(text) => Ok(Some(text.clone())),
        Otherwise::Error => Err(e()),
    }
}

fn value(row: &Item<'_>, path: &Path, json: bool, empty: &Otherwise, error: &Otherwise) -> Checked<Option<String>> {
    let found = match path.find(row, None) {
        Ok(found) => found,
        Err(e) => return instead(error, || e),
    };
    match found.as_slice() {
        [] => instead(empty, || SqlError::new(SqlState("22035"), "no SQL/JSON item found for specified path")),
        [one] if json => Ok(Some(one.to_jsonb())),
        [one] => match one.as_ref() {
            Json::Null => Ok(None),
            Json::Bool(b) => Ok(Some(b.to_string())),
            Json::Number(n) => Ok(Some(n.to_string())),
            Json::String(s) => Ok(Some(s.to_string())),
            Json::Array(_) | Json::Object(_) => instead(error, || {
                SqlError::new(SqlState("2203F"), "JSON path expression must return single scalar item")
            }),
        },
        _ => instead(error, || {
            SqlError::new(SqlState("22034"), "JSON path expression must return single item")
                .hint("Use a path with [*] as the path of the table, or of NESTED.")
        }),
    }
}

fn exists(row: &Item<'_>, path: &Path, error: bool) -> Checked<Option<bool>> {
    match path.find(row, None) {
        Ok(found) => Ok(Some(!found.is_empty())),
        Err(e) if error => Err(e),
        Err(_) => Ok(Some(false)),
    }
}

/// One value of a type.
fn one(text: Option<&str>, data_type: &DataType) -> Checked<ArrayRef> {
    let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
    cast(&column, data_type).map_err(crate::session::from_datafusion)
}

/// A column of texts as its type.
fn typed(texts: Vec<Option<String>>, target: &Target) -> Checked<ArrayRef> {
    let t = &target.data_type;
    let column: ArrayRef = Arc::new(texts.iter().map(|t| t.as_deref()).collect::<StringArray>());
    if let Ok(all) = cast(&column, t) {
        return Ok(all);
    }
    // Some value does not fit: each by itself.
    let mut fitting: Vec<Option<String>> = Vec::with_capacity(texts.len());
    for text in texts {
        fitting.push(match one(text.as_deref(), t) {
            Ok(_) => text,
            Err(e) => instead(&target.error, || e)?,
        });
    }
    let column: ArrayRef = Arc::new(fitting.iter().map(|t| t.as_deref()).collect::<StringArray>());
    cast(&column, t).map_err(crate::session::from_datafusion)
}

pub(super) fn functions() -> [ScalarUDF; 2] {
    let column = ColumnFunction { signature: Signature::user_defined(Volatility::Immutable) };
    [function(), ScalarUDF::from(column)]
}

fn function() -> ScalarUDF {
    ScalarUDF::from(TableFunction { signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Debug)]
struct TableFunction {
    signature: Signature,
}

impl PartialEq for TableFunction {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TableFunction {}

impl Hash for TableFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        FUNCTION.hash(state);
    }
}

fn understood(definition: &str) -> Result<(Table, Vec<Target>)> {
    let bad = |e: serde_json::Error| user_error(SqlError::internal(format!("the definition of a JSON_TABLE: {e}")));
    let definition: Definition = serde_json::from_str(definition).map_err(bad)?;
    let mut targets = Vec::new();
    let table = Table::new(&definition, &mut targets).map_err(user_error)?;
    Ok((table, targets))
}

fn fields(targets: &[Target]) -> Fields {
    targets.iter().enumerate().map(|(i, t)| Field::new(Definition::field(i), t.data_type.clone(), true)).collect()
}

fn text_of(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(Some(s)) | ScalarValue::Utf8View(Some(s)) | ScalarValue::LargeUtf8(Some(s)) => Some(s),
        _ => None,
    }
}

fn no_definition() -> DataFusionError {
    user_error(SqlError::internal("a JSON_TABLE without a definition"))
}

impl ScalarUDFImpl for TableFunction {
    fn name(&self) -> &str {
        FUNCTION
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [document, definition] if is_text(definition) && (is_text(document) || document.is_null()) => {
                Ok(vec![DataType::Utf8, DataType::Utf8])
            }
            [document, _] => {
                let shown = types::display_name(document);
                let e = SqlError::new(SqlState::DATATYPE_MISMATCH, format!("JSON_TABLE over a value of type {shown}"));
                Err(user_error(e.hint("Cast it to jsonb, or make JSON of it with to_jsonb().")))
            }
            _ => Err(no_definition()),
        }
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Err(DataFusionError::Internal("the type of a JSON_TABLE depends on its definition".into()))
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let definition = args.scalar_arguments.get(1).copied().flatten().and_then(text_of).ok_or_else(no_definition)?;
        let (_, targets) = understood(definition)?;
        let list = types::list_of(DataType::Struct(fields(&targets)));
        Ok(Arc::new(Field::new(FUNCTION, list, true)))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (document, definition) = match args.args.as_slice() {
            [document, ColumnarValue::Scalar(definition)] => (document, text_of(definition).ok_or_else(no_definition)?),
            _ => return Err(no_definition()),
        };
        let (table, targets) = understood(definition)?;
        let constant = matches!(document, ColumnarValue::Scalar(_));
        let documents = document.to_array(if constant { 1 } else { args.number_rows })?;
        let documents = arrow::compute::cast(&documents, &DataType::Utf8)?;
        let mut lengths = Vec::with_capacity(documents.len());
        let mut rows: Vec<Vec<Option<String>>> = Vec::new();
        for document in documents.as_string::<i32>() {
            let before = rows.len();
            if let Some(text) = document {
                let json = parse_canonical(text).map_err(user_error)?;
                table.rows(&json, &targets, &mut rows).map_err(user_error)?;
            }
            lengths.push(rows.len() - before);
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(targets.len());
        for (i, target) in targets.iter().enumerate() {
            let texts = rows.iter_mut().map(|r| r.get_mut(i).and_then(Option::take)).collect();
            columns.push(typed(texts, target).map_err(user_error)?);
        }
        let fields = fields(&targets);
        let rows = StructArray::try_new_with_length(fields.clone(), columns, None, rows.len())?;
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
        let list: ArrayRef =
            Arc::new(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(rows), None)?);
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&list, 0)?)),
            false => Ok(ColumnarValue::Array(list)),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ColumnFunction {
    signature: Signature,
}

impl ScalarUDFImpl for ColumnFunction {
    fn name(&self) -> &str {
        COLUMN_FUNCTION
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [rows @ DataType::List(_), _] => Ok(vec![rows.clone(), DataType::Int64]),
            _ => Err(no_definition()),
        }
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Err(DataFusionError::Internal("the type of a column of a JSON_TABLE depends on its place".into()))
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let at = args.scalar_arguments.get(1).copied().flatten();
        let rows = args.arg_fields.first().map(|f| f.data_type());
        let (Some(ScalarValue::Int64(Some(at))), Some(DataType::List(item))) = (at, rows) else {
            return Err(no_definition());
        };
        match item.data_type() {
            DataType::Struct(fields) => {
                let field = usize::try_from(*at).ok().and_then(|at| fields.get(at)).ok_or_else(no_definition)?;
                Ok(Arc::new(Field::new(COLUMN_FUNCTION, types::list_of(field.data_type().clone()), true)))
            }
            _ => Err(no_definition()),
        }
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [rows, ColumnarValue::Scalar(ScalarValue::Int64(Some(at)))] = args.args.as_slice() else {
            return Err(no_definition());
        };
        let constant = matches!(rows, ColumnarValue::Scalar(_));
        let rows = rows.to_array(if constant { 1 } else { args.number_rows })?;
        let rows = rows.as_list_opt::<i32>().ok_or_else(no_definition)?;
        let structs = rows.values().as_struct_opt().ok_or_else(no_definition)?;
        let column = usize::try_from(*at).ok().and_then(|at| structs.columns().get(at)).ok_or_else(no_definition)?;
        let item = Arc::new(Field::new_list_field(column.data_type().clone(), true));
        let nulls = rows.nulls().cloned();
        let list: ArrayRef = Arc::new(ListArray::try_new(item, rows.offsets().clone(), Arc::clone(column), nulls)?);
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&list, 0)?)),
            false => Ok(ColumnarValue::Array(list)),
        }
    }
}
