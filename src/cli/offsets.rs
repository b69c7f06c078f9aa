//! First and last offsets of partitions, as commands ask for them. Owns the request and the arithmetic on its answer.

use super::client::{PATIENCE, explain};
use rdkafka::consumer::{BaseConsumer, Consumer};

/// The first offset of a partition, and the one after its last record.
///
/// # Errors
/// The server did not answer, or knows no such partition.
pub fn range(observer: &BaseConsumer, topic: &str, partition: i32) -> anyhow::Result<(i64, i64)> {
    observer.fetch_watermarks(topic, partition, PATIENCE).map_err(|e| explain(&e))
}

/// How many offsets lie between two; 0 if the second is the smaller one.
#[must_use]
pub fn between(start: i64, end: i64) -> u64 {
    u64::try_from(end.saturating_sub(start)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_never_negative() {
        assert_eq!(
            [between(3, 10), between(10, 10), between(10, 3), between(i64::MIN, i64::MAX)],
            [7, 0, 0, i64::MAX as u64]
        );
    }
}
