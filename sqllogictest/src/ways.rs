//! Every SELECT of a script three ways: as a query, as a materialized view that was there before the rows, and as one that
//! is made over the rows that are there.
//!
//! The script is run once more on a server of its own. All its CREATE statements come first, then a view of every SELECT,
//! then the rest in order; at the place of each SELECT both views must have the rows the script expects. A script that
//! drops, replaces or alters something keeps its order: its views are made after the last such statement before
//! their SELECT, and dropped before the next one.
//!
//! What cannot be a view is recognised ([`left_out`]) or marked by a comment `# batch only: REASON` above the record, and
//! counted. The scripts of the corpus (`slt/postgres`) run here alone, queries too; numbers compare by value and records
//! of the list of differences must differ.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;
use sqllogictest::{DefaultColumnType, ExpectedError, QueryExpect, Record, SortMode, StatementExpect};
use tokio::sync::Mutex;
use tokio_postgres::SimpleQueryMessage;

use crate::differences::{Differences, one_line};
use crate::values::{canonical, sorted};
use crate::{Database, Failure, Host, TIMEOUT, shown};

/// How many records ran which way.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Records of all kinds.
    pub records: usize,
    /// SELECTs that ran as queries.
    pub batch: usize,
    /// SELECTs that were compared with a view from before the rows.
    pub before: usize,
    /// SELECTs that were compared with a view made over the rows.
    pub after: usize,
    /// Records of the list of differences.
    pub listed: usize,
    /// Queries that were not views, by reason.
    pub left_out: BTreeMap<String, usize>,
}

impl Counts {
    /// Adds another script.
    pub fn add(&mut self, other: Counts) {
        self.records += other.records;
        self.batch += other.batch;
        self.before += other.before;
        self.after += other.after;
        self.listed += other.listed;
        for (reason, n) in other.left_out {
            *self.left_out.entry(reason).or_default() += n;
        }
    }
}

/// A SELECT of a script.
struct Select {
    columns: usize,
    want: Vec<String>,
    /// The order of the rows of the query counts.
    ordered: bool,
    left_out: Option<String>,
}

enum Kind {
    /// A statement, or a query whose result is compared elsewhere.
    Run,
    /// It fails, with this code if the script gives one.
    Fails(Option<String>),
    Select(Select),
}

struct Step {
    sql: String,
    kind: Kind,
}

/// Why a query cannot be a view; `None`: it can.
pub fn left_out(sql: &str) -> Option<&'static str> {
    let text = without_literals(&sql.to_ascii_lowercase());
    let first = text.trim_start().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    if !["select", "with", "values", ""].contains(&first) {
        return Some("not a SELECT");
    }
    const SYSTEM: &[&str] = &[
        "ms",
        "pg_catalog",
        "information_schema",
        "pg_class",
        "pg_type",
        "pg_namespace",
        "current_user",
        "session_user",
        "version",
        "current_database",
        "current_schema",
        "current_setting",
        "pg_backend_pid",
    ];
    const CHANGING: &[&str] =
        &["now", "random", "current_timestamp", "current_date", "current_time", "localtimestamp", "clock_timestamp"];
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()).collect();
    if words.iter().any(|w| SYSTEM.contains(w)) {
        return Some("asks about the system");
    }
    if words.iter().any(|w| CHANGING.contains(w)) {
        return Some("its value changes by itself");
    }
    let limited = words.iter().any(|w| ["limit", "offset"].contains(w));
    (limited && !words.contains(&"order")).then_some("LIMIT without ORDER BY")
}

fn without_literals(sql: &str) -> String {
    sql.split('\'').step_by(2).collect::<Vec<_>>().join("''")
}

fn words(sql: &str) -> Vec<String> {
    sql.split_ascii_whitespace().take(3).map(str::to_ascii_uppercase).collect()
}

/// A statement after which names may mean something else than before.
fn redefines(sql: &str) -> bool {
    let words = words(sql);
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    ["DROP", "ALTER", "PAUSE", "RESUME", "SET"].contains(&word(0))
        || word(0) == "CREATE" && word(1) == "OR"
        || sql.trim_start().starts_with("--")
}

