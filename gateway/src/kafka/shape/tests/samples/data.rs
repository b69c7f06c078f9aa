//! Samples of the APIs about records, topics and settings.

use super::{ID, body, text, topic};
use bytes::Bytes;
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiKey, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeConfigsRequest, DescribeLogDirsRequest, FetchRequest, IncrementalAlterConfigsRequest,
    ListOffsetsRequest, ListPartitionReassignmentsRequest, OffsetForLeaderEpochRequest, ProduceRequest,
    TransactionalId, alter_configs_request as alter, create_partitions_request as grow,
    create_topics_request as create, delete_records_request as trim, delete_topics_request as delete,
    describe_configs_request as describe, describe_log_dirs_request as log_dirs, fetch_request as fetch,
    incremental_alter_configs_request as change, list_offsets_request as offsets,
    list_partition_reassignments_request as moves, offset_for_leader_epoch_request as epochs,
    produce_request as produce,
};

pub(super) fn filled(key: ApiKey, version: i16) -> Bytes {
    match key {
        ApiKey::Produce => produce(version),
        ApiKey::Fetch => fetch(version),
        ApiKey::ListOffsets => list_offsets(version),
        ApiKey::OffsetForLeaderEpoch => {
            let partition = epochs::OffsetForLeaderPartition::default().with_partition(1).with_leader_epoch(2);
            let of = epochs::OffsetForLeaderTopic::default().with_topic(topic());
            let of = of.with_partitions(vec![partition.with_current_leader_epoch(3)]);
            body(OffsetForLeaderEpochRequest::default().with_topics(vec![of]), version)
        }
        ApiKey::CreateTopics => create_topics(version),
        ApiKey::DeleteTopics => delete_topics(version),
        ApiKey::DeleteRecords => {
            let partition = trim::DeleteRecordsPartition::default().with_partition_index(1).with_offset(5);
            let of = trim::DeleteRecordsTopic::default().with_name(topic()).with_partitions(vec![partition]);
            body(DeleteRecordsRequest::default().with_topics(vec![of]), version)
        }
        ApiKey::CreatePartitions => {
            let assignment = grow::CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
            let of = grow::CreatePartitionsTopic::default().with_name(topic()).with_count(8);
            let of = of.with_assignments(Some(vec![assignment]));
            body(CreatePartitionsRequest::default().with_topics(vec![of]), version)
        }
        ApiKey::DescribeConfigs => {
            let keys = Some(vec![text("retention.ms"), text("cleanup.policy")]);
            let resource = describe::DescribeConfigsResource::default().with_resource_type(2);
            let resource = resource.with_resource_name(text("orders")).with_configuration_keys(keys);
            let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
            body(if version >= 3 { request.with_include_documentation(true) } else { request }, version)
        }
        ApiKey::AlterConfigs => {
            let config = alter::AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1")));
            let resource = alter::AlterConfigsResource::default().with_resource_name(text("orders"));
            let resource = resource.with_configs(vec![config]);
            body(AlterConfigsRequest::default().with_resources(vec![resource]), version)
        }
        ApiKey::IncrementalAlterConfigs => {
            let config = change::AlterableConfig::default().with_name(text("retention.ms")).with_config_operation(1);
            let resource = change::AlterConfigsResource::default().with_resource_name(text("orders"));
            let resource = resource.with_configs(vec![config]);
            body(IncrementalAlterConfigsRequest::default().with_resources(vec![resource]), version)
        }
        ApiKey::DescribeLogDirs => {
            let of = log_dirs::DescribableLogDirTopic::default().with_topic(topic()).with_partitions(vec![0, 1]);
            body(DescribeLogDirsRequest::default().with_topics(Some(vec![of])), version)
        }
        ApiKey::ListPartitionReassignments => {
            let of = moves::ListPartitionReassignmentsTopics::default().with_name(topic());
            let of = of.with_partition_indexes(vec![0, 1]);
            body(ListPartitionReassignmentsRequest::default().with_topics(Some(vec![of])), version)
        }
        other => panic!("no sample of {other:?}"),
    }
}

fn produce(version: i16) -> Bytes {
    let partition = produce::PartitionProduceData::default().with_index(1);
    let partition = partition.with_records(Some(Bytes::from_static(b"records")));
    let of = produce::TopicProduceData::default().with_partition_data(vec![partition.clone(), partition]);
    let of = if version >= 13 { of.with_topic_id(ID) } else { of.with_name(topic()) };
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![of]);
    body(request.with_transactional_id(Some(TransactionalId(text("tx")))), version)
}

fn fetch(version: i16) -> Bytes {
    let partition = fetch::FetchPartition::default().with_partition(1).with_fetch_offset(5).with_partition_max_bytes(9);
    let partition = if version >= 5 { partition.with_log_start_offset(2) } else { partition };
    let partition = if version >= 9 { partition.with_current_leader_epoch(3) } else { partition };
    let partition = if version >= 12 { partition.with_last_fetched_epoch(3) } else { partition };
    let partition = if version >= 17 { partition.with_replica_directory_id(ID) } else { partition };
    let partition = if version >= 18 { partition.with_high_watermark(7) } else { partition };
    let of = fetch::FetchTopic::default().with_partitions(vec![partition]);
    let forgotten = fetch::ForgottenTopic::default().with_partitions(vec![4]);
    let (of, forgotten) = match version >= 13 {
        true => (of.with_topic_id(ID), forgotten.with_topic_id(ID)),
        false => (of.with_topic(topic()), forgotten.with_topic(topic())),
    };
    let request = FetchRequest::default().with_max_wait_ms(1).with_min_bytes(1).with_topics(vec![of]);
    let request = if version >= 7 { request.with_forgotten_topics_data(vec![forgotten]) } else { request };
    let request = if version >= 11 { request.with_rack_id(text("r1")) } else { request };
    let request = if version >= 12 { request.with_cluster_id(Some(text("abc"))) } else { request };
    let follower = fetch::ReplicaState::default().with_replica_id(BrokerId(2)).with_replica_epoch(3);
    body(if version >= 15 { request.with_replica_state(follower) } else { request }, version)
}

fn list_offsets(version: i16) -> Bytes {
    let partition = offsets::ListOffsetsPartition::default().with_partition_index(1).with_timestamp(-2);
    let partition = if version >= 4 { partition.with_current_leader_epoch(3) } else { partition };
    let of = offsets::ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_topics(vec![of]);
    let request = if version >= 2 { request.with_isolation_level(1) } else { request };
    body(if version >= 10 { request.with_timeout_ms(7) } else { request }, version)
}

fn create_topics(version: i16) -> Bytes {
    let assignment = create::CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(0), BrokerId(1)]);
    let config = create::CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("1")));
    let of = create::CreatableTopic::default().with_name(topic()).with_assignments(vec![assignment]);
    body(CreateTopicsRequest::default().with_topics(vec![of.with_configs(vec![config])]), version)
}

fn delete_topics(version: i16) -> Bytes {
    let request = DeleteTopicsRequest::default();
    if version < 6 {
        return body(request.with_topic_names(vec![topic(), topic()]), version);
    }
    let named = delete::DeleteTopicState::default().with_name(Some(topic()));
    let by_id = delete::DeleteTopicState::default().with_name(None).with_topic_id(ID);
    body(request.with_topics(vec![named, by_id]), version)
}
