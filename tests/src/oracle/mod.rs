//! The oracle: whatever the tables, the views, the changes, the ticks, the shards and the crashes, a view's rows are the rows
//! of its query run once over the same tables.
//!
//! [`scenario`] makes a script from a seed, [`run`] executes it and compares after every step, [`shrink`] makes a failing
//! script smaller. A script is plain SQL: what a failure prints can be typed into psql.

pub mod expr;
pub mod query;
pub mod rows;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod values;

pub use run::{Failure, Stats, run};
pub use scenario::{Features, Scenario};
