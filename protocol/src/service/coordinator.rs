//! The contract between gateways: a request of a group or a transaction, passed on unread to the gateway that
//! coordinates it. That is the one in the process whose broker owns the internal partition `hash(key)`.

use super::{Abandoned, Answer};
use bytes::Bytes;

/// Whose coordinator is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CoordinatorKey {
    /// The coordinator of a consumer group.
    Group(String),
    /// The coordinator of a transactional id.
    Transaction(String),
    /// All that this node coordinates: for listings.
    Node,
}

/// An opaque request.
#[derive(Debug, Clone)]
pub struct CoordinatorCall {
    /// Whose coordinator is meant.
    pub key: CoordinatorKey,
    /// Kafka's API key.
    pub api_key: i16,
    /// Kafka's version of the request and of the answer.
    pub api_version: i16,
    /// The client's own name for itself.
    pub client_id: Option<String>,
    /// Where the client connects from.
    pub client_host: String,
    /// The body of the request, without header.
    pub body: Bytes,
}

/// Why a coordinator did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// Another node coordinates this key; ask the cluster view again.
    #[error("this node does not coordinate {0}")]
    NotCoordinator(String),
    /// It is still reading its state; retry.
    #[error("the coordinator is loading")]
    Loading,
    /// Nothing happened: not reachable, or shutting down.
    #[error("the coordinator is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It may or may not have happened.
    #[error("the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// The body is not a request of this API and version.
    #[error("malformed request: {reason}")]
    Malformed {
        /// Why.
        reason: String,
    },
}

impl Abandoned for CoordinatorError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown { reason: "the coordinator dropped the call".into() }
    }
}

/// A node's coordinators.
pub trait CoordinatorService: Send + Sync + 'static {
    /// Passes a request on; the answer is the body of the response.
    fn call(&self, call: CoordinatorCall) -> Answer<Bytes, CoordinatorError>;
}
