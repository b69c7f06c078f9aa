//! The cluster controller: gives every partition a live owner, gives up the ledgers of deleted topics, and finds the
//! ledgers that lack copies.
//!
//! Three tasks, each a pure plan with a thin driver. The controller owns no state of its own: whatever it decides is a
//! transaction guarded by the versions it was decided on, so it may be restarted, or run twice, at any moment. It never
//! takes a partition away from a live registration.

mod auditor;
mod partitions;
mod topics;

pub use auditor::AuditConfig;
pub use partitions::{Assignment, plan};

use crate::metrics::ControllerMetrics;
use protocol::{
    cluster::ClusterView,
    runtime::{Clock, TaskKind, Tasks},
    service::metadata::MetadataService,
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The first and the longest pause after a failed call.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The controller of a cluster.
#[derive(Debug)]
pub struct Controller;

impl Controller {
    /// Starts its tasks; they end with `tasks`. Run it beside the leader of the metadata service only.
    pub fn start(metadata: Arc<dyn MetadataService>, view: ClusterView, clock: Arc<dyn Clock>, tasks: &Tasks) {
        Self::start_with(metadata, view, clock, AuditConfig::default(), tasks);
    }

    /// As [`Controller::start`], with what an operator says about audits.
    pub fn start_with(
        metadata: Arc<dyn MetadataService>,
        view: ClusterView,
        clock: Arc<dyn Clock>,
        audits: AuditConfig,
        tasks: &Tasks,
    ) {
        let metrics = ControllerMetrics::default();
        let stopping = tasks.stopping();
        let auditor = auditor::Auditor::new(Arc::clone(&metadata), view.clone(), Arc::clone(&clock), audits);
        tasks.spawn(TaskKind::Vital, "controller: auditor", auditor.run(stopping.clone()));
        let owners = partitions::Assigner { metadata: Arc::clone(&metadata), view, metrics: metrics.clone() };
        tasks.spawn(TaskKind::Vital, "controller: partitions", owners.run(stopping.clone()));
        let deletions = topics::Deleter { metadata, clock, metrics };
        tasks.spawn(TaskKind::Vital, "controller: topics", deletions.run(stopping));
    }
}

/// Waits before a retry, longer each time; `false` when it is time to stop.
async fn pause(pause: &mut Duration, stopping: &CancellationToken) -> bool {
    let length = *pause;
    *pause = (length * 2).min(PAUSE.1);
    tokio::select! {
        () = stopping.cancelled() => false,
        () = tokio::time::sleep(length) => true,
    }
}

#[cfg(test)]
mod tests;
