//! DescribeTopicPartitions: what Metadata says about topics, in pages with a cursor (KIP-966).

use crate::kafka::{
    cluster::{self, Placement, TOPIC_OPERATIONS},
    context::TopicRef,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
        describe_topic_partitions_response::{
            Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        },
    },
    protocol::StrBytes,
};
use protocol::cluster::{ClusterSnapshot, Topic};

/// The most partitions in one answer (Kafka: `max.request.partition.size.limit`).
const PAGE: usize = 2000;

/// Handles DescribeTopicPartitions.
pub(crate) fn handle(request: Request) -> Handled {
    let message: DescribeTopicPartitionsRequest = request.decode()?;
    let call = request.call;
    let snapshot = call.shared.view.snapshot();
    let mut names: Vec<String> = match message.topics.is_empty() {
        true => snapshot.topics.keys().map(ToString::to_string).collect(),
        false => message.topics.iter().map(|topic| topic.name.to_string()).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let (from_topic, from_partition) = match &message.cursor {
        Some(cursor) => (cursor.topic_name.to_string(), u32::try_from(cursor.partition_index).unwrap_or(0)),
        None => (String::new(), 0),
    };
    let limit = usize::try_from(message.response_partition_limit).unwrap_or(PAGE).clamp(1, PAGE);
    let mut page = Page { topics: Vec::new(), room: limit, next: None };
    for name in names.into_iter().filter(|name| *name >= from_topic) {
        let first = if name == from_topic { from_partition } else { 0 };
        page.add(&call, &snapshot, name, first);
        if page.next.is_some() {
            break;
        }
    }
    Ok(call.now(&DescribeTopicPartitionsResponse::default().with_topics(page.topics).with_next_cursor(page.next)))
}

struct Page {
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    room: usize,
    next: Option<Cursor>,
}

impl Page {
    fn add(&mut self, call: &Call, snapshot: &ClusterSnapshot, name: String, first: u32) {
        let kafka_name = TopicName(StrBytes::from_string(name.clone()));
        let response = DescribeTopicPartitionsResponseTopic::default().with_name(Some(kafka_name.clone()));
        let topic: &Topic = match TopicRef::Name(&name).find(snapshot) {
            Ok(topic) => topic,
            Err(failure) => return self.topics.push(response.with_error_code(call.code(&failure))),
        };
        let end = topic.record.partitions;
        let last = first.saturating_add(u32::try_from(self.room).unwrap_or(u32::MAX)).min(end);
        let partitions = (first..last).map(|index| partition(cluster::placement(snapshot, topic, index)));
        let partitions: Vec<_> = partitions.collect();
        self.room -= partitions.len();
        if last < end {
            let index = i32::try_from(last).unwrap_or(i32::MAX);
            self.next = Some(Cursor::default().with_topic_name(kafka_name).with_partition_index(index));
        }
        if !partitions.is_empty() {
            let response = response.with_topic_id(topic.record.id.0).with_is_internal(topic.record.name.is_internal());
            self.topics.push(response.with_partitions(partitions).with_topic_authorized_operations(TOPIC_OPERATIONS));
        }
    }
}

fn partition(placement: Placement) -> DescribeTopicPartitionsResponsePartition {
    let code = if placement.leader.is_none() { ResponseError::LeaderNotAvailable.code() } else { 0 };
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(code)
        .with_partition_index(placement.index)
        .with_leader_id(placement.leader.unwrap_or(BrokerId(-1)))
        .with_leader_epoch(placement.epoch)
        .with_replica_nodes(placement.replicas)
        .with_isr_nodes(placement.isr)
        .with_offline_replicas(placement.offline)
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}
