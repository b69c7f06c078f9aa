//! The planner on snapshots, and both tasks on a real voter.

use super::*;
use crate::{MetadataConfig, MetadataDeps, MetadataNode, Peers};
use protocol::{
    cluster::{ClusterSnapshot, PartitionView, Topic},
    id::{BookieId, Incarnation, LeaderEpoch, LedgerId, LedgerKey, NodeId, Offset, Registration, Revision, Timestamp},
    ledger::{
        metadata::{BookieMember, LedgerMetadata, LedgerState},
        quorum::Quorum,
    },
    model::{
        ClosedLedger, ClosedPage, DeadLedger, HeadLedger, NodeRecord, Owner, PartitionRecord, Record, TopicRecord,
        decode, encode, key, prefix,
    },
    runtime::SystemClock,
    service::metadata::{Consistency, Operation, Scan, Transaction},
    topic::{PartitionId, TopicId, TopicName},
};
use std::collections::BTreeMap;
use tempfile::TempDir;
use uuid::Uuid;

fn node(id: i32, registration: u64) -> NodeRecord {
    NodeRecord {
        node: NodeId(id),
        registration: Registration(registration),
        instance: Uuid::from_u128(id as u128),
        host: "localhost".into(),
        port: 9092,
        internal_address: None,
        rack: None,
        started_at: Timestamp(0),
    }
}

fn topic(id: u128, partitions: u32) -> TopicRecord {
    TopicRecord {
        id: TopicId(Uuid::from_u128(id)),
        name: TopicName::new(&format!("t{id}")).expect("legal"),
        partitions,
        replication_factor: 1,
        config: BTreeMap::new(),
        created_at: Timestamp(0),
    }
}

fn owner(node: i32, registration: u64) -> Option<Owner> {
    Some(Owner { node: NodeId(node), registration: Registration(registration) })
}

fn ledger(id: u64) -> LedgerMetadata {
    let member = BookieMember { id: BookieId(1), incarnation: Incarnation(1) };
    LedgerMetadata::open(LedgerId(id), LedgerKey(9), Quorum::SINGLE, vec![member], Timestamp(0))
}

fn cluster(nodes: &[NodeRecord], owners: &[Option<Owner>]) -> ClusterSnapshot {
    let record = topic(1, owners.len() as u32);
    let view = |owner: &Option<Owner>| {
        let mut record = PartitionRecord::new(*owner);
        record.head = Some(HeadLedger { ledger: ledger(1), base_offset: Offset(0), epoch: LeaderEpoch(0) });
        Some(Arc::new(PartitionView { record, version: Revision(5) }))
    };
    let nodes = nodes.iter().map(|n| (n.node, Arc::new(n.clone()))).collect();
    let mut snapshot = ClusterSnapshot { nodes, ..ClusterSnapshot::default() };
    snapshot.names.insert(record.id, record.name.clone());
    let partitions = owners.iter().map(view).collect();
    snapshot.topics.insert(record.name.clone(), Arc::new(Topic { record, version: Revision(1), partitions }));
    snapshot
}

fn targets(snapshot: &ClusterSnapshot) -> Vec<(u32, i32, u64)> {
    let one = |a: Assignment| (a.partition.index, a.owner.node.0, a.owner.registration.0);
    plan(snapshot).into_iter().map(one).collect()
}

#[test]
fn only_orphans_are_assigned() {
    let nodes = [node(1, 10), node(2, 20)];
    assert_eq!(targets(&cluster(&nodes, &[owner(1, 10), owner(2, 20)])), []);
    // A registration that is gone, no owner at all, and a node that is gone.
    let seen = targets(&cluster(&nodes, &[owner(1, 9), None, owner(3, 30), owner(2, 20)]));
    assert_eq!(seen, [(0, 1, 10), (1, 1, 10), (2, 2, 20)]);
    let plan = plan(&cluster(&nodes, &[owner(1, 9)]));
    assert_eq!((plan[0].record.epoch, plan[0].version), (LeaderEpoch(1), Revision(5)));
    assert_eq!(plan[0].record.head.as_ref().map(|h| h.ledger.state), Some(LedgerState::InRecovery));
}

#[test]
fn a_node_that_came_back_keeps_its_partitions_and_others_are_spread() {
    let nodes = [node(1, 11), node(2, 20), node(3, 30)];
    let back = targets(&cluster(&nodes, &[owner(1, 10); 4]));
    assert!(back.iter().all(|(_, node, registration)| (*node, *registration) == (1, 11)));
    let spread = targets(&cluster(&nodes, &[owner(9, 1); 9]));
    for id in 1..=3 {
        assert_eq!(spread.iter().filter(|(_, node, _)| *node == id).count(), 3);
    }
}

#[test]
fn without_a_live_node_nothing_is_decided() {
    assert_eq!(targets(&cluster(&[], &[owner(1, 1), None])), []);
}

struct Cluster {
    _dir: TempDir,
    node: MetadataNode,
    metadata: Arc<dyn MetadataService>,
    view: ClusterView,
    tasks: Tasks,
}

