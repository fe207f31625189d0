//! WITH RECURSIVE.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{From, Queries, Query, qualify};
use crate::oracle::values::{Col, Ty};

impl Queries<'_> {
    /// What is reached from some values by the rows of a table, each taken for a step from one value to another. Values
    /// are those of expressions over that table alone, so that UNION comes to an end; UNION ALL counts its steps.
    pub(super) fn recursive(&mut self, depth: usize) -> Query {
        let ty = [Ty::Int, Ty::Int, Ty::Big, Ty::Text, Ty::Decimal].choose(self.rng).copied().unwrap_or(Ty::Int);
        let (r, w) = (self.alias(), self.alias());
        let base = self.from(depth.saturating_sub(1));
        let start = self.typed_value(&base.cols, ty);
        let filter = self.maybe_where(&base.cols);
        let table = self.table();
        let (at, to) = (self.typed_value(&table.cols, ty), self.typed_value(&table.cols, ty));

        let all = self.rng.random_bool(0.4);
        let counted = all || self.rng.random_bool(0.3);
        let mut terms = Vec::new();
        let from = match self.rng.random_range(0..7) {
            0 => format!("{} JOIN {w} AS {r} ON {r}.n = {at}", table.sql),
            1 => {
                terms.push(format!("{at} = {r}.n"));
                format!("{w} AS {r}, {}", table.sql)
            }
            2 => format!("{w} AS {r} LEFT JOIN {} ON {at} = {r}.n", table.sql),
            3 => format!("{} RIGHT JOIN {w} AS {r} ON {at} = {r}.n", table.sql),
            4 => format!("{w} AS {r} JOIN {} ON {at} = {r}.n AND {}", table.sql, self.predicate(&table.cols)),
            _ => format!("{w} AS {r} JOIN {} ON {at} = {r}.n", table.sql),
        };
        if self.rng.random_bool(0.3) {
            terms.push(self.predicate(&table.cols));
        }
        if self.rng.random_bool(0.2) {
            let other = self.table();
            let value = self.typed_value(&other.cols, ty);
            let not = if self.rng.random_bool(0.5) { "NOT " } else { "" };
            terms.push(format!("{not}EXISTS (SELECT 1 FROM {} WHERE {value} = {r}.n)", other.sql));
        }
        let steps = if all { 2 } else { 3 };
        if counted {
            terms.push(format!("{r}.d < {steps}"));
        }
        let filtered = if terms.is_empty() { String::new() } else { format!(" WHERE {}", terms.join(" AND ")) };
        let distinct = if self.rng.random_bool(0.1) { "DISTINCT " } else { "" };
        let word = if all { "UNION ALL" } else { "UNION" };
        let (columns, first, next) = match counted {
            true => ("n, d", ", CAST(0 AS INT)", format!(", CAST({r}.d + 1 AS INT)")),
            false => ("n", "", String::new()),
        };
        let with = format!(
            "WITH RECURSIVE {w}({columns}) AS (SELECT {start}{first} FROM {}{filter} {word} SELECT {distinct}{to}{next} \
             FROM {from}{filtered})",
            base.sql
        );
        let reached = self.alias();
        let mut cols = vec![Col { name: "n".into(), ty }];
        if counted {
            cols.push(Col { name: "d".into(), ty: Ty::Int });
        }
        let from = From { sql: format!("{w} AS {reached}"), cols: qualify(&reached, &cols) };
        let body = match self.rng.random_range(0..3) {
            0 => {
                let call = self.aggregate_call(&from.cols);
                let sql = format!("SELECT {0}.n AS x0, {1} AS x1 FROM {2} GROUP BY 1", reached, call.0, from.sql);
                let cols = vec![Col { name: "x0".into(), ty }, Col { name: "x1".into(), ty: call.1 }];
                Query { sql, cols }
            }
            1 => {
                let other = self.table();
                let from = self.joined(from, other);
                self.project(&from, "")
            }
            _ => {
                let items: Vec<String> = cols.iter().enumerate().map(|(i, c)| format!("{} AS x{i}", c.name)).collect();
                let named = cols.iter().enumerate().map(|(i, c)| Col { name: format!("x{i}"), ty: c.ty });
                Query { sql: format!("SELECT {} FROM {}", items.join(", "), from.sql), cols: named.collect() }
            }
        };
        Query { sql: format!("{with} {}", body.sql), cols: body.cols }
    }

    /// An expression of exactly this type.
    fn typed_value(&mut self, cols: &[Col], ty: Ty) -> String {
        let value = match self.exprs(cols).column(ty) {
            Some(c) if self.rng.random_bool(0.8) => c,
            _ => self.exprs(cols).of(ty, 1),
        };
        format!("CAST({value} AS {})", ty.sql())
    }
}
