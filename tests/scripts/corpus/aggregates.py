"""Aggregate functions, a file each, and the ways to group."""

from base import SALES, SALES_CHANGES, Topic

CALLS = {
    "count": ["count(*)", "count(qty)", "count(DISTINCT product)"],
    "sum_of_integers": ["sum(qty)", "sum(qty::bigint)", "sum(-qty)", "sum(DISTINCT qty)"],
    "sum_of_decimals": ["sum(price)", "sum(price * qty)", "sum(DISTINCT price)"],
    "sum_of_doubles": ["sum(score)", "sum(score * 0.5)", "sum(DISTINCT score)"],
    "avg_of_integers": ["avg(qty)", "avg(qty::bigint)", "avg(DISTINCT qty)"],
    "avg_of_decimals": ["avg(price)", "avg(price * 2)"],
    "avg_of_doubles": ["avg(score)", "avg(DISTINCT score)"],
    "min_and_max_of_numbers": ["min(qty)", "max(qty)", "min(price)", "max(score)"],
    "min_and_max_of_text": ["min(product)", "max(product)", "min(region || coalesce(product, ''))"],
    "min_and_max_of_times": ["min(at)", "max(at)", "max(at::date)"],
    "bool_and_or": ["bool_and(qty > 2)", "bool_or(qty > 7)", "every(price < 8)"],
    "variance": ["var_pop(qty)", "var_samp(qty)", "variance(score)", "var_pop(price)"],
    "standard_deviation": ["stddev_pop(qty)", "stddev_samp(qty)", "stddev(score)"],
    "covariance_and_correlation": ["covar_pop(qty, score)", "covar_samp(qty, score)", "corr(qty, score)"],
    "regression": ["regr_slope(score, qty)", "regr_intercept(score, qty)", "regr_count(score, qty)", "regr_r2(score, qty)"],
    "regression_sums": ["regr_avgx(score, qty)", "regr_avgy(score, qty)", "regr_sxx(score, qty)", "regr_syy(score, qty)", "regr_sxy(score, qty)"],
    "string_agg": ["string_agg(product, ',' ORDER BY id)", "string_agg(product, '' ORDER BY product DESC, id)", "string_agg(DISTINCT product, '-' ORDER BY product)"],
    "array_agg": ["array_agg(qty ORDER BY id)", "array_agg(product ORDER BY product NULLS FIRST, id)", "array_agg(DISTINCT qty ORDER BY qty)"],
    "bit_aggregates": ["bit_and(qty)", "bit_or(qty)", "bit_xor(qty)"],
    "filter": ["count(*) FILTER (WHERE qty > 3)", "sum(price) FILTER (WHERE product = 'pen')", "count(DISTINCT product) FILTER (WHERE qty IS NOT NULL)",
               "max(qty) FILTER (WHERE false)"],
    "distinct": ["count(DISTINCT qty)", "count(DISTINCT product), count(DISTINCT qty)", "sum(DISTINCT qty), count(*)", "avg(DISTINCT price)"],
    "percentile_cont": ["percentile_cont(0.5) WITHIN GROUP (ORDER BY score)", "percentile_cont(0.25) WITHIN GROUP (ORDER BY qty)"],
    "percentile_disc": ["percentile_disc(0.5) WITHIN GROUP (ORDER BY qty)", "percentile_disc(0.9) WITHIN GROUP (ORDER BY score)"],
    "mode": ["mode() WITHIN GROUP (ORDER BY qty)", "mode() WITHIN GROUP (ORDER BY product)"],
    "json_agg": ["json_agg(qty ORDER BY id)", "jsonb_agg(product ORDER BY id)"],
    "json_agg_forms": ["json_agg(DISTINCT product)", "jsonb_agg(DISTINCT qty)", "json_agg(qty ORDER BY id DESC) FILTER (WHERE qty > 3)",
                       "json_agg(ARRAY[id, qty] ORDER BY id)", "jsonb_agg(price > 2 ORDER BY id)", "json_agg(at ORDER BY id)",
                       "json_agg(score ORDER BY id), jsonb_agg(to_jsonb(product) ORDER BY id)"],
    "json_object_agg": ["json_object_agg(id, product ORDER BY id)", "jsonb_object_agg(product, qty ORDER BY id) FILTER (WHERE product IS NOT NULL)",
                        "json_object_agg(coalesce(product, '-'), qty ORDER BY id)", "jsonb_object_agg(id::text || product, score ORDER BY id) FILTER (WHERE product > 'ink')"],
    "percentile_arrays": ["percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY score)", "percentile_disc(ARRAY[0, 0.5, NULL, 1]) WITHIN GROUP (ORDER BY qty)",
                          "percentile_disc(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY product DESC)"],
    "several_at_once": ["count(*), sum(qty), avg(qty), min(price), max(price)", "count(*), count(qty), count(price), count(score)",
                        "sum(qty) * 1.0 / count(*)", "max(qty) - min(qty)", "sum(qty) + coalesce(max(qty), 0)"],
    "of_expressions": ["sum(CASE WHEN product = 'pen' THEN qty ELSE 0 END)", "max(length(product))", "sum(abs(score))", "count(nullif(product, 'pen'))",
                       "sum(coalesce(qty, 100))"],
}
SHAPES = [
    "SELECT {c} FROM sales",
    "SELECT region, {c} FROM sales GROUP BY region",
    "SELECT {c} FROM sales WHERE id > 1000",
]
GROUPS = {
    "by_expression": ["SELECT qty % 2 AS odd, count(*) AS n FROM sales GROUP BY qty % 2", "SELECT upper(region) AS r, sum(qty) AS s FROM sales GROUP BY upper(region)",
                      "SELECT date_trunc('day', at) AS d, count(*) AS n FROM sales GROUP BY date_trunc('day', at)", "SELECT at::date AS d, sum(price) AS s FROM sales GROUP BY 1",
                      "SELECT CASE WHEN qty > 4 THEN 'many' ELSE 'few' END AS size, count(*) AS n FROM sales GROUP BY 1", "SELECT region IS NULL AS x, count(*) AS n FROM sales GROUP BY 1"],
    "by_several": ["SELECT region, product, count(*) AS n FROM sales GROUP BY region, product", "SELECT region, product FROM sales GROUP BY region, product",
                   "SELECT product, region, max(at) AS m FROM sales GROUP BY 2, 1", "SELECT count(*) AS n FROM sales GROUP BY region, product"],
    "having": ["SELECT region, count(*) AS n FROM sales GROUP BY region HAVING count(*) > 1", "SELECT product FROM sales GROUP BY product HAVING sum(qty) > 10",
               "SELECT region, sum(qty) AS s FROM sales GROUP BY region HAVING sum(qty) IS NULL OR min(price) < 2", "SELECT sum(qty) AS s FROM sales HAVING count(*) > 5",
               "SELECT region FROM sales GROUP BY region HAVING region LIKE '%th'"],
    # A condition without columns belongs above the group of no rows, not below it.
    "having_without_columns": ["SELECT count(*) AS n FROM sales HAVING (SELECT max(qty) FROM sales) > 100", "SELECT 1 AS one FROM sales HAVING count(*) > 100",
                               "SELECT * FROM (SELECT region, count(*) AS n FROM sales GROUP BY ROLLUP (region)) x WHERE (SELECT max(qty) FROM sales) > 100",
                               "SELECT 1 AS one FROM (SELECT max(qty) AS m FROM sales) x WHERE (SELECT max(qty) FROM sales WHERE false) > 1",
                               "SELECT 1 AS one FROM (SELECT max(qty) AS m FROM sales) x WHERE (SELECT max(qty) FROM sales) > 1",
                               "SELECT * FROM (SELECT length('abc') AS c, count(*) AS n FROM sales) x WHERE c > 5",
                               "SELECT n FROM (SELECT 3 AS c, count(*) AS n FROM sales WHERE id < 0) x WHERE c > 2"],
    "filter_above_grouping_sets": ["SELECT * FROM (SELECT region, count(*) AS n FROM sales GROUP BY ROLLUP (region)) x WHERE region = 'north'",
                                   "SELECT * FROM (SELECT region, product, count(*) AS n FROM sales GROUP BY CUBE (region, product)) x WHERE product IS NULL",
                                   "SELECT * FROM (SELECT region, count(*) AS n FROM sales GROUP BY GROUPING SETS ((region), ())) x WHERE coalesce(region, 'north') = 'north'"],
    "rollup": ["SELECT region, product, sum(qty) AS s FROM sales GROUP BY ROLLUP (region, product)", "SELECT region, count(*) AS n FROM sales GROUP BY ROLLUP (region)",
               "SELECT region, product, grouping(region) AS a, grouping(product) AS b, count(*) AS n FROM sales GROUP BY ROLLUP (region, product)"],
    "cube": ["SELECT region, product, sum(qty) AS s FROM sales GROUP BY CUBE (region, product)", "SELECT product, count(*) AS n, max(price) AS m FROM sales GROUP BY CUBE (product)"],
    "grouping_sets": ["SELECT region, product, count(*) AS n FROM sales GROUP BY GROUPING SETS ((region), (product))",
                      "SELECT region, product, sum(price) AS s FROM sales GROUP BY GROUPING SETS ((region, product), (region), ())",
                      "SELECT region, count(*) AS n FROM sales GROUP BY GROUPING SETS ((region), (region))"],
    "of_aggregates": ["SELECT max(n) AS m FROM (SELECT region, count(*) AS n FROM sales GROUP BY region) x", "SELECT n, count(*) AS c FROM (SELECT region, count(*) AS n FROM sales GROUP BY region) x GROUP BY n",
                      "SELECT avg(s) AS a FROM (SELECT product, sum(qty) AS s FROM sales GROUP BY product) x"],
    "join_with_own_total": ["SELECT s.id, s.qty, t.total FROM sales s JOIN (SELECT product, sum(qty) AS total FROM sales GROUP BY product) t ON s.product = t.product",
                            "SELECT s.region, s.qty FROM sales s JOIN (SELECT region, max(qty) AS m FROM sales GROUP BY region) t ON s.region = t.region AND s.qty = t.m"],
    "nothing_there": ["SELECT count(*) AS n, sum(qty) AS s FROM sales WHERE false", "SELECT region, count(*) AS n FROM sales WHERE false GROUP BY region",
                      "SELECT max(at) AS m, bool_and(qty > 0) AS b FROM sales WHERE id < 0", "SELECT coalesce(sum(qty), 0) AS s FROM sales WHERE region = 'nowhere'"],
}


def topics():
    """All of them."""
    for name, calls in CALLS.items():
        queries = [s.format(c=c) for c in calls for s in SHAPES]
        steps = [*SALES, *queries]
        for changes in SALES_CHANGES:
            steps += [*changes, *(SHAPES[1].format(c=c) for c in calls)]
        steps += ["DELETE FROM sales", *(s.format(c=calls[0]) for s in SHAPES[:2])]
        yield Topic(f"aggregates/{name}", f"aggregates: {name.replace('_', ' ')}", steps)
    for name, queries in GROUPS.items():
        steps = [*SALES, *queries]
        for changes in SALES_CHANGES:
            steps += [*changes, *queries]
        yield Topic(f"groups/{name}", f"grouping: {name.replace('_', ' ')}", steps)
