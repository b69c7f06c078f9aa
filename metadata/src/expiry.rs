//! Looks for sessions without heartbeats and asks for their end. Asks only: the end is a command in the same queue as
//! the calls, and a heartbeat that was queued before it still saves the session.
//!
//! Does nothing while this node does not lead; [`Leases`] knows. Sessions whose opening was never answered have nobody
//! who would grant them their first lease: they are found in the state.

use crate::{
    applied::Applied,
    queue::{Call, Entrance, Queued},
    sessions::Leases,
};
use parking_lot::Mutex;
use protocol::{id::SessionId, runtime::Clock};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The shortest and the longest pause between two looks for overdue sessions.
const EXPIRY_LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A pause that took this much longer than it should was not slow: the process stood still, and so did the heartbeats.
const STANDSTILL: Duration = Duration::from_secs(1);

/// Proposes the end of overdue sessions.
pub(crate) struct Expiry {
    leases: Arc<Mutex<Leases>>,
    applied: Arc<Applied>,
    clock: Arc<dyn Clock>,
    entrance: Entrance,
    /// Sessions up to here have a lease, or have ended.
    known: SessionId,
    /// When the next look was to come.
    expected: Option<Instant>,
}

impl Expiry {
    pub(crate) fn new(
        leases: Arc<Mutex<Leases>>,
        applied: Arc<Applied>,
        clock: Arc<dyn Clock>,
        entrance: Entrance,
    ) -> Self {
        Self { leases, applied, clock, entrance, known: SessionId(0), expected: None }
    }

    /// Runs until `stopping`.
    pub(crate) async fn run(mut self, stopping: CancellationToken) -> Result<(), String> {
        loop {
            let pause = self.look();
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Asks for the end of what is overdue; answers how long to wait before the next look.
    fn look(&mut self) -> Duration {
        let leads = self.leases.lock().leads();
        let opened = if leads { self.applied.read(|s| s.sessions_after(self.known).collect()) } else { Vec::new() };
        // Read after the state, so that no lease begins before its session; and before the other clock, so that a
        // standstill in between is not missed.
        let now = self.clock.monotonic();
        let lost = self.lost(Instant::now());
        let mut leases = self.leases.lock();
        if lost >= STANDSTILL {
            tracing::warn!(seconds = lost.as_secs_f64(), "this process stood still; sessions live that much longer");
            leases.extend(lost);
        }
        if let Some((newest, _)) = opened.last()
            && leases.leads()
        {
            self.known = *newest;
            leases.admit(opened.into_iter().map(|(id, ttl_ms)| (id, Duration::from_millis(ttl_ms))), now);
        }
        let overdue = leases.overdue(now);
        // New sessions and moving clocks are noticed by looking again; expiry needs no more precision than this.
        let next = leases.next().map_or(Duration::MAX, |at| at.saturating_sub(now));
        drop(leases);
        for session in overdue {
            let call = Call::Expire(session);
            self.entrance.push(Queued { call, bytes: 0, made: now, is_passed_on: false });
        }
        let pause = next.clamp(EXPIRY_LOOKS.0, EXPIRY_LOOKS.1);
        self.expected = Some(Instant::now() + pause);
        pause
    }

    /// How much later than expected this look comes.
    fn lost(&self, now: Instant) -> Duration {
        self.expected.map_or(Duration::ZERO, |expected| now.saturating_duration_since(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        queue::{Exit, queue},
        state::{Batch, Command, State},
    };
    use protocol::testing::ManualClock;

    const TTL: Duration = Duration::from_secs(10);

    struct Desk {
        leases: Arc<Mutex<Leases>>,
        applied: Arc<Applied>,
        clock: ManualClock,
        expiry: Expiry,
        exit: Exit,
    }

    impl Desk {
        fn new() -> Self {
            let (entrance, exit) = queue(1_000_000);
            let (leases, applied) = (Arc::default(), Arc::new(Applied::new(State::default())));
            let clock = ManualClock::default();
            let expiry = Expiry::new(Arc::clone(&leases), Arc::clone(&applied), Arc::new(clock.clone()), entrance);
            Self { leases, applied, clock, expiry, exit }
        }

        /// A session is opened by a command whose answer nobody heard.
        fn open(&self) {
            let command = Command::OpenSession { ttl_ms: TTL.as_millis() as u64 };
            self.applied.apply(&Batch::new(Duration::ZERO, &[command]), 1).expect("decodes");
        }

        fn lead(&self) {
            let sessions: Vec<_> = self.applied.read(|s| s.sessions().map(|(id, _)| (id, TTL)).collect());
            self.leases.lock().reset(sessions, self.clock.monotonic());
        }

        /// Time passes; then a look that comes in time. The sessions whose end it asks for.
        fn after(&mut self, time: Duration) -> Vec<u64> {
            self.look(time, None)
        }

        fn look(&mut self, time: Duration, expected: Option<Instant>) -> Vec<u64> {
            self.clock.advance(time);
            self.expiry.expected = expected;
            self.expiry.look();
            let mut asked = Vec::new();
            while let Some(queued) = self.exit.next_now() {
                let Call::Expire(session) = queued.call else { panic!("only ends of sessions are asked for") };
                asked.push(session.0);
            }
            asked
        }
    }

    #[tokio::test]
    async fn only_a_node_that_leads_asks_and_every_session_has_its_full_time() {
        let mut desk = Desk::new();
        desk.open();
        assert_eq!(desk.after(9 * TTL), [0; 0]);
        desk.lead();
        assert_eq!(desk.after(TTL / 2), [0; 0]);
        assert_eq!(desk.after(TTL / 2), [1]);
        desk.leases.lock().suspend();
        assert_eq!(desk.after(9 * TTL), [0; 0]);
        desk.lead();
        assert_eq!(desk.after(TTL / 2), [0; 0]);
        assert_eq!(desk.after(TTL / 2), [1]);
    }

    #[tokio::test]
    async fn a_session_whose_opening_nobody_heard_of_ends_too() {
        let mut desk = Desk::new();
        desk.lead();
        assert_eq!(desk.after(TTL), [0; 0]);
        desk.open();
        assert_eq!(desk.after(TTL * 2), [0; 0], "its time begins when it is found");
        desk.open();
        desk.leases.lock().grant(SessionId(2), 3 * TTL, desk.clock.monotonic());
        assert_eq!(desk.after(TTL), [1]);
        assert_eq!(desk.after(Duration::from_millis(999)), [0; 0]);
        assert_eq!(desk.after(Duration::from_millis(1)), [1], "asked again, it has not ended");
        desk.leases.lock().end(SessionId(1));
        assert_eq!(desk.after(TTL), [0; 0]);
        assert_eq!(desk.after(TTL), [2], "what was granted is not taken back");
    }

    #[tokio::test]
    async fn time_in_which_the_process_stood_still_does_not_count() {
        let mut desk = Desk::new();
        desk.open();
        desk.lead();
        assert_eq!(desk.after(TTL / 2), [0; 0]);
        let expected = Instant::now().checked_sub(2 * TTL).expect("this machine runs for longer than that");
        assert_eq!(desk.look(2 * TTL, Some(expected)), [0; 0]);
        assert_eq!(desk.after(TTL / 2), [0; 0], "it had half of its time left, and has it again");
        assert_eq!(desk.after(TTL), [1]);
    }
}
