//! The contract for looking after a metadata cluster: who is in it, how it does, who leads, and what it holds as a file.
//!
//! Every node answers. What only the leader can do is passed on to it once; a call that was passed on is never passed on
//! again. Data never travels this way but for [`QuorumService::backup`].

use super::{Abandoned, Answer};
use crate::id::Revision;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::time::Duration;
use uuid::Uuid;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Its vote counts.
    Voter,
    /// It follows without a vote.
    Learner,
}

/// A member of a metadata cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number, 1 or more, unique in the cluster.
    pub id: u64,
    /// Which life of its disk this is. A node that lost its disk has another one, and is not this member any more.
    pub life: Uuid,
    /// Where clients reach it, `host:port`; empty if no other process does.
    pub address: String,
    /// Where other members reach it, `host:port`; empty if no other process does.
    pub peer_address: String,
}

/// A member as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who it is.
    pub member: Member,
    /// What it may do.
    pub role: MemberRole,
    /// The last log index that it is known to hold; only the leader knows.
    pub matched: Option<u64>,
    /// How long ago it was heard; only the leader knows.
    pub heard: Option<Duration>,
}

/// The state of one node, and of the cluster as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumStatus {
    /// The node that answers.
    pub node: u64,
    /// The group it belongs to; drawn when the cluster was founded.
    pub group: Uuid,
    /// The raft term.
    pub term: u64,
    /// Who leads; `None` if nobody is known to.
    pub leader: Option<u64>,
    /// The last index of the log.
    pub last_log: u64,
    /// The last committed index, as far as this node knows.
    pub committed: u64,
    /// The last applied index.
    pub applied: u64,
    /// Everyone in the cluster, by number.
    pub members: Vec<MemberStatus>,
    /// The revision of the latest transaction applied here.
    pub revision: Revision,
    /// Keys.
    pub keys: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Watches open on this node.
    pub watches: u64,
    /// Bytes of the raft log.
    pub log_bytes: u64,
    /// The current snapshot; `None` before the first.
    pub snapshot: Option<SnapshotStatus>,
    /// The latest audited position and the digest of the state there; members that differ have diverged.
    pub audited: Option<(u64, u64)>,
    /// Whether a change of the members is under way. Until it is done, nothing goes on without a majority of the old
    /// voters and one of the new ones.
    pub is_changing: bool,
}

/// A snapshot on a node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The last log index in it.
    pub index: u64,
    /// Its size.
    pub bytes: u64,
    /// How long ago this process wrote or received it; `None` if that was before the process started.
    pub age: Option<Duration>,
}

/// A node that wants to become a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// The number it wants; `None` lets the cluster choose one that was never used.
    pub id: Option<u64>,
    /// The life of its disk.
    pub life: Uuid,
    /// Where clients will reach it.
    pub address: String,
    /// Where members will reach it.
    pub peer_address: String,
}

/// What a node that joins is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Its number.
    pub id: u64,
    /// The group it belongs to from now on.
    pub group: Uuid,
}

/// A backup on its way: pieces of one file, in order.
pub type BackupStream = BoxStream<'static, Result<Bytes, QuorumError>>;

/// Why the cluster did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// Nothing happened: no leader, no quorum, shutting down. Safe to retry.
    #[error("the metadata cluster is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It may or may not have happened; ask for the status.
    #[error("the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// It makes no sense, or would do harm. The text says what to do instead.
    #[error("{0}")]
    Refused(String),
}

impl Abandoned for QuorumError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown { reason: "the metadata node dropped the call".into() }
    }
}

/// A metadata cluster as its operators see it.
pub trait QuorumService: Send + Sync + 'static {
    /// How this node and the cluster do. Never waits for a quorum.
    fn status(&self) -> Answer<QuorumStatus, QuorumError>;
    /// Takes a node in as a learner. The same node asking again gets the same answer. A number whose member has another
    /// life of its disk is refused: that member has to be removed first.
    fn join(&self, joining: Joining) -> Answer<Joined, QuorumError>;
    /// Gives a learner its vote, once it has caught up.
    fn promote(&self, id: u64) -> Answer<(), QuorumError>;
    /// Takes a member out. Refused if what remains would have no quorum.
    fn remove(&self, id: u64) -> Answer<(), QuorumError>;
    /// Hands the lead to a voter, or to the most advanced one; answers who leads then.
    fn transfer(&self, to: Option<u64>) -> Answer<u64, QuorumError>;
    /// Writes a snapshot on this node now, so that its log can be shortened.
    fn snapshot(&self) -> Answer<SnapshotStatus, QuorumError>;
    /// Everything that is committed, as a file from which a cluster can be restored.
    fn backup(&self) -> Answer<BackupStream, QuorumError>;
}
