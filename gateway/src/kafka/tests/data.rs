//! Produce, Fetch, ListOffsets and their kin: every error path, and what goes to which broker.

use super::{
    client::{Client, Running, text, topic},
    connections::produce,
};
use bytes::Bytes;
use kafka_protocol::messages::{
    DeleteRecordsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, ProduceResponse, TransactionalId,
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    fetch_request::{FetchPartition, FetchTopic},
    fetch_response::PartitionData,
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
    produce_request::{PartitionProduceData, TopicProduceData},
    produce_response::PartitionProduceResponse,
};
use protocol::{
    id::LeaderEpoch,
    service::{
        broker::{AppendError, FetchError, NotServed},
        metadata::MetadataError,
    },
    testing::batches,
};
use std::collections::BTreeSet;
use uuid::Uuid;

fn produce_to(name: &str, index: i32, records: Option<Bytes>) -> ProduceRequest {
    let partition = PartitionProduceData::default().with_index(index).with_records(records);
    let of = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![partition]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(5000).with_topic_data(vec![of])
}

fn only(mut answer: ProduceResponse) -> PartitionProduceResponse {
    assert_eq!((answer.responses.len(), answer.responses[0].partition_responses.len()), (1, 1));
    answer.responses.remove(0).partition_responses.remove(0)
}

async fn produced(client: &mut Client, request: &ProduceRequest) -> PartitionProduceResponse {
    only(client.call(10, request).await)
}

fn fetch(partitions: &[(&str, i32, i64, i32)]) -> FetchRequest {
    let of = |(name, index, offset, epoch): &(&str, i32, i64, i32)| {
        let partition = FetchPartition::default().with_partition(*index).with_fetch_offset(*offset);
        let partition = partition.with_partition_max_bytes(1 << 20).with_current_leader_epoch(*epoch);
        FetchTopic::default().with_topic(topic(name)).with_partitions(vec![partition])
    };
    let request = FetchRequest::default().with_max_bytes(1 << 20).with_topics(partitions.iter().map(of).collect());
    request.with_max_wait_ms(60_000).with_min_bytes(1)
}

async fn fetched(client: &mut Client, wanted: (&str, i32, i64, i32)) -> PartitionData {
    let mut answer = client.call(12, &fetch(&[wanted])).await;
    answer.responses.remove(0).partitions.remove(0)
}

#[tokio::test]
async fn produce_answers_every_version_with_the_offset() {
    let running = Running::start(1).await;
    let id = running.cluster.create_topic("orders", 1);
    let mut client = running.connect().await;
    for (offset, version) in (0..).zip(3..=13) {
        let mut request = produce("orders", -1, &["a"]);
        if version >= 13 {
            request.topic_data[0].topic_id = id.0;
        }
        let answer = only(client.call(version, &request).await);
        assert_eq!((answer.error_code, answer.base_offset, answer.log_append_time_ms), (0, offset, -1), "{version}");
    }
}

#[tokio::test]
async fn bad_produce_requests_name_every_partition_and_the_right_code() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    let batch = batches::plain(&["a"]);
    let twice: Bytes = [&batch[..], &batch[..]].concat().into();
    for (what, request, code) in [
        ("unknown topic", produce_to("missing", 0, Some(batch.clone())), 3),
        ("unknown partition", produce_to("orders", 7, Some(batch.clone())), 3),
        ("negative partition", produce_to("orders", -1, Some(batch.clone())), 3),
        ("no records", produce_to("orders", 0, None), 87),
        ("empty records", produce_to("orders", 0, Some(Bytes::new())), 87),
        ("two batches", produce_to("orders", 0, Some(twice)), 87),
        ("bad acks", produce_to("orders", 0, Some(batch.clone())).with_acks(2), 21),
        (
            "transaction",
            produce_to("orders", 0, Some(batch)).with_transactional_id(Some(TransactionalId(text("tx")))),
            53,
        ),
    ] {
        let answer = produced(&mut client, &request).await;
        assert_eq!((answer.error_code, answer.base_offset), (code, -1), "{what}");
        assert!(answer.error_message.is_some_and(|message| !message.is_empty()), "{what}");
    }
    assert!(running.cluster.log(running.cluster.partition("orders", 0)).is_empty());
}

#[tokio::test]
async fn a_name_of_any_length_fits_into_the_answer() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    let name = "x".repeat(32_000);
    let answer = only(client.call(8, &produce(&name, -1, &["a"])).await);
    assert_eq!(answer.error_code, 3);
    assert!(answer.error_message.is_some_and(|message| message.len() <= 1000));
}

