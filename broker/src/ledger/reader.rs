//! Reads entries of a ledger from one bookie of its ensemble, and from the next one if that fails or takes too long.
//!
//! Owns the choice of the bookie and the hedge; never reads above the bound its caller gives (last-add-confirmed of an
//! open ledger, last entry of a closed one: rule R13), and never takes an entry for the one it asked for without
//! comparing its seal. It keeps no entries: caches stand above it.

mod hedge;

use super::{LedgerDeps, metrics::ReadMetrics};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hedge::HedgeDelay;
use protocol::{
    id::{EntryId, LedgerId},
    ledger::{
        entry::SealedEntry,
        metadata::{BookieMember, LedgerMetadata, LedgerState},
    },
    service::bookie::{BookieError, EntryRun, ReadEntries},
};
use std::{sync::Arc, time::Duration};

/// How long one bookie may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// The most entries of one read.
const MAX_COUNT: u64 = 65_536;

/// Why there are no entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The entry is above the bound, or its bookies prove that it was never confirmed.
    #[error("no entry {1} in ledger {0}")]
    NoSuchEntry(LedgerId, EntryId),
    /// No bookie that may hold it can be reached; try again.
    #[error("no bookie of the ledger can be reached: {reason}")]
    Unavailable {
        /// Who said what.
        reason: String,
    },
    /// Bookies were reached and cannot serve it.
    #[error("the bookies of the ledger cannot serve the entry: {reason}")]
    Unknown {
        /// Who said what.
        reason: String,
    },
}

/// Reads ledgers. Cheap to clone; clones share what they know about latencies.
#[derive(Clone)]
pub struct LedgerReader {
    deps: LedgerDeps,
    delay: Arc<HedgeDelay>,
    metrics: ReadMetrics,
}

/// The answer of one bookie.
type BookieAnswer = (BookieMember, Result<EntryRun, BookieError>);

/// One read: what it asks for, of whom, and what it has heard.
struct Attempt<'a> {
    reader: &'a LedgerReader,
    request: ReadRange,
    /// Members not asked yet, in order.
    left: Vec<BookieMember>,
    pending: FuturesUnordered<BoxFuture<'static, BookieAnswer>>,
    refused: Vec<(BookieMember, BookieError)>,
}

#[derive(Debug, Clone, Copy)]
struct ReadRange {
    ledger: LedgerId,
    first: EntryId,
    /// The last entry wanted.
    last: EntryId,
    max_bytes: u32,
}

impl LedgerReader {
    /// A reader of any ledger.
    #[must_use]
    pub fn new(deps: LedgerDeps) -> Self {
        Self { deps, delay: Arc::default(), metrics: ReadMetrics::resolve() }
    }

    /// Reads a dense run of entries from `first` on: at least one, at most up to `through`, and no more than fit into
    /// `max_bytes` except the first. It may end early, at the latest with the fragment; read on from there.
    ///
    /// # Errors
    /// [`ReadError`] if not even the first entry can be had.
    pub async fn read(
        &self,
        metadata: &LedgerMetadata,
        first: EntryId,
        through: EntryId,
        max_bytes: u32,
    ) -> Result<Vec<SealedEntry>, ReadError> {
        let ledger = metadata.id;
        let last = bound(metadata, first, through).ok_or(ReadError::NoSuchEntry(ledger, first))?;
        let request = ReadRange { ledger, first, last, max_bytes };
        let started = self.deps.clock.monotonic();
        let mut left = metadata.ensemble_of(first).to_vec();
        // Always the same bookie first for a ledger, so that its cache is warm; another one for the next ledger.
        let turn = usize::try_from(ledger.0 % left.len().max(1) as u64).unwrap_or(0);
        left.rotate_left(turn);
        left.reverse();
        let attempt = Attempt { reader: self, request, left, pending: FuturesUnordered::new(), refused: Vec::new() };
        let result = attempt.run(metadata).await;
        let took = self.deps.clock.monotonic().saturating_sub(started);
        self.metrics.read.record(took);
        if result.is_ok() {
            self.delay.observe(took);
        }
        result
    }
}

