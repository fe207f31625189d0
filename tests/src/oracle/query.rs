//! Random queries over given relations.
//!
//! Every query names its output columns `x0, x1, ..`; every FROM item has an alias of its own. What is nested is small, so
//! that a failing query can be read.

mod clock;
mod matches;
mod nearest;
mod recursive;
mod rows;
mod subquery;
mod windows;

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::expr::Exprs;
use super::scenario::Features;
use super::values::{Col, Ty, literal};

/// A relation that can be read.
#[derive(Debug, Clone)]
pub struct Relation {
    /// Name.
    pub name: String,
    /// Columns, unqualified.
    pub cols: Vec<Col>,
}

/// A query and its columns.
#[derive(Debug, Clone)]
pub struct Query {
    /// Text.
    pub sql: String,
    /// Output columns, unqualified.
    pub cols: Vec<Col>,
}

/// Makes queries.
pub struct Queries<'a> {
    /// Randomness.
    pub rng: &'a mut SmallRng,
    /// What can be read.
    pub relations: &'a [Relation],
    /// What may appear.
    pub features: &'a Features,
    next: usize,
}

struct From {
    sql: String,
    cols: Vec<Col>,
}

const AGGREGATED: &[Ty] = &[Ty::Int, Ty::Big, Ty::Double, Ty::Decimal];

impl<'a> Queries<'a> {
    /// A generator.
    pub fn new(rng: &'a mut SmallRng, relations: &'a [Relation], features: &'a Features) -> Self {
        Self { rng, relations, features, next: 0 }
    }

    fn alias(&mut self) -> String {
        self.next += 1;
        format!("q{}", self.next)
    }

    fn exprs<'b>(&'b mut self, cols: &'b [Col]) -> Exprs<'b> {
        Exprs { rng: self.rng, cols, odd: self.features.odd_doubles, errors: self.features.errors }
    }

    fn predicate(&mut self, cols: &[Col]) -> String {
        self.exprs(cols).predicate(2)
    }

    fn maybe_where(&mut self, cols: &[Col]) -> String {
        if self.rng.random_bool(0.4) { format!(" WHERE {}", self.predicate(cols)) } else { String::new() }
    }

    fn table(&mut self) -> From {
        let relation = self.relations.choose(self.rng).cloned().expect("there are tables");
        let alias = self.alias();
        let cols = qualify(&alias, &relation.cols);
        From { sql: format!("{} AS {alias}", relation.name), cols }
    }

    fn from(&mut self, depth: usize) -> From {
        if depth == 0 || self.rng.random_bool(0.6) {
            return self.table();
        }
        let inner = self.query(depth - 1);
        let alias = self.alias();
        From { sql: format!("({}) AS {alias}", inner.sql), cols: qualify(&alias, &inner.cols) }
    }

    /// A query.
    pub fn query(&mut self, depth: usize) -> Query {
        let windows = self.features.windows;
        match self.rng.random_range(0..if windows { 49 } else { 39 }) {
            0..=2 => self.select(depth),
            3..=6 => self.join(depth),
            7..=10 => self.aggregate(depth),
            11 => self.union(depth),
            12 => self.distinct(depth),
            13..=15 => self.semi(depth),
            16 => self.top_n(depth),
            17 => self.row_number(depth),
            18 => self.twice(depth),
            19 if windows => self.window(depth),
            20 => self.scalar(depth),
            21 if windows => self.tumble(),
            22 => self.two_joins(),
            23..=29 => self.subquery(depth),
            30 | 31 => self.over(depth),
            32 => self.grouping_sets(depth),
            33..=35 => self.recursive(depth),
            36 | 37 => self.unnested(depth),
            38 => self.values(depth),
            39 | 40 => self.as_of(depth),
            41..=43 => self.near(depth),
            44..=46 => self.matches(depth),
            47 | 48 => self.clock(depth),
            _ => self.global(depth),
        }
    }

