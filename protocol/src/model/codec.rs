//! How a record becomes a value: one version byte, then a MessagePack map. Owns the version check; never panics on
//! what it reads.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// The version every record is written with.
pub(super) const MODEL_VERSION: u8 = 1;

/// A type that is stored as the value of a metadata key.
pub trait Record: Serialize + DeserializeOwned {
    /// What to call it in an error message.
    const NAME: &'static str;
}

/// Why a stored value is not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Written by a newer Magnetar.
    #[error("{record} has format version {found}, this node knows {MODEL_VERSION}; upgrade it to read the record")]
    Version {
        /// Which record.
        record: &'static str,
        /// The version found.
        found: u8,
    },
    /// Not a record at all.
    #[error("{record} cannot be decoded: {reason}")]
    Malformed {
        /// Which record.
        record: &'static str,
        /// What the decoder said.
        reason: String,
    },
}

/// The value of a record.
#[must_use]
pub fn encode<R: Record>(record: &R) -> Bytes {
    let mut value = vec![MODEL_VERSION];
    #[expect(clippy::expect_used, reason = "writing plain data to memory cannot fail")]
    rmp_serde::encode::write_named(&mut value, record).expect("records are plain data");
    value.into()
}

/// The record in a value.
pub fn decode<R: Record>(value: &[u8]) -> Result<R, ModelError> {
    match value.split_first() {
        Some((&MODEL_VERSION, body)) => {
            rmp_serde::from_slice(body).map_err(|e| ModelError::Malformed { record: R::NAME, reason: e.to_string() })
        }
        Some((&found, _)) => Err(ModelError::Version { record: R::NAME, found }),
        None => Err(ModelError::Malformed { record: R::NAME, reason: "empty value".into() }),
    }
}
