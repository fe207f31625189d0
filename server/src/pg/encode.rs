//! Columns of a batch to values on the wire, text and binary.
//!
//! Types are looked at once per batch and column ([`Column::new`]); a row then costs one match per value and no
//! allocation. Rare types are first cast by Arrow to the common one of their family.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array,
    DurationMicrosecondArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray,
    Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{self as dt, DataType, Field, IntervalUnit, SchemaRef, TimeUnit};
use bytes::{BufMut as _, BytesMut};
use millstream::error::{Error, IntoError as _, Result, SqlState};

use super::{text, types};

/// Text or binary, per column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `0`.
    Text,
    /// `1`.
    Binary,
}

/// The formats of `columns` columns from the codes of a Bind message: none, one for all, or one each.
pub fn formats(codes: &[i16], columns: usize) -> Result<Vec<Format>> {
    let one = |code: &i16| match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        other => Err(Error::new(SqlState::INVALID_PARAMETER_VALUE, format!("unsupported format code: {other}"))),
    };
    match codes {
        [] => Ok(vec![Format::Text; columns]),
        [all] => Ok(vec![one(all)?; columns]),
        each if each.len() == columns => each.iter().map(one).collect(),
        each => Err(Error::new(
            SqlState("08P01"),
            format!("bind message has {} format codes but there are {columns} columns", each.len()),
        )),
    }
}

/// Largest row we send; Postgres' own limit for a field.
const ROW_BYTES_MAX: usize = 1 << 30;

/// Microseconds from 1970 to 2000, where Postgres' binary timestamps start.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// Days from 1970 to 2000.
const POSTGRES_EPOCH_DAYS: i32 = 10_957;

/// A column, downcast.
pub enum Column {
    Null,
    Bool(BooleanArray),
    I16(Int16Array),
    I32(Int32Array),
    I64(Int64Array),
    U64(UInt64Array),
    F32(Float32Array),
    F64(Float64Array),
    Dec128(Decimal128Array, i8),
    Dec256(Decimal256Array, i8),
    Str(StringArray),
    StrView(StringViewArray),
    LargeStr(LargeStringArray),
    Bin(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray, bool),
    Interval(IntervalMonthDayNanoArray),
    Duration(DurationMicrosecondArray),
    List {
        list: ListArray,
        elements: Box<Column>,
        element: u32,
    },
    /// Rendered as JSON text when the batch came in.
    Json(StringArray),
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|e| e.into_error())
}

