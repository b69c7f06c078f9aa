//! The repair of one ledger: look, claim, copy, swap.
//!
//! Owns the order that keeps a copy from being lost or forgotten. The page of the ledger is read anew and judged here;
//! this bookie is noted among the stray copies before the first byte comes; the page is swapped at the version it was
//! judged at, only when everything is durable here (A3), and in the same transaction the stray copies become what they
//! now are. A ledger that is dropped at the same moment changes its page, so either the drop names this bookie or the
//! swap fails and the note stays: the auditor then has the copy deleted (S11).

use super::{claim::Claim, metrics::Metrics, survey::Survey};
use crate::{
    copy::{Copy, NoSource, Route},
    pace::Pace,
};
use parking_lot::Mutex;
use protocol::{
    id::{EntryId, LedgerId, Revision, SessionId},
    ledger::{
        metadata::{BookieMember, LedgerMetadata},
        repair::{Diagnosis, Roster, Share, bytes_of, diagnose, gaps, sources},
    },
    model::{ClosedPage, ModelError, RepairTask, StrayCopies, decode, encode, key},
    runtime::Clock,
    service::{
        bookie::{BookieError, BookieService, FenceLedger, ListEntries},
        directory::BookieDirectory,
        metadata::{
            Condition, Consistency, MetadataError, MetadataService, Operation, Outcome as Written, Transaction,
        },
    },
};
use std::{collections::BTreeSet, future::Future, ops::RangeInclusive, sync::Arc, time::Duration};

/// How long metadata or a bookie may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a ledger is judged again after it changed.
const ATTEMPTS: usize = 8;
/// How often a swap is tried again after other ledgers of the same page changed: other bookies are at them.
const SWAPS: usize = 64;
/// Runs per listing.
const RUNS: u32 = 1_000;
/// The shortest time that can be slept with some precision.
const SHORTEST_WAIT: Duration = Duration::from_millis(2);

/// What became of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This bookie has done its share.
    Done,
    /// There was nothing that this bookie could do.
    Nothing,
    /// Another bookie has claimed it, or it is no longer asked for.
    Taken,
    /// The ledger is no longer part of a partition.
    Gone,
    /// It failed, and is to be tried again.
    Failed,
}

/// Why a ledger was not repaired this time.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Bookie(#[from] BookieError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    NoSource(#[from] NoSource),
    #[error("ledger {0} is not whole here after the copy")]
    Incomplete(LedgerId),
    #[error("the claim on ledger {0} is lost")]
    ClaimLost(LedgerId),
    #[error("ledger {0} changes too often")]
    Restless(LedgerId),
    #[error("this bookie knows no others yet")]
    NoPeers,
    #[error("no answer within {PATIENCE:?}")]
    Silent,
}

/// The answer of somebody, which must come in time.
pub(super) async fn in_time<T, E>(answer: impl Future<Output = Result<T, E>>) -> Result<T, JobError>
where
    JobError: From<E>,
{
    Ok(tokio::time::timeout(PATIENCE, answer).await.map_err(|_| JobError::Silent)??)
}

/// The rate that all ledgers being repaired share.
pub(super) struct Throttle(pub(super) Mutex<Pace>);

impl Throttle {
    /// Takes note of bytes and waits until they are paid for.
    pub(super) async fn spend(&self, bytes: u64) {
        let wait = self.0.lock().charge(bytes);
        // What is too short to be slept is owed, and paid together with what follows.
        if wait >= SHORTEST_WAIT {
            tokio::time::sleep(wait).await;
        }
    }
}

/// What every job works with.
pub(super) struct Tools {
    pub(super) metadata: Arc<dyn MetadataService>,
    /// This bookie.
    pub(super) bookie: Arc<dyn BookieService>,
    pub(super) member: BookieMember,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) survey: Survey,
    pub(super) throttle: Throttle,
    pub(super) metrics: Metrics,
}

/// The page that names the ledger, as it was read.
struct Found {
    page: ClosedPage,
    version: Revision,
    position: usize,
}

impl Found {
    fn ledger(&self) -> &LedgerMetadata {
        &self.page.ledgers[self.position].ledger
    }
}

/// The repair of one ledger.
pub(super) struct Job<'a> {
    tools: &'a Tools,
    peers: Option<Arc<dyn BookieDirectory>>,
    session: SessionId,
    task: RepairTask,
}

