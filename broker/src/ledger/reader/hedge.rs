//! How long to wait for a bookie before asking another one too: the 95th percentile of recent reads (rule P8).
//!
//! Invariant: the delay stays within fixed bounds, so that neither a run of cache hits doubles every read nor a slow
//! minute switches hedging off.

use parking_lot::Mutex;
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);
/// Before enough reads were seen.
const INITIAL: Duration = Duration::from_millis(100);
const SAMPLES: usize = 128;
/// Reads between two looks at the samples.
const PERIOD: usize = 16;

/// The delay, learnt from the latest reads.
#[derive(Debug)]
pub(super) struct HedgeDelay(Mutex<Recent>);

#[derive(Debug)]
struct Recent {
    samples: Vec<Duration>,
    seen: usize,
    delay: Duration,
}

impl Default for HedgeDelay {
    fn default() -> Self {
        Self(Mutex::new(Recent { samples: Vec::with_capacity(SAMPLES), seen: 0, delay: INITIAL }))
    }
}

impl HedgeDelay {
    pub(super) fn current(&self) -> Duration {
        self.0.lock().delay
    }

    pub(super) fn observe(&self, took: Duration) {
        let mut recent = self.0.lock();
        let at = recent.seen % SAMPLES;
        match recent.samples.get_mut(at) {
            Some(old) => *old = took,
            None => recent.samples.push(took),
        }
        recent.seen += 1;
        if recent.seen.is_multiple_of(PERIOD) {
            let mut sorted = recent.samples.clone();
            sorted.sort_unstable();
            recent.delay = sorted[sorted.len() * 95 / 100].clamp(SHORTEST, LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_the_slowest_reads_within_bounds() {
        let delay = HedgeDelay::default();
        assert_eq!(delay.current(), INITIAL);
        (0..SAMPLES).for_each(|_| delay.observe(Duration::from_micros(50)));
        assert_eq!(delay.current(), SHORTEST);
        // One slow read in ten is beyond the 95th percentile of nothing: the delay rises to it.
        (0..SAMPLES).for_each(|i| delay.observe(Duration::from_millis(if i % 10 == 0 { 200 } else { 1 })));
        assert_eq!(delay.current(), Duration::from_millis(200));
        (0..SAMPLES).for_each(|_| delay.observe(Duration::from_secs(30)));
        assert_eq!(delay.current(), LONGEST);
    }
}
