//! Which server is next, and when: a pure machine.
//!
//! Owns the turn of the servers. As long as some were not tried, the next one is tried at once; then pauses grow, so that
//! a cluster without a leader is not stormed by its clients. A server that served for a while wipes the slate clean.

use std::time::Duration;

/// The first and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// The shortest and the longest time in which a server has to be reached and say hello.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// A server that was used for this long was not left because of trouble that lasts.
const CALM: Duration = Duration::from_secs(1);

/// The turn of the servers.
#[derive(Debug)]
pub(super) struct Route {
    servers: usize,
    at: usize,
    /// Servers left in a row, without a calm one among them.
    left: u32,
    /// When the current server was reached, since the client began.
    reached: Option<Duration>,
}

impl Route {
    /// A turn of `servers`, 1 or more, that begins at `first`.
    pub(super) const fn new(servers: usize, first: usize) -> Self {
        Self { servers, at: first % servers, left: 0, reached: None }
    }

    /// The server whose turn it is.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// It is this server's turn.
    pub(super) const fn turn_to(&mut self, server: usize) {
        self.at = server;
    }

    /// How long that server may take to say hello. It grows, so that servers under load are not given up for ever.
    pub(super) fn patience(&self) -> Duration {
        let rounds = self.left / u32::try_from(self.servers).unwrap_or(u32::MAX);
        PATIENCE.0.saturating_mul(2_u32.saturating_pow(rounds)).min(PATIENCE.1)
    }

    /// Whether servers were left before, without a calm one since.
    pub(super) const fn is_troubled(&self) -> bool {
        self.left > 1
    }

    /// That server said hello.
    pub(super) const fn reached(&mut self, now: Duration) {
        self.reached = Some(now);
    }

    /// That server was left, or not reached; how long to pause before the next one. `jitter` is any number: clients that
    /// lost the same server shall not come back at the same instant.
    pub(super) fn left(&mut self, now: Duration, jitter: u32) -> Duration {
        if self.reached.take().is_some_and(|reached| now.saturating_sub(reached) >= CALM) {
            self.left = 0;
        }
        self.at = (self.at + 1) % self.servers;
        self.left = self.left.saturating_add(1);
        let beyond = self.left.checked_sub(u32::try_from(self.servers).unwrap_or(u32::MAX));
        let pause = |beyond| PAUSE.0.saturating_mul(2_u32.saturating_pow(beyond)).min(PAUSE.1);
        beyond.map_or(Duration::ZERO, pause) * (768 + jitter % 512) / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Neither longer nor shorter.
    const EVEN: u32 = 256;

    #[test]
    fn servers_take_turns_and_pauses_grow_once_all_were_tried() {
        let mut route = Route::new(3, 4);
        assert_eq!((route.at(), route.patience()), (1, SECOND));
        assert!(!route.is_troubled());
        let tried: Vec<(u128, usize)> =
            (0..9).map(|_| (route.left(Duration::ZERO, EVEN).as_millis(), route.at())).collect();
        let pauses = [(0, 2), (0, 0), (10, 1), (20, 2), (40, 0), (80, 1), (160, 2), (250, 0), (250, 1)];
        assert_eq!(tried, pauses);
        assert!(route.is_troubled());
        assert_eq!(route.patience(), SECOND * 5, "slow servers are waited for longer");
        assert_eq!(route.left(Duration::ZERO, 0).as_micros(), 187_500);
        assert_eq!(route.left(Duration::ZERO, 511).as_millis(), 312);
    }

    #[test]
    fn a_calm_server_wipes_the_slate_and_a_quick_failure_does_not() {
        let mut route = Route::new(1, 0);
        for _ in 0..5 {
            route.left(Duration::ZERO, EVEN);
        }
        route.reached(SECOND);
        assert_eq!(route.left(SECOND + CALM / 2, EVEN).as_millis(), 250, "it said hello and was of no use");
        route.reached(SECOND * 10);
        assert_eq!(route.left(SECOND * 11, EVEN).as_millis(), 10);
        assert!(!route.is_troubled(), "this is new");
        assert_eq!(route.left(SECOND * 11, EVEN).as_millis(), 20, "the next one was not reached");
    }
}
