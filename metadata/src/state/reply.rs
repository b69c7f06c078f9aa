//! Replies: what applying a command answers, and what of it is kept for retries.

use super::{
    command::StoredVersioned,
    digest::{Hashed, Hasher},
};
use protocol::{
    id::{Revision, SessionId},
    service::metadata::{MAX_SESSION_BYTES, MAX_SESSION_KEYS, MetadataError, Outcome},
};
use serde::{Deserialize, Serialize};

/// The replies to a [`Batch`], one per command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replies(pub Vec<Reply>);

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
    /// The request was never carried out and never will be: a later one of the same client was.
    Superseded,
    /// A session would hold more than it may; nothing happened.
    SessionFull {
        /// The session.
        session: SessionId,
        /// The keys it would hold.
        keys: u64,
        /// The bytes of keys and values it would hold.
        bytes: u64,
    },
    /// The command cannot be carried out; nothing happened.
    Refused(String),
    /// What came of an audit.
    Audited(Agreement),
    /// The entry was raft's own.
    None,
}

/// Whether this voter's state agrees with the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Agreement {
    /// It does.
    Agrees,
    /// It does not: this voter has applied something else.
    Differs,
    /// This voter does not know its digest at that position any more, or never did.
    Unknown,
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
            Self::Superseded => MetadataError::overtaken(),
            Self::SessionFull { session, keys, .. } if keys > MAX_SESSION_KEYS => MetadataError::Invalid(format!(
                "session {session} would hold {keys} keys; it may hold {MAX_SESSION_KEYS}"
            )),
            Self::SessionFull { bytes, .. } => {
                MetadataError::TooLarge { what: "session", size: bytes, limit: MAX_SESSION_BYTES }
            }
            Self::Refused(reason) => MetadataError::Invalid(reason),
            other => MetadataError::OutcomeUnknown { reason: format!("unexpected reply {other:?}") },
        }
    }
}

impl Hashed for Reply {
    fn feed(&self, hasher: &mut Hasher) {
        match self {
            Self::Committed { revision, sequences } => {
                hasher.number(0).number(revision.0).number(sequences.len() as u64);
                sequences.iter().fold(hasher, |hasher, first| hasher.number(*first))
            }
            Self::Conflict { condition, current: None } => hasher.number(1).number(*condition),
            Self::Conflict { condition, current: Some(StoredVersioned { key, value, version, session }) } => {
                hasher.number(2).number(*condition).bytes(key.as_bytes()).bytes(value);
                hasher.number(version.0).option(session.map(|s| s.0))
            }
            Self::Session(session) => hasher.number(3).number(session.0),
            Self::Closed => hasher.number(4),
            Self::SessionExpired(session) => hasher.number(5).number(session.0),
            Self::Forgotten => hasher.number(6),
            Self::Superseded => hasher.number(7),
            Self::SessionFull { session, keys, bytes } => {
                hasher.number(8).number(session.0).number(*keys).number(*bytes)
            }
            Self::Refused(reason) => hasher.number(9).bytes(reason.as_bytes()),
            Self::Audited(agreement) => hasher.number(10).number(*agreement as u64),
            Self::None => hasher.number(11),
        };
    }
}
