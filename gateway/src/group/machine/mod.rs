//! One consumer group as a state machine of Kafka's classic protocol. Pure: an event and the time go in, commands come
//! out. It never reads a clock, draws a random number, or does I/O; the shard that owns the group does.
//!
//! ```text
//!            join                      all joined, or time is up
//!   Empty ─────────▶ PreparingRebalance ─────────────────────────▶ CompletingRebalance
//!     ▲                │    ▲      ▲                                  │        │
//!     └── nobody left ─┘    │      └── a member joins, leaves, dies ──┘        │ the leader's assignment
//!                           │                                                  ▼ is written
//!                           └───────── a member joins, leaves, dies ──────── Stable
//! ```
//!
//! Invariants: generations only grow; an assignment is handed out only after it was written to the log; a request that
//! waits is answered exactly once; a member that waits for us is never taken for dead.
//!
//! Cooperative rebalancing (KIP-429) needs nothing beyond this: clients simply join twice in a row.

mod checks;
mod event;
mod join;
mod leave;
mod member;
mod rebalance;
mod subscription;
mod sync;

pub(crate) use checks::{Description, Expiry, MemberDescription};
pub(crate) use event::{
    Answer, Command, Event, GroupLimits, Join, Joined, JoinedMember, MemberRef, Now, Sync, Synced, Token, WriteId,
};

use crate::group::{
    error::GroupError,
    records::{GroupMetadata, MemberMetadata},
};
use member::Member;
use protocol::id::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use sync::PendingAssignment;

/// The state of a group, under Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupState {
    /// No members; it may have offsets.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
    /// Being deleted.
    Dead,
}

impl GroupState {
    /// Kafka's name of the state.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    limits: GroupLimits,
    state: GroupState,
    /// When the group entered its state; what the expiry of offsets counts from.
    since: Timestamp,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Instance ids and the members that hold them.
    instances: BTreeMap<String, String>,
    /// Member ids that were given out and not used yet, and when each lapses (KIP-394).
    pending: BTreeMap<String, Duration>,
    /// In `PreparingRebalance`: when waiting ends.
    join_deadline: Option<Duration>,
    /// In the first rebalance of an empty group: how much longer it may be put off when members arrive.
    initial: Option<rebalance::InitialDelay>,
    /// When members that have not asked for their assignment are removed.
    sync_deadline: Option<Duration>,
    /// The assignment that is being written.
    assigning: Option<PendingAssignment>,
    /// Replaced static members whose answer waits for a write.
    replacing: BTreeMap<WriteId, join::Replacement>,
    /// The topics of the current generation's consumers; none if they cannot be known.
    subscribed: Option<BTreeSet<String>>,
    next_write: u64,
    armed: Option<Duration>,
    out: Vec<Command>,
}

impl Group {
    /// A group that nobody has joined yet.
    #[must_use]
    pub(crate) const fn new(limits: GroupLimits, since: Timestamp) -> Self {
        Self {
            limits,
            state: GroupState::Empty,
            since,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_deadline: None,
            initial: None,
            sync_deadline: None,
            assigning: None,
            replacing: BTreeMap::new(),
            subscribed: None,
            next_write: 0,
            armed: None,
            out: Vec::new(),
        }
    }

    /// The group as it was last written: stable if it had members, which then have one session timeout to be heard of.
    /// Send [`Event::Tick`] once to arm its timer.
    #[must_use]
    pub(crate) fn restore(stored: &GroupMetadata, limits: GroupLimits, now: Now) -> Self {
        let since = if stored.since == Timestamp::NONE { now.wall } else { stored.since };
        let mut group = Self::new(limits, since);
        group.generation = stored.generation;
        group.protocol_type = Some(stored.protocol_type.clone()).filter(|t| !t.is_empty());
        group.protocol = stored.protocol.clone();
        group.leader = stored.leader.clone();
        for member in &stored.members {
            let restored = restore_member(member, stored.protocol.as_deref().unwrap_or_default(), now);
            if let Some(instance) = &restored.instance_id {
                group.instances.insert(instance.clone(), member.member_id.clone());
            }
            group.members.insert(member.member_id.clone(), restored);
        }
        if let Some(first) = group.members.keys().next() {
            group.state = GroupState::Stable;
            let leader = group.leader.take().filter(|id| group.members.contains_key(id));
            group.leader = leader.or_else(|| Some(first.clone()));
        }
        group.subscribed = group.topics_of_members();
        group
    }

