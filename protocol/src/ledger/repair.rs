//! Repair of a closed ledger: which copies it lacks, who may take them, and when a taker may join its ensembles.
//!
//! Pure: the auditor and the workers judge with the same functions, each on what it sees, and whoever changes metadata
//! does it by compare-and-swap of what it judged. Owns these rules: only a CLOSED ledger is judged (A1); a member joins
//! an ensemble after it holds every entry of the fragment, and never twice (A3); empty ledgers and fragments are done
//! without a copy (A4); a step never leaves fewer live copies than there were.

mod change;
mod roster;

pub use change::{Change, Part, Share, gaps};
pub use roster::{Roster, Standing};

use crate::{
    id::LedgerId,
    ledger::metadata::{BookieMember, Hole, LedgerMetadata, LedgerState},
    model::{BookieState, RepairReason},
};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// What one fragment of a closed ledger lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FragmentNeed {
    /// The fragment, by position.
    pub fragment: usize,
    /// Its entries; none if it is empty.
    pub entries: Option<RangeInclusive<u64>>,
    /// Its payload bytes, about: entries are taken to be of one size.
    pub bytes: u64,
    /// Members that are lost, then those that are leaving.
    pub gone: Vec<BookieMember>,
    /// How many copies are lacking that some bookie can take now.
    pub copies: usize,
    /// Members that may go without a successor: there are copies enough.
    pub surplus: Vec<BookieMember>,
    /// Holes that their members can fill now.
    pub fills: Vec<Hole>,
    /// The bookies that may take a copy, the best first.
    pub takers: Vec<BookieMember>,
}

impl FragmentNeed {
    const fn is_met(&self) -> bool {
        self.copies == 0 && self.surplus.is_empty() && self.fills.is_empty()
    }
}

/// What a closed ledger lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// The fragments for which something can be done now.
    pub needs: Vec<FragmentNeed>,
    /// The most urgent reason; none if nothing can be done.
    pub reason: Option<RepairReason>,
    /// Payload bytes to copy, about.
    pub bytes: u64,
    /// Copies that are lacking and that no bookie can take.
    pub unplaced: usize,
    /// Whether some entry has no copy on a bookie that lives.
    pub is_unavailable: bool,
}

impl Diagnosis {
    /// Whether nothing can be done.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.needs.is_empty()
    }

    /// The bookies that can do something, the best first; at most `limit`.
    #[must_use]
    pub fn takers(&self, limit: usize) -> Vec<BookieMember> {
        let mut seen = BTreeSet::new();
        let fills = self.needs.iter().flat_map(|need| need.fills.iter().map(|hole| hole.member));
        let takers = self.needs.iter().filter(|n| n.copies > 0).flat_map(|need| need.takers.iter().copied());
        fills.chain(takers).filter(|member| seen.insert(*member)).take(limit).collect()
    }

    /// Members of its ensembles that are gone.
    #[must_use]
    pub fn gone(&self) -> BTreeSet<BookieMember> {
        self.needs.iter().flat_map(|need| need.gone.iter().copied()).collect()
    }
}

/// The entries of each fragment; none for an empty one, and nothing for a ledger that has not ended.
#[must_use]
pub fn extents(ledger: &LedgerMetadata) -> Vec<Option<RangeInclusive<u64>>> {
    let LedgerState::Closed { last_entry, .. } = ledger.state else { return Vec::new() };
    let starts = ledger.fragments.iter().map(|f| f.first_entry.0);
    let nexts = starts.clone().skip(1).map(Some).chain([None]);
    let extent = |(first, next): (u64, Option<u64>)| {
        let last = last_entry?.0;
        let end = match next {
            Some(next) => next.checked_sub(1)?.min(last),
            None => last,
        };
        (first <= end).then_some(first..=end)
    };
    starts.zip(nexts).map(extent).collect()
}

/// About how many payload bytes `count` entries of a closed ledger have.
#[must_use]
pub fn bytes_of(ledger: &LedgerMetadata, count: u64) -> u64 {
    let LedgerState::Closed { last_entry: Some(last), length } = ledger.state else { return 0 };
    u64::try_from(u128::from(length) * u128::from(count) / (u128::from(last.0) + 1)).unwrap_or(u64::MAX)
}

