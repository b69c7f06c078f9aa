//! When a head is ended because its bookies are not what they should be. Pure decisions over what is known of bookies;
//! who carries them out is the partition's driver.
//!
//! Heads are never repaired: their owner ends them where they are (which takes no bookie), goes on in a new ledger on
//! better ones when someone writes, and the closed one is repaired like any other. A member in limbo or under an order
//! to leave ends a head at once. One that is away, or takes no adds, does so after a grace period, and one that was left
//! behind as soon as it can be replaced; both only if more members could be written than now, so that nothing is ended
//! in vain while there is no better place.

use protocol::{
    ledger::metadata::BookieMember,
    model::{BookieRecord, BookieState},
};
use std::{collections::HashMap, time::Duration};

/// Why a head is ended for a better placement; of several reasons the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relocation {
    /// A member may have lost data.
    Limbo,
    /// A member is being taken out.
    Leaving,
    /// A member has been away, or has taken no adds, for longer than the grace period.
    Lost,
    /// It has fewer copies than could be had: a member was left behind, or there were too few bookies.
    Degraded,
}

impl Relocation {
    /// The value of the metric's label `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Limbo => "limbo",
            Self::Leaving => "leaving",
            Self::Lost => "lost",
            Self::Degraded => "degraded",
        }
    }
}

/// A head, as far as its placement goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its ensemble, and of each member whether it is still written.
    pub members: Vec<(BookieMember, bool)>,
    /// The copies that a new ledger of the partition should have.
    pub wanted: usize,
    /// The copies that a new ledger must have.
    pub required: usize,
}

impl Placed {
    /// Whether it is written with fewer copies than it should be.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.members.iter().filter(|(_, written)| *written).count() < self.wanted
    }
}

/// What is known of the bookies.
#[derive(Debug, Clone, Default)]
pub struct Bookies {
    /// Every live one.
    pub live: Vec<BookieRecord>,
    /// Those that are being taken out.
    pub leaving: Vec<BookieMember>,
    /// Those that failed a moment ago: not a better place.
    pub suspect: Vec<BookieMember>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Writable,
    Limbo,
    Leaving,
    /// Not live in this incarnation, or takes no adds.
    Away,
}

impl Bookies {
    fn standing(&self, member: BookieMember) -> Standing {
        if self.leaving.contains(&member) {
            return Standing::Leaving;
        }
        match self.live.iter().find(|b| b.member == member).map(|b| b.state) {
            Some(BookieState::Writable) => Standing::Writable,
            Some(BookieState::Limbo) => Standing::Limbo,
            Some(BookieState::ReadOnly) | None => Standing::Away,
        }
    }

    /// How many bookies could be given a new ledger.
    fn places(&self) -> usize {
        let is_place =
            |b: &&BookieRecord| self.standing(b.member) == Standing::Writable && !self.suspect.contains(&b.member);
        self.live.iter().filter(is_place).count()
    }
}

/// Watches the bookies of heads.
#[derive(Debug)]
pub struct Watch {
    grace: Duration,
    bookies: Bookies,
    places: usize,
    now: Duration,
    /// Since when a member is away.
    away: HashMap<BookieMember, Duration>,
}

