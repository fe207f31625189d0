//! Functions of ours, one registry for batch and incremental paths.

pub mod exact_sum;

pub use exact_sum::ExactFloatSum;
