//! Every script under `slt/` is a test. `MILLSTREAM_SLT_BLESS=1` rewrites the scripts with what the server answers; read
//! the difference before it is committed. Scripts under `slt/postgres` are never rewritten so: their results are those of
//! PostgreSQL (`tests/scripts/corpus.py`), and where ours differ the list of differences says why; of that list it takes
//! away what no longer differs.
//!
//! Every SELECT runs three ways; the last lines say how many did.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use millstream_sqllogictest::differences::Differences;
use millstream_sqllogictest::ways::{self, Counts};
use sqllogictest::harness::{Arguments, Trial, run};

/// What all scripts of this run add up to.
#[derive(Default)]
struct Total {
    counts: Counts,
    ran: BTreeSet<String>,
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let bless = std::env::var("MILLSTREAM_SLT_BLESS").is_ok_and(|v| v == "1");
    let list =
        Differences::read(Path::new(Differences::PATH)).unwrap_or_else(|e| panic!("the list of differences: {e}"));
    let list = Arc::new(list);
    let total = Arc::new(Mutex::new(Total::default()));
    let trial = |path: PathBuf| {
        let name = path.strip_prefix(&folder).unwrap_or(&path).with_extension("").display().to_string();
        let (list, total) = (list.clone(), total.clone());
        Trial::test(name.clone(), move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let corpus = name.starts_with("postgres/");
            if !corpus {
                runtime.block_on(millstream_sqllogictest::run_script(&path, bless))?;
            }
            let done = runtime.block_on(ways::run(&path, &name, corpus, &list));
            let (mut counts, problems) = match done {
                Ok(counts) => (counts, None),
                Err((counts, problems)) => (counts, Some(problems)),
            };
            if !corpus {
                // The runner of scripts did these.
                counts.batch = counts.before + counts.left_out.values().sum::<usize>();
            }
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            total.counts.add(counts);
            total.ran.insert(name);
            drop(total);
            problems.map_or(Ok(()), |p| Err(p.into()))
        })
    };
    let trials: Vec<Trial> = millstream_sqllogictest::scripts(&folder).into_iter().map(trial).collect();
    assert!(!trials.is_empty(), "no scripts in {}", folder.display());
    let arguments = Arguments::from_args();
    let conclusion = run(&arguments, trials);
    if arguments.list {
        conclusion.exit();
    }
    let total = total.lock().unwrap_or_else(PoisonError::into_inner);
    let c = &total.counts;
    println!("{} files, {} records; {} differ from PostgreSQL as listed", total.ran.len(), c.records, c.listed);
    println!("{} queries, {} views from before the rows, {} views made over the rows", c.batch, c.before, c.after);
    for (reason, n) in &c.left_out {
        println!("{n} queries are no views: {reason}");
    }
    let stale = list.stale(|file| file.starts_with("postgres/") && total.ran.contains(file));
    if !stale.is_empty() {
        println!("listed as different from PostgreSQL, but no longer so:\n{}", stale.join("\n"));
        if bless {
            let text = std::fs::read_to_string(Differences::PATH).unwrap_or_else(|e| panic!("{e}"));
            let text = Differences::without(&text, &stale);
            std::fs::write(Differences::PATH, text).unwrap_or_else(|e| panic!("{e}"));
            conclusion.exit();
        }
        std::process::exit(101);
    }
    conclusion.exit();
}
