//! Rows in order of some columns, for reads by equality on the first of them and a range on the next.
//!
//! Sorted runs of geometrically growing size: a change is sorted into a run of its own, and runs of similar size are
//! merged, so that a row is copied a logarithmic number of times and a read looks into a logarithmic number of runs. Runs
//! are immutable; a snapshot is a list of them.
//!
//! Keys are compared as the bytes of Arrow's row format, with floats made canonical, NULL first. A read may give rows
//! whose key is equal only canonically (-0.0 for 0.0): it narrows, the condition itself is evaluated by who reads.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};

use super::arrangement::canonical;
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::StateStats;
use crate::zset::ZBatch;

/// How rows are found.
struct Spec {
    schema: SchemaRef,
    /// Columns, in order.
    columns: Vec<usize>,
    converter: RowConverter,
}

/// Sorted rows.
struct Run {
    rows: ZBatch,
    keys: Rows,
}

/// Rows kept in order of some columns.
pub struct OrderedIndex {
    spec: Arc<Spec>,
    runs: Vec<Arc<Run>>,
}

/// The rows of an index at one moment.
#[derive(Clone)]
pub struct OrderedSnapshot {
    spec: Arc<Spec>,
    runs: Vec<Arc<Run>>,
}

/// One end of a range: a value, and whether it belongs to it. One row.
pub type Bound = (ArrayRef, bool);

/// What is read of an index.
#[derive(Default)]
pub struct Lookup {
    /// Values of the first columns, each an array of one row.
    pub equal: Vec<ArrayRef>,
    /// Where the next column begins.
    pub from: Option<Bound>,
    /// Where it ends.
    pub to: Option<Bound>,
}

impl Spec {
    fn fields(schema: &Schema, columns: &[usize]) -> Vec<SortField> {
        columns.iter().map(|c| SortField::new(schema.field(*c).data_type().clone())).collect()
    }

    /// A run of rows in any order.
    fn run(&self, rows: ZBatch) -> Result<Run> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|c| canonical(rows.rows.column(*c))).collect::<Result<_>>()?;
        let keys = self.converter.convert_columns(&columns).e()?;
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        if order.is_sorted_by(|a, b| keys.row(*a as usize) <= keys.row(*b as usize)) {
            return Ok(Run { rows, keys });
        }
        order.sort_unstable_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)).then(a.cmp(b)));
        let order = UInt32Array::from(order);
        let sorted: Vec<ArrayRef> =
            columns.iter().map(|c| arrow::compute::take(c, &order, None)).collect::<Result<_, _>>().e()?;
        Ok(Run { rows: rows.take(&order).e()?, keys: self.converter.convert_columns(&sorted).e()? })
    }
}

/// True if rows can be kept in order of a column of this type.
pub fn can_order(t: &DataType) -> bool {
    RowConverter::supports_fields(&[SortField::new(t.clone())])
}

impl OrderedIndex {
    /// Empty, in order of these columns.
    pub fn new(schema: SchemaRef, columns: Vec<usize>) -> Result<Self> {
        let converter = RowConverter::new(Spec::fields(&schema, &columns)).e()?;
        Ok(Self { spec: Arc::new(Spec { schema, columns, converter }), runs: Vec::new() })
    }

    /// Adds changes.
    pub fn append(&mut self, batch: &ZBatch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.runs.push(Arc::new(self.spec.run(batch.clone())?));
        while let [.., a, b] = self.runs.as_slice() {
            if a.rows.len() > 2 * b.rows.len() {
                break;
            }
            let both = [a.rows.clone(), b.rows.clone()];
            // Rows that were retracted meet their retraction at the latest when all runs become one.
            let merged = ZBatch::concat(&self.spec.schema, &both).e()?.consolidate().e()?;
            self.runs.truncate(self.runs.len() - 2);
            if !merged.is_empty() {
                self.runs.push(Arc::new(self.spec.run(merged)?));
            }
        }
        Ok(())
    }

    /// The rows now.
    pub fn snapshot(&self) -> OrderedSnapshot {
        OrderedSnapshot { spec: self.spec.clone(), runs: self.runs.clone() }
    }

