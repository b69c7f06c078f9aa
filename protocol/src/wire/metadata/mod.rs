//! The metadata service over tonic: [`MetadataServer`] serves any implementation, [`RemoteMetadata`] is one;
//! [`RemoteQuorum`] is the same cluster for those who look after it.
//!
//! All calls of a handle travel on one stream, in order, and all its watches on another. Owns the translation between the
//! contract and the wire in both directions, who may talk to whom (`hello`), and deadlines. What becomes of a call whose
//! server goes away is decided in `client`.

mod client;
mod convert;
mod hello;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod server;

pub use client::{RemoteMetadata, RemoteOptions, RemoteQuorum};
#[cfg(any(test, feature = "testing"))]
pub use memory::{MemoryLine, over_memory};
pub use server::{Handles, MetadataServer, Serving};

use crate::service::metadata::MetadataError;

/// The version of `metadata.proto` that this build speaks.
pub const WIRE_VERSION: u32 = 2;
/// The most watches that one connection carries.
pub const MAX_WATCHES: usize = 1 << 18;

/// The largest message: a full scan page or transaction with room to spare.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// What is added to a message after it was checked: the ids of calls and requests.
const ENVELOPE: usize = 1024;

/// Refuses a message that the other side would not read.
fn check_message(what: &'static str, message: &impl prost::Message) -> Result<(), MetadataError> {
    let (size, limit) = (message.encoded_len(), MAX_MESSAGE - ENVELOPE);
    if size <= limit {
        return Ok(());
    }
    Err(MetadataError::TooLarge { what, size: size as u64, limit: limit as u64 })
}

/// What is generated from `proto/metadata.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines, reason = "generated code")]
mod proto {
    tonic::include_proto!("magnetar.metadata.v1");
}

#[cfg(test)]
mod tests;
