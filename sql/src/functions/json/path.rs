//! SQL/JSON paths: `jsonb_path_query` and its like, and what `JSON_TABLE` walks with.

mod eval;
mod number;
mod parse;

#[cfg(test)]
mod tests;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, ListBuilder, StringViewBuilder};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::udf::{Arg, Row, Values, coerced, json_field, user_error};
use super::value::{Json, parse_canonical};
use crate::error::{SqlError, SqlState};
use crate::types;

pub(super) use eval::Item;
pub(super) use parse::Path;

/// What a function makes of the values a path finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Exists,
    /// The one boolean.
    Match,
    /// A list, which `jsonb_path_query` unnests.
    Items,
    Array,
    First,
}

const ALL: [(&str, What); 5] = [
    ("jsonb_path_exists", What::Exists),
    ("jsonb_path_match", What::Match),
    ("json_path_items", What::Items),
    ("jsonb_path_query_array", What::Array),
    ("jsonb_path_query_first", What::First),
];

pub(super) fn functions() -> Vec<ScalarUDF> {
    let one = |(name, what)| {
        ScalarUDF::from(PathFunction { name, what, signature: Signature::user_defined(Volatility::Immutable) })
    };
    ALL.into_iter().map(one).collect()
}

#[derive(Debug)]
struct PathFunction {
    name: &'static str,
    what: What,
    signature: Signature,
}

impl PartialEq for PathFunction {
    fn eq(&self, other: &Self) -> bool {
        self.what == other.what
    }
}

impl Eq for PathFunction {}

impl Hash for PathFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.what.hash(state);
    }
}

impl ScalarUDFImpl for PathFunction {
    fn name(&self) -> &str {
        self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        // The value, the path, variables, silent.
        coerced(self.name, &[Arg::Text, Arg::Text, Arg::Text, Arg::Bool], 2, 4, given)
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Exists | What::Match => DataType::Boolean,
            What::Items => types::list_of(DataType::Utf8View),
            What::Array | What::First => DataType::Utf8View,
        })
    }
    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(match self.what {
            What::Array | What::First => json_field(self.name, "jsonb"),
            _ => Arc::new(Field::new(self.name, self.return_type(&[])?, true)),
        })
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|a| Values::new(&a.to_array(rows)?)).collect::<Result<Vec<_>>>()?;
        let out = self.rows(&arrays, rows).map_err(user_error)?;
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?)),
            false => Ok(ColumnarValue::Array(out)),
        }
    }
}

impl PathFunction {
    fn rows(&self, arrays: &[Values], rows: usize) -> std::result::Result<ArrayRef, SqlError> {
        // The last path: nearly always all rows have the same.
        let mut last: Option<(&str, Path)> = None;
        let mut each = |i: usize| -> std::result::Result<Option<Found>, SqlError> {
            if arrays.iter().any(|a| a.is_null(i)) {
                return Ok(None);
            }
            let row = Row::new(arrays, i);
            let text = row.text(1);
            if last.as_ref().is_none_or(|(of, _)| *of != text) {
                last = Some((text, Path::parse(text)?));
            }
            match &last {
                Some((_, path)) => self.found(path, &row),
                None => Ok(None),
            }
        };
        Ok(match self.what {
            What::Exists | What::Match => {
                let mut out = BooleanBuilder::with_capacity(rows);
                for i in 0..rows {
                    out.append_option(each(i)?.and_then(|f| f.truth));
                }
                Arc::new(out.finish())
            }
            What::Items => {
                let mut out = ListBuilder::new(StringViewBuilder::new());
                for i in 0..rows {
                    let found = each(i)?;
                    let present = found.is_some();
                    for text in found.map(|f| f.texts).unwrap_or_default() {
                        out.values().append_value(text);
                    }
                    out.append(present);
                }
                Arc::new(out.finish())
            }
            What::Array | What::First => {
                let mut out = StringViewBuilder::with_capacity(rows);
                for i in 0..rows {
                    let text = each(i)?.and_then(|f| match self.what {
                        What::First => f.texts.into_iter().next(),
                        _ => Some(format!("[{}]", f.texts.join(", "))),
                    });
                    out.append_option(text);
                }
                Arc::new(out.finish())
            }
        })
    }

    fn found(&self, path: &Path, row: &Row<'_>) -> std::result::Result<Option<Found>, SqlError> {
        let document = parse_canonical(row.text(0))?;
        let variables = if row.len() > 2 { Some(parse_canonical(row.text(2))?) } else { None };
        if variables.as_ref().is_some_and(|v| !matches!(v, Json::Object(_))) {
            let e = SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "\"vars\" argument is not an object");
            return Err(e.detail("Jsonpath parameters should be encoded as key-value pairs of \"vars\" object."));
        }
        let silent = row.flag(3, false);
        let items = match path.find(&document, variables.as_ref()) {
            Ok(items) => items,
            Err(e) if silent && e.code != SqlState::UNDEFINED_OBJECT => {
                // What was an error is nothing, or unknown.
                let texts = if matches!(self.what, What::Exists | What::Match) { None } else { Some(Vec::new()) };
                return Ok(texts.map(|texts| Found { texts, truth: None }));
            }
            Err(e) => return Err(e),
        };
        let truth = match (self.what, items.as_slice()) {
            (What::Exists, items) => Some(!items.is_empty()),
            (What::Match, [one]) if matches!(one.as_ref(), Json::Bool(_) | Json::Null) => match one.as_ref() {
                Json::Bool(b) => Some(*b),
                _ => None,
            },
            (What::Match, _) if silent => None,
            (What::Match, _) => return Err(SqlError::new(SqlState("22038"), "single boolean result is expected")),
            _ => None,
        };
        let texts = match self.what {
            What::Exists | What::Match => Vec::new(),
            What::First => items.first().map(|i| i.to_jsonb()).into_iter().collect(),
            _ => items.iter().map(|i| i.to_jsonb()).collect(),
        };
        Ok(Some(Found { texts, truth }))
    }
}

/// What a function needs of the values found.
struct Found {
    texts: Vec<String>,
    truth: Option<bool>,
}
