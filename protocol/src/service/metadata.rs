//! The contract of the metadata service: ordered, versioned keys with transactions, sessions, sequences and watches
//! that resume without gaps.

use super::{Abandoned, Answer};
use crate::id::{Revision, SessionId};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::time::Duration;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The largest value, in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;
/// The largest transaction, in bytes of keys and values.
pub const MAX_TRANSACTION: usize = 4 * 1024 * 1024;
/// The most keys that live with one session.
pub const MAX_SESSION_KEYS: u64 = 10_000;
/// The most bytes of keys and values that live with one session.
pub const MAX_SESSION_BYTES: u64 = 4 * 1024 * 1024;
/// The most items of one scan page.
pub const MAX_SCAN: u32 = 10_000;

/// A key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that wrote it; the version to compare with.
    pub version: Revision,
    /// The session it lives with, if it is ephemeral.
    pub session: Option<SessionId>,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Sees everything that was committed before the call.
    Linearizable,
    /// Answers from what this node has applied; may be behind.
    Stale,
}

/// A page of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Every key must begin with this.
    pub prefix: String,
    /// Begin after this key; the last key of the page before.
    pub after: Option<String>,
    /// The most items wanted, 1 to [`MAX_SCAN`].
    pub limit: u32,
    /// How fresh the page must be.
    pub consistency: Consistency,
}

/// A page of keys in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPage {
    /// The items, in key order.
    pub items: Vec<Versioned>,
    /// Whether keys follow after the last item.
    pub more: bool,
    /// The state the page was read from; watch from here to miss nothing.
    pub revision: Revision,
}

/// What must hold for a transaction to take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent(String),
    /// The key exists, at any version.
    Present(String),
    /// The key exists and was last written at this revision.
    Version(String, Revision),
    /// The session lives.
    Session(SessionId),
}

/// One effect of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Writes a key; with a session, the key dies with it.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// The session it lives with.
        session: Option<SessionId>,
    },
    /// Removes a key; nothing happens if it does not exist.
    Delete(String),
    /// Takes `count` numbers from a sequence; they are never issued again. The first is reported.
    Sequence {
        /// The sequence's name.
        name: String,
        /// How many, 1 or more.
        count: u64,
    },
}

/// Identifies a transaction so that a retry gets the first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The client, drawn at random once per handle.
    pub client: u128,
    /// Ascending per client.
    pub sequence: u64,
}

/// Effects that happen together, if every condition holds, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What then happens, in order.
    pub operations: Vec<Operation>,
    /// Set by a client that may retry.
    pub request: Option<RequestId>,
}

impl Transaction {
    /// Size that counts against [`MAX_TRANSACTION`], in bytes. Every operation and condition counts for a little more
    /// than its key and value, so that many small ones are not endless work.
    #[must_use]
    pub fn size(&self) -> usize {
        const EACH: usize = 32;
        let parts = self.operations.len() + self.conditions.len();
        let operation = |o: &Operation| match o {
            Operation::Put { key, value, .. } => key.len() + value.len(),
            Operation::Delete(key) | Operation::Sequence { name: key, .. } => key.len(),
        };
        let condition = |c: &Condition| match c {
            Condition::Absent(k) | Condition::Present(k) | Condition::Version(k, _) => k.len(),
            Condition::Session(_) => 8,
        };
        let conditions: usize = self.conditions.iter().map(condition).sum();
        self.operations.iter().map(operation).sum::<usize>() + conditions + parts * EACH
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It happened.
    Committed {
        /// The version of every key it wrote.
        revision: Revision,
        /// The first number of each [`Operation::Sequence`], in order.
        sequences: Vec<u64>,
    },
    /// A condition did not hold and nothing happened.
    Conflict {
        /// Which one, by position.
        condition: usize,
        /// What its key holds now.
        current: Option<Versioned>,
    },
}

/// One changed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(Versioned),
    /// It is gone.
    Deleted(String),
}

/// All changes of one transaction under the watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// The transaction's revision; resume after it.
    pub revision: Revision,
    /// The changes, in operation order; empty when the event only reports progress.
    pub changes: Vec<Change>,
}

/// Events in revision order, none left out and none repeated. It ends with an error, after which the watcher resumes
/// from the last revision it saw, or lists again if that is [`MetadataError::Compacted`].
pub type WatchStream = BoxStream<'static, Result<WatchEvent, MetadataError>>;

/// Why the metadata service did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Nothing happened: no quorum, no leader, shutting down. Safe to retry.
    #[error("the metadata service is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It may or may not have happened.
    #[error("the outcome of a metadata call is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// The session is not, or no longer, alive.
    #[error("metadata session {0} has expired")]
    SessionExpired(SessionId),
    /// The watch asked for a past that is no longer kept.
    #[error("revision {asked} is no longer kept (oldest: {oldest}); list again and watch from there")]
    Compacted {
        /// What was asked.
        asked: Revision,
        /// What is kept.
        oldest: Revision,
    },
    /// A limit was exceeded.
    #[error("{what} of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The request makes no sense.
    #[error("invalid metadata request: {0}")]
    Invalid(String),
}

impl MetadataError {
    /// How the reason begins when a transaction comes too late to keep the order of calls.
    const OVERTAKEN: &str = "a later call of the same client took effect first";

    /// A later call of the same client took effect first. Nothing happened, nor ever will under this request id.
    #[must_use]
    pub fn overtaken() -> Self {
        Self::Unavailable { reason: format!("{}; nothing happened", Self::OVERTAKEN) }
    }

    /// Whether this is [`MetadataError::overtaken`], from whichever node it came.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        matches!(self, Self::Unavailable { reason } if reason.starts_with(Self::OVERTAKEN))
    }
}

impl Abandoned for MetadataError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown { reason: "the metadata service dropped the call".into() }
    }
}

/// The metadata service.
pub trait MetadataService: Send + Sync + 'static {
    /// What a key holds.
    fn get(&self, key: String, consistency: Consistency) -> Answer<Option<Versioned>, MetadataError>;
    /// A page of the keys under a prefix, in order.
    fn scan(&self, scan: Scan) -> Answer<ScanPage, MetadataError>;
    /// Conditions and effects over several keys, all or nothing.
    fn transact(&self, transaction: Transaction) -> Answer<Outcome, MetadataError>;
    /// Everything that happens under a prefix after a revision.
    fn watch(&self, prefix: String, after: Revision) -> Answer<WatchStream, MetadataError>;
    /// A new session that lives until `ttl` passes without a heartbeat.
    fn open_session(&self, ttl: Duration) -> Answer<SessionId, MetadataError>;
    /// A heartbeat.
    fn keep_alive(&self, session: SessionId) -> Answer<(), MetadataError>;
    /// Ends a session and deletes its keys at once.
    fn close_session(&self, session: SessionId) -> Answer<(), MetadataError>;
}
