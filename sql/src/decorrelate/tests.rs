//! Truth tables of three-valued logic, and what is refused.

#![allow(clippy::unwrap_used)]

use arrow::array::{Array, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::Int64Type;

use crate::session::testing::{context, failure, run};

/// NULL, 1, 2.
const VALUES: [Option<i64>; 3] = [None, Some(1), Some(2)];

/// The rows of subset `mask` of [`VALUES`].
fn subset(mask: usize) -> Vec<Option<i64>> {
    (0..3).filter(|i| mask & (1 << i) != 0).map(|i| VALUES[i]).collect()
}

fn compare(x: Option<i64>, op: &str, y: Option<i64>) -> Option<bool> {
    let (x, y) = (x?, y?);
    Some(match op {
        "=" => x == y,
        "<>" => x != y,
        "<" => x < y,
        "<=" => x <= y,
        ">" => x > y,
        _ => x >= y,
    })
}

/// `x op ANY (rows)` or `x op ALL (rows)`, by the book.
fn quantified(x: Option<i64>, op: &str, all: bool, rows: &[Option<i64>]) -> Option<bool> {
    let each: Vec<Option<bool>> = rows.iter().map(|y| compare(x, op, *y)).collect();
    if each.contains(&Some(!all)) {
        Some(!all)
    } else if each.contains(&None) {
        None
    } else {
        Some(all)
    }
}

const OPS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];

/// Relations: `x(v)` the values, `m(k)` the numbers of all subsets, `s(k, y)` their rows.
fn subsets() -> datafusion::prelude::SessionContext {
    let rows = (0..8).flat_map(|m| subset(m).into_iter().map(move |y| (m as i64, y)));
    let (ks, ys): (Vec<i64>, Vec<Option<i64>>) = rows.unzip();
    context(
        1,
        &[
            ("x", vec![("v", std::sync::Arc::new(Int64Array::from(VALUES.to_vec())))]),
            ("m", vec![("k", std::sync::Arc::new((0..8i64).collect::<Int64Array>()))]),
            (
                "s",
                vec![
                    ("k", std::sync::Arc::new(Int64Array::from(ks))),
                    ("y", std::sync::Arc::new(Int64Array::from(ys))),
                ],
            ),
        ],
    )
}

/// Rows of (k, v, booleans..).
fn table(c: &datafusion::prelude::SessionContext, sql: &str) -> Vec<(i64, Option<i64>, Vec<Option<bool>>)> {
    let mut out = Vec::new();
    for batch in run(c, sql).unwrap_or_else(|e| panic!("{sql}: {e}")) {
        let k = batch.column(0).as_primitive::<Int64Type>();
        let v = batch.column(1).as_primitive::<Int64Type>();
        for i in 0..batch.num_rows() {
            let bool = |c: usize| {
                let b: &BooleanArray = batch.column(c).as_boolean();
                b.is_valid(i).then(|| b.value(i))
            };
            let cells = (2..batch.num_columns()).map(bool).collect();
            out.push((k.value(i), v.is_valid(i).then(|| v.value(i)), cells));
        }
    }
    out
}

#[test]
fn comparisons_with_any_and_all_follow_the_truth_table_in_every_correlation() {
    let c = subsets();
    for condition in ["s.k = m.k", "s.k <= m.k and s.k >= m.k", "s.k is not distinct from m.k"] {
        let mut items = Vec::new();
        for (i, op) in OPS.iter().enumerate() {
            items.push(format!("x.v {op} any (select s.y from s where {condition}) as any{i}"));
            items.push(format!("x.v {op} all (select s.y from s where {condition}) as all{i}"));
        }
        items.push(format!("x.v in (select s.y from s where {condition}) as yes"));
        items.push(format!("x.v not in (select s.y from s where {condition}) as no"));
        let rows = table(&c, &format!("select m.k, x.v, {} from m, x", items.join(", ")));
        assert_eq!(rows.len(), 24);
        for (k, v, cells) in rows {
            let set = subset(k as usize);
            let mut want = Vec::new();
            for op in OPS {
                want.extend([quantified(v, op, false, &set), quantified(v, op, true, &set)]);
            }
            want.extend([quantified(v, "=", false, &set), quantified(v, "<>", true, &set)]);
            assert_eq!(cells, want, "{condition}: {v:?} and {set:?}");
        }
    }
}

