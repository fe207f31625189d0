//! Recursive queries that are refused, and those that mean what PostgreSQL means by them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use datafusion::prelude::SessionContext;

use crate::session::testing::{context, failure, run};

fn tables() -> SessionContext {
    let column = |v: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(v.to_vec())) };
    context(1, &[("e", vec![("a", column(&[1, 2, 3])), ("b", column(&[2, 3, 1]))]), ("s", vec![("k", column(&[1]))])])
}

fn rows(context: &SessionContext, sql: &str) -> usize {
    run(context, sql).unwrap_or_else(|e| panic!("{sql}: {e}")).iter().map(|b| b.num_rows()).sum()
}

#[test]
fn forms_that_postgres_refuses_are_refused() {
    let t = tables();
    let r = |term: &str| format!("WITH RECURSIVE r(n) AS (SELECT k FROM s UNION {term}) SELECT n FROM r");
    let reference = |within: &str| format!("recursive reference to query \"r\" must not appear {within}");
    for (sql, message) in [
        (r("SELECT e.b FROM r JOIN r AS q ON q.n = r.n JOIN e ON e.a = r.n"), reference("more than once")),
        (r("SELECT e.b FROM e WHERE e.a IN (SELECT n FROM r)"), reference("within a subquery")),
        (r("SELECT (SELECT max(n) FROM r) FROM e"), reference("within a subquery")),
        (r("SELECT e.b FROM e LEFT JOIN r ON e.a = r.n"), reference("within an outer join")),
        (r("SELECT e.b FROM r RIGHT JOIN e ON e.a = r.n"), reference("within an outer join")),
        (r("SELECT e.b FROM r FULL JOIN e ON e.a = r.n"), reference("within an outer join")),
        (r("SELECT e.b FROM (r JOIN e ON e.a = r.n) RIGHT JOIN s ON s.k = e.a"), reference("within an outer join")),
        (r("(SELECT n FROM r INTERSECT ALL SELECT a FROM e)"), reference("within INTERSECT")),
        (r("(SELECT a FROM e EXCEPT SELECT n FROM r)"), reference("within EXCEPT")),
        (r("SELECT n FROM r UNION SELECT b FROM e"), reference("within its non-recursive term")),
        (
            r("SELECT max(e.b) FROM r JOIN e ON e.a = r.n"),
            "aggregate functions are not allowed in a recursive query's recursive term".into(),
        ),
        (
            "WITH RECURSIVE r(n) AS (SELECT n FROM r) SELECT n FROM r".into(),
            "recursive query \"r\" does not have the form non-recursive-term UNION [ALL] recursive-term".into(),
        ),
    ] {
        let e = failure(&t, &sql);
        assert_eq!((e.code.0, &e.message), ("42P19", &message), "{sql}");
        assert!(e.position.is_some_and(|p| sql[p - 1..].starts_with(['r', 'm'])), "{sql}: {:?}", e.position);
    }
}

#[test]
fn clauses_that_would_be_left_out_are_refused() {
    let t = tables();
    for (tail, message) in [
        ("ORDER BY 1", "ORDER BY in a recursive query is not implemented"),
        ("LIMIT 3", "LIMIT in a recursive query is not implemented"),
        ("OFFSET 3", "OFFSET in a recursive query is not implemented"),
    ] {
        let sql = format!(
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 9 {tail}) SELECT n FROM r"
        );
        let e = failure(&t, &sql);
        assert_eq!((e.code.0, e.message.as_str()), ("0A000", message));
    }
    let mutual = "WITH RECURSIVE x AS (SELECT 1 AS n UNION SELECT n FROM y), y AS (SELECT n FROM x) SELECT n FROM x";
    assert_eq!(failure(&t, mutual).message, "mutual recursion between WITH items is not implemented");
    let types = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n * 1.5 FROM r WHERE n < 9) SELECT n FROM r";
    assert_eq!(failure(&t, types).code.0, "42804");
}

#[test]
fn a_with_recursive_that_does_not_recur_is_a_with() {
    let t = tables();
    for (sql, expected) in [
        ("WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT 2 ORDER BY 1 LIMIT 1) SELECT n FROM x", 1),
        (
            "WITH RECURSIVE x AS (WITH y AS (SELECT k FROM s) SELECT k FROM y UNION ALL SELECT k FROM y) SELECT k FROM x",
            2,
        ),
        (
            "WITH RECURSIVE x AS (SELECT n FROM y), y AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM y WHERE n < 4) SELECT n FROM x",
            4,
        ),
        ("WITH RECURSIVE e AS (SELECT a FROM public.e UNION ALL SELECT b FROM public.e) SELECT a FROM e", 6),
    ] {
        assert_eq!(rows(&t, sql), expected, "{sql}");
    }
}

#[test]
fn parentheses_and_windows_are_allowed() {
    let t = tables();
    let parentheses =
        "WITH RECURSIVE r(n) AS ((SELECT k FROM s UNION (SELECT e.b FROM r JOIN e ON e.a = r.n))) SELECT n FROM r";
    assert_eq!(rows(&t, parentheses), 3);
    let window = "WITH RECURSIVE r(n) AS (SELECT 1::bigint UNION SELECT count(*) OVER () FROM r) SELECT n FROM r";
    assert_eq!(rows(&t, window), 1);
}
