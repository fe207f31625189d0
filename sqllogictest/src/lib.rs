//! Runs `.slt` files against the real server over the wire: one server a file, on a data folder of its own.
//!
//! Statements go through the simple protocol, whose text results are what psql shows; the types of a query's columns come
//! from describing the same text in the extended protocol. Besides SQL a record may hold a directive, a comment that the
//! server never sees:
//!
//! - `-- restart`: shuts the server down and starts one over the same folder;
//! - `-- crash`: starts one over the same folder while the first still runs, as after a kill;
//! - `-- append NAME`, then lines: appends the lines to a file in the folder `${TMP}`.
//!
//! Every SELECT runs three ways, see [`ways`]. `${TMP}` in SQL is a folder that is empty at the start, `${DATA}` the folder `data` of this package.

pub mod differences;
pub mod values;
pub mod ways;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millstream_server::config::Config;
use millstream_server::{RunningServer, Server};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Longest time one statement may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What went wrong with a statement, on one line: `42P01: message; detail; hint: hint`.
#[derive(Debug)]
pub struct Failure {
    code: Option<String>,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    fn new(text: impl fmt::Display) -> Self {
        Self { code: None, text: text.to_string() }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(e: tokio_postgres::Error) -> Self {
        let Some(d) = e.as_db_error() else {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            return Self::new(format!("{e}{cause}"));
        };
        let code = d.code().code().to_owned();
        let mut text = format!("{code}: {}", d.message());
        if let Some(detail) = d.detail() {
            text.push_str(&format!("; {detail}"));
        }
        if let Some(hint) = d.hint() {
            text.push_str(&format!("; hint: {hint}"));
        }
        Self { code: Some(code), text: text.replace('\n', " ") }
    }
}

/// A server and its folders.
struct Host {
    data: TempDir,
    files: TempDir,
    running: Option<RunningServer>,
    /// Raised by every start: connections of an earlier one are dead.
    generation: u64,
}

impl Host {
    async fn start() -> Result<Self, Failure> {
        let data = TempDir::new().map_err(Failure::new)?;
        let files = TempDir::new().map_err(Failure::new)?;
        let mut host = Self { data, files, running: None, generation: 0 };
        host.open().await?;
        Ok(host)
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            data: self.data.path().display().to_string(),
            pg: any,
            http: any,
            workers: 2,
            memory_bytes: 512 << 20,
            // Only directives decide when state is written.
            checkpoint_interval: Duration::ZERO,
            ..Config::default()
        };
        self.running = Some(Server::start(config).await.map_err(Failure::new)?);
        self.generation += 1;
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), Failure> {
        if let Some(server) = self.running.take() {
            server.shutdown().await.map_err(Failure::new)?;
        }
        self.open().await
    }

