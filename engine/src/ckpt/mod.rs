//! Checkpoints: immutable objects, numbered create-only manifests, one writer.
//!
//! A checkpoint is a [`Manifest`] and the runs it names. Manifests form a chain `manifest/<seq>`: whoever creates the
//! next number owns the store, so a process that was taken over finds its next number occupied and must stop. Every
//! object is framed by [`envelope`] and verified before it is parsed.

mod batches;
pub mod envelope;
pub mod manifest;
mod objects;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod wal;

pub use manifest::{Manifest, PausedRef, RunRef, SlotRef, StateRef};
pub use store::CheckpointStore;
pub use wal::{Wal, WalRecord};
