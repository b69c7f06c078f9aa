//! What every store must do, as one suite that runs on each of them. Owns no store.

use super::{Batch, EntryStore, ReadLimits, StoreError, Write};
use crate::ledger::{Floor, KnownLedger, LedgerRecord};
use bytes::BytesMut;
use protocol::{
    id::{EntryId, Lac, LedgerId, LedgerKey},
    ledger::entry::{SEAL_LEN, SealedEntry},
};

/// A sealed entry with this payload.
pub(crate) fn entry(ledger: u64, entry: u64, payload: &[u8]) -> SealedEntry {
    let mut buf = BytesMut::zeroed(SEAL_LEN);
    buf.extend_from_slice(payload);
    let length = (entry + 1) * payload.len() as u64;
    SealedEntry::seal(buf, LedgerId(ledger), EntryId(entry), Lac::from_count(entry), length)
}

/// A batch of these changes.
pub(crate) fn batch_of(writes: impl IntoIterator<Item = Write>) -> Batch {
    let mut batch = Batch::default();
    writes.into_iter().for_each(|write| batch.push(write));
    batch
}

/// No limits.
pub(crate) const ALL: ReadLimits = ReadLimits { count: usize::MAX, bytes: usize::MAX };

fn known(key: u64, fenced: bool) -> LedgerRecord {
    LedgerRecord::Known(KnownLedger { key: LedgerKey(key), fenced, limbo: false, lac: Lac::from_count(3) })
}

/// Runs the whole suite on an empty store. The store is closed afterwards.
pub(crate) fn run(store: &dyn EntryStore) {
    an_empty_store_holds_nothing(store);
    batches_are_numbered_and_readable(store);
    ranges_end_at_gaps_and_limits(store);
    the_last_entry_is_of_its_own_ledger(store);
    records_are_listed_in_order(store);
    a_dropped_ledger_is_gone_and_its_neighbours_stay(store);
    extreme_ids_are_ordinary(store);
    limbo_and_floor_are_remembered(store);
    store.close().expect("closed");
    assert_eq!(store.get(LedgerId(1), EntryId(0)), Err(StoreError::Closed));
    assert_eq!(store.commit(&batch_of([Write::Limbo(false)])), Err(StoreError::Closed));
}

fn an_empty_store_holds_nothing(store: &dyn EntryStore) {
    assert_eq!(store.state().expect("state").commit, 0);
    assert_eq!(store.get(LedgerId(1), EntryId(0)), Ok(None));
    assert_eq!(store.range(LedgerId(1), EntryId(0), ALL), Ok(vec![]));
    assert_eq!(store.last(LedgerId(1)), Ok(None));
    assert_eq!(store.ledger(LedgerId(1)), Ok(None));
    assert_eq!(store.ledgers(None, 10), Ok(vec![]));
}

fn batches_are_numbered_and_readable(store: &dyn EntryStore) {
    let (small, large) = (entry(1, 0, b"small"), entry(1, 1, &[7; 100_000]));
    let batch = batch_of([
        Write::Entry(small.clone()),
        Write::Entry(large.clone()),
        Write::Ledger(LedgerId(1), known(11, false)),
    ]);
    assert_eq!(batch.bytes, small.bytes().len() + large.bytes().len());
    assert_eq!(store.commit(&batch), Ok(1));
    assert_eq!(store.commit(&batch_of([Write::Ledger(LedgerId(1), known(11, true))])), Ok(2));
    assert_eq!(store.get(LedgerId(1), EntryId(0)), Ok(Some(small.bytes().clone())));
    assert_eq!(store.get(LedgerId(1), EntryId(1)), Ok(Some(large.bytes().clone())));
    assert_eq!(store.ledger(LedgerId(1)), Ok(Some(known(11, true))), "the later record wins");
    assert_eq!(store.state().expect("state").commit, 2);
}

