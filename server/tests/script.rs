//! `millstream test`: the scripts with clocks pass, and one that expects something else fails.

use std::path::Path;

use millstream_server::script;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_with_clocks_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sqllogictest/timed");
    let mut scripts: Vec<_> =
        std::fs::read_dir(&folder).expect("scripts").map(|entry| entry.expect("entry").path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 2, "there are scripts");
    let mut failed = Vec::new();
    for path in scripts {
        match script::run(&path, false).await {
            Ok(done) => println!("{}: {done}", path.display()),
            Err(why) => failed.push(format!("{}: {why}", path.display())),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_expects_something_else_fails() {
    let folder = tempfile::tempdir().expect("folder");
    let cases = [
        (
            "statement ok\nCREATE STREAM s (a BIGINT)\n\nquery I\nSELECT count(*) FROM s\n----\n1\n",
            "query result mismatch",
        ),
        ("statement ok\nADVANCE CLOCK\n", "ADVANCE CLOCK [TO]"),
        ("statement ok\nADVANCE WATERMARK OF s TO '2026-01-01 00:00:00'\n", "does not exist"),
    ];
    for (i, (text, why)) in cases.into_iter().enumerate() {
        let path = folder.path().join(format!("{i}.slt"));
        std::fs::write(&path, text).expect("writes");
        let found = script::run(&path, false).await.expect_err("fails");
        assert!(found.contains(why), "{found}");
    }
}
