//! A bookie without a cluster: the store, the committer and the readers of a bookie over directories of their own, for
//! measurements and tools.
//!
//! Owns the assembly only. It has no cookie, no watermark and no registration, so it must never be pointed at the
//! directories of a bookie; it therefore refuses a directory that holds anything.

use crate::{
    BookieConfig, StartError,
    committer::{Committer, Shared},
    confirmations::Confirmations,
    health::Health,
    ledger::{Floor, LedgerMap},
    metrics::Metrics,
    readers::Readers,
    service::{Core, Service},
    store::{
        EntryStore, StoreError,
        rocks::{OpenError, RocksStore},
    },
    tail::Tail,
};
use parking_lot::Mutex;
use protocol::{
    id::{Incarnation, LedgerId},
    ledger::metadata::BookieMember,
    runtime::{Clock, Tasks},
    service::bookie::BookieService,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// A bookie that no cluster knows.
pub struct DetachedBookie {
    service: Service,
    store: Arc<RocksStore>,
}

impl std::fmt::Debug for DetachedBookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DetachedBookie").finish_non_exhaustive()
    }
}

impl DetachedBookie {
    /// Makes a bookie in empty directories. Blocks.
    ///
    /// # Errors
    /// [`StartError::Directory`] if a directory cannot be made or holds anything, [`StartError::Store`] and
    /// [`StartError::Thread`] as for a bookie.
    pub fn create(config: &BookieConfig, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        config.directories().iter().try_for_each(|dir| make_empty(dir))?;
        let options = config.store_options();
        if let Some(journal) = &options.wal_dir {
            make_empty(journal)?;
        }
        let path = config.data_dir.join("store");
        let failed = |problem: OpenError| StartError::Store { path: path.clone(), problem };
        let store = Arc::new(RocksStore::open(&path, &options, true).map_err(failed)?);
        let metrics = Arc::new(Metrics::new());
        let shared = Shared {
            store: Arc::clone(&store) as Arc<dyn EntryStore>,
            ledgers: Arc::new(Mutex::new(LedgerMap::new(config.ledgers_in_memory))),
            tail: Arc::new(Tail::new(config.tail_bytes)),
            confirmations: Arc::new(Confirmations::default()),
            health: Arc::new(Health::new(false, Floor::NONE, Arc::clone(&metrics))),
            metrics,
            clock,
            synced: Arc::new(AtomicU64::new(0)),
            mutants: protocol::mutant::Mutants::NONE,
        };
        let committer =
            Committer::start(shared.clone(), config.queue_bytes, config.batch_bytes).map_err(StartError::Thread)?;
        let readers = Readers::start(config.read_threads, config.read_limits()).map_err(StartError::Thread)?;
        let member = BookieMember { id: config.id, incarnation: Incarnation(0) };
        let (tasks, peers) = (Tasks::default(), OnceLock::new());
        let service = Service(Arc::new(Core { member, shared, committer, readers, tasks, peers }));
        Ok(Self { service, store })
    }

    /// The member that calls must name.
    #[must_use]
    pub fn member(&self) -> BookieMember {
        self.service.0.member
    }

    /// The calls of a bookie.
    #[must_use]
    pub fn service(&self) -> Arc<dyn BookieService> {
        Arc::new(self.service.clone())
    }

    /// How many synced writes there were.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.service.0.shared.synced.load(Ordering::Acquire)
    }

    /// Gives the space of ledgers back that were deleted. Blocks.
    ///
    /// # Errors
    /// What the store says.
    pub fn reclaim(&self, deleted: &[LedgerId]) -> Result<(), StoreError> {
        self.store.reclaim(deleted)
    }

    /// Writes everything to its place and waits until nothing more is to be merged. Blocks.
    ///
    /// # Errors
    /// What the store says.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.store.settle()
    }

    /// Answers what was called and closes the store. Blocks.
    ///
    /// # Errors
    /// What the store says; nothing that was acknowledged is lost.
    pub fn stop(&self) -> Result<(), StoreError> {
        self.service.0.committer.stop();
        self.service.0.readers.stop();
        self.store.close()
    }
}

/// Makes a directory and refuses one that holds anything.
fn make_empty(dir: &Path) -> Result<(), StartError> {
    let failed = |problem| StartError::Directory { path: PathBuf::from(dir), problem };
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "the directory is not empty")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::entry;
    use protocol::{
        id::{EntryId, LedgerKey},
        runtime::SystemClock,
        service::bookie::{AddEntry, BookieError, DeleteLedger, ReadEntries},
    };

    #[tokio::test]
    async fn it_stores_reads_and_deletes_like_a_bookie() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = BookieConfig {
            data_dir: dir.path().join("data"),
            wal_dir: Some(dir.path().join("wal")),
            ..BookieConfig::default()
        };
        let create = || DetachedBookie::create(&config, Arc::new(SystemClock::default()));
        let bookie = create().expect("made");
        let (service, member) = (bookie.service(), bookie.member());
        let add = AddEntry { member, key: LedgerKey(1), recovery: false, entry: entry(1, 0, b"x") };
        service.add_entry(add).await.expect("stored");
        assert_eq!(bookie.syncs(), 1);
        let (ledger, first) = (LedgerId(1), EntryId(0));
        let read = || ReadEntries { member, ledger, first, max_count: 9, max_bytes: 1 << 20, fence: None };
        assert_eq!(service.read_entries(read()).await.expect("read").entries.len(), 1);
        service.delete_ledger(DeleteLedger { member, ledger }).await.expect("deleted");
        bookie.reclaim(&[ledger]).expect("reclaimed");
        bookie.settle().expect("settled");
        assert_eq!(service.read_entries(read()).await.map(drop), Err(BookieError::Deleted(ledger)));
        bookie.stop().expect("stopped");
        assert!(matches!(create(), Err(StartError::Directory { .. })), "never over what is there");
    }
}
