//! Why a writer stops, and why its metadata could not be replaced.

use protocol::{id::LedgerId, service::Abandoned};

/// Why a ledger cannot be written any more. In every case but [`WriteError::Closed`] the ledger has to be recovered by
/// whoever owns it, and entries that were not confirmed may or may not be found then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Someone else has taken the ledger over (rules W9, W10).
    #[error("ledger {0} is fenced: another broker has taken it over")]
    Fenced(LedgerId),
    /// The ledger was deleted.
    #[error("ledger {0} was deleted")]
    Deleted(LedgerId),
    /// Too few bookies are left; nothing was in flight.
    #[error("{available} bookies can be written, the ack quorum needs {required}")]
    NotEnoughBookies {
        /// Bookies left.
        available: usize,
        /// The ack quorum.
        required: usize,
    },
    /// A bookie refused the entry in a way that must not happen: wrong key, other content, damaged on the way.
    #[error("a bookie refused the entry: {reason}")]
    Storage {
        /// Why.
        reason: String,
    },
    /// Entries in flight may or may not have been stored.
    #[error("the outcome of the write is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
    /// The writer has been closed and takes no more entries.
    #[error("the ledger is closed for writing")]
    Closed,
}

/// Why a ledger's metadata was not replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// The ledger is no longer open, or its partition has another owner: the writer has lost it and stops.
    #[error("the ledger has another owner or is no longer open")]
    Lost,
    /// Nothing happened.
    #[error("metadata is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It may or may not have been replaced.
    #[error("the outcome of the metadata change is unknown: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: String,
    },
}

impl Abandoned for ReplaceError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown { reason: "the metadata store dropped the call".into() }
    }
}
