//! Owners change, processes die: what was acknowledged is there, exactly where it was acknowledged.

use super::{
    Desk,
    desk::{append_to, bases, eventually, fetch_from, in_time, request},
};
use crate::managed_ledger::ListState;
use protocol::{
    id::{LeaderEpoch, LedgerId, LedgerKey, Offset, Timestamp},
    ledger::{metadata::LedgerMetadata, quorum::Quorum},
    model::{HeadLedger, PartitionRecord, key},
    service::{
        bookie::BookieError,
        broker::{AppendError, BrokerService, NotServed},
        directory::BookieDirectory,
        metadata::Transaction,
    },
    testing::{BatchBuilder, FakeBookie, Fault, batches},
};

#[tokio::test]
async fn a_new_owner_finds_every_acknowledged_record_and_every_producer() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    for n in 0..5 {
        desk.append(id, batches::idempotent(3, 0, n * 2, 2)).await.expect("appended");
    }
    let next = desk.another(2).await;
    desk.assign(id, &next).await;
    let retry = append_to(&next, id, batches::idempotent(3, 0, 8, 2)).await.expect("recognized");
    assert_eq!((retry.base_offset, retry.epoch), (Offset(8), LeaderEpoch(1)));
    let new = append_to(&next, id, batches::idempotent(3, 0, 10, 1)).await.expect("appended");
    assert_eq!(new.base_offset, Offset(10));
    let fetched = fetch_from(&next, id, 0).await.expect("fetched");
    assert_eq!(bases(&fetched), [0, 2, 4, 6, 8, 10]);
    let closed = desk.closed(id);
    assert_eq!((closed.len(), closed[0].epoch, closed[0].end_offset), (1, LeaderEpoch(0), Offset(10)));
}

#[tokio::test]
async fn the_old_owner_is_fenced_and_says_so() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    let ledger = desk.head(id);
    let next = desk.another(2).await;
    desk.assign(id, &next).await;
    desk.open(&next, id).await;
    assert!(desk.bookie().is_fenced(ledger));
    let late = desk.append(id, batches::plain(&["late"])).await;
    let moved = NotServed::NotOwner { owner: Some(protocol::id::NodeId(2)), epoch: LeaderEpoch(1) };
    assert_eq!(late, Err(moved.into()));
    assert_eq!(append_to(&next, id, batches::plain(&["b"])).await.expect("appended").base_offset, Offset(1));
}

#[tokio::test]
async fn an_owner_that_does_not_know_yet_cannot_write_any_more() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    let ledger = desk.head(id);
    // Another owner has fenced the ledger; the view of this one has not heard of it.
    let fence = protocol::service::bookie::FenceLedger {
        member: desk.bookie().member(),
        ledger,
        key: desk.record(id).head.expect("written").ledger.key,
    };
    desk.bookie().service().fence_ledger(fence).await.expect("fenced");
    let unknown = desk.append(id, batches::plain(&["b"])).await;
    assert!(matches!(unknown, Err(AppendError::OutcomeUnknown { .. })), "{unknown:?}");
    // Metadata still says it is the owner, so it recovers its own ledger and goes on with a new one.
    assert_eq!(desk.write(id, &["c"]).await, 1);
    assert_ne!(desk.head(id), ledger);
}

#[tokio::test]
async fn a_restart_with_the_same_data_directory_takes_over_at_once() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a", "b"]).await;
    desk.bookie().faults().hold_answers();
    let in_flight = desk.broker.append(request(id, batches::plain(&["c"])));
    in_time("the add", desk.bookie().faults().wait_held(1)).await;
    // The process dies here: its answers never arrive, its entry may be stored.
    let again = desk.another(1).await;
    desk.bookie().faults().release_answers();
    desk.assign(id, &again).await;
    let appended = append_to(&again, id, batches::plain(&["d"])).await.expect("appended");
    assert_eq!(appended.base_offset, Offset(3), "the entry that was stored is part of the log");
    drop(in_flight);
    assert_eq!(bases(&fetch_from(&again, id, 0).await.expect("fetched")), [0, 2, 3]);
}

#[tokio::test]
async fn many_takeovers_keep_offsets_dense() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    let mut owner = desk.broker.clone();
    for round in 0..6 {
        for n in 0..3 {
            let appended = append_to(&owner, id, batches::plain(&["x"])).await.expect("appended");
            assert_eq!(appended.base_offset, Offset(round * 3 + n));
        }
        owner = desk.another(10 + round as i32).await;
        desk.assign(id, &owner).await;
    }
    desk.open(&owner, id).await;
    assert_eq!(bases(&fetch_from(&owner, id, 0).await.expect("fetched")), (0..18).collect::<Vec<_>>());
    assert_eq!(desk.closed(id).len(), 6);
}

#[tokio::test]
async fn a_takeover_without_a_head_reads_nothing_and_an_empty_head_is_given_up() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.bookie().faults().always(Some(Fault::Refuse(BookieError::Unavailable { reason: "away".into() })));
    desk.assign(id, &desk.broker).await;
    desk.open(&desk.broker, id).await;
    desk.bookie().faults().always(None);
    // The first write creates a ledger and fails: nothing was ever confirmed in it.
    desk.bookie().faults().lose_next_call();
    assert!(append_to(&desk.broker, id, batches::plain(&["a"])).await.is_err());
    let written = append_to(&desk.broker, id, batches::plain(&["a"])).await.expect("appended");
    assert_eq!(written.base_offset, Offset(0));
    assert_eq!((desk.closed(id).len(), desk.dead().len()), (0, 1));
}

