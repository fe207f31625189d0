//! Evaluation with isolation of errors: one bad row costs that row, not its batch.
//!
//! DataFusion evaluates a batch as a whole and fails as a whole. So a batch that fails is bisected until the offending
//! rows are found; they go to the error set of the view with their weight (errors are data: retracting the row retracts
//! the error), and the others are evaluated without them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;

use super::ErrorSet;
use crate::error::{Error, IntoError as _, Result, ResultExt as _};
use crate::zset::ZBatch;

/// Rows are shown in error entries up to this many bytes.
const ROW_TEXT_BYTES: usize = 1024;

/// Evaluates `f` over the rows; rows that fail by themselves go to `errors` and are not in the batch returned, which
/// the result is of. `f` must treat every row independently of the others.
///
/// An error that is not of a row (a defect, no memory, cancellation) is returned.
pub(crate) fn isolate<T>(
    batch: ZBatch,
    errors: &mut ErrorSet,
    f: &mut dyn FnMut(&ZBatch) -> Result<T>,
) -> Result<(ZBatch, T)> {
    let error = match f(&batch) {
        Ok(value) => return Ok((batch, value)),
        Err(e) => e,
    };
    let mut bad: Vec<(usize, Error)> = Vec::new();
    bisect(batch.len(), error, &mut bad, &mut |offset, length| f(&batch.slice(offset, length)).map(drop))?;
    let text = RowText::new(&batch.rows)?;
    for (row, e) in &bad {
        errors.add(e.code.0, &e.message, &text.row(*row), batch.weight(*row));
    }
    let mut next = bad.iter().map(|(row, _)| *row as u32).peekable();
    let good: UInt32Array = (0..batch.len() as u32).filter(|i| next.next_if_eq(i).is_none()).collect();
    let good = batch.take(&good).e()?;
    let value = f(&good)?;
    Ok((good, value))
}

/// Finds the items of `0..count` that fail by themselves. `error` is the error of all together; `try_range(offset,
/// length)` tries a part of them.
pub(crate) fn bisect(
    count: usize,
    error: Error,
    bad: &mut Vec<(usize, Error)>,
    try_range: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<()> {
    // Halves still to be looked at, the leftmost on top; `Some`: known to fail, with this error.
    let mut pending = vec![(0, count, Some(error))];
    while let Some((offset, length, known)) = pending.pop() {
        let error = match known {
            Some(e) => e,
            None => match try_range(offset, length) {
                Ok(()) => continue,
                Err(e) => e,
            },
        };
        if !is_of_data(&error) || length == 0 {
            return Err(error);
        }
        if length == 1 {
            bad.push((offset, error));
            continue;
        }
        let half = length / 2;
        pending.push((offset + half, length - half, None));
        pending.push((offset, half, None));
    }
    Ok(())
}

/// True if other data would not have this error.
pub(crate) fn is_of_data(e: &Error) -> bool {
    matches!(&e.code.0[..2], "21" | "22" | "23")
}

/// The error of evaluating an expression or plan over data. What DataFusion reports without a class of its own while a
/// plan *runs* is about the data; defects have classes of their own.
pub(crate) fn evaluation_error(e: DataFusionError) -> Error {
    e.into_error()
}

/// Rows as text, for error entries: `(1, abc, NULL)`.
pub(crate) struct RowText<'a> {
    columns: Vec<ArrayFormatter<'a>>,
}

impl<'a> RowText<'a> {
    pub(crate) fn new(rows: &'a RecordBatch) -> Result<Self> {
        Self::of_columns(rows.columns())
    }

    pub(crate) fn of_columns(columns: &'a [ArrayRef]) -> Result<Self> {
        const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_null("NULL").with_display_error(true);
        let columns = columns.iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &OPTIONS)).collect::<Result<_, _>>();
        Ok(Self { columns: columns.e()? })
    }

    pub(crate) fn row(&self, i: usize) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("(");
        for (n, c) in self.columns.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            // Writing to a String cannot fail; values that cannot be shown are shown as their error.
            let _ = write!(text, "{separator}{}", c.value(i));
            if text.len() > ROW_TEXT_BYTES {
                break;
            }
        }
        text.push(')');
        if text.len() > ROW_TEXT_BYTES {
            let mut end = ROW_TEXT_BYTES - "...".len();
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str("...");
        }
        text
    }
}

/// Gives batches the columns an operator has promised.
#[derive(Debug, Clone)]
pub(crate) struct OutputSchema {
    exact: SchemaRef,
    /// The same with every column nullable.
    permissive: SchemaRef,
}

