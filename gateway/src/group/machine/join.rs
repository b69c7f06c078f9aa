//! JoinGroup: who may become a member, and whether that takes a rebalance.

use super::{Answer, Group, GroupError, GroupState, Join, MemberRef, Now, Token, member::Member, subscription};
use std::time::Duration;

/// How long a member that does not know its id yet may wait for a rebalance before it is taken for dead.
const NEW_MEMBER_PATIENCE: Duration = Duration::from_secs(300);

/// A static member that came back under a new id; its answer waits for the write.
#[derive(Debug)]
pub(super) struct Replacement {
    token: Token,
    member_id: String,
    /// The leader before the replacement, for clients that cannot be told to skip the assignment.
    old_leader: Option<String>,
    may_skip_assignment: bool,
}

impl Group {
    pub(super) fn on_join(&mut self, now: Now, token: Token, join: Join) {
        let id = join.member_id.clone();
        let result = match self.admit_join(&join) {
            Ok(()) if id.is_empty() => self.join_new(now, token, join),
            Ok(()) => self.join_known(now, token, join),
            Err(error) => Err((error, id)),
        };
        if let Err((error, id)) = result {
            self.reply(token, Answer::JoinRefused(error, id));
        }
        self.maybe_complete_join(now);
    }

    fn admit_join(&mut self, join: &Join) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::NotAvailable);
        }
        if join.session_timeout < self.limits.min_session || join.session_timeout > self.limits.max_session {
            return Err(GroupError::InvalidSessionTimeout);
        }
        if !self.has_room(&join.member_id) {
            self.pending.remove(&join.member_id);
            return Err(GroupError::Full);
        }
        if !self.fits(join) {
            return Err(GroupError::InconsistentProtocol);
        }
        Ok(())
    }

    fn has_room(&self, id: &str) -> bool {
        let known = self.members.get(id);
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                let waiting = self.members.values().filter(|m| m.awaiting_join.is_some()).count();
                known.is_some_and(|m| m.awaiting_join.is_some()) || waiting < self.limits.max_size
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                known.is_some() || self.members.len() < self.limits.max_size
            }
        }
    }

    /// Whether the member speaks one protocol that all members speak.
    fn fits(&self, join: &Join) -> bool {
        if self.members.is_empty() {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        let common = |(name, _): &(String, _)| self.members.values().all(|m| m.supports(name));
        self.protocol_type.as_deref() == Some(join.protocol_type.as_str()) && join.protocols.iter().any(common)
    }

    fn join_new(&mut self, now: Now, token: Token, join: Join) -> Result<(), (GroupError, String)> {
        let id = format!("{}-{}", join.instance_id.as_ref().unwrap_or(&join.client_id), join.fresh);
        if let Some(instance) = &join.instance_id {
            match self.instances.get(instance).cloned() {
                Some(old) => self.replace_static(now, token, &old, id, join),
                None => self.add(now, token, id, join),
            }
            return Ok(());
        }
        if join.require_known_member {
            let deadline = now.monotonic.saturating_add(join.session_timeout);
            self.pending.insert(id.clone(), deadline);
            self.arm(deadline);
            return Err((GroupError::MemberIdRequired, id));
        }
        self.add(now, token, id, join);
        Ok(())
    }

    fn add(&mut self, now: Now, token: Token, id: String, join: Join) {
        self.protocol_type = Some(join.protocol_type.clone());
        if let Some(instance) = &join.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        if let Some(initial) = &mut self.initial {
            initial.new_member = true;
        }
        let deadline = now.monotonic.saturating_add(NEW_MEMBER_PATIENCE);
        self.members.insert(id, Member::new(join, Some(token), deadline));
        self.arm(deadline);
        self.rebalance(now);
    }

    fn join_known(&mut self, now: Now, token: Token, join: Join) -> Result<(), (GroupError, String)> {
        let id = join.member_id.clone();
        if self.pending.contains_key(&id) {
            if join.instance_id.is_some() {
                return Err((GroupError::UnknownMember, id));
            }
            self.pending.remove(&id);
            self.add(now, token, id, join);
            return Ok(());
        }
        let member = MemberRef { member_id: id.clone(), instance_id: join.instance_id.clone() };
        self.identify(&member).map_err(|error| (error, id.clone()))?;
        let unchanged = self.members.get(&id).is_some_and(|m| m.protocols == join.protocols);
        let leads = self.leader.as_deref() == Some(&id);
        match self.state {
            // The answer to its last join was lost; or a follower that has nothing new to say.
            GroupState::CompletingRebalance if unchanged => self.repeat(now, token, &id),
            GroupState::Stable if unchanged && !leads => self.repeat(now, token, &id),
            GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Stable => {
                self.rejoin(token, &id, join);
                self.rebalance(now);
            }
            GroupState::Empty | GroupState::Dead => return Err((GroupError::UnknownMember, id)),
        }
        Ok(())
    }

    /// Answers with the current generation again.
    fn repeat(&mut self, now: Now, token: Token, id: &str) {
        self.renew(id, now);
        let joined = self.joined(id);
        self.reply(token, Answer::Joined(joined));
    }

    /// Parks a known member's join. The one it may have parked before was lost with its connection.
    fn rejoin(&mut self, token: Token, id: &str, join: Join) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.update(join);
        if let Some(lost) = member.awaiting_join.replace(token) {
            self.reply(lost, Answer::JoinRefused(GroupError::RebalanceInProgress, id.to_owned()));
        }
    }

    /// A static member came back: it takes over the place of its old self, which is fenced from now on. In a stable
    /// group nobody else notices, unless it changes what the group agreed on (KIP-345).
    fn replace_static(&mut self, now: Now, token: Token, old: &str, id: String, join: Join) {
        let Some(mut member) = self.members.remove(old) else { return };
        if let Some(fenced) = member.awaiting_join.take() {
            self.reply(fenced, Answer::JoinRefused(GroupError::FencedInstance, old.to_owned()));
        }
        if let Some(fenced) = member.awaiting_sync.take() {
            self.reply(fenced, Answer::Synced(Err(GroupError::FencedInstance)));
        }
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        let old_leader = self.leader.clone();
        if old_leader.as_deref() == Some(old) {
            self.leader = Some(id.clone());
        }
        let may_skip_assignment = join.may_skip_assignment;
        let same_topics = self.asks_for_the_same(&member, &join);
        member.update(join);
        self.members.insert(id.clone(), member);
        self.renew(&id, now);
        if self.state == GroupState::Stable && same_topics && self.vote() == self.protocol {
            let write = self.persist(None);
            let waiting = Replacement { token, member_id: id, old_leader, may_skip_assignment };
            self.replacing.insert(write, waiting);
            return;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.awaiting_join = Some(token);
        }
        self.rebalance(now);
    }

    /// Whether a static member's subscription names the same topics as before. What it owns, which is also part of the
    /// subscription, is naturally different after a restart; other protocol types are opaque and taken as unchanged.
    fn asks_for_the_same(&self, member: &Member, join: &Join) -> bool {
        if self.protocol_type.as_deref() != Some(subscription::CONSUMER) {
            return true;
        }
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let new = join.protocols.iter().find(|(name, _)| name == protocol).map(|(_, m)| m.clone()).unwrap_or_default();
        subscription::topics(member.metadata(protocol)) == subscription::topics(new)
    }

    pub(super) fn finish_replacement(&mut self, now: Now, waiting: Replacement, outcome: Result<(), GroupError>) {
        let Replacement { token, member_id, old_leader, may_skip_assignment } = waiting;
        let error = match outcome {
            Err(error) => Some(error),
            Ok(()) if !self.members.contains_key(&member_id) => Some(GroupError::FencedInstance),
            Ok(()) => None,
        };
        if let Some(error) = error {
            self.reply(token, Answer::JoinRefused(error, String::new()));
            return;
        }
        self.renew(&member_id, now);
        let mut joined = self.joined(&member_id);
        let leads = joined.leader == member_id;
        if may_skip_assignment {
            joined.skip_assignment = leads;
        } else if leads {
            // Told that it leads, an old client would assign anew, and nobody would listen.
            joined.leader = old_leader.unwrap_or_default();
            joined.members.clear();
        }
        self.reply(token, Answer::Joined(joined));
    }
}
