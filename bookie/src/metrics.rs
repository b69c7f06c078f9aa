//! The bookie's metrics: every name, unit and handle. Handles are resolved once; nothing here is looked up per entry.

use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram};
use protocol::model::BookieState;

/// Handles of all metrics of a bookie.
pub(crate) struct Metrics {
    /// Entries that were stored and acknowledged.
    pub(crate) adds: Counter,
    /// Adds that were refused or failed.
    pub(crate) add_failures: Counter,
    /// Bytes of entries that were stored.
    pub(crate) written: Counter,
    /// From the call of an add to its acknowledgement.
    pub(crate) add_latency: Histogram,
    /// One synced write.
    pub(crate) sync_latency: Histogram,
    /// Bytes of entries in one synced write.
    pub(crate) batch_bytes: Histogram,
    /// Bytes that wait or are being written.
    pub(crate) queue_bytes: Gauge,
    /// Runs of entries that were read.
    pub(crate) reads: Counter,
    /// Reads that were answered from memory.
    pub(crate) tail_hits: Counter,
    /// Reads that were refused or failed.
    pub(crate) read_failures: Counter,
    /// Bytes of entries that were read.
    pub(crate) read: Counter,
    /// One read from the store.
    pub(crate) read_latency: Histogram,
    /// Stored entries that were found damaged.
    pub(crate) corrupt: Counter,
    /// Ledgers that were fenced.
    pub(crate) fences: Counter,
    /// Ledgers that were deleted.
    pub(crate) deletes: Counter,
    /// Free space of the disk.
    pub(crate) disk_free: Gauge,
    /// Ledgers in limbo.
    pub(crate) limbo_ledgers: Gauge,
    /// Entries that were fetched again after a loss.
    pub(crate) healed_entries: Counter,
    /// Bytes that were fetched again after a loss.
    pub(crate) healed_bytes: Counter,
    /// Bytes that scrubs have read.
    pub(crate) scrubbed: Counter,
    /// Entries that scrubs found damaged or missing.
    pub(crate) scrub_damaged: Counter,
    /// Of those, the ones that were fetched again.
    pub(crate) scrub_healed: Counter,
    /// When the latest scrub ended.
    pub(crate) scrub_finished: Gauge,
    state: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Resolves every handle with the recorder that is installed now.
    pub(crate) fn new() -> Self {
        describe();
        Self {
            adds: counter!("magnetar_bookie_adds_total"),
            add_failures: counter!("magnetar_bookie_add_failures_total"),
            written: counter!("magnetar_bookie_written_bytes_total"),
            add_latency: metrics::histogram!("magnetar_bookie_add_seconds"),
            sync_latency: metrics::histogram!("magnetar_bookie_sync_seconds"),
            batch_bytes: metrics::histogram!("magnetar_bookie_batch_bytes"),
            queue_bytes: metrics::gauge!("magnetar_bookie_queue_bytes"),
            reads: counter!("magnetar_bookie_reads_total"),
            tail_hits: counter!("magnetar_bookie_tail_hits_total"),
            read_failures: counter!("magnetar_bookie_read_failures_total"),
            read: counter!("magnetar_bookie_read_bytes_total"),
            read_latency: metrics::histogram!("magnetar_bookie_read_seconds"),
            corrupt: counter!("magnetar_bookie_corrupt_entries_total"),
            fences: counter!("magnetar_bookie_fences_total"),
            deletes: counter!("magnetar_bookie_ledgers_deleted_total"),
            disk_free: metrics::gauge!("magnetar_bookie_disk_free_bytes"),
            limbo_ledgers: metrics::gauge!("magnetar_bookie_limbo_ledgers"),
            healed_entries: counter!("magnetar_bookie_healed_entries_total"),
            healed_bytes: counter!("magnetar_bookie_healed_bytes_total"),
            scrubbed: counter!("magnetar_bookie_scrubbed_bytes_total"),
            scrub_damaged: counter!("magnetar_bookie_scrub_damaged_entries_total"),
            scrub_healed: counter!("magnetar_bookie_scrub_healed_entries_total"),
            scrub_finished: metrics::gauge!("magnetar_bookie_scrub_finished_timestamp_seconds"),
            state: metrics::gauge!("magnetar_bookie_state"),
        }
    }

