//! Which part of a partition is matched again, and what is done with the result.

use arrow::array::RecordBatch;
use millstream_sql::matching::{Boundary, Piece, Resume};

use super::time::{Now, Settled};
use super::{Change, Given, MatchOp};
use crate::error::{Error, Result, ResultExt as _};
use crate::ops::ErrorSet;
use crate::ops::eval::{evaluation_error, is_of_data};
use crate::ops::partitioned::rows::Key;

/// The part of a partition that is matched again.
#[derive(Debug, Clone)]
pub(super) struct Work {
    slot: u32,
    begin: Resume,
    needs_from: u64,
    to: u64,
    /// What is settled, if time is known.
    settled: Option<Settled>,
    /// Only that is given.
    decided: bool,
}

impl Work {
    /// How many rows it takes.
    pub(super) fn rows(&self) -> u64 {
        self.to - self.needs_from
    }
}

/// What a part gave.
pub(super) struct Matches {
    given: Vec<Given>,
    boundaries: Vec<Boundary>,
    /// Where the first attempt begins that is not settled.
    pub(super) resume: Resume,
}

impl MatchOp {
    /// What must be matched again in a partition whose first changed row is this one. `woken`: time has come further for it.
    pub(super) fn work(
        &mut self,
        slot: u32,
        changed: Option<Key>,
        whole: bool,
        woken: bool,
        now: &Now,
    ) -> Option<Work> {
        let settled = match self.decided {
            true => Some(self.settled(slot, now.close.as_ref()?)),
            false => now.keep.as_ref().map(|f| self.settled(slot, f)),
        };
        let p = &mut self.partitions[slot as usize];
        let starts = p.rows.starts();
        let place = |key: Key| p.base + starts.position(&p.rows, p.rows.find(&key).unwrap_or_else(|place| place));
        let changed = changed.map(place);
        let end = p.base + starts.total;
        let (to, from) = match &settled {
            Some(s) if self.decided => {
                let to = s.upto.min(end).max(p.resume.row);
                (to, changed.filter(|c| *c < to).map(|c| c.min(p.stop.row)).or(woken.then_some(p.stop.row)))
            }
            _ => (end, changed.or(woken.then_some(p.resume.row))),
        };
        let from = if whole { p.resume.row } else { from? };
        let kept = p.boundaries.partition_point(|b| b.row <= from);
        p.boundaries.truncate(if whole { 0 } else { kept });
        let begin = match p.boundaries.last() {
            Some(b) if b.row > p.resume.row => Resume { row: b.row, matches: b.matches, covered: b.row, expires: None },
            _ => p.resume,
        };
        Some(self.work_from(slot, begin, to, settled, self.decided))
    }

    /// Matching from a place on.
    pub(super) fn work_from(&self, slot: u32, begin: Resume, to: u64, settled: Option<Settled>, decided: bool) -> Work {
        let base = self.partitions[slot as usize].base;
        let to = to.max(begin.row);
        let needs_from = begin.row.saturating_sub(self.back).max(base).min(to);
        Work { slot, begin, needs_from, to, settled, decided }
    }

    /// Matches parts of partitions; if that fails, finds the partitions that are to blame.
    pub(super) fn run(
        &mut self,
        works: &[Work],
        now: &Now,
        errors: &mut ErrorSet,
        out: &mut Vec<Change>,
    ) -> Result<()> {
        match self.compute(works) {
            Ok(found) => {
                for (w, found) in works.iter().zip(found) {
                    self.apply(w, found, now, out);
                }
                Ok(())
            }
            Err(e) if !is_of_data(&e) => Err(e),
            Err(e) => match works {
                [] => Err(e),
                [w] => self.fail(w.slot, e, now, errors, out),
                _ => {
                    let (a, b) = works.split_at(works.len() / 2);
                    self.run(a, now, errors, out)?;
                    self.run(b, now, errors, out)
                }
            },
        }
    }

    /// What each part gives.
    pub(super) fn compute(&self, works: &[Work]) -> Result<Vec<Matches>> {
        let mut keys: Vec<Key> = Vec::new();
        let mut pieces = Vec::with_capacity(works.len());
        for w in works {
            let from = keys.len();
            let p = &self.partitions[w.slot as usize];
            let (needs_from, to) = (w.needs_from - p.base, w.to - p.base);
            p.rows.each(&p.rows.starts(), needs_from, to, |e, first, end| {
                let copies = end.min(to) - first.max(needs_from);
                keys.extend((0..copies).map(|_| e.key.clone()));
            });
            let place = |row: u64| from + row.saturating_sub(w.needs_from) as usize;
            let (open, since) = match &w.settled {
                Some(Settled { upto, since: Some(since) }) => (place(*upto), Some(*since)),
                Some(Settled { since: None, .. }) | None => (usize::MAX, None),
            };
            pieces.push(Piece {
                from,
                to: keys.len(),
                first: place(w.begin.row),
                before: w.needs_from,
                matches: w.begin.matches,
                covered: place(w.begin.covered.max(w.begin.row)),
                open,
                since,
                decided: w.decided,
            });
        }
        let rows = RecordBatch::try_new(self.layout.plain.clone(), self.layout.decode(keys.iter())?).e()?;
        let found = self.matcher.run(&rows, &pieces).map_err(evaluation_error)?;
        let bytes = self.outputs.convert_columns(found.rows.columns()).e()?;
        let ends = found.boundaries.into_iter().zip(found.resumes);
        let mut out: Vec<Matches> =
            ends.map(|(boundaries, resume)| Matches { given: Vec::new(), boundaries, resume }).collect();
        for (i, (piece, start)) in found.pieces.iter().zip(&found.starts).enumerate() {
            out[*piece as usize].given.push((*start, Box::from(bytes.row(i).data())));
        }
        Ok(out)
    }

