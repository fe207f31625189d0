//! Searching for elements, removing and replacing them. NULL is the same as NULL here.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DynComparator, Int32Builder, ListBuilder, UInt32Array};
use arrow::compute::{interleave, take};
use arrow::datatypes::Int64Type;
use datafusion::error::Result;

use super::super::cast::cast;
use super::super::define::{Call, user};
use super::{comparator, element, list_from};
use crate::error::{SqlError, SqlState};

/// Whether the element and the value of a row are the same, both NULL included.
struct Same<'a> {
    values: &'a ArrayRef,
    sought: &'a ArrayRef,
    compare: DynComparator,
}

impl<'a> Same<'a> {
    fn new(c: &'a Call<'_>) -> Result<Self> {
        let (values, sought) = (c.list(0).values(), &c.args[1]);
        Ok(Self { values, sought, compare: comparator(values, sought)? })
    }

    fn at(&self, element: usize, row: usize) -> bool {
        match (self.values.is_null(element), self.sought.is_null(row)) {
            (false, false) => (self.compare)(element, row) == Ordering::Equal,
            (a, b) => a && b,
        }
    }
}

fn one_dimension(c: &Call<'_>, what: &str) -> Result<()> {
    match element(c.args[0].data_type()).and_then(element) {
        None => Ok(()),
        Some(_) => Err(user(SqlError::unsupported(format!("{what} of multidimensional arrays is not supported")))),
    }
}

pub(super) fn array_position(c: &Call<'_>) -> Result<ArrayRef> {
    one_dimension(c, "searching for elements")?;
    let (list, same) = (c.list(0), Same::new(c)?);
    let mut out = Int32Builder::with_capacity(c.rows);
    for row in 0..c.rows {
        let from = match c.args.get(2) {
            None => Some(1),
            Some(from) if from.is_null(row) => {
                return Err(user(SqlError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "initial position must not be null")));
            }
            Some(from) => Some(from.as_primitive::<Int64Type>().value(row)),
        };
        let found = from.filter(|_| list.is_valid(row)).and_then(|from| {
            let all = c.range(0, row);
            let skip = usize::try_from(from.saturating_sub(1)).unwrap_or(0);
            all.clone().skip(skip).find(|e| same.at(*e, row)).map(|e| (e - all.start) as i32 + 1)
        });
        out.append_option(found);
    }
    Ok(Arc::new(out.finish()))
}

pub(super) fn array_positions(c: &Call<'_>) -> Result<ArrayRef> {
    one_dimension(c, "searching for elements")?;
    let (list, same) = (c.list(0), Same::new(c)?);
    let mut out = ListBuilder::new(Int32Builder::new());
    for row in 0..c.rows {
        if list.is_valid(row) {
            let all = c.range(0, row);
            for e in all.clone().filter(|e| same.at(*e, row)) {
                out.values().append_value((e - all.start) as i32 + 1);
            }
        }
        out.append(list.is_valid(row));
    }
    Ok(Arc::new(out.finish()))
}

pub(super) fn array_remove(c: &Call<'_>) -> Result<ArrayRef> {
    one_dimension(c, "removing elements")?;
    let (list, same) = (c.list(0), Same::new(c)?);
    let mut kept: Vec<u32> = Vec::new();
    let mut ends = Vec::with_capacity(c.rows + 1);
    ends.push(0i32);
    for row in 0..c.rows {
        if list.is_valid(row) {
            kept.extend(c.range(0, row).filter(|e| !same.at(*e, row)).map(|e| e as u32));
        }
        ends.push(kept.len() as i32);
    }
    list_from(c.to, take(list.values(), &UInt32Array::from(kept), None)?, ends, list.nulls().cloned())
}

pub(super) fn array_replace(c: &Call<'_>) -> Result<ArrayRef> {
    let (list, same) = (c.list(0), Same::new(c)?);
    let with = cast(&c.args[2], list.values().data_type())?;
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    let mut ends = Vec::with_capacity(c.rows + 1);
    ends.push(0i32);
    for row in 0..c.rows {
        if list.is_valid(row) {
            chosen.extend(c.range(0, row).map(|e| if same.at(e, row) { (1, row) } else { (0, e) }));
        }
        ends.push(chosen.len() as i32);
    }
    let values = interleave(&[list.values().as_ref(), with.as_ref()], &chosen)?;
    list_from(c.to, values, ends, list.nulls().cloned())
}
