//! What every partition of a broker shares: the services it calls, its caches and its shares. Owns nothing that changes
//! with a partition.

use crate::{
    budget::ByteBudget,
    config::Copies,
    ledger::{LedgerDeps, LedgerReader},
    managed_ledger::{IndexCache, ReadAhead, TailCache},
    metadata_client::MetadataClient,
    metrics::{BrokerMetrics, CacheMetrics, TopicMetrics},
    roster::Roster,
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
    /// The bookies, as `ledgers` uses them.
    pub(crate) roster: Roster,
    pub(crate) copies: Copies,
}

/// What the configuration says to all partitions: the sizes of the shared budgets in bytes, copies, the own rack.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    pub(crate) cache: usize,
    pub(crate) queue: usize,
    pub(crate) copies: Copies,
    pub(crate) rack: Option<String>,
}

impl Context {
    pub(crate) fn new(
        metadata: Arc<MetadataClient>,
        (roster, clock): (Roster, Arc<dyn Clock>),
        settings: BrokerSettings,
        tasks: Tasks,
        shares: Shares,
    ) -> Self {
        let metrics = BrokerMetrics::default();
        let read_ahead = shares.cache / READ_AHEAD_SHARE;
        let ledgers = LedgerDeps::new(Arc::new(roster.clone()), Arc::clone(&clock));
        Self {
            metadata,
            reader: LedgerReader::new(ledgers.clone()).near(shares.rack),
            clock,
            ledgers,
            tasks,
            tails: TailCache::new(shares.cache - read_ahead, CacheMetrics::default()),
            read_ahead: ReadAhead::new(read_ahead),
            indexes: IndexCache::default(),
            budget: ByteBudget::new(shares.queue, metrics.queue_bytes.clone()),
            metrics,
            settings: ArcSwap::from_pointee(settings),
            opening: Semaphore::new(OPENING),
            roster,
            copies: shares.copies,
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
    /// The quorum that a new ledger should have.
    pub(crate) fn quorum(&self, context: &Context) -> Result<Quorum, QuorumError> {
        let min_insync = self.settings.load().min_insync;
        context.copies.quorum(self.replication_factor, min_insync, context.roster.size())
    }
}
