//! A bookie over several lives: its disk is lost, or shorter, or damaged, or it is taken out.

use super::*;
use crate::inventory::tests::{member, register};
use protocol::{
    model::{Decommission, ScrubRecord},
    service::{
        directory::BookieDirectory,
        metadata::{Operation, Transaction},
    },
    testing::{FakeBookie, FakeDirectory},
};

/// A directory with bookie 2, which holds the first `count` entries of these ledgers as [`add`] makes them.
async fn peers(ledgers: &[u64], count: u64) -> Arc<dyn BookieDirectory> {
    let (directory, peer) = (Arc::new(FakeDirectory::default()), FakeBookie::new(member(2)));
    for (ledger, id) in ledgers.iter().flat_map(|ledger| (0..count).map(move |id| (*ledger, id))) {
        let entry = entry(ledger, id, &[id as u8; 6000]);
        let add = AddEntry { member: peer.member(), key: KEY, recovery: false, entry };
        peer.service().add_entry(add).await.expect("stored");
    }
    directory.insert(peer);
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookie_that_comes_back_empty_never_answers_for_its_old_self() {
    let world = World::new();
    // The only bookie of a cluster would refuse to forget what it held.
    register(&world.metadata, member(2));
    let bookie = world.start().await;
    add(&bookie, 1, 0).await.expect("stored");
    let old = bookie.member();
    let kept = world.crashed();
    bookie.stop().await;
    world.wipe();
    // As if it had been killed: its session lives on for a while, and the start waits for its end.
    world.metadata.put(key::bookie(old.id), &BookieRecord::new(old, BookieState::Writable));
    let (again, ()) = futures::future::join(world.start(), async {
        world.metadata.delete(key::bookie(old.id));
    })
    .await;
    assert!(again.member().id == old.id && again.member().incarnation > old.incarnation);
    assert!(matches!(add_as(&again, old, 1, 1).await, Err(BookieError::WrongMember { .. })));
    assert_eq!(add(&again, 1, 0).await, Ok(()), "the new life knows nothing of it");
    until("registered", || world.record().is_some_and(|record| record.member == again.member())).await;
    again.stop().await;
    let told = kept.try_start(kept.config()).await.expect_err("refused").to_string();
    assert!(told.contains("was given up"), "{told}");
    let settled = world.start().await;
    assert_eq!(settled.member(), again.member(), "its new identity stays");
    settled.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookie_that_is_taken_out_serves_until_it_is_switched_off_and_does_not_come_back() {
    let world = World::new();
    let bookie = world.start().await;
    add(&bookie, 1, 0).await.expect("stored");
    let order = Decommission {
        member: bookie.member(),
        keeps_id: false,
        since: Timestamp(0),
        total_bytes: None,
        obstacle: None,
    };
    world.metadata.put(key::decommission(BookieId(1)), &order);
    until("read-only", || world.record().is_some_and(|r| r.state == BookieState::ReadOnly)).await;
    assert_eq!(add(&bookie, 1, 1).await, Ok(()), "a writer ends its ledger in its own time");
    assert!(matches!(add(&bookie, 2, 0).await, Err(BookieError::ReadOnly { .. })));
    let operations = [key::decommission(BookieId(1)), key::cookie(BookieId(1))].map(Operation::Delete).to_vec();
    let done = Transaction { operations, ..Transaction::default() };
    world.metadata.service().transact(done).await.expect("done");
    let refusal = || bookie.service.0.shared.health.check_new_ledger().expect_err("it takes none").to_string();
    until("it notices", || refusal().contains("was taken out")).await;
    assert_eq!(bookie.state(), BookieState::ReadOnly);
    assert_eq!(read(&bookie, 1, 0).await, Ok(2));
    bookie.stop().await;
    let told = world.try_start(world.config()).await.expect_err("refused").to_string();
    assert!(told.contains("was taken out of cluster"), "{told}");
    world.wipe();
    let new = world.start().await;
    assert_eq!(new.state(), BookieState::Writable, "an empty disk joins as a new bookie");
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_cut_is_healed_from_another_bookie() {
    let world = World::new();
    let bookie = world.start().await;
    for id in 0..10 {
        add(&bookie, 1, id).await.expect("stored");
    }
    add(&bookie, 2, 0).await.expect("stored");
    fence(&bookie, 3).await.expect("fenced");
    let delete = DeleteLedger { member: bookie.member(), ledger: LedgerId(4) };
    bookie.service().delete_ledger(delete).await.expect("deleted");
    issue_ledgers(&world.metadata, 4).await;
    advance(&bookie.watermark, &bookie.service.0.shared.synced);
    let crashed = world.crashed();
    let both = &[bookie.member(), member(2)][..];
    let ledgers = |third| {
        vec![ledger(1, &[(0, both)], closed(9)), ledger(2, &[(0, both)], closed(0)), ledger(3, &[(0, both)], third)]
    };
    publish(&world.metadata, ledgers(LedgerState::InRecovery));
    bookie.stop().await;
    let journal = fs::OpenOptions::new().write(true).open(crashed.journal()).expect("there");
    journal.set_len(journal.metadata().expect("there").len() / 2).expect("cut");

    let directory = peers(&[1, 2], 10).await;
    for interrupted in [true, false] {
        let limbo = crashed.start().await;
        limbo.set_peers(Arc::downgrade(&directory));
        until("it says so", || crashed.record().is_some_and(|r| r.state == BookieState::Limbo)).await;
        assert_eq!(limbo.state(), BookieState::Limbo, "a head that names it is not closed");
        assert!(matches!(add(&limbo, 3, 0).await, Err(BookieError::ReadOnly { .. })));
        if !interrupted {
            publish(&world.metadata, ledgers(closed(0)));
            publish(&world.metadata, ledgers(LedgerState::Closed { last_entry: None, length: 0 }));
            until("healed", || limbo.state() == BookieState::Writable).await;
            until("it says so", || crashed.record().is_some_and(|r| r.state == BookieState::Writable)).await;
            assert_eq!(read(&limbo, 1, 0).await, Ok(10));
            assert_eq!(read(&limbo, 2, 0).await, Ok(1));
            assert_eq!(add(&limbo, 3, 0).await, Err(BookieError::Fenced(LedgerId(3))), "a lost fence holds again");
            let late = add(&limbo, 4, 0).await;
            assert!(matches!(late, Err(BookieError::ReadOnly { .. })), "a lost tombstone lets nobody in: {late:?}");
            assert_eq!(add(&limbo, 100, 0).await, Ok(()));
        }
        limbo.stop().await;
    }
    let sound = crashed.start().await;
    assert_eq!(sound.state(), BookieState::Writable);
    assert_eq!(read(&sound, 1, 0).await, Ok(10));
    assert!(matches!(add(&sound, 4, 0).await, Err(BookieError::ReadOnly { .. })));
    sound.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_a_flipped_bit_in_a_blob_file_and_heals_it() {
    let world = World::new();
    let bookie = world.start().await;
    for id in 0..10 {
        add(&bookie, 1, id).await.expect("stored");
    }
    publish(&world.metadata, vec![ledger(1, &[(0, &[bookie.member(), member(2)])], closed(9))]);
    bookie.stop().await;
    let store = world.config().data_dir.join(STORE);
    let files = fs::read_dir(store).expect("readable").map(|file| file.expect("readable").path());
    let blobs = files.filter(|path| path.extension().is_some_and(|e| e == "blob"));
    let blob = blobs.max_by_key(|path| fs::metadata(path).expect("there").len()).expect("a blob file");
    damage::flip(&blob, fs::metadata(&blob).expect("there").len() / 2);

    let directory = peers(&[1], 10).await;
    let config = BookieConfig { scrub_interval_ms: 0, tail_bytes: 0, ..world.config() };
    let again = world.try_start(config).await.expect("starts");
    again.set_peers(Arc::downgrade(&directory));
    let asked = ScrubRecord { requested_at: Some(Timestamp(1)), ..ScrubRecord::default() };
    world.metadata.put(key::scrub(BookieId(1)), &asked);
    let record = || -> Option<ScrubRecord> {
        decode(&world.metadata.peek(&key::scrub(BookieId(1)))?.value)
            .ok()
            .filter(|r: &ScrubRecord| r.finished_at.is_some())
    };
    until("scrubbed", || record().is_some()).await;
    let record = record().expect("a record");
    assert_eq!((record.damaged, record.healed, record.entries), (1, 1, 9));
    for id in 0..10 {
        assert!(read(&again, 1, id).await.is_ok(), "entry {id}");
    }
    again.stop().await;
}
