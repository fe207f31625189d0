//! Millstream: SQL views that are always right, as a library.
//!
//! Epochs, dataflow, state and checkpoints. *Architecture invariant*: no sockets of its own; it uses `millstream-sql`
//! for text and plans, `millstream-connectors` for sources, and knows nothing of the Postgres wire.
//!
//! ```
//! use futures::StreamExt;
//! use millstream::api::{Engine, EngineOptions};
//!
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() -> millstream::Result<()> {
//! // `data` may also be a folder or `s3://bucket/prefix`.
//! let engine = Engine::open(EngineOptions { data: "memory://".into(), ..Default::default() }).await?;
//! engine.execute("CREATE STREAM clicks (page TEXT, ms BIGINT)").await?;
//! engine.execute("CREATE MATERIALIZED VIEW hits AS SELECT page, count(*) AS n FROM clicks GROUP BY page").await?;
//! let mut changes = engine.subscribe("hits", true).await?;
//! let snapshot = changes.next().await.expect("a subscription begins with what is there")?;
//! assert!(snapshot.snapshot && snapshot.batch.is_empty());
//!
//! engine.execute("INSERT INTO clicks VALUES ('/a', 12), ('/b', 7), ('/a', 9)").await?;
//! let mut rows = 0;
//! while rows == 0 {
//!     rows = changes.next().await.expect("the engine runs")?.batch.len();
//! }
//! assert_eq!(rows, 2, "one change a page");
//! engine.shutdown().await
//! # }
//! ```

pub mod api;
pub mod catalog;
pub mod ckpt;
pub mod coord;
pub mod error;
pub mod hash;
pub mod job;
pub mod ops;
pub mod read;
pub mod state;
pub mod time;
pub mod zset;

pub use error::{Error, Result};
/// Parsed statements, as [`api::Session::parse`] gives them.
pub use millstream_sql::{statement, text};
