//! The floor of a bookie: below it, a ledger that is unknown here is not taken for a new one.
//!
//! Owns one rule. Ledger ids only grow, so a ledger that a bookie does not know is either younger than everything it has
//! seen, or was never sent here, or was forgotten. A bookie that lost acknowledged state cannot tell the last two apart:
//! what it forgot may be a tombstone (rule B8) or a fence (rule B3), and nobody repeats a deletion that was signed off.
//! So it remembers the first ledger id that certainly began after the loss, and lets no writer begin one below that.
//! Recovery and repair still may, for they add only what a quorum has already decided. The floor never falls.

use protocol::{id::LedgerId, service::bookie::BookieError};

/// The lowest id that a ledger can have which is unknown here because it is new. Ledger 0 unless state was ever lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor(pub LedgerId);

impl Floor {
    /// The floor of a bookie that never lost anything: every unknown ledger is new.
    pub const NONE: Self = Self(LedgerId(0));

    /// Whether the writer of a ledger that is unknown here may begin it.
    ///
    /// # Errors
    /// [`BookieError::ReadOnly`]: the writer takes another bookie.
    pub fn admit(self, unknown: LedgerId) -> Result<(), BookieError> {
        if unknown >= self.0 {
            return Ok(());
        }
        let Self(floor) = self;
        let reason = format!("it lost state before ledger {floor} began, and may have forgotten ledger {unknown}");
        Err(BookieError::ReadOnly { reason })
    }
}

impl Default for Floor {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_began_after_the_loss_is_taken_for_new() {
        let floor = Floor(LedgerId(7));
        assert!(matches!(floor.admit(LedgerId(6)), Err(BookieError::ReadOnly { .. })));
        assert_eq!((floor.admit(LedgerId(7)), floor.admit(LedgerId(u64::MAX))), (Ok(()), Ok(())));
        assert_eq!(Floor::default().admit(LedgerId(0)), Ok(()), "nothing was ever lost");
        assert!(Floor::NONE < floor);
    }
}