/// About how many payload bytes of a closed ledger stand on a member.
#[must_use]
pub fn bytes_on(ledger: &LedgerMetadata, member: BookieMember) -> u64 {
    let held = ledger.fragments.iter().zip(extents(ledger)).filter(|(f, _)| f.ensemble.contains(&member));
    bytes_of(ledger, held.filter_map(|(_, extent)| extent).map(|e| count(&e)).sum())
}

/// What a ledger lacks; nothing if it has not ended.
#[must_use]
pub fn diagnose(ledger: &LedgerMetadata, roster: &Roster) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let mut reasons = Vec::new();
    for (fragment, entries) in extents(ledger).into_iter().enumerate() {
        let judged = Judged::of(ledger, fragment, entries, roster);
        diagnosis.unplaced += judged.unplaced;
        diagnosis.is_unavailable |= judged.is_unavailable;
        if !judged.need.is_met() {
            diagnosis.bytes += judged.need.bytes * judged.need.copies as u64;
            diagnosis.bytes += judged.need.fills.iter().map(|hole| bytes_of(ledger, count(&hole.entries))).sum::<u64>();
            reasons.push(judged.reason);
            diagnosis.needs.push(judged.need);
        }
    }
    diagnosis.reason = reasons.into_iter().min();
    diagnosis
}

