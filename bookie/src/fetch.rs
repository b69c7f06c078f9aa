//! Fetching entries that are missing or damaged here from other members of their ensembles.
//!
//! Owns the order in which members are asked and what counts as having been fetched: an entry that is durable here, by a
//! recovery add, which also replaces a damaged copy. Never touches metadata. Keeps to a pace, one answer at a time.

use crate::{
    pace::Pace,
    service::{COPY, Service, in_time},
};
use protocol::{
    id::EntryId,
    ledger::{
        entry::SealedEntry,
        metadata::{BookieMember, LedgerMetadata},
    },
    service::bookie::{AddEntry, BookieError, BookieService, ReadEntries},
};
use std::{ops::RangeInclusive, sync::Weak};

/// What became of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fetched {
    /// Entries that are durable here now.
    pub(crate) entries: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Entries that no member gave, as runs in order.
    pub(crate) missing: Vec<RangeInclusive<u64>>,
    /// What a member said last, if any entry is missing.
    pub(crate) problem: Option<BookieError>,
}

impl Fetched {
    fn miss(&mut self, entries: RangeInclusive<u64>, problem: BookieError) {
        match self.missing.last_mut() {
            Some(run) if run.end().checked_add(1) == Some(*entries.start()) => *run = *run.start()..=*entries.end(),
            _ => self.missing.push(entries),
        }
        self.problem = Some(problem);
    }
}

/// Fetches entries into this bookie.
pub(crate) struct Fetcher {
    service: Service,
    pace: Pace,
}

impl Fetcher {
    /// Fetches into `service`, at this pace.
    pub(crate) const fn new(service: Service, pace: Pace) -> Self {
        Self { service, pace }
    }

    /// Fetches a run of entries of a ledger.
    ///
    /// # Errors
    /// What this bookie said to a recovery add: it was deleted meanwhile, or its store has failed.
    pub(crate) async fn fetch(
        &mut self,
        ledger: &LedgerMetadata,
        entries: RangeInclusive<u64>,
    ) -> Result<Fetched, BookieError> {
        let (mut done, last) = (Fetched::default(), *entries.end());
        let mut next = Some(*entries.start()).filter(|first| *first <= last);
        while let Some(first) = next {
            match self.ask(ledger, first).await {
                Ok(run) => {
                    let wanted = run.into_iter().take_while(|entry| entry.entry().0 <= last);
                    let (count, bytes) = self.store(ledger, wanted.collect()).await?;
                    (done.entries, done.bytes) = (done.entries + count, done.bytes + bytes);
                    next = first.checked_add(count).filter(|next| *next <= last);
                    self.pace.spend(bytes).await;
                }
                // Nobody can be reached, so the others will not come either.
                Err(problem @ BookieError::Unavailable { .. }) => {
                    done.miss(first..=last, problem);
                    return Ok(done);
                }
                Err(problem) => {
                    done.miss(first..=first, problem);
                    next = first.checked_add(1).filter(|next| *next <= last);
                }
            }
        }
        Ok(done)
    }

    /// A run of good entries that begins with `first`, from whichever member has it. If none has, "unavailable" only if
    /// every one was.
    async fn ask(&self, ledger: &LedgerMetadata, first: u64) -> Result<Vec<SealedEntry>, BookieError> {
        let ours = self.service.0.member;
        let peers = self.service.0.peers.get().and_then(Weak::upgrade);
        let mut said = BookieError::Unavailable { reason: "there is no other bookie to ask".into() };
        let Some(peers) = peers else { return Err(said) };
        let ensemble = ledger.ensemble_of(EntryId(first));
        let others: Vec<BookieMember> = ensemble.iter().copied().filter(|member| member.id != ours.id).collect();
        // Ledgers begin with different members, so that not all of a healing rests on one.
        let from = (ledger.id.0 % others.len().max(1) as u64) as usize;
        for member in others[from..].iter().chain(&others[..from]) {
            let read = ReadEntries {
                member: *member,
                ledger: ledger.id,
                first: EntryId(first),
                max_count: COPY.0,
                max_bytes: COPY.1,
                fence: None,
            };
            let problem = match in_time(peers.bookie(*member).read_entries(read)).await {
                Ok(run) => {
                    let places = run
                        .entries
                        .iter()
                        .zip(first..)
                        .take_while(|(entry, id)| (entry.ledger(), entry.entry()) == (ledger.id, EntryId(*id)));
                    let good: Vec<SealedEntry> = places.map(|(entry, _)| entry.clone()).collect();
                    if !good.is_empty() {
                        return Ok(good);
                    }
                    BookieError::Unknown { reason: format!("bookie {member} answered with other entries") }
                }
                Err(problem) => problem,
            };
            if !matches!(problem, BookieError::Unavailable { .. }) {
                said = problem;
            }
        }
        Err(said)
    }

