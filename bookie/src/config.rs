//! What an operator can say about a bookie. Owns names, units and defaults; never reads a file or the environment.

use crate::{readers::Limits, store::rocks::RocksOptions};
use protocol::id::BookieId;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// What to do about directories that are all empty although the cluster knows this bookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnEmptyDisk {
    /// The old life is given up: the bookie takes a new incarnation, and repair copies what the old one held. Not if it
    /// is the only bookie: then nobody has what it held.
    #[default]
    Heal,
    /// The old life is given up, also if nobody else has what it held.
    Discard,
    /// The bookie does not start, for the disk may only not be mounted.
    Refuse,
}

/// Settings of a bookie. Sizes are in bytes, times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BookieConfig {
    /// The bookie's number: stable over restarts, unique in the cluster.
    pub id: BookieId,
    /// Where entries are kept.
    pub data_dir: PathBuf,
    /// Where the journal is kept, if on a disk of its own; in `data_dir` if none.
    pub wal_dir: Option<PathBuf>,
    /// Where other roles reach this bookie (`host:port`); none if only in-process.
    pub address: Option<String>,
    /// The rack or zone it stands in.
    pub rack: Option<String>,
    /// Adds that may wait or be written at one time; above it adds are refused, never queued without bound.
    pub queue_bytes: usize,
    /// The most bytes of entries in one synced write.
    pub batch_bytes: usize,
    /// The most recently added entries that are kept in memory for readers at the tail.
    pub tail_bytes: usize,
    /// Threads that read from the disk; their number bounds what reads can take from writes.
    pub read_threads: usize,
    /// Reads that may wait for a thread; above it reads are refused.
    pub read_queue: usize,
    /// Bytes that reads which wait or are at work may ask for together; above it reads are refused.
    pub read_bytes: usize,
    /// Ledgers kept in memory; the others are loaded when they are used.
    pub ledgers_in_memory: usize,
    /// Free space that is kept for fences and recovery; below it the bookie is read-only. The smaller of 1 GiB and
    /// 5 % of the disk if none.
    pub disk_reserve: Option<u64>,
    /// How often free space is looked at.
    pub disk_check_ms: u64,
    /// How long the bookie counts as live without a heartbeat.
    pub session_ms: u64,
    /// One write buffer; up to four exist under load.
    pub write_buffer_bytes: usize,
    /// Entries of at least this size go to files that merging does not rewrite.
    pub blob_min_bytes: u64,
    /// The cache of blocks of the store's index.
    pub block_cache_bytes: usize,
    /// The operator has seen that acknowledged entries were lost, and accepts it: ends limbo at the next start.
    pub accept_lost_entries: bool,
    /// What to do about directories that are all empty although the cluster knows this bookie.
    pub on_empty_disk: OnEmptyDisk,
    /// The time between two scrubs, from start to start; 0 for none but those that are asked for.
    pub scrub_interval_ms: u64,
    /// How fast a scrub reads, in bytes per second.
    pub scrub_bytes_per_second: u64,
    /// How fast the bookie copies what other bookies have lost or give up, or what it has lost itself, in bytes per
    /// second.
    pub repair_bandwidth: u64,
}

impl Default for BookieConfig {
    fn default() -> Self {
        let store = RocksOptions::default();
        Self {
            id: BookieId(1),
            data_dir: PathBuf::from("data/bookie"),
            wal_dir: None,
            address: None,
            rack: None,
            queue_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            tail_bytes: 16 << 20,
            read_threads: 4,
            read_queue: 4096,
            read_bytes: 256 << 20,
            ledgers_in_memory: 100_000,
            disk_reserve: None,
            disk_check_ms: 1000,
            session_ms: 10_000,
            write_buffer_bytes: store.write_buffer,
            blob_min_bytes: store.min_blob,
            block_cache_bytes: store.block_cache,
            accept_lost_entries: false,
            on_empty_disk: OnEmptyDisk::default(),
            scrub_interval_ms: 7 * 24 * 60 * 60 * 1000,
            scrub_bytes_per_second: 8 << 20,
            repair_bandwidth: 64 << 20,
        }
    }
}

impl BookieConfig {
    /// The directories that carry the bookie's identity: data, and journal if it has its own.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut all = vec![self.data_dir.clone()];
        all.extend(self.wal_dir.iter().filter(|dir| **dir != self.data_dir).cloned());
        all
    }

    /// What may wait for the threads that read.
    pub(crate) const fn read_limits(&self) -> Limits {
        Limits { jobs: self.read_queue, bytes: self.read_bytes }
    }

    /// How the store is set up.
    #[must_use]
    pub fn store_options(&self) -> RocksOptions {
        RocksOptions {
            wal_dir: self.wal_dir.as_ref().map(|dir| dir.join("journal")),
            write_buffer: self.write_buffer_bytes,
            min_blob: self.blob_min_bytes,
            block_cache: self.block_cache_bytes,
        }
    }

    /// How long the bookie counts as live without a heartbeat; a second at least, so that heartbeats cannot become a
    /// storm.
    #[must_use]
    pub fn session(&self) -> Duration {
        Duration::from_millis(self.session_ms).max(Duration::from_secs(1))
    }
}
