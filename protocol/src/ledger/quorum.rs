//! Quorum arithmetic: which bookies hold an entry, how many acks are enough, and how many refusals prove absence.
//! Owns the three formulas; never decides what to do about a missing answer.

use crate::id::EntryId;
use serde::{Deserialize, Serialize};

/// Ensemble size E, write quorum Wq and ack quorum Aq of a ledger, with E = Wq (no striping) and Wq >= Aq >= 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Quorum {
    write: u8,
    ack: u8,
}

/// The stored form of a [`Quorum`], checked on the way in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Parts {
    ensemble: u8,
    write: u8,
    ack: u8,
}

/// Why three numbers are not a quorum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// E > Wq.
    #[error("ensemble {ensemble} with write quorum {write}: striping is not supported, the two must be equal")]
    Striped {
        /// E as asked.
        ensemble: u8,
        /// Wq as asked.
        write: u8,
    },
    /// Not Wq >= Aq >= 1.
    #[error("write quorum {write} and ack quorum {ack}: the ack quorum is at least 1 and at most the write quorum")]
    Order {
        /// Wq as asked.
        write: u8,
        /// Aq as asked.
        ack: u8,
    },
}

impl Quorum {
    /// One copy on one bookie: standalone.
    pub const SINGLE: Self = Self { write: 1, ack: 1 };

    /// Checks E, Wq and Aq.
    pub fn new(ensemble: u8, write: u8, ack: u8) -> Result<Self, QuorumError> {
        if ensemble != write {
            return Err(QuorumError::Striped { ensemble, write });
        }
        if ack == 0 || ack > write {
            return Err(QuorumError::Order { write, ack });
        }
        Ok(Self { write, ack })
    }

    /// The quorum of a partition with this replication factor: Wq is the factor, and Aq the larger of
    /// `min.insync.replicas` and a majority of Wq.
    pub fn of_replication(factor: u8, min_insync: u8) -> Result<Self, QuorumError> {
        Self::new(factor, factor, min_insync.max(factor / 2 + 1))
    }

    /// E, the number of bookies of a fragment.
    #[must_use]
    pub const fn ensemble(self) -> usize {
        self.write as usize
    }

    /// Wq, the number of copies of an entry.
    #[must_use]
    pub const fn write(self) -> usize {
        self.write as usize
    }

    /// Aq, the number of synced copies behind an acknowledgement.
    #[must_use]
    pub const fn ack(self) -> usize {
        self.ack as usize
    }

    /// Positions in the ensemble that hold `entry`: Wq consecutive members from entry mod E.
    pub fn write_set(self, entry: EntryId) -> impl Iterator<Item = usize> {
        let (ensemble, write) = (self.ensemble(), self.write());
        let first = (entry.0 % ensemble as u64) as usize;
        (0..write).map(move |i| (first + i) % ensemble)
    }

    /// Whether `acks` distinct members of an entry's write set are enough to acknowledge it.
    #[must_use]
    pub const fn is_acked(self, acks: usize) -> bool {
        acks >= self.ack()
    }

    /// Whether `absent` explicit "no such entry" answers prove that an entry was never acknowledged: (Wq - Aq) + 1.
    #[must_use]
    pub const fn proves_absence(self, absent: usize) -> bool {
        absent > self.write() - self.ack()
    }

    /// Whether fencing `fenced` of the ensemble stops every other writer: fewer than Aq members are left unknown.
    #[must_use]
    pub const fn is_fenced(self, fenced: usize) -> bool {
        self.ensemble() - fenced < self.ack()
    }
}

impl TryFrom<Parts> for Quorum {
    type Error = QuorumError;
    fn try_from(p: Parts) -> Result<Self, QuorumError> {
        Self::new(p.ensemble, p.write, p.ack)
    }
}

impl From<Quorum> for Parts {
    fn from(q: Quorum) -> Self {
        Self { ensemble: q.write, write: q.write, ack: q.ack }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Quorum> {
        (1..=7).flat_map(|w| (1..=w).map(move |a| Quorum::new(w, w, a).expect("legal")))
    }

    #[test]
    fn an_acked_entry_is_never_proven_absent() {
        for q in all() {
            // With Aq copies somewhere, at most Wq - Aq members can honestly deny the entry.
            assert!(!q.proves_absence(q.write() - q.ack()), "{q:?}");
            assert!(q.proves_absence(q.write() - q.ack() + 1), "{q:?}");
        }
    }

    #[test]
    fn fenced_bookies_meet_every_ack_quorum() {
        for q in all() {
            for fenced in 0..=q.ensemble() {
                // Brute force: a writer can still collect Aq acks exactly if Aq members are not fenced.
                let writer_survives = q.ensemble() - fenced >= q.ack();
                assert_eq!(q.is_fenced(fenced), !writer_survives, "{q:?} fenced {fenced}");
            }
        }
    }

    #[test]
    fn replication_factor_gives_a_majority_or_more() {
        let of = |factor, min| Quorum::of_replication(factor, min).map(|q| (q.write(), q.ack()));
        assert_eq!(of(1, 1), Ok((1, 1)));
        assert_eq!(of(3, 1), Ok((3, 2)));
        assert_eq!(of(3, 3), Ok((3, 3)));
        assert_eq!(of(2, 3), Err(QuorumError::Order { write: 2, ack: 3 }));
        assert_eq!(Quorum::new(4, 3, 2), Err(QuorumError::Striped { ensemble: 4, write: 3 }));
    }
}
