//! The way out of limbo: what was lost comes back, from wherever the power was cut on the way.

use super::*;
use crate::{
    inventory::tests::{closed, issue_ledgers, ledger, member, publish, register},
    ledger::{KnownLedger, LedgerRecord},
    limbo::{self, Verdict},
    rig::{
        KEY, MEMBER, Rig, Setup,
        fragile::{Cut, FragileStore},
    },
    store::{
        EntryStore, Write,
        conformance::{batch_of, entry},
        memory::MemoryStore,
    },
};
use parking_lot::Mutex;
use protocol::{
    id::Lac,
    ledger::metadata::{LedgerMetadata, LedgerState},
    model::BookieState,
    mutant::Mutants,
    runtime::SystemClock,
    service::{bookie::AddEntry, directory::BookieDirectory},
    testing::{FakeBookie, FakeDirectory, FakeMetadata},
};

const US: BookieMember = MEMBER;
/// How far the store was synced before it lost its end.
const SYNCED: u64 = 1000;
const DEADLINE: Duration = Duration::from_secs(120);

/// A disk that came back shorter, in a cluster of three.
struct World {
    metadata: FakeMetadata,
    peers: Arc<FakeDirectory>,
    disk: Arc<MemoryStore>,
    watermark: Arc<Mutex<u64>>,
}

/// A bookie on that disk.
struct Life {
    rig: Rig,
    healer: Healer,
    /// Keeps the peers alive.
    _directory: Arc<dyn BookieDirectory>,
}

impl World {
    /// Ledgers 1 to 4 have ten entries each on bookies 2 and 3. Here, 1 is whole, of 2 the second half is lost, 3 is lost
    /// altogether, of 4 the bookie holds the second fragment only. Nobody names 5. 6 was deleted, and so were 7 to 9, whose
    /// tombstones are lost.
    async fn new() -> Self {
        let (metadata, peers, disk) = (FakeMetadata::new(), Arc::new(FakeDirectory::default()), MemoryStore::new());
        register(&metadata, US);
        issue_ledgers(&metadata, 9).await;
        for id in [2, 3] {
            let bookie = FakeBookie::new(member(id));
            for (ledger, n) in (1..=4).flat_map(|ledger| (0..10).map(move |n| (ledger, n))) {
                let add =
                    AddEntry { member: member(id), key: KEY, recovery: false, entry: entry(ledger, n, b"payload") };
                bookie.service().add_entry(add).await.expect("stored");
            }
            peers.insert(bookie);
        }
        let known = LedgerRecord::Known(KnownLedger { key: KEY, fenced: false, limbo: false, lac: Lac::NONE });
        let records = [1, 2, 4, 5].map(|id| Write::Ledger(LedgerId(id), known));
        let held = [(1, 0..10), (2, 0..5), (4, 4..6), (5, 0..3)];
        let entries = held.into_iter().flat_map(|(l, ids)| ids.map(move |n| Write::Entry(entry(l, n, b"payload"))));
        disk.commit(&batch_of(records.into_iter().chain(entries))).expect("stored");
        disk.commit(&batch_of([Write::Ledger(LedgerId(6), LedgerRecord::Deleted)])).expect("stored");
        Self { metadata, peers, disk: Arc::new(disk), watermark: Arc::new(Mutex::new(SYNCED)) }
    }

    fn ledgers(&self, third: LedgerState) -> Vec<LedgerMetadata> {
        let all: &[BookieMember] = &[US, member(2), member(3)];
        vec![
            ledger(1, &[(0, all)], closed(9)),
            ledger(2, &[(0, all)], closed(9)),
            ledger(3, &[(0, all)], third),
            ledger(4, &[(0, &[member(2), member(3)]), (4, all)], closed(9)),
            ledger(6, &[(0, all)], closed(9)),
        ]
    }

    /// A start: judged, marked, in limbo; none if the store is sound.
    fn start(&self, store: Arc<dyn EntryStore>, reset: ResetWatermark) -> Option<Life> {
        let state = store.state().expect("readable");
        let limbo = match limbo::judge(state, Some(*self.watermark.lock()), Mutants::NONE) {
            Verdict::Sound => false,
            _ => {
                limbo::enter(&*store).ok()?;
                true
            }
        };
        let rig = Rig::with(store, Setup { limbo, ..Setup::default() });
        let directory: Arc<dyn BookieDirectory> = Arc::clone(&self.peers) as _;
        drop(rig.0.0.peers.set(Arc::downgrade(&directory)));
        let pace = Pace::new(1 << 40, Arc::new(SystemClock::default()));
        let healer = Healer::new(rig.0.clone(), self.metadata.service(), pace, reset);
        Some(Life { rig, healer, _directory: directory })
    }

