//! Settings of a topic, typed. Owns what Magnetar acts on; the rest of Kafka's topic settings is accepted, checked and
//! reported through the catalogue.

use std::time::Duration;

/// `cleanup.policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whether old ledgers are dropped.
    pub delete: bool,
    /// Whether only the last record of each key is kept.
    pub compact: bool,
}

/// `message.timestamp.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's.
    LogAppendTime,
}

/// The effective settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// `cleanup.policy`
    pub cleanup: CleanupPolicy,
    /// `retention.ms`; none is for ever.
    pub retention: Option<Duration>,
    /// `retention.bytes`; none is without limit.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`: a ledger rolls at this size.
    pub segment_bytes: u64,
    /// `segment.ms`: a ledger rolls at this age.
    pub segment_age: Duration,
    /// `max.message.bytes`: the largest record batch, as sent.
    pub max_message_bytes: u32,
    /// `min.insync.replicas`
    pub min_insync: u8,
    /// `message.timestamp.type`
    pub timestamps: TimestampType,
    /// `message.timestamp.before.max.ms`; none is without limit.
    pub timestamp_before_max: Option<Duration>,
    /// `message.timestamp.after.max.ms`; none is without limit.
    pub timestamp_after_max: Option<Duration>,
}
