//! Entries of a ledger from other bookies into this one: the only way in that is neither a writer's nor a recoverer's.
//!
//! Owns what is in flight: one run that was read, the read of the next one, and of the first one no more than a part at
//! a time in the committer, so that a client's add never waits for more than that. Every entry is opened (place and
//! checksum) before it is stored, and is stored by a recovery add, which a fenced ledger takes, too (A2). A source that
//! fails, lacks an entry or holds a damaged one gives way to the next. Never touches metadata, sets no rate, and does
//! not say what is complete: whoever wants to know asks the store (A3).

use protocol::{
    id::{EntryId, LedgerId, LedgerKey},
    ledger::{entry::SealedEntry, metadata::BookieMember},
    service::{
        Answer,
        bookie::{AddEntry, BookieError, BookieService, EntryRun, ReadEntries},
        directory::BookieDirectory,
    },
};
use std::{ops::RangeInclusive, time::Duration};

/// The most entries and bytes of one read.
const READ: (u32, u32) = (1_000, 1 << 20);
/// The most bytes that are given to the committer at a time, unless one entry is larger.
const PART: usize = 128 << 10;
/// How long a bookie may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// No source serves an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no live member serves entry {entry} of ledger {ledger}: {problem}")]
pub(crate) struct NoSource {
    pub(crate) ledger: LedgerId,
    pub(crate) entry: EntryId,
    /// What a source said last; [`BookieError::Unavailable`] only if none could be reached.
    pub(crate) problem: BookieError,
}

/// Which ledger is copied, from whom, to whom.
#[derive(Clone)]
pub(crate) struct Route<'a> {
    /// This bookie.
    pub(crate) bookie: &'a dyn BookieService,
    pub(crate) member: BookieMember,
    pub(crate) peers: &'a dyn BookieDirectory,
    pub(crate) ledger: LedgerId,
    pub(crate) key: LedgerKey,
    /// Where to read, the best first.
    pub(crate) sources: Vec<BookieMember>,
}

/// Entries that were read and checked, and are not stored yet.
pub(crate) struct Part(Vec<SealedEntry>);

impl Part {
    pub(crate) fn entries(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|entry| entry.bytes().len() as u64).sum()
    }
}

/// A copy, part by part: [`Copy::begin`], then [`Copy::next`] and [`Copy::store`] in turn.
pub(crate) struct Copy<'a> {
    /// A source that does not serve goes to the end.
    route: Route<'a>,
    /// What has not been read yet.
    rest: Option<RangeInclusive<u64>>,
    /// What was read and not handed out yet, in reverse.
    run: Vec<SealedEntry>,
    /// The read of the beginning of `rest`, from the first source.
    ahead: Option<Answer<EntryRun, BookieError>>,
    detours: u64,
    /// [`PATIENCE`], but in tests.
    patience: Duration,
}

impl<'a> Copy<'a> {
    pub(crate) const fn new(route: Route<'a>) -> Self {
        Self { route, rest: None, run: Vec::new(), ahead: None, detours: 0, patience: PATIENCE }
    }

    /// Turns to a run of entries, whatever was left of another one.
    pub(crate) fn begin(&mut self, entries: RangeInclusive<u64>) {
        self.rest = Some(entries).filter(|entries| !entries.is_empty());
        self.run.clear();
        self.ahead = None;
    }

    /// Answers that another source had to give, since this was asked last.
    pub(crate) const fn take_detours(&mut self) -> u64 {
        std::mem::replace(&mut self.detours, 0)
    }

