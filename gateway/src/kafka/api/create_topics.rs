//! CreateTopics. Replica assignments are accepted for their numbers: which broker serves a partition is not the client's
//! to decide. The answer waits until the new partitions are served.

use super::metadata::patience;
use crate::kafka::{
    context::is_served,
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse, TopicName,
        create_topics_request::CreatableTopic,
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
    },
    protocol::StrBytes,
};
use protocol::{
    cluster::ClusterSnapshot,
    service::{
        Answer,
        broker::{AdminError, ConfigEntry, CreateTopic, TopicCreated},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// The number that stands for the node's default.
const DEFAULT: i32 = -1;
/// The first version whose answer describes the topic.
const DETAILS_SINCE: i16 = 5;

type Creation = (TopicName, Result<Answer<TopicCreated, AdminError>, Failure>);

/// Handles CreateTopics.
pub(crate) fn handle(request: Request) -> Handled {
    let message: CreateTopicsRequest = request.decode()?;
    let call = request.call;
    let twice = repeated(message.topics.iter().map(|topic| topic.name.as_str()));
    let mut made: Vec<Creation> = Vec::new();
    for topic in message.topics {
        if made.iter().any(|(name, _)| *name == topic.name) {
            continue;
        }
        let name = topic.name.clone();
        made.push((name, create(&call, topic, &twice, message.validate_only)));
    }
    let answering = call.clone();
    Ok(call.later(async move {
        let mut results = Vec::with_capacity(made.len());
        let mut created = Vec::new();
        for (name, made) in made {
            let outcome = super::settle(made).await;
            created.extend(outcome.as_ref().ok().filter(|_| !message.validate_only).map(|topic| topic.id));
            results.push(result(&answering, name, outcome));
        }
        let served = |snapshot: &ClusterSnapshot| {
            created.iter().all(|id| snapshot.topic_by_id(*id).is_some_and(|topic| is_served(snapshot, topic)))
        };
        answering.shared.wait_for_view(patience(message.timeout_ms), served).await;
        CreateTopicsResponse::default().with_topics(results)
    }))
}

/// The names that occur more than once.
pub(super) fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).map(str::to_owned).collect()
}

fn create(
    call: &Call,
    topic: CreatableTopic,
    twice: &BTreeSet<String>,
    validate_only: bool,
) -> Result<Answer<TopicCreated, AdminError>, Failure> {
    if twice.contains(topic.name.as_str()) {
        let text = format!("the request names topic \"{}\" more than once", topic.name.as_str());
        return Err(Failure::new(ResponseError::InvalidRequest, text));
    }
    let (partitions, replication_factor) = numbers(&topic)?;
    let mut config = BTreeMap::new();
    for setting in topic.configs {
        let Some(value) = setting.value else {
            let text = format!("setting \"{}\" has no value", setting.name);
            return Err(Failure::new(ResponseError::InvalidConfig, text));
        };
        config.insert(setting.name.to_string(), value.to_string());
    }
    let name = topic.name.to_string();
    let create = CreateTopic { name, partitions, replication_factor, config, validate_only, internal: false };
    Ok(call.shared.local_broker()?.create_topic(create))
}

/// The number of partitions and the replication factor, none where the node's default is wanted.
fn numbers(topic: &CreatableTopic) -> Result<(Option<i32>, Option<i16>), Failure> {
    let wish = (
        (topic.num_partitions != DEFAULT).then_some(topic.num_partitions),
        (i32::from(topic.replication_factor) != DEFAULT).then_some(topic.replication_factor),
    );
    let Some(first) = topic.assignments.first() else { return Ok(wish) };
    if wish != (None, None) {
        let text = "give replica assignments, or numbers of partitions and replicas, not both";
        return Err(Failure::new(ResponseError::InvalidRequest, text));
    }
    let factor = first.broker_ids.len();
    let indexes: BTreeSet<i32> = topic.assignments.iter().map(|assignment| assignment.partition_index).collect();
    let count = i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX);
    let complete = indexes.iter().copied().eq(0..count);
    if !complete || factor == 0 || topic.assignments.iter().any(|assignment| assignment.broker_ids.len() != factor) {
        let text = "replica assignments must name the partitions from 0 on, each with the same number of brokers";
        return Err(Failure::new(ResponseError::InvalidReplicaAssignment, text));
    }
    Ok((Some(count), Some(i16::try_from(factor).unwrap_or(i16::MAX))))
}

fn result(call: &Call, name: TopicName, outcome: Result<TopicCreated, Failure>) -> CreatableTopicResult {
    let response = CreatableTopicResult::default().with_name(name);
    match outcome {
        Ok(topic) if call.version >= DETAILS_SINCE => response
            .with_topic_id(topic.id.0)
            .with_num_partitions(i32::try_from(topic.partitions).unwrap_or(i32::MAX))
            .with_replication_factor(i16::from(topic.replication_factor))
            .with_configs(Some(topic.config.into_iter().map(setting).collect())),
        Ok(_) => response,
        Err(failure) => {
            let (code, text) = call.refuse(&failure);
            response.with_error_code(code).with_error_message(text).with_configs(None)
        }
    }
}

fn setting(entry: ConfigEntry) -> CreatableTopicConfigs {
    CreatableTopicConfigs::default()
        .with_config_source(super::describe_configs::source(entry.source))
        .with_name(StrBytes::from_string(entry.name))
        .with_value(entry.value.map(StrBytes::from_string))
        .with_read_only(entry.read_only)
}
