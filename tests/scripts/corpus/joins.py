"""Joins of all kinds with conditions of all kinds, over sides that change."""

from base import PAIR, PAIR_CHANGES, Topic

KINDS = {"inner": "JOIN", "left": "LEFT JOIN", "right": "RIGHT JOIN", "full": "FULL JOIN"}
CONDITIONS = {
    "equal_keys": "l.k = r.k",
    "equal_and_residual": "l.k = r.k AND l.v < r.w",
    "two_keys": "l.k = r.k AND l.g = r.g",
    "key_of_expressions": "l.k + 1 = r.k",
    "residual_of_one_side": "l.k = r.k AND r.w > 10",
    "null_safe": "l.k IS NOT DISTINCT FROM r.k",
}
# PostgreSQL has no FULL JOIN without an equality.
THETA = {
    "less_than": "l.v < r.w",
    "band": "r.w BETWEEN l.v - 10 AND l.v + 10",
    "not_equal": "l.g <> r.g",
    "disjunction": "l.k = r.k OR l.g = r.g",
    "constant_false": "false",
}
COLUMNS = "l.id AS lid, r.id AS rid, l.v, r.w"
SHAPES = [
    "SELECT {c} FROM l {j} r ON {on}",
    "SELECT l.g AS lg, count(*) AS n, count(r.id) AS m, sum(r.w) AS s FROM l {j} r ON {on} GROUP BY l.g",
    "SELECT {c} FROM l {j} r ON {on} WHERE l.v IS NULL OR r.w IS NULL OR l.v + r.w > 40",
]


def rounds(queries):
    """The queries after every change."""
    out = [*PAIR, *queries]
    for changes in PAIR_CHANGES:
        out += [*changes, *queries[:2]]
    return out


