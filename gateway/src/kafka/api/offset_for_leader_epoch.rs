//! OffsetForLeaderEpoch: where an epoch ends, so that consumers notice a log that is not the one they read (KIP-320).

use super::{ByTopic, Made, settle};
use crate::kafka::{
    context::TopicRef,
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::messages::{
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    offset_for_leader_epoch_request::OffsetForLeaderPartition,
    offset_for_leader_epoch_response::{EpochEndOffset as EpochEndResponse, OffsetForLeaderTopicResult},
};
use protocol::{
    cluster::ClusterSnapshot,
    id::LeaderEpoch,
    service::broker::{EpochEnd, EpochEndOffset, ListOffsetsError},
};

/// Handles OffsetForLeaderEpoch.
pub(crate) fn handle(request: Request) -> Handled {
    let message: OffsetForLeaderEpochRequest = request.decode()?;
    let call = request.call;
    let snapshot = call.shared.view.snapshot();
    let mut topics: ByTopic<EpochEndOffset, ListOffsetsError> = Vec::new();
    for topic in message.topics {
        let made = topic.partitions.iter().map(|p| (p.partition, ask(&call, &snapshot, topic.topic.as_str(), p)));
        let made = made.collect();
        topics.push((topic.topic, made));
    }
    let answering = call.clone();
    Ok(call.later(async move {
        let mut answers = Vec::with_capacity(topics.len());
        for (name, partitions) in topics {
            let mut ends = Vec::with_capacity(partitions.len());
            for (index, made) in partitions {
                ends.push(partition_response(&answering, index, settle(made).await));
            }
            answers.push(OffsetForLeaderTopicResult::default().with_topic(name).with_partitions(ends));
        }
        OffsetForLeaderEpochResponse::default().with_topics(answers)
    }))
}

fn ask(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topic: &str,
    asked: &OffsetForLeaderPartition,
) -> Made<EpochEndOffset, ListOffsetsError> {
    let (partition, broker) = call.shared.route(snapshot, TopicRef::Name(topic), asked.partition)?;
    let current_epoch = (asked.current_leader_epoch >= 0).then_some(LeaderEpoch(asked.current_leader_epoch));
    Ok(broker.epoch_end(EpochEnd { partition, epoch: LeaderEpoch(asked.leader_epoch), current_epoch }))
}

fn partition_response(call: &Call, index: i32, outcome: Result<EpochEndOffset, Failure>) -> EpochEndResponse {
    let response = EpochEndResponse::default().with_partition(index);
    match outcome {
        Ok(EpochEndOffset { end: Some((epoch, end)) }) => response.with_leader_epoch(epoch.0).with_end_offset(end.0),
        Ok(EpochEndOffset { end: None }) => response,
        Err(failure) => response.with_error_code(call.code(&failure)),
    }
}
