//! Functions of dates and times that DataFusion lacks or computes otherwise than Postgres: `extract` and `date_part`,
//! `age`, `justify_days`, `justify_hours`, `justify_interval`, `make_timestamp`, and `timezone`, which is what
//! `AT TIME ZONE` means.
//!
//! `extract` gives seconds and epochs as decimals, fractions included, and whole fields as integers; `date_part` gives
//! doubles. The one-argument form of `age` is not here: it depends on the day it is called.

mod fields;
mod intervals;
pub(crate) mod make;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, StringArray};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float64Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use chrono::{DateTime, LocalResult, Offset, TimeZone};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::error::{SqlError, SqlState};
use crate::functions::cast::cast;
use crate::types::{timestamp, timestamptz};
use fields::Unit;

const DAY_US: i64 = 86_400_000_000;

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let all = Function::ALL.into_iter().map(|f| ScalarUDF::from(TimeFunction::new(f)));
    all.chain(make::functions()).collect()
}

/// `extract(field FROM value)`, called with the field's name and the value.
pub fn extract() -> ScalarUDF {
    ScalarUDF::from(TimeFunction::new(Function::Extract))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Function {
    Extract,
    DatePart,
    Age,
    JustifyDays,
    JustifyHours,
    JustifyInterval,
    MakeTimestamp,
    Timezone,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeFunction {
    function: Function,
    aliases: Vec<String>,
    signature: Signature,
}

impl TimeFunction {
    fn new(function: Function) -> Self {
        let aliases = if function == Function::DatePart { vec!["datepart".to_owned()] } else { Vec::new() };
        Self { function, aliases, signature: function.signature() }
    }
}

fn interval_type() -> DataType {
    DataType::Interval(IntervalUnit::MonthDayNano)
}

fn fail(code: SqlState, message: String) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(code, message)))
}

impl Function {
    const ALL: [Self; 8] = [
        Self::Extract,
        Self::DatePart,
        Self::Age,
        Self::JustifyDays,
        Self::JustifyHours,
        Self::JustifyInterval,
        Self::MakeTimestamp,
        Self::Timezone,
    ];