impl Cluster {
    async fn new() -> Self {
        let (dir, tasks) = (tempfile::tempdir().expect("a directory"), Tasks::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let config = MetadataConfig { data_dir: dir.path().into(), ..MetadataConfig::default() };
        // The service outlives those who use it.
        let deps =
            MetadataDeps { clock: Arc::clone(&clock), tasks: Tasks::default(), peers: Peers::none(), cluster: None };
        let node = MetadataNode::start(config, deps).await.expect("starts");
        let metadata = node.service();
        let view = ClusterView::start(Arc::clone(&metadata), &tasks).await.expect("reads");
        Controller::start(Arc::clone(&metadata), view.clone(), clock, &tasks);
        Self { _dir: dir, node, metadata, view, tasks }
    }

    async fn put<R: Record>(&self, key: String, record: &R) {
        self.commit(vec![operation(key, record)]).await;
    }

    async fn commit(&self, operations: Vec<Operation>) {
        let done = self.metadata.transact(Transaction { operations, ..Transaction::default() }).await;
        done.expect("commits");
    }

    async fn list(&self, prefix: &str) -> Vec<protocol::service::metadata::Versioned> {
        let consistency = Consistency::Linearizable;
        let scan = Scan { prefix: prefix.into(), after: None, limit: 10_000, consistency };
        self.metadata.scan(scan).await.expect("scans").items
    }

    async fn until(&self, what: impl Fn(&ClusterSnapshot) -> bool) -> Arc<ClusterSnapshot> {
        let mut changes = self.view.changes();
        let seen = tokio::time::timeout(Duration::from_secs(20), changes.wait_for(|s| what(s)));
        Arc::clone(&*seen.await.expect("in time").expect("the view lives"))
    }

    async fn stop(self) {
        assert!(self.tasks.stop(Duration::from_secs(20)).await);
        self.node.stop().await;
    }
}

fn operation<R: Record>(key: String, record: &R) -> Operation {
    Operation::Put { key, value: encode(record), session: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_follow_the_registration_of_their_node() {
    let cluster = Cluster::new().await;
    let topic = topic(1, 1_200);
    let mut operations = vec![operation(key::topic(&topic.name), &topic)];
    for index in 0..topic.partitions {
        let partition = PartitionId { topic: topic.id, index };
        operations.push(operation(key::partition(partition), &PartitionRecord::new(owner(1, 1))));
    }
    cluster.commit(operations).await;
    cluster.put(key::node(NodeId(1)), &node(1, 2)).await;
    let owned = |registration: u64, epoch: i32| {
        let id = topic.id;
        move |s: &ClusterSnapshot| {
            s.topic_by_id(id).is_some_and(|t| {
                t.partitions.iter().flatten().count() == 1_200
                    && t.partitions
                        .iter()
                        .flatten()
                        .all(|p| p.record.owner == owner(1, registration) && p.record.epoch == LeaderEpoch(epoch))
            })
        }
    };
    cluster.until(owned(2, 1)).await;
    // The node goes: nothing to decide. It comes back as another registration: again one epoch more.
    cluster.commit(vec![Operation::Delete(key::node(NodeId(1)))]).await;
    cluster.put(key::node(NodeId(1)), &node(1, 3)).await;
    cluster.until(owned(3, 2)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ledger_of_a_deleted_topic_becomes_dead() {
    let cluster = Cluster::new().await;
    let topic = topic(1, 3);
    let closed = |id: u64| ClosedLedger {
        ledger: LedgerMetadata { state: LedgerState::Closed { last_entry: None, length: 0 }, ..ledger(id) },
        epoch: LeaderEpoch(0),
        base_offset: Offset(0),
        end_offset: Offset(0),
        max_timestamp: Timestamp::NONE,
        last_index: None,
        closed_at: Timestamp(0),
    };
    let mut operations = Vec::new();
    for index in 0..3u32 {
        let partition = PartitionId { topic: topic.id, index };
        let first = u64::from(index) * 100;
        let mut record = PartitionRecord::new(None);
        record.head = Some(HeadLedger { ledger: ledger(first), base_offset: Offset(0), epoch: LeaderEpoch(0) });
        operations.push(operation(key::partition(partition), &record));
        for page in 0..6u32 {
            let ledgers = (0..3).map(|n| closed(first + 1 + u64::from(page) * 3 + n)).collect();
            operations.push(operation(key::closed_page(partition, page), &ClosedPage { ledgers }));
        }
    }
    // Partition 2 was already half deleted by a controller that died: its record is gone, its pages are not.
    operations.push(Operation::Delete(key::partition(PartitionId { topic: topic.id, index: 2 })));
    // A record of the future stops its own topic and no other.
    let other = self::topic(0, 1);
    let unreadable = key::partition(PartitionId { topic: other.id, index: 0 });
    let value = bytes::Bytes::from_static(&[255]);
    operations.push(Operation::Put { key: unreadable.clone(), value, session: None });
    operations.push(operation(key::deleting(other.id), &other));
    operations.push(operation(key::deleting(topic.id), &topic));
    cluster.commit(operations).await;
    let mut watch = cluster.metadata.watch(prefix::DELETING.into(), Revision(1)).await.expect("watches");
    let gone = tokio::time::timeout(Duration::from_secs(20), futures::StreamExt::next(&mut watch)).await;
    gone.expect("in time").expect("an event").expect("ok");
    assert_eq!(cluster.list(prefix::CLOSED).await, []);
    let keys =
        |items: Vec<protocol::service::metadata::Versioned>| items.into_iter().map(|i| i.key).collect::<Vec<_>>();
    assert_eq!(keys(cluster.list(prefix::PARTITIONS).await), [unreadable]);
    assert_eq!(keys(cluster.list(prefix::DELETING).await), [key::deleting(other.id)]);
    let dead: Vec<DeadLedger> =
        cluster.list(prefix::DEAD).await.iter().map(|item| decode(&item.value).expect("a record")).collect();
    let expected: Vec<u64> = (0..=18).chain(100..=118).chain(201..=218).collect();
    assert_eq!(dead.iter().map(|d| d.ledger.0).collect::<Vec<_>>(), expected);
    assert!(dead.iter().all(|d| d.held_by == [BookieMember { id: BookieId(1), incarnation: Incarnation(1) }]));
    cluster.stop().await;
}
