//! Aggregates that see the values of a group in order: `array_agg`, `string_agg`, `first_value`, `percentile_disc`,
//! `median`, `json_agg`, ...
//!
//! A group is a [`Bag`]: a multiset of rows as bytes whose order is the order asked for and then the arguments. It can be
//! added to and retracted from in any order, so that batch and views have the same code and the same answer. Where SQL
//! leaves the order open, it is that of the arguments, NULLs last.

mod json;
mod percentiles;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringBuilder, UInt32Array, new_null_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast, take};
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

use crate::error::{Result, SqlError, SqlState};
use crate::functions::canonical::canonical;

pub use percentiles::shares;

/// Rows of a group with their number of times, which may be negative in passing.
pub type Bag = BTreeMap<Box<[u8]>, i64>;

/// What is made of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collect {
    /// `array_agg(x)`: NULLs as well.
    ArrayAgg,
    /// `string_agg(x, delimiter)`: NULLs are left out, a delimiter stands before its value.
    StringAgg,
    /// `first_value(x)`.
    FirstValue,
    /// `last_value(x)`.
    LastValue,
    /// `nth_value(x, n)`: from the end if n is negative.
    NthValue,
    /// `percentile_cont(p) WITHIN GROUP (ORDER BY x)`: interpolated.
    PercentileCont,
    /// `percentile_disc(p) WITHIN GROUP (ORDER BY x)`: the first value with that share of values up to it.
    PercentileDisc,
    /// `mode() WITHIN GROUP (ORDER BY x)`: the most frequent value, of several the first.
    Mode,
    /// `median(x)`: the value in the middle, or the mean of the two there.
    Median,
    /// What `json_agg` becomes: texts that are JSON, and what stands before one that is not the first.
    JsonArray,
    /// What `jsonb_agg` becomes.
    JsonbArray,
    /// What `json_object_agg` becomes: keys, and texts that are JSON.
    JsonObject,
    /// What `jsonb_object_agg` becomes.
    JsonbObject,
}

impl Collect {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::ArrayAgg, "array_agg"),
        (Self::StringAgg, "string_agg"),
        (Self::FirstValue, "first_value"),
        (Self::LastValue, "last_value"),
        (Self::NthValue, "nth_value"),
        (Self::PercentileCont, "percentile_cont"),
        (Self::PercentileDisc, "percentile_disc"),
        (Self::Mode, "mode"),
        (Self::Median, "median"),
        // Exact: a view could not take an estimate back.
        (Self::Median, "approx_median"),
        (Self::JsonArray, "json_array_of"),
        (Self::JsonbArray, "jsonb_array_of"),
        (Self::JsonObject, "json_object_of"),
        (Self::JsonbObject, "jsonb_object_of"),
    ];

    /// The aggregate with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(c, _)| *c)
    }

    /// True where rows whose first argument is NULL do not count.
    fn skips_nulls(self) -> bool {
        matches!(self, Self::StringAgg | Self::PercentileCont | Self::PercentileDisc | Self::Mode | Self::Median)
    }

    /// True where the second argument is a share of the values, or a list of them.
    pub fn takes_share(self) -> bool {
        matches!(self, Self::PercentileCont | Self::PercentileDisc)
    }

    /// True for what the aggregates of JSON become.
    pub fn is_json(self) -> bool {
        matches!(self, Self::JsonArray | Self::JsonbArray | Self::JsonObject | Self::JsonbObject)
    }
}

fn wrong(e: ArrowError) -> SqlError {
    SqlError::internal(format!("collected values: {e}"))
}

/// See the module.
#[derive(Debug)]
pub struct Collector {
    kind: Collect,
    skip_nulls: bool,
    distinct: bool,
    orders: usize,
    first: DataType,
    /// The second argument is a list of shares.
    lists: bool,
    output: DataType,
    converter: RowConverter,
}

impl Collector {
    /// True if values of this type can be kept in order.
    pub fn supports(t: &DataType) -> bool {
        RowConverter::supports_fields(&[SortField::new(t.clone())])
    }

