//! The pattern as instructions of a backtracking machine.
//!
//! | pattern | instructions |
//! |---|---|
//! | `A` | `Row` |
//! | `P Q` | P, Q |
//! | `P \| Q` | `Split` to P, then to Q |
//! | `P*` | `Split` to P and back, then on; the other way around if reluctant |
//! | `P{n,m}` | n times P, then m - n times one that may be left out |
//!
//! The first way of a `Split` is the preferred one, and the machine takes it first: the first match it finds is the one
//! the standard prefers. An optional repetition without rows is no repetition: where the body of a loop may be empty,
//! `Enter` and `Leave` around it see to that.

use super::clauses::Pattern;
use crate::error::{Result, SqlError, SqlState};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inst {
    /// Takes the next row for a variable.
    Row { variable: u32, excluded: bool },
    /// Tries one way, then the other.
    Split { first: u32, second: u32 },
    /// Goes on elsewhere.
    Jump(u32),
    /// Before the first row of the partition.
    Start,
    /// After its last row.
    End,
    /// A repetition begins.
    Enter(u32),
    /// It ends: it must have taken rows.
    Leave(u32),
    /// The pattern has matched.
    Match,
}

/// Instructions that a pattern may become.
const INSTRUCTIONS_MAX: usize = 50_000;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) code: Vec<Inst>,
    /// Loops whose body may be empty.
    pub(super) loops: u32,
    /// For each instruction the loops of this kind that it is inside of, as a position in `sets`.
    inside: Vec<usize>,
    sets: Vec<Vec<u32>>,
}

/// Loops of one inside of the other whose repetitions are told apart; failures deeper inside are not remembered.
const LOOPS_MAX: usize = 32;

impl Program {
    pub(super) fn new(pattern: &Pattern) -> Result<Self> {
        let mut p = Self { code: Vec::new(), loops: 0, inside: Vec::new(), sets: vec![Vec::new()] };
        p.compile(pattern, false, 0)?;
        p.push(Inst::Match, 0)?;
        Ok(p)
    }

