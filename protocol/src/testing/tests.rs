//! The switches of the fakes do what they say; what the fakes do without them is the conformance suites' matter.

use super::*;
use crate::{
    id::{EntryId, LeaderEpoch, LedgerId, LedgerKey, NodeId, Offset, Revision},
    ledger::metadata::BookieMember,
    model::BookieState,
    runtime::Clock,
    service::{
        bookie::{BookieError, BookieService, FenceLedger, ReadEntries},
        broker::{Append, AppendError, BrokerService, NotServed, Origin},
        directory::BookieDirectory,
        metadata::{Change, Condition, Consistency, MetadataError, MetadataService, Operation, Outcome, Transaction},
    },
    topic::PartitionId,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use std::time::Duration;

fn put(key: &str) -> Transaction {
    let operations = vec![Operation::Put { key: key.into(), value: Bytes::new(), session: None }];
    Transaction { operations, ..Transaction::default() }
}

#[tokio::test]
async fn faults_are_met_in_call_order() {
    let fake = FakeMetadata::new();
    let unavailable = MetadataError::Unavailable { reason: "maintenance".into() };
    fake.fail_next(unavailable.clone());
    fake.faults().lose_next_answer();
    fake.faults().lose_next_call();
    fake.faults().hang_next();
    assert_eq!(fake.transact(put("refused")).await, Err(unavailable.clone()));
    assert!(matches!(fake.transact(put("lost answer")).await, Err(MetadataError::OutcomeUnknown { .. })));
    assert!(matches!(fake.transact(put("lost call")).await, Err(MetadataError::OutcomeUnknown { .. })));
    assert!(fake.transact(put("hung")).now_or_never().is_none());
    let keys: Vec<_> = fake.peek_all("").into_iter().map(|item| item.key).collect();
    assert_eq!(keys, ["lost answer"], "only the answer was lost");
    fake.faults().always(Some(Fault::Refuse(unavailable.clone())));
    for _ in 0..3 {
        assert_eq!(fake.get("x".into(), Consistency::Stale).await, Err(unavailable.clone()));
    }
    fake.faults().always(None);
    assert!(fake.transact(put("fine")).await.is_ok());
}

#[tokio::test]
async fn held_answers_belong_to_calls_that_happened() {
    let fake = FakeMetadata::new();
    fake.faults().hold_answers();
    let mut answer = fake.transact(put("held"));
    fake.faults().wait_held(1).await;
    assert!(fake.peek("held").is_some());
    assert!((&mut answer).now_or_never().is_none());
    fake.faults().release_answers();
    assert!(matches!(answer.await, Ok(Outcome::Committed { .. })));
}

#[tokio::test]
async fn watches_end_when_the_test_says_so() {
    let fake = FakeMetadata::new();
    let mut watch = fake.watch(String::new(), Revision(0)).await.expect("watches");
    fake.transact(put("a")).await.expect("commits");
    assert!(matches!(watch.next().await, Some(Ok(_))));
    fake.end_watches();
    assert!(matches!(watch.next().await, Some(Err(MetadataError::Unavailable { .. }))));
    assert!(watch.next().await.is_none(), "an error is the last thing a watch says");
    fake.compact();
    let late = fake.watch(String::new(), Revision(0)).await.err();
    assert_eq!(late, Some(MetadataError::Compacted { asked: Revision(0), oldest: Revision(1) }));
    assert!(fake.watch(String::new(), Revision(1)).await.is_ok());
}

#[tokio::test]
async fn sessions_expire_when_the_test_says_so() {
    let fake = FakeMetadata::new();
    let session = fake.open_session(Duration::from_secs(1)).await.expect("opens");
    let operations = vec![Operation::Put { key: "e".into(), value: Bytes::new(), session: Some(session) }];
    fake.transact(Transaction { operations, ..Transaction::default() }).await.expect("commits");
    let mut watch = fake.watch(String::new(), fake.revision()).await.expect("watches");
    fake.expire(session);
    let event = watch.next().await.expect("goes on").expect("no error");
    assert_eq!(event.changes, [Change::Deleted("e".into())]);
    assert!(fake.sessions().is_empty());
    let conditions = vec![Condition::Session(session)];
    let outcome = fake.transact(Transaction { conditions, ..put("x") }).await;
    assert_eq!(outcome, Ok(Outcome::Conflict { condition: 0, current: None }));
}

#[tokio::test]
async fn a_bookie_in_limbo_denies_nothing() {
    let fake = FakeBookie::numbered(1);
    let read = ReadEntries {
        member: fake.member(),
        ledger: LedgerId(1),
        first: EntryId(0),
        max_count: 1,
        max_bytes: 1,
        fence: None,
    };
    fake.set_limbo(Some("lost its disk"));
    let unknown = fake.read_entries(read.clone()).await.map(drop);
    assert_eq!(unknown, Err(BookieError::Unknown { reason: "lost its disk".into() }));
    fake.set_limbo(None);
    assert_eq!(fake.read_entries(read).await.map(drop), Err(BookieError::NoSuchLedger(LedgerId(1))));
}

#[tokio::test]
async fn an_unreachable_bookie_is_not_listed() {
    let directory = FakeDirectory::of(2);
    let member: BookieMember = directory.fake(1).member();
    directory.set_reachable(1, false);
    directory.set_state(0, BookieState::ReadOnly);
    let live: Vec<_> = directory.live().into_iter().map(|record| (record.member.id.0, record.state)).collect();
    assert_eq!(live, [(0, BookieState::ReadOnly)]);
    let fence = FenceLedger { member, ledger: LedgerId(1), key: LedgerKey(1) };
    let refused = directory.bookie(member).fence_ledger(fence.clone()).await;
    assert!(matches!(refused, Err(BookieError::Unavailable { .. })), "{refused:?}");
    directory.set_reachable(1, true);
    assert!(directory.bookie(member).fence_ledger(fence).await.is_ok());
}

fn append(partition: PartitionId) -> Append {
    Append { partition, batches: batches::plain(&["a"]), epoch: None, origin: Origin::Client }
}

#[tokio::test]
async fn a_log_outlives_its_owner() {
    let cluster = FakeCluster::new(2);
    let topic = cluster.create_topic("orders", 2);
    let p = cluster.partition("orders", 0);
    assert_eq!(p.topic, topic);
    let (first, second) = (cluster.broker(0), cluster.broker(1));
    assert_eq!(first.append(append(p)).await.map(|a| a.base_offset), Ok(Offset(0)));
    let epoch = cluster.assign(p, Some(1));
    assert_eq!(epoch, LeaderEpoch(1));
    let not_owner = NotServed::NotOwner { owner: Some(NodeId(1)), epoch };
    assert_eq!(first.append(append(p)).await, Err(AppendError::NotServed(not_owner)));
    assert_eq!(second.append(append(p)).await.map(|a| (a.base_offset, a.epoch)), Ok((Offset(1), epoch)));
    assert_eq!(cluster.view().snapshot().owner(p).map(|node| node.node), Some(NodeId(1)), "the view follows");
    assert_eq!((cluster.log(p).len(), second.appends().len()), (2, 1));
    cluster.set_opening(p, true);
    assert_eq!(second.append(append(p)).await, Err(AppendError::NotServed(NotServed::Opening)));
    cluster.set_opening(p, false);
    cluster.remove_node(1);
    assert!(cluster.view().snapshot().owner(p).is_none());
    assert!(cluster.directory().broker(NodeId(7)).is_none());
}

#[test]
fn the_clock_stands_still() {
    let clock = ManualClock::default();
    let (start, wall) = (clock.monotonic(), clock.wall());
    clock.advance(Duration::from_secs(2));
    assert_eq!((clock.monotonic() - start, clock.wall().0 - wall.0), (Duration::from_secs(2), 2000));
    clock.set_wall(wall);
    assert_eq!((clock.monotonic() - start, clock.wall()), (Duration::from_secs(2), wall));
}
