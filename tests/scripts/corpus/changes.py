"""Types and their limits, errors with their SQLSTATE, and how INSERT, UPDATE and DELETE play together with views."""

from base import Topic


def typed(name, sql_type, values, expressions):
    """A column of one type: stored, compared, grouped, joined, changed."""
    rows = ", ".join(f"({i}, {v})" for i, v in enumerate(values, 1))
    steps = [f"CREATE TABLE t (id INT PRIMARY KEY, x {sql_type})", f"INSERT INTO t VALUES {rows}", "SELECT id, x FROM t",
             "SELECT x, count(*) AS n FROM t GROUP BY x", "SELECT DISTINCT x FROM t", "SELECT a.id, b.id AS other FROM t a JOIN t b ON a.x = b.x AND a.id < b.id",
             "SELECT id FROM t WHERE x IS NULL", "SELECT id, x FROM t ORDER BY x, id", "SELECT id, x FROM t ORDER BY x DESC, id LIMIT 3",
             "SELECT min(id) AS a, count(x) AS b, count(DISTINCT x) AS c FROM t", f"SELECT id FROM t WHERE x = {values[0]}", f"SELECT id FROM t WHERE x <> {values[0]}",
             "SELECT x FROM t UNION SELECT x FROM t", "SELECT x FROM t WHERE id > 2 EXCEPT SELECT x FROM t WHERE id <= 2",
             *(f"SELECT id, {e} AS r FROM t" for e in expressions), f"UPDATE t SET x = {values[1]} WHERE id = 1", "DELETE FROM t WHERE id = 2",
             "SELECT id, x FROM t", "SELECT x, count(*) AS n FROM t GROUP BY x", "SELECT CAST(x AS TEXT) AS s FROM t"]
    return Topic(f"types/{name}", f"type {sql_type}", steps)


