//! The Nexmark auction site for tests and measurements: streams, the queries q0 to q22 in our SQL, and all three kinds
//! of events in one JSON envelope.

use std::ops::Range;

use millstream_connectors::nexmark::{Kind, Nexmark};

/// Events of one group: a person, three auctions, 46 bids.
pub const GROUP: u64 = 50;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;

/// The three kinds with their stream names.
pub const KINDS: [(Kind, &str); 3] = [(Kind::Person, "person"), (Kind::Auction, "auction"), (Kind::Bid, "bid")];

const PERSON: &[(&str, &str)] = &[
    ("id", "BIGINT"),
    ("name", "TEXT"),
    ("email_address", "TEXT"),
    ("credit_card", "TEXT"),
    ("city", "TEXT"),
    ("state", "TEXT"),
    ("date_time", "TIMESTAMP"),
    ("extra", "TEXT"),
];
const AUCTION: &[(&str, &str)] = &[
    ("id", "BIGINT"),
    ("item_name", "TEXT"),
    ("description", "TEXT"),
    ("initial_bid", "BIGINT"),
    ("reserve", "BIGINT"),
    ("date_time", "TIMESTAMP"),
    ("expires", "TIMESTAMP"),
    ("seller", "BIGINT"),
    ("category", "BIGINT"),
    ("extra", "TEXT"),
];
const BID: &[(&str, &str)] = &[
    ("auction", "BIGINT"),
    ("bidder", "BIGINT"),
    ("price", "BIGINT"),
    ("channel", "TEXT"),
    ("url", "TEXT"),
    ("date_time", "TIMESTAMP"),
    ("extra", "TEXT"),
];

/// Columns of a kind with their SQL types.
pub fn columns(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Person => PERSON,
        Kind::Auction => AUCTION,
        Kind::Bid => BID,
    }
}

/// `name TYPE, name TYPE, ..`.
pub fn column_list(kind: Kind) -> String {
    let columns: Vec<String> = columns(kind).iter().map(|(name, sql)| format!("{name} {sql}")).collect();
    columns.join(", ")
}

/// `event_type INT, person STRUCT<..>, auction STRUCT<..>, bid STRUCT<..>`.
pub fn envelope_columns() -> String {
    let structs: Vec<String> =
        KINDS.iter().map(|(kind, name)| format!("{name} STRUCT<{}>", column_list(*kind))).collect();
    format!("event_type INT, {}", structs.join(", "))
}

/// Statements for the views `person`, `auction` and `bid` over a stream of envelopes.
pub fn envelope_views(stream: &str) -> Vec<String> {
    let view = |(index, (kind, name)): (usize, &(Kind, &str))| {
        let fields: Vec<String> =
            columns(*kind).iter().map(|(c, _)| format!("{stream}.{name}['{c}'] AS {c}")).collect();
        format!("CREATE VIEW {name} AS SELECT {} FROM {stream} WHERE event_type = {index}", fields.join(", "))
    };
    KINDS.iter().enumerate().map(view).collect()
}

/// Kind of an event by its number.
pub fn kind_of(event: u64) -> usize {
    match event % GROUP {
        n if n < PERSONS => 0,
        n if n < PERSONS + AUCTIONS => 1,
        _ => 2,
    }
}

/// Events of a kind with numbers below `events`.
pub fn count(kind: usize, events: u64) -> u64 {
    let (groups, rest) = (events / GROUP, events % GROUP);
    let (from, to) = [(0, PERSONS), (PERSONS, PERSONS + AUCTIONS), (PERSONS + AUCTIONS, GROUP)][kind];
    groups * (to - from) + rest.clamp(from, to) - from
}

