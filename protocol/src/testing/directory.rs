//! Directories over fakes: which bookies live, and in which state they say they are.

use super::bookie::{FakeBookie, NoBookie};
use crate::{
    ledger::metadata::BookieMember,
    model::{BookieRecord, BookieState},
    service::{bookie::BookieService, directory::BookieDirectory},
};
use parking_lot::RwLock;
use std::{collections::BTreeMap, sync::Arc};

/// A [`BookieDirectory`] over [`FakeBookie`]s.
#[derive(Debug, Default)]
pub struct FakeDirectory(RwLock<BTreeMap<BookieMember, (FakeBookie, BookieState, bool)>>);

impl FakeDirectory {
    /// A directory of bookies 0, 1, ... in their first lives, all writable, able to copy from each other.
    #[must_use]
    pub fn of(count: u32) -> Arc<Self> {
        let directory = Arc::new(Self::default());
        for id in 0..count {
            directory.insert(FakeBookie::numbered(id));
        }
        directory
    }

    /// Adds a writable bookie.
    pub fn insert(self: &Arc<Self>, bookie: FakeBookie) {
        let this: Arc<dyn BookieDirectory> = Arc::<Self>::clone(self);
        bookie.set_peers(Arc::downgrade(&this));
        self.0.write().insert(bookie.member(), (bookie, BookieState::Writable, true));
    }

    /// The bookie with this number, in its latest life.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn fake(&self, id: u32) -> FakeBookie {
        let found = self.0.read().values().rfind(|(bookie, ..)| bookie.member().id.0 == id).map(|b| b.0.clone());
        found.expect("the test asks for a bookie it has put in")
    }

    /// What the bookie's record says from now on.
    pub fn set_state(&self, id: u32, state: BookieState) {
        self.change(id, |entry| entry.1 = state);
    }

    /// Takes a bookie out of reach, or brings it back; while out, it is not listed either.
    pub fn set_reachable(&self, id: u32, reachable: bool) {
        self.change(id, |entry| entry.2 = reachable);
    }

    fn change(&self, id: u32, change: impl Fn(&mut (FakeBookie, BookieState, bool))) {
        self.0.write().iter_mut().filter(|(member, _)| member.id.0 == id).for_each(|(_, entry)| change(entry));
    }
}

impl BookieDirectory for FakeDirectory {
    fn bookie(&self, member: BookieMember) -> Arc<dyn BookieService> {
        match self.0.read().get(&member) {
            Some((bookie, _, true)) => bookie.service(),
            _ => Arc::new(NoBookie(member)),
        }
    }

    fn live(&self) -> Vec<BookieRecord> {
        let bookies = self.0.read();
        let live = bookies.iter().filter(|(_, (_, _, reachable))| *reachable);
        live.map(|(member, (_, state, _))| BookieRecord::new(*member, *state)).collect()
    }
}
