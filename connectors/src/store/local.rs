//! A local folder as an object store whose writes survive a power cut.
//!
//! A write goes to a temp file in the target's folder, is synced, gets its name by a hard link (create-only: exactly
//! one of several writers wins) or a rename (overwrite), and then the folder is synced, as are the parents of folders
//! made on the way. So an object is there whole or not at all, and once `put` returned it stays.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

const TEMP_PREFIX: &str = ".millstream-tmp-";
/// A temp file this old belongs to no writer that still runs.
const TEMP_MAX_AGE: Duration = Duration::from_secs(3600);
const NAME: &str = "DurableLocal";

/// See the module.
#[derive(Debug)]
pub struct DurableLocal {
    inner: LocalFileSystem,
    root: PathBuf,
    temps: Arc<AtomicU64>,
}

impl std::fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DurableLocal({})", self.root.display())
    }
}

impl DurableLocal {
    /// Opens a folder, making it if it is missing, and removes temp files that a crash left.
    pub fn open(root: impl AsRef<FsPath>) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        make_dirs(&root)?;
        let root = root.canonicalize()?;
        clean(&root, SystemTime::now())?;
        let inner = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Self { inner, root, temps: Arc::new(AtomicU64::new(0)) })
    }

    /// Target path and the temp file beside it.
    fn places(&self, location: &Path) -> Result<(PathBuf, PathBuf)> {
        let target = self.inner.path_to_filesystem(location)?;
        let n = self.temps.fetch_add(1, Ordering::Relaxed);
        // Process, store and write: unique among the writers of this machine; `create_new` guards the rest.
        let store = Arc::as_ptr(&self.temps) as usize;
        let temp = target.with_file_name(format!("{TEMP_PREFIX}{}-{store:x}-{n}", std::process::id()));
        Ok((target, temp))
    }
}

fn io_error(location: &Path, e: io::Error) -> Error {
    let path = location.to_string();
    match e.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: Box::new(e) },
        io::ErrorKind::NotFound => Error::NotFound { path, source: Box::new(e) },
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: Box::new(e) },
        _ => Error::Generic { store: NAME, source: Box::new(e) },
    }
}

async fn blocking<T: Send + 'static>(location: &Path, f: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(done) => done.map_err(|e| io_error(location, e)),
        Err(e) => Err(Error::JoinError { source: e }),
    }
}

fn sync_dir(dir: &FsPath) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a folder and its parents, syncing each new name.
fn make_dirs(dir: &FsPath) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    make_dirs(parent)?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        // Another writer may have made it and not synced yet.
        _ => {}
    }
    sync_dir(parent)
}

fn clean(dir: &FsPath, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            clean(&entry.path(), now)?;
        } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| now.duration_since(t).ok());
            if age.is_some_and(|a| a >= TEMP_MAX_AGE) {
                // Another process may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    Ok(())
}

fn create_temp(temp: &FsPath) -> io::Result<File> {
    if let Some(dir) = temp.parent() {
        make_dirs(dir)?;
    }
    OpenOptions::new().write(true).create_new(true).open(temp)
}

/// Gives a complete temp file its name; the temp name is gone afterwards in any case.
fn publish(file: &File, temp: &FsPath, target: &FsPath, create: bool) -> io::Result<()> {
    let done = file.sync_all().and_then(|()| match create {
        true => fs::hard_link(temp, target),
        false => fs::rename(temp, target),
    });
    if create || done.is_err() {
        let _ = fs::remove_file(temp);
    }
    done?;
    target.parent().map_or(Ok(()), sync_dir)
}

fn write_object(temp: &FsPath, target: &FsPath, payload: &PutPayload, create: bool) -> io::Result<()> {
    let mut file = create_temp(temp)?;
    for part in payload {
        if let Err(e) = file.write_all(part) {
            let _ = fs::remove_file(temp);
            return Err(e);
        }
    }
    publish(&file, temp, target, create)
}

fn is_temp(location: &Path) -> bool {
    location.filename().is_some_and(|n| n.starts_with(TEMP_PREFIX))
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented { operation: "conditional update".into(), implementer: NAME.into() });
            }
        };
        let (target, temp) = self.places(location)?;
        blocking(location, move || write_object(&temp, &target, &payload, create)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (target, temp) = self.places(location)?;
        let path = temp.clone();
        let file = blocking(location, move || create_temp(&path)).await?;
        let location = location.clone();
        Ok(Box::new(Upload { file: Arc::new(file), location, temp, target, offset: 0, open: true }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).try_filter(|m| futures::future::ready(!is_temp(&m.location))).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner
            .list_with_offset(prefix, offset)
            .try_filter(|m| futures::future::ready(!is_temp(&m.location)))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects.retain(|m| !is_temp(&m.location));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.get(from).await?.bytes().await?;
        let mode = match options.mode {
            CopyMode::Create => PutMode::Create,
            CopyMode::Overwrite => PutMode::Overwrite,
        };
        self.put_opts(to, bytes.into(), mode.into()).await.map(|_| ())
    }
}

