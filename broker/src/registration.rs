//! The broker's registration: a session with the metadata service and the node record that lives with it.
//!
//! Owns who may register (a new node, or the same data directory again; another one waits until the old session has
//! expired) and the heartbeats. A session that expired is replaced by a new registration; what is being served goes on,
//! because only a higher epoch takes a partition away.

use crate::metadata_client::MetadataClient;
use protocol::{
    id::{NodeId, Registration, Revision, SessionId},
    model::{ModelError, NodeRecord, Owner, Sequence, decode, encode, key},
    service::metadata::{Condition, MetadataError, Operation, Outcome},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Heartbeats per session timeout.
const HEARTBEATS: u32 = 4;
/// The pause after a registration that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the broker could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Another data directory is registered under this node id.
    #[error(
        "node {node} is already registered by another instance ({instance}, {host}:{port}); stop it, or give this one a node.id of its own"
    )]
    NodeIdTaken {
        /// The node id.
        node: NodeId,
        /// The identity of the other data directory.
        instance: Uuid,
        /// Where clients reach the other.
        host: String,
        /// Where clients reach the other.
        port: u16,
    },
    /// The metadata service did not do it.
    #[error("the broker could not register: {0}")]
    Metadata(#[from] MetadataError),
    /// The record of this node cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A live registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) owner: Owner,
    pub(crate) session: SessionId,
    pub(crate) revision: Revision,
}

/// Registers a node again and again, as long as it lives.
pub(crate) struct Registrar {
    pub(crate) metadata: Arc<MetadataClient>,
    /// The record to register; its registration is filled in.
    pub(crate) record: NodeRecord,
    pub(crate) ttl: Duration,
}

impl Registrar {
    /// Opens a session and writes the node record.
    pub(crate) async fn register(&self) -> Result<Registered, StartError> {
        let node_key = key::node(self.record.node);
        let current = self.metadata.get(&node_key).await?;
        let condition = match &current {
            None => Condition::Absent(node_key.clone()),
            Some(held) => {
                let other: NodeRecord = decode(&held.value)?;
                if other.instance != self.record.instance {
                    let NodeRecord { node, instance, host, port, .. } = other;
                    return Err(StartError::NodeIdTaken { node, instance, host, port });
                }
                Condition::Version(node_key.clone(), held.version)
            }
        };
        let session = self.metadata.service().open_session(self.ttl).await?;
        let registration = Registration(self.metadata.next_number(Sequence::Registration).await?);
        let record = NodeRecord { registration, ..self.record.clone() };
        let put = Operation::Put { key: node_key, value: encode(&record), session: Some(session) };
        match self.metadata.transact(vec![condition, Condition::Session(session)], vec![put]).await? {
            Outcome::Committed { revision, .. } => {
                tracing::info!(node = %record.node, %registration, session = %session, "broker registered");
                Ok(Registered { owner: Owner { node: record.node, registration }, session, revision })
            }
            Outcome::Conflict { .. } => {
                let reason = "another process registered at the same moment".into();
                Err(MetadataError::Unavailable { reason }.into())
            }
        }
    }

    /// Sends heartbeats, and registers again when the session has expired, until told to stop.
    pub(crate) async fn keep(self, current: Arc<watch::Sender<Registered>>, stopping: CancellationToken) {
        let mut session = current.borrow().session;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.ttl / HEARTBEATS) => {}
                () = stopping.cancelled() => return,
            }
            let beat = tokio::time::timeout(self.ttl, self.metadata.service().keep_alive(session)).await;
            let Ok(Err(MetadataError::SessionExpired(_))) = beat else { continue };
            tracing::warn!(node = %self.record.node, %session, "the session has expired; registering again");
            while !stopping.is_cancelled() {
                match self.register().await {
                    Ok(registered) => {
                        session = registered.session;
                        current.send_replace(registered);
                        break;
                    }
                    Err(problem) => tracing::error!(node = %self.record.node, %problem, "cannot register again"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
