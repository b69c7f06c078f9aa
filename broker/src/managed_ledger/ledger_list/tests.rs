//! The list on a fake metadata service: every change is one transaction under the owner's epoch.

use super::*;
use protocol::{
    id::{BookieId, EntryId, Incarnation, LedgerKey, Registration},
    ledger::{
        metadata::{BookieMember, LedgerState},
        quorum::Quorum,
    },
    model::{ClosedPage, DeadLedger, PAGE_LEDGERS},
    service::metadata::Transaction,
    testing::FakeMetadata,
    topic::TopicId,
};
use uuid::Uuid;

const ME: Owner = Owner { node: NodeId(1), registration: Registration(7) };
const NOW: Timestamp = Timestamp(50);

fn id() -> PartitionId {
    PartitionId { topic: TopicId(Uuid::from_u128(3)), index: 4 }
}

async fn list(metadata: &FakeMetadata) -> Result<LedgerList, ListError> {
    let client = Arc::new(MetadataClient::new(metadata.service()));
    LedgerList::load(client, id(), ME, LeaderEpoch(0)).await
}

async fn fresh() -> (FakeMetadata, LedgerList) {
    let metadata = FakeMetadata::new();
    metadata.put(key::partition(id()), &PartitionRecord::new(Some(ME)));
    let list = list(&metadata).await.expect("loads");
    (metadata, list)
}

fn head(ledger: u64, base: i64) -> HeadLedger {
    let member = BookieMember { id: BookieId(0), incarnation: Incarnation(1) };
    let ledger = LedgerMetadata::open(LedgerId(ledger), LedgerKey(1), Quorum::SINGLE, vec![member], NOW);
    HeadLedger { ledger, base_offset: Offset(base), epoch: LeaderEpoch(0) }
}

fn closed(head: &HeadLedger, end: i64) -> ClosedLedger {
    let mut ledger = head.ledger.clone();
    ledger.state = LedgerState::Closed { last_entry: Some(EntryId(0)), length: 10 };
    ClosedLedger {
        ledger,
        epoch: head.epoch,
        base_offset: head.base_offset,
        end_offset: Offset(end),
        max_timestamp: Timestamp(end),
        last_index: None,
        closed_at: NOW,
    }
}

/// Writes `count` closed ledgers of ten offsets each.
async fn fill(list: &LedgerList, count: u64) {
    for n in 0..count {
        let head = head(n, n as i64 * 10);
        list.install_head(&head).await.expect("installed");
        let closed = closed(&head, n as i64 * 10 + 10);
        list.close_head(head.ledger.id, Some(&closed), None, NOW).await.expect("closed");
    }
}

fn stored(metadata: &FakeMetadata) -> PartitionRecord {
    decode(&metadata.peek(&key::partition(id())).expect("there").value).expect("a record")
}

#[tokio::test]
async fn a_roll_closes_and_installs_in_one_transaction() {
    let (metadata, list) = fresh().await;
    let (first, second) = (head(1, 0), head(2, 10));
    list.install_head(&first).await.expect("installed");
    let before = metadata.revision();
    list.close_head(first.ledger.id, Some(&closed(&first, 10)), Some(&second), NOW).await.expect("rolled");
    assert_eq!(metadata.revision().0, before.0 + 1);
    let record = stored(&metadata);
    assert_eq!((record.head, record.closed_end), (Some(second), Offset(10)));
    assert_eq!((record.first_page, record.end_page), (0, 1));
    let view = list.view();
    assert_eq!((view.closed.len(), view.closed_end, view.bytes()), (1, Offset(10), 10));
    assert!(view.ledger_at(Offset(9)).is_some() && view.ledger_at(Offset(10)).is_none());
}

#[tokio::test]
async fn a_head_never_takes_the_place_of_one_that_is_not_closed() {
    let (_metadata, list) = fresh().await;
    list.install_head(&head(1, 0)).await.expect("installed");
    assert_eq!(list.install_head(&head(1, 0)).await, Ok(()), "the same one again is no change");
    assert_eq!(list.install_head(&head(2, 0)).await, Err(ListError::Unclosed(LedgerId(1))));
}

