//! Millstream: SQL views that are always right, as a library.
//!
//! Epochs, dataflow, state and checkpoints. *Architecture invariant*: no sockets of its own; it uses `millstream-sql`
//! for text and plans, `millstream-connectors` for sources, and knows nothing of the Postgres wire.

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
pub use millstream_sql::statement;
