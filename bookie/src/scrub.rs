//! Scrubbing: everything this bookie holds is read again and compared, before somebody needs it.
//!
//! Owns the pass over all ledgers, in the order of their ids, and its pace. Verifies checksums, and completeness against
//! metadata: of a closed ledger that names this bookie, every entry of our fragments must be here. What is damaged or
//! missing is fetched from other members at once; what nobody gives is tried again later, and if it is missing, it is
//! noted in metadata as a hole. A ledger of which a reader finds an entry damaged does not wait for its turn. Reads one piece at a time on a thread of its own, past the block cache, so that a scrub
//! takes no more from others than its pace. Never judges a head's completeness: its writer may not have got to it yet.

mod holes;
mod record;

use crate::{
    fetch::Fetcher,
    holdings,
    inventory::{self, Inventory, InventoryError, Listed},
    ledger::LedgerRecord,
    pace::Pace,
    service::Service,
    store::StoreError,
    watched::{Seen, Watched},
};
use protocol::{
    id::{EntryId, LedgerId},
    ledger::{
        metadata::{BookieMember, LedgerState},
        repair::gaps,
    },
    model::{ScrubRecord, key},
    runtime::Clock,
    service::{
        bookie::BookieError,
        metadata::{MetadataError, MetadataService},
    },
};
use record::{Due, Progress, due};
use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often progress is written.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The pause after something went wrong, and while the bookie is in limbo.
const PAUSE: Duration = Duration::from_secs(5);
/// How often what could not be fetched is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(600);

