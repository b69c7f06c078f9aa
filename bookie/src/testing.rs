//! A bookie for simulators: the real service, committer, ledgers and limbo judgement over a store in memory, without
//! threads. Nothing happens by itself: whoever plays the world says when a group commit is synced, when the watermark is
//! written, when the power goes and what is damaged.
//!
//! Owns no rule of the bookie: what is answered, and when, is decided by the code that serves in production.

use crate::{
    committer::{Command, Committer, Mend, Shared},
    confirmations::Confirmations,
    health::Health,
    holdings,
    ledger::{Floor, LedgerMap, LedgerRecord},
    limbo::{self, Verdict},
    metrics::Metrics,
    readers::Readers,
    service::{Core, Service},
    store::{EntryStore, StoreError, memory::MemoryStore},
    tail::Tail,
};
use parking_lot::Mutex;
use protocol::{
    id::{EntryId, LedgerId, LedgerKey},
    ledger::metadata::BookieMember,
    model::BookieState,
    mutant::Mutants,
    runtime::{Clock, Tasks},
    service::{
        Answer,
        bookie::{BookieError, BookieService, EntryList},
        reply,
    },
};
use std::{
    ops::RangeInclusive,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes that may wait for the committer.
const QUEUE_BYTES: usize = 64 << 20;
/// Bytes of one group commit.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of recent entries in memory: few, so that reads come from the store as well.
const TAIL_BYTES: usize = 2 << 10;
/// Ledgers in memory: few, so that they are restored from the store as well.
const LEDGERS: usize = 4;

/// What outlives the process: the store, and the watermark beside it. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    /// Entries and records, with their faults.
    pub store: Arc<MemoryStore>,
    watermark: Arc<Mutex<Option<u64>>>,
}

impl MemoryDisk {
    /// A formatted disk of a new bookie.
    #[must_use]
    pub fn format() -> Self {
        let disk = Self::default();
        *disk.watermark.lock() = Some(0);
        disk
    }

    /// How far the store was certainly synced; none if the watermark is lost.
    #[must_use]
    pub fn watermark(&self) -> Option<u64> {
        *self.watermark.lock()
    }

    /// The file of the watermark is lost.
    pub fn lose_watermark(&self) {
        *self.watermark.lock() = None;
    }
}

/// A bookie without threads.
pub struct InlineBookie {
    service: Service,
    disk: MemoryDisk,
}

impl std::fmt::Debug for InlineBookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InlineBookie({})", self.service.0.member)
    }
}

impl InlineBookie {
    /// Starts on a disk: judges whether acknowledged entries are missing, and enters limbo if so.
    ///
    /// # Errors
    /// What the store says; the bookie then does not start.
    pub fn start(
        member: BookieMember,
        disk: &MemoryDisk,
        clock: Arc<dyn Clock>,
        mutants: Mutants,
    ) -> Result<Self, StoreError> {
        let store: Arc<dyn EntryStore> = Arc::clone(&disk.store) as _;
        let verdict = limbo::judge(store.state()?, disk.watermark(), mutants);
        let limbo = verdict != Verdict::Sound;
        if limbo {
            limbo::enter(store.as_ref())?;
        }
        let state = store.state()?;
        let metrics = Arc::new(Metrics::new());
        let shared = Shared {
            store,
            ledgers: Arc::new(Mutex::new(LedgerMap::new(LEDGERS))),
            tail: Arc::new(Tail::new(TAIL_BYTES)),
            confirmations: Arc::new(Confirmations::default()),
            health: Arc::new(Health::new(limbo, state.floor, Arc::clone(&metrics))),
            metrics: Arc::clone(&metrics),
            clock,
            synced: Arc::new(AtomicU64::new(state.commit)),
            mutants,
        };
        let committer = Committer::inline(metrics, QUEUE_BYTES);
        let (readers, tasks, peers) = (Readers::inline(), Tasks::default(), OnceLock::new());
        let service = Service(Arc::new(Core { member, shared, committer, readers, tasks, peers }));
        Ok(Self { service, disk: disk.clone() })
    }

    /// Who it is.
    #[must_use]
    pub fn member(&self) -> BookieMember {
        self.service.0.member
    }

    /// Every method of the contract; answers that wait for a sync come with [`InlineBookie::sync`].
    #[must_use]
    pub fn service(&self) -> &dyn BookieService {
        &self.service
    }

