//! Parameters of a Bind message to scalar values, text and binary.

use std::sync::Arc;

use arrow::array::StringArray;
use arrow::datatypes::{DataType, IntervalMonthDayNano};
use bytes::Buf as _;
use datafusion::common::ScalarValue;
use millstream::error::{Error, Result, SqlState};

use super::encode::Format;
use super::guard::protocol_violation;
use super::types::{self, oid};

/// The value of parameter `$n` of Postgres type `type_oid`; `wanted` is the type the planner inferred.
pub fn decode(
    n: usize,
    bytes: Option<&[u8]>,
    format: Format,
    type_oid: u32,
    wanted: Option<&DataType>,
) -> Result<ScalarValue> {
    let unknown = || {
        Error::unsupported(format!(
            "parameter ${n} has type {}, which is not supported",
            types::format_type(type_oid, -1)
        ))
        .hint(format!("Send the parameter as text and cast it: ${n}::text."))
    };
    let Some(bytes) = bytes else {
        let t = wanted.cloned().or_else(|| types::arrow_of(type_oid)).unwrap_or(DataType::Utf8);
        return ScalarValue::try_from(&t).map_err(|e| Error::internal(e.to_string()));
    };
    let value = match format {
        Format::Text => text(n, bytes, type_oid, wanted).unwrap_or_else(|| Err(unknown()))?,
        Format::Binary => {
            let mut b = bytes;
            let v = binary(&mut b, type_oid).unwrap_or_else(|| Err(unknown()))?;
            if !b.is_empty() {
                return Err(bad_binary(n));
            }
            v
        }
    };
    match wanted {
        Some(t) if *t != value.data_type() => value.cast_to(t).map_err(|_| {
            Error::new(SqlState::INVALID_PARAMETER_VALUE, format!("parameter ${n} does not fit type {}", shown(t)))
        }),
        _ => Ok(value),
    }
}

fn bad_binary(n: usize) -> Error {
    Error::new(SqlState("22P03"), format!("incorrect binary data format in bind parameter {n}"))
}

fn shown(t: &DataType) -> String {
    let p = types::of(t);
    types::format_type(p.oid, p.modifier)
}

/// The text of a value as an Arrow type, by Arrow's parser.
pub fn parse_text(text: &str, t: &DataType) -> Result<ScalarValue> {
    let bad = || {
        Error::new(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type {}: \"{}\"", shown(t), text.chars().take(200).collect::<String>()),
        )
    };
    match t {
        DataType::Utf8 => return Ok(ScalarValue::Utf8(Some(text.to_owned()))),
        DataType::Binary => {
            return super::copy::parse_bytea(text).map(|b| ScalarValue::Binary(Some(b))).ok_or_else(bad);
        }
        DataType::Boolean => {
            return super::copy::parse_bool(text).map(|b| ScalarValue::Boolean(Some(b))).ok_or_else(bad);
        }
        _ => {}
    }
    let array: arrow::array::ArrayRef = Arc::new(StringArray::from(vec![text.trim()]));
    let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
    let cast = arrow::compute::cast_with_options(&array, t, &options).map_err(|_| bad())?;
    ScalarValue::try_from_array(&cast, 0).map_err(|e| Error::internal(e.to_string()))
}

/// `None`: a type we do not know.
fn text(n: usize, bytes: &[u8], type_oid: u32, wanted: Option<&DataType>) -> Option<Result<ScalarValue>> {
    let Ok(s) = std::str::from_utf8(bytes) else {
        return Some(Err(Error::new(
            SqlState("22021"),
            format!("invalid byte sequence for encoding \"UTF8\" in parameter ${n}"),
        )));
    };
    if type_oid == oid::NUMERIC {
        return Some(match wanted {
            Some(t @ (DataType::Decimal128(..) | DataType::Decimal256(..))) => parse_text(s, t),
            _ => parse_text(s, &decimal_type_of(s)),
        });
    }
    let t = types::arrow_of(type_oid)?;
    if let DataType::List(f) = &t {
        let element = f.data_type().clone();
        let bad = || Error::new(SqlState::INVALID_TEXT_REPRESENTATION, format!("malformed array literal: \"{s}\""));
        let values = match array_elements(s) {
            None => return Some(Err(bad())),
            Some(v) => v,
        };
        let values: Result<Vec<ScalarValue>> = values
            .into_iter()
            .map(|v| match v {
                Some(v) => parse_text(&v, &element),
                None => ScalarValue::try_from(&element).map_err(|e| Error::internal(e.to_string())),
            })
            .collect();
        return Some(values.map(|v| ScalarValue::List(ScalarValue::new_list_nullable(&v, &element))));
    }
    Some(parse_text(s, &t))
}