/// Why a scrub was interrupted.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("metadata: {0}")]
    Inventory(#[from] InventoryError),
    #[error("metadata: {0}")]
    Metadata(#[from] MetadataError),
    #[error("this bookie: {0}")]
    Bookie(#[from] BookieError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("a thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// How a bookie is scrubbed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// From start to start; none if only when asked for.
    pub(crate) interval: Option<Duration>,
    /// The pace of reading and of fetching.
    pub(crate) bytes_per_second: u64,
}

/// What reading a ledger has shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Findings {
    damaged: Vec<u64>,
    held: Vec<RangeInclusive<u64>>,
}

/// Scrubs one bookie.
pub(crate) struct Scrubber {
    service: Service,
    metadata: Arc<dyn MetadataService>,
    clock: Arc<dyn Clock>,
    plan: Plan,
    pace: Pace,
    fetcher: Fetcher,
    /// Damaged or missing, and nobody had it.
    unhealed: Inventory,
    saved_at: Duration,
}

impl Scrubber {
    pub(crate) fn new(service: Service, metadata: Arc<dyn MetadataService>, clock: Arc<dyn Clock>, plan: Plan) -> Self {
        let pace = || Pace::new(plan.bytes_per_second, Arc::clone(&clock));
        let (fetcher, pace) = (Fetcher::new(service.clone(), pace()), pace());
        Self { service, metadata, clock, plan, pace, fetcher, unhealed: Inventory::new(), saved_at: Duration::ZERO }
    }

    fn member(&self) -> BookieMember {
        self.service.0.member
    }

    /// Runs until the bookie stops.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let orders = Watched::<ScrubRecord>::new(Arc::clone(&self.metadata), key::scrub(self.member().id));
        let mut record = orders.changes();
        let scrub = async {
            loop {
                if let Err(problem) = self.step(&mut record).await {
                    tracing::warn!(bookie = %self.member(), %problem, "the scrub was interrupted; it goes on later");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = orders.run(stopping.clone()) => {}
            () = scrub => {}
        }
    }

    /// Scrubs if it is time, else waits until it may be.
    async fn step(&mut self, record: &mut watch::Receiver<Option<Seen<ScrubRecord>>>) -> Result<(), Problem> {
        let Some(seen) = record.borrow_and_update().clone() else {
            drop(record.changed().await);
            return Ok(());
        };
        let health = &self.service.0.shared.health;
        if health.is_limbo() || health.failure().is_some() {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        }
        let wait = match due(seen.map(|(record, _)| record).as_ref(), self.clock.wall(), self.plan.interval) {
            Due::Begin | Due::Resume => return self.pass().await,
            Due::In(left) => left,
            Due::Never => RETRY_EVERY,
        };
        let mut damage = health.damage();
        tokio::select! {
            changed = record.changed() => drop(changed),
            // The sender lives as long as the bookie.
            () = async { drop(damage.wait_for(|damaged| !damaged.is_empty()).await) } => self.look_after().await?,
            () = tokio::time::sleep(wait.min(RETRY_EVERY)) => self.retry().await?,
        }
        Ok(())
    }

    /// Heals the ledgers of which a reader found something damaged, at most so often.
    async fn look_after(&mut self) -> Result<(), Problem> {
        let mut damaged = self.service.0.shared.health.take_damaged();
        // These are tried again in their own time.
        damaged.retain(|id| !self.unhealed.contains_key(id));
        if !damaged.is_empty() {
            let mut inventory = inventory::list(&self.metadata, self.member()).await?;
            inventory.retain(|id, _| damaged.contains(id));
            self.again(inventory, true).await?;
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// One pass over all ledgers, or the rest of one.
    async fn pass(&mut self) -> Result<(), Problem> {
        let mut progress = Progress::load(&self.metadata, self.member().id).await?;
        // Looked at again, for the watch may be behind what this bookie has written itself.
        match due(Some(&progress.record), self.clock.wall(), self.plan.interval) {
            Due::Begin => {
                let requested_at = progress.record.requested_at;
                // Never before the request, whatever the clocks say.
                let started_at = Some(self.clock.wall()).max(requested_at);
                progress.record = ScrubRecord { requested_at, started_at, ..ScrubRecord::default() };
                self.unhealed.clear();
            }
            Due::Resume => {}
            Due::In(_) | Due::Never => return Ok(()),
        }
        let inventory = inventory::list(&self.metadata, self.member()).await?;
        let mut ledgers = self.known().await?;
        ledgers.extend(inventory.keys());
        progress.record.total_ledgers = ledgers.len() as u64;
        progress.save().await?;
        tracing::info!(bookie = %self.member(), ledgers = ledgers.len(), after = ?progress.record.after, "scrubbing");
        for id in ledgers {
            if progress.record.after.is_some_and(|after| id <= after) {
                continue;
            }
            for noted in self.noted(&inventory) {
                self.ledger(noted, inventory.get(&noted), &mut progress).await?;
            }
            self.ledger(id, inventory.get(&id), &mut progress).await?;
            progress.record.ledgers += 1;
            progress.record.after = Some(id);
            self.save(&mut progress).await?;
        }
        let now = self.clock.wall();
        (progress.record.finished_at, progress.record.after) = (Some(now), None);
        progress.save().await?;
        self.service.0.shared.metrics.scrub_finished.set(now.0 as f64 / 1000.0);
        let ScrubRecord { entries, bytes, damaged, healed, .. } = progress.record;
        tracing::info!(bookie = %self.member(), entries, bytes, damaged, healed, "scrubbed");
        Ok(())
    }

    /// Ledgers of this listing of which a reader found something damaged meanwhile. The others wait.
    fn noted(&self, inventory: &Inventory) -> BTreeSet<LedgerId> {
        let health = &self.service.0.shared.health;
        let (ours, others): (BTreeSet<_>, BTreeSet<_>) =
            health.take_damaged().into_iter().partition(|id| inventory.contains_key(id));
        others.into_iter().for_each(|id| health.put_back_damaged(id));
        ours.into_iter().filter(|id| !self.unhealed.contains_key(id)).collect()
    }

    /// The ledgers that are known here and not deleted.
    async fn known(&self) -> Result<BTreeSet<LedgerId>, Problem> {
        let store = Arc::clone(&self.service.0.shared.store);
        let listed = tokio::task::spawn_blocking(move || holdings::ledgers(&*store, |_| true));
        Ok(listed.await??)
    }

    /// Reads one ledger and heals what is wrong with it.
    async fn ledger(&mut self, id: LedgerId, listed: Option<&Listed>, progress: &mut Progress) -> Result<(), Problem> {
        let findings = self.read(id, listed, progress).await?;
        let Some(listed) = listed.filter(|listed| !self.suspects(listed, &findings).is_empty()) else {
            return Ok(());
        };
        // A scrub takes days: what was wanted when it began may be deleted, or have moved to other bookies.
        let now = inventory::look(&self.metadata, self.member(), listed.partition, id).await?;
        let Some(listed) = now else { return Ok(()) };
        if self.is_deleted(id).await? {
            return Ok(());
        }
        let suspects = self.suspects(&listed, &findings);
        if suspects.is_empty() {
            return Ok(());
        }
        let count = suspects.iter().map(|run| run.end() - run.start() + 1).sum();
        let metrics = &self.service.0.shared.metrics;
        metrics.scrub_damaged.increment(count);
        progress.record.damaged += count;
        tracing::error!(ledger = %id, entries = ?suspects, "damaged or missing; asking other bookies");
        progress.record.healed += self.heal(&listed, suspects).await?;
        Ok(())
    }

    /// Reads what the store has of a ledger.
    async fn read(
        &mut self,
        id: LedgerId,
        listed: Option<&Listed>,
        progress: &mut Progress,
    ) -> Result<Findings, Problem> {
        let store = Arc::clone(&self.service.0.shared.store);
        let list = tokio::task::spawn_blocking(move || holdings::list(&*store, id, EntryId(0), usize::MAX));
        let held = match list.await? {
            Ok(list) => list.runs,
            Err(StoreError::Closed) => return Err(StoreError::Closed.into()),
            // Not even the keys can be read: each entry that should be here is looked at by itself.
            Err(problem) => {
                tracing::error!(ledger = %id, %problem, "the entries of a ledger cannot be listed");
                listed.map(|listed| listed.wanted(self.member())).unwrap_or_default()
            }
        };
        let mut findings = Findings { damaged: Vec::new(), held };
        for run in findings.held.clone() {
            let mut next = Some(*run.start());
            while let Some(first) = next {
                let (store, rest) = (Arc::clone(&self.service.0.shared.store), first..=*run.end());
                let found = tokio::task::spawn_blocking(move || holdings::verify(&*store, id, &rest)).await??;
                findings.damaged.extend(found.damaged);
                next = found.next;
                self.service.0.shared.metrics.scrubbed.increment(found.bytes);
                progress.record.entries += found.entries;
                progress.record.bytes += found.bytes;
                self.pace.spend(found.bytes).await;
                self.save(progress).await?;
                if found.damaged.is_some() && self.is_deleted(id).await? {
                    return Ok(Findings::default());
                }
            }
        }
        Ok(findings)
    }

    /// The entries of a ledger that are to be fetched: missing, or damaged and part of the ledger.
    fn suspects(&self, listed: &Listed, findings: &Findings) -> Vec<RangeInclusive<u64>> {
        let wanted = listed.wanted(self.member());
        let is_part = |entry: &&u64| match listed.ledger.state {
            LedgerState::Closed { .. } => wanted.iter().any(|run| run.contains(entry)),
            LedgerState::Open | LedgerState::InRecovery => true,
        };
        let missing = wanted.iter().flat_map(|wanted| gaps(wanted, &findings.held));
        let damaged = findings.damaged.iter().filter(is_part).map(|entry| *entry..=*entry);
        let mut all: Vec<_> = missing.chain(damaged).collect();
        all.sort_by_key(|run| *run.start());
        all
    }

    async fn is_deleted(&self, id: LedgerId) -> Result<bool, Problem> {
        let store = Arc::clone(&self.service.0.shared.store);
        Ok(tokio::task::spawn_blocking(move || store.ledger(id)).await?? == Some(LedgerRecord::Deleted))
    }

    /// Fetches entries; how many came.
    async fn heal(&mut self, listed: &Listed, suspects: Vec<RangeInclusive<u64>>) -> Result<u64, Problem> {
        let (mut healed, mut lacks, mut problem) = (0, Vec::new(), None);
        for run in suspects {
            match self.fetcher.fetch(&listed.ledger, run).await {
                Ok(fetched) => {
                    healed += fetched.entries;
                    lacks.extend(fetched.missing);
                    problem = fetched.problem.or(problem);
                }
                Err(BookieError::Deleted(_)) => return Ok(healed),
                Err(problem) => return Err(problem.into()),
            }
        }
        self.service.0.shared.metrics.scrub_healed.increment(healed);
        let id = listed.ledger.id;
        if lacks.is_empty() {
            self.unhealed.remove(&id);
            tracing::info!(ledger = %id, entries = healed, "healed from other bookies");
            return Ok(healed);
        }
        let problem = problem.map(|problem| problem.to_string()).unwrap_or_default();
        tracing::error!(ledger = %id, entries = ?lacks, problem, "no other bookie gives these entries now");
        self.unhealed.insert(id, listed.clone());
        let missing = self.not_listed(id, &lacks).await?;
        if !missing.is_empty() {
            holes::note(&self.metadata, listed, self.member(), &missing).await?;
        }
        Ok(healed)
    }

    /// Of these entries the ones that are not here at all, not even damaged.
    async fn not_listed(
        &self,
        id: LedgerId,
        entries: &[RangeInclusive<u64>],
    ) -> Result<Vec<RangeInclusive<u64>>, Problem> {
        let store = Arc::clone(&self.service.0.shared.store);
        let list = tokio::task::spawn_blocking(move || holdings::list(&*store, id, EntryId(0), usize::MAX)).await?;
        let held = list.map(|list| list.runs).unwrap_or_default();
        Ok(entries.iter().flat_map(|run| gaps(run, &held)).collect())
    }

    /// Looks again at the ledgers of which something could not be fetched.
    async fn retry(&mut self) -> Result<(), Problem> {
        if self.unhealed.is_empty() {
            return Ok(());
        }
        self.again(self.unhealed.clone(), false).await
    }

    /// Reads these ledgers beside a scrub and heals them. What is healed goes into the record, and what is damaged if it
    /// was not counted before.
    async fn again(&mut self, ledgers: Inventory, is_new: bool) -> Result<(), Problem> {
        let mut progress = Progress::load(&self.metadata, self.member().id).await?;
        let before = progress.record.clone();
        for (id, listed) in ledgers {
            let now = inventory::look(&self.metadata, self.member(), listed.partition, id).await?;
            let was = self.unhealed.remove(&id);
            if let Err(problem) = self.ledger(id, now.as_ref(), &mut progress).await {
                self.unhealed.extend(was.map(|was| (id, was)));
                return Err(problem);
            }
        }
        let ScrubRecord { requested_at, healed, damaged, .. } = progress.record;
        let damaged = if is_new { damaged } else { before.damaged };
        progress.record = ScrubRecord { requested_at, healed, damaged, ..before };
        Ok(progress.save().await?)
    }

    async fn save(&mut self, progress: &mut Progress) -> Result<(), Problem> {
        let now = self.clock.monotonic();
        if now.saturating_sub(self.saved_at) >= SAVE_EVERY {
            self.saved_at = now;
            progress.save().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
