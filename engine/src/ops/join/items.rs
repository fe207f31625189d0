//! Rows of one side under some keys, with their weights before and after the tick.

use arrow::array::{Array, ArrayRef, DynComparator, RecordBatch, UInt32Array, make_comparator};
use arrow::compute::{self, SortOptions};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{Side, key_as};
use crate::error::{Result, ResultExt as _};
use crate::hash::hash_rows;
use crate::state::arrangement::canonical;
use crate::zset::ZBatch;

/// The distinct keys of a tick, numbered.
pub(super) struct Keys {
    /// One row a key.
    pub columns: Vec<ArrayRef>,
    pub count: usize,
    /// Changes of each side by key.
    pub changes: [ByKey; 2],
}

/// Rows of a batch ordered by key.
pub(super) struct ByKey {
    rows: Vec<u32>,
    /// Where each key's rows start, and the end of all.
    starts: Vec<u32>,
}

impl ByKey {
    fn new(key_of: &[usize], keys: usize) -> Self {
        let mut starts = vec![0u32; keys + 1];
        key_of.iter().for_each(|k| starts[k + 1] += 1);
        (0..keys).for_each(|k| starts[k + 1] += starts[k]);
        let mut next = starts.clone();
        let mut rows = vec![0; key_of.len()];
        for (row, key) in key_of.iter().enumerate() {
            rows[next[*key] as usize] = row as u32;
            next[*key] += 1;
        }
        Self { rows, starts }
    }
    /// Rows of keys `from..to`.
    pub fn rows(&self, from: usize, to: usize) -> &[u32] {
        &self.rows[self.starts[from] as usize..self.starts[to] as usize]
    }
}

impl Keys {
    /// The keys of the changes of both sides, none of them NULL unless NULL = NULL.
    pub fn new(types: &[DataType], sides: &[Side; 2], changes: [&ZBatch; 2]) -> Result<Self> {
        if types.is_empty() {
            let by_key = changes.map(|c| ByKey::new(&vec![0; c.len()], 1));
            return Ok(Self { columns: Vec::new(), count: 1, changes: by_key });
        }
        let fields: Vec<Field> = types.iter().map(|t| Field::new("k", t.clone(), true)).collect();
        let mut values = new_group_values(std::sync::Arc::new(Schema::new(fields)), &GroupOrdering::None).e()?;
        let mut groups = [Vec::new(), Vec::new()];
        for ((side, changes), groups) in sides.iter().zip(changes).zip(&mut groups) {
            if !changes.is_empty() {
                let keys = side.keys(&changes.rows);
                let keys =
                    keys.iter().zip(types).map(|(k, t)| canonical(&key_as(k, t)?)).collect::<Result<Vec<_>>>()?;
                values.intern(&keys, groups).e()?;
            }
        }
        let count = values.len();
        let columns = values.emit(EmitTo::All).e()?;
        let columns = columns.iter().zip(types).map(|(c, t)| key_as(c, t)).collect::<Result<_>>()?;
        Ok(Self { columns, count, changes: groups.map(|g| ByKey::new(&g, count)) })
    }
}

/// What is read of one side under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// The sum of the weights.
    Count,
    /// The rows.
    Rows,
}

/// What an arrangement has under some keys.
pub(super) struct Stored {
    /// Key, within those asked for.
    keys: Vec<u32>,
    rows: Vec<u64>,
    weights: Vec<i64>,
    /// Sum of weights, by key; of keys where they were needed.
    pub counts: Vec<i64>,
}

impl Stored {
    /// Nothing, of `keys` keys.
    pub fn none(keys: usize) -> Self {
        Self { keys: Vec::new(), rows: Vec::new(), weights: Vec::new(), counts: vec![0; keys] }
    }
    /// `keys` are as many as `need`.
    pub fn read(side: &Side, keys: &[ArrayRef], need: &[Need], chunk_rows: usize) -> Result<Self> {
        let mut out = Self::none(need.len());
        let asked: Vec<u32> = (0..need.len() as u32).filter(|k| need[*k as usize] != Need::Nothing).collect();
        if asked.is_empty() || side.content.is_empty() {
            return Ok(out);
        }
        let at = UInt32Array::from(asked.clone());
        let keys = keys.iter().map(|k| compute::take(k.as_ref(), &at, None).e()).collect::<Result<Vec<_>>>()?;
        let mut plan = side.content.plan(&side.probe_keys(&keys)?, asked.len())?;
        while let Some(m) = side.content.matches(&mut plan, chunk_rows)? {
            for ((probe, row), weight) in m.probe.iter().zip(&m.row).zip(&m.weight) {
                let key = asked[*probe as usize];
                out.counts[key as usize] += weight;
                if need[key as usize] == Need::Rows {
                    out.keys.push(key);
                    out.rows.push(*row);
                    out.weights.push(*weight);
                }
            }
        }
        Ok(out)
    }
}

