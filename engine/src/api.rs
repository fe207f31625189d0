//! The embedded API, and what the server is built on: [`Engine`], [`Session`], [`Subscription`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use futures::Stream;
use millstream_sql::statement::Parsed;

use crate::error::{Error, Result};
use crate::time::{ClockRef, Epoch, SystemClock, Timestamp};
use crate::zset::ZBatch;

/// How an engine runs. `Default`: memory only, one worker a core.
#[derive(Clone)]
pub struct EngineOptions {
    /// Where state goes: `s3://..`, `file:///..`, a path, or `memory://`.
    pub data: String,
    /// Worker threads and shards of a job; 0: cores.
    pub workers: usize,
    /// Bytes the engine may use for state, queries and buffers.
    pub memory_bytes: usize,
    /// Time between checkpoints; zero: only on shutdown and on demand.
    pub checkpoint_interval: Duration,
    /// Shortest time between two epochs; zero: seal as soon as a job is idle.
    pub epoch_interval: Duration,
    /// Rows at which an epoch is sealed.
    pub epoch_rows_max: usize,
    /// Wall clock.
    pub clock: ClockRef,
    /// Relative paths of file sources are resolved here.
    pub base_dir: Option<PathBuf>,
    /// Where `${NAME}` in options of streams comes from. `Default`: the environment of the process.
    pub environment: crate::coord::Environment,
    /// `FROM 'people.csv'` reads a file; for one-shot queries of the machine's owner, not for servers.
    pub file_tables: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            data: "memory://".into(),
            workers: 0,
            memory_bytes: 4 << 30,
            checkpoint_interval: Duration::from_secs(10),
            epoch_interval: Duration::ZERO,
            epoch_rows_max: 64 * 1024,
            clock: Arc::new(SystemClock),
            base_dir: None,
            environment: crate::coord::process_environment(),
            file_tables: false,
        }
    }
}

/// A message beside the result: `NOTICE`, `WARNING`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `NOTICE`, `WARNING` or `INFO`.
    pub severity: &'static str,
    /// SQLSTATE, `00000` for plain notices.
    pub code: &'static str,
    /// Text.
    pub message: String,
    /// Hint.
    pub hint: Option<String>,
}

/// What a statement gives back.
pub enum Outcome {
    /// A result set.
    Rows {
        /// Columns.
        schema: SchemaRef,
        /// Batches; dropping the stream cancels the query.
        stream: SendableRecordBatchStream,
        /// Command tag without the count: `SELECT`, `SHOW`, `EXPLAIN`.
        tag: &'static str,
    },
    /// Done; the tag is Postgres': `CREATE TABLE`, `INSERT 0 3`.
    Command {
        /// Command tag.
        tag: String,
        /// Messages for the client.
        notices: Vec<Notice>,
    },
    /// A live subscription: `ms_epoch` (UInt64), `ms_diff` (Int64), then the row. With PROGRESS, a leading
    /// `ms_progressed` (Boolean) as well.
    Subscribe(Subscription),
    /// COPY .. TO STDOUT of a subscription.
    CopySubscribe(Subscription),
    /// COPY .. TO STDOUT of a query.
    CopyOut {
        /// Columns.
        schema: SchemaRef,
        /// Batches.
        stream: SendableRecordBatchStream,
        /// CSV instead of Postgres text.
        csv: bool,
        /// Header line.
        header: bool,
    },
    /// COPY .. FROM STDIN: the caller feeds lines to [`Session::copy_in`].
    CopyIn(CopyIn),
}

/// Target of a COPY FROM STDIN.
#[derive(Debug, Clone)]
pub struct CopyIn {
    /// Relation name.
    pub table: String,
    /// The columns that will be sent, in order.
    pub schema: SchemaRef,
    /// CSV instead of Postgres text.
    pub csv: bool,
    /// Skip the first line.
    pub header: bool,
}

