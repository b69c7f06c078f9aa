//! How RocksDB is set up. Owns every option and the reason for it; never opens anything.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options};
use std::path::PathBuf;

/// What can be chosen; the rest is fixed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksOptions {
    /// A directory for the write-ahead log; beside the data if none.
    pub wal_dir: Option<PathBuf>,
    /// One write buffer of entries, in bytes. Up to four exist while a flush is behind; none exists while idle.
    pub write_buffer: usize,
    /// Entries of at least this many bytes go to blob files, which are never rewritten.
    pub min_blob: u64,
    /// The cache of index and data blocks, in bytes.
    pub block_cache: usize,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { wal_dir: None, write_buffer: 64 << 20, min_blob: 4096, block_cache: 16 << 20 }
    }
}

impl RocksOptions {
    /// Options of the whole database.
    pub(super) fn database(&self) -> Options {
        let mut o = Options::default();
        o.create_if_missing(true);
        o.create_missing_column_families(true);
        // A torn tail was never acknowledged and is dropped. Damage before the tail refuses to open, because behind it
        // lie acknowledged entries and fences; the default mode would silently drop them.
        o.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        if let Some(dir) = &self.wal_dir {
            o.set_wal_dir(dir);
        }
        // Bounds what a restart has to replay.
        o.set_max_total_wal_size(self.write_buffer as u64 * 8);
        // There is one writer, so what makes concurrent writers fast only costs.
        o.set_allow_concurrent_memtable_write(false);
        o.set_enable_write_thread_adaptive_yield(false);
        // Files stay open: with range deletes, opening them again is expensive.
        o.set_max_open_files(-1);
        o.set_max_background_jobs(4);
        // Never reached by flushes; without it a writer that is one buffer ahead of them falls to 16 MB/s at once.
        o.set_ratelimiter(4 << 30, 100_000, 10);
        // Writes back to the disk while a flush runs, so that a journal sync never waits for all of it.
        o.set_bytes_per_sync(1 << 20);
        o.set_keep_log_file_num(4);
        o.set_max_log_file_size(8 << 20);
        o.set_stats_dump_period_sec(0);
        o
    }

    /// Options of the column families that hold a few bytes per ledger.
    pub(super) fn small_family(&self) -> Options {
        let mut o = self.family();
        o.set_write_buffer_size(8 << 20);
        o
    }

    /// Options of the column family of entries.
    pub(super) fn entry_family(&self) -> Options {
        let mut o = self.family();
        o.set_write_buffer_size(self.write_buffer);
        o.set_max_write_buffer_number(4);
        o.set_enable_blob_files(true);
        o.set_min_blob_size(self.min_blob);
        o.set_blob_file_size(256 << 20);
        o.set_blob_compression_type(DBCompressionType::None);
        o.set_enable_blob_gc(true);
        o.set_blob_gc_age_cutoff(0.25);
        o.set_blob_gc_force_threshold(0.5);
        // Ledger ids grow, so files of different levels hardly overlap; waiting lets deleted ledgers die unmerged.
        o.set_level_zero_file_num_compaction_trigger(8);
        // Admission by bytes in flight keeps writers back, and never a stall of a second inside RocksDB.
        o.set_level_zero_slowdown_writes_trigger(1 << 20);
        o.set_level_zero_stop_writes_trigger(1 << 20);
        o.set_soft_pending_compaction_bytes_limit(0);
        o.set_hard_pending_compaction_bytes_limit(0);
        o
    }

    /// What all column families share.
    fn family(&self) -> Options {
        let mut o = Options::default();
        // Producers compress; the bytes of a batch do not shrink twice.
        o.set_compression_type(DBCompressionType::None);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(self.block_cache));
        table.set_bloom_filter(10.0, false);
        table.set_format_version(6);
        o.set_block_based_table_factory(&table);
        o
    }
}