#[tokio::test]
async fn produce_by_an_unknown_topic_id_says_so() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    let mut request = produce("", -1, &["a"]);
    request.topic_data[0].topic_id = Uuid::from_u128(77);
    assert_eq!(only(client.call(13, &request).await).error_code, 100);
}

#[tokio::test]
async fn errors_of_the_broker_reach_the_producer() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    let why = || "because".to_owned();
    let records = vec![(1, "null key".to_owned())];
    for (error, code) in [
        (AppendError::TooLarge { size: 2, limit: 1 }, 10),
        (AppendError::InvalidRecord { reason: why(), records }, 87),
        (AppendError::OutcomeUnknown { reason: why() }, 7),
        (AppendError::NotEnoughReplicas { available: 0, required: 1 }, 19),
        (NotServed::Opening.into(), 6),
    ] {
        running.cluster.broker(0).append_faults().fail_next(error.clone());
        let answer = produced(&mut client, &produce("orders", -1, &["a"])).await;
        assert_eq!(answer.error_code, code, "{error:?}");
        if code == 87 {
            assert_eq!(answer.record_errors[0].batch_index, 1);
        }
    }
}

#[tokio::test]
async fn an_append_that_hangs_is_answered_when_its_time_is_up() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    running.cluster.broker(0).append_faults().hang_next();
    let mut client = running.connect().await;
    let answer = produced(&mut client, &produce("orders", -1, &["a"]).with_timeout_ms(1)).await;
    assert_eq!(answer.error_code, 7);
}

#[tokio::test]
async fn a_partition_of_another_node_is_reached_through_this_gateway() {
    let running = Running::start(2).await;
    running.topic("orders", 2);
    let mut client = running.connect().await;
    let answer = produced(&mut client, &produce_to("orders", 1, Some(batches::plain(&["a"])))).await;
    assert_eq!((answer.error_code, answer.base_offset), (0, 0));
    assert_eq!(running.cluster.broker(1).appends().len(), 1, "forwarded to the owner");
    let answer = client.call(12, &fetch(&[("orders", 1, 0, -1)])).await;
    assert_eq!(answer.responses[0].partitions[0].high_watermark, 1);
}

#[tokio::test]
async fn a_broker_that_lost_the_partition_tells_who_has_it() {
    let running = Running::start(2).await;
    running.topic("orders", 1);
    let moved = || NotServed::NotOwner { owner: Some(protocol::id::NodeId(1)), epoch: LeaderEpoch(7) };
    let mut client = running.connect().await;
    running.cluster.broker(0).append_faults().fail_next(moved().into());
    let answer = client.call(10, &produce("orders", -1, &["a"])).await;
    let (endpoint, partition) = (&answer.node_endpoints[0], &answer.responses[0].partition_responses[0]);
    assert_eq!((partition.error_code, partition.current_leader.leader_id.0), (6, 1));
    assert_eq!((partition.current_leader.leader_epoch, endpoint.node_id.0, endpoint.port), (7, 1, 9093));
    running.cluster.broker(0).append_faults().fail_next(moved().into());
    let old = client.call(9, &produce("orders", -1, &["a"])).await;
    assert_eq!(old.responses[0].partition_responses[0].error_code, 6, "also where there is no room for the leader");
}

#[tokio::test]
async fn no_live_owner_is_not_leader() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    running.cluster.assign(running.cluster.partition("orders", 0), None);
    let mut client = running.connect().await;
    assert_eq!(produced(&mut client, &produce("orders", -1, &["a"])).await.error_code, 6);
    assert_eq!(fetched(&mut client, ("orders", 0, 0, -1)).await.error_code, 6);
}

#[tokio::test]
async fn fetch_answers_each_partition_in_request_order() {
    let running = Running::start(2).await;
    running.topic("orders", 2);
    let mut client = running.connect().await;
    drop(produced(&mut client, &produce_to("orders", 1, Some(batches::plain(&["a", "b"])))).await);
    let answer = client.call(12, &fetch(&[("orders", 1, 0, -1), ("missing", 0, 0, -1), ("orders", 0, 0, -1)])).await;
    let found: Vec<(i16, i64)> = answer
        .responses
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|p| (p.error_code, p.high_watermark)))
        .collect();
    assert_eq!((answer.error_code, answer.session_id), (0, 0));
    assert_eq!(found, [(0, 2), (3, -1), (0, 0)], "and does not wait, because one failed");
}

