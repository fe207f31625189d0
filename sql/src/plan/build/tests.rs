//! Plans of queries, as EXPLAIN shows them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::TableReference;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;
use sqlparser::ast;

use super::{Relations, build};
use crate::error::{SqlError, SqlState};
use crate::plan::explain::explain;
use crate::plan::expr::positional_schema;
use crate::plan::serialize::{from_json, to_json};
use crate::plan::{ChangelogKind, IncOp, IncPlan, RelationId};
use crate::session::{plan_query, session_state_for_views, visible};

pub(crate) struct Tables;

const NAMES: [&str; 4] = ["", "t", "u", "e"];

impl Relations for Tables {
    fn resolve(&self, name: &TableReference) -> Option<(RelationId, ChangelogKind)> {
        let id = NAMES.iter().position(|n| !n.is_empty() && *n == name.table())?;
        Some((RelationId(id as u64), if id == 3 { ChangelogKind::Append } else { ChangelogKind::Retract }))
    }
}

pub(crate) fn test_state() -> SessionState {
    let state = session_state_for_views();
    let schema = state.catalog_list().catalog("millstream").unwrap().schema("public").unwrap();
    let nullable = |n: &str, t: DataType| Field::new(n, t, true);
    let ab = |c: DataType| {
        vec![
            nullable("a", DataType::Int64),
            nullable("b", DataType::Int64),
            nullable("c", c),
            nullable("s", DataType::Utf8),
        ]
    };
    let mut tables = vec![("t", ab(DataType::Float64)), ("u", ab(DataType::Decimal128(10, 2)))];
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let list = DataType::List(Arc::new(nullable("item", DataType::Int64)));
    tables.push(("e", vec![nullable("k", DataType::Int32), nullable("ts", micros), nullable("l", list)]));
    for (name, fields) in tables {
        let table = EmptyTable::new(Arc::new(Schema::new(fields)));
        schema.register_table(name.to_owned(), Arc::new(table)).unwrap();
    }
    state
}

pub(crate) fn query(sql: &str) -> ast::Query {
    *crate::parse::parse_query(sql).unwrap()
}

pub(crate) fn try_plan(sql: &str) -> Result<IncPlan, SqlError> {
    let state = test_state();
    let logical = futures_block(plan_query(&state, &query(sql), sql))?;
    build(&state, logical, &Tables)
}

pub(crate) fn futures_block<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f)
}

/// Every query with its plan or its error.
fn all() -> String {
    let one = |sql: &&str| match try_plan(sql) {
        Ok(p) => {
            let lines = explain(&p, &|r| NAMES[r.0 as usize].to_owned(), false);
            format!("== {sql}\n{}\n", lines.join("\n"))
        }
        Err(e) => format!("== {sql}\nERROR {} at {}: {e}\n", e.code.0, e.position.unwrap_or(0)),
    };
    QUERIES.iter().map(one).collect::<Vec<_>>().join("\n")
}

#[test]
fn plans_are_as_recorded() {
    let now = all();
    // MILLSTREAM_BLESS=1 records what is there, to be read before it is committed.
    if std::env::var("MILLSTREAM_BLESS").is_ok_and(|v| v == "1") {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/plan/build/snapshots.txt"), &now).unwrap();
        return;
    }
    let recorded = include_str!("snapshots.txt");
    for (a, b) in recorded.split("\n== ").zip(now.split("\n== ")) {
        assert_eq!(a.trim_end(), b.trim_end());
    }
    assert_eq!(recorded.trim_end(), now.trim_end());
}

#[test]
fn stored_plans_come_back_as_they_were() {
    let state = test_state();
    for sql in QUERIES {
        let Ok(plan) = try_plan(sql) else { continue };
        let json = to_json(&plan).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let text = json.to_string();
        let back = from_json(&state, &serde_json::from_str(&text).unwrap()).unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert_eq!(format!("{:?}", plan.nodes), format!("{:?}", back.nodes), "{sql}");
        assert_eq!((plan.output, &plan.read_order), (back.output, &back.read_order));
        assert_eq!(to_json(&back).unwrap().to_string(), text, "{sql}");
    }
}

