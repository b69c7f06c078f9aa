//! The metrics of repair on a bookie: resolved once, described once.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

/// Handles of every metric.
#[derive(Clone)]
pub(super) struct Metrics {
    /// Bytes of entries that were copied to this bookie and are durable.
    pub(super) copied: Counter,
    /// Entries that were copied.
    pub(super) entries: Counter,
    /// Ledgers whose metadata names what this bookie has copied.
    pub(super) ledgers: Counter,
    /// Attempts that failed; they are repeated.
    pub(super) failures: Counter,
    /// Reads that another source had to answer.
    pub(super) detours: Counter,
    /// Changes of metadata that met another one, and were judged again.
    pub(super) conflicts: Counter,
    /// Ledgers that are being repaired.
    pub(super) running: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        describe();
        Self {
            copied: counter!("magnetar_bookie_repair_copied_bytes_total"),
            entries: counter!("magnetar_bookie_repair_copied_entries_total"),
            ledgers: counter!("magnetar_bookie_repair_ledgers_total"),
            failures: counter!("magnetar_bookie_repair_failures_total"),
            detours: counter!("magnetar_bookie_repair_detours_total"),
            conflicts: counter!("magnetar_bookie_repair_conflicts_total"),
            running: gauge!("magnetar_bookie_repair_running_ledgers"),
        }
    }
}

fn describe() {
    describe_counter!(
        "magnetar_bookie_repair_copied_bytes_total",
        Unit::Bytes,
        "Bytes copied to this bookie by repair."
    );
    describe_counter!("magnetar_bookie_repair_copied_entries_total", Unit::Count, "Entries copied by repair.");
    describe_counter!("magnetar_bookie_repair_ledgers_total", Unit::Count, "Ledgers that this bookie has repaired.");
    describe_counter!("magnetar_bookie_repair_failures_total", Unit::Count, "Attempts of repair that failed.");
    describe_counter!("magnetar_bookie_repair_detours_total", Unit::Count, "Reads of repair that a source refused.");
    describe_counter!("magnetar_bookie_repair_conflicts_total", Unit::Count, "Changes of metadata decided again.");
    describe_gauge!("magnetar_bookie_repair_running_ledgers", Unit::Count, "Ledgers being repaired by this bookie.");
}
