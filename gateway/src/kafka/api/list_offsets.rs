//! ListOffsets: an offset by position or time, of the owner of each partition.

use super::{ByTopic, Made, settle};
use crate::kafka::{
    context::TopicRef,
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_request::ListOffsetsPartition,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    },
};
use protocol::{
    cluster::ClusterSnapshot,
    id::{LeaderEpoch, Timestamp},
    service::broker::{Isolation, ListOffset, ListOffsetsError, ListedOffset, OffsetSpec},
};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// Handles ListOffsets.
pub(crate) fn handle(request: Request) -> Handled {
    let message: ListOffsetsRequest = request.decode()?;
    let call = request.call;
    let snapshot = call.shared.view.snapshot();
    let isolation = if message.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let mut topics: ByTopic<ListedOffset, ListOffsetsError> = Vec::new();
    for topic in message.topics {
        let made = topic.partitions.iter().map(|partition| {
            let made = look_up(&call, &snapshot, topic.name.as_str(), partition, isolation);
            (partition.partition_index, made)
        });
        let made = made.collect();
        topics.push((topic.name, made));
    }
    let answering = call.clone();
    Ok(call.later(async move {
        let mut answers = Vec::with_capacity(topics.len());
        for (name, partitions) in topics {
            let mut offsets = Vec::with_capacity(partitions.len());
            for (index, made) in partitions {
                offsets.push(partition_response(&answering, index, settle(made).await));
            }
            answers.push(ListOffsetsTopicResponse::default().with_name(name).with_partitions(offsets));
        }
        ListOffsetsResponse::default().with_topics(answers)
    }))
}

fn look_up(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topic: &str,
    partition: &ListOffsetsPartition,
    isolation: Isolation,
) -> Made<ListedOffset, ListOffsetsError> {
    let (id, broker) = call.shared.route(snapshot, TopicRef::Name(topic), partition.partition_index)?;
    let spec = match partition.timestamp {
        LATEST => OffsetSpec::Latest,
        EARLIEST | EARLIEST_LOCAL => OffsetSpec::Earliest,
        MAX_TIMESTAMP => OffsetSpec::MaxTimestamp,
        // Nothing is tiered: everything is local.
        LATEST_TIERED => {
            let none = ListedOffset { offset: None, timestamp: Timestamp::NONE, epoch: None };
            return Ok(protocol::service::ready(Ok(none)));
        }
        timestamp if timestamp >= 0 => OffsetSpec::At(Timestamp(timestamp)),
        other => {
            let text = format!("{other} is not a timestamp, nor one of the special ones from -1 to -5");
            return Err(Failure::new(ResponseError::UnsupportedVersion, text));
        }
    };
    let current_epoch = (partition.current_leader_epoch >= 0).then_some(LeaderEpoch(partition.current_leader_epoch));
    Ok(broker.list_offset(ListOffset { partition: id, spec, isolation, current_epoch }))
}

fn partition_response(call: &Call, index: i32, outcome: Result<ListedOffset, Failure>) -> ListOffsetsPartitionResponse {
    let response =
        ListOffsetsPartitionResponse::default().with_partition_index(index).with_offset(-1).with_timestamp(-1);
    match outcome {
        Ok(found) => {
            let response = response.with_offset(found.offset.map_or(-1, |o| o.0)).with_timestamp(found.timestamp.0);
            let epoch = found.epoch.filter(|_| call.version >= 4);
            response.with_leader_epoch(epoch.map_or(-1, |e| e.0))
        }
        Err(failure) => response.with_error_code(call.code(&failure)),
    }
}
