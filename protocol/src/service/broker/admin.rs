//! Administration of topics, partitions and settings.

use crate::{
    id::{LeaderEpoch, NodeId, Offset, Timestamp},
    service::Abandoned,
    topic::{PartitionId, TopicId, TopicName},
};
use std::collections::BTreeMap;

/// Creates a topic.
#[derive(Debug, Clone)]
pub struct CreateTopic {
    /// Its name; internal names only through [`CreateTopic::internal`].
    pub name: String,
    /// The number of partitions; `num.partitions` if none.
    pub partitions: Option<i32>,
    /// The replication factor, 1 or more; `default.replication.factor` if none.
    pub replication_factor: Option<i16>,
    /// Settings under Kafka's names.
    pub config: BTreeMap<String, String>,
    /// Check everything, create nothing.
    pub validate_only: bool,
    /// A topic that Magnetar keeps its own state in.
    pub internal: bool,
}

/// A topic that was created, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCreated {
    /// Its identity; nil if only validated.
    pub id: TopicId,
    /// The number of partitions.
    pub partitions: u32,
    /// The replication factor.
    pub replication_factor: u8,
    /// Its settings, as `describe_config` would list them.
    pub config: Vec<ConfigEntry>,
}

/// Deletes a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteTopic {
    /// By name.
    Name(String),
    /// By identity.
    Id(TopicId),
}

/// Adds partitions to a topic.
#[derive(Debug, Clone)]
pub struct CreatePartitions {
    /// The topic.
    pub name: String,
    /// How many partitions it shall have in all.
    pub total: i32,
    /// Check everything, change nothing.
    pub validate_only: bool,
}

/// Whose settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic's.
    Topic(String),
    /// A node's; all nodes' defaults if none.
    Node(Option<NodeId>),
}

/// What happens to a setting (KIP-339).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOp {
    /// Takes the value.
    Set,
    /// Falls back to its default.
    Delete,
    /// Adds items to a list.
    Append,
    /// Removes items from a list.
    Subtract,
}

/// One change of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// The setting, under Kafka's name.
    pub name: String,
    /// What happens to it.
    pub op: ChangeOp,
    /// The value; none for [`ChangeOp::Delete`].
    pub value: Option<String>,
}

/// Changes settings.
#[derive(Debug, Clone)]
pub struct AlterConfig {
    /// Whose.
    pub resource: ConfigResource,
    /// The changes, all or none.
    pub changes: Vec<ConfigChange>,
    /// Whether settings that are not named fall back to their defaults (the old AlterConfigs).
    pub replace: bool,
    /// Check everything, change nothing.
    pub validate_only: bool,
}

/// Asks for settings.
#[derive(Debug, Clone)]
pub struct DescribeConfig {
    /// Whose.
    pub resource: ConfigResource,
}

/// Where a value comes from, in Kafka's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on this node while it ran.
    DynamicNode,
    /// Set on all nodes while they ran.
    DynamicDefault,
    /// From the node's file, environment or flags.
    Static,
    /// Built in.
    Default,
}

/// One setting with everything Kafka's DescribeConfigs says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; none if Kafka's is null.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it can be changed through the protocol.
    pub read_only: bool,
    /// Kafka's code of its type: 1 boolean, 2 string, 3 int, 4 short, 5 long, 6 double, 7 list, 8 class, 9 password.
    pub kind: i8,
    /// What it does.
    pub documentation: String,
    /// Other settings the value could come from, most specific first, itself included.
    pub synonyms: Vec<(String, Option<String>, ConfigSource)>,
}

/// A partition as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: PartitionId,
    /// The topic's name.
    pub topic: TopicName,
    /// The epoch of the owner.
    pub epoch: LeaderEpoch,
    /// The first offset.
    pub log_start: Offset,
    /// The offset after the last acknowledged record.
    pub high_watermark: Offset,
    /// Payload bytes stored in its ledgers.
    pub bytes: u64,
    /// How many ledgers it has, the head included.
    pub ledgers: u32,
    /// Copies of the head ledger.
    pub copies: u8,
    /// When something was last appended.
    pub last_append: Option<Timestamp>,
}

/// Why an administrative request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// A topic of this name exists.
    #[error("topic \"{0}\" already exists")]
    TopicExists(String),
    /// No such topic.
    #[error("topic \"{0}\" does not exist")]
    NoSuchTopic(String),
    /// No topic with this identity.
    #[error("no topic has the id {0}")]
    NoSuchTopicId(TopicId),
    /// Not a legal topic name.
    #[error("{0}")]
    BadName(String),
    /// Not a legal number of partitions.
    #[error("{0}")]
    BadPartitions(String),
    /// Not a legal replication factor.
    #[error("{0}")]
    BadReplicationFactor(String),
    /// Not a legal setting or value.
    #[error("{0}")]
    BadConfig(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A policy forbids it.
    #[error("{0}")]
    Policy(String),
    /// Nothing happened; retry.
    #[error("cannot do this now: {0}")]
    Unavailable(String),
    /// It may or may not have happened.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(String),
}

impl Abandoned for AdminError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown("the broker dropped the call".into())
    }
}
