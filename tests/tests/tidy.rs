//! Rules of this repository that a machine can check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const CRATES: &[&str] = &["sql", "connectors", "engine", "server", "tests", "sqllogictest"];

/// What each crate may use of ours. A new edge is a decision, not a convenience.
const EDGES: &[(&str, &[&str])] = &[
    ("millstream-sql", &[]),
    ("millstream-connectors", &[]),
    ("millstream", &["millstream-sql", "millstream-connectors"]),
    ("millstream-server", &["millstream"]),
];

/// Who may use a third-party crate in code that ships.
const ONLY: &[(&str, &[&str])] = &[
    ("pgwire", &["millstream-server"]),
    ("arrow-pg", &["millstream-server"]),
    ("datafusion-pg-catalog", &["millstream-server"]),
    ("axum", &["millstream-server"]),
    ("rustls", &["millstream-server"]),
    ("clap", &["millstream-server"]),
    ("rdkafka", &["millstream-connectors"]),
    ("sqlparser", &["millstream-sql"]),
    ("object_store", &["millstream-connectors", "millstream"]),
    ("tokio", &["millstream-connectors", "millstream", "millstream-server"]),
];

/// Types of these crates cross our interfaces: two versions of one would not fit together.
const ONE_VERSION: &[&str] =
    &["arrow", "arrow-array", "arrow-schema", "datafusion", "object_store", "parquet", "pgwire", "sqlparser"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Files of the repository under a folder, by path from the top. Build output and what `.gitignore` names stay out.
fn files(under: &str) -> Vec<(String, PathBuf)> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<(String, PathBuf)>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if [".git", "target", "millstream-data", "__pycache__"].contains(&name.as_str())
                || name.ends_with(".profraw")
            {
                continue;
            }
            if path.is_dir() {
                walk(&path, root, out);
            } else {
                out.push((path.strip_prefix(root).expect("below").to_string_lossy().into_owned(), path));
            }
        }
    }
    let mut out = Vec::new();
    walk(&root().join(under), &root(), &mut out);
    out.sort();
    out
}

fn rust_files() -> Vec<(String, String)> {
    let sources = CRATES.iter().flat_map(|c| files(c)).filter(|(name, _)| name.ends_with(".rs"));
    let read = |(name, path): (String, PathBuf)| (name, std::fs::read_to_string(path).expect("UTF-8"));
    let out: Vec<_> = sources.map(read).collect();
    assert!(out.len() > 50, "only {} source files found", out.len());
    out
}