TYPES = [
    ("smallint", "SMALLINT", ["1", "-32768", "32767", "NULL", "1", "0"], ["x::int + 1", "-(x::int)", "x % 10"]),
    ("int", "INT", ["1", "-2147483648", "2147483647", "NULL", "1", "0"], ["x::bigint + 1", "x % 10", "x / 3"]),
    ("bigint", "BIGINT", ["1", "-9223372036854775808", "9223372036854775807", "NULL", "1", "0"], ["x % 10", "x / 3", "x::numeric(20,0) + 1"]),
    ("real", "REAL", ["1.5", "-0.25", "2.5e9", "NULL", "1.5", "0"], ["x * 2", "x::double precision", "x + 1"]),
    ("double", "DOUBLE PRECISION", ["1.5", "-0.1", "1e300", "NULL", "1.5", "'NaN'", "'Infinity'", "'-Infinity'", "0"], ["x * 2", "x > 1", "x = x"]),
    ("numeric", "NUMERIC(10,2)", ["1.50", "-0.01", "12345678.99", "NULL", "1.5", "0"], ["x * 2", "x + 0.005", "x::int", "-x"]),
    ("numeric_of_many_digits", "NUMERIC(38,10)", ["1.5", "-12345678901234567890.1234567891", "9999999999999999999999999999.9999999999", "NULL", "1.50", "0"], ["-x", "CAST(x + x AS TEXT)", "x > 2"]),
    ("text", "TEXT", ["'a'", "'B'", "''", "NULL", "'a'", "'ä'", "'a '", "'it''s'"], ["x || '!'", "length(x)", "x < 'b'"]),
    ("varchar", "VARCHAR(20)", ["'abc'", "'ABC'", "''", "NULL", "'abc'"], ["upper(x)", "x = 'abc'"]),
    ("boolean", "BOOLEAN", ["true", "false", "NULL", "true", "false"], ["NOT x", "x AND true", "x::int"]),
    ("date", "DATE", ["'2026-01-01'", "'1969-12-31'", "'2024-02-29'", "NULL", "'2026-01-01'"], ["x + 1", "x - DATE '2026-01-01'", "x::timestamp"]),
    ("time", "TIME", ["'10:00:00'", "'23:59:59.999999'", "'00:00:00'", "NULL", "'10:00:00'"], ["x > '12:00:00'", "extract(hour FROM x)"]),
    ("timestamp", "TIMESTAMP", ["'2026-01-01 10:00:00'", "'1969-12-31 23:59:59.5'", "'2024-02-29 00:00:00.000001'", "NULL", "'2026-01-01 10:00:00'"], ["x + INTERVAL '1 day'", "x::date", "extract(year FROM x)"]),
    ("timestamptz", "TIMESTAMPTZ", ["'2026-01-01 10:00:00+00'", "'2026-01-01 12:00:00+02'", "'1969-12-31 23:59:59.5Z'", "NULL", "'2026-06-01 00:00:00-05'"], ["x + INTERVAL '1 hour'", "extract(hour FROM x)"]),
    ("interval", "INTERVAL", ["INTERVAL '1 day'", "INTERVAL '150 minutes'", "INTERVAL '1 month 2 days'", "NULL", "INTERVAL '1 day'", "INTERVAL '-3 hours'"],
     ["x + INTERVAL '1 hour'", "-x", "x * 2", "x = '1 day'", "x > '02:30:00'"]),
    ("bytea", "BYTEA", ["'\\x01ff'", "'\\x'", "'\\xdeadbeef'", "NULL", "'\\x01ff'"], ["encode(x, 'hex')", "length(x)"]),
    ("int_array", "INT[]", ["ARRAY[1, 2]", "ARRAY[]::INT[]", "ARRAY[NULL, 3]", "NULL", "ARRAY[1, 2]", "ARRAY[0]"], ["x[1]", "cardinality(x)", "x = '{1,2}'", "'{1,2}'::int[]"]),
    ("text_array", "TEXT[]", ["ARRAY['a', 'b']", "ARRAY[]::TEXT[]", "ARRAY['x y', NULL]", "NULL", "ARRAY['a', 'b']"],
     ["x[2]", "array_to_string(x, '+')", "x = '{a,b}'", "'{a,b}'::text[]"]),
]
T = ["CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT, s TEXT)", "INSERT INTO t VALUES (1, 10, 2, '5'), (2, 7, 0, 'x'), (3, NULL, 1, NULL)"]
ERRORS = {
    "division_by_zero": ["!SELECT a / b FROM t", "!SELECT 1 / 0", "!SELECT 1.0 / 0", "!SELECT a % b FROM t", "!SELECT 1::double precision / 0", "SELECT a / nullif(b, 0) AS r FROM t",
                         "SELECT CASE WHEN b <> 0 THEN a / b END AS r FROM t"],
    "integer_overflow": ["!SELECT 2147483647 + 1", "!SELECT a * 2147483647 FROM t", "!SELECT 9223372036854775807 + 1", "!SELECT -((-2147483648)::int)", "!SELECT 32767::smallint + 1::smallint",
                         "!SELECT CAST(3000000000 AS INT)", "!SELECT CAST(70000 AS SMALLINT)", "SELECT a::bigint * 2147483647 AS r FROM t", "!SELECT abs((-2147483648)::int)"],
    "decimal_overflow": ["!SELECT CAST(1000 AS NUMERIC(4,2))", "!SELECT CAST('99.999' AS NUMERIC(4,2))", "SELECT CAST('99.994' AS NUMERIC(4,2)) AS r", "SELECT CAST(12.345 AS NUMERIC(5,2)) AS r"],
    "bad_casts": ["!SELECT CAST(s AS INT) FROM t", "!SELECT 'abc'::int", "!SELECT '1.5'::int", "!SELECT 'x'::double precision", "!SELECT '2026-13-01'::date", "!SELECT 'maybe'::boolean",
                  "!SELECT '2026-01-01 25:00:00'::timestamp", "SELECT ' 12 '::int AS r", "SELECT 'on'::boolean AS r", "!SELECT ''::int"],
    "scalar_subquery_rows": ["!SELECT (SELECT id FROM t)", "!SELECT id FROM t WHERE a > (SELECT a FROM t)", "SELECT (SELECT a FROM t WHERE id = 99) AS r", "SELECT (SELECT a FROM t WHERE id = 1) AS r"],
    "names": ["!SELECT nothing FROM t", "!SELECT * FROM nowhere", "!SELECT nofunction(a) FROM t", "!SELECT x.a FROM t", "!SELECT t.id FROM t, t u WHERE a = 1", "!INSERT INTO t (nope) VALUES (1)"],
    "grouping": ["!SELECT a, count(*) FROM t", "!SELECT a FROM t GROUP BY b", "!SELECT count(*) FROM t WHERE count(*) > 1", "!SELECT sum(count(*)) FROM t", "!SELECT a FROM t HAVING a > 1",
                 "!SELECT id FROM t GROUP BY 5"],
    "types": ["!SELECT a + s FROM t", "!SELECT a AND true FROM t", "!SELECT id FROM t WHERE a", "!SELECT a FROM t UNION SELECT s FROM t", "!SELECT a FROM t UNION SELECT a, b FROM t",
              "!SELECT CASE WHEN true THEN 1 ELSE 'x' END"],
    "constraints": ["!INSERT INTO t VALUES (1, 1, 1, 'dup')", "!INSERT INTO t VALUES (NULL, 1, 1, 'null')", "!INSERT INTO t VALUES (9, 1)x", "!UPDATE t SET id = 1 WHERE id = 2", "SELECT * FROM t"],
    "math_domains": ["!SELECT sqrt(-1)", "!SELECT ln(0)", "!SELECT ln(-1)", "!SELECT power(0, -1)", "!SELECT acos(2)"],
    "arguments": ["!SELECT decode('abc', 'hex')", "!SELECT '{1,x}'::int[]", "!SELECT '{1'::int[]", "!SELECT width_bucket(1, 0, 0, 5)", "!SELECT make_time(25, 0, 0)",
                  "!SELECT to_date('2026-13-01', 'YYYY-MM-DD')", "!SELECT to_timestamp('x', 'YYYY')", "!SELECT INTERVAL '1 dog'", "!SELECT format('%s')", "!SELECT get_byte('\\x01'::bytea, 1)",
                  "!SELECT regexp_substr('a', '(')", "!SELECT convert_from('\\xff'::bytea, 'UTF8')", "!SELECT exp(1000)", "!SELECT power(-2, 0.5::double precision)", "!SELECT log(0)", "!SELECT asin(2)",
                  "!SELECT '\\x0'::bytea", "!SELECT INTERVAL '1 day' / 0", "!SELECT trim_array(ARRAY[1], 2)"],
    "agreement": ["!SELECT coalesce(1, 'x')", "!SELECT coalesce(id, s) FROM t", "!SELECT (1, 2) = (1, 2, 3)", "!SELECT CASE WHEN a > 1 THEN a ELSE s END FROM t", "!SELECT id FROM t UNION ALL SELECT true",
                  "SELECT coalesce(a, '7') AS r FROM t", "SELECT a FROM t UNION SELECT '7'", "SELECT id, CASE WHEN a > 7 THEN '1' ELSE b END AS r FROM t", "SELECT greatest(a, '8') AS r FROM t"],
    "syntax": ["!SELECT FROM WHERE", "!SELEC 1", "!SELECT (1", "!SELECT 1 +", "!SELECT 'open", "!SELECT id id id FROM t"],
}
BASE = ["CREATE TABLE t (id INT PRIMARY KEY, k INT, v NUMERIC(8,2))", "CREATE TABLE u (id INT PRIMARY KEY, k INT, s TEXT)",
        "INSERT INTO t VALUES (1, 1, 1.5), (2, 1, 2.5), (3, 2, 3), (4, NULL, 4)", "INSERT INTO u VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 2, 'c')"]
