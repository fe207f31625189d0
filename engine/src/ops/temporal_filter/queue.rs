//! Rows in order of a moment, taken out from the front.
//!
//! Sorted runs of geometrically growing size: what comes is sorted into a run of its own, and runs of similar size are merged,
//! where rows and their retractions meet. Taking out moves a place in each run; a run that is half gone is copied, so that what
//! is gone is freed.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};

use crate::error::{Result, ResultExt as _};
use crate::zset::ZBatch;

/// See the module.
pub(super) struct TimeQueue {
    schema: SchemaRef,
    /// The column with the moment.
    by: usize,
    /// The longest first.
    runs: Vec<Run>,
}

struct Run {
    rows: ZBatch,
    /// Rows before it are taken out.
    at: usize,
    bytes: usize,
}

impl Run {
    fn new(rows: ZBatch) -> Self {
        let bytes = rows.bytes();
        Self { rows, at: 0, bytes }
    }

    fn len(&self) -> usize {
        self.rows.len() - self.at
    }

    fn rest(&self) -> ZBatch {
        self.rows.slice(self.at, self.len())
    }
}

fn times(rows: &ZBatch, by: usize) -> &[i64] {
    rows.rows.column(by).as_primitive::<Int64Type>().values()
}

impl TimeQueue {
    /// Rows of `schema` by its column `by`, of type `BIGINT` without NULL.
    pub fn new(schema: SchemaRef, by: usize) -> Self {
        Self { schema, by, runs: Vec::new() }
    }

    pub fn push(&mut self, rows: ZBatch) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut next = self.sorted(rows)?;
        // Runs halve in size from one to the next.
        while let Some(last) = self.runs.pop_if(|last| last.len() <= 2 * next.len()) {
            let both = ZBatch::concat(&self.schema, &[last.rest(), next]).e()?.consolidate().e()?;
            next = compact(self.sorted(both)?)?;
        }
        if !next.is_empty() {
            self.runs.push(Run::new(next));
        }
        Ok(())
    }

    fn sorted(&self, rows: ZBatch) -> Result<ZBatch> {
        if times(&rows, self.by).is_sorted() {
            return Ok(rows);
        }
        let order = compute::sort_to_indices(rows.rows.column(self.by), None, None).e()?;
        rows.take(&order).e()
    }

    /// Takes out all rows whose moment is not after `until`.
    pub fn take_until(&mut self, until: i64) -> Result<Vec<ZBatch>> {
        let mut out = Vec::new();
        for run in &mut self.runs {
            let due = times(&run.rows, self.by)[run.at..].partition_point(|t| *t <= until);
            if due == 0 {
                continue;
            }
            out.push(run.rows.slice(run.at, due));
            run.at += due;
            if run.len() > 0 && run.at > run.rows.len() / 2 {
                let rest: UInt32Array = (run.at as u32..run.rows.len() as u32).collect();
                *run = Run::new(compact(run.rows.take(&rest).e()?)?);
            }
        }
        self.runs.retain(|r| r.len() > 0);
        Ok(out)
    }

    /// The first moment.
    pub fn next(&self) -> Option<i64> {
        self.runs.iter().filter_map(|r| times(&r.rows, self.by).get(r.at).copied()).min()
    }

    /// All rows.
    pub fn content(&self) -> impl Iterator<Item = ZBatch> + '_ {
        self.runs.iter().map(Run::rest)
    }

    pub fn len(&self) -> usize {
        self.runs.iter().map(Run::len).sum()
    }

    pub fn bytes(&self) -> usize {
        self.runs.iter().map(|r| r.bytes).sum()
    }
}

/// Texts without the buffers of rows that are gone.
fn compact(rows: ZBatch) -> Result<ZBatch> {
    let one = |c: &ArrayRef| -> ArrayRef {
        match c.data_type() {
            DataType::Utf8View => std::sync::Arc::new(c.as_string_view().gc()),
            DataType::BinaryView => std::sync::Arc::new(c.as_binary_view().gc()),
            _ => c.clone(),
        }
    };
    let columns = rows.rows.columns().iter().map(one).collect();
    Ok(rows.with_rows(RecordBatch::try_new(rows.rows.schema(), columns).e()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Schema};

    use super::*;
    use crate::ops::aggregate::harness::Random;
    use crate::zset::Weights;

    #[test]
    fn rows_come_out_in_order_and_meet_their_retractions() {
        let schema = SchemaRef::new(Schema::new(vec![
            Field::new("x", DataType::Int64, true),
            Field::new("at", DataType::Int64, false),
        ]));
        let mut r = Random(7);
        let mut queue = TimeQueue::new(schema.clone(), 1);
        let mut model: std::collections::BTreeMap<(i64, i64), i64> = std::collections::BTreeMap::new();
        for now in 0..400i64 {
            let rows: Vec<(i64, i64, i64)> = (0..r.below(9))
                .map(|_| {
                    let (x, at) = (r.below(5) as i64, now + 1 + r.below(60) as i64);
                    let there = model.get(&(at, x)).is_some_and(|w| *w > 0);
                    (x, at, if there && r.below(2) == 0 { -1 } else { 1 })
                })
                .collect();
            for (x, at, w) in &rows {
                *model.entry((*at, *x)).or_default() += w;
            }
            let columns: Vec<ArrayRef> = vec![
                Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|r| Some(r.1)).collect::<Int64Array>()),
            ];
            let weights: Vec<i64> = rows.iter().map(|r| r.2).collect();
            let batch = RecordBatch::try_new(schema.clone(), columns).expect("batch");
            queue.push(ZBatch::new(batch, Weights::Dense(weights.into()))).expect("pushes");
            model.retain(|_, w| *w != 0);
            let mut got: std::collections::BTreeMap<(i64, i64), i64> = std::collections::BTreeMap::new();
            for b in queue.take_until(now).expect("takes") {
                for (i, at) in times(&b, 1).iter().enumerate() {
                    *got.entry((*at, times(&b, 0)[i])).or_default() += b.weight(i);
                }
            }
            got.retain(|_, w| *w != 0);
            let later = model.split_off(&(now + 1, i64::MIN));
            assert_eq!(got, std::mem::replace(&mut model, later), "at {now}");
            assert!(queue.runs.len() <= 12, "{} runs of {} rows", queue.runs.len(), queue.len());
            assert!(queue.next().is_none_or(|t| t > now));
        }
    }
}
