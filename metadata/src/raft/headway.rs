//! Whether raft may go on before this node's disk has written its entries: a pure machine.
//!
//! openraft 0.9 sends nothing to followers before the leader's own append is reported, so that two disks would work one
//! after the other. A leader may report it at once if what it appends cannot be committed without others: their
//! answers are held back until its own disk is as far. It may not if it is a quorum by itself, and a follower never may.

use super::{Seat, TypeConfig, Vote};
use openraft::{Entry, EntryPayload, Membership, StoredMembership};
use std::collections::VecDeque;

/// What decides. Without [`Headway::begin`] the answer is always no.
#[derive(Debug, Default)]
pub(super) struct Headway {
    /// This node, once it may.
    me: Option<u64>,
    /// Whether the latest vote makes it the leader.
    leads: bool,
    /// The members that the log names, each from this index on, and whether this node is a quorum by itself. The first is
    /// the one before everything that may still be truncated.
    members: VecDeque<(u64, bool)>,
}

/// Whether one node is enough to commit something.
fn is_alone(members: &Membership<u64, Seat>) -> bool {
    members.get_joint_config().iter().all(|voters| voters.len() < 2)
}

impl Headway {
    /// Node `me` may; the log names these members last.
    pub(super) fn begin(&mut self, me: u64, members: &StoredMembership<u64, Seat>) {
        let since = members.log_id().map_or(0, |id| id.index);
        (self.me, self.leads) = (Some(me), false);
        self.members = VecDeque::from([(since, is_alone(members.membership()))]);
    }

    /// This vote is given.
    pub(super) fn voted(&mut self, vote: &Vote) {
        self.leads = vote.is_committed() && self.me.is_some_and(|me| vote.leader_id().voted_for() == Some(me));
    }

    /// These entries are appended; whether raft may go on at once.
    pub(super) fn appending(&mut self, entries: &[Entry<TypeConfig>]) -> bool {
        for entry in entries {
            if let EntryPayload::Membership(members) = &entry.payload {
                self.members.push_back((entry.log_id.index, is_alone(members)));
            }
        }
        self.leads && self.members.back().is_some_and(|(_, alone)| !alone)
    }

    /// Raft works with these members, which a snapshot may have brought instead of the log.
    pub(super) fn named(&mut self, members: &StoredMembership<u64, Seat>) {
        if let Some(since) = members.log_id().map(|id| id.index)
            && self.members.back().is_some_and(|(known, _)| *known < since)
        {
            self.members.push_back((since, is_alone(members.membership())));
        }
    }

    /// The log ends before `index`.
    pub(super) fn truncated(&mut self, index: u64) {
        while self.members.back().is_some_and(|(since, _)| *since >= index) {
            self.members.pop_back();
        }
    }

    /// The log begins after `index`: nothing up to it is truncated any more.
    pub(super) fn purged(&mut self, index: u64) {
        while self.members.get(1).is_some_and(|(since, _)| *since <= index) {
            self.members.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::blank;
    use std::collections::BTreeSet;

    fn members(voters: &[&[u64]]) -> Membership<u64, Seat> {
        let voters: Vec<BTreeSet<u64>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        Membership::new(voters, None)
    }

    fn change(index: u64, voters: &[&[u64]]) -> Entry<TypeConfig> {
        Entry { payload: EntryPayload::Membership(members(voters)), ..blank(index) }
    }

    /// Leader 1 of these voters, who are named by entry 5.
    fn leader(voters: &[&[u64]]) -> Headway {
        let mut headway = Headway::default();
        let since = Some(blank(5).log_id);
        headway.begin(1, &StoredMembership::new(since, members(voters)));
        headway.voted(&Vote::new_committed(1, 1));
        headway
    }

    #[test]
    fn only_a_leader_whom_others_must_confirm_goes_on() {
        assert!(leader(&[&[1, 2, 3]]).appending(&[blank(6)]));
        assert!(leader(&[&[1], &[1, 2, 3]]).appending(&[blank(6)]), "the later set needs another one");
        assert!(!leader(&[&[1]]).appending(&[blank(6)]));
        assert!(!Headway::default().appending(&[blank(6)]), "nobody has said that it may");
        let mut headway = leader(&[&[1, 2, 3]]);
        for vote in [Vote::new(2, 1), Vote::new_committed(2, 2), Vote::new(3, 3)] {
            headway.voted(&vote);
            assert!(!headway.appending(&[blank(6)]), "{vote}");
        }
        headway.voted(&Vote::new_committed(4, 1));
        assert!(headway.appending(&[blank(6)]));
    }

    #[test]
    fn it_knows_the_members_that_the_log_names_last() {
        let mut headway = leader(&[&[1, 2, 3]]);
        assert!(headway.appending(&[blank(6), change(7, &[&[1, 2, 3], &[1]])]));
        assert!(!headway.appending(&[change(8, &[&[1]])]), "it is alone from this entry on");
        assert!(!headway.appending(&[blank(9)]));
        headway.truncated(8);
        assert!(headway.appending(&[blank(8)]));
        headway.purged(7);
        headway.truncated(8);
        assert!(headway.appending(&[blank(8)]), "what was purged is not truncated");
        let since = Some(blank(20).log_id);
        headway.named(&StoredMembership::new(since, members(&[&[1]])));
        assert!(!headway.appending(&[blank(21)]), "a snapshot has said so");
        headway.truncated(5);
        assert!(!headway.appending(&[blank(5)]), "nothing is known any more");
    }
}
