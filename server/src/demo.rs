//! `millstream demo`: the generator, three views, and what they say, live in the terminal.

use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use millstream::api::Session;
use millstream::error::{Error, Result, SqlState};

use crate::RunningServer;

/// Statements that make the demo. A second start finds everything there and goes on.
pub fn statements(rate: u64, seed: u64) -> Vec<String> {
    let stream = |name: &str| {
        format!(
            "CREATE STREAM IF NOT EXISTS {name} (*) \
             WITH (connector = 'nexmark', type = '{name}', rate = '{rate}', seed = '{seed}')"
        )
    };
    let view = |name: &str, query: &str| format!("CREATE MATERIALIZED VIEW IF NOT EXISTS {name} AS {query}");
    vec![
        stream("person"),
        stream("auction"),
        stream("bid"),
        view(
            "bids_per_window",
            "SELECT window_start, auction, count(*) AS bids, max(price) AS top_price \
             FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') GROUP BY window_start, auction",
        ),
        view(
            "local_sellers",
            "SELECT a.id AS auction, p.name, p.city, p.state \
             FROM auction a JOIN person p ON a.seller = p.id \
             WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca', 'OR', 'ID', 'CA')",
        ),
        view(
            "hottest_auctions",
            "SELECT auction, count(*) AS bids, max(price) AS top_price \
             FROM bid GROUP BY auction ORDER BY bids DESC, auction LIMIT 10",
        ),
    ]
}

/// What is shown: a title, the query for the head, the relation that is counted.
const SHOWN: &[(&str, &str, &str)] = &[
    (
        "hottest_auctions: the ten auctions with the most bids",
        "SELECT * FROM hottest_auctions ORDER BY bids DESC, auction LIMIT 5",
        "hottest_auctions",
    ),
    (
        "bids_per_window: bids of an auction in 10 seconds of event time",
        "SELECT * FROM bids_per_window ORDER BY window_start DESC, bids DESC, auction LIMIT 5",
        "bids_per_window",
    ),
    (
        "local_sellers: auctions of category 10 joined with their sellers",
        "SELECT * FROM local_sellers ORDER BY auction DESC LIMIT 5",
        "local_sellers",
    ),
];

/// Creates streams and views, then shows them until `stop` is ready.
pub async fn run(
    server: &RunningServer,
    rate: u64,
    seed: u64,
    stop: impl Future<Output = ()>,
    out: &mut impl Write,
) -> Result<()> {
    let mut session = server.engine.session();
    for sql in statements(rate, seed) {
        session.query(&sql).await?;
    }
    let pg = server.pg_addr;
    let how = format!(
        "psql -h {} -p {} millstream        metrics: http://{}/metrics        Ctrl-C stops",
        pg.ip(),
        pg.port(),
        server.http_addr
    );
    let terminal = std::io::stdout().is_terminal();
    if !terminal {
        write(out, &format!("{how}\n"))?;
    }
    tokio::pin!(stop);
    // A pipe or a log gets a line now and then, a terminal a fresh picture every second.
    let mut ticks = tokio::time::interval(Duration::from_secs(if terminal { 1 } else { 5 }));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rates = Rates::default();
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            _ = ticks.tick() => {}
        }
        let metrics = server.engine.metrics();
        let shown = tokio::select! {
            () = &mut stop => return Ok(()),
            s = picture(&mut session, &mut rates, &metrics, terminal) => s?,
        };
        if terminal {
            // Home, the picture with each line cleared to its end, then the rest of the screen cleared.
            let body = format!("{how}\n\n{shown}").replace('\n', "\x1b[K\n");
            write(out, &format!("\x1b[H{body}\x1b[J"))?;
        } else {
            write(out, &shown)?;
        }
    }
}

fn write(out: &mut impl Write, s: &str) -> Result<()> {
    let io = |e: std::io::Error| Error::new(SqlState::IO_ERROR, format!("cannot write to the terminal: {e}"));
    out.write_all(s.as_bytes()).map_err(io)?;
    out.flush().map_err(io)
}

/// Counters seen before, for rates.
#[derive(Default)]
struct Rates {
    before: Option<(Instant, f64)>,
}

impl Rates {
    /// Rows read by all sources, and rows a second since the last call.
    fn of(&mut self, metrics: &[millstream::api::Metric]) -> (f64, f64) {
        let total: f64 = metrics.iter().filter(|m| is_input(m)).map(|m| m.value).sum();
        let now = Instant::now();
        let rate = match self.before.replace((now, total)) {
            Some((then, before)) => (total - before).max(0.0) / now.duration_since(then).as_secs_f64().max(1e-3),
            None => 0.0,
        };
        (total, rate)
    }
}

/// Counters of rows that came in, one a source.
fn is_input(m: &millstream::api::Metric) -> bool {
    m.counter && m.name.contains("source") && m.name.contains("rows") && !m.name.contains("error")
}

async fn picture(
    session: &mut Session,
    rates: &mut Rates,
    metrics: &[millstream::api::Metric],
    terminal: bool,
) -> Result<String> {
    let (total, rate) = rates.of(metrics);
    let mut s = format!("{total:.0} events, {rate:.0} events/s\n");
    for (title, sql, relation) in SHOWN {
        let count = session.query(&format!("SELECT count(*) AS n FROM {relation}")).await?;
        let rows = first_number(&count);
        if !terminal {
            s.push_str(&format!("  {relation}: {rows} rows\n"));
            continue;
        }
        let head = session.query(sql).await?;
        let options = FormatOptions::new().with_null("").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S"));
        let table = pretty_format_batches_with_options(&head, &options)
            .map_err(|e| Error::internal(format!("cannot print a view: {e}")))?;
        s.push_str(&format!("\n{title} ({rows} rows)\n{table}\n"));
    }
    Ok(s)
}

fn first_number(batches: &[RecordBatch]) -> i64 {
    use arrow::array::AsArray as _;
    batches
        .iter()
        .find(|b| b.num_rows() > 0 && b.num_columns() > 0)
        .and_then(|b| b.column(0).as_primitive_opt::<arrow::datatypes::Int64Type>())
        .map_or(0, |a| a.value(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_that_is_shown_is_made() {
        let made = statements(10_000, 1).join("\n");
        for (_, _, relation) in SHOWN {
            assert!(made.contains(&format!("IF NOT EXISTS {relation} ")), "{relation}");
        }
    }
}
