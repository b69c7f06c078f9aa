//! Requests as the message crate encodes them: with nothing in them, and with something in every field the version has.

use crate::kafka::message;
use bytes::Bytes;
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, DeleteGroupsRequest, DescribeClusterRequest, DescribeGroupsRequest,
        DescribeTopicPartitionsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, InitProducerIdRequest,
        JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, MetadataRequest, OffsetCommitRequest,
        OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest, TopicName, TransactionalId,
        describe_topic_partitions_request as describe_topics, join_group_request as join, leave_group_request as leave,
        metadata_request as metadata, offset_commit_request as commit, offset_delete_request as offset_delete,
        offset_fetch_request as offset_fetch, sync_group_request as sync,
    },
    protocol::{Decodable, Encodable, Request, StrBytes},
};
use uuid::Uuid;

mod data;

const ID: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic() -> TopicName {
    TopicName(text("orders"))
}

fn group() -> GroupId {
    GroupId(text("readers"))
}

fn body<M: Encodable>(message: M, version: i16) -> Bytes {
    message::encode(&message, version).expect("a sample of this version")
}

/// Defines what is the same for every API: its default request, and decoding it without the guard.
macro_rules! requests {
    ($($api:ident => $request:ident),* $(,)?) => {
        /// A request with nothing in it.
        pub(in crate::kafka) fn empty(key: ApiKey, version: i16) -> Bytes {
            match key {
                $(ApiKey::$api => body(kafka_protocol::messages::$request::default(), version),)*
                other => panic!("no sample of {other:?}"),
            }
        }

        /// What the message crate says to a body, without the guard.
        pub(in crate::kafka) fn decode(key: ApiKey, version: i16, body: &[u8]) -> Result<(), String> {
            let mut body = Bytes::copy_from_slice(body);
            let result = match key {
                $(ApiKey::$api => kafka_protocol::messages::$request::decode(&mut body, version).map(drop),)*
                other => panic!("no sample of {other:?}"),
            };
            result.map_err(|problem| problem.to_string())
        }

        /// Checks that a body is a response of an API and version, and nothing more.
        pub(in crate::kafka) fn check_response(key: ApiKey, version: i16, mut body: Bytes) -> Result<(), String> {
            let result = match key {
                $(ApiKey::$api => {
                    <kafka_protocol::messages::$request as Request>::Response::decode(&mut body, version).map(drop)
                })*
                other => panic!("no sample of {other:?}"),
            };
            result.map_err(|problem| problem.to_string())?;
            if body.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over", body.len())) }
        }
    };
}

requests! {
    Produce => ProduceRequest, Fetch => FetchRequest, ListOffsets => ListOffsetsRequest, Metadata => MetadataRequest,
    OffsetCommit => OffsetCommitRequest, OffsetFetch => OffsetFetchRequest, FindCoordinator => FindCoordinatorRequest,
    JoinGroup => JoinGroupRequest, Heartbeat => HeartbeatRequest, LeaveGroup => LeaveGroupRequest,
    SyncGroup => SyncGroupRequest, DescribeGroups => DescribeGroupsRequest, ListGroups => ListGroupsRequest,
    ApiVersions => ApiVersionsRequest, CreateTopics => CreateTopicsRequest, DeleteTopics => DeleteTopicsRequest,
    DeleteRecords => DeleteRecordsRequest, InitProducerId => InitProducerIdRequest,
    OffsetForLeaderEpoch => OffsetForLeaderEpochRequest, DescribeConfigs => DescribeConfigsRequest,
    AlterConfigs => AlterConfigsRequest, DescribeLogDirs => DescribeLogDirsRequest,
    CreatePartitions => CreatePartitionsRequest, DeleteGroups => DeleteGroupsRequest,
    IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
    ListPartitionReassignments => ListPartitionReassignmentsRequest, OffsetDelete => OffsetDeleteRequest,
    DescribeCluster => DescribeClusterRequest, DescribeTopicPartitions => DescribeTopicPartitionsRequest,
}

/// A request with something in every field.
pub(in crate::kafka) fn filled(key: ApiKey, version: i16) -> Bytes {
    match key {
        ApiKey::Metadata => metadata(version),
        ApiKey::ApiVersions => {
            let request = ApiVersionsRequest::default();
            let named = request.clone().with_client_software_name(text("test")).with_client_software_version(text("1"));
            body(if version >= 3 { named } else { request }, version)
        }
        ApiKey::FindCoordinator => find_coordinator(version),
        ApiKey::InitProducerId => init_producer_id(version),
        ApiKey::DescribeCluster => {
            let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
            body(if version >= 2 { request.with_include_fenced_brokers(true) } else { request }, version)
        }
        ApiKey::DescribeTopicPartitions => describe_topic_partitions(version),
        ApiKey::ListGroups => list_groups(version),
        ApiKey::DescribeGroups => {
            let request = DescribeGroupsRequest::default().with_groups(vec![group(), group()]);
            body(if version >= 3 { request.with_include_authorized_operations(true) } else { request }, version)
        }
        ApiKey::DeleteGroups => body(DeleteGroupsRequest::default().with_groups_names(vec![group(), group()]), version),
        ApiKey::Heartbeat => {
            let request = HeartbeatRequest::default().with_group_id(group()).with_member_id(text("m"));
            body(if version >= 3 { request.with_group_instance_id(Some(text("i"))) } else { request }, version)
        }
        ApiKey::JoinGroup => join_group(version),
        ApiKey::SyncGroup => sync_group(version),
        ApiKey::LeaveGroup => leave_group(version),
        ApiKey::OffsetCommit => offset_commit(version),
        ApiKey::OffsetFetch => offset_fetch(version),
        ApiKey::OffsetDelete => {
            let partition = offset_delete::OffsetDeleteRequestPartition::default().with_partition_index(3);
            let of = offset_delete::OffsetDeleteRequestTopic::default().with_name(topic());
            let request = OffsetDeleteRequest::default().with_group_id(group());
            body(request.with_topics(vec![of.with_partitions(vec![partition])]), version)
        }
        _ => data::filled(key, version),
    }
}

