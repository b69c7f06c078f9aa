//! Group commit over the store in memory: what is answered, when, and what a crash leaves.

use crate::{
    ledger::{LedgerMap, LedgerRecord},
    rig::{KEY, Rig, Setup},
    store::{EntryStore, conformance::entry, memory::MemoryStore},
};
use futures::FutureExt;
use protocol::{
    id::{EntryId, LedgerId, LedgerKey},
    service::bookie::{AddEntry, BookieError, BookieService},
};
use std::sync::Arc;

fn memory() -> (Arc<MemoryStore>, Rig) {
    let store = Arc::new(MemoryStore::new());
    let rig = Rig::new(Arc::clone(&store) as Arc<dyn EntryStore>);
    (store, rig)
}

#[tokio::test]
async fn what_waits_during_a_sync_becomes_one_batch() {
    let (store, rig) = memory();
    store.hold();
    let first = rig.0.add_entry(Rig::request(1, 0, b"first"));
    store.wait_held();
    let others: Vec<_> = (1..=50).map(|id| rig.0.add_entry(Rig::request(1, id, b"other"))).collect();
    store.release();
    first.await.expect("stored");
    for other in others {
        other.await.expect("stored");
    }
    // The first batch carries the entry and the record of its ledger.
    assert_eq!(store.commits(), [2, 50]);
    assert_eq!(rig.synced(), 2);
}