impl Column {
    /// Looks at the type once.
    pub fn new(field: &Field, array: &ArrayRef) -> Result<Self> {
        use DataType as T;
        let us = TimeUnit::Microsecond;
        Ok(match array.data_type() {
            T::Null => Self::Null,
            T::Boolean => Self::Bool(array.as_boolean().clone()),
            T::Int16 => Self::I16(array.as_primitive::<dt::Int16Type>().clone()),
            T::Int32 => Self::I32(array.as_primitive::<dt::Int32Type>().clone()),
            T::Int64 => Self::I64(array.as_primitive::<dt::Int64Type>().clone()),
            T::UInt64 => Self::U64(array.as_primitive::<dt::UInt64Type>().clone()),
            T::Float32 => Self::F32(array.as_primitive::<dt::Float32Type>().clone()),
            T::Float64 => Self::F64(array.as_primitive::<dt::Float64Type>().clone()),
            T::Decimal128(_, s) => Self::Dec128(array.as_primitive::<dt::Decimal128Type>().clone(), *s),
            T::Decimal256(_, s) => Self::Dec256(array.as_primitive::<dt::Decimal256Type>().clone(), *s),
            T::Utf8 => Self::Str(array.as_string::<i32>().clone()),
            T::LargeUtf8 => Self::LargeStr(array.as_string::<i64>().clone()),
            T::Utf8View => Self::StrView(array.as_string_view().clone()),
            T::Binary => Self::Bin(array.as_binary::<i32>().clone()),
            T::Date32 => Self::Date(array.as_primitive::<dt::Date32Type>().clone()),
            T::Time64(TimeUnit::Microsecond) => Self::Time(array.as_primitive::<dt::Time64MicrosecondType>().clone()),
            T::Timestamp(TimeUnit::Microsecond, tz) => {
                Self::Timestamp(array.as_primitive::<dt::TimestampMicrosecondType>().clone(), tz.is_some())
            }
            T::Interval(IntervalUnit::MonthDayNano) => {
                Self::Interval(array.as_primitive::<dt::IntervalMonthDayNanoType>().clone())
            }
            T::Duration(TimeUnit::Microsecond) => {
                Self::Duration(array.as_primitive::<dt::DurationMicrosecondType>().clone())
            }
            T::List(f) => match types::of(f.data_type()).oid {
                element if types::array_of(element).is_some() => {
                    let list = array.as_list::<i32>().clone();
                    let elements = Box::new(Self::new(f, list.values())?);
                    Self::List { list, elements, element }
                }
                _ => json(field, array)?,
            },
            T::Struct(_) | T::Map(_, _) | T::Union(_, _) => json(field, array)?,
            // The rest goes through the common type of its family.
            T::Int8 | T::UInt8 => Self::new(field, &cast(array, &T::Int16)?)?,
            T::UInt16 => Self::new(field, &cast(array, &T::Int32)?)?,
            T::UInt32 => Self::new(field, &cast(array, &T::Int64)?)?,
            T::Float16 => Self::new(field, &cast(array, &T::Float32)?)?,
            T::Decimal32(p, s) | T::Decimal64(p, s) => Self::new(field, &cast(array, &T::Decimal128(*p, *s))?)?,
            T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => Self::new(field, &cast(array, &T::Binary)?)?,
            T::Date64 => Self::new(field, &cast(array, &T::Date32)?)?,
            T::Time32(_) | T::Time64(_) => Self::new(field, &cast(array, &T::Time64(us))?)?,
            T::Timestamp(_, tz) => Self::new(field, &cast(array, &T::Timestamp(us, tz.clone()))?)?,
            T::Duration(_) => Self::new(field, &cast(array, &T::Duration(us))?)?,
            T::Interval(_) => Self::new(field, &cast(array, &T::Interval(IntervalUnit::MonthDayNano))?)?,
            T::LargeList(f) | T::FixedSizeList(f, _) | T::ListView(f) | T::LargeListView(f) => {
                Self::new(field, &cast(array, &T::List(Arc::clone(f)))?)?
            }
            T::Dictionary(_, v) => Self::new(field, &cast(array, v)?)?,
            T::RunEndEncoded(_, v) => Self::new(field, &cast(array, v.data_type())?)?,
        })
    }

