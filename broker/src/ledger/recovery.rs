//! Recovers a ledger whose writer is gone: carries out what the recovery machine wants, on real bookies.
//!
//! Owns the deadline of each call, the retries of bookies that are away for a moment, reading ahead, and the bytes of
//! entries between being found and being written again. It decides nothing about the protocol (see [`super::recovery_machine`]) and
//! never touches metadata: before, the caller has made sure that the old writer can change no ensemble any more (the
//! ledger is IN_RECOVERY, or its partition has a new epoch); after, it closes the ledger.

mod read_ahead;

pub use super::recovery_machine::RecoveryError;

use super::{
    LedgerDeps,
    machine::Limits,
    metrics::{holes_counter, recovery_histogram},
    placement,
    recovery_machine::{Command, End, Event, Found, LedgerRecovery},
};
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use protocol::{
    id::{EntryId, LedgerId},
    ledger::{
        entry::SealedEntry,
        metadata::{BookieMember, Fragment, Hole, LedgerMetadata},
    },
    service::{
        Answer,
        bookie::{AddEntry, BookieError, FenceLedger, ListEntries, ReadEntries},
    },
};
use read_ahead::{RUN_BYTES, RUN_ENTRIES, ReadAhead};
use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    time::Duration,
};

/// How long one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Pauses before a fence or a read is tried again on a bookie that could not be reached.
const RETRY_AFTER: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];
/// How long copies may take that nothing depends on, before they count as missing.
const STRAGGLERS: Duration = Duration::from_millis(50);
/// How long a bookie may take to say what it holds, before what it may lack counts as missing.
const CHECK_DEADLINE: Duration = Duration::from_millis(500);

/// Where a recovered ledger ends; the caller closes it so.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The last entry; none if no entry was ever confirmed.
    pub last_entry: Option<EntryId>,
    /// Payload bytes up to and including it.
    pub length: u64,
    /// The fragments to close the ledger with.
    pub fragments: Vec<Fragment>,
    /// Copies that are, or may be, missing.
    pub holes: Vec<Hole>,
    /// The last entry itself.
    pub last: Option<SealedEntry>,
}

type Pending = FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

/// The answer to one command; a read brings the entries along.
struct Outcome {
    event: Event,
    run: Vec<SealedEntry>,
}

/// Finds out where a ledger ends that has lost its writer, and makes every entry up to there safe. For a CLOSED ledger it
/// reads the last entry and changes nothing.
///
/// `metadata` was read after the old writer lost the right to change it: the ledger is IN_RECOVERY there, or its
/// partition has a newer epoch that every change of the old writer fails on (rules R1, R2).
///
/// May be called again after any error, and by several callers at once: all come to the same end (rule R12).
///
/// # Errors
/// [`RecoveryError`]; the ledger must not be closed then.
pub async fn recover(deps: &LedgerDeps, metadata: &LedgerMetadata) -> Result<Recovered, RecoveryError> {
    let started = deps.clock.monotonic();
    tracing::info!(ledger = %metadata.id, "recovering ledger");
    let result = Box::pin(Recovery::new(deps, metadata).run()).await;
    recovery_histogram().record(deps.clock.monotonic().saturating_sub(started));
    match &result {
        Ok(recovered) => {
            let entry = recovered.last_entry.map(|e| e.0);
            tracing::info!(ledger = %metadata.id, entry, length = recovered.length, "ledger recovered");
        }
        Err(error) => tracing::warn!(ledger = %metadata.id, %error, "ledger not recovered"),
    }
    result
}

struct Recovery<'a> {
    deps: &'a LedgerDeps,
    metadata: &'a LedgerMetadata,
    machine: LedgerRecovery,
    /// Entries found and perhaps still to be written again; the highest is the last one.
    found: BTreeMap<EntryId, SealedEntry>,
    ahead: ReadAhead,
    /// Answers that were at hand already.
    ready: VecDeque<Outcome>,
    pending: Pending,
}

impl<'a> Recovery<'a> {
    fn new(deps: &'a LedgerDeps, metadata: &'a LedgerMetadata) -> Self {
        let machine = LedgerRecovery::new(metadata.clone(), Limits::default());
        let (found, ahead) = (BTreeMap::new(), ReadAhead::default());
        Self { deps, metadata, machine, found, ahead, ready: VecDeque::new(), pending: Pending::new() }
    }

