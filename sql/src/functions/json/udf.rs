//! What all JSON functions share: arguments brought to a few array types, one pass over the rows, one result column.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Int64Array, Int64Builder, ListArray, ListBuilder, StringViewArray,
    StringViewBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::JSON_KEY;
use crate::error::{SqlError, SqlState};
use crate::types;

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arg {
    /// JSON or text.
    Text,
    /// A whole number.
    Int,
    /// `text[]`, or its literal `'{a,b}'`.
    TextList,
    /// Text or a whole number.
    Key,
    /// Text, a whole number or `text[]`.
    Keys,
    /// True or false.
    Bool,
}

/// What the function gives for the values of one row. `None` is NULL. It is not called where an argument is NULL.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// Text that is JSON; the word says which.
    Json(&'static str, fn(&Row<'_>) -> RowResult<String>),
    /// Any text.
    Text(fn(&Row<'_>) -> RowResult<String>),
    /// A whole number.
    Int(fn(&Row<'_>) -> RowResult<i64>),
    /// True or false.
    Bool(fn(&Row<'_>) -> RowResult<bool>),
    /// `text[]`.
    List(fn(&Row<'_>) -> RowResult<Vec<Option<String>>>),
}

/// A value, NULL, or why there is none.
pub(super) type RowResult<T> = std::result::Result<Option<T>, SqlError>;

/// Name, arguments and work of a function.
#[derive(Clone, Copy)]
pub(super) struct Def {
    /// The first is the one that plans are stored with.
    pub names: &'static [&'static str],
    /// Arguments; the last may repeat.
    pub args: &'static [Arg],
    /// How many of `args` may be left out at the end.
    pub optional: usize,
    /// The last argument may come any number of times.
    pub variadic: bool,
    /// The work.
    pub run: Run,
}

impl Def {
    pub(super) fn udf(self) -> ScalarUDF {
        let aliases = self.names[1..].iter().map(|n| (*n).to_owned()).collect();
        ScalarUDF::from(JsonFunction { def: self, aliases, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

struct JsonFunction {
    def: Def,
    aliases: Vec<String>,
    signature: Signature,
}

// The name says everything: there is one definition for each.
impl PartialEq for JsonFunction {
    fn eq(&self, other: &Self) -> bool {
        self.def.names == other.def.names
    }
}

impl Eq for JsonFunction {}

impl Hash for JsonFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.def.names.hash(state);
    }
}

impl std::fmt::Debug for JsonFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonFunction").field("name", &self.def.names[0]).finish()
    }
}

pub(super) fn user_error(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

/// A field of text that is known to be JSON.
pub(in crate::functions) fn json_field(name: &str, kind: &str) -> FieldRef {
    let metadata = HashMap::from([(JSON_KEY.to_owned(), kind.to_owned())]);
    Arc::new(Field::new(name, DataType::Utf8View, true).with_metadata(metadata))
}

/// The types that arguments of these types become. So many of `args` may be left out at the end; the last may repeat.
pub(super) fn coerced(
    name: &str,
    args: &[Arg],
    optional: usize,
    most: usize,
    given: &[DataType],
) -> Result<Vec<DataType>> {
    let undefined = || {
        let types: Vec<String> = given.iter().map(types::display_name).collect();
        let message = format!("function {name}({}) does not exist", types.join(", "));
        user_error(
            SqlError::new(SqlState::UNDEFINED_FUNCTION, message)
                .hint("No function matches the given name and argument types."),
        )
    };
    if given.len() < args.len() - optional || given.len() > most {
        return Err(undefined());
    }
    let last = args.len() - 1;
    given.iter().enumerate().map(|(i, t)| args[i.min(last)].coerced(t).ok_or_else(undefined)).collect()
}

impl Arg {
    fn coerced(self, given: &DataType) -> Option<DataType> {
        use DataType as T;
        let text = matches!(given, T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Null);
        let int = given.is_integer();
        let list = match given {
            T::List(f) | T::LargeList(f) | T::FixedSizeList(f, _) => {
                matches!(f.data_type(), T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Null)
            }
            _ => false,
        };
        let ok = match self {
            Self::Text => text,
            Self::Int => int || *given == T::Null,
            Self::TextList => text || list,
            Self::Key => text || int,
            Self::Keys => text || int || list,
            Self::Bool => return matches!(given, T::Boolean | T::Null).then_some(T::Boolean),
        };
        match () {
            () if !ok => None,
            () if list => Some(types::list_of(T::Utf8View)),
            () if int || (self == Self::Int) => Some(T::Int64),
            () => Some(T::Utf8View),
        }
    }
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.def.names[0]
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let def = &self.def;
        let optional = def.optional + usize::from(def.variadic);
        let most = if def.variadic { usize::MAX } else { def.args.len() };
        coerced(self.name(), def.args, optional, most, given)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.def.run {
            Run::Json(..) | Run::Text(_) => DataType::Utf8View,
            Run::Int(_) => DataType::Int64,
            Run::Bool(_) => DataType::Boolean,
            Run::List(_) => types::list_of(DataType::Utf8View),
        })
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(match self.def.run {
            Run::Json(kind, _) => json_field(self.name(), kind),
            _ => Arc::new(Field::new(self.name(), self.return_type(&[])?, true)),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // All constant: one row.
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|a| Values::new(&a.to_array(rows)?)).collect::<Result<Vec<_>>>()?;
        let out = self.rows(&arrays, rows).map_err(user_error)?;
        if constant {
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&out, 0)?));
        }
        Ok(ColumnarValue::Array(out))
    }
}

impl JsonFunction {
    fn rows(&self, arrays: &[Values], rows: usize) -> std::result::Result<ArrayRef, SqlError> {
        let row = |i: usize| {
            let row = Row { arrays, row: i };
            arrays.iter().all(|a| !a.is_null(i)).then_some(row)
        };
        Ok(match self.def.run {
            Run::Json(_, f) | Run::Text(f) => {
                let mut out = StringViewBuilder::with_capacity(rows);
                for i in 0..rows {
                    out.append_option(row(i).map(|r| f(&r)).transpose()?.flatten());
                }
                Arc::new(out.finish())
            }
            Run::Int(f) => {
                let mut out = Int64Builder::with_capacity(rows);
                for i in 0..rows {
                    out.append_option(row(i).map(|r| f(&r)).transpose()?.flatten());
                }
                Arc::new(out.finish())
            }
            Run::Bool(f) => {
                let mut out = BooleanBuilder::with_capacity(rows);
                for i in 0..rows {
                    out.append_option(row(i).map(|r| f(&r)).transpose()?.flatten());
                }
                Arc::new(out.finish())
            }
            Run::List(f) => {
                let mut out = ListBuilder::new(StringViewBuilder::new());
                for i in 0..rows {
                    match row(i).map(|r| f(&r)).transpose()?.flatten() {
                        Some(items) => {
                            for item in items {
                                out.values().append_option(item);
                            }
                            out.append(true);
                        }
                        None => out.append(false),
                    }
                }
                Arc::new(out.finish())
            }
        })
    }
}

/// A column of arguments.
pub(super) enum Values {
    Text(StringViewArray),
    Int(Int64Array),
    Bool(arrow::array::BooleanArray),
    List(ListArray),
}

impl Values {
    pub(super) fn new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Int64 => Self::Int(array.as_primitive::<Int64Type>().clone()),
            DataType::Boolean => Self::Bool(array.as_boolean().clone()),
            DataType::List(_) => {
                let wanted = types::list_of(DataType::Utf8View);
                Self::List(if *array.data_type() == wanted {
                    array.as_list::<i32>().clone()
                } else {
                    cast(array, &wanted)?.as_list::<i32>().clone()
                })
            }
            DataType::Utf8View => Self::Text(array.as_string_view().clone()),
            _ => Self::Text(cast(array, &DataType::Utf8View)?.as_string_view().clone()),
        })
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(a) => a.is_null(row),
            Self::Int(a) => a.is_null(row),
            Self::Bool(a) => a.is_null(row),
            Self::List(a) => a.is_null(row),
        }
    }
}

