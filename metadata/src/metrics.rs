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
    /// The raft term.
    pub term: Gauge,
    /// 1 while this node leads.
    pub leads: Gauge,
    /// Who leads, as far as this node knows; 0 if nobody.
    pub leader: Gauge,
    /// Voters.
    pub voters: Gauge,
    /// The index of the last committed log entry, as far as this node knows.
    pub committed_index: Gauge,
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
            term: metrics::gauge!("magnetar_metadata_term"),
            leads: metrics::gauge!("magnetar_metadata_leads"),
            leader: metrics::gauge!("magnetar_metadata_leader"),
            voters: metrics::gauge!("magnetar_metadata_voters"),
            committed_index: metrics::gauge!("magnetar_metadata_committed_index"),
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

impl MetadataMetrics {
    /// Log entries that a follower is behind; only the leader knows.
    pub fn follower_lag(member: u64) -> Gauge {
        metrics::gauge!("magnetar_metadata_follower_lag_entries", "member" => member.to_string())
    }
}

fn describe() {
    use metrics::{describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram};
    histogram!("magnetar_metadata_proposal_seconds", Unit::Seconds, "From a metadata write to its answer");
    histogram!("magnetar_metadata_proposal_batch_commands", Unit::Count, "Commands that shared one raft log entry");
    counter!("magnetar_metadata_commands_total", Unit::Count, "Commands proposed to raft");
    counter!("magnetar_metadata_outcomes_unknown_total", Unit::Count, "Commands whose outcome is unknown");
    counter!("magnetar_metadata_sessions_expired_total", Unit::Count, "Sessions that ended without a heartbeat");
    gauge!("magnetar_metadata_term", Unit::Count, "The raft term");
    gauge!("magnetar_metadata_leads", Unit::Count, "1 while this node leads the metadata service");
    gauge!("magnetar_metadata_leader", Unit::Count, "The member that leads, as far as this node knows; 0 if nobody");
    gauge!("magnetar_metadata_voters", Unit::Count, "Members whose vote counts");
    gauge!("magnetar_metadata_committed_index", Unit::Count, "Index of the last committed raft log entry");
    gauge!("magnetar_metadata_follower_lag_entries", Unit::Count, "Log entries a follower is behind the leader");
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

/// Handles of the auditor's metrics.
#[derive(Clone)]
pub(crate) struct AuditMetrics {
    /// Audits of everything.
    pub(crate) audits: Counter,
    /// Tasks that stand.
    pub(crate) tasks: Gauge,
    /// Members that count as lost.
    pub(crate) lost: Gauge,
    /// Members that are being taken out.
    pub(crate) leaving: Gauge,
    /// Ledgers that lack something which can be repaired now.
    pub(crate) repairable: Gauge,
    /// Of those, the ones with fewer live copies than the ack quorum.
    pub(crate) at_risk: Gauge,
    /// Ledgers with an entry that no live bookie holds.
    pub(crate) unavailable: Gauge,
    /// Copies that are wanted and that no bookie can take.
    pub(crate) unplaced: Gauge,
    /// Bytes to copy.
    pub(crate) bytes: Gauge,
}

impl AuditMetrics {
    /// Shows nothing any more: another node audits from now on, and two would count everything twice.
    pub(crate) fn clear(&self) {
        let Self { audits: _, tasks, lost, leaving, repairable, at_risk, unavailable, unplaced, bytes } = self;
        for gauge in [tasks, lost, leaving, repairable, at_risk, unavailable, unplaced, bytes] {
            gauge.set(0.0);
        }
    }
}

impl std::fmt::Debug for AuditMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditMetrics")
    }
}

impl Default for AuditMetrics {
    fn default() -> Self {
        describe_audits();
        Self {
            audits: metrics::counter!("magnetar_controller_audits_total"),
            tasks: metrics::gauge!("magnetar_controller_repair_tasks"),
            lost: metrics::gauge!("magnetar_controller_lost_bookies"),
            leaving: metrics::gauge!("magnetar_controller_leaving_bookies"),
            repairable: metrics::gauge!("magnetar_controller_repairable_ledgers"),
            at_risk: metrics::gauge!("magnetar_controller_ledgers_at_risk"),
            unavailable: metrics::gauge!("magnetar_controller_unavailable_ledgers"),
            unplaced: metrics::gauge!("magnetar_controller_unplaced_copies"),
            bytes: metrics::gauge!("magnetar_controller_repair_left_bytes"),
        }
    }
}

fn describe_audits() {
    use metrics::{describe_counter as counter, describe_gauge as gauge};
    counter!("magnetar_controller_audits_total", Unit::Count, "Audits of every closed ledger");
    gauge!("magnetar_controller_repair_tasks", Unit::Count, "Closed ledgers that bookies are asked to repair");
    gauge!("magnetar_controller_lost_bookies", Unit::Count, "Bookies gone for longer than the grace period");
    gauge!("magnetar_controller_leaving_bookies", Unit::Count, "Bookies that are being taken out");
    gauge!("magnetar_controller_repairable_ledgers", Unit::Count, "Closed ledgers that lack copies somebody can make");
    gauge!(
        "magnetar_controller_ledgers_at_risk",
        Unit::Count,
        "Closed ledgers with fewer live copies than the ack quorum"
    );
    gauge!("magnetar_controller_unavailable_ledgers", Unit::Count, "Closed ledgers with entries no live bookie holds");
    gauge!("magnetar_controller_unplaced_copies", Unit::Count, "Wanted copies that no bookie can take");
    gauge!("magnetar_controller_repair_left_bytes", Unit::Bytes, "Bytes that repair has to copy");
}