    async fn run(mut self) -> Result<Recovered, RecoveryError> {
        let mut commands = Vec::new();
        self.machine.on_event(Event::Start, &mut commands);
        loop {
            // Set once a read was answered by what is at hand: the same question to others is void then.
            let mut known = None;
            for command in commands.drain(..) {
                match command {
                    Command::Fence { member } => self.fence(member),
                    Command::Read { entry, .. } if known == Some(entry) => {}
                    Command::Read { member, entry, fence } => known = self.read(member, entry, fence),
                    Command::Write { member, entry } => self.write(member, entry),
                    Command::Fail(error) => return Err(error),
                    Command::Done(end) => return Ok(self.recovered(end).await),
                }
            }
            let outcome = match self.ready.pop_front() {
                Some(outcome) => Some(outcome),
                None => self.pending.next().await,
            };
            let Some(Outcome { event, run }) = outcome else {
                let reason = "the recovery has nothing left to wait for".into();
                return Err(RecoveryError::Unknown { reason });
            };
            self.take_run(&event, run);
            self.machine.on_event(self.with_spares(event), &mut commands);
            self.forget_below(self.machine.unsafe_from());
        }
    }

    /// Keeps what a read has brought.
    fn take_run(&mut self, event: &Event, run: Vec<SealedEntry>) {
        let Event::Read { member, entry, .. } = event else { return };
        let mut run = run.into_iter();
        if let Some(first) = run.next() {
            self.found.entry(*entry).or_insert(first);
            self.ahead.keep(self.metadata, *member, run.collect());
        }
    }

    async fn recovered(mut self, end: End) -> Recovered {
        let last = end.last_entry.and_then(|e| self.found.remove(&e));
        let settled = async {
            while self.machine.awaits_copies()
                && let Some(Outcome { event, .. }) = self.pending.next().await
            {
                self.machine.on_event(event, &mut Vec::new());
            }
        };
        // Not in time: a hole, which repair fills.
        drop(tokio::time::timeout(STRAGGLERS, settled).await);
        let (deps, ledger) = (self.deps, self.metadata.id);
        // Who did not answer before is not asked now.
        let ask = |hole: &Hole| !self.metadata.is_closed() && self.machine.has_answered(hole.member);
        let (may_lack, mut holes): (Vec<_>, Vec<_>) = self.machine.holes().into_iter().partition(ask);
        let left = join_all(may_lack.into_iter().map(|hole| left_of(deps, ledger, hole))).await;
        holes.extend(left.into_iter().flatten());
        holes_counter().increment(holes.len() as u64);
        Recovered { last_entry: end.last_entry, length: end.length, fragments: end.fragments, holes, last }
    }

    /// Failed writes need to know who could step in.
    fn with_spares(&self, event: Event) -> Event {
        match event {
            Event::Written { member, entry, result: result @ Err(_), .. } => {
                let ensemble = self.machine.ensemble();
                let spares = placement::spares(&self.deps.bookies.live(), &ensemble, self.metadata.id.0);
                Event::Written { member, entry, result, spares }
            }
            other => other,
        }
    }

    /// Entries that are safe again are not needed any more, except the last one.
    fn forget_below(&mut self, first_needed: EntryId) {
        while self.found.len() > 1 && self.found.first_key_value().is_some_and(|(e, _)| *e < first_needed) {
            self.found.pop_first();
        }
    }

    fn fence(&self, member: BookieMember) {
        let bookie = self.deps.bookies.bookie(member);
        let (ledger, key) = (self.metadata.id, self.metadata.key);
        self.pending.push(Box::pin(async move {
            let result = retried(|| bookie.fence_ledger(FenceLedger { member, ledger, key })).await;
            Outcome { event: Event::Fenced { member, result }, run: Vec::new() }
        }));
    }

