//! The store on RocksDB. Its write-ahead log is the journal: one synced write carries a whole batch, so an entry and
//! the fence before it can never come back one without the other.
//!
//! Owns the one writer of the database and the meaning of its errors; never judges a request. Keeps the commit number
//! dense: each batch that is committed has the next one, and carries it.

mod options;
mod space;

use super::{Batch, EntryStore, ReadLimits, StoreError, StoreState, Write, keys};
use crate::ledger::{Floor, LedgerRecord};
use bytes::{Buf, Bytes};
pub use options::RocksOptions;
use parking_lot::{Mutex, RwLock};
use protocol::id::{EntryId, LedgerId};
use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DBRawIteratorWithThreadMode, DBWithThreadMode, ErrorKind, MultiThreaded,
    ReadOptions, WaitForCompactOptions, WriteBatch, WriteOptions,
};
use std::{path::Path, sync::Arc};

type Db = DBWithThreadMode<MultiThreaded>;
type Cursor<'a> = DBRawIteratorWithThreadMode<'a, Db>;

/// Readahead of runs that are longer than one entry, in bytes.
const READAHEAD: usize = 1 << 20;

/// The write buffers that are not flushed, in bytes. The other column families hold next to nothing.
const UNFLUSHED: &str = "rocksdb.cur-size-all-mem-tables";

/// Why the store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the store is in use by another process")]
    Locked,
    /// Written by a newer Magnetar.
    #[error("the store has format version {found}, this version knows {}", keys::FORMAT)]
    Newer {
        /// The version found.
        found: u32,
    },
    /// There is no store here, and none was to be made.
    #[error("there is no store")]
    Missing,
    /// The journal or the files are damaged.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// An [`EntryStore`] on RocksDB.
pub struct RocksStore {
    /// None after it was closed.
    db: RwLock<Option<Db>>,
    /// The number of the last batch; held while one is written, so that numbers are dense.
    commit: Mutex<u64>,
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("commit", &*self.commit.lock()).finish_non_exhaustive()
    }
}

impl RocksStore {
    /// Opens the store in `path`, and makes it if `create` is set and there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, options: &RocksOptions, create: bool) -> Result<Self, OpenError> {
        if !create && !path.join("CURRENT").exists() {
            return Err(OpenError::Missing);
        }
        let families = [
            ColumnFamilyDescriptor::new(keys::CF_SYS, options.small_family()),
            ColumnFamilyDescriptor::new(keys::CF_LEDGER, options.small_family()),
            ColumnFamilyDescriptor::new(keys::CF_ENTRY, options.entry_family()),
        ];
        let db = Db::open_cf_descriptors(&options.database(space::writes_directly(path)), path, families)
            .map_err(|e| explain(&e))?;
        check_format(&db)?;
        let commit = read_state(&db).map_err(|e| OpenError::Damaged(e.to_string()))?.commit;
        Ok(Self { db: RwLock::new(Some(db)), commit: Mutex::new(commit) })
    }

    /// Flushes, and waits until no file is to be merged. For measurements, and before a store is copied.
    ///
    /// # Errors
    /// What the database says.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut how = WaitForCompactOptions::default();
        how.set_flush(true);
        self.with(|db| db.wait_for_compact(&how).map_err(failed))
    }

    fn with<T>(&self, work: impl FnOnce(&Db) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.db.read().as_ref().map_or(Err(StoreError::Closed), work)
    }

    fn write(db: &Db, batch: &Batch, number: u64) -> Result<(), StoreError> {
        let (sys, ledger, entry) = (family(db, keys::CF_SYS), family(db, keys::CF_LEDGER), family(db, keys::CF_ENTRY));
        // About 64 bytes per change beside the entries; without it the buffer is copied each time it grows.
        let mut out = WriteBatch::with_capacity_bytes(batch.bytes + batch.writes.len() * 64 + 128);
        for write in &batch.writes {
            match write {
                Write::Entry(e) => out.put_cf(&entry, keys::entry(e.ledger(), e.entry()), e.bytes()),
                Write::Ledger(id, record) => out.put_cf(&ledger, keys::ledger(*id), keys::encode_record(record)),
                Write::Drop(id) => {
                    let (start, end) = keys::ledger_range(*id);
                    out.delete_range_cf(&entry, start, end);
                }
                Write::Limbo(limbo) => out.put_cf(&sys, keys::SYS_LIMBO, [u8::from(*limbo)]),
                Write::Floor(floor) => out.put_cf(&sys, keys::SYS_FLOOR, floor.0.0.to_be_bytes()),
            }
        }
        out.put_cf(&sys, keys::SYS_COMMIT, number.to_be_bytes());
        let mut how = WriteOptions::default();
        how.set_sync(true);
        db.write_opt(out, &how).map_err(failed)
    }
}

