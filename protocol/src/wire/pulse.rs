//! Whether the peer of a connection still lives: a pure machine that counts the owner's own ticks.
//!
//! Any byte from the peer is a sign of life. Without one, while something is waited for, the peer is asked; without an
//! answer to that it counts as dead. Owns the counting, never a clock: whoever was stopped itself (a suspended process, a
//! starved machine) has not ticked either, and so does not blame its peer.

use std::time::Duration;

/// How often a [`Pulse`] is to be told that time has passed.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// What to do after a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing.
    Fine,
    /// Ask the peer for a sign of life.
    Ask,
    /// Give the connection up.
    Dead,
}

/// The signs of life of one peer.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    /// Ticks without a byte after which the peer is asked, and after which it is dead.
    limits: (u32, u32),
    /// Bytes received when the peer was last heard.
    received: u64,
    /// Ticks since then during which something was waited for.
    quiet: u32,
    asked: bool,
}

impl Pulse {
    /// A peer that was just heard. It is asked after `probe`, and is dead after `silence`.
    pub(super) fn new(probe: Duration, silence: Duration) -> Self {
        let ticks = |time: Duration| u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1);
        let ask = ticks(probe);
        Self { limits: (ask, ticks(silence).max(ask.saturating_add(1))), received: 0, quiet: 0, asked: false }
    }

    /// A tick has passed; `received` bytes have arrived so far, and `waits` says whether an answer is due.
    pub(super) fn tick(&mut self, received: u64, waits: bool) -> Beat {
        if received != self.received {
            (self.received, self.quiet, self.asked) = (received, 0, false);
        }
        if !waits && !self.asked {
            self.quiet = 0;
            return Beat::Fine;
        }
        self.quiet += 1;
        if self.quiet >= self.limits.1 {
            Beat::Dead
        } else if self.quiet >= self.limits.0 && !self.asked {
            self.asked = true;
            Beat::Ask
        } else {
            Beat::Fine
        }
    }

    /// Nothing is waited for, but the peer shall hear from us: asks it now.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    /// Whether ticks matter although nothing is waited for.
    pub(super) const fn is_asked(&self) -> bool {
        self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse() -> Pulse {
        Pulse::new(TICK * 2, TICK * 5)
    }

    #[test]
    fn a_silent_peer_is_asked_once_and_then_given_up() {
        let mut pulse = pulse();
        let beats: Vec<Beat> = (0..5).map(|_| pulse.tick(0, true)).collect();
        assert_eq!(beats, [Beat::Fine, Beat::Ask, Beat::Fine, Beat::Fine, Beat::Dead]);
    }

    #[test]
    fn any_byte_is_a_sign_of_life() {
        let mut pulse = pulse();
        for received in 0..100 {
            // Four ticks per byte: asked each time, never dead.
            let beats: Vec<Beat> = (0..4).map(|_| pulse.tick(received + 1, true)).collect();
            assert!(beats.contains(&Beat::Ask) && !beats.contains(&Beat::Dead), "{beats:?}");
        }
    }

    #[test]
    fn silence_counts_only_while_something_is_due() {
        let mut pulse = pulse();
        assert!((0..100).all(|_| pulse.tick(0, false) == Beat::Fine), "nobody waits");
        assert_eq!(pulse.tick(0, true), Beat::Fine, "it begins anew");
        pulse.ask();
        assert!(pulse.is_asked());
        let beats: Vec<Beat> = (0..4).map(|_| pulse.tick(0, false)).collect();
        assert_eq!(beats.last(), Some(&Beat::Dead), "an idle peer that was asked owes an answer: {beats:?}");
    }

    #[test]
    fn limits_make_sense_whatever_was_asked_for() {
        let mut pulse = Pulse::new(Duration::MAX, Duration::ZERO);
        assert_eq!(pulse.tick(0, true), Beat::Fine);
        let mut pulse = Pulse::new(Duration::ZERO, Duration::ZERO);
        assert_eq!((pulse.tick(0, true), pulse.tick(0, true)), (Beat::Ask, Beat::Dead));
    }
}
