//! When a snapshot is written: after a number of log entries, or when the log has grown as large as the state itself.
//! Then a restart replays little, and writing snapshots costs no more than writing the log does.
//!
//! Owns the decision; raft carries it out and shortens the log.

use crate::raft::{Raft, log::LogStore, snapshots::Snapshots};
use parking_lot::Mutex;
use protocol::runtime::Clock;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of log that are never worth a snapshot.
const LEAST_BYTES: u64 = 64 * 1024 * 1024;

/// When this process last wrote or received a snapshot. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Option<Duration>>>);

impl Written {
    /// How long ago that was; `None` if it did not happen yet.
    pub(crate) fn age(&self, now: Duration) -> Option<Duration> {
        self.0.lock().map(|at| now.saturating_sub(at))
    }
}

/// Decides when a snapshot is written.
pub(crate) struct Snapshotting {
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) snapshots: Snapshots,
    pub(crate) written: Written,
    pub(crate) clock: Arc<dyn Clock>,
    /// Entries after which one is written in any case.
    pub(crate) after_logs: u64,
}

impl Snapshotting {
    /// Runs until `stopping`.
    pub(crate) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let mut metrics = self.raft.metrics();
        let mut known = metrics.borrow().snapshot;
        let mut grown_from = 0;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
            let (snapshot, applied) = {
                let now = metrics.borrow_and_update();
                (now.snapshot, now.last_applied)
            };
            if snapshot != known {
                known = snapshot;
                grown_from = self.log.appended();
                *self.written.0.lock() = Some(self.clock.monotonic());
            }
            let state = self.snapshots.current().ok().flatten().map_or(0, |(_, file)| file.bytes());
            let entries = applied.map_or(0, |id| id.index).saturating_sub(snapshot.map_or(0, |id| id.index));
            let is_due = is_due(entries, self.after_logs, self.log.appended() - grown_from, state);
            if is_due && self.raft.trigger().snapshot().await.is_err() {
                return Ok(());
            }
        }
    }
}

fn is_due(entries: u64, after: u64, grown: u64, state: u64) -> bool {
    entries >= after || (entries > 0 && grown >= state.max(LEAST_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_due_after_many_entries_or_a_log_as_large_as_the_state() {
        let large = 4 * LEAST_BYTES;
        assert!(!is_due(99, 100, LEAST_BYTES - 1, 0));
        assert!(is_due(100, 100, 0, large));
        assert!(is_due(1, 100, LEAST_BYTES, 0));
        assert!(!is_due(1, 100, large - 1, large));
        assert!(is_due(1, 100, large, large));
        assert!(!is_due(0, 100, large, 0), "there is nothing new to write");
    }
}
