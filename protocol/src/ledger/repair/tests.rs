//! What is lacking and who may take it: a table of situations, and random clusters that are repaired step by step.

use super::*;
use crate::{
    id::{BookieId, EntryId, Incarnation, LedgerKey, Timestamp},
    ledger::{metadata::Fragment, quorum::Quorum},
    model::BookieRecord,
    mutant::Mutants,
};
use proptest::prelude::*;

fn member(id: u32, incarnation: u64) -> BookieMember {
    BookieMember { id: BookieId(id), incarnation: Incarnation(incarnation) }
}

fn first(id: u32) -> BookieMember {
    member(id, 1)
}

fn closed(wanted: u8, fragments: &[(u64, &[u32])], last: Option<u64>) -> LedgerMetadata {
    let quorum = Quorum::of_replication(wanted, 1).expect("legal");
    let mut ledger = LedgerMetadata::open(
        LedgerId(7),
        LedgerKey(1),
        quorum,
        (1..=u32::from(wanted)).map(first).collect(),
        Timestamp(0),
    );
    let fragment = |(at, ids): &(u64, &[u32])| Fragment {
        first_entry: EntryId(*at),
        ensemble: ids.iter().map(|id| first(*id)).collect(),
    };
    ledger.fragments = fragments.iter().map(fragment).collect();
    ledger.state = LedgerState::Closed { last_entry: last.map(EntryId), length: last.map_or(0, |l| (l + 1) * 10) };
    ledger
}

/// Bookies in their first life, all writable.
fn roster(ids: &[u32]) -> Roster {
    let record = |id: &u32| (BookieId(*id), BookieRecord::new(first(*id), BookieState::Writable));
    let cookies = ids.iter().map(|id| (BookieId(*id), Incarnation(1))).collect();
    Roster { live: ids.iter().map(record).collect(), cookies, ..Roster::default() }
}

fn wipe(roster: &mut Roster, id: u32) {
    roster.live.insert(BookieId(id), BookieRecord::new(member(id, 2), BookieState::Writable));
    roster.cookies.insert(BookieId(id), Incarnation(2));
}

fn set_state(roster: &mut Roster, id: u32, state: BookieState) {
    roster.live.get_mut(&BookieId(id)).expect("live").state = state;
}

fn share(ledger: &LedgerMetadata, roster: &Roster, by: BookieMember) -> Option<Share> {
    Share::of(by, &diagnose(ledger, roster), roster)
}

/// What follows when `by` has copied everything it needs.
fn repaired(ledger: &LedgerMetadata, roster: &Roster, by: BookieMember) -> LedgerMetadata {
    share(ledger, roster, by).expect("a share").done(ledger, &[0..=u64::MAX]).expect("all is held")
}

#[test]
fn a_healthy_ledger_needs_nothing_and_an_unclosed_one_is_not_judged() {
    let mut ledger = closed(3, &[(0, &[1, 2, 3])], Some(9));
    assert_eq!(diagnose(&ledger, &roster(&[1, 2, 3])), Diagnosis::default());
    ledger.state = LedgerState::Open;
    assert_eq!(diagnose(&ledger, &roster(&[4, 5, 6])), Diagnosis::default());
    assert_eq!(Share { bookie: first(4), parts: Vec::new(), mutants: Mutants::NONE }.done(&ledger, &[0..=9]), None);
}

#[test]
fn silence_is_not_loss_until_the_grace_period_has_passed() {
    let ledger = closed(3, &[(0, &[1, 2, 3])], Some(9));
    let mut seen = roster(&[1, 2, 4]);
    assert!(diagnose(&ledger, &seen).is_clear());
    seen.lost.insert(first(3));
    let found = diagnose(&ledger, &seen);
    assert_eq!((found.reason, found.bytes, found.unplaced), (Some(RepairReason::Lost), 100, 0));
    assert_eq!(found.takers(9), [first(4)]);
    assert_eq!(repaired(&ledger, &seen, first(4)).fragments[0].ensemble, [first(1), first(2), first(4)]);
    assert_eq!(share(&ledger, &seen, first(1)), None, "a member never joins twice");
}

