//! Random scalar expressions and predicates over given columns.

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

use super::values::{Col, Ty, literal};

/// Makes expressions over some columns.
pub struct Exprs<'a> {
    /// Randomness.
    pub rng: &'a mut SmallRng,
    /// What can be referred to.
    pub cols: &'a [Col],
    /// NaN and the like in literals.
    pub odd: bool,
    /// Division by a column: may fail.
    pub errors: bool,
}

impl Exprs<'_> {
    /// A column of a type.
    pub fn column(&mut self, ty: Ty) -> Option<String> {
        let fit: Vec<&Col> = self.cols.iter().filter(|c| c.ty == ty).collect();
        fit.choose(self.rng).map(|c| c.name.clone())
    }

    fn leaf(&mut self, ty: Ty) -> String {
        match self.column(ty) {
            Some(c) if self.rng.random_bool(0.85) => c,
            _ => match ty {
                Ty::Decimal | Ty::Big | Ty::Double => {
                    format!("CAST({} AS {})", literal(self.rng, ty, self.odd), ty.sql())
                }
                _ => literal(self.rng, ty, self.odd),
            },
        }
    }

    /// An expression of a type.
    pub fn of(&mut self, ty: Ty, depth: usize) -> String {
        if depth == 0 {
            return self.leaf(ty);
        }
        let d = depth - 1;
        match self.rng.random_range(0..8) {
            0 => format!("CASE WHEN {} THEN {} ELSE {} END", self.predicate(d), self.of(ty, d), self.of(ty, d)),
            1 => format!("coalesce({}, {})", self.of(ty, d), self.of(ty, d)),
            2 => format!("nullif({}, {})", self.of(ty, d), self.leaf(ty)),
            _ => self.operator(ty, d),
        }
    }

    fn operator(&mut self, ty: Ty, d: usize) -> String {
        match ty {
            Ty::Int | Ty::Big if self.errors && self.rng.random_bool(0.3) => {
                format!("(10 / {})", self.leaf(ty))
            }
            Ty::Int | Ty::Big => match self.rng.random_range(0..7) {
                // Operands are kept small: overflow has tests of its own.
                0 => format!("(({}) % 100 + ({}) % 100)", self.leaf(ty), self.leaf(ty)),
                1 => format!("(({}) % 100 - ({}) % 7)", self.leaf(ty), self.leaf(ty)),
                2 => format!("(({}) % 1000 * {})", self.leaf(ty), self.rng.random_range(-2..4)),
                3 => format!("({} / {})", self.leaf(ty), self.rng.random_range(2..5)),
                4 => format!("CAST({} AS {})", self.of(Ty::Bool, d), ty.sql()),
                5 => format!("CAST(char_length({}) AS {})", self.of(Ty::Text, d), ty.sql()),
                _ => self.leaf(ty),
            },
            Ty::Double => match self.rng.random_range(0..5) {
                0 => format!("({} + {})", self.of(ty, d), self.leaf(ty)),
                1 => format!("({} * 0.5)", self.of(ty, d)),
                2 => format!("CAST({} AS DOUBLE PRECISION)", self.of(Ty::Int, d)),
                3 => format!("abs({})", self.of(ty, d)),
                _ => self.leaf(ty),
            },
            Ty::Text => match self.rng.random_range(0..6) {
                0 => format!("upper({})", self.of(ty, d)),
                1 => format!("({} || {})", self.of(ty, d), self.leaf(ty)),
                2 => format!("substr({}, 1, 2)", self.of(ty, d)),
                3 => format!("CAST({} AS TEXT)", self.of(Ty::Int, d)),
                4 => format!("trim({})", self.of(ty, d)),
                _ => self.leaf(ty),
            },
            Ty::Bool => format!("({})", self.predicate(d)),
            Ty::Decimal => match self.rng.random_range(0..3) {
                0 => format!("({} + {})", self.leaf(ty), self.leaf(ty)),
                1 => format!("({} - {})", self.leaf(ty), self.leaf(ty)),
                _ => self.leaf(ty),
            },
            Ty::Timestamp => match self.rng.random_range(0..3) {
                0 => format!("({} + INTERVAL '10 seconds')", self.leaf(ty)),
                1 => format!("date_trunc('minute', {})", self.leaf(ty)),
                _ => self.leaf(ty),
            },
        }
    }

    /// A condition.
    pub fn predicate(&mut self, depth: usize) -> String {
        if depth > 0 && self.rng.random_bool(0.35) {
            let d = depth - 1;
            return match self.rng.random_range(0..3) {
                0 => format!("({} AND {})", self.predicate(d), self.predicate(d)),
                1 => format!("({} OR {})", self.predicate(d), self.predicate(d)),
                _ => format!("NOT ({})", self.predicate(d)),
            };
        }
        let Some(col) = self.cols.choose(self.rng).cloned() else { return "true".into() };
        let name = &col.name;
        if col.ty == Ty::Bool && self.rng.random_bool(0.5) {
            return name.clone();
        }
        match self.rng.random_range(0..9) {
            0 => format!("{name} IS NULL"),
            1 => format!("{name} IS NOT NULL"),
            2 => {
                let n = self.rng.random_range(1..4);
                let list: Vec<String> = (0..n).map(|_| literal(self.rng, col.ty, self.odd)).collect();
                let not = if self.rng.random_bool(0.3) { "NOT " } else { "" };
                format!("{name} {not}IN ({})", list.join(", "))
            }
            3 if col.ty == Ty::Text => {
                let pattern = ["a%", "%b", "_", "%"].choose(self.rng).copied().unwrap_or("%");
                format!("{name} LIKE '{pattern}'")
            }
            3 => {
                let (a, b) = (literal(self.rng, col.ty, false), literal(self.rng, col.ty, false));
                format!("{name} BETWEEN {a} AND {b}")
            }
            4 => format!("{name} IS DISTINCT FROM {}", self.leaf(col.ty)),
            _ => {
                let op = ["=", "<>", "<", "<=", ">", ">="].choose(self.rng).copied().unwrap_or("=");
                let d = depth.min(1);
                format!("{name} {op} {}", self.of(col.ty, d))
            }
        }
    }
}