    /// What the bookie takes, as a number.
    pub(crate) fn set_state(&self, state: BookieState, failed: bool) {
        self.state.set(match (state, failed) {
            (_, true) => 3.0,
            (BookieState::Limbo, false) => 2.0,
            (BookieState::ReadOnly, false) => 1.0,
            (BookieState::Writable, false) => 0.0,
        });
    }
}

fn describe() {
    describe_counter!("magnetar_bookie_adds_total", Unit::Count, "Entries stored and acknowledged.");
    describe_counter!("magnetar_bookie_add_failures_total", Unit::Count, "Adds refused or failed.");
    describe_counter!("magnetar_bookie_written_bytes_total", Unit::Bytes, "Bytes of entries stored.");
    describe_histogram!(
        "magnetar_bookie_add_seconds",
        Unit::Seconds,
        "From the call of an add to its acknowledgement."
    );
    describe_histogram!("magnetar_bookie_sync_seconds", Unit::Seconds, "Time of one synced write.");
    describe_histogram!("magnetar_bookie_batch_bytes", Unit::Bytes, "Bytes of entries in one synced write.");
    describe_gauge!("magnetar_bookie_queue_bytes", Unit::Bytes, "Bytes of adds that wait or are being written.");
    describe_counter!("magnetar_bookie_reads_total", Unit::Count, "Runs of entries read.");
    describe_counter!("magnetar_bookie_tail_hits_total", Unit::Count, "Reads answered from memory.");
    describe_counter!("magnetar_bookie_read_failures_total", Unit::Count, "Reads that gave no entry.");
    describe_counter!("magnetar_bookie_read_bytes_total", Unit::Bytes, "Bytes of entries read.");
    describe_histogram!("magnetar_bookie_read_seconds", Unit::Seconds, "Time of one read from the store.");
    describe_counter!("magnetar_bookie_corrupt_entries_total", Unit::Count, "Stored entries found damaged.");
    describe_counter!("magnetar_bookie_fences_total", Unit::Count, "Ledgers fenced.");
    describe_counter!("magnetar_bookie_ledgers_deleted_total", Unit::Count, "Ledgers deleted.");
    describe_gauge!("magnetar_bookie_disk_free_bytes", Unit::Bytes, "Free space of the bookie's disk.");
    describe_gauge!("magnetar_bookie_limbo_ledgers", Unit::Count, "Ledgers in limbo: state of them was lost.");
    describe_counter!("magnetar_bookie_healed_entries_total", Unit::Count, "Entries fetched again after a loss.");
    describe_counter!("magnetar_bookie_healed_bytes_total", Unit::Bytes, "Bytes fetched again after a loss.");
    describe_counter!("magnetar_bookie_scrubbed_bytes_total", Unit::Bytes, "Bytes read by scrubs.");
    describe_counter!(
        "magnetar_bookie_scrub_damaged_entries_total",
        Unit::Count,
        "Entries that scrubs found damaged or missing."
    );
    describe_counter!(
        "magnetar_bookie_scrub_healed_entries_total",
        Unit::Count,
        "Damaged or missing entries that were fetched from other bookies."
    );
    describe_gauge!(
        "magnetar_bookie_scrub_finished_timestamp_seconds",
        Unit::Seconds,
        "When the latest scrub ended, in seconds since 1970."
    );
    describe_gauge!(
        "magnetar_bookie_state",
        Unit::Count,
        "What the bookie takes: 0 everything, 1 no adds, 2 limbo, 3 its store has failed."
    );
}
