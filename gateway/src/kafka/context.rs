//! What all handlers of a gateway share: who this node is, the handles of the others, the cluster view, settings and
//! metrics. Owns the look-up "who serves this partition"; keeps no state of clients.

use super::{budget::Budget, error::Failure, producer_ids::ProducerIds, settings::LiveSettings};
use crate::metrics::GatewayMetrics;
use kafka_protocol::ResponseError;
use protocol::{
    cluster::{ClusterSnapshot, ClusterView, Topic},
    id::NodeId,
    model::NodeRecord,
    runtime::Clock,
    service::{broker::BrokerService, directory::NodeDirectory},
    topic::{PartitionId, TopicId},
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// A host name and a port that clients can connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host name or address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The longest a request waits for the view to show what it has just changed.
pub(crate) const VIEW_PATIENCE: Duration = Duration::from_secs(5);

/// What all handlers share.
pub(crate) struct Shared {
    /// This node.
    pub(crate) node: NodeId,
    /// Where clients reach this node.
    pub(crate) advertised: Endpoint,
    /// The brokers and coordinators of all nodes.
    pub(crate) nodes: Arc<dyn NodeDirectory>,
    /// The cluster as this node knows it.
    pub(crate) view: ClusterView,
    /// Time.
    pub(crate) clock: Arc<dyn Clock>,
    /// The effective settings.
    pub(crate) settings: LiveSettings,
    /// Ids of idempotent producers.
    pub(crate) producer_ids: ProducerIds,
    /// Memory of requests and answers.
    pub(crate) budget: Budget,
    /// Counters and histograms.
    pub(crate) metrics: GatewayMetrics,
}

/// How a request names a topic: by name, or from some version on by identity.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TopicRef<'a> {
    /// By name.
    Name(&'a str),
    /// By identity.
    Id(Uuid),
}

impl TopicRef<'_> {
    /// The topic in a snapshot.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION` or `UNKNOWN_TOPIC_ID`.
    pub(crate) fn find(self, snapshot: &ClusterSnapshot) -> Result<&Arc<Topic>, Failure> {
        match self {
            Self::Name(name) => snapshot.topic(name).ok_or_else(|| {
                Failure::new(ResponseError::UnknownTopicOrPartition, format!("topic \"{name}\" does not exist"))
            }),
            Self::Id(id) => snapshot
                .topic_by_id(TopicId(id))
                .ok_or_else(|| Failure::new(ResponseError::UnknownTopicId, format!("no topic has the id {id}"))),
        }
    }
}

impl Shared {
    /// The broker of this node; administration goes through it.
    ///
    /// # Errors
    /// `BROKER_NOT_AVAILABLE` while the node starts or stops.
    pub(crate) fn local_broker(&self) -> Result<Arc<dyn BrokerService>, Failure> {
        self.nodes
            .broker(self.node)
            .ok_or_else(|| Failure::new(ResponseError::BrokerNotAvailable, "this node's broker is not running"))
    }

    /// The partition a request names, and the node that owns it.
    ///
    /// # Errors
    /// The topic or partition does not exist, or no live node owns it (`NOT_LEADER_OR_FOLLOWER`).
    pub(crate) fn locate(
        &self,
        snapshot: &ClusterSnapshot,
        topic: TopicRef<'_>,
        index: i32,
    ) -> Result<(PartitionId, NodeId), Failure> {
        let topic = topic.find(snapshot)?;
        let known = u32::try_from(index).ok().filter(|index| *index < topic.record.partitions);
        let Some(index) = known else {
            let text = format!("topic \"{}\" has no partition {index}", topic.record.name);
            return Err(Failure::new(ResponseError::UnknownTopicOrPartition, text));
        };
        match owner(snapshot, topic, index) {
            Some(owner) => Ok((PartitionId { topic: topic.record.id, index }, owner.node)),
            None => Err(Failure::new(ResponseError::NotLeaderOrFollower, "no live node owns the partition")),
        }
    }

    /// The broker that serves a partition, with the partition's identity.
    ///
    /// # Errors
    /// As [`Shared::locate`]; also if the owner cannot be reached.
    pub(crate) fn route(
        &self,
        snapshot: &ClusterSnapshot,
        topic: TopicRef<'_>,
        index: i32,
    ) -> Result<(PartitionId, Arc<dyn BrokerService>), Failure> {
        let (id, node) = self.locate(snapshot, topic, index)?;
        Ok((id, self.broker(node)?))
    }

    /// The broker of a node.
    ///
    /// # Errors
    /// `NOT_LEADER_OR_FOLLOWER`, so that the client looks again.
    pub(crate) fn broker(&self, node: NodeId) -> Result<Arc<dyn BrokerService>, Failure> {
        self.nodes
            .broker(node)
            .ok_or_else(|| Failure::new(ResponseError::NotLeaderOrFollower, format!("node {node} is not reachable")))
    }

    /// Waits until the view shows a state that `shows` accepts; answers that state, or the last one seen.
    pub(crate) async fn wait_for_view(
        &self,
        patience: Duration,
        mut shows: impl FnMut(&ClusterSnapshot) -> bool,
    ) -> Arc<ClusterSnapshot> {
        let mut changes = self.view.changes();
        let wait = changes.wait_for(|snapshot| shows(snapshot));
        if let Ok(Ok(snapshot)) = tokio::time::timeout(patience.min(VIEW_PATIENCE), wait).await {
            return Arc::clone(&snapshot);
        }
        self.view.snapshot()
    }
}

/// The live node that owns a partition of a topic: `ClusterSnapshot::owner` for those who hold the topic already.
pub(crate) fn owner<'a>(snapshot: &'a ClusterSnapshot, topic: &Topic, index: u32) -> Option<&'a Arc<NodeRecord>> {
    let owner = topic.partitions.get(index as usize)?.as_ref()?.record.owner?;
    snapshot.nodes.get(&owner.node).filter(|node| node.registration == owner.registration)
}

/// Whether every partition of a topic has a live owner.
pub(crate) fn is_served(snapshot: &ClusterSnapshot, topic: &Topic) -> bool {
    topic.partitions.len() == topic.record.partitions as usize
        && (0..topic.record.partitions).all(|index| owner(snapshot, topic, index).is_some())
}
