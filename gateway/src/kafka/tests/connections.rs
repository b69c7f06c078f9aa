//! Frames, order, limits, and everything that closes a connection.

use super::client::{Running, frame, text, topic};
use bytes::BufMut;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, FetchRequest, MetadataRequest, ProduceRequest,
    fetch_request::{FetchPartition, FetchTopic},
    produce_request::{PartitionProduceData, TopicProduceData},
};
use kafka_protocol::protocol::Decodable;
use protocol::{id::Offset, service::broker::AppendError, testing::batches};
use std::time::Duration;

pub(super) fn produce(name: &str, acks: i16, values: &[&str]) -> ProduceRequest {
    let partition = PartitionProduceData::default().with_records(Some(batches::plain(values)));
    let of = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![partition]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(5000).with_topic_data(vec![of])
}

fn long_poll(name: &str, wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_partition_max_bytes(1000);
    let of = FetchTopic::default().with_topic(topic(name)).with_partitions(vec![partition]);
    FetchRequest::default().with_max_wait_ms(wait_ms).with_min_bytes(1).with_topics(vec![of])
}

#[tokio::test]
async fn answers_come_in_request_order_although_the_first_takes_longest() {
    let running = Running::start(1).await;
    let id = running.cluster.create_topic("orders", 1);
    let broker = running.cluster.broker(0);
    broker.append_faults().hold_answers();
    let mut client = running.connect().await;
    client.send(9, &produce("orders", -1, &["a"])).await;
    client.send(9, &produce("orders", 1, &["b"])).await;
    client.send(4, &MetadataRequest::default()).await;
    broker.append_faults().wait_held(2).await;
    broker.append_faults().release_answers();
    for offset in [0, 1] {
        let answer = client.receive::<ProduceRequest>(9).await;
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, offset));
    }
    assert_eq!(client.receive::<MetadataRequest>(4).await.brokers.len(), 1);
    assert!(broker.appends().iter().all(|append| append.partition.topic == id));
}

#[tokio::test]
async fn requests_cut_into_single_bytes_and_glued_together_are_the_same_requests() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    let body = super::client::encoded(&MetadataRequest::default().with_topics(None), 4);
    let one = frame(3, 4, 1, &body);
    for byte in &one {
        client.write(&[*byte]).await;
    }
    let glued = [frame(3, 4, 2, &body), frame(3, 4, 3, &body)].concat();
    client.write(&glued).await;
    for _ in 0..3 {
        client.expect_next();
        assert_eq!(client.receive::<MetadataRequest>(4).await.topics.len(), 1);
    }
}

#[tokio::test]
async fn a_large_request_is_read_whole_and_stored_byte_for_byte() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    let value = "x".repeat(700_000);
    for _ in 0..2 {
        client.send(9, &produce("orders", -1, &[&value])).await;
    }
    for offset in [0, 1] {
        let answer = client.receive::<ProduceRequest>(9).await;
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, offset);
    }
    let log = running.cluster.log(running.cluster.partition("orders", 0));
    let sent = batches::plain(&[&value]);
    assert_eq!(log[0][61..], sent[61..]);
}

#[tokio::test]
async fn acks_0_has_no_answer() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    client.send_silent(9, &produce("orders", 0, &["a"])).await;
    let answer = client.call(9, &produce("orders", 1, &["b"])).await;
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 1, "the first was appended");
}

