//! Reads on fake bookies: bounds, the next bookie, the hedge, and what it means that nobody has it.

use super::*;
use crate::ledger::tests::fixture::{Ledger, payload};
use protocol::{id::Lac, ledger::metadata::Fragment, testing::faults::Fault};

const ALL: u32 = u32::MAX;

fn ids(entries: &[SealedEntry]) -> Vec<u64> {
    entries.iter().map(|e| e.entry().0).collect()
}

#[tokio::test]
async fn a_run_ends_at_the_bound_the_bytes_and_the_end_of_the_ledger() {
    let ledger = Ledger::new(1, 1, 1);
    let written = ledger.write(6).await;
    let reader = LedgerReader::new(ledger.deps());
    let read = async |first: u64, through: u64, bytes: u32| {
        reader.read(&ledger.metadata, EntryId(first), EntryId(through), bytes).await.map(|e| ids(&e))
    };
    assert_eq!(read(1, 3, ALL).await, Ok(vec![1, 2, 3]));
    assert_eq!(read(0, 5, 1).await, Ok(vec![0]), "the first entry comes whatever its size");
    let two = written[0].bytes().len() + written[1].bytes().len();
    assert_eq!(read(0, 5, two as u32).await, Ok(vec![0, 1]));
    assert_eq!(read(4, 3, ALL).await, Err(ReadError::NoSuchEntry(ledger.id(), EntryId(4))));
    let mut closed = ledger.metadata.clone();
    closed.state = LedgerState::Closed { last_entry: Some(EntryId(2)), length: 0 };
    let bounded = reader.read(&closed, EntryId(0), EntryId(5), ALL).await.expect("read");
    assert_eq!(ids(&bounded), [0, 1, 2], "nothing above the last entry of a closed ledger, whatever the caller says");
    closed.state = LedgerState::Closed { last_entry: None, length: 0 };
    let empty = reader.read(&closed, EntryId(0), EntryId(5), ALL).await;
    assert_eq!(empty, Err(ReadError::NoSuchEntry(ledger.id(), EntryId(0))));
}

#[tokio::test]
async fn a_run_ends_with_its_fragment() {
    let ledger = Ledger::new(1, 1, 2);
    ledger.write(4).await;
    let mut metadata = ledger.metadata.clone();
    metadata.fragments.push(Fragment { first_entry: EntryId(2), ensemble: vec![ledger.spare()] });
    let reader = LedgerReader::new(ledger.deps());
    let first = reader.read(&metadata, EntryId(0), EntryId(3), ALL).await.expect("read");
    assert_eq!(ids(&first), [0, 1]);
    let second = reader.read(&metadata, EntryId(2), EntryId(3), ALL).await;
    assert_eq!(second, Err(ReadError::NoSuchEntry(ledger.id(), EntryId(2))), "the other ensemble is asked");
}

#[tokio::test]
async fn the_next_bookie_is_asked_when_one_refuses() {
    let ledger = Ledger::new(3, 2, 3);
    ledger.write(2).await;
    let reader = LedgerReader::new(ledger.deps());
    for refusing in 0..2 {
        ledger.directory.set_reachable(refusing, false);
        let entries = reader.read(&ledger.metadata, EntryId(0), EntryId(1), ALL).await.expect("read");
        assert_eq!(ids(&entries), [0, 1]);
    }
}

#[tokio::test]
async fn another_bookie_is_asked_when_one_hangs() {
    let ledger = Ledger::new(3, 2, 3);
    ledger.write(2).await;
    let reader = LedgerReader::new(ledger.deps());
    for hanging in 0..2 {
        ledger.directory.fake(hanging).faults().always(Some(Fault::Hang));
        let entries = reader.read(&ledger.metadata, EntryId(0), EntryId(1), ALL).await.expect("read");
        assert_eq!(ids(&entries), [0, 1]);
    }
}

#[tokio::test]
async fn absence_trouble_and_silence_are_three_things() {
    let ledger = Ledger::new(3, 2, 3);
    ledger.write(2).await;
    let reader = LedgerReader::new(ledger.deps());
    let read = async || reader.read(&ledger.metadata, EntryId(2), EntryId(2), ALL).await.expect_err("nobody has it");
    assert_eq!(read().await, ReadError::NoSuchEntry(ledger.id(), EntryId(2)));
    ledger.directory.fake(0).set_limbo(Some("disk replaced"));
    assert!(matches!(read().await, ReadError::Unknown { .. }));
    ledger.directory.fake(0).set_limbo(None);
    ledger.directory.set_reachable(0, false);
    assert_eq!(read().await, ReadError::NoSuchEntry(ledger.id(), EntryId(2)), "two denials of three are proof");
    ledger.directory.set_reachable(1, false);
    assert!(matches!(read().await, ReadError::Unavailable { .. }), "one denial is not");
}

#[test]
fn entries_of_another_place_are_never_served() {
    let entry = |ledger, n| SealedEntry::seal(payload(b"x"), LedgerId(ledger), EntryId(n), Lac::NONE, 1);
    let range = ReadRange { ledger: LedgerId(7), first: EntryId(3), last: EntryId(4), max_bytes: ALL };
    let verify = |entries| range.verify(EntryRun { entries, lac: Lac::NONE }).map(|e| ids(&e));
    assert_eq!(verify(vec![entry(7, 3), entry(7, 4), entry(7, 5)]), Ok(vec![3, 4]), "nothing above the bound");
    for wrong in [vec![], vec![entry(7, 4)], vec![entry(8, 3)], vec![entry(7, 3), entry(7, 5)]] {
        assert!(matches!(verify(wrong), Err(BookieError::Unknown { .. })));
    }
}
