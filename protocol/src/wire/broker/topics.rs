//! Messages of administration. A field's number is never used for anything else.

use super::{
    AlterConfig, ConfigEntry, CreatePartitions, CreateTopic, DeleteTopic, Offset, PartitionMessage, PartitionStatus,
    TopicCreated, WireError, records::malformed,
};
use crate::{
    id::{LeaderEpoch, NodeId, Timestamp},
    service::broker::{ChangeOp, ConfigChange, ConfigResource, ConfigSource},
    topic::{TopicId, TopicName},
};
use prost::Message;
use std::collections::HashMap;
use uuid::Uuid;

fn narrow<T: TryFrom<i64>>(what: &str, number: impl Into<i64>) -> Result<T, WireError> {
    let number = number.into();
    T::try_from(number).map_err(|_| malformed(what, number))
}

/// A topic's identity as two halves.
#[derive(Clone, Copy, PartialEq, Message)]
struct TopicIdMessage {
    #[prost(fixed64, tag = "1")]
    high: u64,
    #[prost(fixed64, tag = "2")]
    low: u64,
}

impl From<TopicId> for TopicIdMessage {
    fn from(id: TopicId) -> Self {
        let (high, low) = id.0.as_u64_pair();
        Self { high, low }
    }
}

impl From<TopicIdMessage> for TopicId {
    fn from(id: TopicIdMessage) -> Self {
        Self(Uuid::from_u64_pair(id.high, id.low))
    }
}

/// Create a topic.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, optional, tag = "2")]
    partitions: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    replication_factor: Option<i32>,
    #[prost(map = "string, string", tag = "4")]
    config: HashMap<String, String>,
    #[prost(bool, tag = "5")]
    validate_only: bool,
    #[prost(bool, tag = "6")]
    internal: bool,
}

impl From<CreateTopic> for CreateMessage {
    fn from(create: CreateTopic) -> Self {
        Self {
            name: create.name,
            partitions: create.partitions,
            replication_factor: create.replication_factor.map(Into::into),
            config: create.config.into_iter().collect(),
            validate_only: create.validate_only,
            internal: create.internal,
        }
    }
}

impl CreateMessage {
    pub(super) fn decode_all(self) -> Result<CreateTopic, WireError> {
        let factor = self.replication_factor.map(|factor| narrow("replication factor", factor));
        Ok(CreateTopic {
            name: self.name,
            partitions: self.partitions,
            replication_factor: factor.transpose()?,
            config: self.config.into_iter().collect(),
            validate_only: self.validate_only,
            internal: self.internal,
        })
    }
}

/// A topic that was created.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CreatedMessage {
    #[prost(message, optional, tag = "1")]
    id: Option<TopicIdMessage>,
    #[prost(uint32, tag = "2")]
    partitions: u32,
    #[prost(uint32, tag = "3")]
    replication_factor: u32,
    #[prost(message, repeated, tag = "4")]
    config: Vec<EntryMessage>,
}

impl From<TopicCreated> for CreatedMessage {
    fn from(created: TopicCreated) -> Self {
        Self {
            id: Some(created.id.into()),
            partitions: created.partitions,
            replication_factor: created.replication_factor.into(),
            config: created.config.into_iter().map(Into::into).collect(),
        }
    }
}

impl CreatedMessage {
    pub(super) fn decode_all(self) -> Result<TopicCreated, WireError> {
        Ok(TopicCreated {
            id: self.id.unwrap_or_default().into(),
            partitions: self.partitions,
            replication_factor: narrow("replication factor", self.replication_factor)?,
            config: self.config.into_iter().map(EntryMessage::decode_all).collect::<Result<_, _>>()?,
        })
    }
}

/// Delete a topic: by one of the two.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteMessage {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, optional, tag = "2")]
    id: Option<TopicIdMessage>,
}

impl From<DeleteTopic> for DeleteMessage {
    fn from(delete: DeleteTopic) -> Self {
        match delete {
            DeleteTopic::Name(name) => Self { name: Some(name), id: None },
            DeleteTopic::Id(id) => Self { name: None, id: Some(id.into()) },
        }
    }
}

