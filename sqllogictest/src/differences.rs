//! The list of differences from PostgreSQL: every one has a reason, none is forgotten.
//!
//! A line `= reason` begins a group; a line `FILE | SQL` below it names a record by the path of its script without the
//! ending and by its text with single spaces. Lines that begin with `#` and empty lines say nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The list, and which of its lines were seen to differ.
#[derive(Debug, Default)]
pub struct Differences {
    reasons: BTreeMap<(String, String), String>,
    seen: Mutex<BTreeSet<(String, String)>>,
}

/// A statement on one line.
pub fn one_line(sql: &str) -> String {
    sql.trim().trim_end_matches(';').split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

impl Differences {
    /// Where the list of this repository is.
    pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/postgres_differences.txt");

    /// Reads a list.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(&text)
    }

    /// Reads the text of a list.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reasons = BTreeMap::new();
        let mut reason: Option<&str> = None;
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(r) = line.strip_prefix('=') {
                reason = Some(r.trim());
                continue;
            }
            let (file, sql) = line.split_once(" | ").ok_or_else(|| format!("line {}: no \" | \"", at + 1))?;
            let reason = reason.filter(|r| !r.is_empty()).ok_or_else(|| format!("line {}: no reason", at + 1))?;
            if reasons.insert((file.to_owned(), one_line(sql)), reason.to_owned()).is_some() {
                return Err(format!("line {}: listed twice", at + 1));
            }
        }
        Ok(Self { reasons, seen: Mutex::default() })
    }

    /// A record differs: gives the reason if it is listed.
    pub fn differs(&self, file: &str, sql: &str) -> Option<&str> {
        let key = (file.to_owned(), one_line(sql));
        let reason = self.reasons.get(&key)?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        Some(reason)
    }

    /// Listed records of these files that did not differ, or are no longer there.
    pub fn stale(&self, files: impl Fn(&str) -> bool) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.reasons.keys().filter(|k| files(&k.0) && !seen.contains(*k));
        left.map(|(file, sql)| format!("{file} | {sql}")).collect()
    }

    /// The text of a list without some of its lines, as [`Self::stale`] gives them, and without groups that become empty.
    pub fn without(text: &str, stale: &[String]) -> String {
        let mut out: Vec<&str> = Vec::new();
        for line in text.lines() {
            let is_stale = line
                .split_once(" | ")
                .is_some_and(|(file, sql)| stale.contains(&format!("{} | {}", file.trim(), one_line(sql))));
            if is_stale {
                continue;
            }
            if line.starts_with('=') && out.last().is_some_and(|l| l.starts_with('=')) {
                out.pop();
            }
            out.push(line);
        }
        if out.last().is_some_and(|l| l.starts_with('=')) {
            out.pop();
        }
        out.join("\n") + "\n"
    }

    /// How many records are listed.
    pub fn len(&self) -> usize {
        self.reasons.len()
    }

    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_record_has_a_reason_and_one_that_does_not_differ_is_stale() {
        let list = Differences::parse("# note\n= because\na/b | SELECT  1\na/c | SELECT 2\n").expect("a list");
        assert_eq!(list.differs("a/b", "SELECT\n 1;"), Some("because"));
        assert_eq!(list.differs("a/b", "SELECT 2"), None);
        assert_eq!(list.stale(|_| true), ["a/c | SELECT 2"]);
        assert!(Differences::parse("a/b | SELECT 1").is_err());
        assert!(Differences::parse("= x\na | b\na | b").is_err());
        assert_eq!((list.len(), list.is_empty()), (2, false));
        let text = "# note\n= one\na/b | SELECT 1\n= two\na/c | SELECT  2\n= three\na/d | SELECT 3\n";
        let left = Differences::without(text, &["a/c | SELECT 2".into(), "a/d | SELECT 3".into()]);
        assert_eq!(left, "# note\n= one\na/b | SELECT 1\n");
    }
}
