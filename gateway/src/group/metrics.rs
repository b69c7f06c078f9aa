//! Metrics of the coordinators: their names, and handles that are resolved once.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const SHARDS: &str = "magnetar_gateway_coordinator_shards";
const LOAD: &str = "magnetar_gateway_coordinator_load_seconds";
const APPEND: &str = "magnetar_gateway_coordinator_append_seconds";
const FAILED: &str = "magnetar_gateway_coordinator_failures_total";
const SNAPSHOTS: &str = "magnetar_gateway_coordinator_snapshots_total";
const REBALANCES: &str = "magnetar_gateway_group_rebalances_total";
const COMMITS: &str = "magnetar_gateway_group_commits_total";
const EXPIRED: &str = "magnetar_gateway_group_expired_offsets_total";

/// Handles of the coordinators' metrics.
#[derive(Clone)]
pub(super) struct CoordinatorMetrics {
    /// Shards this node runs.
    pub(super) shards: Gauge,
    /// Time to load a shard.
    pub(super) load: Histogram,
    /// Time until a write of a shard was acknowledged.
    pub(super) append: Histogram,
    /// Shards that had to load again.
    pub(super) failed: Counter,
    /// Snapshots written.
    pub(super) snapshots: Counter,
    /// Generations begun.
    pub(super) rebalances: Counter,
    /// Offsets committed.
    pub(super) commits: Counter,
    /// Offsets forgotten because nobody used them.
    pub(super) expired: Counter,
}

impl CoordinatorMetrics {
    /// Describes the metrics and resolves their handles.
    pub(super) fn new() -> Self {
        describe_gauge!(SHARDS, "Partitions of __consumer_offsets that this node coordinates.");
        describe_histogram!(LOAD, Unit::Seconds, "Time to load the groups of one partition of __consumer_offsets.");
        describe_histogram!(APPEND, Unit::Seconds, "Time until a write of a coordinator was acknowledged.");
        describe_counter!(FAILED, "Times that a shard gave up its state and had to load it again.");
        describe_counter!(SNAPSHOTS, "Snapshots that coordinators wrote to shorten their logs.");
        describe_counter!(REBALANCES, "Generations of consumer groups begun.");
        describe_counter!(COMMITS, "Offsets committed by consumer groups.");
        describe_counter!(EXPIRED, "Committed offsets that expired.");
        Self {
            shards: gauge!(SHARDS),
            load: histogram!(LOAD),
            append: histogram!(APPEND),
            failed: counter!(FAILED),
            snapshots: counter!(SNAPSHOTS),
            rebalances: counter!(REBALANCES),
            commits: counter!(COMMITS),
            expired: counter!(EXPIRED),
        }
    }
}
