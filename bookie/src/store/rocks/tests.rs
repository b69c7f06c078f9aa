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
    let floor = Floor(LedgerId(258));
    again.commit(&batch_of([Write::Floor(floor)])).expect("committed");
    let copy = crashed(copy.path());
    assert_eq!(open(copy.path()).state().expect("state").floor, floor);
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

/// A store with its journal in a directory of its own.
fn open_apart(data: &Path, wal: &Path) -> RocksStore {
    let options = RocksOptions { wal_dir: Some(wal.into()), ..RocksOptions::default() };
    RocksStore::open(data, &options, true).expect("opens")
}

#[test]
fn the_journal_may_have_a_disk_of_its_own() {
    let (data, wal) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let store = open_apart(data.path(), wal.path());
    store.commit(&batch_of([Write::Entry(entry(1, 0, &[7; 50_000]))])).expect("committed");
    assert!(size_of(wal.path(), "log") > 50_000 && files(data.path(), "log").is_empty());
    let (data_image, wal_image) = (crashed(data.path()), crashed(wal.path()));
    store.commit(&batch_of([Write::Entry(entry(1, 1, &[8; 50_000]))])).expect("committed");
    store.close().expect("closed");
    let count = |store: &RocksStore| store.range(LedgerId(1), EntryId(0), conformance::ALL).expect("read").len();
    assert_eq!(count(&open_apart(data.path(), wal.path())), 2, "after a clean stop");
    let again = open_apart(data_image.path(), wal_image.path());
    assert_eq!((count(&again), again.state().expect("state").commit), (1, 1), "after a crash");
}

#[test]
fn nothing_is_written_after_the_sync_that_acknowledges() {
    for apart in [false, true] {
        let (data, wal) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let journal_dir = if apart { wal.path() } else { data.path() };
        let open = |data: &Path, wal: &Path| if apart { open_apart(data, wal) } else { self::open(data) };
        let store = open(data.path(), wal.path());
        for id in 0..5 {
            let writes =
                [Write::Entry(entry(1, id, &[id as u8; 30_000])), Write::Ledger(LedgerId(id), LedgerRecord::Deleted)];
            assert_eq!(store.commit(&batch_of(writes)), Ok(id + 1));
            // The disk as it is the moment the answer is there.
            let (data_image, wal_image) = (crashed(data.path()), crashed(wal.path()));
            let then = fs::read(journal(journal_dir)).expect("readable");
            assert!(store.get(LedgerId(1), EntryId(id)).expect("read").is_some());
            assert_eq!(fs::read(journal(journal_dir)).expect("readable"), then, "the journal was complete");
            let again = open(data_image.path(), wal_image.path());
            assert_eq!(again.state().expect("state").commit, id + 1);
            assert_eq!(again.range(LedgerId(1), EntryId(0), conformance::ALL).map(|run| run.len() as u64), Ok(id + 1));
            assert_eq!(again.ledger(LedgerId(id)), Ok(Some(LedgerRecord::Deleted)), "the whole batch");
        }
    }
}

/// Writes these ledgers in turns, `count` entries of `size` bytes each, and flushes them.
fn fill(store: &RocksStore, ledgers: std::ops::Range<u64>, count: u64, size: usize) {
    for id in 0..count {
        let body = vec![id as u8; size];
        store
            .commit(&batch_of(ledgers.clone().map(|ledger| Write::Entry(entry(ledger, id, &body)))))
            .expect("committed");
    }
    store.settle().expect("settled");
}

#[test]
fn deleting_gives_space_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = RocksOptions { write_buffer: 4 << 20, ..RocksOptions::default() };
    let store = RocksStore::open(dir.path(), &options, true).expect("opens");
    fill(&store, 1..3, 40, 500_000);
    let before = size_of(dir.path(), "blob");
    assert!(before >= 40_000_000, "{before}");
    store.commit(&batch_of([Write::Drop(LedgerId(1)), Write::Drop(LedgerId(2))])).expect("committed");
    store.reclaim(&[LedgerId(1), LedgerId(2)]).expect("reclaimed");
    let after = size_of(dir.path(), "blob");
    assert!(after < before / 10, "{after} of {before} bytes are left");
}

