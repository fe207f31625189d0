//! JSON as Postgres has it: operators, functions and casts over JSON in text.
//!
//! A JSON value is a text column; columns that came out of these functions carry [`JSON_KEY`] in the metadata of their
//! field, so that `||` and `-` know what they work on and `to_json` does not quote them. Names with `json_` and `jsonb_`
//! mean the same function where Postgres has both; what changes or builds `jsonb` writes it in canonical form, so equal
//! values have equal text.

mod access;
pub(crate) mod aggregate;
mod build;
mod change;
mod path;
mod planner;
pub(crate) mod table;
mod udf;
mod value;

#[cfg(test)]
mod tests;

use arrow::datatypes::Field;
use datafusion::logical_expr::ScalarUDF;

pub(super) use build::write_object;
pub use planner::JsonPlanner;
pub(super) use udf::json_field;

/// Key of the metadata of a field that holds JSON; its value is `json` or `jsonb`.
pub const JSON_KEY: &str = "millstream.type";

/// True if the field is known to hold JSON.
pub fn is_json(field: &Field) -> bool {
    field.metadata().contains_key(JSON_KEY)
}

/// All of them.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let all = access::functions().into_iter().chain(change::functions()).chain(build::functions());
    all.chain(path::functions()).chain(table::functions()).chain([aggregate::key_function()]).collect()
}
