//! Planted damage: found, healed, or told.

use super::*;
use crate::{
    inventory::tests::{PARTITION, closed, ledger, member, publish, register},
    ledger::KnownLedger,
    rig::{KEY, MEMBER, Rig},
    store::{
        EntryStore, Write,
        conformance::{batch_of, entry},
        memory::MemoryStore,
    },
};
use protocol::{
    id::{Lac, Timestamp},
    ledger::metadata::Hole,
    model::{ClosedPage, decode},
    runtime::SystemClock,
    service::{bookie::AddEntry, directory::BookieDirectory},
    testing::{FakeBookie, FakeDirectory, FakeMetadata},
};

const US: BookieMember = MEMBER;

struct World {
    metadata: FakeMetadata,
    peers: Arc<FakeDirectory>,
    disk: Arc<MemoryStore>,
    rig: Rig,
    _directory: Arc<dyn BookieDirectory>,
}

impl World {
    /// Ten entries in each of the closed ledgers 1 and 2 and the head 3. Here ledger 2 lacks entries 3 and 4, of ledger 1
    /// entry 2 is damaged, and of the head entry 1; the head's last entry has not arrived. Ledger 4 was deleted.
    async fn new() -> Self {
        let (metadata, peers) = (FakeMetadata::new(), Arc::new(FakeDirectory::default()));
        register(&metadata, US);
        let all: &[BookieMember] = &[US, member(2)];
        publish(
            &metadata,
            vec![
                ledger(1, &[(0, all)], closed(9)),
                ledger(2, &[(0, all)], closed(9)),
                ledger(3, &[(0, all)], LedgerState::Open),
                ledger(4, &[(0, all)], closed(9)),
            ],
        );
        let peer = FakeBookie::new(member(2));
        for (ledger, n) in (1..=4).flat_map(|ledger| (0..10).map(move |n| (ledger, n))) {
            let add = AddEntry { member: member(2), key: KEY, recovery: false, entry: entry(ledger, n, b"payload") };
            peer.service().add_entry(add).await.expect("stored");
        }
        peers.insert(peer);
        let disk = Arc::new(MemoryStore::new());
        let known = LedgerRecord::Known(KnownLedger { key: KEY, fenced: false, limbo: false, lac: Lac::NONE });
        let records = [1, 2, 3].map(|id| Write::Ledger(LedgerId(id), known)).into_iter();
        let held = [(1, 0..10), (2, 0..3), (2, 5..10), (3, 0..9)];
        let entries = held.into_iter().flat_map(|(l, ids)| ids.map(move |n| Write::Entry(entry(l, n, b"payload"))));
        disk.commit(&batch_of(records.chain(entries))).expect("stored");
        disk.commit(&batch_of([Write::Ledger(LedgerId(4), LedgerRecord::Deleted)])).expect("stored");
        assert!(disk.damage(LedgerId(1), EntryId(2)) && disk.damage(LedgerId(3), EntryId(1)));
        let rig = Rig::new(Arc::clone(&disk) as _);
        let directory: Arc<dyn BookieDirectory> = Arc::clone(&peers) as _;
        drop(rig.0.0.peers.set(Arc::downgrade(&directory)));
        Self { metadata, peers, disk, rig, _directory: directory }
    }

    fn scrubber(&self) -> Scrubber {
        let plan = Plan { interval: Some(Duration::from_secs(3600)), bytes_per_second: 1 << 40 };
        Scrubber::new(self.rig.0.clone(), self.metadata.service(), Arc::new(SystemClock::default()), plan)
    }

    fn record(&self) -> Option<ScrubRecord> {
        let item = self.metadata.peek(&key::scrub(US.id))?;
        Some(decode(&item.value).expect("a record"))
    }

    fn holes(&self) -> Vec<Hole> {
        let item = self.metadata.peek(&key::closed_page(PARTITION, 0)).expect("a page");
        let page: ClosedPage = decode(&item.value).expect("a page");
        page.ledgers.into_iter().flat_map(|closed| closed.ledger.holes).collect()
    }

