//! Schema inference from a sample of records.
//!
//! Whole numbers become Int64, other numbers Float64, text Utf8View, text that is always an ISO date and time with a
//! `T` or a space becomes a timestamp with zone. A field that comes with types that do not go together is text; a
//! field that is only ever null is text. All columns may be NULL. Records that do not parse are left out.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::column::iso;
use super::csv::split_line;
use super::{Format, FormatSpec};
use crate::{ConnectorError, Result};

/// What is known of a value's type.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Null,
    Bool,
    Int,
    Float,
    Instant,
    Text,
    List(Box<Shape>),
    Object(Vec<(String, Shape)>),
}

impl Shape {
    fn merge(self, other: Shape) -> Shape {
        match (self, other) {
            (Shape::Null, s) | (s, Shape::Null) => s,
            (Shape::Int, Shape::Float) | (Shape::Float, Shape::Int) => Shape::Float,
            (Shape::List(a), Shape::List(b)) => Shape::List(Box::new(a.merge(*b))),
            (Shape::Object(mut a), Shape::Object(b)) => {
                for (i, (name, shape)) in b.into_iter().enumerate() {
                    // Objects mostly have the same fields in the same order.
                    let at = match a.get(i) {
                        Some((n, _)) if *n == name => Some(i),
                        _ => a.iter().position(|(n, _)| *n == name),
                    };
                    match at {
                        Some(at) => {
                            let old = std::mem::replace(&mut a[at].1, Shape::Null);
                            a[at].1 = old.merge(shape);
                        }
                        None => a.push((name, shape)),
                    }
                }
                Shape::Object(a)
            }
            (a, b) if a == b => a,
            _ => Shape::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Shape::Bool => DataType::Boolean,
            Shape::Int => DataType::Int64,
            Shape::Float => DataType::Float64,
            Shape::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Shape::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type(), true))),
            Shape::Object(fields) if !fields.is_empty() => DataType::Struct(fields_of(fields)),
            Shape::Null | Shape::Text | Shape::Object(_) => DataType::Utf8View,
        }
    }
}

fn fields_of(fields: Vec<(String, Shape)>) -> Fields {
    fields.into_iter().map(|(name, shape)| Field::new(name, shape.data_type(), true)).collect()
}

