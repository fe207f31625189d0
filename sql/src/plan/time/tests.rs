//! What is promised of the columns of real plans.

#![allow(clippy::unwrap_used)]

use datafusion::execution::SessionState;

use super::*;
use crate::plan::build::build;
use crate::plan::build::tests::{Tables, query, test_state};
use crate::plan::emit::{LateInput, with_emit, with_lateness};
use crate::session::plan_query;
use crate::statement::Emit;

/// Columns of stream `e` are k, ts, l; its watermark is at one minute.
const MARK: i64 = 60_000_000;

fn source(id: RelationId) -> Bounds {
    match id.0 {
        3 => vec![None, Some(Bound::At(MARK)), None],
        9 => vec![None, None, None, Some(Bound::At(MARK)), None],
        _ => Bounds::new(),
    }
}

async fn plan(state: &SessionState, sql: &str) -> IncPlan {
    let logical = plan_query(state, &query(sql), sql).await.unwrap();
    build(state, logical, &Tables).unwrap()
}

async fn seconds(sql: &str) -> Vec<Option<i64>> {
    let plan = plan(&test_state(), sql).await;
    let nodes = TimeRules::new(&plan).unwrap().propagate(&plan, &source);
    nodes[plan.output.0 as usize].columns.iter().map(|b| b.map(|b| b.micros() / 1_000_000)).collect()
}

#[tokio::test]
async fn bounds_follow_expressions() {
    let cases: [(&str, &[Option<i64>]); 20] = [
        ("select ts, k from e", &[Some(60), None]),
        ("select ts + interval '5 seconds', ts - interval '1 minute' from e", &[Some(65), Some(0)]),
        ("select date_trunc('hour', ts), k from e", &[Some(0), None]),
        ("select distinct ts from e where k > 3", &[Some(60)]),
        ("select k, max(ts) from e group by k", &[None, None]),
        ("select ts, count(*) from e group by ts", &[Some(60), None]),
        (
            "select window_start, window_end, count(*) from tumble(e, ts, interval '25 seconds') group by 1, 2",
            &[Some(50), Some(75), None],
        ),
        // The first window that is not over at a minute.
        (
            "select window_start, window_end from hop(e, ts, interval '10 seconds', interval '30 seconds')",
            &[Some(40), Some(70)],
        ),
        // The first end that is later than a minute.
        (
            "select window_start, window_end from cumulate(e, ts, interval '15 seconds', interval '45 seconds')",
            &[Some(45), Some(75)],
        ),
        // A session that is not over at a minute ends after it; it may have begun at any time.
        (
            "select ts, k, window_start, window_end from session(e, ts, interval '10 seconds', k)",
            &[None, None, None, Some(60)],
        ),
        (
            "select window_end, k, count(*) from session(e, ts, interval '10 seconds', k) group by window_end, k",
            &[Some(60), None, None],
        ),
        // A match that is not decided at a minute began ten seconds before it or later. A variable may have no row.
        (
            "select * from e match_recognize (partition by k order by ts measures match_rowtime() as at, \
             first(a.ts) as f, last(b.ts) as l, count(*) as n pattern (a b*) within interval '10 seconds' \
             define b as b.k = 1)",
            &[None, Some(50), Some(50), None, None],
        ),
        (
            "select ts, k from e match_recognize (order by ts measures count(*) as n all rows per match pattern (a b*) \
             define b as b.k = 1)",
            &[None, None],
        ),
        (
            "select window_start, window_end from tumble((select ts at time zone 'UTC' as t from e), t, interval '1 day', \
             timezone => 'Europe/Berlin')",
            &[Some(-3_600), Some(82_800)],
        ),
        (
            "select date_trunc('day', ts at time zone 'UTC', 'Europe/Berlin'), \
             cast(ts at time zone 'UTC' at time zone 'Europe/Berlin' as date) from e",
            &[Some(-3_600), Some(0)],
        ),
        (
            "select hop_end from (select hop_end(ts, interval '10 seconds', interval '20 seconds') from e \
          group by hop(ts, interval '10 seconds', interval '20 seconds')) as x",
            &[Some(70)],
        ),
        ("select ts from e union all select ts - interval '10 seconds' from e", &[Some(50)]),
        ("select ts from e union all select c from (select cast(null as timestamp) as c from t) as x", &[None]),
        ("select a.ts, b.ts from e a join e b on a.k = b.k", &[None, None]),
        ("select a.ts, b.ts from e a join e b on a.ts = b.ts", &[Some(60), Some(60)]),
    ];
    for (sql, want) in cases {
        assert_eq!(seconds(sql).await, want, "{sql}");
    }
}

