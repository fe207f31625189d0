//! Z-set deltas: rows with signed multiplicities (Budiu et al., "DBSP", VLDB 2023).
//!
//! The weight is out of band: nearly all sources only insert, so the hot path carries nothing ([`Weights::AllOne`]),
//! expressions never see it and `SELECT *` cannot trip over it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::hash::hash_rows;

/// Name of the weight column where a batch crosses into DataFusion or into storage.
pub const WEIGHT_COLUMN: &str = "__weight";

/// Multiplicities of the rows of a [`ZBatch`].
#[derive(Debug, Clone)]
pub enum Weights {
    /// Every row was inserted once.
    AllOne,
    /// One weight a row; zero is allowed until consolidation.
    Dense(ScalarBuffer<i64>),
}

/// A batch of changes.
#[derive(Debug, Clone)]
pub struct ZBatch {
    /// The rows.
    pub rows: RecordBatch,
    /// Their multiplicities.
    pub weights: Weights,
}

impl Weights {
    /// The weight of row `i`.
    #[inline]
    pub fn get(&self, i: usize) -> i64 {
        match self {
            Self::AllOne => 1,
            Self::Dense(w) => w[i],
        }
    }
}

impl ZBatch {
    /// Rows with their weights.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn new(rows: RecordBatch, weights: Weights) -> Self {
        if let Weights::Dense(w) = &weights {
            assert_eq!(w.len(), rows.num_rows(), "one weight a row");
        }
        Self { rows, weights }
    }
    /// Every row inserted once.
    pub fn inserts(rows: RecordBatch) -> Self {
        Self { rows, weights: Weights::AllOne }
    }
    /// Every row with weight -1.
    pub fn retractions(rows: RecordBatch) -> Self {
        let n = rows.num_rows();
        Self { rows, weights: Weights::Dense(vec![-1; n].into()) }
    }
    /// No rows.
    pub fn empty(schema: SchemaRef) -> Self {
        Self::inserts(RecordBatch::new_empty(schema))
    }
    /// Number of rows (not the sum of weights).
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }
    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The weight of row `i`.
    #[inline]
    pub fn weight(&self, i: usize) -> i64 {
        self.weights.get(i)
    }
    /// Columns.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
    /// True if no weight is negative.
    pub fn append_only(&self) -> bool {
        match &self.weights {
            Weights::AllOne => true,
            Weights::Dense(w) => w.iter().all(|w| *w >= 0),
        }
    }
    /// The same rows with opposite weights.
    pub fn negate(&self) -> Self {
        let w: Vec<i64> = (0..self.len()).map(|i| -self.weight(i)).collect();
        Self { rows: self.rows.clone(), weights: Weights::Dense(w.into()) }
    }
    /// Same weights, other rows.
    pub fn with_rows(&self, rows: RecordBatch) -> Self {
        Self::new(rows, self.weights.clone())
    }
    /// A view of `length` rows from `offset`.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        let weights = match &self.weights {
            Weights::AllOne => Weights::AllOne,
            Weights::Dense(w) => Weights::Dense(w.slice(offset, length)),
        };
        Self { rows: self.rows.slice(offset, length), weights }
    }
    /// Rows where the mask is true (NULL counts as false).
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self, ArrowError> {
        let rows = compute::filter_record_batch(&self.rows, mask)?;
        let weights = match &self.weights {
            Weights::AllOne => Weights::AllOne,
            Weights::Dense(w) => Weights::Dense(
                (0..w.len()).filter(|i| mask.is_valid(*i) && mask.value(*i)).map(|i| w[i]).collect::<Vec<_>>().into(),
            ),
        };
        Ok(Self::new(rows, weights))
    }
    /// Rows at these positions.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self, ArrowError> {
        let rows = compute::take_record_batch(&self.rows, indices)?;
        let weights = match &self.weights {
            Weights::AllOne => Weights::AllOne,
            Weights::Dense(w) => {
                Weights::Dense(indices.values().iter().map(|i| w[*i as usize]).collect::<Vec<_>>().into())
            }
        };
        Ok(Self::new(rows, weights))
    }
    /// The columns at these positions.
    pub fn project(&self, columns: &[usize]) -> Result<Self, ArrowError> {
        Ok(Self::new(self.rows.project(columns)?, self.weights.clone()))
    }
    /// One batch of all rows.
    pub fn concat(schema: &SchemaRef, batches: &[ZBatch]) -> Result<Self, ArrowError> {
        if batches.len() == 1 {
            return Ok(batches[0].clone());
        }
        let rows = compute::concat_batches(schema, batches.iter().map(|b| &b.rows))?;
        let weights = if batches.iter().all(|b| matches!(b.weights, Weights::AllOne)) {
            Weights::AllOne
        } else {
            let mut w = Vec::with_capacity(rows.num_rows());
            for b in batches {
                w.extend((0..b.len()).map(|i| b.weight(i)));
            }
            Weights::Dense(w.into())
        };
        Ok(Self::new(rows, weights))
    }
    /// Equal rows become one row with the sum of the weights; rows whose weights cancel vanish. Rows are equal if
    /// they are *bitwise* equal (-0.0 and +0.0 differ, NULLs are equal). Order of first appearance is kept.
    ///
    /// A batch that only inserts is returned unchanged: duplicates in it are legal and harmless.
    pub fn consolidate(self) -> Result<Self, ArrowError> {
        if self.append_only() && !matches!(&self.weights, Weights::Dense(w) if w.contains(&0)) {
            return Ok(self);
        }
        self.merge_equal()
    }
    /// [`Self::consolidate`], also of a batch that only inserts.
    pub fn merge_equal(self) -> Result<Self, ArrowError> {
        let n = self.len();
        if n == 0 {
            return Ok(self);
        }
        let eq = RowEq::new(&self.rows)?;
        let hashes = hash_rows(self.rows.columns(), n);
        let mut table: hashbrown::HashTable<u32> = hashbrown::HashTable::with_capacity(n);
        let mut sums: Vec<i64> = Vec::with_capacity(n);
        for i in 0..n {
            let w = self.weight(i);
            let h = hashes[i];
            sums.push(0);
            let first =
                match table.entry(h, |j| hashes[*j as usize] == h && eq.eq(*j as usize, i), |j| hashes[*j as usize]) {
                    hashbrown::hash_table::Entry::Occupied(e) => *e.get(),
                    hashbrown::hash_table::Entry::Vacant(e) => {
                        e.insert(i as u32);
                        i as u32
                    }
                };
            sums[first as usize] += w;
        }
        let keep: Vec<u32> = (0..n as u32).filter(|i| sums[*i as usize] != 0).collect();
        let weights: Vec<i64> = keep.iter().map(|i| sums[*i as usize]).collect();
        let rows = compute::take_record_batch(&self.rows, &UInt32Array::from(keep))?;
        let weights = if weights.iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(weights.into()) };
        Ok(Self::new(rows, weights))
    }
    /// Rows repeated by their weight; the boundary to readers. A negative weight is an error of the caller's data.
    pub fn expand(&self) -> Result<RecordBatch, ArrowError> {
        let Weights::Dense(w) = &self.weights else { return Ok(self.rows.clone()) };
        let mut idx: Vec<u32> = Vec::with_capacity(w.len());
        for (i, w) in w.iter().enumerate() {
            if *w < 0 {
                return Err(ArrowError::ComputeError(format!("row with negative multiplicity {w}")));
            }
            idx.extend(std::iter::repeat_n(i as u32, *w as usize));
        }
        compute::take_record_batch(&self.rows, &UInt32Array::from(idx))
    }
    /// The rows with the weight as a last column [`WEIGHT_COLUMN`].
    pub fn to_weighted(&self) -> Result<RecordBatch, ArrowError> {
        let w: Int64Array = match &self.weights {
            Weights::AllOne => vec![1i64; self.len()].into(),
            Weights::Dense(w) => Int64Array::new(w.clone(), None),
        };
        let mut columns: Vec<ArrayRef> = self.rows.columns().to_vec();
        columns.push(Arc::new(w));
        RecordBatch::try_new(weighted_schema(&self.rows.schema()), columns)
    }
    /// Inverse of [`Self::to_weighted`].
    pub fn from_weighted(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let n = batch.num_columns();
        let w = n
            .checked_sub(1)
            .and_then(|i| batch.column(i).as_any().downcast_ref::<Int64Array>())
            .ok_or_else(|| ArrowError::SchemaError("last column must be the Int64 weight".into()))?;
        let columns: Vec<usize> = (0..n - 1).collect();
        let weights =
            if w.values().iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(w.values().clone()) };
        Ok(Self::new(batch.project(&columns)?, weights))
    }
    /// Bytes of the row buffers that belong to this batch (slices count only their part).
    pub fn bytes(&self) -> usize {
        self.rows.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum::<usize>()
            + if matches!(self.weights, Weights::Dense(_)) { 8 * self.len() } else { 0 }
    }
}

