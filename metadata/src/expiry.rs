//! Looks for sessions without heartbeats and asks for their end. Asks only: the end is a command in the same queue as
//! the calls, and a heartbeat that was queued before it still saves the session.

use crate::{
    queue::{Call, Entrance, Queued},
    sessions::Leases,
};
use parking_lot::Mutex;
use protocol::{id::SessionId, runtime::Clock};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The shortest and the longest pause between two looks for overdue sessions.
const EXPIRY_LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How soon the end of an overdue session is asked for again, if it did not come.
const EXPIRE_AGAIN: Duration = Duration::from_secs(1);

/// A pause that took this much longer than it should was not slow: the process stood still, and so did the heartbeats.
const STANDSTILL: Duration = Duration::from_secs(1);

/// Proposes the end of overdue sessions.
pub(crate) struct Expiry {
    leases: Arc<Mutex<Leases>>,
    clock: Arc<dyn Clock>,
    entrance: Entrance,
    /// When the end of a session was asked for last.
    asked: HashMap<SessionId, Duration>,
}

impl Expiry {
    pub(crate) fn new(leases: Arc<Mutex<Leases>>, clock: Arc<dyn Clock>, entrance: Entrance) -> Self {
        Self { leases, clock, entrance, asked: HashMap::new() }
    }

    /// Runs until `stopping`.
    pub(crate) async fn run(mut self, stopping: CancellationToken) -> Result<(), String> {
        loop {
            let now = self.clock.monotonic();
            let overdue = self.leases.lock().overdue(now);
            self.asked.retain(|session, _| overdue.contains(session));
            for session in overdue {
                if self.asked.get(&session).is_none_or(|at| now >= *at + EXPIRE_AGAIN) {
                    self.asked.insert(session, now);
                    let call = Call::Expire(session);
                    self.entrance.push(Queued { call, bytes: 0, made: now, is_passed_on: false });
                }
            }
            // New sessions and moving clocks are noticed by looking again; expiry needs no more precision than this.
            let next = self.leases.lock().next().map_or(Duration::MAX, |at| at.saturating_sub(now));
            let pause = next.clamp(EXPIRY_LOOKS.0, EXPIRY_LOOKS.1);
            let before = Instant::now();
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            let lost = before.elapsed().saturating_sub(pause);
            if lost >= STANDSTILL {
                tracing::warn!(
                    seconds = lost.as_secs_f64(),
                    "this process stood still; sessions live that much longer"
                );
                self.leases.lock().extend(lost);
            }
        }
    }
}
