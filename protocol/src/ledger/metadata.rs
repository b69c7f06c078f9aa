//! Ledger metadata: an immutable value that changes only by compare-and-swap of its owner's record (rule W8).
//! Owns the legal states and fragments; never talks to the metadata service.

use crate::{
    id::{BookieId, EntryId, Incarnation, LedgerId, LedgerKey, Timestamp},
    ledger::quorum::Quorum,
};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::RangeInclusive};

/// A member of an ensemble: a bookie in one life of its disk. A bookie with another incarnation is not this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BookieMember {
    /// The bookie.
    pub id: BookieId,
    /// The life of its disk.
    pub incarnation: Incarnation,
}

impl fmt::Display for BookieMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}#{}", self.id, self.incarnation)
    }
}

/// Entries from `first_entry` up to the next fragment's, and the bookies that hold them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// The first entry of the fragment.
    pub first_entry: EntryId,
    /// The ensemble, in write-set order; members are distinct.
    pub ensemble: Vec<BookieMember>,
}

/// Entries that a member of their ensemble may lack, because it failed or lagged while they were written (rule A7).
/// Repair asks the bookie what it really holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The member.
    pub member: BookieMember,
    /// The entries.
    pub entries: RangeInclusive<u64>,
}

/// Where a ledger stands: OPEN -> IN_RECOVERY -> CLOSED, and never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LedgerState {
    /// Its one writer may add entries.
    Open,
    /// Its writer has lost it; a recoverer is finding out where it ends.
    InRecovery,
    /// It ends here, for everyone and for ever.
    Closed {
        /// The last entry; none if nothing was ever confirmed.
        last_entry: Option<EntryId>,
        /// Payload bytes up to and including the last entry.
        length: u64,
    },
}

/// Everything there is to know about a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerMetadata {
    /// The ledger.
    pub id: LedgerId,
    /// Its secret (rule B5).
    pub key: LedgerKey,
    /// The quorum it is written with.
    pub quorum: Quorum,
    /// The write quorum that was wanted; repair adds copies where `quorum` has fewer.
    pub wanted_write: u8,
    /// Where it stands.
    pub state: LedgerState,
    /// Its fragments, by ascending first entry; the first begins at entry 0. While the ledger is unclosed each has E
    /// members; repair may give a closed ledger more.
    pub fragments: Vec<Fragment>,
    /// Copies that are known to be missing. While the ledger is unclosed, only those of members that were replaced.
    #[serde(default)]
    pub holes: Vec<Hole>,
    /// It has lost bookies that its recovery could not do without, and an operator has given them up
    /// ([`super::remnant`]): entries that were confirmed may be gone, so recovery believes only what it reads.
    #[serde(default)]
    pub is_remnant: bool,
    /// When it was created.
    pub created_at: Timestamp,
}

impl LedgerMetadata {
    /// A ledger about to be written.
    #[must_use]
    pub fn open(
        id: LedgerId,
        key: LedgerKey,
        quorum: Quorum,
        ensemble: Vec<BookieMember>,
        created_at: Timestamp,
    ) -> Self {
        debug_assert_eq!(ensemble.len(), quorum.ensemble());
        Self {
            id,
            key,
            quorum,
            wanted_write: quorum.write() as u8,
            state: LedgerState::Open,
            fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
            holes: Vec::new(),
            is_remnant: false,
            created_at,
        }
    }

    /// The ensemble that holds `entry`.
    #[must_use]
    pub fn ensemble_of(&self, entry: EntryId) -> &[BookieMember] {
        let after = self.fragments.partition_point(|f| f.first_entry <= entry);
        self.fragments.get(after.saturating_sub(1)).map_or(&[], |f| &f.ensemble)
    }

    /// The fragment that is written now.
    #[must_use]
    pub fn last_fragment(&self) -> Option<&Fragment> {
        self.fragments.last()
    }

    /// Whether the ledger has ended.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, LedgerState::Closed { .. })
    }
}
