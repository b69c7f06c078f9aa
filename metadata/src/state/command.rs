//! Commands: what is written to the raft log, as the state machine reads it.
//!
//! The stored twins of the contract's types. They are serialized with field names, so that a field can be added
//! without a new log format; the contract's own types are free of any encoding.

use super::binary;
use bytes::Bytes;
use protocol::{
    id::{Revision, SessionId},
    service::metadata::{Condition, Operation, RequestId, Transaction, Versioned},
};
use serde::{Deserialize, Serialize};

/// Something that changes the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A client's transaction.
    Transact {
        /// What must hold.
        conditions: Vec<StoredCondition>,
        /// What then happens.
        operations: Vec<StoredOperation>,
        /// The identity of the request, if it may be retried.
        request: Option<StoredRequest>,
    },
    /// A new session.
    OpenSession {
        /// Its time to live without a heartbeat.
        ttl_ms: u64,
    },
    /// The end of a session, at its client's wish or because its time is over.
    CloseSession {
        /// The session.
        session: SessionId,
    },
    /// The state after a log entry had this digest on the leader. Changes nothing; every voter compares.
    Audit {
        /// The index of the log entry.
        index: u64,
        /// The leader's digest after it.
        digest: u64,
    },
}

/// [`Condition`], stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredCondition {
    /// The key does not exist.
    Absent(String),
    /// The key exists.
    Present(String),
    /// The key exists at this version.
    Version(String, Revision),
    /// The session lives.
    Session(SessionId),
}

/// [`Operation`], stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredOperation {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        #[serde(with = "binary")]
        value: Bytes,
        /// The session it lives with.
        session: Option<SessionId>,
    },
    /// Removes a key.
    Delete(String),
    /// Takes numbers from a sequence.
    Sequence {
        /// Its name.
        name: String,
        /// How many.
        count: u64,
    },
}

/// [`RequestId`], stored; the client's 128 bits in two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoredRequest {
    /// The upper and the lower half of the client's number.
    pub client: (u64, u64),
    /// Ascending per client.
    pub sequence: u64,
}

/// [`Versioned`], stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredVersioned {
    /// The key.
    pub key: String,
    /// Its value.
    #[serde(with = "binary")]
    pub value: Bytes,
    /// Its version.
    pub version: Revision,
    /// The session it lives with.
    pub session: Option<SessionId>,
}

impl From<Transaction> for Command {
    fn from(t: Transaction) -> Self {
        Self::Transact {
            conditions: t.conditions.into_iter().map(Into::into).collect(),
            operations: t.operations.into_iter().map(Into::into).collect(),
            request: t.request.map(Into::into),
        }
    }
}

impl From<Condition> for StoredCondition {
    fn from(c: Condition) -> Self {
        match c {
            Condition::Absent(key) => Self::Absent(key),
            Condition::Present(key) => Self::Present(key),
            Condition::Version(key, version) => Self::Version(key, version),
            Condition::Session(session) => Self::Session(session),
        }
    }
}

impl From<Operation> for StoredOperation {
    fn from(o: Operation) -> Self {
        match o {
            Operation::Put { key, value, session } => Self::Put { key, value, session },
            Operation::Delete(key) => Self::Delete(key),
            Operation::Sequence { name, count } => Self::Sequence { name, count },
        }
    }
}

impl From<RequestId> for StoredRequest {
    fn from(r: RequestId) -> Self {
        Self { client: ((r.client >> 64) as u64, r.client as u64), sequence: r.sequence }
    }
}

impl From<Versioned> for StoredVersioned {
    fn from(v: Versioned) -> Self {
        Self { key: v.key, value: v.value, version: v.version, session: v.session }
    }
}

impl From<StoredVersioned> for Versioned {
    fn from(v: StoredVersioned) -> Self {
        Self { key: v.key, value: v.value, version: v.version, session: v.session }
    }
}
