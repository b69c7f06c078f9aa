//! Produce: one record batch per partition, sliced out of the request, to the broker that owns the partition.
//!
//! All appends are made before the handler returns, so that batches of a connection reach each partition in the order
//! they were sent. acks=1 answers like acks=all: synced. A failure of a whole request still lists every partition.

use super::Made;
use crate::kafka::{
    cluster,
    context::TopicRef,
    error::Failure,
    request::{Call, Handled, Outcome, Request},
};
use bytes::Bytes;
use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, ProduceRequest, ProduceResponse, TopicName,
        produce_request::TopicProduceData,
        produce_response::{
            BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
        },
    },
    protocol::StrBytes,
};
use protocol::{
    cluster::ClusterSnapshot,
    id::{NodeId, Timestamp},
    record_batch::RecordBatch,
    service::broker::{Append, AppendError, Appended, Origin},
};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// The least time an append gets, whatever the request says: a sync takes a moment.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The first version that names topics by identity.
const TOPIC_IDS_SINCE: i16 = 13;
/// The first version that tells who the new leader is (KIP-951).
const LEADER_SINCE: i16 = 10;

struct StartedTopic {
    name: TopicName,
    id: Uuid,
    partitions: Vec<(i32, Made<Appended, AppendError>)>,
}

/// Handles Produce.
pub(crate) fn handle(request: Request) -> Handled {
    let message: ProduceRequest = request.decode()?;
    let call = request.call;
    let refusal = refuse_all(&message);
    let snapshot = call.shared.view.snapshot();
    let silent = message.acks == 0;
    let patience = Duration::from_millis(u64::try_from(message.timeout_ms).unwrap_or(0)).max(MIN_TIMEOUT);
    let started: Vec<StartedTopic> =
        message.topic_data.into_iter().map(|topic| start_topic(&call, &snapshot, topic, refusal.as_ref())).collect();
    if silent {
        return Ok(Box::pin(answer_nothing(call, started, patience)));
    }
    let later = call.clone();
    Ok(later.later(answer(call, started, patience)))
}

/// Why no partition of the request can be written.
fn refuse_all(message: &ProduceRequest) -> Option<Failure> {
    if !matches!(message.acks, -1..=1) {
        let text = format!("acks must be -1 (all), 0 or 1, not {}", message.acks);
        return Some(Failure::new(ResponseError::InvalidRequiredAcks, text));
    }
    message.transactional_id.as_ref().map(|_| AppendError::TransactionsUnsupported.into())
}

fn start_topic(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topic: TopicProduceData,
    refusal: Option<&Failure>,
) -> StartedTopic {
    let reference = if call.version >= TOPIC_IDS_SINCE {
        TopicRef::Id(topic.topic_id)
    } else {
        TopicRef::Name(topic.name.as_str())
    };
    let start = |index: i32, records: Option<Bytes>| match refusal {
        Some(failure) => Err(failure.clone()),
        None => append(call, snapshot, reference, index, records),
    };
    let partitions = topic.partition_data.into_iter().map(|p| (p.index, start(p.index, p.records))).collect();
    StartedTopic { name: topic.name, id: topic.topic_id, partitions }
}

fn append(
    call: &Call,
    snapshot: &ClusterSnapshot,
    topic: TopicRef<'_>,
    index: i32,
    records: Option<Bytes>,
) -> Made<Appended, AppendError> {
    let batches = records.filter(|records| !records.is_empty()).ok_or_else(|| {
        Failure::new(ResponseError::InvalidRecord, "a produce request holds one record batch per partition, not none")
    })?;
    // A batch that is cut short or of an old format is the broker's to judge; only their number is ours.
    if RecordBatch::first(&batches).is_ok_and(|first| first.bytes().len() < batches.len()) {
        let text = "a produce request holds one record batch per partition, not several";
        return Err(Failure::new(ResponseError::InvalidRecord, text));
    }
    let (partition, broker) = call.shared.route(snapshot, topic, index)?;
    Ok(broker.append(Append { partition, batches, epoch: None, origin: Origin::Client }))
}