    /// Takes an event and says what to do, in order.
    pub(crate) fn handle(&mut self, now: Now, event: Event) -> Vec<Command> {
        match event {
            Event::Join(token, join) => self.on_join(now, token, *join),
            Event::Sync(token, sync) => self.on_sync(now, token, sync),
            Event::Heartbeat(token, member, generation) => {
                let answer = self.on_heartbeat(now, &member, generation);
                self.reply(token, Answer::Beat(answer));
            }
            Event::Leave(token, members) => self.on_leave(now, token, members),
            Event::Tick => self.on_tick(now),
            Event::Persisted(write, outcome) => self.on_persisted(now, write, outcome),
        }
        #[cfg(any(test, feature = "invariants"))]
        self.check_invariants();
        std::mem::take(&mut self.out)
    }

    /// Settings may change while a group lives.
    pub(crate) const fn set_limits(&mut self, limits: GroupLimits) {
        self.limits = limits;
    }

    fn reply(&mut self, token: Token, answer: Answer) {
        self.out.push(Command::Reply(token, answer));
    }

    /// Orders a tick at `deadline`, unless an earlier one is ordered already.
    fn arm(&mut self, deadline: Duration) {
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.armed = Some(deadline);
            self.out.push(Command::ArmTimer(deadline));
        }
    }

    /// Orders the group's metadata to be written, with these assignments.
    fn persist(&mut self, assignments: Option<&BTreeMap<String, bytes::Bytes>>) -> WriteId {
        let write = WriteId(self.next_write);
        self.next_write += 1;
        let metadata = self.metadata(assignments);
        self.out.push(Command::Persist(write, Box::new(metadata)));
        write
    }

    fn metadata(&self, assignments: Option<&BTreeMap<String, bytes::Bytes>>) -> GroupMetadata {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let member = |(id, member): (&String, &Member)| MemberMetadata {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout,
            session_timeout: member.session_timeout,
            subscription: member.metadata(protocol),
            assignment: match assignments {
                Some(new) => new.get(id).cloned().unwrap_or_default(),
                None => member.assignment.clone(),
            },
        };
        GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            since: self.since,
            members: self.members.iter().map(member).collect(),
        }
    }

    fn enter(&mut self, state: GroupState, now: Now) {
        self.state = state;
        self.since = now.wall;
    }

    /// A member was heard of: it has a whole session timeout again.
    fn renew(&mut self, id: &str, now: Now) {
        let Some(member) = self.members.get_mut(id) else { return };
        let deadline = now.monotonic.saturating_add(member.session_timeout);
        member.deadline = deadline;
        self.arm(deadline);
    }

    /// The topics of all members' subscriptions, if they are consumers and say it in the known form.
    fn topics_of_members(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(subscription::CONSUMER) {
            return None;
        }
        let Some(protocol) = self.protocol.as_deref() else {
            return self.members.is_empty().then(BTreeSet::new);
        };
        let mut all = BTreeSet::new();
        for member in self.members.values() {
            all.append(&mut subscription::topics(member.metadata(protocol))?);
        }
        Some(all)
    }

    #[cfg(any(test, feature = "invariants"))]
    fn check_invariants(&self) {
        let waits = |m: &Member| m.awaiting_join.is_some();
        match self.state {
            GroupState::Empty | GroupState::Dead => assert!(self.members.is_empty(), "an empty group has no members"),
            GroupState::PreparingRebalance => assert!(self.join_deadline.is_some(), "a rebalance has a deadline"),
            GroupState::CompletingRebalance | GroupState::Stable => {
                assert!(!self.members.is_empty(), "a generation has members");
                assert!(!self.members.values().any(waits), "no join waits outside of a rebalance");
                let leader = self.leader.as_ref().expect("a generation has a leader");
                assert!(self.members.contains_key(leader), "the leader is a member");
                assert!(self.protocol.is_some(), "a generation has a protocol");
            }
        }
        let deadlines = self.next_deadline();
        assert!(deadlines.is_none_or(|d| self.armed.is_some_and(|a| a <= d)), "every deadline has a timer");
        for (instance, id) in &self.instances {
            let holder = self.members.get(id).and_then(|m| m.instance_id.as_ref());
            assert_eq!(holder, Some(instance), "an instance id belongs to a member");
        }
    }
}

fn restore_member(stored: &MemberMetadata, protocol: &str, now: Now) -> Member {
    Member {
        instance_id: stored.instance_id.clone(),
        client_id: stored.client_id.clone(),
        client_host: stored.client_host.clone(),
        session_timeout: stored.session_timeout,
        rebalance_timeout: stored.rebalance_timeout,
        protocols: vec![(protocol.to_owned(), stored.subscription.clone())],
        assignment: stored.assignment.clone(),
        deadline: now.monotonic.saturating_add(stored.session_timeout),
        is_new: false,
        awaiting_join: None,
        awaiting_sync: None,
        synced: true,
    }
}

#[cfg(test)]
mod tests;
