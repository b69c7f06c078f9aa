//! Handing out assignments, and heartbeats. Keeps the rule that an assignment is in the log before any member sees it.

use super::{Answer, Command, Group, GroupError, GroupState, MemberRef, Now, Sync, Synced, Token, WriteId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The leader's assignment while it is being written.
#[derive(Debug)]
pub(super) struct PendingAssignment {
    write: WriteId,
    assignments: BTreeMap<String, Bytes>,
}

impl Group {
    /// Whether a request comes from a member, and from the one that holds its instance id.
    pub(super) fn identify(&self, member: &MemberRef) -> Result<(), GroupError> {
        if let Some(instance) = &member.instance_id {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(holder) if *holder != member.member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.members.contains_key(&member.member_id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    pub(super) fn on_heartbeat(&mut self, now: Now, member: &MemberRef, generation: i32) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::NotAvailable);
        }
        self.identify(member)?;
        if generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        self.renew(&member.member_id, now);
        match self.state {
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            // A member may beat as soon as its join is answered.
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMember),
        }
    }

    pub(super) fn on_sync(&mut self, now: Now, token: Token, sync: Sync) {
        if let Err(error) = self.admit_sync(&sync) {
            self.reply(token, Answer::Synced(Err(error)));
            return;
        }
        let id = sync.member.member_id;
        let assigned = self.state == GroupState::Stable;
        if let Some(member) = self.members.get_mut(&id) {
            member.synced = true;
            // A client that lost its connection asks again; the answer to the lost request no longer matters.
            let parked = if assigned { member.awaiting_sync.take() } else { member.awaiting_sync.replace(token) };
            if let Some(lost) = parked {
                self.reply(lost, Answer::Synced(Err(GroupError::RebalanceInProgress)));
            }
        }
        if self.members.values().all(|m| m.synced) {
            self.sync_deadline = None;
        }
        if assigned {
            self.renew(&id, now);
            let answer = self.synced(&id);
            self.reply(token, Answer::Synced(Ok(answer)));
        } else if self.leader.as_deref() == Some(&id) && self.assigning.is_none() {
            self.write_assignment(sync.assignments);
        }
    }

    fn admit_sync(&self, sync: &Sync) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::NotAvailable);
        }
        self.identify(&sync.member)?;
        if sync.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |asked: &Option<String>, ours: &Option<String>| asked.is_some() && asked != ours;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        match self.state {
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMember),
        }
    }

    fn write_assignment(&mut self, given: Vec<(String, Bytes)>) {
        let ours = |(id, bytes): (String, Bytes)| self.members.contains_key(&id).then_some((id, bytes));
        let assignments: BTreeMap<String, Bytes> = given.into_iter().filter_map(ours).collect();
        let write = self.persist(Some(&assignments));
        self.assigning = Some(PendingAssignment { write, assignments });
    }

    pub(super) fn on_persisted(&mut self, now: Now, write: WriteId, outcome: Result<(), GroupError>) {
        if let Some(replacement) = self.replacing.remove(&write) {
            self.finish_replacement(now, replacement, outcome);
        }
        // A rebalance that began meanwhile has dropped the assignment, and told everyone who waited for it.
        let Some(PendingAssignment { assignments, .. }) = self.assigning.take_if(|a| a.write == write) else { return };
        if let Err(error) = outcome {
            self.abandon_assignment(error);
            self.rebalance(now);
            return;
        }
        self.enter(GroupState::Stable, now);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.assignment = assignments.get(&id).cloned().unwrap_or_default();
            let Some(token) = member.awaiting_sync.take() else { continue };
            self.renew(&id, now);
            let answer = self.synced(&id);
            self.out.push(Command::Reply(token, Answer::Synced(Ok(answer))));
        }
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default(),
        }
    }
}
