//! The RocksDB below raft: one database with two column families.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `log` | index, big-endian u64 | version byte, CRC-32C, entry as MessagePack |
//! | `meta` | `life`, `place`, `vote`, `committed`, `purged`, `snapshot` | version byte, CRC-32C, MessagePack |
//! | `meta` | `format` | version byte |
//!
//! Owns the encoding of values and the choice between synced and unsynced writes; never decides what raft stores, and
//! leaves opening to [`directory`](super::directory). The write-ahead log keeps writes in order, so a synced write makes
//! every earlier one durable too. What is damaged is an error, never an absence.

use super::{
    LogId,
    identity::{Identity, Place},
};
use openraft::AnyError;
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch, WriteOptions};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// The format of the directory and of every value in it.
pub(super) const FORMAT: u8 = 2;
/// The version byte and the checksum before a value.
const HEAD: usize = 5;

const LOG: &str = "log";
const META: &str = "meta";

/// All column families.
pub(super) const FAMILIES: [&str; 2] = [LOG, META];

/// A failed read or write, or a value that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("{0}")]
    Database(#[from] rocksdb::Error),
    /// The value was written by a newer Magnetar.
    #[error("{what} has format {found}, this version knows {FORMAT}")]
    Version {
        /// Which value.
        what: &'static str,
        /// The format found.
        found: u8,
    },
    /// The value is not what was written.
    #[error("{what} is damaged: its checksum does not match")]
    Damaged {
        /// Which value.
        what: &'static str,
    },
    /// The value is not what it should be.
    #[error("{what} cannot be decoded: {reason}")]
    Malformed {
        /// Which value.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl From<StoreError> for AnyError {
    fn from(error: StoreError) -> Self {
        Self::new(&error)
    }
}

/// Single values beside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meta {
    /// Which life of a disk this directory is.
    Life,
    /// The place of the node that it belongs to.
    Place,
    /// The vote.
    Vote,
    /// The last committed entry, as far as it was noted.
    Committed,
    /// The last purged entry.
    Purged,
    /// The current snapshot.
    Snapshot,
}

impl Meta {
    const fn name(self) -> &'static str {
        match self {
            Self::Life => "life",
            Self::Place => "place",
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Purged => "purged",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The open database.
pub struct Store {
    // Dropped in this order: whoever waits for `closed` may open the directory again.
    db: DB,
    closed: CancellationToken,
    _announce: DropGuard,
    /// Makes every write fail, as a broken disk does.
    #[cfg(test)]
    pub(crate) broken: std::sync::atomic::AtomicBool,
    /// Whether writes wait, as on a disk that hangs.
    #[cfg(test)]
    hanging: (parking_lot::Mutex<bool>, parking_lot::Condvar),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.db.path()).finish_non_exhaustive()
    }
}

impl Store {
    /// A store in an open database that has all [`FAMILIES`].
    pub(super) fn over(db: DB) -> Self {
        let closed = CancellationToken::new();
        Self {
            db,
            _announce: closed.clone().drop_guard(),
            closed,
            #[cfg(test)]
            broken: std::sync::atomic::AtomicBool::new(false),
            #[cfg(test)]
            hanging: Default::default(),
        }
    }

    /// The format the directory was founded with; `None` if it is new.
    pub(super) fn format(&self) -> Result<Option<u8>, StoreError> {
        let value = self.db.get_cf(self.family(META), "format")?;
        Ok(value.map(|bytes| bytes.first().copied().unwrap_or_default()))
    }

