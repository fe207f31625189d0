"""Scalar functions and operators, a file each."""

from base import BOOLS, NUMBERS, TEXTS, TIMES, Topic, per_row

NUMBER_CHANGES = ["UPDATE n SET j = j + 1, d = d * 2 WHERE id IN (1, 3)", "DELETE FROM n WHERE id = 2",
                  "INSERT INTO n VALUES (9, 5, 17, 17, 17.25, 17.5)"]
TEXT_CHANGES = ["UPDATE s SET a = b, b = a WHERE id IN (1, 9)", "DELETE FROM s WHERE id = 4",
                "INSERT INTO s VALUES (11, 'abc', 'c'), (12, 'Hello World', 'World')"]
TIME_CHANGES = ["UPDATE e SET ts = ts + INTERVAL '1 day', dt = dt + 1 WHERE id < 4", "DELETE FROM e WHERE id = 5",
                "INSERT INTO e VALUES (8, '2026-12-31 23:59:59.999999', '2026-12-31', 12)"]
BOOL_CHANGES = ["UPDATE b SET p = NOT p, x = y WHERE id < 5", "DELETE FROM b WHERE id = 9",
                "INSERT INTO b VALUES (10, NULL, true, NULL, 7)"]

NUMERIC = {
    "abs": ["abs(j)", "abs(d)", "abs(m)", "abs(k)", "abs(-i)"],
    "sign": ["sign(d)", "sign(m)", "CAST(sign(j) AS INT)"],
    "ceil": ["ceil(d)", "ceil(m)", "ceiling(-d)"],
    "floor": ["floor(d)", "floor(m)", "floor(-d)"],
    "round": ["round(m)", "round(m, 2)", "round(m, 0)", "round(m, -1)", "round(d)"],
    "round_of_doubles_ties_to_even": ["round(d)", "round(d * 0.5)", "round(-d)"],
    "trunc": ["trunc(d)", "trunc(m)", "trunc(m, 1)", "trunc(m, -1)"],
    "modulo": ["j % 5", "mod(j, 5)", "k % 7", "m % 2.5", "i % 3"],
    "integer_division": ["j / 5", "k / 7", "i / 2", "(-j) / 5", "div(j, 5)"],
    "power": ["power(d, 2)", "power(j, 2)", "power(2, j % 10)", "d ^ 2", "pow(d, 3)"],
    "roots": ["sqrt(abs(d))", "cbrt(d)", "sqrt(abs(m))"],
    "exp_and_ln": ["exp(d / 100)", "ln(abs(d) + 1)", "log(abs(d) + 1)", "log10(abs(d) + 1)", "log(2, abs(m) + 1)"],
    "trigonometry": ["sin(d)", "cos(d)", "tan(d)", "atan(d)", "atan2(d, 2)", "cot(d + 1.3)"],
    "inverse_trigonometry": ["asin(sin(d))", "acos(cos(d))", "degrees(d)", "radians(d)", "pi() * d"],
    "hyperbolic": ["sinh(d / 100)", "cosh(d / 100)", "tanh(d)", "asinh(d)", "atanh(d / 2000)"],
    "gcd_and_lcm": ["gcd(j, 12)", "lcm(j, 6)", "gcd(k, 8)"],
    "bit_operators": ["j & 12", "j | 5", "j # 3", "j << 2", "j >> 1", "~j"],
    "addition": ["j + 1", "i + j", "j + k", "d + j", "m + j", "m + m"],
    "subtraction": ["j - 1", "i - j", "k - j", "d - j", "m - 0.005", "-j"],
    "multiplication": ["j * 2", "i * j", "j * k", "d * j", "m * 3", "m * m"],
    "division_of_doubles": ["d / 2", "d / 3", "j / 2.0::double precision", "j::double precision / 7"],
    "division_of_decimals": ["m / 4", "m / 3", "j / 8.0", "m / 0.5"],
    "greatest_and_least": ["greatest(j, i)", "least(j, i)", "greatest(j, NULL)", "least(d, j)", "greatest(m, 1.5)", "least(1, 2, j)"],
    "coalesce_numbers": ["coalesce(j, -1)", "coalesce(i, j, k)", "coalesce(d, 0.5)", "coalesce(NULL, m, 1)"],
    "nullif_numbers": ["nullif(j, 42)", "nullif(d, 0)", "nullif(m, -0.5)", "nullif(i, j)"],
    "case_numbers": ["CASE WHEN j > 0 THEN 'p' WHEN j < 0 THEN 'n' ELSE 'z' END", "CASE j WHEN 42 THEN 1 WHEN 0 THEN 2 END",
                     "CASE WHEN d > 1 THEN j ELSE k END", "CASE WHEN j IS NULL THEN NULL ELSE 1 / CASE WHEN j = 0 THEN 1 ELSE j END END"],
    "between_numbers": ["j BETWEEN 0 AND 50", "d NOT BETWEEN 0 AND 3", "m BETWEEN -1 AND 1", "j BETWEEN SYMMETRIC 50 AND 0"],
    "in_list_numbers": ["j IN (42, 0)", "j NOT IN (42, 0)", "j IN (42, NULL)", "j NOT IN (42, NULL)", "d IN (2.5, 0.1)"],
    "comparison_numbers": ["j = 42", "j <> 42", "j < d", "k >= j", "m > d", "i = j"],
    "cast_to_integer": ["d::int", "m::int", "CAST(d * 3 AS BIGINT)", "CAST(m AS SMALLINT)", "(d::int)::text"],
    "cast_to_double": ["j::double precision", "m::double precision", "(k / 1000)::real", "CAST('1.5' AS DOUBLE PRECISION) + d"],
    "cast_to_numeric": ["j::numeric(10,2)", "d::numeric(10,1)", "m::numeric(8,1)", "CAST('12.5' AS NUMERIC(6,2)) + m"],
    "cast_number_to_text": ["j::text", "k::text", "m::text", "d::text", "i::varchar"],
    "width_bucket": ["width_bucket(d, -10, 10, 4)"],
    "hexadecimal": ["to_hex(abs(j))", "to_hex(abs(k))"],
}
TEXT = {
    "length": ["length(a)", "char_length(a)", "character_length(b)", "octet_length(a)", "bit_length(b)"],
    "lower_and_upper": ["lower(a)", "upper(a)", "upper(lower(a))"],
    "initcap": ["initcap(a)", "initcap(b)", "initcap('the quick-brown fox')"],
    "substr": ["substr(a, 2)", "substr(a, 2, 3)", "substr(a, 0, 3)", "substr(a, -1, 4)", "substring(a, 3)"],
    "substring_from_for": ["substring(a FROM 2 FOR 3)", "substring(a FROM 3)", "substring(a FOR 2)"],
    "left_and_right": ["left(a, 3)", "right(a, 3)", "left(a, -2)", "right(a, -2)", "left(a, 0)"],
    "padding": ["lpad(a, 7)", "rpad(a, 7, '*')", "lpad(a, 7, 'xy')", "lpad(a, 2, 'x')", "rpad(b, 3, '-')"],
    "trim": ["trim(a)", "ltrim(a)", "rtrim(a)", "btrim(a)", "trim(BOTH 'a' FROM a)", "trim(LEADING 'a' FROM a)",
             "trim(TRAILING 'c' FROM a)", "ltrim(a, 'ab')"],
    "replace": ["replace(a, 'b', '--')", "replace(a, b, '')", "replace(a, '', 'x')"],
    "translate": ["translate(a, 'abc', 'xyz')", "translate(a, 'abc', 'x')", "translate(a, ' ', '_')"],
    "position": ["strpos(a, b)", "position(b IN a)", "strpos(a, 'c')", "strpos(a, '')"],
    "split_part": ["split_part(a, 'b', 1)", "split_part(a, 'b', 2)", "split_part(a, 'X', 3)", "split_part(a, ' ', 2)", "split_part(a, 'X', -1)"],
    "reverse": ["reverse(a)", "reverse(reverse(b))"],
    "repeat": ["repeat(b, 3)", "repeat(a, 0)", "repeat(b, -1)"],
    "concat": ["a || b", "a || '!'", "concat(a, b)", "concat(a, NULL, b)", "concat_ws('-', a, b)", "a || id"],
    "ascii_and_chr": ["ascii(a)", "chr(65 + id)", "ascii(b)"],
    "md5": ["md5(a)", "md5(b)"],
    "starts_with": ["starts_with(a, 'ab')", "starts_with(a, b)", "a ^@ 'ab'"],
    "overlay": ["overlay(a PLACING 'zz' FROM 2 FOR 1)", "overlay(a PLACING 'zz' FROM 2)"],
    "like": ["a LIKE 'a%'", "a LIKE '%b%'", "a LIKE '_b_'", "a NOT LIKE '%c'", "a LIKE b", "a LIKE '100\\%'", "a LIKE ''"],
    "ilike": ["a ILIKE 'A%'", "a ILIKE 'hello%'", "a NOT ILIKE '%B%'"],
    "regular_expressions": ["a ~ '^a'", "a ~* 'HELLO'", "a !~ 'b'", "a !~* 'B'", "regexp_replace(a, 'b', 'Z')",
                            "regexp_replace(a, '[abc]', '.', 'g')", "regexp_like(a, '^[a-c]+$')"],
    "regexp_count_and_substr": ["regexp_count(a, 'b')", "regexp_substr(a, '[a-z]+')", "regexp_instr(a, 'b')"],
    "similar_to": ["a SIMILAR TO 'a%'", "a SIMILAR TO '(a|b|c)+'", "a NOT SIMILAR TO '%X%'"],
    "comparison_text": ["a < b", "a = b", "a >= 'abc'", "a <> ''", "greatest(a, b)", "least(a, b)"],
    "coalesce_text": ["coalesce(a, b)", "coalesce(b, a, 'none')", "nullif(a, 'abc')", "nullif(b, '')"],
    "case_text": ["CASE a WHEN 'abc' THEN 'three' WHEN '' THEN 'none' ELSE a END", "CASE WHEN a LIKE '%b%' THEN upper(a) END"],
    "in_list_text": ["a IN ('abc', '')", "a NOT IN ('abc', '')", "a IN ('abc', NULL)", "a = ANY (ARRAY['abc', 'abcabc'])"],
    "between_text": ["a BETWEEN 'a' AND 'b'", "a NOT BETWEEN 'A' AND 'Z'"],
    "to_array_and_back": ["string_to_array(a, 'b')", "array_to_string(string_to_array(a, 'X'), '+')", "string_to_array(a, ' ')"],
    "encode_and_decode": ["encode(convert_to(a, 'UTF8'), 'hex')", "encode(convert_to(a, 'UTF8'), 'base64')"],
    "sha256": ["encode(sha256(convert_to(a, 'UTF8')), 'hex')"],
    "text_to_number": ["length(a)::text || 'x'", "('1' || length(b))::int", "(length(a)::text || '.5')::numeric(6,2)"],
}
TIME = {
    "date_trunc": [f"date_trunc('{u}', ts)" for u in ("minute", "second", "hour", "day", "week", "month", "quarter", "year")],
    "extract_date_fields": [f"extract({u} FROM ts)" for u in ("year", "month", "day", "quarter", "week", "dow", "isodow", "doy")],
    "extract_time_fields": [f"extract({u} FROM ts)" for u in ("hour", "minute", "second", "epoch", "milliseconds", "microseconds")],
    "extract_from_date": [f"extract({u} FROM dt)" for u in ("year", "month", "day", "dow", "doy", "epoch", "century", "decade")],
    "date_part": ["date_part('year', ts)", "date_part('hour', ts)", "date_part('second', ts)", "date_part('dow', dt)"],
    "date_arithmetic": ["dt + 1", "dt - 1", "dt + n", "dt - DATE '2026-01-01'", "dt + INTERVAL '1 month'"],
    "timestamp_plus_interval": ["ts + INTERVAL '1 day'", "ts - INTERVAL '90 minutes'", "ts + INTERVAL '1 month'",
                                "ts + INTERVAL '1 year 2 days'", "ts + n * INTERVAL '1 hour'"],
    "timestamp_difference": ["ts - TIMESTAMP '2026-01-01 00:00:00'", "extract(epoch FROM ts - TIMESTAMP '2026-01-01 00:00:00')"],
    "timestamp_casts": ["ts::date", "dt::timestamp", "ts::text", "dt::text", "ts::time", "CAST('2026-03-04' AS DATE)"],
    "timestamp_comparison": ["ts < TIMESTAMP '2026-01-01 12:00:00'", "dt = DATE '2024-02-29'", "ts >= dt", "ts BETWEEN '2024-01-01' AND '2026-12-31'",
                             "dt IN (DATE '2026-01-01', DATE '1999-12-31')"],
    "make_date": ["make_date(2020 + (n % 5), 1, 1)", "make_date(2024, 2, 29)"],
    "to_char_timestamp": ["to_char(ts, 'YYYY-MM-DD')", "to_char(ts, 'HH24:MI:SS')", "to_char(dt, 'DD/MM/YYYY')"],
    "to_timestamp_epoch": ["to_timestamp(n)", "extract(epoch FROM to_timestamp(n * 3600))"],
    "date_bin": ["date_bin('15 minutes', ts, TIMESTAMP '2001-01-01')", "date_bin('1 day', ts, TIMESTAMP '2001-01-01 06:00:00')"],
    "at_time_zone": ["ts AT TIME ZONE 'UTC'", "(ts AT TIME ZONE 'Europe/Oslo') AT TIME ZONE 'UTC'",
                     "(ts AT TIME ZONE 'UTC') AT TIME ZONE 'America/New_York'"],
    "time_null_functions": ["coalesce(ts, TIMESTAMP '2000-01-01')", "nullif(dt, DATE '2026-01-01')", "greatest(ts, TIMESTAMP '2020-01-01')",
                            "ts IS NULL", "CASE WHEN dt > '2025-01-01' THEN 'new' ELSE 'old' END"],
    "age_and_justify": ["age(ts, TIMESTAMP '2020-01-01')", "justify_hours(INTERVAL '1 hour' * n)"],
    "intervals": ["INTERVAL '1 day' + (ts - ts)", "INTERVAL '1 day' * n", "INTERVAL '1 hour' * n", "INTERVAL '03:04:05'",
                  "INTERVAL '1 month 2 days 03:04:05'", "INTERVAL '2 hours 30 minutes'", "-INTERVAL '1 day'"],
}
BOOL = {
    "and_or_not": ["p AND q", "p OR q", "NOT p", "p AND NOT q", "(p OR q) AND NOT (p AND q)"],
    "is_true_is_unknown": ["p IS TRUE", "p IS NOT TRUE", "p IS FALSE", "p IS NOT FALSE", "p IS UNKNOWN", "p IS NOT UNKNOWN"],
    "boolean_comparison": ["p = q", "p <> q", "p < q", "p = (x = y)", "p IS DISTINCT FROM q"],
    "is_distinct_from": ["x IS DISTINCT FROM y", "x IS NOT DISTINCT FROM y", "x IS DISTINCT FROM NULL", "x = y", "p IS DISTINCT FROM q AND x = 1", "p IS NOT DISTINCT FROM q OR x = 3",
                         "NOT x IS DISTINCT FROM y AND p"],
    "null_comparisons": ["x = NULL", "x <> NULL", "NULL = NULL", "x > y", "x + y"],
    "three_valued_in": ["x IN (1, y)", "x NOT IN (1, y)", "x IN (NULL, 2)", "x NOT IN (y)"],
    "boolean_casts": ["p::text", "p::int", "(x > 1)::int", "CAST('yes' AS BOOLEAN) AND p", "x::boolean"],
    "case_without_else": ["CASE WHEN p THEN x END", "CASE WHEN p THEN x WHEN q THEN y END", "CASE WHEN p IS NULL THEN -1 ELSE x END"],
    "coalesce_booleans": ["coalesce(p, q)", "coalesce(p, false)", "nullif(p, q)", "coalesce(x = y, false)"],
    "any_all_of_arrays": ["x = ANY (ARRAY[1, 2])", "x = ANY (ARRAY[1, NULL])", "x <> ALL (ARRAY[1, 2])", "x > ALL (ARRAY[1, NULL])", "x >= ANY (ARRAY[y, 3])"],
    "num_nulls": ["num_nulls(p, q, x)", "num_nonnulls(p, q, x)"],
    "row_comparison": ["(x, y) = (1, 1)", "(x, y) IN ((1, 2), (3, 3))", "(x, y) < (2, 2)", "(x, y) IS NULL"],
}
ARRAYS = [
    "CREATE TABLE a (id INT PRIMARY KEY, xs INT[], ts TEXT[])",
    "INSERT INTO a VALUES (1, ARRAY[1,2,3], ARRAY['a','b']), (2, ARRAY[]::INT[], ARRAY[]::TEXT[]), (3, NULL, NULL), "
    "(4, ARRAY[3,NULL,1], ARRAY['x',NULL]), (5, ARRAY[7,7], ARRAY['b','b','c'])",
]
ARRAY = {
    "length_and_dimensions": ["array_length(xs, 1)", "cardinality(xs)", "array_ndims(xs)", "array_upper(xs, 1)", "array_lower(xs, 1)"],
    "subscripts": ["xs[1]", "xs[2]", "xs[9]", "ts[1]", "xs[1:2]", "xs[2:]"],
    "append_and_concatenate": ["array_append(xs, 9)", "array_prepend(0, xs)", "array_cat(xs, ARRAY[8])", "xs || 5", "xs || ARRAY[5, 6]"],
    "search": ["array_position(xs, 7)", "array_position(ts, 'b')", "array_positions(xs, 7)", "3 = ANY (xs)", "3 <> ALL (xs)"],
    "remove_and_replace": ["array_remove(xs, 7)", "array_replace(xs, 7, 8)", "array_remove(xs, NULL)"],
    "to_string": ["array_to_string(xs, ',')", "array_to_string(ts, '-', '?')", "xs::text"],
    "containment": ["xs @> ARRAY[1]", "xs <@ ARRAY[1,2,3,7]", "xs && ARRAY[3, 9]", "ts @> ARRAY['b']"],
    "comparison": ["xs = ARRAY[1,2,3]", "xs < ARRAY[2]", "xs <> ARRAY[7,7]"],
}


