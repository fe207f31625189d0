"""What the topics of the corpus are made of: topics, tables that several of them share, and the writing of a file."""

import re
from dataclasses import dataclass, field


@dataclass
class Topic:
    """One file: `path` without its ending, a title, and the steps in order.

    A step is SQL. One that starts with SELECT, WITH, VALUES or a parenthesis is a query; one that starts with `!` is
    expected to fail, with the SQLSTATE that PostgreSQL gives.
    """

    path: str
    title: str
    steps: list = field(default_factory=list)


NUMBERS = [
    "CREATE TABLE n (id INT PRIMARY KEY, i SMALLINT, j INT, k BIGINT, d DOUBLE PRECISION, m NUMERIC(12,3))",
    "INSERT INTO n VALUES (1, 7, 42, 9000000000, 2.5, 12.345), (2, -7, -42, -9000000000, -2.5, -12.345), "
    "(3, 0, 0, 0, 0, 0), (4, NULL, NULL, NULL, NULL, NULL), (5, 1, 100, 12, 0.1, 0.005), (6, 7, 3, 5, 1000.75, 99.995), "
    "(7, -3, 8, -5, -0.5, -0.5), (8, 2, 42, 64, 3.5, 1.5)",
]
TEXTS = [
    "CREATE TABLE s (id INT PRIMARY KEY, a TEXT, b TEXT)",
    "INSERT INTO s VALUES (1, 'Hello World', 'o'), (2, '', ''), (3, NULL, 'x'), (4, 'abcabc', 'bc'), "
    "(5, '  padded  ', ' '), (6, 'ünïcödé', 'ö'), (7, 'under_score', '_'), (8, 'abc', NULL), (9, 'aXbXc', 'X'), "
    "(10, '100%', '%')",
]
TIMES = [
    "CREATE TABLE e (id INT PRIMARY KEY, ts TIMESTAMP, dt DATE, n INT)",
    "INSERT INTO e VALUES (1, '2026-01-01 00:00:00', '2026-01-01', 1), (2, '2026-02-28 23:59:59.5', '2026-02-28', 2), "
    "(3, '2024-02-29 12:30:45.123456', '2024-02-29', 3), (4, NULL, NULL, NULL), (5, '1999-12-31 18:00:00', '1999-12-31', -1), "
    "(6, '2026-06-15 08:05:03', '2026-06-15', 40), (7, '1969-07-20 20:17:40', '1969-07-20', 0)",
]
BOOLS = [
    "CREATE TABLE b (id INT PRIMARY KEY, p BOOLEAN, q BOOLEAN, x INT, y INT)",
    "INSERT INTO b VALUES (1, true, true, 1, 1), (2, true, false, 1, 2), (3, true, NULL, 1, NULL), (4, false, true, 2, 1), "
    "(5, false, false, NULL, NULL), (6, false, NULL, NULL, 1), (7, NULL, true, 3, 3), (8, NULL, false, 3, 2), "
    "(9, NULL, NULL, 0, NULL)",
]
PAIR = [
    "CREATE TABLE l (id INT PRIMARY KEY, k INT, g TEXT, v INT)",
    "CREATE TABLE r (id INT PRIMARY KEY, k INT, g TEXT, w INT)",
    "INSERT INTO l VALUES (1, 1, 'a', 10), (2, 1, 'b', 20), (3, 2, 'a', 30), (4, NULL, 'c', 40), (5, 5, NULL, 50), "
    "(6, 3, 'b', NULL)",
    "INSERT INTO r VALUES (1, 1, 'a', 5), (2, 2, 'a', 35), (3, 2, 'b', 25), (4, NULL, 'c', 15), (5, 7, NULL, 45), "
    "(6, 3, 'c', NULL), (7, 1, 'b', 20)",
]
# What happens to PAIR while views look on: matches come and go, keys move, a side is emptied and filled again.
PAIR_CHANGES = [
    ["INSERT INTO r VALUES (8, 5, 'c', 60), (9, 1, 'a', 10)", "INSERT INTO l VALUES (7, 7, 'a', 15)"],
    ["UPDATE l SET k = 2 WHERE id = 1", "UPDATE r SET k = NULL WHERE id = 3", "UPDATE r SET w = w + 10 WHERE g = 'a'"],
    ["DELETE FROM r"],
    ["INSERT INTO r VALUES (1, 2, 'a', 1), (2, 2, 'a', 2)", "DELETE FROM l WHERE v > 25"],
]
SALES = [
    "CREATE TABLE sales (id INT PRIMARY KEY, region TEXT, product TEXT, qty INT, price NUMERIC(8,2), score DOUBLE PRECISION, "
    "at TIMESTAMP)",
    "INSERT INTO sales VALUES (1, 'north', 'pen', 10, 1.50, 0.5, '2026-01-01 09:00:00'), "
    "(2, 'north', 'ink', 3, 7.25, 1.25, '2026-01-01 10:30:00'), (3, 'south', 'pen', 7, 1.45, NULL, '2026-01-02 08:00:00'), "
    "(4, 'south', 'pad', NULL, 3.00, 2, '2026-01-02 08:00:00'), (5, 'east', 'ink', 1, NULL, -1.5, '2026-01-03 12:00:00'), "
    "(6, NULL, 'pen', 4, 1.55, 0.25, '2026-01-03 13:00:00'), (7, 'north', NULL, 2, 9.99, 0.5, NULL), "
    "(8, 'south', 'ink', 5, 7.00, 4, '2026-01-05 23:59:59'), (9, 'east', 'pad', 8, 2.95, 0, '2026-01-06 00:00:00')",
]
SALES_CHANGES = [
    ["INSERT INTO sales VALUES (10, 'west', 'pen', 6, 1.60, 3.5, '2026-01-07 10:00:00'), "
     "(11, 'north', 'pen', 10, 1.50, 0.5, '2026-01-01 09:00:00')"],
    ["UPDATE sales SET qty = qty * 2 WHERE region = 'south'", "UPDATE sales SET region = 'north' WHERE id = 5",
     "DELETE FROM sales WHERE id IN (1, 8)"],
]


