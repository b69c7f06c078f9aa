//! What the store really holds of a ledger: which entries, and whether their checksums still match.
//!
//! Owns the listing and the verifying read. Knows no fence and no limbo: what may be said about an entry that is missing
//! is for others to judge. Blocks; for threads that may wait for a disk.

use crate::{
    ledger::{KnownLedger, LedgerRecord},
    store::{EntryStore, ReadLimits, StoreError},
};
use protocol::{
    id::{EntryId, LedgerId},
    ledger::entry::SealedEntry,
    service::bookie::EntryList,
};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// Places that are tried to find a damaged entry that the store cannot pass over.
const PROBES: u64 = 10_000;
/// Damaged places that one listing passes over. One damaged block of keys damages some hundred entries; it is also what
/// answers for places that were never written, so that the listing would never end.
const DAMAGES: u64 = 1_024;
/// Records of ledgers that are read at once.
const PAGE: usize = 1000;
/// Entries and bytes that one verifying read takes at most.
const READ: ReadLimits = ReadLimits { count: 4096, bytes: 1 << 20 };

/// The entries of a ledger from `first` on, as at most `limit` dense runs. An entry whose value is damaged is listed: its
/// place is taken, and whoever reads it finds the damage.
pub(crate) fn list(
    store: &dyn EntryStore,
    ledger: LedgerId,
    first: EntryId,
    limit: usize,
) -> Result<EntryList, StoreError> {
    let mut found = EntryList { runs: Vec::new(), more: false };
    let (mut next, mut damages) = (Some(first.0), 0);
    while let Some(from) = next {
        let visited = store.visit(ledger, EntryId(from), &mut |EntryId(id)| {
            next = id.checked_add(1);
            note(&mut found, id, limit)
        });
        match visited {
            Ok(()) => break,
            Err(problem @ StoreError::Damaged(_)) => {
                // The store cannot pass over the damage, so the place is looked for one by one.
                let at = next.map(|from| probe(store, ledger, from)).transpose()?.flatten();
                // A damaged block answers so for every place it could hold, even those that were never written.
                damages += 1;
                let damaged = at.filter(|_| damages <= DAMAGES).ok_or(problem)?;
                next = damaged.checked_add(1).filter(|_| note(&mut found, damaged, limit));
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(found)
}

/// Adds an entry to the listing; false if the listing is full.
fn note(found: &mut EntryList, id: u64, limit: usize) -> bool {
    let full = found.runs.len() == limit;
    match found.runs.last_mut() {
        Some(run) if run.end().checked_add(1) == Some(id) => *run = *run.start()..=id,
        _ if full => found.more = true,
        _ => found.runs.push(id..=id),
    }
    !found.more
}

/// The first entry from `from` on that exists, whatever its value; none if there is none near.
fn probe(store: &dyn EntryStore, ledger: LedgerId, from: u64) -> Result<Option<u64>, StoreError> {
    for id in from..from.saturating_add(PROBES) {
        match store.get(ledger, EntryId(id)) {
            Ok(None) => {}
            Ok(Some(_)) | Err(StoreError::Damaged(_)) => return Ok(Some(id)),
            Err(problem) => return Err(problem),
        }
    }
    Ok(None)
}

/// The ledgers that are known here, not deleted, and of interest.
pub(crate) fn ledgers(
    store: &dyn EntryStore,
    is_of_interest: impl Fn(&KnownLedger) -> bool,
) -> Result<BTreeSet<LedgerId>, StoreError> {
    let (mut found, mut after) = (BTreeSet::new(), None);
    loop {
        let page = store.ledgers(after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(*last);
        let known = page.into_iter().filter(|(_, r)| matches!(r, LedgerRecord::Known(k) if is_of_interest(k)));
        found.extend(known.map(|(id, _)| id));
    }
}

/// What a verifying read found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Verified {
    /// Entries whose checksum matches.
    pub(crate) entries: u64,
    /// Bytes that were read.
    pub(crate) bytes: u64,
    /// The entry that is damaged, if the read ended there.
    pub(crate) damaged: Option<u64>,
    /// Where to go on; none at the end of the run.
    pub(crate) next: Option<u64>,
}

/// Reads a piece of a run that was listed, and compares checksums.
///
/// # Errors
/// [`StoreError::Closed`] only; whatever else the store says of an entry means that the entry is damaged.
pub(crate) fn verify(
    store: &dyn EntryStore,
    ledger: LedgerId,
    run: &RangeInclusive<u64>,
) -> Result<Verified, StoreError> {
    let (first, last) = (*run.start(), *run.end());
    let count = usize::try_from(last - first).unwrap_or(usize::MAX).saturating_add(1).min(READ.count);
    let stored = match store.range(ledger, EntryId(first), ReadLimits { count, ..READ }) {
        Ok(stored) => stored,
        Err(StoreError::Closed) => return Err(StoreError::Closed),
        Err(StoreError::Failed(_) | StoreError::Damaged(_)) => Vec::new(),
    };
    let mut found = Verified { next: Some(first), ..Verified::default() };
    for (id, bytes) in (first..=last).zip(stored) {
        found.bytes += bytes.len() as u64;
        found.next = id.checked_add(1);
        if SealedEntry::open(bytes, ledger, EntryId(id)).is_err() {
            found.damaged = Some(id);
            break;
        }
        found.entries += 1;
    }
    if found.next == Some(first) {
        // It was listed and does not come: unreadable, or deleted meanwhile.
        (found.damaged, found.next) = (Some(first), first.checked_add(1));
    }
    found.next = found.next.filter(|next| *next <= last);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Write,
        conformance::{batch_of, entry},
        memory::MemoryStore,
    };

    const L: LedgerId = LedgerId(1);

    fn store(ids: impl IntoIterator<Item = u64>) -> MemoryStore {
        let store = MemoryStore::new();
        store.commit(&batch_of(ids.into_iter().map(|id| Write::Entry(entry(1, id, b"payload"))))).expect("stored");
        store
    }

    #[test]
    fn runs_are_dense_and_bounded() {
        let store = store([0, 1, 2, 5, 9, 10]);
        let list = |first, limit| list(&store, L, EntryId(first), limit).expect("listed");
        assert_eq!(list(0, 9), EntryList { runs: vec![0..=2, 5..=5, 9..=10], more: false });
        assert_eq!(list(1, 2), EntryList { runs: vec![1..=2, 5..=5], more: true });
        assert_eq!(list(11, 2), EntryList { runs: vec![], more: false });
    }

    #[test]
    fn damage_is_found_one_by_one() {
        let store = store(0..10);
        assert!(store.damage(L, EntryId(0)) && store.damage(L, EntryId(7)) && store.damage(L, EntryId(9)));
        let (mut next, mut damaged, mut entries) = (Some(0), Vec::new(), 0);
        while let Some(first) = next {
            let found = verify(&store, L, &(first..=9)).expect("read");
            damaged.extend(found.damaged);
            (next, entries) = (found.next, entries + found.entries);
        }
        assert_eq!((damaged, entries), (vec![0, 7, 9], 7));
    }

    #[test]
    fn what_cannot_be_read_is_damaged_and_a_closed_store_says_nothing() {
        let unreadable = store(0..2);
        unreadable.fail_reads();
        let found = verify(&unreadable, L, &(0..=1)).expect("judged");
        assert_eq!((found.damaged, found.next), (Some(0), Some(1)));
        let closed = store(0..2);
        closed.close().expect("closed");
        assert_eq!(verify(&closed, L, &(0..=1)), Err(StoreError::Closed));
    }
}
