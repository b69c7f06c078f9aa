//! The metrics of the metadata service: resolved once, described once.

use metrics::{Counter, Gauge, Histogram, Unit};

/// Handles of every metric.
#[derive(Clone)]
pub struct MetadataMetrics {
    /// From the call to the answer of a proposal, in seconds.
    pub proposal: Histogram,
    /// Commands that shared one log entry.
    pub batch: Histogram,
    /// Commands proposed.
    pub commands: Counter,
    /// Proposals whose outcome is unknown.
    pub unknown: Counter,
    /// Sessions that ended because no heartbeat came.
    pub expired: Counter,
    /// The index of the last applied log entry.
    pub applied_index: Gauge,
    /// The revision of the last transaction.
    pub revision: Gauge,
    /// Keys.
    pub keys: Gauge,
    /// Live sessions.
    pub sessions: Gauge,
    /// Open watches.
    pub watches: Gauge,
    /// Bytes of calls that wait to be proposed.
    pub queue: Gauge,
    /// Bytes of the raft log.
    pub log: Gauge,
    /// Seconds since this process last wrote a snapshot, or since it started.
    pub snapshot_age: Gauge,
}

impl std::fmt::Debug for MetadataMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetadataMetrics")
    }
}

impl Default for MetadataMetrics {
    fn default() -> Self {
        describe();
        Self {
            proposal: metrics::histogram!("magnetar_metadata_proposal_seconds"),
            batch: metrics::histogram!("magnetar_metadata_proposal_batch_commands"),
            commands: metrics::counter!("magnetar_metadata_commands_total"),
            unknown: metrics::counter!("magnetar_metadata_outcomes_unknown_total"),
            expired: metrics::counter!("magnetar_metadata_sessions_expired_total"),
            applied_index: metrics::gauge!("magnetar_metadata_applied_index"),
            revision: metrics::gauge!("magnetar_metadata_revision"),
            keys: metrics::gauge!("magnetar_metadata_keys"),
            sessions: metrics::gauge!("magnetar_metadata_sessions"),
            watches: metrics::gauge!("magnetar_metadata_watches"),
            queue: metrics::gauge!("magnetar_metadata_queue_bytes"),
            log: metrics::gauge!("magnetar_metadata_log_bytes"),
            snapshot_age: metrics::gauge!("magnetar_metadata_snapshot_age_seconds"),
        }
    }
}

fn describe() {
    use metrics::{describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram};
    histogram!("magnetar_metadata_proposal_seconds", Unit::Seconds, "From a metadata write to its answer");
    histogram!("magnetar_metadata_proposal_batch_commands", Unit::Count, "Commands that shared one raft log entry");
    counter!("magnetar_metadata_commands_total", Unit::Count, "Commands proposed to raft");
    counter!("magnetar_metadata_outcomes_unknown_total", Unit::Count, "Commands whose outcome is unknown");
    counter!("magnetar_metadata_sessions_expired_total", Unit::Count, "Sessions that ended without a heartbeat");
    gauge!("magnetar_metadata_applied_index", Unit::Count, "Index of the last applied raft log entry");
    gauge!("magnetar_metadata_revision", Unit::Count, "Revision of the last transaction");
    gauge!("magnetar_metadata_keys", Unit::Count, "Keys held");
    gauge!("magnetar_metadata_sessions", Unit::Count, "Live sessions");
    gauge!("magnetar_metadata_watches", Unit::Count, "Open watches");
    gauge!("magnetar_metadata_queue_bytes", Unit::Bytes, "Bytes of calls waiting to be proposed");
    gauge!("magnetar_metadata_log_bytes", Unit::Bytes, "Bytes of the raft log");
    gauge!("magnetar_metadata_snapshot_age_seconds", Unit::Seconds, "Seconds since the last snapshot of this process");
}

/// Handles of the controller's metrics.
#[derive(Clone)]
pub struct ControllerMetrics {
    /// Partitions given to an owner.
    pub assigned: Counter,
    /// Deleted topics whose ledgers were all given up.
    pub topics: Counter,
}

impl std::fmt::Debug for ControllerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControllerMetrics")
    }
}

impl Default for ControllerMetrics {
    fn default() -> Self {
        let (assigned, topics) =
            ("magnetar_controller_partitions_assigned_total", "magnetar_controller_topics_deleted_total");
        metrics::describe_counter!(assigned, Unit::Count, "Partitions given to a new owner");
        metrics::describe_counter!(topics, Unit::Count, "Deleted topics whose ledgers were all given up");
        Self { assigned: metrics::counter!(assigned), topics: metrics::counter!(topics) }
    }
}
