//! What is left of an unclosed ledger when bookies are gone for good that its recovery cannot do without.
//!
//! Owns by whose word the end of such a ledger is judged from then on: all that are left must be fenced, and all must
//! deny an entry before it counts as absent, so that nothing that is still there is given up. What was confirmed counts
//! no longer, because it may be gone. Never decides that a bookie is gone, which is an operator's word, and never closes
//! a ledger: the owner of its partition recovers a remnant like any other head.

use super::{
    metadata::{BookieMember, Fragment, LedgerMetadata, LedgerState},
    quorum::Quorum,
};

/// What the loss of bookies leaves of an unclosed ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remnant {
    /// Enough bookies are left to recover it without losing anything.
    Whole,
    /// As metadata must have it so that it can be recovered.
    Part(Box<LedgerMetadata>),
    /// No bookie is left that could hold any of it.
    Nothing,
}

/// What is left of an unclosed ledger without the members that are gone.
#[must_use]
pub fn remnant(ledger: &LedgerMetadata, is_gone: impl Fn(BookieMember) -> bool) -> Remnant {
    let left = |f: &Fragment| f.ensemble.iter().copied().filter(|m| !is_gone(*m)).collect::<Vec<_>>();
    let Some(at) = ledger.fragments.iter().rposition(|f| !left(f).is_empty()) else { return Remnant::Nothing };
    let ensemble = left(&ledger.fragments[at]);
    let is_last = at + 1 == ledger.fragments.len();
    if is_last && ledger.quorum.is_fenced(ensemble.len()) {
        return Remnant::Whole;
    }
    let copies = ensemble.len() as u8;
    let quorum = Quorum::new(copies, copies, 1).expect("at least one member is left");
    let mut fragments = ledger.fragments[..=at].to_vec();
    fragments[at].ensemble = ensemble;
    Remnant::Part(Box::new(LedgerMetadata {
        quorum,
        wanted_write: ledger.wanted_write.max(ledger.quorum.write() as u8),
        state: LedgerState::InRecovery,
        fragments,
        is_remnant: true,
        ..ledger.clone()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BookieId, EntryId, Incarnation, LedgerId, LedgerKey, Timestamp};

    fn member(id: u32) -> BookieMember {
        BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
    }

    /// Entries 0 to 9 on bookies 1, 2, 3; what follows on 3, 4, 5.
    fn ledger(ack: u8) -> LedgerMetadata {
        let quorum = Quorum::new(3, 3, ack).expect("legal");
        let first = [1, 2, 3].map(member).to_vec();
        let mut ledger = LedgerMetadata::open(LedgerId(1), LedgerKey(1), quorum, first, Timestamp(0));
        ledger.fragments.push(Fragment { first_entry: EntryId(10), ensemble: [3, 4, 5].map(member).to_vec() });
        ledger
    }

    fn without(ack: u8, gone: &[u32]) -> Remnant {
        remnant(&ledger(ack), |m| gone.contains(&m.id.0))
    }

    #[test]
    fn whoever_can_be_spared_takes_nothing_along() {
        assert_eq!(without(2, &[]), Remnant::Whole);
        assert_eq!(without(2, &[4]), Remnant::Whole);
        assert_eq!(without(2, &[1, 2, 4]), Remnant::Whole, "who held earlier entries is not needed to find the end");
        assert_eq!(without(3, &[4, 5]), Remnant::Whole);
        assert!(matches!(without(2, &[4, 5]), Remnant::Part(_)));
        assert!(matches!(without(1, &[4]), Remnant::Part(_)), "with one ack any of them may hold an entry alone");
    }

    #[test]
    fn the_end_is_judged_by_all_that_are_left() {
        let Remnant::Part(left) = without(2, &[4, 5]) else { panic!("bookie 3 is left") };
        assert_eq!(left.fragments[0], ledger(2).fragments[0]);
        assert_eq!(left.fragments[1], Fragment { first_entry: EntryId(10), ensemble: vec![member(3)] });
        assert_eq!((left.state, left.is_remnant, left.wanted_write), (LedgerState::InRecovery, true, 3));
        let Remnant::Part(left) = without(1, &[4]) else { panic!("bookies 3 and 5 are left") };
        let quorum = left.quorum;
        assert!(!quorum.is_fenced(1) && quorum.is_fenced(2));
        assert!(!quorum.proves_absence(1) && quorum.proves_absence(2));
    }

    #[test]
    fn a_fragment_that_nobody_is_left_of_ends_the_ledger_before_it() {
        let Remnant::Part(left) = without(2, &[2, 3, 4, 5]) else { panic!("bookie 1 is left") };
        assert_eq!(left.fragments, [Fragment { first_entry: EntryId(0), ensemble: vec![member(1)] }]);
        assert_eq!(without(2, &[1, 2, 3, 4, 5]), Remnant::Nothing);
    }

    #[test]
    fn more_can_be_given_up_later() {
        let Remnant::Part(left) = without(1, &[4]) else { panic!("bookies 3 and 5 are left") };
        let Remnant::Part(again) = remnant(&left, |m| m.id.0 == 5) else { panic!("bookie 3 is left") };
        assert_eq!((again.quorum.write(), again.wanted_write), (1, 3));
    }
}
