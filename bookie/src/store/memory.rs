//! A store in memory, for machines, tests and the simulator. Owns its faults: it can fail to write, fail to sync, hold a
//! commit back, damage a value, and crash, which drops everything that was not synced.

use super::{Batch, EntryStore, ReadLimits, StoreError, StoreState, Write};
use crate::ledger::LedgerRecord;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use protocol::{
    id::{EntryId, LedgerId},
    ledger::entry::SealedEntry,
};
use std::collections::{BTreeMap, VecDeque};

/// Everything that is stored.
#[derive(Debug, Clone, Default)]
struct Contents {
    entries: BTreeMap<(LedgerId, EntryId), Bytes>,
    ledgers: BTreeMap<LedgerId, LedgerRecord>,
    state: StoreState,
}

impl Contents {
    fn apply(&mut self, batch: &Batch, number: u64) {
        for write in &batch.writes {
            match write {
                Write::Entry(entry) => {
                    self.entries.insert((entry.ledger(), entry.entry()), entry.bytes().clone());
                }
                Write::Ledger(id, record) => {
                    self.ledgers.insert(*id, *record);
                }
                Write::Drop(id) => self.entries.retain(|(ledger, _), _| ledger != id),
                Write::Limbo(limbo) => self.state.limbo = *limbo,
                Write::Floor(floor) => self.state.floor = *floor,
            }
        }
        self.state.commit = number;
    }
}

/// What goes wrong.
#[derive(Debug, Default)]
struct Faults {
    fail_write: bool,
    fail_sync: bool,
    fail_read: bool,
    held: bool,
    /// Commits that wait because of `held`.
    waiting: usize,
    closed: bool,
}

/// Batches that a cut can still take away.
const JOURNAL: usize = 64;

/// What is on the disk: files, and the journal of the batches that came after them.
#[derive(Debug, Default)]
struct Disk {
    files: Contents,
    journal: VecDeque<(u64, Batch)>,
}

impl Disk {
    fn write(&mut self, batch: &Batch, number: u64) {
        self.journal.push_back((number, batch.clone()));
        if self.journal.len() > JOURNAL {
            self.flush(1);
        }
    }

    /// Moves the oldest batches of the journal to the files.
    fn flush(&mut self, count: usize) {
        for (number, batch) in self.journal.drain(..count) {
            self.files.apply(&batch, number);
        }
    }

    /// What a start finds.
    fn contents(&self) -> Contents {
        let mut contents = self.files.clone();
        self.journal.iter().for_each(|(number, batch)| contents.apply(batch, *number));
        contents
    }
}

#[derive(Debug, Default)]
struct Shelf {
    live: Contents,
    synced: Disk,
    /// Something was written that was not synced.
    is_ahead: bool,
    faults: Faults,
    commits: Vec<usize>,
}

