//! An in-memory bookie: complete, and forgetful only when a test says so.
//!
//! Every call takes effect when it is made, in call order. Nothing is ever on a disk; "durable" means "in the map".

use super::faults::Faults;
use crate::{
    id::{BookieId, EntryId, Incarnation, Lac, LedgerId, LedgerKey},
    ledger::{
        entry::{MAX_ENTRY, SealedEntry},
        metadata::BookieMember,
    },
    service::{
        Answer,
        bookie::{
            AddEntry, BookieError, BookieService, ConfirmLac, CopyEntries, DeleteLedger, EntryList, EntryRun,
            FenceLedger, ListEntries, ReadEntries, WaitLac,
        },
        directory::BookieDirectory,
        ready,
    },
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Weak},
};
use tokio::sync::watch;

/// What the bookie knows of one ledger.
#[derive(Debug, Default)]
struct Held {
    key: Option<LedgerKey>,
    fenced: bool,
    entries: BTreeMap<u64, SealedEntry>,
    lac: Lac,
}

#[derive(Debug, Default)]
struct Shelf {
    ledgers: HashMap<LedgerId, Held>,
    deleted: HashSet<LedgerId>,
    read_only: Option<String>,
    limbo: Option<String>,
}

/// An in-memory [`BookieService`]. Clones share one state.
#[derive(Clone)]
pub struct FakeBookie(Arc<Inner>);

struct Inner {
    member: BookieMember,
    shelf: Mutex<Shelf>,
    /// Counts changes; wakes those who wait for last-add-confirmed.
    changes: watch::Sender<u64>,
    faults: Faults<BookieError>,
    peers: Mutex<Option<Weak<dyn BookieDirectory>>>,
}

impl std::fmt::Debug for FakeBookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeBookie({})", self.0.member)
    }
}

impl FakeBookie {
    /// An empty bookie.
    #[must_use]
    pub fn new(member: BookieMember) -> Self {
        Self(Arc::new(Inner {
            member,
            shelf: Mutex::default(),
            changes: watch::Sender::new(0),
            faults: Faults::default(),
            peers: Mutex::new(None),
        }))
    }

    /// Bookie `id` in its first life.
    #[must_use]
    pub fn numbered(id: u32) -> Self {
        Self::new(BookieMember { id: BookieId(id), incarnation: Incarnation(1) })
    }

    /// Who it is.
    #[must_use]
    pub fn member(&self) -> BookieMember {
        self.0.member
    }

    /// This bookie as its users hold it.
    #[must_use]
    pub fn service(&self) -> Arc<dyn BookieService> {
        Arc::new(self.clone())
    }

    /// The switches: fail, lose answers, hang, hold.
    #[must_use]
    pub fn faults(&self) -> &Faults<BookieError> {
        &self.0.faults
    }

    /// Where it finds the bookies it copies from.
    pub fn set_peers(&self, peers: Weak<dyn BookieDirectory>) {
        *self.0.peers.lock() = Some(peers);
    }

    /// Refuses adds from now on, except those of recovery; `None` ends it.
    pub fn set_read_only(&self, reason: Option<&str>) {
        self.0.shelf.lock().read_only = reason.map(Into::into);
    }

    /// Answers "unknown" from now on where it would answer "no such entry" or "no such ledger"; `None` ends it.
    pub fn set_limbo(&self, reason: Option<&str>) {
        self.0.shelf.lock().limbo = reason.map(Into::into);
    }

    /// The ids of the entries it holds of a ledger.
    #[must_use]
    pub fn entries(&self, ledger: LedgerId) -> Vec<EntryId> {
        let shelf = self.0.shelf.lock();
        shelf.ledgers.get(&ledger).map_or(Vec::new(), |held| held.entries.keys().copied().map(EntryId).collect())
    }

    /// One entry.
    #[must_use]
    pub fn entry(&self, ledger: LedgerId, entry: EntryId) -> Option<SealedEntry> {
        self.0.shelf.lock().ledgers.get(&ledger)?.entries.get(&entry.0).cloned()
    }

    /// Whether a ledger is fenced here.
    #[must_use]
    pub fn is_fenced(&self, ledger: LedgerId) -> bool {
        self.0.shelf.lock().ledgers.get(&ledger).is_some_and(|held| held.fenced)
    }

    /// Whether a ledger was deleted here.
    #[must_use]
    pub fn is_deleted(&self, ledger: LedgerId) -> bool {
        self.0.shelf.lock().deleted.contains(&ledger)
    }

    /// Loses one entry, as no bookie should.
    pub fn forget(&self, ledger: LedgerId, entry: EntryId) {
        if let Some(held) = self.0.shelf.lock().ledgers.get_mut(&ledger) {
            held.entries.remove(&entry.0);
        }
    }

    /// Loses everything, as a replaced disk does.
    pub fn forget_all(&self) {
        let mut shelf = self.0.shelf.lock();
        shelf.ledgers.clear();
        shelf.deleted.clear();
    }

