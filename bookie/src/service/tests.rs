//! The contract over both stores, and what only this bookie can be asked.

use super::*;
use crate::{
    readers::Limits,
    rig::{KEY, MEMBER, Rig, Setup},
    store::{
        EntryStore,
        memory::MemoryStore,
        rocks::{RocksOptions, RocksStore},
    },
};
use protocol::{
    id::{BookieId, Incarnation},
    service::bookie::WaitLac,
    testing::conformance,
};
use std::time::Duration;

fn rocks(dir: &tempfile::TempDir) -> Arc<dyn EntryStore> {
    Arc::new(RocksStore::open(dir.path(), &RocksOptions::default(), true).expect("opens"))
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_over_memory() {
    let rig = Rig::new(Arc::new(MemoryStore::new()));
    conformance::bookie(Arc::new(rig.0.clone()), MEMBER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_over_rocksdb() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::new(rocks(&dir));
    conformance::bookie(Arc::new(rig.0.clone()), MEMBER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_without_a_tail_in_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::with(rocks(&dir), Setup { tail_bytes: 0, ..Setup::default() });
    conformance::bookie(Arc::new(rig.0.clone()), MEMBER).await;
}

/// Two bookies that know each other.
struct Pair([Rig; 2]);

impl BookieDirectory for Pair {
    fn bookie(&self, member: BookieMember) -> Arc<dyn BookieService> {
        let found = self.0.iter().find(|rig| rig.0.0.member == member);
        Arc::new(found.expect("one of the two").0.clone())
    }

    fn live(&self) -> Vec<protocol::model::BookieRecord> {
        Vec::new()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_conform() {
    let second = BookieMember { id: BookieId(2), incarnation: Incarnation(1) };
    let rigs = [MEMBER, second]
        .map(|member| Rig::with(Arc::new(MemoryStore::new()), Setup { member, tail_bytes: 0, ..Setup::default() }));
    let alone = CopyEntries { member: MEMBER, source: second, ledger: LedgerId(1), key: KEY, entries: 0..=1 };
    assert!(matches!(rigs[0].0.copy_entries(alone).await, Err(BookieError::Unavailable { .. })));
    let pair: Arc<dyn BookieDirectory> = Arc::new(Pair(rigs.clone()));
    for rig in &rigs {
        assert!(rig.0.0.peers.set(Arc::downgrade(&pair)).is_ok());
    }
    // A source with holes, asked for everything there could be: the copy goes from run to run and ends.
    for id in [0, 1, 1_000_000] {
        let add = AddEntry { member: second, ..Rig::request(5, id, b"x") };
        rigs[1].0.add_entry(add).await.expect("stored");
    }
    let all = CopyEntries { member: MEMBER, source: second, ledger: LedgerId(5), key: KEY, entries: 0..=u64::MAX };
    assert_eq!(rigs[0].0.copy_entries(all).await, Ok(3));
    assert_eq!(rigs[0].read(5, 1_000_000).await, Ok(vec![1_000_000]));
    let handle = |n: usize| (Arc::new(rigs[n].0.clone()) as Arc<dyn BookieService>, rigs[n].0.0.member);
    conformance::bookie_copies(handle(0), handle(1)).await;
}

#[tokio::test]
async fn a_damaged_entry_is_unknown_and_never_absent() {
    let store = Arc::new(MemoryStore::new());
    let rig = Rig::with(Arc::clone(&store) as _, Setup { tail_bytes: 0, ..Setup::default() });
    for id in 0..4 {
        rig.add(1, id).await.expect("stored");
    }
    assert!(store.damage(LedgerId(1), EntryId(2)));
    assert_eq!(rig.read(1, 0).await, Ok(vec![0, 1]), "the good ones before it are served");
    assert!(matches!(rig.read(1, 2).await, Err(BookieError::Unknown { .. })), "rule R9");
    assert_eq!(rig.read(1, 3).await, Ok(vec![3]));
}

#[tokio::test]
async fn absence_waits_for_adds_that_were_called_before() {
    let store = Arc::new(MemoryStore::new());
    let rig = Rig::new(Arc::clone(&store) as _);
    rig.add(1, 0).await.expect("stored");
    store.hold();
    let add = rig.0.add_entry(Rig::request(1, 1, b"x"));
    store.wait_held();
    let read = rig.0.read_entries(Rig::reading(1, 1));
    store.release();
    assert_eq!(read.await.map(|run| run.entries.len()).map_err(|e| e.to_string()), Ok(1));
    assert_eq!(add.await, Ok(()));
}

#[tokio::test]
async fn a_damaged_add_is_refused_before_it_is_durable() {
    let rig = Rig::new(Arc::new(MemoryStore::new()));
    let other = BookieMember { incarnation: Incarnation(0), ..MEMBER };
    let stale = AddEntry { member: other, ..Rig::request(1, 0, b"x") };
    let wrong = BookieError::WrongMember { actual: MEMBER, named: other };
    assert_eq!(rig.0.add_entry(stale).await, Err(wrong), "rule B11");
    assert_eq!(rig.read(1, 0).await, Err(BookieError::NoSuchLedger(LedgerId(1))));
}

#[tokio::test]
async fn in_limbo_only_what_is_there_is_told() {
    let store = Arc::new(MemoryStore::new());
    let before = Rig::new(Arc::clone(&store) as _);
    before.add(1, 0).await.expect("stored");
    before.stop();
    crate::limbo::enter(&*store).expect("marked");
    let rig = Rig::with(Arc::clone(&store) as _, Setup { limbo: true, ..Setup::default() });
    let unknown = |answer: Result<String, BookieError>| assert!(matches!(answer, Err(BookieError::Unknown { .. })));
    assert_eq!(rig.read(1, 0).await, Ok(vec![0]), "a positive answer is fine");
    unknown(rig.read(1, 1).await.map(|_| "entry".into()));
    unknown(rig.read(2, 0).await.map(|_| "ledger".into()));
    unknown(rig.fence(1).await.map(|_| "fence".into()));
    unknown(rig.wait(1, 0, Duration::ZERO).await.map(|_| "wait".into()));
    let list = ListEntries { member: MEMBER, ledger: LedgerId(1), first: EntryId(0), limit: 9 };
    unknown(rig.0.list_entries(list).await.map(|_| "list".into()));
    assert!(matches!(rig.add(2, 0).await, Err(BookieError::ReadOnly { .. })), "its fence may have been lost");
    assert_eq!(rig.add_recovery(1, 1).await, Ok(()), "healing comes in as recovery");
}

#[tokio::test]
async fn a_recovery_read_in_limbo_fences_and_serves() {
    let store = Arc::new(MemoryStore::new());
    let rig = Rig::new(Arc::clone(&store) as _);
    rig.add(1, 0).await.expect("stored");
    let read = ReadEntries { fence: Some(KEY), ..Rig::reading(1, 0) };
    assert_eq!(rig.0.read_entries(read).await.map(|run| run.entries.len()).ok(), Some(1));
    rig.stop();
    store.crash();
    let again = Rig::new(store);
    assert_eq!(again.add(1, 1).await, Err(BookieError::Fenced(LedgerId(1))), "rule R6: durably");
}

#[tokio::test]
async fn a_full_disk_takes_fences_and_recovery() {
    let rig = Rig::new(Arc::new(MemoryStore::new()));
    rig.add(1, 0).await.expect("stored");
    rig.shared().health.set_full(Some("full".into()));
    assert!(matches!(rig.add(1, 1).await, Err(BookieError::ReadOnly { .. })));
    assert!(rig.fence(1).await.is_ok());
    assert_eq!(rig.add_recovery(1, 1).await, Ok(()));
    assert_eq!(rig.delete(1).await, Ok(()), "deleting is what helps");
}

#[tokio::test]
async fn waiting_sees_carried_and_told_confirmations_and_deletion() {
    let rig = Rig::new(Arc::new(MemoryStore::new()));
    rig.add(1, 0).await.expect("stored");
    let patience = Duration::from_secs(30);
    let waiting = |beyond| {
        let (ledger, beyond) = (LedgerId(1), Lac::from_count(beyond));
        rig.0.wait_lac(WaitLac { member: MEMBER, ledger, beyond, timeout: patience })
    };
    let carried = waiting(0);
    rig.add(1, 1).await.expect("stored");
    assert_eq!(carried.await.map(Lac::count), Ok(1), "entry 1 was sent when 1 entry was confirmed");
    let told = waiting(1);
    rig.confirm(1, 2).await.expect("noted");
    assert_eq!(told.await.map(Lac::count), Ok(2));
    assert_eq!(rig.wait(1, 2, Duration::from_millis(1)).await, Ok(2), "what there is, after the time");
    let cut_off = waiting(2);
    rig.delete(1).await.expect("deleted");
    assert_eq!(cut_off.await, Err(BookieError::Deleted(LedgerId(1))));
}

#[tokio::test]
async fn reads_are_refused_when_stopping() {
    let rig = Rig::with(Arc::new(MemoryStore::new()), Setup { tail_bytes: 0, ..Setup::default() });
    rig.add(1, 0).await.expect("stored");
    rig.stop();
    assert!(matches!(rig.read(1, 0).await, Err(BookieError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_reads_keeps_no_add_waiting() {
    let dir = tempfile::tempdir().expect("a directory");
    let read_limits = Limits { jobs: 1000, bytes: 3 << 20 };
    let rig = Rig::with(rocks(&dir), Setup { read_limits, tail_bytes: 200, ..Setup::default() });
    for id in 0..20 {
        rig.add(1, id).await.expect("stored");
    }
    // Every thread that reads is busy for as long as this test wants.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(parking_lot::Mutex::new(held));
    for _ in 0..2 {
        let held = Arc::clone(&held);
        rig.0.0.readers.run(
            1 << 20,
            Box::new(move |_| {
                held.lock().recv().ok();
            }),
        );
    }
    let waiting = tokio::spawn({
        let rig = rig.clone();
        async move { rig.read(1, 0).await }
    });
    let mut refused = 0;
    let flooded = async {
        loop {
            // A read asks for 1 MiB: one more waits, the others are over the budget.
            match futures::FutureExt::now_or_never(rig.run(1, 0)) {
                Some(Err(BookieError::Unavailable { .. })) if refused == 10 => break,
                Some(Err(BookieError::Unavailable { .. })) => refused += 1,
                Some(other) => panic!("{other:?}"),
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), flooded).await.expect("reads over the budget are refused");
    let adds = async {
        for id in 20..120 {
            rig.add(1, id).await.expect("stored");
        }
        rig.fence(2).await.expect("fenced");
        rig.delete(3).await.expect("deleted");
        rig.read(1, 119).await.expect("the tail is in memory")
    };
    let tail = tokio::time::timeout(Duration::from_secs(60), adds).await.expect("nothing waits for a reader");
    assert_eq!(tail, [119]);
    drop(release);
    let read = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("answered").expect("no panic");
    assert!(matches!(read, Ok(_) | Err(BookieError::Unavailable { .. })), "{read:?}");
    let given_back = async {
        while rig.read(1, 0).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), given_back).await.expect("the budget is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_beside_a_deletion_gets_entries_or_learns_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::with(rocks(&dir), Setup { tail_bytes: 0, ..Setup::default() });
    for ledger in 0..20 {
        for id in 0..10 {
            rig.add(ledger, id).await.expect("stored");
        }
    }
    let readers: Vec<_> = (0..20)
        .map(|ledger| {
            let rig = rig.clone();
            tokio::spawn(async move {
                let mut runs = 0;
                loop {
                    match rig.run(ledger, 0).await {
                        Ok(run) => {
                            let ids: Vec<_> = run.entries.iter().map(|e| (e.ledger().0, e.entry().0)).collect();
                            assert_eq!(ids, (0..10).map(|id| (ledger, id)).collect::<Vec<_>>(), "never a part of it");
                            assert!(run.entries.iter().all(|e| e.payload()[..] == b"payload"[..]));
                            runs += 1;
                        }
                        Err(BookieError::Deleted(id)) => return (id.0, runs),
                        Err(other) => panic!("ledger {ledger}: {other}"),
                    }
                }
            })
        })
        .collect();
    for ledger in 0..20 {
        rig.delete(ledger).await.expect("deleted");
        let store = Arc::clone(&rig.shared().store);
        let reclaimed = tokio::task::spawn_blocking(move || store.reclaim(&[LedgerId(ledger)]));
        reclaimed.await.expect("no panic").expect("reclaimed");
    }
    for (ledger, reader) in (0..20).zip(readers) {
        let ended = tokio::time::timeout(Duration::from_secs(60), reader).await.expect("learns of it");
        assert_eq!(ended.expect("no panic").0, ledger);
    }
}
