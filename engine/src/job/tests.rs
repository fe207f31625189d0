//! Jobs that are told how far event time is give what jobs give that are not, and keep less.

use std::collections::BTreeMap;

use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::datasource::empty::EmptyTable;
use millstream_sql::plan::ChangelogKind;
use millstream_sql::plan::build::{Relations, build};
use millstream_sql::session::{plan_query, session_state_for_views};

use super::*;
use crate::ops::aggregate::harness::{Random, text};
use crate::zset::Weights;

struct Two;

impl Relations for Two {
    fn resolve(&self, name: &datafusion::common::TableReference) -> Option<(RelationId, ChangelogKind)> {
        let id = ["a", "b"].iter().position(|n| *n == name.table())?;
        Some((RelationId(id as u64), ChangelogKind::Retract))
    }
}

fn schema() -> SchemaRef {
    let f = |n: &str, t| Field::new(n, t, true);
    let ts = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![f("ts", ts), f("k", DataType::Int64), f("x", DataType::Int64)]))
}

fn session() -> SessionState {
    let state = session_state_for_views();
    let public = state.catalog_list().catalog("millstream").and_then(|c| c.schema("public")).expect("schema");
    for name in ["a", "b"] {
        public.register_table(name.into(), Arc::new(EmptyTable::new(schema()))).expect("registers");
    }
    state
}

