//! TPC-H for tests: the eight tables with small data from a seed, changes of orders and line items, and the 22 queries.
//!
//! The rows are not those of the official generator: the domains are smaller, so that every query finds something among
//! a few hundred line items, and so are some parameters. The shapes of the queries are the official ones; where a query
//! takes the first rows of an order, the order is completed to a total one.

pub mod data;
pub mod queries;

pub use data::Data;
pub use queries::{QUERIES, Query};