    /// Waits until it holds `count` entries of a ledger.
    pub async fn wait_entries(&self, ledger: LedgerId, count: usize) {
        let mut changes = self.0.changes.subscribe();
        while self.entries(ledger).len() < count {
            drop(changes.changed().await);
        }
    }

    fn call<T: Send + 'static>(
        &self,
        named: BookieMember,
        work: impl FnOnce(&mut Shelf) -> Result<T, BookieError>,
    ) -> Answer<T, BookieError> {
        let answer = self.0.faults.run(|| {
            check_member(self.0.member, named)?;
            work(&mut self.0.shelf.lock())
        });
        self.0.changes.send_modify(|n| *n += 1);
        answer
    }

    fn store_copies(&self, copy: &CopyEntries, entries: &[SealedEntry]) -> Result<u64, BookieError> {
        for entry in entries.iter().filter(|e| copy.entries.contains(&e.entry().0)) {
            let (member, key) = (copy.member, copy.key);
            self.0.shelf.lock().add(&AddEntry { member, key, recovery: true, entry: entry.clone() })?;
        }
        self.0.changes.send_modify(|n| *n += 1);
        Ok(entries.iter().filter(|e| copy.entries.contains(&e.entry().0)).count() as u64)
    }
}

impl BookieService for FakeBookie {
    fn add_entry(&self, add: AddEntry) -> Answer<(), BookieError> {
        self.call(add.member, |shelf| shelf.add(&add))
    }

    fn read_entries(&self, read: ReadEntries) -> Answer<EntryRun, BookieError> {
        self.call(read.member, |shelf| shelf.read(&read))
    }

    fn fence_ledger(&self, fence: FenceLedger) -> Answer<Lac, BookieError> {
        self.call(fence.member, |shelf| shelf.fence(fence.ledger, fence.key))
    }

    fn list_entries(&self, list: ListEntries) -> Answer<EntryList, BookieError> {
        self.call(list.member, |shelf| shelf.list(&list))
    }

    fn delete_ledger(&self, delete: DeleteLedger) -> Answer<(), BookieError> {
        self.call(delete.member, |shelf| {
            shelf.ledgers.remove(&delete.ledger);
            shelf.deleted.insert(delete.ledger);
            Ok(())
        })
    }

    fn copy_entries(&self, copy: CopyEntries) -> Answer<u64, BookieError> {
        let this = self.clone();
        self.0.faults.run_async(|| async move {
            check_member(this.0.member, copy.member)?;
            let peers = this.0.peers.lock().as_ref().and_then(Weak::upgrade);
            let reason = "this bookie knows no others".to_string();
            let source = peers.ok_or(BookieError::Unavailable { reason })?.bookie(copy.source);
            let (mut next, mut stored) = (*copy.entries.start(), 0);
            while next <= *copy.entries.end() {
                let run = source.read_entries(ReadEntries {
                    member: copy.source,
                    ledger: copy.ledger,
                    first: EntryId(next),
                    max_count: 100,
                    max_bytes: 1 << 20,
                    fence: None,
                });
                let entries = match run.await {
                    Ok(run) => run.entries,
                    Err(BookieError::NoSuchEntry(..)) => Vec::new(),
                    Err(problem) => return Err(problem),
                };
                stored += this.store_copies(&copy, &entries)?;
                next += entries.len().max(1) as u64;
            }
            Ok(stored)
        })
    }

    fn confirm_lac(&self, confirm: ConfirmLac) -> Answer<(), BookieError> {
        self.call(confirm.member, |shelf| {
            let held = shelf.ledger(confirm.ledger, confirm.key)?;
            held.lac = held.lac.max(confirm.lac);
            Ok(())
        })
    }

    fn wait_lac(&self, wait: WaitLac) -> Answer<Lac, BookieError> {
        let this = self.clone();
        self.0.faults.run_async(|| async move {
            let current = || {
                check_member(this.0.member, wait.member)?;
                this.0.shelf.lock().known(wait.ledger).map(|held| held.lac)
            };
            let mut changes = this.0.changes.subscribe();
            let beyond = async {
                loop {
                    match current() {
                        Ok(lac) if lac <= wait.beyond => drop(changes.changed().await),
                        answer => return answer,
                    }
                }
            };
            tokio::time::timeout(wait.timeout, beyond).await.unwrap_or_else(|_| current())
        })
    }
}

impl Shelf {
    /// The ledger, for those who may make it known: adds, fences, confirmations.
    fn ledger(&mut self, id: LedgerId, key: LedgerKey) -> Result<&mut Held, BookieError> {
        if self.deleted.contains(&id) {
            return Err(BookieError::Deleted(id));
        }
        let held = self.ledgers.entry(id).or_default();
        if *held.key.get_or_insert(key) != key {
            return Err(BookieError::WrongKey(id));
        }
        Ok(held)
    }

