//! How figures of a run are counted and printed. Owns rounding and wording, so that all runs read alike.

use crate::cli::table;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// What was counted in a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Records.
    pub(super) records: u64,
    /// Bytes of keys and values.
    pub(super) bytes: u64,
    /// Records that were not acknowledged.
    pub(super) failed: u64,
}

/// A quantile of a histogram of microseconds; 0 if it is empty.
pub(super) fn quantile_micros(histogram: &Histogram<u64>, quantile: f64) -> u64 {
    if histogram.is_empty() { 0 } else { histogram.value_at_quantile(quantile) }
}

/// Microseconds as people read them.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn micros(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} us"),
        1_000..1_000_000 => format!("{:.2} ms", value as f64 / 1e3),
        _ => format!("{:.2} s", value as f64 / 1e6),
    }
}

/// A rate of bytes.
pub(super) fn rate(bytes_per_second: f64) -> String {
    format!("{:.1} MB/s", bytes_per_second / 1e6)
}

/// A rate of records.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate")]
pub(super) fn records_per_second(rate: f64) -> String {
    format!("{} records/s", table::number(rate.max(0.0) as u64))
}

/// The quantiles of a run on one line.
pub(super) fn quantiles(histogram: &Histogram<u64>) -> String {
    let shown = |name: &str, quantile| format!("{name} {}", micros(quantile_micros(histogram, quantile)));
    format!(
        "{}   {}   {}   max {}",
        shown("p50", 0.5),
        shown("p99", 0.99),
        shown("p99.9", 0.999),
        micros(if histogram.is_empty() { 0 } else { histogram.max() })
    )
}

/// A line that shows while a run lasts.
pub(super) fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units() {
        assert_eq!([micros(0), micros(999), micros(1_500), micros(2_500_000)], ["0 us", "999 us", "1.50 ms", "2.50 s"]);
        assert_eq!(rate(123_456_789.0), "123.5 MB/s");
        assert_eq!(records_per_second(12_345.6), "12,345 records/s");
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).expect("legal bounds");
        assert_eq!(quantiles(&histogram), "p50 0 us   p99 0 us   p99.9 0 us   max 0 us");
        (1..=1000).for_each(|n| histogram.saturating_record(n));
        assert_eq!(quantiles(&histogram), "p50 500 us   p99 990 us   p99.9 999 us   max 1.00 ms");
    }
}