impl OutputSchema {
    pub(crate) fn new(exact: SchemaRef) -> Self {
        let fields: Vec<_> = exact.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let permissive = Arc::new(Schema::new_with_metadata(fields, exact.metadata().clone()));
        Self { exact, permissive }
    }

    /// The same columns, all of them nullable.
    pub(crate) fn permissive(&self) -> Self {
        Self { exact: Arc::clone(&self.permissive), permissive: Arc::clone(&self.permissive) }
    }

    pub(crate) fn exact(&self) -> &SchemaRef {
        &self.exact
    }

    /// A batch of these columns; those whose type is another representation (Utf8 or Utf8View, say) are cast. A NULL
    /// where the plan promised none makes the batch's columns nullable instead of losing the row.
    pub(crate) fn batch(&self, mut columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        if columns.len() != self.exact.fields().len() {
            return Err(Error::internal(format!(
                "{} columns computed where {} were promised",
                columns.len(),
                self.exact.fields().len()
            )));
        }
        let mut nulls = false;
        for (c, f) in columns.iter_mut().zip(self.exact.fields()) {
            if c.data_type() != f.data_type() {
                *c = cast_exactly(c, f.data_type())?;
            }
            nulls |= !f.is_nullable() && c.logical_null_count() > 0;
        }
        let schema = if nulls { &self.permissive } else { &self.exact };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).e()
    }
}

/// The same rows with these columns: see [`OutputSchema::batch`]. Without work if they have them already.
pub(crate) fn conform(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if rows.schema_ref() == schema {
        return Ok(rows.clone());
    }
    OutputSchema::new(Arc::clone(schema)).batch(rows.columns().to_vec(), rows.num_rows())
}

/// Casts; a value that does not fit is an error, not NULL.
fn cast_exactly(array: &ArrayRef, to: &arrow::datatypes::DataType) -> Result<ArrayRef> {
    let options = compute::CastOptions { safe: false, ..Default::default() };
    compute::cast_with_options(array, to, &options).e()
}

