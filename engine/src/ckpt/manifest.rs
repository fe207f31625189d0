//! The root of a checkpoint.

use std::collections::BTreeMap;

use millstream_connectors::Positions;

use crate::coord::event_time::StoredTime;
use crate::time::{Epoch, Timestamp};

/// Version of the layout of all stored objects.
pub const FORMAT_VERSION: u32 = 1;

/// One immutable object that holds Arrow batches.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunRef {
    /// Object path below the store's root, unique for ever.
    pub name: String,
    /// Length of the whole object.
    pub bytes: u64,
    /// xxh3-128 of the whole object, hex.
    pub hash: String,
    /// Rows inside.
    pub rows: u64,
}

/// The runs of one state slot, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SlotRef {
    /// Shard that wrote it.
    pub shard: u32,
    /// Node of the plan.
    pub node: u32,
    /// Slot of the operator.
    pub slot: String,
    /// Runs, to be applied in order.
    pub runs: Vec<RunRef>,
}

/// State of one job or table at its cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StateRef {
    /// The epoch it is of.
    pub cut: Epoch,
    /// How many shards wrote it.
    pub shards: u32,
    /// Slots.
    pub slots: Vec<SlotRef>,
}

/// Where a paused view stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PausedRef {
    /// The epoch it is of.
    pub epoch: Epoch,
    /// Positions of the connector streams it reads, by relation id. The rows of the stored relations it reads are the
    /// state `pause/<id>`, one node a relation.
    pub sources: BTreeMap<u64, Positions>,
    /// Event time of those that have a watermark.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub event_time: BTreeMap<u64, StoredTime>,
}

/// A complete, restorable cut of everything, and the catalog.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Manifest {
    /// Position in the chain, from 1.
    pub seq: u64,
    /// Fencing number of the process that wrote it.
    pub writer_epoch: u64,
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// [`crate::hash::HASH_VERSION`].
    pub hash_version: u32,
    /// Hash of the previous manifest object, hex; empty for the first.
    pub previous: String,
    /// The cut.
    pub epoch: Epoch,
    /// Its clock.
    pub clock: Timestamp,
    /// WAL records up to and including this sequence number are inside.
    pub wal_seq: u64,
    /// The catalog, as `catalog` encodes it.
    pub catalog: serde_json::Value,
    /// Positions of every connector stream at the cut, by relation id.
    pub sources: BTreeMap<u64, Positions>,
    /// Up to where records of a stream that cannot be read are in `ms.errors`, by relation id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reported: BTreeMap<u64, Positions>,
    /// Event time of streams with watermarks at the cut, by relation id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub event_time: BTreeMap<u64, StoredTime>,
    /// Paused views by relation id: their state is older than the cut.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub paused: BTreeMap<u64, PausedRef>,
    /// State by owner: `job/7`, `table/3`, `pause/7`.
    pub states: BTreeMap<String, StateRef>,
}