#[tokio::test]
async fn pages_fill_up_and_empty_from_the_front() {
    let (metadata, list) = fresh().await;
    let count = PAGE_LEDGERS as u64 + 20;
    fill(&list, count).await;
    assert_eq!((stored(&metadata).first_page, stored(&metadata).end_page), (0, 2));
    list.drop_front(PAGE_LEDGERS + 5, NOW).await.expect("dropped");
    let record = stored(&metadata);
    assert_eq!((record.first_page, record.end_page), (1, 2));
    assert_eq!(record.log_start, Offset((PAGE_LEDGERS as i64 + 5) * 10));
    assert_eq!(metadata.peek_all(prefix::DEAD).len(), PAGE_LEDGERS + 5);
    assert_eq!(metadata.peek_all(&prefix::closed_of(id())).len(), 1);
    let again = self::list(&metadata).await.expect("loads");
    assert_eq!(again.view().closed, list.view().closed);
    assert_eq!(again.view().closed.len(), 15);
}

#[tokio::test]
async fn an_emptied_list_goes_on_with_fresh_pages() {
    let (metadata, list) = fresh().await;
    fill(&list, 3).await;
    list.drop_front(3, NOW).await.expect("dropped");
    let record = stored(&metadata);
    assert_eq!((record.first_page, record.end_page, record.log_start), (1, 1, Offset(30)));
    let next = head(9, 30);
    list.install_head(&next).await.expect("installed");
    list.close_head(next.ledger.id, Some(&closed(&next, 31)), None, NOW).await.expect("closed");
    let again = self::list(&metadata).await.expect("loads");
    assert_eq!((again.view().closed.len(), again.view().closed_end), (1, Offset(31)));
}

#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let (metadata, list) = fresh().await;
    metadata.faults().lose_next_answer();
    list.install_head(&head(1, 0)).await.expect("installed");
    let head = head(1, 0);
    metadata.faults().lose_next_call();
    list.close_head(head.ledger.id, Some(&closed(&head, 10)), None, NOW).await.expect("closed");
    assert_eq!(list.view().closed.len(), 1);
    // Closed already: the same call again changes nothing.
    let revision = metadata.revision();
    list.close_head(head.ledger.id, Some(&closed(&head, 10)), None, NOW).await.expect("no change");
    assert_eq!(metadata.revision(), revision);
}

#[tokio::test]
async fn a_new_epoch_stops_every_change() {
    let (metadata, list) = fresh().await;
    let first = head(1, 0);
    list.install_head(&first).await.expect("installed");
    let other = Owner { node: NodeId(2), registration: Registration(8) };
    let taken = stored(&metadata).assigned(Some(other));
    metadata.put(key::partition(id()), &taken);
    let lost = Err(ListError::Lost { owner: Some(NodeId(2)), epoch: LeaderEpoch(1) });
    assert_eq!(list.close_head(first.ledger.id, Some(&closed(&first, 10)), None, NOW).await, lost);
    assert_eq!(list.move_log_start(Offset(5)).await, lost);
    let store = HeadStore(Arc::new(list));
    let changed = LedgerMetadata { wanted_write: 3, ..first.ledger.clone() };
    let replaced = store.replace(first.ledger.clone(), changed).await;
    assert_eq!(replaced, Err(ReplaceError::Lost));
    assert_eq!(stored(&metadata), taken);
    assert!(matches!(self::list(&metadata).await, Err(ListError::Lost { .. })));
}

#[tokio::test]
async fn a_change_of_the_ensemble_is_compared_with_what_it_expects() {
    let (metadata, list) = fresh().await;
    let first = head(1, 0);
    list.install_head(&first).await.expect("installed");
    let mut changed = first.ledger.clone();
    changed.wanted_write = 3;
    let list = Arc::new(list);
    let store = HeadStore(Arc::clone(&list));
    assert_eq!(store.replace(first.ledger.clone(), changed.clone()).await, Ok(()));
    assert_eq!(store.replace(first.ledger.clone(), changed.clone()).await, Ok(()), "the same again");
    assert_eq!(stored(&metadata).head.map(|h| h.ledger), Some(changed.clone()));
    let mut other = first.ledger.clone();
    other.wanted_write = 5;
    assert_eq!(store.replace(first.ledger, other.clone()).await, Err(ReplaceError::Lost));
    list.mark_recovering().await.expect("marked");
    assert_eq!(store.replace(changed, other).await, Err(ReplaceError::Lost), "its writer has lost it");
}

/// Gives up the head as an operator does.
async fn give_up(metadata: &FakeMetadata, head: &HeadLedger, remnant: Option<&LedgerMetadata>) {
    let held = metadata.peek(&key::partition(id())).expect("there");
    let list = ListState::new(id(), &held, &[]).expect("a list");
    let change = list.give_up(head.ledger.id, remnant, NOW).expect("it is the head");
    assert!(list.give_up(LedgerId(99), remnant, NOW).is_none(), "another ledger is not the head");
    let (conditions, operations) = list.transaction(&change);
    let written = metadata.service().transact(Transaction { conditions, operations, request: None }).await;
    assert!(matches!(written, Ok(Outcome::Committed { .. })), "{written:?}");
}