#[tokio::test]
async fn a_clock_that_will_be_put_back_shows_less_again() {
    // On 25 October 2026 at 01:00Z the clock goes from three to two.
    let at = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
    let sql = "select ts at time zone 'UTC' at time zone 'Europe/Berlin' from e";
    let plan = plan(&test_state(), sql).await;
    let rules = TimeRules::new(&plan).unwrap();
    for (mark, least) in [
        ("2026-10-24T22:30:00Z", "2026-10-25T00:30:00Z"),
        ("2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
        ("2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"),
    ] {
        let source = |_: RelationId| vec![None, Some(Bound::At(at(mark))), None];
        let nodes = rules.propagate(&plan, &source);
        assert_eq!(nodes[plan.output.0 as usize].columns, [Some(Bound::At(at(least)))], "{mark}");
    }
}

#[test]
fn a_column_moves_by_its_own_unit_only() {
    let schema = Schema::new(vec![Field::new("t", DataType::Timestamp(TimeUnit::Millisecond, None), true)]);
    let moved = |micros: i64| {
        let interval = arrow::datatypes::IntervalMonthDayNano::new(0, 0, micros * 1_000);
        let interval = Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), None);
        linear(&(PlanExpr::column(0).expr - interval), &schema)
    };
    assert_eq!(moved(2_000), Some((0, -2_000)));
    // A microsecond before a millisecond is the millisecond before.
    assert_eq!(moved(1), None);
}

#[tokio::test]
async fn an_interval_join_bounds_both_sides() {
    let sql = "select a.ts, b.ts from e a join e b on a.k = b.k \
               and b.ts between a.ts - interval '1 second' and a.ts + interval '10 seconds'";
    // An old a.ts meets a new b.ts down to ten seconds before it; an old b.ts a new a.ts down to a second before.
    assert_eq!(seconds(sql).await, [Some(50), Some(59)]);
    let plan = plan(&test_state(), sql).await;
    let nodes = TimeRules::new(&plan).unwrap().propagate(&plan, &source);
    let at = plan.nodes.iter().position(|n| matches!(n.op, IncOp::Join { .. })).unwrap();
    let forget: Vec<Vec<i64>> =
        nodes[at].forget.iter().map(|b| b.iter().flatten().map(|b| b.micros() / 1_000_000).collect()).collect();
    assert_eq!(forget, [[50], [59]]);
}

#[tokio::test]
async fn the_nullable_side_of_an_outer_join_has_no_bound() {
    let sql = "select a.ts, b.ts from e a left join e b on a.ts = b.ts";
    assert_eq!(seconds(sql).await, [Some(60), None]);
    let sql = "select a.ts, b.ts from e a full join e b on a.ts = b.ts";
    assert_eq!(seconds(sql).await, [None, None]);
}

/// The bounds by which the ASOF join of a query forgets, of each side; in seconds.
async fn forgotten(sql: &str) -> [Vec<Option<i64>>; 2] {
    let plan = plan(&test_state(), sql).await;
    let nodes = TimeRules::new(&plan).unwrap().propagate(&plan, &source);
    let at = plan.nodes.iter().position(|n| matches!(n.op, IncOp::AsOf { .. })).unwrap();
    let seconds = |b: &Bounds| b.iter().map(|b| b.map(|b| b.micros() / 1_000_000)).collect();
    [seconds(&nodes[at].forget[0]), seconds(&nodes[at].forget[1])]
}

