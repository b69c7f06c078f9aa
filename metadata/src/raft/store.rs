//! The RocksDB below raft: one database with three column families.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `log` | index, big-endian u64 | version byte, entry as MessagePack |
//! | `meta` | `format`, `node`, `vote`, `committed`, `purged`, `snapshot` | version byte, MessagePack |
//! | `snapshot` | generation u64, chunk u32, big-endian | up to 1 MiB of the snapshot |
//!
//! Owns the encoding of values and the choice between synced and unsynced writes; never decides what raft stores, and
//! leaves opening to [`directory`](super::directory). The write-ahead log keeps writes in order, so a synced write makes
//! every earlier one durable too.

use openraft::{AnyError, SnapshotMeta};
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The format of the directory and of every value in it.
pub(super) const FORMAT: u8 = 1;
/// Bytes of a snapshot in one value.
const CHUNK: usize = 1024 * 1024;

const LOG: &str = "log";
const META: &str = "meta";
const SNAPSHOT: &str = "snapshot";

/// All column families.
pub(super) const FAMILIES: [&str; 3] = [LOG, META, SNAPSHOT];

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
    /// The voter this directory belongs to.
    Node,
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
            Self::Node => "node",
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Purged => "purged",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Where the current snapshot is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SnapshotHead {
    meta: SnapshotMeta<u64, openraft::BasicNode>,
    generation: u64,
    bytes: u64,
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
        }
    }

    /// The format the directory was founded with; `None` if it is new.
    pub(super) fn format(&self) -> Result<Option<u8>, StoreError> {
        let value = self.db.get_cf(self.family(META), "format")?;
        Ok(value.map(|bytes| bytes.first().copied().unwrap_or_default()))
    }

    /// Writes the format and the owner into a new directory; durable on return.
    pub(super) fn found(&self, format: u8, node: u64) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), "format", [format]);
        batch.put_cf(self.family(META), Meta::Node.name(), encode(&node));
        self.write(batch, true)
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

    #[expect(clippy::expect_used, reason = "all three families are opened or created in `open`")]
    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("the column family was opened")
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.broken.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(missing("the disk is broken".into()));
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

    /// Writes a single value; durable on return if `sync`.
    pub(super) fn write_meta<T: Serialize>(&self, key: Meta, value: &T, sync: bool) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), key.name(), encode(value));
        self.write(batch, sync)
    }

    /// Appends encoded entries; durable on return.
    pub(super) fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
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
    /// is lost is done again, and its snapshot was synced before it.
    pub(super) fn purge<T: Serialize>(&self, index: u64, purged: &T) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), Meta::Purged.name(), encode(purged));
        batch.delete_range_cf(self.family(LOG), 0u64.to_be_bytes(), index.saturating_add(1).to_be_bytes());
        self.write(batch, false)
    }

    /// Replaces the current snapshot; durable on return, and the old one stays until then.
    pub(super) fn write_snapshot(
        &self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let old: Option<SnapshotHead> = self.read_meta(Meta::Snapshot)?;
        let generation = old.as_ref().map_or(0, |o| o.generation + 1);
        for (number, chunk) in bytes.chunks(CHUNK).enumerate() {
            let mut batch = WriteBatch::default();
            batch.put_cf(self.family(SNAPSHOT), chunk_key(generation, number as u32), chunk);
            self.write(batch, false)?;
        }
        let head = SnapshotHead { meta: meta.clone(), generation, bytes: bytes.len() as u64 };
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), Meta::Snapshot.name(), encode(&head));
        batch.delete_range_cf(self.family(SNAPSHOT), chunk_key(0, 0), chunk_key(generation, 0));
        self.write(batch, true)
    }

    /// The current snapshot.
    #[expect(clippy::type_complexity, reason = "a pair, read in two places")]
    pub(super) fn read_snapshot(
        &self,
    ) -> Result<Option<(SnapshotMeta<u64, openraft::BasicNode>, Vec<u8>)>, StoreError> {
        let Some(head): Option<SnapshotHead> = self.read_meta(Meta::Snapshot)? else { return Ok(None) };
        let mut bytes = Vec::new();
        for number in 0..head.bytes.div_ceil(CHUNK as u64) {
            let chunk = self.db.get_cf(self.family(SNAPSHOT), chunk_key(head.generation, number as u32))?;
            bytes.extend(chunk.ok_or_else(|| missing(format!("chunk {number} is missing")))?);
        }
        if bytes.len() as u64 != head.bytes {
            return Err(missing(format!("{} of {} bytes are there", bytes.len(), head.bytes)));
        }
        Ok(Some((head.meta, bytes)))
    }
}

fn missing(reason: String) -> StoreError {
    StoreError::Malformed { what: "the snapshot", reason }
}

fn chunk_key(generation: u64, number: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&generation.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
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
    let mut bytes = vec![FORMAT];
    rmp_serde::encode::write_named(&mut bytes, value).expect("raft's values are plain data");
    bytes
}

fn decode<T: DeserializeOwned>(what: &'static str, value: &[u8]) -> Result<T, StoreError> {
    match value.split_first() {
        Some((&FORMAT, body)) => {
            rmp_serde::from_slice(body).map_err(|e| StoreError::Malformed { what, reason: e.to_string() })
        }
        Some((&found, _)) => Err(StoreError::Version { what, found }),
        None => Err(StoreError::Malformed { what, reason: "it is empty".into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_newer_format_are_refused_by_name() {
        let mut value = encode(&5u64);
        assert_eq!(decode::<u64>("a number", &value), Ok(5));
        value[0] = 2;
        assert_eq!(decode::<u64>("a number", &value), Err(StoreError::Version { what: "a number", found: 2 }));
    }

    #[test]
    fn snapshots_span_chunks_and_replace_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = crate::raft::directory::open(dir.path(), 1).expect("opens");
        let meta = SnapshotMeta::default();
        for size in [0, 1, CHUNK, 2 * CHUNK + 5] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            store.write_snapshot(&meta, &bytes).expect("writes");
            assert_eq!(store.read_snapshot(), Ok(Some((meta.clone(), bytes))));
        }
        let chunks = store.db.iterator_cf(store.family(SNAPSHOT), IteratorMode::Start).count();
        assert_eq!(chunks, 3);
    }
}