    fn reset(&self) -> ResetWatermark {
        let watermark = Arc::clone(&self.watermark);
        Arc::new(move |commit| {
            *watermark.lock() = commit;
            Ok(())
        })
    }

    fn record(&self, id: u64) -> Option<KnownLedger> {
        match self.disk.ledger(LedgerId(id)).expect("readable") {
            Some(LedgerRecord::Known(known)) => Some(known),
            Some(LedgerRecord::Deleted) | None => None,
        }
    }

    /// Everything is here, every ledger is fenced, and nothing is in limbo.
    fn check_whole(&self, told: &str) {
        let state = self.disk.state().expect("readable");
        assert!(!state.limbo && *self.watermark.lock() <= state.commit, "{told}");
        assert!(state.floor > Floor(LedgerId(9)), "{told}: {:?}", state.floor);
        for (id, wanted) in [(1, 0..=9), (2, 0..=9), (3, 0..=9), (4, 4..=9)] {
            let held = holdings::list(&*self.disk, LedgerId(id), EntryId(0), 9).expect("listed");
            assert_eq!(held.runs, [wanted], "{told}: ledger {id}");
            assert!(self.record(id).is_some_and(|known| known.fenced && !known.limbo && known.key == KEY), "{told}");
        }
        assert!(self.record(5).is_some_and(|known| known.fenced && !known.limbo), "{told}");
        assert_eq!(self.disk.ledger(LedgerId(6)), Ok(Some(LedgerRecord::Deleted)), "{told}");
    }
}

