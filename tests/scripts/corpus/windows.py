"""Window functions and frames."""

from base import SALES, SALES_CHANGES, Topic

ORDER = "ORDER BY qty NULLS FIRST, id"
BY = "PARTITION BY region"
FUNCTIONS = {
    "row_number": ["row_number() OVER ({b} {o})", "row_number() OVER (ORDER BY id DESC)"],
    "rank": ["rank() OVER ({b} ORDER BY qty)", "rank() OVER (ORDER BY product)"],
    "dense_rank": ["dense_rank() OVER ({b} ORDER BY qty)", "dense_rank() OVER (ORDER BY product NULLS FIRST)"],
    "percent_rank_and_cume_dist": ["percent_rank() OVER ({b} ORDER BY qty)", "cume_dist() OVER ({b} ORDER BY qty)", "cume_dist() OVER (ORDER BY product)"],
    "ntile": ["ntile(2) OVER ({b} {o})", "ntile(4) OVER ({o})"],
    "lag": ["lag(qty) OVER ({b} ORDER BY id)", "lag(qty, 2) OVER (ORDER BY id)", "lag(qty, 1, -1) OVER ({b} ORDER BY id)"],
    "lead": ["lead(product) OVER ({b} ORDER BY id)", "lead(qty, 2) OVER (ORDER BY id)", "lead(qty, 1, 0) OVER ({b} ORDER BY id)"],
    "first_and_last_value": ["first_value(qty) OVER ({b} ORDER BY id)", "last_value(qty) OVER ({b} ORDER BY id)",
                             "last_value(qty) OVER ({b} ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"],
    "nth_value": ["nth_value(qty, 2) OVER ({b} ORDER BY id)", "nth_value(product, 3) OVER (ORDER BY id)"],
    "running_sum": ["sum(qty) OVER ({b} ORDER BY id)", "sum(price) OVER (ORDER BY id)", "sum(score) OVER ({b} ORDER BY id)"],
    "running_count_and_avg": ["count(*) OVER ({b} ORDER BY id)", "avg(qty) OVER ({b} ORDER BY id)", "count(qty) OVER (ORDER BY id)"],
    "running_min_and_max": ["min(qty) OVER ({b} ORDER BY id)", "max(price) OVER ({b} ORDER BY id)", "max(at) OVER (ORDER BY id)"],
    "whole_partition": ["sum(qty) OVER ({b})", "count(*) OVER ()", "max(qty) OVER ({b}) - qty", "qty * 100 / sum(qty) OVER ({b})"],
    "rows_frame": ["sum(qty) OVER (ORDER BY id ROWS 2 PRECEDING)", "sum(qty) OVER ({b} ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
                   "count(*) OVER (ORDER BY id ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)", "max(qty) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)"],
    "range_frame": ["sum(qty) OVER (ORDER BY qty RANGE BETWEEN 2 PRECEDING AND 2 FOLLOWING)", "count(*) OVER ({b} ORDER BY qty RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
                    "sum(qty) OVER (ORDER BY product RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"],
    "range_of_time": ["count(*) OVER (ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)",
                      "sum(qty) OVER (ORDER BY at RANGE BETWEEN INTERVAL '12 hours' PRECEDING AND INTERVAL '12 hours' FOLLOWING)"],
    "groups_frame": ["sum(qty) OVER (ORDER BY product GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW)", "count(*) OVER (ORDER BY region GROUPS CURRENT ROW)"],
    "groups_of_rows": ["sum(qty) OVER (ORDER BY product GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING)", "max(qty) OVER ({b} ORDER BY product GROUPS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)",
                       "count(*) OVER (ORDER BY region DESC GROUPS BETWEEN 2 PRECEDING AND 1 PRECEDING)", "avg(qty) OVER (ORDER BY product GROUPS UNBOUNDED PRECEDING)"],
    "exclude": ["sum(qty) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE CURRENT ROW)", "count(*) OVER (ORDER BY product RANGE UNBOUNDED PRECEDING EXCLUDE GROUP)",
                "sum(qty) OVER ({b} ORDER BY product GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE TIES)", "max(price) OVER (ORDER BY region ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE NO OTHERS)",
                "avg(qty) FILTER (WHERE qty > 2) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE CURRENT ROW)",
                "first_value(id) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW)", "string_agg(product, ',') OVER ({b} ORDER BY id ROWS 2 PRECEDING EXCLUDE CURRENT ROW)",
                "row_number() OVER (ORDER BY id ROWS UNBOUNDED PRECEDING EXCLUDE TIES)"],
    "peers": ["sum(qty) OVER (ORDER BY product)", "count(*) OVER (ORDER BY region)", "sum(qty) OVER (PARTITION BY product ORDER BY region)"],
    "filter": ["count(*) FILTER (WHERE qty > 3) OVER ({b} ORDER BY id)", "sum(qty) FILTER (WHERE product = 'pen') OVER (ORDER BY id)"],
    "nulls_first_and_last": ["row_number() OVER (ORDER BY qty NULLS FIRST, id)", "row_number() OVER (ORDER BY qty DESC NULLS LAST, id)",
                             "row_number() OVER (PARTITION BY product ORDER BY region NULLS FIRST, id)"],
    "expressions": ["row_number() OVER (PARTITION BY qty % 2 ORDER BY id) * 10", "sum(qty * price) OVER ({b} ORDER BY id)",
                    "coalesce(lag(qty) OVER (ORDER BY id), 0) + 1", "rank() OVER (ORDER BY length(product), id)"],
}
WHOLE = {
    "named_window": ["SELECT id, row_number() OVER w AS a, sum(qty) OVER w AS b FROM sales WINDOW w AS (PARTITION BY region ORDER BY id)"],
    "exclude_named": ["SELECT id, sum(qty) OVER w AS a, count(*) OVER w AS b FROM sales WINDOW w AS (PARTITION BY region ORDER BY id ROWS 1 PRECEDING EXCLUDE CURRENT ROW)"],
    "top_of_partition": ["SELECT id, region FROM (SELECT id, region, row_number() OVER (PARTITION BY region ORDER BY qty DESC NULLS LAST, id) AS n FROM sales) x WHERE n = 1",
                         "SELECT id, n FROM (SELECT id, rank() OVER (ORDER BY qty DESC NULLS LAST) AS n FROM sales) x WHERE n <= 3",
                         "SELECT id FROM (SELECT id, dense_rank() OVER (PARTITION BY product ORDER BY price) AS n FROM sales) x WHERE n < 2",
                         "SELECT id, n FROM (SELECT id, row_number() OVER (PARTITION BY product ORDER BY id) AS n FROM sales) x WHERE n BETWEEN 2 AND 3"],
    "over_aggregate": ["SELECT region, sum(qty) AS s, rank() OVER (ORDER BY sum(qty) DESC NULLS LAST) AS r FROM sales GROUP BY region",
                       "SELECT product, count(*) AS n, sum(count(*)) OVER () AS total FROM sales GROUP BY product",
                       "SELECT region, product, sum(sum(qty)) OVER (PARTITION BY region ORDER BY product) AS s FROM sales GROUP BY region, product"],
    "over_join": ["SELECT a.id, b.id AS other, row_number() OVER (PARTITION BY a.product ORDER BY a.id, b.id) AS n FROM sales a JOIN sales b ON a.product = b.product AND a.id < b.id"],
    "several_windows": ["SELECT id, sum(qty) OVER (PARTITION BY region ORDER BY id) AS a, sum(qty) OVER (PARTITION BY product ORDER BY id) AS b, count(*) OVER () AS c FROM sales",
                        "SELECT id, lag(qty) OVER (ORDER BY id) AS a, lead(qty) OVER (ORDER BY id) AS b FROM sales"],
    "aggregate_of_window": ["SELECT max(s) AS m FROM (SELECT sum(qty) OVER (PARTITION BY region ORDER BY id) AS s FROM sales) x",
                            "SELECT n, count(*) AS c FROM (SELECT row_number() OVER (PARTITION BY region ORDER BY id) AS n FROM sales) x GROUP BY n"],
    "gaps_and_islands": ["SELECT min(id) AS a, max(id) AS b, count(*) AS n FROM (SELECT id, id - row_number() OVER (ORDER BY id) AS g FROM sales WHERE qty > 2) x GROUP BY g"],
}


def topics():
    """All of them."""
    for name, calls in FUNCTIONS.items():
        queries = [f"SELECT id, {c.format(b=BY, o=ORDER)} AS w FROM sales" for c in calls]
        steps = [*SALES, *queries, *(f"SELECT w, count(*) AS n FROM ({q}) x GROUP BY w" for q in queries[:1])]
        for changes in SALES_CHANGES:
            steps += [*changes, *queries]
        yield Topic(f"windows/{name}", f"window functions: {name.replace('_', ' ')}", steps)
    for name, queries in WHOLE.items():
        steps = [*SALES, *queries]
        for changes in SALES_CHANGES:
            steps += [*changes, *queries]
        yield Topic(f"windows/{name}", f"window functions: {name.replace('_', ' ')}", steps)
