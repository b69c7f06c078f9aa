//! Creating topics and adding partitions. Owns the checks, the spread of owners over live nodes, and the order of the
//! transactions: partitions first, the topic record last, so that no topic is ever shown with partitions missing.

use super::{MAX_CONFLICTS, Topics, busy, put};
use protocol::{
    cluster::ClusterSnapshot,
    model::{Owner, PartitionRecord, TopicRecord, encode, key},
    service::{
        broker::{AdminError, CreatePartitions, CreateTopic, TopicCreated},
        metadata::{Condition, Operation},
    },
    settings::TopicSettings,
    topic::{CONSUMER_OFFSETS, PartitionId, TopicId, TopicName},
};
use std::{collections::BTreeMap, ops::Range};
use uuid::Uuid;

/// The most partitions of all topics together.
const MAX_PARTITIONS: usize = 100_000;
/// Partition records per transaction; at about 250 bytes each far below the limit of one.
const PER_TRANSACTION: u32 = 2_000;

/// A topic whose creation passed every check.
struct Checked {
    record: TopicRecord,
    created: TopicCreated,
}

impl Topics {
    /// Creates a topic.
    pub(crate) async fn create(&self, create: CreateTopic) -> Result<TopicCreated, AdminError> {
        let Checked { record, mut created } = self.check_create(&create)?;
        if create.validate_only {
            return Ok(created);
        }
        let topic_key = key::topic(&record.name);
        let absent = || vec![Condition::Absent(topic_key.clone())];
        let mut operations = self.write_partitions(&record, 0..record.partitions, absent).await?;
        operations.push(put(topic_key.clone(), encode(&record)));
        if !self.commit(absent(), operations).await? {
            self.remove_partitions(&record, 0..record.partitions).await;
            return Err(AdminError::TopicExists(create.name));
        }
        tracing::info!(topic = %record.name, id = %record.id, partitions = record.partitions, replication_factor = record.replication_factor, "topic created");
        created.id = record.id;
        Ok(created)
    }

    /// Adds partitions to a topic.
    pub(crate) async fn create_partitions(&self, create: &CreatePartitions) -> Result<(), AdminError> {
        for _ in 0..MAX_CONFLICTS {
            let (mut record, version) = self.topic(&create.name).await?;
            let now = record.partitions;
            let total = check_total(&self.snapshot(), i64::from(create.total), now as usize)?;
            if total <= now {
                let name = &create.name;
                let message = format!("topic \"{name}\" has {now} partitions; {total} would not be an increase");
                return Err(AdminError::BadPartitions(message));
            }
            if create.validate_only {
                return Ok(());
            }
            record.partitions = total;
            let topic_key = key::topic(&record.name);
            let same = || vec![Condition::Version(topic_key.clone(), version)];
            let operations = match self.write_partitions(&record, now..total, same).await {
                Err(AdminError::TopicExists(_)) => continue,
                written => written?,
            };
            if self.replace_topic(&record, version, operations).await? {
                tracing::info!(topic = %record.name, partitions = total, "partitions added");
                return Ok(());
            }
        }
        Err(busy())
    }

    fn check_create(&self, create: &CreateTopic) -> Result<Checked, AdminError> {
        let name = TopicName::new(&create.name).map_err(|problem| AdminError::BadName(problem.to_string()))?;
        if name.is_internal() && !create.internal {
            return Err(AdminError::BadName(format!(
                "\"{name}\" is an internal topic and is created when it is needed"
            )));
        }
        let snapshot = self.snapshot();
        if snapshot.topics.contains_key(&name) {
            return Err(AdminError::TopicExists(create.name.clone()));
        }
        let settings = self.settings();
        let wanted = create.partitions.map_or(i64::from(settings.num_partitions), i64::from);
        let partitions = check_total(&snapshot, wanted, 0)?;
        let replication_factor = match create.replication_factor {
            None => settings.default_replication_factor.max(1),
            Some(factor) if factor >= 1 => u8::try_from(factor).unwrap_or(u8::MAX),
            Some(factor) => {
                return Err(AdminError::BadReplicationFactor(format!("replication factor {factor} is not 1 or more")));
            }
        };
        let config = config_of(&name, create);
        TopicSettings::check(&config).map_err(|problem| AdminError::BadConfig(problem.to_string()))?;
        let described = self.describe_of_topic(&snapshot, &config);
        let id = TopicId(Uuid::nil());
        let created = TopicCreated { id, partitions, replication_factor, config: described };
        let created_at = self.clock.wall();
        let id = TopicId(Uuid::new_v4());
        Ok(Checked { record: TopicRecord { id, name, partitions, replication_factor, config, created_at }, created })
    }