/// The members that can serve a fragment's entries, other than `to`, the best first: those that are known to be whole
/// before those with holes or in limbo, spread by ledger and taker.
#[must_use]
pub fn sources(ledger: &LedgerMetadata, fragment: usize, to: BookieMember, roster: &Roster) -> Vec<BookieMember> {
    let Some(found) = ledger.fragments.get(fragment) else { return Vec::new() };
    let extent = extents(ledger).into_iter().nth(fragment).flatten();
    let mut members: Vec<_> =
        found.ensemble.iter().copied().filter(|m| *m != to && roster.record(*m).is_some()).collect();
    members.sort_by_key(|m| {
        let sound = is_sound(ledger, extent.as_ref(), *m, roster);
        let leaves = roster.standing(*m) == Standing::Leaving;
        (!sound, leaves, weight(ledger.id, *m) ^ u64::from(to.id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    });
    members
}

/// One fragment, judged.
struct Judged {
    need: FragmentNeed,
    unplaced: usize,
    is_unavailable: bool,
    reason: RepairReason,
}

impl Judged {
    fn of(ledger: &LedgerMetadata, fragment: usize, entries: Option<RangeInclusive<u64>>, roster: &Roster) -> Self {
        let ensemble = &ledger.fragments[fragment].ensemble;
        let with = |wanted: &dyn Fn(Standing) -> bool| {
            ensemble.iter().copied().filter(|m| wanted(roster.standing(*m))).collect::<Vec<_>>()
        };
        let kept = with(&|s| matches!(s, Standing::Live | Standing::Silent));
        let mut gone = with(&|s| matches!(s, Standing::Lost | Standing::Leaving));
        // A lost member gives its place up before one that still serves.
        gone.sort_by_key(|m| std::cmp::Reverse(roster.standing(*m)));
        let wanted = ledger.quorum.write().max(usize::from(ledger.wanted_write));
        let lacking = wanted.saturating_sub(kept.len());

        let serves = |m: &BookieMember| roster.record(*m).is_some();
        let has_source = entries.is_none() || ensemble.iter().any(serves);
        let takers = takers(ledger.id, &kept, &gone, roster);
        let copies = if has_source { lacking.min(takers.len()) } else { 0 };
        let sound = |m: &&BookieMember| is_sound(ledger, entries.as_ref(), **m, roster);
        let whole = kept.iter().filter(sound).count();
        // A live member only goes when enough others are known to be whole; a lost one takes no copy with it.
        let may_go = |m: &BookieMember| lacking == 0 && (roster.record(*m).is_none() || whole >= wanted);
        let surplus: Vec<_> = gone.iter().copied().filter(may_go).collect();
        let fills = fills(ledger, entries.as_ref(), ensemble, roster);

        let live = ensemble.iter().filter(sound).count();
        let reason = if entries.is_some() && live < ledger.quorum.ack() {
            RepairReason::AtRisk
        } else if gone.iter().any(|m| roster.standing(*m) == Standing::Lost) {
            RepairReason::Lost
        } else if !fills.is_empty() {
            RepairReason::Hole
        } else if !gone.is_empty() {
            RepairReason::Leaving
        } else {
            RepairReason::Copies
        };
        let bytes = entries.as_ref().map_or(0, |e| bytes_of(ledger, count(e)));
        let best = best_of(takers, &kept, &gone, roster);
        let need = FragmentNeed { fragment, entries, bytes, gone, copies, surplus, fills, takers: best };
        Self { need, unplaced: lacking - copies, is_unavailable: !has_source, reason }
    }
}

/// Every bookie that may join: live and writable, not leaving, and no other life of it stays in the ensemble. A bookie
/// whose earlier life is to be replaced comes first, then others in an order that spreads ledgers over bookies.
fn takers(ledger: LedgerId, kept: &[BookieMember], gone: &[BookieMember], roster: &Roster) -> Vec<BookieMember> {
    let may_join = |m: &BookieMember| {
        let stays = kept.iter().any(|k| k.id == m.id);
        roster.takes(*m) && !stays && !gone.contains(m)
    };
    let mut takers: Vec<_> = roster.live.values().map(|b| b.member).filter(may_join).collect();
    takers.sort_by_key(|m| (!gone.iter().any(|g| g.id == m.id), u64::MAX - weight(ledger, *m), *m));
    takers
}

/// Of those who may join, those in racks that hold no copy yet, if there are any; a bookie that replaces its own
/// earlier life always may.
fn best_of(
    takers: Vec<BookieMember>,
    kept: &[BookieMember],
    gone: &[BookieMember],
    roster: &Roster,
) -> Vec<BookieMember> {
    let racks: BTreeSet<&str> = kept.iter().filter_map(|m| roster.rack(*m)).collect();
    let is_new = |m: &BookieMember| roster.rack(*m).is_none_or(|rack| !racks.contains(rack));
    let returns = |m: &BookieMember| gone.iter().any(|g| g.id == m.id);
    let any_new = takers.iter().any(is_new);
    takers.into_iter().filter(|m| !any_new || is_new(m) || returns(m)).collect()
}

/// Holes that can be filled now: their members live and take writes, and another member can serve the entries.
fn fills(
    ledger: &LedgerMetadata,
    entries: Option<&RangeInclusive<u64>>,
    ensemble: &[BookieMember],
    roster: &Roster,
) -> Vec<Hole> {
    let Some(extent) = entries else { return Vec::new() };
    let others = |m: BookieMember| ensemble.iter().any(|o| *o != m && roster.record(*o).is_some());
    let fillable = |hole: &&Hole| ensemble.contains(&hole.member) && roster.takes(hole.member) && others(hole.member);
    let clip = |hole: &Hole| {
        let entries = overlap(&hole.entries, extent)?;
        Some(Hole { member: hole.member, entries })
    };
    ledger.holes.iter().filter(fillable).filter_map(clip).collect()
}

/// Whether a member lives, holds its state, and has no known hole in these entries.
fn is_sound(
    ledger: &LedgerMetadata,
    entries: Option<&RangeInclusive<u64>>,
    member: BookieMember,
    roster: &Roster,
) -> bool {
    let is_whole = |extent: &RangeInclusive<u64>| {
        !ledger.holes.iter().any(|hole| hole.member == member && overlap(&hole.entries, extent).is_some())
    };
    roster.record(member).is_some_and(|r| r.state != BookieState::Limbo) && entries.is_none_or(is_whole)
}

/// The entries that two runs share.
fn overlap(a: &RangeInclusive<u64>, b: &RangeInclusive<u64>) -> Option<RangeInclusive<u64>> {
    let (first, last) = (*a.start().max(b.start()), *a.end().min(b.end()));
    (first <= last).then_some(first..=last)
}

const fn count(entries: &RangeInclusive<u64>) -> u64 {
    entries.end().saturating_sub(*entries.start()).saturating_add(1)
}

/// A number that spreads ledgers over bookies: for each ledger another bookie has the highest.
#[must_use]
pub fn weight(ledger: LedgerId, member: BookieMember) -> u64 {
    let mut x = ledger.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(member.id.0) << 32 | member.incarnation.0);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
