//! Queries run by DataFusion with our session.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;

use super::testing::{context, failure, run};

fn shown(context: &SessionContext, sql: &str) -> String {
    pretty_format_batches(&run(context, sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"))).unwrap().to_string()
}

fn floats(values: Vec<f64>) -> ArrayRef {
    Arc::new(Float64Array::from(values))
}

#[test]
fn float_sums_do_not_depend_on_order_or_partitions() {
    let mut values: Vec<f64> = (0..2000).map(|i| (f64::from(i) * 0.37).sin() * 10f64.powi(i % 37 - 18)).collect();
    let groups = |n: usize| -> ArrayRef { Arc::new(Int64Array::from(vec![0; n])) };
    let mut seen = Vec::new();
    for partitions in [1, 2, 3] {
        values.reverse();
        values.rotate_left(partitions * 77);
        let c = context(partitions, &[("t", vec![("g", groups(2000)), ("x", floats(values.clone()))])]);
        for sql in [
            "select sum(x), avg(x) from t",
            "select sum(x), avg(x) from t group by g",
            "select sum(distinct x), avg(distinct x) from t",
        ] {
            let batch = &run(&c, sql).unwrap().into_iter().find(|b| b.num_rows() > 0).unwrap();
            let at = |i: usize| batch.column(i).as_primitive::<Float64Type>().value(0).to_bits();
            seen.push((at(0), at(1)));
        }
    }
    assert!(seen.windows(2).all(|w| w[0] == w[1]), "{seen:?}");
}

#[test]
fn integer_and_decimal_overflow_is_an_error_and_not_a_wrong_sum() {
    let big: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, 1, -5]));
    let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX, 1, 0]));
    let nines = 10i128.pow(38) - 1;
    let decimals = Decimal128Array::from(vec![nines, nines, -nines]).with_precision_and_scale(38, 0).unwrap();
    let group: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2]));
    let c = context(1, &[("t", vec![("g", group), ("i", big), ("u", unsigned), ("d", Arc::new(decimals))])]);
    for (sql, message) in [
        ("select sum(i) from t where i > 0", "bigint out of range"),
        ("select g, sum(i) from t group by g", "bigint out of range"),
        ("select sum(u) from t", "unsigned bigint out of range"),
        ("select g, sum(d) from t group by g", "numeric out of range"),
    ] {
        let e = failure(&c, sql);
        assert_eq!((e.code.0, e.message.as_str()), ("22003", message), "{sql}");
    }
    // The range counts at the end only.
    let i = run(&c, "select sum(i) from t").unwrap();
    assert_eq!(i[0].column(0).as_primitive::<Int64Type>().value(0), i64::MAX - 4);
    assert!(shown(&c, "select sum(d) from t").contains(&nines.to_string()));
}

#[test]
fn sums_have_the_types_and_nulls_of_datafusion() {
    let c = context(2, &[("t", vec![("i", Arc::new(Int64Array::from(vec![Some(1), None, Some(4)])) as ArrayRef)])]);
    let stock = SessionContext::new();
    for cast in ["int", "smallint", "bigint", "real", "double precision"] {
        let sql = format!("select sum(i::{cast}), avg(i::{cast}), sum(i::{cast}) filter (where i > 9) from t");
        stock.register_table("t", c.deregister_table("t").unwrap().unwrap()).unwrap();
        let plain = futures(async { stock.sql(&sql).await.unwrap().collect().await.unwrap() });
        c.register_table("t", stock.deregister_table("t").unwrap().unwrap()).unwrap();
        let own = run(&c, &sql).unwrap();
        let types =
            |b: &[RecordBatch]| b[0].schema().fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        assert_eq!(types(&own), types(&plain), "{cast}");
        assert_eq!(own[0].columns(), plain[0].columns(), "{cast}");
    }
}

#[test]
fn sums_of_decimals_have_all_digits_and_averages_the_scale_of_a_quotient() {
    let values = Decimal128Array::from(vec![100, 201, 201]).with_precision_and_scale(10, 2).unwrap();
    let c = context(2, &[("t", vec![("d", Arc::new(values) as ArrayRef), ("k", floats(vec![1.0, 1.0, 2.0]))])]);
    let rows = run(&c, "select sum(d), avg(d), sum(d) filter (where d > 9), count(distinct k) from t").unwrap();
    let types: Vec<String> = rows[0].schema().fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Decimal128(38, 2)", "Decimal128(38, 16)", "Decimal128(38, 2)", "Int64"]);
    assert!(shown(&c, "select sum(d), avg(d) from t").contains("| 5.02 | 1.6733333333333333 |"));
}

