//! SQL values to JSON: `to_json`, `json_build_object`, `json_build_array`, `row_to_json`, `array_to_json`.
//!
//! A column is looked at once; a row then costs one match per value. Columns of one type family are brought to text by
//! Arrow first.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, StringViewArray, StringViewBuilder, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

use super::is_json;
use super::udf::{json_field, user_error};
use super::value::{key_order, parse_canonical, quote};
use crate::error::{SqlError, SqlState};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// One value.
    Value,
    /// Keys and values in turn.
    Object,
    /// Each argument an element.
    Array,
}

/// Name, aliases that mean the very same, what is built, and whether it is `jsonb`.
const ALL: [(&str, &[&str], What, bool); 6] = [
    ("to_json", &["row_to_json", "array_to_json"], What::Value, false),
    ("to_jsonb", &[], What::Value, true),
    ("json_build_object", &[], What::Object, false),
    ("jsonb_build_object", &[], What::Object, true),
    ("json_build_array", &[], What::Array, false),
    ("jsonb_build_array", &[], What::Array, true),
];

pub(super) fn functions() -> Vec<ScalarUDF> {
    ALL.into_iter().map(function).collect()
}

/// `to_json`, or `to_jsonb`.
pub(super) fn to_json(canonical: bool) -> ScalarUDF {
    function(ALL[usize::from(canonical)])
}

fn function((name, aliases, what, canonical): (&'static str, &[&str], What, bool)) -> ScalarUDF {
    ScalarUDF::from(Build {
        name,
        aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        what,
        canonical,
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// An object of keys and of values that are JSON already; with `canonical` as `jsonb` has it, otherwise in the layout of
/// `json_object_agg`.
pub(in crate::functions) fn write_object(mut members: Vec<(&str, &str)>, canonical: bool) -> String {
    if canonical {
        // The sort is stable: of equal keys the last one stays the last, and that one counts.
        members.sort_by(|a, b| key_order(a.0, b.0));
        members.reverse();
        members.dedup_by(|a, b| a.0 == b.0);
        members.reverse();
    }
    let (open, between, close) = if canonical { ("{", ": ", "}") } else { ("{ ", " : ", " }") };
    let mut out = String::from(open);
    for (i, (key, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        quote(key, &mut out);
        out.push_str(between);
        out.push_str(value);
    }
    out.push_str(close);
    out
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Build {
    name: &'static str,
    aliases: Vec<String>,
    what: What,
    canonical: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Build {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let wrong = |message: String| Err(user_error(SqlError::new(SqlState::UNDEFINED_FUNCTION, message)));
        match self.what {
            What::Value if given.len() != 1 => wrong(format!("{} takes one argument", self.name)),
            _ => Ok(given.to_vec()),
        }
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        if self.what == What::Object && !args.arg_fields.len().is_multiple_of(2) {
            return Err(user_error(
                SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "argument list must have even number of elements")
                    .hint(format!("The arguments of {}() must consist of alternating keys and values.", self.name)),
            ));
        }
        Ok(json_field(self.name, if self.canonical { "jsonb" } else { "json" }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_))) && !args.args.is_empty();
        let rows = if constant { 1 } else { args.number_rows };
        let columns = args
            .args
            .iter()
            .zip(&args.arg_fields)
            .map(|(a, field)| Writer::new(field, &a.to_array(rows)?))
            .collect::<Result<Vec<_>>>()?;
        let mut out = StringViewBuilder::with_capacity(rows);
        let mut text = String::new();
        for row in 0..rows {
            text.clear();
            if self.row(&columns, row, &mut text).map_err(user_error)? {
                if self.canonical {
                    out.append_value(parse_canonical(&text).map_err(user_error)?.to_jsonb());
                } else {
                    out.append_value(&text);
                }
            } else {
                out.append_null();
            }
        }
        let out: ArrayRef = Arc::new(out.finish());
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?)
        } else {
            ColumnarValue::Array(out)
        })
    }
}

impl Build {
    /// False for NULL.
    fn row(&self, columns: &[Writer], row: usize, out: &mut String) -> std::result::Result<bool, SqlError> {
        match self.what {
            What::Value => match columns.first() {
                Some(c) if !c.is_null(row) => c.write(row, out),
                _ => return Ok(false),
            },
            // Postgres puts spaces here, and only here.
            What::Object => {
                out.push('{');
                for (i, pair) in columns.chunks_exact(2).enumerate() {
                    if i > 0 {
                        out.push_str(", ");
                    }
                    let mut key = String::new();
                    if pair[0].is_null(row) {
                        let message = format!("argument {}: key must not be null", 2 * i + 1);
                        return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message));
                    }
                    pair[0].write(row, &mut key);
                    if key.starts_with('"') {
                        out.push_str(&key);
                    } else if key.starts_with(['{', '[']) {
                        let message = "key value must be scalar, not array, composite, or json";
                        return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message));
                    } else {
                        quote(&key, out);
                    }
                    out.push_str(" : ");
                    pair[1].write(row, out);
                }
                out.push('}');
            }
            What::Array => {
                out.push('[');
                for (i, c) in columns.iter().enumerate() {
                    if i > 0 {
                        out.push_str(", ");
                    }
                    c.write(row, out);
                }
                out.push(']');
            }
        }
        Ok(true)
    }
}

