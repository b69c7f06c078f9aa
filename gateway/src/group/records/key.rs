//! Keys of `__consumer_offsets`: a version that says what the record is about, then the fields.

use super::{
    RecordError,
    field::{Reader, Writer},
};
use bytes::Bytes;

const OFFSET_VERSION: i16 = 1;
const GROUP_VERSION: i16 = 2;

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// The committed offset of a group in a partition.
    Offset {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The partition's number.
        partition: i32,
    },
    /// A group.
    Group(String),
}

impl Key {
    /// The key of a committed offset.
    #[must_use]
    pub(crate) fn offset(group: &str, topic: &str, partition: i32) -> Self {
        Self::Offset { group: group.to_owned(), topic: topic.to_owned(), partition }
    }

    /// The key in Kafka's form.
    pub(crate) fn encode(&self) -> Result<Bytes, RecordError> {
        let mut out = Writer::default();
        match self {
            Self::Offset { group, topic, partition } => {
                out.i16(OFFSET_VERSION);
                out.string(group)?;
                out.string(topic)?;
                out.i32(*partition);
            }
            Self::Group(group) => {
                out.i16(GROUP_VERSION);
                out.string(group)?;
            }
        }
        Ok(out.finish())
    }

    /// Reads a key. Other versions are other kinds of records, which a newer coordinator may have written.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let mut fields = Reader::new(bytes);
        match fields.i16()? {
            0 | OFFSET_VERSION => {
                Ok(Self::Offset { group: fields.string()?, topic: fields.string()?, partition: fields.i32()? })
            }
            GROUP_VERSION => Ok(Self::Group(fields.string()?)),
            version => Err(RecordError::Version { what: "a key of __consumer_offsets", version }),
        }
    }
}
