"""Set operations, DISTINCT, and top-N."""

from base import PAIR, PAIR_CHANGES, SALES, SALES_CHANGES, Topic
from joins import rounds

WORDS = {"union": "UNION", "union_all": "UNION ALL", "except": "EXCEPT", "except_all": "EXCEPT ALL", "intersect": "INTERSECT",
         "intersect_all": "INTERSECT ALL"}


def topics():
    """All of them."""
    for name, word in WORDS.items():
        queries = [
            f"SELECT k FROM l {word} SELECT k FROM r",
            f"SELECT k, g FROM l {word} SELECT k, g FROM r",
            f"SELECT g FROM r {word} SELECT g FROM l",
            f"SELECT g, count(*) AS n FROM (SELECT g FROM l {word} SELECT g FROM r) x GROUP BY g",
            f"SELECT k FROM l WHERE v > 10 {word} (SELECT k FROM r {word} SELECT id FROM r)",
            f"SELECT v, NULL AS n FROM l {word} SELECT w, k FROM r",
        ]
        yield Topic(f"sets/{name}", f"{word} over changing sides", rounds(queries))
        yield Topic(f"sets/{name}_types", f"{word}: types meet", [
            *PAIR, f"SELECT k FROM l {word} SELECT w::bigint FROM r", f"SELECT k::numeric(10,2) AS k FROM l {word} SELECT k FROM r",
            f"SELECT v::double precision AS v FROM l {word} SELECT w FROM r", f"SELECT g FROM l {word} SELECT NULL",
            f"SELECT 1 AS one {word} SELECT 1", f"SELECT g::varchar AS g FROM l {word} SELECT 'a'",
            f"VALUES (1, 'x'), (1, 'x'), (2, 'y') {word} VALUES (1, 'x'), (3, 'z')", *PAIR_CHANGES[1],
            f"SELECT k::numeric(10,2) AS k FROM l {word} SELECT k FROM r"])
    mixed = ["SELECT k FROM l UNION SELECT k FROM r EXCEPT SELECT id FROM l", "SELECT k FROM l EXCEPT (SELECT k FROM r UNION SELECT 5)",
             "SELECT k FROM l UNION ALL SELECT k FROM r INTERSECT SELECT id FROM l", "(SELECT k FROM l UNION SELECT id FROM r) INTERSECT SELECT k FROM r",
             "SELECT k FROM l UNION SELECT k FROM r ORDER BY k NULLS FIRST LIMIT 3"]
    yield Topic("sets/mixed", "set operations of several words", rounds(mixed))
    distinct = ["SELECT DISTINCT g FROM l", "SELECT DISTINCT k, g FROM r", "SELECT DISTINCT l.g, r.g AS h FROM l JOIN r ON l.k = r.k",
                "SELECT count(*) AS n FROM (SELECT DISTINCT g FROM r) x", "SELECT DISTINCT k % 2 AS odd FROM l", "SELECT DISTINCT count(*) AS n FROM r GROUP BY g"]
    yield Topic("sets/distinct", "DISTINCT over changing rows", rounds(distinct))
    on = ["SELECT DISTINCT ON (region) region, id, qty FROM sales ORDER BY region, qty DESC NULLS LAST, id",
          "SELECT DISTINCT ON (product) product, price FROM sales ORDER BY product, price, id",
          "SELECT DISTINCT ON (region, product) region, product, id FROM sales ORDER BY region, product, id DESC"]
    tops = {
        "distinct_on": on,
        "filter_above_distinct_on": [f"SELECT * FROM ({q}) x WHERE {c}" for q, c in zip(on, ("qty > 5", "price > 2", "id < 8"))],
        "order_by_limit": ["SELECT id, qty FROM sales ORDER BY qty DESC NULLS LAST, id LIMIT 3", "SELECT id, price FROM sales ORDER BY price, id LIMIT 4",
                           "SELECT id, region FROM sales ORDER BY region NULLS FIRST, id DESC LIMIT 5", "SELECT id FROM sales ORDER BY score + qty, id LIMIT 2",
                           "SELECT id, at FROM sales ORDER BY at DESC NULLS LAST, id LIMIT 3"],
        "offset": ["SELECT id FROM sales ORDER BY id LIMIT 3 OFFSET 2", "SELECT id FROM sales ORDER BY id DESC OFFSET 5", "SELECT id FROM sales ORDER BY qty, id LIMIT 100 OFFSET 7",
                   "SELECT id FROM sales ORDER BY id LIMIT 0", "SELECT id FROM sales ORDER BY id FETCH FIRST 2 ROWS ONLY", "SELECT id FROM sales ORDER BY id OFFSET 50"],
        "with_ties": ["SELECT * FROM (SELECT id, product FROM sales ORDER BY product FETCH FIRST 2 ROWS WITH TIES) x",
                      "SELECT * FROM (SELECT region AS r, count(*) AS n FROM sales GROUP BY region ORDER BY n DESC FETCH FIRST ROW WITH TIES) x",
                      "SELECT * FROM (SELECT product FROM sales ORDER BY 1 DESC NULLS LAST FETCH FIRST 1 ROWS WITH TIES) x",
                      "SELECT * FROM (SELECT DISTINCT product, qty % 2 AS odd FROM sales ORDER BY odd FETCH FIRST 2 ROWS WITH TIES) x",
                      "SELECT id FROM sales ORDER BY price FETCH FIRST 0 ROWS WITH TIES",
                      "SELECT * FROM (SELECT id, region FROM sales ORDER BY id OFFSET 1 ROW FETCH NEXT 3 ROWS WITH TIES) x",
                      "SELECT * FROM (SELECT product FROM sales WHERE id < 4 UNION ALL SELECT region FROM sales ORDER BY product FETCH FIRST 2 ROWS WITH TIES) x",
                      "SELECT n FROM (SELECT qty AS n FROM sales ORDER BY product FETCH FIRST 3 ROWS WITH TIES) x WHERE n > 1"],
        "top_in_subquery": ["SELECT sum(qty) AS s FROM (SELECT qty FROM sales ORDER BY price DESC NULLS LAST, id LIMIT 4) x",
                            "SELECT region FROM sales WHERE id IN (SELECT id FROM sales ORDER BY qty DESC NULLS LAST, id LIMIT 3)",
                            "SELECT x.id FROM (SELECT id, product FROM sales ORDER BY id LIMIT 5) x JOIN (SELECT product, id FROM sales ORDER BY id DESC LIMIT 5) y ON x.product = y.product AND x.id <> y.id"],
        "top_of_groups": ["SELECT region, sum(qty) AS s FROM sales GROUP BY region ORDER BY s DESC NULLS LAST, region LIMIT 2",
                          "SELECT product, count(*) AS n FROM sales GROUP BY product ORDER BY n DESC, product NULLS LAST LIMIT 2"],
    }
    for name, queries in tops.items():
        steps = [*SALES, *queries]
        for changes in SALES_CHANGES:
            steps += [*changes, *queries]
        yield Topic(f"top/{name}", f"top: {name.replace('_', ' ')}", steps)
