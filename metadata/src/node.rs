//! One member of the metadata service: opens the directory, founds or joins a group, starts raft, and runs the tasks
//! around it.
//!
//! Owns start and stop; what a call means is decided in [`crate::state`], who leads in [`crate::election`], and where
//! calls go in `router`. A node whose disk fails stops instead of answering from memory.

mod assembly;
mod config;
mod membership;

pub use config::{MetadataConfig, StartError};

use crate::{
    applied::Applied,
    handover::Handover,
    peers::Peers,
    quorum::Quorum,
    raft::{
        Raft,
        identity::{Identity, Place},
        thread::RaftThread,
    },
    role::Role,
    service::Service,
};
use assembly::Assembly;
use protocol::{
    runtime::{Clock, Tasks},
    service::{
        metadata::MetadataService,
        quorum::{QuorumService, SnapshotStatus},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a single voter may take to lead.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a stop waits for tasks, and for the database to close.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What a node needs beside its settings.
pub struct MetadataDeps {
    /// The clock of sessions and deadlines.
    pub clock: Arc<dyn Clock>,
    /// The node's tasks; the failure of a vital one stops the process.
    pub tasks: Tasks,
    /// The connections to other members.
    pub peers: Peers,
    /// The cluster to join, if this node belongs to none yet; `None` founds one.
    pub cluster: Option<Arc<dyn QuorumService>>,
}

impl std::fmt::Debug for MetadataDeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataDeps").field("joins", &self.cluster.is_some()).finish_non_exhaustive()
    }
}

/// A running member.
pub struct MetadataNode {
    identity: Identity,
    place: Place,
    raft: Raft,
    applied: Arc<Applied>,
    service: Service,
    quorum: Quorum,
    handover: Handover,
    role: watch::Receiver<Role>,
    tasks: Tasks,
    closed: CancellationToken,
    /// Ends last.
    _thread: RaftThread,
    #[cfg(test)]
    store: std::sync::Weak<crate::raft::store::Store>,
}

impl std::fmt::Debug for MetadataNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataNode")
            .field("place", &self.place)
            .field("applied", &self.applied())
            .finish_non_exhaustive()
    }
}

impl MetadataNode {
    /// Opens the directory, and founds or joins a cluster if it belongs to none. A single voter leads on return; a member
    /// of several serves as soon as there is a leader ([`MetadataNode::role`]).
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: MetadataConfig, deps: MetadataDeps) -> Result<Self, StartError> {
        config.check()?;
        let assembly = Assembly::open(&config).await?;
        let place = membership::find_place(&config, &deps, &assembly).await?;
        let node = assembly.run(&config, deps, place).await?;
        let is_alone = {
            let metrics = node.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().voter_ids().eq([place.id])
        };
        if is_alone {
            let mut role = node.role.clone();
            let leads = role.wait_for(Role::leads);
            if !matches!(tokio::time::timeout(START_PATIENCE, leads).await, Ok(Ok(_))) {
                return Err(StartError::NoLeader);
            }
        }
        let (revision, keys) = node.applied.read(|state| (state.revision(), state.key_count()));
        tracing::info!(member = place.id, group = %place.group, %revision, keys, "metadata node started");
        Ok(node)
    }

    /// The service, for the other roles of this process.
    #[must_use]
    pub fn service(&self) -> Arc<dyn MetadataService> {
        Arc::new(self.service.clone())
    }

    /// The service for calls that another node has passed on: it does them or refuses them.
    #[must_use]
    pub fn service_passed_on(&self) -> Arc<dyn MetadataService> {
        Arc::new(Service { is_passed_on: true, ..self.service.clone() })
    }

    /// The operators' service.
    #[must_use]
    pub fn quorum(&self) -> Arc<dyn QuorumService> {
        Arc::new(self.quorum.clone())
    }

    /// The operators' service for calls that another node has passed on.
    #[must_use]
    pub fn quorum_passed_on(&self) -> Arc<dyn QuorumService> {
        Arc::new(self.quorum.passed_on())
    }

    /// The number of this member.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.place.id
    }

    /// The group of this member.
    #[must_use]
    pub const fn group(&self) -> Uuid {
        self.place.group
    }

    /// The life of this member's disk.
    #[must_use]
    pub const fn life(&self) -> Uuid {
        self.identity.life
    }

    /// What this member is, now and later.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Whether this member leads, or hears a leader.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.role.borrow() != Role::Nobody
    }

    /// The same question for whoever does not hold the node.
    pub fn readiness(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let role = self.role.clone();
        move || *role.borrow() != Role::Nobody
    }

    /// A number that differs when the state does, for comparing members and restarts.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.applied.read(crate::state::State::digest)
    }

    /// The index of the last log entry that this member has applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.raft.metrics().borrow().last_applied.map_or(0, |id| id.index)
    }

    /// The index of the last log entry that was removed because a snapshot holds it; 0 before the first.
    #[must_use]
    pub fn purged(&self) -> u64 {
        self.raft.metrics().borrow().purged.map_or(0, |id| id.index)
    }

    /// Writes a snapshot now, so that the log can be shortened.
    ///
    /// # Errors
    /// See [`QuorumService::snapshot`].
    pub async fn snapshot(&self) -> Result<SnapshotStatus, protocol::service::quorum::QuorumError> {
        self.quorum.snapshot().await
    }

    /// Hands the lead over if there is anybody to take it, answers the waiting calls, and closes the directory.
    pub async fn stop(self) {
        if self.role.borrow().leads()
            && let Err(problem) = self.handover.run(None).await
        {
            tracing::debug!(%problem, "the lead was not handed over");
        }
        self.end().await;
    }

    /// Stops without handing over, as a crash would; what was synced stays.
    pub async fn end(self) {
        if !self.tasks.stop(STOP_PATIENCE).await {
            tracing::warn!("metadata tasks did not stop in time");
        }
        self.applied.close();
        if let Err(problem) = self.raft.shutdown().await {
            tracing::error!(%problem, "raft did not stop cleanly");
        }
        let closed = self.closed.clone();
        drop(self);
        if tokio::time::timeout(STOP_PATIENCE, closed.cancelled()).await.is_err() {
            tracing::warn!("the metadata directory is still open");
        }
        tracing::info!("metadata node stopped");
    }
}

#[cfg(test)]
mod tests;