#[test]
fn stored_plans_of_another_version_are_refused() {
    let mut json = to_json(&try_plan("select a from t").unwrap()).unwrap();
    json["version"] = 99.into();
    let error = from_json(&test_state(), &json).unwrap_err();
    assert_eq!(error.code, SqlState::DATA_CORRUPTED);
    assert!(error.message.contains("version 99"), "{}", error.message);
}

#[test]
fn nodes_are_in_order_and_typed_as_batch_types_them() {
    let state = test_state();
    for sql in QUERIES {
        let Ok(plan) = try_plan(sql) else { continue };
        for (i, node) in plan.nodes.iter().enumerate() {
            assert!(node.inputs.iter().all(|n| (n.0 as usize) < i), "{sql}");
            assert!(!node.schema.fields().is_empty(), "{sql}: node {i} has no column");
            if let IncOp::Map { predicates, exprs } = &node.op {
                let input = plan.node(node.inputs[0]);
                for p in predicates {
                    p.compile(&input.schema).unwrap();
                }
                for (e, f) in exprs.iter().flatten().zip(node.schema.fields()) {
                    let t = e.compile(&input.schema).unwrap().data_type(&positional_schema(&input.schema)).unwrap();
                    assert_eq!(&t, f.data_type(), "{sql}");
                }
            }
        }
        let logical = futures_block(plan_query(&state, &query(sql), sql)).unwrap();
        let batch = state.optimize(&logical).unwrap();
        let columns = |s: &Schema| {
            s.fields().iter().map(|f| (visible(f.name()).to_owned(), f.data_type().clone())).collect::<Vec<_>>()
        };
        assert_eq!(columns(plan.schema()), columns(batch.schema().as_arrow()), "{sql}");
    }
}

#[test]
fn both_sides_of_a_join_meet_on_the_same_shard() {
    for sql in QUERIES {
        let Ok(plan) = try_plan(sql) else { continue };
        for node in &plan.nodes {
            let IncOp::Join { on, .. } = &node.op else { continue };
            let (l, r) = (&plan.node(node.inputs[0]).schema, &plan.node(node.inputs[1]).schema);
            for (a, b) in on {
                assert_eq!(l.field(*a).data_type(), r.field(*b).data_type(), "{sql}");
            }
        }
    }
}

#[test]
fn a_plan_of_appends_is_append_only() {
    let kind = |sql: &str| {
        let p = try_plan(sql).unwrap();
        p.node(p.output).kind
    };
    assert_eq!(kind("select k, ts from e where k > 1"), ChangelogKind::Append);
    assert_eq!(kind("select distinct k from e"), ChangelogKind::Append);
    assert_eq!(kind("select x.k from e x join e y on x.k = y.k"), ChangelogKind::Append);
    assert_eq!(kind("select x.k from e x left join e y on x.k = y.k"), ChangelogKind::Retract);
    assert_eq!(kind("select k, count(*) from e group by k"), ChangelogKind::Retract);
    assert_eq!(kind("select a from t"), ChangelogKind::Retract);
}

#[test]
fn state_of_operators_is_explained() {
    let plan = try_plan("select t.a, max(u.b) from t join u on t.a = u.a group by t.a").unwrap();
    let text = explain(&plan, &|r| NAMES[r.0 as usize].to_owned(), true).join("\n");
    assert!(text.contains("keeps the rows of both sides, indexed by (a) and (a)"), "{text}");
    assert!(text.contains("keeps a row of accumulators per (a), and counters of values"), "{text}");
}

