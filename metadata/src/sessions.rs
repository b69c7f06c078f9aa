//! Who has sent a heartbeat and when: the part of sessions that is never logged.
//!
//! Pure: the time is passed in. It decides which sessions are overdue; their end is a command like any other. After a
//! start (and, with several voters, after a change of leader) every session is granted its full time again, because
//! nobody knows when the last heartbeat came.

use protocol::id::SessionId;
use std::{collections::HashMap, time::Duration};

/// The shortest time to live.
pub const MIN_TTL: Duration = Duration::from_millis(10);
/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Deadlines of the sessions.
#[derive(Debug, Default)]
pub struct Leases {
    deadlines: HashMap<SessionId, Duration>,
}

impl Leases {
    /// Grants a session its time to live from `now` on.
    pub fn grant(&mut self, session: SessionId, ttl: Duration, now: Duration) {
        self.deadlines.insert(session, now.saturating_add(ttl));
    }

    /// Forgets everything and grants these sessions their time to live, in milliseconds, from `now` on.
    pub fn reset(&mut self, sessions: impl IntoIterator<Item = (SessionId, u64)>, now: Duration) {
        self.deadlines.clear();
        for (session, ttl_ms) in sessions {
            self.grant(session, Duration::from_millis(ttl_ms), now);
        }
    }

    /// Gives every session this much longer: nobody could send a heartbeat while this process stood still.
    pub fn extend(&mut self, by: Duration) {
        self.deadlines.values_mut().for_each(|deadline| *deadline = deadline.saturating_add(by));
    }

    /// Forgets a session that has ended.
    pub fn end(&mut self, session: SessionId) {
        self.deadlines.remove(&session);
    }

    /// Whether the session's time is over.
    #[must_use]
    pub fn is_overdue(&self, session: SessionId, now: Duration) -> bool {
        self.deadlines.get(&session).is_some_and(|deadline| *deadline <= now)
    }

    /// The sessions whose time is over, in order.
    #[must_use]
    pub fn overdue(&self, now: Duration) -> Vec<SessionId> {
        let mut overdue: Vec<_> = self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        overdue.sort_unstable();
        overdue
    }

    /// When the next session becomes overdue.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.deadlines.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_moves_the_deadline() {
        let (mut leases, second) = (Leases::default(), Duration::from_secs(1));
        leases.grant(SessionId(2), second, Duration::ZERO);
        leases.grant(SessionId(1), second, Duration::ZERO);
        leases.grant(SessionId(2), second, second / 2);
        assert_eq!(leases.overdue(second), [SessionId(1)]);
        assert!(!leases.is_overdue(SessionId(2), second));
        leases.end(SessionId(1));
        assert_eq!(leases.next(), Some(second + second / 2));
        assert_eq!(leases.overdue(2 * second), [SessionId(2)]);
        leases.extend(5 * second);
        assert!(leases.overdue(6 * second).is_empty(), "time in which nobody could be heard does not count");
        assert_eq!(leases.overdue(7 * second), [SessionId(2)]);
    }
}
