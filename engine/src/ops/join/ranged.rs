//! Joins whose condition compares columns of both sides: the partners of a row are within a range of the other side's
//! column, and only that range is looked at.
//!
//! The range is what the plan derived from the condition, and a superset; the whole condition is asked of every pair. Pairs
//! of NULL, and those outside of the range, are not asked: they could not pass.
//!
//! * Pairs come and go as `dL x R- + L+ x dR`, consolidated before they are emitted.
//! * A row that is in the output by itself while it has (or has not) a partner is looked at if it changed or is in the
//!   range of a row of the other side that did: its partners are counted before and after the tick.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute;
use millstream_sql::plan::{JoinKind, SideRange};

use super::content::ContentPlan;
use super::items::merge_equal;
use super::pairs::Rows;
use super::sink::Sink;
use super::{JoinOp, PART_ROWS, Side};
use crate::error::{Result, ResultExt as _};
use crate::ops::TickCx;
use crate::state::arrangement::Matches;
use crate::state::arrangement::order::{CodeRanges, codes};
use crate::zset::ZBatch;

/// Rows of a side that may gain or lose a partner, each once.
struct Concerned {
    rows: RecordBatch,
    before: Vec<i64>,
    after: Vec<i64>,
    partners_before: Vec<i64>,
}

impl JoinOp {
    /// A tick of a join with ranges.
    pub(super) fn flush_ranged(&mut self, cx: &mut TickCx<'_>, sink: &mut Sink<'_>) -> Result<()> {
        let rows: usize = self.sides.iter().flat_map(|s| &s.pending).map(ZBatch::len).sum();
        let parts = if self.key_types.is_empty() { 1 } else { rows.div_ceil(PART_ROWS).max(1) };
        let (left, right) = (self.divide(0, parts)?, self.divide(1, parts)?);
        for (left, right) in left.into_iter().zip(right) {
            let [l, r] = &self.sides;
            let (left, left_alone) = l.split(l.consolidated(left)?)?;
            let (right, right_alone) = r.split(r.consolidated(right)?)?;
            self.emit_alone(&left_alone, &right_alone, sink)?;
            sink.hold();
            self.part_ranged([left, right], cx, sink)?;
            sink.release()?;
        }
        Ok(())
    }

