//! Subqueries as values and as parts of conditions, LATERAL, set operations that count.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{From, Queries, Query, qualify};
use crate::oracle::values::{Col, Ty};

impl Queries<'_> {
    /// A query with subqueries where DataFusion has none.
    pub(super) fn subquery(&mut self, depth: usize) -> Query {
        match self.rng.random_range(0..8) {
            0..=3 => self.with_value(depth),
            4 => self.with_condition(depth),
            5 | 6 => self.lateral(depth),
            _ => self.counted(depth),
        }
    }

    /// A condition between both that is seldom just an equality, or none.
    fn correlation(&mut self, a: &[Col], b: &[Col]) -> String {
        match self.rng.random_range(0..6) {
            0 => String::new(),
            1 => {
                let pair: Vec<(&Col, &Col)> =
                    a.iter().flat_map(|x| b.iter().map(move |y| (x, y))).filter(|(x, y)| x.ty == y.ty).collect();
                match pair.choose(self.rng) {
                    Some((x, y)) => {
                        let op = ["<", "<=", "<>", "IS NOT DISTINCT FROM"].choose(self.rng).copied().unwrap_or("<");
                        format!(" WHERE {} {op} {}", y.name, x.name)
                    }
                    None => String::new(),
                }
            }
            2 => {
                let (x, y) = (self.predicate(a), self.predicate(b));
                format!(" WHERE ({x} OR {y})")
            }
            _ => format!(" WHERE {}", self.condition(a, b)),
        }
    }

    /// Three-valued: IN, ANY, ALL, EXISTS.
    fn truth(&mut self, a: &[Col]) -> String {
        let b = self.table();
        let on = self.correlation(a, &b.cols);
        let not = if self.rng.random_bool(0.4) { "NOT " } else { "" };
        let pairs: Vec<(Col, Col)> = (a.iter())
            .flat_map(|x| b.cols.iter().map(move |y| (x.clone(), y.clone())))
            .filter(|(x, y)| x.ty == y.ty && x.ty != Ty::Bool)
            .collect();
        let Some((x, y)) = pairs.choose(self.rng).cloned() else {
            return format!("{not}EXISTS (SELECT 1 FROM {}{on})", b.sql);
        };
        match self.rng.random_range(0..6) {
            0 => format!("{not}EXISTS (SELECT 1 FROM {}{on})", b.sql),
            1 | 2 => {
                let op = ["=", "<>", "<", "<=", ">", ">="].choose(self.rng).copied().unwrap_or("=");
                let word = ["ANY", "ALL"].choose(self.rng).copied().unwrap_or("ANY");
                format!("{} {op} {word} (SELECT {} FROM {}{on})", x.name, y.name, b.sql)
            }
            3 => match pairs.choose(self.rng).cloned() {
                Some((v, w)) => format!(
                    "({}, {}) {not}IN (SELECT {} AS y0, {} AS y1 FROM {}{on})",
                    x.name, v.name, y.name, w.name, b.sql
                ),
                None => "true".into(),
            },
            _ => format!("{} {not}IN (SELECT {} FROM {}{on})", x.name, y.name, b.sql),
        }
    }

    fn scalar_value(&mut self, a: &[Col]) -> (String, Ty) {
        let b = self.table();
        let on = self.correlation(a, &b.cols);
        if self.rng.random_bool(0.4) {
            let Some(y) = b.cols.choose(self.rng).cloned() else { return ("1".into(), Ty::Int) };
            let order = self.total_order(&b.cols);
            let offset = if self.rng.random_bool(0.2) { " OFFSET 1" } else { "" };
            return (format!("(SELECT {} FROM {}{on} ORDER BY {order} LIMIT 1{offset})", y.name, b.sql), y.ty);
        }
        let (call, ty) = self.aggregate_call(&b.cols);
        (format!("(SELECT {call} FROM {}{on})", b.sql), ty)
    }

    fn with_value(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let (mut items, mut cols) = self.items(&from.cols, 2);
        let (value, ty) =
            if self.rng.random_bool(0.5) { (self.truth(&from.cols), Ty::Bool) } else { self.scalar_value(&from.cols) };
        items.push(format!("{value} AS x2"));
        cols.push(Col { name: "x2".into(), ty });
        let tail = self.maybe_where(&from.cols);
        Query { sql: format!("SELECT {} FROM {}{tail}", items.join(", "), from.sql), cols }
    }

    fn with_condition(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let (p, t) = (self.predicate(&from.cols), self.truth(&from.cols));
        let condition = match self.rng.random_range(0..4) {
            0 => t,
            1 => format!("({p} OR {t})"),
            2 => format!("NOT ({t})"),
            _ => format!("{t} AND {p} AND {}", self.truth(&from.cols)),
        };
        self.project(&from, &format!(" WHERE {condition}"))
    }

    fn lateral(&mut self, depth: usize) -> Query {
        let a = self.from(depth);
        let b = self.table();
        let on = self.correlation(&a.cols, &b.cols);
        let alias = self.alias();
        let (inner, cols) = match self.rng.random_range(0..3) {
            0 => {
                let (call, ty) = self.aggregate_call(&b.cols);
                (format!("SELECT {call} AS x0 FROM {}{on}", b.sql), vec![Col { name: "x0".into(), ty }])
            }
            1 => {
                let order = self.total_order(&b.cols);
                let (items, cols) = self.items(&b.cols, 2);
                let n = self.rng.random_range(1..4);
                (format!("SELECT {} FROM {}{on} ORDER BY {order} LIMIT {n}", items.join(", "), b.sql), cols)
            }
            _ => {
                let (items, cols) = self.items(&b.cols, 2);
                (format!("SELECT {} FROM {}{on}", items.join(", "), b.sql), cols)
            }
        };
        let word = if self.rng.random_bool(0.5) { "LEFT JOIN" } else { "JOIN" };
        let cols = a.cols.iter().cloned().chain(qualify(&alias, &cols)).collect();
        let from = From { sql: format!("{} {word} LATERAL ({inner}) AS {alias} ON true", a.sql), cols };
        self.project(&from, "")
    }

    fn counted(&mut self, depth: usize) -> Query {
        let n = self.rng.random_range(1..3);
        let types: Vec<Ty> = (0..n).map(|_| Ty::ALL.choose(self.rng).copied().unwrap_or(Ty::Int)).collect();
        let mut sql = self.typed(depth.saturating_sub(1), &types);
        for _ in 0..self.rng.random_range(1..3) {
            let words = ["EXCEPT ALL", "INTERSECT ALL", "EXCEPT", "INTERSECT", "UNION ALL"];
            let word = words.choose(self.rng).copied().unwrap_or("EXCEPT ALL");
            sql = format!("({sql}) {word} ({})", self.typed(depth.saturating_sub(1), &types));
        }
        let cols = types.iter().enumerate().map(|(i, ty)| Col { name: format!("x{i}"), ty: *ty }).collect();
        Query { sql, cols }
    }
}