/// The decimal type that holds the number as written.
fn decimal_type_of(s: &str) -> DataType {
    let s = s.trim().trim_start_matches(['+', '-']);
    let (int, frac) = s.split_once('.').unwrap_or((s, ""));
    let digits = |x: &str| x.bytes().take_while(u8::is_ascii_digit).count();
    let scale = digits(frac);
    let precision = (digits(int) + scale).clamp(1, 76);
    let scale = scale.min(precision);
    if precision <= 38 {
        DataType::Decimal128(precision as u8, scale as i8)
    } else {
        DataType::Decimal256(precision as u8, scale as i8)
    }
}

/// The elements of `{a,NULL,"b c"}`; `None` if it is not a one-dimensional array.
pub fn array_elements(s: &str) -> Option<Vec<Option<String>>> {
    let inner = s.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut out = Vec::new();
    if inner.trim().is_empty() {
        return Some(out);
    }
    let mut chars = inner.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'"').is_some() {
            let mut v = String::new();
            loop {
                match chars.next()? {
                    '\\' => v.push(chars.next()?),
                    '"' => break,
                    c => v.push(c),
                }
            }
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            out.push(Some(v));
        } else {
            let mut v = String::new();
            while let Some(c) = chars.next_if(|c| *c != ',') {
                match c {
                    '{' | '}' | '"' => return None,
                    '\\' => v.push(chars.next()?),
                    c => v.push(c),
                }
            }
            let v = v.trim_end();
            if v.is_empty() {
                return None;
            }
            out.push((!v.eq_ignore_ascii_case("null")).then(|| v.to_owned()));
        }
        match chars.next() {
            None => return Some(out),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

fn take<const N: usize>(b: &mut &[u8]) -> Result<[u8; N]> {
    let Some((head, tail)) = b.split_first_chunk::<N>() else {
        return Err(Error::new(SqlState("22P03"), "insufficient data left in a binary parameter"));
    };
    *b = tail;
    Ok(*head)
}

/// Consumes the whole of `b` for types of variable length. `None`: a type we do not know.
fn binary(b: &mut &[u8], type_oid: u32) -> Option<Result<ScalarValue>> {
    fn rest_as_text(b: &mut &[u8]) -> Result<ScalarValue> {
        let s = std::str::from_utf8(b)
            .map_err(|_| Error::new(SqlState("22021"), "invalid byte sequence for encoding \"UTF8\""))?
            .to_owned();
        *b = &[];
        Ok(ScalarValue::Utf8(Some(s)))
    }
    let v = match type_oid {
        oid::BOOL => take::<1>(b).map(|v| ScalarValue::Boolean(Some(v[0] != 0))),
        oid::INT2 => take(b).map(|v| ScalarValue::Int16(Some(i16::from_be_bytes(v)))),
        oid::INT4 => take(b).map(|v| ScalarValue::Int32(Some(i32::from_be_bytes(v)))),
        oid::OID => take(b).map(|v| ScalarValue::Int64(Some(i64::from(u32::from_be_bytes(v))))),
        oid::INT8 => take(b).map(|v| ScalarValue::Int64(Some(i64::from_be_bytes(v)))),
        oid::FLOAT4 => take(b).map(|v| ScalarValue::Float32(Some(f32::from_be_bytes(v)))),
        oid::FLOAT8 => take(b).map(|v| ScalarValue::Float64(Some(f64::from_be_bytes(v)))),
        oid::DATE => take(b).map(|v| ScalarValue::Date32(Some(i32::from_be_bytes(v).saturating_add(10_957)))),
        oid::TIME => take(b).map(|v| ScalarValue::Time64Microsecond(Some(i64::from_be_bytes(v)))),
        oid::TIMESTAMP | oid::TIMESTAMPTZ => take(b).and_then(|v| {
            let us = i64::from_be_bytes(v)
                .checked_add(946_684_800_000_000)
                .ok_or_else(|| Error::new(SqlState("22008"), "timestamp out of range"))?;
            let tz = (type_oid == oid::TIMESTAMPTZ).then(|| "UTC".into());
            Ok(ScalarValue::TimestampMicrosecond(Some(us), tz))
        }),
        oid::INTERVAL => take::<16>(b).and_then(|v| {
            let mut v = v.as_slice();
            let (us, days, months) = (v.get_i64(), v.get_i32(), v.get_i32());
            let ns = us.checked_mul(1000).ok_or_else(|| Error::new(SqlState("22008"), "interval out of range"))?;
            Ok(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(months, days, ns))))
        }),
        oid::BYTEA => {
            let v = b.to_vec();
            *b = &[];
            Ok(ScalarValue::Binary(Some(v)))
        }
        oid::UUID => take::<16>(b).map(|v| {
            let h: String = v.iter().map(|x| format!("{x:02x}")).collect();
            let dashed = format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]);
            ScalarValue::Utf8(Some(dashed))
        }),
        oid::JSONB => match take::<1>(b) {
            Ok([1]) => rest_as_text(b),
            Ok(_) => Err(Error::new(SqlState("22P03"), "unsupported jsonb version number")),
            Err(e) => Err(e),
        },
        oid::NUMERIC => numeric(b),
        0 | oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::CHAR | oid::UNKNOWN | oid::JSON => {
            rest_as_text(b)
        }
        array => {
            let DataType::List(f) = types::arrow_of(array)? else { return None };
            list(b, types::element_of(array)?, f.data_type())
        }
    };
    Some(v)
}

