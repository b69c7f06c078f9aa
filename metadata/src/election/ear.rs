//! Which leader was heard last, and when. Owns the answer to "is there a leader"; whoever takes a message from a leader
//! tells it, as soon as the message arrives and before anything is written.

use super::LEASE;
use crate::raft::Vote;
use parking_lot::Mutex;
use protocol::runtime::Clock;
use std::{sync::Arc, time::Duration};

/// The ear of one node.
pub(crate) struct Ear {
    clock: Arc<dyn Clock>,
    heard: Mutex<(Vote, Duration)>,
}

impl Ear {
    /// Has heard nobody; the silence begins now.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.monotonic();
        Self { clock, heard: Mutex::new((Vote::default(), now)) }
    }

    /// A message of the leader of this term has arrived. Leaders of earlier terms are not listened to.
    pub(crate) fn hear(&self, vote: Vote) {
        let mut heard = self.heard.lock();
        if vote.is_committed() && vote >= heard.0 {
            *heard = (vote, self.clock.monotonic());
        }
    }

    /// When a leader was heard last, or the silence began.
    pub(crate) fn last(&self) -> Duration {
        self.heard.lock().1
    }

    /// Whether a leader was heard so lately that nobody else may get this node's vote.
    pub(crate) fn has_leader(&self) -> bool {
        let (vote, at) = *self.heard.lock();
        vote.is_committed() && self.clock.monotonic() < at + LEASE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::testing::ManualClock;

    #[test]
    fn it_listens_to_the_latest_leader_only() {
        let clock = Arc::new(ManualClock::default());
        let ear = Ear::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert!(!ear.has_leader());
        ear.hear(Vote::new(5, 1));
        assert!(!ear.has_leader(), "a candidate is no leader");
        ear.hear(Vote::new_committed(5, 1));
        assert!(ear.has_leader());
        clock.advance(LEASE);
        assert!(!ear.has_leader());
        ear.hear(Vote::new_committed(4, 2));
        assert!(!ear.has_leader(), "an old leader");
        assert_eq!(ear.last(), Duration::ZERO);
        ear.hear(Vote::new_committed(6, 2));
        assert!(ear.has_leader());
        assert_eq!(ear.last(), LEASE);
    }
}
