//! Mutants: bugs that lost data elsewhere, put back on purpose, to prove that the simulator would find them.
//!
//! Owns the list and the switch. A machine is given [`Mutants`] when it is made and asks [`Mutants::has`] where the bug
//! would be. Outside of tests (feature `testing`) the set has no room for a mutant: every question is answered "no" at
//! compile time, and no configuration, request or environment variable can change that.
//!
//! Invariant: a mutant takes one rule away, in product code, and makes no other noise. `docs/mutants.md` lists where each
//! was lost in history, and the seed that finds it.

/// A bug that was real somewhere, named after what it does. The letter and number name the rule that it breaks: W for
/// writers, R for recovery, B for bookies, S for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// The writer confirms an entry while a lower one is not confirmed (W3).
    ConfirmOutOfOrder,
    /// The writer confirms with one ack fewer than the ack quorum (W3).
    ConfirmBelowAckQuorum,
    /// The acks of a replaced member still count after the ensemble change (W4).
    KeepAcksOfReplaced,
    /// The late ack of a replaced member counts for somebody else (W5).
    CountAcksOfStrangers,
    /// The new fragment begins after what was sent, not after what was confirmed (W6).
    FragmentAfterSent,
    /// Acks of a new ensemble count before metadata names it (W7).
    CountAcksBeforeSwap,
    /// The writer goes on with an ensemble whose compare-and-swap was lost (W9).
    GoOnAfterLostSwap,
    /// The writer takes a compare-and-swap of unknown outcome for done (W7).
    TakeUnknownSwapForDone,
    /// The writer closes the ledger over entries that are not confirmed (W11).
    CloseOverUnconfirmed,
    /// Recovery starts to read where the bookies remember, even before the last fragment (R5).
    RecoverBelowFragment,
    /// The reads of a recovery do not fence; only the question for last-add-confirmed does (R6).
    ReadWithoutFence,
    /// Recovery reads from bookies that it has brought in itself, which hold nothing old (R7).
    ReadFromReplacements,
    /// One "no such entry" proves that an entry was never confirmed (R8).
    OneDenialProvesAbsence,
    /// A bookie that cannot be reached or cannot tell counts as one that denies (R8, R9).
    SilenceProvesAbsence,
    /// Recovered entries are not written again (R10).
    SkipRewrite,
    /// Ensembles that a recovery has changed are in metadata before it has ended (R11).
    PublishInRecovery,
    /// The bookie acknowledges an add before it is synced (B1).
    AckBeforeSync,
    /// The bookie answers a fence before it is synced (B3).
    AnswerFenceBeforeSync,
    /// The fence is kept in memory only (B3).
    ForgetFenceAtRestart,
    /// The fence of a ledger that the bookie has never seen is not kept (R3).
    IgnoreFenceOfUnknown,
    /// The tombstone of a deleted ledger is kept in memory only (B8).
    ForgetTombstoneAtRestart,
    /// Requests for another life of the disk are served (B11).
    IgnoreIncarnation,
    /// A bookie in limbo says "no such entry" (B12).
    DenyInLimbo,
    /// A bookie in limbo suspects only the ledgers that it still knows, not those that it has lost as a whole (B12).
    ForgetLostLedgers,
    /// A bookie in limbo tells its last-add-confirmed as if nothing had been lost (B12).
    ConfirmInLimbo,
    /// The bookie goes on after a failed sync (B13).
    GoOnAfterFailedSync,
    /// A store that ends before its watermark is taken for whole (S7).
    IgnoreWatermark,
    /// A damaged entry is answered as "no such entry" (R9).
    DenyDamaged,
    /// A new owner begins a ledger without closing the one before (L1).
    LeaveHeadBehind,
    /// A change of a partition's ledgers does not depend on what stands there (R12, W8).
    SwapUnconditionally,
    /// Repair names a bookie in metadata before it has copied the entries (A3).
    JoinBeforeCopy,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::ConfirmOutOfOrder,
        Self::ConfirmBelowAckQuorum,
        Self::KeepAcksOfReplaced,
        Self::CountAcksOfStrangers,
        Self::FragmentAfterSent,
        Self::CountAcksBeforeSwap,
        Self::GoOnAfterLostSwap,
        Self::TakeUnknownSwapForDone,
        Self::CloseOverUnconfirmed,
        Self::RecoverBelowFragment,
        Self::ReadWithoutFence,
        Self::ReadFromReplacements,
        Self::OneDenialProvesAbsence,
        Self::SilenceProvesAbsence,
        Self::SkipRewrite,
        Self::PublishInRecovery,
        Self::AckBeforeSync,
        Self::AnswerFenceBeforeSync,
        Self::ForgetFenceAtRestart,
        Self::IgnoreFenceOfUnknown,
        Self::ForgetTombstoneAtRestart,
        Self::IgnoreIncarnation,
        Self::DenyInLimbo,
        Self::ForgetLostLedgers,
        Self::ConfirmInLimbo,
        Self::GoOnAfterFailedSync,
        Self::IgnoreWatermark,
        Self::DenyDamaged,
        Self::LeaveHeadBehind,
        Self::SwapUnconditionally,
        Self::JoinBeforeCopy,
    ];
}

/// Which mutants are on; none, except in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mutants(#[cfg(feature = "testing")] u64);

impl Mutants {
    /// The program as it is meant.
    #[cfg(not(feature = "testing"))]
    pub const NONE: Self = Self();
    /// The program as it is meant.
    #[cfg(feature = "testing")]
    pub const NONE: Self = Self(0);

    /// The program with one bug.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn only(mutant: Mutant) -> Self {
        Self(1 << mutant as u64)
    }

    /// Whether this bug is on.
    #[must_use]
    #[inline]
    pub const fn has(self, mutant: Mutant) -> bool {
        #[cfg(feature = "testing")]
        return self.0 & (1 << mutant as u64) != 0;
        #[cfg(not(feature = "testing"))]
        {
            let _ = mutant;
            false
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_on_alone() {
        for (at, mutant) in Mutant::ALL.iter().enumerate() {
            assert_eq!(*mutant as usize, at, "the list is complete and in order");
            let on: Vec<_> = Mutant::ALL.iter().filter(|m| Mutants::only(*mutant).has(**m)).collect();
            assert_eq!(on, [mutant]);
            assert!(!Mutants::NONE.has(*mutant) && !Mutants::default().has(*mutant));
        }
    }
}

#[cfg(all(test, not(feature = "testing")))]
mod tests {
    use super::*;

    #[test]
    fn outside_of_tests_the_switch_takes_no_room() {
        assert_eq!(size_of::<Mutants>(), 0);
        assert!(Mutant::ALL.iter().all(|mutant| !Mutants::NONE.has(*mutant)));
    }
}
