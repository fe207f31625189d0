use super::*;
use crate::ops::eval::testing::{TestCx, column_values, row_texts, schema};
use arrow::array::{Float64Array, Int64Array};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use millstream_sql::plan::time::Bound;
use proptest::prelude::*;

/// `(k, v, x)` with a weight.
type Row = (i64, Option<i64>, f64, i64);

fn state() -> SessionState {
    SessionStateBuilder::new_with_default_features().build()
}

fn input() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("v", DataType::Int64), ("x", DataType::Float64)])
}

fn batch(rows: &[Row]) -> ZBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.2)).collect::<Float64Array>()),
    ];
    let weights: Vec<i64> = rows.iter().map(|r| r.3).collect();
    ZBatch::new(RecordBatch::try_new(input(), columns).unwrap(), Weights::Dense(weights.into()))
}

fn run<F: Future>(f: F) -> F::Output {
    futures::executor::block_on(f)
}

/// The optimised plan of a query over empty tables t0 and t1, as a view's plan has it.
fn stored(sql: &str) -> StoredPlan {
    let context = SessionContext::new_with_state(state());
    for t in ["t0", "t1"] {
        context.register_table(t, Arc::new(datafusion::datasource::empty::EmptyTable::new(input()))).unwrap();
    }
    let plan = run(context.state().create_logical_plan(sql)).unwrap();
    StoredPlan { logical: context.state().optimize(&plan).unwrap() }
}

fn op(sql: &str, inputs: usize, keyed: bool) -> RecomputeOp {
    sharded(sql, inputs, keyed, Shard::ONE)
}

fn sharded(sql: &str, inputs: usize, keyed: bool, shard: Shard) -> RecomputeOp {
    let plan = stored(sql);
    let output = Arc::clone(plan.logical.schema().inner());
    let keys = keyed.then(|| RecomputeKeys { inputs: vec![vec![0]; inputs], output: vec![0] });
    RecomputeOp::new(&state(), &plan, vec![input(); inputs], keys, output, shard).unwrap()
}