    async fn finished(&self, after: Option<Timestamp>) -> ScrubRecord {
        let look = async {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            loop {
                match self.record() {
                    Some(record) if record.finished_at.is_some() && record.started_at > after => return record,
                    _ => drop(tick.tick().await),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), look).await.expect("it ends")
    }

    /// The damaged and the missing of a ledger, as stored.
    fn state_of(&self, id: u64) -> (Vec<u64>, Vec<RangeInclusive<u64>>) {
        let held = holdings::list(&*self.disk, LedgerId(id), EntryId(0), 99).expect("listed").runs;
        let mut damaged = Vec::new();
        for run in &held {
            let mut next = Some(*run.start());
            while let Some(first) = next {
                let found = holdings::verify(&*self.disk, LedgerId(id), &(first..=*run.end())).expect("read");
                damaged.extend(found.damaged);
                next = found.next;
            }
        }
        (damaged, held)
    }
}

#[tokio::test]
async fn planted_damage_is_found_and_healed_and_a_request_is_a_scrub_of_its_own() {
    let world = World::new().await;
    let stopping = CancellationToken::new();
    let task = tokio::spawn(world.scrubber().run(stopping.clone()));
    let record = world.finished(None).await;
    assert_eq!((record.damaged, record.healed), (4, 4), "two damaged, two missing; a head may lag");
    assert_eq!((record.ledgers, record.total_ledgers, record.after), (4, 4, None));
    assert_eq!(record.entries, 9 + 8 + 8);
    assert!(record.bytes > 0);
    assert_eq!(world.state_of(1), (vec![], vec![0..=9]));
    assert_eq!(world.state_of(2), (vec![], vec![0..=9]));
    assert_eq!(world.state_of(3), (vec![], vec![0..=8]));
    assert_eq!(world.disk.ledger(LedgerId(4)), Ok(Some(LedgerRecord::Deleted)), "what was deleted is not missing");
    assert!(world.holes().is_empty());

    assert!(world.disk.damage(LedgerId(2), EntryId(7)));
    let asked = record.started_at.map(|started| Timestamp(started.0 + 1));
    world.metadata.put(key::scrub(US.id), &ScrubRecord { requested_at: asked, ..record.clone() });
    let second = world.finished(record.started_at).await;
    assert_eq!((second.damaged, second.healed, second.requested_at), (1, 1, asked));
    assert_eq!(world.state_of(2), (vec![], vec![0..=9]));
    stopping.cancel();
    task.await.expect("ends");
    world.rig.stop();
}

#[tokio::test]
async fn what_nobody_has_is_told_and_tried_again() {
    let world = World::new().await;
    world.peers.set_reachable(2, false);
    let mut scrubber = world.scrubber();
    scrubber.pass().await.expect("a pass");
    let record = world.record().expect("a record");
    assert_eq!((record.damaged, record.healed), (4, 0));
    assert_eq!(world.holes(), [Hole { member: US, entries: 3..=4 }], "a damaged entry is no hole: it is there");
    assert!(
        matches!(world.rig.read(1, 2).await, Err(BookieError::Unknown { .. })),
        "and it is never served, nor denied"
    );
    scrubber.retry().await.expect("tried");
    assert_eq!(world.record().expect("a record").healed, 0);
    world.peers.set_reachable(2, true);
    scrubber.retry().await.expect("tried");
    let record = world.record().expect("a record");
    assert_eq!((record.damaged, record.healed), (4, 4));
    assert_eq!(world.state_of(1), (vec![], vec![0..=9]));
    assert_eq!(world.state_of(2), (vec![], vec![0..=9]));
    assert!(scrubber.unhealed.is_empty());
    world.rig.stop();
}

#[tokio::test]
async fn an_interrupted_scrub_goes_on_after_the_last_ledger_it_read() {
    let world = World::new().await;
    let begun = ScrubRecord {
        started_at: Some(Timestamp(5)),
        ledgers: 1,
        after: Some(LedgerId(1)),
        entries: 77,
        ..ScrubRecord::default()
    };
    world.metadata.put(key::scrub(US.id), &begun);
    world.scrubber().pass().await.expect("a pass");
    let record = world.record().expect("a record");
    assert_eq!((record.started_at, record.ledgers), (Some(Timestamp(5)), 4));
    assert_eq!((record.entries, record.damaged, record.healed), (77 + 8 + 8, 3, 3));
    assert_eq!(world.state_of(1).0, [2], "that one was read before");
    world.rig.stop();
}

#[tokio::test]
async fn a_scrub_that_metadata_interrupts_is_finished_later() {
    let world = World::new().await;
    let mut scrubber = world.scrubber();
    // The record is read; the first listing fails.
    world.metadata.faults().push(protocol::testing::Fault::Pass);
    world.metadata.fail_next(MetadataError::Unavailable { reason: "no leader".into() });
    assert!(matches!(scrubber.pass().await, Err(Problem::Inventory(_))));
    scrubber.pass().await.expect("a pass");
    assert_eq!(world.record().expect("a record").healed, 4);
    world.rig.stop();
}

#[tokio::test]
async fn what_a_reader_finds_damaged_is_healed_at_once() {
    let world = World::new().await;
    let record = ScrubRecord {
        started_at: Some(SystemClock::default().wall()),
        finished_at: Some(SystemClock::default().wall()),
        entries: 77,
        ..ScrubRecord::default()
    };
    world.metadata.put(key::scrub(US.id), &record);
    let stopping = CancellationToken::new();
    let task = tokio::spawn(world.scrubber().run(stopping.clone()));
    assert!(matches!(world.rig.read(1, 2).await, Err(BookieError::Unknown { .. })));
    let healed = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while world.record().is_none_or(|record| record.healed == 0) {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), healed).await.expect("healed");
    assert_eq!(world.rig.read(1, 2).await.map(|run| run[0]), Ok(2));
    let after = world.record().expect("a record");
    assert_eq!((after.damaged, after.healed, after.entries), (1, 1, 77), "the others were not read");
    assert_eq!(world.state_of(2).1, [0..=2, 5..=9], "and wait for their scrub");
    stopping.cancel();
    task.await.expect("ends");
    world.rig.stop();
}