async fn settle_by(deadline: Instant, made: Made<Appended, AppendError>) -> Result<Appended, Failure> {
    match timeout_at(deadline, made?).await {
        Ok(outcome) => outcome.map_err(Failure::from),
        Err(_) => {
            let text = "the records were not synced in time; they may still be";
            Err(Failure::new(ResponseError::RequestTimedOut, text))
        }
    }
}

/// acks=0: no response, but an error closes the connection so that the client looks for the leader again.
async fn answer_nothing(call: Call, started: Vec<StartedTopic>, patience: Duration) -> Outcome {
    let deadline = Instant::now() + patience;
    let mut outcome = Outcome::Nothing;
    for (_, made) in started.into_iter().flat_map(|topic| topic.partitions) {
        if let Err(failure) = settle_by(deadline, made).await {
            call.code(&failure);
            tracing::debug!(reason = %failure.message, "closing the connection of a failed produce request with acks=0");
            outcome = Outcome::Close;
        }
    }
    outcome
}

async fn answer(call: Call, started: Vec<StartedTopic>, patience: Duration) -> ProduceResponse {
    let deadline = Instant::now() + patience;
    let mut leaders = Vec::new();
    let mut responses = Vec::with_capacity(started.len());
    for StartedTopic { name, id, partitions } in started {
        let mut answers = Vec::with_capacity(partitions.len());
        for (index, made) in partitions {
            let outcome = settle_by(deadline, made).await;
            if let Err(Failure { leader: Some((leader, _)), .. }) = &outcome {
                leaders.push(*leader);
            }
            answers.push(partition_response(&call, index, outcome));
        }
        let response = TopicProduceResponse::default().with_partition_responses(answers);
        responses.push(match call.version >= TOPIC_IDS_SINCE {
            true => response.with_topic_id(id),
            false => response.with_name(name),
        });
    }
    let response = ProduceResponse::default().with_responses(responses);
    if call.version >= LEADER_SINCE { response.with_node_endpoints(endpoints(&call, leaders)) } else { response }
}

fn partition_response(call: &Call, index: i32, outcome: Result<Appended, Failure>) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index);
    let failure = match outcome {
        Ok(done) => {
            return response
                .with_base_offset(done.base_offset.0)
                .with_log_append_time_ms(done.log_append_time.unwrap_or(Timestamp::NONE).0)
                .with_log_start_offset(done.log_start.0);
        }
        Err(failure) => failure,
    };
    let (code, message) = call.refuse(&failure);
    let text = |text: &String| Some(StrBytes::from_string(text.clone()));
    let blame = |(at, why): &(i32, String)| {
        BatchIndexAndErrorMessage::default().with_batch_index(*at).with_batch_index_error_message(text(why))
    };
    let response = response
        .with_error_code(code)
        .with_error_message(message)
        .with_base_offset(-1)
        .with_record_errors(failure.records.iter().map(blame).collect());
    match failure.leader.filter(|_| call.version >= LEADER_SINCE) {
        Some((leader, epoch)) => {
            let id = BrokerId(leader.0);
            response.with_current_leader(LeaderIdAndEpoch::default().with_leader_id(id).with_leader_epoch(epoch.0))
        }
        None => response,
    }
}

/// Where the leaders that were named can be reached.
fn endpoints(call: &Call, mut leaders: Vec<NodeId>) -> Vec<NodeEndpoint> {
    leaders.sort_unstable();
    leaders.dedup();
    let snapshot = call.shared.view.snapshot();
    let found = leaders.into_iter().filter_map(|id| cluster::find_broker(&call.shared, &snapshot, id));
    found
        .map(|b| NodeEndpoint::default().with_node_id(b.id).with_host(b.host).with_port(b.port).with_rack(b.rack))
        .collect()
}
