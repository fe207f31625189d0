//! `json_agg` and its like, laid out as Postgres writes them.
//!
//! The values are JSON already: see [`crate::optimize::TotalOrder`], which calls `to_json` on them below the aggregate.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::{Collect, Collector, wrong};
use crate::error::{Result, SqlError};
use crate::functions::json::write_object;

impl Collector {
    /// The first two arguments of all rows of all groups, as text.
    fn two_texts(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<(StringArray, StringArray)> {
        let columns = self.decode(groups.iter().flatten().map(|r| r.0))?;
        let text = |i: usize| -> Result<StringArray> {
            let column =
                columns.get(i).ok_or_else(|| SqlError::internal("an aggregate of JSON takes two arguments"))?;
            Ok(cast(column, &DataType::Utf8).map_err(wrong)?.as_string::<i32>().clone())
        };
        Ok((text(0)?, text(1)?))
    }

    pub(super) fn json_arrays(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<ArrayRef> {
        let (values, separators) = self.two_texts(groups)?;
        let mut out = StringBuilder::new();
        let mut text = String::new();
        let mut row = 0;
        for group in groups {
            text.clear();
            for (_, n) in group {
                // A NULL stands alone, whatever the layout of the others.
                let (value, separator) = match values.is_valid(row) {
                    true => (values.value(row), separators.value(row)),
                    false => ("null", ", "),
                };
                for _ in 0..*n {
                    text.push_str(if text.is_empty() { "[" } else { separator });
                    text.push_str(value);
                }
                row += 1;
            }
            if group.is_empty() {
                out.append_null();
            } else {
                text.push(']');
                out.append_value(&text);
            }
        }
        Ok(Arc::new(out.finish()))
    }

    pub(super) fn json_objects(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<ArrayRef> {
        let (keys, values) = self.two_texts(groups)?;
        let canonical = self.kind == Collect::JsonbObject;
        let mut out = StringBuilder::new();
        let mut row = 0;
        for group in groups {
            let mut members = Vec::with_capacity(group.len());
            for (_, n) in group {
                let value = if values.is_valid(row) { values.value(row) } else { "null" };
                members.extend((0..*n).map(|_| (keys.value(row), value)));
                row += 1;
            }
            match group.is_empty() {
                true => out.append_null(),
                false => out.append_value(write_object(members, canonical)),
            }
        }
        Ok(Arc::new(out.finish()))
    }
}