#[tokio::test]
async fn fetch_errors_have_codes_that_consumers_know() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    running.cluster.set_epoch(running.cluster.partition("orders", 0), LeaderEpoch(5));
    let mut client = running.connect().await;
    for (wanted, code) in [
        (("orders", 0, 9, -1), 1),
        (("orders", 0, 0, 4), 74),
        (("orders", 0, 0, 6), 75),
        (("orders", 3, 0, -1), 3),
        (("missing", 0, 0, -1), 3),
    ] {
        assert_eq!(fetched(&mut client, wanted).await.error_code, code, "{wanted:?}");
    }
    running.cluster.broker(0).fetch_faults().fail_next(FetchError::Storage { reason: "unreadable".into() });
    assert_eq!(fetched(&mut client, ("orders", 0, 0, -1)).await.error_code, 56);
    let mut by_id = fetch(&[("", 0, 0, -1)]);
    by_id.topics[0].topic_id = Uuid::from_u128(77);
    assert_eq!(client.call(13, &by_id).await.responses[0].partitions[0].error_code, 100);
}

#[tokio::test]
async fn sessions_are_declined() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    drop(produced(&mut client, &produce("orders", -1, &["a"])).await);
    let first = fetch(&[("orders", 0, 0, -1)]).with_session_epoch(0);
    assert_eq!(client.call(12, &first).await.session_id, 0);
    let next = fetch(&[]).with_session_id(5).with_session_epoch(1);
    assert_eq!(client.call(12, &next).await.error_code, 70);
}

#[tokio::test]
async fn offsets_are_listed_by_position_and_time() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    drop(produced(&mut client, &produce("orders", -1, &["a", "b"])).await);
    for (timestamp, expected) in
        [(-1, (0, 2)), (-2, (0, 0)), (-4, (0, 0)), (-5, (0, -1)), (-9, (35, -1)), (i64::MAX, (0, -1))]
    {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
        let of = ListOffsetsTopic::default().with_name(topic("orders")).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![of]);
        for version in 1..=10 {
            let answer = client.call(version, &request).await;
            let found = &answer.topics[0].partitions[0];
            assert_eq!((found.error_code, found.offset), expected, "{timestamp} in version {version}");
        }
    }
}

#[tokio::test]
async fn the_end_of_an_epoch_is_told() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    drop(produced(&mut client, &produce("orders", -1, &["a", "b"])).await);
    let ask = |name: &str| {
        let partition = OffsetForLeaderPartition::default().with_leader_epoch(0);
        let of = OffsetForLeaderTopic::default().with_topic(topic(name)).with_partitions(vec![partition]);
        OffsetForLeaderEpochRequest::default().with_topics(vec![of])
    };
    for version in 2..=4 {
        let answer = client.call(version, &ask("orders")).await;
        let end = &answer.topics[0].partitions[0];
        assert_eq!((end.error_code, end.leader_epoch, end.end_offset), (0, 0, 2), "{version}");
        assert_eq!(client.call(version, &ask("missing")).await.topics[0].partitions[0].error_code, 3);
    }
}

#[tokio::test]
async fn records_are_deleted_up_to_an_offset() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    for _ in 0..3 {
        drop(produced(&mut client, &produce("orders", -1, &["a"])).await);
    }
    for (offset, expected) in [(1, (0, 1)), (99, (1, -1)), (-7, (1, -1)), (-1, (0, 3))] {
        let partition = DeleteRecordsPartition::default().with_offset(offset);
        let of = DeleteRecordsTopic::default().with_name(topic("orders")).with_partitions(vec![partition]);
        let answer = client.call(2, &DeleteRecordsRequest::default().with_topics(vec![of])).await;
        let result = &answer.topics[0].partitions[0];
        assert_eq!((result.error_code, result.low_watermark), expected, "{offset}");
    }
}

#[tokio::test]
async fn producer_ids_never_repeat() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    let mut seen = BTreeSet::new();
    let idempotent = InitProducerIdRequest::default().with_transactional_id(None);
    for version in (0..=5).cycle().take(1005) {
        let answer = client.call(version, &idempotent).await;
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        assert!(seen.insert(answer.producer_id.0));
    }
    let failed = MetadataError::Unavailable { reason: "no quorum".into() };
    for _ in 0..1000 {
        running.metadata.fail_next(failed.clone());
        let answer = client.call(4, &idempotent).await;
        if answer.error_code != 0 {
            assert_eq!((answer.error_code, answer.producer_id.0), (15, -1));
            return;
        }
        assert!(seen.insert(answer.producer_id.0));
    }
    panic!("a block of ids ends after 1000");
}

#[tokio::test]
async fn transactions_are_refused_for_good() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    let request = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx"))));
    assert_eq!(client.call(4, &request).await.error_code, 53);
}
