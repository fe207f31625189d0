//! Queries with window functions whose order leaves ties, grouping sets, and aggregates beyond the plain ones.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::{Queries, Query, Relation, qualify};
use crate::oracle::values::{Col, Ty};

const INTEGERS: &[Ty] = &[Ty::Int, Ty::Big];

impl Queries<'_> {
    fn one_of<'c>(&mut self, cols: &'c [Col], types: &[Ty]) -> Option<&'c Col> {
        let fitting: Vec<&Col> = cols.iter().filter(|c| types.contains(&c.ty)).collect();
        fitting.choose(self.rng).copied()
    }

    fn frame(&mut self, ordered: bool) -> String {
        let (a, b) = (self.rng.random_range(0..3), self.rng.random_range(0..3));
        let n = if ordered { 9 } else { 5 };
        let kind = self.rng.random_range(0..n);
        let exclude = match self.rng.random_range(0..8) {
            0 => " EXCLUDE CURRENT ROW",
            1 => " EXCLUDE GROUP",
            2 => " EXCLUDE TIES",
            3 => " EXCLUDE NO OTHERS",
            _ => "",
        };
        let frame = match kind {
            0 | 1 => return String::new(),
            2 => format!(" ROWS BETWEEN {a} PRECEDING AND {b} FOLLOWING"),
            3 => " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW".into(),
            4 => format!(" ROWS BETWEEN {a} FOLLOWING AND UNBOUNDED FOLLOWING"),
            5 => format!(" GROUPS BETWEEN {a} PRECEDING AND {b} FOLLOWING"),
            6 => format!(" GROUPS BETWEEN UNBOUNDED PRECEDING AND {b} FOLLOWING"),
            7 => " RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING".into(),
            _ => format!(" ROWS BETWEEN {} PRECEDING AND {a} PRECEDING", a + b),
        };
        frame + exclude
    }

    /// Window functions over partitions with ties, with and without frames.
    pub(super) fn over(&mut self, depth: usize) -> Query {
        let inner = self.query(depth.saturating_sub(1));
        let q = self.alias();
        let cols = qualify(&q, &inner.cols);
        let partition = match cols.choose(self.rng) {
            Some(c) if self.rng.random_bool(0.7) => format!("PARTITION BY {} ", c.name),
            _ => String::new(),
        };
        let mut order = Vec::new();
        for _ in 0..self.rng.random_range(0..3) {
            if let Some(c) = cols.choose(self.rng) {
                let how = ["", " DESC", " DESC NULLS LAST", " NULLS FIRST"].choose(self.rng).copied().unwrap_or("");
                order.push(format!("{}{how}", c.name));
            }
        }
        let ordered = !order.is_empty();
        let order = if ordered { format!("ORDER BY {}", order.join(", ")) } else { String::new() };
        let mut items: Vec<String> = inner.cols.iter().map(|c| format!("{q}.{0} AS {0}", c.name)).collect();
        let mut out = inner.cols.clone();
        for _ in 0..self.rng.random_range(1..4) {
            let frame = self.frame(ordered);
            let any = cols.choose(self.rng).cloned();
            let number = self.one_of(&cols, &[Ty::Int, Ty::Big, Ty::Double, Ty::Decimal]).cloned();
            let n = self.rng.random_range(1..4);
            let (call, frame, ty) = match (self.rng.random_range(0..14), any, number) {
                (0, ..) => ("row_number()".into(), "", Ty::Big),
                (1, ..) => {
                    (["rank()", "dense_rank()"].choose(self.rng).copied().unwrap_or("rank()").into(), "", Ty::Big)
                }
                (2, ..) => (format!("ntile({n})"), "", Ty::Big),
                (3, ..) => ("percent_rank()".into(), "", Ty::Double),
                (4, ..) => ("cume_dist()".into(), "", Ty::Double),
                (5, Some(c), _) => (format!("lag({}, {n})", c.name), "", c.ty),
                (6, Some(c), _) => (format!("lead({})", c.name), "", c.ty),
                (7, Some(c), _) => (format!("first_value({})", c.name), frame.as_str(), c.ty),
                (8, Some(c), _) => (format!("last_value({})", c.name), frame.as_str(), c.ty),
                (9, Some(c), _) => (format!("nth_value({}, {n})", c.name), frame.as_str(), c.ty),
                (10, _, Some(c)) => {
                    let ty = if c.ty == Ty::Int { Ty::Big } else { c.ty };
                    (format!("sum({})", c.name), frame.as_str(), ty)
                }
                (11, _, Some(c)) => (format!("max({})", c.name), frame.as_str(), c.ty),
                (12, _, Some(c)) => (format!("var_samp({})", c.name), frame.as_str(), Ty::Double),
                _ => ("count(*)".into(), frame.as_str(), Ty::Big),
            };
            let name = format!("x{}", out.len());
            items.push(format!("CAST({call} OVER ({partition}{order}{frame}) AS {}) AS {name}", ty.sql()));
            out.push(Col { name, ty });
        }
        Query { sql: format!("SELECT {} FROM ({}) AS {q}", items.join(", "), inner.sql), cols: out }
    }

    /// Sessions of a relation: its rows with their sessions, or an aggregate of each.
    pub(super) fn session(&mut self, relation: &Relation, ts: &str) -> Query {
        let alias = self.alias();
        let cols = qualify(&alias, &relation.cols);
        let key = match relation.cols.choose(self.rng) {
            Some(c) if self.rng.random_bool(0.7) => Some(c.clone()),
            _ => None,
        };
        let gap = ["3 seconds", "10 seconds", "1 minute"].choose(self.rng).copied().unwrap_or("10 seconds");
        let by = key.as_ref().map_or(String::new(), |k| format!(", {}", k.name));
        let call = format!("SESSION({}, {ts}, INTERVAL '{gap}'{by}) AS {alias}", relation.name);
        let ends = format!("{alias}.window_start AS x0, {alias}.window_end AS x1");
        let mut out: Vec<Col> = (0..2).map(|i| Col { name: format!("x{i}"), ty: Ty::Timestamp }).collect();
        let mut add = |ty: Ty| {
            out.push(Col { name: format!("x{}", out.len()), ty });
        };
        let sql = if self.rng.random_bool(0.5) {
            let mut items = Vec::new();
            for c in &relation.cols {
                items.push(format!(", {alias}.{} AS x{}", c.name, items.len() + 2));
                add(c.ty);
            }
            format!("SELECT {ends}{} FROM {call}", items.concat())
        } else {
            let (n, ty) = self.aggregate_call(&cols);
            add(ty);
            match &key {
                Some(k) => {
                    add(k.ty);
                    format!(
                        "SELECT {ends}, {n} AS x2, {alias}.{0} AS x3 FROM {call} GROUP BY 1, 2, {alias}.{0}",
                        k.name
                    )
                }
                None => format!("SELECT {ends}, {n} AS x2 FROM {call} GROUP BY 1, 2"),
            }
        };
        Query { sql, cols: out }
    }

    /// ROLLUP, CUBE and GROUPING SETS.
    pub(super) fn grouping_sets(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let filter = self.maybe_where(&from.cols);
        let mut keys: Vec<Col> = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            if let Some(c) = from.cols.choose(self.rng).filter(|c| keys.iter().all(|k| k.name != c.name)) {
                keys.push(c.clone());
            }
        }
        let names: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
        let all = names.join(", ");
        let sets = match self.rng.random_range(0..4) {
            0 => format!("ROLLUP ({all})"),
            1 => format!("CUBE ({all})"),
            2 => format!("GROUPING SETS (({all}), ({}))", names[0]),
            _ => format!("GROUPING SETS (({}), ())", names[names.len() - 1]),
        };
        // In the last form only the last key is a key.
        let keys = if sets.ends_with(", ())") { keys.split_off(keys.len() - 1) } else { keys };
        let mut items = Vec::new();
        let mut cols = Vec::new();
        for (i, k) in keys.iter().enumerate() {
            items.push(format!("{} AS x{i}", k.name));
            cols.push(Col { name: format!("x{i}"), ty: k.ty });
        }
        let shown: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
        items.push(format!("CAST(grouping({}) AS BIGINT) AS x{}", shown.join(", "), items.len()));
        cols.push(Col { name: format!("x{}", cols.len()), ty: Ty::Big });
        for _ in 0..self.rng.random_range(0..3) {
            let (call, ty) = self.aggregate_call(&from.cols);
            let name = format!("x{}", items.len());
            items.push(format!("{call} AS {name}"));
            cols.push(Col { name, ty });
        }
        Query { sql: format!("SELECT {} FROM {}{filter} GROUP BY {sets}", items.join(", "), from.sql), cols }
    }

    /// An aggregate beyond the plain ones, if there is a column for it.
    pub(super) fn further_aggregate(&mut self, cols: &[Col]) -> Option<(String, Ty)> {
        let any = cols.choose(self.rng)?.clone();
        let other = cols.choose(self.rng)?.clone();
        let number = self.one_of(cols, &[Ty::Int, Ty::Big, Ty::Double]).cloned();
        let integer = self.one_of(cols, INTEGERS).cloned();
        let truth = self.one_of(cols, &[Ty::Bool]).cloned();
        let text = self.one_of(cols, &[Ty::Text]).cloned();
        let p = ["0", "0.25", "0.5", "0.9", "1"].choose(self.rng).copied().unwrap_or("0.5");
        let how = ["", " DESC"].choose(self.rng).copied().unwrap_or("");
        Some(match self.rng.random_range(0..18) {
            0 => {
                let f = ["var_pop", "var_samp", "stddev_pop", "stddev_samp"].choose(self.rng).copied()?;
                (format!("{f}({})", number?.name), Ty::Double)
            }
            1 => {
                let f = ["corr", "covar_samp", "regr_slope", "regr_intercept", "regr_r2"].choose(self.rng).copied()?;
                (format!("{f}({}, {})", number.clone()?.name, integer.or(number)?.name), Ty::Double)
            }
            2 => {
                let c = integer?;
                (format!("{}({})", ["bit_and", "bit_or", "bit_xor"].choose(self.rng).copied()?, c.name), c.ty)
            }
            3 => (format!("every({})", truth?.name), Ty::Bool),
            4 => (format!("count_if({})", truth?.name), Ty::Big),
            5 => {
                let distinct = if self.rng.random_bool(0.3) { "DISTINCT " } else { "" };
                (format!("string_agg({distinct}{}, '|')", text?.name), Ty::Text)
            }
            6 => (format!("string_agg({}, '-' ORDER BY {}{how})", text?.name, other.name), Ty::Text),
            7 => (format!("array_to_string(array_agg({}), ',', '~')", integer?.name), Ty::Text),
            8 => (format!("array_to_string(array_agg({} ORDER BY {}{how}), ',')", integer?.name, other.name), Ty::Text),
            9 => (format!("percentile_cont({p}) WITHIN GROUP (ORDER BY {}{how})", number?.name), Ty::Double),
            10 => (format!("percentile_disc({p}) WITHIN GROUP (ORDER BY {}{how})", any.name), any.ty),
            11 => (format!("mode() WITHIN GROUP (ORDER BY {}{how})", any.name), any.ty),
            13 => {
                let c = integer?.name;
                (
                    format!(
                        "array_to_string(percentile_disc(ARRAY[0.1, {p}, 1]) WITHIN GROUP (ORDER BY {c}{how}), ',', '~')"
                    ),
                    Ty::Text,
                )
            }
            14 => {
                let c = integer.or(text)?.name;
                let distinct = if self.rng.random_bool(0.3) { "DISTINCT " } else { "" };
                (format!("CAST(json_agg({distinct}{c} ORDER BY {c}{how}) AS TEXT)"), Ty::Text)
            }
            15 => {
                let c = integer.or(truth).or(text)?.name;
                (format!("CAST(jsonb_agg({c} ORDER BY {c}{how}) AS TEXT)"), Ty::Text)
            }
            16 => {
                let (k, v) = (text?.name, integer?.name);
                (format!("CAST(jsonb_object_agg(coalesce({k}, '-'), {v} ORDER BY {v}{how}) AS TEXT)"), Ty::Text)
            }
            12 => {
                let f = ["first_value", "last_value"].choose(self.rng).copied()?;
                (format!("{f}({} ORDER BY {}{how})", any.name, other.name), any.ty)
            }
            _ => (format!("any_value({})", any.name), any.ty),
        })
    }
}
