//! Who has sent a heartbeat and when: the part of sessions that is never logged.
//!
//! Pure: the time is passed in. It decides which sessions are overdue; their end is a command like any other. Only a node
//! that leads hears the heartbeats, so on any other nothing is overdue, and a node that begins to lead grants every
//! session its full time again, because nobody knows when the last heartbeat came.
//!
//! Invariants: no session is overdue before its time to live has passed since its last heartbeat, its opening, or the
//! beginning of this lead, whichever is latest. A look costs as much as it finds, not as much as there is.

use protocol::id::SessionId;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// The shortest time to live.
pub const MIN_TTL: Duration = Duration::from_millis(10);
/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// How soon the end of an overdue session is asked for again, if it did not come.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The most overdue sessions that one look finds.
const LOOK: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Lease {
    /// From here on the session is overdue.
    deadline: Duration,
    /// From here on its end is to be asked for.
    ask: Duration,
}

/// Deadlines of the sessions.
#[derive(Debug, Default)]
pub struct Leases {
    leads: bool,
    leases: HashMap<SessionId, Lease>,
    /// When to ask for the end of which session.
    order: BTreeSet<(Duration, SessionId)>,
}

impl Leases {
    /// This node leads from now on: grants these sessions, which are all there are, their time to live.
    pub fn reset(&mut self, sessions: impl IntoIterator<Item = (SessionId, Duration)>, now: Duration) {
        self.suspend();
        self.leads = true;
        self.admit(sessions, now);
    }

    /// This node does not lead any more: nothing is overdue until the next [`Self::reset`].
    pub fn suspend(&mut self) {
        *self = Self::default();
    }

    /// Grants those of these sessions that are not known yet their time to live.
    pub fn admit(&mut self, sessions: impl IntoIterator<Item = (SessionId, Duration)>, now: Duration) {
        for (session, ttl) in sessions {
            if !self.leases.contains_key(&session) {
                self.grant(session, ttl, now);
            }
        }
    }

    /// Grants a session its time to live from `now` on.
    pub fn grant(&mut self, session: SessionId, ttl: Duration, now: Duration) {
        if !self.leads {
            return;
        }
        let deadline = now.saturating_add(ttl);
        self.end(session);
        self.put(session, Lease { deadline, ask: deadline });
    }

    /// Gives every session this much longer: nobody could send a heartbeat while this process stood still.
    pub fn extend(&mut self, by: Duration) {
        self.order.clear();
        for (session, lease) in std::mem::take(&mut self.leases) {
            let deadline = lease.deadline.saturating_add(by);
            self.put(session, Lease { deadline, ask: deadline });
        }
    }

    /// Forgets a session that has ended.
    pub fn end(&mut self, session: SessionId) {
        if let Some(lease) = self.leases.remove(&session) {
            self.order.remove(&(lease.ask, session));
        }
    }

    /// Whether the session's time is over.
    #[must_use]
    pub fn is_overdue(&self, session: SessionId, now: Duration) -> bool {
        self.leases.get(&session).is_some_and(|lease| lease.deadline <= now)
    }

    /// The sessions whose end is to be asked for now, in the order of their deadlines; the rest of many at the next
    /// look. Each comes up again a second later, if it has not ended by then.
    pub fn overdue(&mut self, now: Duration) -> Vec<SessionId> {
        let due: Vec<_> = self.order.iter().take_while(|(ask, _)| *ask <= now).take(LOOK).copied().collect();
        for (ask, session) in &due {
            self.order.remove(&(*ask, *session));
            if let Some(lease) = self.leases.get(session).copied() {
                self.put(*session, Lease { ask: now.saturating_add(ASK_AGAIN), ..lease });
            }
        }
        due.into_iter().map(|(_, session)| session).collect()
    }

