//! Which bookies hold a ledger: pure and seeded, so that a simulator sees the same choice twice.
//!
//! Owns the choice of an ensemble and of spares for a failed member. Invariants: members are distinct and were writable
//! when chosen; racks are spread over before any rack is used twice. Bookies with more free disk are chosen somewhat more
//! often. Never looks at load and never talks to a bookie.

use protocol::{
    ledger::{metadata::BookieMember, quorum::Quorum},
    model::{BookieRecord, BookieState},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::collections::HashMap;

/// Fewer bookies are writable than an acknowledgement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{available} bookies are writable, the ack quorum needs {required}")]
pub struct PlacementError {
    /// Writable bookies there are.
    pub available: usize,
    /// The ack quorum.
    pub required: usize,
}

/// Chooses an ensemble: Wq distinct writable bookies, or all that are writable if there are fewer.
///
/// # Errors
/// [`PlacementError`] if fewer than Aq are writable.
pub fn choose(bookies: &[BookieRecord], quorum: Quorum, seed: u64) -> Result<Vec<BookieMember>, PlacementError> {
    let mut ensemble = rank(bookies, &[], seed);
    if !quorum.is_acked(ensemble.len()) {
        return Err(PlacementError { available: ensemble.len(), required: quorum.ack() });
    }
    ensemble.truncate(quorum.write());
    Ok(ensemble)
}

/// Bookies that could take the place of a failed member of `ensemble`, best first: racks that no member stands in come
/// first. A bookie of the ensemble that has begun a new life comes last, because it can take the place of its old life
/// only (the writer sees to that); in the same life it is never a spare.
#[must_use]
pub fn spares(bookies: &[BookieRecord], ensemble: &[BookieMember], seed: u64) -> Vec<BookieMember> {
    let mut spares = rank(bookies, ensemble, seed);
    let is_reborn = |b: &&BookieRecord| {
        let old = ensemble.iter().find(|m| m.id == b.member.id);
        b.state == BookieState::Writable && old.is_some_and(|old| old.incarnation < b.member.incarnation)
    };
    spares.extend(bookies.iter().filter(is_reborn).map(|b| b.member));
    spares
}

/// Writable bookies outside `taken`, ordered so that every prefix is spread over as many racks as possible. A bookie
/// without a rack counts as a rack of its own.
fn rank(bookies: &[BookieRecord], taken: &[BookieMember], seed: u64) -> Vec<BookieMember> {
    let is_taken = |record: &BookieRecord| taken.iter().any(|m| m.id == record.member.id);
    let mut used: HashMap<&str, usize> = HashMap::new();
    for rack in bookies.iter().filter(|b| is_taken(b)).filter_map(|b| b.rack.as_deref()) {
        *used.entry(rack).or_default() += 1;
    }
    let mut free: Vec<&BookieRecord> =
        bookies.iter().filter(|b| b.state == BookieState::Writable && !is_taken(b)).collect();
    // The order of the directory must not matter, only the seed.
    free.sort_by_key(|b| b.member);
    free.dedup_by_key(|b| b.member.id);
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut free: Vec<_> = free.into_iter().map(|bookie| (turn(bookie, rng.random()), bookie)).collect();
    free.sort_by_key(|&(turn, _)| turn);
    let mut ranked: Vec<(usize, BookieMember)> = free
        .into_iter()
        .map(|(_, bookie)| {
            let Some(rack) = bookie.rack.as_deref() else { return (0, bookie.member) };
            let turn = used.entry(rack).or_default();
            *turn += 1;
            (*turn - 1, bookie.member)
        })
        .collect();
    // Stable: the n-th bookie of every rack comes before the (n+1)-th of any.
    ranked.sort_by_key(|&(turn, _)| turn);
    ranked.into_iter().map(|(_, member)| member).collect()
}

/// When a bookie's turn comes, for a number drawn at random: the smaller, the earlier. Against a bookie whose disk is
/// full, or that says nothing of it, one with an empty disk wins two times in three.
fn turn(bookie: &BookieRecord, drawn: u32) -> u64 {
    let free = bookie.disk.filter(|disk| disk.capacity > 0).map_or(0, |disk| {
        let percent = u128::from(disk.free.min(disk.capacity)) * 100 / u128::from(disk.capacity);
        u64::try_from(percent).unwrap_or(100)
    });
    // A race of exponential clocks, in whole numbers: the logarithm of the draw over the weight.
    let wait = u64::from(u32::MAX.ilog2() + 1) * FINE - log2_fine(drawn.max(1));
    wait * 1_000 / (100 + free)
}

/// The parts that a power of two is divided into.
const FINE: u64 = 1 << 20;

/// The logarithm of base two, in parts of [`FINE`]: exact at powers of two, linear between them.
fn log2_fine(number: u32) -> u64 {
    let whole = number.ilog2();
    let rest = u64::from(number - (1 << whole));
    u64::from(whole) * FINE + rest * FINE / (1 << whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{BookieId, Incarnation},
        model::DiskUsage,
    };
    use std::collections::HashSet;

    fn bookie(id: u32, rack: Option<&str>, state: BookieState) -> BookieRecord {
        let member = BookieMember { id: BookieId(id), incarnation: Incarnation(1) };
        BookieRecord { rack: rack.map(Into::into), ..BookieRecord::new(member, state) }
    }

    fn quorum(write: u8, ack: u8) -> Quorum {
        Quorum::new(write, write, ack).expect("legal")
    }

    #[test]
    fn racks_are_spread_before_any_is_used_twice() {
        let bookies: Vec<_> =
            (0..9).map(|i| bookie(i, Some(["a", "b", "c"][i as usize / 3]), BookieState::Writable)).collect();
        for seed in 0..50 {
            let chosen = choose(&bookies, quorum(3, 2), seed).expect("enough");
            let racks: HashSet<u32> = chosen.iter().map(|m| m.id.0 / 3).collect();
            assert_eq!(racks.len(), 3, "seed {seed}: {chosen:?}");
        }
    }

    #[test]
    fn the_seed_alone_decides() {
        let mut bookies: Vec<_> = (0..6).map(|i| bookie(i, None, BookieState::Writable)).collect();
        let first = choose(&bookies, quorum(3, 2), 7).expect("enough");
        bookies.reverse();
        assert_eq!(choose(&bookies, quorum(3, 2), 7), Ok(first));
        let all: HashSet<_> = (0..50).map(|seed| choose(&bookies, quorum(3, 2), seed).expect("enough")).collect();
        assert!(all.len() > 10, "different seeds choose different ensembles");
    }

    #[test]
    fn more_free_disk_is_preferred_lightly() {
        let with_free = |id, free| {
            let disk = Some(DiskUsage { capacity: 1 << 40, free });
            BookieRecord { disk, ..bookie(id, None, BookieState::Writable) }
        };
        let bookies = [with_free(0, 1 << 40), with_free(1, 1 << 30), bookie(2, None, BookieState::Writable)];
        let mut first = [0; 3];
        for seed in 0..3_000 {
            let chosen = choose(&bookies, quorum(1, 1), seed).expect("enough");
            first[chosen[0].id.0 as usize] += 1;
        }
        // Weights 2 : 1 : 1.
        assert!((1_350..1_650).contains(&first[0]), "{first:?}");
        assert!(first[1] > 600 && first[2] > 600, "{first:?}");
        let odd = with_free(3, u64::MAX);
        assert!(turn(&odd, 0) > 0, "more free than there is counts as empty");
    }

    #[test]
    fn only_writable_bookies_are_chosen_and_never_fewer_than_the_ack_quorum() {
        let bookies = [
            bookie(1, None, BookieState::Writable),
            bookie(2, None, BookieState::ReadOnly),
            bookie(3, None, BookieState::Limbo),
        ];
        assert_eq!(choose(&bookies, quorum(3, 2), 1), Err(PlacementError { available: 1, required: 2 }));
        assert_eq!(choose(&bookies, quorum(2, 1), 1).map(|e| e.len()), Ok(1));
        assert_eq!(choose(&[], Quorum::SINGLE, 1), Err(PlacementError { available: 0, required: 1 }));
    }

    #[test]
    fn a_spare_is_new_and_from_an_unused_rack_if_there_is_one() {
        let bookies: Vec<_> =
            (0..6).map(|i| bookie(i, Some(["a", "b", "c"][i as usize % 3]), BookieState::Writable)).collect();
        let mut ensemble: Vec<_> = bookies[..2].iter().map(|b| b.member).collect();
        for seed in 0..20 {
            let spares = spares(&bookies, &ensemble, seed);
            assert_eq!(spares[0].id.0 % 3, 2, "the unused rack comes first");
            assert_eq!(spares.len(), 4);
        }
        // A member that came back with an empty disk may follow itself, after all others; an older life may not.
        ensemble[0].incarnation = Incarnation(0);
        let spares_of = |ensemble: &[BookieMember]| spares(&bookies, ensemble, 1);
        assert_eq!((spares_of(&ensemble).len(), spares_of(&ensemble)[4]), (5, bookies[0].member));
        ensemble[0].incarnation = Incarnation(2);
        assert_eq!(spares_of(&ensemble).len(), 4);
    }
}