#[tokio::test]
async fn an_asof_join_bounds_the_times_that_both_sides_bound() {
    let older = "(select k, ts - interval '10 seconds' as ts from e) b";
    // Of a latest partner nothing is promised, of its left row the lesser of both.
    let sql = format!("select a.ts, b.ts from e a join {older} on __asof(a.ts >= b.ts) and a.k = b.k");
    assert_eq!(seconds(&sql).await, [Some(50), None]);
    // Left rows stay: the right side alone decides about them.
    let [l, r] = forgotten(&sql).await;
    assert_eq!((l.iter().flatten().collect::<Vec<_>>(), r), (vec![&50], vec![None, Some(50)]));
    let sql = format!("select a.ts, b.ts from {} left join e a on __asof(b.ts >= a.ts) and a.k = b.k", older);
    assert_eq!(seconds(&sql).await, [None, Some(50)]);
    let [l, r] = forgotten(&sql).await;
    assert_eq!(l, [None, Some(60)], "rows of the left side that are older than all that comes on the right");
    assert!(r.contains(&Some(50)), "{r:?}");
    // Of an earliest one it is the right time.
    let sql = format!("select a.ts, b.ts from e a join {older} on __asof(a.ts <= b.ts) and a.k = b.k");
    assert_eq!(seconds(&sql).await, [None, Some(50)]);
    assert_eq!(seconds("select a.ts, b.ts from e a left join e b on __asof(a.ts < b.ts)").await, [None, None]);
    // Casts and shifts of a column are in its order, and a key of both sides is as good as a time.
    let sql = "select a.ts, a.l from (select ts, k, ts + interval '5 seconds' as l from e) a \
               join e b on __asof(a.l >= b.ts) and a.k = b.k";
    assert_eq!(seconds(sql).await, [Some(55), Some(60)]);
    let sql = "select a.w, b.w from (select date_trunc('minute', ts) as w, k from e) a \
               join (select date_trunc('minute', ts) as w, k from e) b on a.w = b.w and __asof(a.k >= b.k)";
    assert_eq!(seconds(sql).await, [Some(60), Some(60)]);
    // A side without a watermark may change at any time.
    assert_eq!(seconds("select a.ts from e a join t b on __asof(a.k >= b.a)").await, [None]);
}

#[tokio::test]
async fn partners_that_count_are_kept_as_long_as_rows_that_count_them() {
    let state = test_state();
    // A new b.ts touches an a.ts down to ten seconds before it, and whether that has a partner says any b.ts from there on.
    for (join, expected) in
        [("join", [50, 60]), ("left join", [50, 50]), ("right join", [50, 60]), ("full join", [50, 50])]
    {
        let sql = format!(
            "select a.ts, b.ts from e a {join} e b on a.k = b.k and b.ts >= a.ts and b.ts <= a.ts + interval '10 seconds'"
        );
        let plan = plan(&state, &sql).await;
        let nodes = TimeRules::new(&plan).unwrap().propagate(&plan, &source);
        let at = plan.nodes.iter().position(|n| matches!(n.op, IncOp::Join { .. })).unwrap();
        let forget: Vec<i64> =
            nodes[at].forget.iter().flat_map(|b| b.iter().flatten().map(|b| b.micros() / 1_000_000)).collect();
        assert_eq!(forget, expected, "{join}");
    }
}

