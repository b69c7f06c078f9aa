//! Deletion by record: what is deleted, what is not, and who takes the record away.

use super::*;
use parking_lot::Mutex;
use protocol::{
    id::{BookieId, EntryId, Incarnation, Lac, LedgerKey, Timestamp},
    ledger::entry::{SEAL_LEN, SealedEntry},
    service::bookie::AddEntry,
    testing::{FakeBookie, FakeMetadata},
};

fn member(id: u32, incarnation: u64) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(incarnation) }
}

struct World {
    metadata: FakeMetadata,
    bookie: FakeBookie,
    reclaimed: Arc<Mutex<Vec<LedgerId>>>,
}

impl World {
    async fn new() -> Self {
        let bookie = FakeBookie::new(member(1, 3));
        for ledger in 1..=5 {
            let entry =
                SealedEntry::seal(bytes::BytesMut::zeroed(SEAL_LEN + 5), LedgerId(ledger), EntryId(0), Lac::NONE, 5);
            let add = AddEntry { member: bookie.member(), key: LedgerKey(1), recovery: false, entry };
            bookie.service().add_entry(add).await.expect("stored");
        }
        Self { metadata: FakeMetadata::new(), bookie, reclaimed: Arc::default() }
    }

    fn start(&self) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let stopping = CancellationToken::new();
        let reclaimed = Arc::clone(&self.reclaimed);
        let reclaim: Reclaim = Arc::new(move |ledgers| {
            reclaimed.lock().extend(ledgers);
            Box::pin(std::future::ready(()))
        });
        let collector = Collector {
            metadata: self.metadata.service(),
            bookie: self.bookie.service(),
            member: self.bookie.member(),
            reclaim,
        };
        (stopping.clone(), tokio::spawn(collector.run(stopping)))
    }

    fn dead(&self, ledger: u64, held_by: &[BookieMember]) {
        let record = DeadLedger { ledger: LedgerId(ledger), held_by: held_by.to_vec(), since: Timestamp(0) };
        self.metadata.put(key::dead(LedgerId(ledger)), &record);
    }

    fn record(&self, ledger: u64) -> Option<DeadLedger> {
        self.metadata.peek(&key::dead(LedgerId(ledger))).map(|item| decode(&item.value).expect("a record"))
    }

    async fn until(&self, what: &str, wanted: impl Fn() -> bool) {
        let look = async {
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            while !wanted() {
                tick.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), look).await.unwrap_or_else(|_| panic!("{what}"));
    }
}

#[tokio::test]
async fn only_records_that_name_this_bookie_delete_anything() {
    let world = World::new().await;
    let me = world.bookie.member();
    world.dead(1, &[me]);
    world.dead(2, &[me, member(2, 9)]);
    world.dead(3, &[member(2, 9)]);
    world.dead(9, &[me]);
    let (stopping, task) = world.start();
    world.until("records", || world.record(1).is_none() && world.record(9).is_none()).await;
    world.until("shared record", || world.record(2).is_some_and(|r| r.held_by == [member(2, 9)])).await;
    // From the watch, after the list; an earlier life of this bookie counts as this one, a later one does not.
    world.dead(4, &[member(1, 2)]);
    world.until("watched", || world.record(4).is_none()).await;
    world.dead(5, &[member(1, 4)]);
    world.dead(10, &[me]);
    world.until("the last", || world.record(10).is_none()).await;
    let deleted = |id| world.bookie.is_deleted(LedgerId(id));
    assert_eq!([1, 2, 3, 4, 5].map(deleted), [true, true, false, true, false]);
    assert!(deleted(9), "also a ledger it never heard of: a late add must stay refused");
    assert!(world.record(5).is_some() && world.record(3).is_some());
    let mut reclaimed = world.reclaimed.lock().clone();
    reclaimed.sort();
    assert_eq!(reclaimed, [1, 2, 4, 9, 10].map(LedgerId));
    stopping.cancel();
    task.await.expect("ends");
}

#[tokio::test]
async fn a_lost_answer_and_a_conflict_end_in_the_same_record() {
    let world = World::new().await;
    let me = world.bookie.member();
    world.dead(1, &[me, member(2, 9)]);
    // The list passes, the compare-and-swap happens and its answer is lost.
    world.metadata.faults().push(protocol::testing::Fault::Pass);
    world.metadata.faults().lose_next_answer();
    let (stopping, task) = world.start();
    world.until("signed off", || world.record(1).is_some_and(|r| r.held_by == [member(2, 9)])).await;
    stopping.cancel();
    task.await.expect("ends");
    assert!(world.bookie.is_deleted(LedgerId(1)));
}

#[tokio::test]
async fn a_failure_is_tried_again() {
    let world = World::new().await;
    world.dead(1, &[world.bookie.member()]);
    world.bookie.faults().fail_next(protocol::service::bookie::BookieError::Unavailable { reason: "busy".into() });
    let (stopping, task) = world.start();
    world.until("deleted in the end", || world.record(1).is_none()).await;
    stopping.cancel();
    task.await.expect("ends");
}
