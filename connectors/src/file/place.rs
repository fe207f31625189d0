//! Where files are: a file, a folder or a glob, local or in an object store.

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::store::{open_store, parse_url};
use crate::{ConnectorError, Result, SplitId};

/// A file that was found.
#[derive(Debug, Clone)]
pub(super) struct FileInfo {
    /// Its full path; the split.
    pub split: SplitId,
    pub location: Path,
    pub size: u64,
}

impl FileInfo {
    /// By its extension.
    pub fn compressed(&self) -> bool {
        let extension = self.location.extension().unwrap_or_default().to_ascii_lowercase();
        matches!(extension.as_str(), "gz" | "zst" | "bz2" | "xz" | "zip" | "lz4")
    }
}

/// Files by path.
#[derive(Debug)]
pub(super) struct Place {
    pub store: Arc<dyn ObjectStore>,
    /// What stands before a location in a split's name.
    root: String,
    what: What,
}

#[derive(Debug)]
enum What {
    File(Path),
    Folder(Path),
    Glob { base: Path, pattern: Vec<String> },
}

impl Place {
    /// Takes a path or URL apart. The file or folder must be there.
    pub async fn open(path: &str, base_dir: Option<&FsPath>) -> Result<Self> {
        let (text, remote) = match parse_url(path)? {
            Some(url) if url.scheme() == "file" => {
                let local = path.trim_start_matches("file://").to_owned();
                (local, None)
            }
            Some(url) => {
                let text = path.split_once("://").map_or("", |(_, rest)| rest);
                let text = text.split_once('/').map_or("", |(_, rest)| rest).to_owned();
                (text, Some(format!("{}://{}", url.scheme(), url.authority())))
            }
            None => (path.to_owned(), None),
        };
        match remote {
            Some(host) => Self::remote(path, &text, &host).await,
            None => Self::local(path, &text, base_dir),
        }
    }

    async fn remote(path: &str, text: &str, host: &str) -> Result<Self> {
        let store = open_store(host, &[])?;
        let root = format!("{host}/");
        let invalid = |e| ConnectorError::config(format!("invalid path \"{path}\": {e}"));
        let (fixed, pattern) = split_glob(text);
        let base = Path::parse(fixed.trim_matches('/')).map_err(invalid)?;
        let what = if !pattern.is_empty() {
            What::Glob { base, pattern }
        } else {
            match store.head(&base).await {
                Ok(_) => What::File(base),
                Err(object_store::Error::NotFound { .. }) => What::Folder(base),
                Err(e) => return Err(ConnectorError::config(format!("cannot reach \"{path}\": {e}"))),
            }
        };
        Ok(Self { store, root, what })
    }

    fn local(path: &str, text: &str, base_dir: Option<&FsPath>) -> Result<Self> {
        let full = match base_dir {
            Some(base) => base.join(text),
            None => PathBuf::from(text),
        };
        let full =
            std::path::absolute(&full).map_err(|e| ConnectorError::config(format!("invalid path \"{path}\": {e}")))?;
        let full = full.to_str().ok_or_else(|| ConnectorError::config(format!("path \"{path}\" is not UTF-8")))?;
        let (mut fixed, pattern) = split_glob(full);
        if fixed.is_empty() {
            fixed = "/".into();
        }
        let missing = |e| {
            ConnectorError::config(format!("cannot read \"{fixed}\": {e}"))
                .hint("Option \"path\" names a file, a folder or a pattern like '/data/*.json' on the server.")
        };
        let is_dir = std::fs::metadata(&fixed).map_err(missing)?.is_dir();
        let folder =
            if is_dir { FsPath::new(&fixed) } else { FsPath::new(&fixed).parent().unwrap_or(FsPath::new("/")) };
        let store = LocalFileSystem::new_with_prefix(folder)
            .map_err(|e| ConnectorError::config(format!("cannot read \"{fixed}\": {e}")))?;
        let folder = folder.to_string_lossy();
        let root = format!("{}/", folder.trim_end_matches('/'));
        let what = if is_dir && pattern.is_empty() {
            What::Folder(Path::default())
        } else if is_dir {
            What::Glob { base: Path::default(), pattern }
        } else if pattern.is_empty() {
            What::File(Path::from(fixed.rsplit('/').next().unwrap_or_default()))
        } else {
            return Err(ConnectorError::config(format!("\"{fixed}\" is a file, not a folder")));
        };
        Ok(Self { store: Arc::new(store), root, what })
    }

