//! Join, Sync, Heartbeat and Leave: from the wire to the group. Everything a group keeps is copied here, so that no
//! member holds on to the buffer its request came in.

use super::{
    super::{
        answer::Responder,
        error::GroupError,
        machine::{Answer, Event, Join, MemberRef, Sync},
    },
    state::{Context, State},
};
use bytes::Bytes;
use kafka_protocol::{
    messages::{
        HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest, leave_group_request::MemberIdentity,
    },
    protocol::StrBytes,
};
use std::time::Duration;

/// The client behind a request.
#[derive(Debug, Clone)]
pub(in crate::group) struct Client {
    /// Its name for itself.
    pub(in crate::group) id: String,
    /// Where it connects from.
    pub(in crate::group) host: String,
    /// A random string, should it become a member.
    pub(in crate::group) fresh: String,
}

fn text(text: &StrBytes) -> String {
    text.as_str().to_owned()
}

fn optional(instance: &Option<StrBytes>) -> Option<String> {
    instance.as_ref().map(text)
}

fn duration(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

impl State {
    pub(super) fn join(&mut self, ctx: &Context, responder: Responder, request: JoinGroupRequest, client: Client) {
        let (name, member_id) = (text(&request.group_id), text(&request.member_id));
        let version = responder.version;
        if name.is_empty() {
            return responder.join_refused(GroupError::InvalidGroupId, member_id);
        }
        if !member_id.is_empty() && !self.groups.contains_key(&name) {
            return responder.join_refused(GroupError::UnknownMember, member_id);
        }
        let session_timeout = duration(request.session_timeout_ms);
        let protocol = |p: &kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol| {
            (text(&p.name), Bytes::copy_from_slice(&p.metadata))
        };
        let join = Join {
            member_id,
            instance_id: optional(&request.group_instance_id),
            client_id: client.id,
            client_host: client.host,
            session_timeout,
            rebalance_timeout: if version >= 1 { duration(request.rebalance_timeout_ms) } else { session_timeout },
            protocol_type: text(&request.protocol_type),
            protocols: request.protocols.iter().map(protocol).collect(),
            require_known_member: version >= 4,
            may_skip_assignment: version >= 9,
            fresh: client.fresh,
        };
        self.entry(ctx, &name);
        let token = self.park(responder);
        self.drive(ctx, &name, Event::Join(token, Box::new(join)));
        self.drop_if_unused(&name);
    }

    pub(super) fn sync(&mut self, ctx: &Context, responder: Responder, request: SyncGroupRequest) {
        let name = text(&request.group_id);
        if !self.groups.contains_key(&name) {
            return responder.answer(Answer::Synced(Err(GroupError::UnknownMember)));
        }
        let assignments = request.assignments.iter();
        let sync = Sync {
            member: MemberRef {
                member_id: text(&request.member_id),
                instance_id: optional(&request.group_instance_id),
            },
            generation: request.generation_id,
            protocol_type: optional(&request.protocol_type),
            protocol: optional(&request.protocol_name),
            assignments: assignments.map(|a| (text(&a.member_id), Bytes::copy_from_slice(&a.assignment))).collect(),
        };
        let token = self.park(responder);
        self.drive(ctx, &name, Event::Sync(token, sync));
    }

    pub(super) fn heartbeat(&mut self, ctx: &Context, responder: Responder, request: &HeartbeatRequest) {
        let name = request.group_id.as_str();
        if !self.groups.contains_key(name) {
            return responder.answer(Answer::Beat(Err(GroupError::UnknownMember)));
        }
        let member =
            MemberRef { member_id: text(&request.member_id), instance_id: optional(&request.group_instance_id) };
        let token = self.park(responder);
        self.drive(ctx, name, Event::Heartbeat(token, member, request.generation_id));
    }

    pub(super) fn leave(&mut self, ctx: &Context, responder: Responder, request: &LeaveGroupRequest) {
        let name = request.group_id.as_str();
        let several = |m: &MemberIdentity| MemberRef {
            member_id: text(&m.member_id),
            instance_id: optional(&m.group_instance_id),
        };
        let members = if responder.version >= 3 {
            request.members.iter().map(several).collect()
        } else {
            vec![MemberRef { member_id: text(&request.member_id), instance_id: None }]
        };
        if !self.groups.contains_key(name) {
            return responder.left(members.into_iter().map(|m| (m, Err(GroupError::UnknownMember))).collect());
        }
        let token = self.park(responder);
        self.drive(ctx, name, Event::Leave(token, members));
    }
}
