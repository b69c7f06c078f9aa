//! Metadata and administration: what clients see of the cluster, and what they can change.

use super::client::{Client, Running, text, topic};
use kafka_protocol::messages::{
    AlterConfigsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest, DescribeTopicPartitionsRequest,
    IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, MetadataRequest, MetadataResponse,
    alter_configs_request as replace,
    create_partitions_request::CreatePartitionsTopic,
    create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
    delete_topics_request::DeleteTopicState,
    describe_configs_request::DescribeConfigsResource,
    describe_topic_partitions_request::TopicRequest,
    incremental_alter_configs_request as change,
    metadata_request::MetadataRequestTopic,
};
use protocol::service::broker::AdminError;
use uuid::Uuid;

fn about(names: &[&str]) -> MetadataRequest {
    let topics = names.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic(name))));
    MetadataRequest::default().with_topics(Some(topics.collect()))
}

fn codes(answer: &MetadataResponse) -> Vec<i16> {
    answer.topics.iter().map(|topic| topic.error_code).collect()
}

#[tokio::test]
async fn metadata_shows_brokers_topics_and_leaders_in_every_version() {
    let running = Running::start(3).await;
    let id = running.cluster.create_topic("orders", 3);
    let mut client = running.connect().await;
    for version in 0..=13 {
        let answer = client.call(version, &MetadataRequest::default().with_topics((version == 0).then(Vec::new))).await;
        let ports: Vec<(i32, i32)> = answer.brokers.iter().map(|broker| (broker.node_id.0, broker.port)).collect();
        assert_eq!(ports, [(0, 9092), (1, 9093), (2, 9094)], "{version}");
        assert_eq!(codes(&answer), [0], "all topics in version {version}");
        let leaders: Vec<i32> = answer.topics[0].partitions.iter().map(|partition| partition.leader_id.0).collect();
        assert_eq!(leaders, [0, 1, 2], "{version}");
        if version >= 2 {
            assert_eq!(answer.cluster_id.as_deref(), Some("bWFnbmV0YXItdGVzdC0wMQ"));
        }
        if version >= 1 {
            assert_eq!(answer.controller_id, BrokerId(0));
            assert!(client.call(version, &about(&[])).await.topics.is_empty(), "none asked for, none answered");
        }
        if version >= 10 {
            assert_eq!(answer.topics[0].topic_id, id.0);
        }
    }
}

#[tokio::test]
async fn metadata_by_id_and_its_errors() {
    let running = Running::start(1).await;
    let id = running.cluster.create_topic("orders", 1);
    let mut client = running.connect().await;
    let by_id = |id| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    let request = MetadataRequest::default().with_topics(Some(vec![by_id(id.0), by_id(Uuid::from_u128(77))]));
    let answer = client.call(12, &request).await;
    assert_eq!(codes(&answer), [0, 100]);
    assert_eq!(answer.topics[0].name.as_ref().map(|name| name.as_str()), Some("orders"));
    let named = about(&["no spaces", "missing"]).with_allow_auto_topic_creation(false);
    assert_eq!(codes(&client.call(9, &named).await), [17, 3]);
}

#[tokio::test]
async fn topics_are_created_when_asked_for_and_allowed() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    let answer = client.call(9, &about(&["fresh"])).await;
    assert_eq!((codes(&answer), answer.topics[0].partitions.len()), (vec![0], 1), "created and served in one go");
    let old = client.call(3, &about(&["older"])).await;
    assert_eq!(codes(&old), [0], "versions before 4 cannot forbid it");
    running.cluster.broker(0).admin_faults().fail_next(AdminError::Unavailable("no quorum".into()));
    assert_eq!(codes(&client.call(9, &about(&["later"])).await), [5]);
    let forbidding = Running::with(1, &[("auto.create.topics.enable", "false")]).await;
    let mut client = forbidding.connect().await;
    assert_eq!(codes(&client.call(9, &about(&["fresh"])).await), [3]);
}

#[tokio::test]
async fn a_partition_without_a_live_owner_has_no_leader() {
    let running = Running::start(2).await;
    running.topic("orders", 2);
    running.cluster.remove_node(1);
    let mut client = running.connect().await;
    let answer = client.call(9, &about(&["orders"])).await;
    let partition = &answer.topics[0].partitions[1];
    assert_eq!((partition.error_code, partition.leader_id), (5, BrokerId(-1)));
    assert_eq!(partition.offline_replicas, [BrokerId(1)]);
    assert_eq!(answer.brokers.len(), 1);
}

#[tokio::test]
async fn the_cluster_describes_itself() {
    let running = Running::start(2).await;
    let mut client = running.connect().await;
    for version in 0..=2 {
        let answer = client.call(version, &DescribeClusterRequest::default()).await;
        assert_eq!((answer.error_code, answer.controller_id.0, answer.brokers.len()), (0, 0, 2));
        assert_eq!(&*answer.cluster_id, "bWFnbmV0YXItdGVzdC0wMQ");
    }
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    assert_eq!(client.call(1, &controllers).await.error_code, 114);
}

