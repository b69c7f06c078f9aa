//! Reads entries of a ledger from one bookie of its ensemble, and from the next one if that fails or takes too long.
//!
//! Owns the choice of the bookie and the hedge: every member of the entry's ensemble may serve it, those that live, did
//! not fail lately, hold the entry for all that is known and stand near come first. It never reads above the bound its caller gives (last-add-confirmed of an
//! open ledger, last entry of a closed one: rule R13), and never takes an entry for the one it asked for without
//! comparing its seal. It keeps no entries: caches stand above it.

mod hedge;

use super::{LedgerDeps, metrics::ReadMetrics};
use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use hedge::HedgeDelay;
use protocol::{
    id::{EntryId, Lac, LedgerId},
    ledger::{
        entry::SealedEntry,
        metadata::{BookieMember, Hole, LedgerMetadata, LedgerState},
    },
    model::BookieState,
    service::{
        Answer,
        bookie::{BookieError, EntryRun, ReadEntries, WaitLac},
    },
};
use std::{sync::Arc, time::Duration};

/// How long one bookie may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How long one bookie may take to say what it has heard of.
const LAC_DEADLINE: Duration = Duration::from_secs(2);
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
    /// The rack to prefer.
    rack: Option<Arc<str>>,
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
        Self { deps, rack: None, delay: Arc::default(), metrics: ReadMetrics::resolve() }
    }

    /// A reader that prefers bookies of this rack.
    #[must_use]
    pub fn near(self, rack: Option<String>) -> Self {
        Self { rack: rack.map(Into::into), ..self }
    }

    /// The highest last-add-confirmed that a bookie of an unclosed ledger has heard of: a bound for readers beside the
    /// ledger's writer. An idle writer tells its bookies within some ten milliseconds (rule P9).
    ///
    /// # Errors
    /// [`ReadError`] if no bookie answers.
    pub async fn last_confirmed(&self, metadata: &LedgerMetadata) -> Result<Lac, ReadError> {
        let (ledger, ensemble) = (metadata.id, metadata.last_fragment().map(|f| f.ensemble.as_slice()));
        let ask = |member: BookieMember| {
            let wait = WaitLac { member, ledger, beyond: Lac::NONE, timeout: Duration::ZERO };
            let answer = self.deps.bookies.bookie(member).wait_lac(wait);
            async move { (member, within_deadline(LAC_DEADLINE, answer).await) }
        };
        let answers = join_all(ensemble.unwrap_or_default().iter().map(|m| ask(*m))).await;
        let mut highest = None;
        let mut told = Vec::new();
        for (member, answer) in answers {
            match answer {
                Ok(lac) => highest = highest.max(Some(lac)),
                // It never heard of the ledger: nothing is confirmed that it knows of.
                Err(BookieError::NoSuchLedger(_)) => highest = highest.max(Some(Lac::NONE)),
                Err(error) => told.push(format!("{member}: {error}")),
            }
        }
        highest.ok_or_else(|| ReadError::Unavailable { reason: told.join("; ") })
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
        let left = self.order(metadata, first, started);
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

impl LedgerReader {
    /// The members to ask for an entry, the first one last.
    fn order(&self, metadata: &LedgerMetadata, entry: EntryId, now: Duration) -> Vec<BookieMember> {
        let mut members = metadata.ensemble_of(entry).to_vec();
        // Always the same bookie first for a ledger, so that its cache is warm; another one for the next ledger.
        let turn = usize::try_from(metadata.id.0 % members.len().max(1) as u64).unwrap_or(0);
        members.rotate_left(turn);
        let live = self.deps.bookies.live();
        members.sort_by_cached_key(|member| {
            let record = live.iter().find(|b| b.member == *member);
            let lacks = |h: &Hole| h.member == *member && h.entries.contains(&entry.0);
            let rack = record.and_then(|b| b.rack.as_deref());
            (
                record.is_none(),
                metadata.holes.iter().any(lacks),
                self.deps.suspects.has(*member, now),
                record.is_some_and(|b| b.state == BookieState::Limbo),
                self.rack.is_some() && rack != self.rack.as_deref(),
            )
        });
        members.reverse();
        members
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
            self.reader.deps.suspects.note(member, &result, self.reader.deps.clock.monotonic());
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
        self.pending.push(Box::pin(async move { (member, within_deadline(CALL_DEADLINE, answer).await) }));
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
        } else if metadata.is_closed() && negatives == self.refused.len() {
            // What a closed ledger ends with was confirmed: its bookies have lost it, or repair has moved it.
            ReadError::Unknown { reason }
        } else if !metadata.is_closed() && metadata.quorum.proves_absence(negatives) {
            ReadError::NoSuchEntry(ledger, first)
        } else {
            ReadError::Unavailable { reason }
        }
    }
}

async fn within_deadline<T>(deadline: Duration, answer: Answer<T, BookieError>) -> Result<T, BookieError> {
    let late = || BookieError::Unavailable { reason: "no answer within the deadline".into() };
    tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests;
