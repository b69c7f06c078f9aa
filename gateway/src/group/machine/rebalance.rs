//! Rebalancing: when it begins, whom it waits for, when it ends, and all deadlines of the group.

use super::{Answer, Command, Group, GroupError, GroupState, Joined, JoinedMember, Now, member::Member};
use std::time::Duration;

/// The first rebalance of an empty group is put off while members keep arriving (KIP-134), so that a group that starts
/// up does not rebalance once per member.
#[derive(Debug, Clone, Copy)]
pub(super) struct InitialDelay {
    /// How much longer it may be put off in all.
    pub(super) remaining: Duration,
    /// A member arrived since the last time.
    pub(super) new_member: bool,
}

impl Group {
    /// Begins a rebalance, or lets a running one end if everyone is there.
    pub(super) fn rebalance(&mut self, now: Now) {
        match self.state {
            GroupState::Empty | GroupState::CompletingRebalance | GroupState::Stable => self.prepare_rebalance(now),
            GroupState::PreparingRebalance => self.maybe_complete_join(now),
            GroupState::Dead => {}
        }
    }

    fn prepare_rebalance(&mut self, now: Now) {
        let was_empty = self.state == GroupState::Empty;
        if self.state == GroupState::CompletingRebalance {
            self.abandon_assignment(GroupError::RebalanceInProgress);
        }
        self.sync_deadline = None;
        let patience = self.rebalance_timeout();
        self.enter(GroupState::PreparingRebalance, now);
        if was_empty {
            let delay = self.limits.initial_rebalance_delay;
            if delay.is_zero() {
                self.complete_join(now);
                return;
            }
            self.initial = Some(InitialDelay { remaining: patience.saturating_sub(delay), new_member: false });
            self.wait_for_joins(now, delay);
        } else {
            self.initial = None;
            self.wait_for_joins(now, patience);
            self.maybe_complete_join(now);
        }
    }

    /// Everyone who waits for an assignment must join again; nobody has one.
    pub(super) fn abandon_assignment(&mut self, error: GroupError) {
        self.assigning = None;
        for member in self.members.values_mut() {
            member.assignment.clear();
            if let Some(token) = member.awaiting_sync.take() {
                self.out.push(Command::Reply(token, Answer::Synced(Err(error))));
            }
        }
        let waiting: Vec<_> = self.members.values().map(|m| m.deadline).collect();
        waiting.into_iter().for_each(|deadline| self.arm(deadline));
    }

