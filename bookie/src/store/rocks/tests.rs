//! The store on a real disk: crashes, damage, and space.

use super::*;
use crate::store::conformance::{self, batch_of, entry};
use protocol::ledger::entry::SealedEntry;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

fn open(path: &Path) -> RocksStore {
    RocksStore::open(path, &RocksOptions::default(), true).expect("opens")
}

/// What the disk would hold if the power went now.
fn crashed(from: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for file in fs::read_dir(from).expect("readable") {
        let file = file.expect("readable").path();
        if file.file_name().is_some_and(|name| name != "LOCK") {
            fs::copy(&file, copy.path().join(file.file_name().expect("named"))).expect("copied");
        }
    }
    copy
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).expect("readable").map(|f| f.expect("readable").path());
    let mut found: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

/// The journal that has records in it.
fn journal(dir: &Path) -> PathBuf {
    let longest = |path: &PathBuf| fs::metadata(path).expect("there").len();
    files(dir, "log").into_iter().max_by_key(longest).expect("a journal")
}

fn size_of(dir: &Path, extension: &str) -> u64 {
    files(dir, extension).iter().map(|f| fs::metadata(f).map_or(0, |m| m.len())).sum()
}

#[test]
fn conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::run(&open(dir.path()));
}

#[test]
fn everything_committed_is_there_after_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let record = LedgerRecord::Deleted;
    for id in 0..20 {
        let batch = batch_of([Write::Entry(entry(1, id, &[id as u8; 9000])), Write::Ledger(LedgerId(id), record)]);
        assert_eq!(store.commit(&batch), Ok(id + 1));
    }
    let copy = crashed(dir.path());
    let again = open(copy.path());
    assert_eq!(again.state().expect("state").commit, 20);
    assert_eq!(again.range(LedgerId(1), EntryId(0), conformance::ALL).map(|run| run.len()), Ok(20));
    assert_eq!(again.ledgers(None, 100).map(|all| all.len()), Ok(20));
    assert_eq!(again.commit(&batch_of([Write::Limbo(false)])), Ok(21), "numbers go on");
}

#[test]
fn it_is_reopened_after_a_close() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    store.commit(&batch_of([Write::Entry(entry(1, 0, &[1; 9000]))])).expect("committed");
    store.close().expect("closed");
    store.close().expect("twice is fine");
    let again = open(dir.path());
    let bytes = again.get(LedgerId(1), EntryId(0)).expect("read").expect("there");
    assert!(SealedEntry::open(bytes, LedgerId(1), EntryId(0)).is_ok());
}

#[test]
fn a_torn_tail_is_dropped_and_damage_before_it_refuses_to_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for id in 0..10 {
        store.commit(&batch_of([Write::Entry(entry(1, id, &[id as u8; 1000]))])).expect("committed");
    }
    let torn = crashed(dir.path());
    let file = fs::OpenOptions::new().write(true).open(journal(torn.path())).expect("there");
    file.set_len(file.metadata().expect("there").len() - 500).expect("cut");
    assert_eq!(open(torn.path()).state().expect("state").commit, 9, "the torn batch was never acknowledged");

    let flipped = crashed(dir.path());
    let file = fs::OpenOptions::new().write(true).open(journal(flipped.path())).expect("there");
    file.write_all_at(&[0xff; 4], 3000).expect("damaged");
    let refused = RocksStore::open(flipped.path(), &RocksOptions::default(), false).map(|_| ());
    assert!(matches!(refused, Err(OpenError::Damaged(_))), "acknowledged entries lie behind it: {refused:?}");
}

#[test]
fn a_missing_store_is_not_made_by_accident() {
    let dir = tempfile::tempdir().expect("a directory");
    let refused = RocksStore::open(dir.path(), &RocksOptions::default(), false).map(|_| ());
    assert_eq!(refused, Err(OpenError::Missing));
}

#[test]
fn a_second_process_and_a_newer_format_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let again = RocksStore::open(dir.path(), &RocksOptions::default(), true).map(|_| ());
    assert_eq!(again, Err(OpenError::Locked));
    let newer = (keys::FORMAT + 1).to_be_bytes();
    store.with(|db| db.put_cf(&family(db, keys::CF_SYS), keys::SYS_FORMAT, newer).map_err(failed)).expect("written");
    store.close().expect("closed");
    let refused = RocksStore::open(dir.path(), &RocksOptions::default(), true).map(|_| ());
    assert_eq!(refused, Err(OpenError::Newer { found: 2 }));
}

#[test]
fn a_flipped_bit_on_the_disk_is_never_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    store.commit(&batch_of([Write::Entry(entry(1, 0, &[7; 50_000]))])).expect("committed");
    store.close().expect("flushed");
    let blob = files(dir.path(), "blob").pop().expect("large entries go to blob files");
    let file = fs::OpenOptions::new().write(true).open(blob).expect("there");
    file.write_all_at(&[8], 25_000).expect("damaged");
    let again = open(dir.path());
    match again.get(LedgerId(1), EntryId(0)) {
        Err(_) => {}
        Ok(Some(bytes)) => assert!(SealedEntry::open(bytes, LedgerId(1), EntryId(0)).is_err()),
        Ok(None) => panic!("damage must never look like absence"),
    }
    assert!(again.range(LedgerId(1), EntryId(0), conformance::ALL).is_err());
}

#[test]
fn the_journal_may_have_a_disk_of_its_own() {
    let (data, wal) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let options = RocksOptions { wal_dir: Some(wal.path().into()), ..RocksOptions::default() };
    let store = RocksStore::open(data.path(), &options, true).expect("opens");
    store.commit(&batch_of([Write::Entry(entry(1, 0, &[7; 50_000]))])).expect("committed");
    assert!(size_of(wal.path(), "log") > 50_000 && files(data.path(), "log").is_empty());
}

#[test]
fn deleting_gives_space_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = RocksOptions { write_buffer: 4 << 20, ..RocksOptions::default() };
    let store = RocksStore::open(dir.path(), &options, true).expect("opens");
    // Two ledgers of 20 MB each, mixed.
    for id in 0..40 {
        let entries = [1, 2].map(|ledger| Write::Entry(entry(ledger, id, &vec![id as u8; 500_000])));
        store.commit(&batch_of(entries)).expect("committed");
    }
    store.with(|db| db.flush_cf(&family(db, keys::CF_ENTRY)).map_err(failed)).expect("flushed");
    let before = size_of(dir.path(), "blob");
    assert!(before >= 40_000_000, "{before}");
    store.commit(&batch_of([Write::Drop(LedgerId(1)), Write::Drop(LedgerId(2))])).expect("committed");
    store.reclaim(&[LedgerId(1), LedgerId(2)]).expect("reclaimed");
    let after = size_of(dir.path(), "blob");
    assert!(after < before / 10, "{after} of {before} bytes are left");
}

#[test]
fn it_says_how_much_it_has_yet_to_flush() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let before = store.unflushed().expect("known");
    let body = vec![7; 1 << 20];
    store.commit(&batch_of([Write::Entry(entry(1, 0, &body))])).expect("stored");
    assert!(store.unflushed().expect("known") >= before + (1 << 20));
}
