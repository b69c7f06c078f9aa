//! Who is reachable, and how: the node hands each role the handles of the others, in-process or remote.

use super::{bookie::BookieService, broker::BrokerService, coordinator::CoordinatorService};
use crate::{id::NodeId, ledger::metadata::BookieMember, model::BookieRecord};
use std::sync::Arc;

/// The bookies a broker can use.
pub trait BookieDirectory: Send + Sync + 'static {
    /// A handle of this member; calls on it answer [`Unavailable`](super::bookie::BookieError::Unavailable) while it
    /// cannot be reached.
    fn bookie(&self, member: BookieMember) -> Arc<dyn BookieService>;
    /// Every live bookie, in any state.
    fn live(&self) -> Vec<BookieRecord>;
}

/// The other nodes, as a gateway sees them.
pub trait NodeDirectory: Send + Sync + 'static {
    /// The broker of a node; none if it is not known.
    fn broker(&self, node: NodeId) -> Option<Arc<dyn BrokerService>>;
    /// The coordinators of a node; none if it is not known.
    fn coordinator(&self, node: NodeId) -> Option<Arc<dyn CoordinatorService>>;
}
