//! A job: the running form of one [`IncPlan`]. One thread at a time owns its mutable state.
//!
//! The graph is cut at exchanges into stages; a stage runs for all shards in parallel if there is enough work, else on
//! the calling thread. A tick is any number of [`JobRunner::push`] calls and one [`JobRunner::finish`]: that is how a
//! backfill of any size can be one tick.

mod compile;
pub mod output;
pub mod shared;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use datafusion::execution::SessionState;
use millstream_sql::plan::time::{Bound, Bounds, TimeRules};
use millstream_sql::plan::{Distribution, IncOp, IncPlan, RelationId};

use crate::error::{Error, Result, ResultExt as _};
use crate::hash::{hash_rows, shard_of};
use crate::ops::{DeltaOp, ErrorSet, OpTime, Shard, SlotDelta, StateStats, TickCx};
use crate::state::ordered::{OrderedIndex, OrderedSnapshot};
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;
use output::{OutputSnapshot, OutputStore};
use shared::{Hosted, SharedInput};

/// Below this many rows in a stage, threads cost more than they bring.
const PARALLEL_ROWS_MIN: usize = 4096;
/// Operators emit in pieces of about this many rows.
const CHUNK_ROWS: usize = 64 * 1024;

/// What a tick did to the view.
#[derive(Debug, Default)]
pub struct TickOutput {
    /// Consolidated changes of the view.
    pub changes: Vec<ZBatch>,
    /// Rows in, over all sources.
    pub rows_in: usize,
}

/// What is promised of relations after a tick.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    /// By relation, of its columns.
    pub bounds: HashMap<RelationId, Bounds>,
    /// Relations of late rows.
    pub late: HashSet<RelationId>,
    /// Of relations whose final rows late rows may still correct: which rows are final.
    pub finals: HashMap<RelationId, Bounds>,
}

/// What a job's shard froze for a checkpoint.
#[derive(Debug)]
pub struct FrozenSlot {
    /// Shard.
    pub shard: u32,
    /// Plan node, or [`OUTPUT_NODE`].
    pub node: u32,
    /// Content.
    pub delta: SlotDelta,
}

/// Node number under which the view's own rows are stored.
pub const OUTPUT_NODE: u32 = u32::MAX;
/// Node number under which the error set is stored.
pub const ERRORS_NODE: u32 = u32::MAX - 1;

struct ShardGraph {
    shard: Shard,
    /// One an `IncNode`; `None` for sources, unions, exchanges and values.
    ops: Vec<Option<Box<dyn DeltaOp>>>,
    /// Output of each node in this round, for consumers later in the order.
    outs: Vec<Vec<ZBatch>>,
    errors: ErrorSet,
    output: OutputStore,
    /// Rows for other shards, by exchange node: `routed[node][target]`.
    routed: HashMap<usize, Vec<Vec<ZBatch>>>,
}

/// A runnable job.
pub struct JobRunner {
    plan: Arc<IncPlan>,
    shards: Vec<ShardGraph>,
    /// Stage of each node.
    stage: Vec<usize>,
    stages: usize,
    errors: ErrorSet,
    /// How bounds of event time follow from those of the sources.
    rules: TimeRules,
    /// What is promised after this tick, by node, if something is.
    times: Vec<OpTime>,
    /// The same of the view's columns: for what may be forgotten, and for when rows are final.
    promised: (Bounds, Bounds),
    /// Constant relations are emitted in the first tick of a job's life and never again.
    started: bool,
    pending_rows: usize,
    /// The view's rows in order of some columns, by the number of the index.
    indexes: Vec<(RelationId, OrderedIndex)>,
    /// Inputs of its joins that are in shared indexes.
    shared: Vec<SharedInput>,
    hosted: Hosted,
    /// Makes the next tick panic, to see what happens then.
    #[cfg(test)]
    pub(crate) panics: bool,
}

