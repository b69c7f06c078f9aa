//! Refreshes the gauges of the metadata service every few seconds. Only looks; nothing depends on it.

use crate::{applied::Applied, metrics::MetadataMetrics, queue::Entrance, raft::store::Store};
use protocol::runtime::Clock;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often gauges are refreshed.
const EVERY: Duration = Duration::from_secs(5);

/// Refreshes the gauges.
pub(crate) struct Gauges {
    pub applied: Arc<Applied>,
    pub store: Arc<Store>,
    pub metrics: MetadataMetrics,
    pub clock: Arc<dyn Clock>,
    pub entrance: Entrance,
}

impl Gauges {
    /// Runs until `stopping`.
    pub(crate) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let (mut snapshots, mut since) = (self.applied.snapshots(), self.clock.monotonic());
        loop {
            let now = self.clock.monotonic();
            if self.applied.snapshots() != snapshots {
                (snapshots, since) = (self.applied.snapshots(), now);
            }
            let (revision, keys, sessions) =
                self.applied.read(|s| (s.revision().0, s.key_count(), s.sessions().count()));
            self.metrics.applied_index.set(self.applied.index() as f64);
            self.metrics.revision.set(revision as f64);
            self.metrics.keys.set(keys as f64);
            self.metrics.sessions.set(sessions as f64);
            self.metrics.watches.set(self.applied.watches() as f64);
            self.metrics.queue.set(self.entrance.used() as f64);
            self.metrics.log.set(self.store.log_bytes() as f64);
            self.metrics.snapshot_age.set(now.saturating_sub(since).as_secs_f64());
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}
