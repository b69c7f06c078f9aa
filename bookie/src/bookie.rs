//! A running bookie: what starts it, what it consists of, what stops it.
//!
//! Owns the order. Start: lock the directories, check who we are, open the store, compare it with the watermark, mark
//! limbo if something is missing, and only then serve and register. Stop: leave the cluster, answer what was called,
//! close the store.

mod background;
mod opening;

use crate::{
    BookieConfig, StartError,
    committer::{Committer, Shared},
    confirmations::Confirmations,
    error::space_advice,
    health::Health,
    ledger::LedgerMap,
    readers::Readers,
    service::{Core, Service},
    store::watermark::Watermark,
    tail::Tail,
};
use background::{Background, advance};
use opening::{Opened, claim_patiently, floor, lock, open};
use parking_lot::Mutex;
use protocol::{
    ledger::metadata::BookieMember,
    model::BookieState,
    mutant::Mutants,
    runtime::{Clock, Tasks},
    service::{bookie::BookieService, directory::BookieDirectory, metadata::MetadataService},
};
use std::{
    fs::File,
    sync::{Arc, OnceLock, Weak, atomic::AtomicU64},
    time::Duration,
};
use tokio::sync::watch;

/// The store's folder in the data directory.
const STORE: &str = "store";
/// The watermark's file in the data directory.
const WATERMARK: &str = "watermark";
/// How long background tasks may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What a bookie needs from the node.
#[derive(Clone)]
pub struct BookieDeps {
    /// The metadata service.
    pub metadata: Arc<dyn MetadataService>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The node's tasks; the bookie starts a group of its own below them.
    pub tasks: Tasks,
    /// The cluster it belongs to.
    pub cluster_id: String,
}

/// A running bookie.
pub struct Bookie {
    service: Service,
    registered: watch::Receiver<bool>,
    watermark: Arc<Mutex<Watermark>>,
    /// Held until the bookie has stopped; the system lets them go when the process dies.
    locks: Mutex<Vec<File>>,
}

impl std::fmt::Debug for Bookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bookie({})", self.member())
    }
}

impl Bookie {
    /// Starts a bookie. When this returns it serves; it is registered soon after.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: BookieConfig, deps: BookieDeps) -> Result<Self, StartError> {
        let locks = config.directories().iter().map(|dir| lock(dir)).collect::<Result<Vec<_>, _>>()?;
        let claim = claim_patiently(&config, &deps).await?;
        let floor = floor(&config, &deps).await?;
        let opened = tokio::task::spawn_blocking({
            let config = config.clone();
            move || open(&config, claim, floor)
        });
        let opened = opened.await.map_err(|joined| StartError::StoreFailed {
            path: config.data_dir.join(STORE),
            problem: joined.to_string(),
        })??;
        Self::assemble(&config, &deps, opened, locks)
    }

    /// Who this bookie is.
    #[must_use]
    pub fn member(&self) -> BookieMember {
        self.service.0.member
    }

    /// The handle that brokers use.
    #[must_use]
    pub fn service(&self) -> Arc<dyn BookieService> {
        Arc::new(self.service.clone())
    }

    /// Where this bookie finds others to copy from; without it [`BookieService::copy_entries`] is unavailable. Only the
    /// first call counts.
    pub fn set_peers(&self, peers: Weak<dyn BookieDirectory>) {
        drop(self.service.0.peers.set(peers));
    }

    /// What it takes at the moment.
    #[must_use]
    pub fn state(&self) -> BookieState {
        self.service.0.shared.health.state()
    }

    /// Whether the cluster knows it and its store works.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.registered.borrow() && self.service.0.shared.health.failure().is_none()
    }

    /// What keeps it from being ready, and what to do about it.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        if let Some(failure) = self.service.0.shared.health.failure() {
            let remedy = match space_advice(failure) {
                "" => "free or replace its disk, then restart",
                _ => "the disk is full: free some space (nothing of the bookie itself), then restart",
            };
            return Some(format!("the bookie's store has failed: {failure}; nothing acknowledged is lost: {remedy}"));
        }
        (!self.is_ready()).then(|| "the bookie is not registered with metadata".into())
    }

    /// Waits until the cluster knows it.
    pub async fn wait_registered(&self) {
        // The sender lives as long as the registration, which ends with the bookie.
        drop(self.registered.clone().wait_for(|registered| *registered).await);
    }

    /// Leaves the cluster, answers what was called, stores what is left and closes. Later calls are refused.
    pub async fn stop(&self) {
        let core = Arc::clone(&self.service.0);
        if !core.tasks.stop(STOP_PATIENCE).await {
            tracing::warn!(bookie = %core.member, "background tasks of the bookie did not stop in time");
        }
        let watermark = Arc::clone(&self.watermark);
        let closed = tokio::task::spawn_blocking(move || {
            core.committer.stop();
            core.readers.stop();
            advance(&watermark, &core.shared.synced);
            if let Err(problem) = core.shared.store.close() {
                tracing::warn!(bookie = %core.member, %problem, "the store did not close cleanly; its journal is whole");
            }
            tracing::info!(bookie = %core.member, "stopped");
        });
        drop(closed.await);
        self.locks.lock().clear();
    }

    fn assemble(
        config: &BookieConfig,
        deps: &BookieDeps,
        opened: Opened,
        locks: Vec<File>,
    ) -> Result<Self, StartError> {
        let Opened { member, cookie, store, watermark, limbo, state, metrics } = opened;
        let health = Arc::new(Health::new(limbo, state.floor, Arc::clone(&metrics)));
        let shared = Shared {
            store,
            ledgers: Arc::new(Mutex::new(LedgerMap::new(config.ledgers_in_memory))),
            tail: Arc::new(Tail::new(config.tail_bytes)),
            confirmations: Arc::new(Confirmations::default()),
            health,
            metrics,
            clock: Arc::clone(&deps.clock),
            synced: Arc::new(AtomicU64::new(state.commit)),
            mutants: Mutants::NONE,
        };
        let committer =
            Committer::start(shared.clone(), config.queue_bytes, config.batch_bytes).map_err(StartError::Thread)?;
        let readers = Readers::start(config.read_threads, config.read_limits()).map_err(StartError::Thread)?;
        let (tasks, peers) = (deps.tasks.child(), OnceLock::new());
        let service = Service(Arc::new(Core { member, shared, committer, readers, tasks, peers }));
        let registered = watch::Sender::new(false);
        let bookie = Self {
            service,
            registered: registered.subscribe(),
            watermark: Arc::new(Mutex::new(watermark)),
            locks: Mutex::new(locks),
        };
        Background { bookie: &bookie, config, deps, cookie }.start(registered);
        tracing::info!(bookie = %member, dir = %config.data_dir.display(), state = ?bookie.state(), "serving");
        Ok(bookie)
    }
}

#[cfg(test)]
mod tests;