#[tokio::test]
async fn a_failed_produce_with_acks_0_closes_the_connection() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    client.send_silent(9, &produce("missing", 0, &["a"])).await;
    assert!(client.is_closed().await);
    running.topic("orders", 1);
    running.cluster.broker(0).append_faults().fail_next(AppendError::Storage { reason: "full".into() });
    let mut client = running.connect().await;
    client.send_silent(9, &produce("orders", 0, &["a"])).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn bad_frames_close_the_connection_after_what_came_before_is_answered() {
    let running = Running::with(1, &[("socket.request.max.bytes", "1024")]).await;
    let produce_claim = {
        let mut body = bytes::BytesMut::new();
        body.put_slice(&[0xff, 0xff, 0, 1, 0, 0, 0, 9]);
        body.put_i32(i32::MAX);
        frame(0, 3, 9, &body)
    };
    let bad: [(&str, Vec<u8>); 10] = [
        ("negative length", vec![0xff, 0xff, 0xff, 0xff]),
        ("longer than the limit", vec![0, 0, 0x04, 0x01]),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("shorter than a header", vec![0, 0, 0, 3, 0, 3, 0]),
        ("unknown api", frame(9999, 0, 9, &[]).to_vec()),
        ("negative api", frame(-1, 0, 9, &[]).to_vec()),
        ("produce version 2", frame(0, 2, 9, &[0; 20]).to_vec()),
        ("metadata version 99", frame(3, 99, 9, &[]).to_vec()),
        ("cut body", frame(3, 4, 9, &[0, 0]).to_vec()),
        ("array of 2^31 - 1", produce_claim.to_vec()),
    ];
    for (what, bytes) in bad {
        let mut client = running.connect().await;
        client.send(4, &MetadataRequest::default()).await;
        client.write(&bytes).await;
        drop(client.receive::<MetadataRequest>(4).await);
        assert!(client.is_closed().await, "{what}");
    }
    let mut client = running.connect().await;
    drop(client.call(4, &MetadataRequest::default()).await);
}

#[tokio::test]
async fn api_versions_is_the_table_and_answers_any_version() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    let named =
        ApiVersionsRequest::default().with_client_software_name(text("t")).with_client_software_version(text("1"));
    for version in 0..=4 {
        let request = if version >= 3 { named.clone() } else { ApiVersionsRequest::default() };
        let answer = client.call(version, &request).await;
        let range = |key: i16| {
            let found = answer.api_keys.iter().find(|api| api.api_key == key);
            found.map(|api| (api.min_version, api.max_version))
        };
        assert_eq!(answer.error_code, 0);
        assert_eq!(range(ApiKey::Produce as i16), Some((0, 13)), "librdkafka compresses only if this begins at 0");
        assert_eq!(range(ApiKey::Fetch as i16), Some((4, 18)));
        assert_eq!(range(ApiKey::EndTxn as i16), None);
    }
    client.send_body(18, 77, &[]).await;
    let mut body = client.receive_body(18, 0).await;
    let answer = ApiVersionsResponse::decode(&mut body, 0).expect("version 0, whatever was asked");
    assert_eq!((answer.error_code, answer.api_keys.len()), (35, 1));
    assert_eq!((answer.api_keys[0].api_key, answer.api_keys[0].max_version), (18, 4));
    let unnamed = client.call(3, &ApiVersionsRequest::default().with_client_software_name(text("no name"))).await;
    assert_eq!(unnamed.error_code, 42);
}

#[tokio::test]
async fn a_connection_has_one_fetch_at_a_time() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let faults = running.cluster.broker(0);
    faults.fetch_faults().hold_answers();
    let mut client = running.connect().await;
    client.send(12, &long_poll("orders", 0)).await;
    client.send(12, &long_poll("orders", 0)).await;
    faults.fetch_faults().wait_held(1).await;
    let mut other = running.connect().await;
    drop(other.call(4, &MetadataRequest::default()).await);
    assert_eq!(faults.fetch_faults().held(), 1, "the second fetch waits for the answer to the first");
    faults.fetch_faults().release_answers();
    drop(client.receive::<FetchRequest>(12).await);
    drop(client.receive::<FetchRequest>(12).await);
}

#[tokio::test]
async fn a_parked_fetch_wakes_when_records_arrive() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut consumer = running.connect().await;
    consumer.send(12, &long_poll("orders", 60_000)).await;
    let mut producer = running.connect().await;
    drop(producer.call(9, &produce("orders", -1, &["a"])).await);
    let answer = consumer.receive::<FetchRequest>(12).await;
    let partition = &answer.responses[0].partitions[0];
    assert_eq!((partition.error_code, partition.high_watermark), (0, 1));
    assert!(partition.records.as_ref().is_some_and(|records| records.len() > 61));
}

