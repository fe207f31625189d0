//! Plans of queries, as EXPLAIN shows them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::TableReference;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;
use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::{Relations, build};
use crate::error::SqlError;
use crate::plan::explain::explain;
use crate::plan::{ChangelogKind, IncPlan, RelationId};
use crate::session::{plan_query, session_state_for_views};

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
    match Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0) {
        ast::Statement::Query(q) => *q,
        other => panic!("not a query: {other}"),
    }
}

pub(crate) fn try_plan(sql: &str) -> Result<IncPlan, SqlError> {
    let state = test_state();
    let logical = futures_block(plan_query(&state, &query(sql), sql))?;
    build(&state, logical, &Tables)
}

pub(crate) fn futures_block<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f)
}

pub(crate) fn shown(sql: &str) -> String {
    let plan = try_plan(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    explain(&plan, &|r| NAMES[r.0 as usize].to_owned(), false).join("\n")
}

#[test]
fn probe() {
    for sql in QUERIES {
        match try_plan(sql) {
            Ok(p) => println!("== {sql}\n{}\n", explain(&p, &|r| NAMES[r.0 as usize].to_owned(), false).join("\n")),
            Err(e) => println!("== {sql}\nERROR {} {e} at {:?}\n", e.code.0, e.position),
        }
    }
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
    "select a, now() from t",
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
];
