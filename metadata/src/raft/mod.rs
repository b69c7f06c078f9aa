//! Consensus: openraft with its log, vote and snapshots on disk, and the messages between members.
//!
//! * [`directory`], [`identity`]: whose directory it is. [`store`]: the database below. [`log`]: the raft log and the vote;
//!   `disk`: the thread that writes them; `headway`: whether raft may go on before it has.
//! * [`machine`]: committed entries into the state machine. [`snapshots`]: the state as a file.
//! * [`network`]: messages to peers. [`desk`]: messages from peers. [`courier`]: how a peer is reached.
//! * [`thread`]: raft has a thread of its own, so that neither requests nor watches delay it.
//!
//! Nothing above this folder knows openraft, but for the driver of proposals and the operators' calls.

pub mod courier;
pub mod desk;
pub mod directory;
mod disk;
mod headway;
pub mod identity;
pub mod log;
pub mod machine;
pub mod network;
pub mod snapshots;
pub mod store;
pub mod thread;

use crate::state::{Batch, Replies};
use protocol::service::quorum::Member;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

openraft::declare_raft_types!(
    /// What openraft is told about our commands, nodes and snapshots.
    pub TypeConfig:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = Seat,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = snapshots::SnapshotFile,
);

/// The raft node of this process.
pub type Raft = openraft::Raft<TypeConfig>;
/// What openraft says of itself.
pub type RaftMetrics = openraft::RaftMetrics<u64, Seat>;
/// The identity of a log entry.
pub type LogId = openraft::LogId<u64>;
/// Who may lead in which term.
pub type Vote = openraft::Vote<u64>;
/// What openraft calls a failure of the disk.
pub type StorageError = openraft::StorageError<u64>;

/// What the membership says of a member beside its number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seat {
    /// The life of its disk.
    pub life: Uuid,
    /// Where clients reach it; empty if no other process does.
    pub address: String,
    /// Where members reach it; empty if no other process does.
    pub peer_address: String,
}

impl Seat {
    /// The member whose seat this is.
    #[must_use]
    pub fn member(&self, id: u64) -> Member {
        Member { id, life: self.life, address: self.address.clone(), peer_address: self.peer_address.clone() }
    }
}

/// An entry of the first term that changes nothing.
#[cfg(test)]
fn blank(index: u64) -> openraft::Entry<TypeConfig> {
    let log_id = LogId::new(openraft::CommittedLeaderId::new(1, 1), index);
    openraft::Entry { log_id, payload: openraft::EntryPayload::Blank }
}
