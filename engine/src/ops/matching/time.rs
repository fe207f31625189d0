//! Event time: which rows of a partition are settled, and what of it can be forgotten.
//!
//! Where rows are in order of a time that a watermark bounds, those before it stay as they are and where they are. Attempts
//! at a match that depend on such rows alone are settled, up to the first that is not: it may still take rows, or wait for
//! one that ends it. Rows before it go, but for those that conditions of later rows look at.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::DataType;
use arrow::row::RowConverter;
use millstream_sql::matching::{Resume, ticks};
use millstream_sql::plan::time::{micros_array, value_of};

use super::MatchOp;
use super::run::Work;
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::OpTime;
use crate::ops::eval::{evaluation_error, is_of_data};
use crate::ops::partitioned::rows::Key;
use crate::ops::partitioned::{Layout, sort_field};
use crate::state::rows::DecodeRows as _;

/// The time that orders rows first.
pub(super) struct OrderTime {
    column: usize,
    data_type: DataType,
    converter: RowConverter,
    /// Bytes of it at the start of a row.
    length: usize,
}

impl OrderTime {
    pub(super) fn new(layout: &Layout, column: usize) -> Result<Self> {
        let by = layout.order.first().filter(|o| o.column == column);
        let by = by.ok_or_else(|| Error::internal("a time that is not the order of a pattern"))?;
        let data_type = layout.plain.field(column).data_type().clone();
        let converter = RowConverter::new(vec![sort_field(&layout.plain, by)]).e()?;
        let one = converter.convert_columns(&[arrow::array::new_null_array(&data_type, 1)]).e()?;
        let length = one.row(0).data().len();
        Ok(Self { column, data_type, converter, length })
    }

    /// How far time is when rows before a bound are settled.
    fn frontier(&self, bound: i64) -> Result<Option<Frontier>> {
        if bound == i64::MAX {
            return Ok(Some(Frontier::End));
        }
        let Some(time) = value_of(bound, &self.data_type) else { return Ok(None) };
        let time = time.to_array().map_err(evaluation_error)?;
        let order = self.converter.convert_columns(std::slice::from_ref(&time)).e()?.row(0).data().into();
        Ok(Some(Frontier::At { order, since: self.ticks(&time)?.unwrap_or(i64::MIN) }))
    }

    fn ticks(&self, time: &ArrayRef) -> Result<Option<i64>> {
        let ticks = ticks(time).map_err(evaluation_error)?;
        Ok(ticks.is_valid(0).then(|| ticks.value(0)))
    }

    /// The time of a row, in the unit of WITHIN.
    fn of(&self, key: &Key) -> Result<Option<i64>> {
        let parser = self.converter.parser();
        let time = key.get(..self.length).ok_or_else(|| Error::internal("a row without its order"))?;
        let columns = self.converter.decode_rows(std::iter::once(parser.parse(time)))?;
        columns.first().map_or(Ok(None), |c| self.ticks(c))
    }
}

/// How far time is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frontier {
    /// No row will change that is before this time: as an order, and in the unit of WITHIN.
    At { order: Box<[u8]>, since: i64 },
    /// No row will change.
    End,
}

/// How far time is after this tick: for what is forgotten, and for what is given under EMIT ON WINDOW CLOSE.
#[derive(Debug, Default)]
pub(super) struct Now {
    pub(super) keep: Option<Frontier>,
    pub(super) close: Option<Frontier>,
    /// They are the same: nothing that was given is corrected.
    pub(super) same: bool,
}

/// What is settled of a partition: rows up to a position. Others have this time or a later one; none come if there is none.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    pub(super) upto: u64,
    pub(super) since: Option<i64>,
}

/// When partitions are to be looked at.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    due: BTreeSet<(i64, u32)>,
    of: HashMap<u32, i64>,
}

impl Alarm {
    /// Sets when a partition is to be looked at: after this time.
    pub(super) fn set(&mut self, slot: u32, at: Option<i64>) {
        let before = match at {
            Some(at) => self.of.insert(slot, at),
            None => self.of.remove(&slot),
        };
        if before != at {
            before.into_iter().for_each(|b| _ = self.due.remove(&(b, slot)));
            self.due.extend(at.map(|at| (at, slot)));
        }
    }

