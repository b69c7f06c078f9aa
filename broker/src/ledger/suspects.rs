//! Bookies that could not be reached or did not answer a moment ago.
//!
//! Owns how long a failure is remembered. Only a preference rests on it (who is asked first, who takes a new ledger),
//! never a decision about data: a suspect is still asked if nobody else can answer.

use parking_lot::Mutex;
use protocol::{ledger::metadata::BookieMember, service::bookie::BookieError};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a failure is remembered.
const MEMORY: Duration = Duration::from_secs(10);

/// Who failed, and when. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Suspects(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether there is anybody at all, so that a healthy cluster takes no lock.
    any: AtomicBool,
    since: Mutex<HashMap<BookieMember, Duration>>,
}

impl Suspects {
    /// Takes note of what a bookie answered; `now` is the monotonic time.
    pub fn note<T>(&self, member: BookieMember, result: &Result<T, BookieError>, now: Duration) {
        match result {
            Err(BookieError::Unavailable { .. } | BookieError::OutcomeUnknown { .. } | BookieError::Storage { .. }) => {
                self.0.since.lock().insert(member, now);
                self.0.any.store(true, Ordering::Release);
            }
            Ok(_) if self.0.any.load(Ordering::Acquire) => drop(self.0.since.lock().remove(&member)),
            _ => {}
        }
    }

    /// Whether this bookie has failed lately.
    #[must_use]
    pub fn has(&self, member: BookieMember, now: Duration) -> bool {
        if !self.0.any.load(Ordering::Acquire) {
            return false;
        }
        let mut since = self.0.since.lock();
        since.retain(|_, at| now.saturating_sub(*at) < MEMORY);
        self.0.any.store(!since.is_empty(), Ordering::Release);
        since.contains_key(&member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::{BookieId, EntryId, Incarnation, LedgerId};

    #[test]
    fn a_failure_is_remembered_for_a_while_and_forgotten_with_the_next_success() {
        let member = |id| BookieMember { id: BookieId(id), incarnation: Incarnation(1) };
        let (suspects, at) = (Suspects::default(), Duration::from_secs);
        let away: Result<(), _> = Err(BookieError::Unavailable { reason: "away".into() });
        let absent: Result<(), _> = Err(BookieError::NoSuchEntry(LedgerId(1), EntryId(1)));
        suspects.note(member(1), &away, at(5));
        suspects.note(member(2), &away, at(6));
        suspects.note(member(3), &absent, at(6));
        assert_eq!([1, 2, 3].map(|id| suspects.has(member(id), at(7))), [true, true, false]);
        suspects.note(member(2), &Ok(()), at(8));
        assert_eq!([1, 2].map(|id| suspects.has(member(id), at(14))), [true, false]);
        assert!(!suspects.has(member(1), at(15)));
    }
}
