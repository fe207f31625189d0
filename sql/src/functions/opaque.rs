//! `opaque(value)`: the value itself, in a place where the planner must not see that it is a column.
//!
//! The planner knows of a GROUP BY that its keys determine everything beside them, also after an `unnest`, and would add
//! columns to a GROUP BY above. The optimizer takes the call away.

use arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Its name.
pub(crate) const OPAQUE: &str = "opaque";

pub(super) fn function() -> ScalarUDF {
    ScalarUDF::from(Opaque { signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Opaque {
    signature: Signature,
}

fn none() -> DataFusionError {
    DataFusionError::Internal("opaque takes one argument".into())
}

impl ScalarUDFImpl for Opaque {
    fn name(&self) -> &str {
        OPAQUE
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().ok_or_else(none)
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<arrow::datatypes::FieldRef> {
        args.arg_fields.first().cloned().ok_or_else(none)
    }
    fn simplify(&self, mut args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        args.pop().map(ExprSimplifyResult::Simplified).ok_or_else(none)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        args.args.into_iter().next().ok_or_else(none)
    }
}