/// `schema` with the weight column at its end.
pub fn weighted_schema(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// Bitwise equality of rows of one batch.
struct RowEq {
    comparators: Vec<arrow::array::DynComparator>,
}

impl RowEq {
    fn new(rows: &RecordBatch) -> Result<Self, ArrowError> {
        let options = arrow::compute::SortOptions::default();
        let comparators = rows
            .columns()
            .iter()
            .map(|c| arrow::array::make_comparator(c.as_ref(), c.as_ref(), options))
            .collect::<Result<_, _>>()?;
        Ok(Self { comparators })
    }
    fn eq(&self, a: usize, b: usize) -> bool {
        self.comparators.iter().all(|c| c(a, b).is_eq())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;

    fn batch(values: &[f64], weights: &[i64]) -> ZBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Float64, true)]));
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(values.to_vec()))]).expect("batch");
        ZBatch::new(rows, Weights::Dense(weights.to_vec().into()))
    }

    #[test]
    fn consolidation_sums_equal_rows_and_drops_zero() {
        let z = batch(&[1.0, 2.0, 1.0, 3.0, 2.0], &[1, 1, 1, -1, -1]).consolidate().expect("consolidates");
        assert_eq!(z.len(), 2);
        assert_eq!((z.weight(0), z.weight(1)), (2, -1));
    }

    #[test]
    fn zeros_of_either_sign_are_different_rows() {
        let z = batch(&[0.0, -0.0], &[1, -1]).consolidate().expect("consolidates");
        assert_eq!(z.len(), 2);
    }

    #[test]
    fn weighted_round_trip() {
        let z = batch(&[1.0, 2.0], &[3, -2]);
        let back = ZBatch::from_weighted(&z.to_weighted().expect("to")).expect("from");
        assert_eq!((back.weight(0), back.weight(1)), (3, -2));
        assert!(z.expand().is_err());
    }
}
