//! Who waits for the answer of a call, and of what kind it must be.

use super::unavailable;
use crate::{
    id::{Revision, SessionId},
    service::{
        Reply,
        metadata::{MetadataError, Outcome, ScanPage, Versioned},
    },
    wire::metadata::proto::call_answer::Result as Done,
};

/// Who waits.
pub(super) enum Waiting {
    Value(Reply<Option<Versioned>, MetadataError>),
    Page(Reply<ScanPage, MetadataError>),
    Outcome(Reply<Outcome, MetadataError>),
    Session(Reply<SessionId, MetadataError>),
    KeptAlive(Reply<(), MetadataError>),
    Closed(Reply<(), MetadataError>),
}

impl Waiting {
    /// Whether the call may change something.
    pub(super) const fn is_write(&self) -> bool {
        match self {
            Self::Outcome(_) | Self::Session(_) | Self::Closed(_) => true,
            Self::Value(_) | Self::Page(_) | Self::KeptAlive(_) => false,
        }
    }

    /// Answers as the server did.
    pub(super) fn answer(self, result: Option<Done>) {
        match (self, result) {
            (waiting, Some(Done::Failed(error))) => waiting.fail(error.into()),
            (Self::Value(caller), Some(Done::Value(value))) => caller.send(Ok(value.item.map(Into::into))),
            (Self::Page(caller), Some(Done::Page(page))) => caller.send(Ok(page.into())),
            (Self::Outcome(caller), Some(Done::Committed(c))) => {
                caller.send(Ok(Outcome::Committed { revision: Revision(c.revision), sequences: c.sequences }));
            }
            (Self::Outcome(caller), Some(Done::Conflict(c))) => {
                let current = c.current.map(Into::into);
                caller.send(Ok(Outcome::Conflict { condition: c.condition as usize, current }));
            }
            (Self::Session(caller), Some(Done::Session(session))) => caller.send(Ok(SessionId(session))),
            (Self::KeptAlive(caller) | Self::Closed(caller), Some(Done::Done(_))) => caller.send(Ok(())),
            (waiting, _) => waiting.give_up(true, "the answer is of another kind than the call"),
        }
    }

    /// Answers a call that will not be answered any more; `perhaps` says whether it may have taken effect.
    pub(super) fn give_up(self, perhaps: bool, reason: &str) {
        let error = if perhaps && self.is_write() {
            MetadataError::OutcomeUnknown { reason: reason.into() }
        } else {
            unavailable(reason)
        };
        self.fail(error);
    }

    /// Answers with an error.
    pub(super) fn fail(self, error: MetadataError) {
        match self {
            Self::Value(caller) => caller.send(Err(error)),
            Self::Page(caller) => caller.send(Err(error)),
            Self::Outcome(caller) => caller.send(Err(error)),
            Self::Session(caller) => caller.send(Err(error)),
            Self::KeptAlive(caller) | Self::Closed(caller) => caller.send(Err(error)),
        }
    }
}
