//! Functions of ours, one registry for batch and incremental paths.

pub mod arithmetic;
pub(crate) mod arrays;
pub(crate) mod bytes;
pub mod canonical;
pub mod cast;
mod clock;
pub mod collect;
mod collect_udaf;
pub(crate) mod datetime;
mod define;
pub mod exact_sum;
pub mod excluding;
mod extremes;
mod format;
pub mod json;
pub(crate) mod math;
pub mod moments;
pub(crate) mod opaque;
mod other;
mod registry;
pub(crate) mod signed;
mod single_row;
mod statistics;
mod sum;
pub(crate) mod text;
pub mod window;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};

pub use collect::Collect;
pub use exact_sum::ExactFloatSum;
pub use moments::{Moments, Stat};
pub(crate) use registry::replace_defaults;

/// Aggregates of ours; see [`registry`].
fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let exact = [sum::exact_sum(), sum::exact_avg()].into_iter();
    let all = exact.chain(statistics::functions()).chain(collect_udaf::functions()).chain(other::functions());
    all.chain(json::aggregate::aggregates()).map(Arc::new).collect()
}

/// Fails where a scalar subquery has more than one row: `single_row(value, rows)`.
pub(crate) fn single_row() -> ScalarUDF {
    single_row::single_row()
}

/// Window functions of ours.
pub(crate) fn windows() -> Vec<Arc<WindowUDF>> {
    window::session::functions().into_iter().map(Arc::new).collect()
}

/// Scalar functions of ours; see [`registry`].
fn scalars() -> Vec<Arc<ScalarUDF>> {
    // Under the names that they have in Postgres.
    let sign = datafusion::functions::math::signum().as_ref().clone().with_aliases(["sign"]);
    let ceil = datafusion::functions::math::ceil().as_ref().clone().with_aliases(["ceiling"]);
    window::functions()
        .into_iter()
        .chain(arithmetic::functions())
        .chain(datetime::functions())
        .chain(clock::functions())
        .chain(json::functions())
        .chain(arrays::functions())
        .chain(bytes::functions())
        .chain(format::functions())
        .chain(math::functions())
        .chain(text::functions())
        .chain([sign, ceil, cast::function(), opaque::function(), single_row(), crate::asof::marker()])
        .chain([crate::arrival::marker(), crate::asof::version_marker()])
        .chain([canonical::function()])
        .map(Arc::new)
        .collect()
}
