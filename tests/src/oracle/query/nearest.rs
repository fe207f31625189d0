//! ASOF joins, and joins over ranges: bands, intervals, one-sided comparisons, with and without equal keys.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{From, Queries, Query};
use crate::oracle::values::{Col, Ty};

impl Queries<'_> {
    /// Columns of both sides that have one type and an order.
    fn comparable(&mut self, a: &[Col], b: &[Col]) -> Option<(Col, Col)> {
        let pairs: Vec<(&Col, &Col)> = a
            .iter()
            .flat_map(|x| b.iter().map(move |y| (x, y)))
            .filter(|(x, y)| x.ty == y.ty && x.ty != Ty::Bool)
            .collect();
        let timed: Vec<_> = pairs.iter().copied().filter(|(x, _)| x.ty == Ty::Timestamp).collect();
        let from = if !timed.is_empty() && self.rng.random_bool(0.5) { &timed } else { &pairs };
        from.choose(self.rng).map(|(x, y)| ((*x).clone(), (*y).clone()))
    }

    pub(super) fn as_of(&mut self, depth: usize) -> Query {
        let (a, b) = (self.from(depth), self.from(depth.saturating_sub(1)));
        let Some((x, y)) = self.comparable(&a.cols, &b.cols) else { return self.join(depth) };
        let key = if self.rng.random_bool(0.7) { self.comparable(&a.cols, &b.cols) } else { None };
        let keys = key.map(|(l, r)| format!("{} = {}", r.name, l.name));
        let op = ["<", "<=", ">", ">="].choose(self.rng).copied().unwrap_or(">=");
        let times = match self.rng.random_bool(0.7) {
            true => format!("{} {op} {}", x.name, y.name),
            false => format!("{} {op} {}", y.name, x.name),
        };
        let kinds = ["ASOF JOIN", "ASOF LEFT JOIN", "LEFT ASOF JOIN", "ASOF LEFT OUTER JOIN"];
        let kind = kinds.choose(self.rng).copied().unwrap_or("ASOF JOIN");
        let on = match (keys, self.rng.random_bool(0.3)) {
            (None, true) => format!("MATCH_CONDITION ({times})"),
            (Some(keys), true) => format!("MATCH_CONDITION ({times}) ON {keys}"),
            (None, false) => format!("ON {times}"),
            (Some(keys), false) => format!("ON {keys} AND {times}"),
        };
        let sql = format!("{} {kind} {} {on}", a.sql, b.sql);
        let from = From { sql, cols: a.cols.into_iter().chain(b.cols).collect() };
        let tail = self.maybe_where(&from.cols);
        self.project(&from, &tail)
    }

    fn range(&mut self, x: &Col, y: &Col) -> String {
        let (x, y, ty) = (&x.name, &y.name, x.ty);
        let ops = ["<", "<=", ">", ">="];
        let op = ops.choose(self.rng).copied().unwrap_or("<");
        match (ty, self.rng.random_range(0..4)) {
            (Ty::Timestamp, 0) => format!("{y} BETWEEN {x} AND {x} + INTERVAL '20 seconds'"),
            (Ty::Timestamp, 1) => {
                format!("{x} - INTERVAL '10 seconds' < {y} AND {y} <= {x} + INTERVAL '1500 milliseconds'")
            }
            (Ty::Timestamp, 2) => format!("{y} {op} {x} + INTERVAL '10 seconds'"),
            (Ty::Int | Ty::Big, 0) => format!("CAST({y} AS BIGINT) BETWEEN {x} AND {x}"),
            (Ty::Int, 1) => format!("{y} > CAST({x} AS BIGINT) - 2 AND {y} < CAST({x} AS BIGINT) + 2"),
            _ => format!("{x} {op} {y}"),
        }
    }

    /// A join over a range, or a test whether there is a partner.
    pub(super) fn near(&mut self, depth: usize) -> Query {
        let (a, b) = (self.from(depth), self.from(depth.saturating_sub(1)));
        let Some((x, y)) = self.comparable(&a.cols, &b.cols) else { return self.join(depth) };
        let mut on = self.range(&x, &y);
        if self.rng.random_bool(0.3)
            && let Some((x, y)) = self.comparable(&a.cols, &b.cols)
        {
            let more = self.range(&x, &y);
            on = format!("{on} AND {more}");
        }
        if self.rng.random_bool(0.4)
            && let Some((l, r)) = self.comparable(&a.cols, &b.cols)
        {
            on = format!("{on} AND {} = {}", l.name, r.name);
        }
        if self.rng.random_bool(0.25) {
            let not = if self.rng.random_bool(0.5) { "NOT " } else { "" };
            return self.project(&a, &format!(" WHERE {not}EXISTS (SELECT 1 FROM {} WHERE {on})", b.sql));
        }
        let kinds = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        let kind = kinds.choose(self.rng).copied().unwrap_or("JOIN");
        let sql = format!("{} {kind} {} ON {on}", a.sql, b.sql);
        let from = From { sql, cols: a.cols.into_iter().chain(b.cols).collect() };
        self.project(&from, "")
    }
}
