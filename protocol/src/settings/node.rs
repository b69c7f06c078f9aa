//! Settings of a node, typed. Owns the layers (default, static, dynamic for all nodes, dynamic for one); never reads a
//! file or the environment itself.

use super::topic::TopicSettings;
use std::{collections::BTreeMap, time::Duration};

/// What file, environment and flags said, under Kafka's names; checked against the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaticSettings {
    values: BTreeMap<&'static str, String>,
}

/// Why a setting was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No setting has this name.
    #[error("unknown setting \"{name}\"{}", nearest.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default())]
    Unknown {
        /// The name.
        name: String,
        /// The most similar known name.
        nearest: Option<&'static str>,
    },
    /// The value is not of the setting's type or range.
    #[error("invalid value \"{value}\" for {name}: {reason}")]
    Invalid {
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// What would be valid.
        reason: String,
    },
}

/// The effective settings of a node, typed. Durations come from Kafka's `.ms`, `.minutes` and `.hours`.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerSettings {
    /// `num.partitions`
    pub num_partitions: u32,
    /// `default.replication.factor`
    pub default_replication_factor: u8,
    /// `auto.create.topics.enable`
    pub auto_create_topics: bool,
    /// `delete.topic.enable`
    pub delete_topics: bool,
    /// `socket.request.max.bytes`
    pub max_request_bytes: usize,
    /// `queued.max.request.bytes`, the budget of requests in memory; Magnetar bounds it by default.
    pub queued_request_bytes: usize,
    /// `fetch.max.bytes`
    pub fetch_max_bytes: u32,
    /// `max.connections`
    pub max_connections: usize,
    /// `connections.max.idle.ms`
    pub connections_max_idle: Duration,
    /// `group.initial.rebalance.delay.ms`
    pub group_initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`
    pub group_min_session: Duration,
    /// `group.max.session.timeout.ms`
    pub group_max_session: Duration,
    /// `group.max.size`
    pub group_max_size: usize,
    /// `offsets.topic.num.partitions`
    pub offsets_partitions: u32,
    /// `offsets.topic.replication.factor`
    pub offsets_replication_factor: u8,
    /// `offsets.retention.minutes`
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check: Duration,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max: usize,
    /// `producer.id.expiration.ms`
    pub producer_expiration: Duration,
    /// `log.retention.check.interval.ms`
    pub retention_check: Duration,
    /// What topics get that do not say otherwise.
    pub topic_defaults: TopicSettings,
}
