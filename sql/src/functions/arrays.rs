//! Functions and operators of arrays with the semantics of Postgres: an empty array has no dimensions, a subscript beyond
//! the ends is NULL and never counts from the end, what is searched for may be NULL, and elements that are NULL are
//! contained in nothing.
//!
//! Arrays begin with the subscript 1, and one with several dimensions is an array of arrays.

mod search;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, DynComparator, ListArray, UInt32Array, UInt64Array, make_comparator,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cmp;
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ScalarUDF;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;

use super::cast::cast;
use super::define::{Call, Def, Kind, fail, is_text, udfs, user};
use crate::error::{SqlError, SqlState};
use crate::types::list_of;
use search::{array_position, array_positions, array_remove, array_replace};

/// `a[i]`
pub(crate) const SUBSCRIPT: &str = "array_subscript";
/// `a[i:j]`
pub(crate) const SLICE: &str = "array_part";
/// `@>`
pub(crate) const CONTAINS: &str = "arraycontains";
/// `<@`
pub(crate) const CONTAINED: &str = "arraycontained";
/// `&&`
pub(crate) const OVERLAP: &str = "arrayoverlap";
/// `x op ANY (array)`, called with the operator, the value and the array.
pub(crate) const ANY: &str = "any_of";
/// `x op ALL (array)`
pub(crate) const ALL: &str = "all_of";

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    udfs(&definitions())
}

/// One of them, to be called by its name.
pub(crate) fn function(name: &str) -> Option<ScalarUDF> {
    definitions().into_iter().find(|d| d.name == name).map(Def::udf)
}

fn definitions() -> Vec<Def> {
    let int = |name, aliases, takes, run| Def { name, aliases, takes, gives: |_| DataType::Int32, strict: true, run };
    let truth = |name, takes, run| Def { name, aliases: &[], takes, gives: |_| DataType::Boolean, strict: true, run };
    vec![
        int("array_length", &["list_length"], |t| list_and_number(t, 1), |c| c.dimension(|n| n)),
        int("array_upper", &[], |t| list_and_number(t, 0), |c| c.dimension(|n| n)),
        int("array_lower", &[], |t| list_and_number(t, 0), |c| c.dimension(|_| 1)),
        int("array_ndims", &["list_ndims"], one_list, |c| {
            c.primitives::<Int32Type>(|row| Ok(Some(lengths(c.list(0), row).len() as i32).filter(|n| *n > 0)))
        }),
        int(
            "cardinality",
            &[],
            |t| match t {
                [map @ DataType::Map(..)] => Some(vec![map.clone()]),
                _ => one_list(t),
            },
            |c| {
                c.primitives::<Int32Type>(|row| {
                    Ok(Some(match c.args[0].as_map_opt() {
                        Some(map) => map.value_length(row),
                        None => elements(c.list(0), row) as i32,
                    }))
                })
            },
        ),
        Def {
            name: "array_dims",
            aliases: &["list_dims"],
            takes: one_list,
            gives: |_| DataType::Utf8View,
            strict: true,
            run: |c| {
                c.texts(|row| {
                    let all = lengths(c.list(0), row);
                    Ok((!all.is_empty()).then(|| all.iter().map(|n| format!("[1:{n}]")).collect()))
                })
            },
        },
        Def {
            strict: false,
            ..int(
                "array_position",
                &["list_position", "array_indexof", "list_indexof"],
                |t| list_and_elements(t, 1, true),
                array_position,
            )
        },
        Def {
            name: "array_positions",
            aliases: &["list_positions"],
            takes: |t| list_and_elements(t, 1, false),
            gives: |_| list_of(DataType::Int32),
            strict: false,
            run: array_positions,
        },
        Def {
            name: "array_remove",
            aliases: &["list_remove"],
            takes: |t| list_and_elements(t, 1, false),
            gives: first_type,
            strict: false,
            run: array_remove,
        },
        Def {
            name: "array_replace",
            aliases: &["list_replace"],
            takes: |t| list_and_elements(t, 2, false),
            gives: first_type,
            strict: false,
            run: array_replace,
        },
        Def {
            name: "trim_array",
            aliases: &[],
            takes: |t| list_and_number(t, 0),
            gives: first_type,
            strict: true,
            run: |c| {
                let counts = c.primitive::<Int64Type>(1);
                c.parts(|list, row| {
                    let (length, n) = (i64::from(list.value_length(row)), counts.value(row));
                    match n < 0 || n > length {
                        true => fail(
                            SqlState::ARRAY_SUBSCRIPT_ERROR,
                            format!("number of elements to trim must be between 0 and {length}"),
                        ),
                        false => Ok((1, length - n)),
                    }
                })
            },
        },
        Def {
            name: SUBSCRIPT,
            aliases: &[],
            takes: |t| list_and_number(t, 0),
            gives: |t| t.first().and_then(element).cloned().unwrap_or(DataType::Null),
            strict: true,
            run: subscript,
        },
        Def {
            name: SLICE,
            aliases: &[],
            takes: |t| match t {
                [list, from, to] => Some(vec![as_list(list)?, Kind::Long.from(from)?, Kind::Long.from(to)?]),
                _ => None,
            },
            gives: first_type,
            strict: true,
            run: |c| {
                let (from, to) = (c.primitive::<Int64Type>(1), c.primitive::<Int64Type>(2));
                c.parts(|_, row| Ok((from.value(row), to.value(row))))
            },
        },
        truth(CONTAINS, two_lists, |c| c.each_found(0, 1, true)),
        truth(CONTAINED, two_lists, |c| c.each_found(1, 0, true)),
        truth(OVERLAP, two_lists, |c| c.each_found(0, 1, false)),
        Def { strict: false, ..truth(ANY, quantified, |c| compared(c, true)) },
        Def { strict: false, ..truth(ALL, quantified, |c| compared(c, false)) },
    ]
}

