//! Whether a session lived as long as it was promised, and not much longer. Judges from the outside: somebody asked at
//! one time and was answered at another, and the truth lies between. Owns that arithmetic; times are of one clock.

use std::time::Duration;

/// What somebody found out about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// When it was asked for.
    pub asked: Duration,
    /// When the answer came, or when nobody waited for it any more.
    pub answered: Duration,
    /// What the answer was.
    pub found: Found,
    /// Whether the question makes the session live on: opening it and heartbeats do, looking at its keys does not.
    pub extends: bool,
}

/// The answer about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It lives.
    Alive,
    /// It has expired.
    Gone,
    /// There was no answer.
    Nothing,
}

/// What a session must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenSession {
    /// It ended before its time to live had passed.
    #[error("gone at {gone:?}, although the heartbeat of {heartbeat:?} was acknowledged and lasts until {until:?}")]
    Early {
        /// When it was known to be gone.
        gone: Duration,
        /// When a heartbeat was sent that was acknowledged.
        heartbeat: Duration,
        /// Until when it must have lived.
        until: Duration,
    },
    /// It ended, and lived again.
    #[error("gone at {gone:?}, and alive when asked at {alive:?}")]
    Resurrected {
        /// When it was known to be gone.
        gone: Duration,
        /// When it was asked for again.
        alive: Duration,
    },
    /// It lived on without a heartbeat for longer than allowed.
    #[error("alive when asked at {alive:?}, although nothing made it live on after {latest:?}")]
    Late {
        /// When it was asked for.
        alive: Duration,
        /// When the last heartbeat before that can have been heard.
        latest: Duration,
    },
}

/// Checks one session that was not closed on purpose.
///
/// `ttl` is its time to live, `grace` how much later than that it may end: the bound on expiry, and on everything that
/// gives sessions a full timeout again, such as a new leader.
///
/// # Errors
/// What it must not have done.
pub fn check(sightings: &[Sighting], ttl: Duration, grace: Duration) -> Result<(), BrokenSession> {
    let alive = || sightings.iter().filter(|s| s.found == Found::Alive);
    for gone in sightings.iter().filter(|s| s.found == Found::Gone) {
        let gone = gone.answered;
        // The heartbeat was heard after it was sent. Even if it was heard after the end, that is as wrong.
        if let Some(heartbeat) = alive().find(|s| s.extends && s.asked + ttl > gone) {
            let (heartbeat, until) = (heartbeat.asked, heartbeat.asked + ttl);
            return Err(BrokenSession::Early { gone, heartbeat, until });
        }
        if let Some(again) = alive().find(|s| s.asked > gone) {
            return Err(BrokenSession::Resurrected { gone, alive: again.asked });
        }
    }
    for seen in alive() {
        let before = sightings.iter().filter(|s| s.extends && s.found != Found::Gone && s.asked < seen.asked);
        let Some(latest) = before.map(|s| s.answered).max() else { continue };
        if seen.asked > latest + ttl + grace {
            return Err(BrokenSession::Late { alive: seen.asked, latest });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const GRACE: Duration = Duration::from_secs(5);

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn beat(asked: u64, answered: u64, found: Found) -> Sighting {
        Sighting { asked: at(asked), answered: at(answered), found, extends: true }
    }

    const fn look(asked: u64, answered: u64, found: Found) -> Sighting {
        Sighting { asked: at(asked), answered: at(answered), found, extends: false }
    }

    #[test]
    fn a_session_that_ends_in_time_is_fine() {
        let life = [
            beat(0, 1, Found::Alive),
            beat(5, 6, Found::Alive),
            beat(8, 20, Found::Nothing),
            look(12, 13, Found::Alive),
            look(15, 16, Found::Gone),
            beat(30, 31, Found::Gone),
        ];
        assert_eq!(check(&life, TTL, GRACE), Ok(()));
    }

    #[test]
    fn an_end_before_the_promised_time_is_early() {
        let life = [beat(0, 1, Found::Alive), beat(5, 9, Found::Alive), look(13, 14, Found::Gone)];
        let expected = BrokenSession::Early { gone: at(14), heartbeat: at(5), until: at(15) };
        assert_eq!(check(&life, TTL, GRACE), Err(expected));
        let unheard = [beat(0, 1, Found::Alive), beat(5, 9, Found::Nothing), look(13, 14, Found::Gone)];
        assert_eq!(check(&unheard, TTL, GRACE), Ok(()), "nobody was promised anything at 5");
    }

    #[test]
    fn a_session_that_lives_again_is_found() {
        let life = [beat(0, 1, Found::Alive), look(12, 13, Found::Gone), look(14, 15, Found::Alive)];
        assert_eq!(check(&life, TTL, GRACE), Err(BrokenSession::Resurrected { gone: at(13), alive: at(14) }));
        let heard = [beat(0, 1, Found::Alive), look(12, 13, Found::Gone), beat(14, 15, Found::Alive)];
        assert!(matches!(check(&heard, TTL, GRACE), Err(BrokenSession::Early { .. })));
    }

    #[test]
    fn a_session_that_does_not_end_is_late() {
        let alive =
            |asked| [beat(0, 1, Found::Alive), beat(3, 4, Found::Nothing), look(asked, asked + 1, Found::Alive)];
        assert_eq!(check(&alive(19), TTL, GRACE), Ok(()));
        assert_eq!(check(&alive(20), TTL, GRACE), Err(BrokenSession::Late { alive: at(20), latest: at(4) }));
    }
}