    /// Stores what a part gave; what differs from the last goes out. What is settled is forgotten.
    fn apply(&mut self, w: &Work, found: Matches, now: &Now, out: &mut Vec<Change>) {
        let Matches { given: new, boundaries, resume } = found;
        let p = &mut self.partitions[w.slot as usize];
        boundaries.into_iter().for_each(|b| b.add_to(&mut p.boundaries));
        let begin = p.given.partition_point(|g| g.0 < w.begin.row);
        let same = p.given[begin..].iter().zip(&new).take_while(|(a, b)| a == b).count();
        let old = p.given.split_off(begin + same);
        if !old.is_empty() || new.len() > same {
            let starts = old.iter().chain(new.iter().skip(same)).map(|g| g.0);
            let first = starts.min().unwrap_or(w.begin.row).min(p.changed.unwrap_or(u64::MAX));
            p.changed = Some(first);
            self.redone.insert(w.slot);
            self.given -= old.len();
            self.bytes -= old.iter().map(|g| g.1.len()).sum::<usize>();
            out.extend(old.into_iter().map(|g| (g.1, -1)));
            for g in new.into_iter().skip(same) {
                self.given += 1;
                self.bytes += g.1.len();
                out.push((g.1.clone(), 1));
                p.given.push(g);
            }
        }
        if w.decided {
            p.stop = resume;
        }
        // Under ALLOW LATENESS less is settled than given: that is seen to later.
        let forgets = !self.decided || now.same;
        let Some(settled) = w.settled.as_ref().filter(|_| forgets) else { return };
        let upto = if settled.since.is_none() { u64::MAX } else { settled.upto };
        if w.begin.row <= upto {
            self.forget_before(w.slot, resume);
        } else if let Some(b) = p.boundaries.iter().rfind(|b| b.row <= upto) {
            let b = Resume { row: b.row, matches: b.matches, covered: b.row, expires: None };
            self.forget_before(w.slot, b);
        }
    }

    /// Takes back the output of a partition that cannot be matched, but for what is settled before the row that it fails of.
    fn fail(&mut self, slot: u32, error: Error, now: &Now, errors: &mut ErrorSet, out: &mut Vec<Change>) -> Result<()> {
        let row = self.partitions[slot as usize].rows.iter().next().map(|e| e.key.clone());
        let (good, over) = self.good(slot, now)?;
        let p = &mut self.partitions[slot as usize];
        p.boundaries.clear();
        let begin = p.resume;
        let nothing = Matches { given: Vec::new(), boundaries: Vec::new(), resume: begin };
        let (work, found) = match good {
            Some(good) => good,
            None => (self.work_from(slot, begin, begin.row, None, true), nothing),
        };
        self.apply(&work, found, now, out);
        self.failing.add(&self.layout, slot, row.as_ref(), error, errors)?;
        if over {
            self.forget_rows(slot);
        }
        Ok(())
    }

    /// The most of a failing partition that can be settled, and whether it fails of a settled row. That a longer part fails
    /// if a shorter one does is taken for granted.
    fn good(&self, slot: u32, now: &Now) -> Result<(Option<(Work, Matches)>, bool)> {
        let Some(keep) = &now.keep else { return Ok((None, false)) };
        let resume = self.partitions[slot as usize].resume;
        let all = self.settled(slot, keep);
        let at = |settled: Settled| -> Result<Option<(Work, Matches)>> {
            let p = &self.partitions[slot as usize];
            let end = p.base + p.rows.starts().total;
            let work = self.work_from(slot, resume, settled.upto.min(end), Some(settled), true);
            match self.compute(std::slice::from_ref(&work)) {
                Ok(mut found) => Ok(found.pop().map(|found| (work, found))),
                Err(e) if is_of_data(&e) => Ok(None),
                Err(e) => Err(e),
            }
        };
        if let Some(good) = at(all.clone())? {
            return Ok((Some(good), false));
        }
        let moments = self.moments(slot, &all)?;
        let (mut good, mut low, mut high) = (None, 0, moments.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match at(moments[middle].clone())? {
                Some(found) => (good, low) = (Some(found), middle + 1),
                None => high = middle,
            }
        }
        Ok((good, true))
    }
}