/// Appends events as JSON envelopes, one a line, in order of their numbers.
pub fn write_envelopes(generator: &Nexmark, range: Range<u64>, out: &mut Vec<u8>) {
    let lines: Vec<Vec<u8>> = KINDS
        .iter()
        .map(|(kind, _)| {
            let mut lines = Vec::new();
            generator.write_json(*kind, range.clone(), &mut lines);
            lines
        })
        .collect();
    let mut next: Vec<_> = lines.iter().map(|l| l.split(|b| *b == b'\n').filter(|l| !l.is_empty())).collect();
    for event in range {
        let kind = kind_of(event);
        let line = next[kind].next().expect("the generator makes every event");
        out.extend_from_slice(format!("{{\"event_type\":{kind},\"{}\":", KINDS[kind].1).as_bytes());
        out.extend_from_slice(line);
        out.extend_from_slice(b"}\n");
    }
    assert!(next.iter_mut().all(|lines| lines.next().is_none()), "kinds of events are where we expect them");
}

/// A benchmark query.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// `q0` to `q22`.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Indexes of [`KINDS`] it reads.
    pub reads: &'static [usize],
    /// Over `person`, `auction` and `bid`.
    pub sql: &'a str,
}

/// Nexmark q0 to q8.
pub const QUERIES: &[Query<'static>] = &[
    Query {
        name: "q0",
        about: "pass through",
        reads: &[2],
        sql: "SELECT auction, bidder, price, date_time, extra FROM bid",
    },
    Query {
        name: "q1",
        about: "currency conversion",
        reads: &[2],
        sql: "SELECT auction, bidder, price * 0.908 AS price, date_time, extra FROM bid",
    },
    Query {
        name: "q2",
        about: "selection",
        reads: &[2],
        sql: "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    },
    Query {
        name: "q3",
        about: "local item suggestion: join",
        reads: &[0, 1],
        sql: "SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id \
              WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')",
    },
    Query {
        name: "q4",
        about: "average price for a category: join, aggregate of aggregate",
        reads: &[1, 2],
        sql: "SELECT category, avg(final) AS average, count(*) AS auctions FROM ( \
                SELECT a.id, a.category, max(b.price) AS final FROM auction a JOIN bid b ON a.id = b.auction \
                WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) w \
              GROUP BY category",
    },
    Query {
        name: "q5",
        about: "hot items: hopping windows, self join",
        reads: &[2],
        sql: "SELECT c.auction, c.num, c.window_start, c.window_end FROM ( \
                SELECT auction, count(*) AS num, window_start, window_end \
                FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds') \
                GROUP BY auction, window_start, window_end) c \
              JOIN ( \
                SELECT max(n.num) AS most, n.window_start, n.window_end FROM ( \
                  SELECT count(*) AS num, window_start, window_end \
                  FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds') \
                  GROUP BY auction, window_start, window_end) n \
                GROUP BY n.window_start, n.window_end) m \
              ON c.window_start = m.window_start AND c.window_end = m.window_end AND c.num >= m.most",
    },
    Query {
        name: "q6",
        about: "average selling price by seller: top-1, OVER frame",
        reads: &[1, 2],
        sql: "SELECT seller, id, avg(final) OVER ( \
                PARTITION BY seller ORDER BY date_time, id ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS average \
              FROM ( \
                SELECT a.id, a.seller, b.price AS final, b.date_time, ROW_NUMBER() OVER ( \
                  PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder) AS place \
                FROM auction a JOIN bid b ON a.id = b.auction \
                WHERE b.date_time BETWEEN a.date_time AND a.expires) w \
              WHERE place = 1",
    },
    Query {
        name: "q7",
        about: "highest bid: tumbling windows, join",
        reads: &[2],
        sql: "SELECT b.auction, b.price, b.bidder, b.date_time FROM bid b JOIN ( \
                SELECT max(price) AS highest, window_start, window_end \
                FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY window_start, window_end) m \
              ON b.price = m.highest AND b.date_time >= m.window_start AND b.date_time < m.window_end",
    },
    Query {
        name: "q8",
        about: "monitor new users: windowed join",
        reads: &[0, 1],
        sql: "SELECT p.id, p.name, p.window_start FROM ( \
                SELECT id, name, window_start, window_end FROM TUMBLE(person, date_time, INTERVAL '10 seconds') \
                GROUP BY id, name, window_start, window_end) p \
              JOIN ( \
                SELECT seller, window_start, window_end FROM TUMBLE(auction, date_time, INTERVAL '10 seconds') \
                GROUP BY seller, window_start, window_end) a \
              ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end",
    },
];

/// Nexmark q9 to q22, as far as they ask nothing of a wall clock ([`ARRIVAL_QUERY`] does). Functions of other systems are written in
/// ours; `side` of q13 is a table of keys and values.
pub const LATER_QUERIES: &[Query<'static>] = &[
    Query {
        name: "q9",
        about: "winning bids: join, top-1",
        reads: &[1, 2],
        sql: "SELECT id, item_name, seller, expires, auction, bidder, price, bid_time FROM ( \
                SELECT a.id, a.item_name, a.seller, a.expires, b.auction, b.bidder, b.price, b.date_time AS bid_time, \
                  ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder) AS place \
                FROM auction a JOIN bid b ON a.id = b.auction \
                WHERE b.date_time BETWEEN a.date_time AND a.expires) w \
              WHERE place <= 1",
    },
    Query {
        name: "q10",
        about: "log by day and minute",
        reads: &[2],
        sql: "SELECT auction, bidder, price, date_time, extra, CAST(date_time AS DATE) AS dt, \
                date_trunc('minute', date_time) AS hm FROM bid",
    },
    Query {
        name: "q11",
        about: "user sessions: gaps of ten seconds",
        reads: &[2],
        sql: "SELECT bidder, count(*) AS bids, window_start, window_end \
              FROM SESSION(bid, date_time, INTERVAL '10 seconds', bidder) GROUP BY bidder, window_start, window_end",
    },
    Query {
        name: "q13",
        about: "bounded side input",
        reads: &[2],
        sql: "SELECT b.auction, b.bidder, b.price, b.date_time, s.value FROM bid b JOIN side s ON b.auction % 20 = s.key",
    },
    Query {
        name: "q14",
        about: "calculation: CASE, a function of text",
        reads: &[2],
        sql: "SELECT auction, bidder, CAST(0.908 AS DOUBLE PRECISION) * price AS price, \
                CASE WHEN extract(hour FROM date_time) >= 8 AND extract(hour FROM date_time) <= 18 THEN 'dayTime' \
                WHEN extract(hour FROM date_time) <= 6 OR extract(hour FROM date_time) >= 20 THEN 'nightTime' \
                ELSE 'otherTime' END AS bid_time_type, date_time, extra, \
                length(extra) - length(replace(extra, 'c', '')) AS c_counts \
              FROM bid WHERE CAST(0.908 AS DOUBLE PRECISION) * price > 100000 \
                AND CAST(0.908 AS DOUBLE PRECISION) * price < 50000000",
    },
    Query {
        name: "q15",
        about: "bidding statistics: many distinct and filtered counts",
        reads: &[2],
        sql: "SELECT CAST(date_time AS DATE) AS day, count(*) AS total_bids, \
                count(*) FILTER (WHERE price < 10000) AS rank1_bids, \
                count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids, \
                count(*) FILTER (WHERE price >= 1000000) AS rank3_bids, \
                count(DISTINCT bidder) AS total_bidders, \
                count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders, \
                count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders, \
                count(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders, \
                count(DISTINCT auction) AS total_auctions, \
                count(DISTINCT auction) FILTER (WHERE price < 10000) AS rank1_auctions, \
                count(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions, \
                count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions \
              FROM bid GROUP BY CAST(date_time AS DATE)",
    },
    Query {
        name: "q16",
        about: "channel statistics",
        reads: &[2],
        sql: "SELECT channel, CAST(date_time AS DATE) AS day, max(date_trunc('minute', date_time)) AS minute, \
                count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids, \
                count(*) FILTER (WHERE price >= 1000000) AS rank3_bids, count(DISTINCT bidder) AS total_bidders, \
                count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders, \
                count(DISTINCT auction) AS total_auctions, \
                count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions \
              FROM bid GROUP BY channel, CAST(date_time AS DATE)",
    },
    Query {
        name: "q17",
        about: "auction statistics",
        reads: &[2],
        sql: "SELECT auction, CAST(date_time AS DATE) AS day, count(*) AS total_bids, \
                count(*) FILTER (WHERE price < 10000) AS rank1_bids, \
                count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids, \
                count(*) FILTER (WHERE price >= 1000000) AS rank3_bids, min(price) AS min_price, \
                max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price \
              FROM bid GROUP BY auction, CAST(date_time AS DATE)",
    },
    Query {
        name: "q18",
        about: "last bid of a bidder on an auction",
        reads: &[2],
        sql: "SELECT auction, bidder, price, channel, url, date_time, extra FROM ( \
                SELECT bid.*, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, price) AS place \
                FROM bid) w WHERE place <= 1",
    },
    Query {
        name: "q19",
        about: "top ten bids of an auction, with their places",
        reads: &[2],
        sql: "SELECT auction, bidder, price, date_time, place FROM ( \
                SELECT bid.*, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC, date_time, bidder) AS place \
                FROM bid) w WHERE place <= 10",
    },
    Query {
        name: "q20",
        about: "bids with their auctions: join and filter",
        reads: &[1, 2],
        sql: "SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, a.item_name, a.description, \
                a.initial_bid, a.reserve, a.date_time AS auction_time, a.expires, a.seller, a.category \
              FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10",
    },
    Query {
        name: "q21",
        about: "channel id: CASE and a regular expression",
        reads: &[2],
        sql: "SELECT auction, bidder, price, channel, CASE WHEN lower(channel) = 'apple' THEN '0' \
                WHEN lower(channel) = 'google' THEN '1' WHEN lower(channel) = 'facebook' THEN '2' \
                WHEN lower(channel) = 'baidu' THEN '3' \
                ELSE regexp_replace(url, '.*(&|^)channel_id=([^&]*).*', '\\2') END AS channel_id \
              FROM bid WHERE url ~ '(&|^)channel_id=([^&]*)' \
                OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')",
    },
    Query {
        name: "q22",
        about: "directories of a URL",
        reads: &[2],
        sql: "SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, \
                split_part(url, '/', 6) AS dir3 FROM bid",
    },
];

/// Nexmark q12, which asks when bids arrive: `bid` has the further column `p_time AS PROCTIME()`.
pub const ARRIVAL_QUERY: Query<'static> = Query {
    name: "q12",
    about: "bids of a bidder in ten seconds of the clock",
    reads: &[2],
    sql: "SELECT bidder, count(*) AS bids, window_start, window_end FROM TUMBLE(bid, p_time, INTERVAL '10 seconds') \
          GROUP BY bidder, window_start, window_end",
};

