//! `single_row(value, rows [, anchor])`: the value of a scalar subquery, which has to be its only row.
//!
//! The anchor is a column of the row that asks. It is not looked at: with it the optimizer cannot evaluate the function
//! for rows of the subquery that nobody asks for.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::error::{SqlError, SqlState};

/// The function. Where `rows` is more than one the row cannot be computed (21000), otherwise it is `value`.
pub(super) fn single_row() -> ScalarUDF {
    ScalarUDF::from(SingleRow { signature: Signature::new(TypeSignature::VariadicAny, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SingleRow {
    signature: Signature,
}

impl ScalarUDFImpl for SingleRow {
    fn name(&self) -> &str {
        "single_row"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let data_type = args.arg_fields.first().map_or(DataType::Null, |f| f.data_type().clone());
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut arguments = args.args.into_iter();
        let (Some(value), Some(rows)) = (arguments.next(), arguments.next()) else {
            return Err(DataFusionError::Internal("single_row takes two arguments".into()));
        };
        let rows = arrow::compute::cast(&rows.into_array(args.number_rows)?, &DataType::Int64)?;
        let counts = rows.as_primitive::<Int64Type>();
        if counts.iter().flatten().any(|n| n > 1) {
            let error = SqlError::new(
                SqlState::CARDINALITY_VIOLATION,
                "more than one row returned by a subquery used as an expression",
            );
            return Err(DataFusionError::External(Box::new(error)));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Array, ArrayRef, Int64Array, StringArray};
    use datafusion::config::ConfigOptions;

    use super::*;

    fn call(rows: Vec<Option<i64>>) -> Result<ColumnarValue> {
        let n = rows.len();
        let value: ArrayRef = Arc::new(StringArray::from(vec!["x"; n]));
        let field = |t| Arc::new(Field::new("a", t, true));
        single_row().invoke_with_args(ScalarFunctionArgs {
            args: vec![ColumnarValue::Array(value), ColumnarValue::Array(Arc::new(Int64Array::from(rows)))],
            arg_fields: vec![field(DataType::Utf8), field(DataType::Int64)],
            number_rows: n,
            return_field: field(DataType::Utf8),
            config_options: Arc::new(ConfigOptions::default()),
        })
    }

    #[test]
    fn no_row_and_one_row_are_the_value_and_two_rows_are_an_error() {
        assert!(matches!(call(vec![None, Some(0), Some(1)]).unwrap(), ColumnarValue::Array(a) if a.len() == 3));
        let error = crate::session::from_datafusion(call(vec![Some(1), Some(2)]).unwrap_err());
        assert_eq!(error.code, SqlState::CARDINALITY_VIOLATION);
    }
}
