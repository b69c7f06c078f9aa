//! Mutants: bugs that lost data elsewhere, put back on purpose, to prove that the simulator would find them.
//!
//! Owns the list and the switch. A machine is given [`Mutants`] when it is made and asks [`Mutants::has`] where the bug
//! would be. Outside of tests (feature `testing`) the set has no room for a mutant: every question is answered "no" at
//! compile time, and no configuration, request or environment variable can change that.

/// A bug that was real somewhere, named after what it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// The bookie acknowledges an add that it has not stored (B1).
    AckBeforeStore,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Self] = &[Self::AckBeforeStore];
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
