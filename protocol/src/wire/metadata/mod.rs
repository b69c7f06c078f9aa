//! The metadata service over tonic: [`MetadataServer`] serves any implementation, [`RemoteMetadata`] is one.
//!
//! All calls of a handle travel on one stream, in order; a watch has a stream of its own. Owns the translation between
//! the contract and the wire in both directions, deadlines, and what a lost connection means: a write that was sent is
//! "outcome unknown", everything else is "unavailable". It never retries a call on its own.

mod caller;
mod client;
mod convert;
mod memory;
mod server;

pub use client::{RemoteMetadata, RemoteOptions};
pub use memory::over_memory;
pub use server::MetadataServer;

/// The version of `metadata.proto` that this build speaks.
pub const WIRE_VERSION: u32 = 1;

/// The largest message: a full scan page or transaction with room to spare.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// What is generated from `proto/metadata.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines, reason = "generated code")]
mod proto {
    tonic::include_proto!("magnetar.metadata.v1");
}

#[cfg(test)]
mod tests;