/// Sends a batch downstream in pieces of about `chunk_rows`.
pub(crate) fn emit_chunked(batch: ZBatch, chunk_rows: usize, out: &mut dyn super::Emit) -> Result<()> {
    let chunk = chunk_rows.max(1);
    if batch.is_empty() {
        return Ok(());
    }
    if batch.len() <= chunk + chunk / 2 {
        return out.emit(batch);
    }
    for offset in (0..batch.len()).step_by(chunk) {
        out.emit(batch.slice(offset, chunk.min(batch.len() - offset)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SqlState;
    use crate::zset::Weights;
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    fn rows(values: &[i64]) -> RecordBatch {
        RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).unwrap()
    }

    /// Fails as a whole if there is a negative number.
    fn refuse_negative(calls: &mut usize, b: &ZBatch) -> Result<i64> {
        *calls += 1;
        let v = b.rows.column(0).as_primitive::<Int64Type>();
        match v.values().iter().find(|v| **v < 0) {
            Some(v) => Err(Error::new(SqlState::DATA_EXCEPTION, format!("{v} is negative"))),
            None => Ok(v.values().iter().sum()),
        }
    }

    #[test]
    fn exactly_the_bad_rows_are_isolated_with_their_weights() {
        let mut values: Vec<i64> = (0..1000).collect();
        values[17] = -1;
        values[900] = -2;
        let mut weights = vec![1i64; 1000];
        weights[900] = -3;
        let (mut errors, mut calls) = (ErrorSet::default(), 0);
        let z = ZBatch::new(rows(&values), Weights::Dense(weights.into()));
        let (good, sum) = isolate(z, &mut errors, &mut |b| refuse_negative(&mut calls, b)).unwrap();
        assert_eq!(good.len(), 998);
        assert_eq!(sum, (0..1000).sum::<i64>() - 17 - 900);
        assert!(calls < 50, "bisected, not tried one by one: {calls}");
        let entries: Vec<_> =
            errors.entries.iter().map(|((c, m, r), w)| (c.as_str(), m.as_str(), r.as_str(), *w)).collect();
        assert_eq!(entries, [("22000", "-1 is negative", "(-1)", 1), ("22000", "-2 is negative", "(-2)", -3)]);
    }

    #[test]
    fn a_batch_of_bad_rows_only_leaves_an_empty_batch() {
        let mut errors = ErrorSet::default();
        let mut calls = 0;
        let z = ZBatch::inserts(rows(&[-1, -1]));
        let (good, sum) = isolate(z, &mut errors, &mut |b| refuse_negative(&mut calls, b)).unwrap();
        assert_eq!((good.len(), sum), (0, 0));
        assert_eq!(errors.entries.values().copied().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_defect_is_not_taken_for_a_bad_row() {
        let mut errors = ErrorSet::default();
        let z = ZBatch::inserts(rows(&[1, 2]));
        let e = isolate::<()>(z, &mut errors, &mut |_| Err(Error::internal("broken"))).unwrap_err();
        assert_eq!(e.code, SqlState::INTERNAL_ERROR);
        assert!(errors.is_empty());
    }

    #[test]
    fn row_text_is_cut_at_a_character() {
        let long: ArrayRef = Arc::new(StringArray::from(vec![Some("ä".repeat(2000)), None]));
        let columns = [long];
        let text = RowText::of_columns(&columns).unwrap();
        let row = text.row(0);
        assert!(row.len() <= 1024 && row.ends_with("ä..."), "{}", row.len());
        assert_eq!(text.row(1), "(NULL)");
    }

    #[test]
    fn representation_is_cast_and_unexpected_nulls_are_let_through() {
        use arrow::datatypes::{DataType, Field};
        let schema = Arc::new(Schema::new(vec![Field::new("s", DataType::Utf8View, false)]));
        let output = OutputSchema::new(Arc::clone(&schema));
        let exact = output.batch(vec![Arc::new(StringArray::from(vec!["a"]))], 1).unwrap();
        assert_eq!(exact.schema(), schema);
        let other = RecordBatch::try_from_iter([("t", Arc::new(StringArray::from(vec!["a"])) as ArrayRef)]).unwrap();
        assert_eq!(conform(&other, &schema).unwrap(), exact);
        let with_null = output.batch(vec![Arc::new(StringArray::from(vec![Some("a"), None]))], 2).unwrap();
        assert!(with_null.schema().field(0).is_nullable());
        assert_eq!(with_null.column(0).as_string_view().value(0), "a");
    }
}

/// What tests of operators share.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use arrow::array::RecordBatch;
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

    use millstream_sql::plan::time::Bounds;

    use crate::ops::{DeltaOp, ErrorSet, OpTime, TickCx};
    use crate::time::{Epoch, Timestamp};
    use crate::zset::ZBatch;

    /// Calls operators, one tick after the other, and keeps their errors.
    #[derive(Default)]
    pub(crate) struct TestCx {
        pub(crate) errors: ErrorSet,
        epoch: Epoch,
        time: OpTime,
    }

    impl TestCx {
        /// From the next flush on these rows of each input may be forgotten.
        pub(crate) fn forget(&mut self, forget: Vec<Bounds>) {
            self.time.forget = forget;
        }
        fn cx(&mut self) -> TickCx<'_> {
            TickCx {
                from: self.epoch,
                to: self.epoch.next(),
                clock: Timestamp::default(),
                errors: &mut self.errors,
                chunk_rows: 1000,
                time: &self.time,
            }
        }
        pub(crate) fn push(&mut self, op: &mut dyn DeltaOp, port: usize, batch: ZBatch) -> Vec<ZBatch> {
            let mut out = Vec::new();
            op.push(port, batch, &mut self.cx(), &mut out).unwrap();
            out
        }
        pub(crate) fn flush(&mut self, op: &mut dyn DeltaOp) -> Vec<ZBatch> {
            let mut out = Vec::new();
            op.flush(&mut self.cx(), &mut out).unwrap();
            self.epoch = self.epoch.next();
            out
        }
    }

    pub(crate) fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        Arc::new(Schema::new(fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
    }

    /// Rows as `1|NULL * 2`, with the weight.
    pub(crate) fn column_values(batches: &[ZBatch]) -> Vec<String> {
        batches
            .iter()
            .flat_map(|b| {
                let rows = row_texts(&b.rows);
                rows.into_iter().enumerate().map(|(i, r)| format!("{r} * {}", b.weight(i))).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Rows as `1|NULL`.
    pub(crate) fn row_texts(rows: &RecordBatch) -> Vec<String> {
        let text = super::RowText::new(rows).unwrap();
        (0..rows.num_rows())
            .map(|i| text.columns.iter().map(|c| c.value(i).to_string()).collect::<Vec<_>>().join("|"))
            .collect()
    }
}