/// The arguments of one row, none of them NULL.
pub(super) struct Row<'a> {
    arrays: &'a [Values],
    row: usize,
}

/// An argument that can be several things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key<'a> {
    Name(&'a str),
    Index(i64),
    List(Vec<Option<String>>),
}

impl<'a> Row<'a> {
    pub(super) fn new(arrays: &'a [Values], row: usize) -> Self {
        Self { arrays, row }
    }

    pub(super) fn len(&self) -> usize {
        self.arrays.len()
    }

    /// The text at a position; coercion made it text.
    pub(super) fn text(&self, i: usize) -> &'a str {
        match &self.arrays[i] {
            Values::Text(a) => a.value(self.row),
            _ => "",
        }
    }

    /// True or false, or what holds when it was left out.
    pub(super) fn flag(&self, i: usize, default: bool) -> bool {
        match self.arrays.get(i) {
            Some(Values::Bool(a)) => a.value(self.row),
            _ => default,
        }
    }

    pub(super) fn key(&self, i: usize) -> Key<'a> {
        match &self.arrays[i] {
            Values::Text(a) => Key::Name(a.value(self.row)),
            Values::Int(a) => Key::Index(a.value(self.row)),
            Values::Bool(_) => Key::List(Vec::new()),
            Values::List(a) => Key::List(strings(&a.value(self.row))),
        }
    }

    /// A path: an array, or the literal of one.
    pub(super) fn path(&self, i: usize) -> std::result::Result<Vec<Option<String>>, SqlError> {
        match self.key(i) {
            Key::List(items) => Ok(items),
            Key::Name(text) => array_literal(text),
            Key::Index(n) => Ok(vec![Some(n.to_string())]),
        }
    }
}