fn creates(sql: &str) -> bool {
    words(sql).first().is_some_and(|w| w == "CREATE")
}

fn code(expected: &ExpectedError) -> Option<String> {
    match expected {
        ExpectedError::SqlState(code) => Some(code.clone()),
        _ => None,
    }
}

fn steps(path: &Path) -> Result<Vec<Step>, String> {
    let mut out = Vec::new();
    let mut mark: Option<String> = None;
    for record in sqllogictest::parse_file::<DefaultColumnType>(path).map_err(|e| e.to_string())? {
        let (sql, kind) = match record {
            Record::Comment(lines) => {
                mark = lines.iter().find_map(|l| l.trim().strip_prefix("batch only:").map(|r| r.trim().to_owned()));
                continue;
            }
            Record::Statement { sql, expected: StatementExpect::Error(e), .. } => (sql, Kind::Fails(code(&e))),
            Record::Query { sql, expected: QueryExpect::Error(e), .. } => (sql, Kind::Fails(code(&e))),
            Record::Statement { sql, .. } => (sql, Kind::Run),
            Record::Query { sql, expected: QueryExpect::Results { types, sort_mode, results, .. }, .. } => {
                let ordered = matches!(sort_mode, None | Some(SortMode::NoSort));
                let left_out = mark.take().map(|_| "marked".to_owned()).or_else(|| left_out(&sql).map(str::to_owned));
                (sql, Kind::Select(Select { columns: types.len(), want: results, ordered, left_out }))
            }
            _ => continue,
        };
        mark = None;
        out.push(Step { sql: sql.trim().trim_end_matches(';').to_owned(), kind });
    }
    Ok(out)
}

/// One script on a server of its own.
struct Pass<'a> {
    name: &'a str,
    corpus: bool,
    list: &'a Differences,
    database: Database,
    counts: Counts,
    problems: Vec<String>,
    /// Views that are there, by the text of their query.
    before: BTreeMap<String, Result<String, String>>,
    after: BTreeMap<String, Result<String, String>>,
    made: usize,
}

/// Runs a script; problems are the error. `corpus`: it belongs to the corpus.
pub async fn run(path: &Path, name: &str, corpus: bool, list: &Differences) -> Result<Counts, (Counts, String)> {
    let fail = |e: String| (Counts::default(), e);
    let steps = steps(path).map_err(fail)?;
    let host = Arc::new(Mutex::new(Host::start().await.map_err(|e| fail(e.to_string()))?));
    let database = Database { host: host.clone(), client: None };
    let mut pass = Pass {
        name,
        corpus,
        list,
        database,
        counts: Counts::default(),
        problems: Vec::new(),
        before: BTreeMap::new(),
        after: BTreeMap::new(),
        made: 0,
    };
    pass.all(steps).await;
    sqllogictest::AsyncDB::shutdown(&mut pass.database).await;
    if pass.problems.is_empty() { Ok(pass.counts) } else { Err((pass.counts, pass.problems.join("\n"))) }
}