fn metadata(version: i16) -> Bytes {
    let named = metadata::MetadataRequestTopic::default().with_name(Some(topic()));
    let by_id = metadata::MetadataRequestTopic::default().with_name(None).with_topic_id(ID);
    let topics = if version >= 12 { vec![named, by_id] } else { vec![named] };
    let request = MetadataRequest::default().with_topics(Some(topics));
    let request = if version >= 4 { request.with_allow_auto_topic_creation(false) } else { request };
    let request = if version >= 8 { request.with_include_topic_authorized_operations(true) } else { request };
    let cluster = (8..=10).contains(&version);
    body(if cluster { request.with_include_cluster_authorized_operations(true) } else { request }, version)
}

fn find_coordinator(version: i16) -> Bytes {
    let request = FindCoordinatorRequest::default();
    let request = if version >= 1 { request.with_key_type(1) } else { request };
    let many = vec![text("readers"), text("others")];
    body(if version >= 4 { request.with_coordinator_keys(many) } else { request.with_key(text("readers")) }, version)
}

fn init_producer_id(version: i16) -> Bytes {
    let request = InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx"))));
    let request = request.with_transaction_timeout_ms(1000);
    body(if version >= 3 { request.with_producer_id(7.into()).with_producer_epoch(2) } else { request }, version)
}

fn describe_topic_partitions(version: i16) -> Bytes {
    let cursor = describe_topics::Cursor::default().with_topic_name(topic()).with_partition_index(1);
    let wanted = describe_topics::TopicRequest::default().with_name(topic());
    let request = DescribeTopicPartitionsRequest::default().with_topics(vec![wanted]).with_cursor(Some(cursor));
    body(request, version)
}

fn list_groups(version: i16) -> Bytes {
    let request = ListGroupsRequest::default();
    let request = if version >= 4 { request.with_states_filter(vec![text("Stable")]) } else { request };
    body(if version >= 5 { request.with_types_filter(vec![text("classic")]) } else { request }, version)
}

fn join_group(version: i16) -> Bytes {
    let protocol = join::JoinGroupRequestProtocol::default().with_name(text("range"));
    let protocol = protocol.with_metadata(Bytes::from_static(b"meta"));
    let request = JoinGroupRequest::default()
        .with_group_id(group())
        .with_member_id(text("m"))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let request = if version >= 1 { request.with_rebalance_timeout_ms(5) } else { request };
    let request = if version >= 5 { request.with_group_instance_id(Some(text("i"))) } else { request };
    body(if version >= 8 { request.with_reason(Some(text("why"))) } else { request }, version)
}

fn sync_group(version: i16) -> Bytes {
    let assignment = sync::SyncGroupRequestAssignment::default().with_member_id(text("m"));
    let assignment = assignment.with_assignment(Bytes::from_static(b"plan"));
    let request = SyncGroupRequest::default().with_group_id(group()).with_assignments(vec![assignment]);
    let request = if version >= 3 { request.with_group_instance_id(Some(text("i"))) } else { request };
    let named = |request: SyncGroupRequest| request.with_protocol_type(Some(text("consumer")));
    body(if version >= 5 { named(request).with_protocol_name(Some(text("range"))) } else { request }, version)
}

fn leave_group(version: i16) -> Bytes {
    let request = LeaveGroupRequest::default().with_group_id(group());
    if version < 3 {
        return body(request.with_member_id(text("m")), version);
    }
    let member = leave::MemberIdentity::default().with_member_id(text("m")).with_group_instance_id(Some(text("i")));
    let member = if version >= 5 { member.with_reason(Some(text("why"))) } else { member };
    body(request.with_members(vec![member]), version)
}

fn offset_commit(version: i16) -> Bytes {
    let partition = commit::OffsetCommitRequestPartition::default().with_partition_index(3).with_committed_offset(9);
    let partition = partition.with_committed_metadata(Some(text("note")));
    let partition = if version >= 6 { partition.with_committed_leader_epoch(4) } else { partition };
    let of = commit::OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default().with_group_id(group()).with_member_id(text("m")).with_topics(vec![of]);
    let request = if version <= 4 { request.with_retention_time_ms(1000) } else { request };
    body(if version >= 7 { request.with_group_instance_id(Some(text("i"))) } else { request }, version)
}

fn offset_fetch(version: i16) -> Bytes {
    let request = OffsetFetchRequest::default();
    let request = if version >= 7 { request.with_require_stable(true) } else { request };
    if version < 8 {
        let of = offset_fetch::OffsetFetchRequestTopic::default().with_name(topic()).with_partition_indexes(vec![1, 2]);
        return body(request.with_group_id(group()).with_topics(Some(vec![of])), version);
    }
    let of = offset_fetch::OffsetFetchRequestTopics::default().with_name(topic()).with_partition_indexes(vec![1, 2]);
    let wanted = offset_fetch::OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![of]));
    let member = version >= 9;
    let wanted = if member { wanted.with_member_id(Some(text("m"))).with_member_epoch(1) } else { wanted };
    body(request.with_groups(vec![wanted]), version)
}