impl DeleteMessage {
    pub(super) fn decode_all(self) -> Result<DeleteTopic, WireError> {
        match (self.name, self.id) {
            (Some(name), None) => Ok(DeleteTopic::Name(name)),
            (None, Some(id)) => Ok(DeleteTopic::Id(id.into())),
            _ => Err(malformed("topic to delete:", "neither name nor id, or both")),
        }
    }
}

/// Add partitions.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartitionsMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    total: i32,
    #[prost(bool, tag = "3")]
    validate_only: bool,
}

impl From<CreatePartitions> for PartitionsMessage {
    fn from(create: CreatePartitions) -> Self {
        Self { name: create.name, total: create.total, validate_only: create.validate_only }
    }
}

impl From<PartitionsMessage> for CreatePartitions {
    fn from(create: PartitionsMessage) -> Self {
        Self { name: create.name, total: create.total, validate_only: create.validate_only }
    }
}

/// Whose settings.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceMessage {
    /// 1 a topic, 2 all nodes, 3 one node.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    topic: String,
    #[prost(int32, tag = "3")]
    node: i32,
}

impl From<ConfigResource> for ResourceMessage {
    fn from(resource: ConfigResource) -> Self {
        match resource {
            ConfigResource::Topic(topic) => Self { kind: 1, topic, node: 0 },
            ConfigResource::Node(None) => Self { kind: 2, ..Self::default() },
            ConfigResource::Node(Some(node)) => Self { kind: 3, topic: String::new(), node: node.0 },
        }
    }
}

impl ResourceMessage {
    pub(super) fn decode_all(self) -> Result<ConfigResource, WireError> {
        match self.kind {
            1 => Ok(ConfigResource::Topic(self.topic)),
            2 => Ok(ConfigResource::Node(None)),
            3 => Ok(ConfigResource::Node(Some(NodeId(self.node)))),
            other => Err(malformed("owner of settings", other)),
        }
    }
}

/// Change settings.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AlterMessage {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<ChangeMessage>,
    #[prost(bool, tag = "3")]
    replace: bool,
    #[prost(bool, tag = "4")]
    validate_only: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ChangeMessage {
    #[prost(string, tag = "1")]
    name: String,
    /// 1 set, 2 delete, 3 append, 4 subtract.
    #[prost(uint32, tag = "2")]
    op: u32,
    #[prost(string, optional, tag = "3")]
    value: Option<String>,
}

impl From<AlterConfig> for AlterMessage {
    fn from(alter: AlterConfig) -> Self {
        let of = |change: ConfigChange| {
            let op = match change.op {
                ChangeOp::Set => 1,
                ChangeOp::Delete => 2,
                ChangeOp::Append => 3,
                ChangeOp::Subtract => 4,
            };
            ChangeMessage { name: change.name, op, value: change.value }
        };
        Self {
            resource: Some(alter.resource.into()),
            changes: alter.changes.into_iter().map(of).collect(),
            replace: alter.replace,
            validate_only: alter.validate_only,
        }
    }
}

impl AlterMessage {
    pub(super) fn decode_all(self) -> Result<AlterConfig, WireError> {
        let of = |change: ChangeMessage| {
            let op = match change.op {
                1 => ChangeOp::Set,
                2 => ChangeOp::Delete,
                3 => ChangeOp::Append,
                4 => ChangeOp::Subtract,
                other => return Err(malformed("change of a setting", other)),
            };
            Ok(ConfigChange { name: change.name, op, value: change.value })
        };
        Ok(AlterConfig {
            resource: self.resource.unwrap_or_default().decode_all()?,
            changes: self.changes.into_iter().map(of).collect::<Result<_, _>>()?,
            replace: self.replace,
            validate_only: self.validate_only,
        })
    }
}

/// All settings of something.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EntriesMessage {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<EntryMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
    #[prost(uint32, tag = "3")]
    source: u32,
    #[prost(bool, tag = "4")]
    read_only: bool,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(string, tag = "6")]
    documentation: String,
    #[prost(message, repeated, tag = "7")]
    synonyms: Vec<SynonymMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SynonymMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
    #[prost(uint32, tag = "3")]
    source: u32,
}

const fn of_source(source: ConfigSource) -> u32 {
    match source {
        ConfigSource::Topic => 1,
        ConfigSource::DynamicNode => 2,
        ConfigSource::DynamicDefault => 3,
        ConfigSource::Static => 4,
        ConfigSource::Default => 5,
    }
}

