//! The 22 queries with fixed parameters, readable by PostgreSQL as well.

/// A query.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// `q1` to `q22`.
    pub name: &'static str,
    /// What it asks.
    pub about: &'static str,
    /// Its text.
    pub sql: &'static str,
}

/// All of them.
pub const QUERIES: &[Query] = &[
    Query {
        name: "q1",
        about: "pricing summary report",
        sql: "SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price, \
              sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price, \
              sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge, \
              avg(CAST(l_quantity AS DOUBLE PRECISION)) AS avg_qty, \
              avg(CAST(l_extendedprice AS DOUBLE PRECISION)) AS avg_price, \
              avg(CAST(l_discount AS DOUBLE PRECISION)) AS avg_disc, count(*) AS count_order \
              FROM lineitem WHERE l_shipdate <= DATE '1997-09-02' GROUP BY l_returnflag, l_linestatus",
    },
    Query {
        name: "q2",
        about: "minimum cost supplier: correlated scalar subquery over a join",
        sql: "SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment \
              FROM part, supplier, partsupp, nation, region \
              WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND p_size = 15 AND p_type LIKE '%BRASS' \
              AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'EUROPE' \
              AND ps_supplycost = (SELECT min(ps_supplycost) FROM partsupp, supplier, nation, region \
              WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND s_nationkey = n_nationkey \
              AND n_regionkey = r_regionkey AND r_name = 'EUROPE') \
              ORDER BY s_acctbal DESC, n_name, s_name, p_partkey LIMIT 100",
    },
    Query {
        name: "q3",
        about: "shipping priority",
        sql: "SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority \
              FROM customer, orders, lineitem WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey \
              AND l_orderkey = o_orderkey AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-01-15' \
              GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate, l_orderkey LIMIT 10",
    },
    Query {
        name: "q4",
        about: "order priority checking: EXISTS",
        sql: "SELECT o_orderpriority, count(*) AS order_count FROM orders WHERE o_orderdate >= DATE '1993-07-01' \
              AND o_orderdate < DATE '1994-07-01' AND EXISTS (SELECT * FROM lineitem WHERE l_orderkey = o_orderkey \
              AND l_commitdate < l_receiptdate) GROUP BY o_orderpriority",
    },
    Query {
        name: "q5",
        about: "local supplier volume: six tables",
        sql: "SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue \
              FROM customer, orders, lineitem, supplier, nation, region WHERE c_custkey = o_custkey \
              AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey AND c_nationkey = s_nationkey \
              AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name IN ('ASIA', 'EUROPE') \
              AND o_orderdate >= DATE '1993-06-01' GROUP BY n_name",
    },
    Query {
        name: "q6",
        about: "forecasting revenue change: global aggregate",
        sql: "SELECT sum(l_extendedprice * l_discount) AS revenue FROM lineitem WHERE l_shipdate >= DATE '1994-01-01' \
              AND l_shipdate < DATE '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    },
    Query {
        name: "q7",
        about: "volume shipping: nation twice, disjunction",
        sql: "SELECT supp_nation, cust_nation, l_year, sum(volume) AS revenue FROM ( \
              SELECT n1.n_name AS supp_nation, n2.n_name AS cust_nation, \
              CAST(extract(year FROM l_shipdate) AS INT) AS l_year, l_extendedprice * (1 - l_discount) AS volume \
              FROM supplier, lineitem, orders, customer, nation n1, nation n2 WHERE s_suppkey = l_suppkey \
              AND o_orderkey = l_orderkey AND c_custkey = o_custkey AND s_nationkey = n1.n_nationkey \
              AND c_nationkey = n2.n_nationkey AND ((n1.n_name = 'FRANCE' AND n2.n_name <> 'FRANCE') \
              OR (n1.n_name <> 'GERMANY' AND n2.n_name = 'GERMANY')) \
              AND l_shipdate BETWEEN DATE '1994-01-01' AND DATE '1996-12-31') AS shipping \
              GROUP BY supp_nation, cust_nation, l_year",
    },
    Query {
        name: "q8",
        about: "national market share: eight tables, CASE in an aggregate",
        sql: "SELECT o_year, sum(CASE WHEN nation = 'BRAZIL' THEN volume ELSE 0 END) AS brazil, sum(volume) AS total \
              FROM (SELECT CAST(extract(year FROM o_orderdate) AS INT) AS o_year, \
              l_extendedprice * (1 - l_discount) AS volume, n2.n_name AS nation \
              FROM part, supplier, lineitem, orders, customer, nation n1, nation n2, region \
              WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey \
              AND o_custkey = c_custkey AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey \
              AND r_name = 'AMERICA' AND s_nationkey = n2.n_nationkey \
              AND o_orderdate BETWEEN DATE '1993-01-01' AND DATE '1996-12-31' AND p_type LIKE '%STEEL') AS all_nations \
              GROUP BY o_year",
    },
    Query {
        name: "q9",
        about: "product type profit measure",
        sql: "SELECT nation, o_year, sum(amount) AS sum_profit FROM (SELECT n_name AS nation, \
              CAST(extract(year FROM o_orderdate) AS INT) AS o_year, \
              l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity AS amount \
              FROM part, supplier, lineitem, partsupp, orders, nation WHERE s_suppkey = l_suppkey \
              AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey AND p_partkey = l_partkey \
              AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey AND p_name LIKE '%green%') AS profit \
              GROUP BY nation, o_year",
    },
    Query {
        name: "q10",
        about: "returned item reporting",
        sql: "SELECT c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name, \
              c_address, c_phone, c_comment FROM customer, orders, lineitem, nation WHERE c_custkey = o_custkey \
              AND l_orderkey = o_orderkey AND o_orderdate >= DATE '1993-10-01' AND o_orderdate < DATE '1995-01-01' \
              AND l_returnflag = 'R' AND c_nationkey = n_nationkey \
              GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment \
              ORDER BY revenue DESC, c_custkey LIMIT 20",
    },
    Query {
        name: "q11",
        about: "important stock identification: scalar subquery in HAVING",
        sql: "SELECT ps_partkey, sum(ps_supplycost * ps_availqty) AS value FROM partsupp, supplier, nation \
              WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'GERMANY' GROUP BY ps_partkey \
              HAVING sum(ps_supplycost * ps_availqty) > (SELECT sum(ps_supplycost * ps_availqty) * 0.05 \
              FROM partsupp, supplier, nation WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey \
              AND n_name = 'GERMANY')",
    },
    Query {
        name: "q12",
        about: "shipping modes and order priority",
        sql: "SELECT l_shipmode, sum(CASE WHEN o_orderpriority = '1-URGENT' OR o_orderpriority = '2-HIGH' THEN 1 \
              ELSE 0 END) AS high_line_count, sum(CASE WHEN o_orderpriority <> '1-URGENT' \
              AND o_orderpriority <> '2-HIGH' THEN 1 ELSE 0 END) AS low_line_count FROM orders, lineitem \
              WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate \
              AND l_shipdate < l_commitdate AND l_receiptdate >= DATE '1994-01-01' \
              AND l_receiptdate < DATE '1996-01-01' GROUP BY l_shipmode",
    },
    Query {
        name: "q13",
        about: "customer distribution: outer join with a condition, aggregate of aggregate",
        sql: "SELECT c_count, count(*) AS custdist FROM (SELECT c_custkey, count(o_orderkey) FROM customer \
              LEFT OUTER JOIN orders ON c_custkey = o_custkey AND o_comment NOT LIKE '%special%requests%' \
              GROUP BY c_custkey) AS c_orders (c_custkey, c_count) GROUP BY c_count",
    },
    Query {
        name: "q14",
        about: "promotion effect: quotient of two aggregates",
        sql: "SELECT 100.00 * CAST(sum(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 \
              END) AS DOUBLE PRECISION) / CAST(sum(l_extendedprice * (1 - l_discount)) AS DOUBLE PRECISION) \
              AS promo_revenue FROM lineitem, part WHERE l_partkey = p_partkey AND l_shipdate >= DATE '1995-01-01' \
              AND l_shipdate < DATE '1996-01-01'",
    },
    Query {
        name: "q15",
        about: "top supplier: a CTE read twice, equal to its maximum",
        sql: "WITH revenue AS (SELECT l_suppkey AS supplier_no, sum(l_extendedprice * (1 - l_discount)) AS total_revenue \
              FROM lineitem WHERE l_shipdate >= DATE '1996-01-01' AND l_shipdate < DATE '1996-07-01' \
              GROUP BY l_suppkey) \
              SELECT s_suppkey, s_name, s_address, s_phone, total_revenue FROM supplier, revenue \
              WHERE s_suppkey = supplier_no AND total_revenue = (SELECT max(total_revenue) FROM revenue)",
    },
    Query {
        name: "q16",
        about: "parts and suppliers: NOT IN, count of distinct",
        sql: "SELECT p_brand, p_type, p_size, count(DISTINCT ps_suppkey) AS supplier_cnt FROM partsupp, part \
              WHERE p_partkey = ps_partkey AND p_brand <> 'Brand#13' AND p_type NOT LIKE 'MEDIUM POLISHED%' \
              AND p_size IN (5, 15, 45) AND ps_suppkey NOT IN (SELECT s_suppkey FROM supplier \
              WHERE s_comment LIKE '%Customer%Complaints%') GROUP BY p_brand, p_type, p_size",
    },
    Query {
        name: "q17",
        about: "small quantity order revenue: correlated average",
        sql: "SELECT CAST(sum(l_extendedprice) AS DOUBLE PRECISION) / 7.0 AS avg_yearly FROM lineitem, part \
              WHERE p_partkey = l_partkey AND p_container IN ('MED BOX', 'SM CASE') \
              AND CAST(l_quantity AS DOUBLE PRECISION) < (SELECT 0.5 * avg(CAST(l_quantity AS DOUBLE PRECISION)) \
              FROM lineitem WHERE l_partkey = p_partkey)",
    },
    Query {
        name: "q18",
        about: "large volume customer: IN over an aggregate",
        sql: "SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) AS quantity \
              FROM customer, orders, lineitem WHERE o_orderkey IN (SELECT l_orderkey FROM lineitem \
              GROUP BY l_orderkey HAVING sum(l_quantity) > 120) AND c_custkey = o_custkey AND o_orderkey = l_orderkey \
              GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice \
              ORDER BY o_totalprice DESC, o_orderdate, o_orderkey LIMIT 100",
    },
    Query {
        name: "q19",
        about: "discounted revenue: a disjunction over two tables",
        sql: "SELECT sum(l_extendedprice * (1 - l_discount)) AS revenue FROM lineitem, part WHERE \
              (p_partkey = l_partkey AND p_brand = 'Brand#12' AND p_container IN ('SM CASE', 'SM BOX') \
              AND l_quantity BETWEEN 1 AND 21 AND p_size BETWEEN 1 AND 25 AND l_shipmode IN ('AIR', 'AIR REG')) \
              OR (p_partkey = l_partkey AND p_brand = 'Brand#23' AND p_container IN ('MED BAG', 'MED BOX') \
              AND l_quantity BETWEEN 10 AND 40 AND p_size BETWEEN 1 AND 50 AND l_shipmode IN ('AIR', 'AIR REG')) \
              OR (p_partkey = l_partkey AND p_brand = 'Brand#22' AND p_container IN ('LG CASE', 'LG PKG') \
              AND l_quantity BETWEEN 20 AND 50 AND p_size BETWEEN 1 AND 50 AND l_shipinstruct = 'DELIVER IN PERSON')",
    },
    Query {
        name: "q20",
        about: "potential part promotion: IN within IN, correlated by two columns",
        sql: "SELECT s_name, s_address FROM supplier, nation WHERE s_suppkey IN (SELECT ps_suppkey FROM partsupp \
              WHERE ps_partkey IN (SELECT p_partkey FROM part WHERE p_name LIKE 'forest%') \
              AND CAST(ps_availqty AS DECIMAL(15,2)) > (SELECT 0.5 * sum(l_quantity) FROM lineitem \
              WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey AND l_shipdate >= DATE '1994-01-01' \
              AND l_shipdate < DATE '1996-01-01')) AND s_nationkey = n_nationkey AND n_regionkey IN (1, 3)",
    },
    Query {
        name: "q21",
        about: "suppliers who kept orders waiting: EXISTS and NOT EXISTS with inequality",
        sql: "SELECT s_name, count(*) AS numwait FROM supplier, lineitem l1, orders, nation \
              WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F' \
              AND l1.l_receiptdate > l1.l_commitdate AND EXISTS (SELECT * FROM lineitem l2 \
              WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey) AND NOT EXISTS (SELECT * \
              FROM lineitem l3 WHERE l3.l_orderkey = l1.l_orderkey AND l3.l_suppkey <> l1.l_suppkey \
              AND l3.l_receiptdate > l3.l_commitdate) AND s_nationkey = n_nationkey AND n_regionkey IN (2, 3, 4) \
              GROUP BY s_name ORDER BY numwait DESC, s_name LIMIT 100",
    },
    Query {
        name: "q22",
        about: "global sales opportunity: scalar subquery and NOT EXISTS",
        sql: "SELECT cntrycode, count(*) AS numcust, sum(c_acctbal) AS totacctbal FROM ( \
              SELECT substring(c_phone FROM 1 FOR 2) AS cntrycode, c_acctbal FROM customer \
              WHERE substring(c_phone FROM 1 FOR 2) IN ('10', '12', '13', '15', '17', '19', '21') \
              AND c_acctbal > (SELECT CAST(avg(CAST(c_acctbal AS DOUBLE PRECISION)) AS DECIMAL(15,2)) FROM customer \
              WHERE c_acctbal > 0.00 AND substring(c_phone FROM 1 FOR 2) IN ('10', '12', '13', '15', '17', '19', '21')) \
              AND NOT EXISTS (SELECT * FROM orders WHERE o_custkey = c_custkey)) AS custsale GROUP BY cntrycode",
    },
];
