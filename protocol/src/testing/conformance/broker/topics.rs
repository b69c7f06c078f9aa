//! Administration of topics, partitions and settings.

use super::desk::Desk;
use crate::{
    id::Offset,
    service::broker::{
        AdminError, AlterConfig, AppendError, ChangeOp, ConfigChange, ConfigEntry, ConfigResource, ConfigSource,
        CreatePartitions, CreateTopic, DeleteTopic, DescribeConfig, NotServed, TopicCreated,
    },
    testing::{
        batches::plain,
        conformance::{until, within},
    },
    topic::{CONSUMER_OFFSETS, PartitionId, TopicId},
};
use uuid::Uuid;

pub(super) async fn check(desk: &Desk) {
    topics_are_created_once(desk).await;
    bad_topics_are_refused(desk).await;
    partitions_are_added(desk).await;
    settings_change(desk).await;
    topics_are_deleted(desk).await;
    status_is_exact(desk).await;
}

async fn create(desk: &Desk, create: CreateTopic) -> Result<TopicCreated, AdminError> {
    within("create", desk.0.create_topic(create)).await
}

async fn topics_are_created_once(desk: &Desk) {
    let wanted = Desk::creating("conformance-create", &[("retention.ms", "1000")]);
    let dry = create(desk, CreateTopic { validate_only: true, ..wanted.clone() }).await.expect("would work");
    assert_eq!((dry.id, dry.partitions), (TopicId(Uuid::nil()), 2));
    let created = create(desk, wanted.clone()).await.expect("nothing was created before");
    assert_ne!(created.id, dry.id);
    assert_eq!((created.partitions, created.replication_factor), (2, 1));
    let retention = created.config.iter().find(|entry| entry.name == "retention.ms").expect("listed");
    assert_eq!((retention.value.as_deref(), retention.source), (Some("1000"), ConfigSource::Topic));
    let exists = AdminError::TopicExists("conformance-create".into());
    assert_eq!(create(desk, wanted.clone()).await, Err(exists.clone()));
    assert_eq!(create(desk, CreateTopic { validate_only: true, ..wanted }).await, Err(exists));
    let defaults = CreateTopic {
        partitions: None,
        replication_factor: None,
        ..Desk::creating("conformance-create-defaults", &[])
    };
    let created = create(desk, defaults).await.expect("there are defaults");
    assert!(created.partitions >= 1 && created.replication_factor >= 1);
}

async fn bad_topics_are_refused(desk: &Desk) {
    let good = || Desk::creating("conformance-refused", &[]);
    for name in ["", ".", "a/b", &"x".repeat(250)] {
        let refused = create(desk, CreateTopic { name: name.into(), ..good() }).await;
        assert!(matches!(refused, Err(AdminError::BadName(_))), "{name}: {refused:?}");
    }
    for partitions in [0, -1] {
        let refused = create(desk, CreateTopic { partitions: Some(partitions), ..good() }).await;
        assert!(matches!(refused, Err(AdminError::BadPartitions(_))), "{refused:?}");
    }
    for replication_factor in [0, -1] {
        let refused = create(desk, CreateTopic { replication_factor: Some(replication_factor), ..good() }).await;
        assert!(matches!(refused, Err(AdminError::BadReplicationFactor(_))), "{refused:?}");
    }
    let config = [("no.such.setting".to_string(), "1".to_string())].into();
    let refused = create(desk, CreateTopic { config, ..good() }).await;
    assert!(matches!(refused, Err(AdminError::BadConfig(_))), "{refused:?}");
    let internal = create(desk, CreateTopic { name: CONSUMER_OFFSETS.into(), ..good() }).await;
    assert!(internal.is_err(), "internal names are not for clients");
    create(desk, good()).await.expect("nothing of that left a trace");
}

async fn partitions_are_added(desk: &Desk) {
    let p = desk.topic("conformance-partitions", &[]).await;
    let add = async |name: &str, total, validate_only| {
        let create = CreatePartitions { name: name.into(), total, validate_only };
        within("create partitions", desk.0.create_partitions(create)).await
    };
    let name = "conformance-partitions";
    for total in [-1, 0, 1, 2] {
        let refused = add(name, total, false).await;
        assert!(matches!(refused, Err(AdminError::BadPartitions(_))), "{total}: {refused:?}");
    }
    let nobody = AdminError::NoSuchTopic("conformance-nobody".into());
    assert_eq!(add("conformance-nobody", 3, false).await, Err(nobody));
    let third = PartitionId { index: 2, ..p };
    let absent = Err(AppendError::NotServed(NotServed::NoSuchPartition(third)));
    assert_eq!(add(name, 3, true).await, Ok(()));
    assert_eq!(desk.append(third, plain(&["a"])).await, absent, "only validated");
    assert_eq!(add(name, 3, false).await, Ok(()));
    desk.wait_served(third).await;
    assert_eq!(desk.append(third, plain(&["a"])).await, Ok(Offset(0)));
}

async fn describe(desk: &Desk, topic: &str) -> Result<Vec<ConfigEntry>, AdminError> {
    let describe = DescribeConfig { resource: ConfigResource::Topic(topic.into()) };
    within("describe", desk.0.describe_config(describe)).await
}

