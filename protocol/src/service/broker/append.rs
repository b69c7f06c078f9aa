//! Appending: the request, its answer, and everything that can be wrong with a batch.

use super::NotServed;
use crate::{
    id::{LeaderEpoch, Offset, Timestamp},
    service::Abandoned,
    topic::PartitionId,
};
use bytes::Bytes;

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Kafka client: control batches are refused, internal topics too.
    Client,
    /// A coordinator of ours writing its state.
    Coordinator,
}

/// Appends one record batch to one partition.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where to.
    pub partition: PartitionId,
    /// One or more v2 record batches as the client sent them.
    pub batches: Bytes,
    /// Refuse any other epoch; the epoch a coordinator loaded its state at.
    pub epoch: Option<LeaderEpoch>,
    /// Who appends.
    pub origin: Origin,
}

/// Where the records went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record; of the first append, if this was a retry.
    pub base_offset: Offset,
    /// The append time if the topic says `LogAppendTime`.
    pub log_append_time: Option<Timestamp>,
    /// The first offset of the log.
    pub log_start: Offset,
    /// The epoch of the owner.
    pub epoch: LeaderEpoch,
}

/// Why records were not appended. Unless it says so, nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Not here, or not at this epoch.
    #[error(transparent)]
    NotServed(#[from] NotServed),
    /// Length or checksum is wrong.
    #[error("corrupt record batch: {reason}")]
    Corrupt {
        /// Why.
        reason: String,
    },
    /// Message format 0 or 1 (dropped by Kafka 4.0, KIP-724).
    #[error("message format {magic} is not supported; produce with format 2 (clients since 0.11)")]
    UnsupportedFormat {
        /// The magic byte found.
        magic: i8,
    },
    /// The batch is well formed but must not be in this topic.
    #[error("invalid record: {reason}")]
    InvalidRecord {
        /// Why.
        reason: String,
        /// Which records, by position in the batch, and why; empty if it is the batch as a whole.
        records: Vec<(i32, String)>,
    },
    /// A timestamp is outside the limits of the topic.
    #[error("invalid timestamp: {reason}")]
    InvalidTimestamp {
        /// Why.
        reason: String,
    },
    /// The batch exceeds `max.message.bytes`.
    #[error("record batch of {size} bytes exceeds max.message.bytes of {limit}")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A client wrote to an internal topic.
    #[error("clients cannot write to internal topics")]
    InternalTopic,
    /// A sequence number does not follow the last one.
    #[error("producer {producer} sent sequence {sequence}, expected {expected}")]
    OutOfOrderSequence {
        /// The producer.
        producer: i64,
        /// What it sent.
        sequence: i32,
        /// What was expected.
        expected: i32,
    },
    /// The producer's epoch is older than one already seen.
    #[error("producer {producer} has epoch {epoch}, a newer one ({current}) exists")]
    FencedProducer {
        /// The producer.
        producer: i64,
        /// Its epoch.
        epoch: i16,
        /// The newer one.
        current: i16,
    },
    /// Transactions are not served yet.
    #[error("transactions are not supported")]
    TransactionsUnsupported,
    /// Fewer writable bookies than `min.insync.replicas`.
    #[error(
        "{available} writable bookies of the {required} it takes; one whose disk is full, or whose store failed, takes no writes"
    )]
    NotEnoughReplicas {
        /// What there is.
        available: usize,
        /// What it takes.
        required: usize,
    },
    /// Nothing was written; retry.
    #[error("cannot append now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The records may or may not be there.
    #[error("the outcome of the append is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// Storage refused or failed; what was acknowledged before is safe.
    #[error("storage error: {reason}")]
    Storage {
        /// Why.
        reason: String,
    },
}

impl Abandoned for AppendError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown { reason: "the broker dropped the call".into() }
    }
}
