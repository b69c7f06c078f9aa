//! Which bookies are there, and which have been gone for too long. Pure: time is told, in monotonic durations.
//!
//! Owns the grace period: a member that is not there is silent until the period has passed, and only then lost. Whoever
//! has started again as another life is lost at once; that needs no clock and is told by the roster itself.

use protocol::{
    cluster::ClusterSnapshot,
    ledger::{metadata::BookieMember, repair::Roster},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Since when members have been silent, as far as this process has seen.
#[derive(Debug)]
pub(super) struct Absences {
    grace: Duration,
    silent_since: BTreeMap<BookieMember, Duration>,
}

impl Absences {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, silent_since: BTreeMap::new() }
    }

    /// The bookies as they stand at `now`. `named` are the members that ledgers name, which may have no cookie any more.
    pub(super) fn roster(
        &mut self,
        cluster: &ClusterSnapshot,
        named: &BTreeSet<BookieMember>,
        now: Duration,
    ) -> Roster {
        // What does not matter here is left out, so that equal rosters mean equal judgements.
        let plain = |record: &protocol::model::BookieRecord| {
            let rack = record.rack.clone();
            protocol::model::BookieRecord { rack, ..protocol::model::BookieRecord::new(record.member, record.state) }
        };
        let mut roster = Roster {
            live: cluster.bookies.iter().map(|(id, record)| (*id, plain(record))).collect(),
            cookies: cluster.cookies.iter().map(|(id, cookie)| (*id, cookie.incarnation)).collect(),
            lost: BTreeSet::new(),
            leaving: cluster.decommissions.values().map(|order| order.member).collect(),
        };
        let with_cookie = cluster.cookies.values().map(|c| BookieMember { id: c.bookie, incarnation: c.incarnation });
        let silent: BTreeSet<BookieMember> =
            with_cookie.chain(named.iter().copied()).filter(|member| roster.record(*member).is_none()).collect();
        self.silent_since.retain(|member, _| silent.contains(member));
        for member in silent {
            let since = *self.silent_since.entry(member).or_insert(now);
            if now.saturating_sub(since) >= self.grace {
                roster.lost.insert(member);
            }
        }
        roster
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        id::{BookieId, Incarnation},
        ledger::repair::Standing,
        model::{BookieRecord, BookieState, Cookie},
    };
    use std::sync::Arc;
    use uuid::Uuid;

    fn member(id: u32) -> BookieMember {
        BookieMember { id: BookieId(id), incarnation: Incarnation(1) }
    }

    fn cluster(live: &[u32], cookies: &[u32]) -> ClusterSnapshot {
        let mut snapshot = ClusterSnapshot::default();
        for id in live {
            let record = BookieRecord::new(member(*id), BookieState::Writable);
            snapshot.bookies.insert(BookieId(*id), Arc::new(record));
        }
        for id in cookies {
            let (cluster_id, bookie) = ("cluster".into(), BookieId(*id));
            let cookie = Cookie { cluster_id, bookie, incarnation: Incarnation(1), instance: Uuid::nil() };
            snapshot.cookies.insert(bookie, Arc::new(cookie));
        }
        snapshot
    }

    #[test]
    fn a_member_is_lost_when_the_grace_period_has_passed_and_found_when_it_returns() {
        let mut absences = Absences::new(Duration::from_secs(10));
        let at = Duration::from_secs;
        let none = BTreeSet::new();
        let standing = |roster: &Roster| roster.standing(member(2));
        assert_eq!(standing(&absences.roster(&cluster(&[1, 2], &[1, 2]), &none, at(100))), Standing::Live);
        let gone = cluster(&[1], &[1, 2]);
        assert_eq!(standing(&absences.roster(&gone, &none, at(101))), Standing::Silent);
        assert_eq!(standing(&absences.roster(&gone, &none, at(110))), Standing::Silent);
        assert_eq!(standing(&absences.roster(&gone, &none, at(111))), Standing::Lost);
        assert_eq!(standing(&absences.roster(&cluster(&[1, 2], &[1, 2]), &none, at(112))), Standing::Live);
        assert_eq!(standing(&absences.roster(&gone, &none, at(113))), Standing::Silent, "counted anew");
    }

    #[test]
    fn a_member_without_a_cookie_is_lost_too_if_a_ledger_names_it() {
        let mut absences = Absences::new(Duration::from_secs(10));
        let (seen, named) = (cluster(&[1], &[1]), BTreeSet::from([member(7)]));
        absences.roster(&seen, &named, Duration::from_secs(1));
        let roster = absences.roster(&seen, &named, Duration::from_secs(11));
        assert_eq!(roster.lost, named);
    }
}
