//! Columns of encoded rows.

use arrow::array::{Array, ArrayRef, make_array};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::row::{Row, RowConverter};

use crate::error::{Result, ResultExt as _};

/// Decodes rows to columns whose NULL slots hold zeros.
///
/// The format's own decoder leaves the least value there. No reader may look at it, but some functions compute the whole
/// values buffer before they apply the mask, and the least value overflows (`date_trunc` does so).
pub trait DecodeRows {
    /// The columns of the rows. Errors: rows that another converter made.
    fn decode_rows<'a>(&self, rows: impl IntoIterator<Item = Row<'a>>) -> Result<Vec<ArrayRef>>;
}

impl DecodeRows for RowConverter {
    fn decode_rows<'a>(&self, rows: impl IntoIterator<Item = Row<'a>>) -> Result<Vec<ArrayRef>> {
        self.convert_rows(rows).e()?.into_iter().map(with_zeros).collect()
    }
}

fn with_zeros(column: ArrayRef) -> Result<ArrayRef> {
    let width = column.data_type().primitive_width();
    let (Some(width), Some(nulls)) = (width, column.nulls().filter(|n| n.null_count() > 0)) else { return Ok(column) };
    let data = column.to_data();
    let from = data.offset() * width;
    let mut values = MutableBuffer::new(column.len() * width);
    values.extend_from_slice(&data.buffers()[0].as_slice()[from..from + column.len() * width]);
    for row in (0..column.len()).filter(|row| nulls.is_null(*row)) {
        values.as_slice_mut()[row * width..(row + 1) * width].fill(0);
    }
    let buffers = vec![Buffer::from(values)];
    Ok(make_array(data.into_builder().offset(0).nulls(Some(nulls.clone())).buffers(buffers).build().e()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray as _, Decimal128Array, TimestampMicrosecondArray};
    use arrow::datatypes::{Decimal128Type, TimestampMicrosecondType};
    use arrow::row::SortField;

    use super::*;

    #[test]
    fn null_slots_of_decoded_columns_hold_zeros() {
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(7), None, Some(-1)]));
        let sums: ArrayRef = Arc::new(Decimal128Array::from(vec![None, Some(5), None]));
        let fields = [&times, &sums].map(|c| SortField::new(c.data_type().clone())).to_vec();
        let converter = RowConverter::new(fields).unwrap();
        let rows = converter.convert_columns(&[Arc::clone(&times), Arc::clone(&sums)]).unwrap();
        let columns = converter.decode_rows(&rows).unwrap();
        assert_eq!(columns, [times, sums]);
        assert_eq!(&columns[0].as_primitive::<TimestampMicrosecondType>().values()[..], [7, 0, -1]);
        assert_eq!(&columns[1].as_primitive::<Decimal128Type>().values()[..], [0, 5, 0]);
    }
}
