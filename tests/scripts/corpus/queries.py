"""Subqueries, common table expressions, VALUES and set-returning functions."""

from base import Topic
from joins import rounds

SUBQUERIES = {
    "in": ["SELECT id FROM l WHERE k IN (SELECT k FROM r)", "SELECT id FROM l WHERE (k, g) IN (SELECT k, g FROM r)", "SELECT id FROM l WHERE k + 1 IN (SELECT k FROM r WHERE w > 10)",
           "SELECT id FROM l WHERE k IN (SELECT k FROM r WHERE r.g = l.g)"],
    "not_in": ["SELECT id FROM l WHERE k NOT IN (SELECT k FROM r WHERE k IS NOT NULL)", "SELECT id FROM l WHERE k NOT IN (SELECT k FROM r)",
               "SELECT id FROM l WHERE id NOT IN (SELECT k FROM r WHERE w > 1000)", "SELECT id FROM l WHERE v NOT IN (SELECT w FROM r WHERE r.g = l.g)"],
    "in_inside_of_or": ["SELECT id FROM l WHERE k IN (SELECT k FROM r) OR v > 40", "SELECT id FROM l WHERE k NOT IN (SELECT k FROM r) OR v > 40",
                        "SELECT id FROM l WHERE NOT (k IN (SELECT k FROM r) AND v < 25)"],
    "in_the_select_list": ["SELECT id, k IN (SELECT k FROM r) AS x FROM l", "SELECT id, k NOT IN (SELECT k FROM r) AS x FROM l", "SELECT id, CASE WHEN k IN (SELECT id FROM r) THEN 'y' ELSE 'n' END AS x FROM l"],
    "exists": ["SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k = l.k)", "SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k = l.k AND r.w > l.v)",
               "SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.w > 50)", "SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.w > l.v)"],
    "not_exists": ["SELECT id FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.k = l.k)", "SELECT id FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.g = l.g AND r.w < l.v)",
                   "SELECT id FROM l WHERE NOT EXISTS (SELECT 1 FROM r)", "SELECT id FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.w > l.v)"],
    "exists_inside_of_or": ["SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k = l.k) OR v IS NULL", "SELECT id, EXISTS (SELECT 1 FROM r WHERE r.k = l.k) AS x FROM l",
                            "SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k = l.k) <> (g = 'a')"],
    "two_levels": ["SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k = l.k AND EXISTS (SELECT 1 FROM l x WHERE x.g = r.g AND x.id <> l.id))",
                   "SELECT id FROM l WHERE k IN (SELECT k FROM r WHERE w > (SELECT min(v) FROM l))"],
    "scalar": ["SELECT id, (SELECT max(w) FROM r) AS m FROM l", "SELECT id FROM l WHERE v > (SELECT avg(w) FROM r)", "SELECT (SELECT count(*) FROM l) AS a, (SELECT count(*) FROM r) AS b",
               "SELECT id, v - (SELECT min(v) FROM l) AS d FROM l", "SELECT id, (SELECT w FROM r WHERE id = 2) AS w FROM l"],
    "scalar_correlated": ["SELECT id, (SELECT max(w) FROM r WHERE r.k = l.k) AS m FROM l", "SELECT id, (SELECT count(*) FROM r WHERE r.k = l.k) AS n FROM l",
                          "SELECT id FROM l WHERE v > (SELECT avg(w) FROM r WHERE r.k = l.k)", "SELECT id, (SELECT sum(w) FROM r WHERE r.k = l.k AND r.g = l.g) AS s FROM l",
                          "SELECT id, coalesce((SELECT sum(w) FROM r WHERE r.g = l.g), 0) AS s FROM l"],
    "scalar_correlated_by_inequality": ["SELECT id, (SELECT count(*) FROM r WHERE r.w > l.v) AS n FROM l", "SELECT id, (SELECT max(w) FROM r WHERE r.w < l.v) AS m FROM l"],
    "scalar_with_order_and_limit": ["SELECT id, (SELECT w FROM r WHERE r.k = l.k ORDER BY w DESC NULLS LAST, r.id LIMIT 1) AS m FROM l",
                                    "SELECT id, (SELECT r.id FROM r WHERE r.w >= l.v ORDER BY r.w, r.id LIMIT 1) AS m FROM l"],
    "any_and_all": ["SELECT id FROM l WHERE v > ANY (SELECT w FROM r)", "SELECT id FROM l WHERE v > ALL (SELECT w FROM r WHERE w IS NOT NULL)", "SELECT id FROM l WHERE k = ANY (SELECT k FROM r)",
                    "SELECT id FROM l WHERE k <> ALL (SELECT k FROM r WHERE k IS NOT NULL)", "SELECT id FROM l WHERE v >= ALL (SELECT w FROM r WHERE r.k = l.k)"],
    "in_from": ["SELECT x.g, x.n FROM (SELECT g, count(*) AS n FROM l GROUP BY g) x WHERE x.n > 1", "SELECT a.id FROM (SELECT * FROM l WHERE v > 10) a JOIN (SELECT * FROM r WHERE w > 10) b ON a.k = b.k",
                "SELECT count(*) AS n FROM (SELECT DISTINCT k FROM (SELECT k FROM l UNION ALL SELECT k FROM r) x) y"],
    "in_having": ["SELECT g, sum(v) AS s FROM l GROUP BY g HAVING sum(v) > (SELECT avg(w) FROM r)", "SELECT g FROM l GROUP BY g HAVING count(*) IN (SELECT count(*) FROM r GROUP BY g)"],
    "in_case": ["SELECT id, CASE WHEN v > (SELECT avg(w) FROM r) THEN 'above' WHEN v IS NULL THEN 'none' ELSE 'below' END AS c FROM l"],
    "in_aggregate": ["SELECT sum((SELECT count(*) FROM r WHERE r.k = l.k)) AS s FROM l", "SELECT g, max((SELECT max(w) FROM r WHERE r.k = l.k)) AS m FROM l GROUP BY g"],
    "null_keys": ["SELECT id FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k IS NOT DISTINCT FROM l.k)", "SELECT id, (SELECT count(*) FROM r WHERE r.g IS NOT DISTINCT FROM l.g) AS n FROM l",
                  "SELECT id FROM l WHERE k IS NULL AND NULL NOT IN (SELECT k FROM r WHERE false)"],
}
CTES = {
    "once": ["WITH x AS (SELECT g, sum(v) AS s FROM l GROUP BY g) SELECT * FROM x WHERE s > 20", "WITH x (a, b) AS (SELECT id, k FROM l) SELECT a FROM x WHERE b = 1"],
    "twice": ["WITH x AS (SELECT k, count(*) AS n FROM l GROUP BY k) SELECT a.k, b.k AS j FROM x a JOIN x b ON a.n = b.n AND a.k < b.k",
              "WITH x AS (SELECT k FROM l) SELECT k FROM x UNION ALL SELECT k FROM x", "WITH x AS (SELECT * FROM r WHERE w > 10) SELECT x.id FROM x WHERE x.w = (SELECT max(w) FROM x)"],
    "chained": ["WITH x AS (SELECT k, v FROM l), y AS (SELECT k, sum(v) AS s FROM x GROUP BY k), z AS (SELECT max(s) AS m FROM y) SELECT y.k, y.s, z.m FROM y, z"],
    "nested": ["SELECT * FROM (WITH x AS (SELECT id FROM l WHERE v > 20) SELECT x.id FROM x) q", "WITH x AS (WITH y AS (SELECT g FROM l) SELECT g, count(*) AS n FROM y GROUP BY g) SELECT * FROM x"],
    "shadowing": ["WITH r AS (SELECT id FROM l) SELECT count(*) AS n FROM r", "WITH x AS (SELECT 1 AS a), y AS (SELECT a + 1 AS a FROM x) SELECT x.a, y.a AS b FROM x, y"],
    "materialized": ["WITH x AS MATERIALIZED (SELECT g FROM l) SELECT g FROM x", "WITH x AS NOT MATERIALIZED (SELECT g FROM l) SELECT g FROM x WHERE g = 'a'"],
    "recursive": ["WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 6) SELECT n FROM t",
                  "WITH RECURSIVE reach(id) AS (SELECT k FROM l WHERE id = 1 UNION SELECT r.w / 5 FROM reach JOIN r ON r.k = reach.id) SELECT id FROM reach",
                  "WITH RECURSIVE t(id, d) AS (SELECT id, 0 FROM l WHERE k IS NULL OR k > 2 UNION ALL SELECT l.id, t.d + 1 FROM t JOIN l ON l.k = t.id WHERE t.d < 4) SELECT id, d FROM t"],
    "values": ["SELECT v.a, l.id FROM (VALUES (1, 'x'), (2, 'y'), (2, 'z')) AS v(a, b) JOIN l ON l.k = v.a", "SELECT column1, count(*) AS n FROM (VALUES (1), (1), (2)) v GROUP BY column1",
               "SELECT id FROM l WHERE (k, g) IN (VALUES (1, 'a'), (2, 'a'))", "VALUES (1, 'a'), (2, NULL)"],
    "generate_series": ["SELECT g.n, count(l.id) AS c FROM generate_series(1, 5) AS g(n) LEFT JOIN l ON l.k = g.n GROUP BY g.n", "SELECT sum(n) AS s FROM generate_series(1, 100, 3) AS g(n)",
                        "SELECT l.id, g.n FROM l CROSS JOIN LATERAL generate_series(1, l.k) AS g(n)"],
    "unnest": ["SELECT unnest(ARRAY[1, 2, 2]) AS n", "SELECT l.id, unnest(ARRAY[l.k, l.v]) AS n FROM l", "SELECT l.id, u.n FROM l CROSS JOIN unnest(ARRAY[l.k, l.v]) AS u(n) WHERE u.n > 1",
               "SELECT u.n, u.i FROM unnest(ARRAY['a', 'b']) WITH ORDINALITY AS u(n, i)"],
    "unnest_of_groups": [f"SELECT {q}" for q in (
        "DISTINCT g, v FROM (SELECT g, unnest(vs) AS v FROM (SELECT g, array_agg(v) AS vs FROM l GROUP BY g) x) y",
        "g, count(*) AS n FROM (SELECT g, unnest(array_agg(v)) AS v FROM l GROUP BY g) y GROUP BY g",
        "g, v, count(*) AS n FROM (SELECT g, unnest(vs) AS v FROM (SELECT g, array_agg(v % 20) AS vs FROM l GROUP BY g) x) y GROUP BY g, v",
        "DISTINCT x.g, u.v FROM (SELECT g, array_agg(v % 20) AS vs FROM l GROUP BY g) x CROSS JOIN LATERAL unnest(x.vs) AS u(v)")],
    "set_returning": ["SELECT id, regexp_split_to_table(g || ',x', ',') AS p FROM l", "SELECT id, (regexp_matches(g || g, '(.)', 'g'))[1] AS p FROM l",
                      "SELECT l.id, s.d FROM l CROSS JOIN LATERAL generate_series(1, l.k) AS s(d)"],
    "order_by_shadowed": ["SELECT id, k AS v FROM l ORDER BY l.v DESC NULLS LAST, id LIMIT 3", "SELECT x.v FROM (SELECT k AS v FROM l ORDER BY l.v NULLS FIRST, l.id LIMIT 4) x",
                          "SELECT id, v AS k, k AS v FROM l ORDER BY v NULLS LAST, l.v, id"],
    "constants": ["SELECT 1 AS one, 'a' AS a, NULL AS n, true AS t", "SELECT id, 5 AS five FROM l WHERE true", "SELECT id FROM l WHERE false", "SELECT id FROM l WHERE NULL", "SELECT 1 AS one WHERE 1 = 2"],
    "projection": ["SELECT * FROM l", "SELECT l.*, r.w FROM l JOIN r ON l.id = r.id", "SELECT id AS a, id AS b FROM l", "SELECT v + k AS s, v - k AS d FROM l", "SELECT g FROM l WHERE g > 'a'"],
    "order_by": ["SELECT id, g FROM l ORDER BY g, id", "SELECT id, k FROM l ORDER BY k DESC, id DESC", "SELECT id FROM l ORDER BY v IS NULL, v % 20, id", "SELECT g AS x FROM l ORDER BY x NULLS FIRST, id",
                 "SELECT k, count(*) AS n FROM l GROUP BY k ORDER BY 2 DESC, 1"],
}


def topics():
    """All of them."""
    for name, queries in SUBQUERIES.items():
        yield Topic(f"subqueries/{name}", f"subqueries: {name.replace('_', ' ')}", rounds(queries))
    for name, queries in CTES.items():
        yield Topic(f"queries/{name}", f"queries: {name.replace('_', ' ')}", rounds(queries))
