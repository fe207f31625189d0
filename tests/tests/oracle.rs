//! Random scripts against the engine; see `millstream_tests::oracle`.
//!
//! `MILLSTREAM_ORACLE_SEEDS=n` runs n scripts of each kind instead of the fixed number; `MILLSTREAM_SEED=s` runs that one
//! script of each kind; `MILLSTREAM_ORACLE_FROM=s` starts at another seed.

use std::time::{Duration, Instant};

use millstream_tests::oracle::run::run_isolated;
use millstream_tests::oracle::shrink::shrink;
use millstream_tests::oracle::{Features, Scenario, Stats};

/// Longest time a test of this file goes on without being asked for more.
const BUDGET: Duration = Duration::from_secs(30);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

fn check(kind: u64, seeds: u64, features: &Features) -> Stats {
    let first = (kind << 32) + number("MILLSTREAM_ORACLE_FROM").unwrap_or(0);
    let range = match (number("MILLSTREAM_SEED"), number("MILLSTREAM_ORACLE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(n)) => first..first + n,
        (None, None) => first..first + seeds,
    };
    let (from, mut until) = (range.start, range.start);
    let unlimited = number("MILLSTREAM_ORACLE_SEEDS").is_some();
    let started = Instant::now();
    let mut stats = Stats::default();
    let mut failures = Vec::new();
    for seed in range {
        if !unlimited && started.elapsed() > BUDGET {
            break;
        }
        until = seed + 1;
        let scenario = Scenario::generate(seed, features);
        match run_isolated(&scenario) {
            Ok(s) => stats.add(s),
            Err(failure) => {
                let seconds = number("MILLSTREAM_ORACLE_SHRINK").unwrap_or(60);
                let (small, last) = shrink(&scenario, &failure, Duration::from_secs(seconds));
                let text = format!(
                    "seed {seed}, step {}: {}\n\nsmallest script that fails:\n{}\nafter step {}: {}\n",
                    failure.step,
                    failure.message,
                    small.script(),
                    last.step,
                    last.message
                );
                println!("{text}");
                failures.push(text.clone());
                let all = std::env::var("MILLSTREAM_ORACLE_ALL").is_ok_and(|v| v == "1");
                assert!(all, "{text}");
            }
        }
    }
    println!(
        "seeds {from} to {until}: {} views, {} refused, {} comparisons ({} not empty, {} failing queries, {} too slow), {} restarts in {:.1} s",
        stats.views,
        stats.refused.len(),
        stats.comparisons,
        stats.nonempty,
        stats.failing,
        stats.slow,
        stats.restarts,
        started.elapsed().as_secs_f64()
    );
    let mut refused = stats.refused.clone();
    refused.sort();
    for r in refused.iter().take(40) {
        println!("refused: {r}");
    }
    assert!(failures.is_empty(), "{} seeds failed", failures.len());
    // A harness that compares nothing proves nothing.
    assert!(stats.views > 0 && stats.nonempty * 4 > stats.comparisons, "too little was compared: {stats:?}");
    stats
}

#[test]
fn views_equal_their_queries_after_every_change() {
    let features =
        Features { odd_doubles: false, errors: false, windows: false, restarts: false, concurrent: false, depth: 1 };
    check(1, 60, &features);
}

#[test]
fn views_equal_their_queries_across_restarts_crashes_and_shard_counts() {
    let features =
        Features { odd_doubles: false, errors: false, windows: true, restarts: true, concurrent: true, depth: 2 };
    check(2, 60, &features);
}

#[test]
fn views_equal_their_queries_with_nan_infinities_and_failing_expressions() {
    let features =
        Features { odd_doubles: true, errors: true, windows: true, restarts: true, concurrent: false, depth: 1 };
    check(3, 60, &features);
}
