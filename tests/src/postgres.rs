//! PostgreSQL as a second opinion: a throwaway server (`tests/scripts/postgres.sh`), and our statements in its dialect.
//!
//! A test that asks for a server where none is installed gets none, says why and passes; `MILLSTREAM_REQUIRE_POSTGRES=1`
//! makes that a failure.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres.sh");
/// Exit code of the script where PostgreSQL is missing.
const MISSING: i32 = 77;

/// A running server; it ends with this value, or with the process.
pub struct Postgres {
    dir: TempDir,
    port: u16,
}

impl Postgres {
    /// Starts one. `None`: not installed here, and the reason was printed.
    pub fn start() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("millstream-postgres-").tempdir().expect("a folder");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let mut command = Command::new(SCRIPT);
        command.arg("start").arg(dir.path()).arg(port.to_string()).arg(std::process::id().to_string());
        let output = command.output().expect("the script runs");
        if output.status.success() {
            return Some(Self { dir, port });
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let required = std::env::var("MILLSTREAM_REQUIRE_POSTGRES").is_ok_and(|v| v == "1");
        assert!(!required && output.status.code() == Some(MISSING), "PostgreSQL does not start: {text}");
        println!("ignored: {text}");
        None
    }

    /// A session.
    pub async fn connect(&self) -> Client {
        let parameters = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await.expect("PostgreSQL answers");
        // It ends with the client.
        tokio::spawn(async move { drop(connection.await) });
        client
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the script watches this process as well.
        drop(Command::new(SCRIPT).arg("stop").arg(self.dir.path()).output());
    }
}

/// A statement that failed.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
}

impl Refused {
    /// The server does not know what is asked (class 42, syntax and names; 0A, features), as opposed to a value it
    /// cannot compute.
    pub fn unknown(&self) -> bool {
        self.code.starts_with("42") || self.code.starts_with("0A")
    }
}

impl From<tokio_postgres::Error> for Refused {
    fn from(e: tokio_postgres::Error) -> Self {
        match e.as_db_error() {
            Some(d) => Self { code: d.code().code().to_owned(), message: d.message().to_owned() },
            None => Self { code: "08000".into(), message: format!("{e:?}") },
        }
    }
}

/// Rows of a statement as lines, values separated by a space, in the words of the scripts: `NULL`, `(empty)`.
pub async fn lines(client: &Client, sql: &str) -> Result<Vec<String>, Refused> {
    let mut out = Vec::new();
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let value = |i: usize| match row.get(i) {
                None => "NULL".to_owned(),
                Some("") => "(empty)".to_owned(),
                Some(v) => v.replace('\n', "\\n"),
            };
            out.push((0..row.len()).map(value).collect::<Vec<_>>().join(" "));
        }
    }
    Ok(out)
}

/// A statement as PostgreSQL reads it: streams are tables, materialized views are views, so that they are never behind.
pub fn translated(sql: &str) -> String {
    let mut out = sql.trim().to_owned();
    for (ours, theirs) in [
        ("CREATE STREAM", "CREATE TABLE"),
        ("CREATE SOURCE", "CREATE TABLE"),
        ("DROP STREAM", "DROP TABLE"),
        ("CREATE MATERIALIZED VIEW", "CREATE VIEW"),
        ("CREATE OR REPLACE MATERIALIZED VIEW", "CREATE OR REPLACE VIEW"),
        ("DROP MATERIALIZED VIEW", "DROP VIEW"),
    ] {
        let head = out.get(..ours.len()).unwrap_or_default();
        if head.eq_ignore_ascii_case(ours) {
            out = format!("{theirs}{}", &out[ours.len()..]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_become_tables_and_materialized_views_become_views() {
        assert_eq!(translated("create stream s (a INT)"), "CREATE TABLE s (a INT)");
        assert_eq!(translated("CREATE MATERIALIZED VIEW v AS SELECT 1"), "CREATE VIEW v AS SELECT 1");
        assert_eq!(translated("SELECT 'ä'"), "SELECT 'ä'");
    }
}