const QUERIES: &[&str] = &[
    "select a, b + 1 as x from t where a > 5 and s like 'x%'",
    "select * from t",
    "select b + 1 as x from (select a + b as b from t where c > 1) q where b < 3",
    "select distinct a from t",
    "select a, count(*), sum(b), avg(c), min(s), max(s) from t group by a",
    "select count(*) from t where a > 1",
    "select a % 3 as m, sum(b) filter (where c > 1), count(distinct s) from t group by a % 3 having count(*) > 2",
    "select sum(distinct a), count(distinct b) from t",
    "select a, array_agg(b order by b) from t group by a",
    "select stddev(c) from t",
    "select a, b, sum(c) from t group by grouping sets ((a), (b), ())",
    "select t.a, u.b from t join u on t.a = u.a",
    "select t.a, u.b from t join u on t.a = u.a + 1 and t.b > u.b",
    "select t.a, u.c from t left join u on t.a = u.a and t.b < u.b where t.s = 'x'",
    "select t.a, u.c from t full join u on t.a = u.a",
    "select t.a, u.c from t right join u using (a)",
    "select t.a, u.b from t, u where t.a < u.a",
    "select t.a, u.b from t left join u on t.a < u.a",
    "select t.c, e.k from t join e on t.a = e.k",
    "select * from t where a in (select b from u)",
    "select * from t where a not in (select b from u)",
    "select * from t where exists (select 1 from u where u.a = t.a)",
    "select * from t where not exists (select 1 from u where u.a = t.a and u.b > t.b)",
    "select * from t where a in (select b from u) or b = 1",
    "select a, (select max(b) from u) as m from t",
    "select * from t where b > (select avg(b) from u)",
    "select a, (select b from u where u.s = 'x') from t",
    "select a, (select sum(b) from u where u.a = t.a) from t",
    "select a from t union all select b from u union all select a from u",
    "select a from t union select b from u",
    "select a from t intersect select a from u",
    "select a from t except select a from u",
    "select a, b from t order by b desc, a limit 10 offset 2",
    "select a from t order by b limit 3",
    "select a, b from t order by a",
    "select a from t limit 3",
    "select count(*) from t limit 1",
    "select * from (select a, b, row_number() over (partition by a order by b desc) as rn from t) q where rn <= 3",
    "select a, b from (select a, b, row_number() over (partition by a + 1 order by c) as rn from t) q where rn = 1",
    "select a, b, rank() over (partition by a order by b) from t",
    "select a, sum(b) over (order by b) from t",
    "select distinct on (a) a, b, c from t order by a, b desc",
    "select k, unnest(l) as x from e",
    "select 1 as one, 'x' as two",
    "select * from (values (1, 'a'), (2, 'b')) v(x, y)",
    "with q as (select a, count(*) as n from t group by a) select x.a, x.n, y.n from q x join q y on x.a = y.n",
    "with recursive r as (select a, b from t union all select r.a, t.b from r join t on r.b = t.a) select * from r",
    "with recursive r as (select a, b from t union select r.a, u.a from r left join u on r.b = u.b and u.c > 1) select a from r",
    "with recursive r(k) as (select k from e union select e.k from r join e on e.k = r.k + 1) select k from r",
    "with recursive r(n) as (select 1 union all (select n + 1 from r order by n limit 1)) select * from r",
    "with recursive r(n) as (select a from t union select n from r join r x using (n)) select * from r",
    "select a, now() from t",
    "select k from e where ts > now() - interval '1 hour'",
    "select k from e where now() < ts + interval '1 month' and ts <= current_timestamp and k > 3",
    "select count(*) from e where ts between localtimestamp - interval '10 minutes' and mz_now()",
    "select a.k from e a join e b on a.k = b.k and a.ts < now() where b.ts > now() - interval '1 hour' and a.k > 1",
    "select a.k from e a, e b where a.k = b.k and a.ts + (b.ts - a.ts) > now()",
    "select a.k, b.ts from e a left join e b on a.k = b.k and b.ts > now() - interval '1 hour'",
    "select k from e where ts >= current_date",
    "select k from e where ts::date = current_date - interval '7 days'",
    "select k from e where ts = date_trunc('hour', now() + interval '30 minutes') - interval '1 hour'",
    "select k from e where date_trunc('week', now()) > ts",
    "select k from e where now() - ts < interval '5 minutes'",
    "select k from e where k = 1 or (ts > now() and k < 3)",
    "select k from e where not (ts > now() or k = 2)",
    "select k from e where ts not between now() - interval '1 hour' and now() or k = 2",
    "select k, max(ts) from e group by k having max(ts) < now() - interval '1 hour'",
    "select k from e where exists (select 1 from t where t.a = e.k) and ts < now()",
    "select s from t where exists (select 1 from e where t.a = e.k and ts < now())",
    "select * from (select k, ts, row_number() over (partition by k order by ts) as rn from e) where rn = 1 and ts < now()",
    "select k, ts > now() from e",
    "select k from e where ts > now() - interval '1 month'",
    "select k from e where ts <> now()",
    "select k from e where extract(hour from now()) > k",
    "select k from e where (ts > now()) is null",
    "select a.k from e a left join e b on a.k = b.k and a.ts > now()",
    "select k from e where ts > now() or ts < now() - interval '1 hour'",
    "select count(*) filter (where ts > now()) from e",
    "select k from e order by now() limit 1",
    "select k from e where case when ts > now() then true else false end",
    "with recursive r as (select k, ts from e where ts > now() union all select r.k, e.ts from r join e on r.k < e.k) select k from r",
    "select a from t where random() < 0.5",
    "select aa from t",
    "select a from tt",
    "select foo(a) from t",
    "select a, b from t group by a",
    "select t.a from t join u on true where a = 1",
    "select a + s from t",
    "select x.a, sum(x.n) from (select a, b, count(*) as n from t group by a, b) x group by x.a",
    "select t.a, count(*) from t join u on t.a = u.a group by t.a",
    "select case when c > 0 then 1 / a else 0 end as z, upper(s) || 'x' as w from t",
    "select date_trunc('hour', ts) as h, count(*) from e group by 1",
    "select * from t where a between 1 and 3 and s is not null",
    "select first_value(b order by c) from t group by a",
    "select k, window_start, count(*) from tumble(e, ts, interval '1 minute') group by k, window_start",
    "select x.k, x.window_end from hop(e, ts, interval '10 seconds', interval '1 minute', interval '5 seconds') x",
    "with q as (select k, ts from e where k > 1) select q.k, window_start from tumble(q, ts, interval '1' day)",
    "select window_start from tumble((select ts from e), ts, size => interval '1 hour')",
    "select tumble(ts, interval '5 minutes') as w, count(*) from e group by tumble(ts, interval '5 minutes')",
    "select * from hop(e, ts, interval '1 hour', interval '1 minute')",
    "select * from tumble(e, ts, interval '1 month')",
    "select * from tumble(e, k, interval '1 minute')",
    "select * from tumble(e, ts)",
    "select * from tumble(e, tss, interval '1 minute')",
    "select count(*) from t cross join u",
    "select count(*) from t where not exists (select 1 from u)",
    "select a, count(*) over () from t",
    "select distinct a from t order by a desc limit 5",
    "select * from t order by a + b limit 2",
    "select * from (select t.*, row_number() over (order by a) as rn from t) q where rn < 4 and b > 1 and rn > 1",
    "select * from (select a, row_number() over (partition by b order by a) as rn from t) q where rn = 2",
    "select a from t except all select a from u",
    "select a from t offset 3",
    "select a from t where a not in (select b from u) or b = 1",
    "select string_agg(s, ',' order by s) from t group by b + 1",
    "select count(*) filter (where a > 1), avg(b) from t",
    "select a, b from t where a = (select b from u where s = 'x')",
    "select * from t where a = any(select b from u)",
    "select * from t join lateral (select sum(b) as sb from u where u.a = t.a) l on true",
    "select sum(a), sum(c), avg(a) from u",
    "select sum(s) from t",
    "select a from t intersect all select b from u",
    "select * from t where a in (select b from u) is null",
    "select a, b > all (select b from u where u.a = t.a) as x from t",
    "select * from t where (a, b) in (select a, b from u)",
    "select * from t where exists (select 1 from u where u.b > t.b)",
    "select a, exists (select 1 from u where u.b > t.b) as x from t",
    "select a, (select u.b from u where u.a = t.a) as x from t",
    "select a, (select count(*) from u where u.b < t.b) as x from t",
    "select a, (select u.s from u where u.a = t.a order by u.b desc limit 1) as x from t",
    "select t.a, q.b from t left join lateral (select u.b from u where u.a = t.a order by u.b limit 3) q on true",
    "select e.k, x from e, unnest(e.l) as x",
    "select e.k, g from e, generate_series(1, e.k) as g",
    "select t.a from t join u on t.a is not distinct from u.a join e on e.k = t.b",
    "select a from t where a not in (select u.a from u where u.s = t.s)",
    "select * from generate_series(1, 3)",
    "select u.c + t.b, t.c * 2 from t join u on t.a = u.a and t.b = u.b where u.s is null",
    "select t.a, u.b from t join u on t.a = u.a and u.b between t.b - 5 and t.b + 5",
    "select x.k, y.ts from e x left join e y on x.k = y.k and y.ts between x.ts and x.ts + interval '10 minutes'",
    "select x.k, y.ts from e x join e y on x.k = y.k and y.ts between x.ts and x.ts + interval '1 month'",
    "select t.a from t join u on t.b >= u.a and t.b < u.b and t.s <> u.s",
    "select t.a from t join u on t.b >= u.a and 10 / t.a > u.b",
    "select t.a from t join e on e.k <= t.b and t.c < t.a",
    "select a from t where b > (select max(b) from u)",
    "select * from t match_recognize (partition by a order by b desc measures x.c as xc, last(y.c, 1) as yc, sum(y.b * 2) as n pattern (x y+ z?) define y as c > prev(c), z as z.b < x.b and c > 0) m",
    "select * from e match_recognize (order by ts measures classifier() as v, match_number() as n all rows per match pattern (x | {- y -}) within interval '1' hour define x as k = 1) m",
    "select * from t match_recognize (order by b measures x.d as d pattern (x) define x as true)",
    "select * from t match_recognize (order by b measures x.c as d pattern (x) define x as c + 1)",
    "select * from t match_recognize (order by b measures x.c as d pattern (x) define y as true)",
    "select * from t match_recognize (order by b measures last(x.c + y.c) as d pattern (x y) define x as true)",
    "select * from t match_recognize (order by b measures x.c as d pattern (x) define x as c > (select max(c) from u))",
    "select * from t match_recognize (order by b measures x.c as d pattern (x) define x as final last(c) > 1)",
    "select * from t match_recognize (order by b measures prev(x.c, y.c) as d pattern (x y) define x as true)",
    "select * from t match_recognize (order by c measures x.c as d pattern (x y) within interval '1' day define x as true)",
];