    /// Reads an entry, and those after it while a tail is being recovered; answers the entry if it is at hand.
    fn read(&mut self, member: BookieMember, entry: EntryId, fence: bool) -> Option<EntryId> {
        if let Some((member, sealed)) = self.ahead.take(entry) {
            let event = Event::Read { member, entry, result: Ok(found(&sealed)) };
            self.ready.push_back(Outcome { event, run: vec![sealed] });
            return Some(entry);
        }
        let bookie = self.deps.bookies.bookie(member);
        let (ledger, max_count) = (self.metadata.id, if fence { RUN_ENTRIES } else { 1 });
        let fence = fence.then_some(self.metadata.key);
        let request = ReadEntries { member, ledger, first: entry, max_count, max_bytes: RUN_BYTES, fence };
        self.pending.push(Box::pin(async move {
            let answer = retried(|| bookie.read_entries(request.clone())).await;
            let (result, run) = match answer.and_then(|run| verified(&request, run.entries)) {
                Ok((first, run)) => (Ok(first), run),
                Err(error) => (Err(error), Vec::new()),
            };
            Outcome { event: Event::Read { member, entry, result }, run }
        }));
        None
    }

    fn write(&self, member: BookieMember, entry: EntryId) {
        let sealed = self.found.get(&entry).expect("only entries that were found are written again").clone();
        let bookie = self.deps.bookies.bookie(member);
        let add = AddEntry { member, key: self.metadata.key, recovery: true, entry: sealed };
        let answer = bookie.add_entry(add);
        self.pending.push(Box::pin(async move {
            let result = within_deadline(answer).await;
            Outcome { event: Event::Written { member, entry, result, spares: Vec::new() }, run: Vec::new() }
        }));
    }
}

/// What is left of a hole, once its bookie was asked what it holds.
async fn left_of(deps: &LedgerDeps, ledger: LedgerId, hole: Hole) -> Option<Hole> {
    let (first, last) = (*hole.entries.start(), *hole.entries.end());
    let list = ListEntries { member: hole.member, ledger, first: EntryId(first), limit: 1 };
    let answer = deps.bookies.bookie(hole.member).list_entries(list);
    let held = tokio::time::timeout(CHECK_DEADLINE, answer).await.ok().and_then(Result::ok);
    match held.and_then(|list| list.runs.into_iter().next()).filter(|run| run.contains(&first)) {
        Some(run) if *run.end() >= last => None,
        Some(run) => Some(Hole { entries: run.end() + 1..=last, ..hole }),
        None => Some(hole),
    }
}

fn found(sealed: &SealedEntry) -> Found {
    Found { size: u32::try_from(sealed.bytes().len()).unwrap_or(u32::MAX), length: sealed.length() }
}

/// The entry that was asked for and the dense run that it begins; anything else leaves the bookie unknown (rule R9).
fn verified(asked: &ReadEntries, mut run: Vec<SealedEntry>) -> Result<(Found, Vec<SealedEntry>), BookieError> {
    let dense = run.iter().zip(asked.first.0..).take_while(|(e, at)| (e.ledger(), e.entry().0) == (asked.ledger, *at));
    let dense = dense.count().min(asked.max_count as usize);
    run.truncate(dense);
    match run.first().map(found) {
        Some(first) => Ok((first, run)),
        None => Err(BookieError::Unknown { reason: "answered with another entry, or none".into() }),
    }
}

async fn within_deadline<T>(answer: Answer<T, BookieError>) -> Result<T, BookieError> {
    match tokio::time::timeout(CALL_DEADLINE, answer).await {
        Ok(result) => result,
        Err(_) => Err(BookieError::OutcomeUnknown { reason: "no answer within the deadline".into() }),
    }
}

/// Makes a call that may safely be made twice, again as long as the bookie cannot be reached.
async fn retried<T>(mut call: impl FnMut() -> Answer<T, BookieError>) -> Result<T, BookieError> {
    let mut pauses = RETRY_AFTER.iter();
    loop {
        let result = within_deadline(call()).await;
        let may_pass = matches!(result, Err(BookieError::Unavailable { .. } | BookieError::OutcomeUnknown { .. }));
        match pauses.next() {
            Some(pause) if may_pass => tokio::time::sleep(*pause).await,
            _ => return result,
        }
    }
}

#[cfg(test)]
mod tests;
