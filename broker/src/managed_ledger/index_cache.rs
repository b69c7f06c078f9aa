//! Indexes of closed ledgers that were needed lately. Owns their number; a closed ledger never changes, so nothing here
//! ever becomes wrong.

use super::offset_index::LedgerIndex;
use parking_lot::Mutex;
use protocol::id::LedgerId;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// The most indexes held; one of a full ledger of 1 GiB takes about 400 KB, most take far less.
const MAX_INDEXES: usize = 128;

/// A bounded set of indexes; the one that was added first goes first.
#[derive(Debug, Default)]
pub struct IndexCache {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    indexes: HashMap<LedgerId, Arc<LedgerIndex>>,
    ages: VecDeque<LedgerId>,
}

impl IndexCache {
    /// The index of a ledger, if it is here.
    #[must_use]
    pub fn get(&self, ledger: LedgerId) -> Option<Arc<LedgerIndex>> {
        self.held.lock().indexes.get(&ledger).cloned()
    }

    /// Keeps an index.
    pub fn insert(&self, ledger: LedgerId, index: LedgerIndex) -> Arc<LedgerIndex> {
        let index = Arc::new(index);
        let mut held = self.held.lock();
        let Held { indexes, ages } = &mut *held;
        if indexes.insert(ledger, Arc::clone(&index)).is_none() {
            ages.push_back(ledger);
        }
        while ages.len() > MAX_INDEXES {
            if let Some(oldest) = ages.pop_front() {
                indexes.remove(&oldest);
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_index_goes_first() {
        let cache = IndexCache::default();
        for n in 0..=MAX_INDEXES as u64 {
            cache.insert(LedgerId(n), LedgerIndex::default());
        }
        assert!(cache.get(LedgerId(0)).is_none());
        assert!(cache.get(LedgerId(1)).is_some() && cache.get(LedgerId(MAX_INDEXES as u64)).is_some());
    }
}
