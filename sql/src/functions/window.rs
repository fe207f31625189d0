//! Windows of time: `tumble_start`, its short name `tumble`, `hop_starts` and `cumulate_ends`.
//!
//! Windows are aligned to the epoch plus an offset. A window is `[start, start + size)`. Arithmetic is on the integer
//! of the timestamp, rounding down also before the epoch. The result of a DATE is a timestamp.
//!
//! Sessions are in [`session`], days of a time zone in [`zone`].

pub mod session;
mod zone;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    ArrowTimestampType, DataType, Field, FieldRef, IntervalUnit, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{SqlError, SqlState};

/// All of them.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let aligned = [Kind::Tumble, Kind::Hop, Kind::Cumulate].map(|k| ScalarUDF::from(WindowFunction::new(k)));
    aligned.into_iter().chain(zone::functions()).collect()
}

/// More windows than this for one row is taken for a mistake.
const MAX_WINDOWS: i64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// `tumble_start(ts, size [, offset])`.
    Tumble,
    /// `hop_starts(ts, slide, size [, offset])`: the starts of all windows a time is in, the first one first.
    Hop,
    /// `cumulate_ends(ts, step, size [, offset])`: the ends of all windows a time is in, the first one first.
    Cumulate,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Tumble => "tumble_start",
            Self::Hop => "hop_starts",
            Self::Cumulate => "cumulate_ends",
        }
    }
    fn form(self) -> &'static str {
        match self {
            Self::Tumble => "tumble(ts, size [, offset])",
            Self::Hop => "hop_starts(ts, slide, size [, offset])",
            Self::Cumulate => "cumulate_ends(ts, step, size [, offset])",
        }
    }
    /// Names of the intervals, the offset last.
    fn intervals(self) -> &'static [&'static str] {
        match self {
            Self::Tumble => &["size", "offset"],
            Self::Hop => &["slide", "size", "offset"],
            Self::Cumulate => &["step", "size", "offset"],
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowFunction {
    kind: Kind,
    aliases: Vec<String>,
    signature: Signature,
}

impl WindowFunction {
    fn new(kind: Kind) -> Self {
        let aliases = if kind == Kind::Tumble { vec!["tumble".to_owned()] } else { Vec::new() };
        Self { kind, aliases, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

fn user_error(code: SqlState, message: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(code, message)))
}

impl ScalarUDFImpl for WindowFunction {
    fn name(&self) -> &str {
        self.kind.name()
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let most = 1 + self.kind.intervals().len();
        if types.len() + 1 < most || types.len() > most {
            return Err(wrong_arguments(self.kind.form()));
        }
        let rest = types[1..].iter().map(interval_type);
        std::iter::once(time_type(&types[0])).chain(rest).collect()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let start = types[0].clone();
        Ok(match self.kind {
            Kind::Tumble => start,
            Kind::Hop | Kind::Cumulate => DataType::List(Arc::new(Field::new_list_field(start, true))),
        })
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

fn wrong_arguments(form: &str) -> DataFusionError {
    user_error(SqlState::UNDEFINED_FUNCTION, format!("wrong number of arguments, expected {form}"))
}

/// The type a time column is taken as.
fn time_type(t: &DataType) -> Result<DataType> {
    match t {
        DataType::Date32 | DataType::Date64 => Ok(DataType::Timestamp(TimeUnit::Millisecond, None)),
        DataType::Null => Ok(DataType::Timestamp(TimeUnit::Microsecond, None)),
        t @ DataType::Timestamp(..) => Ok(t.clone()),
        other => Err(user_error(
            SqlState::DATATYPE_MISMATCH,
            format!("a time window needs a timestamp or date column, not {other}"),
        )),
    }
}

/// The type the size of a window is taken as.
fn interval_type(t: &DataType) -> Result<DataType> {
    match t {
        DataType::Interval(_) | DataType::Duration(_) | DataType::Utf8 | DataType::Null => {
            Ok(DataType::Interval(IntervalUnit::MonthDayNano))
        }
        other => {
            let message = format!("the size of a time window is an interval, not {other}");
            Err(user_error(SqlState::DATATYPE_MISMATCH, message))
        }
    }
}

fn out_of_range() -> DataFusionError {
    user_error(SqlState::DATETIME_OVERFLOW, "timestamp out of range")
}

/// Intervals in ticks of the timestamp's unit.
#[derive(Debug, Clone, Copy)]
struct Spec {
    /// Slide or step.
    slide: i64,
    size: i64,
    offset: i64,
}

impl WindowFunction {
    fn spec(&self, intervals: &[&ScalarValue], ticks: i64) -> Result<Spec> {
        let mut parts = Vec::with_capacity(intervals.len());
        let names = self.kind.intervals();
        for (value, name) in intervals.iter().zip(names) {
            let n = interval_ticks(value, name, ticks)?;
            if *name != "offset" {
                positive(n, name)?;
            }
            parts.push(n);
        }
        let (slide, size) = if self.kind == Kind::Tumble { (parts[0], parts[0]) } else { (parts[0], parts[1]) };
        let refused = |message: &str, hint: &str| {
            let e = SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message).hint(hint);
            Err(DataFusionError::External(Box::new(e)))
        };
        match self.kind {
            Kind::Hop if slide > size => {
                return refused(
                    "the slide of a hopping window is larger than its size",
                    "The slide comes first, then the size: did you swap slide and size?",
                );
            }
            Kind::Cumulate if size % slide != 0 => {
                return refused(
                    "the size of a cumulating window must be a multiple of its step",
                    "The step comes first, then the size: did you swap step and size?",
                );
            }
            _ => {}
        }
        if size / slide >= MAX_WINDOWS {
            let message = match self.kind {
                Kind::Cumulate => "a row would be in too many cumulating windows",
                _ => "a row would be in too many hopping windows",
            };
            return Err(user_error(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
        }
        Ok(Spec { slide, size, offset: parts.get(names.len() - 1).copied().unwrap_or(0) })
    }

    fn run<T: ArrowTimestampType>(&self, times: &ArrayRef, spec: Spec) -> Result<ArrayRef> {
        let times = times.as_primitive::<T>();
        // The last window of those that start every `every` that a time is in.
        let last = |t: i64, every: i64| -> Result<i64> {
            let into = i128::from(t) - i128::from(spec.offset);
            let start = i128::from(t) - into.rem_euclid(i128::from(every));
            i64::try_from(start).map_err(|_| out_of_range())
        };
        if self.kind == Kind::Tumble {
            let starts: PrimitiveArray<T> = times.try_unary(|t| last(t, spec.size))?;
            return Ok(Arc::new(starts.with_data_type(times.data_type().clone())));
        }
        let mut values = Vec::with_capacity(times.len() * (spec.size / spec.slide).min(64) as usize);
        let mut lengths = Vec::with_capacity(times.len());
        for t in times.iter() {
            let before = values.len();
            match t {
                None => {}
                Some(t) if self.kind == Kind::Hop => {
                    let last = last(t, spec.slide)?;
                    // Starts in (t - size, t], ascending.
                    let n = (spec.size - 1 - (t - last)) / spec.slide;
                    for i in (0..=n).rev() {
                        let start = i.checked_mul(spec.slide).and_then(|d| last.checked_sub(d));
                        values.push(start.ok_or_else(out_of_range)?);
                    }
                }
                Some(t) => {
                    let start = last(t, spec.size)?;
                    // Ends in (t, start + size], ascending.
                    for i in (t - start) / spec.slide + 1..=spec.size / spec.slide {
                        let end = i.checked_mul(spec.slide).and_then(|d| start.checked_add(d));
                        values.push(end.ok_or_else(out_of_range)?);
                    }
                }
            }
            lengths.push(values.len() - before);
        }
        let values = PrimitiveArray::<T>::from_iter_values(values).with_data_type(times.data_type().clone());
        let item = Arc::new(Field::new_list_field(times.data_type().clone(), true));
        let nulls = times.nulls().cloned();
        Ok(Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), Arc::new(values), nulls)))
    }
}

/// Refuses sizes that are none.
fn positive(n: i64, what: &str) -> Result<()> {
    if n > 0 {
        return Ok(());
    }
    Err(user_error(SqlState::INVALID_PARAMETER_VALUE, format!("the {what} of a time window must be positive")))
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
