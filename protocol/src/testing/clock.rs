//! A clock that only moves when a test says so.

use crate::{id::Timestamp, runtime::Clock};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// A clock that stands still. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<(Duration, Timestamp)>>);

impl Default for ManualClock {
    fn default() -> Self {
        Self::at(Timestamp(1_700_000_000_000))
    }
}

impl ManualClock {
    /// A clock whose wall shows `wall`.
    #[must_use]
    pub fn at(wall: Timestamp) -> Self {
        Self(Arc::new(Mutex::new((Duration::ZERO, wall))))
    }

    /// Both times move forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        now.0 += by;
        now.1.0 += i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    }

    /// The wall clock jumps; monotonic time does not notice.
    pub fn set_wall(&self, wall: Timestamp) {
        self.0.lock().1 = wall;
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.0.lock().0
    }

    fn wall(&self) -> Timestamp {
        self.0.lock().1
    }
}
