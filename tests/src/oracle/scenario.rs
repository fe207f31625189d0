//! A script made from a seed: tables, views, changes, restarts.

use std::fmt::Write as _;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::expr::Exprs;
use super::query::{Queries, Relation};
use super::values::{Col, Ty, literal, nullable};

/// What may appear in a script.
#[derive(Debug, Clone)]
pub struct Features {
    /// NaN, infinities, subnormal numbers.
    pub odd_doubles: bool,
    /// Divisions that may fail.
    pub errors: bool,
    /// Window functions, TUMBLE and HOP, ASOF joins and joins over ranges.
    pub windows: bool,
    /// Restarts and crashes.
    pub restarts: bool,
    /// Several statements at a time.
    pub concurrent: bool,
    /// Depth of nested queries.
    pub depth: usize,
}

/// A table or native stream.
#[derive(Debug, Clone)]
pub struct Table {
    /// Name.
    pub name: String,
    /// Columns.
    pub cols: Vec<Col>,
    /// `id` is a primary key.
    pub keyed: bool,
    /// A stream: rows are only added.
    pub stream: bool,
}

/// A view.
#[derive(Debug, Clone)]
pub struct View {
    /// Name.
    pub name: String,
    /// Its query.
    pub sql: String,
    /// False: a plain view.
    pub materialized: bool,
}

/// A change of a table.
#[derive(Debug, Clone)]
pub enum Change {
    /// INSERT INTO table VALUES rows.
    Insert {
        /// Table.
        table: String,
        /// Rows with parentheses.
        rows: Vec<String>,
        /// ON CONFLICT ..
        tail: String,
    },
    /// UPDATE or DELETE.
    Other(String),
}

impl Change {
    /// As SQL.
    pub fn sql(&self) -> String {
        match self {
            Change::Insert { table, rows, tail } => format!("INSERT INTO {table} VALUES {}{tail}", rows.join(", ")),
            Change::Other(sql) => sql.clone(),
        }
    }
}

/// A step of the script; the views are compared after each.
#[derive(Debug, Clone)]
pub enum Step {
    /// Creates a view.
    Create(View),
    /// Drops a view and what depends on it.
    Drop(View),
    /// Changes tables, one statement after the other or all at once.
    Change {
        /// The statements.
        changes: Vec<Change>,
        /// At once, on connections of their own.
        concurrent: bool,
    },
    /// CHECKPOINT.
    Checkpoint,
    /// Opens the folder again.
    Restart {
        /// After a shutdown; otherwise as after a kill.
        clean: bool,
        /// Shards from now on.
        workers: usize,
    },
}

/// A script.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where it came from.
    pub seed: u64,
    /// Shards at the start.
    pub workers: usize,
    /// The tables.
    pub tables: Vec<Table>,
    /// The steps.
    pub steps: Vec<Step>,
}

impl Table {
    /// CREATE statement.
    pub fn sql(&self) -> String {
        let col = |c: &Col| {
            let key = if self.keyed && c.name == "id" { " PRIMARY KEY" } else { "" };
            format!("{} {}{key}", c.name, c.ty.sql())
        };
        let cols: Vec<String> = self.cols.iter().map(col).collect();
        let kind = if self.stream { "STREAM" } else { "TABLE" };
        format!("CREATE {kind} {} ({})", self.name, cols.join(", "))
    }
}

impl View {
    /// CREATE statement.
    pub fn create(&self) -> String {
        let kind = if self.materialized { "MATERIALIZED VIEW" } else { "VIEW" };
        format!("CREATE {kind} {} AS {}", self.name, self.sql)
    }

    /// DROP statement.
    pub fn drop(&self) -> String {
        let kind = if self.materialized { "MATERIALIZED VIEW" } else { "VIEW" };
        format!("DROP {kind} {} CASCADE", self.name)
    }

    /// Whether the query reads a relation.
    pub fn reads(&self, relation: &str) -> bool {
        self.sql.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == relation)
    }
}