impl JobRunner {
    /// Builds the operators of a plan for `shards` shards.
    pub fn new(plan: Arc<IncPlan>, shards: usize, state: &SessionState) -> Result<Self> {
        let count = shards.max(1) as u32;
        let mut stage = vec![0usize; plan.nodes.len()];
        for (i, node) in plan.nodes.iter().enumerate() {
            let inputs = node.inputs.iter().map(|n| stage[n.0 as usize]).max().unwrap_or(0);
            stage[i] = inputs + usize::from(matches!(node.op, IncOp::Exchange { .. }));
        }
        let shards = (0..count)
            .map(|index| {
                let shard = Shard { index, count };
                Ok(ShardGraph {
                    shard,
                    ops: plan
                        .nodes
                        .iter()
                        .map(|n| compile::operator(&plan, n, shard, state))
                        .collect::<Result<Vec<_>>>()?,
                    outs: vec![Vec::new(); plan.nodes.len()],
                    errors: ErrorSet::default(),
                    output: OutputStore::new(plan.schema().clone(), plan.node(plan.output).kind),
                    routed: HashMap::new(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let stages = stage.iter().max().map_or(1, |s| s + 1);
        Ok(Self {
            rules: TimeRules::new(&plan).e()?,
            times: Vec::new(),
            promised: (Bounds::new(), Bounds::new()),
            plan,
            shards,
            stage,
            stages,
            errors: ErrorSet::default(),
            started: false,
            pending_rows: 0,
            indexes: Vec::new(),
            shared: Vec::new(),
            hosted: Hosted::default(),
            #[cfg(test)]
            panics: false,
        })
    }

    /// How many shards its state is cut into: fixed when the view is built, whatever the number of workers later.
    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// Its plan.
    pub fn plan(&self) -> &Arc<IncPlan> {
        &self.plan
    }

    /// Tells the operators how far event time will be after the next tick.
    pub fn set_time(&mut self, promises: &Promises) {
        if promises.bounds.is_empty() {
            return;
        }
        let none = |id: RelationId| self.plan_width(id);
        let given = |id: RelationId| promises.bounds.get(&id).cloned().unwrap_or_else(|| none(id));
        let nodes = self.rules.propagate(&self.plan, &given);
        // Late rows correct what was final: they do not hold it back.
        let closing = |id: RelationId| match promises.finals.get(&id) {
            Some(bounds) => bounds.clone(),
            None if promises.late.contains(&id) => given(id).into_iter().map(|_| Some(Bound::Never)).collect(),
            None => given(id),
        };
        let corrected = promises.late.iter().chain(promises.finals.keys()).any(|id| promises.bounds.contains_key(id));
        let finals = corrected.then(|| self.rules.propagate(&self.plan, &closing));
        let root = self.plan.output.0 as usize;
        let final_columns = |i: usize| finals.as_ref().unwrap_or(&nodes)[i].columns.clone();
        self.promised = (nodes[root].columns.clone(), final_columns(root));
        self.times = nodes
            .iter()
            .zip(&self.plan.nodes)
            .map(|(time, node)| {
                let closed = match (&node.op, node.inputs.first()) {
                    (IncOp::Emit { .. } | IncOp::MatchRecognize { decided: true, .. }, Some(input)) => {
                        final_columns(input.0 as usize)
                    }
                    _ => Bounds::new(),
                };
                OpTime { forget: time.forget.clone(), closed }
            })
            .collect();
    }

    fn plan_width(&self, id: RelationId) -> Bounds {
        let width = self.plan.nodes.iter().filter_map(|n| match &n.op {
            IncOp::Source { relation, projection } if *relation == id => projection.iter().max().map(|c| c + 1),
            _ => None,
        });
        vec![None; width.max().unwrap_or(0)]
    }

    /// Adds what is promised of this view after its last tick.
    pub fn promise(&self, own: RelationId, promises: &mut Promises) {
        if self.promised.0.iter().any(Option::is_some) {
            promises.bounds.insert(own, self.promised.0.clone());
            if self.promised.0 != self.promised.1 {
                promises.finals.insert(own, self.promised.1.clone());
            }
        }
    }

    /// True if its result depends on which changes came before which: then a tick is one epoch with changes.
    pub fn by_epoch(&self) -> bool {
        self.plan.nodes.iter().any(|n| matches!(n.op, IncOp::ArrivalJoin { .. }))
    }

    /// Rows that operators hold back until time comes further, with the oldest event time among them.
    pub fn held_back(&self) -> Option<(usize, Option<i64>)> {
        let all = self.shards.iter().flat_map(|s| s.ops.iter().flatten()).filter_map(|op| op.held_back());
        all.reduce(|a, b| (a.0 + b.0, a.1.into_iter().chain(b.1).min()))
    }

    /// When an operator wants a tick though nothing came.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.shards.iter().flat_map(|s| s.ops.iter().flatten()).filter_map(|op| op.next_wakeup()).min()
    }

    /// Feeds changes of source relations without ending the tick.
    pub fn push(&mut self, inputs: &HashMap<RelationId, Vec<ZBatch>>, at: TickRange) -> Result<()> {
        self.round(inputs, at, false)
    }

    /// Ends the tick `(from, to]`: operators emit, the view's rows change.
    pub fn finish(&mut self, inputs: &HashMap<RelationId, Vec<ZBatch>>, at: TickRange) -> Result<TickOutput> {
        #[cfg(test)]
        assert!(!self.panics, "a defect in an operator");
        self.round(inputs, at, true)?;
        self.started = true;
        let root = self.plan.output.0 as usize;
        let schema = self.plan.schema().clone();
        let mut outputs: Vec<ZBatch> = Vec::new();
        for s in &mut self.shards {
            outputs.append(&mut s.outs[root]);
            self.errors.merge(std::mem::take(&mut s.errors));
        }
        outputs.retain(|b| !b.is_empty());
        // A tick's changes are consolidated as a whole: several operators' outputs may meet here.
        let changes = if outputs.is_empty() {
            Vec::new()
        } else if outputs.iter().all(ZBatch::append_only) {
            outputs
        } else {
            let all = ZBatch::concat(&schema, &outputs).e()?.consolidate().e()?;
            if all.is_empty() { Vec::new() } else { vec![all] }
        };
        self.store(&changes)?;
        Ok(TickOutput { changes, rows_in: std::mem::take(&mut self.pending_rows) })
    }

    /// Keeps the view's rows in order of these columns from now on.
    pub fn add_index(&mut self, id: RelationId, columns: &[usize]) -> Result<()> {
        let mut index = OrderedIndex::new(self.plan.schema().clone(), columns.to_vec())?;
        self.rows()?.iter().try_for_each(|b| index.append(b))?;
        self.remove_index(id);
        self.indexes.push((id, index));
        Ok(())
    }

    /// Forgets an index.
    pub fn remove_index(&mut self, id: RelationId) {
        self.indexes.retain(|(i, _)| *i != id);
    }

    /// The indexes after the last tick.
    pub fn index_snapshots(&self) -> Vec<(RelationId, OrderedSnapshot)> {
        self.indexes.iter().map(|(id, i)| (*id, i.snapshot())).collect()
    }

    fn store(&mut self, changes: &[ZBatch]) -> Result<()> {
        let shards = self.shards.len();
        for (_, index) in &mut self.indexes {
            changes.iter().try_for_each(|b| index.append(b))?;
        }
        self.hosted.append(changes)?;
        for batch in changes {
            if shards == 1 || self.shards[0].output.append_only() {
                // A log has no lookups: spread its rows by batch.
                let target = if shards == 1 { 0 } else { batch.len() % shards };
                self.shards[target].output.append(batch)?;
                continue;
            }
            let hashes = hash_rows(batch.rows.columns(), batch.len());
            for (target, part) in route(batch, &hashes, shards)?.into_iter().enumerate() {
                if !part.is_empty() {
                    self.shards[target].output.append(&part)?;
                }
            }
        }
        Ok(())
    }

    fn round(&mut self, inputs: &HashMap<RelationId, Vec<ZBatch>>, at: TickRange, last: bool) -> Result<()> {
        let rows: usize = inputs.values().flatten().map(ZBatch::len).sum();
        self.pending_rows += rows;
        let shares = self.share_out(inputs);
        let constants = last && !self.started;
        for stage in 0..self.stages {
            let stage_rows = if stage == 0 { rows } else { self.exchange(stage) };
            let (plan, stages, times) = (&self.plan, &self.stage, &self.times);
            let run = |(s, share): (&mut ShardGraph, &HashMap<RelationId, Vec<ZBatch>>)| {
                s.run_stage(plan, stages, stage, share, at, times, last, constants)
            };
            if self.shards.len() == 1 || stage_rows < PARALLEL_ROWS_MIN {
                self.shards.iter_mut().zip(&shares).try_for_each(run)?;
            } else {
                use rayon::prelude::*;
                self.shards.par_iter_mut().zip(shares.par_iter()).try_for_each(run)?;
            }
        }
        Ok(())
    }

    /// Cuts source batches into one share a shard. Which shard a source row starts on carries no meaning.
    fn share_out(&self, inputs: &HashMap<RelationId, Vec<ZBatch>>) -> Vec<HashMap<RelationId, Vec<ZBatch>>> {
        let n = self.shards.len();
        if n == 1 {
            return vec![inputs.clone()];
        }
        let mut shares = vec![HashMap::new(); n];
        for (relation, batches) in inputs {
            for batch in batches {
                if batch.len() < PARALLEL_ROWS_MIN {
                    shares[0].entry(*relation).or_insert_with(Vec::new).push(batch.clone());
                    continue;
                }
                let step = batch.len().div_ceil(n);
                for (i, share) in shares.iter_mut().enumerate() {
                    let start = (i * step).min(batch.len());
                    let length = step.min(batch.len() - start);
                    if length > 0 {
                        share.entry(*relation).or_insert_with(Vec::new).push(batch.slice(start, length));
                    }
                }
            }
        }
        shares
    }

    /// Hands rows routed in the previous stage to the shards that own them. Returns the rows moved.
    fn exchange(&mut self, stage: usize) -> usize {
        let mut moved = 0;
        for node in 0..self.plan.nodes.len() {
            if self.stage[node] != stage || !matches!(self.plan.nodes[node].op, IncOp::Exchange { .. }) {
                continue;
            }
            let mut parts: Vec<Vec<Vec<ZBatch>>> =
                self.shards.iter_mut().map(|s| s.routed.remove(&node).unwrap_or_default()).collect();
            for (target, shard) in self.shards.iter_mut().enumerate() {
                for from in &mut parts {
                    if let Some(batches) = from.get_mut(target) {
                        moved += batches.iter().map(ZBatch::len).sum::<usize>();
                        shard.outs[node].append(batches);
                    }
                }
            }
        }
        moved
    }

    /// The view as it is after the last tick.
    pub fn snapshot(&self) -> Vec<OutputSnapshot> {
        self.shards.iter().map(|s| s.output.snapshot()).collect()
    }

    /// Rows that could not be computed.
    pub fn errors(&self) -> &ErrorSet {
        &self.errors
    }

    /// Takes out everything that changed since the last freeze; only between ticks.
    pub fn freeze(&mut self) -> Result<Vec<FrozenSlot>> {
        let mut frozen = Vec::new();
        for s in &mut self.shards {
            for (node, op) in s.ops.iter_mut().enumerate() {
                let Some(op) = op else { continue };
                for delta in op.freeze()? {
                    frozen.push(FrozenSlot { shard: s.shard.index, node: node as u32, delta });
                }
            }
            frozen.push(FrozenSlot { shard: s.shard.index, node: OUTPUT_NODE, delta: s.output.freeze()? });
        }
        let delta = output::errors_to_slot(&self.errors)?;
        frozen.push(FrozenSlot { shard: 0, node: ERRORS_NODE, delta });
        Ok(frozen)
    }

    /// Applies one stored batch, in the order of freezing. Rows go to the shards that own them now.
    pub fn restore(&mut self, node: u32, slot: &str, batch: &arrow::array::RecordBatch) -> Result<()> {
        if node == ERRORS_NODE {
            self.errors = output::errors_from_batch(batch)?;
            return Ok(());
        }
        let shards = self.shards.len();
        if node == OUTPUT_NODE {
            let rows = ZBatch::from_weighted(batch).e()?;
            let hashes = hash_rows(rows.rows.columns(), rows.len());
            for (target, part) in route(&rows, &hashes, shards)?.into_iter().enumerate() {
                self.shards[target].output.restore(&part)?;
            }
            return Ok(());
        }
        for s in &mut self.shards {
            let op = s.ops.get_mut(node as usize).and_then(Option::as_mut).ok_or_else(|| {
                Error::new(crate::error::SqlState::DATA_CORRUPTED, format!("state for node {node}, which has none"))
            })?;
            op.restore(slot, batch)?;
        }
        Ok(())
    }

    /// After the last `restore`.
    pub fn restored(&mut self) -> Result<()> {
        self.started = true;
        for s in &mut self.shards {
            for op in s.ops.iter_mut().flatten() {
                op.restored()?;
            }
        }
        Ok(())
    }

    /// Background work between ticks; true if more is waiting.
    pub fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let mut more = false;
        for s in &mut self.shards {
            for op in s.ops.iter_mut().flatten() {
                more |= op.maintain(fuel)?;
            }
            more |= s.output.maintain(fuel)?;
        }
        more |= self.hosted.maintain(fuel)?;
        Ok(more)
    }

    /// Size of the view's own rows: part of [`Self::stats`].
    pub fn view_stats(&self) -> StateStats {
        let mut total = StateStats::default();
        self.shards.iter().for_each(|s| total += s.output.stats());
        total
    }

    /// Size of all state.
    pub fn stats(&self) -> StateStats {
        let mut total = StateStats::default();
        for s in &self.shards {
            for op in s.ops.iter().flatten() {
                total += op.stats();
            }
            total += s.output.stats();
        }
        for (_, index) in &self.indexes {
            // The rows are those of the view: only their bytes count again.
            total += StateStats { rows: 0, ..index.stats() };
        }
        for (_, stats) in self.hosted.stats() {
            total += StateStats { rows: 0, ..stats };
        }
        total
    }
}

/// The epochs and clock of a tick.
#[derive(Debug, Clone, Copy)]
pub struct TickRange {
    /// Exclusive.
    pub from: Epoch,
    /// Inclusive.
    pub to: Epoch,
    /// Clock of `to`.
    pub clock: Timestamp,
}

impl ShardGraph {
    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename the arguments")]
    fn run_stage(
        &mut self,
        plan: &IncPlan,
        stages: &[usize],
        stage: usize,
        inputs: &HashMap<RelationId, Vec<ZBatch>>,
        at: TickRange,
        times: &[OpTime],
        last: bool,
        constants: bool,
    ) -> Result<()> {
        for (i, node) in plan.nodes.iter().enumerate() {
            if stages[i] != stage {
                continue;
            }
            match &node.op {
                IncOp::Source { relation, projection } => {
                    for b in inputs.get(relation).into_iter().flatten() {
                        let b = if projection.len() == b.rows.num_columns()
                            && projection.iter().enumerate().all(|(i, c)| i == *c)
                        {
                            b.clone()
                        } else {
                            b.project(projection).e()?
                        };
                        self.outs[i].push(b);
                    }
                }
                IncOp::Values { rows } => {
                    if constants && self.shard.index == 0 {
                        self.outs[i].push(ZBatch::inserts(rows.clone()));
                    }
                }
                IncOp::Exchange { .. } => {}
                IncOp::Union => {
                    let batches: Vec<ZBatch> =
                        node.inputs.iter().flat_map(|n| self.outs[n.0 as usize].iter().cloned()).collect();
                    for b in batches {
                        let rows = crate::ops::eval::conform(&b.rows, &node.schema)?;
                        self.outs[i].push(b.with_rows(rows));
                    }
                }
                _ => {
                    let mut op = self.ops[i].take().ok_or_else(|| Error::internal("node without operator"))?;
                    let mut out = std::mem::take(&mut self.outs[i]);
                    let mut cx = TickCx {
                        from: at.from,
                        to: at.to,
                        clock: at.clock,
                        errors: &mut self.errors,
                        chunk_rows: CHUNK_ROWS,
                        time: times.get(i).unwrap_or(&crate::ops::NO_TIME),
                    };
                    for (port, input) in node.inputs.iter().enumerate() {
                        for b in &self.outs[input.0 as usize] {
                            if !b.is_empty() {
                                op.push(port, b.clone(), &mut cx, &mut out)?;
                            }
                        }
                    }
                    if last {
                        op.flush(&mut cx, &mut out)?;
                    }
                    self.outs[i] = out;
                    self.ops[i] = Some(op);
                }
            }
        }
        self.route_and_clear(plan, stages, stage)
    }

    /// Routes this stage's results to exchanges of later stages, and frees what nobody reads any more.
    fn route_and_clear(&mut self, plan: &IncPlan, stages: &[usize], stage: usize) -> Result<()> {
        for (i, node) in plan.nodes.iter().enumerate() {
            let IncOp::Exchange { distribution } = &node.op else { continue };
            let input = node.inputs[0].0 as usize;
            if stages[input] != stage {
                continue;
            }
            let targets = self.shard.count as usize;
            let mut parts: Vec<Vec<ZBatch>> = vec![Vec::new(); targets];
            for b in &self.outs[input] {
                match distribution {
                    _ if b.is_empty() => {}
                    Distribution::Single => parts[0].push(b.clone()),
                    Distribution::Hash(_) if targets == 1 => parts[0].push(b.clone()),
                    Distribution::Hash(columns) => {
                        let keys: Vec<ArrayRef> = columns.iter().map(|c| b.rows.column(*c).clone()).collect();
                        let hashes = hash_rows(&keys, b.len());
                        for (t, part) in route(b, &hashes, targets)?.into_iter().enumerate() {
                            if !part.is_empty() {
                                parts[t].push(part);
                            }
                        }
                    }
                }
            }
            self.routed.insert(i, parts);
        }
        let root = plan.output.0 as usize;
        for i in 0..plan.nodes.len() {
            let consumers_left = plan.nodes.iter().enumerate().any(|(j, n)| {
                stages[j] > stage
                    && !matches!(n.op, IncOp::Exchange { .. })
                    && n.inputs.iter().any(|k| k.0 as usize == i)
            });
            if i != root && stages[i] <= stage && !consumers_left {
                self.outs[i].clear();
            }
        }
        Ok(())
    }
}

/// Splits a batch by the shard that owns each row's hash.
pub fn route(batch: &ZBatch, hashes: &[u64], shards: usize) -> Result<Vec<ZBatch>> {
    if shards == 1 {
        return Ok(vec![batch.clone()]);
    }
    let mut rows: Vec<Vec<u32>> = vec![Vec::with_capacity(hashes.len() / shards + 1); shards];
    for (i, h) in hashes.iter().enumerate() {
        rows[shard_of(*h, shards as u32) as usize].push(i as u32);
    }
    rows.into_iter().map(|idx| batch.take(&UInt32Array::from(idx)).e()).collect()
}
