//! Rows from values: arrays taken apart, series, VALUES.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{From, Queries, Query};
use crate::oracle::values::{Col, Ty, literal};

impl Queries<'_> {
    /// Rows of a relation with the elements of an array, or of a series, of each.
    pub(super) fn unnested(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        if self.rng.random_bool(0.2) {
            let (array, ty) = self.array(&from.cols);
            let (mut items, mut cols) = self.items(&from.cols, 2);
            items.push(format!("unnest({array}) AS x2"));
            cols.push(Col { name: "x2".into(), ty });
            let tail = self.maybe_where(&from.cols);
            return Query { sql: format!("SELECT {} FROM {}{tail}", items.join(", "), from.sql), cols };
        }
        let alias = self.alias();
        let (call, ty) = match self.exprs(&from.cols).column(Ty::Int) {
            Some(to) if self.rng.random_bool(0.4) => (format!("generate_series(1, {to} % 4)"), Ty::Int),
            _ => {
                let (array, ty) = self.array(&from.cols);
                (format!("unnest({array})"), ty)
            }
        };
        let join = match self.rng.random_range(0..3) {
            0 => format!("LEFT JOIN LATERAL {call} AS {alias}(v) ON true"),
            _ => format!("CROSS JOIN LATERAL {call} AS {alias}(v)"),
        };
        let mut cols = from.cols.clone();
        cols.push(Col { name: format!("{alias}.v"), ty });
        let tail = self.maybe_where(&cols);
        self.project(&From { sql: format!("{} {join}", from.sql), cols }, &tail)
    }

    /// An array of one to three values of one type.
    fn array(&mut self, cols: &[Col]) -> (String, Ty) {
        let ty = Ty::ALL.choose(self.rng).copied().unwrap_or(Ty::Int);
        let n = self.rng.random_range(1..4);
        let one = |q: &mut Self| format!("CAST({} AS {})", q.exprs(cols).of(ty, 1), ty.sql());
        let values: Vec<String> = (0..n).map(|_| one(self)).collect();
        (format!("ARRAY[{}]", values.join(", ")), ty)
    }

    /// A relation joined to rows that are written down.
    pub(super) fn values(&mut self, depth: usize) -> Query {
        let types: Vec<Ty> = (0..2).map(|_| Ty::ALL.choose(self.rng).copied().unwrap_or(Ty::Int)).collect();
        let rows = self.rng.random_range(1..4);
        let row = |q: &mut Self| {
            let cells = types.iter().map(|ty| format!("CAST({} AS {})", literal(q.rng, *ty, false), ty.sql()));
            format!("({})", cells.collect::<Vec<_>>().join(", "))
        };
        let rows: Vec<String> = (0..rows).map(|_| row(self)).collect();
        let (a, alias) = (self.from(depth), self.alias());
        let cols = types.iter().enumerate().map(|(i, ty)| Col { name: format!("{alias}.v{i}"), ty: *ty }).collect();
        let values = From { sql: format!("(VALUES {}) AS {alias}(v0, v1)", rows.join(", ")), cols };
        let from = if self.rng.random_bool(0.5) { self.joined(a, values) } else { self.joined(values, a) };
        self.project(&from, "")
    }
}
