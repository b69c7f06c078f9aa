//! Dynamic settings of topics and nodes: changing them (KIP-339) and describing them. Owns the four operations; what a
//! setting is and which values it takes is [`protocol::settings`]' business.

use super::{MAX_CONFLICTS, Topics, busy, put, to_admin_error};
use protocol::{
    cluster::ClusterSnapshot,
    id::{NodeId, Revision},
    model::{ConfigRecord, decode, encode, key},
    service::{
        broker::{
            AdminError, AlterConfig, ChangeOp, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, DescribeConfig,
        },
        metadata::Condition,
    },
    settings::{TopicSettings, check_dynamic, describe_node, describe_topic},
};
use std::collections::BTreeMap;

/// Kafka's code of a list setting.
const LIST: i8 = 7;

type Values = BTreeMap<String, String>;

impl Topics {
    /// Changes settings, all or none.
    pub(crate) async fn alter(&self, alter: &AlterConfig) -> Result<(), AdminError> {
        for _ in 0..MAX_CONFLICTS {
            let done = match &alter.resource {
                ConfigResource::Topic(name) => self.alter_topic(name, alter).await?,
                ConfigResource::Node(node) => self.alter_node(*node, alter).await?,
            };
            if done {
                return Ok(());
            }
        }
        Err(busy())
    }

    async fn alter_topic(&self, name: &str, alter: &AlterConfig) -> Result<bool, AdminError> {
        let (mut record, version) = self.topic(name).await?;
        let described = self.describe_of_topic(&self.snapshot(), &record.config);
        record.config = apply(&record.config, alter, &described)?;
        TopicSettings::check(&record.config).map_err(|problem| AdminError::BadConfig(problem.to_string()))?;
        if alter.validate_only {
            return Ok(true);
        }
        let done = self.replace_topic(&record, version, Vec::new()).await?;
        if done {
            tracing::info!(topic = %record.name, config = ?record.config, "topic settings changed");
        }
        Ok(done)
    }

    async fn alter_node(&self, node: Option<NodeId>, alter: &AlterConfig) -> Result<bool, AdminError> {
        let config_key = key::node_config(node);
        let (values, version) = self.node_values(&config_key).await?;
        let changed = apply(&values, alter, &self.describe_of_node(node))?;
        for (name, value) in changed.iter().filter(|(name, value)| values.get(*name) != Some(value)) {
            check_dynamic(name, value).map_err(|problem| AdminError::BadConfig(problem.to_string()))?;
        }
        if alter.validate_only {
            return Ok(true);
        }
        let condition = match version {
            Some(version) => Condition::Version(config_key.clone(), version),
            None => Condition::Absent(config_key.clone()),
        };
        let record = ConfigRecord { values: changed };
        let done = self.commit(vec![condition], vec![put(config_key, encode(&record))]).await?;
        if done {
            tracing::info!(?node, config = ?record.values, "node settings changed");
        }
        Ok(done)
    }

    async fn node_values(&self, config_key: &str) -> Result<(Values, Option<Revision>), AdminError> {
        let Some(held) = self.metadata.get(config_key).await.map_err(to_admin_error)? else {
            return Ok((Values::new(), None));
        };
        let record: ConfigRecord =
            decode(&held.value).map_err(|problem| AdminError::Unavailable(problem.to_string()))?;
        Ok((record.values, Some(held.version)))
    }

    /// All settings of a topic or node.
    pub(crate) fn describe(&self, describe: &DescribeConfig) -> Result<Vec<ConfigEntry>, AdminError> {
        match &describe.resource {
            ConfigResource::Topic(name) => {
                let snapshot = self.snapshot();
                let topic = snapshot.topic(name).ok_or_else(|| AdminError::NoSuchTopic(name.clone()))?;
                Ok(self.describe_of_topic(&snapshot, &topic.record.config))
            }
            ConfigResource::Node(Some(node)) if *node != self.node => {
                Err(AdminError::Invalid(format!("this is node {}, not node {node}", self.node)))
            }
            ConfigResource::Node(node) => Ok(self.describe_of_node(*node)),
        }
    }

    /// A topic's settings as they are in force on this node.
    pub(super) fn describe_of_topic(&self, snapshot: &ClusterSnapshot, topic: &Values) -> Vec<ConfigEntry> {
        let none = Values::new();
        let own = snapshot.node_config.get(&self.node).map_or(&none, |record| &record.values);
        describe_topic(&self.fixed, &snapshot.config.values, own, topic)
    }

