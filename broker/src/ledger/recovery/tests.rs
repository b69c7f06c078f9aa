//! Recovery on fake bookies: where the ledger ends, what is written again, and when it must not say.

use super::*;
use crate::ledger::{
    LedgerAppender, LedgerReader, WriteError,
    tests::{
        fixture::{Ledger, payload},
        observed::Observed,
    },
};
use protocol::{
    id::Lac,
    ledger::{entry::SEAL_LEN, metadata::LedgerState},
    service::bookie::BookieService,
    testing::{clock::ManualClock, faults::Fault},
};
use std::sync::Arc;

#[tokio::test]
async fn an_open_ledger_ends_at_its_last_entry_and_the_old_writer_is_out() {
    let ledger = Ledger::new(3, 2, 3);
    let written = ledger.write(5).await;
    let zombie = ledger.appender();
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    assert_eq!((recovered.last_entry, recovered.last), (Some(EntryId(4)), written.last().cloned()));
    assert_eq!((recovered.length, recovered.fragments), (written[4].length(), ledger.metadata.fragments.clone()));
    assert!(ledger.ensemble().into_iter().all(|m| ledger.bookie(m).is_fenced(ledger.id())));
    zombie.append(payload(b"too late")).expect("it does not know yet");
    assert_eq!(zombie.finish().await, Err(WriteError::Fenced(ledger.id())));
}

#[tokio::test]
async fn an_entry_that_one_bookie_holds_is_kept_and_gets_its_copies() {
    let ledger = Ledger::new(3, 2, 3);
    let written = ledger.write(3).await;
    let [_, second, third] = ledger.ensemble()[..] else { panic!("three members") };
    ledger.bookie(second).forget(ledger.id(), EntryId(2));
    ledger.bookie(third).forget(ledger.id(), EntryId(2));
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    assert_eq!(recovered.last_entry, Some(EntryId(2)));
    let copies = ledger
        .ensemble()
        .into_iter()
        .filter(|m| ledger.bookie(*m).entry(ledger.id(), EntryId(2)).as_ref() == Some(&written[2]));
    assert!(copies.count() >= 2);
}

#[tokio::test]
async fn a_ledger_that_was_never_written_ends_before_its_first_entry() {
    for (write, ack) in [(1, 1), (3, 2)] {
        let ledger = Ledger::new(write, ack, 3);
        let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
        assert_eq!((recovered.last_entry, recovered.length, recovered.last), (None, 0, None));
    }
}

#[tokio::test]
async fn recovery_comes_to_the_same_end_again_and_at_the_same_time() {
    let ledger = Ledger::new(3, 2, 3);
    ledger.write(4).await;
    let (deps, metadata) = (ledger.deps(), ledger.in_recovery());
    let (one, two) = tokio::join!(recover(&deps, &metadata), recover(&deps, &metadata));
    let three = recover(&deps, &metadata).await;
    for recovered in [one, two, three] {
        assert_eq!(recovered.expect("recovered").last_entry, Some(EntryId(3)));
    }
}

#[tokio::test]
async fn a_bookie_in_limbo_denies_nothing() {
    let ledger = Ledger::new(1, 1, 1);
    ledger.write(2).await;
    ledger.directory.fake(0).set_limbo(Some("the disk was replaced"));
    let error = recover(&ledger.deps(), &ledger.in_recovery()).await.expect_err("nobody can tell");
    assert!(matches!(error, RecoveryError::Unknown { .. }), "{error:?}");
    ledger.directory.fake(0).set_limbo(None);
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    assert_eq!(recovered.last_entry, Some(EntryId(1)));
}

#[tokio::test]
async fn a_bookie_that_is_away_for_a_moment_is_asked_again() {
    let ledger = Ledger::new(1, 1, 1);
    ledger.write(2).await;
    let away = || BookieError::Unavailable { reason: "restarting".into() };
    ledger.directory.fake(0).faults().fail_next(away());
    ledger.directory.fake(0).faults().push(Fault::Pass);
    ledger.directory.fake(0).faults().fail_next(away());
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    assert_eq!(recovered.last_entry, Some(EntryId(1)));
}