fn check(c: &SessionContext, sql: &str, expected: &[&str]) {
    let text = match run(c, sql) {
        Err(e) => format!("{} {}", e.code.0, e.message),
        Ok(rows) => {
            let b = &rows[0];
            let value = |i: usize| arrow::util::display::array_value_to_string(b.column(i), 0).unwrap();
            (0..b.num_columns())
                .map(|i| format!("{} {}", value(i), b.column(i).data_type()))
                .collect::<Vec<_>>()
                .join("|")
        }
    };
    assert_eq!(text, expected.join("|"), "{sql}");
}

#[test]
fn constants_and_operators_have_the_types_of_postgres() {
    let c =
        context(1, &[("t", vec![("i", Arc::new(Int64Array::from(vec![7])) as ArrayRef), ("x", floats(vec![0.5]))])]);
    check(&c, "select 1 + 1, 7 / 2, i + 1, -i from t", &["2 Int32", "3 Int32", "8 Int64", "-7 Int64"]);
    check(&c, "select 1.5 + 1, 10 / 4.0", &["2.5 Decimal128(3, 1)", "2.5000000000000000 Decimal128(19, 16)"]);
    check(&c, "select x * 1.5, 1e2, x > 0.25 from t", &["0.75 Float64", "100.0 Float64", "true Boolean"]);
    check(&c, "select 9223372036854775808, i = 7.0 from t", &["9223372036854775808 Decimal128(20, 0)", "true Boolean"]);
    check(&c, "select case when i > 1 then x else 2.5 end, coalesce(x, 1.5) from t", &["0.5 Float64", "0.5 Float64"]);
    check(&c, "select 2147483647 + 1", &["22003 integer out of range"]);
    check(&c, "select i % 0 from t", &["22012 division by zero"]);
    check(&c, "select x / 0 from t", &["22012 division by zero"]);
    check(&c, "select 'abc'::int", &["22P02 invalid input syntax for type integer: \"abc\""]);
    check(
        &c,
        "select i + '5'::int, '2024-02-30'::date from t",
        &["22008 date/time field value out of range: \"2024-02-30\""],
    );
    check(&c, "select row_number() over (), count(*) from t group by i", &["1 Int64", "1 Int64"]);
    check(&c, "select * from (values (1.5::float8), (2.25)) as v order by 1", &["1.5 Float64"]);
    check(&c, "select x from t union all select 0.5", &["0.5 Float64"]);
    check(&c, "select extract(second from timestamp '2024-01-01 00:00:12.5')", &["12.500000 Decimal128(8, 6)"]);
}

#[test]
fn long_chains_of_operators_are_planned_in_reasonable_time() {
    let c = context(1, &[("t", vec![("i", Arc::new(Int64Array::from(vec![7])) as ArrayRef)])]);
    let sql = format!("select {} from t", ["i"; 200].join(" + "));
    check(&c, &sql, &["1400 Int64"]);
}

fn futures<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f)
}

#[test]
fn sliding_windows_retract_exactly() {
    let order: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]));
    let c = context(1, &[("t", vec![("i", order), ("x", floats(vec![1e100, 1.0, -1e100, 2.0, 0.5]))])]);
    let batches = run(&c, "select sum(x) over (order by i rows between 1 preceding and current row) from t").unwrap();
    let sums: Vec<f64> =
        batches.iter().flat_map(|b| b.column(0).as_primitive::<Float64Type>().values().to_vec()).collect();
    assert_eq!(sums, [1e100, 1e100 + 1.0, 1.0 - 1e100, -1e100 + 2.0, 2.5]);
}

const MINUTE: i64 = 60_000_000;

fn events() -> SessionContext {
    let ts = TimestampMicrosecondArray::from(vec![Some(0), Some(59_999_999), Some(MINUTE), None, Some(-1)]);
    let k: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]));
    let day: ArrayRef = Arc::new(Date32Array::from(vec![0, 1, 2, 3, -1]));
    context(1, &[("e", vec![("k", k), ("ts", Arc::new(ts)), ("d", day)])])
}

