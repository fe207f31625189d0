//! PostgreSQL runs the same statements: what it answers is what we answer, or the list of differences says why not.
//!
//! - Our own scripts: PostgreSQL gives what the file says. That we give it too is what the tests of the scripts show.
//! - The corpus: the file says what PostgreSQL gives, still.
//! - Random queries: both run them now. `MILLSTREAM_POSTGRES_SEEDS=n` runs n scripts instead of the fixed number;
//!   `MILLSTREAM_SEED=s` runs that one.
//!
//! What PostgreSQL does not know (streams over connectors, TUMBLE, functions of ours) is counted, not compared.

use std::collections::BTreeMap;
use std::path::Path;

use millstream_sqllogictest::differences::{Differences, one_line};
use millstream_sqllogictest::values::{canonical, sorted};
use millstream_sqllogictest::{scripts, ways};
use millstream_tests::local::Local;
use millstream_tests::oracle::scenario::Step;
use millstream_tests::oracle::{Features, Scenario};
use millstream_tests::postgres::{Postgres, Refused, lines, translated};
use sqllogictest::{DefaultColumnType, QueryExpect, Record, SortMode, StatementExpect};
use tokio_postgres::Client;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sqllogictest/slt");
/// Fewer comparisons prove less than promised.
const COMPARED_MIN: usize = 1500;

/// What a run covered.
#[derive(Default)]
struct Seen {
    compared: usize,
    listed: usize,
    not_run: BTreeMap<String, usize>,
    problems: Vec<String>,
}

impl Seen {
    fn skip(&mut self, why: impl Into<String>) {
        *self.not_run.entry(why.into()).or_default() += 1;
    }

    fn report(&self, what: &str) {
        println!("{what}: {} compared, {} differ as listed", self.compared, self.listed);
        for (why, n) in &self.not_run {
            println!("  {n} not compared: {why}");
        }
        assert!(self.problems.is_empty(), "{} differences:\n{}", self.problems.len(), self.problems.join("\n"));
    }
}

fn list() -> Differences {
    Differences::read(Path::new(Differences::PATH)).unwrap_or_else(|e| panic!("{e}"))
}

async fn fresh(client: &Client) {
    let sql = "DROP SCHEMA IF EXISTS script CASCADE; CREATE SCHEMA script; SET search_path = script";
    client.batch_execute(sql).await.expect("a fresh schema");
}

/// Runs one of our scripts on PostgreSQL.
async fn script(client: &Client, path: &Path, name: &str, list: &Differences, seen: &mut Seen) {
    fresh(client).await;
    let records = sqllogictest::parse_file::<DefaultColumnType>(path).expect("a script");
    for record in records {
        match record {
            Record::Statement { sql, expected: StatementExpect::Ok | StatementExpect::Count(_), .. } => {
                let first = sql.split_ascii_whitespace().next().unwrap_or_default().to_ascii_uppercase();
                if !["CREATE", "DROP", "INSERT", "UPDATE", "DELETE"].contains(&first.as_str()) {
                    continue;
                }
                if let Err(e) = lines(client, &translated(&sql)).await {
                    if ["INSERT", "UPDATE", "DELETE"].contains(&first.as_str()) {
                        seen.skip(format!("the rest of a script after {first} that fails with {}", e.code));
                        return;
                    }
                    seen.skip(format!("{first} that fails with {}", e.code));
                }
            }
            Record::Query { sql, expected: QueryExpect::Results { sort_mode, results, .. }, .. } => {
                if let Some(why) = ways::left_out(&sql).filter(|why| *why != "LIMIT without ORDER BY") {
                    seen.skip(why);
                    continue;
                }
                let ordered = matches!(sort_mode, None | Some(SortMode::NoSort));
                judge(client, &sql, ordered, &results, name, list, seen).await;
            }
            _ => {}
        }
    }
}

async fn judge(
    client: &Client,
    sql: &str,
    ordered: bool,
    want: &[String],
    name: &str,
    list: &Differences,
    seen: &mut Seen,
) {
    let text = match lines(client, sql).await {
        Err(e) if e.unknown() => return seen.skip(format!("a query that fails with {}", e.code)),
        Err(e) => format!("PostgreSQL fails with {} {}", e.code, e.message),
        Ok(have) => {
            seen.compared += 1;
            let exact = |lines: &[String]| lines.iter().map(|l| canonical(l)).collect::<Vec<_>>();
            let (have, want) = if ordered { (exact(&have), exact(want)) } else { (sorted(&have), sorted(want)) };
            if have == want {
                return;
            }
            format!("PostgreSQL: {have:?}\n    the script: {want:?}")
        }
    };
    if list.differs(name, sql).is_some() {
        seen.listed += 1;
    } else {
        seen.problems.push(format!("{name} | {}\n    {text}", one_line(sql)));
    }
}

#[tokio::test]
async fn scripts_say_what_postgresql_says() {
    let Some(postgres) = Postgres::start() else { return };
    let client = postgres.connect().await;
    let list = list();
    let none = Differences::default();
    let (mut own, mut corpus) = (Seen::default(), Seen::default());
    let mut names = Vec::new();
    for path in scripts(Path::new(SCRIPTS)) {
        let name = path.strip_prefix(SCRIPTS).unwrap_or(&path).with_extension("").display().to_string();
        if name.starts_with("postgres/") {
            script(&client, &path, &name, &none, &mut corpus).await;
        } else {
            script(&client, &path, &name, &list, &mut own).await;
            names.push(name);
        }
    }
    let stale = list.stale(|file| names.iter().any(|n| n == file));
    assert!(stale.is_empty(), "listed, but no longer different:\n{}", stale.join("\n"));
    corpus.report("the corpus");
    own.report("our scripts");
    let compared = corpus.compared + own.compared;
    assert!(compared >= COMPARED_MIN, "only {compared} queries were compared");
}

