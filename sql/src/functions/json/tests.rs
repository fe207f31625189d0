//! Every operator and function against what PostgreSQL 17 answers.

use arrow::array::Array as _;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::prelude::SessionContext;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::error::SqlError;
use crate::session::{from_datafusion, plan_query, session_state};

fn shown(e: SqlError) -> String {
    format!("{} {}", e.code.0, e.message)
}

/// The first column of a query, as text.
async fn column(sql: &str) -> Result<Vec<Option<String>>, String> {
    let query =
        Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).unwrap().parse_query().map_err(|e| e.to_string())?;
    let state = session_state(1);
    let plan = plan_query(&state, &query, sql).await.map_err(shown)?;
    let context = SessionContext::new_with_state(state);
    let run = context.execute_logical_plan(plan).await.map_err(|e| shown(from_datafusion(e)))?;
    let mut out = Vec::new();
    for batch in run.collect().await.map_err(|e| shown(from_datafusion(e)))? {
        let text = cast(batch.column(0), &DataType::Utf8).map_err(|e| e.to_string())?;
        let text = text.as_any().downcast_ref::<arrow::array::StringArray>().unwrap();
        out.extend((0..text.len()).map(|i| text.is_valid(i).then(|| text.value(i).to_owned())));
    }
    Ok(out)
}

async fn value(sql: &str) -> String {
    match column(&format!("SELECT {sql}")).await {
        Ok(v) => v[0].clone().unwrap_or_else(|| "NULL".into()),
        Err(e) => format!("ERROR {e}"),
    }
}

async fn check(cases: &[(&str, &str)]) {
    for (sql, expected) in cases {
        assert_eq!(value(sql).await, *expected, "{sql}");
    }
}