impl EntryStore for RocksStore {
    fn commit(&self, batch: &Batch) -> Result<u64, StoreError> {
        let mut commit = self.commit.lock();
        let number = *commit + 1;
        self.with(|db| Self::write(db, batch, number))?;
        *commit = number;
        Ok(number)
    }

    fn get(&self, ledger: LedgerId, entry: EntryId) -> Result<Option<Bytes>, StoreError> {
        self.with(|db| {
            let value = db.get_pinned_cf(&family(db, keys::CF_ENTRY), keys::entry(ledger, entry)).map_err(failed)?;
            Ok(value.map(|v| Bytes::copy_from_slice(&v)))
        })
    }

    fn range(&self, ledger: LedgerId, first: EntryId, limits: ReadLimits) -> Result<Vec<Bytes>, StoreError> {
        self.with(|db| {
            let mut cursor = cursor(db, ledger, if limits.count > 1 { READAHEAD } else { 0 });
            cursor.seek(keys::entry(ledger, first));
            let (mut run, mut bytes) = (Vec::new(), 0);
            while let Some((key, value)) = cursor.item() {
                let (_, id) = keys::parse_entry(key)?;
                let full = run.len() >= limits.count || bytes + value.len() > limits.bytes;
                if id.0 != first.0 + run.len() as u64 || (full && !run.is_empty()) {
                    break;
                }
                bytes += value.len();
                run.push(Bytes::copy_from_slice(value));
                cursor.next();
            }
            // A damaged entry behind good ones ends the run; asked for by itself it is an error.
            match cursor.status() {
                Err(problem) if run.is_empty() => healed(db, ledger, first, problem).map(|entry| vec![entry]),
                Ok(()) | Err(_) => Ok(run),
            }
        })
    }

    fn last(&self, ledger: LedgerId) -> Result<Option<(EntryId, Bytes)>, StoreError> {
        self.with(|db| {
            let mut cursor = cursor(db, ledger, 0);
            cursor.seek_to_last();
            cursor.status().map_err(failed)?;
            let Some((key, value)) = cursor.item() else { return Ok(None) };
            Ok(Some((keys::parse_entry(key)?.1, Bytes::copy_from_slice(value))))
        })
    }

    fn visit(
        &self,
        ledger: LedgerId,
        first: EntryId,
        visit: &mut dyn FnMut(EntryId) -> bool,
    ) -> Result<(), StoreError> {
        self.with(|db| {
            let mut cursor = cursor(db, ledger, READAHEAD);
            let mut next = first;
            loop {
                cursor.seek(keys::entry(ledger, next));
                while let Some(key) = cursor.key() {
                    let (_, id) = keys::parse_entry(key)?;
                    if !visit(id) {
                        return Ok(());
                    }
                    next = id.next();
                    cursor.next();
                }
                let Err(problem) = cursor.status() else { return Ok(()) };
                healed(db, ledger, next, problem)?;
                if !visit(next) {
                    return Ok(());
                }
                next = next.next();
            }
        })
    }

    fn ledger(&self, ledger: LedgerId) -> Result<Option<LedgerRecord>, StoreError> {
        self.with(|db| {
            let value = db.get_pinned_cf(&family(db, keys::CF_LEDGER), keys::ledger(ledger)).map_err(failed)?;
            value.map(|v| keys::decode_record(&v)).transpose()
        })
    }

    fn ledgers(&self, after: Option<LedgerId>, limit: usize) -> Result<Vec<(LedgerId, LedgerRecord)>, StoreError> {
        self.with(|db| {
            let mut cursor = db.raw_iterator_cf(&family(db, keys::CF_LEDGER));
            match after {
                // The key that follows directly: a zero byte is the smallest thing that can be appended.
                Some(id) => cursor.seek([&keys::ledger(id)[..], &[0]].concat()),
                None => cursor.seek_to_first(),
            }
            let mut found = Vec::new();
            while found.len() < limit
                && let Some((key, value)) = cursor.item()
            {
                found.push((keys::parse_ledger(key)?, keys::decode_record(value)?));
                cursor.next();
            }
            cursor.status().map_err(failed)?;
            Ok(found)
        })
    }

    fn state(&self) -> Result<StoreState, StoreError> {
        self.with(read_state)
    }

    fn reclaim(&self, dropped: &[LedgerId]) -> Result<(), StoreError> {
        self.with(|db| space::give_back(db, &family(db, keys::CF_ENTRY), dropped))
    }