    /// When there will be something to ask for.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.order.first().map(|(ask, _)| *ask)
    }

    /// How many sessions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Whether this node leads.
    #[must_use]
    pub const fn leads(&self) -> bool {
        self.leads
    }

    fn put(&mut self, session: SessionId, lease: Lease) {
        self.leases.insert(session, lease);
        self.order.insert((lease.ask, session));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn leading(sessions: impl IntoIterator<Item = u64>) -> Leases {
        let mut leases = Leases::default();
        leases.reset(sessions.into_iter().map(|id| (SessionId(id), 10 * SECOND)), Duration::ZERO);
        leases
    }

    #[test]
    fn a_heartbeat_moves_the_deadline() {
        let mut leases = leading([]);
        leases.grant(SessionId(2), SECOND, Duration::ZERO);
        leases.grant(SessionId(1), SECOND, Duration::ZERO);
        leases.grant(SessionId(2), SECOND, SECOND / 2);
        assert_eq!(leases.next(), Some(SECOND));
        assert_eq!(leases.overdue(SECOND), [SessionId(1)]);
        assert!(!leases.is_overdue(SessionId(2), SECOND));
        leases.end(SessionId(1));
        assert_eq!(leases.next(), Some(SECOND + SECOND / 2));
        leases.extend(5 * SECOND);
        assert!(leases.overdue(6 * SECOND).is_empty(), "time in which nobody could be heard does not count");
        assert_eq!(leases.overdue(7 * SECOND), [SessionId(2)]);
    }

    #[test]
    fn nothing_is_overdue_on_a_node_that_does_not_lead() {
        let mut leases = Leases::default();
        leases.grant(SessionId(1), SECOND, Duration::ZERO);
        assert_eq!((leases.overdue(9 * SECOND), leases.next(), leases.leads()), (vec![], None, false));
        leases.reset([(SessionId(1), SECOND), (SessionId(2), 3 * SECOND)], 9 * SECOND);
        assert!(leases.overdue(9 * SECOND + SECOND / 2).is_empty(), "a new lead grants the full time");
        assert_eq!(leases.overdue(10 * SECOND), [SessionId(1)]);
        leases.suspend();
        assert!(!leases.is_overdue(SessionId(1), 99 * SECOND) && leases.overdue(99 * SECOND).is_empty());
        leases.reset([(SessionId(2), 3 * SECOND)], 100 * SECOND);
        assert_eq!((leases.len(), leases.next()), (1, Some(103 * SECOND)));
    }

    #[test]
    fn an_overdue_session_comes_up_again_until_it_ends_and_a_heartbeat_still_saves_it() {
        let mut leases = leading([1]);
        assert_eq!(leases.overdue(10 * SECOND), [SessionId(1)]);
        assert!(leases.overdue(10 * SECOND + SECOND / 2).is_empty() && leases.is_overdue(SessionId(1), 10 * SECOND));
        assert_eq!(leases.overdue(11 * SECOND), [SessionId(1)]);
        leases.grant(SessionId(1), 10 * SECOND, 11 * SECOND);
        assert!(!leases.is_overdue(SessionId(1), 12 * SECOND) && leases.overdue(20 * SECOND).is_empty());
        assert_eq!(leases.overdue(21 * SECOND), [SessionId(1)]);
        leases.end(SessionId(1));
        assert!(leases.overdue(99 * SECOND).is_empty() && leases.is_empty());
    }

    #[test]
    fn admitting_grants_only_those_that_are_new() {
        let mut leases = leading([1]);
        leases.admit([(SessionId(1), 10 * SECOND), (SessionId(2), 10 * SECOND)], 5 * SECOND);
        assert_eq!(leases.overdue(12 * SECOND), [SessionId(1)]);
        assert_eq!(leases.next(), Some(13 * SECOND));
        assert!(leases.is_overdue(SessionId(2), 15 * SECOND));
    }

    #[test]
    fn many_come_up_in_the_order_of_their_deadlines_a_part_at_a_time() {
        let mut leases = leading([]);
        let count = 2 * LOOK as u64 + 1;
        for id in 1..=count {
            leases.grant(SessionId(id), SECOND * (1 + (count - id) as u32), Duration::ZERO);
        }
        let all = SECOND * (count as u32 + 1);
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.extend(leases.overdue(all));
        }
        assert_eq!(seen, (1..=count).rev().map(SessionId).collect::<Vec<_>>());
        assert!(leases.overdue(all).is_empty(), "each once");
    }
}
