//! The tail cache and the read-ahead cache: sealed entries in memory, found by offset, within one byte budget.
//!
//! Each partition has a *tail*, the newest confirmed entries in order; the budget is the broker's, and what was
//! cached first goes first, whatever partition it is of. What catch-up readers fetch goes into a cache of its own, so
//! that they never push tails out. Holds shared slices only, copies nothing, and never decides what may be shown:
//! callers insert nothing above the high watermark.

use crate::metrics::CacheMetrics;
use parking_lot::Mutex;
use protocol::{id::Offset, ledger::entry::SealedEntry, topic::PartitionId};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// An entry of record batches and the offsets it spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The entry.
    pub entry: SealedEntry,
    /// Its first offset.
    pub base_offset: Offset,
    /// The offset after its last record.
    pub end_offset: Offset,
}

impl LogEntry {
    fn size(&self) -> usize {
        self.entry.bytes().len()
    }
}

/// The newest entries of one partition, in order; what [`Tail::find`] gives is contiguous.
#[derive(Debug, Default)]
pub struct Tail {
    entries: Mutex<VecDeque<LogEntry>>,
}

impl Tail {
    /// The entries from the one that holds `offset` on, up to `max_bytes`, at least one; nothing if it is not cached.
    #[must_use]
    pub fn find(&self, offset: Offset, max_bytes: usize, found: &mut Vec<LogEntry>) -> bool {
        let entries = self.entries.lock();
        let first = entries.partition_point(|e| e.end_offset <= offset);
        if entries.get(first).is_none_or(|e| e.base_offset > offset) {
            return false;
        }
        let (mut bytes, mut next) = (0, None);
        for entry in entries.range(first..) {
            // After a failed write the records that survived it are not cached: the tail has a gap there.
            let contiguous = next.is_none_or(|next| next == entry.base_offset);
            if !contiguous || (bytes > 0 && bytes >= max_bytes) {
                break;
            }
            bytes += entry.size();
            next = Some(entry.end_offset);
            found.push(entry.clone());
        }
        true
    }

    fn pop_front(&self) {
        self.entries.lock().pop_front();
    }
}

/// The tails of all partitions.
#[derive(Debug)]
pub struct TailCache {
    budget: usize,
    bytes: AtomicUsize,
    ages: Mutex<VecDeque<(Weak<Tail>, usize)>>,
    metrics: CacheMetrics,
}

impl TailCache {
    /// A cache that holds at most `budget` bytes.
    #[must_use]
    pub fn new(budget: usize, metrics: CacheMetrics) -> Self {
        Self { budget, bytes: AtomicUsize::new(0), ages: Mutex::default(), metrics }
    }

