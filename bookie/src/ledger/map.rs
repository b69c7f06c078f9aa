//! The ledgers in memory, and which of their records still have to be stored.
//!
//! Only the committer puts ledgers in and changes them; others look. A ledger may be dropped from memory whenever its
//! record is stored, because storage can restore it: so memory is bounded by ledgers in use, not by ledgers that exist.

use super::{Ledger, LedgerRecord};
use protocol::id::LedgerId;
use std::collections::{BTreeSet, HashMap};

/// A ledger and when it was last used, in group commits.
#[derive(Debug)]
struct Loaded {
    ledger: Ledger,
    used: u64,
}

/// The ledgers in memory.
#[derive(Debug)]
pub struct LedgerMap {
    loaded: HashMap<LedgerId, Loaded>,
    unsaved: BTreeSet<LedgerId>,
    capacity: usize,
    now: u64,
}

impl LedgerMap {
    /// A map that keeps about `capacity` ledgers.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { loaded: HashMap::new(), unsaved: BTreeSet::new(), capacity, now: 0 }
    }

    /// A ledger, if it is in memory.
    #[must_use]
    pub fn get(&self, id: LedgerId) -> Option<&Ledger> {
        self.loaded.get(&id).map(|loaded| &loaded.ledger)
    }

    /// A ledger to change, if it is in memory; counts as use.
    pub fn get_mut(&mut self, id: LedgerId) -> Option<&mut Ledger> {
        let loaded = self.loaded.get_mut(&id)?;
        loaded.used = self.now;
        Some(&mut loaded.ledger)
    }

    /// Puts a ledger in as storage has it.
    pub fn insert(&mut self, id: LedgerId, ledger: Ledger) {
        self.loaded.insert(id, Loaded { ledger, used: self.now });
    }

    /// The record of this ledger has changed and goes into the next batch that is stored.
    pub fn mark_unsaved(&mut self, id: LedgerId) {
        self.unsaved.insert(id);
    }

    /// The records that have to be stored. They count as stored from now on.
    pub fn take_unsaved(&mut self) -> Vec<(LedgerId, LedgerRecord)> {
        let ids = std::mem::take(&mut self.unsaved);
        ids.into_iter().filter_map(|id| Some((id, self.get(id)?.record()?))).collect()
    }

    /// A group commit has ended: drops what was not used for long if the map has grown over its capacity.
    pub fn trim(&mut self) {
        self.now += 1;
        if self.loaded.len() <= self.capacity {
            return;
        }
        // Half of the capacity goes at once, so that the sweep is paid for by many inserts.
        let mut ages: Vec<u64> = self.loaded.values().map(|loaded| loaded.used).collect();
        let keep = self.capacity / 2;
        let at = ages.len() - keep.max(1);
        let (_, oldest_kept, _) = ages.select_nth_unstable(at);
        let (oldest_kept, unsaved) = (*oldest_kept, &self.unsaved);
        self.loaded.retain(|id, loaded| loaded.used >= oldest_kept || unsaved.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::{Lac, LedgerKey};

    fn unknown(id: u64) -> Ledger {
        Ledger::restore(LedgerId(id), None, None)
    }

    #[test]
    fn only_stored_ledgers_are_dropped_and_the_latest_stay() {
        let mut map = LedgerMap::new(4);
        for id in 0..6 {
            map.insert(LedgerId(id), unknown(id));
            map.mark_unsaved(LedgerId(id));
            assert!(map.get_mut(LedgerId(id)).expect("loaded").fence(LedgerKey(1)).expect("fenced"));
            map.trim();
        }
        assert!((0..6).all(|id| map.get(LedgerId(id)).is_some()), "unsaved records stay in memory");
        assert_eq!(map.take_unsaved().len(), 6);
        assert!(map.take_unsaved().is_empty());
        map.trim();
        let kept: Vec<u64> = (0..6).filter(|id| map.get(LedgerId(*id)).is_some()).collect();
        assert_eq!(kept, [4, 5]);
    }

    #[test]
    fn a_ledger_of_which_nothing_is_known_has_no_record() {
        let mut map = LedgerMap::new(4);
        map.insert(LedgerId(1), unknown(1));
        map.mark_unsaved(LedgerId(1));
        assert!(map.take_unsaved().is_empty());
        map.get_mut(LedgerId(1)).expect("loaded").confirm(LedgerKey(1), Lac::from_count(2)).expect("confirmed");
        map.mark_unsaved(LedgerId(1));
        assert_eq!(map.take_unsaved().len(), 1);
    }
}
