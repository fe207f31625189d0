//! The real server as a process: started on free ports with a data folder of its own, killed with SIGKILL, started
//! again on the same folder and ports.
//!
//! The binary is `$MILLSTREAM_BINARY`, or the one `cargo test --workspace` built beside the tests. Everything waits
//! for a condition, never for a time. The process and its folder are gone when the test process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Worker threads.
    pub workers: usize,
    /// `--checkpoint-interval`.
    pub checkpoint_interval: String,
    /// `--log`.
    pub log: String,
    /// Further flags.
    pub flags: Vec<String>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { workers: 2, checkpoint_interval: "500ms".into(), log: "warn".into(), flags: Vec::new() }
    }
}

/// A server process and its data folder.
pub struct Server {
    options: ServerOptions,
    dir: TempDir,
    pg: u16,
    http: u16,
    child: Option<Child>,
    kills: usize,
}

/// Where the `millstream` binary is.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MILLSTREAM_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of the test");
    // target/debug/deps/name-hash or target/debug/name.
    let place = test.ancestors().skip(1).take(2).map(|dir| dir.join("millstream")).find(|p| p.is_file());
    place.unwrap_or_else(|| {
        panic!(
            "no binary \"millstream\" near {}: run `cargo test --workspace`, which builds it, or set MILLSTREAM_BINARY",
            test.display()
        )
    })
}

impl Server {
    /// Starts a server on a fresh folder and waits until it answers.
    pub async fn start(options: ServerOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("millstream-server-").tempdir().expect("a folder");
        let mut server = Self { options, dir, pg: 0, http: 0, child: None, kills: 0 };
        for attempt in 0.. {
            // Free a moment ago; another process may take them before the server does.
            (server.pg, server.http) = free_ports();
            match server.launch().await {
                Ok(()) => break,
                Err(text) if attempt < 3 && text.contains("cannot listen") => {}
                Err(text) => panic!("the server does not start:\n{text}"),
            }
        }
        server
    }

    /// Starts it again on the same folder and ports.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "the server runs");
        let from = self.log_len();
        if let Err(text) = self.launch().await {
            panic!("the server does not start again (log from byte {from}):\n{text}");
        }
    }

    /// SIGKILL: the process gets no chance to do anything.
    pub fn kill_9(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
        self.kills += 1;
    }

    /// SIGTERM, and waits for the end. Gives the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the server runs");
        let done = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().expect("kill runs");
        assert!(done.success());
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status.code();
            }
            if Instant::now() > deadline {
                child.kill().expect("kill");
                child.wait().expect("wait");
                panic!("the server did not stop within {STOP_TIMEOUT:?}:\n{}", self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How often it was killed.
    pub fn kills(&self) -> usize {
        self.kills
    }

    /// Port of the Postgres wire.
    pub fn pg_port(&self) -> u16 {
        self.pg
    }

    /// Port of HTTP.
    pub fn http_port(&self) -> u16 {
        self.http
    }

    /// A folder that lives as long as the server's data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A connection; fails while the server is down.
    pub async fn try_connect(port: u16) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("test").connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        // It ends with the client or the server; queries report what happened.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// A connection to a server that runs.
    pub async fn connect(&self) -> Client {
        Self::try_connect(self.pg).await.unwrap_or_else(|e| panic!("no connection: {e:?}\n{}", self.log_tail()))
    }

    /// Runs statements over the simple protocol and panics with the server's log if they fail.
    pub async fn execute(&self, sql: &str) {
        let client = self.connect().await;
        if let Err(e) = client.batch_execute(sql).await {
            panic!("{sql}\n{}\n{}", explain(&e), self.log_tail());
        }
    }

    /// `psql -X` with a script on its standard input. `None`: there is no psql here, and the reason was printed.
    pub fn psql(&self, arguments: &[&str], script: &str) -> Option<Output> {
        use std::io::Write as _;
        let mut command = Command::new("psql");
        command.args(["-X", "-h", "127.0.0.1", "-p", &self.pg.to_string(), "-U", "test", "-d", "millstream"]);
        command.args(arguments).env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) => {
                let required = std::env::var("MILLSTREAM_REQUIRE_PSQL").is_ok_and(|v| v == "1");
                assert!(!required, "psql is required but does not start: {e}");
                println!("ignored: psql does not start: {e}");
                return None;
            }
        };
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(script.as_bytes()).expect("psql reads its input");
        drop(stdin);
        Some(child.wait_with_output().expect("psql ends"))
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    fn log_len(&self) -> u64 {
        std::fs::metadata(self.log_path()).map_or(0, |m| m.len())
    }

    fn log_file(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the log file")
    }

    async fn launch(&mut self) -> Result<(), String> {
        let mut command = Command::new(binary());
        // Settings of the caller's shell must not reach the server under test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MILLSTREAM_") {
                command.env_remove(name);
            }
        }
        command
            .arg("server")
            .arg("--data")
            .arg(self.dir.path().join("data"))
            .args(["--pg", &format!("127.0.0.1:{}", self.pg)])
            .args(["--http", &format!("127.0.0.1:{}", self.http)])
            .args(["--workers", &self.options.workers.to_string()])
            .args(["--checkpoint-interval", &self.options.checkpoint_interval])
            .args(["--log", &self.options.log])
            .args(&self.options.flags)
            .env("RUST_BACKTRACE", "1")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(self.log_file())
            .stderr(self.log_file());
        let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", binary().display()));
        guard(child.id(), self.dir.path());
        self.child = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let child = self.child.as_mut().expect("it was just started");
            if let Some(status) = child.try_wait().expect("wait") {
                self.child = None;
                return Err(format!("exit: {status}\n{}", self.log_tail()));
            }
            if let Ok(client) = Self::try_connect(self.pg).await
                && client.simple_query("SELECT 1").await.is_ok()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("no answer within {START_TIMEOUT:?}\n{}", self.log_tail()));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Nothing can be done about a failure here, and the guard tries again.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- end of the server's log\n{}", self.log_tail());
        }
    }
}

/// The server must not outlive the tests, however they end.
fn guard(server: u32, dir: &Path) {
    const SCRIPT: &str = "while kill -0 $1 2>/dev/null && kill -0 $2 2>/dev/null; do sleep 1; done
        kill -0 $1 2>/dev/null && exit
        kill -9 $2 2>/dev/null; sleep 0.2; rm -rf \"$3\"";
    let started = Command::new("setsid")
        .args(["bash", "-c", SCRIPT, "guard", &std::process::id().to_string(), &server.to_string()])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // Reaped by a thread of its own, or it would stay as a zombie.
    if let Ok(mut child) = started {
        std::thread::spawn(move || drop(child.wait()));
    }
}

fn free_ports() -> (u16, u16) {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (a, b) = (bind(), bind());
    (a.local_addr().expect("bound").port(), b.local_addr().expect("bound").port())
}

/// An error with everything the server said.
pub fn explain(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        None => format!("{e:?}"),
        Some(db) => format!(
            "{} {}: {}{}{}",
            db.severity(),
            db.code().code(),
            db.message(),
            db.detail().map(|d| format!("\nDETAIL: {d}")).unwrap_or_default(),
            db.hint().map(|h| format!("\nHINT: {h}")).unwrap_or_default()
        ),
    }
}

/// True if the error says that the server went away, not that it refused something.
pub fn gone(e: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;
    match e.as_db_error() {
        // Class 57: operator intervention (shutdown); class 08: connection.
        Some(db) => db.code().code().starts_with("57P") || db.code().code().starts_with("08"),
        None => e.is_closed() || e.source().is_some_and(|s| s.is::<std::io::Error>()),
    }
}
