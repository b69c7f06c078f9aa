//! The 61-byte header of a record batch: reading it, checking it, and the fields a broker may write.

use crate::id::{LeaderEpoch, Offset, Timestamp};
use bytes::{Buf, Bytes};

/// Bytes of the header, before the first record.
pub const BATCH_OVERHEAD: usize = 61;

const LENGTH_AT: usize = 8;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_DELTA_AT: usize = 23;
const FIRST_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const SEQUENCE_AT: usize = 53;
const COUNT_AT: usize = 57;
/// The part of a batch that its length field does not count: base offset and the length itself.
const UNCOUNTED: usize = 12;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, in Java's framing or raw.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

/// Why bytes are not a record batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Shorter than its header or its length field says.
    #[error("record batch is cut short: {have} bytes of {need}")]
    Short {
        /// What there is.
        have: usize,
        /// What it takes.
        need: usize,
    },
    /// A length no batch can have.
    #[error("record batch has an impossible length of {0}")]
    Length(i32),
    /// Not message format 2.
    #[error("message format {0} is not supported")]
    Magic(i8),
    /// The checksum does not match.
    #[error("record batch checksum mismatch: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// Counts and offsets contradict each other.
    #[error("record batch of {count} records spans {span} offsets")]
    Count {
        /// The record count.
        count: i32,
        /// Last offset delta + 1.
        span: i64,
    },
    /// A compression codec that does not exist.
    #[error("unknown compression codec {0}")]
    Codec(u8),
}

/// One record batch inside a larger buffer. Fields are read from the bytes when asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch(Bytes);

impl RecordBatch {
    /// The first batch of `bytes`, by its own length; checks that it is there and that it is format 2, not its checksum.
    pub fn first(bytes: &Bytes) -> Result<Self, BatchError> {
        let have = bytes.len();
        if have <= MAGIC_AT {
            return Err(BatchError::Short { have, need: BATCH_OVERHEAD });
        }
        // The magic byte stands at the same place in every format, and says whether the rest can be read at all.
        let magic = bytes[MAGIC_AT] as i8;
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = (&bytes[LENGTH_AT..]).get_i32();
        let size = usize::try_from(length).map_err(|_| BatchError::Length(length))? + UNCOUNTED;
        if size < BATCH_OVERHEAD {
            return Err(BatchError::Length(length));
        }
        if have < size {
            return Err(BatchError::Short { have, need: size });
        }
        Ok(Self(bytes.slice(..size)))
    }

    /// Checks everything that can be checked without decoding a record.
    pub fn validate(&self) -> Result<(), BatchError> {
        let stored = (&self.0[CRC_AT..]).get_u32();
        let computed = crc32c::crc32c(&self.0[ATTRIBUTES_AT..]);
        if stored != computed {
            return Err(BatchError::Checksum { stored, computed });
        }
        self.codec()?;
        let (count, span) = (self.record_count(), i64::from(self.i32_at(LAST_DELTA_AT)) + 1);
        if count < 0 || span < 1 || i64::from(count) > span {
            return Err(BatchError::Count { count, span });
        }
        Ok(())
    }

    fn i16_at(&self, at: usize) -> i16 {
        (&self.0[at..]).get_i16()
    }
    fn i32_at(&self, at: usize) -> i32 {
        (&self.0[at..]).get_i32()
    }
    fn i64_at(&self, at: usize) -> i64 {
        (&self.0[at..]).get_i64()
    }

    /// The batch's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
    /// The offset of its first record.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset(self.i64_at(0))
    }
    /// The offset of its last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset().0 + self.span() - 1)
    }
    /// How many offsets it spans; at least the number of records, more after compaction.
    #[must_use]
    pub fn span(&self) -> i64 {
        i64::from(self.i32_at(LAST_DELTA_AT)) + 1
    }
    /// The epoch of the owner that appended it.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.i32_at(EPOCH_AT))
    }
    fn attributes(&self) -> i16 {
        self.i16_at(ATTRIBUTES_AT)
    }
    /// How its records are compressed.
    pub fn codec(&self) -> Result<Codec, BatchError> {
        match self.attributes() & 7 {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            other => Err(BatchError::Codec(other as u8)),
        }
    }
    /// Whether its timestamps are the broker's.
    #[must_use]
    pub fn is_append_time(&self) -> bool {
        self.attributes() & 0x08 != 0
    }
    /// Whether it is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes() & 0x10 != 0
    }
    /// Whether it is a control batch.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes() & 0x20 != 0
    }
    /// The timestamp its records' deltas refer to.
    #[must_use]
    pub fn first_timestamp(&self) -> Timestamp {
        Timestamp(self.i64_at(FIRST_TIMESTAMP_AT))
    }
    /// The largest timestamp of its records.
    #[must_use]
    pub fn max_timestamp(&self) -> Timestamp {
        Timestamp(self.i64_at(MAX_TIMESTAMP_AT))
    }
    /// The idempotent producer's id, -1 if it has none.
    #[must_use]
    pub fn producer_id(&self) -> i64 {
        self.i64_at(PRODUCER_AT)
    }
    /// The idempotent producer's epoch.
    #[must_use]
    pub fn producer_epoch(&self) -> i16 {
        self.i16_at(PRODUCER_EPOCH_AT)
    }
    /// The sequence number of its first record, -1 if it has none.
    #[must_use]
    pub fn base_sequence(&self) -> i32 {
        self.i32_at(SEQUENCE_AT)
    }
    /// How many records it holds.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.i32_at(COUNT_AT)
    }
    /// The records' bytes, compressed as [`RecordBatch::codec`] says.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.0.slice(BATCH_OVERHEAD..)
    }
}

/// The batches of a buffer, in order; ends at the first error.
pub fn split(mut bytes: Bytes) -> impl Iterator<Item = Result<RecordBatch, BatchError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let next = RecordBatch::first(&bytes);
        match &next {
            Ok(batch) => bytes.advance(batch.bytes().len()),
            Err(_) => bytes.clear(),
        }
        Some(next)
    })
}

/// Writes base offset and leader epoch into a batch; both lie outside of the checksum.
///
/// # Panics
/// If `batch` is shorter than a header, which [`RecordBatch::first`] has ruled out.
pub fn set_base_offset(batch: &mut [u8], base: Offset, epoch: LeaderEpoch) {
    batch[..LENGTH_AT].copy_from_slice(&base.0.to_be_bytes());
    batch[EPOCH_AT..MAGIC_AT].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Stamps the broker's time into a batch (`LogAppendTime`) and renews its checksum.
///
/// # Panics
/// If `batch` is shorter than a header, which [`RecordBatch::first`] has ruled out.
pub fn set_append_time(batch: &mut [u8], time: Timestamp) {
    batch[ATTRIBUTES_AT + 1] |= 0x08;
    batch[MAX_TIMESTAMP_AT..PRODUCER_AT].copy_from_slice(&time.0.to_be_bytes());
    let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests;
