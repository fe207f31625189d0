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
    let cases: [(&str, &[Option<i64>]); 12] = [
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