/// The same query over the whole content, as DataFusion answers it. Rows in the order recompute uses.
fn direct(sql: &str, contents: &[Vec<Row>]) -> Vec<String> {
    let context = SessionContext::new_with_state(state());
    for (i, content) in contents.iter().enumerate() {
        let z = integral(content);
        let table = MemTable::try_new(input(), vec![vec![z]]).unwrap();
        context.register_table(format!("t{i}"), Arc::new(table)).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches = runtime.block_on(async { context.sql(sql).await.unwrap().collect().await.unwrap() });
    let mut rows: Vec<String> = batches.iter().flat_map(row_texts).collect();
    rows.sort();
    rows
}

fn integral(content: &[Row]) -> RecordBatch {
    let all = Input {
        schema: OutputSchema::new(input()),
        integral: Arrangement::new(input(), vec![0]),
        key: vec![],
        key_types: vec![],
        order: KeyCodec::new(vec![DataType::Int64, DataType::Int64, DataType::Float64]).unwrap(),
    };
    all.ordered(batch(content).consolidate().unwrap()).unwrap()
}

/// What a reader sees after these changes.
#[derive(Default)]
struct View {
    rows: BTreeMap<String, i64>,
}

impl View {
    fn apply(&mut self, changes: &[ZBatch]) {
        for z in changes {
            for (i, r) in row_texts(&z.rows).into_iter().enumerate() {
                let n = self.rows.entry(r).or_default();
                *n += z.weight(i);
            }
        }
        self.rows.retain(|_, n| *n != 0);
    }
    fn rows(&self) -> Vec<String> {
        self.rows.iter().flat_map(|(r, n)| std::iter::repeat_n(r.clone(), usize::try_from(*n).unwrap())).collect()
    }
}

const ROW_NUMBER: &str = "SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v, x) AS n FROM t0";
const MEDIAN: &str = "SELECT k, median(v) AS m, sum(x) AS s, array_agg(v) AS a FROM t0 GROUP BY k";
const OUTER: &str = "SELECT t0.k, t0.v, t1.v AS w FROM t0 LEFT JOIN t1 ON t0.k = t1.k AND t0.v < t1.v";
const GLOBAL: &str = "SELECT count(*) AS n, median(v) AS m FROM t0 WHERE v > (SELECT avg(v) FROM t0)";
const UNION: &str = "SELECT k, v FROM t0 UNION ALL SELECT k, v FROM t1 ORDER BY 1, 2 LIMIT 5";

#[test]
fn keyed_recompute_emits_only_what_changed() {
    let (mut op, mut cx) = (op(ROW_NUMBER, 1, true), TestCx::default());
    assert!(cx.flush(&mut op).is_empty());
    cx.push(&mut op, 0, batch(&[(1, Some(10), 0.0, 1), (1, Some(30), 0.0, 1), (2, Some(5), 0.0, 2)]));
    let mut out = column_values(&cx.flush(&mut op));
    out.sort();
    assert_eq!(out, ["1|10|1 * 1", "1|30|2 * 1", "2|5|1 * 1", "2|5|2 * 1"]);
    cx.push(&mut op, 0, batch(&[(1, Some(20), 0.0, 1)]));
    let mut out = column_values(&cx.flush(&mut op));
    out.sort();
    assert_eq!(out, ["1|20|2 * 1", "1|30|2 * -1", "1|30|3 * 1"]);
    // A row that comes and goes, and no row at all, change nothing.
    cx.push(&mut op, 0, batch(&[(1, Some(1), 0.0, 1)]));
    cx.push(&mut op, 0, batch(&[(1, Some(1), 0.0, -1)]));
    assert!(cx.flush(&mut op).is_empty());
    assert!(cx.flush(&mut op).is_empty());
    cx.push(&mut op, 0, batch(&[(2, Some(5), 0.0, -2)]));
    let mut out = column_values(&cx.flush(&mut op));
    out.sort();
    assert_eq!(out, ["2|5|1 * -1", "2|5|2 * -1"]);
}

#[test]
fn full_recompute_answers_before_any_row_came_and_on_shard_0_only() {
    let sql = "SELECT count(*) AS n FROM t0";
    let mut cx = TestCx::default();
    let mut first = op(sql, 1, false);
    assert_eq!(column_values(&cx.flush(&mut first)), ["0 * 1"]);
    assert!(cx.flush(&mut first).is_empty());
    cx.push(&mut first, 0, batch(&[(1, None, 0.0, 3)]));
    let mut out = column_values(&cx.flush(&mut first));
    out.sort();
    assert_eq!(out, ["0 * -1", "3 * 1"]);
    let mut other = sharded(sql, 1, false, Shard { index: 1, count: 2 });
    assert!(cx.flush(&mut other).is_empty());
    assert!(other.freeze().unwrap().is_empty());
}

#[test]
fn an_error_of_a_group_takes_that_group_and_heals() {
    let sql = "SELECT k, 100 / (v - 1) AS q, row_number() OVER (PARTITION BY k ORDER BY v, x) AS n FROM t0";
    let (mut op, mut cx) = (op(sql, 1, true), TestCx::default());
    let rows: Vec<Row> = (0..50).map(|k| (k, Some(if k == 7 { 1 } else { 5 }), 0.0, 1)).collect();
    cx.push(&mut op, 0, batch(&rows));
    let mut view = View::default();
    view.apply(&cx.flush(&mut op));
    assert_eq!(view.rows().len(), 49);
    let entry = ("22012".to_owned(), "division by zero".to_owned(), "(7)".to_owned());
    assert_eq!(cx.errors.entries.get(&entry), Some(&1));
    // It still fails when other rows of it change, and says so once.
    cx.push(&mut op, 0, batch(&[(7, Some(3), 0.0, 1)]));
    assert!(cx.flush(&mut op).is_empty());
    assert_eq!(cx.errors.entries.get(&entry), Some(&1));
    cx.push(&mut op, 0, batch(&[(7, Some(1), 0.0, -1)]));
    view.apply(&cx.flush(&mut op));
    assert!(cx.errors.is_empty());
    assert!(view.rows().contains(&"7|50|1".to_owned()));
}

#[test]
fn an_error_of_a_full_recompute_empties_the_output_and_heals_also_after_a_restart() {
    let sql = "SELECT sum(100 / v) AS s FROM t0";
    let (mut before, mut cx) = (op(sql, 1, false), TestCx::default());
    cx.push(&mut before, 0, batch(&[(1, Some(4), 0.0, 1)]));
    assert_eq!(column_values(&cx.flush(&mut before)), ["25 * 1"]);
    cx.push(&mut before, 0, batch(&[(1, Some(0), 0.0, 1)]));
    assert_eq!(column_values(&cx.flush(&mut before)), ["25 * -1"]);
    assert_eq!(cx.errors.entries.len(), 1);
    let mut after = restarted(&mut before, op(sql, 1, false));
    cx.push(&mut after, 0, batch(&[(1, Some(0), 0.0, -1)]));
    assert_eq!(column_values(&cx.flush(&mut after)), ["25 * 1"]);
    assert!(cx.errors.is_empty());
}

/// Moves the state of one instance to another.
fn restarted(from: &mut RecomputeOp, mut to: RecomputeOp) -> RecomputeOp {
    for slot in from.freeze().unwrap() {
        for b in &slot.batches {
            to.restore(&slot.slot, b).unwrap();
        }
    }
    to.restored().unwrap();
    to
}

#[test]
fn state_is_restored_into_any_number_of_shards() {
    let sql = "SELECT k, 100 / (v - 1) AS q, row_number() OVER (PARTITION BY k ORDER BY v, x) AS n FROM t0";
    let (mut one, mut cx) = (op(sql, 1, true), TestCx::default());
    let rows: Vec<Row> = (0..40).map(|k| (k, Some(k % 5), 0.5, 1)).collect();
    cx.push(&mut one, 0, batch(&rows));
    let mut view = View::default();
    view.apply(&cx.flush(&mut one));
    let errors = cx.errors.clone();
    assert_eq!(errors.entries.len(), 8);
    let slots = one.freeze().unwrap();
    assert!(one.freeze().unwrap().iter().all(|s| s.batches.iter().all(|b| b.num_rows() == 0)), "nothing changed since");
    let change: Vec<Row> = (0..40).flat_map(|k| [(k, Some(k % 5), 0.5, -1), (k, Some(6), 0.5, 1)]).collect();
    for index in 0..3 {
        let shard = Shard { index, count: 3 };
        let mut part = sharded(sql, 1, true, shard);
        for slot in &slots {
            for b in &slot.batches {
                part.restore(&slot.slot, b).unwrap();
            }
        }
        assert!(cx.flush(&mut part).is_empty(), "a restart changes nothing");
        let z = batch(&change);
        let hashes = hash_rows(&z.rows.columns()[..1], z.len());
        let mine: arrow::array::BooleanArray = hashes.iter().map(|h| Some(shard.owns(*h))).collect();
        cx.push(&mut part, 0, z.filter(&mine).unwrap());
        view.apply(&cx.flush(&mut part));
    }
    assert!(cx.errors.is_empty(), "{:?}", cx.errors);
    let mut expected: Vec<String> = (0..40).map(|k| format!("{k}|20|1")).collect();
    expected.sort();
    assert_eq!(view.rows(), expected);
}

#[test]
fn a_plan_with_a_union_runs_with_and_without_a_runtime_around_it() {
    let go = || {
        let (mut op, mut cx) = (op(UNION, 2, false), TestCx::default());
        cx.flush(&mut op);
        cx.push(&mut op, 0, batch(&[(1, Some(1), 0.0, 3)]));
        cx.push(&mut op, 1, batch(&[(0, Some(1), 0.0, 4)]));
        let mut out = column_values(&cx.flush(&mut op));
        out.sort();
        out
    };
    let expected = ["0|1 * 1", "0|1 * 1", "0|1 * 1", "0|1 * 1", "1|1 * 1"];
    assert_eq!(go(), expected);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(async { go() }), expected);
}