/// A statement that was parsed and planned with parameters.
#[derive(Clone)]
pub struct Prepared {
    /// The statement.
    pub parsed: Parsed,
    /// Types of `$1, $2, ..` as inferred; `None` where nothing says.
    pub parameters: Vec<Option<DataType>>,
    /// Columns of the result; `None` for commands.
    pub schema: Option<SchemaRef>,
}

/// Changes of one relation from one epoch boundary to the next.
#[derive(Debug, Clone)]
pub struct Delta {
    /// Everything up to and including this epoch is now known.
    pub epoch: Epoch,
    /// Consolidated changes; may be empty (progress only). In the first delta with snapshot: the rows there are.
    pub batch: ZBatch,
    /// True for the first delta of a subscription with snapshot.
    pub snapshot: bool,
}

/// A live stream of [`Delta`]s. Ends when the relation is dropped or the engine stops.
pub struct Subscription {
    /// Columns of the relation.
    pub schema: SchemaRef,
    /// Send progress rows although nothing changed (the option of the statement; deltas always come per epoch).
    pub progress: bool,
    pub(crate) inner: Pin<Box<dyn Stream<Item = Result<Delta>> + Send>>,
}

impl Stream for Subscription {
    type Item = Result<Delta>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

/// An open engine. Cheap to clone; the last clone does not stop it: call [`Engine::shutdown`].
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<crate::coord::EngineInner>,
}

/// Numbers for `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Prometheus name, with unit suffix.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// True: counter; false: gauge.
    pub counter: bool,
    /// Labels.
    pub labels: Vec<(&'static str, String)>,
    /// Value.
    pub value: f64,
}

impl Engine {
    /// Opens a data folder or bucket, takes it over from any earlier process, restores the newest checkpoint and
    /// starts every view.
    pub async fn open(options: EngineOptions) -> Result<Self> {
        crate::coord::open(options).await
    }
    /// A new session with default settings.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }
    /// Runs statements in a session of their own and collects the rows of the last one.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let mut s = self.session();
        s.query(sql).await
    }
    /// Runs statements in a session of their own, ignoring rows.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).await.map(drop)
    }
    /// Appends rows to a table or native stream; returns when they are durable and visible.
    pub async fn insert(&self, relation: &str, rows: RecordBatch) -> Result<Epoch> {
        crate::coord::insert(&self.inner, relation, rows).await
    }
    /// Subscribes to a relation: first (with `snapshot`) what is there, then every change.
    pub async fn subscribe(&self, relation: &str, snapshot: bool) -> Result<Subscription> {
        crate::coord::subscribe(&self.inner, relation, snapshot).await
    }
    /// Takes a checkpoint now and returns when it is durable.
    pub async fn checkpoint(&self) -> Result<()> {
        crate::coord::checkpoint(&self.inner).await
    }
    /// Stops ingestion, takes a last checkpoint and stops all work.
    pub async fn shutdown(&self) -> Result<()> {
        crate::coord::shutdown(&self.inner).await
    }
    /// Does at once what the clock of [`EngineOptions::clock`] has made due, and returns when every view has seen it.
    pub async fn clock_changed(&self) -> Result<()> {
        self.inner.look_at_clock();
        self.execute("FLUSH").await
    }
    /// Promises that no later row of a stream without a connector is older than this: its watermark moves there, if it was
    /// not further already, and windows before it close. Durable when it returns.
    ///
    /// # Errors
    /// The stream does not exist, has a connector, or has no watermark.
    pub async fn advance_watermark(&self, stream: &str, to: Timestamp) -> Result<()> {
        crate::coord::event_time::advance(&self.inner, stream, to)?;
        self.execute("FLUSH").await?;
        self.checkpoint().await
    }
    /// Fails with the reason once the engine cannot go on (fenced by another process, store lost). Never returns `Ok`.
    pub async fn failed(&self) -> Error {
        crate::coord::failed(&self.inner).await
    }
    /// Counters and gauges of everything.
    pub fn metrics(&self) -> Vec<Metric> {
        crate::coord::metrics(&self.inner)
    }
    /// Relations for catalogs of tools: see [`RelationInfo`].
    pub fn relations(&self) -> Vec<RelationInfo> {
        crate::coord::relations(&self.inner)
    }
    /// The DataFusion context of ad-hoc queries: every relation by name at the newest consistent epoch, all our
    /// functions. For the server's pg_catalog, which registers its own schemas in a copy.
    pub fn catalog_version(&self) -> u64 {
        crate::coord::catalog_version(&self.inner)
    }
}

