//! Administration through the service: topics, partitions, settings.

use super::{Desk, desk::create};
use protocol::{
    id::NodeId,
    model::{PartitionRecord, TopicRecord, decode, key, prefix},
    service::{
        broker::{
            AdminError, AlterConfig, BrokerService, ChangeOp, ConfigChange, ConfigResource, ConfigSource,
            CreatePartitions, DeleteTopic, DescribeConfig,
        },
        metadata::MetadataError,
    },
    testing::Fault,
    topic::TopicId,
};
use std::collections::BTreeMap;
use uuid::Uuid;

fn owners(desk: &Desk, topic: TopicId) -> BTreeMap<i32, usize> {
    let mut owners = BTreeMap::new();
    for item in desk.metadata.peek_all(&prefix::partitions_of(topic)) {
        let record: PartitionRecord = decode(&item.value).expect("a partition");
        *owners.entry(record.owner.expect("owned").node.0).or_default() += 1;
    }
    owners
}

#[tokio::test]
async fn partitions_are_spread_over_live_nodes_and_shown_at_once() {
    let desk = Desk::start().await;
    let _second = desk.another(2).await;
    let created = desk.broker.create_topic(create("wide", 10, &[])).await.expect("created");
    assert_eq!(owners(&desk, created.id), BTreeMap::from([(1, 5), (2, 5)]));
    let shown = desk.view.snapshot();
    assert_eq!(shown.topic("wide").map(|t| t.partitions.iter().flatten().count()), Some(10));
    assert!(!created.config.is_empty());
}

#[tokio::test]
async fn a_topic_of_many_partitions_appears_whole() {
    let desk = Desk::start().await;
    let created = desk.broker.create_topic(create("huge", 4_500, &[])).await.expect("created");
    assert_eq!(desk.metadata.peek_all(&prefix::partitions_of(created.id)).len(), 4_500);
    let more = CreatePartitions { name: "huge".into(), total: 7_000, validate_only: false };
    desk.broker.create_partitions(more).await.expect("added");
    assert_eq!(desk.view.snapshot().topic("huge").map(|t| t.partitions.iter().flatten().count()), Some(7_000));
}

#[tokio::test]
async fn creation_is_checked() {
    let desk = Desk::start().await;
    desk.broker.create_topic(create("taken", 1, &[])).await.expect("created");
    let refused = async |adjust: &dyn Fn(&mut protocol::service::broker::CreateTopic)| {
        let mut create = create("fresh", 1, &[]);
        adjust(&mut create);
        desk.broker.create_topic(create).await.expect_err("refused")
    };
    assert_eq!(refused(&|c| c.name = "taken".into()).await, AdminError::TopicExists("taken".into()));
    assert!(matches!(refused(&|c| c.name = "a/b".into()).await, AdminError::BadName(_)));
    assert!(matches!(refused(&|c| c.name = "__consumer_offsets".into()).await, AdminError::BadName(_)));
    assert!(matches!(refused(&|c| c.partitions = Some(0)).await, AdminError::BadPartitions(_)));
    assert!(matches!(refused(&|c| c.partitions = Some(100_001)).await, AdminError::BadPartitions(_)));
    assert!(matches!(refused(&|c| c.replication_factor = Some(0)).await, AdminError::BadReplicationFactor(_)));
    let unknown = refused(&|c| drop(c.config.insert("retention.msec".into(), "1".into()))).await;
    assert!(matches!(unknown, AdminError::BadConfig(_)), "{unknown:?}");
    let mut check = create("fresh", 3, &[]);
    check.validate_only = true;
    check.replication_factor = Some(32_767);
    let checked = desk.broker.create_topic(check).await.expect("legal");
    assert_eq!((checked.id, checked.partitions, checked.replication_factor), (TopicId(Uuid::nil()), 3, 255));
    assert!(desk.view.snapshot().topic("fresh").is_none());
}

#[tokio::test]
async fn defaults_apply_and_offsets_are_compacted() {
    let desk = Desk::start().await;
    let mut plain = create("plain", 1, &[]);
    (plain.partitions, plain.replication_factor) = (None, None);
    let created = desk.broker.create_topic(plain).await.expect("created");
    assert_eq!((created.partitions, created.replication_factor), (1, 3));
    let mut offsets = create("__consumer_offsets", 5, &[]);
    offsets.internal = true;
    desk.broker.create_topic(offsets).await.expect("created");
    let held = desk.view.snapshot().topic("__consumer_offsets").expect("shown").record.config.clone();
    assert_eq!(held.get("cleanup.policy").map(String::as_str), Some("compact"));
}

