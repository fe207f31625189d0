//! Starts of time windows: `tumble_start`, its short name `tumble`, and `hop_starts`.
//!
//! Windows are aligned to the epoch plus an offset. A window is `[start, start + size)`. Arithmetic is on the integer
//! of the timestamp, rounding down also before the epoch. The result of a DATE is a timestamp.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    ArrowTimestampType, DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{SqlError, SqlState};

/// All of them.
pub(super) fn functions() -> Vec<ScalarUDF> {
    vec![ScalarUDF::from(WindowFunction::new(false)), ScalarUDF::from(WindowFunction::new(true))]
}

/// More windows than this for one row is taken for a mistake.
const MAX_WINDOWS: i64 = 100_000;

/// `tumble_start(ts, size [, offset])` or `hop_starts(ts, slide, size [, offset])`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    hop: bool,
    aliases: Vec<String>,
    signature: Signature,
}

impl WindowFunction {
    fn new(hop: bool) -> Self {
        let aliases = if hop { Vec::new() } else { vec!["tumble".to_owned()] };
        Self { hop, aliases, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Intervals besides the offset.
    fn intervals(&self) -> usize {
        if self.hop { 2 } else { 1 }
    }
}

fn user_error(code: SqlState, message: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(code, message)))
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        if self.hop { "hop_starts" } else { "tumble_start" }
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let least = 1 + self.intervals();
        if types.len() < least || types.len() > least + 1 {
            let form = if self.hop { "hop_starts(ts, slide, size [, offset])" } else { "tumble(ts, size [, offset])" };
            return Err(user_error(
                SqlState::UNDEFINED_FUNCTION,
                format!("wrong number of arguments, expected {form}"),
            ));
        }
        let time = match &types[0] {
            DataType::Date32 | DataType::Date64 => DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::Null => DataType::Timestamp(TimeUnit::Microsecond, None),
            t @ DataType::Timestamp(..) => t.clone(),
            other => {
                return Err(user_error(
                    SqlState::DATATYPE_MISMATCH,
                    format!("a time window needs a timestamp or date column, not {other}"),
                ));
            }
        };
        let interval = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
        let rest = types[1..].iter().map(|t| match t {
            DataType::Interval(_) | DataType::Duration(_) | DataType::Utf8 | DataType::Null => Ok(interval.clone()),
            other => Err(user_error(
                SqlState::DATATYPE_MISMATCH,
                format!("the size of a time window is an interval, not {other}"),
            )),
        });
        std::iter::once(Ok(time)).chain(rest).collect()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let start = types[0].clone();
        Ok(if self.hop { DataType::List(Arc::new(Field::new_list_field(start, true))) } else { start })
    }

    /// Constant sizes are checked when the query is planned.
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let types = self.coerce_types(&types)?;
        let ticks = ticks_per_second(&types[0])?;
        if let Some(constants) =
            args.scalar_arguments.get(1..).and_then(|c| c.iter().copied().collect::<Option<Vec<_>>>())
        {
            self.spec(&constants, ticks)?;
        }
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = args.args[0].to_array(args.number_rows)?;
        let mut constants = Vec::with_capacity(args.args.len());
        for arg in &args.args[1..] {
            match arg {
                ColumnarValue::Scalar(s) => constants.push(s),
                ColumnarValue::Array(_) => {
                    let message = "the size of a time window must be a constant";
                    return Err(user_error(SqlState::FEATURE_NOT_SUPPORTED, message));
                }
            }
        }
        let spec = self.spec(&constants, ticks_per_second(times.data_type())?)?;
        let out = match times.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => self.run::<TimestampSecondType>(&times, spec),
            DataType::Timestamp(TimeUnit::Millisecond, _) => self.run::<TimestampMillisecondType>(&times, spec),
            DataType::Timestamp(TimeUnit::Microsecond, _) => self.run::<TimestampMicrosecondType>(&times, spec),
            _ => self.run::<TimestampNanosecondType>(&times, spec),
        };
        Ok(ColumnarValue::Array(out?))
    }
}

/// Intervals in ticks of the timestamp's unit.
#[derive(Debug, Clone, Copy)]
struct Spec {
    slide: i64,
    size: i64,
    offset: i64,
}

