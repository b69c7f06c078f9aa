//! The metrics of connections between processes: resolved once per link or server, described once.

use super::{bookie, broker, budget::Share, coordinator, envelope::Method, peer};
use metrics::{Counter, Gauge, Histogram, Unit};
use std::{sync::Arc, time::Duration};

/// How calls are called in metrics. The services behind the bookie have one name each.
const NAMES: [&str; 11] =
    ["add", "read", "fence", "list", "delete", "copy", "confirm_lac", "wait_lac", "broker", "coordinator", "peer"];

/// Handles of the calling side.
pub(super) struct LinkMetrics {
    /// First connections to a peer.
    pub(super) connects: Counter,
    /// Connections to a peer after one was lost.
    pub(super) reconnects: Counter,
    /// Attempts to connect that failed.
    pub(super) failures: Counter,
    /// Calls that were sent and got no answer.
    pub(super) lost: Counter,
    in_flight: Gauge,
    calls: [Histogram; NAMES.len()],
}

impl Default for LinkMetrics {
    fn default() -> Self {
        describe();
        Self {
            connects: metrics::counter!("magnetar_wire_connects_total"),
            reconnects: metrics::counter!("magnetar_wire_reconnects_total"),
            failures: metrics::counter!("magnetar_wire_connect_failures_total"),
            lost: metrics::counter!("magnetar_wire_calls_lost_total"),
            in_flight: metrics::gauge!("magnetar_wire_in_flight_bytes"),
            calls: NAMES.map(|name| metrics::histogram!("magnetar_wire_call_seconds", "call" => name)),
        }
    }
}

impl LinkMetrics {
    /// A call was answered after this time.
    pub(super) fn answered(&self, method: Method, after: Duration) {
        let (service, number) = (method.0 >> 8, (method.0 & 0xff) as usize);
        let at = match service {
            bookie::SERVICE => number.wrapping_sub(1).min(7),
            broker::SERVICE => 8,
            coordinator::SERVICE => 9,
            peer::SERVICE => 10,
            _ => return,
        };
        self.calls[at].record(after);
    }
}

/// A share of the budget of calls in flight, and its bytes in the gauge.
pub(super) struct InFlight {
    _share: Share,
    metrics: Arc<LinkMetrics>,
    bytes: f64,
}

impl InFlight {
    /// A call of `bytes` was admitted.
    pub(super) fn new(share: Share, metrics: &Arc<LinkMetrics>, bytes: usize) -> Self {
        let bytes = bytes as f64;
        metrics.in_flight.increment(bytes);
        Self { _share: share, metrics: Arc::clone(metrics), bytes }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.decrement(self.bytes);
    }
}

/// Connections of others that are open, as a gauge.
pub(super) struct Connected(Gauge);

impl Connected {
    /// One more, until it is dropped.
    pub(super) fn new() -> Self {
        describe();
        let gauge = metrics::gauge!("magnetar_wire_connections");
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

fn describe() {
    metrics::describe_counter!("magnetar_wire_connects_total", "First connections to other processes.");
    metrics::describe_counter!("magnetar_wire_reconnects_total", "Connections made again after one was lost.");
    metrics::describe_counter!("magnetar_wire_connect_failures_total", "Attempts to connect that failed.");
    metrics::describe_counter!("magnetar_wire_calls_lost_total", "Calls that were sent and got no answer.");
    metrics::describe_gauge!("magnetar_wire_in_flight_bytes", Unit::Bytes, "Calls to others that wait for an answer.");
    metrics::describe_histogram!("magnetar_wire_call_seconds", Unit::Seconds, "From sending a call to its answer.");
    metrics::describe_gauge!("magnetar_wire_connections", "Connections of other processes that are open.");
}
