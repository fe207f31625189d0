"""Compares views with what DuckDB computes from the same events.

usage: duckdb_check.py EVENTS.ndjson name=rows.csv ..

EVENTS.ndjson has one envelope a line, as written by `millstream_tests::nexmark::write_envelopes`; lines that are no
valid envelope are left out. Each CSV file (with a header) holds the rows of the view `name`. Prints a line a view;
exits with 1 if one differs.
"""

import sys

import duckdb

BID = "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR"
AUCTION = (
    "id BIGINT, item_name VARCHAR, description VARCHAR, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP, "
    "expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR"
)
PERSON = (
    "id BIGINT, name VARCHAR, email_address VARCHAR, credit_card VARCHAR, city VARCHAR, state VARCHAR, "
    "date_time TIMESTAMP, extra VARCHAR"
)

# Independent of how Millstream writes them: windows by arithmetic, no table functions.
HOPS = """
    SELECT auction, s AS window_start, s + INTERVAL 10 SECOND AS window_end, count(*) AS num
    FROM (SELECT auction, unnest([time_bucket(INTERVAL 2 SECOND, date_time) - INTERVAL 2 SECOND * i
                                  FOR i IN range(5)]) AS s FROM bid)
    GROUP BY ALL
"""
QUERIES = {
    "q1": "SELECT auction, bidder, CAST(price * 0.908 AS DOUBLE) AS price, date_time, extra FROM bid",
    "q3": """
        SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')
    """,
    "q4": """
        SELECT category, avg(final) AS average, count(*) AS auctions FROM (
          SELECT a.id, a.category, max(b.price) AS final FROM auction a JOIN bid b ON a.id = b.auction
          WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category)
        GROUP BY category
    """,
    "q5": f"""
        WITH counts AS ({HOPS})
        SELECT auction, num, window_start, window_end FROM counts
        QUALIFY num = max(num) OVER (PARTITION BY window_start)
    """,
    "q7": """
        SELECT auction, price, bidder, date_time FROM bid
        QUALIFY price = max(price) OVER (PARTITION BY time_bucket(INTERVAL 10 SECOND, date_time))
    """,
}


def main() -> int:
    events, views = sys.argv[1], dict(arg.split("=", 1) for arg in sys.argv[2:])
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    # One text column: a bad line must not decide about the others.
    db.execute(
        "CREATE TABLE lines AS SELECT line FROM read_csv(?, columns = {'line': 'VARCHAR'}, delim = '\x01', quote = '',"
        " escape = '', header = false, auto_detect = false, max_line_size = 1048576)",
        [events],
    )
    db.execute("DELETE FROM lines WHERE NOT json_valid(line)")
    for kind, (name, fields) in enumerate([("person", PERSON), ("auction", AUCTION), ("bid", BID)]):
        shape = ", ".join('"%s":"%s"' % tuple(f.split()) for f in fields.split(", "))
        db.execute(
            f"""CREATE TABLE {name} AS SELECT unnest(event) FROM (
                SELECT json_transform(line->'{name}', '{{{shape}}}') AS event FROM lines
                WHERE json_type(line, '$.event_type') = 'UBIGINT' AND CAST(line->>'event_type' AS INT) = {kind})"""
        )
    counts = db.execute("SELECT (SELECT count(*) FROM person), (SELECT count(*) FROM auction), count(*) FROM bid")
    print("persons, auctions, bids:", *counts.fetchone())
    wrong = 0
    for view, path in views.items():
        db.execute(f"CREATE TABLE expected AS {QUERIES[view]}")
        db.execute("CREATE TABLE actual AS SELECT * FROM expected LIMIT 0")
        db.execute(f"COPY actual FROM '{path}' (FORMAT csv, HEADER true)")
        missing, extra = (
            db.execute(f"SELECT count(*) FROM (FROM {a} EXCEPT ALL FROM {b})").fetchone()[0]
            for a, b in (("expected", "actual"), ("actual", "expected"))
        )
        rows = db.execute("SELECT count(*) FROM expected").fetchone()[0]
        print(f"{view}: {rows} rows, {missing} missing, {extra} too many")
        if missing or extra or not rows:
            wrong += 1
            for a, b in (("expected", "actual"), ("actual", "expected")):
                for row in db.execute(f"FROM (FROM {a} EXCEPT ALL FROM {b}) LIMIT 3").fetchall():
                    print(f"  only {a}: {row}")
        db.execute("DROP TABLE expected; DROP TABLE actual")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
