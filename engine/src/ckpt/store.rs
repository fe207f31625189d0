//! Writing and reading checkpoints; fencing; garbage collection.
//!
//! - `manifest/<20-digit seq>`: created, never replaced. The one with the greatest number is the truth; its number + 1
//!   is the right to write. Taking over is creating that number with a larger writer epoch.
//! - `runs/<writer epoch>-<ulid>`: immutable, named once and never again, so an upload that was abandoned or comes
//!   late can never be taken for another one.
//!
//! A manifest's body is JSON: `{"writer": <ulid>, "manifest": {..}}`. The writer id makes the objects of two processes
//! that race for one number differ, so that each can tell whether it was its own create that succeeded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use object_store::ObjectStore;
use parking_lot::Mutex;
use ulid::Ulid;

use super::batches;
use super::envelope::{self, Kind, damaged, object_hash};
use super::manifest::{FORMAT_VERSION, Manifest, RunRef};
use super::objects::{Created, Objects, number_name, numbered};
use crate::error::{Error, Result, SqlState};
use crate::hash::HASH_VERSION;

const MANIFESTS: &str = "manifest";
const RUNS: &str = "runs";
/// How often a lost race for the next manifest is run again before giving up.
const TAKE_OVER_ATTEMPTS: usize = 8;

/// The chain of manifests in an object store, owned by at most one process.
pub struct CheckpointStore {
    objects: Objects,
    writer_epoch: u64,
    /// Random identity of this process.
    writer: String,
    head: Mutex<Head>,
    /// Held while the chain is extended: calls queue up.
    extending: tokio::sync::Mutex<()>,
    /// Runs named by manifests we have read or written, by seq; spares reading them again for garbage collection.
    named: Mutex<BTreeMap<u64, Arc<HashSet<String>>>>,
}

/// The newest manifest of ours.
struct Head {
    manifest: Manifest,
    hash: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    writer: String,
    manifest: Manifest,
}

impl CheckpointStore {
    /// Reads the newest complete manifest (falling back past damaged ones, with a `tracing::error!` naming the object)
    /// and takes the chain over by creating the next one with a larger writer epoch. `None`: a new, empty store.
    /// The manifest returned is the one to restore from; [`Self::current`] is the one just created (same content).
    ///
    /// Data written by a newer release, and a store in which no manifest is usable but something is stored, are
    /// errors: nothing is ever started empty over existing data.
    pub async fn open(store: Arc<dyn ObjectStore>) -> Result<(Self, Option<Manifest>)> {
        Self::open_objects(Objects::new(store)).await
    }

