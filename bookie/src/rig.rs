//! What the tests of this crate share: a bookie over any store, without directories and without a cluster.

pub(crate) mod fragile;

use crate::{
    committer::{Committer, Shared},
    confirmations::Confirmations,
    health::Health,
    ledger::LedgerMap,
    metrics::Metrics,
    readers::{Limits, Readers},
    service::{Core, Service},
    store::{EntryStore, conformance::entry},
    tail::Tail,
};
use parking_lot::Mutex;
use protocol::{
    id::{BookieId, EntryId, Incarnation, Lac, LedgerId, LedgerKey},
    ledger::metadata::BookieMember,
    mutant::Mutants,
    runtime::{SystemClock, Tasks},
    service::bookie::{
        AddEntry, BookieError, BookieService, ConfirmLac, DeleteLedger, EntryRun, FenceLedger, ReadEntries, WaitLac,
    },
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Who the rig's bookie is.
pub(crate) const MEMBER: BookieMember = BookieMember { id: BookieId(1), incarnation: Incarnation(1) };
/// The secret of every ledger.
pub(crate) const KEY: LedgerKey = LedgerKey(77);

/// How a rig differs from the usual.
pub(crate) struct Setup {
    pub(crate) member: BookieMember,
    pub(crate) queue_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) tail_bytes: usize,
    pub(crate) limbo: bool,
    pub(crate) read_limits: Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            member: MEMBER,
            queue_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            tail_bytes: 1 << 20,
            limbo: false,
            read_limits: Limits { jobs: 1000, bytes: 1 << 30 },
        }
    }
}

/// A bookie without directories.
#[derive(Clone)]
pub(crate) struct Rig(pub(crate) Service);

impl Rig {
    pub(crate) fn new(store: Arc<dyn EntryStore>) -> Self {
        Self::with(store, Setup::default())
    }

    pub(crate) fn with(store: Arc<dyn EntryStore>, setup: Setup) -> Self {
        let metrics = Arc::new(Metrics::new());
        let state = store.state().expect("a readable store");
        let shared = Shared {
            store,
            ledgers: Arc::new(Mutex::new(LedgerMap::new(100))),
            tail: Arc::new(Tail::new(setup.tail_bytes)),
            confirmations: Arc::new(Confirmations::default()),
            health: Arc::new(Health::new(setup.limbo, state.floor, Arc::clone(&metrics))),
            metrics,
            clock: Arc::new(SystemClock::default()),
            synced: Arc::new(AtomicU64::new(state.commit)),
            mutants: Mutants::NONE,
        };
        let committer = Committer::start(shared.clone(), setup.queue_bytes, setup.batch_bytes).expect("a thread");
        let readers = Readers::start(2, setup.read_limits).expect("threads");
        let (tasks, peers) = (Tasks::default(), OnceLock::new());
        Self(Service(Arc::new(Core { member: setup.member, shared, committer, readers, tasks, peers })))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.0.shared
    }

    pub(crate) fn synced(&self) -> u64 {
        self.shared().synced.load(Ordering::Acquire)
    }

    /// Answers what was called and ends the threads; the store stays open.
    pub(crate) fn stop(&self) {
        self.0.0.committer.stop();
        self.0.0.readers.stop();
    }

    pub(crate) fn request(ledger: u64, id: u64, payload: &[u8]) -> AddEntry {
        AddEntry { member: MEMBER, key: KEY, recovery: false, entry: entry(ledger, id, payload) }
    }

    pub(crate) async fn add(&self, ledger: u64, id: u64) -> Result<(), BookieError> {
        self.0.add_entry(Self::request(ledger, id, b"payload")).await
    }

    pub(crate) async fn add_recovery(&self, ledger: u64, id: u64) -> Result<(), BookieError> {
        self.0.add_entry(AddEntry { recovery: true, ..Self::request(ledger, id, b"payload") }).await
    }

    pub(crate) async fn fence(&self, ledger: u64) -> Result<Lac, BookieError> {
        self.0.fence_ledger(FenceLedger { member: MEMBER, ledger: LedgerId(ledger), key: KEY }).await
    }

    pub(crate) fn reading(ledger: u64, first: u64) -> ReadEntries {
        let (ledger, first) = (LedgerId(ledger), EntryId(first));
        ReadEntries { member: MEMBER, ledger, first, max_count: 100, max_bytes: 1 << 20, fence: None }
    }

    pub(crate) async fn run(&self, ledger: u64, first: u64) -> Result<EntryRun, BookieError> {
        self.0.read_entries(Self::reading(ledger, first)).await
    }

    /// The ids of a run.
    pub(crate) async fn read(&self, ledger: u64, first: u64) -> Result<Vec<u64>, BookieError> {
        Ok(self.run(ledger, first).await?.entries.iter().map(|e| e.entry().0).collect())
    }

    pub(crate) async fn delete(&self, ledger: u64) -> Result<(), BookieError> {
        self.0.delete_ledger(DeleteLedger { member: MEMBER, ledger: LedgerId(ledger) }).await
    }

    pub(crate) async fn confirm(&self, ledger: u64, count: u64) -> Result<(), BookieError> {
        let (ledger, lac) = (LedgerId(ledger), Lac::from_count(count));
        self.0.confirm_lac(ConfirmLac { member: MEMBER, ledger, key: KEY, lac }).await
    }

    pub(crate) async fn wait(&self, ledger: u64, beyond: u64, timeout: Duration) -> Result<u64, BookieError> {
        let (ledger, beyond) = (LedgerId(ledger), Lac::from_count(beyond));
        self.0.wait_lac(WaitLac { member: MEMBER, ledger, beyond, timeout }).await.map(Lac::count)
    }
}