#[test]
fn a_row_with_negative_multiplicity_is_an_error_of_its_group() {
    let (mut op, mut cx) = (op(ROW_NUMBER, 1, true), TestCx::default());
    cx.push(&mut op, 0, batch(&[(1, Some(1), 0.0, -1), (2, Some(2), 0.0, 1)]));
    assert_eq!(column_values(&cx.flush(&mut op)), ["2|2|1 * 1"]);
    assert_eq!(cx.errors.entries.len(), 1);
    cx.push(&mut op, 0, batch(&[(1, Some(1), 0.0, 2)]));
    assert_eq!(column_values(&cx.flush(&mut op)), ["1|1|1 * 1"]);
    assert!(cx.errors.is_empty());
}

#[test]
fn a_recursive_plan_is_run_again() {
    let sql =
        "WITH RECURSIVE r AS (SELECT max(v) AS n FROM t0 UNION ALL SELECT n - 1 FROM r WHERE n > 1) SELECT n FROM r";
    let (mut op, mut cx) = (op(sql, 1, false), TestCx::default());
    let mut view = View::default();
    view.apply(&cx.flush(&mut op));
    assert_eq!(view.rows(), ["NULL"]);
    for (v, expected) in [(2, vec!["1", "2"]), (4, vec!["1", "2", "3", "4"])] {
        cx.push(&mut op, 0, batch(&[(0, Some(v), 0.0, 1)]));
        view.apply(&cx.flush(&mut op));
        assert_eq!(view.rows(), expected);
    }
}

