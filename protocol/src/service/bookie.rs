//! The contract of a bookie: sealed entries in, sealed entries out, and three kinds of answer that never stand in for
//! each other: yes, "no such entry" (known to be true), and "unknown".

use super::{Abandoned, Answer};
use crate::{
    id::{EntryId, Lac, LedgerId, LedgerKey},
    ledger::{entry::SealedEntry, metadata::BookieMember},
};
use std::{ops::RangeInclusive, time::Duration};

/// Adds one entry.
#[derive(Debug, Clone)]
pub struct AddEntry {
    /// The bookie and incarnation it is meant for.
    pub member: BookieMember,
    /// The ledger's secret.
    pub key: LedgerKey,
    /// Set by recovery and repair: accepted on a fenced ledger.
    pub recovery: bool,
    /// The entry; names its ledger and place.
    pub entry: SealedEntry,
}

/// Reads a run of entries.
#[derive(Debug, Clone)]
pub struct ReadEntries {
    /// The bookie and incarnation it is meant for.
    pub member: BookieMember,
    /// The ledger.
    pub ledger: LedgerId,
    /// The first entry wanted.
    pub first: EntryId,
    /// The most entries wanted, 1 or more.
    pub max_count: u32,
    /// The most bytes wanted; the first entry comes whatever its size.
    pub max_bytes: u32,
    /// Set by recovery: the ledger is fenced, durably, before the answer (rule R6).
    pub fence: Option<LedgerKey>,
}

/// A run of entries, dense from the first one asked for; it ends early at the first gap.
#[derive(Debug, Clone)]
pub struct EntryRun {
    /// The entries; never empty.
    pub entries: Vec<SealedEntry>,
    /// The highest last-add-confirmed this bookie has seen for the ledger.
    pub lac: Lac,
}

/// Fences a ledger: durable before it is answered, also for a ledger never seen (rule R3).
#[derive(Debug, Clone)]
pub struct FenceLedger {
    /// The bookie and incarnation it is meant for.
    pub member: BookieMember,
    /// The ledger.
    pub ledger: LedgerId,
    /// The ledger's secret.
    pub key: LedgerKey,
}

/// Lists which entries of a ledger the bookie holds.
#[derive(Debug, Clone)]
pub struct ListEntries {
    /// The bookie and incarnation it is meant for.
    pub member: BookieMember,
    /// The ledger.
    pub ledger: LedgerId,
    /// The first entry of interest.
    pub first: EntryId,
    /// The most runs wanted, 1 or more.
    pub limit: u32,
}

/// Which entries a bookie holds, as dense runs in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryList {
    /// The runs.
    pub runs: Vec<RangeInclusive<u64>>,
    /// Whether runs follow after the last.
    pub more: bool,
}

/// Deletes a ledger for ever: later adds and fences stay refused (rule B8).
#[derive(Debug, Clone)]
pub struct DeleteLedger {
    /// The bookie and incarnation it is meant for.
    pub member: BookieMember,
    /// The ledger.
    pub ledger: LedgerId,
}

/// Has a bookie fetch entries from another one and store them durably.
#[derive(Debug, Clone)]
pub struct CopyEntries {
    /// The bookie that stores.
    pub member: BookieMember,
    /// The bookie that serves.
    pub source: BookieMember,
    /// The ledger.
    pub ledger: LedgerId,
    /// The ledger's secret.
    pub key: LedgerKey,
    /// Which entries.
    pub entries: RangeInclusive<u64>,
}

/// Tells a bookie the last-add-confirmed of an idle writer (rule P9).
#[derive(Debug, Clone)]
pub struct ConfirmLac {
    /// The bookie and incarnation it is meant for.
    pub member: BookieMember,
    /// The ledger.
    pub ledger: LedgerId,
    /// The ledger's secret.
    pub key: LedgerKey,
    /// What is confirmed.
    pub lac: Lac,
}

/// Waits until last-add-confirmed passes a point.
#[derive(Debug, Clone)]
pub struct WaitLac {
    /// The bookie and incarnation it is meant for.
    pub member: BookieMember,
    /// The ledger.
    pub ledger: LedgerId,
    /// Answer as soon as it is higher than this.
    pub beyond: Lac,
    /// Answer with what there is after this long.
    pub timeout: Duration,
}

/// Why a bookie did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookieError {
    /// The ledger is fenced: its writer has lost it and must stop. The outcome of this add is unknown (rule W10).
    #[error("ledger {0} is fenced")]
    Fenced(LedgerId),
    /// The ledger was deleted, for ever.
    #[error("ledger {0} was deleted")]
    Deleted(LedgerId),
    /// Known to be true: the bookie does not hold this entry and never acknowledged it.
    #[error("no entry {1} in ledger {0}")]
    NoSuchEntry(LedgerId, EntryId),
    /// Known to be true: the bookie never heard of this ledger.
    #[error("no ledger {0}")]
    NoSuchLedger(LedgerId),
    /// The bookie cannot tell: it lost state, or could not read. Never counts as absence (rules R9, B12).
    #[error("unknown: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
    /// The request is meant for another life of this bookie.
    #[error("this bookie is {actual}, the request names {named}")]
    WrongMember {
        /// The bookie that answers.
        actual: BookieMember,
        /// The bookie that was meant.
        named: BookieMember,
    },
    /// The key is not the ledger's.
    #[error("the key of ledger {0} does not match")]
    WrongKey(LedgerId),
    /// The entry exists with other bytes.
    #[error("entry {1} of ledger {0} exists with other content")]
    Different(LedgerId, EntryId),
    /// The entry is damaged or too large; nothing was stored.
    #[error("entry refused: {reason}")]
    BadEntry {
        /// Why.
        reason: String,
    },
    /// The bookie takes no adds: its disk is full, or it is being taken out. Nothing was stored.
    #[error("the bookie is read-only: {reason}")]
    ReadOnly {
        /// Why.
        reason: String,
    },
    /// A write failed; the bookie stops acknowledging until it is restarted (rule B13). The outcome is unknown.
    #[error("storage failed: {reason}")]
    Storage {
        /// Why.
        reason: String,
    },
    /// Nothing happened: not reachable, too much in flight, shutting down.
    #[error("the bookie is unavailable: {reason}")]
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
}

impl Abandoned for BookieError {
    fn abandoned() -> Self {
        Self::OutcomeUnknown { reason: "the bookie dropped the call".into() }
    }
}

/// A bookie.
pub trait BookieService: Send + Sync + 'static {
    /// Stores an entry; answered when it is synced.
    fn add_entry(&self, add: AddEntry) -> Answer<(), BookieError>;
    /// Reads a run of entries.
    fn read_entries(&self, read: ReadEntries) -> Answer<EntryRun, BookieError>;
    /// Fences a ledger and reads its last-add-confirmed.
    fn fence_ledger(&self, fence: FenceLedger) -> Answer<Lac, BookieError>;
    /// Lists what the bookie holds of a ledger.
    fn list_entries(&self, list: ListEntries) -> Answer<EntryList, BookieError>;
    /// Deletes a ledger for ever.
    fn delete_ledger(&self, delete: DeleteLedger) -> Answer<(), BookieError>;
    /// Copies entries from another bookie; answers how many were stored.
    fn copy_entries(&self, copy: CopyEntries) -> Answer<u64, BookieError>;
    /// Takes note of a higher last-add-confirmed.
    fn confirm_lac(&self, confirm: ConfirmLac) -> Answer<(), BookieError>;
    /// Waits for a higher last-add-confirmed.
    fn wait_lac(&self, wait: WaitLac) -> Answer<Lac, BookieError>;
}
