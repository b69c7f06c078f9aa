//! Recovery on fake bookies: where the ledger ends, what is written again, and when it must not say.

use super::*;
use crate::ledger::{
    WriteError,
    tests::fixture::{Ledger, payload},
};
use protocol::{
    id::Lac,
    ledger::{entry::SEAL_LEN, metadata::LedgerState},
    testing::faults::Fault,
};

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
    protocol::service::bookie::BookieService::delete_ledger(&ledger.bookie(member), delete).await.expect("deleted");
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

#[tokio::test]
async fn a_long_tail_is_recovered_in_windows() {
    let ledger = Ledger::new(1, 1, 1);
    // Entries that all say "nothing was confirmed when I was sent": the whole ledger is tail.
    let bookie = ledger.directory.fake(0);
    for n in 0..300 {
        let sealed = SealedEntry::seal(payload(b"tail"), ledger.id(), EntryId(n), Lac::NONE, (n + 1) * 4);
        assert_eq!(sealed.bytes().len(), SEAL_LEN + 4);
        let (member, key) = (ledger.ensemble()[0], ledger.metadata.key);
        let add = AddEntry { member, key, recovery: false, entry: sealed };
        protocol::service::bookie::BookieService::add_entry(&bookie, add).await.expect("stored");
    }
    let recovered = recover(&ledger.deps(), &ledger.in_recovery()).await.expect("recovered");
    assert_eq!((recovered.last_entry, recovered.length), (Some(EntryId(299)), 1200));
}