#[test]
fn conditions_keep_the_rows_for_which_they_are_true() {
    let c = subsets();
    for condition in ["s.k = m.k", "s.k <= m.k and s.k >= m.k"] {
        let sub = format!("(select s.y from s where {condition})");
        for (sql, holds) in [
            (format!("x.v in {sub}"), 0),
            (format!("x.v not in {sub}"), 1),
            (format!("not (x.v in {sub})"), 1),
            (format!("x.v = any {sub}"), 0),
            (format!("x.v <> all {sub}"), 1),
            (format!("x.v in {sub} or false"), 0),
            (format!("not (x.v in {sub} or false)"), 1),
            (format!("(x.v in {sub}) is null"), 2),
            (format!("exists {sub}"), 3),
            (format!("not exists {sub}"), 4),
        ] {
            let mut got: Vec<(i64, Option<i64>)> =
                table(&c, &format!("select m.k, x.v from m, x where {sql}")).into_iter().map(|r| (r.0, r.1)).collect();
            let mut want = Vec::new();
            for k in 0..8 {
                for v in VALUES {
                    let set = subset(k as usize);
                    let is_in = quantified(v, "=", false, &set);
                    let keep = match holds {
                        0 => is_in == Some(true),
                        1 => is_in == Some(false),
                        2 => is_in.is_none(),
                        3 => !set.is_empty(),
                        _ => set.is_empty(),
                    };
                    if keep {
                        want.push((k, v));
                    }
                }
            }
            got.sort();
            want.sort();
            assert_eq!(got, want, "{sql}");
        }
    }
}

#[test]
fn uncorrelated_sets_follow_the_truth_table() {
    for mask in 0..8 {
        let rows = subset(mask);
        let c = context(
            1,
            &[
                ("x", vec![("v", std::sync::Arc::new(Int64Array::from(VALUES.to_vec())))]),
                ("s", vec![("y", std::sync::Arc::new(Int64Array::from(rows.clone())))]),
            ],
        );
        let mut items = Vec::new();
        for (i, op) in OPS.iter().enumerate() {
            items.push(format!("v {op} any (select y from s) as any{i}, v {op} all (select y from s) as all{i}"));
        }
        let got = table(&c, &format!("select 0::bigint as k, v, {} from x", items.join(", ")));
        assert_eq!(got.len(), 3);
        for (_, v, cells) in got {
            let want: Vec<_> =
                OPS.iter().flat_map(|op| [quantified(v, op, false, &rows), quantified(v, op, true, &rows)]).collect();
            assert_eq!(cells, want, "{v:?} and {rows:?}");
        }
    }
}

#[test]
fn rows_in_a_subquery_follow_the_truth_table() {
    let one = [None, Some(1i64)];
    let rows: Vec<(Option<i64>, Option<i64>)> = one.iter().flat_map(|a| one.map(|b| (*a, b))).collect();
    let column = |side: usize, mask: usize| -> std::sync::Arc<dyn Array> {
        let of = rows.iter().enumerate().filter(|(i, _)| mask & (1 << i) != 0);
        std::sync::Arc::new(of.map(|(_, r)| if side == 0 { r.0 } else { r.1 }).collect::<Int64Array>())
    };
    for mask in 0..16 {
        let c = context(
            1,
            &[
                ("x", vec![("a", column(0, 15)), ("b", column(1, 15))]),
                ("s", vec![("c", column(0, mask)), ("d", column(1, mask))]),
            ],
        );
        let set: Vec<_> = rows.iter().enumerate().filter(|(i, _)| mask & (1 << i) != 0).map(|(_, r)| *r).collect();
        let is_in = |a: Option<i64>, b: Option<i64>| {
            let each: Vec<Option<bool>> = (set.iter())
                .map(|(c, d)| match (compare(a, "=", *c), compare(b, "=", *d)) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                })
                .collect();
            if each.contains(&Some(true)) {
                Some(true)
            } else if each.contains(&None) {
                None
            } else {
                Some(false)
            }
        };
        let sql = "select coalesce(a, 0) as k, b, (a, b) in (select c, d from s) as yes, \
                   (a, b) not in (select c, d from s) as no from x";
        for (a, b, cells) in table(&c, sql) {
            let yes = is_in((a != 0).then_some(a), b);
            assert_eq!(cells, [yes, yes.map(|v| !v)], "({a}, {b:?}) and {set:?}");
        }
        for (not, want) in [("", Some(true)), ("not", Some(false))] {
            let sql = format!("select coalesce(a, 0) as k, b from x where (a, b) {not} in (select c, d from s)");
            let mut got: Vec<_> = table(&c, &sql).into_iter().map(|r| ((r.0 != 0).then_some(r.0), r.1)).collect();
            got.sort();
            let mut kept: Vec<_> = rows.iter().copied().filter(|(a, b)| is_in(*a, *b) == want).collect();
            kept.sort();
            assert_eq!(got, kept, "{sql} and {set:?}");
        }
    }
}