fn plan(state: &SessionState, sql: &str) -> Arc<IncPlan> {
    use datafusion::sql::sqlparser::{ast, dialect::PostgreSqlDialect, parser::Parser};
    let ast::Statement::Query(query) = Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("parses").remove(0) else {
        panic!("not a query")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let logical = runtime.block_on(plan_query(state, &query, sql)).unwrap_or_else(|e| panic!("{sql}: {e}"));
    Arc::new(build(state, logical, &Two).unwrap_or_else(|e| panic!("{sql}: {e}")))
}

type Row = (i64, Option<i64>, i64);

fn batch(changes: &[(Row, i64)]) -> ZBatch {
    let ts: TimestampMicrosecondArray = changes.iter().map(|c| Some(c.0.0)).collect();
    let k: Int64Array = changes.iter().map(|c| c.0.1).collect();
    let x: Int64Array = changes.iter().map(|c| Some(c.0.2)).collect();
    let rows = RecordBatch::try_new(schema(), vec![Arc::new(ts), Arc::new(k), Arc::new(x)]).expect("batch");
    ZBatch::new(rows, Weights::Dense(changes.iter().map(|c| c.1).collect::<Vec<_>>().into()))
}

/// A job and what its output sums up to.
struct Run {
    job: JobRunner,
    sum: BTreeMap<String, i64>,
    stored: Vec<FrozenSlot>,
}

impl Run {
    fn new(plan: &Arc<IncPlan>, shards: usize, state: &SessionState) -> Self {
        let job = JobRunner::new(plan.clone(), shards, state).expect("job");
        Self { job, sum: BTreeMap::new(), stored: Vec::new() }
    }

    fn tick(&mut self, inputs: &HashMap<RelationId, Vec<ZBatch>>, promises: Option<&Promises>, epoch: u64) {
        if let Some(p) = promises {
            self.job.set_time(p);
        }
        let at = TickRange { from: Epoch(epoch), to: Epoch(epoch + 1), clock: Timestamp(0) };
        for b in self.job.finish(inputs, at).expect("ticks").changes {
            for i in 0..b.len() {
                *self.sum.entry(text(&b.rows, i)).or_default() += b.weight(i);
            }
        }
        self.sum.retain(|_, w| *w != 0);
    }

    fn restart(&mut self, plan: &Arc<IncPlan>, state: &SessionState) {
        for f in self.job.freeze().expect("freezes") {
            if f.delta.replaces {
                let same = |s: &FrozenSlot| (s.shard, s.node, &s.delta.slot) == (f.shard, f.node, &f.delta.slot);
                self.stored.retain(|s| !same(s));
            }
            self.stored.push(f);
        }
        let mut job = JobRunner::new(plan.clone(), self.job.shard_count() as usize, state).expect("job");
        for f in &self.stored {
            for b in &f.delta.batches {
                job.restore(f.node, &f.delta.slot, b).expect("restores");
            }
        }
        job.restored().expect("restored");
        self.job = job;
    }

    fn operator_rows(&self) -> usize {
        self.job.stats().rows - self.job.view_stats().rows
    }
}

/// Queries all of whose operators forget what is behind the watermark.
const FORGETFUL: &[&str] = &[
    "SELECT window_start, k, count(*), sum(x), min(x), max(x) FROM TUMBLE(a, ts, INTERVAL '10 seconds') GROUP BY 1, 2",
    "SELECT window_end, count(DISTINCT x), array_agg(x ORDER BY x) FROM HOP(a, ts, INTERVAL '5 seconds', INTERVAL '20 seconds') \
     GROUP BY window_end",
    "SELECT window_start, window_end, count(*), max(x) FROM CUMULATE(a, ts, INTERVAL '5 seconds', INTERVAL '20 seconds') \
     GROUP BY 1, 2",
    "SELECT ts, k, x, window_start, window_end FROM SESSION(a, ts, INTERVAL '4 seconds', k)",
    "SELECT window_start, window_end, k, count(*), min(x) FROM SESSION(a, ts, INTERVAL '4 seconds', k) GROUP BY 1, 2, 3",
    "SELECT window_end, sum(x) FROM SESSION(a, ts, INTERVAL '2 seconds') GROUP BY 1",
    "SELECT window_start, k, x, count(*) FROM TUMBLE((SELECT ts AT TIME ZONE 'UTC' AS t, k, x FROM a), t, INTERVAL '1 day', \
     timezone => 'Asia/Tokyo') GROUP BY 1, 2, 3",
    "SELECT DISTINCT date_trunc('minute', ts), k FROM a",
    "SELECT ts, k FROM a EXCEPT ALL SELECT ts, k FROM b",
    "SELECT ts, k FROM a INTERSECT ALL SELECT ts, k FROM b",
    "SELECT ts, k FROM a UNION SELECT ts, k FROM b",
    "SELECT a.x, b.x FROM a JOIN b ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '3 seconds' AND a.ts + INTERVAL '7 seconds'",
    "SELECT a.x, b.x FROM a LEFT JOIN b ON a.k = b.k AND b.ts >= a.ts AND b.ts < a.ts + INTERVAL '7 seconds'",
    "SELECT a.x, b.x FROM a FULL JOIN b ON a.k = b.k AND a.ts = b.ts AND a.x < b.x",
    "SELECT x FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.ts = a.ts AND b.k = a.k)",
    "SELECT x FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.ts = a.ts AND b.k = a.k)",
    "SELECT * FROM (SELECT window_start, k, x, row_number() OVER (PARTITION BY window_start ORDER BY x DESC) AS r \
     FROM TUMBLE(a, ts, INTERVAL '10 seconds')) WHERE r <= 3",
    "SELECT * FROM (SELECT window_start, k, x, rank() OVER (PARTITION BY window_start, k ORDER BY x) AS r \
     FROM TUMBLE(a, ts, INTERVAL '10 seconds')) WHERE r <= 2",
    "SELECT window_start, x, sum(x) OVER (PARTITION BY window_start ORDER BY x ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) \
     FROM TUMBLE(a, ts, INTERVAL '10 seconds')",
    "SELECT w.window_start, w.n, v.m FROM (SELECT window_start, count(*) AS n FROM TUMBLE(a, ts, INTERVAL '10 seconds') \
     GROUP BY 1) w JOIN (SELECT window_start, max(x) AS m FROM TUMBLE(b, ts, INTERVAL '10 seconds') GROUP BY 1) v \
     ON w.window_start = v.window_start",
];

/// ASOF joins. With `>=` and `>` the last right row of each key stays.
const LATEST: &[&str] = &[
    "SELECT a.ts, a.x, b.x AS y FROM a JOIN b ON __asof(a.ts >= b.ts) AND a.k = b.k",
    "SELECT a.ts, a.x, b.x AS y FROM a LEFT JOIN b ON __asof(a.ts > b.ts) AND a.k = b.k",
    "SELECT a.x, b.x AS y FROM a LEFT JOIN b ON __asof(a.ts + INTERVAL '2 seconds' >= b.ts) AND a.k = b.k",
    "SELECT w.window_start, w.n, b.x FROM (SELECT window_start, k, count(*) AS n FROM TUMBLE(a, ts, INTERVAL '5 seconds') \
     GROUP BY 1, 2) w LEFT JOIN b ON __asof(w.window_start >= b.ts) AND w.k = b.k",
];

/// With `<=` and `<` left rows without a partner stay, too.
const EARLIEST: &[&str] = &[
    "SELECT a.ts, a.x, b.ts AS t, b.x AS y FROM a LEFT JOIN b ON __asof(a.ts <= b.ts) AND a.k = b.k",
    "SELECT a.ts, a.x, b.ts AS t, b.x AS y FROM a JOIN b ON __asof(a.ts < b.ts) AND a.k = b.k",
];

/// Random changes of both relations that keep the promise that nothing before `bound` changes.
fn changes(r: &mut Random, live: &mut [BTreeMap<Row, i64>; 2], bound: i64) -> HashMap<RelationId, Vec<ZBatch>> {
    let mut inputs = HashMap::new();
    for (id, live) in live.iter_mut().enumerate() {
        let mut changes = Vec::new();
        for _ in 0..r.below(14) {
            let young: Vec<Row> = live.iter().filter(|(row, w)| row.0 >= bound && **w > 0).map(|(r, _)| *r).collect();
            if !young.is_empty() && r.below(3) == 0 {
                let row = r.pick(&young);
                *live.entry(row).or_default() -= 1;
                changes.push((row, -1));
            } else {
                let row =
                    (bound + r.below(30) as i64 * 1_000_000, r.pick(&[Some(1), Some(2), None]), r.below(6) as i64);
                *live.entry(row).or_default() += 1;
                changes.push((row, 1));
            }
        }
        if !changes.is_empty() {
            inputs.insert(RelationId(id as u64), vec![batch(&changes)]);
        }
    }
    inputs
}

#[test]
fn forgetting_what_is_behind_the_watermark_shows_nowhere() {
    forgetful(FORGETFUL, Some(0));
}

#[test]
fn asof_joins_forget_what_no_later_row_can_reach() {
    // Of two keys, in one operator.
    forgetful(LATEST, Some(2));
    forgetful(EARLIEST, None);
}

/// `left`: how many rows of an operator may stay at the end.
fn forgetful(queries: &[&str], left: Option<usize>) {
    let state = session();
    for (n, sql) in queries.iter().enumerate() {
        let plan = plan(&state, sql);
        for shards in [1, 3] {
            let mut r = Random(n as u64 * 31 + shards as u64);
            let (mut with, mut without) = (Run::new(&plan, shards, &state), Run::new(&plan, shards, &state));
            let mut live = [BTreeMap::new(), BTreeMap::new()];
            let mut bound = 0;
            for epoch in 0..60u64 {
                let inputs = changes(&mut r, &mut live, bound);
                // The last promise: all is over.
                bound = if epoch == 59 { i64::MAX / 4 } else { bound + r.below(6) as i64 * 1_000_000 };
                let mut promises = Promises::default();
                for id in 0..2 {
                    promises.bounds.insert(RelationId(id), vec![Some(Bound::At(bound)), None, None]);
                }
                with.tick(&inputs, Some(&promises), epoch);
                without.tick(&inputs, None, epoch);
                assert_eq!(with.sum, without.sum, "{sql}, epoch {epoch}");
                // What is forgotten is still in stored runs until they are rewritten.
                if epoch < 58 && r.below(6) == 0 {
                    with.restart(&plan, &state);
                    without.restart(&plan, &state);
                }
            }
            assert!(without.operator_rows() > 5, "{sql}: the other one keeps it all");
            let Some(left) = left else { continue };
            let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
            for s in &with.job.shards {
                for (i, op) in s.ops.iter().enumerate() {
                    *rows.entry(i).or_default() += op.as_ref().map_or(0, |op| op.stats().rows);
                }
            }
            let kept: Vec<String> = rows
                .into_iter()
                .filter(|(_, rows)| *rows > left)
                .map(|(i, rows)| format!("{rows} rows in {:?}", plan.nodes[i].op))
                .collect();
            assert!(kept.is_empty(), "{sql}, {shards} shards, of {}: {kept:#?}", without.operator_rows());
        }
    }
}