#[test]
fn another_life_means_lost_at_once_and_takes_its_own_place() {
    let ledger = closed(3, &[(0, &[1, 2, 3])], Some(9));
    let mut seen = roster(&[1, 2, 3]);
    seen.live.remove(&BookieId(3));
    seen.cookies.insert(BookieId(3), Incarnation(2));
    let found = diagnose(&ledger, &seen);
    assert_eq!((found.is_clear(), found.unplaced), (true, 1), "lost by its cookie; nobody can take the copy yet");
    wipe(&mut seen, 3);
    assert_eq!(repaired(&ledger, &seen, member(3, 2)).fragments[0].ensemble, [first(1), first(2), member(3, 2)]);
    // With two gone, the new life takes the place of the old one, never that of another beside it.
    seen.lost.insert(first(1));
    seen.live.remove(&BookieId(1));
    let found = diagnose(&ledger, &seen);
    assert_eq!((found.reason, found.unplaced), (Some(RepairReason::AtRisk), 1));
    assert_eq!(repaired(&ledger, &seen, member(3, 2)).fragments[0].ensemble, [first(1), first(2), member(3, 2)]);
    // An old view does not make a newer life a lost one.
    let mut newer = ledger;
    newer.fragments[0].ensemble[0] = member(1, 5);
    assert!(diagnose(&newer, &roster(&[1, 2, 3])).is_clear());
}

#[test]
fn a_leaving_member_stays_until_another_holds_its_copies() {
    let ledger = closed(3, &[(0, &[1, 2, 3])], Some(9));
    let mut seen = roster(&[1, 2, 3]);
    seen.leaving.insert(first(2));
    let found = diagnose(&ledger, &seen);
    assert_eq!((found.is_clear(), found.unplaced), (true, 1), "three bookies, three copies: it cannot go");
    seen.live.extend(roster(&[4]).live);
    let found = diagnose(&ledger, &seen);
    assert_eq!(found.reason, Some(RepairReason::Leaving));
    let share = share(&ledger, &seen, first(4)).expect("a share");
    assert_eq!(share.released(), [first(2)].into());
    for held in [vec![], vec![0..=3, 5..=9], vec![0..=8], vec![1..=9]] {
        assert_eq!(share.done(&ledger, &held), None, "{held:?} is not all of it (A3)");
    }
    let next = share.done(&ledger, &[3..=20, 0..=4]).expect("all is held");
    assert_eq!(next.fragments[0].ensemble, [first(1), first(4), first(3)]);
    assert_eq!(share.done(&next, &[0..=9]), None, "not a second time");
    // Leaving and dead: not waited for, no grace.
    seen.live.remove(&BookieId(2));
    assert_eq!(diagnose(&ledger, &seen).reason, Some(RepairReason::Lost));
}

#[test]
fn superfluous_members_go_without_a_copy_but_not_while_others_are_in_doubt() {
    let ledger = closed(3, &[(0, &[1, 2, 3, 4])], Some(9));
    let mut seen = roster(&[1, 2, 3, 4]);
    seen.leaving.insert(first(4));
    let next = repaired(&ledger, &seen, first(1));
    assert_eq!(next.fragments[0].ensemble, [first(1), first(2), first(3)]);
    seen.live.remove(&BookieId(3));
    assert!(diagnose(&ledger, &seen).is_clear(), "bookie 3 is silent: the leaving member stays for now");
    seen.live.remove(&BookieId(4));
    assert_eq!(diagnose(&ledger, &seen).needs[0].surplus, [first(4)], "a dead member takes no copy with it");
}

#[test]
fn empty_ledgers_and_fragments_need_no_copy() {
    let mut seen = roster(&[1, 2, 4]);
    seen.lost.insert(first(3));
    let empty = closed(3, &[(0, &[1, 2, 3])], None);
    let found = diagnose(&empty, &seen);
    assert_eq!((found.bytes, found.reason), (0, Some(RepairReason::Lost)));
    let share = share(&empty, &seen, first(4)).expect("a share");
    assert_eq!(share.wanted().count(), 0);
    assert!(share.done(&empty, &[]).is_some_and(|next| next.fragments[0].ensemble.contains(&first(4))));
    // The writer changed the ensemble, and nothing was written to the new one.
    let tail = closed(3, &[(0, &[1, 2, 4]), (10, &[1, 2, 3])], Some(9));
    assert_eq!(extents(&tail), [Some(0..=9), None]);
    let next = repaired(&tail, &seen, first(4));
    assert!(diagnose(&next, &seen).is_clear());
    // All members of an empty fragment are gone: nothing is unavailable.
    let gone = closed(1, &[(0, &[3])], None);
    assert!(!diagnose(&gone, &seen).is_unavailable && diagnose(&gone, &seen).needs.len() == 1);
}