#[tokio::test]
async fn what_an_operator_gives_up_takes_the_epoch_along() {
    let (metadata, list) = fresh().await;
    let first = head(1, 0);
    list.install_head(&first).await.expect("installed");
    let left = LedgerMetadata { is_remnant: true, ..first.ledger.clone() };
    give_up(&metadata, &first, Some(&left)).await;
    let record = stored(&metadata);
    assert_eq!((record.epoch, record.owner), (LeaderEpoch(1), Some(ME)));
    assert_eq!(record.head, Some(HeadLedger { ledger: left, ..first.clone() }));
    let lost = Err(ListError::Lost { owner: Some(ME.node), epoch: LeaderEpoch(1) });
    assert_eq!(list.close_head(first.ledger.id, None, None, NOW).await, lost, "nobody goes on as before");
    give_up(&metadata, &first, None).await;
    let record = stored(&metadata);
    assert_eq!((record.epoch, record.head, record.closed_end), (LeaderEpoch(2), None, Offset(0)));
    let dead: DeadLedger = decode(&metadata.peek(&key::dead(first.ledger.id)).expect("noted").value).expect("dead");
    assert_eq!(dead.held_by, first.ledger.fragments[0].ensemble, "who holds a part of it deletes it");
}

/// Adds a member to every closed ledger, as a repair does: the page alone is rewritten.
fn repair(metadata: &FakeMetadata, bookie: u32) {
    for item in metadata.peek_all(&prefix::closed_of(id())) {
        let mut page: ClosedPage = decode(&item.value).expect("a page");
        let member = BookieMember { id: BookieId(bookie), incarnation: Incarnation(1) };
        page.ledgers.iter_mut().for_each(|l| l.ledger.fragments[0].ensemble.push(member));
        metadata.put(item.key, &page);
    }
}

#[tokio::test]
async fn what_a_repair_wrote_is_kept_by_every_change() {
    let (metadata, list) = fresh().await;
    fill(&list, 3).await;
    repair(&metadata, 8);
    let next = head(7, 30);
    list.install_head(&next).await.expect("the record alone is changed");
    list.close_head(next.ledger.id, Some(&closed(&next, 40)), None, NOW).await.expect("closed beside the repair");
    let members = |list: &LedgerList| list.view().closed.iter().map(|l| l.ledger.fragments[0].ensemble.len()).collect();
    let (shown, again): (Vec<usize>, LedgerList) = (members(&list), self::list(&metadata).await.expect("loads"));
    assert_eq!((shown, members(&again)), (vec![2, 2, 2, 1], vec![2, 2, 2, 1]));
    repair(&metadata, 9);
    list.drop_front(2, NOW).await.expect("dropped beside the repair");
    let dead: Vec<DeadLedger> =
        metadata.peek_all(prefix::DEAD).iter().map(|d| decode(&d.value).expect("dead")).collect();
    assert_eq!(dead.iter().map(|d| d.held_by.len()).collect::<Vec<_>>(), [3, 3], "also who holds repaired copies");
    assert_eq!(members(&list), [3, 2]);
}

#[tokio::test]
async fn a_refresh_shows_repairs_and_is_shared_by_those_who_ask_at_once() {
    let (metadata, list) = fresh().await;
    fill(&list, 1).await;
    let seen = list.view();
    for bookie in 5..8 {
        repair(&metadata, bookie);
        let before = list.view();
        let fresh = list.refresh(&before).await.expect("read again");
        assert_eq!(fresh.closed[0].ledger.fragments[0].ensemble.len(), bookie as usize - 3);
    }
    let calls = metadata.revision();
    repair(&metadata, 8);
    let later = list.refresh(&seen).await.expect("someone else has read it");
    assert_eq!(later.closed[0].ledger.fragments[0].ensemble.len(), 4, "seen is older than what there is");
    assert!(metadata.revision() > calls);
    let other = Owner { node: NodeId(2), registration: Registration(8) };
    metadata.put(key::partition(id()), &stored(&metadata).assigned(Some(other)));
    let lost = list.refresh(&list.view()).await.map(drop);
    assert_eq!(lost, Err(ListError::Lost { owner: Some(NodeId(2)), epoch: LeaderEpoch(1) }));
}
