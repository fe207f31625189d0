//! What the engine's tests share.

use arrow::array::{Array as _, ArrayRef, RecordBatch};
use arrow::util::display::array_value_to_string;

/// Rows as `a|b` lines, sorted.
pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut out = Vec::new();
    for b in batches {
        for i in 0..b.num_rows() {
            let cell = |c: &ArrayRef| match c.is_null(i) {
                true => "NULL".to_owned(),
                false => array_value_to_string(c, i).expect("printable"),
            };
            out.push(b.columns().iter().map(cell).collect::<Vec<String>>().join("|"));
        }
    }
    out.sort();
    out
}
