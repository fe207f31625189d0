//! Queries with MATCH_RECOGNIZE: random patterns over random relations, in an order with ties.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{Queries, Query, qualify};
use crate::oracle::values::{Col, Ty};

const VARIABLES: [&str; 3] = ["A", "B", "C"];

impl Queries<'_> {
    fn variable(&mut self) -> &'static str {
        VARIABLES.choose(self.rng).copied().unwrap_or("A")
    }

    /// A piece of a pattern that may be empty.
    fn part(&mut self, depth: usize, exclude: bool) -> String {
        let inner = match self.rng.random_range(0..10) {
            0 | 1 if depth > 0 => {
                format!("({} | {})", self.part(depth - 1, exclude), self.part(depth - 1, exclude))
            }
            2 if depth > 0 => format!("({} {})", self.part(depth - 1, exclude), self.part(depth - 1, exclude)),
            3 if depth > 0 => format!("PERMUTE({}, {})", self.variable(), self.part(depth - 1, exclude)),
            4 if exclude => format!("{{- {} -}}", self.variable()),
            _ => self.variable().to_owned(),
        };
        let quantifier = ["", "", "", "*", "+", "?", "*?", "+?", "{2}", "{1,3}", "{,2}", "{2,}"].choose(self.rng);
        format!("{inner}{}", quantifier.copied().unwrap_or(""))
    }

    /// The condition of a variable over columns without qualifiers.
    fn row_condition(&mut self, variable: &str, cols: &[Col]) -> String {
        let other = self.variable();
        let Some(c) = cols.choose(self.rng).map(|c| c.name.clone()) else { return "true".into() };
        let number = cols.iter().find(|c| matches!(c.ty, Ty::Int | Ty::Big)).map(|c| c.name.clone());
        let n = self.rng.random_range(1..4);
        let compare = ["<", "<=", "=", "<>", ">"].choose(self.rng).copied().unwrap_or("<");
        match (self.rng.random_range(0..12), number) {
            (0 | 1, _) => self.predicate(cols),
            (2, _) => self.predicate(&qualify(variable, cols)),
            (3, _) => format!("{c} {compare} PREV({c}, {n})"),
            (4, _) => format!("{variable}.{c} {compare} NEXT({variable}.{c})"),
            (5, _) => format!("LAST({variable}.{c}, 1) IS NULL OR {variable}.{c} {compare} LAST({variable}.{c}, 1)"),
            (6, _) => format!("{c} {compare} FIRST({other}.{c})"),
            (7, _) => format!("COUNT({other}.*) < {n}"),
            (8, _) => format!("COUNT(*) <= {n} OR {c} {compare} {other}.{c}"),
            (9, Some(number)) => format!("SUM({variable}.{number}) < 10"),
            (10, _) => format!("PREV(CLASSIFIER(), 1) IS NULL OR PREV(CLASSIFIER(), 1) <> '{other}'"),
            _ => format!("{c} IS NOT NULL"),
        }
    }

    fn measure(&mut self, cols: &[Col]) -> (String, Ty) {
        let v = self.variable();
        let n = self.rng.random_range(0..3);
        let semantics = ["", "RUNNING ", "FINAL "].choose(self.rng).copied().unwrap_or("");
        let Some(c) = cols.choose(self.rng).cloned() else { return ("MATCH_NUMBER()".into(), Ty::Big) };
        let number = cols.iter().find(|c| matches!(c.ty, Ty::Int | Ty::Big | Ty::Decimal)).map(|c| c.name.clone());
        match (self.rng.random_range(0..11), number) {
            (0, _) => ("MATCH_NUMBER()".into(), Ty::Big),
            (1, _) => ("CLASSIFIER()".into(), Ty::Text),
            (2, _) => (format!("{v}.{}", c.name), c.ty),
            (3, _) => (format!("{semantics}FIRST({v}.{}, {n})", c.name), c.ty),
            (4, _) => (format!("{semantics}LAST({}, {n})", c.name), c.ty),
            (5, _) => (format!("PREV({v}.{})", c.name), c.ty),
            (6, _) => (format!("NEXT(LAST({}), 2)", c.name), c.ty),
            (7, _) => (format!("{semantics}COUNT({v}.{})", c.name), Ty::Big),
            (8, Some(number)) => (format!("{semantics}SUM({number})"), Ty::Decimal),
            (9, _) => (format!("{semantics}MAX({v}.{})", c.name), c.ty),
            _ => (format!("{semantics}COUNT(*)"), Ty::Big),
        }
    }

    pub(super) fn matches(&mut self, depth: usize) -> Query {
        let (from, cols) = if depth == 0 || self.rng.random_bool(0.6) {
            let relation = self.relations.choose(self.rng).cloned().expect("there are tables");
            (relation.name, relation.cols)
        } else {
            let inner = self.query(depth - 1);
            (format!("({}) AS {}", inner.sql, self.alias()), inner.cols)
        };
        let q = self.alias();
        let mut clauses = Vec::new();
        let partition = cols.choose(self.rng).cloned().filter(|_| self.rng.random_bool(0.7));
        if let Some(c) = &partition {
            clauses.push(format!("PARTITION BY {}", c.name));
        }
        let timed = cols.iter().find(|c| c.ty == Ty::Timestamp).cloned();
        let mut order = Vec::new();
        for _ in 0..self.rng.random_range(0..3) {
            if let Some(c) = cols.choose(self.rng) {
                let how = ["", " DESC", " DESC NULLS LAST", " NULLS FIRST"].choose(self.rng).copied().unwrap_or("");
                order.push(format!("{}{how}", c.name));
            }
        }
        let within = timed.filter(|_| self.rng.random_bool(0.3));
        if let Some(c) = &within {
            order.insert(0, c.name.clone());
        }
        if !order.is_empty() {
            clauses.push(format!("ORDER BY {}", order.join(", ")));
        }
        let mut items = Vec::new();
        let mut out = Vec::new();
        let mut measures = Vec::new();
        if let Some(c) = &partition {
            items.push(format!("{q}.{} AS x0", c.name));
            out.push(Col { name: "x0".into(), ty: c.ty });
        }
        for i in 0..self.rng.random_range(1..4) {
            let (measure, ty) = self.measure(&cols);
            measures.push(format!("{measure} AS m{i}"));
            let name = format!("x{}", out.len());
            items.push(format!("CAST({q}.m{i} AS {}) AS {name}", ty.sql()));
            out.push(Col { name, ty });
        }
        clauses.push(format!("MEASURES {}", measures.join(", ")));
        let rows =
            ["ONE ROW", "ALL ROWS", "ALL ROWS", "omit", "unmatched"].choose(self.rng).copied().unwrap_or("ONE ROW");
        clauses.push(match rows {
            "omit" => "ALL ROWS PER MATCH OMIT EMPTY MATCHES".into(),
            "unmatched" => "ALL ROWS PER MATCH WITH UNMATCHED ROWS".into(),
            rows => format!("{rows} PER MATCH"),
        });
        // The last form of a skip is for patterns that begin with an A which is not skipped to.
        let skip = self.rng.random_range(0..4);
        clauses.push(
            match skip {
                0 => "AFTER MATCH SKIP TO NEXT ROW",
                1 => "AFTER MATCH SKIP TO LAST B",
                _ => "AFTER MATCH SKIP PAST LAST ROW",
            }
            .into(),
        );
        let exclude = rows != "unmatched";
        let mut pattern: Vec<String> = (0..self.rng.random_range(1..4)).map(|_| self.part(1, exclude)).collect();
        if skip == 1 {
            pattern.insert(0, "A".into());
            pattern.push("B".into());
        }
        match self.rng.random_range(0..12) {
            0 => pattern.insert(0, "^".into()),
            1 => pattern.push("$".into()),
            _ => {}
        }
        // Conditions and measures name all three.
        let pattern = format!("({}) | (A B C)", pattern.join(" "));
        let pattern = if skip == 1 { pattern.replace(" | (A B C)", " | (A B C B)") } else { pattern };
        clauses.push(format!("PATTERN ({pattern})"));
        if within.is_some() {
            clauses.push("WITHIN INTERVAL '40 seconds'".into());
        }
        let mut defined: Vec<String> = Vec::new();
        for v in VARIABLES {
            if defined.is_empty() || self.rng.random_bool(0.7) {
                let condition = self.row_condition(v, &cols);
                defined.push(format!("{v} AS {condition}"));
            }
        }
        clauses.push(format!("DEFINE {}", defined.join(", ")));
        let sql = format!("SELECT {} FROM {from} MATCH_RECOGNIZE ({}) AS {q}", items.join(", "), clauses.join(" "));
        Query { sql, cols: out }
    }
}