    /// Writes the format and the life into a new directory; durable on return.
    pub(super) fn found(&self, format: u8, life: Uuid) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), "format", [format]);
        batch.put_cf(self.family(META), Meta::Life.name(), encode(&life));
        self.write(batch, true)
    }

    /// Who the node of this directory is.
    pub(super) fn identity(&self) -> Result<Identity, StoreError> {
        let missing = || StoreError::Malformed { what: "the life of this directory", reason: "it is missing".into() };
        Ok(Identity { life: self.read_meta(Meta::Life)?.ok_or_else(missing)?, place: self.read_meta(Meta::Place)? })
    }

    /// Writes the place that the node has founded or joined; durable on return.
    ///
    /// # Errors
    /// The database failed.
    pub fn take_place(&self, place: Place) -> Result<(), StoreError> {
        self.write_meta(Meta::Place, &place)
    }

    /// Cancelled when the database has been closed.
    #[must_use]
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Bytes of the raft log, on disk and in memory, roughly.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        let property = |name| self.db.property_int_value_cf(self.family(LOG), name).ok().flatten().unwrap_or(0);
        property("rocksdb.estimate-live-data-size") + property("rocksdb.cur-size-all-mem-tables")
    }

    #[expect(clippy::expect_used, reason = "both families are opened or created in `open`")]
    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("the column family was opened")
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        #[cfg(test)]
        self.hanging.1.wait_while(&mut self.hanging.0.lock(), |hanging| *hanging);
        #[cfg(test)]
        if self.broken.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StoreError::Malformed { what: "a write", reason: "the disk is broken".into() });
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        Ok(self.db.write_opt(batch, &options)?)
    }

    /// A single value.
    pub(super) fn read_meta<T: DeserializeOwned>(&self, key: Meta) -> Result<Option<T>, StoreError> {
        let value = self.db.get_cf(self.family(META), key.name())?;
        value.map(|v| decode(key.name(), &v)).transpose()
    }

    /// Writes a single value; durable on return.
    pub(super) fn write_meta<T: Serialize>(&self, key: Meta, value: &T) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), key.name(), encode(value));
        self.write(batch, true)
    }

    /// Lets node `me`, if it has led, not go on where it stopped: followers may have entries of its term that it has lost,
    /// and it would write others under the same numbers. That it has voted for itself stays. Durable on return.
    pub(super) fn resign(&self, me: u64) -> Result<(), StoreError> {
        match self.read_meta::<super::Vote>(Meta::Vote)? {
            Some(mut vote) if vote.committed && vote.leader_id.voted_for() == Some(me) => {
                vote.committed = false;
                self.write_meta(Meta::Vote, &vote)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Appends encoded entries, and notes how far the log before them is committed, if that is new; durable on return.
    pub(super) fn append(&self, entries: Vec<(u64, Vec<u8>)>, committed: Option<LogId>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        if committed.is_some() {
            batch.put_cf(self.family(META), Meta::Committed.name(), encode(&committed));
        }
        for (index, entry) in entries {
            batch.put_cf(self.family(LOG), index.to_be_bytes(), entry);
        }
        self.write(batch, true)
    }

    /// Entries from `first` until `take` says stop.
    pub(super) fn read_log<T: DeserializeOwned>(
        &self,
        first: u64,
        mut take: impl FnMut(u64, usize) -> bool,
    ) -> Result<Vec<T>, StoreError> {
        let from = first.to_be_bytes();
        let mut entries = Vec::new();
        for item in self.db.iterator_cf(self.family(LOG), IteratorMode::From(&from, Direction::Forward)) {
            let (key, value) = item?;
            if !take(index_of(&key)?, value.len()) {
                break;
            }
            entries.push(decode("a log entry", &value)?);
        }
        Ok(entries)
    }

    /// The last entry of the log.
    pub(super) fn last_entry<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        match self.db.iterator_cf(self.family(LOG), IteratorMode::End).next() {
            Some(item) => Ok(Some(decode("a log entry", &item?.1)?)),
            None => Ok(None),
        }
    }

    /// Removes the entries from `index` on; durable on return.
    pub(super) fn truncate(&self, index: u64) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.family(LOG), index.to_be_bytes(), u64::MAX.to_be_bytes());
        self.write(batch, true)
    }

    /// Removes the entries up to and including `index`, and notes `purged` in the same write. Not synced: a purge that
    /// is lost is done again, and its snapshot was synced before it: [`super::log::LogStore`] sees to that.
    pub(super) fn purge<T: Serialize>(&self, index: u64, purged: &T) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), Meta::Purged.name(), encode(purged));
        batch.delete_range_cf(self.family(LOG), 0u64.to_be_bytes(), index.saturating_add(1).to_be_bytes());
        self.write(batch, false)
    }

    /// The index of the last purged entry.
    pub(super) fn purged(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.read_meta::<LogId>(Meta::Purged)?.map(|purged| purged.index))
    }

    /// Makes an empty log begin after an entry, in the term of this vote; durable on return.
    pub(crate) fn begin_after(&self, last: &LogId, vote: &super::Vote) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), Meta::Purged.name(), encode(last));
        batch.put_cf(self.family(META), Meta::Committed.name(), encode(&Some(last)));
        batch.put_cf(self.family(META), Meta::Vote.name(), encode(vote));
        self.write(batch, true)
    }

    /// Reads the whole log, so that damage is found before this node votes or leads.
    pub(super) fn verify_log(&self) -> Result<(), StoreError> {
        let purged: Option<LogId> = self.read_meta(Meta::Purged)?;
        let mut next = purged.map_or(0, |purged| purged.index + 1);
        for item in self.db.iterator_cf(self.family(LOG), IteratorMode::Start) {
            let (key, value) = item?;
            let index = index_of(&key)?;
            open("a log entry", &value)?;
            if index > next {
                let reason = format!("entry {index} follows where {next} should");
                return Err(StoreError::Malformed { what: "the log", reason });
            }
            // What was purged may still lie before, if the purge was not synced.
            next = next.max(index + 1);
        }
        Ok(())
    }
}

