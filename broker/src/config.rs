//! What the node tells the broker when it starts it.

use protocol::{
    cluster::ClusterView,
    id::NodeId,
    runtime::{Clock, Tasks},
    service::{directory::BookieDirectory, metadata::MetadataService},
    settings::StaticSettings,
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// The broker's own configuration.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// The node.
    pub node: NodeId,
    /// The identity of its data directory.
    pub instance: Uuid,
    /// Where Kafka clients reach it: host name.
    pub host: String,
    /// Where Kafka clients reach it: port.
    pub port: u16,
    /// Where other nodes reach it (`host:port`); none in standalone.
    pub internal_address: Option<String>,
    /// The rack or zone it stands in.
    pub rack: Option<String>,
    /// What file, environment and flags said, under Kafka's names.
    pub settings: StaticSettings,
    /// Bytes of entries kept in memory for readers.
    pub cache_bytes: usize,
    /// Bytes of appends that are not answered yet; more are refused.
    pub queue_bytes: usize,
    /// How long the node counts as alive after its last heartbeat.
    pub session_timeout: Duration,
    /// The most copies this deployment can hold of a ledger: 1 in standalone, whatever replication factor a topic asks
    /// for (that one is kept, for when bookies are added); none without limit.
    pub max_copies: Option<u8>,
}

impl BrokerConfig {
    /// The configuration of a standalone node with the usual budgets.
    #[must_use]
    pub fn standalone(node: NodeId, instance: Uuid, host: String, port: u16) -> Self {
        Self {
            node,
            instance,
            host,
            port,
            internal_address: None,
            rack: None,
            settings: StaticSettings::default(),
            cache_bytes: 256 * 1024 * 1024,
            queue_bytes: 128 * 1024 * 1024,
            session_timeout: Duration::from_secs(3),
            max_copies: Some(1),
        }
    }
}

/// What the broker works with.
#[derive(Clone)]
pub struct BrokerDeps {
    /// The metadata service.
    pub metadata: Arc<dyn MetadataService>,
    /// The cluster as it is.
    pub view: ClusterView,
    /// The bookies.
    pub bookies: Arc<dyn BookieDirectory>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The group that the broker's tasks belong to.
    pub tasks: Tasks,
}
