//! A zero-copy view of a Kafka record batch, message format 2 (KIP-98), and the two changes a broker may make to one.
//!
//! The CRC-32C covers everything from the attributes on, so base offset and partition leader epoch can be written
//! without touching it; only the append time needs a new checksum. No record is decoded here, except by
//! [`for_each_record`] for compaction, time look-ups and key checks. The file owns the header's layout;
//! it never allocates on the strength of a length it has not checked.

mod header;
mod records;

pub use header::{BATCH_OVERHEAD, BatchError, Codec, RecordBatch, set_append_time, set_base_offset, split};
pub use records::{RecordView, RecordsError, for_each_record};
