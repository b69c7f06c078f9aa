//! What a gateway is started with: its configuration, and the handles of everything it talks to.

use crate::kafka::context::Endpoint;
use protocol::{
    cluster::ClusterView,
    id::NodeId,
    runtime::{Clock, Tasks},
    service::{directory::NodeDirectory, metadata::MetadataService},
    settings::StaticSettings,
};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Configuration of a gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The node it is part of.
    pub node: NodeId,
    /// The node's settings from file, environment and flags.
    pub settings: StaticSettings,
    /// Where clients reach this node (`advertised.listeners`).
    pub advertised: Endpoint,
}

/// What a gateway depends on.
pub struct GatewayDeps {
    /// The bound socket for Kafka clients.
    pub listener: TcpListener,
    /// The brokers and coordinators of all nodes, this one's included.
    pub nodes: Arc<dyn NodeDirectory>,
    /// The metadata service, for producer ids.
    pub metadata: Arc<dyn MetadataService>,
    /// The cluster.
    pub view: ClusterView,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The group of tasks the gateway is part of.
    pub tasks: Tasks,
}
