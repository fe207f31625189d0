//! The matcher: one attempt at a row after the other.
//!
//! An attempt runs the [`Program`] with backtracking, preferred ways first. Where what follows depends on the place in the
//! pattern and the row alone, a failure is remembered, so that no place is tried twice at a row: patterns whose conditions
//! look at fixed distances cost about rows times instructions, for all attempts together. Others have a limit of steps.
//!
//! An attempt also says how far it has *reached*: which rows, or absence of rows, it depends on. Where no attempt before
//! a row has reached it, matching can begin again from that row alone ([`Boundary`]).
//!
//! Of a partition to which rows still come, but none before some place, an attempt is *decided* if it depends on nothing
//! from that place on. WITHIN decides too: no row is in time any more if those that may come are too late. Attempts before
//! the first one that is not decided are settled for good ([`Resume`]).

use std::collections::HashSet;

use datafusion::error::Result;

use super::clauses::{RowsPerMatch, Skip};
use super::planner::user;
use super::program::{Inst, Program};
use super::{Piece, Shape, Variables, position};
use crate::error::{SqlError, SqlState};

/// Steps of one attempt.
const STEPS_MAX: u64 = 50_000_000;
/// Remembered failures; beyond, those of rows that no attempt comes to any more are forgotten.
const REMEMBERED: usize = 1 << 20;
/// Boundaries are about so many rows apart.
const SPACING: u64 = 32;

/// A row of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) variable: u32,
    pub(super) excluded: bool,
}

/// A place in a partition where matching can begin again whatever rows come from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Rows of the partition before it.
    pub row: u64,
    /// Matches that begin before it.
    pub matches: u64,
}

impl Boundary {
    /// Adds it to those before it, in the place of the last one if that is close to its neighbour.
    pub fn add_to(self, all: &mut Vec<Self>) {
        match all.as_mut_slice() {
            [.., last] if last.row >= self.row => {}
            [.., before, last] if last.row - before.row < SPACING => *last = self,
            _ => all.push(self),
        }
    }
}

/// Where matching goes on when more rows come: everything before is decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resume {
    /// Rows of the partition before it.
    pub row: u64,
    /// Matches that begin before it.
    pub matches: u64,
    /// Rows of the partition up to this one are part of a match that begins before it.
    pub covered: u64,
    /// The last time that a row of a match from here on may have, if it is that which decides.
    pub expires: Option<i64>,
}

/// A match: its steps are of consecutive rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matched {
    pub(super) first: u32,
    /// In [`Found::steps`].
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) number: i64,
}

/// A row of the result.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutRow {
    /// The row at which the attempt began.
    pub(super) attempt: u32,
    pub(super) piece: u32,
    /// Whose columns it has.
    pub(super) row: u32,
    /// In [`Found::matches`]; none for an unmatched row.
    pub(super) matched: Option<u32>,
    /// Rows of the match up to the current one.
    pub(super) upto: u32,
}

/// What was found in the pieces of a batch.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) steps: Vec<Step>,
    pub(super) matches: Vec<Matched>,
    pub(super) rows: Vec<OutRow>,
}

/// The rows of an attempt so far.
#[derive(Debug, Default)]
pub(super) struct Path {
    pub(super) start: usize,
    pub(super) steps: Vec<Step>,
    /// Sets of variables whose rows are listed.
    sets: Vec<Variables>,
    lists: Vec<List>,
    next: u64,
}

/// Rows of a set of variables, each with a number that no other row before it had: a row that was taken back and taken
/// again is told apart.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) rows: Vec<u32>,
    pub(super) numbers: Vec<u64>,
}

impl Path {
    pub(super) fn new(sets: Vec<Variables>) -> Self {
        let lists = sets.iter().map(|_| List::default()).collect();
        Self { sets, lists, ..Self::default() }
    }

    pub(super) fn list(&self, set: usize) -> &List {
        &self.lists[set]
    }

    fn begin(&mut self, start: usize) {
        self.start = start;
        self.truncate(0);
    }

    fn push(&mut self, step: Step) {
        let row = (self.start + self.steps.len()) as u32;
        self.next += 1;
        for (set, list) in self.sets.iter().zip(&mut self.lists) {
            if in_set(set, step.variable) {
                list.rows.push(row);
                list.numbers.push(self.next);
            }
        }
        self.steps.push(step);
    }

    fn truncate(&mut self, len: usize) {
        while self.steps.len() > len {
            let Some(step) = self.steps.pop() else { return };
            for (set, list) in self.sets.iter().zip(&mut self.lists) {
                if in_set(set, step.variable) {
                    list.rows.pop();
                    list.numbers.pop();
                }
            }
        }
    }
}

pub(super) fn in_set(set: &[u32], variable: u32) -> bool {
    set.is_empty() || set.contains(&variable)
}