fn index_of(key: &[u8]) -> Result<u64, StoreError> {
    let bytes = key.try_into().map_err(|_| StoreError::Malformed {
        what: "a key of the log",
        reason: format!("it has {} bytes", key.len()),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// A value as it is stored.
#[expect(clippy::expect_used, reason = "writing plain data to memory cannot fail")]
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    rmp_serde::encode::write_named(&mut bytes, value).expect("raft's values are plain data");
    let sum = crc32c::crc32c(&bytes[HEAD..]);
    bytes[0] = FORMAT;
    bytes[1..HEAD].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The body of a stored value that is what was written.
fn open<'a>(what: &'static str, value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    match value.split_first_chunk::<HEAD>() {
        Some(([FORMAT, sum @ ..], body)) if crc32c::crc32c(body) == u32::from_be_bytes(*sum) => Ok(body),
        Some(([FORMAT, ..], _)) => Err(StoreError::Damaged { what }),
        Some(([found, ..], _)) => Err(StoreError::Version { what, found: *found }),
        None => Err(StoreError::Malformed { what, reason: format!("it has {} bytes", value.len()) }),
    }
}

fn decode<T: DeserializeOwned>(what: &'static str, value: &[u8]) -> Result<T, StoreError> {
    let body = open(what, value)?;
    rmp_serde::from_slice(body).map_err(|e| StoreError::Malformed { what, reason: e.to_string() })
}

/// A disk that hangs, until this is dropped.
#[cfg(test)]
pub(crate) struct Hanging<'a>(&'a Store);

#[cfg(test)]
impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        *self.0.hanging.0.lock() = false;
        self.0.hanging.1.notify_all();
    }
}

#[cfg(test)]
impl Store {
    /// Lets the disk hang.
    pub(crate) fn hang(&self) -> Hanging<'_> {
        *self.hanging.0.lock() = true;
        Hanging(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_and_damaged_values_are_refused_by_name() {
        let value = encode(&5u64);
        assert_eq!(decode::<u64>("a number", &value), Ok(5));
        for at in 1..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert_eq!(decode::<u64>("a number", &damaged), Err(StoreError::Damaged { what: "a number" }), "byte {at}");
        }
        let newer = [&[FORMAT + 1], &value[1..]].concat();
        assert_eq!(decode::<u64>("a number", &newer), Err(StoreError::Version { what: "a number", found: FORMAT + 1 }));
        assert!(matches!(decode::<u64>("a number", &value[..3]), Err(StoreError::Malformed { .. })));
    }

    #[test]
    fn a_damaged_entry_and_a_gap_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = crate::raft::directory::open(dir.path(), None).expect("opens");
        let store = &opened.store;
        store.append((0..=3).map(|n| (n, encode(&n))).collect(), None).expect("writes");
        assert_eq!(store.verify_log(), Ok(()));
        store.append(vec![(5, encode(&5))], None).expect("writes");
        assert!(matches!(store.verify_log(), Err(StoreError::Malformed { what: "the log", .. })));
        store.append(vec![(4, vec![FORMAT, 0, 0, 0, 0, 1])], None).expect("writes");
        assert_eq!(store.verify_log(), Err(StoreError::Damaged { what: "a log entry" }));
    }
}