impl<'a> Job<'a> {
    pub(super) const fn new(
        tools: &'a Tools,
        peers: Option<Arc<dyn BookieDirectory>>,
        session: SessionId,
        task: RepairTask,
    ) -> Self {
        Self { tools, peers, session, task }
    }

    /// Does what this bookie can do for the ledger.
    pub(super) async fn run(self) -> Outcome {
        let Tools { metadata, clock, member, .. } = self.tools;
        let mut claim = Claim::new(metadata.as_ref(), clock.as_ref(), self.session, (*member, &self.task));
        let done = self.attempts(&mut claim).await;
        match done {
            Ok(Outcome::Done) => self.tools.metrics.ledgers.increment(1),
            Ok(Outcome::Taken) => return Outcome::Taken,
            Ok(_) | Err(_) => claim.release().await,
        }
        done.unwrap_or_else(|problem| {
            self.tools.metrics.failures.increment(1);
            tracing::warn!(ledger = %self.task.ledger, bookie = %member, %problem, "repair failed; it will be tried again");
            Outcome::Failed
        })
    }

    async fn attempts(&self, claim: &mut Claim<'_>) -> Result<Outcome, JobError> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                self.tools.metrics.conflicts.increment(1);
            }
            let Some(found) = self.find().await? else { return self.gone().await };
            let roster = self.tools.survey.roster(&self.task.lost).await?;
            let diagnosis = diagnose(found.ledger(), &roster);
            let Some(share) = Share::of(self.tools.member, &diagnosis, &roster) else {
                return self.nothing(&diagnosis).await;
            };
            match self.enter(&share, claim).await? {
                Entered::Ours => {}
                Entered::Theirs => return Ok(Outcome::Taken),
                Entered::Changed => continue,
            }
            let held = self.fetch(found.ledger(), &share, &roster, claim).await?;
            let swap = Swap { judged: found.ledger(), share: &share, roster: &roster, held: &held };
            if self.swap(swap, claim).await? {
                return Ok(Outcome::Done);
            }
        }
        Err(JobError::Restless(self.task.ledger))
    }

    /// The ledger as its page has it now; none if the page no longer names it, which is proof that it was dropped:
    /// ledgers never move, and whoever drops one takes it out of its page.
    async fn find(&self) -> Result<Option<Found>, JobError> {
        let key = key::closed_page(self.task.partition, self.task.page);
        let Some(item) = in_time(self.tools.metadata.get(key, Consistency::Linearizable)).await? else {
            return Ok(None);
        };
        let page: ClosedPage = decode(&item.value)?;
        let position = page.ledgers.iter().position(|closed| closed.ledger.id == self.task.ledger);
        Ok(position.map(|position| Found { page, version: item.version, position }))
    }

    /// There is nothing to repair any more. What was copied is noted among the stray copies.
    async fn gone(&self) -> Result<Outcome, JobError> {
        let forget = vec![Operation::Delete(key::repair(self.task.ledger))];
        in_time(self.tools.metadata.transact(Transaction { operations: forget, ..Transaction::default() })).await?;
        tracing::info!(ledger = %self.task.ledger, "dropped before it was repaired");
        Ok(Outcome::Gone)
    }

    /// Others may have work left; if nobody has, the task is forgotten. The auditor judges the page again after that.
    async fn nothing(&self, diagnosis: &Diagnosis) -> Result<Outcome, JobError> {
        if diagnosis.is_clear() && diagnosis.unplaced == 0 {
            let forget = vec![Operation::Delete(key::repair(self.task.ledger))];
            in_time(self.tools.metadata.transact(Transaction { operations: forget, ..Transaction::default() })).await?;
        }
        Ok(Outcome::Nothing)
    }

    /// Claims the ledger, and notes this bookie among its stray copies before it becomes one.
    async fn enter(&self, share: &Share, claim: &mut Claim<'_>) -> Result<Entered, JobError> {
        let stray = self.stray().await?;
        let copies = share.joins() && share.wanted().next().is_some();
        let is_noted = stray.held_by.contains(&self.tools.member);
        let mut change = Transaction { conditions: vec![Condition::Session(self.session)], ..Transaction::default() };
        let claims = !claim.is_held();
        if claims {
            change.conditions.extend(claim.conditions());
            change.operations.push(claim.put());
        }
        if copies && !is_noted {
            let mut held_by = stray.held_by.clone();
            held_by.insert(self.tools.member);
            change.conditions.push(stray.condition(self.task.ledger));
            change.operations.push(stray.becomes(held_by, &self.task));
        }
        if change.operations.is_empty() {
            return Ok(Entered::Ours);
        }
        match in_time(self.tools.metadata.transact(change)).await? {
            Written::Committed { revision, .. } => {
                if claims {
                    claim.made(revision);
                }
                Ok(Entered::Ours)
            }
            Written::Conflict { condition: 0, .. } => Err(MetadataError::SessionExpired(self.session).into()),
            Written::Conflict { condition: 1 | 2, .. } if claims => Ok(Entered::Theirs),
            Written::Conflict { .. } => Ok(Entered::Changed),
        }
    }

    /// Copies what is missing here; what this bookie then durably holds.
    async fn fetch(
        &self,
        ledger: &LedgerMetadata,
        share: &Share,
        roster: &Roster,
        claim: &mut Claim<'_>,
    ) -> Result<Vec<RangeInclusive<u64>>, JobError> {
        let Tools { bookie, member, .. } = self.tools;
        let mut held = Vec::new();
        let mut is_fenced = false;
        for (fragment, entries) in share.wanted() {
            let peers = self.peers.as_deref().ok_or(JobError::NoPeers)?;
            if !is_fenced {
                // The ledger has ended: whoever still writes it must not find a bookie that does not know.
                in_time(bookie.fence_ledger(FenceLedger { member: *member, ledger: ledger.id, key: ledger.key }))
                    .await?;
                is_fenced = true;
            }
            let missing = gaps(entries, &self.held(entries).await?);
            let count: u64 = missing.iter().map(|run| (run.end() - run.start()).saturating_add(1)).sum();
            claim.set_total(bytes_of(ledger, count));
            let sources = sources(ledger, fragment, *member, roster);
            let (ledger, key) = (ledger.id, ledger.key);
            let mut copy = Copy::new(Route { bookie: &**bookie, member: *member, peers, ledger, key, sources });
            for run in missing {
                copy.begin(run);
                let copied = self.copy(&mut copy, claim).await;
                self.tools.metrics.detours.increment(copy.take_detours());
                copied?;
            }
            // Asked, not assumed: this is what metadata will say.
            held.extend(self.held(entries).await?);
        }
        Ok(held)
    }

    /// Copies what was begun, at the rate that all ledgers share; the claim is told how far it is.
    async fn copy(&self, copy: &mut Copy<'_>, claim: &mut Claim<'_>) -> Result<(), JobError> {
        let Tools { throttle, metrics, .. } = self.tools;
        while let Some(part) = copy.next().await? {
            let (count, bytes) = (part.entries(), part.bytes());
            // What it costs in time counts from here, so that a slow disk does not pay twice.
            let ((), stored) = tokio::join!(throttle.spend(bytes), copy.store(part));
            stored?;
            metrics.copied.increment(bytes);
            metrics.entries.increment(count);
            claim.copied(bytes).await?;
        }
        Ok(())
    }

    /// What this bookie durably holds of a run of entries.
    async fn held(&self, entries: &RangeInclusive<u64>) -> Result<Vec<RangeInclusive<u64>>, JobError> {
        let (mut held, mut first) = (Vec::new(), EntryId(*entries.start()));
        loop {
            let Tools { bookie, member, .. } = self.tools;
            let list = ListEntries { member: *member, ledger: self.task.ledger, first, limit: RUNS };
            let list = match in_time(bookie.list_entries(list)).await {
                Err(JobError::Bookie(BookieError::NoSuchLedger(_))) => return Ok(held),
                list => list?,
            };
            let next = list.runs.last().and_then(|run| run.end().checked_add(1));
            held.extend(list.runs);
            match next {
                Some(next) if list.more && next <= *entries.end() => first = EntryId(next),
                _ => return Ok(held),
            }
        }
    }

    /// Makes metadata name what this bookie holds; `false` if the ledger is not the one any more that was judged.
    async fn swap(&self, swap: Swap<'_>, claim: &mut Claim<'_>) -> Result<bool, JobError> {
        let ledger = self.task.ledger;
        let next = swap.share.done(swap.judged, swap.held).ok_or(JobError::Incomplete(ledger))?;
        let is_last = diagnose(&next, swap.roster).is_clear();
        for attempt in 0..SWAPS {
            if attempt > 0 {
                self.tools.metrics.conflicts.increment(1);
            }
            // The page may have changed while the entries were copied; what counts is that this ledger has not.
            let Some(found) = self.find().await?.filter(|found| found.ledger() == swap.judged) else {
                return Ok(false);
            };
            let mut change = self.change(found, &next, &swap, claim).await?;
            if is_last {
                // If the auditor sees more than this bookie does, it writes the task again when it sees the page.
                change.operations.push(Operation::Delete(key::repair(ledger)));
            }
            match in_time(self.tools.metadata.transact(change)).await? {
                Written::Committed { .. } => {
                    claim.dropped();
                    let reason = self.task.reason;
                    tracing::info!(%ledger, bookie = %self.tools.member, ?reason, bytes = self.task.bytes, "repaired");
                    return Ok(true);
                }
                Written::Conflict { condition: 0, .. } => {
                    return Err(MetadataError::SessionExpired(self.session).into());
                }
                Written::Conflict { .. } => {}
            }
        }
        Err(JobError::Restless(ledger))
    }

    /// One transaction: the page, the stray copies as they then are, and the end of the claim.
    async fn change(
        &self,
        found: Found,
        next: &LedgerMetadata,
        swap: &Swap<'_>,
        claim: &Claim<'_>,
    ) -> Result<Transaction, JobError> {
        let stray = self.stray().await?;
        let named = |m: &BookieMember| next.fragments.iter().any(|f| f.ensemble.contains(m));
        let mut held_by = stray.held_by.clone();
        held_by.extend(swap.share.released());
        held_by.retain(|m| !named(m) && !swap.roster.is_superseded(*m));
        let Found { mut page, version, position } = found;
        page.ledgers[position].ledger.clone_from(next);
        let (ledger, key) = (self.task.ledger, key::closed_page(self.task.partition, self.task.page));
        let conditions =
            vec![Condition::Session(self.session), Condition::Version(key.clone(), version), stray.condition(ledger)];
        let mut operations = vec![Operation::Put { key, value: encode(&page), session: None }, claim.delete()];
        if held_by != stray.held_by {
            operations.push(stray.becomes(held_by, &self.task));
        }
        Ok(Transaction { conditions, operations, request: None })
    }

    async fn stray(&self) -> Result<Stray, JobError> {
        let key = key::stray(self.task.ledger);
        let item = in_time(self.tools.metadata.get(key, Consistency::Linearizable)).await?;
        let Some(item) = item else { return Ok(Stray { held_by: BTreeSet::new(), version: None }) };
        let record: StrayCopies = decode(&item.value)?;
        Ok(Stray { held_by: record.held_by.into_iter().collect(), version: Some(item.version) })
    }
}