    /// For each instruction: whether what follows from there depends on its place, its row and
    /// [`Self::repetitions`] alone, if the conditions of the variables that `fixed` says depend on the row alone.
    pub(super) fn memorable(&self, fixed: impl Fn(u32) -> bool) -> Vec<bool> {
        let n = self.code.len();
        let moving = |i: usize| matches!(self.code[i], Inst::Row { variable, .. } if !fixed(variable));
        // Whether a condition that is not fixed can be reached, from the end backwards until nothing changes.
        let mut reaches: Vec<bool> = (0..n).map(moving).collect();
        loop {
            let mut changed = false;
            for i in (0..n).rev() {
                let leads = match self.code[i] {
                    Inst::Split { first, second } => reaches[first as usize] || reaches[second as usize],
                    Inst::Jump(to) => reaches[to as usize],
                    Inst::Match => false,
                    _ => reaches[i + 1],
                };
                if leads && !reaches[i] {
                    reaches[i] = true;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        reaches.into_iter().zip(&self.inside).map(|(r, set)| !r && self.sets[*set].len() <= LOOPS_MAX).collect()
    }

    /// What follows from an instruction inside of loops that may be empty depends on whether each of these repetitions
    /// has taken a row: one bit a loop. If it has not, it began at this row, so the bits say all there is.
    pub(super) fn repetitions(&self, pc: usize, row: usize, registers: &[usize]) -> u32 {
        let set = &self.sets[self.inside[pc]];
        set.iter().fold(0, |bits, r| bits << 1 | u32::from(registers[*r as usize] != row))
    }

    fn push(&mut self, inst: Inst, inside: usize) -> Result<usize> {
        if self.code.len() >= INSTRUCTIONS_MAX {
            return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "the pattern is too large")
                .detail(format!("Written without quantifiers and PERMUTE it has more than {INSTRUCTIONS_MAX} parts."))
                .hint("Use smaller bounds in quantifiers, or fewer patterns in PERMUTE."));
        }
        self.code.push(inst);
        self.inside.push(inside);
        Ok(self.code.len() - 1)
    }

    fn here(&self) -> u32 {
        self.code.len() as u32
    }

    fn compile(&mut self, p: &Pattern, excluded: bool, inside: usize) -> Result<()> {
        match p {
            Pattern::Empty => {}
            Pattern::Variable(v) => {
                self.push(Inst::Row { variable: *v, excluded }, inside)?;
            }
            Pattern::Start => {
                self.push(Inst::Start, inside)?;
            }
            Pattern::End => {
                self.push(Inst::End, inside)?;
            }
            Pattern::Concat(all) => all.iter().try_for_each(|p| self.compile(p, excluded, inside))?,
            Pattern::Either(all) => {
                let all: Vec<Vec<&Pattern>> = all.iter().map(|p| vec![p]).collect();
                self.either(&all, excluded, inside)?;
            }
            Pattern::Permute(all) => {
                let mut orders = Vec::new();
                permutations(&mut Vec::new(), &all.iter().collect::<Vec<_>>(), &mut orders);
                self.either(&orders, excluded, inside)?;
            }
            Pattern::Exclude(inner) => self.compile(inner, true, inside)?,
            Pattern::Repeat { inner, min, max, greedy } => {
                for _ in 0..*min {
                    self.compile(inner, excluded, inside)?;
                }
                match max {
                    None => self.star(inner, *greedy, excluded, inside)?,
                    Some(max) => {
                        let mut splits = Vec::new();
                        for _ in *min..*max {
                            splits.push(self.push(Inst::Split { first: 0, second: 0 }, inside)?);
                            self.body(inner, excluded, inside)?;
                        }
                        for at in splits {
                            self.split(at, at as u32 + 1, self.here(), *greedy);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn split(&mut self, at: usize, body: u32, on: u32, greedy: bool) {
        let (first, second) = if greedy { (body, on) } else { (on, body) };
        self.code[at] = Inst::Split { first, second };
    }

    fn star(&mut self, inner: &Pattern, greedy: bool, excluded: bool, inside: usize) -> Result<()> {
        let head = self.push(Inst::Split { first: 0, second: 0 }, inside)?;
        self.body(inner, excluded, inside)?;
        self.push(Inst::Jump(head as u32), inside)?;
        self.split(head, head as u32 + 1, self.here(), greedy);
        Ok(())
    }

    /// A repetition that may be left out: if it is there, it takes rows.
    fn body(&mut self, inner: &Pattern, excluded: bool, inside: usize) -> Result<()> {
        if !may_be_empty(inner) {
            return self.compile(inner, excluded, inside);
        }
        let register = self.loops;
        self.loops += 1;
        self.push(Inst::Enter(register), inside)?;
        let deeper = self.sets[inside].iter().copied().chain([register]).collect();
        self.sets.push(deeper);
        let deeper = self.sets.len() - 1;
        self.compile(inner, excluded, deeper)?;
        self.push(Inst::Leave(register), deeper)?;
        Ok(())
    }

    fn either(&mut self, all: &[Vec<&Pattern>], excluded: bool, inside: usize) -> Result<()> {
        let mut jumps = Vec::new();
        for (i, branch) in all.iter().enumerate() {
            let split = match i + 1 < all.len() {
                true => Some(self.push(Inst::Split { first: 0, second: 0 }, inside)?),
                false => None,
            };
            branch.iter().try_for_each(|p| self.compile(p, excluded, inside))?;
            if let Some(at) = split {
                jumps.push(self.push(Inst::Jump(0), inside)?);
                self.split(at, at as u32 + 1, self.here(), true);
            }
        }
        let end = self.here();
        for at in jumps {
            self.code[at] = Inst::Jump(end);
        }
        Ok(())
    }
}

/// All orders, those first that keep what is written first.
fn permutations<'p>(chosen: &mut Vec<&'p Pattern>, rest: &[&'p Pattern], out: &mut Vec<Vec<&'p Pattern>>) {
    if rest.is_empty() {
        out.push(chosen.clone());
        return;
    }
    for (i, p) in rest.iter().enumerate() {
        chosen.push(p);
        let others: Vec<&Pattern> = rest.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, p)| *p).collect();
        permutations(chosen, &others, out);
        chosen.pop();
    }
}

/// Whether the pattern matches no rows, if anything.
pub(super) fn may_be_empty(p: &Pattern) -> bool {
    match p {
        Pattern::Empty | Pattern::Start | Pattern::End => true,
        Pattern::Variable(_) => false,
        Pattern::Concat(all) | Pattern::Permute(all) => all.iter().all(may_be_empty),
        Pattern::Either(all) => all.iter().any(may_be_empty),
        Pattern::Exclude(inner) => may_be_empty(inner),
        Pattern::Repeat { inner, min, .. } => *min == 0 || may_be_empty(inner),
    }
}
