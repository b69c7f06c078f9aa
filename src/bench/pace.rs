//! An open-loop schedule: when each record is due, whatever became of the ones before it. Pure arithmetic on
//! microseconds; owns no clock.

/// The schedule of one producer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    start: u64,
    /// Records per second; none is "as fast as possible".
    rate: Option<f64>,
}

impl Schedule {
    /// A schedule that begins at `start`.
    pub(super) const fn new(start: u64, rate: Option<f64>) -> Self {
        Self { start, rate }
    }

    /// When the record of this number is due; `now` if there is no rate.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "runs of hours"
    )]
    pub(super) fn due(&self, record: u64, now: u64) -> u64 {
        self.rate.map_or(now, |rate| self.start + (record as f64 * 1e6 / rate) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_record_keeps_its_intended_time() {
        let schedule = Schedule::new(1_000, Some(1_000.0));
        assert_eq!(schedule.due(0, 5), 1_000);
        assert_eq!(schedule.due(7, 99_000_000), 8_000, "a stall does not move the schedule");
        assert_eq!(Schedule::new(1_000, None).due(7, 42), 42);
    }
}
