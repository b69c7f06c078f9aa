//! Fetching: limits, waiting, and what comes back per partition.

use super::NotServed;
use crate::{
    id::{LeaderEpoch, Offset},
    service::Abandoned,
    topic::PartitionId,
};
use bytes::Bytes;
use std::time::Duration;

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything below the high watermark.
    ReadUncommitted,
    /// Everything below the last stable offset.
    ReadCommitted,
}

/// Reads from partitions of one broker.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// The partitions, served in this order.
    pub partitions: Vec<FetchPartition>,
    /// Answer after this long at the latest.
    pub max_wait: Duration,
    /// Answer as soon as there are this many bytes, or any partition has an error.
    pub min_bytes: u32,
    /// The most bytes wanted; the first batch of the first non-empty partition comes whatever its size.
    pub max_bytes: u32,
    /// What the reader may see.
    pub isolation: Isolation,
}

/// One partition of a fetch.
#[derive(Debug, Clone)]
pub struct FetchPartition {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset wanted; the batch that holds it comes whole.
    pub offset: Offset,
    /// The most bytes wanted of this partition.
    pub max_bytes: u32,
    /// The epoch the client believes in (KIP-320).
    pub current_epoch: Option<LeaderEpoch>,
    /// The epoch of the last record the client has (KIP-595).
    pub last_fetched_epoch: Option<LeaderEpoch>,
}

/// One result per partition asked for, in the same order.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The results.
    pub partitions: Vec<Result<FetchedPartition, FetchError>>,
}

/// What a partition gave.
#[derive(Debug, Clone, Default)]
pub struct FetchedPartition {
    /// The offset after the last acknowledged record.
    pub high_watermark: Offset,
    /// The offset below which every transaction has ended.
    pub last_stable: Offset,
    /// The first offset of the log.
    pub log_start: Offset,
    /// The epoch of the owner.
    pub epoch: LeaderEpoch,
    /// Set instead of data if the client's log diverges: where its epoch ends.
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// Whole record batches as stored, in order; slices of cached entries.
    pub batches: Vec<Bytes>,
}

impl FetchedPartition {
    /// Bytes of record batches.
    #[must_use]
    pub fn size(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// Why a partition gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Not here, or not at this epoch.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// Below the log start or above the end.
    #[error("offset {asked} is outside of the log ({log_start} to {end})")]
    OutOfRange {
        /// What was asked.
        asked: Offset,
        /// The first offset.
        log_start: Offset,
        /// The offset after the last.
        end: Offset,
    },
    /// The entries cannot be read now; never skipped.
    #[error("cannot read: {reason}")]
    Storage {
        /// Why.
        reason: String,
    },
    /// The broker is not reachable, or shutting down.
    #[error("cannot fetch now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl Abandoned for FetchError {
    fn abandoned() -> Self {
        Self::Unavailable { reason: "the broker dropped the call".into() }
    }
}