fn text_shape(s: &str) -> Shape {
    if s.len() >= 16 && matches!(s.as_bytes()[10], b'T' | b' ') && iso(s).is_some() {
        Shape::Instant
    } else {
        Shape::Text
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Shape;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> std::result::Result<Shape, E> {
                Ok(Shape::Null)
            }
            fn visit_bool<E>(self, _: bool) -> std::result::Result<Shape, E> {
                Ok(Shape::Bool)
            }
            fn visit_i64<E>(self, _: i64) -> std::result::Result<Shape, E> {
                Ok(Shape::Int)
            }
            fn visit_u64<E>(self, v: u64) -> std::result::Result<Shape, E> {
                Ok(if i64::try_from(v).is_ok() { Shape::Int } else { Shape::Float })
            }
            fn visit_f64<E>(self, _: f64) -> std::result::Result<Shape, E> {
                Ok(Shape::Float)
            }
            fn visit_str<E>(self, s: &str) -> std::result::Result<Shape, E> {
                Ok(text_shape(s))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> std::result::Result<Shape, A::Error> {
                let mut item = Shape::Null;
                while let Some(s) = a.next_element::<Shape>()? {
                    item = item.merge(s);
                }
                Ok(Shape::List(Box::new(item)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> std::result::Result<Shape, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = a.next_entry::<String, Shape>()? {
                    fields.push(entry);
                }
                Ok(Shape::Object(Vec::new()).merge(Shape::Object(fields)))
            }
        }
        d.deserialize_any(V)
    }
}

/// Infers the schema of JSON, CSV or raw records. For CSV with `header`, the first record names the columns.
pub fn infer_schema<'a>(spec: &FormatSpec, records: impl IntoIterator<Item = &'a [u8]>) -> Result<SchemaRef> {
    let records = records.into_iter();
    let fields = match spec.format {
        Format::Json => json(records),
        Format::Csv => csv(spec, records),
        Format::Raw => Fields::from(vec![Field::new("line", DataType::Utf8View, true)]),
        Format::Parquet => return Err(ConnectorError::bug("parquet files carry their schema")),
    };
    if fields.is_empty() {
        return Err(ConnectorError::config(format!("cannot infer columns: no {} record found", spec.format.name()))
            .hint("Declare the columns."));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn json<'a>(records: impl Iterator<Item = &'a [u8]>) -> Fields {
    let mut all = Shape::Object(Vec::new());
    for record in records {
        if let Ok(object @ Shape::Object(_)) = serde_json::from_slice(record) {
            all = all.merge(object);
        }
    }
    match all {
        Shape::Object(fields) => fields_of(fields),
        _ => Fields::empty(),
    }
}

fn csv<'a>(spec: &FormatSpec, records: impl Iterator<Item = &'a [u8]>) -> Fields {
    let mut names: Option<Vec<String>> = None;
    let mut shapes: Vec<Shape> = Vec::new();
    let mut fields = Vec::new();
    for (i, record) in records.enumerate() {
        let Ok(line) = std::str::from_utf8(record) else { continue };
        let Ok(count) = split_line(line, spec.delimiter, &mut fields) else { continue };
        if i == 0 {
            shapes = vec![Shape::Null; count];
            if spec.header {
                names = Some(fields[..count].iter().map(|(n, _)| n.trim().to_owned()).collect());
                continue;
            }
        }
        if count != shapes.len() {
            continue;
        }
        for ((text, quoted), shape) in fields[..count].iter().zip(&mut shapes) {
            if *quoted || *text != spec.null {
                let old = std::mem::replace(shape, Shape::Null);
                *shape = old.merge(untyped_shape(text.trim()));
            }
        }
    }
    let name = |i: usize| match &names {
        Some(n) => n[i].clone(),
        None => format!("column{}", i + 1),
    };
    shapes.into_iter().enumerate().map(|(i, s)| Field::new(name(i), s.data_type(), true)).collect()
}

fn untyped_shape(text: &str) -> Shape {
    if text.parse::<i64>().is_ok() {
        Shape::Int
    } else if text.parse::<f64>().is_ok() {
        Shape::Float
    } else if matches!(text.to_ascii_lowercase().as_str(), "true" | "false") {
        Shape::Bool
    } else {
        text_shape(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn infer(spec: &FormatSpec, lines: &[&str]) -> String {
        let s = infer_schema(spec, lines.iter().map(|l| l.as_bytes())).unwrap();
        s.fields().iter().map(|f| format!("{}:{}", f.name(), f.data_type())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn json_types_merge_in_order_of_appearance() {
        let spec = FormatSpec::new(Format::Json);
        let got = infer(
            &spec,
            &[
                r#"{"b":1,"a":"x","f":1,"t":"2024-01-02T03:04:05Z","n":null,"o":{"k":true}}"#,
                "garbage",
                r#"{"b":2,"f":1.5,"t":"2024-01-02 03:04:05","l":[1,2.5],"o":{"j":[]},"m":1}"#,
                r#"{"m":"x"}"#,
            ],
        );
        assert!(got.starts_with("b:Int64 a:Utf8View f:Float64 t:Timestamp(µs, \"UTC\") n:Utf8View o:Struct("), "{got}");
        assert!(got.contains("l:List(Float64)") && got.ends_with("m:Utf8View"), "{got}");
    }

    #[test]
    fn csv_columns_are_named_by_header_or_number() {
        let mut spec = FormatSpec::new(Format::Csv);
        assert_eq!(infer(&spec, &["1,x,true", "2,,false"]), "column1:Int64 column2:Utf8View column3:Boolean");
        spec.header = true;
        assert_eq!(infer(&spec, &["id,price", "1,2", ",2.5"]), "id:Int64 price:Float64");
        assert!(infer_schema(&FormatSpec::new(Format::Json), [b"[]".as_slice()]).is_err());
    }
}
