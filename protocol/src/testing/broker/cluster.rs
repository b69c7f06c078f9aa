//! The shared part of a fake cluster: nodes, topics, ownership and logs, and the view that shows them.

use super::{log::FakeLog, service::FakeBroker};
use crate::{
    cluster::{ClusterSnapshot, ClusterView, PartitionView, Topic},
    id::{LeaderEpoch, NodeId, Offset, Registration, Revision, Timestamp},
    model::{ClusterRecord, NodeRecord, Owner, PartitionRecord, TopicRecord},
    service::{
        broker::{BrokerService, NotServed},
        coordinator::CoordinatorService,
        directory::NodeDirectory,
    },
    testing::coordinator::FakeCoordinator,
    topic::{PartitionId, TopicId, TopicName},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::watch;
use uuid::Uuid;

/// Nodes, topics and logs in memory. Clones are the same cluster.
#[derive(Debug, Clone)]
pub struct FakeCluster {
    pub(super) shared: Arc<Shared>,
    nodes: Arc<BTreeMap<NodeId, (FakeBroker, FakeCoordinator)>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Counts appends and changes; wakes waiting fetches.
    pub(super) changes: watch::Sender<u64>,
    publish: watch::Sender<Arc<ClusterSnapshot>>,
    view: ClusterView,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) snapshot: ClusterSnapshot,
    pub(super) logs: HashMap<PartitionId, FakeLog>,
    opening: HashSet<PartitionId>,
    last_topic: u128,
}

impl FakeCluster {
    /// A cluster of nodes 0, 1, ...; node `n` says its clients reach it at `localhost:9092+n`.
    #[must_use]
    pub fn new(nodes: i32) -> Self {
        let mut state = State::default();
        let cluster = ClusterRecord { cluster_id: "bWFnbmV0YXItdGVzdC0wMQ".into(), created_at: Timestamp(0) };
        state.snapshot.cluster = Some(Arc::new(cluster));
        for id in 0..nodes {
            state.snapshot.nodes.insert(NodeId(id), Arc::new(node(id)));
        }
        let (view, publish) = ClusterView::controlled(state.snapshot.clone());
        let shared = Shared { state: Mutex::new(state), changes: watch::Sender::new(0), publish, view };
        let shared = Arc::new(shared);
        let service = |id| (FakeBroker::new(NodeId(id), Arc::clone(&shared)), FakeCoordinator::new());
        let nodes = (0..nodes).map(|id| (NodeId(id), service(id))).collect();
        Self { shared, nodes: Arc::new(nodes) }
    }

    /// The broker of a node.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn broker(&self, node: i32) -> FakeBroker {
        self.nodes.get(&NodeId(node)).expect("the test asks for a node it has made").0.clone()
    }

    /// The coordinators of a node.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn coordinator(&self, node: i32) -> FakeCoordinator {
        self.nodes.get(&NodeId(node)).expect("the test asks for a node it has made").1.clone()
    }

    /// The cluster as a role sees it; always current.
    #[must_use]
    pub fn view(&self) -> ClusterView {
        self.shared.view.clone()
    }

    /// The nodes as a gateway reaches them.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn NodeDirectory> {
        Arc::new(self.clone())
    }

    /// Creates a topic whose partitions are spread over the nodes in turn, beginning with node 0.
    ///
    /// # Panics
    /// If the name is not legal.
    #[must_use]
    pub fn create_topic(&self, name: &str, partitions: u32) -> TopicId {
        let name = TopicName::new(name).expect("the test names a legal topic");
        self.shared.change(|state| state.add_topic(name, partitions, 1, BTreeMap::new()))
    }

    /// A partition of a topic by name.
    ///
    /// # Panics
    /// If there is no such topic.
    #[must_use]
    pub fn partition(&self, topic: &str, index: u32) -> PartitionId {
        let snapshot = self.view().snapshot();
        PartitionId { topic: snapshot.topic(topic).expect("the test asks for a topic it has made").record.id, index }
    }

    /// Gives a partition to a node, or to nobody; answers the new epoch.
    pub fn assign(&self, partition: PartitionId, node: Option<i32>) -> LeaderEpoch {
        self.shared.change(|state| {
            let owner = node.map(|id| owner(NodeId(id)));
            state.record(partition, |record| *record = record.clone().assigned(owner));
            state.epoch(partition)
        })
    }

    /// Sets a partition's epoch, whoever owns it.
    pub fn set_epoch(&self, partition: PartitionId, epoch: LeaderEpoch) {
        self.shared.change(|state| state.record(partition, |record| record.epoch = epoch));
    }

    /// Whether the owner is still opening a partition.
    pub fn set_opening(&self, partition: PartitionId, opening: bool) {
        self.shared.change(|state| {
            if opening {
                state.opening.insert(partition);
            } else {
                state.opening.remove(&partition);
            }
        });
    }

    /// A node dies: it is no longer listed, and what it owned has no live owner.
    pub fn remove_node(&self, node: i32) {
        self.shared.change(|state| drop(state.snapshot.nodes.remove(&NodeId(node))));
    }

    /// Everything a partition's log holds.
    #[must_use]
    pub fn log(&self, partition: PartitionId) -> Vec<Bytes> {
        let state = self.shared.state.lock();
        let log = state.logs.get(&partition);
        log.and_then(|log| log.read(log.start, usize::MAX, true).ok()).unwrap_or_default()
    }

    /// The offset after the last record of a partition.
    #[must_use]
    pub fn end(&self, partition: PartitionId) -> Offset {
        self.shared.state.lock().logs.get(&partition).map_or(Offset(0), FakeLog::end)
    }

    /// Waits until a partition's log ends at `end` or after.
    pub async fn wait_end(&self, partition: PartitionId, end: Offset) {
        let mut changes = self.shared.changes.subscribe();
        while self.end(partition) < end {
            drop(changes.changed().await);
        }
    }
}

