//! One representative for all values that SQL calls equal.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, make_array};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

const ZERO: u64 = 1 << 63;
const ZERO_32: u32 = 1 << 31;

/// The values with +0.0 for zeros of either sign and one NaN for all, inside of lists and structs too.
pub fn canonical(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            let odd = |x: &f64| x.to_bits() == ZERO || (x.is_nan() && x.to_bits() != f64::NAN.to_bits());
            if !values.values().iter().any(odd) {
                return Arc::clone(column);
            }
            Arc::new(values.unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }))
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            let odd = |x: &f32| x.to_bits() == ZERO_32 || (x.is_nan() && x.to_bits() != f32::NAN.to_bits());
            if !values.values().iter().any(odd) {
                return Arc::clone(column);
            }
            Arc::new(values.unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }))
        }
        t if has_float(t) => {
            let data = column.to_data();
            let children = data.child_data().iter().map(|c| canonical(&make_array(c.clone())).to_data()).collect();
            // The children have the types and lengths they had.
            data.clone().into_builder().child_data(children).build().map_or_else(|_| Arc::clone(column), make_array)
        }
        _ => Arc::clone(column),
    }
}

/// True for a nested type with floats in it, and for floats.
pub fn has_float(t: &DataType) -> bool {
    match t {
        DataType::Float32 | DataType::Float64 => true,
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
            has_float(f.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|f| has_float(f.data_type())),
        DataType::Dictionary(_, v) => has_float(v),
        _ => false,
    }
}

/// The name of [`function`].
pub const FUNCTION: &str = "canonical";

/// `canonical(x)`: see [`canonical`].
pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::from(Canonical { signature: Signature::any(1, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Canonical {
    signature: Signature,
}

impl ScalarUDFImpl for Canonical {
    fn name(&self) -> &str {
        FUNCTION
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().ok_or_else(|| DataFusionError::Internal("canonical takes one argument".into()))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.first() {
            Some(ColumnarValue::Array(values)) => Ok(ColumnarValue::Array(canonical(values))),
            Some(ColumnarValue::Scalar(one)) => {
                let value = canonical(&one.to_array_of_size(1)?);
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?))
            }
            None => Err(DataFusionError::Internal("canonical takes one argument".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, ListArray};

    use super::*;

    #[test]
    fn equal_values_have_equal_bits() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(-0.0), Some(0.0), Some(-f64::NAN), None]));
        let bits =
            |c: &ArrayRef| c.as_primitive::<Float64Type>().iter().map(|v| v.map(f64::to_bits)).collect::<Vec<_>>();
        assert_eq!(bits(&canonical(&column)), [Some(0), Some(0), Some(f64::NAN.to_bits()), None]);
        let rows = [Some(vec![Some(-0.0)]), None];
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(rows));
        let inner = canonical(&list);
        assert_eq!(bits(inner.as_list::<i32>().values()), [Some(0)]);
    }
}