async fn settings_change(desk: &Desk) {
    let name = "conformance-settings";
    desk.topic(name, &[("segment.bytes", "1048576")]).await;
    let alter = async |changes: &[(&str, ChangeOp, Option<&str>)], replace, validate_only| {
        let change = |&(name, op, value): &(&str, ChangeOp, Option<&str>)| ConfigChange {
            name: name.into(),
            op,
            value: value.map(Into::into),
        };
        let changes = changes.iter().map(change).collect();
        let resource = ConfigResource::Topic(name.into());
        within("alter", desk.0.alter_config(AlterConfig { resource, changes, replace, validate_only })).await
    };
    let value = async |setting: &'static str| {
        let entries = describe(desk, name).await.expect("described");
        let entry = entries.into_iter().find(|e| e.name == setting).expect("every setting is listed");
        (entry.value.unwrap_or_default(), entry.source)
    };
    let becomes = async |setting: &'static str, wanted: &str, source| {
        until("the change shows", async || (value(setting).await == (wanted.into(), source)).then_some(())).await;
    };
    let default = value("retention.ms").await;
    assert_ne!(default.1, ConfigSource::Topic);
    assert_eq!(alter(&[("retention.ms", ChangeOp::Set, Some("1000"))], false, true).await, Ok(()));
    assert_eq!(value("retention.ms").await, default, "only validated");
    assert_eq!(alter(&[("retention.ms", ChangeOp::Set, Some("1000"))], false, false).await, Ok(()));
    becomes("retention.ms", "1000", ConfigSource::Topic).await;
    assert_eq!(value("segment.bytes").await.1, ConfigSource::Topic, "others stay");
    let bad = [("retention.ms", ChangeOp::Set, Some("2000")), ("no.such", ChangeOp::Set, Some("1"))];
    assert!(matches!(alter(&bad, false, false).await, Err(AdminError::BadConfig(_))));
    assert_eq!(value("retention.ms").await.0, "1000", "all or none");
    assert_eq!(alter(&[("cleanup.policy", ChangeOp::Append, Some("compact"))], false, false).await, Ok(()));
    becomes("cleanup.policy", "delete,compact", ConfigSource::Topic).await;
    assert_eq!(alter(&[("cleanup.policy", ChangeOp::Subtract, Some("delete"))], false, false).await, Ok(()));
    becomes("cleanup.policy", "compact", ConfigSource::Topic).await;
    assert_eq!(alter(&[("retention.ms", ChangeOp::Delete, None)], false, false).await, Ok(()));
    becomes("retention.ms", &default.0, default.1).await;
    assert_eq!(alter(&[("retention.ms", ChangeOp::Set, Some("5"))], true, false).await, Ok(()));
    becomes("retention.ms", "5", ConfigSource::Topic).await;
    assert_ne!(value("segment.bytes").await.1, ConfigSource::Topic, "what is not named falls back");
    let nobody = AdminError::NoSuchTopic("conformance-nobody".into());
    assert_eq!(describe(desk, "conformance-nobody").await, Err(nobody));
}

async fn topics_are_deleted(desk: &Desk) {
    let delete = async |which| within("delete", desk.0.delete_topic(which)).await;
    let name = || DeleteTopic::Name("conformance-delete".into());
    let p = desk.topic("conformance-delete", &[]).await;
    desk.append(p, plain(&["a"])).await.expect("appends");
    assert_eq!(delete(name()).await, Ok(()));
    assert_eq!(delete(name()).await, Err(AdminError::NoSuchTopic("conformance-delete".into())));
    assert_eq!(delete(DeleteTopic::Id(p.topic)).await, Err(AdminError::NoSuchTopicId(p.topic)));
    let gone = Err(AppendError::NotServed(NotServed::NoSuchPartition(p)));
    until("it is no longer served", async || (desk.append(p, plain(&["b"])).await == gone).then_some(())).await;
    let again = desk.topic("conformance-delete", &[]).await;
    assert_ne!(again.topic, p.topic, "a name may come back, an identity never does");
    assert_eq!(desk.append(again, plain(&["a"])).await, Ok(Offset(0)));
    assert_eq!(delete(DeleteTopic::Id(again.topic)).await, Ok(()));
}

async fn status_is_exact(desk: &Desk) {
    let p = desk.topic("conformance-status", &[]).await;
    let status = async |only| within("status", desk.0.partition_status(only)).await.expect("answers");
    for _ in 0..3 {
        desk.append(p, plain(&["a", "b"])).await.expect("appends");
    }
    desk.delete_to(p, Some(1)).await.expect("deletes");
    let found = status(vec![p]).await;
    assert_eq!(found.len(), 1, "only what was asked for");
    assert_eq!((found[0].partition, found[0].topic.as_str()), (p, "conformance-status"));
    assert_eq!((found[0].log_start, found[0].high_watermark), (Offset(1), Offset(6)));
    assert_eq!(found[0].epoch, desk.epoch_at(p, 1).await);
    assert!(found[0].bytes > 0 && found[0].ledgers >= 1 && found[0].copies >= 1);
    let all = status(Vec::new()).await;
    assert!(all.len() > 1 && all.iter().any(|s| s.partition == p), "all of them if none is named");
}