    /// The files that are there now, by path.
    pub async fn list(&self) -> Result<Vec<FileInfo>> {
        let failed = |e| ConnectorError::retryable(format!("cannot list \"{}\": {e}", self.root));
        let mut found: Vec<ObjectMeta> = match &self.what {
            What::File(path) => match self.store.head(path).await {
                Ok(meta) => vec![meta],
                Err(object_store::Error::NotFound { .. }) => vec![],
                Err(e) => return Err(failed(e)),
            },
            What::Folder(base) | What::Glob { base, .. } => {
                let prefix = (!base.as_ref().is_empty()).then_some(base);
                self.store.list(prefix).try_collect().await.map_err(failed)?
            }
        };
        match &self.what {
            What::File(_) => {}
            What::Folder(base) => found.retain(|m| below(m, base).iter().all(|s| !hidden(s))),
            What::Glob { base, pattern } => found.retain(|m| {
                let segments = below(m, base);
                let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
                glob_path(pattern, &segments)
            }),
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found
            .into_iter()
            .map(|m| FileInfo {
                split: format!("{}{}", self.root, m.location).into(),
                location: m.location,
                size: m.size,
            })
            .collect())
    }

    /// What an error of the store about a file means.
    pub fn error(&self, split: &str, e: object_store::Error) -> ConnectorError {
        match e {
            object_store::Error::NotFound { .. } => ConnectorError::lost(format!("file \"{split}\" is gone"))
                .hint("Restore the file; a stream's files must stay as long as the stream."),
            e => ConnectorError::retryable(format!("cannot read \"{split}\": {e}")),
        }
    }
}

/// The segments of a location below a base.
fn below(m: &ObjectMeta, base: &Path) -> Vec<String> {
    m.location.prefix_match(base).map(|parts| parts.map(|p| p.as_ref().to_owned()).collect()).unwrap_or_default()
}

/// Files that writers use for themselves.
fn hidden(segment: &str) -> bool {
    segment.starts_with('.') || segment.starts_with('_')
}

/// The folders before the first special character, and the pattern's segments.
fn split_glob(text: &str) -> (String, Vec<String>) {
    let segments: Vec<&str> = text.split('/').collect();
    match segments.iter().position(|s| s.contains(['*', '?', '['])) {
        None => (text.to_owned(), Vec::new()),
        Some(i) => (segments[..i].join("/"), segments[i..].iter().map(|s| (*s).to_owned()).collect()),
    }
}

/// Matches segments; `**` stands for any number of folders.
fn glob_path(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        // As the last segment it takes any file below.
        (Some((p, rest)), _) if p == "**" && rest.is_empty() => !path.is_empty(),
        (Some((p, rest)), _) if p == "**" => (0..=path.len()).any(|n| glob_path(rest, &path[n..])),
        (Some((p, rest)), Some((s, tail))) => {
            (p.starts_with('.') || !s.starts_with('.'))
                && glob_name(p.as_bytes(), s.as_bytes())
                && glob_path(rest, tail)
        }
        _ => false,
    }
}

/// Matches one name: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`.
fn glob_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        let step = match pattern.get(p) {
            Some(b'?') => Some(1),
            Some(b'[') => one_of(&pattern[p..], name[n]),
            Some(c) if *c == name[n] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(len), _) => {
                p += len;
                n += 1;
            }
            (None, Some((sp, sn))) => {
                star = Some((sp, sn + 1));
                p = sp + 1;
                n = sn + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Length of the class if it takes the byte; an unclosed `[` stands for itself.
fn one_of(pattern: &[u8], b: u8) -> Option<usize> {
    let Some(close) = pattern.iter().skip(2).position(|c| *c == b']').map(|i| i + 2) else {
        return (b == b'[').then_some(1);
    };
    let not = matches!(pattern[1], b'!' | b'^');
    let class = &pattern[1 + usize::from(not)..close];
    let mut hit = false;
    let mut i = 0;
    while i < class.len() {
        if i + 2 < class.len() && class[i + 1] == b'-' {
            hit |= (class[i]..=class[i + 2]).contains(&b);
            i += 3;
        } else {
            hit |= class[i] == b;
            i += 1;
        }
    }
    (hit != not).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let pattern: Vec<String> = pattern.split('/').map(String::from).collect();
        glob_path(&pattern, &path.split('/').collect::<Vec<_>>())
    }

    #[test]
    fn globs_match_names_folders_and_classes() {
        for (pattern, path) in [
            ("*.json", "a.json"),
            ("**/*.json", "a.json"),
            ("**/*.json", "x/y/a.json"),
            ("x/**", "x/y/z"),
            ("a?[0-9].csv", "ab7.csv"),
            ("[!a]*b*c", "xbbbc"),
            ("*a*b", "aab"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.json", "x/a.json"),
            ("*.json", "a.jsonl"),
            ("*.json", ".a.json"),
            ("[!a]*", "abc"),
            ("x/**", "y/z"),
            ("x/**", "x"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}