impl Watch {
    /// A watch that gives members this long to come back.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { grace, bookies: Bookies::default(), places: 0, now: Duration::ZERO, away: HashMap::new() }
    }

    /// Takes note of the bookies as they are; `now` is the monotonic time.
    pub fn look(&mut self, bookies: Bookies, now: Duration) {
        self.away.retain(|member, _| bookies.standing(*member) == Standing::Away);
        (self.places, self.now, self.bookies) = (bookies.places(), now, bookies);
    }

    /// The members of a head that are still written and no longer live.
    pub fn gone<'a>(&'a self, head: &'a Placed) -> impl Iterator<Item = BookieMember> + 'a {
        let is_live = |member: BookieMember| self.bookies.live.iter().any(|b| b.member == member);
        head.members.iter().filter(move |(m, written)| *written && !is_live(*m)).map(|(m, _)| *m)
    }

    /// Forgets members that no head has any more.
    pub fn forget(&mut self, is_used: impl Fn(BookieMember) -> bool) {
        self.away.retain(|member, _| is_used(*member));
    }

    /// Whether a head should be ended, and why.
    pub fn judge(&mut self, head: &Placed) -> Option<Relocation> {
        let (mut good, mut lost, mut urgent) = (0, false, None);
        for (member, written) in &head.members {
            match self.bookies.standing(*member) {
                Standing::Writable => good += usize::from(*written),
                Standing::Limbo => urgent = Some(Relocation::Limbo),
                Standing::Leaving => urgent = urgent.or(Some(Relocation::Leaving)),
                Standing::Away => {
                    let since = *self.away.entry(*member).or_insert(self.now);
                    lost |= self.now.saturating_sub(since) >= self.grace;
                }
            }
        }
        let best = self.places.min(head.wanted);
        if best < head.required {
            return None;
        }
        let better = best > good;
        urgent
            .or((lost && better).then_some(Relocation::Lost))
            .or((head.is_degraded() && better && !self.is_waiting(head)).then_some(Relocation::Degraded))
    }

    /// Whether a member is away that may still come back in time, and nothing else is wrong.
    fn is_waiting(&self, head: &Placed) -> bool {
        let whole = head.members.len() >= head.wanted;
        let is_away = |member: &BookieMember| self.away.contains_key(member);
        whole && head.members.iter().all(|(member, written)| *written || is_away(member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::{BookieId, Incarnation};

    fn member(id: u32) -> BookieMember {
        BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
    }

    fn bookies(states: &[(u32, BookieState)]) -> Bookies {
        let live = states.iter().map(|(id, state)| BookieRecord::new(member(*id), *state)).collect();
        Bookies { live, ..Bookies::default() }
    }

    fn writable(ids: &[u32]) -> Bookies {
        bookies(&ids.iter().map(|id| (*id, BookieState::Writable)).collect::<Vec<_>>())
    }

    fn placed(written: &[u32], behind: &[u32]) -> Placed {
        let members = written.iter().map(|id| (member(*id), true)).chain(behind.iter().map(|id| (member(*id), false)));
        Placed { members: members.collect(), wanted: 3, required: 2 }
    }

    /// Looks once a second; answers the first decision and when it came, within a minute.
    fn first(watch: &mut Watch, bookies: &Bookies, head: &Placed) -> Option<(u64, Relocation)> {
        (0..60).find_map(|second| {
            watch.look(bookies.clone(), Duration::from_secs(second));
            watch.judge(head).map(|why| (second, why))
        })
    }

    fn decide(bookies: &Bookies, head: &Placed) -> Option<(u64, Relocation)> {
        first(&mut Watch::new(Duration::from_secs(10)), bookies, head)
    }

    #[test]
    fn a_head_on_good_bookies_stays() {
        assert_eq!(decide(&writable(&[1, 2, 3, 4]), &placed(&[1, 2, 3], &[])), None);
    }

    #[test]
    fn a_member_that_is_away_has_its_grace_and_a_better_place_must_exist() {
        let head = placed(&[1, 2, 3], &[]);
        assert_eq!(decide(&writable(&[1, 2, 4]), &head), Some((10, Relocation::Lost)));
        assert_eq!(decide(&writable(&[1, 2]), &head), None, "two of three is the best there is");
        assert_eq!(decide(&writable(&[1]), &head), None);
        let full = bookies(&[
            (1, BookieState::Writable),
            (2, BookieState::Writable),
            (3, BookieState::ReadOnly),
            (4, BookieState::Writable),
        ]);
        assert_eq!(decide(&full, &head), Some((10, Relocation::Lost)));
        // Back with an empty disk: that is not the member, but a place.
        let mut other = writable(&[1, 2, 3]);
        other.live[2].member.incarnation = Incarnation(2);
        assert_eq!(decide(&other, &head), Some((10, Relocation::Lost)));
        let mut watch = Watch::new(Duration::ZERO);
        watch.look(other, Duration::ZERO);
        assert_eq!(watch.gone(&head).collect::<Vec<_>>(), [member(3)]);
        assert_eq!(watch.gone(&placed(&[1, 2], &[3])).count(), 0, "nothing is expected of it");
    }

    #[test]
    fn a_member_that_comes_back_in_time_changes_nothing() {
        let (mut watch, head) = (Watch::new(Duration::from_secs(10)), placed(&[1, 2, 3], &[]));
        for second in 0..60 {
            let ids: &[u32] = if second % 8 == 7 { &[1, 2, 3, 4] } else { &[1, 2, 4] };
            watch.look(writable(ids), Duration::from_secs(second));
            assert_eq!(watch.judge(&head), None, "second {second}");
        }
        watch.forget(|m| m != member(3));
        assert!(watch.away.is_empty());
    }

    #[test]
    fn limbo_and_orders_to_leave_count_at_once_while_the_ack_quorum_has_a_place() {
        let head = placed(&[1, 2, 3], &[]);
        let limbo = bookies(&[(1, BookieState::Writable), (2, BookieState::Writable), (3, BookieState::Limbo)]);
        assert_eq!(decide(&limbo, &head), Some((0, Relocation::Limbo)));
        let mut leaving = writable(&[1, 2, 3, 4]);
        leaving.leaving.push(member(3));
        assert_eq!(decide(&leaving, &head), Some((0, Relocation::Leaving)));
        leaving.leaving.extend([member(1), member(4)]);
        assert_eq!(decide(&leaving, &head), None, "one bookie is left, two are needed");
    }

    #[test]
    fn a_degraded_head_waits_for_a_better_place() {
        let head = placed(&[1, 2], &[3]);
        assert_eq!(decide(&writable(&[1, 2]), &head), None);
        assert_eq!(decide(&writable(&[1, 2, 3]), &head), Some((0, Relocation::Degraded)), "the same bookie is back");
        let mut again = writable(&[1, 2, 3]);
        again.suspect.push(member(3));
        assert_eq!(decide(&again, &head), None, "but not if it still fails");
        let few = placed(&[1, 2], &[]);
        assert_eq!(decide(&writable(&[1, 2]), &few), None);
        assert_eq!(decide(&writable(&[1, 2, 3]), &few), Some((0, Relocation::Degraded)));
        // It died a moment ago and was left behind; it has its grace like one that nobody writes to.
        assert_eq!(decide(&writable(&[1, 2, 4]), &head), Some((10, Relocation::Lost)));
    }
}
