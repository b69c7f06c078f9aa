//! Metadata: brokers, topics, leaders. Topics that do not exist are created if the node's settings and the request allow
//! it; the answer waits for their partitions to be served, so that the client's next request finds them.

use crate::kafka::{
    cluster::{self, CLUSTER_OPERATIONS, Placement, TOPIC_OPERATIONS},
    context::{TopicRef, VIEW_PATIENCE, is_served},
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, MetadataRequest, MetadataResponse, TopicName as KafkaTopicName,
        metadata_request::MetadataRequestTopic,
        metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
    protocol::StrBytes,
};
use protocol::{
    cluster::{ClusterSnapshot, Topic},
    service::broker::{AdminError, CreateTopic},
    topic::TopicName,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use uuid::Uuid;

/// The first version that can ask for no topic at all; before, an empty list means all.
const NONE_SINCE: i16 = 1;
/// The first version that knows topics by identity.
const TOPIC_IDS_SINCE: i16 = 10;

/// Handles Metadata.
pub(crate) fn handle(request: Request) -> Handled {
    let message: MetadataRequest = request.decode()?;
    let call = request.call;
    let wanted = message.topics.filter(|topics| call.version >= NONE_SINCE || !topics.is_empty());
    let operations = Operations {
        topics: if message.include_topic_authorized_operations { TOPIC_OPERATIONS } else { i32::MIN },
        cluster: if message.include_cluster_authorized_operations { CLUSTER_OPERATIONS } else { i32::MIN },
    };
    let snapshot = call.shared.view.snapshot();
    let Some(wanted) = wanted else {
        let all = snapshot.topics.values().map(|topic| described(&call, &snapshot, topic, &operations)).collect();
        return Ok(call.now(&response(&call, &snapshot, all, &operations)));
    };
    let may_create = message.allow_auto_topic_creation && call.shared.settings.current().auto_create_topics;
    let missing = if may_create { missing(&snapshot, &wanted) } else { Vec::new() };
    let answering = call.clone();
    Ok(call.later(async move {
        let mut failures = BTreeMap::new();
        for name in missing {
            if let Err(failure) = create(&answering, &name).await {
                failures.insert(name.as_str().to_owned(), failure);
            }
        }
        let snapshot = answering.shared.view.snapshot();
        let topics = wanted.iter().map(|topic| answer(&answering, &snapshot, topic, &failures, &operations)).collect();
        response(&answering, &snapshot, topics, &operations)
    }))
}

/// What clients may do, as bit sets; the smallest number if they did not ask.
struct Operations {
    topics: i32,
    cluster: i32,
}

/// The legal names among `wanted` that do not exist yet.
fn missing(snapshot: &ClusterSnapshot, wanted: &[MetadataRequestTopic]) -> Vec<TopicName> {
    let named = wanted.iter().filter_map(|topic| topic.name.as_ref());
    let legal = named.filter_map(|name| TopicName::new(name.as_str()).ok());
    let mut names: Vec<TopicName> = legal.filter(|name| !snapshot.topics.contains_key(name)).collect();
    names.sort();
    names.dedup();
    names
}

/// Creates a topic with the node's defaults and waits until it is served.
async fn create(call: &Call, name: &TopicName) -> Result<(), Failure> {
    if name.is_internal() {
        return super::find_coordinator::offsets_topic(&call.shared).await.map(drop);
    }
    let create = CreateTopic {
        name: name.as_str().to_owned(),
        partitions: None,
        replication_factor: None,
        config: BTreeMap::new(),
        validate_only: false,
        internal: false,
    };
    let created = call.shared.local_broker()?.create_topic(create).await;
    match created {
        Ok(_) | Err(AdminError::TopicExists(_)) => {
            let served = |s: &ClusterSnapshot| s.topics.get(name).is_some_and(|topic| is_served(s, topic));
            call.shared.wait_for_view(VIEW_PATIENCE, served).await;
            Ok(())
        }
        Err(AdminError::Unavailable(why) | AdminError::OutcomeUnknown(why)) => {
            Err(Failure::new(ResponseError::LeaderNotAvailable, why))
        }
        Err(problem) => Err(problem.into()),
    }
}

fn answer(
    call: &Call,
    snapshot: &ClusterSnapshot,
    wanted: &MetadataRequestTopic,
    failures: &BTreeMap<String, Failure>,
    operations: &Operations,
) -> MetadataResponseTopic {
    let found = match &wanted.name {
        Some(name) => match TopicName::new(name.as_str()) {
            Ok(_) => TopicRef::Name(name.as_str()).find(snapshot),
            Err(problem) => Err(Failure::new(ResponseError::InvalidTopicException, problem.to_string())),
        },
        None => TopicRef::Id(wanted.topic_id).find(snapshot),
    };
    let failure = match found {
        Ok(topic) => return described(call, snapshot, topic, operations),
        Err(failure) => failure,
    };
    let failure = wanted.name.as_ref().and_then(|name| failures.get(name.as_str())).unwrap_or(&failure);
    let id = if wanted.name.is_none() { wanted.topic_id } else { Uuid::nil() };
    let response = MetadataResponseTopic::default().with_error_code(call.code(failure)).with_topic_id(id);
    // Only versions from 12 on can say that a topic has no name.
    let name = wanted.name.clone().or_else(|| (call.version < 12).then(KafkaTopicName::default));
    response.with_name(name).with_topic_authorized_operations(operations.topics)
}

fn described(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topic: &Arc<Topic>,
    operations: &Operations,
) -> MetadataResponseTopic {
    let name = KafkaTopicName(StrBytes::from_string(topic.record.name.as_str().to_owned()));
    let partitions = (0..topic.record.partitions).map(|index| partition(cluster::placement(snapshot, topic, index)));
    let id = if call.version >= TOPIC_IDS_SINCE { topic.record.id.0 } else { Uuid::nil() };
    MetadataResponseTopic::default()
        .with_name(Some(name))
        .with_topic_id(id)
        .with_is_internal(topic.record.name.is_internal())
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(operations.topics)
}

fn partition(placement: Placement) -> MetadataResponsePartition {
    let code = if placement.leader.is_none() { ResponseError::LeaderNotAvailable.code() } else { 0 };
    MetadataResponsePartition::default()
        .with_error_code(code)
        .with_partition_index(placement.index)
        .with_leader_id(placement.leader.unwrap_or(BrokerId(-1)))
        .with_leader_epoch(placement.epoch)
        .with_replica_nodes(placement.replicas)
        .with_isr_nodes(placement.isr)
        .with_offline_replicas(placement.offline)
}

fn response(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topics: Vec<MetadataResponseTopic>,
    operations: &Operations,
) -> MetadataResponse {
    let brokers = cluster::brokers(&call.shared, snapshot).into_iter().map(|broker| {
        let described = MetadataResponseBroker::default().with_node_id(broker.id).with_host(broker.host);
        described.with_port(broker.port).with_rack(broker.rack)
    });
    let response = MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(cluster::cluster_id(snapshot)))
        .with_controller_id(cluster::controller(&call.shared, snapshot))
        .with_topics(topics);
    if (8..=10).contains(&call.version) {
        response.with_cluster_authorized_operations(operations.cluster)
    } else {
        response
    }
}

/// How long an administrative request waits for the view to show its effect: as long as its client does, within reason.
pub(super) fn patience(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).min(VIEW_PATIENCE)
}