#[test]
fn what_nobody_holds_any_more_is_reported_and_not_replaced() {
    let ledger = closed(1, &[(0, &[3])], Some(9));
    let mut seen = roster(&[1, 2]);
    seen.lost.insert(first(3));
    let found = diagnose(&ledger, &seen);
    assert!(found.is_unavailable && found.is_clear() && found.unplaced == 1);
}

#[test]
fn holes_are_filled_by_their_members() {
    let mut ledger = closed(3, &[(0, &[1, 2, 3]), (5, &[1, 2, 4])], Some(9));
    ledger.holes = vec![Hole { member: first(2), entries: 3..=6 }, Hole { member: first(4), entries: 20..=30 }];
    let mut seen = roster(&[1, 2, 3, 4]);
    let found = diagnose(&ledger, &seen);
    assert_eq!((found.reason, found.bytes), (Some(RepairReason::Hole), 40));
    assert_eq!(found.takers(9), [first(2)]);
    assert_eq!(share(&ledger, &seen, first(1)), None);
    let share = share(&ledger, &seen, first(2)).expect("a share");
    assert_eq!(share.done(&ledger, &[3..=5]), None);
    assert!(!share.joins());
    let next = share.done(&ledger, &[3..=6]).expect("filled");
    assert!(diagnose(&next, &seen).is_clear() && next.fragments == ledger.fragments);
    assert_eq!(next.holes, [Hole { member: first(4), entries: 20..=30 }], "beyond the end: not a hole");
    // Two copies of three are doubtful: at risk.
    ledger.holes.push(Hole { member: first(1), entries: 0..=0 });
    assert_eq!(diagnose(&ledger, &seen).reason, Some(RepairReason::AtRisk));
    // A lost member's holes go with it.
    wipe(&mut seen, 2);
    let next = repaired(&ledger, &seen, member(2, 2));
    assert!(next.holes.iter().all(|hole| hole.member.id != BookieId(2)));
}

#[test]
fn copies_are_added_as_bookies_join() {
    let mut ledger = closed(1, &[(0, &[1])], Some(9));
    ledger.wanted_write = 3;
    let found = diagnose(&ledger, &roster(&[1]));
    assert_eq!((found.is_clear(), found.unplaced), (true, 2));
    let seen = roster(&[1, 2, 3, 4]);
    let found = diagnose(&ledger, &seen);
    assert_eq!((found.reason, found.bytes), (Some(RepairReason::Copies), 200));
    let next = repaired(&ledger, &seen, first(3));
    let next = repaired(&next, &seen, first(2));
    assert_eq!(next.fragments[0].ensemble, [first(1), first(3), first(2)]);
    assert!(diagnose(&next, &seen).is_clear());
}

#[test]
fn other_racks_are_preferred_and_only_writable_bookies_take() {
    let ledger = closed(3, &[(0, &[1, 2, 3])], Some(9));
    let mut seen = roster(&[1, 2, 4, 5, 6]);
    seen.lost.insert(first(3));
    for (id, rack) in [(1, "a"), (2, "b"), (4, "a"), (5, "c"), (6, "b")] {
        seen.live.get_mut(&BookieId(id)).expect("live").rack = Some(rack.into());
    }
    assert_eq!(diagnose(&ledger, &seen).takers(9), [first(5)]);
    set_state(&mut seen, 5, BookieState::ReadOnly);
    assert_eq!(diagnose(&ledger, &seen).takers(9).len(), 2);
    assert_eq!(share(&ledger, &seen, first(5)), None);
    set_state(&mut seen, 6, BookieState::Limbo);
    assert_eq!(diagnose(&ledger, &seen).takers(9), [first(4)]);
    // Of the members that can serve, the sound ones come first.
    set_state(&mut seen, 1, BookieState::Limbo);
    assert_eq!(sources(&ledger, 0, first(4), &seen), [first(2), first(1)]);
}

#[test]
fn ledgers_are_spread_over_takers() {
    let seen = {
        let mut seen = roster(&[1, 2, 4, 5, 6, 7]);
        seen.lost.insert(first(3));
        seen
    };
    let mut firsts = std::collections::BTreeMap::new();
    for id in 0..400 {
        let ledger = LedgerMetadata { id: LedgerId(id), ..closed(3, &[(0, &[1, 2, 3])], Some(9)) };
        *firsts.entry(diagnose(&ledger, &seen).takers(1)).or_insert(0) += 1;
    }
    assert!(firsts.len() == 4 && firsts.values().all(|n| (60..160).contains(n)), "{firsts:?}");
}

