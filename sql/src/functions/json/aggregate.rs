//! `json_agg`, `jsonb_agg`, `json_object_agg`, `jsonb_object_agg` and `json[b]_agg_strict`, by name.
//!
//! They are never run under these names: analysis makes JSON of their arguments below the aggregate and collects the
//! texts ([`collected`]). What cannot be a key is then an error of its row.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewBuilder};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{NullTreatment, ScalarFunction};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit, when,
};

use super::build::{Writer, to_json};
use super::udf::{json_field, user_error};
use super::value::{Json, parse};
use super::{JSON_KEY, is_json};
use crate::error::{SqlError, SqlState};
use crate::functions::{Collect, collect_udaf};

/// Name, what it becomes, and whether NULLs are left out.
const ALL: [(&str, Collect, bool); 6] = [
    ("json_agg", Collect::JsonArray, false),
    ("json_agg_strict", Collect::JsonArray, true),
    ("jsonb_agg", Collect::JsonbArray, false),
    ("jsonb_agg_strict", Collect::JsonbArray, true),
    ("json_object_agg", Collect::JsonObject, false),
    ("jsonb_object_agg", Collect::JsonbObject, false),
];

/// Function, arguments, what to do with NULL.
pub(crate) type Collected = (Arc<AggregateUDF>, Vec<Expr>, Option<NullTreatment>);

/// What a call over columns of `input` becomes; `None` if it is none of ours.
pub(crate) fn collected(
    name: &str,
    args: &[Expr],
    filter: Option<&Expr>,
    input: &DFSchema,
) -> Result<Option<Collected>> {
    let Some((_, kind, strict)) = ALL.iter().find(|(n, _, _)| *n == name) else { return Ok(None) };
    let canonical = matches!(kind, Collect::JsonbArray | Collect::JsonbObject);
    let args = match args {
        [x] => {
            // Postgres begins a new line for a value that has an inside.
            let (_, field) = x.to_field(input)?;
            let separator = if field.data_type().is_nested() && !canonical { ", \n " } else { ", " };
            vec![json(x, canonical, input)?, lit(ScalarValue::Utf8View(Some(separator.to_owned())))]
        }
        [k, v] => {
            let key = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(key_function()), vec![k.clone()]));
            // A row that is left out may have any key.
            let key = match filter {
                Some(condition) => when(condition.clone(), key).end()?,
                None => key,
            };
            vec![key, json(v, canonical, input)?]
        }
        _ => return Err(no_such(name, args.len())),
    };
    let nulls = strict.then_some(NullTreatment::IgnoreNulls);
    Ok(Some((Arc::new(collect_udaf::function(*kind)), args, nulls)))
}

/// The value as JSON text; NULL stays NULL.
fn json(x: &Expr, canonical: bool, input: &DFSchema) -> Result<Expr> {
    let (_, field) = x.to_field(input)?;
    let kind = field.metadata().get(JSON_KEY).map(String::as_str);
    Ok(match (kind, canonical) {
        // What is known here is not known in a part of a plan, where columns are types alone.
        (Some("jsonb"), _) | (Some(_), false) => x.clone(),
        (Some(_), true) => {
            Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(super::change::jsonb()), vec![x.clone()]))
        }
        _ => Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(to_json(canonical)), vec![x.clone()])),
    })
}

pub(in crate::functions) fn aggregates() -> Vec<AggregateUDF> {
    let one = |(name, kind, _): &(&'static str, Collect, bool)| {
        let signature = Signature::user_defined(Volatility::Immutable);
        AggregateUDF::from(JsonAggregate { name, kind: *kind, signature })
    };
    ALL.iter().map(one).collect()
}

fn no_such(name: &str, args: usize) -> datafusion::error::DataFusionError {
    let message = format!("function {name} with {args} arguments does not exist");
    user_error(SqlError::new(SqlState::UNDEFINED_FUNCTION, message))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct JsonAggregate {
    name: &'static str,
    kind: Collect,
    signature: Signature,
}

impl AggregateUDFImpl for JsonAggregate {
    fn name(&self) -> &str {
        self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = if matches!(self.kind, Collect::JsonArray | Collect::JsonbArray) { 1 } else { 2 };
        if types.len() == wanted { Ok(types.to_vec()) } else { Err(no_such(self.name, types.len())) }
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }
    fn return_field(&self, _: &[FieldRef]) -> Result<FieldRef> {
        let canonical = matches!(self.kind, Collect::JsonbArray | Collect::JsonbObject);
        Ok(json_field(self.name, if canonical { "jsonb" } else { "json" }))
    }
    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Err(user_error(SqlError::unsupported(format!("{} cannot be used here", self.name))))
    }
}

/// `json_key(x)`: the text of a key; NULL and what has an inside are errors.
pub(super) fn key_function() -> ScalarUDF {
    ScalarUDF::from(KeyFunction { signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct KeyFunction {
    signature: Signature,
}

impl ScalarUDFImpl for KeyFunction {
    fn name(&self) -> &str {
        "json_key"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }
    fn is_strict(&self) -> bool {
        // NULL is an error.
        false
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (Some(field), Some(value)) = (args.arg_fields.first(), args.args.first()) else {
            return Err(user_error(SqlError::internal("a key without a value")));
        };
        let (rows, constant) = match value {
            ColumnarValue::Scalar(_) => (1, true),
            ColumnarValue::Array(values) => (values.len(), false),
        };
        let scalar = || {
            let message = "key value must be scalar, not array, composite, or json";
            user_error(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message))
        };
        if field.data_type().is_nested() || is_json(field) {
            return Err(scalar());
        }
        let writer = Writer::new(field, &value.to_array(rows)?)?;
        let mut out = StringViewBuilder::with_capacity(rows);
        let mut text = String::new();
        for row in 0..rows {
            if writer.is_null(row) {
                let message = "null value not allowed for object key";
                return Err(user_error(SqlError::new(SqlState("22004"), message)));
            }
            text.clear();
            writer.write(row, &mut text);
            match parse(&text).map_err(user_error)? {
                Json::String(key) => out.append_value(key),
                _ => out.append_value(&text),
            }
        }
        let out: ArrayRef = Arc::new(out.finish());
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?)),
            false => Ok(ColumnarValue::Array(out)),
        }
    }
}
