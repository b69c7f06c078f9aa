//! Recovers a ledger whose writer is gone: carries out what the recovery machine wants, on real bookies.
//!
//! Owns the deadline of each call, the retries of bookies that are away for a moment, and the bytes of entries between
//! being found and being written again. It decides nothing about the protocol (see [`super::recovery_machine`]) and
//! never touches metadata: before, the caller has made sure that the old writer can change no ensemble any more (the
//! ledger is IN_RECOVERY, or its partition has a new epoch); after, it closes the ledger.

pub use super::recovery_machine::RecoveryError;

use super::{
    LedgerDeps,
    machine::Limits,
    metrics::recovery_histogram,
    placement,
    recovery_machine::{Command, Event, Found, LedgerRecovery},
};
use futures::{StreamExt, stream::FuturesUnordered};
use protocol::{
    id::EntryId,
    ledger::{
        entry::SealedEntry,
        metadata::{BookieMember, Fragment, LedgerMetadata},
    },
    service::{
        Answer,
        bookie::{AddEntry, BookieError, FenceLedger, ReadEntries},
    },
};
use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};

/// How long one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Pauses before a fence or a read is tried again on a bookie that could not be reached.
const RETRY_AFTER: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];
/// A read asks for one entry, whatever its size.
const ONE_ENTRY: u32 = 1;

/// Where a recovered ledger ends; the caller closes it so.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The last entry; none if no entry was ever confirmed.
    pub last_entry: Option<EntryId>,
    /// Payload bytes up to and including it.
    pub length: u64,
    /// The fragments to close the ledger with.
    pub fragments: Vec<Fragment>,
    /// The last entry itself.
    pub last: Option<SealedEntry>,
}

type Pending = FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

/// The answer to one command; a read that found its entry brings it along.
struct Outcome {
    event: Event,
    found: Option<SealedEntry>,
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
    pending: Pending,
}

impl<'a> Recovery<'a> {
    fn new(deps: &'a LedgerDeps, metadata: &'a LedgerMetadata) -> Self {
        let machine = LedgerRecovery::new(metadata.clone(), Limits::default());
        Self { deps, metadata, machine, found: BTreeMap::new(), pending: Pending::new() }
    }

    async fn run(mut self) -> Result<Recovered, RecoveryError> {
        let mut commands = Vec::new();
        self.machine.on_event(Event::Start, &mut commands);
        loop {
            for command in commands.drain(..) {
                match command {
                    Command::Fence { member } => self.fence(member),
                    Command::Read { member, entry } => self.read(member, entry),
                    Command::Write { member, entry } => self.write(member, entry),
                    Command::Fail(error) => return Err(error),
                    Command::Done(end) => {
                        let last = end.last_entry.and_then(|e| self.found.remove(&e));
                        let (last_entry, length, fragments) = (end.last_entry, end.length, end.fragments);
                        return Ok(Recovered { last_entry, length, fragments, last });
                    }
                }
            }
            let Some(Outcome { event, found }) = self.pending.next().await else {
                let reason = "the recovery has nothing left to wait for".into();
                return Err(RecoveryError::Unknown { reason });
            };
            if let Some(entry) = found {
                self.found.entry(entry.entry()).or_insert(entry);
            }
            self.machine.on_event(self.with_spares(event), &mut commands);
            self.forget_below(self.machine.unsafe_from());
        }
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
            Outcome { event: Event::Fenced { member, result }, found: None }
        }));
    }

    fn read(&self, member: BookieMember, entry: EntryId) {
        let bookie = self.deps.bookies.bookie(member);
        let (ledger, fence) = (self.metadata.id, Some(self.metadata.key));
        let request = ReadEntries { member, ledger, first: entry, max_count: ONE_ENTRY, max_bytes: u32::MAX, fence };
        self.pending.push(Box::pin(async move {
            let answer = retried(|| bookie.read_entries(request.clone())).await;
            let first = answer.map(|run| run.entries.into_iter().next());
            let result = match first {
                Ok(Some(sealed)) if (sealed.ledger(), sealed.entry()) == (ledger, entry) => Ok(sealed),
                Ok(_) => Err(BookieError::Unknown { reason: "answered with another entry, or none".into() }),
                Err(error) => Err(error),
            };
            let found = result.as_ref().ok().cloned();
            let result = result.map(|sealed| Found {
                size: u32::try_from(sealed.bytes().len()).unwrap_or(u32::MAX),
                length: sealed.length(),
            });
            Outcome { event: Event::Read { member, entry, result }, found }
        }));
    }

    fn write(&self, member: BookieMember, entry: EntryId) {
        let sealed = self.found.get(&entry).expect("only entries that were found are written again").clone();
        let bookie = self.deps.bookies.bookie(member);
        let add = AddEntry { member, key: self.metadata.key, recovery: true, entry: sealed };
        let answer = bookie.add_entry(add);
        self.pending.push(Box::pin(async move {
            let result = within_deadline(answer).await;
            Outcome { event: Event::Written { member, entry, result, spares: Vec::new() }, found: None }
        }));
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
