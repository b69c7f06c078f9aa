//! Fetching entries that are missing or damaged here from other members of their ensembles.
//!
//! Owns the order in which members are asked, and goes on behind an entry that no member gives. The entries come through
//! [`Copy`], as recovery adds, which also replace damaged copies. Never touches metadata. Keeps to a pace.

use crate::{
    copy::{Copy, NoSource, Route},
    pace::Pace,
    service::Service,
};
use protocol::{
    id::EntryId,
    ledger::metadata::{BookieMember, LedgerMetadata},
    service::bookie::BookieError,
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
        let mut done = Fetched::default();
        for run in by_ensemble(ledger, &entries) {
            self.fetch_from(ledger, run, &mut done).await?;
        }
        Ok(done)
    }

    /// Fetches a run that one ensemble holds.
    async fn fetch_from(
        &mut self,
        ledger: &LedgerMetadata,
        entries: RangeInclusive<u64>,
        done: &mut Fetched,
    ) -> Result<(), BookieError> {
        let service = self.service.clone();
        let Some(peers) = service.0.peers.get().and_then(Weak::upgrade) else {
            done.miss(entries, BookieError::Unavailable { reason: "this bookie knows no others".into() });
            return Ok(());
        };
        let (member, last) = (service.0.member, *entries.end());
        let sources = sources(ledger, EntryId(*entries.start()), member);
        let (ledger, key) = (ledger.id, ledger.key);
        let mut copy = Copy::new(Route { bookie: &service, member, peers: &*peers, ledger, key, sources });
        copy.begin(entries);
        loop {
            match copy.next().await {
                Ok(None) => return Ok(()),
                Ok(Some(part)) => {
                    (done.entries, done.bytes) = (done.entries + part.entries(), done.bytes + part.bytes());
                    // What it costs in time counts from here, so that a slow disk does not pay twice.
                    let ((), stored) = tokio::join!(self.pace.spend(part.bytes()), copy.store(part));
                    stored?;
                }
                Err(NoSource { entry: EntryId(first), problem, .. }) => {
                    // Where nobody can be reached, the others will not come either.
                    let is_alone = matches!(problem, BookieError::Unavailable { .. });
                    let missing = first..=if is_alone { last } else { first };
                    let next = missing.end().saturating_add(1);
                    done.miss(missing, problem);
                    if next > last || is_alone {
                        return Ok(());
                    }
                    copy.begin(next..=last);
                }
            }
        }
    }
}

/// A run of entries, cut where the ensemble changes.
fn by_ensemble(ledger: &LedgerMetadata, entries: &RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
    let cuts = ledger.fragments.iter().map(|fragment| fragment.first_entry.0);
    let mut runs = vec![entries.clone()];
    for cut in cuts.filter(|cut| cut > entries.start() && cut <= entries.end()) {
        let begun = runs.pop().map_or(cut, |run| *run.start());
        runs.extend([begun..=cut - 1, cut..=*entries.end()]);
    }
    runs
}

/// The other members that hold an entry. Ledgers begin with different ones, so that not all of a healing rests on one.
fn sources(ledger: &LedgerMetadata, entry: EntryId, ours: BookieMember) -> Vec<BookieMember> {
    let ensemble = ledger.ensemble_of(entry).iter().copied();
    let mut others: Vec<BookieMember> = ensemble.filter(|member| member.id != ours.id).collect();
    let from = (ledger.id.0 % others.len().max(1) as u64) as usize;
    others.rotate_left(from);
    others
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
        service::{bookie::AddEntry, directory::BookieDirectory},
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
