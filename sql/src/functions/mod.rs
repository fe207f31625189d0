//! Functions of ours, one registry for batch and incremental paths.

pub mod arithmetic;
pub mod cast;
pub(crate) mod datetime;
pub mod exact_sum;
pub(crate) mod signed;
mod sum;
mod window;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub use exact_sum::ExactFloatSum;

/// Aggregates of ours; those named like a DataFusion function replace it.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    vec![Arc::new(sum::exact_sum()), Arc::new(sum::exact_avg())]
}

/// Scalar functions of ours.
pub fn scalars() -> Vec<Arc<ScalarUDF>> {
    let sign = datafusion::functions::math::signum().as_ref().clone().with_aliases(["sign"]);
    window::functions()
        .into_iter()
        .chain(arithmetic::functions())
        .chain(datetime::functions())
        .chain([sign, cast::function()])
        .map(Arc::new)
        .collect()
}
