//! The broker's metrics: every handle resolved once, every name described. Hot paths hold handles, never names.
//!
//! | metric | meaning |
//! |---|---|
//! | `magnetar_broker_topic_bytes_in_total{topic}`, `.._records_in_total` | appended and acknowledged |
//! | `magnetar_broker_topic_bytes_out_total{topic}`, `.._records_out_total` | fetched |
//! | `magnetar_broker_append_seconds` | from the call to the acknowledgement |
//! | `magnetar_broker_entry_bytes` | size of written entries |
//! | `magnetar_broker_append_failures_total` | appends answered with an error after they were accepted |
//! | `magnetar_broker_queue_bytes` | bytes of appends in memory that are not answered |
//! | `magnetar_broker_cache_hits_total`, `.._misses_total`, `.._bytes` | the tail cache |
//! | `magnetar_broker_open_partitions` | partitions that this broker serves |
//! | `magnetar_broker_takeover_seconds` | from the assignment to serving |
//! | `magnetar_broker_ledgers_total{event}` | ledgers opened, closed, recovered, dropped |
//! | `magnetar_broker_ledger_rolls_total{reason}` | heads ended: full, expired, limbo, leaving, lost, degraded |
//! | `magnetar_broker_ledgers_degraded` | heads written with fewer copies than wanted |

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};

const TOPIC_BYTES_IN: &str = "magnetar_broker_topic_bytes_in_total";
const TOPIC_RECORDS_IN: &str = "magnetar_broker_topic_records_in_total";
const TOPIC_BYTES_OUT: &str = "magnetar_broker_topic_bytes_out_total";
const TOPIC_RECORDS_OUT: &str = "magnetar_broker_topic_records_out_total";
const APPEND_SECONDS: &str = "magnetar_broker_append_seconds";
const APPEND_FAILURES: &str = "magnetar_broker_append_failures_total";
const ENTRY_BYTES: &str = "magnetar_broker_entry_bytes";
const QUEUE_BYTES: &str = "magnetar_broker_queue_bytes";
const CACHE_HITS: &str = "magnetar_broker_cache_hits_total";
const CACHE_MISSES: &str = "magnetar_broker_cache_misses_total";
const CACHE_BYTES: &str = "magnetar_broker_cache_bytes";
const OPEN_PARTITIONS: &str = "magnetar_broker_open_partitions";
const TAKEOVER_SECONDS: &str = "magnetar_broker_takeover_seconds";
const LEDGERS: &str = "magnetar_broker_ledgers_total";
const ROLLS: &str = "magnetar_broker_ledger_rolls_total";
const DEGRADED: &str = "magnetar_broker_ledgers_degraded";

/// Says what every metric means; once per process.
pub fn describe() {
    use metrics::{describe_counter as c, describe_gauge as g, describe_histogram as h};
    crate::ledger::describe_metrics();
    c!(TOPIC_BYTES_IN, Unit::Bytes, "Bytes of record batches acknowledged to producers");
    c!(TOPIC_RECORDS_IN, Unit::Count, "Records acknowledged to producers");
    c!(TOPIC_BYTES_OUT, Unit::Bytes, "Bytes of record batches given to consumers");
    c!(TOPIC_RECORDS_OUT, Unit::Count, "Records given to consumers");
    h!(APPEND_SECONDS, Unit::Seconds, "Time from an append to its acknowledgement");
    c!(APPEND_FAILURES, Unit::Count, "Appends that were accepted and then answered with an error");
    h!(ENTRY_BYTES, Unit::Bytes, "Size of the entries written to ledgers");
    g!(QUEUE_BYTES, Unit::Bytes, "Bytes of appends in memory that are not answered yet");
    c!(CACHE_HITS, Unit::Count, "Partition reads served from the tail cache");
    c!(CACHE_MISSES, Unit::Count, "Partition reads that needed a bookie or the read-ahead cache");
    g!(CACHE_BYTES, Unit::Bytes, "Bytes held by the tail cache");
    g!(OPEN_PARTITIONS, Unit::Count, "Partitions that this broker serves");
    h!(TAKEOVER_SECONDS, Unit::Seconds, "Time from learning of an assignment to serving the partition");
    c!(LEDGERS, Unit::Count, "Ledgers opened, closed, recovered and dropped");
    c!(ROLLS, Unit::Count, "Heads that were ended, by reason");
    g!(DEGRADED, Unit::Count, "Heads that are written with fewer copies than are wanted");
}

/// The tail cache's.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    /// Reads served from it.
    pub hits: Counter,
    /// Reads it could not serve.
    pub misses: Counter,
    /// Bytes it holds.
    pub bytes: Gauge,
}

impl Default for CacheMetrics {
    fn default() -> Self {
        Self { hits: counter!(CACHE_HITS), misses: counter!(CACHE_MISSES), bytes: gauge!(CACHE_BYTES) }
    }
}

/// A topic's.
#[derive(Debug, Clone)]
pub struct TopicMetrics {
    /// Bytes acknowledged.
    pub bytes_in: Counter,
    /// Records acknowledged.
    pub records_in: Counter,
    /// Bytes fetched.
    pub bytes_out: Counter,
    /// Records fetched.
    pub records_out: Counter,
}

impl TopicMetrics {
    /// The counters of one topic.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        let of = |name: &'static str| counter!(name, "topic" => topic.to_owned());
        Self {
            bytes_in: of(TOPIC_BYTES_IN),
            records_in: of(TOPIC_RECORDS_IN),
            bytes_out: of(TOPIC_BYTES_OUT),
            records_out: of(TOPIC_RECORDS_OUT),
        }
    }
}

/// The broker's.
#[derive(Debug, Clone)]
pub struct BrokerMetrics {
    /// Time to an acknowledgement.
    pub append_seconds: Histogram,
    /// Appends that failed after they were accepted.
    pub append_failures: Counter,
    /// Entry sizes.
    pub entry_bytes: Histogram,
    /// Bytes of unanswered appends.
    pub queue_bytes: Gauge,
    /// Partitions being served.
    pub open_partitions: Gauge,
    /// Time of takeovers.
    pub takeover_seconds: Histogram,
    /// Ledgers created.
    pub ledgers_opened: Counter,
    /// Ledgers closed by their writer.
    pub ledgers_closed: Counter,
    /// Ledgers recovered and closed.
    pub ledgers_recovered: Counter,
    /// Ledgers given up by retention.
    pub ledgers_dropped: Counter,
    /// Heads written with fewer copies than wanted.
    pub degraded_heads: Gauge,
}

impl BrokerMetrics {
    /// Counts a head that ends; rare enough to look the name up.
    pub fn count_roll(&self, reason: &'static str) {
        counter!(ROLLS, "reason" => reason).increment(1);
    }
}

impl Default for BrokerMetrics {
    fn default() -> Self {
        let ledgers = |event: &'static str| counter!(LEDGERS, "event" => event);
        Self {
            append_seconds: histogram!(APPEND_SECONDS),
            append_failures: counter!(APPEND_FAILURES),
            entry_bytes: histogram!(ENTRY_BYTES),
            queue_bytes: gauge!(QUEUE_BYTES),
            open_partitions: gauge!(OPEN_PARTITIONS),
            takeover_seconds: histogram!(TAKEOVER_SECONDS),
            ledgers_opened: ledgers("opened"),
            ledgers_closed: ledgers("closed"),
            ledgers_recovered: ledgers("recovered"),
            ledgers_dropped: ledgers("dropped"),
            degraded_heads: gauge!(DEGRADED),
        }
    }
}
