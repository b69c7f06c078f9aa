//! One immutable state of the cluster. Owns look-ups by name and identity; never changes after it was published.

use crate::{
    id::{BookieId, NodeId, Revision},
    model::{
        BookieRecord, ClusterRecord, ConfigRecord, Cookie, Decommission, NodeRecord, PartitionRecord, TopicRecord,
    },
    topic::{PartitionId, TopicId, TopicName},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A partition's record and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// The record.
    pub record: PartitionRecord,
    /// The revision that wrote it.
    pub version: Revision,
}

/// A topic and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The topic's record.
    pub record: TopicRecord,
    /// The revision that wrote it.
    pub version: Revision,
    /// Its partitions by index; `None` for one whose record has not arrived yet.
    pub partitions: Vec<Option<Arc<PartitionView>>>,
}

/// The cluster at one revision.
#[derive(Debug, Clone, Default)]
pub struct ClusterSnapshot {
    /// The revision it was taken at.
    pub revision: Revision,
    /// The cluster's own record.
    pub cluster: Option<Arc<ClusterRecord>>,
    /// Live nodes.
    pub nodes: BTreeMap<NodeId, Arc<NodeRecord>>,
    /// Live bookies.
    pub bookies: BTreeMap<BookieId, Arc<BookieRecord>>,
    /// The identities of all bookies that the cluster ever had and did not give up, live or not.
    pub cookies: BTreeMap<BookieId, Arc<Cookie>>,
    /// Bookies that are being taken out.
    pub decommissions: BTreeMap<BookieId, Arc<Decommission>>,
    /// Topics by name.
    pub topics: BTreeMap<TopicName, Arc<Topic>>,
    /// Names of topics by identity.
    pub names: HashMap<TopicId, TopicName>,
    /// Dynamic settings of all nodes.
    pub config: Arc<ConfigRecord>,
    /// Dynamic settings of single nodes.
    pub node_config: BTreeMap<NodeId, Arc<ConfigRecord>>,
}

impl ClusterSnapshot {
    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(&TopicName::new(name).ok()?)
    }

    /// A topic by identity.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// A partition by identity.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&Arc<PartitionView>> {
        self.topic_by_id(id.topic)?.partitions.get(id.index as usize)?.as_ref()
    }

    /// The live node that owns a partition.
    #[must_use]
    pub fn owner(&self, id: PartitionId) -> Option<&Arc<NodeRecord>> {
        let owner = self.partition(id)?.record.owner?;
        self.nodes.get(&owner.node).filter(|n| n.registration == owner.registration)
    }
}
