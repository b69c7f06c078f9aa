//! What an audit finds in one page of closed ledgers, and what that makes of the cluster. Pure.
//!
//! Owns the sums that operators and decommissions look at; never decides how a ledger is repaired.

use protocol::{
    id::LedgerId,
    ledger::{
        metadata::{BookieMember, LedgerMetadata},
        repair::{Roster, Standing, bytes_on, diagnose},
    },
    model::{ClosedPage, RepairReason, RepairTask},
    topic::PartitionId,
};
use std::collections::{BTreeMap, BTreeSet};

/// The most takers that a task names.
const TAKERS: usize = 4;

/// A page of closed ledgers: whose, and which.
pub(super) type PageId = (PartitionId, u32);

/// A ledger that lacks copies which somebody can make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) ledger: LedgerId,
    pub(super) reason: RepairReason,
    pub(super) bytes: u64,
    pub(super) lost: Vec<BookieMember>,
    pub(super) takers: Vec<BookieMember>,
}

impl Finding {
    /// The task that asks for it.
    pub(super) fn task(&self, (partition, page): PageId, since: protocol::id::Timestamp) -> RepairTask {
        let Self { ledger, reason, bytes, .. } = *self;
        let (lost, takers) = (self.lost.clone(), self.takers.clone());
        RepairTask { partition, page, ledger, reason, bytes, since, lost, takers }
    }

    /// Whether a task that stands still says what is needed. Takers are a hint: one that is still right is enough.
    pub(super) fn is_told_by(&self, task: &RepairTask, (partition, page): PageId) -> bool {
        let is_right = |taker: &BookieMember| self.takers.contains(taker);
        (task.partition, task.page, task.reason) == (partition, page, self.reason)
            && task.lost == self.lost
            && (task.takers.iter().any(is_right) || (self.takers.is_empty() && task.takers.is_empty()))
    }
}

/// What stands on one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Ledgers that name it.
    pub(super) ledgers: u64,
    /// Their payload bytes on it, about.
    pub(super) bytes: u64,
    /// Of the ledgers, those whose copies on it nobody can take over now.
    pub(super) blocked: u64,
    /// Of the ledgers, those with an entry that no live bookie holds.
    pub(super) stranded: u64,
}

/// What one page says about the cluster; or the sum of many.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts {
    /// Who is named, and with how much.
    pub(super) members: BTreeMap<BookieMember, Load>,
    /// Ledgers that somebody can repair now.
    pub(super) repairable: u64,
    /// Of those, the ones at risk.
    pub(super) at_risk: u64,
    /// Ledgers with an entry that no live bookie holds.
    pub(super) unavailable: u64,
    /// Copies that are wanted and that no bookie can take.
    pub(super) unplaced: u64,
    /// Payload bytes to copy, about.
    pub(super) bytes: u64,
    /// Pages that could not be read.
    pub(super) unreadable: u64,
}

impl Facts {
    /// The facts of a page that cannot be read.
    pub(super) fn unreadable() -> Self {
        Self { unreadable: 1, ..Self::default() }
    }

    /// The sum of the facts of all pages.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut total = Self::default();
        for facts in all {
            for (member, load) in &facts.members {
                let sum = total.members.entry(*member).or_default();
                sum.ledgers += load.ledgers;
                sum.bytes += load.bytes;
                sum.blocked += load.blocked;
                sum.stranded += load.stranded;
            }
            total.repairable += facts.repairable;
            total.at_risk += facts.at_risk;
            total.unavailable += facts.unavailable;
            total.unplaced += facts.unplaced;
            total.bytes += facts.bytes;
            total.unreadable += facts.unreadable;
        }
        total
    }

    /// The members that are named.
    pub(super) fn named(&self) -> BTreeSet<BookieMember> {
        self.members.keys().copied().collect()
    }

    fn count(&mut self, ledger: &LedgerMetadata, roster: &Roster) -> Option<Finding> {
        let diagnosis = diagnose(ledger, roster);
        let movable = diagnosis.gone();
        let members = members(ledger);
        for member in &members {
            let load = self.members.entry(*member).or_default();
            load.ledgers += 1;
            load.bytes += bytes_on(ledger, *member);
            let stays = !matches!(roster.standing(*member), Standing::Lost | Standing::Leaving);
            load.stranded += u64::from(diagnosis.is_unavailable);
            load.blocked += u64::from(!stays && !diagnosis.is_unavailable && !movable.contains(member));
        }
        self.unavailable += u64::from(diagnosis.is_unavailable);
        self.unplaced += diagnosis.unplaced as u64;
        let reason = diagnosis.reason?;
        self.repairable += 1;
        self.at_risk += u64::from(reason == RepairReason::AtRisk);
        self.bytes += diagnosis.bytes;
        let lost = members.iter().copied().filter(|m| roster.lost.contains(m)).collect();
        let takers = diagnosis.takers(TAKERS);
        Some(Finding { ledger: ledger.id, reason, bytes: diagnosis.bytes, lost, takers })
    }
}

/// Judges a page.
pub(super) fn judge(page: &ClosedPage, roster: &Roster) -> (Facts, Vec<Finding>) {
    let mut facts = Facts::default();
    let findings = page.ledgers.iter().filter_map(|closed| facts.count(&closed.ledger, roster)).collect();
    (facts, findings)
}

/// Every member that some fragment of a ledger names.
pub(super) fn members(ledger: &LedgerMetadata) -> BTreeSet<BookieMember> {
    ledger.fragments.iter().flat_map(|f| f.ensemble.iter().copied()).collect()
}
