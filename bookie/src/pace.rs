//! A pace: work in the background takes no more than so many bytes per second. Owns the arithmetic and the waiting;
//! never on the way of an acknowledgement.

use protocol::runtime::Clock;
use std::{sync::Arc, time::Duration};

/// Bytes per second that are not exceeded for longer than one piece of work.
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    bytes_per_second: u64,
    /// When everything that was spent so far is paid for.
    paid_at: Duration,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("bytes_per_second", &self.bytes_per_second).finish_non_exhaustive()
    }
}

impl Pace {
    /// A pace of this many bytes per second, 1 at least.
    pub(crate) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { clock, bytes_per_second: bytes_per_second.max(1), paid_at: Duration::ZERO }
    }

    /// Notes that `bytes` were read or copied, and waits until the next piece may begin.
    pub(crate) async fn spend(&mut self, bytes: u64) {
        let wait = self.charge(bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long `bytes` make the next piece wait. Time that was not used is not saved up.
    pub(crate) fn charge(&mut self, bytes: u64) -> Duration {
        let now = self.clock.monotonic();
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.paid_at = self.paid_at.max(now) + price;
        self.paid_at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::testing::ManualClock;

    #[test]
    fn bytes_cost_time_and_idle_time_is_not_saved() {
        let clock = Arc::new(ManualClock::default());
        let mut pace = Pace::new(1000, Arc::clone(&clock) as _);
        assert_eq!(pace.charge(500), Duration::from_millis(500));
        assert_eq!(pace.charge(500), Duration::from_secs(1), "two pieces at once wait for both");
        clock.advance(Duration::from_secs(60));
        assert_eq!(pace.charge(250), Duration::from_millis(250));
        assert_eq!(Pace::new(0, clock).charge(1), Duration::from_secs(1), "nothing is no pace");
    }
}