    /// Those whose time is before this, in order.
    fn before(&self, since: i64) -> impl Iterator<Item = u32> + '_ {
        self.due.range(..(since, 0)).map(|(_, slot)| *slot)
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}

impl MatchOp {
    /// How far time is when a tick is over.
    pub(super) fn now(&self, times: &OpTime) -> Result<Now> {
        let Some(time) = &self.time else { return Ok(Now::default()) };
        let keep = times.forgettable(0).find(|(c, _)| *c == time.column);
        let keep = keep.map_or(Ok(None), |(_, bound)| time.frontier(bound))?;
        let close = times.closed.get(time.column).copied().flatten();
        let close = close.map_or(Ok(None), |b| time.frontier(b.micros()))?;
        Ok(Now { same: keep == close, keep, close })
    }

    /// Partitions of which more is settled than before, in order.
    pub(super) fn woken(&mut self, now: &Now) -> Vec<u32> {
        let both = [(&now.close, &self.closing), (&now.keep, &self.forgetting)];
        if both.iter().all(|(f, _)| f.is_none()) {
            return Vec::new();
        }
        let ended = both.iter().any(|(f, _)| **f == Some(Frontier::End)) && !self.ended;
        if std::mem::take(&mut self.waking) || ended {
            self.ended |= ended;
            return self.live();
        }
        let due = |(frontier, alarm): (&Option<Frontier>, &Alarm)| match frontier {
            Some(Frontier::At { since, .. }) => alarm.before(*since).collect(),
            Some(Frontier::End) | None => Vec::new(),
        };
        let mut woken: Vec<u32> = both.into_iter().flat_map(due).collect();
        woken.sort_unstable();
        woken.dedup();
        woken
    }

    /// What is settled of a partition.
    pub(super) fn settled(&self, slot: u32, frontier: &Frontier) -> Settled {
        let p = &self.partitions[slot as usize];
        match frontier {
            Frontier::At { order, since } => {
                let upto = p.base + p.rows.starts().first_from(&p.rows, order);
                Settled { upto, since: Some(*since) }
            }
            Frontier::End => Settled { upto: u64::MAX, since: None },
        }
    }

    /// What was settled of a partition at each time that its rows have, before it was as much as now.
    pub(super) fn moments(&self, slot: u32, now: &Settled) -> Result<Vec<Settled>> {
        let p = &self.partitions[slot as usize];
        let Some(time) = &self.time else { return Ok(Vec::new()) };
        let (mut all, mut last, mut at): (Vec<Settled>, &[u8], u64) = (Vec::new(), &[], p.base);
        for e in p.rows.iter() {
            let order = e.key.get(..time.length).unwrap_or_default();
            if at >= now.upto {
                break;
            }
            if at > p.resume.row
                && order != last
                && let Some(since) = time.of(&e.key)?
            {
                all.push(Settled { upto: at, since: Some(since) });
            }
            last = order;
            at += e.copies();
        }
        Ok(all)
    }

    /// Forgets what is settled: matches before a place, and rows that later ones do not look at.
    pub(super) fn forget_before(&mut self, slot: u32, resume: Resume) {
        let p = &mut self.partitions[slot as usize];
        let before = std::mem::replace(&mut p.resume, resume);
        if resume.row <= before.row {
            p.resume = Resume { expires: resume.expires, ..before };
            return;
        }
        self.moved.insert(slot);
        let settled = p.given.partition_point(|g| g.0 < resume.row);
        self.given -= settled;
        self.bytes -= p.given.drain(..settled).map(|g| g.1.len()).sum::<usize>();
        p.boundaries.retain(|b| b.row >= resume.row);
        // Stored matches before it are forgotten when they are read: others may be as they are.
        p.changed = p.changed.map(|c| c.max(resume.row)).filter(|c| *c < p.stored || !p.given.is_empty());
        let upto = resume.row.saturating_sub(self.back).saturating_sub(p.base);
        let Self { entries, bytes, dirty, .. } = self;
        p.base += p.rows.forget(upto, |e| {
            *entries -= 1;
            *bytes -= e.key.len();
            dirty.insert(e.key);
        });
    }