impl Scenario {
    /// The script of a seed.
    pub fn generate(seed: u64, features: &Features) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let rng = &mut rng;
        let tables: Vec<Table> = (0..rng.random_range(2..4)).map(|i| table(rng, i)).collect();
        let mut relations: Vec<Relation> =
            tables.iter().map(|t| Relation { name: t.name.clone(), cols: t.cols.clone() }).collect();
        let mut steps = Vec::new();
        let views = rng.random_range(3..7);
        let mut live: Vec<View> = Vec::new();
        let mut made = 0;
        let length = rng.random_range(12..22);
        for i in 0..length {
            let roll = rng.random_range(0..100);
            if made < views && (roll < 30 || length - i <= views - made) {
                let query = Queries::new(rng, &relations, features).query(features.depth);
                let name = format!("v{made}");
                let materialized = rng.random_bool(0.93);
                relations.push(Relation { name: name.clone(), cols: query.cols });
                let view = View { name, sql: query.sql, materialized };
                live.push(view.clone());
                steps.push(Step::Create(view));
                made += 1;
            } else if roll < 38 && features.restarts {
                let workers = [1, 3, 8].choose(rng).copied().unwrap_or(1);
                steps.push(Step::Restart { clean: rng.random_bool(0.5), workers });
            } else if roll < 44 && features.restarts {
                steps.push(Step::Checkpoint);
            } else if roll < 46 && live.len() > 1 {
                let view = live.remove(rng.random_range(0..live.len()));
                let mut gone = vec![view.name.clone()];
                while let Some(name) = gone.pop() {
                    relations.retain(|r| r.name != name);
                    gone.extend(live.iter().filter(|v| v.reads(&name)).map(|v| v.name.clone()));
                    live.retain(|v| !v.reads(&name));
                }
                steps.push(Step::Drop(view));
            } else {
                let n = if rng.random_bool(0.6) { 1 } else { rng.random_range(2..5) };
                let changes = (0..n).map(|_| change(rng, &tables, features)).collect();
                steps.push(Step::Change { changes, concurrent: features.concurrent && rng.random_bool(0.3) });
            }
        }
        let workers = [1, 3, 8].choose(rng).copied().unwrap_or(1);
        Self { seed, workers, tables, steps }
    }

    /// The script as it can be typed.
    pub fn script(&self) -> String {
        let mut out = String::new();
        for t in &self.tables {
            let _ = writeln!(out, "{};", t.sql());
        }
        for (i, s) in self.steps.iter().enumerate() {
            let _ = match s {
                Step::Create(v) => writeln!(out, "{};", v.create()),
                Step::Drop(v) => writeln!(out, "{};", v.drop()),
                Step::Checkpoint => writeln!(out, "CHECKPOINT;"),
                Step::Restart { clean, workers } => {
                    writeln!(out, "-- {} with {workers} workers", if *clean { "restart" } else { "crash" })
                }
                Step::Change { changes, concurrent } => {
                    if *concurrent {
                        let _ = writeln!(out, "-- the next {} at once", changes.len());
                    }
                    changes.iter().try_for_each(|c| writeln!(out, "{};", c.sql()))
                }
            };
            let _ = writeln!(out, "-- end of step {i}");
        }
        format!("-- seed {}, {} workers\n{out}", self.seed, self.workers)
    }
}

fn table(rng: &mut SmallRng, i: usize) -> Table {
    let stream = rng.random_bool(0.15);
    let keyed = !stream && rng.random_bool(0.5);
    let mut cols = vec![Col { name: "id".into(), ty: if rng.random_bool(0.5) { Ty::Int } else { Ty::Big } }];
    for j in 0..rng.random_range(2..6) {
        let ty = Ty::ALL.choose(rng).copied().unwrap_or(Ty::Int);
        cols.push(Col { name: format!("c{j}"), ty });
    }
    Table { name: format!("t{i}"), cols, keyed, stream }
}

fn change(rng: &mut SmallRng, tables: &[Table], features: &Features) -> Change {
    let table = tables.choose(rng).expect("there are tables");
    let roll = if table.stream { 0 } else { rng.random_range(0..100) };
    if roll < 60 {
        return insert(rng, table, features);
    }
    let mut exprs = Exprs { rng, cols: &table.cols, odd: features.odd_doubles, errors: false };
    let condition = if exprs.rng.random_bool(0.08) { String::new() } else { format!(" WHERE {}", exprs.predicate(1)) };
    if roll < 80 {
        return Change::Other(format!("DELETE FROM {}{condition}", table.name));
    }
    let mut sets = Vec::new();
    for c in &table.cols {
        if c.name != "id" && exprs.rng.random_bool(0.5) {
            sets.push(format!("{} = {}", c.name, exprs.of(c.ty, 1)));
        }
    }
    if sets.is_empty() {
        sets.push(format!("id = id + {}", if exprs.rng.random_bool(0.5) { 100 } else { 0 }));
    }
    Change::Other(format!("UPDATE {} SET {}{condition}", table.name, sets.join(", ")))
}

fn insert(rng: &mut SmallRng, table: &Table, features: &Features) -> Change {
    let n = if rng.random_bool(0.5) { rng.random_range(1..3) } else { rng.random_range(1..10) };
    let mut rows = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..n {
        let id: i64 = rng.random_range(0..12);
        if table.keyed && !ids.insert(id) {
            continue;
        }
        let values: Vec<String> = table
            .cols
            .iter()
            .map(|c| match c.name.as_str() {
                "id" if table.keyed => id.to_string(),
                _ => nullable(rng, c.ty, features.odd_doubles),
            })
            .collect();
        rows.push(format!("({})", values.join(", ")));
    }
    if !rows.is_empty() && !table.keyed && rng.random_bool(0.3) {
        rows.push(rows[0].clone());
    }
    let tail = match rng.random_range(0..4) {
        _ if !table.keyed => String::new(),
        0 => String::new(),
        1 => " ON CONFLICT DO NOTHING".into(),
        _ => {
            let sets: Vec<String> = table.cols[1..].iter().map(|c| format!("{0} = excluded.{0}", c.name)).collect();
            format!(" ON CONFLICT (id) DO UPDATE SET {}", sets.join(", "))
        }
    };
    if rows.is_empty() {
        rows.push(format!("({})", table.cols.iter().map(|c| literal(rng, c.ty, false)).collect::<Vec<_>>().join(", ")));
    }
    Change::Insert { table: table.name.clone(), rows, tail }
}
