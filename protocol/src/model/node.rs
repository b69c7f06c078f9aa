//! Records of the cluster and its nodes.

use super::Record;
use crate::id::{NodeId, Registration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The cluster itself; written once, when the first node starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// What clients see as the cluster id: 22 characters of URL-safe base64, as Kafka's.
    pub cluster_id: String,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Record for ClusterRecord {
    const NAME: &'static str = "cluster record";
}

/// A live node that runs a broker and a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// This life of it; partitions are owned by a registration, not by a node.
    pub registration: Registration,
    /// The identity of its data directory: only the same instance may replace a live registration.
    pub instance: Uuid,
    /// Where Kafka clients reach it: host name.
    pub host: String,
    /// Where Kafka clients reach it: port.
    pub port: u16,
    /// Where other nodes reach it (`host:port`); none in standalone.
    pub internal_address: Option<String>,
    /// The rack or zone it stands in.
    pub rack: Option<String>,
    /// When it registered.
    pub started_at: Timestamp,
}

impl Record for NodeRecord {
    const NAME: &'static str = "node record";
}
