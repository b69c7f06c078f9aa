//! One voter of the metadata service: opens the directory, starts raft, and runs the tasks around it.
//!
//! Owns start and stop; what a call means is decided in [`crate::state`], and in which order calls take effect in
//! `proposer`. A voter whose disk fails stops the node instead of answering from memory.

use crate::{
    applied::Applied,
    expiry::Expiry,
    gauges::Gauges,
    metrics::MetadataMetrics,
    proposer::Proposer,
    queue::queue,
    raft::{
        Raft,
        directory::{self, OpenError},
        log::LogStore,
        machine::Machine,
        network::NoPeers,
        store::StoreError,
    },
    service::Service,
    sessions::Leases,
};
use openraft::{BasicNode, Config, SnapshotPolicy};
use parking_lot::Mutex;
use protocol::{
    runtime::{Clock, TaskKind, Tasks},
    service::metadata::MetadataService,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a start waits for this voter to lead.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a stop waits for tasks, and for the database to close.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The settings of one voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetadataConfig {
    /// The voter's number, 1 or more. It is written into the directory and never changes.
    pub node: u64,
    /// The directory of the raft log and the snapshot.
    pub data_dir: PathBuf,
    /// A snapshot is written after this many log entries; the next start replays at most about as many.
    pub snapshot_after_logs: u64,
    /// The most bytes of calls that wait; beyond that a call is refused as unavailable.
    pub queue_bytes: usize,
    /// How long a proposal may take before its outcome counts as unknown, in milliseconds.
    pub proposal_timeout_ms: u64,
}

impl Default for MetadataConfig {
    fn default() -> Self {
        Self {
            node: 1,
            data_dir: PathBuf::from("data/metadata"),
            snapshot_after_logs: 10_000,
            queue_bytes: 64 * 1024 * 1024,
            proposal_timeout_ms: 10_000,
        }
    }
}

/// Why the metadata service did not start. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// What is stored cannot be read.
    #[error("the metadata in {dir} cannot be read: {reason}")]
    Stored {
        /// The directory.
        dir: String,
        /// Why.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("metadata settings: {0}")]
    Settings(String),
    /// Raft did not start.
    #[error("the metadata service did not start: {0}")]
    Raft(String),
    /// No leader was elected in time.
    #[error("the metadata service has no leader after {START_PATIENCE:?}; are enough voters running?")]
    NoLeader,
}

/// A running voter.
pub struct MetadataNode {
    raft: Raft,
    applied: Arc<Applied>,
    service: Arc<Service>,
    tasks: Tasks,
    ready: Arc<AtomicBool>,
    closed: CancellationToken,
    #[cfg(test)]
    store: std::sync::Weak<crate::raft::store::Store>,
}

impl std::fmt::Debug for MetadataNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataNode").field("applied", &self.applied.index()).finish_non_exhaustive()
    }
}

impl MetadataNode {
    /// Opens the directory, becomes the leader of a cluster of one, and is ready to serve on return.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: MetadataConfig, clock: Arc<dyn Clock>, tasks: &Tasks) -> Result<Self, StartError> {
        let settings = raft_settings(&config)?;
        let dir = config.data_dir.display().to_string();
        let (path, number) = (config.data_dir.clone(), config.node);
        let opened = tokio::task::spawn_blocking(move || {
            let store = directory::open(&path, number)?;
            let machine = Machine::open(Arc::clone(&store));
            Ok::<_, OpenError>((store, machine))
        });
        let (store, machine) = opened.await.map_err(|e| StartError::Raft(e.to_string()))??;
        let unreadable = |e: StoreError| StartError::Stored { dir: dir.clone(), reason: e.to_string() };
        let machine = machine.map_err(unreadable)?;
        let (applied, closed, log) = (machine.applied(), store.closed(), LogStore::new(Arc::clone(&store)));
        let raft = Raft::new(config.node, Arc::new(settings), NoPeers, log, machine)
            .await
            .map_err(|e| StartError::Stored { dir: dir.clone(), reason: e.to_string() })?;
        lead(&raft, config.node).await?;

