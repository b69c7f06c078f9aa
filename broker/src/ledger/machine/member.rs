//! The members of the current ensemble: who takes entries, who is left behind, and small sets of positions.

use protocol::{id::EntryId, ledger::metadata::BookieMember};

/// A position of the current ensemble.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// The bookie.
    pub(super) id: BookieMember,
    /// Set when it was left behind: entries from here on may be missing on it, and it is sent nothing more.
    pub(super) missing_from: Option<EntryId>,
    /// Bytes of confirmed entries whose answer is still to come.
    pub(super) owed: u64,
}

impl Member {
    pub(super) const fn new(id: BookieMember) -> Self {
        Self { id, missing_from: None, owed: 0 }
    }

    pub(super) const fn is_live(&self) -> bool {
        self.missing_from.is_none()
    }
}

/// A set of ensemble positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct MemberSet(u64);

impl MemberSet {
    /// Positions are below this.
    pub(super) const CAPACITY: usize = 64;

    pub(super) const fn insert(&mut self, at: usize) {
        self.0 |= 1 << at;
    }

    /// Takes a position out; whether it was in.
    pub(super) const fn remove(&mut self, at: usize) -> bool {
        let had = self.contains(at);
        self.0 &= !(1 << at);
        had
    }

    pub(super) const fn contains(self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }

    pub(super) const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::CAPACITY).filter(move |at| self.contains(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_every_position() {
        let mut set = MemberSet::default();
        set.insert(0);
        set.insert(63);
        set.insert(63);
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (2, vec![0, 63]));
        assert!(set.remove(0) && !set.remove(0) && !set.is_empty());
        assert!(set.remove(63) && set.is_empty());
    }
}
