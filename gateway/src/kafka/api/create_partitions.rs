//! CreatePartitions: one result per topic asked for. The answer waits until the new partitions are served.

use super::{create_topics::repeated, metadata::patience};
use crate::kafka::{
    context::is_served,
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, TopicName, create_partitions_request::CreatePartitionsTopic,
        create_partitions_response::CreatePartitionsTopicResult,
    },
};
use protocol::{
    cluster::ClusterSnapshot,
    service::{
        Answer,
        broker::{AdminError, CreatePartitions},
    },
};
use std::collections::BTreeSet;

type Addition = (TopicName, i32, Result<Answer<(), AdminError>, Failure>);

/// Handles CreatePartitions.
pub(crate) fn handle(request: Request) -> Handled {
    let message: CreatePartitionsRequest = request.decode()?;
    let call = request.call;
    let twice = repeated(message.topics.iter().map(|topic| topic.name.as_str()));
    let mut made: Vec<Addition> = Vec::new();
    for topic in message.topics {
        if made.iter().any(|(name, ..)| *name == topic.name) {
            continue;
        }
        let addition = add(&call, &topic, &twice, message.validate_only);
        made.push((topic.name, topic.count, addition));
    }
    let answering = call.clone();
    Ok(call.later(async move {
        let mut results = Vec::with_capacity(made.len());
        let mut grown: Vec<(TopicName, i32)> = Vec::new();
        for (name, count, made) in made {
            let outcome = super::settle(made).await;
            grown.extend((outcome.is_ok() && !message.validate_only).then(|| (name.clone(), count)));
            let (code, text) = answering.verdict(&outcome);
            let result = CreatePartitionsTopicResult::default().with_name(name).with_error_code(code);
            results.push(result.with_error_message(text));
        }
        let served = |snapshot: &ClusterSnapshot| grown.iter().all(|(name, count)| has(snapshot, name, *count));
        answering.shared.wait_for_view(patience(message.timeout_ms), served).await;
        CreatePartitionsResponse::default().with_results(results)
    }))
}

fn has(snapshot: &ClusterSnapshot, name: &TopicName, count: i32) -> bool {
    let topic = snapshot.topic(name.as_str());
    topic.is_some_and(|topic| i64::from(topic.record.partitions) >= i64::from(count) && is_served(snapshot, topic))
}

fn add(
    call: &Call,
    topic: &CreatePartitionsTopic,
    twice: &BTreeSet<String>,
    validate_only: bool,
) -> Result<Answer<(), AdminError>, Failure> {
    if twice.contains(topic.name.as_str()) {
        let text = format!("the request names topic \"{}\" more than once", topic.name.as_str());
        return Err(Failure::new(ResponseError::InvalidRequest, text));
    }
    let create = CreatePartitions { name: topic.name.to_string(), total: topic.count, validate_only };
    Ok(call.shared.local_broker()?.create_partitions(create))
}