    /// For arguments and an order of these types.
    pub fn new(
        kind: Collect,
        args: &[DataType],
        order: &[(DataType, SortOptions)],
        distinct: bool,
        ignore_nulls: bool,
        output: DataType,
    ) -> Result<Self> {
        let Some(first) = args.first().cloned() else {
            return Err(SqlError::internal("an aggregate of nothing"));
        };
        let last = SortOptions { descending: false, nulls_first: false };
        let orders = order.iter().map(|(t, o)| SortField::new_with_options(t.clone(), *o));
        let fields: Vec<SortField> =
            orders.chain(args.iter().map(|t| SortField::new_with_options(t.clone(), last))).collect();
        if !RowConverter::supports_fields(&fields) {
            return Err(SqlError::unsupported(format!("an aggregate over values of type {first}, which has no order")));
        }
        let converter = RowConverter::new(fields).map_err(wrong)?;
        let skip_nulls = ignore_nulls || kind.skips_nulls();
        let lists = kind.takes_share() && matches!(args.get(1), Some(DataType::List(_)));
        Ok(Self { kind, skip_nulls, distinct, orders: order.len(), first, lists, output, converter })
    }

    /// Rows as keys of a [`Bag`].
    pub fn encode(&self, args: &[ArrayRef], order: &[ArrayRef]) -> Result<Rows> {
        let columns: Vec<ArrayRef> =
            order.iter().chain(args).map(|c| if self.distinct { canonical(c) } else { c.clone() }).collect();
        self.converter.convert_columns(&columns).map_err(wrong)
    }

    /// Which rows count; `None`: all.
    pub fn counted(&self, args: &[ArrayRef]) -> Option<NullBuffer> {
        if self.skip_nulls { args.first().and_then(|a| a.logical_nulls()) } else { None }
    }

