//! A running bookie: what starts it, what it consists of, what stops it.
//!
//! Owns the order. Start: lock the directories, check who we are, open the store, compare it with the watermark, mark
//! limbo if something is missing, and only then serve and register. Stop: leave the cluster, answer what was called,
//! close the store.

use crate::{
    BookieConfig, StartError,
    committer::{Committer, Shared},
    confirmations::Confirmations,
    cookie::{self, Claim, CookieError},
    disk::{self, Guard},
    gc::{Collector, Reclaim},
    health::Health,
    ledger::LedgerMap,
    limbo::{self, Verdict},
    metrics::Metrics,
    readers::Readers,
    registration::Registration,
    service::{Core, Service},
    store::{
        EntryStore,
        rocks::{OpenError, RocksStore},
        watermark::Watermark,
    },
    tail::Tail,
};
use parking_lot::Mutex;
use protocol::{
    ledger::metadata::BookieMember,
    model::{BookieRecord, BookieState},
    runtime::{Clock, TaskKind, Tasks},
    service::{
        bookie::BookieService,
        directory::BookieDirectory,
        metadata::{MetadataError, MetadataService},
    },
};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The store's folder in the data directory.
const STORE: &str = "store";
/// The watermark's file in the data directory.
const WATERMARK: &str = "watermark";
/// How often the watermark is advanced.
const WATERMARK_EVERY: Duration = Duration::from_secs(1);
/// How long a start waits for metadata to become available.
const METADATA_PATIENCE: Duration = Duration::from_secs(30);
/// The pause before metadata is asked again while starting.
const METADATA_PAUSE: Duration = Duration::from_millis(200);
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
        let opened = tokio::task::spawn_blocking({
            let config = config.clone();
            move || open(&config, claim)
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
            return Some(format!(
                "the bookie's store has failed: {failure}; nothing acknowledged is lost: free or replace its disk, then restart"
            ));
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
        let Opened { member, store, watermark, limbo, synced, metrics } = opened;
        let health = Arc::new(Health::new(limbo, Arc::clone(&metrics)));
        let shared = Shared {
            store,
            ledgers: Arc::new(Mutex::new(LedgerMap::new(config.ledgers_in_memory))),
            tail: Arc::new(Tail::new(config.tail_bytes)),
            confirmations: Arc::new(Confirmations::default()),
            health,
            metrics,
            clock: Arc::clone(&deps.clock),
            synced: Arc::new(AtomicU64::new(synced)),
        };
        let committer =
            Committer::start(shared.clone(), config.queue_bytes, config.batch_bytes).map_err(StartError::Thread)?;
        let readers = Readers::start(config.read_threads, config.read_queue).map_err(StartError::Thread)?;
        let (tasks, peers) = (deps.tasks.child(), OnceLock::new());
        let service = Service(Arc::new(Core { member, shared, committer, readers, tasks, peers }));
        let registered = watch::Sender::new(false);
        let bookie = Self {
            service,
            registered: registered.subscribe(),
            watermark: Arc::new(Mutex::new(watermark)),
            locks: Mutex::new(locks),
        };
        bookie.start_tasks(config, deps, registered);
        tracing::info!(bookie = %member, dir = %config.data_dir.display(), state = ?bookie.state(), "serving");
        Ok(bookie)
    }

    fn start_tasks(&self, config: &BookieConfig, deps: &BookieDeps, registered: watch::Sender<bool>) {
        let core = &self.service.0;
        let spawn = |name, work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            core.tasks.spawn(TaskKind::Background, name, async move {
                work.await;
                Ok(())
            });
        };
        let stopping = core.tasks.stopping();
        let (watermark, synced) = (Arc::clone(&self.watermark), Arc::clone(&core.shared.synced));
        spawn("bookie watermark", Box::pin(keep_watermark(watermark, synced, stopping.clone())));

        let probe = disk::probe_of(config.directories());
        let (health, metrics) = (Arc::clone(&core.shared.health), Arc::clone(&core.shared.metrics));
        let store = Arc::clone(&core.shared.store);
        // A full buffer is written once to the files, and its successor's journal is allocated before that.
        let next_journal = config.write_buffer_bytes as u64 * 11 / 10;
        let owed = Box::new(move || store.unflushed().map_or(0, |bytes| bytes + bytes.min(next_journal)));
        let guard = Guard { probe, owed, reserve: config.disk_reserve, health, metrics };
        spawn("bookie disk", Box::pin(guard.run(Duration::from_millis(config.disk_check_ms), stopping.clone())));

        let store = Arc::clone(&core.shared.store);
        let reclaim: Reclaim = Arc::new(move |ledgers| {
            let store = Arc::clone(&store);
            Box::pin(async move {
                let done = tokio::task::spawn_blocking(move || store.reclaim(&ledgers)).await;
                if let Ok(Err(problem)) = done {
                    tracing::warn!(%problem, "the space of deleted ledgers could not be given back yet");
                }
            })
        });
        let (metadata, bookie) = (Arc::clone(&deps.metadata), self.service());
        let collector = Collector { metadata, bookie, member: core.member, reclaim };
        spawn("bookie gc", Box::pin(collector.run(stopping.clone())));

        let (address, rack) = (config.address.clone(), config.rack.clone());
        let registration = Registration {
            metadata: Arc::clone(&deps.metadata),
            record: BookieRecord {
                address,
                rack,
                started_at: deps.clock.wall(),
                ..BookieRecord::new(core.member, self.state())
            },
            ttl: config.session(),
            states: core.shared.health.changes(),
            registered,
        };
        spawn("bookie registration", Box::pin(registration.run(stopping)));
    }
}

