//! Which closed ledgers a topic's settings allow to be dropped. A pure decision over the list of closed ledgers;
//! carrying it out is [`super::ledger_list`]'s work.
//!
//! Invariants: only whole ledgers go, only from the front, and never one that holds an offset at or above a log start
//! that DeleteRecords set, unless its time or size is up.

use protocol::{
    id::{Offset, Timestamp},
    model::ClosedLedger,
    settings::TopicSettings,
};
use std::sync::Arc;

/// How many ledgers to drop from the front of `closed`.
///
/// `retention.ms` looks at the largest timestamp in a ledger, or at its closing if it has none; `retention.bytes` keeps
/// at least that much, counting `head_bytes`. What lies wholly below `log_start` goes in any case: nobody can see it.
#[must_use]
pub fn droppable(
    closed: &[Arc<ClosedLedger>],
    head_bytes: u64,
    log_start: Offset,
    settings: &TopicSettings,
    now: Timestamp,
) -> usize {
    let hidden = closed.iter().take_while(|l| l.end_offset <= log_start).count();
    if !settings.cleanup.delete {
        return hidden;
    }
    let expired = settings.retention.map_or(0, |retention| {
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let newest = |l: &ClosedLedger| if l.max_timestamp == Timestamp::NONE { l.closed_at } else { l.max_timestamp };
        closed.iter().take_while(|l| now.0.saturating_sub(newest(l).0) > retention).count()
    });
    let oversized = settings.retention_bytes.map_or(0, |limit| {
        let mut total = head_bytes + closed.iter().map(|l| l.bytes()).sum::<u64>();
        closed
            .iter()
            .take_while(|ledger| {
                total -= ledger.bytes();
                total >= limit
            })
            .count()
    });
    hidden.max(expired).max(oversized)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{EntryId, LeaderEpoch, LedgerId, LedgerKey},
        ledger::{
            metadata::{LedgerMetadata, LedgerState},
            quorum::Quorum,
        },
        settings::BrokerSettings,
    };
    use std::time::Duration;

    /// Four ledgers of 100 bytes and 10 records, with largest timestamps 1000, 2000, 3000 and none (closed at 9000).
    fn closed() -> Vec<Arc<ClosedLedger>> {
        (0..4)
            .map(|n| {
                let key = LedgerKey(0);
                let mut ledger =
                    LedgerMetadata::open(LedgerId(n as u64), key, Quorum::SINGLE, Vec::new(), Timestamp(0));
                ledger.state = LedgerState::Closed { last_entry: Some(EntryId(0)), length: 100 };
                Arc::new(ClosedLedger {
                    ledger,
                    epoch: LeaderEpoch(0),
                    base_offset: Offset(n * 10),
                    end_offset: Offset(n * 10 + 10),
                    max_timestamp: if n == 3 { Timestamp::NONE } else { Timestamp(n * 1000 + 1000) },
                    last_index: None,
                    closed_at: Timestamp(9_000),
                })
            })
            .collect()
    }

    fn settings(ms: Option<u64>, bytes: Option<u64>) -> TopicSettings {
        let defaults = BrokerSettings::default().topic_defaults;
        TopicSettings { retention: ms.map(Duration::from_millis), retention_bytes: bytes, ..defaults }
    }

    fn count(settings: &TopicSettings, log_start: i64, now: i64) -> usize {
        droppable(&closed(), 50, Offset(log_start), settings, Timestamp(now))
    }

    #[test]
    fn time_drops_from_the_front() {
        let s = settings(Some(500), None);
        assert_eq!(count(&s, 0, 1_500), 0);
        assert_eq!(count(&s, 0, 1_501), 1);
        assert_eq!(count(&s, 0, 3_501), 3);
        assert_eq!(count(&s, 0, 9_500), 3);
        assert_eq!(count(&s, 0, 9_501), 4);
    }

    #[test]
    fn size_keeps_at_least_the_limit() {
        assert_eq!(count(&settings(None, Some(450)), 0, 0), 0);
        assert_eq!(count(&settings(None, Some(350)), 0, 0), 1);
        assert_eq!(count(&settings(None, Some(349)), 0, 0), 1);
        assert_eq!(count(&settings(None, Some(0)), 0, 0), 4);
    }

    #[test]
    fn what_delete_records_hid_goes_in_whole_ledgers_and_whatever_the_policy() {
        let mut s = settings(None, None);
        assert_eq!(count(&s, 25, 0), 2);
        s.cleanup.delete = false;
        s.cleanup.compact = true;
        assert_eq!(count(&s, 25, 0), 2);
        s.retention = Some(Duration::ZERO);
        assert_eq!(count(&s, 0, 99_999), 0);
    }
}