    /// Stores a run durably; how many entries and bytes.
    async fn store(&self, ledger: &LedgerMetadata, run: Vec<SealedEntry>) -> Result<(u64, u64), BookieError> {
        let (count, bytes) = (run.len() as u64, run.iter().map(|entry| entry.bytes().len() as u64).sum());
        let (member, key) = (self.service.0.member, ledger.key);
        let add = |entry| self.service.add_entry(AddEntry { member, key, recovery: true, entry });
        let adds: Vec<_> = run.into_iter().map(add).collect();
        for add in adds {
            add.await?;
        }
        Ok((count, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::tests::{closed, ledger, member},
        rig::{KEY, MEMBER, Rig},
        store::{conformance::entry, memory::MemoryStore},
    };
    use protocol::{
        id::LedgerId,
        runtime::SystemClock,
        service::directory::BookieDirectory,
        testing::{FakeBookie, FakeDirectory},
    };
    use std::sync::Arc;

    const L: LedgerId = LedgerId(1);

    struct World {
        rig: Rig,
        store: Arc<MemoryStore>,
        peers: Arc<FakeDirectory>,
    }

    impl World {
        /// Bookies 2 and 3 hold ten entries.
        async fn new() -> Self {
            let (store, peers) = (Arc::new(MemoryStore::new()), Arc::new(FakeDirectory::default()));
            for id in [2, 3] {
                let bookie = FakeBookie::new(member(id));
                for n in 0..10 {
                    let add =
                        AddEntry { member: member(id), key: KEY, recovery: false, entry: entry(1, n, b"payload") };
                    bookie.service().add_entry(add).await.expect("stored");
                }
                peers.insert(bookie);
            }
            let rig = Rig::new(Arc::clone(&store) as _);
            let directory: Arc<dyn BookieDirectory> = Arc::clone(&peers) as _;
            drop(rig.0.0.peers.set(Arc::downgrade(&directory)));
            Self { rig, store, peers }
        }

        async fn fetch(&self, entries: RangeInclusive<u64>) -> Result<Fetched, BookieError> {
            let clock = Arc::new(SystemClock::default());
            let mut fetcher = Fetcher::new(self.rig.0.clone(), Pace::new(1 << 30, clock));
            fetcher.fetch(&ledger(1, &[(0, &[MEMBER, member(2), member(3)])], closed(9)), entries).await
        }
    }

    #[tokio::test]
    async fn what_one_member_lacks_comes_from_another() {
        let world = World::new().await;
        world.peers.fake(2).forget(L, EntryId(4));
        world.peers.fake(3).forget(L, EntryId(5));
        let done = world.fetch(2..=7).await.expect("fetched");
        assert_eq!((done.entries, done.missing.len()), (6, 0));
        assert_eq!(world.rig.read(1, 2).await, Ok((2..=7).collect()));
        world.peers.fake(3).forget(L, EntryId(4));
        let done = world.fetch(0..=9).await.expect("fetched");
        assert_eq!((done.entries, done.missing), (9, vec![4..=4]), "and what nobody has is told");
        world.rig.stop();
    }

    #[tokio::test]
    async fn a_damaged_copy_is_replaced() {
        let world = World::new().await;
        world.fetch(0..=9).await.expect("fetched");
        assert!(world.store.damage(L, EntryId(3)));
        assert_eq!(world.fetch(3..=3).await.expect("fetched").entries, 1);
        let stored = crate::holdings::verify(&*world.store, L, &(0..=9)).expect("read");
        assert_eq!((stored.entries, stored.damaged), (10, None));
        world.rig.stop();
    }

    #[tokio::test]
    async fn without_anybody_to_ask_everything_is_missing_at_once() {
        let world = World::new().await;
        world.peers.set_reachable(2, false);
        world.peers.set_reachable(3, false);
        let done = world.fetch(0..=9).await.expect("asked");
        assert_eq!(done.missing, [0..=9]);
        assert!(matches!(done.problem, Some(BookieError::Unavailable { .. })));
        world.rig.stop();
    }

    #[tokio::test]
    async fn a_ledger_deleted_here_is_not_fetched() {
        let world = World::new().await;
        world.rig.delete(1).await.expect("deleted");
        assert_eq!(world.fetch(0..=9).await, Err(BookieError::Deleted(L)));
        world.rig.stop();
    }
}
