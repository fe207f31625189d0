//! ASOF joins in time.
//!
//! A later change of the result has one of two causes:
//!
//! 1. A left row comes or goes. Its time is not behind the left watermark; its partner may be of any age.
//! 2. A right row comes or goes, at a time `t` that is not behind the right watermark. It concerns left rows of its key on
//!    the one side of `t` only, and their partners before and after are `t` or beyond it.
//!
//! | | partner is the latest (`>=`, `>`) | partner is the earliest (`<=`, `<`) |
//! |---|---|---|
//! | left rows that (2) concerns | not before `t` | any up to `t` |
//! | so the result's left time | not before both watermarks | no promise |
//! | its right time | no promise | not before both watermarks |
//! | a left row is forgotten | behind both watermarks | when its partner is |
//! | a right row is forgotten | behind both watermarks, when there is a later one of its key that is so, too | behind both watermarks |
//!
//! Where rows of the left side are never taken back, the right watermark alone decides about left rows.
//!
//! So [`super::NodeTime::forget`] has a bound for the time of each side, which means what the table says; and, where a
//! column of the key is bounded on both sides, one for that: all rows of a key before it may be forgotten.

use arrow::datatypes::Schema;

use super::linear::{Floor, linear};
use super::{Bound, Bounds, NodeTime, least, quiet, raised};
use crate::plan::{ChangelogKind, IncOp, IncPlan, NodeId};

/// What bounds the result of an ASOF join, and what it keeps.
pub(super) struct AsOfRule {
    left: usize,
    /// What the condition says of columns of both sides.
    floors: Vec<Floor>,
    on: Vec<(usize, usize)>,
    time: (usize, usize),
    latest: bool,
    outer: bool,
    /// Left rows are never taken back.
    append: bool,
}

impl AsOfRule {
    pub(super) fn new(
        plan: &IncPlan,
        inputs: &[NodeId],
        on: &[(usize, usize)],
        time: (usize, usize),
        latest: bool,
        outer: bool,
    ) -> Self {
        let left = plan.node(inputs[0]).schema.fields().len();
        let append = plan.node(inputs[0]).kind == ChangelogKind::Append;
        let mut floors: Vec<Floor> = Vec::new();
        for (l, r) in on {
            floors.push(Floor { column: *l, other: left + r, micros: 0 });
            floors.push(Floor { column: left + r, other: *l, micros: 0 });
        }
        if latest {
            let times = moved_along(plan, inputs[0], time.0);
            floors.extend(times.into_iter().map(|(column, micros)| Floor { column, other: left + time.1, micros }));
        } else {
            let times = moved_along(plan, inputs[1], time.1);
            floors.extend(times.into_iter().map(|(c, micros)| Floor { column: left + c, other: time.0, micros }));
        }
        Self { left, floors, on: on.to_vec(), time, latest, outer, append }
    }

    pub(super) fn apply(&self, inputs: &[&Bounds]) -> NodeTime {
        let [of_left, of_right] = inputs else { return NodeTime::default() };
        let left = self.left;
        let own = |c: usize| match c.checked_sub(left) {
            None => of_left.get(c).copied().flatten(),
            Some(r) => of_right.get(r).copied().flatten(),
        };
        let (left_quiet, right_quiet) = (quiet(of_left), quiet(of_right));
        let bounds: Bounds = (0..left + of_right.len())
            .map(|c| match c < left {
                true if right_quiet => own(c),
                true => least(own(c), raised(&self.floors, c, &own)),
                // Partners may be of any age, but for what the condition says of them.
                false if !self.floors.iter().any(|f| f.column == c) => own(c).filter(|_| left_quiet && right_quiet),
                false if left_quiet => own(c),
                false => least(own(c), raised(&self.floors, c, &own)),
            })
            .collect();
        let (left_time, right_time) = (self.time.0, left + self.time.1);
        let time = bounds[if self.latest { left_time } else { right_time }];
        let mut forget: Vec<Bounds> = vec![vec![None; left], vec![None; of_right.len()]];
        for (l, r) in &self.on {
            forget[0][*l] = bounds[*l];
            forget[1][*r] = bounds[*l];
        }
        // Before it no right row changes any more: without retractions on the left, that is all a left row waits for.
        let settled = if right_quiet { Some(Bound::Never) } else { own(right_time) };
        if self.on.iter().all(|(l, _)| *l != left_time) {
            forget[0][left_time] = time.max(settled.filter(|_| self.append));
        }
        if self.on.iter().all(|(_, r)| *r != self.time.1) {
            forget[1][self.time.1] = least(time, settled);
        }
        let mut columns = bounds;
        if self.outer {
            columns[left..].fill(None);
        }
        NodeTime { columns, forget }
    }
}

/// The columns of a node that are this one moved by so many microseconds: the join may compare a cast of a column.
fn moved_along(plan: &IncPlan, id: NodeId, column: usize) -> Vec<(usize, i64)> {
    let node = plan.node(id);
    match (&node.op, node.inputs.first()) {
        (IncOp::Exchange { .. }, Some(input)) => moved_along(plan, *input, column),
        (IncOp::Map { exprs: Some(exprs), .. }, Some(input)) => {
            let schema: &Schema = &plan.node(*input).schema;
            let of = |i: usize| exprs.get(i).and_then(|e| linear(&e.expr, schema));
            let Some((base, by)) = of(column) else { return vec![(column, 0)] };
            let same = |i: usize| {
                let (c, k) = of(i)?;
                (c == base).then_some((i, k.checked_sub(by)?))
            };
            (0..exprs.len()).filter_map(same).collect()
        }
        _ => vec![(column, 0)],
    }
}
