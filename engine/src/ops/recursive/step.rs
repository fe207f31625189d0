//! The operators of a recursive term, run on one shard as often as there are rounds in a tick.

use arrow::array::RecordBatch;
use millstream_sql::plan::{IncOp, IncPlan};

use super::super::eval::conform;
use super::super::{DeltaOp, NO_TIME, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::zset::ZBatch;

/// See the module.
pub struct Step {
    plan: IncPlan,
    /// One a node of the plan; `None` for sources and unions.
    ops: Vec<Option<Box<dyn DeltaOp>>>,
    /// What each node gave in this run.
    outs: Vec<Vec<ZBatch>>,
}

impl Step {
    /// `ops` are those of the nodes of `plan`.
    pub fn new(plan: IncPlan, ops: Vec<Option<Box<dyn DeltaOp>>>) -> Self {
        let outs = vec![Vec::new(); plan.nodes.len()];
        Self { plan, ops, outs }
    }

    /// Feeds batches to a port; with `flush`, all operators give what they have to give then. Returns rows and, in their
    /// last column, the round they were made of.
    pub(super) fn run(
        &mut self,
        port: u64,
        batches: &[ZBatch],
        flush: bool,
        cx: &mut TickCx<'_>,
    ) -> Result<Vec<ZBatch>> {
        // No promise about event time holds for the rows of a round: nothing here is forgotten.
        let mut cx = TickCx {
            from: cx.from,
            to: cx.to,
            clock: cx.clock,
            errors: &mut *cx.errors,
            chunk_rows: cx.chunk_rows,
            time: &NO_TIME,
        };
        for i in 0..self.plan.nodes.len() {
            let node = &self.plan.nodes[i];
            let mut out = Vec::new();
            match (&node.op, &mut self.ops[i]) {
                (IncOp::Source { relation, projection }, _) => {
                    if relation.0 == port {
                        for b in batches {
                            out.push(b.project(projection).e()?);
                        }
                    }
                }
                (IncOp::Union, _) => {
                    for b in node.inputs.iter().flat_map(|n| &self.outs[n.0 as usize]) {
                        out.push(b.with_rows(conform(&b.rows, &node.schema)?));
                    }
                }
                (_, Some(op)) => {
                    for (port, input) in node.inputs.iter().enumerate() {
                        for b in self.outs[input.0 as usize].iter().filter(|b| !b.is_empty()) {
                            op.push(port, b.clone(), &mut cx, &mut out)?;
                        }
                    }
                    if flush {
                        op.flush(&mut cx, &mut out)?;
                    }
                }
                (op, None) => {
                    return Err(Error::internal(format!("{op:?} in the recursive term of a view")));
                }
            }
            self.outs[i] = out;
        }
        let out = std::mem::take(&mut self.outs[self.plan.output.0 as usize]);
        self.outs.iter_mut().for_each(Vec::clear);
        Ok(out)
    }

    /// State slots are named by the node they are of.
    pub(super) fn freeze(&mut self, slots: &mut Vec<SlotDelta>) -> Result<()> {
        for (node, op) in self.ops.iter_mut().enumerate() {
            for delta in op.iter_mut().map(|op| op.freeze()).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
                slots.push(SlotDelta { slot: format!("{node}.{}", delta.slot).into(), ..delta });
            }
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        let found = slot.split_once('.').and_then(|(node, slot)| Some((node.parse::<usize>().ok()?, slot)));
        let op = found.and_then(|(node, slot)| Some((self.ops.get_mut(node)?.as_mut()?, slot)));
        match op {
            Some((op, slot)) => op.restore(slot, batch),
            None => {
                Err(Error::new(SqlState::DATA_CORRUPTED, format!("a recursive query has no state slot \"{slot}\"")))
            }
        }
    }

    pub(super) fn restored(&mut self) -> Result<()> {
        self.ops.iter_mut().flatten().try_for_each(|op| op.restored())
    }

    pub(super) fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let mut more = false;
        for op in self.ops.iter_mut().flatten() {
            more |= op.maintain(fuel)?;
        }
        Ok(more)
    }

    pub(super) fn stats(&self) -> StateStats {
        let mut all = StateStats::default();
        self.ops.iter().flatten().for_each(|op| all += op.stats());
        all
    }
}