fn strings(array: &ArrayRef) -> Vec<Option<String>> {
    array.as_string_view_opt().map_or_else(Vec::new, |a| a.iter().map(|s| s.map(str::to_owned)).collect())
}

/// `{a,"b c",NULL}`, one dimension.
fn array_literal(text: &str) -> std::result::Result<Vec<Option<String>>, SqlError> {
    let malformed = || {
        SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, format!("malformed array literal: \"{text}\""))
            .hint("A path is an array of text, for example '{a,0,b}' or ARRAY['a','0','b'].")
    };
    let inner = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(malformed)?;
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    let mut chars = inner.chars().peekable();
    loop {
        while chars.peek().is_some_and(|c| c.is_whitespace()) {
            chars.next();
        }
        let mut item = String::new();
        let quoted = chars.peek() == Some(&'"');
        if quoted {
            chars.next();
            loop {
                match chars.next().ok_or_else(malformed)? {
                    '"' => break,
                    '\\' => item.push(chars.next().ok_or_else(malformed)?),
                    c => item.push(c),
                }
            }
            while chars.peek().is_some_and(|c| c.is_whitespace()) {
                chars.next();
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                match c {
                    '{' | '}' | '"' => return Err(malformed()),
                    '\\' => item.push(chars.next().ok_or_else(malformed)?),
                    c => item.push(c),
                }
            }
            item.truncate(item.trim_end().len());
            if item.is_empty() {
                return Err(malformed());
            }
        }
        out.push(if !quoted && item.eq_ignore_ascii_case("null") { None } else { Some(item) });
        match chars.next() {
            None => return Ok(out),
            Some(',') => {}
            Some(_) => return Err(malformed()),
        }
    }
}

#[cfg(test)]
mod literal_tests {
    use super::array_literal;

    #[test]
    fn array_literals_have_quotes_escapes_and_null() {
        let some = |items: &[&str]| items.iter().map(|s| Some((*s).to_owned())).collect::<Vec<_>>();
        assert_eq!(array_literal("{a, 0 ,\"b c\"}").unwrap(), some(&["a", "0", "b c"]));
        assert_eq!(array_literal("{}").unwrap(), some(&[]));
        assert_eq!(array_literal(r#"{"x\"y","null"}"#).unwrap(), some(&["x\"y", "null"]));
        assert_eq!(array_literal("{NULL}").unwrap(), vec![None]);
        for bad in ["a", "{a", "{a,}", "{{a}}", "{\"a}"] {
            assert!(array_literal(bad).is_err(), "{bad}");
        }
    }
}