    fn items(&mut self, cols: &[Col], n: usize) -> (Vec<String>, Vec<Col>) {
        let mut items = Vec::new();
        let mut out = Vec::new();
        for i in 0..n {
            let (sql, ty) = match cols.choose(self.rng) {
                Some(c) if self.rng.random_bool(0.65) => (c.name.clone(), c.ty),
                _ => {
                    let ty = Ty::ALL.choose(self.rng).copied().unwrap_or(Ty::Int);
                    (self.exprs(cols).of(ty, 2), ty)
                }
            };
            items.push(format!("{sql} AS x{i}"));
            out.push(Col { name: format!("x{i}"), ty });
        }
        (items, out)
    }

    fn project(&mut self, from: &From, tail: &str) -> Query {
        let n = self.rng.random_range(1..5);
        let (items, cols) = self.items(&from.cols, n);
        Query { sql: format!("SELECT {} FROM {}{tail}", items.join(", "), from.sql), cols }
    }

    fn select(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let tail = self.maybe_where(&from.cols);
        self.project(&from, &tail)
    }

    /// An equality between a column of each side, if any types meet.
    fn equality(&mut self, a: &[Col], b: &[Col]) -> Option<String> {
        let mut pairs: Vec<(&Col, &Col)> =
            a.iter().flat_map(|x| b.iter().map(move |y| (x, y))).filter(|(x, y)| x.ty == y.ty).collect();
        if self.rng.random_bool(0.8) {
            pairs.retain(|(x, _)| x.ty != Ty::Bool);
        }
        let (x, y) = pairs.choose(self.rng).copied()?;
        let op = if self.rng.random_bool(0.06) { "IS NOT DISTINCT FROM" } else { "=" };
        Some(format!("{} {op} {}", x.name, y.name))
    }

    fn condition(&mut self, a: &[Col], b: &[Col]) -> String {
        let mut terms = Vec::new();
        if self.rng.random_bool(0.95) {
            terms.extend(self.equality(a, b));
        }
        if self.rng.random_bool(0.12) {
            terms.extend(self.equality(a, b));
        }
        if terms.is_empty() || self.rng.random_bool(0.3) {
            let both: Vec<Col> = a.iter().chain(b).cloned().collect();
            let pairs: Vec<(&Col, &Col)> =
                a.iter().flat_map(|x| b.iter().map(move |y| (x, y))).filter(|(x, y)| x.ty == y.ty).collect();
            match pairs.choose(self.rng) {
                Some((x, y)) if self.rng.random_bool(0.6) => {
                    let op = ["<", "<=", "<>", ">"].choose(self.rng).copied().unwrap_or("<");
                    terms.push(format!("{} {op} {}", x.name, y.name));
                }
                _ => terms.push(self.predicate(&both)),
            }
        }
        terms.join(" AND ")
    }

    fn join_kind(&mut self) -> &'static str {
        let kinds = ["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
        kinds.choose(self.rng).copied().unwrap_or("JOIN")
    }

    fn joined(&mut self, a: From, b: From) -> From {
        let kind = self.join_kind();
        let on = self.condition(&a.cols, &b.cols);
        let cols = a.cols.into_iter().chain(b.cols).collect();
        From { sql: format!("{} {kind} {} ON {on}", a.sql, b.sql), cols }
    }

    fn join(&mut self, depth: usize) -> Query {
        let (a, b) = (self.from(depth), self.from(depth.saturating_sub(1)));
        let from = self.joined(a, b);
        let tail =
            if self.rng.random_bool(0.25) { format!(" WHERE {}", self.predicate(&from.cols)) } else { String::new() };
        self.project(&from, &tail)
    }

    fn two_joins(&mut self) -> Query {
        let (a, b, c) = (self.table(), self.table(), self.table());
        let ab = self.joined(a, b);
        let from = self.joined(ab, c);
        self.project(&from, "")
    }

