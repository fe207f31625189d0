//! Casts that Postgres does otherwise than Arrow.
//!
//! Text is read as Postgres reads it and complains in its words; floats round to the nearest integer, halves to even,
//! decimals halves away from zero; a decimal becomes the float its digits say; floats, times and intervals become the
//! text that is seen on the wire. The function `cast(value, NULL::type)` carries its type in the second argument, so
//! that stored plans need nothing but its name; [`CastRewrite`] puts it in the place of casts, explicit and implicit
//! ones. All other casts stay with Arrow.

mod arrays;
mod intervals;
mod numbers;
mod read;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, ListArray, PrimitiveArray, StringArray, StringBuilder,
    new_null_array,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, Field, FieldRef, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

pub(crate) use intervals::read_interval;

use crate::error::{SqlError, SqlState};
use crate::session::data_errors::invalid_text;
use crate::text;

/// True if this cast is ours.
pub fn is_ours(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    let text = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    match (from, to) {
        (f, t) if text(f) => {
            t.is_integer()
                || t.is_decimal()
                || matches!(t, Float32 | Float64 | Boolean | Date32)
                || matches!(t, Time64(TimeUnit::Microsecond) | Timestamp(..))
                || matches!(t, Interval(IntervalUnit::MonthDayNano) | Binary | LargeBinary | BinaryView | List(_))
        }
        (List(f), t) if text(t) => writable(f.data_type()),
        (List(f), List(t)) => is_ours(f.data_type(), t.data_type()),
        (Binary | LargeBinary | BinaryView, t) => text(t),
        (Duration(_), Interval(IntervalUnit::MonthDayNano)) => true,
        (Float32 | Float64, t) => t.is_integer() || matches!(t, Decimal128(..) | Decimal256(..)) || text(t),
        (Decimal128(..) | Decimal256(..), t) => t.is_integer() || matches!(t, Float32 | Float64),
        (Timestamp(..) | Time32(_) | Time64(_) | Interval(_) | Duration(_), t) => text(t),
        _ => false,
    }
}

/// True for elements whose array has a text.
fn writable(element: &DataType) -> bool {
    match element {
        DataType::List(f) => writable(f.data_type()),
        DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) => false,
        _ => true,
    }
}

/// The function.
pub(super) fn function() -> ScalarUDF {
    ScalarUDF::from(CastFunction { signature: Signature::any(2, Volatility::Immutable) })
}

/// The cast as DataFusion has it, for showing it.
pub fn as_cast(e: Expr) -> std::result::Result<Expr, Expr> {
    let Expr::ScalarFunction(f) = &e else { return Err(e) };
    let function: &dyn std::any::Any = f.func.inner().as_ref();
    match f.args.as_slice() {
        [value, Expr::Literal(to, _)] if function.is::<CastFunction>() => {
            Ok(Expr::Cast(Cast::new(Box::new(value.clone()), to.data_type())))
        }
        _ => Err(e),
    }
}

/// Puts our casts in the place of those that are ours.
#[derive(Debug)]
pub struct CastRewrite;

impl FunctionRewrite for CastRewrite {
    fn name(&self) -> &str {
        "casts"
    }

    fn rewrite(&self, e: Expr, schema: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let Expr::Cast(c) = &e else { return Ok(Transformed::no(e)) };
        let to = c.field.data_type();
        // The type of a parameter may not be known yet.
        match c.expr.get_type(schema) {
            Ok(from) if is_ours(&from, to) => {
                let to = Expr::Literal(ScalarValue::try_from(to)?, None);
                let args = vec![c.expr.as_ref().clone(), to];
                Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function()), args))))
            }
            _ => Ok(Transformed::no(e)),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CastFunction {
    signature: Signature,
}

impl ScalarUDFImpl for CastFunction {
    fn name(&self) -> &str {
        "cast"
    }
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        // Not the name of the value: a projection may have both.
        Ok(match args {
            [value, Expr::Literal(to, _)] => format!("CAST({} AS {})", value.schema_name(), to.data_type()),
            _ => self.name().to_owned(),
        })
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.get(1).cloned().ok_or_else(|| DataFusionError::Internal("a cast without a type".into()))
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, true)))
    }
    fn is_strict(&self) -> bool {
        // NULL in the second argument says nothing but its type.
        false
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let to = args.return_field.data_type();
        match args.args.first() {
            Some(ColumnarValue::Array(values)) => Ok(ColumnarValue::Array(cast(values, to)?)),
            Some(ColumnarValue::Scalar(one)) => {
                let value = cast(&one.to_array_of_size(1)?, to)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?))
            }
            None => Err(DataFusionError::Internal("a cast without a value".into())),
        }
    }
}

