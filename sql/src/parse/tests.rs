//! Tests of the whole parser: every family of statements, errors with places, limits, and random damage.

#![allow(clippy::unwrap_used)]

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use proptest::prelude::*;

use super::{parse, parse_expr, parse_query, parse_with};
use crate::error::{SqlError, SqlState};
use crate::limits::Limits;
use crate::statement::*;
use crate::types;

fn one(sql: &str) -> Statement {
    let mut all = parse(sql).unwrap_or_else(|e| panic!("{sql}: {e} at {:?}", e.position));
    assert_eq!(all.len(), 1, "{sql}");
    all.remove(0).statement
}

fn fails(sql: &str) -> SqlError {
    match parse(sql) {
        Err(e) => e,
        Ok(p) => panic!("{sql} parsed as {p:?}"),
    }
}

fn stream(sql: &str) -> CreateStream {
    match one(sql) {
        Statement::CreateStream(s) => s,
        other => panic!("{sql}: {other:?}"),
    }
}

fn view(sql: &str) -> CreateView {
    match one(sql) {
        Statement::CreateView(v) => v,
        other => panic!("{sql}: {other:?}"),
    }
}

fn option<'a>(s: &'a CreateStream, key: &str) -> &'a str {
    s.options.get(key).map(String::as_str).unwrap_or("<none>")
}

/// Statements of every kind; the mutation test starts from these.
const CORPUS: &[&str] = &[
    "CREATE STREAM bids (auction BIGINT, bidder BIGINT, price BIGINT, ts TIMESTAMPTZ, \
     WATERMARK FOR ts AS ts - INTERVAL '5 seconds') INCLUDE OFFSET AS kafka_offset \
     WITH (connector='kafka', topic='bids', bootstrap_servers='localhost:9092', format='json', \
     'scan.startup.mode'='earliest', idle_timeout='30s', on_error='dead_letter')",
    "CREATE STREAM logs (*) WITH (connector='file', path='./logs/*.parquet')",
    "CREATE SOURCE s (a INT) INCLUDE KEY INCLUDE TIMESTAMP AS t WITH (connector='kafka', \
     properties.bootstrap.server='h:1') FORMAT UPSERT ENCODE JSON (a.b = 'c')",
    "CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x' || 'y', n NUMERIC(10,2))",
    "CREATE MATERIALIZED VIEW v AS SELECT window_start, auction, count(*) n, max(price) hi \
     FROM TUMBLE(bids, ts, INTERVAL '1 minute') GROUP BY window_start, auction EMIT ON WINDOW CLOSE",
    "CREATE OR REPLACE VIEW w (a, b) AS WITH x AS (SELECT 1) SELECT *, CASE WHEN a THEN b ELSE c END FROM x",
    "DROP MATERIALIZED VIEW IF EXISTS a, b.c CASCADE",
    "INSERT INTO t (a, b) VALUES (1, 'x'), (2, $$y;z$$) RETURNING a",
    "UPDATE t SET a = a + 1 WHERE b LIKE '%x'",
    "DELETE FROM t WHERE a IN (1, 2, 3)",
    "SELECT a::text, b[1], -c FROM t LEFT JOIN u ON t.a = u.a WHERE NOT (a IS NULL) ORDER BY 1 LIMIT 3",
    "SUBSCRIBE TO v WITH (SNAPSHOT = false, PROGRESS) UP TO 10",
    "SELECT * FROM v EMIT CHANGES",
    "COPY (SUBSCRIBE v) TO STDOUT",
    "COPY (SELECT 1) TO STDOUT WITH (FORMAT csv, HEADER true)",
    "COPY t (a, b) FROM STDIN",
    "SHOW MATERIALIZED VIEWS LIKE 'a%'",
    "DESCRIBE public.v",
    "EXPLAIN (STATE, VERBOSE) SELECT 1",
    "SET TIME ZONE 'UTC'",
    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY",
    "CHECKPOINT",
    "SELECT * FROM TABLE(HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '2' MINUTE))",
];

#[test]
fn the_corpus_parses() {
    for sql in CORPUS {
        one(sql);
    }
}

