//! Raft: the adapter between openraft and the rest of the service.
//!
//! Owns the log and the snapshot on disk ([`directory`], [`store`], [`log`]), the feeding of committed entries to the
//! state machine ([`machine`]) and the way to other voters ([`network`]). It never looks into a command.
//!
//! Invariant: an entry is reported as appended only after it was synced, and any failed write is fatal for the node.

pub mod directory;
pub mod log;
pub mod machine;
pub mod network;
pub mod store;

use crate::state::{Batch, Replies};
use std::io::Cursor;

openraft::declare_raft_types!(
    /// What openraft is told about our commands, nodes and snapshots.
    pub TypeConfig:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

/// The raft node of this process.
pub type Raft = openraft::Raft<TypeConfig>;
/// The identity of a log entry.
pub type LogId = openraft::LogId<u64>;
/// What openraft calls a failure of the disk.
pub type StorageError = openraft::StorageError<u64>;
