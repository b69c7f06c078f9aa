//! DeleteRecords: moves the start of a partition's log forward.

use super::{ByTopic, Made, settle};
use crate::kafka::{
    context::TopicRef,
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteRecordsRequest, DeleteRecordsResponse,
        delete_records_request::DeleteRecordsPartition,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    },
};
use protocol::{
    cluster::ClusterSnapshot,
    id::Offset,
    service::broker::{DeleteRecords, DeleteRecordsError, Origin},
};

/// The offset that stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;

/// Handles DeleteRecords.
pub(crate) fn handle(request: Request) -> Handled {
    let message: DeleteRecordsRequest = request.decode()?;
    let call = request.call;
    let snapshot = call.shared.view.snapshot();
    let mut topics: ByTopic<Offset, DeleteRecordsError> = Vec::new();
    for topic in message.topics {
        let made =
            topic.partitions.iter().map(|p| (p.partition_index, delete(&call, &snapshot, topic.name.as_str(), p)));
        let made = made.collect();
        topics.push((topic.name, made));
    }
    let answering = call.clone();
    Ok(call.later(async move {
        let mut answers = Vec::with_capacity(topics.len());
        for (name, partitions) in topics {
            let mut results = Vec::with_capacity(partitions.len());
            for (index, made) in partitions {
                let outcome = settle(made).await;
                let code = outcome.as_ref().err().map_or(0, |failure| answering.code(failure));
                let low = outcome.map_or(-1, |start| start.0);
                let result = DeleteRecordsPartitionResult::default().with_partition_index(index).with_error_code(code);
                results.push(result.with_low_watermark(low));
            }
            answers.push(DeleteRecordsTopicResult::default().with_name(name).with_partitions(results));
        }
        DeleteRecordsResponse::default().with_topics(answers)
    }))
}

fn delete(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topic: &str,
    asked: &DeleteRecordsPartition,
) -> Made<Offset, DeleteRecordsError> {
    let (partition, broker) = call.shared.route(snapshot, TopicRef::Name(topic), asked.partition_index)?;
    let before = match asked.offset {
        HIGH_WATERMARK => None,
        offset if offset >= 0 => Some(Offset(offset)),
        offset => {
            let text = format!("{offset} is not an offset; -1 stands for the high watermark");
            return Err(Failure::new(ResponseError::OffsetOutOfRange, text));
        }
    };
    Ok(broker.delete_records(DeleteRecords { partition, before, origin: Origin::Client }))
}