/// Rows by key; of each key, those that change come first.
pub(super) struct Items {
    pub rows: RecordBatch,
    /// Weights before and after. Where only the changes were read, before is 0.
    pub before: Vec<i64>,
    pub after: Vec<i64>,
    /// By key: the first of its rows, and its first row that does not change; the last entry is the end.
    starts: Vec<u32>,
    unchanged: Vec<u32>,
}

impl Items {
    /// Stored rows and changes (`batch` at the rows of `changes`, by key from `from` to `to`). With `distinct`, equal
    /// rows are one.
    pub fn new(
        side: &Side,
        stored: &Stored,
        batch: &ZBatch,
        changes: &ByKey,
        (from, to): (usize, usize),
        distinct: bool,
    ) -> Result<Self> {
        let changed = changes.rows(from, to);
        let all: Vec<usize> = (0..side.schema().fields().len()).collect();
        let fresh = batch.take(&UInt32Array::from(changed.to_vec())).e()?;
        let rows = if stored.rows.is_empty() {
            fresh.rows
        } else {
            let old = side.content.gather(&stored.rows, &all)?;
            let old = side.columns.batch(old, stored.rows.len())?;
            compute::concat_batches(side.schema(), [&old, &fresh.rows]).e()?
        };
        let mut keys = stored.keys.clone();
        let (mut before, mut after) = (stored.weights.clone(), stored.weights.clone());
        for key in from..to {
            for row in changes.rows(key, key + 1) {
                keys.push((key - from) as u32);
                before.push(0);
                after.push(batch.weight(*row as usize));
            }
        }
        if distinct {
            merge_equal(&rows, &mut before, &mut after)?;
        }
        // By key, and in it changes first; without rows that are not there at all.
        let sort_key = |i: u32| 2 * u64::from(keys[i as usize]) + u64::from(before[i as usize] == after[i as usize]);
        let there = |i: &u32| before[*i as usize] != 0 || after[*i as usize] != 0;
        let mut order: Vec<u32> = (0..keys.len() as u32).filter(there).collect();
        order.sort_by_key(|i| sort_key(*i));
        let n = to - from;
        let (mut starts, mut unchanged) = (Vec::with_capacity(n + 1), Vec::with_capacity(n));
        let mut at = 0;
        let mut skip_below = |bound: u64| {
            while at < order.len() && sort_key(order[at]) < bound {
                at += 1;
            }
            at as u32
        };
        for key in 0..n as u64 {
            starts.push(skip_below(2 * key));
            unchanged.push(skip_below(2 * key + 1));
        }
        starts.push(order.len() as u32);
        let pick = |weights: &[i64]| order.iter().map(|i| weights[*i as usize]).collect::<Vec<_>>();
        let (before, after) = (pick(&before), pick(&after));
        let rows = compute::take_record_batch(&rows, &UInt32Array::from(order)).e()?;
        Ok(Self { rows, before, after, starts, unchanged })
    }
    pub fn len(&self) -> usize {
        self.before.len()
    }
    /// Rows of a key that change.
    pub fn changed(&self, key: usize) -> std::ops::Range<u32> {
        self.starts[key]..self.unchanged[key]
    }
    /// Rows of a key that stay as they are.
    pub fn unchanged(&self, key: usize) -> std::ops::Range<u32> {
        self.unchanged[key]..self.starts[key + 1]
    }
    /// Rows of a key.
    pub fn of(&self, key: usize) -> std::ops::Range<u32> {
        self.starts[key]..self.starts[key + 1]
    }
    /// True if a row is NULL in all columns, as a missing partner is.
    pub fn has_null_row(&self) -> bool {
        let columns = self.rows.columns();
        if columns.iter().any(|c| c.logical_null_count() == 0) {
            return false;
        }
        let nulls: Vec<_> = columns.iter().filter_map(|c| c.logical_nulls()).collect();
        (0..self.len()).any(|i| nulls.iter().all(|n| n.is_null(i)))
    }
}

/// Adds the weights of equal rows up at the first of them; bitwise equality, as in consolidation.
pub(super) fn merge_equal(rows: &RecordBatch, before: &mut [i64], after: &mut [i64]) -> Result<()> {
    let columns = rows.columns().iter();
    let equal: Vec<DynComparator> =
        columns.map(|c| make_comparator(c.as_ref(), c.as_ref(), SortOptions::default()).e()).collect::<Result<_>>()?;
    let hashes = hash_rows(rows.columns(), rows.num_rows());
    let mut table: HashTable<u32> = HashTable::with_capacity(rows.num_rows());
    for i in 0..rows.num_rows() {
        let same = |j: &u32| hashes[*j as usize] == hashes[i] && equal.iter().all(|c| c(*j as usize, i).is_eq());
        match table.entry(hashes[i], same, |j| hashes[*j as usize]) {
            Entry::Vacant(e) => {
                e.insert(i as u32);
            }
            Entry::Occupied(e) => {
                let first = *e.get() as usize;
                before[first] += std::mem::take(&mut before[i]);
                after[first] += std::mem::take(&mut after[i]);
            }
        }
    }
    Ok(())
}