fn rows_strategy() -> impl Strategy<Value = Vec<Vec<(bool, Row)>>> {
    let row =
        (0..4i64, prop::option::of(0..4i64), 0..3i64).prop_map(|(k, v, x)| (k, v, [0.1, -0.0, 0.0][x as usize], 1));
    prop::collection::vec(prop::collection::vec((any::<bool>(), row), 0..12), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn recompute_is_the_batch_answer_after_random_changes(ticks in rows_strategy()) {
        for (sql, inputs, keyed) in
            [(ROW_NUMBER, 1, true), (MEDIAN, 1, true), (OUTER, 2, true), (MEDIAN, 1, false), (GLOBAL, 1, false)]
        {
            let (mut op, mut cx, mut view) = (op(sql, inputs, keyed), TestCx::default(), View::default());
            let mut contents: Vec<Vec<Row>> = vec![Vec::new(); inputs];
            for (n, tick) in ticks.iter().enumerate() {
                for (second, row) in tick {
                    let port = usize::from(*second && inputs == 2);
                    // A row that is there already is taken out again, now and then.
                    let there: i64 = contents[port].iter().filter(|r| same(r, row)).map(|r| r.3).sum();
                    let weight = if there > 0 && row.0 != 0 { -1 } else { 1 };
                    let row = (row.0, row.1, row.2, weight);
                    contents[port].push(row);
                    cx.push(&mut op, port, batch(&[row]));
                }
                view.apply(&cx.flush(&mut op));
                prop_assert_eq!(view.rows(), direct(sql, &contents), "{} keyed: {}", sql, keyed);
                prop_assert!(cx.flush(&mut op).is_empty());
                if n == 1 {
                    op = restarted(&mut op, self::op(sql, inputs, keyed));
                    prop_assert!(cx.flush(&mut op).is_empty());
                }
            }
        }
    }
}

fn same(a: &Row, b: &Row) -> bool {
    (a.0, a.1, a.2.to_bits()) == (b.0, b.1, b.2.to_bits())
}

/// Groups by a time, one of which fails.
#[test]
fn groups_behind_the_watermark_are_forgotten() {
    let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
    let input = schema(&[("t", time), ("v", DataType::Int64)]);
    let context = SessionContext::new_with_state(state());
    let empty = datafusion::datasource::empty::EmptyTable::new(Arc::clone(&input));
    context.register_table("t0", Arc::new(empty)).unwrap();
    let sql = "SELECT t, median(100 / v) AS m FROM t0 GROUP BY t";
    let plan = run(context.state().create_logical_plan(sql)).unwrap();
    let plan = StoredPlan { logical: context.state().optimize(&plan).unwrap() };
    let make = || {
        let keys = Some(RecomputeKeys { inputs: vec![vec![0]], output: vec![0] });
        let output = Arc::clone(plan.logical.schema().inner());
        RecomputeOp::new(&state(), &plan, vec![Arc::clone(&input)], keys, output, Shard::ONE).unwrap()
    };
    let rows = |rows: &[(i64, i64)]| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|r| Some(r.0)).collect::<arrow::array::TimestampMicrosecondArray>()),
            Arc::new(rows.iter().map(|r| Some(r.1)).collect::<Int64Array>()),
        ];
        ZBatch::inserts(RecordBatch::try_new(Arc::clone(&input), columns).unwrap())
    };
    let (mut op, mut cx) = (make(), TestCx::default());
    for window in 0..100 {
        cx.push(&mut op, 0, rows(&[(window, 5), (window, i64::from(window != 3)), (window, 20)]));
        cx.forget(vec![vec![Some(Bound::At(window - 4)), None]]);
        let out = cx.flush(&mut op);
        assert_eq!(out.iter().map(ZBatch::len).sum::<usize>(), usize::from(window != 3));
        assert_eq!(op.failing.len(), usize::from((3..8).contains(&window)), "at {window}");
        assert!(op.stats().rows <= 4 * 4 * 5, "{:?} at {window}", op.stats());
    }
    assert_eq!(cx.errors.entries.len(), 1);
    // Groups that are not behind it have all of their rows, after a restart too.
    let mut op = restarted(&mut op, make());
    cx.push(&mut op, 0, rows(&[(97, 1), (97, 1)]));
    assert_eq!(column_values(&cx.flush(&mut op)).len(), 2);
    cx.forget(vec![vec![Some(Bound::Never), None]]);
    assert!(cx.flush(&mut op).is_empty());
    assert_eq!(op.stats().rows, 0);
}
