//! Blocks of rows: immutable columns with the hashes of their keys and their weights, sharing no buffers with the
//! batches they came from.

use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, UInt32Array, make_array};
use arrow::compute;
use arrow::datatypes::{DataType, SchemaRef};
use millstream_sql::plan::time::micros_array;

use crate::error::{Error, Result, ResultExt as _};
use crate::hash::hash_rows;
use crate::ops::eval::OutputSchema;
use crate::zset::{Weights, ZBatch};

/// A time column and a bound: rows whose time is before it, in microseconds, are not needed any more.
pub(super) type Floor = (usize, i64);

/// What an arrangement holds and how it is indexed; shared with all its snapshots.
#[derive(Debug)]
pub(super) struct Spec {
    /// Columns of the rows.
    pub schema: SchemaRef,
    /// Makes batches of them; a NULL where the plan promised none does not lose the row.
    output: OutputSchema,
    /// `schema` with every column nullable.
    pub permissive: SchemaRef,
    /// Key columns.
    pub key: Vec<usize>,
    /// The column by which rows of one key are ordered, if they are.
    pub ord: Option<usize>,
    /// All ones, except in tests that force collisions.
    pub mask: u64,
    /// Equal hashes mean equal keys, NULL apart: one key column of at most 64 bits.
    pub injective: bool,
    /// What NULL hashes to in a single key column.
    pub null_hash: u64,
}

impl Spec {
    pub fn new(schema: SchemaRef, key: Vec<usize>, ord: Option<usize>, mask: u64) -> Self {
        let injective = mask == u64::MAX
            && match key[..] {
                [column] => hashes_are_injective(schema.field(column).data_type()),
                _ => false,
            };
        let null: ArrayRef = Arc::new(arrow::array::NullArray::new(1));
        let null_hash = hash_rows(&[null], 1)[0];
        let output = OutputSchema::new(schema.clone());
        let permissive = output.permissive().exact().clone();
        Self { schema, output, permissive, key, ord, mask, injective, null_hash }
    }
    /// Codes of the order of rows; none if they have no order.
    pub fn ords(&self, rows: &RecordBatch) -> Result<Vec<i64>> {
        self.ord.map_or(Ok(Vec::new()), |c| super::order::codes(rows.column(c)))
    }
    /// Hashes of keys in key order.
    pub fn hash(&self, keys: &[ArrayRef], rows: usize) -> Vec<u64> {
        let mut hashes = hash_rows(keys, rows);
        if self.mask != u64::MAX {
            hashes.iter_mut().for_each(|h| *h &= self.mask);
        }
        hashes
    }
    /// Hashes of the keys of rows.
    pub fn hash_batch(&self, rows: &RecordBatch) -> Vec<u64> {
        let keys: Vec<ArrayRef> = self.key.iter().map(|i| rows.column(*i).clone()).collect();
        self.hash(&keys, rows.num_rows())
    }
    /// A batch of our schema.
    pub fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        self.output.batch(columns, rows)
    }
}

/// True where [`hash_rows`] maps different values of one column to different hashes: it is a bijection on 64 bits.
fn hashes_are_injective(t: &DataType) -> bool {
    t.is_integer()
        || matches!(
            t,
            DataType::Date32
                | DataType::Date64
                | DataType::Time32(_)
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Duration(_)
                | DataType::Float32
                | DataType::Float64
                | DataType::Boolean
        )
}

/// Immutable rows.
#[derive(Debug)]
pub(super) struct Block {
    pub rows: RecordBatch,
    pub weights: Weights,
    /// Key hashes, one a row.
    pub hashes: Vec<u64>,
    /// Some weight is negative.
    pub negative: bool,
    /// Sum of the positive weights.
    pub positive: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// How often it was coalesced; only blocks of one level are joined into one of the next.
    pub level: u8,
    /// Once asked for.
    times: OnceLock<Times>,
}

/// Times of the rows of a block in one column, in microseconds. Rows without a time are later than all.
#[derive(Debug, Clone, Copy)]
struct Times {
    column: usize,
    latest: i64,
    /// More than half of the rows are not later than this.
    middle: i64,
}

/// Blocks of at least this many rows are large enough to stay alone.
pub(super) const LARGE: usize = 4096;
/// Level of large blocks.
pub(super) const LARGE_LEVEL: u8 = u8::MAX;

