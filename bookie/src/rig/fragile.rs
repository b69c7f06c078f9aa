//! A store that dies at a chosen step: before a batch is written, or after it was written and before it was synced.

use crate::{
    ledger::LedgerRecord,
    store::{Batch, EntryStore, ReadLimits, StoreError, StoreState, memory::MemoryStore},
};
use bytes::Bytes;
use protocol::id::{EntryId, LedgerId};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// What the power cut leaves of the batch it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing was written.
    BeforeWrite,
    /// It was written and not synced.
    BeforeSync,
    /// It is durable, and nobody was told.
    AfterSync,
}

impl Cut {
    pub(crate) const ALL: [Self; 3] = [Self::BeforeWrite, Self::BeforeSync, Self::AfterSync];
}

/// A [`MemoryStore`] whose power is cut at one step.
pub(crate) struct FragileStore {
    pub(crate) inner: Arc<MemoryStore>,
    left: AtomicUsize,
    dead: AtomicBool,
    cut: Cut,
}

impl FragileStore {
    /// The power is cut at the step after `steps` others.
    pub(crate) fn new(inner: Arc<MemoryStore>, steps: usize, cut: Cut) -> Arc<Self> {
        Arc::new(Self { inner, left: AtomicUsize::new(steps), dead: AtomicBool::new(false), cut })
    }

    /// A step: whether the power goes now. From then on nothing works.
    pub(crate) fn is_cut(&self) -> bool {
        let cut = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        self.dead.fetch_or(cut, Ordering::SeqCst) || cut
    }

    /// Whether all steps were survived.
    pub(crate) fn survived(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }
}

impl EntryStore for FragileStore {
    fn commit(&self, batch: &Batch) -> Result<u64, StoreError> {
        if self.is_cut() {
            match self.cut {
                Cut::BeforeWrite => self.inner.fail_writes(),
                Cut::BeforeSync => self.inner.fail_syncs(),
                Cut::AfterSync => {
                    self.inner.commit(batch)?;
                    self.inner.fail_writes();
                    return Err(StoreError::Failed("the power went".into()));
                }
            }
        }
        self.inner.commit(batch)
    }

    fn get(&self, ledger: LedgerId, entry: EntryId) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(ledger, entry)
    }

    fn range(&self, ledger: LedgerId, first: EntryId, limits: ReadLimits) -> Result<Vec<Bytes>, StoreError> {
        self.inner.range(ledger, first, limits)
    }

    fn last(&self, ledger: LedgerId) -> Result<Option<(EntryId, Bytes)>, StoreError> {
        self.inner.last(ledger)
    }

    fn visit(
        &self,
        ledger: LedgerId,
        first: EntryId,
        visit: &mut dyn FnMut(EntryId) -> bool,
    ) -> Result<(), StoreError> {
        self.inner.visit(ledger, first, visit)
    }

    fn ledger(&self, ledger: LedgerId) -> Result<Option<LedgerRecord>, StoreError> {
        self.inner.ledger(ledger)
    }

    fn ledgers(&self, after: Option<LedgerId>, limit: usize) -> Result<Vec<(LedgerId, LedgerRecord)>, StoreError> {
        self.inner.ledgers(after, limit)
    }

    fn state(&self) -> Result<StoreState, StoreError> {
        self.inner.state()
    }

    fn reclaim(&self, dropped: &[LedgerId]) -> Result<(), StoreError> {
        self.inner.reclaim(dropped)
    }

    fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }
}