    /// The next part; none at the end.
    ///
    /// # Errors
    /// No source serves the entry named. [`Copy::begin`] goes on behind it.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, NoSource> {
        if self.run.is_empty() {
            let Some(wanted) = self.rest.clone() else { return Ok(None) };
            self.run = self.read(&wanted).await?;
            let after = wanted.start().checked_add(self.run.len() as u64);
            self.run.reverse();
            self.rest = after.map(|after| after..=*wanted.end()).filter(|rest| !rest.is_empty());
            // The next run is on its way while this one is being stored.
            self.ahead = self.rest.as_ref().and_then(|rest| Some(self.ask(*self.route.sources.first()?, rest)));
        }
        let mut bytes = 0;
        let fits = |entry: &&SealedEntry| {
            bytes += entry.bytes().len();
            bytes <= PART
        };
        let count = self.run.iter().rev().take_while(fits).count().max(1);
        let part = self.run.drain(self.run.len().saturating_sub(count)..).rev().collect();
        Ok(Some(Part(part)))
    }

    /// Makes a part durable here.
    ///
    /// # Errors
    /// What this bookie said to a recovery add, or that it said nothing in time.
    pub(crate) async fn store(&mut self, part: Part) -> Result<(), BookieError> {
        let Route { bookie, member, key, .. } = self.route;
        let add = |entry| bookie.add_entry(AddEntry { member, key, recovery: true, entry });
        let adds: Vec<_> = part.0.into_iter().map(add).collect();
        for add in adds {
            let silent = |_| BookieError::OutcomeUnknown { reason: "it was not stored in time".into() };
            tokio::time::timeout(self.patience, add).await.map_err(silent)??;
        }
        Ok(())
    }

    /// A dense run from the first entry wanted, from whoever serves it.
    async fn read(&mut self, wanted: &RangeInclusive<u64>) -> Result<Vec<SealedEntry>, NoSource> {
        let (ledger, entry) = (self.route.ledger, EntryId(*wanted.start()));
        let mut said = BookieError::Unavailable { reason: "there is no other bookie to ask".into() };
        for _ in 0..self.route.sources.len() {
            let source = self.route.sources[0];
            let asked = self.ahead.take().unwrap_or_else(|| self.ask(source, wanted));
            let problem = match within(self.patience, asked).await.and_then(|run| self.open(source, wanted, run)) {
                Ok(run) => return Ok(run),
                Err(problem) => problem,
            };
            tracing::debug!(%ledger, %entry, bookie = %source, %problem, "a source does not serve");
            self.detours += 1;
            self.route.sources.rotate_left(1);
            if !matches!(problem, BookieError::Unavailable { .. }) {
                said = problem;
            }
        }
        Err(NoSource { ledger, entry, problem: said })
    }

    fn ask(&self, source: BookieMember, wanted: &RangeInclusive<u64>) -> Answer<EntryRun, BookieError> {
        let count = (wanted.end() - wanted.start()).saturating_add(1);
        self.route.peers.bookie(source).read_entries(ReadEntries {
            member: source,
            ledger: self.route.ledger,
            first: EntryId(*wanted.start()),
            max_count: u32::try_from(count).unwrap_or(u32::MAX).min(READ.0),
            max_bytes: READ.1,
            fence: None,
        })
    }

    /// The sound entries that an answer begins with, one at least.
    fn open(
        &self,
        source: BookieMember,
        wanted: &RangeInclusive<u64>,
        run: EntryRun,
    ) -> Result<Vec<SealedEntry>, BookieError> {
        let mut sound = Vec::with_capacity(run.entries.len());
        for (id, entry) in wanted.clone().zip(run.entries) {
            match SealedEntry::open(entry.bytes().clone(), self.route.ledger, EntryId(id)) {
                Ok(entry) => sound.push(entry),
                Err(problem) if sound.is_empty() => {
                    let reason = format!("bookie {source} answered with a bad entry {id}: {problem}");
                    return Err(BookieError::BadEntry { reason });
                }
                Err(_) => break,
            }
        }
        if sound.is_empty() {
            return Err(BookieError::Unknown { reason: format!("bookie {source} answered with nothing") });
        }
        Ok(sound)
    }
}

/// The answer of another bookie, which must come in time.
pub(crate) async fn in_time<T>(answer: Answer<T, BookieError>) -> Result<T, BookieError> {
    within(PATIENCE, answer).await
}

async fn within<T>(patience: Duration, answer: Answer<T, BookieError>) -> Result<T, BookieError> {
    let silent = || BookieError::Unavailable { reason: format!("no answer within {patience:?}") };
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| Err(silent()))
}

#[cfg(test)]
mod tests;