/// Conditions of variables over the rows of a piece.
pub(super) trait Conditions {
    /// An attempt begins at the match of this number.
    fn begin(&mut self, number: u64);
    /// The part of a condition that only the row and its neighbours decide.
    fn fixed(&self, variable: u32, row: usize) -> bool;
    /// Whether there is another part.
    fn is_moving(&self, variable: u32) -> bool;
    /// The other part, for the last row of the path.
    fn moving(&mut self, variable: u32, path: &Path) -> Result<bool>;
    /// WITHIN.
    fn in_time(&self, start: usize, row: usize) -> bool;
    /// WITHIN: the last time of a match that begins here; `None` if there is none.
    fn last_time(&self, start: usize) -> Option<i64>;
}

enum Choice {
    /// Another way from here.
    Way { pc: u32, len: u32 },
    /// What a register was.
    Register { register: u32, row: usize },
    /// Both ways from an instruction have failed, at a row and in certain repetitions.
    Settled((u32, u32, u32)),
}

/// Attempts over the rows of one piece.
pub(super) struct Search<'p> {
    program: &'p Program,
    memorable: &'p [bool],
    piece: Piece,
    /// How far conditions and measures look after a row.
    ahead: usize,
    /// Failures hold for later attempts too.
    lasting: bool,
    failed: HashSet<(u32, u32, u32)>,
    choices: Vec<Choice>,
    registers: Vec<usize>,
    pub(super) path: Path,
    /// Rows before it decide the attempt, whatever comes.
    reached: usize,
    /// Rows before it decide the attempt if rows from [`Piece::open`] on have the times that they are said to have.
    waits: usize,
}

impl<'p> Search<'p> {
    pub(super) fn new(
        program: &'p Program,
        memorable: &'p [bool],
        shape: &Shape,
        piece: Piece,
        ahead: usize,
        sets: Vec<Variables>,
    ) -> Self {
        Self {
            program,
            memorable,
            piece,
            ahead,
            lasting: shape.within.is_none(),
            failed: HashSet::new(),
            choices: Vec::new(),
            registers: vec![usize::MAX; program.loops as usize],
            path: Path::new(sets),
            reached: 0,
            waits: 0,
        }
    }

    /// Finds the preferred match that begins at a row; its rows are in `path`.
    pub(super) fn attempt(&mut self, start: usize, conditions: &mut impl Conditions) -> Result<bool> {
        self.path.begin(start);
        self.choices.clear();
        (self.reached, self.waits) = (start + 1, start + 1);
        if !self.lasting {
            self.failed.clear();
        } else if self.failed.len() > REMEMBERED {
            self.failed.retain(|(_, row, _)| *row as usize >= start);
        }
        let mut pc = 0usize;
        for _ in 0..STEPS_MAX {
            let row = start + self.path.steps.len();
            let goes_on = match self.program.code[pc] {
                Inst::Row { variable, excluded } => {
                    pc += 1;
                    self.takes(row, Step { variable, excluded }, conditions)?
                }
                Inst::Split { first, second } => {
                    let known = self.memorable[pc];
                    let key = match known {
                        true => (pc as u32, row as u32, self.program.repetitions(pc, row, &self.registers)),
                        false => (0, 0, 0),
                    };
                    if known && self.failed.contains(&key) {
                        false
                    } else {
                        if known {
                            self.choices.push(Choice::Settled(key));
                        }
                        self.choices.push(Choice::Way { pc: second, len: self.path.steps.len() as u32 });
                        pc = first as usize;
                        true
                    }
                }
                Inst::Jump(to) => {
                    pc = to as usize;
                    true
                }
                Inst::Start => {
                    pc += 1;
                    row == self.piece.from && self.piece.before == 0
                }
                Inst::End => {
                    pc += 1;
                    self.reached = self.reached.max(row + 1);
                    self.waits = self.waits.max(row + 1);
                    row == self.piece.to
                }
                Inst::Enter(register) => {
                    pc += 1;
                    let before = std::mem::replace(&mut self.registers[register as usize], row);
                    self.choices.push(Choice::Register { register, row: before });
                    true
                }
                Inst::Leave(register) => {
                    pc += 1;
                    self.registers[register as usize] != row
                }
                Inst::Match => return Ok(true),
            };
            if !goes_on {
                match self.back() {
                    Some(way) => pc = way,
                    None => return Ok(false),
                }
            }
        }
        Err(user(
            SqlError::new(SqlState::DATA_EXCEPTION, "the pattern takes too many steps to match")
                .detail(format!("An attempt at one row took more than {STEPS_MAX} steps."))
                .hint("Make the conditions of neighbouring variables exclude each other, or use WITHIN."),
        ))
    }

    fn takes(&mut self, row: usize, step: Step, conditions: &mut impl Conditions) -> Result<bool> {
        if row >= self.piece.to || !conditions.in_time(self.path.start, row) {
            self.reached = self.reached.max(row + 1);
            if row >= self.piece.open && !self.is_over(conditions) {
                self.waits = self.waits.max(row + 1);
            }
            return Ok(false);
        }
        self.reached = self.reached.max(row + 1 + self.ahead);
        self.waits = self.waits.max(row + 1 + self.ahead);
        if !conditions.fixed(step.variable, row) {
            return Ok(false);
        }
        self.path.push(step);
        if conditions.is_moving(step.variable) && !conditions.moving(step.variable, &self.path)? {
            self.path.truncate(self.path.steps.len() - 1);
            return Ok(false);
        }
        Ok(true)
    }