impl Pass<'_> {
    async fn all(&mut self, steps: Vec<Step>) {
        let fixed = steps.iter().any(|s| redefines(&s.sql));
        let (first, rest): (Vec<Step>, Vec<Step>) = if fixed {
            (Vec::new(), steps)
        } else {
            steps.into_iter().partition(|s| matches!(s.kind, Kind::Run) && creates(&s.sql))
        };
        for step in &first {
            self.take(step).await;
        }
        self.prepare(&rest).await;
        for (at, step) in rest.iter().enumerate() {
            let defines = fixed && matches!(step.kind, Kind::Run) && (creates(&step.sql) || redefines(&step.sql));
            // A restart is the one thing views are to live through.
            let defines = defines && !step.sql.starts_with("--");
            if defines {
                self.forget().await;
            }
            self.take(step).await;
            if defines {
                self.prepare(&rest[at + 1..]).await;
            }
        }
    }

    /// Makes the views of the SELECTs up to the next statement that defines something.
    async fn prepare(&mut self, steps: &[Step]) {
        let next = |s: &&Step| {
            !(matches!(s.kind, Kind::Run) && (creates(&s.sql) || redefines(&s.sql)) && !s.sql.starts_with("--"))
        };
        let mut wanted: Vec<(String, usize)> = Vec::new();
        for step in steps.iter().take_while(next) {
            if let Kind::Select(s) = &step.kind
                && s.left_out.is_none()
                && !wanted.iter().any(|(sql, _)| *sql == step.sql)
            {
                wanted.push((step.sql.clone(), s.columns));
            }
        }
        let made = self.create("before", &wanted).await;
        self.before = made;
    }

    /// Creates views, one request after the other without waiting in between.
    async fn create(&mut self, way: &str, wanted: &[(String, usize)]) -> BTreeMap<String, Result<String, String>> {
        let mut texts = Vec::new();
        for (sql, columns) in wanted {
            self.made += 1;
            let name = format!("the_view_{way}_{}", self.made);
            let columns: Vec<String> = (1..=*columns).map(|i| format!("c{i}")).collect();
            let sql = self.database.substitute(sql).await;
            texts.push((name.clone(), format!("CREATE MATERIALIZED VIEW {name} ({}) AS {sql}", columns.join(", "))));
        }
        let client = match self.database.client().await {
            Ok(client) => client,
            Err(e) => return wanted.iter().map(|(sql, _)| (sql.clone(), Err(e.to_string()))).collect(),
        };
        let done = join_all(texts.iter().map(|(_, text)| client.simple_query(text))).await;
        let mut made = BTreeMap::new();
        for (((sql, _), (name, _)), done) in wanted.iter().zip(&texts).zip(done) {
            made.insert(sql.clone(), done.map(|_| name.clone()).map_err(|e| Failure::from(e).to_string()));
        }
        made
    }

    /// Drops the views.
    async fn forget(&mut self) {
        let views: Vec<String> =
            self.before.values().chain(self.after.values()).filter_map(|v| v.as_ref().ok().cloned()).collect();
        self.before.clear();
        self.after.clear();
        if let (false, Ok(client)) = (views.is_empty(), self.database.client().await) {
            let sql: Vec<String> = views.iter().map(|v| format!("DROP MATERIALIZED VIEW {v} CASCADE")).collect();
            for done in join_all(sql.iter().map(|s| client.simple_query(s))).await {
                if let Err(e) = done {
                    self.problems.push(format!("cannot drop a view: {}", Failure::from(e)));
                }
            }
        }
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<String>, String> {
        let sql = self.database.substitute(sql).await;
        let client = self.database.client().await.map_err(|e| e.to_string())?;
        let messages = match tokio::time::timeout(TIMEOUT, client.simple_query(&sql)).await {
            Ok(done) => done.map_err(|e| Failure::from(e).to_string())?,
            Err(_) => return Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(r) = message {
                rows.push((0..r.len()).map(|i| shown(r.get(i))).collect::<Vec<_>>().join(" "));
            }
        }
        Ok(rows)
    }

    async fn take(&mut self, step: &Step) {
        self.counts.records += 1;
        let sql = &step.sql;
        match &step.kind {
            Kind::Run => {
                let done = self.execute(sql).await;
                let text = done.as_ref().err().map(|e| format!("it fails: {e}"));
                // The runner of scripts has checked the statements of other scripts.
                if self.corpus {
                    self.judge(sql, text);
                }
            }
            Kind::Fails(want) => {
                let done = self.execute(sql).await;
                if self.corpus {
                    let code = done.as_ref().err().and_then(|f| f.code.clone());
                    let text = match done {
                        Ok(()) => Some("it works, where an error is expected".to_owned()),
                        Err(e) if code != *want => Some(format!("expected error {want:?}, got {e}")),
                        Err(_) => None,
                    };
                    self.judge(sql, text);
                }
            }
            Kind::Select(select) => self.select(sql, select).await,
        }
    }

    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        if self.database.directive(sql).await? {
            return Ok(());
        }
        let sql = self.database.substitute(sql).await;
        let client = self.database.client().await?;
        match tokio::time::timeout(TIMEOUT, client.simple_query(&sql)).await {
            Ok(done) => done.map(drop).map_err(Failure::from),
            Err(_) => Err(Failure::new(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn select(&mut self, sql: &str, select: &Select) {
        let mut texts = Vec::new();
        let want = sorted(&select.want);
        if self.corpus {
            self.counts.batch += 1;
            match self.rows(sql).await {
                Err(e) => texts.push(format!("the query fails: {e}")),
                Ok(rows) if select.ordered => {
                    let have: Vec<String> = rows.iter().map(|l| canonical(l)).collect();
                    let want: Vec<String> = select.want.iter().map(|l| canonical(l)).collect();
                    texts.extend(different("the query", &have, &want));
                }
                Ok(rows) => texts.extend(different("the query", &sorted(&rows), &want)),
            }
        }
        match &select.left_out {
            Some(reason) => *self.counts.left_out.entry(reason.clone()).or_default() += 1,
            None => {
                self.counts.before += 1;
                let view = self.before.get(sql).cloned().unwrap_or_else(|| Err("it was not made".into()));
                texts.extend(self.compare("the view from before the rows", view, &want).await);
                if !self.after.contains_key(sql) {
                    let made = self.create("after", &[(sql.to_owned(), select.columns)]).await;
                    self.after.extend(made);
                }
                self.counts.after += 1;
                let view = self.after.get(sql).cloned().unwrap_or_else(|| Err("it was not made".into()));
                texts.extend(self.compare("the view made over the rows", view, &want).await);
            }
        }
        let text = (!texts.is_empty()).then(|| texts.join("; "));
        self.judge(sql, text);
    }

    async fn compare(&mut self, way: &str, view: Result<String, String>, want: &[String]) -> Option<String> {
        match view {
            Err(e) => Some(format!("{way} cannot be created: {e}")),
            Ok(name) => match self.rows(&format!("SELECT * FROM {name}")).await {
                Err(e) => Some(format!("{way} fails: {e}")),
                Ok(rows) => different(way, &sorted(&rows), want),
            },
        }
    }

    /// Weighs what was seen against the list.
    fn judge(&mut self, sql: &str, text: Option<String>) {
        let Some(text) = text else { return };
        if self.list.differs(self.name, sql).is_some() {
            self.counts.listed += 1;
            return;
        }
        self.problems.push(format!("{} | {}\n    {text}", self.name, one_line(sql)));
    }
}

/// The first difference of two results.
fn different(way: &str, have: &[String], want: &[String]) -> Option<String> {
    if have == want {
        return None;
    }
    let at = have.iter().zip(want).position(|(h, w)| h != w).unwrap_or(have.len().min(want.len()));
    let line = |lines: &[String]| lines.get(at).map_or("nothing".to_owned(), |l| format!("[{l}]"));
    Some(format!(
        "{way} has {} rows, {} expected; {} where {} is expected",
        have.len(),
        want.len(),
        line(have),
        line(want)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_view_is_recognised() {
        assert_eq!(left_out("SELECT a FROM items.b"), None);
        assert_eq!(left_out("(SELECT 1) UNION SELECT 'now()'"), None);
        assert_eq!(left_out("SELECT count(*) FROM ms.jobs"), Some("asks about the system"));
        assert_eq!(left_out("SELECT now()"), Some("its value changes by itself"));
        assert_eq!(left_out("SELECT a FROM t LIMIT 1"), Some("LIMIT without ORDER BY"));
        assert_eq!(left_out("SELECT a FROM t ORDER BY a LIMIT 1"), None);
        assert_eq!(left_out("EXPLAIN SELECT 1"), Some("not a SELECT"));
    }

    #[test]
    fn the_first_difference_is_shown() {
        let lines = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(different("x", &lines(&["a"]), &lines(&["a"])), None);
        let text = different("x", &lines(&["a", "c"]), &lines(&["a", "b"])).expect("they differ");
        assert_eq!(text, "x has 2 rows, 2 expected; [c] where [b] is expected");
    }
}
