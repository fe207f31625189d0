//! How far state can grow: what each stateful operator keeps is bounded by a table, by the number of distinct keys, or
//! by nothing.
//!
//! The analysis knows relations and operators, no data: a stream never ends, a table is as large as its owner lets it
//! grow. It errs on the side of "unbounded".

use super::time::{Bound, NodeTime, TimeRules};
use super::{AggFunc, ChangelogKind, IncNode, IncOp, IncPlan, RelationId};
use crate::matching::Open;

/// How the number of rows of something grows, best first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Growth {
    /// Bounded by this.
    Bounded(String),
    /// One row for each distinct value of this, however many those are.
    Keyed(String),
    /// With every row of this stream.
    Unbounded(String),
}

/// What a stateful operator keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateBound {
    /// How it grows.
    pub growth: Growth,
    /// What to do about it, if it is unbounded.
    pub fix: Option<&'static str>,
    /// What stays then.
    pub stays: &'static str,
}

impl StateBound {
    /// One line for EXPLAIN.
    pub fn text(&self) -> String {
        match (&self.growth, self.fix) {
            (Growth::Bounded(by), _) => format!("bounded by {by}"),
            (Growth::Keyed(by), _) => format!("bounded by the number of distinct {by}"),
            (Growth::Unbounded(stream), Some(fix)) => {
                format!("UNBOUNDED: {} of stream {stream} stays; fix: {fix}", self.stays)
            }
            (Growth::Unbounded(stream), None) => format!("UNBOUNDED: {} of stream {stream} stays", self.stays),
        }
    }
    /// True if nothing bounds it.
    pub fn unbounded(&self) -> bool {
        matches!(self.growth, Growth::Unbounded(_))
    }
}

/// Growth of every node's rows and of every operator's state.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Rows of each node's output.
    pub rows: Vec<Growth>,
    /// State of each node; `None` where nothing is kept.
    pub state: Vec<Option<StateBound>>,
    /// The view's own rows.
    pub view: StateBound,
}

const FIX_JOIN: &str = "aggregate the stream before the join, or keep its rows in a table with a primary key";
const FIX_AS_OF: &str = "declare a WATERMARK for the time of both sides";
const FIX_AS_OF_EARLIEST: &str = "rows without a partner wait for one: compare with >= or >, and declare a WATERMARK for the \
     time of both sides";
const FIX_ALL: &str = "aggregate the stream first, or keep its rows in a table and DELETE old ones";
const FIX_VALUES: &str = "aggregate the stream itself, where rows only arrive";
const FIX_MATCH: &str = "add WITHIN INTERVAL '..' after PATTERN (..), so that no match stays open for longer";
const FIX_LAST: &str = "leave $ out of PATTERN (..): of a stream no row is known to be the last one";
const EVERY_ROW: &str = "every row";
const FIX_VIEW: &str = "aggregate, or CREATE VIEW, which keeps nothing";

/// What is known of the relations that a plan reads.
pub struct Inputs<'a> {
    /// How their rows grow.
    pub growth: &'a dyn Fn(RelationId) -> Growth,
    /// Which of their columns a watermark bounds, at whatever time.
    pub time: &'a dyn Fn(RelationId) -> super::time::Bounds,
}

/// The column by which an operator forgets what is behind the watermark, if it does so for all it keeps.
fn forgets(plan: &IncPlan, node: &IncNode, time: &NodeTime) -> Option<String> {
    let by = |(port, columns): (usize, &super::time::Bounds)| {
        let column = columns.iter().position(|b| matches!(b, Some(Bound::At(_))))?;
        Some(plan.node(*node.inputs.get(port)?).schema.fields().get(column)?.name().clone())
    };
    let names: Vec<Option<String>> = time.forget.iter().enumerate().map(by).collect();
    let mut names = names.into_iter().collect::<Option<Vec<_>>>()?;
    names.dedup();
    (!names.is_empty()).then(|| names.join(" and "))
}

/// The name of a column of an input.
fn name_of(plan: &IncPlan, node: &IncNode, port: usize, column: usize) -> String {
    let schema = node.inputs.get(port).map(|n| &plan.node(*n).schema);
    schema.and_then(|s| s.fields().get(column)).map_or_else(|| "?".into(), |f| f.name().clone())
}