    /// A node's settings; of all nodes only what was set for all of them.
    fn describe_of_node(&self, node: Option<NodeId>) -> Vec<ConfigEntry> {
        let snapshot = self.snapshot();
        let own = node.and_then(|n| snapshot.node_config.get(&n)).map(|c| c.values.clone()).unwrap_or_default();
        let mut entries = describe_node(&self.fixed, &snapshot.config.values, &own);
        if node.is_none() {
            entries.retain(|entry| entry.source == ConfigSource::DynamicDefault);
        }
        entries
    }
}

/// The values after the changes; a setting that was never set counts with its effective value for the list operations.
fn apply(current: &Values, alter: &AlterConfig, described: &[ConfigEntry]) -> Result<Values, AdminError> {
    let mut values = if alter.replace { Values::new() } else { current.clone() };
    for change in &alter.changes {
        let ConfigChange { name, op, value } = change;
        let given = || value.clone().ok_or_else(|| AdminError::BadConfig(format!("{name} needs a value")));
        match op {
            ChangeOp::Set => drop(values.insert(name.clone(), given()?)),
            ChangeOp::Delete => drop(values.remove(name)),
            ChangeOp::Append | ChangeOp::Subtract => {
                let entry = described.iter().find(|entry| entry.name == *name);
                if entry.is_none_or(|entry| entry.kind != LIST) {
                    return Err(AdminError::BadConfig(format!("{name} is not a list; it can only be set or deleted")));
                }
                let before = values.get(name).cloned().or_else(|| entry.and_then(|e| e.value.clone()));
                values.insert(name.clone(), change_list(&before.unwrap_or_default(), &given()?, *op));
            }
        }
    }
    Ok(values)
}

fn change_list(before: &str, items: &str, op: ChangeOp) -> String {
    let split = |list: &str| -> Vec<String> {
        list.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
    };
    let (mut list, items) = (split(before), split(items));
    if op == ChangeOp::Subtract {
        list.retain(|item| !items.contains(item));
    } else {
        for item in items {
            if !list.contains(&item) {
                list.push(item);
            }
        }
    }
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: i8, value: &str) -> ConfigEntry {
        ConfigEntry {
            name: name.into(),
            value: Some(value.into()),
            source: ConfigSource::Default,
            read_only: false,
            kind,
            documentation: String::new(),
            synonyms: Vec::new(),
        }
    }

    fn changed(replace: bool, changes: &[(&str, ChangeOp, Option<&str>)]) -> Result<Values, AdminError> {
        let changes = changes
            .iter()
            .map(|(name, op, value)| ConfigChange { name: (*name).into(), op: *op, value: value.map(Into::into) })
            .collect();
        let resource = ConfigResource::Topic("t".into());
        let alter = AlterConfig { resource, changes, replace, validate_only: false };
        let current = Values::from([("retention.ms".into(), "5".into())]);
        let described = [entry("cleanup.policy", LIST, "delete"), entry("retention.ms", 5, "5")];
        apply(&current, &alter, &described)
    }

    #[test]
    fn set_delete_and_replace() {
        let both = changed(false, &[("segment.ms", ChangeOp::Set, Some("7"))]).expect("legal");
        assert_eq!(both.len(), 2);
        let one = changed(true, &[("segment.ms", ChangeOp::Set, Some("7"))]).expect("legal");
        assert_eq!(one, Values::from([("segment.ms".into(), "7".into())]));
        assert_eq!(changed(false, &[("retention.ms", ChangeOp::Delete, None)]), Ok(Values::new()));
        assert!(changed(false, &[("retention.ms", ChangeOp::Set, None)]).is_err());
    }

    #[test]
    fn lists_grow_and_shrink_from_their_effective_value() {
        let policy = |op, value| {
            let values = changed(false, &[("cleanup.policy", op, Some(value))]).expect("legal");
            values["cleanup.policy"].clone()
        };
        assert_eq!(policy(ChangeOp::Append, "compact"), "delete,compact");
        assert_eq!(policy(ChangeOp::Append, "delete"), "delete");
        assert_eq!(policy(ChangeOp::Subtract, "delete"), "");
        let refused = changed(false, &[("retention.ms", ChangeOp::Append, Some("6"))]);
        assert!(matches!(refused, Err(AdminError::BadConfig(_))));
    }
}
