//! What every partition of a broker shares: the services it calls, its caches and its budgets. Owns nothing that changes
//! with a partition.

use crate::{
    budget::ByteBudget,
    ledger::{LedgerDeps, LedgerReader},
    managed_ledger::{IndexCache, ReadAhead, TailCache},
    metadata_client::MetadataClient,
    metrics::{BrokerMetrics, CacheMetrics, TopicMetrics},
};
use arc_swap::ArcSwap;
use protocol::{
    ledger::quorum::{Quorum, QuorumError},
    runtime::{Clock, Tasks},
    settings::{BrokerSettings, TopicSettings},
    topic::{TopicId, TopicName},
};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The most partitions that are opened at once.
const OPENING: usize = 64;
/// The part of the cache that catch-up readers get: an eighth, and what one entry needs at least.
const READ_AHEAD_SHARE: usize = 8;

/// The shared context.
pub(crate) struct Context {
    pub(crate) metadata: Arc<MetadataClient>,
    pub(crate) ledgers: LedgerDeps,
    pub(crate) reader: LedgerReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
    pub(crate) tails: TailCache,
    pub(crate) read_ahead: ReadAhead,
    pub(crate) indexes: IndexCache,
    pub(crate) budget: ByteBudget,
    pub(crate) metrics: BrokerMetrics,
    pub(crate) settings: ArcSwap<BrokerSettings>,
    pub(crate) opening: Semaphore,
    /// The most copies this deployment can hold of a ledger; none without limit.
    pub(crate) max_copies: Option<u8>,
}

/// The sizes of the shared budgets, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budgets {
    pub(crate) cache: usize,
    pub(crate) queue: usize,
    pub(crate) max_copies: Option<u8>,
}

impl Context {
    pub(crate) fn new(
        metadata: Arc<MetadataClient>,
        ledgers: LedgerDeps,
        settings: BrokerSettings,
        tasks: Tasks,
        budgets: Budgets,
    ) -> Self {
        let metrics = BrokerMetrics::default();
        let read_ahead = budgets.cache / READ_AHEAD_SHARE;
        Self {
            metadata,
            reader: LedgerReader::new(ledgers.clone()),
            clock: Arc::clone(&ledgers.clock),
            ledgers,
            tasks,
            tails: TailCache::new(budgets.cache - read_ahead, CacheMetrics::default()),
            read_ahead: ReadAhead::new(read_ahead),
            indexes: IndexCache::default(),
            budget: ByteBudget::new(budgets.queue, metrics.queue_bytes.clone()),
            metrics,
            settings: ArcSwap::from_pointee(settings),
            opening: Semaphore::new(OPENING),
            max_copies: budgets.max_copies,
        }
    }
}

/// What the partitions of one topic share.
pub(crate) struct TopicHandle {
    pub(crate) id: TopicId,
    pub(crate) name: TopicName,
    pub(crate) replication_factor: u8,
    pub(crate) settings: ArcSwap<TopicSettings>,
    pub(crate) metrics: TopicMetrics,
}

impl TopicHandle {
    /// The quorum of a new ledger: as many copies as the topic wants and the deployment can hold.
    pub(crate) fn quorum(&self, max_copies: Option<u8>) -> Result<Quorum, QuorumError> {
        let wanted = self.replication_factor.max(1);
        let copies = max_copies.map_or(wanted, |max| wanted.min(max.max(1)));
        Quorum::of_replication(copies, self.settings.load().min_insync)
    }
}