fn wanted(name: &str, partitions: i32) -> CreatableTopic {
    CreatableTopic::default().with_name(topic(name)).with_num_partitions(partitions).with_replication_factor(-1)
}

async fn created(client: &mut Client, version: i16, topics: Vec<CreatableTopic>) -> Vec<(String, i16)> {
    let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(5000);
    let answer = client.call(version, &request).await;
    answer.topics.into_iter().map(|topic| (topic.name.to_string(), topic.error_code)).collect()
}

#[tokio::test]
async fn topics_are_created_with_numbers_settings_or_assignments() {
    let running = Running::start(2).await;
    let mut client = running.connect().await;
    for version in 2..=7 {
        let name = format!("v{version}");
        assert_eq!(created(&mut client, version, vec![wanted(&name, 3)]).await, [(name, 0)]);
    }
    let assignment = |index, brokers: &[i32]| {
        let brokers = brokers.iter().copied().map(BrokerId).collect();
        CreatableReplicaAssignment::default().with_partition_index(index).with_broker_ids(brokers)
    };
    let by_hand = |assignments| wanted("by-hand", -1).with_assignments(assignments);
    let uneven = by_hand(vec![assignment(0, &[0]), assignment(1, &[0, 1])]);
    assert_eq!(created(&mut client, 5, vec![uneven]).await[0].1, 39);
    let both = by_hand(vec![assignment(0, &[0])]).with_num_partitions(1);
    assert_eq!(created(&mut client, 5, vec![both]).await[0].1, 42);
    let good = by_hand(vec![assignment(1, &[1, 0]), assignment(0, &[0, 1])]);
    assert_eq!(created(&mut client, 5, vec![good]).await[0].1, 0);
    let record = running.cluster.view().snapshot().topic("by-hand").expect("created").record.clone();
    assert_eq!((record.partitions, record.replication_factor), (2, 2));
    let config = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
    let answer = CreateTopicsRequest::default().with_topics(vec![wanted("set", 1).with_configs(vec![config])]);
    let answer = client.call(7, &answer).await;
    assert!(
        answer.topics[0].configs.as_ref().is_some_and(|configs| configs.iter().any(|c| &*c.name == "retention.ms"))
    );
    assert_ne!(answer.topics[0].topic_id, Uuid::nil());
}

#[tokio::test]
async fn bad_topics_are_refused_one_by_one() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    running.topic("taken", 1);
    let unset = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(None);
    let unknown = CreatableTopicConfig::default().with_name(text("no.such")).with_value(Some(text("1")));
    let topics = vec![
        wanted("taken", 1),
        wanted("none", 0),
        wanted("bad name", 1),
        wanted("__consumer_offsets", 1),
        wanted("factor", 1).with_replication_factor(0),
        wanted("unset", 1).with_configs(vec![unset]),
        wanted("unknown", 1).with_configs(vec![unknown]),
        wanted("twice", 1),
        wanted("twice", 1),
        wanted("good", 1),
    ];
    let answers: Vec<i16> = created(&mut client, 5, topics).await.into_iter().map(|(_, code)| code).collect();
    assert_eq!(answers, [36, 37, 17, 17, 38, 40, 40, 42, 0]);
    let request = CreateTopicsRequest::default().with_topics(vec![wanted("dry", 1)]).with_validate_only(true);
    assert_eq!(client.call(5, &request).await.topics[0].error_code, 0);
    assert!(running.cluster.view().snapshot().topic("dry").is_none());
}

#[tokio::test]
async fn topics_are_deleted_by_name_and_by_id() {
    let running = Running::start(1).await;
    let mut client = running.connect().await;
    for version in 1..=5 {
        running.topic("orders", 1);
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic("orders"), topic("missing")]);
        let answer = client.call(version, &request).await;
        let codes: Vec<i16> = answer.responses.iter().map(|response| response.error_code).collect();
        assert_eq!(codes, [0, 3], "{version}");
        assert!(running.cluster.view().snapshot().topic("orders").is_none());
    }
    let id = running.cluster.create_topic("orders", 1);
    let by_id = |id| DeleteTopicState::default().with_name(None).with_topic_id(id);
    let request = DeleteTopicsRequest::default().with_topics(vec![by_id(id.0), by_id(Uuid::from_u128(77))]);
    let answer = client.call(6, &request).await;
    let codes: Vec<i16> = answer.responses.iter().map(|response| response.error_code).collect();
    assert_eq!(codes, [0, 100]);
    let forbidding = Running::with(1, &[("delete.topic.enable", "false")]).await;
    let mut client = forbidding.connect().await;
    let request = DeleteTopicsRequest::default().with_topic_names(vec![topic("orders")]);
    assert_eq!(client.call(3, &request).await.responses[0].error_code, 73);
    assert_eq!(client.call(2, &request).await.responses[0].error_code, 42);
}