    fn aggregate_call(&mut self, cols: &[Col]) -> (String, Ty) {
        if self.rng.random_bool(0.3)
            && let Some((call, ty)) = self.further_aggregate(cols)
        {
            // What wraps an aggregate cannot be filtered.
            if !call.starts_with("array_to_string") && !call.starts_with("CAST(") && self.rng.random_bool(0.2) {
                return (format!("{call} FILTER (WHERE {})", self.exprs(cols).predicate(1)), ty);
            }
            return (call, ty);
        }
        let numeric: Vec<Ty> = AGGREGATED.iter().copied().filter(|t| cols.iter().any(|c| c.ty == *t)).collect();
        let any: Vec<Col> = cols.iter().filter(|c| c.ty != Ty::Bool).cloned().collect();
        let (call, ty) = match self.rng.random_range(0..12) {
            0..=2 if !numeric.is_empty() => {
                let ty = numeric.choose(self.rng).copied().unwrap_or(Ty::Int);
                let arg = if self.rng.random_bool(0.8) { self.exprs(cols).column(ty) } else { None };
                let arg = match arg {
                    Some(a) => a,
                    None => self.exprs(cols).of(ty, 1),
                };
                (format!("sum({arg})"), if ty == Ty::Int { Ty::Big } else { ty })
            }
            3..=4 if !numeric.is_empty() => {
                let ty = numeric.choose(self.rng).copied().unwrap_or(Ty::Int);
                let arg = self.exprs(cols).column(ty).unwrap_or_else(|| "1".into());
                (format!("avg({arg})"), if ty == Ty::Decimal { ty } else { Ty::Double })
            }
            5..=7 if !any.is_empty() => {
                let c = any.choose(self.rng).cloned().unwrap_or_else(|| cols[0].clone());
                let f = ["min", "max"].choose(self.rng).copied().unwrap_or("min");
                (format!("{f}({})", c.name), c.ty)
            }
            8 if !cols.is_empty() => {
                let c = cols.choose(self.rng).cloned().unwrap_or_else(|| cols[0].clone());
                (format!("count(DISTINCT {})", c.name), Ty::Big)
            }
            9 if !cols.is_empty() => {
                let c = cols.choose(self.rng).cloned().unwrap_or_else(|| cols[0].clone());
                (format!("count({})", c.name), Ty::Big)
            }
            10 => match self.exprs(cols).column(Ty::Bool) {
                Some(c) => (format!("bool_or({c})"), Ty::Bool),
                None => ("count(*)".into(), Ty::Big),
            },
            _ => ("count(*)".into(), Ty::Big),
        };
        if self.rng.random_bool(0.2) {
            return (format!("{call} FILTER (WHERE {})", self.exprs(cols).predicate(1)), ty);
        }
        (call, ty)
    }

    fn aggregate(&mut self, depth: usize) -> Query {
        let from = match self.rng.random_range(0..3) {
            0 => {
                let (a, b) = (self.table(), self.table());
                self.joined(a, b)
            }
            _ => self.from(depth),
        };
        let filter = self.maybe_where(&from.cols);
        let mut keys = Vec::new();
        let mut items = Vec::new();
        let mut cols = Vec::new();
        for i in 0..self.rng.random_range(1..3) {
            let key = match from.cols.choose(self.rng) {
                Some(c) if self.rng.random_bool(0.85) => c.clone(),
                _ => {
                    let ty = [Ty::Int, Ty::Text, Ty::Bool].choose(self.rng).copied().unwrap_or(Ty::Int);
                    Col { name: self.exprs(&from.cols).of(ty, 1), ty }
                }
            };
            items.push(format!("{} AS x{i}", key.name));
            cols.push(Col { name: format!("x{i}"), ty: key.ty });
            keys.push(key.name);
        }
        for _ in 0..self.rng.random_range(1..4) {
            let (call, ty) = self.aggregate_call(&from.cols);
            let name = format!("x{}", items.len());
            items.push(format!("{call} AS {name}"));
            cols.push(Col { name, ty });
        }
        let having = if self.rng.random_bool(0.2) {
            let n = self.rng.random_range(1..3);
            format!(" HAVING count(*) {} {n}", [">", "<=", "<>"].choose(self.rng).copied().unwrap_or(">"))
        } else {
            String::new()
        };
        // By position: a key that is a constant would otherwise be taken for one.
        let by: Vec<String> = (1..=keys.len()).map(|i| i.to_string()).collect();
        let sql = format!("SELECT {} FROM {}{filter} GROUP BY {}{having}", items.join(", "), from.sql, by.join(", "));
        Query { sql, cols }
    }

