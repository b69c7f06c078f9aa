//! The numbers of the bookie's errors. A number is never used for anything else.

use super::{BookieError, BookieId, BookieMember, EntryId, Failure, Incarnation, LedgerId, Problem};

impl Failure for BookieError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable { reason }
    }

    fn unknown(reason: String) -> Self {
        Self::OutcomeUnknown { reason }
    }

    fn to_problem(&self) -> Problem {
        let ledger = |kind, ledger: &LedgerId| Problem::new(kind, "", &[ledger.0.cast_signed()]);
        let entry = |kind, ledger: &LedgerId, entry: &EntryId| {
            Problem::new(kind, "", &[ledger.0.cast_signed(), entry.0.cast_signed()])
        };
        match self {
            Self::Fenced(id) => ledger(1, id),
            Self::Deleted(id) => ledger(2, id),
            Self::NoSuchEntry(id, at) => entry(3, id, at),
            Self::NoSuchLedger(id) => ledger(4, id),
            Self::Unknown { reason } => Problem::new(5, reason, &[]),
            Self::WrongMember { actual, named } => Problem::new(6, "", &[numbers(actual), numbers(named)].concat()),
            Self::WrongKey(id) => ledger(7, id),
            Self::Different(id, at) => entry(8, id, at),
            Self::BadEntry { reason } => Problem::new(9, reason, &[]),
            Self::ReadOnly { reason } => Problem::new(10, reason, &[]),
            Self::Storage { reason } => Problem::new(11, reason, &[]),
            Self::Unavailable { reason } => Problem::new(12, reason, &[]),
            Self::OutcomeUnknown { reason } => Problem::new(13, reason, &[]),
        }
    }

    fn from_problem(problem: &Problem) -> Option<Self> {
        let ledger = || problem.unsigned(0).map(LedgerId);
        let entry = || problem.unsigned(1).map(EntryId);
        let reason = problem.text.clone();
        Some(match problem.kind {
            1 => Self::Fenced(ledger()?),
            2 => Self::Deleted(ledger()?),
            3 => Self::NoSuchEntry(ledger()?, entry()?),
            4 => Self::NoSuchLedger(ledger()?),
            5 => Self::Unknown { reason },
            6 => Self::WrongMember { actual: member(problem, 0)?, named: member(problem, 2)? },
            7 => Self::WrongKey(ledger()?),
            8 => Self::Different(ledger()?, entry()?),
            9 => Self::BadEntry { reason },
            10 => Self::ReadOnly { reason },
            11 => Self::Storage { reason },
            12 => Self::Unavailable { reason },
            13 => Self::OutcomeUnknown { reason },
            _ => return None,
        })
    }
}

fn numbers(member: &BookieMember) -> [i64; 2] {
    [member.id.0.into(), member.incarnation.0.cast_signed()]
}

fn member(problem: &Problem, at: usize) -> Option<BookieMember> {
    let (id, incarnation) = (problem.narrow(at)?, problem.unsigned(at + 1)?);
    Some(BookieMember { id: BookieId(id), incarnation: Incarnation(incarnation) })
}
