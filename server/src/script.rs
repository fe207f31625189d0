//! `millstream test`: a pipeline with a clock of its own, and what must come out of it.
//!
//! A script has the format of sqllogictest: `statement ok`, `statement error <text>`, `query <types> [rowsort]`. Statements
//! run on an engine of the script's own, over an empty folder, whose clock stands at 2000-01-01 00:00:00 UTC. Four statements
//! exist only here:
//!
//! - `ADVANCE CLOCK '10 seconds'`, `ADVANCE CLOCK TO '2026-01-01 00:00:00'`;
//! - `ADVANCE WATERMARK OF s TO '2026-01-01 00:00:00'`, for a stream without a connector;
//! - `RESTART`: a checkpoint, then a new engine over the same folder;
//! - `CRASH`: a new engine over the same folder, as after a kill.
//!
//! After every statement each materialized view is compared with its query run over everything: the rows must be the same.
//! Of a view that emits when windows close, each row must be among them; one with early results or lateness is not compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::BytesMut;
use futures::TryStreamExt as _;
use millstream::api::{Engine, EngineOptions, Outcome, Session};
use millstream::error::{Error, IntoError as _, Result, SqlState};
use millstream::statement::{CreateView, Emit, Statement};
use millstream::time::{ManualClock, Timestamp};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::pg::encode::Rows;
use crate::pg::types;

/// 2000-01-01 00:00:00 UTC.
const START: Timestamp = Timestamp(946_684_800_000_000);

/// The engine of a script.
struct Bench {
    folder: TempDir,
    clock: Arc<ManualClock>,
    engine: Engine,
    /// Raised by every start: sessions of an earlier one are dead.
    generation: u64,
    records: usize,
    comparisons: usize,
}

