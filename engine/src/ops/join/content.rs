//! What is stored of one side of a join: an index of its own, or the one that a relation keeps for all joins that look its
//! rows up by these columns.
//!
//! Of a shared index the side has the relation's rows as they were at some moment, the *base*, and on top of it the changes
//! since then in an index of its own. Whenever the rows are at hand as they are when a tick is over, they become the base and
//! the changes on top are dropped. So nothing depends on when, or whether, that happens: a side without a base is an index of
//! its own. No reader holds the relation up, and none is held up by it.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute;
use arrow::datatypes::SchemaRef;

use crate::error::{Error, Result, ResultExt as _};
use crate::ops::{SlotDelta, StateStats};
use crate::state::arrangement::order::CodeRanges;
use crate::state::arrangement::{Arrangement, ArrangementSnapshot, Matches, ProbePlan};
use crate::zset::ZBatch;

/// Marks row ids of the base. No arrangement has so many blocks that it would use the bit.
const OF_BASE: u64 = 1 << 47;

/// See the module.
pub(super) struct Content {
    own: Arrangement,
    shared: Option<Shared>,
}

/// The part of a side that is a relation's.
struct Shared {
    schema: SchemaRef,
    key: Vec<usize>,
    /// Of each column of the side its place in the relation.
    columns: Vec<usize>,
    base: Option<Base>,
    /// The relation's rows when the tick is over.
    next: Option<ArrangementSnapshot>,
}

struct Base {
    rows: ArrangementSnapshot,
    /// Of each key column of the index its place among the keys of the join.
    order: Vec<usize>,
    append_only: bool,
}

/// Where the rows of some keys may be.
pub(super) struct ContentPlan {
    own: ProbePlan,
    base: Option<ProbePlan>,
}

impl Content {
    pub fn new(own: Arrangement) -> Self {
        Self { own, shared: None }
    }

    /// From now on the side is `columns` of a relation, by the columns `key` of the side.
    pub fn share(&mut self, key: &[usize], columns: &[usize]) {
        let (schema, key, columns) = (self.own.schema().clone(), key.to_vec(), columns.to_vec());
        self.shared = Some(Shared { schema, key, columns, base: None, next: None });
    }

    /// The relation's rows as they are when this tick is over.
    pub fn rebase(&mut self, rows: &ArrangementSnapshot) -> Result<()> {
        match &mut self.shared {
            Some(shared) => {
                shared.next = Some(rows.clone());
                Ok(())
            }
            None => Err(Error::internal("a join was given the index of a relation that it does not share")),
        }
    }

    /// The tick is over: what it changed is in the new base, if there is one.
    pub fn settle(&mut self) -> Result<()> {
        if let Some(shared) = &mut self.shared
            && let Some(rows) = shared.next.take()
        {
            let order = shared.order(rows.key())?;
            let append_only = rows.append_only();
            shared.base = Some(Base { rows, order, append_only });
            if !self.own.is_empty() || !self.own.append_only() {
                self.own = Arrangement::new(shared.schema.clone(), shared.key.clone());
            }
        }
        Ok(())
    }

    fn base(&self) -> Option<(&Shared, &Base)> {
        let shared = self.shared.as_ref()?;
        shared.base.as_ref().map(|b| (shared, b))
    }

    /// True if no row was ever retracted, as far as it matters to who reads the rows that are there.
    pub fn append_only(&self) -> bool {
        self.own.append_only() && self.base().is_none_or(|(_, b)| b.append_only)
    }