#[derive(Debug)]
struct Upload {
    file: Arc<File>,
    location: Path,
    temp: PathBuf,
    target: PathBuf,
    offset: u64,
    open: bool,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let start = self.offset;
        self.offset += data.content_length() as u64;
        let (file, location) = (self.file.clone(), self.location.clone());
        Box::pin(async move {
            let write = move || {
                let mut at = start;
                for part in &data {
                    file.write_all_at(part, at)?;
                    at += part.len() as u64;
                }
                Ok(())
            };
            blocking(&location, write).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.open = false;
        let (file, temp, target) = (self.file.clone(), self.temp.clone(), self.target.clone());
        blocking(&self.location, move || publish(&file, &temp, &target, false)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.open = false;
        let temp = self.temp.clone();
        blocking(&self.location, move || fs::remove_file(temp)).await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.open {
            let _ = fs::remove_file(&self.temp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create() -> PutOptions {
        PutMode::Create.into()
    }

    async fn names(store: &DurableLocal) -> Vec<String> {
        let mut v: Vec<String> = store.list(None).map_ok(|m| m.location.to_string()).try_collect().await.unwrap();
        v.sort();
        v
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_create_only_race_has_exactly_one_winner() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(DurableLocal::open(dir.path()).unwrap());
        for round in 0..10 {
            let tasks: Vec<_> = (0..8u8)
                .map(|i| {
                    let store = store.clone();
                    let path = Path::from(format!("m/{round}"));
                    tokio::spawn(async move { store.put_opts(&path, vec![i; 100].into(), create()).await.map(|_| i) })
                })
                .collect();
            let mut winners = vec![];
            for t in tasks {
                match t.await.unwrap() {
                    Ok(i) => winners.push(i),
                    Err(Error::AlreadyExists { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            assert_eq!(winners.len(), 1);
            let got = store.get(&Path::from(format!("m/{round}"))).await.unwrap().bytes().await.unwrap();
            assert_eq!(got.as_ref(), &[winners[0]; 100]);
        }
        assert_eq!(fs::read_dir(dir.path().join("m")).unwrap().count(), 10, "temp files are gone");
    }

    #[tokio::test]
    async fn temp_files_are_not_listed_and_only_our_old_ones_are_cleaned() {
        let dir = tempfile::tempdir().unwrap();
        let (old, young, foreign) = (
            dir.path().join("d").join(format!("{TEMP_PREFIX}1-1-1")),
            dir.path().join("d").join(format!("{TEMP_PREFIX}1-1-2")),
            dir.path().join("d/other.tmp"),
        );
        fs::create_dir(dir.path().join("d")).unwrap();
        for f in [&old, &young, &foreign] {
            fs::write(f, "x").unwrap();
        }
        let past = SystemTime::now() - Duration::from_secs(7200);
        for f in [&old, &foreign] {
            File::options().write(true).open(f).unwrap().set_modified(past).unwrap();
        }
        let store = DurableLocal::open(dir.path()).unwrap();
        assert_eq!(names(&store).await, vec!["d/other.tmp"]);
        assert!(!old.exists() && young.exists() && foreign.exists());
        let listed = store.list_with_delimiter(Some(&Path::from("d"))).await.unwrap();
        assert_eq!(listed.objects.len(), 1);
    }

    #[tokio::test]
    async fn content_survives_reopening_overwrites_and_copies() {
        let dir = tempfile::tempdir().unwrap();
        let store = DurableLocal::open(dir.path().join("new/deep")).unwrap();
        store.put(&Path::from("a/b/c"), "one".into()).await.unwrap();
        store.put(&Path::from("a/b/c"), "two".into()).await.unwrap();
        store.copy(&Path::from("a/b/c"), &Path::from("z")).await.unwrap();
        let again = DurableLocal::open(dir.path().join("new/deep")).unwrap();
        assert_eq!(again.get(&Path::from("z")).await.unwrap().bytes().await.unwrap().as_ref(), b"two");
        again.delete(&Path::from("a/b/c")).await.unwrap();
        assert_eq!(names(&again).await, vec!["z"]);
        assert!(matches!(again.get(&Path::from("a/b/c")).await, Err(Error::NotFound { .. })));
        assert!(matches!(
            again.put_opts(&Path::from("z"), "3".into(), create()).await,
            Err(Error::AlreadyExists { .. })
        ));
    }

    #[tokio::test]
    async fn a_multipart_upload_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = DurableLocal::open(dir.path()).unwrap();
        let mut up = store.put_multipart(&Path::from("m/x")).await.unwrap();
        let (one, two) = (up.put_part("hello ".into()), up.put_part("world".into()));
        two.await.unwrap();
        one.await.unwrap();
        assert!(names(&store).await.is_empty());
        up.complete().await.unwrap();
        assert_eq!(store.get(&Path::from("m/x")).await.unwrap().bytes().await.unwrap().as_ref(), b"hello world");
        let mut gone = store.put_multipart(&Path::from("m/y")).await.unwrap();
        gone.put_part("x".into()).await.unwrap();
        gone.abort().await.unwrap();
        drop(store.put_multipart(&Path::from("m/z")).await.unwrap());
        assert_eq!(names(&store).await, vec!["m/x"]);
        assert_eq!(fs::read_dir(dir.path().join("m")).unwrap().count(), 1);
    }
}
