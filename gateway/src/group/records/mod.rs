//! The records of `__consumer_offsets`, in Kafka's own key and value schemas so that tools read them, and the record
//! batches they are written in.
//!
//! [`key`] and [`value`] own the layouts, [`batch`] the batch around them. Versions that can be read: offset keys 0 and
//! 1, offset values 0 to 4, group keys 2, group values 0 to 4. Versions that are written: offset key 1 with value 3
//! (1 if the commit names its own expiry), group key 2 with value 3: what every Kafka since 2.4 reads.

pub(super) mod batch;
mod field;
mod key;
mod value;

pub(crate) use key::Key;
pub(crate) use value::{GroupMetadata, MemberMetadata, OffsetValue};

use bytes::Bytes;

/// A record to be written; without a value it is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The key, encoded.
    pub(crate) key: Bytes,
    /// The value, encoded; none deletes the key.
    pub(crate) value: Option<Bytes>,
}

impl Record {
    /// A committed offset.
    pub(crate) fn offset(group: &str, topic: &str, partition: i32, value: &OffsetValue) -> Result<Self, RecordError> {
        Ok(Self { key: Key::offset(group, topic, partition).encode()?, value: Some(value.encode()?) })
    }

    /// A committed offset that is gone.
    pub(crate) fn no_offset(group: &str, topic: &str, partition: i32) -> Result<Self, RecordError> {
        Ok(Self { key: Key::offset(group, topic, partition).encode()?, value: None })
    }

    /// A group's metadata.
    pub(crate) fn group(group: &str, metadata: &GroupMetadata) -> Result<Self, RecordError> {
        Ok(Self { key: Key::Group(group.to_owned()).encode()?, value: Some(metadata.encode()?) })
    }

    /// A group that is gone.
    pub(crate) fn no_group(group: &str) -> Result<Self, RecordError> {
        Ok(Self { key: Key::Group(group.to_owned()).encode()?, value: None })
    }

    /// Bytes of key and value.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Why a record cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// It ends before it should, or a length in it is impossible.
    #[error("the record is malformed: {0}")]
    Malformed(&'static str),
    /// A newer version than this one can read.
    #[error("version {version} of {what} is not supported")]
    Version {
        /// Which schema.
        what: &'static str,
        /// The version found.
        version: i16,
    },
    /// A string or byte array does not fit its length field.
    #[error("a field of {0} bytes is too long for a record")]
    TooLong(usize),
}

#[cfg(test)]
mod tests;
