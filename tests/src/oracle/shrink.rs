//! Makes a failing script smaller: fewer steps, statements and rows, as long as it still fails.

use std::time::{Duration, Instant};

use super::run::{Failure, run_isolated};
use super::scenario::{Change, Scenario, Step};

/// The smallest failing script found within a time, and its failure.
pub fn shrink(scenario: &Scenario, failure: &Failure, budget: Duration) -> (Scenario, Failure) {
    let deadline = Instant::now() + budget;
    let mut best = (scenario.clone(), failure.clone());
    best.0.steps.truncate(failure.step + 1);
    loop {
        let before = size(&best.0);
        for candidate_of in [steps, statements, rows] {
            let mut i = 0;
            while let Some(candidate) = candidate_of(&best.0, i) {
                if Instant::now() > deadline {
                    return best;
                }
                match run_isolated(&candidate) {
                    Err(failure) => {
                        best = (candidate, failure);
                        // The same place now holds the next thing.
                    }
                    Ok(_) => i += 1,
                }
            }
        }
        if size(&best.0) == before {
            return best;
        }
    }
}

fn size(scenario: &Scenario) -> usize {
    let step = |s: &Step| match s {
        Step::Change { changes, .. } => 1 + changes.iter().map(weight).sum::<usize>(),
        _ => 1,
    };
    scenario.steps.iter().map(step).sum()
}

fn weight(change: &Change) -> usize {
    match change {
        Change::Insert { rows, .. } => 1 + rows.len(),
        Change::Other(_) => 1,
    }
}

/// Without the i-th step, counted from the end.
fn steps(scenario: &Scenario, i: usize) -> Option<Scenario> {
    let at = scenario.steps.len().checked_sub(i + 1)?;
    let mut smaller = scenario.clone();
    smaller.steps.remove(at);
    Some(smaller)
}

/// Without the i-th statement of steps with several.
fn statements(scenario: &Scenario, mut i: usize) -> Option<Scenario> {
    let mut smaller = scenario.clone();
    for step in &mut smaller.steps {
        if let Step::Change { changes, .. } = step
            && changes.len() > 1
        {
            if i < changes.len() {
                changes.remove(i);
                return Some(smaller);
            }
            i -= changes.len();
        }
    }
    None
}

/// Without the i-th row of inserts with several.
fn rows(scenario: &Scenario, mut i: usize) -> Option<Scenario> {
    let mut smaller = scenario.clone();
    for step in &mut smaller.steps {
        let Step::Change { changes, .. } = step else { continue };
        for change in changes {
            if let Change::Insert { rows, .. } = change
                && rows.len() > 1
            {
                if i < rows.len() {
                    rows.remove(i);
                    return Some(smaller);
                }
                i -= rows.len();
            }
        }
    }
    None
}
