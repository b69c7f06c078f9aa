//! Healing: a bookie that lost acknowledged state fetches it again from its peers, and leaves limbo (rule B12, BP-46).
//!
//! Owns the order of the steps, each of which may be cut off by a crash:
//!
//! 1. Limbo stands in the store, and every ledger known here is fenced and in limbo ([`limbo`](crate::limbo), at start).
//! 2. A ledger id is taken, which no ledger has that began before this. Ledgers that metadata says are held here and that were lost as a whole are fenced and put in limbo, too.
//! 3. Each ledger in limbo: if it is closed, what is missing is fetched, listed again, and the ledger's limbo ends; a head
//!    waits until its owner has closed it; a ledger that nobody names any more is done.
//! 4. When none is left, limbo ends in the store, together with the [`Floor`]: what was forgotten and is not named by
//!    metadata may be a tombstone, so no unknown ledger below the id of step 2 is taken for new. Then the watermark is set to what is there, then adds are taken.
//!
//! A start in between begins again at step 1: marks cost little, and entries that were fetched are here already. Until
//! step 4 the bookie as a whole denies nothing and takes no adds, so serving meanwhile is safe. An entry that no other
//! member has keeps its ledger in limbo, and with it the bookie: an operator must say that the loss is accepted.

use crate::{
    committer::{Command, Mend},
    fetch::Fetcher,
    holdings,
    inventory::{self, Inventory, InventoryError, Listed},
    ledger::Floor,
    pace::Pace,
    service::Service,
    store::StoreError,
};
use protocol::{
    id::{EntryId, LedgerId},
    ledger::{metadata::BookieMember, repair::gaps},
    service::{Abandoned, bookie::BookieError, metadata::MetadataService},
};
use std::{collections::BTreeSet, io, ops::RangeInclusive, sync::Arc, time::Duration};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The pause before ledgers that could not be healed are looked at again.
const PAUSE: Duration = Duration::from_secs(2);
/// Progress is logged once per so many ledgers.
const LOG_EVERY: usize = 1000;
/// Every so many pauses the log says what is waited for.
const TELL_EVERY: u64 = 30;

/// Sets the watermark to a commit number, durably, even if it falls. Blocks.
pub(crate) type ResetWatermark = Arc<dyn Fn(u64) -> io::Result<()> + Send + Sync>;