/// Analyses a plan.
pub fn bounds(plan: &IncPlan, inputs: &Inputs<'_>) -> Bounds {
    let relation = inputs.growth;
    // A plan whose expressions do not compile is refused elsewhere.
    let times = TimeRules::new(plan).map(|rules| rules.propagate(plan, inputs.time)).unwrap_or_default();
    let mut rows: Vec<Growth> = Vec::with_capacity(plan.nodes.len());
    let mut state: Vec<Option<StateBound>> = Vec::with_capacity(plan.nodes.len());
    let constant = || Growth::Bounded("constants".into());
    for (i, node) in plan.nodes.iter().enumerate() {
        let input = |i: usize| node.inputs.get(i).map_or_else(constant, |n| rows[n.0 as usize].clone());
        let worst = || node.inputs.iter().map(|n| rows[n.0 as usize].clone()).max().unwrap_or_else(constant);
        let names = |columns: &[usize]| -> String {
            let schema = node.inputs.first().map(|n| &plan.node(*n).schema);
            let name = |c: &usize| schema.and_then(|s| s.fields().get(*c)).map_or("?", |f| f.name().as_str());
            format!("({})", columns.iter().map(name).collect::<Vec<_>>().join(", "))
        };
        let closed = times.get(i).and_then(|t| forgets(plan, node, t));
        let kept = |growth: Growth, fix: &'static str| {
            let growth = match &closed {
                Some(column) => Growth::Bounded(format!("the watermark: what has an older {column} is forgotten")),
                None => growth,
            };
            let fix = matches!(growth, Growth::Unbounded(_)).then_some(fix);
            Some(StateBound { growth, fix, stays: EVERY_ROW })
        };
        // Rows with equal keys are one: bounded inputs stay bounded, others grow with the keys.
        let by_key = |key: String| match worst() {
            Growth::Bounded(by) => Growth::Bounded(by),
            Growth::Keyed(_) | Growth::Unbounded(_) => Growth::Keyed(key),
        };
        let (out, keeps) = match &node.op {
            IncOp::Source { relation: id, .. } => (relation(*id), None),
            IncOp::Values { .. } => (constant(), None),
            IncOp::Map { .. } | IncOp::RowMap { .. } | IncOp::Exchange { .. } => (input(0), None),
            IncOp::Union => (worst(), None),
            IncOp::TemporalFilter { limits } => {
                let leaves = limits.iter().any(|l| l.leaves);
                let rows = if leaves { Growth::Bounded("now()".into()) } else { input(0) };
                let by = if leaves { "now()" } else { "the rows whose time is to come" };
                (rows, kept(Growth::Bounded(by.into()), FIX_ALL))
            }
            IncOp::Distinct => {
                let all: Vec<usize> = (0..node.schema.fields().len()).collect();
                let growth = by_key(names(&all));
                (growth.clone(), kept(growth, FIX_ALL))
            }
            IncOp::ArrivalJoin { .. } => (input(0), kept(input(1), FIX_JOIN)),
            IncOp::Join { .. } => (worst(), kept(worst(), FIX_JOIN)),
            IncOp::AsOf { on, time, compare, .. } => {
                let bounded = |port: usize, c: usize| {
                    let bound = times.get(i).and_then(|t| t.forget.get(port)?.get(c).copied().flatten());
                    matches!(bound, Some(Bound::At(_)))
                };
                let of_key = on.iter().any(|(l, _)| bounded(0, *l));
                let (l, r) = (bounded(0, time.0), bounded(1, time.1));
                let state = match (of_key, compare.latest()) {
                    (true, _) => kept(worst(), FIX_AS_OF),
                    (false, true) if l && r => {
                        let name = |port: usize, c: usize| name_of(plan, node, port, c);
                        let by = format!(
                            "the watermark: what has an older {} or {} is forgotten, but for the last row of the right side",
                            name(0, time.0),
                            name(1, time.1)
                        );
                        let key: Vec<String> = on.iter().map(|(_, r)| name(1, *r)).collect();
                        let growth = match key.is_empty() {
                            true => Growth::Bounded(by),
                            false => Growth::Keyed(format!("({}), and by {by} of each", key.join(", "))),
                        };
                        Some(StateBound { growth, fix: None, stays: EVERY_ROW })
                    }
                    (false, latest) => {
                        // Left rows go alone where the right side has a watermark, and are never taken back.
                        let growth = if latest && l { input(1) } else { worst() };
                        let fix = if latest { FIX_AS_OF } else { FIX_AS_OF_EARLIEST };
                        let fix = matches!(growth, Growth::Unbounded(_)).then_some(fix);
                        Some(StateBound { growth, fix, stays: EVERY_ROW })
                    }
                };
                (worst(), state)
            }
            IncOp::Aggregate { keys, aggs } => {
                let out = if keys.is_empty() { Growth::Bounded("one row".into()) } else { by_key(names(keys)) };
                let append = node.inputs.first().is_some_and(|n| plan.node(*n).kind == ChangelogKind::Append);
                let distinct: Vec<usize> = aggs.iter().filter(|a| a.distinct).filter_map(|a| a.arg).collect();
                let values = !append && aggs.iter().any(|a| matches!(a.func, AggFunc::Min | AggFunc::Max));
                let growth = if values {
                    // The next largest value must be at hand when the largest is retracted.
                    worst().max(out.clone())
                } else if distinct.is_empty() {
                    out.clone()
                } else {
                    let all: Vec<usize> = keys.iter().chain(&distinct).copied().collect();
                    by_key(names(&all))
                };
                (out, kept(growth, FIX_VALUES))
            }
            IncOp::TopN { partition, limit, .. } => {
                let out = match (partition.is_empty(), *limit == u64::MAX) {
                    (_, true) => worst(),
                    (true, false) => Growth::Bounded(format!("{limit} rows")),
                    (false, false) => by_key(names(partition)),
                };
                (out, kept(worst(), FIX_ALL))
            }
            IncOp::Emit { column: Some(c), .. } => {
                let by = format!("the watermark: it keeps what is not final by {}", names(&[*c]));
                (input(0), kept(Growth::Bounded(by), FIX_ALL))
            }
            IncOp::Emit { column: None, .. } => {
                (input(0), kept(Growth::Bounded("the changes of one interval".into()), FIX_ALL))
            }
            IncOp::MatchRecognize { spec, .. } => {
                let names = names(&spec.shape.partition);
                let open = times.get(i).and_then(|t| open_matches(plan, node, t, worst(), &names));
                (worst(), open.or_else(|| kept(worst(), FIX_ALL)))
            }
            // Everything else keeps its inputs.
            _ => (worst(), kept(worst(), FIX_ALL)),
        };
        rows.push(out);
        state.push(keeps);
    }
    let growth = rows.get(plan.output.0 as usize).cloned().unwrap_or_else(constant);
    let fix = matches!(growth, Growth::Unbounded(_)).then_some(FIX_VIEW);
    Bounds { rows, state, view: StateBound { growth, fix, stays: EVERY_ROW } }
}

