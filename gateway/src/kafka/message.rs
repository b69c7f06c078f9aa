//! Decoding requests and encoding answers: the only door to the message crate's codec.
//!
//! Owns the order "walk the shape, then decode": no body reaches the crate's decoders before [`shape::check`] has
//! bounded every length in it. Slices of the frame are kept, record data is never copied. Knows no API.

use super::shape::{self, ShapeError};
use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};

/// Why a message could not be decoded or encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    /// The body does not have the shape of its API and version.
    #[error("malformed request: {0}")]
    Shape(#[from] ShapeError),
    /// The shape is right, a value is not (a null where none may be, bytes that are not UTF-8).
    #[error("malformed request of API {api_key} version {version}: {reason}")]
    Value {
        /// Kafka's API key.
        api_key: i16,
        /// The request's version.
        version: i16,
        /// What the decoder said.
        reason: String,
    },
    /// A message of ours holds what its version cannot say.
    #[error("cannot encode a message in version {version}: {reason}")]
    Encode {
        /// The version.
        version: i16,
        /// What the encoder said.
        reason: String,
    },
}

/// Decodes the body of a request, without header. Bytes after its last field are ignored, as Kafka does.
///
/// # Errors
/// [`MessageError::Shape`] and [`MessageError::Value`]; the connection it came on is beyond repair.
pub(crate) fn decode<M: Decodable>(api_key: i16, version: i16, mut body: Bytes) -> Result<M, MessageError> {
    shape::check(api_key, version, &body)?;
    M::decode(&mut body, version).map_err(|e| value_error(api_key, version, e.to_string()))
}

fn value_error(api_key: i16, version: i16, reason: String) -> MessageError {
    MessageError::Value { api_key, version, reason }
}

/// Encodes a message, without header, into a buffer of exactly its size.
///
/// # Errors
/// [`MessageError::Encode`], which is a mistake of ours.
pub(crate) fn encode<M: Encodable>(message: &M, version: i16) -> Result<Bytes, MessageError> {
    let failed = |reason: String| MessageError::Encode { version, reason };
    let size = message.compute_size(version).map_err(|e| failed(e.to_string()))?;
    let mut buffer = BytesMut::with_capacity(size);
    message.encode(&mut buffer, version).map_err(|e| failed(e.to_string()))?;
    Ok(buffer.freeze())
}
