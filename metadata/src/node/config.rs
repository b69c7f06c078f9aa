//! The settings of a metadata node, and why it does not start.

use crate::raft::directory::OpenError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The settings of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetadataConfig {
    /// The number of the member, 1 or more; if it joins without one, the cluster gives it one. It is written into the
    /// directory and never changes.
    pub node: Option<u64>,
    /// The directory of the raft log and the snapshots.
    pub data_dir: PathBuf,
    /// Where clients and other members' forwarded calls reach it, `host:port`; empty if nobody does.
    pub address: String,
    /// Where other members reach it, `host:port`; empty if nobody does.
    pub peer_address: String,
    /// Whether it only follows, without a vote.
    pub learner: bool,
    /// A snapshot is written after this many log entries; the next start replays at most about as many.
    pub snapshot_after_logs: u64,
    /// The most bytes of calls that wait; beyond that a call is refused as unavailable.
    pub queue_bytes: usize,
    /// How long a proposal may take before its outcome counts as unknown, in milliseconds.
    pub proposal_timeout_ms: u64,
}

impl Default for MetadataConfig {
    fn default() -> Self {
        Self {
            node: None,
            data_dir: PathBuf::from("data/metadata"),
            address: String::new(),
            peer_address: String::new(),
            learner: false,
            snapshot_after_logs: 10_000,
            queue_bytes: 64 * 1024 * 1024,
            proposal_timeout_ms: 10_000,
        }
    }
}

impl MetadataConfig {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// `Settings`.
    pub(super) fn check(&self) -> Result<(), StartError> {
        if self.node == Some(0) || self.snapshot_after_logs == 0 || self.proposal_timeout_ms == 0 {
            let reason = "node, snapshot_after_logs and proposal_timeout_ms must be 1 or more";
            return Err(StartError::Settings(reason.into()));
        }
        Ok(())
    }
}

/// Why the metadata service did not start. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// What is stored cannot be read.
    #[error("the metadata in {dir} cannot be read: {reason}")]
    Stored {
        /// The directory.
        dir: String,
        /// Why.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("metadata settings: {0}")]
    Settings(String),
    /// The cluster does not take this node.
    #[error("the metadata cluster does not take this node: {0}")]
    NotTaken(String),
    /// Raft did not start.
    #[error("the metadata service did not start: {0}")]
    Raft(String),
    /// No leader was elected in time.
    #[error("the metadata service has no leader after 30 s; is its disk very slow?")]
    NoLeader,
    /// It was stopped before it had started.
    #[error("the metadata node was stopped before it had joined a cluster")]
    Stopped,
}