#[test]
fn tumbling_windows_cut_time_without_gaps_also_before_the_epoch() {
    let text =
        shown(&events(), "select k, window_start, window_end from tumble(e, ts, interval '1 minute') order by k");
    let expected = "\
+---+---------------------+---------------------+
| k | window_start        | window_end          |
+---+---------------------+---------------------+
| 1 | 1970-01-01T00:00:00 | 1970-01-01T00:01:00 |
| 2 | 1970-01-01T00:00:00 | 1970-01-01T00:01:00 |
| 3 | 1970-01-01T00:01:00 | 1970-01-01T00:02:00 |
| 5 | 1969-12-31T23:59:00 | 1970-01-01T00:00:00 |
+---+---------------------+---------------------+";
    assert_eq!(text, expected);
}

#[test]
fn window_offsets_move_the_cuts() {
    let sql = "select k, window_start from tumble(e, ts, interval '1 minute', interval '10 seconds') order by k";
    let text = shown(&events(), sql);
    assert!(text.contains("| 1 | 1969-12-31T23:59:10 |") && text.contains("| 3 | 1970-01-01T00:00:10 |"), "{text}");
}

#[test]
fn hopping_windows_hold_each_row_size_over_slide_times() {
    let sql = "select k, count(*) as n, min(window_start) as first, max(window_end) as last \
               from hop(e, ts, interval '20 seconds', interval '1 minute') group by k order by k";
    let expected = "\
+---+---+---------------------+---------------------+
| k | n | first               | last                |
+---+---+---------------------+---------------------+
| 1 | 3 | 1969-12-31T23:59:20 | 1970-01-01T00:01:00 |
| 2 | 3 | 1970-01-01T00:00:00 | 1970-01-01T00:01:40 |
| 3 | 3 | 1970-01-01T00:00:20 | 1970-01-01T00:02:00 |
| 5 | 3 | 1969-12-31T23:59:00 | 1970-01-01T00:00:40 |
+---+---+---------------------+---------------------+";
    assert_eq!(shown(&events(), sql), expected);
    // A slide that does not divide the size: some rows are in more windows than others.
    let sql =
        "select k, count(*) as n from hop(e, ts, interval '40 seconds', interval '1 minute') group by k order by k";
    let text = shown(&events(), sql);
    assert!(text.contains("| 1 | 2 |") && text.contains("| 2 | 2 |") && text.contains("| 3 | 1 |"), "{text}");
}

#[test]
fn windows_of_dates_subqueries_and_named_arguments() {
    let c = events();
    let text = shown(&c, "select tumble(d, interval '2 days') as w, count(*) as n from e group by 1 order by 1");
    assert!(text.contains("| 1969-12-30T00:00:00 | 1 |") && text.contains("| 1970-01-01T00:00:00 | 2 |"), "{text}");
    let sql = "select count(*) as n from tumble(timecol => ts, data => (select ts from e where k < 3), size => interval '1 hour') w";
    assert!(shown(&c, sql).contains("| 2 |"));
    let sql = "with q as (select * from e) select e.k from tumble(e, ts, interval '1 hour') join q on q.k = e.k where e.k = 3";
    assert!(shown(&c, sql).contains("| 3 |"));
}

#[test]
fn a_scalar_subquery_with_two_rows_is_an_error() {
    let e = failure(&events(), "select k, (select k as x from e) as y from e");
    assert_eq!(e.code.0, "21000", "{e:?}");
}

#[test]
fn positions_are_characters_of_the_statement() {
    let c = events();
    for (sql, code, position) in [
        ("select 'äöü', kk from e", "42703", 15),
        ("select k\nfrom e\nwhere zz = 1", "42703", 23),
        ("select e.nope from e", "42703", 8),
        ("select * from\n  nowhere", "42P01", 17),
        ("select k, nofun(ts) from e", "42883", 11),
        ("select k from e, e f", "42702", 8),
        ("select * from tumble(e, nope, interval '1 minute')", "42703", 25),
    ] {
        let error = failure(&c, sql);
        assert_eq!((error.code.0, error.position), (code, Some(position)), "{sql}: {error:?}");
    }
    let error = failure(&c, "select ks from e");
    assert_eq!(error.hint.as_deref(), Some("Perhaps you meant the column \"e.k\"."));
}
