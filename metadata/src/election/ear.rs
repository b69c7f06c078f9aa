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
    heard: Mutex<Heard>,
}

struct Heard {
    /// The latest leader, and when it was heard.
    leader: (Vote, Duration),
    /// When somebody got this node's vote.
    voted: Duration,
}

impl Ear {
    /// Has heard nobody; the silence begins now.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.monotonic();
        Self { clock, heard: Mutex::new(Heard { leader: (Vote::default(), now), voted: now }) }
    }

    /// A message of the leader of this term has arrived. Leaders of earlier terms are not listened to.
    pub(crate) fn hear(&self, vote: Vote) {
        let mut heard = self.heard.lock();
        if vote.is_committed() && vote >= heard.leader.0 {
            heard.leader = (vote, self.clock.monotonic());
        }
    }

    /// A candidate got this node's vote: it is given the time to win before this node stands itself (Raft, section 5.2).
    pub(crate) fn has_voted(&self) {
        self.heard.lock().voted = self.clock.monotonic();
    }

    /// Since when this node has waited for a leader: the last sign of one, the last vote given, or the start.
    pub(crate) fn silent_since(&self) -> Duration {
        let heard = self.heard.lock();
        heard.leader.1.max(heard.voted)
    }

    /// Whether a leader was heard so lately that nobody else may get this node's vote.
    pub(crate) fn has_leader(&self) -> bool {
        let (vote, at) = self.heard.lock().leader;
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
        assert_eq!(ear.silent_since(), Duration::ZERO);
        ear.hear(Vote::new_committed(6, 2));
        assert!(ear.has_leader());
        assert_eq!(ear.silent_since(), LEASE);
    }

    #[test]
    fn whoever_has_voted_waits_and_knows_no_leader() {
        let clock = Arc::new(ManualClock::default());
        let ear = Ear::new(Arc::clone(&clock) as Arc<dyn Clock>);
        clock.advance(LEASE);
        ear.has_voted();
        assert_eq!(ear.silent_since(), LEASE);
        assert!(!ear.has_leader(), "a candidate is no leader");
    }
}