    /// Whether calls wait for a sync.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.service.0.committer.is_busy()
    }

    /// Carries out what waits as one group commit, and answers it.
    pub fn sync(&self) {
        let core = &self.service.0;
        core.committer.step(&core.shared, BATCH_BYTES);
    }

    /// Writes the watermark, as the bookie does about once a second.
    pub fn mark(&self) {
        let synced = self.service.0.shared.synced.load(Ordering::Acquire);
        let mut watermark = self.disk.watermark.lock();
        *watermark = (*watermark).max(Some(synced));
    }

    /// What it takes.
    #[must_use]
    pub fn state(&self) -> BookieState {
        self.service.0.shared.health.state()
    }

    /// Whether its store has failed, so that it acknowledges nothing until it is started again.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.service.0.shared.health.failure().is_some()
    }

    /// Whether acknowledged state was lost and is not healed.
    #[must_use]
    pub fn is_limbo(&self) -> bool {
        self.service.0.shared.health.is_limbo()
    }

    /// Healing, step 2: this ledger is held here, says metadata, and may have been lost as a whole.
    pub fn suspect(&self, ledger: LedgerId, key: LedgerKey) -> Answer<(), BookieError> {
        self.mend(Mend::Suspect(ledger, key))
    }

    /// Healing, step 3: what was lost of this ledger is here again, or nobody needs it.
    pub fn heal(&self, ledger: LedgerId) -> Answer<(), BookieError> {
        self.mend(Mend::Heal(ledger))
    }

    /// Healing, step 4: no ledger is left that lost anything. `floor` is a number of the sequence of ledger ids, taken
    /// before metadata was asked what is held here.
    pub fn end_limbo(&self, floor: LedgerId) -> Answer<(), BookieError> {
        self.mend(Mend::EndLimbo(Floor(floor)))
    }

    /// Healing, the end of step 4: the watermark is set to what is there, and adds are taken.
    ///
    /// # Errors
    /// What the store says.
    pub fn leave_limbo(&self) -> Result<(), StoreError> {
        *self.disk.watermark.lock() = Some(self.disk.store.state()?.commit);
        self.service.0.shared.health.leave_limbo();
        Ok(())
    }

    /// The ledgers that are in limbo, as stored.
    ///
    /// # Errors
    /// What the store says.
    pub fn ledgers_in_limbo(&self) -> Result<Vec<LedgerId>, StoreError> {
        let all = self.disk.store.ledgers(None, usize::MAX)?;
        let limbo = all.into_iter().filter(|(_, record)| matches!(record, LedgerRecord::Known(known) if known.limbo));
        Ok(limbo.map(|(id, _)| id).collect())
    }

    /// The entries of a ledger that the store lists, durably: after a failed sync nothing is known to be (B13).
    ///
    /// # Errors
    /// What the store says.
    pub fn held(&self, ledger: LedgerId) -> Result<EntryList, StoreError> {
        // What a failed sync has left is listed, and is not durable.
        if let Some(failure) = self.service.0.shared.health.failure() {
            return Err(StoreError::Failed(failure.into()));
        }
        let listed = holdings::list(self.disk.store.as_ref(), ledger, EntryId(0), usize::MAX)?;
        match self.service.0.shared.health.failure() {
            Some(reason) => Err(StoreError::Failed(reason.into())),
            None => Ok(listed),
        }
    }

    /// The entries of a run that the store holds and cannot serve.
    ///
    /// # Errors
    /// What the store says.
    pub fn damaged(&self, ledger: LedgerId, run: &RangeInclusive<u64>) -> Result<Vec<u64>, StoreError> {
        let (mut damaged, mut next) = (Vec::new(), Some(*run.start()));
        while let Some(from) = next {
            let found = holdings::verify(self.disk.store.as_ref(), ledger, &(from..=*run.end()))?;
            damaged.extend(found.damaged);
            next = found.next;
        }
        Ok(damaged)
    }

    fn mend(&self, mend: Mend) -> Answer<(), BookieError> {
        let (reply, answer) = reply();
        let then = Box::new(move |outcome| reply.send(outcome));
        self.service.0.committer.call(Command::Mend { mend, then });
        answer
    }

    /// The disk is nearly full, or not any more.
    pub fn set_full(&self, full: bool) {
        self.service.0.shared.health.set_full(full.then(|| "the disk is nearly full".into()));
    }
}

impl Drop for InlineBookie {
    fn drop(&mut self) {
        // Calls that wait hold the bookie itself.
        self.service.0.committer.abandon();
    }
}