        let metrics = MetadataMetrics::default();
        let leases = Arc::new(Mutex::new(Leases::default()));
        let now = clock.monotonic();
        for (session, ttl_ms) in applied.read(|state| state.sessions().collect::<Vec<_>>()) {
            leases.lock().grant(session, Duration::from_millis(ttl_ms), now);
        }
        let (entrance, exit) = queue(config.queue_bytes);
        let service =
            Arc::new(Service { entrance: entrance.clone(), applied: Arc::clone(&applied), clock: Arc::clone(&clock) });
        let ready = Arc::new(AtomicBool::new(true));
        let node = Self {
            raft,
            applied,
            service,
            tasks: tasks.child(),
            ready,
            closed,
            #[cfg(test)]
            store: Arc::downgrade(&store),
        };
        let proposer = Proposer {
            raft: node.raft.clone(),
            applied: Arc::clone(&node.applied),
            leases: Arc::clone(&leases),
            clock: Arc::clone(&clock),
            metrics: metrics.clone(),
            deadline: Duration::from_millis(config.proposal_timeout_ms),
        };
        let stopping = node.tasks.stopping();
        node.tasks.spawn(TaskKind::Vital, "metadata proposer", proposer.run(exit, stopping.clone()));
        let expiry = Expiry::new(leases, Arc::clone(&clock), entrance.clone());
        node.tasks.spawn(TaskKind::Vital, "metadata session expiry", expiry.run(stopping.clone()));
        node.tasks.spawn(TaskKind::Vital, "metadata raft", node.observe(stopping.clone()));
        let gauges = Gauges { applied: Arc::clone(&node.applied), store, metrics, clock, entrance };
        node.tasks.spawn(TaskKind::Background, "metadata gauges", gauges.run(stopping));
        let (revision, keys) = node.applied.read(|state| (state.revision(), state.key_count()));
        tracing::info!(voter = config.node, %revision, keys, dir, "metadata service ready");
        Ok(node)
    }

    /// The service, for the other roles of this process.
    #[must_use]
    pub fn service(&self) -> Arc<dyn MetadataService> {
        Arc::clone(&self.service) as Arc<dyn MetadataService>
    }

    /// Whether this voter leads and its state is current.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The same question for whoever does not hold the node.
    pub fn readiness(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let ready = Arc::clone(&self.ready);
        move || ready.load(Ordering::Relaxed)
    }

    /// A number that differs when the state does, for comparing voters and restarts.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.applied.read(crate::state::State::digest)
    }

    /// Writes a snapshot now, so that the log can be shortened.
    ///
    /// # Errors
    /// If raft has stopped.
    pub async fn snapshot(&self) -> Result<(), StartError> {
        self.raft.trigger().snapshot().await.map_err(|e| StartError::Raft(e.to_string()))
    }

    /// Stops taking calls, answers the waiting ones, and closes the directory.
    pub async fn stop(self) {
        self.ready.store(false, Ordering::Relaxed);
        if !self.tasks.stop(STOP_PATIENCE).await {
            tracing::warn!("metadata tasks did not stop in time");
        }
        self.applied.close();
        if let Err(problem) = self.raft.shutdown().await {
            tracing::error!(%problem, "raft did not stop cleanly");
        }
        let closed = self.closed.clone();
        drop(self);
        if tokio::time::timeout(STOP_PATIENCE, closed.cancelled()).await.is_err() {
            tracing::warn!("the metadata directory is still open");
        }
        tracing::info!("metadata service stopped");
    }

    /// Follows raft's own health: a fatal error, above all one of the disk, stops the node.
    fn observe(&self, stopping: CancellationToken) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (mut state, ready, applied) = (self.raft.metrics(), Arc::clone(&self.ready), Arc::clone(&self.applied));
        async move {
            loop {
                let fatal = {
                    let now = state.borrow_and_update();
                    ready.store(now.current_leader == Some(now.id) && now.running_state.is_ok(), Ordering::Relaxed);
                    now.running_state.clone().err()
                };
                if let Some(problem) = fatal
                    && !stopping.is_cancelled()
                {
                    ready.store(false, Ordering::Relaxed);
                    applied.close();
                    return Err(format!("the metadata service cannot go on: {problem}"));
                }
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    moved = state.changed() => if moved.is_err() { return Ok(()) },
                }
            }
        }
    }
}

fn raft_settings(config: &MetadataConfig) -> Result<Config, StartError> {
    if config.node == 0 || config.snapshot_after_logs == 0 || config.proposal_timeout_ms == 0 {
        return Err(StartError::Settings("node, snapshot_after_logs and proposal_timeout_ms must be 1 or more".into()));
    }
    let settings = Config {
        cluster_name: "magnetar".into(),
        heartbeat_interval: 250,
        election_timeout_min: 1_000,
        election_timeout_max: 2_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_after_logs),
        max_in_snapshot_log_to_keep: 100,
        purge_batch_size: 64,
        ..Config::default()
    };
    settings.validate().map_err(|e| StartError::Settings(e.to_string()))
}

/// Becomes the leader at once: founds the cluster at the first start, and does not wait for an election timeout later.
async fn lead(raft: &Raft, node: u64) -> Result<(), StartError> {
    let failed = |e: &dyn std::fmt::Display| StartError::Raft(e.to_string());
    if !raft.is_initialized().await.map_err(|e| failed(&e))? {
        let members = BTreeMap::from([(node, BasicNode::default())]);
        raft.initialize(members).await.map_err(|e| failed(&e))?;
    } else if raft.current_leader().await != Some(node) {
        raft.trigger().elect().await.map_err(|e| failed(&e))?;
    }
    let elected = raft.wait(Some(START_PATIENCE)).current_leader(node, "this voter leads").await;
    elected.map_err(|_| StartError::NoLeader)?;
    match tokio::time::timeout(START_PATIENCE, raft.ensure_linearizable()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(problem)) => Err(failed(&problem)),
        Err(_) => Err(StartError::NoLeader),
    }
}

#[cfg(test)]
mod tests;