#[test]
fn a_script_is_cut_at_semicolons_outside_of_strings_and_comments() {
    let sql = "SELECT ';'; -- a; b\n SELECT $x$;$x$ /* ; /* ; */ */ ;; ü\u{a0}";
    let e = fails(sql);
    assert_eq!((e.code, e.position), (SqlState::SYNTAX_ERROR, Some(sql.chars().position(|c| c == 'ü').unwrap() + 1)));
    let all = parse("SELECT ';ä'; -- a; b\n SELECT $x$;$x$ /* ; /* ; */ */ ;;  FLUSH  ;").unwrap();
    let texts: Vec<_> = all.iter().map(|p| (p.text.as_str(), p.offset)).collect();
    assert_eq!(texts, [("SELECT ';ä'", 0), ("SELECT $x$;$x$", 22), ("FLUSH", 57)]);
}

#[test]
fn an_empty_script_is_one_empty_statement() {
    for sql in ["", "  ", ";", " ;; -- x", "/* */"] {
        assert!(matches!(one(sql), Statement::Empty), "{sql}");
    }
}

#[test]
fn create_stream_has_columns_options_watermark_and_metadata() {
    let s = stream(CORPUS[0]);
    assert_eq!(s.name.name, "bids");
    assert_eq!(s.columns.len(), 5);
    assert_eq!(s.columns[3].data_type, types::timestamptz());
    assert_eq!(s.columns[4].metadata.as_deref(), Some("offset"));
    assert_eq!((s.columns[4].name.as_str(), &s.columns[4].data_type), ("kafka_offset", &DataType::Int64));
    let w = s.watermark.as_ref().unwrap();
    assert_eq!((w.column.as_str(), w.expr.to_string().as_str()), ("ts", "ts - INTERVAL '5 seconds'"));
    assert_eq!(option(&s, "start"), "earliest");
    assert_eq!(option(&s, "bootstrap_servers"), "localhost:9092");
    assert!(!s.options.contains_key("scan.startup.mode"));
}

#[test]
fn column_clauses_mean_what_they_say() {
    let s = stream(
        "create or replace stream if not exists public.\"S\" (\"Id\" int primary key not enforced, b text not null \
         default 'a' , d int default 1 not null, c double as (d * 2) , e text metadata from 'key', partition int \
         metadata, ts timestamp, watermark for ts)",
    );
    assert!(s.or_replace && s.if_not_exists);
    assert_eq!((s.name.schema.as_deref(), s.name.name.as_str()), (Some("public"), "S"));
    assert_eq!(s.primary_key, ["Id"]);
    assert!(!s.columns[0].nullable && !s.columns[1].nullable && !s.columns[2].nullable);
    assert_eq!(s.columns[2].default.as_ref().unwrap().to_string(), "1");
    assert_eq!(s.columns[3].generated.as_ref().unwrap().to_string(), "(d * 2)");
    assert_eq!(s.columns[4].metadata.as_deref(), Some("key"));
    assert_eq!(s.columns[5].metadata.as_deref(), Some("partition"));
    assert_eq!(s.watermark.unwrap().expr.to_string(), "ts");
}

#[test]
fn a_table_key_makes_its_columns_not_null_and_a_connector_makes_a_stream() {
    let Statement::CreateTable(t) = one("CREATE TABLE t (a INT, b INT, CONSTRAINT k PRIMARY KEY (b, a) NOT ENFORCED)")
    else {
        panic!()
    };
    assert_eq!(t.primary_key, ["b", "a"]);
    assert!(t.columns.iter().all(|c| !c.nullable));
    let s = stream("CREATE TABLE t (a INT) WITH ('connector' = 'Kafka', topic = x)");
    assert_eq!((option(&s, "connector"), option(&s, "topic")), ("kafka", "x"));
}

#[test]
fn include_gives_metadata_columns_their_default_names() {
    let s =
        stream("CREATE STREAM s (*) INCLUDE KEY, OFFSET, PARTITION INCLUDE TIMESTAMP INCLUDE HEADERS WITH (topic=a)");
    let got: Vec<_> = s.columns.iter().map(|c| (c.name.as_str(), c.metadata.as_deref().unwrap())).collect();
    let want = [
        ("_key", "key"),
        ("_offset", "offset"),
        ("_partition", "partition"),
        ("_timestamp", "timestamp"),
        ("_headers", "headers"),
    ];
    assert_eq!(got, want);
}