    /// True for NULL.
    #[inline]
    pub fn is_null(&self, i: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(a) => a.is_null(i),
            Self::I16(a) => a.is_null(i),
            Self::I32(a) => a.is_null(i),
            Self::I64(a) => a.is_null(i),
            Self::U64(a) => a.is_null(i),
            Self::F32(a) => a.is_null(i),
            Self::F64(a) => a.is_null(i),
            Self::Dec128(a, _) => a.is_null(i),
            Self::Dec256(a, _) => a.is_null(i),
            Self::Str(a) | Self::Json(a) => a.is_null(i),
            Self::StrView(a) => a.is_null(i),
            Self::LargeStr(a) => a.is_null(i),
            Self::Bin(a) => a.is_null(i),
            Self::Date(a) => a.is_null(i),
            Self::Time(a) => a.is_null(i),
            Self::Timestamp(a, _) => a.is_null(i),
            Self::Interval(a) => a.is_null(i),
            Self::Duration(a) => a.is_null(i),
            Self::List { list, .. } => list.is_null(i),
        }
    }

    /// The text of a value that is not NULL.
    pub fn text(&self, i: usize, out: &mut BytesMut) {
        // Writing into a growing buffer cannot fail.
        let put = |out: &mut BytesMut, args: std::fmt::Arguments<'_>| {
            let _ = out.write_fmt(args);
        };
        match self {
            Self::Null => {}
            Self::Bool(a) => out.put_u8(if a.value(i) { b't' } else { b'f' }),
            Self::I16(a) => put(out, format_args!("{}", a.value(i))),
            Self::I32(a) => put(out, format_args!("{}", a.value(i))),
            Self::I64(a) => put(out, format_args!("{}", a.value(i))),
            Self::U64(a) => put(out, format_args!("{}", a.value(i))),
            Self::F32(a) => text::float4(a.value(i), out),
            Self::F64(a) => text::float8(a.value(i), out),
            Self::Dec128(a, s) => text::decimal(&a.value(i).to_string(), *s, out),
            Self::Dec256(a, s) => text::decimal(&a.value(i).to_string(), *s, out),
            Self::Str(a) | Self::Json(a) => out.put_slice(a.value(i).as_bytes()),
            Self::StrView(a) => out.put_slice(a.value(i).as_bytes()),
            Self::LargeStr(a) => out.put_slice(a.value(i).as_bytes()),
            Self::Bin(a) => text::bytea(a.value(i), out),
            Self::Date(a) => text::date(a.value(i), out),
            Self::Time(a) => text::time(a.value(i), out),
            Self::Timestamp(a, utc) => text::timestamp(a.value(i), *utc, out),
            Self::Interval(a) => {
                let v = a.value(i);
                text::interval(v.months, v.days, v.nanoseconds / 1000, out);
            }
            Self::Duration(a) => text::duration(a.value(i), out),
            Self::List { list, elements, .. } => array_text(list, elements, i, out),
        }
    }

    /// The binary form of a value that is not NULL.
    pub fn binary(&self, i: usize, out: &mut BytesMut) -> Result<()> {
        match self {
            Self::Null => {}
            Self::Bool(a) => out.put_u8(u8::from(a.value(i))),
            Self::I16(a) => out.put_i16(a.value(i)),
            Self::I32(a) => out.put_i32(a.value(i)),
            Self::I64(a) => out.put_i64(a.value(i)),
            Self::U64(a) => numeric_binary(&a.value(i).to_string(), 0, out),
            Self::F32(a) => out.put_f32(a.value(i)),
            Self::F64(a) => out.put_f64(a.value(i)),
            Self::Dec128(a, s) => numeric_binary(&a.value(i).to_string(), *s, out),
            Self::Dec256(a, s) => numeric_binary(&a.value(i).to_string(), *s, out),
            Self::Str(_) | Self::Json(_) | Self::StrView(_) | Self::LargeStr(_) => self.text(i, out),
            Self::Bin(a) => out.put_slice(a.value(i)),
            Self::Date(a) => out.put_i32(a.value(i).saturating_sub(POSTGRES_EPOCH_DAYS)),
            Self::Time(a) => out.put_i64(a.value(i)),
            Self::Timestamp(a, _) => {
                let v = a.value(i).checked_sub(POSTGRES_EPOCH_US).ok_or_else(|| {
                    Error::new(SqlState("22008"), "timestamp is out of the range of the binary format")
                })?;
                out.put_i64(v);
            }
            Self::Interval(a) => {
                let v = a.value(i);
                out.put_i64(v.nanoseconds / 1000);
                out.put_i32(v.days);
                out.put_i32(v.months);
            }
            Self::Duration(a) => {
                out.put_i64(a.value(i));
                out.put_i64(0);
            }
            Self::List { list, elements, element } => {
                let range = row_range(list, i);
                let nulls = range.clone().any(|j| elements.is_null(j));
                out.put_i32(i32::from(!range.is_empty()));
                out.put_i32(i32::from(nulls));
                out.put_u32(*element);
                if !range.is_empty() {
                    out.put_i32(length(range.len())?);
                    out.put_i32(1);
                }
                for j in range {
                    elements.value(j, Format::Binary, out)?;
                }
            }
        }
        Ok(())
    }

    /// A value with its length in front, -1 for NULL.
    pub fn value(&self, i: usize, format: Format, out: &mut BytesMut) -> Result<()> {
        if self.is_null(i) {
            out.put_i32(-1);
            return Ok(());
        }
        let at = out.len();
        out.put_i32(0);
        match format {
            Format::Text => self.text(i, out),
            Format::Binary => self.binary(i, out)?,
        }
        let len = length(out.len() - at - 4)?;
        out[at..at + 4].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

fn length(n: usize) -> Result<i32> {
    i32::try_from(n).ok().filter(|_| n <= ROW_BYTES_MAX).ok_or_else(|| {
        Error::new(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("a value or row of {n} bytes is too large to send"))
            .detail(format!("At most {ROW_BYTES_MAX} bytes fit in a row."))
    })
}

fn row_range(list: &ListArray, i: usize) -> std::ops::Range<usize> {
    let o = list.value_offsets();
    o[i] as usize..o[i + 1] as usize
}

/// `{1,NULL,"a b"}`.
fn array_text(list: &ListArray, elements: &Column, i: usize, out: &mut BytesMut) {
    out.put_u8(b'{');
    let mut scratch = BytesMut::new();
    for (n, j) in row_range(list, i).enumerate() {
        if n > 0 {
            out.put_u8(b',');
        }
        if elements.is_null(j) {
            out.put_slice(b"NULL");
            continue;
        }
        scratch.clear();
        elements.text(j, &mut scratch);
        let quote = scratch.is_empty()
            || scratch.eq_ignore_ascii_case(b"null")
            || scratch.iter().any(|c| matches!(c, b'{' | b'}' | b',' | b'"' | b'\\') || c.is_ascii_whitespace());
        if !quote {
            out.put_slice(&scratch);
            continue;
        }
        out.put_u8(b'"');
        for c in &scratch {
            if matches!(c, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(*c);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b'}');
}

/// Postgres' binary numeric: digits of base 10 000. `digits` is the unscaled integer as text.
fn numeric_binary(digits: &str, scale: i8, out: &mut BytesMut) {
    let (neg, digits) = match digits.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, digits),
    };
    let (int, frac) =
        if scale > 0 { digits.split_at(digits.len().saturating_sub(scale as usize)) } else { (digits, "") };
    // Zeros that stand between the point and the first digit, or behind the last digit.
    let frac_zeros = (scale.max(0) as usize) - frac.len();
    let int_zeros = usize::from(scale.min(0).unsigned_abs());
    let mut all: Vec<u8> = Vec::with_capacity(int.len() + frac.len() + frac_zeros + int_zeros + 8);
    let int_len = int.len() + int_zeros;
    all.resize((4 - int_len % 4) % 4, 0);
    all.extend(int.bytes().map(|c| c - b'0'));
    all.resize(all.len() + int_zeros, 0);
    let int_groups = all.len() / 4;
    all.resize(all.len() + frac_zeros, 0);
    all.extend(frac.bytes().map(|c| c - b'0'));
    all.resize(all.len().div_ceil(4) * 4, 0);
    let groups: Vec<i16> = all.chunks(4).map(|g| g.iter().fold(0, |n, d| n * 10 + i16::from(*d))).collect();
    let first = groups.iter().position(|g| *g != 0).unwrap_or(groups.len());
    let last = groups.iter().rposition(|g| *g != 0).map_or(first, |i| i + 1);
    let shown = &groups[first..last];
    out.put_i16(shown.len() as i16);
    out.put_i16(if shown.is_empty() { 0 } else { int_groups as i16 - first as i16 - 1 });
    out.put_u16(if neg && !shown.is_empty() { 0x4000 } else { 0 });
    out.put_u16(scale.max(0) as u16);
    for g in shown {
        out.put_i16(*g);
    }
}

/// A nested column as JSON text, one document a row.
fn json(field: &Field, array: &ArrayRef) -> Result<Column> {
    use arrow::json::writer::{EncoderOptions, make_encoder};
    let field = Arc::new(Field::new(field.name(), array.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, array.as_ref(), &options).map_err(|e| e.into_error())?;
    let mut texts = arrow::array::StringBuilder::with_capacity(array.len(), array.len() * 16);
    let mut buffer = Vec::new();
    for i in 0..array.len() {
        if encoder.is_null(i) {
            texts.append_null();
            continue;
        }
        buffer.clear();
        encoder.encode(i, &mut buffer);
        let text = std::str::from_utf8(&buffer).map_err(|e| Error::internal(format!("JSON is not UTF-8: {e}")))?;
        texts.append_value(text);
    }
    Ok(Column::Json(texts.finish()))
}

/// A batch ready to be written row by row.
pub struct Rows {
    columns: Vec<Column>,
    /// Number of rows.
    pub len: usize,
}

impl Rows {
    /// Looks at every column's type.
    pub fn new(batch: &RecordBatch) -> Result<Self> {
        let schema = batch.schema_ref();
        let columns =
            batch.columns().iter().zip(schema.fields()).map(|(a, f)| Column::new(f, a)).collect::<Result<_>>()?;
        Ok(Self { columns, len: batch.num_rows() })
    }
    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
    /// Appends row `i` as a DataRow message.
    pub fn data_row(&self, i: usize, formats: &[Format], out: &mut BytesMut) -> Result<()> {
        let start = out.len();
        out.put_u8(b'D');
        out.put_i32(0);
        out.put_i16(self.columns.len() as i16);
        for (c, f) in self.columns.iter().zip(formats) {
            if let Err(e) = c.value(i, *f, out) {
                out.truncate(start);
                return Err(e);
            }
        }
        match length(out.len() - start - 1) {
            Ok(len) => {
                out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
                Ok(())
            }
            Err(e) => {
                out.truncate(start);
                Err(e)
            }
        }
    }
}

/// The formats for a result set, one a column; a result has at most 1 664 columns, as in Postgres.
pub fn check_columns(schema: &SchemaRef) -> Result<()> {
    const COLUMNS_MAX: usize = 1664;
    if schema.fields().len() > COLUMNS_MAX {
        return Err(Error::new(
            SqlState("54011"),
            format!("target lists can have at most {COLUMNS_MAX} entries, this one has {}", schema.fields().len()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use arrow::datatypes::IntervalMonthDayNano;

    fn column(array: ArrayRef) -> Column {
        Column::new(&Field::new("c", array.data_type().clone(), true), &array).expect("column")
    }
    fn shown(array: impl Array + 'static) -> String {
        let c = column(Arc::new(array));
        let mut out = BytesMut::new();
        c.text(0, &mut out);
        String::from_utf8(out.to_vec()).expect("utf-8")
    }
    fn bin(array: impl Array + 'static) -> Vec<u8> {
        let c = column(Arc::new(array));
        let mut out = BytesMut::new();
        c.binary(0, &mut out).expect("binary");
        out.to_vec()
    }

    #[test]
    fn every_scalar_type_has_a_text_form() {
        assert_eq!(shown(BooleanArray::from(vec![true])), "t");
        assert_eq!(shown(Int8Array::from(vec![-3])), "-3");
        assert_eq!(shown(UInt8Array::from(vec![200])), "200");
        assert_eq!(shown(UInt32Array::from(vec![u32::MAX])), "4294967295");
        assert_eq!(shown(UInt64Array::from(vec![u64::MAX])), "18446744073709551615");
        assert_eq!(shown(Float32Array::from(vec![1.5])), "1.5");
        assert_eq!(shown(StringViewArray::from(vec!["a"])), "a");
        assert_eq!(shown(LargeStringArray::from(vec!["b"])), "b");
        assert_eq!(shown(BinaryViewArray::from(vec![b"\x01".as_slice()])), "\\x01");
        assert_eq!(shown(Date64Array::from(vec![86_400_000])), "1970-01-02");
        assert_eq!(shown(Time32SecondArray::from(vec![61])), "00:01:01");
        assert_eq!(shown(TimestampNanosecondArray::from(vec![1_500])), "1970-01-01 00:00:00.000001");
        assert_eq!(shown(TimestampMillisecondArray::from(vec![0]).with_timezone("UTC")), "1970-01-01 00:00:00+00");
        assert_eq!(shown(DurationSecondArray::from(vec![3_661])), "01:01:01");
        assert_eq!(shown(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, 0, 0)])), "1 mon");
        let dec = Decimal128Array::from(vec![-12345]).with_precision_and_scale(10, 2).expect("decimal");
        assert_eq!(shown(dec), "-123.45");
        let dict: DictionaryArray<dt::Int8Type> = vec!["x"].into_iter().collect();
        assert_eq!(shown(dict), "x");
    }

    #[test]
    fn arrays_quote_what_needs_it() {
        let mut b = ListBuilder::new(StringBuilder::new());
        b.append_value([Some("a"), None, Some("b c"), Some(""), Some("null"), Some("q\"\\")]);
        assert_eq!(shown(b.finish()), r#"{a,NULL,"b c","","null","q\"\\"}"#);
    }

    #[test]
    fn structs_are_json() {
        let s = StructArray::from(vec![
            (Arc::new(Field::new("a", DataType::Int32, true)), Arc::new(Int32Array::from(vec![1])) as ArrayRef),
            (Arc::new(Field::new("b", DataType::Utf8, true)), Arc::new(StringArray::from(vec![None::<&str>])) as _),
        ]);
        assert_eq!(shown(s), r#"{"a":1,"b":null}"#);
    }

    #[test]
    fn binary_forms_follow_postgres() {
        assert_eq!(bin(Int32Array::from(vec![1])), [0, 0, 0, 1]);
        assert_eq!(bin(Date32Array::from(vec![10_957])), [0; 4]);
        assert_eq!(bin(TimestampMicrosecondArray::from(vec![POSTGRES_EPOCH_US + 1])), 1i64.to_be_bytes());
        let mut list = ListBuilder::new(Int32Builder::new());
        list.append_value([Some(7), None]);
        assert_eq!(
            bin(list.finish()),
            [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255, 255]
        );
    }

    #[test]
    fn numeric_binary_splits_into_base_ten_thousand() {
        let check = |digits: &str, scale, expected: &[i16]| {
            let mut out = BytesMut::new();
            numeric_binary(digits, scale, &mut out);
            let words: Vec<i16> = out.chunks(2).map(|c| i16::from_be_bytes([c[0], c[1]])).collect();
            assert_eq!(words, expected, "{digits} scale {scale}");
        };
        check("12345", 2, &[2, 0, 0, 2, 123, 4500]);
        check("-5", 2, &[1, -1, 0x4000, 2, 500]);
        check("0", 2, &[0, 0, 0, 2]);
        check("10000", 0, &[1, 1, 0, 0, 1]);
        check("123456789", 0, &[3, 2, 0, 0, 1, 2345, 6789]);
        check("5", 6, &[1, -2, 0, 6, 500]);
        check("7", -4, &[1, 1, 0, 0, 7]);
    }

    #[test]
    fn a_row_has_lengths_and_nulls() {
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::Utf8, true),
        ]));
        let batch = RecordBatch::try_new(
            schema,
            vec![Arc::new(Int32Array::from(vec![5])), Arc::new(StringArray::from(vec![None::<&str>]))],
        )
        .expect("batch");
        let mut out = BytesMut::new();
        Rows::new(&batch).expect("rows").data_row(0, &[Format::Text, Format::Text], &mut out).expect("row");
        assert_eq!(&out[..], [b'D', 0, 0, 0, 15, 0, 2, 0, 0, 0, 1, b'5', 255, 255, 255, 255]);
    }

    #[test]
    fn format_codes_are_none_one_or_each() {
        assert_eq!(formats(&[], 2).expect("none"), [Format::Text; 2]);
        assert_eq!(formats(&[1], 2).expect("one"), [Format::Binary; 2]);
        assert_eq!(formats(&[1, 0], 2).expect("each"), [Format::Binary, Format::Text]);
        assert!(formats(&[1, 0, 0], 2).is_err());
        assert!(formats(&[2], 1).is_err());
    }
}
