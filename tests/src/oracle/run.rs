//! Runs a script and compares after every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use futures::{StreamExt as _, TryStreamExt as _};
use millstream::api::{Engine, EngineOptions, Outcome, Session, Subscription};
use millstream::error::{Error, SqlState};
use tempfile::TempDir;

use super::rows::{Bag, bag, difference, texts};
use super::scenario::{Scenario, Step, View};

/// Longest time one statement may take.
const TIMEOUT: Duration = Duration::from_secs(30);
const NO_ANSWER: &str = "no answer within";
/// Longest time a subscription may stay behind a view that no longer changes.
const LAG: Duration = Duration::from_secs(10);

/// A script that did not do what it should.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The step after which it showed.
    pub step: usize,
    /// What was seen.
    pub message: String,
}

/// What a run covered.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Views that were created.
    pub views: usize,
    /// Views that were refused as not supported, with the message.
    pub refused: Vec<String>,
    /// Comparisons of a view with its query.
    pub comparisons: usize,
    /// Comparisons of non-empty results.
    pub nonempty: usize,
    /// Comparisons where the query failed.
    pub failing: usize,
    /// Queries without an answer in time: joins of joins of all rows, which say nothing about views.
    pub slow: usize,
    /// Restarts and crashes.
    pub restarts: usize,
}

impl Stats {
    /// Adds another run.
    pub fn add(&mut self, other: Stats) {
        self.views += other.views;
        self.refused.extend(other.refused);
        self.comparisons += other.comparisons;
        self.nonempty += other.nonempty;
        self.failing += other.failing;
        self.slow += other.slow;
        self.restarts += other.restarts;
    }
}

struct Rows {
    schema: SchemaRef,
    bag: Bag,
    batches: Vec<RecordBatch>,
}

/// A subscription folded up.
struct Follower {
    view: String,
    deltas: Subscription,
    bag: Bag,
}

struct Runner<'a> {
    scenario: &'a Scenario,
    folder: TempDir,
    engine: Engine,
    session: Session,
    views: Vec<View>,
    followers: Vec<Follower>,
    stats: Stats,
    step: usize,
}

type Outcomes<T = ()> = Result<T, Failure>;

/// Runs a script on a folder of its own.
pub async fn run(scenario: &Scenario) -> Result<Stats, Failure> {
    let setup = |e: String| Failure { step: 0, message: e };
    let folder = TempDir::new().map_err(|e| setup(e.to_string()))?;
    let engine = open(&folder, scenario.workers).await.map_err(setup)?;
    let session = engine.session();
    let (views, followers, stats) = (Vec::new(), Vec::new(), Stats::default());
    let mut runner = Runner { scenario, folder, engine, session, views, followers, stats, step: 0 };
    let done = runner.all().await;
    runner.followers.clear();
    let stopped = tokio::time::timeout(TIMEOUT, runner.engine.shutdown()).await;
    done?;
    let failed = |message: String| Failure { step: scenario.steps.len(), message };
    stopped
        .map_err(|_| failed("shutdown hangs".into()))?
        .map_err(|e| failed(format!("shutdown fails: {}", full(&e))))?;
    Ok(runner.stats)
}

async fn open(folder: &TempDir, workers: usize) -> Result<Engine, String> {
    let options = EngineOptions {
        data: folder.path().display().to_string(),
        workers,
        memory_bytes: 512 << 20,
        checkpoint_interval: Duration::ZERO,
        ..EngineOptions::default()
    };
    match tokio::time::timeout(TIMEOUT, Engine::open(options)).await {
        Ok(done) => done.map_err(|e| format!("open fails: {}", full(&e))),
        Err(_) => Err("open hangs".into()),
    }
}

fn full(e: &Error) -> String {
    format!("{} {e}", e.code.0)
}