impl WindowFunction {
    fn spec(&self, intervals: &[&ScalarValue], ticks: i64) -> Result<Spec> {
        let names: &[&str] = if self.hop { &["slide", "size", "offset"] } else { &["size", "offset"] };
        let mut parts = Vec::with_capacity(intervals.len());
        for (value, name) in intervals.iter().zip(names) {
            let n = interval_ticks(value, name, ticks)?;
            if n <= 0 && *name != "offset" {
                let message = format!("the {name} of a time window must be positive");
                return Err(user_error(SqlState::INVALID_PARAMETER_VALUE, message));
            }
            parts.push(n);
        }
        let (slide, size) = if self.hop { (parts[0], parts[1]) } else { (parts[0], parts[0]) };
        if slide > size {
            let message = "the slide of a hopping window is larger than its size";
            return Err(DataFusionError::External(Box::new(
                SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
                    .hint("The slide comes first, then the size: did you swap slide and size?"),
            )));
        }
        if size / slide >= MAX_WINDOWS {
            let message = "a row would be in too many hopping windows";
            return Err(user_error(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
        }
        Ok(Spec { slide, size, offset: parts.get(self.intervals()).copied().unwrap_or(0) })
    }

    fn run<T: ArrowTimestampType>(&self, times: &ArrayRef, spec: Spec) -> Result<ArrayRef> {
        let times = times.as_primitive::<T>();
        // The last window that a time is in; windows start every `slide`.
        let last = |t: i64| -> Result<i64> {
            let into = i128::from(t) - i128::from(spec.offset);
            let start = i128::from(t) - into.rem_euclid(i128::from(spec.slide));
            i64::try_from(start).map_err(|_| user_error(SqlState("22008"), "timestamp out of range"))
        };
        if !self.hop {
            let starts: PrimitiveArray<T> = times.try_unary(last)?;
            return Ok(Arc::new(starts.with_data_type(times.data_type().clone())));
        }
        let mut starts = Vec::with_capacity(times.len() * (spec.size / spec.slide) as usize);
        let mut lengths = Vec::with_capacity(times.len());
        for t in times.iter() {
            let before = starts.len();
            if let Some(t) = t {
                let last = last(t)?;
                // Starts in (t - size, t], ascending.
                let n = (spec.size - 1 - (t - last)) / spec.slide;
                for i in (0..=n).rev() {
                    let start = i.checked_mul(spec.slide).and_then(|d| last.checked_sub(d));
                    starts.push(start.ok_or_else(|| user_error(SqlState("22008"), "timestamp out of range"))?);
                }
            }
            lengths.push(starts.len() - before);
        }
        let values = PrimitiveArray::<T>::from_iter_values(starts).with_data_type(times.data_type().clone());
        let item = Arc::new(Field::new_list_field(times.data_type().clone(), true));
        let nulls = times.nulls().cloned();
        Ok(Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::new(values), nulls)))
    }
}

fn ticks_per_second(t: &DataType) -> Result<i64> {
    match t {
        DataType::Timestamp(TimeUnit::Second, _) => Ok(1),
        DataType::Timestamp(TimeUnit::Millisecond, _) => Ok(1_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(1_000_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Ok(1_000_000_000),
        other => Err(DataFusionError::Internal(format!("a timestamp expected, not {other}"))),
    }
}

/// An interval of constant length in ticks.
fn interval_ticks(value: &ScalarValue, what: &str, ticks: i64) -> Result<i64> {
    use arrow::datatypes::IntervalUnit;
    let value = value.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano))?;
    let ScalarValue::IntervalMonthDayNano(Some(i)) = value else {
        let message = format!("the {what} of a time window must not be NULL");
        return Err(user_error(SqlState::INVALID_PARAMETER_VALUE, message));
    };
    if i.months != 0 {
        return Err(DataFusionError::External(Box::new(
            SqlError::unsupported(format!("the {what} of a time window cannot have months or years"))
                .detail("Months differ in length.")
                .hint("Use days, or group by date_trunc('month', ts)."),
        )));
    }
    let nanos = i128::from(i.days) * 86_400_000_000_000 + i128::from(i.nanoseconds);
    let tick = i128::from(1_000_000_000 / ticks);
    if nanos % tick != 0 {
        let message = format!("the {what} of a time window is finer than the timestamp's unit");
        return Err(user_error(SqlState::INVALID_PARAMETER_VALUE, message));
    }
    i64::try_from(nanos / tick)
        .map_err(|_| user_error(SqlState::INVALID_PARAMETER_VALUE, format!("the {what} of a time window is too large")))
}
