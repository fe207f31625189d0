//! Views of recursive queries over a graph that changes, run as jobs, against naive models and batch DataFusion.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::StringArray;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use millstream_sql::optimize::RoundsMax;
use millstream_sql::plan::build::{Relations, build};
use millstream_sql::plan::explain::explain;
use millstream_sql::plan::{ChangelogKind, IncOp, IncPlan, RelationId};
use millstream_sql::session::{plan_query, session_state_for_views};

use super::*;
use crate::error::SqlState;
use crate::job::{FrozenSlot, JobRunner, TickRange};
use crate::ops::aggregate::harness::{Random, text};
use crate::time::{Epoch, Timestamp};

/// An edge (a, b), its weight w and a label.
type Edge = (Option<i64>, Option<i64>, i64, &'static str);

const EDGES: RelationId = RelationId(1);
const STARTS: RelationId = RelationId(2);

fn f(name: &str, t: DataType) -> Field {
    Field::new(name, t, true)
}

fn edges(of: &[Edge]) -> RecordBatch {
    let schema = Schema::new(vec![
        f("a", DataType::Int64),
        f("b", DataType::Int64),
        f("w", DataType::Int64),
        f("s", DataType::Utf8),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(of.iter().map(|e| e.0).collect::<Int64Array>()),
        Arc::new(of.iter().map(|e| e.1).collect::<Int64Array>()),
        Arc::new(of.iter().map(|e| Some(e.2)).collect::<Int64Array>()),
        Arc::new(of.iter().map(|e| Some(e.3)).collect::<StringArray>()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn starts(of: &[Option<i64>]) -> RecordBatch {
    let schema = Schema::new(vec![f("k", DataType::Int64)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(of.iter().copied().collect::<Int64Array>())]).unwrap()
}

struct Graph(ChangelogKind);

impl Relations for Graph {
    fn resolve(&self, name: &datafusion::common::TableReference) -> Option<(RelationId, ChangelogKind)> {
        match name.table() {
            "e" => Some((EDGES, self.0)),
            "s" => Some((STARTS, self.0)),
            _ => None,
        }
    }
}

fn block<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn context(e: &[Edge], s: &[Option<i64>], rounds_max: u32) -> SessionContext {
    let mut state = session_state_for_views();
    state.config_mut().set_extension(Arc::new(RoundsMax(rounds_max)));
    let context = SessionContext::new_with_state(state);
    for (name, rows) in [("e", edges(e)), ("s", starts(s))] {
        context.register_table(name, Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap())).unwrap();
    }
    context
}

fn logical(state: &SessionState, sql: &str) -> Result<LogicalPlan> {
    use datafusion::sql::sqlparser::{ast, dialect::PostgreSqlDialect, parser::Parser};
    let ast::Statement::Query(query) = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0) else {
        panic!("not a query")
    };
    block(plan_query(state, &query, sql))
}

fn plan(sql: &str, kind: ChangelogKind, rounds_max: u32) -> Arc<IncPlan> {
    let state = context(&[], &[], rounds_max).state();
    let plan = logical(&state, sql).and_then(|l| build(&state, l, &Graph(kind)));
    let plan = plan.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let native = plan.nodes.iter().any(|n| matches!(n.op, IncOp::Recursive { .. }));
    assert!(native, "{sql}\n{}", explain(&plan, &|r| format!("#{}", r.0), false).join("\n"));
    Arc::new(plan)
}

/// What the query gives over all rows at once.
fn direct(sql: &str, e: &[Edge], s: &[Option<i64>], rounds_max: u32) -> Result<BTreeMap<String, i64>> {
    let context = context(e, s, rounds_max);
    let frame = block(context.execute_logical_plan(logical(&context.state(), sql)?)).unwrap();
    let batches = block(frame.collect()).map_err(crate::ops::eval::evaluation_error)?;
    let mut out = BTreeMap::new();
    for b in &batches {
        for i in 0..b.num_rows() {
            *out.entry(text(b, i)).or_default() += 1;
        }
    }
    Ok(out)
}

/// A view as a job, its rows folded up from its changes, and what its checkpoints stored.
struct View {
    plan: Arc<IncPlan>,
    job: JobRunner,
    epoch: u64,
    rows: BTreeMap<String, i64>,
    stored: Vec<FrozenSlot>,
}

impl View {
    fn new(plan: Arc<IncPlan>, shards: usize) -> Self {
        let job = JobRunner::new(Arc::clone(&plan), shards, &session_state_for_views()).unwrap();
        Self { plan, job, epoch: 0, rows: BTreeMap::new(), stored: Vec::new() }
    }

    fn of(sql: &str) -> Self {
        Self::new(plan(sql, ChangelogKind::Retract, 1000), 1)
    }

    fn tick(&mut self, e: &[(Edge, i64)], s: &[(Option<i64>, i64)]) -> Result<()> {
        let weights = |of: Vec<i64>| Weights::Dense(of.into());
        let edges = edges(&e.iter().map(|e| e.0).collect::<Vec<_>>());
        let starts = starts(&s.iter().map(|s| s.0).collect::<Vec<_>>());
        let edges = ZBatch::new(edges, weights(e.iter().map(|e| e.1).collect()));
        let starts = ZBatch::new(starts, weights(s.iter().map(|s| s.1).collect()));
        let at = TickRange { from: Epoch(self.epoch), to: Epoch(self.epoch + 1), clock: Timestamp(0) };
        self.epoch += 1;
        // In pieces: nothing may depend on how a tick is cut.
        let half = edges.len() / 2;
        self.job.push(&HashMap::from([(EDGES, vec![edges.slice(0, half)])]), at)?;
        let rest = vec![edges.slice(half, edges.len() - half)];
        let out = self.job.finish(&HashMap::from([(EDGES, rest), (STARTS, vec![starts])]), at)?;
        for b in &out.changes {
            for i in 0..b.len() {
                assert_ne!(b.weight(i), 0);
                *self.rows.entry(text(&b.rows, i)).or_default() += b.weight(i);
            }
        }
        self.rows.retain(|_, w| *w != 0);
        Ok(())
    }

    /// Takes a checkpoint and, maybe, starts again from it.
    fn checkpoint(&mut self, restart: bool) {
        for slot in self.job.freeze().unwrap() {
            if slot.delta.replaces {
                let key = |s: &FrozenSlot| (s.shard, s.node, s.delta.slot.clone());
                self.stored.retain(|s| key(s) != key(&slot));
            }
            self.stored.push(slot);
        }
        if restart {
            let shards = self.job.shard_count() as usize;
            self.job = JobRunner::new(Arc::clone(&self.plan), shards, &session_state_for_views()).unwrap();
            for slot in &self.stored {
                for batch in &slot.delta.batches {
                    self.job.restore(slot.node, &slot.delta.slot, batch).unwrap();
                }
            }
            self.job.restored().unwrap();
        }
    }
}

const REACH: &str =
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT e.b FROM r JOIN e ON e.a = r.n) SELECT n FROM r";
const PATHS: &str = "WITH RECURSIVE r(n, d) AS (SELECT k, 0 FROM s UNION ALL SELECT e.b, r.d + 1 FROM r JOIN e ON e.a = r.n \
     WHERE r.d < 4) SELECT n, d FROM r";

/// Queries whose recursive term has one operator or another.
const QUERIES: &[&str] = &[
    REACH,
    PATHS,
    "WITH RECURSIVE r AS (SELECT a, b FROM e UNION SELECT r.a, e.b FROM r JOIN e ON r.b = e.a) SELECT a, b FROM r",
    "WITH RECURSIVE r(n, q, d) AS (SELECT k, 1::bigint, 0 FROM s UNION ALL SELECT e.b, r.q * e.w, r.d + 1 FROM e JOIN r \
     ON e.a = r.n WHERE r.d < 4) SELECT n, sum(q) AS q, count(*) AS c FROM r GROUP BY n",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT e.b FROM r LEFT JOIN e ON e.a = r.n AND e.w > 1) SELECT n FROM r",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT e.b FROM e RIGHT JOIN r ON e.a = r.n) SELECT n FROM r",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT e.b FROM r JOIN e ON e.a = r.n WHERE NOT EXISTS (SELECT 1 FROM \
     s AS x WHERE x.k = e.b)) SELECT n FROM r",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT r.n + 1 FROM r WHERE r.n IN (SELECT a FROM e)) SELECT n FROM r",
    "WITH RECURSIVE r(n, d) AS (SELECT k, 0 FROM s UNION ALL SELECT DISTINCT e.b, r.d + 1 FROM r JOIN e ON e.a = r.n WHERE \
     r.d < 3) SELECT n, d FROM r",
    "WITH RECURSIVE r(n, d) AS (SELECT k, 0 FROM s UNION ALL SELECT e.b, r.d + 1 FROM r JOIN e ON e.a = r.n WHERE r.d < 3 \
     GROUP BY e.b, r.d) SELECT n, d FROM r",
    "WITH RECURSIVE r(n, d) AS (SELECT k, 0 FROM s UNION ALL SELECT q.b, q.d + 1 FROM (SELECT e.b, r.d, row_number() OVER \
     (PARTITION BY r.n ORDER BY e.b, e.w, e.s) AS i FROM r JOIN e ON e.a = r.n WHERE r.d < 4) AS q WHERE q.i <= 2) \
     SELECT n, d FROM r",
    "WITH RECURSIVE r(n, d, i) AS (SELECT k, 0, 0::bigint FROM s UNION ALL SELECT e.b, r.d + 1, count(*) OVER (PARTITION BY e.b) \
     FROM r JOIN e ON e.a = r.n WHERE r.d < 3) SELECT n, d, i FROM r",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT unnest(ARRAY[n + 2, n + 3]) FROM r WHERE n < 5) SELECT n FROM r",
    "WITH RECURSIVE r(n, p) AS (SELECT k, 'x' FROM s UNION ALL SELECT e.b, r.p || e.s FROM r, e WHERE e.a = r.n AND \
     length(r.p) < 4) SELECT p, count(*) AS c FROM r GROUP BY p",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT e.b FROM r JOIN e ON e.a < r.n WHERE r.n > 1) SELECT n FROM r",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 6) SELECT r.n, s.k FROM r LEFT JOIN s ON s.k = r.n",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT e.b FROM r JOIN e ON e.a = r.n), q(n) AS (SELECT n FROM r UNION \
     SELECT e.a FROM q JOIN e ON e.b = q.n) SELECT r.n, q.n AS m FROM q LEFT JOIN r ON r.n = q.n",
    "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION (SELECT e.b FROM r JOIN e ON e.a = r.n INTERSECT SELECT b FROM e WHERE w < 3)) \
     SELECT n FROM r",
];