WATCH = ["SELECT id, k, v FROM t", "SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k", "SELECT t.id, u.s FROM t LEFT JOIN u ON t.k = u.k",
         "SELECT id FROM t WHERE k NOT IN (SELECT k FROM u)", "SELECT id, v FROM t ORDER BY v DESC, id LIMIT 2"]
DML = {
    "insert_several_rows": ["INSERT INTO t VALUES (5, 2, 5), (6, 3, 6), (7, 3, 7)", "INSERT INTO t (id, v) VALUES (8, 1)", "INSERT INTO u VALUES (4, 3, 'd')"],
    "insert_select": ["INSERT INTO t SELECT id + 10, k, v * 2 FROM t", "INSERT INTO u SELECT id + 10, k, 'copy' FROM u WHERE k = 2", "INSERT INTO t SELECT u.id + 100, u.k, t.v FROM t JOIN u ON t.id = u.id"],
    "insert_defaults": ["INSERT INTO t (id) VALUES (5)", "INSERT INTO t (v, id) VALUES (9.99, 6)", "INSERT INTO u (s, id) VALUES (NULL, 7), ('z', 8)"],
    "on_conflict_do_nothing": ["INSERT INTO t VALUES (1, 9, 9), (5, 9, 9) ON CONFLICT (id) DO NOTHING", "INSERT INTO t VALUES (1, 9, 9) ON CONFLICT DO NOTHING"],
    "on_conflict_do_update": ["INSERT INTO t VALUES (1, 9, 9), (5, 9, 9) ON CONFLICT (id) DO UPDATE SET k = excluded.k, v = excluded.v", "INSERT INTO t VALUES (2, 7, 0) ON CONFLICT (id) DO UPDATE SET k = excluded.k"],
    "update_of_a_value": ["UPDATE t SET v = v + 1", "UPDATE t SET v = NULL WHERE k = 1", "UPDATE t SET v = 0 WHERE v IS NULL"],
    "update_of_a_join_key": ["UPDATE t SET k = 2 WHERE k = 1", "UPDATE u SET k = NULL WHERE id = 2", "UPDATE u SET k = k + 1", "UPDATE t SET k = NULL"],
    "update_of_a_primary_key": ["UPDATE t SET id = id + 100 WHERE id > 2", "UPDATE u SET id = id * 10"],
    "update_with_expressions": ["UPDATE t SET v = CASE WHEN k = 1 THEN v * 10 ELSE -v END", "UPDATE t SET k = id % 2, v = id", "UPDATE u SET s = upper(s) || id WHERE s IS NOT NULL"],
    "update_with_subquery": ["UPDATE t SET v = (SELECT max(v) FROM t)", "UPDATE t SET k = (SELECT min(k) FROM u) WHERE k IS NULL", "UPDATE u SET s = 'used' WHERE k IN (SELECT k FROM t)"],
    "update_that_changes_nothing": ["UPDATE t SET v = v", "UPDATE t SET k = 5 WHERE false", "UPDATE t SET v = 1 WHERE id = 999"],
    "delete_some": ["DELETE FROM t WHERE id = 1", "DELETE FROM u WHERE k = 2", "DELETE FROM t WHERE v > 100"],
    "delete_all_and_refill": ["DELETE FROM t", "INSERT INTO t VALUES (1, 1, 1)", "DELETE FROM u", "DELETE FROM t", "INSERT INTO u VALUES (9, 1, 'z')", "INSERT INTO t VALUES (2, 1, 2), (3, NULL, 3)"],
    "delete_with_subquery": ["DELETE FROM t WHERE k IN (SELECT k FROM u WHERE s = 'a')", "DELETE FROM u WHERE NOT EXISTS (SELECT 1 FROM t WHERE t.k = u.k)"],
    "insert_and_delete_again": ["INSERT INTO t VALUES (50, 1, 50)", "DELETE FROM t WHERE id = 50", "INSERT INTO t VALUES (50, 2, 5)", "UPDATE t SET k = 1 WHERE id = 50", "DELETE FROM t WHERE id = 50"],
    "null_becomes_value": ["UPDATE t SET k = 1 WHERE k IS NULL", "UPDATE t SET k = NULL WHERE id = 1", "UPDATE u SET s = NULL", "UPDATE u SET s = 'x' WHERE s IS NULL"],
}
VIEWS = {
    "view_on_view": ["CREATE VIEW a AS SELECT k, v FROM t WHERE v > 1", "CREATE VIEW b AS SELECT k, sum(v) AS s FROM a GROUP BY k"],
    "materialized_view_on_view": ["CREATE VIEW a AS SELECT t.k, u.s, t.v FROM t JOIN u ON t.k = u.k", "CREATE VIEW b AS SELECT s, count(*) AS n FROM a GROUP BY s"],
    "view_with_column_names": ["CREATE VIEW a (p, q) AS SELECT k, v FROM t", "CREATE VIEW b (x, y) AS SELECT p, count(*) FROM a GROUP BY p"],
}


def topics():
    """All of them."""
    for name, sql_type, values, expressions in TYPES:
        yield typed(name, sql_type, values, expressions)
    for name, steps in ERRORS.items():
        yield Topic(f"errors/{name}", f"errors: {name.replace('_', ' ')}", [*T, *steps])
    for name, changes in DML.items():
        steps = [*BASE, *WATCH]
        for change in changes:
            steps += [change, *WATCH]
        yield Topic(f"changes/{name}", f"changes: {name.replace('_', ' ')}", steps)
    for name, views in VIEWS.items():
        watch = ["SELECT * FROM a", "SELECT * FROM b", "SELECT count(*) AS n FROM b"]
        yield Topic(f"views/{name}", f"views: {name.replace('_', ' ')}",
                    [BASE[0], BASE[1], *views, *BASE[2:], *watch, "UPDATE t SET v = v * 2", *watch, "DELETE FROM t WHERE k = 1", *watch, "UPDATE u SET k = 1", *watch])
