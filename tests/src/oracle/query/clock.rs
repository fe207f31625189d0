//! Conditions with `now()` that no clock reaches while a test runs: the times of rows are moved to past and future.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{Queries, Query};
use crate::oracle::values::{Col, Ty};

impl Queries<'_> {
    /// Rows whose time has come, or is not over.
    pub(super) fn clock(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let times: Vec<Col> = from.cols.iter().filter(|c| c.ty == Ty::Timestamp).cloned().collect();
        let Some(time) = times.choose(self.rng).map(|c| c.name.clone()) else { return self.project(&from, "") };
        let plain = self.predicate(&from.cols);
        let moved = format!("CASE WHEN {plain} THEN {time} ELSE {time} + INTERVAL '100 years' END");
        let condition = match self.rng.random_range(0..6) {
            0 => format!("now() < {time} + INTERVAL '100 years'"),
            1 => format!("{moved} <= now()"),
            2 => format!("{moved} > localtimestamp - INTERVAL '10 days'"),
            3 => format!("{moved} BETWEEN now() - INTERVAL '40000 days' AND CURRENT_TIMESTAMP"),
            4 => format!("NOT ({time} > now() OR {plain})"),
            _ => {
                let other = times.choose(self.rng).map_or(time.clone(), |c| c.name.clone());
                format!("({plain} OR {time} >= now() - INTERVAL '40000 days' AND {other} IS NOT NULL)")
            }
        };
        let more =
            if self.rng.random_bool(0.3) { format!(" AND {}", self.predicate(&from.cols)) } else { String::new() };
        self.project(&from, &format!(" WHERE {condition}{more}"))
    }
}