fn list(b: &mut &[u8], element: u32, arrow: &DataType) -> Result<ScalarValue> {
    let dims = i32::from_be_bytes(take(b)?);
    let _has_nulls: [u8; 4] = take(b)?;
    let sent = u32::from_be_bytes(take(b)?);
    if !(0..=1).contains(&dims) {
        return Err(Error::unsupported("arrays of more than one dimension are not supported as parameters"));
    }
    if sent != element {
        return Err(protocol_violation("the elements of an array parameter are not of the declared type"));
    }
    let mut values = Vec::new();
    if dims == 1 {
        let n = i32::from_be_bytes(take(b)?);
        let _lower: [u8; 4] = take(b)?;
        for _ in 0..n {
            let len = i32::from_be_bytes(take(b)?);
            let Ok(len) = usize::try_from(len) else {
                values.push(ScalarValue::try_from(arrow).map_err(|e| Error::internal(e.to_string()))?);
                continue;
            };
            if b.len() < len {
                return Err(Error::new(SqlState("22P03"), "insufficient data left in a binary parameter"));
            }
            let (mut head, tail) = b.split_at(len);
            *b = tail;
            let v = binary(&mut head, element).unwrap_or_else(|| Err(Error::internal("array of unknown type")))?;
            if !head.is_empty() {
                return Err(Error::new(SqlState("22P03"), "an array element has the wrong length"));
            }
            values.push(v);
        }
    }
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&values, arrow)))
}