    /// The rows of a bag in order with their number of times.
    pub fn of_bag<'b>(&self, bag: &'b Bag) -> Vec<(&'b [u8], u64)> {
        let times = |n: i64| if self.distinct { n.clamp(0, 1) as u64 } else { u64::try_from(n).unwrap_or(0) };
        bag.iter().map(|(k, n)| (k.as_ref(), times(*n))).filter(|(_, n)| *n > 0).collect()
    }

    /// One result a group, out of its rows in order.
    pub fn finish(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<ArrayRef> {
        let made = match self.kind {
            Collect::ArrayAgg => self.arrays(groups)?,
            Collect::StringAgg => self.strings(groups)?,
            Collect::FirstValue => self.picked(groups, |rows, _, _| Ok(rows.first().map(|r| r.0)))?,
            Collect::LastValue => self.picked(groups, |rows, _, _| Ok(rows.last().map(|r| r.0)))?,
            Collect::NthValue => self.picked(groups, |rows, total, n| {
                let n = n.as_primitive_opt::<Int64Type>().filter(|a| a.is_valid(0)).map(|a| a.value(0));
                Ok(match n {
                    Some(n) if n > 0 => at(rows, n as u64 - 1),
                    Some(n) if n < 0 => total.checked_sub(n.unsigned_abs()).and_then(|i| at(rows, i)),
                    _ => None,
                })
            })?,
            Collect::PercentileDisc | Collect::PercentileCont => self.percentiles(groups)?,
            Collect::Median => self.medians(groups)?,
            Collect::JsonArray | Collect::JsonbArray => self.json_arrays(groups)?,
            Collect::JsonObject | Collect::JsonbObject => self.json_objects(groups)?,
            Collect::Mode => self.picked(groups, |rows, _, _| {
                let most = rows.iter().map(|r| r.1).max().unwrap_or(0);
                Ok(rows.iter().find(|r| r.1 == most).map(|r| r.0))
            })?,
        };
        if *made.data_type() == self.output { Ok(made) } else { cast(&made, &self.output).map_err(wrong) }
    }

    /// Argument columns of rows.
    fn decode<'b>(&self, rows: impl Iterator<Item = &'b [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.converter.parser();
        let mut columns = self.converter.convert_rows(rows.map(|r| parser.parse(r))).map_err(wrong)?;
        Ok(columns.split_off(self.orders))
    }

    fn arrays(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<ArrayRef> {
        let mut columns = self.decode(groups.iter().flatten().map(|r| r.0))?;
        let values = columns.swap_remove(0);
        let mut picks: Vec<u32> = Vec::with_capacity(values.len());
        for (i, (_, n)) in groups.iter().flatten().enumerate() {
            picks.extend(std::iter::repeat_n(i as u32, *n as usize));
        }
        let values = take(&values, &UInt32Array::from(picks), None).map_err(wrong)?;
        let lengths = groups.iter().map(|g| g.iter().map(|r| r.1 as usize).sum::<usize>());
        let nulls = NullBuffer::from_iter(groups.iter().map(|g| !g.is_empty()));
        let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let list = ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), values, Some(nulls));
        Ok(Arc::new(list.map_err(wrong)?))
    }

    fn strings(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<ArrayRef> {
        let columns = self.decode(groups.iter().flatten().map(|r| r.0))?;
        let text = |i: usize| -> Result<ArrayRef> {
            let column = columns.get(i).ok_or_else(|| SqlError::internal("string_agg takes two arguments"))?;
            cast(column, &DataType::Utf8).map_err(wrong)
        };
        let (values, delimiters) = (text(0)?, text(1)?);
        let (values, delimiters) = (values.as_string::<i32>(), delimiters.as_string::<i32>());
        let mut out = StringBuilder::new();
        let mut row = 0;
        for group in groups {
            let mut all: Option<String> = None;
            for (_, n) in group {
                for _ in 0..*n {
                    match &mut all {
                        None => all = Some(values.value(row).to_owned()),
                        Some(all) => {
                            if delimiters.is_valid(row) {
                                all.push_str(delimiters.value(row));
                            }
                            all.push_str(values.value(row));
                        }
                    }
                }
                row += 1;
            }
            out.append_option(all);
        }
        Ok(Arc::new(out.finish()))
    }

    /// The first argument of one row of each group. `choose` sees the rows, their number and the second argument.
    fn picked<'b>(
        &self,
        groups: &[Vec<(&'b [u8], u64)>],
        choose: impl Fn(&[(&'b [u8], u64)], u64, &ArrayRef) -> Result<Option<&'b [u8]>>,
    ) -> Result<ArrayRef> {
        let parameters = self.parameters(groups)?;
        let mut chosen: Vec<&[u8]> = Vec::with_capacity(groups.len());
        let mut picks: Vec<Option<u32>> = Vec::with_capacity(groups.len());
        for (group, parameter) in groups.iter().zip(&parameters) {
            let total = group.iter().map(|r| r.1).sum();
            picks.push(choose(group, total, parameter)?.map(|row| {
                chosen.push(row);
                chosen.len() as u32 - 1
            }));
        }
        if chosen.is_empty() {
            return Ok(new_null_array(&self.first, groups.len()));
        }
        let values = self.decode(chosen.into_iter())?.swap_remove(0);
        take(&values, &UInt32Array::from(picks), None).map_err(wrong)
    }

    /// The second argument of each group, which is the same in all its rows: an array of one value, or of none.
    fn parameters(&self, groups: &[Vec<(&[u8], u64)>]) -> Result<Vec<ArrayRef>> {
        let columns = self.decode(groups.iter().filter_map(|g| g.first()).map(|r| r.0))?;
        let none = new_null_array(&DataType::Null, 1);
        let mut row = 0;
        let one = |g: &Vec<(&[u8], u64)>| match columns.get(1) {
            Some(parameters) if !g.is_empty() => {
                row += 1;
                parameters.slice(row - 1, 1)
            }
            _ => none.clone(),
        };
        Ok(groups.iter().map(one).collect())
    }
}

/// The row at a position, counting repetitions.
fn at<'b>(rows: &[(&'b [u8], u64)], mut position: u64) -> Option<&'b [u8]> {
    for (row, n) in rows {
        if position < *n {
            return Some(*row);
        }
        position -= n;
    }
    None
}

/// Bytes of a bag: for each row its length, its number of times, the row.
pub fn bag_to_bytes<'b>(rows: impl Iterator<Item = (&'b [u8], i64)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (row, n) in rows {
        out.extend((row.len() as u32).to_le_bytes());
        out.extend(n.to_le_bytes());
        out.extend(row);
    }
    out
}

/// Rows out of [`bag_to_bytes`], in the order they were written.
pub fn bag_from_bytes(mut bytes: &[u8]) -> Result<Vec<(Box<[u8]>, i64)>> {
    let damaged = || SqlError::new(SqlState::DATA_CORRUPTED, "stored values of an aggregate are damaged");
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (n, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (row, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
        out.push((Box::from(row), i64::from_le_bytes(*n)));
        bytes = rest;
    }
    Ok(out)
}