    /// Adds the newest entry of a partition and lets the oldest of any go.
    pub fn push(&self, tail: &Arc<Tail>, entry: LogEntry) {
        let size = entry.size();
        if size > self.budget {
            return;
        }
        let mut ages = self.ages.lock();
        ages.push_back((Arc::downgrade(tail), size));
        tail.entries.lock().push_back(entry);
        let mut bytes = self.bytes.load(Ordering::Relaxed) + size;
        while bytes > self.budget {
            let Some((oldest, freed)) = ages.pop_front() else { break };
            if let Some(tail) = oldest.upgrade() {
                tail.pop_front();
            }
            bytes -= freed;
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        self.metrics.bytes.set(bytes as f64);
    }

    /// The counters of look-ups.
    #[must_use]
    pub const fn metrics(&self) -> &CacheMetrics {
        &self.metrics
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What catch-up readers read last, by partition and offset.
#[derive(Debug)]
pub struct ReadAhead {
    budget: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    entries: BTreeMap<(PartitionId, Offset), LogEntry>,
    ages: VecDeque<(PartitionId, Offset)>,
}

impl ReadAhead {
    /// A cache that holds at most `budget` bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { budget, held: Mutex::default() }
    }

    /// How many bytes are worth reading ahead: several readers share the cache.
    #[must_use]
    pub const fn share(&self) -> usize {
        self.budget / 4
    }

    /// Keeps what was read, as far as it fits; the oldest goes first.
    pub fn insert(&self, partition: PartitionId, entries: &[LogEntry]) {
        let mut held = self.held.lock();
        let mut bytes = 0;
        for entry in entries {
            bytes += entry.size();
            if bytes > self.budget {
                // The reader goes on where it is: the beginning of a run is worth more than its end.
                break;
            }
            let key = (partition, entry.base_offset);
            if held.entries.insert(key, entry.clone()).is_none() {
                held.bytes += entry.size();
                held.ages.push_back(key);
            }
        }
        while held.bytes > self.budget {
            let Some(oldest) = held.ages.pop_front() else { break };
            if let Some(gone) = held.entries.remove(&oldest) {
                held.bytes -= gone.size();
            }
        }
    }

    /// The entries from the one that holds `offset` on, contiguous, up to `max_bytes`, at least one.
    #[must_use]
    pub fn find(&self, partition: PartitionId, offset: Offset, max_bytes: usize, found: &mut Vec<LogEntry>) -> bool {
        let held = self.held.lock();
        let Some((first, _)) = held.entries.range(..=(partition, offset)).next_back().map(|(k, v)| (*k, v)) else {
            return false;
        };
        let (mut next, mut bytes, before) = (None, 0, found.len());
        for ((of, _), entry) in held.entries.range(first..) {
            let contiguous = next.is_none_or(|n| n == entry.base_offset);
            if *of != partition || !contiguous || entry.end_offset <= offset || (bytes > 0 && bytes >= max_bytes) {
                break;
            }
            bytes += entry.size();
            next = Some(entry.end_offset);
            found.push(entry.clone());
        }
        found.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use protocol::{
        id::{EntryId, Lac, LedgerId},
        ledger::entry::SEAL_LEN,
        topic::TopicId,
    };
    use uuid::Uuid;

    /// An entry of 100 bytes with ten records.
    fn entry(n: i64) -> LogEntry {
        let buf = BytesMut::zeroed(SEAL_LEN.max(100));
        let entry = SealedEntry::seal(buf, LedgerId(1), EntryId(n as u64), Lac::NONE, 0);
        LogEntry { entry, base_offset: Offset(n * 10), end_offset: Offset(n * 10 + 10) }
    }

    fn bases(find: impl FnOnce(&mut Vec<LogEntry>) -> bool) -> Vec<i64> {
        let mut found = Vec::new();
        assert_eq!(find(&mut found), !found.is_empty());
        found.iter().map(|e| e.base_offset.0).collect()
    }

    #[test]
    fn a_tail_is_found_by_offset_and_the_oldest_entry_of_any_partition_goes_first() {
        let cache = TailCache::new(300, CacheMetrics::default());
        let (a, b) = (Arc::new(Tail::default()), Arc::new(Tail::default()));
        cache.push(&a, entry(0));
        cache.push(&b, entry(7));
        cache.push(&a, entry(1));
        assert_eq!(bases(|f| a.find(Offset(5), 1_000, f)), [0, 10]);
        assert_eq!(bases(|f| a.find(Offset(5), 1, f)), [0]);
        cache.push(&b, entry(8));
        assert_eq!(bases(|f| a.find(Offset(5), 1_000, f)), [0; 0]);
        assert_eq!(bases(|f| a.find(Offset(19), 1_000, f)), [10]);
        assert_eq!(bases(|f| a.find(Offset(20), 1_000, f)), [0; 0]);
        assert_eq!(bases(|f| b.find(Offset(70), 1_000, f)), [70, 80]);
        drop(b);
        cache.push(&a, entry(2));
        assert_eq!((bases(|f| a.find(Offset(10), 1_000, f)), cache.bytes()), (vec![10, 20], 300));
    }

    #[test]
    fn a_gap_in_the_tail_is_never_skipped() {
        let cache = TailCache::new(1_000, CacheMetrics::default());
        let tail = Arc::new(Tail::default());
        cache.push(&tail, entry(0));
        cache.push(&tail, entry(2));
        assert_eq!(bases(|f| tail.find(Offset(0), 1_000, f)), [0]);
        assert_eq!(bases(|f| tail.find(Offset(10), 1_000, f)), [0; 0]);
        assert_eq!(bases(|f| tail.find(Offset(20), 1_000, f)), [20]);
    }

    #[test]
    fn read_ahead_is_contiguous_bounded_and_per_partition() {
        let cache = ReadAhead::new(300);
        let p = PartitionId { topic: TopicId(Uuid::nil()), index: 0 };
        let q = PartitionId { index: 1, ..p };
        cache.insert(p, &[entry(0), entry(1)]);
        cache.insert(q, &[entry(2)]);
        assert_eq!(bases(|f| cache.find(p, Offset(3), 1_000, f)), [0, 10]);
        assert_eq!(bases(|f| cache.find(p, Offset(20), 1_000, f)), [0; 0]);
        assert_eq!(bases(|f| cache.find(q, Offset(29), 1_000, f)), [20]);
        cache.insert(p, &[entry(3)]);
        assert_eq!(bases(|f| cache.find(p, Offset(3), 1_000, f)), [0; 0]);
        assert_eq!(bases(|f| cache.find(p, Offset(10), 1_000, f)), [10]);
    }
}
