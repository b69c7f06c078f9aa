//! One flipped bit, in every kind of file and at several places: whatever was acknowledged is served as it was, or the
//! bookie says that it does not know, or it does not start. It never denies, and never answers with something else.

use super::*;
use std::collections::BTreeSet;

/// The places in a file, in tenths of its length.
const PLACES: [u64; 4] = [0, 3, 6, 9];
/// Entries of each ledger that are in files, and those that are in the journal only.
const STORED: (u64, u64) = (8, 4);

/// Flips one bit of a file.
pub(super) fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
}

fn content(id: u64, size: usize) -> Vec<u8> {
    vec![id as u8 + 1; size]
}

/// Ledger 1 has large entries, ledger 2 small ones.
const SIZES: [(u64, usize); 2] = [(1, 6000), (2, 60)];

async fn fill(bookie: &Bookie, ids: std::ops::Range<u64>) {
    for (ledger, size) in SIZES {
        for id in ids.clone() {
            let entry = entry(ledger, id, &content(id, size));
            let add = AddEntry { member: bookie.member(), key: KEY, recovery: false, entry };
            bookie.service().add_entry(add).await.expect("stored");
        }
    }
}

/// A bookie with entries in files and in its journal, a fence and a tombstone; as it lies on the disk after a crash.
async fn prepare() -> World {
    let world = World::new();
    let bookie = world.start().await;
    fill(&bookie, 0..STORED.0).await;
    fence(&bookie, 3).await.expect("fenced");
    let delete = DeleteLedger { member: bookie.member(), ledger: LedgerId(4) };
    bookie.service().delete_ledger(delete).await.expect("deleted");
    bookie.stop().await;
    let bookie = world.start().await;
    fill(&bookie, STORED.0..STORED.0 + STORED.1).await;
    fence(&bookie, 5).await.expect("fenced");
    advance(&bookie.watermark, &bookie.service.0.shared.synced);
    let last = STORED.0 + STORED.1 - 1;
    let us = &[bookie.member()][..];
    let mut ledgers: Vec<_> = SIZES.iter().map(|(id, _)| ledger(*id, &[(0, us)], closed(last))).collect();
    ledgers.push(ledger(5, &[(0, us)], LedgerState::Open));
    publish(&world.metadata, ledgers);
    let crashed = world.crashed();
    bookie.stop().await;
    crashed
}

/// The files of the store and beside it, without the log for people.
fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for file in fs::read_dir(dir).expect("readable") {
        let path = file.expect("readable").path();
        let name = path.file_name().expect("named").to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path, into);
        } else if !name.starts_with("LOG") && !name.eq_ignore_ascii_case("lock") {
            into.push(path);
        }
    }
}

fn kind(path: &Path) -> String {
    let name = path.file_name().expect("named").to_string_lossy().into_owned();
    let stem = |c: char| c.is_ascii_digit() || c == '-';
    path.extension().map_or_else(|| name.trim_end_matches(stem).into(), |e| e.to_string_lossy().into_owned())
}

/// Whether all that was acknowledged is known, in some way.
async fn check(bookie: &Bookie, told: &str) {
    let is_honest = |problem: &BookieError| {
        matches!(problem, BookieError::Unknown { .. } | BookieError::Storage { .. } | BookieError::ReadOnly { .. })
    };
    for (ledger, size) in SIZES {
        for id in 0..STORED.0 + STORED.1 {
            let first = EntryId(id);
            let member = bookie.member();
            let (max_count, max_bytes) = (1, 1 << 20);
            let read = ReadEntries { member, ledger: LedgerId(ledger), first, max_count, max_bytes, fence: None };
            match bookie.service().read_entries(read).await {
                Ok(run) => assert_eq!(run.entries[0], entry(ledger, id, &content(id, size)), "{told}: {ledger}/{id}"),
                Err(problem) => assert!(is_honest(&problem), "{told}: {ledger}/{id}: {problem}"),
            }
        }
    }
    for ledger in [3, 5] {
        match add(bookie, ledger, 0).await {
            Err(BookieError::Fenced(_)) => {}
            Err(problem) => assert!(is_honest(&problem), "{told}: the fence of {ledger}: {problem}"),
            Ok(()) => panic!("{told}: the fence of {ledger} is forgotten"),
        }
    }
    match add(bookie, 4, 0).await {
        Err(BookieError::Deleted(_)) => {}
        Err(problem) => assert!(is_honest(&problem), "{told}: the tombstone: {problem}"),
        Ok(()) => panic!("{told}: the tombstone is forgotten"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_file_never_becomes_a_wrong_answer() {
    let image = prepare().await;
    let mut all = Vec::new();
    files(image.dir.path(), &mut all);
    let (mut kinds, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for path in all {
        let length = fs::metadata(&path).expect("there").len();
        if length == 0 {
            continue;
        }
        let places: BTreeSet<u64> = PLACES.iter().map(|tenth| length * tenth / 10).chain([length - 1]).collect();
        for at in places {
            let hurt = image.crashed();
            let inside = path.strip_prefix(image.dir.path()).expect("below it");
            flip(&hurt.dir.path().join(inside), at);
            let told = format!("{} of {length} bytes, at {at}", inside.display());
            let config = BookieConfig { scrub_interval_ms: 0, tail_bytes: 0, ..hurt.config() };
            kinds.insert(kind(&path));
            match hurt.try_start(config).await {
                Ok(bookie) => {
                    check(&bookie, &told).await;
                    bookie.stop().await;
                    assert_ne!(kind(&path), "cookie", "{told}: a damaged identity is no identity");
                }
                Err(problem) => {
                    assert!(problem.to_string().len() > 30, "{told}: {problem}");
                    refused.insert(kind(&path));
                }
            }
        }
    }
    for wanted in ["MANIFEST", "CURRENT", "sst", "blob", "log", "watermark", "cookie"] {
        assert!(kinds.contains(wanted), "{wanted} is among {kinds:?}");
    }
    for wanted in ["MANIFEST", "CURRENT", "log", "cookie"] {
        assert!(refused.contains(wanted), "{wanted} is among {refused:?}");
    }
}
