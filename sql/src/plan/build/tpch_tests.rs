//! The queries of TPC-H that have subqueries, as views.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::TableReference;
use datafusion::datasource::empty::EmptyTable;

use super::tests::{futures_block, query};
use super::{Relations, build};
use crate::plan::explain::explain;
use crate::plan::{ChangelogKind, IncOp, JoinKind, RelationId, Tier};
use crate::session::{plan_query, session_state_for_views};

const TABLES: [(&str, &str); 8] = [
    ("part", "p_partkey p_name:t p_mfgr:t p_brand:t p_type:t p_size p_container:t p_retailprice:n p_comment:t"),
    ("supplier", "s_suppkey s_name:t s_address:t s_nationkey s_phone:t s_acctbal:n s_comment:t"),
    ("partsupp", "ps_partkey ps_suppkey ps_availqty ps_supplycost:n ps_comment:t"),
    ("customer", "c_custkey c_name:t c_address:t c_nationkey c_phone:t c_acctbal:n c_mktsegment:t c_comment:t"),
    ("orders", "o_orderkey o_custkey o_orderstatus:t o_totalprice:n o_orderdate:d o_orderpriority:t o_clerk:t"),
    (
        "lineitem",
        "l_orderkey l_partkey l_suppkey l_linenumber l_quantity:n l_extendedprice:n l_discount:n l_tax:n \
         l_returnflag:t l_linestatus:t l_shipdate:d l_commitdate:d l_receiptdate:d l_shipmode:t",
    ),
    ("nation", "n_nationkey n_name:t n_regionkey n_comment:t"),
    ("region", "r_regionkey r_name:t r_comment:t"),
];

struct Tpch;

impl Relations for Tpch {
    fn resolve(&self, name: &TableReference) -> Option<(RelationId, ChangelogKind)> {
        let id = TABLES.iter().position(|t| t.0 == name.table())?;
        Some((RelationId(id as u64 + 1), ChangelogKind::Retract))
    }
}