/// A generated statement in words that mean the same to both: the average of decimals has other digits there, and `ß` has
/// no upper case there.
fn common(sql: &str) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("avg(") {
        let (argument, after) = after.split_once(')').unwrap_or((after, ""));
        out.push_str(&format!("{before}avg(CAST({argument} AS DOUBLE PRECISION))"));
        rest = after;
    }
    out.push_str(rest);
    out.replace("äß", "äö")
}

/// Errors that depend on what an engine computes first, or on the width of its sums.
fn arithmetic(e: &Refused) -> bool {
    e.code.starts_with("22")
}

struct Both {
    ours: Client,
    theirs: Client,
    list: Differences,
    seen: Seen,
}

impl Both {
    /// A change of both, or of none.
    async fn change(&mut self, sql: &str) {
        let sql = common(sql);
        lines(&self.theirs, "BEGIN").await.expect("BEGIN");
        let theirs = lines(&self.theirs, &translated(&sql)).await;
        let keep = theirs.is_ok() && lines(&self.ours, &sql).await.is_ok();
        lines(&self.theirs, if keep { "COMMIT" } else { "ROLLBACK" }).await.expect("the end of a change");
    }

    async fn compare(&mut self, seed: u64, sql: &str) {
        let sql = common(sql);
        let name = format!("random/{seed}");
        let (theirs, ours) = futures::join!(lines(&self.theirs, &sql), lines(&self.ours, &sql));
        let text = match (theirs, ours) {
            (Err(e), _) if e.unknown() => return self.seen.skip(format!("a query that fails with {}", e.code)),
            (Err(e), _) if arithmetic(&e) => return self.seen.skip("a value that cannot be computed there"),
            (_, Err(e)) if arithmetic(&e) => return self.seen.skip("a value that cannot be computed here"),
            (_, Err(e)) if e.code == "0A000" => return self.seen.skip(format!("refused here: {}", e.message)),
            (Err(e), _) => format!("PostgreSQL fails with {} {}", e.code, e.message),
            (_, Err(e)) => format!("we fail with {} {}", e.code, e.message),
            (Ok(theirs), Ok(ours)) => {
                self.seen.compared += 1;
                let (theirs, ours) = (sorted(&theirs), sorted(&ours));
                if theirs == ours {
                    return;
                }
                let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).take(4).cloned().collect();
                let (there, here): (Vec<String>, Vec<String>) = (only(&theirs, &ours), only(&ours, &theirs));
                format!("{} rows there, {} here; only there {there:?}, only here {here:?}", theirs.len(), ours.len())
            }
        };
        if self.list.differs(&name, &sql).is_some() {
            self.seen.listed += 1;
        } else {
            self.seen.problems.push(format!("{name} | {}\n    {text}", one_line(&sql)));
        }
    }

    async fn scenario(&mut self, seed: u64, scenario: &Scenario) {
        fresh(&self.theirs).await;
        for table in &scenario.tables {
            lines(&self.ours, &format!("DROP TABLE IF EXISTS {} CASCADE", table.name)).await.ok();
            let sql = table.sql();
            lines(&self.theirs, &translated(&sql)).await.expect("a table there");
            lines(&self.ours, &sql.replacen("CREATE STREAM", "CREATE TABLE", 1)).await.expect("a table here");
        }
        let mut queries: Vec<String> = scenario.tables.iter().map(|t| format!("SELECT * FROM {}", t.name)).collect();
        for step in &scenario.steps {
            match step {
                Step::Create(view) if !queries.contains(&view.sql) => {
                    // Views are read by later queries; plain ones are enough, our own test compares views with queries.
                    let create = format!("CREATE VIEW {} AS {}", view.name, common(&view.sql));
                    lines(&self.ours, &format!("DROP VIEW IF EXISTS {} CASCADE", view.name)).await.ok();
                    // What one of them does not have, later queries fail about.
                    let both = lines(&self.theirs, &create).await.is_ok() && lines(&self.ours, &create).await.is_ok();
                    if both {
                        queries.push(view.sql.clone());
                    } else {
                        lines(&self.theirs, &format!("DROP VIEW IF EXISTS {} CASCADE", view.name)).await.ok();
                    }
                    self.compare(seed, &view.sql).await;
                }
                Step::Change { changes, .. } => {
                    for change in changes {
                        self.change(&change.sql()).await;
                    }
                }
                _ => {}
            }
        }
        for sql in queries {
            self.compare(seed, &sql).await;
        }
    }
}

#[tokio::test]
async fn random_queries_give_what_postgresql_gives() {
    let Some(postgres) = Postgres::start() else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("MILLSTREAM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLSTREAM_POSTGRES_SEEDS").unwrap_or(60),
    };
    let local = Local::start(2).await;
    let mut both =
        Both { ours: local.connect().await, theirs: postgres.connect().await, list: list(), seen: Seen::default() };
    let features =
        Features { odd_doubles: false, errors: false, windows: false, restarts: false, concurrent: false, depth: 2 };
    for seed in seeds.clone() {
        both.scenario(seed, &Scenario::generate((9 << 32) + seed, &features)).await;
    }
    local.stop().await;
    let names: Vec<String> = seeds.map(|s| format!("random/{s}")).collect();
    let stale = both.list.stale(|file| names.iter().any(|n| n == file));
    both.seen.report("random queries");
    assert!(stale.is_empty(), "listed, but no longer different:\n{}", stale.join("\n"));
}
