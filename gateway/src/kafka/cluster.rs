//! Kafka's picture of the cluster, drawn from a snapshot: brokers, controller, leaders, replicas. Owns how our model
//! (owner, ledgers, copies) looks to clients; changes nothing.

use super::context::{self, Endpoint, Shared};
use kafka_protocol::{messages::BrokerId, protocol::StrBytes};
use protocol::{
    cluster::{ClusterSnapshot, Topic},
    id::NodeId,
};

/// Operations on a topic that an unsecured cluster allows to everyone, as Kafka's bit set of ACL operations (read, write,
/// create, delete, alter, describe, describe configs, alter configs).
pub(super) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// The same for the cluster (create, alter, describe, cluster action, describe configs, alter configs, idempotent write).
pub(super) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// A broker as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broker {
    pub(super) id: BrokerId,
    pub(super) host: StrBytes,
    pub(super) port: i32,
    pub(super) rack: Option<StrBytes>,
}

/// A partition as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) index: i32,
    /// The live owner.
    pub(super) leader: Option<BrokerId>,
    /// The epoch of the owner; from metadata, so that it never goes back.
    pub(super) epoch: i32,
    pub(super) replicas: Vec<BrokerId>,
    pub(super) isr: Vec<BrokerId>,
    pub(super) offline: Vec<BrokerId>,
}

fn broker(id: NodeId, at: &Endpoint, rack: Option<&String>) -> Broker {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    Broker { id: BrokerId(id.0), host: text(&at.host), port: i32::from(at.port), rack: rack.map(|rack| text(rack)) }
}

/// All live brokers by id; this node is always one of them, at its advertised address.
pub(super) fn brokers(shared: &Shared, snapshot: &ClusterSnapshot) -> Vec<Broker> {
    let mut brokers: Vec<Broker> = snapshot
        .nodes
        .values()
        .filter(|node| node.node != shared.node)
        .map(|node| broker(node.node, &Endpoint { host: node.host.clone(), port: node.port }, node.rack.as_ref()))
        .collect();
    let rack = snapshot.nodes.get(&shared.node).and_then(|node| node.rack.as_ref());
    brokers.push(broker(shared.node, &shared.advertised, rack));
    brokers.sort_by_key(|broker| broker.id.0);
    brokers
}

/// A live broker by id.
pub(super) fn find_broker(shared: &Shared, snapshot: &ClusterSnapshot, id: NodeId) -> Option<Broker> {
    brokers(shared, snapshot).into_iter().find(|broker| broker.id.0 == id.0)
}

/// Where admin clients send their requests: any live broker will do.
pub(super) fn controller(shared: &Shared, snapshot: &ClusterSnapshot) -> BrokerId {
    let lowest = snapshot.nodes.keys().next().copied().unwrap_or(shared.node);
    BrokerId(lowest.0.min(shared.node.0))
}

/// The cluster's id; empty only before the first node has written it.
pub(super) fn cluster_id(snapshot: &ClusterSnapshot) -> StrBytes {
    let id = snapshot.cluster.as_ref().map(|cluster| cluster.cluster_id.clone());
    StrBytes::from_string(id.unwrap_or_default())
}

/// A partition of a topic as clients see it.
///
/// `replicas` lists the owner and further brokers up to the replication factor; `isr` as many of them as the head ledger
/// has copies.
pub(super) fn placement(snapshot: &ClusterSnapshot, topic: &Topic, index: u32) -> Placement {
    let record = topic.partitions.get(index as usize).and_then(Option::as_ref).map(|partition| &partition.record);
    let leader = context::owner(snapshot, topic, index).map(|node| BrokerId(node.node.0));
    let assigned = record.and_then(|record| record.owner).map(|owner| BrokerId(owner.node.0));
    let factor = usize::from(topic.record.replication_factor).max(1);
    let others = snapshot.nodes.keys().map(|node| BrokerId(node.0)).filter(|id| Some(*id) != assigned);
    let replicas: Vec<BrokerId> = assigned.into_iter().chain(others).take(factor).collect();
    let copies = record.and_then(|record| record.head.as_ref()).map_or(factor, |head| head.ledger.quorum.write());
    let offline: Vec<BrokerId> = assigned.filter(|_| leader.is_none()).into_iter().collect();
    let isr = replicas.iter().filter(|id| !offline.contains(id)).take(copies.max(1)).copied().collect();
    Placement {
        index: i32::try_from(index).unwrap_or(i32::MAX),
        leader,
        epoch: record.map_or(-1, |record| record.epoch.0),
        replicas,
        isr,
        offline,
    }
}
