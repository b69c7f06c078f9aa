//! Settings under Kafka's own names and with Kafka's meaning: of the node ([`BrokerSettings`]) and of a topic
//! ([`TopicSettings`]).
//!
//! [`catalogue`] holds one row per setting (name, type, default, range, documentation); parsing, validation and
//! DescribeConfigs all read that table. Nothing else in the tree knows a default.

pub mod catalogue;
mod describe;
mod node;
mod topic;

pub use describe::{describe_node, describe_topic};
pub use node::{BrokerSettings, SettingsError, StaticSettings, check_dynamic};
pub use topic::{CleanupPolicy, TimestampType, TopicSettings};