async fn until(what: &str, wanted: impl Fn() -> bool) {
    let look = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !wanted() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn what_was_lost_comes_back_and_the_bookie_takes_adds_again() {
    let world = World::new().await;
    publish(&world.metadata, world.ledgers(LedgerState::InRecovery));
    let Life { rig, healer, _directory } = world.start(Arc::clone(&world.disk) as _, world.reset()).expect("starts");
    assert!(matches!(rig.read(2, 7).await, Err(BookieError::Unknown { .. })), "lost, not absent");
    let stopping = CancellationToken::new();
    let task = tokio::spawn(healer.run(stopping.clone()));
    until("the closed ledgers are healed", || [1, 2, 4, 5].iter().all(|id| !world.record(*id).expect("known").limbo))
        .await;
    assert_eq!(rig.shared().health.state(), BookieState::Limbo, "the head is not closed");
    assert!(world.record(3).is_some_and(|known| known.fenced && known.limbo), "although it was lost as a whole");
    assert!(matches!(rig.read(3, 0).await, Err(BookieError::Unknown { .. })));
    assert_eq!(rig.add(3, 0).await.map_err(|e| matches!(e, BookieError::ReadOnly { .. })), Err(true));
    publish(&world.metadata, world.ledgers(closed(9)));
    tokio::time::timeout(DEADLINE, task).await.expect("it ends by itself").expect("no panic");
    assert_eq!(rig.shared().health.state(), BookieState::Writable);
    world.check_whole("healed");
    assert_eq!(rig.add(3, 10).await, Err(BookieError::Fenced(LedgerId(3))), "its old writer must not go on");
    assert_eq!(rig.read(3, 10).await, Err(BookieError::NoSuchEntry(LedgerId(3), EntryId(10))), "absence counts again");
    assert_eq!(rig.add(100, 0).await, Ok(()));
    rig.stop();
    world.disk.crash();
    let sound = limbo::judge(world.disk.state().expect("readable"), Some(*world.watermark.lock()), Mutants::NONE);
    assert_eq!(sound, Verdict::Sound, "the next start is like any other");
    stopping.cancel();
}

#[tokio::test]
async fn a_lost_tombstone_lets_no_writer_begin_again() {
    let world = World::new().await;
    publish(&world.metadata, world.ledgers(closed(9)));
    let Life { rig, healer, _directory } = world.start(Arc::clone(&world.disk) as _, world.reset()).expect("starts");
    let read_only = |answer: Result<(), BookieError>| assert!(matches!(answer, Err(BookieError::ReadOnly { .. })));
    read_only(rig.confirm(7, 1).await);
    tokio::time::timeout(DEADLINE, healer.run(CancellationToken::new())).await.expect("heals");
    let floor = world.disk.state().expect("readable").floor;
    // Also after a start: nothing but the store remembers it.
    rig.stop();
    world.disk.crash();
    let rig = Rig::new(Arc::clone(&world.disk) as _);
    read_only(rig.add(7, 0).await);
    read_only(rig.confirm(7, 1).await);
    read_only(rig.add(7, 0).await);
    assert_eq!(rig.read(7, 0).await, Err(BookieError::NoSuchLedger(LedgerId(7))), "nothing was made known");
    assert_eq!(rig.add_recovery(7, 0).await, Ok(()), "recovery adds what a quorum has decided");
    assert_eq!(rig.add(7, 1).await, Err(BookieError::Fenced(LedgerId(7))), "and lets no writer in behind it");
    assert!(rig.fence(8).await.is_ok());
    assert_eq!(rig.delete(9).await, Ok(()));
    assert_eq!(rig.add(1, 10).await, Err(BookieError::Fenced(LedgerId(1))), "a known ledger is judged as always");
    assert_eq!(rig.add(6, 0).await, Err(BookieError::Deleted(LedgerId(6))));
    assert_eq!(rig.add(floor.0.0, 0).await, Ok(()), "a new ledger is welcome");
    rig.stop();
    world.disk.crash();
    let rig = Rig::new(Arc::clone(&world.disk) as _);
    assert_eq!(rig.add(7, 1).await, Err(BookieError::Fenced(LedgerId(7))), "that fence is durable");
    rig.stop();
}

#[tokio::test]
async fn without_a_ledger_id_nothing_is_healed() {
    let world = World::new().await;
    let Life { rig, mut healer, _directory } =
        world.start(Arc::clone(&world.disk) as _, world.reset()).expect("starts");
    world.metadata.fail_next(protocol::service::metadata::MetadataError::Unavailable { reason: "no leader".into() });
    assert!(matches!(healer.heal(&mut 0).await, Err(Problem::Inventory(InventoryError::Metadata(_)))));
    assert!(rig.shared().health.is_limbo() && world.disk.state().expect("readable").limbo);
    rig.stop();
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_healing_loses_nothing() {
    for cut in Cut::ALL {
        for steps in 0.. {
            let world = World::new().await;
            publish(&world.metadata, world.ledgers(closed(9)));
            let store = FragileStore::new(Arc::clone(&world.disk), steps, cut);
            let (fragile, reset) = (Arc::clone(&store), world.reset());
            let reset: ResetWatermark = Arc::new(move |commit| {
                if fragile.is_cut() {
                    fragile.inner.fail_reads();
                    fragile.inner.fail_writes();
                    return Err(io::Error::other("the power went"));
                }
                reset(commit)
            });
            if let Some(Life { rig, healer, _directory }) = world.start(Arc::clone(&store) as _, reset) {
                let stopping = CancellationToken::new();
                let task = tokio::spawn(healer.run(stopping.clone()));
                until("healed or cut off", || !store.survived() || !rig.shared().health.is_limbo()).await;
                stopping.cancel();
                tokio::time::timeout(DEADLINE, task).await.expect("ends").expect("no panic");
                rig.stop();
            }
            let told = format!("{cut:?} after {steps} steps");
            world.disk.crash();
            let Life { rig, healer, _directory } =
                world.start(Arc::clone(&world.disk) as _, world.reset()).expect("starts");
            let task = healer.run(CancellationToken::new());
            tokio::time::timeout(DEADLINE, task).await.unwrap_or_else(|_| panic!("{told}: it does not heal"));
            world.check_whole(&told);
            rig.stop();
            if store.survived() {
                assert!(steps > 8, "marking, fetching, clearing and ending are steps of their own");
                break;
            }
        }
    }
}

#[tokio::test]
async fn without_another_copy_it_stays_in_limbo_until_there_is_one() {
    let world = World::new().await;
    publish(&world.metadata, world.ledgers(closed(9)));
    world.peers.set_reachable(2, false);
    world.peers.set_reachable(3, false);
    let Life { rig, healer, _directory } = world.start(Arc::clone(&world.disk) as _, world.reset()).expect("starts");
    let task = tokio::spawn(healer.run(CancellationToken::new()));
    // The last one is looked at after those that lack entries.
    until("what lacks nothing is healed", || !world.record(5).expect("known").limbo).await;
    assert!(rig.shared().health.is_limbo() && world.disk.state().expect("readable").limbo);
    assert!([2, 3].iter().all(|id| world.record(*id).expect("known").limbo), "those that lack entries stay");
    assert!(!world.record(1).expect("known").limbo);
    world.peers.set_reachable(3, true);
    tokio::time::timeout(DEADLINE, task).await.expect("heals").expect("no panic");
    world.check_whole("healed");
    rig.stop();
}

#[tokio::test]
async fn metadata_that_does_not_know_us_heals_nothing() {
    let world = World::new().await;
    world.metadata.delete(protocol::model::key::cookie(US.id));
    let Life { rig, mut healer, _directory } =
        world.start(Arc::clone(&world.disk) as _, world.reset()).expect("starts");
    assert!(matches!(healer.heal(&mut 0).await, Err(Problem::Inventory(InventoryError::Outlived))));
    assert!(rig.shared().health.is_limbo() && world.record(5).expect("known").limbo, "an empty listing proves nothing");
    rig.stop();
}
