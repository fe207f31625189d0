//! The general path: every key that changed, before and after the tick.
//!
//! A pair comes or goes with `l after * r after - l before * r before`, so pairs of two unchanged rows are never looked
//! at for the output. Presence needs the sum of the weights of all partners: without a residual that is one number a
//! key; with one, unchanged pairs are evaluated too, but only for rows that won or lost a pair in this tick.

use arrow::array::UInt32Array;

use millstream_sql::plan::JoinKind;

use super::items::{Items, Keys, Need, Stored};
use super::pairs::{Pairs, Residual, Rows};
use super::sink::Sink;
use super::{JoinOp, Side};
use crate::error::{Result, ResultExt as _};
use crate::ops::TickCx;
use crate::zset::ZBatch;

/// Keys looked at together, at most.
const SLICE_KEYS: usize = 8 * 1024;
/// A slice is halved until it has at most so many stored rows, or one key.
const SLICE_ROWS: usize = 256 * 1024;

/// What a slice of keys asks of the sides.
struct Slice<'a> {
    keys: &'a Keys,
    from: usize,
    to: usize,
    changes: [&'a ZBatch; 2],
    /// Equal rows must be found.
    distinct: bool,
}

/// Weights of the partners of each row of a side, before and after, as far as they are known.
struct Partners {
    before: Vec<i64>,
    after: Vec<i64>,
    /// Rows whose partners may have changed.
    marked: Vec<bool>,
}

impl Partners {
    fn new(n: usize) -> Self {
        Self { before: vec![0; n], after: vec![0; n], marked: vec![false; n] }
    }
}

impl JoinOp {
    /// Emits what these changes (consolidated, without keys that match nothing) change; they are not in the
    /// arrangements yet.
    pub(super) fn touched(
        &self,
        left: &ZBatch,
        right: &ZBatch,
        cx: &mut TickCx<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        if left.is_empty() && right.is_empty() {
            return Ok(());
        }
        let changes = [left, right];
        let distinct = !self.sides.iter().all(|s| s.content.append_only()) || !changes.iter().all(|c| c.append_only());
        let keys = Keys::new(&self.key_types, &self.sides, changes)?;
        let mut pending: Vec<(usize, usize)> =
            (0..keys.count).step_by(SLICE_KEYS).map(|k| (k, keys.count.min(k + SLICE_KEYS))).rev().collect();
        while let Some((from, to)) = pending.pop() {
            if to - from > 1 && self.stored_rows(&keys, from, to)? > SLICE_ROWS {
                let half = from + (to - from) / 2;
                pending.extend([(half, to), (from, half)]);
                continue;
            }
            self.slice(&Slice { keys: &keys, from, to, changes, distinct }, cx, sink)?;
        }
        Ok(())
    }

    /// Upper bound of the stored rows under keys.
    fn stored_rows(&self, keys: &Keys, from: usize, to: usize) -> Result<usize> {
        let columns: Vec<_> = keys.columns.iter().map(|c| c.slice(from, to - from)).collect();
        let mut rows = 0;
        for side in &self.sides {
            // What is small as a whole needs no counting.
            if side.content.len() <= SLICE_ROWS / 2 {
                rows += side.content.len();
                continue;
            }
            let plan = side.content.plan(&side.probe_keys(&columns)?, to - from)?;
            rows += side.content.candidates(&plan, to - from).iter().sum::<usize>();
        }
        Ok(rows)
    }