/// A store that was opened and judged.
struct Opened {
    member: BookieMember,
    store: Arc<dyn EntryStore>,
    watermark: Watermark,
    limbo: bool,
    synced: u64,
    metrics: Arc<Metrics>,
}

/// Makes a directory if needed, and takes it for this process.
fn lock(dir: &Path) -> Result<File, StartError> {
    let directory = |problem| StartError::Directory { path: dir.to_path_buf(), problem };
    fs::create_dir_all(dir).map_err(directory)?;
    let file = File::create(dir.join("lock")).map_err(directory)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked { path: dir.to_path_buf() }),
        Err(TryLockError::Error(problem)) => Err(directory(problem)),
    }
}

/// Checks who we are, and waits for metadata if it is not there yet.
async fn claim_patiently(config: &BookieConfig, deps: &BookieDeps) -> Result<Claim, StartError> {
    let until = deps.clock.monotonic() + METADATA_PATIENCE;
    loop {
        let claim = cookie::claim(&deps.metadata, &deps.cluster_id, config.id, config.directories());
        let left = until.saturating_sub(deps.clock.monotonic());
        let Ok(outcome) = tokio::time::timeout(left.max(METADATA_PAUSE), claim).await else {
            let reason = format!("no answer within {METADATA_PATIENCE:?}");
            return Err(MetadataError::Unavailable { reason }.into());
        };
        match outcome {
            Err(CookieError::Metadata(MetadataError::Unavailable { .. } | MetadataError::OutcomeUnknown { .. }))
                if deps.clock.monotonic() < until =>
            {
                tokio::time::sleep(METADATA_PAUSE).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// Opens the store and decides whether anything that was acknowledged is missing. Blocks.
fn open(config: &BookieConfig, claim: Claim) -> Result<Opened, StartError> {
    let path = config.data_dir.join(STORE);
    let directory = |problem: io::Error| StartError::Directory { path: config.data_dir.join(WATERMARK), problem };
    let failed = |problem: String| StartError::StoreFailed { path: path.clone(), problem };
    if let Some(journal) = config.store_options().wal_dir {
        fs::create_dir_all(&journal).map_err(|problem| StartError::Directory { path: journal, problem })?;
    }
    let store = RocksStore::open(&path, &config.store_options(), claim.is_new).map_err(|problem| match problem {
        OpenError::Locked => StartError::Locked { path: config.data_dir.clone() },
        problem => StartError::Store { path: path.clone(), problem },
    })?;
    let mut watermark = Watermark::open(&config.data_dir.join(WATERMARK)).map_err(directory)?;
    let state = store.state().map_err(|e| failed(e.to_string()))?;
    if claim.is_new {
        watermark.advance(state.commit).map_err(directory)?;
        claim.settle()?;
    }
    let verdict = limbo::judge(state, watermark.number());
    let limbo = settle_limbo(config, verdict, &store, &mut watermark).map_err(failed)?;
    let synced = store.state().map_err(|e| failed(e.to_string()))?.commit;
    let (member, metrics) = (claim.member(), Arc::new(Metrics::new()));
    Ok(Opened { member, store: Arc::new(store), watermark, limbo, synced, metrics })
}

/// Acts on the verdict, and answers whether the bookie is in limbo.
fn settle_limbo(
    config: &BookieConfig,
    verdict: Verdict,
    store: &RocksStore,
    watermark: &mut Watermark,
) -> Result<bool, String> {
    match verdict {
        Verdict::Sound => return Ok(false),
        Verdict::Lost { synced, found } => {
            tracing::error!(synced, found, "acknowledged entries are missing: the journal ends before the watermark");
        }
        Verdict::NoWatermark => tracing::error!("the watermark is missing: acknowledged entries may be, too"),
        Verdict::Unhealed => tracing::error!("acknowledged entries are missing since an earlier start"),
    }
    if config.accept_lost_entries {
        tracing::warn!("the loss is accepted (accept_lost_entries): the bookie serves what it has, all of it fenced");
        limbo::leave(store).map_err(|e| e.to_string())?;
        let commit = store.state().map_err(|e| e.to_string())?.commit;
        watermark.reset(commit).map_err(|e| e.to_string())?;
        return Ok(false);
    }
    tracing::error!(
        "the bookie is in limbo: it serves what it has, takes no adds and denies nothing. Restore its disk, or, with \
         no other copy, set bookie.accept_lost_entries = true once to go on without the lost entries"
    );
    limbo::enter(store).map_err(|e| e.to_string())?;
    Ok(true)
}

/// Advances the watermark about once a second, off the way of every acknowledgement.
async fn keep_watermark(watermark: Arc<Mutex<Watermark>>, synced: Arc<AtomicU64>, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(WATERMARK_EVERY);
    let mut marked = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        let now = synced.load(Ordering::Acquire);
        if marked == Some(now) {
            continue;
        }
        let (watermark, synced) = (Arc::clone(&watermark), Arc::clone(&synced));
        if tokio::task::spawn_blocking(move || advance(&watermark, &synced)).await.is_err() {
            return;
        }
        marked = Some(now);
    }
}

fn advance(watermark: &Mutex<Watermark>, synced: &AtomicU64) {
    let number = synced.load(Ordering::Acquire);
    if let Err(problem) = watermark.lock().advance(number) {
        tracing::warn!(%problem, "the watermark could not be advanced; it stays behind, which is safe");
    }
}

#[cfg(test)]
mod tests;