#[tokio::test]
async fn operators_look_into_json() {
    check(&[
        (r#"'{"a":{"b":[1,2,{"c":"x"}]}}' -> 'a'"#, r#"{"b":[1,2,{"c":"x"}]}"#),
        (r#"'[10,20,30]' -> 1"#, "20"),
        (r#"'[10,20,30]' -> -1"#, "30"),
        (r#"'[10,20,30]' -> 3"#, "NULL"),
        (r#"'[10,20,30]' -> 'a'"#, "NULL"),
        (r#"'{"a":1}' -> 0"#, "NULL"),
        (r#"'{"a":"x\ty"}' ->> 'a'"#, "x\ty"),
        (r#"'{"a":null}' ->> 'a'"#, "NULL"),
        (r#"'{"a":null}' -> 'a'"#, "null"),
        (r#"'{"a":1,"a":2}' ->> 'a'"#, "2"),
        (r#"'{"a":{"b":[1,2,{"c":"x"}]}}' #> '{a,b,2}'"#, r#"{"c":"x"}"#),
        (r#"'{"a":{"b":[1,2,{"c":"x"}]}}' #>> '{a,b,2,c}'"#, "x"),
        (r#"'{"a":{"b":[1,2]}}' #>> ARRAY['a','b','-1']"#, "2"),
        (r#"('{"a":{"b":5}}' -> 'a' ->> 'b')::int + 1"#, "6"),
        ("NULL::json -> 'a'", "NULL"),
        (r#"json_extract_path('{"a":[1,{"b":2}]}', 'a', '1', 'b')"#, "2"),
        (r#"jsonb_extract_path_text('{"a":"x"}', 'a')"#, "x"),
        ("json_typeof('[1]')", "array"),
        ("jsonb_typeof('null')", "null"),
        ("jsonb_typeof('-1.5')", "number"),
        ("json_array_length('[1,[2,3],{}]')", "3"),
        ("json_array_length('{}')", "ERROR 22023 cannot get array length of a non-array"),
    ])
    .await;
}

#[tokio::test]
async fn containment_and_existence() {
    check(&[
        (r#"'{"a":1,"b":{"c":[1,2]}}' @> '{"b":{"c":[2]}}'"#, "true"),
        (r#"'[1,2,3]' @> '[3,1,1]'"#, "true"),
        (r#"'[1,2]' @> '1'"#, "true"),
        (r#"'1' @> '[1]'"#, "false"),
        (r#"'{"a":1}' @> '{"a":1.0}'"#, "true"),
        (r#"'{"a":[1]}' @> '{"a":1}'"#, "false"),
        (r#"'{"a":1}' <@ '{"a":1,"b":2}'"#, "true"),
        (r#"jsonb_exists('{"a":1}', 'a')"#, "true"),
        (r#"jsonb_exists('["a"]', 'a')"#, "true"),
        (r#"jsonb_exists_any('{"a":1}', ARRAY['x','a'])"#, "true"),
        (r#"jsonb_exists_all('{"a":1}', ARRAY['x','a'])"#, "false"),
    ])
    .await;
}

#[tokio::test]
async fn casts_check_and_jsonb_is_canonical() {
    check(&[
        (r#"'{"b":1, "a":2,"b":3}'::jsonb"#, r#"{"a": 2, "b": 3}"#),
        (r#"'{"b":1, "a":2}'::json"#, r#"{"b":1, "a":2}"#),
        (r#"CAST(' 1e3 ' AS jsonb)"#, "1000"),
        (r#"'{"a":1}'::jsonb = '{ "a" : 1 }'::jsonb"#, "true"),
        ("'{a}'::jsonb", "ERROR 22P02 invalid input syntax for type json"),
    ])
    .await;
}

#[tokio::test]
async fn changes_give_canonical_jsonb() {
    check(&[
        (r#"'{"b":1}'::jsonb || '{"a":2,"b":3}'"#, r#"{"a": 2, "b": 3}"#),
        (r#"'[1]'::jsonb || '2'::jsonb"#, "[1, 2]"),
        ("'a' || 'b'", "ab"),
        (r#"'{"a":1,"b":2}'::jsonb - 'a'"#, r#"{"b": 2}"#),
        (r#"'["a","b","a"]'::jsonb - 'a'"#, r#"["b"]"#),
        (r#"'[1,2,3]'::jsonb - -1"#, "[1, 2]"),
        (r#"'{"a":1,"b":2,"c":3}'::jsonb - ARRAY['a','c']"#, r#"{"b": 2}"#),
        (r#"'{"a":{"b":1,"c":2}}'::jsonb #- '{a,b}'"#, r#"{"a": {"c": 2}}"#),
        (r#"jsonb_set('{"a":{"b":1}}', '{a,b}', '[2]')"#, r#"{"a": {"b": [2]}}"#),
        (r#"jsonb_set('{"a":1}', '{b}', '2', false)"#, r#"{"a": 1}"#),
        (r#"jsonb_set('[1,2]', '{5}', '3')"#, "[1, 2, 3]"),
        (r#"jsonb_insert('{"a":[0,1]}', '{a,1}', '"new"')"#, r#"{"a": [0, "new", 1]}"#),
        (r#"jsonb_insert('{"a":[0,1]}', '{a,1}', '"new"', true)"#, r#"{"a": [0, 1, "new"]}"#),
        (r#"jsonb_strip_nulls('{"a":null,"b":[null,{"c":null}]}')"#, r#"{"b": [null, {}]}"#),
        (r#"jsonb_pretty('{"a":[1,{}]}')"#, "{\n    \"a\": [\n        1,\n        {\n        }\n    ]\n}"),
    ])
    .await;
}

#[tokio::test]
async fn values_become_json() {
    check(&[
        ("to_json('a\"b')", r#""a\"b""#),
        ("to_jsonb(1.50::numeric(10,2))", "1.50"),
        ("to_json(1.0::double precision)", "1"),
        ("to_json(true)", "true"),
        ("to_json(NULL::int)", "NULL"),
        ("to_json(ARRAY[1,NULL,3])", "[1,null,3]"),
        ("to_json(TIMESTAMP '2026-01-02 03:04:05')", r#""2026-01-02T03:04:05""#),
        ("to_json(DATE '2026-01-02')", r#""2026-01-02""#),
        ("json_build_object('a', 1, 'b', NULL, 'c', 'x')", r#"{"a" : 1, "b" : null, "c" : "x"}"#),
        (
            "jsonb_build_object('b', ARRAY['x'], 'a', jsonb_build_array(1, 'y', true))",
            r#"{"a": [1, "y", true], "b": ["x"]}"#,
        ),
        ("json_build_array(1, 'a', '[1]'::json)", r#"[1, "a", [1]]"#),
        ("jsonb_build_object('a')", "ERROR 22023 argument list must have even number of elements"),
    ])
    .await;
}

#[tokio::test]
async fn set_returning_functions_give_rows() {
    async fn rows(sql: &str) -> String {
        match column(sql).await {
            Ok(v) => v.into_iter().map(|v| v.unwrap_or_else(|| "NULL".into())).collect::<Vec<_>>().join("|"),
            Err(e) => format!("ERROR {e}"),
        }
    }
    for (sql, expected) in [
        ("SELECT jsonb_array_elements('[1,{\"a\":2},null]')", r#"1|{"a":2}|null"#),
        ("SELECT json_array_elements_text('[1,\"x\",null]')", "1|x|NULL"),
        ("SELECT * FROM jsonb_array_elements('[3,4]')", "3|4"),
        ("SELECT value FROM jsonb_array_elements_text('[\"b\"]') AS t", "b"),
        ("SELECT v FROM jsonb_array_elements('[3,4]') AS t(v)", "3|4"),
        ("SELECT key || '=' || value FROM jsonb_each_text('{\"b\":1,\"a\":\"x\"}')", "a=x|b=1"),
        ("SELECT jsonb_object_keys('{\"b\":1,\"a\":2}')", "a|b"),
        ("SELECT generate_series(1, 3)", "1|2|3"),
        ("SELECT unnest(generate_series(1, 3))", "1|2|3"),
        ("SELECT n * 10 FROM unnest(ARRAY['a','b']) WITH ORDINALITY AS t(v, n)", "10|20"),
        ("SELECT string_to_table('a,b', ',')", "a|b"),
        ("SELECT (j -> 'x')::int FROM (SELECT jsonb_array_elements('[{\"x\":1},{\"x\":2}]') AS j) AS t", "1|2"),
    ] {
        assert_eq!(rows(sql).await, expected, "{sql}");
    }
}
