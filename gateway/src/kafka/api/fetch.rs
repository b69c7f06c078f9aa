//! Fetch: limits and long polling are the broker's; this file routes partitions to their owners and puts the answers
//! back into request order. Record data passes through as slices ([`encode`]).
//!
//! There are no fetch sessions: session id 0 in the answer says so, and clients then name every partition each time.

mod encode;

use super::Made;
use crate::kafka::{
    cluster::{self, Broker},
    context::TopicRef,
    error::Failure,
    request::{Call, Handled, Outcome, Request},
};
use encode::{FetchAnswer, PartitionAnswer, TopicAnswer};
use kafka_protocol::{
    ResponseError,
    messages::{FetchRequest, fetch_request, fetch_request::FetchTopic},
};
use protocol::{
    cluster::ClusterSnapshot,
    id::{LeaderEpoch, NodeId, Offset},
    service::broker::{Fetch, FetchError, FetchPartition, Fetched, FetchedPartition, Isolation},
};
use std::time::Duration;

/// The first version that names topics by identity.
const TOPIC_IDS_SINCE: i16 = 13;
/// The first version whose answer says where new leaders are (KIP-951).
const ENDPOINTS_SINCE: i16 = 16;

/// The longest a fetch is parked, whatever the client asks for: its connection is not read meanwhile if more fetches wait.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// A fetch on the way to one broker: which partitions of the request it serves, by position over all topics.
struct Leg {
    node: NodeId,
    positions: Vec<usize>,
    partitions: Vec<FetchPartition>,
}

/// Handles Fetch.
pub(crate) fn handle(request: Request) -> Handled {
    let message: FetchRequest = request.decode()?;
    let call = request.call;
    if message.session_id != 0 && message.session_epoch > 0 {
        let failure = Failure::new(ResponseError::FetchSessionIdNotFound, "this gateway keeps no fetch sessions");
        let answer = FetchAnswer { error: call.code(&failure), ..FetchAnswer::default() };
        return Ok(Box::pin(std::future::ready(Outcome::Send(encode::encode(answer, call.version)))));
    }
    let snapshot = call.shared.view.snapshot();
    let mut results: Vec<Option<Result<FetchedPartition, Failure>>> = Vec::new();
    let mut legs: Vec<Leg> = Vec::new();
    for topic in &message.topics {
        for partition in &topic.partitions {
            let routed = route(&call, &snapshot, topic, partition, results.len(), &mut legs);
            results.push(routed.err().map(Err));
        }
    }
    let asks = legs_to_fetches(&call, &message, legs, results.iter().any(Option::is_some));
    let calls: Vec<(Vec<usize>, Made<Fetched, FetchError>)> = asks
        .into_iter()
        .map(|(node, positions, fetch)| (positions, call.shared.broker(node).map(|broker| broker.fetch(fetch))))
        .collect();
    Ok(Box::pin(async move {
        for (positions, made) in calls {
            place(&mut results, &positions, super::settle(made).await);
        }
        let answer = assemble(&call, message, results);
        Outcome::Send(encode::encode(answer, call.version))
    }))
}

fn route(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topic: &FetchTopic,
    partition: &fetch_request::FetchPartition,
    position: usize,
    legs: &mut Vec<Leg>,
) -> Result<(), Failure> {
    let reference = if call.version >= TOPIC_IDS_SINCE {
        TopicRef::Id(topic.topic_id)
    } else {
        TopicRef::Name(topic.topic.as_str())
    };
    let (id, node) = call.shared.locate(snapshot, reference, partition.partition)?;
    let epoch = |epoch: i32| (epoch >= 0).then_some(LeaderEpoch(epoch));
    let ask = FetchPartition {
        partition: id,
        offset: Offset(partition.fetch_offset),
        max_bytes: u32::try_from(partition.partition_max_bytes).unwrap_or(0),
        current_epoch: epoch(partition.current_leader_epoch),
        last_fetched_epoch: epoch(partition.last_fetched_epoch),
    };
    match legs.iter_mut().find(|leg| leg.node == node) {
        Some(leg) => {
            leg.positions.push(position);
            leg.partitions.push(ask);
        }
        None => legs.push(Leg { node, positions: vec![position], partitions: vec![ask] }),
    }
    Ok(())
}

/// Completes the requests to the brokers. A partition that has failed already ends the waiting: the answer is due at once.
fn legs_to_fetches(
    call: &Call,
    message: &FetchRequest,
    legs: Vec<Leg>,
    failed: bool,
) -> Vec<(NodeId, Vec<usize>, Fetch)> {
    let settings = call.shared.settings.current();
    let asked = u32::try_from(message.max_bytes).unwrap_or(0).min(settings.fetch_max_bytes);
    let max_bytes = u32::try_from(call.shared.budget.fetch_allowance(asked as usize)).unwrap_or(asked);
    let wait = Duration::from_millis(u64::try_from(message.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let max_wait = if failed { Duration::ZERO } else { wait };
    let min_bytes = u32::try_from(message.min_bytes).unwrap_or(0).min(max_bytes);
    let isolation = if message.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let fetch = |partitions| Fetch { partitions, max_wait, min_bytes, max_bytes, isolation };
    legs.into_iter().map(|leg| (leg.node, leg.positions, fetch(leg.partitions))).collect()
}

/// Puts the results of one broker where they belong.
fn place(
    results: &mut [Option<Result<FetchedPartition, Failure>>],
    positions: &[usize],
    outcome: Result<Fetched, Failure>,
) {
    match outcome {
        Ok(fetched) => {
            for (position, result) in positions.iter().zip(fetched.partitions) {
                results[*position] = Some(result.map_err(Failure::from));
            }
        }
        Err(failure) => {
            for position in positions {
                results[*position] = Some(Err(failure.clone()));
            }
        }
    }
}

fn assemble(
    call: &Call,
    message: FetchRequest,
    results: Vec<Option<Result<FetchedPartition, Failure>>>,
) -> FetchAnswer {
    let unanswered = || Failure::new(ResponseError::NotLeaderOrFollower, "the broker left the partition out");
    let mut results = results.into_iter().map(|result| result.unwrap_or_else(|| Err(unanswered())));
    let mut leaders: Vec<NodeId> = Vec::new();
    let mut topics = Vec::with_capacity(message.topics.len());
    for topic in message.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (asked, result) in topic.partitions.iter().zip(&mut results) {
            let result = result.map_err(|failure| {
                leaders.extend(failure.leader.map(|(leader, _)| leader));
                (call.code(&failure), failure.leader)
            });
            partitions.push(PartitionAnswer { index: asked.partition, result });
        }
        topics.push(TopicAnswer { name: topic.topic, id: topic.topic_id, partitions });
    }
    let committed = message.isolation_level == 1;
    FetchAnswer { error: 0, committed, topics, endpoints: endpoints(call, leaders) }
}

/// Where the leaders that were named can be reached.
fn endpoints(call: &Call, mut leaders: Vec<NodeId>) -> Vec<Broker> {
    if call.version < ENDPOINTS_SINCE || leaders.is_empty() {
        return Vec::new();
    }
    leaders.sort_unstable();
    leaders.dedup();
    let snapshot = call.shared.view.snapshot();
    leaders.into_iter().filter_map(|id| cluster::find_broker(&call.shared, &snapshot, id)).collect()
}
