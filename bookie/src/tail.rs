//! The most recently added entries, in memory, so that readers at the tail never touch the disk.
//!
//! Owns a bounded number of bytes, first in first out; holds only what is durable, because the committer fills it after
//! the sync. Never the authority: what is not here may still be stored.

use crate::store::ReadLimits;
use parking_lot::Mutex;
use protocol::{
    id::{EntryId, LedgerId},
    ledger::entry::SealedEntry,
};
use std::collections::{HashMap, VecDeque};

/// Recent entries.
#[derive(Debug)]
pub(crate) struct Tail {
    recent: Mutex<Recent>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Recent {
    entries: HashMap<(LedgerId, EntryId), SealedEntry>,
    order: VecDeque<(LedgerId, EntryId)>,
    bytes: usize,
}

impl Recent {
    fn remove(&mut self, place: (LedgerId, EntryId)) {
        if let Some(entry) = self.entries.remove(&place) {
            self.bytes -= entry.bytes().len();
        }
    }
}

impl Tail {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { recent: Mutex::default(), capacity }
    }

    /// Keeps entries that are durable now.
    pub(crate) fn extend<'a>(&self, entries: impl Iterator<Item = &'a SealedEntry>) {
        let mut recent = self.recent.lock();
        for entry in entries {
            let place = (entry.ledger(), entry.entry());
            recent.bytes += entry.bytes().len();
            match recent.entries.insert(place, entry.clone()) {
                // It keeps its place in the order.
                Some(before) => recent.bytes -= before.bytes().len(),
                None => recent.order.push_back(place),
            }
        }
        while recent.bytes > self.capacity
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.remove(oldest);
        }
    }

    /// A dense run from `first`; empty if that entry is not here.
    pub(crate) fn run(&self, ledger: LedgerId, first: EntryId, limits: ReadLimits) -> Vec<SealedEntry> {
        let recent = self.recent.lock();
        let (mut run, mut bytes, mut next) = (Vec::new(), 0, first);
        while run.len() < limits.count
            && let Some(entry) = recent.entries.get(&(ledger, next))
        {
            bytes += entry.bytes().len();
            if bytes > limits.bytes && !run.is_empty() {
                break;
            }
            run.push(entry.clone());
            next = next.next();
        }
        run
    }

    /// Forgets a deleted ledger.
    pub(crate) fn forget(&self, ledger: LedgerId) {
        let mut recent = self.recent.lock();
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut recent.order).into_iter().partition(|(id, _)| *id == ledger);
        recent.order = kept.into();
        gone.into_iter().for_each(|place| recent.remove(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{ALL, entry};

    fn ids(run: &[SealedEntry]) -> Vec<u64> {
        run.iter().map(|e| e.entry().0).collect()
    }

    #[test]
    fn the_oldest_leave_first_and_bytes_are_bounded() {
        let tail = Tail::new(140 * 3);
        for id in 0..5 {
            tail.extend([entry(1, id, &[0; 100])].iter());
        }
        assert_eq!(ids(&tail.run(LedgerId(1), EntryId(0), ALL)), [0; 0]);
        assert_eq!(ids(&tail.run(LedgerId(1), EntryId(2), ALL)), [2, 3, 4]);
        tail.extend([entry(1, 4, &[0; 100])].iter());
        assert_eq!(ids(&tail.run(LedgerId(1), EntryId(2), ALL)), [2, 3, 4], "the same entry counts once");
        assert_eq!(tail.recent.lock().bytes, 420);
    }

    #[test]
    fn runs_keep_to_their_limits_and_end_at_gaps() {
        let tail = Tail::new(1 << 20);
        tail.extend([0, 1, 2, 4].map(|id| entry(1, id, &[0; 100])).iter());
        let run = |count, bytes| ids(&tail.run(LedgerId(1), EntryId(0), ReadLimits { count, bytes }));
        assert_eq!(run(9, 10_000), [0, 1, 2]);
        assert_eq!(run(2, 10_000), [0, 1]);
        assert_eq!(run(9, 280), [0, 1]);
        assert_eq!(run(9, 1), [0], "the first comes whatever its size");
    }

    #[test]
    fn a_deleted_ledger_is_forgotten() {
        let tail = Tail::new(1 << 20);
        tail.extend([entry(1, 0, b"a"), entry(2, 0, b"b")].iter());
        tail.forget(LedgerId(1));
        assert!(tail.run(LedgerId(1), EntryId(0), ALL).is_empty());
        assert_eq!(ids(&tail.run(LedgerId(2), EntryId(0), ALL)), [0]);
        assert_eq!(tail.recent.lock().bytes, 41);
    }
}