fn fail(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

/// The values as another type.
pub fn cast(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    use DataType::*;
    match (values.data_type(), to) {
        (from, _) if from == to => Ok(Arc::clone(values)),
        (Null, _) => Ok(new_null_array(to, values.len())),
        (Utf8, _) => from_text(values.as_string::<i32>(), to),
        (LargeUtf8 | Utf8View, _) => from_text(arrow::compute::cast(values, &Utf8)?.as_string::<i32>(), to),
        (Float32 | Float64, t) if t.is_integer() => numbers::float_to_integer(values, to),
        (Float32 | Float64, Decimal128(..) | Decimal256(..)) => numbers::float_to_decimal(values, to),
        (Decimal128(..) | Decimal256(..), t) if t.is_integer() => numbers::decimal_to_integer(values, to),
        (Decimal128(..) | Decimal256(..), Float32 | Float64) => numbers::decimal_to_float(values, to),
        (List(_), List(to)) => {
            let list = values.as_list::<i32>();
            let elements = cast(list.values(), to.data_type())?;
            Ok(Arc::new(ListArray::try_new(Arc::clone(to), list.offsets().clone(), elements, list.nulls().cloned())?))
        }
        (Duration(_), Interval(IntervalUnit::MonthDayNano)) => {
            let micros = arrow::compute::cast_with_options(values, &Duration(TimeUnit::Microsecond), &numbers::STRICT)?;
            let split = |us: i64| IntervalMonthDayNano::new(0, (us / text::DAY_US) as i32, us % text::DAY_US * 1000);
            Ok(Arc::new(micros.as_primitive::<DurationMicrosecondType>().unary::<_, IntervalMonthDayNanoType>(split)))
        }
        (_, Utf8 | LargeUtf8 | Utf8View) => {
            let texts = to_text(values)?;
            if *to == Utf8 { Ok(texts) } else { Ok(arrow::compute::cast(&texts, to)?) }
        }
        _ => Ok(arrow::compute::cast_with_options(values, to, &numbers::STRICT)?),
    }
}

fn from_text(texts: &StringArray, to: &DataType) -> Result<ArrayRef> {
    use DataType::*;
    fn parsed<T: ArrowPrimitiveType>(
        texts: &StringArray,
        f: impl Fn(&str) -> std::result::Result<T::Native, SqlError>,
    ) -> Result<PrimitiveArray<T>> {
        let one = |t: Option<&str>| t.map(&f).transpose().map_err(fail);
        texts.iter().map(one).collect()
    }
    macro_rules! integers {
        ($($t:ident: $arrow:ty, $name:literal);*) => {
            match to {
                $($t => return Ok(Arc::new(parsed::<$arrow>(texts, |s| read::integer(s, $name))?)),)*
                _ => {}
            }
        };
    }
    integers!(
        Int8: Int8Type, "tinyint"; Int16: Int16Type, "smallint"; Int32: Int32Type, "integer"; Int64: Int64Type, "bigint";
        UInt8: UInt8Type, "utinyint"; UInt16: UInt16Type, "usmallint"; UInt32: UInt32Type, "uint32";
        UInt64: UInt64Type, "uint64"
    );
    Ok(match to {
        Float32 => Arc::new(parsed::<Float32Type>(texts, read::float4)?),
        Float64 => Arc::new(parsed::<Float64Type>(texts, read::float8)?),
        Boolean => {
            let one = |t: Option<&str>| t.map(read::boolean).transpose().map_err(fail);
            Arc::new(texts.iter().map(one).collect::<Result<BooleanArray>>()?)
        }
        Date32 => Arc::new(parsed::<Date32Type>(texts, read::date)?),
        Time64(TimeUnit::Microsecond) => Arc::new(parsed::<Time64MicrosecondType>(texts, read::time)?),
        Timestamp(_, zone) => {
            let name = if zone.is_some() { "timestamp with time zone" } else { "timestamp" };
            let micros = parsed::<TimestampMicrosecondType>(texts, |s| read::timestamp(s, zone.is_some(), name))?;
            let micros: ArrayRef = match zone {
                Some(_) => Arc::new(micros.with_timezone("UTC")),
                None => Arc::new(micros),
            };
            if micros.data_type() == to {
                return Ok(micros);
            }
            arrow::compute::cast_with_options(&micros, to, &numbers::STRICT)?
        }
        Interval(IntervalUnit::MonthDayNano) => Arc::new(parsed::<IntervalMonthDayNanoType>(texts, |s| {
            let (months, days, micros) = read_interval(s, None, None)?;
            match micros.checked_mul(1000) {
                Some(nanos) => Ok(IntervalMonthDayNano::new(months, days, nanos)),
                None => {
                    Err(SqlError::new(SqlState::INTERVAL_FIELD_OVERFLOW, format!("interval out of range: \"{s}\"")))
                }
            }
        })?),
        Binary | LargeBinary | BinaryView => {
            let bytes = super::bytes::from_text(texts)?;
            if *to == Binary { bytes } else { arrow::compute::cast(&bytes, to)? }
        }
        List(element) => arrays::read(texts, element)?,
        Decimal128(p, s) => {
            let v = parsed::<Decimal128Type>(texts, |t| {
                read::decimal(t, *p, *s)?.to_i128().ok_or_else(numbers::field_overflow)
            })?;
            Arc::new(v.with_precision_and_scale(*p, *s)?)
        }
        Decimal256(p, s) => {
            let v = parsed::<Decimal256Type>(texts, |t| read::decimal(t, *p, *s))?;
            Arc::new(v.with_precision_and_scale(*p, *s)?)
        }
        _ => {
            let texts: ArrayRef = Arc::new(texts.clone());
            arrow::compute::cast_with_options(&texts, to, &numbers::STRICT)?
        }
    })
}

/// The text that is seen on the wire.
fn to_text(values: &ArrayRef) -> Result<ArrayRef> {
    use DataType::*;
    fn written<T: ArrowPrimitiveType>(values: &ArrayRef, f: impl Fn(T::Native, &mut String)) -> ArrayRef {
        let mut out = StringBuilder::new();
        let mut text = String::new();
        for v in values.as_primitive::<T>() {
            match v {
                None => out.append_null(),
                Some(v) => {
                    text.clear();
                    f(v, &mut text);
                    out.append_value(&text);
                }
            }
        }
        Arc::new(out.finish())
    }
    let as_type = |t: DataType| arrow::compute::cast_with_options(values, &t, &numbers::STRICT);
    Ok(match values.data_type() {
        Float32 => written::<Float32Type>(values, text::float4),
        Float64 => written::<Float64Type>(values, text::float8),
        Timestamp(_, zone) => {
            let micros = as_type(Timestamp(TimeUnit::Microsecond, zone.clone()))?;
            written::<TimestampMicrosecondType>(&micros, |v, out| text::timestamp(v, zone.is_some(), out))
        }
        Time32(_) | Time64(_) => written::<Time64MicrosecondType>(&as_type(Time64(TimeUnit::Microsecond))?, text::time),
        Interval(_) => {
            let all = as_type(Interval(IntervalUnit::MonthDayNano))?;
            written::<IntervalMonthDayNanoType>(&all, |v, out| {
                text::interval(v.months, v.days, v.nanoseconds / 1000, out);
            })
        }
        List(_) => arrays::write(values.as_list::<i32>())?,
        Binary | LargeBinary | BinaryView => {
            let all = as_type(Binary)?;
            let mut out = StringBuilder::new();
            for v in all.as_binary::<i32>() {
                out.append_option(v.map(|v| {
                    let mut shown = String::with_capacity(2 + 2 * v.len());
                    text::bytea(v, &mut shown);
                    shown
                }));
            }
            Arc::new(out.finish())
        }
        Duration(_) => {
            let micros = as_type(Duration(TimeUnit::Microsecond))?;
            written::<DurationMicrosecondType>(&micros, text::duration)
        }
        _ => as_type(Utf8)?,
    })
}

/// Text that is no value of a type.
fn invalid(value: &str, type_name: &str) -> SqlError {
    invalid_text(value, type_name)
}
