//! Stores for tests: in memory, in a folder, and one that loses replies.

use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

pub(crate) fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

pub(crate) async fn memory_with(objects: &[(&str, Bytes)]) -> Arc<dyn ObjectStore> {
    let store = memory();
    for (name, object) in objects {
        store.put(&Path::from(*name), PutPayload::from_bytes(object.clone())).await.unwrap();
    }
    store
}

pub(crate) fn local(folder: &FilePath) -> Arc<dyn ObjectStore> {
    Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap())
}

pub(crate) fn ints(values: &[i64]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
    RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap()
}

/// A store that can fail before or after it has done its work.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    lost_replies: AtomicUsize,
    refuse_everything: AtomicBool,
    refuse_replies: AtomicBool,
    /// Creates that fail by themselves with a conflict, as S3 does when two race.
    pub(crate) conflicts: AtomicUsize,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            lost_replies: AtomicUsize::new(0),
            refuse_everything: AtomicBool::new(false),
            refuse_replies: AtomicBool::new(false),
            conflicts: AtomicUsize::new(0),
        })
    }
    /// The next puts succeed, but their replies are lost.
    pub(crate) fn lose_replies(&self, n: usize) {
        self.lost_replies.store(n, Ordering::SeqCst);
    }
    /// The store is away.
    pub(crate) fn refuse_everything(&self, on: bool) {
        self.refuse_everything.store(on, Ordering::SeqCst);
    }
    /// Requests arrive and are done; no reply comes.
    pub(crate) fn refuse_replies(&self, on: bool) {
        self.refuse_replies.store(on, Ordering::SeqCst);
    }
    fn check(&self) -> Result<()> {
        if self.refuse_everything.load(Ordering::SeqCst) { Err(lost()) } else { Ok(()) }
    }
}

fn take_one(n: &AtomicUsize) -> bool {
    n.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "connection lost".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.check()?;
        if take_one(&self.conflicts) {
            return Err(Error::Precondition { path: location.to_string(), source: "conflict".into() });
        }
        let result = self.inner.put_opts(location, payload, opts).await;
        if take_one(&self.lost_replies) || self.refuse_replies.load(Ordering::SeqCst) { Err(lost()) } else { result }
    }
    async fn put_multipart_opts(&self, location: &Path, o: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, o).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check()?;
        if self.refuse_replies.load(Ordering::SeqCst) {
            return Err(lost());
        }
        self.inner.get_opts(location, options).await
    }
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check() {
            Ok(()) => self.inner.list(prefix),
            Err(e) => futures::stream::once(async { Err(e) }).boxed(),
        }
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
