//! A bookie as the protocol sees it: what it has synced, whether it is fenced, and answers that are never mixed up.

use protocol::{
    id::{EntryId, Lac, LedgerId},
    service::bookie::BookieError,
};
use std::collections::{BTreeMap, BTreeSet};

/// What stands for the bytes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// Last-add-confirmed when it was sent.
    pub(super) lac: Lac,
    pub(super) size: u32,
    pub(super) length: u64,
}

/// A request to a bookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Add { entry: EntryId, content: Content, recovery: bool },
    Fence,
    Read { entry: EntryId, fence: bool },
}

/// What a bookie says when it did what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Added,
    Fenced(Lac),
    Holds(Content),
}

/// Ways in which a bookie can break the rules, to prove that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mutation {
    #[default]
    None,
    /// Answers a fence without keeping it (against rule R3).
    FenceIsForgotten,
    /// A recovery read does not fence (against rule R6; BookKeeper issue 2614).
    ReadsDoNotFence,
    /// Denies an entry that it cannot read (against rule R9; BookKeeper issue 2908).
    DamageIsAbsence,
    /// Acknowledges an add that it has lost (against rule B1).
    AddsAreForgotten,
}

/// The model.
#[derive(Debug, Clone, Default)]
pub(super) struct ModelBookie {
    pub(super) fenced: bool,
    pub(super) entries: BTreeMap<EntryId, Content>,
    pub(super) lac: Lac,
    pub(super) down: bool,
    /// Entries that cannot be read for now.
    pub(super) damaged: BTreeSet<EntryId>,
    pub(super) mutation: Mutation,
}

const LEDGER: LedgerId = LedgerId(1);

impl ModelBookie {
    pub(super) fn take(&mut self, call: Call) -> Result<Said, BookieError> {
        if self.down {
            return Err(BookieError::Unavailable { reason: "down".into() });
        }
        match call {
            Call::Add { recovery: false, .. } if self.fenced => Err(BookieError::Fenced(LEDGER)),
            Call::Add { entry, content, .. } => {
                if self.mutation != Mutation::AddsAreForgotten {
                    self.entries.insert(entry, content);
                    self.lac = self.lac.max(content.lac);
                }
                Ok(Said::Added)
            }
            Call::Fence => {
                self.fenced |= self.mutation != Mutation::FenceIsForgotten;
                Ok(Said::Fenced(self.lac))
            }
            Call::Read { entry, fence } => {
                self.fenced |=
                    fence && !matches!(self.mutation, Mutation::ReadsDoNotFence | Mutation::FenceIsForgotten);
                self.read(entry)
            }
        }
    }

    fn read(&self, entry: EntryId) -> Result<Said, BookieError> {
        let absent = Err(BookieError::NoSuchEntry(LEDGER, entry));
        match self.entries.get(&entry) {
            Some(_) if self.damaged.contains(&entry) && self.mutation == Mutation::DamageIsAbsence => absent,
            Some(_) if self.damaged.contains(&entry) => {
                Err(BookieError::Unknown { reason: "the entry cannot be read".into() })
            }
            Some(content) => Ok(Said::Holds(*content)),
            None => absent,
        }
    }
}