/// Errors that are a defect whatever was asked.
fn defect(e: &Error) -> bool {
    matches!(
        e.code,
        SqlState::INTERNAL_ERROR | SqlState::DATA_CORRUPTED | SqlState::IO_ERROR | SqlState::OBJECT_NOT_IN_STATE
    ) || e.code == SqlState::FENCED
}

/// A type without the precision of a decimal: the one of a sum depends on how batch splits the aggregate.
fn shape(t: &DataType) -> DataType {
    match t {
        DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
        other => other.clone(),
    }
}

/// Runs one statement and collects its rows, if it has any.
async fn query(session: &mut Session, sql: &str) -> Result<Option<Rows>, Error> {
    let work = async {
        let mut last = None;
        for parsed in session.parse(sql)? {
            last = match session.run(&parsed, &[]).await? {
                Outcome::Rows { schema, stream, .. } => {
                    let batches: Vec<RecordBatch> =
                        stream.try_collect().await.map_err(millstream_sql::session::from_datafusion)?;
                    Some(Rows { schema, bag: bag(&batches), batches })
                }
                _ => None,
            };
        }
        Ok(last)
    };
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::internal(format!("{NO_ANSWER} {} s", TIMEOUT.as_secs()))),
    }
}

fn unanswered(e: &Error) -> bool {
    e.message.starts_with(NO_ANSWER)
}

