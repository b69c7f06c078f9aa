//! FindCoordinator: the coordinator of a group is in the process whose broker owns the partition of `__consumer_offsets`
//! that the group's name falls on. The topic is created when the first group asks.

use super::init_producer_id::transactions_unsupported;
use crate::{
    group,
    kafka::{
        cluster::{self, Broker},
        context::{Shared, VIEW_PATIENCE, is_served},
        error::Failure,
        request::{Call, Handled, Request},
    },
};
use kafka_protocol::{
    ResponseError,
    messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse, find_coordinator_response::Coordinator},
    protocol::StrBytes,
};
use protocol::{
    cluster::{ClusterSnapshot, Topic},
    id::NodeId,
    service::broker::{AdminError, CreateTopic},
    topic::{CONSUMER_OFFSETS, PartitionId},
};
use std::sync::Arc;

/// The first version that asks for several keys at once.
const MANY_SINCE: i16 = 4;
/// The first version whose answer has room for a message.
const MESSAGE_SINCE: i16 = 1;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// Handles FindCoordinator.
pub(crate) fn handle(request: Request) -> Handled {
    let message: FindCoordinatorRequest = request.decode()?;
    let call = request.call;
    let answering = call.clone();
    Ok(call.later(async move {
        if answering.version < MANY_SINCE {
            let found = find(&answering.shared, message.key_type, &message.key).await;
            return single(&answering, found);
        }
        let mut coordinators = Vec::with_capacity(message.coordinator_keys.len());
        for key in message.coordinator_keys {
            let found = find(&answering.shared, message.key_type, &key).await;
            coordinators.push(one_of_many(&answering, key, found));
        }
        FindCoordinatorResponse::default().with_coordinators(coordinators)
    }))
}

fn single(call: &Call, found: Result<Broker, Failure>) -> FindCoordinatorResponse {
    let response = FindCoordinatorResponse::default();
    match found {
        Ok(broker) => response.with_node_id(broker.id).with_host(broker.host).with_port(broker.port),
        Err(failure) => {
            let (code, text) = call.refuse(&failure);
            let text = text.filter(|_| call.version >= MESSAGE_SINCE);
            response.with_error_code(code).with_error_message(text).with_node_id(BrokerId(-1)).with_port(-1)
        }
    }
}

fn one_of_many(call: &Call, key: StrBytes, found: Result<Broker, Failure>) -> Coordinator {
    let response = Coordinator::default().with_key(key);
    match found {
        Ok(broker) => response.with_node_id(broker.id).with_host(broker.host).with_port(broker.port),
        Err(failure) => {
            let (code, text) = call.refuse(&failure);
            response.with_error_code(code).with_error_message(text).with_node_id(BrokerId(-1)).with_port(-1)
        }
    }
}

async fn find(shared: &Shared, key_type: i8, key: &str) -> Result<Broker, Failure> {
    match key_type {
        GROUP => {}
        TRANSACTION => return Err(transactions_unsupported()),
        other => {
            let text = format!("there are no coordinators of type {other}");
            return Err(Failure::new(ResponseError::InvalidRequest, text));
        }
    }
    offsets_topic(shared).await?;
    let snapshot = shared.view.snapshot();
    let node = group_coordinator(&snapshot, key)?;
    cluster::find_broker(shared, &snapshot, node).ok_or_else(unavailable)
}

fn unavailable() -> Failure {
    Failure::new(ResponseError::CoordinatorNotAvailable, "no live node coordinates this group yet; retry")
}

/// The node that coordinates a group.
///
/// # Errors
/// `COORDINATOR_NOT_AVAILABLE`: the offsets topic does not exist yet, or no live node owns the partition.
pub(super) fn group_coordinator(snapshot: &ClusterSnapshot, key: &str) -> Result<NodeId, Failure> {
    let topic = snapshot.topic(CONSUMER_OFFSETS).ok_or_else(unavailable)?;
    let index = group::partition_of(key, topic.record.partitions);
    let owner = snapshot.owner(PartitionId { topic: topic.record.id, index });
    owner.map(|node| node.node).ok_or_else(unavailable)
}

/// The topic of committed offsets; created if it does not exist, and waited for until it is served.
///
/// # Errors
/// `COORDINATOR_NOT_AVAILABLE`, which clients retry.
pub(super) async fn offsets_topic(shared: &Shared) -> Result<Arc<Topic>, Failure> {
    let ready = |snapshot: &ClusterSnapshot| {
        snapshot.topic(CONSUMER_OFFSETS).filter(|topic| is_served(snapshot, topic)).map(Arc::clone)
    };
    if let Some(topic) = ready(&shared.view.snapshot()) {
        return Ok(topic);
    }
    let settings = shared.settings.current();
    let config = [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", "104857600")];
    let create = CreateTopic {
        name: CONSUMER_OFFSETS.into(),
        partitions: Some(i32::try_from(settings.offsets_partitions).unwrap_or(i32::MAX)),
        replication_factor: Some(i16::from(settings.offsets_replication_factor)),
        config: config.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        validate_only: false,
        internal: true,
    };
    match shared.local_broker()?.create_topic(create).await {
        Ok(_) => tracing::info!(topic = CONSUMER_OFFSETS, "created the topic of committed offsets"),
        Err(AdminError::TopicExists(_)) => {}
        Err(problem) => {
            tracing::warn!(topic = CONSUMER_OFFSETS, %problem, "cannot create the topic of committed offsets");
            return Err(Failure::new(ResponseError::CoordinatorNotAvailable, problem.to_string()));
        }
    }
    let snapshot = shared.wait_for_view(VIEW_PATIENCE, |snapshot| ready(snapshot).is_some()).await;
    ready(&snapshot).ok_or_else(unavailable)
}
