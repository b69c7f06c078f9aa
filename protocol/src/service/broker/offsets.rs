//! Offsets: looking them up by position, time or epoch, and deleting records below one.

use super::{Isolation, NotServed};
use crate::{
    id::{LeaderEpoch, Offset, Timestamp},
    service::Abandoned,
    topic::PartitionId,
};

/// Which offset is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first of the log.
    Earliest,
    /// The one after the last that the reader may see.
    Latest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first record at or after a time.
    At(Timestamp),
}

/// Looks up an offset.
#[derive(Debug, Clone)]
pub struct ListOffset {
    /// The partition.
    pub partition: PartitionId,
    /// Which offset.
    pub spec: OffsetSpec,
    /// What the reader may see.
    pub isolation: Isolation,
    /// The epoch the client believes in.
    pub current_epoch: Option<LeaderEpoch>,
}

/// The offset that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; none if no record qualifies.
    pub offset: Option<Offset>,
    /// The record's timestamp, for lookups by time; else [`Timestamp::NONE`].
    pub timestamp: Timestamp,
    /// The epoch the offset belongs to.
    pub epoch: Option<LeaderEpoch>,
}

/// Asks where an epoch ends.
#[derive(Debug, Clone)]
pub struct EpochEnd {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The epoch the client believes in.
    pub current_epoch: Option<LeaderEpoch>,
}

/// The largest epoch that is not above the one asked for, and the offset after its last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The epoch and its end; none if the log knows no such epoch.
    pub end: Option<(LeaderEpoch, Offset)>,
}

/// Why an offset was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListOffsetsError {
    /// Not here, or not at this epoch.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// The entries cannot be read now.
    #[error("cannot read: {reason}")]
    Storage {
        /// Why.
        reason: String,
    },
    /// The broker is not reachable, or shutting down.
    #[error("cannot list offsets now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl Abandoned for ListOffsetsError {
    fn abandoned() -> Self {
        Self::Unavailable { reason: "the broker dropped the call".into() }
    }
}

/// Deletes records below an offset.
#[derive(Debug, Clone)]
pub struct DeleteRecords {
    /// The partition.
    pub partition: PartitionId,
    /// The new log start; the high watermark if none.
    pub before: Option<Offset>,
    /// Whether a coordinator of ours asks: it may trim compacted internal topics.
    pub origin: super::Origin,
}

/// Why records were not deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteRecordsError {
    /// Not here, or not at this epoch.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// Above the high watermark.
    #[error("offset {asked} is above the high watermark {high_watermark}")]
    OutOfRange {
        /// What was asked.
        asked: Offset,
        /// The limit.
        high_watermark: Offset,
    },
    /// `cleanup.policy` is `compact` alone.
    #[error("records of a topic with cleanup.policy=compact cannot be deleted")]
    Policy,
    /// Nothing happened; retry.
    #[error("cannot delete records now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl Abandoned for DeleteRecordsError {
    fn abandoned() -> Self {
        Self::Unavailable { reason: "the broker dropped the call".into() }
    }
}