#[tokio::test]
async fn a_takeover_waits_for_bookies_that_cannot_tell() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    desk.bookie().faults().always(Some(Fault::Refuse(BookieError::Unknown { reason: "limbo".into() })));
    let next = desk.another(2).await;
    desk.assign(id, &next).await;
    let refused = next.append(request(id, batches::plain(&["b"]))).await;
    assert_eq!(refused, Err(NotServed::Opening.into()));
    assert!(!next.is_ready());
    desk.bookie().faults().always(None);
    assert_eq!(append_to(&next, id, batches::plain(&["b"])).await.expect("appended").base_offset, Offset(1));
    assert!(next.is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_reads_from_the_last_checkpoint_on() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("max.message.bytes", "5000000")]).await;
    let value = "x".repeat(4 * 1024 * 1024);
    for n in 0..20 {
        let batch = BatchBuilder::new().producer(8, 0, n).value(&value).build();
        desk.append(id, batch).await.expect("appended");
    }
    let head = desk.head(id);
    let entries = desk.bookie().entries(head).len();
    assert_eq!(entries, 22, "20 entries of records, one snapshot, one index");
    // What lies before the checkpoint is not needed, so its loss is not noticed here.
    for entry in 0..10 {
        desk.bookie().forget(head, protocol::id::EntryId(entry));
    }
    let next = desk.another(2).await;
    desk.assign(id, &next).await;
    let retry = BatchBuilder::new().producer(8, 0, 15).value(&value).build();
    assert_eq!(append_to(&next, id, retry).await.expect("recognized").base_offset, Offset(15));
    let lost = fetch_from(&next, id, 3).await;
    assert!(lost.is_err(), "lost entries are an error");
    assert_eq!(bases(&fetch_from(&next, id, 19).await.expect("fetched")), [19]);
}

#[tokio::test]
async fn a_roll_that_meets_a_new_owner_changes_nothing() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[("segment.bytes", "100")]).await;
    desk.write(id, &["a"]).await;
    let next = desk.another(2).await;
    let record = desk.record(id).assigned(Some(next.registered.borrow().owner));
    // The record changes; whether the old owner's roll or the view comes first does not matter.
    desk.metadata.put(protocol::model::key::partition(id), &record);
    let outcome = desk.append(id, batches::plain(&["b"])).await;
    let after: PartitionRecord = desk.record(id);
    assert_eq!((after.epoch, after.owner), (record.epoch, record.owner));
    let base = i64::from(outcome.is_ok());
    eventually("the old owner to stop", || desk.broker.partition(id).is_err()).await;
    let appended = append_to(&next, id, batches::plain(&["c"])).await.expect("appended");
    assert!(appended.base_offset.0 > base, "acknowledged records are never overwritten");
}

#[tokio::test]
async fn storage_that_lost_acknowledged_records_stops_the_partition_instead_of_shortening_it() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    for value in ["a", "b", "c"] {
        desk.write(id, &[value]).await;
    }
    let head = desk.head(id);
    desk.bookie().forget(head, protocol::id::EntryId(2));
    desk.bookie().faults().push(Fault::Refuse(BookieError::Storage { reason: "disk".into() }));
    assert!(desk.append(id, batches::plain(&["d"])).await.is_err());
    eventually("the recovery to begin", || desk.bookie().is_fenced(head)).await;
    for _ in 0..20 {
        let refused = desk.broker.append(request(id, batches::plain(&["e"]))).await;
        assert_eq!(refused, Err(NotServed::Opening.into()));
        tokio::task::yield_now().await;
    }
    assert_eq!(desk.fetch(id, 0).await.expect("reads go on").high_watermark, Offset(3));
    assert_eq!(desk.head(id), head, "the ledger is not closed short");
}

#[tokio::test]
async fn a_head_that_can_never_be_fenced_waits_for_an_operators_word() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    desk.write(id, &["a"]).await;
    let head = desk.head(id);
    desk.bookies.insert(FakeBookie::numbered(1));
    desk.bookies.set_reachable(0, false);
    let next = desk.another(2).await;
    desk.assign(id, &next).await;
    let refused = next.append(request(id, batches::plain(&["b"]))).await;
    assert_eq!(refused, Err(NotServed::Opening.into()));
    assert_eq!(desk.head(id), head);
    let held = desk.metadata.peek(&key::partition(id)).expect("the partition exists");
    let list = ListState::new(id, &held, &[]).expect("a list");
    let change = list.give_up(head, None, Timestamp(1)).expect("it is the head");
    let (conditions, operations) = list.transaction(&change);
    desk.metadata.service().transact(Transaction { conditions, operations, request: None }).await.expect("written");
    let appended = append_to(&next, id, batches::plain(&["b"])).await.expect("appended");
    assert_eq!((appended.base_offset, appended.epoch), (Offset(0), LeaderEpoch(2)));
    assert_eq!(desk.dead().iter().map(|dead| dead.ledger).collect::<Vec<_>>(), [head]);
}

/// Rule L4: the transaction that installed a head took effect, and nobody heard of it.
#[tokio::test]
async fn a_head_that_was_created_unheard_is_recovered_and_the_log_goes_on() {
    let desk = Desk::start().await;
    let id = desk.topic("orders", &[]).await;
    let ensemble = vec![desk.bookies.live()[0].member];
    let unheard = LedgerMetadata::open(LedgerId(4711), LedgerKey(1), Quorum::SINGLE, ensemble, Timestamp(0));
    let mut record = desk.record(id);
    record.head = Some(HeadLedger { ledger: unheard, base_offset: record.closed_end, epoch: record.epoch });
    desk.metadata.put(key::partition(id), &record);
    let refused = desk.append(id, batches::plain(&["a"])).await;
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "nothing happened: try again: {refused:?}");
    assert_eq!(desk.write(id, &["a"]).await, 0);
    assert_ne!(desk.head(id), LedgerId(4711));
    assert_eq!(desk.bases(id, 0).await, [0]);
}
