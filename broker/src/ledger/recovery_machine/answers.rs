//! What the members of an ensemble have said about one question, and what follows from it (rules R4, R8, R9).
//!
//! Invariants: one answer per member; only "no such entry" and "no such ledger" are negatives; everything else that is
//! not a find leaves the member unknown.

use super::RecoveryError;
use protocol::{
    ledger::{metadata::BookieMember, quorum::Quorum},
    mutant::{Mutant, Mutants},
    service::bookie::BookieError,
};

/// The answers of an ensemble.
#[derive(Debug)]
pub(super) struct Answers<T>(Vec<(BookieMember, Option<Result<T, BookieError>>)>);

/// What a set of answers means for an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict<T> {
    /// More answers are needed.
    Open,
    /// It exists.
    Found(T),
    /// It was never confirmed.
    Absent,
    /// Nobody can tell now.
    Unknown(RecoveryError),
}

impl<T> Answers<T> {
    pub(super) fn of(ensemble: &[BookieMember]) -> Self {
        Self(ensemble.iter().map(|m| (*m, None)).collect())
    }

    /// Notes an answer; a second one of the same member, or one of a stranger, changes nothing.
    pub(super) fn take(&mut self, member: BookieMember, answer: Result<T, BookieError>) {
        if let Some((_, slot @ None)) = self.0.iter_mut().find(|(m, _)| *m == member) {
            *slot = Some(answer);
        }
    }

    pub(super) fn found(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|(_, a)| a.as_ref()?.as_ref().ok())
    }

    pub(super) fn are_complete(&self) -> bool {
        self.0.iter().all(|(_, a)| a.is_some())
    }

    fn errors(&self) -> impl Iterator<Item = (BookieMember, &BookieError)> {
        self.0.iter().filter_map(|(m, a)| Some((*m, a.as_ref()?.as_ref().err()?)))
    }

    /// Why there is no verdict: unavailable if all that is missing may come back by itself, unknown otherwise.
    pub(super) fn problem(&self, what: &str) -> RecoveryError {
        let told: Vec<String> = self.errors().map(|(m, e)| format!("{m}: {e}")).collect();
        let reason = format!("{what} ({})", told.join("; "));
        let passes = |e: &BookieError| {
            is_negative(e) || matches!(e, BookieError::Unavailable { .. } | BookieError::OutcomeUnknown { .. })
        };
        match self.errors().all(|(_, e)| passes(e)) {
            true => RecoveryError::Unavailable { reason },
            false => RecoveryError::Unknown { reason },
        }
    }
}

impl<T: Copy> Answers<T> {
    pub(super) fn verdict(&self, quorum: Quorum, mutants: Mutants) -> Verdict<T> {
        if let Some(found) = self.found().next() {
            return Verdict::Found(*found);
        }
        let silent_too = mutants.has(Mutant::SilenceProvesAbsence);
        let negatives = self.errors().filter(|(_, e)| silent_too || is_negative(e)).count();
        let one_is_enough = mutants.has(Mutant::OneDenialProvesAbsence) && negatives > 0;
        if one_is_enough || quorum.proves_absence(negatives) {
            return Verdict::Absent;
        }
        match self.are_complete() {
            true => Verdict::Unknown(self.problem("too few bookies can tell whether an entry exists")),
            false => Verdict::Open,
        }
    }
}

const fn is_negative(error: &BookieError) -> bool {
    matches!(error, BookieError::NoSuchEntry(..) | BookieError::NoSuchLedger(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::{BookieId, EntryId, Incarnation, LedgerId};

    fn member(id: u32) -> BookieMember {
        BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
    }

    /// Every combination of answers of every legal quorum up to five, against the definition.
    #[test]
    fn a_verdict_needs_what_the_protocol_says() {
        for (write, ack) in (1..=5).flat_map(|w| (1..=w).map(move |a| (w, a))) {
            let quorum = Quorum::new(write, write, ack).expect("legal");
            let members: Vec<_> = (0..u32::from(write)).map(member).collect();
            for code in 0..4_usize.pow(u32::from(write)) {
                let kinds: Vec<_> = (0..u32::from(write)).map(|i| code / 4_usize.pow(i) % 4).collect();
                let mut answers = Answers::of(&members);
                for (m, kind) in members.iter().zip(&kinds) {
                    match kind {
                        0 => {}
                        1 => answers.take(*m, Ok(7)),
                        2 => answers.take(*m, Err(BookieError::NoSuchEntry(LedgerId(1), EntryId(1)))),
                        _ => answers.take(*m, Err(BookieError::Unknown { reason: "read failed".into() })),
                    }
                }
                let count = |kind| kinds.iter().filter(|k| **k == kind).count();
                // An entry with Aq copies can be denied honestly by all others only.
                let cannot_be_acked = usize::from(write) - count(2) < usize::from(ack);
                let verdict = answers.verdict(quorum, Mutants::NONE);
                match verdict {
                    Verdict::Found(_) => assert!(count(1) > 0),
                    Verdict::Absent => assert!(count(1) == 0 && cannot_be_acked),
                    Verdict::Unknown(_) => assert!(count(0) == 0 && count(1) == 0 && !cannot_be_acked),
                    Verdict::Open => assert!(count(0) > 0 && count(1) == 0 && !cannot_be_acked),
                }
            }
        }
    }

    #[test]
    fn the_first_answer_of_a_member_counts() {
        let mut answers = Answers::of(&[member(1)]);
        answers.take(member(2), Ok(1));
        answers.take(member(1), Ok(2));
        answers.take(member(1), Ok(3));
        assert_eq!(answers.found().collect::<Vec<_>>(), [&2]);
    }
}
