//! Answers on the wire: each answer of a group as Kafka's message in the version the client speaks. Owns what versions
//! cannot say and what they say instead; decides nothing.

use super::{
    error::GroupError,
    machine::{Answer, Description, Joined, MemberDescription, MemberRef, Synced},
};
use crate::kafka::message;
use bytes::Bytes;
use kafka_protocol::{
    messages::{
        GroupId, HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, SyncGroupResponse,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
        join_group_response::JoinGroupResponseMember,
        leave_group_response::MemberResponse,
    },
    protocol::{Encodable, StrBytes},
};
use protocol::service::{Reply, coordinator::CoordinatorError};

/// Where an answer goes, and in which version.
#[derive(Debug)]
pub(super) struct Responder {
    reply: Reply<Bytes, CoordinatorError>,
    /// Kafka's version of the answer.
    pub(super) version: i16,
}

impl Responder {
    pub(super) const fn new(reply: Reply<Bytes, CoordinatorError>, version: i16) -> Self {
        Self { reply, version }
    }

    /// Answers with a message.
    pub(super) fn send<M: Encodable>(self, message: &M) {
        let body = message::encode(message, self.version).map_err(|problem| {
            tracing::error!(%problem, "an answer of a group coordinator cannot be encoded");
            CoordinatorError::Unavailable { reason: problem.to_string() }
        });
        self.reply.send(body);
    }

    /// Answers that the coordinator as a whole cannot.
    pub(super) fn refuse(self, error: CoordinatorError) {
        self.reply.send(Err(error));
    }

    /// Answers with what a group said.
    pub(super) fn answer(self, answer: Answer) {
        match answer {
            Answer::Joined(joined) => self.joined(joined),
            Answer::JoinRefused(error, member_id) => self.join_refused(error, member_id),
            Answer::Synced(result) => self.synced(result),
            Answer::Beat(result) => {
                self.send(&HeartbeatResponse::default().with_error_code(GroupError::code_of(&result)));
            }
            Answer::Left(members) => self.left(members),
        }
    }

    fn joined(self, joined: Joined) {
        let member = |m: super::machine::JoinedMember| {
            JoinGroupResponseMember::default()
                .with_member_id(m.member_id.into())
                .with_group_instance_id(m.instance_id.map(StrBytes::from))
                .with_metadata(m.metadata)
        };
        let response = JoinGroupResponse::default()
            .with_generation_id(joined.generation)
            .with_protocol_type(joined.protocol_type.map(StrBytes::from))
            .with_protocol_name(self.protocol_name(joined.protocol))
            .with_leader(joined.leader.into())
            .with_skip_assignment(joined.skip_assignment && self.version >= 9)
            .with_member_id(joined.member_id.into())
            .with_members(joined.members.into_iter().map(member).collect());
        self.send(&response);
    }

    pub(super) fn join_refused(self, error: GroupError, member_id: String) {
        let response = JoinGroupResponse::default()
            .with_error_code(error.code())
            .with_generation_id(-1)
            .with_protocol_type(None)
            .with_protocol_name(self.protocol_name(None))
            .with_member_id(member_id.into());
        self.send(&response);
    }

    /// Before version 7 a protocol name cannot be null.
    fn protocol_name(&self, name: Option<String>) -> Option<StrBytes> {
        let name = name.map(StrBytes::from);
        if self.version >= 7 { name } else { Some(name.unwrap_or_default()) }
    }

    fn synced(self, result: Result<Synced, GroupError>) {
        let code = GroupError::code_of(&result);
        let response = match result {
            Ok(synced) => SyncGroupResponse::default()
                .with_protocol_type(synced.protocol_type.map(StrBytes::from))
                .with_protocol_name(synced.protocol.map(StrBytes::from))
                .with_assignment(synced.assignment),
            Err(_) => SyncGroupResponse::default().with_protocol_type(None).with_protocol_name(None),
        };
        self.send(&response.with_error_code(code));
    }

    pub(super) fn left(self, members: Vec<(MemberRef, Result<(), GroupError>)>) {
        if self.version < 3 {
            let code = members.first().map_or(0, |(_, result)| GroupError::code_of(result));
            return self.send(&LeaveGroupResponse::default().with_error_code(code));
        }
        let member = |(member, result): (MemberRef, Result<(), GroupError>)| {
            MemberResponse::default()
                .with_member_id(member.member_id.into())
                .with_group_instance_id(member.instance_id.map(StrBytes::from))
                .with_error_code(GroupError::code_of(&result))
        };
        self.send(&LeaveGroupResponse::default().with_members(members.into_iter().map(member).collect()));
    }
}

/// A group id on the wire.
pub(super) fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from(group.to_owned()))
}

/// A group as DescribeGroups shows it.
pub(super) fn described(group: &str, description: Description) -> DescribedGroup {
    let member = |m: MemberDescription| {
        DescribedGroupMember::default()
            .with_member_id(m.member_id.into())
            .with_group_instance_id(m.instance_id.map(StrBytes::from))
            .with_client_id(m.client_id.into())
            .with_client_host(m.client_host.into())
            .with_member_metadata(m.metadata)
            .with_member_assignment(m.assignment)
    };
    DescribedGroup::default()
        .with_group_id(group_id(group))
        .with_group_state(StrBytes::from_static_str(description.state.name()))
        .with_protocol_type(description.protocol_type.into())
        .with_protocol_data(description.protocol.into())
        .with_members(description.members.into_iter().map(member).collect())
}

/// A group that cannot be described. Before version 6 a group that does not exist is a dead one, without error.
pub(super) fn not_described(group: &str, error: GroupError, version: i16) -> DescribedGroup {
    let dead = error == GroupError::NotFound;
    let described = DescribedGroup::default().with_group_id(group_id(group));
    let described = if dead { described.with_group_state(StrBytes::from_static_str("Dead")) } else { described };
    if dead && version < 6 {
        return described;
    }
    let message = (version >= 6).then(|| StrBytes::from(error.to_string()));
    described.with_error_code(error.code()).with_error_message(message)
}
