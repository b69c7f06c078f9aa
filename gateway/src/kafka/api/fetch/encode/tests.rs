//! The hand-written encoder against the message crate's, byte for byte, for every version.

use super::*;
use crate::kafka::message;
use kafka_protocol::{
    messages::{
        BrokerId, FetchResponse,
        fetch_response::{EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData},
    },
    protocol::StrBytes,
};
use protocol::id::Offset;

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("orders"))
}

fn fetched(batches: Vec<Bytes>, diverging: bool) -> FetchedPartition {
    FetchedPartition {
        high_watermark: Offset(20),
        last_stable: Offset(19),
        log_start: Offset(3),
        epoch: LeaderEpoch(2),
        diverging: diverging.then_some((LeaderEpoch(1), Offset(11))),
        batches,
    }
}

/// A partition with records in two slices, one with none, one that diverges, one with a new leader, one that failed.
fn partitions() -> Vec<PartitionAnswer> {
    let long = Bytes::from(vec![7; 300]);
    let results = vec![
        Ok(fetched(vec![Bytes::from_static(b"first"), long], false)),
        Ok(fetched(Vec::new(), false)),
        Ok(fetched(Vec::new(), true)),
        Err((6, Some((NodeId(2), LeaderEpoch(9))))),
        Err((1, None)),
    ];
    let indexed = results.into_iter().zip(0..);
    indexed.map(|(result, index)| PartitionAnswer { index, result }).collect()
}

fn answer(committed: bool) -> FetchAnswer {
    let topic = TopicAnswer { name: name(), id: ID, partitions: partitions() };
    let broker = |id, rack| Broker { id: BrokerId(id), host: StrBytes::from_static_str("h"), port: 9092, rack };
    let endpoints = vec![broker(2, None), broker(3, Some(StrBytes::from_static_str("r")))];
    FetchAnswer { error: 0, committed, topics: vec![topic], endpoints }
}

fn expected_partition(index: i32, version: i16, committed: bool) -> PartitionData {
    let ours = partitions().remove(usize::try_from(index).expect("small"));
    let data = PartitionData::default()
        .with_partition_index(index)
        .with_aborted_transactions(committed.then(Vec::new))
        .with_preferred_read_replica((-1).into());
    match ours.result {
        Ok(found) => {
            let records: Bytes = found.batches.concat().into();
            let data = data
                .with_high_watermark(20)
                .with_last_stable_offset(19)
                .with_log_start_offset(3)
                .with_records(Some(records));
            let end = EpochEndOffset::default().with_epoch(1).with_end_offset(11);
            if index == 2 && version >= FLEXIBLE_SINCE { data.with_diverging_epoch(end) } else { data }
        }
        Err((code, leader)) => {
            let data = data.with_error_code(code).with_high_watermark(-1).with_records(Some(Bytes::new()));
            let known = leader.filter(|_| version >= FLEXIBLE_SINCE).map(|(leader, epoch)| {
                LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader.0)).with_leader_epoch(epoch.0)
            });
            data.with_current_leader(known.unwrap_or_default())
        }
    }
}

fn expected(version: i16, committed: bool) -> Bytes {
    let partitions = (0..5).map(|index| expected_partition(index, version, committed)).collect();
    let topic = FetchableTopicResponse::default().with_partitions(partitions);
    let topic = if version >= 13 { topic.with_topic_id(ID) } else { topic.with_topic(name()) };
    let endpoint = |id: i32, rack| {
        let endpoint = NodeEndpoint::default().with_node_id(BrokerId(id)).with_host(StrBytes::from_static_str("h"));
        endpoint.with_port(9092).with_rack(rack)
    };
    let endpoints = vec![endpoint(2, None), endpoint(3, Some(StrBytes::from_static_str("r")))];
    let response = FetchResponse::default().with_responses(vec![topic]);
    let response = if version >= 16 { response.with_node_endpoints(endpoints) } else { response };
    message::encode(&response, version).expect("a response of this version")
}

#[test]
fn every_version_is_what_the_crate_encodes() {
    for version in 4..=18 {
        for committed in [false, true] {
            let ours = encode(answer(committed), version).concat();
            assert_eq!(Bytes::from(ours), expected(version, committed), "version {version}, committed {committed}");
        }
    }
}

#[test]
fn an_error_of_the_request_is_what_the_crate_encodes() {
    for version in 7..=18 {
        let ours = encode(FetchAnswer { error: 70, ..FetchAnswer::default() }, version).concat();
        let theirs = message::encode(&FetchResponse::default().with_error_code(70), version).expect("encodable");
        assert_eq!(Bytes::from(ours), theirs, "version {version}");
    }
}

#[test]
fn records_are_passed_on_and_not_copied() {
    let records = Bytes::from(vec![1; 1000]);
    let partition = PartitionAnswer { index: 0, result: Ok(fetched(vec![records.clone()], false)) };
    let topic = TopicAnswer { name: name(), id: ID, partitions: vec![partition] };
    let pieces = encode(FetchAnswer { topics: vec![topic], ..FetchAnswer::default() }, 12);
    assert!(pieces.iter().any(|piece| piece.as_ptr() == records.as_ptr() && piece.len() == records.len()));
}