#[tokio::test]
async fn when_the_budget_is_used_up_large_requests_wait_and_small_ones_pass() {
    let running =
        Running::with(1, &[("queued.max.request.bytes", "50000"), ("socket.request.max.bytes", "50000")]).await;
    running.topic("orders", 1);
    let broker = running.cluster.broker(0);
    broker.append_faults().hold_answers();
    let large = "x".repeat(30_000);
    let mut first = running.connect().await;
    first.send(9, &produce("orders", -1, &[&large])).await;
    broker.append_faults().wait_held(1).await;
    let mut second = running.connect().await;
    second.send(9, &produce("orders", -1, &[&large])).await;
    let mut third = running.connect().await;
    for _ in 0..20 {
        drop(third.call(4, &MetadataRequest::default()).await);
    }
    assert_eq!(broker.append_faults().held(), 1, "the second waits until the first is answered");
    broker.append_faults().release_answers();
    for client in [&mut first, &mut second] {
        assert_eq!(client.receive::<ProduceRequest>(9).await.responses[0].partition_responses[0].error_code, 0);
    }
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let running = Running::with(1, &[("connections.max.idle.ms", "50")]).await;
    running.topic("orders", 1);
    let mut busy = running.connect().await;
    busy.send(12, &long_poll("orders", 60_000)).await;
    let mut idle = running.connect().await;
    assert!(idle.is_closed().await);
    let mut producer = running.connect().await;
    drop(producer.call(9, &produce("orders", -1, &["a"])).await);
    assert_eq!(busy.receive::<FetchRequest>(12).await.responses.len(), 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let running = Running::with(1, &[("max.connections", "1")]).await;
    running.topic("orders", 1);
    let mut first = running.connect().await;
    drop(first.call(4, &MetadataRequest::default()).await);
    let mut second = running.connect().await;
    second.send(9, &produce("orders", -1, &["second"])).await;
    for offset in 0..20 {
        let answer = first.call(9, &produce("orders", -1, &["first"])).await;
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, offset, "only the first is served");
    }
    drop(first);
    let answer = second.receive::<ProduceRequest>(9).await;
    assert_eq!(answer.responses[0].partition_responses[0].base_offset, 20);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_although_an_answer_is_parked() {
    let running = Running::with(1, &[("max.connections", "1")]).await;
    running.topic("orders", 1);
    let mut first = running.connect().await;
    first.send(12, &long_poll("orders", 3_600_000)).await;
    drop(first);
    let mut second = running.connect().await;
    drop(second.call(4, &MetadataRequest::default()).await);
}

#[tokio::test]
async fn stopping_answers_what_was_started_and_accepts_no_more() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let broker = running.cluster.broker(0);
    broker.append_faults().hold_answers();
    let mut client = running.connect().await;
    client.send(9, &produce("orders", -1, &["a"])).await;
    broker.append_faults().wait_held(1).await;
    let stopping = running.gateway.stop(Duration::from_secs(20));
    let finish = async {
        broker.append_faults().release_answers();
        let answer = client.receive::<ProduceRequest>(9).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
        assert!(client.is_closed().await);
    };
    let (clean, ()) = tokio::join!(stopping, finish);
    assert!(clean);
    assert!(tokio::net::TcpStream::connect(running.gateway.local_addr()).await.is_err());
    assert_eq!(running.cluster.end(running.cluster.partition("orders", 0)), Offset(1));
}

#[tokio::test]
async fn stopping_cuts_off_what_does_not_end_by_the_deadline() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    running.cluster.broker(0).fetch_faults().hold_answers();
    client.send(12, &long_poll("orders", 0)).await;
    running.cluster.broker(0).fetch_faults().wait_held(1).await;
    assert!(!running.gateway.stop(Duration::from_millis(100)).await);
    assert!(client.is_closed().await);
}
