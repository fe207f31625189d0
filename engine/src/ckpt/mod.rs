//! Checkpoints: immutable objects, numbered create-only manifests, one writer.

pub mod envelope;
pub mod manifest;
pub mod store;
pub mod wal;

pub use manifest::{Manifest, RunRef, SlotRef, StateRef};
pub use store::CheckpointStore;
pub use wal::{Wal, WalRecord};
