//! When a node stands for election: a pure machine. The time, what was heard and what peers answered come in; "ask the
//! others" and "stand" come out. Owns the waiting: no two nodes wait equally long, so that rarely two stand at once.
//!
//! Invariant: it stands only after a majority has promised its votes in the current round.

use super::{LEASE, is_majority};
use std::{collections::BTreeSet, time::Duration};

/// The longest that a node waits beyond the lease.
const SPREAD: Duration = Duration::from_millis(200);
/// How long a round of questions may take.
const ROUND: Duration = Duration::from_millis(300);
/// The shortest wait between standing and asking again: an election takes its time.
const AGAIN: Duration = Duration::from_millis(600);

/// What a node knows about itself and its leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    /// The time.
    pub(crate) now: Duration,
    /// Since when it has waited for a leader; see [`super::ear::Ear::silent_since`].
    pub(crate) silent_since: Duration,
    /// Whether this node leads.
    pub(crate) leads: bool,
    /// Who votes.
    pub(crate) voters: &'a [BTreeSet<u64>],
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// Nothing.
    Rest,
    /// Ask all voters whether they would vote for this node; answers name the round.
    Canvass(u64),
    /// Stand for election.
    Stand,
}

/// The machine of one node.
#[derive(Debug)]
pub(crate) struct Standing {
    me: u64,
    round: u64,
    /// Who has promised a vote in this round, and until when it counts.
    asked: Option<(BTreeSet<u64>, Duration)>,
    rest_until: Duration,
}

impl Standing {
    /// The machine of node `me`.
    pub(crate) fn new(me: u64) -> Self {
        Self { me, round: 0, asked: None, rest_until: Duration::ZERO }
    }

    /// Time has passed.
    pub(crate) fn look(&mut self, sight: Sight<'_>) -> Move {
        let votes = sight.voters.iter().any(|set| set.contains(&self.me));
        if sight.leads || !votes {
            self.asked = None;
            return Move::Rest;
        }
        let is_alone = sight.voters.iter().all(|set| set.iter().eq([&self.me]));
        let patience = if is_alone { Duration::ZERO } else { LEASE + self.jitter(SPREAD) };
        if sight.now < sight.silent_since + patience {
            self.asked = None;
            return Move::Rest;
        }
        let is_asking = self.asked.as_ref().is_some_and(|(_, until)| sight.now < *until);
        if is_asking || sight.now < self.rest_until {
            return Move::Rest;
        }
        self.round += 1;
        if is_alone {
            return self.stand(sight.now);
        }
        self.asked = Some((BTreeSet::from([self.me]), sight.now + ROUND));
        Move::Canvass(self.round)
    }

    /// A peer has promised its vote.
    pub(crate) fn promised(&mut self, round: u64, by: u64, sight: Sight<'_>) -> Move {
        if round != self.round {
            return Move::Rest;
        }
        let Some((promised, until)) = &mut self.asked else { return Move::Rest };
        promised.insert(by);
        if sight.now < *until && is_majority(promised, sight.voters) { self.stand(sight.now) } else { Move::Rest }
    }

    fn stand(&mut self, now: Duration) -> Move {
        self.asked = None;
        self.rest_until = now + AGAIN + self.jitter(SPREAD);
        Move::Stand
    }

    /// A part of `most` that differs between nodes and rounds (SplitMix64 of both).
    fn jitter(&self, most: Duration) -> Duration {
        let mut mixed = self.me.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.round.wrapping_mul(0xd1b5_4a32_d192_ed03);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        most * ((mixed >> 48) as u32 & 0xff) / 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn voters(ids: &[u64]) -> Vec<BTreeSet<u64>> {
        vec![ids.iter().copied().collect()]
    }

    fn sight(now: u32, heard: u32, voters: &[BTreeSet<u64>]) -> Sight<'_> {
        Sight { now: MS * now, silent_since: MS * heard, leads: false, voters }
    }

    /// Looks every millisecond; when it first moves, and how.
    fn until_it_moves(standing: &mut Standing, from: u32, heard: u32, voters: &[BTreeSet<u64>]) -> (u32, Move) {
        (from..from + 10_000)
            .map(|now| (now, standing.look(sight(now, heard, voters))))
            .find(|(_, what)| *what != Move::Rest)
            .expect("it moves at last")
    }

    #[test]
    fn it_asks_after_the_lease_and_stands_with_a_majority() {
        let (mut standing, five) = (Standing::new(1), voters(&[1, 2, 3, 4, 5]));
        let (asked, what) = until_it_moves(&mut standing, 0, 0, &five);
        assert_eq!(what, Move::Canvass(1));
        assert!((700..900).contains(&asked), "{asked}");
        assert_eq!(standing.promised(1, 2, sight(asked, 0, &five)), Move::Rest, "two of five");
        assert_eq!(standing.promised(1, 2, sight(asked, 0, &five)), Move::Rest, "the same one again");
        assert_eq!(standing.promised(1, 3, sight(asked, 0, &five)), Move::Stand);
        assert_eq!(standing.promised(1, 4, sight(asked, 0, &five)), Move::Rest, "it stands once");
        let (again, what) = until_it_moves(&mut standing, asked, 0, &five);
        assert_eq!(what, Move::Canvass(2));
        assert!(again >= asked + 600, "an election takes its time");
    }

    #[test]
    fn promises_of_an_earlier_round_or_after_its_end_do_not_count() {
        let (mut standing, three) = (Standing::new(1), voters(&[1, 2, 3]));
        let (asked, _) = until_it_moves(&mut standing, 0, 0, &three);
        assert_eq!(standing.promised(1, 2, sight(asked + 301, 0, &three)), Move::Rest, "too late");
        let (again, what) = until_it_moves(&mut standing, asked + 301, 0, &three);
        assert_eq!(what, Move::Canvass(2));
        assert_eq!(standing.promised(1, 2, sight(again, 0, &three)), Move::Rest, "of round 1");
        assert_eq!(standing.promised(2, 2, sight(again, 0, &three)), Move::Stand);
    }

    #[test]
    fn a_leader_that_is_heard_ends_the_asking() {
        let (mut standing, three) = (Standing::new(1), voters(&[1, 2, 3]));
        let (asked, _) = until_it_moves(&mut standing, 0, 0, &three);
        assert_eq!(standing.look(sight(asked + 1, asked + 1, &three)), Move::Rest);
        assert_eq!(standing.promised(1, 2, sight(asked + 2, asked + 1, &three)), Move::Rest);
    }

    #[test]
    fn a_single_voter_stands_at_once_and_whoever_has_no_vote_never_does() {
        let alone = voters(&[1]);
        assert_eq!(Standing::new(1).look(sight(0, 0, &alone)), Move::Stand);
        assert_eq!(Standing::new(2).look(sight(99_999, 0, &alone)), Move::Rest);
        assert_eq!(Standing::new(2).look(sight(99_999, 0, &[])), Move::Rest, "nothing is known yet");
        let leader = Sight { leads: true, ..sight(99_999, 0, &alone) };
        assert_eq!(Standing::new(1).look(leader), Move::Rest);
    }

    #[test]
    fn nodes_wait_differently() {
        let (three, mut waits) = (voters(&[1, 2, 3]), BTreeSet::new());
        for id in 1..=3 {
            waits.insert(until_it_moves(&mut Standing::new(id), 0, 0, &three).0);
        }
        assert_eq!(waits.len(), 3, "{waits:?}");
        let (least, most) = (waits.first().expect("three"), waits.last().expect("three"));
        assert!(most - least > 30, "{waits:?}");
    }
}