impl NodeDirectory for FakeCluster {
    fn broker(&self, node: NodeId) -> Option<Arc<dyn BrokerService>> {
        self.nodes.get(&node).map(|(broker, _)| broker.service())
    }

    fn coordinator(&self, node: NodeId) -> Option<Arc<dyn CoordinatorService>> {
        self.nodes.get(&node).map(|(_, coordinator)| coordinator.service())
    }
}

impl Shared {
    /// Changes the cluster and shows the change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        state.snapshot.revision = Revision(state.snapshot.revision.0 + 1);
        let result = change(&mut state);
        self.publish.send_replace(Arc::new(state.snapshot.clone()));
        drop(state);
        self.wake();
        result
    }

    pub(super) fn wake(&self) {
        self.changes.send_modify(|n| *n += 1);
    }
}

impl State {
    pub(super) fn add_topic(
        &mut self,
        name: TopicName,
        partitions: u32,
        replication_factor: u8,
        config: BTreeMap<String, String>,
    ) -> TopicId {
        self.last_topic += 1;
        let id = TopicId(Uuid::from_u128(0x7000_0000_0000_0000_0000 + self.last_topic));
        let created_at = Timestamp(0);
        let record = TopicRecord { id, name: name.clone(), partitions: 0, replication_factor, config, created_at };
        let topic = Topic { record, version: self.snapshot.revision, partitions: Vec::new() };
        self.snapshot.names.insert(id, name.clone());
        self.snapshot.topics.insert(name.clone(), Arc::new(topic));
        self.add_partitions(&name, partitions);
        id
    }

    pub(super) fn add_partitions(&mut self, name: &TopicName, total: u32) {
        let version = self.snapshot.revision;
        let live: Vec<NodeId> = self.snapshot.nodes.keys().copied().collect();
        let Some(topic) = self.snapshot.topics.get_mut(name).map(Arc::make_mut) else { return };
        for index in topic.record.partitions..total {
            let node = live.get(index as usize % live.len().max(1)).copied();
            let record = PartitionRecord::new(node.map(owner));
            topic.partitions.push(Some(Arc::new(PartitionView { record, version })));
            self.logs.insert(PartitionId { topic: topic.record.id, index }, FakeLog::default());
        }
        topic.record.partitions = total;
        topic.version = version;
    }

    pub(super) fn remove_topic(&mut self, id: TopicId) {
        if let Some(name) = self.snapshot.names.remove(&id) {
            self.snapshot.topics.remove(&name);
        }
        self.logs.retain(|partition, _| partition.topic != id);
    }

    pub(super) fn topic_record(&mut self, name: &str, change: impl FnOnce(&mut TopicRecord)) {
        let version = self.snapshot.revision;
        let topic = TopicName::new(name).ok().and_then(|name| self.snapshot.topics.get_mut(&name));
        if let Some(topic) = topic.map(Arc::make_mut) {
            topic.version = version;
            change(&mut topic.record);
        }
    }

    fn record(&mut self, id: PartitionId, change: impl FnOnce(&mut PartitionRecord)) {
        let version = self.snapshot.revision;
        let name = self.snapshot.names.get(&id.topic);
        let topic = name.and_then(|name| self.snapshot.topics.get_mut(name)).map(Arc::make_mut);
        if let Some(Some(partition)) = topic.and_then(|topic| topic.partitions.get_mut(id.index as usize)) {
            let partition = Arc::make_mut(partition);
            partition.version = version;
            change(&mut partition.record);
        }
    }

    pub(super) fn epoch(&self, id: PartitionId) -> LeaderEpoch {
        self.snapshot.partition(id).map_or(LeaderEpoch(-1), |view| view.record.epoch)
    }

    /// The log of a partition, if `node` serves it at `epoch`.
    pub(super) fn served(
        &mut self,
        node: NodeId,
        id: PartitionId,
        epoch: Option<LeaderEpoch>,
    ) -> Result<(&mut FakeLog, LeaderEpoch), NotServed> {
        let record = &self.snapshot.partition(id).ok_or(NotServed::NoSuchPartition(id))?.record;
        let (current, owner) = (record.epoch, record.owner.map(|o| o.node));
        if owner != Some(node) {
            return Err(NotServed::NotOwner { owner, epoch: current });
        }
        if self.opening.contains(&id) {
            return Err(NotServed::Opening);
        }
        match epoch {
            Some(asked) if asked < current => Err(NotServed::FencedEpoch { current }),
            Some(asked) if asked > current => Err(NotServed::UnknownEpoch { current }),
            _ => Ok((self.logs.get_mut(&id).ok_or(NotServed::NoSuchPartition(id))?, current)),
        }
    }
}

const fn owner(node: NodeId) -> Owner {
    Owner { node, registration: registration(node.0) }
}

const fn registration(node: i32) -> Registration {
    Registration(node as u64 + 1)
}

fn node(id: i32) -> NodeRecord {
    NodeRecord {
        node: NodeId(id),
        registration: registration(id),
        instance: Uuid::from_u128(id as u128),
        host: "localhost".into(),
        port: 9092 + id as u16,
        internal_address: None,
        rack: None,
        started_at: Timestamp(0),
    }
}