/// A relation as pg_catalog shows it.
#[derive(Debug, Clone)]
pub struct RelationInfo {
    /// Stable id, for oids.
    pub id: u64,
    /// `public` or `ms`.
    pub schema_name: String,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: millstream_sql::statement::ObjectKind,
    /// Columns.
    pub schema: SchemaRef,
    /// Primary key columns.
    pub primary_key: Vec<String>,
    /// Text of the query for views, of the whole statement otherwise.
    pub definition: String,
    /// COMMENT ON it.
    pub comment: Option<String>,
    /// COMMENT ON its columns, by name.
    pub column_comments: BTreeMap<String, String>,
    /// Its indexes.
    pub indexes: Vec<IndexInfo>,
}

/// An index as pg_catalog shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexInfo {
    /// Stable id, for oids; from the same numbers as relations.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Positions of its columns.
    pub columns: Vec<usize>,
}

/// A client's session: settings and monotone reads.
pub struct Session {
    pub(crate) engine: Engine,
    /// `SET name = value`.
    pub settings: BTreeMap<String, String>,
    /// Reads never go back behind this epoch.
    pub(crate) read_floor: Epoch,
    /// Extra catalogs for DataFusion planning (the server's pg_catalog), by schema name.
    pub extra_schemas: Vec<(String, Arc<dyn datafusion::catalog::SchemaProvider>)>,
    /// Extra scalar functions (the server's `pg_get_userbyid` and the like).
    pub extra_functions: Vec<Arc<datafusion::logical_expr::ScalarUDF>>,
}

impl Session {
    fn new(engine: Engine) -> Self {
        Self {
            engine,
            settings: BTreeMap::new(),
            read_floor: Epoch::default(),
            extra_schemas: Vec::new(),
            extra_functions: Vec::new(),
        }
    }
    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
    /// Splits and parses; nothing runs.
    pub fn parse(&self, sql: &str) -> Result<Vec<Parsed>> {
        millstream_sql::parse::parse(sql)
    }
    /// Plans a statement without running it: types of parameters and columns.
    pub async fn prepare(&self, parsed: &Parsed) -> Result<Prepared> {
        crate::read::prepare(self, parsed).await
    }
    /// Runs one statement. `parameters` are the values of `$1..`.
    pub async fn run(&mut self, parsed: &Parsed, parameters: &[ScalarValue]) -> Result<Outcome> {
        crate::read::run(self, parsed, parameters).await
    }
    /// Feeds COPY FROM STDIN: all rows of one COPY become one epoch. Returns the number of rows.
    pub async fn copy_in(&mut self, target: &CopyIn, rows: Vec<RecordBatch>) -> Result<u64> {
        crate::read::copy_in(self, target, rows).await
    }
    /// Runs statements and collects the rows of the last one.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>> {
        use futures::TryStreamExt as _;
        let mut last = Vec::new();
        for p in self.parse(sql)? {
            last = match self.run(&p, &[]).await? {
                Outcome::Rows { stream, .. } | Outcome::CopyOut { stream, .. } => {
                    let batches: Vec<RecordBatch> =
                        stream.try_collect().await.map_err(crate::error::IntoError::into_error)?;
                    batches
                }
                Outcome::Command { .. } => Vec::new(),
                Outcome::Subscribe(_) | Outcome::CopySubscribe(_) | Outcome::CopyIn(_) => {
                    return Err(Error::unsupported("this statement streams; use `Session::run`"));
                }
            };
        }
        Ok(last)
    }
}
