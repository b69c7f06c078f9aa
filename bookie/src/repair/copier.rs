//! Entries from other bookies into this one: read in runs, checked, stored durably as recovery adds (A2).
//!
//! Owns the rate and what is in flight: one run that is read and one that is stored per ledger, and of that no more than
//! [`STORE`] bytes at a time in the committer, so that a client's add never waits for more than that. A source that
//! fails, lacks an entry or holds a damaged one gives way to the next; an entry that nobody serves is an error.

use super::{
    claim::Claim,
    job::{JobError, Tools, in_time},
};
use protocol::{
    id::{EntryId, LedgerId, LedgerKey},
    ledger::{entry::SealedEntry, metadata::BookieMember},
    service::{
        Answer,
        bookie::{AddEntry, BookieError, ListEntries, ReadEntries},
        directory::BookieDirectory,
    },
};
use std::ops::RangeInclusive;

/// The most bytes and entries of one read.
const READ: (u32, u32) = (1 << 20, 1_000);
/// The most bytes that are given to the committer at a time, unless one entry is larger.
const STORE: usize = 128 << 10;
/// Runs per listing.
const RUNS: u32 = 1_000;

/// Copies entries of one ledger.
pub(super) struct Copier<'a> {
    pub(super) tools: &'a Tools,
    pub(super) peers: &'a dyn BookieDirectory,
    pub(super) ledger: LedgerId,
    pub(super) key: LedgerKey,
    /// Where to read, the best first; one that fails goes to the end.
    pub(super) sources: Vec<BookieMember>,
}

impl Copier<'_> {
    /// What this bookie durably holds of a run of entries.
    pub(super) async fn held(&self, entries: &RangeInclusive<u64>) -> Result<Vec<RangeInclusive<u64>>, JobError> {
        let (mut held, mut first) = (Vec::new(), EntryId(*entries.start()));
        loop {
            let list = ListEntries { member: self.tools.member, ledger: self.ledger, first, limit: RUNS };
            let list = match in_time(self.tools.bookie.list_entries(list)).await {
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

    /// Copies a run of entries; the claim is told how far it is.
    pub(super) async fn copy(&mut self, entries: &RangeInclusive<u64>, claim: &mut Claim<'_>) -> Result<(), JobError> {
        let mut next = Some(*entries.start()).filter(|first| first <= entries.end());
        let mut ahead = Vec::new();
        while let Some(first) = next {
            if ahead.is_empty() {
                ahead = self.read(first, *entries.end()).await?;
            }
            let run = std::mem::take(&mut ahead);
            next = first.checked_add(run.len() as u64).filter(|next| next <= entries.end());
            let store = Store { tools: self.tools, key: self.key };
            match next {
                // The next run comes while this one is being stored.
                Some(after) => {
                    let (stored, read) = tokio::join!(store.run(&run, claim), self.read(after, *entries.end()));
                    stored?;
                    ahead = read?;
                }
                None => store.run(&run, claim).await?,
            }
        }
        Ok(())
    }

    /// A dense run from `first`, checked, from whoever serves it.
    async fn read(&mut self, first: u64, last: u64) -> Result<Vec<SealedEntry>, JobError> {
        let mut problem = None;
        for _ in 0..self.sources.len() {
            let source = self.sources[0];
            match self.read_from(source, first, last).await {
                Ok(run) => return Ok(run),
                Err(refused) => {
                    self.tools.metrics.detours.increment(1);
                    tracing::debug!(ledger = %self.ledger, entry = first, bookie = %source, problem = %refused, "a source does not serve");
                    problem = Some(refused.to_string());
                    self.sources.rotate_left(1);
                }
            }
        }
        let problem = problem.unwrap_or_else(|| "no other member lives".into());
        Err(JobError::NoSource { ledger: self.ledger, entry: EntryId(first), problem })
    }

    async fn read_from(&self, source: BookieMember, first: u64, last: u64) -> Result<Vec<SealedEntry>, JobError> {
        let wanted = (last - first).saturating_add(1);
        let read = ReadEntries {
            member: source,
            ledger: self.ledger,
            first: EntryId(first),
            max_count: u32::try_from(wanted).unwrap_or(u32::MAX).min(READ.1),
            max_bytes: READ.0,
            fence: None,
        };
        let run = in_time(self.peers.bookie(source).read_entries(read)).await?;
        let mut sound = Vec::new();
        for (id, entry) in (first..=last).zip(run.entries) {
            match SealedEntry::open(entry.bytes().clone(), self.ledger, EntryId(id)) {
                Ok(entry) => sound.push(entry),
                Err(problem) if sound.is_empty() => {
                    let reason = format!("entry {id} from bookie {source} is damaged: {problem}");
                    return Err(JobError::Bookie(BookieError::BadEntry { reason }));
                }
                Err(_) => break,
            }
        }
        if sound.is_empty() {
            return Err(JobError::Bookie(BookieError::Unknown { reason: "an empty answer".into() }));
        }
        Ok(sound)
    }
}

/// The storing half of a copier, so that it can run beside the reading half.
struct Store<'a> {
    tools: &'a Tools,
    key: LedgerKey,
}

impl Store<'_> {
    /// Stores a run durably, a small part at a time; the claim is told after each.
    async fn run(&self, entries: &[SealedEntry], claim: &mut Claim<'_>) -> Result<(), JobError> {
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |entry: &&SealedEntry| {
                bytes += entry.bytes().len();
                bytes <= STORE
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (part, later) = rest.split_at(count);
            let size = part.iter().map(|e| e.bytes().len() as u64).sum();
            let adds: Vec<_> = part.iter().map(|entry| self.add(entry.clone())).collect();
            let durable = async {
                for add in adds {
                    in_time(add).await?;
                }
                Ok::<_, JobError>(())
            };
            // What it costs in time counts from here, so that a slow disk does not pay twice.
            let ((), done) = tokio::join!(self.tools.throttle.spend(size), durable);
            done?;
            self.tools.metrics.copied.increment(size);
            self.tools.metrics.entries.increment(count as u64);
            claim.copied(size).await?;
            rest = later;
        }
        Ok(())
    }

    fn add(&self, entry: SealedEntry) -> Answer<(), BookieError> {
        let (member, key) = (self.tools.member, self.key);
        self.tools.bookie.add_entry(AddEntry { member, key, recovery: true, entry })
    }
}