fn ranges_end_at_gaps_and_limits(store: &dyn EntryStore) {
    let entries: Vec<_> = [0, 1, 2, 4, 5].map(|id| entry(2, id, &[id as u8; 100])).to_vec();
    store.commit(&batch_of(entries.iter().cloned().map(Write::Entry))).expect("committed");
    let read = |first, count, bytes| {
        let run = store.range(LedgerId(2), EntryId(first), ReadLimits { count, bytes }).expect("read");
        run.into_iter().map(|b| SealedEntry::open_any(b).expect("whole").entry().0).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 100, 10_000), [0, 1, 2], "up to the gap");
    assert_eq!(read(1, 100, 10_000), [1, 2]);
    assert_eq!(read(4, 100, 10_000), [4, 5], "not into the next ledger");
    assert_eq!(read(3, 100, 10_000), [0; 0], "nothing stands in the gap");
    assert_eq!(read(0, 2, 10_000), [0, 1]);
    assert_eq!(read(0, 100, 280), [0, 1], "two entries of 140 bytes");
    assert_eq!(read(0, 100, 0), [0], "the first comes whatever its size");
    let mut named = Vec::new();
    store
        .visit(LedgerId(2), EntryId(1), &mut |id| {
            named.push(id.0);
            id.0 < 4
        })
        .expect("visited");
    assert_eq!(named, [1, 2, 4], "gaps are skipped, and the visitor may end it");
}

fn the_last_entry_is_of_its_own_ledger(store: &dyn EntryStore) {
    store.commit(&batch_of([Write::Entry(entry(4, 9, b"after"))])).expect("committed");
    assert_eq!(store.last(LedgerId(2)).expect("read").map(|(id, _)| id), Some(EntryId(5)));
    assert_eq!(store.last(LedgerId(3)), Ok(None), "neighbours do not count");
    assert_eq!(store.last(LedgerId(4)).expect("read").map(|(id, _)| id), Some(EntryId(9)));
}

fn records_are_listed_in_order(store: &dyn EntryStore) {
    let records = [300, 5, 70].map(|id| Write::Ledger(LedgerId(id), known(id, false)));
    store.commit(&batch_of(records)).expect("committed");
    let listed = |after, limit| -> Vec<u64> {
        store.ledgers(after, limit).expect("listed").into_iter().map(|(id, _)| id.0).collect()
    };
    assert_eq!(listed(None, 100), [1, 5, 70, 300]);
    assert_eq!(listed(None, 2), [1, 5]);
    assert_eq!(listed(Some(LedgerId(5)), 100), [70, 300]);
}

fn a_dropped_ledger_is_gone_and_its_neighbours_stay(store: &dyn EntryStore) {
    let batch = batch_of([Write::Drop(LedgerId(2)), Write::Ledger(LedgerId(2), LedgerRecord::Deleted)]);
    store.commit(&batch).expect("committed");
    assert_eq!(store.range(LedgerId(2), EntryId(0), ALL), Ok(vec![]));
    assert_eq!(store.last(LedgerId(2)), Ok(None));
    assert_eq!(store.ledger(LedgerId(2)), Ok(Some(LedgerRecord::Deleted)));
    store.reclaim(&[LedgerId(2)]).expect("reclaimed");
    assert_eq!(store.range(LedgerId(1), EntryId(0), ALL).map(|run| run.len()), Ok(2));
    assert_eq!(store.last(LedgerId(4)).expect("read").map(|(id, _)| id), Some(EntryId(9)));
}

fn extreme_ids_are_ordinary(store: &dyn EntryStore) {
    let last = LedgerId(u64::MAX);
    store.commit(&batch_of([Write::Entry(entry(u64::MAX, 0, b"z"))])).expect("committed");
    assert_eq!(store.last(last).expect("read").map(|(id, _)| id), Some(EntryId(0)));
    store.commit(&batch_of([Write::Drop(last)])).expect("committed");
    assert_eq!(store.last(last), Ok(None));
}

fn limbo_and_floor_are_remembered(store: &dyn EntryStore) {
    let state = store.state().expect("state");
    assert_eq!((state.limbo, state.floor), (false, Floor::NONE), "an old store says nothing of a floor");
    store.commit(&batch_of([Write::Limbo(true)])).expect("committed");
    assert!(store.state().expect("state").limbo);
    let floor = Floor(LedgerId(1 << 40));
    store.commit(&batch_of([Write::Floor(floor), Write::Limbo(false)])).expect("committed");
    let state = store.state().expect("state");
    assert_eq!((state.limbo, state.floor), (false, floor));
}
