//! The bookies of the cluster as repair sees them at one moment, and what that makes of a member of an ensemble.
//! Owns the meaning of "lost"; never measures time: who was silent for too long is told.

use crate::{
    id::{BookieId, Incarnation},
    ledger::metadata::BookieMember,
    model::{BookieRecord, BookieState},
};
use std::collections::{BTreeMap, BTreeSet};

/// How a member of an ensemble stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Its bookie lives in this incarnation.
    Live,
    /// Its bookie is not there, but not for long: it may be starting again.
    Silent,
    /// Its bookie lives, and is being taken out.
    Leaving,
    /// Its copies are not coming back, or must not be waited for.
    Lost,
}

/// The bookies of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// Those that live.
    pub live: BTreeMap<BookieId, BookieRecord>,
    /// The life that each bookie's cookie names.
    pub cookies: BTreeMap<BookieId, Incarnation>,
    /// Members that have been silent for longer than the grace period.
    pub lost: BTreeSet<BookieMember>,
    /// Members that are being taken out.
    pub leaving: BTreeSet<BookieMember>,
}

impl Roster {
    /// How a member stands.
    #[must_use]
    pub fn standing(&self, member: BookieMember) -> Standing {
        let leaves = self.leaving.contains(&member);
        if self.is_superseded(member) {
            return Standing::Lost;
        }
        match self.record(member) {
            Some(_) if leaves => Standing::Leaving,
            Some(_) => Standing::Live,
            // Whoever gave the order does not expect it back.
            None if leaves || self.lost.contains(&member) => Standing::Lost,
            None => Standing::Silent,
        }
    }

    /// The record of a member that lives.
    #[must_use]
    pub fn record(&self, member: BookieMember) -> Option<&BookieRecord> {
        self.live.get(&member.id).filter(|record| record.member == member)
    }

    /// Whether a later life of the bookie is known: what this one held is gone with its disk.
    #[must_use]
    pub fn is_superseded(&self, member: BookieMember) -> bool {
        let live = self.live.get(&member.id).map(|record| record.member.incarnation);
        let known = live.max(self.cookies.get(&member.id).copied());
        known.is_some_and(|latest| latest > member.incarnation)
    }

    /// Whether a member takes new copies.
    #[must_use]
    pub fn takes(&self, member: BookieMember) -> bool {
        let writable = self.record(member).is_some_and(|record| record.state == BookieState::Writable);
        writable && self.standing(member) == Standing::Live
    }

    /// The rack a live member stands in.
    #[must_use]
    pub fn rack(&self, member: BookieMember) -> Option<&str> {
        self.record(member)?.rack.as_deref()
    }
}
