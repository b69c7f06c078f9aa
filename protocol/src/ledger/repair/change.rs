//! What one bookie does for a ledger that lacks copies, and the metadata that follows from it.
//!
//! Owns the rule that metadata only changes after the entries are durable at the bookie that joins (A3): [`Share::done`]
//! is given what the bookie holds and answers nothing while an entry is missing.

use super::{Diagnosis, FragmentNeed, Roster, overlap};
use crate::{
    ledger::metadata::{BookieMember, Hole, LedgerMetadata},
    mutant::{Mutant, Mutants},
};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// What happens to one fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The bookie joins the ensemble, in the place of another member or as one more.
    Join {
        /// Whose place it takes.
        replaces: Option<BookieMember>,
    },
    /// The bookie is a member and fills a hole.
    Fill,
    /// Members go without a successor.
    Drop(Vec<BookieMember>),
}

/// What one bookie does for one fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The fragment, by position.
    pub fragment: usize,
    /// The entries the bookie must hold before metadata changes; none if there are none.
    pub entries: Option<RangeInclusive<u64>>,
    /// What then changes.
    pub change: Change,
}

/// What one bookie does for one ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Who does it.
    pub bookie: BookieMember,
    /// What it does; never empty.
    pub parts: Vec<Part>,
    /// Bugs put back on purpose; none outside of tests.
    pub mutants: Mutants,
}

impl Share {
    /// What `bookie` can do about what was found; none if there is nothing for it to do.
    #[must_use]
    pub fn of(bookie: BookieMember, diagnosis: &Diagnosis, roster: &Roster) -> Option<Self> {
        if !roster.takes(bookie) {
            return None;
        }
        let parts: Vec<_> = diagnosis.needs.iter().flat_map(|need| parts(bookie, need)).collect();
        (!parts.is_empty()).then_some(Self { bookie, parts, mutants: Mutants::NONE })
    }

    /// The entries it needs, by fragment.
    pub fn wanted(&self) -> impl Iterator<Item = (usize, &RangeInclusive<u64>)> {
        // A3: metadata does not name a bookie before the bookie holds what metadata will say.
        let parts = self.parts.iter().filter(|_| !self.mutants.has(Mutant::JoinBeforeCopy));
        parts.filter_map(|part| Some((part.fragment, part.entries.as_ref()?)))
    }

    /// Whether metadata will name the bookie where it did not before.
    #[must_use]
    pub fn joins(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.change, Change::Join { .. }))
    }

    /// The members that the ledger no longer names in some fragment when this is done.
    #[must_use]
    pub fn released(&self) -> BTreeSet<BookieMember> {
        let of = |part: &Part| match &part.change {
            Change::Join { replaces } => replaces.iter().copied().collect(),
            Change::Fill => Vec::new(),
            Change::Drop(members) => members.clone(),
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// The ledger's metadata when this is done, if the bookie durably holds `held` of it; none while an entry that it
    /// needs is missing, or if the ledger no longer looks as it did when this was decided.
    #[must_use]
    pub fn done(&self, ledger: &LedgerMetadata, held: &[RangeInclusive<u64>]) -> Option<LedgerMetadata> {
        if !ledger.is_closed() || self.wanted().any(|(_, entries)| !gaps(entries, held).is_empty()) {
            return None;
        }
        let mut next = ledger.clone();
        for part in &self.parts {
            self.apply(part, &mut next)?;
        }
        let named = |hole: &Hole| next.fragments.iter().any(|f| f.ensemble.contains(&hole.member));
        let holes = next.holes.iter().filter(|hole| named(hole)).cloned().collect();
        Some(LedgerMetadata { holes, ..next })
    }

    fn apply(&self, part: &Part, ledger: &mut LedgerMetadata) -> Option<()> {
        let ensemble = &mut ledger.fragments.get_mut(part.fragment)?.ensemble;
        let left = match &part.change {
            Change::Join { replaces } => {
                match replaces {
                    Some(old) => *ensemble.iter_mut().find(|m| *m == old)? = self.bookie,
                    None => ensemble.push(self.bookie),
                }
                if ensemble.iter().filter(|m| m.id == self.bookie.id).count() != 1 {
                    return None;
                }
                replaces.iter().copied().collect()
            }
            Change::Fill => vec![self.bookie],
            Change::Drop(members) => {
                ensemble.retain(|m| !members.contains(m));
                members.clone()
            }
        };
        if let Some(entries) = &part.entries {
            let cut =
                |hole: &Hole| if left.contains(&hole.member) { without(hole, entries) } else { vec![hole.clone()] };
            ledger.holes = ledger.holes.iter().flat_map(cut).collect();
        }
        Some(())
    }
}

fn parts(bookie: BookieMember, need: &FragmentNeed) -> Vec<Part> {
    let fragment = need.fragment;
    if need.copies > 0 && need.takers.contains(&bookie) {
        // Its own earlier life, if that is there: an ensemble never names a bookie twice.
        let own = need.gone.iter().find(|m| m.id == bookie.id);
        let replaces = own.or_else(|| need.gone.first()).copied();
        return vec![Part { fragment, entries: need.entries.clone(), change: Change::Join { replaces } }];
    }
    let mine = need.fills.iter().filter(|hole| hole.member == bookie);
    let fill = |hole: &Hole| Part { fragment, entries: Some(hole.entries.clone()), change: Change::Fill };
    let mut parts: Vec<_> = mine.map(fill).collect();
    if !need.surplus.is_empty() {
        parts.push(Part { fragment, entries: None, change: Change::Drop(need.surplus.clone()) });
    }
    parts
}

/// What of `wanted` is not in `held`, as runs in order. `held` may be in any order and overlap.
#[must_use]
pub fn gaps(wanted: &RangeInclusive<u64>, held: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let mut runs: Vec<_> = held.iter().filter_map(|run| overlap(run, wanted)).collect();
    runs.sort_by_key(|run| *run.start());
    let (mut missing, mut next) = (Vec::new(), Some(*wanted.start()));
    for run in runs {
        match next {
            Some(from) if *run.start() > from => missing.push(from..=*run.start() - 1),
            _ => {}
        }
        next = next.and_then(|from| run.end().checked_add(1).map(|after| from.max(after)));
    }
    if let Some(from) = next.filter(|from| from <= wanted.end()) {
        missing.push(from..=*wanted.end());
    }
    missing
}

/// What is left of a hole when `filled` is not missing any more.
fn without(hole: &Hole, filled: &RangeInclusive<u64>) -> Vec<Hole> {
    let filled = std::slice::from_ref(filled);
    gaps(&hole.entries, filled).into_iter().map(|entries| Hole { member: hole.member, entries }).collect()
}
