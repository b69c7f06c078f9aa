//! The recent past: a ring of the latest transactions, bounded by count and bytes. Watches read from it and hold
//! nothing themselves, so a slow watcher costs nothing and is told when the past it needs is gone.
//!
//! Not part of the replicated state: a voter that starts from a snapshot begins with an empty past.

use protocol::{
    id::Revision,
    service::metadata::{Change, WatchEvent},
};
use std::{collections::VecDeque, sync::Arc};

/// The most transactions kept.
const MAX_EVENTS: usize = 65_536;
/// The most bytes of keys and values kept.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The latest transactions, dense by revision.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The revision before the first kept event: the oldest that a watch can begin after.
    oldest: Revision,
    events: VecDeque<Arc<WatchEvent>>,
    bytes: usize,
}

/// What happened after a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// These transactions, in order; possibly only the first of them.
    Events(Vec<Arc<WatchEvent>>),
    /// Some of them are no longer kept.
    Compacted {
        /// The oldest revision that can be continued from.
        oldest: Revision,
    },
}

impl History {
    /// An empty past that ends at `revision`.
    #[must_use]
    pub(super) fn starting_at(revision: Revision) -> Self {
        Self { oldest: revision, ..Self::default() }
    }

    /// Takes the next transaction.
    pub(super) fn push(&mut self, event: WatchEvent) {
        debug_assert_eq!(event.revision.0, self.oldest.0 + self.events.len() as u64 + 1, "history is dense");
        self.bytes += Self::size(&event);
        self.events.push_back(Arc::new(event));
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(gone) = self.events.pop_front() else { break };
            self.bytes -= Self::size(&gone);
            self.oldest = gone.revision;
        }
    }

    /// The transactions after `revision`, in order.
    ///
    /// # Errors
    /// Some of them are no longer kept; the oldest revision that can be continued from.
    pub fn after(&self, revision: Revision) -> Result<impl Iterator<Item = &Arc<WatchEvent>>, Revision> {
        if revision < self.oldest {
            return Err(self.oldest);
        }
        let skip = usize::try_from(revision.0 - self.oldest.0).unwrap_or(usize::MAX);
        Ok(self.events.range(skip.min(self.events.len())..))
    }

    /// Up to `limit` transactions after `revision`.
    #[must_use]
    pub fn since(&self, revision: Revision, limit: usize) -> Since {
        match self.after(revision) {
            Ok(events) => Since::Events(events.take(limit).cloned().collect()),
            Err(oldest) => Since::Compacted { oldest },
        }
    }

    /// What a transaction counts for: the bytes of the keys and values that it changed.
    #[must_use]
    pub fn size(event: &WatchEvent) -> usize {
        let of = |change: &Change| match change {
            Change::Put(item) => item.key.len() + item.value.len(),
            Change::Deleted(key) => key.len(),
        };
        event.changes.iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, key_bytes: usize) -> WatchEvent {
        WatchEvent { revision: Revision(revision), changes: vec![Change::Deleted("k".repeat(key_bytes))] }
    }

    #[test]
    fn the_past_is_dense_and_bounded_by_count() {
        let mut history = History::starting_at(Revision(10));
        for n in 11..=20 {
            history.push(event(n, 1));
        }
        let Since::Events(events) = history.since(Revision(12), 3) else { panic!("kept") };
        assert_eq!(events.iter().map(|e| e.revision.0).collect::<Vec<_>>(), [13, 14, 15]);
        assert_eq!(history.since(Revision(9), 3), Since::Compacted { oldest: Revision(10) });
        assert_eq!(history.since(Revision(20), 3), Since::Events(vec![]));
        for n in 21..=21 + MAX_EVENTS as u64 {
            history.push(event(n, 1));
        }
        assert_eq!(history.since(Revision(20), 1), Since::Compacted { oldest: Revision(21) });
    }

    #[test]
    fn the_past_is_bounded_by_bytes() {
        let mut history = History::starting_at(Revision(0));
        for n in 1..=3 {
            history.push(event(n, MAX_BYTES / 2));
        }
        assert_eq!(history.since(Revision(0), 9), Since::Compacted { oldest: Revision(1) });
        assert!(history.bytes <= MAX_BYTES);
    }
}