    fn global(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let filter = self.maybe_where(&from.cols);
        let mut items = Vec::new();
        let mut cols = Vec::new();
        for i in 0..self.rng.random_range(1..4) {
            let (call, ty) = self.aggregate_call(&from.cols);
            items.push(format!("{call} AS x{i}"));
            cols.push(Col { name: format!("x{i}"), ty });
        }
        Query { sql: format!("SELECT {} FROM {}{filter}", items.join(", "), from.sql), cols }
    }

    fn typed(&mut self, depth: usize, types: &[Ty]) -> String {
        let from = self.from(depth);
        let filter = self.maybe_where(&from.cols);
        let mut items = Vec::new();
        for (i, ty) in types.iter().enumerate() {
            let e = match self.exprs(&from.cols).column(*ty) {
                Some(c) if self.rng.random_bool(0.7) => c,
                _ => self.exprs(&from.cols).of(*ty, 1),
            };
            items.push(format!("CAST({e} AS {}) AS x{i}", ty.sql()));
        }
        format!("SELECT {} FROM {}{filter}", items.join(", "), from.sql)
    }

    fn union(&mut self, depth: usize) -> Query {
        let n = self.rng.random_range(1..4);
        let types: Vec<Ty> = (0..n).map(|_| Ty::ALL.choose(self.rng).copied().unwrap_or(Ty::Int)).collect();
        let branches = self.rng.random_range(2..4);
        let parts: Vec<String> = (0..branches).map(|_| self.typed(depth.saturating_sub(1), &types)).collect();
        let word = if self.rng.random_bool(0.7) { " UNION ALL " } else { " UNION " };
        let cols = types.iter().enumerate().map(|(i, ty)| Col { name: format!("x{i}"), ty: *ty }).collect();
        Query { sql: parts.join(word), cols }
    }

    fn distinct(&mut self, depth: usize) -> Query {
        let from = self.from(depth);
        let filter = self.maybe_where(&from.cols);
        let n = self.rng.random_range(1..4);
        let (items, cols) = self.items(&from.cols, n);
        Query { sql: format!("SELECT DISTINCT {} FROM {}{filter}", items.join(", "), from.sql), cols }
    }

    fn semi(&mut self, depth: usize) -> Query {
        let (a, b) = (self.from(depth), self.from(depth.saturating_sub(1)));
        let tail = match self.rng.random_range(0..5) {
            0 | 1 => {
                let not = if self.rng.random_bool(0.5) { "NOT " } else { "" };
                let on = self.condition(&a.cols, &b.cols);
                format!(" WHERE {not}EXISTS (SELECT 1 FROM {} WHERE {on})", b.sql)
            }
            n => {
                let pairs: Vec<(Col, Col)> = a
                    .cols
                    .iter()
                    .flat_map(|x| b.cols.iter().map(move |y| (x.clone(), y.clone())))
                    .filter(|(x, y)| x.ty == y.ty)
                    .collect();
                let filter = self.maybe_where(&b.cols);
                match pairs.choose(self.rng) {
                    Some((x, y)) => {
                        let not = if n == 4 { "NOT " } else { "" };
                        format!(" WHERE {} {not}IN (SELECT {} FROM {}{filter})", x.name, y.name, b.sql)
                    }
                    None => format!(" WHERE EXISTS (SELECT 1 FROM {}{filter})", b.sql),
                }
            }
        };
        self.project(&a, &tail)
    }

