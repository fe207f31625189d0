//! What ASOF joins give as queries; `sqllogictest/slt/join/asof*` compares them with views.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;

use crate::error::{Result, SqlError, SqlState};
use crate::parse::parse_query;
use crate::session::testing::context;
use crate::session::{from_datafusion_in, plan_query};

fn tables(partitions: usize) -> SessionContext {
    let ints = |v: &[Option<i64>]| -> ArrayRef { Arc::new(Int64Array::from(v.to_vec())) };
    let floats = |v: &[Option<f64>]| -> ArrayRef { Arc::new(Float64Array::from(v.to_vec())) };
    let texts = |v: &[&str]| -> ArrayRef { Arc::new(StringArray::from(v.to_vec())) };
    context(
        partitions,
        &[
            (
                "a",
                vec![
                    ("k", ints(&[Some(1), Some(1), Some(1), Some(2), None, Some(1), Some(3)])),
                    ("ts", ints(&[Some(10), Some(20), Some(5), Some(10), Some(10), None, Some(1)])),
                ],
            ),
            (
                "b",
                vec![
                    ("k", ints(&[Some(1), Some(1), Some(1), Some(1), Some(2), None])),
                    ("ts", floats(&[Some(10.0), Some(15.5), Some(10.0), None, Some(-0.0), Some(1.0)])),
                    ("v", texts(&["late", "next", "early", "never", "zero", "no key"])),
                ],
            ),
        ],
    )
}

fn run(context: &SessionContext, sql: &str) -> Result<Vec<String>> {
    let query = parse_query(sql)?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(async {
        let plan = plan_query(&context.state(), &query, sql).await?;
        let error = |e| from_datafusion_in(e, sql, &[]);
        let batches = context.execute_logical_plan(plan).await.map_err(error)?.collect().await.map_err(error)?;
        let text = pretty_format_batches(&batches).unwrap().to_string();
        let mut rows: Vec<String> = text
            .lines()
            .filter(|l| l.starts_with('|'))
            .skip(1)
            .map(|l| l.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" "))
            .collect();
        rows.sort();
        Ok(rows)
    })
}

fn failure(sql: &str) -> SqlError {
    run(&tables(1), sql).expect_err(sql)
}

#[test]
fn each_comparison_has_its_nearest_row() {
    for partitions in [1, 3] {
        let context = tables(partitions);
        let of = |join: &str| run(&context, &format!("SELECT a.k, a.ts, b.v FROM a {join}")).unwrap();
        assert_eq!(of("ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts"), ["1 10 early", "1 20 next", "2 10 zero"]);
        assert_eq!(of("ASOF JOIN b ON b.ts < a.ts AND b.k = a.k"), ["1 20 next", "2 10 zero"]);
        assert_eq!(of("ASOF JOIN b ON (a.k = b.k AND (a.ts <= b.ts))"), ["1 10 early", "1 5 early"]);
        assert_eq!(of("ASOF JOIN b ON a.k = b.k AND a.ts < b.ts"), ["1 10 next", "1 5 early"]);
        assert_eq!(of("asof left join b ON a.k = b.k AND a.ts > b.ts").len(), 7);
    }
}

#[test]
fn both_ways_of_writing_one_mean_the_same() {
    let context = tables(2);
    let of = |join: &str| run(&context, &format!("SELECT * FROM a AS l {join} ORDER BY 1, 2")).unwrap();
    let canonical = of("ASOF LEFT JOIN b AS r ON l.k = r.k AND l.ts >= r.ts");
    assert_eq!(canonical.len(), 7);
    for other in [
        "LEFT ASOF JOIN b AS r MATCH_CONDITION (l.ts >= r.ts) ON l.k = r.k",
        "ASOF LEFT OUTER JOIN b AS r MATCH_CONDITION (r.ts <= l.ts) ON l.k = r.k",
        "LEFT OUTER ASOF JOIN (SELECT * FROM b) AS r ON r.k = l.k AND l.ts >= r.ts",
    ] {
        assert_eq!(of(other), canonical, "{other}");
    }
    assert_eq!(of("ASOF JOIN b r MATCH_CONDITION (l.ts >= r.ts)"), of("INNER ASOF JOIN b r ON l.ts >= r.ts"));
    let chained = "ASOF JOIN b r ON l.k = r.k AND l.ts >= r.ts ASOF LEFT JOIN b q ON q.k = r.k AND q.ts > r.ts";
    assert_eq!(of(chained).len(), 3);
}

#[test]
fn names_that_are_words_of_the_join_stay_names() {
    let context = tables(1);
    assert_eq!(run(&context, "SELECT asof.v FROM b AS asof JOIN a ON a.k = asof.k").unwrap().len(), 17);
    assert_eq!(run(&context, "SELECT global.v FROM b global JOIN a ON a.k = global.k").unwrap().len(), 17);
    assert_eq!(run(&context, "SELECT v AS asof FROM b WHERE k = 2").unwrap(), ["zero"]);
}

#[test]
fn what_is_selected_does_not_change_the_choice() {
    let context = tables(1);
    let both =
        run(&context, "SELECT b.ts, b.v FROM a ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts WHERE a.ts = 10").unwrap();
    let one = run(&context, "SELECT b.v FROM a ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts WHERE a.ts = 10").unwrap();
    assert_eq!(both, ["-0.0 zero", "10.0 early"]);
    assert_eq!(one, ["early", "zero"]);
    assert_eq!(run(&context, "SELECT count(*) FROM a ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts").unwrap(), ["3"]);
}

#[test]
fn other_conditions_are_refused_with_a_hint() {
    for (join, code, word) in [
        ("ASOF JOIN b ON a.k = b.k", SqlState::SYNTAX_ERROR, "comparison"),
        ("ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts AND a.k < b.k", SqlState::SYNTAX_ERROR, "one comparison"),
        ("ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts AND b.v = 'x'", SqlState::FEATURE_NOT_SUPPORTED, "equalities"),
        ("ASOF JOIN b ON a.k = b.k OR a.ts >= b.ts", SqlState::SYNTAX_ERROR, "comparison"),
        ("ASOF JOIN b MATCH_CONDITION (a.ts = b.ts) ON a.k = b.k", SqlState::SYNTAX_ERROR, "MATCH_CONDITION"),
        ("ASOF JOIN b ON a.k = b.k AND a.ts >= 5", SqlState::FEATURE_NOT_SUPPORTED, "column of each side"),
        ("ASOF JOIN b USING (k)", SqlState::FEATURE_NOT_SUPPORTED, "USING"),
        ("ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) USING (k)", SqlState::FEATURE_NOT_SUPPORTED, "USING"),
        ("RIGHT ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts", SqlState::FEATURE_NOT_SUPPORTED, "RIGHT ASOF JOIN"),
        ("ASOF FULL JOIN b ON a.k = b.k AND a.ts >= b.ts", SqlState::FEATURE_NOT_SUPPORTED, "FULL ASOF JOIN"),
    ] {
        let e = failure(&format!("SELECT 1 FROM a {join}"));
        assert!(e.code == code && e.message.contains(word) && e.hint.is_some(), "{join}: {} {e}", e.code.0);
    }
    let e = failure("SELECT 1 FROM a RIGHT ASOF JOIN b ON a.k = b.k AND a.ts >= b.ts");
    assert_eq!(e.position, Some(17));
    let e = failure("SELECT v FROM b WHERE __asof(k > 1)");
    assert!(e.message.contains("ASOF JOIN"), "{e}");
}