    fn unflushed(&self) -> Result<u64, StoreError> {
        self.with(|db| {
            let bytes = db.property_int_value_cf(&family(db, keys::CF_ENTRY), UNFLUSHED).map_err(failed)?;
            Ok(bytes.unwrap_or(0))
        })
    }

    fn close(&self) -> Result<(), StoreError> {
        let flushed = self.with(|db| {
            // Not needed for durability: the journal is synced. It spares the next start the replay.
            let flushed = [keys::CF_SYS, keys::CF_LEDGER, keys::CF_ENTRY]
                .into_iter()
                .try_for_each(|name| db.flush_cf(&family(db, name)).map_err(failed));
            // Ends a merge that somebody waits for, which would hold the database open.
            db.cancel_all_background_work(false);
            flushed
        });
        // From here on every other call answers that the store is closed.
        drop(self.db.write().take());
        match flushed {
            Err(StoreError::Closed) => Ok(()),
            flushed => flushed,
        }
    }
}

/// The column family, which exists because opening made it.
fn family<'a>(db: &'a Db, name: &str) -> Arc<BoundColumnFamily<'a>> {
    db.cf_handle(name).expect("every column family is opened with the database")
}

/// A cursor that sees one ledger only, and leaves the cache to others.
fn cursor(db: &Db, ledger: LedgerId, readahead: usize) -> Cursor<'_> {
    let mut options = ReadOptions::default();
    let (start, end) = keys::ledger_range(ledger);
    options.set_iterate_lower_bound(start);
    options.set_iterate_upper_bound(end);
    options.fill_cache(false);
    options.set_readahead_size(readahead);
    db.raw_iterator_cf_opt(&family(db, keys::CF_ENTRY), options)
}

/// An entry at which a cursor has failed, if it was written again since: its earlier value still lies in the damaged block,
/// which a cursor has to read and a look-up does not. Otherwise the problem stands, also where there is no such entry:
/// what else lies in that block nobody knows.
fn healed(db: &Db, ledger: LedgerId, entry: EntryId, problem: rocksdb::Error) -> Result<Bytes, StoreError> {
    match db.get_pinned_cf(&family(db, keys::CF_ENTRY), keys::entry(ledger, entry)) {
        Ok(Some(value)) => Ok(Bytes::copy_from_slice(&value)),
        Ok(None) | Err(_) => Err(failed(problem)),
    }
}

fn read_state(db: &Db) -> Result<StoreState, StoreError> {
    let sys = family(db, keys::CF_SYS);
    let number = |key, what: &str| match db.get_pinned_cf(&sys, key).map_err(failed)? {
        Some(value) => value.as_ref().try_get_u64().map_err(|e| StoreError::Damaged(format!("{what}: {e}"))),
        None => Ok(0),
    };
    let commit = number(keys::SYS_COMMIT, "commit number")?;
    let floor = Floor(LedgerId(number(keys::SYS_FLOOR, "floor")?));
    let limbo = db.get_pinned_cf(&sys, keys::SYS_LIMBO).map_err(failed)?.is_some_and(|v| v[..] != [0]);
    Ok(StoreState { commit, limbo, floor })
}

/// Refuses a newer format by name; writes ours into a store that was just made.
fn check_format(db: &Db) -> Result<(), OpenError> {
    let sys = family(db, keys::CF_SYS);
    let found = db.get_pinned_cf(&sys, keys::SYS_FORMAT).map_err(|e| explain(&e))?;
    match found.map(|value| value.as_ref().try_get_u32()) {
        Some(Ok(keys::FORMAT)) => Ok(()),
        Some(Ok(found)) => Err(OpenError::Newer { found }),
        Some(Err(problem)) => Err(OpenError::Damaged(format!("format version: {problem}"))),
        None => {
            let mut how = WriteOptions::default();
            how.set_sync(true);
            db.put_cf_opt(&sys, keys::SYS_FORMAT, keys::FORMAT.to_be_bytes(), &how).map_err(|e| explain(&e))
        }
    }
}

fn failed(problem: rocksdb::Error) -> StoreError {
    match problem.kind() {
        ErrorKind::Corruption => StoreError::Damaged(problem.into_string()),
        _ => StoreError::Failed(problem.into_string()),
    }
}

fn explain(problem: &rocksdb::Error) -> OpenError {
    let text = problem.to_string();
    match problem.kind() {
        ErrorKind::Corruption => OpenError::Damaged(text),
        ErrorKind::IOError if text.contains("lock") => OpenError::Locked,
        _ => OpenError::Failed(text),
    }
}

#[cfg(test)]
mod tests;