/// The last entry that one read may return: within the bound, the ledger and the fragment.
fn bound(metadata: &LedgerMetadata, first: EntryId, through: EntryId) -> Option<EntryId> {
    let mut last = through;
    if let LedgerState::Closed { last_entry, .. } = metadata.state {
        last = last.min(last_entry?);
    }
    let next_fragment = metadata.fragments.iter().map(|f| f.first_entry).find(|start| *start > first);
    if let Some(next) = next_fragment {
        last = last.min(EntryId(next.0 - 1));
    }
    (first <= last).then_some(last)
}

impl ReadRange {
    /// The run, if it is what was asked for: never an entry of another place, never one above the bound.
    fn verify(&self, run: EntryRun) -> Result<Vec<SealedEntry>, BookieError> {
        let Self { ledger, first, last, .. } = *self;
        let mut entries = run.entries;
        let wanted = usize::try_from(last.0 - first.0 + 1).unwrap_or(usize::MAX);
        entries.truncate(wanted);
        let dense = entries.iter().zip(first.0..).all(|(e, at)| (e.ledger(), e.entry().0) == (ledger, at));
        if entries.is_empty() || !dense {
            return Err(BookieError::Unknown { reason: "answered with other entries, or none".into() });
        }
        Ok(entries)
    }
}

impl Attempt<'_> {
    async fn run(mut self, metadata: &LedgerMetadata) -> Result<Vec<SealedEntry>, ReadError> {
        self.ask_next();
        loop {
            let hedge = tokio::time::sleep(self.reader.delay.current());
            let answer = tokio::select! {
                answer = self.pending.next() => answer,
                () = hedge, if !self.left.is_empty() => {
                    self.reader.metrics.hedged.increment(1);
                    self.ask_next();
                    continue;
                }
            };
            let Some((member, result)) = answer else { return Err(self.verdict(metadata)) };
            match result.and_then(|run| self.request.verify(run)) {
                Ok(entries) => return Ok(entries),
                Err(error) => {
                    let ReadRange { ledger, first, .. } = self.request;
                    tracing::debug!(%ledger, entry = %first, bookie = %member, %error, "read refused");
                    self.refused.push((member, error));
                    self.ask_next();
                }
            }
        }
    }

    /// Asks one more member, if there is one.
    fn ask_next(&mut self) {
        let Some(member) = self.left.pop() else { return };
        let ReadRange { ledger, first, last, max_bytes } = self.request;
        let max_count = u32::try_from((last.0 - first.0 + 1).min(MAX_COUNT)).unwrap_or(u32::MAX);
        let read = ReadEntries { member, ledger, first, max_count, max_bytes, fence: None };
        let answer = self.reader.deps.bookies.bookie(member).read_entries(read);
        self.pending.push(Box::pin(async move {
            let result = tokio::time::timeout(CALL_DEADLINE, answer).await;
            let late = || BookieError::Unavailable { reason: "no answer within the deadline".into() };
            (member, result.unwrap_or_else(|_| Err(late())))
        }));
    }

    /// What it means that nobody had it.
    fn verdict(&self, metadata: &LedgerMetadata) -> ReadError {
        let ReadRange { ledger, first, .. } = self.request;
        let is_negative = |e: &BookieError| matches!(e, BookieError::NoSuchEntry(..) | BookieError::NoSuchLedger(_));
        let is_away =
            |e: &BookieError| matches!(e, BookieError::Unavailable { .. } | BookieError::OutcomeUnknown { .. });
        let negatives = self.refused.iter().filter(|(_, e)| is_negative(e)).count();
        let told: Vec<String> = self.refused.iter().map(|(m, e)| format!("{m}: {e}")).collect();
        let reason = told.join("; ");
        if self.refused.iter().any(|(_, e)| !is_negative(e) && !is_away(e)) {
            ReadError::Unknown { reason }
        } else if metadata.quorum.proves_absence(negatives) {
            ReadError::NoSuchEntry(ledger, first)
        } else {
            ReadError::Unavailable { reason }
        }
    }
}

#[cfg(test)]
mod tests;