/// A column whose values can be written as JSON.
pub(super) enum Writer {
    Null,
    Bool(BooleanArray),
    /// Digits, or JSON itself.
    Plain(StringViewArray),
    /// Not a number and the infinities are strings.
    Float(arrow::array::Float64Array),
    Quoted(StringViewArray),
    List(ListArray, Box<Writer>),
    Struct(StructArray, Vec<(String, Writer)>),
}

impl Writer {
    pub(super) fn new(field: &Field, array: &ArrayRef) -> Result<Self> {
        use DataType as T;
        let text = |a: &ArrayRef| -> Result<StringViewArray> {
            let text = cast(a, &T::Utf8)?;
            Ok(cast(&text, &T::Utf8View)?.as_string_view().clone())
        };
        Ok(match array.data_type() {
            T::Null => Self::Null,
            T::Boolean => Self::Bool(array.as_boolean().clone()),
            t if t.is_integer() || t.is_decimal() => Self::Plain(text(array)?),
            T::Float64 => Self::Float(array.as_primitive::<Float64Type>().clone()),
            // Through text: 0.1 of four bytes is 0.1, not 0.10000000149.
            T::Float32 => {
                let short = array.as_primitive::<Float32Type>().iter().map(|v| v.map(|v| v.to_string().parse()));
                let wide = short.map(|v| v.and_then(std::result::Result::ok)).collect();
                Self::Float(wide)
            }
            T::Utf8 | T::LargeUtf8 | T::Utf8View => {
                let text = cast(array, &T::Utf8View)?.as_string_view().clone();
                if is_json(field) { Self::Plain(text) } else { Self::Quoted(text) }
            }
            T::List(element) => {
                let list = array.as_list::<i32>().clone();
                let inner = Self::new(element, list.values())?;
                Self::List(list, Box::new(inner))
            }
            T::LargeList(f) | T::FixedSizeList(f, _) => Self::new(field, &cast(array, &T::List(f.clone()))?)?,
            T::Struct(fields) => {
                let s = array.as_struct().clone();
                let members = fields
                    .iter()
                    .zip(s.columns())
                    .map(|(f, c)| Ok((f.name().clone(), Self::new(f, c)?)))
                    .collect::<Result<Vec<_>>>()?;
                Self::Struct(s, members)
            }
            T::Timestamp(_, Some(_)) => {
                let with_zone = text(array)?;
                let shown = with_zone.iter().map(|t| {
                    t.map(|t| match t.strip_suffix('Z') {
                        Some(t) => format!("{t}+00:00"),
                        None => t.to_owned(),
                    })
                });
                Self::Quoted(shown.collect())
            }
            _ => Self::Quoted(text(array)?),
        })
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(a) => a.is_null(row),
            Self::Plain(a) | Self::Quoted(a) => a.is_null(row),
            Self::Float(a) => a.is_null(row),
            Self::List(a, _) => a.is_null(row),
            Self::Struct(a, _) => a.is_null(row),
        }
    }

    /// Appends the value of a row; NULL is `null`.
    pub(super) fn write(&self, row: usize, out: &mut String) {
        if self.is_null(row) {
            out.push_str("null");
            return;
        }
        match self {
            Self::Null => {}
            Self::Bool(a) => out.push_str(if a.value(row) { "true" } else { "false" }),
            Self::Plain(a) => out.push_str(a.value(row)),
            Self::Quoted(a) => quote(a.value(row), out),
            Self::Float(a) => match a.value(row) {
                v if v.is_finite() => out.push_str(&v.to_string()),
                v if v.is_nan() => out.push_str("\"NaN\""),
                v => out.push_str(if v > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" }),
            },
            Self::List(list, inner) => {
                let offsets = list.value_offsets();
                out.push('[');
                for (i, element) in (offsets[row]..offsets[row + 1]).enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    inner.write(element as usize, out);
                }
                out.push(']');
            }
            Self::Struct(_, members) => {
                out.push('{');
                for (i, (name, inner)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    quote(name, out);
                    out.push(':');
                    inner.write(row, out);
                }
                out.push('}');
            }
        }
    }
}