#[test]
fn options_of_other_systems_become_ours() {
    let cases = [
        ("properties.bootstrap.server='a'", "bootstrap_servers", "a"),
        ("'properties.bootstrap.servers'='a'", "bootstrap_servers", "a"),
        ("kafka_topic='T'", "topic", "T"),
        ("value_format='JSON'", "format", "json"),
        ("format='debezium-json'", "envelope", "debezium"),
        ("scan.startup.mode='latest-offset'", "start", "latest"),
        ("auto.offset.reset='earliest'", "start", "earliest"),
        ("scan.startup.timestamp.millis=1700000000000", "start", "timestamp:1700000000000"),
        ("scan.startup.mode='timestamp', scan.startup.timestamp.millis='17'", "start", "timestamp:17"),
        ("start=TIMESTAMP '2026-01-01 00:00:00'", "start", "timestamp:2026-01-01 00:00:00"),
        ("start='offsets:0=12,1=40'", "start", "offsets:0=12,1=40"),
        ("idle_timeout=30s", "idle_timeout", "30s"),
        ("idle_timeout=INTERVAL '30' SECOND", "idle_timeout", "30 seconds"),
        ("n=-5", "n", "-5"),
        ("b=TRUE", "b", "true"),
        ("A.b-C.d='X'", "a.b-c.d", "X"),
    ];
    for (text, key, value) in cases {
        assert_eq!(option(&stream(&format!("CREATE STREAM s (a INT) WITH ({text})")), key), value, "{text}");
    }
    let s = stream("CREATE SOURCE s (a INT) WITH (topic='t') FORMAT DEBEZIUM ENCODE JSON");
    assert_eq!((option(&s, "format"), option(&s, "envelope")), ("json", "debezium"));
}

#[test]
fn types_have_their_arrow_types() {
    use DataType as D;
    let list = |d| types::list_of(d);
    let cases: Vec<(&str, D)> = vec![
        ("INT", D::Int32),
        ("integer", D::Int32),
        ("int8", D::Int64),
        ("BIGINT", D::Int64),
        ("smallint", D::Int16),
        ("REAL", D::Float32),
        ("DOUBLE PRECISION", D::Float64),
        ("DOUBLE", D::Float64),
        ("float(10)", D::Float32),
        ("NUMERIC", D::Decimal128(38, 10)),
        ("numeric(12, 3)", D::Decimal128(12, 3)),
        ("DECIMAL(60)", D::Decimal256(60, 0)),
        ("STRING", D::Utf8View),
        ("character varying(20)", D::Utf8View),
        ("jsonb", D::Utf8View),
        ("uuid", D::Utf8View),
        ("BYTES", D::Binary),
        ("bytea", D::Binary),
        ("bool", D::Boolean),
        ("DATE", D::Date32),
        ("TIME(6) WITHOUT TIME ZONE", D::Time64(TimeUnit::Microsecond)),
        ("TIMESTAMP(3)", types::timestamp()),
        ("timestamp with time zone", types::timestamptz()),
        ("TIMESTAMP_LTZ(3)", types::timestamptz()),
        ("INTERVAL DAY TO SECOND", D::Interval(IntervalUnit::MonthDayNano)),
        ("int[][]", list(list(D::Int32))),
        ("int array", list(D::Int32)),
        ("ARRAY<ARRAY<TEXT>>", list(list(D::Utf8View))),
        ("ARRAY<ARRAY<ARRAY<INT>>>", list(list(list(D::Int32)))),
    ];
    for (sql, want) in cases {
        assert_eq!(types::parse_type(sql).unwrap(), want, "{sql}");
    }
    let shown = [
        ("STRUCT<a INT, b ARRAY<TEXT>>[]", "struct<a integer, b text[]>[]"),
        ("MAP<TEXT, STRUCT<x TIMESTAMPTZ>>", "map<text, struct<x timestamp with time zone>>"),
        ("numeric(5,2)", "numeric(5,2)"),
    ];
    for (sql, want) in shown {
        let t = types::parse_type(sql).unwrap();
        assert_eq!(types::display_name(&t), want);
        assert_eq!(types::parse_type(want).unwrap(), t, "what is shown can be typed");
    }
}

#[test]
fn wrong_types_say_why() {
    let cases = [
        ("bigit", "42704", "type \"bigit\" does not exist"),
        ("numeric(90)", "22023", "NUMERIC precision 90 must be between 1 and 76"),
        ("numeric(5,6)", "22023", "NUMERIC scale 6 must be between 0 and the precision 5"),
        ("timetz", "0A000", "type time with time zone is not supported"),
        ("serial", "0A000", "type serial is not supported"),
        ("struct<a int, a int>", "42701", "column \"a\" specified more than once"),
        ("array<int", "42601", "syntax error at end of input"),
    ];
    for (sql, code, message) in cases {
        let e = types::parse_type(sql).unwrap_err();
        assert_eq!((e.code.0, e.message.as_str()), (code, message));
    }
    assert_eq!(types::parse_type("bigit").unwrap_err().hint.unwrap(), "Did you mean BIGINT?");
}