def topics():
    """All of them."""
    for kind, join in KINDS.items():
        conditions = dict(CONDITIONS) if kind != "full" else {k: v for k, v in CONDITIONS.items() if k != "null_safe"}
        if kind != "full":
            conditions |= THETA
        for name, on in conditions.items():
            queries = [s.format(c=COLUMNS, j=join, on=on) for s in SHAPES]
            yield Topic(f"joins/{kind}_{name}", f"{kind} join: {name.replace('_', ' ')}", rounds(queries))
    single = {
        "cross": ["SELECT l.id AS lid, r.id AS rid FROM l CROSS JOIN r", "SELECT count(*) AS n FROM l, r",
                  "SELECT l.id AS lid, r.id AS rid FROM l, r WHERE l.k = r.k AND l.v > 10"],
        "using": ["SELECT k, l.id AS lid, r.id AS rid FROM l JOIN r USING (k)", "SELECT k, l.id AS lid, r.id AS rid FROM l FULL JOIN r USING (k)",
                  "SELECT k, g, l.v, r.w FROM l LEFT JOIN r USING (k, g)"],
        "using_merged": ["SELECT k, l.id AS lid, r.id AS rid FROM l RIGHT JOIN r USING (k)", "SELECT * FROM l FULL JOIN r USING (k, g)",
                         "SELECT k, count(*) AS n FROM l FULL JOIN r USING (k) WHERE k > 1 OR k IS NULL GROUP BY k",
                         "SELECT k FROM l FULL JOIN r USING (k) ORDER BY k DESC NULLS LAST, l.id, r.id LIMIT 4",
                         "SELECT k, a.id AS x, b.id AS y, c.id AS z FROM l a FULL JOIN r b USING (k) FULL JOIN (SELECT id + 4 AS k, id FROM l) c USING (k)"],
        "natural": ["SELECT * FROM (SELECT k, v FROM l) x NATURAL JOIN (SELECT k, w FROM r) y",
                    "SELECT * FROM (SELECT k, v FROM l) x NATURAL LEFT JOIN (SELECT k, w FROM r) y"],
        "self": ["SELECT a.id AS x, b.id AS y FROM l a JOIN l b ON a.k = b.k AND a.id < b.id",
                 "SELECT a.id AS x, b.id AS y FROM l a LEFT JOIN l b ON a.id = b.k",
                 "SELECT a.g, count(*) AS n FROM l a JOIN l b ON a.g = b.g GROUP BY a.g"],
        "three_tables": ["SELECT a.id AS x, r.id AS y, b.id AS z FROM l a JOIN r ON a.k = r.k JOIN l b ON b.g = r.g",
                         "SELECT a.id AS x, r.id AS y, b.id AS z FROM l a LEFT JOIN r ON a.k = r.k LEFT JOIN l b ON b.id = r.w",
                         "SELECT a.id AS x, b.id AS y FROM l a LEFT JOIN (r JOIN l b ON b.k = r.k) ON a.k = r.k"],
        "of_aggregates": ["SELECT x.k, x.s, y.t FROM (SELECT k, sum(v) AS s FROM l GROUP BY k) x FULL JOIN (SELECT k, sum(w) AS t FROM r GROUP BY k) y ON x.k = y.k",
                          "SELECT l.id, y.m FROM l LEFT JOIN (SELECT g, max(w) AS m FROM r GROUP BY g) y ON y.g = l.g AND y.m > l.v"],
        "of_duplicates": ["SELECT x.g, y.g AS h, count(*) AS n FROM (SELECT g FROM l UNION ALL SELECT g FROM l) x JOIN (SELECT g FROM r) y ON x.g = y.g GROUP BY x.g, y.g",
                          "SELECT x.g, y.w FROM (SELECT g FROM l UNION ALL SELECT g FROM r) x LEFT JOIN r y ON x.g = y.g"],
        "outer_then_filter": ["SELECT l.id FROM l LEFT JOIN r ON l.k = r.k WHERE r.id IS NULL", "SELECT r.id FROM l RIGHT JOIN r ON l.k = r.k WHERE l.id IS NULL",
                              "SELECT l.id AS x, r.id AS y FROM l FULL JOIN r ON l.k = r.k WHERE l.id IS NULL OR r.id IS NULL"],
        "lateral": ["SELECT l.id, x.w FROM l CROSS JOIN LATERAL (SELECT w FROM r WHERE r.k = l.k) x",
                    "SELECT l.id, x.m FROM l LEFT JOIN LATERAL (SELECT max(w) AS m FROM r WHERE r.k = l.k) x ON true",
                    "SELECT l.id, x.w FROM l CROSS JOIN LATERAL (SELECT w FROM r WHERE r.k = l.k ORDER BY w DESC NULLS LAST, id LIMIT 1) x",
                    "SELECT l.id, x.s FROM l, LATERAL (SELECT sum(w) AS s FROM r WHERE r.w > l.v) x"],
        "different_types": ["SELECT l.id AS x, r.id AS y FROM l JOIN r ON l.k::bigint = r.k", "SELECT l.id AS x, r.id AS y FROM l JOIN r ON l.v::double precision = r.w",
                            "SELECT l.id AS x, r.id AS y FROM l JOIN r ON l.k::text = r.k::text AND l.v::numeric < r.w"],
        "coalesced_keys": ["SELECT coalesce(l.k, r.k) AS k, count(*) AS n FROM l FULL JOIN r ON l.k = r.k GROUP BY coalesce(l.k, r.k)",
                           "SELECT l.id AS x, r.id AS y FROM l JOIN r ON coalesce(l.k, 0) = coalesce(r.k, 0)"],
        "top_of_join": ["SELECT l.id AS x, r.id AS y FROM l JOIN r ON l.k = r.k ORDER BY r.w DESC NULLS LAST, l.id, r.id LIMIT 3",
                        "SELECT * FROM (SELECT l.id AS x, r.id AS y, row_number() OVER (PARTITION BY l.id ORDER BY r.w, r.id) AS n FROM l JOIN r ON l.k = r.k) q WHERE n = 1"],
    }
    for name, queries in single.items():
        yield Topic(f"joins/{name}", f"joins: {name.replace('_', ' ')}", rounds(queries))
