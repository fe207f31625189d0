//! State structures of operators.
//!
//! [`arrangement::Arrangement`]: indexed rows with weights; snapshots of it are immutable and cheap, so readers on
//! other threads never wait. [`keyed`]: private per-key state.

pub mod arrangement;
pub mod keyed;
