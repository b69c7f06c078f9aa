//! Members that leave or are removed. Keeps the rule that a removed member's waiting requests are answered.

use super::{Answer, Group, GroupError, GroupState, MemberRef, Now, Token};

impl Group {
    pub(super) fn on_leave(&mut self, now: Now, token: Token, members: Vec<MemberRef>) {
        let before = self.members.len();
        let pending = self.pending.len();
        let left = |member: MemberRef| {
            let result = self.leave(&member);
            (member, result)
        };
        let results: Vec<_> = members.into_iter().map(left).collect();
        self.reply(token, Answer::Left(results));
        if self.members.len() < before {
            self.rebalance(now);
        } else if self.pending.len() < pending {
            self.maybe_complete_join(now);
        }
    }

    fn leave(&mut self, member: &MemberRef) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::NotAvailable);
        }
        let id = match &member.instance_id {
            // An administrator names only the instance; a member names both.
            Some(instance) => match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(holder) if !member.member_id.is_empty() && *holder != member.member_id => {
                    return Err(GroupError::FencedInstance);
                }
                Some(holder) => holder.clone(),
            },
            None => member.member_id.clone(),
        };
        if self.pending.remove(&id).is_some() {
            return Ok(());
        }
        if self.remove(&id, GroupError::UnknownMember) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    /// Takes a member out and answers what it waits for with `error`; `false` if there is none. The caller goes on with
    /// [`Group::rebalance`].
    pub(super) fn remove(&mut self, id: &str, error: GroupError) -> bool {
        let Some(member) = self.members.remove(id) else { return false };
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        if let Some(token) = member.awaiting_join {
            self.reply(token, Answer::JoinRefused(error, id.to_owned()));
        }
        if let Some(token) = member.awaiting_sync {
            self.reply(token, Answer::Synced(Err(error)));
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        true
    }
}
