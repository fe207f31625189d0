//! The fast path: changes of one side against the content of the other, where no two pairs can cancel each other.

use arrow::array::UInt32Array;

use super::JoinOp;
use super::pairs::{Pairs, Rows};
use super::sink::Sink;
use crate::error::Result;
use crate::ops::TickCx;
use crate::zset::{Weights, ZBatch};

impl JoinOp {
    /// Pairs of `batch`, changes of `side`, with what the other side has now. A key that matches a million rows is
    /// expanded a chunk at a time. Without `emit` only the errors of the condition come out.
    pub(super) fn stream(
        &self,
        side: usize,
        batch: &ZBatch,
        emit: bool,
        cx: &mut TickCx<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let other = &self.sides[1 - side];
        if batch.is_empty() || other.content.is_empty() {
            return Ok(());
        }
        let mut plan = self.plan_ranged(side, &batch.rows)?;
        let limit = sink.chunk_rows();
        while let Some(m) = other.content.matches(&mut plan, limit)? {
            if m.row.is_empty() {
                continue;
            }
            let mut weights = m.weight;
            if let Weights::Dense(w) = &batch.weights {
                weights.iter_mut().zip(&m.probe).for_each(|(weight, i)| *weight *= w[*i as usize]);
            }
            let probing = Rows::Batch(&batch.rows, UInt32Array::from(m.probe));
            let found = Rows::Stored(&other.content, m.row);
            let (left, right) = if side == 0 { (probing, found) } else { (found, probing) };
            let pairs = self.pairs(left, right, weights);
            match &self.residual {
                None if !emit => {}
                None => sink.push(pairs.columns()?, pairs.weights)?,
                Some(residual) => {
                    let passed = residual.mask(&pairs, Some(cx.errors))?;
                    if !emit {
                        continue;
                    }
                    if passed.count_set_bits() == pairs.len() {
                        sink.push(pairs.columns()?, pairs.weights)?;
                    } else if passed.count_set_bits() > 0 {
                        let pairs = pairs.pick(&passed.set_indices().collect::<Vec<_>>());
                        sink.push(pairs.columns()?, pairs.weights)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn pairs<'a>(&self, left: Rows<'a>, right: Rows<'a>, weights: Vec<i64>) -> Pairs<'a> {
        let left_width = self.sides[0].schema().fields().len();
        Pairs { left, right, weights, left_width, width: left_width + self.sides[1].schema().fields().len() }
    }
}
