//! SQL text and a read-only catalog in, a typed incremental plan or a positioned error out.
//!
//! Pipeline: [`parse::parse`] text -> [`statement::Statement`]; the engine plans the query inside with a DataFusion
//! session made by [`session`]; [`plan::build`] turns the optimised `LogicalPlan` into an [`plan::IncPlan`].
//!
//! *Architecture invariant*: this crate does no I/O, reads no clock, starts no task and knows neither the engine
//! nor the connectors. A plan's meaning depends on nothing outside it.

pub(crate) mod arrival;
pub(crate) mod asof;
pub(crate) mod decorrelate;
pub mod error;
pub mod functions;
pub mod limits;
pub mod matching;
pub mod optimize;
pub mod parse;
pub mod plan;
pub mod session;
pub mod span;
pub mod statement;
pub mod text;
pub mod types;

pub use error::{SqlError, SqlState};