#[test]
fn set_operations_with_all_count_duplicates() {
    for (l, r) in (0..4usize).flat_map(|l| (0..4usize).map(move |r| (l, r))) {
        let rows = |n: usize| -> std::sync::Arc<dyn Array> {
            let all = std::iter::repeat_n(None, n).chain(std::iter::repeat_n(Some(1), 3 - n));
            std::sync::Arc::new(all.collect::<Int64Array>())
        };
        let c = context(1, &[("l", vec![("v", rows(l))]), ("r", vec![("v", rows(r))])]);
        for (op, want) in
            [("except", [l.saturating_sub(r), r.saturating_sub(l)]), ("intersect", [l.min(r), (3 - l).min(3 - r)])]
        {
            let sql = format!("select count(*) - count(v), count(v) from (select v from l {op} all select v from r) q");
            let got = run(&c, &sql).unwrap();
            let cell = |i: usize| got[0].column(i).as_primitive::<Int64Type>().value(0) as usize;
            assert_eq!([cell(0), cell(1)], want, "{sql}: {l} and {r} NULLs of 3 rows");
        }
    }
}

#[test]
fn equality_and_null_safe_equality_do_not_mix_in_one_join() {
    let null: std::sync::Arc<dyn Array> = std::sync::Arc::new(Int64Array::from(vec![None, Some(1)]));
    let c = context(1, &[("a", vec![("v", null.clone())]), ("b", vec![("v", null.clone())]), ("d", vec![("v", null)])]);
    for (sql, rows) in [
        ("select * from a join b on a.v is not distinct from b.v join d on d.v = b.v", 1),
        ("select * from a join b on a.v = b.v join d on d.v is not distinct from b.v", 1),
        ("select * from a, b, d where (a.v is not distinct from b.v) and b.v = d.v", 1),
        ("select * from a join b on a.v is not distinct from b.v join d on d.v is not distinct from b.v", 2),
    ] {
        let got: usize = run(&c, sql).unwrap().iter().map(|b| b.num_rows()).sum();
        assert_eq!(got, rows, "{sql}");
    }
}

#[test]
fn what_cannot_be_evaluated_says_why() {
    let c = subsets();
    for (sql, code, message) in [
        ("select k, (select s.y from s where s.k = m.k) from m", "21000", "more than one row returned by a subquery"),
        ("select k, (select s.y from s where s.k <= m.k) from m", "21000", "more than one row returned by a subquery"),
        ("select (select y from s) as y", "21000", "more than one row returned by a subquery"),
        ("select count(*) from m group by k % 2 having exists (select 1 from s where s.k = m.k)", "42803", "m.k"),
        (
            "select * from m left join x on (select count(*) from s where s.k = m.k and s.y = x.v) > 0",
            "0A000",
            "columns of both sides",
        ),
        (
            "select k, (select max(n) from (select count(*) as n from s where s.k = m.k group by rollup(y)) q) from m",
            "0A000",
            "ROLLUP",
        ),
    ] {
        let e = failure(&c, sql);
        assert!(e.code.0 == code && e.message.contains(message), "{sql}: {e:?}");
    }
    // Without a second row there is no error.
    assert!(run(&c, "select k, (select s.y from s where s.k = m.k and s.y > 1) from m").is_ok());
}
