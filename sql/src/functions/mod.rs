//! Functions of ours, one registry for batch and incremental paths.

pub mod exact_sum;

pub use exact_sum::ExactFloatSum;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// Aggregates of ours; those named like a DataFusion function replace it.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    Vec::new()
}

/// Scalar functions of ours.
pub fn scalars() -> Vec<Arc<ScalarUDF>> {
    Vec::new()
}