    fn signature(self) -> Signature {
        let exact = |types: Vec<DataType>| Signature::new(TypeSignature::Exact(types), Volatility::Immutable);
        match self {
            Self::Extract | Self::DatePart | Self::Timezone => Signature::user_defined(Volatility::Immutable),
            Self::Age => exact(vec![timestamp(), timestamp()]),
            Self::JustifyDays | Self::JustifyHours | Self::JustifyInterval => exact(vec![interval_type()]),
            Self::MakeTimestamp => {
                let mut types = vec![DataType::Int64; 5];
                types.push(DataType::Float64);
                exact(types)
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::DatePart => "date_part",
            Self::Age => "age",
            Self::JustifyDays => "justify_days",
            Self::JustifyHours => "justify_hours",
            Self::JustifyInterval => "justify_interval",
            Self::MakeTimestamp => "make_timestamp",
            Self::Timezone => "timezone",
        }
    }
}

impl ScalarUDFImpl for TimeFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Of those functions only whose types depend on each other.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [first, value] = types else {
            return Err(DataFusionError::Plan(format!("{} takes two arguments", self.name())));
        };
        if !matches!(first, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null) {
            return Err(DataFusionError::Plan(format!("{} takes a text first", self.name())));
        }
        let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let value = match (self.function, value) {
            (Function::Timezone, DataType::Timestamp(_, None) | DataType::Date32 | DataType::Null) => timestamp(),
            (Function::Timezone, DataType::Timestamp(..)) => timestamptz(),
            (Function::Timezone, t) if text(t) => timestamptz(),
            (_, DataType::Timestamp(_, None) | DataType::Null) => timestamp(),
            (_, DataType::Timestamp(..)) => timestamptz(),
            (_, t) if text(t) => timestamp(),
            (_, DataType::Date32 | DataType::Date64) => DataType::Date32,
            (_, DataType::Time32(_) | DataType::Time64(_)) => DataType::Time64(TimeUnit::Microsecond),
            (_, DataType::Interval(_) | DataType::Duration(_)) => interval_type(),
            (_, other) => {
                let message = format!("function {}(text, {other}) does not exist", self.name());
                return Err(fail(SqlState::UNDEFINED_FUNCTION, message));
            }
        };
        Ok(vec![DataType::Utf8, value])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(match self.function {
            Function::DatePart => DataType::Float64,
            Function::Age | Function::JustifyDays | Function::JustifyHours | Function::JustifyInterval => {
                interval_type()
            }
            Function::MakeTimestamp => timestamp(),
            Function::Timezone => match types.get(1) {
                Some(DataType::Timestamp(_, Some(_))) => timestamp(),
                _ => timestamptz(),
            },
            Function::Extract => {
                return Err(DataFusionError::Internal("the type of extract depends on its field".into()));
            }
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let to = match (self.function, args.scalar_arguments.first().copied().flatten(), types.get(1)) {
            (Function::Extract, Some(unit), Some(of)) => Unit::parse(&text_of(unit)?, of)?.extracted_type(of),
            (Function::Extract, ..) => {
                return Err(DataFusionError::Plan("the field of extract must be a constant".into()));
            }
            _ => self.return_type(&types)?,
        };
        Ok(Arc::new(Field::new(self.name(), to, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let to = args.return_field.data_type();
        let columns = args.args.iter().map(|a| a.clone().into_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        let result = match (self.function, columns.as_slice()) {
            (Function::Extract | Function::DatePart, [_, values]) => match &args.args[0] {
                ColumnarValue::Scalar(unit) if unit.is_null() => arrow::array::new_null_array(to, rows),
                ColumnarValue::Scalar(unit) => {
                    let unit = Unit::parse(&text_of(unit)?, values.data_type())?;
                    let own = fields::extract(unit, values)?;
                    if own.data_type() == to { own } else { cast(&own, to)? }
                }
                ColumnarValue::Array(_) => {
                    return Err(DataFusionError::NotImplemented(format!("{} with a field by row", self.name())));
                }
            },
            (Function::Age, [a, b]) => {
                let a = a.as_primitive::<TimestampMicrosecondType>();
                let b = b.as_primitive::<TimestampMicrosecondType>();
                let ages: PrimitiveArray<IntervalMonthDayNanoType> = arrow::compute::binary(a, b, intervals::age)?;
                Arc::new(ages)
            }
            (Function::JustifyDays | Function::JustifyHours | Function::JustifyInterval, [v]) => {
                let justify = match self.function {
                    Function::JustifyDays => intervals::justify_days,
                    Function::JustifyHours => intervals::justify_hours,
                    _ => intervals::justify_interval,
                };
                let values = v.as_primitive::<IntervalMonthDayNanoType>();
                Arc::new(values.unary::<_, IntervalMonthDayNanoType>(justify))
            }
            (Function::MakeTimestamp, [_, _, _, _, _, seconds]) => make_timestamp(&columns, seconds)?,
            (Function::Timezone, [zone, values]) => in_zone(zone.as_string::<i32>(), values)?,
            _ => return Err(DataFusionError::Internal(format!("{} with other arguments", self.name()))),
        };
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

fn text_of(value: &ScalarValue) -> Result<String> {
    match value {
        ScalarValue::Utf8(Some(s)) | ScalarValue::LargeUtf8(Some(s)) | ScalarValue::Utf8View(Some(s)) => Ok(s.clone()),
        other => Err(DataFusionError::Plan(format!("{other} is no field of a time"))),
    }
}

fn make_timestamp(parts: &[ArrayRef], seconds: &ArrayRef) -> Result<ArrayRef> {
    let seconds = seconds.as_primitive::<Float64Type>();
    let part = |column: usize, row: usize| parts[column].as_primitive::<Int64Type>().value(row);
    let one = |row: usize| -> Result<Option<i64>> {
        if parts.iter().any(|p| p.is_null(row)) {
            return Ok(None);
        }
        let narrow = |column: usize| u32::try_from(part(column, row)).ok();
        let made = || {
            let year = i32::try_from(part(0, row)).ok().filter(|y| *y > 0)?;
            let day = chrono::NaiveDate::from_ymd_opt(year, narrow(1)?, narrow(2)?)?;
            let time = chrono::NaiveTime::from_hms_opt(narrow(3)?, narrow(4)?, 0)?;
            let seconds = seconds.value(row);
            let us = (0.0..=60.0).contains(&seconds).then(|| (seconds * 1e6).round_ties_even() as i64)?;
            Some(day.and_time(time).and_utc().timestamp_micros() + us)
        };
        let out_of_range = || fail(SqlState::DATETIME_OVERFLOW, "date/time field value out of range".to_owned());
        made().map(Some).ok_or_else(out_of_range)
    };
    let all = (0..seconds.len()).map(one).collect::<Result<PrimitiveArray<TimestampMicrosecondType>>>()?;
    Ok(Arc::new(all))
}

/// With a zone: the moment as that zone's clock shows it. Without: the moment at which that zone's clock shows this.
pub(crate) fn in_zone(zones: &StringArray, values: &ArrayRef) -> Result<ArrayRef> {
    let zoned = matches!(values.data_type(), DataType::Timestamp(_, Some(_)));
    let times = values.as_primitive::<TimestampMicrosecondType>();
    let mut last: Option<(String, Tz)> = None;
    let mut out: Vec<Option<i64>> = Vec::with_capacity(times.len());
    for (zone, us) in zones.iter().zip(times) {
        let (Some(zone), Some(us)) = (zone, us) else {
            out.push(None);
            continue;
        };
        let tz = match &last {
            Some((name, tz)) if name == zone => *tz,
            _ => {
                let unknown = |_: arrow::error::ArrowError| {
                    fail(SqlState::INVALID_PARAMETER_VALUE, format!("time zone \"{zone}\" not recognized"))
                };
                let name = if zone.eq_ignore_ascii_case("utc") { "UTC" } else { zone };
                let tz: Tz = name.parse().map_err(unknown)?;
                last = Some((zone.to_owned(), tz));
                tz
            }
        };
        let beyond = || fail(SqlState::DATETIME_OVERFLOW, "timestamp out of range".to_owned());
        let shown = DateTime::from_timestamp_micros(us).ok_or_else(beyond)?.naive_utc();
        let east = |o: i32| i64::from(o) * 1_000_000;
        out.push(Some(if zoned {
            us + east(tz.offset_from_utc_datetime(&shown).fix().local_minus_utc())
        } else {
            let offset = match tz.offset_from_local_datetime(&shown) {
                // An hour that the clock shows twice is the later one, as in Postgres.
                LocalResult::Ambiguous(_, later) => later,
                LocalResult::Single(one) => one,
                // An hour that is left out: the clock before the change goes on.
                LocalResult::None => tz.offset_from_utc_datetime(&(shown - chrono::Duration::days(1))),
            };
            us - east(offset.fix().local_minus_utc())
        }));
    }
    let all = PrimitiveArray::<TimestampMicrosecondType>::from(out);
    Ok(if zoned { Arc::new(all) } else { Arc::new(all.with_timezone("UTC")) })
}

/// Days and the microseconds of the day.
fn split_day(us: i64) -> (i64, i64) {
    (us.div_euclid(DAY_US), us.rem_euclid(DAY_US))
}
