//! Python scripts of this folder, with DuckDB where it is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/scripts");

/// Python with DuckDB.
pub struct DuckDb {
    path: Option<PathBuf>,
}

impl DuckDb {
    /// `None`: not installed here, and the reason was printed; with `MILLSTREAM_REQUIRE_DUCKDB=1` that is a failure.
    pub fn find() -> Option<Self> {
        let found = Self { path: std::env::var_os("MILLSTREAM_PYTHONPATH").map(PathBuf::from) };
        match found.python().args(["-c", "import duckdb"]).output() {
            Ok(output) if output.status.success() => Some(found),
            other => {
                let required = std::env::var("MILLSTREAM_REQUIRE_DUCKDB").is_ok_and(|v| v == "1");
                assert!(!required, "DuckDB for Python is required: {other:?}");
                println!("ignored: no DuckDB for Python; install tests/scripts/requirements.txt");
                None
            }
        }
    }

    fn python(&self) -> Command {
        let mut command = Command::new("python3");
        if let Some(path) = &self.path {
            command.env("PYTHONPATH", path);
        }
        command
    }

    /// Runs a script of `tests/scripts`.
    pub fn run(&self, script: &str, arguments: &[String]) -> Output {
        self.python().arg(Path::new(SCRIPTS).join(script)).args(arguments).output().expect("python3 runs")
    }
}
