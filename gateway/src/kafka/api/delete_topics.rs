//! DeleteTopics, by name or by identity. The answer waits until the view no longer shows the topics.

use super::metadata::patience;
use crate::kafka::{
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteTopicsRequest, DeleteTopicsResponse, TopicName, delete_topics_request::DeleteTopicState,
        delete_topics_response::DeletableTopicResult,
    },
};
use protocol::{
    cluster::ClusterSnapshot,
    service::{
        Answer,
        broker::{AdminError, DeleteTopic},
    },
    topic::TopicId,
};
use uuid::Uuid;

/// The first version that names topics by identity too.
const TOPIC_IDS_SINCE: i16 = 6;
/// The first version that knows the error "deletion is disabled".
const DISABLED_SINCE: i16 = 3;

struct Deletion {
    name: Option<TopicName>,
    id: Uuid,
    made: Result<Answer<(), AdminError>, Failure>,
}

/// Handles DeleteTopics.
pub(crate) fn handle(request: Request) -> Handled {
    let message: DeleteTopicsRequest = request.decode()?;
    let call = request.call;
    let by_name = |name: TopicName| DeleteTopicState::default().with_name(Some(name));
    let wanted: Vec<DeleteTopicState> = match call.version >= TOPIC_IDS_SINCE {
        true => message.topics,
        false => message.topic_names.into_iter().map(by_name).collect(),
    };
    let snapshot = call.shared.view.snapshot();
    let deletions: Vec<Deletion> = wanted.into_iter().map(|topic| delete(&call, &snapshot, topic)).collect();
    let answering = call.clone();
    Ok(call.later(async move {
        let mut results = Vec::with_capacity(deletions.len());
        let mut gone: Vec<TopicId> = Vec::new();
        for Deletion { name, id, made } in deletions {
            let outcome = super::settle(made).await;
            gone.extend(outcome.is_ok().then_some(TopicId(id)));
            let (code, text) = answering.verdict(&outcome);
            let result = DeletableTopicResult::default().with_name(name).with_error_code(code).with_error_message(text);
            results.push(if answering.version >= TOPIC_IDS_SINCE { result.with_topic_id(id) } else { result });
        }
        let shows = |snapshot: &ClusterSnapshot| gone.iter().all(|id| snapshot.topic_by_id(*id).is_none());
        answering.shared.wait_for_view(patience(message.timeout_ms), shows).await;
        DeleteTopicsResponse::default().with_responses(results)
    }))
}

fn delete(call: &Call, snapshot: &ClusterSnapshot, wanted: DeleteTopicState) -> Deletion {
    let known = match &wanted.name {
        Some(name) => snapshot.topic(name.as_str()),
        None => snapshot.topic_by_id(TopicId(wanted.topic_id)),
    };
    let id = known.map_or(wanted.topic_id, |topic| topic.record.id.0);
    let made = match &wanted.name {
        Some(name) => start(call, DeleteTopic::Name(name.to_string())),
        None => start(call, DeleteTopic::Id(TopicId(wanted.topic_id))),
    };
    Deletion { name: wanted.name, id, made }
}

fn start(call: &Call, delete: DeleteTopic) -> Result<Answer<(), AdminError>, Failure> {
    if !call.shared.settings.current().delete_topics {
        let known = call.version >= DISABLED_SINCE;
        let error = if known { ResponseError::TopicDeletionDisabled } else { ResponseError::InvalidRequest };
        return Err(Failure::new(error, "delete.topic.enable is false"));
    }
    Ok(call.shared.local_broker()?.delete_topic(delete))
}
