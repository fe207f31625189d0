//! Results as multisets of rows that can be compared and printed.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Rows and how often each occurs.
pub type Bag = BTreeMap<String, i64>;

/// The rows of batches.
pub fn bag<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Bag {
    let mut bag = Bag::new();
    for batch in batches {
        for row in texts(batch) {
            *bag.entry(row).or_default() += 1;
        }
    }
    bag
}

/// Each row as text. Numbers that differ in a bit differ in text, except that every NaN is the same.
pub fn texts(batch: &RecordBatch) -> Vec<String> {
    let mut rows = vec![String::new(); batch.num_rows()];
    for column in batch.columns() {
        for (row, cell) in rows.iter_mut().zip(cells(column.as_ref())) {
            if !row.is_empty() {
                row.push_str(" | ");
            }
            row.push_str(&cell);
        }
    }
    rows
}

fn cells(column: &dyn Array) -> Vec<String> {
    let double = |v: Option<f64>| v.map_or("NULL".into(), |v| if v.is_nan() { "NaN".into() } else { format!("{v:?}") });
    match column.data_type() {
        DataType::Float64 => column.as_primitive::<Float64Type>().iter().map(double).collect(),
        DataType::Float32 => column.as_primitive::<Float32Type>().iter().map(|v| double(v.map(f64::from))).collect(),
        _ => {
            let options = FormatOptions::default().with_null("NULL");
            let formatter = ArrayFormatter::try_new(column, &options).expect("every type can be shown");
            let quoted = matches!(column.data_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
            (0..column.len())
                .map(|i| {
                    let text = formatter.value(i).to_string();
                    if quoted && !column.is_null(i) { format!("{text:?}") } else { text }
                })
                .collect()
        }
    }
}

/// What `have` has and lacks against `want`; `None`: they are equal.
pub fn difference(have: &Bag, want: &Bag) -> Option<String> {
    let mut lines = Vec::new();
    for key in have.keys().chain(want.keys().filter(|k| !have.contains_key(*k))) {
        let (h, w) = (have.get(key).copied().unwrap_or(0), want.get(key).copied().unwrap_or(0));
        if h != w {
            lines.push(format!("  {} x {h} in the view, {w} in the query", key));
        }
    }
    if lines.is_empty() {
        return None;
    }
    let more = lines.len().saturating_sub(20);
    lines.truncate(20);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    Some(lines.join("\n"))
}
