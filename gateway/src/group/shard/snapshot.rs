//! When a shard rewrites what lives at the end of its log, and from where on the log may then be trimmed. Pure: counts in,
//! decisions out. Keeps the rule that nothing is trimmed before everything that lives was acknowledged anew.

use protocol::id::Offset;

/// When a shard rewrites what lives, so that a takeover replays little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// After this many records.
    pub records: u64,
    /// After this many bytes of record batches.
    pub bytes: u64,
}

impl Default for SnapshotPolicy {
    /// A takeover reads at most some 16 MiB of history: a fraction of a second.
    fn default() -> Self {
        Self { records: 100_000, bytes: 16 * 1024 * 1024 }
    }
}

/// What a log holds, in records and in bytes of record batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// The snapshots of one shard.
#[derive(Debug)]
pub(super) struct Snapshots {
    policy: SnapshotPolicy,
    /// What a load would read.
    tail: Size,
    limit: Size,
    running: Option<Running>,
    forbidden: bool,
}

/// A snapshot that is being written.
#[derive(Debug)]
struct Running {
    start: Offset,
    failed: bool,
}

impl Snapshots {
    /// For a log of this size. If `forbidden`, the log holds what a rewrite would lose, and there are no snapshots.
    pub(super) const fn new(policy: SnapshotPolicy, tail: Size, forbidden: bool) -> Self {
        let limit = Size { records: policy.records, bytes: policy.bytes };
        Self { policy, tail, limit, running: None, forbidden }
    }

    /// Something was appended.
    pub(super) const fn appended(&mut self, size: Size) {
        self.tail.records += size.records;
        self.tail.bytes += size.bytes;
    }

    /// Whether a snapshot should be written now.
    pub(super) const fn is_due(&self) -> bool {
        let large = self.tail.records >= self.limit.records || self.tail.bytes >= self.limit.bytes;
        large && self.running.is_none() && !self.forbidden
    }

    /// A snapshot begins, at `end` or after.
    pub(super) const fn begin(&mut self, end: Offset) {
        self.running = Some(Running { start: end, failed: false });
        self.tail = Size { records: 0, bytes: 0 };
    }

    /// A part of the snapshot was written at an offset, or could not be. When the last part is done: where the log may
    /// begin from now on, if it may be trimmed at all.
    pub(super) fn written(&mut self, first: bool, last: bool, at: Option<Offset>) -> Option<Offset> {
        let running = self.running.as_mut()?;
        match at {
            Some(offset) if first => running.start = offset,
            Some(_) => {}
            None => running.failed = true,
        }
        if !last {
            return None;
        }
        // What lives may be larger than the policy: the next snapshot is worth it when the log has doubled.
        self.limit.records = self.policy.records.max(self.tail.records.saturating_mul(2));
        self.limit.bytes = self.policy.bytes.max(self.tail.bytes.saturating_mul(2));
        self.running.take().filter(|running| !running.failed).map(|running| running.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: SnapshotPolicy = SnapshotPolicy { records: 10, bytes: 1000 };

    fn size(records: u64, bytes: u64) -> Size {
        Size { records, bytes }
    }

    #[test]
    fn a_long_tail_is_due_and_a_snapshot_ends_it() {
        let mut snapshots = Snapshots::new(POLICY, size(9, 0), false);
        assert!(!snapshots.is_due());
        snapshots.appended(size(1, 10));
        assert!(snapshots.is_due());
        snapshots.begin(Offset(10));
        assert!(!snapshots.is_due());
        snapshots.appended(size(4, 10));
        assert_eq!(snapshots.written(true, false, Some(Offset(12))), None);
        snapshots.appended(size(4, 10));
        assert_eq!(snapshots.written(false, true, Some(Offset(16))), Some(Offset(12)));
        // Eight records live: the next snapshot comes when the log has doubled, not after ten.
        snapshots.appended(size(7, 0));
        assert!(!snapshots.is_due());
        snapshots.appended(size(1, 0));
        assert!(snapshots.is_due());
    }

    #[test]
    fn bytes_count_too() {
        assert!(Snapshots::new(POLICY, size(1, 1000), false).is_due());
        assert!(!Snapshots::new(POLICY, size(1, 1000), true).is_due());
    }

    #[test]
    fn one_part_that_fails_trims_nothing() {
        for failing in 0..3 {
            let mut snapshots = Snapshots::new(POLICY, size(10, 0), false);
            snapshots.begin(Offset(10));
            for part in 0..3 {
                let at = (part != failing).then_some(Offset(10 + part));
                assert_eq!(snapshots.written(part == 0, part == 2, at), None, "part {failing} fails");
            }
        }
    }
}
