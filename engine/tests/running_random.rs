//! Random changes of a running system: rows come and go, views are paused, resumed, replaced and indexed, tables are
//! renamed, the engine is checkpointed and crashes. After every step each view that runs equals its query, and each paused
//! one is what it was. `MILLSTREAM_RUNNING_SEEDS=n` runs more, `MILLSTREAM_SEED=s` one of them.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::api::{Engine, EngineOptions};

use self::common::lines;

const STEPS: usize = 30;

/// Name, query (with a place for a number that replacements change), what it reads.
const VIEWS: [(&str, &str, &[&str]); 6] = [
    ("v0", "SELECT k, count(*) AS n, sum(x + #) AS s FROM t GROUP BY k", &[]),
    ("v1", "SELECT t.k, l.x + # AS x FROM t JOIN s l ON t.k = l.k", &[]),
    ("v2", "SELECT k, x FROM s WHERE x > #", &[]),
    ("v3", "SELECT sum(n) + # AS n FROM v0", &["v0"]),
    ("v4", "SELECT k, max(x) - # AS m FROM v2 GROUP BY k", &["v2"]),
    ("v5", "SELECT a.k, a.s, b.m + # AS m FROM v0 a LEFT JOIN v4 b ON a.k = b.k", &["v0", "v4"]),
];

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn options(data: &str) -> EngineOptions {
    EngineOptions { data: data.into(), workers: 2, checkpoint_interval: Duration::ZERO, ..Default::default() }
}

struct Case {
    seed: u64,
    step: usize,
    engine: Engine,
    data: String,
    /// The number in each view's query.
    numbers: BTreeMap<&'static str, u64>,
    /// Rows of paused views.
    paused: BTreeMap<String, Vec<String>>,
    log: Vec<String>,
}