#[test]
fn gaps_are_what_is_not_held() {
    assert_eq!(gaps(&(3..=9), &[]), [3..=9]);
    assert_eq!(gaps(&(3..=9), &[8..=20, 0..=3, 5..=6, 5..=5]), [4..=4, 7..=7]);
    assert_eq!(gaps(&(3..=9), &[0..=u64::MAX]), []);
    assert_eq!(gaps(&(0..=u64::MAX), &[1..=u64::MAX]), [0..=0]);
}

/// A cluster of up to 7 bookies and a ledger over some of them.
#[derive(Debug, Clone)]
struct Situation {
    ledger: LedgerMetadata,
    roster: Roster,
}

fn situations() -> impl Strategy<Value = Situation> {
    let bookie = prop_oneof![4 => Just(0u8), 1 => 1..=6u8];
    let fragments = prop::collection::vec((1..6u64, prop::sample::subsequence((0..7u32).collect::<Vec<_>>(), 3)), 1..4);
    let holes = prop::collection::vec((0..7u32, 0..12u64, 0..5u64), 0..4);
    (prop::collection::vec(bookie, 7), fragments, holes, prop::option::of(0..12u64), 3..5u8).prop_map(
        |(kinds, parts, holes, last, wanted)| {
            let mut seen = roster(&[]);
            for (id, kind) in (0u32..).zip(kinds) {
                let state = if kind == 5 { BookieState::ReadOnly } else { BookieState::Writable };
                let life = if kind == 3 { 2 } else { 1 };
                if !matches!(kind, 1 | 2) {
                    seen.live.insert(BookieId(id), BookieRecord::new(member(id, life), state));
                }
                match kind {
                    1 => drop(seen.lost.insert(first(id))),
                    4 => drop(seen.leaving.insert(first(id))),
                    6 => set_state(&mut seen, id, BookieState::Limbo),
                    _ => {}
                }
            }
            let mut at = 0;
            let mut ledger = closed(3, &[(0, &[0, 1, 2])], last);
            ledger.wanted_write = wanted;
            ledger.fragments.clear();
            for (length, ids) in parts {
                let ensemble = ids.into_iter().map(first).collect();
                ledger.fragments.push(Fragment { first_entry: EntryId(at), ensemble });
                at += length;
            }
            ledger.holes =
                holes.into_iter().map(|(id, from, n)| Hole { member: first(id), entries: from..=from + n }).collect();
            Situation { ledger, roster: seen }
        },
    )
}

fn live_copies(ledger: &LedgerMetadata, roster: &Roster) -> Vec<usize> {
    let of = |f: &Fragment| f.ensemble.iter().filter(|m| roster.record(**m).is_some()).count();
    ledger.fragments.iter().map(of).collect()
}

proptest! {
    #[test]
    fn step_by_step_nothing_is_left_to_do_and_nothing_gets_worse(
        Situation { mut ledger, roster } in situations(), picks in prop::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let wanted = ledger.quorum.write().max(usize::from(ledger.wanted_write));
        for pick in &picks {
            let found = diagnose(&ledger, &roster);
            let able: Vec<Share> =
                roster.live.values().filter_map(|b| Share::of(b.member, &found, &roster)).collect();
            prop_assert_eq!(found.is_clear(), able.is_empty(), "somebody can do what is to be done: {:?}", found);
            if able.is_empty() {
                break;
            }
            let share = pick.get(&able);
            let before = live_copies(&ledger, &roster);
            let next = share.done(&ledger, &[0..=u64::MAX]).expect("what was just decided fits");
            prop_assert_ne!(&next, &ledger, "a step changes something");
            for (n, (was, is)) in before.iter().zip(live_copies(&next, &roster)).enumerate() {
                prop_assert!(is >= (*was).min(wanted), "fragment {} went from {} to {} live copies", n, was, is);
            }
            for fragment in &next.fragments {
                let ids: BTreeSet<_> = fragment.ensemble.iter().map(|m| m.id).collect();
                prop_assert_eq!(ids.len(), fragment.ensemble.len(), "an id twice in {:?}", fragment.ensemble);
            }
            prop_assert_eq!(next.fragments.len(), ledger.fragments.len());
            prop_assert_eq!((next.id, next.state, next.quorum), (ledger.id, ledger.state, ledger.quorum));
            ledger = next;
        }
        prop_assert!(diagnose(&ledger, &roster).is_clear(), "not done after {} steps: {:?}", picks.len(), ledger);
    }
}