    fn slice(&self, s: &Slice<'_>, cx: &mut TickCx<'_>, sink: &mut Sink<'_>) -> Result<()> {
        let n = s.to - s.from;
        let semi = matches!(self.kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let left_presence = semi || matches!(self.kind, JoinKind::Left | JoinKind::Full);
        let right_presence = matches!(self.kind, JoinKind::Right | JoinKind::Full);
        let by_key = self.residual.is_none();
        let has = |side: usize, k: usize| !s.keys.changes[side].rows(s.from + k, s.from + k + 1).is_empty();
        let columns: Vec<_> = s.keys.columns.iter().map(|c| c.slice(s.from, n)).collect();
        // What must be read of `side` under key `k`.
        let need = |side: usize, k: usize| {
            let other_presence = if side == 0 { right_presence } else { left_presence };
            let partners = has(1 - side, k);
            let rows = match by_key {
                true => !semi && partners,
                false => partners || other_presence,
            };
            match (rows, by_key && other_presence) {
                (true, _) => Need::Rows,
                (false, true) => Need::Count,
                (false, false) => Need::Nothing,
            }
        };
        let read = |side: &Side, need: &[Need]| Stored::read(side, &columns, need, sink.chunk_rows());
        let right_stored = read(&self.sides[1], &(0..n).map(|k| need(1, k)).collect::<Vec<_>>())?;
        let right_after = self.counts_after(s, 1, &right_stored);
        let flips = |k: usize| (right_stored.counts[k] > 0) != (right_after[k] > 0);
        let left_need: Vec<Need> = (0..n)
            .map(|k| match need(0, k) {
                Need::Nothing if semi && by_key && flips(k) => Need::Rows,
                need => need,
            })
            .collect();
        let left_stored = read(&self.sides[0], &left_need)?;
        let left_after = self.counts_after(s, 0, &left_stored);

        let items = |side: usize, stored: &Stored| {
            let range = (s.from, s.to);
            Items::new(&self.sides[side], stored, s.changes[side], &s.keys.changes[side], range, s.distinct)
        };
        let left = items(0, &left_stored)?;
        // A semi join without a residual is not interested in the right rows.
        let right = if semi && by_key { None } else { Some(items(1, &right_stored)?) };
        let stored_counts = [left_stored.counts, right_stored.counts];

        let hold = !semi
            && (left_presence && right.as_ref().is_some_and(Items::has_null_row)
                || right_presence && left.has_null_row());
        if hold {
            sink.hold();
        }
        let mut partners = [Partners::new(left.len()), Partners::new(right.as_ref().map_or(0, Items::len))];
        if let Some(right) = &right {
            let mut walk = Walk {
                op: self,
                left: &left,
                right,
                presence: [left_presence, right_presence],
                emit: !semi,
                partners: &mut partners,
            };
            walk.changed_pairs(n, cx, sink)?;
            if let Some(residual) = &self.residual
                && (left_presence || right_presence)
            {
                walk.unchanged_pairs(residual, n, sink.chunk_rows())?;
            }
        }
        let sides = [Some(&left), right.as_ref()];
        for (side, presence) in [left_presence, right_presence].into_iter().enumerate() {
            if !presence {
                continue;
            }
            let Some(items) = sides[side] else { continue };
            if by_key {
                let (before, after) =
                    if side == 0 { (&stored_counts[1], &right_after) } else { (&stored_counts[0], &left_after) };
                let of_key = &mut partners[side];
                for k in 0..n {
                    for i in items.of(k) {
                        (of_key.before[i as usize], of_key.after[i as usize]) = (before[k], after[k]);
                    }
                }
            }
            self.emit_presence(side, items, &partners[side], by_key, sink)?;
        }
        if hold { sink.release() } else { Ok(()) }
    }

    /// Sums of weights by key after the tick.
    fn counts_after(&self, s: &Slice<'_>, side: usize, stored: &Stored) -> Vec<i64> {
        let mut counts = stored.counts.clone();
        for (k, count) in counts.iter_mut().enumerate() {
            let rows = s.keys.changes[side].rows(s.from + k, s.from + k + 1);
            *count += rows.iter().map(|r| s.changes[side].weight(*r as usize)).sum::<i64>();
        }
        counts
    }

    /// Rows that are in the output by themselves while they have no partner (or, of a semi join, while they have one).
    fn emit_presence(
        &self,
        side: usize,
        items: &Items,
        partners: &Partners,
        by_key: bool,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let there = |partners: i64| (partners > 0) == (self.kind == JoinKind::LeftSemi);
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        for i in 0..items.len() {
            let (before, after) = (items.before[i], items.after[i]);
            if !by_key && before == after && !partners.marked[i] {
                continue;
            }
            let weight = i64::from(there(partners.after[i])) * after - i64::from(there(partners.before[i])) * before;
            if weight != 0 {
                rows.push(i as u32);
                weights.push(weight);
            }
        }
        for (rows, weights) in rows.chunks(sink.chunk_rows()).zip(weights.chunks(sink.chunk_rows())) {
            let rows = arrow::compute::take_record_batch(&items.rows, &UInt32Array::from(rows.to_vec())).e()?;
            sink.push(self.without_partner(side, &rows), weights.to_vec())?;
        }
        Ok(())
    }
}

/// A walk over the pairs of the keys of a slice, a chunk at a time.
struct Walk<'a> {
    op: &'a JoinOp,
    left: &'a Items,
    right: &'a Items,
    /// Whose partners must be counted.
    presence: [bool; 2],
    emit: bool,
    partners: &'a mut [Partners; 2],
}

/// Positions of a chunk of pairs.
#[derive(Default)]
struct Chunk {
    left: Vec<u32>,
    right: Vec<u32>,
}