#[test]
fn living_entries_do_not_keep_their_dead_neighbours() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = RocksOptions { write_buffer: 2 << 20, ..RocksOptions::default() };
    let store = RocksStore::open(dir.path(), &options, true).expect("opens");
    // Ten ledgers share every blob file; every second one dies, one after the other.
    fill(&store, 0..10, 40, 50_000);
    let before = size_of(dir.path(), "blob");
    for ledger in (0..10).step_by(2).map(LedgerId) {
        store.commit(&batch_of([Write::Drop(ledger)])).expect("committed");
        store.reclaim(&[ledger]).expect("reclaimed");
    }
    let (after, living) = (size_of(dir.path(), "blob"), before / 2);
    assert!(after < living + living / 2, "{after} bytes are left of {before}, {living} live");
    for ledger in 0..10 {
        let run = store.range(LedgerId(ledger), EntryId(0), conformance::ALL).expect("read");
        assert_eq!(run.len(), if ledger % 2 == 0 { 0 } else { 40 }, "ledger {ledger}");
        for (id, bytes) in (0..).zip(run) {
            let opened = SealedEntry::open(bytes, LedgerId(ledger), EntryId(id)).expect("whole");
            assert_eq!(opened.payload()[..], vec![id as u8; 50_000][..]);
        }
    }
    store.close().expect("closed");
    let again = RocksStore::open(dir.path(), &options, false).expect("opens");
    assert_eq!(again.range(LedgerId(9), EntryId(0), conformance::ALL).map(|run| run.len()), Ok(40));
}

#[test]
fn a_listing_over_damage_is_an_error_and_never_shorter() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    fill(&store, 1..2, 10, 50_000);
    store.close().expect("closed");
    for blob in files(dir.path(), "blob") {
        let file = fs::OpenOptions::new().write(true).open(blob).expect("there");
        file.write_all_at(&vec![0xee; 400_000], 1000).expect("damaged");
    }
    let again = open(dir.path());
    let mut named = 0;
    let visited = again.visit(LedgerId(1), EntryId(0), &mut |_| {
        named += 1;
        true
    });
    assert!(visited.is_err() && named < 10, "{named} were named");
    assert!(again.get(LedgerId(1), EntryId(0)).is_err());
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

#[test]
fn what_was_healed_is_served_although_its_damaged_block_is_still_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let count = 300;
    fill(&store, 1..2, count, 500);
    store.close().expect("closed");
    let size = |table: &PathBuf| fs::metadata(table).expect("there").len();
    let largest = files(dir.path(), "sst").into_iter().max_by_key(size).expect("a table");
    let file = fs::OpenOptions::new().write(true).open(&largest).expect("there");
    file.write_all_at(&[0xee; 64], size(&largest) / 3).expect("damaged");
    let again = open(dir.path());
    let listed = |store: &RocksStore| {
        let mut named = Vec::new();
        let end = store.visit(LedgerId(1), EntryId(0), &mut |id| {
            named.push(id.0);
            true
        });
        end.map(|()| named)
    };
    assert!(listed(&again).is_err(), "otherwise nothing is damaged");
    let damaged: Vec<u64> = (0..count).filter(|id| again.get(LedgerId(1), EntryId(*id)).is_err()).collect();
    assert!(!damaged.is_empty() && damaged.len() < count as usize, "{damaged:?}");
    for id in &damaged {
        assert!(again.range(LedgerId(1), EntryId(*id), conformance::ALL).is_err());
        again.commit(&batch_of([Write::Entry(entry(1, *id, &[9; 500]))])).expect("healed");
    }
    assert_eq!(listed(&again), Ok((0..count).collect()));
    let mut next = 0;
    while next < count {
        let run = again.range(LedgerId(1), EntryId(next), conformance::ALL).expect("served");
        assert!(!run.is_empty(), "entry {next}");
        next += run.len() as u64;
    }
}