/// A query by name.
pub fn query(name: &str) -> &'static Query<'static> {
    QUERIES
        .iter()
        .chain(LATER_QUERIES)
        .chain([&ARRIVAL_QUERY])
        .find(|q| q.name == name)
        .unwrap_or_else(|| panic!("no query {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_hold_every_event_in_order() {
        let mut out = Vec::new();
        write_envelopes(&Nexmark::new(7), 30..230, &mut out);
        let events: Vec<serde_json::Value> =
            out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
        assert_eq!(events.len(), 200);
        let mut last = String::new();
        for (event, number) in events.iter().zip(30..) {
            let kind = event["event_type"].as_u64().unwrap() as usize;
            assert_eq!(kind, kind_of(number));
            let time = event[KINDS[kind].1]["date_time"].as_str().unwrap().to_owned();
            assert!(last < time, "{last} {time}");
            last = time;
            assert_eq!(event[KINDS[kind].1].as_object().unwrap().len(), columns(KINDS[kind].0).len());
        }
    }

    #[test]
    fn counts_add_up() {
        for events in [0, 1, 2, 4, 5, 49, 50, 51, 230] {
            for kind in 0..3 {
                assert_eq!(count(kind, events), (0..events).filter(|e| kind_of(*e) == kind).count() as u64);
            }
        }
    }
}
