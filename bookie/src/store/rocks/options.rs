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
    /// Entries of at least this many bytes go to blob files, which merging does not rewrite.
    pub min_blob: u64,
    /// The cache of index and data blocks, in bytes.
    pub block_cache: usize,
}

impl Default for RocksOptions {
    fn default() -> Self {
        // Measured (BENCHMARKS.md, "Store"): larger buffers cost memory and win nothing, and entries of 1 KiB that are
        // merged like keys cost nearly twice the writes.
        Self { wal_dir: None, write_buffer: 32 << 20, min_blob: 512, block_cache: 16 << 20 }
    }
}

/// Setting names and values that start or end the collection of garbage in blob files.
pub(super) const fn collecting(on: bool) -> [(&'static str, &'static str); 1] {
    [("enable_blob_garbage_collection", if on { "true" } else { "false" })]
}

impl RocksOptions {
    /// Options of the whole database. `direct` says whether the file system can write past its cache.
    pub(super) fn database(&self, direct: bool) -> Options {
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
        // What is flushed is not read soon: readers at the tail are served from memory. Past the cache it costs less than
        // half the CPU time, and a journal sync never waits for it.
        o.set_use_direct_io_for_flush_and_compaction(direct);
        // Without that, writes back to the disk while a flush runs, so that a journal sync does not wait for all of it.
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
        // Off until there is garbage (see `space`): every merge would copy living entries for nothing. When on, blob files
        // of any age are collected, as long as this part of all bytes is garbage.
        o.set_enable_blob_gc(false);
        o.set_blob_gc_age_cutoff(1.0);
        o.set_blob_gc_force_threshold(super::space::LOW);
        // Living entries stand next to each other in a blob file; one by one they would cost a read each.
        o.set_blob_compaction_readahead_size(2 << 20);
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
