//! Why a recovery cannot tell where the ledger ends.

use protocol::id::LedgerId;

/// Why the end of a ledger cannot be told. The ledger stays IN_RECOVERY.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// The ledger was deleted, for ever.
    #[error("ledger {0} was deleted")]
    Deleted(LedgerId),
    /// Too few bookies can be reached; try again later.
    #[error("too few bookies can be reached: {reason}")]
    Unavailable {
        /// Who said what.
        reason: String,
    },
    /// Bookies were reached and cannot tell: they have lost state or cannot read. Try again when they are repaired;
    /// closing the ledger now could cut acknowledged entries off (rules R8, R9).
    #[error("the bookies cannot tell where the ledger ends: {reason}")]
    Unknown {
        /// Who said what.
        reason: String,
    },
}