#[tokio::test]
async fn too_few_bookies_are_unavailable_and_one_is_not_missed() {
    let ledger = Ledger::new(3, 2, 3);
    ledger.write(2).await;
    ledger.directory.set_reachable(0, false);
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("two of three are enough");
    assert_eq!(recovered.last_entry, Some(EntryId(1)));
    ledger.directory.set_reachable(1, false);
    let error = recover(&ledger.deps(), &ledger.in_recovery()).await.expect_err("one of three is not");
    assert!(matches!(error, RecoveryError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_bookie_that_hangs_is_not_waited_for() {
    let ledger = Ledger::new(3, 2, 3);
    ledger.write(2).await;
    ledger.directory.fake(2).faults().always(Some(Fault::Hang));
    let recovery = recover(&ledger.deps(), &ledger.in_recovery()).await;
    assert_eq!(recovery.expect("two of three are enough").last_entry, Some(EntryId(1)));
}

#[tokio::test]
async fn a_deleted_ledger_is_gone() {
    let ledger = Ledger::new(1, 1, 1);
    ledger.write(1).await;
    let (member, id) = (ledger.ensemble()[0], ledger.id());
    let delete = protocol::service::bookie::DeleteLedger { member, ledger: id };
    BookieService::delete_ledger(&ledger.bookie(member), delete).await.expect("deleted");
    let error = recover(&ledger.deps(), &ledger.in_recovery()).await.expect_err("gone");
    assert_eq!(error, RecoveryError::Deleted(id));
}

#[tokio::test]
async fn a_closed_ledger_is_only_read() {
    let ledger = Ledger::new(3, 2, 3);
    let written = ledger.write(3).await;
    let mut metadata = ledger.metadata.clone();
    metadata.state = LedgerState::Closed { last_entry: Some(EntryId(1)), length: written[1].length() };
    let recovered = recover(&ledger.deps(), &metadata).await.expect("recovered");
    assert_eq!((recovered.last_entry, recovered.last), (Some(EntryId(1)), Some(written[1].clone())));
}

/// Stores entries that all say "nothing was confirmed when I was sent": the whole ledger is tail.
async fn tail(ledger: &Ledger, count: u64) {
    for n in 0..count {
        let sealed = SealedEntry::seal(payload(b"tail"), ledger.id(), EntryId(n), Lac::NONE, (n + 1) * 4);
        assert_eq!(sealed.bytes().len(), SEAL_LEN + 4);
        for member in ledger.ensemble() {
            let add = AddEntry { member, key: ledger.metadata.key, recovery: false, entry: sealed.clone() };
            BookieService::add_entry(&ledger.bookie(member), add).await.expect("stored");
        }
    }
}

#[tokio::test]
async fn a_long_tail_is_recovered_in_windows() {
    let ledger = Ledger::new(1, 1, 1);
    tail(&ledger, 300).await;
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    assert_eq!((recovered.last_entry, recovered.length), (Some(EntryId(299)), 1200));
}

#[tokio::test]
async fn a_tail_of_ten_thousand_entries_takes_runs_of_entries_not_ten_thousand_reads() {
    let ledger = Ledger::new(3, 2, 3);
    tail(&ledger, 10_000).await;
    let observed = Observed::of(ledger.directory.clone());
    let deps = LedgerDeps::new(observed.clone(), Arc::new(ManualClock::default()));
    let recovered = recover(&deps, &ledger.in_recovery()).await.expect("recovered");
    assert_eq!((recovered.last_entry, recovered.length), (Some(EntryId(9_999)), 40_000));
    assert!(observed.reads() < 100, "{} reads", observed.reads());
    assert!(recovered.holes.is_empty(), "{:?}", recovered.holes);
}

#[tokio::test]
async fn a_run_that_ends_in_a_gap_goes_on_with_who_has_the_rest() {
    let ledger = Ledger::new(3, 2, 3);
    tail(&ledger, 40).await;
    let [first, second, third] = ledger.ensemble()[..] else { panic!("three members") };
    (5..40).for_each(|n| ledger.bookie(first).forget(ledger.id(), EntryId(n)));
    (0..20).for_each(|n| ledger.bookie(second).forget(ledger.id(), EntryId(n)));
    ledger.bookie(third).forget(ledger.id(), EntryId(30));
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    assert_eq!(recovered.last_entry, Some(EntryId(39)));
    for member in ledger.ensemble() {
        assert_eq!(ledger.bookie(member).entries(ledger.id()).len(), 40, "{member} has everything again");
    }
}

/// The holes of a recovery in which the third member is as `spoil` leaves it.
async fn holes_after(spoil: impl Fn(&Ledger, BookieMember)) -> (BookieMember, Vec<Hole>) {
    let ledger = Ledger::new(3, 2, 3);
    ledger.write(10).await;
    let third = ledger.ensemble()[2];
    spoil(&ledger, third);
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("two of three are enough");
    assert_eq!(recovered.last_entry, Some(EntryId(9)));
    (third, recovered.holes)
}

#[tokio::test]
async fn recovery_tells_who_lacks_what() {
    let (_, none) = holes_after(|_, _| {}).await;
    assert_eq!(none, []);
    let (third, silent) = holes_after(|ledger, m| ledger.bookie(m).faults().always(Some(Fault::Hang))).await;
    let mut missing: Vec<u64> = silent.iter().flat_map(|hole| hole.entries.clone()).collect();
    missing.sort_unstable();
    assert!(silent.iter().all(|hole| hole.member == third), "{silent:?}");
    assert_eq!(missing, (0..10).collect::<Vec<_>>(), "who says nothing may lack everything");
    let (third, dead) = holes_after(|ledger, m| ledger.directory.set_reachable(m.id.0, false)).await;
    assert!(dead.iter().any(|hole| hole.member == third && *hole.entries.start() == 0), "{dead:?}");
}

#[tokio::test]
async fn a_member_that_was_left_behind_is_asked_what_it_holds() {
    let ledger = Ledger::new(3, 2, 3);
    let third = ledger.ensemble()[2];
    let appender = LedgerAppender::open(ledger.deps(), ledger.metadata.clone(), ledger.store.clone(), Arc::new(|_| {}));
    for n in 0..10 {
        if n == 4 {
            // It misses one entry, and is sent nothing more.
            ledger.bookie(third).faults().fail_next(BookieError::Storage { reason: "disk".into() });
        }
        let (entry, before) = (EntryId(n), ledger.ensemble());
        appender.append(payload(b"x")).expect("open");
        for member in before.into_iter().filter(|m| n < 4 || *m != third) {
            ledger.bookie(member).wait_entries(ledger.id(), entry.0 as usize + 1).await;
        }
        while appender.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        while n == 4 && appender.holes().is_empty() {
            tokio::task::yield_now().await;
        }
    }
    // Its broker dies without closing the ledger, and with it the knowledge of the hole.
    drop(appender);
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    // The last entry is written again, to all; what lies between is missing.
    assert_eq!(recovered.holes, [Hole { member: third, entries: 4..=8 }]);
    let closed = LedgerMetadata {
        state: LedgerState::Closed { last_entry: recovered.last_entry, length: recovered.length },
        fragments: recovered.fragments,
        holes: recovered.holes,
        ..ledger.metadata.clone()
    };
    let read = LedgerReader::new(ledger.deps()).read(&closed, EntryId(4), EntryId(9), u32::MAX).await.expect("read");
    assert_eq!(read.len(), 6);
}

#[tokio::test]
async fn recovery_does_not_wait_for_the_dead_and_the_hung() {
    for hangs in [false, true] {
        let ledger = Ledger::new(3, 2, 3);
        tail(&ledger, 50).await;
        match hangs {
            true => ledger.directory.fake(2).faults().always(Some(Fault::Hang)),
            false => ledger.directory.set_reachable(2, false),
        }
        let (deps, metadata) = (ledger.deps(), ledger.in_recovery());
        // A call that hangs takes four times its deadline, with its repetitions.
        let recovered = tokio::time::timeout(CALL_DEADLINE * 3, recover(&deps, &metadata)).await;
        let recovered = recovered.expect("it is not waited for").expect("two of three are enough");
        assert_eq!(recovered.last_entry, Some(EntryId(49)), "hangs: {hangs}");
    }
}