def is_query(sql):
    """Whether a statement gives rows."""
    return re.match(r"\s*(SELECT|WITH|VALUES|TABLE|\()", sql, re.I) is not None


def ordered(sql):
    """Whether ORDER BY stands outside of all parentheses."""
    depth, outside = 0, []
    for piece in re.split(r"('(?:[^']|'')*'|[()])", sql):
        depth += piece == "("
        if depth == 0 and not piece.startswith("'"):
            outside.append(piece)
        depth -= piece == ")"
    return re.search(r"\bORDER\s+BY\b", " ".join(outside), re.I) is not None


def per_row(path, title, tables, source, expressions, changes, extra=()):
    """A topic about scalar expressions over the columns of one table."""
    steps = list(tables)
    for e in expressions:
        steps.append(f"SELECT id, {e} AS r FROM {source}")
    first = expressions[0]
    steps.append(f"SELECT {first} AS r, count(*) AS c FROM {source} GROUP BY 1")
    steps.append(f"SELECT id FROM {source} WHERE ({first}) IS NOT NULL AND id > 1")
    steps.append(f"SELECT x.id, y.id AS other FROM {source} x JOIN {source} y ON x.id < y.id AND "
                 f"({qualify(first, 'x')}) = ({qualify(first, 'y')})")
    steps.extend(extra)
    steps.extend(changes)
    for e in expressions[:3]:
        steps.append(f"SELECT id, {e} AS r FROM {source}")
    steps.append(f"SELECT count(DISTINCT {first}) AS c FROM {source}")
    return Topic(path, title, steps)


def qualify(expression, alias):
    """The expression with its one-letter columns qualified; literals stay as they are."""
    pieces = re.split(r"('(?:[^']|'')*')", expression)
    column = re.compile(r"(?<![\w.])(id|ts|dt|[a-z])(?![\w(.])")
    return "".join(p if p.startswith("'") else column.sub(rf"{alias}.\1", p) for p in pieces)


def shown(value):
    """A value as the runner prints it."""
    if value is None:
        return "NULL"
    return "(empty)" if value == "" else value.replace("\n", "\\n")


LETTERS = {20: "I", 21: "I", 23: "I", 700: "R", 701: "R", 25: "T", 1043: "T", 1042: "T"}


def written(topic, ask):
    """The text of a topic's file. `ask` runs SQL on PostgreSQL and gives a result or an SQLSTATE."""
    lines = [f"# {topic.title}"]
    for step in topic.steps:
        fails = step.startswith("!")
        sql = step.lstrip("!").strip()
        answer = ask(sql)
        if fails:
            if not isinstance(answer, str):
                raise SystemExit(f"{topic.path}: expected to fail: {sql}")
            lines += ["", f"{'query' if is_query(sql) else 'statement'} error ({answer})", sql]
            continue
        if isinstance(answer, str):
            raise SystemExit(f"{topic.path}: {answer}: {sql}")
        if not is_query(sql):
            lines += ["", "statement ok", sql]
            continue
        letters = "".join(LETTERS.get(oid, "?") for _, oid in answer.columns)
        rows = [" ".join(shown(v) for v in row) for row in answer.rows]
        sort = "" if ordered(sql) else " rowsort"
        lines += ["", f"query {letters}{sort}", sql, "----", *(rows if ordered(sql) else sorted(rows))]
    return "\n".join(lines) + "\n"
