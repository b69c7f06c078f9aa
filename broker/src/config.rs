//! What the node tells the broker when it starts it.

use protocol::{
    cluster::ClusterView,
    id::NodeId,
    ledger::quorum::{Quorum, QuorumError},
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
    /// How many copies of a new ledger are asked for.
    pub copies: Copies,
    /// How long a member of a head's ensemble may be away before the head is ended for a better placement.
    pub bookie_grace: Duration,
}

/// How many copies of a new ledger are asked for. The replication factor is written down in any case, so that repair
/// can add what is missing once there are bookies for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copies {
    /// The replication factor, or one on every bookie that the cluster has, if there are fewer: a deployment may begin
    /// with one bookie. `min.insync.replicas` counts as far as that many copies can exist.
    AsManyAsBookies,
    /// The replication factor. With fewer writable bookies what exists, never fewer than the ack quorum.
    #[default]
    AsAsked,
}

impl Copies {
    /// The quorum of a new ledger of a topic with this replication factor, in a cluster with this many bookies, live or
    /// not.
    ///
    /// # Errors
    /// If `min_insync` is above the replication factor: the topic can never be written.
    pub fn quorum(self, factor: u8, min_insync: u8, bookies: usize) -> Result<Quorum, QuorumError> {
        let factor = factor.max(1);
        let asked = Quorum::of_replication(factor, min_insync)?;
        match self {
            Self::AsAsked => Ok(asked),
            Self::AsManyAsBookies => {
                let copies = factor.min(u8::try_from(bookies.max(1)).unwrap_or(u8::MAX));
                Quorum::of_replication(copies, if min_insync <= copies { min_insync } else { 1 })
            }
        }
    }
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
            copies: Copies::AsManyAsBookies,
            bookie_grace: Duration::from_secs(10),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_deployment_takes_what_it_has_and_a_cluster_what_is_asked() {
        let of = |copies: Copies, factor, min, bookies| {
            copies.quorum(factor, min, bookies).map(|q| (q.write(), q.ack())).map_err(drop)
        };
        let few = |factor, min, bookies| of(Copies::AsManyAsBookies, factor, min, bookies);
        assert_eq!([few(3, 1, 0), few(3, 1, 1), few(3, 1, 2)], [Ok((1, 1)), Ok((1, 1)), Ok((2, 2))]);
        assert_eq!([few(3, 1, 3), few(3, 1, 9), few(3, 3, 3)], [Ok((3, 2)), Ok((3, 2)), Ok((3, 3))]);
        assert_eq!(few(3, 2, 1), Ok((1, 1)), "a promise that cannot be kept yet waits for the bookies");
        assert_eq!([few(1, 2, 1), few(1, 2, 5)], [Err(()), Err(())], "one that never can be is refused");
        assert_eq!(few(0, 1, 1), Ok((1, 1)));
        for bookies in [0, 1, 5] {
            assert_eq!(of(Copies::AsAsked, 3, 1, bookies), Ok((3, 2)));
            assert_eq!(of(Copies::AsAsked, 3, 3, bookies), Ok((3, 3)));
            assert_eq!(of(Copies::AsAsked, 2, 3, bookies), Err(()));
        }
    }
}