impl Case {
    async fn rows(&self, sql: &str) -> Vec<String> {
        match self.engine.query(sql).await {
            Ok(b) => lines(&b),
            Err(e) => {
                panic!("seed {} step {}: {sql}: {e} {:?}\n{}", self.seed, self.step, e.detail, self.log.join("\n"))
            }
        }
    }
    async fn run(&mut self, sql: String) {
        self.log.push(sql.clone());
        self.rows(&sql).await;
    }
    /// Runs it; true if it was done, false if it was refused because something is paused.
    async fn may_be_refused(&mut self, sql: String) -> bool {
        self.log.push(sql.clone());
        match self.engine.execute(&sql).await {
            Ok(()) => true,
            Err(e) if e.code.0 == "55000" => false,
            Err(e) => {
                panic!("seed {} step {}: {sql}: {e} {:?}\n{}", self.seed, self.step, e.detail, self.log.join("\n"))
            }
        }
    }
    fn query(&self, view: usize) -> String {
        VIEWS[view].1.replace('#', &self.numbers[VIEWS[view].0].to_string())
    }
    async fn status(&self) -> BTreeMap<String, String> {
        let jobs = self.rows("SELECT name, status FROM ms.jobs").await;
        jobs.iter().filter_map(|l| l.split_once('|')).map(|(n, s)| (n.to_owned(), s.to_owned())).collect()
    }
    async fn check(&self) {
        let mut rows = Vec::new();
        for (name, ..) in VIEWS {
            rows.push(self.rows(&format!("SELECT * FROM {name}")).await);
        }
        // After a crash a read waits until the view is built again.
        let status = self.status().await;
        for ((i, (name, ..)), got) in VIEWS.iter().enumerate().zip(rows) {
            let want = match self.paused.get(*name) {
                Some(then) => {
                    assert_eq!(status[*name], "paused", "seed {} step {}", self.seed, self.step);
                    then.clone()
                }
                None => {
                    assert_eq!(status[*name], "running", "seed {} step {}", self.seed, self.step);
                    self.rows(&self.query(i)).await
                }
            };
            assert_eq!(got, want, "seed {} step {}: {name}\n{}", self.seed, self.step, self.log.join("\n"));
        }
    }
    async fn step(&mut self, rng: &mut Rng) {
        let view = rng.below(VIEWS.len() as u64) as usize;
        let name = VIEWS[view].0;
        match rng.below(16) {
            0..=3 => {
                let ids: std::collections::BTreeSet<u64> = (0..1 + rng.below(4)).map(|_| rng.below(12)).collect();
                let row = |id: &u64| format!("({id}, {}, {})", rng.below(4), rng.below(9));
                let rows: Vec<String> = ids.iter().map(row).collect();
                self.run(format!(
                    "INSERT INTO t VALUES {} ON CONFLICT (id) DO UPDATE SET k = excluded.k, x = excluded.x",
                    rows.join(", ")
                ))
                .await;
            }
            4 => self.run(format!("DELETE FROM t WHERE id % 5 = {}", rng.below(5))).await,
            5 => self.run(format!("UPDATE t SET k = (k + 1) % 4 WHERE x < {}", rng.below(9))).await,
            6..=7 => self.run(format!("INSERT INTO s VALUES ({}, {})", rng.below(4), rng.below(9))).await,
            8 => {
                let before: Vec<(String, Vec<String>)> = {
                    let mut all = Vec::new();
                    for (n, ..) in VIEWS {
                        all.push((n.to_owned(), self.rows(&format!("SELECT * FROM {n}")).await));
                    }
                    all
                };
                self.run(format!("ALTER MATERIALIZED VIEW {name} PAUSE")).await;
                let status = self.status().await;
                for (n, rows) in before {
                    if status[&n] == "paused" {
                        self.paused.entry(n).or_insert(rows);
                    }
                }
            }
            9..=10 => {
                self.may_be_refused(format!("ALTER MATERIALIZED VIEW {name} RESUME")).await;
                let status = self.status().await;
                self.paused.retain(|n, _| status[n] == "paused");
            }
            11 => {
                let old = self.numbers.insert(name, rng.below(5));
                let sql = format!("CREATE OR REPLACE MATERIALIZED VIEW {name} AS {}", self.query(view));
                if !self.may_be_refused(sql).await
                    && let Some(old) = old
                {
                    self.numbers.insert(name, old);
                }
            }
            12 => {
                let column = if name == "v3" { "n" } else { "k" };
                self.may_be_refused(format!("CREATE INDEX IF NOT EXISTS i_{name} ON {name} ({column})")).await;
                if rng.below(3) == 0 {
                    self.run(format!("DROP INDEX IF EXISTS i_{name}")).await;
                }
            }
            13 => {
                self.run("ALTER TABLE t RENAME TO other".into()).await;
                self.run("ALTER TABLE other RENAME TO t".into()).await;
            }
            14 => self.run("CHECKPOINT".into()).await,
            _ => {
                self.log.push("-- crash".into());
                self.engine = Engine::open(options(&self.data)).await.expect("opens again");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_equal_their_queries_while_the_system_is_changed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("MILLSTREAM_SEED") {
        Some(s) => s..s + 1,
        None => 0..number("MILLSTREAM_RUNNING_SEEDS").unwrap_or(2),
    };
    for seed in seeds {
        let folder = tempfile::tempdir().expect("folder");
        let data = folder.path().to_str().expect("utf8").to_owned();
        let mut case = Case {
            seed,
            step: 0,
            engine: Engine::open(options(&data)).await.expect("opens"),
            data,
            numbers: VIEWS.iter().map(|(n, ..)| (*n, 3)).collect(),
            paused: BTreeMap::new(),
            log: Vec::new(),
        };
        case.run(
            "CREATE TABLE t (id BIGINT PRIMARY KEY, k BIGINT, x BIGINT); CREATE STREAM s (k BIGINT, x BIGINT)".into(),
        )
        .await;
        case.run("INSERT INTO t VALUES (1, 1, 1), (2, 2, 5), (3, 1, 7); INSERT INTO s VALUES (1, 4), (2, 8)".into())
            .await;
        for (i, (name, ..)) in VIEWS.iter().enumerate() {
            let sql = format!("CREATE MATERIALIZED VIEW {name} AS {}", case.query(i));
            case.run(sql).await;
        }
        let mut rng = Rng(seed);
        for step in 0..STEPS {
            case.step = step;
            case.step(&mut rng).await;
            case.check().await;
        }
    }
}
