//! When a ledger ends and when it gets a checkpoint. Pure decisions over a few numbers; who carries them out is the
//! partition's driver.

use protocol::{id::Timestamp, settings::TopicSettings};

/// Payload bytes between two checkpoints of a head: what a takeover reads at most.
pub const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;

/// What the decisions look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadSize {
    /// Payload bytes in the ledger.
    pub bytes: u64,
    /// Payload bytes since its last checkpoint.
    pub since_checkpoint: u64,
    /// Record batches of how many entries.
    pub entries: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// The largest timestamp in it.
    pub max_timestamp: Timestamp,
}

impl HeadSize {
    /// Whether the ledger should end before the next record: `segment.bytes` or `segment.ms` is reached.
    #[must_use]
    pub fn is_full(&self, settings: &TopicSettings, now: Timestamp) -> bool {
        let age = i64::try_from(settings.segment_age.as_millis()).unwrap_or(i64::MAX);
        self.entries > 0 && (self.bytes >= settings.segment_bytes || now.0.saturating_sub(self.created_at.0) >= age)
    }

    /// Whether all its records are past retention, so that it must end for them to be dropped.
    #[must_use]
    pub fn is_expired(&self, settings: &TopicSettings, now: Timestamp) -> bool {
        let Some(retention) = settings.retention.filter(|_| settings.cleanup.delete) else { return false };
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let newest = if self.max_timestamp == Timestamp::NONE { self.created_at } else { self.max_timestamp };
        self.entries > 0 && now.0.saturating_sub(newest.0) > retention
    }

    /// Whether a checkpoint is due.
    #[must_use]
    pub const fn needs_checkpoint(&self) -> bool {
        self.since_checkpoint >= CHECKPOINT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::settings::BrokerSettings;
    use std::time::Duration;

    fn settings() -> TopicSettings {
        let defaults = BrokerSettings::default().topic_defaults;
        TopicSettings {
            segment_bytes: 1_000,
            segment_age: Duration::from_millis(500),
            retention: Some(Duration::from_millis(200)),
            ..defaults
        }
    }

    const HEAD: HeadSize = HeadSize {
        bytes: 999,
        since_checkpoint: 0,
        entries: 1,
        created_at: Timestamp(10_000),
        max_timestamp: Timestamp(10_100),
    };

    #[test]
    fn size_and_age_end_a_ledger_that_holds_something() {
        let now = Timestamp(10_499);
        assert!(!HEAD.is_full(&settings(), now));
        assert!(HeadSize { bytes: 1_000, ..HEAD }.is_full(&settings(), now));
        assert!(HEAD.is_full(&settings(), Timestamp(10_500)));
        assert!(!HeadSize { entries: 0, ..HEAD }.is_full(&settings(), Timestamp(99_999)));
    }

    #[test]
    fn retention_ends_a_head_whose_newest_record_has_expired() {
        assert!(!HEAD.is_expired(&settings(), Timestamp(10_300)));
        assert!(HEAD.is_expired(&settings(), Timestamp(10_301)));
        let forever = TopicSettings { retention: None, ..settings() };
        assert!(!HEAD.is_expired(&forever, Timestamp(i64::MAX)));
        let mut compacted = settings();
        compacted.cleanup.delete = false;
        assert!(!HEAD.is_expired(&compacted, Timestamp(99_999)));
    }

    #[test]
    fn checkpoints_come_every_64_mebibytes() {
        assert!(!HeadSize { since_checkpoint: CHECKPOINT_BYTES - 1, ..HEAD }.needs_checkpoint());
        assert!(HeadSize { since_checkpoint: CHECKPOINT_BYTES, ..HEAD }.needs_checkpoint());
    }
}