impl Runner<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Outcomes<T> {
        Err(Failure { step: self.step, message: message.into() })
    }

    async fn rows(&mut self, sql: &str) -> Result<Rows, Error> {
        query(&mut self.session, sql).await?.ok_or_else(|| Error::internal("a query without rows"))
    }

    async fn all(&mut self) -> Outcomes {
        let scenario = self.scenario;
        for table in &scenario.tables {
            if let Err(e) = query(&mut self.session, &table.sql()).await {
                return self.fail(format!("{}: {}", table.sql(), full(&e)));
            }
        }
        for (i, step) in scenario.steps.iter().enumerate() {
            self.step = i;
            self.take(step).await?;
            self.compare().await?;
        }
        Ok(())
    }

    async fn take(&mut self, step: &Step) -> Outcomes {
        match step {
            Step::Create(view) => self.create(view).await,
            Step::Drop(view) => {
                if !self.views.iter().any(|v| v.name == view.name) {
                    return Ok(());
                }
                if let Err(e) = query(&mut self.session, &view.drop()).await {
                    return self.fail(format!("{}: {}", view.drop(), full(&e)));
                }
                let mut gone = vec![view.name.clone()];
                while let Some(name) = gone.pop() {
                    gone.extend(self.views.iter().filter(|v| v.reads(&name)).map(|v| v.name.clone()));
                    self.views.retain(|v| v.name != name && !v.reads(&name));
                    self.followers.retain(|f| f.view != name);
                }
                let left: Vec<String> = self.views.iter().map(|v| v.name.clone()).collect();
                self.followers.retain(|f| left.contains(&f.view));
                Ok(())
            }
            Step::Checkpoint => match query(&mut self.session, "CHECKPOINT").await {
                Ok(_) => Ok(()),
                Err(e) => self.fail(format!("CHECKPOINT: {}", full(&e))),
            },
            Step::Restart { clean, workers } => self.restart(*clean, *workers).await,
            Step::Change { changes, concurrent } => {
                let statements: Vec<String> = changes.iter().map(super::scenario::Change::sql).collect();
                if *concurrent { self.at_once(&statements).await } else { self.in_turn(&statements).await }
            }
        }
    }

    async fn in_turn(&mut self, statements: &[String]) -> Outcomes {
        for sql in statements {
            // A refused change (a taken key, an overflow) leaves the table as it was, which the comparison shows.
            if let Err(e) = query(&mut self.session, sql).await
                && defect(&e)
            {
                return self.fail(format!("{sql}: {}", full(&e)));
            }
        }
        Ok(())
    }

    /// All statements at once, and a reader that sees a view and its query agree at whatever moment.
    async fn at_once(&mut self, statements: &[String]) -> Outcomes {
        let writers = statements.iter().map(|sql| {
            let mut session = self.engine.session();
            async move { query(&mut session, sql).await.map(drop).map_err(|e| (sql.clone(), e)) }
        });
        let watched = self.views.iter().find(|v| v.materialized).cloned();
        let mut session = self.engine.session();
        let reader = async move {
            let Some(view) = watched else { return Ok(()) };
            let sql = format!(
                "SELECT (SELECT count(*) FROM {}) AS view_rows, (SELECT count(*) FROM ({}) AS q) AS query_rows",
                view.name, view.sql
            );
            for _ in 0..4 {
                // Whether the query fails is compared after the step.
                if let Ok(Some(rows)) = query(&mut session, &sql).await {
                    for batch in rows.batches.iter().filter(|b| b.num_rows() == 1) {
                        let count = |i: usize| batch.column(i).as_primitive::<Int64Type>().value(0);
                        if count(0) != count(1) {
                            return Err(format!(
                                "while changes run, one SELECT sees {} rows of {} and {} rows of its query\n{sql}",
                                count(0),
                                view.name,
                                count(1)
                            ));
                        }
                    }
                }
            }
            Ok(())
        };
        let (written, read) = futures::join!(futures::future::join_all(writers), reader);
        for (sql, e) in written.into_iter().filter_map(Result::err) {
            if defect(&e) {
                return self.fail(format!("{sql}: {}", full(&e)));
            }
        }
        // What other sessions wrote is sure to be seen only after this.
        if let Err(e) = query(&mut self.session, "FLUSH").await {
            return self.fail(format!("FLUSH: {}", full(&e)));
        }
        read.or_else(|m| self.fail(m))
    }

    async fn create(&mut self, view: &View) -> Outcomes {
        let batch = self.rows(&view.sql).await;
        match (query(&mut self.session, &view.create()).await, batch) {
            (Ok(_), _) => {
                self.stats.views += 1;
                self.views.push(view.clone());
                if view.materialized && self.followers.is_empty() {
                    self.follow(&view.name.clone()).await?;
                }
                Ok(())
            }
            (Err(e), _) if e.code == SqlState::FEATURE_NOT_SUPPORTED => {
                self.stats.refused.push(format!("{}\n    {}", e.message, view.sql));
                Ok(())
            }
            // The query itself is refused: a name that was dropped, or a limit of the planner.
            (Err(e), Err(b)) if e.code == b.code && !defect(&e) => Ok(()),
            (Err(e), batch) => {
                let batch = batch.map_or_else(|b| format!("fails with {}", full(&b)), |_| "works".into());
                self.fail(format!("{}\n  fails with {}\n  while the query {batch}", view.create(), full(&e)))
            }
        }
    }

    async fn follow(&mut self, name: &str) -> Outcomes {
        match self.engine.subscribe(name, true).await {
            Ok(deltas) => {
                self.followers.push(Follower { view: name.to_owned(), deltas, bag: Bag::new() });
                Ok(())
            }
            Err(e) => self.fail(format!("SUBSCRIBE {name}: {}", full(&e))),
        }
    }

    async fn restart(&mut self, clean: bool, workers: usize) -> Outcomes {
        self.stats.restarts += 1;
        let before = self.tables().await?;
        self.followers.clear();
        if clean {
            match tokio::time::timeout(TIMEOUT, self.engine.shutdown()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return self.fail(format!("shutdown: {}", full(&e))),
                Err(_) => return self.fail("shutdown hangs"),
            }
        }
        let engine = match open(&self.folder, workers).await {
            Ok(engine) => engine,
            Err(e) => return self.fail(e),
        };
        let old = std::mem::replace(&mut self.engine, engine);
        if !clean {
            // The first process was taken over while it ran; what it says now does not matter, that it ends does.
            if tokio::time::timeout(TIMEOUT, old.shutdown()).await.is_err() {
                return self.fail("the engine that was taken over does not stop");
            }
        }
        self.session = self.engine.session();
        let after = self.tables().await?;
        for (name, want) in &before {
            if let Some(diff) = difference(&after[name], want) {
                return self.fail(format!("after the restart, table {name} (\"query\" is before):\n{diff}"));
            }
        }
        let first = self.views.iter().find(|v| v.materialized).map(|v| v.name.clone());
        if let Some(name) = first {
            self.follow(&name).await?;
        }
        Ok(())
    }

    async fn tables(&mut self) -> Outcomes<BTreeMap<String, Bag>> {
        let mut all = BTreeMap::new();
        for table in &self.scenario.tables {
            match self.rows(&format!("SELECT * FROM {}", table.name)).await {
                Ok(rows) => drop(all.insert(table.name.clone(), rows.bag)),
                Err(e) => return self.fail(format!("table {}: {}", table.name, full(&e))),
            }
        }
        Ok(all)
    }

    async fn compare(&mut self) -> Outcomes {
        let mut counts = BTreeMap::new();
        for view in self.views.clone() {
            let have = self.rows(&format!("SELECT * FROM {}", view.name)).await;
            let want = self.rows(&view.sql).await;
            self.stats.comparisons += 1;
            let where_ = format!("view {} AS {}", view.name, view.sql);
            match (have, want) {
                (Ok(have), Ok(want)) => {
                    let types =
                        |r: &Rows| -> Vec<_> { r.schema.fields().iter().map(|f| shape(f.data_type())).collect() };
                    if types(&have) != types(&want) {
                        return self.fail(format!(
                            "{where_}\n  types {:?}, of the query {:?}",
                            types(&have),
                            types(&want)
                        ));
                    }
                    if let Some(diff) = difference(&have.bag, &want.bag) {
                        return self.differs(&view, &where_, &diff).await;
                    }
                    self.stats.nonempty += usize::from(!have.bag.is_empty());
                    if let Some(f) = self.followers.iter().position(|f| f.view == view.name) {
                        self.followed(f, &have.bag).await?;
                    }
                    if view.materialized {
                        counts.insert(view.name.clone(), have.bag.values().sum::<i64>());
                    }
                }
                (Err(e), Err(b)) if !defect(&e) && !defect(&b) => self.stats.failing += 1,
                // A constant that cannot be computed stops the view as a whole.
                (Err(e), Err(b)) if e.code == SqlState::OBJECT_NOT_IN_STATE && !defect(&b) => self.stats.failing += 1,
                // A view computes what its parts say; batch may never look at a part whose rows are not needed.
                (Err(e), Ok(_)) if arithmetic(&e) => self.stats.failing += 1,
                (Err(e), want) => {
                    let want = want.map_or_else(|b| format!("fails with {}", full(&b)), |_| "works".into());
                    return self.fail(format!("{where_}\n  fails with {}\n  while its query {want}", full(&e)));
                }
                (Ok(_), Err(b)) if unanswered(&b) => self.stats.slow += 1,
                // Batch may compute what the view filters out before.
                (Ok(_), Err(b)) if !defect(&b) => self.stats.failing += 1,
                (Ok(_), Err(b)) => {
                    return self.fail(format!("{where_}\n  works while its query fails with {}", full(&b)));
                }
            }
        }
        self.counts(&counts).await
    }

    /// Says whether the difference stays: one that goes away is another kind of defect.
    async fn differs(&mut self, view: &View, where_: &str, diff: &str) -> Outcomes {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let have = self.rows(&format!("SELECT * FROM {}", view.name)).await;
        let want = self.rows(&view.sql).await;
        let later = match (have, want) {
            (Ok(have), Ok(want)) => match difference(&have.bag, &want.bag) {
                Some(d) if d == diff => "the same a moment later".to_owned(),
                Some(d) => format!("a moment later:\n{d}"),
                None => "gone a moment later".to_owned(),
            },
            _ => "an error a moment later".to_owned(),
        };
        let explained = match self.rows(&format!("EXPLAIN MATERIALIZED VIEW {}", view.name)).await {
            Ok(rows) => rows.batches.iter().flat_map(texts).collect::<Vec<_>>().join("\n"),
            Err(e) => e.message,
        };
        self.fail(format!("{where_}\n{diff}\n  {later}\n{explained}"))
    }

    /// All views in one SELECT: one epoch for all of them.
    async fn counts(&mut self, counts: &BTreeMap<String, i64>) -> Outcomes {
        if counts.len() < 2 || !self.step.is_multiple_of(3) {
            return Ok(());
        }
        let parts: Vec<String> =
            counts.keys().map(|v| format!("SELECT '{v}' AS name, count(*) AS n FROM {v}")).collect();
        let sql = parts.join(" UNION ALL ");
        let want: Bag = counts.iter().map(|(v, n)| (format!("{v:?} | {n}"), 1)).collect();
        match self.rows(&sql).await {
            Ok(rows) => match difference(&rows.bag, &want) {
                Some(diff) => self.fail(format!("{sql}\n{diff}")),
                None => Ok(()),
            },
            Err(e) => self.fail(format!("{sql}\n  fails with {}", full(&e))),
        }
    }

    /// The subscription's log, folded up, becomes the view.
    async fn followed(&mut self, at: usize, want: &Bag) -> Outcomes {
        let deadline = tokio::time::Instant::now() + LAG;
        loop {
            let step = self.step;
            let follower = &mut self.followers[at];
            let wait = if difference(&follower.bag, want).is_none() { Duration::ZERO } else { LAG };
            let fail =
                |message: String| Err(Failure { step, message: format!("SUBSCRIBE {}: {message}", follower.view) });
            match tokio::time::timeout(wait, follower.deltas.next()).await {
                Ok(Some(Ok(delta))) => {
                    for (i, row) in texts(&delta.batch.rows).into_iter().enumerate() {
                        let n = follower.bag.entry(row).or_default();
                        *n += delta.batch.weight(i);
                    }
                    if let Some((row, n)) = follower.bag.iter().find(|(_, n)| **n < 0) {
                        return fail(format!("after epoch {} the row {row} is there {n} times", delta.epoch));
                    }
                    follower.bag.retain(|_, n| *n != 0);
                }
                Ok(Some(Err(e))) => return fail(full(&e)),
                Ok(None) => return fail("ended".into()),
                Err(_) if wait.is_zero() => return Ok(()),
                Err(_) => {}
            }
            if tokio::time::Instant::now() > deadline {
                let diff = difference(&follower.bag, want).unwrap_or_default();
                return fail(format!("folded up (\"view\") differs from the view (\"query\"):\n{diff}"));
            }
        }
    }
}

/// Runs a script on threads of its own; a panic is a failure.
pub fn run_isolated(scenario: &Scenario) -> Result<Stats, Failure> {
    let scenario = Arc::new(scenario.clone());
    let thread = std::thread::Builder::new().name("oracle".into()).stack_size(16 << 20).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(16 << 20)
            .enable_all()
            .build()
            .map_err(|e| Failure { step: 0, message: e.to_string() })?;
        let done = runtime.block_on(run(&scenario));
        runtime.shutdown_timeout(Duration::from_secs(2));
        done
    });
    let panicked = |p: Box<dyn std::any::Any + Send>| {
        let text = p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Failure { step: 0, message: format!("panic: {}", text.unwrap_or_default()) }
    };
    match thread {
        Ok(handle) => handle.join().unwrap_or_else(|p| Err(panicked(p))),
        Err(e) => Err(Failure { step: 0, message: e.to_string() }),
    }
}

/// An expression could not be computed for some row; never a sign of wrong state.
fn arithmetic(e: &Error) -> bool {
    [SqlState::DIVISION_BY_ZERO, SqlState::NUMERIC_OUT_OF_RANGE, SqlState::INVALID_TEXT_REPRESENTATION]
        .contains(&e.code)
}