    /// Writes all partition records but those that fit into the last transaction, which it answers.
    async fn write_partitions(
        &self,
        topic: &TopicRecord,
        indexes: Range<u32>,
        conditions: impl Fn() -> Vec<Condition> + Send,
    ) -> Result<Vec<Operation>, AdminError> {
        let owners = owners(&self.snapshot());
        let record = |index: u32| {
            let at = (topic.id.0.as_u128() as usize).wrapping_add(index as usize);
            let owner = at.checked_rem(owners.len()).map(|at| owners[at]);
            let id = PartitionId { topic: topic.id, index };
            put(key::partition(id), encode(&PartitionRecord::new(owner)))
        };
        let mut first = indexes.start;
        while indexes.end - first > PER_TRANSACTION {
            let chunk = (first..first + PER_TRANSACTION).map(record).collect();
            if !self.commit(conditions(), chunk).await? {
                self.remove_partitions(topic, indexes.start..first).await;
                return Err(AdminError::TopicExists(topic.name.to_string()));
            }
            first += PER_TRANSACTION;
        }
        Ok((first..indexes.end).map(record).collect())
    }

    /// Removes partition records that no topic came to name; what is left after a failure harms nobody.
    async fn remove_partitions(&self, topic: &TopicRecord, indexes: Range<u32>) {
        if indexes.len() as u32 <= PER_TRANSACTION {
            return;
        }
        let keys: Vec<u32> = indexes.collect();
        for chunk in keys.chunks(PER_TRANSACTION as usize) {
            let delete =
                |index: &u32| Operation::Delete(key::partition(PartitionId { topic: topic.id, index: *index }));
            if let Err(problem) = self.metadata.transact(Vec::new(), chunk.iter().map(delete).collect()).await {
                tracing::warn!(topic = %topic.name, %problem, "partition records of a topic that was not created are left behind");
                return;
            }
        }
    }
}

/// Internal topics are compacted, whatever else is asked for.
fn config_of(name: &TopicName, create: &CreateTopic) -> BTreeMap<String, String> {
    let mut config = create.config.clone();
    if name.as_str() == CONSUMER_OFFSETS {
        config.entry("cleanup.policy".into()).or_insert_with(|| "compact".into());
    }
    config
}

fn check_total(snapshot: &ClusterSnapshot, total: i64, has: usize) -> Result<u32, AdminError> {
    let others = snapshot.topics.values().map(|t| t.partitions.len()).sum::<usize>().saturating_sub(has);
    let most = MAX_PARTITIONS.saturating_sub(others);
    match u32::try_from(total) {
        Ok(total) if total >= 1 && total as usize <= most => Ok(total),
        Ok(total) if total >= 1 => Err(AdminError::BadPartitions(format!(
            "{total} partitions are too many: the cluster has {others} and takes {MAX_PARTITIONS} in all"
        ))),
        _ => Err(AdminError::BadPartitions(format!("{total} is not a number of partitions; it must be 1 or more"))),
    }
}

fn owners(snapshot: &ClusterSnapshot) -> Vec<Owner> {
    snapshot.nodes.values().map(|n| Owner { node: n.node, registration: n.registration }).collect()
}
