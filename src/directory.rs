//! The broker and the coordinators beside the gateway of this process. Owns the hand-over of in-process handles, and that
//! late roles appear to early ones. Bookies are [`crate::bookies`].

use protocol::{
    id::NodeId,
    service::{broker::BrokerService, coordinator::CoordinatorService, directory::NodeDirectory},
};
use std::sync::{Arc, OnceLock};

/// The one node of this process. Its roles start one after the other; each is known from when it has started.
pub struct LocalNode {
    node: NodeId,
    broker: OnceLock<Arc<dyn BrokerService>>,
    coordinator: OnceLock<Arc<dyn CoordinatorService>>,
}

impl LocalNode {
    /// A node of which no role has started.
    #[must_use]
    pub const fn new(node: NodeId) -> Self {
        Self { node, broker: OnceLock::new(), coordinator: OnceLock::new() }
    }

    /// The broker has started. Only the first call counts.
    pub fn broker_started(&self, broker: Arc<dyn BrokerService>) {
        let _ = self.broker.set(broker);
    }

    /// The coordinators have started. Only the first call counts.
    pub fn coordinator_started(&self, coordinator: Arc<dyn CoordinatorService>) {
        let _ = self.coordinator.set(coordinator);
    }
}

impl NodeDirectory for LocalNode {
    fn broker(&self, node: NodeId) -> Option<Arc<dyn BrokerService>> {
        self.broker.get().filter(|_| node == self.node).cloned()
    }

    fn coordinator(&self, node: NodeId) -> Option<Arc<dyn CoordinatorService>> {
        self.coordinator.get().filter(|_| node == self.node).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_has_not_started_is_not_known() {
        let node = LocalNode::new(NodeId(1));
        assert!(node.broker(NodeId(1)).is_none() && node.coordinator(NodeId(1)).is_none());
    }
}
