//! The `millstream` binary as a process. (With a test of its package, cargo builds it for the whole-system tests too.)

use std::process::{Command, Output};

fn millstream(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millstream")).args(arguments).output().expect("it starts")
}

#[test]
fn it_says_its_version() {
    let output = millstream(&["--version"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), concat!("millstream ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_one_shot_query_prints_its_rows() {
    let output = millstream(&["sql", "SELECT 6 * 7 AS answer"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("answer") && text.contains("42"), "{text}");
}

#[test]
fn a_one_shot_query_reads_a_file_by_its_path() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("people.csv");
    std::fs::write(&path, "name,age\nann,30\nbob,40\n").expect("writes");
    let query = format!("SELECT name, age + 1 AS next FROM '{}' WHERE age > 30", path.display());
    let output = millstream(&["sql", "--format", "csv", &query]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "name,next\nbob,41\n", "{output:?}");
}

#[test]
fn an_error_goes_to_standard_error_and_into_the_exit_code() {
    let output = millstream(&["sql", "SELECT nothing_of_that_name"]);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing_of_that_name"), "{output:?}");
}