    async fn crash(&mut self) -> Result<(), Failure> {
        let old = self.running.take();
        self.open().await?;
        if let Some(server) = old {
            // Fenced: what it says no longer matters.
            drop(tokio::time::timeout(TIMEOUT, server.shutdown()).await);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let server = self.running.as_ref().ok_or_else(|| Failure::new("the server is not running"))?;
        let parameters = format!("host=127.0.0.1 port={} user=slt dbname=millstream", server.pg_addr.port());
        let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// One connection of a script.
pub struct Database {
    host: Arc<Mutex<Host>>,
    client: Option<(u64, Client)>,
}

impl Database {
    /// Runs a directive; `false`: it is SQL.
    async fn directive(&self, text: &str) -> Result<bool, Failure> {
        let (first, rest) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        let Some(words) = first.strip_prefix("--") else { return Ok(false) };
        match words.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["restart"] => self.host.lock().await.restart().await?,
            ["crash"] => self.host.lock().await.crash().await?,
            ["append", name] => {
                use std::io::Write as _;
                let path = self.host.lock().await.files.path().join(name);
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(Failure::new)?;
                }
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                file.and_then(|mut f| writeln!(f, "{rest}")).map_err(Failure::new)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    async fn client(&mut self) -> Result<&Client, Failure> {
        let host = self.host.lock().await;
        let fresh = match self.client.take() {
            Some((generation, client)) if generation == host.generation && !client.is_closed() => client,
            _ => host.connect().await?,
        };
        Ok(&self.client.insert((host.generation, fresh)).1)
    }

    async fn substitute<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        if !sql.contains("${") {
            return Cow::Borrowed(sql);
        }
        let files = self.host.lock().await.files.path().display().to_string();
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
        Cow::Owned(sql.replace("${TMP}", &files).replace("${DATA}", data))
    }

    async fn execute(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        if self.directive(sql).await? {
            return Ok(DBOutput::StatementComplete(0));
        }
        let sql = self.substitute(sql).await;
        let client = self.client().await?;
        let mut rows: Option<Vec<Vec<String>>> = None;
        let mut columns = 0;
        let mut count = 0;
        for message in client.simple_query(&sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(c) => {
                    columns = c.len();
                    rows = Some(Vec::new());
                }
                SimpleQueryMessage::Row(r) => {
                    let row = (0..r.len()).map(|i| shown(r.get(i))).collect();
                    rows.get_or_insert_default().push(row);
                }
                SimpleQueryMessage::CommandComplete(n) => count = n,
                _ => {}
            }
        }
        let Some(rows) = rows else { return Ok(DBOutput::StatementComplete(count)) };
        let types = match client.prepare(&sql).await {
            Ok(statement) => statement.columns().iter().map(|c| letter(c.type_())).collect(),
            // Several statements in one record cannot be described together.
            Err(_) => vec![DefaultColumnType::Any; columns],
        };
        Ok(DBOutput::Rows { types, rows })
    }
}

fn shown(value: Option<&str>) -> String {
    match value {
        None => "NULL".into(),
        Some("") => "(empty)".into(),
        Some(v) => v.replace('\n', "\\n"),
    }
}

fn letter(t: &Type) -> DefaultColumnType {
    match *t {
        Type::INT2 | Type::INT4 | Type::INT8 => DefaultColumnType::Integer,
        Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => DefaultColumnType::FloatingPoint,
        Type::TEXT | Type::VARCHAR | Type::NAME | Type::BPCHAR => DefaultColumnType::Text,
        _ => DefaultColumnType::Any,
    }
}

#[async_trait]
impl AsyncDB for Database {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        match tokio::time::timeout(TIMEOUT, self.execute(sql)).await {
            Ok(done) => done,
            Err(_) => Err(Failure::new(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn shutdown(&mut self) {
        self.client = None;
        if let Some(server) = self.host.lock().await.running.take() {
            drop(tokio::time::timeout(TIMEOUT, server.shutdown()).await);
        }
    }

    fn engine_name(&self) -> &str {
        "millstream"
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn error_sql_state(error: &Failure) -> Option<String> {
        error.code.clone()
    }
}

/// Every `.slt` file below a folder, sorted.
pub fn scripts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "slt") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[expect(clippy::ptr_arg, reason = "the type the runner wants")]
fn same_types(actual: &Vec<DefaultColumnType>, expected: &Vec<DefaultColumnType>) -> bool {
    let fits = |(a, e): (&DefaultColumnType, &DefaultColumnType)| {
        a == e || matches!((a, e), (DefaultColumnType::Any, _) | (_, DefaultColumnType::Any))
    };
    actual.len() == expected.len() && actual.iter().zip(expected).all(fits)
}

/// Runs a script on a server of its own. With `bless` the script is rewritten with what came out.
pub async fn run_script(path: &Path, bless: bool) -> Result<(), String> {
    let host = Arc::new(Mutex::new(Host::start().await.map_err(|e| e.to_string())?));
    let connections = host.clone();
    let mut runner = Runner::new(move || {
        let host = connections.clone();
        async move { Ok(Database { host, client: None }) }
    });
    runner.with_column_validator(same_types);
    let done = if bless {
        let rows = sqllogictest::default_validator;
        let cells = sqllogictest::default_normalizer;
        runner.update_test_file(path, " ", rows, cells, same_types).await.map_err(|e| e.to_string())
    } else {
        runner.run_file_async(path).await.map_err(|e| e.display(false).to_string())
    };
    runner.shutdown_async().await;
    done
}
