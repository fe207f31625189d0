//! State structures of operators.
//!
//! [`arrangement::Arrangement`]: indexed rows with weights; snapshots of it are immutable and cheap, so readers on
//! other threads never wait. [`keyed`]: private per-key state. [`ordered`]: rows in order of some columns, for reads.
//! [`rows`]: columns of encoded rows.

pub mod arrangement;
pub mod keyed;
pub mod ordered;
pub mod rows;