fn source(number: u32) -> Result<ConfigSource, WireError> {
    match number {
        1 => Ok(ConfigSource::Topic),
        2 => Ok(ConfigSource::DynamicNode),
        3 => Ok(ConfigSource::DynamicDefault),
        4 => Ok(ConfigSource::Static),
        5 => Ok(ConfigSource::Default),
        other => Err(malformed("source of a setting", other)),
    }
}

impl From<ConfigEntry> for EntryMessage {
    fn from(entry: ConfigEntry) -> Self {
        let of = |(name, value, source)| SynonymMessage { name, value, source: of_source(source) };
        Self {
            name: entry.name,
            value: entry.value,
            source: of_source(entry.source),
            read_only: entry.read_only,
            kind: entry.kind.into(),
            documentation: entry.documentation,
            synonyms: entry.synonyms.into_iter().map(of).collect(),
        }
    }
}

impl EntryMessage {
    fn decode_all(self) -> Result<ConfigEntry, WireError> {
        let of = |synonym: SynonymMessage| Ok((synonym.name, synonym.value, source(synonym.source)?));
        Ok(ConfigEntry {
            name: self.name,
            value: self.value,
            source: source(self.source)?,
            read_only: self.read_only,
            kind: narrow("type of a setting", self.kind)?,
            documentation: self.documentation,
            synonyms: self.synonyms.into_iter().map(of).collect::<Result<_, WireError>>()?,
        })
    }
}

impl From<Vec<ConfigEntry>> for EntriesMessage {
    fn from(entries: Vec<ConfigEntry>) -> Self {
        Self { entries: entries.into_iter().map(Into::into).collect() }
    }
}

impl EntriesMessage {
    pub(super) fn decode_all(self) -> Result<Vec<ConfigEntry>, WireError> {
        self.entries.into_iter().map(EntryMessage::decode_all).collect()
    }
}

/// Ask for the state of partitions.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusMessage {
    #[prost(message, repeated, tag = "1")]
    pub(super) only: Vec<PartitionMessage>,
}

/// States of partitions.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusesMessage {
    #[prost(message, repeated, tag = "1")]
    statuses: Vec<PartitionStatusMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct PartitionStatusMessage {
    #[prost(message, optional, tag = "1")]
    partition: Option<PartitionMessage>,
    #[prost(string, tag = "2")]
    topic: String,
    #[prost(int32, tag = "3")]
    epoch: i32,
    #[prost(int64, tag = "4")]
    log_start: i64,
    #[prost(int64, tag = "5")]
    high_watermark: i64,
    #[prost(uint64, tag = "6")]
    bytes: u64,
    #[prost(uint32, tag = "7")]
    ledgers: u32,
    #[prost(uint32, tag = "8")]
    copies: u32,
    #[prost(int64, optional, tag = "9")]
    last_append: Option<i64>,
}

impl From<Vec<PartitionStatus>> for StatusesMessage {
    fn from(found: Vec<PartitionStatus>) -> Self {
        let of = |status: PartitionStatus| PartitionStatusMessage {
            partition: Some(status.partition.into()),
            topic: status.topic.into(),
            epoch: status.epoch.0,
            log_start: status.log_start.0,
            high_watermark: status.high_watermark.0,
            bytes: status.bytes,
            ledgers: status.ledgers,
            copies: status.copies.into(),
            last_append: status.last_append.map(|t| t.0),
        };
        Self { statuses: found.into_iter().map(of).collect() }
    }
}

impl StatusesMessage {
    pub(super) fn decode_all(self) -> Result<Vec<PartitionStatus>, WireError> {
        let of = |status: PartitionStatusMessage| {
            Ok(PartitionStatus {
                partition: status.partition.unwrap_or_default().into(),
                topic: TopicName::new(&status.topic).map_err(|problem| malformed("topic:", problem))?,
                epoch: LeaderEpoch(status.epoch),
                log_start: Offset(status.log_start),
                high_watermark: Offset(status.high_watermark),
                bytes: status.bytes,
                ledgers: status.ledgers,
                copies: narrow("copies", status.copies)?,
                last_append: status.last_append.map(Timestamp),
            })
        };
        self.statuses.into_iter().map(of).collect()
    }
}
