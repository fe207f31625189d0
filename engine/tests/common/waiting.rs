//! Asking an engine, and waiting until it answers as it should.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use millstream::api::Engine;

use crate::common::lines;

/// The rows of a query, as [`lines`].
pub async fn rows(engine: &Engine, sql: &str) -> Vec<String> {
    lines(&engine.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {} {e}", e.code.0)))
}

/// Runs statements.
pub async fn run(engine: &Engine, sql: &str) {
    engine.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {} {e}", e.code.0));
}

/// Waits until a query gives these rows.
pub async fn becomes<S: AsRef<str> + Debug>(engine: &Engine, sql: &str, expected: &[S]) {
    let started = Instant::now();
    loop {
        let got = rows(engine, sql).await;
        if got.iter().map(String::as_str).eq(expected.iter().map(AsRef::as_ref)) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{sql}\ngot {got:#?}\nwant {expected:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
