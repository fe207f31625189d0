//! Column builders that a text decoder appends to.
//!
//! *Invariant*: one `push_*` call appends exactly one slot to the column, also when it fails; so all columns of a row
//! stay equally long whatever happens, and rows of bad records are dropped by a filter at the end.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::builder::{
    BinaryBuilder, BinaryViewBuilder, BooleanBufferBuilder, BooleanBuilder, LargeStringBuilder, PrimitiveBuilder,
    StringBuilder, StringViewBuilder,
};
use arrow::array::{ArrayRef, ArrowPrimitiveType, LargeListArray, ListArray, MapArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cast_utils::{Parser as TextParser, parse_decimal, string_to_datetime};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use chrono::Utc;

use super::TimestampFormat;
use crate::{ConnectorError, Result};

/// Why a value does not fit.
#[derive(Debug)]
pub(super) struct Fault {
    /// Path of the column, outermost first; empty if no column is to blame.
    pub column: Vec<String>,
    pub reason: String,
}

impl Fault {
    pub fn new(reason: impl Into<String>) -> Box<Self> {
        Box::new(Self { column: Vec::new(), reason: reason.into() })
    }
    /// Puts a field in front of the path.
    pub fn within(mut self: Box<Self>, field: &str) -> Box<Self> {
        self.column.insert(0, field.to_owned());
        self
    }
    /// `a.b.c`, if a column is to blame.
    pub fn path(&self) -> Option<String> {
        (!self.column.is_empty()).then(|| self.column.join("."))
    }
}

/// Result of appending one value.
pub(super) type Push<T = ()> = std::result::Result<T, Box<Fault>>;

/// A scalar as the format's grammar sees it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// A number token, as written.
    Number(&'a str),
    /// A string, unescaped.
    Text(&'a str),
    /// Text without types (CSV): parse it as whatever the column is.
    Untyped(&'a str),
}

impl Scalar<'_> {
    fn describe(&self) -> String {
        fn short(s: &str) -> &str {
            &s[..s.floor_char_boundary(64)]
        }
        match self {
            Scalar::Null => "null".into(),
            Scalar::Bool(b) => b.to_string(),
            Scalar::Number(s) => format!("number {}", short(s)),
            Scalar::Text(s) | Scalar::Untyped(s) => format!("text \"{}\"", short(s)),
        }
    }
}

/// Fields of a record or a nested struct.
#[derive(Debug)]
pub(super) struct StructColumn {
    pub fields: Fields,
    pub columns: Vec<Column>,
    by_name: HashMap<String, u32>,
    /// Field found at the n-th key of the previous object: producers repeat their key order.
    order: Vec<u32>,
    /// Object in which a field was last set, by count.
    seen: Vec<u64>,
    object: u64,
}

impl StructColumn {
    pub fn new(fields: &Fields, timestamps: TimestampFormat, prefix: &str) -> Result<Self> {
        let columns = fields
            .iter()
            .map(|f| Column::new(f, timestamps, &format!("{prefix}{}", f.name())))
            .collect::<Result<Vec<_>>>()?;
        let by_name = fields.iter().enumerate().map(|(i, f)| (f.name().clone(), i as u32)).collect();
        Ok(Self {
            fields: fields.clone(),
            seen: vec![0; columns.len()],
            columns,
            by_name,
            order: Vec::new(),
            object: 0,
        })
    }

    /// Begins an object.
    pub fn begin(&mut self) -> u64 {
        self.object += 1;
        self.object
    }

    /// The count of objects begun.
    pub fn object(&self) -> u64 {
        self.object
    }

    /// The field of the `nth` key of an object.
    pub fn find(&mut self, nth: usize, name: &str) -> Option<usize> {
        if let Some(&i) = self.order.get(nth)
            && self.fields.get(i as usize).is_some_and(|f| f.name() == name)
        {
            return Some(i as usize);
        }
        let found = self.by_name.get(name).copied();
        if nth < 4 * self.columns.len() {
            self.order.resize(self.order.len().max(nth + 1), u32::MAX);
            self.order[nth] = found.unwrap_or(u32::MAX);
        }
        found.map(|i| i as usize)
    }

    /// Marks a field as set in this object; false if it was set before.
    pub fn mark(&mut self, field: usize, object: u64) -> bool {
        std::mem::replace(&mut self.seen[field], object) != object
    }

    /// Fills the fields that were not set, once; the first that must not be NULL is the fault.
    pub fn complete(&mut self, object: u64) -> Push {
        let mut fault = None;
        for (i, column) in self.columns.iter_mut().enumerate() {
            if std::mem::replace(&mut self.seen[i], object) != object {
                column.push_absent();
                if !column.nullable && fault.is_none() {
                    fault =
                        Some(Fault::new("value is missing, and the column is NOT NULL").within(self.fields[i].name()));
                }
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// Fills all fields.
    fn absent(&mut self) {
        self.columns.iter_mut().for_each(Column::push_absent);
    }

    /// Takes the arrays.
    pub fn finish(&mut self) -> std::result::Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

/// A list's parts.
#[derive(Debug)]
pub(super) struct ListColumn {
    field: FieldRef,
    pub item: Column,
    offsets: Vec<i64>,
    validity: BooleanBufferBuilder,
    items: i64,
    large: bool,
}

impl ListColumn {
    /// Notes one more item.
    pub fn added(&mut self) {
        self.items += 1;
    }
    /// Ends one list.
    pub fn close(&mut self, valid: bool) {
        self.offsets.push(self.items);
        self.validity.append(valid);
    }
}

/// A map's parts: text keys.
#[derive(Debug)]
pub(super) struct MapColumn {
    entries: FieldRef,
    sorted: bool,
    pub key: Column,
    pub value: Column,
    offsets: Vec<i32>,
    validity: BooleanBufferBuilder,
    items: i32,
}

impl MapColumn {
    /// Notes one more entry.
    pub fn added(&mut self) {
        self.items += 1;
    }
    /// Ends one map.
    pub fn close(&mut self, valid: bool) {
        self.offsets.push(self.items);
        self.validity.append(valid);
    }
}

/// The builder of a column, by type.
#[derive(Debug)]
pub(super) enum Kind {
    Bool(BooleanBuilder),
    Int8(PrimitiveBuilder<Int8Type>),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    UInt8(PrimitiveBuilder<UInt8Type>),
    UInt16(PrimitiveBuilder<UInt16Type>),
    UInt32(PrimitiveBuilder<UInt32Type>),
    UInt64(PrimitiveBuilder<UInt64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Decimal(PrimitiveBuilder<Decimal128Type>, u8, i8),
    Date(PrimitiveBuilder<Date32Type>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    Timestamp(PrimitiveBuilder<TimestampMicrosecondType>, TimestampFormat),
    Interval(PrimitiveBuilder<IntervalMonthDayNanoType>),
    TextView(StringViewBuilder),
    Text(StringBuilder),
    LargeText(LargeStringBuilder),
    BytesView(BinaryViewBuilder),
    Bytes(BinaryBuilder),
    Struct(Box<StructColumn>, BooleanBufferBuilder),
    List(Box<ListColumn>),
    Map(Box<MapColumn>),
}

/// A column under construction.
#[derive(Debug)]
pub(super) struct Column {
    data_type: DataType,
    pub nullable: bool,
    pub kind: Kind,
}

macro_rules! primitives {
    ($b:ident, $kind:expr, $primitive:expr) => {
        match $kind {
            Kind::Int8($b) => $primitive,
            Kind::Int16($b) => $primitive,
            Kind::Int32($b) => $primitive,
            Kind::Int64($b) => $primitive,
            Kind::UInt8($b) => $primitive,
            Kind::UInt16($b) => $primitive,
            Kind::UInt32($b) => $primitive,
            Kind::UInt64($b) => $primitive,
            Kind::Float32($b) => $primitive,
            Kind::Float64($b) => $primitive,
            Kind::Decimal($b, ..) => $primitive,
            Kind::Date($b) => $primitive,
            Kind::Time($b) => $primitive,
            Kind::Timestamp($b, _) => $primitive,
            Kind::Interval($b) => $primitive,
            _ => {}
        }
    };
}

impl Column {
    pub fn new(field: &Field, timestamps: TimestampFormat, path: &str) -> Result<Self> {
        let kind = match field.data_type() {
            DataType::Boolean => Kind::Bool(BooleanBuilder::new()),
            DataType::Int8 => Kind::Int8(PrimitiveBuilder::new()),
            DataType::Int16 => Kind::Int16(PrimitiveBuilder::new()),
            DataType::Int32 => Kind::Int32(PrimitiveBuilder::new()),
            DataType::Int64 => Kind::Int64(PrimitiveBuilder::new()),
            DataType::UInt8 => Kind::UInt8(PrimitiveBuilder::new()),
            DataType::UInt16 => Kind::UInt16(PrimitiveBuilder::new()),
            DataType::UInt32 => Kind::UInt32(PrimitiveBuilder::new()),
            DataType::UInt64 => Kind::UInt64(PrimitiveBuilder::new()),
            DataType::Float32 => Kind::Float32(PrimitiveBuilder::new()),
            DataType::Float64 => Kind::Float64(PrimitiveBuilder::new()),
            t @ DataType::Decimal128(p, s) => Kind::Decimal(PrimitiveBuilder::new().with_data_type(t.clone()), *p, *s),
            DataType::Date32 => Kind::Date(PrimitiveBuilder::new()),
            DataType::Time64(TimeUnit::Microsecond) => Kind::Time(PrimitiveBuilder::new()),
            t @ DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Kind::Timestamp(PrimitiveBuilder::new().with_data_type(t.clone()), timestamps)
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => Kind::Interval(PrimitiveBuilder::new()),
            DataType::Utf8View => Kind::TextView(StringViewBuilder::new()),
            DataType::Utf8 => Kind::Text(StringBuilder::new()),
            DataType::LargeUtf8 => Kind::LargeText(LargeStringBuilder::new()),
            DataType::BinaryView => Kind::BytesView(BinaryViewBuilder::new()),
            DataType::Binary => Kind::Bytes(BinaryBuilder::new()),
            DataType::Struct(fields) => Kind::Struct(
                Box::new(StructColumn::new(fields, timestamps, &format!("{path}."))?),
                BooleanBufferBuilder::new(0),
            ),
            t @ (DataType::List(item) | DataType::LargeList(item)) => Kind::List(Box::new(ListColumn {
                field: item.clone(),
                item: Column::new(item, timestamps, &format!("{path}[]"))?,
                offsets: vec![0],
                validity: BooleanBufferBuilder::new(0),
                items: 0,
                large: matches!(t, DataType::LargeList(_)),
            })),
            DataType::Map(entries, sorted) => {
                let DataType::Struct(kv) = entries.data_type() else {
                    return Err(ConnectorError::bug(format!("map column \"{path}\" has no entries struct")));
                };
                if kv.len() != 2 || !matches!(kv[0].data_type(), DataType::Utf8View | DataType::Utf8) {
                    return Err(ConnectorError::config(format!(
                        "column \"{path}\": a map from a payload must have text keys"
                    )));
                }
                Kind::Map(Box::new(MapColumn {
                    entries: entries.clone(),
                    sorted: *sorted,
                    key: Column::new(&kv[0], timestamps, path)?,
                    value: Column::new(&kv[1], timestamps, &format!("{path}[]"))?,
                    offsets: vec![0],
                    validity: BooleanBufferBuilder::new(0),
                    items: 0,
                }))
            }
            other => {
                return Err(ConnectorError::config(format!(
                    "column \"{path}\": type {other} cannot be read from this format"
                ))
                .hint("Declare the column as TEXT and CAST it in a query."));
            }
        };
        Ok(Self { data_type: field.data_type().clone(), nullable: field.is_nullable(), kind })
    }

    /// Appends NULL, or a default where the type says NOT NULL (the row is going to be dropped).
    pub fn push_absent(&mut self) {
        let null = self.nullable;
        primitives!(b, &mut self.kind, {
            if null {
                b.append_null()
            } else {
                b.append_value(Default::default())
            }
            return;
        });
        match &mut self.kind {
            Kind::Bool(b) if null => b.append_null(),
            Kind::Bool(b) => b.append_value(false),
            Kind::TextView(b) if null => b.append_null(),
            Kind::TextView(b) => b.append_value(""),
            Kind::Text(b) if null => b.append_null(),
            Kind::Text(b) => b.append_value(""),
            Kind::LargeText(b) if null => b.append_null(),
            Kind::LargeText(b) => b.append_value(""),
            Kind::BytesView(b) if null => b.append_null(),
            Kind::BytesView(b) => b.append_value(b""),
            Kind::Bytes(b) if null => b.append_null(),
            Kind::Bytes(b) => b.append_value(b""),
            Kind::Struct(s, validity) => {
                s.absent();
                validity.append(!null);
            }
            Kind::List(l) => l.close(!null),
            Kind::Map(m) => m.close(!null),
            _ => {}
        }
    }

    /// Appends a scalar.
    pub fn push(&mut self, value: Scalar<'_>) -> Push {
        if let Scalar::Null = value {
            self.push_absent();
            return if self.nullable { Ok(()) } else { Err(Fault::new("value is null, and the column is NOT NULL")) };
        }
        let done = self.try_push(value);
        if done.is_err() {
            self.push_absent();
        }
        done
    }

    /// Appends on success only.
    fn try_push(&mut self, value: Scalar<'_>) -> Push {
        match &mut self.kind {
            Kind::Bool(b) => {
                let v = match value {
                    Scalar::Bool(v) => Some(v),
                    Scalar::Untyped(s) => crate::options::parse_bool(s),
                    _ => None,
                };
                match v {
                    Some(v) => b.append_value(v),
                    None => return Err(mismatch(&self.data_type, &value)),
                }
            }
            Kind::Int8(b) => append_int(b, &self.data_type, &value)?,
            Kind::Int16(b) => append_int(b, &self.data_type, &value)?,
            Kind::Int32(b) => append_int(b, &self.data_type, &value)?,
            Kind::Int64(b) => append_int(b, &self.data_type, &value)?,
            Kind::UInt8(b) => append_int(b, &self.data_type, &value)?,
            Kind::UInt16(b) => append_int(b, &self.data_type, &value)?,
            Kind::UInt32(b) => append_int(b, &self.data_type, &value)?,
            Kind::UInt64(b) => append_int(b, &self.data_type, &value)?,
            Kind::Float32(b) => b.append_value(float(&self.data_type, &value)? as f32),
            Kind::Float64(b) => b.append_value(float(&self.data_type, &value)?),
            Kind::Decimal(b, p, s) => {
                let v = match value {
                    Scalar::Number(t) | Scalar::Text(t) | Scalar::Untyped(t) => {
                        parse_decimal::<Decimal128Type>(t.trim(), *p, *s).ok()
                    }
                    _ => None,
                };
                b.append_value(v.ok_or_else(|| mismatch(&self.data_type, &value))?);
            }
            Kind::Date(b) => b.append_value(parse_text::<Date32Type>(&self.data_type, &value)?),
            Kind::Time(b) => b.append_value(parse_text::<Time64MicrosecondType>(&self.data_type, &value)?),
            Kind::Timestamp(b, format) => {
                let v = timestamp(*format, &value);
                b.append_value(v.ok_or_else(|| mismatch(&self.data_type, &value))?);
            }
            Kind::Interval(b) => {
                let v = match value {
                    Scalar::Text(t) | Scalar::Untyped(t) => {
                        arrow::compute::kernels::cast_utils::parse_interval_month_day_nano(t).ok()
                    }
                    _ => None,
                };
                b.append_value(v.ok_or_else(|| mismatch(&self.data_type, &value))?);
            }
            Kind::TextView(b) => b.append_value(text(&self.data_type, &value)?),
            Kind::Text(b) => b.append_value(text(&self.data_type, &value)?),
            Kind::LargeText(b) => b.append_value(text(&self.data_type, &value)?),
            Kind::BytesView(b) => b.append_value(hex(&self.data_type, &value)?),
            Kind::Bytes(b) => b.append_value(hex(&self.data_type, &value)?),
            Kind::Struct(..) | Kind::List(_) | Kind::Map(_) => return Err(mismatch(&self.data_type, &value)),
        }
        Ok(())
    }

    /// The fault of an object or array where the column wants something else.
    pub fn nested_fault(&self, what: &str) -> Box<Fault> {
        Fault::new(format!("expected {}, got {what}", name_of(&self.data_type)))
    }

    /// Takes the array built so far.
    pub fn finish(&mut self) -> std::result::Result<ArrayRef, ArrowError> {
        primitives!(b, &mut self.kind, return Ok(Arc::new(b.finish())));
        Ok(match &mut self.kind {
            Kind::Bool(b) => Arc::new(b.finish()),
            Kind::TextView(b) => Arc::new(b.finish()),
            Kind::Text(b) => Arc::new(b.finish()),
            Kind::LargeText(b) => Arc::new(b.finish()),
            Kind::BytesView(b) => Arc::new(b.finish()),
            Kind::Bytes(b) => Arc::new(b.finish()),
            Kind::Struct(s, validity) => {
                let len = validity.len();
                let nulls = nulls(validity);
                Arc::new(StructArray::try_new_with_length(s.fields.clone(), s.finish()?, nulls, len)?)
            }
            Kind::List(l) => {
                let values = l.item.finish()?;
                let nulls = nulls(&mut l.validity);
                let offsets = std::mem::replace(&mut l.offsets, vec![0]);
                l.items = 0;
                if l.large {
                    Arc::new(LargeListArray::try_new(
                        l.field.clone(),
                        OffsetBuffer::new(offsets.into()),
                        values,
                        nulls,
                    )?)
                } else {
                    let narrow: Vec<i32> = offsets
                        .iter()
                        .map(|o| i32::try_from(*o).map_err(|_| ArrowError::OffsetOverflowError(*o as usize)))
                        .collect::<std::result::Result<_, _>>()?;
                    Arc::new(ListArray::try_new(l.field.clone(), OffsetBuffer::new(narrow.into()), values, nulls)?)
                }
            }
            Kind::Map(m) => {
                let DataType::Struct(fields) = m.entries.data_type() else {
                    return Err(ArrowError::SchemaError("map entries are not a struct".into()));
                };
                let entries = StructArray::try_new(fields.clone(), vec![m.key.finish()?, m.value.finish()?], None)?;
                let nulls = nulls(&mut m.validity);
                let offsets = std::mem::replace(&mut m.offsets, vec![0]);
                m.items = 0;
                Arc::new(MapArray::try_new(
                    m.entries.clone(),
                    OffsetBuffer::new(offsets.into()),
                    entries,
                    nulls,
                    m.sorted,
                )?)
            }
            _ => return Err(ArrowError::ComputeError("column builder without a type".into())),
        })
    }
}

fn nulls(validity: &mut BooleanBufferBuilder) -> Option<NullBuffer> {
    Some(NullBuffer::new(validity.finish())).filter(|n| n.null_count() > 0)
}

/// The type as SQL calls it.
fn name_of(t: &DataType) -> String {
    match t {
        DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 => "text".into(),
        DataType::Int64 => "a bigint".into(),
        DataType::Int32 => "an integer".into(),
        DataType::Int16 => "a smallint".into(),
        DataType::Float32 | DataType::Float64 => "a number".into(),
        DataType::Boolean => "a boolean".into(),
        DataType::Timestamp(..) => "a timestamp".into(),
        DataType::Date32 => "a date".into(),
        DataType::Time64(_) => "a time".into(),
        DataType::Interval(_) => "an interval".into(),
        DataType::Decimal128(p, s) => format!("a decimal({p},{s})"),
        DataType::Struct(_) => "an object".into(),
        DataType::Map(..) => "an object (map)".into(),
        DataType::List(_) | DataType::LargeList(_) => "an array".into(),
        DataType::Binary | DataType::BinaryView => "bytes in hexadecimal".into(),
        other => other.to_string(),
    }
}

#[cold]
fn mismatch(t: &DataType, value: &Scalar<'_>) -> Box<Fault> {
    Fault::new(format!("expected {}, got {}", name_of(t), value.describe()))
}

fn append_int<T>(b: &mut PrimitiveBuilder<T>, t: &DataType, value: &Scalar<'_>) -> Push
where
    T: ArrowPrimitiveType,
    T::Native: std::str::FromStr + TryFrom<i64>,
{
    let parsed = match value {
        Scalar::Number(s) => s.parse().ok().or_else(|| whole(s)),
        Scalar::Untyped(s) => s.trim().parse().ok(),
        _ => None,
    };
    match parsed {
        Some(v) => b.append_value(v),
        None => return Err(mismatch(t, value)),
    }
    Ok(())
}

/// `1.0` and `1e3` are whole numbers too.
fn whole<N: TryFrom<i64>>(s: &str) -> Option<N> {
    let f: f64 = s.parse().ok()?;
    if f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0 && s.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        N::try_from(f as i64).ok()
    } else {
        None
    }
}

fn float(t: &DataType, value: &Scalar<'_>) -> Push<f64> {
    match value {
        Scalar::Number(s) => s.parse().ok(),
        Scalar::Untyped(s) => s.trim().parse().ok(),
        _ => None,
    }
    .ok_or_else(|| mismatch(t, value))
}

fn parse_text<T: TextParser>(t: &DataType, value: &Scalar<'_>) -> Push<T::Native> {
    match value {
        Scalar::Text(s) | Scalar::Untyped(s) => T::parse(s.trim()),
        _ => None,
    }
    .ok_or_else(|| mismatch(t, value))
}

fn text<'a>(t: &DataType, value: &Scalar<'a>) -> Push<&'a str> {
    match *value {
        Scalar::Text(s) | Scalar::Untyped(s) => Ok(s),
        _ => Err(mismatch(t, value)),
    }
}

/// Bytes travel as hexadecimal text, with or without `\\x`.
fn hex(t: &DataType, value: &Scalar<'_>) -> Push<Vec<u8>> {
    let (Scalar::Text(s) | Scalar::Untyped(s)) = value else { return Err(mismatch(t, value)) };
    let digits = s.strip_prefix("\\x").unwrap_or(s).as_bytes();
    let nibble = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let pairs = digits.chunks(2).map(|c| match c {
        [a, b] => Some(nibble(*a)? << 4 | nibble(*b)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>().ok_or_else(|| mismatch(t, value))
}

/// Microseconds since 1970.
fn timestamp(format: TimestampFormat, value: &Scalar<'_>) -> Option<i64> {
    match *value {
        Scalar::Text(s) => iso(s),
        Scalar::Number(s) => epoch(format, s),
        Scalar::Untyped(s) => iso(s.trim()).or_else(|| epoch(format, s.trim())),
        _ => None,
    }
}

/// ISO 8601 date and time; without a zone it is UTC.
pub(super) fn iso(s: &str) -> Option<i64> {
    string_to_datetime(&Utc, s).ok().map(|t| t.timestamp_micros())
}

fn epoch(format: TimestampFormat, s: &str) -> Option<i64> {
    let magnitude = |f: f64| match f.abs() {
        a if a < 1e11 => TimestampFormat::Seconds,
        a if a < 1e14 => TimestampFormat::Millis,
        a if a < 1e17 => TimestampFormat::Micros,
        _ => TimestampFormat::Nanos,
    };
    let unit = |f: f64| if format == TimestampFormat::Auto { magnitude(f) } else { format };
    if let Ok(i) = s.parse::<i64>() {
        return match unit(i as f64) {
            TimestampFormat::Seconds => i.checked_mul(1_000_000),
            TimestampFormat::Millis => i.checked_mul(1_000),
            TimestampFormat::Micros => Some(i),
            TimestampFormat::Nanos => Some(i.div_euclid(1_000)),
            TimestampFormat::Iso | TimestampFormat::Auto => None,
        };
    }
    let f: f64 = s.parse().ok()?;
    let micros = match unit(f) {
        TimestampFormat::Seconds => f * 1e6,
        TimestampFormat::Millis => f * 1e3,
        TimestampFormat::Micros => f,
        TimestampFormat::Nanos => f / 1e3,
        TimestampFormat::Iso | TimestampFormat::Auto => return None,
    };
    (micros.is_finite() && micros.abs() < 9.2e18).then(|| micros.round() as i64)
}