    fn known(&self, id: LedgerId) -> Result<&Held, BookieError> {
        if self.deleted.contains(&id) {
            return Err(BookieError::Deleted(id));
        }
        self.ledgers.get(&id).ok_or_else(|| self.absent(BookieError::NoSuchLedger(id)))
    }

    /// What a missing thing is answered with: in limbo nothing is known to be missing.
    fn absent(&self, honest: BookieError) -> BookieError {
        self.limbo.clone().map_or(honest, |reason| BookieError::Unknown { reason })
    }

    fn add(&mut self, add: &AddEntry) -> Result<(), BookieError> {
        let (ledger, entry) = (add.entry.ledger(), add.entry.entry());
        if add.entry.bytes().len() > MAX_ENTRY {
            return Err(BookieError::BadEntry { reason: format!("larger than {MAX_ENTRY} bytes") });
        }
        if let Err(problem) = SealedEntry::open_any(add.entry.bytes().clone()) {
            return Err(BookieError::BadEntry { reason: problem.to_string() });
        }
        if !add.recovery
            && let Some(reason) = &self.read_only
        {
            return Err(BookieError::ReadOnly { reason: reason.clone() });
        }
        let held = self.ledger(ledger, add.key)?;
        if held.fenced && !add.recovery {
            return Err(BookieError::Fenced(ledger));
        }
        match held.entries.get(&entry.0) {
            Some(there) if there != &add.entry => return Err(BookieError::Different(ledger, entry)),
            Some(_) => {}
            None => drop(held.entries.insert(entry.0, add.entry.clone())),
        }
        held.lac = held.lac.max(add.entry.lac());
        Ok(())
    }

    fn fence(&mut self, ledger: LedgerId, key: LedgerKey) -> Result<Lac, BookieError> {
        let held = self.ledger(ledger, key)?;
        held.fenced = true;
        Ok(held.lac)
    }

    fn read(&mut self, read: &ReadEntries) -> Result<EntryRun, BookieError> {
        if let Some(key) = read.fence {
            self.fence(read.ledger, key)?;
        }
        let held = self.known(read.ledger)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (next, (&id, entry)) in (read.first.0..).zip(held.entries.range(read.first.0..)) {
            let size = entry.bytes().len();
            let full = entries.len() >= read.max_count.max(1) as usize || bytes + size > read.max_bytes as usize;
            if id != next || (full && !entries.is_empty()) {
                break;
            }
            bytes += size;
            entries.push(entry.clone());
        }
        if entries.is_empty() {
            return Err(self.absent(BookieError::NoSuchEntry(read.ledger, read.first)));
        }
        Ok(EntryRun { entries, lac: held.lac })
    }

    fn list(&self, list: &ListEntries) -> Result<EntryList, BookieError> {
        let held = self.known(list.ledger)?;
        let mut runs: Vec<std::ops::RangeInclusive<u64>> = Vec::new();
        for &id in held.entries.range(list.first.0..).map(|(id, _)| id) {
            match runs.last_mut() {
                Some(run) if run.end() + 1 == id => *run = *run.start()..=id,
                _ => runs.push(id..=id),
            }
        }
        let more = runs.len() > list.limit.max(1) as usize;
        runs.truncate(list.limit.max(1) as usize);
        Ok(EntryList { runs, more })
    }
}

fn check_member(actual: BookieMember, named: BookieMember) -> Result<(), BookieError> {
    if actual == named { Ok(()) } else { Err(BookieError::WrongMember { actual, named }) }
}

/// The handle of a bookie that is not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoBookie(pub(super) BookieMember);

impl NoBookie {
    fn answer<T: Send + 'static>(self) -> Answer<T, BookieError> {
        ready(Err(BookieError::Unavailable { reason: format!("bookie {} is not reachable", self.0) }))
    }
}

impl BookieService for NoBookie {
    fn add_entry(&self, _: AddEntry) -> Answer<(), BookieError> {
        self.answer()
    }
    fn read_entries(&self, _: ReadEntries) -> Answer<EntryRun, BookieError> {
        self.answer()
    }
    fn fence_ledger(&self, _: FenceLedger) -> Answer<Lac, BookieError> {
        self.answer()
    }
    fn list_entries(&self, _: ListEntries) -> Answer<EntryList, BookieError> {
        self.answer()
    }
    fn delete_ledger(&self, _: DeleteLedger) -> Answer<(), BookieError> {
        self.answer()
    }
    fn copy_entries(&self, _: CopyEntries) -> Answer<u64, BookieError> {
        self.answer()
    }
    fn confirm_lac(&self, _: ConfirmLac) -> Answer<(), BookieError> {
        self.answer()
    }
    fn wait_lac(&self, _: WaitLac) -> Answer<Lac, BookieError> {
        self.answer()
    }
}