    /// True if no row that may still come is in time for the attempt.
    fn is_over(&self, conditions: &impl Conditions) -> bool {
        let last = conditions.last_time(self.path.start);
        self.piece.since.zip(last).is_some_and(|(since, last)| last < since)
    }

    /// The next way that was not tried.
    fn back(&mut self) -> Option<usize> {
        while let Some(choice) = self.choices.pop() {
            match choice {
                Choice::Way { pc, len } => {
                    self.path.truncate(len as usize);
                    return Some(pc as usize);
                }
                Choice::Register { register, row } => self.registers[register as usize] = row,
                Choice::Settled(key) => {
                    self.failed.insert(key);
                }
            }
        }
        None
    }

    /// All matches of the piece, where matching can begin again, and what is decided.
    pub(super) fn run(
        &mut self,
        shape: &Shape,
        number: usize,
        conditions: &mut impl Conditions,
        found: &mut Found,
    ) -> Result<(Vec<Boundary>, Resume)> {
        let piece = self.piece;
        let mut boundaries: Vec<Boundary> = Vec::new();
        let (mut at, mut matches) = (piece.first, piece.matches);
        // Rows before these are part of a match; decide an attempt so far.
        let (mut covered, mut reached) = (piece.covered, piece.first);
        let mut resume: Option<Resume> = None;
        let place = |row: usize| piece.before + (row - piece.from) as u64;
        loop {
            let here = Resume { row: place(at), matches, covered: place(covered), expires: None };
            // Rows of a match that reaches further are told from unmatched ones, which a boundary does not say.
            if reached <= at && covered <= at {
                Boundary { row: here.row, matches }.add_to(&mut boundaries);
            }
            if at >= piece.to {
                return Ok((boundaries, resume.unwrap_or(here)));
            }
            conditions.begin(matches + 1);
            let matched = self.attempt(at, conditions)?;
            reached = reached.max(self.reached);
            let mut waits = self.waits;
            if matched {
                waits = waits.max(at + self.path.steps.len().max(1) + self.ahead);
            }
            if waits > piece.open && resume.is_none() {
                let expires = conditions.last_time(at).filter(|_| !self.is_over(conditions));
                let here = Resume { expires, ..here };
                if piece.decided {
                    return Ok((boundaries, here));
                }
                resume = Some(here);
            }
            let mut out =
                OutRow { attempt: position(at)?, piece: position(number)?, row: position(at)?, matched: None, upto: 0 };
            if !matched {
                if shape.rows == RowsPerMatch::WithUnmatched && at >= covered {
                    found.rows.push(out);
                }
                at += 1;
                continue;
            }
            matches += 1;
            let steps = &self.path.steps;
            let len = steps.len();
            reached = reached.max(at + len.max(1) + self.ahead);
            let from = position(found.steps.len())?;
            found.steps.extend_from_slice(steps);
            out.matched = Some(position(found.matches.len())?);
            let to = position(found.steps.len())?;
            let number = i64::try_from(matches).unwrap_or(i64::MAX);
            found.matches.push(Matched { first: out.attempt, from, to, number });
            match (shape.rows, len) {
                (RowsPerMatch::One, _) => found.rows.push(OutRow { upto: to - from, ..out }),
                (RowsPerMatch::OmitEmpty, 0) => {}
                (_, 0) => found.rows.push(out),
                _ => {
                    let shown = steps.iter().zip(0u32..).filter(|(s, _)| !s.excluded);
                    found.rows.extend(shown.map(|(_, i)| OutRow { row: out.row + i, upto: i + 1, ..out }));
                }
            }
            covered = covered.max(at + len);
            at = next(&shape.skip, at, steps)?;
        }
    }
}

/// Where the next attempt begins.
fn next(skip: &Skip, at: usize, steps: &[Step]) -> Result<usize> {
    let (of, found) = match skip {
        _ if steps.is_empty() => return Ok(at + 1),
        Skip::PastLastRow => return Ok(at + steps.len()),
        Skip::ToNextRow => return Ok(at + 1),
        Skip::ToFirst(of) => (of, steps.iter().position(|s| of.contains(&s.variable))),
        Skip::ToLast(of) => (of, steps.iter().rposition(|s| of.contains(&s.variable))),
    };
    let wrong = |message: &str, detail: String| {
        let hint = "Use AFTER MATCH SKIP TO NEXT ROW or PAST LAST ROW, or skip to a variable that every match has after its first row.";
        Err(user(SqlError::new(SqlState::DATA_EXCEPTION, message).detail(detail).hint(hint)))
    };
    match found {
        Some(0) => wrong(
            "AFTER MATCH SKIP goes to the first row of the match",
            "The next match would begin where this one did.".into(),
        ),
        Some(i) => Ok(at + i),
        None => wrong(
            "AFTER MATCH SKIP goes to a variable that has no row in the match",
            format!("The match has no row of {}.", if of.len() == 1 { "this variable" } else { "these variables" }),
        ),
    }
}
