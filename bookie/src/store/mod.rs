//! Where entries are kept: the trait, and its stores.
//!
//! A store does what it is told, durably, and in one piece: a [`Batch`] is on disk in full when `commit` returns, or not
//! acknowledged at all. Entries, fences, keys, confirmations and tombstones share one batch, so there is no checkpoint
//! that could run ahead of one of them (rule B6). A store never judges: fences and keys are the ledgers' business.

pub mod keys;
pub mod memory;
pub mod rocks;
pub mod watermark;

#[cfg(test)]
pub(crate) mod conformance;

use crate::ledger::{Floor, LedgerRecord};
use bytes::Bytes;
use protocol::{
    id::{EntryId, LedgerId},
    ledger::entry::SealedEntry,
};

/// One change, in a batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// Stores an entry, replacing what is there.
    Entry(SealedEntry),
    /// Stores the record of a ledger.
    Ledger(LedgerId, LedgerRecord),
    /// Deletes every entry of a ledger.
    Drop(LedgerId),
    /// Stores whether the whole bookie is in limbo.
    Limbo(bool),
    /// Stores the floor: which unknown ledgers count as new.
    Floor(Floor),
}

/// Changes that become durable together, in this order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The changes.
    pub writes: Vec<Write>,
    /// Bytes of the entries among them.
    pub bytes: usize,
}

impl Batch {
    /// Adds a change.
    pub fn push(&mut self, write: Write) {
        if let Write::Entry(entry) = &write {
            self.bytes += entry.bytes().len();
        }
        self.writes.push(write);
    }

    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The entry of this place in the batch, if it is among the changes. For the rare add that comes twice at once.
    #[must_use]
    pub fn entry(&self, ledger: LedgerId, entry: EntryId) -> Option<&SealedEntry> {
        self.entries().find(|e| (e.ledger(), e.entry()) == (ledger, entry))
    }

    /// The entries among the changes.
    pub fn entries(&self) -> impl Iterator<Item = &SealedEntry> {
        self.writes.iter().filter_map(|write| match write {
            Write::Entry(entry) => Some(entry),
            Write::Ledger(..) | Write::Drop(_) | Write::Limbo(_) | Write::Floor(_) => None,
        })
    }
}

/// What a store says about itself as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreState {
    /// The number of the last batch that was committed; 0 if none ever was.
    pub commit: u64,
    /// Whether the whole bookie is in limbo.
    pub limbo: bool,
    /// Which unknown ledgers count as new; [`Floor::NONE`] in a store that never heard of a floor.
    pub floor: Floor,
}

/// How much of a range is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimits {
    /// The most entries, 1 or more.
    pub count: usize,
    /// The most bytes; the first entry comes whatever its size.
    pub bytes: usize,
}

/// Why a store did not do what it was told. Never means "not there".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk or the store refused.
    #[error("{0}")]
    Failed(String),
    /// A stored value has no meaning, or not one that this version knows.
    #[error("a stored value is damaged: {0}")]
    Damaged(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A durable store of entries. Blocking; for threads that may wait for a disk.
pub trait EntryStore: Send + Sync + 'static {
    /// Makes a batch durable and gives its number. After an error nothing may be committed any more.
    fn commit(&self, batch: &Batch) -> Result<u64, StoreError>;
    /// The stored bytes of one entry, unchecked.
    fn get(&self, ledger: LedgerId, entry: EntryId) -> Result<Option<Bytes>, StoreError>;
    /// The stored bytes of a dense run of entries from `first`, unchecked; it ends at the first gap or at a limit.
    fn range(&self, ledger: LedgerId, first: EntryId, limits: ReadLimits) -> Result<Vec<Bytes>, StoreError>;
    /// The highest entry of a ledger and its bytes, unchecked.
    fn last(&self, ledger: LedgerId) -> Result<Option<(EntryId, Bytes)>, StoreError>;
    /// Names the entries of a ledger from `first` on, in order, until `visit` answers false.
    fn visit(&self, ledger: LedgerId, first: EntryId, visit: &mut dyn FnMut(EntryId) -> bool)
    -> Result<(), StoreError>;
    /// The record of a ledger.
    fn ledger(&self, ledger: LedgerId) -> Result<Option<LedgerRecord>, StoreError>;
    /// Up to `limit` records of ledgers after one, in order.
    fn ledgers(&self, after: Option<LedgerId>, limit: usize) -> Result<Vec<(LedgerId, LedgerRecord)>, StoreError>;
    /// What the store says about itself.
    fn state(&self) -> Result<StoreState, StoreError>;
    /// Gives the space of dropped ledgers back. May take long; nothing waits for it.
    fn reclaim(&self, dropped: &[LedgerId]) -> Result<(), StoreError>;
    /// Bytes that are durable in the journal but not in the files yet: so much space a later flush will take.
    fn unflushed(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
    /// Writes out what can be written and closes; every later call answers [`StoreError::Closed`].
    fn close(&self) -> Result<(), StoreError>;
}