/// An error of a statement, on one line.
#[derive(Debug)]
pub struct Failure(Error);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.code.0, self.0.message)?;
        if let Some(d) = &self.0.detail {
            write!(f, "; {d}")?;
        }
        match &self.0.hint {
            Some(h) => write!(f, "; hint: {h}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

fn options(folder: &TempDir, clock: &Arc<ManualClock>) -> EngineOptions {
    EngineOptions {
        data: folder.path().display().to_string(),
        // Only the script decides when state is written.
        checkpoint_interval: std::time::Duration::ZERO,
        clock: clock.clone(),
        ..EngineOptions::default()
    }
}

/// Runs a script; what was done, or the first difference. With `bless` the script gets what came out.
pub async fn run(path: &Path, bless: bool) -> std::result::Result<String, String> {
    let bench = Arc::new(Mutex::new(Bench::start().await.map_err(|e| Failure(e).to_string())?));
    let shared = bench.clone();
    let mut runner = Runner::new(move || {
        let bench = shared.clone();
        async move { Ok(Connection { bench, session: None }) }
    });
    runner.with_column_validator(same_types);
    let done = if bless {
        let (rows, cells) = (sqllogictest::default_validator, sqllogictest::default_normalizer);
        runner.update_test_file(path, " ", rows, cells, same_types).await.map_err(|e| e.to_string())
    } else {
        runner.run_file_async(path).await.map_err(|e| e.display(false).to_string())
    };
    runner.shutdown_async().await;
    let bench = bench.lock().await;
    let stopped = bench.engine.shutdown().await.map_err(|e| Failure(e).to_string());
    done?;
    stopped?;
    Ok(format!("{} records, {} comparisons with batch", bench.records, bench.comparisons))
}

#[expect(clippy::ptr_arg, reason = "the type the runner wants")]
fn same_types(actual: &Vec<DefaultColumnType>, expected: &Vec<DefaultColumnType>) -> bool {
    let fits = |(a, e): (&DefaultColumnType, &DefaultColumnType)| {
        a == e || matches!((a, e), (DefaultColumnType::Any, _) | (_, DefaultColumnType::Any))
    };
    actual.len() == expected.len() && actual.iter().zip(expected).all(fits)
}

impl Bench {
    async fn start() -> Result<Self> {
        let folder =
            TempDir::new().map_err(|e| Error::new(SqlState::IO_ERROR, format!("no folder to work in: {e}")))?;
        let clock = Arc::new(ManualClock::new(START));
        let engine = Engine::open(options(&folder, &clock)).await?;
        Ok(Self { folder, clock, engine, generation: 1, records: 0, comparisons: 0 })
    }

    /// Runs a statement that exists only here; `false`: it is SQL.
    async fn directive(&mut self, text: &str) -> Result<bool> {
        let text = text.trim().trim_end_matches(';');
        let words: Vec<&str> = text.split_whitespace().collect();
        let is = |i: usize, w: &str| words.get(i).is_some_and(|x| x.eq_ignore_ascii_case(w));
        if is(0, "restart") && words.len() == 1 {
            self.engine.shutdown().await?;
            self.open().await?;
        } else if is(0, "crash") && words.len() == 1 {
            let old = self.engine.clone();
            self.open().await?;
            // Fenced: what it says no longer matters.
            drop(old.shutdown().await);
        } else if is(0, "advance") && is(1, "clock") {
            match quoted(text) {
                Some(to) if is(2, "to") => self.clock.set(self.timestamp(to).await?),
                Some(by) => self.clock.advance(self.micros(by).await?),
                None => return Err(wrong("ADVANCE CLOCK [TO] 'a time or an interval'")),
            }
            self.engine.clock_changed().await?;
        } else if is(0, "advance") && is(1, "watermark") {
            let (Some(to), Some(stream)) = (quoted(text).filter(|_| is(2, "of") && is(4, "to")), words.get(3)) else {
                return Err(wrong("ADVANCE WATERMARK OF stream TO 'a time'"));
            };
            let to = self.timestamp(to).await?;
            self.engine.advance_watermark(stream, to).await?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    async fn open(&mut self) -> Result<()> {
        self.engine = Engine::open(options(&self.folder, &self.clock)).await?;
        self.generation += 1;
        Ok(())
    }

    async fn number(&self, sql: String) -> Result<i64> {
        use arrow::array::{Array as _, AsArray as _};
        let found = self.engine.query(&sql).await?;
        let column = found.first().filter(|b| b.num_rows() == 1).map(|b| b.column(0).clone());
        let value = column.and_then(|c| {
            let c = c.as_primitive_opt::<arrow::datatypes::Int64Type>()?.clone();
            c.is_valid(0).then(|| c.value(0))
        });
        value.ok_or_else(|| Error::internal("a time that is no number"))
    }

    async fn timestamp(&self, text: &str) -> Result<Timestamp> {
        let text = text.replace('\'', "''");
        let sql = format!("SELECT CAST(extract(epoch FROM TIMESTAMPTZ '{text}') * 1000000 AS BIGINT)");
        self.number(sql).await.map(Timestamp)
    }

    async fn micros(&self, text: &str) -> Result<i64> {
        let text = text.replace('\'', "''");
        self.number(format!("SELECT CAST(extract(epoch FROM INTERVAL '{text}') * 1000000 AS BIGINT)")).await
    }

    /// Compares every view with its query.
    async fn compare(&mut self) -> Result<()> {
        let mut session = self.engine.session();
        for relation in self.engine.relations() {
            let shown = format!("SELECT definition FROM ms.relations WHERE id = {}", relation.id);
            if relation.kind != millstream::statement::ObjectKind::MaterializedView {
                continue;
            }
            let definition = cells(&session.query(&shown).await?).into_iter().flatten().next().unwrap_or_default();
            let Some(Statement::CreateView(view)) = session.parse(&definition)?.pop().map(|p| p.statement) else {
                continue;
            };
            self.comparisons += usize::from(compare_view(&mut session, &relation.name, &view).await?);
        }
        Ok(())
    }
}

/// The text between the first and the last quote.
fn quoted(text: &str) -> Option<&str> {
    let (from, to) = (text.find('\'')?, text.rfind('\'')?);
    text.get(from + 1..to)
}

fn wrong(form: &str) -> Error {
    Error::new(SqlState::SYNTAX_ERROR, format!("expected {form}"))
}

/// True if the view was compared.
async fn compare_view(session: &mut Session, name: &str, view: &CreateView) -> Result<bool> {
    let closing = match &view.emit {
        None => false,
        Some(e) if e.lateness.is_some() => return Ok(false),
        Some(e) => match e.when {
            Emit::OnUpdate => false,
            Emit::OnWindowClose => true,
            Emit::Every(_) => return Ok(false),
        },
    };
    let name = format!("\"{}\"", name.replace('"', "\"\""));
    let rows = |found: Result<Vec<RecordBatch>>| found.map(|b| count(texts(&b)));
    let kept = rows(session.query(&format!("SELECT * FROM {name}")).await);
    let batch = rows(session.query(&format!("SELECT * FROM ({}) AS q", view.query_text)).await);
    // Rows that fail fail on both sides.
    let (Ok(kept), Ok(batch)) = (&kept, &batch) else {
        return if kept.is_err() && batch.is_err() { Ok(true) } else { kept.and(batch).map(|_| true) };
    };
    let too_many: Vec<String> = kept
        .iter()
        .filter(|(row, n)| batch.get(*row).is_none_or(|b| b < n))
        .map(|(row, _)| format!("+ {}", row.join(" ")))
        .collect();
    let missing: Vec<String> = batch
        .iter()
        .filter(|(row, n)| !closing && kept.get(*row).is_none_or(|k| k < n))
        .map(|(row, _)| format!("- {}", row.join(" ")))
        .collect();
    if too_many.is_empty() && missing.is_empty() {
        return Ok(true);
    }
    let message = format!("materialized view {name} differs from its query run as a batch");
    Err(Error::new(SqlState("MT001"), message).detail([too_many, missing].concat().join("; ")))
}

fn count(rows: Vec<Vec<String>>) -> BTreeMap<Vec<String>, usize> {
    let mut out = BTreeMap::new();
    for row in rows {
        *out.entry(row).or_insert(0) += 1;
    }
    out
}

/// Rows as scripts show them: a cell is one line.
fn texts(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let one_line = |row: Vec<String>| row.into_iter().map(|cell| cell.replace('\n', "\\n")).collect();
    cells(batches).into_iter().map(one_line).collect()
}

/// Rows as psql shows their cells.
fn cells(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for batch in batches {
        let Ok(rows) = Rows::new(batch) else { continue };
        for i in 0..rows.len {
            let cell = |c: &crate::pg::encode::Column| {
                if c.is_null(i) {
                    return "NULL".to_owned();
                }
                let mut text = BytesMut::new();
                c.text(i, &mut text);
                match String::from_utf8_lossy(&text).into_owned() {
                    t if t.is_empty() => "(empty)".into(),
                    t => t,
                }
            };
            out.push(rows.columns().iter().map(cell).collect());
        }
    }
    out
}

fn letters(schema: &SchemaRef) -> Vec<DefaultColumnType> {
    let letter = |f: &std::sync::Arc<arrow::datatypes::Field>| match types::of_field(f).oid {
        types::oid::INT2 | types::oid::INT4 | types::oid::INT8 => DefaultColumnType::Integer,
        types::oid::FLOAT4 | types::oid::FLOAT8 | types::oid::NUMERIC => DefaultColumnType::FloatingPoint,
        types::oid::TEXT | types::oid::VARCHAR => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    };
    schema.fields().iter().map(letter).collect()
}

/// One connection of a script.
struct Connection {
    bench: Arc<Mutex<Bench>>,
    session: Option<(u64, Session)>,
}

impl Connection {
    async fn statement(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>> {
        let mut bench = self.bench.lock().await;
        bench.records += 1;
        if bench.directive(sql).await? {
            bench.compare().await?;
            return Ok(DBOutput::StatementComplete(0));
        }
        let fresh = match self.session.take() {
            Some((generation, session)) if generation == bench.generation => session,
            _ => bench.engine.session(),
        };
        let (_, session) = self.session.insert((bench.generation, fresh));
        let mut out = DBOutput::StatementComplete(0);
        let mut changed = false;
        for parsed in session.parse(sql)? {
            out = match session.run(&parsed, &[]).await? {
                Outcome::Rows { schema, stream, .. } | Outcome::CopyOut { schema, stream, .. } => {
                    let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(|e| e.into_error())?;
                    DBOutput::Rows { types: letters(&schema), rows: texts(&batches) }
                }
                Outcome::Command { tag, .. } => {
                    changed = true;
                    DBOutput::StatementComplete(tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
                }
                Outcome::Subscribe(_) | Outcome::CopySubscribe(_) | Outcome::CopyIn(_) => {
                    return Err(Error::unsupported("a statement that streams, in a script")
                        .hint("Read the view with SELECT after each step."));
                }
            };
        }
        if changed {
            bench.compare().await?;
        }
        Ok(out)
    }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> std::result::Result<DBOutput<DefaultColumnType>, Failure> {
        self.statement(sql).await.map_err(Failure)
    }

    async fn shutdown(&mut self) {
        self.session = None;
    }

    fn engine_name(&self) -> &str {
        "millstream"
    }

    async fn sleep(duration: std::time::Duration) {
        tokio::time::sleep(duration).await;
    }

    fn error_sql_state(error: &Failure) -> Option<String> {
        Some(error.0.code.0.to_owned())
    }
}