#[test]
fn views_keep_their_query_and_lose_their_emit_clause() {
    let emits = [
        ("", None),
        ("EMIT CHANGES", Some(Emit::OnUpdate)),
        ("EMIT ON UPDATE", Some(Emit::OnUpdate)),
        ("emit immediate", Some(Emit::OnUpdate)),
        ("EMIT FINAL", Some(Emit::OnWindowClose)),
        ("EMIT ON WINDOW CLOSE", Some(Emit::OnWindowClose)),
        ("EMIT AFTER WINDOW CLOSE", Some(Emit::OnWindowClose)),
        ("EMIT EVERY INTERVAL '10 seconds'", Some(Emit::Every("10 seconds".into()))),
        ("EMIT EVERY INTERVAL '10' SECOND", Some(Emit::Every("10 seconds".into()))),
        ("EMIT PERIODIC 10s", Some(Emit::Every("10 seconds".into()))),
    ];
    for (emit, want) in emits {
        let v = view(&format!("CREATE MATERIALIZED VIEW IF NOT EXISTS v (x) WITH (a=1) AS SELECT 1 FROM t {emit}"));
        assert_eq!((v.query_text.as_str(), v.emit.map(|e| e.when)), ("SELECT 1 FROM t", want), "{emit}");
        assert!(v.materialized && v.if_not_exists && v.columns == ["x"] && v.options["a"] == "1");
    }
    let v = view("CREATE VIEW v AS SELECT emit, t.emit FROM a AS emit, (SELECT 1) b");
    assert!(!v.materialized && v.emit.is_none());
    assert_eq!(v.query.to_string(), "SELECT emit, t.emit FROM a AS emit, (SELECT 1) b");
}

#[test]
fn window_functions_of_other_systems_are_normalised() {
    let want = "SELECT * FROM TUMBLE(t, ts, INTERVAL '1' MINUTE) AS w";
    for sql in [
        "SELECT * FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) AS w",
        "SELECT * FROM TUMBLE(t, DESCRIPTOR(ts), INTERVAL '1' MINUTE) AS w",
        want,
    ] {
        assert_eq!(parse_query(sql).unwrap().to_string(), want);
    }
}

#[test]
fn drop_names_kinds_and_lists() {
    let Statement::Drop { kind, if_exists, names, cascade } = one("DROP SOURCE IF EXISTS a, public.B RESTRICT") else {
        panic!()
    };
    assert_eq!((kind, if_exists, cascade), (ObjectKind::Stream, true, false));
    assert_eq!(names.iter().map(|n| n.to_string()).collect::<Vec<_>>(), ["a", "public.b"]);
    assert!(matches!(one("DROP MATERIALIZED VIEW v CASCADE"), Statement::Drop { cascade: true, .. }));
}