fn first_type(types: &[DataType]) -> DataType {
    types.first().cloned().unwrap_or(DataType::Null)
}

fn element(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => Some(f.data_type()),
        _ => None,
    }
}

/// The list type a list is worked on as.
fn as_list(given: &DataType) -> Option<DataType> {
    match given {
        DataType::List(_) => Some(given.clone()),
        DataType::Null => Some(list_of(DataType::Utf8View)),
        other => element(other).map(|e| list_of(e.clone())),
    }
}

fn one_list(given: &[DataType]) -> Option<Vec<DataType>> {
    match given {
        [list] => Some(vec![as_list(list)?]),
        _ => None,
    }
}

fn list_and_number(given: &[DataType], optional: usize) -> Option<Vec<DataType>> {
    match given {
        [list] if optional > 0 => Some(vec![as_list(list)?]),
        [list, n] => Some(vec![as_list(list)?, Kind::Long.from(n)?]),
        _ => None,
    }
}

/// What a value is brought to that is compared with elements of this type.
fn comparable(value: &DataType, elements: &DataType) -> Option<DataType> {
    match value {
        DataType::Null => Some(elements.clone()),
        // A literal is of the type of the elements.
        t if is_text(t) && !is_text(elements) => Some(elements.clone()),
        t => comparison_coercion(t, elements).map(|_| t.clone()),
    }
}

/// A list, so many values that are compared with its elements, and maybe a number.
fn list_and_elements(given: &[DataType], n: usize, number: bool) -> Option<Vec<DataType>> {
    let (list, rest) = given.split_first()?;
    let (values, rest) = rest.split_at_checked(n)?;
    let list = match list {
        DataType::Null => list_of(values.first().filter(|t| !t.is_null()).cloned().unwrap_or(DataType::Utf8View)),
        other => as_list(other)?,
    };
    let elements = element(&list)?.clone();
    let mut all = vec![list];
    for v in values {
        all.push(comparable(v, &elements)?);
    }
    match rest {
        [] => {}
        [one] if number => all.push(Kind::Long.from(one)?),
        _ => return None,
    }
    Some(all)
}

fn two_lists(given: &[DataType]) -> Option<Vec<DataType>> {
    let [a, b] = given else { return None };
    let known = |t: &DataType| element(t).filter(|e| !e.is_null()).cloned();
    let common = match (known(a), known(b)) {
        (Some(x), Some(y)) if x == y => x,
        (Some(x), Some(y)) => comparison_coercion(&x, &y)?,
        // An empty array, or a literal.
        (Some(x), None) | (None, Some(x)) => x,
        (None, None) => DataType::Utf8View,
    };
    let fits = |t: &DataType| element(t).is_some() || t.is_null() || is_text(t);
    (fits(a) && fits(b)).then(|| vec![list_of(common); 2])
}