#[tokio::test]
async fn nothing_is_answered_before_it_is_synced() {
    let (store, rig) = memory();
    store.hold();
    let mut add = rig.0.add_entry(Rig::request(1, 0, b"x"));
    store.wait_held();
    let mut fence = Box::pin(rig.fence(2));
    assert!((&mut add).now_or_never().is_none(), "an add waits for its sync (rule B1)");
    assert!((&mut fence).now_or_never().is_none(), "a fence is durable before it is answered (rule B3)");
    store.release();
    assert_eq!((add.await, fence.await.map(|lac| lac.count())), (Ok(()), Ok(0)));
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_answered() {
    let (store, rig) = memory();
    for id in 0..5 {
        rig.add(1, id).await.expect("stored");
    }
    rig.fence(2).await.expect("fenced");
    rig.add(3, 0).await.expect("stored");
    rig.delete(3).await.expect("deleted");
    rig.stop();
    store.crash();
    let again = Rig::new(store);
    assert_eq!(again.read(1, 0).await, Ok(vec![0, 1, 2, 3, 4]));
    assert_eq!(again.add(2, 0).await, Err(BookieError::Fenced(LedgerId(2))), "also a ledger never added to (rule R3)");
    assert_eq!(again.add(3, 1).await, Err(BookieError::Deleted(LedgerId(3))), "rule B8");
    let other = AddEntry { key: LedgerKey(1), ..Rig::request(1, 5, b"x") };
    assert_eq!(again.0.add_entry(other).await, Err(BookieError::WrongKey(LedgerId(1))), "rule B1: the key is durable");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_or_denied() {
    let (store, rig) = memory();
    rig.add(1, 0).await.expect("stored");
    store.fail_syncs();
    assert!(matches!(rig.add(1, 1).await, Err(BookieError::Storage { .. })));
    assert!(matches!(rig.add(2, 0).await, Err(BookieError::Storage { .. })));
    assert!(matches!(rig.fence(1).await, Err(BookieError::Storage { .. })));
    assert!(matches!(rig.delete(1).await, Err(BookieError::Storage { .. })));
    assert_eq!(rig.read(1, 0).await.map(|ids| ids[0]), Ok(0), "what was stored is served");
    assert!(matches!(rig.read(9, 0).await, Err(BookieError::Unknown { .. })), "rule B13: negatives are unknown");
    assert!(matches!(rig.read(1, 7).await, Err(BookieError::Unknown { .. })));
    store.crash();
    assert!(matches!(rig.add(1, 2).await, Err(BookieError::Storage { .. })), "until it is started again");
}

#[tokio::test]
async fn a_failed_sync_fails_the_whole_group() {
    let (store, rig) = memory();
    store.hold();
    store.fail_syncs();
    let first = rig.0.add_entry(Rig::request(1, 0, b"x"));
    store.wait_held();
    let waiting: Vec<_> = (1..5).map(|id| rig.0.add_entry(Rig::request(1, id, b"x"))).collect();
    store.release();
    assert!(matches!(first.await, Err(BookieError::Storage { .. })));
    for add in waiting {
        assert!(matches!(add.await, Err(BookieError::Storage { .. })));
    }
    assert_eq!(store.commits(), [0; 0]);
}

#[tokio::test]
async fn duplicates_are_compared_with_disk_and_batch() {
    let (store, rig) = memory();
    rig.add(1, 0).await.expect("stored");
    assert_eq!(rig.add(1, 0).await, Ok(()), "the same bytes are fine");
    assert_eq!(store.commits(), [2], "and not stored again");
    let different = BookieError::Different(LedgerId(1), EntryId(0));
    assert_eq!(rig.0.add_entry(Rig::request(1, 0, b"other")).await, Err(different));
    store.hold();
    let first = rig.0.add_entry(Rig::request(1, 1, b"first"));
    store.wait_held();
    let second = rig.0.add_entry(Rig::request(1, 2, b"second"));
    let same = rig.0.add_entry(Rig::request(1, 2, b"second"));
    let other = rig.0.add_entry(Rig::request(1, 2, b"other"));
    store.release();
    assert_eq!((first.await, second.await, same.await), (Ok(()), Ok(()), Ok(())));
    assert_eq!(other.await, Err(BookieError::Different(LedgerId(1), EntryId(2))));
    assert_eq!(rig.run(1, 0).await.expect("read").entries[2].payload(), &b"second"[..]);
}

#[tokio::test]
async fn a_duplicate_is_answered_only_when_the_first_copy_is_durable() {
    let (store, rig) = memory();
    rig.add(1, 0).await.expect("stored");
    store.hold();
    let first = rig.0.add_entry(Rig::request(1, 1, b"x"));
    store.wait_held();
    let mut twice = rig.0.add_entry(Rig::request(1, 1, b"x"));
    assert!((&mut twice).now_or_never().is_none());
    store.release();
    assert_eq!((first.await, twice.await), (Ok(()), Ok(())));
}

#[tokio::test]
async fn a_gap_may_be_filled_and_a_damaged_copy_replaced() {
    let (store, rig) = memory();
    for id in [0, 1, 5] {
        rig.add(1, id).await.expect("stored");
    }
    assert_eq!(rig.add(1, 3).await, Ok(()), "a bookie need not be dense");
    assert_eq!(rig.read(1, 2).await, Err(BookieError::NoSuchEntry(LedgerId(1), EntryId(2))));
    assert!(store.damage(LedgerId(1), EntryId(1)));
    assert_eq!(rig.add_recovery(1, 1).await, Ok(()));
    let stored = store.get(LedgerId(1), EntryId(1)).expect("read");
    assert_eq!(stored.as_ref(), Some(entry(1, 1, b"payload").bytes()));
}

#[tokio::test]
async fn writers_are_bounded_and_recovery_has_a_reserve() {
    let store = Arc::new(MemoryStore::new());
    let setup = Setup { queue_bytes: 10_000, ..Setup::default() };
    let rig = Rig::with(Arc::clone(&store) as Arc<dyn EntryStore>, setup);
    store.hold();
    // A single entry passes whatever its size.
    let large = rig.0.add_entry(Rig::request(1, 0, &[0; 20_000]));
    store.wait_held();
    let refused = rig.0.add_entry(Rig::request(1, 1, b"x")).await;
    assert!(matches!(refused, Err(BookieError::Unavailable { .. })), "{refused:?}");
    let recovery = rig.0.add_entry(AddEntry { recovery: true, ..Rig::request(2, 0, b"x") });
    let fence = rig.0.fence_ledger(protocol::service::bookie::FenceLedger {
        member: crate::rig::MEMBER,
        ledger: LedgerId(1),
        key: KEY,
    });
    store.release();
    assert_eq!((large.await, recovery.await), (Ok(()), Ok(())));
    assert!(fence.await.is_ok(), "writers cannot shut recovery out");
    assert_eq!(rig.read(1, 1).await, Err(BookieError::NoSuchEntry(LedgerId(1), EntryId(1))), "refused, not stored");
    assert_eq!(rig.add(2, 1).await, Ok(()), "the bytes were given back");
}

#[tokio::test]
async fn batches_are_bounded() {
    let store = Arc::new(MemoryStore::new());
    let rig = Rig::with(Arc::clone(&store) as _, Setup { batch_bytes: 10_000, ..Setup::default() });
    rig.add(1, 0).await.expect("stored");
    store.hold();
    let first = rig.0.add_entry(Rig::request(1, 1, b"x"));
    store.wait_held();
    let adds: Vec<_> = (2..12).map(|id| rig.0.add_entry(Rig::request(1, id, &[0; 3000]))).collect();
    store.release();
    first.await.expect("stored");
    for add in adds {
        add.await.expect("stored");
    }
    assert_eq!(store.commits()[2..], [3, 3, 3, 1], "three entries of about 3,300 bytes each");
}

#[tokio::test]
async fn stopping_answers_everything_and_stores_confirmations() {
    let (store, rig) = memory();
    rig.add(1, 0).await.expect("stored");
    rig.confirm(1, 1).await.expect("noted");
    let known = |store: &MemoryStore| match store.ledger(LedgerId(1)) {
        Ok(Some(LedgerRecord::Known(known))) => known.lac.count(),
        other => panic!("{other:?}"),
    };
    assert_eq!(known(&store), 0, "a confirmation alone costs no sync");
    let adds: Vec<_> = (0..20).map(|id| rig.0.add_entry(Rig::request(2, id, b"x"))).collect();
    rig.stop();
    for add in adds {
        assert_eq!(add.await, Ok(()));
    }
    assert_eq!(known(&store), 1);
    assert!(matches!(rig.add(1, 1).await, Err(BookieError::Unavailable { .. })));
}

#[tokio::test]
async fn a_store_that_cannot_be_read_means_unknown() {
    let (store, rig) = memory();
    store.fail_reads();
    assert!(matches!(rig.add(5, 0).await, Err(BookieError::Unknown { .. })), "its fence could not be looked up");
    assert!(matches!(rig.read(5, 0).await, Err(BookieError::Unknown { .. })), "rule R9");
}

#[tokio::test]
async fn ledgers_leave_memory_and_come_back() {
    let (_, rig) = memory();
    for ledger in 0..300 {
        rig.add(ledger, 0).await.expect("stored");
    }
    rig.fence(0).await.expect("fenced");
    let loaded = |map: &LedgerMap| (0..300).filter(|id| map.get(LedgerId(*id)).is_some()).count();
    assert!(loaded(&rig.shared().ledgers.lock()) <= 101);
    assert_eq!(rig.add(0, 1).await, Err(BookieError::Fenced(LedgerId(0))));
    assert_eq!(rig.add(7, 1).await, Ok(()));
    assert_eq!(rig.read(7, 0).await, Ok(vec![0, 1]));
}