#[test]
fn queries_of_tpch_with_subqueries_are_native() {
    let state = session_state_for_views();
    let schema = state.catalog_list().catalog("millstream").unwrap().schema("public").unwrap();
    for (name, columns) in TABLES {
        let field = |c: &str| match c.split_once(':') {
            None => Field::new(c, DataType::Int64, false),
            Some((n, "t")) => Field::new(n, DataType::Utf8, false),
            Some((n, "d")) => Field::new(n, DataType::Date32, false),
            Some((n, _)) => Field::new(n, DataType::Decimal128(15, 2), false),
        };
        let fields: Vec<Field> = columns.split_whitespace().map(field).collect();
        schema.register_table(name.to_owned(), Arc::new(EmptyTable::new(Arc::new(Schema::new(fields))))).unwrap();
    }
    for (name, sql) in QUERIES {
        let logical = futures_block(plan_query(&state, &query(sql), sql)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let plan = build(&state, logical, &Tpch).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let text = explain(&plan, &|r| TABLES[r.0 as usize - 1].0.to_owned(), false).join("\n");
        assert!(plan.nodes.iter().all(|n| n.op.tier() == Tier::Native), "{name}\n{text}");
        // No relation is joined with another without a key, unless that is one row.
        for n in &plan.nodes {
            let IncOp::Join { kind: JoinKind::Inner, on, .. } = &n.op else { continue };
            let one_row = |i: usize| {
                let mut node = plan.node(n.inputs[i]);
                while let IncOp::Exchange { .. } | IncOp::Map { .. } = &node.op {
                    node = plan.node(node.inputs[0]);
                }
                matches!(&node.op, IncOp::Aggregate { keys, .. } if keys.is_empty())
            };
            assert!(!on.is_empty() || one_row(0) || one_row(1), "{name}\n{text}");
        }
    }
}

const QUERIES: [(&str, &str); 11] = [
    (
        "q2",
        "select s_acctbal, s_name, n_name, p_partkey, p_mfgr from part, supplier, partsupp, nation, region \
         where p_partkey = ps_partkey and s_suppkey = ps_suppkey and p_size = 15 and p_type like '%BRASS' \
         and s_nationkey = n_nationkey and n_regionkey = r_regionkey and r_name = 'EUROPE' and ps_supplycost = \
         (select min(ps_supplycost) from partsupp, supplier, nation, region where p_partkey = ps_partkey \
         and s_suppkey = ps_suppkey and s_nationkey = n_nationkey and n_regionkey = r_regionkey \
         and r_name = 'EUROPE') order by s_acctbal desc, n_name, s_name, p_partkey limit 100",
    ),
    (
        "q4",
        "select o_orderpriority, count(*) as n from orders where o_orderdate >= date '1993-07-01' \
         and o_orderdate < date '1993-07-01' + interval '3' month and exists (select * from lineitem \
         where l_orderkey = o_orderkey and l_commitdate < l_receiptdate) group by o_orderpriority",
    ),
    (
        "q11",
        "select ps_partkey, sum(ps_supplycost * ps_availqty) as value from partsupp, supplier, nation \
         where ps_suppkey = s_suppkey and s_nationkey = n_nationkey and n_name = 'GERMANY' group by ps_partkey \
         having sum(ps_supplycost * ps_availqty) > (select sum(ps_supplycost * ps_availqty) * 0.0001 \
         from partsupp, supplier, nation where ps_suppkey = s_suppkey and s_nationkey = n_nationkey \
         and n_name = 'GERMANY')",
    ),
    (
        "q13",
        "select c_count, count(*) as n from (select c_custkey, count(o_orderkey) as c_count from customer \
         left join orders on c_custkey = o_custkey and o_clerk not like '%special%requests%' group by c_custkey) x \
         group by c_count",
    ),
    (
        "q15",
        "with revenue as (select l_suppkey as supplier_no, sum(l_extendedprice * (1 - l_discount)) as total \
         from lineitem where l_shipdate >= date '1996-01-01' and l_shipdate < date '1996-01-01' + interval '3' month \
         group by l_suppkey) select s_suppkey, s_name, total from supplier, revenue where s_suppkey = supplier_no \
         and total = (select max(total) from revenue)",
    ),
    (
        "q16",
        "select p_brand, p_type, p_size, count(distinct ps_suppkey) as n from partsupp, part \
         where p_partkey = ps_partkey and p_brand <> 'Brand#45' and p_type not like 'MEDIUM POLISHED%' \
         and p_size in (49, 14, 23, 45, 19, 3, 36, 9) and ps_suppkey not in (select s_suppkey from supplier \
         where s_comment like '%Customer%Complaints%') group by p_brand, p_type, p_size",
    ),
    (
        "q17",
        "select sum(l_extendedprice) / 7.0 as avg_yearly from lineitem, part where p_partkey = l_partkey \
         and p_brand = 'Brand#23' and p_container = 'MED BOX' and l_quantity < (select 0.2 * avg(l_quantity) \
         from lineitem where l_partkey = p_partkey)",
    ),
    (
        "q18",
        "select c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) as n \
         from customer, orders, lineitem where o_orderkey in (select l_orderkey from lineitem group by l_orderkey \
         having sum(l_quantity) > 300) and c_custkey = o_custkey and o_orderkey = l_orderkey \
         group by c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice",
    ),
    (
        "q20",
        "select s_name, s_address from supplier, nation where s_suppkey in (select ps_suppkey from partsupp \
         where ps_partkey in (select p_partkey from part where p_name like 'forest%') and ps_availqty > \
         (select 0.5 * sum(l_quantity) from lineitem where l_partkey = ps_partkey and l_suppkey = ps_suppkey \
         and l_shipdate >= date '1994-01-01' and l_shipdate < date '1994-01-01' + interval '1' year)) \
         and s_nationkey = n_nationkey and n_name = 'CANADA'",
    ),
    (
        "q21",
        "select s_name, count(*) as numwait from supplier, lineitem l1, orders, nation \
         where s_suppkey = l1.l_suppkey and o_orderkey = l1.l_orderkey and o_orderstatus = 'F' \
         and l1.l_receiptdate > l1.l_commitdate and exists (select * from lineitem l2 \
         where l2.l_orderkey = l1.l_orderkey and l2.l_suppkey <> l1.l_suppkey) and not exists (select * \
         from lineitem l3 where l3.l_orderkey = l1.l_orderkey and l3.l_suppkey <> l1.l_suppkey \
         and l3.l_receiptdate > l3.l_commitdate) and s_nationkey = n_nationkey and n_name = 'SAUDI ARABIA' \
         group by s_name",
    ),
    (
        "q22",
        "select cntrycode, count(*) as numcust, sum(c_acctbal) as total from (select substring(c_phone from 1 for 2) \
         as cntrycode, c_acctbal from customer where substring(c_phone from 1 for 2) in ('13', '31', '23', '29') \
         and c_acctbal > (select avg(c_acctbal) from customer where c_acctbal > 0.00 \
         and substring(c_phone from 1 for 2) in ('13', '31', '23', '29')) and not exists (select * from orders \
         where o_custkey = c_custkey)) as custsale group by cntrycode",
    ),
];
