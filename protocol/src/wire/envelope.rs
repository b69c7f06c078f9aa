//! The headers of all frames: which call, which method, and the method's own message inside.
//!
//! The message is opaque here, so that a service's messages stay in the service's file.

use super::{frame::WireError, problem::Problem};
use bytes::Bytes;
use prost::Message;
use std::time::Duration;

/// The longest that a call may wait on purpose, whatever its message says.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// What a method is called by on the wire: the service in the high byte. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method(pub(super) u32);

/// "Are you there?": answered at once, by the connection itself.
pub(super) const PING: Method = Method(0x001);
/// The number of a ping; calls count from 1, so nobody waits for the answer but the pulse.
pub(super) const PING_CALL: u64 = 0;

/// The header of a request.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RequestHeader {
    /// Ascending per connection.
    #[prost(uint64, tag = "1")]
    pub(super) call: u64,
    #[prost(uint32, tag = "2")]
    pub(super) method: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) message: Bytes,
}

/// The header of an answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReplyHeader {
    /// The call it answers.
    #[prost(uint64, tag = "1")]
    pub(super) call: u64,
    /// Set if it failed.
    #[prost(message, optional, tag = "2")]
    pub(super) problem: Option<Problem>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) message: Bytes,
}

/// A message as the bytes of a header's field.
pub(super) fn pack(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// The message in a header's field.
pub(super) fn unpack<M: Message + Default>(message: Bytes) -> Result<M, WireError> {
    M::decode(message).map_err(Into::into)
}

/// The parts of a body that was sent as several; an error unless they fill it exactly.
pub(super) fn divide(mut body: Bytes, lengths: &[u32]) -> Result<Vec<Bytes>, WireError> {
    let sum: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
    if sum != body.len() as u64 {
        return Err(WireError::Malformed(format!("a body of {} bytes in parts of {sum}", body.len())));
    }
    Ok(lengths.iter().map(|&length| body.split_to(length as usize)).collect())
}

/// The lengths of a body's parts.
pub(super) fn lengths(parts: &[Bytes]) -> Vec<u32> {
    parts.iter().map(|part| part.len() as u32).collect()
}

/// A wait as it is sent: milliseconds.
pub(super) fn wait_ms(wait: Duration) -> u32 {
    wait.min(MAX_WAIT).as_millis() as u32
}

/// A wait as it arrived.
pub(super) fn wait_of(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(MAX_WAIT)
}