    fn part_ranged(&mut self, changes: [ZBatch; 2], cx: &mut TickCx<'_>, sink: &mut Sink<'_>) -> Result<()> {
        let semi = matches!(self.kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let asked = [semi || matches!(self.kind, JoinKind::Left | JoinKind::Full), self.right_preserved()];
        let mut concerned = Vec::new();
        for side in (0..2).filter(|side| asked[*side]) {
            concerned.push((side, self.concerned(side, &changes, sink.chunk_rows())?));
        }
        for (side, batch) in changes.iter().enumerate() {
            // Of a semi join only errors of the condition come out of this.
            self.stream(side, batch, !semi, cx, sink)?;
            self.sides[side].content.append_part(batch)?;
        }
        for (side, c) in concerned {
            let after = self.partners(side, &c.rows, &c.after, sink.chunk_rows())?;
            let there = |partners: i64| i64::from((partners > 0) == (self.kind == JoinKind::LeftSemi));
            let (mut rows, mut weights) = (Vec::new(), Vec::new());
            for (i, (after, weight_after)) in after.iter().zip(&c.after).enumerate() {
                let weight = there(*after) * weight_after - there(c.partners_before[i]) * c.before[i];
                if weight != 0 {
                    rows.push(i as u32);
                    weights.push(weight);
                }
            }
            let rows = compute::take_record_batch(&c.rows, &UInt32Array::from(rows)).e()?;
            sink.push(self.without_partner(side, &rows), weights)?;
        }
        Ok(())
    }

    fn right_preserved(&self) -> bool {
        matches!(self.kind, JoinKind::Right | JoinKind::Full)
    }

    /// The rows of a side that changes concern, before any of the changes is in an arrangement.
    fn concerned(&self, side: usize, changes: &[ZBatch; 2], chunk_rows: usize) -> Result<Concerned> {
        let own = &self.sides[side];
        let (changed, others) = (&changes[side], &changes[1 - side]);
        let mut found: Vec<(u64, i64)> = Vec::new();
        let mut collect = |mut plan: ContentPlan| -> Result<()> {
            while let Some(Matches { row, weight, .. }) = own.content.matches(&mut plan, chunk_rows)? {
                found.extend(row.into_iter().zip(weight));
            }
            Ok(())
        };
        if !others.is_empty() && !own.content.is_empty() {
            collect(self.plan_ranged(1 - side, &others.rows)?)?;
        }
        // Rows equal to one that changed.
        if !changed.is_empty()
            && !own.content.is_empty()
            && let Some(range) = &own.range
        {
            let at = codes(changed.rows.column(range.column))?;
            let keys = own.probe_keys(&own.keys(&changed.rows))?;
            collect(own.content.plan_within(&keys, changed.len(), CodeRanges { from: at.clone(), to: at })?)?;
        }
        found.sort_unstable();
        found.dedup();
        let (ids, mut before): (Vec<u64>, Vec<i64>) = found.into_iter().unzip();
        let all: Vec<usize> = (0..own.schema().fields().len()).collect();
        let stored = own.columns.batch(own.content.gather(&ids, &all)?, ids.len())?;
        let rows = compute::concat_batches(own.schema(), [&stored, &changed.rows]).e()?;
        let mut after = before.clone();
        before.resize(rows.num_rows(), 0);
        after.extend((0..changed.len()).map(|i| changed.weight(i)));
        merge_equal(&rows, &mut before, &mut after)?;
        let kept: Vec<u32> =
            (0..before.len() as u32).filter(|i| before[*i as usize] != 0 || after[*i as usize] != 0).collect();
        let pick = |weights: &[i64]| kept.iter().map(|i| weights[*i as usize]).collect::<Vec<_>>();
        let (before, after) = (pick(&before), pick(&after));
        let rows = compute::take_record_batch(&rows, &UInt32Array::from(kept)).e()?;
        let partners_before = self.partners(side, &rows, &before, chunk_rows)?;
        Ok(Concerned { rows, before, after, partners_before })
    }

    /// Sums of the weights of the partners that rows of a side have now; 0 for rows of weight 0.
    fn partners(&self, side: usize, rows: &RecordBatch, weights: &[i64], chunk_rows: usize) -> Result<Vec<i64>> {
        let mut counts = vec![0; rows.num_rows()];
        let other = &self.sides[1 - side];
        let asked: Vec<u32> = (0..weights.len() as u32).filter(|i| weights[*i as usize] != 0).collect();
        if asked.is_empty() || other.content.is_empty() {
            return Ok(counts);
        }
        let asking = compute::take_record_batch(rows, &UInt32Array::from(asked.clone())).e()?;
        let mut plan = self.plan_ranged(side, &asking)?;
        while let Some(m) = other.content.matches(&mut plan, chunk_rows)? {
            if m.row.is_empty() {
                continue;
            }
            let probe = m.probe.clone();
            let passed = match &self.residual {
                None => None,
                Some(residual) => {
                    let probing = Rows::Batch(&asking, UInt32Array::from(m.probe));
                    let found = Rows::Stored(&other.content, m.row);
                    let (left, right) = if side == 0 { (probing, found) } else { (found, probing) };
                    // Their errors are in the error set since one of the rows came.
                    Some(residual.mask(&self.pairs(left, right, m.weight.clone()), None)?)
                }
            };
            for (i, (probe, weight)) in probe.iter().zip(&m.weight).enumerate() {
                if passed.as_ref().is_none_or(|p| p.value(i)) {
                    counts[asked[*probe as usize] as usize] += weight;
                }
            }
        }
        Ok(counts)
    }

    /// Where the partners of rows of `side` are in the other side's arrangement.
    pub(super) fn plan_ranged(&self, side: usize, rows: &RecordBatch) -> Result<ContentPlan> {
        let other = &self.sides[1 - side];
        let keys = other.probe_keys(&self.sides[side].keys(rows))?;
        match &other.range {
            Some(range) => other.content.plan_within(&keys, rows.num_rows(), within(range, rows)?),
            None => other.content.plan(&keys, rows.num_rows()),
        }
    }
}

impl Side {
    /// The join looks at ranges.
    pub(super) fn ranged(&self) -> bool {
        self.range.is_some()
    }
}

/// The codes of the partners of rows; none where an end of the range is NULL.
fn within(range: &SideRange, rows: &RecordBatch) -> Result<CodeRanges> {
    let mut out = CodeRanges::all(rows.num_rows());
    for (end, codes_of, lower) in [(&range.from, &mut out.from, true), (&range.to, &mut out.to, false)] {
        let Some(end) = end else { continue };
        let column = rows.column(end.column);
        // Zeros of both signs are neighbours.
        let slack = i64::from(column.data_type().is_floating());
        let offset = if lower { end.offset.saturating_sub(slack) } else { end.offset.saturating_add(slack) };
        *codes_of = codes(column)?.into_iter().map(|code| code.saturating_add(offset)).collect();
    }
    for end in [&range.from, &range.to].into_iter().flatten() {
        if let Some(nulls) = rows.column(end.column).logical_nulls() {
            for i in (0..nulls.len()).filter(|i| nulls.is_null(*i)) {
                (out.from[i], out.to[i]) = (i64::MAX, i64::MIN);
            }
        }
    }
    Ok(out)
}