    /// Size.
    pub fn stats(&self) -> StateStats {
        StateStats {
            rows: self.runs.iter().map(|r| r.rows.len()).sum(),
            bytes: self.runs.iter().map(|r| r.rows.bytes() + r.keys.size()).sum(),
        }
    }
}

impl OrderedSnapshot {
    /// Positions of the columns it is in order of.
    pub fn columns(&self) -> &[usize] {
        &self.spec.columns
    }

    /// Rows of a lookup, consolidated, in no order.
    pub fn read(&self, lookup: &Lookup) -> Result<ZBatch> {
        let equal = self.prefix(&lookup.equal, None)?;
        let bound = |b: &Option<Bound>| -> Result<Option<(Vec<u8>, bool)>> {
            let Some((value, inclusive)) = b else { return Ok(None) };
            Ok(Some((self.prefix(&lookup.equal, Some(value))?, *inclusive)))
        };
        let (from, to) = (bound(&lookup.from)?, bound(&lookup.to)?);
        let mut parts = Vec::new();
        for run in &self.runs {
            let range = run.find(&equal, &from, &to);
            if !range.is_empty() {
                parts.push(run.rows.slice(range.start, range.len()));
            }
        }
        if parts.is_empty() {
            return Ok(ZBatch::empty(self.spec.schema.clone()));
        }
        ZBatch::concat(&self.spec.schema, &parts).e()?.consolidate().e()
    }

    /// The bytes that keys begin with whose first columns have these values.
    fn prefix(&self, equal: &[ArrayRef], next: Option<&ArrayRef>) -> Result<Vec<u8>> {
        let values: Vec<ArrayRef> = equal.iter().chain(next).map(canonical).collect::<Result<_>>()?;
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let columns = self.spec.columns.get(..values.len());
        let columns = columns.ok_or_else(|| Error::internal("more values than columns of an index"))?;
        let converter = RowConverter::new(Spec::fields(&self.spec.schema, columns)).e()?;
        let rows = converter.convert_columns(&values).e()?;
        Ok(rows.row(0).data().to_vec())
    }
}

