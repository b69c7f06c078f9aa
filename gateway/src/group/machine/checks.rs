//! What may be done to a group from outside of the membership: commits, deletion, expiry of offsets, descriptions.

use super::{Group, GroupError, GroupState, MemberRef, Now, member::Member};
use bytes::Bytes;
use protocol::id::Timestamp;
use std::collections::BTreeSet;

/// From when on committed offsets count as unused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// All of them, since the group lost its last member.
    SinceEmpty(Timestamp),
    /// Each since it was committed: nobody ever joined this group.
    SinceCommit,
    /// Each since it was committed, except of these topics.
    SinceCommitUnless(BTreeSet<String>),
    /// Never.
    Never,
}

/// A group as DescribeGroups shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// The state.
    pub(crate) state: GroupState,
    /// The protocol type; empty if nobody ever joined.
    pub(crate) protocol_type: String,
    /// The chosen protocol; empty unless stable.
    pub(crate) protocol: String,
    /// The members.
    pub(crate) members: Vec<MemberDescription>,
}

/// A member as DescribeGroups shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    /// The member's id.
    pub(crate) member_id: String,
    /// Its instance id, if it is static.
    pub(crate) instance_id: Option<String>,
    /// The client's name for itself.
    pub(crate) client_id: String,
    /// Where it connects from.
    pub(crate) client_host: String,
    /// Its metadata for the chosen protocol; empty unless stable.
    pub(crate) metadata: Bytes,
    /// Its assignment; empty unless stable.
    pub(crate) assignment: Bytes,
}

impl Group {
    /// The state.
    #[must_use]
    pub(crate) const fn state(&self) -> GroupState {
        self.state
    }

    /// The protocol type; empty if nobody ever joined.
    #[must_use]
    pub(crate) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    /// The generation; it grows with every rebalance.
    #[must_use]
    pub(crate) const fn generation(&self) -> i32 {
        self.generation
    }

    /// How many members it has.
    #[must_use]
    pub(crate) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Whether it holds nothing that anyone could miss, apart from offsets.
    #[must_use]
    pub(crate) fn is_unused(&self) -> bool {
        self.state == GroupState::Empty && self.pending.is_empty()
    }

    /// Whether a commit may be written. Generation -1 stands for a consumer outside of any group management. A member
    /// that commits is alive.
    pub(crate) fn admit_commit(&mut self, now: Now, member: &MemberRef, generation: i32) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => return Err(GroupError::NotAvailable),
            GroupState::Empty if generation < 0 => return Ok(()),
            _ => {}
        }
        if generation < 0 && member.member_id.is_empty() && member.instance_id.is_none() {
            // Not a member, and the group is managed by those that are.
            return Err(GroupError::UnknownMember);
        }
        self.identify(member)?;
        if generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        if self.state == GroupState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        self.renew(&member.member_id, now);
        Ok(())
    }

    /// Begins deletion: until [`Group::revive`] nobody can join or commit.
    pub(crate) fn bury(&mut self) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::NotFound),
            GroupState::Empty => {
                self.pending.clear();
                self.state = GroupState::Dead;
                Ok(())
            }
            _ => Err(GroupError::NonEmpty),
        }
    }

    /// The deletion could not be written.
    pub(crate) fn revive(&mut self) {
        if self.state == GroupState::Dead {
            self.state = GroupState::Empty;
        }
    }

    /// Whether offsets may be deleted by request at all; [`Group::is_subscribed`] decides per topic.
    pub(crate) fn admit_offset_delete(&self) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::NotFound),
            GroupState::Empty => Ok(()),
            _ if self.protocol_type() == super::subscription::CONSUMER => Ok(()),
            _ => Err(GroupError::NonEmpty),
        }
    }

    /// Whether a member is subscribed to a topic, as far as can be known.
    #[must_use]
    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        self.state != GroupState::Empty && self.subscribed.as_ref().is_some_and(|topics| topics.contains(topic))
    }

    /// From when on offsets count as unused.
    #[must_use]
    pub(crate) fn expiry(&self) -> Expiry {
        match (self.state, &self.protocol_type, &self.subscribed) {
            (GroupState::Empty, Some(_), _) => Expiry::SinceEmpty(self.since),
            (GroupState::Empty, None, _) => Expiry::SinceCommit,
            (GroupState::Stable, _, Some(topics)) => Expiry::SinceCommitUnless(topics.clone()),
            _ => Expiry::Never,
        }
    }

    /// The group as DescribeGroups shows it: only a stable one shows what was agreed on.
    #[must_use]
    pub(crate) fn describe(&self) -> Description {
        let stable = self.state == GroupState::Stable;
        let protocol = self.protocol.as_deref().filter(|_| stable).unwrap_or_default();
        let describe = |(id, member): (&String, &Member)| MemberDescription {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if stable { member.metadata(protocol) } else { Bytes::new() },
            assignment: if stable { member.assignment.clone() } else { Bytes::new() },
        };
        Description {
            state: self.state,
            protocol_type: self.protocol_type().to_owned(),
            protocol: protocol.to_owned(),
            members: self.members.iter().map(describe).collect(),
        }
    }
}