#[tokio::test]
async fn partitions_are_added_and_every_topic_is_answered() {
    let running = Running::start(1).await;
    running.topic("orders", 2);
    let mut client = running.connect().await;
    let grow = |name: &str, count| CreatePartitionsTopic::default().with_name(topic(name)).with_count(count);
    let topics = vec![grow("orders", 4), grow("missing", 4), grow("twice", 1), grow("twice", 2)];
    let answer = client.call(3, &CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(5000)).await;
    let codes: Vec<i16> = answer.results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, 3, 42]);
    assert_eq!(client.call(9, &about(&["orders"])).await.topics[0].partitions.len(), 4);
    let fewer = CreatePartitionsRequest::default().with_topics(vec![grow("orders", 1)]);
    assert_eq!(client.call(0, &fewer).await.results[0].error_code, 37);
}

#[tokio::test]
async fn settings_are_described_and_changed() {
    let running = Running::start(2).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    let set = change::AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
    let resource = |config| {
        let resource = change::AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("orders"));
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![config])])
    };
    assert_eq!(client.call(1, &resource(set.clone())).await.responses[0].error_code, 0);
    assert_eq!(client.call(1, &resource(set.clone().with_config_operation(9))).await.responses[0].error_code, 42);
    assert_eq!(client.call(0, &resource(set.with_value(None))).await.responses[0].error_code, 42);
    let described = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("orders"));
    let keys = |keys: &[&str]| Some(keys.iter().map(|key| text(key)).collect());
    for version in 1..=4 {
        let one = described.clone().with_configuration_keys(keys(&["retention.ms"]));
        let request = DescribeConfigsRequest::default().with_resources(vec![one, described.clone()]);
        let answer = client.call(version, &request).await;
        let value = answer.results[0].configs[0].value.as_deref();
        assert_eq!((answer.results[0].configs.len(), value), (1, Some("5")), "{version}");
        assert_eq!(answer.results[0].configs[0].config_source, 1);
        assert!(answer.results[1].configs.len() > 5, "null asks for everything");
    }
    let odd = |kind, name| DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name));
    let request = DescribeConfigsRequest::default().with_resources(vec![
        odd(2, "missing"),
        odd(4, "x"),
        odd(4, "99"),
        odd(32, "g"),
        odd(4, "1"),
        odd(4, "0"),
    ]);
    let answer = client.call(4, &request).await;
    let codes: Vec<i16> = answer.results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [3, 42, 42, 42, 0, 0]);
}

#[tokio::test]
async fn settings_are_replaced_as_a_whole() {
    let running = Running::start(1).await;
    running.topic("orders", 1);
    let mut client = running.connect().await;
    let resource = |name: &'static str, value: &'static str| {
        let config = replace::AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)));
        let resource =
            replace::AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("orders"));
        resource.with_configs(vec![config])
    };
    for (name, value) in [("retention.ms", "5"), ("segment.ms", "6")] {
        let request = AlterConfigsRequest::default().with_resources(vec![resource(name, value)]);
        assert_eq!(client.call(2, &request).await.responses[0].error_code, 0);
    }
    let config = running.cluster.view().snapshot().topic("orders").expect("there").record.config.clone();
    assert_eq!(config.into_iter().collect::<Vec<_>>(), [("segment.ms".to_owned(), "6".to_owned())]);
    let twice = vec![resource("retention.ms", "5"), resource("retention.ms", "6")];
    let answer = client.call(0, &AlterConfigsRequest::default().with_resources(twice)).await;
    assert_eq!((answer.responses[0].error_code, answer.responses[1].error_code), (0, 42));
}

#[tokio::test]
async fn topics_are_described_in_pages() {
    let running = Running::start(1).await;
    running.topic("a", 3);
    running.topic("b", 2);
    let mut client = running.connect().await;
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let request =
            DescribeTopicPartitionsRequest::default().with_response_partition_limit(2).with_cursor(cursor.take());
        let answer = client.call(0, &request).await;
        for of in answer.topics {
            let name = of.name.expect("named").to_string();
            seen.extend(of.partitions.iter().map(|partition| format!("{name}{}", partition.partition_index)));
        }
        let Some(next) = answer.next_cursor else { break };
        let at = kafka_protocol::messages::describe_topic_partitions_request::Cursor::default();
        cursor = Some(at.with_topic_name(next.topic_name).with_partition_index(next.partition_index));
    }
    assert_eq!(seen, ["a0", "a1", "a2", "b0", "b1"]);
    let missing = TopicRequest::default().with_name(topic("missing"));
    let answer = client.call(0, &DescribeTopicPartitionsRequest::default().with_topics(vec![missing])).await;
    assert_eq!(answer.topics[0].error_code, 3);
}

#[tokio::test]
async fn log_dirs_and_reassignments_are_answered() {
    let running = Running::start(1).await;
    running.topic("orders", 2);
    let mut client = running.connect().await;
    for version in 1..=4 {
        let answer = client.call(version, &DescribeLogDirsRequest::default().with_topics(None)).await;
        assert_eq!((answer.results.len(), answer.results[0].topics[0].partitions.len()), (1, 2), "{version}");
    }
    let answer = client.call(0, &ListPartitionReassignmentsRequest::default()).await;
    assert!(answer.topics.is_empty() && answer.error_code == 0);
}
