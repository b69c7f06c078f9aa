//! Records of topics and of dynamic settings.

use super::Record;
use crate::{
    id::Timestamp,
    topic::{TopicId, TopicName},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Its identity.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// The number of partitions, 1 or more.
    pub partitions: u32,
    /// The replication factor that was asked for: the wanted write quorum of its ledgers.
    pub replication_factor: u8,
    /// The settings that were set on the topic itself, under Kafka's names.
    pub config: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Record for TopicRecord {
    const NAME: &'static str = "topic record";
}

/// Settings that were changed while running, for one node or for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// Values under Kafka's names.
    pub values: BTreeMap<String, String>,
}

impl Record for ConfigRecord {
    const NAME: &'static str = "dynamic settings";
}
