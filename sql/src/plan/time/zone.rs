//! `AT TIME ZONE` on bounds. The clock of a zone is put back once a year, so what it shows is not in order; the least it will
//! show from a moment on is.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::kernels::cmp::lt;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::functions::datetime::in_zone;

/// The function that `AT TIME ZONE` is.
pub(super) const TIMEZONE: &str = "timezone";

const HOUR: i64 = 3_600_000_000;
/// No two clocks are further apart, so no change of a clock goes further.
const HOURS: i64 = 26;

/// The expression with the least it can be from a moment on in place of what a clock shows at it.
pub(super) fn at_least(e: Expr) -> Result<Expr> {
    let floor = Arc::new(ScalarUDF::from(Floor { signature: Signature::any(2, Volatility::Immutable) }));
    let new = e.transform_up(|e| match e {
        Expr::ScalarFunction(f) if f.name() == TIMEZONE => {
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&floor), f.args))))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(new.data)
}

/// The least of `timezone(zone, t)` over all later `t`; both ways, from moments to what clocks show and back.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Floor {
    signature: Signature,
}

impl ScalarUDFImpl for Floor {
    fn name(&self) -> &str {
        "timezone_floor"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match types.get(1) {
            Some(DataType::Timestamp(_, Some(_))) => crate::types::timestamp(),
            _ => crate::types::timestamptz(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [zone, times] = args.args.as_slice() else {
            return Err(DataFusionError::Internal("AT TIME ZONE of other arguments".into()));
        };
        let zones = zone.to_array(args.number_rows)?;
        let times = times.to_array(args.number_rows)?;
        let Some(zones) = zones.as_string_opt::<i32>() else {
            return Err(DataFusionError::Internal("a time zone that is no text".into()));
        };
        let own = times.as_primitive_opt::<TimestampMicrosecondType>();
        let own = own.ok_or_else(|| DataFusionError::Internal("a time of another unit".into()))?;
        let mut least = in_zone(zones, &times)?;
        for hours in 1..=HOURS {
            // Within an hour the clock changes once at most: before that it shows no less than at its begin, after it no less than
            // an hour before what it shows at its end.
            let later = own.unary::<_, TimestampMicrosecondType>(|t| t.saturating_add(hours * HOUR));
            let later: ArrayRef = Arc::new(later.with_data_type(times.data_type().clone()));
            let shown = in_zone(zones, &later)?;
            let shown = shown.as_primitive::<TimestampMicrosecondType>();
            let shown = shown.unary::<_, TimestampMicrosecondType>(|t| t.saturating_sub(HOUR));
            let shown = shown.with_data_type(least.data_type().clone());
            least = zip(&lt(&shown, &least)?, &shown, &least)?;
        }
        Ok(ColumnarValue::Array(least))
    }
}
