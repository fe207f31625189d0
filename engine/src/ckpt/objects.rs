//! What the protocol needs of an object store: reading, listing, deleting, and *creating with a known outcome*.
//!
//! A create whose reply is lost has an unknown outcome, and so has a create that was refused because "it exists
//! already": the existing object may be our own. So [`Objects::create`] reads back and compares before it says who won.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use crate::error::{Error, Result, SqlState};

/// How long transient failures are endured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    attempts: u32,
    first_pause: Duration,
    longest_pause: Duration,
}

impl Default for Retry {
    /// About seven seconds in all, beside what the store's own client retries.
    fn default() -> Self {
        Self { attempts: 10, first_pause: Duration::from_millis(20), longest_pause: Duration::from_secs(2) }
    }
}

impl Retry {
    async fn pause(&self, attempt: u32) {
        let pause = self.first_pause.saturating_mul(1 << attempt.min(16)).min(self.longest_pause);
        tokio::time::sleep(pause).await;
    }
}

/// Who owns a name after [`Objects::create`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Created {
    /// Our bytes are stored.
    Ours,
    /// Other bytes were there first.
    Occupied(Bytes),
}

/// A store with retries.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    retry: Retry,
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, retry: Retry::default() }
    }

    /// Shortens the patience with a broken store.
    #[cfg(test)]
    pub(super) fn impatient(mut self) -> Self {
        self.retry = Retry { attempts: 3, first_pause: Duration::from_millis(1), ..self.retry };
        self
    }

    /// The whole object; `None` if there is none.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let path = Path::from(name);
        let mut attempt = 0;
        loop {
            let e = match self.store.get(&path).await {
                Ok(r) => match r.bytes().await {
                    Ok(b) => return Ok(Some(b)),
                    Err(e) => e,
                },
                Err(e) => e,
            };
            if matches!(e, StoreError::NotFound { .. }) {
                return Ok(None);
            }
            attempt += 1;
            if attempt >= self.retry.attempts || !transient(&e) {
                return Err(failed("read", name, &e));
            }
            tracing::warn!(object = name, error = %e, attempt, "reading failed, trying again");
            self.retry.pause(attempt).await;
        }
    }

    /// Names below a folder with their lengths, in order of name. `folder` has no slash.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let prefix = Path::from(folder);
        let mut attempt = 0;
        loop {
            let listing: std::result::Result<Vec<_>, _> = self.store.list(Some(&prefix)).try_collect().await;
            let e = match listing {
                Ok(all) => {
                    let mut names: Vec<_> = all.into_iter().map(|m| (m.location.to_string(), m.size)).collect();
                    names.sort();
                    return Ok(names);
                }
                Err(StoreError::NotFound { .. }) => return Ok(Vec::new()),
                Err(e) => e,
            };
            attempt += 1;
            if attempt >= self.retry.attempts || !transient(&e) {
                return Err(failed("list", folder, &e));
            }
            tracing::warn!(folder, error = %e, attempt, "listing failed, trying again");
            self.retry.pause(attempt).await;
        }
    }

    /// Deletes an object; one that is gone already is fine.
    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        let path = Path::from(name);
        let mut attempt = 0;
        loop {
            let e = match self.store.delete(&path).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(e) => e,
            };
            attempt += 1;
            if attempt >= self.retry.attempts || !transient(&e) {
                return Err(failed("delete", name, &e));
            }
            self.retry.pause(attempt).await;
        }
    }

    /// Creates an object that must not exist. An `Err` means: not known whether it was created, and it may even
    /// appear later. Trying again with the same name is the way to find out.
    pub(super) async fn create(&self, name: &str, object: &Bytes) -> Result<Created> {
        let path = Path::from(name);
        let mut attempt = 0;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let e = match self.store.put_opts(&path, PutPayload::from_bytes(object.clone()), options).await {
                Ok(_) => return Ok(Created::Ours),
                Err(e) => e,
            };
            let refused = matches!(e, StoreError::AlreadyExists { .. } | StoreError::Precondition { .. });
            if !refused && !transient(&e) {
                return Err(failed("create", name, &e));
            }
            // Either somebody has it (perhaps we, and the reply was lost), or a concurrent create made the store
            // refuse both. What is stored now decides; while nothing is stored we may try again.
            match self.get(name).await? {
                Some(stored) if stored == object => return Ok(Created::Ours),
                Some(stored) => return Ok(Created::Occupied(stored)),
                None => {}
            }
            attempt += 1;
            if attempt >= self.retry.attempts {
                return Err(failed("create", name, &e));
            }
            tracing::warn!(object = name, error = %e, attempt, "creating failed, trying again");
            self.retry.pause(attempt).await;
        }
    }
}

/// True if trying again may help.
fn transient(e: &StoreError) -> bool {
    !matches!(
        e,
        StoreError::InvalidPath { .. }
            | StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::PermissionDenied { .. }
            | StoreError::Unauthenticated { .. }
            | StoreError::UnknownConfigurationKey { .. }
    )
}

fn failed(what: &str, name: &str, e: &StoreError) -> Error {
    Error::new(SqlState::IO_ERROR, format!("could not {what} \"{name}\" in the checkpoint store: {e}"))
}

/// Number of an object named `<folder>/<20 digits>`.
pub(super) fn numbered(folder: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(folder)?.strip_prefix('/')?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The name `<folder>/<20 digits>`.
pub(super) fn number_name(folder: &str, seq: u64) -> String {
    format!("{folder}/{seq:020}")
}
