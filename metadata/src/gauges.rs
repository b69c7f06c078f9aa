//! Refreshes the gauges of the metadata service every few seconds. Only looks; nothing depends on it.

use crate::{
    applied::Applied,
    metrics::MetadataMetrics,
    queue::Entrance,
    raft::{Raft, RaftMetrics, log::LogStore, store::Store},
    role::Role,
    snapshotting::Written,
};
use openraft::ServerState;
use protocol::runtime::Clock;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often gauges are refreshed.
const EVERY: Duration = Duration::from_secs(5);

/// Refreshes the gauges.
pub(crate) struct Gauges {
    pub(crate) me: u64,
    pub(crate) raft: Raft,
    pub(crate) role: watch::Receiver<Role>,
    pub(crate) log: LogStore,
    pub(crate) applied: Arc<Applied>,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: MetadataMetrics,
    pub(crate) written: Written,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entrance: Entrance,
}

impl Gauges {
    /// Runs until `stopping`.
    pub(crate) async fn run(self, stopping: CancellationToken) -> Result<(), String> {
        let started = self.clock.monotonic();
        let mut lags = BTreeMap::new();
        loop {
            let now = self.clock.monotonic();
            let raft = self.raft.metrics().borrow().clone();
            self.show_raft(&raft);
            self.show_lags(&raft, &mut lags);
            let (revision, keys, sessions) = self.applied.read(|s| (s.revision().0, s.key_count(), s.session_count()));
            self.metrics.revision.set(revision as f64);
            self.metrics.keys.set(keys as f64);
            self.metrics.sessions.set(sessions as f64);
            self.metrics.watches.set(self.applied.watches() as f64);
            self.metrics.queue.set(self.entrance.used() as f64);
            self.metrics.log.set(self.store.log_bytes() as f64);
            let age = self.written.age(now).unwrap_or_else(|| now.saturating_sub(started));
            self.metrics.snapshot_age.set(age.as_secs_f64());
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    fn show_raft(&self, raft: &RaftMetrics) {
        let index = |id: Option<crate::raft::LogId>| id.map_or(0.0, |id| id.index as f64);
        self.metrics.term.set(raft.current_term as f64);
        let (leads, leader) = match *self.role.borrow() {
            Role::Leads { .. } => (1.0, self.me),
            Role::Follows { leader, .. } => (0.0, leader),
            Role::Nobody => (0.0, 0),
        };
        self.metrics.leads.set(leads);
        self.metrics.leader.set(leader as f64);
        self.metrics.voters.set(raft.membership_config.membership().voter_ids().count() as f64);
        self.metrics.committed_index.set(self.log.committed() as f64);
        self.metrics.applied_index.set(index(raft.last_applied));
    }

    /// How far each follower is behind, while this node leads; a follower that is gone is shown as not behind.
    fn show_lags(&self, raft: &RaftMetrics, shown: &mut BTreeMap<u64, metrics::Gauge>) {
        let last = raft.last_log_index.unwrap_or(0);
        let lags: BTreeMap<u64, u64> = match &raft.replication {
            Some(followers) if raft.state == ServerState::Leader => {
                let lag = |matched: &Option<crate::raft::LogId>| last.saturating_sub(matched.map_or(0, |id| id.index));
                followers.iter().filter(|(id, _)| **id != raft.id).map(|(id, matched)| (*id, lag(matched))).collect()
            }
            _ => BTreeMap::new(),
        };
        for (id, lag) in &lags {
            shown.entry(*id).or_insert_with(|| MetadataMetrics::follower_lag(*id)).set(*lag as f64);
        }
        shown.iter().filter(|(id, _)| !lags.contains_key(id)).for_each(|(_, gauge)| gauge.set(0.0));
    }
}