#[test]
fn asof_joins_are_native_and_keep_all_columns_of_the_right_side() {
    let state = test_state();
    let sql = "select t.s, u.b from t asof left join u on t.a = u.a and u.c <= t.b";
    let parsed = crate::parse::parse_query(sql).unwrap();
    let logical = futures_block(plan_query(&state, &parsed, sql)).unwrap();
    let plan = build(&state, logical, &Tables).unwrap();
    let lines = explain(&plan, &|r| NAMES[r.0 as usize].to_owned(), true);
    assert!(lines.iter().any(|l| l.contains("AsOfJoin Left on (a = a,") && l.ends_with("[native]")), "{lines:#?}");
    assert!(lines.iter().any(|l| l.contains("keeps the rows of both sides, in order of")), "{lines:#?}");
    assert!(lines.iter().any(|l| l.contains("Source u (a, b, c, s)")), "{lines:#?}");
    assert!(lines.iter().any(|l| l.contains("Source t (a, b, s)")), "{lines:#?}");
    let back = from_json(&state, &to_json(&plan).unwrap()).unwrap();
    assert_eq!(format!("{:?}", plan.nodes), format!("{:?}", back.nodes));
}

#[test]
fn joins_that_were_stored_before_there_were_ranges_have_none() {
    let plan = try_plan("select t.a from t join u on t.b < u.b").unwrap();
    let ranges = |p: &IncPlan| {
        p.nodes.iter().find_map(|n| match &n.op {
            IncOp::Join { ranges, .. } => Some(ranges.clone()),
            _ => None,
        })
    };
    assert!(matches!(ranges(&plan), Some(Some(_))));
    let mut json = to_json(&plan).unwrap();
    let mut found = 0;
    for node in json["nodes"].as_array_mut().unwrap() {
        if let Some(join) = node["op"].get_mut("join") {
            found += usize::from(join.as_object_mut().unwrap().remove("ranges").is_some());
        }
    }
    assert_eq!(found, 1);
    assert_eq!(ranges(&from_json(&test_state(), &json).unwrap()), Some(None));
}