impl Run {
    fn find(&self, equal: &[u8], from: &Option<(Vec<u8>, bool)>, to: &Option<(Vec<u8>, bool)>) -> Range<usize> {
        let first = |before: &dyn Fn(&[u8]) -> bool| {
            let (mut low, mut high) = (0, self.rows.len());
            while low < high {
                let middle = low + (high - low) / 2;
                if before(self.keys.row(middle).data()) { low = middle + 1 } else { high = middle }
            }
            low
        };
        let start = match from {
            Some((key, true)) => first(&|k| k < key.as_slice()),
            Some((key, false)) => first(&|k| k < key.as_slice() || k.starts_with(key)),
            None => first(&|k| k < equal),
        };
        let end = match to {
            Some((key, true)) => first(&|k| k < key.as_slice() || k.starts_with(key)),
            Some((key, false)) => first(&|k| k < key.as_slice()),
            None => first(&|k| k < equal || k.starts_with(equal)),
        };
        start..end.max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray as _, Float64Array, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{Field, Int64Type};
    use proptest::prelude::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("a", DataType::Utf8, true),
            Field::new("b", DataType::Int64, true),
            Field::new("x", DataType::Float64, true),
        ]))
    }

    fn batch(rows: &[(Option<&str>, Option<i64>, i64)]) -> ZBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|r| r.0).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|_| Some(0.0)).collect::<Float64Array>()),
        ];
        let weights: Vec<i64> = rows.iter().map(|r| r.2).collect();
        ZBatch::new(RecordBatch::try_new(schema(), columns).unwrap(), crate::zset::Weights::Dense(weights.into()))
    }

    fn text(v: &str) -> ArrayRef {
        Arc::new(StringArray::from(vec![v]))
    }
    fn int(v: i64) -> ArrayRef {
        Arc::new(Int64Array::from(vec![v]))
    }

    fn found(index: &OrderedIndex, lookup: &Lookup) -> Vec<(Option<i64>, i64)> {
        let z = index.snapshot().read(lookup).unwrap();
        let b = z.rows.column(1).as_primitive::<Int64Type>();
        let mut out: Vec<_> = (0..z.len()).map(|i| (b.iter().nth(i).flatten(), z.weight(i))).collect();
        out.sort_unstable();
        out
    }

    #[test]
    fn equal_first_columns_and_a_range_of_the_next_are_found() {
        let mut index = OrderedIndex::new(schema(), vec![0, 1]).unwrap();
        index.append(&batch(&[(Some("x"), Some(3), 1), (Some("xy"), Some(1), 1), (Some("x"), None, 1)])).unwrap();
        index.append(&batch(&[(Some("x"), Some(5), 2), (None, Some(9), 1), (Some("x"), Some(-4), 1)])).unwrap();
        let equal = || vec![text("x")];
        let all = found(&index, &Lookup { equal: equal(), ..Lookup::default() });
        assert_eq!(all, [(None, 1), (Some(-4), 1), (Some(3), 1), (Some(5), 2)]);
        let from = Some((int(3), false));
        assert_eq!(found(&index, &Lookup { equal: equal(), from, to: None }), [(Some(5), 2)]);
        let to = Some((int(3), true));
        assert_eq!(found(&index, &Lookup { equal: equal(), from: Some((int(-4), true)), to }).len(), 2);
        assert_eq!(found(&index, &Lookup { equal: vec![text("x"), int(5)], ..Lookup::default() }), [(Some(5), 2)]);
        assert!(found(&index, &Lookup { equal: vec![text("q")], ..Lookup::default() }).is_empty());
        let from = Some((text("x"), false));
        assert_eq!(found(&index, &Lookup { equal: Vec::new(), from, to: None }), [(Some(1), 1)]);
    }

    #[test]
    fn zeros_of_either_sign_are_one_key() {
        let mut index = OrderedIndex::new(schema(), vec![2]).unwrap();
        index.append(&batch(&[(Some("x"), Some(1), 1)])).unwrap();
        let minus: ArrayRef = Arc::new(Float64Array::from(vec![-0.0]));
        assert_eq!(found(&index, &Lookup { equal: vec![minus], ..Lookup::default() }), [(Some(1), 1)]);
    }

    #[test]
    fn retracted_rows_leave_nothing_behind() {
        let mut index = OrderedIndex::new(schema(), vec![1]).unwrap();
        for round in 0..200 {
            index.append(&batch(&[(Some("x"), Some(round), 1)])).unwrap();
            if round > 0 {
                index.append(&batch(&[(Some("x"), Some(round - 1), -1)])).unwrap();
            }
        }
        let all = Lookup { from: Some((int(0), true)), ..Lookup::default() };
        assert_eq!(found(&index, &all), [(Some(199), 1)]);
        assert!(index.stats().rows < 600, "{} rows", index.stats().rows);
    }

    proptest! {
        #[test]
        fn an_index_agrees_with_a_scan(
            rows in prop::collection::vec((0..4usize, prop::option::of(-5i64..5), 1..3i64), 0..60),
            cut in 1..7usize, key in 0..4usize, low in -6i64..6, width in 0i64..6, inclusive: bool,
        ) {
            const NAMES: [&str; 4] = ["", "a", "aa", "b"];
            let rows: Vec<(Option<&str>, Option<i64>, i64)> =
                rows.into_iter().map(|(n, b, w)| (Some(NAMES[n]), b, w)).collect();
            let mut index = OrderedIndex::new(schema(), vec![0, 1]).unwrap();
            rows.chunks(cut).for_each(|c| index.append(&batch(c)).unwrap());
            let lookup = Lookup {
                equal: vec![text(NAMES[key])],
                from: Some((int(low), inclusive)),
                to: Some((int(low + width), !inclusive)),
            };
            let got: i64 = found(&index, &lookup).iter().map(|(_, w)| w).sum();
            let inside = |b: i64| (b > low || inclusive && b == low) && (b < low + width || !inclusive && b == low + width);
            let want: i64 = rows.iter().filter(|(n, b, _)| *n == Some(NAMES[key]) && b.is_some_and(inside)).map(|r| r.2).sum();
            prop_assert_eq!(got, want);
        }
    }
}