    /// Number of rows stored, parts of one row counted apart.
    pub fn len(&self) -> usize {
        self.own.len() + self.base().map_or(0, |(_, b)| b.rows.len())
    }

    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.base().is_none_or(|(_, b)| b.rows.is_empty())
    }

    /// Adds the changes of the tick.
    pub fn append_all(&mut self, batches: &[ZBatch]) -> Result<()> {
        if self.shared.as_ref().is_some_and(|s| s.next.is_some()) {
            return self.settle();
        }
        self.own.append_all(batches)
    }

    /// [`Self::append_all`] of one part of the changes of a tick.
    pub fn append_part(&mut self, batch: &ZBatch) -> Result<()> {
        if self.shared.is_some() {
            return Err(Error::internal("part of a tick for an index that is shared"));
        }
        self.own.append(batch)
    }

    pub fn forget(&mut self, column: usize, bound: i64) -> Result<()> {
        self.own.forget(column, bound)
    }

    /// Starts a probe of `rows` keys, `keys` as the side has them.
    pub fn plan(&self, keys: &[ArrayRef], rows: usize) -> Result<ContentPlan> {
        let base = self.base().map(|(_, base)| {
            let keys = base.order.iter().map(|k| keys.get(*k).cloned()).collect::<Option<Vec<_>>>();
            base.rows.plan(&keys.ok_or_else(|| Error::internal("a key is missing"))?, rows)
        });
        Ok(ContentPlan { own: self.own.plan(keys, rows)?, base: base.transpose()? })
    }

    /// See [`Arrangement::plan_within`]; such an index is never shared.
    pub fn plan_within(&self, keys: &[ArrayRef], rows: usize, within: CodeRanges) -> Result<ContentPlan> {
        if self.shared.is_some() {
            return Err(Error::internal("a range in an index without order"));
        }
        Ok(ContentPlan { own: self.own.plan_within(keys, rows, within)?, base: None })
    }

    /// The next matches of a plan from about `limit` candidates; `None` when there are no more.
    pub fn matches(&self, plan: &mut ContentPlan, limit: usize) -> Result<Option<Matches>> {
        if let Some(found) = self.own.matches(&mut plan.own, u32::MAX, limit)? {
            return Ok(Some(found));
        }
        let (Some((_, base)), Some(plan)) = (self.base(), &mut plan.base) else { return Ok(None) };
        let found = base.rows.matches(plan, limit)?;
        Ok(found.map(|mut m| {
            m.row.iter_mut().for_each(|r| *r |= OF_BASE);
            m
        }))
    }

    /// Upper bound of the number of matches of each of the `rows` keys of a plan.
    pub fn candidates(&self, plan: &ContentPlan, rows: usize) -> Vec<usize> {
        let mut counts = self.own.candidates(&plan.own, rows);
        if let (Some((_, base)), Some(plan)) = (self.base(), &plan.base) {
            counts.iter_mut().zip(base.rows.candidates(plan, rows)).for_each(|(n, m)| *n += m);
        }
        counts
    }

    /// Columns of the matched rows.
    pub fn gather(&self, rows: &[u64], columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let Some((shared, base)) = self.base() else { return self.own.gather(rows, columns) };
        let of_base = rows.iter().filter(|r| **r & OF_BASE != 0).count();
        if of_base == 0 {
            return self.own.gather(rows, columns);
        }
        let places: Option<Vec<usize>> = columns.iter().map(|c| shared.columns.get(*c).copied()).collect();
        let places = places.ok_or_else(|| Error::internal("a column that its side does not have"))?;
        let (mut ours, mut theirs) = (Vec::with_capacity(rows.len() - of_base), Vec::with_capacity(of_base));
        let at: Vec<(usize, usize)> = rows
            .iter()
            .map(|r| {
                let (source, list) = if r & OF_BASE == 0 { (0, &mut ours) } else { (1, &mut theirs) };
                list.push(r & !OF_BASE);
                (source, list.len() - 1)
            })
            .collect();
        let theirs = base.rows.gather(&theirs, &places)?;
        if ours.is_empty() {
            return Ok(theirs);
        }
        let ours = self.own.gather(&ours, columns)?;
        ours.iter().zip(&theirs).map(|(a, b)| compute::interleave(&[a.as_ref(), b.as_ref()], &at).e()).collect()
    }

    /// What changed since the last freeze. What is the relation's goes with the relation, and rows that are stored of a side
    /// that was not shared yet are no longer needed.
    pub fn freeze(&mut self, slot: &'static str) -> Result<SlotDelta> {
        if self.shared.is_some() {
            return Ok(SlotDelta { slot: slot.into(), replaces: true, batches: Vec::new() });
        }
        self.own.freeze(slot)
    }

    pub fn restore(&mut self, batch: &RecordBatch, keep: &dyn Fn(u64) -> bool) -> Result<()> {
        if self.shared.is_some() {
            return Ok(());
        }
        self.own.restore(batch, keep)
    }

    pub fn maintain(&mut self, fuel: usize) -> Result<bool> {
        self.own.maintain(fuel)
    }

    /// Size of what is the side's alone.
    pub fn stats(&self) -> StateStats {
        self.own.stats()
    }
}

impl Shared {
    /// Of each key column of an index of the relation its place among the keys of the join.
    fn order(&self, key: &[usize]) -> Result<Vec<usize>> {
        let place = |column: &usize| self.key.iter().position(|k| self.columns.get(*k) == Some(column));
        let order: Option<Vec<usize>> = key.iter().map(place).collect();
        order
            .filter(|o| o.len() == self.key.len())
            .ok_or_else(|| Error::internal("a join shares an index of other columns than its own"))
    }
}

#[cfg(test)]
impl Content {
    /// Number of changes on top of the base.
    pub fn own_rows(&self) -> usize {
        self.own.len()
    }
}