/// The operator, a value and a list.
fn quantified(given: &[DataType]) -> Option<Vec<DataType>> {
    let [op, value, list] = given else { return None };
    if !is_text(op) {
        return None;
    }
    let known = element(list).filter(|e| !e.is_null());
    let common = match (value, known) {
        (DataType::Null, Some(e)) => e.clone(),
        (DataType::Null, None) => DataType::Utf8View,
        (v, Some(e)) if v == e => v.clone(),
        (v, Some(e)) if is_text(v) && !is_text(e) => e.clone(),
        (v, Some(e)) => comparison_coercion(v, e)?,
        // '{1,2}' has elements of the value's type.
        (v, None) if is_text(list) || list.is_null() || element(list).is_some() => v.clone(),
        _ => return None,
    };
    Some(vec![DataType::Utf8View, common.clone(), list_of(common)])
}

/// The lengths of a list's dimensions; none of an empty one.
fn lengths(list: &ListArray, row: usize) -> Vec<i32> {
    let mut out = Vec::new();
    let mut inner = list.value(row);
    loop {
        if inner.is_empty() {
            return out;
        }
        out.push(inner.len() as i32);
        let Some(deeper) = inner.as_list_opt::<i32>().filter(|d| d.is_valid(0)) else { return out };
        let first = deeper.value(0);
        inner = first;
    }
}

/// How many elements a list has in all its dimensions.
fn elements(list: &ListArray, row: usize) -> usize {
    let inner = list.value(row);
    match inner.as_list_opt::<i32>() {
        None => inner.len(),
        Some(deeper) => (0..deeper.len()).filter(|i| deeper.is_valid(*i)).map(|i| elements(deeper, i)).sum(),
    }
}

/// Both in one type, with zeros of one sign, and whether two of them are equal. NULLs are to be looked at first.
fn comparator(a: &ArrayRef, b: &ArrayRef) -> Result<DynComparator> {
    let common = match a.data_type() == b.data_type() {
        true => a.data_type().clone(),
        false => comparison_coercion(a.data_type(), b.data_type()).ok_or_else(|| {
            let message = format!("operator does not exist: {} = {}", a.data_type(), b.data_type());
            user(SqlError::new(SqlState::UNDEFINED_FUNCTION, message))
        })?,
    };
    let one = |v: &ArrayRef| -> Result<ArrayRef> { Ok(plain_zero(cast(v, &common)?)) };
    Ok(make_comparator(&one(a)?, &one(b)?, SortOptions::default())?)
}

/// Without negative zeros, which are equal to the others and sort before them.
fn plain_zero(values: ArrayRef) -> ArrayRef {
    use arrow::datatypes::{Float32Type, Float64Type};
    match values.data_type() {
        DataType::Float64 => Arc::new(values.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| v + 0.0)),
        DataType::Float32 => Arc::new(values.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| v + 0.0)),
        _ => values,
    }
}

