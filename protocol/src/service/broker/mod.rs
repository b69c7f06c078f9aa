//! The contract of a broker: append and fetch record batches of the partitions it owns, and administer topics.

mod admin;
mod append;
mod fetch;
mod offsets;

pub use admin::{
    AdminError, AlterConfig, ChangeOp, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, CreatePartitions,
    CreateTopic, DeleteTopic, DescribeConfig, PartitionStatus, TopicCreated,
};
pub use append::{Append, AppendError, Appended, Origin};
pub use fetch::{Fetch, FetchError, FetchPartition, Fetched, FetchedPartition, Isolation};
pub use offsets::{
    DeleteRecords, DeleteRecordsError, EpochEnd, EpochEndOffset, ListOffset, ListOffsetsError, ListedOffset, OffsetSpec,
};

use super::Answer;
use crate::{
    id::{LeaderEpoch, NodeId, Offset},
    topic::PartitionId,
};

/// Why this broker does not serve this partition at this epoch. Never an error of the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// Another broker owns it, or none does.
    #[error("this broker does not own the partition (epoch {epoch}, owner {owner:?})")]
    NotOwner {
        /// The owner, as far as this broker knows.
        owner: Option<NodeId>,
        /// The epoch, as far as this broker knows.
        epoch: LeaderEpoch,
    },
    /// The caller's epoch is older than the broker's.
    #[error("the request's epoch is fenced; the current one is {current}")]
    FencedEpoch {
        /// The current epoch.
        current: LeaderEpoch,
    },
    /// The caller's epoch is newer than the broker's.
    #[error("the request's epoch is not known yet; the current one is {current}")]
    UnknownEpoch {
        /// The current epoch.
        current: LeaderEpoch,
    },
    /// The partition does not exist, or not any more.
    #[error("partition {0} does not exist")]
    NoSuchPartition(PartitionId),
    /// The partition is being opened or recovered; retry soon.
    #[error("the partition is being opened")]
    Opening,
}

/// A broker.
pub trait BrokerService: Send + Sync + 'static {
    /// Appends record batches to a partition; answered when they are synced on the ack quorum.
    fn append(&self, append: Append) -> Answer<Appended, AppendError>;
    /// Reads from partitions; waits for data as the request says.
    fn fetch(&self, fetch: Fetch) -> Answer<Fetched, FetchError>;
    /// Looks up an offset by position or time.
    fn list_offset(&self, list: ListOffset) -> Answer<ListedOffset, ListOffsetsError>;
    /// Where an epoch ends (KIP-101, KIP-320).
    fn epoch_end(&self, end: EpochEnd) -> Answer<EpochEndOffset, ListOffsetsError>;
    /// Moves the start of a partition's log forward; answers the new start.
    fn delete_records(&self, delete: DeleteRecords) -> Answer<Offset, DeleteRecordsError>;
    /// Creates a topic.
    fn create_topic(&self, create: CreateTopic) -> Answer<TopicCreated, AdminError>;
    /// Deletes a topic.
    fn delete_topic(&self, delete: DeleteTopic) -> Answer<(), AdminError>;
    /// Adds partitions to a topic.
    fn create_partitions(&self, create: CreatePartitions) -> Answer<(), AdminError>;
    /// Changes settings of a topic or of brokers.
    fn alter_config(&self, alter: AlterConfig) -> Answer<(), AdminError>;
    /// All settings of a topic or of a broker, with source and documentation.
    fn describe_config(&self, describe: DescribeConfig) -> Answer<Vec<ConfigEntry>, AdminError>;
    /// State of the partitions this broker owns, exact at the time of the call; all of them if `only` is empty.
    fn partition_status(&self, only: Vec<PartitionId>) -> Answer<Vec<PartitionStatus>, AdminError>;
}