/// Why healing stopped; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("metadata: {0}")]
    Inventory(#[from] InventoryError),
    #[error("this bookie: {0}")]
    Bookie(#[from] BookieError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("the watermark: {0}")]
    Watermark(io::Error),
    #[error("a thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// What became of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It is whole, or nobody needs it.
    Healed,
    /// Its owner has not closed it yet.
    IsHead,
    /// No other member gave these entries.
    Lacks(Vec<RangeInclusive<u64>>, Option<BookieError>),
}

/// Heals one bookie.
pub(crate) struct Healer {
    service: Service,
    metadata: Arc<dyn MetadataService>,
    fetcher: Fetcher,
    reset_watermark: ResetWatermark,
}

impl Healer {
    pub(crate) fn new(
        service: Service,
        metadata: Arc<dyn MetadataService>,
        pace: Pace,
        reset_watermark: ResetWatermark,
    ) -> Self {
        let fetcher = Fetcher::new(service.clone(), pace);
        Self { service, metadata, fetcher, reset_watermark }
    }

    /// Runs until the bookie is out of limbo, which it may never have been in, or is stopped.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let mut tries = 0;
        while self.service.0.shared.health.is_limbo() {
            let healed = tokio::select! {
                healed = self.heal(&mut tries) => healed,
                () = stopping.cancelled() => return,
            };
            match healed {
                Ok(()) => continue,
                Err(Problem::Bookie(BookieError::Storage { .. })) => {
                    return tracing::error!("healing ends: the store has failed");
                }
                Err(problem) => tracing::warn!(%problem, "healing was interrupted; it begins again"),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    fn member(&self) -> BookieMember {
        self.service.0.member
    }

    /// Steps 2 to 4.
    async fn heal(&mut self, tries: &mut u64) -> Result<(), Problem> {
        // Taken first: whatever began before this and is ours stands in the inventory, and is marked.
        let floor = Floor(inventory::next_ledger(&self.metadata).await.map_err(InventoryError::from)?);
        let mut inventory = inventory::list(&self.metadata, self.member()).await?;
        self.suspect(&inventory).await?;
        let mut left = self.in_limbo().await?;
        tracing::info!(ledgers = left.len(), bookie = %self.member(), "healing: looking for what was lost");
        loop {
            let mut waits = None;
            for ledger in left.clone() {
                match self.heal_ledger(ledger, inventory.get(&ledger)).await? {
                    Outcome::Healed => {
                        left.remove(&ledger);
                        self.service.0.shared.metrics.limbo_ledgers.set(left.len() as f64);
                        if left.len().is_multiple_of(LOG_EVERY) {
                            tracing::info!(left = left.len(), bookie = %self.member(), "healing");
                        }
                    }
                    other => waits = Some((ledger, other)),
                }
            }
            let Some((ledger, why)) = waits else { break };
            if tries.is_multiple_of(TELL_EVERY) {
                tell(left.len(), ledger, &why);
            }
            *tries += 1;
            tokio::time::sleep(PAUSE).await;
            self.look_again(&left, &mut inventory).await?;
        }
        self.end(floor).await
    }

    /// Step 2.
    async fn suspect(&self, inventory: &Inventory) -> Result<(), Problem> {
        for (id, listed) in inventory {
            match self.mend(Mend::Suspect(*id, listed.ledger.key)).await {
                Ok(()) | Err(BookieError::Deleted(_)) => {}
                Err(BookieError::WrongKey(_)) => {
                    tracing::error!(ledger = %id, "the ledger has another key here than in metadata; it stays fenced");
                }
                Err(problem) => return Err(problem.into()),
            }
        }
        Ok(())
    }

    /// The ledgers that are in limbo, as stored.
    async fn in_limbo(&self) -> Result<BTreeSet<LedgerId>, Problem> {
        let store = Arc::clone(&self.service.0.shared.store);
        let found = tokio::task::spawn_blocking(move || holdings::ledgers(&*store, |known| known.limbo));
        let found = found.await??;
        self.service.0.shared.metrics.limbo_ledgers.set(found.len() as f64);
        Ok(found)
    }

    /// Step 3, for one ledger.
    async fn heal_ledger(&mut self, id: LedgerId, listed: Option<&Listed>) -> Result<Outcome, Problem> {
        match listed {
            Some(listed) if listed.is_head() => return Ok(Outcome::IsHead),
            Some(listed) => {
                let (mut lacks, mut problem) = (Vec::new(), None);
                for run in self.missing(listed).await? {
                    match self.fetcher.fetch(&listed.ledger, run).await {
                        Ok(fetched) => {
                            let metrics = &self.service.0.shared.metrics;
                            metrics.healed_entries.increment(fetched.entries);
                            metrics.healed_bytes.increment(fetched.bytes);
                            problem = fetched.problem.or(problem);
                        }
                        Err(BookieError::Deleted(_)) => return Ok(Outcome::Healed),
                        Err(problem) => return Err(problem.into()),
                    }
                }
                // Only what the store itself lists counts as being here.
                lacks.extend(self.missing(listed).await?);
                if !lacks.is_empty() {
                    return Ok(Outcome::Lacks(lacks, problem));
                }
            }
            None => {}
        }
        self.mend(Mend::Heal(id)).await?;
        tracing::debug!(ledger = %id, "healed");
        Ok(Outcome::Healed)
    }

    /// The entries of a closed ledger that belong here and are not.
    async fn missing(&self, listed: &Listed) -> Result<Vec<RangeInclusive<u64>>, Problem> {
        let wanted = listed.wanted(self.member());
        let (store, ledger) = (Arc::clone(&self.service.0.shared.store), listed.ledger.id);
        let held = tokio::task::spawn_blocking(move || holdings::list(&*store, ledger, EntryId(0), usize::MAX));
        let held = held.await??;
        Ok(wanted.iter().flat_map(|wanted| gaps(wanted, &held.runs)).collect())
    }

    /// What metadata says now of the ledgers that are left.
    async fn look_again(&self, left: &BTreeSet<LedgerId>, inventory: &mut Inventory) -> Result<(), Problem> {
        for id in left {
            let Some(listed) = inventory.get(id) else { continue };
            match inventory::look(&self.metadata, self.member(), listed.partition, *id).await? {
                Some(now) => drop(inventory.insert(*id, now)),
                None => drop(inventory.remove(id)),
            }
        }
        Ok(())
    }

    /// Step 4. Cut off before the last line, the next start is in limbo once more and heals once more.
    async fn end(&self, floor: Floor) -> Result<(), Problem> {
        self.mend(Mend::EndLimbo(floor)).await?;
        let (reset, store) = (Arc::clone(&self.reset_watermark), Arc::clone(&self.service.0.shared.store));
        tokio::task::spawn_blocking(move || {
            let commit = store.state()?.commit;
            reset(commit).map_err(Problem::Watermark)
        })
        .await??;
        self.service.0.shared.health.leave_limbo();
        tracing::info!(bookie = %self.member(), "healed: everything that was lost is here again; adds are taken");
        Ok(())
    }

    /// Has the committer note a step; answered when it is durable.
    async fn mend(&self, mend: Mend) -> Result<(), BookieError> {
        let (done, answer) = oneshot::channel();
        let then = Box::new(move |outcome| drop(done.send(outcome)));
        self.service.0.committer.call(Command::Mend { mend, then });
        answer.await.unwrap_or_else(|_| Err(BookieError::abandoned()))
    }
}

fn tell(left: usize, ledger: LedgerId, why: &Outcome) {
    match why {
        Outcome::Lacks(entries, problem) => {
            let problem = problem.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%ledger, ?entries, problem, left, "in limbo: no other bookie has given these entries yet");
        }
        Outcome::IsHead | Outcome::Healed => {
            tracing::info!(%ledger, left, "in limbo: waiting until its owner has closed this ledger");
        }
    }
}

#[cfg(test)]
mod tests;
