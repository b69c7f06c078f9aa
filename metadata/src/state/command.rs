//! Commands and replies: what is written to the raft log, and what applying it answers.
//!
//! The stored twins of the contract's types. They are serialized with field names, so that a field can be added
//! without a new log format; the contract's own types are free of any encoding.

use super::binary;
use bytes::Bytes;
use protocol::{
    id::{Revision, SessionId},
    service::metadata::{Condition, MetadataError, Operation, Outcome, RequestId, Transaction, Versioned},
};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The version of the encoding of commands.
const BATCH_VERSION: u8 = 1;

/// The commands of one log entry, applied in order. Many callers share one entry, and so one disk sync.
///
/// They are encoded once, by whoever proposes them, and decoded where they are applied; in between nobody reads them.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Batch {
    /// Milliseconds that the leader's monotonic clock has measured since its last batch.
    pub elapsed_ms: u64,
    #[serde(with = "binary")]
    commands: Bytes,
}

/// Why the commands of a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Written by a newer Magnetar.
    #[error("the commands have version {found}, this node knows {BATCH_VERSION}; upgrade it")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Not decodable.
    #[error("the commands cannot be decoded: {0}")]
    Malformed(String),
}

impl Batch {
    /// The commands of one proposal.
    #[must_use]
    #[expect(clippy::expect_used, reason = "writing plain data to memory cannot fail")]
    pub fn new(elapsed: Duration, commands: &[Command]) -> Self {
        let mut bytes = vec![BATCH_VERSION];
        rmp_serde::encode::write_named(&mut bytes, commands).expect("commands are plain data");
        Self { elapsed_ms: elapsed.as_millis() as u64, commands: bytes.into() }
    }

    /// The commands.
    ///
    /// # Errors
    /// If they are damaged, or a newer Magnetar made them.
    pub fn decode(&self) -> Result<Vec<Command>, BatchError> {
        match self.commands.split_first() {
            Some((&BATCH_VERSION, body)) => {
                rmp_serde::from_slice(body).map_err(|e| BatchError::Malformed(e.to_string()))
            }
            Some((&found, _)) => Err(BatchError::Version { found }),
            None => Ok(Vec::new()),
        }
    }

    /// Its size in the log, in bytes, nearly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.commands.len()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.commands.len())
    }
}

/// The replies to a [`Batch`], one per command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replies(pub Vec<Reply>);

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

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The transaction happened.
    Committed {
        /// Its revision.
        revision: Revision,
        /// The first number taken from each sequence.
        sequences: Vec<u64>,
    },
    /// A condition did not hold.
    Conflict {
        /// Which one.
        condition: u64,
        /// What its key holds.
        current: Option<StoredVersioned>,
    },
    /// The session was opened.
    Session(SessionId),
    /// The session was closed.
    Closed,
    /// The session does not live; nothing happened.
    SessionExpired(SessionId),
    /// The request is a retry from so long ago that its answer is no longer kept.
    Forgotten,
    /// The command cannot be carried out; nothing happened.
    Refused(String),
    /// The entry was raft's own.
    None,
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

impl Reply {
    /// The outcome of a transaction.
    ///
    /// # Errors
    /// The reply's own, and `OutcomeUnknown` for one that does not belong to a transaction.
    pub fn into_outcome(self) -> Result<Outcome, MetadataError> {
        match self {
            Self::Committed { revision, sequences } => Ok(Outcome::Committed { revision, sequences }),
            Self::Conflict { condition, current } => {
                Ok(Outcome::Conflict { condition: condition as usize, current: current.map(Into::into) })
            }
            other => Err(other.into_error()),
        }
    }

    /// The session that was opened.
    ///
    /// # Errors
    /// The reply's own.
    pub fn into_session(self) -> Result<SessionId, MetadataError> {
        match self {
            Self::Session(session) => Ok(session),
            other => Err(other.into_error()),
        }
    }

    /// Whether the session was closed.
    ///
    /// # Errors
    /// The reply's own.
    pub fn into_closed(self) -> Result<(), MetadataError> {
        match self {
            Self::Closed => Ok(()),
            other => Err(other.into_error()),
        }
    }

    fn into_error(self) -> MetadataError {
        match self {
            Self::SessionExpired(session) => MetadataError::SessionExpired(session),
            Self::Forgotten => MetadataError::OutcomeUnknown {
                reason: "the request is a retry of one whose answer is no longer kept".into(),
            },
            Self::Refused(reason) => MetadataError::Invalid(reason),
            other => MetadataError::OutcomeUnknown { reason: format!("unexpected reply {other:?}") },
        }
    }
}