#[test]
fn queries_and_dml_are_told_apart() {
    for sql in ["SELECT 1", "(SELECT 1) UNION ALL SELECT 2", "VALUES (1)", "WITH a AS (SELECT 1) TABLE a", "TABLE t"] {
        assert!(matches!(one(sql), Statement::Query(_)), "{sql}");
    }
    for sql in ["INSERT INTO t SELECT 1", "UPDATE t SET a = 1", "DELETE FROM t"] {
        assert!(matches!(one(sql), Statement::Dml(_)), "{sql}");
    }
    assert_eq!(fails("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a").code, SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn subscribe_and_copy_have_all_their_forms() {
    let Statement::Subscribe(s) = one("SUBSCRIBE (SELECT 1) WITH (SNAPSHOT false, PROGRESS = true) UP TO 7") else {
        panic!()
    };
    assert!(matches!(s.target, SubscribeTarget::Query(_)));
    assert_eq!((s.snapshot, s.progress, s.up_to), (false, true, Some(7)));
    let Statement::Subscribe(s) = one("subscribe v") else { panic!() };
    assert!(s.snapshot && !s.progress && s.up_to.is_none());
    assert!(matches!(one("SELECT a FROM v EMIT CHANGES"), Statement::Subscribe(_)));
    assert!(matches!(one("COPY (SUBSCRIBE TO v WITH (PROGRESS)) TO STDOUT;"), Statement::CopySubscribe(_)));
    assert!(matches!(one("COPY t TO STDOUT CSV HEADER"), Statement::CopyOut { csv: true, header: true, .. }));
    let Statement::CopyOut { query, .. } = one("COPY t (a, \"B\") TO STDOUT") else { panic!() };
    assert_eq!(query.to_string(), "SELECT a, \"B\" FROM t");
    let Statement::CopyIn { table, columns, csv, header } = one("COPY t (a) FROM STDIN WITH (FORMAT 'csv', HEADER)")
    else {
        panic!()
    };
    assert_eq!((table.name.as_str(), columns.len(), csv, header), ("t", 1, true, true));
}

#[test]
fn show_has_all_its_forms() {
    let shown = |sql: &str| match one(sql) {
        Statement::Show(s) => format!("{s:?}"),
        other => panic!("{sql}: {other:?}"),
    };
    let cases = [
        ("SHOW STREAMS", "Objects { kinds: [Stream], like: None }"),
        ("SHOW MATERIALIZED VIEWS LIKE 'x'", "Objects { kinds: [MaterializedView], like: Some(\"x\") }"),
        ("SHOW JOBS", "Jobs"),
        ("SHOW ALL", "AllSettings"),
        ("SHOW CREATE MATERIALIZED VIEW v", "Create(ObjectName { schema: None, name: \"v\" })"),
        ("SHOW CREATE public.v", "Create(ObjectName { schema: Some(\"public\"), name: \"v\" })"),
        ("SHOW COLUMNS FROM a.b", "Columns(ObjectName { schema: Some(\"a\"), name: \"b\" })"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "Setting(\"transaction_isolation\")"),
        ("SHOW server_version", "Setting(\"server_version\")"),
    ];
    for (sql, want) in cases {
        assert_eq!(shown(sql), want, "{sql}");
    }
}

#[test]
fn session_statements_are_known() {
    let cases = [
        ("SET a = 1", "Set { name: \"a\", value: Some(\"1\") }"),
        ("SET SESSION a.b TO 'X'", "Set { name: \"a.b\", value: Some(\"X\") }"),
        ("SET LOCAL x TO DEFAULT", "Set { name: \"x\", value: None }"),
        ("SET search_path = public, ms", "Set { name: \"search_path\", value: Some(\"public, ms\") }"),
        ("SET TIME ZONE 'Europe/Paris'", "Set { name: \"timezone\", value: Some(\"Europe/Paris\") }"),
        ("SET extra_float_digits = -3", "Set { name: \"extra_float_digits\", value: Some(\"-3\") }"),
        ("RESET ALL", "Reset(None)"),
        ("RESET a", "Reset(Some(\"a\"))"),
        ("BEGIN", "Begin"),
        ("START TRANSACTION READ ONLY", "Begin"),
        ("COMMIT WORK", "Commit"),
        ("END", "Commit"),
        ("ROLLBACK", "Rollback"),
        ("ABORT", "Rollback"),
        ("CHECKPOINT", "Checkpoint"),
        ("FLUSH", "Flush"),
        ("DISCARD ALL", "Discard"),
        ("DEALLOCATE PREPARE x", "Discard"),
        ("CLOSE ALL", "Discard"),
    ];
    for (sql, want) in cases {
        assert_eq!(format!("{:?}", one(sql)), want, "{sql}");
    }
}

#[test]
fn explain_finds_its_mode_and_target() {
    let explained = |sql: &str| match one(sql) {
        Statement::Explain { mode, statement, target } => {
            (mode, !matches!(*statement, Statement::Empty), target.map(|t| t.to_string()))
        }
        other => panic!("{sql}: {other:?}"),
    };
    use ExplainMode::*;
    assert_eq!(explained("EXPLAIN SELECT 1"), (Incremental, true, None));
    assert_eq!(explained("EXPLAIN (SELECT 1)"), (Incremental, true, None));
    assert_eq!(explained("EXPLAIN ANALYZE SELECT 1"), (Analyze, true, None));
    assert_eq!(explained("EXPLAIN (LOGICAL, VERBOSE false) SELECT 1"), (Logical, true, None));
    assert_eq!(explained("EXPLAIN (ANALYZE false, COSTS off) SELECT 1"), (Incremental, true, None));
    assert_eq!(explained("EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT 1"), (Incremental, true, None));
    assert_eq!(explained("EXPLAIN (STATE) MATERIALIZED VIEW v"), (State, false, Some("v".into())));
    assert_eq!(explained("EXPLAIN v"), (Incremental, false, Some("v".into())));
    assert_eq!(fails("EXPLAIN INSERT INTO t SELECT 1").code, SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn known_but_missing_statements_say_so_with_a_hint_and_a_place() {
    let cases = [
        "CREATE SINK s FROM v WITH (a=1)",
        "CREATE UNIQUE INDEX i ON v (a)",
        "CREATE CONNECTION c TO KAFKA (BROKER 'x')",
        "CREATE SECRET s AS 'x'",
        "CREATE FUNCTION f() RETURNS INT LANGUAGE sql AS $$ SELECT 1; $$",
        "CREATE SUBSCRIPTION s FROM v",
        "CREATE ROLE r LOGIN PASSWORD 'x'",
        "CREATE TEMP TABLE t (a INT)",
        "DROP SINK s",
        "ALTER TABLE t ADD COLUMN c INT",
        "ALTER SYSTEM SET a = 1",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH 100 c",
        "GRANT SELECT ON v TO r",
        "MERGE INTO t USING u ON a = b WHEN MATCHED THEN DELETE",
        "TRUNCATE t",
        "SAVEPOINT a",
    ];
    for sql in cases {
        let e = fails(&format!("  {sql}"));
        assert_eq!((e.code, e.position), (SqlState::FEATURE_NOT_SUPPORTED, Some(3)), "{sql}: {e}");
        assert!(e.hint.is_some(), "{sql}");
    }
}

#[test]
fn syntax_errors_have_the_place_and_the_word() {
    let cases = [
        ("SELCT 1", "syntax error at or near \"SELCT\"", 1),
        ("SELECT * FORM t", "syntax error at or near \"t\"", 15),
        ("SELECT 1 +", "syntax error at end of input", 11),
        ("SELECT 'ü', * FROM WHERE", "syntax error at or near \"WHERE\"", 20),
        ("SELECT a, FROM t", "syntax error at or near \"FROM\"", 11),
        ("SELECT (1", "syntax error at end of input", 10),
        ("SELECT 1)", "syntax error at or near \")\"", 9),
        ("FLUSH;\n SELECT 1 1", "syntax error at or near \"1\"", 18),
        ("CREATE STREAM s (a INT b)", "syntax error at or near \"b\"", 24),
        ("CREATE STREAM s (a INT,)", "syntax error at or near \")\"", 24),
        ("CREATE STREAM s (a INT) WITH (a 1)", "syntax error at or near \"1\"", 33),
        ("CREATE STREAM", "syntax error at end of input", 14),
        ("CREATE TABLE select (a INT)", "syntax error at or near \"select\"", 14),
        ("CREATE STREAM s (a INT) x", "syntax error at or near \"x\"", 25),
        ("CREATE MATERIALIZED VIEW v AS", "syntax error at end of input", 30),
        ("CREATE MATERIALIZED VIEW v AS SELECT a FROM t EMIT EVERY", "syntax error at end of input", 57),
        ("DROP STREAM", "syntax error at end of input", 12),
        ("SUBSCRIBE SELECT 1", "syntax error at or near \"SELECT\"", 11),
        ("COPY t FORM STDIN", "syntax error at or near \"FORM\"", 8),
        ("INSERT INTO t VALUES (1", "syntax error at end of input", 24),
        ("123", "syntax error at or near \"123\"", 1),
        ("SELECT 'abc", "unterminated quoted string", 8),
    ];
    for (sql, message, position) in cases {
        let e = fails(sql);
        assert_eq!(
            (e.code, e.message.as_str(), e.position),
            (SqlState::SYNTAX_ERROR, message, Some(position)),
            "{sql}"
        );
    }
}

#[test]
fn a_typo_gets_a_hint() {
    let cases = [
        ("SELCT 1", "SELECT"),
        ("SELECT * FORM t", "FROM"),
        ("CREATE MATERIALISED VIEW v AS SELECT 1", "MATERIALIZED"),
        ("CRAETE TABLE t (a INT)", "CREATE"),
        ("COPY t FORM STDIN", "FROM"),
    ];
    for (sql, keyword) in cases {
        let hint = fails(sql).hint.unwrap_or_default();
        assert!(hint.contains(&format!("Did you mean {keyword}")), "{sql}: {hint}");
    }
}

#[test]
fn wrong_definitions_have_their_own_codes() {
    let cases = [
        ("CREATE TABLE t (a INT, A INT)", "42701", 24),
        ("CREATE TABLE t (a INT, PRIMARY KEY (b))", "42703", 36),
        ("CREATE TABLE t (a INT PRIMARY KEY, b INT PRIMARY KEY)", "42P16", 42),
        ("CREATE STREAM s (a INT, WATERMARK FOR b)", "42703", 39),
        ("CREATE STREAM s (a INT METADATA FROM 'x')", "22023", 33),
        ("CREATE STREAM s (a INT) WITH (start='middle')", "22023", 37),
        ("CREATE STREAM s (a INT) WITH (a=1, A=2)", "42601", 36),
        ("CREATE TABLE t (a INT CHECK (a > 0))", "0A000", 23),
        ("CREATE TABLE t (a INT, UNIQUE (a))", "0A000", 24),
        ("CREATE TABLE t AS SELECT 1", "0A000", 16),
        ("CREATE TABLE t (a bigit)", "42704", 19),
        ("COPY t FROM '/etc/passwd'", "0A000", 13),
        ("SELECT 1 EMIT ON WINDOW CLOSE", "0A000", 10),
        ("SELECT * FROM a.b.c.d; DROP TABLE x.y.z", "0A000", 35),
    ];
    for (sql, code, position) in cases {
        let e = fails(sql);
        assert_eq!((e.code.0, e.position), (code, Some(position)), "{sql}: {e}");
    }
}

#[test]
fn expressions_parse_alone() {
    assert_eq!(parse_expr("ts - INTERVAL '5 seconds'").unwrap().to_string(), "ts - INTERVAL '5 seconds'");
    assert_eq!(parse_expr("a b").unwrap_err().position, Some(3));
}

/// Runs on a thread with the stack of a tokio worker.
fn on_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(f).unwrap().join().unwrap();
}

fn terms(n: usize, term: &str, operator: &str) -> String {
    format!("SELECT {} FROM t", vec![term; n].join(operator))
}

#[test]
fn chains_up_to_the_cap_parse_clone_and_drop_on_a_small_stack() {
    on_small_stack(|| {
        for (term, op) in [("a = 1", " OR "), ("a", "+"), ("a", " || "), ("a", " AND ")] {
            // `a = 1` has an operator of its own.
            let n = if term.contains('=') { 2_000 } else { 2_001 };
            let all = parse(&terms(n, term, op)).unwrap();
            drop(all.clone());
            drop(all);
            let e = parse(&terms(n + 1, term, op)).unwrap_err();
            assert_eq!(e.code, SqlState::STATEMENT_TOO_COMPLEX);
            assert!(e.detail.unwrap().contains("operator_chain_max"));
        }
        drop(parse(&format!("SELECT a{}", "::int".repeat(2_000))).unwrap().clone());
        assert!(parse(&format!("SELECT a{}", "::int".repeat(2_001))).is_err());
    });
}

#[test]
fn chains_in_brackets_of_chains_add_up_and_neighbours_do_not() {
    let chain = vec!["a"; 1_500].join("+");
    assert!(parse(&format!("SELECT ({chain}), ({chain})+a, ({chain})*({chain}) FROM t WHERE {chain} > 1")).is_ok());
    assert!(parse(&format!("SELECT ({chain})+{chain}")).is_err());
    assert!(parse(&format!("SELECT {chain}+f(1, {chain})")).is_err());
}

#[test]
fn each_cap_names_itself() {
    on_small_stack(|| {
        let l = Limits { in_list_items_max: 100, statement_bytes_max: 100_000, ..Limits::default() };
        let many = |n: usize, text: &str, separator: &str| vec![text; n].join(separator);
        let ctes = |n: usize| {
            let list: Vec<_> = (0..n).map(|i| format!("c{i} AS (SELECT 1)")).collect();
            format!("WITH {} SELECT 1", list.join(", "))
        };
        let cases: Vec<(&str, String, String)> = vec![
            (
                "nesting_depth_max",
                format!("SELECT {}1{}", "(".repeat(64), ")".repeat(64)),
                format!("SELECT {}1", "(".repeat(65)),
            ),
            ("nesting_depth_max", format!("SELECT {}1", "- ".repeat(60)), format!("SELECT {}1", "NOT ".repeat(70))),
            ("nesting_depth_max", "SELECT 1".into(), format!("SELECT {}", "CASE WHEN ".repeat(70))),
            ("set_operations_max", many(501, "SELECT 1", " UNION ALL "), many(502, "SELECT 1", " UNION ALL ")),
            ("ctes_max", ctes(500), ctes(501)),
            (
                "in_list_items_max",
                format!("SELECT a IN ({})", many(100, "1", ",")),
                format!("SELECT a IN ({})", many(101, "1", ",")),
            ),
            (
                "joins_max",
                format!("SELECT * FROM {}", many(101, "t", ",")),
                format!("SELECT * FROM {}", many(102, "t", " CROSS JOIN ")),
            ),
            ("statement_bytes_max", "SELECT 1".into(), format!("SELECT '{}'", "x".repeat(100_000))),
        ];
        for (name, fits, exceeds) in cases {
            parse_with(&fits, &l).unwrap_or_else(|e| panic!("{name}: {e}"));
            let e = parse_with(&exceeds, &l).unwrap_err();
            assert_eq!(e.code, SqlState::STATEMENT_TOO_COMPLEX, "{name}: {e}");
            assert!(e.detail.as_ref().unwrap().contains(name), "{name}: {e}");
            assert!(e.position.is_some());
        }
    });
}

#[test]
fn nesting_that_doubles_the_work_of_the_parser_is_stopped() {
    on_small_stack(|| {
        let begun = std::time::Instant::now();
        let calls = format!("SELECT {}1{}", "abs(".repeat(60), ")".repeat(60));
        parse(&calls).unwrap();
        let mut from = "t".to_string();
        for _ in 0..25 {
            from = format!("((SELECT * FROM {from}) CROSS JOIN b)");
        }
        let e = parse(&format!("SELECT * FROM {from}")).unwrap_err();
        assert_eq!(e.code, SqlState::STATEMENT_TOO_COMPLEX);
        assert!(begun.elapsed().as_secs() < 20, "took {:?}", begun.elapsed());
    });
}

#[test]
fn is_distinct_from_binds_tighter_than_and_and_or_and_weaker_than_comparisons() {
    use sqlparser::ast::{BinaryOperator, Expr};
    for sql in ["a IS DISTINCT FROM b AND c", "a IS NOT DISTINCT FROM b AND c"] {
        let parsed = parse_expr(sql).unwrap();
        assert!(matches!(parsed, Expr::BinaryOp { op: BinaryOperator::And, .. }), "{sql}: {parsed:?}");
    }
    assert!(matches!(
        parse_expr("NOT a IS DISTINCT FROM b OR c").unwrap(),
        Expr::BinaryOp { op: BinaryOperator::Or, .. }
    ));
    let Expr::IsDistinctFrom(_, right) = parse_expr("a IS DISTINCT FROM b + 1 = c").unwrap() else { panic!("not IS") };
    assert!(matches!(*right, Expr::BinaryOp { op: BinaryOperator::Eq, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_statements_give_an_error_with_a_place_inside_of_the_text(
        which in 0..CORPUS.len(),
        edits in prop::collection::vec((0usize..400, 0usize..6, any::<prop::sample::Index>()), 1..5),
        other in 0..CORPUS.len(),
    ) {
        const INSERTS: &[&str] = &["(", ")", "'", "\"", ";", ",", ".", "EMIT", "AS", "NOT", "ü", "$$", "/*", "[", ">>", "-", "WITH"];
        let mut text: Vec<char> = CORPUS[which].chars().collect();
        for (at, kind, index) in edits {
            let at = at % (text.len() + 1);
            match kind {
                0 | 1 => { text.splice(at..at, INSERTS[index.index(INSERTS.len())].chars()); }
                2 => { text.truncate(at.max(1)); }
                3 => { let end = (at + 7).min(text.len()); text.drain(at..end); }
                4 => { let tail: Vec<char> = CORPUS[other].chars().skip(at).collect(); text.splice(at.., tail); }
                _ => { if at < text.len() { text[at] = ' '; } }
            }
            if text.is_empty() { text.push(' '); }
        }
        let text: String = text.into_iter().collect();
        if let Err(e) = parse(&text) {
            prop_assert!(e.code != SqlState::INTERNAL_ERROR, "{}: {}", text, e);
            let position = e.position.unwrap_or(0);
            prop_assert!((1..=text.chars().count() + 1).contains(&position), "{}: {} at {}", text, e, position);
        }
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in "\\PC{0,80}") {
        let _ = parse(&text);
        let _ = types::parse_type(&text);
        let _ = parse_expr(&text);
    }
}