#[tokio::test]
async fn lateness_moves_what_may_be_forgotten_but_not_what_is_final() {
    let state = test_state();
    let sql = "select window_start, count(*) from tumble(e, ts, interval '10 seconds') group by 1";
    let late = |id: RelationId| {
        let data_type = DataType::Timestamp(TimeUnit::Microsecond, None);
        (id.0 == 3).then_some(LateInput { relation: RelationId(9), time: 1, watermark: 3, data_type })
    };
    let plan = with_lateness(plan(&state, sql).await, 30_000_000, &late);
    let plan = with_emit(plan, &Emit::OnWindowClose, true, &source).unwrap();
    let nodes = TimeRules::new(&plan).unwrap().propagate(&plan, &source);
    let at = plan.nodes.iter().position(|n| matches!(n.op, IncOp::Aggregate { .. })).unwrap();
    assert_eq!(nodes[at].forget[0].iter().flatten().map(|b| b.micros()).collect::<Vec<_>>(), [30_000_000]);
    let on_time = |id: RelationId| match id.0 {
        9 => vec![Some(Bound::Never); 5],
        _ => source(id),
    };
    let nodes = TimeRules::new(&plan).unwrap().propagate(&plan, &on_time);
    assert_eq!(nodes[plan.output.0 as usize].columns[0], Some(Bound::At(MARK)));
    let json = crate::plan::serialize::to_json(&plan).unwrap();
    let again = crate::plan::serialize::from_json(&state, &json).unwrap();
    assert_eq!(format!("{:?}", again.nodes.iter().map(|n| &n.inputs).collect::<Vec<_>>()), {
        format!("{:?}", plan.nodes.iter().map(|n| &n.inputs).collect::<Vec<_>>())
    });
}

#[tokio::test]
async fn emit_goes_below_a_projection_that_drops_the_window() {
    let state = test_state();
    let sql = "select k, count(*) from tumble(e, ts, interval '10 seconds') group by k, window_start";
    let made = with_emit(plan(&state, sql).await, &Emit::OnWindowClose, false, &source).unwrap();
    assert!(matches!(made.node(made.output).op, IncOp::Map { .. }));
    assert!(matches!(made.node(made.node(made.output).inputs[0]).op, IncOp::Emit { column: Some(_), every: None }));
    assert_eq!(made.node(made.output).kind, crate::plan::ChangelogKind::Append);
    for (sql, hint) in [("select k, count(*) from e group by k", "window_start"), ("select a from t", "WATERMARK")] {
        let e = with_emit(plan(&state, sql).await, &Emit::OnWindowClose, false, &source).unwrap_err();
        assert!(e.hint.as_deref().is_some_and(|h| h.contains(hint)), "{e:?}");
    }
    let sql = "select k, count(*) from e group by k";
    let made = with_emit(plan(&state, sql).await, &Emit::Every("1 second".into()), false, &source).unwrap();
    assert!(matches!(made.node(made.output).op, IncOp::Emit { column: None, every: Some(1_000_000) }));
}

#[tokio::test]
async fn patterns_say_themselves_when_a_match_is_decided() {
    let state = test_state();
    let of = |order: &str| {
        format!(
            "select n from e match_recognize (partition by k order by {order} measures count(*) as n pattern (a b+) \
             define b as b.k = 1)"
        )
    };
    let made = with_emit(plan(&state, &of("ts")).await, &Emit::OnWindowClose, false, &source).unwrap();
    assert_eq!(made.node(made.output).kind, crate::plan::ChangelogKind::Append);
    let decided = |p: &IncPlan| p.nodes.iter().any(|n| matches!(n.op, IncOp::MatchRecognize { decided: true, .. }));
    assert!(decided(&made) && !made.nodes.iter().any(|n| matches!(n.op, IncOp::Emit { .. })));
    let json = crate::plan::serialize::to_json(&made).unwrap();
    assert!(decided(&crate::plan::serialize::from_json(&state, &json).unwrap()));
    // Not in the order of time, or after rows without one, which may come whenever.
    for order in ["k", "ts desc", "ts nulls first"] {
        assert!(with_emit(plan(&state, &of(order)).await, &Emit::OnWindowClose, false, &source).is_err(), "{order}");
    }
}
