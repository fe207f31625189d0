//! Every script under `slt/` is a test. `MILLSTREAM_SLT_BLESS=1` rewrites the scripts with what the server answers; read
//! the difference before it is committed.

use std::path::Path;

use sqllogictest::harness::{Arguments, Trial, run};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let bless = std::env::var("MILLSTREAM_SLT_BLESS").is_ok_and(|v| v == "1");
    let trial = |path: std::path::PathBuf| {
        let name = path.strip_prefix(&folder).unwrap_or(&path).with_extension("").display().to_string();
        Trial::test(name, move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            Ok(runtime.block_on(millstream_sqllogictest::run_script(&path, bless))?)
        })
    };
    let trials: Vec<Trial> = millstream_sqllogictest::scripts(&folder).into_iter().map(trial).collect();
    assert!(!trials.is_empty(), "no scripts in {}", folder.display());
    run(&Arguments::from_args(), trials).exit();
}