#[tokio::test]
async fn a_lost_answer_does_not_fail_a_creation_and_a_silent_service_says_so() {
    let desk = Desk::start().await;
    desk.metadata.faults().lose_next_answer();
    desk.broker.create_topic(create("once", 2, &[])).await.expect("created");
    let silent = MetadataError::Unavailable { reason: "no quorum".into() };
    desk.metadata.faults().always(Some(Fault::Refuse(silent)));
    let refused = desk.broker.create_topic(create("never", 1, &[])).await;
    assert!(matches!(refused, Err(AdminError::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn a_deleted_topic_is_gone_at_once_and_left_to_the_controller() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    desk.broker.delete_topic(DeleteTopic::Id(id.topic)).await.expect("deleted");
    assert!(desk.view.snapshot().topic("orders").is_none());
    let left: TopicRecord =
        decode(&desk.metadata.peek(&key::deleting(id.topic)).expect("left").value).expect("a topic record");
    assert_eq!(left.id, id.topic);
    let again = desk.broker.delete_topic(DeleteTopic::Name("orders".into())).await;
    assert_eq!(again, Err(AdminError::NoSuchTopic("orders".into())));
    let again = desk.broker.delete_topic(DeleteTopic::Id(id.topic)).await;
    assert_eq!(again, Err(AdminError::NoSuchTopicId(id.topic)));
    let fresh = desk.topic("orders", &[]).await;
    assert_ne!(fresh, id);
    assert_eq!(desk.write(fresh, &["b"]).await, 0);
}

#[tokio::test]
async fn partitions_only_grow() {
    let desk = Desk::start().await;
    desk.broker.create_topic(create("orders", 2, &[])).await.expect("created");
    let to = |name: &str, total, validate_only| {
        desk.broker.create_partitions(CreatePartitions { name: name.into(), total, validate_only })
    };
    assert!(matches!(to("orders", 2, false).await, Err(AdminError::BadPartitions(_))));
    assert!(matches!(to("orders", 1, false).await, Err(AdminError::BadPartitions(_))));
    assert_eq!(to("nothing", 3, false).await, Err(AdminError::NoSuchTopic("nothing".into())));
    assert_eq!(to("orders", 5, true).await, Ok(()));
    let count = || desk.view.snapshot().topic("orders").map(|t| t.partitions.iter().flatten().count());
    assert_eq!(count(), Some(2));
    assert_eq!(to("orders", 5, false).await, Ok(()));
    assert_eq!(count(), Some(5));
}

#[tokio::test]
async fn settings_change_are_described_and_fall_back() {
    let desk = Desk::start().await;
    desk.broker.create_topic(create("orders", 1, &[])).await.expect("created");
    let topic = || ConfigResource::Topic("orders".into());
    let all = || ConfigResource::Node(None);
    let alter = |resource, name: &str, op, value: Option<&str>| {
        let changes = vec![ConfigChange { name: name.into(), op, value: value.map(Into::into) }];
        desk.broker.alter_config(AlterConfig { resource, changes, replace: false, validate_only: false })
    };
    let value = async |resource, name: &str| {
        let entries = desk.broker.describe_config(DescribeConfig { resource }).await.expect("described");
        entries.into_iter().find(|e| e.name == name).map(|e| (e.value.unwrap_or_default(), e.source))
    };
    let week = ("604800000".to_owned(), ConfigSource::Default);
    assert_eq!(value(topic(), "retention.ms").await, Some(week.clone()));
    alter(topic(), "retention.ms", ChangeOp::Set, Some("1000")).await.expect("altered");
    assert_eq!(value(topic(), "retention.ms").await, Some(("1000".into(), ConfigSource::Topic)));
    alter(topic(), "retention.ms", ChangeOp::Delete, None).await.expect("altered");
    assert_eq!(value(topic(), "retention.ms").await, Some(week));
    alter(topic(), "cleanup.policy", ChangeOp::Append, Some("compact")).await.expect("altered");
    assert_eq!(value(topic(), "cleanup.policy").await.map(|v| v.0), Some("delete,compact".into()));
    let bad = alter(topic(), "retention.ms", ChangeOp::Set, Some("soon")).await;
    assert!(matches!(bad, Err(AdminError::BadConfig(_))), "{bad:?}");

    alter(all(), "log.retention.ms", ChangeOp::Set, Some("7000")).await.expect("altered");
    assert_eq!(value(topic(), "retention.ms").await.map(|v| v.0), Some("7000".into()));
    let own = value(ConfigResource::Node(Some(NodeId(1))), "log.retention.ms").await;
    assert_eq!(own, Some(("7000".into(), ConfigSource::DynamicDefault)));
    alter(ConfigResource::Node(Some(NodeId(1))), "log.retention.ms", ChangeOp::Set, Some("6000"))
        .await
        .expect("altered");
    let here = value(topic(), "retention.ms").await;
    assert_eq!(here, Some(("6000".into(), ConfigSource::DynamicNode)), "what is in force on this node is shown");
    let elsewhere = DescribeConfig { resource: ConfigResource::Node(Some(NodeId(9))) };
    assert!(desk.broker.describe_config(elsewhere).await.is_err());
    let fixed = alter(all(), "node.id", ChangeOp::Set, Some("5")).await;
    assert!(matches!(fixed, Err(AdminError::BadConfig(_))), "{fixed:?}");
}
