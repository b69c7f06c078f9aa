//! Who is reachable in one process: the bookie, the broker and the coordinators beside us. Owns the hand-over of
//! in-process handles, and that late roles appear to early ones; remote handles take their place in a cluster.

use protocol::{
    cluster::ClusterView,
    id::NodeId,
    ledger::metadata::BookieMember,
    model::BookieRecord,
    service::{
        bookie::BookieService,
        broker::BrokerService,
        coordinator::CoordinatorService,
        directory::{BookieDirectory, NodeDirectory},
    },
};
use std::sync::{Arc, OnceLock};

/// The one bookie of this process.
pub struct LocalBookies {
    bookie: Arc<dyn BookieService>,
    view: ClusterView,
}

impl LocalBookies {
    /// The directory of a process whose bookie this is.
    #[must_use]
    pub fn new(bookie: Arc<dyn BookieService>, view: ClusterView) -> Self {
        Self { bookie, view }
    }
}

impl BookieDirectory for LocalBookies {
    /// Whoever is meant, the only bookie there is answers; it refuses calls for another member or another life of its
    /// disk, because every call names the member.
    fn bookie(&self, _member: BookieMember) -> Arc<dyn BookieService> {
        Arc::clone(&self.bookie)
    }

    fn live(&self) -> Vec<BookieRecord> {
        self.view.snapshot().bookies.values().map(|record| BookieRecord::clone(record)).collect()
    }
}

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