    pub(super) async fn open_objects(objects: Objects) -> Result<(Self, Option<Manifest>)> {
        let writer = Ulid::new().to_string();
        for _ in 0..TAKE_OVER_ATTEMPTS {
            let Some(found) = find_newest(&objects).await? else {
                // A manifest vanished while we looked: its owner collects garbage. Look again.
                continue;
            };
            let manifest = Manifest {
                seq: found.last_seq + 1,
                writer_epoch: found.last_writer_epoch + 1,
                format_version: FORMAT_VERSION,
                hash_version: HASH_VERSION,
                previous: found.last_hash,
                ..found.newest.clone().unwrap_or_default()
            };
            let object = encode(&writer, &manifest)?;
            match objects.create(&number_name(MANIFESTS, manifest.seq), &object).await? {
                Created::Occupied(_) => continue,
                Created::Ours => {
                    tracing::info!(
                        seq = manifest.seq,
                        writer_epoch = manifest.writer_epoch,
                        epoch = manifest.epoch.0,
                        "took over the checkpoint store"
                    );
                    let named = BTreeMap::from([(manifest.seq, Arc::new(run_names(&manifest)))]);
                    let this = Self {
                        objects,
                        writer_epoch: manifest.writer_epoch,
                        writer,
                        head: Mutex::new(Head { hash: object_hash(&object), manifest }),
                        extending: tokio::sync::Mutex::new(()),
                        named: Mutex::new(named),
                    };
                    return Ok((this, found.newest));
                }
            }
        }
        Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, "other processes keep taking over this data folder")
            .hint("Make sure that only one process uses it."))
    }

    /// The fencing number of this process.
    pub fn writer_epoch(&self) -> u64 {
        self.writer_epoch
    }

    /// The newest manifest of ours.
    pub fn current(&self) -> Manifest {
        self.head.lock().manifest.clone()
    }

    /// Stores batches of one schema as one immutable object. At least one batch, which may be empty.
    pub async fn put_run(&self, batches: &[RecordBatch]) -> Result<RunRef> {
        let Some(first) = batches.first() else {
            return Err(Error::internal("a run needs at least one batch, for its schema"));
        };
        let schema = first.schema();
        let rows = batches.iter().map(|b| b.num_rows() as u64).sum();
        let writer_epoch = self.writer_epoch;
        let owned = batches.to_vec();
        let encode = move || -> Result<(Bytes, String)> {
            let mut body = Vec::new();
            batches::encode(&schema, &owned, &mut body)?;
            let object = envelope::seal(Kind::Run, writer_epoch, &body);
            let hash = object_hash(&object);
            Ok((object, hash))
        };
        let (object, hash) = off_thread(rows, encode).await?;
        let name = format!("{RUNS}/{}-{}", self.writer_epoch, Ulid::new());
        match self.objects.create(&name, &object).await? {
            Created::Ours => Ok(RunRef { name, bytes: object.len() as u64, hash, rows }),
            Created::Occupied(_) => Err(Error::internal(format!("the unique name \"{name}\" was taken"))),
        }
    }

    /// Reads a run; verifies its checksum before it is parsed.
    pub async fn get_run(&self, run: &RunRef) -> Result<Vec<RecordBatch>> {
        let object = self.objects.get(&run.name).await?.ok_or_else(|| damaged(&run.name, "it is missing"))?;
        let (rows, run) = (run.rows, run.clone());
        off_thread(rows, move || {
            if object.len() as u64 != run.bytes {
                return Err(damaged(&run.name, format!("{} bytes expected, {} found", run.bytes, object.len())));
            }
            let hash = object_hash(&object);
            if hash != run.hash {
                return Err(damaged(&run.name, format!("checksum {} expected, {hash} found", run.hash)));
            }
            let (_, body) = envelope::open(&run.name, Kind::Run, &object)?;
            Ok(batches::decode(&run.name, &body)?.1)
        })
        .await
    }

    /// Extends the chain: fills in seq, writer epoch, versions and the previous hash, and creates the manifest. On
    /// `FENCED` nothing was published and the process must stop. On `IO_ERROR` it is not known whether it was
    /// published; calling again settles that.
    pub async fn extend(&self, manifest: Manifest) -> Result<Manifest> {
        let _turn = self.extending.lock().await;
        loop {
            let (seq, previous) = {
                let head = self.head.lock();
                (head.manifest.seq + 1, head.hash.clone())
            };
            let next = Manifest {
                seq,
                writer_epoch: self.writer_epoch,
                format_version: FORMAT_VERSION,
                hash_version: HASH_VERSION,
                previous,
                ..manifest.clone()
            };
            let object = encode(&self.writer, &next)?;
            let name = number_name(MANIFESTS, seq);
            match self.objects.create(&name, &object).await? {
                Created::Ours => {
                    self.advance(next.clone(), &object);
                    return Ok(next);
                }
                Created::Occupied(stored) => {
                    let theirs = match decode(&name, &stored) {
                        Ok(theirs) if theirs.writer == self.writer => theirs,
                        other => return Err(self.fenced(&name, other.ok())),
                    };
                    // An earlier call of ours that failed with an unknown outcome did succeed. It is a complete
                    // checkpoint; the new one comes after it.
                    self.advance(theirs.manifest, &stored);
                }
            }
        }
    }

    fn advance(&self, manifest: Manifest, object: &Bytes) {
        self.named.lock().insert(manifest.seq, Arc::new(run_names(&manifest)));
        *self.head.lock() = Head { manifest, hash: object_hash(object) };
    }

    /// Deletes manifests older than the last `keep`, and runs that none of the kept ones names. Returns how many
    /// objects.
    ///
    /// Damaged manifests do not count as kept. A run that no manifest names is deleted only if it was named by a
    /// deleted manifest or belongs to an earlier writer: what this process uploaded since its last manifest stays.
    pub async fn collect_garbage(&self, keep: usize) -> Result<usize> {
        let mut manifests = {
            let _turn = self.extending.lock().await;
            let manifests = self.manifest_seqs().await?;
            let newest = manifests.last().copied().unwrap_or(0);
            if newest > self.current().seq {
                let name = number_name(MANIFESTS, newest);
                let stored = self.objects.get(&name).await?.and_then(|o| decode(&name, &o).ok());
                if stored.as_ref().is_none_or(|s| s.writer != self.writer) {
                    return Err(self.fenced(&name, stored));
                }
            }
            manifests
        };
        manifests.reverse();
        let mut kept: HashSet<String> = HashSet::new();
        let mut complete = 0;
        let mut doomed: Vec<u64> = Vec::new();
        let mut released: HashSet<String> = HashSet::new();
        for seq in manifests {
            match self.runs_named_by(seq).await {
                Ok(Some(runs)) if complete < keep.max(1) => {
                    complete += 1;
                    kept.extend(runs.iter().cloned());
                }
                Ok(Some(runs)) => {
                    doomed.push(seq);
                    released.extend(runs.iter().cloned());
                }
                Ok(None) => {}
                Err(e) if e.code == SqlState::DATA_CORRUPTED && complete >= keep.max(1) => doomed.push(seq),
                Err(e) if e.code == SqlState::DATA_CORRUPTED => {
                    tracing::error!(object = number_name(MANIFESTS, seq), error = %e, "damaged manifest in the store");
                }
                Err(e) => return Err(e),
            }
        }
        let mut deleted = 0;
        // Manifests first, oldest first: no manifest that is there ever names a run that is not.
        for seq in doomed.iter().rev() {
            self.objects.delete(&number_name(MANIFESTS, *seq)).await?;
            self.named.lock().remove(seq);
            deleted += 1;
        }
        for (name, _) in self.objects.list(RUNS).await? {
            let earlier_writer = run_writer(&name).is_some_and(|w| w < self.writer_epoch);
            if !kept.contains(&name) && (released.contains(&name) || earlier_writer) {
                self.objects.delete(&name).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    fn fenced(&self, name: &str, theirs: Option<Stored>) -> Error {
        let what = match theirs {
            Some(t) => fenced_by(t.manifest.writer_epoch, self.writer_epoch),
            None => Error::new(SqlState::FENCED, "another process took over this data folder"),
        };
        what.detail(format!("\"{name}\" was not written by this process."))
    }

    async fn manifest_seqs(&self) -> Result<Vec<u64>> {
        Ok(self.objects.list(MANIFESTS).await?.iter().filter_map(|(n, _)| numbered(MANIFESTS, n)).collect())
    }

    async fn runs_named_by(&self, seq: u64) -> Result<Option<Arc<HashSet<String>>>> {
        if let Some(known) = self.named.lock().get(&seq) {
            return Ok(Some(Arc::clone(known)));
        }
        let name = number_name(MANIFESTS, seq);
        let Some(object) = self.objects.get(&name).await? else { return Ok(None) };
        let runs = Arc::new(run_names(&decode(&name, &object)?.manifest));
        self.named.lock().insert(seq, Arc::clone(&runs));
        Ok(Some(runs))
    }
}

/// What [`find_newest`] found.
struct Found {
    /// The newest complete manifest; `None` in an empty store.
    newest: Option<Manifest>,
    /// The greatest number taken, damaged or not; 0 in an empty store.
    last_seq: u64,
    /// Hash of the object with that number.
    last_hash: String,
    /// No process had a greater writer epoch.
    last_writer_epoch: u64,
}

/// `None`: an object that was listed is gone, look again.
async fn find_newest(objects: &Objects) -> Result<Option<Found>> {
    let listed = objects.list(MANIFESTS).await?;
    let mut seqs: Vec<u64> = Vec::new();
    for (name, _) in &listed {
        match numbered(MANIFESTS, name) {
            Some(seq) => seqs.push(seq),
            None => tracing::warn!(object = name, "ignoring an object that is not a manifest"),
        }
    }
    seqs.reverse();
    let runs: HashMap<String, u64> = objects.list(RUNS).await?.into_iter().collect();
    let Some(last_seq) = seqs.first().copied() else {
        let stray = match runs.keys().min() {
            Some(name) => Some(name.clone()),
            None => objects.list(super::wal::WAL).await?.first().map(|(name, _)| name.clone()),
        };
        return match stray {
            None => Ok(Some(Found { newest: None, last_seq: 0, last_hash: String::new(), last_writer_epoch: 0 })),
            Some(name) => Err(Error::new(
                SqlState::DATA_CORRUPTED,
                format!("the data folder has no manifest, but it is not empty: it holds \"{name}\""),
            )
            .hint("Restore the objects below \"manifest/\", or use another data folder.")),
        };
    };
    let mut last_hash = String::new();
    let mut last_writer_epoch = runs.keys().filter_map(|n| run_writer(n)).max().unwrap_or(0);
    let mut reasons: Vec<String> = Vec::new();
    for seq in seqs {
        let name = number_name(MANIFESTS, seq);
        let Some(object) = objects.get(&name).await? else { return Ok(None) };
        if seq == last_seq {
            last_hash = object_hash(&object);
        }
        let complete = match decode(&name, &object) {
            Ok(stored) if stored.manifest.seq != seq => {
                Err(damaged(&name, format!("it is number {} of the chain", stored.manifest.seq)))
            }
            Ok(stored) => {
                last_writer_epoch = last_writer_epoch.max(stored.manifest.writer_epoch);
                check_runs(&name, &stored.manifest, &runs).map(|()| stored.manifest)
            }
            Err(e) => Err(e),
        };
        match complete {
            Ok(manifest) => {
                // Whoever wrote a manifest that cannot be read may have had a writer epoch of its own.
                last_writer_epoch = last_writer_epoch.max(manifest.writer_epoch + reasons.len() as u64);
                check_chain(objects, &manifest).await?;
                return Ok(Some(Found { newest: Some(manifest), last_seq, last_hash, last_writer_epoch }));
            }
            Err(e) if e.code == SqlState::DATA_CORRUPTED => {
                tracing::error!(object = name, error = %e, "checkpoint is unusable, falling back to an older one");
                reasons.push(e.message);
            }
            // Written by another release, or unreadable for now: falling back would lose data.
            Err(e) => return Err(e),
        }
    }
    Err(Error::new(SqlState::DATA_CORRUPTED, "no usable checkpoint is left in the data folder")
        .detail(format!("{}.", reasons.join("; ")))
        .hint("Nothing was changed. Restore the objects named from a backup."))
}

/// A broken chain is told, but the manifest itself is sound.
async fn check_chain(objects: &Objects, manifest: &Manifest) -> Result<()> {
    let name = number_name(MANIFESTS, manifest.seq.saturating_sub(1));
    if let Some(previous) = objects.get(&name).await? {
        let found = object_hash(&previous);
        if found != manifest.previous {
            tracing::error!(object = name, expected = manifest.previous, found, "manifest changed after its successor");
        }
    }
    Ok(())
}

fn check_runs(name: &str, manifest: &Manifest, runs: &HashMap<String, u64>) -> Result<()> {
    for run in all_runs(manifest) {
        match runs.get(&run.name) {
            None => return Err(damaged(name, format!("it needs \"{}\", which is missing", run.name))),
            Some(bytes) if *bytes != run.bytes => {
                let expected = run.bytes;
                return Err(damaged(&run.name, format!("\"{name}\" says {expected} bytes, {bytes} found")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn encode(writer: &str, manifest: &Manifest) -> Result<Bytes> {
    let stored = Stored { writer: writer.to_owned(), manifest: manifest.clone() };
    let body = serde_json::to_vec(&stored).map_err(|e| Error::internal(format!("manifest as JSON: {e}")))?;
    Ok(envelope::seal(Kind::Manifest, manifest.writer_epoch, &body))
}

fn decode(name: &str, object: &Bytes) -> Result<Stored> {
    let (header, body) = envelope::open(name, Kind::Manifest, object)?;
    let stored: Stored = serde_json::from_slice(&body).map_err(|e| damaged(name, format!("content: {e}")))?;
    if stored.manifest.writer_epoch != header.writer_epoch {
        return Err(damaged(name, "header and content disagree about the writer"));
    }
    if stored.manifest.hash_version != HASH_VERSION {
        return Err(Error::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!(
                "\"{name}\" was written with hash version {}, this release uses {HASH_VERSION}",
                stored.manifest.hash_version
            ),
        )
        .hint("Start the release that wrote it; nothing was changed."));
    }
    Ok(stored)
}

fn all_runs(manifest: &Manifest) -> impl Iterator<Item = &RunRef> {
    manifest.states.values().flat_map(|s| &s.slots).flat_map(|s| &s.runs)
}

fn run_names(manifest: &Manifest) -> HashSet<String> {
    all_runs(manifest).map(|r| r.name.clone()).collect()
}

/// The writer epoch in a run's name.
fn run_writer(name: &str) -> Option<u64> {
    name.strip_prefix(RUNS)?.strip_prefix('/')?.split_once('-')?.0.parse().ok()
}

/// The error of a process that must stop.
pub(super) fn fenced_by(theirs: u64, ours: u64) -> Error {
    Error::new(SqlState::FENCED, format!("another process took over (writer epoch {theirs} > {ours})"))
}

/// Runs something that may take long for large runs away from the async workers.
async fn off_thread<T: Send + 'static>(rows: u64, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    const SMALL_ROWS: u64 = 4096;
    if rows <= SMALL_ROWS {
        return f();
    }
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!("a checkpoint task did not finish: {e}"))),
    }
}

#[cfg(test)]
mod tests;