/// An [`EntryStore`] in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    shelf: Mutex<Shelf>,
    changed: Condvar,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The power goes off and on again: what was not synced is gone, and so are all faults.
    pub fn crash(&self) {
        let mut shelf = self.shelf.lock();
        shelf.live = shelf.synced.contents();
        shelf.is_ahead = false;
        shelf.faults = Faults::default();
        self.changed.notify_all();
    }

    /// The power goes off, and the journal comes back without the batches after number `keep`, as far as they are not in
    /// the files yet. Answers the number of the last batch that is left.
    pub fn cut(&self, keep: u64) -> u64 {
        self.shelf.lock().synced.journal.retain(|(number, _)| *number <= keep);
        self.crash();
        self.shelf.lock().live.state.commit
    }

    /// The number of the last batch that a cut cannot take away.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.shelf.lock().synced.files.state.commit
    }

    /// Whether a crash now would leave this entry, with these bytes.
    #[must_use]
    pub fn keeps(&self, entry: &SealedEntry) -> bool {
        let shelf = self.shelf.lock();
        let place = (entry.ledger(), entry.entry());
        if !shelf.is_ahead {
            return shelf.live.entries.get(&place) == Some(entry.bytes());
        }
        shelf.synced.contents().entries.get(&place) == Some(entry.bytes())
    }

    /// The record of a ledger that a crash now would leave.
    #[must_use]
    pub fn keeps_ledger(&self, ledger: LedgerId) -> Option<LedgerRecord> {
        let shelf = self.shelf.lock();
        if !shelf.is_ahead {
            return shelf.live.ledgers.get(&ledger).copied();
        }
        shelf.synced.contents().ledgers.get(&ledger).copied()
    }

    /// Every entry that is stored now.
    #[must_use]
    pub fn entries(&self) -> Vec<(LedgerId, EntryId)> {
        self.shelf.lock().live.entries.keys().copied().collect()
    }

    /// Commits fail from now on, and nothing of them is stored.
    pub fn fail_writes(&self) {
        self.shelf.lock().faults.fail_write = true;
    }

    /// Commits fail from now on after they were written: a crash loses them.
    pub fn fail_syncs(&self) {
        self.shelf.lock().faults.fail_sync = true;
    }

    /// Whether commits fail now.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let shelf = self.shelf.lock();
        shelf.faults.fail_write || shelf.faults.fail_sync
    }

    /// Reads fail from now on.
    pub fn fail_reads(&self) {
        self.shelf.lock().faults.fail_read = true;
    }

    /// Commits wait from now on, until [`MemoryStore::release`].
    pub fn hold(&self) {
        self.shelf.lock().faults.held = true;
    }

    /// Lets held commits go on.
    pub fn release(&self) {
        self.shelf.lock().faults.held = false;
        self.changed.notify_all();
    }

    /// Waits until a commit is being held.
    pub fn wait_held(&self) {
        let mut shelf = self.shelf.lock();
        self.changed.wait_while(&mut shelf, |shelf| shelf.faults.waiting == 0);
    }

    /// Flips one bit in a stored entry; false if there is no such entry.
    pub fn damage(&self, ledger: LedgerId, entry: EntryId) -> bool {
        let mut shelf = self.shelf.lock();
        let Shelf { live, synced, .. } = &mut *shelf;
        synced.flush(synced.journal.len());
        let mut found = false;
        for contents in [live, &mut synced.files] {
            if let Some(bytes) = contents.entries.get_mut(&(ledger, entry)) {
                let mut copy = bytes.to_vec();
                if let Some(last) = copy.last_mut() {
                    *last ^= 1;
                }
                *bytes = copy.into();
                found = true;
            }
        }
        found
    }

    /// How many changes each commit carried.
    #[must_use]
    pub fn commits(&self) -> Vec<usize> {
        self.shelf.lock().commits.clone()
    }

    fn read<T>(&self, read: impl FnOnce(&Contents) -> T) -> Result<T, StoreError> {
        let shelf = self.shelf.lock();
        if shelf.faults.closed {
            return Err(StoreError::Closed);
        }
        if shelf.faults.fail_read {
            return Err(StoreError::Failed("reads fail".into()));
        }
        Ok(read(&shelf.live))
    }
}