fn toml(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn check(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn the_lock_file_has_one_version_of_crates_whose_types_we_share() {
    let lock = toml(&root().join("Cargo.lock"));
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut problems = Vec::new();
    for package in lock["package"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        versions.entry(name).or_default().push(package["version"].as_str().expect("a version"));
        let source = package.get("source").and_then(toml::Value::as_str);
        if source.is_some_and(|s| !s.starts_with("registry+https://github.com/rust-lang/")) {
            problems.push(format!("{name} comes from {}", source.unwrap_or_default()));
        }
    }
    for name in ONE_VERSION {
        match versions.get(name).map(Vec::as_slice) {
            Some([_]) => {}
            other => problems.push(format!("{name}: {other:?}")),
        }
    }
    check(&problems);
}

#[test]
fn crates_depend_on_each_other_as_declared() {
    let edges: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for folder in CRATES {
        let manifest = toml(&root().join(folder).join("Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        seen.insert(name.clone());
        for table in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(toml::Value::as_table) else { continue };
            for (dependency, how) in dependencies {
                if how.get("workspace").is_none() {
                    problems.push(format!("{name}: {dependency} is not taken from the workspace"));
                }
                let Some(allowed) = edges.get(name.as_str()) else { continue };
                if dependency.starts_with("millstream") && !allowed.contains(&dependency.as_str()) {
                    problems.push(format!("{name} must not use {dependency}"));
                }
                if let Some((_, users)) = ONLY.iter().find(|(d, _)| d == dependency)
                    && !users.contains(&name.as_str())
                {
                    problems.push(format!("{name} must not use {dependency}: only {} may", users.join(", ")));
                }
            }
        }
    }
    for name in edges.keys() {
        assert!(seen.contains(*name), "no crate {name}");
    }
    check(&problems);
}

#[test]
fn every_source_file_says_what_it_is() {
    let mut problems = Vec::new();
    for (name, text) in rust_files() {
        // Unit tests in a file of their own belong to the module that names them.
        let file = name.rsplit('/').next().expect("a name");
        if file == "tests.rs" || file.ends_with("_tests.rs") || name.contains("/src/") && name.contains("/tests/") {
            continue;
        }
        if !text.starts_with("//! ") {
            problems.push(format!("{name} does not start with //!"));
        }
    }
    check(&problems);
}

#[test]
fn every_source_file_is_part_of_its_crate() {
    let sources = rust_files();
    let text: BTreeMap<&str, &str> = sources.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let mut problems = Vec::new();
    for name in text.keys() {
        let Some((folder, file)) = name.rsplit_once('/') else { continue };
        if !name.contains("/src/") || name.contains("/src/bin/") || ["lib.rs", "main.rs"].contains(&file) {
            continue;
        }
        // `a/b.rs` is declared in `a/mod.rs`, `a.rs`, `lib.rs` or `main.rs`; `a/b/mod.rs` likewise.
        let (folder, module) = match file {
            "mod.rs" => folder.rsplit_once('/').expect("below src"),
            _ => (folder, file.trim_end_matches(".rs")),
        };
        let parents = [
            format!("{folder}/mod.rs"),
            format!("{folder}.rs"),
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
        ];
        let declares = |t: &&str| t.lines().any(|l| l.trim().trim_end_matches(';').ends_with(&format!("mod {module}")));
        if !parents.iter().filter_map(|p| text.get(p.as_str())).any(declares) {
            problems.push(format!("{name}: no `mod {module};` in {}", parents.join(" or ")));
        }
    }
    check(&problems);
}

#[test]
fn nothing_unfinished_is_left_in_the_code() {
    // Put together, or this file would find itself.
    let words = ["todo", "dbg", "unimplemented"].map(|w| format!("{w}!("));
    let marks = ["TO", "FIX"].map(|w| format!("{w}{}", if w == "TO" { "DO" } else { "ME" }));
    let mut problems = Vec::new();
    for (name, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().chain(&marks).any(|w| line.contains(w.as_str())) {
                problems.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    check(&problems);
}

#[test]
fn no_file_names_a_machine_or_a_package_registry() {
    let needles: Vec<String> = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["repo", ".maven"],
        ["repo1", ".maven"],
        ["maven", "central"],
        ["--index", "-url"],
        ["registry.npmjs", ".org"],
    ]
    .iter()
    .map(|parts| parts.concat())
    .collect();
    let mut problems = Vec::new();
    for (name, path) in files("") {
        // The lock file names where its packages are from; another test checks that there is one place.
        if name == "Cargo.lock" {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(needle) = needles.iter().find(|n| line.contains(n.as_str())) {
                problems.push(format!("{name}:{}: {needle}", number + 1));
            }
        }
    }
    check(&problems);
}

/// Targets of the Markdown links of a page that are files of this repository, from the top.
fn links(page: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.trim_start().starts_with("```");
        if code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let Some(target) = line[at + 2..].split(')').next() else { continue };
            let target = target.split(['#', ' ']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let mut parts: Vec<&str> = page.split('/').collect();
            parts.pop();
            for part in target.split('/') {
                match part {
                    "." | "" => {}
                    ".." => drop(parts.pop()),
                    _ => parts.push(part),
                }
            }
            out.push(parts.join("/"));
        }
    }
    out
}

#[test]
fn every_page_can_be_reached_from_the_readme_and_every_link_leads_somewhere() {
    let mut pages: BTreeMap<String, String> = BTreeMap::new();
    for (name, path) in files("").into_iter().filter(|(name, _)| name.ends_with(".md")) {
        pages.insert(name, std::fs::read_to_string(path).expect("UTF-8"));
    }
    let mut problems = Vec::new();
    let mut reached = BTreeSet::new();
    let mut next = vec!["README.md".to_owned()];
    while let Some(page) = next.pop() {
        if !reached.insert(page.clone()) {
            continue;
        }
        let Some(text) = pages.get(&page) else { continue };
        for link in links(&page, text) {
            if !root().join(&link).exists() {
                problems.push(format!("{page}: no {link}"));
            }
            if link.ends_with(".md") {
                next.push(link);
            }
        }
    }
    problems.extend(
        pages.keys().filter(|p| p.starts_with("docs/") && !reached.contains(*p)).map(|p| format!("{p}: not linked")),
    );
    assert!(pages.contains_key("README.md"), "no README.md");
    check(&problems);
}
