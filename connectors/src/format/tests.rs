//! Tests of the decoders through the public interface.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};
use proptest::prelude::*;

use super::*;

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(n, t, null)| Field::new(*n, t.clone(), *null)).collect::<Vec<_>>()))
}

fn run(spec: &FormatSpec, schema: &SchemaRef, payloads: &[&[u8]]) -> Decoded {
    let records: Vec<Record<'_>> =
        payloads.iter().enumerate().map(|(i, p)| Record { payload: p, position: Position(i as u64 * 10) }).collect();
    let mut d = spec.decoder(schema.clone()).unwrap();
    let out = d.decode(&"0".into(), "topic", &records).unwrap();
    assert_eq!(out.rows.num_rows(), out.from.len());
    assert_eq!(out.from.len() + out.bad.len(), payloads.len());
    out
}

fn json(schema: &SchemaRef, texts: &[&str]) -> Decoded {
    let payloads: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
    run(&FormatSpec::new(Format::Json), schema, &payloads)
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

#[test]
fn poison_json_in_the_middle_leaves_the_good_rows_in_order() {
    let s = schema(&[("id", DataType::Int64, false), ("name", DataType::Utf8View, true)]);
    let d = json(
        &s,
        &[
            r#"{"id":1,"name":"a","extra":{"x":[1,"\n",null]}}"#,
            r#"{"id":2,"name":"b""#,
            r#"{"name":"c","id":3}"#,
            r#"{"id":"4"}"#,
            r#"{"name":"no id"}"#,
            "",
            "[1]",
            r#"{"id":5} {"id":6}"#,
            r#"{"id":7,"id":8}"#,
            r#"{"id":null}"#,
            r#" { "id" : 1.0e1 , "name" : "\u00e9\ud83d\ude00\"" } "#,
        ],
    );
    assert_eq!(d.from, vec![0, 2, 10]);
    assert_eq!(d.rows.column(0).as_primitive::<Int64Type>().values(), &[1, 3, 10]);
    assert_eq!(d.rows.column(1).as_string_view().value(2), "é😀\"");
    let bad: Vec<(u64, Option<&str>)> = d.bad.iter().map(|b| (b.position.0, b.column.as_deref())).collect();
    assert_eq!(
        bad,
        vec![
            (10, None),
            (30, Some("id")),
            (40, Some("id")),
            (50, None),
            (60, None),
            (70, None),
            (80, Some("id")),
            (90, Some("id"))
        ]
    );
    assert_eq!(d.bad[1].reason, "expected a bigint, got text \"4\"");
    assert!(d.bad[2].reason.contains("missing"));
    assert_eq!(d.bad[0].payload, br#"{"id":2,"name":"b""#);
}

#[test]
fn timestamps_come_as_iso_text_or_as_numbers_by_magnitude() {
    let s = schema(&[("t", instant(), true)]);
    let d = json(
        &s,
        &[
            r#"{"t":"2023-11-14T22:13:20Z"}"#,
            r#"{"t":"2023-11-14 22:13:20"}"#,
            r#"{"t":"2023-11-15T00:13:20+02:00"}"#,
            r#"{"t":1700000000}"#,
            r#"{"t":1700000000.0}"#,
            r#"{"t":1700000000000}"#,
            r#"{"t":1700000000000000}"#,
            r#"{"t":1700000000000000000}"#,
            r#"{"t":true}"#,
            r#"{"t":"soon"}"#,
        ],
    );
    let t = d.rows.column(0).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(t.len(), 8);
    assert!(t.values().iter().all(|v| *v == 1_700_000_000_000_000), "{t:?}");
    let mut spec = FormatSpec::new(Format::Json);
    spec.timestamps = TimestampFormat::Iso;
    assert_eq!(run(&spec, &s, &[br#"{"t":1700000000}"#]).bad.len(), 1);
    spec.timestamps = TimestampFormat::Millis;
    let d = run(&spec, &s, &[br#"{"t":5}"#]);
    assert_eq!(d.rows.column(0).as_primitive::<TimestampMicrosecondType>().value(0), 5000);
}

#[test]
fn nested_columns_stay_whole_when_a_fault_strikes_inside_them() {
    let item = Field::new("item", DataType::Int32, false);
    let inner = DataType::Struct(vec![Field::new("n", DataType::Int32, false)].into());
    let entries = Field::new(
        "entries",
        DataType::Struct(
            vec![Field::new("keys", DataType::Utf8View, false), Field::new("values", DataType::Int64, true)].into(),
        ),
        false,
    );
    let s = schema(&[
        ("l", DataType::List(Arc::new(item)), true),
        ("o", inner, false),
        ("m", DataType::Map(Arc::new(entries), false), true),
        ("j", DataType::Utf8View, true),
        ("d", DataType::Decimal128(10, 2), true),
    ]);
    let d = json(
        &s,
        &[
            r#"{"l":[1,2],"o":{"n":1},"m":{"a":1,"b":null},"j":{"k": [1]},"d":"12.34"}"#,
            r#"{"l":[1,null],"o":{"n":1}}"#,
            r#"{"l":[3],"o":{"n":"x"}}"#,
            r#"{"l":[3],"o":{}}"#,
            r#"{"o":{"n":2},"m":{"a":"x"}}"#,
            r#"{"l":null,"o":{"n":2},"d":1.5}"#,
        ],
    );
    assert_eq!(d.from, vec![0, 5]);
    let columns: Vec<Option<&str>> = d.bad.iter().map(|b| b.column.as_deref()).collect();
    assert_eq!(columns, vec![Some("l"), Some("o.n"), Some("o.n"), Some("m")]);
    assert_eq!(d.rows.column(0).as_list::<i32>().value(0).as_primitive::<Int32Type>().values(), &[1, 2]);
    assert!(d.rows.column(0).is_null(1));
    assert_eq!(d.rows.column(3).as_string_view().value(0), r#"{"k": [1]}"#);
    assert_eq!(d.rows.column(4).as_primitive::<Decimal128Type>().values(), &[1234, 150]);
}

#[test]
fn csv_fields_follow_quotes_and_the_null_text() {
    let s = schema(&[("i", DataType::Int32, false), ("t", DataType::Utf8View, true), ("b", DataType::Boolean, true)]);
    let lines: Vec<&[u8]> = vec![
        b"1,\"a,\"\"b\"\"\",true\r\n",
        b"2,,f",
        b"3,\"\",",
        b"x,y,t",
        b"4,only two",
        b"5,\"open,t",
        b",q,t",
        b"\xff,q,t",
        b"6,z,t",
    ];
    let d = run(&FormatSpec::new(Format::Csv), &s, &lines);
    assert_eq!(d.from, vec![0, 1, 2, 8]);
    let t = d.rows.column(1).as_string_view();
    assert_eq!((t.value(0), t.is_null(1), t.value(2)), ("a,\"b\"", true, ""));
    assert_eq!(d.bad[0].column.as_deref(), Some("i"));
    assert_eq!(d.bad[3].reason, "value is null, and the column is NOT NULL");
}

#[test]
fn raw_takes_text_or_bytes() {
    let d = run(&FormatSpec::new(Format::Raw), &schema(&[("x", DataType::Utf8View, false)]), &[b"a", b"\xff", b"b"]);
    assert_eq!(d.from, vec![0, 2]);
    let d = run(&FormatSpec::new(Format::Raw), &schema(&[("x", DataType::BinaryView, false)]), &[b"a", b"\xff"]);
    assert_eq!(d.from, vec![0, 1]);
    let two = schema(&[("x", DataType::Utf8View, false), ("y", DataType::Utf8View, false)]);
    assert!(FormatSpec::new(Format::Raw).decoder(two).is_err());
}

#[test]
fn reports_are_cut_to_their_limit() {
    let s = schema(&[("i", DataType::Int64, false)]);
    let long = format!("{{\"i\":\"{}\"}}", "é".repeat(5000));
    let d = json(&s, &[&long]);
    assert!(d.bad[0].reason.len() <= REPORT_LIMIT && d.bad[0].payload.len() == REPORT_LIMIT);
    let deep = "{\"x\":".repeat(100_000);
    assert!(json(&s, &[&deep]).bad[0].reason.contains("too deep"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_comes_every_record_is_a_row_or_bad(
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        cuts in proptest::collection::vec((0usize..70, any::<u8>()), 0..20),
    ) {
        let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, false)));
        let nested = DataType::Struct(vec![Field::new("n", DataType::Utf8View, false)].into());
        let s = schema(&[("i", DataType::Int64, false), ("t", instant(), true), ("l", list, false), ("o", nested, true)]);
        let whole = r#"{"i":1,"t":"2024-01-01T00:00:00Z","l":[1,2],"o":{"n":"\u0041"}}"#.as_bytes();
        let mut payloads = noise.clone();
        for (at, byte) in cuts {
            let mut broken = whole.to_vec();
            if let Some(b) = broken.get_mut(at) { *b = byte; } else { broken.truncate(at / 2); }
            payloads.push(broken);
            payloads.push(whole.to_vec());
        }
        let refs: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        run(&FormatSpec::new(Format::Json), &s, &refs);
        let flat = schema(&[("a", DataType::Int64, false), ("b", DataType::Utf8View, true)]);
        run(&FormatSpec::new(Format::Csv), &flat, &refs);
    }
}
