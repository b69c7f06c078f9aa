//! The contract between metadata nodes: opaque messages of raft, addressed to one life of one member.
//!
//! What a message means is the business of the metadata role; this contract only makes sure that it reaches whom it was
//! meant for. A node whose group, number or life is another one refuses by name, so that a node that lost its disk, or
//! was started with the wrong address, never answers for somebody else.

use super::{Abandoned, Answer};
use bytes::Bytes;
use std::time::Duration;
use uuid::Uuid;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerVerb {
    /// Append entries.
    Append,
    /// The leader lives. Travels beside the log, so that a slow disk is not taken for a dead leader.
    Beat,
    /// A vote is asked for.
    Vote,
    /// Would you vote for me? Changes nothing.
    Canvass,
    /// Stand for election now: the leader hands over.
    Stand,
    /// A piece of a snapshot.
    Snapshot,
}

/// One life of one member of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerName {
    /// The group.
    pub group: Uuid,
    /// The member's number.
    pub id: u64,
    /// The life of its disk.
    pub life: Uuid,
}

/// A message to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCall {
    /// What it is about.
    pub verb: PeerVerb,
    /// Who sends it.
    pub from: PeerName,
    /// Whom it is meant for.
    pub to: PeerName,
    /// How long the caller waits for an answer.
    pub patience: Duration,
    /// The message.
    pub body: Bytes,
}

/// Why a peer did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It was not reached; nothing happened.
    #[error("the peer cannot be reached: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It was sent, and no answer came.
    #[error("the peer did not answer: {reason}")]
    Lost {
        /// Why.
        reason: String,
    },
    /// The message was meant for somebody else, or came from another group.
    #[error("the peer refuses: {reason}")]
    Stranger {
        /// Who was expected, and who it was.
        reason: String,
    },
    /// The peer could not do it.
    #[error("the peer failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl Abandoned for PeerError {
    fn abandoned() -> Self {
        Self::Lost { reason: "the peer dropped the message".into() }
    }
}

/// A metadata node as its peers see it.
pub trait PeerService: Send + Sync + 'static {
    /// Takes a message; the answer is the verb's own.
    fn call(&self, call: PeerCall) -> Answer<Bytes, PeerError>;
}