def topics():
    """All of them."""
    for name, e in NUMERIC.items():
        yield per_row(f"numbers/{name}", f"numbers: {name.replace('_', ' ')}", NUMBERS, "n", e, NUMBER_CHANGES)
    for name, e in TEXT.items():
        yield per_row(f"text/{name}", f"text: {name.replace('_', ' ')}", TEXTS, "s", e, TEXT_CHANGES)
    for name, e in TIME.items():
        yield per_row(f"time/{name}", f"dates and times: {name.replace('_', ' ')}", TIMES, "e", e, TIME_CHANGES)
    for name, e in BOOL.items():
        yield per_row(f"logic/{name}", f"logic and NULL: {name.replace('_', ' ')}", BOOLS, "b", e, BOOL_CHANGES)
    for name, e in ARRAY.items():
        steps = [*ARRAYS, *(f"SELECT id, {x} AS r FROM a" for x in e),
                 "UPDATE a SET xs = ARRAY[9, 1] WHERE id = 2", "DELETE FROM a WHERE id = 5",
                 *(f"SELECT id, {x} AS r FROM a" for x in e[:3]),
                 f"SELECT {e[0]} AS r, count(*) AS c FROM a GROUP BY 1"]
        yield Topic(f"arrays/{name}", f"arrays: {name.replace('_', ' ')}", steps)