fn some(r: &mut Random, of: u64) -> Option<i64> {
    if r.below(9) == 0 { None } else { Some(r.below(of) as i64) }
}

/// Changes of a graph with cycles, equal edges and NULLs, as they come in one tick.
/// Weighted rows.
type Changes<T> = Vec<(T, i64)>;

fn changes(r: &mut Random, e: &mut Vec<Edge>, s: &mut Vec<Option<i64>>) -> (Changes<Edge>, Changes<Option<i64>>) {
    let (mut edges, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..r.below(5) {
        if e.len() > 12 || (!e.is_empty() && r.below(5) < 2) {
            let old = e.swap_remove(r.below(e.len() as u64) as usize);
            edges.push((old, -1));
            if r.below(3) == 0 {
                continue;
            }
        }
        let new = (some(r, 7), some(r, 7), 1 + r.below(3) as i64, r.pick(&["y", "z"]));
        e.push(new);
        edges.push((new, 1));
    }
    if r.below(3) == 0 {
        if s.len() > 2 || (!s.is_empty() && r.below(2) == 0) {
            starts.push((s.swap_remove(r.below(s.len() as u64) as usize), -1));
        } else {
            let new = some(r, 7);
            s.push(new);
            starts.push((new, 1));
        }
    }
    (edges, starts)
}

#[test]
fn recursive_views_are_their_queries_after_every_change() {
    for (n, sql) in QUERIES.iter().enumerate() {
        let p = plan(sql, ChangelogKind::Retract, 1000);
        for seed in 0..3 {
            let mut r = Random(seed * 1000 + n as u64);
            let shards = r.pick(&[1, 3]);
            let mut view = View::new(Arc::clone(&p), shards);
            let (mut e, mut s) = (Vec::new(), Vec::new());
            for tick in 0..14 {
                let (edges, starts) = changes(&mut r, &mut e, &mut s);
                view.tick(&edges, &starts).unwrap();
                let expected = direct(sql, &e, &s, 1000).unwrap();
                assert_eq!(view.rows, expected, "{sql}\nseed {seed}, tick {tick}, edges {e:?}, starts {s:?}");
                match r.below(5) {
                    0 => view.checkpoint(false),
                    1 => view.checkpoint(true),
                    _ => {}
                }
            }
        }
    }
}

/// All that can be reached, by a walk.
fn reached(e: &[Edge], s: &[Option<i64>]) -> BTreeSet<Option<i64>> {
    let mut seen: BTreeSet<Option<i64>> = s.iter().copied().collect();
    loop {
        let new: Vec<_> = e.iter().filter(|e| e.0.is_some() && seen.contains(&e.0)).map(|e| e.1).collect();
        let before = seen.len();
        seen.extend(new);
        if seen.len() == before {
            return seen;
        }
    }
}

/// Ends of all paths of at most four edges with their length, by rounds.
fn paths(e: &[Edge], s: &[Option<i64>]) -> BTreeMap<(Option<i64>, i64), i64> {
    let mut all = BTreeMap::new();
    let mut round: Vec<Option<i64>> = s.to_vec();
    for d in 0..=4 {
        round.iter().for_each(|n| *all.entry((*n, d)).or_default() += 1);
        let next = |n: &Option<i64>| e.iter().filter(|e| n.is_some() && e.0 == *n).map(|e| e.1).collect::<Vec<_>>();
        round = round.iter().flat_map(next).collect();
    }
    all
}

#[test]
fn reachability_and_paths_equal_naive_models_across_restarts() {
    let shown = |n: &Option<i64>| n.map_or("NULL".to_owned(), |n| n.to_string());
    for seed in 1..40 {
        let mut r = Random(seed);
        let (mut reach, mut walks) = (View::of(REACH), View::of(PATHS));
        let (mut e, mut s) = (Vec::new(), Vec::new());
        for tick in 0..40 {
            let (edges, starts) = changes(&mut r, &mut e, &mut s);
            reach.tick(&edges, &starts).unwrap();
            walks.tick(&edges, &starts).unwrap();
            let expected: BTreeMap<String, i64> = reached(&e, &s).iter().map(|n| (shown(n), 1)).collect();
            assert_eq!(reach.rows, expected, "seed {seed}, tick {tick}, edges {e:?}, starts {s:?}");
            let expected: BTreeMap<String, i64> =
                paths(&e, &s).iter().map(|((n, d), w)| (format!("{}|{d}", shown(n)), *w)).collect();
            assert_eq!(walks.rows, expected, "seed {seed}, tick {tick}, edges {e:?}, starts {s:?}");
            if r.below(4) == 0 {
                let restart = r.below(2) == 0;
                reach.checkpoint(restart);
                walks.checkpoint(restart);
            }
        }
        // Nothing is left of a graph that is gone.
        let all: Vec<_> = e.iter().map(|e| (*e, -1)).collect();
        let starts: Vec<_> = s.iter().map(|s| (*s, -1)).collect();
        reach.tick(&all, &starts).unwrap();
        walks.tick(&all, &starts).unwrap();
        assert!(reach.rows.is_empty() && walks.rows.is_empty());
        while reach.job.maintain(usize::MAX).unwrap() {}
        let rows = |v: &View| v.job.snapshot().iter().flat_map(|s| s.scan().unwrap()).map(|b| b.len()).sum::<usize>();
        assert_eq!((rows(&reach), rows(&walks)), (0, 0));
    }
}

#[test]
fn a_cycle_that_lost_its_way_in_is_gone() {
    let mut view = View::of(REACH);
    let edge = |a, b| (Some(a), Some(b), 1, "y");
    let ring = [(edge(0, 1), 1), (edge(1, 2), 1), (edge(2, 3), 1), (edge(3, 1), 1)];
    view.tick(&ring, &[(Some(0), 1)]).unwrap();
    assert_eq!(view.rows.len(), 4);
    view.tick(&[(edge(0, 1), -1)], &[]).unwrap();
    assert_eq!(view.rows, BTreeMap::from([("0".into(), 1)]));
    // In again at another place, and the first start is gone in the same tick.
    view.tick(&[], &[(Some(3), 1), (Some(0), -1)]).unwrap();
    assert_eq!(view.rows.keys().collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[test]
fn an_edge_of_a_cycle_that_comes_as_another_goes_does_not_run_for_ever() {
    let mut view = View::of(
        "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION ALL SELECT e.b FROM r JOIN e ON e.a = r.n) SELECT n FROM r",
    );
    let edge = |a, b| (Some(a), Some(b), 1, "y");
    view.tick(&[(edge(1, 2), 1)], &[(Some(1), 1)]).unwrap();
    view.tick(&[(edge(1, 2), -1), (edge(2, 3), 1), (edge(3, 2), 1)], &[]).unwrap();
    assert_eq!(view.rows, BTreeMap::from([("1".into(), 1)]));
    // Now the cycle is reached.
    let error = view.tick(&[(edge(1, 2), 1)], &[]).unwrap_err();
    assert_eq!(error.code, SqlState::STATEMENT_TOO_COMPLEX, "{error}");
}

#[test]
fn a_recursion_without_end_fails_in_views_as_in_queries() {
    let loops = "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION ALL SELECT n + 1 FROM r WHERE n < 30) SELECT n FROM r";
    for (sql, max, fails) in [
        (loops, 29, true),
        (loops, 30, false),
        ("WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT n + 1 FROM r) SELECT n FROM r", 40, true),
        ("WITH RECURSIVE r(n) AS (SELECT k FROM s UNION ALL SELECT n FROM r) SELECT n FROM r", 40, true),
    ] {
        let mut view = View::new(plan(sql, ChangelogKind::Retract, max), 1);
        let view = view.tick(&[], &[(Some(1), 1)]).err();
        let query = direct(sql, &[], &[Some(1)], max).err();
        assert_eq!(view.is_some(), fails, "{sql}");
        assert_eq!(view, query, "{sql}");
        assert!(view.is_none_or(|e| e.code == SqlState::STATEMENT_TOO_COMPLEX));
    }
}

#[test]
fn rows_that_double_in_every_round_end_at_the_limit_of_rows() {
    let sql =
        "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION ALL SELECT e.b FROM r JOIN e ON e.a = r.n) SELECT n FROM r";
    let mut view = View::new(plan(sql, ChangelogKind::Retract, 1000), 1);
    let edge = (Some(1), Some(1), 1, "y");
    let error = view.tick(&[(edge, 2)], &[(Some(1), 1)]).unwrap_err();
    assert_eq!(error.code, SqlState::PROGRAM_LIMIT_EXCEEDED, "{error}");
}

#[test]
fn errors_in_rounds_heal_with_their_rows() {
    let sql = "WITH RECURSIVE r(n) AS (SELECT k FROM s UNION SELECT 6 / (e.w - 2) + e.b FROM r JOIN e ON e.a = r.n) SELECT n FROM r";
    let mut view = View::of(sql);
    let (bad, good) = ((Some(1), Some(10), 2, "y"), (Some(1), Some(20), 3, "y"));
    view.tick(&[(bad, 1), (good, 1)], &[(Some(1), 1)]).unwrap();
    assert_eq!(view.rows.keys().collect::<Vec<_>>(), ["1", "26"]);
    let errors: Vec<_> = view.job.errors().entries.iter().map(|(k, n)| (k.0.clone(), *n)).collect();
    assert_eq!(errors, [("22012".to_owned(), 1)]);
    // The row with the error moves to another round and has it there.
    view.tick(&[((Some(2), Some(-5), 3, "y"), 1)], &[(Some(2), 1), (Some(1), -1)]).unwrap();
    assert_eq!(view.job.errors().entries.values().sum::<i64>(), 1, "{:?}", view.job.errors());
    view.checkpoint(true);
    view.tick(&[(bad, -1)], &[]).unwrap();
    assert!(view.job.errors().is_empty());
}

#[test]
fn rows_that_only_come_are_appended() {
    let reach = plan(REACH, ChangelogKind::Append, 1000);
    let left = plan(QUERIES[4], ChangelogKind::Append, 1000);
    assert_eq!(reach.node(reach.output).kind, ChangelogKind::Append);
    assert_eq!(left.node(left.output).kind, ChangelogKind::Retract);
    let all = plan(PATHS, ChangelogKind::Append, 1000);
    assert_eq!(all.node(all.output).kind, ChangelogKind::Append);
    for p in [reach, all] {
        let mut r = Random(5);
        let mut view = View::new(p, 1);
        for _ in 0..30 {
            let edge = (some(&mut r, 9), some(&mut r, 9), 1, "y");
            let start = some(&mut r, 9);
            // A shorter way to a row must not take it back.
            view.tick(&[(edge, 1)], &[(start, 1)]).unwrap();
        }
    }
}

#[test]
fn a_long_chain_is_cut_and_mended() {
    let mut view = View::new(plan(REACH, ChangelogKind::Retract, 100_000), 1);
    let length: i64 = 1000;
    let chain: Vec<_> = (0..length).map(|i| ((Some(i), Some(i + 1), 1, "y"), 1)).collect();
    view.tick(&chain, &[(Some(0), 1)]).unwrap();
    assert_eq!(view.rows.len() as i64, length + 1);
    let middle = (Some(length / 2), Some(length / 2 + 1), 1, "y");
    view.tick(&[(middle, -1)], &[]).unwrap();
    assert_eq!(view.rows.len() as i64, length / 2 + 1);
    view.tick(&[(middle, 1)], &[]).unwrap();
    assert_eq!(view.rows.len() as i64, length + 1);
    // A way around the middle: every row behind it is in an earlier round, and the result is the same.
    view.tick(&[((Some(0), Some(length - 10), 1, "y"), 1)], &[]).unwrap();
    assert_eq!(view.rows.len() as i64, length + 1);
}
