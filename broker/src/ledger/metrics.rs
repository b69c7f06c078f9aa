//! Metrics of the ledger client: handles are resolved once per ledger, so that the append path looks nothing up.
//!
//! The label `bookie` is the number of a bookie: as many values as the cluster has bookies.

use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};
use protocol::id::BookieId;

const ADD: &str = "magnetar_broker_ledger_add_seconds";
const REFUSED: &str = "magnetar_broker_ledger_adds_refused_total";
const ENSEMBLE_CHANGES: &str = "magnetar_broker_ledger_ensemble_changes_total";
const FAILED: &str = "magnetar_broker_ledger_writers_failed_total";
const HOLES: &str = "magnetar_broker_ledger_holes_total";
const RECOVERY: &str = "magnetar_broker_ledger_recovery_seconds";
const READ: &str = "magnetar_broker_ledger_read_seconds";
const HEDGED: &str = "magnetar_broker_ledger_reads_hedged_total";
const RETRIED: &str = "magnetar_broker_ledger_adds_retried_total";
const LACS_TOLD: &str = "magnetar_broker_ledger_lacs_told_total";

/// What a writer counts.
#[derive(Clone)]
pub(super) struct WriterMetrics {
    /// Adds that a bookie did not store.
    pub(super) refused: Counter,
    /// Adds handed over again to a bookie that took nothing at the moment.
    pub(super) retried: Counter,
    /// Times that an idle writer has told its bookies what is confirmed.
    pub(super) lacs_told: Counter,
    /// Ensemble changes asked for.
    pub(super) ensemble_changes: Counter,
    /// Writers that stopped before they were closed.
    pub(super) failed: Counter,
    /// Holes reported on close.
    pub(super) holes: Counter,
}

impl WriterMetrics {
    pub(super) fn resolve() -> Self {
        Self {
            refused: counter!(REFUSED),
            retried: counter!(RETRIED),
            lacs_told: counter!(LACS_TOLD),
            ensemble_changes: counter!(ENSEMBLE_CHANGES),
            failed: counter!(FAILED),
            holes: holes_counter(),
        }
    }
}

/// What a reader counts.
#[derive(Clone)]
pub(super) struct ReadMetrics {
    /// One read of a run of entries, with hedges and retries.
    pub(super) read: Histogram,
    /// Reads that were sent to a further bookie because the first was slow.
    pub(super) hedged: Counter,
}

impl ReadMetrics {
    pub(super) fn resolve() -> Self {
        Self { read: histogram!(READ), hedged: counter!(HEDGED) }
    }
}

/// From handing an entry to this bookie to its answer.
pub(super) fn add_histogram(bookie: BookieId) -> Histogram {
    histogram!(ADD, "bookie" => bookie.to_string())
}

/// Holes reported when ledgers were closed.
pub(super) fn holes_counter() -> Counter {
    counter!(HOLES)
}

/// The time to recover a ledger.
pub(super) fn recovery_histogram() -> Histogram {
    histogram!(RECOVERY)
}

/// Describes the metrics of the ledger client; to be called once, by the crate's own description.
pub fn describe_metrics() {
    describe_histogram!(ADD, Unit::Seconds, "Time from sending an entry to one bookie to its answer");
    describe_counter!(REFUSED, Unit::Count, "Adds that a bookie refused or did not answer");
    describe_counter!(RETRIED, Unit::Count, "Adds handed again to a bookie that took nothing at the moment");
    describe_counter!(LACS_TOLD, Unit::Count, "Times that an idle writer told its bookies what is confirmed");
    describe_counter!(ENSEMBLE_CHANGES, Unit::Count, "Ensemble changes asked for by ledger writers");
    describe_counter!(FAILED, Unit::Count, "Ledger writers that stopped before they were closed");
    describe_counter!(HOLES, Unit::Count, "Members that may lack entries of a ledger, reported when it was closed");
    describe_histogram!(RECOVERY, Unit::Seconds, "Time to recover a ledger, until its end is known");
    describe_histogram!(READ, Unit::Seconds, "Time of one read of a run of entries");
    describe_counter!(HEDGED, Unit::Count, "Reads that were sent to a second bookie because the first was slow");
}
