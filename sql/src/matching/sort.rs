//! The order of rows: partitions, then ORDER BY, then the whole row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{self, SortOptions};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;

use super::{Piece, Shape};

/// The type without encodings that do not sort.
pub(super) fn plain_type(t: &DataType) -> DataType {
    match t {
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::RunEndEncoded(_, value) => plain_type(value.data_type()),
        other => other.clone(),
    }
}

/// Partition columns as they are compared: equal values have equal bytes.
fn partition_columns(columns: &[ArrayRef]) -> Vec<ArrayRef> {
    columns
        .iter()
        .map(|c| -> ArrayRef {
            match c.data_type() {
                DataType::Float32 => Arc::new(
                    c.as_primitive::<Float32Type>()
                        .unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }),
                ),
                DataType::Float64 => Arc::new(
                    c.as_primitive::<Float64Type>()
                        .unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }),
                ),
                _ => Arc::clone(c),
            }
        })
        .collect()
}

fn plain(c: &ArrayRef) -> Result<ArrayRef> {
    let t = plain_type(c.data_type());
    Ok(if &t == c.data_type() { Arc::clone(c) } else { compute::cast(c, &t)? })
}

/// The rows in order, and one piece for each partition.
pub(super) fn partitions(shape: &Shape, rows: &RecordBatch) -> Result<(RecordBatch, Vec<Piece>)> {
    let n = rows.num_rows();
    let column = |c: usize| plain(rows.column(c));
    let keys = shape.partition.iter().map(|c| column(*c)).collect::<Result<Vec<_>>>()?;
    let keys = partition_columns(&keys);
    let mut fields: Vec<SortField> = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let mut columns = keys.clone();
    for o in &shape.order {
        let c = column(o.column)?;
        let options = SortOptions { descending: o.descending, nulls_first: o.nulls_first };
        fields.push(SortField::new_with_options(c.data_type().clone(), options));
        columns.push(c);
    }
    for c in 0..shape.width {
        let c = column(c)?;
        fields.push(SortField::new(c.data_type().clone()));
        columns.push(c);
    }
    if fields.is_empty() || n == 0 {
        return Ok((rows.clone(), if n == 0 { Vec::new() } else { vec![Piece::whole(0, n)] }));
    }
    let whole = RowConverter::new(fields)?.convert_columns(&columns)?;
    let mut order: Vec<u32> = (0..super::position(n)?).collect();
    order.sort_unstable_by(|a, b| whole.row(*a as usize).cmp(&whole.row(*b as usize)));
    let take = UInt32Array::from(order);
    let sorted = compute::take_record_batch(rows, &take)?;
    let mut pieces = Vec::new();
    let mut from = 0;
    if keys.is_empty() {
        pieces.push(Piece::whole(from, n));
        return Ok((sorted, pieces));
    }
    let key_fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let keys = RowConverter::new(key_fields)?.convert_columns(&keys)?;
    let order = take.values();
    for to in 1..=n {
        if to == n || keys.row(order[to] as usize) != keys.row(order[from] as usize) {
            pieces.push(Piece::whole(from, to));
            from = to;
        }
    }
    Ok((sorted, pieces))
}
