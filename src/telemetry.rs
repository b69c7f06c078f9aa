//! Logs and metrics of the process. Owns the log subscriber, the metrics recorder and the buckets of its histograms;
//! never names a metric of a role (each role describes its own).

use crate::config::LogFormat;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Latencies, in seconds: from a memory access to a stuck disk, three buckets per decade.
const SECONDS: [f64; 19] = [
    0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0,
];
/// Sizes, in bytes: from a heartbeat to the largest entry.
const BYTES: [f64; 11] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    104_857_600.0,
];
/// Counts: of entries in a batch, of records in an entry.
const COUNTS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

/// What is written if nothing is configured: the lifecycle of everything of ours. What openraft says of a peer that is away,
/// several times a second, our links and roles say once.
const USUAL: &str = "info,openraft=off";
/// The same at a terminal, where a person reads the banner.
const AT_A_TERMINAL: &str = "warn,openraft=off";

/// Begins to write log lines to standard error. `filter` is one of `tracing`, or empty for the usual one; if it cannot be
/// read, the error is returned and nothing is written.
///
/// # Errors
/// What is wrong with the filter, or that logs are already being written.
pub fn start_logs(filter: &str, format: LogFormat) -> Result<(), String> {
    let usual = if std::io::stderr().is_terminal() { AT_A_TERMINAL } else { USUAL };
    let filter = if filter.trim().is_empty() { usual } else { filter };
    let filter = EnvFilter::builder().parse(filter).map_err(|e| format!("node.log is not a filter: {e}"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|e| e.to_string())
}

/// Installs the recorder of this process, once; what roles count goes to it from then on.
///
/// # Errors
/// A recorder is already installed.
pub fn start_metrics() -> Result<PrometheusHandle, BuildError> {
    builder()?.install_recorder()
}

/// Every histogram has buckets, so that none becomes a summary, which cannot be added up.
fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?
        .set_buckets(&COUNTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{Key, Level, Metadata, Recorder};

    #[test]
    fn histograms_have_buckets_whatever_their_unit() {
        let recorder = builder().expect("legal buckets").build_recorder();
        let about = Metadata::new("test", Level::INFO, None);
        for (name, value) in [("wait_seconds", 0.003), ("batch_bytes", 5_000.0), ("batch_entries", 7.0)] {
            recorder.register_histogram(&Key::from_name(name), &about).record(value);
        }
        let text = recorder.handle().render();
        for line in [
            "wait_seconds_bucket{le=\"0.005\"} 1",
            "batch_bytes_bucket{le=\"16384\"} 1",
            "batch_entries_bucket{le=\"10\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