    /// Every column in a random order: identical rows are the only ties.
    fn total_order(&mut self, cols: &[Col]) -> String {
        let mut cols: Vec<&Col> = cols.iter().collect();
        cols.shuffle(self.rng);
        let terms: Vec<String> = cols
            .iter()
            .map(|c| {
                let order = ["", " ASC", " DESC", " DESC NULLS LAST", " NULLS FIRST"];
                format!("{}{}", c.name, order.choose(self.rng).copied().unwrap_or(""))
            })
            .collect();
        terms.join(", ")
    }

    fn top_n(&mut self, depth: usize) -> Query {
        let inner = self.query(depth.saturating_sub(1));
        let alias = self.alias();
        let cols = qualify(&alias, &inner.cols);
        let order = self.total_order(&cols);
        let limit = self.rng.random_range(1..5);
        let offset = if self.rng.random_bool(0.25) { " OFFSET 1" } else { "" };
        let items: Vec<String> = inner.cols.iter().map(|c| format!("{alias}.{0} AS {0}", c.name)).collect();
        let tail = match cols.choose(self.rng) {
            // One column leaves ties.
            Some(c) if self.rng.random_bool(0.3) => {
                let how = ["", " DESC", " NULLS FIRST"].choose(self.rng).copied().unwrap_or("");
                format!("ORDER BY {}{how} FETCH FIRST {limit} ROWS WITH TIES", c.name)
            }
            _ => format!("ORDER BY {order} LIMIT {limit}{offset}"),
        };
        let sql = format!("SELECT {} FROM ({}) AS {alias} {tail}", items.join(", "), inner.sql);
        Query { sql, cols: inner.cols }
    }

    fn row_number(&mut self, depth: usize) -> Query {
        let inner = self.query(depth.saturating_sub(1));
        let (q, r) = (self.alias(), self.alias());
        let cols = qualify(&q, &inner.cols);
        let partition = cols.choose(self.rng).map(|c| c.name.clone()).unwrap_or_else(|| "1".into());
        let order = self.total_order(&cols);
        let n = self.rng.random_range(1..4);
        let mut items: Vec<String> = inner.cols.iter().map(|c| format!("{r}.{0} AS {0}", c.name)).collect();
        let mut out = inner.cols.clone();
        if self.rng.random_bool(0.4) {
            let name = format!("x{}", out.len());
            items.push(format!("CAST({r}.rn AS BIGINT) AS {name}"));
            out.push(Col { name, ty: Ty::Big });
        }
        let compare = ["<=", "<", "="].choose(self.rng).copied().unwrap_or("<=");
        let sql = format!(
            "SELECT {} FROM (SELECT {q}.*, row_number() OVER (PARTITION BY {partition} ORDER BY {order}) AS rn \
             FROM ({}) AS {q}) AS {r} WHERE {r}.rn {compare} {n}",
            items.join(", "),
            inner.sql
        );
        Query { sql, cols: out }
    }

    /// A common table expression that is read twice.
    fn twice(&mut self, depth: usize) -> Query {
        let inner = self.query(depth.saturating_sub(1));
        let (w, l, r) = (self.alias(), self.alias(), self.alias());
        let a = From { sql: format!("{w} AS {l}"), cols: qualify(&l, &inner.cols) };
        let b = From { sql: format!("{w} AS {r}"), cols: qualify(&r, &inner.cols) };
        let from = self.joined(a, b);
        let body = self.project(&from, "");
        Query { sql: format!("WITH {w} AS ({}) {}", inner.sql, body.sql), cols: body.cols }
    }

