//! Administration of a fake cluster: Kafka's checks, without policies and without a catalogue of settings.

use super::cluster::State;
use crate::{
    id::NodeId,
    service::broker::{
        AdminError, AlterConfig, ChangeOp, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, CreatePartitions,
        CreateTopic, DeleteTopic, DescribeConfig, PartitionStatus, TopicCreated,
    },
    topic::{PartitionId, TopicId, TopicName},
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// The settings the fake knows, and their defaults.
const KNOWN: [(&str, &str); 9] = [
    ("cleanup.policy", "delete"),
    ("compression.type", "producer"),
    ("max.message.bytes", "1048588"),
    ("message.timestamp.type", "CreateTime"),
    ("min.insync.replicas", "1"),
    ("retention.bytes", "-1"),
    ("retention.ms", "604800000"),
    ("segment.bytes", "1073741824"),
    ("segment.ms", "604800000"),
];

pub(super) fn create_topic(state: &mut State, create: CreateTopic) -> Result<TopicCreated, AdminError> {
    let name = TopicName::new(&create.name).map_err(|problem| AdminError::BadName(problem.to_string()))?;
    if name.is_internal() && !create.internal {
        return Err(AdminError::BadName(format!("topic name \"{name}\" is internal")));
    }
    if state.snapshot.topics.contains_key(&name) {
        return Err(AdminError::TopicExists(create.name));
    }
    let partitions = match create.partitions.map_or(Ok(1), u32::try_from) {
        Ok(count) if count > 0 => count,
        _ => return Err(AdminError::BadPartitions("the number of partitions must be 1 or more".into())),
    };
    let replication_factor = match create.replication_factor.map_or(Ok(1), u8::try_from) {
        Ok(factor) if factor > 0 => factor,
        _ => return Err(AdminError::BadReplicationFactor("the replication factor must be 1 or more".into())),
    };
    create.config.keys().try_for_each(|name| known(name).map(drop))?;
    let config = entries(&create.config, ConfigSource::Topic);
    let id = if create.validate_only {
        TopicId(Uuid::nil())
    } else {
        state.add_topic(name, partitions, replication_factor, create.config)
    };
    Ok(TopicCreated { id, partitions, replication_factor, config })
}

pub(super) fn delete_topic(state: &mut State, delete: DeleteTopic) -> Result<(), AdminError> {
    let id = match delete {
        DeleteTopic::Name(name) => {
            let id = state.snapshot.topic(&name).map(|topic| topic.record.id);
            id.ok_or(AdminError::NoSuchTopic(name))?
        }
        DeleteTopic::Id(id) if state.snapshot.names.contains_key(&id) => id,
        DeleteTopic::Id(id) => return Err(AdminError::NoSuchTopicId(id)),
    };
    state.remove_topic(id);
    Ok(())
}

pub(super) fn create_partitions(state: &mut State, create: &CreatePartitions) -> Result<(), AdminError> {
    let topic = state.snapshot.topic(&create.name).ok_or_else(|| AdminError::NoSuchTopic(create.name.clone()))?;
    let (name, has) = (topic.record.name.clone(), topic.record.partitions);
    match u32::try_from(create.total) {
        Ok(total) if total > has => {
            if !create.validate_only {
                state.add_partitions(&name, total);
            }
            Ok(())
        }
        _ => Err(AdminError::BadPartitions(format!("topic \"{name}\" has {has} partitions already"))),
    }
}

pub(super) fn alter_config(state: &mut State, alter: AlterConfig) -> Result<(), AdminError> {
    let mut values = values_of(state, &alter.resource)?;
    if alter.replace {
        values.clear();
    }
    alter.changes.into_iter().try_for_each(|change| apply(&mut values, change))?;
    if alter.validate_only {
        return Ok(());
    }
    match alter.resource {
        ConfigResource::Topic(name) => state.topic_record(&name, |record| record.config = values),
        ConfigResource::Node(None) => Arc::make_mut(&mut state.snapshot.config).values = values,
        ConfigResource::Node(Some(node)) => {
            Arc::make_mut(state.snapshot.node_config.entry(node).or_default()).values = values;
        }
    }
    Ok(())
}

pub(super) fn describe_config(state: &State, describe: &DescribeConfig) -> Result<Vec<ConfigEntry>, AdminError> {
    let source = match describe.resource {
        ConfigResource::Topic(_) => ConfigSource::Topic,
        ConfigResource::Node(None) => ConfigSource::DynamicDefault,
        ConfigResource::Node(Some(_)) => ConfigSource::DynamicNode,
    };
    Ok(entries(&values_of(state, &describe.resource)?, source))
}

pub(super) fn partition_status(state: &State, node: NodeId, only: &[PartitionId]) -> Vec<PartitionStatus> {
    let mut found = Vec::new();
    for topic in state.snapshot.topics.values() {
        for (index, view) in (0..).zip(&topic.partitions) {
            let partition = PartitionId { topic: topic.record.id, index };
            let Some(view) = view else { continue };
            let Some(log) = state.logs.get(&partition) else { continue };
            let wanted = only.is_empty() || only.contains(&partition);
            if !wanted || view.record.owner.is_none_or(|owner| owner.node != node) {
                continue;
            }
            found.push(PartitionStatus {
                partition,
                topic: topic.record.name.clone(),
                epoch: view.record.epoch,
                log_start: log.start,
                high_watermark: log.end(),
                bytes: log.bytes(),
                ledgers: 1,
                copies: 1,
                last_append: log.last_append(),
            });
        }
    }
    found
}

fn values_of(state: &State, resource: &ConfigResource) -> Result<BTreeMap<String, String>, AdminError> {
    match resource {
        ConfigResource::Topic(name) => {
            let topic = state.snapshot.topic(name).ok_or_else(|| AdminError::NoSuchTopic(name.clone()))?;
            Ok(topic.record.config.clone())
        }
        ConfigResource::Node(None) => Ok(state.snapshot.config.values.clone()),
        ConfigResource::Node(Some(node)) if !state.snapshot.nodes.contains_key(node) => {
            Err(AdminError::Invalid(format!("there is no node {node}")))
        }
        ConfigResource::Node(Some(node)) => {
            Ok(state.snapshot.node_config.get(node).map(|c| c.values.clone()).unwrap_or_default())
        }
    }
}

fn apply(values: &mut BTreeMap<String, String>, change: ConfigChange) -> Result<(), AdminError> {
    let default = known(&change.name)?;
    let missing = || AdminError::BadConfig(format!("{} needs a value", change.name));
    let mut items = |keep: &dyn Fn(&str) -> bool, add: Option<&str>| {
        let now = values.get(&change.name).map_or(default, |v| v);
        let list: Vec<&str> = now.split(',').filter(|item| !item.is_empty() && keep(item)).chain(add).collect();
        let list = list.join(",");
        values.insert(change.name.clone(), list);
    };
    match change.op {
        ChangeOp::Delete => drop(values.remove(&change.name)),
        ChangeOp::Set => drop(values.insert(change.name.clone(), change.value.clone().ok_or_else(missing)?)),
        ChangeOp::Append => {
            let value = change.value.as_deref().ok_or_else(missing)?;
            items(&|item| item != value, Some(value));
        }
        ChangeOp::Subtract => {
            let value = change.value.as_deref().ok_or_else(missing)?;
            items(&|item| item != value, None);
        }
    }
    Ok(())
}

fn known(name: &str) -> Result<&'static str, AdminError> {
    let found = KNOWN.iter().find(|(known, _)| *known == name);
    found.map(|(_, default)| *default).ok_or_else(|| AdminError::BadConfig(format!("unknown setting \"{name}\"")))
}

fn entries(values: &BTreeMap<String, String>, source: ConfigSource) -> Vec<ConfigEntry> {
    let entry = |&(name, default): &(&str, &str)| {
        let set = values.get(name).map(|v| (v.clone(), source));
        let (value, source) = set.unwrap_or_else(|| (default.into(), ConfigSource::Default));
        ConfigEntry {
            name: name.into(),
            value: Some(value.clone()),
            source,
            read_only: false,
            kind: 2,
            documentation: format!("The fake's {name}."),
            synonyms: vec![(name.into(), Some(value), source)],
        }
    };
    KNOWN.iter().map(entry).collect()
}
