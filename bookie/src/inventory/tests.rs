//! Listings of what a bookie holds; and a small cluster in metadata for the tests of healing and scrubbing.

use super::*;
use bytes::Bytes;
use protocol::{
    id::{BookieId, Incarnation, LeaderEpoch, LedgerKey, Offset, Timestamp},
    ledger::{metadata::Fragment, quorum::Quorum},
    model::{ClosedLedger, Cookie, HeadLedger},
    service::metadata::{Operation, Transaction},
    testing::FakeMetadata,
    topic::TopicId,
};
use uuid::Uuid;

/// The partition that owns every ledger of these tests.
pub(crate) const PARTITION: PartitionId = PartitionId { topic: TopicId(Uuid::from_u128(7)), index: 0 };

/// The bookie `id` in its first life.
pub(crate) const fn member(id: u32) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
}

/// Makes metadata know `member`.
pub(crate) fn register(metadata: &FakeMetadata, member: BookieMember) {
    let (cluster_id, instance) = ("cluster".into(), Uuid::from_u128(1));
    let cookie = Cookie { cluster_id, bookie: member.id, incarnation: member.incarnation, instance };
    metadata.put(key::cookie(member.id), &cookie);
}

/// This many ledgers began at some time.
pub(crate) async fn issue_ledgers(metadata: &FakeMetadata, count: u64) {
    let take = Operation::Sequence { name: Sequence::Ledger.name().into(), count };
    let take = Transaction { operations: vec![take], ..Transaction::default() };
    metadata.service().transact(take).await.expect("issued");
}

/// A ledger of fragments that begin at these entries, held by these members.
pub(crate) fn ledger(id: u64, fragments: &[(u64, &[BookieMember])], state: LedgerState) -> LedgerMetadata {
    let key = LedgerKey(77);
    let first = fragments.first().expect("a fragment").1;
    let quorum = Quorum::of_replication(first.len() as u8, 1).expect("a quorum");
    let mut ledger = LedgerMetadata::open(LedgerId(id), key, quorum, first.to_vec(), Timestamp(0));
    let fragment = |(first, members): &(u64, &[BookieMember])| Fragment {
        first_entry: EntryId(*first),
        ensemble: members.to_vec(),
    };
    ledger.fragments = fragments.iter().map(fragment).collect();
    ledger.state = state;
    ledger
}

/// The state of a ledger that ended with `last`.
pub(crate) fn closed(last: u64) -> LedgerState {
    LedgerState::Closed { last_entry: Some(EntryId(last)), length: last * 10 }
}

/// Makes these ledgers the log of [`PARTITION`]: all that are closed on one page, and perhaps a head.
pub(crate) fn publish(metadata: &FakeMetadata, ledgers: Vec<LedgerMetadata>) {
    let (closed, open): (Vec<_>, Vec<_>) = ledgers.into_iter().partition(LedgerMetadata::is_closed);
    let (epoch, base_offset) = (LeaderEpoch(0), Offset(0));
    let closed = closed.into_iter().map(|ledger| ClosedLedger {
        ledger,
        epoch,
        base_offset,
        end_offset: Offset(1),
        max_timestamp: Timestamp(-1),
        last_index: None,
        closed_at: Timestamp(0),
    });
    metadata.put(key::closed_page(PARTITION, 0), &ClosedPage { ledgers: closed.collect() });
    let head = open.into_iter().next().map(|ledger| HeadLedger { ledger, base_offset, epoch });
    metadata.put(key::partition(PARTITION), &PartitionRecord { head, end_page: 1, ..PartitionRecord::new(None) });
}

const US: BookieMember = member(1);

#[test]
fn wanted_are_our_fragments_up_to_the_last_entry() {
    let (other, both) = (&[member(2)][..], &[US, member(2)][..]);
    let wanted = |fragments: &[(u64, &[BookieMember])], state| {
        Listed { partition: PARTITION, page: Some(0), ledger: ledger(1, fragments, state) }.wanted(US)
    };
    assert_eq!(wanted(&[(0, both)], closed(9)), [0..=9]);
    assert_eq!(wanted(&[(0, both), (4, other), (7, both)], closed(9)), [0..=3, 7..=9]);
    assert_eq!(wanted(&[(0, both), (4, both)], closed(3)), [0..=3], "a last fragment without entries");
    assert_eq!(wanted(&[(0, both), (0, both)], closed(3)), [0..=3], "a first fragment without entries");
    assert!(wanted(&[(0, both)], LedgerState::Closed { last_entry: None, length: 0 }).is_empty());
    assert!(wanted(&[(0, both)], LedgerState::Open).is_empty());
}

#[tokio::test]
async fn heads_and_closed_ledgers_that_name_us_are_listed() {
    let metadata = FakeMetadata::new();
    let (ours, other) = (&[US][..], &[member(2)][..]);
    let later = BookieMember { incarnation: Incarnation(2), ..US };
    publish(
        &metadata,
        vec![
            ledger(1, &[(0, ours)], closed(3)),
            ledger(2, &[(0, other)], closed(3)),
            ledger(3, &[(0, other), (2, ours)], closed(3)),
            ledger(4, &[(0, &[later])], closed(3)),
            ledger(5, &[(0, ours)], LedgerState::Open),
        ],
    );
    let service = metadata.service();
    assert_eq!(list(&service, US).await, Err(InventoryError::Outlived), "metadata that was emptied proves nothing");
    register(&metadata, US);
    let found = list(&service, US).await.expect("listed");
    assert_eq!(found.keys().map(|id| id.0).collect::<Vec<_>>(), [1, 3, 5]);
    assert!(found[&LedgerId(5)].is_head() && found[&LedgerId(1)].page == Some(0));
    for (id, there) in [(1, true), (2, false), (5, true), (9, false)] {
        let looked = look(&service, US, PARTITION, LedgerId(id)).await.expect("looked");
        assert_eq!(looked.is_some(), there, "ledger {id}");
    }
    register(&metadata, later);
    assert_eq!(list(&service, US).await, Err(InventoryError::Outlived));
}

#[tokio::test]
async fn a_page_that_cannot_be_read_is_no_absence() {
    let metadata = FakeMetadata::new();
    register(&metadata, US);
    let key = key::closed_page(PARTITION, 3);
    let put = Operation::Put { key, value: Bytes::from_static(b"\xff"), session: None };
    metadata
        .service()
        .transact(Transaction { operations: vec![put], ..Transaction::default() })
        .await
        .expect("written");
    assert!(matches!(list(&metadata.service(), US).await, Err(InventoryError::Unreadable { .. })));
    assert!(matches!(
        look(&metadata.service(), US, PARTITION, LedgerId(1)).await,
        Err(InventoryError::Unreadable { .. })
    ));
}