/// What a pattern keeps whose rows are in order of event time; `None` if something else bounds it, or nothing.
fn open_matches(plan: &IncPlan, node: &IncNode, time: &NodeTime, worst: Growth, names: &str) -> Option<StateBound> {
    let IncOp::MatchRecognize { spec, .. } = &node.op else { return None };
    let bounded = |c: usize| matches!(time.forget.first().and_then(|f| f.get(c)), Some(Some(Bound::At(_))));
    let input = &plan.node(*node.inputs.first()?).schema;
    let in_order = spec.time(input).is_some_and(bounded);
    if !in_order || spec.shape.partition.iter().any(|c| bounded(*c)) || !matches!(worst, Growth::Unbounded(_)) {
        return None;
    }
    let keyed = |each: String| match spec.shape.partition.is_empty() {
        true => Growth::Bounded(each),
        false => Growth::Keyed(format!("{names}, each with {each}")),
    };
    let (growth, fix) = match spec.open() {
        Open::Time if spec.remembers() => (keyed("the rows within WITHIN of the watermark".into()), None),
        Open::Time => {
            (Growth::Bounded("the watermark: what no match WITHIN the interval reaches is forgotten".into()), None)
        }
        Open::Rows(n) => (keyed(format!("the last {n} rows behind the watermark")), None),
        Open::All if spec.shape.within.is_some() => (worst, Some(FIX_LAST)),
        Open::All => (worst, Some(FIX_MATCH)),
    };
    Some(StateBound { growth, fix, stays: "every row from the start of a match that is still open" })
}
