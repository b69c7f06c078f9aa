//! The gateway's metrics: names, descriptions, and handles that are resolved once. Owns the label values, which are
//! bounded: APIs of the router's table and Kafka's error codes.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use parking_lot::RwLock;
use std::{collections::HashMap, time::Duration};

/// Handles of all metrics of a gateway.
pub(crate) struct GatewayMetrics {
    /// Bytes read from clients.
    pub(crate) received_bytes: Counter,
    /// Bytes written to clients.
    pub(crate) sent_bytes: Counter,
    /// Bytes of requests that are not yet answered.
    pub(crate) inflight_bytes: Gauge,
    /// Requests that closed their connection.
    pub(crate) refused_requests: Counter,
    opened: Counter,
    open: Gauge,
    apis: Vec<(i16, &'static str, Histogram)>,
    errors: RwLock<HashMap<(i16, i16), Counter>>,
}

const REQUEST_SECONDS: &str = "magnetar_gateway_request_seconds";
const ERRORS: &str = "magnetar_gateway_request_errors_total";
const REFUSED: &str = "magnetar_gateway_refused_requests_total";
const RECEIVED: &str = "magnetar_gateway_received_bytes_total";
const SENT: &str = "magnetar_gateway_sent_bytes_total";
const INFLIGHT: &str = "magnetar_gateway_inflight_request_bytes";
const OPENED: &str = "magnetar_gateway_connections_opened_total";
const OPEN: &str = "magnetar_gateway_connections";

impl GatewayMetrics {
    /// Describes and resolves the metrics; `apis` are key and name of everything that is served.
    pub(crate) fn new(apis: impl Iterator<Item = (i16, &'static str)>) -> Self {
        describe_histogram!(
            REQUEST_SECONDS,
            metrics::Unit::Seconds,
            "Time from reading a request to writing its answer, by API."
        );
        describe_counter!(ERRORS, "Errors in answers, by API and Kafka error code.");
        describe_counter!(REFUSED, "Requests that were malformed or unknown and closed their connection.");
        describe_counter!(RECEIVED, metrics::Unit::Bytes, "Bytes read from Kafka clients.");
        describe_counter!(SENT, metrics::Unit::Bytes, "Bytes written to Kafka clients.");
        describe_gauge!(
            INFLIGHT,
            metrics::Unit::Bytes,
            "Bytes of requests of Kafka clients that are not yet answered."
        );
        describe_counter!(OPENED, "Connections that Kafka clients have opened.");
        describe_gauge!(OPEN, "Connections of Kafka clients that are open.");
        Self {
            received_bytes: counter!(RECEIVED),
            sent_bytes: counter!(SENT),
            inflight_bytes: gauge!(INFLIGHT),
            refused_requests: counter!(REFUSED),
            opened: counter!(OPENED),
            open: gauge!(OPEN),
            apis: apis.map(|(key, name)| (key, name, histogram!(REQUEST_SECONDS, "api" => name))).collect(),
            errors: RwLock::default(),
        }
    }

    /// A connection was opened.
    pub(crate) fn opened(&self) {
        self.opened.increment(1);
        self.open.increment(1.0);
    }

    /// A connection was closed.
    pub(crate) fn closed(&self) {
        self.open.decrement(1.0);
    }

    /// The answer of the API at `place` of the table was written, this long after its request was started.
    pub(crate) fn answered(&self, place: usize, took: Duration) {
        if let Some((_, _, seconds)) = self.apis.get(place) {
            seconds.record(took.as_secs_f64());
        }
    }

    /// An answer carries an error.
    pub(crate) fn count_error(&self, api_key: i16, code: i16) {
        if let Some(counter) = self.errors.read().get(&(api_key, code)) {
            return counter.increment(1);
        }
        let name = self.apis.iter().find(|(key, ..)| *key == api_key).map_or("unknown", |(_, name, _)| name);
        let counter = counter!(ERRORS, "api" => name, "code" => code.to_string());
        counter.increment(1);
        self.errors.write().insert((api_key, code), counter);
    }
}