impl Block {
    /// Takes rows whose buffers are already their own.
    pub fn new(rows: RecordBatch, weights: Weights, hashes: Vec<u64>, level: u8) -> Self {
        debug_assert_eq!(rows.num_rows(), hashes.len());
        let (negative, positive) = match &weights {
            Weights::AllOne => (false, rows.num_rows()),
            Weights::Dense(w) => {
                (w.iter().any(|w| *w < 0), w.iter().fold(0usize, |n, w| n.saturating_add((*w).max(0) as usize)))
            }
        };
        let dense = if matches!(weights, Weights::Dense(_)) { 8 * rows.num_rows() } else { 0 };
        let bytes = rows.columns().iter().map(|c| c.get_array_memory_size()).sum::<usize>() + 8 * hashes.len() + dense;
        let level = if rows.num_rows() >= LARGE { LARGE_LEVEL } else { level };
        Self { rows, weights, hashes, negative, positive, bytes, level, times: OnceLock::new() }
    }
    pub fn len(&self) -> usize {
        self.hashes.len()
    }
    /// The latest time in a column; rows without a time are later than all.
    pub fn latest(&self, column: usize) -> i64 {
        self.times(column).latest
    }
    /// More than half of the rows have a time before `bound` in a column.
    pub fn mostly_before(&self, (column, bound): Floor) -> bool {
        self.times(column).middle < bound
    }
    fn times(&self, column: usize) -> Times {
        let find = || {
            let times = self.rows.columns().get(column).and_then(micros_array);
            let (mut latest, mut middle) = (i64::MAX, i64::MAX);
            if let Some(times) = times.filter(|t| !t.is_empty()) {
                let mut all: Vec<i64> = times.iter().map(|t| t.unwrap_or(i64::MAX)).collect();
                let half = all.len() / 2;
                middle = *all.select_nth_unstable(half).1;
                latest = all[half..].iter().copied().max().unwrap_or(i64::MAX);
            }
            Times { column, latest, middle }
        };
        let known = *self.times.get_or_init(find);
        if known.column == column { known } else { find() }
    }
    /// Rows whose time in a column is not before `bound`.
    pub fn not_before(&self, (column, bound): Floor) -> Vec<u32> {
        let Some(times) = self.rows.columns().get(column).and_then(micros_array) else {
            return (0..self.len() as u32).collect();
        };
        (0..self.len() as u32).filter(|i| times.is_null(*i as usize) || times.value(*i as usize) >= bound).collect()
    }
    /// The rows as a Z-set.
    pub fn zbatch(&self) -> ZBatch {
        ZBatch::new(self.rows.clone(), self.weights.clone())
    }
    /// Several blocks as one.
    pub fn concat(spec: &Spec, blocks: &[Arc<Block>], level: u8) -> Result<Self> {
        let parts: Vec<ZBatch> = blocks.iter().map(|b| b.zbatch()).collect();
        let all = ZBatch::concat(&spec.permissive, &parts).e()?;
        let mut hashes = Vec::with_capacity(all.len());
        blocks.iter().for_each(|b| hashes.extend_from_slice(&b.hashes));
        Ok(Self::new(compact_batch(spec, &all.rows)?, all.weights, hashes, level))
    }
}

/// The rows in `spec`'s schema, without those of weight zero.
pub(super) fn normalised(spec: &Spec, batch: &ZBatch) -> Result<ZBatch> {
    if batch.rows.num_columns() != spec.schema.fields().len() {
        return Err(Error::internal(format!(
            "batch of {} columns for state of {}",
            batch.rows.num_columns(),
            spec.schema.fields().len()
        )));
    }
    let rows = spec.batch(batch.rows.columns().to_vec(), batch.len())?;
    let batch = ZBatch::new(rows, batch.weights.clone());
    match &batch.weights {
        Weights::Dense(w) if w.contains(&0) => {
            let keep: UInt32Array = (0..w.len() as u32).filter(|i| w[*i as usize] != 0).collect::<Vec<_>>().into();
            take_batch(spec, &batch, &keep)
        }
        Weights::Dense(w) if w.iter().all(|w| *w == 1) => Ok(ZBatch::inserts(batch.rows)),
        _ => Ok(batch),
    }
}

/// [`ZBatch::take`], also without columns.
pub(super) fn take_batch(spec: &Spec, batch: &ZBatch, indices: &UInt32Array) -> Result<ZBatch> {
    if spec.schema.fields().is_empty() {
        let weights: Vec<i64> = indices.values().iter().map(|i| batch.weight(*i as usize)).collect();
        return Ok(ZBatch::new(spec.batch(vec![], indices.len())?, Weights::Dense(weights.into())));
    }
    batch.take(indices).e()
}

/// Rows that own their buffers: strings copied out of larger ones, slices cut from their parents. State must not keep
/// a source's megabytes alive for one row.
pub(super) fn compact_batch(spec: &Spec, rows: &RecordBatch) -> Result<RecordBatch> {
    let columns = rows.columns().iter().map(compact).collect::<Result<Vec<_>>>()?;
    spec.batch(columns, rows.num_rows())
}

fn compact(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        t => {
            let used = array.to_data().get_slice_memory_size().unwrap_or(0);
            let array = if array.get_buffer_memory_size() > used + used / 2 + 256 {
                let all = UInt32Array::from_iter_values(0..array.len() as u32);
                compute::take(array.as_ref(), &all, None).e()?
            } else {
                array.clone()
            };
            if t.is_nested() { make_array(map_leaves(array.to_data(), &|leaf| compact(&leaf))?) } else { array }
        }
    })
}

/// Rebuilds nested data with every child array replaced by `f` of it (children of children first).
fn map_leaves(data: ArrayData, f: &dyn Fn(ArrayRef) -> Result<ArrayRef>) -> Result<ArrayData> {
    let children =
        data.child_data()
            .iter()
            .map(|c| {
                if c.child_data().is_empty() {
                    Ok(f(make_array(c.clone()))?.to_data())
                } else {
                    map_leaves(c.clone(), f)
                }
            })
            .collect::<Result<Vec<_>>>()?;
    data.into_builder().child_data(children).build().e()
}

/// Key columns so that values SQL calls equal are bitwise equal: one zero, one NaN, at any depth.
pub(crate) fn canonical(array: &ArrayRef) -> Result<ArrayRef> {
    fn may_hold_float(t: &DataType) -> bool {
        t.is_floating()
            || match t {
                DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
                    may_hold_float(f.data_type())
                }
                DataType::Struct(fields) => fields.iter().any(|f| may_hold_float(f.data_type())),
                DataType::Dictionary(_, v) => may_hold_float(v),
                _ => false,
            }
    }
    use arrow::datatypes::{Float32Type, Float64Type};
    Ok(match array.data_type() {
        DataType::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x + 0.0 }),
        ),
        DataType::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x + 0.0 }),
        ),
        t if t.is_nested() && may_hold_float(t) => make_array(map_leaves(array.to_data(), &|leaf| canonical(&leaf))?),
        DataType::Dictionary(_, v) if may_hold_float(v) => canonical(&compute::cast(array, v).e()?)?,
        _ => array.clone(),
    })
}
