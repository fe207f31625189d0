//! Functions of ours, one registry for batch and incremental paths.

pub mod arithmetic;
pub mod cast;
mod clock;
pub mod collect;
mod collect_udaf;
pub(crate) mod datetime;
pub mod exact_sum;
pub mod json;
pub mod moments;
mod other;
pub(crate) mod signed;
mod single_row;
mod statistics;
mod sum;
mod window;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

pub use collect::Collect;
pub use exact_sum::ExactFloatSum;
pub use moments::{Moments, Stat};

/// Aggregates of ours; those named like a DataFusion function replace it.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let exact = [sum::exact_sum(), sum::exact_avg()].into_iter();
    let all = exact.chain(statistics::functions()).chain(collect_udaf::functions()).chain(other::functions());
    all.map(Arc::new).collect()
}

/// Fails where a scalar subquery has more than one row: `single_row(value, rows)`.
pub(crate) fn single_row() -> ScalarUDF {
    single_row::single_row()
}

/// Scalar functions of ours.
pub fn scalars() -> Vec<Arc<ScalarUDF>> {
    let sign = datafusion::functions::math::signum().as_ref().clone().with_aliases(["sign"]);
    window::functions()
        .into_iter()
        .chain(arithmetic::functions())
        .chain(datetime::functions())
        .chain(clock::functions())
        .chain(json::functions())
        .chain([sign, cast::function(), single_row(), crate::arrival::marker()])
        .map(Arc::new)
        .collect()
}