/// A change of metadata that is to follow a copy.
struct Swap<'a> {
    /// The ledger as it was judged.
    judged: &'a LedgerMetadata,
    share: &'a Share,
    roster: &'a Roster,
    /// What this bookie durably holds of it.
    held: &'a [RangeInclusive<u64>],
}

/// Whether a job may begin.
enum Entered {
    /// The claim is ours, and this bookie is noted.
    Ours,
    /// Somebody else's, or no longer wanted.
    Theirs,
    /// Something changed: look again.
    Changed,
}

/// The stray copies of the ledger as they were read.
struct Stray {
    held_by: BTreeSet<BookieMember>,
    version: Option<Revision>,
}

impl Stray {
    fn condition(&self, ledger: LedgerId) -> Condition {
        let key = key::stray(ledger);
        self.version.map_or_else(|| Condition::Absent(key.clone()), |version| Condition::Version(key.clone(), version))
    }

    fn becomes(&self, held_by: BTreeSet<BookieMember>, task: &RepairTask) -> Operation {
        let key = key::stray(task.ledger);
        if held_by.is_empty() {
            return Operation::Delete(key);
        }
        let RepairTask { partition, page, ledger, .. } = *task;
        let record = StrayCopies { partition, page, ledger, held_by: held_by.into_iter().collect() };
        Operation::Put { key, value: encode(&record), session: None }
    }
}
