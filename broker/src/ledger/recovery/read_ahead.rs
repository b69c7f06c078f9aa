//! Entries that a recovery has read before its machine asked for them: one call brings a run, not one entry.
//!
//! Owns what was read ahead and for how long it is kept. Invariant: only finds are kept. That a bookie holds an entry
//! stays true, so it may be said later; that an entry is absent must be asked afresh, fencing, every time (rules R6, R8).

use protocol::{
    id::EntryId,
    ledger::{
        entry::SealedEntry,
        metadata::{BookieMember, LedgerMetadata},
    },
};
use std::collections::BTreeMap;

/// The most entries of one read.
pub(super) const RUN_ENTRIES: u32 = 1024;
/// The most bytes of one read; its first entry comes whatever its size.
pub(super) const RUN_BYTES: u32 = 1024 * 1024;

/// What was read ahead.
#[derive(Debug, Default)]
pub(super) struct ReadAhead(BTreeMap<EntryId, (BookieMember, SealedEntry)>);

impl ReadAhead {
    /// Keeps a run that `member` has sent, as far as it is a member of those entries' ensemble.
    pub(super) fn keep(&mut self, metadata: &LedgerMetadata, member: BookieMember, run: Vec<SealedEntry>) {
        for sealed in run {
            if metadata.ensemble_of(sealed.entry()).contains(&member) {
                self.0.entry(sealed.entry()).or_insert((member, sealed));
            }
        }
    }

    /// The entry and who holds it. Entries before it are forgotten: the machine asks in ascending order.
    pub(super) fn take(&mut self, entry: EntryId) -> Option<(BookieMember, SealedEntry)> {
        self.0 = self.0.split_off(&entry);
        self.0.remove(&entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use protocol::{
        id::{BookieId, Incarnation, Lac, LedgerId, LedgerKey, Timestamp},
        ledger::{entry::SEAL_LEN, quorum::Quorum},
    };

    #[test]
    fn only_finds_of_members_are_kept_and_what_lies_behind_is_forgotten() {
        let member = |id| BookieMember { id: BookieId(id), incarnation: Incarnation(1) };
        let key = LedgerKey(0);
        let metadata = LedgerMetadata::open(LedgerId(1), key, Quorum::SINGLE, vec![member(1)], Timestamp(0));
        let entry = |id| SealedEntry::seal(BytesMut::zeroed(SEAL_LEN), LedgerId(1), EntryId(id), Lac::NONE, 0);
        let mut ahead = ReadAhead::default();
        ahead.keep(&metadata, member(2), vec![entry(3)]);
        assert_eq!(ahead.take(EntryId(3)), None, "a stranger's word does not count");
        ahead.keep(&metadata, member(1), (3..8).map(entry).collect());
        assert_eq!(ahead.take(EntryId(5)), Some((member(1), entry(5))));
        assert_eq!([3, 4, 5].map(|e| ahead.0.contains_key(&EntryId(e))), [false; 3]);
        assert_eq!(ahead.take(EntryId(6)), Some((member(1), entry(6))));
    }
}
