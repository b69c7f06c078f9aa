//! One member of a group: what it told us, and which of its requests wait. Owns nothing of the group's state.

use super::event::{Join, Token};
use bytes::Bytes;
use std::time::Duration;

/// A member.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Its `group.instance.id`, if it is static.
    pub(super) instance_id: Option<String>,
    /// The client's name for itself.
    pub(super) client_id: String,
    /// Where it connects from.
    pub(super) client_host: String,
    /// Silence for this long ends the membership.
    pub(super) session_timeout: Duration,
    /// How long a rebalance waits for it.
    pub(super) rebalance_timeout: Duration,
    /// Protocols in order of preference, each with its metadata.
    pub(super) protocols: Vec<(String, Bytes)>,
    /// What the leader gave it in the current generation.
    pub(super) assignment: Bytes,
    /// When it is taken for dead, unless it is heard of before.
    pub(super) deadline: Duration,
    /// It has never been answered a join: it does not know its id and cannot send heartbeats.
    pub(super) is_new: bool,
    /// The join that waits for the rebalance.
    pub(super) awaiting_join: Option<Token>,
    /// The sync that waits for the leader.
    pub(super) awaiting_sync: Option<Token>,
    /// Whether it asked for its assignment in the current generation.
    pub(super) synced: bool,
}

impl Member {
    /// A member that just asked to join.
    pub(super) fn new(join: Join, token: Option<Token>, deadline: Duration) -> Self {
        Self {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: join.protocols,
            assignment: Bytes::new(),
            deadline,
            is_new: true,
            awaiting_join: token,
            awaiting_sync: None,
            synced: false,
        }
    }

    /// Takes over what a further join says.
    pub(super) fn update(&mut self, join: Join) {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout = join.session_timeout;
        self.rebalance_timeout = join.rebalance_timeout;
        self.protocols = join.protocols;
    }

    /// Its metadata for a protocol; empty if it does not know the protocol.
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, data)| data.clone()).unwrap_or_default()
    }

    /// Whether it supports a protocol.
    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|(name, _)| name == protocol)
    }

    /// Whether it can be expected to send heartbeats: one that waits for us is alive as far as we can know.
    pub(super) const fn can_expire(&self) -> bool {
        self.is_new || (self.awaiting_join.is_none() && self.awaiting_sync.is_none())
    }
}