impl EntryStore for MemoryStore {
    fn commit(&self, batch: &Batch) -> Result<u64, StoreError> {
        let mut shelf = self.shelf.lock();
        shelf.faults.waiting += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut shelf, |shelf| shelf.faults.held);
        shelf.faults.waiting = shelf.faults.waiting.saturating_sub(1);
        if shelf.faults.closed {
            return Err(StoreError::Closed);
        }
        if shelf.faults.fail_write {
            return Err(StoreError::Failed("writes fail".into()));
        }
        let number = shelf.live.state.commit + 1;
        shelf.live.apply(batch, number);
        if shelf.faults.fail_sync {
            shelf.is_ahead = true;
            return Err(StoreError::Failed("syncs fail".into()));
        }
        shelf.synced.write(batch, number);
        shelf.commits.push(batch.writes.len());
        Ok(number)
    }

    fn get(&self, ledger: LedgerId, entry: EntryId) -> Result<Option<Bytes>, StoreError> {
        self.read(|contents| contents.entries.get(&(ledger, entry)).cloned())
    }

    fn range(&self, ledger: LedgerId, first: EntryId, limits: ReadLimits) -> Result<Vec<Bytes>, StoreError> {
        self.read(|contents| {
            let (mut run, mut bytes) = (Vec::new(), 0);
            let from = (ledger, first)..=(ledger, EntryId(u64::MAX));
            for (next, ((_, entry), value)) in (first.0..).zip(contents.entries.range(from)) {
                let full = run.len() == limits.count || bytes + value.len() > limits.bytes;
                if entry.0 != next || (full && !run.is_empty()) {
                    break;
                }
                bytes += value.len();
                run.push(value.clone());
            }
            run
        })
    }

    fn last(&self, ledger: LedgerId) -> Result<Option<(EntryId, Bytes)>, StoreError> {
        self.read(|contents| {
            let all = (ledger, EntryId(0))..=(ledger, EntryId(u64::MAX));
            contents.entries.range(all).next_back().map(|((_, entry), value)| (*entry, value.clone()))
        })
    }

    fn visit(
        &self,
        ledger: LedgerId,
        first: EntryId,
        visit: &mut dyn FnMut(EntryId) -> bool,
    ) -> Result<(), StoreError> {
        self.read(|contents| {
            let from = (ledger, first)..=(ledger, EntryId(u64::MAX));
            contents.entries.range(from).map(|((_, entry), _)| *entry).all(visit);
        })
    }

    fn ledger(&self, ledger: LedgerId) -> Result<Option<LedgerRecord>, StoreError> {
        self.read(|contents| contents.ledgers.get(&ledger).copied())
    }

    fn ledgers(&self, after: Option<LedgerId>, limit: usize) -> Result<Vec<(LedgerId, LedgerRecord)>, StoreError> {
        self.read(|contents| {
            let all = contents.ledgers.iter().map(|(id, record)| (*id, *record));
            all.filter(|(id, _)| after.is_none_or(|after| *id > after)).take(limit).collect()
        })
    }

    fn state(&self) -> Result<StoreState, StoreError> {
        self.read(|contents| contents.state)
    }

    fn reclaim(&self, _: &[LedgerId]) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        self.shelf.lock().faults.closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::Floor,
        store::conformance::{self, batch_of, entry},
    };

    #[test]
    fn conforms() {
        conformance::run(&MemoryStore::new());
    }

    #[test]
    fn a_crash_drops_what_was_not_synced() {
        let store = MemoryStore::new();
        store.commit(&batch_of([Write::Entry(entry(1, 0, b"kept"))])).expect("committed");
        store.fail_syncs();
        let lost = batch_of([
            Write::Entry(entry(1, 1, b"lost")),
            Write::Ledger(LedgerId(2), LedgerRecord::Deleted),
            Write::Limbo(true),
            Write::Floor(Floor(LedgerId(9))),
        ]);
        assert!(store.commit(&lost).is_err());
        assert!(store.get(LedgerId(1), EntryId(1)).expect("read").is_some(), "written, not synced");
        store.crash();
        assert!(store.get(LedgerId(1), EntryId(0)).expect("read").is_some());
        assert!(store.get(LedgerId(1), EntryId(1)).expect("read").is_none());
        assert_eq!(store.ledger(LedgerId(2)), Ok(None));
        assert_eq!(store.state(), Ok(StoreState { commit: 1, ..StoreState::default() }));
    }

    #[test]
    fn a_cut_takes_the_end_of_the_journal() {
        let store = MemoryStore::new();
        let one = |id| batch_of([Write::Entry(entry(1, id, b"x"))]);
        (0..100).for_each(|id| assert!(store.commit(&one(id)).is_ok()));
        assert_eq!(store.cut(97), 97);
        assert!(store.keeps(&entry(1, 96, b"x")) && !store.keeps(&entry(1, 97, b"x")));
        assert!(!store.keeps(&entry(1, 96, b"y")), "other bytes are another entry");
        assert_eq!((store.cut(0), store.entries().len()), (store.flushed(), store.flushed() as usize));
        store.commit(&batch_of([Write::Ledger(LedgerId(1), LedgerRecord::Deleted)])).expect("committed");
        assert_eq!(store.keeps_ledger(LedgerId(1)), Some(LedgerRecord::Deleted));
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let store = MemoryStore::new();
        store.fail_writes();
        assert!(store.commit(&batch_of([Write::Entry(entry(1, 0, b"x"))])).is_err());
        assert_eq!(store.get(LedgerId(1), EntryId(0)), Ok(None));
        store.fail_reads();
        assert!(store.get(LedgerId(1), EntryId(0)).is_err());
    }
}