    fn window(&mut self, depth: usize) -> Query {
        let inner = self.query(depth.saturating_sub(1));
        let q = self.alias();
        let cols = qualify(&q, &inner.cols);
        let order = self.total_order(&cols);
        let partition = match cols.choose(self.rng) {
            Some(c) if self.rng.random_bool(0.8) => format!("PARTITION BY {} ", c.name),
            _ => String::new(),
        };
        let mut items: Vec<String> = inner.cols.iter().map(|c| format!("{q}.{0} AS {0}", c.name)).collect();
        let mut out = inner.cols.clone();
        for _ in 0..self.rng.random_range(1..3) {
            let sums: Vec<&Col> = cols.iter().filter(|c| matches!(c.ty, Ty::Int | Ty::Big)).collect();
            let (call, ty) = match (self.rng.random_range(0..6), sums.choose(self.rng), cols.choose(self.rng)) {
                (0 | 1, Some(c), _) => (format!("sum({}) OVER ({partition}ORDER BY {order})", c.name), Ty::Big),
                (2, _, Some(c)) => (format!("lag({}) OVER ({partition}ORDER BY {order})", c.name), c.ty),
                (3, _, _) => (format!("CAST(rank() OVER ({partition}ORDER BY {order}) AS BIGINT)"), Ty::Big),
                (4, _, _) => (format!("count(*) OVER ({partition}ORDER BY {order} ROWS 2 PRECEDING)"), Ty::Big),
                _ => (format!("count(*) OVER ({})", partition.trim()), Ty::Big),
            };
            let name = format!("x{}", out.len());
            items.push(format!("{call} AS {name}"));
            out.push(Col { name, ty });
        }
        Query { sql: format!("SELECT {} FROM ({}) AS {q}", items.join(", "), inner.sql), cols: out }
    }

    fn scalar(&mut self, depth: usize) -> Query {
        let (a, b) = (self.from(depth), self.table());
        let correlated = if self.rng.random_bool(0.5) { self.equality(&a.cols, &b.cols) } else { None };
        let filter = correlated.map(|c| format!(" WHERE {c}")).unwrap_or_default();
        let (call, ty) = self.aggregate_call(&b.cols);
        let subquery = format!("(SELECT {call} FROM {}{filter})", b.sql);
        if self.rng.random_bool(0.5) {
            let (mut items, mut cols) = self.items(&a.cols, 2);
            items.push(format!("{subquery} AS x2"));
            cols.push(Col { name: "x2".into(), ty });
            return Query { sql: format!("SELECT {} FROM {}", items.join(", "), a.sql), cols };
        }
        let left = match self.exprs(&a.cols).column(ty) {
            Some(c) => c,
            None => literal(self.rng, ty, false),
        };
        let op = ["<", ">", "=", ">="].choose(self.rng).copied().unwrap_or("<");
        self.project(&a, &format!(" WHERE {left} {op} {subquery}"))
    }

    /// A windowed aggregate over a table with a timestamp.
    fn tumble(&mut self) -> Query {
        let timed: Vec<(Relation, String)> = self
            .relations
            .iter()
            .filter_map(|r| Some((r.clone(), r.cols.iter().find(|c| c.ty == Ty::Timestamp)?.name.clone())))
            .collect();
        let Some((relation, ts)) = timed.choose(self.rng).cloned() else { return self.aggregate(0) };
        let alias = self.alias();
        let name = &relation.name;
        let call = match self.rng.random_range(0..5) {
            0 => format!("TUMBLE({name}, {ts}, INTERVAL '20 seconds')"),
            1 => format!("HOP({name}, {ts}, INTERVAL '10 seconds', INTERVAL '30 seconds')"),
            2 => format!("CUMULATE({name}, {ts}, INTERVAL '10 seconds', INTERVAL '30 seconds')"),
            _ => return self.session(&relation, &ts),
        };
        let cols = qualify(&alias, &relation.cols);
        let (first, first_ty) = self.aggregate_call(&cols);
        let (second, second_ty) = self.aggregate_call(&cols);
        let sql = format!(
            "SELECT {alias}.window_start AS x0, {alias}.window_end AS x1, {first} AS x2, {second} AS x3 \
             FROM {call} AS {alias} GROUP BY 1, 2"
        );
        let named = |(i, ty): (usize, Ty)| Col { name: format!("x{i}"), ty };
        let cols = [Ty::Timestamp, Ty::Timestamp, first_ty, second_ty].into_iter().enumerate().map(named).collect();
        Query { sql, cols }
    }
}

fn qualify(alias: &str, cols: &[Col]) -> Vec<Col> {
    cols.iter().map(|c| Col { name: format!("{alias}.{}", c.name), ty: c.ty }).collect()
}