/// Binary numeric to the decimal type that holds it, by way of its text.
fn numeric(b: &mut &[u8]) -> Result<ScalarValue> {
    let n = i16::from_be_bytes(take(b)?);
    let weight = i16::from_be_bytes(take(b)?);
    let sign = u16::from_be_bytes(take(b)?);
    let dscale = u16::from_be_bytes(take(b)?);
    let negative = match sign {
        0 => false,
        0x4000 => true,
        _ => return Err(Error::unsupported("NaN and infinity are not supported in numeric parameters")),
    };
    let too_large = || Error::new(SqlState::NUMERIC_OUT_OF_RANGE, "a numeric parameter has more than 76 digits");
    if n < 0 || dscale > 76 || !(-20..20).contains(&weight) || n > 40 {
        return Err(too_large());
    }
    let mut all = String::new();
    for _ in 0..n {
        let d = u16::from_be_bytes(take(b)?);
        if d > 9999 {
            return Err(Error::new(SqlState("22P03"), "invalid digit in a binary numeric"));
        }
        all.push_str(&format!("{d:04}"));
    }
    // The groups of digits with the point after the first `weight + 1` of them.
    let point = (i32::from(weight) + 1) * 4;
    let (int, mut frac) = match usize::try_from(point) {
        Err(_) | Ok(0) => (String::new(), "0".repeat(point.unsigned_abs() as usize) + &all),
        Ok(p) if p >= all.len() => (all.clone() + &"0".repeat(p - all.len()), String::new()),
        Ok(p) => (all[..p].to_owned(), all[p..].to_owned()),
    };
    let scale = usize::from(dscale);
    frac.truncate(scale);
    frac.push_str(&"0".repeat(scale - frac.len()));
    let int = int.trim_start_matches('0');
    let sign = if negative { "-" } else { "" };
    let int = if int.is_empty() { "0" } else { int };
    let text = if scale > 0 { format!("{sign}{int}.{frac}") } else { format!("{sign}{int}") };
    parse_text(&text, &decimal_type_of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txt(s: &str, t: u32) -> ScalarValue {
        decode(1, Some(s.as_bytes()), Format::Text, t, None).expect("text")
    }
    fn bin(b: &[u8], t: u32) -> ScalarValue {
        decode(1, Some(b), Format::Binary, t, None).expect("binary")
    }

    #[test]
    fn text_and_binary_give_the_same_value() {
        assert_eq!(txt("42", oid::INT4), bin(&42i32.to_be_bytes(), oid::INT4));
        assert_eq!(txt("-1", oid::INT8), bin(&(-1i64).to_be_bytes(), oid::INT8));
        assert_eq!(txt("t", oid::BOOL), bin(&[1], oid::BOOL));
        assert_eq!(txt("1.5", oid::FLOAT8), bin(&1.5f64.to_be_bytes(), oid::FLOAT8));
        assert_eq!(txt("NaN", oid::FLOAT8).to_string(), "NaN");
        assert_eq!(txt("2000-01-01", oid::DATE), bin(&[0; 4], oid::DATE));
        assert_eq!(txt("2000-01-01 00:00:00", oid::TIMESTAMP), bin(&[0; 8], oid::TIMESTAMP));
        assert_eq!(txt("2000-01-01 00:00:00+00", oid::TIMESTAMPTZ), bin(&[0; 8], oid::TIMESTAMPTZ));
        assert_eq!(txt("\\x00ff", oid::BYTEA), bin(&[0, 255], oid::BYTEA));
        assert_eq!(txt("abc", oid::TEXT), bin(b"abc", oid::TEXT));
        let array = [0u32, 0, 23].iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<_>>();
        assert_eq!(txt("{}", 1007), bin(&array, 1007));
    }

    #[test]
    fn numerics_survive_both_forms() {
        let words = |w: &[i16]| w.iter().flat_map(|x| x.to_be_bytes()).collect::<Vec<_>>();
        for (w, s) in [
            (vec![2i16, 0, 0, 2, 123, 4500], "123.45"),
            (vec![1, -1, 0x4000, 2, 500], "-0.05"),
            (vec![0, 0, 0, 2], "0.00"),
            (vec![1, 1, 0, 0, 1], "10000"),
            (vec![1, -2, 0, 6, 500], "0.000005"),
            (vec![3, 2, 0, 0, 1, 2345, 6789], "123456789"),
        ] {
            assert_eq!(bin(&words(&w), oid::NUMERIC), txt(s, oid::NUMERIC), "{s}");
        }
    }

    #[test]
    fn arrays_are_read_with_quotes_and_nulls() {
        assert_eq!(
            array_elements(r#"{a, "b \"c", NULL,"null"}"#).expect("array"),
            [Some("a".to_owned()), Some("b \"c".to_owned()), None, Some("null".to_owned())]
        );
        for bad in ["", "{", "{a,}", "{{1},{2}}", "{\"a}", "{\"a\"b}"] {
            assert!(array_elements(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn bad_values_have_a_sqlstate() {
        let e = decode(1, Some(b"abc"), Format::Text, oid::INT4, None).expect_err("not a number");
        assert_eq!((e.code.0, e.message.as_str()), ("22P02", "invalid input syntax for type integer: \"abc\""));
        assert_eq!(decode(1, Some(&[1, 2]), Format::Binary, oid::INT4, None).expect_err("short").code.0, "22P03");
        assert_eq!(decode(1, Some(&[0; 5]), Format::Binary, oid::INT4, None).expect_err("long").code.0, "22P03");
        assert_eq!(decode(1, Some(b"x"), Format::Binary, 600, None).expect_err("point").code.0, "0A000");
        let e = decode(2, Some(&300i32.to_be_bytes()), Format::Binary, oid::INT4, Some(&DataType::Int8));
        assert_eq!(e.expect_err("too big").code.0, "22023");
    }

    #[test]
    fn null_has_the_wanted_type() {
        let v = decode(1, None, Format::Text, 0, Some(&DataType::Int64)).expect("null");
        assert_eq!(v, ScalarValue::Int64(None));
    }
}