    /// Forgets all rows of a partition.
    pub(super) fn forget_rows(&mut self, slot: u32) {
        for e in std::mem::take(&mut self.partitions[slot as usize].rows).iter() {
            self.entries -= 1;
            self.bytes -= e.key.len();
            self.dirty.insert(e.key.clone());
        }
    }

    /// After the rows of these partitions were matched: forgets what matching does not say, and sets when they are looked
    /// at again.
    pub(super) fn forget(&mut self, slots: &[u32], now: &Now) -> Result<()> {
        let Some(keep) = &now.keep else { return Ok(()) };
        if self.decided && !now.same {
            // What is given may be corrected, so what is settled is less than what is given.
            let work = |op: &Self, slot: u32| -> Work {
                let p = &op.partitions[slot as usize];
                let settled = op.settled(slot, keep);
                let to = settled.upto.min(p.base + p.rows.starts().total);
                op.work_from(slot, p.resume, to, Some(settled), true)
            };
            for slot in slots.iter().filter(|s| !self.failing.contains(**s)).copied().collect::<Vec<u32>>() {
                match self.compute(&[work(self, slot)]) {
                    Ok(found) => found.into_iter().for_each(|m| self.forget_before(slot, m.resume)),
                    Err(e) if is_of_data(&e) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        for slot in slots {
            self.set_alarms(*slot, now)?;
        }
        Ok(())
    }

    fn set_alarms(&mut self, slot: u32, now: &Now) -> Result<()> {
        let Some(time) = &self.time else { return Ok(()) };
        let p = &self.partitions[slot as usize];
        let starts = p.rows.starts();
        // The first row that is not settled, and the last.
        let next = |frontier: &Option<Frontier>| -> Result<(Option<i64>, Option<i64>)> {
            let upto = frontier.as_ref().map_or(u64::MAX, |f| self.settled(slot, f).upto);
            let time_of =
                |row: u64| -> Result<Option<i64>> { starts.entry(&p.rows, row).map_or(Ok(None), |e| time.of(&e.key)) };
            let end = p.base + starts.total;
            if upto >= end { Ok((None, None)) } else { Ok((time_of(upto - p.base)?, time_of(starts.total - 1)?)) }
        };
        let closes = match self.decided {
            true => [next(&now.close)?.0, p.stop.expires].into_iter().flatten().min(),
            false => None,
        };
        // Rows that come look at the partition too; a silent one is looked at when all of it is settled.
        let forgets = match next(&now.keep)? {
            _ if self.decided && now.same => None,
            // What is settled of it goes out at once.
            (first, _) if self.failing.contains(slot) => [first, p.resume.expires].into_iter().flatten().min(),
            (first, last) => last.or(first).or(p.resume.expires),
        };
        self.closing.set(slot, closes);
        self.forgetting.set(slot, forgets);
        Ok(())
    }

    /// Forgets partitions by a time, which no later change can reach.
    pub(super) fn forget_partitions(&mut self, times: &OpTime) -> Result<()> {
        let of_key = |(c, bound)| self.layout.partition.iter().position(|p| *p == c).map(|k| (k, bound));
        let Some((key, bound)) = times.forgettable(0).find_map(of_key) else { return Ok(()) };
        // All are looked at when the oldest of them may go.
        if bound <= self.oldest {
            return Ok(());
        }
        let live = self.live();
        let columns = self.layout.decode_keys(live.iter().map(|s| self.partitions[*s as usize].key.as_ref()))?;
        let Some(times) = columns.get(key).and_then(micros_array) else { return Ok(()) };
        self.oldest = i64::MAX;
        let mut over = Vec::new();
        for (slot, time) in live.into_iter().zip(times.iter()) {
            match time {
                Some(t) if t < bound => over.push(slot),
                Some(t) => self.oldest = self.oldest.min(t),
                None => {}
            }
        }
        for slot in &over {
            self.forget_rows(*slot);
            let p = &mut self.partitions[*slot as usize];
            (p.base, p.resume, p.stop) = (0, Resume::default(), Resume::default());
            p.boundaries.clear();
            self.given -= p.given.len();
            self.bytes -= std::mem::take(&mut p.given).iter().map(|g| g.1.len()).sum::<usize>();
            self.failing.forget(*slot);
            self.closing.set(*slot, None);
            self.forgetting.set(*slot, None);
        }
        self.remove_empty(&over);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
