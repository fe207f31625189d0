//! Changes of a subscription as rows: `ms_epoch`, `ms_diff`, then the row; with PROGRESS a leading `ms_progressed`
//! and, after each epoch, one row of NULLs that says so.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream::api::Delta;
use millstream::error::{Error, IntoError as _, Result};

/// The columns of a subscription to a relation with these columns.
pub fn schema(row: &SchemaRef, progress: bool) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = Vec::with_capacity(row.fields().len() + 3);
    if progress {
        fields.push(Arc::new(Field::new("ms_progressed", DataType::Boolean, false)));
    }
    fields.push(Arc::new(Field::new("ms_epoch", DataType::Int64, false)));
    fields.push(Arc::new(Field::new("ms_diff", DataType::Int64, progress)));
    fields.extend(row.fields().iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(f.is_nullable() || progress))));
    Arc::new(Schema::new(fields))
}

/// A delta as rows of [`schema`]. `None` if there is nothing to say.
pub fn rows(schema: &SchemaRef, progress: bool, delta: &Delta) -> Result<Option<RecordBatch>> {
    let epoch = i64::try_from(delta.epoch.0).map_err(|_| Error::internal("an epoch does not fit in a bigint"))?;
    let n = delta.batch.len();
    if n == 0 && !progress {
        return Ok(None);
    }
    let total = n + usize::from(progress);
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    if progress {
        columns.push(Arc::new(BooleanArray::from((0..total).map(|i| i == n).collect::<Vec<_>>())));
    }
    columns.push(Arc::new(Int64Array::from(vec![epoch; total])));
    let weights = (0..n).map(|i| Some(delta.batch.weight(i))).chain((n..total).map(|_| None));
    columns.push(Arc::new(weights.collect::<Int64Array>()));
    for c in delta.batch.rows.columns() {
        columns.push(if progress {
            let null = new_null_array(c.data_type(), 1);
            concat(&[c.as_ref(), null.as_ref()]).map_err(|e| e.into_error())?
        } else {
            Arc::clone(c)
        });
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map(Some).map_err(|e| e.into_error())
}

/// The columns of a described SUBSCRIBE: planners that already answer with the full list are left alone.
pub fn described(prepared: &SchemaRef, progress: bool) -> SchemaRef {
    match prepared.fields().first().map(|f| f.name().as_str()) {
        Some("ms_epoch" | "ms_progressed") => Arc::clone(prepared),
        _ => schema(prepared, progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;
    use millstream::time::Epoch;
    use millstream::zset::{Weights, ZBatch};

    fn delta() -> (SchemaRef, Delta) {
        let row = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false)]));
        let batch =
            RecordBatch::try_new(Arc::clone(&row), vec![Arc::new(StringArray::from(vec!["a", "b"]))]).expect("batch");
        let batch = ZBatch::new(batch, Weights::Dense(vec![2, -1].into()));
        (row, Delta { epoch: Epoch(7), batch, snapshot: false })
    }

    fn shown(b: &RecordBatch) -> String {
        arrow::util::pretty::pretty_format_batches(std::slice::from_ref(b)).expect("pretty").to_string()
    }

    #[test]
    fn a_delta_is_epoch_diff_and_row() {
        let (row, delta) = delta();
        let b = rows(&schema(&row, false), false, &delta).expect("rows").expect("some");
        assert_eq!(
            shown(&b),
            "+----------+---------+---+\n\
             | ms_epoch | ms_diff | k |\n\
             +----------+---------+---+\n\
             | 7        | 2       | a |\n\
             | 7        | -1      | b |\n\
             +----------+---------+---+"
        );
    }

    #[test]
    fn progress_adds_a_row_of_nulls() {
        let (row, mut delta) = delta();
        let s = schema(&row, true);
        let b = rows(&s, true, &delta).expect("rows").expect("some");
        assert_eq!(b.num_rows(), 3);
        assert!(shown(&b).contains("| true          | 7        |         |   |"), "{}", shown(&b));
        delta.batch = ZBatch::empty(row.clone());
        assert_eq!(rows(&s, true, &delta).expect("rows").expect("some").num_rows(), 1);
        assert!(rows(&schema(&row, false), false, &delta).expect("rows").is_none());
    }
}