impl Call<'_> {
    fn list(&self, i: usize) -> &ListArray {
        self.args[i].as_list::<i32>()
    }

    /// Something of the length of a dimension, the first if none is named; NULL where there is no such dimension.
    fn dimension(&self, f: fn(i32) -> i32) -> Result<ArrayRef> {
        self.primitives::<Int32Type>(|row| {
            let dimension = self.args.get(1).map_or(1, |d| d.as_primitive::<Int64Type>().value(row));
            let Some(at) = usize::try_from(dimension).ok().and_then(|d| d.checked_sub(1)) else { return Ok(None) };
            Ok(lengths(self.list(0), row).get(at).map(|n| f(*n)))
        })
    }

    /// Where each list's elements are among all values.
    fn range(&self, i: usize, row: usize) -> std::ops::Range<usize> {
        let offsets = self.list(i).value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }

    /// The elements from a subscript to another, both included, of every row.
    fn parts(&self, bounds: impl Fn(&ListArray, usize) -> Result<(i64, i64), SqlError>) -> Result<ArrayRef> {
        let list = self.list(0);
        let mut kept: Vec<u32> = Vec::new();
        let mut ends = Vec::with_capacity(self.rows + 1);
        ends.push(0i32);
        for row in 0..self.rows {
            if !self.null(row) {
                let (from, to) = bounds(list, row).map_err(user)?;
                let all = self.range(0, row);
                let length = all.len() as i64;
                let (from, to) = (from.max(1), to.min(length));
                kept.extend((from..=to).map(|i| (all.start as i64 + i - 1) as u32));
            }
            ends.push(kept.len() as i32);
        }
        let nulls: NullBuffer = (0..self.rows).map(|row| !self.null(row)).collect();
        list_from(self.to, take(list.values(), &UInt32Array::from(kept), None)?, ends, Some(nulls))
    }

    /// Whether all elements of a list, or any, are among those of another. NULLs are not.
    fn each_found(&self, inside: usize, sought: usize, all: bool) -> Result<ArrayRef> {
        let (has, wants) = (self.list(inside).values(), self.list(sought).values());
        let compare = comparator(has, wants)?;
        self.booleans(|row| {
            let mut each = self.range(sought, row).map(|w| {
                wants.is_valid(w)
                    && self.range(inside, row).any(|h| has.is_valid(h) && compare(h, w) == Ordering::Equal)
            });
            Ok(Some(if all { each.all(|found| found) } else { each.any(|found| found) }))
        })
    }
}

/// A list array of a type, whatever its element field is called.
fn list_from(to: &DataType, values: ArrayRef, ends: Vec<i32>, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    let field = match to {
        DataType::List(f) => Arc::clone(f),
        _ => Arc::new(Field::new_list_field(values.data_type().clone(), true)),
    };
    let values = if values.data_type() == field.data_type() { values } else { cast(&values, field.data_type())? };
    Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::new(ends.into()), values, nulls)?))
}

fn subscript(c: &Call<'_>) -> Result<ArrayRef> {
    let at = c.primitive::<Int64Type>(1);
    let one = |row: usize| {
        let all = c.range(0, row);
        let i = usize::try_from(at.value(row)).ok()?.checked_sub(1)?;
        (i < all.len()).then(|| (all.start + i) as u64)
    };
    let indices: UInt64Array = (0..c.rows).map(|row| if c.null(row) { None } else { one(row) }).collect();
    let out = take(c.list(0).values(), &indices, None)?;
    if out.data_type() == c.to { Ok(out) } else { cast(&out, c.to) }
}

/// `x op ANY (list)`, or ALL: true, false or NULL as the comparisons with all elements say together.
fn compared(c: &Call<'_>, any: bool) -> Result<ArrayRef> {
    let list = c.list(2);
    let Some(op) = c.text(0).iter().flatten().next() else {
        return Err(DataFusionError::Internal("a quantified comparison without an operator".into()));
    };
    let rows: Vec<u32> = (0..c.rows).flat_map(|row| c.range(2, row).map(move |_| row as u32)).collect();
    let (first, last) = match list.value_offsets() {
        [first, .., last] => (*first as usize, *last as usize),
        _ => (0, 0),
    };
    let values = plain_zero(take(&c.args[1], &UInt32Array::from(rows), None)?);
    let others = plain_zero(list.values().slice(first, last - first));
    let each = match op {
        "=" => cmp::eq(&values, &others),
        "<>" => cmp::neq(&values, &others),
        "<" => cmp::lt(&values, &others),
        "<=" => cmp::lt_eq(&values, &others),
        ">" => cmp::gt(&values, &others),
        ">=" => cmp::gt_eq(&values, &others),
        other => return Err(DataFusionError::Internal(format!("no comparison {other}"))),
    }?;
    let mut out = BooleanBuilder::with_capacity(c.rows);
    for row in 0..c.rows {
        if list.is_null(row) {
            out.append_null();
            continue;
        }
        let mut unknown = false;
        let decided = c.range(2, row).any(|e| match each.is_null(e - first) {
            true => {
                unknown = true;
                false
            }
            false => each.value(e - first) == any,
        });
        out.append_option(if decided {
            Some(any)
        } else if unknown {
            None
        } else {
            Some(!any)
        });
    }
    Ok(Arc::new(out.finish()))
}
