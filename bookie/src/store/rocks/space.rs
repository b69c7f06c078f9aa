//! Giving the space of deleted ledgers back, and what the file system under the store can do.
//!
//! Owns the two steps of it: dropped keys are merged away, which says how much of the blob files is garbage, and when that
//! is much, living entries are copied out of them. Files are never deleted by key range: RocksDB would then not learn what
//! of their blob files is garbage, and keep those for as long as an older one is in use.

use super::{Db, failed, keys, options};
use crate::store::StoreError;
use protocol::id::LedgerId;
use rocksdb::{BoundColumnFamily, CompactOptions, WaitForCompactOptions};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

/// The part of all bytes in blob files that may be garbage before living entries are copied. A copy costs up to
/// (1 - HIGH) / HIGH = 3 bytes for each that is given back.
const HIGH: f64 = 0.25;
/// The part at which copying ends.
pub(super) const LOW: f64 = 0.15;
/// Ledgers whose ids are this close are merged in one go, with what lies between them.
const NEAR: u64 = 1000;
/// How long one look at the copying takes, in microseconds, and how many there are before the next deletion looks again.
const LOOK: (u64, usize) = (10_000_000, 60);

/// Bytes in blob files, and the part of them that no key names.
const TOTAL: &str = "rocksdb.live-blob-file-size";
const GARBAGE: &str = "rocksdb.live-blob-file-garbage-size";

/// Gives the space of ledgers back whose entries were dropped. Takes as long as it takes.
pub(super) fn give_back(db: &Db, entry: &Arc<BoundColumnFamily<'_>>, dropped: &[LedgerId]) -> Result<(), StoreError> {
    let mut how = CompactOptions::default();
    // Others may merge meanwhile.
    how.set_exclusive_manual_compaction(false);
    for (first, last) in neighbours(dropped) {
        let (start, end) = (keys::ledger_range(first).0, keys::ledger_range(last).1);
        db.compact_range_cf_opt(entry, Some(start), Some(end), &how);
    }
    if garbage(db, entry)? < HIGH {
        return Ok(());
    }
    db.set_options_cf(entry, &options::collecting(true)).map_err(failed)?;
    let mut wait = WaitForCompactOptions::default();
    wait.set_timeout(LOOK.0);
    for _ in 0..LOOK.1 {
        // It ends early when nothing is left to copy, and with an error when the time is over.
        let looked = db.wait_for_compact(&wait);
        if looked.is_ok() || garbage(db, entry)? < LOW {
            break;
        }
    }
    db.set_options_cf(entry, &options::collecting(false)).map_err(failed)
}

/// The part of all bytes in blob files that is garbage.
fn garbage(db: &Db, entry: &Arc<BoundColumnFamily<'_>>) -> Result<f64, StoreError> {
    let read = |name: &str| db.property_int_value_cf(entry, name).map_err(failed).map(Option::unwrap_or_default);
    let (total, garbage) = (read(TOTAL)?, read(GARBAGE)?);
    #[expect(clippy::cast_precision_loss, reason = "a part of a whole")]
    Ok(if total == 0 { 0.0 } else { garbage as f64 / total as f64 })
}

/// The first and the last of each group of ledgers that are near each other.
fn neighbours(dropped: &[LedgerId]) -> Vec<(LedgerId, LedgerId)> {
    let mut dropped = dropped.to_vec();
    dropped.sort_unstable();
    dropped.chunk_by(|a, b| b.0 - a.0 <= NEAR).map(|run| (run[0], run[run.len() - 1])).collect()
}

/// Whether files in a directory can be written past the cache of the system. A file system that cannot says so when a
/// file is opened.
pub(super) fn writes_directly(dir: &Path) -> bool {
    let probe = dir.join("direct.probe");
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    let made = fs::create_dir_all(dir)
        .and_then(|()| OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(&probe));
    drop(fs::remove_file(&probe));
    made.is_ok() && flags != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ledgers_are_merged_in_one_go() {
        let groups = |ids: &[u64]| {
            let ids: Vec<_> = ids.iter().map(|id| LedgerId(*id)).collect();
            neighbours(&ids).into_iter().map(|(first, last)| (first.0, last.0)).collect::<Vec<_>>()
        };
        assert_eq!(groups(&[]), []);
        assert_eq!(groups(&[7]), [(7, 7)]);
        assert_eq!(groups(&[1007, 9, 8, 7, 5000, 5000]), [(7, 1007), (5000, 5000)]);
        assert_eq!(groups(&[0, u64::MAX]), [(0, 0), (u64::MAX, u64::MAX)]);
    }

    #[test]
    fn the_probe_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        writes_directly(&dir.path().join("store"));
        assert_eq!(fs::read_dir(dir.path().join("store")).expect("made").count(), 0);
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(!writes_directly(file.path()), "a place that cannot be written is not asked for more");
    }
}