    fn wait_for_joins(&mut self, now: Now, patience: Duration) {
        let deadline = now.monotonic.saturating_add(patience);
        self.join_deadline = Some(deadline);
        self.arm(deadline);
    }

    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|m| m.rebalance_timeout).max().unwrap_or_default()
    }

    /// Ends the rebalance if everyone has joined. The first one of an empty group always waits for its delay.
    pub(super) fn maybe_complete_join(&mut self, now: Now) {
        let everyone = self.pending.is_empty() && self.members.values().all(|m| m.awaiting_join.is_some());
        if self.state == GroupState::PreparingRebalance && self.initial.is_none() && everyone {
            self.complete_join(now);
        }
    }

    fn on_join_deadline(&mut self, now: Now) {
        if let Some(initial) = self.initial.filter(|i| i.new_member && !i.remaining.is_zero()) {
            let delay = self.limits.initial_rebalance_delay.min(initial.remaining);
            self.initial = Some(InitialDelay { remaining: initial.remaining.saturating_sub(delay), new_member: false });
            self.wait_for_joins(now, delay);
            return;
        }
        self.complete_join(now);
    }

    fn complete_join(&mut self, now: Now) {
        // Static members keep their place until their session ends: they come back without a rebalance (KIP-345).
        self.members.retain(|_, m| m.awaiting_join.is_some() || m.instance_id.is_some());
        self.initial = None;
        if !self.members.is_empty() && !self.elect_leader() {
            // Only absent static members are left; their sessions decide.
            let patience = self.rebalance_timeout();
            self.wait_for_joins(now, patience);
            return;
        }
        self.join_deadline = None;
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.enter(GroupState::Empty, now);
            self.subscribed = self.topics_of_members();
            self.persist(None);
            return;
        }
        self.protocol = self.vote();
        self.enter(GroupState::CompletingRebalance, now);
        self.subscribed = self.topics_of_members();
        let deadline = now.monotonic.saturating_add(self.rebalance_timeout());
        self.sync_deadline = Some(deadline);
        self.arm(deadline);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.synced = false;
            member.is_new = false;
            let token = member.awaiting_join.take();
            self.renew(&id, now);
            if let Some(token) = token {
                let joined = self.joined(&id);
                self.reply(token, Answer::Joined(joined));
            }
        }
    }

    /// Keeps the leader if it joined, else takes another member that did; `false` if none did.
    fn elect_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        if self.leader.as_ref().and_then(|id| self.members.get(id)).is_some_and(joined) {
            return true;
        }
        match self.members.iter().find(|(_, m)| joined(m)) {
            Some((id, _)) => {
                self.leader = Some(id.clone());
                true
            }
            None => false,
        }
    }

    /// The protocol with the most votes: each member votes for its first one that all members support.
    pub(super) fn vote(&self) -> Option<String> {
        let everyone_supports = |name: &String| self.members.values().all(|m| m.supports(name));
        let mut votes: Vec<(&String, usize)> = Vec::new();
        for member in self.members.values() {
            let Some((choice, _)) = member.protocols.iter().find(|(name, _)| everyone_supports(name)) else { continue };
            match votes.iter_mut().find(|(name, _)| *name == choice) {
                Some((_, count)) => *count += 1,
                None => votes.push((choice, 1)),
            }
        }
        // The first of several with the most votes, so that the choice does not depend on chance.
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
    }

    /// The answer to a member's join in the current generation.
    pub(super) fn joined(&self, id: &str) -> Joined {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let leads = self.leader.as_deref() == Some(id);
        let see = |(id, member): (&String, &Member)| JoinedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        Joined {
            member_id: id.to_owned(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            members: if leads { self.members.iter().map(see).collect() } else { Vec::new() },
            skip_assignment: false,
        }
    }

    pub(super) fn on_tick(&mut self, now: Now) {
        self.armed = None;
        let due = |deadline: Duration| deadline <= now.monotonic;
        let given_out = self.pending.len();
        self.pending.retain(|_, deadline| !due(*deadline));
        let dead = |(id, m): (&String, &Member)| (m.can_expire() && due(m.deadline)).then(|| id.clone());
        let dead: Vec<String> = self.members.iter().filter_map(dead).collect();
        for id in &dead {
            tracing::info!(member = %id, generation = self.generation, "member's session ended");
            self.remove(id, GroupError::UnknownMember);
        }
        if !dead.is_empty() {
            self.rebalance(now);
        } else if self.pending.len() < given_out {
            self.maybe_complete_join(now);
        }
        if self.sync_deadline.is_some_and(due) {
            self.on_sync_deadline(now);
        }
        if self.state == GroupState::PreparingRebalance && self.join_deadline.is_some_and(due) {
            self.on_join_deadline(now);
        }
        if let Some(next) = self.next_deadline() {
            self.arm(next);
        }
    }

    /// Members that never asked for their assignment are gone.
    fn on_sync_deadline(&mut self, now: Now) {
        self.sync_deadline = None;
        let absent = |(id, m): (&String, &Member)| (!m.synced).then(|| id.clone());
        let absent: Vec<String> = self.members.iter().filter_map(absent).collect();
        for id in &absent {
            tracing::info!(member = %id, generation = self.generation, "member did not ask for its assignment");
            self.remove(id, GroupError::UnknownMember);
        }
        if !absent.is_empty() {
            self.rebalance(now);
        }
    }

    /// When time next matters.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let members = self.members.values().filter(|m| m.can_expire()).map(|m| m.deadline);
        let phases = self.join_deadline.into_iter().chain(self.sync_deadline);
        members.chain(self.pending.values().copied()).chain(phases).min()
    }
}