impl Walk<'_> {
    fn pairs(&self, left: Vec<u32>, right: Vec<u32>) -> Pairs<'_> {
        let weights = left.iter().zip(&right).map(|(l, r)| {
            let (l, r) = (*l as usize, *r as usize);
            self.left.after[l] * self.right.after[r] - self.left.before[l] * self.right.before[r]
        });
        let weights = weights.collect();
        let left = Rows::Batch(&self.left.rows, UInt32Array::from(left));
        self.op.pairs(left, Rows::Batch(&self.right.rows, UInt32Array::from(right)), weights)
    }

    /// Pairs of which at least one row changes: they go to the output, and tell whose partners change.
    fn changed_pairs(&mut self, keys: usize, cx: &mut TickCx<'_>, sink: &mut Sink<'_>) -> Result<()> {
        let limit = sink.chunk_rows();
        let mut chunk = Chunk::default();
        for key in 0..keys {
            for (lefts, rights) in
                [(self.left.changed(key), self.right.of(key)), (self.left.unchanged(key), self.right.changed(key))]
            {
                if rights.is_empty() {
                    continue;
                }
                for l in lefts {
                    for r in rights.clone() {
                        chunk.left.push(l);
                        chunk.right.push(r);
                        if chunk.left.len() >= limit {
                            self.changed_chunk(std::mem::take(&mut chunk), cx, sink)?;
                        }
                    }
                }
            }
        }
        self.changed_chunk(chunk, cx, sink)
    }

    fn changed_chunk(&mut self, chunk: Chunk, cx: &mut TickCx<'_>, sink: &mut Sink<'_>) -> Result<()> {
        if chunk.left.is_empty() {
            return Ok(());
        }
        let Chunk { left, right } = chunk;
        let counted = self.op.residual.is_some() && self.presence.contains(&true);
        let pairs = self.pairs(left.clone(), right.clone());
        let passed = match &self.op.residual {
            Some(residual) => Some(residual.mask(&pairs, Some(cx.errors))?),
            None => None,
        };
        let passes = |i: &usize| passed.as_ref().is_none_or(|p| p.value(*i));
        if self.emit {
            let out: Vec<usize> = (0..pairs.len()).filter(|i| pairs.weights[*i] != 0 && passes(i)).collect();
            if out.len() == pairs.len() {
                sink.push(pairs.columns()?, pairs.weights)?;
            } else if !out.is_empty() {
                let pairs = pairs.pick(&out);
                sink.push(pairs.columns()?, pairs.weights)?;
            }
        }
        if counted {
            for i in (0..left.len()).filter(passes) {
                self.count(left[i] as usize, right[i] as usize, [true, true]);
            }
        }
        Ok(())
    }

    /// The pairs of unchanged rows, of rows whose partners change.
    fn unchanged_pairs(&mut self, residual: &Residual, keys: usize, limit: usize) -> Result<()> {
        // Marks are of rows that have a changed partner, not of those found here.
        let marked = [self.partners[0].marked.clone(), self.partners[1].marked.clone()];
        let mut chunk = Chunk::default();
        for key in 0..keys {
            for l in self.left.unchanged(key) {
                let all = self.presence[0] && marked[0][l as usize];
                if !all && !self.presence[1] {
                    continue;
                }
                for r in self.right.unchanged(key) {
                    if all || self.presence[1] && marked[1][r as usize] {
                        chunk.left.push(l);
                        chunk.right.push(r);
                        if chunk.left.len() >= limit {
                            self.unchanged_chunk(residual, &marked, std::mem::take(&mut chunk))?;
                        }
                    }
                }
            }
        }
        self.unchanged_chunk(residual, &marked, chunk)
    }

    fn unchanged_chunk(&mut self, residual: &Residual, marked: &[Vec<bool>; 2], chunk: Chunk) -> Result<()> {
        if chunk.left.is_empty() {
            return Ok(());
        }
        let Chunk { left, right } = chunk;
        // Errors of these pairs are in the error set since one of their rows came.
        let passed = residual.mask(&self.pairs(left.clone(), right.clone()), None)?;
        for i in passed.set_indices() {
            let (l, r) = (left[i] as usize, right[i] as usize);
            self.count(l, r, [marked[0][l], marked[1][r]]);
        }
        Ok(())
    }

    /// Counts a pair that passes for the sides given.
    fn count(&mut self, l: usize, r: usize, sides: [bool; 2]) {
        let [left, right] = &mut *self.partners;
        if self.presence[0] && sides[0] {
            left.before[l] += self.right.before[r];
            left.after[l] += self.right.after[r];
            left.marked[l] = true;
        }
        if self.presence[1] && sides[1] {
            right.before[r] += self.left.before[l];
            right.after[r] += self.left.after[l];
            right.marked[r] = true;
        }
    }
}
