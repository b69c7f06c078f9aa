//! Administration: topics and dynamic settings, as transactions on the cluster model.
//!
//! Any broker can do all of it; nothing here needs to own a partition. Each change ends by waiting until this broker's
//! own cluster view shows it, so that the next Metadata request through it does too. [`create`] makes topics and
//! partitions, [`config`] changes and describes settings; deletion is here.

mod config;
mod create;

use crate::metadata_client::MetadataClient;
use protocol::{
    cluster::{ClusterSnapshot, ClusterView},
    id::{NodeId, Revision},
    model::{TopicRecord, decode, encode, key},
    runtime::Clock,
    service::{
        broker::{AdminError, DeleteTopic},
        metadata::{Condition, MetadataError, Operation, Outcome},
    },
    settings::{BrokerSettings, StaticSettings},
    topic::TopicName,
};
use std::{sync::Arc, time::Duration};

/// How long a change waits for the own view to show it; it has happened whether or not it does.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
/// How often a change is made again after someone else's.
const MAX_CONFLICTS: u32 = 10;

/// The administrator.
pub(crate) struct Topics {
    pub(crate) node: NodeId,
    pub(crate) metadata: Arc<MetadataClient>,
    pub(crate) view: ClusterView,
    pub(crate) fixed: StaticSettings,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Topics {
    fn snapshot(&self) -> Arc<ClusterSnapshot> {
        self.view.snapshot()
    }

    /// The effective settings of this node.
    pub(crate) fn settings(&self) -> BrokerSettings {
        effective(&self.fixed, &self.snapshot(), self.node)
    }

    /// The record of a topic as it is now, with its version.
    async fn topic(&self, name: &str) -> Result<(TopicRecord, Revision), AdminError> {
        let unknown = || AdminError::NoSuchTopic(name.to_owned());
        let legal = TopicName::new(name).map_err(|_| unknown())?;
        let held = self.metadata.get(&key::topic(&legal)).await.map_err(to_admin_error)?.ok_or_else(unknown)?;
        let record = decode(&held.value).map_err(|problem| AdminError::Unavailable(problem.to_string()))?;
        Ok((record, held.version))
    }

    /// Writes a topic record and whatever belongs to it, if it is still at `version`; `false` if it is not.
    async fn replace_topic(
        &self,
        record: &TopicRecord,
        version: Revision,
        also: Vec<Operation>,
    ) -> Result<bool, AdminError> {
        let topic_key = key::topic(&record.name);
        let mut operations = also;
        operations.push(put(topic_key.clone(), encode(record)));
        self.commit(vec![Condition::Version(topic_key, version)], operations).await
    }

    /// Commits and waits until the own view shows it; `false` if a condition did not hold.
    async fn commit(&self, conditions: Vec<Condition>, operations: Vec<Operation>) -> Result<bool, AdminError> {
        match self.metadata.transact(conditions, operations).await.map_err(to_admin_error)? {
            Outcome::Committed { revision, .. } => {
                self.view.wait_for(revision, SHOWN_WITHIN).await;
                Ok(true)
            }
            Outcome::Conflict { .. } => Ok(false),
        }
    }

    /// Deletes a topic: the name is free at once; its ledgers are given up in the background by the controller.
    pub(crate) async fn delete(&self, delete: &DeleteTopic) -> Result<(), AdminError> {
        if !self.settings().delete_topics {
            return Err(AdminError::Policy("topics cannot be deleted while delete.topic.enable is false".into()));
        }
        for _ in 0..MAX_CONFLICTS {
            let name = match delete {
                DeleteTopic::Name(name) => name.clone(),
                DeleteTopic::Id(id) => {
                    let snapshot = self.snapshot();
                    snapshot.names.get(id).map(ToString::to_string).ok_or(AdminError::NoSuchTopicId(*id))?
                }
            };
            let (record, version) = self.topic(&name).await?;
            if matches!(delete, DeleteTopic::Id(id) if record.id != *id) {
                continue;
            }
            let topic_key = key::topic(&record.name);
            let conditions = vec![Condition::Version(topic_key.clone(), version)];
            let operations = vec![Operation::Delete(topic_key), put(key::deleting(record.id), encode(&record))];
            if self.commit(conditions, operations).await? {
                tracing::info!(topic = %record.name, id = %record.id, "topic deleted");
                return Ok(());
            }
        }
        Err(busy())
    }
}

/// The effective settings of a node, given what the view shows.
pub(crate) fn effective(fixed: &StaticSettings, snapshot: &ClusterSnapshot, node: NodeId) -> BrokerSettings {
    let own = snapshot.node_config.get(&node).map(|c| c.values.clone()).unwrap_or_default();
    fixed.effective(&snapshot.config.values, &own)
}

const fn put(key: String, value: bytes::Bytes) -> Operation {
    Operation::Put { key, value, session: None }
}

fn busy() -> AdminError {
    AdminError::Unavailable("the record keeps changing; retry".into())
}

fn to_admin_error(problem: MetadataError) -> AdminError {
    match problem {
        MetadataError::OutcomeUnknown { reason } => AdminError::OutcomeUnknown(reason),
        MetadataError::Unavailable { reason } => AdminError::Unavailable(reason),
        problem @ (MetadataError::SessionExpired(_)
        | MetadataError::Compacted { .. }
        | MetadataError::TooLarge { .. }
        | MetadataError::Invalid(_)) => AdminError::Unavailable(problem.to_string()),
    }
}
